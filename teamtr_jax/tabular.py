"""Teams of tables as backends of the driver: exactly, and by sampled rollouts.

A backend is built for one team, or for a batch of teams of one shape (every array of the `Team` with a leading axis of N
instances); all instances then take their updates in one program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from teamtr_jax.chain_audit import audit_records
from teamtr_jax.dynamics import after
from teamtr_jax.schedules import Schedule
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.ties import pooled, pooled_error, summed, tied_table, with_tied_table
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.types import (
    Estimate,
    Stage,
    Step,
    Team,
    floats,
    require_one,
    require_policy,
    verified,
)
from teamtr_jax.validation import InputError, probability_rows, real_number, require_float64
from teamtr_jax.values import (
    advantage_error,
    advantages,
    evaluate_policy,
    return_bounds,
    rounding_unit,
    visits_error,
)
from teamtr_jax.visits import marginal_advantage, team_policy

__all__ = ["TeamState", "ExactData", "Estimated", "team_state", "evaluate", "exact_backend", "improvement_stage",
           "agent_rows", "own_table", "with_own_table", "as_pytree", "batch_of", "plain", "updater"]  # fmt: skip


class TeamState(NamedTuple):
    """What training changes: the tables of the team, and what the step of each agent remembers."""

    policy: Array  #: [S, A] turn-taking, [n, S, max A_k] product
    memory: Array  #: [n]


def team_state(team: Team, policy: Array, memory: float = 0.0) -> TeamState:
    """The state at the start of training. With a batch of teams `policy` has the batch axis too.

    Raises:
      InputError: a policy that is none of the team, or a memory that is not finite.
    """
    require_float64(policy=policy)
    require_policy(verified(team), batched=True, policy=policy)
    rank = 2 if team.factors is None else 3
    if policy.shape[:-rank] != team.initial.shape[:-1]:
        found = f"leading axes {list(policy.shape[:-rank])}"
        raise InputError("policy", found, f"{list(team.initial.shape[:-1])}, those of the team")
    real_number("memory", memory)
    return TeamState(policy, jnp.full((*team.initial.shape[:-1], team.agents), memory))


class ExactData(NamedTuple):
    """What infinitely many rollouts of one team would show."""

    weight: Float[Array, " S"]  #: occupancy; episodic: visits
    mass: Float[Array, ""]  #: 1/(1−γ); 1 when episodic: surrogates are `mass · Σ weight (…)`
    values: Float[Array, " S"]
    objective: Float[Array, ""]
    policy: Array  #: the tables that wrote the rollouts
    error: Float[Array, "S A"]  #: bound on the rounding of the advantages of `values`, but for a constant per state
    weight_error: Float[Array, " S"] | None = None  #: bound on the rounding of `weight`; of teams with tied rows only


def evaluate(team: Team, policy: Array) -> ExactData:
    """Occupancy (episodic: visits), values and objective of the team that plays `policy`.

    Raises:
      InputError: a batch, or a policy that is none of the team.
    """
    require_one(team, "team")
    require_policy(team, policy=policy)
    joint = team_policy(team, policy)
    resolvent, v, m = evaluate_policy(team, joint)
    error = advantage_error(team, joint, resolvent, v)
    off = None if team.observation is None else visits_error(team, joint, resolvent, after(m, error))
    if team.dynamics.horizon is not None:
        return ExactData(m, jnp.ones(()), v, team.initial @ v, policy, error, off)
    total = m.sum()
    return ExactData(m / total, total, v, team.initial @ v, policy, error, None if off is None else off / total)


def _estimate(
    team: Team, policy: Array, data: ExactData, agent: Array, rows: Array, owned: Array, *, reuse: str, cut: float
) -> Estimate:
    """The tables of `agent`: rows `[R, A]` of the team's table, its factor `[S, max A_k]`, or tied rows by observation."""
    weight, v, error, off = data.weight, data.values, data.error, data.weight_error
    if reuse in ("occupancy", "weights"):
        now = evaluate(team, policy)
        v, error = now.values, now.error
        if reuse == "weights":
            some = data.weight > 0
            ratio = jnp.where(some, now.weight / jnp.where(some, data.weight, 1.0), 0.0)
            weight = data.weight * jnp.minimum(ratio, cut)
            if off is not None and now.weight_error is not None:
                off = jnp.where(ratio < cut, now.weight_error, cut * off)
    a = advantages(team, v)
    floor = return_bounds(team)[0]
    above = jnp.maximum(a + (v - floor)[:, None], 0.0)  # Q − Φ
    of_value = error + rounding_unit(team) * (abs(v) + abs(floor))[:, None]
    tables = a, jnp.maximum(a, 0.0), jnp.maximum(-a, 0.0), above, error, of_value
    if team.observation is not None:
        assert off is not None
        return _tied_estimate(team, policy, agent, weight, off, tables)
    if team.factors is None:
        mine = rows[agent]
        a, gain, loss, above, error, of_value = (table[mine] for table in tables)
        w = jnp.where(owned[agent], weight[mine], 0.0)
        current = policy[mine]
    else:
        a, gain, loss, above, error, of_value = (marginal_advantage(team, policy, table, agent) for table in tables)
        w, current = weight, policy[agent]
    share = w[:, None] * current
    return Estimate(w, a, share * gain, share * loss, above, error, of_value)


def _tied_estimate(
    team: Team, policy: Array, agent: Array, weight: Array, off: Array, tables: tuple[Array, ...]
) -> Estimate:
    """The tables of the agent's states, pooled by what it sees (U4)."""
    if team.factors is not None:
        tables = tuple(marginal_advantage(team, policy, table, agent) for table in tables)
    a, gain, loss, above, error, of_value = tables
    w, current = summed(team, agent, weight), own_table(team, policy, agent, jnp.zeros((team.agents, 0), int))
    a_o, gain, loss, above_o = (pooled(team, agent, weight, table) for table in (a, gain, loss, above))
    errors = (pooled_error(team, agent, weight, off, *pair) for pair in ((a, error), (above, of_value)))
    mass = w[:, None] * current
    return Estimate(w, a_o, mass * gain, mass * loss, above_o, *errors)


def own_table(team: Team, policy: Array, agent: Array, rows: Array) -> Array:
    """The rows that `agent` may change: of its states, in a team with tied rows by observation."""
    if team.observation is not None:
        return tied_table(team, policy if team.factors is None else policy[agent], agent)
    return policy[agent] if team.factors is not None else policy[rows[agent]]


def with_own_table(team: Team, policy: Array, table: Array, agent: Array, rows: Array, owned: Array) -> Array:
    """`policy` with the agent's rows replaced by `table`."""
    if team.observation is not None:
        if team.factors is None:
            return with_tied_table(team, policy, table, agent)
        return policy.at[agent].set(with_tied_table(team, policy[agent], table, agent))
    if team.factors is not None:
        return policy.at[agent].set(table)
    return policy.at[jnp.where(owned[agent], rows[agent], policy.shape[0])].set(table, mode="drop")


def agent_rows(team: Team) -> tuple[Array, Array]:
    """``[..., n, R]``: the states of each agent, padded to the largest number of them, and which entries are real.

    Empty in product teams, whose agents have a row for every state, and where rows are tied (`teamtr_jax.ties`).
    """
    batch = team.initial.shape[:-1]
    if team.factors is not None or team.observation is not None:
        return jnp.zeros((*batch, team.agents, 0), int), jnp.zeros((*batch, team.agents, 0), bool)
    active = np.asarray(team.active).reshape(-1, team.initial.shape[-1])
    own = active[:, None, :] == np.arange(team.agents)[:, None]
    width = max(int(own.sum(-1).max()), 1)
    rows = np.argsort(~own, axis=-1, kind="stable")[..., :width]
    owned = np.arange(width) < own.sum(-1, keepdims=True)
    shape = (*batch, team.agents, width)
    return jnp.asarray(np.where(owned, rows, 0).reshape(shape)), jnp.asarray(owned.reshape(shape))


class Estimated(NamedTuple):
    """An estimate in the units of the return: surrogates are `mass · Σ weight (…)`."""

    tables: Estimate
    mass: Float[Array, ""]
    objective: Float[Array, ""]


def _update(
    step: Step, team: Team, state: TeamState, estimate: Estimated, agent: Array, rows: Array, owned: Array
) -> tuple[TeamState, dict[str, Array]]:
    current = own_table(team, state.policy, agent, rows)
    new, info = step(current, estimate.tables, state.memory[agent])
    policy = with_own_table(team, state.policy, new, agent, rows, owned)
    mass = estimate.mass
    return TeamState(policy, state.memory.at[agent].set(info.memory)), {
        "surrogate": info.objective * mass,
        "kl": info.kl,
        "objective_before": estimate.objective,
        "gain": info.gain * mass,
        "kl_new_to_current": info.kl_new_to_current,
        "multiplier": info.multiplier,
        "memory": info.memory,
    }


def exact_backend(team: Team, step: Step, audit: bool = True) -> Backend:
    """Exact tables: occupancy and advantages by linear solves, so every set of rollouts is infinitely large and costs 1.

    Between rollouts (`Schedule.reuse`): importance weights are those of the states, `min(m^{now}/m^{rollouts}, truncation)`, with
    the current team's advantages, so that without truncation they are exact; by samples they are weights of whole paths.

    Args:
      team: one team, or a batch of teams (every array with a leading axis).
      step: the update (`teamtr_jax.trust_region`); its radius bounds `E_d KL(current‖new)`, in an episodic team the KL summed
        over the episode.
      audit: whether the records carry the exact numbers of every update.

    Raises:
      InputError: a team with more than one leading axis or with wrong values; later, a step whose rows are no probabilities.
    """
    batch = batch_of(team)
    rows, owned = agent_rows(team)
    step = as_pytree(step)
    programs = _exact_programs(bool(batch))

    def estimate(state: TeamState, data: ExactData, agent: Any, schedule: Schedule) -> Estimated:
        options = {"reuse": schedule.reuse, "cut": schedule.truncation}
        policy = data.policy if schedule.reuse == "start" else state.policy
        return programs.estimate(team, policy, data, jnp.asarray(agent), rows, owned, **options)

    def update(state: TeamState, estimated: Estimated, agent: Any) -> tuple[TeamState, dict[str, Any]]:
        return plain(batch, *programs.update(step, team, state, estimated, jnp.asarray(agent), rows, owned))

    return Backend(
        agents=team.agents,
        rollout=lambda state, key: programs.evaluate(team, state.policy),
        estimate=estimate,
        update=update,
        cost=1,
        batch=batch,
        predict=lambda state, data: programs.predict(step, team, state, data, rows, owned),
        audit=partial(audit_records, team) if audit else None,
    )


class _Programs(NamedTuple):
    evaluate: Callable[..., ExactData]
    estimate: Callable[..., Estimated]
    predict: Callable[..., Array]
    update: Callable[..., tuple[TeamState, dict[str, Array]]]


@cache
def _exact_programs(batched: bool) -> _Programs:
    """Compiled once for each kind of step and shape of team: settings of a step are arguments (`as_pytree`)."""

    def estimate(
        team: Team, policy: Array, data: ExactData, agent: Array, rows: Array, owned: Array, *, reuse: str, cut: float
    ) -> Estimated:
        tables = _estimate(team, policy, data, agent, rows, owned, reuse=reuse, cut=cut)
        return Estimated(tables, data.mass, data.objective)

    def predict(step: Step, team: Team, state: TeamState, data: ExactData, rows: Array, owned: Array) -> Array:
        def gain(agent: Array) -> Array:
            tables = _estimate(team, state.policy, data, agent, rows, owned, reuse="rollouts", cut=1.0)
            return step(own_table(team, state.policy, agent, rows), tables, state.memory[agent])[1].gain

        return jax.vmap(gain)(jnp.arange(team.agents))

    lift = jax.vmap if batched else lambda f: f
    return _Programs(
        jax.jit(lift(evaluate)),
        jax.jit(
            lambda *arguments, reuse, cut: lift(partial(estimate, reuse=reuse, cut=cut))(*arguments),
            static_argnames=("reuse", "cut"),
        ),
        jax.jit(lambda step, *arguments: lift(partial(predict, step))(*arguments)),
        updater(batched),
    )


@cache
def updater(batched: bool) -> Callable[..., tuple[TeamState, dict[str, Array]]]:
    """`(step, team, state, estimated, agent, rows, owned) → (state, diagnostics)`."""
    lift = jax.vmap if batched else lambda f: f
    return jax.jit(lambda step, *arguments: lift(partial(_update, step))(*arguments))


def as_pytree(step: Step) -> Step:
    """A step whose settings are leaves (`jax.tree_util.Partial`, as factories return), so that new settings compile nothing."""
    return step if isinstance(step, jax.tree_util.Partial) else jax.tree_util.Partial(step)


def batch_of(team: Team) -> tuple[int, ...]:
    """``()``, or ``(N,)`` for a batch of teams.

    Raises:
      InputError: if there are more leading axes, or values of the team are wrong.
    """
    batch = verified(team).initial.shape[:-1]
    if len(batch) > 1:
        raise InputError("team", f"arrays with {len(batch)} leading axes", "one team, or a batch with one leading axis")
    return batch


def plain(batch: tuple[int, ...], state: Any, info: dict[str, Array]) -> tuple[Any, dict[str, Any]]:
    """Diagnostics as numbers, or as NumPy arrays over the batch.

    Raises:
      InputError: if the step that was taken has left the rows of the policy no probabilities.
    """
    if (values := floats(state.policy)) is not None:
        probability_rows("policy after the step", values)
    return state, {name: np.asarray(x) if batch else float(x) for name, x in info.items()}


def improvement_stage(team: Team, current: Array, radius: float, order: Sequence[int]) -> Stage:
    """The stage in which each agent in turn takes one exact KL-constrained improvement step, always on fresh occupancy.

    Raises:
      InputError: a team, policy, radius or order that is out of range.
    """
    require_one(team, "team")
    real_number("radius", radius, 0.0)
    backend = exact_backend(team, kl_constrained(radius), audit=False)
    target, _ = run_stage(backend, team_state(team, current), order)
    return Stage(team, current, target.policy, jnp.asarray(order))
