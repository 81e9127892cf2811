"""The live pattern as readers meet it: in the book, from disk or served, and in a notebook."""

import contextlib
import gzip
import os
import re
import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import serving, write_page
from PIL import Image
from readers import Reader, opening
from test_book import HTML

from nca_lib import load_run
from nca_lib.show import page as demo

STILL = "A small green lizard on white"
HELD = "where its training ended"
THREE = "run=lizard+lizard-persistent+lizard-regenerating"


class Player(Reader):
    def weights(self):
        return [url.rpartition("/")[2] for url in self.requests if re.search("/weights/.*js", url)]

    def pixels(self, index=0) -> np.ndarray:
        """The canvas as premultiplied RGBA, (H, W, 4) in [0, 1]."""
        pixels = super().pixels(index).astype(np.float32) / 255
        return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)

    def wait_for_nothing(self, rows, columns):
        """Until this part of the canvas is empty: touches arrive with the frame that follows."""
        self.tab.wait_for_function(
            """([top, left, height, width]) => {
                const copy = new OffscreenCanvas(width, height).getContext("2d");
                copy.drawImage(document.querySelector(".nca-player canvas"), -left, -top);
                return copy.getImageData(0, 0, width, height).data.every((value) => value === 0);
            }""",
            arg=[rows.start, columns.start, len(rows), len(columns)],
        )

    @contextlib.contextmanager
    def hears(self, text):
        """What is done inside makes the page say this, however soon it says more."""
        self.tab.evaluate(
            """() => {
                said = "";
                const listen = (changes) => changes.forEach(({ addedNodes }) =>
                    addedNodes.forEach((node) => { said += `${node.data}\n`; }));
                const status = document.querySelector(".nca-status");
                new MutationObserver(listen).observe(status, { childList: true });
            }"""
        )
        yield
        self.tab.wait_for_function("(text) => said.includes(text)", arg=text)

    def choose(self, pattern, said=None):
        with self.hears(said or f"{pattern}."):
            self.role("radio", pattern).click()


@pytest.fixture
def read(chromium):
    with opening(Player, chromium, "playground") as read:
        yield read


def error(pixels, name) -> float:
    return float(np.mean((pixels - load_run(name).target) ** 2))


def test_half_of_the_regenerating_lizard_grows_back(read):
    name = "lizard-regenerating"
    reader = read(f"#run={name}&speed=240&grid=32").pause(64)
    assert not reader.tab.get_by_alt_text(STILL).is_visible()
    whole = reader.pixels()
    reader.button("Cut in half").click()
    cut = reader.pixels()
    gone = (cut == 0).all(axis=-1) & (whole != 0).any(axis=-1)
    np.testing.assert_array_equal(cut[~gone], whole[~gone])
    assert error(cut, name) > max(0.02, 1.5 * error(whole, name))
    reader.button("Play").click()
    healed = reader.pause(reader.steps() + 160).pixels()
    assert error(healed, name) < 0.65 * error(cut, name)
    assert healed[gone, 3].sum() > 0.4 * whole[gone, 3].sum()
    assert reader.weights() == [f"{name}.js"]  # and no other run's


def test_the_lizard_of_the_front_page_heals(read):
    """A drag across it takes much away, most of which comes back."""
    reader = read(where="index", viewport={"width": 390, "height": 844}).pause(128)
    target = load_run("lizard-regenerating").target

    def error():
        return float(np.mean((reader.pixels()[4:-4, 4:-4] - target) ** 2))

    whole = error()
    reader.drag((0.3, 0.5), (0.55, 0.3))  # across its head
    cut = error()
    reader.button("Play").click()
    reader.pause(reader.steps() + 100)
    assert cut > 1.6 * whole
    assert error() < min(2 * whole, 0.85 * cut)


def test_it_runs_only_while_it_is_seen(read):
    reader = read("#run=lizard-persistent&speed=120").wait_for_step(4)
    reader.assert_it_sleeps_out_of_sight()


def test_patterns_that_never_learned_to_last_are_paused_once(read):
    reader = read("#run=heart&speed=240&grid=32")
    reader.wait_for_status(HELD)
    assert reader.steps() == 32 and error(reader.pixels(), "heart") < 0.03
    reader.choose("Fish")  # which grows by itself
    reader.wait_for_status(HELD)
    assert error(reader.pixels(), "fish") < 0.03
    reader.canvas.click()  # what stands still so wakes when it is touched
    reader.wait_for_step(40)
    reader.pause()  # the reader's own pause, however, holds
    reader.canvas.click()
    reader.button("Start over").click()
    reader.choose("Donut")
    assert reader.steps() == 0 and reader.button("Play").is_visible()


def test_reduced_motion_begins_with_a_picture(read):
    reader = read("#run=fish&grid=32", reduced_motion="reduce")
    reader.tab.evaluate("location.hash = 'run=lizard&grid=32'")  # another one, chosen later
    reader.wait_for_status("Lizard")
    assert reader.button("Play").is_visible()
    assert reader.steps() == 32 and error(reader.pixels(), "lizard") < 0.02
    reader.tab.emulate_media(reduced_motion="no-preference")
    assert reader.steps() == 32  # nothing starts by itself
    reader.button("Start over").click()
    reader.button("Play").click()
    reader.wait_for_step(3)
    reader.tab.emulate_media(reduced_motion="reduce")
    reader.button("Play").wait_for()


def test_without_scripts_there_is_a_picture_and_a_sentence(chromium, tmp_path):
    with chromium.new_context(java_script_enabled=False, offline=True) as context:
        tab = context.new_page()
        for page in ("evolve", "playground"):
            tab.goto((HTML / "book" / f"{page}.html").as_uri())
            assert tab.get_by_text("With scripts switched on").is_visible()
        assert tab.get_by_alt_text(STILL).is_visible()
        tab.goto(write_page(tmp_path, demo.show("donut").data))
        image = tab.get_by_alt_text("Donut, as it has grown")
        assert image.is_visible() and image.evaluate("(image) => image.naturalWidth") > 100


def test_play_step_reset_and_cut_by_keyboard(read):
    reader = read("#run=lizard-persistent&speed=240&grid=32").wait_for_step(40)

    def press(name):
        reader.button(name).press("Enter")

    press("Pause")
    before = reader.steps()
    assert str(before) in reader.status()
    press("Step")
    assert reader.steps() == before + 1 and str(before + 1) in reader.status()
    whole = reader.pixels()
    press("Cut in half")
    assert 0 < reader.pixels()[..., 3].sum() < 0.8 * whole[..., 3].sum()
    press("Start over")
    assert reader.steps() == 0 and np.argwhere(reader.pixels()[..., 3]).tolist() == [[16, 16]]
    press("Play")
    reader.wait_for_step(200)
    press("Start over")
    pace = "() => document.querySelector('.nca-counter').textContent.split('·')[1]"
    assert re.fullmatch(r" \d+ steps/s", reader.tab.wait_for_function(pace).json_value())


def test_saving_an_image(read):
    saved = read("#run=lizard-regenerating&speed=120").wait_for_step(32).saved("Save image")
    assert saved.suggested_filename == "lizard-regenerating.png"
    image = np.asarray(Image.open(saved.path()).convert("RGB"))
    assert image.shape == (480, 480, 3)
    assert (image[0, 0] == 255).all() and image.min() < 100


def test_a_clip_outlives_a_double_click_and_a_change_of_patterns(read):
    # However slow the machine is, the clip does not end by itself meanwhile.
    keep = """window.setTimeout = ((later) => (act, wait, ...told) =>
        wait === 4000 ? 0 : later(act, wait, ...told))(setTimeout);"""
    reader = read("#run=lizard-regenerating&speed=120&grid=64", script=keep)
    twice = "(button) => { button.click(); button.click(); return performance.now(); }"
    with reader.tab.expect_download() as download:
        begun = reader.button("Save clip").evaluate(twice)
        reader.choose("Donut")
        reader.wait_for_step(30)
        reader.tab.wait_for_function("(begun) => performance.now() > begun + 500", arg=begun)
        reader.button("Stop the clip").click()
    assert download.value.path().read_bytes()[:4] == bytes.fromhex("1a45dfa3")  # WebM
    assert download.value.path().stat().st_size > 1000
    reader.button("Save clip").wait_for()


def test_sliders(read):
    reader = read("#run=lizard-persistent").pause()
    for name, start, more, end in [
        ("Speed", "10 steps/s", "15 steps/s", "as fast as it goes"),
        ("Seeds", "1", "2", "9"),
        ("World", "48 × 48", "56 × 56", "128 × 128"),
        ("Eraser", "3 cells", "4 cells", "16 cells"),
        ("Fire rate", "0.50", "0.55", "1.00"),
        ("Turned by", "0°", "1°", "359°"),
    ]:
        slider = reader.role("slider", name)
        assert slider.get_attribute("aria-valuetext") == start
        slider.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == more
        box = slider.bounding_box()
        reader.tab.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
        assert slider.get_attribute("aria-valuetext") == end
    assert reader.pixels().shape == (128, 128, 4) and (reader.pixels()[..., 3] > 0).sum() == 9
    reader.button("Step").click()


def test_patterns_are_chosen_by_mouse_and_keyboard_and_loaded_only_then(read):
    reader = read().pause()
    loaded = ["lizard-regenerating.js"]
    assert reader.weights() == loaded
    reader.choose("Donut")
    loaded += ["donut.js"]
    assert reader.weights() == loaded
    assert reader.role("radio", "persistent").is_disabled()  # nobody trained that
    reader.role("radio", "Donut").press("ArrowRight")
    reader.wait_for_status("Fish.")
    assert reader.role("radio", "Fish").is_checked()
    reader.choose("Lizard")
    reader.role("radio", "persistent").click()
    reader.wait_for_status("Lizard persistent.")
    loaded += ["fish.js", "lizard.js", "lizard-persistent.js"]
    reader.button("Wound all three").click()
    reader.wait_for_status("Cut")
    assert reader.canvas.count() == 3 and reader.weights() == loaded
    tops = {round(canvas.bounding_box()["y"]) for canvas in reader.canvas.all()}
    assert len(tops) == 1, "in one row"
    reader.button("Start over").click()
    reader.role("radio", "Erase").click()
    reader.canvas.nth(1).click()  # in the middle of one, and so of all
    assert all(reader.pixels(i).max() == 0 for i in range(3))
    reader.tab.go_back()
    reader.wait_for_status("Lizard regenerating.")


def test_views_by_mouse_and_keyboard(read):
    reader = read("#run=lizard-persistent&speed=240&grid=32").pause(40)
    view = reader.role("combobox", "View")
    options = view.locator("option").all_inner_texts()
    assert options == ["colour", "alpha", "living mask", *(f"hidden {i}" for i in range(4))]
    seen = []
    for option in options:
        view.select_option(option)
        seen.append(reader.pixels())
    assert len({pixels.tobytes() for pixels in seen}) == len(options)
    mature = (seen[2][..., 0] == 0) & (seen[2][..., 3] == 1)
    assert 50 < mature.sum() < 500
    view.press("ArrowUp")
    assert view.input_value() == "hidden 2"
    np.testing.assert_array_equal(reader.pixels(), seen[-2])


@pytest.fixture
def grown(read):
    """A grown lizard, paused."""
    fragment = "#run=lizard-regenerating&speed=240&grid=32"
    reader = read(fragment, has_touch=True, viewport={"width": 1280, "height": 720}).pause(48)
    reader.tab.evaluate("scrollTo(0, 0)")
    assert reader.pixels()[14:18, 14:18, 3].min() > 0
    return reader


def test_the_pointer_erases_drags_and_plants(grown):
    mouse, before = grown.tab.mouse, grown.pixels()
    mouse.move(*grown.at(0.5, 0.5))
    mouse.down()
    after = grown.pixels()
    assert grown.status() and after[14:18, 14:18].max() == 0
    np.testing.assert_array_equal(after[:, :12], before[:, :12])
    mouse.move(*grown.at(0.1, 0.5))  # one long movement, without gaps
    mouse.up()
    left = grown.pixels()
    assert left[15:17, 3:17].max() == 0
    mouse.move(*grown.at(0.9, 0.9))  # the button is up
    np.testing.assert_array_equal(grown.pixels(), left)
    ring = grown.tab.locator(".nca-cursor").bounding_box()
    assert ring["width"] == pytest.approx(grown.canvas.bounding_box()["width"] * 6 / 32, rel=0.05)
    grown.role("radio", "Plant").click()
    mouse.click(*grown.at(0.5 / 32, 31.5 / 32))
    assert grown.pixels()[31, 0].tolist() == [0, 0, 0, 1]


def test_the_keyboard_erases_and_plants_and_leaves_the_browser_its_own(grown):
    press = grown.tab.keyboard.press
    press("Shift+Tab")  # from the button back to the canvas
    assert grown.has_focus(grown.canvas)
    cursor = grown.tab.locator(".nca-cursor")
    assert cursor.is_visible()
    scrolled = grown.tab.evaluate("scrollY")
    press("Enter")
    assert grown.status() and grown.pixels()[14:18, 14:18].max() == 0
    press("Tab")
    assert not cursor.is_visible()
    grown.role("radio", "Erase").press("ArrowRight")
    grown.role("radio", "Cut").press("ArrowRight")
    grown.canvas.focus()
    for key in ["ArrowDown", "ArrowRight"] * 12:  # into the lower right corner
        press(key)
    press("Space")
    assert grown.pixels()[31, 31].tolist() == [0, 0, 0, 1]
    assert grown.tab.evaluate("scrollY") == scrolled
    grown.tab.evaluate("addEventListener('keydown', (e) => { taken = e.defaultPrevented; })")
    for key in ["ArrowLeft", "Alt+ArrowLeft", "Control+Enter", "Meta+ArrowUp", "PageDown"]:
        press(key)
        assert grown.tab.evaluate("taken") == (key == "ArrowLeft")


def test_a_finger_taps_and_wipes_and_a_swipe_scrolls_the_page(grown):
    before = grown.pixels()
    grown.swipe_and_scroll(*((0.5, 0.6 - 0.05 * i) for i in range(11)))
    np.testing.assert_array_equal(grown.pixels(), before)
    grown.swipe(*((0.1 + 0.05 * i, 0.5) for i in range(11)))
    grown.wait_for_nothing(range(15, 17), range(10, 19))
    grown.button("Start over").click()
    grown.tab.touchscreen.tap(*grown.at(0.5, 0.5))
    grown.wait_for_nothing(range(32), range(32))


def test_cuts_at_any_angle_and_turns_that_follow_a_drag(grown):
    whole, turned = grown.pixels(), grown.role("slider", "Turned by")
    grown.role("radio", "Turn").click()
    grown.drag((0.5, 0.1), (0.9, 0.5))  # from the top to the right
    np.testing.assert_array_equal(grown.pixels(), np.rot90(whole, -1))
    assert turned.get_attribute("aria-valuetext") == "90°"
    grown.canvas.focus()
    for _ in range(18):
        grown.tab.keyboard.press("ArrowLeft")
    assert turned.get_attribute("aria-valuetext") == "0°"
    grown.role("radio", "Cut").click()
    grown.drag((0.1, 0.1), (0.9, 0.9))
    cut = grown.pixels()[..., 3]
    y, x = np.mgrid[:32, :32]
    upper, lower = cut[y < x].sum(), cut[y > x].sum()
    assert min(upper, lower) == 0 and max(upper, lower) > 0
    for key in ["ArrowUp"] * 5 + ["Enter"]:  # straight up from the middle of the cursor's row
        grown.tab.keyboard.press(key)
    assert 0 < grown.pixels()[..., 3].sum() < cut.sum()


def test_on_a_narrow_page_nothing_is_cut_off(read):
    width = 320  # 1280 pixels at a zoom of 400 per cent
    reader = read(f"#{THREE}", viewport={"width": width, "height": 640})
    outside = """(width) => [...document.querySelectorAll(".nca-player *")]
        .filter((e) => !e.closest(".nca-strip, .nca-tries, .nca-frame"))
        .filter((e) => e.getBoundingClientRect().right > width || e.scrollWidth > width)
        .map((e) => e.outerHTML.slice(0, 80))"""
    assert reader.tab.evaluate(outside, width) == []
    assert reader.tab.evaluate("document.documentElement.scrollWidth") <= width


def test_forced_colours_and_paper(read):
    reader = read("#run=lizard-persistent&speed=240").pause(40)
    ground = "(canvas) => getComputedStyle(canvas).backgroundColor"
    before = reader.canvas.evaluate(ground)
    reader.tab.emulate_media(forced_colors="active", color_scheme="dark")
    assert reader.canvas.evaluate(ground) != "rgb(0, 0, 0)"
    reader.tab.emulate_media(forced_colors="none", color_scheme="light", media="print")
    # The theme follows the system's colours in an event of its own, after this call has returned.
    canvas = "document.querySelector('.nca-player canvas')"
    is_light = f"(ground) => getComputedStyle({canvas}).backgroundColor === ground"
    reader.tab.wait_for_function(is_light, arg=before)
    assert reader.canvas.is_visible()
    assert not reader.button("Play").is_visible()
    assert not reader.button("Link to this setting").is_visible()


def settings(reader) -> tuple:
    """What the controls show, and how many grids there are."""
    sliders = reader.tab.get_by_role("slider").all()
    view = reader.role("combobox", "View").input_value()
    shown = (slider.get_attribute("aria-valuetext") for slider in sliders)
    return reader.canvas.count(), view, *shown


def test_a_link_restores_every_setting_and_back_leads_back(read):
    # As the first edition wrote it, where angles had steps of 15 degrees.
    link = "run=lizard+lizard-backprop&speed=7&grid=64&seeds=4&rate=0.75&angle=-90&view=hidden+2"
    reader = read(f"#{link}", permissions=["clipboard-read", "clipboard-write"])
    expected = (2, "hidden 2", "7 steps/s", "64 × 64", "4", "3 cells", "0.75", "270°")
    reader.wait_for_step(0)
    assert settings(reader)[-1] == expected[-1]
    assert settings(reader) == expected and reader.pixels(1).shape == (64, 64, 4)
    reader.role("combobox", "View").select_option("alpha")
    with reader.hears("Copied"):
        reader.button("Link to this setting").press("Enter")
    copied = reader.tab.evaluate("navigator.clipboard.readText()")
    assert copied == reader.tab.url and "view=alpha" in copied
    assert settings(read(where=copied)) == (2, "alpha", *expected[2:])
    reader.tab.go_back()
    shown = "() => document.querySelector('.nca-player select').value"
    reader.tab.wait_for_function(f"{shown} === 'hidden 2'")
    assert settings(reader) == expected
    reader.tab.evaluate("location.hash = 'what-to-try'")  # a section, and no setting
    assert settings(reader) == expected


def test_a_link_to_a_pattern_that_is_not_here_says_so(read):
    reader = read("#run=newt&angle=360&speed=0.1")
    reader.wait_for_status("no pattern “newt”")
    assert settings(reader)[2] == "1 step in 2 s" and settings(reader)[-1] == "0°"


def test_of_quick_choices_the_last_one_counts(read):
    reader = read()
    reader.tab.evaluate(
        """() => {
            const radios = document.querySelectorAll(".nca-player input[name=picture]");
            for (const radio of radios) radio.click();
            location.hash = "run=lizard-regenerating&speed=60"; // what is on show still
        }"""
    )
    reader.tab.wait_for_function("() => NCA.records.size >= 9")
    reader.wait_for_status("Lizard regenerating.")
    reader.wait_for_step(3)
    assert reader.role("radio", "regenerating").is_checked() and reader.canvas.count() == 1
    assert reader.tab.get_by_role("application", name="Lizard regenerating").is_visible()


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
@pytest.mark.parametrize("page", ["index", "playground"])
def test_everything_is_on_one_screen_and_nothing_moves(read, page, width, height):
    reader = read(where=page, viewport={"width": width, "height": height}).wait_for_step(1)
    # On the front page the ways to the other live pages, too.
    ways = reader.tab.locator(".nca-hero + p a")
    used = reader.tab.locator(".nca-player :is(canvas, button, input, select)").or_(ways)
    assert max(reader.edges(used)) <= height
    reader.assert_nothing_moved()
    assert reader.tab.get_by_text("Drag to erase").is_visible()
    assert ways.and_(reader.tab.locator("[href='evolve.html']")).count() == (page == "index")


def test_what_does_not_last_starts_over_in_time_and_says_so(read):
    """A player that a page makes for itself, as the head of player.js says."""
    reader = read("#run=heart")
    make = """() => {
        document.querySelector(".nca-player").remove();
        const box = document.createElement("div");
        box.className = "nca-player";
        document.querySelector("article h1").after(box);
        NCA.player(box, NCA.records.get("heart"), { again: true, speed: 1000, tools: "play" });
    }"""
    reader.tab.evaluate(make)
    reader.wait_for_status("starts over soon")
    reader.wait_for_status("Started over")
    assert reader.button("Pause").is_visible() and not reader.button("Start over").is_visible()
    assert reader.pixels().shape == (32, 32, 4)


@pytest.fixture
def replace(tmp_path):
    """Replaces weight files of a copy of the book; gives the address of its playground."""
    shutil.copytree(HTML, tmp_path / "html", copy_function=os.symlink)

    def put(**files):
        for name, change in files.items():
            file = tmp_path / "html" / "_static" / "weights" / f"{name.replace('_', '-')}.js"
            text = change(file.read_text())
            file.unlink()
            if text is not None:
                file.write_text(text)
        return (tmp_path / "html" / "book" / "playground.html").as_uri()

    return put


def damage(text):
    """Another first letter of the weights."""
    return re.sub(r'(?<="weights": ")(.)', lambda found: "AB"[found[1] == "A"], text)


def test_malformed_weights_are_refused_in_words_and_do_no_harm(read, replace):
    copied = 'NCA.records.set("fish", NCA.records.get("lizard-regenerating"));'
    files = {"heart": lambda _: "", "fish": lambda _: copied, "donut": damage}
    where = replace(**files, butterfly=lambda _: None)
    reader = read("#run=lizard-regenerating&speed=240", where=where)
    for name, message in [
        ("Heart", "this page reads formats 1 and 2"),
        ("Fish", "of another run"),
        ("Donut", "checksum does not match"),
        ("Butterfly", "could not be loaded"),
    ]:
        reader.choose(name, message)
        assert reader.role("radio", "Lizard").is_checked()
        reader.wait_for_step(reader.steps() + 3)  # what was there goes on
    (told,) = reader.troubles  # the browser itself tells of a file that is not there
    assert "net::ERR_FILE_NOT_FOUND" in told
    reader.troubles.clear()


def test_a_file_cannot_make_the_page_wait(read, replace):
    where = replace(heart=lambda text: re.sub(r'"num_steps": \d+', '"num_steps": 1e6', text))
    still = "performance.now = () => 0"  # it would stop after some seconds, too
    reader = read("#run=heart", where=where, reduced_motion="reduce", script=still)
    assert reader.steps() == 128


def test_where_the_first_weights_are_bad_words_say_so_and_others_still_grow(read, replace):
    where = replace(lizard_regenerating=damage)
    reader = read(where=where, sees=".nca-player p:text('cannot be used')")
    assert reader.canvas.count() == 0 and reader.tab.get_by_alt_text(STILL).is_visible()
    reader.button("Step").click()
    reader.choose("Donut")
    reader.wait_for_step(2)
    told = ".nca-player p:text('This is a picture of what they grow')"
    reader = read(where=where.replace("playground", "index"), sees=told)
    assert reader.tab.get_by_alt_text(STILL).is_visible()


def test_a_notebook_shows_several_that_keep_apart(read, tmp_path):
    bare = demo.show("heart", speed=240).data
    large = demo.show(load_run("lizard-regenerating"), grid=64, seeds=4, controls=True).data
    third = demo.show("lizard-persistent", title="lizard" * 150_000, controls=True).data
    assert max(len(bare), len(large)) < 80_000
    page = write_page(tmp_path, f"{bare}<hr>{large}<hr>{third}")
    reader = read(where=page, viewport={"width": 1280, "height": 4000})
    assert reader.tab.evaluate("typeof NCA") == "undefined"  # nothing is left behind
    reader.wait_for_status(HELD)
    assert error(reader.pixels(0), "heart") < 0.03
    _, second, third = reader.tab.locator(".nca-player").all()
    second.get_by_role("button", name="Pause").click()
    third.get_by_role("radio", name="Plant").check()
    third.get_by_role("slider", name="World", exact=True).fill("40")
    assert second.get_by_role("radio", name="Erase").is_checked()
    assert second.get_by_role("button", name="Play").is_visible()
    third.get_by_role("button", name="Pause").click()
    assert [reader.pixels(i).shape[0] for i in range(3)] == [32, 64, 40]
    assert reader.tab.get_by_role("slider").count() == 12
    assert reader.tab.evaluate("document.documentElement.scrollWidth") <= 1280  # by no title
    assert reader.weights() == []


def test_the_front_page_is_light_and_alive_before_any_other_run_is_fetched(read):
    with serving(HTML) as root:
        reader = read(where=f"{root}/book/index.html")
        reader.wait_for_step(3)
        reader.tab.wait_for_load_state("networkidle")
        reader.pause().button("Cut in half").click()
    assert reader.pixels()[:, :16].max() == 0
    assert reader.weights() == ["lizard-regenerating.js"]
    paths = {urlsplit(url).path[1:] for url in reader.requests if url.startswith("http:")}
    sizes = {path: (HTML / path).stat().st_size for path in paths}  # as they lie on the disk
    assert len(sizes) > 20 and sum(sizes.values()) < 1_500_000, sizes
    own = ("nca.js", "playground.js", "playground.css", "catalogue.js", "lizard-regenerating.js")
    files = [(HTML / path).read_bytes() for path in paths if path.endswith(own)]
    assert len(files) == len(own) and sum(len(gzip.compress(file)) for file in files) < 25_000
