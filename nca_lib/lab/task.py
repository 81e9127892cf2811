"""A configuration becomes a target, a start, a rule and what is minimised (chapter 5)."""

import functools
import math
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from nca_lib.backprop import Descent, adam_of_directions, make_descend
from nca_lib.evolution import Strategy, make_evolve, open_es, pgpe, population_mesh, second_moments
from nca_lib.lab import checkpoint
from nca_lib.lab.config import SHIPPED, Config
from nca_lib.lab.goals import GOALS, bit
from nca_lib.lab.machine import free_memory, memory_needed, plan_chunk
from nca_lib.loss import mse, window_loss
from nca_lib.model import NCA, check, seed_state
from nca_lib.pool import BATCH, draw_starts
from nca_lib.rollout import damage, fire_schedule, grow, record
from nca_lib.target import load_emoji


class Task(NamedTuple):
    """What a configuration stands for: a target, a start, and a rule split into two parts.

    Explained in chapter 4, "A black box that returns one number".
    """

    config: Config  #: what is to run
    target: np.ndarray  #: (H, W, 4) float32, zero for a goal without a target
    start: jax.Array  #: (H, W, C) float32, one living cell
    params: nnx.State  #: initial weights, a pytree
    merge: Callable[[Any], NCA]  #: params -> cell rule
    measure: Callable[[jax.Array], jax.Array]  #: state -> float32 scalar, lower is better

    def fires(self, key: jax.Array, num_steps: int | None = None) -> jax.Array:
        """Draw fire masks for so many steps, by default the configured number.

        See `nca_lib.rollout.fire_schedule`.
        """
        height, width, _ = self.start.shape
        num_steps = self.config.num_steps if num_steps is None else num_steps
        return fire_schedule(key, num_steps, height, width, self.config.mask)

    def loss(self, params: Any, key: jax.Array, factor: int = 1) -> jax.Array:
        """Grow once from the seed and measure: a float32 scalar, lower is better.

        `key` decides the fire masks. It grows for `factor` times the configured steps; the window
        keeps its length. Explained in chapter 4, "A black box that returns one number".
        """
        return self.judge(params, self.start, self.fires(key, factor * self.config.num_steps), 0)[0]

    def judge(
        self,
        params: Any,
        start: jax.Array,
        fires: jax.Array,
        reach: int | None = None,
        overflow: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """Grow from a start (H, W, C) and measure: `nca_lib.loss.window_loss` of this task."""
        model, window = self.merge(params), self.config.window
        return window_loss(model, start, fires, self.measure, window, reach, overflow)

    def empty_loss(self) -> float:
        """Measure a grid with nothing on it: what a dead population scores."""
        return float(self.measure(jnp.zeros_like(self.start)))

    def prepare(
        self, params: Any, key: jax.Array, pool: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array | None]:
        """Draw what all members of a generation share: where they start, and which cells fire.

        With a pool they start from one state of a batch of eight, of which the worst begins anew
        from the seed and others may be damaged; and what the mean of the search distribution,
        `params`, grows from there takes its place in the pool. Without a pool see `aged_start`.

        Returns the start (H, W, C) float32 with the fire masks, see `fires`, and the pool.
        Explained in chapter 7, "Starts that have lived".
        """
        if pool is None:
            return self.aged_start(params, key), None
        key_draw, key_pick, key_fires = jax.random.split(key, 3)
        target, share = jnp.asarray(self.target), self.config.damage
        places, starts = draw_starts(key_draw, pool, BATCH, self.start, target, share)
        pick = jax.random.randint(key_pick, (), 0, BATCH, jnp.int32)
        start, fires = starts[pick], self.fires(key_fires)
        grown = grow(self.merge(params), start, fires)
        return (start, fires), pool.at[places[pick]].set(grown)

    def aged_start(self, params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw a start and fire masks, see `prepare`, where no states are kept.

        Without `age` they start from the seed. With it, only a third of the generations do. In the
        others the mean of the search distribution has already grown the start, for a number of
        steps that is log-uniform from 1 to `age`, and it may be damaged. Explained in chapter 7,
        "Starts that have lived".
        """
        if self.config.age == 0:
            return self.start, self.fires(key)
        key_fires, key_luck, key_grow, key_damage = jax.random.split(key, 4)
        model = self.merge(params)
        old, scale, hurt = jax.random.uniform(key_luck, (3,), jnp.float32)
        age = jnp.where(old < 1 / 3, 0, (self.config.age + 1.0) ** scale).astype(jnp.int32)

        def live(number, state):
            return model(state, self.fires(jax.random.fold_in(key_grow, number), 1)[0])

        start = jax.lax.fori_loop(0, age, live, self.start)
        hurt = (age > 0) & (hurt < self.config.damage)
        start = jnp.where(hurt, damage(key_damage, start), start)
        # What died or is exploding teaches nothing. (NaN is not below a bound.)
        usable = (start[..., -1].max() > self.config.alive_threshold) & (jnp.abs(start).max() < 100)
        return jnp.where(usable, start, self.start), self.fires(key_fires)

    def live(self, params: Any, shared: tuple[jax.Array, jax.Array]) -> tuple:
        """Grow one member from what is prepared: its loss, as evolution minimises it, and end."""
        reach, (start, fires) = None if self.config.starts_grown else 0, shared
        if not self.config.shared_luck:  # members differ in their weights, and so in these bits
            bits = jax.lax.bitcast_convert_type(ravel_pytree(params)[0].sum(), jnp.uint32)
            fires = self.fires(jax.random.key(bits))
        return self.judge(params, start, fires, reach, self.config.overflow)

    def fitness(self, params: Any, shared: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Grow one member from what is prepared and measure: what evolution minimises."""
        return self.live(params, shared)[0]

    def look(self, params: Any, shared: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        """Grow from what is prepared and see what the layers see: see `second_moments`."""
        return second_moments(self.merge(params), *shared)

    def frames(self, params: Any, key: jax.Array, num_steps: int | None = None) -> jax.Array:
        """Grow once and keep every state, (T + 1, H, W, C) float32; T as in `fires`."""
        return record(self.merge(params), self.start, self.fires(key, num_steps))


def make_task(config: Config, surrogate: str = "", target: np.ndarray | None = None) -> Task:
    """Turn a configuration into arrays, a rule and a goal.

    Explained in chapter 4, "A black box that returns one number".

    Args:
        config: what is to run.
        surrogate: what stands for decisions in cells and goal; by default nothing, whatever the
            configuration has for training.
        target: (H, W, 4) float32 in [0, 1], in place of the picture of the configuration's emoji.

    Returns:
        The task.

    Raises:
        ValueError: the configuration or the emoji is not usable.
    """
    check(isinstance(config, Config), "config", config, "a Config such as PRESETS['pocket']")
    if config.goal == "target":
        if target is None:
            target = load_emoji(config.emoji, config.size, config.padding, config.premultiply)
        measure = functools.partial(mse, target=jnp.asarray(target))
    else:
        target = np.zeros((config.size + 2 * config.padding,) * 2 + (4,), np.float32)
        measure = functools.partial(GOALS[config.goal], surrogate=surrogate)
    rule = {}
    if config.cells != "smooth":
        rule["activation"] = functools.partial(bit, surrogate=surrogate)
    if config.cells == "digital":
        rule["post_step"] = lambda state: bit(state - 0.5, surrogate)
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
        config, target, start, params, lambda params: nnx.merge(graph, params, rest), measure
    )


def initial_weights(config: Config, params: Any) -> Any:
    """Read the weights of the run that a configuration starts from; `params` if it names none.

    A ValueError says that there is no such run, or that its weights have other shapes.
    """
    if not config.init:
        return params
    for folder in (SHIPPED / config.init, Path(config.init)):
        if os.path.isfile(folder / "weights.npz"):  # noqa: PTH113 (of names too long: false)
            return checkpoint.load_weights(folder / "weights.npz", like=params)
    raise ValueError(f"init must be a shipped run or a run folder, got {config.init!r}")


def make_strategy(config: Config, params: Any, pool: Any = None, **settings: Any) -> Strategy:
    """Set up the evolution strategy that a configuration names, for members like `params`.

    Its std, std_rate, learning_rate and generations may be others, traced ones: see `make_evolve`.
    Explained in chapter 4, "Many generations in one call".
    """
    config = types.SimpleNamespace(**vars(config) | settings)
    std, rates = config.std, learning_rates(config)
    if whitens := config.strategy == "whitened":
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        std *= min(1.0, math.sqrt(1064 / count))
    if config.strategy == "open_es":
        strategy = open_es(params, config.population, std, rates, pool)
    else:
        strategy = pgpe(params, config.population, std, rates, config.std_rate, whitens, pool)
    if not config.ranks:
        strategy.algorithm.fitness_shaping_fn = _proportions
    return strategy


def _proportions(population: Any, fitness: jax.Array, *_: Any) -> jax.Array:
    """What stands for ranks: the fitness (N,), moved and scaled to their mean and deviation.

    What is not finite counts as the worst of the others.
    """
    finite = jnp.minimum(fitness, jnp.max(fitness, where=jnp.isfinite(fitness), initial=0.0))
    deviation = math.sqrt((len(fitness) + 1) / (len(fitness) - 1) / 12)  # of ranks
    return deviation * (finite - finite.mean()) / jnp.maximum(finite.std(), 1e-30)


def learning_rates(config: Any) -> Callable[[int], float]:
    """Plan the size of the steps: they fall along a cosine, over generations.

    Explained in chapter 5, "How large a step".
    """
    start, share, total = config.learning_rate, config.learning_rate_end, config.generations

    def rate(count):  # as optax.cosine_decay_schedule, which takes no traced numbers, to the bit
        angle = jnp.minimum(count, 1.0 * total) * (jnp.pi * (1.0 / jnp.float32(total)))
        return start * ((1 - share) * (0.5 * (1 + jnp.cos(angle))) + share)

    return rate


def make_trainer(task: Task, chunk: int | None = None) -> tuple[Strategy | Descent, Callable]:
    """Set up what a configuration asks for, evolution or backpropagation.

    Explained in chapter 8, "The same task, twice".

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
        pool = 3 * config.pool * task.start.nbytes  # old, new, and one to copy
        needed, free = config.num_steps * step + pool, free_memory()
        if needed > free:
            raise ValueError(
                f"gradients through num_steps {config.num_steps} of a population of "
                f"{config.population} need about {needed / 1e9:.2g} GB on each device, and "
                f"{free / 1e9:.2g} GB are free"
            )
        optimizer = adam_of_directions(learning_rates(config))
        descent = Descent(optimizer, task.start, config.pool)
        trained = make_task(config, config.surrogate) if config.surrogate else task
        return descent, make_descend(descent, trained)

    seeds = jnp.broadcast_to(task.start, (config.pool, *task.start.shape))
    pool = seeds if config.pool else None

    def tune(settings):
        return make_strategy(config, task.params, pool, **settings)

    strategy, chunk = tune({}), chunk or plan_chunk(config)
    return strategy, make_evolve(strategy, task.fitness, chunk, task.prepare, task.look, tune)


def make_measure(task: Task, factor: int = 1) -> Callable[[Any, jax.Array], jax.Array]:
    """Compile (params, keys) -> losses: how good weights are, and how surely.

    Of (N,) random keys it makes (N,) float32; for `factor` see `Task.loss`. Explained in chapter 8,
    "The same task, twice".
    """
    return jax.jit(lambda params, keys: jax.lax.map(lambda k: task.loss(params, k, factor), keys))
