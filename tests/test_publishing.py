"""The repository's address, and what the book makes from it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import add_remote, load_script

from nca_lib.train import PRESETS

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
RUNS = ROOT / "nca_lib" / "data" / "runs"
COLAB = "https://colab.research.google.com/github/jane/lizards/blob/colab/book"
OTHER = "https://github.com/some/other"
EMPTY = 'LIBRARY = ""'
publishing = load_script("book/_ext/publishing.py")


def notebook(*cells):
    made = [{"cell_type": kind, "metadata": {}, "source": [text]} for kind, text in cells]
    outputs = {"outputs": [{"text": "old"}], "execution_count": 3}
    return {"cells": [cell | (outputs if cell["cell_type"] == "code" else {}) for cell in made]}


def sources(notebook, kind):
    cells = notebook["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("given", "remote", "repository"),
    [
        ("jane-doe/grow.it/", OTHER, "jane-doe/grow.it"),
        ("git@github.com:jane-doe/grow.it.git", OTHER, "jane-doe/grow.it"),
        ("", OTHER, ""),
        (None, "https://user:secret@github.com/jane/lizards.git", "jane/lizards"),
        (None, "http://www.GitHub.com/jane/lizards/", "jane/lizards"),
        (None, "ssh://git@ssh.github.com:443/jane/lizards.git", "jane/lizards"),
        (None, "github.com:jane/lizards.git", "jane/lizards"),
        (None, "https://user:secret@gitlab.com/jane/lizards.git", ""),
        (None, "https://github.com.example.org/jane/lizards.git", ""),
        (None, "work:jane/lizards.git", ""),  # the host's name in somebody's settings of ssh
        (None, "on_this/disk", ""),
        (None, None, ""),
        (None, "no git", ""),
    ],
)
def test_repository_is_what_is_given_else_the_remote(
    monkeypatch, tmp_path, given, remote, repository
):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if remote == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif remote:
        add_remote(tmp_path, remote)
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    if given is not None:
        monkeypatch.setenv("BOOK_REPOSITORY", given)
    troubles = []
    assert publishing.find_repository(tmp_path, troubles) == repository
    assert bool(troubles) == (not repository) and "secret" not in "".join(troubles)


@pytest.mark.parametrize("given", ["lizards", "https://gitlab.com/a/b", "a/b?x", 'a/"onclick'])
def test_a_name_that_is_no_repository_is_refused(monkeypatch, given):
    monkeypatch.setenv("BOOK_REPOSITORY", given)
    with pytest.raises(ValueError, match=re.escape(repr(given))):
        publishing.find_repository()


def test_every_chapter_begins_with_the_same_cell():
    assert len({sources(read(path), "code")[0] for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize("cells", [[], ["x = 1", EMPTY], [EMPTY, EMPTY]], ids=str)
def test_a_notebook_without_the_set_up_cell_is_refused(cells):
    with pytest.raises(ValueError, match="first code cell"):
        publishing.published(notebook(*(("code", text) for text in cells)), "jane/lizards", "")


PLAIN = {
    "As in {cite}`gilpin2019cellular`.": (
        "As in [Gilpin, 2019](https://doi.org/10.1103/PhysRevE.100.032402)."
    ),
    "*{term}`pairs <mirrored pair>`* of a\n{term}`seed` {math}`x`": (
        "*pairs* of a\nseed {math}`x`"
    ),
    "[2](02_architecture.ipynb#see)": f"[2]({COLAB}/02_architecture.ipynb#see)",
    "[a](notation.md)": "[a](https://github.com/jane/lizards/blob/main/book/notation.md)",
    ":::{admonition} Goals\n:class: tip\n\n- see;\n- do.\n:::": "> **Goals**\n>\n> - see;\n> - do.",
    ":::{exercise}\n:label: exercise-03-2\n\nGrow it.\n:::": "> **Exercise 3.2**\n>\n> Grow it.",
    ":::{solution-start} exercise-03-2\n:class: dropdown\n:::\n\nWith water.": (
        "<details><summary>Solution to Exercise 3.2</summary>\n\nWith water.\n\n</details>"
    ),
}


def test_published_chapter_is_plain_markdown_with_its_library():
    before = notebook(
        ("code", f"{EMPTY}\nx = 1"),
        *(("markdown", text) for text in PLAIN),
        ("code", "x"),
        ("markdown", ":::{solution-end}\n:::\n\nAs {ref}`exercise-a1-1` says."),
        ("code", "y"),
    )
    untouched = json.dumps(before)
    after = publishing.published(before, "jane/lizards", 'a"b.whl')
    assert json.dumps(before) == untouched
    assert sources(after, "markdown") == [*PLAIN.values(), "As Exercise A1.1 says."]
    solution = "# @title Solution to Exercise 3.2\nx"
    assert sources(after, "code") == ['LIBRARY = "a\\"b.whl"\nx = 1', solution, "y"]
    code = [cell for cell in after["cells"] if cell["cell_type"] == "code"]
    assert [cell["metadata"].get("cellView") for cell in code] == [None, "form", None]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_chapter_needs_jupyter_book(path):
    after = publishing.published(read(path), "jane/lizards", "a.whl")
    for text in sources(after, "markdown"):
        assert not re.search(r"^:::|\{\w+\}`", text, re.M), text
        assert not re.search(r"\]\((?!https://)[^)]*\)", text), text


def test_branch_holds_notebooks_their_library_and_badges(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOK_REPOSITORY", "jane/lizards")
    monkeypatch.setattr(publishing, "EXECUTED", tmp_path)
    output = {"output_type": "stream", "name": "stdout", "text": ["seen when it ran"]}
    for path, change in zip(NOTEBOOKS, ({}, {"source": ["# As it was before"]}), strict=False):
        ran = read(path)
        ran["cells"][0] |= change
        next(cell for cell in ran["cells"] if cell["cell_type"] == "code")["outputs"] = [output]
        (tmp_path / path.name).write_text(json.dumps(ran))
    folder = tmp_path / "branch"
    publishing.main(["branch", str(folder)])
    (wheel,) = folder.glob("*.whl")
    library = f"https://github.com/jane/lizards/raw/colab/{wheel.name}"
    written = sorted((folder / "book").iterdir())
    assert [path.name for path in written] == [path.name for path in NOTEBOOKS]
    texts = [path.read_text(encoding="utf-8") for path in written]
    assert all(library in text for text in texts)
    assert ["seen when it ran" in text for text in texts] == [True] + [False] * (len(texts) - 1)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    badges = re.findall(r"colab-badge\.svg\)\]\((.*?)\)", readme)
    assert badges == [f"{COLAB}/{path.name}" for path in NOTEBOOKS]


def test_command_line(monkeypatch, capsys):
    for repository, said in [("jane/lizards", f"{COLAB}/\n"), ("", "1\n")]:
        monkeypatch.setenv("BOOK_REPOSITORY", repository)
        publishing.main(["address"])
        assert capsys.readouterr().out == said
    for arguments, message in [(["branch", "x"], "BOOK_REPOSITORY"), (["adress"], "address")]:
        with pytest.raises(SystemExit, match=message):
            publishing.main(arguments)


def test_afterword_quotes_the_runs():
    """Its numbers are those of the shipped runs, and of the reference's preset."""
    text = " ".join((BOOK / "afterword.md").read_text(encoding="utf-8").split())
    first, lizard = (read(RUNS / name / "run.json") for name in ("reference", "lizard"))
    numbers = f"{PRESETS['reference'].generations:,} {lizard['parameters']:,}".split()
    numbers += [f"{first['loss']['mean']:.3f}", f"{first['empty_loss']:.3f}"]
    assert [number for number in numbers if number not in text] == []


def test_appendix_lists_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = (ROOT / "requirements.txt").read_text().splitlines()
    asked += project["build-system"]["requires"] + project["project"]["dependencies"]
    asked += project["project"]["optional-dependencies"]["oracle"]
    names = {re.match(r"[\w.-]*", line)[0] for line in asked}
    text = (BOOK / "dependencies.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([a-z0-9-]+) \| .+ \| .+ \| .+ \|$", text, re.M)
    assert {*listed} == names - {""}
