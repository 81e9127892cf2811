"""Recompute what can be said of the shipped patterns, and of the code, from this checkout.

    python book/experiments/quality.py [FOLDER ...]

For each run, or each run folder given: its loss over fresh keys as a share of its empty grid's; the
bundled emoji that its last frame is nearest to; and where it is meant to last, the loss after
10,000 steps, also on a grid of twice the side, and how many of 24 growths are back to 1.5 times
their loss within three times the trained steps after each of ten wounds.
"""

import argparse
import dataclasses
import functools
import io
import tokenize
from pathlib import Path

import jax
import numpy as np

from nca_lib import list_emoji, list_runs, load_emoji, load_run, use_cores
from nca_lib.lab.config import FRESH
from nca_lib.lab.healing import recover, wounds
from nca_lib.lab.task import make_task

ROOT = Path(__file__).parents[2]
GROWTHS, LONG, HEALED = 24, 10_000, 1.5


def nearest(run, frame: np.ndarray) -> str:
    """The bundled emoji, or the run's own, that a frame (H, W, C) is nearest to."""
    size, padding = run.config.size, run.config.padding
    errors = {run.config.emoji: np.square(frame[..., -4:] - run.target).mean()}
    for emoji in list_emoji():
        target = load_emoji(emoji, size, padding, run.config.premultiply)
        errors[emoji] = np.square(frame[..., -4:] - target).mean()
    return min(errors, key=errors.get)


def measure(run) -> dict[str, str]:
    """All that is told of one run, by column."""
    config, keys = run.config, jax.random.split(jax.random.key(FRESH), GROWTHS)
    loss = run.evaluate().mean()
    row = {"loss": f"{loss:.4f}", "of empty": f"{loss / run.info['empty_loss']:.3f}"}
    row["nearest"] = nearest(run, np.asarray(run.frames(keys[0])[-1]))
    if not config.starts_grown:
        return row

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def ending(wider, num_steps, wound):
        """Loss of each growth at the end, over a window, in units of the loss as grown."""
        task = make_task(dataclasses.replace(config, padding=config.padding + wider))
        return recover(task, run.params, keys, num_steps, wound)[:, -config.window :].mean(axis=1)

    for name, wider in (("10,000 steps", 0), ("wide", config.size // 2)):
        side = config.size + 2 * (config.padding + wider)
        row[name] = f"{np.median(ending(wider, LONG, np.zeros((side, side), bool))):.2f}"
    healed = {
        name: int((ending(0, 3 * config.num_steps, wound) <= HEALED).sum())
        for name, wound in wounds(config).items()
    }
    return row | {"healed of 24": " ".join(map(str, healed.values()))}


def code_lines(file: Path) -> int:
    """Lines that hold code: no comments, no docstrings, no blanks."""
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines, begins = set(), True
    for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT or token.type == tokenize.NL:
            continue
        if not (begins and token.type == tokenize.STRING) and token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
        begins = token.type in layout
    return len(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", help="names or folders; by default all shipped runs")
    use_cores()
    for name in parser.parse_args().runs or list_runs():
        run = load_run(name)
        if run.config.goal == "target":
            print(f"{name:24}" + "  ".join(f"{k} {v}" for k, v in measure(run).items()), flush=True)
    for folder in ("nca_lib", "tests"):
        counts = {file: code_lines(file) for file in (ROOT / folder).rglob("*.py")}
        print(f"{folder}: {sum(counts.values()):,} lines of code, {max(counts.values())} in a file")
    core = [file for file in (ROOT / "nca_lib").glob("*.py") if file.stem not in DOORS]
    print(f"the core: {sum(map(code_lines, core))} lines of code")


DOORS = ("__init__", "train", "benchmark")

if __name__ == "__main__":
    main()
