"""The same claims in exact arithmetic: rationals for everything linear, balls of 256 bits for logarithms and roots.

An independent implementation (python-flint, no array code of the package) that decides what float64 could not, and that the
tests hold against the float core. The floats of a stage are rationals; since float rows sum to one only up to rounding, the
largest entry of each row is replaced by one minus the others, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import flint
import numpy as np
from flint import arb, fmpq, fmpq_mat

from teamtr_jax.dynamics import Dense, Layered, Successors
from teamtr_jax.types import Stage

__all__ = ["ExactStage", "exact_stage", "exact_checks", "rational", "PRECISION"]

PRECISION = 256
Row = list[fmpq]
Number = Any  # fmpq or arb


def rational(x: float) -> fmpq:
    """The float as the rational it is."""
    return fmpq(*float(x).as_integer_ratio())


def _rows(table: np.ndarray, close: bool) -> list[Row]:
    """Rows of probabilities; if `close`, each with its largest entry replaced so that it sums to one exactly."""
    out = []
    for row in np.asarray(table, np.float64):
        exact = [rational(x) for x in row]
        if close and any(exact):
            top = int(np.argmax(row))
            exact[top] = fmpq(1) - sum((x for k, x in enumerate(exact) if k != top), fmpq(0))
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
    steps: list[list[Row]]  # [n][S][A]
    solo: list[list[Row]]  # [n][S][A]: π^{⟨i⟩}
    moved: list[
        list[tuple[Row, Row] | None]
    ]  # [n][S]: (current, new) row of the updated agent, None where it does not act


def _joint(factors: Sequence[Row]) -> Row:
    out = [fmpq(1)]
    for factor in factors:
        out = [x * y for x in out for y in factor]
    return out


def exact_stage(stage: Stage, close: bool = True) -> ExactStage:
    """Read the arrays of one (unbatched) stage as rationals. Loops on purpose: this is the oracle.

    Args:
      close: make rows sum to one exactly, so that the theorems apply to the letter; without it the stage is the floats
        themselves, which is what the rounding budgets of the float core speak of.
    """
    team, world = stage.team, stage.team.dynamics
    layers = world.horizon if isinstance(world, Layered) else 1
    kernel = world.kernel if isinstance(world, Layered) else world
    states = team.reward.shape[0]
    if isinstance(kernel, Dense):
        tables = np.asarray(kernel.transition)
    elif isinstance(kernel, Successors):
        index, prob = np.asarray(kernel.index), np.asarray(kernel.prob)
        tables = np.zeros((*index.shape[:-1], index.shape[-3]))
        np.put_along_axis(tables, index, 0.0, -1)
        for k in range(index.shape[-1]):
            np.add.at(tables, (*np.indices(index.shape[:-1]), index[..., k]), prob[..., k])
    else:
        raise TypeError("exact_stage reads Dense, Successors and Layered worlds")
    contexts = states // layers
    stationary = not isinstance(world, Layered) or world.stationary
    transition = []
    for s in range(states):
        t, x = divmod(s, contexts)
        table = _rows(tables[x] if stationary else tables[t, x], close)
        if isinstance(world, Layered):
            pad_before, after = (t + 1) * contexts, states - (t + 2) * contexts
            table = [
                [fmpq(0)] * pad_before + row + [fmpq(0)] * after if after >= 0 else [fmpq(0)] * states for row in table
            ]
        transition.append(table)
    order = np.asarray(stage.order).tolist()
    rank = {agent: i for i, agent in enumerate(order)}
    policies, solo, moved = [], [], []
    if team.factors is None:
        active = np.asarray(team.active).tolist()
        old, new = _rows(np.asarray(stage.current), close), _rows(np.asarray(stage.target), close)
        for i in range(team.agents + 1):
            policies.append([new[s] if active[s] >= 0 and rank[active[s]] < i else old[s] for s in range(states)])
        for agent in order:
            solo.append([new[s] if active[s] == agent else old[s] for s in range(states)])
            moved.append([(old[s], new[s]) if active[s] == agent else None for s in range(states)])
    else:
        old = [_rows(np.asarray(stage.current)[k, :, :size], close) for k, size in enumerate(team.factors)]
        new = [_rows(np.asarray(stage.target)[k, :, :size], close) for k, size in enumerate(team.factors)]
        agents = range(team.agents)
        for i in range(team.agents + 1):
            policies.append([_joint([(new if rank[k] < i else old)[k][s] for k in agents]) for s in range(states)])
        for agent in order:
            solo.append([_joint([(new if k == agent else old)[k][s] for k in agents]) for s in range(states)])
            moved.append([(old[agent][s], new[agent][s]) for s in range(states)])
    steps = [
        [[q - p for p, q in zip(a, b, strict=True)] for a, b in zip(before, after, strict=True)]
        for before, after in pairwise(policies)
    ]
    discounted = world.horizon is None
    gamma = rational(float(world.discount)) if discounted else fmpq(1)
    return ExactStage(
        transition, [[rational(x) for x in row] for row in np.asarray(team.reward)],
        _rows(np.asarray(team.initial)[None], close)[0],
        gamma, world.horizon, np.asarray(world.time()).tolist(), policies, steps, solo, moved,
    )  # fmt: skip


def _dot(x: Sequence[Any], y: Sequence[Any]) -> Any:
    return sum((a * b for a, b in zip(x, y, strict=True) if a and b), fmpq(0))


def _forward(e: ExactStage, policy: list[Row]) -> Row:
    """`m` of one policy by pushing mass through the layers (states are ordered by time)."""
    m = list(e.initial)
    for s, mass in enumerate(m):
        if mass:
            for p, row in zip(policy[s], e.transition[s], strict=True):
                for t, x in enumerate(row) if p else ():
                    if x:
                        m[t] += mass * p * x
    return m


def _visits(e: ExactStage, policy: list[Row]) -> Row:
    return _solve(e, policy)[1] if e.horizon is None else _forward(e, policy)


def _solve(e: ExactStage, policy: list[Row]) -> tuple[Row, Row]:
    """`V` and `m` of one policy, exactly."""
    states = range(len(e.initial))
    matrix = fmpq_mat(len(e.initial), len(e.initial))
    for s in states:
        for t in states:
            flow = sum((p * row[t] for p, row in zip(policy[s], e.transition[s], strict=True) if p and row[t]), fmpq(0))
            matrix[s, t] = fmpq(int(s == t)) - e.gamma * flow
    r = fmpq_mat(len(e.initial), 1, [_dot(policy[s], e.reward[s]) for s in states])
    rho = fmpq_mat(len(e.initial), 1, e.initial)
    return [x for (x,) in matrix.solve(r).tolist()], [x for (x,) in matrix.transpose().solve(rho).tolist()]


def _advantages(e: ExactStage, v: Row) -> list[Row]:
    return [
        [r + e.gamma * _dot(row, v) - v[s] for r, row in zip(e.reward[s], e.transition[s], strict=True)]
        for s in range(len(v))
    ]


def _kl(pair: tuple[Row, Row]) -> Number:
    """`Σ p log(p/q) + Σ q − Σ p` as a ball, KL(first ‖ second) when both sum to one; `None` when infinite."""
    total = arb(sum(pair[1], fmpq(0)) - sum(pair[0], fmpq(0)))
    for p, q in zip(*pair, strict=True):
        if p and not q:
            return None
        if p:
            total += arb(p) * (arb(p) / arb(q)).log()
    return total


def exact_numbers(e: ExactStage) -> dict[str, Any]:
    """Visits, values, surrogates, gaps and divergences of the stage: rationals, and balls for the KLs (`None` = ∞)."""
    solved = [_solve(e, policy) for policy in e.policies]
    v, m = [x for x, _ in solved], [x for _, x in solved]
    states, n = range(len(e.initial)), len(e.steps)
    advantage = [_advantages(e, x) for x in v]
    g = [[_dot(e.steps[i][s], advantage[i][s]) for s in states] for i in range(n)]
    gain = [_dot(e.initial, v[i + 1]) - _dot(e.initial, v[i]) for i in range(n)]
    seq = [_dot(m[i], g[i]) for i in range(n)]
    stale = [_dot(m[0], g[i]) for i in range(n)]
    cached = [_dot(m[0], [_dot(e.steps[i][s], advantage[0][s]) for s in states]) for i in range(n)]
    fresh_gap = [_dot([a - b for a, b in zip(m[i + 1], m[i], strict=True)], g[i]) for i in range(n)]
    stale_gap = [_dot([a - b for a, b in zip(m[i + 1], m[0], strict=True)], g[i]) for i in range(n)]
    state_kl = [[_kl(pair) if pair else arb(0) for pair in e.moved[i]] for i in range(n)]

    def mean_kl(weight: Row, i: int) -> Number:
        parts = [(w, k) for w, k in zip(weight, state_kl[i], strict=True) if w]
        return None if any(k is None for _, k in parts) else sum((arb(w) * k for w, k in parts), arb(0))

    mass = sum(m[0], fmpq(0))
    scale = mass if e.horizon is None else fmpq(1)
    state_tv = [[_tv(pair) for pair in row] for row in e.moved]
    return {
        "v": v, "m": m, "g": g, "advantage": advantage, "gain": gain, "mass": mass, "state_tv": state_tv,
        "state_kl": state_kl, "seq": seq, "stale": stale, "cached": cached,
        "gap_fresh": fresh_gap, "gap_stale": stale_gap,
        "gap_cached": [stale_gap[i] + stale[i] - cached[i] for i in range(n)],
        "kl": [_scaled(mean_kl(m[i], i), scale) for i in range(n)],
        "kl_stale": [_scaled(mean_kl(m[0], i), scale) for i in range(n)],
        "tv": [_dot(m[i], state_tv[i]) / mass for i in range(n)],
        "advantage_max": [max(abs(x) for row in advantage[i] for x in row) for i in range(n)],
        "span_g": [max(g[i]) - min(g[i]) for i in range(n)],
    }  # fmt: skip


def _tv(pair: tuple[Row, Row] | None) -> fmpq:
    return fmpq(0) if pair is None else sum((abs(q - p) for p, q in zip(*pair, strict=True)), fmpq(0)) / 2


def _scaled(x: Number, by: fmpq) -> Number:
    return None if x is None else x / arb(by)


Pairs = dict[tuple[str, str], list[tuple[Number, Number]]]


def exact_checks(stage: Stage, close: bool = True, only: str = "") -> Pairs:
    """`(measured, bound)` of every inequality claim, in the order of the float checks; `None` for an infinite bound.

    `only` "T1" leaves out all but T1, which is often attained and therefore often asked for.
    """
    with flint.ctx.workprec(PRECISION):
        e = exact_stage(stage, close)
        return {("T1", ""): _t1(e)} if only == "T1" else _checks(e)


def _times(x: Number, y: Number) -> Number:
    """`x·y` with `0·∞ = 0`; `None` is ∞."""
    if x is None or y is None:
        other = y if x is None else x
        return fmpq(0) if other is not None and not isinstance(other, arb) and other == 0 else None
    return arb(x) * y if isinstance(y, arb) else x * y


def _sum(xs: Sequence[Number]) -> Number:
    return None if any(x is None for x in xs) else sum((arb(x) for x in xs), arb(0))


def _root(x: Number) -> Number:
    return None if x is None else arb(x).sqrt()


def _capped(x: Number) -> Number:
    """`min(1, x)` of a ball, exactly 1 where it is certainly larger."""
    return arb(1) if x is None or arb(x) > 1 else arb(x).min(arb(1))


def _layers(e: ExactStage, weight: Row, per_state: Sequence[Number]) -> list[Number]:
    assert e.horizon is not None
    out: list[Number] = []
    for t in range(e.horizon):
        parts = [(w, x) for w, x, u in zip(weight, per_state, e.time, strict=True) if u == t and w]
        out.append(_sum([None if x is None else arb(w) * arb(x) for w, x in parts]))
    return out


def _before(xs: Sequence[Number]) -> list[Number]:
    return [_sum(xs[:t]) for t in range(len(xs))]


def _occupancy_l1(x: Row, y: Row) -> fmpq:
    mx, my = sum(x, fmpq(0)), sum(y, fmpq(0))
    return sum((abs(a / mx - b / my) for a, b in zip(x, y, strict=True)), fmpq(0))


def _layer_shift(e: ExactStage, x: Row, y: Row) -> list[fmpq]:
    assert e.horizon is not None
    out = [fmpq(0)] * e.horizon
    for a, b, t in zip(x, y, e.time, strict=True):
        out[t] += abs(a - b) / 2
    return out


def _t1(e: ExactStage) -> list[tuple[Number, Number]]:
    m = [_visits(e, policy) for policy in e.policies]
    mass = sum(m[0], fmpq(0))
    out: list[tuple[Number, Number]] = []
    for i, row in enumerate(e.moved):
        tv = [w * _tv(pair) for w, pair in zip(m[i], row, strict=True)]
        if e.horizon is None:
            out.append((_occupancy_l1(m[i + 1], m[i]), 2 * e.gamma / (1 - e.gamma) * sum(tv, fmpq(0)) / mass))
            continue
        before = fmpq(0)
        for t, shift in enumerate(_layer_shift(e, m[i + 1], m[i])):
            out.append((shift, before))
            before += sum((x for x, u in zip(tv, e.time, strict=True) if u == t), fmpq(0))
    return out


def _checks(e: ExactStage) -> Pairs:
    q, n = exact_numbers(e), len(e.steps)
    m, gamma = q["m"], e.gamma
    rewards = [x for row in e.reward for x in row]
    out: Pairs = {}

    def paper(numbers: dict[str, Any], i: int, updates: Sequence[int], stale: bool = False) -> Number:
        """The first-order penalty of update i with the KLs of `updates`."""
        a_max = numbers["advantage_max"][i]
        if e.horizon is None:
            c = arb(2).sqrt() * gamma * a_max / (1 - gamma) ** 2 if gamma and a_max else fmpq(0)
            return _times(c, _sum([_root(numbers["kl_stale" if stale else "kl"][k]) for k in updates]))
        rows = []
        for k in updates:
            kappa = _layers(e, numbers["m"][k], numbers["state_kl"][k])
            rows.append(_before([_root(_scaled(x, fmpq(2))) for x in kappa]))
        per_layer = [_capped(_sum([row[t] for row in rows])) for t in range(e.horizon)]
        return 2 * arb(a_max) * sum(per_layer, arb(0)) if a_max else fmpq(0)

    out["T1", ""] = _t1(e)
    if e.horizon is None:
        c2 = arb(2).sqrt() * gamma / (1 - gamma) if gamma else fmpq(0)
        out["T2", ""] = [(_occupancy_l1(m[i + 1], m[i]), _times(c2, _root(q["kl"][i]))) for i in range(n)]
    else:
        out["T2", ""] = [
            pair
            for i in range(n)
            for pair in zip(
                _layer_shift(e, m[i + 1], m[i]),
                _before([_root(_scaled(x, fmpq(2))) for x in _layers(e, m[i], q["state_kl"][i])]),
                strict=True,
            )
        ]

    first, last = e.policies[0], e.policies[-1]
    out["P3.1", "TV"] = [
        (_tv((first[s], last[s])), sum((q["state_tv"][i][s] for i in range(n)), fmpq(0))) for s in range(len(first))
    ]
    drift = [abs(a - b) for a, b in zip(q["seq"], q["stale"], strict=True)]
    out["P3.3", ""] = [(drift[i], paper(q, i, range(i))) for i in range(n)]
    fresh = [paper(q, i, [i]) for i in range(n)]
    stale = [paper(q, i, range(i + 1)) for i in range(n)]
    out["P3.4", ""] = [(abs(x), bound) for x, bound in zip(q["gap_fresh"], fresh, strict=True)]
    out["P3.6", ""] = [(abs(sum(q["gap_fresh"], fmpq(0))), _sum(fresh))]
    out["P3.7", "update"] = [(abs(x), bound) for x, bound in zip(q["gap_stale"], stale, strict=True)]
    out["P3.7", "stage"] = [(abs(sum(q["gap_stale"], fmpq(0))), _sum(stale))]
    if e.horizon is None:
        out["P3.7", "update, δ⁰"] = [(abs(q["gap_stale"][i]), paper(q, i, range(i + 1), stale=True)) for i in range(n)]
    swaps = []
    for i in range(n):
        step = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(first, e.solo[i], strict=True)]
        alone = exact_numbers(e._replace(policies=[first, e.solo[i]], steps=[step], moved=[e.moved[i]]))
        swaps.append((abs(alone["gap_fresh"][0]), paper(alone, 0, [0])))
    out["P3.8", ""] = swaps
    out["S0", "fresh"] = [(abs(q["gap_fresh"][i]), q["mass"] * q["span_g"][i]) for i in range(n)]
    out["S0", "stale"] = [(abs(q["gap_stale"][i]), q["mass"] * q["span_g"][i]) for i in range(n)]
    if e.horizon is None:
        reach = (max(rewards) - min(rewards)) / (1 - gamma)
        kls = [_scaled(x, 1 - gamma) for x in q["kl"]]
        total = _scaled(_sum(q["kl_stale"]), 1 - gamma)
    else:
        reach, kls, total = _return_range(e), q["kl"], _sum(q["kl_stale"])
    out["S7", "update"] = [(abs(q["gap_fresh"][i]), _times(reach, kls[i])) for i in range(n)]
    out["S7", "stage as one step"] = [(abs(sum(q["gap_cached"], fmpq(0))), _times(reach, total))]
    return out


def _return_range(e: ExactStage) -> fmpq:
    """Greatest minus least return of an episode over paths in the support."""
    states = range(len(e.initial))

    def best(sign: int) -> fmpq:
        v: list[fmpq] = [fmpq(0)] * len(e.initial)
        for s in sorted(states, key=lambda s: -e.time[s]):
            v[s] = max(
                sign * r + max((v[t] for t in states if row[t]), default=fmpq(0))
                for r, row in zip(e.reward[s], e.transition[s], strict=True)
            )
        return max(v[s] for s in states if e.initial[s])

    return best(1) + best(-1)
