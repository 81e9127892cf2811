"""The API pages of the book, and the docstrings that they are made from."""

import ast
import doctest
import importlib
import inspect
import json
import os
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest
from conftest import load_script, skip_or_fail

import nca_lib

BOOK = Path(__file__).parents[1] / "book"
MODULES = sorted(module.name for module in pkgutil.iter_modules(nca_lib.__path__))
PAGES = {path.name: path.read_text(encoding="utf-8") for path in BOOK.glob("api*.md")}
SECTIONS = re.compile(r"^(Args|Returns|Raises|Yields|Example):\n(.*?)(?=^\S|\Z)", re.M | re.S)
# What is explained nowhere, though chapters call it.
PLUMBING = {"describe_machine", "use_style"}


def _objects(name: str) -> dict:
    """Everything public that a module defines: functions, classes and their methods, by path."""
    module, found = importlib.import_module(f"nca_lib.{name}"), {}
    for path, thing in vars(module).items():
        if not path.startswith("_") and getattr(thing, "__module__", "") == module.__name__:
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found[f"{name}.{path}"] = thing
            if inspect.isclass(thing):
                for key, method in vars(thing).items():
                    method = getattr(method, "__func__", getattr(method, "fget", method))
                    own = inspect.isfunction(method) and method.__module__ == module.__name__
                    if own and (key == "__call__" or not key.startswith("_")):
                        found[f"{name}.{path}.{key}"] = method
    return found


OBJECTS = {path: thing for name in MODULES for path, thing in _objects(name).items()}
DOCUMENTED = OBJECTS | {name: importlib.import_module(f"nca_lib.{name}") for name in MODULES}


def _headings(chapter: str) -> set[str]:
    """Headings of a chapter, "chapter 2" or "appendix A1", as docstrings name them."""
    extension = load_script("book/_ext/docstrings.py")
    path = BOOK / f"{extension.page(chapter, [path.stem for path in BOOK.glob('*.ipynb')])}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {extension.heading(title) for title in re.findall(r"^#+ (.+)$", text, re.M)}


def _parameters(thing) -> list[str]:
    """Parameters that a reader gives; none for a class whose fields are described one by one."""
    if inspect.isclass(thing):
        if hasattr(thing, "__dataclass_fields__") or issubclass(thing, tuple):
            return []
        thing = thing.__init__
    parameters = inspect.signature(thing).parameters.values()
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(p.kind, "") + p.name for p in parameters if p.name != "self"]


def _raised(thing) -> set[str]:
    """Errors that a function raises in its own body, but for those it may handle itself."""
    function = thing.__init__ if inspect.isclass(thing) else thing
    if inspect.isclass(thing) and not _parameters(thing):  # Python has written its __init__
        return set()
    nodes, found = [ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]], set()
    while nodes:
        node = nodes.pop()
        handled = node.body if isinstance(node, ast.Try) else []
        inner = [n for n in ast.iter_child_nodes(node) if n not in handled]
        nodes += [n for n in inner if not isinstance(n, ast.FunctionDef)]
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
    return found


@pytest.mark.parametrize("path", sorted(DOCUMENTED))
def test_docstring_is_whole(path):
    """Parameters, result and errors: each is described, and nothing else is."""
    thing = DOCUMENTED[path]
    text = inspect.getdoc(thing)
    assert text and text[0].isupper()
    sections = dict(SECTIONS.findall(text))
    if inspect.ismodule(thing):
        return
    wanted = _parameters(thing)
    if len(wanted) > 1 or "Args" in sections:  # a single one may be said in a sentence
        given = re.findall(r"^    (\S+): ", sections.get("Args", ""), re.M)
        assert given == wanted
    if "Args" in sections and inspect.isfunction(thing):
        returns = inspect.signature(thing).return_annotation not in (None, inspect.Signature.empty)
        assert returns == ("Returns" in sections)
    if "Returns" in sections:  # Sphinx would take what stands before a colon for a type
        assert ":" not in re.sub("`[^`]*`", "", sections["Returns"].splitlines()[0])
    assert {name for name in _raised(thing) if name not in sections.get("Raises", "")} == set()


@pytest.mark.parametrize("path", sorted(OBJECTS))
def test_fields_are_described(path):
    """Each field of a record has a comment that Sphinx reads."""
    thing = OBJECTS[path]
    fields = [*getattr(thing, "__dataclass_fields__", ()), *getattr(thing, "_fields", ())]
    source = inspect.getsource(thing).splitlines()
    for name in fields:
        (at,) = (i for i, line in enumerate(source) if re.match(rf"    {name}: ", line))
        assert "  #: " in source[at] or source[at - 1].strip().startswith("#: "), name


@pytest.mark.parametrize("path", sorted(DOCUMENTED))
def test_pointers_lead_somewhere(path):
    """A section that a docstring names exists; functions name sections, not whole chapters."""
    pointer = load_script("book/_ext/docstrings.py").POINTER
    for chapter, section in pointer.findall(inspect.getdoc(DOCUMENTED[path])):
        assert section or path in MODULES, f"{chapter}, but which section?"
        if section:
            assert " ".join(section.split()) in _headings(chapter)


def test_what_chapters_use_is_explained():
    """Every function of the library that a chapter calls says where it is explained."""
    used = set()
    for notebook in BOOK.glob("*.ipynb"):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            code = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
            for home, names in re.findall(r"from nca_lib\.(\w+) import \(?([\w, \n]+)", code):
                used |= {f"{home}.{name.strip()}" for name in names.split(",")}
            for home, name in re.findall(r"\b(\w+)\.(\w+)\(", code):
                home = nca_lib._HOMES.get(name) if home == "nca_lib" else home
                used.add(f"{home}.{name}")
    used = {path for path in used & set(OBJECTS) if path.split(".")[1] not in PLUMBING}
    assert len(used) > 30
    pointer = load_script("book/_ext/docstrings.py").POINTER
    assert [p for p in sorted(used) if not pointer.search(inspect.getdoc(OBJECTS[p]))] == []


def test_pages_name_every_module_once():
    """Sphinx lists all that is public of a module that a page names."""
    text = "\n".join(PAGES.values())
    listed = re.findall(r"^\.\. automodule:: nca_lib\.(\w+)\n   :members:$", text, re.M)
    assert sorted(listed) == MODULES
    for name, home in nca_lib._HOMES.items():
        assert f"{{py:obj}}`nca_lib.{name} <nca_lib.{home}.{name}>`" in PAGES["api.md"]


@pytest.mark.browser
def test_built_book_lists_everything():
    """The inventory that Sphinx has written has every public object and every field."""
    from sphinx.util.inventory import InventoryFile

    html = os.environ.get("BOOK_HTML", BOOK.parent / "_build" / "html")
    path = Path(html) / "objects.inv"
    if not path.exists():
        skip_or_fail(f"no book at {html}; build it first with `make book`")
    with path.open("rb") as file:
        kinds = InventoryFile.load(file, "", lambda base, address: address)
    listed = {name for kind, names in kinds.items() if kind.startswith("py:") for name in names}
    wanted = {f"nca_lib.{path}" for path in DOCUMENTED}
    wanted |= {f"nca_lib.train.Config.{name}" for name in OBJECTS["train.Config"].__annotations__}
    assert wanted - listed == set()


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"nca_lib.{name}")
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module):
        runner.run(test)
    assert runner.failures == 0
