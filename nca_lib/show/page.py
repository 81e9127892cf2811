"""Trained weights to the live demo: in a page of the book, or as the output of a notebook cell.

The cell rule once more, in JavaScript, stands in `data/demo/nca.js` beside this package, made to be
read next to `model`; `player.js` and `playground.js` there are the interface. All run in any
browser without a server: a page opened from disk may not fetch data, but it may load scripts, and
so weights travel as scripts, too.
"""

import base64
import html
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML

from nca_lib.lab import record
from nca_lib.lab.checkpoint import weights_to_arrays, write_atomic
from nca_lib.lab.runs import Run, load_run
from nca_lib.model import check, check_int
from nca_lib.target import list_emoji

DEMO = Path(__file__).parents[1] / "data" / "demo"  # scripts and style
SCRIPTS = ("nca.js", "player.js", "playground.js")
NAME = re.compile("[a-z0-9][a-z0-9-]{0,63}")


def describe(
    run: Run | str | Path,
    *,
    title: str | None = None,
    dtype: str = "float32",
) -> dict:
    """Describe a trained rule so that `nca.js` can run it.

    Args:
        run: a run, or the name or folder of one.
        title: for readers; by default made from the name of the run's folder.
        dtype: "float32", exact, or "float16", half the size.

    Returns:
        Plain values for JSON. Its name is that of the run's folder, if that has lower-case letters,
        digits and hyphens only, else "own". The weights are base64 of little-endian numbers, with
        their CRC-32; then comes everything the rule needs, channels and their order, hidden size,
        step size, threshold, fire mask and rate, size and padding of the target; and the target if
        it is none of the bundled emoji.

    Raises:
        ValueError: no such run, weights that are not finite or do not fit into float16; a bad title
            or dtype.

    Example:
        >>> describe("lizard", dtype="float16")["hidden"]
        32
    """
    check(dtype in record.DTYPES, "dtype", dtype, f"one of {record.DTYPES}")
    run = load_run(run) if isinstance(run, str | Path) else run
    check(isinstance(run, Run), "run", run, "a run, its name or its folder")
    config, label = run.config, run.folder.resolve().name.removesuffix(record.SUFFIX)
    check(config.cells == "smooth", "cells", config.cells, "smooth: the demo runs no others")
    name = label if NAME.fullmatch(label) else "own"
    title = re.sub("[-_]", " ", label).capitalize() if title is None else title
    check(isinstance(title, str) and title.strip(), "title", title, "a text")
    told = {"format": record.FORMAT, "name": name, "title": title, **record.RULE}
    told |= {field: getattr(config, field) for field in record.FIELDS}
    bundled = {emoji.rstrip("\ufe0f") for emoji in list_emoji()}
    if config.emoji.rstrip("\ufe0f") not in bundled:  # not known offline
        told["target"] = record.encode_target(run.target)
    return told | record.encode_weights(flatten(run.params), dtype)


def flatten(params: Any) -> np.ndarray:
    """Lay all weights in a row, (D,) float32, in the order of `record.ORDER`."""
    arrays = weights_to_arrays(params)
    return np.concatenate([arrays[name].ravel() for name in record.ORDER])


def export(run: Run | str | Path, path: str | Path, **options: Any) -> Path:
    """Write a rule to a record, a file that pages open and `load_run` reads.

    Args:
        run: see `describe`.
        path: file to write, ending in .nca.json; its folder must exist.
        **options: of `describe`.

    Returns:
        The path.

    Raises:
        ValueError: see `describe`, or the file has another ending.

    Example:
        >>> export("lizard", "lizard.nca.json")
        PosixPath('lizard.nca.json')
    """
    fine = isinstance(path, str | os.PathLike) and record.is_record(path)
    check(fine, "path", path, f"a file whose name ends in {record.SUFFIX}")
    write_atomic(path, to_json(describe(run, **options)).encode())
    return Path(path)


def script(description: dict) -> str:
    """Put a record into the script that registers it; safe to stand inside an HTML page.

    Args:
        description: from `describe`.

    Returns:
        JavaScript, in ASCII.
    """
    return f"NCA.register({to_json(description)});\n"


def show(
    run: Run | str | Path,
    *,
    grid: int | None = None,
    seeds: int = 1,
    speed: int | None = None,
    controls: bool = False,
    **options: Any,
) -> HTML:
    """Show a live, erasable pattern in a notebook: script and weights are part of the output.

    Where scripts may not run, such as on GitHub, the run's last picture is seen in its place.

    Args:
        run: see `describe`.
        grid: side of the grid in cells, a multiple of 8 from 16 to 128; by default as in training.
        seeds: cells that it starts from, 1 to 9, evenly spaced.
        speed: steps per second, 1 to 1000, the last as fast as it goes; by default it grows in
            about three seconds.
        controls: whether to show every control of the playground.
        **options: of `describe`.

    Returns:
        HTML, to be the last value of a notebook cell.

    Raises:
        ValueError: a number out of range, or see `describe`.

    Example:
        >>> show("lizard-regenerating")
        <IPython.core.display.HTML object>
    """
    limits = {"grid": (grid, 16, 128), "seeds": (seeds, 1, 9), "speed": (speed, 1, 1000)}
    given = {name: limit for name, limit in limits.items() if limit[0] is not None}
    for name, (value, low, high) in given.items():
        check_int(name, value, low, high)
    check(grid is None or grid % 8 == 0, "grid", grid, "a multiple of 8")
    run = load_run(run) if isinstance(run, str | Path) else run
    description = describe(run, **options)
    still = _still(description, run.folder)
    options = "".join(f' data-{name}="{value}"' for name, (value, _, _) in given.items())
    options += ' data-controls="all"' if controls else ""
    # Within a function, so that two outputs of one page, of two versions even, do not meet.
    nca, *interface = ((DEMO / name).read_text(encoding="utf-8") for name in SCRIPTS)
    scripts = "".join([nca, script(description), *interface[: 2 if controls else 1]])
    style = (DEMO / "playground.css").read_text(encoding="utf-8")
    return HTML(
        f'<div class="nca-player" data-run="{description["name"]}"{options}>{still}</div>'
        f"<style>{style}</style>"
        f"<script>(() => {{\n{scripts}}})();</script>"
    )


def show_gates(*figures: dict) -> HTML:
    """Show living cells of logic gates side by side; a click makes the bits around it random.

    Args:
        *figures: for each its circuit, start `(C, H, W)` of bools, wrap (as in
            `nca_lib.lab.gates.step`), colours by the number that a cell's first bits spell, the
            first one counting least, seconds for a step, life, after how many steps it begins anew
            (0 for never), alt, what it shows, and title, a caption. It can have then, a circuit
            that takes over with a cell's first bit after as many steps as after says, and fade,
            how far cells without bits fade in a step, if not at once.

    Returns:
        HTML, to be the last value of a notebook cell.
    """
    places, mounts = "", ""
    for number, figure in enumerate(figures):
        bits = np.asarray(figure["start"]).astype(int)
        start = ["".join(map(str, plane.ravel())) for plane in bits]
        options = {key: value for key, value in figure.items() if key != "title"}
        options |= {"start": start, "height": bits.shape[1], "width": bits.shape[2]}
        options |= {key: figure[key]._asdict() for key in ("circuit", "then") if key in figure}
        places += f"<figure><figcaption>{html.escape(figure['title'])}</figcaption></figure>"
        mounts += f"GateCells.mount(places[{number}], {to_json(options)});\n"
    text = (DEMO / "gates.js").read_text(encoding="utf-8")
    style = (DEMO / "gates.css").read_text(encoding="utf-8")
    return HTML(
        f'<div class="nca-gates">{places}</div><style>{style}</style><script>(() => {{\n{text}'
        "const places = document.currentScript.parentNode.querySelectorAll('.nca-gates figure');"
        f"\n{mounts}}})();</script>"
    )


def to_json(value: Any) -> str:
    """JSON in ASCII and without "<", so that no text in it can end a script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _still(description: dict, folder: Path) -> str:
    """What is seen where scripts do not run."""
    if not (folder / "final.png").is_file():
        return "<p>Where scripts may run, a live pattern stands here.</p>"
    data = base64.b64encode((folder / "final.png").read_bytes()).decode()
    alt = html.escape(f"{description['title']}, as it has grown, in square cells on white")
    image = f'<img alt="{alt}" width="192" src="data:image/png;base64,{data}">'
    return f"{image}<p>Where scripts may run, this picture is alive.</p>"
