"""U4: rows that are tied, because an agent sees part of the state only (`Team.observation`).

An agent of such a team has one row for each observation. Its update is that of a table over observations, with the tables
of its states pooled: `w(o) = Σ_{s∈o} w(s)` and `A(o,a) = Σ_{s∈o} w(s)A(s,a)/w(o)`. What is linear in the row pools exactly:
the surrogate, the expected KL, and the closed-form step of S9, `π'(a|o) ∝ Σ_{s∈o} m(s)π(a|o)(Q−Φ)(s,a)`. A table over
observations has ``S`` rows, as many as there are labels; those of no state have weight 0.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.types import Team
from teamtr_jax.values import rounding_unit

__all__ = ["own_label", "summed", "pooled", "pooled_error", "tied_table", "with_tied_table"]


def own_label(team: Team, agent: Array | int) -> Int[Array, " S"]:
    """What `agent` sees at each state; S, which is no label, at states of others."""
    label = team.observation
    assert label is not None
    if team.factors is not None:
        return label[agent]
    return jnp.where(team.active == agent, label, label.shape[0])


def summed(team: Team, agent: Array | int, table: Float[Array, "S ..."]) -> Float[Array, "S ..."]:
    """`Σ_{s∈o} table(s)`, by observation of the agent."""
    return jnp.zeros_like(table).at[own_label(team, agent)].add(table, mode="drop")


def pooled(
    team: Team, agent: Array | int, weight: Float[Array, " S"], table: Float[Array, "S A"]
) -> Float[Array, "S A"]:
    """`Σ_{s∈o} w(s) table(s,a) / w(o)`, by observation of the agent; 0 where `w(o) = 0`."""
    return _over(summed(team, agent, weight[:, None] * table), summed(team, agent, weight))


def _over(table: Array, weight: Array) -> Array:
    some = weight[:, None] > 0
    return jnp.where(some, table / jnp.where(some, weight[:, None], 1.0), 0.0)


def pooled_error(
    team: Team,
    agent: Array | int,
    weight: Float[Array, " S"],
    weight_error: Float[Array, " S"],
    table: Float[Array, "S A"],
    error: Float[Array, "S A"],
) -> Float[Array, "S A"]:
    """How far rounding may have put `pooled(team, agent, weight, table)` off, but for a constant and a factor per row.

    `Σ_{s∈o} (w error + (w_error + k·u w) |table|)/w(o)`: contexts that cancel leave the rounding of large terms. No step sees
    what `w(o)` itself is off, a factor of the whole row.
    """
    off = weight[:, None] * error + (weight_error + rounding_unit(team) * weight)[:, None] * abs(table)
    return _over(summed(team, agent, off), summed(team, agent, weight))


def tied_table(team: Team, table: Float[Array, "S A"], agent: Array | int) -> Float[Array, "S A"]:
    """The agent's rows by observation, from its rows by state; rows of no state are a copy of the first one."""
    states = jnp.arange(table.shape[0])
    return table[jnp.zeros_like(states).at[own_label(team, agent)].max(states, mode="drop")]


def with_tied_table(
    team: Team, table: Float[Array, "S A"], rows: Float[Array, "S A"], agent: Array | int
) -> Float[Array, "S A"]:
    """`table` by state, the agent's rows replaced by `rows`, which are by observation."""
    label = own_label(team, agent)
    own = label < table.shape[0]
    return jnp.where(own[:, None], rows[jnp.where(own, label, 0)], table)
