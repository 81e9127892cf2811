"""Run the shell steps of the workflows here, job after job, each in a fresh clone.

    python .ci/steps.py                   # list the jobs
    python .ci/steps.py ci/book ci/colab  # run some; `all` runs every one, which takes hours

Expressions such as `${{ matrix.python }}` are filled in, files handed from job to job through
artifacts are copied, and `setup-python` becomes a folder in front of PATH. GitHub itself is played
by a bare repository. Other actions are only named.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

import nca_lib

ROOT = Path(__file__).parents[1]


def find_jobs() -> dict[str, tuple[dict, dict, dict]]:
    """All jobs by name, such as "ci/tests 3.12 tested": workflow, job and values of its matrix."""
    jobs = {}
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, job in workflow["jobs"].items():
            matrix = job.get("strategy", {}).get("matrix", {})
            keys = [key for key in matrix if key != "include"]
            cases = [
                dict(zip(keys, values, strict=True))
                for values in itertools.product(*(matrix[key] for key in keys))
            ]
            for case in matrix.get("include", cases):
                jobs[" ".join([f"{path.stem}/{name}", *case.values()])] = workflow, job, case
    return jobs


def fill(text: str, values: dict[str, str]) -> str:
    """Replace every `${{ name }}`; a name that is not in `values` is a KeyError."""
    return re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: values[match[1]], str(text))


def find_python(version: str) -> str:
    """An interpreter of this version, on PATH or from pyenv."""
    if shutil.which("pyenv"):  # its shims hide all versions but the current one
        prefix = subprocess.run(["pyenv", "prefix", version], capture_output=True, text=True)
        if prefix.returncode == 0:
            return f"{prefix.stdout.strip()}/bin/python{version}"
    return shutil.which(f"python{version}") or sys.exit(f"There is no Python {version} here.")


def run_job(name: str, work: Path, values: dict[str, str]) -> list[tuple[str, int, float]]:
    """Run the steps of one job until one fails: for each step its name, exit status, seconds."""
    workflow, job, case = find_jobs()[name]
    values = values | {f"matrix.{key}": value for key, value in case.items()}
    clone, tools = work / name.replace("/", "-"), work / "tools" / name.replace("/", "-")
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    tools.mkdir(parents=True)
    environment = os.environ | {"CI": "true", "PATH": f"{tools}:{os.environ['PATH']}"}
    environment["GITHUB_REF_NAME"] = values["github.ref_name"]
    results = []
    for step in job["steps"]:
        action, options = step.get("uses", ""), step.get("with", {})
        path = clone / options.get("path", "")
        artifact = work / "artifacts" / options.get("name", "pages")
        if action.startswith("actions/setup-python"):
            for number, version in enumerate(fill(options["python-version"], values).split()):
                for link in {f"python{version}"} | (
                    {"python3", "python"} if number == 0 else set()
                ):
                    (tools / link).symlink_to(find_python(version))
        elif action.startswith("actions/upload-"):
            shutil.rmtree(artifact, ignore_errors=True)
            shutil.copytree(path, artifact)
        elif action.startswith("actions/download-artifact"):
            shutil.copytree(artifact, path, dirs_exist_ok=True)
        elif action and not action.startswith("actions/checkout"):
            print(f"{name}: not run here: {action}", flush=True)
        if "run" in step:
            settings = workflow.get("env", {}) | job.get("env", {}) | step.get("env", {})
            filled = {key: fill(value, values) for key, value in settings.items()}
            shell = ["bash", "-e", "-o", "pipefail", "-c", fill(step["run"], values)]
            begin = time.monotonic()
            status = subprocess.run(shell, cwd=clone, env=environment | filled).returncode
            results.append((step.get("name", step["run"]), status, time.monotonic() - begin))
            if status:
                break
    return results


def main(wanted: list[str]) -> None:
    """List the jobs, or run those wanted and print what came of each step."""
    jobs = find_jobs()
    if not wanted:
        print(*jobs, sep="\n")
        return
    unknown = set(wanted) - jobs.keys() - {"all"}
    if unknown:
        sys.exit(f"No such job: {', '.join(sorted(unknown))}. There are: {', '.join(jobs)}")
    work = Path(tempfile.mkdtemp(prefix="steps-"))
    repository = "somebody/fork"
    subprocess.run(["git", "init", "-q", "--bare", work / repository], check=True)
    values = {
        "github.repository": repository,
        "github.server_url": work.as_uri(),
        "github.token": "",
        "github.ref_name": f"v{nca_lib.__version__}",
    }
    report = []
    for name in jobs if "all" in wanted else wanted:
        for step, status, seconds in run_job(name, work, values):
            report.append({"job": name, "step": step, "status": status, "seconds": round(seconds)})
            print(json.dumps(report[-1]), flush=True)
    print(f"Clones and artifacts lie in {work}")
    sys.exit(any(line["status"] for line in report))


if __name__ == "__main__":
    main(sys.argv[1:])
