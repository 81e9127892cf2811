"""The wheel: everything that a chapter needs on a machine that has nothing else of the project."""

import re
import subprocess
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
