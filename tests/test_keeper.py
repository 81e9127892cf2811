"""One trainer for each folder, and checkpoints that are written beside the training."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from faults import other_lock
from nca_lib.keeper import STALE, Keeper

from nca_lib.lab import checkpoint

TREE = {"mean": np.arange(3.0)}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(keeper, "DELAYS", (0.0, 0.0))


def fail(times, monkeypatch, error=errno.EIO):
    """Let the next writes of checkpoints fail; the list that is returned grows with each."""
    failed, save = [], checkpoint.save

    def fails(*arguments):
        if len(failed) < times:
            failed.append(arguments)
            raise OSError(error, os.strerror(error))
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", fails)
    return failed


def test_checkpoints_are_written_and_the_lock_goes_with_its_holder(tmp_path):
    with Keeper(tmp_path / "a" / "b") as kept:
        assert [path.name for path in kept.folder.iterdir()] == ["lock"]
        kept.save(TREE, {"generation": 1})
        kept.flush()
        assert checkpoint.read(kept.folder / "checkpoint")[1] == {"generation": 1}
        kept.save(TREE, {"generation": 2})
    assert checkpoint.read(kept.folder / "checkpoint")[1] == {"generation": 2}
    names = sorted(path.name for path in kept.folder.iterdir())
    assert names == ["checkpoint", "checkpoint.previous"]


def test_training_does_not_wait_for_a_slow_folder(tmp_path, monkeypatch):
    arrived, written = threading.Event(), []

    def slow(path, tree, meta, check):
        assert arrived.wait(60)
        written.append(meta["generation"])

    monkeypatch.setattr(checkpoint, "save", slow)
    with Keeper(tmp_path) as kept:
        for generation in range(1, 100):
            kept.save(TREE, {"generation": generation})
        arrived.set()
        kept.flush()
    assert written[-1] == 99
    assert len(written) <= 2  # what waited was replaced by what is newer


def test_a_failed_write_is_tried_again(tmp_path, monkeypatch, capsys):
    failed = fail(2, monkeypatch)
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {"generation": 1})
        kept.flush()
    assert len(failed) == 2
    assert checkpoint.read(tmp_path / "checkpoint")[1] == {"generation": 1}
    assert capsys.readouterr().err == ""


def test_a_write_that_fails_for_good_is_told_and_the_next_may_succeed(
    tmp_path, monkeypatch, capsys
):
    fail(3, monkeypatch, errno.ENOSPC)
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {"generation": 1})
        with pytest.raises(OSError, match="No space left"):
            kept.flush()
        assert "was not written: [Errno 28] No space left" in capsys.readouterr().err
        kept.save(TREE, {"generation": 2})
        kept.flush()
    assert checkpoint.read(tmp_path / "checkpoint")[1] == {"generation": 2}


def test_patience_ends():
    with pytest.raises(FileNotFoundError):
        keeper.patiently(lambda: Path("no such file").unlink())


def test_a_folder_has_one_trainer(tmp_path):
    with (
        Keeper(tmp_path),
        pytest.raises(ValueError, match="is in use: another training on this machine"),
        Keeper(tmp_path),
    ):
        pytest.fail("two at once")
    with Keeper(tmp_path):  # again free
        pass


@pytest.mark.parametrize("boot", [keeper._boot(), ""])
def test_who_died_here_holds_nothing(tmp_path, monkeypatch, boot):
    monkeypatch.setattr(keeper, "_boot", lambda: boot)  # only Linux names the start of a machine
    other_lock(tmp_path, 1, **({"boot": boot} if boot else {"host": keeper.socket.gethostname()}))
    (tmp_path / ".checkpoint.0badcafe.tmp").write_text("half")
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_another_machine_holds_a_folder_for_as_long_as_it_lives(tmp_path):
    other_lock(tmp_path, STALE - 60)
    with pytest.raises(ValueError, match="'elsewhere' gave a sign of life 2[34]. s ago.* delete"):
        Keeper(tmp_path).__enter__()
    assert json.loads((tmp_path / "lock").read_text())["token"] == "theirs"
    other_lock(tmp_path, STALE + 1)
    with Keeper(tmp_path):
        pass


def test_where_the_kernel_cannot_guard_signs_of_life_decide(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(keeper.fcntl, "flock", unsupported)
    with (
        Keeper(tmp_path),
        pytest.raises(ValueError, match="gave a sign of life [01] s ago"),
        Keeper(tmp_path),
    ):
        pytest.fail("two at once")


@pytest.mark.parametrize("text", ["", "{", "7", '{"host": 3}', "\x00\x01"])
def test_a_lock_that_was_never_finished_is_no_lock(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    os.utime(tmp_path / "lock", (0, 0))
    with Keeper(tmp_path):
        pass


def test_who_has_lost_the_folder_writes_no_more(tmp_path, monkeypatch):
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {"generation": 1})
        kept.flush()
        other_lock(tmp_path, 0)
        kept.save(TREE, {"generation": 2})
        with pytest.raises(ValueError, match="was taken by another trainer, on .*elsewhere"):
            kept.flush()
        with pytest.raises(ValueError, match="was taken by another trainer"):
            kept.save(TREE, {"generation": 3})
    assert checkpoint.read(tmp_path / "checkpoint")[1] == {"generation": 1}
    assert json.loads((tmp_path / "lock").read_text())["token"] == "theirs"


def test_who_slept_while_another_came_and_went_writes_no_more(tmp_path):
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {"generation": 1})
        kept.flush()
        (tmp_path / "lock").unlink()
        checkpoint.save(tmp_path / "checkpoint", TREE, {"generation": 9})
        kept.save(TREE, {"generation": 2})
        with pytest.raises(ValueError, match="was emptied, or written by another trainer"):
            kept.flush()
    assert checkpoint.read(tmp_path / "checkpoint")[1] == {"generation": 9}
    assert checkpoint.read(tmp_path / "checkpoint.previous")[1] == {"generation": 1}


def test_who_loses_the_folder_in_the_middle_of_a_write_does_not_finish_it(tmp_path, monkeypatch):
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {"generation": 1})
        kept.flush()
        fsync = os.fsync

        def stalls(descriptor):
            other_lock(tmp_path, 0)
            fsync(descriptor)

        monkeypatch.setattr(checkpoint.os, "fsync", stalls)
        kept.save(TREE, {"generation": 2})
        with pytest.raises(ValueError, match="was taken by another trainer"):
            kept.flush()
    assert checkpoint.read(tmp_path / "checkpoint")[1] == {"generation": 1}


def test_no_error_of_any_kind_leaves_who_waits_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper.sys, "stderr", None)  # not even a terminal that is gone
    with Keeper(tmp_path) as kept:
        kept.save(TREE, {"not for JSON": {1, 2}})
        with pytest.raises(TypeError, match="not JSON serializable"):
            kept.flush()


def test_nothing_that_lies_about_keeps_a_folder_locked(tmp_path):
    (tmp_path / ".odd.0badcafe.tmp").mkdir()
    (tmp_path / ".mine.tmp").touch()
    for _ in range(2):
        with Keeper(tmp_path):
            pass
    assert (tmp_path / ".mine.tmp").exists()


def test_two_that_come_at_once_without_locks_are_told_apart(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "no locks here")

    def other_comes(seconds):
        (tmp_path / "lock").write_text('{"host": "elsewhere"}')

    monkeypatch.setattr(keeper.fcntl, "flock", unsupported)
    monkeypatch.setattr(keeper.time, "sleep", other_comes)
    with pytest.raises(ValueError, match="another training has just begun there"):
        Keeper(tmp_path).__enter__()


def test_a_lock_removed_by_mistake_is_renewed_and_guarded(tmp_path):
    with Keeper(tmp_path) as kept:
        (tmp_path / "lock").unlink()
        kept.save(TREE, {"generation": 1})
        kept.flush()
        assert json.loads((tmp_path / "lock").read_text()) == kept.mark
        with pytest.raises(ValueError, match="another training on this machine"):
            Keeper(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_signs_of_life_are_given_while_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "BEAT", 0.001)
    beaten, show = threading.Event(), Keeper._show_life

    def shows(self):
        show(self)
        beaten.set()

    monkeypatch.setattr(Keeper, "_show_life", shows)
    with Keeper(tmp_path):
        os.utime(tmp_path / "lock", (0, 0))
        beaten.clear()
        assert beaten.wait(60)
        assert (tmp_path / "lock").stat().st_mtime > 1e9


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileExistsError):
        Keeper(tmp_path / "file").__enter__()
