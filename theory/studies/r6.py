"""R6: the rates of the table of growth are attained, cell by cell, by teams in closed form (theory/derivations/rates.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import flint
import numpy as np
from flint import arb, fmpq, fmpq_poly

from teamtr_jax.exact import PRECISION, exact_numbers, exact_stage, rational
from theory.constructions.chain import chain_gaps, chain_stage
from theory.constructions.counts import (
    count_coefficient,
    count_shifts,
    layer_mean,
    mean_absolute_walk,
    product_count_stage,
    running_count_stage,
)
from theory.constructions.doors import (
    ClosedGaps,
    doors_gaps,
    doors_stage,
    opening_kl,
    product_doors_gaps,
    product_doors_stage,
    relay_doors_gaps,
    relay_doors_stage,
    rooms_gaps,
    rooms_stage,
)
from theory.constructions.forks import (
    fork_kl,
    fork_step,
    forks_shift,
    forks_stage,
    product_forks_stage,
    relay_forks_stage,
)
from theory.constructions.parity import parity_gaps, parity_relay_gaps, parity_relay_stage, parity_stage
from theory.figures import LEGEND, agent_axis, panels, save
from theory.fits import Slope, local_slopes, log_slope
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = [
    "STUDY",
    "Cell",
    "RateCurves",
    "cells",
    "oracle_mismatches",
    "run",
    "rates_figure",
    "SIZES",
    "DELTA",
    "GAMMA",
    "ROUNDS",
]

SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
DELTA = 1e-9  # δ⁰ of every agent, in every cell
GAMMA = fmpq(9, 10)
ROUNDS = 4  # R of the episodic column, T = R·n

TURNS, PRODUCT, EPISODIC = "turn-taking, exogenous router", "product", f"episodic, T = {ROUNDS}n"
COLUMNS = (TURNS, PRODUCT, EPISODIC)
ROWS = {
    "R6.1": "TV(dⁿ, d⁰)",
    "R6.2": "D_occ",
    "R6.3": "Σ|fresh gap|",
    "R6.4": "Σ|stale gap|",
    "R6.5": "|Σ cached gap|",
}


class Cell(NamedTuple):
    """One cell of the table, measured on one family. A family beside the main one of its cell has `extra`."""

    row: str  #: key of `ROWS`
    column: str
    family: str
    held: str  #: what is held fixed beside δ⁰ and γ or R
    exponent: fmpq  #: predicted power of n
    limit: str  #: of measured/bound, as the step → 0 and then n → ∞
    limit_value: float | None  #: None where no bound in δ⁰ exists
    sizes: np.ndarray
    values: np.ndarray  #: the left side
    bounds: np.ndarray
    slope: Slope  #: of `values`, over all sizes
    tail: float  #: local slope between the two largest sizes
    first_order: np.ndarray  #: measured/bound as the step → 0, from the exact coefficients
    wrong: int  #: sizes at which the exact leading coefficient is not the predicted one
    exceeds: int  #: sizes at which measured > bound is certain
    undecided: int
    extra: bool

    @property
    def ratio(self) -> float:
        """measured/bound at the largest n."""
        return float(self.values[-1] / self.bounds[-1])


class RateCurves(NamedTuple):
    """All cells, and how many numbers of the closed forms were compared with the exact oracle."""

    cells: list[Cell]
    delta: float
    oracle_checks: int
    oracle_wrong: int


class Family(NamedTuple):
    """How a cell is computed. Everything is a function of n."""

    row: str
    column: str
    family: str
    held: str
    exponent: fmpq
    limit: str
    limit_value: float | None
    measured: Callable[[int], tuple[fmpq, arb | None]]  #: left side (rational), bound (ball; `None` is ∞)
    coefficients: Callable[[int], tuple[fmpq, fmpq]]  #: of the left side's first order: from the closed form, predicted
    first_order: Callable[[int], float]
    extra: bool = False


STEP = fmpq_poly([0, 1])
HALF = fmpq(1, 2)


def _absolute(gaps: Sequence[Any]) -> Any:
    return sum((abs(x) for x in gaps), fmpq(0))


def _leading(gaps: Sequence[Any], signed: bool = False) -> fmpq:
    """First-order coefficient of `Σ|gap|` (or `|Σ gap|`) of polynomials in the step without constant term."""
    found = [fmpq_poly(x)[1] for x in gaps]
    return abs(sum(found, fmpq(0))) if signed else _absolute(found)


def _opening(kl: float) -> fmpq:
    """The ε with `opening_kl(ε) = kl`, rounded to a rational."""
    return rational(-math.expm1(-kl))


def _gamma_kl() -> float:
    return DELTA / float(1 - GAMMA)


def _root(x: Any) -> arb:
    return arb(x).sqrt()


# --- occupancies -----------------------------------------------------------------------------------------------------


def _fork_parts(n: int, weighted: bool) -> tuple[list[fmpq], list[fmpq]]:
    total = sum((n - k) ** 2 for k in range(n))
    weights = [fmpq((n - k) ** 2, total) if weighted else fmpq(1, n) for k in range(n)]
    return weights, [rational(fork_step(_gamma_kl() / float(w))) for w in weights]


def _forks(n: int, weighted: bool) -> tuple[list[fmpq], list[arb]]:
    """Shifts and S3's bounds for i = 0 … n: `γ√(Σ_{k≤i} δ⁰_k/(2(1−γ)))`, `δ⁰_k = (1−γ) w_k κ_k`."""
    weights, steps = _fork_parts(n, weighted)
    kl = [arb(w) * fork_kl(e) for w, e in zip(weights, steps, strict=True)]
    return forks_shift(weights, steps, GAMMA), [GAMMA * _root(sum(kl[:i], arb(0)) / 2) for i in range(n + 1)]


def _weighted_ratio(n: int) -> float:
    """D_occ over S3's sum as the step → 0: `Σ_k (n−1−k)√w_k / Σ_{i<n} √i`."""
    return 2 * (n - 1) / (2 * n + 1) * math.sqrt(n * (n + 1) * (2 * n + 1) / 6) / _roots(n)


def _weighted_slope(n: int) -> fmpq:
    """D_occ with `ε_k = t/(n+1−k)`, at which all `w_k ε_k²` are equal: the coefficient of t."""
    weights, _ = _fork_parts(n, weighted=True)
    return _leading([sum(forks_shift(weights, [STEP / (n - k) for k in range(n)], GAMMA)[:n], fmpq_poly([0]))])


def _relay_forks_slope(n: int) -> fmpq:
    shifts = forks_shift([fmpq(1, n)] * n, [STEP] * n, fmpq(1))
    return _leading([_layered(n, lambda t, i: shifts[i], n)])


def _relay_forks_ratio(n: int) -> float:
    return (ROUNDS - (n + 1) / (2 * n)) / (ROUNDS - 1 + _roots(n) / n**1.5)


def _roots(n: int) -> float:
    return sum(math.sqrt(i) for i in range(n))


@lru_cache(maxsize=4)
def _tosses(n: int, kl: float) -> tuple[list[list[fmpq]], arb]:
    step = rational(fork_step(kl))
    return count_shifts(n, step), fork_kl(step)


def _toss_slope(t: int, i: int) -> fmpq:
    """`d/dε` at 0 of the shift of t tosses, i updated: `½ Σ_s |i·(b(s−1) − b(s))|`, b the fair binomial of t−1 tosses."""
    if not i:
        return fmpq(0)
    b = [0, *(math.comb(t - 1, s) for s in range(t)), 0]
    return fmpq(i * sum(abs(x - y) for x, y in pairwise(b)), 2 * 2 ** (t - 1))


def _layered(n: int, of: Callable[[int, int], Any], updated: int) -> Any:
    """Mean over the layers of `of(tosses made, updated tosses made)`."""
    return layer_mean([of(t, min(updated, t)) for t in range(n)], of(n, updated), ROUNDS)


def _walk_ratio(n: int, stages: Sequence[int]) -> float:
    found = sum(float(_layered(n, count_coefficient, i)) for i in stages)
    return found / sum(_layered(n, lambda t, i: math.sqrt(i), i) for i in stages)


def _occupancy_families(largest: int) -> list[Family]:
    root, power = fmpq(1, 2), fmpq(3, 2)
    episodic_limit = (7 / 15 + (ROUNDS - 1) / 2) / (8 / 15 + 2 * (ROUNDS - 1) / 3)

    def forks(weighted: bool, stages: Callable[[int], range]) -> Callable[[int], tuple[fmpq, arb]]:
        def measured(n: int) -> tuple[fmpq, arb]:
            shifts, bounds = _forks(n, weighted)
            return sum((shifts[i] for i in stages(n)), fmpq(0)), sum((bounds[i] for i in stages(n)), arb(0))

        return measured

    def relay_forks(n: int) -> tuple[fmpq, arb]:
        step = rational(fork_step(n * DELTA))
        shifts, kl = forks_shift([fmpq(1, n)] * n, [step] * n, fmpq(1)), fork_kl(step)
        return _layered(n, lambda t, i: shifts[i], n), _layered(n, lambda t, i: _root(i * kl / (2 * n)), n)

    def forks_slope(n: int, stages: range) -> fmpq:
        shifts = forks_shift([fmpq(1, n)] * n, [STEP] * n, GAMMA)
        return _leading([shifts[i] for i in stages])

    def product(stages: Callable[[int], range]) -> Callable[[int], tuple[fmpq, arb]]:
        def measured(n: int) -> tuple[fmpq, arb]:
            shifts, kl = _tosses(largest, _gamma_kl())
            bound = sum((GAMMA * _root(i * kl / 2) for i in stages(n)), arb(0))
            return GAMMA * sum((_shift(shifts, n, i) for i in stages(n)), fmpq(0)), bound

        return measured

    def episodic(stages: Callable[[int], range]) -> Callable[[int], tuple[fmpq, arb]]:
        def measured(n: int) -> tuple[fmpq, arb]:
            shifts, kl = _tosses(largest, DELTA)
            found = sum((_layered(n, lambda t, i: _shift(shifts, t, i), i) for i in stages(n)), fmpq(0))
            return found, sum((_layered(n, lambda t, i: _root(i * kl / 2), i) for i in stages(n)), arb(0))

        return measured

    def last(n: int) -> range:
        return range(n, n + 1)

    def episodic_slopes(stages: Callable[[int], range]) -> Callable[[int], tuple[fmpq, fmpq]]:
        def both(n: int) -> tuple[fmpq, fmpq]:
            return tuple(
                sum((_layered(n, of, i) for i in stages(n)), fmpq(0)) for of in (_toss_slope, count_coefficient)
            )  # pyright: ignore[reportReturnType]

        return both

    tossed = "one fair toss an agent"
    return [
        Family("R6.1", TURNS, "forks", "first speaker uniform", root, "1", 1.0, forks(False, last),
               lambda n: (forks_slope(n, last(n)), GAMMA), lambda n: 1.0),
        Family("R6.1", PRODUCT, "forks", "first state uniform", root, "1", 1.0, forks(False, last),
               lambda n: (forks_slope(n, last(n)), GAMMA), lambda n: 1.0, True),
        Family("R6.1", PRODUCT, "count at once", tossed, root, "√(2/π)", math.sqrt(2 / math.pi), product(last),
               lambda n: (GAMMA * _toss_slope(n, n), GAMMA * mean_absolute_walk(n)),
               lambda n: float(mean_absolute_walk(n)) / math.sqrt(n)),
        Family("R6.1", EPISODIC, "running count", tossed, root, "√(2/π)", math.sqrt(2 / math.pi), episodic(last),
               episodic_slopes(last), lambda n: _walk_ratio(n, last(n))),
        Family("R6.1", EPISODIC, "forks", "first context uniform", root, "(R−½)/(R−⅓)", (ROUNDS - 1 / 2) / (ROUNDS - 1 / 3),
               relay_forks, lambda n: (_relay_forks_slope(n), (ROUNDS - fmpq(n + 1, 2 * n)) / ROUNDS), _relay_forks_ratio, True),
        Family("R6.2", TURNS, "forks, first speaker ∝ (n+1−k)²", "ε_k such that δ⁰_k is equal", power, "√3/2", math.sqrt(3) / 2,
               forks(True, range), lambda n: (_weighted_slope(n), GAMMA * fmpq(2 * n - 2, 2 * n + 1)), _weighted_ratio),
        Family("R6.2", PRODUCT, "forks, first state ∝ (n+1−k)²", "ε_k such that δ⁰_k is equal", power, "√3/2", math.sqrt(3) / 2,
               forks(True, range), lambda n: (_weighted_slope(n), GAMMA * fmpq(2 * n - 2, 2 * n + 1)), _weighted_ratio, True),
        Family("R6.2", TURNS, "forks", "first speaker uniform", power, "3/4", 0.75, forks(False, range),
               lambda n: (forks_slope(n, range(n)), GAMMA * (n - 1) / 2), lambda n: (n - 1) * math.sqrt(n) / 2 / _roots(n), True),
        Family("R6.2", PRODUCT, "count at once", tossed, power, "¾√(2/π)", 0.75 * math.sqrt(2 / math.pi), product(range),
               lambda n: (GAMMA * sum((_toss_slope(n, i) for i in range(n)), fmpq(0)),
                          GAMMA * (n - 1) / 2 * mean_absolute_walk(n)),
               lambda n: float(mean_absolute_walk(n)) * (n - 1) / 2 / _roots(n)),
        Family("R6.2", EPISODIC, "running count", tossed, power, "√(2/π)·(7/15+(R−1)/2)/(8/15+2(R−1)/3)",
               math.sqrt(2 / math.pi) * episodic_limit, episodic(range), episodic_slopes(range),
               lambda n: _walk_ratio(n, range(n))),
    ]  # fmt: skip


def _shift(table: list[list[fmpq]], tosses: int, updated: int) -> fmpq:
    return table[tosses][updated]


# --- gaps ------------------------------------------------------------------------------------------------------------


LATER = ROUNDS - 1
WORTH, SCALE = GAMMA / (1 - GAMMA), 1 / (1 - GAMMA)
ONE, TWO = fmpq(1), fmpq(2)


def _pairs(n: int) -> fmpq:
    return fmpq(n * (n + 1), 2)


def _doors(router: Any, kind: str, signed: bool = False) -> Callable[[int], tuple[fmpq, arb]]:
    """Bound `nδ⁰/(1−γ)² = κ/(1−γ)`, with B = span(r) = 1; also `ϱΣK` of the cached gap."""

    def measured(n: int) -> tuple[fmpq, arb]:
        step = _opening(n * _gamma_kl())
        gaps = getattr(doors_gaps(n, step, GAMMA, router), kind)
        return abs(sum(gaps, fmpq(0))) if signed else _absolute(gaps), SCALE * opening_kl(step)

    return measured


Closed = Callable[[int, Any], ClosedGaps]


def _closed(gaps: Closed, kind: str, kl: float, bound: Callable[[int, fmpq], arb | None]):
    def measured(n: int) -> tuple[fmpq, arb | None]:
        step = _opening(kl)
        found = getattr(gaps(n, step), kind)
        return abs(sum(found, fmpq(0))) if kind == "cached" else _absolute(found), bound(n, step)

    return measured


def _slopes(gaps: Closed, kind: str, predicted: Callable[[int], fmpq]):
    return lambda n: (_leading(getattr(gaps(n, STEP), kind), kind == "cached"), predicted(n))


def _turn_families() -> list[Family]:
    """Gaps of turn-taking teams."""
    span, gamma = "own span B = span(r) = 1", float(GAMMA)

    def routed(router: Any) -> Closed:
        return lambda n, e: doors_gaps(n, e, GAMMA, router)

    return [
        Family("R6.3", TURNS, "doors, the opener goes on", span, ONE, "γ", gamma, _doors("same", "fresh"),
               _slopes(routed("same"), "fresh", lambda n: WORTH), lambda n: gamma),
        Family("R6.3", TURNS, "doors, a new speaker every step", span, fmpq(0), "0 (γ/n)", 0.0, _doors("uniform", "fresh"),
               _slopes(routed("uniform"), "fresh", lambda n: WORTH / n), lambda n: gamma / n, True),
        Family("R6.4", TURNS, "doors, one agent behind", span, ONE, "γ", gamma, _doors("last", "stale"),
               _slopes(routed("last"), "stale", lambda n: WORTH), lambda n: gamma),
        Family("R6.4", TURNS, "doors, a new speaker every step", "own span 1 after the first step", ONE, "γ/2", gamma / 2,
               _doors("uniform", "stale"), _slopes(routed("uniform"), "stale", lambda n: WORTH * (n + 1) / (2 * n)),
               lambda n: gamma * (n + 1) / (2 * n), True),
        Family("R6.5", TURNS, "doors, one agent behind", "ϱ = 1/(1−γ)", ONE, "γ", gamma, _doors("last", "cached", True),
               _slopes(routed("last"), "cached", lambda n: WORTH), lambda n: gamma),
    ]  # fmt: skip


def _product_families() -> list[Family]:
    """Gaps of product teams."""
    kl, gamma = _gamma_kl(), float(GAMMA)

    def own_doors(n: int, e: Any) -> ClosedGaps:
        return product_doors_gaps(n, e, GAMMA)

    def parity(n: int, e: Any) -> ClosedGaps:
        return parity_gaps(n, e, GAMMA)

    def rooms(n: int, e: Any) -> ClosedGaps:
        return rooms_gaps(n, e, GAMMA)

    def linear(n: int, e: fmpq) -> arb:
        return n * SCALE * opening_kl(e)

    def stale(n: int, e: fmpq) -> arb:
        """S7b with own span 1: `Σ_i (δ⁰ + γ/(1−γ)·iδ⁰)/(1−γ)`, `δ⁰ = (1−γ)κ`."""
        return (n + WORTH * _pairs(n)) * opening_kl(e)

    return [
        Family("R6.3", PRODUCT, "own doors", "span(r) = 1", ONE, "γ", gamma, _closed(own_doors, "fresh", kl, linear),
               _slopes(own_doors, "fresh", lambda n: n * WORTH), lambda n: gamma),
        Family("R6.3", PRODUCT, "rooms", "δ⁰ equal, but δ_i = ∞ for i ≥ 2: no bound", TWO, "–", None,
               _closed(rooms, "fresh", kl, lambda n, e: None),
               _slopes(rooms, "fresh", lambda n: GAMMA * WORTH * (1 + _pairs(n - 1))), lambda n: 0.0, True),
        Family("R6.4", PRODUCT, "parity", "own span B = 1", TWO, "1", 1.0, _closed(parity, "stale", kl, stale),
               _slopes(parity, "stale", lambda n: WORTH * _pairs(n)),
               lambda n: gamma * (n + 1) / (2 * (1 - gamma) + gamma * (n + 1))),
        Family("R6.5", PRODUCT, "own doors", "ϱ = 1/(1−γ)", ONE, "γ", gamma, _closed(own_doors, "cached", kl, linear),
               _slopes(own_doors, "cached", lambda n: n * WORTH), lambda n: gamma),
    ]  # fmt: skip


def _episodic_families() -> list[Family]:
    """Gaps of episodic teams."""

    def doors(n: int, e: Any) -> ClosedGaps:
        return relay_doors_gaps(n, e, ROUNDS)

    def rooms(n: int, e: Any) -> ClosedGaps:
        return relay_doors_gaps(n, e, ROUNDS, moving=True)

    def parity(n: int, e: Any) -> ClosedGaps:
        return parity_relay_gaps(n, e, ROUNDS)

    def linear(n: int, e: fmpq) -> arb:
        return n * LATER * opening_kl(e)

    def fresh(n: int, e: fmpq) -> arb:
        """`ϱ Σ_i δ^ep_i`, `δ^ep_i = (1−ε)^{i−1}κ`."""
        return LATER * sum(((1 - e) ** k for k in range(n)), fmpq(0)) * opening_kl(e)

    def stale(n: int, e: fmpq) -> arb:
        """`Bδ^ep[Rn(n+1)/2 + n]`, B = 1."""
        return (ROUNDS * _pairs(n) + n) * opening_kl(e)

    def layers(n: int, e: fmpq) -> arb:
        """S7b by layers: own spans are 0 in round 1 and 1 later."""
        return LATER * _pairs(n) * opening_kl(e)

    return [
        Family("R6.3", EPISODIC, "own doors, relay", f"ϱ = {LATER}", ONE, "1", 1.0, _closed(doors, "fresh", DELTA, fresh),
               _slopes(doors, "fresh", lambda n: fmpq(LATER * n)), lambda n: 1.0),
        Family("R6.3", EPISODIC, "rooms, relay", "δ^{ep,0} equal, but δ^ep_i = ∞ for i ≥ 2: no bound", TWO, "–", None,
               _closed(rooms, "fresh", DELTA, lambda n, e: None), _slopes(rooms, "fresh", lambda n: LATER * _pairs(n)),
               lambda n: 0.0, True),
        Family("R6.4", EPISODIC, "parity relay", "own span B = 1", TWO, "(R−1)/R", LATER / ROUNDS,
               _closed(parity, "stale", DELTA, stale), _slopes(parity, "stale", lambda n: LATER * _pairs(n)),
               lambda n: LATER * (n + 1) / (ROUNDS * (n + 1) + 2)),
        Family("R6.4", EPISODIC, "parity relay, bound by layers", "own span of each layer", TWO, "1", 1.0,
               _closed(parity, "stale", DELTA, layers), _slopes(parity, "stale", lambda n: LATER * _pairs(n)),
               lambda n: 1.0, True),
        Family("R6.5", EPISODIC, "own doors, relay", f"ϱ = {LATER}", ONE, "1", 1.0,
               _closed(doors, "cached", DELTA, linear),
               _slopes(doors, "cached", lambda n: fmpq(LATER * n)), lambda n: 1.0),
    ]  # fmt: skip


def _gap_families() -> list[Family]:
    """In the order of the table: by row, then by column."""
    return sorted([*_turn_families(), *_product_families(), *_episodic_families()], key=lambda family: family.row)


def cells(sizes: Sequence[int] = SIZES) -> list[Cell]:
    """Every cell at `δ⁰ = DELTA` per agent: the left side rational, the bound a ball, compared in balls."""
    with flint.ctx.workprec(PRECISION):
        return [_cell(family, sizes) for family in [*_occupancy_families(max(sizes)), *_gap_families()]]


def _cell(family: Family, sizes: Sequence[int]) -> Cell:
    pairs = [family.measured(n) for n in sizes]
    slopes = [family.coefficients(n) for n in sizes]
    values = np.array([float(arb(value).mid()) for value, _ in pairs])
    bounds = np.array([np.inf if bound is None else float(bound.mid()) for _, bound in pairs])
    return Cell(
        *family[:7], np.array(sizes), values, bounds, log_slope(sizes, values), float(local_slopes(sizes, values)[-1]),
        np.array([family.first_order(n) for n in sizes]),
        wrong=sum(found != predicted for found, predicted in slopes),
        exceeds=sum(bound is not None and arb(value) > bound for value, bound in pairs),
        undecided=sum(bound is not None and not (arb(value) > bound or arb(value) <= bound) for value, bound in pairs),
        extra=family.extra,
    )  # fmt: skip


# --- closed forms against the oracle of teamtr_jax/exact --------------------------------------------------------------


def oracle_mismatches(agents: Sequence[int]) -> tuple[int, int]:
    """`(numbers compared, numbers that differ)` between the closed forms and exact stages, for each n of `agents`.

    Turn-taking families draw the first speaker uniformly from floats, which is exact for powers of two only: n is then
    rounded up to one.
    """
    g, e, half = fmpq(3, 4), fmpq(1, 8), fmpq(1, 2)
    step, discount = 0.125, 0.75
    checks = wrong = 0

    def compare(found: Sequence[fmpq], expected: Sequence[fmpq]) -> None:
        nonlocal checks, wrong
        checks += len(expected)
        wrong += sum(a != b for a, b in zip(found, expected, strict=True))

    def gaps(stage: Any, closed: ClosedGaps) -> None:
        numbers = exact_numbers(exact_stage(stage))
        for name, expected in closed._asdict().items():
            compare(numbers[f"gap_{name}"], expected)

    def shifts(stage: Any, expected: Sequence[fmpq]) -> None:
        numbers = exact_numbers(exact_stage(stage))
        compare([_distance(m, numbers["m"][0]) for m in numbers["m"]], expected)

    for n in agents:
        power = 2 ** math.ceil(math.log2(n))
        for router in ("same", "last", "uniform"):
            gaps(doors_stage(power, step, discount, router), doors_gaps(power, e, g, router))
        uniform, same = [1 / power] * power, [step] * power
        forked = forks_shift([fmpq(1, power)] * power, [e] * power, fmpq(1))
        for stage in (forks_stage(uniform, same, discount), product_forks_stage(uniform, same, discount)):
            shifts(stage, [g * x for x in forked])
        waited = [layer_mean([forked[min(i, t)] for t in range(power)], forked[i], 2) for i in range(power + 1)]
        shifts(relay_forks_stage(uniform, same, 2), waited)
        gaps(product_doors_stage(n, step, discount), product_doors_gaps(n, e, g))
        gaps(rooms_stage(n, step, discount), rooms_gaps(n, e, g))
        for moving in (False, True):
            gaps(relay_doors_stage(n, step, 3, moving), relay_doors_gaps(n, e, 3, moving))
        for branches in (1, 2):
            gaps(parity_stage(n, step, discount, branches), parity_gaps(n, e, g, branches))
            gaps(parity_relay_stage(n, step, 3, branches), parity_relay_gaps(n, e, 3, branches))
        for reverse in (False, True):
            gaps(chain_stage(n, 0.5, step, reverse), chain_gaps(n, half, e, reverse))
        table = count_shifts(n, e)
        shifts(product_count_stage(n, step, discount), [g * table[n][i] for i in range(n + 1)])
        means = [layer_mean([table[t][min(i, t)] for t in range(n)], table[n][i], 2) for i in range(n + 1)]
        shifts(running_count_stage(n, step, 2), means)
    return checks, wrong


def _distance(x: Sequence[fmpq], y: Sequence[fmpq]) -> fmpq:
    """`TV(x/Σx, y/Σy)`, equal totals."""
    return sum((abs(a - b) for a, b in zip(x, y, strict=True)), fmpq(0)) / (2 * sum(y, fmpq(0)))


# --- ledger and figure -----------------------------------------------------------------------------------------------


def _one_turn_each(sizes: Sequence[int]) -> tuple[int, int, fmpq]:
    """R4 on the chain at p = ½, ε = 1/8: `(checks, wrong, Σ stale)`."""
    p, e = HALF, fmpq(1, 8)
    checks = wrong = 0
    total = fmpq(0)
    for n in sizes:
        forward, backward = chain_gaps(n, p, e), chain_gaps(n, p, e, reverse=True)
        total = _absolute(forward.stale)
        vanish = [_absolute(x) for x in (forward.fresh, backward.fresh, backward.stale)]
        remain = [total, _absolute(backward.cached)]
        identity = [total - ((p + e) ** n - p**n - n * e * p ** (n - 1)), remain[1] - total]
        checks += 7
        wrong += sum(x != 0 for x in [*vanish, *identity]) + sum(not x > 0 for x in remain)
    return checks, wrong, total


def run(quick: bool) -> tuple[list[Row], RateCurves]:
    """One row per row of the table; its exponent is that of the product column, the note has every cell."""
    started = time.perf_counter()
    sizes = SIZES[:6] if quick else SIZES
    found = cells(sizes)
    checks, wrong = oracle_mismatches((2,) if quick else (2, 3))
    curves = RateCurves(found, DELTA, checks, wrong)
    taken = time.perf_counter() - started
    rows = []
    for id, quantity in ROWS.items():
        mine = [cell for cell in found if cell.row == id]
        bounded = [cell for cell in mine if cell.limit_value is not None]
        tightest = max(float((cell.values / cell.bounds).max()) for cell in bounded)
        product = next(cell for cell in mine if cell.column == PRODUCT and not cell.extra)
        notes = "; ".join(_note(cell) for cell in mine)
        rows.append(Row(
            id, f"section 4, {quantity}: the rate of every column is attained", "exact; bounds enclosed", len(mine) * len(sizes),
            sum(cell.wrong + cell.exceeds for cell in mine) + (wrong if id == "R6.1" else 0),
            sum(cell.undecided for cell in mine), tightest, 1 - tightest, exponent=product.slope.slope,
            interval=(product.slope.low, product.slope.high), seconds=taken / len(ROWS), checks=2 * len(mine) * len(sizes),
            note=(
                f"δ⁰ = {DELTA:g} for each agent, γ = {float(GAMMA):g}, n = {sizes[0]}…{sizes[-1]}. "
                f"Exponent of this row: product column. {notes}"
            ),
        ))  # fmt: skip
    count, bad, _ = _one_turn_each(sizes)
    rows.append(Row(
        "R6.6", "one turn each (R = 1): forward order fresh = 0, stale ≠ 0; reverse order fresh = stale = 0, cached ≠ 0", "exact",
        2 * len(sizes), bad, 0, None, None, seconds=time.perf_counter() - started - taken, checks=count,
        note="chain, p = ½, ε = 1/8; forward Σ stale = reverse Σ cached = (p+ε)ⁿ − pⁿ − nεpⁿ⁻¹ (R4)",
    ))  # fmt: skip
    return rows, curves


def _note(cell: Cell) -> str:
    ratio = "no bound in δ⁰"
    if cell.limit_value is not None:
        ratio = f"ratio to the bound {cell.ratio:.3f} at n = {cell.sizes[-1]}, limit {cell.limit}"
        if cell.limit_value:
            ratio += f" = {cell.limit_value:.3f}, remaining factor {1 / cell.limit_value:.3f}"
    s = cell.slope
    return (
        f"{cell.column}, {cell.family} ({cell.held}): exponent {cell.exponent} predicted, "
        f"{s.slope:.3f} [{s.low:.3f}, {s.high:.3f}] over n = {cell.sizes[0]}…{cell.sizes[-1]}, "
        f"{cell.tail:.3f} between the last two; {ratio}"
    )


STYLES = {  # colour, marker, size: sums that coincide stay visible
    "R6.1": ("#2166ac", "o", 4),
    "R6.2": ("#67a9cf", "o", 4),
    "R6.3": ("#1b7837", "o", 9),
    "R6.4": ("#b2182b", "s", 6),
    "R6.5": ("#7b3294", "o", 3),
}


def rates_figure(curves: RateCurves, path: Path) -> Path:
    """One panel per column: the left side of every cell (points), its bound (dashed), log-log in n, at equal δ⁰ per agent."""
    figure, axes = panels(len(COLUMNS), 1, (9.6, 12), sharex=True)
    for ax, column in zip(axes[:, 0], COLUMNS, strict=True):
        for cell in (cell for cell in curves.cells if cell.column == column and not cell.extra):
            unit = math.sqrt(curves.delta) if cell.row in ("R6.1", "R6.2") else curves.delta
            label = (
                f"{ROWS[cell.row]}, {cell.family}:\n"
                f"{cell.slope.slope:.2f} [{cell.slope.low:.2f}, {cell.slope.high:.2f}], predicted n^{cell.exponent}"
            )
            colour, marker, size = STYLES[cell.row]
            ax.loglog(cell.sizes, cell.values / unit, marker + "-", ms=size, lw=1, color=colour, label=label)
            ax.loglog(cell.sizes, cell.bounds / unit, "--", lw=1, color=colour)
        held = f"γ = {float(GAMMA):g}" if column != EPISODIC else f"ϱ = {ROUNDS - 1}, or B = 1"
        ax.set(
            title=f"{column}; {held}, δ⁰ = {curves.delta:g} per agent",
            ylabel="TV, D_occ over √δ⁰\nsums of gaps over δ⁰",
        )
        agent_axis(ax, curves.cells[0].sizes)
        ax.legend(fontsize=LEGEND, loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=1.0)
    axes[-1][0].set_xlabel("agents n")
    figure.suptitle(
        "R6 rates that are attained (points: exact team, named in the legend; dashed: its bound)", fontsize=12
    )
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del rng, lock
    rows, curves = run(tier.quick)
    return Found(rows, {"rates.png": partial(rates_figure, curves)})


STUDY = Study("rates", {
    "R6": "Teams in closed form attain every rate in n.",
    "R6.1": "Teams in closed form attain the rate in n at which a stage shifts the occupancy.",
    "R6.2": "Teams in closed form attain the rate in n of what its updates see shifted, in sum.",
    "R6.3": "Teams in closed form attain the rate in n of the sum of fresh gaps.",
    "R6.4": "Teams in closed form attain the rate in n of the sum of stale gaps.",
    "R6.5": "Teams in closed form attain the rate in n of the signed sum of cached gaps.",
    "R6.6": "With one turn each the order decides: forward only staleness costs, backward only the cached surrogate.",
}, _job, apart=True, figures={"rates.png": ("R6", "S3", "S7c")})  # fmt: skip
