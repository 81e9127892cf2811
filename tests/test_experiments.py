"""The scripts of `book/experiments` that train: tables are whole and can be made again; the queue.

What is begun goes on, what is done is passed over, PAUSE pauses.
"""

import csv
import json
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
from nca_lib.lab.config import read_config

FLAGS = "--preset smoke --size 6 --num-steps 6 --window 2 --population 4"
COMMAND = f"python -m nca_lib.train {FLAGS} --generations 24 --out runs/tiny"
study = load_script("book/experiments/study.py")
surrogates = load_script("book/experiments/surrogates.py")


def curves_of(path):
    """{run: [(spent, loss), ...]} of a table whose last two columns these are."""
    curves = {}
    for *run, spent, loss in [*csv.reader(path.read_text(encoding="utf-8").splitlines())][1:]:
        curves.setdefault(tuple(run), []).append((float(spent), float(loss)))
    return curves


# The recipe study of chapter 5


@pytest.fixture(scope="module")
def variants():
    return curves_of(study.FOLDER / "study.csv")


def test_every_variant_was_run_with_every_seed_at_equal_rollouts(variants):
    seeds = map(str, range(study.SEEDS))
    assert {*variants} == {(f, v, s) for s in seeds for f in study.STUDY for v in study.STUDY[f]}
    for (factor, value, _), points in variants.items():
        step = study.ROLLOUTS * (8 if factor == "first recipe" else 1) // study.POINTS
        population = study.STUDY[factor][value].get("population", study.DEFAULT.population)
        rollouts, losses = np.transpose(points)
        expected = step * np.arange(1, study.POINTS + 1)
        np.testing.assert_array_less(abs(rollouts - expected), population)
        assert (losses > 0).all() and (losses < 1).all()


def test_the_table_is_of_the_study_that_the_script_describes():
    about = json.loads((study.FOLDER / "study.json").read_text(encoding="utf-8"))
    assert about["study"] == json.loads(json.dumps(study.STUDY))
    assert read_config(about["default"]) == study.DEFAULT
    assert about["rollouts"] == study.ROLLOUTS


def test_a_variant_begins_as_the_table_says(variants):
    factor, value = "strategy", "OpenAI-ES, no pairs"
    (rollouts, loss), *_ = study.evolve_variant(study.STUDY[factor][value], seed=1, points=1)
    assert (rollouts, pytest.approx(loss, rel=1e-3)) == variants[factor, value, "1"][0]


# The races of chapter 9


@pytest.fixture(scope="module")
def races():
    return curves_of(surrogates.FILE)


def test_every_surrogate_had_the_time_of_the_run_it_raced(races):
    methods = [(name, f"{rate:g}") for name, rate in surrogates.METHODS]
    assert {*races} == {(p, *m, s) for p in surrogates.SHIPPED for m in methods for s in "012"}
    for (preset, *_, seed), points in races.items():
        seconds, losses = np.transpose(points)
        run = surrogates.evolved(preset, int(seed))
        assert run.config.seed == int(seed) and run.config.strategy == "pgpe"
        assert run.config.goal == surrogates.PRESETS[preset].goal
        assert (np.diff(seconds) > 0).all() and np.isfinite(losses).all()
        assert 0.7 * run.info["seconds"] < seconds[-1] < 1.2 * run.info["seconds"] + 1


@pytest.mark.parametrize("preset", ["walk", "life"])
def test_evolution_gets_where_no_surrogate_does(races, preset):
    ours = max(surrogates.evolved(preset, seed).info["loss"]["mean"] for seed in range(3))
    theirs = min(loss for run, points in races.items() if run[0] == preset for _, loss in points)
    assert ours < 1.1 * theirs < 0  # the worst seed, over fresh keys, against their best moment


def test_a_race_begins_as_the_table_says(races):
    found = surrogates.descend("life", "straight", 0.004, 0, limit=0.0)  # its first step alone
    # Another machine may round otherwise, and Life goes another way in some of the eight games.
    expected = races["life", "straight", "0.004", "0"][0][1]
    np.testing.assert_allclose(found[0][1], expected, rtol=0.5)


# The queue of trainings


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
    assert all(train.parse(shlex.split(run["command"])[3:])[1] for run in runs)
    assert all(run["hours"] > 0 for run in runs)
    assert len({queue.folder_of(run["command"]).name for run in runs}) == len(runs) > 0
