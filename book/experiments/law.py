"""Measure what whitening does to a step: is the direction better, or the step along it?

    python book/experiments/law.py

Trains `short`, and stops at three moments. At each, clouds of 8 to 512 pairs around the mean give
estimates, from equal noise on all weights and from the noise that the strategy has by then. Equal
noise of that length kills, so its length is the one of five from which 32 pairs gain most. For each
estimate: its cosine with the true gradient, among the coordinates that the noise was drawn in, and
by how much the loss falls when the mean is moved along it, by the best of 16 lengths. The gradients
themselves, plain and whitened, come as rows of their own. The results go to nca_lib/data/law.csv,
and what they are of to law.json beside it.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

from nca_lib.evolution import whiten
from nca_lib.lab.checkpoint import write_atomic, write_table
from nca_lib.lab.config import PRESETS
from nca_lib.lab.machine import describe_device, use_cores, versions
from nca_lib.lab.task import Task, make_task, make_trainer

FOLDER = Path(__file__).parents[2] / "nca_lib" / "data"
MOMENTS = (6_400, 64_000, 640_000)  # rollouts
PAIRS = (8, 16, 32, 64, 128, 256, 512)
CLOUDS = 8  # for each number of pairs
KEYS = 32  # fire masks that the true gradient and the losses are averaged over
LENGTHS = np.geomspace(1e-5, 1.0, 16)  # of a step
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the whitened noise's length, for equal noise
HEADER = ["moment", "noise", "length", "pairs", "cloud", "cosine", "gain"]


def cosine(a, b):
    """Cosine of the angle between two vectors."""
    return a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)


def measure(task: Task, strategy, state, moment: int, key) -> list[list]:
    """All rows of one moment."""
    mean, unravel = ravel_pytree(strategy.mean(state))
    std, whitening = jnp.asarray(state.std), state.opt_state[0]
    keys = jax.random.split(key, KEYS)

    def to_weights(x):
        """From whitened coordinates, linearly."""
        return ravel_pytree(whiten(whitening, unravel(x)))[0]

    def loss(weights, key):
        return task.loss(unravel(weights), key)

    @jax.jit
    def gradient(mean):
        one = jax.lax.map(lambda k: jax.grad(loss)(mean, k), keys)
        return jnp.mean(one, axis=0)

    @jax.jit
    def losses(members, key):
        return jax.lax.map(lambda member: loss(member, key), members)

    @jax.jit
    def gain(direction):
        """The most that the loss falls along a direction."""
        unit = direction / jnp.linalg.norm(direction)

        def at(length):
            return jax.lax.map(lambda k: loss(mean - length * unit, k), keys).mean()

        after = jax.lax.map(at, jnp.concatenate([jnp.zeros(1), jnp.asarray(LENGTHS, mean.dtype)]))
        return after[0] - jnp.nanmin(after)

    back = jax.linear_transpose(to_weights, mean)  # of slopes along weights
    slope = gradient(mean)
    full = jnp.sqrt(jnp.sum(jax.vmap(to_weights)(std * jnp.eye(len(mean))) ** 2))

    def one_cloud(shape, aim, pairs, cloud):
        """Cosine of an estimate with the true gradient, and the gain of a step along it."""
        key_noise, key_luck = jax.random.split(jax.random.fold_in(key, 1000 * pairs + cloud))
        z = jax.random.normal(key_noise, (pairs, len(mean)))
        away = jax.vmap(shape)(z)
        fitness = losses(jnp.concatenate([mean + away, mean - away]), key_luck)
        ranks = jnp.argsort(jnp.argsort(fitness)) / (2 * pairs - 1)
        estimate = (ranks[:pairs] - ranks[pairs:]) @ z
        return float(cosine(estimate, aim)), float(gain(shape(estimate)))

    def equal(share):
        """Noise of one size on all weights, as long as a share of the whitened noise is."""
        return lambda z: share * full / jnp.sqrt(len(mean)) * z

    def mean_gain(share):
        return np.mean([one_cloud(equal(share), slope, 32, CLOUDS + c)[1] for c in range(4)])

    best = max(SHARES, key=mean_gain)
    noises = {
        "plain": (best, equal(best), slope),
        "whitened": (1.0, lambda z: to_weights(std * z), std * back(slope)[0]),
    }
    rows = []
    for name, (share, shape, aim) in noises.items():
        place = [moment, name, float(share * full)]
        rows.append([moment, f"gradient, {name}", 0.0, 0, 0, 1.0, float(gain(shape(aim)))])
        rows += [
            [*place, pairs, cloud, *one_cloud(shape, aim, pairs, cloud)]
            for pairs in PAIRS
            for cloud in range(CLOUDS)
        ]
    return rows


def main() -> None:
    """Train, stop, measure, write."""
    use_cores()
    config = dataclasses.replace(PRESETS["short"], generations=MOMENTS[-1] // 64)
    task = make_task(config)
    strategy, evolve = make_trainer(task)
    state, done, rows = strategy.init(jax.random.key(0), task.params), 0, []
    for moment in tqdm(MOMENTS):
        count = moment // config.population - done
        state, _ = evolve(state, jax.random.key(1), done, count)
        done += count
        rows += measure(task, strategy, state, moment, jax.random.key(2))
    digits = [[f"{x:.5g}" if isinstance(x, float) else x for x in row] for row in rows]
    write_table(FOLDER / "law.csv", [HEADER, *digits])
    about = {"config": dataclasses.asdict(config), "clouds": CLOUDS, "keys": KEYS}
    about |= {"device": describe_device(), "versions": versions()}
    write_atomic(
        FOLDER / "law.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
    )


if __name__ == "__main__":
    main()
