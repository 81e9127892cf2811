"""The loss, and above all the steps it covers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import random_model

from nca_lib.loss import empty_loss, mse, overflow_loss, window_loss
from nca_lib.model import seed_state
from nca_lib.rollout import fire_schedule, record

pytestmark = pytest.mark.usefixtures("strict_dtypes")

T, H, W, C = 9, 8, 8, 6
TARGET = jax.random.uniform(jax.random.key(5), (H, W, 4))


def error(state):
    return mse(state, TARGET)


@pytest.fixture(scope="module")
def grown():
    """A rule, its masks and all its states: chosen so that the loss differs at every step."""
    model = random_model(channels=C, hidden=9)
    fires = fire_schedule(jax.random.key(1), T, H, W)
    return model, fires, record(model, seed_state(H, W, C), fires)


def test_mse_by_hand():
    state = jnp.zeros((H, W, C)).at[..., 0].set(100.0)  # a hidden channel does not count
    np.testing.assert_allclose(mse(state, TARGET), np.mean(np.square(TARGET)), rtol=1e-6)
    np.testing.assert_allclose(empty_loss(TARGET), mse(state, TARGET), rtol=1e-6)
    assert mse(jnp.zeros((5, 2, H, W, C)), TARGET).shape == (5, 2)
    assert float(mse(state.at[..., -4:].set(TARGET), TARGET)) == 0.0


@pytest.mark.parametrize("window", [1, 3, T])
def test_the_window_is_the_last_steps_in_time(grown, window):
    model, fires, states = grown
    losses = np.asarray(mse(states, TARGET))
    assert len(np.unique(losses)) > window  # else the choice of steps could not be seen
    loss, state = window_loss(model, seed_state(H, W, C), fires, error, window)
    np.testing.assert_allclose(loss, losses[-window:].mean(), rtol=1e-5)
    np.testing.assert_allclose(state, states[-1], atol=1e-6)


def test_windows_and_targets_that_do_not_fit_are_refused(grown):
    model, fires, _ = grown
    for window in (0, -1, T + 1):
        with pytest.raises(ValueError, match=f"window must be .* 1 to {T}, got {window}"):
            window_loss(model, seed_state(H, W, C), fires, error, window)
    for shape in ((4,), (H, W, 3), (H, W + 1, 4)):
        with pytest.raises(ValueError, match=r"target must be \(8, 8, 4\), got"):
            mse(jnp.zeros((H, W, C)), jnp.zeros(shape))


def test_overflow_counts_what_is_beyond_the_limit_of_either_sign():
    state = jnp.zeros((3, H, W, C)).at[1, 0, 0, 0].set(5.0).at[1, 2, 3, C - 1].set(-3.0)
    expected = np.array([0.0, (3**2 + 1**2) / (H * W * C), 0.0])
    np.testing.assert_allclose(overflow_loss(state), expected, rtol=1e-6)
    assert float(overflow_loss(jnp.full((H, W, C), 2.0))) == 0.0
