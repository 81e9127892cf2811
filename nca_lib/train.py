"""Evolve a rule from the command line into a run folder (chapter 5).

Every field of `Config` is a flag::

    python -m nca_lib.train --preset smoke --out runs/smoke

A run folder holds `run.json` (configuration, provenance, final losses), `history.csv`,
`weights.npz`, `final.png`, `growth.webp` and, for `--resume`, `checkpoint`.
"""

import argparse
import dataclasses
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import jax

from nca_lib.lab.config import PRESETS, Config
from nca_lib.lab.loop import train
from nca_lib.lab.machine import use_cores
from nca_lib.model import check

__all__ = ["PRESETS", "Config", "main", "train"]


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text == "true"


def parse(arguments: list[str]) -> tuple[argparse.Namespace, Config]:
    """Read the command line; every field of `Config` is a flag."""
    parser = argparse.ArgumentParser(
        prog="python -m nca_lib.train",
        description="Evolve a cell rule into a run folder.",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", required=True, help="run folder, made if needed")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--chunk", type=int, help="members a device computes side by side")
    parser.add_argument("--distributed", action="store_true", help="join the job's other processes")
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        kind = _boolean if field.type is bool else field.type
        told = field.metadata["help"]
        if choices := [choice for choice in field.metadata["choices"] if choice]:
            told += f" ({', '.join(choices)})"
        elif field.metadata["low"] is not None:
            told += f" ({field.metadata['low']:,} to {field.metadata['high']:,})"
        parser.add_argument(flag, type=kind, metavar=field.type.__name__, help=told)
    options = parser.parse_args(arguments)
    names = {field.name for field in dataclasses.fields(Config)}
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    return options, dataclasses.replace(PRESETS[options.preset], **given)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit status.

    It is 0, 2 for an error, or 128 and the number of the signal that ended the run, so 130 for
    Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # Where it is closed (2>&-), the next file to be opened would get what others write there.
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    kept = [argument for argument in arguments if argument != "--resume"]
    try:
        options, config = parse(arguments)
        # A name that is not UTF-8 could not be written into run.json in the end.
        is_name = options.out and not re.search("[\0\ud800-\udfff]", options.out)
        check(is_name, "--out", options.out, "the name of a folder")
        if options.distributed:
            jax.distributed.initialize()  # finds SLURM, GKE, Cloud TPU, ... by itself
        use_cores()
        command = shlex.join(["python", "-m", "nca_lib.train", *kept])
        train(config, options.out, resume=options.resume, command=command, chunk=options.chunk)
    except KeyboardInterrupt as interrupt:
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except (ValueError, RuntimeError, ArithmeticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def obey_signals() -> None:
    """Take SIGTERM, from a machine that shuts down, and SIGHUP, from a terminal, for Ctrl-C."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup wants SIGHUP ignored
            signal.signal(number, interrupt)


if __name__ == "__main__":
    obey_signals()
    sys.exit(main())
