"""The wheel, with all that a chapter needs on a machine that has nothing else, and the workflows.

`make lint` checks the workflows' syntax, permissions, pins and what reaches a shell.
"""

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import nca_lib

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 3_000_000


def git(folder, *arguments):
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tracked(folder):
    return git(ROOT, "ls-files", folder).splitlines()


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


def test_every_step_is_a_target_or_a_script():
    makefile = (ROOT / "Makefile").read_text()
    paths = (ROOT / ".github" / "workflows").glob("*.yml")
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    programs = set(re.findall(r"\brun: (\S+)", text))
    assert all((ROOT / script).stat().st_mode & 0o100 for script in programs - {"make"})
    targets = set(re.findall(r"\bmake:? ([a-z-]+)", text))  # of steps, and of the table of tests
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.M)) and "test-lowest" in targets


def test_the_branch_is_replaced_by_one_commit_and_never_emptied(tmp_path):
    remote, folder = tmp_path / "remote", tmp_path / "folder"
    remote.mkdir()
    folder.mkdir()
    git(remote, "init", "-q", "--bare")
    push = [ROOT / ".ci" / "push-colab", folder]
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "REMOTE": remote, "HOME": folder}
    assert subprocess.run(push, env=environment, capture_output=True).returncode != 0
    assert git(remote, "branch") == ""
    for text in ("first", "second"):
        (folder / "README.md").write_text(text)
        subprocess.run(push, env=environment, check=True)
    assert git(remote, "rev-list", "--count", "colab") == "1\n"
    assert git(remote, "show", "colab:README.md") == "second"
