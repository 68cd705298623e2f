"""The penalty on the gap of update i, one function per bound, and the one table of them.

The same formulas as `teamtr_jax/bounds.py`, written again on purpose: names are shared, formulas never.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flint import arb, fmpq

from teamtr_jax.bounds import Gap
from teamtr_jax.exact.numbers import (
    ZERO,
    Number,
    Pair,
    before,
    capped,
    larger,
    root,
    running,
    smaller,
    split,
    times,
    total,
)
from teamtr_jax.exact.solved import Solved

__all__ = ["RUNGS", "first_order", "least", "paper", "pairs", "path_shift", "reused_log_sum",
           "stage_chi_square"]  # fmt: skip


def first_order(x: Solved, a_max: fmpq, kls: Sequence[Number], layers: Sequence[Sequence[Number]]) -> Number:
    """`√2·γ·A/(1−γ)²·Σ_k √δ_k`; episodic `2A Σ_t min(1, Σ_k Σ_{u<t} √(κ_{k,u}/2))`."""
    if x.horizon is None:
        return times(arb(2).sqrt(), x.gamma * a_max / (1 - x.gamma) ** 2, total(root(kl) for kl in kls))
    if not a_max:
        return ZERO
    rows = [before([root(times(fmpq(1, 2), kl)) for kl in row]) for row in layers]
    shifts = [total(row[t] for row in rows) for t in range(x.horizon)]
    return times(2 * a_max, total(capped(shift) for shift in shifts))


def paper(x: Solved, i: int, updates: Sequence[int]) -> Number:
    """P3.4 (`updates = [i]`), P3.7 (0 … i) and P3.3 (0 … i−1)."""
    layers = [] if x.horizon is None else [x.layer_kl[k] for k in updates]
    return first_order(x, x.advantage_max[i], [x.kl[k] for k in updates], layers)


def _share(x: Solved, i: int, updates: Sequence[int]) -> Number:
    layers = (
        []
        if x.horizon is None
        else [[times(w, kl) for w, kl in zip(x.layer_share[k], x.layer_kl[k], strict=True)] for k in updates]
    )
    return first_order(x, x.advantage_max[i], [times(x.share[k], x.kl[k]) for k in updates], layers)


def path_shift(x: Solved, kl: Number) -> Number:
    """`γ√(δ/(2(1−γ)))`."""
    return times(x.gamma, root(times(1 / (2 * (1 - x.gamma)), kl)))


def _path(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(path_shift(x, x.kl[i]), x.span_g[i] / (1 - x.gamma))
    return _layered_path(x, i, x.layer_kl[i])


def _stale_path(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(path_shift(x, total(x.kl_stale[: i + 1])), x.span_g[i] / (1 - x.gamma))
    return _layered_path(x, i, running(x.layer_kl_stale, i))


def _layered_path(x: Solved, i: int, kls: Sequence[Number]) -> Number:
    return split([capped(root(times(fmpq(1, 2), kl))) for kl in before(kls)], x.layer_span[i])


def _second_order(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return x.gamma / (1 - x.gamma) ** 2 * x.tv[i] * x.span_g[i]
    return split([capped(tv) for tv in before(x.layer_tv[i])], x.layer_span[i])


def _stale_second_order(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return x.gamma / (1 - x.gamma) ** 2 * sum(x.tv[: i + 1], ZERO) * x.span_g[i]
    return split([capped(tv) for tv in before(running(x.layer_tv, i))], x.layer_span[i])


def _later_turns(x: Solved, i: int) -> fmpq:
    span = x.span_g[i] if x.even else x.span_ended[i]
    return x.mean_tv[i] * x.later_turns[i] * span


def _layers(x: Solved, i: int) -> Number:
    """E1; ∞ for a discounted team, which has no layers.

    Logarithms are taken only where Pinsker's inequality `κ ≥ 2 Σ m TV²` does not already say which shift is smaller.
    """
    if x.horizon is None:
        return None
    tvs, squares = before(x.layer_tv[i]), before(x.layer_tv_squared[i])
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
    return split(x.layer_advantage_span[i], through)


def _stale_kl(x: Solved, i: int) -> Number:
    """`(δ⁰_i + γ/(1−γ)·Σ_{k≤i} δ⁰_k)/(1−γ)`."""
    later = times(x.gamma / (1 - x.gamma), total(x.kl_stale[: i + 1]))
    return times(1 / (1 - x.gamma), total((x.kl_stale[i], later)))


def _stale_layers(x: Solved, i: int) -> list[Number]:
    """`κ⁰_{i,t} + Σ_{u<t} Σ_{k≤i} κ⁰_{k,u}`."""
    earlier = before(running(x.layer_kl_stale, i))
    return [total(pair) for pair in zip(x.layer_kl_stale[i], earlier, strict=True)]


def _stale_log_sum(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(x.advantage_span[i], _stale_kl(x, i))
    return split(x.layer_advantage_span[i], _stale_layers(x, i))


def _stale_return_range(x: Solved, i: int) -> Number:
    if x.horizon is None:
        return times(x.return_range, _stale_kl(x, i))
    counted = [kl for kl, speaks in zip(_stale_layers(x, i), x.layer_speaks[i], strict=True) if speaks]
    return times(x.return_range, total(counted))


def reused_log_sum(x: Solved, i: int) -> Number:
    """`ϱ·Σ_{k≤i} δ⁰_k/(1−γ)`."""
    return times(x.return_range, total(_path_kl(x, kl) for kl in x.kl_stale[: i + 1]))


def _cached_log_sum(x: Solved, i: int) -> Number:
    earlier = reused_log_sum(x, i - 1) if x.simultaneous and i else ZERO
    return total((reused_log_sum(x, i), earlier))


def _weighted(x: Solved, i: int) -> Number:
    return larger(x.weighted_floor[i], x.weighted_ceiling[i])


def _deviating(x: Solved, base: int, square: Number) -> Number:
    """`sd(R)·√(square)` under `π̂^base`; ∞ where an action is taken up, whatever the deviation, and for a discounted team."""
    return None if square is None or x.horizon is None else times(root(x.return_variance(base)), root(square))


def _excess(x: Number) -> Number:
    """`e^x − 1 − x`; below 1/16 by its series, for a ball has no digits left beyond those that cancel; ∞ from a million on."""
    if x is None or not x:
        return x
    if x > 10**6:
        return None
    if x >= fmpq(1, 16):
        return arb(x).exp() - 1 - x
    terms, term = arb(0), arb(x) * x / 2
    for k in range(3, 64):
        terms, term = terms + term, term * x / k
    return terms + arb(term, term)  # what is left out is positive and less than twice the next term


def _chi_square(x: Solved, i: int) -> Number:
    return _deviating(x, i, _excess(x.path_chi_square[i]))


def _chi_square_of_stage(x: Solved, through: Sequence[Number], own: Number, i: int) -> Number:
    """`G(a + b) − G(a) = e^a G(b) + b(a + G(a))`."""
    earlier = through[i - 1] if i else ZERO
    if earlier is None or own is None:
        return None
    if not own and x.horizon is not None:
        return ZERO
    before, added = _excess(earlier), _excess(own)
    square = None if before is None or added is None else arb(earlier).exp() * added + own * (earlier + before)
    return _deviating(x, 0, square)


def _cached_chi_square(x: Solved, i: int) -> Number:
    return _chi_square_of_stage(x, x.path_chi_square_cached, x.path_chi_square_cached_own[i], i)


def _reused_chi_square(x: Solved, i: int) -> Number:
    return _chi_square_of_stage(x, x.path_chi_square_reused, x.path_chi_square_reused_own[i], i)


def stage_chi_square(x: Solved, through: Sequence[Number]) -> Number:
    """The bound on the signed sum over the stage."""
    return _deviating(x, 0, _excess(through[-1]))


RUNGS: dict[str, tuple[Gap, Callable[[Solved, int], Number]]] = {
    "penalty_trivial": ("fresh", _trivial),
    "penalty_paper": ("fresh", lambda x, i: paper(x, i, [i])),
    "penalty_share": ("fresh", lambda x, i: _share(x, i, [i])),
    "penalty_path": ("fresh", _path),
    "penalty_second_order": ("fresh", _second_order),
    "penalty_later_turns": ("fresh", _later_turns),
    "penalty_layers": ("fresh", _layers),
    "penalty_log_sum": ("fresh", _log_sum),
    "penalty_log_sum_advantage": ("fresh", _log_sum_advantage),
    "penalty_weighted": ("fresh", _weighted),
    "penalty_chi_square": ("fresh", _chi_square),
    "penalty_stale_trivial": ("stale", _trivial),
    "penalty_stale_paper": ("stale", lambda x, i: paper(x, i, range(i + 1))),
    "penalty_stale_share": ("stale", lambda x, i: _share(x, i, range(i + 1))),
    "penalty_stale_path": ("stale", _stale_path),
    "penalty_stale_second_order": ("stale", _stale_second_order),
    "penalty_stale_log_sum": ("stale", _stale_log_sum),
    "penalty_stale_return_range": ("stale", _stale_return_range),
    "penalty_cached_log_sum": ("cached", _cached_log_sum),
    "penalty_reused_log_sum": ("reused", reused_log_sum),
    "penalty_cached_chi_square": ("cached", _cached_chi_square),
    "penalty_reused_chi_square": ("reused", _reused_chi_square),
}
"""`{name: (gap, penalty of update i)}`, the names of `teamtr_jax.bounds.DEFAULT`."""


def pairs(x: Solved, name: str) -> list[Pair]:
    """`(|gap_i|, penalty_i)` of every update."""
    gap, rung = RUNGS[name]
    return [(abs(g), rung(x, i)) for i, g in enumerate(getattr(x, f"gap_{gap}"))]


def least(x: Solved, gap: Gap) -> list[Pair]:
    """`(|gap_i|, least penalty_i on that gap)` of every update."""
    rungs = [rung for of, rung in RUNGS.values() if of == gap]
    gaps = getattr(x, f"gap_{gap}")
    return [(abs(g), smaller(*(rung(x, i) for rung in rungs))) for i, g in enumerate(gaps)]
