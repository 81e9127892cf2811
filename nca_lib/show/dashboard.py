"""Evolve in a notebook: knobs in front of one training, or of several that race (chapters 5 and 8).

A training goes piece by piece, in the background, and never do two at once. In the static book the
dashboard and the duel show a finished run instead; see `nca_lib.show.widgets`.
"""

import atexit
import contextlib
import copy
import datetime
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets
import jax
import numpy as np
from IPython import get_ipython
from IPython.display import HTML

from nca_lib.lab import images
from nca_lib.lab.config import FRESH, PRESETS, Config
from nca_lib.lab.runs import HISTORY, Run
from nca_lib.lab.session import LIVE, Training
from nca_lib.model import check
from nca_lib.show import figures, knobs
from nca_lib.show.knobs import Shown, grid_of, is_static, kept, make_knobs, notice, refusals, still
from nca_lib.target import list_emoji

ANEW = ("population", "num_steps", "window", "channels", "hidden")
ALIKE = ("goal", "emoji", "size", "padding", "premultiply", "num_steps", "window")  # in a duel
ALIVE, LOST = (143, 188, 219), [(128, 128, 128)] * 2 + [(213, 94, 0)] * 2  # colours of members
ROW = '<div style="display:flex;flex-wrap:wrap;gap:1em">{}{}</div>'
CLOSE = '<div style="line-height:1.3">{}</div>'  # lines: those of a widget are far apart
# One click each: what differs from the start.
STORIES = {"Good": {}, "Too small": {"std": 0.001, "std_rate": 0}, "Dies": {"std": 0.5}}
STORIES |= {"Explodes": {"std": 1}, "Tiny population": {"population": 8}}
STORIES |= {"No shared luck": {"shared_luck": False}, "No ranks": {"ranks": False}}


class Driver:
    """Start, Pause and Reset for trainings that take turns: the next piece is whose had least time.

    They train in a thread, so that the notebook stays usable; of all drivers at most one runs.
    Colab has been seen to drop what threads send to widgets. There they train where they were
    started, in the handler of a click, and between two pieces the kernel may handle one event that
    waits, such as the click on "Pause".

    Args:
        sides: trainings by name.
        show: draws them; told whether what takes long, too.
    """

    running: "Driver | None" = None

    def __init__(self, sides: Mapping[str, Training], show: Callable[..., None]):
        Driver.stop_running()  # it may be of another cell, and out of reach
        self.sides, self.show = sides, show
        self.message, self.stopping, self.thread = ipywidgets.HTML(), threading.Event(), None
        self.buttons = [self.button("Start", self.start), self.button("Pause", self.pause)]

    def button(self, name: str, act: Callable[[], None]) -> ipywidgets.Button:
        """A button, and what a click does; where that is refused, the message says why."""
        button = ipywidgets.Button(description=name, layout={"width": "auto"})
        button.on_click(lambda _: refusals(self.message)(act)())
        return button

    def enable(self) -> None:
        """Make buttons answer where they have a meaning."""
        (start, pause), running = self.buttons, Driver.running is self
        start.description = "Resume" if any(side.done for side in self.sides.values()) else "Start"
        start.disabled, pause.disabled = running, not running

    def waiting(self) -> list[Training]:
        """Those that live, and have generations left."""
        living = (side for side in self.sides.values() if not side.fate)
        return [side for side in living if side.done < side.config.generations]

    def start(self) -> None:
        """Let the sides train, or train on."""
        Driver.stop_running()
        for side in self.sides.values():
            side.fate = ""
        done = [side.done for side in self.sides.values()]
        check(self.waiting(), "generations", done, "more than are done: raise them, or Reset")
        Driver.running = self
        self.stopping.clear()
        self.enable()
        kernel = getattr(get_ipython(), "kernel", None)
        if "google.colab" in sys.modules and hasattr(kernel, "do_one_iteration"):  # ipykernel 6
            with _events(kernel) as handle_one:
                self.train(handle_one)
        else:
            self.thread = threading.Thread(target=self.train, daemon=True)
            self.thread.start()

    def pause(self) -> None:
        """Stop after the piece at hand, and say so at once."""
        self.stopping.set()
        self.message.value = notice("Pausing when this piece is done.")

    def reset(self, sides: Mapping[str, Training] | None = None) -> None:
        """Stop, and begin with new sides, by default the same as they were; all is compiled here.

        Args:
            sides: trainings by name.
        """
        Driver.stop_running()
        self.message.value = notice("Compiling: some seconds.")
        self.sides = sides or {k: Training(side.config) for k, side in self.sides.items()}
        for side in self.sides.values():
            side.train_to(side.done)
        self.show()
        self.message.value = ""
        self.enable()

    @staticmethod
    def stop_running() -> None:
        """Stop the driver that runs, if any, and wait for it.

        On Colab it cannot stop before what handles this event is done, and does so then.
        """
        if driver := Driver.running:
            driver.stopping.set()
            if driver.thread:
                driver.thread.join()
            driver.message.value = notice("Paused: another training has begun.")

    def train(self, handle_one: Callable[[], None] = lambda: None) -> None:
        """Let the sides train in turn until they are done, or are told to stop."""
        try:
            began, drawn = time.monotonic(), 0.0
            while (waiting := self.waiting()) and not self.stopping.is_set():
                side = min(waiting, key=lambda side: side.last["seconds"])
                try:
                    side.advance()
                except (RuntimeError, FloatingPointError) as error:
                    left = f"Generation {side.done} is kept and shown: Resume from it, or Reset"
                    side.fate = notice(f"{error} {left} if nothing grows there.")
                clock = time.monotonic()
                self.show(drawn < 0.04 * (clock - began))  # what costs most, while there is time
                drawn += time.monotonic() - clock
                handle_one()
        finally:
            Driver.running = None
            self.show()
            self.message.value = ""
            self.enable()


atexit.register(Driver.stop_running)  # a kernel that ends must not leave a thread inside of XLA


@contextlib.contextmanager
def _events(kernel: Any) -> Iterator[Callable[[], None]]:
    """Make it possible to handle one waiting event of the kernel; cells wait until the end.

    The package jupyter-ui-poll does so for a cell that runs, and this for the handler of a click.
    """
    parent, waiting = kernel.get_parent(), []
    execute = kernel.shell_handlers["execute_request"]

    async def wait(stream, ident, request):
        waiting.append((stream, ident, request))

    async def run(stream, ident, request):
        kernel.set_parent(ident, request)
        await kernel.shell_handlers["execute_request"](stream, ident, request)

    def handle_one():
        with contextlib.suppress(StopIteration):  # to its end: no handler but `run` ever waits
            kernel.do_one_iteration().send(None)
        kernel.set_parent([], parent)  # what follows belongs to the click again

    kernel.shell_handlers["execute_request"] = wait
    try:
        yield handle_one
    finally:
        kernel.shell_handlers["execute_request"] = execute
        for request in waiting:
            kernel.schedule_dispatch(run, *request)


def evolution_dashboard(config: Config = PRESETS["pocket"], run: Run | None = None) -> Shown:
    """Evolve a rule in the notebook, and turn the knobs while it learns.

    It needs nothing from the cells before it. Making a dashboard stops what trains in another.
    Explained in chapter 5, "Turn the knobs".

    Args:
        config: where the knobs begin; fields without a knob stay as they are here.
        run: a finished run, drawn beside the new one. It is what the static book shows.

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
    return _Dashboard(config, earlier).box


class _Dashboard:
    """The knobs, the ledger of trials, and what is to be seen of the present one."""

    def __init__(self, config: Config, earlier: Mapping[str, Run]):
        self.first, self.earlier, self.count = config, earlier, 0
        emoji = config.emoji, list(dict.fromkeys([config.emoji, *list_emoji()]))
        given = knobs.settings(config, (*LIVE, *ANEW)) | {"emoji": emoji}
        self.knobs, self.view = make_knobs(given, self.turned), ipywidgets.HTML()
        self.ledger = ipywidgets.SelectMultiple(layout={"width": "auto", "height": "4.5em"})
        self.ledger.observe(lambda _: self.redraw(), "value")
        self.folder = ipywidgets.Text("my-run", description="Folder", layout={"flex": "1 1 9em"})
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
            says = f'<p style="line-height:1.2;margin:0">{knobs.page_knobs()[name][2]}</p>'
            rows += [self.knobs[name], ipywidgets.HTML(says)]
        says = "<b>These begin a new trial</b>, as Reset does. Rewind undoes a change."
        anew = grid_of([self.knobs[name] for name in (*ANEW, "emoji")], 190)
        rows += [ipywidgets.HTML(says), anew, self.ledger, row([*acts[2:5], self.folder])]
        return ipywidgets.VBox(rows)

    def enter(self, trial: Training) -> None:
        """Begin with a trial; that before it goes to the ledger."""
        Driver.stop_running()
        self.trial, self.count = trial, self.count + 1
        self.follow()
        for name, old in self.driver.sides.items():
            if old.done or old.fate:
                loss = f"loss {old.last['loss']:.4f}" if old.done else "died at once"
                self.ledger.options += ((f"{name}: {loss}{self.changed(old)}", old),)
                self.ledger.value = [old]
        self.view.value = ""
        self.driver.reset({f"trial {self.count}": trial})

    def changed(self, trial: Training) -> str:
        """What a trial has set otherwise than the first."""
        changed = sorted(vars(trial.config).items() - vars(self.first).items())
        return "".join(f", {knobs.label(field)} {value}" for field, value in changed)

    def follow(self) -> None:
        """Let the knobs show what trains."""
        for name, knob in self.knobs.items():
            knob.value = vars(self.trial.config)[name]

    def turned(self, name: str, value: float) -> None:
        """Change the trial and show the coming generation with it, or begin a new trial."""
        if vars(self.trial.config)[name] == value:
            return
        with refusals(self.driver.message):
            config = replace(self.trial.config, **{name: value})
            if name in LIVE:
                self.trial.config = config
                self.redraw()
            else:
                self.enter(Training(config))
        self.follow()  # where it was refused

    def tell(self, story: Mapping) -> None:
        """Start a story: the first settings and the present emoji, but for what it is about."""
        self.enter(Training(replace(self.first, emoji=self.trial.config.emoji, **story)))
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

    def show(self, whole: bool = True) -> None:
        """Draw the present trial; where whole, or it has changed, with offspring and curves."""
        trial, of = self.trial, (self.trial.config, self.ledger.label)
        if whole or of != self.drawn[0]:
            chosen = dict(zip(self.ledger.label, self.ledger.value, strict=True))
            offspring = _offspring(trial, *jax.device_get(trial.offspring()))
            self.drawn = of, offspring, _losses(self.earlier | chosen | self.driver.sides)
        told = _numbers(trial, f"<b>trial {self.count}</b>{self.changed(trial)}: ")
        self.view.value = CLOSE.format(told + self.drawn[1] + _growth(trial) + self.drawn[2])


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
    columns, curves = [], ipywidgets.HTML()

    def show(whole=True):
        for side, column in zip(driver.sides.values(), columns, strict=True):
            column.children[-1].value = CLOSE.format(_numbers(side) + _growth(side))
        if whole:
            curves.value = _losses(driver.sides, "seconds")

    def change(side, name, value):
        trial = driver.sides[side]
        trial.config = replace(trial.config, **{name: value})

    driver = Driver({name: Training(config) for name, config in configs.items()}, show)
    for name, config in configs.items():
        live = [] if config.strategy == "backprop" else [*LIVE][:3]
        made = make_knobs(knobs.settings(config, live), functools.partial(change, name))
        columns.append(ipywidgets.VBox([ipywidgets.Label(name), *made.values(), ipywidgets.HTML()]))
    driver.reset(driver.sides)
    row = ipywidgets.HBox([*driver.buttons, driver.button("Reset", driver.reset)])
    return kept(ipywidgets.VBox([row, driver.message, grid_of(columns, 250), curves]))


def _numbers(side: Training, title: str = "") -> str:
    """Where a training stands, in a line."""
    if not side.done:
        return f"<div>{title}Before the first generation.</div>"
    done, rollouts, seconds, loss = (side.last[name] for name in HISTORY[:4])
    total = side.config.generations
    left = datetime.timedelta(seconds=round(max(0, total - done) * seconds / done))
    sigma = f"σ now {np.mean(side.state.std):.2g} · " if hasattr(side.state, "std") else ""
    return (
        f"<div>{title}generation {done:,} of {total:,} · loss <b>{loss:.4f}</b> "
        f"({loss / side.task.empty_loss():.0%} of an empty grid's) · {sigma}"
        f"{rollouts / seconds:,.0f} rollouts/s · {left} left</div>"
    )


def _offspring(side: Training, fitness: np.ndarray, states: np.ndarray) -> str:
    """Sixteen members by loss, and how many of all that were looked at score what."""
    # Four times the empty grid's loss is an explosion, as on the page that evolves.
    edges = side.task.empty_loss() * 2.0 ** np.arange(-5, 2.5, 0.5)
    wild, dead = ~(fitness < edges[-1]), ~states.any(axis=(1, 2, 3))  # NaN is wild
    bins = np.select([wild, dead], [16, 14], edges[1:].searchsorted(fitness, "right"))
    counts, count = np.bincount(bins, minlength=18), len(bins)
    told = f"{count} of {side.config.population} members at σ {side.config.std:g} by loss: "
    told += f"{counts[14]} dead (grey), {counts[16]} exploded (orange)"

    some = np.linspace(0, count - 1, min(count, 16)).astype(int)
    framed = np.pad(states[some], [(0, 0), (3, 3), (3, 3), (0, 0)])
    grounds = np.array([(255, 255, 255)] * 14 + LOST)[bins[some], None, None] / 255
    sheet = images.contact_sheet(images.to_rgb(framed, grounds, side.config.premultiply), 4)
    picture = figures.show_images([sheet], told, height=43 * -(-len(some) // 4)).data
    names = [""] * 18
    names[::2] = *(f"{low:.1g}" for low in edges[:-1:2]), "dead", "exploded"
    bars = figures.bars_of(counts, names, [ALIVE] * 14 + LOST)
    return told + ROW.format(picture, bars)


def _growth(side: Run | Training) -> str:
    """What the mean grows, the target, and beside them what has become of the training."""
    shown = side.frames(jax.random.key(FRESH))[-1], side.task.target
    pixels = [images.to_rgb(state, premultiplied=side.config.premultiply) for state in shown]
    pictures = figures.pictures_of(pixels, ["what the mean grows", "target"], 90)
    return ROW.format(pictures, getattr(side, "fate", ""))


def _losses(sides: Mapping[str, Run | Training], x: str = "rollouts") -> str:
    """The curves, with a mark where a setting was changed."""
    histories = {name: side.history for name, side in sides.items() if len(side.history["loss"])}
    if not histories:
        return ""
    empty = sides[next(iter(histories))].task.empty_loss()
    changes = [before.last[x] for side in sides.values() for before in getattr(side, "past", [])]
    ends = [f"{name} ends at {history['loss'][-1]:.4f}" for name, history in histories.items()]
    told = f"Loss against {x}: {', '.join(ends)}; empty grid {empty:.4f}"
    return figures.curves_of(histories, x, empty, told, [(change, change) for change in changes])


def _side_by_side(runs: Mapping[str, Run]) -> str:
    """What finished runs have grown, and their curves."""
    return "".join(f"<b>{name}</b>{_growth(run)}" for name, run in runs.items()) + _losses(runs)
