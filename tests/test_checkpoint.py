"""Checkpoints are whole, verified, or refused; a folder has one trainer, and patience ends."""

import errno
import io
import os
import zipfile
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import sealed
from test_train import TINY

import nca_lib
from nca_lib.lab import checkpoint, loop, runs
from nca_lib.lab.task import make_task
from nca_lib.train import PRESETS, train

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.int32(4), jnp.float32(jnp.nan))}
META = {"generation": 3, "text": "🦎", "rows": [[1, 2.5]]}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "checkpoint", TREE, META)
    return tmp_path / "checkpoint"


def assert_is_saved(tree):
    assert np.array_equal(tree["a"], TREE["a"])
    assert tree["b"][0] == 4
    assert np.isnan(tree["b"][1])


def test_round_trip_keeps_every_bit(path):
    tree, meta = checkpoint.load(path, like=TREE)
    assert_is_saved(tree)
    assert meta == META
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]


def test_a_later_format_is_not_taken_for_damage(path):
    checkpoint.save(path, TREE, META)
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


def archive(shape=(3,), content=None, compress=zipfile.ZIP_STORED):
    """A NumPy archive whose array "mean" has this header and content."""
    buffer, head = io.BytesIO(), io.BytesIO()
    form = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, form)
    with zipfile.ZipFile(buffer, "w", compress) as file:
        file.writestr("mean.npy", head.getvalue() + bytes(12) if content is None else content)
    return buffer.getvalue()


def pickled():
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array("{}"), leaf_0=np.array([{}], dtype=object))
    return buffer.getvalue()


ARCHIVES = {
    "a shape that the file is too short for": archive(shape=(10**12,)),
    "much from little": archive(content=bytes(2**21), compress=zipfile.ZIP_DEFLATED),
    "no array": archive(content=b"not an array"),
    "a pickle": pickled(),
}


@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_ask_for_too_much_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 2**20)
    assert len(data) < 10_000
    (tmp_path / "weights.npz").write_bytes(data)
    (tmp_path / "checkpoint").write_bytes(sealed(data))
    with pytest.raises(ValueError, match="not a checkpoint of nca_lib"):
        checkpoint.read(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="damaged or missing"):
        checkpoint.load_weights(tmp_path / "weights.npz", like=make_task(PRESETS["smoke"]).params)


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="is not a regular file"):
            checkpoint.read(tmp_path / name)


def test_two_bad_files_are_both_named(path):
    checkpoint.save(path, TREE, META)
    path.write_bytes(b"")
    checkpoint.previous(path).write_bytes(b"")
    with pytest.raises(ValueError, match="no good checkpoint is left: .*previous is not"):
        checkpoint.load(path, like=TREE)


def test_previous_checkpoint_steps_in(path, capsys):
    checkpoint.save(path, TREE, {"generation": 4})
    path.write_bytes(path.read_bytes()[:-1])
    tree, meta = checkpoint.load(path, like=TREE)
    assert_is_saved(tree)
    assert meta == META
    assert "damaged" in capsys.readouterr().out
    assert not path.read_bytes().endswith(b"PK")  # nothing was moved: others may be reading, too
    # The next save does not keep the damaged file in the place of the good one.
    checkpoint.save(path, TREE, {"generation": 5})
    assert checkpoint.read(path)[1] == {"generation": 5}
    assert checkpoint.read(checkpoint.previous(path))[1] == META


def test_a_missing_file_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "checkpoint", like=TREE)


def test_other_shapes_and_types_are_refused(path):
    for other in (
        {"a": jnp.zeros((2, 4)), "b": TREE["b"]},
        {"a": jnp.zeros((2, 3), jnp.int32), "b": TREE["b"]},
        {"a": TREE["a"]},
    ):
        with pytest.raises(ValueError, match="but this configuration needs"):
            checkpoint.load(path, like=other)


def test_no_module_pickles():
    modules = Path(nca_lib.__file__).parent.rglob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in modules)
    assert text.count("pickle") == text.count("allow_pickle=False") + 1  # and a docstring
    assert text.count("np.load(") == text.count("allow_pickle=False")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "away")], ids=["^C", "IO"])
@pytest.mark.parametrize(("call", "place"), [("fsync", 0), ("replace", 0), ("replace", 1)])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_write_cut_short_anywhere_loses_nothing(call, place, is_done, error, path, monkeypatch):
    owner = os if call == "fsync" else Path
    plain, calls, mine = getattr(owner, call), [], {checkpoint.mark(path)}

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) - 1 != place or is_done:
            plain(*arguments)
        if len(calls) - 1 == place:
            raise error

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        patch.setattr(owner, call, fails)
        checkpoint.save(path, TREE, {"generation": 4}, mine)
    assert checkpoint.load(path, like=TREE)[1] in (META, {"generation": 4})
    assert not any(path.parent.glob(".*"))
    checkpoint.save(path, TREE, {"generation": 5}, mine)  # is still its own
    assert checkpoint.load(path, like=TREE)[1] == {"generation": 5}


def test_what_another_training_has_written_is_not_replaced(path):
    mine = set()  # began when nothing was there
    with pytest.raises(ValueError, match="written by another training"):
        checkpoint.save(path, TREE, {"generation": 4}, mine)
    assert checkpoint.read(path)[1] == META
    path.unlink()  # emptied by hand: nothing is there to be lost
    checkpoint.save(path, TREE, {"generation": 5}, mine)
    assert checkpoint.read(path)[1] == {"generation": 5}


def keep(folder, error=None):
    """A training of two rows that ends by an error, in a folder that cannot be written."""

    def rows():
        for number in (1, 2):
            yield TREE, dict.fromkeys(runs.HISTORY, 1) | {"generation": number}
        if error:
            raise error

    meta = runs.begin(make_task(TINY))
    return loop._keep(rows(), None, meta, folder / "checkpoint", 0, "how")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
def test_no_failed_write_hides_why_a_training_stops(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "DELAYS", ())
    with pytest.raises(error or FileNotFoundError):
        keep(tmp_path / "missing", error)
    assert f"not written: [Errno {errno.ENOENT}]" in capsys.readouterr().err
    assert (
        keep(tmp_path)[1]["generation"] == checkpoint.read(tmp_path / "checkpoint")[1]["generation"]
    )


def test_patience_brings_what_comes_back_and_ends(monkeypatch):
    monkeypatch.setattr(runs, "DELAYS", (0.0, 0.0))
    answers = [OSError, OSError, "written", *3 * [FileNotFoundError]]

    def write():
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    assert runs.retry(write) == "written"
    with pytest.raises(FileNotFoundError):
        runs.retry(write)
    assert not answers


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_folder_has_one_trainer_where_the_kernel_can_see_to_it(has_locks, tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "no locks here")

    if not has_locks:
        monkeypatch.setattr(runs.fcntl, "flock", unsupported)
    folder = tmp_path / "a" / "b"
    for _ in range(2):  # is free again
        with runs.hold(folder):
            second = pytest.raises(ValueError, match="is in use") if has_locks else nullcontext()
            with second, runs.hold(folder):
                assert not has_locks


def test_what_the_dead_have_left_is_cleared_away(tmp_path):
    (tmp_path / ".checkpoint.0badcafe.tmp").write_text("half")
    (tmp_path / ".odd.0badcafe.tmp").mkdir()
    (tmp_path / ".mine.tmp").touch()
    with runs.hold(tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".odd.0badcafe.tmp", ".mine.tmp", "lock"}


def test_weights_round_trip(tmp_path):
    params = make_task(PRESETS["smoke"]).params
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    checkpoint.save_weights(tmp_path / "weights.npz", params)
    arrays = dict(np.load(tmp_path / "weights.npz"))
    assert sorted(arrays) == ["hidden.bias", "hidden.kernel", "output.bias", "output.kernel"]
    assert arrays["output.kernel"].shape == (32, 8) and arrays["output.kernel"].min() == 0.5
    again = checkpoint.load_weights(tmp_path / "weights.npz", like=params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, again))
