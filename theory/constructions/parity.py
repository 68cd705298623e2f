"""F5 and F6, parity: everybody opens a door and, behind it, every update turns the reward over: `Σ|stale gap| ∝ n²`.

Behind a door the reward is the parity of the agents' switches (current: none switches, target: all do), so that each update
changes it by one and the changes alternate in sign. With `branches = 2` agents at odd places of the order (counted from 1)
open branch 1, the others branch 2, where the reward is the parity minus one: to the agent that opens it, its own door is then
worth exactly what the closed one is. Agent k is updated at place k.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team
from theory.constructions.doors import ClosedGaps, first_opener

__all__ = ["parity_stage", "parity_gaps", "parity_relay_stage", "parity_relay_gaps"]


def parity_stage(n: int, step: float, discount: float, branches: int = 2) -> Stage:
    """F5, product team: state 0, where the first opener decides; branches 1 and 2; closed (3). All but 0 are absorbing."""
    joint = np.arange(2**n)
    opener = first_opener(n)
    reached = np.where(opener == n, 3, 1 + (opener % 2) * (branches - 1))
    transition = np.zeros((4, 2**n, 4))
    transition[0, joint, reached] = 1.0
    transition[np.arange(1, 4), :, np.arange(1, 4)] = 1.0
    parity = np.array([bin(a).count("1") % 2 for a in joint], float)
    reward = np.stack([0 * parity, parity, parity - (branches - 1), 0 * parity])
    current = np.zeros((n, 4, 2))
    current[..., 0] = 1.0
    target = current.copy()
    target[:, 0] = [1 - step, step]
    target[:, 1:3] = [0.0, 1.0]
    initial = np.eye(4)[0]
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), None, n, (2,) * n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def parity_gaps(n: int, step: Any, discount: Any, branches: int = 2) -> ClosedGaps:
    """`fresh_i = ±γ/(1−γ)·ε(1−ε)^{i−1}`, `stale_i = ±γ/(1−γ)·(1−(1−ε)^i)`; `δ⁰_k = (1−γ)·opening_kl(ε)`."""
    return _gaps(n, step, discount / (1 - discount), branches, in_turn=False)


def parity_relay_stage(n: int, step: float, rounds: int = 2, branches: int = 2) -> Stage:
    """F6, episodic, round robin, `T = rounds·n`. Contexts: closed, and (branch, bit) as `1 + 2·branch + bit`.

    Round 1: agent k may open if nothing is open. In later rounds an agent behind a door may flip the bit; the last turn of
    a round pays the bit (minus one on branch 2) and resets it.
    """
    horizon, contexts = rounds * n, 5
    kernel = np.zeros((horizon, contexts, 2, contexts))
    reward = np.zeros((horizon, contexts, 2))
    current = np.zeros((horizon, contexts, 2))
    current[..., 0] = 1.0
    target = current.copy()
    target[:n, 0] = [1 - step, step]
    target[n:, 1:] = [0.0, 1.0]
    same = np.arange(contexts)
    kernel[:n, same, :, same] = 1.0
    kernel[:n, 0, 1] = 0.0
    kernel[np.arange(n), 0, 1, 1 + 2 * (np.arange(n) % 2) * (branches - 1)] = 1.0
    kernel[n:, 0, :, 0] = 1.0
    for context in range(1, contexts):
        branch, bit = divmod(context - 1, 2)
        for action in range(2):
            after = bit ^ action
            kernel[n:, context, action, 1 + 2 * branch + after] = 1.0
            kernel[n - 1 :: n, context, action] = np.eye(contexts)[1 + 2 * branch]
            reward[2 * n - 1 :: n, context, action] = after - branch * (branches - 1)
    initial = np.zeros((horizon, contexts))
    initial[0, 0] = 1.0
    flat = [jnp.asarray(x.reshape(horizon * contexts, *x.shape[2:])) for x in (reward, initial, current, target)]
    world = Layered(Dense(jnp.asarray(kernel), None), horizon, stationary=False)
    active = np.repeat(np.arange(horizon) % n, contexts)
    team = Team(world, flat[0], flat[1], jnp.asarray(active), n)
    return Stage(team, flat[2], flat[3], jnp.arange(n))


def parity_relay_gaps(n: int, step: Any, rounds: int = 2, branches: int = 2) -> ClosedGaps:
    """As `parity_gaps` with `R−1` for `γ/(1−γ)`; on one branch `stale_i` of even i has a second term, of order ε²."""
    return _gaps(n, step, rounds - 1, branches, in_turn=True)


def _gaps(n: int, step: Any, worth: Any, branches: int, in_turn: bool) -> ClosedGaps:
    """`worth`: how much a switch changes the value of an open branch. `in_turn`: agents open one after the other.

    `J(π̂ⁱ) = worth·Σ_{k≤i} ε(1−ε)^{k−1}(i mod 2 − o_k)`, `o_k = 1` if agent k's door leads to a second branch, else 0.
    """
    offset = [k % 2 * (branches - 1) for k in range(n)]
    first = [step * (1 - step) ** k for k in range(n)]
    fresh, stale, cached, before = [], [], [], 0 * step
    for k in range(n):
        sign, parity = 1 - 2 * (k % 2), k % 2  # parity of the switches before the update
        fresh.append(sign * worth * first[k])
        stale.append(sign * worth * (1 - (1 - step) ** (k + 1)))
        if in_turn:  # fewer than before reach the agent's own turn with every door closed
            stale[-1] -= worth * step * (parity - offset[k]) * (1 - (1 - step) ** k)
        after = sum((worth * first[j] * (1 - parity - offset[j]) for j in range(k + 1)), 0 * step)
        cached.append(after - before + worth * offset[k] * (step if in_turn else first[k]))
        before = after
    return ClosedGaps(fresh, stale, cached)
