"""U1: the step whose S7 certificate is greatest, without a search."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from teamtr_jax.trust_region._info import error_of, gains, require_estimate, require_setting, step_info, support_of
from teamtr_jax.trust_region._solve import harmonic
from teamtr_jax.types import Estimate, Step, StepInfo

__all__ = ["certificate_optimal"]


def certificate_optimal(penalty_range: float | Array) -> Step:
    """Maximise `Σ ŵ [Σ_a π'Â − ϱ KL(π‖π')]`: U1's `π' = ϱπ/(ν_s − Â)`, the multiplier `λ = ϱ`.

    S7 certifies `L − ϱK` with `L = Σ m Σ_a π'A` and `K = Σ m KL(current‖new)`, the same visits `m` in both. Discounted,
    `ŵ = (1−γ)m`: `L = Σŵ Σ_a π'A/(1−γ)` and the penalty `span(r)δ/(1−γ)²` is `ϱδ/(1−γ)` with `δ = ΣŵKL`. The factor
    `1/(1−γ)` is common to both, so `λ` is `ϱ` in the discounted and in the episodic form (theory/derivations/u1.md).

    The certificate is `info.gain − penalty_range · info.kl`, discounted divided by `1−γ`; it is never negative.

    Args:
      penalty_range: `ϱ ≥ 0`, the range of the return: `span(r)/(1−γ)`, or the span of the return of an episode. With 0 all
        returns are the same, and nothing moves.

    Raises:
      InputError: if `penalty_range` is negative, infinite or not a number.
    """
    require_setting("penalty_range", penalty_range, below=math.inf)
    return Partial(_certificate_optimal, penalty_range)


def _certificate_optimal(
    penalty_range: ArrayLike, current: Array, estimate: Estimate, memory: Array
) -> tuple[Array, StepInfo]:
    require_estimate(current, estimate)
    weight, advantage = estimate.weight, estimate.advantage
    share = jnp.where(support_of(current, weight), current, 0.0)
    deficit = gains(current, advantage, weight, error_of(current, estimate))
    price = jnp.asarray(penalty_range, current.dtype)
    ratio, _ = harmonic(share, deficit, jnp.broadcast_to(jnp.where(price > 0, price, 1.0), weight.shape))
    new = jnp.where((deficit.max(-1) > 0)[:, None] & (price > 0), current * ratio, current)
    return new, step_info(current, new, advantage, weight, price, memory)
