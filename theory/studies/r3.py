"""R3, random teams: signs cancel and mixing forgets, so the stale gap does *not* grow like n²."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax import programs
from teamtr_jax.divergences import expected, kl_current_to_new
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import random_stages
from teamtr_jax.types import Stage
from teamtr_jax.visits import occupancy, visits
from theory.fits import Slope, bootstrap_slope
from theory.ledger import Row

__all__ = ["RandomCurves", "run", "equal_kl", "SIZES"]

SIZES = (2, 4, 8, 16, 32)
STATES, ACTIONS, DISCOUNT, KL, BRANCHING = 64, 3, 0.9, 1e-4, 4


HELD = {"agent": "δ⁰ of every agent", "message": "mean KL of every agent's own messages"}


class RandomCurves(NamedTuple):
    """Stage sums of absolute gaps, ``[size, instance]``, and their slopes, by what is held fixed."""

    sizes: np.ndarray
    gaps: dict[str, dict[str, np.ndarray]]
    slopes: dict[str, dict[str, Slope]]


def equal_kl(stage: Stage, kl: float, per_message: jax.Array | bool = False) -> Stage:
    """The same stage with every agent's step rescaled along `target − current` so that `δ⁰_k = kl` for each (bisection).

    With `per_message` it is the mean KL over the agent's own visits that equals `kl`, so that `δ⁰_k = w_k·kl`. Agents without a
    visited state, or whose whole step is smaller than that, keep their step.
    """
    team = stage.team
    assert team.active is not None
    d = occupancy(visits(team, stage.current))
    own = (team.active == jnp.arange(team.agents)[:, None]) * d
    radius = kl * jnp.where(per_message, own.sum(-1), 1.0)

    def table(size: jax.Array) -> jax.Array:
        return stage.current + size[team.active][:, None] * (stage.target - stage.current)

    def bisect(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        per_state = kl_current_to_new(stage.current, table(middle))
        inside = expected(own, jnp.broadcast_to(per_state, own.shape)) <= radius
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    start = (jnp.zeros(team.agents), jnp.ones(team.agents))
    return Stage(team, stage.current, table(jax.lax.fori_loop(0, 50, bisect, start)[0]), stage.order)


def _all_sums(at_once: int, stages: Stage, per_message: jax.Array) -> dict[str, jax.Array]:
    """Stage sums of the absolute gaps, so many stages at once.

    They divide the batch: a remainder would be a second, independent chain of LAPACK calls in this program.
    """

    def of(stage: Stage) -> dict[str, jax.Array]:
        report = stage_report(equal_kl(stage, KL, per_message))
        gaps = {"fresh": report.gap_fresh, "stale": report.gap_stale, "cached": report.gap_cached}
        return {name: abs(gap).sum() for name, gap in gaps.items()}

    return jax.lax.map(of, stages, batch_size=at_once)


def run(
    instances: int,
    rng: np.random.Generator,
    sizes: tuple[int, ...] = SIZES,
    lock: AbstractContextManager[Any] | None = None,
) -> tuple[Row, RandomCurves]:
    """Garnet teams of one size of world, more and more agents in it, each with the same KL; `lock` as in the audit."""
    started = time.perf_counter()
    agents = max(sizes)
    batch = instances * len(sizes)
    stages = random_stages(
        rng, batch, STATES, ACTIONS, agents, discount=np.full(batch, DISCOUNT), branching=BRANCHING, step=0.5,
        live_agents=np.repeat(sizes, instances),
    )  # fmt: skip

    with lock or nullcontext():
        found = {
            held: jax.block_until_ready(
                programs.run(_all_sums, stages, np.asarray(held == "message"), static=(instances,), quick=agents <= 8)
            )
            for held in HELD
        }
    gaps = jax.tree.map(lambda gap: np.asarray(gap).reshape(len(sizes), instances), found)
    slopes = {held: {name: bootstrap_slope(sizes, gap, rng) for name, gap in of.items()} for held, of in gaps.items()}
    stale = slopes["message"]["stale"]
    text = "; ".join(
        f"{KL:g} = {HELD[held]}: "
        + ", ".join(f"{name} {s.slope:.2f} [{s.low:.2f}, {s.high:.2f}]" for name, s in of.items())
        for held, of in slopes.items()
    )
    row = Row(
        "R3", "random teams: Σ|stale gap| grows more slowly than n² (signs cancel, mixing forgets)", "float",
        batch, sum(of["stale"].high >= 2 for of in slopes.values()), 0, None, None,
        exponent=stale.slope, interval=(stale.low, stale.high), seconds=time.perf_counter() - started, checks=2 * batch,
        note=(
            f"Garnet, S = {STATES}, A = {ACTIONS}, {BRANCHING} successors, γ = {DISCOUNT}, states owned at random, "
            f"n = {sizes[0]}…{sizes[-1]}, {instances} teams each; slope of the mean, 95 % bootstrap over teams; exponent "
            f"column: KL per message held fixed. {text}"
        ),
    )  # fmt: skip
    return row, RandomCurves(np.array(sizes), gaps, slopes)
