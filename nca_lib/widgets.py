"""Knobs to turn in a notebook: what a setting does, seen at once (chapters 1 to 6).

Each function takes its data and returns an ipywidgets box, to be the last value of a cell. What the
library refuses leaves the library's message in the box. A static page has no kernel to answer:
under the environment variable NCA_BOOK, which the build of the book sets, each function returns a
picture of itself instead. Where the variable holds the address of a folder of notebooks, the
picture has a link to its chapter there.
"""

import atexit
import base64
import contextlib
import dataclasses
import functools
import html
import io
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from IPython import get_ipython
from IPython.display import HTML
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nca_lib import render
from nca_lib.evolution import check_population
from nca_lib.loss import empty_loss, mse
from nca_lib.model import KERNELS, NCA, living_mask, perceive
from nca_lib.rollout import disc, half
from nca_lib.runs import Run
from nca_lib.target import list_emoji, load_emoji
from nca_lib.train import (
    FRESH,
    HISTORY,
    MEASURED,
    PRESETS,
    Config,
    check_alive,
    initial_weights,
    make_measure,
    make_task,
    make_trainer,
    validate,
    write_run,
)

KERNEL_NAMES = ("identity", "Sobel y", "Sobel x")
LAPLACIAN = np.array([[1, 2, 1], [2, -12, 2], [1, 2, 1]], np.float32) / 24
PIECE = 0.7  # seconds of training between two pictures


def target_explorer(emoji: Sequence[str] | None = None) -> ipywidgets.Widget | HTML:
    """See what becomes of an emoji on the way to a target (chapter 1).

    Args:
        emoji: the choice; default those that are bundled. Any other can be typed.

    Returns:
        Target and channel planes, with knobs for emoji, size, padding, alpha and background.
    """
    grounds = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "checks": None}

    def draw(emoji, another, size, padding, alpha, background):
        premultiply = alpha == "premultiplied"
        target = load_emoji(another.strip() or emoji, size, padding, premultiply)
        ground = grounds[background] or render.checkerboard(*target.shape[:2])
        pixels = np.rint(255 * target).astype(np.uint8)
        planes = [np.repeat(pixels[..., k : k + 1], 3, axis=-1) for k in range(4)]
        titles = [f"target {target.shape}, empty grid {empty_loss(target):.4f}", *"RGB", "alpha"]
        return _pictures([render.to_rgb(target, ground, premultiply), *planes], titles, 150)

    return _explorer(
        draw,
        "01_dataset",
        emoji=_choice(list_emoji() if emoji is None else emoji),
        another=_typed(ipywidgets.Text, "", placeholder="or type any other"),
        size=_slider(24, 8, 96),
        padding=_slider(4, 0, 24),
        alpha=_choice(["premultiplied", "straight"]),
        background=_choice(grounds),
    )


def perception_explorer(state: ArrayLike) -> ipywidgets.Widget | HTML:
    """See a state as its cells do: one channel through a kernel that can be turned (chapter 2).

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

    return _explorer(
        draw,
        "02_architecture",
        channel=_choice(names, "alpha"),
        kernel=_choice([*KERNEL_NAMES, "Laplacian"], "Sobel x"),
        rotation=_slider(0, -180, 180, 15),
    )


def step_explorer(model: NCA, state: ArrayLike, fire: ArrayLike) -> ipywidgets.Widget | HTML:
    """Follow one cell through a step: see, think, fire, live (chapter 2).

    Args:
        model: the cell rule.
        state: (H, W, C) float32.
        fire: (H, W) bool, which cells fire.

    Returns:
        The numbers at each station, with knobs for the cell's row and column. It begins at a
        half-transparent cell that fires.

    Raises:
        ValueError: the state or `fire` has another shape.
    """
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

    def draw(row, column):
        here, answer = (row, column), ("no", "yes")
        pictures = [render.to_rgb(state), render.to_rgb(after)]
        for picture in pictures:
            picture[here] = (255, 0, 255)
        verdict = " ".join(
            f"<b>{name}</b> {answer[int(mask[here])]}."
            for name, mask in {
                "fires:": fire,
                "alive before:": alive,
                "alive after:": alive_after,
            }.items()
        )
        short = [name.replace("hidden ", "h") for name in names]
        views = np.asarray(perception[here]).reshape(-1, C)
        around = np.pad(state[..., -1], 1)[row : row + 3, column : column + 3]
        return (
            _pictures(pictures, ["before, the cell in magenta", "after the step"], 200)
            + _table(around, "1 alpha of its neighbours")
            + _table(views, "2 see: what it perceives", short, KERNEL_NAMES)
            + _table(hidden[here].reshape(-1, math.gcd(hidden.shape[-1], 8)), "3 think: hidden")
            + _table(update[here][None], "4 think: update", short, ["update"])
            + f"<p>{verdict}</p>"
            + _table(np.stack([state[here], after[here]]), "5 live", short, ["before", "after"])
        )

    distance = np.where(fire, np.abs(state[..., -1] - 0.5), np.inf)
    row, column = (int(i) for i in np.unravel_index(distance.argmin(), distance.shape))
    return _explorer(
        draw,
        "02_architecture",
        row=_slider(row, 0, height - 1),
        column=_slider(column, 0, width - 1),
    )


def loss_explorer(run: Run, factor: int = 4, side: int = 25) -> ipywidgets.Widget | HTML:
    """Move the loss window over a rollout, and walk about in the loss landscape (chapter 3).

    The landscape is a plane through the weights. Upwards lies the way from the untrained weights
    (0) to the trained ones (1) and beyond, to the right a random direction. Orange: the pattern
    exploded. Grey: it died. Elsewhere, the darker the better.

    Args:
        run: a trained run.
        factor: the rollout is this many times as long as training's.
        side: points along each axis of the landscape.

    Returns:
        Loss curve, landscape, and the pattern that grows at one point of it, with knobs for the
        window's width and end, the random direction (the number of a key), how far the landscape
        reaches along it, and the point: its way, and its noise as a share of the reach.

    Raises:
        ValueError: factor or side under 1.
    """
    if factor < 1 or side < 1:
        raise ValueError(f"factor and side must be at least 1, got {factor} and {side}")
    task, T, target = run.task, run.config.num_steps, jnp.asarray(run.target)
    fires, empty = task.fires(jax.random.key(0)), float(empty_loss(target))
    (first, unravel), last = ravel_pytree(task.params), ravel_pytree(run.params)[0]
    curve = np.asarray(mse(run.grow(jax.random.key(0), factor * T), target))
    low, high = -0.5, 1.5  # of the way

    def live(point, noise):
        """Loss after each step (T,), the last state, and whether anything is left of it."""
        model = task.merge(unravel(first + point[1] * (last - first) + point[0] * noise))

        def step(state, fire):
            state = model(state, fire)
            return state, mse(state, target)

        state, losses = jax.lax.scan(step, task.start, fires)
        return losses, state, jnp.any(state != 0)

    live_once = jax.jit(live)
    live_all = jax.jit(lambda points, noise: jax.lax.map(lambda p: live(p, noise)[::2], points))

    def normal(number):
        return jax.random.normal(jax.random.key(number), first.shape)

    @functools.lru_cache(maxsize=8)
    def landscape(number, reach):
        across, up = np.linspace(-reach, reach, side), np.linspace(high, low, side)
        points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
        return [np.asarray(x) for x in live_all(points, normal(number))]

    def fate(losses, alive):
        """The loss over the window, and whether the pattern exploded or died."""
        level = losses.mean(axis=-1)
        wild = ~(level < 1)  # NaN is not below 1
        return level, wild, ~alive & ~wild

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
        losses, lives = landscape(direction, reach)
        level, wild, dead = fate(losses[:, T - width :], lives)
        shade = np.clip((np.log10(np.maximum(level, 1e-9)) - np.log10(empty) + 1.2) / 1.6, 0, 1)
        colours = matplotlib.colormaps["viridis"](np.where(wild, 0, shade))
        pixels = np.rint(255 * colours[:, :3]).astype(np.uint8)
        pixels[wild], pixels[dead] = (213, 94, 0), (128, 128, 128)
        pixels = pixels.reshape(side, side, 3)
        row = round((high - way) / (high - low) * (side - 1))
        pixels[row, round((noise + 1) / 2 * (side - 1))] = 255
        here = live_once(np.array([noise * reach, way]), normal(direction))
        value, exploded, died = fate(here[0][-width:], here[2])
        state = "exploded" if exploded else "dead" if died else "alive"
        titles = [
            f"landscape, last {width} of {T} steps: {wild.mean():.0%} exploded, "
            f"{dead.mean():.0%} dead",
            f"at the white point: {state}, loss {value:.3g}",
        ]
        mean = curve[end - width + 1 : end + 1].mean()
        alt = f"Loss of one rollout of {factor * T} steps; its mean over the window is {mean:.4g}"
        return _figure(figure, alt) + _pictures([pixels, render.to_rgb(here[1])], titles, 220)

    return _explorer(
        draw,
        "03_loss",
        width=_slider(run.config.window, 1, T),
        end=_slider(T, 1, factor * T),
        direction=_slider(2, 0, 20),
        reach=_choice([0.03, 0.1, 0.3], 0.1),
        way=_share(1.0, low, high),
        noise=_share(0.0, -1.0, 1.0),
    )


REGIONS = ("nothing", "left half", "right half", "upper half", "lower half", "disc")


def growth_player(run: Run, path: str | os.PathLike = "growth.webp") -> ipywidgets.Widget | HTML:
    """Scrub through lives of a trained rule, look below the surface, and wound it (chapter 5).

    Args:
        run: a trained run.
        path: where "Export clip" writes to, a name ending in .webp, .png or .apng.

    Returns:
        The lives at one step, with knobs for the step, what is shown, the number of lives (each
        under fire masks of its own), their length in steps, and what is erased when.
    """
    task, (height, width, channels) = run.task, run.task.start.shape
    T, hidden = run.config.num_steps, [f"hidden {i}" for i in range(channels - 4)]
    angles = {"left half": np.pi, "right half": 0.0, "upper half": -np.pi / 2}
    angles["lower half"] = np.pi / 2

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
        if erase == "disc":
            region = disc(height, width, height / 2, width / 2, min(height, width) / 5)
        elif erase == "nothing":
            region = jnp.zeros((height, width), bool)
        else:
            region = half(height, width, angles[erase])
        states = np.asarray(grow(lives, steps, region, when)).swapaxes(0, 1)
        if view in hidden:
            values = np.nan_to_num(states[..., hidden.index(view)])
            pixels = _heat(values, max(1.0, np.abs(values[: T + 1]).max()))
        else:
            ground = render.checkerboard(height, width) if view == "on checks" else (1.0, 1.0, 1.0)
            pixels = render.to_rgb(states, ground, run.config.premultiply)
        return render.contact_sheet(pixels, columns=min(lives, 4))

    def draw(step, view, lives, steps, erase, when):
        if step > steps:
            raise ValueError(f"step must be 0 to {steps} (the number of steps), got {step}")
        title = f"step {step} of {steps}, {view}"
        if erase != "nothing":
            title += f", {erase} erased at step {when}"
        sheet = frames(view, lives, steps, erase, when)[step]
        return _pictures([sheet], [title], 220 if lives <= 4 else 440)

    knobs = dict(
        step=_slider(T, 0, 8 * T, live=True),
        view=_choice(["picture", "on checks", *hidden]),
        lives=_choice([1, 2, 4, 8], 4),
        steps=_choice([T, 2 * T, 4 * T, 8 * T], 2 * T),
        erase=_choice(REGIONS, "lower half"),
        when=_slider(T, 1, 8 * T),
    )
    if _is_static():
        shown = _defaults(knobs)
        clip = frames(*(shown[name] for name in ("view", "lives", "steps", "erase", "when")))
        alt = "{lives} lives of {steps} steps; {erase} erased at step {when}".format_map(shown)
        return _still(render.show_clip(clip[::2], alt, fps=12).data, shown, "05_visualization")
    box = _explorer(draw, "05_visualization", compiles=("lives", "steps"), **knobs)
    controls, message, _ = box.children
    values = dict(zip(knobs, controls.children, strict=True))
    play = ipywidgets.Play(min=0, max=2 * T, interval=100)
    ipywidgets.jslink((play, "value"), (values["step"], "value"))
    values["steps"].observe(lambda change: setattr(play, "max", change["new"]), "value")
    export = ipywidgets.Button(description="Export clip")

    def save(_):
        setting = [values[name].value for name in ("view", "lives", "steps", "erase", "when")]
        try:
            render.save_clip(path, render.upscale(frames(*setting), 4), fps=12)
        except (ValueError, OSError) as error:
            message.value = _notice(error)
        else:
            message.value = _notice(f"Wrote {path}.")

    export.on_click(save)
    box.children = (controls, ipywidgets.HBox([play, export]), *box.children[1:])
    return box


class Training:
    """A rule in training, a piece at a time: what the dashboard and the duel drive.

    It does what `nca_lib.train.train` does, with the same keys, and leaves the files to others.

    Args:
        config: what to train. `generations` counts those of `before`, too.
        before: a training to go on from. Only its weights, its history and its count of
            generations are taken over; the strategy begins anew around these weights.

    Raises:
        ValueError: the configuration cannot run, or has weights of another shape than `before`.
    """

    def __init__(self, config: Config, before: "Training | None" = None):
        self.config, self.task = config, make_task(config)
        self.done, self.seconds, self.history = 0, 0.0, []
        keys = jax.random.split(jax.random.key(config.seed), 3)
        self.key, self.measure_keys = keys[1], jax.random.split(keys[2], MEASURED)
        self.weights, rest = initial_weights(config, self.task.params), config.generations
        if before is not None:
            self.done, self.seconds, self.history = before.done, before.seconds, before.history[:]
            old, new = ([leaf.shape for leaf in jax.tree.leaves(w.weights)] for w in (before, self))
            if old != new:
                raise ValueError(f"cannot go on with weights of another shape, {new}: press Reset")
            self.weights, rest = before.weights, config.generations - before.done
        schedule = dataclasses.replace(config, generations=rest)  # of what is still to do
        self.trainer, self.evolve = make_trainer(self.task._replace(config=schedule))
        self.state = self.trainer.init(keys[0], self.weights)
        self.measure = make_measure(self.task)
        self.grow = jax.jit(lambda weights: self.task.frames(weights, jax.random.key(FRESH)))
        self.empty, self.count, self.rate = float(empty_loss(self.task.target)), 0, 0.0

    def advance(self, seconds: float = PIECE) -> None:
        """Train for about so many seconds, and append a row to the history.

        The first call compiles, which `self.seconds` does not count, and does one generation.

        Raises:
            RuntimeError, FloatingPointError: the population died or exploded.
        """
        if not self.count:
            self.evolve(self.state, self.key, self.done, 1)  # not used
        count = max(1, min(self.count, self.config.generations - self.done))
        clock = time.perf_counter()
        self.state, metrics = self.evolve(self.state, self.key, self.done, count)
        took = time.perf_counter() - clock
        self.done, self.seconds = self.done + count, self.seconds + took
        self.rate = count * self.config.population / took
        self.count = max(1, min(int(count * seconds / took), 4 * count))
        self.weights = self.trainer.mean(self.state)
        row = {"generation": self.done, "rollouts": self.done * self.config.population}
        row |= {"seconds": self.seconds}
        row |= {"loss": float(self.measure(self.weights, self.measure_keys).mean())}
        row |= {name: metrics[name].item() for name in HISTORY[4:]}
        self.history.append([row[name] for name in HISTORY])
        if self.config.age == 0 or not row["loss"] < self.empty:
            check_alive(metrics, self.config.population, self.empty, self.done)

    def columns(self) -> dict[str, list]:
        """The history as `nca_lib.render.plot_losses` takes it."""
        return dict(zip(HISTORY, zip(*self.history, strict=True), strict=True))

    def frames(self) -> np.ndarray:
        """What the weights grow, as pixels (T + 1, H, W, 3)."""
        return render.to_rgb(self.grow(self.weights), premultiplied=self.config.premultiply)

    def save(self, out: Path) -> None:
        """Write a run folder for `nca_lib.runs.load_run`.

        Its configuration ends at the generation reached. It names no command: a training that was
        paused and changed cannot be repeated by one.

        Raises:
            ValueError: the folder holds a run already.
            OSError: it cannot be written.
        """
        if (out / "run.json").exists():
            raise ValueError(f"{out} holds a run already; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        task = self.task._replace(config=dataclasses.replace(self.config, generations=self.done))
        write_run(out, task, self.weights, self.trainer.std(self.state), self.history, None)


class Loop:
    """Repeats a piece of work until it is told to stop; of all loops at most one runs.

    It runs in a thread, so that the notebook stays usable. Colab has been seen to drop what threads
    send to widgets. There it runs where it was started, in the handler of a click, and between two
    pieces lets the kernel handle one event that waits, such as the click on "Pause".

    Args:
        work: does one piece, and says whether there is more to do.
        ended: called at the end, with the message of the error that ended it or "".
    """

    lock = threading.Lock()  # held while one loop takes the place of another
    running: "Loop | None" = None

    def __init__(self, work: Callable[[], bool], ended: Callable[[str], None]):
        self.work, self.ended = work, ended
        self.stopping, self.thread = threading.Event(), None

    def start(self) -> None:
        """Start, after the loop that runs, if any, has done its piece and stopped.

        Raises:
            ValueError: on Colab, if a loop runs.
        """
        with Loop.lock:
            if Loop.running is not None and _must_poll():
                raise ValueError("another training runs: pause it first")
            Loop.stop_running()
            self.stopping.clear()
            Loop.running = self
            if not _must_poll():
                self.thread = threading.Thread(target=self._run, daemon=True)
                self.thread.start()
        if _must_poll():
            with _events() as handle_one:
                self._run(handle_one)

    def stop(self) -> None:
        """Ask it to stop after the piece at hand; `wait` for that."""
        self.stopping.set()

    def wait(self) -> None:
        """Wait until it has stopped."""
        if self.thread not in (None, threading.current_thread()):
            self.thread.join()

    @staticmethod
    def stop_running() -> None:
        """Stop the loop that runs, if any, and wait for it."""
        if (loop := Loop.running) is not None:
            loop.stop()
            loop.wait()

    def _run(self, handle_one: Callable[[], None] = lambda: None) -> None:
        message = ""
        try:
            while not self.stopping.is_set() and self.work():
                handle_one()
        except (ValueError, RuntimeError, ArithmeticError) as error:  # such as: all have died
            message = str(error)
        finally:
            Loop.running = None
            self.ended(message)


atexit.register(Loop.stop_running)  # a kernel that ends must not leave a thread inside of XLA


def evolution_dashboard(
    config: Config = PRESETS["pocket"], run: Run | None = None, folder: str = "my-run"
) -> ipywidgets.Widget | HTML:
    """Evolve a rule in the notebook, and turn the knobs while it learns (chapter 4).

    Making a dashboard stops what trains in another.

    Args:
        config: where the knobs begin; fields without a knob stay as they are here.
        run: a finished run, drawn beside the new one. It is what the static book shows.
        folder: where "Save" begins to write to: a run folder, see `nca_lib.runs.load_run`.

    Returns:
        Knobs, buttons, numbers, what the mean grows, and the loss. The gradient cosine is that of
        an estimate from as many pairs on a slope, √(n / (n + D)); see chapters 4 and 6.
    """
    emoji = list(dict.fromkeys([config.emoji, *list_emoji()]))
    whole, real = ipywidgets.IntText, ipywidgets.FloatText
    knobs = dict(
        emoji=_choice(emoji),
        population=_typed(whole, config.population),
        std=_typed(real, config.std, description="σ"),
        learning_rate=_typed(real, config.learning_rate),
        num_steps=_typed(whole, config.num_steps, description="steps"),
        channels=_typed(whole, config.channels),
        hidden=_typed(whole, config.hidden),
        generations=_typed(whole, config.generations),
    )

    def numbers(history, config, parameters, empty, rate):
        pairs, last = config.population // 2, dict(zip(HISTORY, history, strict=True))
        left = (config.generations - last["generation"]) * config.population / max(rate, 1e-9)
        return (
            f"<p>generation {last['generation']:,.0f} of {config.generations:,} · loss "
            f"<b>{last['loss']:.4f}</b> ({last['loss'] / empty:.0%} of an empty grid's) · "
            f"{rate:,.0f} rollouts/s · {left // 60:.0f} min {left % 60:.0f} s left · "
            f"gradient cosine about {math.sqrt(pairs / (pairs + parameters)):.2f}</p>"
        )

    def pictures(grown, target):
        titles = ["what the mean grows", "target"]
        return _pictures([grown, render.to_rgb(target)], titles, 200)

    before = {} if run is None else {"earlier run": run.history}
    if _is_static():
        if run is None:
            task = make_task(config)
            content = pictures(render.to_rgb(task.start), task.target)
        else:
            info, row = run.info, [run.history[name][-1] for name in HISTORY]
            rate = info["rollouts"] / info["seconds"]
            frame = render.to_rgb(
                run.grow(jax.random.key(FRESH))[-1], premultiplied=run.config.premultiply
            )
            content = numbers(row, run.config, info["parameters"], info["empty_loss"], rate)
            content += pictures(frame, run.target) + _losses(before, info["empty_loss"])
        return _still(content, _defaults(knobs), "04_es_training")

    training = None

    def wanted():
        values = {name: knob.value for name, knob in zip(knobs, controls.children, strict=True)}
        chosen = dataclasses.replace(config, **values)
        validate(chosen)
        if chosen.strategy != "backprop":
            check_population(chosen.population)
        return chosen

    def begin():
        nonlocal training
        chosen, old = wanted(), training
        if old is not None and old.done >= chosen.generations:
            raise ValueError(f"{old.done} generations are done: raise generations, or Reset")
        if old is None or chosen != old.config:
            training = Training(chosen, old)
            picture.value = pictures(training.frames()[-1], training.task.target)
        return training is not old

    def work():
        training.advance()
        show()
        return training.done < training.config.generations

    def show(finally_=False):
        if training is not None and training.history:
            size = sum(leaf.size for leaf in jax.tree.leaves(training.weights))
            row, rate = training.history[-1], training.rate
            text.value = numbers(row, training.config, size, training.empty, rate)
            picture.value = pictures(training.frames()[-1], training.task.target)
            draw_losses(finally_)

    @_sparingly
    def draw_losses():
        curve.value = _losses(before | {"this run": training.columns()}, training.empty)

    def reset():
        nonlocal training
        training = None
        for view in (text, picture, curve):
            view.value = ""

    def save(_):
        try:
            training.save(Path(where.value))
        except (ValueError, OSError) as error:
            message.value = _notice(error)
        else:
            message.value = _notice(f"Saved. To read it: nca_lib.load_run({where.value!r})")

    def changed(_):
        message.value = ""
        try:
            chosen = wanted()
        except ValueError as error:
            message.value = _notice(error)
            return
        if training is None or chosen == training.config:
            return
        if (chosen.channels, chosen.hidden) != (training.config.channels, training.config.hidden):
            note = "Other channels or hidden make weights of another shape: Reset, then Start."
        else:
            note = "Resume will compile anew, and search on from the present mean with this."
        message.value = _notice(note)

    controls = _controls(knobs, changed)
    text, picture, curve, message = (ipywidgets.HTML() for _ in range(4))
    keep = ipywidgets.Button(description="Save", disabled=True)
    keep.on_click(save)
    where = ipywidgets.Text(folder, description="to folder")
    buttons, loop = _buttons(begin, work, show, reset, message, [keep])
    box = ipywidgets.VBox([controls, buttons, where, message, text, picture, curve])
    box.observe(lambda _: loop.stop(), "comm")  # it changes when the box is closed
    return box


def duel(
    configs: Mapping[str, Config], runs: Mapping[str, Run] | None = None, seconds: float = 30
) -> ipywidgets.Widget | HTML:
    """Train two ways on one task, side by side and for equal time (chapter 6).

    They take turns: the next piece goes to the side that has had less time. Compiling does not
    count. Making a duel stops what trains in another widget.

    Args:
        configs: the sides by name, such as evolution and backprop.
        runs: finished runs of the same task, for the static book; without them it trains there,
            too, for at most 2 seconds.
        seconds: of training for each side, to begin with. A side that has done its generations
            waits for the others.

    Returns:
        Buttons, what each side grows, and the losses against seconds.

    Raises:
        ValueError: a configuration cannot run, or the sides differ in what is to be grown.
    """
    same = ("emoji", "size", "padding", "premultiply", "num_steps", "window")
    for config in configs.values():
        validate(config)
        for name in same:
            values = [getattr(c, name) for c in configs.values()]
            if len(set(values)) > 1:
                raise ValueError(f"{name} must be the same on all sides, got {values}")
    knobs = dict(seconds=_typed(ipywidgets.FloatText, float(seconds)))
    sides = {}

    def work(limit):
        """One piece for the side that has had the least time; whether there is more to do."""
        if not sides:
            sides.update({name: Training(config) for name, config in configs.items()})
        if rest := unfinished(limit):
            min(rest, key=lambda side: side.seconds).advance(PIECE / 2)
        return bool(unfinished(limit))

    def unfinished(limit):
        return [
            side
            for side in sides.values()
            if side.seconds < limit and side.done < side.config.generations
        ]

    def report():
        """A line for each side."""
        rows = {name: side.history[-1] for name, side in sides.items()}
        return [_standing(name, *row[1:4]) for name, row in rows.items()]

    def grown():
        """The patterns side by side, growing."""
        return _race([side.frames() for side in sides.values()], report())

    def losses():
        histories = {name: side.columns() for name, side in sides.items()}
        return _losses(histories, next(iter(sides.values())).empty, "seconds")

    if _is_static() and runs:
        frames = [render.to_rgb(run.grow(jax.random.key(FRESH))) for run in runs.values()]
        histories = {name: run.history for name, run in runs.items()}
        columns = ("rollouts", "seconds", "loss")
        lines = [_standing(n, *(h[c][-1] for c in columns)) for n, h in histories.items()]
        empty = next(iter(runs.values())).info["empty_loss"]
        content = _race(frames, lines) + _losses(histories, empty, "seconds", xscale="log")
        return _still(content, {}, "06_es_vs_backprop")
    if _is_static():
        seconds = min(seconds, 2.0)
        while work(seconds):
            pass
        return _still(grown() + losses(), {"seconds": seconds}, "06_es_vs_backprop")

    def begin():
        if not 0 < (limit := controls.children[0].value) < math.inf:
            raise ValueError(f"seconds must be positive, got {limit}")
        if sides and not unfinished(limit):
            raise ValueError("all sides have had their time: raise the seconds, or Reset")
        return not sides

    def piece():
        going_on = work(controls.children[0].value)
        show()
        return going_on

    def show(finally_=False):
        if not sides or not all(side.history for side in sides.values()):
            return
        if finally_:
            picture.value = grown()
        else:
            last = [side.frames()[-1] for side in sides.values()]
            picture.value = _pictures(last, report(), 200)
        draw_losses(finally_)

    @_sparingly
    def draw_losses():
        curve.value = losses()

    def reset():
        sides.clear()
        picture.value = curve.value = ""

    picture, curve, message = (ipywidgets.HTML() for _ in range(3))
    controls = _controls(knobs, lambda _: None)
    buttons, loop = _buttons(begin, piece, show, reset, message)
    box = ipywidgets.VBox([controls, buttons, message, picture, curve])
    box.observe(lambda _: loop.stop(), "comm")  # it changes when the box is closed
    return box


def _is_static() -> bool:
    return bool(os.environ.get("NCA_BOOK"))


def _must_poll() -> bool:
    """Whether this is Colab, with a kernel that can be asked to handle an event (ipykernel 6)."""
    if "google.colab" not in sys.modules:
        return False
    return hasattr(getattr(get_ipython(), "kernel", None), "do_one_iteration")


@contextlib.contextmanager
def _events() -> Iterator[Callable[[], None]]:
    """Make it possible to handle one waiting event of the kernel; cells wait until the end."""
    kernel = get_ipython().kernel
    parent, waiting = kernel.get_parent(), []
    execute = kernel.shell_handlers["execute_request"]

    async def wait(stream, ident, request):
        waiting.append((stream, ident, request))

    async def run(stream, ident, request):
        kernel.set_parent(ident, request)
        await execute(stream, ident, request)

    def handle_one():
        try:
            kernel.do_one_iteration().send(None)  # to its end: no handler but `run` ever waits
        except StopIteration:
            pass
        kernel.set_parent([], parent)  # what follows belongs to the click again

    kernel.shell_handlers["execute_request"] = wait
    try:
        yield handle_one
    finally:
        kernel.shell_handlers["execute_request"] = execute
        for request in waiting:
            kernel.schedule_dispatch(run, *request)


def _knob(kind: type, value: Any, **options: Any) -> Callable[..., ipywidgets.Widget]:
    """A knob that is not made yet: a static page must not hold any."""
    return functools.partial(kind, value=value, **options)


def _slider(value: int, low: int, high: int, step: int = 1, live: bool = False):
    options = dict(min=low, max=high, step=step, continuous_update=live)
    return _knob(ipywidgets.IntSlider, value, **options)


def _share(value: float, low: float, high: float):
    options = dict(min=low, max=high, step=0.05, continuous_update=False)
    return _knob(ipywidgets.FloatSlider, value, **options)


def _choice(options: Iterable, value: Any = None):
    options = list(options)
    return _knob(ipywidgets.Dropdown, options[0] if value is None else value, options=options)


def _typed(kind: type, value: Any, **options: Any):
    return _knob(kind, value, continuous_update=False, **options)


def _defaults(knobs: Mapping) -> dict[str, Any]:
    return {name: knob.keywords["value"] for name, knob in knobs.items()}


def _controls(knobs: Mapping, changed: Callable[[Any], None]) -> ipywidgets.HBox:
    """Make the knobs, in a row that wraps."""
    made = []
    for name, knob in knobs.items():
        options = {"description": name.replace("_", " "), "style": {"description_width": "auto"}}
        made.append(knob(**options | knob.keywords))
        made[-1].observe(changed, "value")
    return ipywidgets.HBox(made, layout=ipywidgets.Layout(flex_flow="row wrap"))


def _explorer(
    draw: Callable[..., str], chapter: str, compiles: Sequence[str] = (), **knobs: Callable
) -> ipywidgets.VBox | HTML:
    """Redraw whenever a knob is turned.

    Args:
        draw: values of all knobs, by name -> HTML.
        chapter: the notebook this is for.
        compiles: knobs whose every new combination makes `draw` compile anew.
        knobs: from `_knob`, by name.

    Returns:
        A box of the knobs, the message and the picture.
    """
    if _is_static():
        return _still(draw(**_defaults(knobs)), _defaults(knobs), chapter)
    message, picture, compiled = ipywidgets.HTML(), ipywidgets.HTML(), set()

    def update(_=None):
        values = {name: knob.value for name, knob in zip(knobs, controls.children, strict=True)}
        shape = tuple(values[name] for name in compiles)
        setting = ", ".join(f"{name} {values[name]}" for name in compiles)
        is_new = bool(compiled) and shape not in compiled
        if is_new:
            message.value = _notice(f"Compiling anew for {setting} ...")
        try:
            picture.value = draw(**values)
        except ValueError as error:
            message.value = _notice(error)
        else:
            compiled.add(shape)
            message.value = _notice(f"Compiled anew for {setting}.") if is_new else ""

    controls = _controls(knobs, update)
    update()
    return ipywidgets.VBox([controls, message, picture])


def _buttons(
    begin: Callable[[], bool],
    work: Callable[[], bool],
    show: Callable[[bool], None],
    reset: Callable[[], None],
    message: ipywidgets.HTML,
    others: Sequence[ipywidgets.Button] = (),
) -> tuple[ipywidgets.HBox, Loop]:
    """Make the buttons that drive a training.

    Args:
        begin: gets ready, and says whether there will be a compilation.
        work: see `Loop`.
        show: draws everything, once the loop has ended.
        reset: forgets the training.
        message: where to say what is the matter.
        others: buttons for a training that has begun and is paused.

    Returns:
        The buttons, and the loop that they drive.
    """
    Loop.stop_running()  # it may be of this cell's last execution, and out of reach
    compiling = _notice("Compiling: some seconds.")

    def piece():
        going_on = work()
        if message.value == compiling:
            message.value = ""
        return going_on

    def ended(error):
        show(True)
        ready(True)
        message.value = _notice(error) if error else ""

    def ready(begun):
        start.description = "Resume" if begun else "Start"
        start.disabled, pause.disabled = False, True
        for button in (again, *others):
            button.disabled = not begun

    def run(_):
        try:
            message.value = compiling if begin() else ""
            start.disabled, pause.disabled = True, False
            for button in (again, *others):
                button.disabled = True
            loop.start()
        except ValueError as error:
            ready(start.description == "Resume")
            message.value = _notice(error)

    def stop(_):
        pause.disabled = True
        loop.stop()

    def forget(_):
        loop.wait()
        reset()
        ready(False)
        message.value = ""

    loop = Loop(piece, ended)
    start, pause, again = (ipywidgets.Button() for _ in range(3))
    pause.description, again.description = "Pause", "Reset"
    for button, click in ((start, run), (pause, stop), (again, forget)):
        button.on_click(click)
    ready(False)
    return ipywidgets.HBox([start, pause, again, *others]), loop


def _sparingly(draw: Callable[[], None], share: float = 0.03) -> Callable[[bool], None]:
    """Draw only so often that it takes this share of the time, unless it is the last time."""
    due = 0.0

    def perhaps(finally_: bool = False) -> None:
        nonlocal due
        clock = time.monotonic()
        if finally_ or clock >= due:
            draw()
            due = time.monotonic() + (time.monotonic() - clock) / share

    return perhaps


def _still(content: str, values: Mapping[str, Any], chapter: str) -> HTML:
    """Show a widget on a static page: its picture, where its knobs stand, and where it is live."""
    knobs = " · ".join(
        f"{name.replace('_', ' ')} <b>{v}</b>" for name, v in values.items() if v != ""
    )
    caption, address = "Live in Colab or Jupyter.", os.environ["NCA_BOOK"]
    if address.startswith("https://"):
        link = html.escape(f"{address.rstrip('/')}/{chapter}.ipynb")
        caption = f'<a class="nca-launch" href="{link}">{caption}</a>'
    style = "border:1px solid #888;border-radius:4px;padding:.75rem;margin:0 0 1rem"
    return HTML(
        f'<figure class="nca-still" style="{style}"><p>{knobs}</p>{content}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _notice(text: object) -> str:
    style = "background:#fff3cd;color:#222;padding:.25em .5em;margin:0"
    return f'<p role="status" style="{style}">{html.escape(str(text))}</p>'


def _pictures(pictures: Sequence[np.ndarray], titles: Sequence[str], height: int) -> str:
    return render.show_images(pictures, titles, titles, height).data


def _figure(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    style = "max-width:100%;height:auto"
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" style="{style}">'


def _standing(name: str, rollouts: float, seconds: float, loss: float) -> str:
    return f"{name}: loss {loss:.4f} after {seconds:.1f} s, {rollouts:,.0f} rollouts"


def _race(clips: Sequence[np.ndarray], lines: Sequence[str]) -> str:
    """Clips (T, H, W, 3) as one, side by side."""
    sheet, text = render.contact_sheet(np.stack(clips, axis=1), len(clips), gap=4), "; ".join(lines)
    return render.show_clip(sheet, text, text, fps=12, zoom=6).data


def _losses(
    histories: Mapping[str, Mapping], empty: float, x: str = "rollouts", xscale: str = "linear"
) -> str:
    ends = [f"{name} ends at {history['loss'][-1]:.4f}" for name, history in histories.items()]
    figure = render.plot_losses(histories, x, levels={"empty grid": empty})
    if xscale != "linear":
        figure.axes[0].set(xscale=xscale)
    return _figure(figure, f"Loss against {x}: {', '.join(ends)}; empty grid {empty:.4f}")


def _check_state(state: ArrayLike) -> tuple[np.ndarray, list[str]]:
    """One state as NumPy, and the names of its channels."""
    state = np.asarray(state, np.float32)
    if state.ndim != 3 or state.shape[-1] < 4:
        raise ValueError(f"state must be (H, W, C) with at least 4 channels, got {state.shape}")
    return state, [*(f"hidden {i}" for i in range(state.shape[-1] - 4)), *"RGB", "alpha"]


def _heat(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Colour values of either sign: uint8 (..., 3), orange below zero, purple above."""
    limit = limit or np.abs(values).max() or 1.0
    colours = matplotlib.colormaps["PuOr"](0.5 + values / (2 * limit))
    return np.rint(255 * colours[..., :3]).astype(np.uint8)


def _table(
    values: np.ndarray,
    title: str,
    columns: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
) -> str:
    """A small matrix as a table, each number on its colour."""
    cell = "padding:.1em .4em;text-align:right;font-variant-numeric:tabular-nums"
    head = ""
    if columns is not None:
        names = ["", *columns] if rows is not None else columns
        head = "<tr>" + "".join(f'<th scope="col">{name}</th>' for name in names) + "</tr>"
    body = ""
    limit = np.abs(values).max() or 1.0
    for i, line in enumerate(values):
        body += "<tr>" + (f'<th scope="row">{rows[i]}</th>' if rows is not None else "")
        for value, colour in zip(line, _heat(line, limit), strict=True):
            ink = "#fff" if abs(value) > 0.6 * limit else "#000"
            fill = "#" + bytes(colour.tolist()).hex()
            body += f'<td style="{cell};background:{fill};color:{ink}">{value:.2f}</td>'
        body += "</tr>"
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:.5em 0">'
        f'<caption style="text-align:left;white-space:nowrap">{title}</caption>{head}{body}'
        "</table></div>"
    )
