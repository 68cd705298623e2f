"""Slopes with intervals. A slope is an exponent only over the range it was fitted on, with what was held fixed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from teamtr_jax.intervals import quantile

__all__ = ["Slope", "log_slope", "local_slopes", "bootstrap_slope", "median_interval"]


class Slope(NamedTuple):
    """A fitted exponent and its 95 % interval."""

    slope: float
    low: float
    high: float


def log_slope(n: ArrayLike, y: ArrayLike) -> Slope:
    """Least squares of `log y` on `log n`; the interval is Student's t on the residuals, that is, on how far from a power law."""
    x = np.log(np.asarray(n, float))
    fit: Any = scipy.stats.linregress(x, np.log(np.asarray(y, float)))
    half = quantile(0.975, max(len(x) - 2, 1)) * fit.stderr
    return Slope(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def local_slopes(n: ArrayLike, y: ArrayLike) -> np.ndarray:
    """`Δ log y / Δ log n` between neighbours."""
    return np.diff(np.log(np.asarray(y, float))) / np.diff(np.log(np.asarray(n, float)))


def bootstrap_slope(n: ArrayLike, y: np.ndarray, rng: np.random.Generator, repeats: int = 2000) -> Slope:
    """Slope of the log of the mean over instances, `y` ``[len(n), instances]``; percentile bootstrap over instances."""
    x = np.log(np.asarray(n, float))
    x = x - x.mean()

    def slope(sums: np.ndarray) -> np.ndarray:
        return np.tensordot(np.log(sums), x, (0, 0)) / (x @ x)

    picks = rng.integers(0, y.shape[1], (repeats, y.shape[1]))
    resampled = np.stack([row[picks].mean(-1) for row in y])
    low, high = np.quantile(slope(resampled), [0.025, 0.975])
    return Slope(float(slope(y.mean(-1))), float(low), float(high))


def median_interval(x: ArrayLike) -> tuple[float, float, float]:
    """Median of a sample and its 95 % interval from order statistics: how many lie below it is Bin(n, ½)."""
    found = np.sort(np.asarray(x, float))
    low, high = scipy.stats.binom.interval(0.95, len(found), 0.5)
    return float(np.median(found)), float(found[max(int(low) - 1, 0)]), float(found[min(int(high), len(found) - 1)])
