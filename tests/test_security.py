"""The policy of the pages: what it says, what works under it, and what it stops."""

import re

import pytest
from bs4 import BeautifulSoup
from conftest import hear, load_script, serving, skip_or_fail
from test_book import HTML, PAGES

from nca_lib.show import page as demo

security = load_script("book/_ext/security.py")
LISTEN = """window.stopped = [];
    addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
        stopped.push(`${effectiveDirective} ${blockedURI}`));"""


def policy_of(text: str) -> dict[str, list[str]]:
    """The directives of a page's one policy, which is the first thing that can be under one."""
    page = BeautifulSoup(text, "html.parser")
    (meta,) = page.select("meta[http-equiv=Content-Security-Policy]")
    assert {tag.name for tag in meta.find_all_previous(True)} <= {"html", "head", "meta"}
    parts = [part.split() for part in meta["content"].split(";")]
    return {name: sources for name, *sources in parts}


def test_a_second_build_replaces_the_policy():
    once = security.protect("<script>a</script><script>a</script><script src=b.js></script>")
    assert len(policy_of(once)["script-src"]) == 2
    assert security.protect(once) == once
    changed = security.protect(once.replace(">a<", ">c<"))
    assert policy_of(changed)["script-src"] != policy_of(once)["script-src"]


def test_the_theme_s_handlers_are_taken_out_and_others_named():
    text = security.protect('<button onclick="window.print()"\n class="btn">x</button>')
    assert "onclick" not in text and '<button\n class="btn">' in text
    quoted = '<pre>&lt;button onclick="window.print()"&gt; &lt;img onerror="x"&gt;</pre>'
    assert quoted in security.protect(quoted)
    for handler in ("onerror='go()'", "onclick='other()'", "href=' JavaScript:go()'"):
        with pytest.raises(ValueError, match=re.escape(handler)):
            security.protect(f"<img src=x {handler}>")


@pytest.fixture(scope="module")
def served():
    """Address of the book, served."""
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    with serving(HTML) as address:
        yield address


@pytest.fixture(params=["disk", "http"])
def root(request, served):
    """Its address, on disk and served."""
    return served if request.param == "http" else HTML.as_uri()


@pytest.fixture
def tab(chromium):
    """A tab that hears what its pages complain of."""
    context = chromium.new_context(color_scheme="dark")
    context.add_init_script(LISTEN)
    tab = context.new_page()
    tab.set_default_timeout(60_000)  # milliseconds; only a failure takes as long
    tab.said = hear(tab)
    yield tab
    assert tab.evaluate("stopped") == [] and tab.said == []
    context.close()


SERVED = [
    f"book/{name}.html" for name in ("05_es_training", "playground", "world", "evolve", "breed")
]


@pytest.mark.parametrize("page", ["index.html", "404.html", "search.html", *SERVED])
def test_nothing_that_a_page_does_is_stopped(served, tab, page):
    """One of each kind; test_book.py opens all from disk, and hears what is stopped, too."""
    tab.goto(f"{served}/{page}", wait_until="load")
    if page == "index.html":
        tab.wait_for_url("**/book/index.html")
    tab.evaluate("document.querySelector('.math') && MathJax.startup.promise")
    if tab.locator(".nca-player").count():
        tab.locator(".nca-player canvas").first.wait_for()
    assert tab.locator(".math:not(:has(svg))").count() == 0


def test_what_the_theme_offers_works(served, tab):
    """Buttons, theme, folded cells, copying; the search is below."""
    tab.context.add_init_script("window.print = () => { window.printed = true; };")
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.goto(f"{served}/book/02_architecture.html")
    tab.get_by_role("button", name="Download this page").click()
    tab.locator(".btn-download-pdf-button").click()
    assert tab.evaluate("window.printed")
    tab.get_by_role("button", name="Fullscreen mode").click()
    tab.wait_for_function("() => document.fullscreenElement !== null")
    tab.get_by_role("button", name="Fullscreen mode").click()
    tab.wait_for_function("() => document.fullscreenElement === null")
    before = tab.evaluate("document.documentElement.dataset.mode")
    tab.get_by_role("button", name="Color mode").click()
    assert tab.evaluate("document.documentElement.dataset.mode") != before
    folded = tab.locator(".bd-article details").first
    folded.locator("summary").click()
    assert folded.evaluate("(details) => details.open")
    cell = tab.locator("div.highlight", has_text="STEPS = 32").first
    cell.hover()
    button = cell.locator("xpath=..").get_by_role("button", name="Copy")
    button.evaluate(  # which says so for a moment only
        """(button) => {
            copied = false;
            const look = () => { copied ||= button.classList.contains("success"); };
            new MutationObserver(look).observe(button, { attributes: true });
        }"""
    )
    button.click()
    tab.wait_for_function("() => copied")
    assert "STEPS = 32" in tab.evaluate("navigator.clipboard.readText()")


def test_the_search_finds_and_where_pages_may_fetch_it_quotes(root, tab):
    tab.goto(f"{root}/book/01_dataset.html")
    tab.keyboard.press("Control+k")
    tab.locator("input[type=search]:focus").wait_for()
    tab.keyboard.type("estimator")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/search.html?q=estimator")
    tab.locator("#search-results li a").first.wait_for()
    if root.startswith("http:"):
        tab.locator("#search-results p.context").nth(3).wait_for()
        quoted = tab.locator("#search-results").inner_text()
        assert "…" in quoted and "\\" not in quoted
        marked = tab.locator("#search-results .highlighted").first
        look = marked.evaluate("(m) => [getComputedStyle(m).color, getComputedStyle(m).background]")
        ink, ground = (max(map(int, re.findall(r"\d+", text)[:3])) for text in look)
        assert ink > 200 and ground < 100  # in dark mode


# What foreign text might do if it ever became markup or code: the directive and the source that
# the browser names when it stops it, and the attempt.
OUTSIDE = "https://outside.example/"
INTRUSIONS = {
    "script-src-elem inline": "add('script', { textContent: 'did()' })",
    "script-src-attr inline": "html('<img src=data:, onerror=did()>')",
    "script-src-elem OUTa.js": "add('script', { src: 'OUTa.js' })",
    "script-src-elem data": "add('script', { src: 'data:text/javascript,did()' })",
    "script-src eval": "setTimeout('did()')",
    "img-src OUTa.svg": "html('<img src=OUTa.svg>')",
    "style-src-elem OUTa.css": "add('link', { rel: 'stylesheet', href: 'OUTa.css' })",
    "connect-src OUTa.txt": "fetch('OUTa.txt').catch(() => {})",
    "frame-src https://outside.example": "html('<iframe src=OUTa.html></iframe>')",
    "worker-src data": "try { new Worker('data:text/javascript,') } catch {}",
    "form-action OUTb.html": "html('<form method=post action=OUTb.html>').firstChild.submit()",
    "base-uri OUT": "add('base', { href: 'OUT' })",
}
PREPARE = """() => {
    window.did = () => stopped.push("a foreign script ran");
    window.add = (tag, fields) =>
        document.body.appendChild(Object.assign(document.createElement(tag), fields));
    window.html = (text) => add("div", { innerHTML: text });
}"""


def test_what_does_not_belong_to_the_page_is_stopped(root, tab):
    asked = []
    tab.route(f"{OUTSIDE}**", lambda route: (asked.append(route.request.url), route.abort()))
    tab.goto(f"{root}/book/playground.html")
    tab.locator(".nca-player canvas").wait_for()
    tab.evaluate(PREPARE)
    for attempt in INTRUSIONS.values():
        tab.evaluate(f"() => {{ {attempt.replace('OUT', OUTSIDE)} }}")
    reasons = {reason.replace("OUT", OUTSIDE) for reason in INTRUSIONS}
    tab.wait_for_function("(n) => new Set(stopped).size >= n", arg=len(reasons))
    assert set(tab.evaluate("stopped.splice(0)")) == reasons and asked == []
    tab.said = []  # another list than the one that what is still to come is added to


def test_a_missing_page_finds_its_parts_from_any_depth(served, tab):
    """Where the book's address is known its page 404 has a base, which its policy allows."""
    text = re.sub("<base [^>]*>", "", (HTML / "404.html").read_text(encoding="utf-8"))
    text = text.replace("<title>", f'<base href="{served}/404.html"><title>', 1)
    missing = f"{served}/deep/er/page.html"
    tab.route(missing, lambda route: route.fulfill(body=security.protect(text)))
    tab.goto(missing)
    width = "(image) => image.decode().then(() => image.naturalWidth)"
    assert tab.get_by_alt_text("A lizard").evaluate(width) > 100
    tab.get_by_role("link", name="search the book").click()
    tab.wait_for_url(f"{served}/search.html")


def test_the_demo_makes_no_markup_of_data(tab, tmp_path):
    """Under trusted types, where no text at all may become markup or a script's address."""
    title = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
    shown = demo.show("heart", title=title, controls=True, speed=240).data
    text = security.protect(f'<head><meta charset="utf-8" /><title>x</title></head>{shown}')
    strict = "; require-trusted-types-for 'script'; trusted-types 'none'\">"
    assert text.count("base-uri 'none'\">") == 1
    page = tmp_path / "notebook.html"
    page.write_text(text.replace("base-uri 'none'\">", f"base-uri 'none'{strict}"))
    tab.goto(page.as_uri())
    tab.get_by_text("where its training ended").wait_for()
    for slider in tab.get_by_role("slider").all():
        slider.press("ArrowRight")
    tab.get_by_role("combobox", name="View").select_option("hidden 1")
    with tab.expect_download():
        tab.get_by_role("button", name="Save image").click()
    assert title in tab.inner_text("figcaption")
    assert tab.locator(".nca-player :is(img, script)").count() == 0
    assert tab.evaluate("stopped") == []
    tab.evaluate("try { document.body.innerHTML = 'x' } catch {}")  # it would have been heard
    tab.wait_for_function("() => stopped.length")
    assert tab.evaluate("stopped.splice(0)") == ["require-trusted-types-for trusted-types-sink"]
    tab.said = []
