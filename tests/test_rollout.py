"""Scans against Python loops, and the two kinds of fire mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_model import random_model

from nca_lib import rollout
from nca_lib.model import seed_state
from nca_lib.rollout import MASKS, damage, disc, fire_schedule, grow, grow_and_measure, half, record

pytestmark = pytest.mark.usefixtures("strict_dtypes")

T, H, W, C = 7, 8, 10, 6
KEY = jax.random.key(1)


@pytest.mark.parametrize("mask", MASKS)
def test_scans_equal_a_python_loop(mask):
    model, start = random_model(channels=C, hidden=9), seed_state(H, W, C)
    fires, states = fire_schedule(KEY, T, H, W, mask), [start]
    for fire in fires:
        states.append(model(states[-1], fire))
    states = jnp.stack(states)
    assert float(jnp.abs(states[-1]).max()) > 0.1
    np.testing.assert_allclose(record(model, start, fires), states, atol=1e-5)
    last, total = grow_and_measure(model, start, fires, lambda state: jnp.sum(state**2))
    np.testing.assert_allclose(last, states[-1], atol=1e-5)
    np.testing.assert_allclose(total, jnp.sum(states[1:] ** 2), rtol=1e-5)
    assert jnp.array_equal(grow(model, start, fires), last)
    assert jnp.array_equal(grow(model, start, fires[:0]), start)
    assert jnp.array_equal(record(model, start, fires[:0]), start[None])


@pytest.mark.parametrize(
    ("shape", "mask"), [((24, 20), "paired"), ((13, 16), "paired"), ((16, 16), "bernoulli")]
)
def test_cropping_to_the_reach_of_the_seed_changes_nothing(shape, mask):
    model = random_model(channels=C, hidden=9)
    model.output.bias[...] = jnp.full(C, 0.5)  # every cell that may live comes alive at once
    start, fires = seed_state(*shape, C), fire_schedule(KEY, 12, *shape, mask)
    assert len(rollout.stages(*shape, 12, reach=0)) > 2
    whole, total = grow_and_measure(model, start, fires, lambda state: jnp.mean(state**2))
    alive = np.argwhere(whole[..., -1] > 0.1)
    assert np.abs(alive - np.array(shape) // 2).max() >= min(shape) // 2 - 1  # the front arrived
    last, summed = grow_and_measure(model, start, fires, lambda state: jnp.mean(state**2), reach=0)
    np.testing.assert_allclose(last, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(summed, total, rtol=1e-5)
    two_parts = grow(model, grow(model, start, fires[:3], reach=0), fires[3:], reach=3)
    np.testing.assert_allclose(two_parts, whole, rtol=1e-5, atol=1e-6)


def test_cropping_changes_nothing_for_any_rule():
    """Some rules let a cell outside of what lives decide whether a neighbour survives."""
    graph, params, rest = nnx.split(random_model(channels=8, hidden=16), nnx.Param, ...)
    start = seed_state(16, 16, 8)

    def difference(key):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves) + 1)
        draw = [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
        model = nnx.merge(graph, jax.tree.unflatten(structure, draw), rest)
        fires = fire_schedule(keys[-1], 5, 16, 16)
        whole = grow(model, start, fires)
        return jnp.abs(grow(model, start, fires, reach=0) - whole).max(), jnp.abs(whole).max()

    keys = jax.random.split(jax.random.key(0), 600)
    apart, size = jax.jit(lambda keys: jax.lax.map(difference, keys))(keys)
    assert float((size > 0).mean()) > 0.5  # many of them grow
    assert float(jnp.max(apart - 1e-5 * size)) <= 0


@pytest.mark.parametrize("mask", MASKS)
def test_every_cell_fires_half_of_the_time(mask):
    steps = 2_000
    fires = fire_schedule(KEY, steps, H, W, mask)
    assert jnp.array_equal(fires, fire_schedule(KEY, steps, H, W, mask))
    assert not jnp.array_equal(fires, fire_schedule(jax.random.key(2), steps, H, W, mask))
    counts = np.asarray(fires.sum(0)).ravel()
    if mask == "paired":  # exactly one of each two
        assert jnp.array_equal(fires // 2, jnp.tile(jnp.arange(H * W // 2), (steps, 1)))
        counts = np.bincount(np.asarray(fires).ravel(), minlength=H * W)
    # Binomial: five standard deviations of steps / 2 on each of the 80 cells.
    assert np.abs(counts - steps / 2).max() < 5 * np.sqrt(steps) / 2


def test_what_cannot_be_is_refused():
    for num_steps in (-1, 2.5, None):
        with pytest.raises(ValueError, match=f"num_steps must be .* got {num_steps}"):
            fire_schedule(KEY, num_steps, H, W)
    with pytest.raises(ValueError, match="mask must be one of .* got 'dropout'"):
        fire_schedule(KEY, 2, H, W, "dropout")
    with pytest.raises(ValueError, match="cells must be even .* got 35"):
        fire_schedule(KEY, 2, 5, 7, "paired")


def test_halves_and_discs_by_hand():
    assert jnp.array_equal(half(H, W, 0.0), jnp.tile(jnp.arange(W) >= W // 2, (H, 1)))
    lower = jnp.tile(jnp.arange(H)[:, None] >= H // 2, (1, W))
    assert jnp.array_equal(half(H, W, jnp.pi / 2), lower)
    assert jnp.array_equal(half(H, W, -jnp.pi / 2), ~lower)
    assert int(half(H, W, 0.0, offset=2.0).sum()) == H * (W // 2 - 2)
    spot = np.argwhere(disc(H, W, 3.5, 4.5, 1)).tolist()
    assert spot == [[2, 4], [3, 3], [3, 4], [3, 5], [4, 4]]


def test_damage_erases_a_part_and_leaves_the_rest():
    keys = jax.random.split(KEY, 60)
    hurt = np.asarray(jax.jit(jax.vmap(damage, (0, None)))(keys, jnp.ones((16, 16, C))))
    assert set(np.unique(hurt)) == {0, 1} and (hurt == hurt[..., :1]).all()
    erased = (hurt[..., 0] == 0).mean((1, 2))
    assert erased.min() > 0.02 and erased.max() < 0.65
    assert 10 < (erased > 0.3).sum() < 50
