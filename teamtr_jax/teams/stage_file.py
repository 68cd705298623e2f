"""Stage files: reading with every check, writing whole or not at all (schema 1, docs/stage-files.md)."""

from __future__ import annotations

import difflib
import hashlib
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Dense, Layered, Successors
from teamtr_jax.files import output_file, reason, regular_file, replacing
from teamtr_jax.sizes import bytes_text, fitting, memory
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import (
    InputError,
    discount_factor,
    finite,
    integers,
    permutation,
    probability_rows,
    real_table,
    shaped,
    shown,
)

__all__ = ["SCHEMA", "read_stage", "write_stage", "stage_from_tables", "stage_tables"]

SCHEMA = 1
KEYS = frozenset(
    "schema transition successor_index successor_prob reward initial discount horizon active factors current target "
    "agents order observation".split()
)
ARCHIVE = "an .npz file (docs/stage-files.md)"

DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError,
          TypeError, KeyError, IndexError, AttributeError, OverflowError, SyntaxError, MemoryError, Warning)  # fmt: skip
"""What reading a damaged archive may raise."""

HELD = 3
"""How often a table is held while it is read: bytes of the file, the array, what the checks make of it."""

HYBRIDS = 16
"""Arrays of the size of a policy that the report of a stage holds for each hybrid; XLA plans 18 to 26."""

ALIKE = 0.75
"""Names at least this similar (`difflib`) are taken for the same key with a letter changed or too many."""

END = struct.Struct("<4s4H2LH")
"""The last record of a ZIP archive; the length of the comment that follows is its last number."""

MANY = 2**16 - 1
"""Declared by archives whose number of members stands elsewhere (ZIP64)."""

DIGEST = 64
"""Characters of a SHA-256."""


def read_stage(path: str | Path) -> Stage:
    """Read and check a stage file. Object arrays are never unpickled, rows never renormalised.

    Sizes are looked at before anything of that size is made. A damaged file is refused, or no number in it is another one.

    Raises:
      InputError: names the key (or the file), what was found and what was expected.
    """
    tables, unknown = _read_tables(Path(path))
    stage = stage_from_tables(tables)
    for name in unknown:
        warnings.warn(f"{shown(path)}: ignored the unknown key '{shown(name)}'", stacklevel=2)
    return stage


# ------------------------------------------------------------------------------------------------------------------ archive


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Whatever reading a damaged archive may raise, as bad input under one name."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(name, f"a damaged archive ({reason(error)})", ARCHIVE) from error


def _read_tables(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays of a stage file by key, and the names of members that are none of its keys."""
    try:
        regular_file(path, ARCHIVE)
    except InputError as error:
        raise InputError("file", error.found, ARCHIVE) from error
    with _damage("file"):
        if not zipfile.is_zipfile(path):
            raise InputError("file", "not an npz archive, or one that is cut off", ARCHIVE)
        count = _ending(path)
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) != count < MANY or not count:
                found = f"a damaged archive ({len(archive.infolist())} members, {count} declared)"
                raise InputError("file", found, ARCHIVE)
            members, unknown = _members(archive)
            arrays: dict[str, NDArray[Any]] = {}
            headers = {key: _header(archive, key, info) for key, info in members.items()}
            total = sum(info.file_size for info in members.values())
            if HELD * total > memory():
                key = max(members, key=lambda key: members[key].file_size)
                raise InputError(key, f"tables of {bytes_text(total)} in all", f"at most {_limit()}")
            for key, info in members.items():
                with _damage(key):
                    arrays[key] = _array(archive.read(info), *headers[key])  # to its end, where its CRC is compared
    return arrays, unknown


def _limit() -> str:
    return f"{bytes_text(memory() // HELD)}, what {bytes_text(memory())} of memory can read"


def _ending(path: Path) -> int:
    """The number of members that the end of the archive declares; nothing may follow it but the digest of `write_stage`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - END.size - DIGEST))
        tail = file.read()
        if tail[-END.size :][:4] == b"PK\5\6" and tail[-2:] == b"\0\0":
            return END.unpack(tail[-END.size :])[4]
        file.seek(0)
        body = _digest(file, size - DIGEST)
    if tail[:4] != b"PK\5\6" or tail[END.size - 2 : END.size] != DIGEST.to_bytes(2, "little"):
        raise InputError("file", "bytes after the end of the archive, or a damaged end", ARCHIVE)
    if tail[END.size :] != body:
        raise InputError("file", "a damaged archive (its SHA-256 is another one)", "the bytes that were written")
    return END.unpack(tail[: END.size])[4]


def _digest(file: Any, size: int) -> bytes:
    """The SHA-256 of the next `size` bytes, in hexadecimal."""
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, 2**20))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest().encode()


def _members(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """The members by key, and the names of the others; every name stands twice in an archive, and both are compared."""
    found: dict[str, zipfile.ZipInfo] = {}
    unknown = []
    if archive.infolist() and min(info.header_offset for info in archive.infolist()):
        raise InputError("file", "bytes before the archive", ARCHIVE)
    for info in archive.infolist():
        name = info.filename
        key = name.removesuffix(".npy")
        with _damage(key):
            if info.flag_bits & 1:
                raise InputError(key, "an encrypted member", "one without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(key, f"compression {info.compress_type}", "none, or deflate")
            archive.open(info).close()
        if key in found or key in unknown:
            raise InputError(key, "the key twice", "every key once")
        if key in KEYS and key != name:
            found[key] = info
            continue
        stem = PurePosixPath(name).name.split(".")[0].casefold()
        if near := difflib.get_close_matches(stem, KEYS, 1, ALIKE):
            raise InputError(shown(name), "an unknown key", f"{near[0]}, or a name that is less like it")
        unknown.append(key)
    return found, unknown


def _header(
    archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo
) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Where the numbers begin, their shape, whether they are in Fortran order, their dtype: before they are read."""
    with _damage(key), archive.open(info) as member, warnings.catch_warnings():
        warnings.simplefilter("error")
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise InputError(key, f"array format {version}", "format 1.0 or 2.0, what numpy.save writes for numbers")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
        begin = member.tell()
    if dtype.hasobject:
        raise InputError(key, "an object array", "numbers (nothing is unpickled)")
    if dtype.kind not in "biufc":
        raise InputError(key, f"dtype {dtype}", "numbers")
    if min(shape, default=0) < 0:
        raise InputError(key, f"shape {list(shape)}", "sizes ≥ 0")
    needed = math.prod(shape) * dtype.itemsize
    if HELD * needed > memory():
        raise InputError(key, f"{dtype} {list(shape)}, {bytes_text(needed)}", f"at most {_limit()}")
    if begin + needed != info.file_size:
        found = f"a damaged archive ({info.file_size} bytes for {dtype} {list(shape)})"
        raise InputError(key, found, f"{begin + needed} bytes")
    return begin, shape, fortran, dtype


def _array(data: bytes, begin: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> NDArray[Any]:
    count = math.prod(shape)
    flat = np.frombuffer(data, dtype, count, begin) if count else np.empty(0, dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


# ------------------------------------------------------------------------------------------------------------------ tables


def _one_of(tables: dict[str, NDArray[np.generic]], first: str, second: str) -> str:
    present = [key for key in (first, second) if key in tables]
    if len(present) != 1:
        found = "both" if present else "neither"
        raise InputError(f"{first}, {second}", found, "exactly one of the two")
    return present[0]


def _needed(tables: dict[str, NDArray[np.generic]], *keys: str) -> None:
    for key in keys:
        if key not in tables:
            raise InputError(key, "no such key", "this key in every stage file of this kind")


def _scalar_int(tables: dict[str, NDArray[np.generic]], key: str, low: int) -> int:
    value = tables[key]
    if value.ndim or not np.issubdtype(value.dtype, np.integer) or int(value) < low:
        found = value.tolist() if value.size < 9 else f"shape {list(value.shape)}"
        raise InputError(key, f"{found} ({value.dtype})", f"one integer, at least {low}")
    return int(value)


def stage_from_tables(tables: dict[str, NDArray[np.generic]]) -> Stage:
    """The stage of a stage file's arrays, every one of them checked first.

    Raises:
      InputError: names the key, what was found and what was expected.
    """
    if "schema" in tables and _scalar_int(tables, "schema", 0) != SCHEMA:
        raise InputError("schema", int(tables["schema"]), f"schema {SCHEMA}")
    form = _one_of(tables, "discount", "horizon")
    horizon = _scalar_int(tables, "horizon", 1) if form == "horizon" else None
    discount = discount_factor("discount", tables["discount"]) if form == "discount" else None
    index = {"successor_index": tables["successor_prob"]} if "successor_prob" in tables else {}
    world = _one_of(index | tables, "transition", "successor_index")  # one of the two arrays of a list stands for both
    protocol = _one_of(tables, "active", "factors")
    _needed(tables, "reward", "initial", "current", "target")

    initial = probability_rows("initial", real_table("initial", tables["initial"]))
    states = shaped("initial", initial, ("S",))["S"]
    reward = finite("reward", real_table("reward", tables["reward"]))
    lead: tuple[int, ...] = () if horizon is None else (horizon,)
    _either(reward, "reward", lead, (states, "A"))
    actions = reward.shape[-1]
    transitions = _transitions(tables, world, lead, states, actions)
    active, factors, agents = _protocol(tables, protocol, lead, states, actions)

    many = "agents" if "agents" in tables or active is None else "active"
    fitting(many, agents, lambda n: report_bytes(states * actions, n), "the report of so many updates")
    if horizon is not None:
        rows = states * actions
        fitting("horizon", horizon, lambda steps: report_bytes(steps * rows, agents), "the report of so many steps")
    arrays = [jax.device_put(x) for x in transitions]
    gamma = None if horizon is not None else jax.device_put(discount)
    kernel = Dense(arrays[0], gamma) if world == "transition" else Successors(arrays[0], arrays[1], gamma)
    start = initial if horizon is None else np.concatenate([initial, np.zeros((horizon - 1) * states)])
    timed = transitions[-1].ndim == 4
    dynamics = kernel if horizon is None else Layered(kernel, horizon, stationary=not timed)

    shape = (states, actions) if factors is None else (agents, states, max(factors))
    current, target = (jax.device_put(_policy(tables, key, lead, shape, factors)) for key in ("current", "target"))
    order = permutation("order", tables["order"], agents) if "order" in tables else np.arange(agents)
    owners = None if active is None else jax.device_put(_flat(active, lead, 1))
    seen = _observation(tables, lead, states, agents, factors)
    label = None if seen is None else jax.device_put(seen)
    team = Team(dynamics, jax.device_put(_flat(reward, lead, 2)), jax.device_put(start), owners, agents, factors, label)
    return Stage(team, current, target, jax.device_put(order))


def _transitions(
    tables: dict[str, NDArray[np.generic]], world: str, lead: tuple[int, ...], states: int, actions: int
) -> tuple[NDArray[Any], ...]:
    """`transition`, or `successor_index` and `successor_prob`."""
    if world == "transition":
        transition = real_table("transition", tables["transition"])
        _either(transition, "transition", lead, (states, actions, states))
        return (probability_rows("transition", transition),)
    _needed(tables, "successor_index", "successor_prob")
    prob = real_table("successor_prob", tables["successor_prob"])
    _either(prob, "successor_prob", lead, (states, actions, "K"))
    probability_rows("successor_prob", prob)
    index = tables["successor_index"]
    if index.shape != prob.shape:
        raise InputError(
            "successor_index", f"shape {list(index.shape)}", f"shape {list(prob.shape)}, that of successor_prob"
        )
    return integers("successor_index", index, 0, states), prob


def _protocol(
    tables: dict[str, NDArray[np.generic]], protocol: str, lead: tuple[int, ...], states: int, actions: int
) -> tuple[NDArray[np.int64] | None, tuple[int, ...] | None, int]:
    """`active` or `factors`, and the number of agents."""
    if protocol == "active":
        raw = np.asarray(tables["active"])
        _either(raw, "active", lead, (states,))
        limit = _scalar_int(tables, "agents", 1) if "agents" in tables else np.iinfo(np.int64).max
        active = integers("active", raw, 0, limit)
        return active, None, int(limit) if "agents" in tables else int(active.max()) + 1
    sizes = integers("factors", tables["factors"], 1, np.iinfo(np.int64).max)
    shaped("factors", sizes, ("n",))
    factors = tuple(sizes.tolist())
    if "agents" in tables and _scalar_int(tables, "agents", 1) != len(factors):
        raise InputError("agents", int(tables["agents"]), f"{len(factors)}, the length of factors")
    if (product := math.prod(factors)) != actions:
        raise InputError(
            "factors", f"{list(factors)} with product {product}", f"a product of {actions}, the actions of reward"
        )
    return None, factors, len(factors)


def _observation(
    tables: dict[str, NDArray[np.generic]],
    lead: tuple[int, ...],
    states: int,
    agents: int,
    factors: tuple[int, ...] | None,
) -> NDArray[np.generic] | None:
    """What is seen at all (time-indexed) states, [S], in a product team [n, S]; `None` where nothing says so."""
    if "observation" not in tables:
        return None
    raw = np.asarray(tables["observation"])
    _either(raw, "observation", lead, (states,) if factors is None else (agents, states))
    seen = integers("observation", raw, 0, math.prod(lead) * states)
    if factors is None:
        return _flat(seen, lead, 1)
    if seen.ndim == 3:
        return np.moveaxis(seen, 0, 1).reshape(agents, -1)
    return np.tile(seen, (1, *lead)) if lead else seen


def _policy(
    tables: dict[str, NDArray[np.generic]],
    key: str,
    lead: tuple[int, ...],
    shape: tuple[int, ...],
    factors: tuple[int, ...] | None,
) -> NDArray[np.generic]:
    """The table of a policy over all (time-indexed) states: [S, A], in a product team [n, S, max A_k]."""
    table = real_table(key, tables[key])
    _either(table, key, lead, shape)
    probability_rows(key, table)
    if factors is None:
        return _flat(table, lead, 2)
    for k, size in enumerate(factors):
        if np.take(table, k, axis=table.ndim - 3)[..., size:].any():
            raise InputError(key, f"probability beyond the {size} actions of agent {k}", "zero padding there")
    if table.ndim == 4:
        return np.moveaxis(table, 0, 1).reshape(len(factors), -1, table.shape[-1])
    return np.tile(table, (1, *lead, 1)) if lead else table


def _flat(array: NDArray[np.generic], lead: tuple[int, ...], axes: int) -> NDArray[np.generic]:
    """Time-indexed states: repeated over the horizon if there is no time axis, then time and state merged."""
    if not lead:
        return array
    if array.ndim == axes:
        array = np.broadcast_to(array, (*lead, *array.shape))
    return array.reshape(-1, *array.shape[2:])


def report_bytes(rows: int, updates: int) -> int:
    """Memory that the report of a stage takes at least: policies of `rows` numbers (`S·A`), one for each hybrid."""
    return 8 * rows * HYBRIDS * (updates + 1)


def _either(array: NDArray[np.generic], name: str, lead: tuple[int, ...], shape: tuple[int | str, ...]) -> None:
    """Check `shape`, also with a leading time axis when there is a horizon."""
    shapes = [shape, (*lead, *shape)] if lead else [shape]
    shaped(name, array, *shapes)


# ------------------------------------------------------------------------------------------------------------------ writing


def stage_tables(stage: Stage) -> dict[str, NDArray[Any]]:
    """The arrays of a stage file, by key: what `stage_from_tables` makes the same stage of.

    A table of an episodic team that is the same at every step has no time axis.

    Raises:
      InputError: a stage that a stage file cannot hold: a batch, a `Tree`, chance nodes, a start later than at the first step,
        or anything that would not be read.
    """
    team, world = stage.team, stage.team.dynamics
    kernel = world.kernel if isinstance(world, Layered) else world
    if not isinstance(kernel, Dense | Successors) or kernel.horizon is not None:
        found = f"{type(world).__name__}{' with a clock' if isinstance(kernel, Dense | Successors) else ''}"
        raise InputError("dynamics", found, "a discounted Dense or Successors world, or a Layered one")
    if np.ndim(team.initial) != 1:
        raise InputError("stage", f"a batch (initial of shape {list(np.shape(team.initial))})", "one stage")
    if team.active is not None and (np.asarray(team.active) < 0).any():
        raise InputError("active", "chance nodes (-1)", "an agent in every state")
    steps = world.horizon if isinstance(world, Layered) else None

    def split(array: Any, axis: int = 0) -> NDArray[Any]:
        """Time-indexed states as a leading time axis, or none where every step is the same."""
        out = np.asarray(array)
        if steps is None:
            return out
        out = np.moveaxis(out.reshape(*out.shape[:axis], steps, -1, *out.shape[axis + 1 :]), axis, 0)
        return out[0] if (out == out[0]).all() else out

    initial = np.asarray(team.initial)
    if steps is not None:
        first, later = np.split(initial, [len(initial) // steps])
        if later.any():
            raise InputError("initial", "a start after the first step", "the law of the first state")
        initial = first
    if isinstance(kernel, Dense):
        transitions = {"transition": np.asarray(kernel.transition)}
    else:
        transitions = {"successor_index": np.asarray(kernel.index), "successor_prob": np.asarray(kernel.prob)}
    axis = 0 if team.factors is None else 1
    tables = {
        "schema": np.asarray(SCHEMA), **transitions, "reward": split(team.reward), "initial": initial,
        **({"discount": np.asarray(kernel.discount)} if steps is None else {"horizon": np.asarray(steps)}),
        **({"active": split(team.active)} if team.factors is None else {"factors": np.asarray(team.factors)}),
        "current": split(stage.current, axis), "target": split(stage.target, axis),
        "agents": np.asarray(team.agents), "order": np.asarray(stage.order),
        **({} if team.observation is None else {"observation": split(team.observation, axis)}),
    }  # fmt: skip
    stage_from_tables(tables)
    return tables


def write_stage(stage: Stage, path: str | Path) -> None:
    """Write a stage as a stage file, whole or not at all (written beside, then renamed).

    At its end, as the comment of the ZIP archive, stands the SHA-256 of all bytes before it.

    Raises:
      InputError: a stage that a stage file cannot hold (`stage_tables`), or a path that cannot be written.

    Example:
      >>> import tempfile
      >>> from teamtr_jax.teams import relay_stage
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_stage(relay_stage(3, 0.2, 0.1, slots=3), f"{folder}/relay.npz")
      ...     read_stage(f"{folder}/relay.npz").team.dynamics.horizon
      6
    """
    output_file("path", path)
    tables = stage_tables(stage)
    with replacing(path) as temporary, temporary.open("w+b") as file:
        np.savez_compressed(file, allow_pickle=False, **tables)  # pyright: ignore[reportArgumentType]
        file.seek(-2, 2)
        file.write(DIGEST.to_bytes(2, "little"))
        size = file.tell()
        file.seek(0)
        digest = _digest(file, size)
        file.seek(size)
        file.write(digest)
