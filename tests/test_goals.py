"""Decisions, their stand-ins, and goals, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_lib.lab import goals
from nca_lib.lab.checkpoint import weights_to_arrays
from nca_lib.lab.config import PRESETS
from nca_lib.lab.loop import train
from nca_lib.lab.runs import load_run
from nca_lib.lab.task import make_task
from nca_lib.rollout import record


def body_of(rows):
    """A state (H, W, 4) whose alpha is drawn with # in lines of text."""
    alpha = np.array([[cell == "#" for cell in row] for row in rows], np.float32)
    return jnp.zeros((*alpha.shape, 4)).at[..., -1].set(alpha)


def test_a_bit_is_one_where_positive_and_its_curve_is_a_sigmoid():
    x = jnp.linspace(-2.0, 2.0, 9)
    np.testing.assert_array_equal(goals.bit(x), np.linspace(-2, 2, 9) > 0)
    np.testing.assert_array_equal(goals.bit(x, "straight"), goals.bit(x))
    sigmoid = 1 / (1 + np.exp(-goals.SLOPES["soft"] * np.linspace(-2, 2, 9)))
    np.testing.assert_allclose(goals.bit(x, "soft"), sigmoid, rtol=1e-5)


def test_hindmost_counts_columns_of_the_last_cell():
    ahead = body_of(["......", "....##", ".....#", "......"])  # the start is in column 3
    assert goals.hindmost(ahead) == -1
    assert goals.hindmost(ahead.at[3, 0, -1].set(0.6)) == 3  # one cell left behind
    assert goals.hindmost(ahead.at[3, 0, -1].set(0.5)) == -1  # not of the body
    assert goals.hindmost(jnp.zeros((4, 6, 4))) == 3  # no body: as if it were at the left border
    assert goals.hindmost(ahead, "straight") == -1
    softly = np.log(np.exp(-1) + 2 * np.exp(-2))  # one cell in the first column, two in the next
    np.testing.assert_allclose(goals.hindmost(ahead, "soft"), softly, atol=0.01)
    slope = jax.grad(lambda s: goals.hindmost(s, "soft"))(ahead)
    assert (slope[:, :4, -1] > 0).all() and (slope[..., :-1] == 0).all()  # less there is better


def numpy_life(grid):
    """Conway's rules, on windows of three by three."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(grid, 1, mode="wrap"), (3, 3))
    count = windows.sum(axis=(2, 3)) - grid
    return ((count == 3) | ((count == 2) & (grid == 1))).astype(np.float32)


@pytest.mark.parametrize("surrogate", ["", "straight"])
def test_life_equals_its_rules(surrogate):
    grid = np.random.default_rng(0).integers(0, 2, (9, 12)).astype(np.float32)
    for _ in range(4):
        following = goals.life_step(jnp.asarray(grid), surrogate)
        np.testing.assert_array_equal(following, numpy_life(grid))
        grid = np.asarray(following)
    assert grid.any()


def test_soft_life_is_near_life_and_has_a_slope():
    grid = jnp.asarray(np.random.default_rng(1).integers(0, 2, (8, 8)), jnp.float32)
    np.testing.assert_allclose(goals.life_step(grid, "soft"), goals.life_step(grid), atol=0.05)
    for surrogate, moves in (("", False), ("straight", True), ("soft", True)):
        slope = jax.grad(lambda g, s=surrogate: goals.life_step(g, s).sum())(grid)
        assert bool(jnp.any(slope != 0)) == moves


def test_digital_cells_hold_bits_and_decide():
    config = dataclasses.replace(PRESETS["walk"], size=8, channels=6, hidden=5)
    task = make_task(config)
    keys = iter(jax.random.split(jax.random.key(0), 4))
    params = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), task.params)
    model = task.merge(params)
    states = record(model, task.start, task.fires(jax.random.key(2), 8))
    assert set(np.unique(np.asarray(states))) == {0, 1}
    x = jax.random.normal(jax.random.key(1), (7, 18))
    w = {k: np.asarray(v) for k, v in weights_to_arrays(params).items()}
    units = np.asarray(x) @ w["hidden.kernel"] + w["hidden.bias"] > 0  # ifs
    expected = units @ w["output.kernel"] + w["output.bias"]
    np.testing.assert_allclose(model.update(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("surrogate", ["", *goals.SURROGATES])
def test_only_stand_ins_have_a_slope(surrogate):
    slope = jax.grad(lambda x: goals.bit(x, surrogate))(0.1)
    s = 1 / (1 + np.exp(-0.1 * goals.SLOPES[surrogate]))
    expected = goals.SLOPES[surrogate] * s * (1 - s) if surrogate else 0.0
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.mark.parametrize("surrogate", ["", *goals.SURROGATES])
def test_stand_ins_reach_cells_and_goal(surrogate):
    task = make_task(dataclasses.replace(PRESETS["walk"], size=8, num_steps=4, window=1), surrogate)
    noise = 0.1 * jax.random.normal(jax.random.key(0), task.params["output"]["kernel"].shape)
    task.params["output"]["kernel"][...] = noise
    loss = jax.grad(lambda params: task.loss(params, jax.random.key(1)))
    slopes = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(loss(task.params))]
    assert (min(slopes) > 0) if surrogate else (max(slopes) == 0)


def test_methuselah_counts_what_life_makes_of_a_body():
    # The R-pentomino: five cells, still busy after 128 steps.
    body = body_of(["....", "..##", ".##.", "..#."])
    grid, living = np.array(goals.place(body[..., -1])), []
    assert grid.shape == (64, 64) and (grid[30:34, 30:34] == body[..., -1]).all()
    for _ in range(goals.LIFE_STEPS):
        grid = numpy_life(grid)
        living.append(grid.sum())
    expected = -np.mean(living[-goals.LIFE_STEPS // 4 :]) / (5 + 10)
    for surrogate in ("", "straight"):
        np.testing.assert_allclose(goals.methuselah(body, surrogate), expected, rtol=1e-6)
    assert goals.methuselah(jnp.zeros((4, 4, 4))) == 0


def test_training_by_a_stand_in_is_measured_without_it(tmp_path):
    small = {"size": 8, "channels": 5, "hidden": 4, "num_steps": 6, "window": 2, "generations": 2}
    taught = {"strategy": "backprop", "population": 2, "surrogate": "soft", "learning_rate": 0.1}
    config = dataclasses.replace(PRESETS["walk"], **small, **taught)
    run = load_run(train(config, tmp_path / "run"))
    assert run.config == config
    assert run.info["empty_loss"] == 8
    assert set(np.unique(np.asarray(run.frames(jax.random.key(0))))) <= {0, 1}
    measured = run.evaluate(keys=2)
    assert (measured * 2 == np.round(measured * 2)).all()  # whole columns, over two steps
