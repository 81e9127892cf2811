"""Speed of what is alive in the book, in headless Chromium.

    python book/experiments/page_speed.py

Measures nca.js by itself, then the playground of the built book as it runs on the page, drawing
included. Two CPU cores should give at least 120 steps a second for `lizard` on 48 x 48 cells and 30
on 96 x 96 cells with four lizards. Then evolution: rollouts a second around `lizard` with one and
two workers, of which two idle cores should give 700 and 1.6 times those of one; and how long the
page takes, from Start, for 60,000 rollouts of its lizard, which should be at most 90 seconds. In
between, a world of 256 x 256 cells: with 36 lizards that all live, as fast as it goes; and as its
page sows it, at 60 steps a second, the most that the page offers. Last the rate on a graphics card
in software, where nothing is wanted: it is slower than the workers, and how fast a real card is the
page itself shows.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from nca_lib import load_run
from nca_lib.show import page

# run, side of the grid, seeds, least steps per second
CASES = [("lizard", 48, 1, 120), ("lizard", 96, 4, 30), ("lizard-regenerating", 96, 4, 30)]
WARM, STEPS = 32, 200  # steps before the clock starts, and steps that it sees
HTML = Path(__file__).parents[2] / "_build" / "html"

MEASURE = """([grid, seeds, warm, steps]) => {
    const model = NCA.decode([...NCA.records.values()][0]);
    const state = NCA.seedState(grid, grid, model.channels, seeds);
    const random = NCA.makeRandom(1);
    const run = (n) => { while (n--) NCA.step(model, state, NCA.fireMask(random, grid, grid)); };
    run(warm);
    const start = performance.now();
    run(steps);
    return (1000 * steps) / (performance.now() - start);
}"""

FRAMES = """() => new Promise((done) => {
    const [start, count] = [performance.now(), 120];
    const wait = (n) => requestAnimationFrame(() =>
        n > 1 ? wait(n - 1) : done((1000 * count) / (performance.now() - start)));
    wait(count);
})"""
ROLLOUTS, LONGEST = 60_000, 90  # of the page's lizard, and seconds
RATE = """async ([workers, record, target, seconds, gpu]) => {
    const { weights } = NCA.open(record);
    const told = { workers, weights, gpu };
    const evolution = Evolution.create({ std: 0.003 }, Float32Array.from(target), told);
    await evolution.step(); // compiles
    while (evolution.card === "trying") await evolution.step();
    const [rollouts, start] = [evolution.rollouts, performance.now()];
    while (performance.now() - start < 1000 * seconds) await evolution.step();
    const rate = (1000 * (evolution.rollouts - rollouts)) / (performance.now() - start);
    evolution.stop();
    if (evolution.workers !== workers) throw new Error("there are no workers");
    if (evolution.card !== gpu) throw new Error(`the graphics card is ${evolution.card}`);
    return rate;
}"""
ADAPTER = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
SHOWN = "() => ({ ...document.documentElement.dataset })"
PLANTS, GROUND = 36, 256  # of a world, and cells on its side
WORLD = """([name, plants, side, warm, steps]) => {
    const model = NCA.decode(NCA.records.get(name));
    const world = World.makeWorld(side, side);
    const pixels = new Uint8ClampedArray(4 * side * side);
    const across = Math.sqrt(plants);
    for (let k = 0; k < plants; k++) {
        const place = [Math.floor(k / across), k % across];
        world.plant(model, ...place.map((at) => Math.floor(((at + 0.5) * side) / across)));
    }
    const run = (n, task) => {
        const start = performance.now();
        for (let i = 0; i < n; i++) task();
        return (1000 * n) / (performance.now() - start);
    };
    run(warm, world.step);
    return [run(steps, world.step), run(steps, () => world.draw(pixels))];
}"""


def measure_rule(tab, name: str, grid: int, seeds: int) -> float:
    """The rule by itself."""
    nca = (page.DEMO / "nca.js").read_text(encoding="utf-8")
    tab.goto("about:blank")
    tab.add_script_tag(content=f"{nca}{page.script(page.describe(name))}")
    return tab.evaluate(MEASURE, [grid, seeds, WARM, STEPS])


def measure_page(tab, html: Path, name: str, grid: int, seeds: int) -> tuple[float, float]:
    """Steps a second, the median of five readings half a second apart, and frames a second."""
    tab.goto("about:blank")
    address = (html / "book" / "playground.html").as_uri()
    tab.goto(f"{address}#run={name}&grid={grid}&seeds={seeds}&speed=1000")
    play = tab.get_by_role("button", name="Play", exact=True)
    readings = []
    for _ in range(8):
        tab.wait_for_timeout(600)
        if play.is_visible():  # it pauses at the last step of training
            play.click()
        _, _, pace = tab.inner_text(".nca-counter").partition(" · ")
        readings.append(float(pace.partition(" ")[0] or "nan"))
    return sorted(readings[3:])[2], tab.evaluate(FRAMES)


def lizard() -> list:
    """What `RATE` evolves further, and for how many seconds."""
    run = load_run("lizard")
    return [page.describe(run), run.target.ravel().tolist(), 10]


def measure_evolution(tab, address: str) -> bool:
    """Print how fast evolution is; tell whether it is too slow."""
    tab.goto(address)
    one, two = (tab.evaluate(RATE, [workers, *lizard(), "off"]) for workers in (1, 2))
    print(f"rollouts a second: one worker {one:.0f}, two {two:.0f} ({two / one:.2f} times)")
    tab.reload()
    start = time.monotonic()
    tab.get_by_role("button", name="Start", exact=True).click()
    shown = tab.evaluate(SHOWN)
    while int(shown["rollouts"]) < ROLLOUTS and shown["state"] == "running":
        tab.wait_for_timeout(200)
        shown = tab.evaluate(SHOWN)
    seconds, share = time.monotonic() - start, float(shown["loss"]) / float(shown["empty"])
    told = f"{shown['rollouts']} rollouts of the page's lizard"
    print(f"{told}: {seconds:.0f} s, loss {share:.3f} of the empty grid's")
    return two < 700 or two < 1.6 * one or seconds > LONGEST or share > 0.25


def measure_world(tab, address: str) -> None:
    """Print how fast a world is, by itself and on a page that is so wide that it is a square."""
    before = tab.viewport_size
    tab.set_viewport_size({"width": 448, "height": 900})
    tab.goto(address)
    tab.locator(".nca-world canvas").wait_for()
    name = "lizard-regenerating"
    steps, drawn = tab.evaluate(WORLD, [name, PLANTS, GROUND, WARM, STEPS])
    where = f"world, {GROUND} x {GROUND}, {PLANTS} of {name}"
    print(f"{where:45} steps {steps:5.0f} a second, drawn {drawn:.0f} times a second")
    tab.get_by_role("slider", name="Speed").press("End")
    tab.wait_for_timeout(5_000)  # until all have sprouted
    frames = tab.evaluate(FRAMES)
    tab.wait_for_timeout(1_500)
    side = "([canvas]) => `${canvas.height} x ${canvas.width}`"
    where = tab.eval_on_selector_all(".nca-world canvas", side)
    print(f"world on the page, {where}: {frames:.0f} frames; {tab.inner_text('.nca-counter')}")
    tab.set_viewport_size(before)


def main() -> int:
    """Print tables; the exit status is 1 if something is too slow."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--html", type=Path, default=HTML, help="the built book")
    options = parser.parse_args()
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    executable = next((path for name in names if name and (path := shutil.which(name))), None)
    if executable is None:
        print("no Chromium found; name one with CHROMIUM=/path/to/chromium", file=sys.stderr)
        return 2
    has_page = (options.html / "book" / "playground.html").is_file()
    slow = False
    with sync_playwright() as playwright:

        def launch(*flags):
            flags = ["--no-sandbox", *flags]
            return playwright.chromium.launch(executable_path=executable, args=flags)

        chromium = launch()
        tab = chromium.new_page(viewport={"width": 1280, "height": 1400})
        print(f"Chromium {chromium.version}, {os.cpu_count()} cores; steps per second")
        for name, grid, seeds, least in CASES:
            rule = measure_rule(tab, name, grid, seeds)
            shown = "not built"
            if has_page:
                pace, frames = measure_page(tab, options.html.resolve(), name, grid, seeds)
                shown, slow = f"{pace:.0f} at {frames:.0f} frames", slow or pace < least
                slow = slow or frames < min(59, least)  # of the 60 that a screen shows
            slow = slow or rule < least
            where = f"{name}, {grid} x {grid}, seeds: {seeds}"
            print(f"{where:45} rule {rule:7.0f}   page {shown}   wanted {least}")
        world = options.html.resolve() / "book" / "world.html"
        if world.is_file():
            measure_world(tab, world.as_uri())
        evolve = options.html.resolve() / "book" / "evolve.html"
        if evolve.is_file():
            slow = measure_evolution(tab, evolve.as_uri()) or slow
        chromium.close()
        if evolve.is_file():
            chromium = launch(*ADAPTER)
            tab = chromium.new_page()
            tab.goto(evolve.as_uri())
            rate = tab.evaluate(RATE, [1, *lizard(), "on"])
            print(f"rollouts a second on a graphics card in software: {rate:.0f}")
            chromium.close()
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
