"""R1 in exact arithmetic: leading coefficients of the coherent relay as p = ε = t → 0.

Everything is a polynomial in t with integer coefficients, truncated after t². The relay's contexts are 0, 1, 2; agent
`u mod n` steps up at time u with probability t (current) or 2t (updated); the reward is 1 for context 2 after 2n turns.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

__all__ = ["Leading", "leading_coefficients"]

DEGREE = 3  # coefficients of 1, t, t²


class Leading(NamedTuple):
    """Coefficients of t² in the stage sums of absolute gaps: integers."""

    fresh: int
    stale: int
    cached: int
    turns: int  #: of the episode
    wins: int  #: of the probability of the reward under `π̂⁰`, hence of the variance of the return

    @property
    def squared_share(self) -> Fraction:
        """S10: limit of `(Σ cached gap / bound)²`; the bound is `sd·X/√2` to leading order, `X = 2n·t` (2n turns of `χ² = t`)."""
        return Fraction(2 * self.cached**2, self.wins * self.turns**2)


def _times_t(x: np.ndarray) -> np.ndarray:
    """`t·x`, truncated."""
    return np.concatenate([np.zeros_like(x[..., :1]), x[..., :-1]], -1)


def leading_coefficients(n: int) -> Leading:
    """The t² coefficients of `Σ|fresh gap|`, `Σ|stale gap|`, `Σ|cached gap|` for n agents and two rounds.

    Arrays are ``[hybrid, context, coefficient]`` in int64; the loop runs over the 2n turns.
    """
    turns = 2 * n
    hybrid = np.arange(n + 1)
    visits = np.zeros((turns, n + 1, 3, DEGREE), np.int64)
    values = np.zeros((turns + 1, n + 1, 3, DEGREE), np.int64)
    visits[0, :, 0, 0] = 1
    values[turns, :, 2, 0] = 1
    rate = 1 + (np.arange(turns)[:, None] % n < hybrid)  # [turn, hybrid]: 1 or 2, times t
    for u in range(turns - 1):
        moving = rate[u][:, None, None] * _times_t(visits[u])
        visits[u + 1] = visits[u]
        visits[u + 1, :, :2] -= moving[:, :2]
        visits[u + 1, :, 1:] += moving[:, :2]
    for u in reversed(range(turns)):
        values[u] = values[u + 1]
        values[u, :, :2] += rate[u][:, None, None] * _times_t(values[u + 1, :, 1:] - values[u + 1, :, :2])

    agent = np.arange(turns) % n
    step = np.zeros((turns, n + 1, 3, DEGREE), np.int64)  # ε·(Q(up) − Q(stay)) under each hybrid
    step[:, :, :2] = _times_t(values[1:, :, 1:] - values[1:, :, :2])

    def product(mass: np.ndarray, g: np.ndarray) -> np.ndarray:
        """t² coefficient of `Σ_s mass(s) g(s)`."""
        return sum((mass[..., k] * g[..., DEGREE - 1 - k]).sum(-1) for k in range(DEGREE))  # pyright: ignore[reportReturnType]

    gaps = np.zeros((3, n), np.int64)
    for i in range(n):  # agent i is updated: from hybrid i to hybrid i+1
        own = agent == i
        g, g_first = step[own, i], step[own, 0]
        new, before, start = visits[own, i + 1], visits[own, i], visits[own, 0]
        gaps[0, i] = product(new - before, g).sum()
        gaps[1, i] = product(new - start, g).sum()
        gaps[2, i] = (product(new, g) - product(start, g_first)).sum()
    fresh, stale, cached = (int(x) for x in abs(gaps).sum(-1))
    return Leading(fresh, stale, cached, turns, int(visits[-1, 0, 2, 2] + visits[-1, 0, 1, 1]))
