"""The inequalities of every stage claim in rationals and balls, one function per claim id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flint import arb, fmpq
from numpy.typing import NDArray

from teamtr_jax.exact.cube import cube_checks
from teamtr_jax.exact.mismatch import three_policies
from teamtr_jax.exact.numbers import ZERO, Number, Pair, before, comparable, precisely, root, times, total, verdict
from teamtr_jax.exact.rungs import RUNGS, first_order, least, pairs, paper, path_shift, reused_log_sum, stage_chi_square
from teamtr_jax.exact.solved import Solved
from teamtr_jax.exact.stage import exact_stage
from teamtr_jax.types import Stage
from teamtr_jax.validation import one_of

__all__ = ["CHECKS", "EXACT_STATES", "EXACT_WORK", "Pairs", "decide", "exact_checks", "exact_pairs"]

Pairs = dict[tuple[str, str], list[Pair]]
"""Measured and bound at every instance, by claim and check."""
"""Of one check, by its name and what it is about: measured and bound, in order."""

EXACT_STATES = 24
"""Largest team (states) on which what floats leave open is decided exactly."""

EXACT_WORK = 500_000
"""Largest `S·A·n` (joint actions in a product team) on which it is: about a minute."""


def _t0(x: Solved) -> dict[str, list[Pair]]:
    apart = [gain - right for gain, right in zip(x.gain, x.gain_by_visits, strict=True)]
    return {"update": [(abs(d), ZERO) for d in apart], "stage": [(abs(sum(apart, ZERO)), ZERO)]}


def _t1(x: Solved) -> dict[str, list[Pair]]:
    out: list[Pair] = []
    for i in range(x.agents):
        if x.horizon is None:
            out.append((2 * x.occupancy_tv_fresh[i], 2 * x.gamma / (1 - x.gamma) * x.tv[i]))
        else:
            out.extend(zip(x.layer_shift[i], before(x.layer_tv[i]), strict=True))
    return {"": out}


def _t2(x: Solved) -> dict[str, list[Pair]]:
    out: list[Pair] = []
    for i in range(x.agents):
        if x.horizon is None:
            bound = times(arb(2).sqrt(), x.gamma / (1 - x.gamma), root(x.kl[i]))
            out.append((2 * x.occupancy_tv_fresh[i], bound))
        else:
            roots = [root(times(fmpq(1, 2), kl)) for kl in x.layer_kl[i]]
            out.extend(zip(x.layer_shift[i], before(roots), strict=True))
    return {"": out}


def _p3_1(x: Solved) -> dict[str, list[Pair]]:
    first, last = x.stage.policies[0], x.stage.policies[-1]
    return {
        "TV": [
            (sum((abs(q - p) for p, q in zip(*rows, strict=True)), ZERO) / 2, sum((tv[s] for tv in x.state_tv), ZERO))
            for s, rows in enumerate(zip(first, last, strict=True))
        ]
    }


def _p3_3(x: Solved) -> dict[str, list[Pair]]:
    return {"": [(abs(a - b), paper(x, i, range(i))) for i, (a, b) in enumerate(zip(x.seq, x.stale, strict=True))]}


def _p3_4(x: Solved) -> dict[str, list[Pair]]:
    return {"": pairs(x, "penalty_paper")}


def _p3_6(x: Solved) -> dict[str, list[Pair]]:
    return {"": [(abs(sum(x.gap_fresh, ZERO)), total(bound for _, bound in pairs(x, "penalty_paper")))]}


def _p3_7(x: Solved) -> dict[str, list[Pair]]:
    update = pairs(x, "penalty_stale_paper")
    out = {
        "update": update,
        "stage": [(abs(sum(x.gap_stale, ZERO)), total(bound for _, bound in update))],
    }
    if x.horizon is None:
        seen = [first_order(x, x.advantage_max[i], x.kl_stale[: i + 1], []) for i in range(x.agents)]
        out["update, δ⁰"] = [(abs(gap), bound) for gap, bound in zip(x.gap_stale, seen, strict=True)]
    return out


def _p3_8(x: Solved) -> dict[str, list[Pair]]:
    """Each agent swapped alone into `π̂⁰`: its KL is that under the current team."""

    def penalty(i: int) -> Number:
        layers = [] if x.horizon is None else [x.layer_kl_stale[i]]
        return first_order(x, x.advantage_max[0], [x.kl_stale[i]], layers)

    return {"": [(abs(gap), penalty(i)) for i, gap in enumerate(x.gap_alone)]}


def _p3_9(x: Solved) -> dict[str, list[Pair]]:
    return {"": [(half, times(fmpq(1, 2), kl)) for half, kl in zip(x.kl_half, x.kl_stale, strict=True)]}


def _s0(x: Solved) -> dict[str, list[Pair]]:
    return {"fresh": pairs(x, "penalty_trivial"), "stale": pairs(x, "penalty_stale_trivial")}


def _s1(x: Solved) -> dict[str, list[Pair]]:
    out = {"fresh": pairs(x, "penalty_share"), "stale": pairs(x, "penalty_stale_share")}
    if x.horizon is None:
        c = times(arb(2).sqrt(), x.gamma / (1 - x.gamma))
        out["shift"] = [
            (2 * tv, times(c, root(times(w, kl))))
            for tv, w, kl in zip(x.occupancy_tv_fresh, x.share, x.kl, strict=True)
        ]
    return out


def _s2(x: Solved) -> dict[str, list[Pair]]:
    if x.horizon is None:
        shift = [(tv, path_shift(x, kl)) for tv, kl in zip(x.occupancy_tv_fresh, x.kl, strict=True)]
    else:
        shift = [
            (tv, root(times(fmpq(1, 2), kl)))
            for i in range(x.agents)
            for tv, kl in zip(x.layer_shift[i], before(x.layer_kl[i]), strict=True)
        ]
    return {"shift": shift, "gap": pairs(x, "penalty_path")}


def _s3(x: Solved) -> dict[str, list[Pair]]:
    out = {"gap": pairs(x, "penalty_stale_path")}
    if x.horizon is None:
        out["shift"] = [
            (tv, path_shift(x, kl)) for tv, kl in zip(x.occupancy_tv_stale, before(x.kl_stale), strict=True)
        ]
    return out


def _s4(x: Solved) -> dict[str, list[Pair]]:
    return {
        "S4": pairs(x, "penalty_second_order"),
        "S4R": pairs(x, "penalty_later_turns"),
        "S4 stale": pairs(x, "penalty_stale_second_order"),
    }


def _s5(x: Solved) -> dict[str, list[Pair]]:
    if x.horizon is not None:
        return {}
    gamma, two = x.gamma, arb(2).sqrt()
    golden = arb(gamma) >= (arb(5).sqrt() - 1) / 2  # irrational: never equal

    def less(seq: fmpq, penalty: Number) -> Number:
        return arb("-inf") if penalty is None else seq - penalty

    surrogate, first, path = [], [], []
    for i, seq in enumerate(x.seq):
        kl = root(x.kl[i])
        surrogate.append((abs(seq), times(two, x.advantage_max[i] / (1 - gamma), kl)))
        first.append((less(seq, paper(x, i, [i])), ZERO if gamma >= fmpq(1, 2) else None))
        factor = times(two, gamma * x.advantage_max[i] / (1 - gamma), 1 / root(1 - gamma))
        path.append((less(seq, times(factor, kl)), ZERO if golden else None))
    return {"surrogate": surrogate, "P3.4": first, "S2": path}


def _s6(x: Solved) -> dict[str, list[Pair]]:
    return {"fresh": least(x, "fresh"), "stale": least(x, "stale")}


def _s7(x: Solved) -> dict[str, list[Pair]]:
    return {"": pairs(x, "penalty_log_sum")}


def _s7b(x: Solved) -> dict[str, list[Pair]]:
    return {
        "fresh": pairs(x, "penalty_log_sum_advantage"),
        "stale": pairs(x, "penalty_stale_log_sum"),
        "stale, ϱ": pairs(x, "penalty_stale_return_range"),
    }


def _s7c(x: Solved) -> dict[str, list[Pair]]:
    whole = reused_log_sum(x, x.agents - 1)
    return {
        "cached": pairs(x, "penalty_cached_log_sum"),
        "reused": pairs(x, "penalty_reused_log_sum"),
        "stage, cached": [(abs(sum(x.gap_cached, ZERO)), whole)],
        "stage, reused": [(abs(sum(x.gap_reused, ZERO)), whole)],
    }


def _s9(x: Solved) -> dict[str, list[Pair]]:
    return {
        "floor": [(-gap, bound) for gap, bound in zip(x.gap_fresh, x.weighted_floor, strict=True)],
        "ceiling": list(zip(x.gap_fresh, x.weighted_ceiling, strict=True)),
        "update": pairs(x, "penalty_weighted"),
        "stage": [(-sum(x.gap_reused, ZERO), total(x.weighted_reused))],
    }


def _s10(x: Solved) -> dict[str, list[Pair]]:
    if x.horizon is None:
        return {}
    return {
        "fresh": pairs(x, "penalty_chi_square"),
        "cached": pairs(x, "penalty_cached_chi_square"),
        "reused": pairs(x, "penalty_reused_chi_square"),
        "stage, cached": [(abs(sum(x.gap_cached, ZERO)), stage_chi_square(x, x.path_chi_square_cached))],
        "stage, reused": [(abs(sum(x.gap_reused, ZERO)), stage_chi_square(x, x.path_chi_square_reused))],
    }


def _e1(x: Solved) -> dict[str, list[Pair]]:
    return {} if x.horizon is None else {"": pairs(x, "penalty_layers")}


CHECKS: dict[str, Callable[[Solved], dict[str, list[Pair]]]] = {
    "T0": _t0, "T1": _t1, "T2": _t2, "P3.1": _p3_1, "P3.3": _p3_3, "P3.4": _p3_4, "P3.6": _p3_6, "P3.7": _p3_7,
    "P3.8": _p3_8, "P3.9": _p3_9, "S0": _s0, "S1": _s1, "S2": _s2, "S3": _s3, "S4": _s4, "S5": _s5, "S6": _s6, "S7": _s7,
    "S7b": _s7b, "S7c": _s7c, "S9": _s9, "S10": _s10, "S11": cube_checks,
    "S12": three_policies, "E1": _e1,
}  # fmt: skip
"""Per claim: `{check name: (measured, bound) of each instance}`, in the order of the float checks."""


@dataclass(frozen=True)
class _Key:
    """Contents of a stage, for the cache."""

    content: bytes
    structure: Any
    close: bool
    stage: Stage = field(compare=False)


@lru_cache(maxsize=64)
def _solved(key: _Key) -> Solved:
    return Solved(exact_stage(key.stage, key.close))


def _read(stage: Stage, close: bool) -> Solved:
    leaves, structure = jax.tree.flatten(stage)
    arrays = [np.asarray(leaf) for leaf in leaves]
    content = b"".join(x.tobytes() for x in arrays)
    return _solved(_Key(content, (structure, tuple((x.shape, x.dtype) for x in arrays)), close, stage))


def exact_checks(stage: Stage, close: bool = True, only: str = "") -> Pairs:
    """`(measured, bound)` of every claim, in the order of the float checks; `None` for an infinite bound.

    The last 64 stages asked about are remembered, so that asking claim by claim solves a stage once.

    Args:
      only: a claim id: compute what that claim needs and no more.
    """
    claims = CHECKS if not only else {only: CHECKS[only]} if only in CHECKS else {}
    with precisely():
        x = _read(stage, close)
        return {
            (id_, name): [comparable(*pair) for pair in found]
            for id_, check in claims.items()
            for name, found in check(x).items()
        }


def exact_pairs(stage: Stage, rung: str) -> list[Pair]:
    """`(|gap_i|, penalty_i)` of one rung of `RUNGS`, update by update.

    Raises:
      InputError: an unknown name.
    """
    one_of("rung", rung, tuple(RUNGS))
    with precisely():
        return [comparable(*pair) for pair in pairs(_read(stage, True), rung)]


def decide(stage: Stage, claim: str, check: str, open_: Sequence[int] | NDArray[np.integer]) -> list[str]:
    """`verdict` on the instances of one check that floats left open, in their order.

    Args:
      open_: places of these instances in the (flattened) float check.

    Returns:
      `exact`, `enclosed` (both hold), `violated`, or `open`: overlapping balls, a check that has no exact form, or a team of more
      than `EXACT_STATES` states or `EXACT_WORK` states × actions × agents.
    """
    states, actions = stage.team.reward.shape
    small = states <= EXACT_STATES and states * actions * stage.team.agents <= EXACT_WORK
    found = exact_checks(stage, only=claim).get((claim, check)) if small and len(open_) else None
    return ["open" if found is None else verdict(*found[k]) for k in open_]
