"""The cell rule, whole, in reading order: see, think, fire, live (chapter 2).

A neural cellular automaton (NCA) is a grid of cells, each holding a short vector of numbers.
In one step every cell looks at its eight neighbours, passes what it sees through a small network
that all cells share, and, if it happens to fire, adds the result to itself. Cells without a
living neighbour are set to zero. The rule follows "Growing Neural Cellular Automata" (Mordvintsev,
Randazzo, Niklasson, Levin, Distill 2020).

A state is an array of shape (H, W, C), float32. Its last four channels are red, green, blue and
alpha, with alpha the very last; the first C - 4 are hidden. Values are nominally in [0, 1] for
RGBA and unbounded for the rest; nothing clips them.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Integer

Array = jax.Array | np.ndarray
State = Float[Array, "H W C"]
Scalar = float | int | Float[Array, ""]

# What a cell sees of its 3 x 3 neighbourhood, for each channel: (3, 3, K), K = 3 kernels.
# Identity, and the two Sobel derivatives d/dy and d/dx, scaled so that |weights| sum to one.
# They are constants, not nnx.Param: "trainable" then simply means nnx.Param.
SMOOTH, DIFF = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
IDENTITY = np.outer([0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
KERNELS = np.stack([IDENTITY, np.outer(DIFF, SMOOTH) / 8, np.outer(SMOOTH, DIFF) / 8], axis=-1)
KERNELS = KERNELS.astype(np.float32)

# How the two dense layers compute: the dtype of their operands, and XLA's precision for products.
PRECISIONS = {
    "float32": (None, "highest"),
    "tf32": (None, "high"),  # on NVIDIA GPUs since 2020: 10 bits of mantissa instead of 23
    "bfloat16": (jnp.bfloat16, None),  # 7 bits
}

#: Most numbers in one array, half a gigabyte. More is a slip of the hand.
MAX_ELEMENTS = 2**27

# Activations of the hidden layer computed at once. Of a larger product a CPU's matrix library keeps
# finished pieces queued until the call ends, 5 kB a step: memory would grow with the steps.
BLOCK = 2**16


def seed_state(height: int, width: int, channels: int) -> State:
    """Make the state that everything grows from: one cell with alpha 1 in an empty grid.

    It is (H, W, C) float32, zero but for alpha at (H // 2, W // 2). A ValueError names sizes that
    are no grid of at least four channels. Explained in chapter 2, "A grid of cells".
    """
    check_size(height, width, channels)
    check_int("channels", channels, 4)  # RGBA
    state = jnp.zeros((height, width, channels), jnp.float32)
    return state.at[height // 2, width // 2, -1].set(1.0)


def check(fine: object, name: str, value: object, expected: str) -> None:
    """Refuse a value with a ValueError that names it, unless it is fine."""
    if not fine:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_int(name: str, value: object, low: int, high: int = MAX_ELEMENTS) -> None:
    """Refuse what is no int from `low` to `high`; NumPy's are ints, too."""
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    check(is_int and low <= value <= high, name, value, f"an int from {low} to {high}")


def check_size(*sizes: int) -> None:
    """Refuse a size that no grid can have, or none that fits in memory: a ValueError names it."""
    whole = all(isinstance(n, int | np.integer) and n >= 1 for n in sizes)
    fine = whole and math.prod(map(int, sizes)) <= MAX_ELEMENTS
    check(fine, "sizes", sizes, f"at least 1 x 1 cells, and {MAX_ELEMENTS} numbers at most")


def perceive(state: State, kernels: Float[Array, "3 3 K"] = KERNELS) -> Float[Array, "H W KC"]:
    """Let every cell see its neighbourhood through fixed 3 x 3 kernels.

    Each kernel is applied to each channel alike (a cross-correlation); beyond the border everything
    is zero. Of (H, W, C) float32 it gives (H, W, K * C): all channels through the first kernel,
    then through the second, and so on. Explained in chapter 2, "See".
    """
    height, width, _ = state.shape
    padded = jnp.pad(state, ((1, 1), (1, 1), (0, 0)))
    shifted = {
        (i, j): padded[i : i + height, j : j + width] for i in range(3) for j in range(3)
    }  # nine views of the grid: on a CPU, sums of these beat a convolution many times over
    views = [
        sum(float(kernel[ij]) * view for ij, view in shifted.items() if kernel[ij] != 0)
        for kernel in np.moveaxis(kernels, -1, 0)
    ]
    return jnp.concatenate(views, axis=-1)


def living_mask(state: State, threshold: float = 0.1) -> Bool[Array, "H W 1"]:
    """Find the cells that are alive or have a living neighbour.

    True where the largest alpha (the last channel) in the 3 x 3 neighbourhood exceeds the
    threshold. Explained in chapter 2, "Live".
    """
    alpha = jnp.pad(state[..., -1], 1)
    tallest = jnp.maximum(jnp.maximum(alpha[:-2], alpha[1:-1]), alpha[2:])
    tallest = jnp.maximum(jnp.maximum(tallest[:, :-2], tallest[:, 1:-1]), tallest[:, 2:])
    return (tallest > threshold)[..., None]


class NCA(nnx.Module):
    """The network that every cell runs, and one step of the whole grid.

    Two dense layers, shared by all cells: 3C -> hidden -> C. The last one starts at zero, so that
    an untrained rule leaves the grid as it is. Explained in chapter 2, "One whole step".

    Args:
        channels: C, at least 4 (RGBA).
        hidden: width of the hidden layer.
        step_size: factor on every update. 1 as in Distill; 2 reproduces the inverted dropout of
            the CAX notebook, which doubles the updates it keeps.
        alive_threshold: see `living_mask`.
        precision: of the dense layers, "float32", "tf32" or "bfloat16"; the state is always
            float32. On a CPU "tf32" is float32. See appendix A1, "Fewer bits".
        activation: of the hidden layer.
        post_step: what becomes of a cell's numbers after each update; nothing by default. Cells
            that do not fire pass through it as well. See chapter 9, "Cells made of ifs".
        rngs: source of the initial weights of the hidden layer (LeCun normal).

    Raises:
        ValueError: channels under 4, hidden under 1, more weights than `MAX_ELEMENTS`, or an
            unknown precision.

    Example:
        >>> model = NCA(channels=8, hidden=32, rngs=nnx.Rngs(0))
        >>> state = seed_state(32, 32, 8)
        >>> model(state, jnp.ones((32, 32), bool)).shape
        (32, 32, 8)
    """

    def __init__(
        self,
        channels: int = 16,
        hidden: int = 128,
        *,
        step_size: float = 1.0,
        alive_threshold: float = 0.1,
        precision: str = "float32",
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        post_step: Callable[[jax.Array], jax.Array] = lambda state: state,
        rngs: nnx.Rngs,
    ):
        check_int("channels", channels, 4)  # RGBA
        check_int("hidden", hidden, 1, MAX_ELEMENTS // (4 * int(channels)))
        check(precision in (*PRECISIONS,), "precision", precision, f"one of {(*PRECISIONS,)}")
        dtype, product = PRECISIONS[precision]
        options = {"dtype": dtype, "precision": product, "rngs": rngs}
        zeros = nnx.initializers.zeros
        self.hidden = nnx.Linear(KERNELS.shape[-1] * channels, hidden, **options)
        self.output = nnx.Linear(hidden, channels, kernel_init=zeros, **options)
        self.step_size = step_size
        self.alive_threshold = alive_threshold
        self.activation = activation
        self.post_step = post_step

    def update(self, perception: Float[Array, "*cells seen"]) -> Float[Array, "*cells C"]:
        """Think: compute what a cell adds to itself. Explained in chapter 2, "Think"."""
        rows = perception.reshape(-1, perception.shape[-1])
        blocks = jnp.array_split(rows, max(1, -(-len(rows) * self.output.in_features // BLOCK)))
        update = jnp.concatenate(
            [self.output(self.activation(self.hidden(block))) for block in blocks]
        )
        update = update.astype(jnp.float32).reshape(*perception.shape[:-1], update.shape[-1])
        return self.step_size * update

    def __call__(self, state: State, fire: Bool[Array, "H W"] | Integer[Array, " N"]) -> State:
        """Advance the grid by one step: see, think, fire, live.

        Args:
            state: (H, W, C) float32.
            fire: which cells update, in one of two forms: a mask (H, W) bool, or the ascending
                flat indices (N,) int32 of the cells that do. With indices only those cells are
                computed, which halves the work at a fire rate of one half.

        Returns:
            (H, W, C) float32, the next state.

        Raises:
            ValueError: fire has another shape or dtype.
        """
        is_mask = fire.dtype == bool
        is_list = fire.ndim == 1 and fire.dtype.kind == "i"
        wanted = f"a bool mask {state.shape[:2]} or int indices (N,)"
        fine = fire.shape == state.shape[:2] if is_mask else is_list
        check(fine, "fire", f"{fire.dtype} {fire.shape}", wanted)
        alive = living_mask(state, self.alive_threshold)
        perception = perceive(state)  # (H, W, 3C)
        if is_mask:
            state = state + jnp.where(fire[..., None], self.update(perception), 0.0)
        else:
            cells = state.reshape(-1, state.shape[-1])  # (H * W, C)
            update = self.update(perception.reshape(len(cells), -1)[fire])  # (N, C)
            cells = cells.at[fire].add(update, indices_are_sorted=True, unique_indices=True)
            state = cells.reshape(state.shape)
        state = self.post_step(state)
        alive &= living_mask(state, self.alive_threshold)  # alive before and after
        return jnp.where(alive, state, 0.0)
