"""Random stages of small integers over powers of two, on which every claim is decided without rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.exact.checks import Pairs, exact_checks
from teamtr_jax.exact.numbers import verdict
from teamtr_jax.teams.garnet import tied_rows
from teamtr_jax.types import Stage, Team
from theory.families import take

__all__ = ["Evidence", "World", "WORLDS", "draw", "random_rows", "unstack", "judge_exactly", "run"]

DISCOUNTS = (0.0, 0.25, 0.5, 0.625, 0.75, 0.9375, 0.9921875)
STEPS = (1, 2, 4, 2**8, 2**16, 2**24)
"""A row moves by one part in so many towards another random row; 1 replaces it, and may drop an action (KL infinite)."""
CHUNK = 60


class World(NamedTuple):
    """Shape of the stages of one kind. Rows have at most `bits` binary digits."""

    name: str
    contexts: int
    actions: tuple[int, ...]  #: one number: turn-taking; one for each agent: product team
    agents: int
    horizon: int | None = None
    early: bool = False  #: whether an episode may end at any step
    stationary: bool = True  #: whether every step has the same kernel
    bits: int = 8
    observations: int | None = None  #: labels of an agent, drawn at random; its rows are tied (U4)


WORLDS: tuple[World, ...] = (
    World("turn-taking", 6, (2,), 3),
    World("product", 3, (2, 3), 2),
    World("product of three", 2, (2, 2, 2), 3),
    World("episodic", 3, (3,), 3, 4),
    World("episodic, early ends", 3, (2,), 4, 6, early=True),
    World("episodic product, early ends", 2, (2, 2), 2, 3, early=True, stationary=False),
    World("turn-taking, tied", 6, (2,), 3, observations=2),
    World("product, tied", 3, (2, 3), 2, observations=2),
    World("episodic, tied", 3, (2,), 3, 4, observations=2),
)


class Evidence(NamedTuple):
    """What exact decisions on one check found."""

    instances: int = 0  #: stages
    violated: int = 0
    undecided: int = 0  #: overlapping balls
    tightest: float = 0.0  #: largest measured/bound
    enclosed: int = 0  #: inequalities decided by balls; the others by rationals
    checks: int = 0  #: inequalities

    @property
    def kind(self) -> str:
        """`enclosed` as soon as one decision needed a ball."""
        return "enclosed" if self.enclosed else "exact"


def random_rows(rng: np.random.Generator, *shape: int, zeros: float, bits: int) -> NDArray[np.float64]:
    """Probability rows of entries `k/2^bits`; about a share `zeros` of them is 0."""
    keep = rng.random(shape) >= zeros
    np.put_along_axis(keep, rng.integers(shape[-1], size=(*shape[:-1], 1)), True, -1)
    weight = np.where(keep, rng.exponential(size=shape), 0.0)
    counts = np.floor(weight / weight.sum(-1, keepdims=True) * 2**bits)
    first = keep.argmax(-1)[..., None]
    missing = 2**bits - counts.sum(-1, keepdims=True)
    np.put_along_axis(counts, first, np.take_along_axis(counts, first, -1) + missing, -1)
    return counts / 2**bits


def draw(world: World, rng: np.random.Generator, batch: int) -> Stage:
    """A batch of stages (leading axis on every array) whose rows sum to one exactly."""
    X, T, n, bits = world.contexts, world.horizon or 1, world.agents, world.bits
    S, joint, product = T * X, math.prod(world.actions), len(world.actions) > 1
    layers = () if world.stationary else (T,)
    transition = random_rows(rng, batch, *layers, X, joint, X, zeros=0.5, bits=bits)
    if world.early:
        transition[rng.random(transition.shape[:-1]) < 0.2] = 0.0
    reward = rng.integers(-8, 9, (batch, S, joint)) / 8
    sparse = rng.random((batch, 1, 1)) < 0.3
    reward = np.where(sparse, (reward > 0.8) * 1.0, reward)
    initial = np.zeros((batch, S))
    initial[:, :X] = random_rows(rng, batch, X, zeros=0.5, bits=bits)
    divisor = np.asarray(STEPS)[rng.integers(len(STEPS), size=batch)]

    def pair(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        old = random_rows(rng, batch, S, size, zeros=0.3, bits=bits)
        new = random_rows(rng, batch, S, size, zeros=0.3, bits=bits)
        moves = rng.random((batch, S, 1)) < 0.8
        return old, np.where(moves, old + (new - old) / divisor[:, None, None], old)

    active = None if product else jnp.asarray(rng.integers(-1, n, (batch, S)))
    if product:
        width = max(world.actions)
        tables = [[np.pad(t, [(0, 0), (0, 0), (0, width - k)]) for t in pair(k)] for k in world.actions]
        current, target = (np.stack(side, 1) for side in zip(*tables, strict=True))
    else:
        current, target = pair(joint)
    seen = None
    if world.observations is not None:
        seen = rng.integers(0, world.observations, (batch, n, S) if product else (batch, S))
        current, target = (tied_rows(table, seen, active) for table in (current, target))
    if world.horizon is None:
        discounts = np.asarray(DISCOUNTS)[rng.integers(len(DISCOUNTS), size=batch)]
        dynamics = Dense(jnp.asarray(transition), jnp.asarray(discounts))
    else:
        dynamics = Layered(Dense(jnp.asarray(transition), None), T, stationary=world.stationary)
    factors = world.actions if product else None
    label = None if seen is None else jnp.asarray(seen)
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), active, n, factors, label)
    order = jnp.asarray(rng.permuted(np.tile(np.arange(n), (batch, 1)), axis=1))
    return Stage(team, jnp.asarray(current), jnp.asarray(target), order)


def unstack(stages: Stage, batch: int) -> Iterator[Stage]:
    """The stages of a batch one by one, their arrays in NumPy."""
    arrays = jax.tree.map(np.asarray, stages)
    for b in range(batch):
        yield take(arrays, b)


def judge_exactly(pairs: Pairs) -> dict[tuple[str, str], Evidence]:
    """Verdicts on the checks of one stage."""
    out = {}
    for key, instances in pairs.items():
        verdicts = [verdict(measured, bound) for measured, bound in instances]
        ratios = [
            float(measured / bound) for measured, bound in instances if bound is not None and bound > 0 and measured > 0
        ]
        out[key] = Evidence(
            1, verdicts.count("violated"), verdicts.count("open"), max(ratios, default=0.0),
            verdicts.count("enclosed"), len(instances),
        )  # fmt: skip
    return out


def plus(a: Evidence, b: Evidence) -> Evidence:
    """Evidence of both."""
    return Evidence(
        a.instances + b.instances, a.violated + b.violated, a.undecided + b.undecided, max(a.tightest, b.tightest),
        a.enclosed + b.enclosed, a.checks + b.checks,
    )  # fmt: skip


def run(
    instances: int,
    rng: np.random.Generator,
    progress: Callable[[int], None] = lambda done: None,
    worlds: Sequence[World] = WORLDS,
) -> dict[tuple[str, str], Evidence]:
    """Decide every claim on `instances` random stages, the worlds in turn, in this process.

    Args:
      progress: called with the number of stages done.

    Returns:
      Evidence per (claim id, check name).
    """
    found: dict[tuple[str, str], Evidence] = {}
    done = turn = 0
    while done < instances:
        batch = min(CHUNK, instances - done, -(-instances // len(worlds)))
        for stage in unstack(draw(worlds[turn % len(worlds)], rng, batch), batch):
            for key, evidence in judge_exactly(exact_checks(stage)).items():
                found[key] = plus(found.get(key, Evidence()), evidence)
        done, turn = done + batch, turn + 1
        progress(batch)
    return found
