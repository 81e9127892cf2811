"""Somebody who reads a live page of the book: what the tests of all these pages share."""

import base64
import contextlib
import io
import re

import numpy as np
from conftest import hear, skip_or_fail
from PIL import Image
from test_book import HTML, PAGES, THEME_KNOWN, barriers

WATCH = """
    window.moved = []; // what has moved that no reader moved: how far, and which parts
    new PerformanceObserver((list) => {
        for (const { value, hadRecentInput, sources } of list.getEntries()) {
            const told = ({ node, previousRect: { x, y }, currentRect }) =>
                `${node?.outerHTML ?? node?.data}`.replace(/\\s+/g, " ").slice(0, 60) +
                ` from ${x}, ${y} to ${currentRect.x}, ${currentRect.y}`;
            if (!hadRecentInput) moved.push([value, ...sources.map(told)]);
        }
    }).observe({ type: "layout-shift", buffered: true });
"""
FRAMES = """(n) => new Promise((done) => {
    const wait = () => (n-- > 0 ? requestAnimationFrame(wait) : done());
    wait();
})"""


class Reader:
    """A tab with a page, what it asked for, and what went wrong in it.

    Places are (across, down) in shares of an element, which is the first canvas if none is named.
    """

    patience = 120_000  # milliseconds; only a failure takes as long
    grid = ".nca-player canvas"

    def __init__(self, browser, address, script="", sees=None, **context):
        self.context = browser.new_context(**({"offline": address.startswith("file:")} | context))
        self.context.add_init_script(WATCH + script)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(self.patience)
        self.troubles, self.requests = hear(self.tab), []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.canvas = self.tab.locator(self.grid)
        self.tab.goto(address, wait_until="load")
        self.tab.wait_for_selector(sees or self.grid)

    def close(self):
        """Whatever a test did, the page may not complain, ask anybody, or store anything."""
        assert self.troubles == []
        own = "file:|data:|blob:|http://127.0.0.1:"
        assert [url for url in self.requests if not re.match(own, url)] == []
        stored = self.tab.evaluate("Object.keys(localStorage).join() + document.cookie")
        assert set(stored.split(",")) <= {"", "mode", "theme"}  # the book's own
        self.context.close()

    def role(self, role, name):
        return self.tab.get_by_role(role, name=name, exact=True)

    def button(self, name):
        return self.role("button", name)

    def status(self) -> str:
        return self.tab.inner_text(".nca-status")

    def wait_for_status(self, text):
        self.tab.wait_for_function(
            "(t) => document.querySelector('.nca-status').textContent.includes(t)", arg=text
        )

    def steps(self) -> int:
        return int(re.match(r"Step (\d+)", self.tab.inner_text(".nca-counter"))[1])

    def wait_for_step(self, step):
        counter = "document.querySelector('.nca-counter')?.textContent.slice(5)"
        self.tab.wait_for_function(f"(n) => parseInt({counter}) >= n", arg=step)
        return self

    def pause(self, step=0):
        self.wait_for_step(step).button("Pause").click()
        return self

    def pixels(self, index=0) -> np.ndarray:
        """A canvas as straight RGBA in 0 to 255, (H, W, 4)."""
        address = self.canvas.nth(index).evaluate("(canvas) => canvas.toDataURL()")
        image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        return np.array(image.convert("RGBA"), int)

    def saved(self, button):
        """The file that comes of a button, as Playwright knows it."""
        with self.tab.expect_download() as download:
            self.button(button).press("Enter")
        return download.value

    def has_focus(self, element) -> bool:
        return element.evaluate("(element) => element === document.activeElement")

    def edges(self, elements, side="bottom") -> list[float]:
        return elements.evaluate_all(f"(all) => all.map((e) => e.getBoundingClientRect().{side})")

    def at(self, across, down, element=None):
        """A place in pixels of the view."""
        box = (element or self.canvas.first).bounding_box()
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    def drag(self, start, *places, element=None):
        """The pointer, pressed at a place and led over others."""
        self.tab.mouse.move(*self.at(*start, element))
        self.tab.mouse.down()
        for place in places:
            self.tab.mouse.move(*self.at(*place, element), steps=8)
        self.tab.mouse.up()

    def swipe(self, *places, element=None):
        """A finger: Chromium's own touch input, which decides when a movement is a scroll."""
        touch = self.context.new_cdp_session(self.tab)
        points = [self.at(*place, element) for place in places]
        # The finger rests before it leaves, or the page would glide on.
        for i, kind in enumerate(["touchStart", *["touchMove"] * len(points), "touchEnd"]):
            x, y = points[min(i, len(points) - 1)]
            touched = [] if kind == "touchEnd" else [{"x": x, "y": y}]
            event = {"type": kind, "touchPoints": touched, "timestamp": 1 + i}
            touch.send("Input.dispatchTouchEvent", event)

    def swipe_and_scroll(self, *places):
        """A swipe that moves the page, which is put back once it rests."""
        rest = "() => { rests = false; addEventListener('scrollend', () => { rests = true; }); }"
        self.tab.evaluate(rest)
        self.swipe(*places)
        self.tab.wait_for_function("() => rests && scrollY > 0")
        self.tab.evaluate("scrollTo({ top: 0, behavior: 'instant' })")

    def assert_it_sleeps_out_of_sight(self):
        root = self.tab.locator("div.nca-player")
        root.evaluate("(root) => { root.style.translate = '-9999px'; }")
        self.tab.evaluate(FRAMES, 10)
        before = self.steps()
        self.tab.evaluate(FRAMES, 20)
        assert self.steps() == before
        root.evaluate("(root) => { root.style.translate = ''; }")
        self.wait_for_step(before + 4)

    def assert_nothing_moved(self):
        moved = self.tab.evaluate("moved")
        assert sum(value for value, *_ in moved) < 0.01, moved

    def assert_everybody_can_use_it(self):
        """Nothing sticks out or has moved, and axe-core finds no barrier."""
        room = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.tab.evaluate(room) == 0
        self.assert_nothing_moved()
        assert self.troubles == [] and barriers(self.tab, THEME_KNOWN) == {}


@contextlib.contextmanager
def opening(kind, browser, page, **usual):
    """Opens a page of the book, another, or an address, for a kind of Reader."""
    if f"book/{page}.html" not in PAGES:
        skip_or_fail(f"no {page} at {HTML}; build it first with `make book`")
    readers = []

    def read(fragment="", where=page, **context):
        address = where if ":" in where else (HTML / "book" / f"{where}.html").as_uri()
        readers.append(kind(browser, address + fragment, **(usual | context)))
        return readers[-1]

    yield read
    for reader in readers:
        reader.close()
