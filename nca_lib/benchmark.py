"""The reference notebook, plain JAX and this library, timed side by side (appendix A1).

    python -m nca_lib.benchmark --json benchmark.json

One generation (ask, evaluate, tell) is timed of four implementations of the same experiment, by
default on the notebook's grid: 48 x 48 cells, 90 steps, 16 channels, 128 hidden units.

- `ours`: this library with paired masks, which compute only the half of the cells that fires.
- `ours_bernoulli`: this library tossing a coin for each cell, all cells computed.
- `plain`: straightforward JAX, a convolution and two matrix products under `vmap`.
- `reference`: the same calls of CAX, flax and evosax as the notebook; skipped without CAX.

FLOPs are those of the two dense layers on the cells computed, 2 (3C hidden + hidden C) each.
Perception, masks and random numbers are left out of the count, though not out of the time.
"""

import argparse
import dataclasses
import importlib.metadata
import json
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
from jax.sharding import PartitionSpec

from nca_lib.checkpoint import write_atomic
from nca_lib.evolution import AXIS, make_evolve, population_mesh, use_cores
from nca_lib.model import KERNELS, seed_state
from nca_lib.train import PRESETS, Task, describe_device, make_strategy, make_task, versions

# Leanest first: the operating system tells a process's peak memory so far, which never falls.
NAMES = ("ours", "ours_bernoulli", "plain", "reference")

Generation = Callable[[Any, jax.Array], Any]  # (state of the strategy, key) -> next state


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is timed. The defaults are the notebook's, with a population that fits anywhere."""

    size: int = 48  # side of the grid, in cells; even
    steps: int = 90  # steps of a rollout, all of them measured as in the notebook
    channels: int = 16  # numbers per cell
    hidden: int = 128  # width of the hidden layer
    population: int = 32  # rollouts per generation; even
    repeats: int = 5  # timed generations of each implementation


def benchmark(settings: Settings = Settings(), only: Sequence[str] = NAMES) -> dict:
    """Time one generation of each implementation, in this process and in turn.

    Each is first run twice: the reference compiles twice, since its first generation leaves the
    whole population in the module. The timed generations then alternate between implementations,
    so that a busy moment of the machine does not fall on one alone.

    Args:
        settings: sizes and number of repeats.
        only: implementations to time, of `NAMES`.

    Returns:
        What `--json` writes: `settings`, `device`, `versions`, `flops_per_cell`, `matmul_gflops`
        (the machine's own rate, see `matmul_flops_per_second`), `skipped` (name -> reason), and
        by implementation `seconds` (all of them), `rollouts_per_second` (of the median),
        `cell_updates_per_second`, `gflops`, `fraction_of_matmul`, `peak_memory_bytes` (of the
        process so far), `ratio_to_reference` (empty without the reference).

    Raises:
        ValueError: a size that cannot run, or an unknown name in `only`.
    """
    check(settings, only)
    report = {"settings": dataclasses.asdict(settings), "device": describe_device()}
    report |= {"versions": versions(), "skipped": {}, "peak_memory_bytes": {}}
    running = {}
    for name in (name for name in NAMES if name in only):
        try:
            generation, state = make(name, settings)
        except ImportError as error:
            report["skipped"][name] = f"CAX cannot be imported ({error}); install cax>=0.3.3"
            continue
        for number in range(2):
            state = jax.block_until_ready(generation(state, jax.random.key(number)))
        running[name] = generation, state
        report["peak_memory_bytes"][name] = peak_memory()
    if "reference" in running:
        report["versions"]["cax"] = importlib.metadata.version("cax")
    seconds = {name: [] for name in running}
    for number in range(settings.repeats):
        for name, (generation, state) in running.items():
            key = jax.block_until_ready(jax.random.key(2 + number))
            clock = time.perf_counter()
            state = jax.block_until_ready(generation(state, key))
            seconds[name].append(time.perf_counter() - clock)
            running[name] = generation, state
    return report | rates(settings, seconds, matmul_flops_per_second(settings))


def check(settings: Settings, only: Sequence[str]) -> None:
    """Refuse what cannot run, before anything is compiled.

    Raises:
        ValueError: names the value and what was expected.
    """
    lowest = {"size": 2, "steps": 1, "channels": 4, "hidden": 1, "population": 2, "repeats": 1}
    for name, low in lowest.items():
        value = getattr(settings, name)
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
        if name in ("size", "population") and value % 2:
            raise ValueError(f"{name} must be even, got {value}")
    if unknown := [name for name in only if name not in NAMES]:
        raise ValueError(f"implementations are {NAMES}, got {unknown[0]!r}")


def rates(settings: Settings, seconds: dict[str, list[float]], matmul: float) -> dict:
    """Turn seconds per generation into the rates that `benchmark` reports.

    Args:
        settings: what was timed.
        seconds: timed generations by implementation.
        matmul: the machine's own rate, in FLOP/s.
    """
    rollouts = {name: settings.population / statistics.median(s) for name, s in seconds.items()}
    cells = {name: rate * cells_computed(name, settings) for name, rate in rollouts.items()}
    flops = {name: rate * flops_per_cell(settings) for name, rate in cells.items()}
    reference = rollouts.get("reference")
    return {
        "seconds": seconds,
        "rollouts_per_second": rollouts,
        "cell_updates_per_second": cells,
        "flops_per_cell": flops_per_cell(settings),
        "matmul_gflops": matmul / 1e9,
        "gflops": {name: rate / 1e9 for name, rate in flops.items()},
        "fraction_of_matmul": {name: rate / matmul for name, rate in flops.items()},
        "ratio_to_reference": {n: r / reference for n, r in rollouts.items()} if reference else {},
    }


def cells_computed(name: str, settings: Settings) -> int:
    """Count the cells that one rollout sends through the network."""
    cells = settings.size**2 * settings.steps
    return cells // 2 if name == "ours" else cells


def flops_per_cell(settings: Settings) -> int:
    """Count the multiplications and additions of the two dense layers, 3C -> hidden -> C."""
    return 2 * (3 * settings.channels * settings.hidden + settings.hidden * settings.channels)


def peak_memory() -> int:
    """Peak memory so far, in bytes: of the accelerator if there is one, else of this process."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"]
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage there may tell the peak of the parent process instead
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def matmul_flops_per_second(settings: Settings, repeats: int = 3) -> float:
    """Measure how fast this machine multiplies matrices of the network's own shapes.

    The two dense layers of one generation of `ours`, and nothing else: half of a grid's cells
    times the weights of a member, one member after another on a CPU, side by side elsewhere. All
    devices work at once, each on its share of the population.

    Args:
        settings: gives the shapes.
        repeats: generations measured after a first; the fastest counts.

    Returns:
        FLOP/s over all devices.
    """
    mesh, rows = population_mesh(settings.population), settings.size**2 // 2
    wide, hidden, channels = 3 * settings.channels, settings.hidden, settings.channels
    visit = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)

    def multiply(perceptions, weights):
        def step(number, result):
            perception = perceptions[number % 2]  # alternates, lest one product be reused
            return visit(lambda pair: perception @ pair[0] @ pair[1], weights)

        result = jnp.zeros((len(weights[0]), rows, channels))
        return jax.lax.fori_loop(0, settings.steps, step, result)

    every, share = PartitionSpec(), PartitionSpec(AXIS)
    multiply = jax.jit(
        jax.shard_map(
            multiply, mesh=mesh, in_specs=(every, share), out_specs=share, check_vma=False
        )
    )
    shapes = [(2, rows, wide), (settings.population, wide, hidden)]
    shapes += [(settings.population, hidden, channels)]
    keys = jax.random.split(jax.random.key(0), 3)
    perceptions, *weights = [jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)]
    seconds = []
    for _ in range(1 + repeats):
        clock = time.perf_counter()
        jax.block_until_ready(multiply(perceptions, weights))
        seconds.append(time.perf_counter() - clock)
    work = settings.population * cells_computed("ours", settings) * flops_per_cell(settings)
    return work / min(seconds[1:])


def make(name: str, settings: Settings) -> tuple[Generation, Any]:
    """Set up an implementation: a function that runs one generation, and the state to start from.

    Raises:
        ImportError: the reference was asked for and CAX is not installed.
    """
    padding = settings.size // 12  # 4 cells around 40, as in the notebook
    config = dataclasses.replace(
        PRESETS["reference"],
        size=settings.size - 2 * padding,
        padding=padding,
        channels=settings.channels,
        hidden=settings.hidden,
        population=settings.population,
        num_steps=settings.steps,
        window=settings.steps,
        mask="paired" if name == "ours" else "bernoulli",
    )
    makers = {"plain": make_plain, "reference": make_reference}
    return makers.get(name, make_ours)(make_task(config))


def make_ours(task: Task) -> tuple[Generation, Any]:
    """This library, as `nca_lib.train` calls it."""
    strategy = make_strategy(task.config, task.params)
    evolve = make_evolve(strategy, task.loss)

    def generation(state, key):
        return evolve(state, key, 0, 1)[0]

    return generation, strategy.init(jax.random.key(0), task.params)


def plain_step(weights: dict, state: jax.Array, fire: jax.Array, step_size: float) -> jax.Array:
    """One step as one would first write it: every cell is computed, then half are kept.

    Args:
        weights: {"hidden": {"kernel", "bias"}, "output": ...}. The rows of the first kernel go
            channel by channel, three views each, as a grouped convolution returns them.
        state: (H, W, C) float32.
        fire: (H, W) bool.
        step_size: factor on every update.
    """

    def alive(state):
        alpha = state[..., -1:]
        return (
            jax.lax.reduce_window(alpha, -jnp.inf, jax.lax.max, (3, 3, 1), (1, 1, 1), "SAME") > 0.1
        )

    channels = state.shape[-1]
    perception = jax.lax.conv_general_dilated(
        state[None],
        jnp.tile(KERNELS[:, :, None, :], channels),  # (3, 3, 1, 3C)
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )[0]
    hidden = jax.nn.relu(perception @ weights["hidden"]["kernel"] + weights["hidden"]["bias"])
    update = hidden @ weights["output"]["kernel"] + weights["output"]["bias"]
    following = state + step_size * fire[..., None] * update
    return (alive(state) & alive(following)) * following


def plain_loss(weights: dict, fires: jax.Array, task: Task) -> jax.Array:
    """Grow from the seed and average the loss over all steps: float32 scalar."""

    def step(state, fire):
        state = plain_step(weights, state, fire, task.config.step_size)
        return state, jnp.mean(jnp.square(state[..., -4:] - task.target))

    return jnp.mean(jax.lax.scan(step, task.start, fires)[1])


def make_plain(task: Task) -> tuple[Generation, Any]:
    """Plain functions, `vmap` over the population, one device."""
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


def reference_system(task: Task) -> nnx.Module:
    """The notebook's automaton, from the same parts of CAX.

    Raises:
        ImportError: CAX is not installed.
    """
    from cax.core import ComplexSystem
    from cax.core.perceive import ConvPerceive, grad_kernel, identity_kernel
    from cax.core.update import NCAUpdate

    config, rngs = task.config, nnx.Rngs(task.config.seed)
    channels, seen = config.channels, 3 * config.channels

    class Automaton(ComplexSystem):
        def __init__(self):
            self.perceive = ConvPerceive(channels, seen, feature_group_count=channels, rngs=rngs)
            self.update = NCAUpdate(
                channels, seen, (config.hidden,), cell_dropout_rate=0.5, zeros_init=True, rngs=rngs
            )
            views = jnp.concatenate([identity_kernel(ndim=2), grad_kernel(ndim=2)], axis=-1)
            self.perceive.conv.kernel[...] = jnp.tile(views, channels)[:, :, None, :]

        def _step(self, state, input=None, *, sow=False):
            state = self.update(state, self.perceive(state), input)
            if sow:
                self.sow(nnx.Intermediate, "state", state)
            return state

    return Automaton()


def make_reference(task: Task) -> tuple[Generation, Any]:
    """The notebook's generation: every state of every member is kept, then measured.

    Raises:
        ImportError: CAX is not installed.
    """
    from evosax.algorithms import Open_ES

    system, config = reference_system(task), task.config
    trained = nnx.All(nnx.Param, nnx.PathContains("update"))
    solution = nnx.state(system, trained)
    strategy = Open_ES(
        config.population,
        solution,
        optimizer=optax.adam(config.learning_rate),
        std_schedule=optax.constant_schedule(config.std),
    )
    params = strategy.default_params

    def loss(system, start):
        # A batch of one, with fire masks of its own.
        axes = nnx.StateAxes({nnx.RngState: 0, nnx.Intermediate: 0, ...: None})
        grow = nnx.vmap(
            lambda s, x: s(x, num_steps=config.num_steps, sow=True), in_axes=(axes, None)
        )
        nnx.split_rngs(splits=1)(grow)(system, start)
        states = jax.tree.leaves(nnx.pop(system, nnx.Intermediate))[0]  # (1, T, H, W, C)
        return jnp.mean(jnp.square(states[..., -4:] - task.target))

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
    """Lay out what `benchmark` returns as lines of text, slowest last."""
    settings, matmul = report["settings"], report["matmul_gflops"]
    lines = [
        f"{settings['population']} rollouts of {settings['steps']} steps, "
        f"{settings['size']} x {settings['size']} cells, {settings['channels']} channels, "
        f"hidden {settings['hidden']}; median of {settings['repeats']}",
        f"{report['device']}; {', '.join(f'{k} {v}' for k, v in report['versions'].items())}",
        f"matrix products of the network's shapes alone: {matmul:.1f} GFLOP/s",
        "GFLOP/s count the two dense layers on the cells computed; perception is left out",
        "",
        f"{'':16}{'rollouts/s':>11}{'Mcells/s':>10}{'GFLOP/s':>9}{'of matmul':>11}"
        f"{'peak MB':>9}{'x reference':>13}",
    ]
    for name, rate in report["rollouts_per_second"].items():
        ratio = report["ratio_to_reference"].get(name)
        lines.append(
            f"{name:16}{rate:11.2f}{report['cell_updates_per_second'][name] / 1e6:10.2f}"
            f"{report['gflops'][name]:9.2f}{report['fraction_of_matmul'][name]:11.1%}"
            f"{report['peak_memory_bytes'][name] / 1e6:9.0f}"
            + (f"{ratio:13.2f}" if ratio else f"{'-':>13}")
        )
    return "\n".join(lines + [f"{name}: skipped, {why}" for name, why in report["skipped"].items()])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m nca_lib.benchmark",
        description="Time one generation of the reference notebook, of plain JAX and of nca_lib.",
    )
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, metavar="N")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = vars(parser.parse_args(arguments))
    only, path = options.pop("only"), options.pop("json")
    try:
        if path and not path.parent.is_dir():  # known before the minutes of timing, not after
            raise ValueError(f"--json needs a file in an existing folder, got {path}")
        use_cores()
        report = benchmark(Settings(**options), only)
        print(table(report))
        if path:
            write_atomic(path, (json.dumps(report, indent=2) + "\n").encode())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
