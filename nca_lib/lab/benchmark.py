"""The reference notebook, plain JAX and this library, timed side by side (appendix A1).

From the command line::

    python -m nca_lib.benchmark --json benchmark.json

One generation (ask, evaluate, tell) is timed of four implementations of the same experiment, by
default on the notebook's grid: 48 x 48 cells, 90 steps, 16 channels, 128 hidden units.

- `ours`: this library with paired masks, which compute only the half of the cells that fires.
- `ours_bernoulli`: this library tossing a coin for each cell; firing or not, all are computed.
  Both leave out what the growing seed cannot have reached yet.
- `plain`: straightforward JAX, a convolution and two matrix products under `vmap`.
- `reference`: the same calls of CAX, flax and evosax as the notebook; skipped without CAX 0.3.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nca_lib.lab.checkpoint import write_atomic
from nca_lib.lab.config import PRESETS, Config
from nca_lib.lab.machine import describe_device, use_cores, versions
from nca_lib.lab.task import Task, make_strategy, make_task, make_trainer
from nca_lib.model import KERNELS, check, check_int, seed_state
from nca_lib.rollout import stages

# Leanest first: the operating system tells a process's peak memory so far, which never falls.
NAMES = ("ours", "ours_bernoulli", "plain", "reference")

Generation = Callable[[Any, jax.Array], Any]  # (state of the strategy, key) -> next state

NOTEBOOK = dataclasses.replace(PRESETS["reference"], population=32)  # 512 takes 7 GB there


def benchmark(config: Config = NOTEBOOK, repeats: int = 5, only: Sequence[str] = NAMES) -> dict:
    """Time one generation of each implementation, in this process and in turn.

    After the warm-up the generations alternate between implementations, so that a busy moment of
    the machine does not fall on one alone.

    Explained in appendix A1, "What is timed".

    Args:
        config: the experiment; its mask is set by each implementation.
        repeats: timed generations of each, at least 1.
        only: implementations to time, of `NAMES`.

    Returns:
        What `--json` writes, by name. `settings`, `device`, `versions`, `skipped` (name -> reason),
        and by implementation `seconds` (all of them), `rollouts_per_second` (of the median),
        `cell_updates_per_second`, `peak_memory_bytes` (of the process so far, compilation
        included), `ratio_to_reference` (empty without the reference).

    Raises:
        ValueError: an odd size, repeats not 1 to 1000, or unknown names in `only`, or none.
    """
    check_int("repeats", repeats, 1, 1000)
    check(only and {*only} <= {*NAMES}, "only", only, f"some of {NAMES}")
    running, skipped, peaks = _warm_up(config, only)
    seconds = {name: [] for name in running}
    for number in range(repeats):
        key = jax.block_until_ready(jax.random.key(2 + number))
        for name, (generation, state) in running.items():
            clock = time.perf_counter()
            state = jax.block_until_ready(generation(state, key))
            seconds[name].append(time.perf_counter() - clock)
            running[name] = generation, state
    settings = dataclasses.asdict(config) | {"repeats": repeats}
    del settings["mask"]  # not one, but each implementation's own
    cax = {"cax": importlib.metadata.version("cax")} if "reference" in running else {}
    told = {"settings": settings, "versions": versions() | cax, "device": describe_device()}
    return told | {"skipped": skipped, "peak_memory_bytes": peaks} | rates(config, seconds)


def _warm_up(config: Config, only: Sequence[str]) -> tuple[dict, dict[str, str], dict[str, int]]:
    """Compile each implementation by running two generations, leanest first.

    Two, since the reference compiles twice: its first generation leaves the whole population in
    the module. Returns three dictionaries by name, of what runs, (generation, state), of why what
    does not is skipped, and of the peak memory in bytes.
    """
    makers = dict(zip(NAMES, (make_ours, make_ours, make_plain, make_reference), strict=True))
    running, skipped, peaks = {}, {}, {}
    for name in (name for name in NAMES if name in only):
        mask = "paired" if name == "ours" else "bernoulli"
        task = make_task(dataclasses.replace(config, mask=mask))
        try:
            generation, state = makers[name](task)
        except ImportError as error:
            skipped[name] = f"it needs cax 0.3, as the notebook does ({error})"
            continue
        for number in range(2):
            state = jax.block_until_ready(generation(state, jax.random.key(number)))
        running[name], peaks[name] = (generation, state), peak_memory()
    return running, skipped, peaks


def rates(config: Config, seconds: dict[str, list[float]]) -> dict:
    """Turn the seconds of each timed generation into the rates that `benchmark` reports."""
    rollouts = {name: config.population / statistics.median(s) for name, s in seconds.items()}
    cells = {name: rate * cells_computed(name, config) for name, rate in rollouts.items()}
    reference = rollouts.get("reference")
    return {
        "seconds": seconds,
        "rollouts_per_second": rollouts,
        "cell_updates_per_second": cells,
        "ratio_to_reference": {n: r / reference for n, r in rollouts.items()} if reference else {},
    }


def cells_computed(name: str, config: Config) -> int:
    """Count the cells that one rollout sends through the network, summed over the steps.

    Explained in appendix A1, "One change at a time".
    """
    side = config.size + 2 * config.padding
    if not name.startswith("ours"):
        return side**2 * config.num_steps
    crops = stages(side, side, config.num_steps, reach=0)  # only where the seed can have reached
    cells = sum((last - first) * (side - 2 * margin) ** 2 for first, last, margin in crops)
    return cells // 2 if name == "ours" else cells


def peak_memory() -> int:
    """Peak memory so far, in bytes: of the accelerator if there is one, else of this process."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"]
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage there may tell the peak of the parent process instead
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def make_ours(task: Task) -> tuple[Generation, Any]:
    """Set up this library, as `nca_lib.train` calls it.

    Explained in appendix A1, "What is timed".

    Args:
        task: its mask decides between `ours` and `ours_bernoulli`.

    Returns:
        One generation, `(state, key) -> state`, and the state to start from.
    """
    strategy, evolve = make_trainer(task)

    def generation(state, key):
        return evolve(state, key, 0, 1)[0]

    return generation, strategy.init(jax.random.key(0), task.params)


def plain_step(weights: dict, state: jax.Array, fire: jax.Array, config: Config) -> jax.Array:
    """One step as one would first write it: every cell is computed, then half are kept.

    Explained in appendix A1, "What is timed".

    Args:
        weights: kernel and bias of "hidden" and of "output", nested by name. The rows of the
            first kernel go channel by channel, three views each, as a grouped convolution returns
            them.
        state: (H, W, C) float32.
        fire: (H, W) bool.
        config: gives channels, step size and threshold.

    Returns:
        (H, W, C) float32, the next state.
    """

    def alive(state):
        box = ((3, 3, 1), (1, 1, 1), "SAME")
        tallest = jax.lax.reduce_window(state[..., -1:], -jnp.inf, jax.lax.max, *box)
        return tallest > config.alive_threshold

    perception = jax.lax.conv_general_dilated(
        state[None],
        jnp.tile(KERNELS[:, :, None, :], config.channels),  # (3, 3, 1, 3C)
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=config.channels,
    )[0]
    hidden = jax.nn.relu(perception @ weights["hidden"]["kernel"] + weights["hidden"]["bias"])
    update = hidden @ weights["output"]["kernel"] + weights["output"]["bias"]
    following = state + config.step_size * fire[..., None] * update
    return (alive(state) & alive(following)) * following


def plain_loss(weights: dict, fires: jax.Array, task: Task) -> jax.Array:
    """Grow from the seed by `plain_step` and average the loss over the last steps."""

    def step(state, fire):
        state = plain_step(weights, state, fire, task.config)
        return state, jnp.mean(jnp.square(state[..., -4:] - task.target))

    return jnp.mean(jax.lax.scan(step, task.start, fires)[1][-task.config.window :])


def make_plain(task: Task) -> tuple[Generation, Any]:
    """Set up plain functions, `vmap` over the population, one device; see `make_ours`.

    Explained in appendix A1, "What is timed".
    """
    weights = nnx.to_pure_dict(task.params)
    strategy = make_strategy(task.config, weights)

    @jax.jit
    def generation(state, key):
        key_ask, key_evaluate, key_tell = jax.random.split(key, 3)
        population, state = strategy.algorithm.ask(key_ask, state, strategy.params)
        fires = task.fires(key_evaluate)
        fitness = jax.vmap(lambda weights: plain_loss(weights, fires, task))(population)
        return strategy.algorithm.tell(key_tell, population, fitness, state, strategy.params)[0]

    return generation, strategy.init(jax.random.key(0), weights)


def _reference_system(config: Config) -> nnx.Module:
    """Make the notebook's automaton, from the same parts of CAX.

    An ImportError says that CAX is not installed, or not the 0.3 that the notebook was written
    for: 0.4 can no longer `sow`.
    """
    if not (found := importlib.metadata.version("cax")).startswith("0.3."):
        raise ImportError(f"found cax {found}")
    from cax.core import ComplexSystem
    from cax.core.perceive import ConvPerceive, grad_kernel, identity_kernel
    from cax.core.update import NCAUpdate

    rngs, channels, seen = nnx.Rngs(config.seed), config.channels, 3 * config.channels
    options = {"cell_dropout_rate": 0.5, "step_size": config.step_size / 2}  # dropout doubles
    options |= {"alive_threshold": config.alive_threshold, "zeros_init": True}

    class Automaton(ComplexSystem):
        def __init__(self):
            self.perceive = ConvPerceive(channels, seen, feature_group_count=channels, rngs=rngs)
            self.update = NCAUpdate(channels, seen, (config.hidden,), rngs=rngs, **options)
            views = jnp.concatenate([identity_kernel(ndim=2), grad_kernel(ndim=2)], axis=-1)
            self.perceive.conv.kernel[...] = jnp.tile(views, channels)[:, :, None, :]

        def _step(self, state, input=None, *, sow=False):
            state = self.update(state, self.perceive(state), input)
            if sow:
                self.sow(nnx.Intermediate, "state", state)
            return state

    return Automaton()


def make_reference(task: Task) -> tuple[Generation, Any]:
    """Set up the notebook's generation: every state of every member is kept, then measured.

    See `make_ours`, and for an ImportError `_reference_system`. Explained in appendix A1, "What is
    timed".
    """
    from evosax.algorithms import Open_ES

    config, system = task.config, _reference_system(task.config)
    trained = nnx.All(nnx.Param, nnx.PathContains("update"))
    solution, std = nnx.state(system, trained), optax.constant_schedule(config.std)
    optimizer = optax.adam(config.learning_rate)
    strategy = Open_ES(config.population, solution, optimizer=optimizer, std_schedule=std)
    params = strategy.default_params

    def loss(system, start):
        # A batch of one. Members share its fire masks: the outer vmap leaves random keys alone.
        axes = nnx.StateAxes({nnx.RngState: 0, nnx.Intermediate: 0, ...: None})
        grow = functools.partial(type(system).__call__, num_steps=config.num_steps, sow=True)
        nnx.split_rngs(splits=1)(nnx.vmap(grow, in_axes=(axes, None)))(system, start)
        states = jax.tree.leaves(nnx.pop(system, nnx.Intermediate))[0]  # (1, T, H, W, C)
        return jnp.mean(jnp.square(states[:, -config.window :, ..., -4:] - task.target))

    @nnx.jit
    def step(system, state, key):
        _, key_ask, _, key_tell = jax.random.split(key, 4)
        start = seed_state(*task.start.shape)
        population, state = strategy.ask(key_ask, state, params)
        nnx.update(system, population)
        axes = nnx.StateAxes({trained: 0, ...: None})
        fitness = nnx.vmap(loss, in_axes=(axes, None))(system, start)
        return strategy.tell(key_tell, population, fitness, state, params)

    def generation(state, key):
        with warnings.catch_warnings():  # flax wants `sow` written otherwise by now
            warnings.simplefilter("ignore", DeprecationWarning)
            return step(system, state, key)[0]

    return generation, strategy.init(jax.random.key(0), solution, params)


def table(report: dict) -> str:
    """Lay out what `benchmark` returns as lines of text.

    Explained in appendix A1, "The race".
    """
    settings, ratios = report["settings"], report["ratio_to_reference"]
    side = settings["size"] + 2 * settings["padding"]
    lines = [
        "{population} rollouts of {num_steps} steps, {channels} channels, hidden {hidden}, on "
        "{0} x {0} cells; median of {repeats}".format(side, **settings),
        f"{report['device']}; " + ", ".join(map(" ".join, report["versions"].items())),
        "",
        "                rollouts/s  Mcells/s  peak MB  x reference",
    ]
    for name, rollouts in report["rollouts_per_second"].items():
        cells, peak = report["cell_updates_per_second"][name], report["peak_memory_bytes"][name]
        ratio = f"{ratios[name]:13.2f}" if ratios else ""
        lines.append(f"{name:16}{rollouts:10.1f}{cells / 1e6:10.2f}{peak / 1e6:9.0f}{ratio}")
    return "\n".join(lines + [f"{name}: skipped, {why}" for name, why in report["skipped"].items()])


def notebook(size: int = 48, steps: int = 90, **fields: int) -> Config:
    """Make the notebook's experiment, at another size.

    Explained in appendix A1, "How cost grows".

    Args:
        size: side of the grid in cells, the target's padding included; even.
        steps: steps of a rollout, all of them measured.
        **fields: others of `nca_lib.lab.config.Config`.

    Returns:
        The configuration.

    Raises:
        ValueError: size odd or under 2.
    """
    check(size >= 2 and size % 2 == 0, "size", size, "even and at least 2")
    padding = size // 12  # 4 cells around 40, as in the notebook
    fields |= {"size": size - 2 * padding, "padding": padding, "num_steps": steps, "window": steps}
    return dataclasses.replace(NOTEBOOK, **fields)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m nca_lib.benchmark",
        description="Time one generation of the reference notebook, of plain JAX and of nca_lib.",
    )
    sizes = {"size": 48, "steps": 90, "channels": 16, "hidden": 128, "population": 32}
    for name, default in (sizes | {"repeats": 5}).items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args(arguments)
    try:
        path = options.json  # known before the timing, not after
        fine = not path or (path.name and path.parent.is_dir() and not path.is_dir())
        check(fine, "--json", str(path), "a file in an existing folder")
        use_cores()
        config = notebook(**{name: getattr(options, name) for name in sizes})
        report = benchmark(config, options.repeats, options.only)
        if options.json:
            write_atomic(options.json, (json.dumps(report, indent=2) + "\n").encode())
        print(table(report))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
