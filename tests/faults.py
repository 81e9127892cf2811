"""What a training and its files may meet: each function here tries one fault, many times over.

`tests/test_faults.py` tries a few of each, `book/experiments/faults.py` many, and appendix A2 shows
what came of it. A function takes how many to try, an empty folder, and a seed. It fails if anything
was lost that had been kept, or was kept wrongly, and otherwise returns how many it has tried.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_lib import evolution, train
from nca_lib.lab import checkpoint, loop, runs
from nca_lib.lab.task import make_strategy, make_task, make_trainer

HERE = Path(__file__).parent
TINY = dataclasses.replace(
    train.PRESETS["smoke"], size=6, num_steps=6, window=2, population=8, log_every=1, generations=40
)
LONG = dataclasses.replace(TINY, generations=1_000_000, log_every=500)  # never comes to its end


def keep_compiled(folder: str | Path) -> None:
    """Have this process keep what it compiles: the same training again then starts at once."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextlib.contextmanager
def following(callback):
    """Have a function told each row, once the trainer has taken it in and saved it."""
    run = loop.run

    def tells(*arguments, **options):
        for state, row in run(*arguments, **options):
            yield state, row
            callback(row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run", tells)
        yield


def quietly(call, *arguments, **options):
    """Call, with what it prints as the second result."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return call(*arguments, **options), out.getvalue()


def exit_status(main, arguments: list[str]) -> int:
    """What a command line returns, or exits with."""
    try:
        return main(arguments)
    except SystemExit as exit_info:
        return exit_info.code


# ------------------------------------------------------------------ what must be true afterwards


def newest(folder: Path) -> tuple[list, dict]:
    """The checkpoint that a resume would take, without moving anything."""
    path = folder / "checkpoint"
    try:
        return checkpoint.read(path)
    except (FileNotFoundError, ValueError):
        return checkpoint.read(checkpoint.previous(path))


def check_progress(folder: Path, config: train.Config, least: int) -> int:
    """The generation kept in a folder: at least `least`, its history without gap or double line."""
    if not any(folder.glob("checkpoint*")):
        assert least == 0, f"the checkpoint of generation {least} is gone"
        return 0
    _, meta = newest(folder)
    reached, (rows, _, seconds) = meta["generation"], list(zip(*meta["history"], strict=True))[:3]
    assert reached >= least, f"generation {least} was kept, now there is {reached}"
    expected = [point for point in loop.log_points(config, 0) if point <= reached]
    assert [*rows] == expected, "the history has a gap"
    assert [*seconds] == sorted(seconds)
    return reached


def same_run(a: Path, b: Path) -> None:
    """Two complete runs are alike to the last bit, but for the seconds they took."""
    (left, told), (right, said) = newest(a), newest(b)
    assert all(x.tobytes() == y.tobytes() for x, y in zip(left, right, strict=True)), "arrays"
    for one, other in zip(told["history"], said["history"], strict=True):
        assert one[:2] + one[3:] == other[:2] + other[3:], (one, other)
    for name in ("weights.npz", "growth.webp", "final.png"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert (a / "run.json").exists() and (b / "run.json").exists()


# ------------------------------------------------------------------ processes that are stopped


def spawn(*words: object, before: list = ()) -> subprocess.Popen:
    """Start a Python process that finds the library and this file; it reads and says lines."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    added = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
    words = [*before, sys.executable, *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, env=os.environ | added, text=True, bufsize=1, **pipes)


TRAINER = """
import functools, sys, faults
from nca_lib import train
faults.keep_compiled(sys.argv.pop(1))
train.PRESETS["long"] = faults.LONG
train.train = functools.partial(train.train, checkpoint_seconds=0)
train.obey_signals()
sys.exit(train.main())
"""


def kill(number: int, folder: Path, seed: int) -> int:
    """SIGKILL at a random moment, and again, each restart being the next victim."""
    return _stop([signal.SIGKILL], number, folder, seed)


def interrupt(number: int, folder: Path, seed: int) -> int:
    """SIGINT, SIGTERM and SIGHUP in turn, in the middle of a call of the compiled program."""
    return _stop([signal.SIGTERM, signal.SIGINT, signal.SIGHUP], number, folder, seed)


def _stop(signals: list, number: int, folder: Path, seed: int) -> int:
    rng, out, reached, writing = random.Random(seed), folder / "run", 0, 0
    for signum in itertools.islice(itertools.cycle(signals), number):
        again = ["--resume"] if any(out.glob("checkpoint*")) else []
        words = ["--preset", "long", "--out", out, *again]
        process = spawn("-c", TRAINER, folder / "compiled", *words)
        is_kill, said = signum == signal.SIGKILL, ""
        awaited = "" if is_kill and rng.random() < 0.3 else "loss="  # some are killed early
        while awaited not in said:
            said += process.stdout.read(1) or pytest.fail(f"it ended by itself: {said}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            said += process.communicate(timeout=rng.uniform(0, 2))[0]
        assert process.poll() is None, f"it ended by itself: {said}"
        process.send_signal(signum)
        said += process.communicate(timeout=300)[0]
        if not is_kill:
            assert process.returncode == 128 + signum, (process.returncode, said)
            assert "To go on: python -m nca_lib.train" in said and "Traceback" not in said, said
        reached = check_progress(out, LONG, reached or not is_kill)
        writing += any(out.glob(".*.tmp"))
    assert reached, "no life was long enough for one checkpoint"
    # The end of the chain: one piece from the start arrives at the same state.
    task = make_task(LONG)
    strategy, evolve = make_trainer(task)
    start = strategy.init(loop.run_keys(LONG.seed)[0], task.params)
    whole, _ = next(loop.run(task, (strategy, evolve), start, [reached]))
    pairs = zip(newest(out)[0], jax.tree.leaves(whole), strict=True)
    assert all(a.tobytes() == np.asarray(b).tobytes() for a, b in pairs), "state"
    (folder / "more.json").write_text(json.dumps({"writing": writing, "generation": reached}))
    return number


# ------------------------------------------------------------------ folders that fail


def can_mount() -> bool:
    """Whether this process may make file systems of its own (Linux, where user namespaces may)."""
    with contextlib.suppress(OSError):
        words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(words, capture_output=True).returncode == 0
    return False


def full_disk(number: int, folder: Path, seed: int) -> int:
    """The disk, a small one in memory, fills up while it trains, for a while or for good."""
    mount = f'mount -t tmpfs -o size=600k none "{folder}" && exec "$@"'
    before = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    return _elsewhere(f"_trouble('full', {number}, {str(folder)!r}, {seed})", before)


def read_only(number: int, folder: Path, seed: int) -> int:
    """The folder can no longer be written, for a while or for good."""
    is_root = os.geteuid() == 0  # who may write everywhere, unless told otherwise
    before = ["setpriv", "--bounding-set=-all"] if is_root else []
    return _elsewhere(f"_trouble('read-only', {number}, {str(folder)!r}, {seed})", before)


def _elsewhere(call: str, before: list) -> int:
    process = spawn("-c", f"import faults; print(faults.{call})", before=before)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return int(said.split()[-1])


def _trouble(kind: str, number: int, folder: str, seed: int) -> int:
    """Train `number` times in a folder that at a random row turns bad, and later good again."""
    rng, folder = random.Random(seed), Path(folder)
    runs.DELAYS = (0.0,)
    filler, out, whole = folder / "filler", folder / "run", Path(tempfile.mkdtemp()) / "whole"
    keep_compiled(whole.parent / "compiled")

    def spoil(is_bad):
        if kind == "read-only":
            out.chmod(0o555 if is_bad else 0o755)
        elif is_bad:  # some leave a little room, too little for all of it
            room = shutil.disk_usage(folder).free - 4096 * rng.randrange(6)
            filler.write_bytes(bytes(max(0, room)))
        else:
            filler.unlink()

    quietly(train.train, TINY, whole)  # on another disk
    for trial in range(number):
        reached, first, is_for_good = 0, rng.randrange(3, 30), trial % 2 == 0
        last = 1_000 if is_for_good else first + rng.randrange(1, 9)

        def callback(row, first=first, last=last):
            nonlocal reached
            generation = row["generation"]
            is_good = not first < generation <= last
            reached = check_progress(out, TINY, generation if is_good else reached)
            if generation in (first, last):
                spoil(generation == first)

        told = pytest.raises(OSError, match=f"(No space left|Permission denied).*{folder}")
        with following(callback), told if is_for_good else contextlib.nullcontext():
            _, said = quietly(train.train, TINY, out, checkpoint_seconds=0)
            assert "not written: [Errno" in said, said
        if is_for_good:
            spoil(False)
            check_progress(out, TINY, reached)
            quietly(train.train, TINY, out, resume=True)
        same_run(out, whole)
        left = [*folder.iterdir(), *out.glob(".*")]
        assert left == [out], f"something was left behind: {left}"
        shutil.rmtree(out)
    shutil.rmtree(whole.parent)
    return number


# ------------------------------------------------------------------ files that were changed


def damaged(number: int, folder: Path, seed: int) -> int:
    """A checkpoint cut short or with a bit flipped, at every region; the one before steps in."""
    rng, path = random.Random(seed), folder / "checkpoint"
    tree = {"mean": np.arange(1_000, dtype=np.float32), "count": np.int32(3)}
    checkpoint.save(path, tree, {"generation": 1})
    before = path.read_bytes()
    checkpoint.save(path, tree, {"generation": 2, "history": [[1, 2.5]] * 20})
    good = path.read_bytes()
    for trial in range(number):
        position = trial // 2 if trial < 2 * len(good) else rng.randrange(len(good))
        bad = bytearray(good)
        bad[position] ^= 1 << rng.randrange(8)
        path.write_bytes(bad if trial % 2 else good[:position])
        checkpoint.previous(path).write_bytes(before)
        (found, meta), said = quietly(checkpoint.load, path, tree)
        assert meta == {"generation": 1} and "going back to" in said, (position, said)
        assert all(np.array_equal(found[name], tree[name]) for name in tree), position
    return number


def forged(number: int, folder: Path, seed: int) -> int:
    """A checkpoint with its digest in order and anything inside, as an attacker would send one."""
    rng, path, here = random.Random(seed), folder / "checkpoint", runs.begin(make_task(TINY))
    tree = {"mean": np.arange(20, dtype=np.float32)}
    checkpoint.save(path, tree, {"generation": 1, "history": []})
    good = path.read_bytes().split(b"\n", 2)[2]
    for _ in range(number):
        payload = rng.choice([rezipped, rezipped, mutate])(good, rng)
        path.write_bytes(sealed(payload, rng.choice([1, 2, 2, 2, 3])))
        with contextlib.suppress(ValueError, NotImplementedError):
            found, meta = checkpoint.load(path, tree)
            assert found["mean"].shape == (20,) and found["mean"].dtype == np.float32
            runs.continue_from(meta, here, [])
    return number


def sealed(payload: bytes, version: int = checkpoint.VERSION) -> bytes:
    """A checkpoint file around any bytes, with the digest that belongs to them."""
    covered = payload if version == 1 else b"%d\n" % version + payload
    digest = hashlib.sha256(covered).hexdigest().encode()
    return checkpoint.MAGIC + b"%d\n" % version + digest + b"\n" + payload


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change bytes here and there, cut, repeat, or put numbers where numbers stand."""

    def number(digit):
        return rng.choice([*9 * [digit[0]], b"9", b"0", b"-1", b"99999999999"])

    for _ in range(rng.choice([1, 1, 2, 5])):
        start = rng.randrange(len(data) + 1)
        stop = start + rng.randrange(1, 40)
        piece, word = data[start:stop], rng.choice([b"\xff", b"\0", b"9"]) * 4
        changed = [rng.randbytes(1) + piece[1:], word + piece[4:], b"", 2 * piece]
        data = data[:start] + rng.choice(changed) + data[stop:]
        if rng.random() < 0.2:
            data = re.sub(rb"\d", number, data[:200]) + data[200:]
    return data


def rezipped(data: bytes, rng: random.Random) -> bytes:
    """An archive in order, with one array damaged, renamed, lost, or full of wild claims."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim, claim = rng.choice([*members]), io.BytesIO()
    member = members.pop(victim)
    shape = tuple(int(10 ** rng.uniform(0, 13)) for _ in range(rng.randrange(4)))
    descr = rng.choice(["<f4", "<f8", ">f4", "|O", "|V9", "<U7", "<c8", "|S0"])
    form = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(claim, form)
    changed = [mutate(member, rng), claim.getvalue() + member[128:]]
    changed += [b"\x93NUMPY\x01\x00\xff\xff" + b"(" * rng.randrange(3000)]
    renamed = {"x" * rng.randrange(1, 300): member}
    members |= rng.choice([*({victim: content} for content in changed), renamed, {}])
    out, method = io.BytesIO(), rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


# ------------------------------------------------------------------ two trainers


HOLDER = """
import sys
from pathlib import Path
from nca_lib.lab.runs import hold
for line in sys.stdin:
    try:
        with hold(Path(line.strip())):
            print("mine")
            sys.stdin.readline()
    except ValueError:
        print("refused")
        sys.stdin.readline()
"""


def locks(number: int, folder: Path, seed: int) -> int:
    """Two trainers, one folder: the second is refused, and nobody waits for the dead."""
    rng = random.Random(seed)
    for trial in range(number):
        out, moment, theirs = folder / str(trial), rng.randrange(1, 40), {"theirs": trial}

        def writes(row, out=out, moment=moment, theirs=theirs):
            if row["generation"] == moment:
                checkpoint.save(out / "checkpoint", [], theirs)

        if trial % 2:  # on another machine, whose lock is not seen here
            with following(writes), pytest.raises(ValueError, match="by another training"):
                quietly(train.train, TINY, out, checkpoint_seconds=rng.choice([0, 1_000]))
            assert checkpoint.read(out / "checkpoint")[1] == theirs, "it was overwritten"
        else:  # here: alive, and then killed
            process = spawn("-c", HOLDER)
            process.stdin.write(f"{out}\n")
            assert process.stdout.readline() == "mine\n"
            with pytest.raises(ValueError, match="is in use"):
                train.train(TINY, out)
            process.kill()
            process.communicate()
            with runs.hold(out):
                pass
    return number


def rush(number: int, folder: Path, seed: int) -> int:
    """Several trainers start at once: one gets the folder, the others are refused."""
    processes = [spawn("-c", HOLDER) for _ in range(4)]
    for trial in range(number):
        for process in processes:
            process.stdin.write(f"{folder / str(trial)}\n")
        heard = sorted(process.stdout.readline() for process in processes)
        assert heard == ["mine\n", *["refused\n"] * 3], heard
        for process in processes:
            process.stdin.write("\n")
    for process in processes:
        process.communicate()
    return number


# ------------------------------------------------------------------ populations that go wrong


def poisoned(number: int, folder: Path, seed: int) -> int:
    """NaN and infinities in the fitness of up to half of the members: the search stays finite."""
    task, key = make_task(TINY), jax.random.key(seed)

    def prepare(mean, key, pool):
        share, kind, _ = jax.random.uniform(key, (3,))
        values = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
        luck, _ = task.prepare(mean, key)
        return (luck, 0.5 * share, values[(3 * kind).astype(int)]), pool

    def fitness(params, luck):
        chance = jnp.abs(jax.flatten_util.ravel_pytree(params)[0].sum()) * 1e4 % 1
        return jnp.where(chance < luck[1], luck[2], task.fitness(params, luck[0]))

    def look(mean, luck):
        return task.look(mean, luck[0])

    for name in ("open_es", "pgpe", "whitened"):
        strategy = make_strategy(dataclasses.replace(TINY, strategy=name), task.params)
        evolve = evolution.make_evolve(strategy, fitness, None, prepare, look)
        state = strategy.init(key, task.params)
        for generation in range(-(-number // 3)):
            state, metrics = evolve(state, key, generation, 1)
            leaves = jax.tree.leaves(strategy.mean(state))
            assert all(np.isfinite(leaf).all() for leaf in leaves), (name, generation, metrics)
            assert np.isfinite(metrics["fitness_mean"]) or metrics["nonfinite"] == 8, metrics
    return number


def dead(number: int, folder: Path, seed: int) -> int:
    """A whole population dies, or explodes: the run stops and says so, and keeps what it had."""
    for trial in range(number):
        out = folder / str(trial)
        changes = {"std": 0.1, "learning_rate": 0.1, "population": 64, "num_steps": 12, "window": 4}
        changes |= {"size": 12, "generations": 400}
        if trial % 2:
            changes = {"std": 5.0, "step_size": 1e6}
        config = dataclasses.replace(TINY, **changes, seed=seed + trial)
        words = "are not finite" if trial % 2 else "members died"
        with pytest.raises((RuntimeError, ArithmeticError), match=words + ".*Lower sigma"):
            quietly(train.train, config, out, checkpoint_seconds=0)
        check_progress(out, config, 0)
        assert not (out / "run.json").exists(), "a dead run was called complete"
        with runs.hold(out):  # it is free again
            pass
    return number


# ------------------------------------------------------------------ the long run


def repeated(number: int, folder: Path, seed: int) -> int:
    """The same seed on the same machine: the same run, to the last bit."""
    names = itertools.cycle(["open_es", "pgpe", "whitened", "backprop"])
    for trial, name in zip(range(number), names, strict=False):
        changes = {"strategy": name, "seed": seed + trial, "population": 4}
        changes |= {"pool": 8} if name in ("whitened", "backprop") else {}
        a, b = folder / f"{trial}a", folder / f"{trial}b"
        for out in (a, b):
            quietly(train.train, dataclasses.replace(TINY, **changes), out)
        same_run(a, b)
    return number


def soak(number: int, folder: Path, seed: int) -> int:
    """Many generations of the preset `smoke`: memory stays flat, and each line is there."""
    config = dataclasses.replace(train.PRESETS["smoke"], generations=number, seed=seed)
    resident, page = [], os.sysconf("SC_PAGE_SIZE")

    def callback(row):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append([row["generation"], row["seconds"], pages * page / 2**20])

    with following(callback):
        quietly(train.train, config, folder / "run", checkpoint_seconds=1)
    assert check_progress(folder / "run", config, number) == number
    points = loop.log_points(config, 0)
    assert [row[0] for row in resident] == points
    lines = (folder / "run" / "history.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == points, "history.csv"
    warm = [megabytes for generation, _, megabytes in resident if generation > number / 10]
    assert max(warm) < 1.05 * warm[0] + 10, ("memory grows", warm[0], max(warm))
    shown = sorted({*range(0, len(resident), len(resident) // 200 + 1), len(resident) - 1})
    (folder / "more.json").write_text(json.dumps({"curve": [resident[i] for i in shown]}))
    return number
