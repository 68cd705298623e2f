"""S11 in rationals and balls: squared Hellinger distances of the transcripts of partly updated teams.

Balls cannot decide an equality, and where the steps of a stage do not meet on any path both bounds on `H²(P⁰,Pⁿ)` are equalities.
So these two bounds are raised by `TINY`: they are decided up to that number.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from flint import arb, arb_mat, fmpq

from teamtr_jax.exact.numbers import ZERO, Number, Pair, Row, root, times, total
from teamtr_jax.exact.solved import Solved

__all__ = ["cube_checks", "order_distances"]

UPDATES = 5  # of the cube: the last ones, as in the float check
TINY = fmpq(1, 2**128)


def _policy(x: Solved, made: Collection[int]) -> list[Row]:
    """The joint policy in which these updates are made."""
    stage, out = x.stage, []
    for s in x.states:
        pairs = [update[s] for update in stage.moved]
        if stage.others[0] is None:
            chosen = [pair[1] for i, pair in enumerate(pairs) if pair and i in made]
            out.append(chosen[0] if chosen else stage.policies[0][s])
            continue
        row = []
        for a in range(len(stage.reward[s])):
            p = fmpq(1)
            for i, (pair, own) in enumerate(zip(pairs, stage.own, strict=True)):
                assert pair
                p *= pair[i in made][own[a]]
            row.append(p)
        out.append(row)
    return out


def _visits(x: Solved, policy: list[list[Number]]) -> list[Number]:
    """Visits under a substochastic policy of balls."""
    arrows, size = x.arrows, len(x.states)
    flow: list[dict[int, Number]] = []
    for s in x.states:
        out: dict[int, Number] = {}
        for w, moves in zip(policy[s], arrows[s], strict=True):
            for t, p in moves if w else ():
                out[t] = out.get(t, ZERO) + w * p
        flow.append(out)
    if x.horizon is None:
        matrix = arb_mat(size, size)
        for s in x.states:
            matrix[s, s] = arb(1)
        for s in x.states:
            for t, p in flow[s].items():
                matrix[t, s] -= arb(x.gamma * p)
        return matrix.solve(arb_mat(size, 1, [arb(p) for p in x.stage.initial])).entries()
    m: list[Number] = list(x.stage.initial)
    for s in sorted(x.states, key=lambda s: x.stage.time[s]):
        if m[s]:
            for t, p in flow[s].items():
                m[t] = m[t] + m[s] * p
    return m


def _distance(x: Solved, first: list[Row], second: list[Row]) -> Number:
    """`H²` of the laws of the transcript under two policies."""
    roots, lost = [], []
    for rows in zip(first, second, strict=True):
        w = [p if p == q else root(p * q) for p, q in zip(*rows, strict=True)]
        roots.append(w)
        lost.append(ZERO if rows[0] == rows[1] else sum((*rows[0], *rows[1]), ZERO) / 2 - sum(w, ZERO))
    if all(isinstance(h, fmpq) and not h for h in lost):
        return ZERO
    return total(times(m, h) for m, h in zip(_visits(x, roots), lost, strict=True))


def order_distances(x: Solved) -> tuple[Number, list[Number]]:
    """`H²(P⁰,Pⁿ)`, and the fresh `H²(P^{i−1},P^i)` of every update, for any number of agents."""
    policies = x.stage.policies
    return _distance(x, policies[0], policies[-1]), [_distance(x, *pair) for pair in pairwise(policies)]


def cube_checks(x: Solved) -> dict[str, list[Pair]]:
    """The checks of S11 on the cube of the last `UPDATES` updates."""
    n = x.agents
    size = min(UPDATES, n)
    early, late = range(n - size), range(n - size, n)
    made = [[*early, *(i for k, i in enumerate(late) if subset >> k & 1)] for subset in range(2**size)]
    policies = [_policy(x, updates) for updates in made]
    edges: dict[tuple[int, int], Number] = {
        (k, s): _distance(x, policies[s], policies[s | 1 << k])
        for k in range(size)
        for s in range(2**size)
        if not s >> k & 1
    }
    whole = _distance(x, policies[0], policies[-1])
    mean = times(total(edges.values()), fmpq(1, 2 ** (size - 1)))
    forward = [edges[k, 2**k - 1] for k in range(size)]
    backward = total(edges[k, 2**size - 2 ** (k + 1)] for k in range(size))
    mass = [1 if x.horizon is not None else x.mass[i] for i in late]
    half = [times(fmpq(1, 2) * w, x.kl[i]) for w, i in zip(mass, late, strict=True)]
    moved = [b - a for a, b in zip(x.m[n - size], x.m[n], strict=True)]
    far = root(2 * whole)
    if x.horizon is None:
        shift = [sum((abs(v) for v in moved), ZERO) / 2 / x.mass[0]]
    else:
        layers: list[Row] = [[] for _ in range(x.horizon)]
        for s in x.states:
            layers[x.stage.time[s]].append(moved[s])
        shift = [(sum((abs(v) for v in row), ZERO) + abs(sum(row, ZERO))) / 2 for row in layers]
    apart = []
    for s in x.states:
        products = [[p * q for p, q in zip(policies[k][s], policies[-1 - k][s], strict=True)] for k in range(2**size)]
        apart.append(max(abs(p - q) for row in products for p, q in zip(row, products[0], strict=True)))
    alone = sum(bool(x.moving[i]) for i in late) <= 1  # then all of these are one number
    order = root(total(forward) * backward)
    return {
        "cube": [(ZERO, ZERO) if alone else (whole, mean + TINY)],
        "order": [(ZERO, ZERO) if alone else (whole, order + TINY)],
        "KL": [(ZERO, ZERO)] * (n - size) + list(zip(forward, half, strict=True)),
        "TV": [(v, far) for v in shift],
        "product": [(gap, ZERO) for gap in apart],
    }
