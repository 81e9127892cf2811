"""Retrain the recipe study of chapter 4: one choice changed at a time, three seeds each.

    python .ci/study.py [--only FACTOR ...]

Every run spends the same number of rollouts and is measured with the same yardstick: the default's
steps, window and premultiplied target. The results go to nca_lib/data/study.csv, the default and
its surroundings to study.json beside it. Runs that are there already are left alone, so the study
can be stopped and taken up again; delete the two files to begin anew.
"""

import argparse
import csv
import dataclasses
import functools
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from nca_lib import train
from nca_lib.checkpoint import write_atomic
from nca_lib.evolution import Strategy, make_evolve, summarise, use_cores
from nca_lib.loss import mse
from nca_lib.rollout import grow, grow_and_measure

ROLLOUTS, SEEDS, POINTS = 128_000, 3, 20
FOLDER = Path(__file__).parents[1] / "nca_lib" / "data"
HEADER = ["factor", "value", "seed", "rollouts", "loss"]
# A short run affords, and needs, larger steps than the preset.
SHORT = {"std": 0.015, "std_end": 0.5, "learning_rate": 0.006, "learning_rate_end": 0.05}
DEFAULT = dataclasses.replace(train.PRESETS["pocket"], generations=ROLLOUTS // 64, **SHORT)


def times(field: str, *factors: float) -> dict[str, dict]:
    """Variants of one field: its default times each factor."""
    value = getattr(DEFAULT, field)
    return {f"{f * value:g}": {field: type(value)(f * value)} for f in factors}


def crowd(population: int) -> dict:
    """Another population at the same rollouts, Adam's step in proportion to its square root."""
    rate = DEFAULT.learning_rate * (population / DEFAULT.population) ** 0.5
    generations = ROLLOUTS // population
    return {"population": population, "learning_rate": rate, "generations": generations}


# {factor: {value: what changes}}: fields of Config, or what `evolve_variant` reads by itself.
STUDY = {
    "default": {"": {}},
    "noise scale": times("std", 0.5, 2),
    "noise at the end": {"1 x": {"std_end": 1.0}, "0.1 x": {"std_end": 0.1}},
    "learning rate": times("learning_rate", 0.5, 2),
    "learning rate at the end": {
        "1 x": {"learning_rate_end": 1.0},
        "0.3 x": {"learning_rate_end": 0.3},
    },
    "population": {"16": crowd(16), "256": crowd(256)},
    "hidden units": times("hidden", 0.5, 2),
    "channels": {"6": {"channels": 6}, "12": {"channels": 12}},
    "noise": {"independent": {"antithetic": False}},
    "shaping": {"raw loss": {"shaping": "raw"}, "standardised": {"shaping": "standardised"}},
    "fire masks": {"bernoulli": {"mask": "bernoulli"}},
    "luck": {"own for each": {"shared": False}},
    "loss window": times("window", 0.5, 2),
    "steps": {
        "16, 24, 32": {"curriculum": (16, 24, 32)},
        "24, 32": {"curriculum": (24, 32)},
    },
    "step size": times("step_size", 0.5, 2),
    "alpha": {"straight": {"premultiply": False}},
    "strategy": {name: {"strategy": name} for name in ("PGPE", "SNES", "CR-FM-NES", "sep-CMA-ES")},
}


def make_strategy(config: train.Config, params, options: dict) -> Strategy:
    """The default's strategy, or the one that a variant asks for."""
    from evosax import algorithms

    def cosine(start, end):
        return optax.cosine_decay_schedule(start, config.generations, end)

    size, name = config.population, options.get("strategy", "OpenAI-ES")
    adam = optax.adam(cosine(config.learning_rate, config.learning_rate_end))
    if name == "OpenAI-ES":
        shapings = {"raw": raw, "standardised": standardised}
        shaping = {"fitness_shaping_fn": shapings[s]} if (s := options.get("shaping")) else {}
        algorithm = algorithms.Open_ES(
            size,
            params,
            optimizer=adam,
            std_schedule=cosine(config.std, config.std_end),
            use_antithetic_sampling=options.get("antithetic", True),
            metrics_fn=summarise,
            **shaping,
        )
        return Strategy(algorithm, algorithm.default_params)
    if name == "PGPE":
        algorithm = algorithms.PGPE(size, params, optimizer=adam, metrics_fn=summarise)
    else:
        names = {"SNES": "SNES", "CR-FM-NES": "CR_FM_NES", "sep-CMA-ES": "Sep_CMA_ES"}
        algorithm = getattr(algorithms, names[name])(size, params, metrics_fn=summarise)
    return Strategy(algorithm, algorithm.default_params.replace(std_init=config.std))


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


def make_yardstick(task: train.Task):
    """Compile (params, keys) -> losses on the default's terms, whatever a variant trains on."""
    target = jnp.asarray(train.make_task(DEFAULT).target)

    def error(state):
        if not task.config.premultiply:
            alpha = jnp.clip(state[..., -1:], 0, 1)
            state = jnp.concatenate([state[..., -4:-1] * alpha, state[..., -1:]], axis=-1)
        return mse(state, target)

    def loss(params, key):
        model, fires = task.merge(params), task.fires(key, DEFAULT.num_steps)
        before = DEFAULT.num_steps - DEFAULT.window
        state = grow(model, task.start, fires[:before], 0)
        return grow_and_measure(model, state, fires[before:], error, before)[1] / DEFAULT.window

    return jax.jit(lambda params, keys: jax.lax.map(functools.partial(loss, params), keys))


def evolve_variant(changes: dict, seed: int) -> list[tuple[int, float]]:
    """Train one variant and return (rollouts, loss) at `POINTS` moments."""
    fields = {field.name for field in dataclasses.fields(train.Config)}
    options = {name: value for name, value in changes.items() if name not in fields}
    changes = {name: value for name, value in changes.items() if name in fields}
    config = dataclasses.replace(DEFAULT, seed=seed, **changes)
    task, lengths = train.make_task(config), options.get("curriculum", (config.num_steps,))
    strategy = make_strategy(config, task.params, options)
    evolvers = []
    for num_steps in lengths:
        loss = train.make_task(dataclasses.replace(config, num_steps=num_steps)).loss
        loss = loss if options.get("shared", True) else own_luck(loss)
        evolvers.append(make_evolve(strategy, loss))
    key_init, key_evolve, key_measure = jax.random.split(jax.random.key(seed), 3)
    keys = jax.random.split(key_measure, train.MEASURED)
    state, yardstick = strategy.init(key_init, task.params), make_yardstick(task)
    rows, done = [], 0
    for point in range(1, POINTS + 1):
        generation = config.generations * point // POINTS
        evolve = evolvers[(point - 1) * len(lengths) // POINTS]
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
    if rows:
        before = json.loads((FOLDER / "study.json").read_text(encoding="utf-8"))
        if any(before[name] != value for name, value in about.items()):
            raise SystemExit("study.csv is of another default; delete it to begin anew")
    about |= {"device": train.describe_device(), "versions": train.versions()}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    write_atomic(FOLDER / "study.json", text.encode())
    # Seed by seed, so that a study cut short still has every variant.
    wanted = [(f, v, s) for s in range(SEEDS) for f in options.only for v in STUDY[f]]
    there = {(factor, value, int(seed)) for factor, value, seed, *_ in rows}
    for factor, value, seed in tqdm([name for name in wanted if name not in there]):
        for rollouts, loss in evolve_variant(STUDY[factor][value], seed):
            rows.append([factor, value, seed, rollouts, f"{loss:.6g}"])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
        write_atomic(file, text.getvalue().encode())
        tqdm.write(f"{factor} {value} seed {seed}: {rows[-1][4]}")


if __name__ == "__main__":
    main()
