"""The cell rule in JavaScript against the one in JAX, and the weight files between them."""

import base64
import dataclasses
import gzip
import hashlib
import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from py_mini_racer import JSEvalException, MiniRacer

from nca_lib import browser, load_run
from nca_lib.checkpoint import weights_to_arrays
from nca_lib.model import living_mask, perceive, seed_state
from nca_lib.rollout import disc, fire_schedule, record
from nca_lib.train import PRESETS, make_task

NCA_JS = (browser.DEMO / "nca.js").read_text(encoding="utf-8")
# The one function that nca.js takes from browsers and a bare engine lacks.
ATOB = (
    "var atob = (t) => [...Uint8Array.fromBase64(t)].map((x) => String.fromCharCode(x)).join('');"
)
POCKET = PRESETS["pocket"]
STEPS = 50
RECORDS = {record["name"]: record for record in browser.shipped_records()}
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
    masks = as_masks(fires, *start.shape[:2])
    states = jax.jit(lambda start, masks: record(model, start, masks))(start, masks)
    open_cells = jax.jit(lambda a, b: jax.lax.map(lambda x: undecided(model, *x), (a, b)))
    unsure = np.asarray(open_cells(states[:-1], masks))
    assert unsure.mean() <= 1e-3
    states = np.asarray(states)
    for before, after, mask, open_here in zip(states, states[1:], masks, unsure, strict=False):
        found = engine.step(before, mask)
        wrong = ~(np.abs(found - after) <= 1e-5 * np.maximum(1, np.abs(after)))
        assert not wrong[~open_here].any()
    return states


@pytest.mark.parametrize("name", RECORDS)
def test_javascript_agrees_with_jax_on_every_shipped_run(engine, name):
    run = load_run(name)
    height, width, _ = run.task.start.shape
    engine.load(browser.record(run), height, width)
    fires = run.task.fires(jax.random.key(7), STEPS)
    states = assert_parity(engine, run.task.merge(run.params), run.task.start, fires)
    assert len(states) == STEPS + 1
    assert (states[-1, ..., -1] > 0.1).sum() > 50  # there was something to compare


@pytest.mark.parametrize("mask", ["paired", "bernoulli"])
def test_javascript_agrees_on_an_oblong_grid_up_to_its_borders(engine, mask):
    run = load_run("lizard")
    engine.load(browser.record(run), 12, 18)  # too small: it grows into every border
    fires = fire_schedule(jax.random.key(3), STEPS, 12, 18, mask)
    states = assert_parity(engine, run.task.merge(run.params), seed_state(12, 18, 8), fires)
    assert (states[-1][[0, -1], :, -1] > 0.1).any() and (states[-1][:, [0, -1], -1] > 0.1).any()


def rule_of(arrays, **config):
    """A task and weights for it, from arrays in the order of the leaves' names."""
    task = make_task(dataclasses.replace(POCKET, **config))
    leaves, structure = jax.tree.flatten(task.params)
    leaves = [
        jnp.asarray(a, jnp.float32).reshape(x.shape) for a, x in zip(arrays, leaves, strict=True)
    ]
    return task, jax.tree.unflatten(structure, leaves)


@pytest.mark.parametrize("seed", range(3))
def test_javascript_agrees_on_rules_never_seen(engine, seed):
    keys = jax.random.split(jax.random.key(seed), 5)
    arrays = [0.4 * jax.random.normal(k, (n,)) for k, n in zip(keys[:4], SIZES, strict=True)]
    task, params = rule_of(arrays, step_size=0.5, alive_threshold=0.25)
    engine.load(browser.record(params, config=task.config), 16, 16)
    state = jax.random.normal(keys[4], (16, 16, 8))
    state = state.at[..., -1].set(0.3 * (state[..., -1] > 1.5))  # few are mature
    assert_parity(engine, task.merge(params), state, fire_schedule(keys[4], 4, 16, 16, "bernoulli"))


def test_a_dead_cell_beside_the_living_decides_who_lives(engine):
    """Its own update is dropped, but the alpha it would have had keeps its neighbours alive."""
    hidden_kernel, hidden_bias = np.zeros((24, 32)), np.zeros(32)
    output_kernel, output_bias = np.zeros((32, 8)), np.zeros(8)
    hidden_kernel[7, 0] = 1  # sees its own alpha
    output_kernel[0, -1], output_bias[-1] = -2, 0.5  # alpha 1 falls to -0.5, alpha 0 rises to 0.5
    task, params = rule_of([hidden_bias, hidden_kernel, output_bias, output_kernel])
    engine.load(browser.record(params, config=task.config), 9, 9)
    fire = np.zeros((1, 9, 9), bool)
    fire[0, 4, 4] = True  # the only mature cell, which so dies
    state = seed_state(9, 9, 8).at[3, 4, 0].set(1.0)
    states = assert_parity(engine, task.merge(params), state, jnp.asarray(fire))
    assert not states[-1].any()
    fire[0, 2, 4] = True  # two cells off: dead before, zero after, and mature in between
    states = assert_parity(engine, task.merge(params), state, jnp.asarray(fire))
    assert np.argwhere(states[-1]).tolist() == [[3, 4, 0]]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_perception_grows_a_turned_pattern(engine, turns):
    run = load_run("lizard")
    engine.load(browser.record(run), 24, 24)
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


def test_seed_erasure_and_channels_are_those_of_the_library(engine):
    engine.load(browser.record("lizard"), 9, 14)
    np.testing.assert_array_equal(
        engine.numbers("NCA.seedState(9, 14, 8).cells").reshape(9, 14, 8), seed_state(9, 14, 8)
    )
    engine.v8.eval("state.cells = found.map((_, i) => i + 1);")
    state = engine.numbers("state.cells").reshape(9, 14, 8)
    np.testing.assert_array_equal(engine.numbers("NCA.plane(state, 3)"), state[..., 3].ravel())
    engine.v8.eval("NCA.eraseDisc(state, 3.2, 6.5, 2.6);")
    expected = np.where(disc(9, 14, 3.2, 6.5, 2.6)[..., None], 0, state)
    np.testing.assert_array_equal(engine.numbers("state.cells").reshape(9, 14, 8), expected)
    engine.v8.eval("NCA.plantSeed(state, 0, 13);")
    expected[0, 13] = [0] * 7 + [1]
    np.testing.assert_array_equal(engine.numbers("state.cells").reshape(9, 14, 8), expected)


def test_several_seeds_are_evenly_spaced(engine):
    cells = engine.numbers("NCA.seedState(96, 96, 4, 4).cells").reshape(96, 96, 4)
    assert np.argwhere(cells[..., -1]).tolist() == [[24, 24], [24, 72], [72, 24], [72, 72]]
    assert cells.sum() == 4


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


@pytest.mark.parametrize("dtype", browser.DTYPES)
def test_weights_survive_the_journey(engine, dtype):
    run = load_run("lizard")
    description = browser.record(run, dtype=dtype)
    engine.load(description, 8, 8)
    arrays, worst = weights_to_arrays(run.params), 0.0
    for key in browser.ORDER:
        layer, kind = key.split(".")
        found = engine.numbers(f"model.{layer}{kind.capitalize()}")
        exact = arrays[key].ravel().astype(np.float64)
        np.testing.assert_array_equal(found, exact.astype(dtype).astype(np.float64))
        worst = max(worst, np.abs(found - exact).max())
    assert description["error"] == pytest.approx(worst, rel=1e-6)
    assert (worst == 0) == (dtype == "float32")
    largest = max(np.abs(array).max() for array in arrays.values())
    assert worst <= largest * 2**-11  # half of the last of 11 binary digits
    data = base64.b64decode(description["weights"])
    assert hashlib.sha256(data).hexdigest() == description["sha256"]


def test_float16_is_read_as_numpy_reads_it(engine):
    special = np.array([0.0, -0.0, 2**-24, -(2**-24), 1e-5, 6.1e-5, 0.1, -1.5, 65504.0], np.float16)
    values = np.resize(special, sum(SIZES)).astype(np.float32)
    _, params = rule_of(np.split(values, np.cumsum(SIZES)[:-1]))
    description = browser.record(params, config=POCKET, dtype="float16")
    assert description["error"] == 0
    engine.load(description, 8, 8)
    expected = browser.flatten(params, POCKET)
    names = ("hiddenKernel", "hiddenBias", "outputKernel", "outputBias")
    found = np.concatenate([engine.numbers(f"model.{name}") for name in names])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", RECORDS)
def test_files_are_small_whole_and_always_the_same(engine, tmp_path, name):
    dtype = RECORDS[name]["dtype"]
    first = browser.export(name, tmp_path / "first.js", dtype=dtype).read_bytes()
    assert first == browser.export(name, tmp_path / "second.js", dtype=dtype).read_bytes()
    assert first == browser.script(RECORDS[name]).encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.js", "second.js"]
    assert len(gzip.compress(first)) < 25_000
    assert first.isascii()
    engine.v8.eval(first.decode())
    title = engine.v8.eval(f"NCA.decode(NCA.records.get('{name}')).title")
    assert title.lower().replace(" ", "-") == name


def test_bare_weights_need_their_configuration(engine):
    run = load_run("heart")
    own = browser.record(run.params, config=run.config, name="mine", title="My heart")
    assert own == browser.record(run) | {"name": "mine", "title": "My heart"}
    assert browser.record(run.params, config=run.config)["name"] == "own"
    assert browser.record(run.folder) == browser.record("heart")


NOT_FINITE = jax.tree.map(lambda leaf: leaf + np.inf, make_task(POCKET).params)
TOO_LARGE = jax.tree.map(lambda leaf: leaf + 1e6, make_task(POCKET).params)


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        ("newt", {}, "'newt' is neither a shipped run"),
        (5, {}, "run must be a run, its name or folder, or weights and config"),
        (make_task(POCKET).params, {}, "or weights and config"),
        (make_task(POCKET).params, {"config": "pocket"}, "config must be a Config"),
        (5, {"config": POCKET}, "its name or its weights, got 5"),
        ({"hidden": 1}, {"config": POCKET}, "its name or its weights"),
        (make_task(POCKET).params, {"config": PRESETS["reference"]}, "weights have shapes"),
        (NOT_FINITE, {"config": POCKET}, "weights must be finite as float32"),
        (TOO_LARGE, {"config": POCKET, "dtype": "float16"}, "finite as float16, the largest"),
        ("lizard", {"config": POCKET}, "config must be None for a run"),
        ("lizard", {"dtype": "int8"}, "dtype must be one of .* got 'int8'"),
        ("lizard", {"name": "../lizard"}, "name must be lower-case letters"),
        ("lizard", {"name": 'a"b'}, "name must be lower-case letters"),
        ("lizard", {"title": " "}, "title must be a text"),
        ("lizard", {"title": 5}, "title must be a text, got 5"),
    ],
)
def test_bad_input_is_named(run, options, message):
    with pytest.raises(ValueError, match=message):
        browser.record(run, **options)


def test_runs_of_another_rule_are_refused():
    run = load_run("lizard")
    with pytest.raises(ValueError, match="of the growing rule, got 'texture'"):
        browser.record(run._replace(info=run.info | {"rule": "texture"}))


def test_files_are_scripts(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.js"):
        browser.export("lizard", tmp_path / "lizard.json")
    assert list(tmp_path.iterdir()) == []


def spoil(**changes):
    return lambda record: record | changes


def replace_weights(change):
    def apply(record):
        data = bytearray(base64.b64decode(record["weights"]))
        return record | {"weights": base64.b64encode(change(data)).decode()}

    return apply


def with_nan(record):
    data = np.frombuffer(base64.b64decode(record["weights"]), np.float32).copy()
    data[17] = np.nan
    weights = base64.b64encode(data.tobytes()).decode()
    return record | {"weights": weights, "crc32": zlib.crc32(data.tobytes())}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: None, "this page reads format 1"),
        (lambda record: 5, "this page reads format 1"),
        (lambda record: [], "this page reads format 1"),
        (spoil(format=2), "this page reads format 1"),
        (spoil(rule="texture"), "another cell rule"),
        (spoil(border="wrap"), "another cell rule"),
        (spoil(channel_order="red, green, blue, alpha, hidden"), "another order of channels"),
        (spoil(channels=3), "channels must be a whole number from 4 to 64"),
        (spoil(channels="8"), "channels must be a whole number"),
        (spoil(hidden=10**9), "hidden must be a whole number"),
        (spoil(hidden=32.5), "hidden must be a whole number"),
        (spoil(channels=16), "4256 bytes instead of 8384"),
        (spoil(num_steps=-1), "num_steps must be a whole number"),
        (spoil(age="0"), "age must be a whole number from 0 to 1000000"),
        (spoil(step_size=0), "no usable step size"),
        (spoil(step_size="1; alert(1)"), "no usable step size"),
        (spoil(alive_threshold=None, step_size=None), "no usable step size"),
        (spoil(step_size=[0.1]), "no usable step size"),
        (spoil(alive_threshold=1), "no usable threshold"),
        (spoil(alive_threshold="0.1"), "no usable threshold"),
        (spoil(mask="all"), "unknown fire mask"),
        (spoil(dtype="float64"), "neither float32 nor float16"),
        (spoil(dtype="float16"), "4256 bytes instead of 2128"),
        (spoil(emoji=None), "no title"),
        (spoil(weights="<script>"), "they are not base64"),
        (spoil(weights=None), "they are not base64"),
        (spoil(weights=["QUJD"]), "they are not base64"),
        (spoil(weights="AAAA" * 2_000_000), "they are not base64"),
        (replace_weights(lambda data: data[:-4]), "4252 bytes instead of 4256"),
        (replace_weights(lambda data: data[:9] + b"x" + data[10:]), "their checksum does not"),
        (with_nan, "a weight is not a finite number"),
    ],
)
def test_bad_or_foreign_weights_are_refused_in_words(engine, change, message):
    bad = json.dumps(change(browser.record("lizard")))
    with pytest.raises(JSEvalException, match=rf"These weights cannot be used: .*({message})"):
        engine.v8.eval(f"NCA.decode({bad})")


def test_the_rule_stays_short_enough_to_read():
    lines = NCA_JS.splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 100


def test_both_scripts_stay_short():
    playground = (browser.DEMO / "playground.js").read_text(encoding="utf-8")
    assert len(NCA_JS.splitlines()) + len(playground.splitlines()) <= 700


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 33}, "grid must be a multiple of 8, got 33"),
        ({"grid": 8}, "grid must be an int from 16 to 128, got 8"),
        ({"seeds": 0}, "seeds must be an int from 1 to 9, got 0"),
        ({"seeds": True}, "seeds must be an int from 1 to 9, got True"),
        ({"speed": 30.5}, "speed must be an int from 1 to 240, got 30.5"),
        ({"dtype": "int8"}, "dtype must be one of"),
    ],
)
def test_bad_options_of_show_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        browser.show("lizard", **options)


def test_digital_cells_are_not_for_the_demo():
    task = make_task(PRESETS["walk"])
    with pytest.raises(ValueError, match="smooth cells only, got 'digital'"):
        browser.record(task.params, config=task.config)


def test_no_text_can_end_the_script_of_a_notebook():
    page = browser.show("lizard", title="</script><b>&").data
    assert page.count("</script>") == 1 and "<b>" not in page
    run = load_run("lizard")
    bare = browser.show(run.params, config=run.config).data
    assert "<img" not in bare and "a live pattern stands here" in bare


def test_the_catalogue_names_shipped_runs_only():
    names = [choice["runs"] for choice in browser.catalogue(browser.shipped_records())]
    assert names[: len(RECORDS)] == [[name] for name in RECORDS]
    assert {name for runs in names for name in runs} == set(RECORDS)
