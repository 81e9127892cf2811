"""The text of the book: results come from runs, and chapters have the length that they claim."""

import json
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
PAGES = [*NOTEBOOKS, *sorted(BOOK.glob("*.md"))]

COUNT = (
    r"(?:an?|half an?|one|two|three|four|five|six|seven|eight|nine|ten|twenty|hundred|\d[\d,.]*)"
)
UNIT = (
    r"(?:times|fold|percent|(?:milli|micro)?seconds?|minutes?|hours?|days?|[kMG]i?B|[kMG]FLOPs?|ms)"
)
# What states a result: a decimal, a percentage, a factor, an amount of time or memory.
RESULT = re.compile(rf"\d+\.\d+|\d ?%|\d ?×|\b{COUNT}[ -]{UNIT}\b", re.I)

# Passages that look like results and are none. One that no page has is an error.
ALLOWED = {
    "the time of a chapter: reading is held by a test below, running by whoever runs it": r"""
        Takes about .*? CPU cores\.
    """,
    "settings, fields of presets and defaults, which the code beside them shows or sets": r"""
        Half a minute of evolution; Half a minute is best spent; the whole grid nine times;
        alpha exceeds 0.1; four times longer than evolution ever lo;
        512 members, 90 steps, 48 × 48 cells; evaluate and tell a hundred times;
        a checkpoint once a minute; twice as large\? Here is the same;
        has 125 times as many rollouts; The rate is 0.1; Momentum of 0.9;
        = 0.01 and a constant step of 0.003; eight times as many rollouts;
        here ten times the preset's; 100 generations with 0.0001, 0.02 and 0.2;
        We go on for eight times as long; three times as many steps as growth took;
        a near 0.01: across many jumps; a new grid of 64 × 64; neighbours, 128 times in a row;
        evolution is smaller, 0.01; The preset starts with 0.3, ten times the noise of;
        Choose 96 × 96 cells; border of 32 × 32 cells; but four times in a rollout
    """,
    "arithmetic, which needs no run: the law, solved for n": r"""
        a cosine of 0.9\?; with 0.9 more than four times as many
    """,
    "the afterword, which a test of its own holds to the runs (test_publishing.py)": r"""
        generations on a grid of 48 × 48; loss of 0.055; scores 0.087; a loss of 0.0023 after;
        at 0.0025 after
    """,
    "suppositions of the self-test": r"""
        reached a loss of 0.05\.; dark picture 0.05 may mean; pattern ten times longer;
        ten times as many devices; is five times faster\.
    """,
    "manners of speaking, and advice": r"""
        one day it does not; a second (?:device|message|rule|seed|thing|time); worth of a second;
        How many lives a second; a step a hundred times longer is ruin;
        the cell itself three times; a minute of each method is the better
    """,
    "names of versions and licences": r"""
        Python 3.11, 3.12 or 3.13; version > 0.1.0; CC BY 4.0; Apache-2.0; (?:Font )?License 1.1
    """,
}
PASSAGES = " ".join("; ".join(group.strip() for group in ALLOWED.values()).split()).split("; ")


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
    noise = r"`[^`]*`|\$[^$]+\$|^\|.*$|\]\([^)]*\)|https?://\S+"
    return " ".join(re.sub(noise, " ", text, flags=re.M).split())


def results(text: str) -> list[str]:
    """Each result that a text states by itself, with some words around it."""
    text = re.sub("|".join(PASSAGES), " ", prose(text))
    return [text[max(0, hit.start() - 40) : hit.end() + 30] for hit in RESULT.finditer(text)]


def test_results_are_told_from_settings_code_and_tables():
    stated = "It is 24 times faster, as good three times, in half an hour: 0.013, 30%, 6.8 GB, 12×."
    assert len(results(stated)) == 7
    others = "24 cells. `std=0.02` $x = 0.02$ [a](https://a.b/1.2)\n| 0.013 | 24 times |\n"
    assert results(f"{others}```\n0.013\n```") == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_results_in_the_text_come_from_runs(path):
    """A sentence with a result is made by a cell; the others state none."""
    assert results(text_of(path)) == []


def test_what_is_allowed_stands_somewhere():
    book = " ".join(prose(text_of(path)) for path in PAGES)
    assert [passage for passage in PASSAGES if not re.search(passage, book)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_reading_takes_as_long_as_the_chapter_says(path):
    """At 240 words of text and 30 lines of code a minute, within 5 minutes; 25 are the most."""
    code = cells(path, "code")
    shown = [cell for cell in code if "hide-input" not in cell["metadata"].get("tags", [])]
    lines = sum(bool(line.strip()) for cell in shown for line in cell["source"])
    minutes = len(re.findall(r"\w+", prose(text_of(path)))) / 240 + lines / 30
    said = int(re.search(r"Takes about (\d+) minutes to read", text_of(path))[1])
    assert abs(said - minutes) <= 5, f"{minutes:.1f} minutes"
    assert minutes <= 25 and said <= 25
