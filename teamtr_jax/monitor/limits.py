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

__all__ = ["RARELY", "DeployedLimits", "Limits", "limits", "label"]

RARELY = 0.1
"""Mean weights are tested at this share of α: an honest log is found above 1 in at most that share of its updates."""


class DeployedLimits(NamedTuple):
    """Limits of level `1 − α` on what the sampler gains with the weights after the update; −∞ where `label` says why."""

    lower: float  #: S9, asymptotic
    finite: float  #: S8
    finite_value: float
    label: str


class Limits(NamedTuple):
    """Limits of level `1 − α`; −∞ where there is none, and `label` says why."""

    rung: str  #: the best of the rungs
    lower: float  #: its limit, asymptotic
    union: int  #: how many rungs it was chosen from
    finite: float  #: S8, no asymptotics
    finite_value: float  #: what it is a limit of, estimated
    label: str
    mean_weight_high: bool
    limit_cut: bool
    deployed: DeployedLimits | None


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


class _Kept(NamedTuple):
    """Two limits, −∞ where they are withheld, and why they are."""

    lower: float  #: asymptotic
    finite: float  #: S8
    heavy: bool  #: the mean weight is above 1
    cut: bool  #: a limit is larger than the improvement can be
    label: str


def _kept(
    limits: tuple[float, float], heavy: bool, weights: str, room: float, settings: Settings, invalid: Sequence[str]
) -> _Kept:
    """The asymptotic limit and that of S8.

    None where one exceeds `room`, the largest improvement that there can be, or where the mean weight lies above 1. An honest log
    does that too, rarely.

    Args:
      weights: what they are of.
    """
    heavy = heavy and not invalid
    cut = not invalid and max(limits) > room
    withheld = [f"the mean weight {weights} lies above 1"] if heavy else []
    withheld += ["a limit exceeds high − mean reward"] if cut else []
    lower, finite = (-np.inf, -np.inf) if withheld or invalid else limits
    return _Kept(lower, finite, heavy, cut, label(settings, withheld or invalid))


def limits(
    found: Sequence[Own],
    values: Sequence[Floats],
    engine: Sequence[Floats | None],
    doubts: Sequence[Doubts],
    settings: Settings,
) -> list[Limits]:
    """The limits of every update; none of an update in doubt.

    Args:
      values: of the S8 limit; `engine`: of that as deployed, where it is known.
    """
    low, high = settings.reward_range
    width = high - low
    out = []
    for own, s8, s8_deployed, doubt in zip(
        found, _betting(values, settings), _betting(engine, settings), doubts, strict=True
    ):
        assert s8 is not None
        best = own.rungs[int(np.argmax([x.lower for x in own.rungs]))]
        room = high - own.rollouts.reward.value
        weights = "new/current" if own.fresh else "of new and current over behaviour"
        kept = _kept((best.lower, s8[0] * width), s8[1], weights, room, settings, doubt.invalid)
        deployed = None
        if own.deployed is not None and s8_deployed is not None:
            pair = own.deployed.lower, s8_deployed[0] * width
            its = _kept(pair, s8_deployed[1], "deployed/behaviour", room, settings, doubt.invalid)
            deployed = DeployedLimits(its.lower, its.finite, s8_deployed[2] * width, its.label)
        out.append(
            Limits(
                rung=f"{best.id}, {best.name}",
                lower=kept.lower,
                union=len(own.rungs),
                finite=kept.finite,
                finite_value=s8[2] * width,
                label=kept.label,
                mean_weight_high=kept.heavy,
                limit_cut=kept.cut,
                deployed=deployed,
            )
        )
    return out
