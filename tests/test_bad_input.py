"""Bad input at the doors, thought up by Hypothesis: a documented result or a ValueError.

`NCA_FAULTS=long` tries fifty times as many examples, at random.
"""

import dataclasses
import functools
import io
import os
import random
import re
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault(  # or a folder appears where pytest was started
    "HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "hypothesis")
)

import jax
import jaxtyping
import numpy as np
import pytest
from faults import exit_status, mutate, quietly, rezipped
from flax import nnx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import nca_lib.train
from nca_lib import model, rollout, target
from nca_lib.lab import benchmark, checkpoint, images, machine, runs
from nca_lib.lab.config import PRESETS, SHIPPED, Config
from nca_lib.lab.task import make_task, make_trainer
from nca_lib.show import figures, page, widgets

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

FIELDS = [field.name for field in dataclasses.fields(Config)]
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 7, 2**31, 10**6, 10**9, 10**30])
NOT_NUMBERS = st.none() | st.text(max_size=3) | st.sampled_from([b"x", [], {}, [[1]]])
ANYTHING = NUMBERS | NOT_NUMBERS | st.booleans()
NOT_COUNTS = NOT_NUMBERS | st.integers(max_value=0) | st.floats() | st.integers(10**9, 10**30)
SHAPES = st.lists(st.integers(0, 6), max_size=5).map(tuple)
STRANGE = ["x" * 5000, "a\0b", "..", "/", "\udcff"]  # names of no file


@pytest.fixture(autouse=True)
def as_for_readers(monkeypatch):
    """No types are checked, no test asks the network, and widgets are not of the static book."""

    def connect(*arguments, **options):
        raise OSError("offline")

    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.delenv("NCA_BOOK", raising=False)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# Not a fixture: Hypothesis would write down each argument of each example.
@functools.cache
def a_run():
    return runs.load_run("lizard")


def refuses(*values, name=""):
    """A context that expects a ValueError which names values and an argument."""
    pattern = "".join(f"(?=.*{re.escape(repr(value))})" for value in values)
    return pytest.raises(ValueError, match=f"(?s){pattern}.*(?:{name}).")


def tried(function, *arguments, **options):
    """The result, or None where a ValueError says something."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        assert str(error).strip()
        return None


# The core


@given(NOT_COUNTS, st.booleans())
@example(10**6, True)
def test_sizes_that_no_grid_has_are_refused(size, first):
    sizes = (size, 10**6) if first else (10**6, size)
    with refuses(size):
        model.seed_state(*sizes, 4)
    with refuses(size):
        rollout.fire_schedule(jax.random.key(0), 1, *sizes)


@given(NOT_COUNTS, st.sampled_from(["channels", "hidden", "precision"]))
@example(3, "channels")
@example("float16", "precision")
def test_rules_that_cannot_be_are_refused(value, name):
    with refuses(value, name=name):
        model.NCA(**{"channels": 4, "hidden": 2, name: value}, rngs=nnx.Rngs(0))
    with refuses(3):
        model.seed_state(4, 4, 3)


@given(SHAPES, st.sampled_from([float, np.uint8, bool]))
@example((4, 4), int)
def test_what_says_of_no_cell_whether_it_fires_is_refused(shape, kind):
    run = a_run()
    with refuses(shape, name="fire"):
        run.task.merge(run.params)(run.task.start, np.zeros(shape, kind))


# Targets


@settings(max_examples=200 * MANY)
@given(
    st.text(max_size=40) | st.text("🦎👩👨🏽🇩🇪🏴\u200d\ufe0f", min_size=1, max_size=9) | ANYTHING
)
@example("👩\u200d" * 300 + "👩")
def test_what_is_no_emoji_is_refused(emoji):
    loaded = tried(target.load_emoji, emoji, 4, 0)
    assert loaded is None or loaded.shape == (4, 4, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_images_are_refused_or_read(kind, tmp_path):
    rng, buffer = random.Random(1), io.BytesIO()
    Image.frombytes("RGB", (16, 20), rng.randbytes(960)).save(buffer, kind)
    for _ in range(60 * MANY):
        (tmp_path / "image").write_bytes(mutate(buffer.getvalue(), rng))
        loaded = tried(target.load_image, tmp_path / "image", size=8, padding=0)
        assert loaded is None or loaded.shape == (8, 8, 4)
        assert loaded is None or 0 <= loaded.min() <= loaded.max() <= 1


@given(NOT_COUNTS.filter(lambda value: value != 0 or type(value) is not int))
@example(513)
@example(True)
def test_layouts_that_no_target_has_are_refused(value):
    for name in ("size", "padding", *["premultiply"] * (value is not True)):
        for load, what in ((target.load_emoji, "🦖"), (target.load_image, "x.png")):
            with refuses(value, name=name):
                load(what, **{name: value})


# Run folders


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
    params, path = a_run().params, Path(folder) / "weights.npz"
    data = (SHIPPED / "lizard" / "weights.npz").read_bytes()
    rng, refused = random.Random(seed), 0
    shapes = list(map(np.shape, jax.tree.leaves(params)))
    for case in range(number):
        path.write_bytes((rezipped if case % 2 else mutate)(data, rng))
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


def test_damaged_weights_are_refused(tmp_path):
    assert fuzz_weights(300 * MANY, 0, tmp_path) == 300 * MANY


@pytest.fixture
def copied(tmp_path):
    """The files of a run in a folder of their own, and what they held."""
    names = ("run.json", "history.csv", "weights.npz")
    files = {tmp_path / name: (a_run().folder / name).read_bytes() for name in names}
    for path, data in files.items():
        path.write_bytes(data)
    return files


def test_damaged_run_folders_are_refused(copied, tmp_path):
    rng = random.Random(0)
    for path, data in [*copied.items()] * 20 * MANY:
        path.write_bytes(mutate(data, rng))
        with warnings.catch_warnings(action="ignore"):
            loaded = tried(runs.load_run, tmp_path)
        assert loaded is None or loaded.config.channels == 8
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["run.json", "history.csv", "weights.npz"])
@pytest.mark.parametrize("kind", ["missing", "pipe", "giant", "folder", "nested"])
def test_files_that_are_none_or_too_large_are_refused(kind, name, copied, tmp_path):
    path = tmp_path / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("[" * 100_000)
    if kind == "giant":  # takes no place on the disk
        os.truncate(path, 5_000_000_000)
    with refuses():
        runs.load_run(tmp_path)
    with refuses(name=name):
        target.load_image(path)
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        checkpoint.read(path)


@given(
    st.text(min_size=1, max_size=9) | st.sampled_from([*STRANGE, None, 5, b"lizard", ["lizard"]])
)
def test_names_of_no_run_are_refused(name):
    run = a_run()
    for load in (runs.load_run, target.load_image):
        with refuses():
            load(name)
    for value in (name if name != 5 else 0, -1, 10**7):
        for option in ("keys", "factor"):
            with refuses(value, name=option):
                run.evaluate(**{option: value})


# Configurations and command lines


@settings(max_examples=400 * MANY)
@given(st.sampled_from([*PRESETS]), st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3))
@example("smoke", {"channels": 10**6, "hidden": 10**6})
@example("smoke", {"size": 512, "padding": 256, "channels": 1024})
def test_configurations_fit_in_memory_or_are_refused(preset, fields):
    try:
        config = dataclasses.replace(PRESETS[preset], **fields)
    except ValueError as error:
        assert any(name in str(error) for name in [*fields, "window"])
        return
    side, C = config.size + 2 * config.padding, config.channels
    assert 4 * side**2 * C <= 2**30 and 4 * 4 * C * config.hidden <= 2**30
    assert (config.num_steps + 1) * side**2 * 3 * 36 <= 2**30  # the final clip
    assert machine.memory_needed(config, 1) > 0


WORDS = ["", " ", "true", "nan", "inf", "-1", "0", "1e400", "9" * 5000, "[" * 100_000, "{}", "🦖"]
WORDS += ["1_0", "0x10", "None", "\0", "a\nb", "%s", "%(prog)s", "--out", "7", "1000000", *STRANGE]
WORDS += ["2147483648", "1e9", "lizard", "walk", "life", "soft", "backprop", "straight"]
VALUES = st.sampled_from(WORDS) | NUMBERS.map(str) | st.integers(-10, 600).map(str)
TRAIN_FLAGS = ["--preset", "--out", "--chunk", *("--" + f.replace("_", "-") for f in FIELDS)]
BENCHMARK_FLAGS = ["--size", "--steps", "--channels", "--hidden", "--population", "--repeats"]
BENCHMARK_FLAGS += ["--only", "--json"]


@pytest.fixture
def only_checked(monkeypatch):
    """The command lines do all that they do before they train or time."""

    def prepare(config, out, *, resume, command, chunk):
        make_trainer(make_task(config), chunk)

    monkeypatch.setattr(nca_lib.train, "train", prepare)
    monkeypatch.setattr(benchmark, "_warm_up", lambda config, only: ({}, {}, {}))


@pytest.mark.parametrize(
    ("main", "flag"),
    [(nca_lib.train.main, flag) for flag in TRAIN_FLAGS]
    + [(benchmark.main, flag) for flag in BENCHMARK_FLAGS],
)
def test_any_value_of_a_flag(main, flag, only_checked, tmp_path, monkeypatch):
    """Exit status 0, or 2 and an error that names the flag; anything but an exit is a failure."""
    monkeypatch.chdir(tmp_path)
    start = ["--size", "12"]
    if main is nca_lib.train.main:
        start += ["--preset", "smoke", "--out", "x", "--padding", "0", "--hidden", "2"]
    names = [flag, flag[2:].replace("-", "_"), "window", "unrecognized", "File name", "null"]

    @settings(max_examples=20 * MANY)
    @given(VALUES, st.booleans())
    def check(value, is_joined):
        more = [f"{flag}={value}"] if is_joined else [flag, value]
        status, said = quietly(exit_status, main, [*start, *more])
        assert status == 0 or (status == 2 and any(name in said for name in names)), (status, said)

    check()


# Pictures, the demo and widgets

NOT_PICTURES = st.one_of(
    NOT_NUMBERS,
    SHAPES.filter(lambda s: len(s) < 3 or s[-1] < 4 or 0 in s).map(np.zeros),
    st.sampled_from([np.full((2, 2, 4), "x"), np.zeros((2, 2, 4), complex), [[1], [1, 2]]]),
)


@given(NOT_PICTURES)
def test_what_is_no_picture_is_refused(state):
    for call in (
        images.to_rgb,
        widgets.perception_explorer,
        lambda x: images.upscale(x, 2),
        lambda x: images.contact_sheet(x, 2),
        lambda x: figures.show_images(x, "alt"),
        lambda x: figures.show_clip(x, "alt"),
    ):
        with refuses():
            call(state)


NOT_TEXTS = st.sampled_from(["", "  ", None, 5, [], ["a", "b"], [5], [""]])


@given(NOT_TEXTS, NOT_NUMBERS | st.just(0))
def test_pictures_that_cannot_be_are_refused(alt, few):
    pixels = np.zeros((2, 2, 2, 3), np.uint8)
    for name, call, *arguments in (
        ("fps", figures.show_clip, pixels, "alt", "", few),
        ("alt|titles", figures.show_images, pixels[:1], alt),
        ("alt", figures.show_clip, pixels, alt),
        ("histories", figures.plot_losses, alt),
    ):
        with refuses(name=name):
            call(*arguments)


@given(ANYTHING.filter(bool))
@example(33)
def test_what_is_no_config_run_or_setting_is_refused(value):
    run, state = a_run(), np.zeros((4, 4, 8), np.float32)
    with refuses(value, name="config must be"):
        make_task(value)
    calls = [
        ("", page.describe, value),
        ("path", page.export, run, value),
        ("run", widgets.loss_explorer, value),
        ("run", widgets.growth_player, value),
        ("model", widgets.step_explorer, value, state, np.zeros((4, 4), bool)),
        ("state", widgets.step_explorer, run.task.merge(run.params), value, value),
        ("fire", widgets.step_explorer, run.task.merge(run.params), state, value),
    ]
    for name, call, *arguments in calls:
        with refuses(name=name):
            call(*arguments)
    with refuses(name="dtype"):
        page.describe(run, dtype=value)
    for name, high in {"grid": 128, "seeds": 9, "speed": 240, "side": 101}.items():
        is_odd = name == "grid" and type(value) is int and value % 8
        if is_odd or type(value) is not int or not 1 <= value <= high:
            with refuses(value, name=name):
                (widgets.loss_explorer if name == "side" else page.show)(run, **{name: value})
