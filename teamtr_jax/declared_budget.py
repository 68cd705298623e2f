"""S10 for a declared budget: what a trainer can print that keeps `Σ_t χ²(s_t)` of every episode below `X`. NumPy, no jax.

It bounds `|J(π') − J(π) − L|` for the *exact* surrogate `L`. A surrogate that was estimated, or maximised, on the same
rollouts is off by its own error, which is in no number here (`teamtr_jax.finite_sample` has what samples certify of an
improvement).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from teamtr_jax.validation import InputError, positive, real_number, within

__all__ = ["deviation_limit", "chi_square_penalty"]


def deviation_limit(returns: ArrayLike, alpha: float, span: float = 1.0) -> float:
    """`√V_B + ϱ√(2 ln(1/α)/(B−1))`, at most `ϱ/2`: with probability `1 − α` at least the standard deviation of the return.

    `V_B` is the unbiased variance of B returns (Maurer and Pontil 2009, theorem 10).

    Args:
      returns: ``[B]``, of independent episodes of the policy that the bound is about: one of each prompt, not a whole group.
      alpha: probability of error.
      span: `ϱ`, the range of the return; the returns lie in an interval of this length.

    Raises:
      InputError: fewer than two returns, one that is not finite, returns further apart than `span`, `alpha` not in (0, 1).

    Example:
      >>> print(round(deviation_limit([0.0, 1.0] * 500, 0.05), 4), round(deviation_limit([0.0, 0.0, 0.0, 1.0] * 2500, 0.05), 4))
      0.5 0.4575
    """
    x = np.asarray(returns, np.float64)
    positive("span", span)
    real_number("alpha", alpha, above=0.0, below=1.0)
    if x.ndim != 1 or x.size < 2:
        raise InputError("returns", f"shape {list(x.shape)}", "[B], two returns or more")
    within("returns", x, -math.inf, math.inf, expected="finite numbers")
    if not np.isfinite(x).all() or np.ptp(x) > span:
        raise InputError("returns", f"{x.min():g} to {x.max():g}", f"finite numbers at most the span apart, {span:g}")
    limit = x.std(ddof=1) + span * math.sqrt(2 * math.log(1 / alpha) / (x.size - 1))
    return float(min(limit, span / 2))


def chi_square_penalty(budget: float, deviation: float | None = None, span: float = 1.0) -> float:
    """S10: `sd·√(e^X − 1 − X)` for a declared budget `X`, in units of the return.

    Args:
      budget: `X ≥ 0`, more than which no episode spends: the sum over its turns (of all agents, over a lag of all updates).
      deviation: at least the standard deviation of the return (`deviation_limit`); default `ϱ/2`, which always is.
      span: `ϱ`.

    Raises:
      InputError: a number that is negative or not finite.

    Example:
      >>> print(round(chi_square_penalty(0.02), 6), round(chi_square_penalty(0.02, 0.3), 6))
      0.007095 0.004257
    """
    x = real_number("budget", budget, 0.0)
    positive("span", span)
    sd = span / 2 if deviation is None else min(real_number("deviation", deviation, 0.0), span / 2)
    if x < 0.5:  # where subtraction would cancel
        root = x * math.sqrt(sum(x**k / math.factorial(k + 2) for k in range(14)))
    else:
        root = math.sqrt(math.expm1(x) - x) if x < 700 else math.inf
    return sd * root if sd > 0 else 0.0
