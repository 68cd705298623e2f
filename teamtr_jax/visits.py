"""Visits, occupancies and every hybrid of a stage."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from teamtr_jax.divergences import kl_current_to_new, kl_new_to_current, total_variation
from teamtr_jax.dynamics import PrefixResolvent, after
from teamtr_jax.types import (
    Hybrids,
    PaddedTeam,
    Resolvent,
    Stage,
    Team,
    axes,
    floats,
    ints,
    require_agent,
    require_joint,
    require_one,
    require_policy,
    require_table,
)
from teamtr_jax.validation import InputError, require_float64

__all__ = ["visits", "occupancy", "cleaned_visits", "exact_support", "hybrids", "solo_steps", "chain_hybrids",
           "chain_solo_steps", "joint_policy",
           "team_policy", "marginal_advantage"]  # fmt: skip


def cleaned_visits(resolvent: Resolvent, initial: Float[Array, " S"], dependency: Array | None = None) -> Array:
    """`m = ρᵀ(I−γP_π)⁻¹`, exactly zero at states that cannot be reached and positive at those that can.

    `dependency`: an array to compute first (see `teamtr_jax.dynamics.after`).
    """
    start = initial if dependency is None else after(initial, dependency)
    return exact_support(resolvent, initial, resolvent.visits(start))


def exact_support(
    resolvent: Resolvent | PrefixResolvent, initial: Float[Array, " S"], m: Float[Array, "*n S"]
) -> Float[Array, "*n S"]:
    """`m = resolvent.visits(initial)` made zero at states that cannot be reached and positive at those that can."""
    return jnp.where(resolvent.reached(initial, m), jnp.maximum(m, jnp.finfo(m.dtype).tiny), 0.0)


def visits(team: Team, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """`m^π = ρᵀ(I − γP_π)⁻¹`: expected (discounted) number of visits of each state. Units: steps.

    Raises:
      InputError: if an array is not float64, or the policy is none of the team.
    """
    require_float64(policy=policy, initial=team.initial)
    require_one(team, "team")
    require_joint(team, policy=policy)
    return cleaned_visits(team.dynamics.resolvent(policy), team.initial)


def occupancy(m: Float[Array, "*batch S"]) -> Float[Array, "*batch S"]:
    """`d = m / Σm`; discounted this is `(1−γ)m`.

    Raises:
      InputError: if some `m` is negative or not finite, or all are zero.
    """
    require_float64(m=m)
    if (values := floats(m)) is not None:
        total = values.sum(-1)
        if (values < 0).any() or not (np.isfinite(total) & (total > 0)).all():
            raise InputError("m", f"visits that add up to {total.tolist()}", "numbers ≥ 0 with a positive finite sum")
    return m / m.sum(-1, keepdims=True)


def joint_policy(factors: Sequence[Float[Array, "S _"]]) -> Float[Array, "S A"]:
    """`∏_k π^k(a_k|s)` with joint actions in C order (the last agent's action runs fastest).

    Raises:
      InputError: if there is no factor, or they are tables over different numbers of states.
    """
    if not factors or len({factor.shape[0] for factor in factors}) > 1:
        shapes = [list(factor.shape) for factor in factors]
        raise InputError("factors", f"shapes {shapes}", "one table [S, A_k] or more over the same states")
    out = factors[0]
    for factor in factors[1:]:
        out = (out[:, :, None] * factor[:, None, :]).reshape(out.shape[0], -1)
    return out


def hybrids(stage: Stage) -> Hybrids:
    """Every hybrid of a stage: `π̂ⁱ` plays `target` for the first i agents of the order and `current` for the others.

    Steps are built from `target − current`, so that they are exact zeros wherever nothing moved.

    Raises:
      InputError: if a policy is not float64, or the stage is a batch.
    """
    return chain_hybrids(stage.team, _states(stage), stage.order)


def solo_steps(stage: Stage) -> Float[Array, "n S A"]:
    """`π^{⟨i⟩} − π̂⁰`: what a trainer that reuses the stage's rollouts credits to update i (product teams differ here)."""
    return chain_solo_steps(stage.team, _states(stage), stage.order, stage.current)


def _states(stage: Stage) -> Array:
    """The tables after 0, 1, …, n updates."""
    require_float64(current=stage.current, target=stage.target)
    require_one(stage, "stage")
    team = stage.team
    rank = jnp.zeros_like(stage.order).at[stage.order].set(jnp.arange(team.agents), unique_indices=True)
    updates = jnp.arange(team.agents + 1)
    if team.factors is None:
        assert team.active is not None
        position = jnp.where(team.active >= 0, rank[team.active], team.agents)
    else:
        position = rank[:, None]
    updated = position < updates.reshape(-1, *(1 for _ in position.shape))
    return jnp.where(updated[..., None], stage.target, stage.current)


def chain_hybrids(team: Team, states: Float[Array, "m ..."], agents: Array) -> Hybrids:
    """The hybrids of any chain of updates: `agents[i]` moves from the team's tables `states[i]` to `states[i+1]`.

    An agent may move more than once. By P3.1 the team's KL at a state is that of the one agent that moved: `j(s)` when
    turn-taking, agent `agents[i]` in a product team. Where several move in one update (they share parameters) it is, when
    turn-taking, that of `j(s)` if it is one of them.

    Args:
      agents: ``[n]`` who moves, or ``[n, agents]`` whether each agent does (turn-taking only: `Sharing.moves`).

    Raises:
      InputError: if `states` is not float64, a table is no policy of the team, or an agent is not in it.
    """
    require_float64(states=states)
    _require_chain(team, states, agents)
    old, new = states[:-1], states[1:]
    if team.factors is None:
        assert team.active is not None
        several = len(agents.shape) == 2
        acts = (team.active >= 0) & agents[:, team.active] if several else team.active == agents[:, None]
        kl, reverse, tv = (jnp.where(acts, f(old, new), 0.0) for f in DIVERGENCES)
        return Hybrids(states, jnp.where(acts[..., None], new - old, 0.0), kl, reverse, tv, acts)

    def joint(tables: Array) -> Array:
        return team_policy(team, tables)

    position = jnp.arange(agents.shape[0])
    kl, reverse, tv = (f(old[position, agents], new[position, agents]) for f in DIVERGENCES)
    steps = jax.vmap(joint)(_replaced(old, new - old, agents))
    acts = jnp.broadcast_to((agents < team.counts.agents)[:, None], kl.shape)
    return Hybrids(jax.vmap(joint)(states), steps, kl, reverse, tv, acts)


def chain_solo_steps(
    team: Team, states: Float[Array, "m ..."], agents: Array, start: Float[Array, "..."]
) -> Float[Array, "n S A"]:
    """The steps of `chain_hybrids` with the others playing as in `start`, one table or one for each update.

    They differ from the steps of the chain in product teams only.

    Raises:
      InputError: as `chain_hybrids`.
    """
    _require_chain(team, states, agents)
    require_policy(team, batched=True, start=start)
    if team.factors is None:
        return chain_hybrids(team, states, agents).steps
    others = jnp.broadcast_to(start, states[1:].shape)
    return jax.vmap(lambda tables: team_policy(team, tables))(_replaced(others, states[1:] - states[:-1], agents))


def _require_chain(team: Team, states: Array, agents: Array) -> None:
    require_one(team, "team")
    require_policy(team, batched=True, states=states)
    rank = len(team.reward.shape) + (team.factors is not None)
    updates = axes("agents", agents, 1)
    if updates is not None and len(updates) == 2:
        if team.factors is not None or updates[1] != team.agents or agents.dtype != bool:
            found = f"shape {list(updates)}, {agents.dtype}"
            raise InputError("agents", found, f"[n], or in a turn-taking team Booleans [n, {team.agents}]")
        updates = updates[:1]
    elif updates is not None:
        ints("agents", agents, 0, team.agents)
    if updates is not None and (len(states.shape) != rank + 1 or updates != (states.shape[0] - 1,)):
        found = f"shape {list(states.shape)} with agents {list(updates)}"
        raise InputError("states", found, "the tables before, between and after the updates: one more than agents")


DIVERGENCES = (kl_current_to_new, kl_new_to_current, total_variation)


def _replaced(tables: Array, factors: Array, agents: Array) -> Array:
    """`tables[i]` with the factor of `agents[i]` taken from `factors[i]`."""
    own = jnp.arange(tables.shape[1]) == agents[:, None]
    return jnp.where(own[..., None, None], factors, tables)


def _factors(team: Team, tables: Float[Array, "n S maxA"]) -> list[Array]:
    assert team.factors is not None
    return [tables[k, :, :size] for k, size in enumerate(team.factors)]


def team_policy(team: Team, policy: Array) -> Float[Array, "S A"]:
    """The joint policy: the table itself when turn-taking, `∏_k π^k` of the padded factors in a product team.

    Raises:
      InputError: if the shape is not that of a policy of the team.
    """
    if team.factors is None:
        return policy
    if isinstance(team, PaddedTeam) and team.which is not None:
        return jnp.take_along_axis(policy, team.which[:, None], -1).prod(0)
    return joint_policy(_factors(team, policy))


def marginal_advantage(
    team: Team, policy: Float[Array, "n S maxA"], advantage: Float[Array, "S A"], agent: Array
) -> Float[Array, "S maxA"]:
    """`Σ_{a_{−k}} π^{−k}(a_{−k}|s) A(s,a)` of a product team: the advantage of agent k's own action, zero-padded.

    Raises:
      InputError: a turn-taking team, a policy or an agent that is none of the team, an advantage that is not finite.
    """
    factors, width = team.factors, policy.shape[-1]
    if factors is None:
        raise InputError("team", "a turn-taking team", "a product team")
    require_policy(team, policy=policy)
    require_table(team.reward.shape, advantage=advantage)
    require_agent(team, agent)

    def of(k: int) -> Array:
        out = advantage.reshape(-1, *factors)
        for other in reversed(range(team.agents)):
            if other != k:
                shape = [-1] + [factors[j] if j == other else 1 for j in range(out.ndim - 1)]
                own = policy[other, :, : factors[other]].reshape(shape)
                out = (out * own).sum(other + 1, keepdims=True)
        return jnp.pad(out.reshape(-1, factors[k]), ((0, 0), (0, width - factors[k])))

    return jnp.stack([of(k) for k in range(team.agents)])[agent]
