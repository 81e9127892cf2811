"""One trained rule in one file, NAME.nca.json: what pages and Python hand to each other.

A record holds plain values: the weights in text, with a checksum, and what the rule needs. Pages
read and write it with `data/demo/nca.js` and `record.js`.
"""

import base64
import json
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nca_lib.lab.checkpoint import read_file, weights_to_arrays
from nca_lib.lab.config import Config
from nca_lib.lab.task import Task, make_task
from nca_lib.model import check

FORMAT = 2  # version of the records; since 2 they may tell the window and hold the target
SUFFIX = ".nca.json"
MAX_FILE = 4_000_000  # bytes; the largest rule of a page has 702,144 weights
# The order of the weights in a record, each array row by row.
ORDER = ("hidden.kernel", "hidden.bias", "output.kernel", "output.bias")
DTYPES = ("float32", "float16")
RULE = {  # what all rules have in common
    "rule": "growing",
    "border": "zero",
    "channel_order": "hidden, red, green, blue, alpha",
    "fire_rate": 0.5,
}
FIELDS = ("emoji", "channels", "hidden", "step_size", "alive_threshold", "mask", "num_steps")
FIELDS += ("window", "age", "pool", "size", "padding", "premultiply")  # of a Config


def encode_target(target: np.ndarray) -> str:
    """Turn a picture (H, W, 4) float32 in [0, 1] into base64 of a byte for each number."""
    return base64.b64encode(np.rint(255 * target).astype(np.uint8).tobytes()).decode()


def encode_weights(exact: np.ndarray, dtype: str) -> dict:
    """Turn weights into text.

    Args:
        exact: (D,) float32, in the order of `ORDER`.
        dtype: one of `DTYPES`.

    Returns:
        Fields of the record: base64 of little-endian numbers, and their checksum.

    Raises:
        ValueError: a weight is not finite, or not in this dtype.
    """
    with np.errstate(over="ignore"):
        weights = exact.astype(np.dtype(dtype).newbyteorder("<"))
    check(np.isfinite(weights).all(), "largest weight", abs(exact).max(), f"finite as {dtype}")
    data = weights.tobytes()
    return {"dtype": dtype, "crc32": zlib.crc32(data), "weights": base64.b64encode(data).decode()}


def read_record(path: str | os.PathLike) -> tuple[dict, Task, Any]:
    """Read a record that a page or `nca_lib.show.page.export` has written.

    Args:
        path: a file that ends in .nca.json.

    Returns:
        The record, its task, and its weights, a pytree like `Task.params`.

    Raises:
        ValueError: the file is missing, damaged, of a later format or of another kind of rule, or
            it names an emoji that cannot be loaded.
    """
    try:
        record = json.loads(read_file(path, MAX_FILE))
        if not isinstance(record, dict) or record.get("format") not in (*range(1, FORMAT + 1),):
            raise ValueError(f"it is not a record of a format from 1 to {FORMAT}")
        if other := [name for name, value in RULE.items() if record.get(name) != value]:
            raise ValueError(f"it is of another rule: see {', '.join(other)}")
        told = {name: record[name] for name in FIELDS if name in record}
        config = Config(**{"window": min(8, record["num_steps"])} | told)
        task = make_task(config, target=_decode_target(record, config))
        weights = _decode_weights(record, task)
    except Exception as error:  # json, base64 and NumPy raise nearly anything on damaged files
        raise ValueError(f"cannot read the record {str(path)!r}: {error}") from error
    return record, task, weights


def _decode_target(record: dict, config: Config) -> np.ndarray | None:
    """The picture aimed at, (H, W, 4) float32 in [0, 1], if the record holds it."""
    if record.get("target") is None:
        return None
    side = config.size + 2 * config.padding
    data = base64.b64decode(record["target"], validate=True)
    return np.frombuffer(data, np.uint8).reshape(side, side, 4).astype(np.float32) / 255


def _decode_weights(record: dict, task: Task) -> Any:
    """The weights, a pytree like those of the task."""
    check(record["dtype"] in DTYPES, "dtype", record["dtype"], f"one of {DTYPES}")
    data = base64.b64decode(record["weights"], validate=True)
    if zlib.crc32(data) != record["crc32"]:
        raise ValueError("its weights are damaged: the checksum does not match")
    numbers = np.frombuffer(data, np.dtype(record["dtype"]).newbyteorder("<")).astype(np.float32)
    check(np.isfinite(numbers).all(), "weights", "NaN or infinity", "finite numbers")
    own = weights_to_arrays(task.params)
    parts = np.split(numbers, np.cumsum([own[name].size for name in ORDER]))
    if parts.pop().size:
        raise ValueError("it has more weights than its sizes need")
    found = {name: part.reshape(own[name].shape) for name, part in zip(ORDER, parts, strict=True)}
    return jax.tree.unflatten(jax.tree.structure(task.params), [found[name] for name in own])


def is_record(path: str | os.PathLike) -> bool:
    """Tell whether a path names a record."""
    return Path(path).name.endswith(SUFFIX)
