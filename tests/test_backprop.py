"""The gradient baseline against gradients taken by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from test_train import TINY

from nca_lib.backprop import Descent, adam_of_directions, make_descend
from nca_lib.evolution import open_es
from nca_lib.lab import task as task_module
from nca_lib.lab.task import make_task, make_trainer
from nca_lib.loss import mse

BATCH, POOL = 4, 256
CONFIG = dataclasses.replace(TINY, strategy="backprop", population=BATCH)


def test_a_step_is_adam_on_the_direction_of_the_mean_gradient():
    task, key = make_task(CONFIG), jax.random.key(3)
    adam = optax.adam(0.01)
    descent = Descent(adam_of_directions(optax.constant_schedule(0.01)), task.start, 0)
    descend, state = make_descend(descent, task), descent.init(key, task.params)
    params, opt_state = task.params, adam.init(task.params)
    each = jax.jit(jax.vmap(jax.value_and_grad(task.loss), (None, 0)))
    for number in range(2):
        keys = jax.random.split(jax.random.split(jax.random.fold_in(key, number))[1], BATCH)
        value, gradient = jax.tree.map(lambda x: x.mean(0), each(params, keys))
        gradient = jax.tree.map(lambda g: g / (jnp.linalg.norm(g) + 1e-8), gradient)
        updates, opt_state = adam.update(gradient, opt_state)
        params = optax.apply_updates(params, updates)
        state, metrics = descend(state, key, number, 1)
        np.testing.assert_allclose(metrics["fitness_mean"], value, rtol=1e-5)
    found, expected = ravel_pytree(state.params)[0], ravel_pytree(params)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert state.pool.shape == (0, *task.start.shape)
    assert descent.std(state) is None


def test_gradients_that_are_not_finite_move_nothing():
    optimizer = adam_of_directions(optax.constant_schedule(0.1))
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    for bad in (jnp.nan, jnp.inf):
        gradient = {"a": jnp.array([1.0, bad, 2.0]), "b": jnp.array([3.0, 4.0])}
        updates, _ = optimizer.update(gradient, optimizer.init(params))
        assert jnp.isfinite(updates["a"]).all()
        assert updates["a"][1] == 0
        np.testing.assert_allclose(updates["b"], -0.1, rtol=1e-3)


def test_what_was_grown_goes_back_into_the_pool():
    task = make_task(dataclasses.replace(CONFIG, pool=POOL))
    descent, descend = make_trainer(task)
    start = descent.init(jax.random.key(0), task.params)
    assert start.pool.shape == (POOL, *task.start.shape)
    state, _ = descend(start, jax.random.key(1), 0, 1)
    assert (state.pool == start.pool).all()  # an untrained rule leaves the seed as it is
    state, _ = descend(state, jax.random.key(1), 1, 20)
    changed = np.flatnonzero((state.pool != start.pool).any(axis=(1, 2, 3)))
    assert BATCH < len(changed) <= 21 * BATCH
    assert np.ptp(mse(state.pool[changed], jnp.asarray(task.target))) > 0


@pytest.fixture(scope="module")
def place():
    """A loss of one vector of weights that grows something, the vector (D,), and the gradient."""
    task = make_task(TINY)
    flat, unflatten = ravel_pytree(task.params)
    noise = jax.random.normal(jax.random.key(1), flat.shape)
    loss = lambda vector: task.loss(unflatten(vector), jax.random.key(2))  # noqa: E731
    vector = flat + 0.05 * noise
    return loss, vector, jax.grad(loss)(vector)


def test_the_gradient_of_a_rollout_equals_finite_differences(place):
    (loss, vector, gradient), width = place, 1e-3
    directions = jax.random.normal(jax.random.key(3), (16, vector.size))
    steps = jnp.concatenate([width * directions, -width * directions])
    above, below = jnp.split(jax.jit(jax.vmap(loss))(vector + steps), 2)
    # Slopes along random directions spread by the gradient's length.
    slopes, scale = (above - below) / (2 * width), float(jnp.linalg.norm(gradient))
    np.testing.assert_allclose(slopes, directions @ gradient, rtol=0, atol=0.03 * scale)


def test_the_estimate_of_evolution_converges_to_the_gradient(place):
    (loss, vector, gradient), pairs = place, 4096
    gradient, D = np.asarray(gradient, np.float64), vector.size
    algorithm, params, *_ = open_es(vector, 2 * pairs, 1e-3, optax.constant_schedule(1.0))
    algorithm.fitness_shaping_fn = lambda population, fitness, state, params: fitness
    algorithm.optimizer = optax.sgd(1.0)  # the step is the estimate
    state = algorithm.init(jax.random.key(0), vector, params)
    population, state = algorithm.ask(jax.random.key(4), state, params)
    fitness = jax.jit(lambda members: jax.lax.map(loss, members))(population)
    state, _ = algorithm.tell(jax.random.key(5), population, fitness, state, params)
    estimate = np.asarray(vector - algorithm.get_mean(state), np.float64)
    # On a slope the estimate is the mean of (g . e) e over n directions e. Its error across g has
    # the squared length |g|^2 / n * chi2(D - 1) * chi2(n) / n, and along g another 2 |g|^2 / n:
    # (D + 1) / n on the average, relative to |g|^2, and a share sqrt(2 / D + 2 / n) of that as
    # standard deviation. Five of them, and 3% for what is not a slope:
    error = np.square(estimate - gradient).sum() / np.square(gradient).sum()
    assert abs(error * pairs / (D + 1) - 1) < 5 * np.sqrt(2 / D + 2 / pairs) + 0.03


def test_memory_estimate_covers_what_the_compiler_asks_for(monkeypatch):
    task = make_task(dataclasses.replace(CONFIG, num_steps=20))

    def mean_loss(params, starts, fires):
        judged = jax.lax.map(lambda luck: task.judge(params, *luck, 0)[0], (starts, fires))
        return judged.mean()

    share = BATCH // jax.device_count()
    starts = jnp.stack([task.start] * share)
    fires = jnp.stack([task.fires(jax.random.key(0))] * share)
    compiled = jax.jit(jax.grad(mean_loss)).lower(task.params, starts, fires).compile()
    asked = compiled.memory_analysis().temp_size_in_bytes
    monkeypatch.setattr(task_module, "free_memory", lambda: asked)
    with pytest.raises(ValueError, match="num_steps 20 of a population of 4 need about .* free"):
        make_trainer(task)
    monkeypatch.setattr(task_module, "free_memory", lambda: 10 * asked)
    make_trainer(task)
