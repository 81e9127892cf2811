"""Evolution in the page, as readers meet it: from disk, without a network."""

import json
import re

import numpy as np
import pytest
from conftest import hear, longest_task, skip_or_fail
from PIL import Image
from test_book import HTML, PAGES, THEME_KNOWN, barriers

from nca_lib import load_emoji, load_run

pytestmark = pytest.mark.browser

GENEROUS = 3_600_000  # milliseconds; only a failure takes as long
WATCH = """
    window.shift = 0;
    new PerformanceObserver((list) => {
        for (const { value, hadRecentInput } of list.getEntries()) {
            shift += hadRecentInput ? 0 : value;
        }
    }).observe({ type: "layout-shift" });
"""
# Lists whose longest entry has less room than it would take by itself.
CUT = """() => [...document.querySelectorAll("select")].filter((select) => {
    const { width } = select.getBoundingClientRect();
    select.style.cssText = "width: max-content; max-width: none; justify-self: start";
    const needed = select.getBoundingClientRect().width;
    select.style.cssText = "";
    return needed > width + 1;
}).map(({ id }) => id)"""
# Lets a test make up losses: tell(share of an empty grid's) repeats the last report with it.
TELL = """() => {
    const { create } = Evolution;
    Evolution.create = (settings, target, handlers) => {
        const { onGeneration } = handlers;
        handlers.onGeneration = (report) => {
            const empty = Evolution.emptyLoss(target);
            window.tell = (share) =>
                onGeneration({
                    ...report,
                    measured: true,
                    loss: share * empty,
                    fitness: report.fitness.map(() => share * empty),
                });
            onGeneration(report);
        };
        return create(settings, target, handlers);
    };
}"""
GOAL = """() => {
    const canvas = document.querySelector(".evolve-goal");
    const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    context.drawImage(canvas, 0, 0);
    return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


class Reader:
    """A tab with the page, and what went wrong in it."""

    def __init__(self, chromium, fragment="", page="evolve", **context):
        self.context = chromium.new_context(offline=True, **context)
        self.context.add_init_script(WATCH)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(GENEROUS)
        self.troubles, self.requests = hear(self.tab), []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto((HTML / "book" / f"{page}.html").as_uri() + fragment)
        self.tab.wait_for_function("() => Number(document.documentElement.dataset.empty) > 0")

    def button(self, name):
        return self.tab.get_by_role("button", name=name, exact=True)

    def data(self, name):
        return self.tab.evaluate("(name) => document.documentElement.dataset[name]", name)

    def wait_for(self, name, *values):
        self.tab.wait_for_function(
            "([name, values]) => values.includes(document.documentElement.dataset[name])",
            arg=[name, values],
        )

    def step(self):
        """One generation, which its reader is told of."""
        rollouts = int(self.data("rollouts")) + 64
        self.button("One generation").click()
        self.wait_for("rollouts", str(rollouts))
        self.wait_for("state", "paused")

    def wait_for_rollouts(self, rollouts):
        """Pause after the first generation that brings them to this number."""
        self.tab.wait_for_function(
            """(rollouts) => {
                const { rollouts: done, state } = document.documentElement.dataset;
                return done >= rollouts || state !== "running";
            }""",
            arg=rollouts,
        )
        assert self.data("state") == "running"
        self.button("Pause").click()
        self.wait_for("state", "paused")

    def share(self) -> float:
        """The loss in units of the empty grid's."""
        return float(self.data("loss")) / float(self.data("empty"))

    def wait_for_first(self):
        """Until a generation is done; the next ones follow."""
        self.tab.wait_for_function("() => document.documentElement.dataset.rollouts > 0")

    def wait_for_half(self) -> float:
        """Until the loss is under half of the empty grid's; its share, which may rise again."""
        self.button("Start").click()
        share = self.tab.wait_for_function(
            """() => {
                const { loss, empty, state } = document.documentElement.dataset;
                const over = state === "dead" || state === "exploded";
                return (loss < empty / 2 || over) && loss / empty;
            }"""
        ).json_value()
        assert share < 0.5
        return share

    def goal(self) -> np.ndarray:
        """The target as it is shown, straight RGBA in bytes."""
        pixels = np.array(self.tab.evaluate(GOAL), np.float32)
        side = int((len(pixels) / 4) ** 0.5)
        return pixels.reshape(side, side, 4)

    def status(self) -> str:
        return self.tab.inner_text(".nca-evolve > form .nca-status")

    def wait_for_status(self, text):
        self.tab.wait_for_function(
            "(t) => document.querySelector('.evolve-buttons .nca-status').textContent.includes(t)",
            arg=text,
        )

    def choose(self, setting, value):
        """Turn a knob: a slider to one of its positions, or a switch."""
        self.tab.locator(f"#evolve-{setting}").evaluate(
            """(input, value) => {
                if (input.type === "checkbox") return input.click();
                input.value = value;
                input.dispatchEvent(new Event("input"));
                input.dispatchEvent(new Event("change"));
            }""",
            value,
        )

    def knob(self, setting) -> str:
        return self.tab.locator(f"#evolve-{setting}").input_value()

    def box(self, selector):
        """Left, top, right and bottom of an element, in pixels of the view."""
        return self.tab.locator(selector).evaluate(
            "(e) => (({ left, top, right, bottom }) => [left, top, right, bottom])"
            "(e.getBoundingClientRect())"
        )

    def history(self) -> str:
        return self.tab.locator(".evolve-curve polyline.own").get_attribute("points")


@pytest.fixture
def built():
    if "book/evolve.html" not in PAGES:
        skip_or_fail(f"no page with evolution at {HTML}; build it first with `make book`")


@pytest.fixture
def read(chromium, built):
    """Opens the page; whatever a test does, it may not complain or ask anybody for anything."""
    readers = []

    def open_page(fragment="", **context):
        readers.append(Reader(chromium, fragment, **context))
        return readers[-1]

    yield open_page
    for reader in readers:
        assert reader.troubles == []
        foreign = [url for url in reader.requests if not re.match("file:|data:|blob:", url)]
        assert foreign == []
        reader.context.close()


def test_a_lizard_evolves(read):
    reader = read()
    assert reader.data("state") == "idle" and reader.data("rollouts") == "0"
    reader.button("Start").click()
    reader.wait_for_rollouts(60_000)
    assert reader.share() <= 0.25


def test_nothing_blocks_the_page(read, chromium):
    chromium.start_tracing(categories=["toplevel"])
    reader = read()
    reader.button("Start").click()
    reader.wait_for_rollouts(3_000)
    reader.button("Play with it").click()
    reader.tab.locator(".nca-player canvas").wait_for()
    assert longest_task(chromium) <= 3


def test_targets_are_those_of_the_library(read):
    reader = read()
    for emoji, name, position, size in [("🦎", "lizard", 4, 24), ("🍄", "mushroom", 8, 32)]:
        reader.tab.get_by_role("radio", name=name).check()
        reader.choose("size", position)
        shown = reader.goal() / 255
        shown[..., :3] *= shown[..., 3:]
        expected = load_emoji(emoji, size=size)
        assert shown.shape == expected.shape
        assert np.abs(shown - expected).max() <= 2 / 255
        assert float(reader.data("empty")) == pytest.approx(np.mean(expected**2), rel=1e-5)


def test_the_same_seed_gives_the_same_history(read):
    reader = read()

    def evolve(seed):
        reader.tab.get_by_role("spinbutton", name="Seed").fill(str(seed))
        for target in ["butterfly", "lizard"]:  # another target ends what was begun
            reader.tab.get_by_role("radio", name=target).check()
        for _ in range(3):
            reader.step()
        return reader.data("loss"), reader.history()

    first = evolve(0)
    assert evolve(1) != first
    assert evolve(0) == first


def draw(reader):
    reader.button("Draw").click()
    pad = reader.tab.get_by_role("application", name="Drawing pad")
    box = pad.bounding_box()

    def at(x, y):
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    reader.tab.mouse.move(*at(0.3, 0.3))
    reader.tab.mouse.down()
    for place in [(0.7, 0.3), (0.7, 0.7), (0.3, 0.7), (0.3, 0.3)]:
        reader.tab.mouse.move(*at(*place), steps=4)
    reader.tab.mouse.up()
    reader.tab.get_by_role("radio", name="Orange").check(force=True)
    for key in ["Enter", "ArrowRight", " "]:
        pad.press(key)
    reader.button("Use this drawing").click()


def type_fox(reader):
    reader.tab.get_by_role("textbox", name="Any other character").fill("🦊🐻")
    if "no picture" in reader.status():
        pytest.skip("no font with emoji")


def paste(reader):
    reader.tab.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(300, 200);
            const context = canvas.getContext("2d");
            context.fillStyle = "crimson";
            context.arc(150, 100, 90, 0, 7);
            context.fill();
            const files = new DataTransfer();
            files.items.add(new File([await canvas.convertToBlob()], "a.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files }));
        }"""
    )


@pytest.mark.parametrize("bring", [draw, type_fox, paste])
def test_what_a_reader_brings_evolves(read, bring):
    reader = read()
    before = reader.goal()
    bring(reader)
    reader.tab.wait_for_function("() => !document.querySelector('.evolve-strip :checked')")
    assert np.abs(reader.goal() - before).mean() > 1
    reader.wait_for_half()


def test_a_letter_is_drawn_and_what_no_font_has_is_refused(read):
    reader = read()
    field = reader.tab.get_by_role("textbox", name="Any other character")
    field.fill("A")
    letter = reader.goal()
    assert letter[..., 3].max() == 255 and letter[:4].max() == 0
    field.fill("\U0010fffe")
    reader.wait_for_status("no picture")
    np.testing.assert_array_equal(reader.goal(), letter)


def link_to(name) -> str:
    """A link to a shipped run, as a page would make it."""
    from nca_lib.show import page

    record = page.describe(name, dtype="float16")
    data = record["weights"].replace("+", "-").replace("/", "_").rstrip("=")
    sizes = ("channels", "hidden", "size", "padding", "num_steps")
    return f"#p={data}&" + "&".join(f"{size}={record[size]}" for size in sizes)


def grown(reader) -> np.ndarray:
    """The picture that the pattern on show ends in, premultiplied RGBA in [0, 1]."""
    with reader.tab.expect_download() as download:
        reader.button("Save picture").click()
    image = Image.open(download.value.path()).convert("RGB").resize((32, 32), Image.BOX)
    return np.asarray(image, np.float32) / 255


def test_a_link_shows_the_pattern_growing(read):
    run = load_run("lizard")
    colour, alpha = run.target[..., :3], run.target[..., 3:]
    on_white = colour + 1 - alpha
    reader = read(link_to("lizard") + "&emoji=%F0%9F%A6%8E&title=%3Cb%3ELizard")
    reader.wait_for_status("<b>Lizard grows here")
    error = np.mean((grown(reader) - on_white) ** 2)
    assert error < 0.1 * np.mean((1 - on_white) ** 2)
    # Its own link opens the same in a fresh profile.
    reader.tab.get_by_role("link", name="Link to this pattern").focus()
    again = read(reader.tab.get_by_role("link", name="Link to this pattern").get_attribute("href"))
    again.wait_for_status("grows here")
    np.testing.assert_array_equal(grown(again), grown(reader))


def test_weights_are_saved_and_read_back(read, tmp_path):
    reader = read()
    reader.step()
    with reader.tab.expect_download() as download:
        reader.button("Save weights").click()
    assert download.value.suggested_filename == "lizard.nca.json"
    path = tmp_path / "lizard.nca.json"
    download.value.save_as(path)
    picture = grown(reader)
    other = read()
    other.tab.locator("input[accept='.json']").set_input_files(path)
    other.wait_for_status("Lizard grows here")
    np.testing.assert_array_equal(grown(other), picture)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"title": "<img src=x>", "crc32": 1}))
    other.tab.locator("input[accept='.json']").set_input_files(path)
    other.wait_for_status("cannot be used")


@pytest.mark.parametrize(
    "fragment", ["#p=%00", "#p=AAAA&channels=8", "#p=" + 3000 * "_", "#p=<img src=x onerror=a()>"]
)
def test_foreign_links_are_refused_in_words(read, fragment):
    reader = read(fragment)
    reader.wait_for_status("cannot be used")
    assert reader.data("state") == "idle" and reader.button("Start").is_enabled()
    assert reader.tab.locator(".nca-evolve img").count() == 0


@pytest.mark.parametrize(
    ("name", "state"),
    [("Show a dead population", "dead"), ("Show an exploded one", "exploded")],
)
def test_what_goes_wrong_is_shown_and_explained(read, name, state):
    reader = read()
    reader.step()
    before = [reader.data(name) for name in ("loss", "rollouts", "state")], reader.knob("std")
    reader.button(name).click()
    reader.wait_for("state", "dead", "exploded")
    assert reader.data("state") == state
    # Said is what most of those on show came to, and what the button does about it.
    label = reader.tab.locator(".evolve-population").get_attribute("aria-label")
    shown = {fate: int(count) for count, fate in re.findall(r"(\d+) (dead|exploded)", label)}
    assert shown[state] > 32 and str(shown[state]) in reader.status()
    trouble = reader.tab.locator(".evolve-trouble").inner_text()
    assert state in trouble and reader.tab.locator(".evolve-start").inner_text() in trouble
    assert state in reader.status().lower() and reader.knob("std") != before[1]
    # Nothing is covered: neither the population by words, nor these by the bar of the theme.
    assert reader.box(".evolve-trouble")[3] <= reader.box(".is-population")[1]
    assert reader.box(".evolve-start")[1] >= reader.box(".bd-header-article")[3]
    assert reader.button("Play with it").is_disabled() or state == "exploded"
    reader.tab.locator(".evolve-back").click()  # to the run that was there
    assert not reader.tab.locator(".evolve-trouble").is_visible()
    after = [reader.data(name) for name in ("loss", "rollouts", "state")], reader.knob("std")
    assert after == before and reader.button("Play with it").is_enabled()
    reader.step()  # and it goes on


def test_a_run_that_dies_goes_on_from_its_best_mean(read):
    reader = read()
    reader.wait_for_half()
    best = reader.share()
    reader.choose("std", 1e3)  # to the end
    reader.wait_for("state", "dead", "exploded")
    reader.button("Go on gently").click()
    reader.tab.wait_for_function("() => document.documentElement.dataset.loss > 0")
    assert reader.data("state") == "running" and int(reader.data("rollouts")) < 2_000
    assert reader.share() < 1.2 * best
    reader.tab.locator(".evolve-back").click()  # to the one that failed
    assert reader.data("state") in ("dead", "exploded")


def test_what_is_said_of_a_run_is_true_of_it_now(read):
    reader = read()
    reader.tab.evaluate(TELL)
    reader.step()
    before = reader.status()

    def tell(share):
        reader.tab.evaluate("(share) => tell(share)", share)
        return reader.status()

    assert tell(0.14) == before  # the run has not fallen there: it began there
    worse = tell(2)
    assert worse != before
    assert tell(0.5) != worse
    assert tell(2) == worse
    reader.button("Start anew").click()
    reader.wait_for_first()
    assert reader.status() != worse


def test_a_run_whose_members_stay_framed_as_exploded_stops(read):
    reader = read()
    reader.tab.evaluate(TELL)
    reader.step()
    for share in [1e7, *[2] * 20, 1e7]:  # no run of them: it may come back
        reader.tab.evaluate("(share) => tell(share)", share)
    assert reader.data("state") == "paused"
    reader.tab.evaluate("for (let k = 0; k < 20; k++) tell(1e7)")
    assert reader.data("state") == "exploded"
    label = reader.tab.locator(".evolve-population").get_attribute("aria-label")
    assert "64 exploded" in label and reader.tab.locator(".evolve-trouble").is_visible()


def test_who_is_at_the_sliders_of_a_phone_sees_that_the_run_has_stopped(read):
    reader = read(viewport={"width": 390, "height": 844})
    reader.button("Show a dead population").click()
    reader.wait_for("state", "dead", "exploded")
    alarms = reader.tab.locator(".evolve-alarm")
    for slider, alarm in [("#evolve-std", alarms.first), ("#evolve-num_steps", alarms.last)]:
        reader.tab.locator(slider).scroll_into_view_if_needed()
        box = alarm.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844
        assert reader.box(".evolve-start")[3] < 0
    alarms.last.click()
    assert 0 <= reader.box(".evolve-start")[1] < 844
    reader.tab.locator(".evolve-back").click()
    assert alarms.first.is_hidden() and alarms.last.is_hidden()


def test_a_swipe_that_begins_on_a_slider_scrolls_and_leaves_it(read):
    reader = read(viewport={"width": 390, "height": 844}, has_touch=True)
    reader.tab.locator("#evolve-std").evaluate("(e) => e.scrollIntoView({ block: 'center' })")
    touch = reader.tab.context.new_cdp_session(reader.tab)

    def swipe(across, down):
        left, top, right, bottom = reader.box("#evolve-std")
        for i in range(11):
            x = left + (0.9 + across * i / 10) * (right - left)
            point = {"x": x, "y": (top + bottom) / 2 + down * i / 10}
            kind = "touchMove" if i else "touchStart"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    told, first = reader.tab.locator("output[for=evolve-std]"), reader.knob("std")
    lift = "(e) => { lifted = false; e.addEventListener('pointerup', () => { lifted = true; }); }"
    reader.tab.locator("#evolve-std").evaluate(lift)
    swipe(-0.2, 0)
    reader.tab.wait_for_function("() => lifted")
    assert float(reader.knob("std")) > float(first)
    before, text = reader.knob("std"), told.inner_text()
    place = reader.tab.evaluate("scrollY")
    swipe(-0.6, -300)
    reader.tab.wait_for_function("(place) => scrollY > place", arg=place)
    assert (reader.knob("std"), told.inner_text()) == (before, text)


def test_links_out_of_the_instrument_leave_the_run_alone(read):
    reader = read()
    reader.button("Show a dead population").click()
    reader.wait_for("state", "dead", "exploded")
    links = reader.tab.locator(".nca-evolve a[href*='.html']")
    assert links.count() > 10
    assert set(links.evaluate_all("(all) => all.map((a) => a.target)")) == {"_blank"}
    with reader.context.expect_page():
        reader.tab.locator(".evolve-trouble a").click()
    assert reader.data("state") in ("dead", "exploded")


def test_the_link_to_a_pattern_is_copied(read):
    reader = read(permissions=["clipboard-read", "clipboard-write"])
    reader.step()
    address = reader.tab.url
    reader.tab.get_by_role("link", name="Link to this pattern").click()
    reader.tab.wait_for_function("() => document.querySelector('.evolve-kept').textContent")
    copied = reader.tab.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"{address}#p=") and reader.tab.url == address
    assert reader.data("rollouts") == "64"


def test_a_run_that_another_target_or_start_replaces_can_be_gone_back_to(read):
    reader = read()
    reader.step()
    reader.tab.get_by_role("radio", name="heart").check()
    assert reader.data("rollouts") == "0"
    reader.choose("size", 0)  # 16 cells
    reader.step()
    small = reader.goal().shape
    reader.choose("size", 1)
    reader.button("Start anew").click()
    reader.wait_for("state", "running")
    reader.wait_for_rollouts(64)
    assert reader.goal().shape > small
    reader.tab.locator(".evolve-back").click()
    assert reader.data("rollouts") == "64" and reader.goal().shape == small
    assert reader.tab.get_by_role("radio", name="heart").is_checked()


def test_back_goes_through_all_runs_that_wait(read):
    reader = read()
    back = reader.tab.locator(".evolve-back")
    chosen = reader.tab.locator("[name=evolve-target]:checked")
    targets = ["red-heart", "star", "lizard"]
    for target in targets:
        reader.tab.get_by_role("radio", name=target).check()
        reader.step()
    seen = [chosen.get_attribute("aria-label")]
    for _ in targets:
        told = back.inner_text()
        back.click()
        assert "generation 1" in told and reader.data("rollouts") == "64"
        seen.append(chosen.get_attribute("aria-label"))
    assert seen == ["lizard", "star", "red-heart", "lizard"]


def test_another_target_begins_with_the_usual_settings_after_a_rescue(read):
    reader = read()
    usual = [reader.knob("std"), reader.knob("learning_rate")]
    reader.tab.evaluate(TELL)
    reader.step()
    reader.choose("learning_rate", 1e3)  # to the end
    reader.tab.evaluate("for (let k = 0; k < 20; k++) tell(1e7)")
    reader.tab.locator(".evolve-start").click()  # gently
    assert reader.knob("std") < usual[0]
    reader.tab.get_by_role("radio", name="heart").check()
    assert [reader.knob("std"), reader.knob("learning_rate")] == usual
    reader.choose("std", 2)  # what readers choose themselves stays
    reader.tab.get_by_role("radio", name="star").check()
    assert reader.knob("std") == "2"


def test_the_small_form_evolves_in_a_chapter(read):
    reader = read(page="05_es_training", viewport={"width": 390, "height": 844})
    assert reader.tab.locator(".nca-evolve :is(input[type=range], select)").count() == 0
    reader.tab.get_by_role("radio", name="star").check()
    reader.step()
    first = float(reader.data("loss"))
    reader.button("Go on").click()
    reader.wait_for_rollouts(1_000)
    assert float(reader.data("loss")) < 0.95 * first
    assert reader.tab.locator(".nca-evolve a[href='evolve.html']").is_visible()
    parts = reader.tab.locator(".nca-evolve :is(button, canvas, svg, p, dd):not(.evolve-strip *)")
    edges = parts.evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().right)")
    assert len(edges) > 10 and max(edges) <= 390


def test_the_player_tells_of_its_run_shows_the_newest_and_closes(read):
    reader = read()
    caption = reader.tab.locator(".nca-player figcaption")
    reader.step()
    reader.button("Play with it").click()
    old = caption.inner_text()
    reader.tab.get_by_role("radio", name="heart").check()
    assert reader.button("Show the newest").is_disabled()
    reader.step()
    reader.step()
    assert caption.inner_text() == old
    reader.button("Show the newest").click()
    assert (
        re.findall(r"\d+", old)[-1] == "1" and re.findall(r"\d+", caption.inner_text())[-1] == "2"
    )
    reader.button("Close player").click()
    assert reader.tab.locator(".nca-player").count() == 0
    assert reader.button("Play with it").evaluate("(e) => e === document.activeElement")


def test_the_dead_and_the_exploded_stand_last(read):
    members = read().tab.evaluate(
        """() => {
            const pictures = new Uint8ClampedArray(5 * 4).fill(9);
            pictures.fill(0, 4, 8);
            const population = new Views.Population();
            const losses = [0.1, 0.2, 0.3, Infinity, NaN];
            population.show({ count: 5, side: 1, pictures, losses, empty: 0.2 });
            return population.members.map(([pixels, fate]) => [pixels.byteOffset / 4, fate]);
        }"""
    )
    fates = ["", "", "dead", "exploded", "exploded"]
    assert members == [list(pair) for pair in zip([0, 2, 1, 3, 4], fates, strict=True)]


def test_the_mean_is_mostly_seen_grown_and_tells_its_step(read):
    link = link_to("lizard")
    grown, told = read().tab.evaluate(
        """(link) => {
            const [model, growth] = [NCA.fromLink(link), new Views.Growth()];
            growth.show(model, model.size + 2 * model.padding);
            growth.last = 0; // a clock of whole numbers, which sums do not round
            const seen = Array.from({ length: 1000 }, () => {
                growth.run(growth.last + 40);
                return [growth.count, growth.counter.textContent];
            });
            const grown = seen.filter(([count]) => count >= model.num_steps);
            return [grown.length / seen.length, seen.map(([, text]) => text)];
        }""",
        link,
    )
    steps = int(re.search(r"num_steps=(\d+)", link)[1])
    numbers = [[int(n) for n in re.findall(r"\d+", text)] for text in told]
    assert grown > 0.6 and numbers[0] == [1, steps] and numbers.count([steps, steps]) > 600


def test_the_count_moves_while_the_live_region_rests(read):
    reader = read()
    reader.button("Start").click()
    reader.wait_for_first()
    spoken = reader.status()
    reader.wait_for_rollouts(256)
    counter = reader.tab.locator(".evolve-said .nca-counter")
    assert f"{int(reader.data('rollouts')):,}" in counter.inner_text()
    assert counter.locator("xpath=ancestor-or-self::*[@role='status' or @aria-live]").count() == 0
    assert spoken and reader.tab.locator(".evolve-said .nca-status").count() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_all_of_it_can_be_used_by_everybody(read, theme, width, height):
    reader = read(color_scheme=theme, viewport={"width": width, "height": height}, has_touch=True)
    room = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert reader.tab.evaluate(room) == 0
    assert reader.tab.evaluate(CUT) == []
    if width > 1000:
        seen = reader.tab.locator("form :is(canvas, svg, button, input):visible")
        bottoms = seen.evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().bottom)")
        assert max(bottoms) <= height
    reader.step()
    assert reader.tab.evaluate("shift") < 0.01
    assert reader.tab.evaluate(room) == 0 and reader.troubles == []
    assert barriers(reader.tab, THEME_KNOWN) == {}
    reader.button("Draw").click()
    assert barriers(reader.tab, THEME_KNOWN) == {}
    reader.troubles.clear()  # axe-core asks for styles, which pages on disk may not


def test_the_page_is_light(built):
    names = re.findall(
        r'src="\.\./_static/([\w-]+\.js)', (HTML / "book" / "evolve.html").read_text()
    )
    own = {"nca.js", "playground.js", "catalogue.js"}
    own |= {name for name in names if name.startswith(("evolve", "rollout", "crew", "record"))}
    sizes = [(HTML / "_static" / name).stat().st_size for name in own | {"evolve.css"}]
    assert len(sizes) > 8 and sum(sizes) < 300_000


def test_links_of_the_knobs_lead_somewhere(read):
    reader = read()
    links = reader.tab.locator(".nca-evolve a[href*='.html#']")
    for link in set(links.evaluate_all("(all) => all.map((link) => link.getAttribute('href'))")):
        page, _, section = link.partition("#")
        assert f'id="{section}"' in (HTML / "book" / page).read_text(encoding="utf-8"), link
