"""Try every fault of tests/faults.py many times, and write what came of it for appendix A2.

    python book/experiments/faults.py [--only FAULT ...] [--share 1.0]

The results go to nca_lib/data/faults.json, each as soon as it is there. Where something is lost,
the rest of that fault is not tried, and the exit status is 1.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import faults  # noqa: E402
import pytest  # noqa: E402
import test_bad_input  # noqa: E402
import test_demo_input  # noqa: E402

from nca_lib.lab.checkpoint import write_atomic  # noqa: E402
from nca_lib.lab.machine import describe_device, use_cores, versions  # noqa: E402

FILE = ROOT / "nca_lib" / "data" / "faults.json"
SEED = 20


def weights(number: int, folder: Path, seed: int) -> int:
    """Weights of a run with bytes changed, cut, repeated, in whole archives and in broken ones."""
    test_bad_input.fuzz_weights(number, seed, folder)
    return number


def demo(number: int, folder: Path, seed: int) -> int:
    """Weight files and links that were tampered with, opened by the demo in a browser's engine."""
    return test_demo_input.fuzz_demo(number, seed)


# How many of each, and how each is counted.
MANY = {
    faults.kill: (200, "kills in a chain"),
    faults.interrupt: (30, "signals in a chain"),
    faults.full_disk: (40, "runs"),
    faults.read_only: (40, "runs"),
    faults.damaged: (40_000, "files"),
    faults.forged: (50_000, "files"),
    weights: (50_000, "files"),
    demo: (50_000, "files and links"),
    faults.locks: (40, "second trainers"),
    faults.rush: (50, "races of four"),
    faults.poisoned: (2_000, "generations"),
    faults.dead: (20, "runs"),
    faults.repeated: (12, "runs, each twice"),
    faults.soak: (100_000, "generations"),
}


def main() -> int:
    """Try what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = {fault.__name__: fault for fault in MANY}
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers of each")
    options = parser.parse_args()
    use_cores()
    lost = 0
    for name in options.only:
        number, unit = MANY[names[name]]
        number = max(2, round(number * options.share))
        print(f"{name}: {number} {unit}", flush=True)
        told = {"what": names[name].__doc__.partition("\n")[0], "unit": unit, "tried": number}
        told |= {"device": describe_device(), "versions": versions(), "seed": SEED}
        clock = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                names[name](number, Path(folder), SEED)
                more = Path(folder) / "more.json"
                told |= {"lost": 0} | (json.loads(more.read_text()) if more.exists() else {})
        except (AssertionError, pytest.fail.Exception) as error:
            told |= {"lost": 1, "error": str(error)}  # at least: it ended there
            lost += 1
        told["seconds"] = round(time.monotonic() - clock, 1)
        known = json.loads(FILE.read_text()) if FILE.exists() else {"faults": {}}
        found = known["faults"] | {name: told}
        found = {key: found[key] for key in names if key in found}
        text = json.dumps({"command": "make faults", "faults": found}, indent=1)
        write_atomic(FILE, (text + "\n").encode())
        print(f"{name}: {told.get('error', 'nothing lost')}, {told['seconds']:.0f} s", flush=True)
    return lost > 0


if __name__ == "__main__":
    sys.exit(main())
