"""Importance weights, monitored shares of tokens, advantages: NumPy on the host, float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.intervals import Interval

__all__ = ["Weights", "plain", "weights", "flips", "leave_one_out", "normalised", "k3", "gain", "grow", "growth"]

BLOCKS = 1024
LARGEST = 700.0
"""Log ratios are cut at this before they are exponentiated."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Weights(NamedTuple):
    """Importance weights of whole rollouts (Table 10)."""

    ess: float  #: `(Σw)²/(N Σw²)`
    p95: float
    p99: float
    largest: float
    above_ten: float  #: share above 10
    n: int  #: rollouts


def plain(x: Interval | None) -> dict[str, Any] | None:
    """As it stands in a record."""
    if x is None:
        return None
    return {"value": x.value, "low": x.low, "high": x.high, "n": x.n}


def grow(log_ratio: Floats) -> Floats:
    """`exp`, kept finite."""
    return np.exp(np.minimum(log_ratio, LARGEST))


def growth(log_ratio: Floats) -> Floats:
    """`exp − 1`, kept finite."""
    return np.expm1(np.minimum(log_ratio, LARGEST))


def gain(log_weight: Floats, log_ratio: Floats) -> Floats:
    """`w(r − 1)` at `log w` and `log r`: no difference of large numbers; ±∞ where it is too large for float64."""
    with np.errstate(over="ignore", divide="ignore"):
        size = np.maximum(log_ratio, 0.0) + np.log(-np.expm1(-abs(log_ratio)))
        return np.sign(log_ratio) * np.exp(log_weight + size)


def k3(log_ratio: Floats) -> Floats:
    """`r − 1 − log r ≥ 0` at `log r`; its mean under the old policy is KL(old‖new) where the new one opens nothing.

    ∞ where it is too large for float64.
    """
    with np.errstate(over="ignore"):
        return np.expm1(log_ratio) - log_ratio


def weights(log_weight: Floats) -> Weights:
    """Effective sample size and upper tail.

    Example:
      >>> print(round(weights(np.log([1.0, 1.0, 1.0, 3.0])).ess, 12))
      0.75
    """
    w = grow(log_weight)
    scaled = w / w.max() if w.max() > 0 else w
    square = float(scaled @ scaled)
    p95, p99 = np.percentile(w, [95.0, 99.0])
    ess = float(scaled.sum()) ** 2 / (w.size * square) if square > 0 else 0.0
    return Weights(ess, float(p95), float(p99), float(w.max()), float((w > 10).mean()), w.size)


def flips(
    values: Floats, messages: int, threshold: float, shares: Sequence[float], draws: int, rng: np.random.Generator
) -> list[float]:
    """Share of sub-samples of the tokens in which the decision `mean per message > threshold` is another one (Table 8).

    A sub-sample is a random share of the tokens; its mean, times the tokens per message, is compared. Tokens are dealt to
    `BLOCKS` blocks at random, once, and a sub-sample is a random choice of blocks: marginally a random choice of tokens.
    """
    n = values.size
    blocks = min(n, BLOCKS)
    place = rng.permutation(np.arange(n, dtype=np.int32) % blocks)
    total, size = np.bincount(place, values, blocks), np.bincount(place, minlength=blocks)
    whole = values.sum() / messages > threshold
    order = rng.permuted(np.tile(np.arange(blocks), (draws, 1)), axis=1)
    out = []
    for share in shares:
        kept = order[:, : max(1, round(blocks * share))]
        estimate = total[kept].sum(1) / size[kept].sum(1) * (n / messages)
        out.append(float(((estimate > threshold) != whole).mean()))
    return out


def leave_one_out(reward: Floats, cluster: Ints, clusters: int) -> Floats:
    """`R_g − R̄_{−g}` over the other rollouts of the prompt; R itself where there is no other."""
    total, size = np.bincount(cluster, reward, clusters)[cluster], np.bincount(cluster, minlength=clusters)[cluster]
    others = np.maximum(size - 1, 1)
    return reward - np.where(size > 1, (total - reward) / others, 0.0)


def normalised(reward: Floats, cluster: Ints, clusters: int, epsilon: float = 1e-8) -> Floats:
    """`(R−μ)/√(σ²+ε)` over the rollouts of the prompt."""
    size = np.bincount(cluster, minlength=clusters)
    centred = reward - (np.bincount(cluster, reward, clusters) / size)[cluster]
    spread = np.sqrt(np.bincount(cluster, centred**2, clusters) / size + epsilon)
    return centred / spread[cluster]
