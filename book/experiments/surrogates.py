"""Train by gradients, with stand-ins for what has none, what chapter 9 evolves; three seeds each.

    python book/experiments/surrogates.py [--only PRESET ...]

Each run lasts at most as long as the shipped run of the same preset and seed, compilation included,
and is measured as that was, without stand-ins. The results go to nca_lib/data/surrogates.csv, the
machine to surrogates.json beside it. What is there already is left alone, so it can be stopped and
taken up again; delete the two files to begin anew.
"""

import argparse
import csv
import dataclasses
import json
from pathlib import Path

from tqdm import tqdm

from nca_lib.lab import runs
from nca_lib.lab.checkpoint import write_atomic, write_table
from nca_lib.lab.config import PRESETS
from nca_lib.lab.loop import log_points, run, run_keys
from nca_lib.lab.machine import describe_device, use_cores, versions
from nca_lib.lab.task import initial_weights, make_task, make_trainer

# The runs of seed 0; those of seeds 1 and 2 end in -1 and -2.
SHIPPED = {"walk": "walker", "life": "methuselah", "ifs": "lizard-of-ifs"}
# About as many steps as fit into that time on one core: their size falls along a cosine.
STEPS = {"walk": 1_300, "life": 1_700, "ifs": 2_800}
METHODS = [("straight", 0.004), ("straight", 0.001), ("soft", 0.002)]  # Adam's step
HEADER = ["preset", "surrogate", "learning_rate", "seed", "seconds", "loss"]
FILE = Path(__file__).parents[2] / "nca_lib" / "data" / "surrogates.csv"


def evolved(preset: str, seed: int) -> runs.Run:
    """Load the shipped run that a surrogate races."""
    return runs.load_run(SHIPPED[preset] + (f"-{seed}" if seed else ""))


def descend(preset: str, surrogate: str, rate: float, seed: int, limit: float) -> list[tuple]:
    """Train for `limit` seconds and return (seconds, loss) along the way."""
    changes = {"strategy": "backprop", "surrogate": surrogate, "population": 4, "seed": seed}
    changes |= {"learning_rate": rate, "learning_rate_end": 0.02, "log_every": 10}
    config = dataclasses.replace(PRESETS[preset], generations=STEPS[preset], **changes)
    task = make_task(config)
    strategy, evolve = make_trainer(task)
    state = strategy.init(run_keys(seed)[0], initial_weights(config, task.params))
    curve = []
    for _, row in run(task, (strategy, evolve), state, log_points(config, 0)):
        curve.append((row["seconds"], row["loss"]))
        if row["seconds"] >= limit:
            break
    return curve


def read() -> list[list[str]]:
    """Read the rows that are there."""
    if not FILE.exists():
        return []
    return list(csv.reader(FILE.read_text(encoding="utf-8").splitlines()))[1:]


def main() -> None:
    """Run what is missing and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SHIPPED, default=list(SHIPPED))
    presets = parser.parse_args().only
    use_cores()
    about = {"device": describe_device(), "versions": versions()}
    write_atomic(FILE.with_suffix(".json"), (json.dumps(about, indent=2) + "\n").encode())
    wanted = [(p, *method, seed) for seed in range(3) for p in presets for method in METHODS]
    for preset, surrogate, rate, seed in tqdm(wanted):
        name = [preset, surrogate, f"{rate:g}", str(seed)]
        if any(row[:4] == name for row in read()):
            continue
        limit = evolved(preset, seed).info["seconds"]
        curve = descend(preset, surrogate, rate, seed, limit)
        rows = [*read(), *([*name, f"{time:.2f}", f"{loss:.6g}"] for time, loss in curve)]
        write_table(FILE, [HEADER, *rows])
        tqdm.write(f"{name}: best {min(loss for _, loss in curve):.3g}")


if __name__ == "__main__":
    main()
