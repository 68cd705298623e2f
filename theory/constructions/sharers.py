"""S7d: agents with one set of parameters, updated one after another on one batch. The KLs of the increments do not add up.

*Counts.* `turns` messages, each written by one of the sharers from the one row that they have: a one with probability p. The
reward is a function of the number of ones. Rationals throughout, but for the KL, which is a ball.

*The door.* Two messages by sharers with two roles. The first opens the door with probability q, and behind it the second earns 1
if it has learned to; at first nothing is opened and nothing is earned.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from flint import arb, fmpq

__all__ = ["Chain", "count_chain", "count_curvature", "door_chain", "even_doors", "row_kl"]

ONE, ZERO = fmpq(1), fmpq(0)


class Chain(NamedTuple):
    """A chain of updates of one set of parameters. The range of the return is 1."""

    fresh: list[Any]  #: of each update, rational
    cached: list[Any]  #: the same on the rollouts of the start, rational
    increments: list[Any]  #: `K_k = E_{P⁰} Σ KL(π̂^{k−1}‖π̂^k)` over the messages of all sharers, balls
    joint: Any  #: `K(0→n) = KL(P⁰‖Pⁿ)`


def row_kl(p: fmpq, q: fmpq) -> Any:
    """`KL((1−p,p)‖(1−q,q))`, a ball; exactly 0 where the rows are the same."""
    if p == q:
        return ZERO
    return sum((arb(a) * (arb(a) / b).log() for a, b in ((p, q), (1 - p, 1 - q)) if a), arb(0))


def _values(p: fmpq, reward: Sequence[fmpq]) -> list[list[fmpq]]:
    """`V_t(c)`, c ones so far, t = 0 … turns."""
    out = [list(reward)]
    for _ in range(len(reward) - 1):
        later = out[-1]
        out.append([p * later[c + 1] + (1 - p) * later[c] for c in range(len(later) - 1)])
    return out[::-1]


def _visits(p: fmpq, turns: int) -> list[list[fmpq]]:
    """`m_t(c)`."""
    out = [[ONE]]
    for _ in range(turns):
        before = out[-1]
        out.append([
            (before[c] * (1 - p) if c < len(before) else ZERO) + (before[c - 1] * p if c else ZERO)
            for c in range(len(before) + 1)
        ])  # fmt: skip
    return out


def _slope(p: fmpq, reward: Sequence[fmpq]) -> fmpq:
    """`Σ_s m(s) (A(s,1) − A(s,0))`: the surrogate of a step of 1 in the row."""
    v, m, turns = _values(p, reward), _visits(p, len(reward) - 1), len(reward) - 1
    return sum((m[t][c] * (v[t + 1][c + 1] - v[t + 1][c]) for t in range(turns) for c in range(t + 1)), ZERO)


def count_chain(rows: Sequence[fmpq], reward: Sequence[fmpq]) -> Chain:
    """The updates `rows[k−1] → rows[k]` of the one row; `reward[c]` for c ones among `len(reward) − 1` messages."""
    turns, first = len(reward) - 1, _slope(rows[0], reward)
    objective = [_values(p, reward)[0][0] for p in rows]
    fresh, cached, increments = [], [], []
    for k in range(1, len(rows)):
        improvement, step = objective[k] - objective[k - 1], rows[k] - rows[k - 1]
        fresh.append(improvement - step * _slope(rows[k - 1], reward))
        cached.append(improvement - step * first)
        increments.append(turns * row_kl(rows[k - 1], rows[k]))
    return Chain(fresh, cached, increments, turns * row_kl(rows[0], rows[-1]))


def count_curvature(p: fmpq, reward: Sequence[fmpq]) -> fmpq:
    """`J''(p)·p(1−p)/turns`: n times it is the limit of `Σ cached / Σ K_k` for n equal steps, as they go to 0.

    `J''` is `Σ_{t≠u} E[second difference of the reward in the messages t and u]`.
    """
    turns = len(reward) - 1
    m = _visits(p, turns - 2)[-1]
    second = sum((m[c] * (reward[c + 2] - 2 * reward[c + 1] + reward[c]) for c in range(turns - 1)), ZERO)
    return (turns - 1) * second * p * (1 - p)


def door_chain(openings: Sequence[fmpq]) -> Chain:
    """The updates `openings[k−1] → openings[k]`, of which the first also teaches the second role to earn.

    `openings[0]` is 0: the door was closed, nobody stood behind it, and no KL is measured there.
    """
    steps = [b - a for a, b in itertools.pairwise(openings)]
    fresh = [steps[0], *(ZERO for _ in steps[1:])]  # later on what is behind the door is known: L is the improvement
    increments = [row_kl(a, b) for a, b in itertools.pairwise(openings)]
    return Chain(fresh, steps, increments, row_kl(openings[0], openings[-1]))


def even_doors(n: int, last: fmpq) -> list[fmpq]:
    """Openings `last·((k+1)/(n+1))²`, k ≥ 1, after 0: nearly equal steps in the square root, the first twice as long."""
    return [ZERO, *(last * fmpq(k + 1, n + 1) ** 2 for k in range(1, n + 1))]
