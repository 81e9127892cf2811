"""Checkpoints are whole, verified, or refused."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_lib import checkpoint
from nca_lib.train import PRESETS, make_task

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


def test_damage_anywhere_is_noticed(path):
    good = path.read_bytes()
    for position in np.linspace(0, len(good) - 1, 200).astype(int):
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match=r"not a checkpoint|damaged"):
            checkpoint.load(path, like=TREE)
    for length in (0, 10, len(checkpoint.MAGIC) + 3, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match=r"not a checkpoint|damaged"):
            checkpoint.load(path, like=TREE)


def test_previous_checkpoint_steps_in(path, capsys):
    checkpoint.save(path, TREE, {"generation": 4})
    path.write_bytes(path.read_bytes()[:-1])
    tree, meta = checkpoint.load(path, like=TREE)
    assert_is_saved(tree)
    assert meta == META
    assert "damaged" in capsys.readouterr().out
    # The damaged file is out of the way: the next save cannot keep it as the previous one.
    assert checkpoint.read(path)[1] == META


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
    digest = checkpoint.hashlib.sha256(payload).hexdigest().encode()
    (tmp_path / "checkpoint").write_bytes(checkpoint.MAGIC + digest + b"\n" + payload)
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoint.load(tmp_path / "checkpoint", like=[np.zeros(1)])


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
