"""What a token log says about every update."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from teamtr_jax.monitor.between import matrices, next_rewards, shifts
from teamtr_jax.monitor.columns import Judged, Record, record_of
from teamtr_jax.monitor.doubts import doubts_of
from teamtr_jax.monitor.interaction import Interaction
from teamtr_jax.monitor.limits import limits
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.own import own
from teamtr_jax.monitor.updates import Settings, updates_of
from teamtr_jax.validation import InputError

__all__ = ["MonitorReport", "monitor"]


class MonitorReport(NamedTuple):
    """One record per update (plain numbers, docs/monitor.md), one matrix per stage that shows one."""

    records: list[Record]
    interactions: list[Interaction]
    settings: Settings
    rows: int


@np.errstate(over="ignore", invalid="ignore")
def monitor(log: TokenLog, settings: Settings | None = None) -> MonitorReport:
    """Everything that the log says about every update.

    Raises:
      InputError: a setting, or a reward outside the declared range.
    """
    settings = Settings() if settings is None else settings
    if not isinstance(log, TokenLog) or not isinstance(settings, Settings):
        found = f"{type(log).__name__} and {type(settings).__name__}"
        raise InputError("log, settings", found, "a TokenLog (token_log, read_token_log) and Settings")
    settings.check()
    low, high = settings.reward_range
    if (bad := (log.reward < low) | (log.reward > high)).any():
        raise InputError(
            "column reward",
            float(log.reward[bad][0]),
            f"rewards in [{low:g}, {high:g}]: declare the range (--reward-range)",
        )
    rng = np.random.default_rng(settings.seed)
    updates = updates_of(log, settings)
    doubts = [doubts_of(log, u, settings) for u in updates]
    found, values = zip(*(own(log, u, settings, rng) for u in updates), strict=True)
    interactions = matrices(log, updates, doubts, settings)
    matrix = {x.stage: x for x in interactions}
    judged = map(
        Judged,
        updates,
        doubts,
        found,
        limits(found, values, doubts, settings),
        next_rewards(log, updates, settings),
        shifts(log, updates, found, doubts, settings),
        [matrix.get(u.stage) for u in updates],
        itertools.repeat(settings),
    )
    records = [record_of(x) for x in judged]
    return MonitorReport(records, interactions, settings, log.rows)
