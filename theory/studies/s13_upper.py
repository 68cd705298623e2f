"""S13 from above: a constant below 1 for the discounted S7, decided in ball arithmetic.

Normalised: rewards in [0, 1], `V, V'` times 1−γ, `G = (1−γ)(J'−J−L)`, `K = Σ_t γ^t E KL`; S7 reads `G ≤ K`. A pair `(c, α)`
is valid for γ if at every state, for all rows,

    c·KL − γΣ(π'−π)d + γαΣπd² ≥ αb²,   b = Σ(π'−π)q + γΣπd,   d_a in [−1,1], q_a in [0,1],

since then `cK − G ≥ α(V'−V)²` by induction over the horizon (theory/derivations/s13.md), and `G ≤ cK`. It follows from: for every
θ in [−1,1] there is a p such that for all u > −1, with `k(u) = u − log(1+u)`,

    E(θ,u) = c k(u) + p u + min_{|d|≤1} {γαd² − γ(u+2αθ)d} − α|θ||u| + αθ² ≥ 0.

Near θ = 0, where E vanishes, p = γθ + κθ² and `E/θ²` is bounded in `x = u/|θ|`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from flint import arb, fmpq
from numpy.typing import NDArray

from teamtr_jax.exact import precisely, rational

__all__ = ["Upper", "certified", "margin", "upper_constant"]

NEAR = fmpq(1, 8)  # |θ| up to which E is divided by θ²
LARGE, END = fmpq(1, 2), fmpq(16)  # u: above the first no scaling, above the second E increases
EDGE = fmpq(-999, 1000)
BOXES = 400_000
CELLS = 48

Box = tuple[fmpq, fmpq, fmpq, fmpq]


class Upper(NamedTuple):
    """A valid constant: `|J'−J−L| ≤ c ϱK` in every world of this γ."""

    gamma: fmpq
    constant: fmpq
    alpha: fmpq
    boxes: int  #: that were looked at


def _k(u: arb) -> arb:
    return u - u.log1p()


def _excess(u: fmpq) -> arb:
    """`k(u)/u²`, which decreases on (−1, ∞)."""
    return arb(1) / 2 if not u else _k(arb(u)) / arb(u) ** 2


def _between(low: fmpq, high: fmpq) -> arb:
    return arb(low).union(arb(high))


def _cover(box: Box, positive: Callable[..., bool], left: int) -> int:
    """Boxes looked at until `positive` holds on all parts of a box, each halved where it does not; −1: more than `left`."""
    waiting, seen = [box], 0
    while waiting:
        a, b, c, d = waiting.pop()
        seen += 1
        if seen > left:
            return -1
        if positive(a, b, c, d):
            continue
        if (b - a) * (d if d > 0 else -c) > (d - c) * NEAR:
            waiting += [(a, (a + b) / 2, c, d), ((a + b) / 2, b, c, d)]
        else:
            waiting += [(a, b, c, (c + d) / 2), (a, b, (c + d) / 2, d)]
    return seen


class _Case:
    """One (γ, c, α)."""

    def __init__(self, gamma: fmpq, constant: fmpq, alpha: fmpq):
        self.gamma, self.c, self.alpha = gamma, constant, alpha
        self.kappa = fmpq(4, 3) * constant * (1 - gamma) ** 2
        self.quarter = gamma / (4 * alpha)

    def near(self, t1: fmpq, t2: fmpq, x1: fmpq, x2: fmpq) -> bool:
        """`E/θ² ≥ c x²k(tx)/(tx)² + κtx − γx²/4α − α|x| + α(1−γ) > 0` on a box of t = |θ| and x = u/t; x of one sign."""
        right = x1 >= 0
        if t1 * x2 <= -1 or t1 * x1 >= LARGE:
            return True  # no such u, or one that `far` looks at
        far, close = (x2, x1) if right else (-x1, -x2)
        square = self.c * _excess(min(t2 * x2, LARGE) if right else t1 * x2) - self.quarter
        tilt = self.kappa * (t1 * x1 if right else t2 * x1)
        size = close if square > 0 else far
        return bool(square * size**2 + tilt - self.alpha * far + self.alpha * (1 - self.gamma) > 0)

    def outside(self) -> fmpq | None:
        """X such that `near` holds for |x| ≥ X, |θ| ≤ NEAR and u ≤ LARGE."""
        right, left = self.c * _excess(LARGE) - self.quarter, self.c / 2 - self.quarter
        if not right > 0 or not left > 0:
            return None
        reach = max(float(arb(self.alpha) / right), float(arb(self.alpha + self.kappa * NEAR) / arb(left)))
        return rational(float(np.ceil(reach + 0.01)))

    def far(self, p: Callable[[fmpq, fmpq], arb], t1: fmpq, t2: fmpq, u1: fmpq, u2: fmpq) -> bool:
        """`E > 0` on a box of θ and u."""
        theta, u = _between(t1, t2), _between(u1, u2)
        # k falls before 0 and rises after it
        k = _k(arb(u2)) if u2 <= 0 else _k(arb(u1)) if u1 >= 0 else arb(0)
        value = self.c * k + p(t1, t2) * u + self._clamped(theta, u) - self.alpha * abs(theta) * abs(u)
        return bool(value + self.alpha * theta**2 > 0)

    def _clamped(self, theta: arb, u: arb) -> arb:
        """`min_{|d|≤1} γαd² − γyd`, `y = u + 2αθ`: falls in |y|, so its least value is at the largest."""
        y = abs(u + 2 * self.alpha * theta)
        largest, a, g = arb(y.upper()), arb(self.alpha), arb(self.gamma)
        inner, outer = -g * largest**2 / (4 * a), g * a - g * largest
        return outer if largest >= 2 * a else inner

    def curve(self, t1: fmpq, t2: fmpq) -> arb:
        """`p = γθ + κθ²`."""
        theta = _between(t1, t2)
        return self.gamma * theta + self.kappa * theta**2

    def edge(self, p: Callable[[fmpq, fmpq], arb], t1: fmpq, t2: fmpq) -> bool:
        """`E > 0` for u in (−1, EDGE], where k is at least its value at the right end."""
        theta, u = _between(t1, t2), _between(fmpq(-1), EDGE)
        value = self.c * _k(arb(EDGE)) + p(t1, t2) * u + self._clamped(theta, u) - self.alpha * abs(theta)
        return bool(value + self.alpha * theta**2 > 0)

    def tail(self, p: Callable[[fmpq, fmpq], arb], t1: fmpq, t2: fmpq) -> bool:
        """From END on d = 1 is the minimum and E increases."""
        theta = _between(t1, t2)
        rises = self.c * arb(END) / (1 + arb(END)) + p(t1, t2) - self.gamma - self.alpha * abs(theta)
        return bool(rises >= 0) and bool(4 * self.alpha <= END)


def _line(ends: tuple[fmpq, fmpq], tilts: Sequence[fmpq], t1: fmpq, t2: fmpq) -> arb:
    """p on a part of a cell, between the tilts that floats choose at its ends."""
    slope = (tilts[1] - tilts[0]) / (ends[1] - ends[0])
    low, high = sorted(tilts[0] + slope * (t - ends[0]) for t in (t1, t2))
    return _between(low, high)


def _float_energy(u: NDArray, theta: float, gamma: float, c: float, alpha: float) -> NDArray:
    d = np.clip(theta + u / (2 * alpha), -1, 1)
    moved = gamma * alpha * d**2 - gamma * (u + 2 * alpha * theta) * d
    return c * (u - np.log1p(u)) + moved - alpha * abs(theta) * abs(u) + alpha * theta**2


_SMALL = np.geomspace(1e-6, 0.999, 400)
_POINTS = np.unique(np.concatenate([-_SMALL, [0.0], _SMALL, np.geomspace(1.0, 1e4, 300)]))


def _tilt(theta: float, gamma: float, c: float, alpha: float) -> tuple[float, float]:
    """The p that makes the least E largest, and this E; floats."""
    energy, low, high = _float_energy(_POINTS, theta, gamma, c, alpha), -4.0, 4.0
    for _ in range(50):
        p = (low + high) / 2
        low, high = (p, high) if _POINTS[np.argmin(energy + p * _POINTS)] > 0 else (low, p)
    return low, float((energy + low * _POINTS).min())


def margin(gamma: float, c: float, alpha: float) -> float:
    """The least of `max_p min_u E/(αθ²)` over some θ, in floats: negative where (c, α) is not valid."""
    thetas = np.geomspace(1e-2, 1.0, 16)
    return min(_tilt(s * t, gamma, c, alpha)[1] / (alpha * t**2) for t in thetas for s in (-1, 1))


def certified(gamma: fmpq, constant: fmpq, alpha: fmpq) -> Upper | None:
    """Decide (c, α) for γ in balls; `None` where it is not valid, or too close to what is not."""
    case = _Case(gamma, constant, alpha)
    floats = tuple(float(arb(x)) for x in (gamma, constant, alpha))
    with precisely():
        reach = case.outside()
        if reach is None:
            return None
        seen = 0

        def covered(box: Box, positive: Callable[..., bool]) -> bool:
            nonlocal seen
            looked = _cover(box, positive, BOXES - seen)
            seen += max(looked, 0)
            return looked > 0

        zero = fmpq(0)
        parts: list[tuple[Box, Callable[..., bool]]] = [
            ((zero, NEAR, zero, reach), case.near),
            ((zero, NEAR, -reach, zero), case.near),
        ]
        for low, high in ((zero, NEAR), (-NEAR, zero)):  # u > LARGE: the same p as near θ = 0, not divided
            if not case.tail(case.curve, low, high):
                return None
            parts.append(((low, high, LARGE, END), partial(case.far, case.curve)))
        width = (1 - NEAR) / CELLS
        for k, sign in product(range(CELLS), (1, -1)):
            low, high = sorted((sign * (NEAR + k * width), sign * (NEAR + (k + 1) * width)))
            line = partial(_line, (low, high), [rational(_tilt(float(arb(end)), *floats)[0]) for end in (low, high)])
            if not case.tail(line, low, high) or not case.edge(line, low, high):
                return None
            parts.append(((low, high, EDGE, zero), partial(case.far, line)))
            parts.append(((low, high, zero, END), partial(case.far, line)))
        return Upper(gamma, constant, alpha, seen) if all(covered(*part) for part in parts) else None


def upper_constant(gamma: fmpq, spare: float = 0.05) -> Upper | None:
    """The least valid c that is found with a margin: bisection in floats, then one decision; `None` if none below 1 is."""
    g = float(arb(gamma))
    shapes = (0.7, 0.8, 0.9, 1.0)

    def best(c: float) -> tuple[float, float]:
        return max((margin(g, c, f * c * (1 - g)), f) for f in shapes)

    low, high = float(np.sqrt(g / (1 - g))), 1.0
    if low >= 1 or best(high)[0] < spare:
        return None
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if best(middle)[0] >= spare else (middle, high)
    constant = fmpq(int(np.ceil(high * 10_000)), 10_000)
    factor = best(float(arb(constant)))[1]
    return certified(gamma, constant, constant * (1 - gamma) * rational(factor))
