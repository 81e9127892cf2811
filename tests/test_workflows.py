"""The workflows; `make lint` checks their syntax."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def scripts(path):
    """The shell scripts of a workflow's steps."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def test_every_supported_python_is_tested():
    ci = yaml.safe_load((WORKFLOWS[0].parent / "ci.yml").read_text(encoding="utf-8"))
    cases = ci["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {(case["python"], case["versions"]) for case in cases} == {
        *((python, "tested") for python in ("3.11", "3.12", "3.13")),
        ("3.13", "lowest"),
        ("3.13", "newest"),
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_step_has_an_expression_in_its_script(path):
    """What others can name, a branch or a title, reaches a shell only through its environment."""
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    assert [script for script in scripts(path) if "${{" in script] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash_and_say_their_version(path):
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    pinned = re.compile(r".*uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert lines and [line for line in lines if not pinned.fullmatch(line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_is_a_target_or_a_script(path):
    makefile = (ROOT / "Makefile").read_text()
    for script in scripts(path):
        program, target, *_ = [*script.split(), ""]
        if program == "make":
            assert re.search(rf"^{target}:", makefile, re.M), script
        else:
            assert (ROOT / program).stat().st_mode & 0o100, script


def push(folder, remote):
    return subprocess.run(
        [ROOT / ".ci" / "push-colab", folder],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "REMOTE": str(remote), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def test_branch_is_replaced_by_one_commit(tmp_path):
    remote, folder = tmp_path / "remote", tmp_path / "folder"
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    folder.mkdir()
    for text in ("first", "second"):
        (folder / "README.md").write_text(text)
        result = push(folder, remote)
        assert result.returncode == 0, result.stderr
    git = ["git", "-C", str(remote)]
    count = subprocess.run([*git, "rev-list", "--count", "colab"], capture_output=True, text=True)
    assert count.stdout.strip() == "1"
    shown = subprocess.run([*git, "show", "colab:README.md"], capture_output=True, text=True)
    assert shown.stdout == "second"


def test_an_empty_folder_is_not_pushed(tmp_path):
    remote = tmp_path / "remote"
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    (tmp_path / "empty").mkdir()
    assert push(tmp_path / "empty", remote).returncode != 0
    branches = subprocess.run(["git", "-C", str(remote), "branch"], capture_output=True, text=True)
    assert branches.stdout == ""
