"""Statistics of runs: over instances, with bootstrap intervals. Everything is computed from saved records."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.tabular.runs import Records

__all__ = ["Interval", "bootstrap", "objective", "closed", "regressions", "instability", "rollouts", "outside"]


class Interval(NamedTuple):
    """A statistic over instances and its 95 % percentile-bootstrap interval; `n` instances."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap(
    x: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]] = np.median,
    repeats: int = 2000,
    seed: int = 0,
) -> Interval:
    """`statistic(x, axis=…)` over instances ``[N]``, resampled with replacement."""
    x = np.asarray(x, float)
    picks = np.random.default_rng(seed).integers(0, x.size, (repeats, x.size))
    low, high = np.quantile(statistic(x[picks], axis=-1), [0.025, 0.975])
    return Interval(float(statistic(x, axis=-1)), float(low), float(high), x.size)


def objective(run: Records) -> NDArray[np.float64]:
    """``[stages + 1, N]``: exact J before the first stage and after each."""
    return np.concatenate([run["exact.objective_before"][:1, 0], run["exact.objective_after"][:, -1]])


def closed(run: Records) -> NDArray[np.float64]:
    """``[N]``: the share of the gap to the optimum that training closed, `(J_end − J_start)/(J* − J_start)`."""
    j = objective(run)
    return (j[-1] - j[0]) / (np.asarray(run.about["optimum"]) - j[0])


def regressions(run: Records) -> NDArray[np.float64]:
    """``[N]``: share of the updates with `J(π̂ⁱ) < J(π̂ⁱ⁻¹)`, exactly (beyond rounding)."""
    return run["exact.regression"].mean((0, 1))


def instability(run: Records) -> NDArray[np.float64]:
    """``[N]``: mean loss of an update, `max(0, J(π̂ⁱ⁻¹) − J(π̂ⁱ))`, in percent of `J*`."""
    return 100 * np.maximum(-run["exact.improvement"], 0).mean((0, 1)) / np.asarray(run.about["optimum"])


def rollouts(run: Records) -> NDArray[np.float64]:
    """``[N]``: rollouts collected a stage."""
    return run["rollouts"].sum(1).mean(0)


def outside(run: Records, radius: float) -> NDArray[np.float64]:
    """``[N]``: share of the updates whose exact `E_d KL(current‖new)` under the intermediate team exceeds the radius by 1 %."""
    return (run["exact.kl"] > 1.01 * radius).mean((0, 1))
