"""Evolve a rule from the command line or a notebook, into a run folder (chapter 4).

On the command line every field of `Config` is a flag::

    python -m nca_lib.train --preset smoke --out runs/smoke

A run folder holds `run.json` (configuration, provenance, final losses), `history.csv`,
`weights.npz`, `final.png`, `growth.webp` and, for `--resume`, `checkpoint`.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

import nca_lib
from nca_lib import checkpoint, render
from nca_lib.backprop import POOL, Descent, adam_of_directions, make_descend
from nca_lib.beyond import GOALS, SURROGATES, WORLD, bit
from nca_lib.evolution import (
    Strategy,
    make_evolve,
    open_es,
    pgpe,
    population_mesh,
    second_moments,
    use_cores,
    whitened,
)
from nca_lib.keeper import Keeper, patiently
from nca_lib.loss import mse, window_loss
from nca_lib.model import LARGEST, NCA, seed_state
from nca_lib.rollout import MASKS, damage, fire_schedule, record
from nca_lib.target import check_layout, load_emoji


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run's outcome. The defaults are the preset `pocket`.

    Explained in chapter 4, "Half a minute of evolution".
    """

    emoji: str = "🦎"  #: the target; "" for a goal without one
    size: int = 24  #: side of the target in cells, without padding
    padding: int = 4  #: empty cells around the target, on each side
    premultiply: bool = True  #: colour weighted by alpha, so that invisible colour costs nothing
    channels: int = 8  #: numbers per cell, RGBA included
    hidden: int = 32  #: width of the hidden layer
    step_size: float = 1.0  #: factor on every update; 2 stands for inverted dropout
    alive_threshold: float = 0.1  #: alpha above which a cell counts as mature
    mask: str = "paired"  #: which cells fire: "paired" or "bernoulli"
    precision: str = "float32"  #: of the dense layers: "float32", "tf32" or "bfloat16"
    num_steps: int = 32  #: steps of growth
    window: int = 8  #: last steps over which the loss is averaged
    population: int = 64  #: rollouts per generation; for evolution an even number
    #: "pgpe" learns a sigma for every weight, "whitened" does so for noise that is shaped by what
    #: the cells see, "open_es" keeps one for all. "backprop" follows the gradient instead: no
    #: sigma, a generation is a step, the population a batch.
    strategy: str = "whitened"
    #: noise scale sigma at the start; for "whitened" that of `pocket`'s 1,064 weights: of D weights
    #: it is std * sqrt(1064 / D), so that a member is as far from the mean in a network of any size
    std: float = 0.03
    std_rate: float = 0.1  #: how fast sigmas are learned, where they are
    #: step at the start: Adam's, or where sigmas are learned in units of sigma
    learning_rate: float = 0.5
    learning_rate_end: float = 0.1  #: its value at the end, as a fraction of the start (cosine)
    generations: int = 125_000  #: how many
    init: str = ""  #: start from the weights of this run: a shipped one's name, or a folder
    age: int = 0  #: most steps that a start has lived before; at 0 every start is the seed
    damage: float = 0.0  #: share of the aged starts that are damaged
    overflow: float = 0.0  #: weight of the penalty on values outside [-2, 2]
    log_every: int = 50  #: generations between two rows of the history; at least 1/4000 of all
    seed: int = 0  #: of the initial weights, the noise and the fire masks
    cells: str = "smooth"  #: "ifs": hidden units decide; "digital": they do, and states are bits
    goal: str = "target"  #: what is judged: likeness to the target, or "walk" or "life"
    surrogate: str = ""  #: where backprop meets decisions: "straight" or "soft"


PGPE = {"strategy": "pgpe", "learning_rate": 0.3}

PRESETS = {
    # Made for two CPU cores: 1,064 parameters, 32 x 32 cells. 8,000,000 rollouts, within an hour;
    # the shorter ones learn their sigmas faster, and end before large steps do harm.
    "pocket": Config(),
    "short": Config(generations=15_625, std_rate=0.12, learning_rate_end=0.3),
    "quick": Config(
        generations=1_000, std=0.035, std_rate=0.3, learning_rate=0.6, learning_rate_end=1.0
    ),
    # The notebook's target of 40 x 40 cells.
    "lizard-40": Config(
        size=40, channels=12, num_steps=48, std=0.025, std_rate=0.12, generations=80_000
    ),
    # The same task by gradients, in minutes.
    "backprop": Config(
        strategy="backprop",
        population=4,
        learning_rate=0.008,
        learning_rate_end=0.02,
        generations=4_000,
    ),
    # Seconds: to see that everything works.
    "smoke": Config(
        size=12,
        padding=2,
        num_steps=12,
        window=4,
        strategy="open_es",  # the one that chapter 4 builds by hand
        std=0.02,
        learning_rate=0.01,
        learning_rate_end=0.1,
        generations=200,
        log_every=10,
    ),
    # Cells of bits that walk to the right, and some dozen that Life makes much of (chapter 7).
    "walk": Config(
        emoji="",
        goal="walk",
        cells="digital",
        size=56,
        channels=12,
        num_steps=48,
        std=0.3,
        **PGPE,
        generations=600,
    ),
    "life": Config(emoji="", goal="life", init="lizard-pgpe", window=1, generations=1_500, **PGPE),
    # The lizard, grown by a network of ifs (chapter 7).
    "ifs": Config(cells="ifs", std=0.01, generations=1_000, **PGPE),
    # The notebook "Growing NCA with Evolution Strategies" to the letter. Its loss was meant to
    # cover the last 32 steps, but its slice takes the batch axis: all 90 steps count. Its dropout
    # doubles the updates it keeps, hence the step size of 2.
    "reference": Config(
        size=40,
        premultiply=False,
        channels=16,
        hidden=128,
        step_size=2.0,
        mask="bernoulli",
        num_steps=90,
        window=90,
        population=512,
        strategy="open_es",
        std=0.001,
        learning_rate=0.001,
        learning_rate_end=1.0,
        generations=10_240,
        log_every=16,  # each interval is one call, which on a CPU takes minutes
    ),
}

CELLS = ("smooth", "ifs", "digital")
STRATEGIES = {"open_es": open_es, "pgpe": pgpe, "whitened": whitened}
SHIPPED = Path(__file__).parent / "data" / "runs"  # the runs that come with the package
HISTORY = ["generation", "rollouts", "seconds", "loss"]
HISTORY += ["fitness_mean", "fitness_best", "fitness_std", "nonfinite"]
MEASURED = 8  # fire-mask keys over which the loss of the mean is averaged
FRESH = 1_000_003  # seed of keys that no training draws, for final losses and pictures


def validate(config: Config) -> None:
    """Refuse a configuration that cannot run, before anything is compiled.

    Args:
        config: what is to run.

    Raises:
        ValueError: names the field, the value and what was expected.
    """
    if not isinstance(config, Config):
        raise ValueError(f"config must be a Config such as PRESETS['pocket'], got {config!r}")
    kinds = {int: "an int", float: "a finite float", bool: "true or false", str: "a string"}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        good = type(value) is field.type or (field.type is float and type(value) is int)
        if not good or (field.type is float and not math.isfinite(value)):
            raise ValueError(f"{field.name} must be {kinds[field.type]}, got {value!r}")
    check_layout(config.size, config.padding, config.premultiply)
    limits = {
        "channels": (4, 1_024),
        "hidden": (1, 65_536),
        "step_size": (1e-6, 1e6),
        "alive_threshold": (0.0, 0.999),  # the seed's alpha is 1
        "num_steps": (1, 1_000_000),
        "window": (1, config.num_steps),
        "population": (1, POOL if config.strategy == "backprop" else 1_000_000),
        "std": (1e-9, 1e3),
        "std_rate": (0.0, 1e3),
        "learning_rate": (1e-9, 1e3),
        "learning_rate_end": (0.0, 1e3),
        "generations": (1, 1_000_000_000),
        "age": (0, 1_000_000),
        "damage": (0.0, 1.0),
        "overflow": (0.0, 1e6),
        "log_every": (1, 1_000_000_000),
        "seed": (0, 2**32 - 1),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"{name} must be {low} to {high}, got {getattr(config, name)}")
    # A state and a layer of weights; and at the end a whole life is kept and drawn, 6 x enlarged.
    cells = (config.size + 2 * config.padding) ** 2
    life = (config.num_steps + 1) * cells * max(config.channels, 16)
    for name, numbers in (("hidden", 8 * config.channels * config.hidden), ("num_steps", life)):
        if numbers > LARGEST:
            raise ValueError(
                f"too much to keep in memory: {name} is {getattr(config, name)}, channels "
                f"{config.channels}, size {config.size} and padding {config.padding}"
            )
    if config.mask not in MASKS:
        raise ValueError(f"mask must be one of {MASKS}, got {config.mask!r}")
    known = (*STRATEGIES, "backprop")
    if config.strategy not in known:
        raise ValueError(f"strategy must be one of {known}, got {config.strategy!r}")
    hard = config.cells != "smooth" or config.goal != "target"
    options = {"cells": CELLS, "goal": ("target", *GOALS), "surrogate": ("",)}
    if config.strategy == "backprop" and hard:
        options["surrogate"] = SURROGATES  # without one the gradient is zero
    for name, choices in options.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {getattr(config, name)!r}")
    if config.goal != "target" and (config.emoji or config.age):
        raise ValueError(
            f"for the goal {config.goal!r} emoji must be '' and age 0, got {config.emoji!r} and "
            f"{config.age}"
        )
    if config.goal == "life" and config.size + 2 * config.padding > WORLD:
        raise ValueError(
            f"for the goal 'life' size and padding must fit in {WORLD} cells, got {config.size} "
            f"and 2 x {config.padding}"
        )
    if config.damage and not config.age:
        raise ValueError(f"damage needs starts that have grown: age is 0, damage {config.damage}")
    if config.mask == "paired" and config.size % 2:
        raise ValueError(f"size must be even with paired masks, got {config.size}")


class Task(NamedTuple):
    """What a configuration stands for: a target, a start, and a rule split into two parts.

    Explained in chapter 4, "A black box that returns one number".
    """

    config: Config  #: what is to run
    target: np.ndarray  #: (H, W, 4) float32, zero for a goal without a target
    start: jax.Array  #: (H, W, C) float32, one living cell
    params: nnx.State  #: initial weights, a pytree
    merge: Callable[[Any], NCA]  #: params -> cell rule
    surrogate: str = ""  #: what stands for decisions, if anything

    def fires(self, key: jax.Array, num_steps: int | None = None) -> jax.Array:
        """Draw fire masks for a rollout.

        Args:
            key: random key.
            num_steps: T; default the configured length.

        Returns:
            See `nca_lib.rollout.fire_schedule`.
        """
        height, width, _ = self.start.shape
        num_steps = self.config.num_steps if num_steps is None else num_steps
        return fire_schedule(key, num_steps, height, width, self.config.mask)

    def loss(self, params: Any, key: jax.Array, factor: int = 1) -> jax.Array:
        """Grow once from the seed and measure.

        Explained in chapter 4, "A black box that returns one number".

        Args:
            params: weights, like `self.params`.
            key: decides the fire masks.
            factor: grow for this many times the configured steps; the window keeps its length.

        Returns:
            float32 scalar, lower is better.
        """
        return self.judge(params, self.start, self.fires(key, factor * self.config.num_steps), 0)[0]

    def measure(self, state: jax.Array) -> jax.Array:
        """Judge a state (H, W, C) by the configured goal: float32 scalar, lower is better."""
        if self.config.goal == "target":
            return mse(state, jnp.asarray(self.target))
        return GOALS[self.config.goal](state, self.surrogate)

    def judge(
        self,
        params: Any,
        start: jax.Array,
        fires: jax.Array,
        reach: int | None = None,
        overflow: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """Grow from a start and measure: `nca_lib.loss.window_loss` of this task.

        Args:
            params: weights, like `self.params`.
            start: (H, W, C) float32.
            fires: from `fires`.
            reach: see `nca_lib.rollout.stages`.
            overflow: weight of `nca_lib.loss.overflow_loss`.

        Returns:
            The loss, a float32 scalar, and the last state (H, W, C).
        """
        model, window = self.merge(params), self.config.window
        return window_loss(model, start, fires, self.measure, window, reach, overflow)

    def empty_loss(self) -> float:
        """Measure a grid with nothing on it: what a dead population scores."""
        return float(self.measure(jnp.zeros_like(self.start)))

    def dead_loss(self) -> float:
        """What a population scores that does not find its way back; NaN if there is no such trap.

        An empty grid is one. Where the goal is no picture, populations climb out of it.
        """
        return self.empty_loss() if self.config.goal == "target" else math.nan

    def prepare(self, params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw what all members of a generation share: where they start, and which cells fire.

        Without `age` they start from the seed. With it, only a third of the generations do. In the
        others the mean of the search distribution has already grown the start, for a number of
        steps that is log-uniform from 1 to `age`, and it may be damaged. This stands in for the
        sample pool of Distill: it costs these steps once a generation, and nothing is stored.

        Explained in chapter 5, "A lizard that lasts".

        Args:
            params: weights of the mean.
            key: random key.

        Returns:
            Start (H, W, C) float32 and fire masks, see `fires`.
        """
        if self.config.age == 0:
            return self.start, self.fires(key)
        key_fires, key_luck, key_grow, key_damage = jax.random.split(key, 4)
        model, (old, scale, hurt) = self.merge(params), jax.random.uniform(key_luck, (3,))
        age = jnp.where(old < 1 / 3, 0, (self.config.age + 1.0) ** scale).astype(jnp.int32)

        def live(number, state):
            return model(state, self.fires(jax.random.fold_in(key_grow, number), 1)[0])

        start = jax.lax.fori_loop(0, age, live, self.start)
        hurt = (age > 0) & (hurt < self.config.damage)
        start = jnp.where(hurt, damage(key_damage, start), start)
        # What died or is exploding teaches nothing. (NaN is not below a bound.)
        usable = (start[..., -1].max() > self.config.alive_threshold) & (jnp.abs(start).max() < 100)
        return jnp.where(usable, start, self.start), self.fires(key_fires)

    def fitness(self, params: Any, luck: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Grow from a prepared start and measure: what evolution minimises.

        Args:
            params: weights of one member.
            luck: from `prepare`.

        Returns:
            float32 scalar.
        """
        reach = 0 if self.config.age == 0 else None
        return self.judge(params, *luck, reach, self.config.overflow)[0]

    def look(self, params: Any, luck: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        """Grow from a prepared start and see what the layers see.

        Args:
            params: weights.
            luck: from `prepare`.

        Returns:
            The second moments of each layer by name, (inputs + 1, inputs + 1) float32.
        """
        return second_moments(self.merge(params), *luck)

    def frames(self, params: Any, key: jax.Array, num_steps: int | None = None) -> jax.Array:
        """Grow once and keep every state.

        Args:
            params: weights, like `self.params`.
            key: decides the fire masks.
            num_steps: T; default the configured length.

        Returns:
            (T + 1, H, W, C) float32.
        """
        return record(self.merge(params), self.start, self.fires(key, num_steps))


def make_task(config: Config, surrogate: str = "") -> Task:
    """Turn a configuration into arrays and a rule.

    Explained in chapter 4, "A black box that returns one number".

    Args:
        config: what is to run.
        surrogate: what stands for decisions in cells and goal; by default nothing, whatever the
            configuration has for training.

    Returns:
        The task.

    Raises:
        ValueError: the configuration or the emoji is not usable.
    """
    validate(config)
    if config.goal == "target":
        target = load_emoji(config.emoji, config.size, config.padding, config.premultiply)
    else:
        target = np.zeros((config.size + 2 * config.padding,) * 2 + (4,), np.float32)
    rule = {}
    if config.cells != "smooth":
        rule["activation"] = functools.partial(bit, surrogate=surrogate)
    if config.cells == "digital":
        rule["settle"] = lambda state: bit(state - 0.5, surrogate)
    model = NCA(
        config.channels,
        config.hidden,
        step_size=config.step_size,
        alive_threshold=config.alive_threshold,
        precision=config.precision,
        **rule,
        rngs=nnx.Rngs(config.seed),
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    start = seed_state(*target.shape[:2], config.channels)
    return Task(
        config, target, start, params, lambda params: nnx.merge(graph, params, rest), surrogate
    )


def initial_weights(config: Config, params: Any) -> Any:
    """Read the weights that a run starts from, if its configuration names any.

    Args:
        config: names another run, or none.
        params: random initial weights.

    Returns:
        The other run's weights, or `params`.

    Raises:
        ValueError: there is no such run, or its weights have other shapes.
    """
    if not config.init:
        return params
    for folder in (SHIPPED / config.init, Path(config.init)):
        if os.path.isfile(folder / "weights.npz"):  # noqa: PTH113 (of names too long: false)
            return checkpoint.load_weights(folder / "weights.npz", like=params)
    raise ValueError(f"init must be a shipped run or a run folder, got {config.init!r}")


def make_strategy(config: Config, params: Any) -> Strategy:
    """Set up the evolution strategy of a configuration.

    Explained in chapter 4, "Many generations in one call".

    Args:
        config: names the strategy and its settings.
        params: pytree of float32 arrays, the shape of one member.

    Returns:
        The strategy.
    """
    std, options = config.std, {}
    if config.strategy != "open_es":
        options["std_rate"] = config.std_rate
    if config.strategy == "whitened":
        std *= math.sqrt(1064 / sum(leaf.size for leaf in jax.tree.leaves(params)))
    return STRATEGIES[config.strategy](
        params, config.population, std, learning_rates(config), **options
    )


def learning_rates(config: Config) -> Callable[[int], float]:
    """Plan the size of the steps: they fall along a cosine, over generations.

    Explained in chapter 4, "How large a step".
    """
    start, share = config.learning_rate, config.learning_rate_end
    return optax.cosine_decay_schedule(start, config.generations, share)


def make_trainer(task: Task, chunk: int | None = None) -> tuple[Strategy | Descent, Callable]:
    """Set up what a configuration asks for, evolution or backpropagation.

    Explained in chapter 6, "The same task, twice".

    Args:
        task: from `make_task`. Where its configuration names a surrogate, that is what is trained.
        chunk: see `plan_chunk`.

    Returns:
        The strategy, and the compiled loop `(state, key, start, count) -> (state, metrics)`.

    Raises:
        ValueError: see `plan_chunk`, or backpropagation would need more memory than is free.
    """
    config = task.config
    if config.strategy == "backprop":
        share = config.population // population_mesh(config.population).size
        step = memory_needed(config, share) - memory_needed(config, 0)
        pool = 3 * POOL * task.start.nbytes if config.age else 0  # old, new, and one to copy
        needed, free = config.num_steps * step + pool, free_memory()
        if needed > free:
            raise ValueError(
                f"gradients through num_steps {config.num_steps} of a population of "
                f"{config.population} need about {needed / 1e9:.2g} GB on each device, and "
                f"{free / 1e9:.2g} GB are free"
            )
        optimizer = adam_of_directions(learning_rates(config))
        descent = Descent(optimizer, task.start, POOL if config.age else 0)
        trained = make_task(config, config.surrogate) if config.surrogate else task
        return descent, make_descend(descent, trained)
    strategy, chunk = make_strategy(config, task.params), plan_chunk(config, chunk)
    return strategy, make_evolve(strategy, task.fitness, chunk, task.prepare, task.look)


def memory_needed(config: Config, chunk: int) -> int:
    """Estimate what one device holds at once in a generation.

    It does not depend on the number of steps, but for the fire masks.

    Explained in appendix A1, "Count first".

    Args:
        config: what is to run.
        chunk: members computed side by side.

    Returns:
        Bytes.
    """
    cells, C = (config.size + 2 * config.padding) ** 2, config.channels
    firing = cells // 2 if config.mask == "paired" else cells
    # Old and new state, a padded copy, the perception (3C); for cells that fire, the network.
    member = 4 * (cells * 7 * C + firing * (4 * C + config.hidden))
    masks = config.num_steps * firing * (4 if config.mask == "paired" else 1)
    weights = 4 * C * config.hidden + config.hidden + C
    return chunk * member + masks + 5 * 4 * config.population * weights  # noise, members, copies


def free_memory() -> float:
    """What a device may still hold, in bytes; infinity where the system does not tell."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    table = Path("/proc/meminfo")
    if table.exists():  # Linux; the CPU's devices share the memory
        rows = dict(line.split(":") for line in table.read_text().splitlines())
        return 1024 * int(rows["MemAvailable"].split()[0]) / jax.local_device_count()
    return math.inf


def plan_chunk(config: Config, chunk: int | None = None) -> int:
    """Decide how many members a device computes side by side, before anything is compiled.

    Args:
        config: what is to run.
        chunk: the reader's choice; default 1 on a CPU, elsewhere as many as fit.

    Returns:
        The chunk.

    Raises:
        ValueError: chunk is out of range, or does not fit in memory; says which would.
    """
    share = config.population // population_mesh(config.population).size
    if chunk is not None and not 1 <= chunk <= share:
        raise ValueError(f"chunk must be 1 to {share} (a device's share), got {chunk}")
    free, base = free_memory(), memory_needed(config, 0)
    one = memory_needed(config, 1) - base
    fitting = share if free == math.inf else min(share, int((0.8 * free - base) // one))
    wanted = chunk or (1 if jax.default_backend() == "cpu" else max(1, fitting))
    if wanted > fitting:
        advice = f"a chunk of {fitting} would fit" if fitting > 0 else "lower the population"
        raise ValueError(
            f"a chunk of {wanted} of the population of {config.population} needs about "
            f"{memory_needed(config, wanted) / 1e9:.2g} GB on each device, and {free / 1e9:.2g} GB "
            f"are free: {advice}"
        )
    return wanted


def log_points(config: Config, done: int) -> list[int]:
    """List the generations still ahead after which a row of history is written.

    These are the first 16, then every `log_every`-th, or fewer so that no history exceeds 4,000
    rows, and the last.

    Args:
        config: gives `generations` and `log_every`.
        done: generations behind.

    Returns:
        Numbers of generations, ascending, all above `done`.
    """
    every = max(config.log_every, math.ceil(config.generations / 3_900))
    points = {*range(1, 17), *range(every, config.generations, every), config.generations}
    return sorted(point for point in points if done < point <= config.generations)


def check_alive(metrics: dict, population: int, dead_loss: float, generation: int) -> None:
    """Stop a run that cannot recover.

    Explained in chapter 4, "What goes wrong".

    Args:
        metrics: of `nca_lib.evolution.summarise`.
        population: N, number of members.
        dead_loss: what an empty grid scores.
        generation: for the message.

    Raises:
        FloatingPointError: most members are not finite.
        RuntimeError: most members score what an empty grid scores.
    """
    where, advice = f"generation {generation}", "Lower std, learning_rate or step_size."
    if metrics["nonfinite"] > population / 2:
        raise FloatingPointError(
            f"{where}: {metrics['nonfinite']} of {population} members are not finite: patterns "
            f"explode. {advice}"
        )
    dead = math.isclose(metrics["fitness_median"], dead_loss, rel_tol=1e-5)
    if dead and metrics["tied"] > population / 2:
        raise RuntimeError(
            f"{where}: most members died (they score {dead_loss:.4f}, the empty grid), and a "
            f"population with nothing to rank does not find its way back. {advice}"
        )


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    command: str | None = None,
    chunk: int | None = None,
    checkpoint_seconds: float = 60.0,
    callback: Callable[[dict], None] | None = None,
) -> Path:
    """Evolve a rule and leave a run folder.

    Ctrl-C saves a checkpoint before it leaves. Checkpoints are written beside the training, which
    goes on where that fails. Explained in chapter 4, "Half a minute of evolution".

    Args:
        config: what to run.
        out: the run folder; made if needed. It may lie on a slow network, see `nca_lib.keeper`.
        resume: go on from the folder's checkpoint. The configuration must be the checkpoint's,
            except that `generations` may grow (the schedules then stretch). On another number of
            devices sums are rounded otherwise, and the run will differ from an uninterrupted one.
            A complete run is left as it is.
        command: recorded in `run.json` as what was typed to make the run.
        chunk: members that a device computes side by side; see `plan_chunk`. Backpropagation
            takes them one by one.
        checkpoint_seconds: least time between two checkpoints.
        callback: called with each new row of the history.

    Returns:
        The folder.

    Raises:
        ValueError: bad configuration, too little memory, a folder that holds a run already or is
            in use, a checkpoint of another configuration or target.
        OSError: the folder cannot be written.
        FileNotFoundError: it holds no checkpoint to resume.
        NotImplementedError: the checkpoint is of a later version of `nca_lib`.
        RuntimeError, FloatingPointError: the population died or exploded.
    """
    task, out = make_task(config), Path(out)
    strategy, evolve = make_trainer(task, chunk)
    key_init, key_evolve, key_measure = jax.random.split(jax.random.key(config.seed), 3)
    weights = task.params if resume else initial_weights(config, task.params)
    state = strategy.init(key_init, weights)
    meta = begin(task)
    _check_folder(out, resume)
    losses = make_measure(task)
    measure_keys = jax.random.split(key_measure, MEASURED)
    dead_loss = task.dead_loss()
    how = f"{command} --resume" if command else f"train(config, {str(out)!r}, resume=True)"
    is_writer = jax.process_index() == 0  # of several processes all compute and one writes
    with Keeper(out) if is_writer else contextlib.nullcontext() as keeper:
        if is_writer:
            _check_folder(out, resume)  # again: another training may have ended just now
        if resume:
            state, saved = checkpoint.load(out / "checkpoint", like=state)
            meta = continue_from(saved, meta)
            if meta["generation"] == config.generations and (out / "run.json").exists():
                return out  # complete already
        if is_writer and config.strategy != "backprop":
            needed = memory_needed(config, plan_chunk(config, chunk)) / 1e6
            print(f"Each generation holds about {needed:,.0f} MB on each of {describe_device()}.")
        done = meta["generation"]
        progress = tqdm(total=config.generations, initial=done, unit="gen", disable=not is_writer)
        saved_at = time.monotonic()
        try:
            for point in log_points(config, done):
                clock, count = time.monotonic(), point - meta["generation"]
                following, metrics = evolve(state, key_evolve, meta["generation"], count)
                row = {"generation": point, "rollouts": point * config.population}
                row["loss"] = float(losses(strategy.mean(following), measure_keys).mean())
                row |= {name: metrics[name].item() for name in HISTORY[4:]}
                if config.age == 0 or not row["loss"] < dead_loss:  # else it may be one bad start
                    check_alive(metrics, config.population, dead_loss, point)
                row["seconds"] = meta["seconds"] + time.monotonic() - clock
                told = meta | {"generation": point, "seconds": row["seconds"]}
                told["history"] = [*meta["history"], [row[name] for name in HISTORY]]
                state, meta = following, told  # at once: Ctrl-C never finds one without the other
                progress.update(count)
                rate = round(row["rollouts"] / row["seconds"])
                progress.set_postfix({"loss": f"{row['loss']:.4f}", "rollouts/s": rate})
                if callback:
                    callback(row)
                if is_writer and time.monotonic() - saved_at >= checkpoint_seconds:
                    keeper.save(state, meta)
                    saved_at = time.monotonic()
        except BaseException as error:
            if is_writer and meta["generation"]:
                keeper.save(state, meta)
                keeper.flush()
                if isinstance(error, KeyboardInterrupt):
                    progress.write(f"Stopped at generation {meta['generation']}. To go on: {how}")
            raise
        finally:
            progress.close()
        if is_writer:
            keeper.save(state, meta)
            keeper.flush()
            history, devices = meta["history"], ", then ".join(meta["devices"])
            mean, std = strategy.mean(state), strategy.std(state)
            patiently(lambda: write_run(out, task, mean, std, history, command, devices))
    return out


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, or to resume none."""
    names = ("checkpoint", "checkpoint.previous", "run.json")
    if not resume and any((out / name).exists() for name in names):
        raise ValueError(f"{out} holds a run already; resume it or choose another folder")
    if resume and not any((out / name).exists() for name in names[:2]):
        raise FileNotFoundError(f"No such file: there is no checkpoint in {out} to resume")


def begin(task: Task) -> dict:
    """Say what a checkpoint must tell beside the arrays, for a run that is about to begin.

    Explained in appendix A2, "Going on".

    Args:
        task: from `make_task`.

    Returns:
        Plain values. Configuration, a digest of the target, devices, the generation reached,
        seconds, and rows of `HISTORY`.
    """
    target = hashlib.sha256(task.target.tobytes()).hexdigest()
    place = {"target": target, "devices": [describe_device()]}
    progress = {"generation": 0, "seconds": 0.0, "history": []}
    return {"config": dataclasses.asdict(task.config), **place, **progress}


def continue_from(saved: dict, meta: dict) -> dict:
    """Join what a checkpoint tells to what is about to run, if the two belong together.

    Explained in appendix A2, "Going on".

    Args:
        saved: from the checkpoint.
        meta: from `begin`.

    Returns:
        Like `meta`, with the progress of `saved`.

    Raises:
        ValueError: the checkpoint is not of a run; a field other than `generations` differs, or
            `generations` is smaller here, or the target has changed: names what, and both values.
    """
    try:
        config = dataclasses.asdict(Config(**saved["config"]))  # it may be older than some fields
        progress = {"generation": saved["generation"], "seconds": float(saved["seconds"])}
        history, before = saved["history"], saved.get("devices", meta["devices"])
        rows = [row[0] for row in history if len(row) == len(HISTORY)]
        is_run = len(rows) == len(history) and rows == sorted({*rows})
        is_run = is_run and rows[-1] == saved["generation"] and isinstance(before[-1], str)
    except (LookupError, TypeError, ValueError, AttributeError):
        is_run = False
    if not is_run:
        raise ValueError("cannot resume: the checkpoint is not one of a training")
    for name, value in meta["config"].items():
        if name != "generations" and config[name] != value:
            raise ValueError(
                f"cannot resume: {name} is {value!r} here, in the checkpoint {config[name]!r}"
            )
    if meta["config"]["generations"] < config["generations"]:
        raise ValueError(
            f"cannot resume: generations is {meta['config']['generations']} here, in the "
            f"checkpoint {config['generations']}; it may only grow"
        )
    if saved.get("target", meta["target"]) != meta["target"]:
        raise ValueError(
            "cannot resume: the target's picture is not the checkpoint's; has Pillow another "
            "version, or the emoji another drawing?"
        )
    kept = {*log_points(Config(**meta["config"]), 0), saved["generation"]}
    here = meta["devices"][0]
    if before[-1] != here:
        print(f"The checkpoint is from {before[-1]}, and this is {here}: sums are rounded apart.")
    devices = before if before[-1] == here else [*before, here]
    return meta | progress | {"devices": devices, "history": [r for r in history if r[0] in kept]}


def make_measure(task: Task, factor: int = 1) -> Callable[[Any, jax.Array], jax.Array]:
    """Compile (params, keys) -> losses, one for each key: how good weights are, and how surely.

    Explained in chapter 6, "The same task, twice".

    Args:
        task: from `make_task`.
        factor: see `Task.loss`.

    Returns:
        Function of the weights and (N,) random keys, giving (N,) float32.
    """
    return jax.jit(lambda params, keys: jax.lax.map(lambda k: task.loss(params, k, factor), keys))


def write_run(
    out: Path, task: Task, params: Any, std: Any, history: list, command: str | None, device: str
) -> None:
    """Write the files of a run folder, each whole or not at all.

    Args:
        out: the folder.
        task: from `make_task`.
        params: the final weights.
        std: the noise scale of each of them, a pytree of the same shapes.
        history: rows of `HISTORY`.
        command: how to reproduce the run.
        device: what it was computed on.
    """
    (out / "run.json").unlink(missing_ok=True)  # comes last: a folder that has it is whole
    digits = [[f"{x:.6g}" if isinstance(x, float) else str(x) for x in row] for row in history]
    checkpoint.write_table(out / "history.csv", [HISTORY, *digits])
    checkpoint.save_weights(out / "weights.npz", params)
    states = np.asarray(task.frames(params, jax.random.key(FRESH)))
    pixels = render.upscale(render.to_rgb(states, premultiplied=task.config.premultiply), 6)
    render.save_png(out / "final.png", pixels[-1])
    render.save_clip(out / "growth.webp", pixels, fps=16)
    losses = make_measure(task)(params, jax.random.split(jax.random.key(FRESH), MEASURED))
    last = dict(zip(HISTORY, history[-1], strict=True))
    rules = {"smooth": "growing", "ifs": "growing, by ifs", "digital": "growing, of bits and ifs"}
    description = {
        "rule": rules[task.config.cells],
        "config": dataclasses.asdict(task.config),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "loss": {"mean": float(losses.mean()), "std": float(losses.std()), "keys": MEASURED},
        "empty_loss": task.empty_loss(),
        "std": {k: float(v.mean()) for k, v in checkpoint.weights_to_arrays(std).items()},
        "rollouts": last["rollouts"],
        "seconds": last["seconds"],
        "device": device,
        "versions": versions(),
        "command": command,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    checkpoint.write_atomic(out / "run.json", text.encode())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "evosax", "numpy")
    own = {"python": platform.python_version(), "nca_lib": nca_lib.__version__}
    return own | {name: importlib.metadata.version(name) for name in packages}


def describe_device() -> str:
    """Name what a run is computed on, for example "2 x cpu (AMD EPYC)"."""
    devices = jax.devices()
    kind, info = devices[0].device_kind, Path("/proc/cpuinfo")
    if devices[0].platform == "cpu" and info.exists():  # Linux; elsewhere plain "cpu"
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        kind = f"cpu ({models[0].partition(':')[2].strip()})" if models else kind
    return f"{len(devices)} x {kind}"


def describe_machine() -> str:
    """Say what a notebook runs on: versions, devices and, on Colab without a GPU, how to get one.

    Returns:
        Lines of less than 80 characters, which each chapter prints in its first cell.
    """
    names = ", ".join(map("\N{NO-BREAK SPACE}".join, versions().items()))
    parts = [names, f"on {describe_device()}"]
    if "google.colab" in sys.modules and jax.default_backend() == "cpu":
        parts.append(
            "No GPU. The chapters take about the time that they name, which is for two CPU cores; "
            "large trainings (presets lizard-40 and reference) would take many hours. For a GPU: "
            "Runtime > Change runtime type > T4 GPU, then run this cell again."
        )
    text = "\n".join(textwrap.fill(part, 79, break_on_hyphens=False) for part in parts)
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text == "true"


def parse(arguments: list[str]) -> tuple[argparse.Namespace, Config]:
    """Read the command line; every field of `Config` is a flag."""
    parser = argparse.ArgumentParser(
        prog="python -m nca_lib.train",
        description="Evolve a cell rule into a run folder.",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", required=True, help="run folder, made if needed")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--chunk", type=int, help="members a device computes side by side")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes of this SLURM or other job",
    )
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        kind = _boolean if field.type is bool else field.type
        parser.add_argument(flag, type=kind, metavar=field.type.__name__)
    options = parser.parse_args(arguments)
    names = {field.name for field in dataclasses.fields(Config)}
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    return options, dataclasses.replace(PRESETS[options.preset], **given)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        The exit status. It is 0, 2 for an error, or 128 and the number of the signal that ended
        the run, so 130 for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options, config = parse(arguments)
    kept = [argument for argument in arguments if argument != "--resume"]
    try:
        # A name that is not UTF-8 could not be written into run.json in the end.
        if not options.out or re.search("[\0\ud800-\udfff]", options.out):
            raise ValueError(f"--out must name a folder, got {options.out!r}")
        if options.distributed:
            jax.distributed.initialize()  # finds SLURM, GKE, Cloud TPU, ... by itself
        use_cores()
        command = shlex.join(["python", "-m", "nca_lib.train", *kept])
        train(config, options.out, resume=options.resume, command=command, chunk=options.chunk)
    except KeyboardInterrupt as interrupt:
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except (ValueError, RuntimeError, ArithmeticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def obey_signals() -> None:
    """Take SIGTERM, from a machine that shuts down, and SIGHUP, from a terminal, for Ctrl-C."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup wants SIGHUP ignored
            signal.signal(number, interrupt)


if __name__ == "__main__":
    obey_signals()
    sys.exit(main())
