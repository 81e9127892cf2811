"""Retrain the recipe study of chapter 5: one choice changed at a time, three seeds each.

    python book/experiments/study.py [--only FACTOR ...]

Every run spends the same number of rollouts, however many steps each of them has, and is measured
with the same yardstick: the default's steps, window and premultiplied target, under the variant's
own kind of fire masks. Only the first recipe goes on for eight times as long. The results go to
nca_lib/data/study.csv, the default and its surroundings to study.json beside it. Runs that are
there already are left alone, so the study can be stopped and taken up again; delete the two files
to begin anew.
"""

import argparse
import contextlib
import csv
import dataclasses
import functools
import json
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from tqdm import tqdm

from nca_lib import evolution
from nca_lib.evolution import (
    AXIS,
    Strategy,
    make_evolve,
    population_mesh,
    summarise,
    to_weights,
)
from nca_lib.lab.checkpoint import write_atomic, write_table
from nca_lib.lab.config import PRESETS, Config
from nca_lib.lab.loop import run, run_keys
from nca_lib.lab.machine import describe_device, use_cores, versions
from nca_lib.lab.task import Task, learning_rates, make_strategy, make_task
from nca_lib.loss import mse
from nca_lib.rollout import grow_and_measure

ROLLOUTS, SEEDS, POINTS = 64_000, 3, 20
FOLDER = Path(__file__).parents[2] / "nca_lib" / "data"
HEADER = ["factor", "value", "seed", "rollouts", "loss"]
DEFAULT = PRESETS["quick"]
ADAM = {"learning_rate": 0.006, "learning_rate_end": 0.05}  # for variants that use it
OPEN_ES = {"strategy": "open_es", "std": 0.015, **ADAM}


def times(field: str, *factors: float) -> dict[str, dict]:
    """Variants of one field: its default times each factor."""
    value = getattr(DEFAULT, field)
    return {f"{f * value:g}": {field: type(value)(f * value)} for f in factors}


def crowd(population: int) -> dict:
    """Another population at the same rollouts: the fewer generations, the larger the step."""
    ratio = population / DEFAULT.population
    changes = {"population": population, "generations": ROLLOUTS // population}
    changes |= {name: ratio * getattr(DEFAULT, name) for name in ("learning_rate", "std_rate")}
    return changes | {"MIX_RATE": ratio * evolution.MIX_RATE}


# {factor: {value: what changes}}: fields of Config, constants of `nca_lib.evolution` (capitals), or
# what `evolve_variant` reads by itself.
STUDY = {
    "default": {"": {}},
    "noise scale": times("std", 0.5, 2),
    "noise over time": {
        "fixed": {"std_rate": 0.0},
        "learned at a third of the rate": {"std_rate": DEFAULT.std_rate / 3},
        "learned 3 x as fast": {"std_rate": 3 * DEFAULT.std_rate},
    },
    "whitening": {
        "none": {"strategy": "pgpe"},
        "hidden layer only": {"layers": ["hidden"]},
        "output layer only": {"layers": ["output"]},
        "Cholesky factor": {"root": "cholesky"},
        "eigenbasis": {"root": "eigenbasis"},
    },
    "damping": {"0.003": {"DAMPING": 0.003}, "0.3": {"DAMPING": 0.3}},
    "generations between looks": {"10": {"LOOK": 10}, "250": {"LOOK": 250}},
    "mixing": {
        "none": {"MIX_RATE": 0.0},
        "3 x as fast": {"MIX_RATE": 3 * evolution.MIX_RATE},
        "nothing else": {"layers": []},
    },
    "learning rate": times("learning_rate", 0.5, 2),
    "learning rate at the end": {
        "0.3 x": {"learning_rate_end": 0.3},
        "0.1 x": {"learning_rate_end": 0.1},
    },
    "optimizer": {"Adam": {"adam": True, **ADAM}, "no momentum": {"momentum": False}},
    "population": {"16": crowd(16), "256": crowd(256)},
    "hidden units": times("hidden", 0.5, 2),
    "channels": {"6": {"channels": 6}, "12": {"channels": 12}},
    # To be read against OpenAI-ES below: Adam takes the length out of the estimate.
    "shaping": {
        "raw loss": {"shaping": "raw", **OPEN_ES},
        "standardised": {"shaping": "standardised", **OPEN_ES},
    },
    "fire masks": {"bernoulli": {"mask": "bernoulli"}},
    "luck": {
        "own for each": {"shared": False},
        "own for each, OpenAI-ES": {"shared": False, **OPEN_ES},
    },
    "loss window": times("window", 0.5, 2) | {"all steps": {"window": DEFAULT.num_steps}},
    "steps": {
        "16, 24, 32": {"curriculum": (16, 24, 32)},
        "24, 32": {"curriculum": (24, 32)},
    },
    "step size": times("step_size", 0.5, 2),
    "alpha": {"straight": {"premultiply": False}},
    # The noise scales are those that did best in a first trial of two or three.
    "strategy": {
        "PGPE": {"strategy": "pgpe", "std_rate": 0.1, "learning_rate": 0.5},
        "OpenAI-ES": OPEN_ES,
        "OpenAI-ES, no pairs": {"antithetic": False, **OPEN_ES},
        "SNES": {"algorithm": "SNES", "std": 0.05},
        "CR-FM-NES": {"algorithm": "CR_FM_NES", "std": 0.05},
        "sep-CMA-ES": {"algorithm": "Sep_CMA_ES", "std": 0.04},
        "NRES, 8 steps": {"truncation": 8, "std": 0.015, **ADAM},
    },
    # What the other choices began with, for long enough to see where it gets.
    "first recipe": {
        "": {
            "strategy": "open_es",
            "std": 0.01,
            "learning_rate": 0.003,
            "learning_rate_end": 1.0,
            "generations": 8 * ROLLOUTS // 64,
        }
    },
}


def vary_strategy(config: Config, params, options: dict) -> Strategy:
    """The strategy of a configuration, or what a variant makes of it."""
    from evosax import algorithms

    if name := options.get("algorithm"):
        algorithm = getattr(algorithms, name)(config.population, params, metrics_fn=summarise)
        return Strategy(algorithm, algorithm.default_params.replace(std_init=config.std))
    strategy = make_strategy(config, params)
    rates = learning_rates(config)
    if "adam" in options or "momentum" in options:
        # Ten times the step makes up for a momentum of 0.9.
        plain = optax.adam(rates) if "adam" in options else optax.sgd(lambda n: 10 * rates(n))
        strategy.algorithm.optimizer = optax.chain(to_weights(params), plain)
    if name := options.get("shaping"):
        strategy.algorithm.fitness_shaping_fn = {"raw": raw, "standardised": standardised}[name]
    if "antithetic" in options:
        strategy.algorithm.use_antithetic_sampling = options["antithetic"]
    return strategy


def cholesky(moment, otherwise):
    """In place of `nca_lib.evolution.whitener`: the inverse of a triangular root."""
    size, seen = len(moment), jnp.isfinite(moment).all()
    damped = moment * size / jnp.trace(moment) + evolution.DAMPING * jnp.eye(size)
    lower = jnp.linalg.cholesky(jnp.where(seen, damped, jnp.eye(size)))
    root = jax.scipy.linalg.solve_triangular(lower, jnp.eye(size), lower=True).T
    return jnp.where(seen, root / jnp.sqrt(jnp.mean(jnp.sum(root**2, axis=0))), otherwise)


def eigenbasis(moment, otherwise):
    """In place of `nca_lib.evolution.whitener`: the symmetric root without turning back."""
    seen = jnp.isfinite(moment).all()
    vectors = jnp.linalg.eigh(jnp.where(seen, moment, jnp.eye(len(moment))))[1]
    return jnp.where(seen, SYMMETRIC(moment, otherwise) @ vectors, otherwise)


SYMMETRIC = evolution.whitener


def raw(population, fitness, state, params):
    """Leave the loss as it is, but for members that exploded."""
    return jnp.where(jnp.isfinite(fitness), fitness, 1.0)


def standardised(population, fitness, state, params):
    """Shift and scale the loss to mean 0 and standard deviation 1."""
    return jax.nn.standardize(raw(population, fitness, state, params))


def own_luck(loss):
    """Draw the fire masks of each member from a key of its own, made from its weights."""

    def fitness(params, key):
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))
        number = jax.lax.bitcast_convert_type(total, jnp.uint32)
        return loss(params, jax.random.fold_in(key, number))

    return fitness


def look_at(task, layers, mean, key):
    """Second moments of what these layers see; the noise of the others stays as it is."""
    seen = task.look(mean, task.prepare(mean, key)[0])
    return {name: x if name in layers else x * jnp.nan for name, x in seen.items()}


def make_truncated(config: Config, task: Task, length: int):
    """Noise-reuse ES (Li et al. 2023): an update every `length` steps, from states that go on.

    Returns:
        The strategy, and a function like that of `make_evolve`. A generation is a whole rollout,
        with an update for each of its parts; all steps count in the loss.
    """
    from evosax.algorithms import NoiseReuseES
    from evosax.core.fitness_shaping import centered_rank_fitness_shaping_fn

    parts = config.num_steps // length
    algorithm = NoiseReuseES(
        config.population,
        task.params,
        optimizer=optax.adam(
            learning_rates(dataclasses.replace(config, generations=parts * config.generations))
        ),
        std_schedule=optax.constant_schedule(config.std),
        fitness_shaping_fn=centered_rank_fitness_shaping_fn,
        metrics_fn=summarise,
    )
    params = algorithm.default_params.replace(T=config.num_steps, K=length)
    strategy, target = Strategy(algorithm, params), jnp.asarray(task.target)
    mesh = population_mesh(config.population)
    shared, split = PartitionSpec(), PartitionSpec(AXIS)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(split, split, shared), out_specs=split, check_vma=False
    )
    def unroll(members, states, fires):
        def one(member_and_state):
            member, state = member_and_state
            model = task.merge(member)
            return grow_and_measure(model, state, fires, lambda state: mse(state, target))

        return jax.lax.map(one, (members, states))

    @jax.jit
    def episode(state, key):
        """Grow all members once from the seed, in parts."""
        keys = jax.random.split(key, 2 * parts + 1)
        fires = task.fires(keys[-1])
        states = jnp.broadcast_to(task.start, (config.population, *task.start.shape))
        for part in range(parts):
            population, state = algorithm.ask(keys[2 * part], state, params)
            piece = fires[part * length : (part + 1) * length]
            states, fitness = unroll(population, states, piece)
            key = keys[2 * part + 1]
            state, metrics = algorithm.tell(key, population, fitness, state, params)
        return state, metrics

    def evolve(state, key, start, count):
        for number in range(start, start + count):
            state, metrics = episode(state, jax.random.fold_in(key, number))
        return state, metrics

    return strategy, evolve


def make_yardstick(task: Task):
    """Compile (params, keys) -> losses on the default's terms, whatever a variant trains on."""
    target = jnp.asarray(make_task(DEFAULT).target)

    def loss(params, key):
        state = task.frames(params, key, DEFAULT.num_steps)[-DEFAULT.window :]
        if not task.config.premultiply:
            alpha = jnp.clip(state[..., -1:], 0, 1)
            state = jnp.concatenate([state[..., -4:-1] * alpha, state[..., -1:]], axis=-1)
        return mse(state, target).mean()

    return jax.jit(lambda params, keys: jax.lax.map(functools.partial(loss, params), keys))


def evolve_variant(changes: dict, seed: int, points: int = POINTS) -> list[tuple[int, float]]:
    """Train one variant and return (rollouts, loss) at the first of `POINTS` moments."""
    constants = {name: value for name, value in changes.items() if name.isupper()}
    if "root" in changes:
        constants["whitener"] = {"cholesky": cholesky, "eigenbasis": eigenbasis}[changes["root"]]
    with mock.patch.multiple(evolution, **constants) if constants else contextlib.nullcontext():
        return _evolve(changes, seed, points)


def _evolve(changes: dict, seed: int, points: int) -> list[tuple[int, float]]:
    fields = {field.name for field in dataclasses.fields(Config)}
    options = {name: value for name, value in changes.items() if name not in fields}
    changes = {name: value for name, value in changes.items() if name in fields}
    config = dataclasses.replace(DEFAULT, seed=seed, **changes)
    task, lengths = make_task(config), options.get("curriculum", (config.num_steps,))
    if "truncation" in options:
        strategy, evolve = make_truncated(config, task, options["truncation"])
        evolvers = [evolve]
    else:
        strategy, evolvers = vary_strategy(config, task.params, options), []
        for num_steps in lengths:
            part = make_task(dataclasses.replace(config, num_steps=num_steps))
            loss = part.loss if options.get("shared", True) else own_luck(part.loss)
            look = functools.partial(look_at, part, options.get("layers", ["hidden", "output"]))
            evolvers.append(make_evolve(strategy, loss, look=look))

    def evolve(state, key, start, count):
        return evolvers[start * len(evolvers) // config.generations](state, key, start, count)

    state = strategy.init(run_keys(seed)[0], task.params)
    moments = [config.generations * point // POINTS for point in range(1, points + 1)]
    losses = []
    try:
        for _, row in run(task, (strategy, evolve), state, moments, measure=make_yardstick(task)):
            losses.append(row["loss"])
    except (RuntimeError, FloatingPointError):  # died or exploded: as bad as nothing, to the end
        pass
    losses += [task.empty_loss()] * (points - len(losses))
    return [(moment * config.population, x) for moment, x in zip(moments, losses, strict=True)]


def main() -> None:
    """Run what is missing and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=STUDY, default=list(STUDY), metavar="FACTOR")
    options = parser.parse_args()
    use_cores()
    file, rows = FOLDER / "study.csv", []
    if file.exists():
        rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))[1:]
    about = {"default": dataclasses.asdict(DEFAULT), "rollouts": ROLLOUTS}
    about["study"] = json.loads(json.dumps(STUDY))
    if rows:
        before = json.loads((FOLDER / "study.json").read_text(encoding="utf-8"))
        if any(before[name] != value for name, value in about.items()):
            raise SystemExit("study.csv is of another study; delete it to begin anew")
    about |= {"device": describe_device(), "versions": versions()}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    write_atomic(FOLDER / "study.json", text.encode())
    # Seed by seed, so that a study cut short still has every variant.
    wanted = [(f, v, s) for s in range(SEEDS) for f in options.only for v in STUDY[f]]
    there = {(factor, value, int(seed)) for factor, value, seed, *_ in rows}
    for factor, value, seed in tqdm([name for name in wanted if name not in there]):
        for rollouts, loss in evolve_variant(STUDY[factor][value], seed):
            rows.append([factor, value, seed, rollouts, f"{loss:.6g}"])
        write_table(file, [HEADER, *rows])
        tqdm.write(f"{factor} {value} seed {seed}: {rows[-1][4]}")


if __name__ == "__main__":
    main()
