"""The benchmark: same work on every side, honest counts, complete reports."""

import dataclasses
import importlib.metadata
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from nca_lib.lab import benchmark
from nca_lib.lab.benchmark import NAMES, NOTEBOOK, main, notebook, plain_loss
from nca_lib.lab.task import make_task
from nca_lib.train import PRESETS

SIZES = {"size": 8, "steps": 3, "channels": 5, "hidden": 6, "population": 4}
TINY, REPEATS = notebook(**SIZES), 2
FLAGS = [f"--{name}={value}" for name, value in (SIZES | {"repeats": REPEATS}).items()]


@pytest.fixture(scope="module")
def report():
    return benchmark.benchmark(TINY, REPEATS)


def test_every_implementation_is_timed_and_has_a_row(report):
    timed = [name for name in NAMES if name not in report["skipped"]]
    assert timed[:3] == ["ours", "ours_bernoulli", "plain"]
    assert [len(report["seconds"][name]) for name in timed] == [REPEATS] * len(timed)
    assert report["settings"] | {"mask": TINY.mask} == vars(TINY) | {"repeats": REPEATS}
    assert report["device"].startswith("2 x ") and report["versions"]["jax"] == jax.__version__
    rows = [line.split()[0] for line in benchmark.table(report).splitlines() if " " in line]
    assert [row for row in rows if row in NAMES] == timed


def test_defaults_are_the_notebook_s_experiment_with_a_smaller_population():
    assert notebook() == dataclasses.replace(PRESETS["reference"], population=32)
    assert (TINY.size + 2 * TINY.padding, TINY.num_steps, TINY.window) == (8, 3, 3)


def test_rates_by_hand_and_the_reference_is_the_measure_of_all():
    seconds = {"ours": [1.0, 9.0, 2.0], "ours_bernoulli": [4.0], "reference": [20.0, 50.0, 40.0]}
    report = benchmark.rates(NOTEBOOK, seconds)
    assert list(report["rollouts_per_second"].values()) == [16.0, 8.0, 0.8]
    assert list(report["ratio_to_reference"].values()) == [20.0, 10.0, 1.0]
    # Before step 16 only the middle 12 x 12, 24 x 24 and 36 x 36 cells can have been reached; ours
    # computes half of these, and the reference every cell of 90 steps.
    reached = 4 * 144 + 6 * 576 + 6 * 1_296 + 74 * 2_304
    cells = pytest.approx([16.0 * reached // 2, 8.0 * reached, 0.8 * 90 * 2_304])
    assert list(report["cell_updates_per_second"].values()) == cells


def small_task(**changes):
    sizes = {"size": 10, "padding": 1, "channels": 6, "hidden": 9, "num_steps": 7, "window": 7}
    return make_task(dataclasses.replace(PRESETS["reference"], population=4, **sizes, **changes))


def test_plain_equals_ours_on_the_same_weights_and_masks():
    task, key = small_task(), jax.random.key(5)
    flat, unravel = ravel_pytree(task.params)
    params = unravel(0.3 * jax.random.normal(jax.random.key(3), flat.shape))
    weights = nnx.to_pure_dict(params)
    kernel = weights["hidden"]["kernel"].reshape(3, 6, 9)  # ours: view by view
    by_channel = kernel.swapaxes(0, 1).reshape(18, 9)  # a grouped convolution: channel by channel
    weights["hidden"] = {"kernel": by_channel, "bias": weights["hidden"]["bias"]}
    score = jax.jit(task.loss)
    ours = score(params, key)
    assert abs(ours - score(task.params, key)) > 0.01  # the weights do something
    np.testing.assert_allclose(plain_loss(weights, task.fires(key), task), ours, rtol=1e-5)


def check_generation(generation, state, key, key_ask, score):
    """It finds the best of the four members that the strategy asks for, and moves the mean."""
    noise = 0.3 * jax.random.normal(key_ask, (2, len(state.mean)))
    _, unravel = ravel_pytree(nnx.to_pure_dict(small_task().params))
    members = state.mean + jnp.concatenate([noise, -noise])
    fitness = [jax.jit(score)(unravel(member)) for member in members]
    assert len(np.unique(fitness)) == 4
    for number in range(2):  # the second time CAX's module holds a whole population already
        told = generation(state, key)
        np.testing.assert_allclose(told.best_fitness, min(fitness), rtol=1e-5, err_msg=f"{number}")
    assert np.any(told.mean != state.mean)


def test_a_generation_of_plain_scores_every_member_on_the_same_masks():
    task, key = small_task(std=0.3), jax.random.key(1)
    key_ask, key_evaluate, _ = jax.random.split(key, 3)
    fires = task.fires(key_evaluate)
    generation = benchmark.make_plain(task)
    check_generation(*generation, key, key_ask, lambda weights: plain_loss(weights, fires, task))


def test_a_generation_of_the_reference_scores_what_plain_scores(report, monkeypatch):
    """Without dropout its random masks play no part, and CAX orders its weights as plain does."""
    if "reference" in report["skipped"]:
        pytest.skip(report["skipped"]["reference"])
    task = small_task(std=0.3, step_size=2.0)  # CAX gets half of it, as its dropout doubles
    once, always, key = small_task(step_size=1.0), jnp.ones((7, 12, 12), bool), jax.random.key(1)
    system = benchmark._reference_system(task.config)
    system.update.dropout.rate = 0.0
    monkeypatch.setattr(benchmark, "_reference_system", lambda config: system)
    generation, key_ask = benchmark.make_reference(task), jax.random.split(key, 4)[1]
    check_generation(*generation, key, key_ask, lambda weights: plain_loss(weights, always, once))


def test_with_a_later_cax_the_reference_is_skipped(monkeypatch, tmp_path, capsys):
    installed, later = importlib.metadata.version, {"cax": "0.4.4"}
    monkeypatch.setattr(importlib.metadata, "version", lambda x: later.get(x) or installed(x))
    file = tmp_path / "out.json"
    assert main([*FLAGS, "--only", "plain", "reference", "--json", str(file)]) == 0
    assert re.search(r"^reference: skipped, .*cax 0\.4\.4", capsys.readouterr().out, re.M)
    written = json.loads(file.read_text())
    assert list(written["rollouts_per_second"]) == ["plain"] and written["ratio_to_reference"] == {}
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written beside it


def test_peak_memory_is_in_bytes_and_covers_what_is_resident():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux to know what is resident")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident <= benchmark.peak_memory() < 100 * resident
