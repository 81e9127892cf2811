"""Files that are whole or absent: atomic save, verified load, the previous one kept (chapter 5).

A checkpoint is one file: a magic line, the SHA-256 of the rest, and a NumPy archive of the leaves
of a pytree together with a dictionary of plain values. Nothing is pickled. Appendix A2 shows what
it has been put through.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import secrets
import stat
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tqdm import tqdm

MAGIC = b"nca_lib checkpoint "  # then a digit, the version of the format, and a line break
VERSION = 2  # since 2 the dictionary tells the target and the devices; 1 is read, too
MAX_BYTES = 2**30  # of a file, and of what it unpacks to


def say(words: str, file: TextIO | None = None) -> None:
    """Print for who reads along; no terminal that is gone, or has few letters, stops the work."""
    file = file or sys.stdout
    with contextlib.suppress(OSError, ValueError, AttributeError):  # None: it was closed at first
        letters = file.encoding or "utf-8"
        tqdm.write(words.encode(letters, "backslashreplace").decode(letters), file=file)


def write_atomic(path: str | Path, data: bytes, keep: str | Path | None = None) -> None:
    """Write a file so that it is never seen half-written, whatever happens meanwhile.

    Explained in appendix A2, "Whole or absent".

    The bytes go to a temporary file in the same folder, are synced to disk, and then take the
    name of the old file in one step.

    Args:
        path: file to write; its folder must exist.
        data: the whole content.
        keep: where the old file goes, if there is one; by default it is replaced.

    Raises:
        OSError: the file cannot be written; the old one is as it was, or already at `keep`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except OSError as error:  # a full disk, for one, does not say where
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every file system can sync the names in a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_table(path: str | Path, rows: Iterable[Sequence]) -> None:
    """Write a table as CSV, whole or not at all; the first row names the columns."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_file(path: str | os.PathLike, limit: int) -> bytes:
    """Read a file that may be anything, such as another program's pipe, or larger than memory.

    A ValueError says that it is not a regular file, or has more bytes than `limit`; an OSError that
    it is missing or cannot be read.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if status.st_size > limit:
        raise ValueError(f"{path} has {status.st_size:,} bytes, and {limit:,} are the most")
    return Path(path).read_bytes()


def save(path: str | Path, tree: Any, meta: dict, replaces: set[bytes] | None = None) -> None:
    """Save a pytree and a dictionary; an earlier file at `path` is kept, see `previous`.

    Explained in chapter 4, "Half a minute of evolution".

    Args:
        path: file to write; its folder must exist.
        tree: pytree of arrays.
        meta: anything JSON can hold.
        replaces: the `mark` of each file that may be there, to which that of the new one is added;
            by default any may.

    Raises:
        OSError: the file cannot be written; no earlier content is lost.
        ValueError: another checkpoint is there than those that may be replaced.

    Example:
        >>> state = {"mean": np.zeros(3, np.float32)}
        >>> save("checkpoint", state, {"generation": 100})
        >>> state, meta = load("checkpoint", like=state)
        >>> meta
        {'generation': 100}
    """
    leaves = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps(meta)), **leaves)
    payload = buffer.getvalue()
    head = MAGIC + f"{VERSION}\n{_digest(VERSION, payload)}\n".encode()
    if replaces is not None:
        if (found := mark(path)) and found not in replaces:
            raise ValueError(f"{path} was written by another training meanwhile")
        replaces.add(head)  # before it is written: a write that fails may have come to its end
    keep = previous(path)
    try:
        read(path)
    except NotImplementedError:  # of a later version
        pass
    except (OSError, ValueError):  # not worth keeping in the place of a good one
        keep = None
    write_atomic(path, head + payload, keep)


def mark(path: str | Path) -> bytes:
    """Read the head of a checkpoint with its digest, by which it is known again; b"" if none is."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC) + 2 + 64 + 1)
    except FileNotFoundError:
        return b""


def previous(path: str | Path) -> Path:
    """Where `save` keeps the checkpoint before the last: `path` with ".previous" added."""
    path = Path(path)
    return path.with_name(path.name + ".previous")


def read(path: str | Path) -> tuple[list[np.ndarray], dict]:
    """Read and verify one checkpoint file.

    Explained in appendix A2, "Whole or absent".

    Args:
        path: the file.

    Returns:
        The leaves in order and the dictionary.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, or is damaged.
        NotImplementedError: it is of a later version of the format.
    """
    data = read_file(path, MAX_BYTES)
    version, _, rest = data.removeprefix(MAGIC).partition(b"\n")
    if not data.startswith(MAGIC) or not version.isdigit() or len(version) > 3:
        raise ValueError(f"{path} is not a checkpoint: it does not start with {MAGIC.decode()!r}")
    digest, _, payload = rest.partition(b"\n")
    if _digest(int(version), payload).encode() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 does not match its content")
    if int(version) > VERSION:
        raise NotImplementedError(
            f"{path} is a checkpoint of format {int(version)}, and this version of nca_lib reads "
            f"formats up to {VERSION}: update nca_lib"
        )
    try:
        arrays = _unpack(payload)
        meta = json.loads(str(arrays.pop("meta")))
        return [arrays[f"leaf_{i}"] for i in range(len(arrays))], meta
    except Exception as error:  # whole, but written by something else
        raise ValueError(f"{path} is not a checkpoint of nca_lib: {error!r}") from error


def load(path: str | Path, like: Any) -> tuple[Any, dict]:
    """Load the newest good checkpoint: `path`, or the previous one if that is damaged.

    Explained in chapter 5, "Stop, and go on".

    Args:
        path: as given to `save`.
        like: pytree with the structure, shapes and dtypes that are expected.

    Returns:
        The pytree and the dictionary.

    Raises:
        FileNotFoundError: there is neither file.
        ValueError: no file is good, or its arrays do not match `like`.
        NotImplementedError: the file is of a later version of the format.
    """
    try:
        leaves, meta = read(path)
    except (OSError, ValueError) as error:
        if not previous(path).exists():
            raise
        try:
            leaves, meta = read(previous(path))
        except (OSError, ValueError) as second:
            raise ValueError(f"no good checkpoint is left: {error}; {second}") from None
        say(f"{error}; going back to {previous(path)}")
    expected, structure = jax.tree.flatten(like)
    found = [(leaf.shape, leaf.dtype) for leaf in leaves]
    wanted = [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in expected]
    if found != wanted:
        raise ValueError(f"{path} holds arrays {found}, but this configuration needs {wanted}")
    return jax.tree.unflatten(structure, leaves), meta


def weights_to_arrays(params: Any) -> dict[str, np.ndarray]:
    """Name each weight array: "hidden.kernel" (3C, hidden), "hidden.bias" (hidden,) and so on.

    Explained in chapter 2, "Think".
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {f"{path[0].key}.{path[1].key}": np.asarray(leaf) for path, leaf in leaves}


def save_weights(path: str | Path, params: Any) -> None:
    """Save weights under their names, as a plain NumPy archive, usually weights.npz."""
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
        found = _unpack(read_file(path, MAX_BYTES))
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


def _digest(version: int, payload: bytes) -> str:
    """SHA-256 of a checkpoint; since format 2 it covers the number of the format, too."""
    return hashlib.sha256((b"" if version == 1 else b"%d\n" % version) + payload).hexdigest()


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    """Arrays of a NumPy archive by name; no small file may unpack to much.

    Raises nearly anything where the archive is damaged: zipfile and NumPy do.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
            raise ValueError(f"the archive unpacks to more than {MAX_BYTES} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: np.asarray(arrays[name]) for name in arrays}
