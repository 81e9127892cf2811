"""The cell rule against CAX, NumPy and hand calculation."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nca_lib.model
from nca_lib.model import KERNELS, NCA, living_mask, perceive, seed_state
from nca_lib.rollout import fire_schedule

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def random_model(seed=0, channels=16, hidden=128, **options):
    """A model with all weights random, the zero-initialised last layer included."""
    model = NCA(channels, hidden, rngs=nnx.Rngs(seed), **options)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    keys = iter(jax.random.split(jax.random.key(seed), 4))
    params = jax.tree.map(lambda x: 0.2 * jax.random.normal(next(keys), x.shape), params)
    return nnx.merge(graph, params, rest)


def random_state(seed, height=10, width=12, channels=16):
    """A state with living and dead regions."""
    state = jax.random.normal(jax.random.key(seed), (height, width, channels))
    return state.at[: height // 2, : width // 2, -1].set(0.0)


def test_perception_equals_numpy_convolution():
    state = np.asarray(random_state(0, 7, 9, 5))
    padded = np.pad(state, ((1, 1), (1, 1), (0, 0)))
    expected = np.zeros((7, 9, 3, 5))
    for y in range(7):
        for x in range(9):
            patch = padded[y : y + 3, x : x + 3]
            expected[y, x] = np.einsum("ijk,ijc->kc", KERNELS, patch)
    np.testing.assert_allclose(perceive(state), expected.reshape(7, 9, 15), atol=1e-6)


@pytest.mark.parametrize("step_size", [1.0, 2.0])
def test_step_equals_cax(step_size):
    cax_perceive = pytest.importorskip("cax.core.perceive", reason="cax needs newer jax and flax")
    from cax.core.update import NCAUpdate

    rngs = nnx.Rngs(0)
    with jax.numpy_dtype_promotion("standard"):
        sizes = {"channel_size": 16, "perception_size": 48}
        see = cax_perceive.ConvPerceive(**sizes, feature_group_count=16, rngs=rngs)
        # "ndim" in CAX 0.3, "num_dims" from 0.4
        dims = {next(iter(inspect.signature(cax_perceive.grad_kernel).parameters)): 2}
        kernels = [cax_perceive.identity_kernel(**dims), cax_perceive.grad_kernel(**dims)]
    kernel = jnp.concatenate(kernels, axis=-1)  # (3, 3, 3)
    see.conv.kernel[...] = jnp.tile(kernel, (1, 1, 16))[:, :, None, :]
    options = {"step_size": step_size, "cell_dropout_rate": 0.0}
    think = NCAUpdate(**sizes, hidden_layer_sizes=(128,), **options, rngs=rngs)
    hidden, output = think.layers
    ours = random_model(channels=16, hidden=128, step_size=step_size)
    # CAX interleaves the kernels (channel by channel); ours come one whole kernel after another.
    weights = ours.hidden.kernel[...].reshape(3, 16, 128).swapaxes(0, 1).reshape(1, 1, 48, 128)
    hidden.kernel[...] = weights
    hidden.bias[...] = ours.hidden.bias[...]
    output.kernel[...] = ours.output.kernel[...][None, None]
    output.bias[...] = ours.output.bias[...]
    for seed in range(2):
        state = random_state(seed)
        with jax.numpy_dtype_promotion("standard"):
            expected = think(state, see(state), None)
        everywhere = jnp.ones(state.shape[:2], bool)
        assert float(jnp.abs(expected).max()) > 0.1  # not a dead grid on both sides
        np.testing.assert_allclose(ours(state, everywhere), expected, atol=1e-5)


def test_reduced_precision_rounds_the_update_and_nothing_else():
    state = random_state(0)
    fire = jnp.ones(state.shape[:2], bool)
    exact = random_model()(state, fire)
    rounded = random_model(precision="bfloat16")(state, fire)
    assert rounded.dtype == jnp.float32
    error = float(jnp.abs(rounded - exact).max() / jnp.abs(exact).max())
    assert 1e-4 < error < 5e-2  # 7 bits of mantissa


@pytest.mark.parametrize("block", [1, 20, 2**16])
def test_cells_may_be_computed_in_blocks(block, monkeypatch):
    model, state, fire = random_model(channels=4, hidden=8), random_state(0, 4, 6, 4), jnp.arange(6)
    whole = model(state, fire)
    monkeypatch.setattr(nca_lib.model, "BLOCK", block)
    np.testing.assert_allclose(model(state, fire), whole, rtol=1e-5, atol=1e-6)
    assert jnp.array_equal(model(state, fire[:0]), model(state, jnp.zeros((4, 6), bool)))


def test_indices_and_mask_give_the_same_step():
    model, state = random_model(), random_state(1)
    fires = fire_schedule(jax.random.key(0), 1, 10, 12)[0]
    mask = jnp.zeros(120, bool).at[fires].set(True).reshape(10, 12)
    np.testing.assert_allclose(model(state, fires), model(state, mask), atol=1e-5)


def test_nothing_changes_where_no_cell_fires_or_the_rule_is_untrained():
    state, everywhere = jnp.ones((6, 6, 16)), jnp.ones((6, 6), bool)
    assert jnp.array_equal(random_model()(state, ~everywhere), state)
    seed, untrained = seed_state(6, 6, 16), NCA(16, 32, rngs=nnx.Rngs(3))
    assert jnp.array_equal(untrained(seed, everywhere), seed)


def test_living_mask_is_the_neighbourhood_of_mature_cells():
    state = jnp.zeros((6, 7, 4)).at[0, 0, -1].set(0.2).at[3, 4, -1].set(0.05)
    expected = np.zeros((6, 7, 1), bool)
    expected[:2, :2] = True
    assert np.array_equal(living_mask(state), expected)
    assert not living_mask(state.at[..., -1].add(-1.0)).any()


def test_life_needs_a_mature_neighbour_before_and_after():
    def bias_only(change):
        model = NCA(4, 1, rngs=nnx.Rngs(0))
        model.output.bias[...] = jnp.array([0.0, 0.0, 0.0, change])
        return model

    everywhere = jnp.ones((5, 5), bool)
    grown = bias_only(1.0)(seed_state(5, 5, 4), everywhere)
    assert np.array_equal(grown[..., -1] > 0, np.pad(np.ones((3, 3), bool), 1))
    assert not bias_only(-1.0)(seed_state(5, 5, 4), everywhere).any()


def test_seed_is_one_cell_at_the_centre():
    state = seed_state(6, 9, 5)
    assert state.shape == (6, 9, 5)
    assert float(state.sum()) == 1.0 == float(state[3, 4, -1])
