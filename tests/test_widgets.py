"""Widgets without a browser: knobs are set, buttons clicked, pictures decoded and compared."""

import base64
import dataclasses
import html
import io
import re
import subprocess
import sys
import threading

import ipykernel
import ipywidgets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from IPython.display import HTML
from jupyter_client.manager import run_kernel
from PIL import Image, ImageSequence
from test_train import TINY

from nca_lib import load_emoji, load_run
from nca_lib.lab import images
from nca_lib.lab.task import make_task
from nca_lib.loss import mse
from nca_lib.model import KERNELS, perceive
from nca_lib.show import dashboard, knobs, widgets
from nca_lib.show.session import Loop, Training
from nca_lib.train import PRESETS, train

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
def wait_for_pieces(monkeypatch):
    """Makes pieces of training short, and waits until so many more are done."""
    advance, done = Training.advance, threading.Semaphore(0)

    def short(self, *args):
        advance(self, 0.01)
        done.release()

    def wait(more):
        while done.acquire(blocking=False):
            pass
        for _ in range(more):
            assert done.acquire(timeout=PATIENCE)

    monkeypatch.setattr(Training, "advance", short)
    return wait


def everything(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)


def named(box, description):
    """The knob or button with this description."""
    return next(w for w in everything(box) if getattr(w, "description", None) == description)


def turn(box, **values):
    for description, value in values.items():
        named(box, description.replace("_", " ")).value = value


def markup(shown):
    if isinstance(shown, HTML):
        return shown.data
    return " ".join(w.value for w in everything(shown) if isinstance(w, ipywidgets.HTML))


def text(box):
    """All that is written, without tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", markup(box))))


def messages(box):
    """What the message area says."""
    return html.unescape(" ".join(re.findall(r'role="status"[^>]*>(.*?)</p>', markup(box))))


def pictures(shown, kind="png"):
    """Every picture of this kind: frames (T, H, W, 3), as int."""
    found = []
    for data in re.findall(rf'src="data:image/{kind};base64,([^"]+)"', markup(shown)):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            frames = [np.asarray(f.convert("RGB"), int) for f in ImageSequence.Iterator(image)]
        found.append(np.stack(frames))
    return found


def tables(box):
    """The numbers of each table, row by row."""
    found = []
    for table in re.findall(r"<table.*?</table>", markup(box)):
        rows = re.findall(r"<tr>(.*?)</tr>", table)
        rows = [re.findall(r"<td[^>]*>(-?[\d.]+)</td>", row) for row in rows]
        found.append(np.array([row for row in rows if row], float))
    return found


# Chapter 1


def test_target_explorer_follows_its_knobs_and_says_what_the_library_says():
    box = widgets.target_explorer(["🍄", "🦎"])
    target = load_emoji("🍄", 24, 4)
    whole, *planes = (picture[0] for picture in pictures(box))
    np.testing.assert_array_equal(whole, images.to_rgb(target))
    for plane, expected in zip(planes, np.moveaxis(target, -1, 0), strict=True):
        np.testing.assert_array_equal(plane[..., 0], np.rint(255 * expected))
    turn(box, emoji="🦎", size=40, padding=2, alpha="straight")
    target = load_emoji("🦎", 40, 2, premultiply=False)
    for name, ground in (("black", (0, 0, 0)), ("checks", images.checkerboard(44, 44))):
        turn(box, background=name)
        shown = pictures(box)[0][0]
        np.testing.assert_array_equal(shown, images.to_rgb(target, ground, premultiplied=False))
    turn(box, or_type="lizard")
    with pytest.raises(ValueError) as refusal:
        load_emoji("lizard")
    assert messages(box) == str(refusal.value)
    np.testing.assert_array_equal(pictures(box)[0][0], shown)
    turn(box, or_type="🍄")
    assert messages(box) == "" and not np.array_equal(pictures(box)[0][0], shown)


# Chapter 2


def test_perception_explorer_turns_the_kernels(run):
    state = run.frames(jax.random.key(0))[-1]
    box = widgets.perception_explorer(state)
    seen = np.asarray(perceive(state))[..., -1]  # the alpha through the last kernel
    for rotation, kernel in ((0, KERNELS[..., 2]), (180, -KERNELS[..., 2]), (90, -KERNELS[..., 1])):
        turn(box, rotation=rotation)  # by 90 degrees what looked to the right looks up
        np.testing.assert_allclose(tables(box)[0], kernel, atol=0.006)
        if rotation != 90:
            expected = knobs.heat(-seen if rotation else seen)
            np.testing.assert_allclose(pictures(box)[1][0], expected, atol=1)
    turn(box, kernel="identity", channel="hidden 1")
    for picture in pictures(box):
        np.testing.assert_array_equal(picture[0], knobs.heat(np.asarray(state[..., 1])))
    turn(box, kernel="Laplacian")
    assert tables(box)[0].sum() == pytest.approx(0, abs=0.05)


def test_step_explorer_shows_the_numbers_of_the_step(run):
    state = run.frames(jax.random.key(0))[-1]
    model, mask = run.task.merge(run.params), jax.random.bernoulli(jax.random.key(1), 0.5, (32, 32))
    box, after = widgets.step_explorer(model, state, mask), model(state, mask)
    for row, column in ((16, 16), (0, 31), (12, 9)):
        turn(box, row=row, column=column)
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
        assert f"fires: {'yes' if mask[here] else 'no'}" in text(box)
        for picture, grid in zip(pictures(box), (state, after), strict=True):
            expected = images.to_rgb(grid)
            expected[here] = 255, 0, 255
            np.testing.assert_array_equal(picture[0], expected)


# Chapter 3


def test_loss_explorer_moves_the_window(run):
    box = widgets.loss_explorer(run, side=5)
    curve = mse(run.frames(jax.random.key(0), 128), run.target)
    for width, end in ((8, 32), (1, 100), (32, 40)):
        turn(box, end=end, width=width)
        mean = float(curve[end - width + 1 : end + 1].mean())
        assert f"window is {mean:.4g}" in markup(box)
        assert messages(box) == ""
    turn(box, end=20)
    assert "got 32" in messages(box)


def test_loss_explorer_shows_life_death_and_explosion(run):
    box = widgets.loss_explorer(run)
    _, plane, grown = pictures(box)
    colours = {tuple(c) for c in plane[0].reshape(-1, 3)}
    assert {(213, 94, 0), (128, 128, 128), (255, 255, 255)} <= colours and len(colours) > 20
    expected = images.to_rgb(run.frames(jax.random.key(0))[-1])
    np.testing.assert_allclose(grown[0], expected, atol=2)
    turn(box, way=0.0)  # untrained: the seed stays a seed
    np.testing.assert_array_equal(pictures(box)[2][0], images.to_rgb(run.task.start))
    assert pictures(box)[1][0, 18, 12].tolist() == [255, 255, 255]
    for noise, fate in ((-1.0, "exploded"), (0.9, "dead"), (0.0, "alive")):
        turn(box, noise=noise)
        assert f"at the white point: {fate}" in text(box)
        assert (pictures(box)[2].min() == 255) == (fate == "dead")  # nothing is left
    reach = pictures(box)[1]
    turn(box, reach=0.03)
    assert not np.array_equal(pictures(box)[1], reach)


# Chapter 5


def test_growth_player_scrubs_and_wounds(run):
    box = widgets.growth_player(run)
    turn(box, lives=1)
    assert messages(box)  # it compiles
    states = run.frames(jax.random.split(jax.random.key(0), 1)[0], 64)
    for step in (0, 7, 31):
        turn(box, step=step)
        np.testing.assert_allclose(pictures(box)[0][0], images.to_rgb(states[step]), atol=2)
    assert messages(box) == ""
    turn(box, step=32)
    lower, right = np.s_[16:], np.s_[:, 16:]
    for where, half, other in ((None, lower, np.s_[:16]), ("right half", right, np.s_[:, :16])):
        if where:  # the wound to begin with is the lower half, at step 32
            turn(box, erase=where)
        wounded = pictures(box)[0][0]
        assert wounded[half].min() == 255 and wounded[other].min() < 255
    turn(box, erase="nothing")
    np.testing.assert_allclose(pictures(box)[0][0], images.to_rgb(states[32]), atol=2)
    turn(box, view="hidden 2", lives=4)
    assert pictures(box)[0].shape == (1, 32, 4 * 34 - 2, 3)
    assert messages(box) == ""  # compiled before
    turn(box, step=65)
    assert "got 65" in messages(box)


# Training


def to_the_end(training):
    while training.done < training.config.generations:
        training.advance(0.01)


def test_training_does_what_train_does(tmp_path):
    training = Training(TINY)
    training.advance()
    training.save(tmp_path / "early")
    to_the_end(training)
    training.save(tmp_path / "whole")
    early, whole = (load_run(tmp_path / name) for name in ("early", "whole"))
    other = load_run(train(TINY, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, whole.params, other.params)
    assert whole.history["loss"][-1] == pytest.approx(other.history["loss"][-1], rel=1e-4)
    assert whole.history["generation"][-1] == TINY.generations
    assert early.config == dataclasses.replace(TINY, generations=1)


def test_training_goes_on_around_the_weights_of_another():
    first = Training(TINY)
    first.advance()
    second = Training(dataclasses.replace(TINY, std=0.5, generations=3), first)
    jax.tree.map(np.testing.assert_array_equal, second.weights, first.weights)
    jax.tree.map(np.testing.assert_allclose, second.trainer[0].mean(second.state), first.weights)
    to_the_end(second)
    assert second.history["generation"][0] == 1 and second.done == 3 and first.done == 1


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


def test_dashboard_trains_to_the_end_saves_goes_on_and_resets(tmp_path):
    """How it pauses, and what else readers do with it, is in test_dashboard.py."""
    earlier = load_run(train(TINY, tmp_path / "run"))
    box = dashboard.evolution_dashboard(TINY, earlier, folder=str(tmp_path / "mine"))
    assert enabled(box) == {"Start"}
    clicked(box, "Start")
    Loop.running.wait()
    assert enabled(box) == {"Resume", "Reset", "Save"}
    assert "generation 30 of 30" in text(box)
    assert re.search(r"loss 0\.\d+ \(\d+% of an empty grid's\)", text(box))
    assert re.search(r"[\d,]+ rollouts/s · 0 min 0 s left · gradient cosine 0.06, est", text(box))
    assert "earlier run ends at" in markup(box) and "this run ends at" in markup(box)
    grown, target, curve = pictures(box)
    np.testing.assert_array_equal(target[0], images.to_rgb(make_task(TINY).target))
    assert grown.shape == target.shape and curve[0].shape[1] > 300

    clicked(box, "Save")
    saved = load_run(tmp_path / "mine")
    assert saved.history["generation"][-1] == 30 == saved.config.generations
    jax.tree.map(np.testing.assert_array_equal, saved.params, earlier.params)
    for knob, value, trouble in (
        ("generations", 30, "30 generations are done"),
        ("hidden", 16, "hidden must be"),
        ("population", 7, "got 7"),
    ):
        before = named(box, knob).value
        turn(box, **{knob: value})
        clicked(box, "Resume")
        assert trouble in messages(box) and Loop.running is None
        turn(box, **{knob: before})
    clicked(box, "Save")
    assert f"{tmp_path / 'mine'} holds a run already" in messages(box)
    turn(box, generations=40)
    clicked(box, "Resume")
    Loop.running.wait()
    assert "generation 40 of 40" in text(box)
    clicked(box, "Reset")
    assert enabled(box) == {"Start"} and pictures(box) == []


def test_dashboard_reports_a_dead_population():
    box = dashboard.evolution_dashboard(dataclasses.replace(LONG, std=50.0))
    clicked(box, "Start")
    Loop.running.wait()
    assert re.search("members (died|are not finite)", messages(box))
    assert enabled(box) == {"Resume", "Reset", "Save"}


def test_never_two_at_once_and_none_when_its_widget_is_closed(wait_for_pieces):
    first, second = (dashboard.evolution_dashboard(LONG) for _ in range(2))
    clicked(first, "Start")
    wait_for_pieces(2)
    clicked(second, "Start")
    assert enabled(first) == {"Resume", "Reset", "Save"}
    wait_for_pieces(2)
    assert enabled(second) == {"Pause"}
    loop = Loop.running
    third = dashboard.duel({"evolution": LONG, "backprop": DESCENT})  # making one stops the other
    assert not loop.thread.is_alive() and enabled(second) == {"Resume", "Reset", "Save"}
    clicked(third, "Start")
    wait_for_pieces(1)
    loop = Loop.running
    third.close()
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()


def test_training_stops_when_the_kernel_ends():
    code = """if True:
        import threading
        from nca_lib.show import dashboard
        from nca_lib.train import PRESETS
        box = dashboard.evolution_dashboard(PRESETS["smoke"])
        box.children[1].children[0].click()
        assert threading.active_count() > 1
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


# Chapter 6


def test_duel_gives_both_sides_the_same_time(wait_for_pieces):
    endless = dataclasses.replace(DESCENT, generations=LONG.generations)
    box = dashboard.duel({"evolution": LONG, "backprop": endless}, seconds=1e6)
    clicked(box, "Start")
    wait_for_pieces(6)
    assert len(pictures(box)) >= 2  # still pictures while it runs
    paused(box)
    (clip,) = pictures(box, "webp")
    assert clip.shape[1:] == (10, 24, 3) and len(clip) > 1  # both grow, side by side
    found = re.findall(r"(\w+): loss [\d.]+ after ([\d.]+) s, ([\d,]+) rollouts", text(box))
    assert {name for name, *_ in found} == {"evolution", "backprop"}
    clicked(box, "Resume")
    wait_for_pieces(1)
    paused(box)
    for seconds in (0.0, 1e-9):  # the one is no time, the other is over
        turn(box, seconds=seconds)
        clicked(box, "Resume")
        assert "seconds" in messages(box) and Loop.running is None
    clicked(box, "Reset")
    assert pictures(box) == [] and enabled(box) == {"Start"}


def test_the_next_piece_goes_to_the_side_that_had_less_time(monkeypatch):
    given, lengths = [], {"open_es": 3.0, "backprop": 1.0}

    def advance(self, seconds):
        seconds = self.seconds + lengths[self.config.strategy]
        self.last = self.last | {"seconds": seconds}
        given.append(self.config.strategy)

    monkeypatch.setattr(Training, "advance", advance)
    clicked(dashboard.duel({"evolution": TINY, "backprop": DESCENT}, seconds=6), "Start")
    Loop.running.wait()
    assert sorted(given) == ["backprop"] * 6 + ["open_es"] * 2


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


@pytest.mark.parametrize("fields", [{"emoji": "", "goal": "walk"}, {"size": 12}])
def test_duels_are_fought_over_one_task(fields):
    with pytest.raises(ValueError, match=f"{[*fields][-1]} must be the same"):
        dashboard.duel({"a": TINY, "b": dataclasses.replace(TINY, **fields)})


# Colab


@pytest.mark.skipif(
    ipykernel.version_info >= (7,), reason="there a thread trains, as in test_dashboard.py"
)
def test_as_on_colab_clicks_are_handled_between_pieces_and_cells_wait_until_the_end():
    code = """if True:
        import dataclasses, sys, types
        from nca_lib.show import dashboard
        from nca_lib.train import PRESETS
        sys.modules["google.colab"] = types.ModuleType("google.colab")
        config = dataclasses.replace(PRESETS["smoke"], generations=1_000_000)
        one, other = (dashboard.evolution_dashboard(config) for _ in range(2))
        (start, pause, *_), (another, *_) = (box.children[1].children for box in (one, other))
        print(start.model_id, another.model_id, pause.model_id)
    """

    def click(model):
        content = {"comm_id": model, "data": {"method": "custom", "content": {"event": "click"}}}
        client.shell_channel.send(client.session.msg("comm_msg", content))

    def wait_for(fine):
        while True:
            content = client.get_iopub_msg(timeout=PATIENCE)["content"]
            assert "traceback" not in content, content["traceback"]
            if fine(content):
                return content

    def printed(content):
        return content.get("name") == "stdout"

    with run_kernel(kernel_name="python3") as client:
        client.execute(code)
        start, another, pause = wait_for(printed)["text"].split()
        click(start)
        for _ in range(3):
            wait_for(lambda content: "rollouts/s" in str(content))
        client.execute("print(pause.disabled, another.description, bool(other.children[2].value))")
        click(another)  # is refused
        click(pause)
        assert wait_for(printed)["text"] == "True Start True\n"


# The static book


def stills(run):
    state, model = run.frames(jax.random.key(0))[-1], run.task.merge(run.params)
    yield "01_dataset", widgets.target_explorer()
    yield "02_architecture", widgets.perception_explorer(state)
    yield "02_architecture", widgets.step_explorer(model, state, np.ones((32, 32), bool))
    yield "03_loss", widgets.loss_explorer(run, side=5)
    yield "04_es_training", dashboard.evolution_dashboard(PRESETS["pocket"], run)
    yield "05_visualization", widgets.growth_player(run)
    sides = {"evolution": TINY, "backprop": DESCENT}
    yield "06_es_vs_backprop", dashboard.duel(sides, {"a": run, "b": load_run("lizard-backprop")})


def test_the_static_book_holds_pictures_and_no_widget(run, monkeypatch):
    address = "https://colab.research.google.com/x/book/"
    monkeypatch.setenv("NCA_BOOK", address)

    def refuse(self, **_):
        raise AssertionError("a widget was made for a page that has no kernel")

    monkeypatch.setattr(ipywidgets.Widget, "__init__", refuse)
    for chapter, still in stills(run):
        assert type(still) is HTML and "<script" not in still.data
        images = re.findall("<img[^>]*>", still.data)
        assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
        assert pictures(still)
        moves = [len(clip) > 1 for clip in pictures(still, "webp")]
        assert moves == [True] * (chapter in ("05_visualization", "06_es_vs_backprop"))
        assert re.findall(r'href="([^"]*)"', still.data) == [f"{address}{chapter}.ipynb"]
    monkeypatch.setenv("NCA_BOOK", "1")  # no address is known, nor a run
    for still in (dashboard.evolution_dashboard(TINY), dashboard.duel({"a": TINY, "b": DESCENT})):
        assert type(still) is HTML and "href" not in still.data and pictures(still) == []
