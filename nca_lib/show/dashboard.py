"""Evolve in a notebook: knobs in front of one training, or of several that race (chapters 4 and 6).

In the static book each function shows a finished run instead; see `nca_lib.show.widgets`.
"""

import dataclasses
import datetime
import functools
import html
from collections.abc import Mapping
from pathlib import Path

import ipywidgets
import jax
import numpy as np
from IPython.display import HTML
from jax.flatten_util import ravel_pytree

from nca_lib.lab import images
from nca_lib.lab.config import FRESH, PRESETS, Config
from nca_lib.lab.images import check
from nca_lib.lab.runs import HISTORY, Run
from nca_lib.show import figures, knobs
from nca_lib.show.knobs import is_static, make_knobs, notice, row_of, still
from nca_lib.show.session import LIVE, Driver, Training
from nca_lib.target import list_emoji

ANEW = ("population", "num_steps", "window", "channels", "hidden")
ALIKE = ("goal", "emoji", "size", "padding", "premultiply", "num_steps", "window")  # in a duel
STORIES = {  # one click each: what differs from the start
    "Good": {},
    "Too small": {"std": 0.001, "std_rate": 0},
    "Dies": {"std": 0.5},
    "Explodes": {"std": 2},
    "Tiny population": {"population": 8},
}
EXPLODED = 4  # times the empty grid's loss, as on the page that evolves
FRAMES = (255, 255, 255), (128, 128, 128), (213, 94, 0)  # around the living, dead and exploded


def evolution_dashboard(
    config: Config = PRESETS["pocket"], run: Run | None = None, folder: str = "my-run"
) -> ipywidgets.Widget | HTML:
    """Evolve a rule in the notebook, and turn the knobs while it learns.

    It needs nothing from the cells before it. Making a dashboard stops what trains in another.
    Explained in chapter 4, "Turn the knobs".

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
        content = "" if run is None else _growth(run) + _losses(earlier)
        told = {name: (getattr(config, name), None) for name in (*LIVE, *ANEW)}
        shown = still(content, told, "04_es_training").data  # what those see who have no scripts
        return HTML(f'<div class="nca-evolve" data-size="small">{shown}</div>')
    return _Dashboard(config, earlier, folder).box


class _Dashboard:
    """The knobs, the ledger of trials, and what is to be seen of the present one."""

    def __init__(self, config: Config, earlier: Mapping[str, Run], folder: str):
        self.first, self.earlier, self.trials = config, earlier, {}
        self.driver = Driver(self.make, self.show)
        self.plain = {name: vars(config)[name] for name in (*LIVE, *ANEW)}
        emoji = config.emoji, list(dict.fromkeys([config.emoji, *list_emoji()]))
        self.knobs = make_knobs(
            knobs.settings(config, (*LIVE, *ANEW)) | {"emoji": emoji}, self.turned
        )
        self.views = [ipywidgets.HTML() for _ in range(4)]
        self.ledger = ipywidgets.SelectMultiple(layout={"width": "100%", "height": "4.5em"})
        self.ledger.observe(lambda _: self.show_curve(), "value")
        self.folder = ipywidgets.Text(folder, description="Folder", layout={"width": "16em"})
        self.driver.reset()
        self.box = self.driver.keep(self.lay_out())

    def lay_out(self) -> ipywidgets.HBox:
        """Two columns where there is room for them, else one."""
        for name, knob in self.knobs.items():
            knob.layout.width = "100%" if name in LIVE else "48%"
        acts = {"Rewind": self.rewind, "Restore": self.restore, "Save": self.save}
        stories = {name: functools.partial(self.tell, story) for name, story in STORIES.items()}
        acts = {name: self.driver.button(name, act) for name, act in (acts | stories).items()}
        left = [row_of([*self.driver.buttons, acts["Rewind"]])]
        left += [row_of(acts[name] for name in STORIES), self.driver.message]
        for name in LIVE:
            says = f'<p style="margin:-.4em 0 0;line-height:1.2">{knobs.page_knobs()[name][2]}</p>'
            left += [self.knobs[name], ipywidgets.HTML(says)]
        left += [ipywidgets.HTML("<b>These begin a new trial:</b>")]
        left += [row_of(self.knobs[name] for name in (*ANEW, "emoji")), self.ledger]
        left += [row_of([acts["Restore"], acts["Save"], self.folder])]
        return knobs.columns_of([left, self.views], 400)

    def make(self) -> dict[str, Training]:
        """Make a trial of what the knobs stand at."""
        values = {name: knob.value for name, knob in self.knobs.items()}
        return self.enter(Training(dataclasses.replace(self.first, **values)))

    def enter(self, trial: Training) -> dict[str, Training]:
        """Make a trial the present one, with a name of its own; the others stay in the ledger."""
        self.trial, name = trial, f"trial {len(self.trials) + 1}"
        self.trials[name] = trial
        self.follow()
        self.show_ledger()
        for view in self.views:
            view.value = ""
        return {name: trial}

    def follow(self) -> None:
        """Let the knobs show what trains."""
        for name, knob in self.knobs.items():
            knob.value = self.trial.told[name]

    def turned(self, name: str, value: float) -> None:
        """Change the trial and show the coming generation with it, or begin a new trial."""
        if self.trial.told[name] == value:
            return
        with knobs.refusals(self.driver.message):
            if name not in LIVE:
                self.driver.reset()
            else:
                self.trial.change(**{name: value})
                if Driver.running is not self.driver:
                    self.show(True)
        self.follow()  # where it was refused

    def tell(self, story: Mapping) -> None:
        """Start a story: the first settings, but for what it is about."""
        config = dataclasses.replace(self.first, **story)
        self.driver.reset(lambda: self.enter(Training(config)))
        self.driver.start()

    def go_on(self, trial: Training, back: bool = False) -> None:
        """Show a trial that goes on from where another is, or was before its last change."""
        self.driver.reset(lambda: self.enter(trial.fork(back)))
        self.show(True)

    def rewind(self) -> None:
        if len(self.trial.spells) < 2:
            raise ValueError("nothing was changed on the way")
        self.go_on(self.trial, back=True)

    def restore(self) -> None:
        if not self.ledger.value:
            raise ValueError("click a trial first")
        self.go_on(self.trials[self.ledger.value[-1]])

    def save(self) -> None:
        name = self.folder.value.strip()
        if not name or not self.trial.done or Driver.running is self.driver:
            raise ValueError("name a folder, and save what has trained and pauses")
        self.driver.message.value = notice("Saving.")
        self.trial.save(Path(name).expanduser())
        self.driver.message.value = notice(f"Saved. To read it: nca_lib.load_run({name!r})")

    def show(self, stands: bool) -> None:
        """Draw the present trial: numbers, offspring, growth, the curve; the ledger at the end."""
        draws = _numbers, _offspring, _growth
        for view, draw in zip(self.views, draws, strict=False):
            view.value = draw(self.trial)
        self.show_curve()
        if stands:
            self.show_ledger()

    def show_curve(self) -> None:
        chosen = {name: self.trials[name] for name in self.ledger.value}
        self.views[3].value = _losses(self.earlier | chosen | self.driver.sides)

    def show_ledger(self) -> None:
        """List the trials that came to something, with what they were given and their losses."""
        chosen, options = self.ledger.value, []
        for name, trial in self.trials.items():
            new = {k: trial.told[k] for k, value in self.plain.items() if trial.told[k] != value}
            told = ", ".join(f"{knobs.label(k)} {value}" for k, value in new.items())
            if trial.done:
                options.append((f"{name} · loss {trial.last['loss']:.4f} · {told}", name))
        self.ledger.options = options
        self.ledger.value = chosen


def duel(
    configs: Mapping[str, Config], runs: Mapping[str, Run] | None = None, seconds: float = 30
) -> ipywidgets.Widget | HTML:
    """Train in several ways on one task, side by side and for equal time.

    They take turns: the next piece goes to the side that has had less time. Compiling does not
    count. A side that dies says so, and the others go on. Making a duel stops what trains in
    another widget. Explained in chapter 6, "The same task, twice".

    Args:
        configs: the sides by name, such as evolution and backprop.
        runs: finished runs of the same task by name, which the static book shows.
        seconds: of training for each side from one click on Start or Resume. A side that has done
            its generations waits for the others.

    Returns:
        Buttons, and for each side its knobs, if it evolves, and what it grows; the losses.

    Raises:
        ValueError: one cannot run, or they differ in what is to be grown.
    """
    for name in ALIKE:
        values = [getattr(config, name) for config in configs.values()]
        check(len(set(values)) == 1, name, values, "the same on all sides")
    if is_static():
        runs = runs or {}
        grown = [f"<b>{name}</b>{_growth(run)}" for name, run in runs.items()]
        chapter = "06_es_vs_backprop" if runs else "04_es_training"
        return still("".join([*grown, _losses(runs, "seconds")]), {}, chapter)

    def make():
        for view in (*shown.values(), curves):
            view.value = ""
        sides = {}
        for name, made in turned.items():
            values = {k: knob.value for k, knob in made.items()}
            sides[name] = Training(dataclasses.replace(configs[name], **values))
        return sides

    def show(stands):
        for name, side in driver.sides.items():
            shown[name].value = _numbers(side) + _growth(side)
        if stands:
            curves.value = _losses(driver.sides, "seconds")

    def change(side, name, value):
        driver.sides[side].change(**{name: value})

    driver, curves = Driver(make, show, seconds), ipywidgets.HTML()
    shown, turned, columns = {}, {}, []
    for name, config in configs.items():
        live = [] if config.strategy == "backprop" else [*LIVE][:3]
        turned[name] = make_knobs(knobs.settings(config, live), functools.partial(change, name))
        head, shown[name] = ipywidgets.HTML(f"<b>{html.escape(name)}</b>"), ipywidgets.HTML()
        columns.append([head, *turned[name].values(), shown[name]])
    driver.reset()
    sides = knobs.columns_of(columns, 250)
    return driver.keep(ipywidgets.VBox([row_of(driver.buttons), driver.message, sides, curves]))


def _numbers(side: Training) -> str:
    """Where a training stands, in a line, and what has become of it."""
    std, fate = side.wanted["std"], notice(side.fate) if side.fate else ""
    if not side.done:
        return f"<div>Before the first generation, at σ {std:g}.</div>{fate}"
    done, rollouts, seconds, loss = (side.last[name] for name in HISTORY[:4])
    total = side.wanted["generations"]
    left = datetime.timedelta(seconds=round((total - done) * seconds / done))
    learned = ravel_pytree(side.parts.strategy.std(side.state))[0]
    sigma = f"σ now {learned.mean():.2g} · " if learned.size else ""
    return (
        f'<div style="line-height:1.3">generation {done:,} of {total:,} · loss <b>{loss:.4f}</b> '
        f"({loss / side.task.empty_loss():.0%} of an empty grid's) · {sigma}"
        f"{rollouts / seconds:,.0f} rollouts/s · {left} left</div>{fate}"
    )


def _offspring(side: Training) -> str:
    """Sixteen members by loss, and how many of all that were looked at score what."""
    fitness, states = side.offspring()
    count, empty = len(fitness), side.task.empty_loss()
    fate = np.where(fitness < EXPLODED * empty, ~states.any(axis=(1, 2, 3)) * 1, 2)
    some = np.linspace(0, count - 1, min(count, 16)).astype(int)
    pixels = images.to_rgb(states[some], premultiplied=side.config.premultiply)
    frames = np.array(FRAMES, np.uint8)[fate[some], None, None]
    tall, wide = pixels.shape[1] + 6, pixels.shape[2] + 6
    framed = frames.repeat(tall, axis=1).repeat(wide, axis=2)
    framed[:, 3:-3, 3:-3] = pixels

    edges = empty * 2.0 ** np.arange(-5, 2.5, 0.5)
    alive, _ = np.histogram(fitness[fate == 0].clip(edges[0]), edges)
    dead, exploded = (fate == 1).sum(), (fate == 2).sum()
    told = f"{count} members at σ {side.wanted['std']:g}: {dead} dead, {exploded} exploded"
    columns = "".join(
        f'<div style="flex:1;text-align:center"><small>{n or ""}</small>'
        f'<div style="height:{100 * n / count:.0f}px;background:{ink}"></div></div>'
        for n, ink in [*((n, "#0072B2") for n in alive), (dead, "#808080"), (exploded, "#D55E00")]
    )
    sheet = images.contact_sheet(framed, 4)
    picture = figures.show_images([sheet], f"{told}; the best first", height=170).data
    return (
        f'<div style="display:flex;gap:1em;align-items:flex-end;line-height:1.3">{picture}'
        f'<div style="flex:1"><b>{told}</b><div style="display:flex;align-items:flex-end;gap:1px;'
        f'height:120px;border-bottom:1px solid">{columns}</div><small>loss '
        f"{edges[0]:.2g} to {edges[-1]:.2g}, then the dead and the exploded</small></div></div>"
    )


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
    if len(drawn) > 1:  # of which one may be much longer than another
        figure.axes[0].set(xscale="log")
    for side in drawn.values():
        for _, last, _ in getattr(side, "spells", [])[1:]:
            figure.axes[0].axvline(last[x], color="#666666", linewidth=1, linestyle="--")
    ends = [f"{name} ends at {history['loss'][-1]:.4f}" for name, history in histories.items()]
    return knobs.figure_of(figure, f"Loss against {x}: {', '.join(ends)}; empty grid {empty:.4f}")
