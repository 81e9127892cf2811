"""The one loop: generations from one point of the history to the next (chapter 5).

The command line, the dashboard, the duel, the study and the surrogates all iterate `run`; to stop
is to stop iterating.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from nca_lib.lab import checkpoint, runs
from nca_lib.lab.checkpoint import say
from nca_lib.lab.config import Config
from nca_lib.lab.machine import describe_device, memory_needed, plan_chunk
from nca_lib.lab.runs import HISTORY, MEASURED
from nca_lib.lab.task import Task, initial_weights, make_measure, make_task, make_trainer

ADVICE = "Lower sigma (std) or the learning rate, or take more members."
START = {"generation": 0, "rollouts": 0, "seconds": 0.0}


def run_keys(seed: int) -> jax.Array:
    """Three keys of a run: for the strategy's start, for its generations, for its measurements."""
    return jax.random.split(jax.random.key(seed), 3)


def run(
    task: Task,
    trainer: tuple[Any, Callable],
    state: Any,
    points: Iterable[int],
    last: dict = START,
    measure: Callable | None = None,
) -> Iterator[tuple[Any, dict]]:
    """Train to each point in turn, measure the mean there, and stop a run that cannot recover.

    A population with no spread in its fitness does not find its way back: see chapter 5, "What goes
    wrong".

    Args:
        task: from `make_task`.
        trainer: from `make_trainer`.
        state: of the strategy, at the last point.
        points: numbers of generations, ascending; each is asked for when the one before is done.
        last: the row of history to go on from.
        measure: from `make_measure`, where it is compiled already.

    Yields:
        The state and a row of history, by the names of `HISTORY`.

    Raises:
        FloatingPointError: most members are not finite.
        RuntimeError: most members score what an empty grid scores.
    """
    (strategy, evolve), config = trainer, task.config
    _, key, key_measure = run_keys(config.seed)
    measure, keys = measure or make_measure(task), jax.random.split(key_measure, MEASURED)
    # Of an empty grid. Where the goal is no picture, populations climb out of it.
    dead_loss = task.empty_loss() if config.goal == "target" else math.nan
    for point in points:
        clock, count = time.monotonic(), point - last["generation"]
        state, metrics = evolve(state, key, last["generation"], count)
        loss = float(measure(strategy.mean(state), keys).mean())
        if not (config.starts_grown and loss < dead_loss):  # else it may be one bad start
            _check_alive(metrics, config.population, dead_loss, point)
        last = {
            "generation": point,
            "rollouts": last["rollouts"] + count * config.population,
            "seconds": last["seconds"] + time.monotonic() - clock,
            "loss": loss,
            **{name: metrics[name].item() for name in HISTORY[4:]},
        }
        yield state, last


def _check_alive(metrics: dict, population: int, dead_loss: float, generation: int) -> None:
    """Stop a run that cannot recover: most members explode, or score what an empty grid scores."""
    where = f"generation {generation}"
    if metrics["nonfinite"] > population / 2:
        raise FloatingPointError(
            f"{where}: {metrics['nonfinite']} of {population} members are not finite: patterns "
            f"explode. {ADVICE}"
        )
    dead = math.isclose(metrics["fitness_median"], dead_loss, rel_tol=1e-5)
    if dead and metrics["tied"] > population / 2:
        raise RuntimeError(
            f"{where}: most members died (they score {dead_loss:.4f}, the empty grid). "
            f"Where there is nothing to rank, nothing leads back. {ADVICE}"
        )


def log_points(config: Config, done: int) -> list[int]:
    """List the generations still ahead after which a row of history is written, ascending.

    These are the first 16, then every `log_every`-th, or fewer so that no history exceeds 4,000
    rows, and the last; those up to `done` are behind.
    """
    every = max(config.log_every, math.ceil(config.generations / 3_900))
    points = {*range(1, 17), *range(every, config.generations, every), config.generations}
    return sorted(point for point in points if done < point <= config.generations)


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    command: str | None = None,
    chunk: int | None = None,
    checkpoint_seconds: float = 60.0,
) -> Path:
    """Evolve a rule and leave a run folder.

    Ctrl-C saves a checkpoint before it leaves. Where a checkpoint cannot be written, the training
    says so and goes on. With `JAX_ENABLE_X64=1` everything is computed in float32 all the same, but
    evosax draws other noise: another run, as good. Explained in chapter 4, "Half a minute of
    evolution".

    Args:
        config: what to run.
        out: the run folder; made if needed.
        resume: go on from the folder's checkpoint. The configuration must be the checkpoint's,
            except that `generations` may grow (the schedules then stretch). On another number of
            devices sums are rounded otherwise, and the run will differ from an uninterrupted one.
            A complete run is left as it is.
        command: recorded in `run.json` as what was typed to make the run.
        chunk: members that a device computes side by side; see `plan_chunk`. Backpropagation
            takes them one by one.
        checkpoint_seconds: least time between two checkpoints.

    Returns:
        The folder.

    Raises:
        ValueError: bad configuration, too little memory, a folder that holds a run already or is
            in use, a checkpoint of another configuration or target.
        OSError: the folder cannot be written.
        FileNotFoundError: it holds no checkpoint to resume.
        NotImplementedError: the checkpoint is of a later version of `nca_lib`.
        RuntimeError, FloatingPointError: the population died or exploded.
    """
    task, out, is_writer = make_task(config), Path(out), jax.process_index() == 0
    runs.check_folder(out, resume)
    chunk = plan_chunk(config, chunk) if config.strategy != "backprop" else None
    strategy, evolve = make_trainer(task, chunk)
    weights = task.params if resume else initial_weights(config, task.params)
    state, meta = strategy.init(run_keys(config.seed)[0], weights), runs.begin(task)
    with runs.hold(out) if is_writer else nullcontext():
        runs.check_folder(out, resume)  # again: another training may have ended just now
        if resume:
            state, saved = checkpoint.load(out / "checkpoint", like=state)
            meta = runs.continue_from(saved, meta, log_points(config, 0))
            if meta["generation"] == config.generations and (out / "run.json").exists():
                return out  # complete already
        if is_writer and chunk:
            needed = memory_needed(config, chunk) / 1e6
            say(f"Each generation holds about {needed:,.0f} MB on each of {describe_device()}.")
        last = dict(zip(HISTORY, meta["history"][-1], strict=True)) if meta["history"] else START
        points = log_points(config, last["generation"])
        rows = run(task, (strategy, evolve), state, points, last)
        how = f"{command} --resume" if command else f"train(config, {str(out)!r}, resume=True)"
        path = out / "checkpoint" if is_writer else None
        state, meta = _keep(rows, state, meta, path, checkpoint_seconds, how)
        if is_writer:
            mean, std = strategy.mean(state), strategy.std(state)
            told = {"device": ", then ".join(meta["devices"]), "command": command}
            runs.retry(lambda: runs.write_run(out, task, mean, std, meta["history"], told))
    return out


def _keep(
    rows: Iterator, state: Any, meta: dict, path: Path | None, every: float, how: str
) -> tuple[Any, dict]:
    """Iterate a training and write its checkpoints; of several processes one has a `path`."""
    mine, saved_at = {path and checkpoint.mark(path)}, time.monotonic()

    def save():
        if path and meta["generation"]:
            checkpoint.save(path, state, meta, mine)

    total, done = meta["config"]["generations"], meta["generation"]
    progress = tqdm(total=total, initial=done, unit="gen", disable=not (path and sys.stderr))
    try:
        for following, row in rows:
            history = [*meta["history"], [row[name] for name in HISTORY]]
            # At once: Ctrl-C never finds one without the other.
            state, meta = following, meta | {"generation": row["generation"], "history": history}
            progress.update(row["generation"] - progress.n)
            rate = round(row["rollouts"] / row["seconds"])
            progress.set_postfix({"loss": f"{row['loss']:.4f}", "rollouts/s": rate})
            if time.monotonic() - saved_at < every:
                continue
            try:
                save()
            except OSError as error:  # the next one is a new attempt
                say(f"warning: not written: {error}", sys.stderr)
            saved_at = time.monotonic()
    except BaseException as error:
        try:
            runs.retry(save)
            if isinstance(error, KeyboardInterrupt) and path and meta["generation"]:
                say(f"Stopped at generation {meta['generation']}. To go on: {how}")
        except Exception as second:  # must not hide why it stopped
            say(f"warning: not written: {second}", sys.stderr)
        raise
    finally:
        progress.close()
    runs.retry(save)
    return state, meta
