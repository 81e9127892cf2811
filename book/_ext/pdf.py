"""One PDF of the built book, beside its front page, which from then on links to it.

    python book/_ext/pdf.py _build/html

The articles of all pages but those of the reference become one document. Chromium prints it twice:
the first time tells on which page each begins, for the table of contents. CHROMIUM names another
browser than the one that is found.
"""

import argparse
import html
import os
import re
import shutil
import sys
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, sync_playwright

NAME = "growing-nca.pdf"
MARK = '<p id="book-pdf" hidden></p>'  # where the front page gets its link
MAX_BYTES = 15_000_000
NEEDLESS = ".headerlink, details.above-input, script, #book-pdf, .nca-player > p, .nca-evolve"
FOOTER = (
    '<div style="width:100%;font:8px sans-serif;text-align:center"><span class="pageNumber"></div>'
)
STYLE = """
@page { size: A4; margin: 16mm 18mm; }
html { font-size: 9.5pt; }
body { background: #fff; }
article.bd-article { break-before: page; max-width: none; padding: 0; }
.book-contents { list-style: none; padding: 0; }
.book-contents a { display: flex; gap: 1em; justify-content: space-between; }
.bd-article :is(pre, table) { font-size: 7.5pt; }
.still img { width: 12rem; }
.nca-clip input, .nca-clip label > span { display: none; }
"""
READY = """async () => {
    document.documentElement.dataset.theme = "light";
    for (const image of document.images) image.loading = "eager";
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
    await document.fonts.ready;
    while (document.querySelector(".math") && !window.MathJax?.startup?.promise)
        await new Promise((wait) => setTimeout(wait, 50));
    await window.MathJax?.startup?.promise;
}"""
FILL = """(numbers) => {
    for (const link of document.querySelectorAll(".book-contents a"))
        link.lastChild.textContent = numbers[link.hash.slice(1)];
}"""


def page_names(front_page: BeautifulSoup) -> list[str]:
    """List the pages in reading order, the front page first, without those of the reference."""
    links = front_page.select("nav.bd-links li.toctree-l1 > a[href]")
    names = [link["href"].removesuffix(".html") for link in links]
    return ["index", *(name for name in names if not name.startswith(("api", "#")))]


def move_in(article: Tag, name: str, names: list[str]) -> Tag:
    """Make an article a part of the whole: its own ids, links that lead to where things now are."""
    for needless in article.select(NEEDLESS):
        needless.decompose()
    for fold in article.select("details"):
        fold["open"] = ""
    for player in article.select(".nca-player"):  # on paper nothing moves
        player["class"] = "still"
    for element in article.select("[id]"):
        element["id"] = f"{name}--{element['id']}"
    for link in article.select("a[href]"):
        page, _, section = link["href"].partition("#")
        target = page.removesuffix(".html") or name
        if target in names:
            link["href"] = f"#{target}--{section}" if section else f"#{target}"
        elif not re.match(r"[a-z]+:", page):
            link.unwrap()  # to a page that stays outside
    article["id"] = name
    return article


def join(folder: Path) -> str:
    """Join the articles of the built pages to one document that lies in the same folder.

    Args:
        folder: of the pages, which holds `index.html`.

    Raises:
        FileNotFoundError: there is no book.
    """
    parsed = {"index": BeautifulSoup((folder / "index.html").read_bytes(), "html.parser")}
    names = page_names(parsed["index"])
    for name in names[1:]:
        parsed[name] = BeautifulSoup((folder / f"{name}.html").read_bytes(), "html.parser")
    articles, rows, styles = [], [], {}
    scripts = [str(script) for script in parsed["index"].select("script")]
    for name, page in parsed.items():
        styles |= {link["href"]: None for link in page.select("link[rel=stylesheet][href]")}
        article = move_in(page.select_one("article.bd-article"), name, names)
        title = html.escape(" ".join(article.h1.get_text().split()))
        rows.append(f'<li><a href="#{name}"><span>{title}</span><span>000</span></a></li>')
        articles.append(str(article))
    contents = (
        '<article class="bd-article" id="contents"><h1>Contents</h1>'
        f'<ol class="book-contents">{"".join(rows[1:])}</ol></article>'
    )
    articles.insert(1, contents)
    settings = next(script for script in scripts if "window.MathJax" in script)
    sheets = "".join(f'<link rel="stylesheet" href="{html.escape(href)}">' for href in styles)
    title = html.escape(" ".join(parsed["index"].h1.get_text(" ").split()))
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{title}</title>{sheets}<style>{STYLE}</style>{settings}"
        '<script defer src="../_static/math.js"></script></head>'
        f"<body><main>{''.join(articles)}</main></body></html>"
    )


def page_numbers(made: bytes) -> tuple[dict[str, int], int]:
    """Read a PDF of Chromium's: the pages that links lead to, by name, and how many there are."""
    pages = re.findall(rb"\b(\d+) 0 obj\s*<<\s*/Type */Page\b", made)
    numbers = {page: number for number, page in enumerate(pages, 1)}
    places = re.findall(rb"/(\S+) *\[(\d+) 0 R */XYZ", made)
    return {name.decode("latin1"): numbers[page] for name, page in places}, len(pages)


def print_whole(browser: Browser, document: Path) -> bytes:
    """Print a document from `join`, with page numbers in its contents."""
    context = browser.new_context(color_scheme="light", reduced_motion="reduce", offline=True)
    tab = context.new_page()
    tab.set_default_timeout(300_000)
    tab.goto(document.as_uri())
    tab.evaluate(READY)
    settings = {"prefer_css_page_size": True, "print_background": True}
    settings |= {"outline": True, "tagged": True, "display_header_footer": True}
    settings |= {"header_template": "<span></span>", "footer_template": FOOTER}
    tab.evaluate(FILL, page_numbers(tab.pdf(**settings))[0])
    made = tab.pdf(**settings)
    context.close()
    return made


def find_chromium() -> str | None:
    """Where Chromium is: what CHROMIUM names, or the first of its usual names."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    named = filter(None, [os.environ.get("CHROMIUM"), *names])
    return next((path for name in named if (path := shutil.which(name))), None)


def main(arguments: list[str] | None = None) -> None:
    """Write the PDF, and the link to it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("html", type=Path, help="the built book, such as _build/html")
    root = parser.parse_args(arguments).html.resolve()
    front_page, whole = root / "book" / "index.html", root / "book" / "whole.html"
    if not front_page.exists():
        sys.exit(f"{front_page} is missing; build the book first: make book")
    executable = find_chromium()
    if executable is None:
        sys.exit("no Chromium found; name one with CHROMIUM=/path/to/chromium")
    whole.write_text(join(front_page.parent), encoding="utf-8")
    try:
        with sync_playwright() as playwright:
            flags = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=executable, args=flags)
            made = print_whole(browser, whole)
            browser.close()
    finally:
        whole.unlink()
    size, pages = f"{len(made) / 1e6:.1f} MB", page_numbers(made)[1]
    if len(made) > MAX_BYTES:
        sys.exit(f"the PDF has {size}, expected at most {MAX_BYTES / 1e6:.0f}")
    (root / NAME).write_bytes(made)
    link = f'<p id="book-pdf"><a href="../{NAME}">The book as PDF</a>, {pages} pages, {size}.</p>'
    text = front_page.read_text(encoding="utf-8")
    front_page.write_text(re.sub(r'<p id="book-pdf".*?</p>', link, text), encoding="utf-8")
    print(f"{root / NAME}: {pages} pages, {size}")


if __name__ == "__main__":
    main()
