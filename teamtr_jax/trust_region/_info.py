"""What every step reports."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from teamtr_jax.divergences import expected, kl_current_to_new, kl_new_to_current
from teamtr_jax.types import Estimate, StepInfo
from teamtr_jax.validation import require_float64

__all__ = ["require_estimate", "support_of", "deficits", "step_info"]


def require_estimate(current: Array, estimate: Estimate) -> None:
    """Refuse anything but float64."""
    require_float64(current=current, **estimate._asdict())


def support_of(current: Array, weight: Array) -> Array:
    """Entries that a step may move: `π > 0` in rows of positive weight."""
    return (current > 0) & (weight > 0)[..., None]


def deficits(current: Array, advantage: Array, weight: Array) -> Array:
    """`max_b A(s,b) − A(s,a) ≥ 0` over the support, zero elsewhere: `A` up to a constant per row."""
    support = support_of(current, weight)
    best = jnp.where(support, advantage, -jnp.inf).max(-1, keepdims=True)
    return jnp.where(support, best - advantage, 0.0)


def step_info(
    current: Array,
    new: Array,
    advantage: Array,
    weight: Array,
    multiplier: Array | float = 0.0,
    memory: Array | float = 0.0,
    objective: Array | None = None,
) -> StepInfo:
    """The books of a step, from the tables themselves. Without an `objective` it is the gain."""
    gain = (weight * ((current - new) * deficits(current, advantage, weight)).sum(-1)).sum()
    return StepInfo(
        kl=expected(weight, kl_current_to_new(current, new)),
        kl_new_to_current=expected(weight, kl_new_to_current(current, new)),
        gain=gain,
        objective=gain if objective is None else objective,
        multiplier=jnp.asarray(multiplier, gain.dtype),
        memory=jnp.asarray(memory, gain.dtype),
    )
