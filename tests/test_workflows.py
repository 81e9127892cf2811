"""The workflows; `make lint` checks their syntax, permissions, pins and what reaches a shell."""

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


def ci_cases():
    """What CI's first job gives to make, on which Python."""
    ci = yaml.safe_load((WORKFLOWS[0].parent / "ci.yml").read_text(encoding="utf-8"))
    cases = ci["jobs"]["tests"]["strategy"]["matrix"]["include"]
    return [(case["python"], case["make"]) for case in cases]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_is_a_target_or_a_script(path):
    makefile = (ROOT / "Makefile").read_text()
    commands = [
        script.replace("$MAKE_WHAT", what) for script in scripts(path) for _, what in ci_cases()
    ]
    for command in commands:
        program, target, *_ = [*command.split(), ""]
        if program == "make":
            assert re.search(rf"^{target}:", makefile, re.M), command
        else:
            assert (ROOT / program).stat().st_mode & 0o100, command


def git(folder, *arguments):
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


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
