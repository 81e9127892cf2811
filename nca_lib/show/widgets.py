"""Knobs to turn in a notebook: what a setting does, seen at once (chapters 1 to 7).

Each function takes its data and returns an ipywidgets box, to be the last value of a cell. What the
library refuses leaves the library's message in the box. A static page has no kernel to answer:
under the environment variable NCA_BOOK, which the build of the book sets, each function returns a
picture of itself instead. Where the variable holds the address of a folder of notebooks, the
picture has a link to its chapter there.
"""

import functools
from typing import Any

import jax
import matplotlib
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nca_lib.lab import images
from nca_lib.lab.config import Config
from nca_lib.lab.runs import Run
from nca_lib.lab.task import make_task
from nca_lib.loss import empty_loss, mse
from nca_lib.model import KERNELS, NCA, check, living_mask, perceive
from nca_lib.rollout import disc, record
from nca_lib.show.figures import curves_of, figure_of, heat, pictures_of, table_of
from nca_lib.show.knobs import Shown, clickable, explorer
from nca_lib.target import list_emoji, load_emoji

AREA = (0.13, 0.18, 0.58, 0.74)  # of the landscape: where its axes lie
KERNEL_NAMES = ("identity", "Sobel y", "Sobel x")


def target_explorer() -> Shown:
    """See what becomes of an emoji on the way to a target.

    Explained in chapter 1, "All of it at once".

    Returns:
        Target and channel planes, with knobs for emoji (those that are bundled, or any other as it
        is typed), size, padding, alpha and background.
    """
    grounds = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "checks": None}

    def draw(emoji, typed, size, padding, alpha, background):
        premultiply = alpha == "premultiplied"
        emoji = typed.strip() if emoji == "as typed" else emoji
        target = load_emoji(emoji, size, padding, premultiply)
        ground = grounds[background] or images.checkerboard(*target.shape[:2])
        pixels = np.rint(255 * target).astype(np.uint8)
        planes = [np.repeat(pixels[..., k : k + 1], 3, axis=-1) for k in range(4)]
        titles = [f"target {target.shape}, empty grid {empty_loss(target):.4f}", *"RGB", "alpha"]
        return pictures_of([images.to_rgb(target, ground, premultiply), *planes], titles, 150)

    given = dict(emoji=("🦎", [*list_emoji(), "as typed"]), typed=("", ""), size=(24, (8, 96, 1)))
    given |= dict(padding=(4, (0, 24, 1)), alpha=("premultiplied", ["premultiplied", "straight"]))
    return explorer(draw, "01_dataset", **given, background=("white", list(grounds)))


def perception_explorer(state: ArrayLike) -> Shown:
    """See a state as its cells do: one channel through a kernel that can be turned.

    Explained in chapter 2, "See".

    Args:
        state: (H, W, C) float32, a grown one.

    Returns:
        Channel, response and kernel, with knobs for channel, kernel and rotation in degrees (the
        two Sobel kernels turn together; the identity has no direction).

    Raises:
        ValueError: the state has another number of axes, or fewer than four channels.
    """
    state, names = _check_state(state)
    identity, down, right = np.moveaxis(KERNELS, -1, 0)

    def draw(channel, kernel, rotation):
        cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
        turned = identity, cos * down + sin * right, cos * right - sin * down
        weights = turned[KERNEL_NAMES.index(kernel)]
        plane = state[..., names.index(channel)]
        seen = np.asarray(perceive(plane[..., None], weights[..., None])[..., 0])
        turn = f", turned by {rotation}°" if kernel.startswith("Sobel") else ""
        titles = [f"channel {channel}", f"seen through {kernel}{turn}"]
        pictures = pictures_of([heat(plane), heat(seen)], titles, 200)
        return pictures + table_of(weights, "the kernel (orange below zero, purple above)")

    given = dict(channel=("alpha", names), kernel=("Sobel x", [*KERNEL_NAMES]))
    return explorer(draw, "02_architecture", **given, rotation=(0, (-180, 180, 15)))


def step_explorer(model: NCA, state: ArrayLike, fire: ArrayLike) -> Shown:
    """Follow one cell through a step: see, think, fire, live.

    Explained in chapter 2, "One whole step".

    Args:
        model: the cell rule.
        state: (H, W, C) float32.
        fire: (H, W) bool, which cells fire.

    Returns:
        The numbers at each station, with knobs for the cell's row and column; a click on the first
        picture does, too. It begins at a half-transparent cell that fires.

    Raises:
        ValueError: model is no rule, or the state or `fire` has another shape.
    """
    check(isinstance(model, NCA), "model", model, "an NCA")
    state, names = _check_state(state)
    fire, (height, width, C) = np.asarray(fire), state.shape
    fine = fire.dtype == bool and fire.shape == (height, width)
    check(fine, "fire", f"{fire.dtype} {fire.shape}", f"bool {(height, width)}")
    after, perception = np.asarray(model(state, fire)), perceive(state)
    hidden = np.asarray(model.activation(model.hidden(perception)), np.float32)
    update = np.asarray(model.update(perception))
    added = state + fire[..., None] * update
    alive, alive_after = (living_mask(s, model.alive_threshold)[..., 0] for s in (state, added))
    masks = {"fires": fire, "alive before": alive, "alive after": alive_after}
    short = [name.replace("hidden ", "h") for name in names]

    def draw(row, column):
        here = row, column
        pictures = images.to_rgb(np.stack([state, after]))
        pictures[:, row, column] = (255, 0, 255)
        answers = [f"{name}: <b>{('no', 'yes')[int(m[here])]}</b>" for name, m in masks.items()]
        around = np.pad(state[..., -1], 1)[row : row + 3, column : column + 3]
        views = np.asarray(perception[here]).reshape(-1, C)
        return (
            clickable(pictures_of(pictures, ["before, the cell in magenta", "after the step"], 200))
            + table_of(around, "1 alpha of its neighbours")
            + table_of(views, "2 see: what it perceives", short, KERNEL_NAMES)
            + table_of(hidden[here].reshape(-1, np.gcd(8, hidden.shape[-1])), "3 think: hidden")
            + table_of(update[here][None], "4 think: update", short, ["update"])
            + f"<p>{' · '.join(answers)}</p>"
            + table_of(np.stack([state[here], after[here]]), "5 live", short, ["before", "after"])
        )

    def click(_, x, y):
        return {"row": int(y * height), "column": int(x * width)}

    distance = np.where(fire, np.abs(state[..., -1] - 0.5), np.inf)
    row, column = (int(i) for i in np.unravel_index(distance.argmin(), distance.shape))
    given = dict(row=(row, (0, height - 1, 1)), column=(column, (0, width - 1, 1)))
    return explorer(draw, "02_architecture", click, **given)


def loss_explorer(run: Run, side: int = 25) -> Shown:
    """Move the loss window over a rollout, and walk about in the loss landscape.

    The landscape is a plane through the weights. Upwards lies the way from the untrained weights
    (0) to the trained ones (1) and beyond, to the right a random direction. A click stands there.

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
    check(isinstance(run, Run), "run", run, "a run, as of load_run")
    check(type(side) is int and 2 <= side <= 101, "side", side, "an int from 2 to 101")
    T, empty = run.config.num_steps, run.task.empty_loss()
    low, high = -0.5, 1.5  # of the way
    live = functools.partial(_live, run.config, run.params)
    curve = np.asarray(live(0, np.array([[[0.0, 1.0]]]), 4 * T)[0][0, 0])  # where it is trained

    @functools.lru_cache(maxsize=4)
    def landscape(direction, reach):
        points = np.meshgrid(np.linspace(-reach, reach, side), np.linspace(high, low, side))
        return np.asarray(live(direction, np.stack(points, axis=-1), T)[0])

    def draw(width, end, direction, reach, way, noise):
        check(width <= end, "width", width, f"at most {end} (where it ends)")
        first, point = end - width + 1, (noise * reach, way)
        levels = landscape(direction, reach)[..., -width:].mean(axis=-1)
        plane = _draw_landscape(levels, empty, (-reach, reach, low, high), point)
        losses, states = live(direction, np.array([[point]]), T)
        title = f"at the white point, loss {losses[0, 0, -width:].mean():.3g}"
        told = f"window: {curve[first : end + 1].mean():.4g}"
        picture = pictures_of([images.to_rgb(states[0, 0])], [title], 220)
        return _draw_life(curve, empty, (first, end), told) + clickable(plane) + picture

    def click(_, x, y):
        across, up = (x - AREA[0]) / AREA[2], (1 - y - AREA[1]) / AREA[3]
        return {"noise": round(2 * across - 1, 2), "way": round(low + (high - low) * up, 2)}

    given = dict(width=(run.config.window, (1, T, 1)), end=(T, (1, 4 * T, 1)))
    given |= dict(direction=(2, (0, 20, 1)), reach=(0.1, [0.03, 0.1, 0.3]))
    given |= dict(way=(1.0, (low, high, 0.05)), noise=(0.0, (-1.0, 1.0, 0.05)))
    return explorer(draw, "03_loss", click, **given)


@functools.partial(jax.jit, static_argnums=(0, 4))  # compiled once, however often a cell runs
def _live(config: Config, params: Any, direction: int, points: ArrayLike, num_steps: int) -> tuple:
    """What `loss_explorer` sees in a plane of weights, at points (M, N, 2).

    A point says how much of a random direction, and how far on the way from untrained weights to
    trained ones. Returns losses (M, N, num_steps + 1) and last states (M, N, H, W, C).
    """
    task = make_task(config)
    first, unravel = ravel_pytree(task.params)
    noise = jax.random.normal(jax.random.key(direction), first.shape, first.dtype)
    way = ravel_pytree(params)[0] - first

    def one(point):
        weights = unravel(first + point[1] * way + point[0] * noise)
        states = task.frames(weights, jax.random.key(0), num_steps)
        return mse(states, task.target), states[-1]

    return jax.lax.map(jax.vmap(one), points)


def _draw_landscape(levels: np.ndarray, empty: float, extent: tuple, point: tuple) -> str:
    """The losses around a rule, and where one stands; what exploded is orange, what died grey."""
    dead, wild = np.isclose(levels, empty, rtol=1e-5), ~(levels < 4 * empty)  # NaN is wild
    figure = Figure(figsize=(6, 3.6), layout="none")
    axes = figure.add_axes(AREA)
    colours = matplotlib.colormaps["viridis"].with_extremes(over="#D55E00", bad="#808080")
    scale = {"norm": "log", "vmin": empty / 16, "vmax": 4 * empty}
    shown = np.select([dead, wild], [np.nan, 8 * empty], levels)
    image = axes.imshow(shown, colours, extent=extent, aspect="auto", **scale)
    axes.plot(*point, "o", color="white", markeredgecolor="black")
    told = f"exploded (orange) {wild.mean():.0%}, dead (grey) {dead.mean():.0%}"
    axes.set(xlabel="random direction", ylabel="way from untrained to trained", title=told)
    figure.colorbar(image, cax=figure.add_axes((0.74, 0.18, 0.02, 0.74)), label="loss")
    return figure_of(figure, f"Landscape: {told}")


def _draw_life(curve: np.ndarray, empty: float, span: tuple[float, float], told: str) -> str:
    """The loss at every step of a life, and some steps of it in grey."""
    histories = {told: {"step": np.arange(len(curve)), "loss": curve}}
    return curves_of(histories, "step", empty, f"Loss at every step of a life; {told}", [span])


def growth_player(run: Run) -> Shown:
    """Scrub through four lives of a trained rule, look below the surface, and wound it.

    Explained in chapter 7, "Wounded starts".

    Args:
        run: a trained run.

    Returns:
        The lives, each under fire masks of its own and four times as long as training's, at one
        step, and their loss, with knobs for what is shown, the step, and the disc that is erased:
        when, where and how large, in cells. A click on a pattern wounds it there and then.

    Raises:
        ValueError: run is no run.
    """
    check(isinstance(run, Run), "run", run, "a run, as of load_run")
    (height, width, channels), T = run.task.start.shape, run.config.num_steps
    names = _channel_names(channels)
    keys = jax.random.split(jax.random.key(0), 4)
    fires = np.asarray(jax.vmap(lambda key: run.task.fires(key, 4 * T))(keys))
    grow = jax.jit(jax.vmap(functools.partial(record, run.task.merge(run.params))))
    whole = np.asarray(grow(np.stack([run.task.start] * 4), fires))  # (4, 4T + 1, H, W, C)

    @functools.lru_cache(maxsize=4)
    def lives_of(view, when, row, column, radius):
        """Of one setting all pixels, (4T + 1, H', W', 3), and the losses and their curve."""
        wound = disc(height, width, row, column, radius)[..., None]
        after = grow(np.where(wound, 0.0, whole[:, when]), np.roll(fires, -when, axis=1))
        parts = [whole[:, :when], after[:, : 4 * T + 1 - when]]
        states = np.concatenate(parts, axis=1).swapaxes(0, 1)
        pixels = images.to_rgb(states, premultiplied=run.config.premultiply)
        if view in names:
            values = np.nan_to_num(states[..., names.index(view)])
            pixels = heat(values, max(1.0, np.abs(values[:T]).max()))
        losses = np.asarray(mse(states, run.target)).mean(axis=1)
        curve = _draw_life(losses, run.task.empty_loss(), (when, when + 1), "wound")
        return images.contact_sheet(pixels, 4), losses, curve

    def draw(step, **setting):
        frames, losses, curve = lives_of(**setting)
        title = f"step {step}, loss {losses[step]:.4f}"
        return clickable(pictures_of([frames[step]], [title], 220)) + curve

    def click(made, x, y):
        column = x * (4 * (width + 2) - 2) % (width + 2)
        return {"row": int(y * height), "column": int(column), "when": made["step"].value}

    given = dict(view=("picture", ["picture", *names]), when=(T, (0, 4 * T, 1)))
    given |= dict(row=(height // 2, (0, height - 1, 1)), column=(width // 2, (0, width - 1, 1)))
    given |= dict(radius=(height // 5, (0, height, 1)))
    return explorer(draw, "07_persistence", click, step=(T, (0, 4 * T, 1)), **given)


def _check_state(state: ArrayLike) -> tuple[np.ndarray, list[str]]:
    """One state as NumPy, and the names of its channels."""
    state = np.asarray(state)
    fine = state.ndim == 3 and state.shape[-1] >= 4 and state.size and state.dtype.kind in "biuf"
    check(fine, "state", f"{state.dtype} {state.shape}", "numbers (H, W, C), C at least 4")
    return state.astype(np.float32), _channel_names(state.shape[-1])


def _channel_names(count: int) -> list[str]:
    return [*(f"hidden {i}" for i in range(count - 4)), *"RGB", "alpha"]
