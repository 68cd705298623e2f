"""S8 with a number of prompts that the data decide: a lower limit that is valid at every number of prompts at once.

For numbers `Z_t ≥ ℓ` with `E[Z_t | past] ≤ m` and every rate `a ≥ 0`, `∏_t (1 + a(Z_t − ℓ))/(1 + a(m − ℓ))` is a nonnegative
supermartingale that starts at 1: the capital of one who always bets the same share against the mean m. A mixture of such capitals
over a grid of rates is one too, and reaches 1/α at any time with probability at most α (Ville). So the whole past is kept in one
number for each rate, whatever m is, and nothing has to be tuned or planned.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.finite_sample._inputs import level, numbers
from teamtr_jax.finite_sample.certificate import FALSE_ALARM, log_ratios, rewards, weight_capital
from teamtr_jax.finite_sample.limits import LARGEST, require_sample
from teamtr_jax.finite_sample.samples import Sample, path_sample
from teamtr_jax.validation import InputError, real_number, shaped, within

__all__ = ["RATES", "AnytimeState", "anytime_start", "anytime_update", "anytime_certificate", "anytime_capital",
           "anytime_log_capital"]  # fmt: skip

RATES: NDArray[np.float64] = np.exp2(np.arange(4.0, -20.0, -1.0))
"""`a·|ℓ|`. Against m = 0 a prompt can lose the share `a|ℓ|/(1 + a|ℓ|)` of the capital: from 94 % down to two millionths."""

_TURN = np.arange(1, len(RATES) + 1)
_LOG_SHARE = np.log((len(RATES) + 1) / len(RATES) / (_TURN * (_TURN + 1)))
"""Logarithm of the share of the first capital that each rate is given: `1/(j(j+1))`, the largest rate half."""


class AnytimeState(NamedTuple):
    """All that is kept of the prompts seen so far; leading axes are independent streams."""

    alpha: float  #: probability that the limit is ever above the mean
    lower: float  #: `ℓ`: no number can be smaller
    prompts: int | NDArray[np.int64]  #: how many numbers were seen
    log_products: NDArray[np.float64]  #: [..., J], `Σ_t log(1 + a_j(Z_t − ℓ))`
    limit: NDArray[
        np.float64
    ]  #: [...], the greatest limit so far; −∞ once the weights contradict what is said of the rollouts
    weights: NDArray[np.float64]  #: [..., 4], log capitals against `E Λ ≤ 1`
    contradiction: NDArray[np.bool_]  #: [...], whether their mean was ever above 1/FALSE_ALARM


def anytime_start(alpha: float, lower: float = -1.0, streams: tuple[int, ...] = ()) -> AnytimeState:
    """No prompt seen.

    Args:
      alpha: probability of error, once for all prompts that will ever be seen.
      lower: `ℓ`, the lower end of the range of the numbers: −1 for `path_sample`, `log_sample` and `truncated_sample`.
      streams: shape of the leading axes.

    Raises:
      InputError: if `alpha` is no probability strictly between 0 and 1, or `lower` is not a finite number.
    """
    alpha, lower = level(alpha), real_number("lower", lower)
    zeros = np.zeros((*streams, len(RATES)))
    return AnytimeState(alpha, lower, 0, zeros, np.full(streams, lower), zeros[..., :4], np.zeros(streams, bool))


def _rates(lower: float) -> NDArray[np.float64]:
    return np.asarray(RATES / (abs(lower) or 1.0))


def _log_factors(values: NDArray[np.float64], lower: float) -> NDArray[np.float64]:
    """`log(1 + a_j(Z − ℓ))`, [..., J]."""
    above = np.maximum(np.minimum(values, LARGEST) - lower, 0.0)
    return np.log1p(_rates(lower) * above[..., None])


def _largest_rejected(state: AnytimeState) -> NDArray[np.float64]:
    """The mean at which the capital is 1/α, by Newton's method from the left, where a convex decreasing function keeps it."""
    rates, room = _rates(state.lower), np.zeros(state.limit.shape)
    for _ in range(400):
        paid = np.log1p(rates * room[..., None])
        terms = _LOG_SHARE + state.log_products - state.prompts * paid
        excess = np.logaddexp.reduce(terms, -1)
        share = np.exp(terms - excess[..., None])
        slope = state.prompts * (share * rates / (1 + rates * room[..., None])).sum(-1)
        step = np.maximum((excess + math.log(state.alpha)) / slope, 0.0)
        room = room + step
        if (step <= 1e-13 * room).all():
            break
    return np.asarray(state.lower + room)


def anytime_update(
    state: AnytimeState, sample: Sample, log_weight: ArrayLike | None = None
) -> tuple[AnytimeState, NDArray[np.float64]]:
    """The state after more prompts, and the limit: `P(limit > E Z after any number of updates) ≤ alpha`.

    `E Z` may differ from prompt to prompt: the limit is one for every m with `E[Z_t | past] ≤ m` for all t. So the estimator's
    settings and the number of rollouts may follow from the prompts seen before, and stopping may follow from anything. The
    policy after the update may not change. Within one batch the order does not matter.

    Args:
      sample: [..., B] numbers of new prompts, their range within that of the state.
      log_weight: [..., B, G], `log Λ` of the rollouts; where they contradict `E Λ ≤ 1` (`weight_evidence`) the limit is −∞ from
        then on.

    Raises:
      InputError: a value outside the range or NaN, a range that begins below that of the state, or other streams.
    """
    require_sample(sample, state.alpha)
    values = np.asarray(sample.values)
    real_number("sample.lower", sample.lower, state.lower)
    if values.shape[:-1] != state.limit.shape:
        raise InputError(
            "sample.values", f"streams of shape {list(values.shape[:-1])}", f"{list(state.limit.shape)}, as in state"
        )
    moved = state._replace(
        prompts=state.prompts + values.shape[-1],
        log_products=state.log_products + _log_factors(values, state.lower).sum(-2),
    )
    if log_weight is not None:
        x = numbers("log_weight", log_weight)
        shaped("log_weight", x, (*values.shape, "G"))
        capital = state.weights + weight_capital(x)
        mean = np.logaddexp.reduce(capital, -1) - math.log(capital.shape[-1])
        moved = moved._replace(
            weights=capital, contradiction=np.asarray(state.contradiction | (mean > -math.log(FALSE_ALARM)))
        )
    limit = np.maximum(state.limit, _largest_rejected(moved))
    limit = np.asarray(np.where(moved.contradiction, -np.inf, limit))
    return moved._replace(limit=limit), limit


def anytime_certificate(
    state: AnytimeState, reward: ArrayLike, log_ratio: ArrayLike, zeros: bool = False
) -> tuple[AnytimeState, float]:
    """S8, path weights: rollouts of more prompts → the state and a limit for `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`, valid whenever one stops.

    `finite_sample_certificate` for a trainer that goes on collecting until the limit is positive. No limit exceeds 1; −∞ once
    the weights contradict that the rollouts are of `π̂ⁱ⁻¹` and `π̂ⁱ` has not seen them (false alarms below 1e-6, at any time).

    Args:
      state: from `anytime_start(alpha)`; `π̂ⁱ` is the same in all calls.
      reward: [B, G] outcome rewards in [0, 1], B ≥ 1 new prompts.
      log_ratio: [B, G, τ], `log π̂ⁱ/π̂ⁱ⁻¹` of the updated agent's messages, zero where there is none.
      zeros: as in `finite_sample_certificate`.

    Raises:
      InputError: a shape, a range or a NaN.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> state, limit = anytime_start(alpha=0.1), -1.0
      >>> while limit <= 0:  # one message: up or not, ½ → 0.6; the reward is 1 after up
      ...     up = rng.random((10, 1, 1)) < 0.5
      ...     state, limit = anytime_certificate(state, up[..., 0] * 1.0, np.log(np.where(up, 1.2, 0.8)))
      >>> print(state.prompts < 200, 0 < limit < 0.1)
      True True
    """
    r = rewards("reward", reward, 1)
    x = log_ratios("log_ratio", log_ratio, r, -np.inf if zeros else None)
    state, limit = anytime_update(state, path_sample(r, x), x.sum(-1))
    return state, min(float(limit), 1.0)


def anytime_capital(state: AnytimeState, mean: ArrayLike) -> NDArray[np.float64]:
    """`log Σ_j w_j ∏_t (1 + a_j(Z_t − ℓ))/(1 + a_j(m − ℓ))`, the log capital against `E Z ≤ m`; decreasing in m, [...].

    Raises:
      InputError: a mean that is NaN, infinite or below the range.
    """
    means = np.asarray(mean, np.float64)
    within(
        "mean", means, state.lower, below=np.inf, expected=f"a finite number, at least the lower end {state.lower:g}"
    )
    paid = np.log1p(_rates(state.lower) * (means[..., None] - state.lower))
    capital = _LOG_SHARE + state.log_products - np.asarray(state.prompts)[..., None] * paid
    return np.asarray(np.logaddexp.reduce(capital, -1))


def anytime_log_capital(sample: Sample, mean: ArrayLike) -> NDArray[np.float64]:
    """`anytime_capital` after each of the prompts, [..., B]; at least `ln(1/α)` where the limit is at least `mean`.

    Raises:
      InputError: a value outside the range or NaN, or a mean that is NaN, infinite or below the range.
    """
    require_sample(sample, 0.5)
    products = np.cumsum(_log_factors(np.asarray(sample.values), sample.lower), -2)
    state = anytime_start(0.5, sample.lower)._replace(
        log_products=products, prompts=np.arange(1, products.shape[-2] + 1)
    )
    return anytime_capital(state, np.asarray(mean)[..., None])
