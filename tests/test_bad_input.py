"""Bad input, thought up by Hypothesis: a documented result or a ValueError, and nothing else.

Each test names with `covers` the public callables that it calls; what is called by none has its
reason in `NOT_HERE`. `NCA_FAULTS=long` tries fifty times as many examples, at random.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import math
import os
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

os.environ.setdefault(  # or a folder appears where pytest was started
    "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "hypothesis")
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from test_api import OBJECTS

from nca_lib import backprop, beyond, evolution, loss, model, rollout, target, train
from nca_lib.lab import benchmark, checkpoint, images, runs
from nca_lib.show import figures, widgets
from nca_lib.show.session import Loop, Training, command_line
from nca_lib.train import PRESETS, Config

LONG = os.environ.get("NCA_FAULTS") == "long"
MANY = 50 if LONG else 1
settings.register_profile(
    "bad input",
    deadline=None,
    derandomize=not LONG,
    database=None,
    max_examples=25 * MANY,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("bad input")
few = settings(max_examples=6 * MANY)  # where JAX compiles, or a widget is made


@pytest.fixture(autouse=True)
def alive(monkeypatch):
    """Widgets as in a notebook, not as in the book, whichever is being made around the tests."""
    monkeypatch.delenv("NCA_BOOK", raising=False)


COVERED = {}
NOT_HERE = {
    "background.Loop.start": "takes nothing; tests/test_widgets.py drives it",
    "background.Loop.stop": "takes nothing; tests/test_widgets.py drives it",
    "background.Loop.stop_running": "takes nothing; tests/test_widgets.py drives it",
    "background.Loop.wait": "takes nothing; tests/test_widgets.py drives it",
    "background.Training.std": "takes nothing",
    "benchmark.make_ours": "takes the task that `benchmark` has checked",
    "benchmark.make_plain": "takes the task that `benchmark` has checked",
    "benchmark.make_reference": "takes the task that `benchmark` has checked",
    "benchmark.matmul_flops_per_second": "takes the configuration that `benchmark` has checked",
    "benchmark.peak_memory": "takes nothing",
    "benchmark.plain_loss": "an implementation to compare with, kept as one would first write it",
    "benchmark.plain_step": "an implementation to compare with, kept as one would first write it",
    "benchmark.rates": "takes what `benchmark` has measured",
    "benchmark.reference_system": "takes the configuration that `benchmark` has checked",
    "benchmark.table": "takes what `benchmark` returns",
    "benchmark.warm_up": "takes the configuration that `benchmark` has checked",
    "browser.catalogue": "takes what `shipped_records` returns",
    "browser.setup": "called by Sphinx",
    "browser.shipped_records": "takes nothing",
    "keeper.Keeper": "tests/test_keeper.py gives it folders of every kind",
    "keeper.Keeper.flush": "takes nothing",
    "keeper.Keeper.save": "takes what `checkpoint.save` takes",
    "keeper.patiently": "takes a function; tests/test_keeper.py lets it fail",
    "train.obey_signals": "takes nothing; tests/test_train.py sends a signal",
    "evolution.Strategy.look": "takes what `make_evolve` has",
    "evolution.Strategy.members": "takes what `make_evolve` has",
    "evolution.Strategy.tell": "takes what `make_evolve` has",
    "evolution.Whitening": "holds what `to_weights` and `Strategy` make",
    "evolution.mix": "takes what `Strategy.tell` has",
    "checkpoint.write_table": "takes what trainings and studies have written down",
    "evolution.second_moments": "takes what `make_evolve` has",
    "evolution.to_weights": "takes the weights that `whitened` has",
    "evolution.whiten": "takes what `Strategy.members` has",
    "evolution.whitener": "takes what `second_moments` returns; NaN in tests/test_evolution.py",
    "evolution.evaluate_share": "runs inside of the loop that `make_evolve` has checked",
    "figures.use_style": "takes nothing",
    "runs.list_runs": "takes nothing",
    "target.list_emoji": "takes nothing",
    "train.Task.dead_loss": "takes nothing",
    "train.Task.look": "takes what `Task.prepare` returns",
    "train.describe_device": "takes nothing",
    "train.describe_machine": "takes nothing",
    "train.free_memory": "takes nothing",
    "train.versions": "takes nothing",
    "train.write_run": "takes what `train` has made; tests/test_train.py reads what it writes",
}


def covers(*names):
    """Note which public callables a test calls; its text must hold their names."""

    def note(test):
        inner = getattr(getattr(test, "hypothesis", None), "inner_test", test)
        text = inspect.getsource(inner).partition("\ndef ")[2]
        for name in names:
            COVERED[name] = test.__name__
            *_, owner, last = name.split(".")
            assert (owner if last == "__call__" else last) in text, name
        return test

    return note


def refuses(*values, names=()):
    """A context that expects a ValueError which names values."""
    pattern = "".join(f"(?=.*{re.escape(repr(value))})" for value in values)
    pattern += "".join(f"(?=.*{name})" for name in names)
    return pytest.raises(ValueError, match=f"(?s){pattern}.")


def tried(function, *arguments, **options):
    """The result, or None where a ValueError says something."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        assert str(error).strip()
        return None


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here asks the network for an emoji."""

    def fetch(url):
        raise OSError("offline")

    monkeypatch.setattr(target, "_fetch", fetch)


KEY = jax.random.key(0)
TINY = dataclasses.replace(
    PRESETS["smoke"],
    size=4,
    padding=1,
    channels=5,
    hidden=3,
    num_steps=3,
    window=2,
    population=4,
    generations=2,
)
NOT_NUMBERS = st.one_of(
    st.none(), st.text(max_size=3), st.binary(max_size=3), st.just([]), st.just({}), st.just([[1]])
)
NOT_COUNTS = st.one_of(NOT_NUMBERS, st.integers(max_value=0), st.floats())
HUGE = st.integers(10**9, 10**30)
SIDES = st.integers(1, 40)
SHAPES = st.lists(st.integers(0, 6), max_size=5).map(tuple)


def is_state(shape):
    return len(shape) == 3 and shape[-1] >= 4 and min(shape) >= 1


NOT_STATES = SHAPES.filter(lambda shape: len(shape) != 3 or shape[-1] < 4).map(
    lambda shape: np.zeros(shape, np.float32)
) | st.sampled_from([None, "state", 5, [[[0.0] * 4]]])


# Not fixtures: Hypothesis would write down each argument of each example.
@functools.cache
def a_task():
    return train.make_task(TINY)


@functools.cache
def a_run():
    return runs.load_run("lizard")


# The cell rule


@covers("model.check_state", "model.perceive", "model.living_mask", "rollout.damage")
@given(NOT_STATES)
@example(np.zeros((2, 4, 4, 8), np.float32))
def test_what_is_no_state_is_refused(state):
    with refuses(names=["state must be"]):
        model.check_state(state)
    with refuses(names=["state must be"]):
        rollout.damage(KEY, state)
    if np.ndim(state) != 3 or not isinstance(state, np.ndarray) or not state.shape[-1]:
        for see in (model.perceive, model.living_mask):  # who do with one channel
            with refuses(names=["state must be"]):
                see(state)


@given(SIDES, SIDES, st.integers(1, 9), st.integers(1, 4))
def test_shapes_of_what_cells_see(height, width, channels, kernels):
    state = jax.ShapeDtypeStruct((height, width, channels), jnp.float32)
    filters = np.ones((3, 3, kernels), np.float32)
    seen = jax.eval_shape(lambda s: model.perceive(s, filters), state)
    assert seen.shape == (height, width, channels * kernels) and seen.dtype == jnp.float32
    alive = jax.eval_shape(model.living_mask, state)
    assert alive.shape == (height, width, 1) and alive.dtype == bool


@given(SHAPES.filter(lambda shape: len(shape) != 3 or shape[:2] != (3, 3)))
def test_other_kernels_are_refused(shape):
    with refuses(shape, names=["kernels"]):
        model.perceive(np.zeros((4, 4, 4), np.float32), np.zeros(shape))


@covers(
    "model.check_size",
    "model.seed_state",
    "rollout.half",
    "rollout.disc",
    "rollout.fire_schedule",
    "images.checkerboard",
    "beyond.place",
)
@given(NOT_COUNTS | HUGE, st.integers(0, 1))
@example(10**6, 0)
@example(float("nan"), 1)
def test_sizes_that_no_grid_has_are_refused(size, at):
    sizes = (size, 10**6) if at == 0 else (10**6, size)
    for make in (
        model.check_size,
        lambda *sizes: model.seed_state(*sizes, 4),
        lambda *sizes: rollout.half(*sizes, 0.0),
        lambda *sizes: rollout.disc(*sizes, 0, 0, 1),
        lambda *sizes: rollout.fire_schedule(KEY, 1, *sizes),
    ):
        with refuses(size):
            make(*sizes)
    with refuses():
        images.checkerboard(*sizes)
    with refuses(size):
        beyond.place(np.zeros((2, 2), np.float32), size)


@given(SIDES, SIDES, st.integers(4, 9))
def test_shapes_of_seeds_and_masks(height, width, channels):
    seed = jax.eval_shape(lambda: model.seed_state(height, width, channels))
    assert seed.shape == (height, width, channels) and seed.dtype == jnp.float32
    for mark in (rollout.half(4, 6, 0.3), rollout.disc(4, 6, 1, 2, 3)):
        assert mark.shape == (4, 6) and mark.dtype == bool
    checks = images.checkerboard(height, width, channels)
    assert checks.shape == (height, width, 3) and {*np.unique(checks)} <= {np.float32(0.8), 1}


@given(NOT_COUNTS | st.integers(1, 3))
def test_seeds_have_four_channels(channels):
    with refuses(channels):
        model.seed_state(4, 4, channels)


@covers("model.NCA")
@given(
    st.sampled_from(["channels", "hidden", "precision"]),
    NOT_COUNTS | st.sampled_from(["float16", 3.0, "4"]) | HUGE,
)
def test_rules_that_cannot_be_are_refused(name, value):
    with refuses(value):
        model.NCA(**{"channels": 4, "hidden": 2, name: value}, rngs=nnx.Rngs(0))


@covers("model.NCA.__call__", "model.NCA.update")
@given(
    SHAPES.map(lambda shape: np.zeros(shape, np.float32)),
    SHAPES.flatmap(
        lambda s: st.sampled_from([np.zeros(s, kind) for kind in (bool, np.int32, np.float32)])
    ),
)
def test_steps_with_other_shapes_are_refused(state, fire):
    task = a_task()
    rule = task.merge(task.params)  # an NCA of 5 channels
    fits = is_state(state.shape) and state.shape[-1] == 5
    cells = math.prod(state.shape[:2])
    fits &= (fire.dtype == bool and fire.shape == state.shape[:2]) or (
        fire.dtype == np.int32 and fire.ndim == 1 and len(fire) <= cells
    )
    if fits:
        assert jax.eval_shape(rule, state, fire).shape == state.shape
    else:
        with refuses():
            jax.eval_shape(rule, state, fire)
    if state.ndim and state.shape[-1] != 15:
        with refuses(names=["perception must be"]):
            rule.update(state)


# Many steps


@given(
    st.integers(0, 50),
    SIDES,
    SIDES,
    st.sampled_from(["paired", "bernoulli", "dropout", "", None, 3]),
)
def test_fire_schedules(num_steps, height, width, mask):
    def draw():
        return rollout.fire_schedule(KEY, num_steps, height, width, mask)

    if mask not in rollout.MASKS:
        with refuses(mask, names=["mask"]):
            draw()
    elif mask == "paired" and height * width % 2:
        with refuses(height, width, names=["even"]):
            draw()
    else:
        fires = jax.eval_shape(draw)
        paired = mask == "paired"
        cells = (height * width // 2,) if paired else (height, width)
        assert fires.shape == (num_steps, *cells)
        assert fires.dtype == (jnp.int32 if paired else bool)


@given(NOT_NUMBERS | st.integers(max_value=-1) | st.floats() | HUGE)
def test_numbers_of_steps_that_cannot_be_are_refused(num_steps):
    task = a_task()
    with refuses(num_steps):
        rollout.fire_schedule(KEY, num_steps, 4, 4)
    if num_steps is not None:
        for grow in (task.fires, lambda *a: task.frames(task.params, *a)):
            with refuses(num_steps):
                grow(KEY, num_steps)


@covers("rollout.stages", "rollout.crop_fires")
@given(
    st.integers(-2, 60), st.integers(-2, 60), st.integers(-2, 200), st.none() | st.integers(-3, 40)
)
def test_stages_cover_all_steps(height, width, num_steps, reach):
    plan = tried(rollout.stages, height, width, num_steps, reach)
    good = min(height, width) >= 1 and num_steps >= 0 and (reach is None or reach >= 0)
    assert (plan is not None) == good
    if good:
        assert [a for a, _, _ in plan] == [0, *(b for _, b, _ in plan)][: len(plan)]
        assert sum(b - a for a, b, _ in plan) == num_steps
        for _, _, margin in plan:
            assert margin % 2 == 0 and 2 * margin < min(height, width)
            fires = np.zeros((1, height, width), bool)
            inner = (1, height - 2 * margin, width - 2 * margin)
            assert rollout.crop_fires(fires, width, margin).shape == inner


@given(st.integers(1, 20), st.integers(-30, 30).filter(bool))
def test_margins_that_cut_pairs_or_leave_nothing_are_refused(width, margin):
    fires = np.zeros((2, 20, width), bool)
    if width % 2 or margin % 2 or not 0 < 2 * margin < width:
        with refuses(width, margin):
            rollout.crop_fires(fires, width, margin)
    else:
        assert rollout.crop_fires(fires, width, margin).shape[2] == width - 2 * margin


@covers("rollout.check_fires", "rollout.grow", "rollout.grow_and_measure", "rollout.record")
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(rollout.MASKS), st.integers(0, 4))
def test_schedules_of_another_grid_are_refused(height, width, mask, num_steps):
    task = a_task()
    fires = tried(
        lambda: jax.eval_shape(lambda: rollout.fire_schedule(KEY, num_steps, height, width, mask))
    )
    if fires is None:
        return
    rule, state, T = task.merge(task.params), task.start, num_steps  # on 6 x 6 cells
    fits = (height, width) == (6, 6) or (mask == "paired" and height * width == 36)
    fits_bool = (height, width) == (6, 6)
    if not (fits if mask == "paired" else fits_bool):
        for call in (rollout.check_fires, *(lambda s, f, g=g: g(rule, s, f) for g in GROWERS)):
            with refuses(fires.shape, names=["fires must be"]):
                call(state, fires)
    else:
        grown = jax.eval_shape(lambda f: rollout.grow(rule, state, f), fires)
        assert grown.shape == state.shape and grown.dtype == jnp.float32
        states = jax.eval_shape(lambda f: rollout.record(rule, state, f), fires)
        assert states.shape == (T + 1, *state.shape)
        measure = jax.eval_shape(
            lambda f: rollout.grow_and_measure(rule, state, f, lambda s: s.sum()), fires
        )[1]
        assert measure.shape == ()


GROWERS = [
    rollout.grow,
    rollout.record,
    lambda rule, state, fires: rollout.grow_and_measure(rule, state, fires, jnp.sum),
]


def test_records_larger_than_memory_are_refused():
    task = a_task()
    fires = jax.ShapeDtypeStruct((10**6, 6, 6), bool)
    with refuses(10**6, names=["too many"]):
        jax.eval_shape(lambda f: rollout.record(task.merge(task.params), task.start, f), fires)


# Losses


@covers("loss.mse", "loss.empty_loss", "loss.overflow_loss")
@given(SHAPES, SHAPES)
@example((4, 4, 1), (4, 4, 4))
@example((2, 4, 4, 5), (4, 4, 4))
@example((4, 4, 5), (4, 4, 4))
def test_losses_of_other_shapes_are_refused(one, other):
    state, goal = np.zeros(one, np.float32), np.zeros(other, np.float32)
    fits = len(one) >= 3 and one[-1] >= 4 and other == (*one[-3:-1], 4)
    if fits:
        assert jax.eval_shape(loss.mse, state, goal).shape == one[:-3]
    else:
        with refuses(names=["state|target"]):
            loss.mse(state, goal)
    if len(one) >= 3 and one[-1] >= 1:
        assert jax.eval_shape(loss.overflow_loss, state).shape == one[:-3]
    else:
        with refuses(names=["state"]):
            loss.overflow_loss(state)
    if len(other) == 3 and other[-1] == 4:
        assert jax.eval_shape(loss.empty_loss, goal).shape == ()
    else:
        with refuses(other):
            loss.empty_loss(goal)


@settings(max_examples=50)
@given(hnp.arrays(np.float32, (2, 2, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_losses_are_finite_and_not_negative(state):
    assert 0 <= loss.mse(state, np.ones((2, 2, 4), np.float32)) < math.inf
    assert 0 <= loss.overflow_loss(state) < math.inf
    assert loss.overflow_loss(state.clip(-2, 2)) == 0


@covers("loss.window_loss", "loss.growth_loss")
@given(NOT_COUNTS | st.integers(4, 10**9))
def test_windows_outside_of_the_rollout_are_refused(window):
    task = a_task()
    arguments = task.merge(task.params), task.start, task.fires(KEY)
    with refuses(window, names=["window", "1 to 3"]):
        loss.growth_loss(*arguments, task.target, window)
    with refuses(window, names=["window", "1 to 3"]):
        loss.window_loss(*arguments, jnp.sum, window)


# Evolution


@covers("evolution.use_cores")
@given(NOT_COUNTS.filter(lambda n: n is not None) | st.integers(1025))
def test_numbers_of_cores_that_cannot_be_are_refused(cores):
    with refuses(cores, names=["cores"]):
        evolution.use_cores(cores)


@covers("evolution.check_population", "evolution.open_es", "evolution.pgpe", "evolution.whitened")
@given(NOT_COUNTS | st.integers(0, 10**6).map(lambda n: 2 * n + 1))
def test_odd_populations_are_refused(population):
    with refuses(population, names=["population must be even"]):
        evolution.check_population(population)
    for make in (evolution.open_es, evolution.pgpe, evolution.whitened):
        with refuses(population, names=["population must be even"]):
            make(np.zeros(3, np.float32), population, 0.1, optax.constant_schedule(0.1))


@covers("evolution.check_std")
@given(NOT_NUMBERS | st.floats(max_value=0.0) | st.sampled_from([math.nan, math.inf]))
def test_noise_that_cannot_be_is_refused(std):
    with refuses(std, names=["std"]):
        evolution.check_std(std)
    for make in (evolution.open_es, evolution.pgpe, evolution.whitened):
        with refuses(std, names=["std"]):
            make(np.zeros(3, np.float32), 4, std, optax.constant_schedule(0.1))


@covers("evolution.population_mesh")
@given(st.integers(-3, 40) | NOT_NUMBERS | st.floats())
def test_devices_share_a_population_equally(population):
    if isinstance(population, int) and population >= 1:
        assert population % evolution.population_mesh(population).size == 0
    else:
        with refuses(population, names=["population"]):
            evolution.population_mesh(population)


@covers("evolution.summarise")
@given(hnp.arrays(np.float32, (6,), elements=st.floats(width=32, allow_subnormal=False)))
def test_generations_with_any_fitness_are_summed_up(fitness):
    told = evolution.summarise(None, None, jnp.asarray(fitness), None, None)
    assert told["nonfinite"] == (~np.isfinite(fitness)).sum()
    assert 0 <= told["tied"] <= 6
    if np.isfinite(fitness).any():
        assert told["fitness_best"] == fitness[np.isfinite(fitness)].min()


@covers(
    "evolution.Strategy",
    "evolution.Strategy.init",
    "evolution.Strategy.mean",
    "evolution.Strategy.std",
    "evolution.make_evolve",
    "evolution.compile_loop",
)
@pytest.mark.parametrize("make", [evolution.open_es, evolution.pgpe])
def test_counts_of_generations_are_checked(make):
    strategy = make(np.zeros(3, np.float32), 4, 0.1, optax.constant_schedule(0.1))
    assert isinstance(strategy, evolution.Strategy)
    state = strategy.init(KEY, np.ones(3, np.float32))
    assert strategy.mean(state).shape == strategy.std(state).shape == (3,)
    assert np.all(strategy.std(state) == np.float32(0.1))
    evolve = evolution.make_evolve(strategy, lambda params, luck: jnp.sum(params**2))
    raw = evolution.compile_loop(lambda s, k: (s, k), evolution.population_mesh(4))

    @given(st.tuples(st.integers(-5, 5), st.integers(-5, 5)).filter(lambda t: t[0] < 0 or t[1] < 1))
    def check(span):
        for loop in (evolve, raw):
            with refuses(*span, names=["count"]):
                loop(state, KEY, *span)

    check()
    for chunk in (0, -1, 1.5, "2"):
        with refuses(chunk, names=["chunk"]):
            evolution.make_evolve(strategy, lambda params, luck: jnp.sum(params), chunk)


# Gradients


@covers(
    "backprop.Descent",
    "backprop.Descent.init",
    "backprop.Descent.mean",
    "backprop.Descent.std",
    "backprop.State",
    "backprop.adam_of_directions",
)
@given(hnp.arrays(np.float32, (4,), elements=st.floats(width=32, allow_subnormal=False)))
def test_any_gradient_leaves_finite_weights(gradient):
    task = a_task()
    descent = backprop.Descent(
        backprop.adam_of_directions(optax.constant_schedule(0.1)), task.start, 2
    )
    weights = jnp.ones(4)
    state = descent.init(KEY, weights)
    assert isinstance(state, backprop.State) and state.pool.shape == (2, *task.start.shape)
    assert descent.mean(state) is weights and descent.std(state) is None
    if np.isfinite(gradient).all() and np.abs(gradient).max() > 1e18:
        return  # its length is not finite: it counts as zero, too, by way of a division
    updates, _ = descent.optimizer.update(jnp.asarray(gradient), state.opt_state)
    assert np.isfinite(updates).all() and np.abs(updates).max() <= 0.11


@covers("backprop.draw_starts", "backprop.make_descend")
@given(st.integers(-3, 0) | st.integers(4, 10**9))
def test_more_starts_than_the_pool_has_are_refused(count):
    task = a_task()
    pool = jnp.zeros((3, *task.start.shape))
    with refuses(count, names=["count"]):
        backprop.draw_starts(KEY, pool, count, task.start, task.target, 0.5)
    with refuses(-count, names=["population"]) if count < 0 else contextlib.nullcontext():
        if count < 0:
            config = dataclasses.replace(TINY, population=count)
            backprop.make_descend(None, task._replace(config=config))


# Decisions


@covers("beyond.decide", "beyond.bit", "beyond.hindmost", "beyond.life_step", "beyond.methuselah")
@given(
    st.text(max_size=6).filter(lambda text: text not in beyond.SLOPES) | st.sampled_from([7, None])
)
def test_unknown_surrogates_are_refused(surrogate):
    grid, state = jnp.zeros((4, 4)), jnp.zeros((4, 4, 4))
    for call in (
        lambda: beyond.decide(grid > 0, grid, surrogate),
        lambda: beyond.bit(grid, surrogate),
        lambda: beyond.hindmost(state, surrogate),
        lambda: beyond.life_step(grid, surrogate),
        lambda: beyond.methuselah(state, surrogate),
    ):
        with refuses(surrogate, names=["surrogate"]):
            call()


@given(SHAPES, SHAPES)
@example((70, 4, 4), (66, 2))
def test_goals_of_other_shapes_are_refused(one, other):
    array, second = np.zeros(one, np.float32), np.zeros(other, np.float32)
    for goal in (beyond.hindmost, beyond.methuselah):
        if not (len(one) == 3 and one[-1] >= 4):
            with refuses(one):
                jax.eval_shape(goal, array)
    if one == (70, 4, 4):
        with refuses((70, 4)):
            jax.eval_shape(beyond.methuselah, array)
    if one != other:
        with refuses(one, other):
            beyond.decide(array, second)
    if len(other) != 2 or max(other) > 4:
        with refuses(other):
            beyond.place(second, 4)
    else:
        assert jax.eval_shape(lambda x: beyond.place(x, 4), second).shape == (4, 4)
    if len(other) != 2:
        with refuses(other):
            beyond.life_step(second)
    else:
        assert jax.eval_shape(beyond.life_step, second).shape == other


# Pictures

ODD = [0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 3e38, -1e-40]
STATES = st.one_of(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.uint8, np.bool_]),
        (2, 3, 5),
    ),
    hnp.arrays(np.float32, (1, 2, 2, 4), elements=st.sampled_from(ODD)),
    hnp.arrays(np.float64, (2, 2, 4), elements=st.sampled_from([*ODD, 1e300])),
)
NOT_PICTURES = st.one_of(
    NOT_NUMBERS,
    SHAPES.filter(lambda s: len(s) < 3 or s[-1] < 4 or 0 in s).map(np.zeros),
    st.sampled_from([np.full((2, 2, 4), "x"), np.zeros((2, 2, 4), complex), [[1], [1, 2]]]),
    st.just(np.full((2, 2, 4), None)),
)


@covers("images.to_rgb", "images.to_rgba")
@given(STATES, st.booleans())
def test_any_state_has_a_picture(state, premultiplied):
    for convert, channels in ((images.to_rgb, 3), (images.to_rgba, 4)):
        pixels = convert(state, premultiplied=premultiplied)
        assert pixels.dtype == np.uint8 and pixels.shape == (*state.shape[:-1], channels)
    white = np.nan_to_num(state[..., -1].astype(float)) <= 0
    if premultiplied is False:
        assert (images.to_rgb(state, premultiplied=False)[white] == 255).all()


@given(NOT_PICTURES)
def test_what_is_no_picture_is_refused(state):
    for call in (
        images.to_rgb,
        images.to_rgba,
        figures.plot_channels,
        lambda x: images.upscale(x, 2),
        images.contact_sheet,
        lambda x: images.save_png("x.png", x),
        lambda x: images.save_clip("x.webp", x),
        lambda x: figures.show_images(x, "alt"),
        lambda x: figures.show_clip(x, "alt"),
    ):
        with refuses():
            call(state)


@covers("figures.plot_channels")
@few
@given(STATES.filter(lambda state: state.ndim == 3))
def test_any_state_has_a_figure_of_channels(state):
    figure = figures.plot_channels(state)
    figure.canvas.draw()


@given(NOT_PICTURES | st.just((2.0, 0.0, 0.0)) | st.just((math.nan,) * 3))
@example("red")
def test_backgrounds_that_are_none_are_refused(background):
    assume(getattr(background, "shape", None) not in ((3,), (2, 2, 3)))  # black is a colour
    with refuses():
        images.to_rgb(np.zeros((2, 2, 4)), background)


PIXELS = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES, st.sampled_from([3, 4])))


@covers("images.upscale", "images.contact_sheet")
@given(PIXELS, NOT_COUNTS | HUGE)
@example(np.zeros((1, 1, 3), np.uint8), 10**9)
def test_pictures_larger_than_memory_are_refused(pixels, number):
    with refuses():
        images.upscale(pixels, number)
    with refuses():
        images.contact_sheet(pixels[None], columns=number if number is not None else 0)
    if number != 0 or not isinstance(number, int):
        with refuses():
            images.contact_sheet(pixels[None], gap=number)
    assert images.upscale(pixels, 2).shape == (
        2 * len(pixels),
        2 * pixels.shape[1],
        pixels.shape[2],
    )


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 9))
def test_contact_sheets_have_the_size_that_is_told(number, columns, gap):
    rows = math.ceil(number / columns)
    sheet = images.contact_sheet(np.zeros((number, 3, 2, 4), np.uint8), columns, gap)
    assert sheet.shape == (rows * (3 + gap) - gap, columns * (2 + gap) - gap, 4)


BAD_PATHS = NOT_NUMBERS.filter(lambda path: path not in (".png",)) | st.sampled_from(
    ["x.jpg", "png", "x.webp.exe", 5]
)
NOT_TEXTS = st.sampled_from(["", "  ", None, 5, [], ["a", "b"], [5], [""]])


@covers("images.save_png", "images.save_clip", "figures.show_images", "figures.show_clip")
@given(BAD_PATHS, NOT_TEXTS, NOT_COUNTS | st.just(61.0))
def test_clips_that_cannot_be_are_refused(path, alt, number):
    pixels = np.zeros((2, 2, 2, 3), np.uint8)
    with refuses(names=["path"]):
        images.save_png(path, pixels[0])
    with refuses(names=["path"]):
        images.save_clip(path, pixels)
    with refuses(names=["alt|titles"]):
        figures.show_images(pixels[:1], alt)
    with refuses(names=["alt"]):
        figures.show_clip(pixels, alt)
    with refuses(names=["titles"]):  # which may be empty
        titles = [*"ab"] if alt in (None, [""]) else alt
        figures.show_images(pixels[:1], "alt", titles=titles)
    with refuses(names=["zoom|height"]):
        figures.show_clip(pixels, "alt", zoom=number if number != 61 else 0)
    with refuses(names=["height"]):
        figures.show_images(pixels, "alt", height=number if number != 61 else 0)
    if not isinstance(number, float) or not 1 <= number <= 60:
        with refuses(names=["fps"]):
            images.save_clip("x.webp", pixels, fps=number)


@covers("figures.plot_losses")
@given(
    NOT_NUMBERS
    | st.dictionaries(
        st.text(max_size=2),
        NOT_NUMBERS
        | st.fixed_dictionaries({"rollouts": NOT_NUMBERS, "loss": NOT_NUMBERS})
        | st.just({"rollouts": [1, 2], "loss": [math.nan, -1.0]})
        | st.just({"rollouts": [1, 2], "loss": [1.0]}),
        max_size=2,
    )
)
def test_histories_that_cannot_be_drawn_are_refused(histories):
    with refuses():
        figures.plot_losses(histories)


# Configurations

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1, 7, 2**31, 10**6, 10**9, 10**30])
)
ANYTHING = st.one_of(NUMBERS, NOT_NUMBERS, st.booleans())
FIELDS = [field.name for field in dataclasses.fields(Config)]


@covers("train.Config", "train.validate", "train.memory_needed", "train.log_points")
@settings(max_examples=400 * MANY)
@given(
    st.sampled_from(list(PRESETS)), st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3)
)
@example("smoke", {"channels": 10**6, "hidden": 10**6})
@example("walk", {"size": 10**6})
@example("smoke", {"size": 512, "padding": 256, "channels": 1024})
def test_configurations_fit_in_memory_or_are_refused(preset, fields):
    config = dataclasses.replace(PRESETS[preset], **fields)
    assert isinstance(config, Config)
    try:
        train.validate(config)
    except ValueError as error:
        assert any(name in str(error) for name in [*fields, "window"])
        return
    side, C = config.size + 2 * config.padding, config.channels
    assert 4 * side**2 * C <= 2**30 and 4 * 4 * C * config.hidden <= 2**30
    assert (config.num_steps + 1) * side**2 * 3 * 36 <= images.MAX_PIXELS  # the final clip
    assert train.memory_needed(config, 1) > 0
    assert len(train.log_points(config, 0)) <= 4_000


@given(ANYTHING.filter(lambda value: not isinstance(value, Config)))
def test_only_a_config_is_a_config(value):
    for call in (train.validate, widgets.evolution_dashboard, Training, train.make_task):
        with refuses(names=["config must be"]):
            call(value)


@covers("train.plan_chunk", "train.make_trainer", "train.make_strategy")
@given(st.integers(max_value=0) | st.integers(3))
def test_chunks_are_a_part_of_the_share(chunk):
    task = a_task()
    share = TINY.population // evolution.population_mesh(TINY.population).size
    if chunk > share or chunk < 1:
        for plan in (
            lambda: train.plan_chunk(TINY, chunk),
            lambda: train.make_trainer(task, chunk),
        ):
            with refuses(chunk, names=["chunk"]):
                plan()
    config = dataclasses.replace(TINY, population=chunk)
    if chunk < 1 or chunk % 2:
        with refuses(chunk, names=["population"]):
            train.make_strategy(config, task.params)


@pytest.mark.parametrize("age", [0, 1])
def test_gradients_through_too_many_steps_are_refused(age):
    task = a_task()
    config = dataclasses.replace(TINY, strategy="backprop", num_steps=100_000, population=256)
    config = dataclasses.replace(config, age=age, size=4, hidden=1024)
    train.validate(config)
    with refuses(100_000, 256, names=["GB"]):
        train.make_trainer(task._replace(config=config))


@covers("train.initial_weights")
@given(st.text(min_size=1, max_size=9) | st.sampled_from(["x" * 5000, "a\0b", "..", "/", "\udcff"]))
def test_weights_of_no_run_are_refused(name):
    task = a_task()
    with refuses(name, names=["init"]):
        train.initial_weights(dataclasses.replace(TINY, init=name), task.params)


@covers("train.check_alive", "train.begin", "train.continue_from", "train.learning_rates")
@given(st.sampled_from(FIELDS), st.floats(0, 1), st.integers(0, 4))
def test_what_training_checks(name, median, bad):
    told = dataclasses.asdict(TINY)
    other = told | {name: "another" if isinstance(told[name], str) else -1}
    here, row = train.begin(a_task()), [1, *[0.5] * (len(train.HISTORY) - 1)]
    saved = here | {"config": told, "generation": 1, "history": [row]}
    with refuses(names=["cannot resume", name]):
        train.continue_from(saved, here | {"config": other})
    metrics = {"nonfinite": bad, "fitness_median": median, "tied": bad}
    if bad > 2:
        with pytest.raises(FloatingPointError, match=f"{bad} of 4"):
            train.check_alive(metrics, 4, 0.5, 1)
    else:
        train.check_alive(metrics, 4, 0.5, 1)
    rate = train.learning_rates(dataclasses.replace(TINY, learning_rate_end=median))(bad)
    assert 0 <= rate <= TINY.learning_rate * 1.0001


TASK_METHODS = ("empty_loss", "fires", "fitness", "frames", "judge", "loss", "measure", "prepare")


@covers(
    "train.Task",
    "train.make_task",
    "train.make_measure",
    *(f"train.Task.{m}" for m in TASK_METHODS),
)
def test_tasks_of_any_small_configuration():
    """empty_loss, fires, fitness, frames, judge, loss, measure, prepare have the shapes told."""

    @few
    @given(
        st.fixed_dictionaries(
            {
                "size": st.sampled_from([2, 4]),
                "channels": st.sampled_from([4, 6]),
                "mask": st.sampled_from(rollout.MASKS),
                "cells": st.sampled_from(train.CELLS),
                "goal": st.sampled_from(["target", "walk", "life"]),
                "age": st.sampled_from([0, 3]),
            }
        )
    )
    def check(fields):
        config = dataclasses.replace(TINY, **fields)
        if config.goal != "target":
            config = dataclasses.replace(config, emoji="", age=0)
        task = train.make_task(config)
        assert isinstance(task, train.Task)
        shape, T = task.start.shape, config.num_steps
        assert shape == (config.size + 2, config.size + 2, config.channels)
        luck = jax.eval_shape(task.prepare, task.params, KEY)
        assert luck[0].shape == shape and luck[1].shape == task.fires(KEY).shape
        assert jax.eval_shape(task.fitness, task.params, luck).shape == ()
        assert jax.eval_shape(task.judge, task.params, *luck)[1].shape == shape
        assert jax.eval_shape(task.measure, task.start).shape == ()
        assert jax.eval_shape(task.frames, task.params, KEY).shape == (T + 1, *shape)
        assert jax.eval_shape(task.loss, task.params, KEY).shape == ()
        assert math.isfinite(task.empty_loss())
        keys = jax.random.split(KEY, 3)
        assert jax.eval_shape(train.make_measure(task), task.params, keys).shape == (3,)
        for factor in (0, -1):
            with refuses():
                task.loss(task.params, KEY, factor)

    check()


# The command lines

WORDS = ["", " ", "true", "nan", "inf", "-1", "0", "1e400", "9" * 5000, "[" * 100_000, "{}", "🦖"]
WORDS += ["1_0", "0x10", "None", "\0", "\udcff", "a\nb", "%s", "%(prog)s", "x" * 5000, "--out", "7"]
WORDS += ["1000000", "2147483648", "1e9", "lizard", "walk", "life", "soft", "backprop", "straight"]
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.integers().map(str),
    st.integers(-10, 600).map(str),
    st.floats().map(str),
    st.text(max_size=5),
)


def called(main, arguments):
    """Exit status and what stands on stderr; anything but an exit is a failure."""
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(error):
        try:
            status = main(arguments)
        except SystemExit as exit_info:
            status = exit_info.code
    return status, error.getvalue()


def assert_told(status, error, names):
    assert status in (0, 2)
    assert "Traceback" not in error
    if status:
        assert any(name in error for name in names), error[-300:]


TRAIN_FLAGS = ["--preset", "--out", "--chunk", *("--" + f.replace("_", "-") for f in FIELDS)]


@pytest.fixture
def only_checked(monkeypatch):
    """The command line does all that it does before it trains."""

    def prepare(config, out, *, resume, command, chunk):
        train.make_trainer(train.make_task(config), chunk)

    monkeypatch.setattr(train, "train", prepare)
    monkeypatch.setattr(train, "use_cores", lambda: None)
    monkeypatch.setattr(benchmark, "use_cores", lambda: None)
    monkeypatch.setattr(benchmark, "warm_up", lambda config, only: ({}, {}, {}))
    monkeypatch.setattr(benchmark, "matmul_flops_per_second", lambda config: 1.0)


@covers("train.main", "train.parse", "train.train")
@pytest.mark.parametrize("flag", TRAIN_FLAGS)
def test_any_value_of_a_flag_of_train(flag, only_checked):
    """Exit status 0 or 2 from main, which asks parse and then train."""
    start = ["--preset", "smoke", "--out", "x", "--size", "4", "--padding", "0", "--hidden", "2"]

    @settings(max_examples=20 * MANY)
    @given(VALUES, st.booleans())
    def check(value, joined):
        more = [f"{flag}={value}"] if joined else [flag, value]
        names = [flag, flag[2:].replace("-", "_"), "window", "unrecognized arguments: "]
        assert_told(*called(train.main, [*start, *more]), names)

    check()
    assert called(train.main, [*start, flag])[0] == 2


@given(
    st.lists(st.tuples(st.sampled_from([*TRAIN_FLAGS, "--resume", "--oops"]), VALUES), max_size=3)
)
def test_any_command_line_of_train(only_checked, pairs):
    flags = [f"--{name}".replace("_", "-") for name in FIELDS]
    arguments = [word for pair in pairs for word in pair]
    status, error = called(train.main, ["--preset", "walk", "--out", "x", *arguments])
    assert_told(status, error, [*flags, *FIELDS, "--", "unrecognized"])


BENCHMARK_FLAGS = ["--size", "--steps", "--channels", "--hidden", "--population", "--repeats"]


@covers("benchmark.main", "benchmark.benchmark", "benchmark.memory_needed")
@pytest.mark.parametrize("flag", [*BENCHMARK_FLAGS, "--only", "--json"])
def test_any_value_of_a_flag_of_benchmark(flag, only_checked, tmp_path, monkeypatch):
    """Exit status 0 or 2 from main, which calls benchmark; memory_needed refuses too much."""
    monkeypatch.chdir(tmp_path)

    @settings(max_examples=20 * MANY)
    @given(VALUES)
    def check(value):
        names = [flag, flag[2:], "unrecognized arguments", "File name too long", "null"]
        assert_told(*called(benchmark.main, ["--size", "12", flag, value]), names)

    check()


@given(ANYTHING.filter(lambda size: not isinstance(size, int) or size < 2 or size % 2))
@example(10**6)
def test_benchmarks_that_cannot_run_are_refused(only_checked, value):
    if value != 10**6:
        with refuses(value, names=["size"]):
            benchmark.notebook(value)
    if not isinstance(value, int) or not 1 <= value <= 1000:
        with refuses(value, names=["repeats"]):
            benchmark.benchmark(TINY, value)
    with refuses(value, names=["only"]):
        benchmark.benchmark(TINY, only=value)


@covers("benchmark.notebook", "benchmark.cells_computed", "benchmark.flops_per_cell")
@given(
    st.integers(1, 40).map(lambda n: 2 * n), st.integers(1, 20), st.sampled_from(benchmark.NAMES)
)
def test_benchmarks_count_cells(size, steps, name):
    config = benchmark.notebook(size, steps)
    assert 0 < benchmark.cells_computed(name, config) <= size**2 * steps
    assert benchmark.flops_per_cell(config) == 2 * 4 * 16 * 128


# Runs, the demo and widgets


@covers("runs.load_run", "runs.Run", "runs.Run.grow", "runs.Run.evaluate", "runs.Run.target")
@given(
    st.text(max_size=9)
    | st.sampled_from(["x" * 5000, "a\0b", "\udcff", "..", "/", None, 5, b"lizard", ["lizard"]])
)
def test_names_of_no_run_are_refused(name):
    run = a_run()
    with refuses():
        runs.load_run(name)
    assert isinstance(run, runs.Run) and run.target.shape == run.task.target.shape
    for value in (name if name != 5 else 0, -1, 10**7):
        for option in ("keys", "factor"):
            with refuses(value, names=[option]):
                run.evaluate(**{option: value})
    with refuses(-1):
        run.grow(KEY, -1)


@covers("browser.record", "browser.flatten", "browser.export", "browser.show", "browser.script")
@given(ANYTHING.filter(bool))
def test_what_the_demo_cannot_show_is_refused(value):
    run = a_run()
    good = isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", value)
    for options in ({"dtype": value}, {"config": value}, *([] if good else [{"name": value}])):
        with refuses():
            browser.record(run, **options)
    if not isinstance(value, str) or not value.strip():
        with refuses(names=["title"]):
            browser.record(run, title=value)
    with refuses():
        browser.record(value)
    with refuses():
        browser.flatten(value, run.config)
    with refuses(names=["path"]):
        browser.export(run, value)
    for name, low, high in (("grid", 16, 128), ("seeds", 1, 9), ("speed", 1, 240)):
        if not (type(value) is int and low <= value <= high):
            with refuses(value, names=[name]):
                browser.show(run, **{name: value})
    text = browser.script({"text": str(value)})
    assert text.isascii() and "<" not in text


@covers(
    "widgets.target_explorer",
    "widgets.perception_explorer",
    "widgets.step_explorer",
    "widgets.loss_explorer",
    "widgets.growth_player",
    "widgets.evolution_dashboard",
    "widgets.duel",
)
@given(ANYTHING.filter(lambda value: value is not None))
def test_widgets_of_something_else_are_refused(value):
    run = a_run()
    for make in (widgets.perception_explorer, widgets.loss_explorer, widgets.growth_player):
        with refuses():
            make(value)
    rule, state = run.task.merge(run.params), np.zeros((4, 4, 8), np.float32)
    for arguments in (
        (value, state, np.zeros((4, 4), bool)),
        (rule, value, value),
        (rule, state, value),
    ):
        with refuses():
            widgets.step_explorer(*arguments)
    if not isinstance(value, list) or not value:
        with refuses(names=["emoji"]):
            widgets.target_explorer(value)
    if type(value) is not int or not 2 <= value <= 101:
        with refuses(value, names=["side"]):
            widgets.loss_explorer(run, value)
    with refuses():
        widgets.duel(value)
    with refuses(names=["config"]):
        widgets.duel({"one": value})
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        with refuses(value, names=["seconds"]):
            widgets.duel({"one": TINY}, seconds=value)
    with refuses(names=["strategy"]):
        widgets.evolution_dashboard(dataclasses.replace(TINY, strategy="backprop"))


@few
@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.sampled_from(ODD)))
def test_explorers_show_any_state(state):
    assert widgets.perception_explorer(state).children[-1].value


@covers(
    "background.Training",
    "background.Training.advance",
    "background.Training.check_fits",
    "background.Training.grow",
    "background.Training.save",
    "background.Loop",
    "background.command_line",
)
def test_a_training_refuses_what_it_cannot_do(tmp_path):
    training = Training(TINY)
    for seconds in (math.nan, -1.0, math.inf, 1e9):
        with refuses(seconds, names=["seconds"]):
            training.advance(seconds)
    for fields in ({"hidden": 4}, {"channels": 4}):
        with refuses(names=["channels and hidden"]):
            training.check_fits(dataclasses.replace(TINY, **fields))
    assert training.grow(KEY).shape == (4, 6, 6, 5)
    (tmp_path / "run.json").write_text("{}")
    with refuses(names=["holds a run already"]):
        training.save(tmp_path)
    said = []
    loop = Loop(lambda: [][0] if said else said.append(1), said.append)
    loop.start()
    loop.wait()
    assert said == [1, ""]

    @given(st.text(max_size=8).filter(lambda text: "\0" not in text), st.floats(0.001, 9))
    def check(name, std):
        words = shlex.split(command_line(dataclasses.replace(Config(), std=std), Path(name)))
        options, config = train.parse(words[3:])
        assert (Path(options.out), config.std) == (Path(name), std)

    check()


# Files


def damaged(data, random):
    """Bytes with a few flipped, cut out, doubled or overwritten."""
    data = bytearray(data)
    for _ in range(random.integers(1, 4)):
        at, kind = int(random.integers(len(data) or 1)), int(random.integers(5))
        if kind == 0 and data:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + int(random.integers(1, 40))]
        elif kind == 3:
            data[at : at + 4] = struct.pack(">I", int(random.integers(2**32)))
        else:
            del data[at : at + int(random.integers(1, 20))]
    return bytes(data)


def rezipped(data, random):
    """An archive in order, with one member damaged, renamed, lost, or full of wild claims."""
    out, victim = io.BytesIO(), int(random.integers(4))
    method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[int(random.integers(2))]
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for number, name in enumerate(old.namelist()):
            member, kind = old.read(name), int(random.integers(6))
            if number == victim and kind == 0:
                member = damaged(member, random)
            elif number == victim and kind == 1:
                name = "hidden.kernel" if kind % 2 else "x" * int(random.integers(1, 300))
            elif number == victim and kind == 2:
                continue
            elif number == victim and kind == 3:  # a shape of any size, in a header of good form
                shape = tuple(int(10 ** random.uniform(0, 13)) for _ in range(random.integers(4)))
                kinds = ("<f4", "<f8", ">f4", "|O", "|V9", "<U7", "<c8", "|S0")
                kind = kinds[random.integers(len(kinds))]
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                claim = io.BytesIO()
                np.lib.format.write_array_header_2_0(claim, header)
                member = claim.getvalue() + member[128:]
            elif number == victim and kind == 4:
                member = b"\x93NUMPY\x01\x00\xff\xff" + b"(" * int(random.integers(3000))
            new.writestr(name, member)
    return out.getvalue()


def fuzz_weights(number, seed, folder):
    """Damage the weights of a shipped run in so many ways, and load each.

    Args:
        number: inputs to try.
        seed: of the random numbers.
        folder: an empty folder to write into, best in memory.

    Returns:
        Inputs survived, each refused with a ValueError or, where the damage left the numbers
        whole, loaded. Anything else is an AssertionError.
    """
    params = runs.load_run("lizard").params
    data, path = (
        (train.SHIPPED / "lizard" / "weights.npz").read_bytes(),
        Path(folder) / "weights.npz",
    )
    random, refused = np.random.default_rng(seed), 0
    shapes = list(map(np.shape, jax.tree.leaves(params)))
    for case in range(number):
        bad = (rezipped if case % 2 else damaged)(data, random)
        path.write_bytes(bad)
        try:
            with warnings.catch_warnings(action="ignore"):
                loaded = checkpoint.load_weights(path, like=params)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error), (seed, case, str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {case}: {error!r}") from error
        else:
            assert list(map(np.shape, jax.tree.leaves(loaded))) == shapes, (seed, case)
    assert refused > number // 3
    return number


@covers("checkpoint.load_weights")
def test_damaged_weights_are_refused(tmp_path):
    """As fuzz_weights does with load_weights."""
    assert fuzz_weights(300 * MANY, 0, tmp_path) == 300 * MANY


@covers("checkpoint.save", "checkpoint.load", "checkpoint.read", "checkpoint.previous")
def test_damaged_checkpoints_are_refused(tmp_path):
    path, tree = tmp_path / "checkpoint", {"a": np.arange(6.0)}
    checkpoint.save(path, tree, {"n": 1})
    good, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100 * MANY):
        bad = damaged(good, random)
        path.write_bytes(bad)
        if bad != good:
            with refuses():
                checkpoint.read(path)
            with refuses():
                checkpoint.load(path, like=tree)
    assert not checkpoint.previous(path).exists()


@covers("checkpoint.write_atomic", "checkpoint.save_weights", "checkpoint.weights_to_arrays")
@few
@given(st.binary(max_size=99))
def test_what_is_written_is_read(tmp_path, data):
    task = a_task()
    checkpoint.write_atomic(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    checkpoint.save_weights(tmp_path / "weights.npz", task.params)
    with np.load(tmp_path / "weights.npz") as archive:
        assert {*archive} == {*checkpoint.weights_to_arrays(task.params)}


def test_damaged_run_folders_are_refused(tmp_path):
    run = a_run()
    files = {n: (run.folder / n).read_bytes() for n in ("run.json", "history.csv", "weights.npz")}
    random = np.random.default_rng(0)
    for case in range(60 * MANY):
        victim = [*files][case % 3]
        for name, data in files.items():
            (tmp_path / name).write_bytes(damaged(data, random) if name == victim else data)
        with warnings.catch_warnings(action="ignore"):
            loaded = tried(runs.load_run, tmp_path)
        assert loaded is None or loaded.config.channels == 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.one_of(JSON, st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda c: {"config": c})))
def test_run_folders_with_other_settings_are_refused(tmp_path, info):
    run = a_run()
    for name in ("history.csv", "weights.npz"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    (tmp_path / "run.json").write_text(json.dumps(info))
    tried(runs.load_run, tmp_path)


def test_run_folders_with_pipes_and_giants_are_refused(tmp_path):
    run = a_run()
    for name in ("run.json", "history.csv"):
        for kind in ("pipe", "giant", "folder", "nested"):
            folder = tmp_path / f"{name} {kind}"
            folder.mkdir()
            for other in ("run.json", "history.csv", "weights.npz"):
                (folder / other).write_bytes((run.folder / other).read_bytes())
            make_trap(folder / name, kind)
            with refuses():
                runs.load_run(folder)


def make_trap(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "giant":  # takes no place on the disk
        with path.open("wb") as file:
            file.truncate(5_000_000_000)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("[" * 100_000)


# Images


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@covers("target.load_image")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_images_are_refused_or_read(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind in ("GIF", "BMP") else {"exif": exif}
    good, random = encoded(Image.fromarray(pixels), kind, **options), np.random.default_rng(1)
    path = tmp_path / "image"
    for _ in range(60 * MANY):
        path.write_bytes(damaged(good, random))
        loaded = tried(target.load_image, path, size=8, padding=0)
        assert loaded is None or (
            loaded.shape == (8, 8, 4) and 0 <= loaded.min() <= loaded.max() <= 1
        )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*others, width=16, height=16, kind=6, rows=None):
    """A PNG by hand: any header, and chunks before its rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\xff" * 4 * width) * height) if rows is None else rows
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(others)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def bombs():
    """Small files that ask for much, by name."""
    zeros = zlib.compressobj(9)
    much = b"".join([*(zeros.compress(bytes(10**6)) for _ in range(300)), zeros.flush()])
    yield "text", png(chunk(b"zTXt", b"a\0\0" + much))
    yield "profile", png(chunk(b"iCCP", b"a\0\0" + much))
    yield "rows", png(rows=much)
    yield "side", png(width=80_000_000, height=1, kind=0, rows=much[:10_000])
    yield "area", png(width=50_000, height=50_000, rows=b"")
    frames = [Image.new("P", (8, 8), i % 200) for i in range(2000)]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 20}
    yield "gif", encoded(frames[0], "GIF", **animated)
    yield "apng", encoded(frames[0], "PNG", **animated)
    few = [Image.new("RGB", (16, 16), (i, 0, 0)) for i in range(200)]
    yield "webp", encoded(few[0], "WEBP", save_all=True, append_images=few[1:])
    yield "float", encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"
    if LONG:  # the largest that are allowed
        side = 9450
        grey = Image.fromarray(np.full((side, side), 777, np.int32))
        yield "largest grey", encoded(grey, "TIFF", compression="tiff_adobe_deflate")
        yield (
            "largest colour",
            encoded(Image.new("RGBA", (side, side), "red"), "WEBP", lossless=True),
        )


ALLOWED = {"rows", "gif", "apng", "webp", "largest grey", "largest colour"}

MEASURE = """
import sys
from pathlib import Path
from nca_lib.target import load_image
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, load_image(path).shape == (48, 48, 4))
    except ValueError as error:
        assert path.name in str(error)
        print(path.name, False)
status = Path("/proc/self/status")
if status.exists():
    (peak,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    assert int(peak.split()[1]) < 2_000_000, peak
"""


def test_bombs_take_little_memory(tmp_path):
    """All in one process, whose peak is measured: pipes, giants and bombs."""
    for name, data in bombs():
        (tmp_path / name).write_bytes(data)
    for kind in ("pipe", "giant", "folder"):
        make_trap(tmp_path / kind, kind)
    (tmp_path / "empty").touch()
    command = [sys.executable, "-c", MEASURE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert told.keys() == {path.name for path in tmp_path.iterdir()}
    assert {name for name, read in told.items() if read == "True"} == ALLOWED & told.keys()


@covers("target.check_layout", "target.load_emoji")
@given(ANYTHING, st.sampled_from(["size", "padding", "premultiply"]))
def test_layouts_that_cannot_be_are_refused(value, name):
    layout = {"size": 4, "padding": 1, "premultiply": True}
    low, high = {"size": (1, 512), "padding": (0, 256), "premultiply": (0, 0)}[name]
    good = (
        type(value) is bool
        if name == "premultiply"
        else type(value) is int and low <= value <= high
    )
    if good:
        target.check_layout(**layout | {name: value})
        return
    with refuses(value, names=[name]):
        target.check_layout(**layout | {name: value})
    with refuses(value, names=[name]):
        target.load_emoji("🦎", **layout | {name: value})


@settings(max_examples=200 * MANY)
@given(st.text(max_size=40) | st.from_regex(target._EMOJI, fullmatch=True) | ANYTHING)
@example("👩\u200d" * 300 + "👩")
@example("../../x")
def test_names_of_emoji_stay_in_their_folder(emoji):
    if isinstance(emoji, str) and len(emoji) <= 32 and target._EMOJI.fullmatch(emoji):
        assert re.fullmatch(r"[\w-]+\.png", Path(target._noto_path(emoji)).name, re.ASCII)
    loaded = tried(target.load_emoji, emoji, 4, 0)
    assert loaded is None or loaded.shape == (4, 4, 4)


@covers("checkpoint.read_file")
@pytest.mark.parametrize("kind", ["pipe", "giant", "folder", "nested"])
def test_files_that_are_none_or_too_large_are_refused(kind, tmp_path):
    make_trap(tmp_path / "file", kind)
    with refuses():
        checkpoint.read_file(tmp_path / "file", 1000)
    with pytest.raises(FileNotFoundError):
        checkpoint.read_file(tmp_path / "none", 1000)


# Last, when all tests of this file are known


def test_every_public_callable_is_covered():
    assert {*COVERED} & {*NOT_HERE} == set()
    assert {*COVERED} | {*NOT_HERE} == {*OBJECTS}
