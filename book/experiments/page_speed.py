"""Steps per second of the live demo in headless Chromium.

    python book/experiments/page_speed.py

Measures nca.js by itself, then the playground of the built book as it runs on the page, drawing
included. Two CPU cores should give at least 120 steps a second for `lizard` on 48 x 48 cells and 30
on 96 x 96 cells with four lizards.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

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


def main() -> int:
    """Print a table; the exit status is 1 if a case is too slow."""
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
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1280, "height": 1400})
        print(f"Chromium {chromium.version}, {os.cpu_count()} cores; steps per second")
        for name, grid, seeds, least in CASES:
            rule = measure_rule(tab, name, grid, seeds)
            page = "not built"
            if has_page:
                pace, frames = measure_page(tab, options.html.resolve(), name, grid, seeds)
                page, slow = f"{pace:.0f} at {frames:.0f} frames", slow or pace < least
                slow = slow or frames < min(59, least)  # of the 60 that a screen shows
            slow = slow or rule < least
            where = f"{name}, {grid} x {grid}, seeds: {seeds}"
            print(f"{where:45} rule {rule:7.0f}   page {page}   wanted {least}")
        chromium.close()
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
