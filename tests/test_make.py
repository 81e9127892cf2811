"""`make install` in the states that `.venv` can be in, with a small library in place of ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A library that pip installs without a network: it brings the hook that builds it.
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import os, zipfile

def build_editable(folder, *_):
    name, about = "nca_lib-0-py3-none-any.whl", "nca_lib-0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("nca_lib.pth", os.getcwd())
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\\nName: nca_lib\\nVersion: 0\\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return name
"""
LEAKS = {"PIP_USER": "1", "PYTHONHOME": "/none", "PIP_TARGET": "elsewhere"}


def install(folder, **settings):
    """Run `make install` and the library; where that lies, and what make said."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    make = ["make", "install", "PACKAGE=.", f"PYTHON={sys.executable}"]
    made = subprocess.run(make, cwd=folder, env=own | settings, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    python = [folder / ".venv" / "bin" / "python", "-c", "import nca_lib; print(nca_lib.__file__)"]
    found = subprocess.check_output(python, cwd="/", env=own, text=True)
    return Path(found.strip()).parents[1], made.stdout


def test_an_environment_that_is_not_whole_or_not_ours_is_made_anew(tmp_path):
    first, copy = tmp_path / "first", tmp_path / "a copy"
    (first / "nca_lib").mkdir(parents=True)
    files = {"pyproject.toml": PROJECT, "backend.py": BACKEND, "requirements.txt": ""}
    for name, text in {**files, "nca_lib/__init__.py": ""}.items():
        (first / name).write_text(text)
    shutil.copy(ROOT / "Makefile", first)
    # Debian without python3-venv leaves this.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", first / ".venv"], check=True)
    (tmp_path / "pip.py").write_text("raise SystemExit('of the user')")
    assert install(first, **LEAKS, PYTHONPATH=str(tmp_path))[0] == first
    assert "Nothing to be done" in install(first)[1]
    shutil.copytree(first, copy, symlinks=True)
    assert install(copy)[0] == copy
    python = copy / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "an interpreter that has gone")
    assert install(copy)[0] == copy
