"""The API pages of the book, and which room of the library may import from which."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
