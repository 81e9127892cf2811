"""What is measured, and when (chapter 3)."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from nca_lib.model import NCA, Array, State, check, check_int
from nca_lib.rollout import Fires, grow, grow_and_measure


def mse(
    state: Float[Array, "*batch H W C"], target: Float[Array, "H W 4"]
) -> Float[Array, "*batch"]:
    """Mean squared error between a state's RGBA, its last four channels, and the target.

    The mean is over cells and channels. Explained in chapter 3, "One number for one moment".
    """
    shape = (*state.shape[-3:-1], 4)
    check(target.shape == shape, "target", target.shape, f"{shape}")  # else it might be broadcast
    return jnp.mean(jnp.square(state[..., -4:] - target), axis=(-3, -2, -1))


def empty_loss(target: Float[Array, "H W 4"]) -> Float[Array, ""]:
    """Loss of a grid with nothing on it: what a dead population scores.

    Explained in chapter 1, "The loss of an empty grid".
    """
    return jnp.mean(jnp.square(target))


def overflow_loss(state: Float[Array, "*batch H W C"]) -> Float[Array, "*batch"]:
    """Mean squared distance of a state's values from [-2, 2], hidden channels included.

    Added to a loss it keeps patterns from exploding: see chapter 3, "What nobody asked for".
    """
    beyond = jnp.maximum(jnp.abs(state) - 2.0, 0.0)
    return jnp.mean(jnp.square(beyond), axis=(-3, -2, -1))


def window_loss(
    model: NCA,
    state: State,
    fires: Fires,
    measure: Callable[[State], Float[Array, ""]],
    window: int,
    reach: int | None = None,
    overflow: float = 0.0,
) -> tuple[Float[Array, ""], State]:
    """Grow, and average a measure over the last `window` of T steps.

    The steps before the window are free: the pattern may take any path, so long as it arrives
    in time and stays until the end. `overflow` is the weight of `overflow_loss` beside the measure;
    for `reach` see `nca_lib.rollout.stages`. Explained in chapter 3, "A window in time".

    Returns:
        The loss, a float32 scalar, and the last state (H, W, C).

    Raises:
        ValueError: window outside 1 to T.
    """
    check_int("window", window, 1, len(fires))
    start = len(fires) - window
    state = grow(model, state, fires[:start], reach)
    reach = None if reach is None else reach + start

    def penalised(state):
        return measure(state) + (overflow * overflow_loss(state) if overflow else 0.0)

    state, total = grow_and_measure(model, state, fires[start:], penalised, reach)
    return total / window, state
