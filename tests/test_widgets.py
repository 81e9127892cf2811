"""Widgets without a browser: knobs are set, buttons clicked, pictures decoded and compared."""

import base64
import copy
import dataclasses
import html
import re
import subprocess
import sys
import threading
import types

import ipykernel
import ipywidgets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from IPython.display import HTML
from jupyter_client.manager import run_kernel
from test_images import decode
from test_train import TINY

from nca_lib import load_emoji, load_run
from nca_lib.lab import images
from nca_lib.lab.session import Training
from nca_lib.lab.task import make_task
from nca_lib.loss import mse
from nca_lib.model import KERNELS, perceive
from nca_lib.show import dashboard, figures, knobs, widgets
from nca_lib.show.dashboard import Driver
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
    Driver.stop_running()


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


def drawings(box):
    """What the figures say of themselves."""
    return html.unescape(" ".join(re.findall(r'aria-label="([^"]*)"', markup(box))))


def hit(box, x, y):
    """Click on what is clickable, at shares of its width and height."""
    place = next(w for w in everything(box) if getattr(w.layout, "display", None) == "none")
    place.value = f"{x} {y} {len(place.value)}"


def messages(box):
    """What the message area says."""
    return html.unescape(" ".join(re.findall(r'role="status"[^>]*>(.*?)</p>', markup(box))))


def pictures(shown):
    """Every picture, (H, W, 3), as int."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', markup(shown))
    return [decode(base64.b64decode(data))[0][0].astype(int) for data in found]


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
    box = widgets.target_explorer()
    target = load_emoji("🦎", 24, 4)
    whole, *planes = pictures(box)
    np.testing.assert_array_equal(whole, images.to_rgb(target))
    for plane, expected in zip(planes, np.moveaxis(target, -1, 0), strict=True):
        np.testing.assert_array_equal(plane[..., 0], np.rint(255 * expected))
    turn(box, emoji="🍄", Target_size=40, padding=2, alpha="straight")
    target = load_emoji("🍄", 40, 2, premultiply=False)
    for name, ground in (("black", (0, 0, 0)), ("checks", images.checkerboard(44, 44))):
        turn(box, background=name)
        shown = pictures(box)[0]
        np.testing.assert_array_equal(shown, images.to_rgb(target, ground, premultiplied=False))
    turn(box, emoji="as typed", typed="lizard")
    with pytest.raises(ValueError) as refusal:
        load_emoji("lizard")
    assert messages(box) == str(refusal.value)
    np.testing.assert_array_equal(pictures(box)[0], shown)
    turn(box, typed="🐙")
    assert messages(box) == "" and not np.array_equal(pictures(box)[0], shown)
    turn(box, emoji="🍄")  # the list counts, whatever is typed
    np.testing.assert_array_equal(pictures(box)[0], shown)


# Chapter 2


def test_perception_explorer_turns_the_kernels(run):
    state = run.frames(jax.random.key(0))[-1]
    box = widgets.perception_explorer(state)
    for rotation, kernel in ((0, KERNELS[..., 2]), (90, -KERNELS[..., 1])):
        turn(box, rotation=rotation)  # by 90 degrees what looked to the right looks up
        np.testing.assert_allclose(tables(box)[0], kernel, atol=0.0006)
        seen = perceive(state[..., -1:], kernel[..., None])[..., 0]
        np.testing.assert_allclose(pictures(box)[1], figures.heat(seen), atol=1)
    assert "turned by 90°" in text(box)
    turn(box, kernel="identity", channel="hidden 1")
    assert "turned" not in text(box)  # it has no direction
    for picture in pictures(box):
        np.testing.assert_array_equal(picture, figures.heat(np.asarray(state[..., 1])))


def test_step_explorer_shows_the_numbers_of_the_step(run):
    state = run.frames(jax.random.key(0))[-1]
    model, mask = run.task.merge(run.params), jax.random.bernoulli(jax.random.key(1), 0.5, (32, 32))
    box, after = widgets.step_explorer(model, state, mask), model(state, mask)
    for row, column in ((16, 16), (0, 31), (12, 9)):
        turn(box, row=row, column=column)
        here = row, column
        alpha = np.pad(np.asarray(state[..., -1]), 1)[row : row + 3, column : column + 3]
        seen = perceive(state)[here]
        stations = [alpha, seen, jnp.maximum(model.hidden(seen), 0), model.update(seen)]
        stations += [jnp.stack([state[here], after[here]])]
        for table, numbers in zip(tables(box), stations, strict=True):
            np.testing.assert_allclose(table.ravel(), numbers.ravel(), atol=0.00051)
        assert f"fires: {'yes' if mask[here] else 'no'}" in text(box)
        for picture, grid in zip(pictures(box), (state, after), strict=True):
            expected = images.to_rgb(grid)
            expected[here] = 255, 0, 255
            np.testing.assert_array_equal(picture, expected)
    hit(box, (9 + 0.5) / 32, (12 + 0.5) / 32)
    assert (named(box, "row").value, named(box, "column").value) == (12, 9)


# Chapter 3


def test_loss_explorer_moves_the_window(run):
    box = widgets.loss_explorer(run, side=5)
    curve = mse(run.frames(jax.random.key(0), 128), run.target)
    for width, end in ((8, 32), (1, 100), (32, 40)):
        turn(box, end=end, width=width)
        mean = float(curve[end - width + 1 : end + 1].mean())
        assert f"window: {mean:.4g}" in text(box) and messages(box) == ""
    turn(box, end=20)
    assert "got 32" in messages(box)


def test_loss_explorer_shows_life_death_and_explosion(run):
    box = widgets.loss_explorer(run, side=9)
    share = r"exploded \(orange\) (\d+)%, dead \(grey\) (\d+)%"
    wild, dead = map(int, re.search(share, drawings(box)).groups())
    assert wild > 0 and dead > 0 and wild + dead < 90
    expected = images.to_rgb(run.frames(jax.random.key(0))[-1])
    np.testing.assert_allclose(pictures(box)[0], expected, atol=2)
    turn(box, way=0.0)  # untrained: the seed stays a seed
    np.testing.assert_array_equal(pictures(box)[0], images.to_rgb(run.task.start))
    for noise, fate in ((-1.0, "exploded"), (0.9, "dead"), (0.0, "alive")):
        turn(box, noise=noise)
        assert (pictures(box)[0].min() == 255) == (fate == "dead")  # nothing is left
    turn(box, reach=0.03)
    assert re.search(share, drawings(box)).groups() != (str(wild), str(dead))
    left, bottom, width, height = widgets.AREA
    hit(box, left + 0.75 * width, 1 - bottom - 0.5 * height)
    assert (named(box, "noise").value, named(box, "way").value) == (0.5, 0.5)


# Chapter 6


def test_growth_player_scrubs_and_wounds(run):
    box = widgets.growth_player(run)
    step = named(box, "step")
    assert (step.value, step.max) == (32, 128)  # grown, and the end of the life
    keys = jax.random.split(jax.random.key(0), 4)
    lives = jax.vmap(lambda key: run.frames(key, 128))(keys)
    states = lives[0]
    for step in (0, 7, 31):
        turn(box, step=step)
        shown = pictures(box)[0]
        assert shown.shape == (32, 4 * 34 - 2, 3)
        np.testing.assert_allclose(shown[:, :32], images.to_rgb(states[step]), atol=2)
    loss = float(re.search(r"step 31, loss ([\d.]+)", text(box))[1])
    assert loss == pytest.approx(float(mse(lives[:, 31], run.target).mean()), abs=1e-4)
    turn(box, radius=0, step=100)
    np.testing.assert_allclose(pictures(box)[0][:, :32], images.to_rgb(states[100]), atol=2)
    turn(box, step=32, radius=6)
    hit(box, (34 + 8.5) / (4 * 34 - 2), 16.5 / 32)  # in the second life
    assert [named(box, name).value for name in ("row", "column", "when")] == [16, 8, 32]
    for column in (8, 34 + 8):  # all lives are wounded
        assert pictures(box)[0][16, column].min() == 255
    assert pictures(box)[0][16, 20].min() < 255
    turn(box, view="hidden 2")
    assert pictures(box)[0].shape == (32, 4 * 34 - 2, 3) and messages(box) == ""


# Training


def test_what_is_changed_on_the_way_is_told_and_can_be_taken_back(tmp_path):
    training = Training(TINY)
    training.advance()
    whole, before = copy.copy(training), training.state
    jax.tree.map(np.testing.assert_array_equal, training.tuned(TINY.std), before)
    training.config = dataclasses.replace(TINY, std=0.05)
    np.testing.assert_allclose(training.tuned(0.05).std, before.std * 2.5, rtol=1e-6)
    training.advance(0)
    training.save(tmp_path / "run")
    saved = load_run(tmp_path / "run")
    first, second = saved.info["changes"]
    assert (first["generation"], first["std"]) == (0, TINY.std)
    assert second == first | {"generation": 1, "std": 0.05}
    assert saved.config == dataclasses.replace(TINY, generations=2)
    back = training.rewound()
    for one in (back, whole):
        while one.done < TINY.generations:
            one.advance(0.01)
    jax.tree.map(np.testing.assert_array_equal, back.state, whole.state)
    assert back.past == [] and training.done == 2 == len(training.history["loss"])


def test_live_settings_and_cells_that_run_again_compile_nothing(run, monkeypatch):
    widgets.loss_explorer(run, side=5)
    first = Training(TINY)
    first.advance()
    first.offspring()

    def refuse(*_):
        raise AssertionError("something is compiled anew")

    monkeypatch.setattr(jax._src.compiler, "backend_compile_and_load", refuse)
    widgets.loss_explorer(run, side=5)
    live = {"std": 0.01, "std_rate": 0.3, "learning_rate": 0.1, "generations": 50}
    first.config = dataclasses.replace(TINY, **live)
    first.advance()
    first.offspring()
    other = Training(dataclasses.replace(TINY, std=0.07))  # a new start of the same kind
    other.advance()
    other.offspring()


def test_offspring_are_those_of_the_coming_generation():
    training = Training(TINY)
    for _ in range(2):
        fitness, states = training.offspring()
        training.advance(0)
        mean, best = (training.last[f"fitness_{name}"] for name in ("mean", "best"))
        np.testing.assert_allclose([fitness.mean(), fitness[0]], [mean, best], rtol=1e-4)
        assert (np.diff(fitness) >= 0).all() and states.shape == (8, 10, 10, 8)


# Chapter 5


def clicked(box, *descriptions):
    for description in descriptions:
        button = named(box, description)
        assert not button.disabled, description
        button.click()


def trained(box, button):
    """Click, and wait until training has come to its end."""
    clicked(box, button)
    Driver.running.thread.join(PATIENCE)


def paused(box):
    """Click on "Pause" and wait until training has stopped."""
    loop = Driver.running
    clicked(box, "Pause")
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive() and Driver.running is None


def enabled(box):
    buttons = (w for w in everything(box) if isinstance(w, ipywidgets.Button))
    return {button.description for button in buttons if not button.disabled}


def ledger(box):
    return next(w for w in everything(box) if isinstance(w, ipywidgets.SelectMultiple))


def test_dashboard_trains_as_train_does_saves_goes_on_and_resets(tmp_path, monkeypatch):
    """How it pauses, and what else readers do with it, is in test_dashboard.py."""
    monkeypatch.setenv("HOME", str(tmp_path))
    earlier = load_run(train(TINY, tmp_path / "run"))
    box = dashboard.evolution_dashboard(TINY, earlier)
    assert "Start" in enabled(box) and "Pause" not in enabled(box)
    trained(box, "Start")
    assert {"Resume", "Reset", "Save"} <= enabled(box) and "Pause" not in enabled(box)
    told = r"generation 30 of 30 · loss 0\.\d+ \(\d+% .* [\d,]+ rollouts/s · 0:00:00 left"
    assert re.search(told, text(box)) and messages(box) == ""
    assert "earlier run ends at" in drawings(box) and "trial 1 ends at" in drawings(box)
    offspring, grown, target = pictures(box)
    np.testing.assert_array_equal(target, images.to_rgb(make_task(TINY).target))
    assert grown.shape == target.shape and len(offspring) > len(target)

    said, save = [], Training.save

    def watched(self, out):
        said.append(messages(box))
        save(self, out)

    monkeypatch.setattr(Training, "save", watched)
    turn(box, Folder="~/mine")
    clicked(box, "Save")
    assert said != [""] and said != [messages(box)]  # it takes a while
    saved = load_run(tmp_path / "mine")
    assert saved.history["generation"][-1] == 30 == saved.config.generations
    assert saved.history["loss"][-1] == pytest.approx(earlier.history["loss"][-1], rel=1e-4)
    jax.tree.map(np.testing.assert_array_equal, saved.params, earlier.params)
    clicked(box, "Save")
    assert f"{tmp_path / 'mine'} holds a run already" in messages(box)
    turn(box, Folder=" ")
    clicked(box, "Save")
    assert "folder must be a name" in messages(box)
    clicked(box, "Resume")
    assert "more than are done" in messages(box) and Driver.running is None
    turn(box, Generations=100)
    trained(box, "Resume")
    turn(box, Generations=30)  # fewer than are done
    assert "0:00:00 left" in text(box)
    clicked(box, "Resume")
    assert "more than are done" in messages(box)
    turn(box, Generations=100)
    turn(box, Window=8)  # longer than the steps
    assert "window must be" in messages(box) and named(box, "Window").value == 2  # as it trains
    turn(box, Population=16)
    assert "Start" in enabled(box) and "Before the first generation" in text(box)  # a new trial
    assert len(ledger(box).options) == 1  # the other is not lost
    assert "trial 1 ends at" not in drawings(box) and "trial 1: loss" in drawings(box)
    clicked(box, "Restore")
    assert "generation 100 of 100" in text(box) and named(box, "Population").value == 8
    clicked(box, "Rewind")
    assert "generation 30 of 30" in text(box)
    clicked(box, "Rewind")
    assert "changed on the way" in messages(box)
    assert len(ledger(box).options) == 2
    clicked(box, "Delete")
    assert len(ledger(box).options) == 1


def test_a_sigma_that_is_moved_shows_other_offspring_and_trains_nothing():
    box = dashboard.evolution_dashboard(TINY)
    turn(box, Noise_σ=0.001)
    (calm, *_) = pictures(box)
    members = r"8 members at σ (\S+) by loss: (\d+) dead \(grey\), (\d+) exploded \(orange\)"
    assert re.search(members, text(box)).groups() == ("0.001", "0", "0") and Driver.running is None
    turn(box, Noise_σ=1)
    (wild, *_) = pictures(box)
    dead, exploded = map(int, re.search(members, text(box)).groups()[1:])
    assert dead + exploded > 0 and not np.array_equal(calm, wild)
    assert re.search(rf"{dead or ''} dead ({exploded} )?exploded", text(box))  # below the bars
    assert "Before the first generation" in text(box)
    frames = {tuple(pixel) for pixel in wild.reshape(-1, 3)}
    assert frames & {(128, 128, 128), (213, 94, 0)}


@pytest.mark.parametrize("story", [*dashboard.STORIES])
def test_a_story_takes_one_click(story, wait_for_pieces):
    box = dashboard.evolution_dashboard(LONG)
    if story == "Dies":
        trained(box, story)
        assert re.search(r"most members died .*Generation \d+ is kept", messages(box))
        assert "step_size" not in messages(box)  # which has no knob
        turn(box, Noise_σ=0.02)
        clicked(box, *{"Start", "Resume"} & enabled(box))  # as the message says
    else:
        clicked(box, story)
    wait_for_pieces(1)
    paused(box)
    assert re.search("of [0-9,]+ · loss", text(box)) and messages(box) == ""


def test_a_cell_that_runs_again_closes_what_it_made(monkeypatch):
    told, parent = [], {}
    kernel = types.SimpleNamespace(get_parent=parent.copy)
    monkeypatch.setattr(knobs, "get_ipython", lambda: types.SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(knobs, "display", told.append)
    boxes = []
    for number, cell in enumerate("aba"):
        parent |= {"header": {"msg_id": str(number)}, "metadata": {"cellId": cell}}
        boxes.append(list(everything(dashboard.evolution_dashboard(TINY))))
        note = re.search('class="(.*?)"', told[-1].data)[1]  # seen where no kernel answers
        assert f".{note} {{display: none}}" in markup(boxes[-1][0])
    for number, parts in enumerate(boxes):
        assert all((part.comm is None) == (number == 0) for part in parts)
    assert boxes[0][0].children == ()


def test_never_two_at_once(wait_for_pieces):
    first, second = (dashboard.evolution_dashboard(LONG) for _ in range(2))
    clicked(first, "Start")
    wait_for_pieces(2)
    clicked(second, "Start")
    assert {"Resume", "Reset"} <= enabled(first)
    assert "another training has begun" in messages(first)
    wait_for_pieces(2)
    assert "Pause" in enabled(second) and "Start" not in enabled(second)
    loop = Driver.running
    dashboard.duel({"evolution": LONG, "backprop": DESCENT})  # making one stops the other
    assert not loop.thread.is_alive() and {"Resume", "Reset"} <= enabled(second)


def test_training_stops_when_the_kernel_ends():
    code = """if True:
        import threading
        from nca_lib.show import dashboard
        from nca_lib.train import PRESETS
        box = dashboard.evolution_dashboard(PRESETS["smoke"])
        box.children[0].children[0].children[0].click()
        assert threading.active_count() > 1
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


# Chapter 8


def test_of_a_duel_one_side_dies_and_the_others_go_on(wait_for_pieces):
    endless = dataclasses.replace(DESCENT, generations=LONG.generations)
    sides = {"evolution": LONG, "σ 50": dataclasses.replace(LONG, std=50.0), "backprop": endless}
    box = dashboard.duel(sides)
    clicked(box, "Start")
    wait_for_pieces(8)
    paused(box)
    assert messages(box).count("generation 1:") == 1  # it says where
    assert text(box).count("rollouts/s") == 2 and len(pictures(box)) == 6
    assert "evolution ends at" in drawings(box) and "backprop ends at" in drawings(box)
    turn(box, Noise_σ=0.035)  # of the first side
    clicked(box, "Resume")
    wait_for_pieces(3)
    paused(box)
    clicked(box, "Reset")
    assert text(box).count("Before the first") == 3 and "Start" in enabled(box)


def test_the_side_that_had_less_time_goes_on_and_what_takes_long_says_so(monkeypatch):
    given, said, lengths = [], [], {"open_es": 3.0, "backprop": 1.0}
    go = threading.Event()
    box = dashboard.duel({"evolution": TINY, "backprop": DESCENT})

    def compile(*_):
        said.append(messages(box))

    def advance(self):
        assert go.wait(PATIENCE)
        seconds = self.last["seconds"] + lengths[self.config.strategy]
        self.last = self.last | {"seconds": seconds}
        given.append(self.config.strategy)
        if len(given) == 8:
            clicked(box, "Pause")
            said.append(messages(box))

    monkeypatch.setattr(Training, "advance", advance)
    monkeypatch.setattr(Training, "train_to", compile)
    clicked(box, "Reset", "Start")
    thread = Driver.running.thread
    go.set()
    thread.join(PATIENCE)
    assert sorted(given) == ["backprop"] * 6 + ["open_es"] * 2
    assert [words.split()[0] for words in said] == ["Compiling:", "Compiling:", "Pausing"]
    assert messages(box) == ""


def test_a_slow_generation_is_a_piece_of_its_own(monkeypatch):
    """So that at most one comes after a click on "Pause"."""
    asked, train_to = [], Training.train_to

    def slow(self, point):
        asked.append(point - self.done)
        state, last = train_to(self, point)
        return state, last | {"seconds": 4.0 * point}  # as of a large population on a laptop

    monkeypatch.setattr(Training, "train_to", slow)
    training = Training(TINY)
    for _ in range(3):
        training.advance()
    assert asked == [1, 1, 1]


def test_a_goal_without_a_picture_is_no_death():
    walk = {"emoji": "", "goal": "walk", "cells": "digital", "mask": "bernoulli"}
    evolved = Training(dataclasses.replace(TINY, **walk, std=300.0, seed=2, population=32))
    evolved.advance(0)
    assert evolved.done == 1  # though most of its members have no body left


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
        buttons = [box.children[0].children[0].children[:2] for box in (one, other)]
        print(*(button.model_id for pair in buttons for button in pair))
    """
    told = "print([(start.description, pause.disabled) for start, pause in buttons])"

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
        start, _, start_other, pause_other = wait_for(printed)["text"].split()
        for button in (start, start_other):  # the second takes the place of the first
            click(button)
            for _ in range(3):
                wait_for(lambda content: "rollouts/s" in str(content))
            client.execute(told)
        click(pause_other)
        for _ in range(2):
            assert wait_for(printed)["text"] == "[('Resume', True), ('Resume', True)]\n"


# The static book


def stills(run):
    state, model = run.frames(jax.random.key(0))[-1], run.task.merge(run.params)
    yield "01_dataset", widgets.target_explorer()
    yield "02_architecture", widgets.perception_explorer(state)
    yield "02_architecture", widgets.step_explorer(model, state, np.ones((32, 32), bool))
    yield "03_loss", widgets.loss_explorer(run, side=5)
    yield "05_es_training", dashboard.evolution_dashboard(PRESETS["pocket"], run)
    yield "07_persistence", widgets.growth_player(run)
    sides = {"evolution": TINY, "backprop": DESCENT}
    yield "08_es_vs_backprop", dashboard.duel(sides, {"a": run, "b": load_run("lizard-backprop")})


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
        assert re.findall(r'<a [^>]*href="([^"]*)"', still.data) == [f"{address}{chapter}.ipynb"]
    monkeypatch.setenv("NCA_BOOK", "1")  # no address is known, nor a run
    for still in (dashboard.evolution_dashboard(TINY), dashboard.duel({"a": TINY, "b": DESCENT})):
        assert type(still) is HTML and "href" not in still.data and pictures(still) == []
