"""The workflows, and the script that runs their steps here; `make lint` checks their syntax."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import load_script

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
steps = load_script(".ci/steps.py")


def test_jobs_are_found_with_every_case_of_their_matrix():
    jobs = steps.find_jobs()
    assert {"ci/book", "ci/pages", "ci/colab", "release/publish", "weekly/links"} <= jobs.keys()
    tests = {name for name in jobs if name.startswith("ci/tests ")}
    assert tests == {
        *(f"ci/tests {python} tested" for python in ("3.11", "3.12", "3.13")),
        "ci/tests 3.13 lowest",
        "ci/tests 3.13 newest",
    }


def test_expressions_are_filled_in_or_refused():
    assert steps.fill("a ${{ matrix.python }} ${{x}}", {"matrix.python": "3.13", "x": "b"}) == (
        "a 3.13 b"
    )
    with pytest.raises(KeyError, match=r"github\.actor"):
        steps.fill("${{ github.actor }}", {})


def test_no_step_has_an_expression_in_its_script():
    """What others can name, a branch or a title, reaches a shell only through its environment."""
    for workflow, job, _ in steps.find_jobs().values():
        assert workflow["permissions"] == {"contents": "read"}
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash_and_say_their_version(path):
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    pinned = re.compile(r".*uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert lines and [line for line in lines if not pinned.fullmatch(line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_script_that_a_step_calls_exists(path):
    makefile = (ROOT / "Makefile").read_text()
    for name, (_, job, _) in steps.find_jobs().items():
        if name.startswith(f"{path.stem}/"):
            for step in job["steps"]:
                program, *arguments = step.get("run", "true").split()
                if program == "make":
                    assert re.search(rf"^{arguments[0]}:", makefile, re.M), step
                elif program != "true":
                    assert (ROOT / program).stat().st_mode & 0o100, step


def test_steps_of_a_job_that_does_not_exist_are_refused():
    command = [sys.executable, ROOT / ".ci" / "steps.py", "ci/nothing"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "No such job: ci/nothing" in result.stderr


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
