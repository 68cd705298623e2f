"""S8: lower confidence limits for the mean of B numbers, B fixed beforehand. `anytime` has those for every B."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.finite_sample._inputs import level
from teamtr_jax.finite_sample.samples import Sample
from teamtr_jax.validation import InputError, real_number, whole_number, within

__all__ = ["BOUNDS", "LARGEST", "bernstein_bound", "betting_bound", "betting_log_capital", "require_sample"]

BOUNDS = ("bernstein", "betting")
STAKE = 0.9  # largest share of the capital that a prompt can lose

LARGEST = math.exp(300.0)
"""A bettor takes larger numbers for this one: from above, so that the limit holds, and their squares are finite."""

EDGE = 1e-9
"""Rounding by which a value may leave its range, relative to the range's end."""


def require_sample(sample: Sample, alpha: float, betting: bool = True) -> None:
    """Refuse numbers outside their range, and a range that no bet can use."""
    level(alpha)
    values = np.asarray(sample.values)
    if values.dtype != np.float64:
        raise InputError("sample.values", f"dtype {values.dtype}", "dtype float64")
    real_number("sample.lower", sample.lower, infinite=not betting)
    real_number("sample.upper", sample.upper, sample.lower, infinite=True)
    if not values.shape or values.shape[-1] < 1:
        raise InputError("sample.values", f"shape {list(values.shape)}", "one number or more for each sample, [..., B]")
    low, high = (edge + sign * EDGE * max(1.0, abs(edge)) if math.isfinite(edge) else edge
                 for edge, sign in ((sample.lower, -1), (sample.upper, 1)))  # fmt: skip
    within("sample.values", values, low, high, expected=f"numbers in [{sample.lower:g}, {sample.upper:g}]")


def bernstein_bound(sample: Sample, alpha: float) -> NDArray[np.float64]:
    """Maurer and Pontil (2009): `Z̄ − √(2V ln(2/α)/B) − 7b ln(2/α)/(3(B−1))`, b the width of the range, V the sample variance.

    −∞ where the range is infinite or B = 1.

    Raises:
      InputError: a value outside the range or NaN, or `alpha` outside (0, 1).
    """
    require_sample(sample, alpha, betting=False)
    prompts, width = sample.values.shape[-1], sample.upper - sample.lower
    mean = np.asarray(sample.values.mean(-1))
    if prompts == 1 or math.isinf(width):
        return np.full_like(mean, -np.inf)
    scale = math.log(2 / alpha)
    spread = np.sqrt(2 * sample.values.var(-1, ddof=1) * scale / prompts)
    return np.asarray(mean - spread - 7 * width * scale / (3 * (prompts - 1)))


def _bets(sample: Sample, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values, and the bets on them but for the limit that a mean sets; [..., B]."""
    z = np.minimum(sample.values, LARGEST)
    prompts = z.shape[-1]
    past = np.concatenate([np.zeros_like(z[..., :1]), np.cumsum(z**2, -1)[..., :-1]], -1)
    variance = (max(sample.lower**2 / 4, 1 / LARGEST) + past) / np.arange(1, prompts + 1)
    return z, np.sqrt(2 * math.log(1 / alpha) / (prompts * variance))


def _log_capital(
    z: NDArray[np.float64], bets: NDArray[np.float64], lower: float, mean: ArrayLike
) -> NDArray[np.float64]:
    """`Σ_{s≤t} log(1 + λ_s(Z_s − mean))` for every t; [..., B]."""
    room = np.asarray(mean, np.float64)[..., None] - lower
    with np.errstate(divide="ignore"):  # against the lower end itself there is nothing to lose
        cap = STAKE / room
    return np.cumsum(np.log1p(np.minimum(bets, cap) * (z - lower - room)), -1)


def betting_log_capital(sample: Sample, mean: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """`max_t Σ_{s≤t} log(1 + λ_s(Z_s − mean))`, the log capital of a bettor against `E Z ≤ mean`, `mean ≥ lower`; [...].

    Bets `λ_t = min(√(2 ln(1/α)/(B·V_{t−1})), 0.9/(mean − lower))`, V the running mean square started at `lower²/4` (after
    Waudby-Smith and Ramdas 2024). Of the range only the lower end is used. Every factor decreases in `mean`; where
    `E[Z_t | past] ≤ mean` the capital is a nonnegative supermartingale and reaches 1/α with probability at most α (Ville).

    Raises:
      InputError: a value outside the range or NaN, `alpha` outside (0, 1), or a mean that is NaN or below the range.
    """
    require_sample(sample, alpha)
    means = np.asarray(mean, np.float64)
    expected = f"a finite number, at least the lower end {sample.lower:g}"
    within("mean", means, sample.lower, below=np.inf, expected=expected)
    return np.asarray(_log_capital(*_bets(sample, alpha), sample.lower, mean).max(-1))


def betting_bound(sample: Sample, alpha: float, iterations: int = 60) -> NDArray[np.float64]:
    """The largest mean that `betting_log_capital` rejects at `ln(1/α)`, by bisection from below; [...].

    Raises:
      InputError: a value outside the range or NaN, `alpha` outside (0, 1), or no iteration.
    """
    require_sample(sample, alpha)
    whole_number("iterations", iterations, 1)
    (z, bets), enough = _bets(sample, alpha), math.log(1 / alpha)
    low, high = np.full(z.shape[:-1], sample.lower), z.max(-1)
    for _ in range(iterations):
        middle = (low + high) / 2
        rejected = _log_capital(z, bets, sample.lower, middle).max(-1) >= enough
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low
