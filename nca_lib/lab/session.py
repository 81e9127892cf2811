"""A training to play with: a piece at a time, its settings changed on the way (chapter 5).

`nca_lib.show.dashboard` puts knobs and pictures in front of it.
"""

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from nca_lib.lab import loop, machine
from nca_lib.lab import task as tasks
from nca_lib.lab.config import Config
from nca_lib.lab.runs import HISTORY, check_folder, hold, write_run
from nca_lib.model import check

SAMPLE = 32  # most members of a population that are looked at
# What may change while it trains, as it is compiled.
LIVE = {"std": 1.0, "std_rate": 1.0, "learning_rate": 1.0, "generations": 1}


@functools.lru_cache(maxsize=8)
def set_up(config: Config) -> tuple:
    """Set up a training, once for each kind of it: see `Training`.

    Returns:
        Its task and strategy, then what is compiled, `evolve` of `nca_lib.evolution.make_evolve`,
        `measure` (params, keys) -> losses, `frames` (params, key) -> every state of a life, and
        `offspring` (state, key) -> fitness and last states, the best first.
    """
    task = tasks.make_task(config)
    strategy, evolve = tasks.make_trainer(task)

    def offspring(state, key):
        asked, shared, state = strategy.ask(state, key, task.prepare, task.look)
        weights = jax.vmap(strategy.members(state))(jax.tree.map(lambda x: x[:SAMPLE], asked))
        fitness, states = jax.lax.map(lambda member: task.live(member, shared), weights)
        order = fitness.argsort()  # NaN comes last
        return fitness[order], states[order]

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
        self.config, parts = config, set_up(replace(config, **live))
        self.task, self.strategy, self.evolve, self.measure, self.grow, self.ask = parts
        self.settings = {name: vars(config)[name] for name in LIVE} | live
        self.last, self.history = loop.START, {name: [] for name in HISTORY}
        self.past, self.fate = [], ""  # as it was before each change; a notice, if it has died
        weights = tasks.initial_weights(config, self.task.params)
        self.state = jax.device_get(self.strategy.init(loop.run_keys(config.seed)[0], weights))

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
        check(self.past, "what was changed on the way", None, "something")
        return copy.copy(self.past[-1])

    def train_to(self, point: int) -> tuple[Any, dict]:
        """What `nca_lib.lab.loop.run` has at a generation; at the present one it only compiles."""
        settings = jax.tree.map(np.float32, self.settings)
        trainer = self.strategy, lambda *args: self.evolve(*args, settings)
        return next(loop.run(self.task, trainer, self.state, [point], self.last, self.measure))

    def advance(self, seconds: float = 0.9) -> None:
        """Train for about so many seconds, and append a row to the history.

        Args:
            seconds: how long, by the rate so far; the first is one generation.

        Raises:
            RuntimeError, FloatingPointError: the population died or exploded.
        """
        wanted = {name: vars(self.config)[name] for name in LIVE}
        if wanted != self.settings:
            before = copy.copy(self)
            before.config = replace(self.config, **self.settings)
            self.past = [*self.past, before] if self.done else []
            self.state, self.settings = self.tuned(wanted["std"]), wanted
        count = min(int(self.done * seconds / (self.last["seconds"] or 1)), 4 * self.done)
        point = max(self.done, min(self.done + max(1, count), wanted["generations"]))
        self.state, self.last = self.train_to(point)
        self.history = {k: [*column, self.last[k]] for k, column in self.history.items()}

    def frames(self, key: jax.Array) -> jax.Array:
        """Grow the present weights and return every state, (T + 1, H, W, C) float32."""
        return self.grow(self.strategy.mean(self.state), key)

    def offspring(self) -> tuple[jax.Array, jax.Array]:
        """Grow members of the coming generation, at most `SAMPLE`, by evolution.

        Returns:
            Their fitness (n,) and their last states (n, H, W, C), the best first. JAX returns them
            before they are computed.
        """
        key = jax.random.fold_in(loop.run_keys(self.config.seed)[1], self.done)
        return self.ask(self.tuned(self.config.std), key)

    def save(self, out: Path) -> None:
        """Write a run folder for `nca_lib.lab.runs.load_run`.

        Its configuration is the one it began with, and ends at the generation reached; `run.json`
        has all settings in `changes`. It names no command that repeats it: none repeats what was
        changed on its way.

        Args:
            out: the folder, made if needed.

        Raises:
            ValueError: the folder holds a run already, or another training holds it.
            OSError: it cannot be written.
        """
        held, begun = [*self.past, self], [0, *(before.done for before in self.past)]
        changes = [{"generation": n, **one.settings} for n, one in zip(begun, held, strict=True)]
        first = held[0].settings | {"generations": self.done}
        task = self.task._replace(config=replace(self.config, **first))
        mean, std = self.strategy.mean(self.state), self.strategy.std(self.state)
        told = {"device": machine.describe_device(), "command": None, "changes": changes}
        with hold(out):
            check_folder(out, resume=False)
            write_run(out, task, mean, std, [*zip(*self.history.values(), strict=True)], told)
