"""S13: worlds whose ratio gap/(ϱK) exceeds γ, for the discounted S7.

Doors that are paid, coins, and any binary tree of decisions: the world of a tree remembers all that was done, earns 1 wherever
`Z = Λ − 1 − Σu` is positive after an action (`Λ` the ratio of the path, `u = π'/π − 1`), with a room behind a third action, which
only the new policy opens and in which only the new policy earns. So `(1−γ)|J'−J−L| = Σ_t (1−γ)γ^t E Z_t⁺` and what the rooms add:
the largest that any reward in [0, 1] makes of these two policies.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flint import arb, fmpq
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.dynamics import Dense
from teamtr_jax.types import Stage, Team

__all__ = ["Decisions", "coin_sizes", "coins", "coins_ratio", "decision_stage", "paid_door_ratio", "paid_door_stage"]


def _stage(transition: NDArray, reward: NDArray, current: NDArray, target: NDArray, discount: float) -> Stage:
    """One agent that acts everywhere, from state 0."""
    states = reward.shape[0]
    world = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(world, jnp.asarray(reward), jnp.eye(states)[0], jnp.zeros(states, int), 1)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(1))


def paid_door_stage(step: float, discount: float) -> Stage:
    """State 0: stay and earn 1 (action 0), or open the door (action 1). Behind it action 1 earns 1. Target: open with ε, act."""
    transition = np.zeros((2, 2, 2))
    transition[0, 0, 0] = transition[0, 1, 1] = transition[1, :, 1] = 1.0
    reward = np.eye(2)
    current = np.array([[1.0, 0.0], [1.0, 0.0]])
    return _stage(transition, reward, current, np.array([[1 - step, step], [0.0, 1.0]]), discount)


def paid_door_ratio(step: Any, discount: Any) -> arb:
    """`ε[1 − (1−γ)²/(1−γ+γε)]/(−log(1−ε))`: above γ for some ε at every γ in (0, 1)."""
    e, g = arb(step), arb(discount)
    return e * (1 - (1 - g) ** 2 / (1 - g + g * e)) / -(1 - e).log()


class Decisions(NamedTuple):
    """Policies of a complete binary tree of decisions, breadth first; what is missing in a row of `target` opens the room."""

    current: NDArray[np.float64]  #: [2^D − 1, 2]
    target: NDArray[np.float64]  #: [2^D − 1, 2]


def coins(sizes: ArrayLike, step: float) -> Decisions:
    """Fair coins moved by `ε a_t/2` each: `u = ±ε a_t`."""
    moves = np.concatenate([np.full(2**t, step * a / 2) for t, a in enumerate(np.asarray(sizes, float))])
    current = np.full((moves.size, 2), 0.5)
    return Decisions(current, current + moves[:, None] * np.array([1.0, -1.0]))


def coin_sizes(number: int, discount: float) -> NDArray[np.float64]:
    """`γ^{−t/2} sin(π(t+1)/(D+1))`, the best for γ → 0."""
    t = np.arange(number)
    return discount ** (-t / 2) * np.sin(np.pi * (t + 1) / (number + 1))


def coins_ratio(sizes: ArrayLike, discount: Any) -> fmpq:
    """Gap/(ϱK) as ε → 0, exactly: `Σ_t w_t E(Σ_{v<w≤t} u_v u_w)⁺ / ½Σ_t γ^t a_t²`, `w_t = (1−γ)γ^t`, last `γ^{D−1}`."""
    a = [fmpq(*float(x).as_integer_ratio()) for x in np.asarray(sizes, float)]
    g, last = discount if isinstance(discount, fmpq) else fmpq(*float(discount).as_integer_ratio()), len(a) - 1
    gap = fmpq(0)
    for signs in product((1, -1), repeat=last):
        total = square = fmpq(0)
        for t, (sign, x) in enumerate(zip((1, *signs), a, strict=True)):
            total, square = total + sign * x, square + x * x
            weight = g**t if t == last else (1 - g) * g**t
            gap += weight * max(fmpq(0), (total * total - square) / 2)
    return gap / 2**last / (sum(((g**t * x * x) for t, x in enumerate(a)), fmpq(0)) / 2)


def decision_stage(tree: Decisions, discount: float) -> Stage:
    """The world of a tree: its contexts, then won, lost, and the room; actions left, right, open.

    After the last decision the sign of `Z` is kept for ever. `Z` is formed in float64: where it is rounded to the wrong sign the
    ratio is smaller, never larger.
    """
    inner = tree.current.shape[0]
    won, lost, room = inner, inner + 1, inner + 2
    transition, reward = np.zeros((inner + 3, 3, inner + 3)), np.zeros((inner + 3, 3))
    reward[won], reward[room, 1] = 1.0, 1.0
    transition[np.arange(inner, inner + 3), :, np.arange(inner, inner + 3)] = 1.0
    ratio, gain = np.ones(inner), np.zeros(inner)
    for k in range(inner):
        reward[k, 2] = ratio[k] > 1
        transition[k, 2, room] = 1.0
        for a in range(2):
            u = tree.target[k, a] / tree.current[k, a] - 1
            z, child = gain[k] + (ratio[k] - 1) * u, 2 * k + 1 + a
            reward[k, a] = z > 0
            if child < inner:
                ratio[child], gain[child] = ratio[k] * (1 + u), z
            transition[k, a, child if child < inner else won if z > 0 else lost] = 1.0
    current, target = np.zeros((2, inner + 3, 3))
    current[:inner, :2], target[:inner, :2] = tree.current, tree.target
    target[:inner, 2] = np.maximum(0.0, 1 - tree.target.sum(-1))
    current[inner:, 0] = 1.0
    target[inner:] = current[inner:]
    target[room] = [0.0, 1.0, 0.0]
    return _stage(transition, reward, current, target, discount)
