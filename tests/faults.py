"""What a training and its files may meet: each function here tries one fault, many times over.

`tests/test_faults.py` tries a few of each, `book/experiments/faults.py` many, and appendix A2 shows
what came of it. A function takes how many to try, an empty folder, and a seed. It raises if
anything was lost that had been kept, or was kept wrongly, and otherwise returns how many it has
tried.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from nca_lib.keeper import STALE, Keeper

from nca_lib import evolution, train
from nca_lib.lab import checkpoint
from nca_lib.lab.loop import log_points
from nca_lib.lab.runs import begin, continue_from
from nca_lib.lab.task import Task, make_strategy, make_task, make_trainer

HERE = Path(__file__).parent
TINY = dataclasses.replace(
    train.PRESETS["smoke"], size=6, num_steps=6, window=2, population=8, log_every=1, generations=40
)
LONG = dataclasses.replace(TINY, generations=1_000_000, log_every=100)  # never comes to its end


class LostError(Exception):
    """Something that had been kept is gone, or is not what it was."""


def demand(truth, *told):
    """Raise `LostError` unless something holds; unlike `assert`, also under `python -O`."""
    if not truth:
        raise LostError(*told)


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
    if not any((folder / name).exists() for name in ("checkpoint", "checkpoint.previous")):
        demand(least == 0, f"the checkpoint of generation {least} is gone")
        return 0
    _, meta = newest(folder)
    reached = meta["generation"]
    demand(reached >= least, f"generation {least} was kept, now there is {reached}")
    expected = [point for point in log_points(config, 0) if point <= reached]
    demand([row[0] for row in meta["history"]] == expected, "the history has a gap")
    demand([row[2] for row in meta["history"]] == sorted(row[2] for row in meta["history"]))
    return reached


def same_run(a: Path, b: Path) -> None:
    """Two complete runs are alike to the last bit, but for the seconds they took."""
    (left, told), (right, said) = newest(a), newest(b)
    demand(all(x.tobytes() == y.tobytes() for x, y in zip(left, right, strict=True)), "arrays")
    for one, other in zip(told["history"], said["history"], strict=True):
        demand(one[:2] + one[3:] == other[:2] + other[3:], "history", one, other)
    for name in ("weights.npz", "growth.webp", "final.png"):
        demand((a / name).read_bytes() == (b / name).read_bytes(), name)
    demand((a / "run.json").exists() and (b / "run.json").exists(), "run.json")


def quietly(call, *arguments, **options):
    """Call, with what it prints as the second result."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return call(*arguments, **options), out.getvalue()


def run_tiny(out: Path, **options) -> str:
    """Train `TINY`; what it printed."""
    return quietly(train.train, TINY, out, **options)[1]


# ------------------------------------------------------------------ processes that are stopped


def spawn(*words: object, before: list = (), **options) -> subprocess.Popen:
    """Start a Python process that finds the library and this file."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [*before, sys.executable, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def listen(process: subprocess.Popen, word: str) -> str:
    """Read what a process says until a word has come."""
    said = ""
    while word not in said:
        character = process.stdout.read(1)
        demand(character, f"it ended by itself: {said}")
        said += character
    return said


def victim(out: str) -> None:
    """Train without end, with a checkpoint after every row; the process that gets killed."""
    resume = any(Path(out).glob("checkpoint*"))
    tell = iter(["begun\n"])
    train.train(
        LONG,
        out,
        resume=resume,
        checkpoint_seconds=0,
        callback=lambda row: sys.stdout.write(next(tell, "")),
    )


def kill(number: int, folder: Path, seed: int) -> int:
    """SIGKILL at a random moment, and again, each restart being the next victim."""
    rng, out, reached = random.Random(seed), folder / "run", 0
    moved = writing = 0
    for _ in range(number):
        process = spawn("-c", f"import faults; faults.victim({str(out)!r})")
        if rng.random() < 0.7:  # the others are killed while they start
            listen(process, "begun")
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(timeout=rng.uniform(0, 2))
            raise LostError(f"it ended by itself: {said}")
        process.kill()
        process.communicate()
        before, reached = reached, check_progress(out, LONG, reached)
        moved += reached > before
        writing += any(out.glob(".*.tmp"))
    demand(moved, "no life was long enough for one checkpoint")
    # The end of the chain: one piece from the start arrives at the same state.
    state, _ = newest(out)
    whole = uninterrupted(LONG, reached)
    demand(all(a.tobytes() == b.tobytes() for a, b in zip(state, whole, strict=True)), "state")
    (folder / "more.json").write_text(json.dumps({"writing": writing, "generation": reached}))
    return number


def uninterrupted(config: train.Config, generations: int) -> list[np.ndarray]:
    """The state that a run without any break has after so many generations."""
    task = make_task(config)
    strategy, evolve = make_trainer(task)
    key_init, key_evolve, _ = jax.random.split(jax.random.key(config.seed), 3)
    state, _ = evolve(strategy.init(key_init, task.params), key_evolve, 0, generations)
    return jax.tree.leaves(state)


def interrupt(number: int, folder: Path, seed: int) -> int:
    """SIGINT, SIGTERM and SIGHUP in turn, in the middle of a call of the compiled program."""
    rng, out, reached = random.Random(seed), folder / "run", 0
    words = ["--preset", "smoke", "--generations", "1000000", "--log-every", "500"]
    config = dataclasses.replace(train.PRESETS["smoke"], generations=1_000_000, log_every=500)
    for signum in itertools.islice(
        itertools.cycle([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]), number
    ):
        again = ["--resume"] if any(out.glob("checkpoint*")) else []
        process = spawn("-m", "nca_lib.train", *words, "--out", out, *again)
        said = listen(process, "loss=")
        with contextlib.suppress(subprocess.TimeoutExpired):
            said += process.communicate(timeout=rng.uniform(0, 3))[0]
            raise LostError(f"it ended by itself: {said}")
        process.send_signal(signum)
        said += process.communicate(timeout=300)[0]
        demand(process.returncode == 128 + signum, process.returncode, said)
        demand("To go on: python -m nca_lib.train" in said and "Traceback" not in said, said)
        demand(not (out / "lock").exists(), "the lock is still there")
        reached = check_progress(out, config, max(1, reached))
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
    process = spawn(
        "-c",
        f"import faults; print(faults._trouble('full', {number}, {str(folder)!r}, {seed}))",
        before=["unshare", "-rm", "sh", "-c", mount, "sh"],
    )
    said, _ = process.communicate()
    demand(process.returncode == 0, said)
    return int(said.split()[-1])


def read_only(number: int, folder: Path, seed: int) -> int:
    """The folder can no longer be written, for a while or for good."""
    code = f"import faults; print(faults._trouble('read-only', {number}, {str(folder)!r}, {seed}))"
    is_root = os.geteuid() == 0  # who may write everywhere, unless told otherwise
    process = spawn("-c", code, before=["setpriv", "--bounding-set=-all"] if is_root else [])
    said, _ = process.communicate()
    demand(process.returncode == 0, said)
    return int(said.split()[-1])


def _trouble(kind: str, number: int, folder: str, seed: int) -> int:
    """Train `number` times in a folder that at a random row turns bad, and later good again."""
    rng, folder = random.Random(seed), Path(folder)
    keeper.DELAYS = (0.0,)
    attempted, save = threading.Event(), checkpoint.save

    def saves(*arguments):
        try:
            save(*arguments)
        finally:
            attempted.set()

    checkpoint.save = saves
    filler, out = folder / "filler", folder / "run"

    def begin():
        if kind == "read-only":
            out.chmod(0o555)
            return
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass
        with filler.open("r+b") as file:  # some leave a little room, too little for all of it
            file.truncate(max(0, filler.stat().st_size - 4096 * rng.randrange(6)))

    def end():
        if kind == "read-only":
            out.chmod(0o755)
        filler.unlink(missing_ok=True)

    whole = Path(tempfile.mkdtemp()) / "whole"  # on another disk
    run_tiny(whole)
    for trial in range(number):
        reached, first = 0, rng.randrange(3, 30)
        last = first + rng.randrange(1, 9) if trial % 2 else 1_000  # the others: for good

        def callback(row, first=first, last=last):
            nonlocal reached
            if row["generation"] == first:
                attempted.wait(60)  # one checkpoint is there
                begin()
            elif first < row["generation"] <= last:
                attempted.wait(60)
            if row["generation"] == last:
                end()
            attempted.clear()
            if row["generation"] > 3:
                reached = check_progress(out, TINY, reached)

        try:
            said = run_tiny(out, checkpoint_seconds=0, callback=callback)
            demand(last < 1_000, "a disk in trouble went unnoticed")
            demand("was not written: [Errno" in said, said)
        except OSError as error:
            demand(last == 1_000, error)
            demand("No space left" in str(error) or "Permission denied" in str(error), error)
            demand(str(folder) in str(error), "the message names no file", error)
            end()
            check_progress(out, TINY, reached)
            run_tiny(out, resume=True)
        same_run(out, whole)
        demand({path.name for path in folder.iterdir()} == {"run"}, "something was left behind")
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
        demand(meta == {"generation": 1} and "going back to" in said, position, said)
        demand(all(np.array_equal(found[name], tree[name]) for name in tree), position)
    return number


def forged(number: int, folder: Path, seed: int) -> int:
    """A checkpoint with its digest in order and anything inside, as an attacker would send one."""
    rng, path = random.Random(seed), folder / "checkpoint"
    tree = {"mean": np.arange(20, dtype=np.float32)}
    checkpoint.save(path, tree, {"generation": 1, "history": []})
    payload = path.read_bytes().split(b"\n", 2)[2]
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for trial in range(number):
        if trial % 2:  # the archive is whole, one of its files is not
            mutated = {
                name: mutate(data, rng) if rng.random() < 0.7 else data
                for name, data in members.items()
            }
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name, data in mutated.items():
                    archive.writestr(name, data)
            inner = buffer.getvalue()
        else:
            inner = mutate(payload, rng)
        version = rng.choice([1, 2, 2, 2, 3])
        digest = checkpoint._digest(version, inner).encode()
        path.write_bytes(checkpoint.MAGIC + b"%d\n" % version + digest + b"\n" + inner)
        with contextlib.suppress(ValueError, NotImplementedError):
            found, meta = checkpoint.load(path, tree)
            demand(found["mean"].shape == (20,) and found["mean"].dtype == np.float32)
            with contextlib.suppress(ValueError):
                continue_from(meta, begin(_task()))
    return number


@functools.cache
def _task() -> Task:
    return make_task(TINY)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change bytes here and there, cut, repeat, or put numbers where numbers stand."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        if not data:
            break
        position, kind = rng.randrange(len(data)), rng.randrange(6)
        if kind == 0:
            data[position] = rng.randrange(256)
        elif kind == 1:
            data[position] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[position : position + rng.randrange(1, 40)]
        elif kind == 3:
            data[position:position] = data[position : position + rng.randrange(1, 40)]
        elif kind == 4:
            data[position : position + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"9999"])
        else:
            digits = [i for i, byte in enumerate(data[:200]) if 48 <= byte < 58]
            for place in rng.sample(digits, min(2, len(digits))):
                data[place : place + 1] = rng.choice([b"9", b"0", b"-1", b"99999999999"])
    return bytes(data)


# ------------------------------------------------------------------ two trainers


def other_lock(folder: Path, age: float, **mark: str) -> None:
    """Leave the lock of another trainer, whose last sign of life was `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    lock = folder / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "boot": "other", "token": "theirs"} | mark))
    then = lock.stat().st_mtime - age
    os.utime(lock, (then, then))


def locks(number: int, folder: Path, seed: int) -> int:
    """Two trainers, one folder: the second is refused, and nobody waits for the dead."""
    rng = random.Random(seed)
    words = ["--preset", "smoke", "--generations", "1"]
    for trial in range(number):
        out = folder / str(trial)
        kind = trial % 4
        if kind == 0:  # alive, here
            with Keeper(out):
                status, said = quietly(train.main, [*words, "--out", str(out)])
            demand(status == 2 and "is in use" in said, said)
        elif kind == 1:  # killed, here
            code = f"""
from nca_lib.keeper import Keeper
with Keeper({str(out)!r}):
    print("held")
    input()
"""
            process = spawn("-c", code, stdin=subprocess.PIPE)
            demand(process.stdout.readline() == "held\n")
            try:
                Keeper(out).__enter__()
                raise LostError("two at once")
            except ValueError as error:
                demand("is in use" in str(error))
            process.kill()
            process.communicate()
            with Keeper(out):
                pass
        else:  # on another machine: alive, or gone
            age = rng.uniform(0, STALE - 5) if kind == 2 else rng.uniform(STALE + 1, 1e6)
            other_lock(out, age)
            try:
                with Keeper(out):
                    demand(kind == 3, "a living machine was ignored")
            except ValueError as error:
                demand(kind == 2 and "gave a sign of life" in str(error), error)
    return number


def rush(number: int, folder: Path, seed: int) -> int:
    """Several trainers start at once: one gets the folder, the others are refused."""
    code = """
import sys
from nca_lib.keeper import Keeper
print("ready")
for line in sys.stdin:
    try:
        with Keeper(line.strip()):
            print("mine")
            sys.stdin.readline()
    except ValueError as error:
        print("refused" if "is in use" in str(error) else error)
        sys.stdin.readline()
    print("over")
"""
    processes = [spawn("-c", code, stdin=subprocess.PIPE) for _ in range(4)]

    def tell(text):
        for process in processes:
            process.stdin.write(text)
            process.stdin.flush()

    def hear():
        return sorted(process.stdout.readline() for process in processes)

    demand(hear() == ["ready\n"] * 4)
    for trial in range(number):
        tell(f"{folder / str(trial)}\n")
        heard = hear()
        demand(heard == ["mine\n", *["refused\n"] * 3], heard)
        tell("\n")
        demand(hear() == ["over\n"] * 4)
    for process in processes:
        process.communicate()
    return number


# ------------------------------------------------------------------ populations that go wrong


def poisoned(number: int, folder: Path, seed: int) -> int:
    """NaN and infinities in the fitness of up to half of the members: the search stays finite."""
    task = _task()
    for name in ("open_es", "pgpe", "whitened"):
        config = dataclasses.replace(TINY, strategy=name)
        strategy = make_strategy(config, task.params)

        def prepare(mean, key):
            share, kind, _ = jax.random.uniform(key, (3,))
            values = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
            return task.prepare(mean, key), 0.5 * share, values[(3 * kind).astype(int)]

        def fitness(params, luck):
            chance = jnp.abs(jax.flatten_util.ravel_pytree(params)[0].sum()) * 1e4 % 1
            return jnp.where(chance < luck[1], luck[2], task.fitness(params, luck[0]))

        def look(mean, luck):
            return task.look(mean, luck[0])

        evolve = evolution.make_evolve(strategy, fitness, None, prepare, look)
        state = strategy.init(jax.random.key(seed), task.params)
        for generation in range(-(-number // 3)):
            state, metrics = evolve(state, jax.random.key(seed), generation, 1)
            leaves = jax.tree.leaves(strategy.mean(state))
            demand(all(np.isfinite(leaf).all() for leaf in leaves), name, generation, metrics)
            demand(np.isfinite(metrics["fitness_mean"]) or metrics["nonfinite"] == 8, metrics)
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
        try:
            quietly(train.train, config, out, checkpoint_seconds=0)
            raise LostError("nobody noticed")
        except (RuntimeError, FloatingPointError) as error:
            words = "are not finite" if trial % 2 else "members died"
            demand(words in str(error) and "Lower std, learning_rate" in str(error), error)
        check_progress(out, config, 0)
        demand(not (out / "run.json").exists(), "a dead run was called complete")
        demand(not (out / "lock").exists(), "the lock is still there")
    return number


# ------------------------------------------------------------------ the long run


def repeated(number: int, folder: Path, seed: int) -> int:
    """The same seed on the same machine: the same run, to the last bit."""
    names = itertools.cycle(["open_es", "pgpe", "whitened", "backprop"])
    for trial, name in zip(range(number), names, strict=False):
        changes = {"strategy": name, "seed": seed + trial, "population": 4}
        if name == "backprop":
            changes |= {"age": 1}
        config = dataclasses.replace(TINY, **changes)
        a, b = folder / f"{trial}a", folder / f"{trial}b"
        for out in (a, b):
            quietly(train.train, config, out)
        same_run(a, b)
    return number


def thin(rows: list, most: int = 200) -> list:
    """Every so manieth row, the first and the last among them."""
    step = -(-len(rows) // most)
    return rows[::step] + ([] if (len(rows) - 1) % step == 0 else rows[-1:])


def soak(number: int, folder: Path, seed: int) -> int:
    """Many generations of the preset `smoke`: memory stays flat, and each line is there."""
    config = dataclasses.replace(train.PRESETS["smoke"], generations=number, seed=seed)
    resident, page = [], os.sysconf("SC_PAGE_SIZE")

    def callback(row):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append([row["generation"], row["seconds"], pages * page / 2**20])

    quietly(train.train, config, folder / "run", checkpoint_seconds=1, callback=callback)
    demand(check_progress(folder / "run", config, number) == number)
    points = log_points(config, 0)
    demand([row[0] for row in resident] == points)
    lines = (folder / "run" / "history.csv").read_text().splitlines()
    demand([int(line.split(",")[0]) for line in lines[1:]] == points, "history.csv")
    warm = [megabytes for generation, _, megabytes in resident if generation > number / 10]
    demand(max(warm) < 1.05 * warm[0] + 10, "memory grows", warm[0], max(warm))
    (folder / "more.json").write_text(json.dumps({"curve": thin(resident)}))
    return number
