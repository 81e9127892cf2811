"""Hover previews: what a term of the glossary or a citation says, shown where a page refers to it.

The texts are taken from the two pages that such links lead to, once these are written, and put into
one script, since a page that is opened from disk cannot fetch. `_static/scripts/previews.js` shows
them. Jupyter Book loads this file as a Sphinx extension (`_config.yml`).
"""

import json
from pathlib import Path

from bs4 import BeautifulSoup

GLOSSARY, REFERENCES = "book/glossary", "book/references"
DATA = "previews-data.js"


def collect_previews(html: Path) -> dict[str, str]:
    """Collect the texts that links may show.

    Args:
        html: the folder of the built book.

    Returns:
        Plain text for each "page#id": the first paragraph of a term's definition, and a reference
        without its number.
    """
    texts = {}
    for name, entry, body in [
        (GLOSSARY, "dl.glossary > dt[id]", lambda term: term.find_next_sibling("dd").p),
        (REFERENCES, "div.citation[id]", lambda reference: reference.p),
    ]:
        page = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for element in page.select(entry):
            key = f"{Path(name).name}#{element['id']}"
            texts[key] = " ".join(body(element).get_text().split())
    return texts


def setup(app):
    """Hook for Sphinx: load the scripts where something can be shown, and write the texts."""

    def add_scripts(app, pagename, templatename, context, doctree):
        links = (f'href="{Path(name).name}.html#' for name in (GLOSSARY, REFERENCES))
        if any(link in context.get("body", "") for link in links):
            app.add_js_file(DATA, loading_method="defer")
            app.add_js_file("scripts/previews.js", loading_method="defer")

    def write_data(app, exception):
        if exception is None and app.builder.name == "html":
            texts = json.dumps(collect_previews(Path(app.outdir)), ensure_ascii=False, indent=0)
            text = f"window.bookPreviews = {texts};\n"
            (Path(app.outdir) / "_static" / DATA).write_text(text, encoding="utf-8")

    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_data)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
