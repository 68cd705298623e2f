"""A number with its interval, and the one place where Student's t is asked: NumPy on the host, float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "quantile", "interval", "mean", "ratio", "two_means", "lower_limit", "upper_limit"]

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate from `n` independent units (prompts, seeds, instances) with its two-sided interval.

    Of a mean, the interval is Student's t: the whole line where n = 1.
    """

    value: float
    low: float
    high: float
    error: float  #: standard error; ∞ where n = 1, and where the interval is not made from one
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def quantile(level: float, freedom: float) -> float:
    """The number below which Student's t with so many degrees of freedom lies with probability `level`.

    Example:
      >>> print(round(quantile(0.975, 2), 6))
      4.302653
    """
    from scipy.special import stdtrit  # here: half of the time that it takes to import the monitor

    return float(stdtrit(freedom, level))


def interval(value: float, error: float, n: int, alpha: float, freedom: float | None = None) -> Interval:
    """`value ± t·error`, `n − 1` degrees of freedom unless given; the whole line where n = 1."""
    if n < 2:
        return Interval(value, -np.inf, np.inf, np.inf, n)
    half = quantile(1 - alpha / 2, n - 1 if freedom is None else freedom) * error
    return Interval(value, value - half, value + half, error, n)


def _undefined(value: float, n: int) -> Interval:
    """Where exponentials overflow: an infinite mean, −∞ where terms of both signs do, and the whole line."""
    return Interval(-np.inf if np.isnan(value) else value, -np.inf, np.inf, np.inf, n)


@np.errstate(over="ignore", invalid="ignore")
def mean(values: Floats, alpha: float) -> Interval:
    """`Z̄ ± t·s/√n`, one independent value per unit.

    Example:
      >>> print(mean(np.array([1.0, 2.0, 3.0]), 0.05))
      2 [-0.484, 4.48]
    """
    n = values.size
    value = float(values.mean())
    if not np.isfinite(value):
        return _undefined(value, n)
    error = float(values.std(ddof=1)) / n**0.5 if n > 1 else np.inf
    return interval(value, error, n, alpha)


@np.errstate(over="ignore", invalid="ignore")
def ratio(total: Floats, count: Floats, alpha: float) -> Interval:
    """`ΣX/ΣN` over units, its error linearised: `√(n/(n−1) Σ(X − r̂N)²)/ΣN`."""
    n, whole = total.size, float(count.sum())
    value = float(total.sum()) / whole
    if not np.isfinite(value):
        return _undefined(value, n)
    rest = total - value * count
    error = (n / (n - 1) * float(rest @ rest)) ** 0.5 / whole if n > 1 else np.inf
    return interval(value, error, n, alpha)


def two_means(new: Floats, old: Floats, alpha: float) -> Interval:
    """`Z̄' − Z̄` of independent samples (Welch)."""
    sizes = np.array([new.size, old.size])
    n = int(sizes.min())
    value = float(new.mean() - old.mean())
    if n < 2:
        return interval(value, np.inf, n, alpha)
    parts = np.array([new.var(ddof=1), old.var(ddof=1)]) / sizes
    total = float(parts.sum())
    freedom = total**2 / float((parts**2 / (sizes - 1)).sum()) if total > 0 else n - 1.0
    return interval(value, total**0.5, n, alpha, freedom)


def lower_limit(found: Interval, alpha: float) -> float:
    """One-sided lower confidence limit of level `1 − alpha`; −∞ where there is no standard error."""
    return found.value - quantile(1 - alpha, found.n - 1) * found.error if found.error < np.inf else -np.inf


def upper_limit(found: Interval, alpha: float) -> float:
    """One-sided upper confidence limit of level `1 − alpha`; ∞ where there is no standard error."""
    return found.value + quantile(1 - alpha, found.n - 1) * found.error if found.error < np.inf else np.inf
