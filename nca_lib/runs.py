"""Run folders, shipped with the package or the reader's own: list, load, evaluate (chapter 4)."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nca_lib.checkpoint import load_weights, read_file
from nca_lib.train import FRESH, HISTORY, SHIPPED, Config, Task, make_measure, make_task

MAX_FILE = 10_000_000  # bytes; a history has at most 4,000 rows


class Run(NamedTuple):
    """A trained run: what `load_run` returns.

    Explained in chapter 4, "Half a minute of evolution".
    """

    folder: Path  #: where its files are
    info: dict  #: run.json: provenance, final losses, the command that reproduces it
    config: Config  #: what was trained
    task: Task  #: target, start and rule of the configuration
    params: Any  #: trained weights, a pytree like task.params
    history: dict[str, np.ndarray]  #: columns of history.csv, float64

    @property
    def target(self) -> np.ndarray:
        """The picture it was trained to grow, (H, W, 4) float32 in [0, 1]."""
        return self.task.target

    def grow(self, key: jax.Array, num_steps: int | None = None) -> jax.Array:
        """Grow it once and return every state.

        Explained in chapter 5, "Eight lizards".

        Args:
            key: decides the fire masks.
            num_steps: T; default the configured length.

        Returns:
            (T + 1, H, W, C) float32.
        """
        return self.task.frames(self.params, key, num_steps)

    def evaluate(self, keys: int = 8, factor: int = 1) -> np.ndarray:
        """Recompute the loss over fresh fire masks.

        Explained in chapter 5, "How alike are they?".

        Args:
            keys: number of rollouts.
            factor: grow for `factor * num_steps` steps; the loss covers the last `window`.

        Returns:
            (keys,) float32, one loss per rollout.

        Raises:
            ValueError: keys or factor not from 1 to 1,000,000.
        """
        for name, value in (("keys", keys), ("factor", factor)):
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise ValueError(f"{name} must be an int from 1 to 1000000, got {value!r}")
        fresh = jax.random.split(jax.random.key(FRESH), keys)
        return np.asarray(make_measure(self.task, factor)(self.params, fresh))


def list_runs() -> list[str]:
    """List the names of the runs that ship with the package.

    Explained in chapter 5, "The other runs".
    """
    folders = SHIPPED.iterdir() if SHIPPED.is_dir() else ()
    return sorted(folder.name for folder in folders if (folder / "run.json").is_file())


def load_run(name_or_folder: str | Path) -> Run:
    """Load a shipped run by name, or any run folder by path.

    Explained in chapter 4, "Half a minute of evolution".

    Args:
        name_or_folder: one of `list_runs()`, or a folder that `nca_lib.train` has left.

    Returns:
        The run.

    Raises:
        ValueError: no such run, or its weights do not fit its configuration.

    Example:
        >>> run = load_run("lizard")
        >>> run.evaluate(keys=8).shape
        (8,)
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise ValueError(f"name_or_folder must be a name or a path, got {name_or_folder!r}")
    is_shipped = str(name_or_folder) in list_runs()
    folder = SHIPPED / str(name_or_folder) if is_shipped else Path(name_or_folder)
    if not os.path.isfile(folder / "run.json"):  # noqa: PTH113 (of names too long: false)
        raise ValueError(
            f"{str(name_or_folder)!r} is neither a shipped run ({', '.join(list_runs())}) nor a "
            "folder with a run.json"
        )
    try:
        info = json.loads(read_file(folder / "run.json", MAX_FILE))
        config = Config(**info["config"])
        lines = read_file(folder / "history.csv", MAX_FILE).decode().splitlines()
        table = np.genfromtxt(lines, delimiter=",", names=True, ndmin=1)
        history = {name: table[name] for name in HISTORY}
        if history["generation"][-1] != config.generations:
            raise ValueError(f"the history ends at generation {history['generation'][-1]:g}")
    except Exception as error:  # json and csv raise nearly anything on damaged files
        raise ValueError(f"the run folder {folder} is damaged: {error!r}") from error
    task = make_task(config)
    params = load_weights(folder / "weights.npz", like=task.params)
    return Run(folder, info, config, task, params, history)
