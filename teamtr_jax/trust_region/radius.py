"""U1: the radius at which a certificate is greatest."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import Array
from jaxtyping import Float

from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.dynamics import after
from teamtr_jax.surrogates import hybrids_report
from teamtr_jax.ties import pooled, pooled_error, summed, tied_table, with_tied_table
from teamtr_jax.trust_region._info import require_setting, require_shape
from teamtr_jax.trust_region.constrained import kl_constrained_step
from teamtr_jax.types import Stage, StageReport, StepInfo, Team, require_agent, require_one, require_policy
from teamtr_jax.validation import InputError, pair, require_float64, whole_number
from teamtr_jax.values import advantage_error, advantages, evaluate_policy, visits_error
from teamtr_jax.visits import hybrids, marginal_advantage, solo_steps, team_policy

__all__ = ["CertifiedStep", "certified_step", "certificate_optimal_radius"]

Penalty = Callable[[StageReport], Float[Array, " n"]]
GRID = 33


class CertifiedStep(NamedTuple):
    """One exact step and what is certified about it."""

    radius: Float[Array, ""]  #: `δ`, the bound on `E_d KL(current‖new)` (episodic: summed over the episode)
    certificate: Float[Array, ""]  #: `L − penalty`
    improvement: Float[Array, ""]  #: `J(π') − J(π)`
    multiplier: Float[Array, ""]  #: `λ` of the step
    target: Array  #: the new tables of the team
    report: StageReport  #: of this one update


def certified_step(
    team: Team, policy: Array, agent: Array, radius: Float[Array, ""], penalty: Penalty = penalty_log_sum
) -> CertifiedStep:
    """One agent's step `max Σ m A` with `E_d KL(current‖new) ≤ radius`, and its certificate `L − penalty(report)`.

    Args:
      penalty: a bound on the fresh gap, a function of the report of this one update; compiled.

    Raises:
      InputError: if `agent` is not one of the team, `policy` is none of it, or the radius is negative or not a number.
    """
    require_agent(team, agent)
    require_setting("radius", radius)
    require_shape("radius", jnp.asarray(radius), ())
    require_policy(team, policy=policy)
    improvement, multiplier, target, report = _step(team, policy, agent, radius)
    return CertifiedStep(radius, _certificate(report, penalty), improvement, multiplier, target, report)


@jax.jit
def _step(team: Team, policy: Array, agent: Array, radius: Array) -> tuple[Array, Array, Array, StageReport]:
    """What `CertifiedStep` says of a step whatever the penalty: one program for all of them."""
    joint = team_policy(team, policy)
    resolvent, v, m = evaluate_policy(team, joint)
    error = advantage_error(team, joint, resolvent, v)
    weight = m if team.dynamics.horizon is not None else m / m.sum()
    a = advantages(team, v)
    if team.observation is not None:
        off = visits_error(team, joint, resolvent, after(m, error)) * (weight.sum() / m.sum())
        target, info = _tied_step(team, policy, agent, radius, (weight, off, a, error))
    elif team.factors is None:
        assert team.active is not None
        own = jnp.where(team.active == agent, weight, 0.0)
        table, info = kl_constrained_step(policy, a, own, radius, error=error)
        target = jnp.where((team.active == agent)[:, None], table, policy)
    else:
        a, error = (marginal_advantage(team, policy, x, agent) for x in (a, error))
        table, info = kl_constrained_step(policy[agent], a, weight, radius, error=error)
        target = policy.at[agent].set(table)
    order = jnp.roll(jnp.arange(team.agents), -agent)  # the updated agent first
    stage = Stage(team, policy, after(target, m), order)
    whole = hybrids(stage)
    h = jax.tree.map(lambda x: x[:1], whole)._replace(policies=whole.policies[:2])
    report = hybrids_report(team, h, solo_steps(stage)[:1])
    improvement = report.surrogate_intermediate + report.gap_fresh
    return improvement[0], info.multiplier, target, report


@partial(jax.jit, static_argnames="penalty")
def _certificate(report: StageReport, penalty: Penalty) -> Array:
    return (report.surrogate_intermediate - penalty(report))[0]


def _tied_step(
    team: Team, policy: Array, agent: Array, radius: Array, tables: tuple[Array, Array, Array, Array]
) -> tuple[Array, StepInfo]:
    """The step of an agent with tied rows: that of its pooled table. `tables`: weight, its error, advantage, its error."""
    weight, off, a, error = tables
    table = policy
    if team.factors is not None:
        table = policy[agent]
        a, error = (marginal_advantage(team, policy, x, agent) for x in (a, error))
    found = pooled(team, agent, weight, a), summed(team, agent, weight)
    beyond = pooled_error(team, agent, weight, off, a, error)
    rows, info = kl_constrained_step(tied_table(team, table, agent), *found, radius, error=beyond)
    moved = with_tied_table(team, table, rows, agent)
    return moved if team.factors is None else policy.at[agent].set(moved), info


def certificate_optimal_radius(
    team: Team,
    policy: Array,
    agent: int,
    penalty: Penalty = penalty_log_sum,
    bracket: tuple[float, float] = (1e-10, 10.0),
) -> CertifiedStep:
    """The exact step of `agent` whose certificate is greatest over the radius: a grid on `log δ`, then Brent's method.

    For S7 the certificate is concave in `δ` and the best multiplier is `λ = ϱ` (theory/derivations/u1.md).

    Raises:
      InputError: if `agent` is not one of the team, `policy` is none of it, or `bracket` is not two increasing positive numbers.
    """
    whole_number("agent", agent, 0, team.agents - 1)
    require_one(team, "team")
    require_float64(policy=policy)
    require_policy(team, policy=policy)
    expected = "two positive numbers in increasing order"
    low, high = pair("bracket", bracket, expected)
    if not 0 < low < high < math.inf:
        raise InputError("bracket", bracket, expected)

    def step(log_radius: float) -> CertifiedStep:
        return certified_step(team, policy, jnp.asarray(agent), jnp.asarray(np.exp(log_radius)), penalty)

    grid = np.linspace(math.log(low), math.log(high), GRID)
    best = int(np.argmax([float(step(x).certificate) for x in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    found: Any = scipy.optimize.minimize_scalar(
        lambda x: -float(step(x).certificate), bounds=around, method="bounded", options={"xatol": 1e-6}
    )
    return max((step(grid[best]), step(float(found.x))), key=lambda s: float(s.certificate))
