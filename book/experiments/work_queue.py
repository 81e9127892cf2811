"""Work off the queue of trainings, in the order of queue.toml beside this file.

    make queue

One run at a time, on all cores, at the lowest priority, into runs/. A run that was begun goes on,
from its folder or from the checkpoint under state/, where each checkpoint is copied, to be
committed. While a file PAUSE lies beside queue.toml, training waits. What is complete, or ships
with the same command, is passed over. It is best started in a clone of its own, since a training
loads the library as it is at that moment.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from nca_lib.lab.config import SHIPPED

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def folder_of(command: str) -> Path:
    """Where a command leaves its run, relative to the checkout."""
    words = shlex.split(command)
    return Path(words[words.index("--out") + 1])


def is_done(command: str) -> bool:
    """Whether the run is complete here, or has been shipped as this command makes it."""
    out = folder_of(command)
    if (ROOT / out / "run.json").exists():
        return True
    shipped = SHIPPED / out.name / "run.json"
    return shipped.exists() and json.loads(shipped.read_text("utf-8"))["command"] == command


def keep_state(out: Path, state: Path) -> None:
    """Copy a run's checkpoint to where it is committed, if it is newer."""
    source, copy = out / "checkpoint", state / "checkpoint"
    if source.exists() and not (copy.exists() and copy.stat().st_mtime >= source.stat().st_mtime):
        state.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy.with_suffix(".tmp"))
        copy.with_suffix(".tmp").replace(copy)


def work(command: str) -> int:
    """Run one command to its end, and return its exit status."""
    out, state = ROOT / folder_of(command), HERE / "state" / folder_of(command).name
    if (state / "checkpoint").exists() and not (out / "checkpoint").exists():
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy2(state / "checkpoint", out)
    resume = ["--resume"] if (out / "checkpoint").exists() else []
    words = [sys.executable, *shlex.split(command)[1:], *resume]
    child, paused = subprocess.Popen(words, cwd=ROOT), False
    try:
        while child.poll() is None:
            if (HERE / "PAUSE").exists() != paused:
                paused = not paused
                child.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)
            keep_state(out, state)
            time.sleep(1)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGTERM)  # it saves a checkpoint
        child.wait()
        raise
    finally:
        keep_state(out, state)
    return child.returncode


def main() -> None:
    """Work off what is left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.nice(19)
    runs = tomllib.loads((HERE / "queue.toml").read_text("utf-8"))["run"]
    left = [run for run in runs if not is_done(run["command"])]
    for run in left:
        print(f"{run['hours']:6.2f} h  {run['command']}", flush=True)
    for run in left:
        print(f"\n{time.strftime('%H:%M')} {run['command']}", flush=True)
        if status := work(run["command"]):
            print(f"ended with {status}", flush=True)


if __name__ == "__main__":
    main()
