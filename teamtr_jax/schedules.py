"""U2: orders and resampling schedules, shared by tables and networks.

A schedule is a function ``resample(i, records) -> bool``: whether to collect new rollouts before update `i` (from 0) of the
stage, given the records of the updates since its start. Update 0 always has rollouts of the stage's first team.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError

__all__ = ["Schedule", "fresh", "once", "every"]

Schedule = Callable[[int, Sequence[UpdateRecord]], bool]


def fresh(update: int, records: Sequence[UpdateRecord]) -> bool:
    """Resample before every update (TeamTR: the intermediate occupancy)."""
    del update, records
    return True


def once(update: int, records: Sequence[UpdateRecord]) -> bool:
    """One set of rollouts for the whole stage (stale)."""
    del records
    return update == 0


def every(k: int) -> Schedule:
    """Resample before every k-th update.

    Raises:
      InputError: if `k` is not positive.
    """
    if k < 1:
        raise InputError("k", k, "at least 1")
    return lambda update, records: update % k == 0
