"""Scans against Python loops, and the two kinds of fire mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import random_model

from nca_lib.model import seed_state
from nca_lib.rollout import MASKS, fire_schedule, grow, grow_and_measure, record

pytestmark = pytest.mark.usefixtures("strict_dtypes")

T, H, W, C = 7, 8, 10, 6


@pytest.fixture(params=MASKS)
def fires(request):
    return fire_schedule(jax.random.key(1), T, H, W, request.param)


@pytest.fixture
def model():
    return random_model(channels=C, hidden=9)


def test_scan_equals_a_python_loop(model, fires):
    state = start = seed_state(H, W, C)
    states = [state]
    for fire in fires:
        state = model(state, fire)
        states.append(state)
    assert float(jnp.abs(state).max()) > 0.1
    np.testing.assert_allclose(record(model, start, fires), jnp.stack(states), atol=1e-5)
    np.testing.assert_allclose(grow(model, start, fires), state, atol=1e-5)


def test_measure_is_summed_over_the_states_after_each_step(model, fires):
    start = seed_state(H, W, C)
    last, total = grow_and_measure(model, start, fires, lambda state: jnp.sum(state**2))
    states = record(model, start, fires)
    np.testing.assert_allclose(last, states[-1], atol=1e-6)
    np.testing.assert_allclose(total, jnp.sum(states[1:] ** 2), rtol=1e-5)


def test_no_steps_is_no_change(model, fires):
    start = seed_state(H, W, C)
    assert jnp.array_equal(grow(model, start, fires[:0]), start)
    assert record(model, start, fires[:0]).shape == (1, H, W, C)


def test_memory_of_a_measured_rollout_does_not_grow_with_its_length(model):
    def temporary_bytes(num_steps):
        fires = fire_schedule(jax.random.key(0), num_steps, H, W)

        def measured(start, fires):
            return grow_and_measure(model, start, fires, jnp.sum)[1]

        compiled = jax.jit(measured).lower(seed_state(H, W, C), fires).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(400) == temporary_bytes(20) < 20 * H * W * C * 4


def test_paired_masks_fire_exactly_one_of_each_pair():
    fires = fire_schedule(jax.random.key(0), 200, H, W, "paired")
    assert fires.shape == (200, H * W // 2)
    assert fires.dtype == jnp.int32
    assert jnp.array_equal(fires // 2, jnp.broadcast_to(jnp.arange(H * W // 2), fires.shape))


@pytest.mark.parametrize("mask", MASKS)
def test_every_cell_fires_half_of_the_time(mask):
    steps = 2_000
    fires = fire_schedule(jax.random.key(0), steps, H, W, mask)
    if mask == "paired":
        counts = np.bincount(np.asarray(fires).ravel(), minlength=H * W)
    else:
        counts = np.asarray(fires.sum(0)).ravel()
    # Binomial: five standard deviations of steps / 2 on each of the 80 cells.
    assert np.abs(counts - steps / 2).max() < 5 * np.sqrt(steps) / 2


def test_steps_and_keys_give_different_masks():
    a = fire_schedule(jax.random.key(0), 2, H, W)
    assert not jnp.array_equal(a[0], a[1])
    assert not jnp.array_equal(a, fire_schedule(jax.random.key(1), 2, H, W))
    assert jnp.array_equal(a, fire_schedule(jax.random.key(0), 2, H, W))


@pytest.mark.parametrize("num_steps", [-1, 2.5, None])
def test_impossible_lengths_are_refused(num_steps):
    with pytest.raises(ValueError, match="num_steps must be an int of at least 0"):
        fire_schedule(jax.random.key(0), num_steps, H, W)


def test_unknown_masks_and_odd_grids_are_refused():
    with pytest.raises(ValueError, match="mask must be one of .* got 'dropout'"):
        fire_schedule(jax.random.key(0), 2, H, W, "dropout")
    with pytest.raises(ValueError, match="even number of cells, got 5 x 7"):
        fire_schedule(jax.random.key(0), 2, 5, 7, "paired")
    assert fire_schedule(jax.random.key(0), 2, 5, 7, "bernoulli").shape == (2, 5, 7)
