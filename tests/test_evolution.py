"""One generation against a hand-written one, on one device and on several."""

import dataclasses
import os
import re
import socket
import subprocess
import sys
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faults import spawn
from jax.sharding import Mesh

from nca_lib import evolution, train
from nca_lib.evolution import make_evolve, open_es, pgpe
from nca_lib.lab import checkpoint
from nca_lib.lab.machine import use_cores
from nca_lib.lab.task import initial_weights, make_task, make_trainer
from nca_lib.model import living_mask, perceive

N = 8
PARAMS = {"a": jnp.array([[0.5, -1.0, 2.0]]), "b": jnp.array([3.0, 0.0])}
constant = optax.constant_schedule


def bowl(params, key):
    """A quadratic with a noise that the whole population shares."""
    noise = jax.random.normal(key)
    return jnp.sum((params["a"] - 1.0) ** 2) + jnp.sum(params["b"] ** 2) * jnp.exp(0.1 * noise)


@pytest.fixture
def strategy():
    return open_es(PARAMS, N, std=0.1, learning_rate=constant(0.05))


def ravel(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def ranks_by_hand(fitness):
    """Centered ranks in [-0.5, 0.5], ties averaged."""
    below = (fitness[:, None] > fitness).sum(1)
    ties = (fitness[:, None] == fitness).sum(1)
    return (below + (ties - 1) / 2) / (len(fitness) - 1) - 0.5


def evaluate_by_hand(mean, std, key, number):
    """The noise of a generation's first half, and the fitness of all its members."""
    keys = jax.random.split(jax.random.fold_in(key, number), 3)
    half = np.asarray(jax.random.normal(keys[0], (N // 2, 5)))
    members = mean + std * np.concatenate([half, -half])
    fitness = [bowl({"a": jnp.array([x[:3]]), "b": jnp.array(x[3:])}, keys[1]) for x in members]
    return half, np.array(fitness)


def test_ask_evaluate_tell_equals_a_hand_written_update(strategy):
    state, key = strategy.init(jax.random.key(0), PARAMS), jax.random.key(7)
    mean, adam = ravel(PARAMS), optax.adam(0.05)
    opt_state, evolve = adam.init(jnp.asarray(mean)), make_evolve(strategy, bowl)
    for number in range(3):
        half, fitness = evaluate_by_hand(mean, 0.1, key, number)
        gradient = ranks_by_hand(fitness) @ np.concatenate([half, -half]) / (N * 0.1)
        updates, opt_state = adam.update(jnp.asarray(gradient, jnp.float32), opt_state)
        mean = mean + np.asarray(updates)
        state, metrics = evolve(state, key, number, 1)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
    found = [metrics[f"fitness_{name}"] for name in ("best", "mean", "std")]
    np.testing.assert_allclose(found, [fitness.min(), fitness.mean(), fitness.std()], rtol=1e-4)


def test_pgpe_equals_a_hand_written_update_of_mean_and_std():
    strategy, key = pgpe(PARAMS, N, std=1.0, learning_rate=constant(0.5)), jax.random.key(7)
    state, evolve = strategy.init(jax.random.key(0), PARAMS), make_evolve(strategy, bowl)
    mean, std, velocity = ravel(PARAMS), np.full(5, 1.0), np.zeros(5)
    for number in range(5):
        half, fitness = evaluate_by_hand(mean, std, key, number)
        plus, minus = np.split(ranks_by_hand(fitness), 2)
        velocity = 0.9 * velocity + (plus - minus) @ (std * half) / N
        mean = mean - 0.5 * velocity
        step = 0.1 * (plus + minus) @ (half**2 - 1) / N  # relative to each sigma
        std = std * (1 - np.clip(step, -0.2, 0.2))
        state, _ = evolve(state, key, number, 1)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(ravel(strategy.std(state)), std, rtol=1e-5)
    assert np.ptp(std) > 0.01  # on a plane, which has no curvature, nothing would change


# Whitened noise


def small_task(**changes):
    """A task of 10 x 10 cells and 12 steps."""
    fields = {"size": 6, "num_steps": 12, "population": 8, "strategy": "whitened", "std": 0.03}
    return make_task(dataclasses.replace(train.PRESETS["smoke"], **fields | changes))


@pytest.fixture(scope="module")
def grown():
    """A task, and weights with which something grows."""
    task = small_task(num_steps=20, init="lizard")
    return task, initial_weights(task.config, task.params)


def life(task, params, key):
    """What enters each layer in living cells, (number, inputs + 1), from a recorded life."""
    model = task.merge(params)
    states = np.asarray(task.frames(params, key))[:-1]
    seen = np.concatenate([perceive(x)[living_mask(x)[..., 0]] for x in states])
    hidden = np.maximum(seen @ model.hidden.kernel[...] + model.hidden.bias[...], 0)
    return {
        k: np.insert(x, x.shape[1], 1, axis=1) for k, x in [("hidden", seen), ("output", hidden)]
    }


def test_second_moments_are_numpys_of_a_recorded_life(grown):
    task, params = grown
    seen = jax.jit(task.look)(params, task.prepare(params, jax.random.key(3))[0])
    for name, x in life(task, params, jax.random.key(3)).items():
        assert len(x) > 200
        np.testing.assert_allclose(seen[name], x.T @ x / len(x), rtol=1e-4, atol=1e-6)


def test_whitened_noise_is_white_in_what_the_layers_compute(grown, monkeypatch):
    """The noise on a layer's outputs is alike in all directions of its inputs, but for damping."""
    monkeypatch.setattr(evolution, "DAMPING", 1e-6)
    task, params = grown
    for x in life(task, params, jax.random.key(3)).values():
        moment = x.T @ x / len(x)
        root = evolution.whitener(jnp.asarray(moment), jnp.eye(len(moment)))
        noise = jax.random.normal(jax.random.key(0), (len(moment), 50_000))
        values, vectors = np.linalg.eigh(moment)
        kept = values > 1e-4 * values.mean()  # what is hardly ever seen is drowned in rounding
        directions = vectors[:, kept] * np.sqrt(values[kept])
        computed = np.asarray(directions.T @ (root @ noise))
        spread = computed.std(axis=1)
        assert kept.sum() > 5 and np.ptp(np.sqrt(values[kept])) > 5 * np.sqrt(values[kept]).min()
        np.testing.assert_allclose(spread, spread.mean(), rtol=0.03)
        np.testing.assert_allclose(np.mean(np.linalg.eigvalsh(root) ** 2), 1, rtol=1e-4)


def test_with_identity_whiteners_it_is_evosaxs_pgpe(grown, monkeypatch):
    monkeypatch.setattr(evolution, "MIX_RATE", 0.0)
    task, params = grown
    nothing = task.look(params, (jnp.zeros_like(task.start), task.fires(jax.random.key(0))))
    states = []
    for whitens in (False, True):
        strategy = pgpe(params, 8, 0.03, constant(0.5), 0.3, whitens)
        evolve = make_evolve(strategy, task.fitness, 1, task.prepare, lambda mean, luck: nothing)
        state = strategy.init(jax.random.key(0), params)
        states.append(evolve(state, jax.random.key(1), 0, 10)[0])
    np.testing.assert_allclose(states[1].mean, states[0].mean, atol=1e-6)
    np.testing.assert_allclose(states[1].std, states[0].std, rtol=1e-5)
    assert np.abs(states[0].mean - ravel(params)).max() > 1e-3


def test_std_is_that_of_the_members_weights(grown):
    task, params = grown
    strategy = pgpe(params, 4_000, 0.03, constant(0.5), whitens=True)
    state = strategy.init(jax.random.key(0), params)
    luck, _ = task.prepare(params, jax.random.key(1))
    state = strategy.look(state, lambda mean: task.look(mean, luck))
    asked, _ = strategy.algorithm.ask(jax.random.key(5), state, strategy.params)
    members = jax.vmap(strategy.members(state))(asked)
    found = ravel(jax.tree.map(lambda x: x.std(axis=0), members))
    np.testing.assert_allclose(found, ravel(strategy.std(state)), rtol=0.1)
    assert np.ptp(found) > 0.01


def test_outputs_that_matter_are_shaken_more():
    """Pairs that do well strayed along the first output: its noise grows, the others' shrinks."""
    noise = np.random.default_rng(0).standard_normal((64, 5, 3)).astype(np.float32)
    strayed = np.mean(noise[:, :, 0] ** 2, axis=1)
    worth = (strayed.argsort().argsort() / 63 - 0.5).astype(np.float32) / 32
    mixed = evolution.mix(jnp.eye(3), noise, worth)
    change = sum(w * z.T @ z / 5 for w, z in zip(worth, noise, strict=True))
    change -= np.trace(change) / 3 * np.eye(3)
    np.testing.assert_allclose(mixed, np.eye(3) + evolution.MIX_RATE / 2 * change, atol=1e-6)
    assert mixed[0, 0] > 1 > max(mixed[1, 1], mixed[2, 2])
    np.testing.assert_allclose(np.trace(mixed), 3, rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, -10.0, np.nan], ids=["untrained", "dead", "nan"])
def test_an_empty_life_leaves_the_noise_as_it_is(shift):
    task = small_task()
    strategy, _ = make_trainer(task)
    state = strategy.init(jax.random.key(0), jax.tree.map(lambda x: x + shift, task.params))
    luck, _ = task.prepare(task.params, jax.random.key(1))
    looked = strategy.look(state, lambda mean: task.look(mean, luck))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(looked), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_strategy_that_whitens_must_look(grown):
    strategy = pgpe(grown[1], 8, 0.03, constant(0.5), whitens=True)
    with pytest.raises(ValueError, match="look must be given"):
        make_evolve(strategy, grown[0].fitness)


def test_members_share_what_is_prepared_from_the_mean(strategy):
    def prepare(mean, key, pool):
        return (mean["b"], jax.random.normal(key)), pool

    def fitness(params, luck):
        return jnp.sum((params["b"] - luck[0]) ** 2) + luck[1]

    state, key = strategy.init(jax.random.key(0), PARAMS), jax.random.key(3)
    _, metrics = make_evolve(strategy, fitness, prepare=prepare)(state, key, 0, 1)
    half, _ = evaluate_by_hand(ravel(PARAMS), 0.1, key, 0)
    luck = jax.random.normal(jax.random.split(jax.random.fold_in(key, 0), 3)[1])
    expected = np.sum((0.1 * half[:, 3:]) ** 2, axis=1).mean() + luck
    np.testing.assert_allclose(metrics["fitness_mean"], expected, rtol=1e-5)


def test_one_compilation_serves_all_counts(strategy):
    counted, key = Mock(side_effect=bowl), jax.random.key(7)
    start, evolve = strategy.init(jax.random.key(0), PARAMS), make_evolve(strategy, counted)
    evolve(start, key, 0, 10)
    once = counted.call_count
    evolve(start, key, 7, 3)
    assert counted.call_count == once


def test_members_that_are_not_finite_rank_last(strategy):
    def half_broken(params, key):
        return jnp.where(params["b"][0] > 3.0, jnp.nan, bowl(params, key))

    state = strategy.init(jax.random.key(0), PARAMS)
    after, metrics = make_evolve(strategy, half_broken)(state, jax.random.key(7), 0, 1)
    assert metrics["nonfinite"] == N // 2  # of each pair, one lies above
    assert jnp.isfinite(after.mean).all()
    assert after.mean[3] < 3.0


def test_ties_move_nothing(strategy):
    state, evolve = strategy.init(jax.random.key(0), PARAMS), make_evolve(strategy, lambda *_: 1.0)
    after, _ = evolve(state, jax.random.key(7), 0, 1)
    np.testing.assert_allclose(after.mean, state.mean, atol=1e-5)  # lr is 0.05


@pytest.mark.parametrize(
    "changes", [{"strategy": "open_es"}, {"init": "lizard", "pool": 8, "damage": 0.5}]
)
def test_chunks_and_devices_do_not_matter(changes, monkeypatch):
    """Fitness of a generation to 1e-6, the mean after 20 generations to 1e-4."""
    task, key = small_task(**changes), jax.random.key(1)
    weights, found = initial_weights(task.config, task.params), []
    for devices, chunk in ((1, 1), (2, 3)):
        mesh = Mesh(np.array(jax.devices()[:devices]), (evolution.AXIS,))
        monkeypatch.setattr(evolution, "population_mesh", lambda population, mesh=mesh: mesh)
        strategy, evolve = make_trainer(task, chunk)
        state, metrics = evolve(strategy.init(jax.random.key(0), weights), key, 0, 1)
        fitness = [metrics[f"fitness_{name}"] for name in ("best", "mean", "std")]
        found.append((fitness, evolve(state, key, 1, 19)[0].mean))
    (fitness, mean), (other, moved) = found
    np.testing.assert_allclose(other, fitness, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(moved, mean, atol=1e-4)


def run_python(code, timeout=None, **environment):
    """Run code in a process of its own, with JAX on the CPU; gives what `subprocess.run` does."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment
    options = {"capture_output": True, "text": True, "env": environment, "timeout": timeout}
    return subprocess.run([sys.executable, "-c", code], **options)


MANY = """
import nca_lib
nca_lib.use_cores(2)
import jax
from nca_lib.evolution import make_evolve, population_mesh
from nca_lib.lab.task import make_measure, make_strategy, make_task
from nca_lib.train import PRESETS
task = make_task(PRESETS["smoke"])
strategy = make_strategy(task.config, task.params)
evolve = make_evolve(strategy, task.fitness, prepare=task.prepare)
losses = make_measure(task)
assert population_mesh(task.config.population).size == 2
start, keys = strategy.init(jax.random.key(0), task.params), jax.random.split(jax.random.key(2))
for _ in range(50):
    state, metrics = evolve(start, jax.random.key(1), 0, 3)
    print(metrics["fitness_mean"].item(), losses(strategy.mean(state), keys)[0].item())
"""


def test_many_short_runs_do_not_hang():
    """Collectives between CPU devices have been seen to wait for each other for ever."""
    lines = run_python(MANY, timeout=300).stdout.splitlines()
    assert len(lines) == 50
    assert len(set(lines)) == 1


PEAK = """
import dataclasses, nca_lib
nca_lib.use_cores(2)
import jax
from nca_lib.lab.benchmark import make_ours, notebook, peak_memory
from nca_lib.lab.task import make_task
for steps in (90, 720):
    task = make_task(dataclasses.replace(notebook(steps=steps, population=64), mask="paired"))
    generation, state = make_ours(task)
    generation(state, jax.random.key(0))
    print(peak_memory())
"""


def test_memory_of_the_process_does_not_grow_with_the_steps():
    """XLA's own count does not see what its matrix library keeps in a queue."""
    short, long = map(int, run_python(PEAK).stdout.split())
    assert long < 1.2 * short  # 1.5 when the matrix products are not cut into blocks


@pytest.mark.parametrize(("population", "used"), [(64, 2), (63, 1), (2, 2)])
def test_devices_that_divide_the_population_are_used(population, used):
    assert evolution.population_mesh(population).size == used


JOB = """
import sys, jax, nca_lib
jax.config.update("jax_num_cpu_devices", 2)
folder, process, address = sys.argv[1:]
if folder.endswith("many"):
    jax.distributed.initialize(address, 2, int(process))
nca_lib.use_cores(2)
from nca_lib import train
flags = "--preset smoke --size 6 --num-steps 6 --window 2 --population 8 --generations 20 --out x"
assert jax.device_count() == (4 if folder.endswith("many") else 2)
train.train(train.parse(flags.split())[1], folder)
"""


def test_two_processes_of_two_devices_equal_one_of_two(tmp_path):
    """A job as SLURM would start it, on this machine alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = [("many", 0), ("many", 1), ("one", 0)]
    processes = [spawn("-c", JOB, tmp_path / name, number, address) for name, number in job]
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    many, one = (checkpoint.read(tmp_path / name / "checkpoint") for name in ("many", "one"))
    many_names, one_names = ({p.name for p in (tmp_path / n).iterdir()} for n in ("many", "one"))
    assert many_names == one_names
    for a, b in zip(many[0], one[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    first = [history[0][3:] for history in (many[1]["history"], one[1]["history"])]
    np.testing.assert_allclose(*first, rtol=1e-6)


IMPORTS = """
import jax, nca_lib.train, nca_lib.lab.runs, nca_lib.show.figures
from nca_lib import use_cores
assert not jax._src.xla_bridge.backends_are_initialized()
"""
THREE, FORCED = {"JAX_NUM_CPU_DEVICES": "3"}, "--xla_force_host_platform_device_count=3"


@pytest.mark.parametrize(
    ("asked", "code", "error"),
    [
        ({}, "assert use_cores(3) == use_cores(3) == 3; use_cores(2)", "too late: JAX .* on 3 CPU"),
        (THREE, "assert use_cores() == 3", ""),
        (THREE, "assert use_cores(2) == 2 == len(jax.devices())", ""),
        ({"XLA_FLAGS": FORCED}, "assert use_cores() == 3", ""),
    ],
)
def test_cores_are_split_as_was_asked_for_before_jax_starts(asked, code, error):
    result = run_python(IMPORTS + code, **asked)
    assert bool(result.returncode) == bool(error) and re.search(error, result.stderr), result


def test_use_cores_refuses_nonsense():
    with pytest.raises(ValueError, match="cores must be an int from 1 to 1024, got 0"):
        use_cores(0)
