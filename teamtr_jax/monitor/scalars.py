"""The record of an update as numbers with stable names: for the loggers of trainers, and for thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from teamtr_jax.monitor.columns import Record, agents_text, name, number
from teamtr_jax.monitor.frames import OTHER_NAMES
from teamtr_jax.validation import InputError, real_number

__all__ = ["SCALARS", "Threshold", "scalars", "thresholds", "passed"]

NUMBERS = (
    "prompts", "rollouts", "tokens", "messages", "messages_max", "off_policy", "kl_episode_upper", "shift", "shift_upper",
    "shift_booked", "floor_token", "scored_twice",
)  # fmt: skip
"""As they stand in the record."""
DECISIONS = (
    "outside", "skippable", "resampled", *OTHER_NAMES.values(), "limit_cut", "sampler_cuts",
)  # fmt: skip
"""1 or 0."""
INTERVALS = (
    "reward", "kl_k1", "kl_k3", "kl_episode", "mean_weight", "surrogate", "surrogate_tokens", "improvement", "gap",
    "improvement_next", "drift", "kl_sampler_current", "kl_sampler_new", "sampler_misses", "kl_deployed", "improvement_deployed",
    "floor_k3", "floor_episode", "floor_shift", "kl_k3_corrected",
)  # fmt: skip
"""The value, and with `_low` and `_high` the ends."""
LIMITS = (
    "certificate", "certificate_finite_sample", "certificate_deployed", "certificate_deployed_finite_sample",
)  # fmt: skip
"""With `_lower`: above 0 it is certified."""
KEYS = {"floor_k3": "floor", **{name: key for key, name in OTHER_NAMES.items()}}
"""Of names that are not the record's own."""
WEIGHTS = {"weights_update": "", "weights_behaviour": "behaviour_"}
"""By key, what its names begin with."""
FIELDS = {
    "ess": "ess", "p95": "weight_p95", "p99": "weight_p99", "largest": "weight_largest", "above_ten": "weight_above_ten",
}  # fmt: skip

SCALARS: tuple[str, ...] = (
    *NUMBERS,
    *DECISIONS,
    *(f"{key}{end}" for key in INTERVALS for end in ("", "_low", "_high")),
    *(f"{key}_lower" for key in LIMITS),
    *(f"{short}{field}" for short in WEIGHTS.values() for field in FIELDS.values()),
    "doubts",
    "below_floor",
)
"""Every name there is; `doubts` counts the reasons in `invalid`, and `below_floor` the keys in that."""


def _values(record: Record) -> dict[str, Any]:
    """Every name, `None` where the record has nothing."""

    def of(key: str, field: str) -> Any:
        found = record.get(key)
        return found.get(field) if isinstance(found, Mapping) else None

    out: dict[str, Any] = {key: record.get(KEYS.get(key, key)) for key in (*NUMBERS, *DECISIONS)}
    for key in INTERVALS:
        out |= {
            f"{key}{end}": of(KEYS.get(key, key), field)
            for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    out |= {f"{key}_lower": of(key, "lower") for key in LIMITS}
    out |= {f"{short}{field}": of(key, x) for key, short in WEIGHTS.items() for x, field in FIELDS.items()}
    return out | {"doubts": len(record.get("invalid", ())), "below_floor": len(record.get("below_floor", ()))}


def scalars(record: Record, prefix: str = "teamtr/") -> dict[str, float]:
    """What a logger of a trainer takes, for TensorBoard or Weights & Biases: finite numbers only, by name.

    Args:
      record: of one update, as `monitor` or `Follower` gives it.
      prefix: of every name.

    Example:
      >>> record = {"kl_k1": {"value": 0.02, "low": 0.01, "high": 0.03}, "outside": True, "gap": None, "invalid": []}
      >>> found = scalars(record)
      >>> found["teamtr/kl_k1"], found["teamtr/outside"], found["teamtr/doubts"], "teamtr/gap" in found
      (0.02, 1.0, 0.0, False)
    """
    found = {key: float(value) for key, value in _values(record).items() if value is not None}
    return {f"{prefix}{key}": value for key, value in found.items() if math.isfinite(value)}


class Threshold(NamedTuple):
    """What a number of a record must not pass."""

    key: str  #: of `SCALARS`
    limit: float
    above: bool  #: whether it must not be above the limit; otherwise not below

    def __str__(self) -> str:
        return f"{self.key} {'>' if self.above else '<'} {self.limit:g}"


def thresholds(option: str, given: Sequence[str], above: bool) -> list[Threshold]:
    """Thresholds of a command line, `KEY=VALUE` each.

    Raises:
      InputError: no such key, no such number.

    Example:
      >>> [print(x) for x in thresholds("--fail-above", ["kl_k1=0.05"], True)]
      kl_k1 > 0.05
      [None]
    """
    out = []
    for text in given:
        key, equals, value = text.partition("=")
        key = key.removeprefix("teamtr/")
        if not equals:
            raise InputError(option, repr(text), "KEY=VALUE, as kl_k1=0.05")
        if key not in SCALARS:
            near = [x for x in SCALARS if key and (x.startswith(key) or key in x)] or [*NUMBERS, *INTERVALS]
            raise InputError(option, f"no number {key!r}", f"one of {', '.join(near)}, …")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        out.append(Threshold(key, real_number(f"{option} {key}", limit, expected="a finite number"), above))
    return out


def passed(record: Record, limits: Sequence[Threshold]) -> list[str]:
    """Which thresholds an update passes, in words; a number that is not known passes none, an infinite one does."""
    values = _values(record)
    out = []
    for x in limits:
        value = values[x.key]
        if value is not None and (value > x.limit if x.above else value < x.limit):
            update = f"update {name(record)} of {agents_text(record['agents'])}"
            out.append(f"{update}: {x.key} is {number(float(value))}, {'above' if x.above else 'below'} {x.limit:g}")
    return out
