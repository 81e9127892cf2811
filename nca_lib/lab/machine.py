"""What a run is computed on: devices, memory, versions (appendix A1)."""

import contextlib
import importlib.metadata
import itertools
import math
import os
import platform
import re
import resource
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path, PurePath

import jax

import nca_lib
from nca_lib.evolution import population_mesh
from nca_lib.lab.config import Config
from nca_lib.model import check, check_int


def use_cores(cores: int | None = None) -> int:
    """Split the CPU into one JAX device per core; call it before any other use of JAX.

    XLA uses several cores for one large operation, but an NCA step is many small ones: members of
    a population in parallel use the cores better. On a machine with a GPU this changes nothing.
    Whoever has set the number of CPU devices by XLA_FLAGS or JAX_NUM_CPU_DEVICES keeps it, unless
    `cores` is given. Explained in appendix A1, "One change at a time".

    Args:
        cores: number of CPU devices, 1 to 1024; default the cores this process may use.

    Returns:
        The number of devices that JAX will use by default.

    Raises:
        ValueError: cores not an int from 1 to 1024.
        RuntimeError: JAX has already started with another number of CPU devices.
    """
    check_int("cores", 1 if cores is None else cores, 1, 1024)
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if cores is None and (forced or jax.config.jax_num_cpu_devices > 0):
        return jax.local_device_count()
    may_use = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))  # not on macOS
    cores = cores or len(may_use(0))
    with contextlib.suppress(RuntimeError):  # already up: fine if it is what was asked for
        jax.config.update("jax_num_cpu_devices", cores)
    if jax.default_backend() == "cpu" and jax.local_device_count() != cores:
        raise RuntimeError(
            f"use_cores() came too late: JAX already runs on {jax.local_device_count()} CPU "
            f"devices, not {cores}. Restart and call it before any array is made."
        )
    return jax.local_device_count()


def memory_needed(config: Config, chunk: int) -> int:
    """Estimate what one device holds at once in a generation.

    In bytes, for `chunk` members computed side by side. It does not depend on the number of steps,
    but for the fire masks. Explained in appendix A1, "Count first".
    """
    cells, C = (config.size + 2 * config.padding) ** 2, config.channels
    firing = cells // 2 if config.mask == "paired" else cells
    # Old and new state, a padded copy, the perception (3C); for cells that fire, the network.
    member = 4 * (cells * 7 * C + firing * (4 * C + config.hidden))
    masks = config.num_steps * firing * (4 if config.mask == "paired" else 1)
    weights = 4 * C * config.hidden + config.hidden + C
    return chunk * member + masks + 5 * 4 * config.population * weights  # noise, members, copies


def free_memory(root: Path = Path("/")) -> float:
    """What a device may still hold, in bytes; infinity where the system does not tell.

    A CPU's devices share the least of what the machine, the process's control groups and its own
    limit (`ulimit -v`) have left. They are looked up below `root`.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return max(0, min(_memory_left(root), default=math.inf)) / jax.local_device_count()
    with contextlib.suppress(Exception):  # nothing is known of what may be raised
        statistics = device.memory_stats()
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    return math.inf


# Of control groups, version 1 and 2: where they are, the file with the limit, and what in
# `memory.stat` cannot be dropped, as copies of files can.
GROUPS = [("memory", "memory.limit_in_bytes", "total_rss"), ("", "memory.max", "anon")]


def _memory_left(root: Path) -> Iterator[float]:
    """Bytes that are left to this process, by each who has a say, where Linux tells."""
    with contextlib.suppress(OSError):
        rows = dict(row.split(":") for row in (root / "proc/meminfo").read_text().splitlines())
        yield 1024 * int(rows["MemAvailable"].split()[0])
        if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
            pages = int((root / "proc/self/statm").read_text().split()[0])
            yield limit - pages * resource.getpagesize()
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            group = PurePath(line.split(":", 2)[2][1:])
            inner = (group, *group.parents) if re.match(r"\d+:(|.*memory.*):", line) else ()
            for folder, (mount, most, used) in itertools.product(inner, GROUPS):
                folder = root / "sys/fs/cgroup" / mount / folder
                with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or "max"
                    limit = int((folder / most).read_text())
                    rows = (folder / "memory.stat").read_text().splitlines()
                    yield limit - int(dict(row.split() for row in rows)[used])


def plan_chunk(config: Config, chunk: int | None = None) -> int:
    """Decide how many members a device computes side by side, before anything is compiled.

    Args:
        config: what is to run.
        chunk: the reader's choice; default 1 on a CPU, elsewhere as many as fit.

    Returns:
        The chunk.

    Raises:
        ValueError: chunk is out of range, or does not fit in memory; says which would.
    """
    share = config.population // population_mesh(config.population).size
    check(chunk is None or 1 <= chunk <= share, "chunk", chunk, f"1 to {share} (a device's share)")
    free, base = free_memory(), memory_needed(config, 0)
    one = memory_needed(config, 1) - base
    fitting = share if free == math.inf else min(share, int((0.8 * free - base) // one))
    wanted = chunk or (1 if jax.default_backend() == "cpu" else max(1, fitting))
    if wanted > fitting:
        advice = f"a chunk of {fitting} would fit" if fitting > 0 else "lower the population"
        raise ValueError(
            f"a chunk of {wanted} of the population of {config.population} needs about "
            f"{memory_needed(config, wanted) / 1e9:.2g} GB on each device, and {free / 1e9:.2g} GB "
            f"are free: {advice}"
        )
    return wanted


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "evosax", "numpy")
    own = {"python": platform.python_version(), "nca_lib": nca_lib.__version__}
    return own | {name: importlib.metadata.version(name) for name in packages}


def describe_device() -> str:
    """Name what a run is computed on, for example "2 x cpu (AMD EPYC)"."""
    devices = jax.devices()
    kind, info = devices[0].device_kind, Path("/proc/cpuinfo")
    if devices[0].platform == "cpu" and info.exists():  # Linux; elsewhere plain "cpu"
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        kind = f"cpu ({models[0].partition(':')[2].strip()})" if models else kind
    return f"{len(devices)} x {kind}"


def describe_machine() -> str:
    """Say what a notebook runs on: versions, devices and, on Colab without a GPU, how to get one.

    Returns:
        Lines of less than 80 characters, which each chapter prints in its first cell.
    """
    names = ", ".join(map("\N{NO-BREAK SPACE}".join, versions().items()))
    parts = [names, f"on {describe_device()}"]
    if "google.colab" in sys.modules and jax.default_backend() == "cpu":
        parts.append(
            "No GPU. The chapters take about the time that they name, which is for two CPU cores; "
            "large trainings (presets lizard-40 and reference) would take many hours. For a GPU: "
            "Runtime > Change runtime type > T4 GPU, then run this cell again."
        )
    text = "\n".join(textwrap.fill(part, 79, break_on_hyphens=False) for part in parts)
    return text.replace("\N{NO-BREAK SPACE}", " ")
