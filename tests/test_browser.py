"""The cell rule in JavaScript against the one in JAX, and the weight files between them."""

import base64
import dataclasses
import gzip
import json
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from flax import nnx
from py_mini_racer import JSEvalException, MiniRacer

from nca_lib import load_run
from nca_lib.lab.record import DTYPES
from nca_lib.lab.task import make_task
from nca_lib.model import living_mask, perceive, seed_state
from nca_lib.rollout import disc, fire_schedule, record
from nca_lib.show import page as demo
from nca_lib.train import PRESETS

DEMO_EXTENSION = load_script("book/_ext/demo.py")
NCA_JS = (demo.DEMO / "nca.js").read_text(encoding="utf-8")
# The one function that nca.js takes from browsers and a bare engine lacks.
ATOB = (
    "var atob = (t) => [...Uint8Array.fromBase64(t)].map((x) => String.fromCharCode(x)).join('');"
)
POCKET = PRESETS["pocket"]
STEPS = 50
RECORDS = {record["name"]: record for record in DEMO_EXTENSION.shipped_records()}
SIZES = (32, 24 * 32, 8, 32 * 8)  # of the pocket's weights, in the order of their names


class Engine:
    """V8 with nca.js, one model, and one grid whose memory both languages see."""

    def __init__(self):
        self.v8 = MiniRacer()
        self.v8.eval(ATOB)
        self.v8.eval(NCA_JS)

    def load(self, description: dict, height: int, width: int) -> None:
        """Decode a record and lay out a grid for it."""
        self.shape = (height, width, description["channels"])
        self.v8.eval(f"var model = NCA.decode({json.dumps(description)});")
        self.v8.eval(f"var state = NCA.seedState{self.shape};")
        self.given = self._share("given", "Float32Array", math.prod(self.shape))
        self.found = self._share("found", "Float32Array", math.prod(self.shape))
        self.fire = self._share("fire", "Uint8Array", height * width)

    def _share(self, name: str, kind: str, size: int) -> np.ndarray:
        memory = self.v8.eval(f"var {name} = new {kind}({size}); {name}.buffer")
        return np.frombuffer(memory, kind.removesuffix("Array").lower())

    def step(self, state, fire, angle: float = 0.0) -> np.ndarray:
        """One step from a state (H, W, C) with a fire mask (H, W)."""
        self.given[:], self.fire[:] = np.ravel(state), np.ravel(fire)
        self.v8.eval(
            f"state.cells = given; NCA.step(model, state, fire, NCA.makeKernels({angle}));"
            "found.set(state.cells);"
        )
        return self.found.reshape(self.shape).copy()

    def numbers(self, expression: str) -> np.ndarray:
        """The value of an expression that is an array of numbers."""
        return np.array(json.loads(self.v8.eval(f"JSON.stringify(Array.from({expression}))")))


@pytest.fixture(scope="module")
def engine():
    engine = Engine()
    yield engine
    engine.v8.close()


def as_masks(fires, height, width):
    """A fire schedule of either form as (T, H, W) bool."""
    if fires.dtype == bool:
        return np.asarray(fires)
    masks = np.zeros((len(fires), height * width), bool)
    np.put_along_axis(masks, np.asarray(fires), True, axis=1)
    return masks.reshape(-1, height, width)


def undecided(model, state, fire):
    """Cells that rounding may let live or die: a neighbour's alpha is at the threshold, (H, W)."""
    grown = state + jnp.where(fire[..., None], model.update(perceive(state)), 0.0)
    close = jnp.abs(grown[..., -1:] - model.alive_threshold) < 2e-6
    close &= fire[..., None]  # who does not fire keeps its alpha to the last bit
    return living_mask(close.astype(jnp.float32))[..., 0]


def assert_parity(engine, model, start, fires):
    """Each JavaScript step from JAX's state agrees with JAX's next state."""
    masks, (rule, weights) = as_masks(fires, *start.shape[:2]), nnx.split(model)

    @jax.jit  # of weights: one program for all runs of a kind
    def life(weights, start, masks):
        model = nnx.merge(rule, weights)
        states = record(model, start, masks)
        return states, jax.lax.map(lambda x: undecided(model, *x), (states[:-1], masks))

    states, unsure = map(np.asarray, life(weights, start, masks))
    assert unsure.mean() <= 1e-3
    for before, after, mask, open_here in zip(states, states[1:], masks, unsure, strict=False):
        found = engine.step(before, mask)
        wrong = ~(np.abs(found - after) <= 1e-5 * np.maximum(1, np.abs(after)))
        assert not wrong[~open_here].any()
    return states


@pytest.mark.parametrize("name", RECORDS)
def test_javascript_agrees_with_jax_on_every_shipped_run(engine, name):
    run = load_run(name)
    height, width, _ = run.task.start.shape
    engine.load(demo.describe(run), height, width)
    fires = run.task.fires(jax.random.key(7), STEPS)
    states = assert_parity(engine, run.task.merge(run.params), run.task.start, fires)
    assert len(states) == STEPS + 1
    assert (states[-1, ..., -1] > 0.1).sum() > 50  # there was something to compare


@pytest.mark.parametrize("mask", ["paired", "bernoulli"])
def test_javascript_agrees_on_an_oblong_grid_up_to_its_borders(engine, mask):
    run = load_run("lizard")
    engine.load(demo.describe(run), 12, 18)  # too small: it grows into every border
    fires = fire_schedule(jax.random.key(3), STEPS, 12, 18, mask)
    states = assert_parity(engine, run.task.merge(run.params), seed_state(12, 18, 8), fires)
    assert (states[-1][[0, -1], :, -1] > 0.1).any() and (states[-1][:, [0, -1], -1] > 0.1).any()


def rule_of(arrays, **changes):
    """A run with weights from arrays in the order of the leaves' names."""
    config = dataclasses.replace(POCKET, **changes)
    task = make_task(config)
    leaves, structure = jax.tree.flatten(task.params)
    leaves = [
        jnp.asarray(a, jnp.float32).reshape(x.shape) for a, x in zip(arrays, leaves, strict=True)
    ]
    params = jax.tree.unflatten(structure, leaves)
    return load_run("lizard")._replace(config=config, task=task, params=params)


@pytest.mark.parametrize("seed", range(3))
def test_javascript_agrees_on_rules_never_seen(engine, seed):
    keys = jax.random.split(jax.random.key(seed), 5)
    arrays = [0.4 * jax.random.normal(k, (n,)) for k, n in zip(keys[:4], SIZES, strict=True)]
    run = rule_of(arrays, step_size=0.5, alive_threshold=0.25)
    engine.load(demo.describe(run), 16, 16)
    state = jax.random.normal(keys[4], (16, 16, 8))
    state = state.at[..., -1].set(0.3 * (state[..., -1] > 1.5))  # few are mature
    fires = fire_schedule(keys[4], 4, 16, 16, "bernoulli")
    assert_parity(engine, run.task.merge(run.params), state, fires)


def test_a_dead_cell_beside_the_living_decides_who_lives(engine):
    """Its own update is dropped, but the alpha it would have had keeps its neighbours alive."""
    hidden_kernel, hidden_bias = np.zeros((24, 32)), np.zeros(32)
    output_kernel, output_bias = np.zeros((32, 8)), np.zeros(8)
    hidden_kernel[7, 0] = 1  # sees its own alpha
    output_kernel[0, -1], output_bias[-1] = -2, 0.5  # alpha 1 falls to -0.5, alpha 0 rises to 0.5
    run = rule_of([hidden_bias, hidden_kernel, output_bias, output_kernel])
    engine.load(demo.describe(run), 9, 9)
    fire = np.zeros((1, 9, 9), bool)
    fire[0, 4, 4] = True  # the only mature cell, which so dies
    state = seed_state(9, 9, 8).at[3, 4, 0].set(1.0)
    states = assert_parity(engine, run.task.merge(run.params), state, jnp.asarray(fire))
    assert not states[-1].any()
    fire[0, 2, 4] = True  # two cells off: dead before, zero after, and mature in between
    states = assert_parity(engine, run.task.merge(run.params), state, jnp.asarray(fire))
    assert np.argwhere(states[-1]).tolist() == [[3, 4, 0]]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_perception_grows_a_turned_pattern(engine, turns):
    run = load_run("lizard")
    engine.load(demo.describe(run), 24, 24)
    state = np.zeros((24, 24, 8), np.float32)
    state[9:12, 10:14] = 1.0  # off centre, so that a turn is seen
    fires = np.asarray(fire_schedule(jax.random.key(1), 10, 24, 24, "bernoulli"))
    upright, turned = state, np.rot90(state, -turns)  # clockwise
    for fire in fires:
        upright = engine.step(upright, fire)
        turned = engine.step(turned, np.rot90(fire, -turns), turns * math.pi / 2)
    assert (upright[..., -1] > 0.1).any()
    np.testing.assert_allclose(turned, np.rot90(upright, -turns), atol=2e-4)
    assert np.abs(turned - upright).max() > 0.1


def test_seeds_erasure_and_channels_are_those_of_the_library(engine):
    engine.load(demo.describe("lizard"), 9, 14)

    def cells():
        return engine.numbers("state.cells").reshape(9, 14, 8)

    np.testing.assert_array_equal(cells(), seed_state(9, 14, 8))
    engine.v8.eval("state.cells = found.map((_, i) => i + 1);")
    state = cells()
    np.testing.assert_array_equal(engine.numbers("NCA.plane(state, 3)"), state[..., 3].ravel())
    engine.v8.eval("NCA.eraseDisc(state, 3.2, 6.5, 2.6);")
    expected = np.where(disc(9, 14, 3.2, 6.5, 2.6)[..., None], 0, state)
    np.testing.assert_array_equal(cells(), expected)
    engine.v8.eval("NCA.plantSeed(state, 0, 13);")
    expected[0, 13] = [0] * 7 + [1]
    np.testing.assert_array_equal(cells(), expected)
    several = engine.numbers("NCA.seedState(96, 96, 4, 4).cells").reshape(96, 96, 4)
    assert np.argwhere(several).tolist() == [[i, j, 3] for i in (24, 72) for j in (24, 72)]


def test_fire_masks_and_their_luck(engine):
    engine.v8.eval("var random = NCA.makeRandom(5);")
    paired = engine.numbers("NCA.fireMask(random, 40, 60)").reshape(-1, 2)
    assert (paired.sum(axis=1) == 1).all() and 0.45 < paired[:, 0].mean() < 0.55
    for rate in (0.0, 0.3, 1.0):
        fire = engine.numbers(f"NCA.fireMask(random, 40, 60, 'bernoulli', {rate})")
        assert abs(fire.mean() - rate) < 0.04 and set(fire) <= {0, 1}
    again = "NCA.fireMask(NCA.makeRandom(5), 40, 60)"
    np.testing.assert_array_equal(engine.numbers(again), paired.ravel())
    other = engine.numbers("NCA.fireMask(NCA.makeRandom(6), 40, 60)")
    assert not np.array_equal(other, paired.ravel())


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_survive_the_journey(engine, dtype):
    special = [0.0, -0.0, 2**-24, -(2**-24), 1e-5, 6.1e-5, 0.1, -1.5, 65504.0]
    values = np.random.default_rng(0).normal(size=sum(SIZES)).astype(np.float32)
    values[: len(special)] = special
    run = rule_of(np.split(values, np.cumsum(SIZES)[:-1]))
    engine.load(demo.describe(run, dtype=dtype), 8, 8)
    names = ("hiddenKernel", "hiddenBias", "outputKernel", "outputBias")
    found = np.concatenate([engine.numbers(f"model.{name}") for name in names])
    exact = demo.flatten(run.params)
    np.testing.assert_array_equal(found, exact.astype(dtype).astype(np.float64))
    assert np.array_equal(found, exact) == (dtype == "float32")


@pytest.mark.parametrize("name", RECORDS)
def test_files_are_small_and_always_the_same(engine, name):
    file = demo.script(RECORDS[name])
    assert file == demo.script(demo.describe(name, dtype=RECORDS[name]["dtype"]))
    assert len(gzip.compress(file.encode())) < 25_000 and file.isascii()
    engine.v8.eval(file)
    assert engine.v8.eval(f"NCA.decode(NCA.records.get('{name}')).name") == name


def test_a_run_is_called_as_its_folder_is():
    run = load_run("heart")
    assert demo.describe(run, title="My heart")["title"] == "My heart"
    assert demo.describe(run.folder) == demo.describe("heart")
    own = demo.describe(run._replace(folder=Path("Läuf_1")))
    assert (own["name"], own["title"]) == ("own", "Läuf 1")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"config": PRESETS["walk"]}, {}, "cells must be smooth.* got 'digital'"),
        ({"params": np.inf}, {}, "largest weight must be finite as float32"),
        ({"params": 1e6}, {"dtype": "float16"}, "largest weight must be finite as float16"),
    ],
)
def test_what_the_page_could_not_use_is_not_written(changes, options, message):
    """Values of other kinds are those of test_bad_input.py."""
    run = load_run("lizard")
    if (more := changes.get("params")) is not None:
        changes = {"params": jax.tree.map(lambda leaf: leaf + more, run.params)}
    with pytest.raises(ValueError, match=message):
        demo.describe(run._replace(**changes), **options)


def spoil(**changes):
    return lambda record: record | changes


def with_nan(record):
    data = np.frombuffer(base64.b64decode(record["weights"]), np.float32).copy()
    data[17] = np.nan
    weights = base64.b64encode(data.tobytes()).decode()
    return record | {"weights": weights, "crc32": zlib.crc32(data.tobytes())}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (spoil(format=3), "formats 1 and 2"),
        (spoil(border="wrap"), "rule"),
        (spoil(channel_order="red, green, blue, alpha, hidden"), "channels"),
        (spoil(channels=3), "channels .* from 4 to 64"),
        (spoil(hidden=32.5), "hidden"),
        (spoil(age="0"), "age .* from 0 to 1000000"),
        (spoil(step_size=0), "step size"),
        (spoil(alive_threshold=1), "threshold"),
        (spoil(mask="all"), "mask"),
        (spoil(dtype="float64"), "float32"),
        (spoil(emoji=None), "title"),
        (spoil(weights="<script>"), "base64"),
        (spoil(channels=16), "4256 bytes instead of 8384"),
        (spoil(crc32=0), "checksum"),
        (with_nan, "finite"),
    ],
)
def test_bad_or_foreign_weights_are_refused_in_words(engine, change, named):
    bad = json.dumps(change(demo.describe("lizard")))
    with pytest.raises(JSEvalException, match=f"These weights cannot be used: .*{named}"):
        engine.v8.eval(f"NCA.decode({bad})")


def test_the_catalogue_names_shipped_runs_only():
    choices = DEMO_EXTENSION.catalogue(DEMO_EXTENSION.shipped_records())
    names = [choice["runs"] for choice in choices]
    assert names[: len(RECORDS)] == [[name] for name in RECORDS]
    assert {name for runs in names for name in runs} == set(RECORDS)
