"""S12: certificates from the rollouts of a sampler that is neither of the two policies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.finite_sample._inputs import level
from teamtr_jax.finite_sample.certificate import Certificate, certificate_of, log_ratios, rewards
from teamtr_jax.finite_sample.samples import Sample, path_weight, rollouts_of
from teamtr_jax.validation import one_of

__all__ = ["mismatch_certificate", "mismatch_sample"]


def mismatch_sample(
    reward: NDArray[np.float64],
    log_ratio_current: NDArray[np.float64],
    log_ratio_new: NDArray[np.float64],
    estimator: str = "path",
) -> Sample:
    """S12, rollouts of μ: `Z = G⁻¹Σ_g [R_g(Λ'_g − 1) + (1 − R_g)(Λ_g − 1)]`, Λ = π̂ⁱ⁻¹/μ and Λ' = π̂ⁱ/μ of the whole path.

    `"log"`: `max(−1, log Λ)` for `Λ − 1`, S9's floor for π̂ⁱ and its ceiling for π̂ⁱ⁻¹. Neither is below −1, whatever μ cuts off.
    """
    reward, new, _ = rollouts_of(reward, log_ratio_new)
    _, current, _ = rollouts_of(reward, log_ratio_current)
    if estimator == "path":
        gained, held = path_weight(new) - 1, path_weight(current) - 1
    else:
        gained, held = np.maximum(new.sum(-1), -1), np.maximum(current.sum(-1), -1)
    with np.errstate(invalid="ignore"):  # 0·∞: a weight beyond the numbers where R is 0 or 1
        values = np.where(reward > 0, reward * gained, 0.0) + np.where(reward < 1, (1 - reward) * held, 0.0)
    return Sample(values.mean(-1), -1.0, math.inf)


def mismatch_certificate(
    reward: ArrayLike,
    log_ratio_current: ArrayLike,
    log_ratio_new: ArrayLike,
    *,
    alpha: float,
    estimator: str = "path",
    zeros: bool = False,
) -> Certificate:
    """S12: the betting limit for `J(π̂ⁱ) − J(π̂ⁱ⁻¹)` from rollouts of a sampler μ that may be neither of the two.

    `E Z` of `mismatch_sample` is the improvement where μ can write all that the two policies play, and below it otherwise.
    What is deployed is the sampler's own `μ'`: of its numbers `finite_sample_certificate` certifies `J(μ') − J(μ)` itself.

    Args:
      reward: [B, G] outcome rewards in [0, 1] of B independent prompts, G rollouts of μ each.
      log_ratio_current: [B, G, τ], `log π̂ⁱ⁻¹/μ` of **every** agent's messages, zero where there is none.
      log_ratio_new: [B, G, τ], `log π̂ⁱ/μ` of the same.
      alpha: probability of error.
      estimator: `"path"` or `"log"`; betting, as neither has an upper end.
      zeros: as for `finite_sample_certificate`, of both policies.

    Raises:
      InputError: as `finite_sample_certificate`.
    """
    alpha = level(alpha)
    one_of("estimator", estimator, ("path", "log"))
    r = rewards("reward", reward)
    current, new = (
        log_ratios(name, x, r, -np.inf if zeros else None)
        for name, x in (("log_ratio_current", log_ratio_current), ("log_ratio_new", log_ratio_new))
    )
    sample = mismatch_sample(r, current, new, estimator)
    return certificate_of(sample, alpha, f"mismatch, {estimator}", "betting", r.size, [current.sum(-1), new.sum(-1)])
