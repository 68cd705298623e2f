"""What a token log says about every update."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.monitor.between import Following, Rewards, matrices, next_rewards, rewards_of, shifts
from teamtr_jax.monitor.columns import JudgedUpdate, Record, record_of
from teamtr_jax.monitor.doubts import doubts_of
from teamtr_jax.monitor.floor import floor_of
from teamtr_jax.monitor.frames import frame_of, is_table
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor.limits import limits
from teamtr_jax.monitor.log import TokenLog, token_log
from teamtr_jax.monitor.own import own
from teamtr_jax.monitor.updates import updates_of
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.validation import InputError

__all__ = ["MonitorReport", "Books", "no_books", "booked", "report_of", "monitor"]


class MonitorReport(NamedTuple):
    """One record per update (plain numbers, docs/monitor.md), one matrix per stage that shows one."""

    records: list[Record]
    interactions: list[Interaction]
    settings: Settings
    rows: int

    def frame(self, kind: str = "pandas") -> Any:
        """The records as a data frame, a row for every update; an interval is three columns (docs/frames.md).

        Args:
          kind: pandas or polars.

        Raises:
          InputError: another kind; or it is not installed.
        """
        return frame_of(self.records, kind)


class Books(NamedTuple):
    """What is kept of the stages that were read: of the last update also what the next one's rollouts are compared with."""

    records: list[Record]  #: of every update but the last
    interactions: list[Interaction]
    rows: int
    last: tuple[JudgedUpdate, Rewards] | None
    rng: np.random.Generator  #: as it is before the next update


def no_books(settings: Settings) -> Books:
    """Before the first stage."""
    return Books([], [], 0, None, np.random.default_rng(settings.seed))


@np.errstate(over="ignore", invalid="ignore")
def booked(books: Books, part: TokenLog, settings: Settings) -> Books:
    """With further stages; the books that are given stay as they are, and of `part` nothing but its last rewards is kept.

    Raises:
      InputError: stages that were read already, or a reward outside the declared range.
    """
    if books.last is not None and (stage := int(part.stage[0])) <= books.last[1].stage:
        raise InputError("log", f"stage {stage} after stage {books.last[1].stage}", "parts of whole stages, ascending")
    rng = copy.deepcopy(books.rng)
    judged, rewards = _judged(part, settings, rng)
    known = judged if books.last is None else [books.last[0], *judged]
    earned = rewards if books.last is None else [books.last[1], *rewards]
    records = [
        record_of(x._replace(following=next_rewards(this, following, settings)))
        for x, (this, following) in zip(known, itertools.pairwise(earned), strict=False)
    ]
    matrix = {x.matrix.stage: x.matrix for x in judged if x.matrix is not None}
    return Books(
        [*books.records, *records],
        [*books.interactions, *matrix.values()],
        books.rows + part.rows,
        (known[-1], earned[-1]),
        rng,
    )


def report_of(books: Books, settings: Settings) -> MonitorReport:
    """The report of all that was read.

    Raises:
      InputError: that is nothing.
    """
    if books.last is None:
        raise InputError("log", "no part", "at least one token")
    return MonitorReport([*books.records, record_of(books.last[0])], books.interactions, settings, books.rows)


def monitor(log: Any, settings: Settings | None = None) -> MonitorReport:
    """Everything that the log says about every update.

    Args:
      log: a `TokenLog`, or what `token_log` takes (a mapping, a data frame, an Arrow table, a Hugging Face dataset); or its parts
        one after the other (`read_stages`): a stage is in one part, and stages ascend. The report is the same, number by number;
        of a part nothing is kept but the rewards of its last update.

    Raises:
      InputError: a setting, or a reward outside the declared range.
    """
    settings = Settings() if settings is None else settings
    if isinstance(settings, Settings) and (isinstance(log, Mapping) or is_table(log)):
        log = token_log(log, match=settings.match)
    if isinstance(log, TokenLog):
        log = (log,)
    if not isinstance(log, Iterable) or not isinstance(settings, Settings):
        raise _other(log, settings)
    settings.check()
    books = no_books(settings)
    for part in log:
        if not isinstance(part, TokenLog):
            raise _other(part, settings)
        books = booked(books, part, settings)
        del part  # before the next one is read
    return report_of(books, settings)


def _other(log: Any, settings: Any) -> InputError:
    found = f"{type(log).__name__} and {type(settings).__name__}"
    return InputError("log, settings", found, "a TokenLog (token_log, read_token_log, read_stages) and Settings")


def _told(log: TokenLog) -> tuple[int, ...]:
    """The greatest number in the column `updated`, and none where it is not there."""
    return (-1,) if log.updated is None else (int(log.updated.max()),)


def _judged(log: TokenLog, settings: Settings, rng: np.random.Generator) -> tuple[list[JudgedUpdate], list[Rewards]]:
    """Everything that some stages say about each of their updates, but for what the next update's rollouts say."""
    low, high = settings.reward_range
    if (bad := (log.reward < low) | (log.reward > high)).any():
        raise InputError(
            "column reward",
            float(log.reward[bad][0]),
            f"rewards in [{low:g}, {high:g}]: declare the range (--reward-range)",
        )
    if settings.sharers is not None and (last := max(log.agent.max(), *_told(log))) >= len(settings.sharers):
        raise InputError(
            "--sharers", f"{len(settings.sharers)} agents", f"{last + 1} at least: agent {last} is in the log"
        )
    updates = updates_of(log, settings)
    floors = [floor_of(log, u, settings) for u in updates]
    doubts = [doubts_of(log, u, settings, floor) for u, floor in zip(updates, floors, strict=True)]
    every = zip(updates, floors, strict=True)
    found, values, engine = zip(*(own(log, u, settings, rng, floor) for u, floor in every), strict=True)
    matrix = {x.stage: x for x in matrices(log, updates, doubts, settings)}
    judged = map(
        JudgedUpdate,
        updates,
        doubts,
        found,
        limits(found, values, engine, doubts, settings),
        itertools.repeat(Following()),
        shifts(log, updates, found, doubts, settings),
        [matrix.get(u.stage) for u in updates],
        itertools.repeat(settings),
        itertools.repeat(log.sampler),
    )
    return list(judged), [rewards_of(log, u) for u in updates]
