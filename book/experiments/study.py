"""Retrain the recipe study of chapter 4: one choice changed at a time, three seeds each.

    python book/experiments/study.py [--only FACTOR ...]

Every run spends the same number of rollouts, however many steps each of them has, and is measured
with the same yardstick: the default's steps, window and premultiplied target, under the variant's
own kind of fire masks. Only the first recipe goes on for four times as long. The results go to
nca_lib/data/study.csv, the default and its surroundings to study.json beside it. Runs that are
there already are left alone, so the study can be stopped and taken up again; delete the two files
to begin anew.
"""

import argparse
import csv
import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from tqdm import tqdm

from nca_lib.evolution import AXIS, Strategy, make_evolve, population_mesh, summarise
from nca_lib.lab.checkpoint import write_atomic, write_table
from nca_lib.lab.config import PRESETS, Config
from nca_lib.lab.machine import describe_device, use_cores, versions
from nca_lib.lab.runs import MEASURED
from nca_lib.lab.task import Task, learning_rates, make_strategy, make_task
from nca_lib.loss import mse
from nca_lib.rollout import grow_and_measure

ROLLOUTS, SEEDS, POINTS = 128_000, 3, 20
FOLDER = Path(__file__).parents[2] / "nca_lib" / "data"
HEADER = ["factor", "value", "seed", "rollouts", "loss"]
DEFAULT = dataclasses.replace(
    PRESETS["pocket"],
    strategy="pgpe",
    generations=ROLLOUTS // 64,
    learning_rate=0.5,
    learning_rate_end=1.0,
)
ADAM = {"learning_rate": 0.006, "learning_rate_end": 0.05}  # for variants that use it


def times(field: str, *factors: float) -> dict[str, dict]:
    """Variants of one field: its default times each factor."""
    value = getattr(DEFAULT, field)
    return {f"{f * value:g}": {field: type(value)(f * value)} for f in factors}


def crowd(population: int) -> dict:
    """Another population at the same rollouts: the fewer generations, the larger the step."""
    ratio = population / DEFAULT.population
    changes = {"population": population, "generations": ROLLOUTS // population}
    return changes | {n: ratio * getattr(DEFAULT, n) for n in ("learning_rate", "std_rate")}


# {factor: {value: what changes}}: fields of Config, or what `evolve_variant` reads by itself.
STUDY = {
    "default": {"": {}},
    "noise scale": times("std", 0.5, 2),
    "noise over time": {"fixed": {"std_rate": 0.0}, "learned 3 x as fast": {"std_rate": 0.3}},
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
        "raw loss": {"shaping": "raw", "strategy": "open_es", "std": 0.015, **ADAM},
        "standardised": {"shaping": "standardised", "strategy": "open_es", "std": 0.015, **ADAM},
    },
    "fire masks": {"bernoulli": {"mask": "bernoulli"}},
    "luck": {"own for each": {"shared": False}},
    "loss window": times("window", 0.5, 2) | {"all steps": {"window": DEFAULT.num_steps}},
    "steps": {
        "16, 24, 32": {"curriculum": (16, 24, 32)},
        "24, 32": {"curriculum": (24, 32)},
    },
    "step size": times("step_size", 0.5, 2),
    "alpha": {"straight": {"premultiply": False}},
    # The noise scales are those that did best in a first trial of two or three.
    "strategy": {
        "OpenAI-ES": {"strategy": "open_es", "std": 0.015, **ADAM},
        "OpenAI-ES, no pairs": {"strategy": "open_es", "std": 0.015, "antithetic": False, **ADAM},
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
            "generations": 4 * ROLLOUTS // 64,
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
    if "adam" in options:
        strategy.algorithm.optimizer = optax.adam(rates)
    if "momentum" in options:  # ten times the step makes up for a momentum of 0.9
        strategy.algorithm.optimizer = optax.sgd(lambda number: 10 * rates(number))
    if name := options.get("shaping"):
        strategy.algorithm.fitness_shaping_fn = {"raw": raw, "standardised": standardised}[name]
    if "antithetic" in options:
        strategy.algorithm.use_antithetic_sampling = options["antithetic"]
    return strategy


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
            state, _ = algorithm.tell(keys[2 * part + 1], population, fitness, state, params)
        return state

    def evolve(state, key, start, count):
        for number in range(start, start + count):
            state = episode(state, jax.random.fold_in(key, number))
        return state, {}

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
            loss = make_task(dataclasses.replace(config, num_steps=num_steps)).loss
            loss = loss if options.get("shared", True) else own_luck(loss)
            evolvers.append(make_evolve(strategy, loss))
    key_init, key_evolve, key_measure = jax.random.split(jax.random.key(seed), 3)
    keys = jax.random.split(key_measure, MEASURED)
    state, yardstick = strategy.init(key_init, task.params), make_yardstick(task)
    rows, done = [], 0
    for point in range(1, points + 1):
        generation = config.generations * point // POINTS
        evolve = evolvers[(point - 1) * len(evolvers) // POINTS]
        state, _ = evolve(state, key_evolve, done, generation - done)
        done = generation
        loss = float(yardstick(strategy.mean(state), keys).mean())
        rows.append((done * config.population, loss))
    return rows


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
