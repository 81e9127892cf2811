"""The wheel: everything that a chapter needs on a machine that has nothing else of the project."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import nca_lib

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 3_000_000


def tracked(folder):
    listed = ["git", "-C", str(ROOT), "ls-files", folder]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in names if ".dist-info/" not in name) == sorted(tracked("nca_lib"))
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_source_distribution_holds_book_and_tests(wheel):
    (path,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"_config.yml", "_toc.yml", "requirements.txt", "README.md", "LICENSE"}
    assert names >= wanted | set(tracked("book")) | set(tracked("tests")) | set(tracked("nca_lib"))


ALONE = """
import json
import nca_lib
from nca_lib.show import page as demo

run = nca_lib.load_run("lizard")
print(json.dumps({
    "file": nca_lib.__file__,
    "loss": float(run.evaluate(keys=run.info["loss"]["keys"]).mean()),
    "shipped": run.info["loss"]["mean"],
    "demo": demo.show("lizard").data,
}))
"""


def test_wheel_alone_grows_the_lizard_and_shows_the_demo(wheel, tmp_path):
    """Its files alone: the package comes from the wheel, only its dependencies from here."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", site, wheel], check=True)
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    python = [sys.executable, "-c", ALONE]
    found = json.loads(subprocess.check_output(python, env=environment, cwd=elsewhere))
    assert Path(found["file"]).parent == site / "nca_lib"
    assert found["loss"] == pytest.approx(found["shipped"], rel=1e-4)
    assert "NCA.register(" in found["demo"] and "data:image/png;base64," in found["demo"]


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {nca_lib.__version__}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+?),? ", changes, re.M)[1] == nca_lib.__version__
    tested = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    hooks = re.findall(r"\[([\w-]+==[\d.]+)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(hooks) == 3 and set(hooks) <= set(tested)


@pytest.mark.parametrize("name", ["README.md", ".github/CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', text)
    files = [link for pair in links for link in pair if link and "://" not in link]
    assert [file for file in files if not (ROOT / name).parent.joinpath(file).exists()] == []
