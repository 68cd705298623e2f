"""Statistics of runs: over instances, with bootstrap intervals. Everything is computed from saved records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.tabular.runs import Floats, Records
from teamtr_jax.intervals import Interval

__all__ = [
    "resampled",
    "interval",
    "bootstrap",
    "objective",
    "closed",
    "regressions",
    "instability",
    "rollouts",
    "outside",
]


def resampled(
    statistic: Callable[..., Floats], *columns: NDArray[Any], repeats: int = 2000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """`statistic(*columns, axis=-1)` and the limits of its pointwise 95 % percentile-bootstrap interval.

    Instances, the last axis of ``[..., N]``, are resampled with replacement, the same ones in every column. One instance alone
    has no spread: both limits are the value.
    """
    value = statistic(*columns, axis=-1)
    if columns[0].shape[-1] == 1:
        return value, value, value
    found = scipy.stats.bootstrap(
        columns, statistic, n_resamples=repeats, vectorized=True, paired=True, axis=-1, confidence_level=0.95,
        method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return value, *found.confidence_interval


def interval(statistic: Callable[..., Floats], *columns: NDArray[Any], repeats: int = 2000) -> Interval:
    """`resampled` of one number, over instances."""
    value, low, high = (float(x) for x in resampled(statistic, *columns, repeats=repeats))
    return Interval(value, low, high, np.inf, columns[0].shape[-1])


def bootstrap(x: Floats, statistic: Callable[..., Floats] = np.median) -> Interval:
    """`statistic(x, axis=-1)` over instances ``[N]``."""
    return interval(statistic, np.asarray(x, float))


def objective(run: Records) -> Floats:
    """``[stages + 1, N]``: exact J before the first stage and after each."""
    return np.concatenate([run["exact.objective_before"][:1, 0], run["exact.objective_after"][:, -1]])


def closed(run: Records) -> Floats:
    """``[N]``: the share of the gap to the optimum that training closed, `(J_end − J_start)/(J* − J_start)`."""
    j = objective(run)
    return (j[-1] - j[0]) / (np.asarray(run.about["optimum"]) - j[0])


def regressions(run: Records) -> Floats:
    """``[N]``: share of the updates with `J(π̂ⁱ) < J(π̂ⁱ⁻¹)`, exactly (beyond rounding)."""
    return run["exact.regression"].mean((0, 1))


def instability(run: Records) -> Floats:
    """``[N]``: mean loss of an update, `max(0, J(π̂ⁱ⁻¹) − J(π̂ⁱ))`, in percent of `J*`."""
    return 100 * np.maximum(-run["exact.improvement"], 0).mean((0, 1)) / np.asarray(run.about["optimum"])


def rollouts(run: Records) -> Floats:
    """``[N]``: rollouts collected a stage."""
    return run["rollouts"].sum(1).mean(0)


def outside(run: Records, radius: float) -> Floats:
    """``[N]``: share of the updates whose exact `E_d KL(current‖new)` under the intermediate team exceeds the radius by 1 %."""
    return (run["exact.kl"] > 1.01 * radius).mean((0, 1))
