"""The coefficient of an adaptive KL penalty: one rule for tables and for networks."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

__all__ = ["BAND", "BETA_RANGE", "adapted"]

BAND = 1.5
"""`β` rests while the KL is within this factor of its target."""

BETA_RANGE = 2.0**20
"""`β` stays within this factor of its start."""


def adapted(beta: ArrayLike, reached: ArrayLike, target: ArrayLike, steps: ArrayLike, start: ArrayLike) -> Array:
    """`β` after an update: `2β` if its steps reached more than 1.5 times the target, `β/2` below the target over 1.5.

    The rule of Schulman et al. (2017), section 4, where what the optimiser reaches is what is kept. Here it may have left a
    trust region, and what is kept is shorter, or nothing. `β` answers for the steps of the optimiser, so it looks at the KL
    that they reached, before anything is undone: an update that is pressed against its radius raises `β`, although the KL that is
    kept is below the radius. One exception: at the policy it starts from the penalty has no gradient, so the first step has its
    size from the rate alone. An update that leaves with its first step says nothing of `β`, which stays: doubled, it would
    double at every update and the step would be undone just the same. A KL of 0 halves `β`; one that is not a number counts as
    too large.

    Args:
      beta: `β` of the update.
      reached: KL(current‖new) after the last optimiser step, whether it was kept or not, in nats.
      target: KL at which `β` rests.
      steps: optimiser steps that led there.
      start: the first `β`; the result is within a factor of `2²⁰` of it.

    Example:
      >>> [float(adapted(1.0, kl, 0.01, steps, 1.0)) for kl, steps in ((0.02, 2), (0.02, 1), (0.01, 2), (0.0, 1))]
      [2.0, 1.0, 1.0, 0.5]
    """
    beta, reached, target, start = map(jnp.asarray, (beta, reached, target, start))
    above = jnp.where(jnp.asarray(steps) > 1, 2.0, 1.0)
    within = jnp.where(reached < target / BAND, 0.5, 1.0)
    factor = jnp.where(reached <= BAND * target, within, above)
    return jnp.clip(beta * factor, start / BETA_RANGE, start * BETA_RANGE)
