"""A report that goes on while its log is written: only the stage that is not finished is in memory, and read again."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from teamtr_jax.monitor.columns import Record
from teamtr_jax.monitor.growing import Growing, Place, growing, until
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.report import Books, MonitorReport, booked, no_books, report_of
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.validation import InputError, real_number

__all__ = ["Followed", "Follower", "follow"]

EVERY, SETTLE = 2.0, 30.0
"""Seconds between two looks, and without a new row after which the last update counts as whole."""
SHARE = 4.0
"""After a look nothing is looked at for so many times as long as it took: a report that takes long is made rarely."""

Told = Callable[[Record], object]
"""Is given the record of an update once it is whole; a true answer says that this was enough."""


class Follower:
    """Reads what is new of a log, and reports on all of it.

    Args:
      path: JSON lines, or a folder of parts (`LogWriter`).
      settings: what the reader declares.
      on_record: is given the record of each update once the next one has begun: as it is then, the last record of the report of
        the log until there. Later rows of the stage can change `shift_upper` (a level over more updates), `interaction` and
        `improvement_next`. Where rows of the update itself are others later, it is told again: some came late, or training
        went back and made it anew. Where it answers true, nothing is read any more.

    Raises:
      InputError: see `growing`; or a setting.
    """

    def __init__(self, path: Path | str, settings: Settings | None = None, on_record: Told | None = None):
        self.settings = Settings() if settings is None else settings
        self.settings.check()
        self.enough: Record | None = None  # with which `on_record` had enough
        self._on_record = on_record
        self._source: Growing = growing(path, self.settings.match)
        self._books: Books = no_books(self.settings)
        self._current: list[TokenLog] = []
        self._told: dict[
            Place, int
        ] = {}  # of the updates of stages that are not finished, a digest of the rows that were told

    @property
    def held(self) -> int:
        """Rows in memory between two looks: those of the stages that are not finished."""
        return max(self._source.held, sum(log.rows for log in self._current))

    @property
    def waiting(self) -> bool:
        """Whether updates are there that were not told yet."""
        return self._on_record is not None and any(
            self._told.get(place) != rows for log in self._current for place, rows in _digests(log).items()
        )

    def look(self) -> bool:
        """Read what is new; whether there was something.

        Raises:
          InputError: what is new is no token log.
        """
        if self.enough is not None or not self._source.grown():
            return False
        self._current = []
        for log in self._source.finished():
            self._tell(self._books, log, None)
            self._books = booked(self._books, log, self.settings)
            self._told = {place: rows for place, rows in self._told.items() if place[0] > log.stage[0]}
            del log  # before the next one is read
            if self.enough is not None:
                return True
        self._current = self._source.current()
        self._tell_current(self._source.frontier)
        return True

    def settle(self) -> None:
        """Take the last update as whole."""
        self._tell_current(None)

    def end(self) -> MonitorReport | None:
        """The report of the log as it is now, taken as whole; of the log until there, where `on_record` had enough."""
        self._source.end()
        self.look()
        self.settle()
        return self.report()

    def report(self) -> MonitorReport | None:
        """Of everything that was read; `None` before the first row."""
        books = self._books
        for log in self._current:
            books = booked(books, log, self.settings)
        return None if books.last is None else report_of(books, self.settings)

    def _tell_current(self, frontier: Place | None) -> None:
        books = self._books
        for log in self._current:
            self._tell(books, log, frontier)
            if log is not self._current[-1]:
                books = booked(books, log, self.settings)

    def _tell(self, books: Books, log: TokenLog, frontier: Place | None) -> None:
        """The updates of one stage that lie before the frontier, each as the log was when it was the last one."""
        if self._on_record is None:
            return
        for place, rows in _digests(log).items():
            if self.enough is None and self._told.get(place) != rows and (frontier is None or place < frontier):
                part = until(log, place[1], self.settings.match)
                record = report_of(booked(books, part, self.settings), self.settings).records[-1]
                self._told[place] = rows
                if self._on_record(record):
                    self.enough = record


def _digests(log: TokenLog) -> dict[Place, int]:
    """By update of a log of one stage, in order, another number where its rows are others."""
    begins = np.r_[0, np.flatnonzero(np.diff(log.update)) + 1, log.update.size].tolist()
    columns, stage = log.columns().values(), int(log.stage[0])
    return {
        (stage, int(log.update[a])): functools.reduce(lambda crc, x: zlib.crc32(x[a:b].data, crc), columns, 0)
        for a, b in itertools.pairwise(begins)
    }


def _wait_for(path: Path, every: float, idle: float, stop: threading.Event) -> None:
    """Until the log is there, as where somebody follows before the trainer begins; `idle` seconds at most."""
    begun = time.monotonic()
    while not os.path.exists(path) and not stop.is_set() and (quiet := time.monotonic() - begun) < idle:
        stop.wait(min(every, idle - quiet))


class Followed(NamedTuple):
    """How following ended."""

    report: MonitorReport
    because: str  #: idle, stopped, or enough: `on_record` said so
    record: Record | None  #: of the update at which it did


def follow(
    path: Path | str,
    settings: Settings | None = None,
    *,
    every: float = EVERY,
    until_idle: float | None = None,
    settle: float = SETTLE,
    on_report: Callable[[MonitorReport], object] | None = None,
    on_record: Told | None = None,
    stop: threading.Event | None = None,
) -> Followed:
    """Report on a log while it is written, until nothing came for a while or somebody says stop.

    Args:
      path: JSON lines, or a folder of parts (`LogWriter`). Where nothing is there yet it is waited for.
      settings: what the reader declares.
      every: seconds between two looks, at least.
      until_idle: ends after so many seconds without a new row.
      settle: the last update counts as whole after so many seconds without a new row; any other once a later one has begun.
      on_report: is given the report whenever there is something new, updates that are not whole included.
      on_record: is given the record of each update once it is whole (`Follower`); a true answer ends.
      stop: ends once it is set.

    Raises:
      InputError: a setting; no log; what is new is no token log; or it ended before the first row.
    """
    real_number("--refresh", every, above=0.0)
    real_number("--settle", settle, 0.0)
    idle = math.inf if until_idle is None else real_number("--until-idle", until_idle, 0.0)
    stop = threading.Event() if stop is None else stop
    _wait_for(Path(path), every, idle, stop)
    follower = Follower(path, settings, on_record)
    because, changed = "stopped", time.monotonic()
    while not stop.is_set():
        begun = time.monotonic()
        if follower.look():
            changed = time.monotonic()
            if on_report is not None and (report := follower.report()) is not None:
                on_report(report)
        quiet = time.monotonic() - changed
        if quiet >= settle and follower.waiting:
            follower.settle()
        if follower.enough is not None or quiet >= idle:
            because = "idle" if follower.enough is None else "enough"
            break
        spent = time.monotonic() - begun
        stop.wait(max(min(every, max(idle - quiet, 0.01)), SHARE * spent))
    if (report := follower.end()) is None:
        raise InputError(str(path), "nothing until now", "at least one token")
    return Followed(report, because if follower.enough is None else "enough", follower.enough)
