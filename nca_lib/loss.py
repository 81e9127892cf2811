"""What is measured, and when (chapter 3)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nca_lib.model import NCA, check_state
from nca_lib.rollout import grow, grow_and_measure


def mse(state: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error between a state's RGBA and the target, over cells and channels.

    Explained in chapter 3, "One number for one moment".

    Args:
        state: (..., H, W, C) float32; the last four channels are RGBA.
        target: (H, W, 4) float32 in [0, 1].

    Returns:
        (...) float32.

    Raises:
        ValueError: the state has another shape, or the target another than the state's RGBA.
    """
    check_state(state, batched=True)
    if target.shape != (*state.shape[-3:-1], 4):
        raise ValueError(f"target must be {(*state.shape[-3:-1], 4)}, got {target.shape}")
    return jnp.mean(jnp.square(state[..., -4:] - target), axis=(-3, -2, -1))


def empty_loss(target: jax.Array) -> jax.Array:
    """Loss of a grid with nothing on it: what a dead population scores.

    Explained in chapter 1, "The loss of an empty grid".

    Args:
        target: (H, W, 4) float32 in [0, 1].

    Returns:
        float32 scalar.

    Raises:
        ValueError: the target has another shape.
    """
    if len(target.shape) != 3 or target.shape[-1] != 4:
        raise ValueError(f"target must be (H, W, 4), got {target.shape}")
    return jnp.mean(jnp.square(target))


def overflow_loss(state: jax.Array, limit: float = 2.0) -> jax.Array:
    """Mean squared distance of a state's values from [-limit, limit], hidden channels included.

    Added to a loss it keeps patterns from exploding: see chapter 3, "What nobody asked for".

    Args:
        state: (..., H, W, C) float32.
        limit: values up to it, of either sign, are free.

    Returns:
        (...) float32.

    Raises:
        ValueError: the state has another shape.
    """
    check_state(state, channels=1, batched=True)
    beyond = jnp.maximum(jnp.abs(state) - limit, 0.0)
    return jnp.mean(jnp.square(beyond), axis=(-3, -2, -1))


def window_loss(
    model: NCA,
    state: jax.Array,
    fires: jax.Array,
    measure: Callable[[jax.Array], jax.Array],
    window: int,
    reach: int | None = None,
    overflow: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Grow, and average a measure over the last `window` steps.

    The steps before the window are free: the pattern may take any path, so long as it arrives
    in time and stays until the end.

    Explained in chapter 3, "A window in time".

    Args:
        model: the cell rule.
        state: (H, W, C) float32, usually `seed_state`.
        fires: (T, ...), from `fire_schedule`.
        measure: maps a state to a float32 scalar, lower is better.
        window: number of steps measured, 1 to T.
        reach: see `nca_lib.rollout.stages`; 0 for `seed_state`.
        overflow: weight of `overflow_loss` beside the measure.

    Returns:
        The loss, a float32 scalar, and the last state (H, W, C).

    Raises:
        ValueError: window outside 1 to T.
    """
    if not isinstance(window, int) or not 1 <= window <= len(fires):
        raise ValueError(f"window must be 1 to {len(fires)} (the number of steps), got {window!r}")
    start = len(fires) - window
    state = grow(model, state, fires[:start], reach)
    reach = None if reach is None else reach + start

    def penalised(state):
        return measure(state) + (overflow * overflow_loss(state) if overflow else 0.0)

    state, total = grow_and_measure(model, state, fires[start:], penalised, reach)
    return total / window, state


def growth_loss(
    model: NCA,
    state: jax.Array,
    fires: jax.Array,
    target: jax.Array,
    window: int,
    reach: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Grow towards a target: `window_loss` of the mean squared error.

    Explained in chapter 3, "A window in time".

    Args:
        model: the cell rule.
        state: (H, W, C) float32, usually `seed_state`.
        fires: (T, ...), from `fire_schedule`.
        target: (H, W, 4) float32 in [0, 1].
        window: number of steps measured, 1 to T.
        reach: see `nca_lib.rollout.stages`; 0 for `seed_state`.

    Returns:
        The loss, a float32 scalar, and the last state (H, W, C).

    Raises:
        ValueError: window outside 1 to T.
    """
    return window_loss(model, state, fires, lambda state: mse(state, target), window, reach)
