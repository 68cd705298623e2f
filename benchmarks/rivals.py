"""What a user would write without the package: NumPy, SciPy LAPACK, and plain Python. No jax here.

All stages are turn-taking and discounted. The array versions do as little work as the quantities allow: the matrices of
the old and the new policy are formed once and the hybrids pick rows, steps are contracted with the transitions once.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import rel_entr

__all__ = [
    "Tables",
    "has_moved",
    "solve_numpy",
    "inverse_numpy",
    "lu_scipy",
    "hybrids_scipy",
    "stage_scipy",
    "stage_numpy",
    "stage_python",
]

Floats = NDArray[np.floating]
Numbers = dict[str, Floats]


class Tables(NamedTuple):
    """A turn-taking, discounted stage as NumPy arrays; every array may have leading batch axes."""

    transition: Floats  #: [S, A, S]
    reward: Floats  #: [S, A]
    initial: Floats  #: [S]
    active: NDArray[np.integer]  #: [S]
    current: Floats  #: [S, A]
    target: Floats  #: [S, A]
    order: NDArray[np.integer]  #: [n]
    discount: float

    def member(self, b: int) -> Tables:
        """Instance `b` of a batch."""
        return self._replace(**{name: getattr(self, name)[b] for name in self._fields if name != "discount"})


def induced(policy: Floats, transition: Floats) -> Floats:
    """`P_π[s,s'] = Σ_a π(a|s) P(s'|s,a)` as a batch of row-times-matrix products."""
    return (policy[..., None, :] @ transition)[..., 0, :]


def _system(tables: Tables) -> tuple[Floats, Floats, Floats]:
    """`I − γP_π`, `r_π` and `ρ` of the current policy."""
    matrix = np.eye(tables.initial.shape[-1]) - tables.discount * induced(tables.current, tables.transition)
    return matrix, (tables.current * tables.reward).sum(-1), tables.initial


def solve_numpy(tables: Tables) -> tuple[Floats, Floats]:
    """Values and visits of the current policy by two (batched) `np.linalg.solve`."""
    matrix, reward, initial = _system(tables)
    v = np.linalg.solve(matrix, reward[..., None])[..., 0]
    return v, np.linalg.solve(matrix.swapaxes(-1, -2), initial[..., None])[..., 0]


def inverse_numpy(tables: Tables) -> tuple[Floats, Floats]:
    """The same by one (batched) `np.linalg.inv`."""
    matrix, reward, initial = _system(tables)
    inverse = np.linalg.inv(matrix)
    return (inverse @ reward[..., None])[..., 0], (initial[..., None, :] @ inverse)[..., 0, :]


def lu_scipy(tables: Tables) -> tuple[Floats, Floats]:
    """The same for one policy by `scipy.linalg.lu_factor` and two `lu_solve`."""
    policy_matrix = np.einsum("sa,sat->st", tables.current, tables.transition)
    matrix = np.eye(tables.initial.size) - tables.discount * policy_matrix
    factors = scipy.linalg.lu_factor(matrix, overwrite_a=True, check_finite=False)
    v = scipy.linalg.lu_solve(factors, (tables.current * tables.reward).sum(-1), check_finite=False)
    return v, scipy.linalg.lu_solve(factors, tables.initial, trans=1, check_finite=False)


def has_moved(tables: Tables) -> NDArray[np.bool_]:
    """[…, n+1, S]: has the agent that acts at `s` been updated in hybrid `i`?"""
    rank = np.argsort(tables.order, -1)
    own = np.take_along_axis(rank, tables.active, -1)
    return own[..., None, :] < np.arange(tables.order.shape[-1] + 1)[:, None]


def hybrids_scipy(tables: Tables) -> Numbers:
    """Values and visits of every hybrid: one LU and two solves each; the matrices of both policies are formed once."""
    size, updated = tables.initial.size, has_moved(tables)
    pair = tables.current, tables.target
    matrices = [np.eye(size) - tables.discount * np.einsum("sa,sat->st", p, tables.transition) for p in pair]
    rewards = [(p * tables.reward).sum(-1) for p in pair]
    v, m = np.empty(updated.shape), np.empty(updated.shape)
    for i, rows in enumerate(updated):
        matrix = np.where(rows[:, None], matrices[1], matrices[0])
        factors = scipy.linalg.lu_factor(matrix, overwrite_a=True, check_finite=False)
        v[i] = scipy.linalg.lu_solve(factors, np.where(rows, rewards[1], rewards[0]), check_finite=False)
        m[i] = scipy.linalg.lu_solve(factors, tables.initial, trans=1, check_finite=False)
    return dict(visits=m, values=v)


def stage_scipy(tables: Tables) -> Numbers:
    """One stage: for each hybrid one LU and four solves (V, m and their differences from the hybrid before)."""
    gamma, size, n = tables.discount, tables.initial.size, tables.order.size
    updated = has_moved(tables)
    old, new, step = (induced(p, tables.transition) for p in (tables.current, tables.target, _step(tables)))
    step_reward = (_step(tables) * tables.reward).sum(-1)
    rewards = [(p * tables.reward).sum(-1) for p in (tables.current, tables.target)]
    v, m = np.empty((n + 1, size)), np.empty((n + 1, size))
    g, x, y = np.empty((n, size)), np.empty((n, size)), np.empty((n, size))
    for i in range(n + 1):
        rows = updated[i]
        matrix = np.where(rows[:, None], new, old)
        matrix *= -gamma
        matrix[np.diag_indices(size)] += 1
        factors = scipy.linalg.lu_factor(matrix, overwrite_a=True, check_finite=False)
        v[i] = scipy.linalg.lu_solve(factors, np.where(rows, rewards[1], rewards[0]), check_finite=False)
        m[i] = scipy.linalg.lu_solve(factors, tables.initial, trans=1, check_finite=False)
        if i:
            acts = tables.active == tables.order[i - 1]
            g[i - 1] = np.where(acts, step_reward + gamma * (step @ v[i - 1]), 0.0)
            inflow = gamma * ((m[i - 1] * acts) @ step)
            y[i - 1] = scipy.linalg.lu_solve(factors, g[i - 1], check_finite=False)
            x[i - 1] = scipy.linalg.lu_solve(factors, inflow, trans=1, check_finite=False)
    return _summary(tables, step, v, m, g, x, y)


def stage_numpy(tables: Tables) -> Numbers:
    """A batch of stages: every hybrid of every instance at once, one batched inverse and four products."""
    gamma, size = tables.discount, tables.initial.shape[-1]
    updated = has_moved(tables)
    old, new, step = (induced(p, tables.transition) for p in (tables.current, tables.target, _step(tables)))
    rewards = [(p * tables.reward).sum(-1)[..., None, :] for p in (tables.current, tables.target)]
    matrix = np.eye(size) - gamma * np.where(updated[..., None], new[..., None, :, :], old[..., None, :, :])
    inverse = np.linalg.inv(matrix)
    v = (inverse @ np.where(updated, rewards[1], rewards[0])[..., None])[..., 0]
    m = (tables.initial[..., None, None, :] @ inverse)[..., 0, :]
    acts = tables.active[..., None, :] == tables.order[..., None]
    step_reward = (_step(tables) * tables.reward).sum(-1)[..., None, :]
    g = np.where(acts, step_reward + gamma * v[..., :-1, :] @ step.swapaxes(-1, -2), 0.0)
    inflow = gamma * (m[..., :-1, :] * acts) @ step
    y = (inverse[..., 1:, :, :] @ g[..., None])[..., 0]
    x = (inflow[..., None, :] @ inverse[..., 1:, :, :])[..., 0, :]
    return _summary(tables, step, v, m, g, x, y)


def _step(tables: Tables) -> Floats:
    return tables.target - tables.current


def _summary(tables: Tables, step: Floats, v: Floats, m: Floats, g: Floats, x: Floats, y: Floats) -> Numbers:
    """Every number of a stage report from values, visits, conditionals and the two differences."""
    gamma = tables.discount
    acts = tables.active[..., None, :] == tables.order[..., None]
    states, actions = tables.reward.shape[-2:]
    next_values = v[..., :-1, :] @ tables.transition.reshape(*tables.reward.shape[:-2], -1, states).swapaxes(-1, -2)
    q = tables.reward[..., None, :, :] + gamma * next_values.reshape(*g.shape, actions)
    a = q - v[..., :-1, :, None]
    zero = np.zeros_like(x[..., :1, :])
    drift = np.concatenate([zero, np.cumsum(x, -2)[..., :-1, :]], -2)
    value_drift = np.concatenate([zero, np.cumsum(y, -2)[..., :-1, :]], -2)
    m0, before, after = m[..., :1, :], m[..., :-1, :], m[..., 1:, :]
    d, d0 = before / before.sum(-1, keepdims=True), m0 / m0.sum(-1, keepdims=True)
    fresh, difference = (x * g).sum(-1), (drift * g).sum(-1)
    cached_change = gamma * (m0 * acts * (value_drift @ step.swapaxes(-1, -2))).sum(-1)
    forward = rel_entr(tables.current, tables.target).sum(-1)[..., None, :] * acts
    reverse = rel_entr(tables.target, tables.current).sum(-1)[..., None, :] * acts
    tv = 0.5 * abs(_step(tables)).sum(-1)[..., None, :] * acts
    cached = (m0 * acts * (_step(tables) * a[..., 0, :, :]).sum(-1)[..., None, :]).sum(-1)

    def occupancy_tv(shift: Floats, d: Floats, new: Floats) -> Floats:
        return 0.5 * abs(shift - d * shift.sum(-1, keepdims=True)).sum(-1) / new.sum(-1)

    return dict(
        visits=m,
        values=v,
        conditional=g,
        shift=x,
        objective=(v * tables.initial[..., None, :]).sum(-1),
        surrogate_intermediate=(before * g).sum(-1),
        surrogate_stale=(m0 * g).sum(-1),
        surrogate_cached=cached,
        gap_fresh=fresh,
        gap_stale=fresh + difference,
        gap_cached=fresh + difference + cached_change,
        seq_minus_stale=difference,
        kl=(d * forward).sum(-1),
        kl_stale=(d0 * forward).sum(-1),
        kl_reverse=(d * reverse).sum(-1),
        tv=(d * tv).sum(-1),
        tv_stale=(d0 * tv).sum(-1),
        share=(d * acts).sum(-1),
        span_g=g.max(-1) - g.min(-1),
        advantage_max=abs(a).max((-2, -1)),
        advantage_span=(a.max(-1) - a.min(-1)).max(-1),
        occupancy_tv_fresh=occupancy_tv(x, d, after),
        occupancy_tv_stale=occupancy_tv(drift, d0, before),
    )


Row = list[float]


def _eliminate(matrix: list[Row]) -> list[Row]:
    """`LU` in place, no pivoting: rows of `I − γP_π` are diagonally dominant."""
    size = len(matrix)
    for k in range(size):
        pivot = matrix[k]
        for i in range(k + 1, size):
            row = matrix[i]
            if row[k] != 0.0:
                row[k] = factor = row[k] / pivot[k]
                for j in range(k + 1, size):
                    row[j] -= factor * pivot[j]
    return matrix


def _solve(lu: list[Row], b: Row) -> Row:
    x, size = list(b), len(b)
    for i in range(size):
        x[i] -= sum(lu[i][j] * x[j] for j in range(i))
    for i in reversed(range(size)):
        x[i] = (x[i] - sum(lu[i][j] * x[j] for j in range(i + 1, size))) / lu[i][i]
    return x


def _solve_transposed(lu: list[Row], b: Row) -> Row:
    x, size = list(b), len(b)
    for i in range(size):
        x[i] = (x[i] - sum(lu[j][i] * x[j] for j in range(i))) / lu[i][i]
    for i in reversed(range(size)):
        x[i] -= sum(lu[j][i] * x[j] for j in range(i + 1, size))
    return x


def stage_python(tables: Tables) -> Numbers:
    """The main numbers of a stage with loops over agents, states and actions: no array library at all."""
    p, r, rho = tables.transition.tolist(), tables.reward.tolist(), tables.initial.tolist()
    active, order, gamma = tables.active.tolist(), tables.order.tolist(), tables.discount
    current, target = tables.current.tolist(), tables.target.tolist()
    states, actions = range(len(rho)), range(len(r[0]))

    def evaluate(policy: list[Row]) -> tuple[list[Row], Row, Row]:
        matrix = [[(s == t) - gamma * sum(policy[s][a] * p[s][a][t] for a in actions) for t in states] for s in states]
        lu = _eliminate(matrix)
        return (
            lu,
            _solve(lu, [sum(policy[s][a] * r[s][a] for a in actions) for s in states]),
            _solve_transposed(lu, rho),
        )

    def advantage(v: Row, s: int, a: int) -> float:
        return r[s][a] + gamma * sum(p[s][a][t] * v[t] for t in states) - v[s]

    def dot(u: Row, w: Row) -> float:
        return sum(map(float.__mul__, u, w))

    policy = [list(row) for row in current]
    _, v, m = evaluate(policy)
    first = {(s, a): advantage(v, s, a) for s in states for a in actions}
    m0, visited, valued = m, [m], [v]
    drift = [0.0 for _ in states]
    out: dict[str, Row] = {name: [] for name in PYTHON_NAMES}
    for agent in order:
        moved = [s for s in states if active[s] == agent]
        step = {s: [target[s][a] - current[s][a] for a in actions] for s in moved}
        a_before = {(s, a): advantage(v, s, a) for s in moved for a in actions}
        g = [0.0 for _ in states]
        inflow = [0.0 for _ in states]
        for s in moved:
            g[s] = sum(step[s][a] * a_before[s, a] for a in actions)
            for a in actions:
                flow = gamma * m[s] * step[s][a]
                for t in states:
                    inflow[t] += flow * p[s][a][t]
            policy[s] = target[s]
        mass = sum(m)
        kl = sum(m[s] * current[s][a] * log(current[s][a] / target[s][a]) for s in moved for a in actions) / mass
        credited = sum(m0[s] * step[s][a] * first[s, a] for s in moved for a in actions)
        change = sum(m0[s] * step[s][a] * (a_before[s, a] - first[s, a]) for s in moved for a in actions)
        lu, v_new, m_new = evaluate(policy)
        x = _solve_transposed(lu, inflow)
        fresh, difference = dot(x, g), dot(drift, g)
        row = (dot(m, g), dot(m0, g), credited, fresh, fresh + difference, fresh + difference + change, kl)
        for name, number in zip(PYTHON_NAMES, row, strict=True):
            out[name].append(number)
        drift = [d + e for d, e in zip(drift, x, strict=True)]
        v, m = v_new, m_new
        visited.append(m)
        valued.append(v)
    return {name: np.array(row) for name, row in out.items()} | dict(visits=np.array(visited), values=np.array(valued))


PYTHON_NAMES = (
    "surrogate_intermediate",
    "surrogate_stale",
    "surrogate_cached",
    "gap_fresh",
    "gap_stale",
    "gap_cached",
    "kl",
)
