"""Many steps in a row: a scan over time that keeps only what is asked for (chapter 3).

Which cells fire at which step is drawn beforehand and passed in, so that every member of a
population can be grown with the same luck and differ by its weights alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32, Key

from nca_lib.model import NCA, Array, Scalar, State, check, check_int, check_size

MASKS = ("paired", "bernoulli")
EVEN = np.float32(0.5)  # a bare 0.5 would draw other numbers where JAX makes 64 bits
Fires = Int32[Array, "T N"] | Bool[Array, "T H W"]


def fire_schedule(
    key: Key[Array, ""], num_steps: int, height: int, width: int, mask: str = "paired"
) -> Fires:
    """Draw which cells fire at each step; every cell fires half of the time.

    "paired" takes the cells two by two and lets exactly one of each pair fire. The number of
    firing cells is then fixed, so only they need computing; their indices come out sorted.
    "bernoulli" tosses a coin for each cell, as Distill does. Explained in chapter 2, "Fire".

    Args:
        key: random key.
        num_steps: T, number of steps.
        height: H, in cells.
        width: W, in cells; H * W must be even for "paired".
        mask: "paired" or "bernoulli".

    Returns:
        (T, H * W / 2) int32 indices for "paired", (T, H, W) bool for "bernoulli".

    Raises:
        ValueError: num_steps negative, unknown mask, "paired" on an odd number of cells, or a
            schedule larger than `nca_lib.model.MAX_ELEMENTS`.
    """
    check_int("num_steps", num_steps, 0)
    check_size(height, width, max(1, num_steps))
    check(mask in MASKS, "mask", mask, f"one of {MASKS}")
    if mask == "bernoulli":
        return jax.random.bernoulli(key, EVEN, (num_steps, height, width))
    check(height * width % 2 == 0, "cells", height * width, "even in number, for paired masks")
    first = jnp.arange(0, height * width, 2, dtype=jnp.int32)
    coin = jax.random.bernoulli(key, EVEN, (num_steps, len(first)))
    return first + coin.astype(jnp.int32)


def stages(
    height: int, width: int, num_steps: int, reach: int | None
) -> list[tuple[int, int, int]]:
    """Plan which part of the grid each step needs when growth starts in the centre.

    Life spreads by at most one cell a step, and whatever is not alive is zero. So the first steps
    can run on a small crop around the seed, exactly: one cell of room around all that may come
    alive suffices, since a cell's neighbours decide whether it lives. Every crop is a program of
    its own to compile, hence a few sizes and not one for each step.

    `reach` tells how far from the centre (H // 2, W // 2) a cell may be other than zero at the
    start; None if that is not known. For each stage the plan has its first step, the step after its
    last, and its margin, the number of cells left out on each side, which is even, so that no pair
    of cells is cut. Explained in appendix A1, "One change at a time".
    """
    radius = (min(height, width) - 1) // 2  # the nearest border, seen from the centre
    notch = max(2, radius // 4 + radius // 4 % 2)
    plan, step = [], 0
    if reach is not None and width % 2 == 0:  # else pairs go across the ends of rows
        for margin in range(radius // notch * notch, 0, -notch):
            until = min(num_steps, radius - 1 - margin - reach)
            if until > step:
                plan.append((step, until, margin))
                step = until
    return plan + [(step, num_steps, 0)] * (step < num_steps)


def _crop_fires(
    fires: Fires, width: int, margin: int
) -> Int32[Array, "T n"] | Bool[Array, "T h w"]:
    """Restrict a fire schedule to the grid without `margin` cells on each side (both even)."""
    if margin == 0:
        return fires
    if fires.dtype == bool:
        return fires[:, margin:-margin, margin:-margin]
    pairs = fires.reshape(len(fires), -1, width // 2)[:, margin:-margin, margin // 2 : -margin // 2]
    row, column = pairs // width - margin, pairs % width - margin
    return (row * (width - 2 * margin) + column).reshape(len(fires), -1)


def _check_fires(state: State, fires: Fires) -> None:
    """Refuse a schedule that was drawn for another grid: its indices would be lost in silence."""
    height, width, _ = state.shape
    cells = (height, width) if fires.dtype == bool else (height * width // 2,)
    wanted = f"a schedule for {height} x {width} cells"
    check(fires.shape[1:] == cells, "fires", f"{fires.dtype} {fires.shape}", wanted)


def grow_and_measure(
    model: NCA,
    state: State,
    fires: Fires,
    measure: Callable[[State], Float[Array, ""]],
    reach: int | None = None,
) -> tuple[State, Float[Array, ""]]:
    """Run the rule and sum a measure over the steps, without keeping the states.

    The sum rides in the scan's carry: memory does not grow with the number of steps. The start
    itself is not measured. `reach` (see `stages`; 0 for `seed_state`) saves work and changes
    results by rounding only. Explained in chapter 3, "Measure, do not keep".

    Returns:
        The last state (H, W, C) and the sum of `measure` over the T states after each step.

    Raises:
        ValueError: the fires are of another grid.
    """
    _check_fires(state, fires)
    height, width, _ = state.shape
    total = jnp.float32(0.0)
    for first, last, margin in stages(height, width, len(fires), reach):
        border = ((margin, margin), (margin, margin), (0, 0))

        def step(carry, fire, border=border):
            inner, total = carry
            inner = model(inner, fire)
            return (inner, total + measure(jnp.pad(inner, border))), None

        inner = state[margin : height - margin, margin : width - margin]
        schedule = _crop_fires(fires[first:last], width, margin)
        (inner, total), _ = jax.lax.scan(step, (inner, total), schedule)
        state = jnp.pad(inner, border)
    return state, total


def grow(model: NCA, state: State, fires: Fires, reach: int | None = None) -> State:
    """Run the rule for as many steps as `fires` is long and return the last state.

    See `grow_and_measure`. Explained in chapter 3, "Measure, do not keep".
    """
    return grow_and_measure(model, state, fires, lambda state: jnp.float32(0.0), reach)[0]


def record(model: NCA, state: State, fires: Fires) -> Float[Array, "states H W C"]:
    """Run the rule and keep every state, the first included: (T + 1, H, W, C) float32.

    A ValueError says that the fires are of another grid, or the record would be larger than
    `nca_lib.model.MAX_ELEMENTS`. Explained in chapter 3,
    "A rollout, step by step".
    """
    _check_fires(state, fires)
    check_size(len(fires) + 1, *state.shape)

    def step(state, fire):
        state = model(state, fire)
        return state, state

    return jnp.concatenate([state[None], jax.lax.scan(step, state, fires)[1]])


def half(height: int, width: int, angle: Scalar, offset: Scalar = 0.0) -> Bool[Array, "H W"]:
    """Mark the half of a grid on one side of a line.

    The angle, in radians, is the direction of the marked side: 0 the right half, pi / 2 the lower
    one. `offset` is the distance of the line from the centre, in cells. Explained in chapter 7,
    "Damage".
    """
    rows = jnp.arange(0.5, height, dtype=jnp.float32)[:, None] - height / 2  # middles of cells
    columns = jnp.arange(0.5, width, dtype=jnp.float32) - width / 2
    return jnp.sin(angle) * rows + jnp.cos(angle) * columns > offset


def disc(
    height: int, width: int, row: Scalar, column: Scalar, radius: Scalar
) -> Bool[Array, "H W"]:
    """Mark the cells whose middles are within a radius of a point, all in cells.

    The point is measured from the upper and the left edge. Explained in chapter 7, "Damage".
    """
    rows, columns = (jnp.arange(0.5, n, dtype=jnp.float32) for n in (height, width))
    return (rows[:, None] - row) ** 2 + (columns - column) ** 2 <= radius**2


def damage(key: Key[Array, ""], state: State) -> State:
    """Erase about half of a grid, or a disc of an eighth to a quarter of its side in radius.

    Explained in chapter 7, "Wounded starts".
    """
    height, width, _ = state.shape
    coin, angle, offset, radius, row, column = jax.random.uniform(key, (6,), jnp.float32)
    size = min(height, width)
    cut = half(height, width, 2 * jnp.pi * angle, size * (offset - 0.5) / 8)
    place = (0.25 + 0.5 * row) * height, (0.25 + 0.5 * column) * width
    hole = disc(height, width, *place, size * (1 + radius) / 8)
    return jnp.where(jnp.where(coin < 0.5, cut, hole)[..., None], 0.0, state)
