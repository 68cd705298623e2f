"""Lower limits on the improvement of an update, and where they are withheld."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from teamtr_jax.finite_sample import Sample, betting_bound
from teamtr_jax.intervals import upper_limit
from teamtr_jax.monitor.doubts import Doubts
from teamtr_jax.monitor.estimates import Floats
from teamtr_jax.monitor.floor import LogFloor
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
    finite_label: str  #: of S8


class Limits(NamedTuple):
    """Limits of level `1 − α`; −∞ where there is none, and `label` says why."""

    rung: str  #: the best of the rungs
    lower: float  #: its limit, asymptotic
    union: int  #: how many rungs it was chosen from
    finite: float  #: S8, no asymptotics
    finite_value: float  #: what it is a limit of, estimated
    label: str
    finite_label: str  #: of S8
    mean_weight_high: bool
    limit_cut: bool
    deployed: DeployedLimits | None


def label(settings: Settings, invalid: Sequence[str]) -> str:
    """What a limit is worth: under `--held-out` what it says, otherwise no guarantee, and nothing where it is `invalid`."""
    return f"none: {invalid[0]}" if invalid else "held-out" if settings.held_out else "in-sample: not a guarantee"


class _Bet(NamedTuple):
    """In units of the range."""

    limit: float  #: S8
    above: bool  #: the mean weight is above 1
    value: float


def _betting(
    values: Sequence[Floats | None], floors: Sequence[LogFloor | None], settings: Settings
) -> list[_Bet | None]:
    """By update, the S8 limit and whether the mean weight is above 1.

    Of a visible floor both pay by how much noise raises weights, at half of the level each.
    """
    out: list[_Bet | None] = [None] * len(values)
    by_kind: dict[tuple[int, bool], list[tuple[int, Floats, LogFloor | None]]] = {}
    for i, (z, floor) in enumerate(zip(values, floors, strict=True)):
        if z is not None:
            noisy = floor is not None and floor.visible
            by_kind.setdefault((z.shape[1], noisy), []).append((i, z, floor))
    for (size, noisy), members in by_kind.items():
        z = np.stack([x for _, x, _ in members])
        levels = [x / (2 if noisy else 1) for x in (settings.alpha, settings.alpha * RARELY)]
        lower, weight = (
            betting_bound(Sample(z[:, j], -1.0, np.inf), level) if size > 1 else np.full(len(members), -1.0)
            for j, level in enumerate(levels)
        )
        for (i, _, floor), limit, above, value in zip(members, lower, weight, z[:, 0].mean(-1), strict=True):
            raised = [upper_limit(floor.path, level) if noisy and floor else 0.0 for level in levels]
            out[i] = _Bet(max(float(limit) - raised[0], -1.0), bool(above > raised[1]), float(value))
    return out


class _Kept(NamedTuple):
    """Two limits, −∞ where they are withheld, and why they are."""

    lower: float  #: asymptotic
    finite: float  #: S8
    heavy: bool  #: the mean weight is above 1
    cut: bool  #: a limit is larger than the improvement can be
    label: str
    finite_label: str


def _kept(
    limits: tuple[float, float],
    heavy: tuple[bool, str],
    room: float,
    settings: Settings,
    invalid: Sequence[str],
    noise: str,
) -> _Kept:
    """The asymptotic limit and that of S8.

    None where one exceeds `room`, the largest improvement that there can be, or where the mean weight lies above 1. An honest log
    does that too, rarely.

    Args:
      heavy: whether it does, and what these weights are of.
      noise: why S8 has no limit; empty where it has.
    """
    above, weights = heavy[0] and not invalid, heavy[1]
    if noise:
        limits = limits[0], -np.inf
    cut = not invalid and max(limits) > room
    withheld = [f"the mean weight {weights} lies above 1"] if above else []
    withheld += ["a limit exceeds high − mean reward"] if cut else []
    withheld = withheld or [*invalid]
    lower, finite = (-np.inf, -np.inf) if withheld else limits
    return _Kept(
        lower, finite, above, cut, label(settings, withheld), label(settings, withheld or [noise] * bool(noise))
    )


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
    floors = [own.floor for own in found]
    bets, deployed_bets = _betting(values, floors, settings), _betting(engine, [None] * len(found), settings)
    for own, s8, s8_deployed, doubt in zip(found, bets, deployed_bets, doubts, strict=True):
        assert s8 is not None
        best = own.rungs[int(np.argmax([x.lower for x in own.rungs]))]
        room = high - own.rollouts.reward.value
        weights = "new/current" if own.fresh else "of new and current over behaviour"
        unknown = own.noise if own.floor is None else ""
        kept = _kept((best.lower, s8.limit * width), (s8.above, weights), room, settings, doubt.invalid, unknown)
        deployed = None
        if own.deployed is not None and s8_deployed is not None:
            pair, heavy = (own.deployed.lower, s8_deployed.limit * width), (s8_deployed.above, "deployed/behaviour")
            unknown = own.noise and "the engine's noise is not known"
            its = _kept(pair, heavy, room, settings, doubt.invalid, unknown)
            deployed = DeployedLimits(its.lower, its.finite, s8_deployed.value * width, its.label, its.finite_label)
        out.append(
            Limits(
                rung=f"{best.id}, {best.name}",
                lower=kept.lower,
                union=len(own.rungs),
                finite=kept.finite,
                finite_value=s8.value * width,
                label=kept.label,
                finite_label=kept.finite_label,
                mean_weight_high=kept.heavy,
                limit_cut=kept.cut,
                deployed=deployed,
            )
        )
    return out
