"""The inequalities of every stage claim in rationals and balls, one function per claim id.

A number is an `fmpq`, an `arb` where a logarithm or a root has entered, or `None` for +∞. What is rational stays rational: an
exact zero is never multiplied into a ball, and a minimum with a rational side keeps that side where it is certainly smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flint import arb, fmpq

if TYPE_CHECKING:
    from theory.exact import Solved

__all__ = ["CHECKS", "Number", "Pair", "verdict", "times", "total", "root", "smaller", "larger", "capped", "distance"]

Number = Any  # fmpq, arb or None
Pair = tuple[Number, Number]  # measured, bound
ZERO, ONE = fmpq(0), fmpq(1)


# --- numbers -----------------------------------------------------------------------------------------------------------


def _zero(x: Number) -> bool:
    return isinstance(x, fmpq) and not x


def times(*xs: Number) -> Number:
    """The product, with `0·∞ = 0`."""
    out, infinite = ONE, False
    for x in xs:
        if x is None:
            infinite = True
        elif isinstance(x, fmpq) and not x:
            return ZERO
        else:
            out = out * x
    return None if infinite else out


def total(xs: Iterable[Number]) -> Number:
    """The sum; ∞ if one of them is."""
    out: Number = ZERO
    for x in xs:
        if x is None:
            return None
        out = out + x
    return out


def root(x: Number) -> Number:
    """`√x`, exactly zero at zero."""
    return x if x is None or _zero(x) else arb(x).sqrt()


def smaller(*xs: Number) -> Number:
    """The minimum."""
    out: Number = None
    for x in xs:
        if out is None or (x is not None and x <= out):
            out = x
        elif x is not None and not out <= x:
            out = arb(out).min(arb(x))
    return out


def larger(x: Number, y: Number) -> Number:
    """The maximum."""
    if x is None or y is None:
        return None
    return x if y <= x else y if x <= y else arb(x).max(arb(y))


def capped(x: Number) -> Number:
    """`min(1, x)`."""
    return smaller(x, ONE)


def distance(x: Sequence[fmpq], y: Sequence[fmpq]) -> fmpq:
    """`TV(x/Σx, y/Σy)`."""
    a, b = sum(x, ZERO), sum(y, ZERO)
    return sum((abs(p / a - q / b) for p, q in zip(x, y, strict=True) if p or q), ZERO) / 2


def verdict(measured: Number, bound: Number) -> str:
    """`exact` or `enclosed` if `measured ≤ bound` holds for certain, `violated`, or `open` (overlapping balls)."""
    if bound is None:
        return "exact"
    if measured <= bound:
        return "exact" if isinstance(measured, fmpq) and isinstance(bound, fmpq) else "enclosed"
    return "violated" if measured > bound else "open"


def _before(xs: Sequence[Number]) -> list[Number]:
    """`Σ_{u<t} x_u`."""
    out: list[Number] = [ZERO]
    for x in xs[:-1]:
        out.append(total((out[-1], x)))
    return out


def _running(rows: Sequence[Sequence[Number]], i: int) -> list[Number]:
    """`Σ_{k≤i} rows[k]`, entry by entry."""
    return [total(column) for column in zip(*rows[: i + 1], strict=True)]


def _split(xs: Sequence[Number], ys: Sequence[Number]) -> Number:
    return total(times(x, y) for x, y in zip(xs, ys, strict=True))


# --- rungs: the penalty on the gap of update i --------------------------------------------------------------------------


def _first_order(x: Solved, a_max: fmpq, kls: Sequence[Number], layers: Sequence[Sequence[Number]]) -> Number:
    """`√2·γ·A/(1−γ)²·Σ_k √δ_k`; episodic `2A Σ_t min(1, Σ_k Σ_{u<t} √(κ_{k,u}/2))`."""
    if x.horizon is None:
        return times(arb(2).sqrt(), x.gamma * a_max / (1 - x.gamma) ** 2, total(root(kl) for kl in kls))
    if not a_max:
        return ZERO
    rows = [_before([root(times(fmpq(1, 2), kl)) for kl in row]) for row in layers]
    shifts = [total(row[t] for row in rows) for t in range(x.horizon)]
    return times(2 * a_max, total(capped(shift) for shift in shifts))


def _paper(x: Solved, i: int, updates: Sequence[int]) -> Number:
    layers = [] if x.horizon is None else [x.layer_kl[k] for k in updates]
    return _first_order(x, x.advantage_max[i], [x.kl[k] for k in updates], layers)


def _share(x: Solved, i: int, updates: Sequence[int]) -> Number:
    layers = (
        []
        if x.horizon is None
        else [[times(w, kl) for w, kl in zip(x.layer_share[k], x.layer_kl[k], strict=True)] for k in updates]
    )
    return _first_order(x, x.advantage_max[i], [times(x.share[k], x.kl[k]) for k in updates], layers)


def _path_shift(x: Solved, kl: Number) -> Number:
    """`γ√(δ/(2(1−γ)))`."""
    return times(x.gamma, root(times(1 / (2 * (1 - x.gamma)), kl)))


def _path(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(_path_shift(x, x.kl[i]), x.span_g[i] / (1 - x.gamma))
    return _layered_path(x, i, x.layer_kl[i])


def _stale_path(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(_path_shift(x, total(x.kl_stale[: i + 1])), x.span_g[i] / (1 - x.gamma))
    return _layered_path(x, i, _running(x.layer_kl_stale, i))


def _layered_path(x: Solved, i: int, kls: Sequence[Number]) -> Number:
    return _split([capped(root(times(fmpq(1, 2), kl))) for kl in _before(kls)], x.layer_span[i])


def _second_order(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return x.gamma / (1 - x.gamma) ** 2 * x.tv[i] * x.span_g[i]
    return _split([capped(tv) for tv in _before(x.layer_tv[i])], x.layer_span[i])


def _stale_second_order(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return x.gamma / (1 - x.gamma) ** 2 * sum(x.tv[: i + 1], ZERO) * x.span_g[i]
    return _split([capped(tv) for tv in _before(_running(x.layer_tv, i))], x.layer_span[i])


def _later_turns(x: Solved, i: int) -> fmpq:
    span = x.span_g[i] if x.even else x.span_ended[i]
    return x.mean_tv[i] * x.later_turns[i] * span


def _layers(x: Solved, i: int) -> Number:
    """E1. Logarithms are taken only where Pinsker's inequality `κ ≥ 2 Σ m TV²` does not already say which shift is smaller."""
    assert x.horizon is not None
    tvs, squares = _before(x.layer_tv[i]), _before(x.layer_tv_squared[i])
    out: list[Number] = []
    for t, (tv, square, span) in enumerate(zip(tvs, squares, x.layer_span[i], strict=True)):
        if tv and span:
            shift = tv if tv * tv <= square else smaller(tv, root(times(fmpq(1, 2), total(x.layer_kl[i][:t]))))
            out.append(times(capped(shift), span))
    return total(out)


def _trivial(x: Solved, i: int) -> fmpq:
    return x.mass[0] * x.span_g[i] if x.even else max(x.mass) * x.span_ended[i]


def _path_kl(x: Solved, kl: Number) -> Number:
    return times(1 / (1 - x.gamma), kl) if x.horizon is None else kl


def _log_sum(x: Solved, i: int) -> Number:
    return times(x.return_range, _path_kl(x, x.kl[i]))


def _log_sum_advantage(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(x.advantage_span[i] / (1 - x.gamma) ** 2, x.kl[i])
    through = [total(x.layer_kl[i][: t + 1]) for t in range(x.horizon)]
    return _split(x.layer_advantage_span[i], through)


def _stale_kl(x: Solved, i: int) -> Number:
    """`(δ⁰_i + γ/(1−γ)·Σ_{k≤i} δ⁰_k)/(1−γ)`."""
    later = times(x.gamma / (1 - x.gamma), total(x.kl_stale[: i + 1]))
    return times(1 / (1 - x.gamma), total((x.kl_stale[i], later)))


def _stale_layers(x: Solved, i: int) -> list[Number]:
    """`κ⁰_{i,t} + Σ_{u<t} Σ_{k≤i} κ⁰_{k,u}`."""
    earlier = _before(_running(x.layer_kl_stale, i))
    return [total(pair) for pair in zip(x.layer_kl_stale[i], earlier, strict=True)]


def _stale_log_sum(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(x.advantage_span[i], _stale_kl(x, i))
    return _split(x.layer_advantage_span[i], _stale_layers(x, i))


def _stale_return_range(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(x.return_range, _stale_kl(x, i))
    counted = [kl for kl, speaks in zip(_stale_layers(x, i), x.layer_speaks[i], strict=True) if speaks]
    return times(x.return_range, total(counted))


def _reused_log_sum(x: Solved, i: int) -> Number:
    return times(x.return_range, total(_path_kl(x, kl) for kl in x.kl_stale[: i + 1]))


def _cached_log_sum(x: Solved, i: int) -> Number:
    earlier = _reused_log_sum(x, i - 1) if x.simultaneous and i else ZERO
    return total((_reused_log_sum(x, i), earlier))


def _weighted(x: Solved, i: int) -> Number:
    return larger(x.weighted_floor[i], x.weighted_ceiling[i])


FRESH = (_trivial, lambda x, i: _paper(x, i, [i]), lambda x, i: _share(x, i, [i]), _path, _second_order, _later_turns,
         _log_sum, _log_sum_advantage, _weighted)  # fmt: skip
STALE = (_trivial, lambda x, i: _paper(x, i, range(i + 1)), lambda x, i: _share(x, i, range(i + 1)), _stale_path,
         _stale_second_order, _stale_log_sum, _stale_return_range)  # fmt: skip


# --- claims ------------------------------------------------------------------------------------------------------------


def _bounded(gaps: Sequence[fmpq], x: Solved, rung: Callable[[Solved, int], Number]) -> list[Pair]:
    return [(abs(gap), rung(x, i)) for i, gap in enumerate(gaps)]


def _t0(x: Solved) -> dict[str, list[Pair]]:
    apart = [gain - right for gain, right in zip(x.gain, x.gain_by_visits, strict=True)]
    return {"update": [(abs(d), ZERO) for d in apart], "stage": [(abs(sum(apart, ZERO)), ZERO)]}


def _t1(x: Solved) -> dict[str, list[Pair]]:
    out: list[Pair] = []
    for i in range(x.agents):
        if x.horizon is None:
            out.append((2 * x.occupancy_tv_fresh[i], 2 * x.gamma / (1 - x.gamma) * x.tv[i]))
        else:
            out.extend(zip(x.layer_shift[i], _before(x.layer_tv[i]), strict=True))
    return {"": out}


def _t2(x: Solved) -> dict[str, list[Pair]]:
    out: list[Pair] = []
    for i in range(x.agents):
        if x.horizon is None:
            bound = times(arb(2).sqrt(), x.gamma / (1 - x.gamma), root(x.kl[i]))
            out.append((2 * x.occupancy_tv_fresh[i], bound))
        else:
            roots = [root(times(fmpq(1, 2), kl)) for kl in x.layer_kl[i]]
            out.extend(zip(x.layer_shift[i], _before(roots), strict=True))
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
    return {"": [(abs(a - b), _paper(x, i, range(i))) for i, (a, b) in enumerate(zip(x.seq, x.stale, strict=True))]}


def _p3_4(x: Solved) -> dict[str, list[Pair]]:
    return {"": _bounded(x.gap_fresh, x, lambda x, i: _paper(x, i, [i]))}


def _p3_6(x: Solved) -> dict[str, list[Pair]]:
    return {"": [(abs(sum(x.gap_fresh, ZERO)), total(_paper(x, i, [i]) for i in range(x.agents)))]}


def _p3_7(x: Solved) -> dict[str, list[Pair]]:
    penalty = [_paper(x, i, range(i + 1)) for i in range(x.agents)]
    out = {
        "update": [(abs(gap), bound) for gap, bound in zip(x.gap_stale, penalty, strict=True)],
        "stage": [(abs(sum(x.gap_stale, ZERO)), total(penalty))],
    }
    if x.horizon is None:
        out["update, δ⁰"] = _bounded(
            x.gap_stale, x, lambda x, i: _first_order(x, x.advantage_max[i], x.kl_stale[: i + 1], [])
        )
    return out


def _p3_8(x: Solved) -> dict[str, list[Pair]]:
    """Each agent swapped alone into `π̂⁰`: its KL is that under the current team."""

    def penalty(x: Solved, i: int) -> Number:
        layers = [] if x.horizon is None else [x.layer_kl_stale[i]]
        return _first_order(x, x.advantage_max[0], [x.kl_stale[i]], layers)

    return {"": _bounded(x.gap_alone, x, penalty)}


def _p3_9(x: Solved) -> dict[str, list[Pair]]:
    return {"": [(half, times(fmpq(1, 2), kl)) for half, kl in zip(x.kl_half, x.kl_stale, strict=True)]}


def _s0(x: Solved) -> dict[str, list[Pair]]:
    return {"fresh": _bounded(x.gap_fresh, x, _trivial), "stale": _bounded(x.gap_stale, x, _trivial)}


def _s1(x: Solved) -> dict[str, list[Pair]]:
    out = {
        "fresh": _bounded(x.gap_fresh, x, lambda x, i: _share(x, i, [i])),
        "stale": _bounded(x.gap_stale, x, lambda x, i: _share(x, i, range(i + 1))),
    }
    if x.horizon is None:
        c = times(arb(2).sqrt(), x.gamma / (1 - x.gamma))
        out["shift"] = [
            (2 * tv, times(c, root(times(w, kl))))
            for tv, w, kl in zip(x.occupancy_tv_fresh, x.share, x.kl, strict=True)
        ]
    return out


def _s2(x: Solved) -> dict[str, list[Pair]]:
    if x.horizon is None:
        shift = [(tv, _path_shift(x, kl)) for tv, kl in zip(x.occupancy_tv_fresh, x.kl, strict=True)]
    else:
        shift = [
            (tv, root(times(fmpq(1, 2), kl)))
            for i in range(x.agents)
            for tv, kl in zip(x.layer_shift[i], _before(x.layer_kl[i]), strict=True)
        ]
    return {"shift": shift, "gap": _bounded(x.gap_fresh, x, _path)}


def _s3(x: Solved) -> dict[str, list[Pair]]:
    out = {"gap": _bounded(x.gap_stale, x, _stale_path)}
    if x.horizon is None:
        out["shift"] = [
            (tv, _path_shift(x, kl)) for tv, kl in zip(x.occupancy_tv_stale, _before(x.kl_stale), strict=True)
        ]
    return out


def _s4(x: Solved) -> dict[str, list[Pair]]:
    return {
        "S4": _bounded(x.gap_fresh, x, _second_order),
        "S4R": _bounded(x.gap_fresh, x, _later_turns),
        "S4 stale": _bounded(x.gap_stale, x, _stale_second_order),
    }


def _s5(x: Solved) -> dict[str, list[Pair]]:
    if x.horizon is not None:
        return {}
    gamma, two = x.gamma, arb(2).sqrt()
    golden = arb(gamma) >= (arb(5).sqrt() - 1) / 2  # irrational: never equal

    def less(seq: fmpq, penalty: Number) -> Number:
        return arb("-inf") if penalty is None else seq - penalty

    surrogate, paper, path = [], [], []
    for i, seq in enumerate(x.seq):
        kl = root(x.kl[i])
        surrogate.append((abs(seq), times(two, x.advantage_max[i] / (1 - gamma), kl)))
        paper.append((less(seq, _paper(x, i, [i])), ZERO if gamma >= fmpq(1, 2) else None))
        factor = times(two, gamma * x.advantage_max[i] / (1 - gamma), 1 / root(1 - gamma))
        path.append((less(seq, times(factor, kl)), ZERO if golden else None))
    return {"surrogate": surrogate, "P3.4": paper, "S2": path}


def _s6(x: Solved) -> dict[str, list[Pair]]:
    fresh = FRESH if x.horizon is None else (*FRESH, _layers)
    return {
        "fresh": _bounded(x.gap_fresh, x, lambda x, i: smaller(*(rung(x, i) for rung in fresh))),
        "stale": _bounded(x.gap_stale, x, lambda x, i: smaller(*(rung(x, i) for rung in STALE))),
    }


def _s7(x: Solved) -> dict[str, list[Pair]]:
    return {"": _bounded(x.gap_fresh, x, _log_sum)}


def _s7b(x: Solved) -> dict[str, list[Pair]]:
    return {
        "fresh": _bounded(x.gap_fresh, x, _log_sum_advantage),
        "stale": _bounded(x.gap_stale, x, _stale_log_sum),
        "stale, ϱ": _bounded(x.gap_stale, x, _stale_return_range),
    }


def _s7c(x: Solved) -> dict[str, list[Pair]]:
    whole = _reused_log_sum(x, x.agents - 1)
    return {
        "cached": _bounded(x.gap_cached, x, _cached_log_sum),
        "reused": _bounded(x.gap_reused, x, _reused_log_sum),
        "stage, cached": [(abs(sum(x.gap_cached, ZERO)), whole)],
        "stage, reused": [(abs(sum(x.gap_reused, ZERO)), whole)],
    }


def _s9(x: Solved) -> dict[str, list[Pair]]:
    return {
        "floor": [(-gap, bound) for gap, bound in zip(x.gap_fresh, x.weighted_floor, strict=True)],
        "ceiling": list(zip(x.gap_fresh, x.weighted_ceiling, strict=True)),
        "update": _bounded(x.gap_fresh, x, _weighted),
        "stage": [(-sum(x.gap_reused, ZERO), total(x.weighted_reused))],
    }


def _e1(x: Solved) -> dict[str, list[Pair]]:
    return {} if x.horizon is None else {"": _bounded(x.gap_fresh, x, _layers)}


CHECKS: dict[str, Callable[[Solved], dict[str, list[Pair]]]] = {
    "T0": _t0, "T1": _t1, "T2": _t2, "P3.1": _p3_1, "P3.3": _p3_3, "P3.4": _p3_4, "P3.6": _p3_6, "P3.7": _p3_7,
    "P3.8": _p3_8, "P3.9": _p3_9, "S0": _s0, "S1": _s1, "S2": _s2, "S3": _s3, "S4": _s4, "S5": _s5, "S6": _s6, "S7": _s7,
    "S7b": _s7b, "S7c": _s7c, "S9": _s9, "E1": _e1,
}  # fmt: skip
"""Per claim: `{check name: (measured, bound) of each instance}`, in the order of the float checks."""
