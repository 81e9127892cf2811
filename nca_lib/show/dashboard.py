"""Evolve in a notebook: buttons in front of one training, or of two that race (chapters 4 and 6).

In the static book each function shows a finished run instead; see `nca_lib.show.widgets`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets
import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import HTML

from nca_lib.lab import images
from nca_lib.lab.config import FRESH, PRESETS, Config
from nca_lib.lab.runs import HISTORY, Run
from nca_lib.show import figures
from nca_lib.show.knobs import (
    button_for,
    figure_of,
    is_static,
    make_knobs,
    notice,
    pictures_of,
    refusals,
    row_of,
    still,
)
from nca_lib.show.session import PIECE, Loop, Training
from nca_lib.target import list_emoji

TURNED = ("channels", "hidden", "num_steps", "population", "std", "std_rate", "learning_rate")
TURNED += ("generations",)


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
        (side,) = sides.values()
        return _numbers(side)

    def losses(sides):
        return _losses(earlier | sides, "rollouts")

    if is_static():
        content = "" if run is None else show(earlier, True) + losses({})
        shown = still(content, knobs, "04_es_training").data  # what those see who have no scripts
        return HTML(f'<div class="nca-evolve" data-size="small">{shown}</div>')

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
        with refusals(message):
            if wanted() not in [side.config for side in sides.values()] and sides:
                note = "Resume will compile anew, and search on from the present mean with this."
                message.value = notice(note)

    def save(_):
        with refusals(message):
            sides["this run"].save(Path(where.value))
            message.value = notice(f"Saved. To read it: nca_lib.load_run({where.value!r})")

    made, message = make_knobs(knobs, changed), ipywidgets.HTML()
    keep = button_for("Save", save)
    where = ipywidgets.Text(folder, description="to folder")
    return _trainer(sides, made, message, begin, show, losses, [keep, where])


def _numbers(side: Run | Training) -> str:
    """Numbers, as soon as there are some, what the mean grows, and the target."""
    config, history = side.config, side.history
    target = images.to_rgb(side.task.target, premultiplied=config.premultiply)
    titles = ["what the mean grows", "target"]
    pictures = pictures_of([_frames(side)[-1], target], titles, 200)
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
            return pictures_of([clip[-1] for clip in clips], lines, 200)
        sheet = images.contact_sheet(np.stack(clips, axis=1), len(clips), gap=4)
        return figures.show_clip(sheet, "; ".join(lines), "; ".join(lines), fps=12, zoom=6).data

    if is_static():
        content = show(runs, True) + _losses(runs, "seconds") if runs else ""
        return still(content, {}, "06_es_vs_backprop")
    sides = {}

    def begin():
        if not 0 < (limit := knobs["seconds"].value) < math.inf:
            raise ValueError(f"seconds must be positive, got {limit}")
        if not sides:
            sides.update({name: Training(config) for name, config in configs.items()})
        return limit

    knobs = make_knobs({"seconds": (float(seconds), float)}, lambda _: None)

    def losses(sides):
        return _losses(sides, "seconds")

    return _trainer(sides, knobs, ipywidgets.HTML(), begin, show, losses)


def _trainer(
    sides: dict[str, Training],
    knobs: Mapping[str, ipywidgets.Widget],
    message: ipywidgets.HTML,
    begin: Callable[[], float],
    show: Callable[[Mapping[str, Training], bool], str],
    losses: Callable[[Mapping[str, Training]], str],
    others: Sequence[ipywidgets.Widget] = (),
) -> ipywidgets.VBox:
    """Put buttons in front of trainings that take turns.

    Args:
        sides: the trainings by name, filled by `begin`.
        knobs: from `make_knobs`.
        message: where to say what is the matter.
        begin: makes the sides, or new ones for knobs that were turned, and gives the seconds that
            each may have in all.
        show: (sides, whether they have ended) -> HTML, after each piece.
        losses: sides -> HTML, now and then.
        others: what can be used while a training that has begun is paused.

    Returns:
        A box of knobs, buttons, message, picture and losses.
    """
    Loop.stop_running()  # it may be of this cell's last execution, and out of reach
    compiling, pieces, limit = notice("Compiling: some seconds."), itertools.count(), 0.0
    picture, curve = ipywidgets.HTML(), ipywidgets.HTML()

    def piece():
        min(_unfinished(sides, limit), key=lambda side: side.seconds).advance(PIECE / len(sides))
        if message.value == compiling:
            message.value = ""
        picture.value = show(sides, False)
        if next(pieces) % 6 == 0:  # it takes long
            curve.value = losses(sides)
        return bool(_unfinished(sides, limit))

    def ended(error):
        picture.value, curve.value = show(sides, True), losses(sides)
        message.value = notice(error) if error else ""
        enable(running=False, begun=True)

    def run(_):
        nonlocal limit
        with refusals(message):
            Loop.stop_running()
            old, limit = dict(sides), begin()
            if not _unfinished(sides, limit):
                raise ValueError("all sides have had their time: raise the seconds, or Reset")
            message.value = "" if sides == old else compiling
            enable(running=True, begun=True)
            picture.value = show(sides, False)
            loop.start()

    def stop(button):
        button.disabled = True
        loop.stop()

    def forget(_):
        sides.clear()
        enable(running=False, begun=False)
        message.value = picture.value = curve.value = ""

    loop = Loop(piece, ended)
    buttons = [button_for(*named) for named in (("Start", run), ("Pause", stop), ("Reset", forget))]
    enable = functools.partial(_enable, buttons, others)
    enable(running=False, begun=False)
    rows = [row_of(knobs.values()), row_of([*buttons, *others])]
    box = ipywidgets.VBox([*rows, message, picture, curve])
    box.observe(lambda _: loop.stop(), "comm")  # it changes when the box is closed
    return box


def _unfinished(sides: Mapping[str, Training], limit: float) -> list[Training]:
    """Those that have time left, in seconds, and generations."""
    rest = [side for side in sides.values() if side.seconds < limit]
    return [side for side in rest if side.done < side.config.generations]


def _enable(buttons: Sequence, others: Sequence, running: bool, begun: bool) -> None:
    """Make Start, Pause, Reset and others answer where they have a meaning."""
    start, pause, again = buttons
    start.description = "Resume" if begun else "Start"
    start.disabled, pause.disabled = running, not running
    for widget in (again, *others):
        widget.disabled = running or not begun


def _frames(side: Run | Training) -> np.ndarray:
    """What it grows, as pixels (T + 1, H, W, 3)."""
    return images.to_rgb(side.frames(jax.random.key(FRESH)), premultiplied=side.config.premultiply)


def _layers(side: Run | Training) -> str:
    """Of each layer the sigma, and how much of what its cells see is independent."""
    shared = side.task.start, side.task.fires(jax.random.key(FRESH))
    if isinstance(side, Run):
        std, seen = side.info["std"], side.task.look(side.params, shared)
    else:
        std, seen = side.std(), side.look(side.weights, shared)
    parts = []
    for name, moment in seen.items():
        if f"{name}.kernel" in std and jnp.isfinite(moment).all():
            alike = float(jnp.trace(moment) ** 2 / jnp.sum(moment**2))
            parts.append(
                f"{name} layer: noise of the weights {std[f'{name}.kernel']:.4f}, {len(moment)} "
                f"inputs that vary like {alike:.1f} independent ones"
            )
    return f"<p>{' · '.join(parts)}</p>"


def _losses(sides: Mapping[str, Run | Training], x: str) -> str:
    histories = {k: side.history for k, side in sides.items() if len(side.history["loss"])}
    if not histories:
        return ""
    empty = next(iter(sides.values())).task.empty_loss()
    ends = [f"{name} ends at {history['loss'][-1]:.4f}" for name, history in histories.items()]
    figure = figures.plot_losses(histories, x, levels={"empty grid": empty})
    if len(histories) > 1:  # of which one may be much longer than another
        figure.axes[0].set(xscale="log")
    return figure_of(figure, f"Loss against {x}: {', '.join(ends)}; empty grid {empty:.4f}")
