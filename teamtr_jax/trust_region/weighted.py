"""S9: the step whose certificate is greatest, in closed form."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.validation import require_float64

__all__ = ["value_weighted_step"]


def value_weighted_step(current: Float[Array, "S A"], value: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """`π'(a|s) = π(a|s) q(s,a) / Σ_b π(b|s) q(s,b)`, `q = Q − Φ ≥ 0`: reward-weighted regression (Dayan & Hinton 1997).

    It maximises `Σ_s m Σ_a π log(π'/π) q` for every `m`, so it needs no radius; the certified improvement is
    `Σ_s m(s) v(s) KL(π'‖π)(s) ≥ 0`, `v = Σ_a π q`. Rows in which every `π q` is zero stay.

    Args:
      current: rows of the agent.
      value: `q ≥ 0`; in a product team averaged over the actions of the others (`marginal_advantage` of `Q − Φ`).

    Raises:
      InputError: if an array is not float64.

    Example:
      >>> print(value_weighted_step(jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 3.0]])))
      [[0.25 0.75]]
    """
    require_float64(current=current, value=value)
    weighted = current * value
    total = weighted.sum(-1, keepdims=True)
    return jnp.where(total > 0, weighted / jnp.where(total > 0, total, 1.0), current)
