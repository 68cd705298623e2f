"""F2, the running count (episodic), and F3, the count at once (product, discounted): `TV ∝ √n` from n fair coins.

Every agent tosses once, up with probability ½, after its update `½ + ε`; the context is the number of ups.
"""

from __future__ import annotations

from math import comb

import jax.numpy as jnp
import numpy as np
from flint import fmpq

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team

__all__ = [
    "running_count_stage",
    "product_count_stage",
    "count_shifts",
    "count_coefficient",
    "mean_absolute_walk",
    "layer_mean",
]

FAIR = (0.5, 0.5)


def running_count_stage(n: int, step: float, rounds: int = 2) -> Stage:
    """F2: round robin, `T = rounds·n`. In round 1 each agent adds its toss to the count; later rounds keep it."""
    horizon, contexts = rounds * n, n + 1
    kernel = np.zeros((contexts, 2, contexts))
    kernel[np.arange(contexts), 0, np.arange(contexts)] = 1.0
    kernel[np.arange(contexts), 1, np.minimum(np.arange(contexts) + 1, n)] = 1.0
    reward = np.zeros((horizon, contexts, 2))
    reward[-1, n // 2 + 1 :] = 1.0
    current = np.zeros((horizon, contexts, 2))
    current[..., 0] = 1.0
    current[:n] = FAIR
    target = current.copy()
    target[:n] += [-step, step]
    initial = np.zeros((horizon, contexts))
    initial[0, 0] = 1.0
    active = np.repeat(np.arange(horizon) % n, contexts)
    flat = [jnp.asarray(x.reshape(horizon * contexts, *x.shape[2:])) for x in (reward, initial, current, target)]
    team = Team(Layered(Dense(jnp.asarray(kernel), None), horizon), flat[0], flat[1], jnp.asarray(active), n)
    return Stage(team, flat[2], flat[3], jnp.arange(n))


def product_count_stage(n: int, step: float, discount: float) -> Stage:
    """F3: all agents toss at state 0; state `1 + count` is absorbing. `2^n` joint actions."""
    states = n + 2
    ups = np.array([bin(a).count("1") for a in range(2**n)])
    transition = np.zeros((states, 2**n, states))
    transition[0, np.arange(2**n), 1 + ups] = 1.0
    transition[np.arange(1, states), :, np.arange(1, states)] = 1.0
    reward = np.zeros((states, 2**n))
    reward[2 + n // 2 :] = 1.0
    current = np.zeros((n, states, 2))
    current[..., 0] = 1.0
    current[:, 0] = FAIR
    target = current.copy()
    target[:, 0] += [-step, step]
    initial = np.zeros(states)
    initial[0] = 1.0
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), None, n, (2,) * n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def count_shifts(n: int, step: fmpq) -> list[list[fmpq]]:
    """``[t][i]``, t = 0 … n, i = 0 … t: total variation between t tosses of which i are updated and t fair ones.

    The numerators over the common denominator `(2q)^t`, `ε = p/q`, are integers.
    """
    p, q = int(step.p), int(step.q)
    tail, head, fair = q - 2 * p, q + 2 * p, q

    def toss(law: list[int], down: int, up: int) -> list[int]:
        return [down * x + up * y for x, y in zip([*law, 0], [0, *law], strict=True)]

    table = [[fmpq(0)] for _ in range(n + 1)]
    fair_laws, updated = [[1]], [1]
    for _ in range(n):
        fair_laws.append(toss(fair_laws[-1], fair, fair))
    for i in range(1, n + 1):
        updated = toss(updated, tail, head)
        law = updated
        for t in range(i, n + 1):
            distance = sum(abs(x - y) for x, y in zip(law, fair_laws[t], strict=True))
            table[t].append(fmpq(distance, 2 * (2 * q) ** t))
            law = toss(law, fair, fair)
    return table


def mean_absolute_walk(n: int) -> fmpq:
    """`E|S_n|` of the simple walk: `n·C(n−1, ⌊(n−1)/2⌋)/2^{n−1}`."""
    return fmpq(n * comb(n - 1, (n - 1) // 2), 2 ** (n - 1)) if n else fmpq(0)


def count_coefficient(tosses: int, updated: int) -> fmpq:
    """Coefficient of ε in `count_shifts`: `(i/t)·E|S_t|`."""
    return fmpq(updated, tosses) * mean_absolute_walk(tosses) if updated else fmpq(0)


def layer_mean(layers: list, last, rounds: int):
    """Mean over the `rounds·n` layers of a quantity that is `layers[t]` after t < n tosses and `last` after all n."""
    n = len(layers)
    return (sum(layers[1:], layers[0]) + (rounds - 1) * n * last) / (rounds * n)
