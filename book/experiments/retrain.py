"""Train every shipped run again, each by the command in its run.json, into runs/.

    python book/experiments/retrain.py [NAME ...]

Says beforehand how long that took when the shipped runs were made. Complete runs are left alone
and broken ones go on, so it can be stopped at any time.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from nca_lib.lab.config import SHIPPED

ROOT = Path(__file__).parents[2]


def main(names: list[str]) -> None:
    """Run the commands one after the other."""
    files = [SHIPPED / name / "run.json" for name in names] or sorted(SHIPPED.glob("*/run.json"))
    infos = {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for name, info in infos.items():
        print(f"{name:24}{info['seconds'] / 3600:6.2f} h on {info['device']}: {info['command']}")
    hours = sum(info["seconds"] for info in infos.values()) / 3600
    print(f"{'in all':24}{hours:6.2f} h", flush=True)
    for name, info in infos.items():
        _, *arguments = shlex.split(info["command"])
        folder = ROOT / arguments[arguments.index("--out") + 1]
        if (folder / "run.json").exists():
            print(f"\n{name}: {folder} is complete")
            continue
        print(f"\n{name}, into {folder}", flush=True)
        resume = ["--resume"] if (folder / "checkpoint").exists() else []
        subprocess.run([sys.executable, *arguments, *resume], check=True, cwd=ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
