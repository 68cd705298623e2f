"""Sampled rollouts of a team of tables, and what an update learns from them.

Every estimator here is a mean over rollouts of sums over steps, so its expectation is a sum over paths. Let
`m(s) = Σ_t γ^t P(s_t = s)`, `G_t = Σ_{u≥t} γ^{u−t} r_u` the return to go and `R = G_0`. For whole rollouts of `π`

    E Σ_t γ^t 1{s_t=s, a_t=a} G_t     = m(s) π(a|s) Q(s,a)                                                     (1)
    E Σ_t     1{s_t=s, a_t=a} R       = m(s) π(a|s) Q(s,a) + c(s) π(a|s)                                       (2)
    E Σ_t γ^t 1{s_t=s, a_t=a} (G_t−b) = m(s) π(a|s) Q(s,a) − c(s) π(a|s)                                       (3)

where `b` may depend on the past up to `s_t` and on other rollouts of the prompt. `c` does not depend on the action and drops
out of `Σ_a (π'−π) Â`. (2): given `s_t` the rewards before `t` do not depend on `a_t`, and `R` contains `γ^t G_t`, so a full
return is not weighted with `γ^t` once more. In a product team `π(a|s)` and `Q` are those of the agent's own action, averaged
over the others.

Shapes: B prompts, G rollouts of each, H steps. Functions take one team; `jax.vmap` adds a batch of teams, policies and keys.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from teamtr_jax.divergences import kl_current_to_new
from teamtr_jax.dynamics._draw import inverse_cdf
from teamtr_jax.sizes import bytes_text, memory
from teamtr_jax.ties import summed, tied_table
from teamtr_jax.types import (
    Estimate,
    Team,
    axes,
    floats,
    ints,
    require_agent,
    require_one,
    require_policy,
    require_table,
)
from teamtr_jax.validation import (
    InputError,
    at_least,
    concrete,
    discount_factor,
    finite,
    probability_rows,
    real_number,
    require_float64,
    whole_number,
    within,
)
from teamtr_jax.values import return_bounds

__all__ = ["Rollouts", "WeightDiagnostics", "SurrogateParts", "EstimationError", "Messages", "sample_rollouts",
           "rollouts_of_paths", "default_horizon", "truncation_bias", "reward_to_go", "group_normalised_advantage",
           "centred_advantage", "return_error", "group_scale",
           "broadcast_advantage", "estimate_tables", "log_ratios", "path_weight", "prefix_weight",
           "weight_diagnostics", "surrogate_parts", "estimation_error", "message_log_ratios", "require_memory"]  # fmt: skip


class Rollouts(NamedTuple):
    """G rollouts from each of B starts, H steps. After the end of an episode: state and agent −1, all else zero."""

    state: Int[Array, "B G H"]
    action: Int[Array, "B G H"]  #: the joint action in a product team
    agent: Int[Array, "B G H"] | None  #: who acts, −1 for chance; `None` in a product team, where all do
    alive: Bool[Array, "B G H"]
    weight: Float[Array, "B G H"]  #: `γ^t`
    logp: Float[Array, "B G H *n"]  #: log-probability of what the agents did, 0 for chance; product: one for each agent
    reward: Float[Array, "B G H"]
    returns: Float[Array, "B G"]  #: `Σ_t γ^t r_t`


# ---------------------------------------------------------------------------------------------------------------- sampling


def default_horizon(discount: Array | float, tolerance: float = 1e-3) -> int:
    """The least H with `γ^H ≤ tolerance`: the truncated return is off by at most that share of its range `span(r)/(1−γ)`.

    Args:
      discount: `γ`, on the host; of a batch of teams, the largest decides.

    Raises:
      InputError: if the discount is traced or not below one, or the tolerance is not in (0, 1).

    Example:
      >>> print(default_horizon(0.9), default_horizon(0.99))
      66 688
    """
    try:
        gamma = float(np.max(np.asarray(discount)))
    except jax.errors.TracerArrayConversionError:
        expected = "an integer, such as default_horizon(discount) outside"
        raise InputError("horizon", "none, under jit or vmap", expected) from None
    discount_factor("discount", gamma)
    real_number("tolerance", tolerance, above=0.0, below=1.0, expected="a number in (0, 1)")
    steps = 1 if gamma == 0 else max(1, math.ceil(math.log(tolerance) / math.log(gamma)) - 1)
    return steps if gamma**steps <= tolerance else steps + 1


def truncation_bias(team: Team, horizon: int) -> Float[Array, ""]:
    """`β = γ^H span(r)/(1−γ)`; zero in an episodic team, whose rollouts are whole.

    `J − β ≤ E R + γ^H min r/(1−γ) ≤ J` for the truncated return R. For the weighted return to go `γ^t G_t` of (1) the same holds
    at every step, with the same β and the same constant.

    Raises:
      InputError: if the horizon is no positive integer, or the team is a batch.
    """
    require_one(team, "team")
    whole_number("horizon", horizon, 1)
    if team.dynamics.horizon is not None:
        return jnp.zeros(())
    gamma = jnp.asarray(team.dynamics.discount)
    return gamma**horizon * (team.reward.max() - team.reward.min()) / (1 - gamma)


def sample_rollouts(
    team: Team, policy: Float[Array, "..."], key: Array, prompts: int, group: int, horizon: int | None = None
) -> Rollouts:
    """B prompts `s_0 ~ ρ`, G rollouts of each under `policy`; every choice by the inverse of a distribution function.

    Args:
      policy: [S, A] turn-taking (the rows of chance nodes are the chance), [n, S, max A_k] product.
      key: a PRNG key; nothing else is random.
      prompts: B.
      group: G.
      horizon: H of a discounted team, default `default_horizon(γ)`; must be given where γ is traced. An episodic team is
        played to its end.

    Raises:
      InputError: an array that is not float64, a policy that is none of the team, a size below one or beyond the memory, or a
        horizon that is not that of an episodic team.
    """
    require_float64(policy=policy, reward=team.reward, initial=team.initial)
    require_one(team, "team")
    require_policy(team, policy=policy)
    for name, size in (("prompts", prompts), ("group", group)):
        whole_number(name, size, 1, expected="at least 1")
    whole = team.dynamics.horizon
    if whole is not None and horizon not in (None, whole):
        raise InputError("horizon", horizon, f"none, or {whole}: an episodic team is played to its end")
    if horizon is None:
        horizon = default_horizon(team.dynamics.discount) if whole is None else whole
    whole_number("horizon", horizon, 1, expected="at least 1")
    require_memory(prompts, group, horizon, team)
    return _sample(team, policy, key, prompts, group, horizon)


def require_memory(prompts: int, group: int, horizon: int, team: Team) -> None:
    """Refuse rollouts whose arrays are larger than the memory of this machine.

    Raises:
      InputError: with their size and how many prompts would fit.
    """
    choices = 1 if team.factors is None else team.agents
    each = group * horizon * 8 * (8 + 2 * choices)  # of a prompt: the fields of `Rollouts`, the uniform numbers
    if prompts * each > (limit := memory()):
        found = f"{prompts} prompts of {group} rollouts of {horizon} steps, {bytes_text(prompts * each)}"
        raise InputError("prompts, group, horizon", found, f"at most {limit // each} prompts, {bytes_text(limit)}")


@partial(jax.jit, static_argnames=("prompts", "group", "horizon"))
def _sample(team: Team, policy: Array, key: Array, prompts: int, group: int, horizon: int) -> Rollouts:
    choices = 1 if team.factors is None else team.agents
    first, rest = jax.random.split(key)
    start = inverse_cdf(
        jnp.broadcast_to(team.initial, (prompts, team.initial.size)),
        jax.random.uniform(first, (prompts,), team.initial.dtype),
    )
    uniform = jax.random.uniform(rest, (horizon, choices + 1, prompts, group), team.initial.dtype)

    def step(state: Array, u: Array) -> tuple[Array, tuple[Array, Array]]:
        at = jnp.maximum(state, 0)
        if team.factors is None:
            action = inverse_cdf(policy[at], u[0])
        else:
            own = inverse_cdf(policy[:, at], u[:-1])
            action = jnp.tensordot(_strides(team.factors), own, 1)
        return team.dynamics.draw(state, action, u[-1]), (state, action)

    starts = jnp.broadcast_to(start[:, None], (prompts, group))
    _, (state, action) = lax.scan(step, starts, uniform)
    return rollouts_of_paths(team, policy, jnp.moveaxis(state, 0, -1), jnp.moveaxis(action, 0, -1))


def rollouts_of_paths(
    team: Team, policy: Float[Array, "..."], state: Int[Array, "B G H"], action: Int[Array, "B G H"]
) -> Rollouts:
    """Given paths as rollouts of `policy`: who acted, with which log-probability, for which reward.

    Args:
      state: −1 after the end of an episode.
      action: joint actions in a product team; whatever it is after the end.

    Raises:
      InputError: a state or an action that is none of the team, or a policy that is none of it.
    """
    require_one(team, "team")
    require_policy(team, policy=policy)
    _require_paths(team, state, action)
    alive = state >= 0
    at, action = jnp.maximum(state, 0), jnp.where(alive, action, 0)
    weight = jnp.where(alive, jnp.asarray(team.dynamics.discount) ** jnp.arange(state.shape[-1]), 0.0)
    agent = None if team.active is None else jnp.where(alive, team.active[at], -1)
    reward = jnp.where(alive, team.reward[at, action], 0.0)
    paths = Rollouts(
        jnp.where(alive, state, -1), action, agent, alive, weight, weight, reward, (weight * reward).sum(-1)
    )
    return paths._replace(logp=_log_probability(team, paths, policy))


def _require_paths(team: Team, state: Array, action: Array) -> None:
    states, actions = team.reward.shape
    shape = axes("state", state, 3)
    if shape and axes("action", action, 3) != shape:
        raise InputError("action", f"shape {list(action.shape)}", f"shape {list(shape)}, that of state")
    at, taken = ints("state", state, -1, states), concrete(action)
    if at is not None and taken is not None:
        ints("action", np.where(at < 0, 0, taken), 0, actions)


def _require_rollouts(team: Team, rollouts: Rollouts) -> None:
    """Rollouts of this team: states and actions that it has, log-probabilities ≤ 0, finite rewards."""
    _require_paths(team, rollouts.state, rollouts.action)
    expected = "log-probabilities of what was done: finite, at most 0"
    within("rollouts.logp", floats(rollouts.logp), high=1e-9, above=-math.inf, expected=expected)
    for name in ("reward", "returns", "weight"):
        if (values := floats(getattr(rollouts, name))) is not None:
            finite(f"rollouts.{name}", values)


def _strides(factors: tuple[int, ...]) -> NDArray[np.int64]:
    """What one more of each agent's action adds to the joint action (C order)."""
    return np.array([math.prod(factors[k + 1 :]) for k in range(len(factors))], np.int64)


def _own_actions(team: Team, action: Array) -> Int[Array, "B G H n"]:
    assert team.factors is not None
    return action[..., None] // _strides(team.factors) % np.array(team.factors)


def _log_probability(team: Team, rollouts: Rollouts, policy: Array) -> Array:
    at = jnp.maximum(rollouts.state, 0)
    if team.factors is None:
        assert rollouts.agent is not None
        p, acts = policy[at, rollouts.action], rollouts.agent >= 0
    else:
        p = policy[jnp.arange(team.agents), at[..., None], _own_actions(team, rollouts.action)]
        acts = rollouts.alive[..., None]
    return jnp.where(acts, jnp.log(jnp.where(acts, p, 1.0)), 0.0)


def _moves(team: Team, rollouts: Rollouts, agent: Array | int) -> tuple[Array, Array, Array]:
    """When `agent` acts, what it does, and where the log-probability of that stands: (mask, action, index or all)."""
    if team.factors is None:
        assert rollouts.agent is not None
        return rollouts.agent == agent, rollouts.action, rollouts.logp
    own = jnp.take(_own_actions(team, rollouts.action), agent, axis=-1)
    return rollouts.alive, own, jnp.take(rollouts.logp, agent, axis=-1)


# -------------------------------------------------------------------------------------------------------------- advantages


def reward_to_go(
    rollouts: Rollouts, discount: Array | float, log_ratio: Float[Array, "B G H *n"] | None = None
) -> Float[Array, "B G H"]:
    """`G_t = r_t + γ ρ_{t+1} G_{t+1}`, `ρ = 1` or, with `log_ratio`, the ratio of the whole team at each step.

    With ratios it is the per-decision form (Precup et al. 2000): weighted with `prefix_weight`, (1) holds for the current team.

    Args:
      discount: `team.dynamics.discount`.
      log_ratio: `log_ratios(team, rollouts, current)`.

    Raises:
      InputError: a discount outside [0, 1].
    """
    within("discount", floats(discount), 0.0, 1.0, expected="a discount in [0, 1), or 1 in an episodic team")
    ratio = jnp.ones_like(rollouts.reward) if log_ratio is None else jnp.exp(_joint(rollouts, log_ratio))

    def step(later: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, rho = xs
        now = reward + discount * later
        return rho * now, now

    xs = jnp.moveaxis(rollouts.reward, -1, 0), jnp.moveaxis(ratio, -1, 0)
    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(rollouts.returns), xs, reverse=True)[1], 0, -1)


NORMALISER = 1e-8
"""`ε` of `group_normalised_advantage`."""


def group_scale(returns: Float[Array, "..."], epsilon: float = NORMALISER, axis: int = -1) -> Float[Array, "..."]:
    """`√(σ²+ε)` of each group, `σ² = mean (R−μ)²`; the axis of the group is kept."""
    centred = returns - returns.mean(axis, keepdims=True)
    return jnp.sqrt((centred**2).mean(axis, keepdims=True) + epsilon)


def group_normalised_advantage(
    returns: Float[Array, "..."], clip: float = math.inf, epsilon: float = NORMALISER, axis: int = -1
) -> Float[Array, "..."]:
    """The paper's `clip((R − μ)/√(σ²+ε), ±A_clip)`, μ and `σ² = mean (R−μ)²` over the rollouts of a prompt.

    Not unbiased: it reweights prompts (PE.10, `group_normalised_weight`), and a surrogate formed with it is not in units of the
    return.

    Args:
      returns: [B, G]; or [B, G, H], returns to go, with `axis=-2`.
      clip: `A_clip`.
      axis: that of the group.

    Raises:
      InputError: a return that is not finite, a clip that is not positive, an epsilon that is negative.

    Example:
      >>> print(group_normalised_advantage(jnp.array([[0.0, 0.0, 0.0, 1.0]]), clip=1.5).round(3))
      [[-0.577 -0.577 -0.577  1.5  ]]
    """
    _finite(returns=returns)
    real_number("clip", clip, above=0.0, infinite=True)
    real_number("epsilon", epsilon, 0.0)
    centred = returns - returns.mean(axis, keepdims=True)
    return jnp.clip(centred / group_scale(returns, epsilon, axis), -clip, clip)


def centred_advantage(returns: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """`R_g − R̄_{−g}`, the mean of the prompt's other rollouts; R itself where there is no other. Unbiased: (2), (3).

    Args:
      returns: [B, G]; or [B, G, H], returns to go, with `axis=-2`.
      axis: that of the group.

    Raises:
      InputError: a return that is not finite.

    Example:
      >>> print(centred_advantage(jnp.array([[0.0, 1.0, 1.0]])))
      [[-1.   0.5  0.5]]
    """
    _finite(returns=returns)
    group = returns.shape[axis]
    if group == 1:
        return returns
    return (returns - returns.mean(axis, keepdims=True)) * (group / (group - 1))


def return_error(rollouts: Rollouts, scale: Float[Array, "B 1"] | float = 1.0) -> Float[Array, "B G H"]:
    """How far rounding may have put an advantage off that was formed from returns: `2(G+H)u·M/γ^t`, `M = max_g Σ_t γ^t |r_t|`.

    It holds for `centred_advantage` of returns (broadcast) and of returns to go. Exactly equal returns, summed in another order,
    differ by that much.

    Args:
      scale: what the difference of returns was multiplied with: for `group_normalised_advantage` `1/√(σ²+ε)`.
    """
    _, group, horizon = rollouts.reward.shape
    most = (rollouts.weight * abs(rollouts.reward)).sum(-1).max(-1, keepdims=True) * scale
    unit = (group + horizon) * jnp.finfo(most.dtype).eps
    return broadcast_advantage(rollouts, jnp.broadcast_to(unit * most, rollouts.returns.shape))


def _finite(**tables: object) -> None:
    for name, table in tables.items():
        if (values := floats(table)) is not None:
            finite(name, values)


def broadcast_advantage(rollouts: Rollouts, advantage: Float[Array, "B G"]) -> Float[Array, "B G H"]:
    """One advantage of a rollout at every step of it, over `γ^t`, which `estimate_tables` multiplies with: (2).

    Raises:
      InputError: if the advantages are not finite, or not one for each rollout.
    """
    require_table(rollouts.returns.shape, advantage=advantage)
    weight = rollouts.weight
    return jnp.where(weight > 0, advantage[..., None] / jnp.where(weight > 0, weight, 1.0), 0.0)


# --------------------------------------------------------------------------------------------------------------- estimates


def estimate_tables(
    team: Team,
    policy: Float[Array, "..."],
    rollouts: Rollouts,
    agent: Int[Array, ""] | int,
    advantage: Float[Array, "B G H"],
    rows: Int[Array, " R"],
    owned: Bool[Array, " R"],
    *,
    weights: Float[Array, "B G *H"] | None = None,
    to_go: Float[Array, "B G H"] | None = None,
    floor: Float[Array, " S"] | None = None,
    shrink: Float[Array, ""] | float = 1.0,
    error: Float[Array, "B G H"] | None = None,
) -> Estimate:
    """Sufficient statistics of the rollouts for an update of `agent`, whose table is `policy`.

    With w the weight of a sample, `Ê` the mean over rollouts of the sum over the agent's steps (discounted: times `1−γ`), and
    `ρ = π/π_behaviour` the ratio of the agent's own action (1 if `weights` are given, which then have to contain it):

        ŵ(s) = Ê[γ^t w 1{s}],  positive(s,a) = Ê[γ^t w ρ Â⁺ 1{s,a}],  negative likewise,  Â = (positive − negative)/(ŵ π),
        q(s,a) = (Σ γ^t w q_t 1{s,a} + k v̂(s)) / (Σ γ^t w 1{s,a} + k),   q_t = G_t − Φ(s_t) ≥ 0,

    `v̂(s)` the same mean over all actions of the row and k = `shrink` pseudo-samples.

    Expectations. Let `μ` be the law of the rollouts. Without weights `E ŵ = m^μ`, and by (1)–(3)
    `E[positive − negative] = m^μ π A^μ + c(s) π` for returns to go or full returns less an admissible baseline: the surrogate
    `Σ (π'/π)(positive − negative)` of a table `π'` that does not depend on the rollouts has the mean
    `Σ_s m^μ Σ_a (π'−π) A^μ` plus a constant (fresh: `L^seq`). Untruncated `path_weight`, or `prefix_weight` with a per-decision
    `reward_to_go`, turn μ into the current team where the behaviour covers it; `prefix_weight` with a plain one turns `m^μ` but
    not `A^μ`. `Â` and `q` are quotients of such means: consistent, not unbiased.

    In the value-weighted step `π' ∝ π q` an action that was not seen has `q = v̂(s)` and is scaled by `v̂/Σ_b π q`: it stays about
    where it is. For k > 0 no action of a row is dropped unless every return there was at its floor. Rows without samples stay.

    Args:
      policy: the table to be updated, turn-taking [S, A], product [n, S, max A_k].
      agent: may be traced.
      advantage: `Â_t` at every step; at the steps of others it is not read.
      rows: the agent's states, `agent_rows(team)[0][agent]`; not read in product teams (all states), nor where rows are tied.
      owned: which of them are real; likewise.
      weights: of rollouts [B, G] or of steps [B, G, H]; not normalised here.
      to_go: `G_t` for q, default `reward_to_go`.
      floor: `Φ` [S], default `return_bounds(team)[0]`. In a discounted team it also stands for what was cut off.
      shrink: k.
      error: bound on the rounding of `advantage`, default `return_error(rollouts)`; that of the sums here is added.

    Raises:
      InputError: if `policy` or `advantage` is not float64, or a table, an agent, a weight or a rollout is none of the team.
    """
    require_float64(policy=policy, advantage=advantage)
    require_one(team, "team")
    require_policy(team, policy=policy)
    require_agent(team, agent)
    _require_rollouts(team, rollouts)
    require_table(rollouts.state.shape, advantage=advantage)
    within("weights", floats(weights), 0.0, below=math.inf, expected="finite numbers ≥ 0")
    at_least("shrink", floats(shrink), expected="a number of pseudo-samples ≥ 0")
    acts, action, behaviour = _moves(team, rollouts, agent)
    table = policy if team.factors is None else policy[agent]
    at = jnp.maximum(rollouts.state, 0)
    to_go = reward_to_go(rollouts, jnp.asarray(team.dynamics.discount)) if to_go is None else to_go
    floor = return_bounds(team)[0] if floor is None else floor
    error = return_error(rollouts) if error is None else error

    seen = jnp.where(acts, rollouts.weight, 0.0)
    if weights is None:
        sample = seen * jnp.where(acts, table[at, action] * jnp.exp(-behaviour), 0.0)
    else:
        seen = sample = seen * (weights[..., None] if weights.ndim == 2 else weights)
    q = jnp.maximum(to_go + _cut_off(team, rollouts, floor) - floor[at], 0.0)
    gain, loss = jnp.maximum(advantage, 0.0), jnp.maximum(-advantage, 0.0)
    samples = jnp.stack([seen, sample * gain, sample * loss, seen * q, sample * error], -1)
    samples = jnp.where(acts[..., None], samples, 0.0)
    sums = jnp.zeros((*table.shape, 5), table.dtype).at[at, action].add(samples)
    if team.observation is not None:
        sums, table = summed(team, agent, sums), tied_table(team, table, agent)
    elif team.factors is None:
        sums, table = jnp.where(owned[:, None, None], sums[rows], 0.0), table[rows]
    return _estimate(team, rollouts, table, _Sums(*jnp.moveaxis(sums, -1, 0)), shrink, floor)


def _cut_off(team: Team, rollouts: Rollouts, floor: Array) -> Array | float:
    """What a discounted return to go at step t is at least owed beyond the horizon, `γ^{H−t} min Φ`."""
    horizon = rollouts.state.shape[-1]
    if team.dynamics.horizon is not None:
        return 0.0
    return jnp.asarray(team.dynamics.discount) ** (horizon - jnp.arange(horizon)) * floor.min()


class _Sums(NamedTuple):
    """Sums over the samples of each row and action."""

    weight: Float[Array, "R A"]  #: of `γ^t w`
    positive: Float[Array, "R A"]  #: of `γ^t w ρ Â⁺`
    negative: Float[Array, "R A"]  #: of `γ^t w ρ Â⁻`
    total: Float[Array, "R A"]  #: of `γ^t w q`
    off: Float[Array, "R A"]  #: of `γ^t w ρ` times the rounding of `Â`


def _estimate(
    team: Team, rollouts: Rollouts, table: Array, sums: _Sums, shrink: Array | float, floor: Array
) -> Estimate:
    """The quotients of `estimate_tables`, and what rounding may have done to them."""
    gamma, horizon = jnp.asarray(team.dynamics.discount), rollouts.state.shape[-1]
    scale = (1.0 if team.dynamics.horizon is not None else 1 - gamma) / rollouts.returns.size
    weight, positive, negative = scale * sums.weight.sum(-1), scale * sums.positive, scale * sums.negative
    unit = jnp.finfo(table.dtype).eps
    summed = rollouts.returns.size * unit
    off = scale * sums.off + summed * (positive + negative)
    share = weight[:, None] * table
    mean = _quotient(sums.total.sum(-1), sums.weight.sum(-1))[:, None]
    value = _quotient(sums.total + shrink * mean, sums.weight + shrink, mean)
    largest = abs(rollouts.reward).max() * (gamma ** jnp.arange(horizon)).sum() + abs(floor).max()
    return Estimate(
        weight=weight,
        advantage=_quotient(positive - negative, share),
        positive=positive,
        negative=negative,
        value=value,
        advantage_error=_quotient(off, share),
        value_error=jnp.where(weight[:, None] > 0, summed * value + horizon * unit * largest, 0.0),
    )


def _quotient(x: Array, y: Array, otherwise: Array | float = 0.0) -> Array:
    """`x/y` where `y > 0`."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1.0), otherwise)


# ----------------------------------------------------------------------------------------------------- importance weights


def log_ratios(team: Team, rollouts: Rollouts, policy: Float[Array, "..."]) -> Float[Array, "B G H *n"]:
    """`log π(a_t|s_t) − log π_behaviour(a_t|s_t)` at every step; product: one for each agent.

    0 for chance and after the end, −∞ where `policy` drops the action. A rollout never has an action of probability zero under
    its behaviour, so zeros of the behaviour need no care; what it never does is seen by no weight.

    Raises:
      InputError: a policy or a rollout that is none of the team.
    """
    require_one(team, "team")
    require_policy(team, policy=policy)
    _require_rollouts(team, rollouts)
    return _log_probability(team, rollouts, policy) - rollouts.logp


def _joint(rollouts: Rollouts, log_ratio: Array) -> Array:
    return log_ratio.sum(-1) if log_ratio.ndim > rollouts.state.ndim else log_ratio


def path_weight(
    team: Team, rollouts: Rollouts, current: Float[Array, "..."], truncation: float = math.inf
) -> Float[Array, "B G"]:
    """`min(∏_t π_current/π_behaviour, c)` over the whole path, all agents; mean 1 if the behaviour covers it and `c = ∞`.

    Raises:
      InputError: as `log_ratios`; a truncation that is not positive.
    """
    return _cut(_joint(rollouts, log_ratios(team, rollouts, current)).sum(-1), truncation)


def prefix_weight(
    team: Team, rollouts: Rollouts, current: Float[Array, "..."], truncation: float = math.inf
) -> Float[Array, "B G H"]:
    """`min(∏_{u≤t} π_current/π_behaviour, c)` at every step, its own action included.

    Raises:
      InputError: as `log_ratios`; a truncation that is not positive.
    """
    return _cut(jnp.cumsum(_joint(rollouts, log_ratios(team, rollouts, current)), -1), truncation)


def _cut(log_weight: Array, truncation: float) -> Array:
    if not hasattr(truncation, "shape"):
        real_number("truncation", truncation, above=0.0, infinite=True)
    return jnp.minimum(jnp.exp(log_weight), truncation)


class WeightDiagnostics(NamedTuple):
    """How far importance weights have degenerated (Table 10)."""

    ess_share: Float[Array, "*batch"]  #: `(Σw)²/(N Σw²)` in [0, 1], N = B·G
    p95: Float[Array, "*batch"]  #: quantiles, linearly interpolated
    p99: Float[Array, "*batch"]
    largest: Float[Array, "*batch"]
    above_ten: Float[Array, "*batch"]  #: share of the weights above 10


def weight_diagnostics(weight: Float[Array, "*batch B G"]) -> WeightDiagnostics:
    """Effective sample size and upper tail of the weights of B·G rollouts.

    Raises:
      InputError: a weight that is negative or NaN.

    Example:
      >>> print(float(weight_diagnostics(jnp.array([[1.0, 1.0], [1.0, 0.0]])).ess_share))
      0.75
    """
    at_least("weight", floats(weight))
    w = weight.reshape(*weight.shape[:-2], -1)
    scaled = w * _quotient(jnp.ones(()), w.max(-1, keepdims=True))  # a square of a large weight may overflow
    p95, p99 = jnp.percentile(w, jnp.array([95.0, 99.0]), axis=-1)
    return WeightDiagnostics(
        _quotient(scaled.sum(-1) ** 2, w.shape[-1] * (scaled**2).sum(-1)),
        p95,
        p99,
        w.max(-1),
        (w > 10).mean(-1, dtype=w.dtype),
    )


# -------------------------------------------------------------------------------------------------------- estimation error


class SurrogateParts(NamedTuple):
    """Surrogates of one step as samples show them; units of `Estimate.weight`: `(1−γ)L`, episodic `L`."""

    raw: Float[Array, "..."]  #: `L̂_raw`: unbiased advantages
    normalised: Float[Array, "..."]  #: `L̂_norm`: the advantages that the step used
    clipped: Float[Array, "..."]  #: `L̂_clip`: those with clipped ratios


class EstimationError(NamedTuple):
    """`ζ` of P3.4 and its parts, `ratio + sampling + normalisation + clip = L̂ − L^seq`; units of `SurrogateParts`."""

    ratio: Float[
        Array, "..."
    ]  #: `L_data − L^seq`, `L_data = Σ m_data Σ_a (π'−π) A_data`: rollouts or weights of another team
    sampling: Float[Array, "..."]  #: `L̂_raw − L_data`: finitely many rollouts
    normalisation: Float[Array, "..."]  #: `L̂_norm − L̂_raw`: group normalisation, the clip of advantages included
    clip: Float[Array, "..."]  #: `L̂_clip − L̂_norm`: the clip of ratios
    zeta: Float[Array, "..."]  #: `ζ = (1−γ)|L̂ − L^seq|`, episodic `|L̂ − L^seq|`, `L̂ = L̂_clip`


def surrogate_parts(
    current: Float[Array, "R A"],
    new: Float[Array, "R A"],
    raw: Estimate,
    normalised: Estimate,
    clip: float | None = None,
) -> SurrogateParts:
    """`L̂ = Σ u (positive − negative)` of both estimates, `u = π'/π − 1`, and `Σ min(u,ε)·positive − max(u,−ε)·negative`.

    Entries with `π = 0` have no samples and contribute nothing. `clip=None`: no ratio is clipped.

    Raises:
      InputError: tables that are no probabilities, or a clip that is negative.
    """
    for name, table in (("current", current), ("new", new)):
        if (values := floats(table)) is not None:
            probability_rows(name, values)
    if clip is not None:
        real_number("clip", clip, 0.0)
    used = current > 0
    u = jnp.where(used, (new - current) / jnp.where(used, current, 1.0), 0.0)
    linear = [(u * (estimate.positive - estimate.negative)).sum((-2, -1)) for estimate in (raw, normalised)]
    if clip is None:
        return SurrogateParts(linear[0], linear[1], linear[1])
    gain, loss = jnp.minimum(u, clip) * normalised.positive, jnp.maximum(u, -clip) * normalised.negative
    return SurrogateParts(linear[0], linear[1], (gain - loss).sum((-2, -1)))


def estimation_error(
    intermediate: Float[Array, "..."] | float, data: Float[Array, "..."] | float, parts: SurrogateParts
) -> EstimationError:
    """The parts of `ζ`. `intermediate` is `L^seq` and `data` is `L_data`, exact, in the units of `parts`.

    Fixed tables π, π' and unbiased raw advantages give `E sampling = 0`. A π' fitted to the same rollouts does not: the sampling
    error of a maximum is positive on average.
    """
    steps = (intermediate, data, *parts)
    changes = [jnp.asarray(after - before) for before, after in itertools.pairwise(steps)]
    return EstimationError(*changes, zeta=abs(jnp.asarray(parts.clipped - intermediate)))


# --------------------------------------------------------------------------------------------- what a certificate asks for


class Messages(NamedTuple):
    """An agent's messages, for `teamtr_jax.finite_sample` (S8); zero where a rollout has no more."""

    log_ratio: NDArray[np.float64]  #: [B, G, τ], `log π'/π`; −inf: dropped, +inf: not in the current policy
    kl: NDArray[np.float64]  #: [B, G, τ], `KL(current‖new)` at the message's context


def message_log_ratios(
    team: Team,
    rollouts: Rollouts,
    agent: int,
    current: Float[Array, "..."],
    new: Float[Array, "..."],
    messages: int | None = None,
) -> Messages:
    """What S8 needs of rollouts of `current` or of `new` on an episodic team whose return is in [0, 1], on the host.

    A message is an action of the agent. With the rewards `rollouts.returns` and rollouts of the current team this goes into
    `finite_sample_certificate`; with those of both teams, into `two_sample_certificate`; in both with `zeros=True`, because
    tables may drop an action.

    Args:
      messages: τ, a bound on the agent's messages in *every* possible rollout, fixed beforehand; default H.

    Raises:
      InputError: a discounted team, a policy, an agent or a rollout that is none of the team, or a rollout with more messages
        than declared.
    """
    require_one(team, "team")
    require_policy(team, current=current, new=new)
    require_agent(team, agent)
    _require_rollouts(team, rollouts)
    if messages is not None:
        whole_number("messages", messages, 1)
    if team.dynamics.horizon is None:
        raise InputError("team", "a discounted team", "an episodic one: S8 is about whole episodes")
    acts, action, _ = (np.asarray(x) for x in _moves(team, rollouts, agent))
    at = np.maximum(np.asarray(rollouts.state), 0)
    old, now = (x if team.factors is None else x[agent] for x in (current, new))
    context_kl = np.asarray(kl_current_to_new(old, now))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(np.asarray(now)[at, action]) - np.log(np.asarray(old)[at, action])
    found = [np.where(acts, x, 0.0) for x in (ratio, context_kl[at])]
    if messages is not None:
        if (most := int(acts.sum(-1).max())) > messages:
            raise InputError("messages", messages, f"at least {most}, the messages of one of the rollouts")
        first = np.argsort(~acts, -1, kind="stable")[..., :messages]
        found = [np.take_along_axis(x, first, -1) for x in found]
    return Messages(*found)
