"""The loop around stages: records, checkpoints, resume. It knows nothing of what a stage is (docs/checkpoints.md)."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from teamtr_jax.checkpoint import (
    as_restored,
    clean,
    describe,
    latest,
    read_manifest,
    restore,
    same_leaves,
    save,
)
from teamtr_jax.files import regular_file
from teamtr_jax.hosts import as_spread, from_first, gathered, is_first, on_first, require_same
from teamtr_jax.records import UPDATE_SCHEMA, dump, update_lines
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError, whole_number

__all__ = ["JOURNAL", "CHECKPOINTS", "LOCK", "train", "read_records"]

JOURNAL = "records.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = "lock"

Record = Mapping[str, Any] | UpdateRecord
"""What is written of an update: by `run_stage`, or any names and values of one's own."""

StageFunction = Callable[[Any, Array, int], tuple[Any, Sequence[Record]]]


def train(
    stage: StageFunction,
    state: Any,
    stages: int,
    key: Array,
    folder: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    *,
    every: int = 1,
) -> tuple[Any, Path | None]:
    """Run ``stage(state, key_k, k) → (state, records)`` for `k = 0 … stages−1`, with ``key_k = fold_in(key, k)``.

    With a `folder`, the records are appended to ``records.jsonl`` and the state is saved after every stage; called again it
    goes on after the last stage that was saved, and the records are the ones that an uninterrupted run writes, bit for bit on
    the same device, time stamps aside. A finished run is returned as it is; more `stages` continue it.
    Processes that `hosts.start_hosts` joined all call this with the same arguments. The first reads and writes the folder, which
    the others need not see; leaves that lie on several devices come back there, whatever number of them wrote the checkpoint.

    Args:
      stage: its records are those of `run_stage`, or mappings (`update_lines` makes some, of a batch of teams or to add to).
      state: arrays, numbers and typed PRNG keys in any structure; a stage gets every leaf as a jax array and returns the same
        structure, shapes and dtypes.
      folder: one run; one process at a time.
      settings: what the run is about, as strict JSON; a folder is continued under the same settings only.
      progress: a bar with the time left, if stderr is a terminal.
      every: save after this many stages only; what was not saved is computed again.

    Returns:
      The state after the last stage, and where the records are.

    Raises:
      InputError: names the setting, file or leaf that differs, also between processes, or is damaged, or a place that is closed.
      ArithmeticError: a record or a state that holds NaN: names stage, key or leaf; the stages before it are saved.
      RuntimeError: on other processes than the first, what the first one raised while it read or wrote.
      KeyboardInterrupt: after a line on stderr that says how much is saved.

    Example:
      >>> from tempfile import TemporaryDirectory
      >>> from teamtr_jax.stage import run_stage
      >>> from teamtr_jax.tabular import exact_backend, team_state
      >>> from teamtr_jax.teams import relay_stage
      >>> from teamtr_jax.trust_region import kl_constrained
      >>> relay = relay_stage(3, 0.1, 0.0, slots=3)
      >>> backend = exact_backend(relay.team, kl_constrained(radius=0.01), audit=False)
      >>> def stage(state, key, k):
      ...     return run_stage(backend, state, order=[0, 1, 2], key=key, stage=k)
      >>> with TemporaryDirectory() as folder:
      ...     _, path = train(stage, team_state(relay.team, relay.current), 4, jax.random.key(0), folder, {"radius": 0.01})
      ...     records = read_records(folder)
      >>> print([round(record["objective_before"], 3) for record in records if record["update"] == 0])
      [0.114, 0.206, 0.316, 0.436]
    """
    whole_number("stages", stages, 0)
    whole_number("every", every, 1)
    state = as_restored(state)
    home = None if folder is None else Path(folder).resolve()
    about = json.loads(dump(settings or {}))
    try:
        with ExitStack() as held:
            if home:
                on_first(lambda: held.enter_context(_locked(home)))
            run, done, state = _opened(home, state, key, about, stages) if home else _Opened(None, 0, state)
            try:
                with _bar(progress and is_first()) as bar:
                    task = bar.add_task("stages", total=stages, completed=done)
                    for k in range(done, stages):
                        state, lines = _after(stage, state, key, k)
                        if home:
                            _keep(run, lines, state, k + 1, (k + 1) % every == 0 or k + 1 == stages)
                        bar.advance(task)
            except BaseException:
                if run:
                    run.cut()
                raise
    except KeyboardInterrupt:
        if home and is_first():
            _tell_interrupted(home, stages)
        raise
    return state, home / JOURNAL if home else None


def _opened(home: Path, state: Any, key: Array, settings: Any, stages: int) -> _Opened:
    """The run in this folder, new or continued, as every process goes on with it."""
    whole = _whole(state, "initial state")
    found = on_first(partial(_open, home, whole, key, settings, stages)) or _Opened(None, 0, whole)
    done, back = from_first((np.int32(found.done), found.state))
    return _Opened(found.run, int(done), as_restored(as_spread(back, state)))


def _whole(state: Any, name: str) -> Any:
    """The state as it is saved."""
    require_same(name, state)
    return gathered(state)


def _keep(run: _Run | None, lines: bytes, state: Any, done: int, save: bool) -> None:
    """Write down a stage; every process waits until it is written."""
    whole = _whole(state, f"state after stage {done - 1}") if save else None

    def write() -> None:
        assert run is not None
        run.append(lines)
        if save:
            run.commit(done, whole)

    on_first(write)


def _after(stage: StageFunction, state: Any, key: Array, k: int) -> tuple[Any, bytes]:
    """The state after stage `k`, and the lines of its records."""
    after, records = stage(state, jax.random.fold_in(key, k), k)
    after = as_restored(after)
    same_leaves(describe(after), describe(state), f"state after stage {k}")
    return after, _lines(records, k)


def _tell_interrupted(home: Path, stages: int) -> None:
    saved = latest(home / CHECKPOINTS) or 0
    text = f"interrupted: {saved} of {stages} stages are saved in {home}; the same call goes on from there"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """The records of all saved stages of a run, finished or not, the digest of the file checked.

    Raises:
      InputError: names the file that is missing or damaged.
    """
    home = Path(folder).resolve()
    kept = read_manifest(home / CHECKPOINTS)["metadata"]["journal"]
    return [json.loads(line) for line in _verified(home / JOURNAL, kept).splitlines()]


class _Run:
    """The files of a run: the journal so far, and what identifies the run in each checkpoint."""

    def __init__(self, home: Path, about: dict[str, Any], journal: bytes):
        self.home, self.about = home, about
        self.size, self.digest = len(journal), hashlib.sha256(journal)

    def append(self, lines: bytes) -> None:
        path = self.home / JOURNAL
        try:
            with open(path, "ab", buffering=0) as file:
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(path, error) from error
        self.size += len(lines)
        self.digest.update(lines)

    def commit(self, done: int, state: Any) -> None:
        journal = {"bytes": self.size, "sha256": self.digest.hexdigest()}
        try:
            save(self.home / CHECKPOINTS, done, state, {**self.about, "journal": journal})
        except ArithmeticError as error:
            raise ArithmeticError(f"state after {done} stages: {error}") from None

    def cut(self) -> None:
        """Take away what a stage that was not saved has written; if that fails, resuming does it."""
        with suppress(OSError, InputError):
            size = read_manifest(self.home / CHECKPOINTS)["metadata"]["journal"]["bytes"]
            if (self.home / JOURNAL).stat().st_size > size:
                os.truncate(self.home / JOURNAL, size)


class _Opened(NamedTuple):
    """A run that goes on."""

    run: _Run | None  #: its files
    done: int  #: stages
    state: Any


def _open(home: Path, state: Any, key: Array, settings: Any, stages: int) -> _Opened:
    """The run in this folder, new or continued."""
    folder, path = home / CHECKPOINTS, home / JOURNAL
    about = {"settings": settings, **_origin(state, key)}
    if latest(folder) is None:
        if path.exists():
            raise InputError(str(path), "records without a checkpoint", "the folder of a run, or a new one")
        run = _Run(home, about, b"")
        run.commit(0, state)
        journal, done = b"", 0
    else:
        manifest = read_manifest(folder)
        kept = manifest["metadata"]
        _same_settings(settings, kept["settings"], home)
        done, state, _ = restore(folder, state)
        for name, value in about.items():
            if name != "settings" and value != kept[name]:
                _refuse_origin(name, value, kept[name], home)
        if done > stages:
            raise InputError("stages", stages, f"at least {done}, which {home} holds")
        if (manifest["jax"], manifest["backend"]) != (jax.__version__, jax.default_backend()):
            text = (
                f"{home} was written by jax {manifest['jax']} on {manifest['backend']}, this is {jax.__version__} on "
            )
            warnings.warn(f"{text}{jax.default_backend()}: the last bits may differ", stacklevel=5)
        journal = _verified(path, kept["journal"]) if kept["journal"]["bytes"] else b""
        run = _Run(home, about, journal)
    try:
        clean(folder)
        with open(path, "ab") as file:
            file.truncate(len(journal))
            os.fsync(file.fileno())
        number = os.open(home, os.O_RDONLY)
        os.fsync(number)
        os.close(number)
    except OSError as error:
        raise _unwritable(path, error) from error
    return _Opened(run, done, state)


def _origin(state: Any, key: Array) -> dict[str, Any]:
    """What a run begins with: key and digests of the initial state."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = jax.random.key_data(key) if typed else key
    named, _ = jax.tree_util.tree_flatten_with_path(state)
    initial = {}
    for path, leaf in named:
        plain = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        initial["tree" + jax.tree_util.keystr(path)] = hashlib.sha256(np.asarray(plain).tobytes()).hexdigest()
    return {
        "jax_enable_x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        "key": {"generator": str(jax.random.key_impl(key)) if typed else "", "words": np.asarray(words).tolist()},
        "initial": initial,
    }


def _refuse_origin(name: str, value: Any, kept: Any, home: Path) -> None:
    if name == "initial":
        leaf = next(leaf for leaf in [*kept, *value] if kept.get(leaf) != value.get(leaf))
        raise InputError(f"initial state: {leaf}", "other numbers", f"those that the run in {home} began with")
    raise InputError(name, value, f"{kept}, as in {home}")


def _same_settings(new: Any, old: Any, home: Path) -> None:
    have, want = dict(_flat(new)), dict(_flat(old))
    names = [name for name in [*want, *(n for n in have if n not in want)] if have.get(name) != want.get(name)]
    if names:
        shown = [", ".join(f"{n} = {x[n]}" if n in x else f"no {n}" for n in names) for x in (have, want)]
        raise InputError("settings", shown[0], f"{shown[1]}, as in {home} (or another folder)")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """``(dotted name, JSON)`` of every entry of nested settings."""
    if isinstance(value, dict) and (value or not name):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)


def _verified(path: Path, kept: Mapping[str, Any]) -> bytes:
    """The part of the journal that a checkpoint vouches for."""
    regular_file(path, "the records of the run")
    try:
        with open(path, "rb") as file:
            data = file.read(kept["bytes"])
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error), "the records of the run") from error
    if len(data) < kept["bytes"]:
        raise InputError(str(path), f"{len(data)} bytes", f"at least {kept['bytes']}, which the checkpoint names")
    if (digest := hashlib.sha256(data).hexdigest()) != kept["sha256"]:
        found = f"damaged records, SHA-256 {digest} of the first {kept['bytes']} bytes"
        raise InputError(str(path), found, kept["sha256"])
    return data


def _lines(records: Sequence[Record], k: int) -> bytes:
    """The records of stage `k` as lines of strict JSON, each with its schema and the time."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    out = []
    for number, record in enumerate(records):
        where = f"stage {k}, record {number}"
        if isinstance(record, UpdateRecord):
            if (batch := np.shape(record.agent)) != ():
                raise InputError(
                    where, f"a batch of {batch[0]} teams", "update_lines(records, labels), a label for each"
                )
            (record,) = update_lines([record])
        if "time" in record:
            raise InputError(where, "a key 'time'", "another name: it is written by the loop")
        try:
            line = dump({"schema": UPDATE_SCHEMA, **_plain(record), "time": now})
        except ArithmeticError as error:
            raise ArithmeticError(f"{where}: {error}") from error
        except TypeError as error:
            raise InputError(where, str(error), "numbers, text, lists and mappings") from error
        out.append(line.encode() + b"\n")
    return b"".join(out)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return np.asarray(value).tolist() if hasattr(value, "dtype") else value


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold the folder for this process; the kernel lets go of it when the process ends, however it ends."""
    import fcntl  # POSIX only, like the durability that is promised here

    try:
        home.mkdir(parents=True, exist_ok=True)
        number = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(number, 99).decode() or "unknown"
            raise InputError(str(home), f"in use by process {owner}", "a folder that no other run writes to") from error
        except OSError as error:
            raise _unwritable(home / LOCK, error) from error
        with suppress(OSError):  # the number is only for the message; a full disk may refuse it
            os.ftruncate(number, 0)
            os.write(number, str(os.getpid()).encode())
        yield
    finally:
        os.close(number)


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(str(path), error.strerror or str(error), "a place that can be written")


def _bar(shown: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))
