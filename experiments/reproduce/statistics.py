"""Intervals over seeds, and verdicts that are computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from teamtr_jax import intervals
from teamtr_jax.intervals import Interval

__all__ = ["LEVEL", "mean", "paired", "p_value", "slope", "share", "in_sign", "in_size", "in_value", "in_order",
           "in_exponent", "within", "ours_alone"]  # fmt: skip

LEVEL = 0.95


def mean(x: ArrayLike) -> Interval:
    """Mean over seeds, with a t interval; everything is possible for less than two seeds."""
    values = np.asarray(x, float)
    return intervals.mean(values, 1 - LEVEL) if values.size else Interval(0.0, -math.inf, math.inf, math.inf, 0)


def paired(x: ArrayLike, y: ArrayLike) -> Interval:
    """Mean of `x − y` over seeds that both have, with the interval of the paired t-test."""
    return mean(np.asarray(x, float) - np.asarray(y, float))


def p_value(found: Interval) -> float | None:
    """Two-sided p of the t-test of a mean against 0; none without a spread."""
    if not 0 < found.error < math.inf:
        return None
    return float(2 * scipy.stats.t.sf(abs(found.value) / found.error, found.n - 1))


def slope(n: ArrayLike, y: ArrayLike) -> Interval | None:
    """Exponent of `y ∝ n^s`: least squares in logarithms for each seed ``y [seeds, sizes]``, then their mean; none if `y ≤ 0`."""
    values = np.asarray(y, float)
    if not (values > 0).all():
        return None
    return mean(np.polyfit(np.log(np.asarray(n, float)), np.log(values).T, 1)[0])


def share(hits: int, tries: int) -> Interval:
    """A share with its Clopper–Pearson interval, as if tries were independent."""
    found = scipy.stats.binomtest(hits, tries).proportion_ci(LEVEL, method="exact")
    return Interval(hits / tries, float(found.low), float(found.high), math.inf, tries)


# ------------------------------------------------------------------------------------------------------------------- verdicts


def in_sign(ours: Interval, paper: float) -> str:
    """Whether the interval lies on the paper's side of zero."""
    low, high = (ours.low, ours.high) if paper > 0 else (-ours.high, -ours.low)
    return "agrees in sign" if low > 0 else "disagrees in sign" if high < 0 else "open: the interval holds 0"


def in_size(ours: Interval, paper: float) -> str:
    """`in_sign`; and where the interval holds 0, whether it leaves room for half of what the paper has, in the same unit."""
    found = in_sign(ours, paper)
    reached = ours.high if paper > 0 else -ours.low
    if not found.startswith("open"):
        return found
    return found if reached >= abs(paper) / 2 else "disagrees in size: less than half of the paper's"


def in_value(ours: Interval, paper: float) -> str:
    """Whether the interval holds the paper's number and neither half nor twice of it; or on which side of it it lies."""
    if ours.n < 2:
        return "open: too few seeds"
    if ours.low <= paper <= ours.high:
        narrow = ours.low > paper / 2 and ours.high < 2 * paper
        return (
            "agrees in value" if narrow else "open: the interval holds the paper's number, its half or its double too"
        )
    return "disagrees: more than the paper's" if ours.low > paper else "disagrees: less than the paper's"


def in_order(differences: Sequence[Interval]) -> str:
    """Whether each of these, positive in the paper, is: differences of neighbours in its order."""
    signs = [in_sign(x, 1.0) for x in differences]
    right, wrong = signs.count("agrees in sign"), signs.count("disagrees in sign")
    if right == len(signs):
        return "agrees in order"
    counts = f"{right} of {len(signs)} as in the paper, {wrong} the other way"
    return f"disagrees in order: {counts}" if wrong else f"open: {counts}"


def in_exponent(ours: Interval | None, paper: Sequence[float]) -> str:
    """Whether the interval reaches the span of what the paper quotes and what its own rows give."""
    if ours is None:
        return "disagrees: not a power, some are 0"
    return "agrees in exponent" if ours.low <= max(paper) and ours.high >= min(paper) else "disagrees in exponent"


def within(ours: Interval, bound: float) -> str:
    """Whether the whole interval is below the bound that the paper states, in absolute value."""
    largest, least = (
        max(abs(ours.low), abs(ours.high)),
        0.0 if ours.low <= 0 <= ours.high else min(abs(ours.low), abs(ours.high)),
    )
    return (
        "agrees" if largest <= bound else "disagrees" if least > bound else f"open: the interval reaches {largest:.2g}"
    )


def ours_alone(verdict: str) -> str:
    """A verdict on a statement that the paper does not make, as far as we know: it neither agrees nor disagrees with it."""
    found = "holds" if verdict.startswith("agrees") else "does not hold" if verdict.startswith("disagrees") else verdict
    return f"ours alone: {found}"
