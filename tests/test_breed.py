"""Breeding in the page, as readers meet it: from disk, without a network."""

import json
import re

import numpy as np
import pytest
from conftest import hear, longest_task, skip_or_fail
from test_book import HTML, PAGES, THEME_KNOWN, barriers
from test_evolve_page import WATCH, link_to

from nca_lib import load_run

pytestmark = pytest.mark.browser

PATIENCE = 120_000  # milliseconds; only a failure takes as long


class Reader:
    """A tab with the page, and what went wrong in it."""

    def __init__(self, chromium, fragment="", **context):
        self.context = chromium.new_context(offline=True, **context)
        self.context.add_init_script(WATCH)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.troubles, self.requests = hear(self.tab), []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto((HTML / "book" / "breed.html").as_uri() + fragment)
        self.nine = self.tab.locator(".breed-nine button")
        self.faces = self.tab.locator(".breed-faces button")

    def button(self, name):
        return self.tab.get_by_role("button", name=name, exact=True)

    def wait(self, generation):
        """Until this generation is on show, grown from what was asked for."""
        self.tab.wait_for_function(
            """(generation) => document.querySelector(".nca-breed").dataset.state === "ready" &&
                document.querySelector(".nca-status").textContent.startsWith(
                    `Generation ${generation}:`)""",
            arg=generation,
        )
        return self

    def breed(self, *children):
        before = int(re.search(r"\d+", self.tab.inner_text(".nca-status"))[0])
        for child in children:
            self.nine.nth(child).click()
        self.tab.locator(".evolve-start").click()
        return self.wait(before + 1)

    def pictures(self) -> list[str]:
        return self.tab.eval_on_selector_all(
            ".breed-nine canvas", "(all) => all.map((canvas) => canvas.toDataURL())"
        )

    def saved(self, path):
        with self.tab.expect_download() as download:
            self.button("Save weights").click()
        download.value.save_as(path)
        return load_run(path)


@pytest.fixture
def read(chromium):
    """Opens the page; whatever a test does, it may not complain or ask anybody for anything."""
    if "book/breed.html" not in PAGES:
        skip_or_fail(f"no page to breed in at {HTML}; build it first with `make book`")
    readers = []

    def open_page(fragment="", **context):
        readers.append(Reader(chromium, fragment, **({"reduced_motion": "reduce"} | context)))
        return readers[-1]

    yield open_page
    for reader in readers:
        assert reader.troubles == []
        assert [url for url in reader.requests if not re.match("file:|data:|blob:", url)] == []
        reader.context.close()


def weights(run) -> np.ndarray:
    """All weights in a row."""
    first, second = run.params["hidden"], run.params["output"]
    parts = [first["kernel"], first["bias"], second["kernel"], second["bias"]]
    return np.concatenate([np.ravel(part) for part in parts])


def test_the_next_nine_come_from_the_chosen_and_none_is_lost(read, tmp_path):
    reader = read().wait(0)
    first = reader.pictures()
    assert len(set(first)) == 9 and reader.tab.locator(".evolve-start").is_disabled()
    reader.nine.nth(3).press("Space")
    chosen = weights(reader.saved(tmp_path / "one.nca.json"))
    reader.nine.nth(3).press("Space")
    parent = weights(reader.saved(tmp_path / "parent.nca.json"))
    assert np.array_equal(parent, weights(load_run("lizard")))
    assert 0.002 < np.std(chosen - parent) < 0.2

    reader.breed(3)
    assert np.array_equal(weights(reader.saved(tmp_path / "two.nca.json")), chosen)
    second = reader.pictures()
    assert not set(second) & set(first)
    reader.button("Nine others").click()
    reader.tab.wait_for_function(
        "() => document.querySelectorAll('.breed-faces button').length > 2"
    )
    assert not set(reader.wait(1).pictures()) & set(second)
    reader.button("Back").click()
    assert reader.wait(0).pictures() == first
    assert reader.nine.nth(3).get_attribute("aria-pressed") == "true"  # as it was chosen
    reader.button("Forward").click()
    assert not set(reader.wait(1).pictures()) & set(second)
    reader.faces.and_(reader.tab.get_by_label("Generation 1, from child 4")).first.click()
    assert reader.wait(1).pictures() == second
    reader.breed(0, 5)
    assert (
        "the mean of children 1, 6" in reader.tab.inner_text(".nca-status")
        and reader.faces.count() == 4
    )


def test_a_mixture_has_each_hidden_unit_whole_from_one_parent(read):
    channels, hidden = 8, 32
    mixed = (
        read()
        .wait(0)
        .tab.evaluate(
            """([channels, hidden]) => {
            const count = ES.countWeights({ channels, hidden });
            const parents = [1, 2].map((value) => new Float32Array(count).fill(value));
            return [...Breed.cross(parents, { channels, hidden }, ES.makeBits(0, 0, 4))];
        }""",
            [channels, hidden],
        )
    )
    inner, outer = np.split(np.array(mixed), [(3 * channels + 1) * hidden])
    units = inner.reshape(-1, hidden)
    answers = outer.reshape(-1, channels)
    assert (units == units[0]).all() and set(units[0]) == {1, 2}
    assert (answers == answers[:, :1]).all() and (answers[:hidden, 0] == units[0]).all()


def test_what_is_bred_travels_in_links_and_files_and_lives_in_the_player(read, tmp_path):
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    reader = read(link_to("lizard-regenerating"), **allowed).wait(0)
    reader.nine.nth(8).click()
    link = reader.tab.get_by_role("link", name="Link to it")
    link.click()  # is copied, and the families stay
    reader.tab.get_by_text("Link copied").wait_for()
    assert reader.nine.nth(8).get_attribute("aria-pressed") == "true"
    copied = reader.tab.evaluate("navigator.clipboard.readText()")
    link = link.get_attribute("href")
    assert copied.endswith(link) and len(link) < 4_000
    reader.saved(tmp_path / "bred.nca.json")
    reader.button("Play with it").click()
    reader.tab.locator(".nca-player canvas").wait_for()
    other = read(link).wait(0)
    other.tab.locator("input[accept='.json']").set_input_files(tmp_path / "bred.nca.json")
    other.tab.get_by_text("mutants of A pattern, bred").wait_for()
    kept = json.loads((tmp_path / "bred.nca.json").read_text())
    (tmp_path / "bad.nca.json").write_text(json.dumps(kept | {"crc32": 1}))
    other.tab.locator("input[accept='.json']").set_input_files(tmp_path / "bad.nca.json")
    other.tab.get_by_text("cannot be used").wait_for()
    other.tab.get_by_role("combobox", name="Begin with").select_option("donut")
    other.tab.get_by_text("nine mutants of Donut").wait_for()
    other = read("#p=%00")
    other.tab.get_by_text("cannot be used").wait_for()
    other.tab.locator(".nca-breed[data-state=ready]").wait_for()
    assert "cannot be used" in other.tab.inner_text(".nca-status") and other.faces.count() == 1


def test_it_grows_where_it_is_seen_and_blocks_nothing(read, chromium):
    chromium.start_tracing(categories=["toplevel"])
    reader = read(reduced_motion="no-preference").wait(0)
    reader.tab.wait_for_function(
        "() => /Step 32/.test(document.querySelector('.nca-counter').textContent)"
    )
    reader.breed(2)
    assert longest_task(chromium) <= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_all_of_it_can_be_used_by_everybody(read, theme, width, height):
    reader = read(color_scheme=theme, viewport={"width": width, "height": height}).wait(0)
    reader.breed(1).breed(0, 1)
    room = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert reader.tab.evaluate(room) == 0 and reader.tab.evaluate("shift") < 0.01
    bottoms = "(all) => all.map((e) => e.getBoundingClientRect().bottom)"
    assert max(reader.nine.evaluate_all(bottoms)) <= height
    assert barriers(reader.tab, THEME_KNOWN) == {}
    reader.troubles.clear()  # axe-core asks for styles, which pages on disk may not
