"""Breeding in the page, as readers meet it: from disk, without a network."""

import json
import re

import numpy as np
import pytest
from conftest import no_long_task
from readers import Reader, opening
from test_evolve_page import link_to

from nca_lib import load_run


class Breeder(Reader):
    grid = ".breed-nine canvas"

    def __init__(self, *arguments, **context):
        super().__init__(*arguments, **context)
        self.nine = self.tab.locator(".breed-nine button")
        self.faces = self.tab.locator(".breed-faces button")

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
        before = int(re.search(r"\d+", self.status())[0])
        for child in children:
            self.nine.nth(child).click()
        self.tab.locator(".evolve-start").click()
        return self.wait(before + 1)

    def pictures(self) -> list[bytes]:
        return [self.pixels(k).tobytes() for k in range(9)]

    def weights(self, path) -> np.ndarray:
        """Those that it saves, in a row."""
        self.saved("Save weights").save_as(path)
        return weights(load_run(path))


@pytest.fixture
def read(chromium):
    with opening(Breeder, chromium, "breed", reduced_motion="reduce") as read:
        yield read


def weights(run) -> np.ndarray:
    """All weights in a row."""
    layers = run.params["hidden"], run.params["output"]
    return np.concatenate([np.ravel(layer[part]) for layer in layers for part in layer])


def test_the_next_nine_come_from_the_chosen_and_none_is_lost(read, tmp_path):
    reader = read().wait(0)
    first = reader.pictures()
    assert len(set(first)) == 9 and reader.tab.locator(".evolve-start").is_disabled()
    reader.nine.nth(3).press("Space")
    chosen = reader.weights(tmp_path / "one.nca.json")
    reader.nine.nth(3).press("Space")
    parent = reader.weights(tmp_path / "parent.nca.json")
    assert np.array_equal(parent, weights(load_run("lizard")))
    assert 0.002 < np.std(chosen - parent) < 0.2

    reader.breed(3)
    assert np.array_equal(reader.weights(tmp_path / "two.nca.json"), chosen)
    second = reader.pictures()
    assert not set(second) & set(first)
    reader.button("Nine others").click()
    reader.faces.nth(2).wait_for()
    assert not set(reader.wait(1).pictures()) & set(second)
    reader.button("Back").click()
    assert reader.wait(0).pictures() == first
    assert reader.nine.nth(3).get_attribute("aria-pressed") == "true"  # as it was chosen
    reader.button("Forward").click()
    assert not set(reader.wait(1).pictures()) & set(second)
    reader.faces.and_(reader.tab.get_by_label("Generation 1, from child 4")).first.click()
    assert reader.wait(1).pictures() == second
    reader.breed(0, 5)
    assert "the mean of children 1, 6" in reader.status() and reader.faces.count() == 4


def test_a_mixture_has_each_hidden_unit_whole_from_one_parent(read):
    channels, hidden = sizes = 8, 32
    cross = """([channels, hidden]) => {
        const count = ES.countWeights({ channels, hidden });
        const parents = [1, 2].map((value) => new Float32Array(count).fill(value));
        return [...Breed.cross(parents, { channels, hidden }, ES.makeBits(0, 0, 4))];
    }"""
    mixed = np.array(read().wait(0).tab.evaluate(cross, sizes))
    inner, outer = np.split(mixed, [(3 * channels + 1) * hidden])
    units = inner.reshape(-1, hidden)
    answers = outer.reshape(-1, channels)
    assert (units == units[0]).all() and set(units[0]) == {1, 2}
    assert (answers == answers[:, :1]).all() and (answers[:hidden, 0] == units[0]).all()


def test_what_is_bred_travels_in_links_and_files_and_lives_in_the_player(read, tmp_path):
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    reader = read(link_to("lizard-regenerating"), **allowed).wait(0)
    reader.nine.nth(8).click()
    link = reader.role("link", "Link to it")
    link.click()  # is copied, and the families stay
    reader.wait_for_status("Link copied")
    assert reader.nine.nth(8).get_attribute("aria-pressed") == "true"
    copied = reader.tab.evaluate("navigator.clipboard.readText()")
    link = link.get_attribute("href")
    assert copied.endswith(link) and len(link) < 4_000
    bred, bad = tmp_path / "bred.nca.json", tmp_path / "bad.nca.json"
    reader.saved("Save weights").save_as(bred)
    reader.button("Play with it").click()
    reader.tab.locator(".nca-player canvas").wait_for()
    other = read(link).wait(0)
    opener = other.tab.locator("input[accept='.json']")
    opener.set_input_files(bred)
    other.wait_for_status("mutants of A pattern, bred")
    bad.write_text(json.dumps(json.loads(bred.read_text()) | {"crc32": 1}))
    opener.set_input_files(bad)
    other.wait_for_status("cannot be used")
    other.role("combobox", "Begin with").select_option("donut")
    other.wait_for_status("nine mutants of Donut")
    other = read("#p=%00")
    other.wait_for_status("cannot be used")
    other.tab.locator(".nca-breed[data-state=ready]").wait_for()
    assert "cannot be used" in other.status() and other.faces.count() == 1


def test_it_grows_where_it_is_seen_and_blocks_nothing(read, chromium):
    with no_long_task(chromium):
        reader = read(reduced_motion="no-preference").wait(0)
        reader.wait_for_step(32)
        reader.breed(2)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_all_of_it_can_be_used_by_everybody(read, theme, width, height):
    reader = read(color_scheme=theme, viewport={"width": width, "height": height}).wait(0)
    reader.breed(1).breed(0, 1)
    assert max(reader.edges(reader.nine)) <= height
    reader.assert_everybody_can_use_it()
