"""What a page cites, listed at its end: the entries and numbers are those of the page "References".

The section is made while a page is read, so that the page's contents name it, and filled once all
pages are read and the numbers are known. The notebooks themselves stay without it: elsewhere their
citations carry author, year and link. Jupyter Book loads this file as a Sphinx extension
(`_config.yml`).
"""

from docutils import nodes
from pybtex_docutils import Backend
from sphinxcontrib.bibtex.transforms import node_text_transform

CLASS = "chapter-references"


def add_section(app, doctree):
    """Add an empty section "References" to a page that cites; the front page stays without."""
    page = app.env.docname
    cited = [ref for ref in app.env.get_domain("cite").citation_refs if ref.docname == page]
    top = next(iter(doctree.findall(nodes.section)), None)
    if top is not None and cited and page != app.config.root_doc:
        section = nodes.section(ids=["references"])
        section += [nodes.title(text="References"), nodes.bullet_list(classes=[CLASS])]
        top += section


def fill_section(app, doctree, page):
    """List what the page cites, each number a link to the entry among all references."""
    domain = app.env.get_domain("cite")
    refs = [ref for ref in domain.citation_refs if ref.docname == page]
    keys = {target.key for ref in refs for target in ref.targets}
    for entries in doctree.findall(nodes.bullet_list):
        if CLASS not in entries["classes"]:
            continue
        for citation in domain.citations:  # in the order of their numbers
            if citation.key in keys:
                uri = app.builder.get_relative_uri(page, citation.bibliography_key.docname)
                number = nodes.inline("", f"[{citation.formatted_entry.label}]")
                link = nodes.reference("", "", number, refuri=f"{uri}#{citation.citation_id}")
                link["internal"] = True
                paragraph = Backend().paragraph(citation.formatted_entry)
                node_text_transform(paragraph)
                paragraph.insert(0, [link, nodes.Text(" ")])
                entries += nodes.list_item("", paragraph)


def setup(app):
    """Hook for Sphinx."""
    app.connect("doctree-read", add_section, priority=400)  # before Sphinx collects the contents
    app.connect("doctree-resolved", fill_section)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
