"""The built book, as a reader opens it: from disk, in a browser, without a network."""

import functools
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from bs4 import BeautifulSoup
from conftest import hear, skip_or_fail
from PIL import Image

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html")).resolve()


def leads_on(path: Path) -> bool:
    """Is this no page of its own: the root of the book, or an address of the first edition?"""
    return 'http-equiv="refresh"' in path.read_text(encoding="utf-8")


# The page for missing pages counts its links from where the book stands (test_book_site.py); pages
# of highlighted source are alike, and one stands for all.
PAGES = sorted(
    str(path.relative_to(HTML))
    for place in ("*.html", "book/*.html", "_modules/nca_lib/model.html")
    for path in HTML.glob(place)
    if path.name != "404.html" and not leads_on(path)
)
MAX_PAGE_BYTES = 3_000_000
# Whether the colours of a theme have faded in; some that nobody sees stay on the list, finished.
STILL = "() => document.getAnimations().every((one) => one.playState === 'finished')"
# Rules of axe-core that the theme breaks on any page, and docutils in a list of references.
THEME_KNOWN = {"label-content-name-mismatch", "region"}
BIBLIOGRAPHY_KNOWN = {"aria-allowed-role", "aria-deprecated-role", "aria-required-children"}


@functools.cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def ids(path: Path) -> set[str]:
    return {element["id"] for element in parse(path).find_all(id=True)}


@pytest.fixture(autouse=True)
def book():
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")


@pytest.fixture(params=PAGES or [None], ids=str)
def page(request):
    """Each page of the book in turn, as a path relative to its root."""
    return request.param


@pytest.fixture(params=[1280, 390])
def width(request):
    return request.param


@pytest.fixture
def tab(book, chromium, width):
    """A tab without a network, dark where it is narrow; in `troubles` what went wrong in it."""
    look = {"color_scheme": "dark" if width == 390 else "light"}
    look |= {"viewport": {"width": width, "height": 900}}
    context = chromium.new_context(offline=True, **look)
    tab = context.new_page()
    tab.set_default_timeout(60_000)  # milliseconds; only a failure takes as long
    tab.troubles = hear(tab)  # the browser itself tells of what it cannot fetch
    yield tab
    context.close()


def barriers(tab, known: set[str]) -> dict[str, list[str]]:
    """Rules of axe-core that a page breaks, without the known ones, and up to three places each."""
    from axe_playwright_python.sync_playwright import Axe

    # Colours fade in when the theme is set; half-way their contrast is nobody's concern.
    tab.wait_for_function(STILL)
    options = {"preload": False}  # of styles, which pages on disk may not ask for
    return {
        rule["id"]: [node["html"][:120] for node in rule["nodes"][:3]]
        for rule in Axe().run(tab, options=options).response["violations"]
        if rule["id"] not in known
    }


# Shows what is folded, such as solutions, and images further down, which load when they are seen.
COMPLETE = """async () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    for (const fold of document.querySelectorAll(".toggle-hidden"))
        fold.classList.remove("toggle-hidden");
    for (const image of document.images) image.loading = "eager";
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
    if (window.MathJax?.startup) await MathJax.startup.promise;
    await document.fonts.ready;
}"""
# Names formulas that are not drawn, have a syntax error, or a command that MathJax does not know,
# which it prints in red; inline ones that scroll where scrollbars take room; and what sticks out
# on the right.
LOOK = """() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const named = (elements) => elements.map((element) => element.outerHTML.slice(0, 100));
    const room = document.documentElement.clientWidth;
    const isWide = document.documentElement.scrollWidth > room;
    return {
        background: getComputedStyle(document.body).backgroundColor,
        broken: named(all("img").filter((image) => !(image.complete && image.naturalWidth))),
        formulas: named(all(`:is(span, div).math:not(:has(mjx-container svg)),
            .math:has([data-mml-node=merror], [data-mml-node=mtext][fill=red])`)),
        scrolling: named(all("span.math").filter((formula) =>
            formula.clientHeight && formula.offsetHeight - formula.clientHeight > 2)),
        wide: named(isWide ? all(".bd-article *").filter((element) =>
            element.getBoundingClientRect().right > room + 1) : []).slice(-5),
        isWide,
    };
}"""
FIGURES = ".bd-article div.cell_output img[src*='_images/']"  # clips and rows of images are inline


def luminance(colours):
    """Relative luminance of sRGB colours (..., 3), values 0 to 255, by WCAG 2.2: (...)."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    """Contrast ratio of two colours, 1 to 21, by WCAG 2.2; broadcast over leading axes."""
    a, b = luminance(a), luminance(b)
    return (np.maximum(a, b) + 0.05) / (np.minimum(a, b) + 0.05)


def ring_colour(pixels, depth):
    """The most frequent colour along the rectangle that lies `depth` pixels inside the border."""
    inner = pixels[depth : len(pixels) - depth, depth : pixels.shape[1] - depth]
    ring = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    colours, counts = np.unique(ring, axis=0, return_counts=True)
    return colours[counts.argmax()]


def disturbing(figure, ground, is_dark):
    """What troubles a reader of a figure on a page of the colour `ground`, by its pixels.

    Whether text can be read on the figure's card, test_show.py asks of the style.
    """
    pixels = np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("RGB"))
    padding = figure.evaluate("(image) => parseFloat(getComputedStyle(image).paddingLeft)")
    frame, card = ring_colour(pixels, 2), ring_colour(pixels, round(padding) + 2)
    troubles = {
        "a frame unlike its card": contrast(frame, card) > 1.05,
        "a card unlike its page": not is_dark and contrast(card, ground) > 1.05,
        "a card that dazzles": is_dark and luminance(card) > 0.8,  # white has 1
    }
    return [trouble for trouble, is_so in troubles.items() if is_so]


def test_page_opens_without_network_or_barrier(tab, page, width):
    tab.goto((HTML / page).as_uri(), wait_until="load")
    tab.evaluate(COMPLETE)
    assert tab.troubles == []
    for theme in ("light", "dark"):
        tab.emulate_media(color_scheme=theme)
        tab.wait_for_function("(t) => document.documentElement.dataset.theme === t", arg=theme)
        tab.wait_for_function(STILL)  # colours fade in
        found = tab.evaluate(LOOK)
        ground = [float(value) for value in re.findall(r"[\d.]+", found.pop("background"))[:3]]
        assert min(ground) > 200 if theme == "light" else max(ground) < 60
        assert not any(found.values()), found

        # The live pages in every way they may look; the others, of which some take long, in two.
        is_live = page in ("book/index.html", "book/playground.html", "book/evolve.html")
        if is_live or (theme == "dark") == (width == 390):
            if tab.locator(".nca-player").count():
                tab.locator(".nca-player canvas").first.wait_for()
            is_list = page == "book/references.html"
            assert barriers(tab, THEME_KNOWN | (BIBLIOGRAPHY_KNOWN if is_list else set())) == {}
            figures = tab.locator(FIGURES).all()
            assert figures or page != "book/03_loss.html", "figures are elsewhere now"
            for figure in figures:
                assert disturbing(figure, ground, theme == "dark") == [], figure


@pytest.mark.parametrize("width", [390])
def test_paper_is_white_in_dark_mode(tab):
    tab.goto((HTML / "book" / "01_dataset.html").as_uri())
    ink = "() => Math.max(...getComputedStyle(document.body).color.match(/\\d+/g)) < 100"
    assert not tab.evaluate(ink)
    tab.emulate_media(media="print")
    tab.wait_for_function(ink)
    tab.emulate_media(media="screen")
    tab.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")


def test_terms_and_citations_say_what_they_mean(tab, width):
    """Under the pointer and under the keyboard; Escape closes, the pointer may rest on the text."""
    tab.clock.install()
    tab.goto((HTML / "book" / "04_evolution.html").as_uri())
    box = tab.get_by_role("tooltip")

    def place_in_view():
        box.wait_for()
        place = box.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= width
        assert place["y"] >= 0 and place["y"] + place["height"] <= tab.viewport_size["height"]
        return place

    for kind, words in [
        ("glossary.html#term-evolution-strategy", "looks at one score for each attempt"),
        ("references.html#", "Evolution strategies as a scalable alternative"),
    ]:
        link = tab.locator(f".bd-article a[href*='{kind}']").first
        assert link.get_attribute("title") is None
        link.hover()
        place = place_in_view()
        assert words in box.inner_text()
        assert link.get_attribute("aria-describedby") == box.get_attribute("id")
        assert barriers(tab, THEME_KNOWN) == {}
        middle = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        tab.mouse.move(*middle, steps=3)
        tab.clock.run_for(1000)
        assert box.is_visible(), "the pointer rests on it"
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

    # The link that stands furthest to the right leaves the least room.
    links = tab.locator(".bd-article a[href*='references.html#']")
    edges = links.evaluate_all("(all) => all.map((link) => link.getBoundingClientRect().right)")
    links.nth(edges.index(max(edges))).hover()
    assert place_in_view()["width"] > 250


def test_every_term_and_citation_has_a_preview(page):
    links = parse(HTML / page).select("a[href^='glossary.html#'], a[href^='references.html#']")
    keys = {Path(link["href"]).name.replace(".html", "") for link in links}
    assert bool(parse(HTML / page).select("script[src*='previews.js']")) == bool(keys)
    texts = (HTML / "_static" / "previews-data.js").read_text(encoding="utf-8")
    assert [key for key in keys if f'"{key}":' not in texts] == []


def test_the_root_leads_on_and_says_what_it_is():
    root = parse(HTML / "index.html")
    assert root.html["lang"] == "en" and "Evolution Strategies" in root.title.string
    assert "lizard" in root.select_one("meta[name=description]")["content"]
    assert (HTML / root.body.a["href"]).is_file()


@pytest.mark.parametrize("width", [1280])
def test_icons_show_and_are_not_read_aloud(tab):
    """They are glyphs of the theme's font, without the script that the theme would draw them by."""
    tab.goto((HTML / "book" / "01_dataset.html").as_uri())
    loaded = "(font) => font.family.includes('Awesome') && font.status === 'loaded'"
    tab.wait_for_function(f"() => [...document.fonts].some({loaded})")
    for name in ["Fullscreen mode", "Download this page", "Color mode", "Toggle primary sidebar"]:
        button = tab.get_by_role("button", name=name, exact=True)
        icon = button.locator("[class*='fa-'], .fas").locator("visible=true")
        glyph = icon.evaluate("(icon) => getComputedStyle(icon, '::before').content")
        assert re.fullmatch('"[\ue000-\uf8ff]"', glyph) and icon.bounding_box()["width"] > 10
    heard = tab.locator("body").aria_snapshot()
    assert re.findall(r"- (?:button|link).*[\ue000-\uf8ff].*", heard) == []


def test_page_is_light_enough(page):
    """A page and its own images stay below 3 MB; scripts and styles are shared by all pages."""
    images = {unquote(image["src"]) for image in parse(HTML / page).find_all("img")}
    own = [(HTML / page).parent / image for image in images if not urlsplit(image).scheme]
    assert sum(path.stat().st_size for path in [HTML / page, *own]) <= MAX_PAGE_BYTES


def test_every_image_has_a_text(page):
    """An empty `alt` marks decoration and is allowed only where a role says so."""
    images = parse(HTML / page).select("img:not([role=presentation])")
    assert [image["src"][:100] for image in images if not image.get("alt", "").strip()] == []


def test_widgets_are_pictures(page):
    """A page has a picture for each widget of its notebook, and none of the widgets' scripts."""
    text = (HTML / page).read_text(encoding="utf-8")
    source = (ROOT / page).with_suffix(".ipynb")
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"] if source.exists() else []
    names = ("widgets.", "evolution_dashboard(", "duel(")
    calls = [line for cell in cells for line in cell["source"] if line.startswith(names)]
    assert text.count('<figure class="nca-widget"') == len(calls)
    assert not re.search(r"jupyter-widgets|vnd\.jupyter\.widget|require\.?js", text, re.I)


def test_links_resolve(page):
    """Those within the book reach a file and, in it, what they name; others are well-formed."""
    broken = []
    for link in {tag["href"] for tag in parse(HTML / page).select("a[href]")} - {""}:
        parts = urlsplit(link)
        path = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
        if parts.scheme:
            is_sound = re.match(r"https://[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}(/|$)", link)
        else:
            is_page = path.suffix == ".html" and parts.fragment
            is_sound = path.is_file() and not (is_page and unquote(parts.fragment) not in ids(path))
        if not is_sound:
            broken.append(link)
    assert broken == []
