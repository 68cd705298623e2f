"""R1: the coherent relay, and its fragile cousin."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team

__all__ = ["relay_stage"]

CONTEXTS, ACTIONS = 3, 2


def relay_stage(
    agents: Int[Array, ""] | int,
    probability: Float[Array, ""] | float,
    step: Float[Array, ""] | float,
    slots: int,
    rounds: int = 2,
) -> Stage:
    """Coherent relay (R1): `rounds` round robins of n agents move one context 0→1→2, each stepping up with probability p.

    Every agent is updated from `p` to `p + ε`; the outcome reward is 1 if the context is 2 when the episode ends. Its
    range is `ϱ = 1`.

    Args:
      agents: `n ≤ slots`; may be traced, so that teams of many sizes are one ``vmap``.
      slots: the compile-time number of agents; slots beyond n own nothing and the steps beyond `rounds·n` do nothing.

    Example:
      >>> from teamtr_jax.surrogates import evaluate_stage
      >>> report = evaluate_stage(relay_stage(2, 1e-3, 1e-3, slots=2))
      >>> print(round(float(abs(report.gap_fresh).sum() / 1e-6), 2), round(float(abs(report.gap_stale).sum() / 1e-6), 2))
      1.99 4.97
    """
    horizon = rounds * slots
    time = jnp.arange(horizon)
    running = time < rounds * jnp.asarray(agents)
    context = jnp.arange(CONTEXTS)
    up = jnp.zeros((CONTEXTS, CONTEXTS)).at[context, jnp.minimum(context + 1, CONTEXTS - 1)].set(1.0)
    moves = jnp.stack([jnp.eye(CONTEXTS), up], 1)  # [X, A, X]; action 1 steps up
    final = jnp.where(time == rounds * jnp.asarray(agents) - 1, 1.0, 0.0)
    reward = final[:, None, None] * moves[..., CONTEXTS - 1]  # [T, X, A]
    owner = jnp.where(running, time % jnp.asarray(agents), -1)
    rate = jnp.where(running, 1.0, 0.0)[:, None, None] * jnp.array([-1.0, 1.0])

    def policy(p: Array | float) -> Array:
        rows = jnp.array([1.0, 0.0]) + rate * p
        return jnp.broadcast_to(rows, (horizon, CONTEXTS, ACTIONS)).reshape(-1, ACTIONS)

    start = jnp.zeros(horizon * CONTEXTS).at[0].set(1.0)
    team = Team(
        Layered(Dense(moves, None), horizon),
        reward.reshape(-1, ACTIONS),
        start,
        jnp.repeat(owner, CONTEXTS),
        slots,
    )
    probability = jnp.asarray(probability, jnp.float64)
    return Stage(team, policy(probability), policy(probability + jnp.asarray(step, jnp.float64)), jnp.arange(slots))
