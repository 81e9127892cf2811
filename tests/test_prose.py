"""The text of the book: results come from runs, and chapters have the length that they claim."""

import json
import re
import statistics
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
PAGES = sorted(BOOK.glob("*.md"))

COUNT = (
    r"(?:an?|half an?|one|two|three|four|five|six|seven|eight|nine|ten|twenty|hundred|\d[\d,.]*)"
)
UNIT = (
    r"(?:times|fold|percent|(?:milli|micro)?seconds?|minutes?|hours?|days?|[kMG]i?B|[kMG]FLOPs?|ms)"
)
# What states a result: a decimal, a percentage, a factor, an amount of time or memory.
RESULT = re.compile(rf"\d+\.\d+|\d ?%|\d ?×|\b{COUNT}[ -]{UNIT}\b", re.I)

# Passages that look like results and are none, and why. One that no page has is an error.
ALLOWED = {
    # The time of a chapter: reading is held by a test below, running by whoever runs it.
    r"Takes about .*? CPU cores\.": "the time a chapter takes",
    # Settings, which the code beside them shows or sets.
    r"Half a minute of evolution|Half a minute is best spent": "the length of a training",
    r"the whole grid nine times": "one shift for each weight of a kernel",
    r"alpha exceeds 0\.1": "the threshold of the living mask",
    r"four times longer than evolution ever lo": "the length of a growth, set in the next cell",
    r"512 members, 90 steps, 48 × 48 cells": "the size of an experiment, set in the next cell",
    r"evaluate and tell a hundred times": "the number of generations in the next cell",
    r"a checkpoint once a minute": "a default of the trainer",
    r"twice as large\? Here is the same": "the range of a knob",
    r"has 125 times as many rollouts": "a field of two presets",
    r"The rate is 0\.1": "a default of evosax",
    r"Momentum of 0\.9": "a default of the library",
    r"= 0\.01 and a constant step of 0\.003": "the configuration of a recipe of the study",
    r"given four times as many rollouts": "the configuration of a recipe of the study",
    r"here ten times the preset's": "a setting of the next cell",
    r"100 generations with 0\.0001, 0\.02 and 0\.2": "settings of an exercise",
    r"We go on for eight times as long": "the length of a growth, set in the next cell",
    r"three times as many steps as growth took": "a definition",
    r"a near 0\.01: across many jumps": "the sigma that the next cell takes",
    r"a new grid of 64 × 64": "the size of a grid",
    r"neighbours, 128 times in a row": "the length of a game",
    r"evolution is smaller, 0\.01": "a field of the preset",
    r"The preset starts with 0\.3, ten times the noise of": "fields of two presets",
    r"Choose 96 × 96 cells|border of 32 × 32 cells": "sizes of a grid",
    r"but four times in a rollout": "the study's setting of NRES",
    r"a minute of each method is the better": "advice, and no measurement",
    # Arithmetic, which needs no run.
    r"a cosine of 0\.9\?|with 0\.9 more than four times as many": "the law, solved for n",
    # Figures of the afterword, which a test of their own holds to the runs (test_publishing.py).
    r"generations on a grid of 48 × 48|loss of 0\.055|scores 0\.087": "reference",
    r"a loss of 0\.0023 after|at 0\.0025 after": "lizard and lizard-backprop",
    # Questions of the self-test: suppositions.
    r"reached a loss of 0\.05\.|dark picture 0\.05 may mean": "a supposition",
    r"pattern ten times longer|ten times as many devices|is five times faster\.": "a supposition",
    # Manners of speaking.
    r"one day it does not": "some day",
    r"a second (?:device|message|rule|seed|thing|time)|worth of a second": "the ordinal number",
    r"How many lives a second": "the unit of a rate",
    r"a step a hundred times longer is ruin": "no measurement: any step far beyond the best",
    r"the cell itself three times": "once for each kernel",
    # Names.
    r"Python 3\.11, 3\.12 or 3\.13|version > 0\.1\.0": "versions",
    r"CC BY 4\.0|Apache-2\.0|(?:Font )?License 1\.1": "licences",
}


def cells(path: Path, kind: str) -> list[dict]:
    """The cells of one kind of a notebook."""
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in every if cell["cell_type"] == kind]


def text_of(path: Path) -> str:
    """The Markdown of a page or of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))


def prose(text: str) -> str:
    """The text in one line, without code, formulas, tables, citations and addresses."""
    text = re.sub(r"^```.*?^```|\$\$.*?\$\$", " ", text, flags=re.M | re.S)
    for noise in (r"`[^`]*`", r"\$[^$]+\$", r"^\|.*$", r"\]\([^)]*\)", r"https?://\S+"):
        text = re.sub(noise, " ", text, flags=re.M)
    return " ".join(text.split())


def results(text: str) -> list[str]:
    """Each result that a text states by itself, with some words around it."""
    text = prose(text)
    for passage in ALLOWED:
        text = re.sub(passage, " ", text)
    return [text[max(0, hit.start() - 40) : hit.end() + 30] for hit in RESULT.finditer(text)]


@pytest.mark.parametrize(
    "text",
    [
        "It is 24 times faster.",
        "The loss is 0.013 in the end.",
        "It took an hour.",
        "It took half an hour.",
        "About 30% died.",
        "That is 6.8 GB.",
        "A gain of 12×.",
        "three times as good",
    ],
)
def test_a_result_in_the_text_is_found(text):
    assert len(results(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The grid has 24 cells.",
        "Set `std=0.02`.",
        "With $\\sigma = 0.02$ it dies.",
        "| 0.013 | 24 times |",
        "```\n0.013\n```",
        "[here](https://doi.org/10.1103/PhysRevE.100)",
    ],
)
def test_settings_code_and_tables_are_no_results(text):
    assert results(text) == []


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)
def test_results_in_the_text_come_from_runs(path):
    """A sentence with a result is made by a cell; the others state none."""
    assert results(text_of(path)) == []


@pytest.mark.parametrize("passage", ALLOWED)
def test_what_is_allowed_stands_somewhere(passage):
    assert any(re.search(passage, prose(text_of(path))) for path in [*NOTEBOOKS, *PAGES])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short(path):
    lines = ["".join(cell["source"]).splitlines() for cell in cells(path, "code")]
    lengths = [sum(bool(line.strip()) for line in cell) for cell in lines]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 30


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_reading_takes_as_long_as_the_chapter_says(path):
    """At 240 words of text and 30 lines of code a minute, within 5 minutes; 25 are the most."""
    text = text_of(path)
    code = [
        cell for cell in cells(path, "code") if "hide-input" not in cell["metadata"].get("tags", [])
    ]
    lines = sum(bool(line.strip()) for cell in code for line in cell["source"])
    minutes = len(re.findall(r"\w+", prose(text))) / 240 + lines / 30
    said = int(re.search(r"Takes about (\d+) minutes to read", text)[1])
    assert abs(said - minutes) <= 5, f"{minutes:.1f} minutes"
    assert minutes <= 25 and said <= 25
