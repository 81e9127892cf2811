"""Chapters on Colab, simulated: Colab's versions, the notebook alone, a first cell that installs.

Installs from the network, and so runs only with COLAB=1, by `make test-colab`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import load_script

pytestmark = pytest.mark.skipif(
    os.environ.get("COLAB") != "1", reason="installs from the network; `make test-colab` runs it"
)

ROOT = Path(__file__).parents[1]
# What Colab has of what we need, in August 2026, and in the older runtimes that readers may choose.
NOW = {
    "flax": "0.11.2",
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "ipywidgets": "7.7.1",
    "jax": "0.7.2",
    "matplotlib": "3.10.0",
    "numpy": "2.1.3",
    "optax": "0.2.8",
    "pillow": "11.3.0",
    "tqdm": "4.67.1",
}
RUNTIMES = {"3.13": NOW, "3.12": NOW | {"numpy": "2.0.2"}}
# How code tells that it is on Colab; jax imports `output`.
FAKE = """
import sys, types

colab = sys.modules["google.colab"] = types.ModuleType("google.colab")
colab.output = types.ModuleType("google.colab.output")
"""
publishing = load_script("book/_ext/publishing.py")


def find_python(version: str) -> str:
    """Python of this version; where there is none, the one that runs the tests."""
    named = os.environ.get(f"COLAB_PYTHON{version.replace('.', '_')}")
    for name in filter(None, (named, f"python{version}")):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return sys.executable


class Colab:
    """An environment with what Colab brings along, and a folder for each notebook."""

    def __init__(self, folder: Path, version: str):
        self.folder, self.bin = folder, folder / "venv" / "bin"
        hidden = ("PYTHON", "JUPYTER", "NCA_", "XLA_", "JAX_", "VIRTUAL_ENV")
        own = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self.environment = own | {"IPYTHONDIR": str(folder / "ipython")}
        start = folder / "ipython" / "profile_default" / "startup"
        start.mkdir(parents=True)
        (start / "00-colab.py").write_text(FAKE)
        subprocess.run([find_python(version), "-m", "venv", folder / "venv"], check=True)
        pins = [f"{name}=={pin}" for name, pin in RUNTIMES[version].items()]
        self.run("python", "-m", "pip", "install", "--quiet", *pins, "nbclient")

    def run(self, program: str, *arguments, cwd: Path | None = None) -> str:
        """Run a program of the environment and return what it prints."""
        result = subprocess.run(
            [self.bin / program, *arguments],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
        return result.stdout

    def versions(self) -> dict[str, str]:
        """What is installed."""
        text = self.run("python", "-m", "pip", "list", "--format=freeze")
        return dict(line.split("==") for line in text.lower().splitlines())

    def forget(self):
        """Take the library away, should a test have left it there."""
        self.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "nca_lib")

    def execute(self, chapter: str, library: str) -> list[str]:
        """Run a chapter that lies alone in a folder; what each code cell prints."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        notebook = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text(encoding="utf-8"))
        notebook = publishing.published(notebook, "", library)
        path = folder / "notebook.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        self.run("jupyter", "execute", "--inplace", "--timeout=900", path.name, cwd=folder)
        assert [file.name for file in folder.iterdir() if file.suffix == ".ipynb"] == [path.name]
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            "".join("".join(output.get("text", "")) for output in cell["outputs"])
            for cell in cells
            if cell["cell_type"] == "code"
        ]


# Side by side, where there are two cores.
BOTH = [pytest.param(version, marks=pytest.mark.xdist_group(version)) for version in RUNTIMES]


@pytest.fixture(scope="module", params=BOTH)
def colab(tmp_path_factory, request):
    return Colab(tmp_path_factory.mktemp("colab"), request.param)


def test_chapters_alone_run_and_leave_what_is_there(colab, wheel):
    for chapter in ("01_dataset", "05_es_training"):
        colab.forget()
        before = colab.versions()
        printed = colab.execute(chapter, wheel.as_uri())
        after = colab.versions()
        assert before.items() <= after.items()
        assert (after.keys() - before.keys()) & {"nca_lib", "nca-lib"}

        first = " ".join(printed[0].split())
        assert f"jax {before['jax']}" in first and f"flax {before['flax']}" in first
        assert re.search(r"on \d+ x cpu", first)

    # And the library grows the lizard there.
    code = (
        "import nca_lib; run = nca_lib.load_run('lizard');"
        "print(run.evaluate(keys=8).mean(), run.info['loss']['mean'])"
    )
    loss, shipped = map(float, colab.run("python", "-c", code, cwd=colab.folder).split())
    assert loss == pytest.approx(shipped, rel=1e-3)


def test_notebook_without_an_address_says_what_to_do(colab):
    colab.forget()
    with pytest.raises(AssertionError, match="nca_lib is missing"):
        colab.execute("02_architecture", "")


def test_what_must_be_replaced_is_said_and_a_restart_asked_for(colab, wheel):
    colab.forget()
    colab.run("python", "-m", "pip", "install", "--quiet", "pillow==10.4.0")  # older than is needed
    with pytest.raises(AssertionError, match="restart the session"):
        colab.execute("01_dataset", wheel.as_uri())
    assert "nca_lib" in colab.execute("01_dataset", wheel.as_uri())[0]
