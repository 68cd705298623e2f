"""Teams of tables as a backend of the driver by sampled rollouts: what a trainer without a model sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.chain_audit import audit_records
from teamtr_jax.finite_sample import finite_sample_certificate
from teamtr_jax.rollouts import (
    Rollouts,
    broadcast_advantage,
    centred_advantage,
    default_horizon,
    estimate_tables,
    group_normalised_advantage,
    group_scale,
    message_log_ratios,
    path_weight,
    require_memory,
    return_error,
    reward_to_go,
    sample_rollouts,
    surrogate_parts,
    weight_diagnostics,
)
from teamtr_jax.schedules import Schedule
from teamtr_jax.stage import Backend
from teamtr_jax.tabular import (
    Estimated,
    ExactData,
    TeamState,
    agent_rows,
    as_pytree,
    batch_of,
    evaluate,
    own_table,
    plain,
    updater,
)
from teamtr_jax.types import Estimate, Step, Team
from teamtr_jax.validation import InputError, one_of, real_number, whole_number
from teamtr_jax.values import advantages, return_bounds, return_range

__all__ = ["Sampling", "SampledData", "sampled_backend", "prompts_per_set"]

Advantage = Literal["group_normalised", "centred", "to_go", "exact"]


@dataclass(frozen=True)
class Sampling:
    """How rollouts are collected and what advantages are made of them."""

    prompts: int  #: B, starts drawn from ρ for one set of rollouts
    group: int = 8  #: G, rollouts of each start
    advantage: Advantage = "group_normalised"
    """``group_normalised``: the paper's, clipped at `advantage_clip`; ``centred``: `R_g − R̄_{−g}`; ``to_go``: returns to go less
    the mean of the group's others; ``exact``: `A(s,a)` of the model at sampled states."""
    advantage_clip: float = 5.0  #: `A_clip`
    held_out: int = 0  #: prompts of each set that no update sees and S8 certifies with (episodic teams)
    alpha: float = 0.1  #: probability of error of S8
    horizon: int | None = None  #: of a discounted team; default: `γ^H ≤ 1e-3`

    def __post_init__(self):
        one_of("advantage", self.advantage, get_args(Advantage))
        for name in ("prompts", "group", "held_out"):
            whole_number(name, getattr(self, name), -(2**62))
        real_number("advantage_clip", self.advantage_clip, above=0.0, infinite=True)
        real_number("alpha", self.alpha, above=0.0, below=1.0)
        if self.horizon is not None:
            whole_number("horizon", self.horizon, 1)
        if self.prompts < 1 or self.group < 1 or not 0 <= self.held_out < self.prompts:
            found = f"{self.prompts} prompts of {self.group}, {self.held_out} held out"
            raise InputError("prompts, group, held_out", found, "positive numbers, fewer held out than there are")
        if self.group < 2 and self.advantage != "exact":
            raise InputError("group", self.group, "at least 2: advantages are relative to the group")


def prompts_per_set(budget: int, schedule: Schedule, agents: int, group: int) -> int:
    """B, so that the schedule's sets of `B·G` rollouts fit into the stage's budget: the same budget for every schedule.

    Raises:
      InputError: if a number is no positive integer, or the budget is too small for one prompt in each set.

    Example:
      >>> from teamtr_jax.schedules import fresh, once
      >>> prompts_per_set(192, fresh, agents=3, group=8), prompts_per_set(192, once, agents=3, group=8)
      (8, 24)
    """
    for name, value in (("budget", budget), ("agents", agents), ("group", group)):
        whole_number(name, value, 1)
    prompts = budget // (schedule.draws(agents) * group)
    if prompts < 1:
        raise InputError("budget", budget, f"at least {schedule.draws(agents) * group} rollouts a stage")
    return prompts


class SampledData(NamedTuple):
    """A set of rollouts and the tables that wrote them."""

    rollouts: Rollouts
    policy: Array


class SampledEstimate(NamedTuple):
    """What an update is made from, what an unbiased one would be, and how the importance weights look."""

    used: Estimated
    raw: Estimate
    weights: tuple[Array, ...]


def sampled_backend(team: Team, step: Step, sampling: Sampling, audit: bool = True) -> Backend:
    """Tables by samples: G rollouts of each of B starts, advantages as `sampling` says, every KL on the sampled states.

    Between rollouts (`Schedule.reuse`) the old ones are used as they are, or with importance weights of whole paths; the
    occupancy of old rollouts with the current team's advantages is for `advantage="exact"` only. In a product team the others
    play as they did in the rollouts, so that `once` is `joint` here: what samples show without weights is the reused surrogate.

    Args:
      team: one team, or a batch of teams (every array with a leading axis).
      step: the update (`teamtr_jax.trust_region`).
      audit: whether the records carry the exact numbers of every update.

    Raises:
      InputError: `held_out` in a discounted team (S8 is about whole episodes), a horizon in an episodic one, more rollouts than
        fit into memory, a team with wrong values; later, a step whose rows are no probabilities.
    """
    batch = batch_of(team)
    if sampling.held_out and team.dynamics.horizon is None:
        raise InputError("held_out", sampling.held_out, "0 in a discounted team: S8 is about whole episodes")
    horizon = team.dynamics.horizon
    if horizon is None:
        horizon = sampling.horizon or default_horizon(np.asarray(team.dynamics.discount).max())
    elif sampling.horizon not in (None, horizon):
        raise InputError("horizon", sampling.horizon, f"none, or {horizon}: an episodic team is played to its end")
    require_memory(math.prod(batch) * sampling.prompts, sampling.group, horizon, team)
    rows, owned = agent_rows(team)
    step = as_pytree(step)
    programs = _sampled_programs(bool(batch), sampling, horizon)

    def rollout(state: TeamState, key: Array | None) -> SampledData:
        if key is None:
            raise InputError("key", "None", "a PRNG key: the backend samples")
        keys = jax.random.split(key, batch[0]) if batch else key
        return programs.rollout(team, state.policy, keys)

    def estimate(state: TeamState, data: SampledData, agent: Any, schedule: Schedule) -> SampledEstimate:
        if schedule.reuse == "occupancy" and sampling.advantage != "exact":
            raise InputError(f"schedule {schedule.name}", "the current team's advantages", "advantage='exact'")
        options = {"reuse": schedule.reuse, "cut": schedule.truncation}
        return programs.estimate(team, state.policy, data, jnp.asarray(agent), rows, owned, **options)

    def update(state: TeamState, found: SampledEstimate, agent: Any) -> tuple[TeamState, dict[str, Any]]:
        who = jnp.asarray(agent)
        new, info = updater(bool(batch))(step, team, state, found.used, who, rows, owned)
        info["surrogate_raw"] = programs.raw(team, state.policy, new.policy, found, who, rows)
        info |= dict(zip(WEIGHTS, found.weights, strict=True))
        info.pop("objective_before")
        return plain(batch, new, info)

    return Backend(
        agents=team.agents,
        rollout=rollout,
        estimate=estimate,
        update=update,
        cost=sampling.prompts * sampling.group,
        batch=batch,
        predict=lambda state, data: programs.predict(step, team, state, data, rows, owned),
        certify=partial(_certify, team, sampling) if sampling.held_out else None,
        audit=(lambda states, records, schedule: audit_records(team, states, records, _shown(schedule)))
        if audit
        else None,
    )


def _shown(schedule: Schedule) -> Schedule:
    return schedule._replace(reuse="start") if schedule.reuse == "rollouts" else schedule


WEIGHTS = ("weight_ess", "weight_p95", "weight_p99", "weight_max", "weight_above_ten")


class _Programs(NamedTuple):
    rollout: Any
    estimate: Any
    raw: Any
    predict: Any


@cache
def _sampled_programs(batched: bool, sampling: Sampling, horizon: int) -> _Programs:
    training = slice(0, sampling.prompts - sampling.held_out)
    lift = jax.vmap if batched else lambda f: f

    def rollout(team: Team, policy: Array, key: Array) -> SampledData:
        return SampledData(sample_rollouts(team, policy, key, sampling.prompts, sampling.group, horizon), policy)

    def estimate(
        team: Team, policy: Array, data: SampledData, agent: Array, rows: Array, owned: Array, *, reuse: str, cut: float
    ) -> SampledEstimate:
        rollouts = jax.tree.map(lambda x: x[training], data.rollouts)
        to_go = reward_to_go(rollouts, team.dynamics.discount)
        weight = path_weight(team, rollouts, policy)
        kept = jnp.minimum(weight, cut) if reuse == "weights" else None
        centred, error = centred_advantage(rollouts.returns), return_error(rollouts)
        if sampling.advantage == "exact":
            exact: ExactData = evaluate(team, data.policy if reuse in ("rollouts", "start") else policy)
            table = advantages(team, exact.values)
            at = jnp.maximum(rollouts.state, 0), rollouts.action
            used, error = (jnp.where(rollouts.alive, x[at], 0.0) for x in (table, exact.error))
        elif sampling.advantage == "to_go":
            used = centred_advantage(to_go, axis=-2)
        elif sampling.advantage == "centred":
            used = broadcast_advantage(rollouts, centred)
        else:
            normalised = group_normalised_advantage(rollouts.returns, sampling.advantage_clip)
            used = broadcast_advantage(rollouts, normalised)
            error = return_error(rollouts, 1 / group_scale(rollouts.returns))
        raw = broadcast_advantage(rollouts, centred) if sampling.advantage == "group_normalised" else used
        own = rows[agent], owned[agent]

        def tables(advantage: Array, error: Array | None = None) -> Estimate:
            options = {"weights": kept, "to_go": to_go, "error": error}
            return estimate_tables(team, policy, rollouts, agent, advantage, *own, **options)

        discounted = team.dynamics.horizon is None
        mass = 1 / (1 - jnp.asarray(team.dynamics.discount)) if discounted else jnp.ones(())
        return SampledEstimate(
            Estimated(tables(used, error), mass, rollouts.returns.mean()),
            tables(raw),
            tuple(weight_diagnostics(weight)),
        )

    def raw(team: Team, before: Array, after: Array, found: SampledEstimate, agent: Array, rows: Array) -> Array:
        tables = own_table(team, before, agent, rows), own_table(team, after, agent, rows)
        return surrogate_parts(*tables, found.raw, found.raw).raw * found.used.mass

    def predict(step: Step, team: Team, state: TeamState, data: SampledData, rows: Array, owned: Array) -> Array:
        def gain(agent: Array) -> Array:
            found = estimate(team, state.policy, data, agent, rows, owned, reuse="rollouts", cut=math.inf)
            return step(own_table(team, state.policy, agent, rows), found.used.tables, state.memory[agent])[1].gain

        return jax.lax.map(gain, jnp.arange(team.agents))

    return _Programs(
        jax.jit(lift(rollout)),
        jax.jit(
            lambda *arguments, reuse, cut: lift(partial(estimate, reuse=reuse, cut=cut))(*arguments),
            static_argnames=("reuse", "cut"),
        ),
        jax.jit(lift(raw)),
        jax.jit(lambda step, *arguments: lift(partial(predict, step))(*arguments)),
    )


def _certify(
    team: Team, sampling: Sampling, before: TeamState, after: TeamState, data: SampledData, agent: Any
) -> dict[str, Any]:
    """S8 on the held-out prompts where they were written by the team before the update; −∞ elsewhere."""
    if not np.ndim(agent):
        lower = _lower_limit(team, sampling, before.policy, after.policy, data, int(agent))
        return {"certificate_finite_sample": lower}
    lower = np.empty(len(agent))
    for i, who in enumerate(np.asarray(agent)):
        one, old, new, seen = jax.tree.map(lambda x, i=i: x[i], (team, before.policy, after.policy, data))
        lower[i] = _lower_limit(one, sampling, old, new, seen, int(who))
    return {"certificate_finite_sample": lower}


def _lower_limit(team: Team, sampling: Sampling, before: Array, after: Array, data: SampledData, agent: int) -> float:
    if not bool((data.policy == before).all()):
        return -math.inf
    held_out = jax.tree.map(lambda x: x[-sampling.held_out :], data.rollouts)
    floor, span = (float(x) for x in _floor_and_span(team))
    if span == 0:
        return 0.0
    messages = message_log_ratios(team, held_out, agent, before, after)
    reward: NDArray[np.float64] = np.clip((np.asarray(held_out.returns) - floor) / span, 0.0, 1.0)
    return span * finite_sample_certificate(reward, messages.log_ratio, alpha=sampling.alpha, zeros=True).lower


@jax.jit
def _floor_and_span(team: Team) -> tuple[Array, Array]:
    """The least return of an episode, and the range of returns."""
    return jnp.where(team.initial > 0, return_bounds(team)[0], jnp.inf).min(), return_range(team)
