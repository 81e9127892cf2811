"""Evolve in a notebook: knobs in front of one training, or of several that race (chapters 5 and 8).

In the static book each function shows a finished run instead; see `nca_lib.show.widgets`.
"""

import copy
import dataclasses
import datetime
import functools
from collections.abc import Mapping
from pathlib import Path

import ipywidgets
import jax
import numpy as np
from IPython.display import HTML
from jax.flatten_util import ravel_pytree
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure

from nca_lib.lab import images
from nca_lib.lab.config import FRESH, PRESETS, Config
from nca_lib.lab.runs import HISTORY, Run
from nca_lib.model import check
from nca_lib.show import figures, knobs
from nca_lib.show.knobs import Shown, grid_of, is_static, kept, make_knobs, notice, refusals, still
from nca_lib.show.session import LIVE, Driver, Training
from nca_lib.target import list_emoji

ANEW = ("population", "num_steps", "window", "channels", "hidden")
ALIKE = ("goal", "emoji", "size", "padding", "premultiply", "num_steps", "window")  # in a duel
# What becomes of members, and its colours.
FATES = {"alive": "#8fbcdb", "dead": "#808080", "exploded": "#d55e00"}
# One click each: what differs from the start.
STORIES = {"Good": {}, "Too small": {"std": 0.001, "std_rate": 0}, "Dies": {"std": 0.5}}
STORIES |= {"Explodes": {"std": 1}, "Tiny population": {"population": 8}}
STORIES |= {"No shared luck": {"shared_luck": False}, "No ranks": {"ranks": False}}


def evolution_dashboard(
    config: Config = PRESETS["pocket"], run: Run | None = None, folder: str = "my-run"
) -> Shown:
    """Evolve a rule in the notebook, and turn the knobs while it learns.

    It needs nothing from the cells before it. Making a dashboard stops what trains in another.
    Explained in chapter 5, "Turn the knobs".

    Args:
        config: where the knobs begin; fields without a knob stay as they are here.
        run: a finished run, drawn beside the new one. It is what the static book shows.
        folder: where "Save" begins to write to: a run folder, see `nca_lib.lab.runs.load_run`.

    Returns:
        Knobs, buttons, members of the coming generation by loss (the dead framed grey, the exploded
        orange) and how many score what, what the mean grows, the loss, and a ledger of all that was
        started.

    Raises:
        ValueError: the configuration does not evolve towards a picture, or cannot run.
    """
    check(config.strategy != "backprop", "strategy", config.strategy, "one of evolution")
    check(config.goal == "target", "goal", config.goal, "'target'")
    earlier = {} if run is None else {"earlier run": run}
    if is_static():
        told = knobs.settings(config, (*LIVE, *ANEW))
        shown = still(_side_by_side(earlier), told, "05_es_training").data
        return HTML(f'<div class="nca-evolve" data-size="small">{shown}</div>')  # without scripts
    return _Dashboard(config, earlier, folder).box


class _Dashboard:
    """The knobs, the ledger of trials, and what is to be seen of the present one."""

    def __init__(self, config: Config, earlier: Mapping[str, Run], folder: str):
        self.first, self.earlier, self.count = config, earlier, 0
        emoji = config.emoji, list(dict.fromkeys([config.emoji, *list_emoji()]))
        given = knobs.settings(config, (*LIVE, *ANEW)) | {"emoji": emoji}
        self.knobs, self.view = make_knobs(given, self.turned), ipywidgets.HTML()
        self.ledger = ipywidgets.SelectMultiple(layout={"width": "auto", "height": "4.5em"})
        self.ledger.observe(lambda _: self.redraw(), "value")
        self.folder = ipywidgets.Text(folder, description="Folder", layout={"flex": "1 1 9em"})
        self.driver = Driver({}, self.show)
        self.enter(Training(config))
        self.box = kept(grid_of([self.controls(), self.view], 400))

    def controls(self) -> ipywidgets.VBox:
        """All that can be clicked and moved."""
        acts = {"Reset": lambda: self.enter(Training(self.trial.config))}
        acts |= {"Rewind": lambda: self.enter(self.trial.rewound())}
        acts |= {"Restore": self.restore, "Delete": self.delete, "Save": self.save}
        acts |= {name: functools.partial(self.tell, story) for name, story in STORIES.items()}
        acts = [self.driver.button(*act) for act in acts.items()]
        row = functools.partial(ipywidgets.HBox, layout={"flex_flow": "row wrap"})
        rows = [row([*self.driver.buttons, *acts[:2]]), row(acts[5:]), self.driver.message]
        for name in LIVE:
            says = f'<p style="line-height:1.2">{knobs.page_knobs()[name][2]}</p>'
            rows += [self.knobs[name], ipywidgets.HTML(says)]
        rows += [ipywidgets.HTML("<b>These begin a new trial:</b>")]
        rows += [grid_of([self.knobs[name] for name in (*ANEW, "emoji")], 190), self.ledger]
        return ipywidgets.VBox([*rows, row([*acts[2:5], self.folder])])

    def enter(self, trial: Training) -> None:
        """Begin with a trial; that before it goes to the ledger."""
        Driver.stop_running()
        self.trial, self.count = trial, self.count + 1
        self.follow()
        for name, old in self.driver.sides.items():
            if old.done:
                changed = sorted(vars(old.config).items() - vars(self.first).items())
                told = [f"{name}: loss {old.last['loss']:.4f}"]
                told += [f"{knobs.label(field)} {value}" for field, value in changed]
                self.ledger.options = [*self.ledger.options, (", ".join(told), old)]
                self.ledger.value = [old]
        self.driver.reset({f"trial {self.count}": trial})

    def follow(self) -> None:
        """Let the knobs show what trains."""
        for name, knob in self.knobs.items():
            knob.value = vars(self.trial.config)[name]

    def turned(self, name: str, value: float) -> None:
        """Change the trial and show the coming generation with it, or begin a new trial."""
        if vars(self.trial.config)[name] == value:
            return
        with refusals(self.driver.message):
            config = dataclasses.replace(self.trial.config, **{name: value})
            if name in LIVE:
                self.trial.config = config
                self.redraw()
            else:
                self.enter(Training(config))
        self.follow()  # where it was refused

    def tell(self, story: Mapping) -> None:
        """Start a story: the first settings, but for what it is about."""
        self.enter(Training(dataclasses.replace(self.first, **story)))
        self.driver.start()

    def restore(self) -> None:
        check(self.ledger.value, "trial", None, "one that is clicked in the list")
        self.enter(copy.copy(self.ledger.value[-1]))

    def delete(self) -> None:
        gone = self.ledger.value
        self.ledger.options = [item for item in self.ledger.options if item[1] not in gone]

    def save(self) -> None:
        name = self.folder.value.strip()
        fine = name and self.trial.done and Driver.running is not self.driver
        check(fine, "folder", name, "a name, and that something has trained and pauses")
        self.driver.message.value = notice("Saving.")
        self.trial.save(Path(name).expanduser())
        self.driver.message.value = notice(f"Saved. To read it: nca_lib.load_run({name!r})")

    def redraw(self) -> None:
        """Draw what stands still; what trains is drawn soon."""
        if self.trial in self.driver.sides.values() and Driver.running is not self.driver:
            self.show()

    def show(self) -> None:
        """Draw the present trial, and its curve over those that are chosen."""
        chosen = dict(zip(self.ledger.label, self.ledger.value, strict=True))
        curves = _losses(self.earlier | chosen | self.driver.sides)
        trial = self.trial
        self.view.value = _numbers(trial) + _offspring(trial) + _growth(trial) + curves


def duel(configs: Mapping[str, Config], runs: Mapping[str, Run] | None = None) -> Shown:
    """Train in several ways on one task, side by side and for equal time.

    They take turns: the next piece goes to the side that has had less time. Compiling does not
    count. A side that dies says so, and the others go on. Making a duel stops what trains in
    another widget. Explained in chapter 8, "The same task, twice".

    Args:
        configs: the sides by name, such as evolution and backprop.
        runs: finished runs of the same task by name, which the static book shows.

    Returns:
        Buttons, and for each side its knobs, if it evolves, and what it grows; the losses.

    Raises:
        ValueError: one cannot run, or they differ in what is to be grown.
    """
    for name in ALIKE:
        values = [getattr(config, name) for config in configs.values()]
        check(len(set(values)) == 1, name, values, "the same on all sides")
    if is_static():
        chapter = "08_es_vs_backprop" if runs else "05_es_training"
        return still(_side_by_side(runs or {}), {}, chapter)
    shown = {name: ipywidgets.HTML() for name in configs}
    columns, curves = [], ipywidgets.HTML()

    def show():
        for name, side in driver.sides.items():
            shown[name].value = _numbers(side) + _growth(side)
        curves.value = _losses(driver.sides, "seconds")

    def change(side, name, value):
        trial = driver.sides[side]
        trial.config = dataclasses.replace(trial.config, **{name: value})

    driver = Driver({name: Training(config) for name, config in configs.items()}, show)
    for name, config in configs.items():
        live = [] if config.strategy == "backprop" else [*LIVE][:3]
        made = make_knobs(knobs.settings(config, live), functools.partial(change, name))
        columns.append(ipywidgets.VBox([ipywidgets.Label(name), *made.values(), shown[name]]))
    driver.reset(driver.sides)
    row = ipywidgets.HBox([*driver.buttons, driver.button("Reset", driver.reset)])
    return kept(ipywidgets.VBox([row, driver.message, grid_of(columns, 250), curves]))


def _numbers(side: Training) -> str:
    """Where a training stands, in a line, and what has become of it."""
    total = side.config.generations
    if not side.done:
        return f"<div>Before the first generation, at σ {side.config.std:g}.</div>{side.fate}"
    done, rollouts, seconds, loss = (side.last[name] for name in HISTORY[:4])
    left = datetime.timedelta(seconds=round(max(0, total - done) * seconds / done))
    learned = ravel_pytree(side.strategy.std(side.state))[0]
    sigma = f"σ now {learned.mean():.2g} · " if learned.size else ""
    return (
        f'<div style="line-height:1.3">generation {done:,} of {total:,} · loss <b>{loss:.4f}</b> '
        f"({loss / side.task.empty_loss():.0%} of an empty grid's) · {sigma}"
        f"{rollouts / seconds:,.0f} rollouts/s · {left} left</div>{side.fate}"
    )


def _offspring(side: Training) -> str:
    """Sixteen members by loss, and how many of all that were looked at score what."""
    fitness, states = side.offspring()
    # Four times the empty grid's loss is an explosion, as on the page that evolves.
    edges, count = side.task.empty_loss() * 2.0 ** np.arange(-5, 2.5, 0.5), len(fitness)
    fate = np.where(fitness < edges[-1], ~states.any(axis=(1, 2, 3)), 2)
    some = np.linspace(0, count - 1, min(count, 16)).astype(int)
    colours = ["white", FATES["dead"], FATES["exploded"]]
    frames = to_rgba_array(colours)[fate[some], None, None, :3]
    framed = np.pad(states[some], [(0, 0), (3, 3), (3, 3), (0, 0)])
    sheet = images.contact_sheet(images.to_rgb(framed, frames, side.config.premultiply), 4)
    scores = np.nan_to_num(fitness, nan=np.inf).clip(*edges[[0, -1]])
    parts = [scores[fate == kind] for kind in range(3)]
    told = (
        f"{count} members at σ {side.config.std:g}: {len(parts[1])} dead, {len(parts[2])} exploded"
    )
    figure = Figure(figsize=(4, 2.1), layout="tight")
    axes = figure.add_subplot(xscale="log", xlabel="loss")
    axes.set_title(told, fontsize="medium")
    axes.hist(parts, edges, stacked=True, color=[*FATES.values()], label=[*FATES])
    axes.legend(frameon=False, loc="upper left")
    picture = figures.show_images([sheet], f"{told}; the best first", height=170).data
    return f'<div style="display:flex">{picture}{knobs.figure_of(figure, told)}</div>'


def _growth(side: Run | Training) -> str:
    """What the mean grows, and the target."""
    shown = side.frames(jax.random.key(FRESH))[-1], side.task.target
    pixels = [images.to_rgb(state, premultiplied=side.config.premultiply) for state in shown]
    return knobs.pictures_of(pixels, ["what the mean grows", "target"], 90)


def _losses(sides: Mapping[str, Run | Training], x: str = "rollouts") -> str:
    """The curves, with a mark where a setting was changed."""
    drawn = {name: side for name, side in sides.items() if len(side.history["loss"])}
    if not drawn:
        return ""
    empty = next(iter(drawn.values())).task.empty_loss()
    histories = {name: side.history for name, side in drawn.items()}
    figure = figures.plot_losses(histories, x, levels={"empty grid": empty})
    figure.set_size_inches(6, 2.3)
    figure.axes[0].set(xscale="log")  # one may be much longer than another
    figure.axes[0].legend(loc="lower left", frameon=False)  # to look for the best place takes long
    for side in drawn.values():
        for _, last, *_ in getattr(side, "spells", [])[1:]:
            figure.axes[0].axvline(last[x], color="#666666", linewidth=1, linestyle="--")
    ends = [f"{name} ends at {history['loss'][-1]:.4f}" for name, history in histories.items()]
    return knobs.figure_of(figure, f"Loss against {x}: {', '.join(ends)}; empty grid {empty:.4f}")


def _side_by_side(runs: Mapping[str, Run]) -> str:
    """What finished runs have grown, and their curves."""
    return "".join(f"<b>{name}</b>{_growth(run)}" for name, run in runs.items()) + _losses(runs)
