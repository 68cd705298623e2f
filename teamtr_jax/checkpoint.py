"""Checkpoints: arrays by Orbax, a manifest that vouches for every byte, whole or not at all (docs/checkpoints.md)."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import regular_file, seal, unseal
from teamtr_jax.records import dump
from teamtr_jax.validation import X64_REMEDY, InputError, whole_number

__all__ = ["CHECKPOINT_SCHEMA", "KEPT", "Checkpoint", "save", "restore", "read_manifest", "latest", "clean", "describe",
           "same_leaves", "as_restored"]  # fmt: skip

CHECKPOINT_SCHEMA = 1
KEPT = 2
"""How many of the newest checkpoints of a folder are kept."""

MANIFEST = "manifest.json"
ARRAYS = "arrays"
PARTIAL = ".partial"
WIDE = frozenset({"float64", "complex128", "int64", "uint64"})
"""dtypes that jax does not have outside the x64 setting."""


class Checkpoint(NamedTuple):
    """What `restore` read."""

    step: int
    tree: Any  #: in the structure of `like`, every leaf a jax array
    metadata: dict[str, Any]


class Leaf(NamedTuple):
    """One array of a tree, as it is stored: a PRNG key by its words."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    key: str  #: name of the generator of a typed PRNG key; empty for every other array
    array: NDArray[Any]

    def record(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.array.tobytes()).hexdigest()
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "key": self.key, "sha256": digest}


def save(folder: str | Path, step: int, tree: Any, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the checkpoint `step` of `folder`, whole or not at all, and remove all but the newest `KEPT`.

    It is written and synced under another name and then renamed. One process at a time may write to a folder.

    Args:
      step: greater than every step in the folder.
      tree: arrays, numbers or typed PRNG keys in any structure.
      metadata: what else is to be kept, as strict JSON (`records.dump`).

    Raises:
      InputError: names a leaf that is no array of numbers, or the place that cannot be written (disk full, no folder). What
        was there before is whole.
      ArithmeticError: NaN in a leaf or in the metadata, with its name.
    """
    folder = Path(folder).resolve()
    whole_number("step", step, 0)
    leaves = _leaves(tree)
    _require_numbers(leaves)
    about = json.loads(dump(metadata or {}))
    if (newest := latest(folder)) is not None and step <= newest:
        raise InputError("step", step, f"a step after {newest}, the newest in {folder}")
    final, partial = folder / f"{step:08d}", folder / f".{step:08d}{PARTIAL}"
    checkpointer = _checkpointer()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
        partial.mkdir()
        arrays = {str(number): leaf.array for number, leaf in enumerate(leaves) if leaf.array.size}
        if arrays:  # Orbax refuses an empty tree, and arrays without elements
            with _silent():
                checkpointer.save(partial / ARRAYS, arrays)
        names = _files(partial)
        manifest = {
            "schema": CHECKPOINT_SCHEMA, "step": step, "jax": jax.__version__, "backend": jax.default_backend(),
            "x64": _x64(), "metadata": about, "leaves": [leaf.record() for leaf in leaves],
            "files": {name: _digest(partial / name) for name in names},
        }  # fmt: skip
        with open(partial / MANIFEST, "wb") as file:
            file.write(seal(dump(manifest)))
        for name in [*names, MANIFEST]:
            _sync(partial / name)
        for path in sorted({partial, *(parent for name in names for parent in (partial / name).parents)}):
            if path.is_relative_to(partial):
                _sync(path)
        os.rename(partial, final)
        _sync(folder)
        for old in _steps(folder)[:-KEPT]:
            _remove(folder, old)
    except (OSError, ValueError, RuntimeError) as error:  # OSError from here, either of the others from Orbax's writers
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(str(folder), _reason(error), "a place that can be written") from error
    return final


def restore(folder: str | Path, like: Any, step: int | None = None) -> Checkpoint:
    """Read a checkpoint after every byte of it was checked.

    Args:
      like: a tree of arrays (or `jax.ShapeDtypeStruct`) with the structure, shapes and dtypes that are expected.
      step: which one; the newest if not given.

    Raises:
      InputError: names the file that is damaged, missing or was added; the leaf whose dtype or shape is another one, or that
        needs the x64 setting; a schema that is newer than this program.
    """
    folder = Path(folder).resolve()
    manifest = read_manifest(folder, step)
    place = folder / f"{manifest['step']:08d}"
    written = [{**leaf, "shape": tuple(leaf["shape"])} for leaf in manifest["leaves"]]
    if not _x64():
        for leaf in written:
            if leaf["dtype"] in WIDE:
                raise InputError(leaf["name"], f"{leaf['dtype']} in {place}, with jax_enable_x64 off", X64_REMEDY)
    same_leaves([(x["name"], x["dtype"], x["shape"]) for x in written], describe(like), str(place))

    found = set(_files(place)) - {MANIFEST}
    for name in sorted(found | set(manifest["files"])):
        if name not in found:
            raise InputError(str(place / name), "no such file", "every file of the checkpoint, as it was written")
        if name not in manifest["files"]:
            raise InputError(str(place / name), "a file that the manifest does not name", "the files that were written")
        regular_file(place / name, "a file that can be read")
        try:
            digest = _digest(place / name)
        except OSError as error:
            raise InputError(str(place / name), _reason(error), "a file that can be read") from error
        if digest != manifest["files"][name]:
            raise InputError(str(place / name), f"a damaged file, SHA-256 {digest}", manifest["files"][name])

    stored: dict[str, Any] = {}
    if manifest["files"]:
        with _silent():
            stored = _checkpointer().restore(place / ARRAYS)
    out = []
    for number, leaf in enumerate(written):
        array = np.asarray(stored.get(str(number), np.zeros(leaf["shape"], None if leaf["key"] else leaf["dtype"])))
        back = jax.random.wrap_key_data(jnp.asarray(array), impl=leaf["key"]) if leaf["key"] else jnp.asarray(array)
        again = _leaf(leaf["name"], back).record()
        if again != {**leaf, "shape": list(leaf["shape"])}:
            raise InputError(
                f"{place}: {leaf['name']}", f"{again['dtype']} {again['shape']}, other bytes", "what was saved"
            )
        out.append(back)
    return Checkpoint(manifest["step"], jax.tree.unflatten(jax.tree.structure(like), out), manifest["metadata"])


def read_manifest(folder: str | Path, step: int | None = None) -> dict[str, Any]:
    """The manifest of a checkpoint (docs/checkpoints.md), its own digest checked; the arrays are not looked at.

    Raises:
      InputError: no such checkpoint, a damaged manifest, or one of a newer schema.
    """
    folder = Path(folder).resolve()
    steps = _steps(folder)
    if not steps or (step is not None and step not in steps):
        found = f"no checkpoint {'' if step is None else step}".rstrip()
        raise InputError(str(folder), found, f"one of {steps}" if steps else "a folder with checkpoints")
    path = folder / f"{steps[-1] if step is None else step:08d}" / MANIFEST
    regular_file(path, "the manifest of the checkpoint")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), _reason(error), "the manifest of the checkpoint") from error
    manifest = unseal(data)
    if manifest is None:
        raise InputError(str(path), "a damaged file", "a manifest that ends with its own SHA-256")
    if manifest["schema"] != CHECKPOINT_SCHEMA:
        raise InputError(f"{path}: schema", manifest["schema"], f"{CHECKPOINT_SCHEMA} (a newer program wrote this)")
    if manifest["step"] != int(path.parent.name):
        raise InputError(str(path), f"the manifest of step {manifest['step']}", f"that of step {int(path.parent.name)}")
    return manifest


def latest(folder: str | Path) -> int | None:
    """The newest step in the folder; None if there is none. What was left half written does not count."""
    steps = _steps(Path(folder))
    return steps[-1] if steps else None


def clean(folder: str | Path) -> None:
    """Remove what an interrupted `save` left half written. Only the process that writes to the folder may do so."""
    for path in Path(folder).glob(f".*{PARTIAL}"):
        shutil.rmtree(path)


def describe(tree: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    """``(name, dtype, shape)`` of every leaf; only shapes and dtypes are looked at."""
    named, _ = jax.tree_util.tree_flatten_with_path(tree)
    out = []
    for path, leaf in named:
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
            leaf = _leaf(_name(path), leaf).array
        out.append((_name(path), str(leaf.dtype), tuple(leaf.shape)))
    return out


def as_restored(tree: Any) -> Any:
    """The tree as `restore` gives it back: every leaf a jax array of a dtype of its own, weak types made strong.

    A program that goes on with this after it saved computes what one that restored computes.

    Raises:
      InputError: names a leaf that is no array of numbers, or that would lose digits because jax_enable_x64 is off.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(tree)
    out = []
    for path, leaf in named:
        if not isinstance(leaf, jax.Array):
            name, dtype = _name(path), _leaf(_name(path), leaf).dtype
            if dtype in WIDE and not _x64():
                raise InputError(name, f"{dtype} with jax_enable_x64 off", X64_REMEDY)
            leaf = jnp.asarray(leaf)
        out.append(leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, leaf.dtype))
    return jax.tree.unflatten(structure, out)


def same_leaves(found: list[tuple[str, str, tuple[int, ...]]], expected: list[Any], where: str) -> None:
    """Refuse a tree whose leaves have other names, dtypes or shapes, as `describe` gives them.

    Raises:
      InputError: names the first leaf that differs, and `where` it was found.
    """
    have, want = ({name: (dtype, shape) for name, dtype, shape in leaves} for leaves in (found, expected))
    for name in [*want, *(name for name in have if name not in want)]:
        if have.get(name) != want.get(name):
            shown = [f"{x[0]} {list(x[1])}" if x else "no such leaf" for x in (have.get(name), want.get(name))]
            raise InputError(f"{where}: {name}", *shown)


def _name(path: Any) -> str:
    return "tree" + jax.tree_util.keystr(path)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _leaf(name: str, leaf: Any) -> Leaf:
    if _is_key(leaf):
        words = np.asarray(jax.random.key_data(leaf))
        return Leaf(name, str(leaf.dtype), leaf.shape, str(jax.random.key_impl(leaf)), words)
    array = np.asarray(jnp.asarray(leaf) if type(leaf) in (bool, int, float, complex) else leaf)
    if array.dtype != bool and not jnp.issubdtype(array.dtype, np.number):  # jnp's knows bfloat16 and its like
        raise InputError(
            name, f"{type(leaf).__name__} (dtype {array.dtype})", "an array of numbers or a typed PRNG key"
        )
    return Leaf(name, str(array.dtype), array.shape, "", array)


def _leaves(tree: Any) -> list[Leaf]:
    named, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [_leaf(_name(path), leaf) for path, leaf in named]


def _require_numbers(leaves: list[Leaf]) -> None:
    """A run goes on from the state that is saved, and would go on with NaN. Infinities are numbers."""
    for leaf in leaves:
        if jnp.issubdtype(leaf.array.dtype, jnp.inexact) and (missing := int(np.isnan(leaf.array).sum())):
            raise ArithmeticError(f"{leaf.name}: {missing} of {leaf.array.size} entries are not a number")


def _x64() -> bool:
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


def _steps(folder: Path) -> list[int]:
    try:
        return sorted(int(path.name) for path in folder.iterdir() if re.fullmatch(r"\d{8,}", path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(str(folder), _reason(error), "a folder of checkpoints") from error


def _remove(folder: Path, step: int) -> None:
    """Under its own name a checkpoint is always whole, so it loses the name first."""
    going = folder / f".{step:08d}{PARTIAL}"
    os.rename(folder / f"{step:08d}", going)
    shutil.rmtree(going)


def _files(place: Path) -> list[str]:
    try:
        return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir())
    except OSError as error:
        raise InputError(str(place), _reason(error), "a folder that can be read") from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else text or type(error).__name__


@contextmanager
def _silent() -> Iterator[None]:
    """Orbax logs a failure with the traces of its threads, some of them late; it also raises it: only that is reported."""
    logger = logging.getLogger("absl")
    before = logger.disabled, sys.unraisablehook
    logger.disabled, sys.unraisablehook = True, lambda _: None
    try:
        yield
    except Exception:
        time.sleep(0.3)  # its writers end after the loop that they report to
        raise
    finally:
        logger.disabled, sys.unraisablehook = before


@functools.cache
def _checkpointer() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise InputError("orbax-checkpoint", "not installed", "pip install 'teamtr-jax[train]'") from error
    # This process alone: what is saved is whole here, and Orbax would wait for all others.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(own, {own}, f"process_{own}")
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
