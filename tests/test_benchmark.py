"""The benchmark: same work on every side, honest counts, complete reports."""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nca_lib import benchmark
from nca_lib.benchmark import NAMES, NOTEBOOK, main, notebook, plain_loss
from nca_lib.train import PRESETS, make_strategy, make_task

SIZES = {"size": 8, "steps": 3, "channels": 5, "hidden": 6, "population": 4}
TINY, REPEATS = notebook(**SIZES), 2
FLAGS = [f"--{name}={value}" for name, value in (SIZES | {"repeats": REPEATS}).items()]


def without_cax(monkeypatch):
    for name in ["cax", *(name for name in sys.modules if name.startswith("cax."))]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="module")
def report():
    return benchmark.benchmark(TINY, REPEATS)


def test_every_implementation_is_timed(report):
    expected = [name for name in NAMES if name not in report["skipped"]]
    assert expected[:3] == ["ours", "ours_bernoulli", "plain"]
    for name in expected:
        assert len(report["seconds"][name]) == REPEATS
        assert report["rollouts_per_second"][name] == pytest.approx(
            TINY.population / np.median(report["seconds"][name])
        )
    memory = list(report["peak_memory_bytes"].values())
    assert memory[0] > 2**20
    # A peak never falls, but Linux counts pages roughly.
    assert all(after > 0.99 * before for before, after in itertools.pairwise(memory))
    assert report["settings"] | {"mask": TINY.mask} == vars(TINY) | {"repeats": REPEATS}
    assert report["matmul_gflops"] > 0 and report["flops_per_cell"] == 240
    assert report["device"].startswith("2 x ") and report["versions"]["jax"] == jax.__version__


def test_defaults_are_the_notebook_s_experiment_with_a_smaller_population():
    assert dataclasses.replace(NOTEBOOK, population=512) == PRESETS["reference"]
    assert notebook() == NOTEBOOK
    assert (TINY.size + 2 * TINY.padding, TINY.num_steps, TINY.window) == (8, 3, 3)


def test_every_row_of_the_table_is_of_one_width(report):
    text = benchmark.table(report).splitlines()
    assert text[0].startswith("4 rollouts of 3 steps, 5 channels, hidden 6, on 8 x 8 cells")
    rows = [line for line in text if line.startswith(NAMES) and "skipped" not in line]
    assert [row.split()[0] for row in rows] == list(NAMES[: len(rows)])
    if "reference" not in report["skipped"]:
        assert {len(row) for row in rows} == {len(text[5])}


def test_the_reference_is_the_measure_of_all():
    seconds = {"ours": [1.0, 9.0, 2.0], "reference": [20.0, 50.0, 40.0]}
    report = benchmark.rates(NOTEBOOK, seconds, matmul=10e9)
    assert report["rollouts_per_second"] == {"ours": 16.0, "reference": 0.8}
    assert report["ratio_to_reference"] == {"ours": 20.0, "reference": 1.0}
    # 16 rollouts a second of half of 48 x 48 cells, 2 (48 x 128 + 128 x 16) FLOPs each; before
    # step 16 only the middle 12 x 12, 24 x 24 and 36 x 36 cells can have been reached.
    cells = (4 * 144 + 6 * 576 + 6 * 1_296 + 74 * 2_304) // 2
    assert report["cell_updates_per_second"]["ours"] == 16 * cells
    assert report["gflops"]["ours"] == pytest.approx(16 * cells * 16_384 / 1e9)
    assert report["fraction_of_matmul"]["ours"] == pytest.approx(16 * cells * 16_384 / 10e9)


def test_flops_by_hand():
    # 15 numbers in, 6 hidden, 5 out: 15 x 6 and 6 x 5 multiplications, and as many additions.
    assert benchmark.flops_per_cell(TINY) == 2 * (90 + 30)
    assert benchmark.cells_computed("ours", TINY) == 3 * 32
    assert {benchmark.cells_computed(name, TINY) for name in NAMES[1:]} == {3 * 64}
    # On 16 x 16 cells two steps need the middle 8 x 8 of them, and the third 12 x 12.
    larger, reached = dataclasses.replace(TINY, padding=4), 2 * 64 + 144
    assert benchmark.cells_computed("ours_bernoulli", larger) == reached
    assert benchmark.cells_computed("ours", larger) == reached // 2
    assert benchmark.cells_computed("plain", larger) == 3 * 256


def small_task(**changes):
    sizes = {"size": 10, "padding": 1, "channels": 6, "hidden": 9, "num_steps": 7, "window": 7}
    return make_task(dataclasses.replace(PRESETS["reference"], population=4, **sizes, **changes))


def random_like(tree):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    drawn = [0.3 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def test_plain_equals_ours_on_the_same_weights_and_masks():
    task, key = small_task(), jax.random.key(5)
    params = random_like(task.params)
    weights = nnx.to_pure_dict(params)
    kernel = weights["hidden"]["kernel"].reshape(3, 6, 9)  # ours: view by view
    by_channel = kernel.swapaxes(0, 1).reshape(18, 9)  # a grouped convolution: channel by channel
    weights["hidden"] = {"kernel": by_channel, "bias": weights["hidden"]["bias"]}
    score = jax.jit(task.loss)
    ours = score(params, key)
    assert abs(ours - score(task.params, key)) > 0.01  # the weights do something
    np.testing.assert_allclose(plain_loss(weights, task.fires(key), task), ours, rtol=1e-5)


def test_a_generation_of_plain_equals_one_by_hand():
    task = small_task(std=0.3)
    generation, state = benchmark.make_plain(task)
    strategy = make_strategy(task.config, nnx.to_pure_dict(task.params))
    key_ask, key_evaluate, key_tell = jax.random.split(jax.random.key(1), 3)
    population, asked = strategy.algorithm.ask(key_ask, state, strategy.params)
    members = [jax.tree.map(lambda x, i=i: x[i], population) for i in range(4)]
    fires = task.fires(key_evaluate)  # the same for all
    score = jax.jit(lambda weights: plain_loss(weights, fires, task))
    fitness = jnp.stack([score(member) for member in members])
    assert len(np.unique(fitness)) == 4
    told, _ = strategy.algorithm.tell(key_tell, population, fitness, asked, strategy.params)
    np.testing.assert_allclose(generation(state, jax.random.key(1)).mean, told.mean, rtol=1e-5)


def test_a_generation_of_the_reference_scores_what_plain_scores(monkeypatch):
    """Without dropout its random masks play no part, and CAX orders its weights as plain does."""
    pytest.importorskip("cax", reason="cax needs newer jax and flax")
    if not importlib.metadata.version("cax").startswith("0.3."):
        pytest.skip("the notebook was written for cax 0.3")
    task = small_task(std=0.3, step_size=2.0)  # CAX gets half of it, as its dropout doubles
    once = small_task(step_size=1.0)
    system = benchmark.reference_system(task.config)
    system.update.dropout.rate = 0.0
    monkeypatch.setattr(benchmark, "reference_system", lambda config: system)
    generation, state = benchmark.make_reference(task)
    score = jax.jit(lambda weights: plain_loss(weights, jnp.ones((7, 12, 12), bool), once))
    key = jax.random.key(1)
    noise = jax.random.normal(jax.random.split(key, 4)[1], (2, len(state.mean)))
    layout = {"bias": (9,), "kernel": (18, 9), "last_bias": (6,), "last_kernel": (9, 6)}
    fitness = []
    for member in state.mean + 0.3 * jnp.concatenate([noise, -noise]):
        cuts = np.cumsum([np.prod(shape) for shape in layout.values()])[:-1]
        parts = zip(jnp.split(member, cuts), layout.values(), strict=True)
        bias, kernel, last_bias, last_kernel = [x.reshape(shape) for x, shape in parts]
        weights = {"hidden": {"kernel": kernel, "bias": bias}}
        weights |= {"output": {"kernel": last_kernel, "bias": last_bias}}
        fitness.append(score(weights))
    assert len(np.unique(fitness)) == 4
    for number in range(2):  # the second time the module holds a whole population already
        told = generation(state, key)
        np.testing.assert_allclose(told.best_fitness, min(fitness), rtol=1e-5, err_msg=f"{number}")
    assert np.any(told.mean != state.mean)


def test_without_cax_the_reference_is_skipped(monkeypatch, tmp_path, capsys):
    without_cax(monkeypatch)
    file = tmp_path / "out.json"
    assert main([*FLAGS, "--only", "plain", "reference", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "reference: skipped, it needs cax 0.3, as the notebook does (" in printed
    written = json.loads(file.read_text())
    assert list(written["rollouts_per_second"]) == ["plain"] and written["ratio_to_reference"] == {}
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written beside it


def test_a_later_cax_is_not_the_notebook_s(monkeypatch):
    installed = importlib.metadata.version
    versions = {"cax": "0.4.4"}
    monkeypatch.setattr(importlib.metadata, "version", lambda x: versions.get(x) or installed(x))
    with pytest.raises(ImportError, match=r"found cax 0\.4\.4"):
        benchmark.reference_system(TINY)


def test_matmul_rate_is_that_of_the_work_it_does(monkeypatch):
    """With a clock that says one second a call, the rate is the FLOPs of `ours` in a generation."""
    ticks = iter(range(100))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(ticks))
    assert benchmark.matmul_flops_per_second(TINY) == 4 * 3 * 32 * 240  # members, steps, cells


def test_peak_memory_is_in_bytes_and_covers_what_is_resident():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux to know what is resident")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident <= benchmark.peak_memory() < 100 * resident


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--size=7"], "size must be even and at least 2, got 7"),
        (["--population=5"], "population must be .*got 5"),
        (["--population=0"], "population must be .*got 0"),
        (["--channels=3"], "channels must be .*got 3"),
        (["--hidden=0"], "hidden must be .*got 0"),
        (["--steps=0"], "num_steps must be .*got 0"),
        (["--repeats=0"], "repeats must be an int from 1 to 1000, got 0"),
        (["--json=missing/out.json"], "existing folder, got 'missing/out.json'"),
    ],
)
def test_what_cannot_run_is_one_clear_line(flags, message, capsys):
    assert main([*FLAGS, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {captured.err[7:-1]}\n"
    assert re.search(message, captured.err)
    assert captured.out == ""


@pytest.mark.parametrize("flags", [["--size=big"], ["--nonsense"], ["--only", "fastest"]])
def test_what_cannot_be_read_exits_with_2(flags, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(flags)
    assert exit_info.value.code == 2
    assert flags[-1].partition("=")[2] in capsys.readouterr().err


def test_unknown_implementation():
    with pytest.raises(ValueError, match=r"got \['fastest'\]"):
        benchmark.benchmark(TINY, only=["fastest"])
