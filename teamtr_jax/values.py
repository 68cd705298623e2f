"""Exact values: `V`, `Q`, `A`, `J`, the optimum and the range of the return."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from teamtr_jax.types import Resolvent, Team, require_joint, require_one, require_table
from teamtr_jax.validation import InputError, positive, require_float64
from teamtr_jax.visits import cleaned_visits

__all__ = ["values", "evaluate_policy", "action_values", "advantages", "rounding_unit", "advantage_error", "visits_error",
           "objective", "return_deviation", "optimal_values", "return_bounds", "return_range"]  # fmt: skip


def values(team: Team, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """`V^π = (I − γP_π)⁻¹ r_π`, `r_π(s) = Σ_a π(a|s) r(s,a)`.

    Raises:
      InputError: if an array is not float64, or the policy is none of the team.
    """
    require_float64(policy=policy, reward=team.reward)
    require_one(team, "team")
    require_joint(team, policy=policy)
    return team.dynamics.resolvent(policy).values((policy * team.reward).sum(-1))


def evaluate_policy(
    team: Team, policy: Float[Array, "S A"]
) -> tuple[Resolvent, Float[Array, " S"], Float[Array, " S"]]:
    """`(I − γP_π)⁻¹`, `V^π` and the visits `m^π` with exact support, by one factorisation.

    Raises:
      InputError: if an array is not float64, or the policy is none of the team.
    """
    require_float64(policy=policy, reward=team.reward, initial=team.initial)
    require_one(team, "team")
    require_joint(team, policy=policy)
    resolvent = team.dynamics.resolvent(policy)
    v = resolvent.values((policy * team.reward).sum(-1))
    return resolvent, v, cleaned_visits(resolvent, team.initial, v)


def action_values(team: Team, v: Float[Array, " S"]) -> Float[Array, "S A"]:
    """`Q(s,a) = r(s,a) + γ E[v(s') | s,a]`.

    Raises:
      InputError: if an array is not float64, or `v` is not one finite number for each state.
    """
    require_float64(v=v, reward=team.reward)
    require_one(team, "team")
    require_table(team.initial.shape, v=v)
    return team.reward + team.dynamics.discount * team.dynamics.backward(v)


def advantages(team: Team, v: Float[Array, " S"]) -> Float[Array, "S A"]:
    """`A(s,a) = Q(s,a) − v(s)`."""
    return action_values(team, v) - v[:, None]


def rounding_unit(team: Team) -> float:
    """`(4 + √(S+A))·u`, `u = 2⁻⁵³`: by what share of its terms a sum over states or actions may be off (docs/rounding.md)."""
    return (4 + math.sqrt(sum(team.reward.shape))) * float(jnp.finfo(team.reward.dtype).eps) / 2


def advantage_error(
    team: Team, policy: Float[Array, "S A"], resolvent: Resolvent, v: Float[Array, " S"]
) -> Float[Array, "S A"]:
    """How far rounding may have put `advantages(team, v)` off, but for a constant per state (docs/rounding.md).

    `e(s,a) = u·k (|r| + γE|v| + |v|) + γ|1 − ΣP| E|v| + γE ε`, with `ε = (I−γP_π)⁻¹ b` the error of `v`,
    `b(s) = Σ_a π (e without its last term) + |1 − Σ_a π| |v|`, and `k·u` the `rounding_unit`. Units: rewards.

    Args:
      policy: that of `v`.
      resolvent: that of `policy`.
      v: as solved for.
    """
    dynamics = team.dynamics
    follows = dynamics.backward(jnp.ones_like(v))  # zero where the episode ends
    ahead = dynamics.discount * dynamics.backward(abs(v))
    local = rounding_unit(team) * (abs(team.reward) + ahead + abs(v)[:, None])
    local += jnp.where(follows == 0, 0.0, abs(follows - 1)) * ahead
    solved = resolvent.values((policy * local).sum(-1) + abs(policy.sum(-1) - 1) * abs(v))
    return local + dynamics.discount * dynamics.backward(solved)


def visits_error(
    team: Team, policy: Float[Array, "S A"], resolvent: Resolvent, m: Float[Array, " S"]
) -> Float[Array, " S"]:
    """How far rounding may have put the visits `m` off, state by state (docs/rounding.md). Units: steps.

    `bᵀ(I−γP_π)⁻¹`, `b = k·u (ρ + γP_πᵀm + m) + γPᵀ(m π |1 − ΣP|) + m |1 − Σ_a π|`: what each sum may be off, carried on.

    Args:
      policy: that of `m`.
      resolvent: that of `policy`.
      m: as solved for.
    """
    dynamics = team.dynamics
    follows = dynamics.backward(jnp.ones_like(m))  # zero where the episode ends
    flow = m[:, None] * policy
    arrives = dynamics.discount * dynamics.forward(flow)
    local = rounding_unit(team) * (team.initial + arrives + m) + abs(policy.sum(-1) - 1) * m
    local += dynamics.discount * dynamics.forward(flow * jnp.where(follows == 0, 0.0, abs(follows - 1)))
    return resolvent.visits(local)


def objective(team: Team, policy: Float[Array, "S A"]) -> Float[Array, ""]:
    """`J(π) = ρᵀV^π`; differentiable in the policy, the gradient reusing the factorisation."""
    return team.initial @ values(team, policy)


def return_deviation(
    team: Team, policy: Float[Array, "S A"], m: Float[Array, " S"], v: Float[Array, " S"]
) -> Float[Array, ""]:
    """Standard deviation of the return of an episode: `√(Σρ(V−J)² + Σ_s m Σ_a π [(Q−V)² + Var V(s')])`.

    A sum of squares over everything that chance decides (the start, every action, every next state), so nothing cancels.

    Args:
      m: visits of the policy.
      v: values of the policy.

    Raises:
      InputError: a discounted team, an array that is not float64 or has another shape, a policy that is none of the team.
    """
    require_float64(policy=policy, m=m, v=v)
    require_one(team, "team")
    require_joint(team, policy=policy)
    require_table(team.initial.shape, m=m, v=v)
    if team.dynamics.horizon is None:
        raise InputError("team", "a discounted team", "an episodic team, whose return ends")
    chance = advantages(team, v) ** 2 + team.dynamics.variance(v)
    variance = team.initial @ (v - team.initial @ v) ** 2 + m @ (policy * chance).sum(-1)
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def optimal_values(team: Team, tolerance: float = 1e-11) -> Float[Array, " S"]:
    """`V*` by value iteration: the best the agents can reach together (each chooses at its own states; any joint action).

    Stops when the error bound `γ/(1−γ)·‖v_{k+1} − v_k‖_∞` is below `tolerance`; episodic worlds need `T` sweeps and are exact.

    Raises:
      InputError: if `reward` is not float64 or `tolerance` is not positive.
    """
    require_float64(reward=team.reward)
    require_one(team, "team")
    positive("tolerance", tolerance)
    gamma = jnp.asarray(team.dynamics.discount)
    horizon = team.dynamics.horizon

    def sweep(v: Array) -> Array:
        return action_values(team, v).max(-1)

    start = jnp.zeros(team.reward.shape[0])
    if horizon is not None:
        return lax.fori_loop(0, horizon, lambda _, v: sweep(v), start)

    def unfinished(state: tuple[Array, Array]) -> Array:
        v, error = state
        return error > jnp.maximum(tolerance, 4 * jnp.finfo(v.dtype).eps * abs(v).max() / (1 - gamma))

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        v, _ = state
        better = sweep(v)
        return better, gamma / (1 - gamma) * abs(better - v).max()

    return lax.while_loop(unfinished, step, (start, jnp.asarray(jnp.inf)))[0]


def return_bounds(team: Team) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """Floor `Φ` and ceiling `Ψ` of the return to go: `r + γE[Φ'] − Φ ≥ 0` and `r + γE[Ψ'] − Ψ ≤ 0` for every action (S9).

    Discounted: `min r/(1−γ)` and `max r/(1−γ)`, the declared range. Episodic: least and greatest return to go of an episode,
    by dynamic programming over the support.
    """
    require_float64(reward=team.reward)
    require_one(team, "team")
    dynamics = team.dynamics
    if dynamics.horizon is None:
        ones = jnp.ones(team.reward.shape[0])
        return (
            ones * (team.reward.min() / (1 - dynamics.discount)),
            ones * (team.reward.max() / (1 - dynamics.discount)),
        )

    def best(reward: Array) -> Array:
        start = jnp.zeros(reward.shape[0])
        return lax.fori_loop(0, dynamics.horizon, lambda _, v: (reward + dynamics.greatest(v)).max(-1), start)

    return -best(-team.reward), best(team.reward)


def return_range(team: Team) -> Float[Array, ""]:
    """`ϱ`, the range of the return over all paths of positive probability under some policy.

    Discounted: `span(r)/(1−γ)` (the declared range, all states and actions). Episodic: greatest minus least return of an
    episode, by dynamic programming over the support.
    """
    require_float64(reward=team.reward)
    require_one(team, "team")
    if team.dynamics.horizon is None:
        return (team.reward.max() - team.reward.min()) / (1 - team.dynamics.discount)
    floor, ceiling = return_bounds(team)
    start = team.initial > 0
    return jnp.where(start, ceiling, -jnp.inf).max() - jnp.where(start, floor, jnp.inf).min()
