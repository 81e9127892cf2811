"""The policy of the pages: what it says, what works under it, and what it stops."""

import base64
import hashlib
import re

import pytest
from bs4 import BeautifulSoup
from conftest import load_script, serving, skip_or_fail
from test_book import HTML

from nca_lib import browser

security = load_script("book/_ext/security.py")
PAGES = sorted(
    str(path.relative_to(HTML))
    for path in HTML.rglob("*.html")
    if path.relative_to(HTML).parts[0] != "_static"
)
CHATTER = ("[PST]", "[SBT]", "[togglebutton]")  # what the theme writes into the console
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


def test_scripts_in_the_page_run_by_their_hashes():
    # The hash is Chromium's own, from its refusal to run this script.
    text = security.protect('<head><meta charset="utf-8" /><script>window.bad=1</script></head>')
    found = policy_of(text)["script-src"]
    assert found == ["'self'", "'sha256-77Vir2G6sKNgJpejwFa4YK2/RReG7860D+kSupjVVFU='"]
    assert text.index("utf-8") < text.index("Content-Security-Policy") < text.index("<script>")


def test_scripts_are_hashed_as_they_stand():
    script = '\n  if (1 < 2 && "é") { run("<b>&amp;"); }\n'
    (_, found) = policy_of(security.protect(f"<script>{script}</script>"))["script-src"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert found == f"'sha256-{digest}'"


def test_a_second_build_replaces_the_policy():
    once = security.protect("<script>a</script><script>a</script><script src=b.js></script>")
    assert len(policy_of(once)["script-src"]) == 2
    assert security.protect(once) == once
    changed = security.protect(once.replace(">a<", ">c<"))
    assert policy_of(changed)["script-src"] != policy_of(once)["script-src"]


def test_a_page_that_only_leads_on_has_a_policy_too():
    text = security.protect('\n<meta http-equiv="Refresh" content="0; url=a.html" />\n')
    assert text.startswith("<meta http-equiv=")
    assert policy_of(text)["script-src"] == ["'self'"]


def test_base_is_allowed_only_where_there_is_one():
    assert policy_of(security.protect("<p>"))["base-uri"] == ["'none'"]
    assert policy_of(security.protect('<base href="https://a.example/"><p>'))["base-uri"] == [
        "'self'"
    ]


def test_the_theme_s_handlers_are_taken_out_and_others_named():
    text = security.protect('<button onclick="window.print()"\n class="btn">x</button>')
    assert "onclick" not in text and '<button\n class="btn">' in text
    quoted = '<pre>&lt;button onclick="window.print()"&gt; &lt;img onerror="x"&gt;</pre>'
    assert quoted in security.protect(quoted)
    for markup, message in [
        ('<img src="x" onerror="go()">', r"found onerror='go\(\)'"),
        ('<button onclick="other()">', r"found onclick='other\(\)'"),
        ('<a href=" JavaScript:go()">', r"found href=' JavaScript:go\(\)'"),
    ]:
        with pytest.raises(ValueError, match=message):
            security.protect(markup)


def test_every_page_that_is_built_has_its_policy(built):
    html, repository = built
    pages = [path for path in html.rglob("*.html") if path.parent.name != "_static"]
    assert len(pages) > 30
    for path in pages:
        text = path.read_text(encoding="utf-8")
        page, policy = BeautifulSoup(text, "html.parser"), policy_of(text)
        assert policy["default-src"] == ["'none'"] and "onclick" not in str(page.find_all("button"))
        scripts = {script.string for script in page.find_all("script", src=False)}
        assert len(policy["script-src"]) == 1 + len(scripts)
        allowed = {source for name, sources in policy.items() for source in sources}
        kinds = {source for source in allowed if not source.startswith("'sha256-")}
        assert kinds == {"'none'", "'self'", "'unsafe-inline'", "data:"}
        assert [name for name in policy if "'unsafe-inline'" in policy[name]] == ["style-src"]
        has_base = path.name == "404.html" and repository
        assert policy["base-uri"] == ["'self'" if has_base else "'none'"]


@pytest.fixture(scope="module")
def root(request):
    """Address of the book: on disk, or served."""
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    if request.param == "disk":
        yield HTML.as_uri()
    else:
        with serving(HTML) as address:
            yield address


@pytest.fixture
def tab(chromium):
    """A tab that hears what its pages complain of."""
    context = chromium.new_context()
    context.add_init_script(LISTEN)
    tab = context.new_page()
    tab.said = []
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on(
        "console",
        lambda message: message.text.startswith(CHATTER) or tab.said.append(message.text),
    )
    yield tab
    context.close()


both = pytest.mark.parametrize("root", ["disk", "http"], indirect=True)


@both
@pytest.mark.browser
@pytest.mark.parametrize("page", PAGES or [None], ids=str)
def test_nothing_that_a_page_does_is_stopped(root, tab, page):
    tab.goto(f"{root}/{page}", wait_until="load")
    if page == "index.html":
        tab.wait_for_url("**/book/index.html")
    tab.evaluate("document.querySelector('.math') && MathJax.startup.promise")
    if tab.locator(".nca-player").count():
        tab.locator(".nca-player canvas").first.wait_for()
    assert tab.evaluate("stopped") == [] and tab.said == []
    assert tab.evaluate("Boolean(document.querySelector('.math:not(:has(svg))'))") is False


@both
@pytest.mark.browser
def test_what_the_theme_offers_works(root, tab):
    """Buttons, theme, folded cells, copying; the search is below."""
    tab.context.add_init_script("window.print = () => { window.printed = true; };")
    if root.startswith("http:"):
        tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.goto(f"{root}/book/02_architecture.html")
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
    cell = tab.locator("div.highlight", has_text="config = replace(").first
    cell.hover()
    cell.locator("xpath=..").get_by_role("button", name="Copy").click()
    tab.wait_for_function("() => document.querySelector('button.copybtn.success')")
    if root.startswith("http:"):
        assert "config = replace(" in tab.evaluate("navigator.clipboard.readText()")
    assert tab.evaluate("stopped") == [] and tab.said == []


@both
@pytest.mark.browser
def test_the_search_finds_and_where_pages_may_fetch_it_quotes(root, tab):
    tab.goto(f"{root}/book/01_dataset.html")
    tab.keyboard.press("Control+k")
    tab.keyboard.type("regenerating")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/search.html?q=regenerating")
    tab.locator("#search-results li a").first.wait_for()
    if root.startswith("http:"):
        tab.locator("#search-results p.context").first.wait_for()
        assert tab.said == []
    assert tab.evaluate("stopped") == []


# What foreign text might do if it ever became markup or code: the directive and the source that
# the browser names when it stops it, and the attempt. Each calls did(its number) if it succeeds.
OUTSIDE = "https://outside.example/"
INTRUSIONS = [
    ("script-src-elem inline", "add('script', { textContent: 'did(0)' })"),
    ("script-src-attr inline", "html('<img src=data:, onerror=did(1)>')"),
    (f"script-src-elem {OUTSIDE}2.js", f"add('script', {{ src: '{OUTSIDE}2.js' }})"),
    ("script-src-elem data", "add('script', { src: 'data:text/javascript,did(3)' })"),
    ("script-src eval", "setTimeout('did(4)')"),
    (
        f"img-src {OUTSIDE}5.svg",
        f"html('<img src={OUTSIDE}5.svg>').firstChild.onload = () => did(5)",
    ),
    (
        f"style-src-elem {OUTSIDE}6.css",
        f"add('link', {{ rel: 'stylesheet', href: '{OUTSIDE}6.css', onload: () => did(6) }})",
    ),
    (f"connect-src {OUTSIDE}7.txt", f"fetch('{OUTSIDE}7.txt').then(() => did(7), () => {{}})"),
    ("frame-src https://outside.example", f"html('<iframe src={OUTSIDE}8.html></iframe>')"),
    (
        "worker-src blob",
        "try { new Worker(URL.createObjectURL(new Blob(['postMessage(9)']))).onmessage = hear }"
        " catch {}",
    ),
    (
        f"form-action {OUTSIDE}10.html",
        "html('<iframe name=aside></iframe><form target=aside method=post "
        f"action={OUTSIDE}10.html></form>').lastChild.submit()",
    ),
    (
        f"base-uri {OUTSIDE}",
        f"add('base', {{ href: '{OUTSIDE}' }}); document.baseURI === '{OUTSIDE}' && did(11)",
    ),
]
PREPARE = """() => {
    window.done = new Set();
    window.did = (i) => done.add(i);
    window.hear = ({ data }) => did(data);
    addEventListener("message", hear);
    window.add = (tag, fields) =>
        document.body.appendChild(Object.assign(document.createElement(tag), fields));
    window.html = (text) => add("div", { innerHTML: text });
}"""


def answer(route):
    """What the outside would say, if it were asked."""
    number, ending = route.request.url.removeprefix(OUTSIDE).split(".")
    kind, body = {
        "js": ("text/javascript", f"did({number})"),
        "svg": ("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "css": ("text/css", ""),
        "txt": ("text/plain", ""),
        "html": ("text/html", f"<script>parent.postMessage({number}, '*')</script>"),
    }[ending]
    headers = {"Access-Control-Allow-Origin": "*"}
    route.fulfill(content_type=kind, body=body, headers=headers)


@both
@pytest.mark.browser
@pytest.mark.parametrize("is_on", [True, False], ids=["policy", "without"])
def test_what_does_not_belong_to_the_page_is_stopped(chromium, root, is_on):
    """Without the policy each attempt succeeds; with it none does, and the browser says why."""
    context = chromium.new_context(bypass_csp=not is_on)
    context.add_init_script(LISTEN)
    asked = []
    context.route(f"{OUTSIDE}**", lambda route: (asked.append(route.request.url), answer(route)))
    tab = context.new_page()
    tab.goto(f"{root}/book/playground.html")
    tab.locator(".nca-player canvas").wait_for()
    tab.evaluate(PREPARE)
    for _, attempt in INTRUSIONS:
        tab.evaluate(f"() => {{ {attempt} }}")
    if is_on:
        heard = "(reasons) => reasons.every((reason) => stopped.includes(reason))"
        tab.wait_for_function(heard, arg=[reason for reason, _ in INTRUSIONS])
        assert tab.evaluate("done.size") == 0 and asked == []
    else:
        tab.wait_for_function("(n) => done.size >= n", arg=len(INTRUSIONS))
        assert tab.evaluate("stopped") == [] and len(asked) == 6
    context.close()


@pytest.mark.browser
def test_a_missing_page_finds_its_parts_from_any_depth(tab, tmp_path):
    """Where the book's address is known its page 404 has a base, which its policy allows."""
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    for path in HTML.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with serving(tmp_path) as address:
        base = f'<base href="{address}/404.html">'
        text = re.sub("<base [^>]*>", "", (HTML / "404.html").read_text(encoding="utf-8"))
        text = security.protect(text.replace("<title>", f"{base}<title>", 1))
        (tmp_path / "deep" / "er" / "404.html").write_text(text, encoding="utf-8")
        tab.goto(f"{address}/deep/er/404.html")
        assert tab.get_by_alt_text("A lizard").evaluate("(image) => image.naturalWidth") > 100
        tab.get_by_role("link", name="search the book").click()
        tab.wait_for_url(f"{address}/search.html")
    assert tab.said == []


@pytest.mark.browser
def test_the_demo_makes_no_markup_of_data(tab, tmp_path):
    """Under trusted types, where no text at all may become markup or a script's address."""
    title = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
    shown = browser.show("heart", title=title, controls=True, speed=240).data
    text = security.protect(f'<head><meta charset="utf-8" /><title>x</title></head>{shown}')
    strict = "; require-trusted-types-for 'script'; trusted-types 'none'\">"
    assert text.count("base-uri 'none'\">") == 1
    page = tmp_path / "notebook.html"
    page.write_text(text.replace("base-uri 'none'\">", f"base-uri 'none'{strict}"))
    tab.goto(page.as_uri())
    tab.get_by_text("the last step that training looked at").wait_for()
    for slider in tab.get_by_role("slider").all():
        slider.press("ArrowRight")
    tab.get_by_role("combobox", name="View").select_option("hidden 1")
    with tab.expect_download():
        tab.get_by_role("button", name="Save image").click()
    assert title in tab.inner_text("figcaption")
    assert tab.locator(".nca-player :is(img, script)").count() == 0
    assert tab.evaluate("stopped") == [] and tab.said == []
    tab.evaluate("try { document.body.innerHTML = 'x' } catch {}")  # it would have been heard
    assert tab.evaluate("stopped") == ["require-trusted-types-for trusted-types-sink"]
