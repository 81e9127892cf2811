"""The gradient baseline: the same rule, start, loss and target, by backpropagation (chapter 8).

It takes the place of a strategy and of `nca_lib.evolution.make_evolve`, so that everything else,
from the schedule to the history, is shared with evolution. What is its own is what people have
found to work for growing patterns (Mordvintsev et al. 2020): gradients scaled to unit length, and
for patterns that last a pool of grown states.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nca_lib.evolution import AXIS, compile_loop, population_mesh, summarise
from nca_lib.pool import draw_starts


class State(NamedTuple):
    """Everything that changes while a rule is trained by gradients."""

    params: Any  #: weights, a pytree
    opt_state: optax.OptState  #: of the optimizer
    pool: jax.Array  #: (pool, H, W, C) float32; (0, H, W, C) where every start is the seed


class Descent(NamedTuple):
    """Gradient descent with Adam, in the place of `nca_lib.evolution.Strategy`.

    Explained in chapter 8, "The same task, twice".
    """

    optimizer: optax.GradientTransformation  #: what turns gradients into steps
    start: jax.Array  #: (H, W, C) float32, the seed
    pool: int  #: number of states in the pool; 0 for none

    def init(self, key: jax.Array, params: Any) -> State:
        """Make the state that training starts from, its pool full of seeds; `key` is not used."""
        pool = jnp.broadcast_to(self.start, (self.pool, *self.start.shape))
        return State(params, self.optimizer.init(params), pool)

    def mean(self, state: State) -> Any:
        """Return the weights."""
        return state.params

    def std(self, state: State) -> None:
        """Return nothing: there is no noise."""


def adam_of_directions(learning_rate: Callable[[int], float]) -> optax.GradientTransformation:
    """Adam on gradients of which each array is scaled to unit length.

    The gradient through many steps now and then is a thousand times as long as usual; its direction
    is still of use. An array whose gradient is not finite counts as zero, and momentum goes on.

    `learning_rate` is an optax schedule of Adam's step. Explained in chapter 8, "The same task,
    twice".
    """
    unit = optax.stateless_with_tree_map(lambda g, _: g / (jnp.linalg.norm(g) + 1e-8))
    return optax.chain(unit, optax.zero_nans(), optax.adam(learning_rate))


def make_descend(descent: Descent, task: Any) -> Callable:
    """Compile a run of gradient steps: (state, key, start, count) -> (state, metrics).

    The rollouts of a batch are spread over all devices. In the configuration `population` is the
    size of the batch, and `generations` counts steps. It stands in for
    `nca_lib.evolution.make_evolve`. Explained in chapter 8, "The same task, twice".
    """
    config, target = task.config, jnp.asarray(task.target)
    batch, mesh = config.population, population_mesh(config.population)
    size, reach = batch // mesh.size, None if descent.pool else 0

    def mean_loss(params, starts, fires):
        losses, ends = jax.lax.map(
            lambda luck: task.judge(params, *luck, reach, config.overflow), (starts, fires)
        )
        return losses.mean(), (losses, ends)

    def step(state, key, *_):  # settings are of evolution
        key_pick, key_fires = jax.random.split(key)
        starts = jnp.broadcast_to(task.start, (batch, *task.start.shape))
        if descent.pool:
            places, starts = draw_starts(
                key_pick, state.pool, batch, task.start, target, config.damage
            )
        fires = jax.vmap(task.fires)(jax.random.split(key_fires, batch))
        first = jax.lax.axis_index(AXIS) * size
        share = [jax.lax.dynamic_slice_in_dim(x, first, size) for x in (starts, fires)]
        gradient, grown = jax.grad(mean_loss, has_aux=True)(state.params, *share)
        gradient = jax.lax.pmean(gradient, AXIS)
        losses, ends = jax.lax.all_gather(grown, AXIS, tiled=True)
        updates, opt_state = descent.optimizer.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        pool = state.pool.at[places].set(ends) if descent.pool else state.pool
        return State(params, opt_state, pool), summarise(None, None, losses, None, None)

    return compile_loop(step, mesh)
