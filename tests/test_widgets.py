"""Widgets without a browser: knobs are set, buttons clicked, pictures decoded and compared."""

import base64
import dataclasses
import html
import io
import os
import re
import shlex
import subprocess
import sys
import threading
import types

import ipywidgets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from IPython.display import HTML
from PIL import Image, ImageSequence
from test_train import TINY

from nca_lib import background, list_emoji, load_emoji, load_run, render, widgets
from nca_lib.background import Loop, Training
from nca_lib.loss import mse
from nca_lib.model import KERNELS, perceive
from nca_lib.train import PRESETS, make_measure, make_task, parse, train

LONG = dataclasses.replace(TINY, generations=1_000_000)  # only a click ends it
PATIENCE = 300  # seconds; a test that waits longer has failed
DESCENT = dataclasses.replace(TINY, strategy="backprop", population=2, learning_rate=0.01)


@pytest.fixture(autouse=True)
def live(monkeypatch):
    """A notebook and not the book, in which errors of callbacks are raised and not logged."""
    monkeypatch.delenv("NCA_BOOK", raising=False)

    def call(self, *args, **kwargs):
        for callback in self.callbacks:
            callback(*args, **kwargs)

    monkeypatch.setattr(ipywidgets.widgets.widget.CallbackDispatcher, "__call__", call)
    yield
    Loop.stop_running()


@pytest.fixture(scope="module")
def run():
    return load_run("lizard")


@pytest.fixture
def pieces(monkeypatch):
    """Counts pieces of training, and how many were at work at the same time."""
    advance, state = Training.advance, types.SimpleNamespace(count=0, at_once=0, most=0)
    state.changed = threading.Condition()

    def counted(self, *args):
        with state.changed:
            state.at_once += 1
            state.most = max(state.most, state.at_once)
        try:
            advance(self, 0.01)  # short pieces
        finally:
            with state.changed:
                state.at_once -= 1
                state.count += 1
                state.changed.notify_all()

    def wait(more):
        with state.changed:
            goal = state.count + more
            assert state.changed.wait_for(lambda: state.count >= goal, PATIENCE)

    state.wait = wait
    monkeypatch.setattr(Training, "advance", counted)
    return state


def everything(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)


def named(box, description):
    """The knob or button with this description."""
    return next(w for w in everything(box) if getattr(w, "description", None) == description)


def text(box):
    """All that is written, without tags."""
    parts = [w.value for w in everything(box) if isinstance(w, ipywidgets.HTML)]
    return html.unescape(re.sub("<[^>]*>", " ", " ".join(parts)))


def messages(box):
    """What the message area says."""
    values = [w.value for w in everything(box) if isinstance(w, ipywidgets.HTML)]
    return " ".join(
        html.unescape(m) for v in values for m in re.findall(r'role="status"[^>]*>(.*?)</p>', v)
    )


def markup(shown):
    if isinstance(shown, HTML):
        return shown.data
    return " ".join(w.value for w in everything(shown) if isinstance(w, ipywidgets.HTML))


def pictures(shown, kind="png"):
    """Every picture of this kind: frames (T, H, W, 3)."""
    found = []
    for data in re.findall(rf'src="data:image/{kind};base64,([^"]+)"', markup(shown)):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
        found.append(np.stack(frames))
    return found


def numbers(table):
    """The numbers of one table, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    found = [[float(x) for x in re.findall(r"<td[^>]*>(-?[\d.]+)</td>", row)] for row in rows]
    return np.array([row for row in found if row])


def tables(box):
    return [numbers(t) for t in re.findall(r"<table.*?</table>", markup(box))]


def refusal(function, *args, **kwargs):
    """What the library itself says of bad values."""
    with pytest.raises(ValueError) as error:
        function(*args, **kwargs)
    return str(error.value)


def test_errors_of_callbacks_are_not_swallowed_here():
    button = ipywidgets.Button()
    button.on_click(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        button.click()


def test_the_package_does_not_import_ipywidgets():
    code = "import sys, nca_lib, nca_lib.runs; assert 'ipywidgets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Chapter 1


def test_target_explorer_shows_the_target_and_its_planes():
    box = widgets.target_explorer()
    target = load_emoji(list_emoji()[0], 24, 4)
    whole, *planes = (picture[0] for picture in pictures(box))
    np.testing.assert_array_equal(whole, render.to_rgb(target))
    for k, plane in enumerate(planes):
        np.testing.assert_array_equal(plane[..., 0], np.rint(255 * target[..., k]))
    assert len(planes) == 4


def test_target_explorer_follows_its_knobs():
    box = widgets.target_explorer(["🍄", "🦎"])
    named(box, "emoji").value = "🦎"
    named(box, "size").value = 40
    named(box, "padding").value = 2
    named(box, "alpha").value = "straight"
    named(box, "background").value = "black"
    target = load_emoji("🦎", 40, 2, premultiply=False)
    shown = pictures(box)[0][0]
    np.testing.assert_array_equal(shown, render.to_rgb(target, (0, 0, 0), premultiplied=False))
    named(box, "background").value = "checks"
    ground = render.checkerboard(44, 44)
    shown = pictures(box)[0][0]
    np.testing.assert_array_equal(shown, render.to_rgb(target, ground, premultiplied=False))


def test_target_explorer_says_what_the_library_says():
    box = widgets.target_explorer()
    before = pictures(box)[0]
    named(box, "or type").value = "lizard"
    assert messages(box) == refusal(load_emoji, "lizard")
    np.testing.assert_array_equal(pictures(box)[0], before)
    named(box, "or type").value = "🍄"
    assert messages(box) == ""
    np.testing.assert_array_equal(pictures(box)[0][0], render.to_rgb(load_emoji("🍄", 24, 4)))


# Chapter 2


def test_perception_explorer_turns_the_kernels(run):
    state = run.grow(jax.random.key(0))[-1]
    box = widgets.perception_explorer(state)
    np.testing.assert_allclose(tables(box)[0], KERNELS[..., 2], atol=0.006)
    views = np.split(np.asarray(perceive(state)), 3, axis=-1)
    np.testing.assert_array_equal(pictures(box)[1][0], widgets._heat(views[2][..., -1]))
    named(box, "rotation").value = 180
    np.testing.assert_allclose(tables(box)[0], -KERNELS[..., 2], atol=0.006)
    np.testing.assert_allclose(
        pictures(box)[1][0].astype(int), widgets._heat(-views[2][..., -1]), atol=1
    )
    named(box, "rotation").value = 90  # what looked to the right looks up
    np.testing.assert_allclose(tables(box)[0], -KERNELS[..., 1], atol=0.006)
    named(box, "kernel").value = "identity"
    named(box, "channel").value = "hidden 1"
    plane = widgets._heat(np.asarray(state[..., 1]))
    for picture in pictures(box):
        np.testing.assert_array_equal(picture[0], plane)
    named(box, "kernel").value = "Laplacian"
    assert tables(box)[0].sum() == pytest.approx(0, abs=0.05)


def test_step_explorer_shows_the_numbers_of_the_step(run):
    state = run.grow(jax.random.key(0))[-1]
    model, mask = run.task.merge(run.params), jax.random.bernoulli(jax.random.key(1), 0.5, (32, 32))
    box, after = widgets.step_explorer(model, state, mask), model(state, mask)
    for row, column in ((16, 16), (0, 31), (12, 9)):
        named(box, "row").value, named(box, "column").value = row, column
        around, seen, hidden, update, cells = tables(box)
        here = row, column
        alpha = np.pad(np.asarray(state[..., -1]), 1)[row : row + 3, column : column + 3]
        perception = perceive(state)[here]
        np.testing.assert_allclose(around, alpha, atol=0.0051)
        np.testing.assert_allclose(seen.ravel(), perception, atol=0.0051)
        np.testing.assert_allclose(
            hidden.ravel(), jnp.maximum(model.hidden(perception), 0), atol=0.0051
        )
        np.testing.assert_allclose(update[0], model.update(perception), atol=0.0051)
        np.testing.assert_allclose(cells, [state[here], after[here]], atol=0.0051)
        assert f"fires: {'yes' if mask[here] else 'no'}" in re.sub(r"\s+", " ", text(box))
        for picture, grid in zip(pictures(box), (state, after), strict=True):
            expected = render.to_rgb(grid)
            expected[here] = 255, 0, 255
            np.testing.assert_array_equal(picture[0], expected)
    assert "alive before: no" not in re.sub(r"\s+", " ", text(box))


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8), (2, 8, 8, 8)])
def test_states_that_are_none_are_refused(shape, run):
    with pytest.raises(ValueError, match="state must be"):
        widgets.perception_explorer(np.zeros(shape))
    with pytest.raises(ValueError, match="fire must be"):
        widgets.step_explorer(run.task.merge(run.params), np.zeros((8, 8, 8)), np.zeros((8, 8)))


# Chapter 3


def test_loss_explorer_moves_the_window(run):
    box = widgets.loss_explorer(run, side=5)
    curve = mse(run.grow(jax.random.key(0), 128), run.target)
    for width, end in ((8, 32), (1, 100), (32, 40)):
        named(box, "end").value = end
        named(box, "width").value = width
        mean = float(curve[end - width + 1 : end + 1].mean())
        assert f"window is {mean:.4g}" in markup(box)
        assert messages(box) == ""
    named(box, "end").value = 20
    assert messages(box) == "window must be 1 to 20 (where it ends), got 32"


def test_loss_explorer_shows_life_death_and_explosion(run):
    box = widgets.loss_explorer(run)
    _, plane, grown = pictures(box)
    colours = {tuple(c) for c in plane[0].reshape(-1, 3)}
    assert {(213, 94, 0), (128, 128, 128), (255, 255, 255)} <= colours
    assert len(colours) > 20
    expected = render.to_rgb(run.grow(jax.random.key(0))[-1])
    np.testing.assert_allclose(grown[0].astype(int), expected, atol=2)
    assert "at the white point: alive" in text(box)

    named(box, "way").value = 0.0  # untrained: the seed stays a seed
    np.testing.assert_array_equal(pictures(box)[2][0], render.to_rgb(run.task.start))
    assert pictures(box)[1][0, 18, 12].tolist() == [255, 255, 255]

    named(box, "noise").value = -1.0
    assert "at the white point: exploded" in text(box)
    named(box, "noise").value = 0.9
    assert "at the white point: dead" in text(box)
    assert pictures(box)[2][0].min() == 255  # nothing is left
    reach = pictures(box)[1]
    named(box, "reach").value = 0.03
    assert not np.array_equal(pictures(box)[1], reach)
    named(box, "noise").value = 0.0
    assert "at the white point: alive" in text(box)


# Chapter 5


def test_growth_player_scrubs_and_wounds(run):
    box = widgets.growth_player(run)
    named(box, "lives").value = 1
    assert messages(box) == "Compiling anew for lives 1, steps 64: a moment."
    states = run.grow(jax.random.split(jax.random.key(0), 1)[0], 64)
    for step in (0, 7, 31):
        named(box, "step").value = step
        np.testing.assert_allclose(
            pictures(box)[0][0].astype(int), render.to_rgb(states[step]), atol=2
        )
    assert messages(box) == ""
    named(box, "step").value = 32  # the default wound: the lower half, at step 32
    wounded = pictures(box)[0][0]
    assert wounded[16:].min() == 255 and wounded[:16].min() < 255
    named(box, "erase").value = "right half"
    wounded = pictures(box)[0][0]
    assert wounded[:, 16:].min() == 255 and wounded[:, :16].min() < 255
    named(box, "erase").value = "nothing"
    np.testing.assert_allclose(pictures(box)[0][0].astype(int), render.to_rgb(states[32]), atol=2)
    named(box, "view").value = "hidden 2"
    assert pictures(box)[0].shape == (1, 32, 32, 3)
    named(box, "lives").value = 4
    assert pictures(box)[0].shape == (1, 32, 4 * 34 - 2, 3)
    assert messages(box) == ""  # compiled before
    named(box, "step").value = 65
    assert messages(box) == "step must be 0 to 64 (steps), got 65"


def test_growth_player_exports_what_it_shows(run, tmp_path):
    box = widgets.growth_player(run, tmp_path / "clip.webp")
    named(box, "lives").value = 1
    named(box, "step").value = 40
    named(box, "Export clip").click()
    assert messages(box) == f"Wrote {tmp_path / 'clip.webp'}."
    (link,) = re.findall(r'download="clip.webp" href="data:[^,]*;base64,([^"]+)"', markup(box))
    assert base64.b64decode(link) == (tmp_path / "clip.webp").read_bytes()
    with Image.open(tmp_path / "clip.webp") as clip:
        frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(clip)]
    assert len(frames) == 65
    np.testing.assert_array_equal(frames[40][::4, ::4], pictures(box)[0][0])

    box = widgets.growth_player(run, tmp_path / "clip.gif")
    named(box, "Export clip").click()
    assert "expected a name ending in" in messages(box)


# Training


def test_training_does_what_train_does(tmp_path):
    training = Training(TINY)
    while training.done < TINY.generations:
        training.advance(0.01)
    other = load_run(train(TINY, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, training.weights, other.params)
    assert training.history["loss"][-1] == pytest.approx(other.history["loss"][-1], rel=1e-4)
    assert training.history["generation"][-1] == TINY.generations


def test_training_goes_on_around_the_weights_of_another():
    first = Training(TINY)
    first.advance()
    second = Training(dataclasses.replace(TINY, std=0.5), first)
    jax.tree.map(np.testing.assert_array_equal, second.weights, first.weights)
    jax.tree.map(np.testing.assert_allclose, second.trainer.mean(second.state), first.weights)
    second.advance()
    assert second.history["generation"][0] == 1 and second.done == 2 and first.done == 1
    with pytest.raises(ValueError, match=r"must be \(8, 32\) to go on, got \(8, 16\)"):
        Training(dataclasses.replace(TINY, hidden=16), first)


def test_the_command_line_says_what_the_configuration_is():
    for config in (*PRESETS.values(), TINY, DESCENT):
        command = background.command_line(config, "a folder/x")
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "nca_lib.train"]
        options, read = parse(words[3:])
        assert (read, options.out) == (config, "a folder/x")
    assert "--" not in background.command_line(PRESETS["pocket"], "x").partition("--out x")[2]


def test_a_saved_run_names_the_command_that_repeats_it_if_there_is_one(tmp_path):
    training = Training(TINY)
    training.advance()
    training.save(tmp_path / "early")
    while training.done < TINY.generations:
        training.advance(0.01)
    training.save(tmp_path / "whole")
    longer = Training(dataclasses.replace(TINY, generations=31), training)
    longer.advance()
    longer.save(tmp_path / "changed")
    commands = {path.name: load_run(path).info["command"] for path in tmp_path.iterdir()}
    assert commands.pop("whole") == background.command_line(TINY, tmp_path / "whole")
    assert commands == {"early": None, "changed": None}


# Chapter 4


def clicked(box, *descriptions):
    for description in descriptions:
        button = named(box, description)
        assert not button.disabled, description
        button.click()


def paused(box):
    """Click on "Pause" and wait until training has stopped."""
    loop = Loop.running
    clicked(box, "Pause")
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive() and Loop.running is None


def enabled(box):
    buttons = (w for w in everything(box) if isinstance(w, ipywidgets.Button))
    return {button.description for button in buttons if not button.disabled}


def test_dashboard_trains_to_the_end():
    box = widgets.evolution_dashboard(TINY)
    assert enabled(box) == {"Start"}
    clicked(box, "Start")
    Loop.running.wait()
    assert "generation 30 of 30" in text(box)
    assert re.search(r"loss\s+0\.\d+\s+\(\d+% of an empty grid's\)", text(box))
    assert re.search(r"[\d,]+ rollouts/s · 0 min 0 s left · gradient cosine 0.06, est", text(box))
    assert "estimated by the law √(n / (n + D)) for" in text(box)
    grown, target, curve = pictures(box)
    task = make_task(TINY)
    np.testing.assert_array_equal(target[0], render.to_rgb(task.target))
    assert grown.shape == target.shape and curve[0].shape[1] > 300
    clicked(box, "Resume")
    assert messages(box) == "30 generations are done: raise generations, or Reset"
    named(box, "generations").value = 40
    clicked(box, "Resume")
    Loop.running.wait()
    assert "generation 40 of 40" in text(box)


def test_dashboard_pauses_changes_resumes_resets_and_saves(pieces, tmp_path):
    box = widgets.evolution_dashboard(LONG, folder=str(tmp_path / "mine"))
    clicked(box, "Start")
    assert messages(box) == "Compiling: some seconds."
    pieces.wait(3)
    assert enabled(box) == {"Pause"}
    paused(box)
    assert enabled(box) == {"Resume", "Reset", "Save"}
    reached = int(re.search(r"generation ([\d,]+)", text(box))[1].replace(",", ""))
    assert reached >= 3

    clicked(box, "Save")
    assert messages(box).startswith("Saved.")
    saved = load_run(tmp_path / "mine")
    assert saved.history["generation"][-1] == reached == saved.config.generations
    keys = jax.random.split(jax.random.split(jax.random.key(LONG.seed), 3)[2], 8)
    loss = make_measure(saved.task)(saved.params, keys).mean()
    assert saved.history["loss"][-1] == pytest.approx(float(loss), rel=1e-4)
    clicked(box, "Save")
    assert messages(box) == f"{tmp_path / 'mine'} holds a run already; choose another folder"

    clicked(box, "Resume")
    assert messages(box) == ""  # nothing to compile
    pieces.wait(1)
    paused(box)
    named(box, "σ").value = 0.05
    assert "Resume will compile anew" in messages(box)
    clicked(box, "Resume")
    assert messages(box) == "Compiling: some seconds."
    pieces.wait(2)
    assert messages(box) in ("", "Compiling: some seconds.")
    paused(box)
    assert int(re.search(r"generation ([\d,]+)", text(box))[1].replace(",", "")) > reached

    named(box, "hidden").value = 16
    assert messages(box).startswith("channels and hidden must be")
    clicked(box, "Resume")
    assert messages(box).startswith("channels and hidden must be")
    clicked(box, "Reset")
    assert enabled(box) == {"Start"} and pictures(box) == []
    clicked(box, "Start")
    pieces.wait(1)
    paused(box)
    assert pieces.most == 1


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("population", 7, "population must be even and at least 2, got 7"),
        ("σ", -1.0, "std must be 1e-09 to 1000.0, got -1.0"),
        ("steps", 1, "window must be 1 to 1, got 2"),
        ("channels", 3, "channels must be 4 to 1024, got 3"),
        ("generations", 0, "generations must be 1 to 1000000000, got 0"),
    ],
)
def test_dashboard_says_what_the_library_says(knob, value, message):
    box = widgets.evolution_dashboard(TINY)
    named(box, knob).value = value
    if knob != "channels":  # known when the rule is made
        assert messages(box) == message
    clicked(box, "Start")
    assert messages(box) == message
    assert enabled(box) == {"Start"} and Loop.running is None


def test_dashboard_reports_a_dead_population():
    box = widgets.evolution_dashboard(dataclasses.replace(LONG, std=50.0))
    clicked(box, "Start")
    Loop.running.wait()
    assert re.search("members (died|are not finite)", messages(box))
    assert enabled(box) == {"Resume", "Reset", "Save"}


def test_dashboard_draws_an_earlier_run_beside_its_own(tmp_path):
    earlier = load_run(train(TINY, tmp_path / "run"))
    box = widgets.evolution_dashboard(TINY, earlier)
    clicked(box, "Start")
    Loop.running.wait()
    assert "earlier run ends at" in markup(box) and "this run ends at" in markup(box)


def test_never_two_at_once(pieces):
    first, second = (widgets.evolution_dashboard(LONG) for _ in range(2))
    clicked(first, "Start")
    pieces.wait(2)
    clicked(second, "Start")
    assert enabled(first) == {"Resume", "Reset", "Save"}
    pieces.wait(2)
    assert enabled(second) == {"Pause"}
    loop = Loop.running
    third = widgets.duel({"evolution": LONG, "backprop": DESCENT})  # making one stops the other
    assert not loop.thread.is_alive() and enabled(second) == {"Resume", "Reset", "Save"}
    assert enabled(third) == {"Start"} and pieces.most == 1


def test_training_stops_when_the_widget_is_closed(pieces):
    box = widgets.evolution_dashboard(LONG)
    clicked(box, "Start")
    pieces.wait(1)
    loop = Loop.running
    assert loop.thread.daemon
    box.close()
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()


def test_training_stops_when_the_kernel_ends():
    code = """if True:
        import dataclasses, threading
        from nca_lib import widgets
        from nca_lib.train import PRESETS
        box = widgets.evolution_dashboard(PRESETS["smoke"])
        box.children[1].children[0].click()
        assert threading.active_count() > 1
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


# Chapter 6


def test_duel_gives_both_sides_the_same_time(pieces):
    endless = dataclasses.replace(DESCENT, generations=LONG.generations)
    box = widgets.duel({"evolution": LONG, "backprop": endless}, seconds=1e6)
    clicked(box, "Start")
    pieces.wait(6)
    assert len(pictures(box)) >= 2  # still pictures while it runs
    paused(box)
    (clip,) = pictures(box, "webp")
    assert clip.shape[1:] == (10, 24, 3) and len(clip) > 1  # both grow, side by side
    found = re.findall(r"(\w+): loss [\d.]+ after ([\d.]+) s, ([\d,]+) rollouts", text(box))
    assert {name for name, *_ in found} == {"evolution", "backprop"}
    clicked(box, "Resume")
    pieces.wait(1)
    paused(box)
    named(box, "seconds").value = 0.0
    clicked(box, "Resume")
    assert messages(box) == "seconds must be positive, got 0.0"
    named(box, "seconds").value = 1e-9
    clicked(box, "Resume")
    assert messages(box) == "all sides have had their time: raise the seconds, or Reset"
    clicked(box, "Reset")
    assert pictures(box) == [] and enabled(box) == {"Start"}


def test_the_next_piece_goes_to_the_side_that_had_less_time(monkeypatch):
    given, lengths = [], {"open_es": 3.0, "backprop": 1.0}

    def advance(self, seconds):
        self.seconds += lengths[self.config.strategy]
        given.append(self.config.strategy)

    monkeypatch.setattr(Training, "advance", advance)
    box = widgets.duel({"evolution": TINY, "backprop": DESCENT}, seconds=6)
    clicked(box, "Start")
    Loop.running.wait()
    assert given.count("open_es") == 2 and given.count("backprop") == 6


def test_a_goal_without_a_picture_is_no_death():
    walk = {"emoji": "", "goal": "walk", "cells": "digital", "mask": "bernoulli"}
    evolved = Training(dataclasses.replace(TINY, **walk, std=300.0, seed=2, population=32))
    descent = {"strategy": "backprop", "surrogate": "straight", "learning_rate": 0.1}
    descended = Training(dataclasses.replace(TINY, **walk, **descent))
    before = descended.weights
    for training in (evolved, descended):
        training.advance(0)
    assert evolved.done == 1  # though most of its members have no body left
    leaves = map(jax.tree.leaves, (before, descended.weights))
    assert any((a != b).any() for a, b in zip(*leaves, strict=True))


def test_duels_are_fought_over_one_task():
    with pytest.raises(ValueError, match="goal must be the same"):
        widgets.duel({"a": TINY, "b": dataclasses.replace(TINY, emoji="", goal="walk")})
    with pytest.raises(ValueError, match=r"size must be the same on all sides, got \[6, 12\]"):
        widgets.duel({"a": TINY, "b": dataclasses.replace(TINY, size=12)})


# Colab


class Kernel:
    """As much of ipykernel 6 as the widgets use; each iteration handles one of `events`."""

    def __init__(self, events):
        self.events, self.log = events, []
        self.shell_handlers = {"execute_request": self.execute}

    async def execute(self, stream, ident, request):
        self.log.append(("executed", request))

    async def do_one_iteration(self):
        if self.events:
            result = self.events.pop(0)()
            if result is not None:
                await result

    def get_parent(self):
        return "click"

    def set_parent(self, ident, parent):
        self.log.append(("parent", parent))

    def schedule_dispatch(self, handler, *request):
        self.log.append(("scheduled", request[-1]))


def test_in_a_kernel_clicks_start_and_pause_and_cells_still_run():
    """With ipykernel 6 it polls, as on Colab; with ipykernel 7, which cannot, it is a thread."""
    from jupyter_client.manager import start_new_kernel

    code = """if True:
        import dataclasses, sys, types
        from nca_lib import widgets
        from nca_lib.background import Loop
        from nca_lib.train import PRESETS
        sys.modules["google.colab"] = types.ModuleType("google.colab")
        config = dataclasses.replace(PRESETS["smoke"], generations=1_000_000)
        box = widgets.evolution_dashboard(config)
        start, pause = box.children[1].children[:2]
        print(start.model_id, pause.model_id, box.children[3].model_id)
    """
    environment = {name: value for name, value in os.environ.items() if name != "NCA_BOOK"}
    manager, client = start_new_kernel(kernel_name="python3", env=environment)

    def click(model):
        content = {"comm_id": model, "data": {"method": "custom", "content": {"event": "click"}}}
        client.shell_channel.send(client.session.msg("comm_msg", content))

    def wait_for(fine):
        while True:
            message = client.get_iopub_msg(timeout=PATIENCE)
            content = message["content"]
            assert message["msg_type"] != "error", content["traceback"]
            if fine(message, content):
                return content

    def updated(message, content):
        is_own = message["msg_type"] == "comm_msg" and content["comm_id"] == numbers
        return is_own and "generation" in content["data"]["state"]["value"]

    def said(message, content):
        return message["msg_type"] == "stream"

    try:
        client.execute(code)
        start, pause, numbers = wait_for(said)["text"].split()
        click(start)
        for _ in range(3):
            wait_for(updated)
        click(pause)
        client.execute("Loop.stop_running(); print(start.description, pause.disabled)")
        assert wait_for(said)["text"] == "Resume True\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_on_colab_training_handles_events_between_pieces(monkeypatch, pieces):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    box, other = (widgets.evolution_dashboard(LONG) for _ in range(2))

    def cell():
        return kernel.shell_handlers["execute_request"]("stream", "ident", "a cell")

    def nothing():
        assert enabled(box) == {"Pause"} and threading.active_count() == before

    kernel = Kernel([nothing, cell, lambda: clicked(other, "Start"), lambda: clicked(box, "Pause")])
    monkeypatch.setattr(background, "get_ipython", lambda: types.SimpleNamespace(kernel=kernel))
    before = threading.active_count()
    clicked(box, "Start")  # returns when "Pause" has been clicked
    assert kernel.events == [] and pieces.count == 4
    assert enabled(box) == {"Resume", "Reset", "Save"} and "generation" in text(box)
    assert messages(other) == "another training runs: pause it first" and enabled(other) == {
        "Start"
    }
    # The cell waited until training was over.
    assert kernel.log == [("parent", "click")] * 4 + [("scheduled", "a cell")]
    assert kernel.shell_handlers == {"execute_request": kernel.execute}


# The static book


def stills(run):
    state, model = run.grow(jax.random.key(0))[-1], run.task.merge(run.params)
    yield "01_dataset", widgets.target_explorer()
    yield "02_architecture", widgets.perception_explorer(state)
    yield "02_architecture", widgets.step_explorer(model, state, np.ones((32, 32), bool))
    yield "03_loss", widgets.loss_explorer(run, side=5)
    yield "04_es_training", widgets.evolution_dashboard(PRESETS["pocket"], run)
    yield "05_visualization", widgets.growth_player(run)
    sides = {"evolution": TINY, "backprop": DESCENT}
    yield "06_es_vs_backprop", widgets.duel(sides, {"a": run, "b": load_run("lizard-backprop")})


@pytest.mark.parametrize("address", ["1", "https://colab.research.google.com/x/book/"])
def test_the_static_book_holds_pictures_and_no_widget(address, run, monkeypatch):
    monkeypatch.setenv("NCA_BOOK", address)

    def refuse(self, **_):
        raise AssertionError("a widget was made for a page that has no kernel")

    monkeypatch.setattr(ipywidgets.Widget, "__init__", refuse)
    for chapter, still in stills(run):
        assert type(still) is HTML
        assert "Live in Colab or Jupyter." in still.data and "<script" not in still.data
        images = re.findall("<img[^>]*>", still.data)
        assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
        assert pictures(still)
        moves = [len(clip) > 1 for clip in pictures(still, "webp")]
        assert moves == [True] * (chapter in ("05_visualization", "06_es_vs_backprop"))
        links = re.findall(r'href="([^"]*)"', still.data)
        assert links == ([] if address == "1" else [f"{address}{chapter}.ipynb"])


def test_without_a_run_a_still_shows_the_knobs(monkeypatch):
    monkeypatch.setenv("NCA_BOOK", "1")
    assert "σ <b>" in widgets.evolution_dashboard(TINY).data
    assert "Live in" in widgets.duel({"evolution": TINY, "backprop": DESCENT}).data
