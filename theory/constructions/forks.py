"""F1, random first speaker: who speaks is drawn once, and each agent's one word decides where the team stays for ever.

State k < n is agent k's fork, drawn with probability `w_k`; action 0 leads to the absorbing state n, action 1 to n+1. Agent k
is updated from ½ to `½ + ε_k`. The router is exogenous: nobody speaks after the first turn. Closed forms take any number type:
floats, rationals, polynomials in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flint import arb

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team

__all__ = ["forks_stage", "product_forks_stage", "relay_forks_stage", "forks_shift", "fork_kl", "fork_step"]


def forks_stage(weights: Sequence[float], steps: Sequence[float], discount: float) -> Stage:
    """The stage with `ρ(fork k) = w_k`, agents updated in the order of their forks; reward 1 a step on the right."""
    n = len(weights)
    left, right = n, n + 1
    transition = np.zeros((n + 2, 2, n + 2))
    transition[:n, 0, left] = transition[:n, 1, right] = 1.0
    transition[left, :, left] = transition[right, :, right] = 1.0
    reward = np.zeros((n + 2, 2))
    reward[right] = 1.0
    current = np.full((n + 2, 2), 0.5)
    target = current.copy()
    target[:n] += np.outer(steps, [-1.0, 1.0])
    initial = np.append(weights, [0.0, 0.0])
    active = np.append(np.arange(n), [-1, -1])
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), jnp.asarray(active), n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def product_forks_stage(weights: Sequence[float], steps: Sequence[float], discount: float) -> Stage:
    """The same for a product team: at fork k only agent k's action counts. `2^n` joint actions."""
    n, joint = len(weights), 2 ** len(weights)
    bits = (np.arange(joint)[:, None] >> np.arange(n - 1, -1, -1)) & 1
    transition = np.zeros((n + 2, joint, n + 2))
    transition[np.arange(n)[:, None], np.arange(joint), n + bits.T] = 1.0
    transition[[n, n + 1], :, [n, n + 1]] = 1.0
    reward = np.zeros((n + 2, joint))
    reward[n + 1] = 1.0
    current = np.full((n, n + 2, 2), 0.5)
    target = current.copy()
    target[np.arange(n), np.arange(n)] += np.outer(steps, [-1.0, 1.0])
    initial = np.append(weights, [0.0, 0.0])
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), None, n, (2,) * n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def relay_forks_stage(weights: Sequence[float], steps: Sequence[float], rounds: int = 2) -> Stage:
    """The same in round robin, `T = rounds·n`: in context k the team waits for agent k's first turn, which decides."""
    n = len(weights)
    horizon, contexts = rounds * n, n + 2
    kernel = np.zeros((horizon, contexts, 2, contexts))
    kernel[:, np.arange(contexts), :, np.arange(contexts)] = 1.0
    agent = np.arange(n)
    kernel[agent, agent] = np.eye(contexts)[[n, n + 1]]
    reward = np.zeros((horizon, contexts, 2))
    reward[-1, n + 1] = 1.0
    current = np.full((horizon, contexts, 2), 0.5)
    target = current.copy()
    target[agent, agent] += np.outer(steps, [-1.0, 1.0])
    initial = np.zeros((horizon, contexts))
    initial[0, :n] = weights
    flat = [jnp.asarray(x.reshape(horizon * contexts, *x.shape[2:])) for x in (reward, initial, current, target)]
    world = Layered(Dense(jnp.asarray(kernel), None), horizon, stationary=False)
    active = np.repeat(np.arange(horizon) % n, contexts)
    team = Team(world, flat[0], flat[1], jnp.asarray(active), n)
    return Stage(team, flat[2], flat[3], jnp.arange(n))


def forks_shift(weights: Sequence[Any], steps: Sequence[Any], discount: Any) -> list[Any]:
    """`TV(d^{π̂ⁱ}, d^{π̂⁰}) = γ Σ_{k≤i} w_k ε_k`, i = 0 … n: exact. With γ = 1 the layers of `relay_forks_stage` after n turns."""
    out: list[Any] = [0 * discount]
    for weight, step in zip(weights, steps, strict=True):
        out.append(out[-1] + discount * weight * step)
    return out


def fork_kl(step: Any) -> arb:
    """`KL(½ ‖ ½ + ε) = −½ log(1 − 4ε²)` as a ball."""
    return -(1 - 4 * arb(step) ** 2).log() / 2


def fork_step(kl: float) -> float:
    """The ε with `fork_kl(ε) = kl`."""
    return 0.5 * float(np.sqrt(-np.expm1(-2 * kl)))
