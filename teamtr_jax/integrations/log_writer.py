"""A token log from any training loop, in a folder of parts: NumPy and pyarrow, nothing else (docs/token-log.md)."""

from __future__ import annotations

import gc
import itertools
import json
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.files import output_folder, reason, replacing
from teamtr_jax.monitor.log import AGAIN, MATCH, Columns, Origin, check_values, log_of, optional_import, typed
from teamtr_jax.monitor.parts import SUFFIXES, Part, parts_of
from teamtr_jax.monitor.reading import Head, read_head
from teamtr_jax.monitor.writing import write_parquet
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError, whole_number

__all__ = ["UPDATES", "LogWriter"]

UPDATES = 20
"""Updates of a stage where nobody counts stages: a reader holds one at a time."""

FOLLOWING, TRAINER = "teamtr_following_prompt", "teamtr_trainer"
"""Keys of a part's metadata: above every prompt id that its writer wrote until then; who wrote it."""
ASIDE = ".aside-"
"""What is added to the name of a part that training went back behind, and a number."""
WRITABLE = "a folder that can be written"
_HERE: set[tuple[int, str, int]] = set()
"""Which writers this process has open: its own number, the folder, and the number of the writer."""


class LogWriter:
    """Writes a token log into a folder, one file for each flush, whole or not at all.

    A part has the rows of one stage and one update. It is on the disk when `flush` returns; a process that is killed loses what
    it had not flushed and nothing else. Processes of one run write into one folder and do not talk to each other.

    Args:
      path: the folder; made where it is not there.
      sampler: how the tokens are drawn.
      process: number of this process.
      processes: how many there are.
      trainer: who writes, for whoever looks at the file.

    Raises:
      InputError: a setting; a place that cannot be written; a folder with other things that look like logs, or that another
        writer of the same process number has open.

    Example:
      >>> import tempfile, teamtr_jax.monitor
      >>> folder = tempfile.mkdtemp()
      >>> with LogWriter(folder, sampler=Sampler(temperature=1.0)) as log:
      ...     prompt, rollout = log.ids(prompts=2, group=3)
      ...     zero = np.zeros(6, int)
      ...     rows = dict(prompt=prompt, rollout=rollout, stage=zero, update=zero, agent=zero, turn=zero, t=zero, reward=zero)
      ...     log.add(rows | dict.fromkeys(("logp_behaviour", "logp_current", "logp_new"), np.full(6, -0.5)))
      >>> teamtr_jax.monitor.read_token_log(folder).rows, prompt.tolist(), rollout.tolist()
      (6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    """

    def __init__(
        self, path: Path | str, *, sampler: Sampler, process: int = 0, processes: int = 1, trainer: str = ""
    ) -> None:
        optional_import("pyarrow.parquet")
        if not isinstance(sampler, Sampler):
            raise InputError("sampler", repr(sampler), "a Sampler: how the tokens are drawn")
        self.processes = whole_number("processes", processes, 1)
        self.process = whole_number("process", process, 0, self.processes - 1)
        self.sampler, self.trainer = sampler, str(trainer)
        if Path(path).suffix in SUFFIXES:
            raise InputError(
                str(path), f"suffix {Path(path).suffix!r}", "a folder: LogWriter writes parts, one file each"
            )
        self.path = output_folder(str(path), path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(path), reason(error), WRITABLE) from error
        self._lock, key = _locked(self.path, self.process)
        self._release = weakref.finalize(
            self, _unlock, self._lock, key
        )  # also of a writer that nobody closes and nobody has
        self._release.atexit = False
        self._rows: list[Columns] = []
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        self._serial = -(-self._following // self.processes)

    def _begin(self) -> None:
        """Go on from what the folder has."""
        self._rows = []
        newest = {part.process: part for part in parts_of(self.path)}  # sorted: the last one of each process
        heads = {part: read_head(self.path / part.name) for part in newest.values()}
        self._following = max(map(_following, heads.values()), default=0)
        self._last = max(filter(self._mine, heads), default=None)
        self._earlier, self._stage = self.last, None
        if self._last is not None:
            head = heads[self._last]
            self._stage = _Stage(self._last.stage, head.sampler, frozenset(head.names))

    def _mine(self, part: Part) -> bool:
        """Whether this process looks after a part: its own, and those of processes that there are no more."""
        return part.process % self.processes == self.process

    @property
    def last(self) -> tuple[int, int] | None:
        """Stage and update of the newest part that this process looks after; `None` where there is none.

        These are its own; where the folder is of a run with more processes, those of process, process + processes, … .
        """
        return None if self._last is None else self._last[:2]

    def ids(self, prompts: int, group: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids for new rollouts, those of a prompt one after the other: prompt `serial·processes + process`, rollout 0 … group−1.

        No transcript of this run, of another process, or of what is in the folder has them.

        Args:
          prompts: how many.
          group: rollouts of each.

        Returns:
          `prompt` and `rollout`, [prompts · group] each.
        """
        prompts, group = whole_number("prompts", prompts, 0), whole_number("group", group, 1)
        serial = np.arange(self._serial, self._serial + prompts)
        self._serial += prompts
        return np.repeat(serial * self.processes + self.process, group), np.tile(np.arange(group), prompts)

    def add(self, rows: Mapping[str, ArrayLike]) -> None:
        """Take rows of one stage and one update, as `token_rows` makes them. Those of a new update flush the one before.

        Columns that no log has are left out.

        Raises:
          InputError: what `read_token_log` would refuse; rows of several updates, of one before the last, or of one that was in
            the folder before; other columns or another sampler than the stage has; the writer is closed.
        """
        if not self._release.alive:
            raise InputError(str(self.path), "a closed writer", "an open one")
        origin = Origin("rows", "row")
        used = _checked(rows, origin)
        if not used["stage"].size:
            return
        at = _one_update(used, origin)
        if self._rows and at != (now := _update(self._rows[0])):
            if at < now:
                raise self._refused(at, now)
            self.flush()
        if self._last is not None and (at < self._last[:2] or at == self._earlier):
            raise self._refused(at, self._last[:2])
        names = frozenset(used)
        if self._stage is not None and self._stage.stage == at[0]:
            self._stage.require(self.sampler, names, used)
        self._stage = _Stage(at[0], self.sampler, names)
        self._rows.append({key: _kept(rows[key]) for key in used})

    def _refused(self, at: tuple[int, int], last: tuple[int, int]) -> InputError:
        expected = f"an update after {last[1]} of stage {last[0]}, which {self.path} has (go_back sets it aside)"
        return InputError("rows", f"update {at[1]} of stage {at[0]}", expected)

    def flush(self) -> Path | None:
        """Write what was added as one part, and wait until the disk has it; `None` where nothing was added.

        Raises:
          InputError: rows that contradict each other: they are dropped; or the place cannot be written: they stay.
        """
        if not self._rows:
            return None
        table = _joined(self._rows)
        if len(self._rows) > 1:
            try:
                _checked(table, Origin("rows", "row"))
            except InputError:
                self._rows = []
                raise
        at = _update(table)
        serial = self._last.serial + 1 if self._last is not None and self._last[:2] == at else 0
        part = Part(*at, self.process, serial)
        following = max(self._following, int(table["prompt"].max()) + 1)
        with replacing(self.path / part.name, durable=True) as temporary:
            write_parquet(temporary, table, self.sampler, {FOLLOWING: str(following), TRAINER: self.trainer})
        self._rows, self._last, self._following = [], part, following
        return self.path / part.name

    def go_back(self, stage: int, update: int) -> list[Path]:
        """Training goes on from a checkpoint: what is here of this update and later ones is of weights that are gone.

        Parts that this process looks after (`last`) get other names, so that no reader takes them for parts, and stay. Rows that
        were not flushed are dropped.

        Returns:
          where they are now.
        """
        at = whole_number("stage", stage, 0), whole_number("update", update, 0)
        moved = []
        gone = [part for part in parts_of(self.path) if self._mine(part) and part[:2] >= at]
        for part in reversed(gone):  # the last first: if this is interrupted, a beginning is left
            path = self.path / part.name
            names = (path.with_name(f"{part.name}{ASIDE}{number}") for number in itertools.count())
            try:
                moved.append(path.rename(next(name for name in names if not name.exists())))
            except OSError as error:
                raise InputError(str(path), reason(error), WRITABLE) from error
        following = self._following
        self._begin()
        self._following = max(following, self._following)
        return moved

    def close(self) -> None:
        """Flush, and let other writers have the folder."""
        if not self._release.alive:
            return
        try:
            self.flush()
        finally:
            self._release()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """After an error rows that were not flushed are dropped: what is there of an update is what was said to be of it."""
        if kind is not None:
            self._rows = []
        self.close()


class _Stage(NamedTuple):
    """What all parts of a stage have in common."""

    stage: int
    sampler: Sampler | None
    columns: frozenset[str]

    def require(self, sampler: Sampler, columns: frozenset[str], used: Mapping[str, Any]) -> None:
        """Refuse rows of another kind; a second scoring may be missing."""
        if sampler != self.sampler:
            there = "none" if self.sampler is None else json.dumps(self.sampler.to_json())
            expected = f"{there}, as in the parts of stage {self.stage} before: one sampler for each stage"
            raise InputError("sampler", json.dumps(sampler.to_json()), expected)
        if (columns ^ self.columns) - {AGAIN}:
            found, expected = (", ".join(sorted(x)) for x in (used, self.columns))
            raise InputError("rows: columns", found, f"{expected}, as the rows of stage {self.stage} before")


def _following(head: Head) -> int:
    """Above every prompt id that the writer of this part wrote until then."""
    written = head.about.get(FOLLOWING.encode(), b"")
    try:
        return whole_number("", int(written), 0)
    except ValueError:
        expected = "a number, as LogWriter writes it"
        raise InputError(f"{head.path}: metadata {FOLLOWING}", repr(written), expected) from None


def _checked(rows: Mapping[str, ArrayLike], origin: Origin) -> Columns:
    """The columns of rows that a log may have; all of them may be of rollouts without token."""
    used = typed(rows, origin)
    check_values(used, origin)
    if used["stage"].size:
        log_of(dict(used), origin, MATCH)
    return used


def _update(rows: Columns) -> tuple[int, int]:
    """The stage and the update of rows that have one."""
    return int(rows["stage"][0]), int(rows["update"][0])


def _one_update(used: Columns, origin: Origin) -> tuple[int, int]:
    """The same, refused where they have several."""
    for key in ("stage", "update"):
        if (bad := used[key] != used[key][0]).any():
            row = int(np.argmax(bad))
            raise InputError(
                origin.column(key, row), used[key][row], f"{used[key][0]}, as in row 1: one update at a time"
            )
    return _update(used)


def _kept(column: ArrayLike) -> NDArray[Any]:
    """A copy, for who uses an array again; as wide as it was, but for float16, which not every Parquet has."""
    out = np.array(column)
    return out.astype(np.float32) if out.dtype == np.float16 else out


def _joined(parts: list[Columns]) -> Columns:
    """Rows one after the other; where some were not scored twice, NaN."""
    names = dict.fromkeys(itertools.chain.from_iterable(parts))

    def column(part: Columns, name: str) -> NDArray[Any]:
        return part[name] if name in part else np.full(part["stage"].size, np.nan)

    return {name: np.concatenate([column(part, name) for part in parts]) for name in names}


def _locked(folder: Path, process: int) -> tuple[int, tuple[int, str, int]]:
    """An open file that says that this process number writes here, until it is closed or the process ends, however; its key."""
    key = os.getpid(), str(folder.resolve()), process
    for again in (True, False):
        if (handle := _tried(folder / f".writer-{process:04d}.lock")) is not None:
            _HERE.add(key)
            return handle, key
        if again and key in _HERE:
            gc.collect()  # a trainer that was made anew, in a notebook: the writer of the old one goes with it
    if key in _HERE:
        found = f"another writer with process {process} open in this program"
        raise InputError(str(folder), found, "one: close() the other, or use it for all trainers of this process")
    found = f"another open writer with process {process}"
    raise InputError(str(folder), found, "a number for each: process=RANK, processes=WORLD SIZE")


def _tried(path: Path) -> int | None:
    """The open file, locked; `None` if another has it."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(str(path), reason(error), WRITABLE) from error
    with suppress(ImportError, OSError):  # a system, or a file system, without locks
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
    return handle


def _unlock(handle: int, key: tuple[int, str, int]) -> None:
    """Also for a child that has the file open as well, since it was forked; a child unlocks nothing."""
    if key[0] == os.getpid():
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_UN)
    _HERE.discard(key)
    os.close(handle)
