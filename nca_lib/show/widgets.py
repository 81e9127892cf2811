"""Knobs to turn in a notebook: what a setting does, seen at once (chapters 1 to 6).

Each function takes its data and returns an ipywidgets box, to be the last value of a cell. What the
library refuses leaves the library's message in the box. A static page has no kernel to answer:
under the environment variable NCA_BOOK, which the build of the book sets, each function returns a
picture of itself instead. Where the variable holds the address of a folder of notebooks, the
picture has a link to its chapter there.

Knobs are described as name: (value, choice), where the choice is a range (low, high, step) to slide
in, a list to choose from, or a type of value to type in. They are made only where a kernel answers.
"""

import base64
import contextlib
import dataclasses
import functools
import html
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

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
from nca_lib.lab.config import FRESH, PRESETS, Config
from nca_lib.lab.runs import HISTORY, Run
from nca_lib.loss import empty_loss, mse
from nca_lib.model import KERNELS, NCA, living_mask, perceive
from nca_lib.rollout import disc, half, record
from nca_lib.show import figures
from nca_lib.show.session import PIECE, Loop, Training
from nca_lib.target import list_emoji, load_emoji

KERNEL_NAMES = ("identity", "Sobel y", "Sobel x")
LAPLACIAN = np.array([[1, 2, 1], [2, -12, 2], [1, 2, 1]], np.float32) / 24
LABELS = {"another": "or type", "std": "σ", "num_steps": "steps"}  # where names do not say it
TURNED = ("channels", "hidden", "num_steps", "population", "std", "std_rate", "learning_rate")
TURNED += ("generations",)


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
        return _pictures([images.to_rgb(target, ground, premultiply), *planes], titles, 150)

    alphas = ["premultiplied", "straight"]
    knobs = dict(emoji=(emoji[0], list(emoji)), another=("", str), size=(24, (8, 96, 1)))
    knobs |= dict(padding=(4, (0, 24, 1)), alpha=(alphas[0], alphas))
    return _explorer(draw, "01_dataset", **knobs, background=("white", list(grounds)))


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
        pictures = _pictures([_heat(plane), _heat(seen)], titles, 200)
        return pictures + _table(weights, "the kernel (orange below zero, purple above)")

    knobs = dict(channel=("alpha", names), kernel=("Sobel x", [*KERNEL_NAMES, "Laplacian"]))
    return _explorer(draw, "02_architecture", **knobs, rotation=(0, (-180, 180, 15)))


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
            _pictures(pictures, ["before, the cell in magenta", "after the step"], 200)
            + _table(around, "1 alpha of its neighbours")
            + _table(views, "2 see: what it perceives", short, KERNEL_NAMES)
            + _table(hidden[here].reshape(-1, math.gcd(hidden.shape[-1], 8)), "3 think: hidden")
            + _table(update[here][None], "4 think: update", short, ["update"])
            + f"<p>{' · '.join(answers)}</p>"
            + _table(np.stack([state[here], after[here]]), "5 live", short, ["before", "after"])
        )

    distance = np.where(fire, np.abs(state[..., -1] - 0.5), np.inf)
    row, column = (int(i) for i in np.unravel_index(distance.argmin(), distance.shape))
    knobs = dict(row=(row, (0, height - 1, 1)), column=(column, (0, width - 1, 1)))
    return _explorer(draw, "02_architecture", **knobs)


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
    task, T, target = run.task, run.config.num_steps, jnp.asarray(run.target)
    fires, empty = task.fires(jax.random.key(0)), task.empty_loss()
    (first, unravel), last = ravel_pytree(task.params), ravel_pytree(run.params)[0]
    curve = np.asarray(mse(run.grow(jax.random.key(0), 4 * T), target))
    low, high = -0.5, 1.5  # of the way

    @jax.jit
    def live(points, direction):
        """Grow at points (N, 2): the losses (N, T), and the last states (N, H, W, C)."""
        noise = jax.random.normal(jax.random.key(direction), first.shape)

        def one(point):
            weights = unravel(first + point[1] * (last - first) + point[0] * noise)
            states = record(task.merge(weights), task.start, fires)
            return mse(states[1:], target), states[-1]

        return jax.lax.map(one, points)

    def fate(losses, states, width):
        """For each point the loss over the window, and whether the pattern exploded or died."""
        level = np.asarray(losses)[:, T - width :].mean(axis=-1)
        wild = ~(level < 1)  # NaN is not below 1
        return level, wild, ~wild & ~np.any(states, axis=(1, 2, 3))

    @functools.lru_cache(maxsize=4)
    def landscape(direction, reach):
        across, up = np.linspace(-reach, reach, side), np.linspace(high, low, side)
        return live(np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2), direction)

    def draw(width, end, direction, reach, way, noise):
        if width > end:
            raise ValueError(f"window must be 1 to {end} (where it ends), got {width}")
        figure = Figure(figsize=(6, 2.6))
        axes = figure.subplots()
        axes.axvspan(end - width + 1, end, color="#bbbbbb", label="window")
        axes.plot(np.where(np.isfinite(curve), curve, np.nan))
        axes.axhline(empty, color="#666666", linewidth=1.2, linestyle=":", label="empty grid")
        axes.set(xlabel="step", ylabel="mse", yscale="log")
        axes.legend()
        mean = curve[end - width + 1 : end + 1].mean()
        alt = f"Loss of one rollout of {4 * T} steps; its mean over the window is {mean:.4g}"

        level, wild, dead = fate(*landscape(direction, reach), width)
        shade = np.clip((np.log10(np.maximum(level, 1e-9)) - np.log10(empty) + 1.2) / 1.6, 0, 1)
        colours = matplotlib.colormaps["viridis"](np.where(wild, 0, shade))
        pixels = np.rint(255 * colours[:, :3]).astype(np.uint8)
        pixels[wild], pixels[dead] = (213, 94, 0), (128, 128, 128)
        pixels = pixels.reshape(side, side, 3)
        row, column = (high - way) / (high - low), (noise + 1) / 2
        pixels[round(row * (side - 1)), round(column * (side - 1))] = 255

        grown = live(np.array([[noise * reach, way]]), direction)
        value, exploded, died = (x[0] for x in fate(*grown, width))
        state = "exploded" if exploded else "dead" if died else "alive"
        titles = [
            f"landscape, last {width} of {T} steps: {wild.mean():.0%} exploded, "
            f"{dead.mean():.0%} dead",
            f"at the white point: {state}, loss {value:.3g}",
        ]
        pictures = _pictures([pixels, images.to_rgb(grown[1][0])], titles, 220)
        return _figure(figure, alt) + pictures

    knobs = dict(width=(run.config.window, (1, T, 1)), end=(T, (1, 4 * T, 1)))
    knobs |= dict(direction=(2, (0, 20, 1)), reach=(0.1, [0.03, 0.1, 0.3]))
    knobs |= dict(way=(1.0, (low, high, 0.05)), noise=(0.0, (-1.0, 1.0, 0.05)))
    return _explorer(draw, "03_loss", **knobs)


def growth_player(run: Run, path: str | os.PathLike = "growth.webp") -> ipywidgets.Widget | HTML:
    """Scrub through lives of a trained rule, look below the surface, and wound it.

    Explained in chapter 5, "A lizard that heals".

    Args:
        run: a trained run.
        path: where "Export clip" writes to, a name ending in .webp, .png or .apng. A link to
            download the clip appears as well.

    Returns:
        The lives at one step, with knobs for the step, what is shown, the number of lives (each
        under fire masks of its own), their length in steps, and what is erased when.

    Raises:
        ValueError: run is no run. What is wrong with the path is told where it is written to.
    """
    _check_run(run)
    task, (height, width, channels) = run.task, run.task.start.shape
    T, hidden = run.config.num_steps, [f"hidden {i}" for i in range(channels - 4)]
    angles = {"left": np.pi, "right": 0.0, "upper": -np.pi / 2, "lower": np.pi / 2}
    regions = {f"{name} half": half(height, width, angle) for name, angle in angles.items()}
    regions["disc"] = disc(height, width, height / 2, width / 2, min(height, width) / 5)
    regions["nothing"] = np.zeros((height, width), bool)

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

    @functools.lru_cache(maxsize=4)
    def frames(view, lives, steps, erase, when):
        """All pixels of one setting, (steps + 1, H', W', 3)."""
        states = np.asarray(grow(lives, steps, regions[erase], when)).swapaxes(0, 1)
        if view in hidden:
            values = np.nan_to_num(states[..., hidden.index(view)])
            pixels = _heat(values, max(1.0, np.abs(values[: T + 1]).max()))
        else:
            ground = images.checkerboard(height, width) if view == "on checks" else (1.0, 1.0, 1.0)
            pixels = images.to_rgb(states, ground, run.config.premultiply)
        return images.contact_sheet(pixels, columns=min(lives, 4))

    def draw(step, **setting):
        if step > setting["steps"]:
            raise ValueError(f"step must be 0 to {setting['steps']} (steps), got {step}")
        title = "step {} of {steps}, {view}; {erase} erased at step {when}".format(step, **setting)
        return _pictures([frames(**setting)[step]], [title], 220 if setting["lives"] <= 4 else 440)

    setting = dict(view=("picture", ["picture", "on checks", *hidden]), lives=(4, [1, 2, 4, 8]))
    setting |= dict(steps=(2 * T, [T, 2 * T, 4 * T, 8 * T]), erase=("lower half", list(regions)))
    setting |= dict(when=(T, (1, 8 * T, 1)))
    if _is_static():
        shown = {name: value for name, (value, _) in setting.items()}
        alt = "{lives} lives of {steps} steps; {erase} erased at step {when}".format(**shown)
        clip = figures.show_clip(frames(**shown)[::2], alt, fps=12)
        return _still(clip.data, setting, "05_visualization")

    def extra(knobs, message):
        """Buttons to play and to export."""

        def save(_):
            with _refusals(message):
                clip = frames(**{name: knobs[name].value for name in setting})
                images.save_clip(path, images.upscale(clip, 4), fps=12)
                name, data = html.escape(Path(path).name), _base64(Path(path).read_bytes())
                address = f"data:application/octet-stream;base64,{data}"
                link = f'<a download="{name}" href="{address}">Download {name}</a>'
                message.value = _notice(f"Wrote {path}.") + link

        knobs["step"].continuous_update = True
        play = ipywidgets.Play(min=0, max=2 * T, interval=100)
        ipywidgets.jslink((play, "value"), (knobs["step"], "value"))
        ipywidgets.dlink((knobs["steps"], "value"), (play, "max"))
        export = ipywidgets.Button(description="Export clip")
        export.on_click(save)
        return [play, export]

    step = (T, (0, 8 * T, 1))
    return _explorer(draw, "05_visualization", ("lives", "steps"), extra, step=step, **setting)


def evolution_dashboard(
    config: Config = PRESETS["pocket"], run: Run | None = None, folder: str = "my-run"
) -> ipywidgets.Widget | HTML:
    """Evolve a rule in the notebook, and turn the knobs while it learns.

    Making a dashboard stops what trains in another. Explained in chapter 4, "Turn the knobs".

    Args:
        config: where the knobs begin; fields without a knob stay as they are here.
        run: a finished run, drawn beside the new one. It is what the static book shows.
        folder: where "Save" begins to write to: a run folder, see `nca_lib.lab.runs.load_run`.

    Returns:
        Knobs, buttons, numbers, what the mean grows, and the loss. For each layer it tells the
        noise scale of its weights, on average, and how many independent inputs would vary as its
        own do: the square of the trace of `nca_lib.evolution.second_moments` over the trace of the
        square. The gradient cosine is not measured. It is the law for n antithetic pairs and D
        weights on a slope, √(n / (n + D)), see chapter 4, "How good can it be?", and chapter 6,
        "What a score is worth".

    Raises:
        ValueError: the configuration does not evolve, or cannot run.
    """
    if config.strategy == "backprop":
        raise ValueError("strategy must be one of evolution, got 'backprop'")
    if config.goal != "target":
        raise ValueError(f"goal must be 'target', got {config.goal!r}")
    knobs = {"emoji": (config.emoji, list(dict.fromkeys([config.emoji, *list_emoji()])))}
    for field in dataclasses.fields(config):
        if field.name in TURNED:
            knobs[field.name] = (getattr(config, field.name), field.type)
    earlier, sides = {} if run is None else {"earlier run": run}, {}

    def show(sides, _):
        """Numbers, as soon as there are some, what the mean grows, and the target."""
        (side,) = sides.values()
        config, history = side.config, side.history
        target = images.to_rgb(side.task.target, premultiplied=config.premultiply)
        titles = ["what the mean grows", "target"]
        pictures = _pictures([_frames(side)[-1], target], titles, 200)
        if not len(history["loss"]):
            return pictures
        done, rollouts, seconds, loss = (history[name][-1] for name in HISTORY[:4])
        left = (config.generations - done) * config.population * seconds / rollouts
        share = loss / side.task.empty_loss()
        n, D = config.population // 2, sum(leaf.size for leaf in jax.tree.leaves(side.task.params))
        return (
            f"<p>generation {done:,.0f} of {config.generations:,} · loss <b>{loss:.4f}</b> "
            f"({share:.0%} of an empty grid's) · {rollouts / seconds:,.0f} rollouts/s · "
            f"{left // 60:.0f} min {left % 60:.0f} s left · gradient cosine "
            f"{math.sqrt(n / (n + D)):.2f}, estimated by the law √(n / (n + D)) for "
            f"{n:,} pairs and {D:,} weights</p>{_layers(side)}{pictures}"
        )

    if _is_static():
        content = "" if run is None else show(earlier, True) + _losses(earlier, "rollouts")
        return _still(content, knobs, "04_es_training")

    def wanted():
        chosen = dataclasses.replace(config, **{name: knob.value for name, knob in made.items()})
        for side in sides.values():
            side.check_fits(chosen)
        return chosen

    def begin():
        chosen, old = wanted(), sides.get("this run")
        if old is not None and old.done >= chosen.generations:
            raise ValueError(f"{old.done} generations are done: raise generations, or Reset")
        if old is None or chosen != old.config:
            sides["this run"] = Training(chosen, old)
        return math.inf

    def changed(_):
        with _refusals(message):
            if wanted() not in [side.config for side in sides.values()] and sides:
                note = "Resume will compile anew, and search on from the present mean with this."
                message.value = _notice(note)

    def save(_):
        with _refusals(message):
            sides["this run"].save(Path(where.value))
            message.value = _notice(f"Saved. To read it: nca_lib.load_run({where.value!r})")

    made, message = _make(knobs, changed), ipywidgets.HTML()
    keep = ipywidgets.Button(description="Save")
    keep.on_click(save)
    where = ipywidgets.Text(folder, description="to folder")
    return _trainer(sides, made, message, begin, show, earlier, "rollouts", [keep, where])


def duel(
    configs: Mapping[str, Config], runs: Mapping[str, Run] | None = None, seconds: float = 30
) -> ipywidgets.Widget | HTML:
    """Train two ways on one task, side by side and for equal time.

    They take turns: the next piece goes to the side that has had less time. Compiling does not
    count. Making a duel stops what trains in another widget.

    Explained in chapter 6, "The same task, twice".

    Args:
        configs: the sides by name, such as evolution and backprop.
        runs: finished runs of the same task by name, which the static book shows.
        seconds: of training for each side, to begin with. A side that has done its generations
            waits for the others.

    Returns:
        Buttons, what each side grows, and the losses against seconds.

    Raises:
        ValueError: there are no sides, one cannot run, they differ in what is to be grown, or
            seconds is not a number above 0.
    """
    if not isinstance(configs, Mapping) or not configs:
        raise ValueError(f"configs must be configurations by name, got {configs!r}")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be positive, got {seconds!r}")
    for name in ("goal", "emoji", "size", "padding", "premultiply", "num_steps", "window"):
        values = [getattr(config, name) for config in configs.values()]
        if len(set(values)) > 1:
            raise ValueError(f"{name} must be the same on all sides, got {values}")

    def show(sides, is_last):
        """What the sides grow, next to each other: a clip of it, or the last frames."""
        lines, clips = [], [_frames(side) for side in sides.values()]
        for name, side in sides.items():
            rollouts, spent, loss = (sum(side.history[x][-1:]) for x in HISTORY[1:4])
            lines.append(f"{name}: loss {loss:.4f} after {spent:.1f} s, {rollouts:,.0f} rollouts")
        if not is_last:
            return _pictures([clip[-1] for clip in clips], lines, 200)
        sheet = images.contact_sheet(np.stack(clips, axis=1), len(clips), gap=4)
        return figures.show_clip(sheet, "; ".join(lines), "; ".join(lines), fps=12, zoom=6).data

    if _is_static():
        content = show(runs, True) + _losses(runs, "seconds") if runs else ""
        return _still(content, {}, "06_es_vs_backprop")
    sides = {}

    def begin():
        if not 0 < (limit := knobs["seconds"].value) < math.inf:
            raise ValueError(f"seconds must be positive, got {limit}")
        if not sides:
            sides.update({name: Training(config) for name, config in configs.items()})
        return limit

    knobs = _make({"seconds": (float(seconds), float)}, lambda _: None)
    return _trainer(sides, knobs, ipywidgets.HTML(), begin, show, {}, "seconds")


def _trainer(
    sides: dict[str, Training],
    knobs: Mapping[str, ipywidgets.Widget],
    message: ipywidgets.HTML,
    begin: Callable[[], float],
    show: Callable[[Mapping[str, Training], bool], str],
    earlier: Mapping[str, Run],
    x: str,
    others: Sequence[ipywidgets.Widget] = (),
) -> ipywidgets.VBox:
    """Put buttons in front of trainings that take turns.

    Args:
        sides: the trainings by name, filled by `begin`.
        knobs: from `_make`.
        message: where to say what is the matter.
        begin: makes the sides, or new ones for knobs that were turned, and gives the seconds that
            each may have in all.
        show: (sides, whether they have ended) -> HTML, after each piece.
        earlier: runs whose losses are drawn, too.
        x: what the losses are drawn against.
        others: what can be used while a training that has begun is paused.

    Returns:
        A box of knobs, buttons, message, picture and losses.
    """
    Loop.stop_running()  # it may be of this cell's last execution, and out of reach
    compiling, pieces, limit = _notice("Compiling: some seconds."), itertools.count(), 0.0
    picture, curve = ipywidgets.HTML(), ipywidgets.HTML()

    def unfinished():
        rest = [side for side in sides.values() if side.seconds < limit]
        return [side for side in rest if side.done < side.config.generations]

    def piece():
        min(unfinished(), key=lambda side: side.seconds).advance(PIECE / len(sides))
        if message.value == compiling:
            message.value = ""
        picture.value = show(sides, False)
        if next(pieces) % 6 == 0:  # it takes long
            curve.value = _losses(earlier | sides, x)
        return bool(unfinished())

    def ended(error):
        picture.value, curve.value = show(sides, True), _losses(earlier | sides, x)
        message.value = _notice(error) if error else ""
        enable(running=False, begun=True)

    def enable(running, begun):
        start.description = "Resume" if begun else "Start"
        start.disabled, pause.disabled = running, not running
        for widget in (again, *others):
            widget.disabled = running or not begun

    def run(_):
        nonlocal limit
        with _refusals(message):
            Loop.stop_running()
            message.value, old = compiling, dict(sides)
            limit = begin()
            if not unfinished():
                raise ValueError("all sides have had their time: raise the seconds, or Reset")
            if sides == old:
                message.value = ""
            enable(running=True, begun=True)
            picture.value = show(sides, False)
            loop.start()

    def stop(_):
        pause.disabled = True
        loop.stop()

    def forget(_):
        sides.clear()
        enable(running=False, begun=False)
        message.value = picture.value = curve.value = ""

    loop = Loop(piece, ended)
    names = {"Start": run, "Pause": stop, "Reset": forget}
    start, pause, again = buttons = [ipywidgets.Button(description=name) for name in names]
    for button, click in zip(buttons, names.values(), strict=True):
        button.on_click(click)
    enable(running=False, begun=False)
    box = ipywidgets.VBox(
        [_row(knobs.values()), _row([*buttons, *others]), message, picture, curve]
    )
    box.observe(lambda _: loop.stop(), "comm")  # it changes when the box is closed
    return box


def _explorer(
    draw: Callable[..., str],
    chapter: str,
    compiles: Sequence[str] = (),
    extra: Callable | None = None,
    **knobs: tuple,
) -> ipywidgets.VBox | HTML:
    """Redraw whenever a knob is turned.

    Args:
        draw: values of all knobs, by name -> HTML.
        chapter: the notebook this is for.
        compiles: knobs whose every new combination makes `draw` compile anew.
        extra: (knobs, message) -> further widgets, to stand below the knobs.
        knobs: (value, choice) by name.

    Returns:
        A box of the knobs, the message and the picture.
    """
    if _is_static():
        return _still(draw(**{k: value for k, (value, _) in knobs.items()}), knobs, chapter)
    message, picture, compiled = ipywidgets.HTML(), ipywidgets.HTML(), set()

    def update(_=None):
        values = {name: knob.value for name, knob in made.items()}
        shape = ", ".join(f"{name} {values[name]}" for name in compiles)
        with _refusals(message):
            if compiled and shape not in compiled:
                message.value = _notice(f"Compiling anew for {shape}: a moment.")
            picture.value = draw(**values)
            compiled.add(shape)

    made = _make(knobs, update)
    below = extra(made, message) if extra else []
    update()
    return ipywidgets.VBox([_row(made.values()), _row(below), message, picture])


@contextlib.contextmanager
def _refusals(message: ipywidgets.HTML) -> Iterator[None]:
    """Empty the message area, and leave there why the library refuses something."""
    message.value = ""
    try:
        yield
    except (ValueError, OSError) as error:
        message.value = _notice(error)


def _make(knobs: Mapping[str, tuple], changed: Callable) -> dict[str, ipywidgets.Widget]:
    """Make the knobs, by name."""
    fields = {int: ipywidgets.IntText, float: ipywidgets.FloatText, str: ipywidgets.Text}
    sliders, made = {int: ipywidgets.IntSlider, float: ipywidgets.FloatSlider}, {}
    for name, (value, choice) in knobs.items():
        if isinstance(choice, list):
            knob = ipywidgets.Dropdown(options=choice, value=value)
        elif isinstance(choice, tuple):
            options = dict(zip(("min", "max", "step"), choice, strict=True))
            knob = sliders[type(value)](value, continuous_update=False, **options)
        else:
            knob = fields[choice](value, continuous_update=False)
        knob.description, knob.style.description_width = _label(name), "auto"
        knob.observe(changed, "value")
        made[name] = knob
    return made


def _row(widgets: Iterable[ipywidgets.Widget]) -> ipywidgets.HBox:
    return ipywidgets.HBox(list(widgets), layout=ipywidgets.Layout(flex_flow="row wrap"))


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _is_static() -> bool:
    return bool(os.environ.get("NCA_BOOK"))


def _still(content: str, knobs: Mapping[str, tuple], chapter: str) -> HTML:
    """Show a widget on a static page: its picture, where its knobs stand, and where it is live."""
    values = [f"{_label(k)} <b>{value}</b>" for k, (value, _) in knobs.items() if value != ""]
    caption, address = "Live in Colab or Jupyter.", os.environ["NCA_BOOK"]
    if address.startswith("https://"):
        link = html.escape(f"{address.rstrip('/')}/{chapter}.ipynb")
        caption = f'<a class="nca-launch" href="{link}">{caption}</a>'
    style = "border:1px solid #888;border-radius:4px;padding:.75rem;margin:0 0 1rem"
    return HTML(
        f'<figure class="nca-widget" style="{style}"><p>{" · ".join(values)}</p>{content}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _notice(text: object) -> str:
    style = "background:#fff3cd;color:#222;padding:.25em .5em;margin:0"
    return f'<p role="status" style="{style}">{html.escape(str(text))}</p>'


def _pictures(pictures: Sequence[np.ndarray], titles: Sequence[str], height: int) -> str:
    return figures.show_images(pictures, titles, titles, height).data


def _frames(side: Run | Training) -> np.ndarray:
    """What it grows, as pixels (T + 1, H, W, 3)."""
    return images.to_rgb(side.grow(jax.random.key(FRESH)), premultiplied=side.config.premultiply)


def _layers(side: Run | Training) -> str:
    """Of each layer the sigma, and how much of what its cells see is independent."""
    luck = side.task.start, side.task.fires(jax.random.key(FRESH))
    if isinstance(side, Run):
        std, seen = side.info["std"], side.task.look(side.params, luck)
    else:
        std, seen = side.std(), side.look(side.weights, luck)
    parts = []
    for name, moment in seen.items():
        if f"{name}.kernel" in std and jnp.isfinite(moment).all():
            alike = float(jnp.trace(moment) ** 2 / jnp.sum(moment**2))
            parts.append(
                f"{name} layer: noise of the weights {std[f'{name}.kernel']:.4f}, {len(moment)} "
                f"inputs that vary like {alike:.1f} independent ones"
            )
    return f"<p>{' · '.join(parts)}</p>"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _figure(figure: Figure, alt: str) -> str:
    buffer, style = io.BytesIO(), "max-width:100%;height:auto"
    figure.savefig(buffer, format="png")
    address = f"data:image/png;base64,{_base64(buffer.getvalue())}"
    return f'<img src="{address}" alt="{html.escape(alt)}" style="{style}">'


def _losses(sides: Mapping[str, Run | Training], x: str) -> str:
    histories = {k: side.history for k, side in sides.items() if len(side.history["loss"])}
    if not histories:
        return ""
    empty = next(iter(sides.values())).task.empty_loss()
    ends = [f"{name} ends at {history['loss'][-1]:.4f}" for name, history in histories.items()]
    figure = figures.plot_losses(histories, x, levels={"empty grid": empty})
    if len(histories) > 1:  # of which one may be much longer than another
        figure.axes[0].set(xscale="log")
    return _figure(figure, f"Loss against {x}: {', '.join(ends)}; empty grid {empty:.4f}")


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


def _heat(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Colour values of either sign: uint8 (..., 3), orange below zero, purple above."""
    values = np.nan_to_num(np.asarray(values, np.float64)).clip(-1e300, 1e300)
    limit = limit or np.abs(values).max() or 1.0
    colours = matplotlib.colormaps["PuOr"](0.5 + values / (2 * limit))
    return np.rint(255 * colours[..., :3]).astype(np.uint8)


def _table(
    values: np.ndarray, title: str, columns: Sequence[str] = (), rows: Sequence[str] = ()
) -> str:
    """A small matrix as a table, each number on its colour; name its columns, or both sides."""
    cell = "padding:.1em .4em;text-align:right;font-variant-numeric:tabular-nums"
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = f"<tr><td></td>{head}</tr>" if columns else ""
    for i, (line, colours) in enumerate(zip(values, _heat(values), strict=True)):
        body += f'<tr><th scope="row">{rows[i]}</th>' if rows else "<tr>"
        for value, colour in zip(line, colours.tolist(), strict=True):
            luminance = np.dot((0.2126, 0.7152, 0.0722), np.divide(colour, 255) ** 2.2)
            ink = "#fff" if luminance < 0.18 else "#000"  # as WCAG 2.2 measures contrast
            look = f"{cell};background:rgb{tuple(colour)};color:{ink}"
            body += f'<td style="{look}">{value:.2f}</td>'
        body += "</tr>"
    return (
        '<div tabindex="0" style="overflow-x:auto">'
        '<table style="border-collapse:collapse;margin:.5em 0">'
        f'<caption style="text-align:left;white-space:nowrap">{title}</caption>{body}</table></div>'
    )
