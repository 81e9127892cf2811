"""The repository's address, and what is made from it: buttons, downloads, notebooks for Colab.

The address is written down nowhere. It comes from the environment variable BOOK_REPOSITORY or from
the remote `origin` of git, so that a fork links to itself; without one there are no links.

    python book/_ext/publishing.py address          # folder of the notebooks on Colab, or 1
    python book/_ext/publishing.py branch FOLDER    # what the branch `colab` holds

Jupyter Book loads this file as a Sphinx extension (`_config.yml`).
"""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from pybtex.database import parse_file
from sphinx.util import logging

import nca_lib

ROOT = Path(__file__).parents[2]
BOOK = Path(__file__).parents[1]
EXECUTED = ROOT / "_build" / "jupyter_execute" / "book"
BRANCH = "colab"
COLAB = "https://colab.research.google.com"
GITHUB = re.compile(
    r"(?:(?:(?:https?|ssh|git)://)?(?:[^/]*@)?(?i:(?:www\.|ssh\.)?github\.com)(?::\d+/|[:/]))?"
    r"(?P<owner>[A-Za-z0-9](?:[A-Za-z0-9-]{0,38}))/(?P<name>[A-Za-z0-9._-]{1,100}?)(?:\.git)?/?"
)
BOX = re.compile(r"^:::+\{(?:admonition\} ?([^\n]*)|(\w+)\})\n(.*?)^:::+$", re.M | re.S)
SOLUTION = re.compile(r"^:::\{solution-start\} (.+)\n:class: dropdown\n:::\n?(.*)", re.M | re.S)
TERM = re.compile(r"\{term\}`([^`<]*[^`<\s])(?:\s*<[^`>]*>)?`")
EMPTY = 'LIBRARY = ""'  # in the first code cell of every chapter


def git(root: Path, *arguments: str, troubles: list[str] | None = None) -> str:
    """What git says of a folder, or "" without git, a checkout or an answer, and why to a list."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        if troubles is not None:
            troubles.append(getattr(error, "stderr", str(error)).strip())
        return ""


def find_repository(root: Path = ROOT, troubles: list[str] | None = None) -> str:
    """Find the repository on GitHub that the book is built from.

    Args:
        root: a folder under git; looked at only where BOOK_REPOSITORY is not set.
        troubles: a list to which it is added why there is none.

    Returns:
        "owner/name", or "" without a repository or with one elsewhere than on GitHub.

    Raises:
        ValueError: BOOK_REPOSITORY is set, not empty, and no repository on GitHub.
    """
    given = os.environ.get("BOOK_REPOSITORY")
    troubles = [] if troubles is None else troubles
    question = ("remote", "get-url", "origin")
    address = git(root, *question, troubles=troubles) if given is None else given
    match = GITHUB.fullmatch(address)
    shown = re.sub("(^|//)[^/]*@", r"\1", address)  # without a token
    if given and not match:
        raise ValueError(
            f'BOOK_REPOSITORY must be "owner/name" or an address on github.com, got {shown!r}'
        )
    # A remote without github.com is a path on this machine.
    if match and (given or "github.com" in address.lower()):
        return f"{match['owner']}/{match['name']}"
    if not troubles:
        troubles.append(f"the address is {shown!r}, and not known to be on github.com")
    return ""


def colab_folder(repository: str) -> str:
    """Address on Colab of the folder that holds the chapters' notebooks."""
    return f"{COLAB}/github/{repository}/blob/{BRANCH}/book"


def wheel_address(repository: str) -> str:
    """Address of the library that belongs to the published notebooks."""
    wheel = f"nca_lib-{nca_lib.__version__}-py3-none-any.whl"
    return f"https://github.com/{repository}/raw/{BRANCH}/{wheel}"


def published(notebook: dict, repository: str, library: str, outputs: bool = False) -> dict:
    """Make a chapter fit to be read alone, anywhere: on Colab, or downloaded.

    The set-up cell learns where the library is, links between chapters lead to Colab, and what only
    Jupyter Book understands (citations, terms, boxes) becomes plain Markdown.

    Args:
        notebook: as read from JSON; it is not changed.
        repository: "owner/name", or "": then links between chapters stay as they are.
        library: what the set-up cell gives to pip; "" leaves it empty.
        outputs: whether to keep them.

    Returns:
        The new notebook.

    Raises:
        ValueError: the first code cell is not the set-up cell, or another cell looks like it.
    """
    notebook = copy.deepcopy(notebook)
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = ["".join(cell["source"]).count(EMPTY) for cell in codes]
    if not codes or found[0] != 1 or sum(found) != 1:
        raise ValueError(f"{EMPTY} must stand once in the first code cell, found {found}")
    solution = ""  # to which exercise, while inside of one
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell |= {} if outputs else {"outputs": [], "execution_count": None}
            text = text.replace(EMPTY, f"LIBRARY = {json.dumps(library)}")
            if solution:  # Colab folds a cell that is marked so, and shows its title
                cell["metadata"]["cellView"] = "form"
                text = f"# @title Solution to {solution}\n{text}"
        else:
            for begin in re.finditer(r"^:::\{solution-(start|end)\} ?(.*)$", text, re.M):
                solution = exercise_name(begin[2]) if begin[1] == "start" else ""
            text = plain_markdown(text, repository)
        cell["source"] = text.splitlines(keepends=True)
    return notebook


def plain_markdown(text: str, repository: str) -> str:
    """Replace boxes, citations, terms and relative links by what any Markdown viewer understands.

    A term, {term}`pairs <mirrored pair>` or {term}`seed`, becomes the text that the book shows.
    """
    text = re.sub(r":::\{solution-end\}\n:::\n*", "", text)
    text = re.sub(SOLUTION, _folded, text)
    text = re.sub(BOX, _box, text)
    text = re.sub(r"\{ref\}`(exercise-[^`]+)`", lambda match: exercise_name(match[1]), text)
    text = re.sub(r"\{cite\}`([^`]+)`", lambda match: _citations(match[1]), text)
    text = re.sub(TERM, r"\1", text)
    if repository:
        text = re.sub(r"\]\((\w+\.ipynb)", rf"]({colab_folder(repository)}/\1", text)
        source = f"https://github.com/{repository}/blob/main/book"
        text = re.sub(r"\]\((\w+\.md)", rf"]({source}/\1", text)
    return text


def exercise_name(label: str) -> str:
    """The number that the book gives to an exercise: "Exercise 3.2" for the label exercise-03-2."""
    chapter, number = re.fullmatch(r"exercise-(\w+)-(\d+)", label).groups()
    return f"Exercise {chapter.lstrip('0').upper()}.{number}"


def _folded(match: re.Match) -> str:
    text = f"\n{match[2].strip()}\n" if match[2].strip() else ""
    summary = f"<summary>Solution to {exercise_name(match[1])}</summary>"
    return f"<details>{summary}\n{text}\n</details>"


def _box(match: re.Match) -> str:
    title, label = match[1] or match[2].capitalize(), re.search(r"^:label: (.+)$", match[3], re.M)
    if match[2] == "exercise":
        title = exercise_name(label[1])
    lines = re.sub(r"^:\w+:.*\n", "", match[3], flags=re.M).strip().splitlines()
    return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *lines])


def _citations(keys: str) -> str:
    entries = parse_file(BOOK / "references.bib").entries
    return "; ".join(_citation(entries[key.strip()]) for key in keys.split(","))


def _citation(entry) -> str:
    """One entry as "[Gilpin, 2019](address)"."""
    fields, authors = entry.fields, entry.persons["author"]
    names = [" ".join(map(str, author.rich_last_names)) for author in authors]
    shown = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    label = f"{shown}, {fields['year']}"
    if "doi" in fields:
        return f"[{label}](https://doi.org/{fields['doi']})"
    if "eprint" in fields:
        return f"[{label}](https://arxiv.org/abs/{fields['eprint']})"
    return f"[{label}]({fields['url']})" if "url" in fields else label


def write_published(source: Path, target: Path, repository: str, outputs: bool = False) -> None:
    """Write the published form of a notebook; without a repository it names no library."""
    library = wheel_address(repository) if repository else ""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    notebook = published(notebook, repository, library, outputs)
    text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
    target.write_text(text, encoding="utf-8")


def executed(path: Path) -> Path:
    """A chapter as `make book` has run it last, unless it was changed since: then as it is."""
    ran = EXECUTED / path.name
    if ran.exists():
        before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (path, ran))
        if [cell["source"] for cell in before["cells"]] == [x["source"] for x in after["cells"]]:
            return ran
    return path


def write_branch(folder: Path, repository: str) -> None:
    """Write what the branch `colab` holds: notebooks, the library's wheel, a README with badges.

    Args:
        folder: must not exist yet.
        repository: "owner/name".
    """
    (folder / "book").mkdir(parents=True)
    rows = []
    for path in sorted(BOOK.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title = "".join(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
        write_published(executed(path), folder / "book" / path.name, repository, outputs=True)
        link = f"{colab_folder(repository)}/{path.name}"
        badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})"
        rows.append(f"| {title} | {badge} |")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    (folder / "README.md").write_text(
        "# The chapters, for Colab\n\n"
        f"Written by a workflow of [{repository}](https://github.com/{repository}); change the "
        "chapters there. Each notebook needs nothing beside itself: its first cell installs the "
        "library from this branch.\n\n"
        "| chapter | |\n|---|---|\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


def setup(app):
    """Hook for Sphinx: buttons that lead to the repository and to Colab, and clean downloads."""
    troubles: list[str] = []
    repository = find_repository(troubles=troubles)
    for trouble in troubles:
        logging.getLogger(__name__).info(
            "No buttons to GitHub and Colab: %s (BOOK_REPOSITORY=owner/name names one)", trouble
        )

    def add_buttons(app, config):
        if repository:
            config.html_theme_options |= {
                "repository_url": f"https://github.com/{repository}",
                "repository_branch": BRANCH,  # of the notebooks; other buttons name no branch
                "use_repository_button": True,
                "use_issues_button": True,
                "launch_buttons": {"colab_url": COLAB},
            }

    def write_downloads(app, exception):
        """Replace each notebook that readers download by one that runs anywhere."""
        is_book = exception is None and app.builder.name == "html"
        for name in app.env.found_docs if is_book else ():
            source = Path(app.env.doc2path(name))
            if source.suffix == ".ipynb":
                target = Path(app.outdir) / "_sources" / f"{name}.ipynb"
                write_published(source, target, repository)

    app.connect("config-inited", add_buttons)
    app.connect("build-finished", write_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main(arguments: list[str]) -> None:
    """Run the command line."""
    try:
        repository = find_repository()
    except ValueError as error:
        sys.exit(str(error))
    match arguments:
        case ["address"]:
            print(f"{colab_folder(repository)}/" if repository else 1)
        case ["branch", folder] if repository:
            write_branch(Path(folder), repository)
        case ["branch", _]:
            sys.exit("No repository on GitHub: set BOOK_REPOSITORY=owner/name or a remote origin.")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
