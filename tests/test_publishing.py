"""The repository's address, and what the book makes from it."""

import copy
import json
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from conftest import add_remote, load_script

from nca_lib.train import PRESETS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
RUNS = ROOT / "nca_lib" / "data" / "runs"
publishing = load_script("book/_ext/publishing.py")
previews = load_script("book/_ext/previews.py")

# Owners on GitHub that the repository may name: of tools that it uses, and of works that it cites.
KNOWN_OWNERS = {"googlefonts", "jax-ml"}
BINARY = {".png", ".webp", ".npz"}


def notebook(*cells):
    return {
        "cells": [
            {"cell_type": kind, "metadata": {}, "source": source.splitlines(True)}
            | ({"outputs": [{"text": "old"}], "execution_count": 3} if kind == "code" else {})
            for kind, source in cells
        ]
    }


def sources(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"]]


@pytest.fixture
def checkout(tmp_path):
    """A folder under git, without a remote."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        "jane-doe/grow.it",
        "jane-doe/grow.it/",
        "https://github.com/jane-doe/grow.it",
        "https://github.com/jane-doe/grow.it.git",
        "git@github.com:jane-doe/grow.it.git",
        "ssh://git@github.com/jane-doe/grow.it",
    ],
)
def test_repository_is_named_by_the_environment(monkeypatch, given, checkout):
    add_remote(checkout, "https://github.com/some/other")
    monkeypatch.setenv("BOOK_REPOSITORY", given)
    assert publishing.find_repository(checkout) == "jane-doe/grow.it"


@pytest.mark.parametrize(
    "given", ["lizards", "https://gitlab.com/a/b", "a/b/c", "-a/b", "a b/c", "a/b?x", 'a/"onclick']
)
def test_a_name_that_is_no_repository_is_refused(monkeypatch, given):
    monkeypatch.setenv("BOOK_REPOSITORY", given)
    with pytest.raises(ValueError, match=re.escape(repr(given))):
        publishing.find_repository()


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://github.com/jane/lizards.git", "jane/lizards"),
        ("git@github.com:jane/lizards.git", "jane/lizards"),
        ("https://gitlab.com/jane/lizards.git", ""),
        ("https://user:secret@github.com/jane/lizards.git", ""),
        ("/somewhere/on/a/disk", ""),
        (None, ""),
    ],
)
def test_repository_is_the_remote_otherwise(monkeypatch, checkout, url, repository):
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    if url:
        add_remote(checkout, url)
    assert publishing.find_repository(checkout) == repository


def test_an_empty_name_means_no_repository(monkeypatch, checkout):
    add_remote(checkout, "https://github.com/some/other")
    monkeypatch.setenv("BOOK_REPOSITORY", "")
    assert publishing.find_repository(checkout) == ""


def test_without_git_there_is_no_repository(monkeypatch, tmp_path):
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert publishing.find_repository(tmp_path) == ""


def test_no_owner_is_made_up():
    """Every repository on GitHub that some file names is one that the book uses or cites."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    strangers = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        binary = path.suffix in BINARY or path.name == "checkpoint"
        if Path(__file__).parent in path.parents or "vendor" in path.parts or binary:
            continue
        text = path.read_text(encoding="utf-8")
        owners = re.findall(r"github\.com[/:]([\w.-]+)/|([\w.-]+)\.github\.io", text)
        strangers += [(name, owner) for pair in owners for owner in pair if owner]
        strangers += [
            (name, word) for word in re.findall(r"(?i)your[-_ ]?(?:user|org|repo)\w*", text)
        ]
    assert [(name, owner) for name, owner in strangers if owner not in KNOWN_OWNERS] == []


def test_every_chapter_begins_with_the_same_cell():
    first = set()
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        first.add("".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code")))
    assert len(first) == 1


def test_published_notebook_names_its_library_and_changes_nothing_else():
    before = notebook(("markdown", "# A\n"), ("code", 'LIBRARY = ""\nx = 1'), ("code", "y = 2"))
    untouched = copy.deepcopy(before)
    after = publishing.published(before, "jane/lizards", 'a"b.whl')
    assert before == untouched
    assert sources(after) == ["# A\n", 'LIBRARY = "a\\"b.whl"\nx = 1', "y = 2"]
    assert [cell.get("outputs") for cell in after["cells"]] == [None, [], []]
    assert [cell.get("execution_count") for cell in after["cells"]] == [None, None, None]


@pytest.mark.parametrize(
    "cells",
    [
        [("markdown", 'LIBRARY = ""')],
        [("code", "x = 1"), ("code", 'LIBRARY = ""')],
        [("code", 'LIBRARY = ""'), ("code", 'LIBRARY = ""')],
        [("code", 'LIBRARY = "elsewhere"')],
    ],
)
def test_a_notebook_without_the_set_up_cell_is_refused(cells):
    with pytest.raises(ValueError, match="first code cell"):
        publishing.published(notebook(*cells), "jane/lizards", "a.whl")


def test_published_text_is_plain_markdown():
    text = (
        "As in {cite}`gilpin2019cellular`, see [2](02_architecture.ipynb#the-seed).\n\n"
        ":::{admonition} You will be able to\n:class: tip\n\n- see;\n- do.\n:::\n\n"
        "[Notation](notation.md)\n\n:::{warning}\nIt dies.\n:::\n"
    )
    plain = publishing.plain_markdown(text, "jane/lizards")
    folder = "https://colab.research.google.com/github/jane/lizards/blob/colab/book"
    assert plain == (
        "As in [Gilpin, 2019](https://doi.org/10.1103/PhysRevE.100.032402), "
        f"see [2]({folder}/02_architecture.ipynb#the-seed).\n\n"
        "> **You will be able to**\n>\n> - see;\n> - do.\n\n"
        "[Notation](https://github.com/jane/lizards/blob/main/book/notation.md)\n\n"
        "> **Warning**\n>\n> It dies.\n"
    )
    assert "](02_architecture.ipynb#the-seed)" in publishing.plain_markdown(text, "")


def test_published_exercises_keep_their_numbers_and_fold_their_solutions():
    exercise = ":::{exercise}\n:label: exercise-03-2\n\nGrow it.\n:::"
    start = ":::{solution-start} exercise-03-2\n:class: dropdown\n:::\n\nWith water."
    cells = [("code", 'LIBRARY = ""'), ("markdown", exercise), ("markdown", start), ("code", "x")]
    cells += [
        ("markdown", ":::{solution-end}\n:::\n\nAs {ref}`exercise-a1-1` says."),
        ("code", "y"),
    ]
    after = publishing.published(notebook(*cells), "", "")
    assert sources(after)[1:] == [
        "> **Exercise 3.2**\n>\n> Grow it.",
        "<details><summary>Solution to Exercise 3.2</summary>\n\nWith water.\n\n</details>",
        "# @title Solution to Exercise 3.2\nx",
        "As Exercise A1.1 says.",
        "y",
    ]
    folded = [cell["metadata"].get("cellView") for cell in after["cells"]]
    assert folded == [None, None, None, "form", None, None]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("from the {term}`seed`.", "from the seed."),
        ("two *{term}`pairs <mirrored pair>`* of", "two *pairs* of"),
        ("a {term}`mirrored\npair`", "a mirrored\npair"),
        ("{term}`a<b>` {term}`c`", "a c"),
        ("`term` {math}`x`", "`term` {math}`x`"),
    ],
)
def test_a_term_is_plain_text_elsewhere(text, plain):
    assert publishing.plain_markdown(text, "") == plain


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_chapter_needs_jupyter_book(path):
    before = json.loads(path.read_text(encoding="utf-8"))
    after = publishing.published(before, "jane/lizards", "a.whl")
    for cell in after["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert not re.search(r"^:::|\{\w+\}`", text, re.M), text
            assert not re.search(r"\]\((?!https://)[^)]*\)", text), text
        else:
            assert "](0" not in text


def links(html: Path) -> dict[str, list[str]]:
    """The links of every page that lead to GitHub or Colab, without the pages' own citations."""
    pattern = r'href="(https://(?:colab\.research\.google\.com|github\.com/jane)[^"]*)"'
    return {
        path.stem: re.findall(pattern, path.read_text(encoding="utf-8"))
        for path in (html / "book").glob("*.html")
    }


def test_buttons_of_each_page_lead_to_its_own_notebook(built):
    html, repository = built
    found = links(html)
    assert found.keys() >= {path.stem for path in NOTEBOOKS} | {"index", "playground"}
    for page, addresses in found.items():
        colab = [address for address in addresses if "colab" in address]
        is_chapter = repository and any(path.stem == page for path in NOTEBOOKS)
        folder = f"https://colab.research.google.com/github/{repository}/blob/colab/book"
        assert colab == ([f"{folder}/{page}.ipynb"] if is_chapter else []), page
        others = [address.split("?")[0] for address in addresses if "colab" not in address]
        others = [address for address in others if "/commit/" not in address]  # at the foot
        repositories = [f"https://github.com/{repository}"] if repository else []
        assert others == [link + end for link in repositories for end in ("", "/issues/new")]


def test_exercises_have_the_numbers_that_downloads_give_them(built):
    html, _ = built
    for path in NOTEBOOKS:
        page = (html / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
        title = r'<p class="admonition-title"><span class="caption-number">(.*?) ?</span>'
        numbers = re.findall(r'id="(exercise-\w+-\d+)">\s*' + title, page)
        assert numbers or "{exercise}" not in path.read_text(encoding="utf-8")
        assert all(publishing.exercise_name(label) == name for label, name in numbers)


def test_downloads_run_anywhere(built):
    html, repository = built
    for path in NOTEBOOKS:
        download = html / "_sources" / "book" / path.name
        text = download.read_text(encoding="utf-8")
        cells = json.loads(text)["cells"]
        library = publishing.wheel_address(repository) if repository else ""
        setup = next(cell["source"] for cell in cells if cell["cell_type"] == "code")
        assert f'LIBRARY = "{library}"\n' in setup
        assert all(not cell.get("outputs") for cell in cells)
        assert "{cite}" not in text and "{term}" not in text


def test_branch_holds_notebooks_their_library_and_badges(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOK_REPOSITORY", "jane/lizards")
    folder = tmp_path / "branch"
    publishing.main(["branch", str(folder)])
    assert {path.name for path in (folder / "book").iterdir()} == {path.name for path in NOTEBOOKS}
    (wheel,) = folder.glob("*.whl")
    assert publishing.wheel_address("jane/lizards").endswith(
        f"/jane/lizards/raw/colab/{wheel.name}"
    )
    for path in (folder / "book").iterdir():
        assert f"jane/lizards/raw/colab/{wheel.name}" in path.read_text(encoding="utf-8")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    badges = re.findall(r"colab-badge\.svg\)\]\((.*?)\)", readme)
    assert badges == [
        f"{publishing.colab_folder('jane/lizards')}/{path.name}" for path in NOTEBOOKS
    ]


def test_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("BOOK_REPOSITORY", "jane/lizards")
    publishing.main(["address"])
    folder = "https://colab.research.google.com/github/jane/lizards/blob/colab/book"
    assert capsys.readouterr().out == f"{folder}/\n"
    monkeypatch.setenv("BOOK_REPOSITORY", "")
    publishing.main(["address"])
    assert capsys.readouterr().out == "1\n"
    with pytest.raises(SystemExit, match="BOOK_REPOSITORY"):
        publishing.main(["branch", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match="address"):
        publishing.main(["adress"])


def test_previews_are_what_the_pages_say(built):
    html, _ = built
    texts = previews.collect_previews(html)
    written = (html / "_static" / previews.DATA).read_text(encoding="utf-8")
    assert json.loads(written.removeprefix("window.bookPreviews = ").removesuffix(";\n")) == texts
    assert texts["glossary#term-mature"] == "Said of a cell whose alpha exceeds 0.1."
    # Two names, one definition; the link to the section is no part of it.
    assert texts["glossary#term-NCA"] == texts["glossary#term-neural-cellular-automaton"]
    assert not [key for key, text in texts.items() if "Explained in" in text or len(text) < 30]
    (life,) = (text for text in texts.values() if "solitaire" in text)
    assert life.startswith("Martin Gardner. The fantastic combinations of John Conway")


def test_every_definition_leads_to_a_chapter():
    """One or two short sentences, and the section that explains the term at length."""
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^(\S.*)\n((?:  .*\n|\n)+)", text.split(":sorted:\n")[1], re.M)
    assert len(entries) >= 30
    for term, body in entries:
        definition, source = body.strip().split("\n\n")
        assert len(definition.split()) <= 45, term
        where = re.fullmatch(
            r" *Explained in chapter (\d): \[.*\]\(0(\d)_\w+\.ipynb(#.+)?\)\.", source
        )
        assert where and where[1] == where[2], term


def test_every_term_of_the_chapters_is_in_the_glossary_and_used_sparingly():
    glossary = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8").lower()
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        terms = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text)
        assert len(terms) <= 8, path.name
        assert len(set(map(str.lower, terms))) == len(terms), path.name
        assert all(f"\n{term.lower()}\n" in glossary for term in terms), path.name


def test_afterword_quotes_the_runs():
    """Its numbers are those of the shipped runs, and of the reference's preset."""
    text = (ROOT / "book" / "afterword.md").read_text(encoding="utf-8")
    runs = {
        name: json.loads((ROOT / f"nca_lib/data/runs/{name}/run.json").read_text())
        for name in ("reference", "lizard", "lizard-backprop")
    }
    first, lizard, backprop = runs.values()
    whole, side = PRESETS["reference"].generations, first["config"]["size"] + 8
    for sentence in (
        f"asks for {whole:,} generations on a grid of {side} × {side} cells",
        f"stopped after {first['config']['generations']} of them",
        f"a loss of {first['loss']['mean']:.3f}, where an {{term}}`empty grid` scores "
        f"{first['empty_loss']:.3f}.",
        f"about {lizard['parameters']:,} weights",
        f"a loss of {lizard['loss']['mean']:.4f} after {lizard['rollouts']:,} rollouts, "
        f"`lizard-backprop` at {backprop['loss']['mean']:.4f} after {backprop['rollouts']:,}.",
    ):
        assert sentence in " ".join(text.split())
    devices = [json.loads(path.read_text())["device"] for path in RUNS.glob("*/run.json")]
    assert ("leave the CPU" in text) == all(" x cpu" in device for device in devices)


# What classifiers and free text say, as SPDX says it.
SPDX = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
}


def dependencies() -> dict[str, str]:
    """The appendix's table of dependencies: name and licence."""
    text = (ROOT / "book" / "dependencies.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([a-z0-9-]+) \| .+? \| (.+?) \| .+ \|$", text, re.M))


def test_appendix_lists_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = (ROOT / "requirements.txt").read_text().splitlines()
    asked += project["build-system"]["requires"] + project["project"]["dependencies"]
    asked += project["project"]["optional-dependencies"]["oracle"]
    names = {re.match(r"[\w.-]*", line)[0] for line in asked}
    assert dependencies().keys() == names - {""}


@pytest.mark.parametrize("name", dependencies())
def test_appendix_states_the_licence(name):
    tested = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    if f"{name}=={found.version}" not in tested:
        pytest.skip(f"{name} {found.version} is not the version that CI uses")
    said = found.metadata
    stated = [SPDX.get(item) for item in said.get_all("Classifier", [])]
    stated += [said.get("License-Expression"), said.get("License")]
    if not any(stated):  # then only the file tells
        (file,) = (path for path in found.files if path.name == "LICENSE")
        stated = [file.read_text().splitlines()[0].removesuffix(" License")]
    assert dependencies()[name] in stated
