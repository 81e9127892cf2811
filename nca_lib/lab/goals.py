"""Cells and goals that no gradient passes through, and two stand-ins for one (chapter 9).

What is decided here, by an if or by counting, has a derivative of zero wherever it has one.
Evolution does not ask for it. For backpropagation every decision can be replaced, in two ways:

- "straight": decide, and pretend on the way back that a smooth curve was followed instead (the
  straight-through estimator, Bengio, Leonard and Courville 2013).
- "soft": follow the smooth curve in both directions. What is trained then is another system, which
  has to be measured as the real one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from nca_lib.model import Array, State

SURROGATES = ("straight", "soft")
# Steepness of the curve that stands for a decision. It matters for both in other ways: a flat one
# passes more gradients, but in a soft rule it leaks, and what should be zero creeps up.
SLOPES = {"": 1.0, "straight": 5.0, "soft": 10.0}
LIFE_STEPS = 128  # how long Life is played
WORLD = 64  # side of its grid, in cells


def decide(
    hard: Float[Array, "*n"] | Bool[Array, "*n"], soft: Float[Array, "*n"], surrogate: str = ""
) -> Float[Array, "*n"]:
    """Choose between a decision and the smooth curve that stands for it, both of one shape.

    It has the value of `soft` for the surrogate "soft" and else of `hard`; the derivative of `soft`
    for both surrogates and else zero. Explained in chapter 9, "A decision has no slope".
    """
    if surrogate == "soft":
        return soft
    hard = jax.lax.stop_gradient(hard.astype(jnp.float32))
    return hard + (soft - jax.lax.stop_gradient(soft)) if surrogate == "straight" else hard


def bit(x: Float[Array, "*n"], surrogate: str = "") -> Float[Array, "*n"]:
    """Decide whether numbers are positive: 1 where they are and else 0; for "soft" in between.

    The curve is a sigmoid, as steep as `SLOPES` says. Explained in chapter 9, "Cells made of ifs".
    """
    return decide(x > 0, jax.nn.sigmoid(SLOPES[surrogate] * x), surrogate)


def hindmost(state: State, surrogate: str = "") -> Float[Array, ""]:
    """Measure how far to the right the whole body has walked, to be minimised.

    The body is where alpha is over one half. The last of its cells counts, so that it is not
    enough to grow to the right: whatever was on the left has to go. It is minus the number of
    columns between the start (W // 2) and the leftmost cell of the body; without a body W // 2.
    The curve of a surrogate is a soft minimum of columns, weighted by alpha.

    Explained in chapter 9, "Walk to the right".
    """
    alpha, half = state[..., -1], state.shape[1] // 2
    column = jnp.arange(state.shape[1], dtype=jnp.float32) - half
    body = alpha > 0.5
    last = jnp.where(body.any(), jnp.where(body, column, half).min(), -half)
    weight = jnp.maximum(alpha, 0).sum(axis=0)  # of each column
    softly = -jax.nn.logsumexp(jnp.log(weight + 1e-6) - column)
    there = 1 - jnp.exp(-3 * weight.sum())  # is there a body at all?
    softly = there * jnp.minimum(softly, half) - (1 - there) * half
    return -decide(last, softly, surrogate)


def life_step(grid: Float[Array, "H W"], surrogate: str = "") -> Float[Array, "H W"]:
    """Advance Conway's Life by one step: three neighbours give birth, two or three keep alive.

    A cell is 1 where it lives, else 0. Borders are joined, as on a torus. The curve of a surrogate
    has a bump at each number of neighbours that counts. Explained in chapter 9, "A goal inside a
    game".
    """
    rows = grid + jnp.roll(grid, 1, 0) + jnp.roll(grid, -1, 0)
    count = rows + jnp.roll(rows, 1, 1) + jnp.roll(rows, -1, 1) - grid

    def near(number):
        return jnp.exp(-jnp.square((count - number) / 0.5))

    soft = near(3) + near(2) * grid
    return decide((count == 3) | ((count == 2) & (grid > 0)), soft, surrogate)


def place(body: Float[Array, "h w"]) -> Float[Array, "n n"]:
    """Put a pattern in the middle of an empty grid; all sides are even.

    Explained in chapter 9, "A goal inside a game".
    """
    return jnp.pad(body, [((WORLD - side) // 2,) * 2 for side in body.shape])


def methuselah(state: State, surrogate: str = "") -> Float[Array, ""]:
    """Measure how much Conway's Life makes of how little, to be minimised.

    Small patterns that live long are known as methuselahs (Gardner 1970). The body is where alpha
    is over one half. It is minus the number of living cells for each cell of the body: the living
    averaged over the last quarter of `LIFE_STEPS` steps, the body with ten cells more, so that a
    chance find of three cells is not worth everything. Explained in chapter 9, "A goal inside a
    game".
    """

    def step(grid, _):
        grid = life_step(grid, surrogate)
        return grid, grid.sum()

    body = bit(state[..., -1] - 0.5, surrogate)
    _, living = jax.lax.scan(step, place(body), length=LIFE_STEPS)
    return -living[-LIFE_STEPS // 4 :].mean() / (body.sum() + 10)


# What can be judged besides the likeness to a target: state -> float32 scalar, lower is better.
GOALS = {"walk": hindmost, "life": methuselah}
