"""The world: its lives against nca.js, and the page as readers meet it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from conftest import hear, longest_task, skip_or_fail
from PIL import Image
from py_mini_racer import MiniRacer
from test_book import HTML, PAGES, THEME_KNOWN, barriers
from test_browser import ATOB
from test_evolve_page import WATCH

from nca_lib.show import page as demo

RUNS = ("lizard-regenerating", "heart", "donut", "reference")
PATIENCE = 120_000  # milliseconds; only a failure takes as long


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
        const run = (n) => { while (n--) world.step(); };
        run(32);
        const grown = look();
        run(20);
        const still = look();
        world.erase(30, 30, 3, false);
        const wounded = look();
        run(1);
        const woken = look();
        let steps = 53;
        while (heart.age !== 0) { world.step(); steps++; }
        const [seed] = [heart.life.cells.filter((x) => x !== 0).length];
        run(30);
        const again = look();
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
        world.sow(kinds);
        world.sow([]);
        const first = world.plants.map(({ row, column, age, model }) =>
            [row, column, age, kinds.indexOf(model)]);
        world.resize(256, 400);
        world.sow(kinds, [256, 256]);
        const then = world.plants.map(({ row, column }) => [row, column]);
        world.resize(256, 256);
        return { first, then, last: world.plants.map(({ row, column }) => [row, column]) };
    """)
    first, then = np.array(found["first"]), np.array(found["then"])
    assert 36 <= len(first) <= 60 and np.bincount(first[:, 3]).min() > 8
    assert len(np.unique(first[:, 2])) > 20 and first[:, 2].max() < 0  # not in lockstep
    for places in (first[:, :2], then):
        gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
        assert gaps[~np.eye(len(places), dtype=bool)].min() >= 31
    assert (then[: len(first)] == first[:, :2] + [0, 72]).all() and len(then) > len(first) + 12
    assert ((then[len(first) :, 1] <= 72) | (then[len(first) :, 1] >= 328)).all()
    assert found["last"][: len(first)] == first[:, :2].tolist()


def test_another_size_and_a_pause_within_a_step_change_no_life(v8):
    found = v8("""
        const grow = (disturb) => {
            const world = World.makeWorld(64, 64, 5);
            const one = world.plant(models["lizard-regenerating"], 24, 30);
            world.plant(models.heart, 36, 42);
            world.plant(models.donut, 50, 18);
            for (let t = 0; t < 30; t++) disturb(world, t);
            const pixels = new Uint8ClampedArray(4 * world.height * world.width);
            world.draw(pixels);
            let sum = 0;
            for (let k = 3; k < pixels.length; k += 4) sum += pixels[k];
            return [...world.plants.map(({ life }) => [...life.cells]), sum];
        };
        const plain = grow((world) => world.step());
        let parts = 0;
        const paused = grow((world) => { while (!world.step(clock + 1)) parts++; });
        const moved = grow((world, t) => {
            world.step();
            if (t % 5 === 4) world.resize(64 + 2 * t, 60 + 3 * t);
        });
        const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
        return { parts, paused: same(plain, paused), moved: same(plain, moved), sum: plain.at(-1) };
    """)
    assert found["parts"] > 29 and found["paused"] and found["moved"] and found["sum"] > 1e4


def test_rain_wounds_what_it_hits_and_is_seen(v8):
    found = v8("""
        const world = World.makeWorld(40, 40, 2);
        const one = world.plant(models["lizard-regenerating"], 20, 20);
        for (let t = 0; t < 32; t++) world.step();
        const pixels = new Uint8ClampedArray(4 * 1600);
        const blue = () => {
            world.draw(pixels);
            return pixels.filter((x, i) => i % 4 === 2 && x === 215).length;
        };
        const count = () => one.life.cells.filter((x) => x !== 0).length;
        const [before, dry] = [count(), blue()];
        for (let n = 0; n < 30; n++) world.rain();
        const [after, wet] = [count(), [blue()]];
        for (let t = 0; t < 8; t++) { world.step(); wet.push(blue()); }
        return { before, after, dry, wet };
    """)
    assert found["after"] < 0.8 * found["before"]
    assert found["dry"] == found["wet"][-1] == 0 and max(found["wet"]) > 20


class Reader:
    """A tab with the page, and what went wrong in it."""

    def __init__(self, chromium, **context):
        self.context = chromium.new_context(offline=True, **context)
        self.context.add_init_script(WATCH)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.troubles, self.requests = hear(self.tab), []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto((HTML / "book" / "world.html").as_uri())
        self.canvas = self.tab.locator(".nca-world canvas")
        self.wait_for_step(0)

    def button(self, name):
        return self.tab.get_by_role("button", name=name, exact=True)

    def counts(self) -> tuple[int, int]:
        """Steps and plants."""
        step, plants = re.findall(r"\d+", self.tab.inner_text(".nca-counter"))[:2]
        return int(step), int(plants)

    def wait_for_step(self, step):
        self.tab.wait_for_function(
            """(n) => {
                const text = document.querySelector(".nca-world .nca-counter")?.textContent;
                return text && parseInt(text.slice(5)) >= n;
            }""",
            arg=step,
        )
        return self

    def pause(self):
        self.button("Pause").click()
        return self

    def slide(self, name, key):
        self.tab.get_by_role("slider", name=name).press(key)

    def at(self, x, y):
        """A place on the page, in shares of the ground."""
        box = self.canvas.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def pixels(self) -> np.ndarray:
        """The ground as RGBA, (H, W, 4) in 0 to 255; integers with a sign."""
        address = self.canvas.evaluate("(canvas) => canvas.toDataURL()")
        image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        return np.array(image.convert("RGBA"), int)

    def is_bare(self, x, y) -> bool:
        pixels = self.pixels()
        row, column = (np.multiply(pixels.shape[:2], (y, x))).astype(int)
        return bool((pixels[row - 2 : row + 3, column - 2 : column + 3] == 0).all())

    def wait_for_status(self, text):
        self.tab.locator(".nca-status", has_text=text).wait_for()


@pytest.fixture
def read(chromium):
    """Opens the page; whatever a test does, it may not complain, ask anybody, or store anything."""
    if "book/world.html" not in PAGES:
        skip_or_fail(f"no world at {HTML}; build it first with `make book`")
    readers = []

    def open_page(**context):
        readers.append(Reader(chromium, **context))
        return readers[-1]

    yield open_page
    for reader in readers:
        assert reader.troubles == []
        assert [url for url in reader.requests if not re.match("file:|data:", url)] == []
        stored = reader.tab.evaluate("Object.keys(localStorage).join() + document.cookie")
        assert set(stored.split(",")) <= {"", "mode", "theme"}  # the book's own
        reader.context.close()


def test_a_gardener_plants_erases_and_starts_over(read):
    reader = read().wait_for_step(30)
    assert reader.counts()[1] > 36 and np.count_nonzero(reader.pixels()[..., 3]) > 1000
    assert min(reader.pixels().shape[:2]) >= 256
    reader.pause()
    reader.slide("Rain", "Home")
    reader.button("Bare ground").click()
    assert reader.counts() == (0, 0) and not reader.pixels().any()
    reader.tab.get_by_role("radio", name="Heart", exact=True).check()
    reader.tab.mouse.click(*reader.at(0.3, 0.5))
    reader.wait_for_status("Planted: Heart.")
    reader.tab.get_by_role("radio", name="Donut", exact=True).check()
    reader.tab.mouse.click(*reader.at(0.6, 0.5))
    assert reader.counts()[1] == 2 and np.count_nonzero(reader.pixels()[..., 3]) == 2
    reader.slide("Speed", "End")
    reader.button("Play").click()
    reader.wait_for_step(40)
    reader.pause()
    pixels = reader.pixels()
    middle = pixels.shape[1] // 2
    reds = [half[half[..., 3] > 200] for half in (pixels[:, :middle], pixels[:, middle:])]
    heart, donut = (np.mean(half[:, 0] / (1 + half[:, 1])) for half in reds)
    assert heart > 2 > donut > 1 and not reader.is_bare(0.3, 0.5)
    reader.tab.mouse.move(*reader.at(0.2, 0.5))
    reader.tab.mouse.down()
    reader.tab.mouse.move(*reader.at(0.4, 0.5))
    reader.tab.mouse.up()
    reader.wait_for_status("Erased.")
    assert reader.is_bare(0.3, 0.5) and reader.counts()[1] == 2  # half a heart above and below
    reader.button("Start over").click()
    assert reader.counts()[0] == 0 and reader.counts()[1] > 36


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
    assert not reader.pixels().any() and reader.counts()[1] == 0

    reader.button("Fill the page").press("Enter")
    box = reader.canvas.bounding_box()
    assert box["width"] == 1280 and reader.button("Back to the page").evaluate(
        "(button) => button === document.activeElement"
    )
    reader.tab.keyboard.press("Escape")
    reader.button("Fill the page").wait_for()
    assert reader.canvas.bounding_box()["width"] < 1000
    assert reader.button("Fill the page").evaluate("(button) => button === document.activeElement")


def test_a_finger_plants_erases_and_scrolls_only_the_page(read):
    """By Chromium's own touch input, which decides by itself when a movement is a scroll."""
    reader = read(has_touch=True, viewport={"width": 390, "height": 844}).pause()
    touch = reader.tab.context.new_cdp_session(reader.tab)

    def swipe(*places):
        kinds = ["touchStart", *["touchMove"] * len(places), "touchEnd"]
        for i, kind in enumerate(kinds):
            x, y = reader.at(*places[min(i, len(places) - 1)])
            points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
            event = {"type": kind, "touchPoints": points, "timestamp": 1 + i}
            touch.send("Input.dispatchTouchEvent", event)

    def grow():
        """One plant in the middle."""
        reader.button("Bare ground").click()
        reader.tab.touchscreen.tap(*reader.at(0.5, 0.5))
        reader.wait_for_status("Planted")
        reader.button("Play").click()
        reader.wait_for_step(reader.counts()[0] + 20)
        reader.pause()
        assert not reader.is_bare(0.5, 0.5)

    reader.slide("Rain", "Home")
    reader.slide("Speed", "End")
    grow()
    before = reader.pixels()
    up, across = (
        [(0.5, 0.7 - 0.05 * i) for i in range(9)],
        [(0.3 + 0.05 * i, 0.5) for i in range(9)],
    )
    swipe(*up)
    reader.tab.wait_for_function("() => scrollY > 0")
    assert (reader.pixels() == before).all()
    reader.tab.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    swipe(*across)
    reader.wait_for_status("Erased.")
    assert reader.is_bare(0.5, 0.5)

    reader.button("Fill the page").tap()
    grow()
    swipe(*up)
    reader.wait_for_status("Erased.")
    assert reader.is_bare(0.5, 0.5) and reader.tab.evaluate("scrollY") == 0
    reader.button("Back to the page").tap()
    reader.button("Fill the page").wait_for()


def test_little_motion_begins_with_a_garden_that_stands_still(read):
    reader = read(reduced_motion="reduce").wait_for_step(100)
    reader.wait_for_status("little motion")
    steps, before = reader.counts()[0], reader.pixels()
    assert reader.button("Play").is_visible() and np.count_nonzero(before[..., 3]) > 5000
    reader.tab.evaluate("() => new Promise((go) => requestAnimationFrame(() => setTimeout(go)))")
    assert reader.counts()[0] == steps and (reader.pixels() == before).all()
    reader.button("Play").click()
    reader.wait_for_step(steps + 3)
    reader.pause()


def test_it_sleeps_out_of_sight(read):
    reader = read().wait_for_step(3)
    frames = """(n) => new Promise((done) => {
        const wait = () => (n-- > 0 ? requestAnimationFrame(wait) : done());
        wait();
    })"""
    world = reader.tab.locator("div.nca-world")
    world.evaluate("(world) => { world.style.translate = '-9999px'; }")
    reader.tab.evaluate(frames, 10)
    before = reader.counts()[0]
    reader.tab.evaluate(frames, 20)
    assert reader.counts()[0] == before
    world.evaluate("(world) => { world.style.translate = ''; }")
    reader.wait_for_step(before + 3)


def test_nothing_that_it_does_takes_long(read, chromium):
    chromium.start_tracing(categories=["toplevel"])
    reader = read()
    reader.slide("Rain", "End")
    reader.slide("Speed", "End")
    reader.button("Fill the page").click()
    reader.wait_for_step(90)
    reader.button("Start over").click()
    reader.wait_for_step(30)
    assert longest_task(chromium) <= 3


def test_a_file_that_is_missing_is_said_in_words(read, chromium):
    context = chromium.new_context(offline=True)
    context.route("**/weights/heart.js", lambda route: route.abort())
    tab = context.new_page()
    tab.goto((HTML / "book" / "world.html").as_uri())
    tab.get_by_text("The weights of heart could not be loaded.").wait_for()
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_all_of_it_can_be_used_by_everybody(read, theme, width, height):
    reader = read(color_scheme=theme, viewport={"width": width, "height": height})
    reader.wait_for_step(20).pause()
    room = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert reader.tab.evaluate(room) == 0 and reader.tab.evaluate("shift") < 0.05
    for name in ("Pause", "Fill the page"):  # without scrolling
        name = "Play" if name == "Pause" else name
        box = reader.button(name).bounding_box()
        assert box["y"] + box["height"] <= height
    assert barriers(reader.tab, THEME_KNOWN) == {}
    reader.button("Fill the page").click()
    reader.button("Back to the page").wait_for()
    ground = reader.canvas.bounding_box()
    assert (ground["x"], ground["y"], ground["width"]) == (0, 0, width)
    assert ground["height"] > 0.6 * height
    assert barriers(reader.tab, THEME_KNOWN) == {}
    reader.troubles.clear()  # axe-core asks for styles, which pages on disk may not
