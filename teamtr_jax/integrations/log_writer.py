"""A token log from any training loop, in a folder of parts: NumPy and pyarrow, nothing else (docs/token-log.md)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.files import output_folder, reason, replacing
from teamtr_jax.monitor.log import Columns, Origin, optional_import, token_log, typed
from teamtr_jax.monitor.parts import Part, parts_of
from teamtr_jax.monitor.reading import part_metadata
from teamtr_jax.monitor.writing import write_parquet
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError, whole_number

__all__ = ["LogWriter"]

NEXT, TRAINER = "teamtr_next_prompt", "teamtr_trainer"
"""Keys of a part's metadata: above every prompt id that its writer wrote until then; who wrote it."""
EARLIER = ".before-"
"""What is added to the name of a part that training went back behind."""


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
        self.sampler, self._trainer = sampler, trainer
        self.path = output_folder(str(path), path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(path), reason(error), "a folder that can be written") from error
        self._rows: list[Columns] = []
        self._lock: int | None = _locked(self.path, self.process)
        try:
            parts = parts_of(self.path)
            self._last = self._found = max((part for part in parts if part.process == self.process), default=None)
            newest = {part.process: part for part in parts}  # sorted: the last one of each process
            self._next = max((_next_prompt(self.path / part.name) for part in newest.values()), default=0)
        except BaseException:
            self.close()
            raise
        self._sets = -(-self._next // self.processes)

    @property
    def last(self) -> tuple[int, int] | None:
        """Stage and update of the newest part of this process, `None` in an empty folder."""
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
        serial = np.arange(self._sets, self._sets + prompts)
        self._sets += prompts
        return np.repeat(serial * self.processes + self.process, group), np.tile(np.arange(group), prompts)

    def add(self, rows: Mapping[str, ArrayLike]) -> None:
        """Take rows of one stage and one update, as `token_rows` makes them. Those of a new update flush the one before.

        Raises:
          InputError: what `read_token_log` would refuse; rows of several updates, or of one before the last; other columns than
            the rows of this update have; the writer is closed.
        """
        if self._lock is None:
            raise InputError(str(self.path), "a closed writer", "an open one")
        origin = Origin("rows", "row")
        token_log(rows, origin.name, origin.unit)
        used = {key: column.copy() for key, column in typed(rows, origin).items()}
        at = _one_update(used, origin)
        if self._rows and at != _one_update(self._rows[0], origin):
            self.flush()
        if (self._last and at < self._last[:2]) or (self._found and at <= self._found[:2]):
            raise self._before(at)
        if self._rows and used.keys() != self._rows[0].keys():
            found, expected = (", ".join(x) for x in (used, self._rows[0]))
            raise InputError("rows: columns", found, f"{expected}, as the rows of this update before")
        self._rows.append(used)

    def _before(self, at: tuple[int, int]) -> InputError:
        """Rows of an update that is in the folder already, or before one that is."""
        last = self._last or self._found or at
        expected = f"one after stage {last[0]}, update {last[1]}, which {self.path} has (go_back sets it aside)"
        return InputError("rows", f"stage {at[0]}, update {at[1]}", expected)

    def flush(self) -> Path | None:
        """Write what was added as one part, and wait until the disk has it; `None` where nothing was added.

        Raises:
          InputError: rows that contradict each other: they are dropped; or the place cannot be written: they stay.
        """
        if not self._rows:
            return None
        table = {key: np.concatenate([rows[key] for rows in self._rows]) for key in self._rows[0]}
        if len(self._rows) > 1:
            try:
                token_log(table, "rows")
            except InputError:
                self._rows = []
                raise
        at = (int(table["stage"][0]), int(table["update"][0]))
        serial = 0 if self._last is None or self._last[:2] != at else self._last.serial + 1
        part = Part(*at, self.process, serial)
        following = max(self._next, int(table["prompt"].max()) + 1)
        with replacing(self.path / part.name, durable=True) as temporary:
            write_parquet(temporary, table, self.sampler, {NEXT: str(following), TRAINER: self._trainer})
        self._rows, self._last, self._next = [], part, following
        return self.path / part.name

    def go_back(self, stage: int, update: int) -> list[Path]:
        """Training goes on from a checkpoint: parts of this process at this update and later are of weights that are gone.

        They get another name, with which no reader takes them for parts, and stay. Where they are now.
        """
        moved = []
        gone = [x for x in parts_of(self.path) if x.process == self.process and x[:2] >= (stage, update)]
        for part in reversed(gone):  # the last first: if this is interrupted, a beginning is left
            path = self.path / part.name
            names = (Path(f"{path}{EARLIER}{n}") for n in itertools.count())
            try:
                moved.append(path.rename(next(name for name in names if not name.exists())))
            except OSError as error:
                raise InputError(str(path), reason(error), "a place that can be written") from error
        left = [x for x in parts_of(self.path) if x.process == self.process]
        self._rows, self._last = [], max(left, default=None)
        self._found = self._last
        return moved

    def close(self) -> None:
        """Flush, and let other writers have the folder."""
        try:
            self.flush()
        finally:
            if self._lock is not None:
                os.close(self._lock)
            self._lock = None

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """After an error nothing of an update that was not flushed is written: an update is there whole or not."""
        if kind is not None:
            self._rows = []
        self.close()


def _one_update(used: Columns, origin: Origin) -> tuple[int, int]:
    """The stage and the update of rows that have one."""
    for key in ("stage", "update"):
        if (bad := used[key] != used[key][0]).any():
            row = int(np.argmax(bad))
            raise InputError(
                origin.column(key, row), used[key][row], f"{used[key][0]}, as the rows before: one update at a time"
            )
    return int(used["stage"][0]), int(used["update"][0])


def _next_prompt(path: Path) -> int:
    """Above every prompt id until this part."""
    written = part_metadata(path).get(NEXT.encode(), b"")
    try:
        return whole_number("", int(written), 0)
    except ValueError:
        raise InputError(f"{path}: metadata {NEXT}", repr(written), "a number: LogWriter writes it") from None


def _locked(folder: Path, process: int) -> int:
    """An open file that says that this process number writes here, until it is closed or the process ends, however."""
    path = folder / f".writer-{process:04d}.lock"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(str(path), reason(error), "a place that can be written") from error
    with suppress(ImportError, OSError):  # a system, or a file system, without locks
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            expected = "an own process number for each: process=RANK, processes=WORLD SIZE"
            raise InputError(
                str(folder), f"another writer that is open, with process {process} too", expected
            ) from None
    return handle
