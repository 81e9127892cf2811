"""What surrounds the text of every page: footer, description, card, 404 page, sitemap."""

import datetime
import json
import re
import subprocess
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup
from conftest import load_script
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def book_site():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "book" / "_ext")
        yield load_script("book/_ext/book_site.py")


class _Tags(HTMLParser):
    """Collects the attributes of some tags."""

    def __init__(self, page: Path, *names: str):
        super().__init__()
        self.names, self.found = names, []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        if tag in self.names:
            self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    ("repository", "url", "address"),
    [
        ("Jane/Lizards", None, "https://jane.github.io/Lizards/"),
        ("jane/jane.github.io", None, "https://jane.github.io/"),
        ("jane/lizards", "https://lizards.example", "https://lizards.example/"),
        ("jane/lizards", "", ""),
        ("", None, ""),
        ("", "http://localhost:8000/", "http://localhost:8000/"),
    ],
)
def test_address_is_that_of_pages_or_given(monkeypatch, book_site, repository, url, address):
    monkeypatch.delenv("BOOK_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("BOOK_URL", url)
    assert book_site.find_address(repository) == address


def test_an_address_that_is_none_is_refused(monkeypatch, book_site):
    monkeypatch.setenv("BOOK_URL", "lizards.example")
    with pytest.raises(ValueError, match=r"'lizards\.example'"):
        book_site.find_address("")


def test_footer_leaves_out_what_is_not_known(book_site, tmp_path):
    assert book_site.last_commit(tmp_path) == ("", "")
    alone = book_site.footer("index.html", "", "", "")
    assert "Built with jax" in alone and "commit" not in alone
    assert "github.com" not in book_site.footer("index.html", "", "abc1234", "2026-01-02")
    linked = book_site.footer("index.html", "jane/lizards", "abc1234", "2026-01-02")
    assert 'href="https://github.com/jane/lizards/commit/abc1234"' in linked


def test_text_in_tags_is_escaped(book_site):
    tags = book_site.meta_tags('A "b" <c>', "x & y", "https://lizards.example/")
    assert "A &quot;b&quot; &lt;c&gt;" in tags and "x &amp; y" in tags


def test_card_has_a_lizard_and_a_title_within_its_edges(book_site):
    card = book_site.draw_card("Growing Neural Cellular Automata with Evolution Strategies")
    assert card.size == (1200, 630)
    ink = card.convert("L").point(lambda value: 255 * (value < 200))
    left, top, right, bottom = ink.getbbox()
    assert left > 20 and top > 20 and right < 1190 and bottom < 610
    assert ink.crop((620, 0, 1200, 630)).getbbox()  # the title
    assert len(card.crop((0, 0, 600, 630)).getcolors(10_000)) > 50  # the lizard


def test_every_page_says_what_it_was_built_from(built):
    html, repository = built
    for path in [html / "404.html", html / "search.html", *(html / "book").glob("*.html")]:
        text = path.read_text(encoding="utf-8")
        (said,) = re.findall(r'<div class="extra_footer">\s*<p>(.*?)</p>', text, re.S)
        for name in ("jax", "flax", "evosax"):
            assert f"{name} {metadata.version(name)}" in said
        assert "CC BY 4.0" in said and "MIT License" in said
        (front,) = re.findall(r'href="([^"]*)#how-to-cite"', said)
        front_page = path.parent / front if front else path
        assert 'id="how-to-cite"' in front_page.read_text(encoding="utf-8")
        assert ("github.com" in said) == bool(repository)


def test_pages_have_descriptions_and_cards_where_an_address_is_known(built):
    html, repository = built
    for path in (html / "book").glob("*.html"):
        if path.stem in ("references", "genindex"):
            continue
        tags = [tag for _, tag in _Tags(path, "meta").found]
        named = {tag.get("name", tag.get("property")): tag.get("content") for tag in tags}
        assert len(named["description"]) > 20, path.stem
        assert ("og:image" in named) == bool(repository)
        if repository:
            assert named["og:image"] == "https://jane.github.io/lizards/_static/card.png"
            assert named["og:title"] and "<" not in named["og:title"]
    assert (html / "_static" / "card.png").exists() == bool(repository)
    if repository:
        with Image.open(html / "_static" / "card.png") as card:
            assert card.size == (1200, 630)


def test_sitemap_names_every_page_where_an_address_is_known(built):
    html, repository = built
    assert (html / "sitemap.xml").exists() == bool(repository)
    if repository:
        root = ElementTree.parse(html / "sitemap.xml").getroot()
        pages = {element.text for element in root.iter() if element.tag.endswith("}loc")}
        names = {path.name for path in (html / "book").glob("*.html")}
        assert pages == {f"https://jane.github.io/lizards/book/{name}" for name in names}


def test_missing_pages_lead_back_from_any_depth(built):
    html, repository = built
    tags = _Tags(html / "404.html", "base", "link", "script", "img", "a").found
    bases = [attributes["href"] for tag, attributes in tags if tag == "base"]
    assert bases == (["https://jane.github.io/lizards/404.html"] if repository else [])
    assert not repository or tags[0][0] == "base"  # it counts for what comes after it
    for _, attributes in tags:
        target = (attributes.get("href") or attributes.get("src") or "").partition("#")[0]
        target = target.partition("?")[0]
        if target and not re.match(r"[a-z]+:", target):
            assert (html / target).exists(), target


def cited(path: Path) -> set[str]:
    """Keys that a page's source cites."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    groups = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text)
    return {key.strip() for group in groups for key in group.split(",")}


def test_each_page_ends_with_what_it_cites(built):
    html, _ = built
    text = (html / "book" / "references.html").read_text(encoding="utf-8")
    entries = BeautifulSoup(text, "html.parser").select("div.citation[id]")
    known = {f"references.html#{entry['id']}": entry for entry in entries}
    pages = [path for path in (ROOT / "book").iterdir() if path.suffix in (".ipynb", ".md")]
    numbers = {}
    for path in pages:
        text = (html / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
        page = BeautifulSoup(text, "html.parser").select
        has_section = bool(cited(path)) and path.stem != "index"
        assert len(page(".page-toc a[href='#references']")) == has_section, path.stem
        items = page("article section#references:last-child ul.chapter-references > li")
        assert len(items) == (len(cited(path)) if has_section else 0), path.stem
        links = [item.a["href"] for item in items]
        in_text = {link["href"] for link in page("article a[href^='references.html#']")}
        assert len(set(links)) == len(links)
        assert set(links) == in_text or not has_section
        for item, link in zip(items, links, strict=True):
            whole = " ".join(known[link].get_text().split())
            assert " ".join(item.get_text().split()) == whole
        numbers[path.stem] = [int(item.a.get_text().strip("[]")) for item in items]
        assert numbers[path.stem] == sorted(numbers[path.stem])
    assert sum(map(bool, numbers.values())) >= 9


def test_commit_is_that_of_the_checkout(book_site):
    commit, date = book_site.last_commit()
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert head.startswith(commit) and len(commit) >= 7
    assert datetime.date.fromisoformat(date)
