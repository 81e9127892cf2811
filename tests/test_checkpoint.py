"""Checkpoints are whole, verified, or refused; a folder has one trainer, and patience ends."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import following, sealed
from test_train import TINY

from nca_lib.lab import checkpoint, runs
from nca_lib.train import train

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.int32(4), jnp.float32(jnp.nan))}
META = {"generation": 3, "text": "🦎", "rows": [[1, 2.5]]}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "checkpoint", TREE, META)
    return tmp_path / "checkpoint"


def test_a_later_format_is_not_taken_for_damage(path):
    checkpoint.save(path, TREE, META)  # the file of the fixture is kept as the previous one
    path.write_bytes(sealed(path.read_bytes().split(b"\n", 2)[2], checkpoint.VERSION + 1))
    with pytest.raises(NotImplementedError, match=f"of format {checkpoint.VERSION + 1}, .* update"):
        checkpoint.load(path, like=TREE)
    assert checkpoint.previous(path).exists()  # did not step in


@pytest.mark.parametrize("version", range(1, checkpoint.VERSION + 1))
def test_files_of_every_format_are_read(version, tmp_path):
    """A run of each format, cut at generation 14, ends as an uninterrupted one does."""
    (tmp_path / "old").mkdir()
    file = Path(__file__).parent / "data" / f"checkpoint-{version}"
    (tmp_path / "old" / "checkpoint").write_bytes(file.read_bytes())
    assert file.read_bytes().startswith(b"nca_lib checkpoint %d\n" % version)
    assert checkpoint.read(file)[1]["generation"] == 14
    old, new = (train(TINY, tmp_path / name, resume=name == "old") for name in ("old", "new"))
    (old, said), (new, told) = (checkpoint.read(folder / "checkpoint") for folder in (old, new))
    assert [row[:2] for row in said["history"]] == [row[:2] for row in told["history"]]
    for a, b in zip(old, new, strict=True):  # the file may be from another machine
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


ARCHIVES = {
    "a pickle": np.array([{}], dtype=object),
    "much from little": np.zeros(2**18),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_ask_for_too_much_are_refused(kind, tmp_path, monkeypatch):
    """Others, of any claim, are those of `faults.rezipped`."""
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 2**20)
    np.savez_compressed(tmp_path / "weights.npz", meta=np.array("{}"), leaf_0=ARCHIVES[kind])
    data = (tmp_path / "weights.npz").read_bytes()
    assert len(data) < 10_000
    (tmp_path / "checkpoint").write_bytes(sealed(data))
    with pytest.raises(ValueError, match="not a checkpoint of nca_lib"):
        checkpoint.read(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="damaged or missing"):
        checkpoint.load_weights(tmp_path / "weights.npz", like=TREE)


def test_two_bad_files_are_both_named(path):
    checkpoint.save(path, TREE, META)
    path.write_bytes(b"")
    checkpoint.previous(path).write_bytes(b"")
    with pytest.raises(ValueError, match="no good checkpoint is left: .*previous is not"):
        checkpoint.load(path, like=TREE)


def test_a_damaged_file_stays_and_is_not_kept_in_the_place_of_a_good_one(path):
    checkpoint.save(path, TREE, {"generation": 4})
    bad = path.read_bytes()[:-1]
    path.write_bytes(bad)
    tree, meta = checkpoint.load(path, like=TREE)
    jax.tree.map(np.testing.assert_array_equal, tree, TREE)
    assert meta == META
    assert path.read_bytes() == bad  # others may be reading, too
    checkpoint.save(path, TREE, {"generation": 5})
    assert checkpoint.read(path)[1] == {"generation": 5}
    assert checkpoint.read(checkpoint.previous(path))[1] == META


OTHERS = [TREE | {"a": jnp.zeros((2, 4))}, TREE | {"a": jnp.zeros((2, 3), jnp.int32)}]


@pytest.mark.parametrize("other", [*OTHERS, {"a": TREE["a"]}], ids=["shape", "dtype", "fewer"])
def test_other_shapes_and_types_are_refused(path, other):
    with pytest.raises(ValueError, match="but this configuration needs"):
        checkpoint.load(path, like=other)


CALLS = [(os, "fsync", 1), (Path, "replace", 1), (Path, "replace", 2)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize(("owner", "call", "place"), CALLS)
@pytest.mark.parametrize("is_done", [False, True])
def test_a_write_cut_short_anywhere_loses_nothing(
    owner, call, place, is_done, error, path, monkeypatch
):
    plain, calls, mine = getattr(owner, call), [], {checkpoint.mark(path)}

    def fails(*arguments):
        calls.append(arguments)
        if is_done or len(calls) != place:
            plain(*arguments)
        if len(calls) == place:
            raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(owner, call, fails)
        checkpoint.save(path, TREE, {"generation": 4}, mine)
    assert checkpoint.load(path, like=TREE)[1] in (META, {"generation": 4})
    assert not any(path.parent.glob(".*"))
    checkpoint.save(path, TREE, {"generation": 5}, mine)  # is still its own
    assert checkpoint.load(path, like=TREE)[1] == {"generation": 5}


def test_what_was_taken_away_by_hand_is_no_other_training_s(path):
    mine = {checkpoint.mark(path)}
    path.unlink()
    checkpoint.save(path, TREE, {"generation": 5}, mine)
    assert checkpoint.read(path)[1] == {"generation": 5}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
def test_no_failed_write_hides_why_a_training_stops(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "DELAYS", ())
    monkeypatch.setattr(checkpoint, "save", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    stops = Mock(side_effect=error)
    with following(stops), pytest.raises(error or OSError):
        train(TINY, tmp_path, checkpoint_seconds=0)
    assert stops.called and "not written: " in capsys.readouterr().err


def test_patience_brings_what_comes_back_and_ends(monkeypatch):
    monkeypatch.setattr(runs, "DELAYS", (0.0, 0.0))
    write = Mock(side_effect=[OSError, OSError, "written", *3 * [OSError]])
    assert runs.retry(write) == "written"
    with pytest.raises(OSError):
        runs.retry(write)
    assert write.call_count == 6


def test_where_the_kernel_has_no_locks_a_folder_can_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.fcntl, "flock", Mock(side_effect=OSError(errno.ENOTSUP, "no locks")))
    with runs.hold(tmp_path / "a" / "b"), runs.hold(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").exists()


def test_what_the_dead_have_left_is_cleared_away(tmp_path):
    (tmp_path / ".checkpoint.0badcafe.tmp").write_text("half")
    (tmp_path / ".odd.0badcafe.tmp").mkdir()
    (tmp_path / ".mine.tmp").touch()
    with runs.hold(tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".odd.0badcafe.tmp", ".mine.tmp", "lock"}
