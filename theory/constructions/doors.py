"""F4, doors: a rare step opens a part of the world that nobody had seen, in which an update costs no measured KL.

Current: no door is opened and nothing is earned. Target: a door is opened with probability ε and behind it the target's
action earns. V under the current team is zero everywhere, so every cached surrogate is zero. Closed forms take any number
type: floats, rationals, polynomials in the step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flint import arb

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team

__all__ = [
    "ClosedGaps",
    "Router",
    "doors_stage",
    "doors_gaps",
    "product_doors_stage",
    "product_doors_gaps",
    "relay_doors_stage",
    "relay_doors_gaps",
    "rooms_stage",
    "rooms_gaps",
    "sampled_doors_stage",
    "opening_kl",
    "first_opener",
]

Router = Literal["same", "last", "uniform"]


class ClosedGaps(NamedTuple):
    """Per update, in the order of the stage: the three gaps."""

    fresh: list[Any]
    stale: list[Any]
    cached: list[Any]


def opening_kl(step: Any) -> arb:
    """`KL((1,0) ‖ (1−ε,ε)) = −log(1−ε)` as a ball."""
    return -(1 - arb(step)).log()


def _closed_and_open(*shape: int) -> np.ndarray:
    """A policy table that takes action 0 everywhere."""
    table = np.zeros((*shape, 2))
    table[..., 0] = 1.0
    return table


def doors_stage(n: int, step: float, discount: float, router: Router) -> Stage:
    """F4, turn-taking, exogenous Markov router. States: n starts (uniform), n behind the door, n at a closed door.

    The start's speaker k opens (action 1) or not. Who speaks from then on does not depend on it: `same` k for ever,
    `last` agent n−1 for ever, `uniform` a new draw at every step. Behind the door action 1 earns 1.
    """
    follows = {"same": np.eye(n), "last": np.eye(n)[[n - 1] * n], "uniform": np.full((n, n), 1 / n)}[router]
    start, behind, shut = (slice(k * n, (k + 1) * n) for k in range(3))
    transition = np.zeros((3 * n, 2, 3 * n))
    transition[start, 0, shut] = transition[start, 1, behind] = follows
    for part in (behind, shut):
        transition[part, :, part] = follows[:, None]
    reward = np.zeros((3 * n, 2))
    reward[behind, 1] = 1.0
    current = _closed_and_open(3 * n)
    target = current.copy()
    target[start] = [1 - step, step]
    target[behind] = [0.0, 1.0]
    initial = np.zeros(3 * n)
    initial[start] = 1 / n
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), jnp.asarray(np.tile(np.arange(n), 3)), n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def doors_gaps(n: int, step: Any, discount: Any, router: Router) -> ClosedGaps:
    """Gaps of `doors_stage`. `δ⁰_k = (1−γ)·opening_kl(ε)/n`; with `same` also `δ_k`."""
    behind = discount / (1 - discount) * step / n  # visits that one opener adds behind the door
    zero = 0 * behind
    if router == "same":
        return ClosedGaps([behind] * n, [behind] * n, [behind] * n)
    if router == "last":
        others = [zero] * (n - 1)
        return ClosedGaps([*others, behind], [*others, n * behind], [*others, n * behind])
    own = behind / n
    return ClosedGaps([own] * n, [i * own for i in range(1, n + 1)], [(2 * i - 1) * own for i in range(1, n + 1)])


def first_opener(n: int) -> np.ndarray:
    """``[2^n]``: the lowest agent whose bit is set in the joint action (C order), n where none is."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1
    return np.where(bits.any(-1), bits.argmax(-1), n)


def product_doors_stage(n: int, step: float, discount: float) -> Stage:
    """Own doors, product team: at state 0 the first opener k decides; behind door k (state 1+k) k's own action 1 earns 1."""
    states, joint = n + 2, 2**n
    transition = np.zeros((states, joint, states))
    transition[0, np.arange(joint), 1 + first_opener(n)] = 1.0
    transition[np.arange(1, states), :, np.arange(1, states)] = 1.0
    reward = np.zeros((states, joint))
    reward[1 : n + 1] = ((np.arange(joint)[:, None] >> np.arange(n - 1, -1, -1)) & 1).T
    current = _closed_and_open(n, states)
    target = current.copy()
    target[:, 0] = [1 - step, step]
    target[np.arange(n), 1 + np.arange(n)] = [0.0, 1.0]
    initial = np.zeros(states)
    initial[0] = 1.0
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), None, n, (2,) * n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def product_doors_gaps(n: int, step: Any, discount: Any) -> ClosedGaps:
    """All three gaps are `γ/(1−γ)·ε(1−ε)^{i−1}`; `δ_k = δ⁰_k = (1−γ)·opening_kl(ε)`."""
    gaps = [discount / (1 - discount) * step * (1 - step) ** i for i in range(n)]
    return ClosedGaps(gaps, gaps, gaps)


def relay_doors_stage(n: int, step: float, rounds: int = 2, moving: bool = False) -> Stage:
    """Own doors, episodic, round robin, `T = rounds·n`: contexts closed (0) and room k (1+k).

    Round 1: with everything closed agent k may open its own room. Later rounds: in room k agent k's action 1 earns 1 a round.
    `moving`: in round 1 an agent that finds a room open may also move the team to its own; targets do.
    """
    horizon, contexts = rounds * n, n + 1
    time, speaker = np.arange(horizon), np.arange(horizon) % n
    first = time[:n]
    kernel = np.zeros((horizon, contexts, 2, contexts))
    kernel[:, np.arange(contexts), :, np.arange(contexts)] = 1.0
    left = slice(None) if moving else slice(1)  # contexts that action 1 leaves in round 1
    kernel[:n, left, 1] = 0.0
    kernel[first, left, 1, 1 + first] = 1.0
    reward = np.zeros((horizon, contexts, 2))
    reward[time[n:], 1 + speaker[n:], 1] = 1.0
    current = _closed_and_open(horizon, contexts)
    target = current.copy()
    target[:n, 0] = [1 - step, step]
    if moving:
        target[:n, 1:] = [0.0, 1.0]
    target[time[n:], 1 + speaker[n:]] = [0.0, 1.0]
    initial = np.zeros((horizon, contexts))
    initial[0, 0] = 1.0
    flat = [jnp.asarray(x.reshape(horizon * contexts, *x.shape[2:])) for x in (reward, initial, current, target)]
    world = Layered(Dense(jnp.asarray(kernel), None), horizon, stationary=False)
    team = Team(world, flat[0], flat[1], jnp.asarray(np.repeat(speaker, contexts)), n)
    return Stage(team, flat[2], flat[3], jnp.arange(n))


def relay_doors_gaps(n: int, step: Any, rounds: int = 2, moving: bool = False) -> ClosedGaps:
    """All three gaps are `(R−1)·ε(1−ε)^{i−1}`; `δ^{ep,0}_i = κ`, `δ^ep_i = (1−ε)^{i−1}κ`, `κ = opening_kl(ε)`; `ϱ = R−1`.

    `moving`: `fresh_i = (R−1)(1−(1−ε)^i)`, the others as before; `δ^ep_i = ∞` for i ≥ 2.
    """
    gaps = [(rounds - 1) * step * (1 - step) ** i for i in range(n)]
    if not moving:
        return ClosedGaps(gaps, gaps, gaps)
    return ClosedGaps([(rounds - 1) * (1 - (1 - step) ** (i + 1)) for i in range(n)], gaps, gaps)


def rooms_stage(n: int, step: float, discount: float) -> Stage:
    """Rooms behind one door, product team: at equal δ⁰ the *fresh* gaps are the quadratic ones.

    State 0: anyone may open (else closed, state 2). Hall (state 1): the last agent who enters decides the room; nobody enters:
    the hall again. Room k (state 3+k): k's own action 1 earns 1. Target: open with probability ε, enter, act.
    """
    states, joint = n + 3, 2**n
    bits = (np.arange(joint)[:, None] >> np.arange(n - 1, -1, -1)) & 1
    transition = np.zeros((states, joint, states))
    transition[0, :, 1] = bits.any(-1)
    transition[0, :, 2] = ~bits.any(-1)
    last = n - 1 - bits[:, ::-1].argmax(-1)
    transition[1, np.arange(joint), np.where(bits.any(-1), 3 + last, 1)] = 1.0
    transition[np.arange(2, states), :, np.arange(2, states)] = 1.0
    reward = np.zeros((states, joint))
    reward[3:] = bits.T
    current = _closed_and_open(n, states)
    target = current.copy()
    target[:, 0] = [1 - step, step]
    target[:, 1] = [0.0, 1.0]
    target[np.arange(n), 3 + np.arange(n)] = [0.0, 1.0]
    initial = np.eye(states)[0]
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(discount, jnp.float64))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), None, n, (2,) * n)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(n))


def rooms_gaps(n: int, step: Any, discount: Any) -> ClosedGaps:
    """`fresh_1 = stale_1 = wε`, and for i ≥ 2 `fresh_i = w(1−(1−ε)^{i−1})`, `stale_i = 0`; `cached_i = wε(1−ε)^{i−1}`.

    `w = γ²/(1−γ)`; `δ⁰_k = (1−γ)·opening_kl(ε)`; `δ_i = ∞` for i ≥ 2.
    """
    worth = discount**2 / (1 - discount)
    zero = 0 * (worth * step)
    fresh = [worth * step, *(worth * (1 - (1 - step) ** k) for k in range(1, n))]
    stale = [worth * step, *[zero] * (n - 1)]
    return ClosedGaps(fresh, stale, [worth * step * (1 - step) ** k for k in range(n)])


def sampled_doors_stage(step: float, discount: float | None = None, gain: bool = True) -> Stage:
    """S12: the sampler `μ = π̂¹` opens neither of two doors; `π = π̂⁰` opens agent 0's, `π' = π̂²` agent 1's.

    With `gain` π earns nothing behind its door, where μ would, and π' earns behind its own, where μ would not; otherwise the
    other way round. `L_μ` has both wrong: `J' − J − (L_μ(π') − L_μ(π))` is ±2ε (discounted ±γ/(1−γ)·ε), `K` of each is
    `opening_kl(ε)` (half of it). `ϱ = 1`, discounted `1/(1−γ)`.
    """
    stage = relay_doors_stage(2, step) if discount is None else doors_stage(2, step, discount, "same")
    assert stage.team.active is not None
    opens = (stage.target[:, 1] > 0) & (stage.target[:, 1] < 1)
    swapped = jnp.where(opens, stage.team.active == 0, not gain)[:, None]
    return replace(
        stage,
        current=jnp.where(swapped, stage.target, stage.current),
        target=jnp.where(swapped, stage.current, stage.target),
    )
