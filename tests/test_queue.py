"""The queue of trainings: what is begun goes on, what is done is passed over, PAUSE pauses."""

import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import load_script
from test_train import ctrl_c_at

from nca_lib import train
from nca_lib.lab import checkpoint

FLAGS = "--preset smoke --size 6 --num-steps 6 --window 2 --population 4"
COMMAND = f"python -m nca_lib.train {FLAGS} --generations 24 --out runs/tiny"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """The script, at work in a folder of its own."""
    module = load_script("book/experiments/work_queue.py")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "HERE", tmp_path / "experiments")
    module.HERE.mkdir()
    return module


def test_a_committed_state_goes_on_where_it_was(queue, tmp_path):
    config, state = train.parse(shlex.split(COMMAND)[3:])[1], queue.HERE / "state" / "tiny"
    with ctrl_c_at(9), pytest.raises(KeyboardInterrupt):
        train.train(config, state)
    assert not queue.is_done(COMMAND)
    assert queue.work(COMMAND) == 0
    assert queue.is_done(COMMAND)
    _, meta = checkpoint.read(state / "checkpoint")  # the newest, to be committed
    assert meta["generation"] == 24
    whole = train.train(config, tmp_path / "whole")
    found, _ = checkpoint.read(tmp_path / "runs" / "tiny" / "checkpoint")
    expected, _ = checkpoint.read(whole / "checkpoint")
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_ships_is_done(queue):
    walker = "python -m nca_lib.train --preset walk --out runs/walker"
    assert queue.is_done(walker)
    assert not queue.is_done(walker + " --seed 7")


def test_pause_stops_the_training_and_its_end_lets_it_go_on(queue, monkeypatch):
    pause, signals, states = queue.HERE / "PAUSE", [], iter([None, None, None, 0])
    pause.touch()
    child = SimpleNamespace(poll=states.__next__, send_signal=signals.append, returncode=0)
    monkeypatch.setattr(queue.subprocess, "Popen", lambda *arguments, **options: child)
    monkeypatch.setattr(queue.time, "sleep", lambda seconds: pause.unlink(missing_ok=True))
    assert queue.work("python train.py --out runs/x") == 0
    assert signals == [signal.SIGSTOP, signal.SIGCONT]


def test_every_command_of_the_queue_can_run(queue):
    text = Path(queue.__file__).with_name("queue.toml").read_text("utf-8")
    runs = queue.tomllib.loads(text)["run"]
    names = [queue.folder_of(run["command"]).name for run in runs]
    assert len(set(names)) == len(names) > 0
    for run in runs:
        assert train.parse(shlex.split(run["command"])[3:])[1]
        assert run["hours"] > 0
