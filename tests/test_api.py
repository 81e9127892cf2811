"""The API pages of the book, and which room of the library may import from which."""

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import load_script, skip_or_fail

import nca_lib

BOOK = Path(__file__).parents[1] / "book"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in BOOK.glob("api*.md")}
ROOMS = ("core", "lab", "show")  # each may import from those before it
FOUND = list(pkgutil.walk_packages(nca_lib.__path__, "nca_lib."))
MODULES = [module.name for module in FOUND if not module.ispkg]
DOORS = ("nca_lib.train", "nca_lib.benchmark")  # command lines of the lab


def room(name):
    """The room that a module stands in."""
    return "lab" if name in DOORS else name.split(".")[1] if name.count(".") == 2 else "core"


def imported(name):
    """Modules of the library that a module imports, at its top or anywhere inside."""
    for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(name)))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_inwards_only(name):
    outer = ROOMS[ROOMS.index(room(name)) + 1 :]
    assert [other for other in imported(name) if other in MODULES and room(other) in outer] == []


@pytest.mark.parametrize("name", ["nca_lib.evolution", "nca_lib.lab.loop"])
def test_training_needs_no_packages_for_looking(name):
    code = "import sys; sys.modules['matplotlib'] = sys.modules['IPython'] = None; import " + name
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pages_name_every_module_and_every_name_at_hand():
    for page in ROOMS:
        text = PAGES[f"api_{page}.md"]
        named = re.findall(r"^\.\. automodule:: (nca_lib[.\w]+)\n   :members:$", text, re.M)
        assert sorted(named) == sorted(name for name in MODULES if room(name) == page)
    for name, home in nca_lib._HOMES.items():
        assert f"{{py:obj}}`nca_lib.{name} <nca_lib.{home}.{name}>`" in PAGES["api.md"]
        assert getattr(nca_lib, name).__module__ == f"nca_lib.{home}"
    for name in re.findall(r"nca_lib[.\w]+", PAGES["api.md"]):
        assert pkgutil.resolve_name(name)


@pytest.mark.parametrize("name", MODULES)
def test_sections_that_docstrings_point_at_exist(name):
    extension = load_script("book/_ext/docstrings.py")
    pages = [path.stem for path in BOOK.glob("*.ipynb")]
    for chapter, section in extension.POINTER.findall(
        Path(pkgutil.resolve_name(name).__file__).read_text()
    ):
        cells = json.loads((BOOK / f"{extension.page(chapter, pages)}.ipynb").read_text())["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
        titles = {extension.heading(title) for title in re.findall(r"^#+ (.+)$", text, re.M)}
        assert not section or " ".join(section.split()) in titles


@pytest.mark.browser
def test_the_built_book_has_every_module():
    from sphinx.util.inventory import InventoryFile

    path = Path(os.environ.get("BOOK_HTML", BOOK.parent / "_build" / "html")) / "objects.inv"
    if not path.exists():
        skip_or_fail(f"no book at {path.parent}; build it first with `make book`")
    with path.open("rb") as file:
        kinds = InventoryFile.load(file, "", lambda base, address: address)
    objects = {name for kind, names in kinds.items() if kind.startswith("py:") for name in names}
    assert {*MODULES, "nca_lib.model.NCA.update", "nca_lib.lab.config.Config.std"} <= objects
