"""The library's docstrings as pages of the book: links to its sections, readable signatures.

A docstring names the section that explains something as it would in plain text, chapter 2, "Live",
or a chapter as a whole, chapter 2. Here both become links; a section that does not exist is a
warning of the build. Jupyter Book loads this file as a Sphinx extension (`_config.yml`).
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap

from docutils import nodes

POINTER = re.compile(r'\b((?:chapter|appendix) (?:A\d|\d+))\b(?:,\s+"([^"]+)")?', re.I)


def heading(text: str) -> str:
    """A heading as docstrings name it: without its number, σ as a letter."""
    return re.sub(r"^\d+\. ", "", text).replace("$", "").replace(r"\sigma", "σ")


def page(chapter: str, names) -> str:
    """Find the page of a chapter, such as "book/02_architecture" for "chapter 2"."""
    prefix = chapter.split()[1].lower().rjust(2, "0") + "_"
    return next(name for name in names if name.split("/")[-1].startswith(prefix))


def link_chapters(app, what, name, obj, options, lines):
    """Make links of the chapters and sections that a docstring names."""

    def link(match):
        target, text = page(match[1], app.env.found_docs), " ".join(match[0].split())
        if match[2] is None:
            return f":doc:`{text} </{target}>`"
        return f":ref:`{text} <{target}:{' '.join(match[2].split())}>`"

    lines[:] = POINTER.sub(link, "\n".join(lines)).split("\n")


def list_fields(app, what, name, obj, options, lines):
    """List the fields of a configuration; what each means stands in its metadata."""
    if what == "class" and dataclasses.is_dataclass(obj):
        for field in dataclasses.fields(obj):
            lines += ["", f".. py:attribute:: {field.name}", f"   :type: {field.type.__name__}"]
            lines += [f"   :value: {field.default!r}", "", f"   {field.metadata['help']}"]


def label_sections(app, doctree):
    """Give each section of a chapter a label to link to: its page and its heading."""
    labels = app.env.get_domain("std").anonlabels
    for section in doctree.findall(nodes.section):
        title = heading(section[0].astext())
        labels[f"{app.env.docname}:{title}".lower()] = app.env.docname, section["ids"][0]


def source_signature(app, what, name, obj, options, signature, returns):
    """Write types and defaults as the source does, and not as Python evaluates them.

    A class whose fields are listed below, each with its meaning, needs no signature.
    """
    if what == "class" and (dataclasses.is_dataclass(obj) or issubclass(obj, tuple)):
        return "", None
    if what not in ("function", "method", "class"):
        return None
    function = obj.__init__ if what == "class" else obj
    source = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    source.args.args = [arg for arg in source.args.args if arg.arg != "self"]
    module = sys.modules[obj.__module__]

    def full(match):
        home = getattr(getattr(module, match[0], None), "__module__", None) or ""
        return f"{home}.{match[0]}" if home.startswith("nca_lib.") else match[0]

    types = [ast.unparse(part) if part else "" for part in (source.args, source.returns)]
    arguments, result = (re.sub(r"\b[A-Z]\w+", full, text) for text in types)
    return f"({arguments})", result


def setup(app):
    """Hook for Sphinx."""
    app.connect("autodoc-process-docstring", link_chapters)
    app.connect("autodoc-process-docstring", list_fields)
    app.connect("autodoc-process-signature", source_signature)
    app.connect("doctree-read", label_sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
