"""The live pattern as readers meet it: in the book, from disk or served, and in a notebook."""

import base64
import gzip
import io
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import serving, skip_or_fail
from PIL import Image
from test_book import HTML, PAGES

from nca_lib import browser, load_run

pytestmark = pytest.mark.browser

THEME_SAYS = ("[PST]", "[togglebutton]")  # what the theme itself writes into the console
GENEROUS = 60_000  # milliseconds; only a failure takes as long


class Reader:
    """A tab with the playground, and everything that went wrong in it."""

    def __init__(self, chromium, address: str, fragment: str = "", script: str = "", **context):
        view = {"viewport": {"width": 1280, "height": 1400}, "offline": address.startswith("file:")}
        self.context = chromium.new_context(**(view | context))
        self.context.add_init_script(script)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(GENEROUS)
        self.troubles, self.requests, self.weights = [], [], []
        self.tab.on("pageerror", lambda error: self.troubles.append(f"script error: {error}"))
        self.tab.on("console", self._hear)
        self.tab.on("requestfailed", lambda request: self.troubles.append(f"failed: {request.url}"))
        self.tab.on("request", lambda request: self._watch(request.url, address))
        self.tab.goto(address + fragment, wait_until="load")

    def _hear(self, message):
        if not message.text.startswith(THEME_SAYS):
            self.troubles.append(f"console: {message.text}")

    def _watch(self, url, address):
        self.requests.append(url)
        if urlsplit(url)[:2] != urlsplit(address)[:2] and urlsplit(url).scheme not in (
            "data",
            "blob",
        ):
            self.troubles.append(f"external request: {url}")
        if "/weights/" in url:
            self.weights.append(url.rpartition("/")[2])

    def button(self, name):
        return self.tab.get_by_role("button", name=name, exact=True)

    def pixels(self, index=0) -> np.ndarray:
        """The canvas as premultiplied RGBA, (H, W, 4) in [0, 1]."""
        address = self.tab.evaluate(
            "(i) => document.querySelectorAll('.nca-player canvas')[i].toDataURL()", index
        )
        image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        pixels = np.asarray(image.convert("RGBA"), np.float32) / 255
        return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)

    def steps(self) -> int:
        return int(re.match(r"Step (\d+)", self.tab.inner_text(".nca-counter"))[1])

    def wait_for_step(self, step):
        self.tab.wait_for_function(
            "(n) => parseInt(document.querySelector('.nca-counter').textContent.slice(5)) >= n",
            arg=step,
        )

    def status(self) -> str:
        return self.tab.inner_text(".nca-status")

    def wait_for_status(self, text):
        self.tab.wait_for_function(
            "(t) => document.querySelector('.nca-status').textContent.includes(t)", arg=text
        )

    def pause(self):
        self.button("Pause").click()
        return self


@pytest.fixture
def address():
    if "book/playground.html" not in PAGES:
        skip_or_fail(f"no playground at {HTML}; build it first with `make book`")
    return (HTML / "book" / "playground.html").as_uri()


@pytest.fixture
def read(chromium, address):
    """Opens the playground; whatever a test does, the page may not complain."""
    readers = []

    def open_page(fragment="", where=None, **options):
        readers.append(Reader(chromium, where or address, fragment, **options))
        readers[-1].tab.wait_for_selector(".nca-player canvas")
        return readers[-1]

    yield open_page
    for reader in readers:
        assert reader.troubles == []
        reader.context.close()


@pytest.fixture
def served(address):
    """The same page over http."""
    with serving(HTML) as root:
        yield f"{root}/book/playground.html"


def error(pixels, run) -> float:
    return float(np.mean((pixels - run.target) ** 2))


@pytest.mark.parametrize("where", ["disk", "http"])
def test_half_of_the_regenerating_lizard_grows_back(read, served, where):
    reader = read("#run=lizard-regenerating&speed=240", where=served if where == "http" else None)
    run = load_run("lizard-regenerating")
    reader.wait_for_step(64)
    reader.pause()
    whole = reader.pixels()
    reader.button("Cut in half").click()
    cut = reader.pixels()
    assert cut[:, :16].max() == 0
    np.testing.assert_array_equal(cut[:, 16:], whole[:, 16:])
    assert error(cut, run) > max(0.02, 1.5 * error(whole, run))
    reader.button("Play").click()
    reader.wait_for_step(reader.steps() + 160)
    reader.pause()
    healed = reader.pixels()
    assert error(healed, run) < 0.65 * error(cut, run)
    assert healed[:, :16, 3].sum() > 0.4 * whole[:, :16, 3].sum()
    assert reader.weights == ["lizard-regenerating.js"]  # and no other run's


def test_it_runs_only_while_it_is_seen(read):
    reader = read("#run=lizard-persistent&speed=120")
    reader.wait_for_step(4)
    frames = """(n) => new Promise((done) => {
        const wait = () => (n-- > 0 ? requestAnimationFrame(wait) : done());
        wait();
    })"""
    reader.tab.evaluate("scrollTo(0, document.body.scrollHeight)")
    reader.tab.evaluate("document.querySelector('.nca-player').style.marginTop = '-5000px'")
    reader.tab.evaluate(frames, 10)
    before = reader.steps()
    reader.tab.evaluate(frames, 20)
    assert reader.steps() == before
    reader.tab.evaluate("document.querySelector('.nca-player').style.marginTop = ''")
    reader.tab.evaluate("scrollTo(0, 0)")
    reader.wait_for_step(before + 4)


def test_patterns_that_never_learned_to_last_are_paused_once(read):
    reader = read("#run=heart&speed=240")
    reader.wait_for_status("the last step that training looked at")
    assert reader.steps() == 32
    assert error(reader.pixels(), load_run("heart")) < 0.03
    reader.button("Play").click()
    reader.wait_for_step(40)


def test_after_that_pause_another_pattern_grows_by_itself(read):
    reader = read("#run=heart&speed=240")
    reader.wait_for_status("the last step that training looked at")
    reader.tab.get_by_role("radio", name="Fish").click()
    reader.tab.get_by_text("🐠 Fish", exact=True).and_(reader.tab.locator("figcaption")).wait_for()
    reader.wait_for_status("the last step that training looked at")  # no longer the heart's
    assert error(reader.pixels(), load_run("fish")) < 0.03
    reader.tab.get_by_role("slider", name="Speed").fill("1")
    reader.button("Reset").click()
    reader.pause()  # the reader's own pause, however, holds
    reader.button("Reset").click()
    reader.tab.get_by_role("radio", name="Donut").click()
    reader.wait_for_status("Donut.")
    assert reader.steps() == 0 and reader.button("Play").is_visible()


def test_reduced_motion_begins_with_a_picture(read):
    reader = read("#run=lizard", reduced_motion="reduce")
    assert reader.button("Play").is_visible()
    assert reader.steps() == 32
    assert error(reader.pixels(), load_run("lizard")) < 0.02
    reader.tab.emulate_media(reduced_motion="no-preference")
    assert reader.steps() == 32  # nothing starts by itself
    reader.button("Reset").click()
    reader.button("Play").click()
    reader.wait_for_step(3)
    reader.tab.emulate_media(reduced_motion="reduce")
    reader.button("Play").wait_for()


def test_without_scripts_there_is_a_picture_and_a_sentence(chromium, address):
    with chromium.new_context(java_script_enabled=False, offline=True) as context:
        tab = context.new_page()
        tab.goto(address)
        assert tab.get_by_alt_text("A small green lizard on white").is_visible()
        assert tab.get_by_text("With scripts switched on, this lizard is alive").is_visible()


def test_with_scripts_the_still_makes_room(read):
    reader = read()
    assert not reader.tab.get_by_alt_text("A small green lizard on white").is_visible()


def by_mouse(reader, target):
    target.click()


def by_keyboard(reader, target):
    target.focus()
    reader.tab.keyboard.press("Enter")


@pytest.fixture(params=[by_mouse, by_keyboard])
def act(request):
    """Presses a button or follows a link."""
    return request.param


def test_play_step_reset_and_cut(read, act):
    reader = read("#run=lizard-persistent&speed=240")
    reader.wait_for_step(40)
    act(reader, reader.button("Pause"))
    assert reader.status() == f"Paused at step {reader.steps()}."
    before = reader.steps()
    act(reader, reader.button("Step"))
    assert reader.steps() == before + 1 and reader.status() == f"Step {before + 1}."
    act(reader, reader.button("Cut in half"))
    assert reader.status() == "Erased the left half." and reader.pixels()[:, :16].max() == 0
    act(reader, reader.button("Reset"))
    assert reader.steps() == 0 and reader.status() == "Back to the seed."
    assert np.argwhere(reader.pixels()[..., 3]).tolist() == [[16, 16]]
    act(reader, reader.button("Play"))
    reader.wait_for_step(3)


def test_the_pace_is_right_after_a_reset(read):
    reader = read("#run=lizard-persistent&speed=240")
    reader.wait_for_step(40)
    reader.tab.evaluate(
        """() => {
            said = [];
            const counter = document.querySelector(".nca-counter");
            const hear = () => said.push(counter.textContent);
            new MutationObserver(hear).observe(counter, { childList: true });
        }"""
    )
    reader.button("Reset").click()
    reader.tab.wait_for_function("() => said.filter((text) => text.includes('·')).length > 30")
    said = reader.tab.evaluate("said")
    start = next(i for i, text in enumerate(said) if text.startswith("Step 0"))
    assert all(re.fullmatch(r"Step \d+( · \d+ steps/s)?", text) for text in said[start:])


def test_saving_an_image_and_a_clip(read, act):
    reader = read("#run=lizard-regenerating&speed=120")
    reader.wait_for_step(32)
    with reader.tab.expect_download() as download:
        act(reader, reader.button("Save image"))
    assert download.value.suggested_filename == "lizard-regenerating.png"
    image = np.asarray(Image.open(download.value.path()).convert("RGB"))
    assert image.shape == (480, 480, 3)
    assert (image[0, 0] == 255).all() and image.min() < 100
    act(reader, reader.button("Save clip"))
    reader.wait_for_step(reader.steps() + 30)
    with reader.tab.expect_download() as download:
        act(reader, reader.button("Stop the clip"))
    assert re.fullmatch(r"lizard-regenerating\.(webm|mp4)", download.value.suggested_filename)
    assert download.value.path().stat().st_size > 1000
    reader.wait_for_status("Saved a clip.")


def test_a_clip_outlives_a_double_click_and_a_change_of_patterns(read):
    reader = read("#run=lizard-regenerating&speed=120&grid=64")
    with reader.tab.expect_download() as download:
        reader.button("Save clip").evaluate("(button) => { button.click(); button.click(); }")
        reader.tab.get_by_role("radio", name="Growing, persistent, regenerating").click()
        reader.wait_for_status("Lizard, Lizard persistent, Lizard regenerating.")
    assert download.value.path().read_bytes()[:4] == bytes.fromhex("1a45dfa3")  # WebM
    assert download.value.path().stat().st_size > 1000
    reader.wait_for_status("Saved a clip.")
    assert reader.button("Save clip").is_visible()


@pytest.mark.parametrize(
    ("name", "start", "more", "end"),
    [
        ("Speed", "30 steps/s", "31 steps/s", "240 steps/s"),
        ("Grid", "32 × 32", "40 × 40", "128 × 128"),
        ("Seeds", "1", "2", "9"),
        ("Fire rate", "0.50", "0.55", "1.00"),
        ("Turned by", "0°", "15°", "345°"),
    ],
)
def test_sliders(read, name, start, more, end):
    reader = read().pause()
    slider = reader.tab.get_by_role("slider", name=name, exact=True)
    assert slider.get_attribute("aria-valuetext") == start
    slider.focus()
    reader.tab.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == more
    box = slider.bounding_box()
    reader.tab.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert slider.get_attribute("aria-valuetext") == end
    if name == "Grid":
        assert reader.pixels().shape == (128, 128, 4)
    if name == "Seeds":
        assert (reader.pixels()[..., 3] > 0).sum() == 9
    reader.button("Step").click()


def test_patterns_are_chosen_by_mouse_and_keyboard_and_loaded_only_then(read):
    reader = read().pause()
    first = ["lizard-regenerating.js"]
    assert reader.weights == first
    reader.tab.get_by_role("radio", name="Donut").click()
    reader.wait_for_status("Donut.")
    assert reader.weights == [*first, "donut.js"]
    reader.tab.keyboard.press("ArrowRight")
    reader.wait_for_status("Fish.")
    assert reader.tab.get_by_role("radio", name="Fish").is_checked()
    assert reader.weights == [*first, "donut.js", "fish.js"]
    reader.tab.get_by_role("radio", name="Growing, persistent, regenerating").click()
    reader.wait_for_status("Lizard, Lizard persistent, Lizard regenerating.")
    assert reader.tab.locator(".nca-player canvas").count() == 3
    assert reader.weights[3:] == ["lizard.js", "lizard-persistent.js"]  # one is there already
    reader.button("Cut in half").click()
    assert all(reader.pixels(i)[:, :16].max() == 0 for i in range(3))


def test_views_by_mouse_and_keyboard(read):
    reader = read("#run=lizard-persistent&speed=240")
    reader.wait_for_step(40)
    reader.pause()
    view = reader.tab.get_by_role("combobox", name="View")
    options = view.locator("option").all_inner_texts()
    assert options == ["colour", "alpha", "living mask", *(f"hidden {i}" for i in range(4))]
    seen = [reader.pixels()]
    for option in options[1:]:
        view.select_option(option)
        seen.append(reader.pixels())
    for i, one in enumerate(seen):
        assert all(not np.array_equal(one, other) for other in seen[:i])
    mature = (seen[2][..., 0] == 0) & (seen[2][..., 3] == 1)
    assert 50 < mature.sum() < 500
    view.focus()
    reader.tab.keyboard.press("ArrowUp")
    assert view.input_value() == "hidden 2"
    np.testing.assert_array_equal(reader.pixels(), seen[-2])


def test_the_pointer_erases_drags_and_plants(read):
    reader = read("#run=lizard-regenerating&speed=240")
    reader.wait_for_step(48)
    reader.pause()
    canvas = reader.tab.locator(".nca-player canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()

    def at(row, column):
        return box["x"] + box["width"] * column, box["y"] + box["height"] * row

    before = reader.pixels()
    reader.tab.mouse.move(*at(0.5, 0.5))
    reader.tab.mouse.down()
    assert reader.status() == "Erased."
    after = reader.pixels()
    assert before[14:18, 14:18, 3].min() > 0 and after[14:18, 14:18].max() == 0
    np.testing.assert_array_equal(after[:, :12], before[:, :12])
    reader.tab.mouse.move(*at(0.5, 0.1))  # one long movement, without gaps
    reader.tab.mouse.up()
    assert reader.pixels()[15:17, 3:17].max() == 0
    left = reader.pixels()
    reader.tab.mouse.move(*at(0.9, 0.9))  # the button is up
    np.testing.assert_array_equal(reader.pixels(), left)
    reader.tab.mouse.dblclick(*at(0.5 / 32, 0.5 / 32))
    assert reader.status() == "Planted a seed."
    assert reader.pixels()[0, 0].tolist() == [0, 0, 0, 1]
    reader.tab.get_by_role("radio", name="plants a seed").click()
    reader.tab.mouse.click(*at(31.5 / 32, 0.5 / 32))
    assert reader.pixels()[31, 0].tolist() == [0, 0, 0, 1]


def test_the_keyboard_erases_and_plants(read):
    reader = read("#run=lizard-regenerating&speed=240")
    reader.wait_for_step(48)
    reader.pause()
    before = reader.pixels()
    canvas = reader.tab.locator(".nca-player canvas")
    reader.tab.keyboard.press("Shift+Tab")  # from the button back to the canvas
    assert canvas.evaluate("(canvas) => canvas === document.activeElement")
    assert reader.tab.locator(".nca-cursor").is_visible()
    scrolled = reader.tab.evaluate("scrollY")
    reader.tab.keyboard.press("Enter")
    assert reader.status() == "Erased."
    after = reader.pixels()
    assert before[14:18, 14:18, 3].min() > 0 and after[14:18, 14:18].max() == 0
    reader.tab.keyboard.press("Tab")
    assert not reader.tab.locator(".nca-cursor").is_visible()
    erases = reader.tab.get_by_role("radio", name="erases")
    erases.focus()
    reader.tab.keyboard.press("ArrowRight")
    canvas.focus()
    for key in ["ArrowDown", "ArrowRight"] * 12:  # into the lower right corner
        reader.tab.keyboard.press(key)
    reader.tab.keyboard.press("Space")
    assert reader.status() == "Planted a seed."
    assert reader.pixels()[31, 31].tolist() == [0, 0, 0, 1]
    assert reader.tab.evaluate("scrollY") == scrolled


def test_a_finger_taps_and_the_page_still_scrolls(read):
    reader = read("#run=lizard-regenerating&speed=240", has_touch=True)
    reader.wait_for_step(48)
    reader.pause()
    canvas = reader.tab.locator(".nca-player canvas")
    assert "pan-y" in canvas.evaluate("(canvas) => getComputedStyle(canvas).touchAction")
    box = canvas.bounding_box()
    before = reader.pixels()
    # The browser takes a swipe for a scroll: pointercancel instead of pointerup.
    canvas.evaluate(
        """(canvas) => {
            const { left, top, width, height } = canvas.getBoundingClientRect();
            const place = { clientX: left + width / 2, clientY: top + height / 2 };
            for (const type of ["pointerdown", "pointercancel", "pointermove", "pointerup"]) {
                const finger = { pointerType: "touch", pointerId: 7, button: 0, bubbles: true };
                canvas.dispatchEvent(new PointerEvent(type, { ...finger, ...place }));
            }
        }"""
    )
    np.testing.assert_array_equal(reader.pixels(), before)
    reader.tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert reader.status() == "Erased."
    assert reader.pixels()[14:18, 14:18].max() == 0


def test_keys_that_are_the_browsers_own_stay_so(read):
    reader = read().pause()
    reader.tab.locator(".nca-player canvas").focus()
    reader.tab.evaluate("addEventListener('keydown', (e) => { taken = e.defaultPrevented; })")
    taken = {}
    for key in ["ArrowLeft", "Enter", "Alt+ArrowLeft", "Control+Enter", "Meta+ArrowUp", "PageDown"]:
        reader.tab.keyboard.press(key)
        taken[key] = reader.tab.evaluate("taken")
    assert [key for key in taken if taken[key]] == ["ArrowLeft", "Enter"]


@pytest.mark.parametrize("width", [320, 640])  # 1280 pixels at a zoom of 400 and 200 per cent
def test_on_a_narrow_page_nothing_is_cut_off(read, width):
    reader = read(viewport={"width": width, "height": 640})
    reader.tab.get_by_role("radio", name="Growing, persistent, regenerating").check()
    reader.wait_for_status("Lizard, Lizard persistent, Lizard regenerating.")
    outside = """(width) => [...document.querySelectorAll(".nca-player *")]
        .filter((e) => e.getBoundingClientRect().right > width || e.scrollWidth > width)
        .map((e) => e.outerHTML.slice(0, 80))"""
    assert reader.tab.evaluate(outside, width) == []
    assert reader.tab.evaluate("document.documentElement.scrollWidth") == width


def test_forced_colours_and_paper(read):
    reader = read("#run=lizard-persistent&speed=240")
    reader.wait_for_step(40)
    reader.pause()
    canvas = reader.tab.locator(".nca-player canvas")
    ground = "(canvas) => getComputedStyle(canvas).backgroundColor"
    before = canvas.evaluate(ground)
    reader.tab.emulate_media(forced_colors="active", color_scheme="dark")
    assert canvas.evaluate(ground) != "rgb(0, 0, 0)"
    reader.tab.emulate_media(forced_colors="none", color_scheme="light", media="print")
    assert canvas.is_visible() and canvas.evaluate(ground) == before
    assert not reader.button("Play").is_visible()
    assert not reader.tab.get_by_role("link", name="Link to this setting").is_visible()


LINK = "run=lizard+lizard-backprop&speed=7&grid=64&seeds=4&rate=0.75&angle=90&view=hidden+2"


def settings(reader) -> dict:
    """What the controls show."""
    sliders = reader.tab.get_by_role("slider").all()
    return {
        "sliders": [slider.get_attribute("aria-valuetext") for slider in sliders],
        "view": reader.tab.get_by_role("combobox", name="View").input_value(),
        "run": reader.tab.locator("input[name=run]:checked").get_attribute("value"),
        "canvases": reader.tab.locator(".nca-player canvas").count(),
        "size": reader.pixels().shape[0],
    }


def test_a_link_restores_every_setting(read, act):
    reader = read("#" + LINK)
    expected = {
        "sliders": ["7 steps/s", "64 × 64", "4", "0.75", "90°"],
        "view": "hidden 2",
        "run": "lizard lizard-backprop",
        "canvases": 2,
        "size": 64,
    }
    assert settings(reader) == expected
    link = reader.tab.get_by_role("link", name="Link to this setting").get_attribute("href")
    other = read(link)
    assert settings(other) == expected
    # An own change, then its link, then back to the first: the page follows its address.
    reader.tab.get_by_role("combobox", name="View").select_option("alpha")
    act(reader, reader.tab.get_by_role("link", name="Link to this setting"))
    assert "view=alpha" in reader.tab.evaluate("location.hash")
    reader.tab.go_back()
    reader.tab.wait_for_function(
        "() => document.querySelector('.nca-player select').value === 'hidden 2'"
    )
    assert settings(reader) == expected


def test_a_link_followed_while_weights_load_is_followed(read):
    script = """new MutationObserver((changes, observer) => {
        if (!document.querySelector("script[src*='weights/']")) return;
        observer.disconnect();
        location.hash = "run=heart&grid=64";
    }).observe(document, { childList: true, subtree: true })"""
    reader = read(script=script)
    reader.tab.get_by_role("application", name="Heart").wait_for()
    assert settings(reader)["run"] == "heart" and reader.pixels().shape == (64, 64, 4)


def test_of_quick_choices_the_last_one_counts(read):
    reader = read()
    reader.tab.evaluate(
        """() => {
            const radios = document.querySelectorAll(".nca-player input[name=run]");
            for (const radio of radios) radio.click();
            location.hash = "run=lizard-regenerating&speed=60"; // what is on show still
        }"""
    )
    reader.tab.wait_for_function("() => NCA.records.size >= 9")
    reader.wait_for_status("Lizard regenerating.")
    reader.wait_for_step(3)
    assert settings(reader)["run"] == "lizard-regenerating"
    assert reader.tab.get_by_role("application").count() == 1
    assert reader.tab.get_by_role("application", name="Lizard regenerating").is_visible()


HOSTILE = [
    "#run",
    "#run=newt",
    "#run=../../../../etc/passwd",
    "#run=https://example.com/x",
    "#run=__proto__&grid=__proto__&view=constructor",
    "#run=<img src=x onerror=alert(1)>&view=<script>alert(1)</script>",
    "#run=%3Cimg%20src=x%20onerror=alert(1)%3E",
    "#run=%E0%A4%A&grid=%",
    "#run=lizard-regenerating&grid=NaN&speed=-Infinity&rate=1e999&angle=x&seeds=&view=hidden+99",
    "#grid=99999&run=newt&grid=1&seeds=1000000&speed=0",
    "#" + "run=" * 20_000,
]


@pytest.mark.parametrize("fragment", HOSTILE, ids=range(len(HOSTILE)))
def test_malformed_links_do_no_harm(read, fragment):
    reader = read(fragment)
    tab = reader.tab
    tab.on("dialog", lambda dialog: reader.troubles.append("a dialog"))
    assert tab.locator(".nca-player :is(img, script)").count() == 0
    reader.wait_for_step(1)
    assert reader.weights == ["lizard-regenerating.js"]
    found = settings(reader)
    assert found["run"] == "lizard-regenerating" and found["view"] == "colour"
    assert 16 <= found["size"] <= 128
    tab.evaluate("(fragment) => { location.hash = fragment; }", fragment)
    reader.wait_for_step(2)
    assert settings(reader)["run"] == "lizard-regenerating"


@pytest.fixture
def copy(address, tmp_path):
    """A copy of the playground whose weight files may be replaced."""
    for path in HTML.iterdir():
        if path.name not in ("_static", "book"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "_static").mkdir()
    for path in (HTML / "_static").iterdir():
        if path.name != "weights":
            (tmp_path / "_static" / path.name).symlink_to(path)
    shutil.copytree(HTML / "_static" / "weights", tmp_path / "_static" / "weights")
    (tmp_path / "book").mkdir()
    page = shutil.copy(HTML / "book" / "playground.html", tmp_path / "book")
    return tmp_path, Path(page).as_uri()


BAD_WEIGHTS = {
    "empty": ("", "this page reads format 1"),
    "nothing": ("NCA.register(null);", "this page reads format 1"),
    "foreign": ('NCA.register({name: "heart", format: 7});', "this page reads format 1"),
    "other": ("fish", "of another run"),
    "changed": ("flip", "checksum does not match"),
    "missing": (None, "could not be loaded"),
}


def put(folder, name, content):
    file = folder / "_static" / "weights" / f"{name}.js"
    if content is None:
        file.unlink()
    elif content == "fish":
        fish = (folder / "_static" / "weights" / "fish.js").read_text()
        file.write_text(f'{fish}NCA.records.set("{name}", NCA.records.get("fish"));')
    elif content == "flip":
        text = file.read_text()
        place = text.index('"weights": "') + 40
        file.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    else:
        file.write_text(content)


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_malformed_weights_are_refused_in_words_and_do_no_harm(read, copy, kind):
    folder, where = copy
    content, message = BAD_WEIGHTS[kind]
    put(folder, "heart", content)
    reader = read("#run=lizard-regenerating&speed=240", where=where)
    reader.tab.get_by_role("radio", name="Heart").click()
    reader.wait_for_status(message)
    assert reader.tab.get_by_role("radio", name="Lizard regenerating").is_checked()
    reader.wait_for_step(reader.steps() + 3)  # what was there goes on
    if kind == "missing":  # the browser itself tells of a file that is not there
        assert len(reader.troubles) == 2 and "heart.js" in reader.troubles[0]
        assert "net::ERR_FILE_NOT_FOUND" in reader.troubles[1]
        reader.troubles.clear()


def test_a_file_cannot_make_the_page_wait(read, copy):
    folder, where = copy
    file = folder / "_static" / "weights" / "heart.js"
    text, count = re.subn(r'"num_steps": \d+', '"num_steps": 1e6', file.read_text())
    assert count == 1
    file.write_text(text)
    assert read("#run=heart", where=where, reduced_motion="reduce").steps() == 128


def test_where_the_first_weights_are_bad_the_still_stays(chromium, copy):
    folder, where = copy
    put(folder, "lizard-regenerating", "flip")
    reader = Reader(chromium, where)
    reader.tab.get_by_text("These weights cannot be used").wait_for()
    assert reader.tab.locator("canvas").count() == 0
    assert reader.troubles == []
    reader.context.close()


def test_a_notebook_shows_the_same_without_a_book(read, tmp_path):
    first = browser.show("heart", speed=240).data
    second = browser.show(load_run("lizard-regenerating"), grid=64, seeds=4, controls=True).data
    assert max(len(first), len(second)) < 80_000
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>x</title>{first}<hr>{second}")
    reader = read(where=page.as_uri())
    assert reader.tab.locator(".nca-player canvas").count() == 2
    assert reader.tab.evaluate("typeof NCA") == "undefined"  # nothing is left behind
    reader.wait_for_status("the last step that training looked at")
    assert error(reader.pixels(0), load_run("heart")) < 0.03
    assert reader.pixels(1).shape == (64, 64, 4)
    assert reader.tab.get_by_role("slider").count() == 5
    assert reader.weights == []


def test_two_on_one_page_keep_apart(read, tmp_path):
    shown = [browser.show(name, controls=True).data for name in ("lizard-persistent", "lizard")]
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>x</title>{shown[0]}{shown[1]}")
    reader = read(where=page.as_uri())
    first, second = reader.tab.locator(".nca-player").all()
    first.get_by_role("button", name="Pause").click()
    second.get_by_role("radio", name="plants a seed").check()
    second.get_by_role("slider", name="Grid", exact=True).fill("64")
    assert first.get_by_role("radio", name="erases").is_checked()
    assert first.get_by_role("button", name="Play").is_visible()
    second.get_by_role("button", name="Pause").click()
    assert reader.pixels(0).shape == (32, 32, 4) and reader.pixels(1).shape == (64, 64, 4)


def test_a_notebook_without_scripts_shows_a_picture(chromium, tmp_path):
    page = tmp_path / "notebook.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>x</title>{browser.show('donut').data}"
    )
    with chromium.new_context(java_script_enabled=False, offline=True) as context:
        tab = context.new_page()
        tab.goto(page.as_uri())
        image = tab.get_by_alt_text("Donut, as it has grown")
        assert image.is_visible() and image.evaluate("(image) => image.naturalWidth") > 100


def test_the_front_page_is_light_and_alive_before_any_other_run_is_fetched(chromium, served):
    reader = Reader(chromium, served.replace("playground", "index"))
    reader.wait_for_step(3)
    reader.tab.wait_for_load_state("networkidle")
    reader.pause().button("Cut in half").click()
    assert reader.pixels()[:, :16].max() == 0
    assert reader.weights == ["lizard-regenerating.js"]
    paths = {urlsplit(url).path[1:] for url in reader.requests if url.startswith("http:")}
    sizes = {path: (HTML / path).stat().st_size for path in paths}  # as they lie on the disk
    assert len(sizes) > 20 and sum(sizes.values()) < 1_500_000, sizes
    own = ("nca.js", "playground.js", "playground.css", "catalogue.js", "lizard-regenerating.js")
    packed = [
        len(gzip.compress((HTML / path).read_bytes())) for path in sizes if path.endswith(own)
    ]
    assert len(packed) == len(own) and sum(packed) < 25_000
    assert reader.troubles == []
    reader.context.close()
