"""Run folders, shipped and own."""

import dataclasses
import datetime
import os
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from nca_lib import list_emoji, list_runs, load_emoji, load_run
from nca_lib.lab.config import PRESETS
from nca_lib.lab.healing import recover, wounds
from nca_lib.lab.loop import run, run_keys
from nca_lib.lab.machine import versions
from nca_lib.lab.task import initial_weights, make_task, make_trainer
from nca_lib.loss import empty_loss, mse
from nca_lib.train import parse


def decides(run):
    """Whether rounding can tip an if: then another machine or compiler may see another life."""
    return run.config.cells != "smooth" or run.config.goal != "target"


@pytest.mark.parametrize("name", list_runs())
def test_shipped_runs_recompute_their_own_loss(name):
    run = load_run(name)
    losses = run.evaluate(keys=run.info["loss"]["keys"])
    slack = 2 * run.info["loss"]["std"] if decides(run) else 0
    np.testing.assert_allclose(losses.mean(), run.info["loss"]["mean"], rtol=1e-4, atol=slack)
    assert parse(shlex.split(run.info["command"])[3:])[1] == run.config
    assert run.history["generation"][-1] == run.config.generations
    assert run.history["rollouts"][-1] == run.info["rollouts"]
    assert len(run.history["loss"]) <= 4_000
    for file in ("final.png", "growth.webp"):
        assert (run.folder / file).stat().st_size > 0


def some_of(names):
    """Three names, others every day; all of them under ALL_RUNS=1 (`make test-runs`)."""
    if os.environ.get("ALL_RUNS"):
        return names
    day = datetime.date.today().toordinal()
    return [names[(day * 3 + i) % len(names)] for i in range(3)]


@pytest.mark.parametrize("name", some_of(list_runs()))
def test_shipped_runs_begin_anew_as_their_history_says(name):
    shipped = load_run(name)
    # One generation of the reference takes half a minute.
    count = 1 if shipped.config.hidden >= 100 or decides(shipped) else 16
    task = make_task(shipped.config)
    trainer = strategy, _ = make_trainer(task)
    key, weights = run_keys(shipped.config.seed)[0], initial_weights(shipped.config, task.params)
    rows = [row for _, row in run(task, trainer, strategy.init(key, weights), range(1, count + 1))]
    # Another processor rounds otherwise. A start that is grown for thousands of steps makes much of
    # it, a pool a little, and another compiler, after a few generations, much too; where members of
    # a population explode, it decides how far, and so what is said of them all.
    is_same_compiler = versions()["jaxlib"] == shipped.info["versions"]["jaxlib"]
    is_alike = is_same_compiler and not shipped.config.age
    rtol_alike = 1e-2 if shipped.config.pool else 1e-4
    rtol = 0.2 if decides(shipped) else rtol_alike if is_alike else 0.3
    of_all = ("fitness_mean", "fitness_best", "fitness_std") if is_alike else ()
    for column in ("loss", *of_all):
        found = [row[column] for row in rows]
        np.testing.assert_allclose(found, shipped.history[column][:count], rtol=rtol)
    first = shipped.history["loss"][0]
    np.testing.assert_allclose(rows[0]["loss"], first, rtol=0.2 if decides(shipped) else 1e-3)


def test_the_lizard_is_a_lizard():
    run = load_run("lizard")
    assert run.config.emoji == "🦎"
    assert run.evaluate(keys=8).mean() <= 0.0030
    assert empty_loss(run.target) > 0.05
    history = run.history
    assert history["rollouts"][history["loss"] <= 0.0056][0] <= 800_000


def test_the_persistent_lizard_outlives_its_training():
    run = load_run("lizard-persistent")
    once, *longer = (run.evaluate(keys=8, factor=factor).mean() for factor in (1, 4, 16))
    assert once <= 0.012
    assert max(longer) <= 1.5 * once


def test_every_loss_after_a_wound_is_that_of_a_life_in_a_python_loop():
    run, keys = load_run("lizard"), jax.random.split(jax.random.key(0), 2)
    losses = recover(run.task, run.params, keys, 5, wounds(run.config)["half at 90°"])
    key_grow, key_after = jax.random.split(keys[1])
    state, model = run.frames(key_grow)[-1], run.task.merge(run.params)
    state, looped = state.at[16:].set(0.0), []
    for fire in run.task.fires(key_after, 5):
        state = model(state, fire)
        looped.append(mse(state, run.target))
    grown = np.mean([run.task.loss(run.params, jax.random.split(key)[0]) for key in keys])
    np.testing.assert_allclose(losses[1] * grown, looped, rtol=1e-4)


def test_wounds_are_halves_a_disc_and_a_band():
    config = PRESETS["pocket"]
    shares = {name: float(erased.mean()) for name, erased in wounds(config).items()}
    disc, band = shares.pop("disc"), shares.pop("band")
    assert len(shares) == 8 and all(abs(share - 0.5) < 0.02 for share in shares.values())
    assert disc == pytest.approx(np.pi * 6**2 / 32**2, rel=0.1)
    assert band == pytest.approx(6 * 32 * np.sqrt(2) / 32**2, rel=0.15)


def test_the_regenerating_lizard_lasts_and_grows_back():
    run = load_run("lizard-regenerating")
    keys = jax.random.split(jax.random.key(0), 8)
    share = run.info["loss"]["mean"] / run.info["empty_loss"]  # of an empty grid
    heal = jax.jit(lambda mask: recover(run.task, run.params, keys, 3 * run.config.num_steps, mask))
    erased = wounds(run.config)
    for mask in ({"none": erased["disc"] & False} | erased).values():
        assert heal(mask)[:, -run.config.window :].mean() * share <= 0.45


EMOJI = [name for name in list_runs() if load_run(name).config.emoji not in ("", "🦎")]


@pytest.mark.parametrize("name", EMOJI)
def test_other_emoji_can_be_told_from_all_that_are_bundled(name):
    run = load_run(name)
    assert run.evaluate(keys=8).mean() <= 0.23 * empty_loss(run.target)
    grown = run.frames(jax.random.key(0))[-1]
    size, padding = run.config.size, run.config.padding
    losses = {e: float(mse(grown, load_emoji(e, size, padding))) for e in list_emoji()}
    nearest = min(losses, key=losses.get)  # a heart may or may not ask for colour by U+FE0F
    assert nearest.removesuffix("\ufe0f") == run.config.emoji.removesuffix("\ufe0f")


def test_the_lizard_of_gradients_is_of_the_same_task():
    run, evolved = load_run("lizard-backprop"), load_run("lizard")
    own = ("strategy", "population", "generations", "learning_rate", "learning_rate_end")
    same = {name: getattr(run.config, name) for name in own}
    assert dataclasses.replace(evolved.config, **same) == run.config
    assert run.evaluate(keys=8).mean() <= 0.0065


def test_unknown_runs_are_named_with_those_that_exist(tmp_path):
    for name in ("newt", tmp_path):
        with pytest.raises(ValueError, match=f"'{name}' is neither one of .*lizard.*run.json"):
            load_run(name)


def test_readme_tells_what_the_runs_say():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (?:evolution|backprop).*$", text, re.M)
    assert len(rows) >= 6
    for name in rows:
        run = load_run(name)
        info, empty = run.info, float(empty_loss(run.target))
        minutes = f"{info['seconds'] / 60:.1f}"
        cores = ", then ".join(re.findall(r"(\d+) x cpu", info["device"]))
        figures = f"{info['parameters']:,} | {info['rollouts']:,} | {minutes} | {cores}"
        figures += f" | {info['loss']['mean']:.4f} | {empty:.4f} |"
        assert re.search(rf"^\| {name} \| [^|]+ \| {re.escape(figures)}$", text, re.M), figures
