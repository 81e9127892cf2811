"""Many steps in a row: a scan over time that keeps only what is asked for (chapter 3).

Which cells fire at which step is drawn beforehand and passed in, so that every member of a
population can be grown with the same luck and differ by its weights alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nca_lib.model import NCA

MASKS = ("paired", "bernoulli")


def fire_schedule(
    key: jax.Array, num_steps: int, height: int, width: int, mask: str = "paired"
) -> jax.Array:
    """Draw which cells fire at each step; every cell fires half of the time (chapter 2).

    "paired" takes the cells two by two and lets exactly one of each pair fire. The number of
    firing cells is then fixed, so only they need computing; their indices come out sorted.
    "bernoulli" tosses a coin for each cell, as Distill does.

    Args:
        key: random key.
        num_steps: T, number of steps.
        height: H, in cells.
        width: W, in cells; H * W must be even for "paired".
        mask: "paired" or "bernoulli".

    Returns:
        (T, H * W / 2) int32 indices for "paired", (T, H, W) bool for "bernoulli".

    Raises:
        ValueError: num_steps negative, unknown mask, or "paired" on an odd number of cells.
    """
    if not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"num_steps must be an int of at least 0, got {num_steps!r}")
    if mask not in MASKS:
        raise ValueError(f"mask must be one of {MASKS}, got {mask!r}")
    if mask == "bernoulli":
        return jax.random.bernoulli(key, 0.5, (num_steps, height, width))
    if height * width % 2:
        raise ValueError(f"paired masks need an even number of cells, got {height} x {width}")
    first = jnp.arange(0, height * width, 2, dtype=jnp.int32)
    coin = jax.random.bernoulli(key, 0.5, (num_steps, len(first)))
    return first + coin.astype(jnp.int32)


def grow(model: NCA, state: jax.Array, fires: jax.Array) -> jax.Array:
    """Run the rule for as many steps as `fires` is long and return the last state.

    Args:
        model: the cell rule.
        state: (H, W, C) float32, where to start.
        fires: (T, ...), from `fire_schedule`; T may be zero.

    Returns:
        (H, W, C) float32.
    """
    return jax.lax.scan(lambda state, fire: (model(state, fire), None), state, fires)[0]


def grow_and_measure(
    model: NCA, state: jax.Array, fires: jax.Array, measure: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Run the rule and sum a measure over the steps, without keeping the states.

    The sum rides in the scan's carry: memory does not grow with the number of steps.

    Args:
        model: the cell rule.
        state: (H, W, C) float32, where to start; it is not measured itself.
        fires: (T, ...), from `fire_schedule`.
        measure: maps a state (H, W, C) to a float32 scalar.

    Returns:
        The last state (H, W, C) and the sum of `measure` over the T states after each step.
    """

    def step(carry, fire):
        state, total = carry
        state = model(state, fire)
        return (state, total + measure(state)), None

    return jax.lax.scan(step, (state, jnp.float32(0.0)), fires)[0]


def record(model: NCA, state: jax.Array, fires: jax.Array) -> jax.Array:
    """Run the rule and keep every state, the first included (chapter 5).

    Args:
        model: the cell rule.
        state: (H, W, C) float32, where to start.
        fires: (T, ...), from `fire_schedule`.

    Returns:
        (T + 1, H, W, C) float32.
    """

    def step(state, fire):
        state = model(state, fire)
        return state, state

    return jnp.concatenate([state[None], jax.lax.scan(step, state, fires)[1]])
