"""The trainer: run folders, exact resume, the command line, and what it refuses."""

import csv
import dataclasses
import json
import math
import signal
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from nca_lib import evolution, train
from nca_lib.evolution import make_evolve
from nca_lib.lab import checkpoint
from nca_lib.lab.loop import check_alive, log_points
from nca_lib.lab.machine import (
    describe_device,
    describe_machine,
    free_memory,
    memory_needed,
    plan_chunk,
)
from nca_lib.lab.runs import HISTORY, begin, continue_from, load_run
from nca_lib.lab.task import make_measure, make_strategy, make_task
from nca_lib.loss import growth_loss, mse, overflow_loss
from nca_lib.rollout import record
from nca_lib.train import PRESETS, Config, main

TINY = dataclasses.replace(
    PRESETS["smoke"], size=6, num_steps=6, window=2, population=8, generations=30, log_every=7
)


def read_history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def ctrl_c():
    """Make SIGINT raise KeyboardInterrupt, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run of 30 generations."""
    return train.train(TINY, tmp_path_factory.mktemp("runs") / "whole", command="the command")


def test_a_run_folder_is_complete(finished):
    info = json.loads((finished / "run.json").read_text())
    assert Config(**info["config"]) == TINY
    assert info["command"] == "the command"
    assert info["parameters"] == 1_064
    assert info["rollouts"] == 30 * 8
    assert info["seconds"] > 0
    assert info["versions"]["jax"] == jax.__version__
    assert "cpu" in info["device"].lower()
    assert 0 < info["loss"]["mean"] < 1
    rows = read_history(finished)
    assert list(rows[0]) == HISTORY
    assert [int(row["generation"]) for row in rows] == [*range(1, 17), 21, 28, 30]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert np.load(finished / "weights.npz", allow_pickle=False)["hidden.kernel"].shape == (24, 32)
    with Image.open(finished / "growth.webp") as clip, Image.open(finished / "final.png") as still:
        assert clip.n_frames > 1
        assert clip.size == still.size == (60, 60)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "pgpe", "std": 0.03, "learning_rate": 0.5},
        {"strategy": "whitened", "std": 0.03, "learning_rate": 0.5},
        {"strategy": "backprop", "population": 2, "age": 1},
    ],
    ids=["open_es", "pgpe", "whitened", "backprop"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    changes, tmp_path, ctrl_c, monkeypatch
):
    monkeypatch.setattr(evolution, "LOOK", 4)  # generation 11 lies between two looks

    def interrupt(row):
        if row["generation"] == 11:
            ctrl_c()

    config = dataclasses.replace(TINY, **changes)
    whole = train.train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train.train(config, tmp_path / "cut", callback=interrupt)
    assert not (tmp_path / "cut" / "run.json").exists()
    cut = train.train(config, tmp_path / "cut", resume=True)
    for a, b in zip(
        checkpoint.read(whole / "checkpoint")[0],
        checkpoint.read(cut / "checkpoint")[0],
        strict=True,
    ):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(read_history(whole), read_history(cut), strict=True):
        assert {**a, "seconds": ""} == {**b, "seconds": ""}
    assert (whole / "growth.webp").read_bytes() == (cut / "growth.webp").read_bytes()
    stds = json.loads((whole / "run.json").read_text())["std"]
    assert (
        len({f"{std:.6f}" for std in stds.values()})
        == {"open_es": 1, "pgpe": 4, "whitened": 4, "backprop": 0}[config.strategy]
    )


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, ctrl_c):
    def interrupt(row):
        ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, tmp_path / "run", callback=interrupt, command="python -m x --out run")
    assert "generation 1. To go on: python -m x --out run --resume" in capsys.readouterr().out


def test_a_finished_run_can_be_made_longer(finished, tmp_path):
    folder = tmp_path / "longer"
    train.train(TINY, folder)
    longer = dataclasses.replace(TINY, generations=34)
    train.train(longer, folder, resume=True)
    rows = [int(row["generation"]) for row in read_history(folder)]
    assert rows == [*range(1, 17), 21, 28, 30, 34]
    before = (folder / "run.json").stat().st_mtime_ns
    train.train(longer, folder, resume=True)  # complete already: nothing to do
    assert (folder / "run.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="generations is 30 here, in the checkpoint 34; it may"):
        train.train(TINY, folder, resume=True)


def test_a_folder_is_not_overwritten_by_mistake(finished):
    before = (finished / "run.json").read_bytes()
    with pytest.raises(ValueError, match="holds a run already"):
        train.train(TINY, finished)
    with pytest.raises(ValueError, match="holds a run already"):  # has no checkpoint
        train.train(TINY, load_run("lizard").folder)
    assert (finished / "run.json").read_bytes() == before


def test_an_interrupted_end_is_made_up_for(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):

        def full(*arguments, **options):
            raise OSError("disk full")

        patch.setattr(train.render, "save_clip", full)
        patch.setattr(keeper, "DELAYS", ())
        train.train(TINY, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    train.train(TINY, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.json").exists()


def test_a_folder_that_cannot_be_written_is_noticed_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileExistsError):
        train.train(TINY, tmp_path / "file", callback=lambda row: pytest.fail("it trained"))
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("std", 0.5), ("emoji", "⭐")])
def test_another_configuration_cannot_resume(finished, name, value):
    other = dataclasses.replace(TINY, **{name: value})
    with pytest.raises(ValueError, match=f"cannot resume: {name} is {value!r} here, "):
        train.train(other, finished, resume=True)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in .*new to resume"):
        train.train(TINY, tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def saved_by(config=TINY, **changes):
    """What the checkpoint of a run tells, at generation 2."""
    rows = [[number, number * 8, 0.5, 0.02, 0.02, 0.02, 0.0, 0] for number in (1, 2)]
    told = {"generation": 2, "seconds": 0.5, "history": rows}
    return begin(make_task(config)) | told | changes


def test_progress_is_taken_over(capsys):
    meta = begin(make_task(TINY))
    assert continue_from(saved_by(), meta) == saved_by()
    old = {key: value for key, value in saved_by().items() if key not in ("target", "devices")}
    assert continue_from(old, meta) == saved_by()  # format 1 does not tell
    assert capsys.readouterr().out == ""


def test_other_devices_are_told(capsys):
    meta = begin(make_task(TINY))
    found = continue_from(saved_by(devices=["8 x TPU"]), meta)
    assert found["devices"] == ["8 x TPU", describe_device()]
    assert "The checkpoint is from 8 x TPU, and this is " in capsys.readouterr().out


def test_another_picture_of_the_same_emoji_cannot_resume():
    with pytest.raises(ValueError, match="cannot resume: the target's picture is not the"):
        continue_from(saved_by(target="0" * 64), begin(make_task(TINY)))


@pytest.mark.parametrize(
    "saved",
    [
        {},
        [],
        None,
        {"generation": 2, "config": {}, "seconds": 1.0},
        {"config": {"wings": 2}, "generation": 2, "seconds": 1.0, "history": []},
    ],
)
def test_a_checkpoint_of_something_else_cannot_resume(saved):
    with pytest.raises(ValueError, match="the checkpoint is not one of a training"):
        continue_from(saved, begin(make_task(TINY)))


@pytest.mark.parametrize(
    "changes",
    [
        {"history": []},
        {"history": [[2, 1]]},
        {"history": saved_by()["history"][::-1]},
        {"history": saved_by()["history"] * 2},
        {"generation": 3},
        {"generation": "2"},
        {"seconds": "long"},
        {"seconds": None},
        {"devices": []},
        {"devices": 7},
    ],
)
def test_a_history_with_a_gap_or_a_double_line_cannot_resume(changes):
    with pytest.raises(ValueError, match="the checkpoint is not one of a training"):
        continue_from(saved_by() | changes, begin(make_task(TINY)))


def test_a_folder_in_use_is_left_alone(tmp_path):
    with keeper.Keeper(tmp_path / "run"), pytest.raises(ValueError, match="is in use"):
        train.train(TINY, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_only_the_previous_checkpoint_is_left(tmp_path, ctrl_c):
    def interrupt(row):
        if row["generation"] == 11:
            ctrl_c()

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, folder, callback=interrupt, checkpoint_seconds=0)
    (folder / "checkpoint").unlink()  # as a crash between two renames leaves it
    with pytest.raises(ValueError, match="holds a run already"):
        train.train(TINY, folder)
    train.train(TINY, folder, resume=True)
    assert (folder / "run.json").exists()


def test_signals_are_obeyed_as_ctrl_c_is(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(train, "train", lambda *a, **k: signal.raise_signal(signal.SIGTERM))
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        train.obey_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup wants it
        assert main(arguments(tmp_path / "run")) == 128 + signal.SIGTERM
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)


def test_same_seed_same_history_and_another_seed_another(finished, tmp_path):
    again = train.train(TINY, tmp_path / "again")
    other = train.train(dataclasses.replace(TINY, seed=1), tmp_path / "other")

    def losses(folder):
        return [row["loss"] for row in read_history(folder)]

    assert losses(again) == losses(finished) != losses(other)


def test_it_learns():
    task = make_task(PRESETS["smoke"])
    strategy = make_strategy(task.config, task.params)
    state = strategy.init(jax.random.key(0), task.params)
    keys = jax.random.split(jax.random.key(2), 8)
    measure = make_measure(task)
    before = measure(strategy.mean(state), keys).mean()
    state, _ = make_evolve(strategy, task.loss)(state, jax.random.key(1), 0, 60)
    assert measure(strategy.mean(state), keys).mean() < 0.8 * before


def test_without_age_every_start_is_the_seed():
    task, key = make_task(TINY), jax.random.key(4)
    start, fires = task.prepare(task.params, key)
    assert np.array_equal(start, task.start) and np.array_equal(fires, task.fires(key))
    np.testing.assert_allclose(
        task.fitness(task.params, (start, fires)), task.loss(task.params, key)
    )


AGED = dataclasses.replace(TINY, age=40, damage=0.5, overflow=0.1)


def test_aged_starts_are_grown_by_the_mean_and_some_are_damaged(finished):
    params, keys = load_run(finished).params, jax.random.split(jax.random.key(0), 200)

    def starts(**fields):
        task = make_task(dataclasses.replace(AGED, **fields))
        return np.asarray(jax.jit(jax.vmap(lambda key: task.prepare(params, key)[0]))(keys))

    seed, whole = make_task(AGED).start, starts(damage=0.0)
    fresh = (whole == seed).all((1, 2, 3))
    assert 40 < fresh.sum() < 95  # a third
    # A younger limit changes how old the others are, and nothing else.
    young = starts(damage=0.0, age=1)
    assert ((young == seed).all((1, 2, 3)) == fresh).mean() > 0.9
    once = np.abs(young[~fresh] - seed).max((1, 2, 3)).max()
    assert 0 < once < np.abs(whole[~fresh] - seed).max((1, 2, 3)).max()
    hurt = starts()
    changed = (hurt != whole).any((1, 2, 3))
    assert not changed[fresh].any()
    assert 0.25 < changed[~fresh].mean() <= 0.6  # half, but for holes where nothing was
    assert (starts(damage=1.0) != whole).any((1, 2, 3))[~fresh].mean() > changed[~fresh].mean()


def test_fitness_of_an_aged_start_sees_the_whole_grid_and_the_overflow(finished):
    task, params = make_task(AGED), load_run(finished).params
    start = jax.random.uniform(jax.random.key(2), task.start.shape, minval=-3.0, maxval=3.0)
    luck = start, task.fires(jax.random.key(3))
    model = task.merge(params)
    states = record(model, *luck)[-TINY.window :]
    expected = (mse(states, jax.numpy.asarray(task.target)) + 0.1 * overflow_loss(states)).mean()
    np.testing.assert_allclose(task.fitness(params, luck), expected, rtol=1e-5)
    assert expected > growth_loss(model, *luck, task.target, TINY.window)[0]


def test_starts_that_exploded_or_died_are_replaced_by_the_seed():
    task = make_task(dataclasses.replace(AGED, damage=0.0))
    keys = jax.random.split(jax.random.key(0), 20)
    for value in (1e30, 0.5, -1.0):  # not finite, huge, dead
        params = jax.tree.map(lambda leaf, v=value: jax.numpy.full_like(leaf, v), task.params)
        start = jax.vmap(lambda key, p=params: task.prepare(p, key)[0])(keys)
        assert np.abs(start).max() < 100 and (start[..., -1].max((1, 2)) > 0.1).all()


def test_a_run_may_start_from_another(finished, tmp_path):
    config = dataclasses.replace(TINY, generations=1, init=str(finished), learning_rate=1e-9)
    out = train.train(config, tmp_path / "more")
    before, after = load_run(finished).params, load_run(out).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), before, after)
    with pytest.raises(ValueError, match="init must be a shipped run or a run folder, got 'newt'"):
        train.train(dataclasses.replace(config, init="newt"), tmp_path / "none")
    with pytest.raises(ValueError, match="weights have shapes"):
        train.train(dataclasses.replace(config, hidden=4), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_histories_stay_short_when_a_run_is_made_longer(monkeypatch):
    assert log_points(dataclasses.replace(TINY, generations=7_800, log_every=1), 0)[16:18] == [
        18,
        20,
    ]


def test_only_a_config_is_a_config(tmp_path):
    with pytest.raises(ValueError, match="config must be a Config such as .* got 'pocket'"):
        train.train("pocket", tmp_path / "run")


def test_death_is_reported_at_once(tmp_path):
    deadly = dataclasses.replace(PRESETS["smoke"], std=0.1, learning_rate=0.1)
    with pytest.raises(RuntimeError, match="most members died .* Lower std, learning_rate"):
        train.train(deadly, tmp_path / "dead")
    assert not (tmp_path / "dead" / "run.json").exists()


def test_explosion_is_reported_at_once(tmp_path):
    wild = dataclasses.replace(TINY, std=5.0, step_size=1e6)
    with pytest.raises(FloatingPointError, match="not finite.* Lower std, learning_rate"):
        train.train(wild, tmp_path / "wild")


def test_dead_and_exploded_populations_are_told_apart():
    healthy = {"nonfinite": 4, "fitness_median": 0.04, "tied": 8}
    check_alive(healthy, population=8, dead_loss=0.05, generation=3)
    with pytest.raises(FloatingPointError, match="generation 3: 5 of 8 members are not finite"):
        check_alive(healthy | {"nonfinite": 5}, population=8, dead_loss=0.05, generation=3)
    dead = healthy | {"fitness_median": 0.05, "tied": 5}
    with pytest.raises(RuntimeError, match="generation 3: most members died"):
        check_alive(dead, population=8, dead_loss=0.05, generation=3)
    check_alive(dead | {"tied": 4}, population=8, dead_loss=0.05, generation=3)  # by chance


@pytest.mark.parametrize("sizes", [(8, 32), (12, 40), (16, 128)])
def test_members_start_as_far_from_the_mean_in_a_network_of_any_size(sizes):
    config = dataclasses.replace(PRESETS["pocket"], channels=sizes[0], hidden=sizes[1])
    task = make_task(config)
    strategy = make_strategy(config, task.params)
    std = jax.tree.leaves(strategy.std(strategy.init(jax.random.key(0), task.params)))
    length = math.sqrt(sum(float((leaf**2).sum()) for leaf in std))
    assert length == pytest.approx(config.std * math.sqrt(1064), rel=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_their_histories_fit(preset):
    VALIDATE(PRESETS[preset])
    points = log_points(PRESETS[preset], 0)
    assert points[:16] == list(range(1, 17))
    assert points[-1] == PRESETS[preset].generations
    assert len(points) <= 4_000


def test_memory_is_estimated_and_refused_before_compiling(tmp_path, monkeypatch):
    pocket, reference = PRESETS["pocket"], PRESETS["reference"]
    assert free_memory() > memory_needed(reference, 1)
    assert plan_chunk(pocket) == 1  # on a CPU
    assert plan_chunk(pocket, 16) == 16
    with pytest.raises(ValueError, match="chunk must be 1 to 32 .* got 33"):
        plan_chunk(pocket, 33)
    monkeypatch.setattr(train, "free_memory", lambda: 5e8)
    with pytest.raises(
        ValueError, match=r"chunk of 256 .* needs about .* a chunk of \d+ would fit"
    ):
        plan_chunk(reference, 256)
    fitting = plan_chunk(reference, 100)
    assert memory_needed(reference, fitting) < 5e8
    monkeypatch.setattr(train, "free_memory", lambda: 1e6)
    with pytest.raises(ValueError, match="lower the population"):
        train.train(reference, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mask", ["paired", "bernoulli"])
@pytest.mark.parametrize("chunk", [1, 8])
def test_memory_estimate_covers_what_the_compiler_asks_for(mask, chunk):
    config = dataclasses.replace(TINY, size=24, mask=mask, population=16, hidden=64)
    task = make_task(config)

    def evaluate(population, key):
        return jax.lax.map(lambda p: task.loss(p, key), population, batch_size=chunk)

    population = jax.tree.map(lambda x: np.stack([x] * 16), task.params)
    compiled = jax.jit(evaluate).lower(population, jax.random.key(0)).compile()
    asked = compiled.memory_analysis().temp_size_in_bytes
    estimate = memory_needed(config, chunk)
    assert estimate / 10 < asked < estimate  # an upper bound; compilers fuse much of it away


def test_log_points_thin_out_and_resume():
    long = dataclasses.replace(TINY, generations=1_000_000, log_every=1)
    assert len(log_points(long, 0)) <= 4_000
    assert log_points(TINY, 21) == [28, 30]


BAD = {
    "emoji": [7, "", "ab"],
    "size": [0, -2, 12.0, True, 7, 10_000],
    "padding": [-1, 1.5],
    "premultiply": [1, "true"],
    "channels": [3, 0],
    "hidden": [0],
    "step_size": [0.0, -1.0, math.nan, math.inf, "1"],
    "alive_threshold": [-0.1, 1.0, math.nan],
    "mask": ["dropout", ""],
    "precision": ["float16", ""],
    "num_steps": [0, -3],
    "window": [0, 7],
    "population": [0, 7, -2],
    "strategy": ["cma", "", 7],
    "std": [0.0, -0.1, math.inf],
    "std_rate": [-0.1, math.nan],
    "learning_rate": [0.0, -1.0],
    "learning_rate_end": [-0.1],
    "generations": [0],
    "init": [7, "newt"],
    "age": [-1, 1.5],
    "damage": [-0.1, 1.1, 0.5],  # the last needs an age
    "overflow": [-1.0, math.inf],
    "log_every": [0],
    "seed": [-1, 0.5, 2**32],
    "cells": ["wet", "", True],
    "goal": ["run", "", "walk"],  # the last has no emoji
    "surrogate": ["straight", "no"],  # for evolution
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_bad_fields_are_named_before_anything_is_written(name, value, tmp_path):
    with pytest.raises(ValueError, match=name):
        train.train(dataclasses.replace(TINY, **{name: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_field_has_a_bad_example():
    assert set(BAD) == {field.name for field in dataclasses.fields(Config)}


def arguments(folder, *more):
    tiny = "--size 6 --num-steps 6 --window 2 --population 8 --generations 18 --log-every 7".split()
    return ["--preset", "smoke", "--out", str(folder), *tiny, *more]


def test_command_line(tmp_path, capsys):
    folder = tmp_path / "a run"
    assert main(arguments(folder, "--learning-rate", "0.02", "--premultiply", "false")) == 0
    info = json.loads((folder / "run.json").read_text())
    assert info["config"]["learning_rate"] == 0.02
    assert info["config"]["premultiply"] is False
    assert info["config"]["std"] == PRESETS["smoke"].std
    assert info["command"].startswith("python -m nca_lib.train --preset smoke --out '")
    assert main(arguments(folder)) == 2
    assert "error: " in capsys.readouterr().err
    more = ["--learning-rate", "0.02", "--premultiply", "false", "--generations", "20"]
    assert main(arguments(folder, *more, "--resume")) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "0"], "size must be an int from 1 to 512, got 0"),
        (["--num-steps", "1000000000000"], "num_steps must be 1 to 1000000, got 1000000000000"),
        (["--out", ""], "--out must name a folder"),
        (["--population", "7"], "population must be even"),
        (["--std", "nan"], "std must be a finite float, got nan"),
        (["--emoji", "lizard"], "exactly one emoji, got 'lizard'"),
        (["--resume"], "No such file"),
    ],
)
def test_command_line_errors_are_one_line(more, message, tmp_path, capsys):
    assert main(arguments(tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "more",
    [
        ["--size", "big"],
        ["--premultiply", "maybe"],
        ["--preset", "huge"],
        ["--sise", "8"],
        ["--gen", "9"],
    ],
)
def test_command_line_refuses_what_it_cannot_read(more, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments(tmp_path / "run", *more))
    assert exit_info.value.code == 2
    assert more[0] in capsys.readouterr().err


def test_a_machine_is_described_and_colab_told_of_its_gpus(monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    text = describe_machine()
    assert f"jax {jax.__version__}, " in text.replace("\n", " ")
    assert text.endswith(f"\non {describe_device()}")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    told = describe_machine()
    assert told.startswith(f"{text}\nNo GPU.")
    assert "Runtime > Change runtime type" in told.replace("\n", " ")
    assert max(map(len, told.splitlines())) < 80
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert describe_machine() == text
