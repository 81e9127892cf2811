"""The built book, as a reader opens it: from disk, in a browser, without a network."""

import functools
import itertools
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import load_script, skip_or_fail

pytestmark = pytest.mark.browser

HTML = Path(os.environ.get("BOOK_HTML", Path(__file__).parents[1] / "_build" / "html")).resolve()
PAGES = sorted(
    str(path.relative_to(HTML))
    for path in HTML.rglob("*.html")
    # The page for missing pages counts its links from where the book stands (test_book_site.py);
    # pages of highlighted source are alike, and one stands for all.
    if (
        path.relative_to(HTML).parts[0] not in ("_static", "_modules")
        and path not in (HTML / "index.html", HTML / "404.html")
    )
    or path == HTML / "_modules" / "nca_lib" / "model.html"
)
MAX_PAGE_BYTES = 3_000_000
# Rules of axe-core that the theme breaks on any page, and docutils in a list of references.
THEME_KNOWN = {"label-content-name-mismatch", "region"}
BIBLIOGRAPHY_KNOWN = {"aria-allowed-role", "aria-deprecated-role", "aria-required-children"}


class _Elements(HTMLParser):
    """Collects tag and attributes of every element of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


@functools.cache
def _elements(path: Path) -> list[tuple[str, dict]]:
    return _Elements(path).elements


def _images(page: str) -> list[dict]:
    return [attributes for tag, attributes in _elements(HTML / page) if tag == "img"]


@pytest.fixture(params=PAGES or [None], ids=str)
def page(request):
    """Each page of the book in turn, as a path relative to its root."""
    if request.param is None:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    return request.param


@pytest.fixture(params=["light", "dark"])
def theme(request):
    return request.param


@pytest.fixture(params=[1280, 390])
def width(request):
    return request.param


@pytest.fixture
def visit(chromium, page, theme, width):
    """The page opened from disk, offline, and what went wrong on the way."""
    context = chromium.new_context(
        offline=True, color_scheme=theme, viewport={"width": width, "height": 900}
    )
    tab = context.new_page()
    troubles = []
    tab.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
    tab.on(
        "console",
        lambda message: message.type == "error" and troubles.append(f"console: {message.text}"),
    )
    tab.on("requestfailed", lambda request: troubles.append(f"failed request: {request.url[:200]}"))
    tab.on(
        "request",
        lambda request: (
            urlsplit(request.url).scheme not in ("file", "data", "blob")
            and troubles.append(f"external request: {request.url[:200]}")
        ),
    )
    tab.goto((HTML / page).as_uri(), wait_until="load")
    # Images further down load only when they come into view: ask for all of them now.
    tab.evaluate(
        """async () => {
            for (const image of document.images) image.loading = "eager";
            await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
            if (window.MathJax?.startup) await MathJax.startup.promise;
        }"""
    )
    yield tab, troubles
    context.close()


def test_page_opens_without_network(visit, theme, width):
    tab, troubles = visit
    assert troubles == []
    assert tab.evaluate("document.documentElement.dataset.theme") == theme

    broken = tab.evaluate(
        """[...document.images]
            .filter((image) => !(image.complete && image.naturalWidth > 0))
            .map((image) => image.src.slice(0, 100))"""
    )
    assert broken == [], "images that do not show"

    mathematics = tab.evaluate(
        """({
            formulas: document.querySelectorAll("span.math, div.math").length,
            rendered: [...document.querySelectorAll("span.math, div.math")]
                .filter((formula) => formula.querySelector("mjx-container svg")).length,
            // A syntax error, and the red in which MathJax prints a command it does not know.
            errors: [...document.querySelectorAll(
                "mjx-container :is([data-mml-node=merror], [data-mml-node=mtext][fill=red])"
            )].map((error) => error.closest(".math").textContent.slice(0, 80)),
        })"""
    )
    assert mathematics["errors"] == []
    assert mathematics["rendered"] == mathematics["formulas"]

    # What sticks out on the right, named, so that a failure says where to look.
    overflow = tab.evaluate(
        """(() => {
            const room = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= room) return [];
            return [...document.querySelectorAll(".bd-article *")]
                .filter((element) => element.getBoundingClientRect().right > room + 1)
                .map((element) => element.outerHTML.slice(0, 80))
                .concat([`the document is ${document.documentElement.scrollWidth} wide`])
                .slice(-5);
        })()"""
    )
    assert overflow == [], f"wider than {width} pixels"


# The live pages in every way they may look; the others, of which some take long, in two.
AXE_CASES = [
    (page, theme, width)
    for page, theme, width in itertools.product(PAGES, ["light", "dark"], [1280, 390])
    if page in ("book/index.html", "book/playground.html") or (theme == "dark") == (width == 390)
]


def barriers(tab, known: set[str]) -> dict[str, list[str]]:
    """Rules of axe-core that a page breaks, without the known ones, and up to three places each."""
    from axe_playwright_python.sync_playwright import Axe

    # Colours fade in when the theme is set; half-way their contrast is nobody's concern.
    tab.wait_for_function("() => document.getAnimations().length === 0")
    return {
        rule["id"]: [node["html"][:120] for node in rule["nodes"][:3]]
        for rule in Axe().run(tab).response["violations"]
        if rule["id"] not in known
    }


@pytest.mark.parametrize(("page", "theme", "width"), AXE_CASES)
def test_axe_finds_no_barrier(visit, page):
    """axe-core, the usual checker of accessibility, finds only what is known of the theme."""
    tab, _ = visit
    if tab.locator(".nca-player").count():
        tab.locator(".nca-player canvas").first.wait_for()
    known = THEME_KNOWN | (BIBLIOGRAPHY_KNOWN if page == "book/references.html" else set())
    assert barriers(tab, known) == {}


def test_dark_theme_is_dark(chromium):
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    brightness = {}
    for theme in ("light", "dark"):
        context = chromium.new_context(offline=True, color_scheme=theme)
        tab = context.new_page()
        tab.goto((HTML / PAGES[0]).as_uri())
        colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[theme] = sum(map(float, colour.strip("rgba()").split(",")[:3])) / 3
        context.close()
    assert brightness["light"] > 200
    assert brightness["dark"] < 60


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_terms_and_citations_say_what_they_mean(chromium, theme, width):
    """Under the pointer and under the keyboard; Escape closes, the pointer may rest on the text."""
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    viewport = {"width": width, "height": 900}
    context = chromium.new_context(offline=True, color_scheme=theme, viewport=viewport)
    tab = context.new_page()
    tab.goto((HTML / "book" / "04_es_training.html").as_uri())
    box = tab.get_by_role("tooltip")
    for kind, words in [
        ("glossary.html#term-evolution-strategy", "looks at one score for each attempt"),
        ("references.html#", "Evolution strategies as a scalable alternative"),
    ]:
        link = tab.locator(f".bd-article a[href*='{kind}']").first
        assert link.get_attribute("title") is None
        link.scroll_into_view_if_needed()
        link.hover()
        box.wait_for()
        assert words in box.inner_text()
        assert link.get_attribute("aria-describedby") == box.get_attribute("id")
        place = box.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= width
        assert place["y"] >= 0 and place["y"] + place["height"] <= viewport["height"]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert barriers(tab, THEME_KNOWN) == {}
        middle = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        tab.mouse.move(*middle, steps=3)
        assert tab.evaluate(
            "new Promise((done) => setTimeout(() => done(!document.querySelector("
            "'#book-preview').hidden), 400))"
        ), "the pointer rests on the box, and the box is gone"
        tab.mouse.move(1, 1)
        box.wait_for(state="hidden")

        tab.keyboard.press("Shift")  # from here on a focus is the keyboard's
        link.focus()
        box.wait_for()
        tab.keyboard.press("Escape")
        box.wait_for(state="hidden")
        assert link.evaluate("(link) => link === document.activeElement")
        assert link.get_attribute("aria-describedby") is None
        link.blur()
    assert box.count() == 0

    # The link that stands furthest to the right leaves the least room.
    links = tab.locator(".bd-article a[href*='references.html#']")
    edges = links.evaluate_all("(all) => all.map((link) => link.getBoundingClientRect().right)")
    links.nth(edges.index(max(edges))).hover()
    box.wait_for()
    place = box.bounding_box()
    assert place["width"] > 250
    assert place["x"] >= 0 and place["x"] + place["width"] <= width
    context.close()


def test_every_term_and_citation_has_a_preview(page):
    text = (HTML / page).read_text(encoding="utf-8")
    links = re.findall(r'href="((?:glossary|references)\.html#[^"]+)"', text)
    assert ("scripts/previews.js" in text) == bool(links)
    texts = (HTML / "_static" / "previews-data.js").read_text(encoding="utf-8")
    assert [link for link in links if f'"{link.replace(".html", "")}":' not in texts] == []


def test_icons_show_and_are_not_read_aloud(chromium):
    """They are glyphs of the theme's font, without the script that the theme would draw them by."""
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    tab.goto((HTML / "book" / "01_dataset.html").as_uri())
    for name in ["Fullscreen mode", "Download this page", "Color mode", "Toggle primary sidebar"]:
        button = tab.get_by_role("button", name=name, exact=True)
        icon = button.locator("[class*='fa-'], .fas").locator("visible=true")
        assert icon.bounding_box()["width"] > 10
        glyph = icon.evaluate("(icon) => getComputedStyle(icon, '::before').content")
        assert len(glyph.strip('"')) == 1 and "\ue000" <= glyph.strip('"') <= "\uf8ff"
    loaded = (
        "document.fonts.ready.then(() => [...document.fonts].map((f) => `${f.family} ${f.status}`))"
    )
    assert any("Awesome" in font and font.endswith(" loaded") for font in tab.evaluate(loaded))
    heard = tab.locator("body").aria_snapshot()
    assert re.findall(r"- (?:button|link).*[\ue000-\uf8ff].*", heard) == []
    tab.close()


def test_page_is_light_enough(page):
    """A page and its own images stay below 3 MB; scripts and styles are shared by all pages."""
    pictures = {
        (HTML / page).parent / unquote(image["src"])
        for image in _images(page)
        if not urlsplit(image["src"]).scheme
    }
    total = sum(path.stat().st_size for path in {HTML / page, *pictures})
    assert total <= MAX_PAGE_BYTES, f"{page} weighs {total / 1e6:.1f} MB"


def test_every_image_has_a_text(page):
    """An empty `alt` marks decoration and is allowed only where a role says so."""
    silent = [
        image.get("src", "")[:100]
        for image in _images(page)
        if not (image.get("alt") or "").strip() and image.get("role") != "presentation"
    ]
    assert silent == []


def test_widgets_are_pictures(page):
    """A page has a picture for each widget of its notebook, and none of the widgets' scripts."""
    text = (HTML / page).read_text(encoding="utf-8")
    source = Path(__file__).parents[1] / Path(page).with_suffix(".ipynb")
    cells = json.loads(source.read_text())["cells"] if source.exists() else []
    calls = [line for cell in cells for line in cell["source"] if line.startswith("widgets.")]
    assert text.count('<figure class="nca-widget"') == len(calls)
    for trace in ("jupyter-widgets", "vnd.jupyter.widget", "require.js", "requirejs"):
        assert trace not in text.lower()


def test_links_resolve(page):
    """Those within the book reach a file and, in it, what they name; others are well-formed."""
    broken = []
    for tag, attributes in _elements(HTML / page):
        link = attributes.get("href", "") if tag == "a" else ""
        parts = urlsplit(link)
        if parts.scheme:
            well_formed = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}", parts.netloc)
            if parts.scheme != "https" or not well_formed:
                broken.append(link)
        elif link:
            target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
            target = target.resolve()
            if not target.is_file():
                broken.append(link)
            elif parts.fragment and target.suffix == ".html":
                names = {other.get("id") for _, other in _elements(target)}
                if unquote(parts.fragment) not in names:
                    broken.append(link)
    assert broken == []


def test_colab_links_lead_to_the_page_s_own_notebook(page):
    """Those of the buttons and of widgets' pictures; without an address there are none."""
    publishing = load_script("book/_ext/publishing.py")
    repository, text = publishing.find_repository(), (HTML / page).read_text(encoding="utf-8")
    found = set(re.findall(r'href="(https://colab\.research\.google\.com[^"]*)"', text))
    is_notebook = (Path(__file__).parents[1] / page).with_suffix(".ipynb").exists()
    own = f"{publishing.colab_folder(repository)}/{Path(page).stem}.ipynb"
    assert found == ({own} if repository and is_notebook else set())


def test_root_leads_to_the_front_page(chromium):
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    tab = chromium.new_page()
    tab.goto((HTML / "index.html").as_uri())
    tab.wait_for_url("**/book/index.html")
    tab.close()


def test_book_has_its_chapters():
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    sources = [path.stem for path in (Path(__file__).parents[1] / "book").glob("*.ipynb")]
    missing = [name for name in sources if not any(Path(page).stem == name for page in PAGES)]
    assert missing == []
