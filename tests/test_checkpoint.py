"""Checkpoints are whole, verified, or refused."""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import TINY

from nca_lib.lab import checkpoint
from nca_lib.lab.task import make_task
from nca_lib.train import PRESETS, train

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.int32(4), jnp.float32(jnp.nan))}
META = {"generation": 3, "text": "🦎", "rows": [[1, 2.5]]}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "checkpoint", TREE, META)
    return tmp_path / "checkpoint"


def sealed(payload, version=checkpoint.VERSION):
    """A checkpoint file around any bytes, with the digest that belongs to them."""
    covered = payload if version == 1 else b"%d\n" % version + payload
    digest = hashlib.sha256(covered).hexdigest().encode()
    return checkpoint.MAGIC + b"%d\n" % version + digest + b"\n" + payload


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


ARCHIVES = {
    "a shape that the file is too short for": {"shape": (10**12,)},
    "much from little": {"content": bytes(2**21), "compress": zipfile.ZIP_DEFLATED},
    "no array": {"content": b"not an array"},
}


def archive(shape=(3,), content=None, compress=zipfile.ZIP_STORED):
    """A NumPy archive whose array "mean" has this header and content."""
    buffer, head = io.BytesIO(), io.BytesIO()
    form = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, form)
    with zipfile.ZipFile(buffer, "w", compress) as file:
        file.writestr("mean.npy", head.getvalue() + bytes(12) if content is None else content)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_ask_for_too_much_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 2**20)
    data = archive(**ARCHIVES[kind])
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


def test_nothing_is_unpickled(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps({})), leaf_0=np.array([{}], dtype=object))
    payload = buffer.getvalue()
    (tmp_path / "checkpoint").write_bytes(sealed(payload))
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoint.load(tmp_path / "checkpoint", like=[np.zeros(1)])


def test_no_module_pickles():
    modules = Path(checkpoint.__file__).parent.glob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in modules)
    assert text.count("pickle") == text.count("allow_pickle=False") + 1  # and a docstring
    assert text.count("np.load(") == text.count("allow_pickle=False")


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    def full_disk(_):
        raise OSError("No space left on device")

    old = path.read_bytes()
    monkeypatch.setattr(checkpoint.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomic(path, b"new")
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]


def test_weights_round_trip(tmp_path):
    params = make_task(PRESETS["smoke"]).params
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    checkpoint.save_weights(tmp_path / "weights.npz", params)
    arrays = dict(np.load(tmp_path / "weights.npz"))
    assert sorted(arrays) == ["hidden.bias", "hidden.kernel", "output.bias", "output.kernel"]
    assert arrays["output.kernel"].shape == (32, 8) and arrays["output.kernel"].min() == 0.5
    again = checkpoint.load_weights(tmp_path / "weights.npz", like=params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, again))
