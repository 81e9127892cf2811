"""A run folder in good hands: one trainer at a time, written to beside the training (appendix A2).

Folders may lie on a network, as Google Drive does on Colab. Such a folder is slow, at times away,
and seen by several machines.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nca_lib import checkpoint

DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds to wait before a failed write is tried again
BEAT = 30.0  # seconds between two signs of life
STALE = 300.0  # seconds without one, after which another machine counts as gone


def patiently(write: Callable[[], Any]) -> Any:
    """Try to write, and if that fails a few times more, ever later.

    Explained in appendix A2, "Slow folders".

    Args:
        write: may be called several times.

    Returns:
        What it returns.

    Raises:
        OSError: it failed each time.
    """
    for delay in DELAYS:
        try:
            return write()
        except OSError:
            time.sleep(delay)
    return write()


class Keeper:
    """Holds a run folder for one trainer, and writes its checkpoints in the background.

    On one machine the kernel guards the lock: who dies, however suddenly, lets go of it. Across
    machines the file `lock` names the holder, who touches it every half minute; five minutes
    without, and its machine counts as gone. A trainer that has lost the folder, because its machine
    slept for an hour, say, notices before it writes: another name stands in the lock, or, where the
    other has ended already, another checkpoint in the folder.

    Explained in appendix A2, "Two trainers, one folder".

    Args:
        folder: the run folder; made if needed.

    Raises:
        ValueError: another trainer holds it.
        OSError: it cannot be written.

    Example:
        >>> with Keeper("first-run") as keeper:
        ...     keeper.save({"mean": 0.5}, {"generation": 100})  # returns at once
    """

    def __init__(self, folder: str | Path):
        self.folder, self.lock = Path(folder), Path(folder) / "lock"
        self.mark = {"host": socket.gethostname(), "boot": _boot(), "token": secrets.token_hex(8)}
        self.waiting, self.failed = None, None  # what to write next; why the last was not written
        self.changed, self.closing = threading.Condition(), False
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Keeper":
        """Take the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file, is_guarded = self._open()
        try:
            self._claim(is_guarded)
            self.newest = self._newest()
            for leftover in self.folder.glob(".*.????????.tmp"):  # of one who died while writing
                with contextlib.suppress(OSError):
                    leftover.unlink()
            self.thread.start()
        except BaseException:
            self.closing = True  # the thread may have started
            self.file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Finish what is being written, and let the folder go."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.thread.join()  # it lets the folder go, even if Ctrl-C ends the waiting

    def save(self, tree: Any, meta: dict) -> None:
        """Have a checkpoint written; one that still waits is dropped for it.

        If that fails for good, standard error tells. The training goes on, and the next checkpoint
        is a new attempt.

        Args:
            tree: pytree of NumPy arrays that will not change.
            meta: see `nca_lib.checkpoint.save`.

        Raises:
            ValueError: another trainer has taken the folder.
        """
        with self.changed:
            if isinstance(self.failed, ValueError):
                raise self.failed
            self.waiting = (tree, meta)
            self.changed.notify_all()

    def flush(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            OSError: it could not be written.
            ValueError: another trainer has taken the folder.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.waiting is None)
            if self.failed is not None:
                raise self.failed

    def _work(self) -> None:
        """The thread: writes what waits, shows that it lives, and lets the folder go."""
        try:
            self._write_all()
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._show_life()
                self.lock.unlink()
            self.file.close()

    def _write_all(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closing or self.waiting, BEAT)
                job = self.waiting
                if job is None and self.closing:
                    return
            try:
                patiently(lambda job=job: self._write(job))
                failed = self.failed if job is None else None
            except Exception as error:  # whatever it is, who waits must not wait for ever
                failed = error
                told = f"\nwarning: {self.folder} was not written: {str(error) or repr(error)}"
                with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                    print(told, file=sys.stderr)
            with self.changed:
                self.failed = failed
                if self.waiting is job:
                    self.waiting = None
                self.changed.notify_all()

    def _write(self, job: tuple[Any, dict] | None) -> None:
        self._show_life()
        if job is not None:
            checkpoint.save(self.folder / "checkpoint", *job, self._show_life)
            self.newest = self._newest()

    def _newest(self) -> bytes:
        """The head of the checkpoint with its digest, by which we know it again."""
        try:
            with (self.folder / "checkpoint").open("rb") as file:
                return file.read(100)
        except FileNotFoundError:
            return b""

    def _show_life(self) -> None:
        """Touch the lock; ValueError if it names another."""
        try:
            holder = json.loads(self.lock.read_text())
        except FileNotFoundError:  # deleted, or another trainer has come and gone
            if self._newest() != self.newest:
                raise ValueError(
                    f"{self.folder} was emptied, or written by another trainer meanwhile"
                ) from None
            self.file.close()
            self.file, is_guarded = self._open()  # guarded again: the kernel's lock is on this file
            self._claim(is_guarded)
            return
        except ValueError as error:
            raise OSError(f"{self.lock} is not readable: {error}") from error
        if holder != self.mark:
            raise ValueError(f"{self.folder} was taken by another trainer, on {holder!r}")
        os.utime(self.lock)

    def _open(self) -> tuple[Any, bool]:
        """Open the lock, and guard it where the folder can: the file, and whether it is guarded."""
        while True:
            file, is_guarded = self.lock.open("a+"), True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise ValueError(
                    f"{self.folder} is in use: another training on this machine writes to it. "
                    "Wait for it, stop it, or choose another folder"
                ) from None
            except OSError:  # a folder on a network may have no such locks
                is_guarded = False
            with contextlib.suppress(FileNotFoundError):  # its holder has just removed it
                if os.path.samestat(os.fstat(file.fileno()), self.lock.stat()):
                    return file, is_guarded
            file.close()

    def _claim(self, is_guarded: bool) -> None:
        """Write our name into the lock, unless another machine seems to be at work."""
        self.file.seek(0)
        try:
            other = dict(json.loads(self.file.read()))
        except (ValueError, TypeError):  # new, or of one who died while writing its name
            other = {}
        with tempfile.TemporaryFile(dir=self.folder) as now:  # the folder's clock may not be ours
            idle = os.fstat(now.fileno()).st_mtime - self.lock.stat().st_mtime
        key = "boot" if self.mark["boot"] else "host"  # hosts may share a name
        is_here = other.get(key) == self.mark[key]
        if other and idle < STALE and not (is_guarded and is_here):
            raise ValueError(
                f"{self.folder} is in use: {other.get('host')!r} gave a sign of life {idle:.0f} s "
                f"ago. If that machine is gone, wait {STALE - idle:.0f} s or delete {self.lock}"
            )
        self.file.truncate(0)
        self.file.write(json.dumps(self.mark))
        self.file.flush()
        os.fsync(self.file.fileno())  # for other machines to see
        if not is_guarded:  # two may have come at once: the later name counts
            time.sleep(1.0)
            if self.lock.read_text() != json.dumps(self.mark):
                raise ValueError(f"{self.folder} is in use: another training has just begun there")


def _boot() -> str:
    """A name for this start of the machine, which its containers share; "" outside Linux."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
