"""S9: the step whose certificate is greatest, in closed form."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float

from teamtr_jax.trust_region._info import gains, require_estimate, require_tables, step_info, support_of
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.validation import ROW_TOLERANCE, at_least, concrete, require_float64

__all__ = ["value_weighted", "value_weighted_step"]


def value_weighted() -> Step:
    """The step of S9 on the rows of positive weight: `value_weighted_step` with `estimate.value`. It takes no settings."""
    return Partial(_value_weighted)


def _value_weighted(current: Array, estimate: Estimate, memory: Array) -> tuple[Array, StepInfo]:
    require_estimate(current, estimate)
    moved = _weighted(current, estimate.value, estimate.weight, estimate.value_error)
    new = jnp.where(support_of(current, estimate.weight), moved, current)
    return new, step_info(current, new, estimate.advantage, estimate.weight, memory=memory)


def value_weighted_step(
    current: Float[Array, "S A"], value: Float[Array, "S A"], error: Float[Array, "S A"] | None = None
) -> Float[Array, "S A"]:
    """`π'(a|s) = π(a|s) q(s,a) / Σ_b π(b|s) q(s,b)`, `q = Q − Φ ≥ 0`: reward-weighted regression (Dayan & Hinton 1997).

    It maximises `Σ_s m Σ_a π log(π'/π) q` for every `m`, so it needs no radius; the certified improvement is
    `Σ_s m(s) v(s) KL(π'‖π)(s) ≥ 0`, `v = Σ_a π q`. Rows in which every `π q` is zero stay, and so do those in which rounding
    can have made the differences of `q` (docs/rounding.md).

    Args:
      current: rows of the agent.
      value: `q ≥ 0`, up to rounding; in a product team averaged over the actions of the others (`marginal_advantage` of `Q − Φ`).
      error: bound on what rounding has done to `value`; default eight units in the last place of the largest of a row.

    Raises:
      InputError: if an array is not float64, or `current` or `value` has values out of their range.

    Example:
      >>> print(value_weighted_step(jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 3.0]])))
      [[0.25 0.75]]
    """
    require_float64(current=current, value=value)
    every = jnp.ones(current.shape[:1])
    require_tables(current, every, value=value, error=error)
    if (found := concrete(value)) is not None:
        at_least("value", found, -ROW_TOLERANCE * abs(found).max(), expected="q ≥ 0")
    return _weighted(current, value, every, error)


def _weighted(current: Array, value: Array, weight: Array, error: Array | None) -> Array:
    value = jnp.maximum(value, 0.0)
    weighted = jnp.where(current > 0, current * value, 0.0)
    total = weighted.sum(-1, keepdims=True)
    better = gains(current, value, weight, error).max(-1, keepdims=True) > 0
    return jnp.where(better & (total > 0), weighted / jnp.where(total > 0, total, 1.0), current)
