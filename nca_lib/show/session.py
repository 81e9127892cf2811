"""A training that a notebook drives: piece by piece, in the background, and never two at once.

`nca_lib.show.dashboard` puts knobs and buttons in front of it (chapters 4 and 6).
"""

import atexit
import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from IPython import get_ipython

from nca_lib.lab import checkpoint
from nca_lib.lab.config import Config
from nca_lib.lab.loop import START, run, run_keys
from nca_lib.lab.machine import describe_device
from nca_lib.lab.runs import HISTORY, write_run
from nca_lib.lab.task import initial_weights, make_measure, make_task, make_trainer

PIECE = 0.7  # seconds of training between two pictures


class Training:
    """A rule in training, a piece at a time: what the dashboard and the duel drive.

    It does what `nca_lib.lab.loop.train` does, with the same keys, and writes files when asked.
    Like `nca_lib.lab.runs.Run` it has a `config`, a `task`, a `history` by columns and `frames`.

    Explained in chapter 4, "Turn the knobs".

    Args:
        config: what to train. `generations` counts those of `before`, too.
        before: a training to go on from. Only its weights, its history and its count of
            generations are taken over; the strategy begins anew around these weights.

    Raises:
        ValueError: the configuration cannot run, or has weights of another shape than `before`.
    """

    def __init__(self, config: Config, before: "Training | None" = None):
        self.config, self.task = config, make_task(config)
        self.weights = initial_weights(config, self.task.params)
        self.last, self.history = START, {name: [] for name in HISTORY}
        if before is not None:
            before.check_fits(config)
            self.weights, self.last = before.weights, before.last
            self.history = {name: column[:] for name, column in before.history.items()}
        rest = dataclasses.replace(config, generations=config.generations - self.done)
        self.trainer = make_trainer(self.task._replace(config=rest))
        self.state = self.trainer[0].init(run_keys(config.seed)[0], self.weights)
        self.measure, self._frames = make_measure(self.task), jax.jit(self.task.frames)
        self.look, self.rows = jax.jit(self.task.look), None

    @property
    def done(self) -> int:
        """Generations behind."""
        return self.last["generation"]

    @property
    def seconds(self) -> float:
        """Seconds spent on them, compilation left out."""
        return self.last["seconds"]

    def check_fits(self, config: Config) -> None:
        """Refuse a configuration whose weights have another shape.

        Args:
            config: what to go on with.

        Raises:
            ValueError: it has other channels, or another hidden width.
        """
        old, new = ((c.channels, c.hidden) for c in (self.config, config))
        if old != new:
            raise ValueError(f"channels and hidden must be {old} to go on, got {new}: press Reset")

    def advance(self, seconds: float = PIECE) -> None:
        """Train for about so many seconds, and append a row to the history.

        The first call compiles, which `self.seconds` does not count, and does one generation.

        Args:
            seconds: how long, by the rate of the piece before.

        Raises:
            ValueError: seconds not from 0 to 3600.
            RuntimeError, FloatingPointError: the population died or exploded.
        """
        if not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be 0 to 3600, got {seconds!r}")
        self.seconds_a_piece = seconds
        if self.rows is None:
            next(self._run([self.done + 1]))  # compiles; not used
            self.rows = self._run(self._points())
        self.state, self.last = next(self.rows)
        self.weights = self.trainer[0].mean(self.state)
        for name, column in self.history.items():
            column.append(self.last[name])

    def _run(self, points: Iterable[int]) -> Iterator[tuple[Any, dict]]:
        return run(self.task, self.trainer, self.state, points, self.last, self.measure)

    def _points(self) -> Iterator[int]:
        """One generation, and then as many as fit into a piece."""
        count = 1
        while self.done < self.config.generations:
            before = self.last
            yield min(self.done + count, self.config.generations)
            took = self.seconds - before["seconds"]
            did = self.done - before["generation"]
            count = max(1, min(int(did * self.seconds_a_piece / took), 4 * did))

    def frames(self, key: jax.Array) -> jax.Array:
        """Grow the present weights and return every state, (T + 1, H, W, C) float32."""
        return self._frames(self.weights, key)

    def std(self) -> dict[str, float]:
        """Average the noise scale over each array of weights, by name, as in `run.json`."""
        arrays = checkpoint.weights_to_arrays(self.trainer[0].std(self.state))
        return {name: float(array.mean()) for name, array in arrays.items()}

    def save(self, out: Path) -> None:
        """Write a run folder for `nca_lib.lab.runs.load_run`.

        Its configuration ends at the generation reached. It names no command that repeats it: none
        repeats what was changed on its way.

        Args:
            out: the folder, made if needed.

        Raises:
            ValueError: the folder holds a run already.
            OSError: it cannot be written.
        """
        if (out / "run.json").exists():
            raise ValueError(f"{out} holds a run already; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        task = self.task._replace(config=dataclasses.replace(self.config, generations=self.done))
        std, rows = self.trainer[0].std(self.state), list(zip(*self.history.values(), strict=True))
        write_run(out, task, self.weights, std, rows, None, describe_device())


class Loop:
    """Repeats a piece of work until it is told to stop; of all loops at most one runs.

    It runs in a thread, so that the notebook stays usable. Colab has been seen to drop what threads
    send to widgets. There it runs where it was started, in the handler of a click, and between two
    pieces lets the kernel handle one event that waits, such as the click on "Pause".

    Args:
        work: does one piece, and says whether there is more to do.
        ended: called at the end, with the message of the error that ended it or "".
    """

    running: "Loop | None" = None

    def __init__(self, work: Callable[[], bool], ended: Callable[[str], None]):
        self.work, self.ended = work, ended
        self.stopping, self.thread = threading.Event(), None

    def start(self) -> None:
        """Start, after the loop that runs, if any, has done its piece and stopped.

        Raises:
            ValueError: see `stop_running`.
        """
        Loop.stop_running()
        self.stopping.clear()
        Loop.running = self
        if _must_poll():
            with _events() as handle_one:
                self._run(handle_one)
        else:
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()

    def stop(self) -> None:
        """Ask it to stop after the piece at hand; `wait` for that."""
        self.stopping.set()

    def wait(self) -> None:
        """Wait until it has stopped."""
        self.thread.join()

    @staticmethod
    def stop_running() -> None:
        """Stop the loop that runs, if any, and wait for it.

        Raises:
            ValueError: on Colab, where it cannot stop before what handles this event is done.
        """
        if (loop := Loop.running) is not None:
            if loop.thread is None:
                raise ValueError("another training runs: pause it first")
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
