"""Run folders: begun, resumed, written and loaded, by one trainer at a time (chapter 5, A2)."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nca_lib.lab import checkpoint, images
from nca_lib.lab.checkpoint import load_weights, read_file, say
from nca_lib.lab.config import FRESH, SHIPPED, Config, read_config
from nca_lib.lab.machine import describe_device, versions
from nca_lib.lab.record import is_record, read_record
from nca_lib.lab.task import Task, make_measure, make_task
from nca_lib.model import check, check_int

MAX_FILE = 10_000_000  # bytes; a history has at most 4,000 rows
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds to wait before a failed write is tried again
HISTORY = ["generation", "rollouts", "seconds", "loss"]
HISTORY += ["fitness_mean", "fitness_best", "fitness_std", "nonfinite"]
MEASURED = 8  # fire-mask keys over which the loss of the mean is averaged


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made if needed: one trainer on this machine writes to it.

    The kernel guards the lock: whoever dies, however suddenly, lets go of it. A folder on a network
    may have no locks; what another machine has written is noticed by `checkpoint.save`.

    Explained in appendix A2, "What a run survives".

    Args:
        folder: the run folder.

    Raises:
        ValueError: another trainer holds it.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter on some networks
            raise ValueError(
                f"{folder} is in use: another training on this machine writes to it. Wait for it, "
                "stop it, or choose another folder"
            ) from None
        except OSError:
            pass  # there are no locks there
        for leftover in folder.glob(".*.????????.tmp"):  # of one who died while writing
            with contextlib.suppress(OSError):
                leftover.unlink()
        yield


def retry(write: Callable[[], Any]) -> Any:
    """Try to write, and if that fails a few times more, ever later: a slow folder may come back.

    Returns what it returns; an OSError says that it failed each time. Explained in appendix A2,
    "Going on".
    """
    for delay in DELAYS:
        try:
            return write()
        except OSError:
            time.sleep(delay)
    return write()


def check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, or to resume none."""
    names = ("checkpoint", "checkpoint.previous", "run.json")
    if not resume and any((out / name).exists() for name in names):
        raise ValueError(f"{out} holds a run already; resume it or choose another folder")
    if resume and not any((out / name).exists() for name in names[:2]):
        raise FileNotFoundError(f"No such file: there is no checkpoint in {out} to resume")


def begin(task: Task) -> dict:
    """Say what a checkpoint must tell beside the arrays, for a run that is about to begin.

    These are plain values: configuration, a digest of the target, devices, the generation reached,
    and rows of `HISTORY`. Explained in appendix A2, "Going on".
    """
    target = hashlib.sha256(task.target.tobytes()).hexdigest()
    told = {"target": target, "devices": [describe_device()], "generation": 0, "history": []}
    return {"config": dataclasses.asdict(task.config)} | told


def continue_from(saved: dict, meta: dict, points: Sequence[int]) -> dict:
    """Join what a checkpoint tells to what is about to run, if the two belong together.

    Explained in appendix A2, "Going on".

    Args:
        saved: from the checkpoint.
        meta: from `begin`.
        points: generations that may stay in the history; see `nca_lib.lab.loop.log_points`.

    Returns:
        Like `meta`, with the progress of `saved`.

    Raises:
        ValueError: the checkpoint is not of a run; a field other than `generations` differs, or
            `generations` is smaller here, or the target has changed: names what, and both values.
    """
    here = meta["devices"]
    try:
        config = dataclasses.asdict(read_config(saved["config"]))
        rows = [dict(zip(HISTORY, row, strict=True))["generation"] for row in saved["history"]]
        is_run = rows == sorted({*rows}) and rows[-1] == saved["generation"]
        devices = [*map(str, saved.get("devices", here))]
        *_, before = devices
    except NotImplementedError as error:
        raise ValueError(f"cannot resume: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError):
        is_run = False
    if not is_run:
        raise ValueError("cannot resume: the checkpoint is not one of a training")
    same_target = saved.get("target") == meta["target"]  # "❤" and "❤️" have the same picture
    for name, value in meta["config"].items():
        there = config[name]
        fine = there < value if name == "generations" else name == "emoji" and same_target
        if there != value and not fine:
            raise ValueError(f"cannot resume: {name} is {value!r}, in the checkpoint {there!r}")
    if saved.get("target", meta["target"]) != meta["target"]:
        raise ValueError(
            "cannot resume: the target's picture is not the checkpoint's; has Pillow another "
            "version, or the emoji another drawing?"
        )
    kept = {*points, saved["generation"]}
    if before != here[0]:
        say(f"The checkpoint is from {before}, and this is {here[0]}: sums are rounded apart.")
        devices += here
    rows = [row for row in saved["history"] if row[0] in kept]
    return meta | {"generation": saved["generation"], "devices": devices, "history": rows}


def write_run(out: Path, task: Task, params: Any, std: Any, history: list, told: dict) -> None:
    """Write the files of a run folder, each whole or not at all.

    Beside the final weights these are the noise scale of each of them (`std`, a pytree of the same
    shapes), rows of `HISTORY`, and what else `run.json` shall tell: the `command` that reproduces
    the run, the `device` it was computed on and, where settings were changed on the way, in
    `changes` what they were, from which generation on.
    """
    (out / "run.json").unlink(missing_ok=True)  # comes last: a folder that has it is whole
    digits = [[f"{x:.6g}" if isinstance(x, float) else str(x) for x in row] for row in history]
    checkpoint.write_table(out / "history.csv", [HISTORY, *digits])
    checkpoint.save_weights(out / "weights.npz", params)
    states = np.asarray(task.frames(params, jax.random.key(FRESH)))
    pixels = images.upscale(images.to_rgb(states, premultiplied=task.config.premultiply), 6)
    checkpoint.write_atomic(out / "final.png", images.encode(pixels[-1:], "PNG"))
    checkpoint.write_atomic(out / "growth.webp", images.encode(pixels, "WEBP", fps=16))
    losses = make_measure(task)(params, jax.random.split(jax.random.key(FRESH), MEASURED))
    last = dict(zip(HISTORY, history[-1], strict=True))
    description = {
        "config": dataclasses.asdict(task.config),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "loss": {"mean": float(losses.mean()), "std": float(losses.std()), "keys": MEASURED},
        "empty_loss": task.empty_loss(),
        "std": {k: float(v.mean()) for k, v in checkpoint.weights_to_arrays(std).items()},
        "rollouts": last["rollouts"],
        "seconds": last["seconds"],
        "versions": versions(),
        **told,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    checkpoint.write_atomic(out / "run.json", text.encode())


class Run(NamedTuple):
    """A trained run: what `load_run` returns.

    Explained in chapter 4, "Half a minute of evolution".
    """

    folder: Path  #: where its files are
    info: dict  #: run.json, with provenance, final losses, the command that reproduces it
    config: Config  #: what was trained
    task: Task  #: target, start and rule of the configuration
    params: Any  #: trained weights, a pytree like task.params
    history: dict[str, np.ndarray]  #: columns of history.csv, float64

    @property
    def target(self) -> np.ndarray:
        """The picture it was trained to grow, (H, W, 4) float32 in [0, 1]."""
        return self.task.target

    def frames(self, key: jax.Array, num_steps: int | None = None) -> jax.Array:
        """Grow it once and return every state.

        Explained in chapter 6, "Eight lizards".

        Args:
            key: decides the fire masks.
            num_steps: T; default the configured length.

        Returns:
            (T + 1, H, W, C) float32.
        """
        return self.task.frames(self.params, key, num_steps)

    def evaluate(self, keys: int = 8, factor: int = 1) -> np.ndarray:
        """Recompute the loss over fresh fire masks.

        Explained in chapter 3, "Luck".

        Args:
            keys: number of rollouts.
            factor: grow for `factor * num_steps` steps; the loss covers the last `window`.

        Returns:
            (keys,) float32, one loss per rollout.

        Raises:
            ValueError: keys or factor not from 1 to 1,000,000.
        """
        check_int("keys", keys, 1, 1_000_000)
        check_int("factor", factor, 1, 1_000_000)
        fresh = jax.random.split(jax.random.key(FRESH), keys)
        return np.asarray(make_measure(self.task, factor)(self.params, fresh))


def list_runs() -> list[str]:
    """List the names of the runs that ship with the package.

    Explained in chapter 6, "The other runs".
    """
    return sorted(file.parent.name for file in SHIPPED.glob("*/run.json"))


def load_run(name_or_folder: str | Path) -> Run:
    """Load a shipped run by name, or any run folder or record by path.

    Explained in chapter 4, "Half a minute of evolution".

    Args:
        name_or_folder: one of `list_runs()`, a folder that `nca_lib.train` has left, or a record
            NAME.nca.json that a page has saved. A record has no history, and of `info` only what
            it tells.

    Returns:
        The run.

    Raises:
        ValueError: no such run, or its weights do not fit its configuration.

    Example:
        >>> run = load_run("lizard")
        >>> run.evaluate(keys=8).shape
        (8,)
    """
    is_name = isinstance(name_or_folder, str | os.PathLike)
    check(is_name, "name_or_folder", name_or_folder, "a name or a path")
    if is_record(name_or_folder):
        return _load_record(Path(name_or_folder))
    is_shipped = str(name_or_folder) in list_runs()
    folder = SHIPPED / str(name_or_folder) if is_shipped else Path(name_or_folder)
    if not os.path.isfile(folder / "run.json"):  # noqa: PTH113 (of names too long: false)
        names = ", ".join(list_runs())
        raise ValueError(f"{str(folder)!r} is neither one of {names} nor a folder with a run.json")
    try:
        info = json.loads(read_file(folder / "run.json", MAX_FILE))
        config = read_config(info["config"])
        lines = read_file(folder / "history.csv", MAX_FILE).decode("utf-8-sig").splitlines()
        table = np.genfromtxt(lines, delimiter=",", names=True, ndmin=1)
        history = {name: table[name] for name in HISTORY}
        if history["generation"][-1] != config.generations:
            raise ValueError(f"the history ends at generation {history['generation'][-1]:g}")
    except Exception as error:  # json and csv raise nearly anything on damaged files
        raise ValueError(f"the run folder {folder} cannot be read: {error!r}") from error
    task = make_task(config)
    params = load_weights(folder / "weights.npz", like=task.params)
    return Run(folder, info, config, task, params, history)


def _load_record(path: Path) -> Run:
    """A run of which only a record is left."""
    record, task, params = read_record(path)
    info = {name: record[name] for name in ("rule", "title", "rollouts") if name in record}
    info |= {"config": dataclasses.asdict(task.config), "empty_loss": task.empty_loss()}
    info["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    if "loss" in record:
        info["loss"] = {"mean": record["loss"]}
    return Run(path, info, task.config, task, params, {name: np.empty(0) for name in HISTORY})
