"""The pool of grown states: what is drawn from it, what begins anew, what goes back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_lib.lab.task import initial_weights, make_task, make_trainer
from nca_lib.pool import BATCH, draw_starts
from nca_lib.rollout import record
from nca_lib.train import PRESETS

POOL, COUNT = 256, 4
GROWN = dataclasses.replace(
    PRESETS["quick"], size=12, num_steps=12, population=4, init="lizard", pool=16, std=0.003
)


@pytest.fixture
def pool():
    """256 states, the brighter the later: the first is dead, the last explode or are not finite."""
    brightness = jnp.linspace(0.0, 1.0, POOL).at[-3:].set(jnp.array([1e3, jnp.nan, jnp.inf]))
    return jnp.broadcast_to(brightness[:, None, None, None], (POOL, 6, 6, 8))


def test_the_worst_of_a_batch_begins_anew(pool):
    seed, target = jnp.full((6, 6, 8), 7.0), jnp.zeros((6, 6, 4))
    places, starts = draw_starts(jax.random.key(0), pool, COUNT, seed, target, 0.0)
    assert len(set(places.tolist())) == COUNT
    assert (jnp.diff(places) < 0).all()  # the brightest is the worst here, and comes first
    np.testing.assert_array_equal(starts, pool[places].at[0].set(seed))
    places, starts = draw_starts(jax.random.key(0), pool, POOL, seed, target, 0.0)
    assert set(places[:3].tolist()) == {POOL - 3, POOL - 2, POOL - 1}
    assert (starts[jnp.array([0, 1, 2, -1])] == seed).all() and (starts[3:-1] <= 1).all()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.3, 45, 110), (1.0, 250, 255)])
def test_the_share_of_damaged_starts_is_what_was_asked_for(pool, share, low, high):
    pool, target = jnp.ones_like(pool), jnp.zeros((6, 6, 4))
    _, starts = draw_starts(jax.random.key(1), pool, POOL, pool[0], target, share)
    assert low <= (starts == 0).any(axis=(1, 2, 3)).sum() <= high
    assert (starts[0] == 1).all()  # a seed is never damaged


@pytest.fixture(scope="module")
def grown():
    """A task, weights that grow something, and a pool of sixteen states of a life."""
    task = make_task(GROWN)
    params = initial_weights(GROWN, task.params)
    states = record(task.merge(params), task.start, task.fires(jax.random.key(9), 15))
    return task, params, states


def test_a_generation_starts_from_the_pool_and_what_its_mean_grows_goes_back(grown):
    task, params, pool = grown
    prepare, seeds = jax.jit(task.prepare), 0
    live = jax.jit(lambda start, fires: record(task.merge(params), start, fires)[-1])
    for key in jax.random.split(jax.random.key(0), 40):
        (start, fires), after = prepare(params, key, pool)
        changed = np.flatnonzero((after != pool).any((1, 2, 3)))
        assert len(changed) == 1
        fresh = (start == task.start).all()
        seeds += fresh
        assert fresh or (start == pool[changed[0]]).all()
        np.testing.assert_allclose(after[changed[0]], live(start, fires), atol=1e-5)
    assert 1 <= seeds <= 14  # one in eight, and those that are the pool's youngest


def test_evolution_carries_its_pool_along(grown):
    task, params, _ = grown
    strategy, evolve = make_trainer(task)
    first = strategy.init(jax.random.key(0), params)
    state, _ = evolve(first, jax.random.key(1), 0, 40)
    before, after = first.opt_state[-1], state.opt_state[-1]
    assert before.shape == after.shape == (16, *task.start.shape)
    changed = (after != np.asarray(task.start)).any((1, 2, 3))
    assert BATCH < changed.sum() <= 16
