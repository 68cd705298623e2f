"""The stages that the audit runs on: random ones of every form, and corners where bounds are attained.

Every family has fixed array shapes (one compiled program each) and draws sizes inside them: states beyond `live_states` are
never entered, agents beyond `live_agents` own nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.teams import random_stages
from teamtr_jax.types import Stage, Team
from theory import networks

__all__ = ["Family", "FAMILIES", "take", "sharp_discounted", "sharp_episodic"]


class Family(NamedTuple):
    """`make(rng, batch)` returns a batch of stages (leading axis on every array)."""

    name: str
    sizes: str  #: printed distribution of S, A, n, γ or T
    share: float  #: of the audit's instances
    make: Callable[[np.random.Generator, int], Stage]
    without: tuple[
        str, ...
    ] = ()  #: claims left out: P3.8 doubles a program, and a swap is a first update of some order; of S11 nearly every
    #: second stage has to be decided exactly, which takes 14 ms of the processor
    chunk: int | None = None  #: stages made and judged at once, if not as many as the tier says


def take(batch: Any, index: Any) -> Any:
    """The instances at `index` of the leading axis, in NumPy."""
    return jax.tree.map(lambda x: np.asarray(x)[index], batch)


def _discounts(rng: np.random.Generator, batch: int) -> NDArray[np.float64]:
    """`1−γ` log-uniform on [1e-3, 1]; one instance in fifty has γ = 0."""
    gamma = 1 - 10.0 ** rng.uniform(-3, 0, batch)
    return np.where(rng.random(batch) < 0.02, 0.0, gamma)


def _steps(rng: np.random.Generator, batch: int) -> NDArray[np.float64]:
    """Log-uniform on [1e-6, 1]; one in fifty is no step at all."""
    return np.where(rng.random(batch) < 0.02, 0.0, 10.0 ** rng.uniform(-6, 0, batch))


def _random(
    states: int,
    actions: int | tuple[int, ...],
    agents: int,
    horizon: int | None,
    rng: np.random.Generator,
    batch: int,
    *,
    tied: bool = False,
) -> Stage:
    """`tied`: each agent sees one of 1 … S/2 labels (episodic: of as many as contexts, at whatever step), not the state."""
    live = rng.integers(2, states + 1, batch)
    return random_stages(
        rng, batch, states, actions, agents,
        discount=None if horizon else _discounts(rng, batch), horizon=horizon,
        branching=rng.integers(1, live + 1), step=_steps(rng, batch),
        concentration=10.0 ** rng.uniform(-1, 1, batch), live_states=live,
        live_agents=rng.integers(1, agents + 1, batch), sparse_reward=rng.random(batch) < 0.3,
        observations=rng.integers(1, (states if horizon else states // 2) + 1, batch) if tied else None,
    )  # fmt: skip


def _absorbing(batch: int, states: int, actions: int) -> NDArray[np.float64]:
    transition = np.zeros((batch, states, actions, states))
    transition[:, np.arange(states), :, np.arange(states)] = 1.0
    return transition


def sharp_discounted(rng: np.random.Generator, batch: int, states: int = 6, agents: int = 3) -> Stage:
    """Three corners in equal parts, all with the one moving agent 0 at state 0, which goes to 1 or, by action 1, to 2.

    * *fork* (T1 attained; T2's ratio √(1−γ)): two absorbing states worth 0 and 1; ½ → ½+ε.
    * *branch* (S7, ratio → γ as ε → 0): state 2 was never visited; there the new policy finds the only reward.
    * *parting* (S0, ratio → γ as ε → 1): the new policy earns 1 a step where only it goes, loses 1 a step where it left; the
      root pays γ/(1−γ) for staying, so that nothing else there is worth more.
    """
    kind = np.arange(batch) % 3
    fork, branch, parting = kind == 0, kind == 1, kind == 2
    gamma = np.where(rng.random(batch) < 0.5, rng.random(batch), 10.0 ** rng.uniform(-4, 0, batch) * 0.999)
    step = 10.0 ** rng.uniform(-6, 0, batch)
    step[fork] = np.minimum(step[fork], 0.5)
    step[parting] = 1 - 0.5 * step[parting]
    transition = _absorbing(batch, states, 2)
    transition[:, 0] = 0.0
    transition[:, 0, 0, 1] = transition[:, 0, 1, 2] = 1.0
    transition[branch, 2] = 0.0
    transition[branch, 2, 0, 1] = transition[branch, 2, 1, 3] = 1.0
    reward = np.zeros((batch, states, 2))
    reward[fork, 2] = 1.0
    reward[branch, 2, 1] = 1.0
    reward[branch, 3] = 1.0
    reward[parting, 1, 0] = reward[parting, 2, 1] = 1.0
    reward[parting, 0, 1] = (gamma / (1 - gamma))[parting]
    current = np.zeros((batch, states, 2))
    current[..., 0] = 1.0
    current[fork, 0] = 0.5
    target = current.copy()
    target[:, 0, 1] = current[:, 0, 1] + step
    target[:, 0, 0] = 1 - target[:, 0, 1]
    target[branch, 2] = [0.0, 1.0]
    target[parting, 1] = target[parting, 2] = [0.0, 1.0]
    initial = np.zeros((batch, states))
    initial[:, 0] = 1.0
    active = np.zeros((batch, states), int)
    active[:, 3:] = np.arange(states - 3) % agents
    team = Team(
        Dense(jnp.asarray(transition), jnp.asarray(gamma)),
        jnp.asarray(reward),
        jnp.asarray(initial),
        jnp.asarray(active),
        agents,
    )
    order = np.tile(np.arange(agents), (batch, 1))
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.asarray(order))


def sharp_episodic(rng: np.random.Generator, batch: int, horizon: int = 6, agents: int = 4) -> Stage:
    """Agent 0 opens a branch: context 1 at step 1 is never visited, from there the new policy reaches the only reward.

    S7's ratio → 1 as ε → 0; T1 is attained in every layer.
    """
    step = 10.0 ** rng.uniform(-6, 0, batch)
    transition = np.zeros((batch, 3, 2, 3))
    transition[:, 0, 0, 0] = transition[:, 0, 1, 1] = transition[:, 1, 0, 0] = transition[:, 1, 1, 2] = 1.0
    transition[:, 2, :, 2] = 1.0
    reward = np.zeros((batch, horizon, 3, 2))
    reward[:, -1, 2] = 1.0
    current = np.zeros((batch, horizon, 3, 2))
    current[..., 0] = 1.0
    target = current.copy()
    target[:, 0, 0] = np.stack([1 - step, step], -1)
    target[:, 1, 1] = [0.0, 1.0]
    initial = np.zeros((batch, horizon, 3))
    initial[:, 0, 0] = 1.0
    active = np.zeros((batch, horizon, 3), int)
    active[:, 2:] = 1 + np.arange(horizon - 2)[:, None] % (agents - 1)
    flat = [
        jnp.asarray(x.reshape(batch, horizon * 3, *x.shape[3:])) for x in (reward, initial, active, current, target)
    ]
    team = Team(Layered(Dense(jnp.asarray(transition), None), horizon), flat[0], flat[1], flat[2], agents)
    return Stage(team, flat[3], flat[4], jnp.asarray(np.tile(np.arange(agents), (batch, 1))))


LAW = "1−γ log-uniform [1e-3, 1] or (1 in 50) γ = 0; step log-uniform [1e-6, 1] or (1 in 50) 0"
FAMILIES: tuple[Family, ...] = (
    Family("small", f"S uniform 2…6, A = 2, n uniform 1…3; {LAW}", 0.40, partial(_random, 6, 2, 3, None), ("S11",)),
    Family(
        "middle",
        f"S uniform 2…12, A = 3, n uniform 1…6; {LAW}",
        0.25,
        partial(_random, 12, 3, 6, None),
        ("P3.8", "S11"),
    ),
    Family(
        "large",
        f"S uniform 2…16, A = 4, n uniform 1…16; {LAW}",
        0.05,
        partial(_random, 16, 4, 16, None),
        ("P3.8", "S11"),
    ),
    Family(
        "product",
        f"S uniform 2…4, factors 2×3×2, n = 3; {LAW}",
        0.093,
        partial(_random, 4, (2, 3, 2), 3, None),
        ("P3.8", "S11"),
    ),
    Family(
        "episodic",
        "contexts uniform 2…3, A = 2, n uniform 1…4, T = 6; step as above",
        0.05,
        partial(_random, 3, 2, 4, 6),
    ),
    Family(
        "tied",
        "as small; an agent sees one of 1…3 labels (U4)",
        0.05,
        partial(_random, 6, 2, 3, None, tied=True),
        ("S11",),
    ),
    Family(
        "tied product",
        "as product; each agent sees one of 1…2 labels of its own",
        0.05,
        partial(_random, 4, (2, 3, 2), 3, None, tied=True),
        ("P3.8", "S11"),
    ),
    Family(
        "tied episodic",
        "as episodic; an agent sees one of 1…3 labels, and neither the step nor what went before",
        0.05,
        partial(_random, 3, 2, 4, 6, tied=True),
    ),
    Family(
        "corners", "S = 6, A = 2: fork, branch, parting; γ uniform or log-uniform [1e-4, 1)", 0.005, sharp_discounted
    ),
    Family("episodic corners", "X = 3, A = 2, T = 6: a branch opened", 0.002, sharp_episodic),
    Family("networks", networks.SIZES, 0.01, networks.make, ("P3.8", "S11"), networks.BATCH),
)
"""In random families every state has 1…S successors (uniform), rows are Dirichlet with a concentration log-uniform on [0.1, 10],
rewards uniform or, in three of ten, 1 for one action in eight. A product team's agents all act, whatever n is drawn. In tied
families labels are drawn at random for each state: random Dec-POMDPs."""
