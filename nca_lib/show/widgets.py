"""Knobs to turn in a notebook: what a setting does, seen at once (chapters 1 to 5).

Each function takes its data and returns an ipywidgets box, to be the last value of a cell. What the
library refuses leaves the library's message in the box. A static page has no kernel to answer:
under the environment variable NCA_BOOK, which the build of the book sets, each function returns a
picture of itself instead. Where the variable holds the address of a folder of notebooks, the
picture has a link to its chapter there.
"""

import functools
import math
from collections.abc import Callable, Sequence

import ipywidgets
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from IPython.display import HTML
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nca_lib.lab import images
from nca_lib.lab.runs import Run
from nca_lib.loss import empty_loss, mse
from nca_lib.model import KERNELS, NCA, living_mask, perceive
from nca_lib.rollout import disc, half, record
from nca_lib.show import figures
from nca_lib.show.knobs import (
    explorer,
    figure_of,
    heat,
    is_static,
    pictures_of,
    still,
    table_of,
)
from nca_lib.target import list_emoji, load_emoji

KERNEL_NAMES = ("identity", "Sobel y", "Sobel x")
LAPLACIAN = np.array([[1, 2, 1], [2, -12, 2], [1, 2, 1]], np.float32) / 24


def target_explorer(emoji: Sequence[str] | None = None) -> ipywidgets.Widget | HTML:
    """See what becomes of an emoji on the way to a target.

    Explained in chapter 1, "All of it at once".

    Args:
        emoji: the choice; default those that are bundled. Any other can be typed.

    Returns:
        Target and channel planes, with knobs for emoji, size, padding, alpha and background.

    Raises:
        ValueError: emoji is not a list of some.
    """
    emoji = list_emoji() if emoji is None else emoji
    if not isinstance(emoji, list | tuple) or not emoji:
        raise ValueError(f"emoji must be a list of some, got {emoji!r}")
    grounds = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "checks": None}

    def draw(emoji, another, size, padding, alpha, background):
        premultiply = alpha == "premultiplied"
        target = load_emoji(another.strip() or emoji, size, padding, premultiply)
        ground = grounds[background] or images.checkerboard(*target.shape[:2])
        pixels = np.rint(255 * target).astype(np.uint8)
        planes = [np.repeat(pixels[..., k : k + 1], 3, axis=-1) for k in range(4)]
        titles = [f"target {target.shape}, empty grid {empty_loss(target):.4f}", *"RGB", "alpha"]
        return pictures_of([images.to_rgb(target, ground, premultiply), *planes], titles, 150)

    alphas = ["premultiplied", "straight"]
    knobs = dict(emoji=(emoji[0], list(emoji)), another=("", str), size=(24, (8, 96, 1)))
    knobs |= dict(padding=(4, (0, 24, 1)), alpha=(alphas[0], alphas))
    return explorer(draw, "01_dataset", **knobs, background=("white", list(grounds)))


def perception_explorer(state: ArrayLike) -> ipywidgets.Widget | HTML:
    """See a state as its cells do: one channel through a kernel that can be turned.

    Explained in chapter 2, "See".

    Args:
        state: (H, W, C) float32, a grown one.

    Returns:
        Channel, response and kernel, with knobs for channel, kernel and rotation in degrees (the
        two Sobel kernels turn together; the others have no direction).

    Raises:
        ValueError: the state has another number of axes, or fewer than four channels.
    """
    state, names = _check_state(state)
    identity, down, right = np.moveaxis(KERNELS, -1, 0)

    def draw(channel, kernel, rotation):
        cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
        turned = (identity, cos * down + sin * right, cos * right - sin * down, LAPLACIAN)
        weights = dict(zip((*KERNEL_NAMES, "Laplacian"), turned, strict=True))[kernel]
        plane = state[..., names.index(channel)]
        seen = np.asarray(perceive(plane[..., None], weights[..., None])[..., 0])
        titles = [f"channel {channel}", f"seen through {kernel}, turned by {rotation}°"]
        pictures = pictures_of([heat(plane), heat(seen)], titles, 200)
        return pictures + table_of(weights, "the kernel (orange below zero, purple above)")

    knobs = dict(channel=("alpha", names), kernel=("Sobel x", [*KERNEL_NAMES, "Laplacian"]))
    return explorer(draw, "02_architecture", **knobs, rotation=(0, (-180, 180, 15)))


def step_explorer(model: NCA, state: ArrayLike, fire: ArrayLike) -> ipywidgets.Widget | HTML:
    """Follow one cell through a step: see, think, fire, live.

    Explained in chapter 2, "One whole step".

    Args:
        model: the cell rule.
        state: (H, W, C) float32.
        fire: (H, W) bool, which cells fire.

    Returns:
        The numbers at each station, with knobs for the cell's row and column. It begins at a
        half-transparent cell that fires.

    Raises:
        ValueError: model is no rule, or the state or `fire` has another shape.
    """
    if not isinstance(model, NCA):
        raise ValueError(f"model must be an NCA, got {model!r}")
    state, names = _check_state(state)
    fire, (height, width, C) = np.asarray(fire), state.shape
    if fire.dtype != bool or fire.shape != (height, width):
        raise ValueError(f"fire must be bool {(height, width)}, got {fire.dtype} {fire.shape}")
    after = np.asarray(model(jnp.asarray(state), jnp.asarray(fire)))
    perception = perceive(jnp.asarray(state))
    hidden = np.asarray(jax.nn.relu(model.hidden(perception)), np.float32)
    update = np.asarray(model.update(perception))
    added = state + fire[..., None] * update
    alive, alive_after = (living_mask(s, model.alive_threshold)[..., 0] for s in (state, added))
    masks = {"fires": fire, "alive before": alive, "alive after": alive_after}
    short = [name.replace("hidden ", "h") for name in names]

    def draw(row, column):
        here = row, column
        pictures = [images.to_rgb(state), images.to_rgb(after)]
        for picture in pictures:
            picture[here] = (255, 0, 255)
        answers = [f"{name}: <b>{('no', 'yes')[int(m[here])]}</b>" for name, m in masks.items()]
        around = np.pad(state[..., -1], 1)[row : row + 3, column : column + 3]
        views = np.asarray(perception[here]).reshape(-1, C)
        return (
            pictures_of(pictures, ["before, the cell in magenta", "after the step"], 200)
            + table_of(around, "1 alpha of its neighbours")
            + table_of(views, "2 see: what it perceives", short, KERNEL_NAMES)
            + table_of(hidden[here].reshape(-1, math.gcd(hidden.shape[-1], 8)), "3 think: hidden")
            + table_of(update[here][None], "4 think: update", short, ["update"])
            + f"<p>{' · '.join(answers)}</p>"
            + table_of(np.stack([state[here], after[here]]), "5 live", short, ["before", "after"])
        )

    distance = np.where(fire, np.abs(state[..., -1] - 0.5), np.inf)
    row, column = (int(i) for i in np.unravel_index(distance.argmin(), distance.shape))
    knobs = dict(row=(row, (0, height - 1, 1)), column=(column, (0, width - 1, 1)))
    return explorer(draw, "02_architecture", **knobs)


def loss_explorer(run: Run, side: int = 25) -> ipywidgets.Widget | HTML:
    """Move the loss window over a rollout, and walk about in the loss landscape.

    The landscape is a plane through the weights. Upwards lies the way from the untrained weights
    (0) to the trained ones (1) and beyond, to the right a random direction. Orange: the pattern
    exploded. Grey: it died. Elsewhere, the darker the better.

    Explained in chapter 3, "The landscape".

    Args:
        run: a trained run.
        side: points along each axis of the landscape.

    Returns:
        Loss curve of a rollout four times as long as training's, landscape, and the pattern that
        grows at one point of it, with knobs for the window's width and end, the random direction
        (the number of a key), how far the landscape reaches along it, and the point: its way, and
        its noise as a share of the reach.

    Raises:
        ValueError: run is no run, or side not from 2 to 101.
    """
    _check_run(run)
    if type(side) is not int or not 2 <= side <= 101:
        raise ValueError(f"side must be an int from 2 to 101, got {side!r}")
    T, empty = run.config.num_steps, run.task.empty_loss()
    low, high = -0.5, 1.5  # of the way
    live = _make_live(run)
    curve = np.asarray(mse(run.frames(jax.random.key(0), 4 * T), jnp.asarray(run.target)))

    @functools.lru_cache(maxsize=4)
    def landscape(direction, reach):
        across, up = np.linspace(-reach, reach, side), np.linspace(high, low, side)
        return live(np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2), direction)

    def draw(width, end, direction, reach, way, noise):
        if width > end:
            raise ValueError(f"window must be 1 to {end} (where it ends), got {width}")
        level, wild, dead = _fate(*landscape(direction, reach), width)
        shade = np.clip((np.log10(np.maximum(level, 1e-9)) - np.log10(empty) + 1.2) / 1.6, 0, 1)
        colours = matplotlib.colormaps["viridis"](np.where(wild, 0, shade))
        pixels = np.rint(255 * colours[:, :3]).astype(np.uint8)
        pixels[wild], pixels[dead] = (213, 94, 0), (128, 128, 128)
        pixels = pixels.reshape(side, side, 3)
        row, column = (high - way) / (high - low), (noise + 1) / 2
        pixels[round(row * (side - 1)), round(column * (side - 1))] = 255

        losses, states = live(np.array([[noise * reach, way]]), direction)
        value, exploded, died = (x[0] for x in _fate(losses, states, width))
        state = "exploded" if exploded else "dead" if died else "alive"
        titles = [
            f"landscape, last {width} of {T} steps: {wild.mean():.0%} exploded, "
            f"{dead.mean():.0%} dead",
            f"at the white point: {state}, loss {value:.3g}",
        ]
        pictures = pictures_of([pixels, images.to_rgb(states[0])], titles, 220)
        return _draw_window(curve, empty, width, end) + pictures

    knobs = dict(width=(run.config.window, (1, T, 1)), end=(T, (1, 4 * T, 1)))
    knobs |= dict(direction=(2, (0, 20, 1)), reach=(0.1, [0.03, 0.1, 0.3]))
    knobs |= dict(way=(1.0, (low, high, 0.05)), noise=(0.0, (-1.0, 1.0, 0.05)))
    return explorer(draw, "03_loss", **knobs)


def _make_live(run: Run) -> Callable:
    """Compile (points (N, 2), direction) -> losses (N, T) and last states (N, H, W, C).

    A point says how much of a random direction, and how far on the way from untrained weights to
    trained ones.
    """
    task, target = run.task, jnp.asarray(run.target)
    fires = task.fires(jax.random.key(0))
    (first, unravel), last = ravel_pytree(task.params), ravel_pytree(run.params)[0]

    @jax.jit
    def live(points, direction):
        noise = jax.random.normal(jax.random.key(direction), first.shape, first.dtype)

        def one(point):
            weights = unravel(first + point[1] * (last - first) + point[0] * noise)
            states = record(task.merge(weights), task.start, fires)
            return mse(states[1:], target), states[-1]

        return jax.lax.map(one, points)

    return live


def _fate(losses: ArrayLike, states: ArrayLike, width: int) -> tuple[np.ndarray, ...]:
    """For each point the loss over the last steps, and whether the pattern exploded or died."""
    level = np.asarray(losses)[:, -width:].mean(axis=-1)
    wild = ~(level < 1)  # NaN is not below 1
    return level, wild, ~wild & ~np.any(states, axis=(1, 2, 3))


def _draw_window(curve: np.ndarray, empty: float, width: int, end: int) -> str:
    """The loss of a rollout, and in grey the steps that count."""
    figure = Figure(figsize=(6, 2.6))
    axes = figure.subplots()
    axes.axvspan(end - width + 1, end, color="#bbbbbb", label="window")
    axes.plot(np.where(np.isfinite(curve), curve, np.nan))
    axes.axhline(empty, color="#666666", linewidth=1.2, linestyle=":", label="empty grid")
    axes.set(xlabel="step", ylabel="mse", yscale="log")
    axes.legend()
    mean = curve[end - width + 1 : end + 1].mean()
    alt = f"Loss of a rollout of {len(curve) - 1} steps; its mean over the window is {mean:.4g}"
    return figure_of(figure, alt)


def growth_player(run: Run) -> ipywidgets.Widget | HTML:
    """Scrub through lives of a trained rule, look below the surface, and wound it.

    Explained in chapter 5, "A lizard that heals".

    Args:
        run: a trained run.

    Returns:
        The lives at one step, with knobs for the step, what is shown, the number of lives (each
        under fire masks of its own), their length in steps, and what is erased when.

    Raises:
        ValueError: run is no run.
    """
    _check_run(run)
    height, width, channels = run.task.start.shape
    T, hidden = run.config.num_steps, [f"hidden {i}" for i in range(channels - 4)]
    angles = {"left": np.pi, "right": 0.0, "upper": -np.pi / 2, "lower": np.pi / 2}
    regions = {f"{name} half": half(height, width, angle) for name, angle in angles.items()}
    regions["disc"] = disc(height, width, height / 2, width / 2, min(height, width) / 5)
    regions["nothing"] = np.zeros((height, width), bool)

    grow = _make_grow(run)

    @functools.lru_cache(maxsize=4)
    def frames(view, lives, steps, erase, when):
        """All pixels of one setting, (steps + 1, H', W', 3)."""
        states = np.asarray(grow(lives, steps, regions[erase], when)).swapaxes(0, 1)
        if view in hidden:
            values = np.nan_to_num(states[..., hidden.index(view)])
            pixels = heat(values, max(1.0, np.abs(values[: T + 1]).max()))
        else:
            ground = images.checkerboard(height, width) if view == "on checks" else (1.0, 1.0, 1.0)
            pixels = images.to_rgb(states, ground, run.config.premultiply)
        return images.contact_sheet(pixels, columns=min(lives, 4))

    def draw(step, **setting):
        if step > setting["steps"]:
            raise ValueError(f"step must be 0 to {setting['steps']} (steps), got {step}")
        title = "step {} of {steps}, {view}; {erase} erased at step {when}".format(step, **setting)
        return pictures_of(
            [frames(**setting)[step]], [title], 220 if setting["lives"] <= 4 else 440
        )

    setting = dict(view=("picture", ["picture", "on checks", *hidden]), lives=(4, [1, 2, 4, 8]))
    setting |= dict(steps=(2 * T, [T, 2 * T, 4 * T, 8 * T]), erase=("lower half", list(regions)))
    setting |= dict(when=(T, (1, 8 * T, 1)))
    if is_static():
        shown = {name: value for name, (value, _) in setting.items()}
        alt = "{lives} lives of {steps} steps; {erase} erased at step {when}".format(**shown)
        clip = figures.show_clip(frames(**shown)[::2], alt, fps=12)
        return still(clip.data, setting, "05_visualization")

    def extra(knobs):
        knobs["step"].continuous_update = True
        play = ipywidgets.Play(min=0, max=2 * T, interval=100)
        ipywidgets.jslink((play, "value"), (knobs["step"], "value"))
        ipywidgets.dlink((knobs["steps"], "value"), (play, "max"))
        return [play]

    step = (T, (0, 8 * T, 1))
    return explorer(draw, "05_visualization", ("lives", "steps"), extra, step=step, **setting)


def _make_grow(run: Run) -> Callable:
    """Compile (lives, steps, region, when) -> every state, (lives, steps + 1, H, W, C)."""
    task = run.task

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def grow(lives, steps, region, when):
        def one(key):
            model, fires = task.merge(run.params), task.fires(key, steps)

            def step(state, numbered):
                number, fire = numbered
                state = model(state, fire)
                state = jnp.where((number == when) & region[..., None], 0.0, state)
                return state, state

            states = jax.lax.scan(step, task.start, (jnp.arange(1, steps + 1), fires))[1]
            return jnp.concatenate([task.start[None], states])

        return jax.lax.map(one, jax.random.split(jax.random.key(0), lives))

    return grow


def _check_run(run: Run) -> None:
    if not isinstance(run, Run):
        raise ValueError(f"run must be a run, as of load_run, got {run!r}")


def _check_state(state: ArrayLike) -> tuple[np.ndarray, list[str]]:
    """One state as NumPy, and the names of its channels."""
    state = np.asarray(state)
    if state.ndim != 3 or state.shape[-1] < 4 or not state.size or state.dtype.kind not in "biuf":
        raise ValueError(
            f"state must be (H, W, C) with at least 4 channels of numbers, got {state.dtype} "
            f"{state.shape}"
        )
    state = state.astype(np.float32)
    return state, [*(f"hidden {i}" for i in range(state.shape[-1] - 4)), *"RGB", "alpha"]
