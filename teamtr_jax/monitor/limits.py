"""Lower limits on the improvement of an update, and where they are withheld."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from teamtr_jax.finite_sample import Sample, betting_bound
from teamtr_jax.monitor.doubts import Doubts
from teamtr_jax.monitor.estimates import Floats
from teamtr_jax.monitor.own import Own
from teamtr_jax.monitor_settings import Settings

__all__ = ["RARELY", "Limits", "limits", "label"]

RARELY = 0.1
"""Mean weights are tested at this share of α: an honest log is found above 1 in at most that share of its updates."""


class Limits(NamedTuple):
    """Limits of level `1 − α`; −∞ where there is none, and `label` says why."""

    rung: str  #: the best of the rungs
    lower: float  #: its limit, asymptotic
    union: int  #: how many rungs it was chosen from
    finite: float | None  #: S8, no asymptotics; fresh rollouts only
    finite_value: float | None  #: what it is a limit of, estimated
    label: str
    mean_weight_high: bool
    limit_cut: bool


def label(settings: Settings, invalid: Sequence[str]) -> str:
    """What a limit is worth: under `--held-out` what it says, otherwise no guarantee, and nothing where it is `invalid`."""
    return f"none: {invalid[0]}" if invalid else "held-out" if settings.held_out else "in-sample: not a guarantee"


def _betting(values: Sequence[Floats | None], settings: Settings) -> list[tuple[float, bool, float] | None]:
    """By update: the S8 limit in units of the range, whether the mean weight is above 1, the mean."""
    out: list[tuple[float, bool, float] | None] = [None] * len(values)
    by_size: dict[int, list[tuple[int, Floats]]] = {}
    for i, z in enumerate(values):
        if z is not None:
            by_size.setdefault(z.shape[1], []).append((i, z))
    for size, members in by_size.items():
        z = np.stack([x for _, x in members])
        levels = (settings.alpha, settings.alpha * RARELY)
        lower, weight = (
            betting_bound(Sample(z[:, j], -1.0, np.inf), level) if size > 1 else np.full(len(members), -1.0)
            for j, level in enumerate(levels)
        )
        for (i, _), limit, above, value in zip(members, lower, weight, z[:, 0].mean(-1), strict=True):
            out[i] = max(float(limit), -1.0), bool(above > 0), float(value)
    return out


def limits(
    found: Sequence[Own], values: Sequence[Floats | None], doubts: Sequence[Doubts], settings: Settings
) -> list[Limits]:
    """The limits of every update.

    None of an update in doubt; none where one exceeds `high − mean reward`, the largest improvement that there can be, or where
    the mean weight lies above 1. An honest log does that too, rarely.
    """
    low, high = settings.reward_range
    out = []
    for own, s8, doubt in zip(found, _betting(values, settings), doubts, strict=True):
        invalid = doubt.invalid
        best = own.rungs[int(np.argmax([x.lower for x in own.rungs]))]
        lower = -np.inf if invalid else best.lower
        finite = None if s8 is None else -np.inf if invalid else s8[0] * (high - low)
        heavy = s8 is not None and not invalid and s8[1]
        cut = any(x is not None and x > high - own.rollouts.reward.value for x in (lower, finite))
        withheld = [
            text
            for text, true in (
                ("the mean weight new/current lies above 1", heavy),
                ("a limit exceeds high − mean reward", cut),
            )
            if true
        ]
        if withheld:
            lower, finite = -np.inf, None if finite is None else -np.inf
        out.append(
            Limits(
                rung=f"{best.id}, {best.name}",
                lower=lower,
                union=len(own.rungs),
                finite=finite,
                finite_value=None if s8 is None else s8[2] * (high - low),
                label=label(settings, withheld or invalid),
                mean_weight_high=heavy,
                limit_cut=cut,
            )
        )
    return out
