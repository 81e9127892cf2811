"""One generation of an evolution strategy: ask, evaluate, tell (chapter 4).

The strategies are OpenAI-ES (Salimans et al. 2017) and PGPE (Sehnke et al. 2010), from evosax, and
PGPE with noise that is whitened by what the cells see. A population is spread over all devices;
each evaluates its share, and only the fitness, one number a member, crosses between them.
Everything else is computed on every device alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float

from nca_lib.model import NCA, Array, State, check, check_int, living_mask, perceive
from nca_lib.rollout import Fires

AXIS = "population"  # name of the mesh axis that members are spread over


class Strategy(NamedTuple):
    """An evosax strategy with its parameters, which always travel together.

    Explained in chapter 4, "Ask, evaluate, tell".
    """

    algorithm: Any  #: of evosax, with `ask` and `tell`
    params: Any  #: its settings, a pytree
    whitens: bool = False  #: whether the optimizer's state begins with a `Whitening`
    pools: bool = False  #: whether it ends with a pool of grown states, see `nca_lib.pool`

    def init(self, key: jax.Array, mean: Any) -> Any:
        """Make the state: what changes from generation to generation, around this mean."""
        return narrow(self.algorithm.init(key, mean, self.params))

    def mean(self, state: Any) -> Any:
        """Return the centre of the search distribution, a pytree like the one given to `init`."""
        return self.algorithm.get_mean(state)

    def look(self, state: Any, moments: Callable[[Any], dict]) -> Any:
        """In every 50th generation, fit the noise anew to what the cells of the mean see.

        `moments` maps weights to `second_moments`. Where nothing is to be seen the noise stays.
        """
        if not self.whitens:
            return state

        def renew(inputs):
            seen = moments(self.mean(state))
            return {name: whitener(seen[name], old) for name, old in inputs.items()}

        whitening, *rest = state.opt_state
        now = state.generation_counter % LOOK == 0
        inputs = jax.lax.cond(now, renew, lambda inputs: inputs, whitening.inputs)
        return state.replace(opt_state=(whitening._replace(inputs=inputs), *rest))

    def ask(self, state: Any, key: jax.Array, prepare: Callable, look: Callable | None) -> tuple:
        """Draw a generation: (population as asked, what its members share, state).

        For the arguments see `make_evolve`.
        """
        key_ask, key_evaluate, _ = jax.random.split(key, 3)
        *rest, pool = state.opt_state if self.pools else (None,)
        shared, pool = prepare(self.mean(state), key_evaluate, pool)
        state = state.replace(opt_state=(*rest, pool)) if self.pools else state
        state = self.look(state, lambda mean: look(mean, shared))
        population, state = narrow(self.algorithm.ask(key_ask, state, self.params))
        return population, shared, state

    def members(self, state: Any) -> Callable[[Any], Any]:
        """Return the function that turns what the algorithm asks for into weights.

        They are the same, unless the noise is drawn in whitened coordinates.
        """
        if not self.whitens:
            return lambda asked: asked
        mean, whitening = self.mean(state), state.opt_state[0]

        def weights(asked):
            noise = whiten(whitening, jax.tree.map(jnp.subtract, asked, mean))
            return jax.tree.map(jnp.add, mean, noise)

        return weights

    def tell(self, key: jax.Array, asked: Any, fitness: jax.Array, state: Any) -> tuple[Any, dict]:
        """Learn from what was asked and its fitness (N,): the next state, and some metrics.

        Lower is better; infinity stands for what is not finite.
        """
        told, metrics = narrow(self.algorithm.tell(key, asked, fitness, state, self.params))
        if not self.whitens:
            return told, metrics
        ranks = narrow(self.algorithm.fitness_shaping_fn(asked, fitness, state, self.params))
        plus, minus = jnp.split(ranks, 2)
        worth = (2 * ranks.mean() - plus - minus) / len(ranks)  # of each pair
        normal = jax.tree.map(  # the noise of the pairs, before sigma
            lambda asked, mean, std: (asked[: len(worth)] - mean) / std,
            *(asked, self.mean(state), self._coordinate_std(state)),
        )
        whitening, *rest = told.opt_state
        outputs = {
            name: mix(whitening.outputs[name], _rows(layer), worth)
            for name, layer in normal.items()
        }
        return told.replace(opt_state=(whitening._replace(outputs=outputs), *rest)), metrics

    def std(self, state: Any) -> Any:
        """Return the noise scale of every weight, a pytree like the mean."""
        std = self._coordinate_std(state)
        if not self.whitens:
            return std
        squares = jax.tree.map(jnp.square, (state.opt_state[0], std))
        return jax.tree.map(jnp.sqrt, whiten(*squares))  # variances add up

    def _coordinate_std(self, state: Any) -> Any:
        """The sigma of every coordinate that the algorithm draws noise for, like the mean."""
        everywhere = jnp.broadcast_to(state.std, state.mean.shape)
        return self.algorithm.get_mean(state.replace(mean=everywhere))


def narrow(tree: Any) -> Any:
    """Make 32 bits of 64: evosax leaves it to JAX's default how wide its arrays are."""
    dtypes = {"float64": jnp.float32, "int64": jnp.int32}
    return jax.tree.map(lambda leaf: leaf.astype(dtypes.get(leaf.dtype.name, leaf.dtype)), tree)


def summarise(key, population, fitness, state, params) -> dict[str, jax.Array]:
    """Reduce a generation to a few numbers; evosax's own metrics hold whole weight vectors.

    Mean, best, standard deviation and median of the fitness (N,) leave out what is not finite,
    `nonfinite` counts it, and `tied` counts members at the median.
    """
    finite = jnp.isfinite(fitness)
    median = jnp.median(jnp.where(finite, fitness, jnp.inf))
    return {
        "fitness_mean": jnp.mean(fitness, where=finite),
        "fitness_best": jnp.min(fitness, where=finite, initial=jnp.inf),
        "fitness_std": jnp.std(fitness, where=finite),
        "fitness_median": median,
        # Equal but for rounding.
        "tied": jnp.sum(jnp.isclose(fitness, median, rtol=1e-5, atol=0.0)),
        "nonfinite": jnp.sum(~finite),
    }


def open_es(
    params: Any,
    population: int,
    std: float,
    learning_rate: Callable[[int], float],
    pool: Any = None,
) -> Strategy:
    """Set up OpenAI-ES with antithetic pairs, centered ranks and Adam.

    Explained in chapter 4, "Ask, evaluate, tell".

    Args:
        params: pytree of float32 arrays, the shape of one member.
        population: N, even: members i and i + N / 2 are mirror images.
        std: noise scale sigma.
        learning_rate: optax schedule of Adam's step, over generations.
        pool: (pool, H, W, C) float32, grown states that the state carries along.

    Returns:
        The strategy. It minimises.
    """
    # Importing evosax.algorithms makes arrays, which starts JAX: too late for `use_cores` after it.
    from evosax.algorithms import Open_ES

    algorithm = Open_ES(
        population_size=population,
        solution=params,
        optimizer=optax.chain(optax.adam(learning_rate), _carry(pool)),
        std_schedule=optax.constant_schedule(std),
        metrics_fn=summarise,
    )
    return Strategy(algorithm, algorithm.default_params, False, pool is not None)


def _carry(pool: Any) -> optax.GradientTransformation:
    """Keep a pool, if there is one, in the optimizer's state; the steps stay as they are."""
    return optax.GradientTransformation(lambda _: pool, lambda steps, pool, _=None: (steps, pool))


def pgpe(
    params: Any,
    population: int,
    std: float,
    learning_rate: Callable[[int], float],
    std_rate: float = 0.1,
    whitens: bool = False,
    pool: Any = None,
) -> Strategy:
    """Set up PGPE: OpenAI-ES in which every weight has, and learns, a sigma of its own.

    Where the better members are those that strayed far along a weight, its sigma grows; where they
    are those that stayed close, it shrinks. Each weight's step is in proportion to its sigma, so
    that sigma is the unit of everything. Gradient descent with momentum 0.9 replaces Adam, which
    would make the steps of all weights alike again.

    Explained in chapter 5, "A σ for every weight".

    Args:
        params: pytree of float32 arrays, the shape of one member.
        population: N, even: members i and i + N / 2 are mirror images.
        std: noise scale sigma that all weights start with.
        learning_rate: optax schedule of the mean's steps, over generations. They are
            learning_rate * sigma * (sum of rank * noise) / N, about 0.04 * learning_rate * sigma
            for N = 64 before momentum.
        std_rate: how fast the sigmas are learned.
        whitens: whether noise is drawn in coordinates in which it is white in what the layers
            compute, see `Whitening`. The params are then those of an `NCA`, sigma is at the start
            on average that of the weights, and `make_evolve` wants a look.
        pool: see `open_es`.

    Returns:
        The strategy. It minimises.
    """
    from evosax.algorithms import PGPE

    first = [to_weights(params)] if whitens else []
    descent = optax.chain(*first, optax.sgd(learning_rate, momentum=0.9), _carry(pool))
    algorithm = PGPE(population, params, optimizer=descent, metrics_fn=summarise)
    settings = algorithm.default_params.replace(std_init=std, std_lr=std_rate)
    return Strategy(algorithm, settings, whitens, pool is not None)


LOOK = 50  # generations between two looks at what the cells see
DAMPING = 0.03  # of second moments, in units of their mean
MIX_RATE = 0.3  # of what is learned about the outputs


class Whitening(NamedTuple):
    """What shapes the noise of each layer, by its name: inputs @ Z @ outputs.

    Z has a row for each input of the layer, the bias last, and a column for each output. Much of
    what a cell sees is alike. Equal noise on all weights is then most unequal noise on what a layer
    computes, and the search crawls where there is little. So a layer's noise passes through the
    inverse root of the second moment of its inputs, and through a mixing of its outputs that is
    learned. What PGPE calls weights, and learns sigmas of, are the coordinates before that.
    Explained in chapter 5, "Noise that the cells shape".
    """

    inputs: dict[str, jax.Array]  #: from `whitener`
    outputs: dict[str, jax.Array]  #: from `mix`


def to_weights(params: Any) -> optax.GradientTransformation:
    """Take steps in whitened coordinates to steps of the weights; the state is the `Whitening`.

    It stands first in the optimizer of a `pgpe` that whitens. At first nothing is whitened.
    """
    unravel = ravel_pytree(params)[1]

    def init(flat):
        shapes = {name: _rows(layer).shape for name, layer in params.items()}
        return Whitening(*({name: jnp.eye(n[i]) for name, n in shapes.items()} for i in (0, 1)))

    def update(gradient, whitening, _=None):
        return ravel_pytree(whiten(whitening, unravel(gradient)))[0], whitening

    return optax.GradientTransformation(init, update)


def _rows(layer: Any) -> jax.Array:
    """A layer's kernel with its bias as the last row: (..., inputs + 1, outputs)."""
    kernel, bias = layer["kernel"][...], layer["bias"][...]
    return jnp.concatenate([kernel, bias[..., None, :]], axis=-2)


def whiten(whitening: Whitening, noise: Any) -> Any:
    """Turn noise in whitened coordinates into noise on the weights of an `NCA`, layer by layer."""
    shaped = {}
    for name, inputs in whitening.inputs.items():
        rows = inputs @ _rows(noise[name]) @ whitening.outputs[name]
        shaped[name] = {"kernel": rows[:-1], "bias": rows[-1]}
    return jax.tree.unflatten(jax.tree.structure(noise), jax.tree.leaves(shaped))


def whitener(moment: Float[Array, "K K"], otherwise: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """Invert the root of a second moment, damped where there is next to nothing.

    The root is symmetric. On average it keeps the scale, by a mean squared eigenvalue of 1. Where
    the moment is not finite, it is `otherwise`.
    """
    seen = jnp.isfinite(moment).all()
    values, vectors = jnp.linalg.eigh(jnp.where(seen, moment, 0.0))
    gain = (jnp.maximum(values, 0) / values.mean() + DAMPING) ** -0.5
    gain /= jnp.sqrt(jnp.mean(gain**2))
    return jnp.where(seen, (vectors * gain) @ vectors.T, otherwise)


def mix(
    outputs: Float[Array, "K K"], noise: Float[Array, "n rows K"], worth: Float[Array, " n"]
) -> Float[Array, "K K"]:
    """Learn which outputs of a layer should be shaken together, and how much.

    A step in the manner of natural evolution strategies (Wierstra et al. 2014), averaged over the
    layer's inputs; the size of the noise stays. `noise` is that of each pair, standard normal, and
    `worth` how much better than the others a pair did.
    """
    change = jnp.einsum("i,iaj,iak->jk", worth, noise, noise) / noise.shape[1]
    change -= jnp.trace(change) / len(change) * jnp.eye(len(change), dtype=change.dtype)
    return outputs + MIX_RATE / 2 * outputs @ change


def second_moments(model: NCA, start: State, fires: Fires) -> dict[str, Float[Array, "_ _"]]:
    """Average x x^T of what enters each layer, over the living cells of all steps of a life.

    For each layer by name (inputs + 1, inputs + 1), the constant 1 of the bias last; NaN if there
    was nothing to see: all died, or the start stayed as it was. No state is kept. Explained in
    chapter 5, "Noise that the cells shape".
    """

    def step(carry, fire):
        state, sums, count = carry
        alive = living_mask(state, model.alive_threshold).reshape(-1, 1).astype(jnp.float32)
        seen = perceive(state).reshape(len(alive), -1)
        inputs = {"hidden": seen, "output": model.activation(model.hidden(seen))}
        ones = {name: jnp.concatenate([x, alive], 1) * alive for name, x in inputs.items()}
        sums = {name: sums[name] + x.T @ x for name, x in ones.items()}
        return (model(state, fire), sums, count + alive.sum()), None

    layers = {"hidden": model.hidden, "output": model.output}
    sums = {k: jnp.zeros((layer.in_features + 1,) * 2, jnp.float32) for k, layer in layers.items()}
    (end, sums, count), _ = jax.lax.scan(step, (start, sums, jnp.float32(0.0)), fires)
    grew = (end != start).any() & living_mask(end, model.alive_threshold).any()
    return {name: jnp.where(grew, total / count, jnp.nan) for name, total in sums.items()}


def population_mesh(population: int) -> Mesh:
    """Lay the devices in a row that will share a population of N members in equal parts.

    These are the most devices that divide N, all of them for a power of two on 2, 4, 8, ...
    devices, but 4 of 6 cores for N = 64. Across several processes they are all devices of all, and
    a ValueError says if these cannot share N equally. Explained in chapter 10, "What crosses
    between devices".
    """
    devices = jax.devices()
    shared = jax.process_count() == 1 or population % len(devices) == 0
    wanted = f"a multiple of {len(devices)}, the devices of all processes"
    check(shared, "population", population, wanted)
    count = max(n for n in range(1, len(devices) + 1) if population % n == 0)
    return Mesh(np.array(devices[:count]), (AXIS,))


def evaluate_share(
    fitness_fn: Callable, population: Any, shared: Any, size: int, chunk: int
) -> jax.Array:
    """Evaluate this device's share of a population and gather the fitness of all.

    Runs inside `shard_map`. All members are given the same, such as the same fire masks (common
    random numbers): they then differ by their weights alone.

    Explained in chapter 10, "What crosses between devices".

    Args:
        fitness_fn: (params, shared) -> float32 scalar, lower is better.
        population: pytree with a leading axis N, the whole population.
        shared: what the members of this generation share, a key or what was drawn from one.
        size: members per device.
        chunk: members computed side by side; 1 is fastest on a CPU, many on a GPU.

    Returns:
        (N,) float32 on every device.
    """
    first = jax.lax.axis_index(AXIS) * size
    share = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), population)
    batch = None if chunk == 1 else chunk
    fitness = jax.lax.map(lambda params: fitness_fn(params, shared), share, batch_size=batch)
    return jax.lax.all_gather(fitness, AXIS, tiled=True)


def make_evolve(
    strategy: Strategy,
    fitness_fn: Callable,
    chunk: int | None = None,
    prepare: Callable[..., tuple] = lambda mean, key, pool: (key, pool),
    look: Callable[[Any, Any], dict] | None = None,
    tune: Callable[[Any], Strategy] | None = None,
) -> Callable:
    """Compile a run of generations.

    Python is left out of the loop between two log points: however many generations are asked
    for, they are one call, and one compilation serves all counts.

    Explained in chapter 4, "Many generations in one call".

    Args:
        strategy: from `open_es` or `pgpe`.
        fitness_fn: (params, shared) -> float32 scalar, lower is better.
        chunk: see `evaluate_share`; default 1 on a CPU, the whole share elsewhere. It changes
            speed and memory, and results by rounding only.
        prepare: (mean, key, pool) -> (shared, pool), done once a generation on every device alike:
            what all its members share, such as a start, and the pool as it is afterwards, None for
            a strategy without one. Default: the key is shared.
        look: (mean, shared) -> see `second_moments`; for a strategy that whitens, which needs it.
        tune: settings, a pytree of numbers that may differ from call to call -> the strategy with
            them. Nothing is compiled anew for other numbers.

    Returns:
        `evolve(state, key, start, count) -> (state, metrics)`, and with `tune` settings as a fifth
        argument, if any. It runs generations start to start + count - 1 (of none it only compiles)
        and returns the strategy's state and the metrics of the last generation, both as NumPy
        arrays. Each generation's randomness depends on `key` and its number alone, so a run cut in
        two equals the run in one piece.

    Raises:
        ValueError: chunk under 1, or a strategy that whitens and nothing to look at.
    """
    check(look or not strategy.whitens, "look", look, "given, as task.look, for whitened noise")
    count = strategy.algorithm.population_size
    mesh = population_mesh(count)
    size = count // mesh.size
    if chunk is None:
        chunk = 1 if mesh.devices.flat[0].platform == "cpu" else size
    check_int("chunk", chunk, 1)

    def generation(state, key, *settings):
        tuned = tune(*settings) if settings else strategy
        population, shared, state = tuned.ask(state, key, prepare, look)
        weights = tuned.members(state)

        def score(asked, shared):
            return fitness_fn(weights(asked), shared)

        fitness = evaluate_share(score, population, shared, size, chunk)
        fitness = jnp.where(jnp.isfinite(fitness), fitness, jnp.inf)  # -inf would be the best
        return tuned.tell(jax.random.split(key, 3)[2], population, fitness, state)

    return compile_loop(generation, mesh)


def compile_loop(step: Callable, mesh: Mesh) -> Callable:
    """Compile `(state, key, *settings) -> (state, metrics)`, repeated on every device alike.

    Explained in chapter 10, "What crosses between devices".

    Args:
        step: one generation; may use collectives over `AXIS`.
        mesh: from `population_mesh`.

    Returns:
        `run(state, key, start, count, *settings) -> (state, metrics)`, see `make_evolve`.
    """

    def loop(state, key_data, start, count, settings):
        key = jax.random.wrap_key_data(key_data)

        def body(number, carry):
            return step(carry[0], jax.random.fold_in(key, number), *settings)

        shapes = jax.eval_shape(step, state, key, *settings)[1]
        metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.fori_loop(start, start + count, body, (state, metrics))

    everywhere = PartitionSpec()
    compiled = jax.jit(
        jax.shard_map(loop, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    )

    def run(state, key, start, count, *settings):
        # Plain NumPy in and out: a few kilobytes that every process holds alike.
        state, key_data = jax.device_get((state, jax.random.key_data(key)))
        return jax.device_get(compiled(state, key_data, start, count, settings))

    return run
