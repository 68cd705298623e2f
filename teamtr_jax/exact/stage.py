"""A stage in rationals.

The floats of a stage are rationals; since float rows sum to one only up to rounding, the largest entry of each row is replaced
by one minus the others, exactly. Loops on purpose, and no array code of the package: this is the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flint import fmpq

from teamtr_jax.dynamics import Dense, Layered, Successors, Tree
from teamtr_jax.exact.numbers import ZERO, Row, rational
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError

__all__ = ["ExactStage", "exact_stage"]


def _rows(table: np.ndarray, close: bool) -> list[Row]:
    """Rows of probabilities; if `close`, each with its largest entry replaced so that it sums to one exactly."""
    out = []
    for row in np.asarray(table, np.float64).tolist():
        exact = [rational(x) if x else ZERO for x in row]
        if close and any(exact):
            top = row.index(max(row))
            exact[top] = 1 - sum((x for k, x in enumerate(exact) if k != top), ZERO)
        out.append(exact)
    return out


class ExactStage(NamedTuple):
    """A stage in rationals, time-indexed states flattened."""

    transition: list[list[Row]]  # [S][A][S]
    reward: list[Row]
    initial: Row
    gamma: fmpq
    horizon: int | None
    time: list[int]
    policies: list[list[Row]]  # [n+1][S][A]
    solo: list[list[Row]]  # [n][S][A]: π^{⟨i⟩}
    moved: list[
        list[tuple[Row, Row] | None]
    ]  # [n][S]: (current, new) row of the updated agent, None where it does not act
    own: list[list[int]]  # [n][A]: the updated agent's own action in each (joint) action
    others: Sequence[
        list[Row] | None
    ]  # [n][S][A]: probability of the others' actions under π̂ⁱ⁻¹; None when turn-taking
    others_first: Sequence[list[Row] | None]  # [n][S][A]: the same under π̂⁰


def _joint(factors: Sequence[Row]) -> Row:
    out = [fmpq(1)]
    for factor in factors:
        out = [x * y for x in out for y in factor]
    return out


def _tables(kernel: object) -> np.ndarray:
    if isinstance(kernel, Dense):
        return np.asarray(kernel.transition)
    if isinstance(kernel, Tree):
        tables = np.zeros((kernel.states, kernel.branching, kernel.states))
        child = np.arange(kernel.states)[:, None] * kernel.branching + 1 + np.arange(kernel.branching)
        node, symbol = np.nonzero(child < kernel.states)
        tables[node, symbol, child[node, symbol]] = 1.0
        return tables
    if not isinstance(kernel, Successors):
        raise InputError("dynamics", type(kernel).__name__, "a Dense, Successors, Layered or Tree world")
    index, prob = np.asarray(kernel.index), np.asarray(kernel.prob)
    tables = np.zeros((*index.shape[:-1], index.shape[-3]))
    for k in range(index.shape[-1]):
        np.add.at(tables, (*np.indices(index.shape[:-1]), index[..., k]), prob[..., k])
    return tables


def _transition(world: Any, states: int, close: bool) -> tuple[list[list[Row]], list[int]]:
    """`P[s][a][s']` and the time step of each state."""
    if not isinstance(world, Layered):
        return [_rows(table, close) for table in _tables(world)], np.asarray(world.time()).tolist()
    tables, contexts = _tables(world.kernel), states // world.horizon
    time = [s // contexts for s in range(states)]
    if world.stationary:
        layers = [[_rows(table, close) for table in tables]] * world.horizon
    else:
        layers = [[_rows(table, close) for table in layer] for layer in tables]
    out = []
    for s, t in enumerate(time):
        before, after = (t + 1) * contexts, states - (t + 2) * contexts
        rows = layers[t][s % contexts]
        out.append([[ZERO] * before + row + [ZERO] * after if after >= 0 else [ZERO] * states for row in rows])
    return out, time


def exact_stage(stage: Stage, close: bool = True) -> ExactStage:
    """Read the arrays of one (unbatched) stage as rationals. Loops on purpose: this is the oracle.

    Args:
      close: make rows sum to one exactly, so that the theorems apply to the letter; without it the stage is the floats
        themselves, which is what the rounding budgets of the float core speak of.

    Raises:
      InputError: a world of another kind.
    """
    team, world = stage.team, stage.team.dynamics
    reward = np.asarray(team.reward).tolist()
    states, actions = len(reward), len(reward[0])
    transition, time = _transition(world, states, close)
    order = np.asarray(stage.order).tolist()
    rank = {agent: i for i, agent in enumerate(order)}
    policies, solo, moved = [], [], []
    current, target = np.asarray(stage.current), np.asarray(stage.target)
    others: Sequence[list[Row] | None] = [None] * team.agents
    others_first = others
    if team.factors is None:
        active = np.asarray(team.active).tolist()
        old, new = _rows(current, close), _rows(target, close)
        for i in range(team.agents + 1):
            policies.append([new[s] if active[s] >= 0 and rank[active[s]] < i else old[s] for s in range(states)])
        for agent in order:
            solo.append([new[s] if active[s] == agent else old[s] for s in range(states)])
            moved.append([(old[s], new[s]) if active[s] == agent else None for s in range(states)])
        own = [list(range(actions))] * team.agents
    else:
        old = [_rows(current[k, :, :size], close) for k, size in enumerate(team.factors)]
        new = [_rows(target[k, :, :size], close) for k, size in enumerate(team.factors)]
        agents = range(team.agents)
        for i in range(team.agents + 1):
            policies.append([_joint([(new if rank[k] < i else old)[k][s] for k in agents]) for s in range(states)])
        for agent in order:
            solo.append([_joint([(new if k == agent else old)[k][s] for k in agents]) for s in range(states)])
            moved.append([(old[agent][s], new[agent][s]) for s in range(states)])
        coordinates = np.indices(team.factors).reshape(team.agents, -1).tolist()
        own = [coordinates[agent] for agent in order]

        def rest(agent: int, updated: int) -> list[Row]:
            one = [fmpq(1)] * team.factors[agent]  # pyright: ignore[reportOptionalSubscript]
            return [
                _joint([one if k == agent else (new if rank[k] < updated else old)[k][s] for k in agents])
                for s in range(states)
            ]

        others = [rest(agent, i) for i, agent in enumerate(order)]
        others_first = [rest(agent, 0) for agent in order]
    return ExactStage(
        transition, [[rational(x) for x in row] for row in reward], _rows(np.asarray(team.initial)[None], close)[0],
        rational(float(world.discount)) if world.horizon is None else fmpq(1),
        world.horizon, time, policies, solo, moved, own, others, others_first,
    )  # fmt: skip
