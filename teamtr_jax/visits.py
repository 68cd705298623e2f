"""Visits, occupancies and every hybrid of a stage."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.divergences import kl_current_to_new, kl_new_to_current, total_variation
from teamtr_jax.dynamics import after
from teamtr_jax.types import Hybrids, Resolvent, Stage, Team
from teamtr_jax.validation import require_float64

__all__ = ["visits", "occupancy", "cleaned_visits", "exact_support", "hybrids", "joint_policy", "solo_steps",
           "team_policy", "marginal_advantage"]  # fmt: skip


def cleaned_visits(resolvent: Resolvent, initial: Float[Array, " S"], dependency: Array | None = None) -> Array:
    """`m = ρᵀ(I−γP_π)⁻¹`, exactly zero at states that cannot be reached and positive at those that can.

    `dependency`: an array to compute first (see `teamtr_jax.dynamics.after`).
    """
    start = initial if dependency is None else after(initial, dependency)
    return exact_support(resolvent, initial, resolvent.visits(start))


def exact_support(resolvent: Resolvent, initial: Float[Array, " S"], m: Float[Array, " S"]) -> Float[Array, " S"]:
    """`m = resolvent.visits(initial)` made zero at states that cannot be reached and positive at those that can."""
    return jnp.where(resolvent.reached(initial, m), jnp.maximum(m, jnp.finfo(m.dtype).tiny), 0.0)


def visits(team: Team, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """`m^π = ρᵀ(I − γP_π)⁻¹`: expected (discounted) number of visits of each state. Units: steps.

    Raises:
      InputError: if an array is not float64.
    """
    require_float64(policy=policy, initial=team.initial)
    return cleaned_visits(team.dynamics.resolvent(policy), team.initial)


def occupancy(m: Float[Array, "*batch S"]) -> Float[Array, "*batch S"]:
    """`d = m / Σm`; discounted this is `(1−γ)m`."""
    return m / m.sum(-1, keepdims=True)


def joint_policy(factors: Sequence[Float[Array, "S _"]]) -> Float[Array, "S A"]:
    """`∏_k π^k(a_k|s)` with joint actions in C order (the last agent's action runs fastest)."""
    out = factors[0]
    for factor in factors[1:]:
        out = (out[:, :, None] * factor[:, None, :]).reshape(out.shape[0], -1)
    return out


def hybrids(stage: Stage) -> Hybrids:
    """`π̂⁰ … π̂ⁿ`, the steps between them and the divergence of each step at each state.

    By P3.1 the team's KL at a state is that of the one agent that moved: `j(s)` when turn-taking, agent `σ(i)` in a
    product team. Steps are built from `target − current`, so that they are exact zeros wherever nothing moved.

    Raises:
      InputError: if a policy is not float64.
    """
    require_float64(current=stage.current, target=stage.target)
    team, order = stage.team, stage.order
    rank = jnp.argsort(order)
    updates = jnp.arange(team.agents + 1)
    if team.factors is None:
        assert team.active is not None
        owner = team.active
        updated = jnp.where(owner >= 0, rank[owner], team.agents) < updates[:, None]
        policies = jnp.where(updated[..., None], stage.target, stage.current)
        acts = owner == order[:, None]
        steps = jnp.where(acts[..., None], stage.target - stage.current, 0.0)

        def moved(divergence: Array) -> Array:
            return jnp.where(acts, divergence, 0.0)

        return Hybrids(
            policies,
            steps,
            moved(kl_current_to_new(stage.current, stage.target)),
            moved(kl_new_to_current(stage.current, stage.target)),
            moved(total_variation(stage.current, stage.target)),
            acts,
        )

    pairs = list(_factors(team, stage))

    def hybrid(i: Array) -> Array:
        return joint_policy([jnp.where(rank[k] < i, new, old) for k, (old, new) in enumerate(pairs)])

    def step(i: Array) -> Array:
        chosen = [
            jnp.where(rank[k] == i, new - old, jnp.where(rank[k] < i, new, old)) for k, (old, new) in enumerate(pairs)
        ]
        return joint_policy(chosen)

    def by_agent(divergence) -> Array:
        return jnp.stack([divergence(old, new) for old, new in pairs])[order]

    return Hybrids(
        jax.vmap(hybrid)(updates),
        jax.vmap(step)(updates[:-1]),
        by_agent(kl_current_to_new),
        by_agent(kl_new_to_current),
        by_agent(total_variation),
        jnp.ones((team.agents, stage.current.shape[1]), bool),
    )


def _factors(team: Team, stage: Stage):
    assert team.factors is not None
    for k, size in enumerate(team.factors):
        yield stage.current[k, :, :size], stage.target[k, :, :size]


def solo_steps(stage: Stage) -> Float[Array, "n S A"]:
    """`π^{⟨i⟩} − π̂⁰`: what a trainer that reuses the stage's rollouts credits to update i (product teams differ here)."""
    team, order = stage.team, stage.order
    if team.factors is None:
        return hybrids(stage).steps
    pairs = list(_factors(team, stage))

    def step(agent: Array) -> Array:
        return joint_policy([jnp.where(agent == k, new - old, old) for k, (old, new) in enumerate(pairs)])

    return jax.vmap(step)(order)


def team_policy(team: Team, policy: Array) -> Float[Array, "S A"]:
    """The joint policy: the table itself when turn-taking, `∏_k π^k` of the padded factors in a product team."""
    if team.factors is None:
        return policy
    return joint_policy([policy[k, :, :size] for k, size in enumerate(team.factors)])


def marginal_advantage(
    team: Team, policy: Float[Array, "n S maxA"], advantage: Float[Array, "S A"], agent: Array
) -> Float[Array, "S maxA"]:
    """`Σ_{a_{−k}} π^{−k}(a_{−k}|s) A(s,a)` of a product team: the advantage of agent k's own action, zero-padded."""
    factors, width = team.factors, policy.shape[-1]
    assert factors is not None

    def of(k: int) -> Array:
        out = advantage.reshape(-1, *factors)
        for other in reversed(range(team.agents)):
            if other != k:
                shape = [-1] + [factors[j] if j == other else 1 for j in range(out.ndim - 1)]
                own = policy[other, :, : factors[other]].reshape(shape)
                out = (out * own).sum(other + 1, keepdims=True)
        return jnp.pad(out.reshape(-1, factors[k]), ((0, 0), (0, width - factors[k])))

    return jnp.stack([of(k) for k in range(team.agents)])[agent]
