"""The one driver: `run_stage(backend, policy, order, schedule)`, and the backend of exact tables.

A backend is three functions. It never decides when to sample; the schedule does. It never keeps books; the driver does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from teamtr_jax.schedules import Schedule, fresh
from teamtr_jax.trust_region import kl_constrained_step
from teamtr_jax.types import Stage, Team, UpdateRecord
from teamtr_jax.validation import permutation
from teamtr_jax.values import advantages
from teamtr_jax.visits import cleaned_visits, marginal_advantage, occupancy, team_policy

__all__ = ["Backend", "run_stage", "exact_backend", "improvement_stage"]


class Backend(NamedTuple):
    """What a stage is run on. `policy` is whatever the backend updates: tables, parameters of networks."""

    rollout: Callable[[Any, Array | None], Any]  #: (policy, key) → data of the team as it stands
    estimate: Callable[[Any, Any, int], Any]  #: (policy, data, agent) → what the agent's update needs
    update: Callable[
        [Any, Any, int], tuple[Any, dict[str, float]]
    ]  #: (policy, estimate, agent) → new policy, diagnostics


def run_stage(
    backend: Backend,
    policy: Any,
    order: Sequence[int],
    schedule: Schedule = fresh,
    key: Array | None = None,
    stage: int = 0,
) -> tuple[Any, list[UpdateRecord]]:
    """Update each agent of `order` once, on rollouts as recent as `schedule` says.

    Args:
      key: a PRNG key, split once for each set of rollouts; exact backends need none.
      stage: the number written into the records.

    Returns:
      The updated policy and one record per update.

    Raises:
      InputError: if `order` is not a permutation of the agents.
    """
    agents = permutation("order", list(order), len(order))
    records: list[UpdateRecord] = []
    data = None
    for update, agent in enumerate(agents.tolist()):
        resampled = update == 0 or schedule(update, records)
        if resampled:
            use = None
            if key is not None:
                key, use = jax.random.split(key)
            data = backend.rollout(policy, use)
        policy, info = backend.update(policy, backend.estimate(policy, data, agent), agent)
        records.append(UpdateRecord(stage=stage, update=update, agent=agent, resampled=resampled, **info))
    return policy, records


class ExactData(NamedTuple):
    """What infinitely many rollouts of one team would show."""

    occupancy: Float[Array, " S"]
    mass: Float[Array, ""]
    advantage: Float[Array, "S A"]
    objective: Float[Array, ""]


def exact_backend(team: Team, radius: float) -> Backend:
    """Exact tables: occupancy and advantages by linear solves, the step by U1 with `E_d KL(current‖new) ≤ radius`.

    In an episodic team `radius` bounds the KL summed over the episode, as `δ^ep` does.
    """

    @jax.jit
    def rollout(policy: Array, key: Array | None) -> ExactData:
        del key
        joint = team_policy(team, policy)
        resolvent = team.dynamics.resolvent(joint)
        v = resolvent.values((joint * team.reward).sum(-1))
        m = cleaned_visits(resolvent, team.initial, v)
        return ExactData(occupancy(m), m.sum(), advantages(team, v), team.initial @ v)

    rows, owned = _rows(team)

    @jax.jit
    def step(policy: Array, data: ExactData, agent: Array) -> tuple[Array, dict[str, Array]]:
        weight = data.occupancy * (data.mass if team.dynamics.horizon is not None else 1.0)
        if team.factors is None:
            mine = rows[agent]
            own = jnp.where(owned[agent], weight[mine], 0.0)
            table, info = kl_constrained_step(policy[mine], data.advantage[mine], own, jnp.asarray(radius))
            new = policy.at[jnp.where(owned[agent], mine, policy.shape[0])].set(table, mode="drop")
        else:
            advantage = marginal_advantage(team, policy, data.advantage, agent)
            table, info = kl_constrained_step(policy[agent], advantage, weight, jnp.asarray(radius))
            new = policy.at[agent].set(table)
        scale = 1.0 if team.dynamics.horizon is not None else data.mass
        return new, {"surrogate": info.gain * scale, "kl": info.kl, "objective_before": data.objective}

    def update(policy: Array, data: ExactData, agent: int) -> tuple[Array, dict[str, float]]:
        new, info = step(policy, data, jnp.asarray(agent))
        return new, {name: float(value) for name, value in info.items()}

    return Backend(rollout, lambda policy, data, agent: data, update)


def _rows(team: Team) -> tuple[Array, Array]:
    """``[n, R]``: the states of each agent, padded to the largest number of them, and which entries are real."""
    if team.factors is not None:
        return jnp.zeros((team.agents, 0), int), jnp.zeros((team.agents, 0), bool)
    active = np.asarray(team.active)
    counts = np.bincount(active[active >= 0], minlength=team.agents)
    owned = np.arange(max(counts.max(), 1)) < counts[:, None]
    rows = np.zeros(owned.shape, int)
    by_agent = np.argsort(active, kind="stable")[np.sum(active < 0) :]
    rows[owned] = by_agent
    return jnp.asarray(rows), jnp.asarray(owned)


def improvement_stage(team: Team, current: Array, radius: float, order: Sequence[int]) -> Stage:
    """The stage in which each agent in turn takes one exact KL-constrained improvement step, always on fresh occupancy."""
    target, _ = run_stage(exact_backend(team, radius), current, order)
    return Stage(team, current, target, jnp.asarray(order))
