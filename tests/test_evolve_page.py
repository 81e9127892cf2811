"""Evolution in the page, as readers meet it: from disk, without a network."""

import json
import re

import numpy as np
import pytest
from conftest import no_long_task
from PIL import Image
from readers import Reader, opening
from test_book import HTML

from nca_lib import load_emoji, load_run
from nca_lib.show import page

PHONE = {"width": 390, "height": 844}
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
            window.tell = (share) => {
                const loss = share * Evolution.emptyLoss(target);
                const fitness = report.fitness.map(() => loss);
                onGeneration({ ...report, measured: true, loss, fitness });
            };
            onGeneration(report);
        };
        return create(settings, target, handlers);
    };
}"""


class Evolver(Reader):
    patience = 3_600_000
    grid = ".evolve-goal"  # the target

    def __init__(self, *arguments, **context):
        super().__init__(*arguments, **context)
        self.tab.wait_for_function("() => Number(document.documentElement.dataset.empty) > 0")
        self.back = self.tab.locator(".evolve-back")

    def data(self, name):
        return self.tab.evaluate("(name) => document.documentElement.dataset[name]", name)

    def wait_for(self, name, *values):
        self.tab.wait_for_function(
            "([name, values]) => values.includes(document.documentElement.dataset[name])",
            arg=[name, values],
        )

    def step(self):
        """One generation, which its reader is told of."""
        before = self.data("rollouts")
        self.button("One generation").click()
        is_told = "(before) => document.documentElement.dataset.rollouts !== before"
        self.tab.wait_for_function(is_told, arg=before)
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

    def wait_for_first(self):
        """Until a generation is done; the next ones follow."""
        self.tab.wait_for_function("() => document.documentElement.dataset.rollouts > 0")

    def evolve_to(self, wanted, within=60_000) -> float:
        """Until the loss is less than this share of the empty grid's, so many rollouts at most.

        Returns its share then, which may rise again: evolution goes on.
        """
        self.button("Start").click()
        share = self.tab.wait_for_function(
            """([wanted, within]) => {
                const { loss, empty, rollouts, state } = document.documentElement.dataset;
                const isOver = state !== "running" || rollouts > within;
                return (loss < wanted * empty || isOver) && loss / empty;
            }""",
            arg=[wanted, within],
        ).json_value()
        assert share < wanted
        return share

    def target(self, name):
        self.tab.get_by_role("radio", name=name).check()

    def tell(self, share, times=1):
        """Repeat the last report with this loss, in units of the empty grid's; see TELL."""
        for _ in range(times):
            self.tab.evaluate("(share) => tell(share)", share)
        return self.status()

    def choose(self, setting, value):
        """Turn a knob, a slider, to one of its positions."""
        self.tab.locator(f"#evolve-{setting}").evaluate(
            """(input, value) => {
                input.value = value;
                input.dispatchEvent(new Event("input"));
                input.dispatchEvent(new Event("change"));
            }""",
            value,
        )

    def knob(self, setting) -> str:
        return self.tab.locator(f"#evolve-{setting}").input_value()

    def edge(self, selector, side):
        return self.edges(self.tab.locator(selector), side)[0]


@pytest.fixture
def read(chromium):
    with opening(Evolver, chromium, "evolve") as read:
        yield read


def test_a_lizard_evolves(read):
    reader = read()
    assert reader.data("state") == "idle" and reader.data("rollouts") == "0"
    reader.evolve_to(0.25, within=50_000)


def test_nothing_blocks_the_page(read, chromium):
    with no_long_task(chromium):
        reader = read()
        reader.button("Start").click()
        reader.wait_for_rollouts(1_000)
        reader.button("Play with it").click()
        reader.tab.locator(".nca-player canvas").wait_for()


def test_targets_are_those_of_the_library(read):
    reader = read()
    for emoji, name, position, size in [("🦎", "lizard", 4, 24), ("🍄", "mushroom", 8, 32)]:
        reader.target(name)
        reader.choose("size", position)
        shown = reader.pixels() / 255
        shown[..., :3] *= shown[..., 3:]
        expected = load_emoji(emoji, size=size)
        assert shown.shape == expected.shape
        assert np.abs(shown - expected).max() <= 2 / 255
        assert float(reader.data("empty")) == pytest.approx(np.mean(expected**2), rel=1e-5)


def test_the_same_seed_gives_the_same_history(read):
    reader = read()
    curve = reader.tab.locator(".evolve-curve polyline.own")

    def evolve(seed):
        reader.role("spinbutton", "Seed").fill(str(seed))
        for target in ["butterfly", "lizard"]:  # another target ends what was begun
            reader.target(target)
        for _ in range(3):
            reader.step()
        return reader.data("loss"), curve.get_attribute("points")

    first = evolve(0)
    assert evolve(1) != first
    assert evolve(0) == first


def draw(reader):
    reader.button("Draw").click()
    pad = reader.tab.get_by_role("application", name="Drawing pad")
    reader.drag((0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7), (0.3, 0.3), element=pad)
    reader.role("radio", "Orange").check(force=True)
    for key in ["Enter", "ArrowRight", " "]:
        pad.press(key)
    reader.button("Use this drawing").click()


def type_fox(reader):
    reader.role("textbox", "Any other character").fill("🦊🐻")
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
    before = reader.pixels()
    bring(reader)
    reader.tab.wait_for_function("() => !document.querySelector('.evolve-strip :checked')")
    assert np.abs(reader.pixels() - before).mean() > 1
    reader.choose("size", 0)  # 16 cells, which evolve sooner
    reader.evolve_to(0.5)


def test_a_letter_is_drawn_and_what_no_font_has_is_refused(read):
    reader = read()
    field = reader.role("textbox", "Any other character")
    field.fill("A")
    letter = reader.pixels()
    assert letter[..., 3].max() == 255 and letter[:4].max() == 0
    field.fill("\U0010fffe")
    reader.wait_for_status("no picture")
    np.testing.assert_array_equal(reader.pixels(), letter)


def link_to(name) -> str:
    """A link to a shipped run, as a page would make it."""
    record = page.describe(name, dtype="float16")
    data = record["weights"].replace("+", "-").replace("/", "_").rstrip("=")
    sizes = ("channels", "hidden", "size", "padding", "num_steps")
    return f"#p={data}&" + "&".join(f"{size}={record[size]}" for size in sizes)


def grown(reader) -> np.ndarray:
    """The picture that the pattern on show ends in, on white, RGB in [0, 1]."""
    image = Image.open(reader.saved("Save picture").path()).convert("RGB")
    return np.asarray(image.resize((32, 32), Image.BOX), np.float32) / 255


def test_a_link_shows_the_pattern_growing_and_its_own_link_is_copied(read):
    run = load_run("lizard")
    colour, alpha = run.target[..., :3], run.target[..., 3:]
    on_white = colour + 1 - alpha
    link = link_to("lizard") + "&emoji=%F0%9F%A6%8E&title=%3Cb%3ELizard"
    reader = read(link, permissions=["clipboard-read", "clipboard-write"])
    reader.wait_for_status("<b>Lizard grows here")
    picture, address = grown(reader), reader.tab.url
    assert np.mean((picture - on_white) ** 2) < 0.1 * np.mean((1 - on_white) ** 2)
    reader.role("link", "Link to this pattern").click()
    reader.tab.get_by_text("Link copied").wait_for()
    assert reader.tab.url == address  # nothing is lost
    again = read(where=reader.tab.evaluate("navigator.clipboard.readText()"))
    again.wait_for_status("grows here")
    np.testing.assert_array_equal(grown(again), picture)


def test_weights_are_saved_and_read_back(read, tmp_path):
    reader = read()
    reader.step()
    saved, path = reader.saved("Save weights"), tmp_path / "lizard.nca.json"
    assert saved.suggested_filename == path.name
    saved.save_as(path)
    picture = grown(reader)
    other = read()
    opener = other.tab.locator("input[accept='.json']")
    opener.set_input_files(path)
    other.wait_for_status("Lizard grows here")
    np.testing.assert_array_equal(grown(other), picture)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"title": "<img src=x>", "crc32": 1}))
    opener.set_input_files(path)
    other.wait_for_status("cannot be used")


def test_foreign_links_are_refused_in_words(read):
    """What links may hold else is tried on NCA.fromLink, in test_evolve.py."""
    reader = read("#p=<img src=x onerror=a()>")
    reader.wait_for_status("cannot be used")
    assert reader.data("state") == "idle" and reader.button("Start").is_enabled()
    assert reader.tab.locator(".nca-evolve img").count() == 0


@pytest.mark.parametrize("state", ["dead", "exploded"])
def test_what_goes_wrong_is_shown_and_explained(read, state):
    reader = read()
    reader.step()
    before = [reader.data(name) for name in ("loss", "rollouts", "state")], reader.knob("std")
    reader.tab.get_by_role("button", name=re.compile(f"Show an? {state}")).click()
    reader.wait_for("state", "dead", "exploded")
    assert reader.data("state") == state
    # Said is what most of those on show came to, and what the button does about it.
    label = reader.tab.locator(".evolve-population").get_attribute("aria-label")
    shown = {fate: int(count) for count, fate in re.findall(r"(\d+) (dead|exploded)", label)}
    assert shown[state] > 32 and str(shown[state]) in reader.status()
    trouble = reader.tab.locator(".evolve-trouble")
    cure = reader.tab.inner_text(".evolve-start")
    assert state in trouble.inner_text() and cure in trouble.inner_text()
    assert state in reader.status().lower() and reader.knob("std") != before[1]
    # Nothing is covered: neither the population by words, nor these by the bar of the theme.
    assert reader.edge(".evolve-trouble", "bottom") <= reader.edge(".is-population", "top")
    assert reader.edge(".evolve-start", "top") >= reader.edge(".bd-header-article", "bottom")
    assert reader.button("Play with it").is_disabled() or state == "exploded"
    reader.back.click()  # to the run that was there
    assert not trouble.is_visible()
    after = [reader.data(name) for name in ("loss", "rollouts", "state")], reader.knob("std")
    assert after == before and reader.button("Play with it").is_enabled()
    reader.step()  # and it goes on


def test_a_run_that_dies_goes_on_from_its_best_mean(read):
    reader = read()
    reader.target("heart")
    reader.choose("size", 0)
    best = reader.evolve_to(0.5)
    reader.choose("std", 1e3)  # to the end
    reader.wait_for("state", "dead", "exploded")
    reader.button("Go on gently").click()
    reader.tab.wait_for_function("() => document.documentElement.dataset.loss > 0")
    assert reader.data("state") == "running" and int(reader.data("rollouts")) < 2_000
    assert float(reader.data("loss")) < 1.2 * best * float(reader.data("empty"))
    reader.back.click()  # to the one that failed
    assert reader.data("state") in ("dead", "exploded")


@pytest.fixture
def made_up(read):
    """A page after one generation, whose losses a test makes up from then on."""
    reader = read()
    reader.tab.evaluate(TELL)
    reader.step()
    return reader


def test_what_is_said_of_a_run_is_true_of_it_now(made_up):
    before = made_up.status()
    assert made_up.tell(0.14) == before  # the run has not fallen there: it began there
    worse = made_up.tell(2)
    assert worse != before
    assert made_up.tell(0.5) != worse
    assert made_up.tell(2) == worse
    made_up.button("Start anew").click()
    made_up.wait_for_first()
    assert made_up.status() != worse


def test_a_run_whose_members_stay_framed_as_exploded_stops(made_up):
    for share in [1e7, *[2] * 20, 1e7]:  # no run of them: it may come back
        made_up.tell(share)
    assert made_up.data("state") == "paused"
    made_up.tell(1e7, times=20)
    assert made_up.data("state") == "exploded"
    label = made_up.tab.locator(".evolve-population").get_attribute("aria-label")
    assert "64 exploded" in label and made_up.tab.locator(".evolve-trouble").is_visible()


def test_another_target_begins_with_the_usual_settings_after_a_rescue(made_up):
    usual = [made_up.knob("std"), made_up.knob("learning_rate")]
    made_up.choose("learning_rate", 1e3)  # to the end
    made_up.tell(1e7, times=20)
    made_up.tab.locator(".evolve-start").click()  # gently
    assert made_up.knob("std") < usual[0]
    made_up.target("heart")
    assert [made_up.knob("std"), made_up.knob("learning_rate")] == usual
    made_up.choose("std", 2)  # what readers choose themselves stays
    made_up.target("star")
    assert made_up.knob("std") == "2"


def test_who_is_at_the_sliders_of_a_phone_sees_that_the_run_has_stopped(read):
    reader = read(viewport=PHONE)
    reader.button("Show a dead population").click()
    reader.wait_for("state", "dead", "exploded")
    alarms = reader.tab.locator(".evolve-alarm")
    for slider, alarm in [("#evolve-std", alarms.first), ("#evolve-num_steps", alarms.last)]:
        reader.tab.locator(slider).scroll_into_view_if_needed()
        box = alarm.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= PHONE["height"]
        assert reader.edge(".evolve-start", "bottom") < 0
    alarms.last.click()
    assert 0 <= reader.edge(".evolve-start", "top") < PHONE["height"]
    reader.back.click()
    assert alarms.first.is_hidden() and alarms.last.is_hidden()


def test_a_swipe_that_begins_on_a_slider_scrolls_and_leaves_it(read):
    reader = read(viewport=PHONE, has_touch=True)
    slider, told = reader.tab.locator("#evolve-std"), reader.tab.locator("output[for=evolve-std]")
    slider.evaluate("(e) => e.scrollIntoView({ block: 'center' })")
    first = reader.knob("std")
    lift = "(e) => { lifted = false; e.addEventListener('pointerup', () => { lifted = true; }); }"
    slider.evaluate(lift)
    reader.swipe(*((0.9 - 0.02 * i, 0.5) for i in range(11)), element=slider)
    reader.tab.wait_for_function("() => lifted")
    assert float(reader.knob("std")) > float(first)
    before, text = reader.knob("std"), told.inner_text()
    place, high = reader.tab.evaluate("scrollY"), slider.bounding_box()["height"]
    up = ((0.9 - 0.06 * i, 0.5 - 30 * i / high) for i in range(11))
    reader.swipe(*up, element=slider)
    reader.tab.wait_for_function("(place) => scrollY > place", arg=place)
    assert (reader.knob("std"), told.inner_text()) == (before, text)


def test_links_out_of_the_instrument_lead_somewhere_and_leave_the_run_alone(read):
    reader = read()
    reader.button("Show a dead population").click()
    reader.wait_for("state", "dead", "exploded")
    links = reader.tab.locator(".nca-evolve a[href*='.html']")
    links = links.evaluate_all("(all) => all.map((a) => [a.getAttribute('href'), a.target])")
    assert len(links) > 10 and {target for _, target in links} == {"_blank"}
    for place, _, section in {link.partition("#") for link, _ in links}:
        text = (HTML / "book" / place).read_text(encoding="utf-8")
        assert not section or section.startswith("p=") or f'id="{section}"' in text
    with reader.context.expect_page():
        reader.tab.locator(".evolve-trouble a").click()
    assert reader.data("state") in ("dead", "exploded")


def test_back_goes_through_all_runs_that_wait_as_they_were(read):
    reader = read()
    for target in ["red-heart", "star"]:
        reader.target(target)
        assert reader.data("rollouts") == "0"
        reader.step()
    large = reader.pixels().shape
    reader.choose("size", 0)  # 16 cells, from the next start on
    reader.button("Start anew").click()
    reader.wait_for("state", "running")
    reader.wait_for_rollouts(64)
    small = reader.pixels().shape
    assert small < large
    for target, shape in [("star", large), ("red-heart", large), ("star", small)]:
        assert re.search(r"generation \d", reader.back.inner_text())
        reader.back.click()
        chosen = reader.tab.locator("[name=evolve-target]:checked").get_attribute("aria-label")
        assert (chosen, reader.pixels().shape) == (target, shape)
        assert shape == small or reader.data("rollouts") == "64"


def test_the_small_form_evolves_in_a_chapter(read):
    reader = read(where="05_es_training", viewport=PHONE)
    assert reader.tab.locator(".nca-evolve :is(input[type=range], select)").count() == 0
    reader.target("star")
    reader.step()
    first = float(reader.data("loss"))
    reader.button("Go on").click()
    reader.wait_for_rollouts(1_000)
    assert float(reader.data("loss")) < 0.95 * first
    assert reader.tab.locator(".nca-evolve a[href='evolve.html']").is_visible()
    parts = reader.tab.locator(".nca-evolve :is(button, canvas, svg, p, dd):not(.evolve-strip *)")
    edges = reader.edges(parts, "right")
    assert len(edges) > 10 and max(edges) <= PHONE["width"]


def test_the_player_tells_of_its_run_shows_the_newest_and_closes(read):
    reader = read()
    caption = reader.tab.locator(".nca-player figcaption")

    def told():
        return re.findall(r"\d+", caption.inner_text())[-1]

    reader.step()
    reader.button("Play with it").click()
    assert told() == "1"
    reader.target("heart")
    assert reader.button("Show the newest").is_disabled()
    reader.step()
    reader.step()
    assert told() == "1"
    reader.button("Show the newest").click()
    assert told() == "2"
    reader.button("Close player").click()
    assert reader.tab.locator(".nca-player").count() == 0
    assert reader.has_focus(reader.button("Play with it"))


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
    assert members == [[0, ""], [2, ""], [1, "dead"], [3, "exploded"], [4, "exploded"]]


def test_the_mean_is_mostly_seen_grown_and_tells_its_step(read):
    link = link_to("lizard")
    told = read().tab.evaluate(
        """(link) => {
            const [model, growth] = [NCA.fromLink(link), new Views.Growth()];
            growth.show(model, model.size + 2 * model.padding);
            growth.last = 0; // a clock of whole numbers, which sums do not round
            return Array.from({ length: 1000 }, () => {
                growth.run(growth.last + 40);
                return growth.counter.textContent;
            });
        }""",
        link,
    )
    steps = re.search(r"num_steps=(\d+)", link)[1]
    numbers = [re.findall(r"\d+", text) for text in told]
    assert numbers[0] == ["1", steps] and numbers.count([steps, steps]) > 600


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
@pytest.mark.parametrize("view", [{"width": 1280, "height": 720}, PHONE])
def test_all_of_it_can_be_used_by_everybody(read, theme, view):
    reader = read(color_scheme=theme, viewport=view, has_touch=True)
    assert reader.tab.evaluate(CUT) == []
    if view != PHONE:
        seen = reader.tab.locator("form :is(canvas, svg, button, input):visible")
        assert max(reader.edges(seen)) <= view["height"]
    reader.step()
    reader.assert_everybody_can_use_it()
    reader.button("Draw").click()
    reader.assert_everybody_can_use_it()


def test_the_page_is_light(read):
    text = (HTML / "book" / "evolve.html").read_text(encoding="utf-8")
    own = ("evolve", "rollout", "crew", "record", "nca.js", "playground.js", "catalogue.js")
    names = [n for n in re.findall(r"_static/([\w-]+\.(?:js|css))", text) if n.startswith(own)]
    assert len(names) > 8
    assert sum((HTML / "_static" / name).stat().st_size for name in names) < 300_000
