"""Levels of the intervals of slopes: written apart, and by how often they hold the truth."""

import math

import numpy as np
import pytest

from theory.fits import bootstrap_slope, local_slopes, log_slope


@pytest.mark.parametrize(
    ("points", "quantile"), [(3, 12.706204736432095), (4, 4.302652729911275), (6, 2.7764451051977987)]
)
def test_a_fit_has_the_interval_of_student(points, quantile):
    """`slope ± t_{.975, n−2}·s/√Σ(x−x̄)²`, s² the residuals' sum of squares over n − 2; quantiles from a table."""
    n = 2.0 ** np.arange(points)
    y = 3 * n**1.5 * np.exp(0.1 * np.cos(3.0 * np.arange(points)))
    x, z = np.log(n), np.log(y)
    slope = ((x - x.mean()) * z).sum() / ((x - x.mean()) ** 2).sum()
    residual = z - z.mean() - slope * (x - x.mean())
    error = math.sqrt((residual**2).sum() / (points - 2) / ((x - x.mean()) ** 2).sum())
    found = log_slope(n, y)
    assert found == pytest.approx((slope, slope - quantile * error, slope + quantile * error), rel=1e-9)


def test_local_slopes_are_between_neighbours():
    assert local_slopes([1, 2, 8], [1, 4, 2]) == pytest.approx([2, -0.5])


def test_the_bootstrap_is_over_instances_and_holds_95_per_cent():
    """The slope of the mean; of samples of lognormal noise the interval holds the truth in 95 %, a little less for so few."""
    n = np.array([2, 4, 8])
    y = n[:, None] ** 2.0 * np.array([[0.5, 1.5, 1.0]] * 3)
    assert bootstrap_slope(n, y, np.random.default_rng(0))[:1] == pytest.approx((2.0,))
    few = n[:, None] * np.array([[0.1, 5.0, 1.0], [3.0, 0.2, 9.0], [1.0, 7.0, 0.1]])
    expected = np.polyfit(np.log(n), np.log(few.mean(-1)), 1)[0]
    assert bootstrap_slope(n, few, np.random.default_rng(0), 50).slope == pytest.approx(expected, rel=1e-12)
    rng, held, widths = np.random.default_rng(1), [], []
    for _ in range(300):
        found = bootstrap_slope(n, n[:, None] ** 1.5 * rng.lognormal(0, 0.3, (3, 60)), rng, 200)
        held.append(found.low <= 1.5 <= found.high)
        widths.append(found.high - found.low)
    # Clopper–Pearson of 300: a level of 95 % gives .92 … .975; 90 % or 99 % do not.
    assert 0.91 <= np.mean(held) <= 0.98
    sd = (
        math.sqrt((math.exp(0.09) - 1) / 60) * math.sqrt(2) / (2 * math.log(2))
    )  # of the slope: ±1 over two steps of log 2
    assert np.mean(widths) == pytest.approx(2 * 1.96 * sd, rel=0.06)
