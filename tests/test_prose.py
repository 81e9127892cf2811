"""The text of the book: results come from runs, and chapters have the length that they claim."""

import json
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
# The numbers of the afterword are held to the runs by test_publishing.py.
PAGES = [*NOTEBOOKS, *(path for path in sorted(BOOK.glob("*.md")) if path.stem != "afterword")]

# What states a result: a loss, a percentage, a factor, an amount of time, memory or work.
UNIT = r"×(?! ?\d)|(?:\w*seconds?|minutes?|hours?|ms|[kMG]i?B|[kMG]FLOPs?|times|fold)\b"
RESULT = re.compile(rf"\bloss\b\D{{0,30}}\d\.\d+|\d ?%|\d ?(?:{UNIT})", re.I)
# Settings, which no run has found, and the time of a chapter, which a test below holds.
NO_RESULTS = re.compile(
    "Takes about .*? cores|125 times as many|128 times in a row|has reached a loss of 0.05"
)


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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_results_in_the_text_come_from_runs(path):
    """A sentence with a result is made by a cell; the others state none."""
    text = NO_RESULTS.sub(" ", prose(text_of(path)))
    hits = RESULT.finditer(text)
    assert [text[max(0, hit.start() - 40) : hit.end() + 30] for hit in hits] == []


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
