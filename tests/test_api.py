"""The API pages of the book, and which room of the library may import from which."""

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


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_inwards_only(name):
    source = inspect.getsource(importlib.import_module(name))
    for outer in ROOMS[ROOMS.index(room(name)) + 1 :]:
        assert not re.search(rf"^ *(from|import) nca_lib(\.| import ){outer}\b", source, re.M)


def test_training_needs_no_packages_for_looking():
    hide = "import sys; sys.modules['matplotlib'] = sys.modules['IPython'] = None"
    code = f"{hide}; import nca_lib.lab.loop"
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
