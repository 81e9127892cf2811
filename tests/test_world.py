"""The world: its lives against nca.js, and the page as readers meet it."""

import json
import re

import numpy as np
import pytest
from conftest import no_long_task
from py_mini_racer import MiniRacer
from readers import Reader, opening
from test_book import HTML
from test_browser import ATOB

from nca_lib.show import page as demo

RUNS = ("lizard-regenerating", "heart", "donut", "reference")


@pytest.fixture(scope="module")
def v8():
    """V8 with worlds and a few rules, named in `models`; its clock ticks with each look at it."""
    engine = MiniRacer()
    files = [(demo.DEMO / f"{name}.js").read_text("utf-8") for name in ("nca", "rollout", "world")]
    records = [demo.script(demo.describe(name)) for name in RUNS]
    clock = "let clock = 0; var performance = { now: () => clock++ };"
    models = """const models = Object.fromEntries(
        [...NCA.records].map(([name, record]) => [name, NCA.decode(record)]));"""
    engine.eval("\n".join([ATOB, clock, *files, *records, models]))

    def ask(body, **values):
        given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        return json.loads(engine.eval(f"JSON.stringify((() => {{{given} {body}}})())"))

    yield ask
    engine.close()


# Each life once more by nca.js, on a grid of its own; in it nothing fires where another lives.
COMPARE = """
    const [height, width] = [44, 60];
    const world = World.makeWorld(height, width, 7);
    const random = NCA.makeRandom(7);
    const slow = seeds.map(([name, row, column]) => {
        const model = models[name];
        const side = model.size + 2 * model.padding;
        const [top, left] = [row - side / 2, column - side / 2];
        return { model, side, top, left, state: NCA.seedState(side, side, model.channels) };
    });
    const fast = seeds.map(([name, row, column]) => world.plant(models[name], row, column));
    const lives = ({ side, top, left, state }, y, x) => {
        const [row, column] = [y - top, x - left];
        const isInside = row >= 0 && column >= 0 && row < side && column < side;
        return isInside && state.cells[(row * side + column + 1) * state.channels - 1] !== 0;
    };
    let [worst, met, most] = [0, 0, 0];
    for (let t = 0; t < steps; t++) {
        if (t === wound) {
            world.erase(20, 28, 5);
            for (const { state, top, left } of slow) NCA.eraseDisc(state, 20 - top, 28 - left, 5);
        }
        world.step();
        slow.forEach((one, i) => {
            const { model, side, top, left, state } = one;
            const told = { ...model, num_steps: 1 };
            const [fires] = Rollout.fireSchedule(() => random() * 2 ** 32, told);
            const pad = (k) => (Math.floor(k / side) + 1) * (side + 2) + (k % side) + 1;
            const fire = Array.from({ length: side * side }, (_, k) => {
                const [y, x] = [top + Math.floor(k / side), left + (k % side)];
                const isTaken = slow.some((other) => other !== one && lives(other, y, x));
                if (fires[pad(k)] && isTaken) met++;
                return fires[pad(k)] && !isTaken && y >= 0 && x >= 0 && y < height && x < width;
            });
            NCA.step(model, state, fire);
            const { cells } = fast[i].life;
            state.cells.forEach((value, index) => {
                const [k, c] = [Math.floor(index / state.channels), index % state.channels];
                worst = Math.max(worst, Math.abs(value - cells[pad(k) * state.channels + c]));
                most = Math.max(most, value);
            });
        });
    }
    const alive = slow.map(({ state }) =>
        NCA.plane(state, state.channels - 1).filter((alpha) => alpha > 0.1).length);
    return { worst, met, most, alive };
"""


@pytest.mark.parametrize(
    ("seeds", "steps", "wound"),
    [
        ([("lizard-regenerating", 20, 30)], 80, 40),
        ([("heart", 6, 56)], 31, None),  # at the border of the ground
        ([("donut", 22, 20), ("heart", 22, 34), ("lizard-regenerating", 30, 28)], 31, 20),
        ([("lizard-regenerating", 20, 20), ("reference", 24, 36)], 24, None),  # another network
    ],
)
def test_plants_live_by_nca_js_and_leave_alone_what_is_taken(v8, seeds, steps, wound):
    found = v8(COMPARE, seeds=seeds, steps=steps, wound=wound)
    assert found["worst"] < 1e-6 and found["most"] > 0.9
    assert (found["met"] > 100) == (len(seeds) > 1)
    assert min(found["alive"]) > 60


def test_what_does_not_last_stands_still_wakes_once_and_starts_over(v8):
    found = v8("""
        const world = World.makeWorld(60, 60, 1);
        const heart = world.plant(models.heart, 30, 30);
        const look = () => [...heart.life.cells].reduce((sum, x, i) => sum + x * (1 + i % 7), 0);
        const run = (n) => { while (n--) world.step(); return look(); };
        const [grown, still] = [run(32), run(20)];
        world.erase(30, 30, 3, false);
        const [wounded, woken] = [look(), run(1)];
        let steps = 53;
        while (heart.age !== 0) { world.step(); steps++; }
        const seed = heart.life.cells.filter((x) => x !== 0).length;
        const again = run(30);
        world.erase(30, 30, 30, false);
        const byRain = [world.plants.length, look()];
        while (heart.age !== 12) world.step();
        const back = look();
        world.erase(30, 30, 30);
        return { grown, still, wounded, woken, steps, seed, again, byRain, back,
            plants: world.plants.length };
    """)
    assert found["grown"] == found["still"] != found["wounded"] != found["woken"]
    assert found["steps"] < 150 and found["seed"] == 1 and found["again"] > 10
    assert found["byRain"] == [1, 0] and found["back"] > 1 and found["plants"] == 0


def test_sowing_leaves_room_and_mixes_kinds(v8):
    found = v8("""
        const kinds = [models.heart, models.donut, models["lizard-regenerating"]];
        const world = World.makeWorld(256, 256, 3);
        const look = () => world.plants.map(({ row, column, age, model }) =>
            [row, column, age, kinds.indexOf(model)]);
        world.sow(kinds);
        world.sow([]);
        const first = look();
        world.resize(256, 400);
        world.sow(kinds, [256, 256]);
        const then = look();
        world.resize(256, 256);
        return [first, then, look()];
    """)
    (first, ages, kinds), (then, *_), (last, *_) = (
        np.split(np.array(plants), [2, 3], axis=1) for plants in found
    )
    assert 36 <= len(first) <= 60 and np.bincount(kinds.ravel()).min() > 8
    assert len(np.unique(ages)) > 20 and ages.max() < 0  # not in lockstep
    for places in (first, then):
        gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
        assert gaps[~np.eye(len(places), dtype=bool)].min() >= 31
    old, new = then[: len(first)], then[len(first) :]
    assert (old == np.add(first, [0, 72])).all() and len(new) > 12
    assert ((new[:, 1] <= 72) | (new[:, 1] >= 328)).all()
    assert (last[: len(first)] == first).all()


def test_another_size_and_a_pause_within_a_step_change_no_life(v8):
    seeds = [("lizard-regenerating", 24, 30), ("heart", 36, 42), ("donut", 50, 18)]
    code = """
        const grow = (disturb) => {
            const world = World.makeWorld(64, 64, 5);
            for (const [name, row, column] of seeds) world.plant(models[name], row, column);
            for (let t = 0; t < 30; t++) disturb(world, t);
            const pixels = new Uint8ClampedArray(4 * world.height * world.width);
            world.draw(pixels);
            const alpha = pixels.reduce((sum, x, i) => sum + (i % 4 === 3 ? x : 0), 0);
            return [world.plants.map(({ life }) => [...life.cells]), alpha];
        };
        let parts = 0;
        const plain = grow((world) => world.step());
        const paused = grow((world) => { while (!world.step(clock + 1)) parts++; });
        const moved = grow((world, t) => {
            world.step();
            if (t % 5 === 4) world.resize(64 + 2 * t, 60 + 3 * t);
        });
        return { parts, plain, paused, moved };
    """
    found = v8(code, seeds=seeds)
    assert found["plain"] == found["paused"] == found["moved"]
    assert found["parts"] > 29 and found["plain"][-1] > 1e4


def test_rain_wounds_what_it_hits_and_is_seen(v8):
    found = v8("""
        const world = World.makeWorld(40, 40, 2);
        const one = world.plant(models["lizard-regenerating"], 20, 20);
        const pixels = new Uint8ClampedArray(4 * 1600);
        const look = () => {
            world.draw(pixels);
            const blue = pixels.filter((x, i) => i % 4 === 2 && x === 215);
            return [one.life.cells.filter((x) => x !== 0).length, blue.length];
        };
        for (let t = 0; t < 32; t++) world.step();
        const before = look();
        for (let n = 0; n < 30; n++) world.rain();
        const after = [look()];
        for (let t = 0; t < 8; t++) { world.step(); after.push(look()); }
        return [before, ...after];
    """)
    numbers, blue = zip(*found, strict=True)
    assert numbers[1] < 0.8 * numbers[0]
    assert blue[0] == blue[-1] == 0 and max(blue) > 20


class Gardener(Reader):
    grid = ".nca-world canvas"

    def plants(self) -> int:
        return int(re.search(r"(\d+) plants", self.tab.inner_text(".nca-counter"))[1])

    def slide(self, name, key):
        self.tab.get_by_role("slider", name=name).press(key)

    def is_bare(self, across, down) -> bool:
        pixels = self.pixels()
        row, column = (np.multiply(pixels.shape[:2], (down, across))).astype(int)
        return bool((pixels[row - 2 : row + 3, column - 2 : column + 3] == 0).all())


@pytest.fixture
def read(chromium):
    with opening(Gardener, chromium, "world") as read:
        yield read


def test_a_gardener_plants_erases_and_starts_over(read):
    reader = read().wait_for_step(30)
    assert reader.plants() > 36 and np.count_nonzero(reader.pixels()[..., 3]) > 1000
    assert min(reader.pixels().shape[:2]) >= 256
    reader.pause()
    reader.slide("Rain", "Home")
    reader.button("Bare ground").click()
    assert (reader.steps(), reader.plants()) == (0, 0) and not reader.pixels().any()
    reader.role("radio", "Heart").check()
    reader.tab.mouse.click(*reader.at(0.3, 0.5))
    reader.wait_for_status("Planted: Heart.")
    reader.role("radio", "Donut").check()
    reader.tab.mouse.click(*reader.at(0.6, 0.5))
    assert reader.plants() == 2 and np.count_nonzero(reader.pixels()[..., 3]) == 2
    reader.slide("Speed", "End")
    reader.button("Play").click()
    reader.pause(40)
    pixels = reader.pixels()
    middle = pixels.shape[1] // 2
    reds = [half[half[..., 3] > 200] for half in (pixels[:, :middle], pixels[:, middle:])]
    heart, donut = (np.mean(half[:, 0] / (1 + half[:, 1])) for half in reds)
    assert heart > 2 > donut > 1 and not reader.is_bare(0.3, 0.5)
    reader.drag((0.2, 0.5), (0.4, 0.5))
    reader.wait_for_status("Erased.")
    assert reader.is_bare(0.3, 0.5) and reader.plants() == 2  # half a heart above and below
    reader.button("Start over").click()
    assert reader.steps() == 0 and reader.plants() > 36


def test_everything_by_keyboard(read):
    reader = read().pause()
    reader.button("Bare ground").press("Enter")
    reader.canvas.focus()
    assert reader.tab.locator(".nca-world .nca-cursor").is_visible()
    for key in ["ArrowLeft"] * 3 + ["ArrowUp"] * 2 + ["Enter"]:
        reader.tab.keyboard.press(key)
    reader.wait_for_status("Planted")
    ((row, column),) = np.argwhere(reader.pixels()[..., 3])
    assert (row, column) == (128 - 12, 128 - 18)
    reader.tab.keyboard.press("Control+Enter")  # the browser's
    reader.tab.keyboard.press("Delete")
    reader.wait_for_status("Erased.")
    assert not reader.pixels().any() and reader.plants() == 0

    fill = reader.button("Fill the page")
    fill.press("Enter")
    assert reader.canvas.bounding_box()["width"] == 1280
    assert reader.has_focus(reader.button("Back to the page"))
    reader.tab.keyboard.press("Escape")
    fill.wait_for()
    assert reader.canvas.bounding_box()["width"] < 1000 and reader.has_focus(fill)


def test_a_finger_plants_erases_and_scrolls_only_the_page(read):
    reader = read(has_touch=True, viewport={"width": 390, "height": 844}).pause()
    up = [(0.5, 0.7 - 0.05 * i) for i in range(9)]
    across = [(0.3 + 0.05 * i, 0.5) for i in range(9)]

    def grow():
        """One plant in the middle."""
        reader.button("Bare ground").click()
        reader.tab.touchscreen.tap(*reader.at(0.5, 0.5))
        reader.wait_for_status("Planted")
        reader.button("Play").click()
        reader.pause(reader.steps() + 20)
        assert not reader.is_bare(0.5, 0.5)

    reader.slide("Rain", "Home")
    reader.slide("Speed", "End")
    grow()
    before = reader.pixels()
    reader.swipe_and_scroll(*up)
    assert (reader.pixels() == before).all()
    reader.swipe(*across)
    reader.wait_for_status("Erased.")
    assert reader.is_bare(0.5, 0.5)

    reader.button("Fill the page").tap()
    grow()
    reader.swipe(*up)
    reader.wait_for_status("Erased.")
    assert reader.is_bare(0.5, 0.5) and reader.tab.evaluate("scrollY") == 0
    reader.button("Back to the page").tap()
    reader.button("Fill the page").wait_for()


def test_little_motion_begins_with_a_garden_that_stands_still(read):
    reader = read(reduced_motion="reduce").wait_for_step(100)
    reader.wait_for_status("little motion")
    steps, before = reader.steps(), reader.pixels()
    assert reader.button("Play").is_visible() and np.count_nonzero(before[..., 3]) > 5000
    reader.tab.evaluate("() => new Promise((go) => requestAnimationFrame(() => setTimeout(go)))")
    assert reader.steps() == steps and (reader.pixels() == before).all()
    reader.button("Play").click()
    reader.wait_for_step(steps + 3)
    reader.pause()


def test_it_sleeps_out_of_sight(read):
    read().wait_for_step(3).assert_it_sleeps_out_of_sight()


def test_nothing_that_it_does_takes_long(read, chromium):
    with no_long_task(chromium):
        reader = read()
        reader.slide("Rain", "End")
        reader.slide("Speed", "End")
        reader.button("Fill the page").click()
        reader.wait_for_step(45)
        reader.button("Start over").click()
        reader.wait_for_step(30)


def test_a_file_that_is_missing_is_said_in_words(chromium):
    with chromium.new_context(offline=True) as context:
        context.route("**/weights/heart.js", lambda route: route.abort())
        tab = context.new_page()
        tab.goto((HTML / "book" / "world.html").as_uri())
        tab.get_by_text("The weights of heart could not be loaded.").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_all_of_it_can_be_used_by_everybody(read, theme, width, height):
    reader = read(color_scheme=theme, viewport={"width": width, "height": height}).pause(20)
    buttons = reader.button("Play").or_(reader.button("Fill the page"))
    assert max(reader.edges(buttons)) <= height  # without scrolling
    reader.assert_everybody_can_use_it()
    reader.button("Fill the page").click()
    reader.button("Back to the page").wait_for()
    ground = reader.canvas.bounding_box()
    assert (ground["x"], ground["y"], ground["width"]) == (0, 0, width)
    assert ground["height"] > 0.6 * height
    reader.assert_everybody_can_use_it()
