"""Checkpoints: what comes back is what was saved, and everything else is refused by name."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax import checkpoint
from teamtr_jax.checkpoint import KEPT, as_restored, clean, describe, latest, read_manifest, restore, save
from teamtr_jax.files import seal
from teamtr_jax.records import dump
from teamtr_jax.validation import InputError


class State(NamedTuple):
    policy: object
    optimiser: object
    nothing: object
    key: object


def tree():
    return State(
        policy=jnp.asarray(np.random.default_rng(0).random((4, 3))),
        optimiser=[jnp.arange(3), {"m": np.array([5e-324, -0.0, np.inf]), "v/w": np.float32(0.1), "b": True}],
        nothing=(jnp.zeros((0, 2), jnp.bfloat16), None),
        key=jax.random.split(jax.random.key(3, impl="rbg"), 2),
    )


def bits(leaf):
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()


def test_round_trip(tmp_path):
    """Every kind of leaf, bit for bit, in the structure of `like`; keys go on with the same numbers."""
    place = save(tmp_path / "a" / "b", 7, tree(), {"stages": 3, "bound": float("inf")})
    assert place == tmp_path / "a" / "b" / "00000007"
    step, back, metadata = restore(tmp_path / "a" / "b", tree())
    assert (step, metadata) == (7, {"stages": 3, "bound": "inf"})
    assert isinstance(back, State)
    expected = as_restored(tree())
    assert jax.tree.structure(back) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(expected), strict=True):
        assert isinstance(x, jax.Array)
        assert bits(x) == bits(y)
    draws = [jax.random.normal(state.key[1], 3).tolist() for state in (back, tree())]
    assert draws[0] == draws[1]


def test_like_may_be_shapes(tmp_path):
    save(tmp_path, 0, {"x": jnp.ones(3)})
    like = {"x": jax.ShapeDtypeStruct((3,), jnp.float64)}
    assert restore(tmp_path, like).tree["x"].tolist() == [1, 1, 1]


def test_trees_that_orbax_refuses(tmp_path):
    """Orbax saves neither an empty tree nor an array without elements."""
    save(tmp_path, 0, {})
    assert restore(tmp_path, {}).tree == {}
    save(tmp_path, 1, [jnp.zeros((2, 0))])
    assert restore(tmp_path, [jnp.zeros((2, 0))]).tree[0].shape == (2, 0)


def test_weak_types_become_strong():
    weak = as_restored({"a": jnp.asarray(1.0), "b": 2})
    assert not weak["a"].weak_type
    assert not weak["b"].weak_type
    assert jnp.asarray(1.0).weak_type


def test_the_newest_are_kept(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "none") is None
    for step in (0, 3, 4, 11):
        save(tmp_path, step, {"x": jnp.full(2, float(step))})
        assert latest(tmp_path) == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000004", "00000011"]
    assert KEPT == 2
    assert restore(tmp_path, {"x": jnp.zeros(2)}, 4).tree["x"].tolist() == [4, 4]
    with pytest.raises(InputError, match=r"found no checkpoint 3, expected one of \[4, 11\]"):
        restore(tmp_path, {"x": jnp.zeros(2)}, 3)
    with pytest.raises(InputError, match="step: found 11, expected a step after 11"):
        save(tmp_path, 11, {})
    with pytest.raises(InputError, match="found no checkpoint, expected a folder with checkpoints"):
        restore(tmp_path / "none", {})


def test_what_is_half_written_is_ignored_and_removed(tmp_path):
    save(tmp_path, 1, {"x": jnp.ones(2)})
    half = tmp_path / ".00000002.partial"
    (half / "arrays").mkdir(parents=True)
    (half / "arrays" / "x").write_text("half")
    assert latest(tmp_path) == 1
    assert restore(tmp_path, {"x": jnp.ones(2)}).step == 1
    save(tmp_path, 2, {"x": jnp.ones(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]
    half.mkdir()
    clean(tmp_path)
    assert not half.exists()


def test_manifest(tmp_path):
    """Strict JSON; docs/checkpoints.md."""
    place = save(tmp_path, 2, {"x": jnp.ones(3), "k": jax.random.key(0)}, {"a": 1})
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest == read_manifest(tmp_path)
    assert {k: manifest[k] for k in ("schema", "step", "jax", "backend", "x64", "metadata")} == {
        "schema": 1, "step": 2, "jax": jax.__version__, "backend": jax.default_backend(), "x64": True, "metadata": {"a": 1},
    }  # fmt: skip
    assert [(x["name"], x["dtype"], x["shape"], x["key"]) for x in manifest["leaves"]] == [
        ("tree['k']", "key<fry>", [], "threefry2x32"), ("tree['x']", "float64", [3], ""),
    ]  # fmt: skip
    with jax.enable_x64(False):
        save(tmp_path, 3, {"x": jnp.ones(3, jnp.float32)})
    assert read_manifest(tmp_path)["x64"] is False
    assert set(manifest["files"]) == {
        path.relative_to(place).as_posix()
        for path in place.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


# Refusals.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(folder, 0, tree())
    return folder


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_of_any_file(saved):
    """Every file, first, middle and last byte, low and high bit: refused with the name of the file, whole again after."""
    assert len(files(saved)) > 5
    for path in files(saved):
        data = path.read_bytes()
        for position in {0, len(data) // 2, len(data) - 1} if data else ():
            for bit in (1, 128):
                path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
                with pytest.raises(InputError, match="found a damaged file") as error:
                    restore(saved, tree())
                assert error.value.name == str(path)
                assert "\n" not in str(error.value)
        path.write_bytes(data + b"\0")
        with pytest.raises(InputError, match="found a damaged file"):
            restore(saved, tree())
        path.write_bytes(data)
    restore(saved, tree())


def test_every_byte_of_the_manifest(saved):
    path = saved / "00000000" / "manifest.json"
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ 32]) + data[position + 1 :])  # 32: case, and spaces
        with pytest.raises(
            InputError, match=r"manifest.json: found a damaged file, expected a manifest that ends with"
        ):
            read_manifest(saved)
    for cut in (0, 1, 81, 82, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match="found a damaged file"):
            read_manifest(saved)
    path.write_bytes(data)
    restore(saved, tree())


def test_missing_and_extra_files(saved):
    for path in files(saved):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(InputError, match=r"found No such file or directory|found no such file") as error:
            restore(saved, tree())
        assert error.value.name == str(path)
        path.write_bytes(data)
    extra = saved / "00000000" / "arrays" / "extra"
    extra.write_text("x")
    with pytest.raises(InputError, match="found a file that the manifest does not name") as error:
        restore(saved, tree())
    assert error.value.name == str(extra)
    extra.unlink()
    restore(saved, tree())


def test_a_renamed_checkpoint(tmp_path):
    save(tmp_path, 1, {})
    (tmp_path / "00000001").rename(tmp_path / "00000005")
    with pytest.raises(InputError, match="found the manifest of step 1, expected that of step 5"):
        restore(tmp_path, {})


def test_a_newer_schema(saved, tmp_path):
    place = save(tmp_path, 0, {})
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["sha256"]
    (place / "manifest.json").write_bytes(seal(dump({"unknown": 0, **manifest, "schema": 2})))
    with pytest.raises(InputError, match=r"manifest.json: schema: found 2, expected 1 \(a newer program wrote this\)"):
        restore(tmp_path, {})


def test_files_of_another_checkpoint(tmp_path):
    """Manifest and files agree, the arrays are not those that the manifest describes: the digest of the leaf differs."""
    first, second = save(tmp_path / "a", 0, {"x": jnp.ones(3)}), save(tmp_path / "b", 0, {"x": jnp.zeros(3)})
    a, b = (json.loads((place / "manifest.json").read_text()) for place in (first, second))
    del b["sha256"]
    (second / "manifest.json").write_bytes(seal(dump(b | {"leaves": a["leaves"]})))
    with pytest.raises(InputError, match=r"00000000: tree\['x'\]: found float64 \[3\], other bytes"):
        restore(tmp_path / "b", {"x": jnp.zeros(3)})


OTHER = [
    (lambda t: t._replace(policy=jnp.zeros((3, 4))), r"tree.policy: found float64 \[4, 3\], expected float64 \[3, 4\]"),
    (
        lambda t: t._replace(policy=jnp.zeros((4, 3), jnp.float32)),
        r"tree.policy: found float64 \[4, 3\], expected float32",
    ),
    (lambda t: t._replace(key=jax.random.key(0)), r"tree.key: found key<rbg> \[2\], expected key<fry> \[\]"),
    (
        lambda t: t._replace(key=jnp.zeros((2, 4), jnp.uint32)),
        r"tree.key: found key<rbg> \[2\], expected uint32 \[2, 4\]",
    ),
    (lambda t: t._replace(nothing=(None, None)), r"tree.nothing\[0\]: found bfloat16 \[0, 2\], expected no such leaf"),
    (lambda t: t._replace(nothing=(t.nothing[0], 1)), r"tree.nothing\[1\]: found no such leaf, expected int64 \[\]"),
    (tuple, r"tree\[0\]: found no such leaf, expected float64 \[4, 3\]"),
]


@pytest.mark.parametrize(("change", "message"), OTHER, ids=[m[:40] for _, m in OTHER])
def test_another_tree(saved, change, message):
    with pytest.raises(InputError, match=message):
        restore(saved, change(tree()))


def test_leaves_that_are_no_arrays(tmp_path):
    for leaf, found in [
        ("text", "str"),
        (np.array([object()]), "ndarray"),
        (np.array(["2026"], "M8"), "ndarray"),
        (len, "bui"),
    ]:
        with pytest.raises(InputError, match=rf"tree\['a'\]\[1\]: found {found}.*, expected an array of numbers"):
            save(tmp_path, 0, {"a": [1, leaf]})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArithmeticError, match="loss: not a number"):
        save(tmp_path, 0, {}, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "complex64"])
def test_a_state_with_nan_is_never_saved(tmp_path, dtype):
    """The leaf is named and its NaN are counted; what was saved before is whole, infinities pass."""
    state = {"a": jnp.array([1, np.inf, -np.inf], dtype), "key": jax.random.key(0), "n": jnp.arange(2)}
    save(tmp_path, 0, state)
    bad = state | {"a": jnp.array([np.nan, 1, np.nan], dtype)}
    with pytest.raises(ArithmeticError, match=r"^tree\['a'\]: 2 of 3 entries are not a number$"):
        save(tmp_path, 1, bad)
    assert latest(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["00000000"]
    assert bits(restore(tmp_path, state).tree["a"]) == bits(state["a"])


@pytest.mark.parametrize("step", [-1, True])
def test_a_step_is_a_number(tmp_path, step):
    with pytest.raises(InputError, match=f"^step: found {step}, expected an integer, at least 0$"):
        save(tmp_path, step, {})


def test_float64_without_x64(tmp_path):
    """In a process with the setting off: refused by name; what has no wide dtype is read."""
    save(tmp_path / "wide", 0, {"a": jnp.ones(2, jnp.float32), "policy": jnp.ones(2)})
    save(tmp_path / "narrow", 0, {"a": jnp.ones(2, jnp.float32), "key": jax.random.key(1)})
    program = (
        "import sys, jax, jax.numpy as jnp, numpy as np\n"
        "from teamtr_jax.checkpoint import *\n"
        "from teamtr_jax.training import train\n"
        "like = {'a': jnp.ones(2), 'policy': jnp.ones(2)}\n"
        "for call in (lambda: restore(sys.argv[1] + '/wide', like), lambda: as_restored({'x': np.ones(2)})):\n"
        "    try: print('restored', call())\n"
        "    except ValueError as error: print(error)\n"
        "print(restore(sys.argv[1] + '/narrow', {'a': jnp.ones(2), 'key': jax.random.key(0)}).tree['a'].dtype)\n"
        "import orbax.checkpoint as ocp\n"
        "alone = ocp.StandardCheckpointer().restore(sys.argv[1] + '/wide/00000000/arrays',\n"
        "    {'0': jax.ShapeDtypeStruct((2,), 'float32'), '1': jax.ShapeDtypeStruct((2,), 'float32')})\n"
        "print(alone['1'].dtype)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"} | {
        "PYTHONPATH": str(Path(__file__).parents[1])
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    wide, numpy, narrow, alone = done.stdout.splitlines()
    place = tmp_path / "wide" / "00000000"
    assert wide.startswith(
        f"tree['policy']: found float64 in {place}, with jax_enable_x64 off, expected call jax.config"
    )
    assert numpy.startswith("tree['x']: found float64 with jax_enable_x64 off, expected call jax.config")
    assert narrow == "float32"
    assert alone == "float32"  # Orbax alone: silently


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "below"):
        with pytest.raises(InputError, match=r"file.*: found Not a directory, expected a folder of checkpoints"):
            save(folder, 0, {})


@pytest.mark.parametrize("point", range(16))
def test_a_full_disk(tmp_path, monkeypatch, point):
    """The sync number `point` fails: a clear error, the earlier checkpoints whole, the next one can be written."""
    for step in (0, 1):
        save(tmp_path, step, {"x": jnp.full(2, float(step))})
    left, kept = [point], os.fsync

    def fsync(number):
        left[0] -= 1
        if left[0] == -1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept(number)

    told = None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        try:
            save(tmp_path, 2, {"x": jnp.full(2, 2.0)})
        except InputError as error:
            told = str(error)
    failed = left[0] < 0
    assert told == (
        f"{tmp_path}: found No space left on device, expected a place that can be written" if failed else None
    )
    assert failed or point > 10
    newest = latest(tmp_path)
    for step in range(newest - 1, newest + 1):
        assert restore(tmp_path, {"x": jnp.zeros(2)}, step).tree["x"].tolist() == [step, step]
    assert not list(tmp_path.glob(".*"))
    save(tmp_path, 3, {"x": jnp.full(2, 3.0)})


def test_the_limit_of_a_file(tmp_path):
    """Orbax's own writers fail (a process that may not write large files): one line, no trace of their threads."""
    program = (
        "import resource, signal, sys, jax.numpy as jnp, numpy as np\n"
        "from teamtr_jax.checkpoint import *\n"
        "save(sys.argv[1], 0, {'x': jnp.ones(2)})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: save(sys.argv[1], 1, {'x': np.random.default_rng(0).random(100_000)})\n"
        "except ValueError as error: print(error)\n"
        "print(restore(sys.argv[1], {'x': jnp.ones(2)}).step)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    error, step = done.stdout.splitlines()
    assert error == f"{tmp_path}: found File too large, expected a place that can be written"
    assert step == "0"
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["00000000"]


def test_orbax_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    checkpoint._checkpointer.cache_clear()
    with pytest.raises(
        InputError, match=r"orbax-checkpoint: found not installed, expected pip install 'teamtr-jax\[train\]'"
    ):
        save(tmp_path, 0, {"x": jnp.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_describe():
    assert describe({"a": [jax.random.key(0), 1.0]}) == [
        ("tree['a'][0]", "key<fry>", ()),
        ("tree['a'][1]", "float64", ()),
    ]
