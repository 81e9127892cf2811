"""A training that a notebook drives: piece by piece, in the background, and never two at once.

`nca_lib.show.dashboard` puts knobs and pictures in front of it (chapters 5 and 8).
"""

import atexit
import contextlib
import copy
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import ipywidgets
import jax
import numpy as np
from IPython import get_ipython

from nca_lib.lab import task as tasks
from nca_lib.lab.config import Config
from nca_lib.lab.loop import START, run, run_keys
from nca_lib.lab.machine import describe_device
from nca_lib.lab.runs import HISTORY, write_run
from nca_lib.model import check
from nca_lib.show.knobs import notice, refusals

SAMPLE = 64  # most members of a population that are looked at
ADVICE = "Kept: generation {}. Lower σ or the learning rate and Resume; if the mean is dead, Reset."
# What may change while it trains, as it is compiled.
LIVE = {"std": 1.0, "std_rate": 1.0, "learning_rate": 1.0, "generations": 1}


@functools.lru_cache(maxsize=8)
def set_up(config: Config) -> tuple:
    """Set up a training, once for each kind of it: see `Training`.

    Returns:
        Its task and strategy, and what is compiled: `evolve` of `nca_lib.evolution.make_evolve`,
        `measure` (params, keys) -> losses, `frames` (params, key) -> every state of a life, and
        `offspring` (state, key) -> fitness and last states.
    """
    task = tasks.make_task(config)
    strategy, evolve = tasks.make_trainer(task)

    def offspring(state, key):
        asked, shared, state = strategy.ask(state, key, task.prepare, task.look)
        weights = jax.vmap(strategy.members(state))(jax.tree.map(lambda x: x[:SAMPLE], asked))
        return jax.lax.map(lambda member: task.live(member, shared), weights)

    seen = tasks.make_measure(task), jax.jit(task.frames), jax.jit(offspring)
    return task, strategy, evolve, *seen


class Training:
    """A rule in training, a piece at a time: what the dashboard and the duel drive.

    It does what `nca_lib.lab.loop.train` does, with the same keys, and writes files when asked.
    Like `nca_lib.lab.runs.Run` it has a `config`, a `task`, a `history` by columns and `frames`.
    What it evolves by are its `settings`, from the next piece on those of `config`, which may be
    replaced. A sigma that was learned then grows or shrinks by the factor by which `std` does.

    Explained in chapter 5, "Turn the knobs".

    Args:
        config: what to train.

    Raises:
        ValueError: the configuration cannot run.
    """

    def __init__(self, config: Config):
        live = {} if config.strategy == "backprop" else LIVE
        self.config, parts = config, set_up(dataclasses.replace(config, **live))
        self.task, self.strategy, self.evolve, self.measure, self.grow, self.ask = parts
        self.settings = {name: vars(config)[name] for name in LIVE} | live
        self.last, self.history = START, {name: [] for name in HISTORY}
        self.spells = []  # of constant settings: what was when each began, and the settings
        self.fate = ""  # a notice, if it has died
        weights = tasks.initial_weights(config, self.task.params)
        self.state = jax.device_get(self.strategy.init(run_keys(config.seed)[0], weights))

    @property
    def done(self) -> int:
        """Generations behind."""
        return self.last["generation"]

    def tuned(self, std: float) -> Any:
        """The state, with the sigma of this setting."""
        factor = np.float32(std / self.settings["std"])
        return self.state if factor == 1 else self.state.replace(std=self.state.std * factor)

    def rewound(self) -> Self:
        """Another training that goes on from before the last change."""
        check(len(self.spells) > 1, "what was changed on the way", None, "something")
        other = copy.copy(self)
        *other.spells, (other.state, other.last, other.history, _) = self.spells
        other.settings = other.spells[-1][-1]
        other.config = dataclasses.replace(other.config, **other.settings)
        return other

    def train_to(self, point: int) -> tuple[Any, dict]:
        """What `nca_lib.lab.loop.run` has at a generation; at the present one it only compiles."""
        settings = jax.tree.map(np.float32, self.settings)
        trainer = self.strategy, lambda *args: self.evolve(*args, settings)
        return next(run(self.task, trainer, self.state, [point], self.last, self.measure))

    def advance(self, seconds: float = 0.3) -> None:
        """Train for about so many seconds, and append a row to the history.

        Args:
            seconds: how long, by the rate so far; the first is one generation.

        Raises:
            RuntimeError, FloatingPointError: the population died or exploded.
        """
        wanted = {name: vars(self.config)[name] for name in LIVE}
        if not self.spells or wanted != self.settings:
            self.spells = [*self.spells, (self.state, self.last, self.history, wanted)]
            self.state, self.settings = self.tuned(wanted["std"]), wanted
        count = min(int(self.done * seconds / (self.last["seconds"] or 1)), 4 * self.done)
        point = max(self.done, min(self.done + max(1, count), wanted["generations"]))
        self.state, self.last = self.train_to(point)
        self.history = {k: [*column, self.last[k]] for k, column in self.history.items()}

    def frames(self, key: jax.Array) -> jax.Array:
        """Grow the present weights and return every state, (T + 1, H, W, C) float32."""
        return self.grow(self.strategy.mean(self.state), key)

    def offspring(self) -> tuple[np.ndarray, np.ndarray]:
        """Grow members of the coming generation, at most `SAMPLE`, by evolution.

        Returns:
            Their fitness (n,) and their last states (n, H, W, C), the best first.
        """
        key = jax.random.fold_in(run_keys(self.config.seed)[1], self.done)
        fitness, states = jax.device_get(self.ask(self.tuned(self.config.std), key))
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
        check(not (out / "run.json").exists(), "folder", str(out), "one that holds no run yet")
        out.mkdir(parents=True, exist_ok=True)
        changes = [{"generation": last["generation"], **held} for _, last, _, held in self.spells]
        begun = self.spells[0][-1] | {"generations": self.done}
        task = self.task._replace(config=dataclasses.replace(self.config, **begun))
        mean, std = self.strategy.mean(self.state), self.strategy.std(self.state)
        rows = [*zip(*self.history.values(), strict=True)]
        told = {"device": describe_device(), "command": None, "changes": changes}
        write_run(out, task, mean, std, rows, told)


class Driver:
    """Start, Pause and Reset for trainings that take turns: the next piece is whose had least time.

    They train in a thread, so that the notebook stays usable; of all drivers at most one runs.
    Colab has been seen to drop what threads send to widgets. There they train where they were
    started, in the handler of a click, and between two pieces the kernel may handle one event that
    waits, such as the click on "Pause".

    Args:
        sides: trainings by name.
        show: draws them.
    """

    running: "Driver | None" = None

    def __init__(self, sides: Mapping[str, Training], show: Callable[[], None]):
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
        sides = self.sides.values()
        return [side for side in sides if not side.fate and side.done < side.config.generations]

    def start(self) -> None:
        """Let the sides train, or train on."""
        Driver.stop_running()
        for side in self.sides.values():
            side.fate = ""
        if not self.waiting():
            raise ValueError("nothing is left to do: raise generations, or Reset")
        Driver.running, self.due = self, 0.0
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
        """Stop, and begin with new sides, by default the same as they were."""
        Driver.stop_running()
        self.message.value = notice("Compiling: some seconds.")
        self.sides = sides or {k: Training(side.config) for k, side in self.sides.items()}
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
            self.message.value = notice("Compiling: some seconds.")
            for side in self.sides.values():
                side.train_to(side.done)
            self.message.value = ""
            while (waiting := self.waiting()) and not self.stopping.is_set():
                side = min(waiting, key=lambda side: side.last["seconds"])
                try:
                    side.advance()
                except (RuntimeError, FloatingPointError) as error:
                    side.fate = notice(f"{error} {ADVICE.format(side.done)}")
                if (began := time.monotonic()) > self.due:
                    self.show()  # it may cost a tenth of the time, at most
                    self.due = began + max(0.7, 11 * (time.monotonic() - began))
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
