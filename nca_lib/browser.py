"""Trained weights for the browser.

The cell rule once more, in JavaScript, stands in `data/demo/nca.js` and is made to be read next to
`model`. It runs without a server: a page opened from disk may not fetch data, but it may load
scripts, and so weights travel as scripts, too.
"""

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nca_lib.checkpoint import weights_to_arrays, write_atomic
from nca_lib.runs import Run, load_run
from nca_lib.train import Config, validate

DEMO = Path(__file__).parent / "data" / "demo"  # the scripts
FORMAT = 1  # version of the records; nca.js refuses any other
# The order of the weights in a record, each array row by row.
ORDER = ("hidden.kernel", "hidden.bias", "output.kernel", "output.bias")
DTYPES = ("float32", "float16")


def record(
    run: Run | str | Path | Any,
    *,
    config: Config | None = None,
    name: str | None = None,
    title: str | None = None,
    dtype: str = "float32",
) -> dict:
    """Describe a trained rule so that `nca.js` can run it.

    Args:
        run: a run, the name or folder of one, or bare weights together with `config`.
        config: what bare weights were trained with; otherwise the run's own is taken.
        name: lower-case letters, digits and hyphens; by default the name of the run's folder.
        title: for readers; by default made from the name.
        dtype: "float32", exact, or "float16", half the size. Its `error` is the largest change of
            a weight.

    Returns:
        Plain values for JSON: the weights as base64 of little-endian numbers, their SHA-256 and
        CRC-32, and everything the rule needs: channels and their order, hidden size, step size,
        threshold, fire mask and rate, size and padding of the target.

    Raises:
        ValueError: no such run, weights that do not fit the configuration, are not finite, or do
            not fit into float16; a bad name, title or dtype.

    Example:
        >>> record("lizard", dtype="float16")["hidden"]
        32
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    if isinstance(run, str | Path):
        run = load_run(run)
    if isinstance(run, Run):
        if config is not None:
            raise ValueError("config must be None for a run, which has its own")
        if run.info.get("rule") != "growing":
            raise ValueError(f"run must be of the growing rule, got {run.info.get('rule')!r}")
        name, config, params = name or run.folder.resolve().name, run.config, run.params
    elif config is None:
        raise ValueError(f"run must be a run, its name or folder, or weights and config: {run!r}")
    else:
        name, params = name or "own", run
    validate(config)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", str(name)):
        raise ValueError(f"name must be lower-case letters, digits and hyphens, got {name!r}")
    title = name.replace("-", " ").capitalize() if title is None else title
    if not isinstance(title, str) or not title.strip():
        raise ValueError(f"title must be a text, got {title!r}")
    exact = flatten(params, config)
    with np.errstate(over="ignore"):
        weights = exact.astype(np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(weights).all():
        raise ValueError(f"weights must be finite as {dtype}, the largest is {abs(exact).max():g}")
    data = weights.tobytes()
    return {
        "format": FORMAT,
        "name": name,
        "title": title,
        "emoji": config.emoji,
        "rule": "growing",
        "channels": config.channels,
        "channel_order": "hidden, red, green, blue, alpha",
        "border": "zero",
        "hidden": config.hidden,
        "step_size": config.step_size,
        "alive_threshold": config.alive_threshold,
        "mask": config.mask,
        "fire_rate": 0.5,
        "num_steps": config.num_steps,
        "size": config.size,
        "padding": config.padding,
        "premultiply": config.premultiply,
        "dtype": dtype,
        "error": float(np.abs(weights.astype(np.float32) - exact).max()),
        "sha256": hashlib.sha256(data).hexdigest(),
        "crc32": zlib.crc32(data),
        "weights": base64.b64encode(data).decode(),
    }


def flatten(params: Any, config: Config) -> np.ndarray:
    """Lay all weights in a row, in the order of `ORDER`: (D,) float32.

    Args:
        params: weights, like `Task.params`.
        config: says which shapes they must have.

    Raises:
        ValueError: params are not weights of this configuration.
    """
    C, hidden = config.channels, config.hidden
    wanted = dict(zip(ORDER, ((3 * C, hidden), (hidden,), (hidden, C), (C,)), strict=True))
    try:
        arrays = weights_to_arrays(params)
        shapes = {key: arrays[key].shape for key in sorted(arrays)}
    except Exception as error:  # any object at all may come here
        raise ValueError(f"run must be a run, its name or its weights, got {params!r}") from error
    if shapes != wanted:
        raise ValueError(f"weights have shapes {shapes}, but the configuration needs {wanted}")
    return np.concatenate([np.asarray(arrays[key], np.float32).ravel() for key in ORDER])


def export(run: Run | str | Path | Any, path: str | Path, **options: Any) -> Path:
    """Write a small script that hands a rule's weights to the demo.

    Args:
        run: see `record`.
        path: file to write, ending in .js; its folder must exist.
        **options: of `record`.

    Returns:
        The path.

    Raises:
        ValueError: see `record`, or the file does not end in .js.

    Example:
        >>> export("lizard", "lizard.js")
        PosixPath('lizard.js')
    """
    path = Path(path)
    if path.suffix != ".js":
        raise ValueError(f"path must end in .js, got {str(path)!r}")
    write_atomic(path, script(record(run, **options)).encode())
    return path


def script(description: dict) -> str:
    """Write a record as the script that registers it; safe to stand inside an HTML page."""
    return f"NCA.register({_json(description)});\n"


def _json(value: Any) -> str:
    """JSON in ASCII and without "<", so that no text in it can end a script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
