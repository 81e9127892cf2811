"""The PDF of the book, made of a small one."""

import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from conftest import load_script, skip_or_fail

SCRIPT = Path(__file__).parents[1] / "book" / "_ext" / "pdf.py"
NAV = "".join(
    f'<li class="toctree-l1"><a href="{name}.html">{name}</a></li>'
    for name in ("one", "two", "api")
)
PAGE = (
    '<html><head><script>window.MathJax = {{}}</script><link rel="stylesheet" href="x.css"></head>'
    '<nav class="bd-links"><ul>{nav}</ul></nav><article class="bd-article"><section id="top">'
    "<h1>{title}</h1>{body}</section></article></html>"
)
BODIES = {
    "index": '<p id="book-pdf" hidden></p><a href="one.html">begin</a>',
    "one": '<div style="height: 400mm">long</div><a href="two.html#top">on</a>',
    "two": '<a href="#top">up</a><a href="one.html">back</a><a href="api.html">names</a>'
    '<a href="https://jax.dev">away</a><details><summary>more</summary></details>',
}


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book").mkdir()
    for name, body in BODIES.items():
        text = PAGE.format(nav=NAV, title=name, body=body)
        (tmp_path / "book" / f"{name}.html").write_text(text)
    return tmp_path


def test_pages_are_joined_and_links_lead_to_where_things_are_now(book):
    whole = BeautifulSoup(load_script("book/_ext/pdf.py").join(book / "book"), "html.parser")
    assert [page["id"] for page in whole.select("article")] == ["index", "contents", "one", "two"]
    links = [link["href"] for link in whole.select("a[href]")]
    contents = ["#one", "#two"]
    assert links == ["#one", *contents, "#two--top", "#two--top", "#one", "https://jax.dev"]
    names = [element["id"] for element in whole.select("[id]")]
    assert len(names) == len({*names}) and {link[1:] for link in links[:-1]} <= {*names}
    assert whole.details.has_attr("open") and "names" in whole.get_text()


@pytest.mark.browser
def test_the_front_page_leads_to_a_pdf_that_knows_its_pages(book):
    done = subprocess.run([sys.executable, SCRIPT, book], capture_output=True, text=True)
    if "no Chromium found" in done.stderr:
        skip_or_fail(done.stderr)
    assert done.returncode == 0, done.stderr
    front_page = BeautifulSoup((book / "book" / "index.html").read_text(), "html.parser")
    made = (book / "book" / front_page.select_one("#book-pdf a")["href"]).read_bytes()
    places, count = load_script("book/_ext/pdf.py").page_numbers(made)
    assert made.startswith(b"%PDF") and count == 5
    assert {name: places[name] for name in ("one", "two")} == {"one": 3, "two": 5}
    assert sorted(path.name for path in (book / "book").iterdir()) == [
        "index.html",
        "one.html",
        "two.html",
    ]


def test_without_a_book_it_says_how_to_make_one(tmp_path):
    with pytest.raises(SystemExit, match="make book"):
        load_script("book/_ext/pdf.py").main([str(tmp_path)])
