"""Cells and goals that no gradient passes through, and two stand-ins for one (chapter 7).

What is decided here, by an if or by counting, has a derivative of zero wherever it has one.
Evolution does not ask for it. For backpropagation every decision can be replaced, in two ways:

- "straight": decide, and pretend on the way back that a smooth curve was followed instead (the
  straight-through estimator, Bengio, Leonard and Courville 2013).
- "soft": follow the smooth curve in both directions. What is trained then is another system, which
  has to be measured as the real one.
"""

import jax
import jax.numpy as jnp

from nca_lib.model import check_size, check_state

SURROGATES = ("straight", "soft")
# Steepness of the curve that stands for a decision. It matters for both in other ways: a flat one
# passes more gradients, but in a soft rule it leaks, and what should be zero creeps up.
SLOPES = {"": 1.0, "straight": 5.0, "soft": 10.0}
LIFE_STEPS = 128  # how long Life is played
WORLD = 64  # side of its grid, in cells


def decide(hard: jax.Array, soft: jax.Array, surrogate: str = "") -> jax.Array:
    """Choose between a decision and the smooth curve that stands for it.

    Explained in chapter 7, "A decision has no slope".

    Args:
        hard: what is decided, any shape.
        soft: the curve, of the same shape.
        surrogate: "" for the decision alone, "straight" or "soft".

    Returns:
        float32, the value of `soft` for "soft" and else of `hard`; the derivative of `soft` for
        both surrogates and else zero.

    Raises:
        ValueError: an unknown surrogate, or two shapes.
    """
    if surrogate not in SLOPES or jnp.shape(hard) != jnp.shape(soft):
        raise ValueError(
            f"surrogate must be one of {(*SLOPES,)}, got {surrogate!r}; hard and soft of one "
            f"shape, got {jnp.shape(hard)} and {jnp.shape(soft)}"
        )
    if surrogate == "soft":
        return soft
    hard = jax.lax.stop_gradient(hard.astype(jnp.float32))
    return hard + (soft - jax.lax.stop_gradient(soft)) if surrogate == "straight" else hard


def bit(x: jax.Array, surrogate: str = "") -> jax.Array:
    """Decide whether numbers are positive.

    Explained in chapter 7, "Cells made of ifs".

    Args:
        x: float32, any shape.
        surrogate: see `decide`; the curve is a sigmoid, as steep as `SLOPES` says.

    Returns:
        float32 of the same shape, 1 where x is positive and else 0; for "soft" in between.

    Raises:
        ValueError: an unknown surrogate.
    """
    return decide(x > 0, jax.nn.sigmoid(SLOPES.get(surrogate, 1.0) * x), surrogate)


def hindmost(state: jax.Array, surrogate: str = "") -> jax.Array:
    """Measure how far to the right the whole body has walked.

    The body is where alpha is over one half. The last of its cells counts, so that it is not
    enough to grow to the right: whatever was on the left has to go.

    Explained in chapter 7, "Walk to the right".

    Args:
        state: (H, W, C) float32.
        surrogate: see `decide`; the curve is a soft minimum of columns, weighted by alpha.

    Returns:
        float32 scalar, minus the number of columns between the start (W // 2) and the leftmost cell
        of the body, to be minimised. Without a body W // 2.

    Raises:
        ValueError: the state has another shape, or an unknown surrogate.
    """
    check_state(state)
    alpha, half = state[..., -1], state.shape[1] // 2
    column = jnp.arange(state.shape[1]) - half
    body = alpha > 0.5
    last = jnp.where(body.any(), jnp.where(body, column, half).min(), -half)
    weight = jnp.maximum(alpha, 0).sum(axis=0)  # of each column
    softly = -jax.nn.logsumexp(jnp.log(weight + 1e-6) - column)
    there = 1 - jnp.exp(-3 * weight.sum())  # is there a body at all?
    softly = there * jnp.minimum(softly, half) - (1 - there) * half
    return -decide(last, softly, surrogate)


def life_step(grid: jax.Array, surrogate: str = "") -> jax.Array:
    """Advance Conway's Life by one step: three neighbours give birth, two or three keep alive.

    Explained in chapter 7, "A goal inside a game".

    Args:
        grid: (H, W) float32, 1 where a cell lives, else 0. Borders are joined, as on a torus.
        surrogate: see `decide`; the curve has a bump at each number of neighbours that counts.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: the grid has another number of axes, or an unknown surrogate.
    """
    if len(grid.shape) != 2:
        raise ValueError(f"grid must be (H, W), got {grid.shape}")
    rows = grid + jnp.roll(grid, 1, 0) + jnp.roll(grid, -1, 0)
    count = rows + jnp.roll(rows, 1, 1) + jnp.roll(rows, -1, 1) - grid

    def near(number):
        return jnp.exp(-jnp.square((count - number) / 0.5))

    soft = near(3) + near(2) * grid
    return decide((count == 3) | ((count == 2) & (grid > 0)), soft, surrogate)


def place(body: jax.Array, size: int = WORLD) -> jax.Array:
    """Put a pattern in the middle of an empty grid.

    Explained in chapter 7, "A goal inside a game".

    Args:
        body: (H, W) float32, H and W even.
        size: side of the grid in cells, even, at least H and W.

    Returns:
        (size, size) float32.

    Raises:
        ValueError: the body does not fit, or the grid is larger than `nca_lib.model.MAX_ELEMENTS`.
    """
    check_size(size, size)
    if len(body.shape) != 2 or max(body.shape) > size:
        raise ValueError(f"body must be (H, W), at most {size} wide and high, got {body.shape}")
    height, width = body.shape
    above, left = (size - height) // 2, (size - width) // 2
    return jnp.zeros((size, size)).at[above : above + height, left : left + width].set(body)


def methuselah(state: jax.Array, surrogate: str = "") -> jax.Array:
    """Measure how much Conway's Life makes of how little.

    Small patterns that live long are known as methuselahs (Gardner 1970).

    Explained in chapter 7, "A goal inside a game".

    Args:
        state: (H, W, C) float32, at most `WORLD` wide and high; the body is where alpha is over
            one half.
        surrogate: see `decide`.

    Returns:
        float32 scalar, minus the number of living cells for each cell of the body, to be
        minimised. The living are averaged over the last quarter of `LIFE_STEPS` steps; ten cells
        are added to the body, so that a chance find of three cells is not worth everything.

    Raises:
        ValueError: the state has another shape or is too large, or an unknown surrogate.
    """
    check_state(state)

    def step(grid, _):
        grid = life_step(grid, surrogate)
        return grid, grid.sum()

    body = bit(state[..., -1] - 0.5, surrogate)
    _, living = jax.lax.scan(step, place(body), length=LIFE_STEPS)
    return -living[-LIFE_STEPS // 4 :].mean() / (body.sum() + 10)


# What can be judged besides the likeness to a target: state -> float32 scalar, lower is better.
GOALS = {"walk": hindmost, "life": methuselah}
