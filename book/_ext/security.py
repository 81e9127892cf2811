"""What a page may load and run: a Content Security Policy at the head of every page of the book.

A policy in the page itself holds wherever the book is opened, from any server and from disk, where
'self' stands for any file on it. Scripts run from files beside the page, and those written into the
page only if the build wrote them: it lists their hashes. What a reader's link, a weight file or a
damaged formula might bring into a page later has no hash, and does not run. Jupyter Book loads this
file as a Sphinx extension (`_config.yml`).
"""

import base64
import hashlib
import re
from pathlib import Path

from bs4 import BeautifulSoup

POLICY = (
    "default-src 'none'; "  # frames, objects, media: the book has none
    "script-src 'self'{hashes}; "
    "worker-src blob:; "  # evolution in the page; of the build's own text, see crew.js
    # Many outputs have style attributes, and MathJax adds style elements while it runs.
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; "  # figures of the chapters, icons of the theme
    "font-src 'self'; "
    "connect-src 'self'; "  # the search reads the pages it has found, to quote them
    "form-action 'self'; "  # the search
    "base-uri {base}"
)
META = '<meta http-equiv="Content-Security-Policy" content="{}">'
CHARSET = '<meta charset="utf-8" />'  # of the theme; what follows it is under the policy
# The theme's two handlers that stand in the markup; scripts/buttons.js has their part.
THEME_HANDLER = re.compile(r'(<button) onclick="(?:toggleFullScreen|window\.print)\(\)"')


def find_markup_scripts(page: BeautifulSoup) -> list[str]:
    """Find scripts that stand in attributes, which no hash allows: handlers, and script links."""
    found = []
    for element in page.find_all(True):
        for name, value in element.attrs.items():
            is_link = name in ("href", "src", "action", "formaction")
            link = value.strip().lower() if is_link else ""
            if name.startswith("on") or link.startswith("javascript:"):
                found.append(f"{name}={value!r}")
    return found


def protect(text: str) -> str:
    """Give a page its policy, in place of the one it may have from an earlier build.

    Args:
        text: HTML.

    Returns:
        The page with a policy for exactly the scripts in it, and without the theme's handlers.

    Raises:
        ValueError: a script stands in an attribute, where the policy would silently stop it.
    """
    text = re.sub(META.format('[^"]*'), "", text)
    text = THEME_HANDLER.sub(r"\1", text)
    page = BeautifulSoup(text, "html.parser")
    if found := find_markup_scripts(page):
        raise ValueError(f"a page must have no scripts in attributes, found {', '.join(found)}")
    scripts = {script.get_text() for script in page.find_all("script", src=False)}
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = sorted(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    base = "'self'" if page.base else "'none'"  # book_site.py gives the 404 page one
    meta = META.format(POLICY.format(hashes="".join(hashes), base=base))
    place = text.find(CHARSET) + len(CHARSET) if CHARSET in text else 0
    return text[:place] + meta + text[place:]


def setup(app):
    """Hook for Sphinx: a policy for every page, once all extensions have written theirs."""
    app.add_js_file("scripts/buttons.js", loading_method="defer")

    def protect_pages(app, exception):
        if exception is not None or app.builder.name != "html":
            return
        for path in sorted(Path(app.outdir).rglob("*.html")):
            if path.relative_to(app.outdir).parts[0] == "_static":
                continue  # the theme's templates
            text = path.read_text(encoding="utf-8")
            try:
                path.write_text(protect(text), encoding="utf-8")
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error

    app.connect("build-finished", protect_pages, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
