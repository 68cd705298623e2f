"""R4 with one turn each: which gaps vanish depends on the order of the updates.

`T = n`; agent k acts at time k and keeps the context good with probability p, after its update `p + ε`; a lost context stays
lost; the outcome reward is 1 if the context is good at the end, so `J = ∏ p_k`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team
from theory.constructions.doors import ClosedGaps

__all__ = ["chain_stage", "chain_gaps"]


def chain_stage(n: int, probability: float, step: float, reverse: bool = False) -> Stage:
    """Contexts lost (0) and good (1). Forward order: the agent that speaks first is updated first."""
    kernel = np.zeros((2, 2, 2))
    kernel[:, :, 0] = 1.0
    kernel[1, 1] = [0.0, 1.0]
    reward = np.zeros((n, 2, 2))
    reward[-1, 1, 1] = 1.0
    current = np.broadcast_to([1 - probability, probability], (2 * n, 2))
    target = current + np.array([-step, step])
    initial = np.eye(2 * n)[1]
    world = Layered(Dense(jnp.asarray(kernel), None), n)
    team = Team(world, jnp.asarray(reward.reshape(-1, 2)), jnp.asarray(initial), jnp.repeat(jnp.arange(n), 2), n)
    order = jnp.arange(n)[::-1] if reverse else jnp.arange(n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), order)


def chain_gaps(n: int, probability: Any, step: Any, reverse: bool = False) -> ClosedGaps:
    """Forward: fresh 0, `stale_i = cached_i = ε p^{n−i}((p+ε)^{i−1} − p^{i−1})`; reverse: fresh = stale = 0, cached the same."""
    zero = 0 * (probability + step)
    moved = [
        step * probability ** (n - 1 - k) * ((probability + step) ** k - probability**k) for k in range(n)
    ]  # k agents updated before this one
    return ClosedGaps([zero] * n, [zero] * n if reverse else moved, moved)
