"""Files that are whole or absent: atomic save, verified load, the previous one kept (chapter 4).

A checkpoint is one file: a magic line, the SHA-256 of the rest, and a NumPy archive of the leaves
of a pytree together with a dictionary of plain values. Nothing is pickled.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

MAGIC = b"nca_lib checkpoint 1\n"  # the number is the version of the format


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that it is never seen half-written.

    The bytes go to a temporary file in the same folder, are synced to disk, and then take the
    name of the old file in one step.

    Args:
        path: file to write; its folder must exist.
        data: the whole content.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: str | Path, tree: Any, meta: dict) -> None:
    """Save a pytree and a dictionary; an earlier file at `path` is kept, see `previous`.

    Explained in chapter 4, "A minute of evolution".

    Args:
        path: file to write; its folder must exist.
        tree: pytree of arrays.
        meta: anything JSON can hold.

    Example:
        >>> state = {"mean": np.zeros(3, np.float32)}
        >>> save("checkpoint", state, {"generation": 100})
        >>> state, meta = load("checkpoint", like=state)
        >>> meta
        {'generation': 100}
    """
    path = Path(path)
    leaves = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps(meta)), **leaves)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    if path.exists():
        write_atomic(previous(path), path.read_bytes())
    write_atomic(path, MAGIC + digest + b"\n" + payload)


def previous(path: str | Path) -> Path:
    """Where `save` keeps the checkpoint before the last: `path` with ".previous" added."""
    path = Path(path)
    return path.with_name(path.name + ".previous")


def read(path: str | Path) -> tuple[list[np.ndarray], dict]:
    """Read and verify one checkpoint file.

    Args:
        path: the file.

    Returns:
        The leaves in order and the dictionary.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, is of another version, or is damaged.
    """
    data = Path(path).read_bytes()
    if not data.startswith(MAGIC):
        raise ValueError(f"{path} is not a checkpoint of this version: it does not start {MAGIC!r}")
    digest, _, payload = data[len(MAGIC) :].partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 does not match its content")
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        leaves = [archive[f"leaf_{i}"] for i in range(len(archive.files) - 1)]
        return leaves, json.loads(str(archive["meta"]))


def load(path: str | Path, like: Any) -> tuple[Any, dict]:
    """Load the newest good checkpoint: `path`, or the previous one if that is damaged.

    Explained in chapter 4, "Stop, and go on".

    Args:
        path: as given to `save`.
        like: pytree with the structure, shapes and dtypes that are expected.

    Returns:
        The pytree and the dictionary.

    Raises:
        FileNotFoundError: there is neither file.
        ValueError: no file is good, or its arrays do not match `like`.
    """
    try:
        leaves, meta = read(path)
    except (FileNotFoundError, ValueError) as error:
        if not previous(path).exists():
            raise
        print(f"{error}; going back to {previous(path)}")
        leaves, meta = read(previous(path))
        if jax.process_index() == 0:  # of several processes one moves files
            previous(path).replace(path)  # or the next save would keep the bad one in its place
    expected, structure = jax.tree.flatten(like)
    found = [(leaf.shape, leaf.dtype) for leaf in leaves]
    wanted = [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in expected]
    if found != wanted:
        raise ValueError(f"{path} holds arrays {found}, but this configuration needs {wanted}")
    return jax.tree.unflatten(structure, leaves), meta


def weights_to_arrays(params: Any) -> dict[str, np.ndarray]:
    """Name each weight array: "hidden.kernel" (3C, hidden), "hidden.bias" (hidden,) and so on.

    Explained in chapter 2, "Think".

    Args:
        params: the weights, a pytree.

    Returns:
        float32 arrays by name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {f"{path[0].key}.{path[1].key}": np.asarray(leaf) for path, leaf in leaves}


def save_weights(path: str | Path, params: Any) -> None:
    """Save weights under their names, as a plain NumPy archive.

    Args:
        path: file to write, usually weights.npz; its folder must exist.
        params: the weights.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **weights_to_arrays(params))
    write_atomic(path, buffer.getvalue())


def load_weights(path: str | Path, like: Any) -> Any:
    """Load weights that `save_weights` has written.

    Args:
        path: the file.
        like: pytree with the structure, names, shapes and dtypes that are expected.

    Returns:
        The weights.

    Raises:
        ValueError: the file is missing or damaged, or its arrays do not match `like`.
    """
    try:
        found = dict(np.load(io.BytesIO(Path(path).read_bytes())))
    except Exception as error:  # zipfile raises nearly anything on damaged files
        raise ValueError(f"{path} is damaged or missing: {error!r}") from error
    wanted = weights_to_arrays(like)
    shapes, needed = (
        {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
        for arrays in (found, wanted)
    )
    if shapes != needed:
        raise ValueError(f"{path}: weights have shapes {shapes}, but they should be {needed}")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])
