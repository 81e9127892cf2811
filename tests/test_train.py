"""The trainer: configurations, the loop, run folders, exact resume and the command line."""

import dataclasses
import io
import json
import math
import resource
import shutil
import signal
import sys
import types
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from faults import exit_status, following, same_run
from jax.flatten_util import ravel_pytree
from PIL import Image

import nca_lib.train
from nca_lib import evolution
from nca_lib.lab import checkpoint, images, machine, runs
from nca_lib.lab.checkpoint import weights_to_arrays
from nca_lib.lab.config import PRESETS, Config
from nca_lib.lab.loop import _check_alive, log_points, train
from nca_lib.lab.machine import describe_device, describe_machine, memory_needed, plan_chunk
from nca_lib.lab.runs import load_run
from nca_lib.lab.task import make_strategy, make_task
from nca_lib.loss import mse, overflow_loss
from nca_lib.rollout import record
from nca_lib.train import main, parse

TINY = dataclasses.replace(
    PRESETS["smoke"], size=6, num_steps=6, window=2, population=8, generations=30, log_every=7
)
ROWS = [*range(1, 17), 21, 28, 30]  # generations in the history of TINY
# One configuration for each strategy; together they take every path of a generation.
MORE = {
    "whitened": {"std": 0.03, "learning_rate": 0.5, "age": 8, "damage": 0.5, "mask": "bernoulli"},
    "open_es": {"pool": 8, "damage": 0.5},
    "backprop": {"population": 4, "pool": 8, "damage": 0.5},
}
PATHS = [dataclasses.replace(TINY, strategy=name, **more) for name, more in MORE.items()]
on_each_path = pytest.mark.parametrize("config", PATHS, ids=lambda config: config.strategy)


def ctrl_c_at(generation):
    """Within, trainings are interrupted when so many generations are done."""

    def press(row):
        if row["generation"] == generation:
            raise KeyboardInterrupt

    return following(press)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run of 30 generations."""
    return train(TINY, tmp_path_factory.mktemp("runs") / "whole", command="the command")


# Configurations


def beyond(field):
    """Values that a field of `Config` must not have."""
    kinds = {int: [1.5, True, "1"], float: [math.nan, math.inf, "1"], bool: [1, "true"]}
    told, values = field.metadata, kinds.get(field.type, [7, None, True])
    bounds = [] if told["low"] is None else [told["low"] - 1, told["high"] + 1]
    return [*values, *bounds, *["no such"] * bool(told["choices"])]


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_fields_out_of_bounds_are_named_with_their_value(field):
    for value in beyond(field):
        with pytest.raises(ValueError, match=f"^{field.name} must be .* got {value!r}$"):
            dataclasses.replace(TINY, **{field.name: value})


# By the field that is named: a preset, and flags that do not go with it.
APART = {
    "window": ["smoke --window 13"],
    "population": ["smoke --population 7"],
    "size": ["smoke --size 7", "life --size 58"],
    "emoji": ["walk --emoji 🦎"],
    "age": ["walk --age 3", "quick --age 3 --pool 8", "backprop --age 3"],
    "pool": ["walk --pool 8", "quick --pool 7"],
    "damage": ["smoke --damage 0.5"],
    "surrogate": ["walk --surrogate soft", "walk --strategy backprop"],
    "hidden": ["smoke --channels 1024 --hidden 65536"],
    "num_steps": ["smoke --num-steps 1000000"],
}


@pytest.mark.parametrize("name", APART)
def test_values_that_do_not_go_together_are_named(name):
    for flags in APART[name]:
        with pytest.raises(ValueError, match=f"^{name} must be .*, got "):
            parse(["--out", "x", "--preset", *flags.split()])


def test_values_at_the_bounds_are_fine():
    odd = Config(strategy="backprop", population=255, size=23, mask="bernoulli", window=32)
    assert (odd.population, odd.size, odd.window) == (255, 23, odd.num_steps)


def test_no_history_has_more_than_4000_rows():
    config = dataclasses.replace(PRESETS["pocket"], log_every=1)
    points = log_points(config, 0)
    assert len(points) <= 4_000 and points[-1] == config.generations == 125_000


@pytest.mark.parametrize("sizes", [(8, 16), (16, 128)])
def test_members_of_a_larger_network_start_as_far_from_the_mean(sizes):
    config = dataclasses.replace(PRESETS["pocket"], channels=sizes[0], hidden=sizes[1])
    task = make_task(config)
    strategy = make_strategy(config, task.params)
    std, _ = ravel_pytree(strategy.std(strategy.init(jax.random.key(0), task.params)))
    count = min(1064, std.size)  # in a smaller network sigma is the same
    assert np.linalg.norm(std) == pytest.approx(config.std * math.sqrt(count), rel=1e-4)


def test_without_shared_luck_members_that_are_alike_differ():
    run = load_run("lizard")
    shared, _ = run.task.prepare(run.params, jax.random.key(0))
    alike = jax.tree.map(lambda x: x * (1 + 1e-6), run.params)
    for luck in (True, False):
        task = run.task._replace(config=dataclasses.replace(run.config, shared_luck=luck))
        one, other = (float(task.live(params, shared)[0]) for params in (run.params, alike))
        assert (abs(one - other) < 1e-5) == luck


# Run folders


def test_a_run_folder_is_complete(finished):
    run, info = load_run(finished), load_run(str(finished)).info
    assert run.config == TINY and run.target.shape == (10, 10, 4)
    assert run.frames(jax.random.key(0)).shape == (7, 10, 10, 8)
    assert (info["command"], info["device"]) == ("the command", describe_device())
    assert (info["parameters"], info["rollouts"]) == (1_064, 30 * 8)
    assert info["versions"]["jax"] == jax.__version__ and info["seconds"] > 0
    assert info["std"] == pytest.approx(dict.fromkeys(weights_to_arrays(run.params), TINY.std))
    losses = run.evaluate(keys=8)
    assert losses.shape == (8,) and not np.array_equal(losses, run.evaluate(keys=8, factor=3))
    np.testing.assert_allclose(losses.mean(), info["loss"]["mean"], rtol=1e-5)
    assert run.history["generation"].tolist() == ROWS
    assert np.isfinite([*run.history.values()]).all()
    with Image.open(finished / "growth.webp") as clip, Image.open(finished / "final.png") as still:
        assert clip.n_frames > 1 and clip.size == still.size == (60, 60)


@on_each_path
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(evolution, "LOOK", 4)  # generation 11 lies between two looks
    whole, cut = train(config, tmp_path / "whole"), tmp_path / "cut"
    with ctrl_c_at(11), pytest.raises(KeyboardInterrupt):
        train(config, cut, command="python -m x --out cut")
    assert "generation 11. To go on: python -m x --out cut --resume" in capsys.readouterr().out
    assert not (cut / "run.json").exists()
    same_run(whole, train(config, cut, resume=True))


def test_a_finished_run_can_be_made_longer(finished, tmp_path):
    folder, longer = tmp_path / "longer", dataclasses.replace(TINY, generations=34)
    shutil.copytree(finished, folder)
    train(longer, folder, resume=True)
    assert load_run(folder).history["generation"].tolist() == [*ROWS, 34]
    before = (folder / "run.json").stat().st_mtime_ns
    train(longer, folder, resume=True)  # complete already: nothing to do
    assert (folder / "run.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="generations is 30, in the checkpoint 34"):
        train(TINY, folder, resume=True)


def test_a_run_is_not_overwritten(finished, tmp_path):
    before = (finished / "run.json").read_bytes()
    for folder in (finished, load_run("lizard").folder):  # the latter has no checkpoint
        with pytest.raises(ValueError, match="holds a run already"):
            train(TINY, folder)
    assert (finished / "run.json").read_bytes() == before
    (tmp_path / "checkpoint.previous").touch()  # all that a crash between two renames leaves
    with pytest.raises(ValueError, match="holds a run already"):
        train(TINY, tmp_path)


def test_an_interrupted_end_is_made_up_for(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
        patch.setattr(images, "encode", Mock(side_effect=OSError("disk full")))
        patch.setattr(runs, "DELAYS", ())
        train(TINY, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    train(TINY, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.json").exists()


def in_x64(call, *arguments):
    """Call where JAX makes 64 bits by default."""
    jax.config.update("jax_enable_x64", True)
    try:
        return call(*arguments)
    finally:
        jax.config.update("jax_enable_x64", False)


@on_each_path
def test_where_jax_makes_64_bits_all_is_of_32_bits_still(config, tmp_path):
    config = dataclasses.replace(config, generations=2)
    train(config, tmp_path / "plain")
    in_x64(train, config, tmp_path / "wide")
    plain, wide = (checkpoint.read(tmp_path / name / "checkpoint")[0] for name in ("plain", "wide"))
    form = [(leaf.shape, leaf.dtype) for leaf in plain]
    assert [(leaf.shape, leaf.dtype) for leaf in wide] == form  # so that each resumes the other
    assert not {dtype.name for _, dtype in form} & {"int64", "float64"}
    run, again = load_run(tmp_path / "plain"), in_x64(load_run, tmp_path / "plain")
    losses = in_x64(again.evaluate)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, run.evaluate(), rtol=1e-5)  # the same cells fire
    if config.strategy == "backprop":  # no noise of evosax
        for a, b in zip(plain, wide, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def saved_by(**changes):
    """What the checkpoint of a run tells, at generation 2."""
    rows = [[number, number * 8, 0.5, 0.02, 0.02, 0.02, 0.0, 0] for number in (1, 2)]
    told = {"generation": 2, "history": rows}
    return runs.begin(make_task(TINY)) | told | changes


def resumed(saved):
    return runs.continue_from(saved, runs.begin(make_task(TINY)), log_points(TINY, 0))


def test_progress_is_taken_over_and_other_devices_are_told(capsys):
    assert resumed(saved_by()) == saved_by()
    old = {key: value for key, value in saved_by().items() if key not in ("target", "devices")}
    assert resumed(old) == saved_by()  # format 1 does not tell
    assert capsys.readouterr().out == ""
    assert resumed(saved_by(devices=["8 x TPU"]))["devices"] == ["8 x TPU", describe_device()]
    assert "8 x TPU" in capsys.readouterr().out


ROW = saved_by()["history"]
NOT_SAVED = {"history": [[], [[2, 1]], ROW[::-1], ROW * 2], "generation": [3, "2"]}
NOT_SAVED |= {"config": [{}, {"wings": 2}, dataclasses.asdict(TINY) | {"seed": 1}]}
NOT_SAVED |= {"devices": [[], 7], "target": ["0" * 64]}
NOT_SAVED = [saved_by(**{name: value}) for name, values in NOT_SAVED.items() for value in values]


@pytest.mark.parametrize("saved", [{}, *NOT_SAVED])
def test_a_checkpoint_of_something_else_cannot_resume(saved):
    with pytest.raises(ValueError, match="cannot resume: "):
        resumed(saved)


def test_a_later_version_is_not_taken_for_damage(finished, tmp_path):
    later, words = dataclasses.asdict(TINY) | {"wings": 2}, "later version .* added wings: update"
    with pytest.raises(ValueError, match=f"cannot resume: .*{words}"):
        resumed(saved_by(config=later))
    folder, info = shutil.copytree(finished, tmp_path / "run"), load_run(finished).info
    (folder / "run.json").write_text(json.dumps(info | {"config": later}))
    with pytest.raises(ValueError, match=f"cannot be read: .*{words}"):
        load_run(folder)
    for name in ("run.json", "history.csv"):  # as some editors write it
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (finished / name).read_bytes())
    assert load_run(folder).info == info


def test_one_emoji_in_two_spellings_is_one_target():
    meta = runs.begin(make_task(dataclasses.replace(TINY, emoji="❤️")))
    saved = saved_by(config=meta["config"] | {"emoji": "❤"}, target=meta["target"])
    points = log_points(TINY, 0)
    assert runs.continue_from(saved, meta, points)["config"] == meta["config"]
    with pytest.raises(ValueError, match="cannot resume: emoji"):
        runs.continue_from(saved_by(), meta, points)


def test_a_run_may_start_from_another(finished, tmp_path):
    config = dataclasses.replace(TINY, generations=1, init=str(finished), learning_rate=1e-9)
    out = train(config, tmp_path / "more")
    before, after = load_run(finished).params, load_run(out).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), before, after)
    for changes, message in (({"init": "newt"}, "init .*'newt'"), ({"hidden": 4}, "shapes")):
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(config, **changes), tmp_path / "none")
    assert not (tmp_path / "none").exists()


# Learning


def test_dead_and_exploded_populations_are_told_apart():
    healthy = {"nonfinite": 4, "fitness_median": 0.04, "tied": 8}
    dead = {"nonfinite": 4, "fitness_median": 0.05, "tied": 5}
    for metrics in (healthy, dead | {"tied": 4}):  # the latter by chance
        _check_alive(metrics, population=8, dead_loss=0.05, generation=3)
    with pytest.raises(FloatingPointError, match="generation 3: 5 of 8 members"):
        _check_alive(healthy | {"nonfinite": 5}, population=8, dead_loss=0.05, generation=3)
    with pytest.raises(RuntimeError, match="generation 3: most members died"):
        _check_alive(dead, population=8, dead_loss=0.05, generation=3)


AGED = dataclasses.replace(TINY, age=40, damage=0.5, overflow=0.1)


def test_aged_starts_are_grown_by_the_mean_and_some_are_damaged(finished):
    params, keys = load_run(finished).params, jax.random.split(jax.random.key(0), 200)

    def starts(**fields):
        task = make_task(dataclasses.replace(AGED, **fields))
        return np.asarray(jax.jit(jax.vmap(lambda key: task.aged_start(params, key)[0]))(keys))

    seed, whole = make_task(AGED).start, starts(damage=0.0)
    fresh = (whole == seed).all((1, 2, 3))
    assert 40 < fresh.sum() < 95  # a third
    # A younger limit changes how old the others are, and nothing else.
    young = starts(damage=0.0, age=1)
    assert ((young == seed).all((1, 2, 3)) == fresh).mean() > 0.9
    once = np.abs(young[~fresh] - seed).max((1, 2, 3)).max()
    assert 0 < once < np.abs(whole[~fresh] - seed).max((1, 2, 3)).max()
    changed = (starts() != whole).any((1, 2, 3))
    assert not changed[fresh].any()
    assert 0.25 < changed[~fresh].mean() <= 0.6  # half, but for holes where nothing was


def test_fitness_of_an_aged_start_sees_the_whole_grid_and_the_overflow(finished):
    task, params = make_task(AGED), load_run(finished).params
    start = jax.random.uniform(jax.random.key(2), task.start.shape, minval=-3.0, maxval=3.0)
    luck, model = (start, task.fires(jax.random.key(3))), task.merge(params)
    states = record(model, *luck)[-TINY.window :]
    expected = (mse(states, jax.numpy.asarray(task.target)) + 0.1 * overflow_loss(states)).mean()
    np.testing.assert_allclose(task.fitness(params, luck), expected, rtol=1e-5)
    assert expected > task.judge(params, *luck)[0]


def test_starts_that_exploded_or_died_are_replaced_by_the_seed():
    task = make_task(dataclasses.replace(AGED, damage=0.0))
    draw = jax.jit(jax.vmap(lambda params, key: task.aged_start(params, key)[0], (None, 0)))
    for value in (1e30, 0.5, -1.0):  # not finite, huge, dead
        params = jax.tree.map(lambda leaf, v=value: jax.numpy.full_like(leaf, v), task.params)
        start = draw(params, jax.random.split(jax.random.key(0), 20))
        assert np.abs(start).max() < 100 and (start[..., -1].max((1, 2)) > 0.1).all()


# The machine


def test_memory_is_planned_before_compiling(tmp_path, monkeypatch):
    pocket, reference = PRESETS["pocket"], PRESETS["reference"]
    assert machine.free_memory() > memory_needed(reference, 1)
    assert plan_chunk(pocket) == 1 and plan_chunk(pocket, 16) == 16  # the former on a CPU
    for chunk in (0, 33):
        with pytest.raises(ValueError, match=f"chunk must be 1 to 32 .* got {chunk}"):
            plan_chunk(pocket, chunk)
    monkeypatch.setattr(machine, "free_memory", lambda: 5e8)
    with pytest.raises(ValueError, match=r"chunk of 256 .* a chunk of \d+ would fit"):
        plan_chunk(reference, 256)
    assert memory_needed(reference, plan_chunk(reference, 100)) < 5e8
    monkeypatch.setattr(machine, "free_memory", lambda: 1e6)
    with pytest.raises(ValueError, match="lower the population"):
        train(reference, tmp_path / "run")
    assert not (tmp_path / "run").exists()


GROUPS = {
    "1": {
        "proc/self/cgroup": "7:cpu,cpuacct:/\n4:memory:/a/b\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1500000000\n",
        "sys/fs/cgroup/memory/a/memory.stat": "cache 900000000\ntotal_rss 500000000\n",
    },
    "2": {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/memory.max": "1500000000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 500000000\nfile 900000000\n",
    },
}


@pytest.mark.parametrize("version", ["none", *GROUPS])
def test_free_is_what_the_tightest_limit_leaves(version, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    files = {"proc/meminfo": "MemAvailable: 8000000 kB\n"} | GROUPS.get(version, {})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    free = machine.free_memory(tmp_path) * jax.local_device_count()
    assert free == (10**9 if version in GROUPS else 8_192_000_000)
    (tmp_path / "proc" / "self").mkdir(exist_ok=True)
    (tmp_path / "proc" / "self" / "statm").write_text("1000 20 3\n")
    limit = 2000 * resource.getpagesize()  # as by ulimit -v
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (limit, limit))
    assert machine.free_memory(tmp_path) * jax.local_device_count() == limit / 2


def test_a_device_that_does_not_tell_is_not_given_the_memory_of_the_host(monkeypatch):
    device = Mock(platform="gpu")
    device.memory_stats.side_effect = [None, {}, ZeroDivisionError]  # one after the other
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert [machine.free_memory() for _ in range(3)] == 3 * [math.inf]


@pytest.mark.parametrize(("mask", "chunk"), [("paired", 1), ("bernoulli", 8)])
def test_memory_estimate_covers_what_the_compiler_asks_for(mask, chunk):
    config = dataclasses.replace(TINY, size=24, mask=mask, population=16, hidden=64)
    task = make_task(config)

    def evaluate(population, key):
        return jax.lax.map(lambda p: task.loss(p, key), population, batch_size=chunk)

    population = jax.tree.map(lambda x: np.stack([x] * 16), task.params)
    compiled = jax.jit(evaluate).lower(population, jax.random.key(0)).compile()
    asked = compiled.memory_analysis().temp_size_in_bytes
    estimate = memory_needed(config, chunk)
    assert estimate / 10 < asked < estimate  # an upper bound; compilers fuse much of it away


def test_a_machine_is_described_and_colab_told_of_its_gpus(monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    text = describe_machine()
    assert f"jax {jax.__version__}, " in text.replace("\n", " ")
    assert text.endswith(f"\non {describe_device()}")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    told = describe_machine()
    assert told.startswith(f"{text}\nNo GPU.") and max(map(len, told.splitlines())) < 80
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert describe_machine() == text


# The command line


def arguments(folder, *more):
    tiny = "--size 6 --num-steps 6 --window 2 --population 8 --generations 18 --log-every 7".split()
    return ["--preset", "smoke", "--out", str(folder), *tiny, *more]


def test_command_line(tmp_path):
    folder = tmp_path / "a run"
    more = ["--learning-rate", "0.02", "--premultiply", "false"]
    assert main(arguments(folder, *more)) == 0
    info = json.loads((folder / "run.json").read_text())
    assert (info["config"]["learning_rate"], info["config"]["premultiply"]) == (0.02, False)
    assert info["config"]["std"] == PRESETS["smoke"].std
    assert info["command"].startswith("python -m nca_lib.train --preset smoke --out '")
    assert main(arguments(folder, *more, "--generations", "20", "--resume")) == 0


def test_help_names_every_field_with_its_bounds(capsys):
    assert exit_status(main, ["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Config):
        told = field.metadata
        bounds = told["choices"] or [f"{told[b]:,}" for b in ("low", "high") if told[b] is not None]
        assert f"--{field.name.replace('_', '-')} {field.type.__name__} " in text
        assert told["help"] and all(bound in text for bound in bounds)


WRONG = {
    "--num-steps 1000000000000": "num_steps must be 1 to 1000000, got 1000000000000",
    "--out=": "--out must be the name of a folder",
    "--out=/dev/null": "File exists",
    "--resume": "No such file",
    "--size big": "--size",
    "--gen 9": "--gen",
}


@pytest.mark.parametrize("flags", WRONG)
def test_command_line_errors_are_one_line_and_nothing_is_written(flags, tmp_path, capsys):
    status = exit_status(main, arguments(tmp_path / "run", *flags.split()))
    *usage, error = capsys.readouterr().err.splitlines()
    assert status == 2 and WRONG[flags] in error and "error: " in error
    assert not usage or usage[0].startswith("usage: ")
    assert not (tmp_path / "run").exists()


def test_a_terminal_without_letters_or_errors_stops_nothing(tmp_path, monkeypatch):
    said = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setattr(sys, "stderr", None)  # what Python makes of 2>&-
    with ctrl_c_at(14):
        assert main(arguments(tmp_path / "läuf", "--emoji", "🦋")) == 130
    sys.stderr.close()
    checkpoint.save(tmp_path / "läuf" / "checkpoint", {}, {})
    (tmp_path / "läuf" / "checkpoint").write_text("damaged")
    leaves, meta = checkpoint.read(checkpoint.previous(tmp_path / "läuf" / "checkpoint"))
    assert checkpoint.load(tmp_path / "läuf" / "checkpoint", like=leaves)[1] == meta
    said.flush()
    *_, stopped, back = said.buffer.getvalue().decode().splitlines()
    assert "generation 14. To go on" in stopped and r"--emoji '\U0001f98b' --resume" in stopped
    assert r"l\xe4uf/checkpoint is not a checkpoint" in back


def test_nohup_is_heeded(monkeypatch):
    """The signals that end a training are those of `faults.interrupt`."""
    obeyed = {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", obeyed.get)
    monkeypatch.setattr(signal, "signal", obeyed.__setitem__)
    nca_lib.train.obey_signals()
    assert obeyed[signal.SIGHUP] == signal.SIG_IGN != obeyed[signal.SIGTERM] != signal.SIG_DFL
