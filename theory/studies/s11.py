"""S11: how much more a stage moves the law of the transcript than the fresh steps along one order add up to.

The ratio `H²(P⁰,Pⁿ)/Σ_k H²(P^{k−1},P^k)` is searched over trees of contexts (`theory.constructions.orders`) with any owners, for
n = 2 … 8, and known for the trees read in order. Both sums are over contexts of what a policy loses there, `h = 1 − Σ√(ππ')`: the
former with the weight `√(w⁰wⁿ)`, the latter with `√(w^{k−1}w^k)`, k the owner.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flint import arb
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.cube import MOST_UPDATES
from teamtr_jax.exact import Solved, exact_stage, precisely
from teamtr_jax.exact.cube import order_distances
from teamtr_jax.types import Stage
from theory.constructions.orders import in_order, in_order_costs, in_order_stage, tree_stage
from theory.figures import LEGEND, panels, save
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "OrderRatios", "climb", "enclosed_ratio", "order_figure", "run"]

SIZES = tuple(range(2, MOST_UPDATES + 1))
LEVELS = 4
POINTS = 128
STEPS = 1_200
LEAST = 1e-5
"""Probabilities below it are made exact zeros."""
DEPTH = 20


class OrderRatios(NamedTuple):
    """The largest ratio found for each n, its stage, and the ratios of the trees read in order."""

    sizes: tuple[int, ...]
    ratios: NDArray[np.float64]  #: middle of the ball
    stages: list[Stage]
    trees: NDArray[np.float64]  #: `1/D_m` of `2^{m+1} − 1` agents
    wrong: int


def order_ratio(logits: Array, owners: Array, levels: int) -> Array:
    """The ratio of one tree; `logits` [2, contexts, 2] of the rows before and after. `w_k` of a context: `√(w^{k−1}w^k)`."""
    old, new = jax.nn.softmax(logits)
    both = jnp.sqrt(old * new + 1e-300)
    lost, agents = 1 - both.sum(-1), jnp.arange(MOST_UPDATES)
    whole, weight = jnp.ones(1), jnp.ones((1, MOST_UPDATES))
    moved = fresh = jnp.zeros(())
    for t in range(levels):
        here = slice(2**t - 1, 2 ** (t + 1) - 1)
        owner = owners[here, None]
        moved += whole @ lost[here]
        fresh += jnp.take_along_axis(weight, owner, 1)[:, 0] @ lost[here]
        seen = jnp.where(
            (agents > owner)[..., None], new[here, None], old[here, None]
        )  # by those updated later, earlier
        seen = jnp.where((agents == owner)[..., None], both[here, None], seen)
        weight = (weight[..., None] * seen).transpose(0, 2, 1).reshape(-1, MOST_UPDATES)
        whole = (whole[:, None] * both[here]).ravel()
    return moved / fresh


@lru_cache
def _program(levels: int, steps: int):
    def loss(logits: Array, owners: Array) -> Array:
        return -jnp.log(jax.vmap(partial(order_ratio, levels=levels))(logits, owners)).sum()

    adam = optax.adam(optax.cosine_decay_schedule(0.15, steps))

    @jax.jit
    def ascend(logits: Array, owners: Array) -> tuple[Array, Array]:
        def step(state: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
            x, moments = state
            ahead: Any
            ahead, moments = adam.update(jax.grad(loss)(x, owners), moments)
            return (jnp.clip(x + ahead, -15.0, 15.0), moments), None

        x, _ = jax.lax.scan(step, (logits, adam.init(logits)), None, length=steps)[0]
        return x, jax.vmap(partial(order_ratio, levels=levels))(x, owners)

    return ascend


def climb(
    n: int,
    rng: np.random.Generator,
    levels: int = LEVELS,
    points: int = POINTS,
    steps: int = STEPS,
    before: Stage | None = None,
) -> Stage:
    """The best of many trees of n agents: half of them owned in order, by intervals of their contexts, half by chance.

    Args:
      before: a stage of n − 1 agents; a quarter of the points are this one, disturbed, with one more agent put in between.
    """
    contexts = 2**levels - 1
    owners = rng.integers(0, n, (points, contexts))
    place = in_order(levels)
    for b in range(points // 2):
        cuts = np.sort(rng.choice(contexts - 1, n - 1, replace=False)) + 1
        owners[b] = np.searchsorted(cuts, place, side="right")
    start = rng.normal(0.0, 2.0, (points, 2, contexts, 2))
    if before is not None:
        rows = np.stack([np.asarray(before.current), np.asarray(before.target)])
        for b in range(3 * points // 4, points):
            new, owner = rng.integers(0, n), np.asarray(before.team.active)
            owners[b] = np.where(rng.random(contexts) < 0.2, new, owner + (owner >= new))
            start[b] = np.log(rows + 1e-6) + rng.normal(0.0, 0.5, rows.shape)
    logits, ratios = _program(levels, steps)(jnp.asarray(start), jnp.asarray(owners))
    best = int(np.argmax(ratios))
    rows = np.asarray(jax.nn.softmax(logits[best]))
    rows = np.where(rows < LEAST, 0.0, np.where(rows > 1 - LEAST, 1.0, rows))
    return tree_stage(owners[best], rows[0], rows[1], n)


def enclosed_ratio(stage: Stage) -> tuple[arb, bool]:
    """The ratio as a ball, and whether the stage keeps what is proved: `H² ≤ √(Σ fresh · Σ fresh in the opposite order)`."""
    other = Stage(stage.team, stage.current, stage.target, jnp.asarray(np.asarray(stage.order)[::-1]))
    with precisely():
        whole, fresh = order_distances(Solved(exact_stage(stage)))
        _, back = order_distances(Solved(exact_stage(other)))
        both = arb(sum(fresh)), arb(sum(back))
        return arb(whole) / both[0], not bool(arb(whole) ** 2 > both[0] * both[1])


def run(
    quick: bool, rng: np.random.Generator, lock: AbstractContextManager[Any] | None = None, levels: int = LEVELS
) -> tuple[Row, OrderRatios]:
    """Violations: a stage that breaks what is proved, a tree whose ratio is not `1/D_m` or is below `(m+2)/2`."""
    started = time.perf_counter()
    sizes = SIZES[:2] if quick else SIZES
    wrong, stages, ratios = 0, [], []
    for n in sizes:
        with lock or nullcontext():
            effort = (3, 32, 300) if quick else (levels, POINTS, STEPS)
            stages.append(climb(n, rng, *effort, before=stages[-1] if stages else None))
        ratio, holds = enclosed_ratio(stages[-1])
        wrong += not holds
        ratios.append(float(ratio))
    with precisely():
        costs = in_order_costs(DEPTH)
        wrong += sum(not bool(cost * (m + 2) <= 2) for m, cost in enumerate(costs) if m)
        trees = np.array([float(1 / cost) for cost in costs])
    built = range(1, 3 if quick else 5)
    for m in built:
        ratio, holds = enclosed_ratio(in_order_stage(m))
        wrong += not holds or abs(float(ratio) - trees[m]) > 1e-9
    found = OrderRatios(sizes, np.array(ratios), stages, trees, wrong)
    said = ", ".join(f"{n}: {ratio:.3f}" for n, ratio in zip(sizes, ratios, strict=True))
    row = Row(
        "S11", "", "enclosed", len(sizes) + len(built), int(wrong), 0, None, None, seconds=time.perf_counter() - started,
        checks=2 * (len(sizes) + len(built)) + DEPTH,
        note=(
            "along one order alone the ratio H²(P⁰,Pⁿ)/Σ_k H²(P^{k−1},P^k) has no bound: trees read in order have "
            f"1/D_m ≥ (m+2)/2 with n = 2^{{m+1}}−1 agents (n = 3, 7, 15, 31: {', '.join(f'{x:.3f}' for x in trees[1:5])}). "
            f"Largest found by ascent over trees of {3 if quick else levels} levels, enclosed, n = {said}"
        ),
    )  # fmt: skip
    return row, found


def order_figure(found: OrderRatios, path: Path) -> Path:
    """The ratio against n: found, of the trees read in order, what is proved of them, and n itself."""
    figure, axes = panels(1, 1, (7, 4.2))
    ax = axes[0, 0]
    agents = 2.0 ** np.arange(1, found.trees.size + 1) - 1
    ax.semilogx(agents, found.trees, "-", color="#1b7837", label="trees read in order, exact: 1/D$_m$")
    ax.semilogx(agents, (np.log2(agents + 1) + 1) / 2, ":", color="#1b7837", label="(log₂(n+1)+1)/2, proved below it")
    ax.semilogx(found.sizes, found.ratios, "o", color="#b2182b", label="found by ascent, enclosed")
    few = agents[agents < 16]
    ax.semilogx(few, few, "k--", lw=0.8, label="n, above which nothing can be")
    ax.set(xlabel="n", ylabel="H²(P⁰,Pⁿ) / Σ$_k$ H²(P$^{k−1}$,P$^k$)", ylim=(0, found.trees.max() + 1))
    ax.set_title("Along one order: no absolute constant", fontsize=LEGEND + 1)
    ax.set_xticks([2, 8, 64, 1024, 2**15, 2**20], ["2", "8", "64", "2¹⁰", "2¹⁵", "2²⁰"])
    ax.minorticks_off()
    ax.legend(fontsize=LEGEND)
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    row, found = run(tier.quick, rng, lock)
    return Found((row,), {"orders.png": partial(order_figure, found)})


STUDY = Study("one order alone", {"S11": ""}, _job, figures={"orders.png": ("S11",)})
