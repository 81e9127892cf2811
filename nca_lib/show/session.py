"""A training that a notebook drives: piece by piece, in the background, and never two at once.

`nca_lib.show.dashboard` puts knobs and pictures in front of it (chapters 4 and 6).
"""

import atexit
import bisect
import contextlib
import copy
import dataclasses
import functools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets
import jax
import numpy as np
from IPython import get_ipython

from nca_lib.lab import task as tasks
from nca_lib.lab.config import Config
from nca_lib.lab.loop import START, run, run_keys
from nca_lib.lab.machine import describe_device
from nca_lib.lab.runs import HISTORY, MEASURED, write_run
from nca_lib.show.knobs import kept, notice, refusals

PIECE = 0.3  # seconds of training between two looks at the knobs
SAMPLE = 64  # most members of a population that are looked at
ADVICE = "Kept: generation {}. Lower σ or the learning rate and Resume; if the mean is dead, Reset."
# What may change while it trains, as it is compiled.
LIVE = {"std": 1.0, "std_rate": 1.0, "learning_rate": 1.0, "generations": 1}


class Parts(NamedTuple):
    """What a training compiles: the same for all that differ by what is live alone."""

    task: tasks.Task
    strategy: Any
    evolve: Callable  #: (state, key, start, count, settings) -> (state, metrics)
    offspring: Callable  #: (state, key) -> fitness, last states
    measure: Callable  #: (params, keys) -> losses
    frames: Callable  #: (params, key) -> every state of a life


@functools.lru_cache(maxsize=8)
def set_up(config: Config) -> Parts:
    """Set up a training, once for each kind of it: see `Training`."""
    task = tasks.make_task(config)
    strategy, evolve = tasks.make_trainer(task)

    def offspring(state, key):
        asked, shared, state = strategy.ask(state, key, task.prepare, task.look)
        weights = jax.vmap(strategy.members(state))(jax.tree.map(lambda x: x[:SAMPLE], asked))
        return jax.lax.map(lambda member: task.live(member, shared), weights)

    seen = jax.jit(offspring), tasks.make_measure(task), jax.jit(task.frames)
    return Parts(task, strategy, evolve, *seen)


class Training:
    """A rule in training, a piece at a time: what the dashboard and the duel drive.

    It does what `nca_lib.lab.loop.train` does, with the same keys, and writes files when asked.
    Like `nca_lib.lab.runs.Run` it has a `config`, a `task`, a `history` by columns and `frames`.
    What it evolves by are its `settings`, from the next piece on those that are `wanted`. A sigma
    that was learned then grows or shrinks by the factor by which `std` does.

    Explained in chapter 4, "Turn the knobs".

    Args:
        config: what to train.

    Raises:
        ValueError: the configuration cannot run.
    """

    def __init__(self, config: Config):
        self.evolves = config.strategy != "backprop"
        self.parts = set_up(dataclasses.replace(config, **LIVE) if self.evolves else config)
        self.config, self.task = config, self.parts.task
        self.wanted = {name: vars(config)[name] for name in LIVE}
        self.settings = LIVE if self.evolves else self.wanted
        self.last, self.history = START, {name: [] for name in HISTORY}
        self.spells = []  # of constant settings: what was when each began, and the settings
        self.pace, self.fate, self.is_compiled = (0, PIECE), "", False
        weights = tasks.initial_weights(config, self.task.params)
        state = self.parts.strategy.init(run_keys(config.seed)[0], weights)
        self.state = jax.device_get(state)

    @property
    def done(self) -> int:
        """Generations behind."""
        return self.last["generation"]

    @property
    def seconds(self) -> float:
        """Seconds spent on them, compilation left out."""
        return self.last["seconds"]

    @property
    def weights(self) -> Any:
        """Those of the mean."""
        return self.parts.strategy.mean(self.state)

    @property
    def told(self) -> dict:
        """All settings, those that are wanted before those it began with."""
        return vars(self.config) | self.wanted

    def change(self, **wanted: float) -> None:
        """Change settings before the next generation."""
        self.wanted = self.wanted | wanted

    def tuned(self, wanted: dict) -> Any:
        """The state, with the sigma of these settings."""
        factor = np.float32(wanted["std"] / self.settings["std"])
        return self.state if factor == 1 else self.state.replace(std=self.state.std * factor)

    def fork(self, back: bool = False) -> "Training":
        """Another training that goes on from here, or from before the last change."""
        other = copy.copy(self)
        other.spells, other.fate = [*self.spells], ""
        if back:
            other.state, other.last, _ = other.spells.pop()
            other.settings = other.wanted = other.spells[-1][2]
        rows = bisect.bisect(self.history["generation"], other.done)
        other.history = {name: column[:rows] for name, column in self.history.items()}
        return other

    def compile(self) -> None:
        """Compile all that training takes, and train nothing."""
        _, key, key_measure = run_keys(self.config.seed)
        keys = jax.random.split(key_measure, MEASURED)
        self._evolve(self.state, key, 0, 0)
        self.parts.measure(self.weights, keys)
        self.frames(key)
        if self.evolves:
            self.offspring()
        self.is_compiled = True

    def _evolve(self, *args: Any) -> tuple[Any, dict]:
        settings = [jax.tree.map(np.float32, self.settings)] if self.evolves else []
        return self.parts.evolve(*args, *settings)

    def advance(self, seconds: float = PIECE) -> None:
        """Train for about so many seconds, and append a row to the history.

        Args:
            seconds: how long, by the rate of the piece before; the first is one generation.

        Raises:
            RuntimeError, FloatingPointError: the population died or exploded.
        """
        if not self.spells or self.wanted != self.settings:
            wanted = self.wanted  # a click may change it
            self.spells.append((self.state, self.last, wanted))
            self.state, self.settings = self.tuned(wanted), wanted
        (did, took), before = self.pace, self.last
        count = max(1, min(int(did * seconds / took), 4 * did))
        points = [min(self.done + count, self.settings["generations"])]
        trainer = self.parts.strategy, self._evolve
        rows = run(self.task, trainer, self.state, points, self.last, self.parts.measure)
        self.state, self.last = next(rows)
        self.pace = self.done - before["generation"], self.seconds - before["seconds"]
        for name, column in self.history.items():
            column.append(self.last[name])

    def frames(self, key: jax.Array) -> jax.Array:
        """Grow the present weights and return every state, (T + 1, H, W, C) float32."""
        return self.parts.frames(self.weights, key)

    def offspring(self) -> tuple[np.ndarray, np.ndarray]:
        """Grow members of the coming generation, at most `SAMPLE`, by evolution.

        Returns:
            Their fitness (n,) and their last states (n, H, W, C), the best first.
        """
        key = jax.random.fold_in(run_keys(self.config.seed)[1], self.done)
        found = self.parts.offspring(self.tuned(self.wanted), key)
        fitness, states = jax.device_get(found)
        order = np.argsort(fitness)  # NaN comes last
        return fitness[order], states[order]

    def save(self, out: Path) -> None:
        """Write a run folder for `nca_lib.lab.runs.load_run`.

        Its configuration is the one it began with, and ends at the generation reached; `run.json`
        has all settings in `changes`. It names no command that repeats it: none repeats what was
        changed on its way.

        Args:
            out: the folder, made if needed.

        Raises:
            ValueError: the folder holds a run already.
            OSError: it cannot be written.
        """
        if (out / "run.json").exists():
            raise ValueError(f"{out} holds a run already; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        changes = [{"generation": last["generation"], **held} for _, last, held in self.spells]
        begun = self.spells[0][2] | {"generations": self.done}
        task = self.task._replace(config=dataclasses.replace(self.config, **begun))
        std, rows = self.parts.strategy.std(self.state), [*zip(*self.history.values(), strict=True)]
        told = {"device": describe_device(), "command": None, "changes": changes}
        write_run(out, task, self.weights, std, rows, told)


class Driver:
    """Start, Pause and Reset for trainings that take turns: the next piece is whose had least time.

    They train in a thread, so that the notebook stays usable; of all drivers at most one runs.
    Colab has been seen to drop what threads send to widgets. There they train where they were
    started, in the handler of a click, and between two pieces the kernel may handle one event that
    waits, such as the click on "Pause".

    Args:
        make: makes the sides, trainings by name, for each Reset anew.
        show: draws them, given whether they stand still.
        seconds: how long each may train from one click on Start.
    """

    running: "Driver | None" = None

    def __init__(self, make: Callable, show: Callable, seconds: float = math.inf):
        Driver.stop_running()  # it may be of another cell, and out of reach
        self.make, self.show, self.seconds = make, show, seconds
        self.sides, self.limit, self.message = {}, 0.0, ipywidgets.HTML()
        self.stopping, self.thread, self.why, self.due = threading.Event(), None, "", 0.0
        named = {"Start": self.start, "Pause": self.pause, "Reset": self.reset}
        self.buttons = [self.button(*named) for named in named.items()]

    def button(self, name: str, act: Callable[[], None]) -> ipywidgets.Button:
        """A button, and what a click does; where that is refused, the message says why."""

        def click(_):
            with refusals(self.message):
                act()

        button = ipywidgets.Button(description=name, layout={"width": "auto"})
        button.on_click(click)
        return button

    def keep(self, box: ipywidgets.Box) -> ipywidgets.Box:
        """Put it in this box; as that is closed, nothing trains."""
        box.observe(lambda _: self.stopping.set(), "comm")
        return kept(box)

    def enable(self) -> None:
        """Make buttons answer where they have a meaning."""
        (start, pause, _), running = self.buttons, Driver.running is self
        start.description = "Resume" if any(side.done for side in self.sides.values()) else "Start"
        start.disabled, pause.disabled = running, not running

    def waiting(self) -> list[Training]:
        """Those that live, and have time and generations left."""
        rest = [s for s in self.sides.values() if not s.fate and s.seconds < self.limit]
        return [side for side in rest if side.done < side.wanted["generations"]]

    def start(self) -> None:
        """Let the sides train, or train on."""
        Driver.stop_running()
        self.limit = self.seconds + max(side.seconds for side in self.sides.values())
        for side in self.sides.values():
            side.fate = ""
        if not self.waiting():
            raise ValueError("nothing is left to do: raise generations, or Reset")
        Driver.running, self.why, self.due = self, "", 0.0
        self.stopping.clear()
        self.enable()
        if _must_poll():
            with _events() as handle_one:
                self.train(handle_one)
        else:
            self.thread = threading.Thread(target=self.train, daemon=True)
            self.thread.start()

    def pause(self) -> None:
        """Stop after the piece at hand, and say so at once."""
        self.stopping.set()
        self.buttons[1].disabled = True
        self.message.value = notice("Pausing when this piece is done.")

    def reset(self, make: Callable | None = None) -> None:
        """Stop, and begin with new sides."""
        if Driver.running is self:
            Driver.stop_running()
        self.sides = (make or self.make)()
        self.message.value = ""
        self.enable()

    @staticmethod
    def stop_running() -> None:
        """Stop the driver that runs, if any, and wait for it.

        Raises:
            ValueError: on Colab, where it cannot stop before what handles this event is done.
        """
        if (driver := Driver.running) is not None:
            if driver.thread is None:
                raise ValueError("another training runs: pause it first")
            driver.why = "Paused: another training has begun."
            driver.stopping.set()
            driver.thread.join()

    def train(self, handle_one: Callable[[], None] = lambda: None) -> None:
        """Let the sides train in turn until they are done, or are told to stop."""
        try:
            while self.waiting() and not self.stopping.is_set():
                self.piece(min(self.waiting(), key=lambda side: side.seconds))
                handle_one()
        finally:
            Driver.running = None
            self.show(True)
            self.message.value = notice(self.why) if self.why else ""
            self.enable()

    def piece(self, side: Training) -> None:
        """Train a side for a while, and draw now and then."""
        try:
            if not side.is_compiled:
                self.message.value = notice("Compiling: some seconds.")
                side.compile()
                self.message.value = ""
            side.advance()
        except (RuntimeError, FloatingPointError) as error:
            side.fate = f"{error} {ADVICE.format(side.done)}"
        began = time.monotonic()
        if began > self.due:
            self.show(False)  # it may cost a tenth of the time, at most
            took = time.monotonic() - began
            self.due = began + took + max(0.7, 10 * took)


atexit.register(Driver.stop_running)  # a kernel that ends must not leave a thread inside of XLA


def _must_poll() -> bool:
    """Whether this is Colab, with a kernel that can be asked to handle an event (ipykernel 6)."""
    kernel = getattr(get_ipython(), "kernel", None)
    return "google.colab" in sys.modules and hasattr(kernel, "do_one_iteration")


@contextlib.contextmanager
def _events() -> Iterator[Callable[[], None]]:
    """Make it possible to handle one waiting event of the kernel; cells wait until the end.

    The package jupyter-ui-poll does so for a cell that runs, and this for the handler of a click.
    """
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
