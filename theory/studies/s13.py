"""S13: the constant of the discounted S7, `c(γ) = sup |J'−J−L|/(ϱK)` over all worlds and policies, between both sides.

From below: stages, decided exactly (`theory.constructions.discounted`). From above: ball arithmetic (`s13_upper`), or 1 (S7).
Between them the recursion (`s13_recursion`), which is no proof.
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

from teamtr_jax.exact import exact_pairs, precisely, rational
from teamtr_jax.types import Stage
from theory.constructions.discounted import (
    Decisions,
    coin_sizes,
    coins_ratio,
    decision_stage,
    paid_door_ratio,
    paid_door_stage,
)
from theory.figures import LEGEND, panels, save
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.studies.s13_recursion import recursion_constant
from theory.studies.s13_upper import Upper, upper_constant
from theory.tiers import Tier

__all__ = ["STUDY", "Constants", "climb", "constant_figure", "door", "run", "sure_ratio"]

GAMMAS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9)
CERTIFIED = (0.01, 0.1, 0.25)
"""Where a bound below 1 is decided."""
SOLVED = (0.1, 0.25, 0.5)
"""Where the grid of the recursion is fine enough."""
COINS = 8
DEPTH = 7


class Constants(NamedTuple):
    """Both sides for each γ; floats below the enclosed ratio of a stage, and at or above the decided constant."""

    gammas: tuple[float, ...]
    doors: NDArray[np.float64]
    coins: NDArray[np.float64]  #: limit of small steps
    trees: NDArray[np.float64]
    solved: dict[float, float]  #: γ → root of the recursion, floats
    upper: dict[float, Upper]
    stages: list[Stage]
    wrong: int

    @property
    def lower(self) -> NDArray[np.float64]:
        """The largest of the three; that of the coins is a limit, which is not attained."""
        return np.stack([self.doors, self.coins, self.trees]).max(0)


def sure_ratio(stage: Stage) -> float:
    """A float that is below `|gap|/(ϱK)` of the update of a stage with one agent, from balls."""
    ((gap, bound),) = exact_pairs(jax.tree.map(np.asarray, stage), "penalty_log_sum")
    with precisely():
        return float((arb(gap) / arb(bound)).lower()) * (1 - 2.0**-50)


def door(gamma: float) -> float:
    """The ε of the paid door with the largest ratio, on a grid."""
    steps = np.geomspace(1e-4, 0.9, 400)
    return float(steps[np.argmax([float(paid_door_ratio(x, gamma)) for x in steps])])


def tree_ratio(logits: Array, gamma: Array, depth: int) -> Array:
    """`G/K` of a tree of decisions; `logits` [2, contexts, 3] of the old and of the new rows, the third action opens."""
    old, rows = jax.nn.softmax(logits[0, :, :2]), jax.nn.softmax(logits[1])
    new, opened = rows[:, :2], rows[:, 2]
    mass, ratio, gain = jnp.ones(1), jnp.ones(1), jnp.zeros(1)
    gap = kl = jnp.zeros(())
    for t in range(depth):
        here, weight = slice(2**t - 1, 2 ** (t + 1) - 1), gamma**t
        u = new[here] / old[here] - 1
        kl -= weight * mass @ (old[here] * jnp.log1p(u)).sum(-1)
        gap += weight * (mass * opened[here]) @ ((1 - gamma) * jnp.maximum(ratio - 1, 0.0) + gamma * ratio)
        gain = (gain[:, None] + (ratio - 1)[:, None] * u).ravel()
        ratio, mass = (ratio[:, None] * (1 + u)).ravel(), (mass[:, None] * old[here]).ravel()
        gap += (weight if t == depth - 1 else (1 - gamma) * weight) * mass @ jnp.maximum(gain, 0.0)
    return gap / kl


@lru_cache
def _program(depth: int, steps: int):
    adam = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def loss(logits: Array, gamma: Array) -> Array:
        return -jnp.log(jax.vmap(tree_ratio, (0, None, None))(logits, gamma, depth)).sum()

    @jax.jit
    def ascend(logits: Array, gamma: Array) -> tuple[Array, Array]:
        def step(state: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
            x, moments = state
            slope = jax.grad(loss)(x, gamma)
            ahead: Any
            ahead, moments = adam.update(jnp.where(jnp.isfinite(slope), slope, 0.0), moments)
            return (jnp.clip(x + ahead, -20.0, 20.0), moments), None

        x, _ = jax.lax.scan(step, (logits, adam.init(logits)), None, length=steps)[0]
        return x, jax.vmap(tree_ratio, (0, None, None))(x, gamma, depth)

    return ascend


def climb(gamma: float, rng: np.random.Generator, depth: int = DEPTH, points: int = 32, steps: int = 1_200) -> Stage:
    """The best of many trees of decisions; a quarter of the points begin near coins."""
    contexts = 2**depth - 1
    start = rng.normal(size=(points, 2, contexts, 3))
    start[:, 1, :, 2] -= rng.uniform(0.0, 8.0, (points, 1))
    moves = np.repeat(np.minimum(0.2 * coin_sizes(depth, gamma), 0.9), 2 ** np.arange(depth))
    near = points // 4
    start[:near] *= 0.02
    start[:near, 1, :, :2] += np.log1p(np.stack([moves, -moves], -1))
    start[:near, 1, :, 2] -= 12.0
    logits, ratios = _program(depth, steps)(jnp.asarray(start), jnp.asarray(gamma))
    best = int(jnp.nanargmax(ratios))
    old, rows = (np.asarray(jax.nn.softmax(x)) for x in (logits[best, 0, :, :2], logits[best, 1]))
    return decision_stage(Decisions(old, rows[:, :2]), gamma)


def run(
    quick: bool, rng: np.random.Generator, lock: AbstractContextManager[Any] | None = None
) -> tuple[Row, Constants]:
    """Violations: a stage above what is decided, a closed form that is not the ratio of its stage, doors not above γ."""
    started = time.perf_counter()
    gammas = GAMMAS[:2] if quick else GAMMAS
    effort: dict[str, Any] = {"depth": 4, "points": 16, "steps": 300} if quick else {}
    doors, coins, trees, stages, wrong = [], [], [], [], 0
    for gamma in gammas:
        step = door(gamma)
        doors.append(sure_ratio(paid_door_stage(step, gamma)))
        wrong += abs(doors[-1] - float(paid_door_ratio(step, gamma))) > 1e-9 or doors[-1] <= gamma
        coins.append(float(arb(coins_ratio(coin_sizes(4 if quick else COINS, gamma), gamma))))
        with lock or nullcontext():
            stages.append(climb(gamma, rng, **effort))
        trees.append(sure_ratio(stages[-1]))
    with lock or nullcontext():
        solved = {} if quick else {g: recursion_constant(g, trees[gammas.index(g)]) for g in gammas if g in SOLVED}
    upper = {}
    for gamma in CERTIFIED[:1] if quick else CERTIFIED:
        found = upper_constant(rational(gamma))
        if found is not None:
            upper[gamma] = found
    constants = Constants(gammas, np.array(doors), np.array(coins), np.array(trees), solved, upper, stages, 0)
    above = [float(arb(upper[g].constant)) if g in upper else 1.0 for g in gammas]
    wrong += sum(low > high for low, high in zip(constants.lower, above, strict=True))

    def sides(k: int, gamma: float) -> str:
        middle = f"; recursion {solved[gamma]:.3f} (float)" if gamma in solved else ""
        top = f"{above[k]:.4f}" if gamma in upper else "1 (S7)"
        return (
            f"γ = {gamma:g}: doors {doors[k]:.4f}, coins → {coins[k]:.4f}, tree {trees[k]:.4f}{middle}; at most {top}"
        )

    row = Row(
        "S13", "γ < c(γ) = sup |J'−J−L|/(ϱK) ≤ 1; c(γ) < 1 decided for small γ; ≥ √γ·cos(π/(D+1)) as γ → 0", "enclosed",
        3 * len(gammas), int(wrong), 0, float(constants.lower.max()), None, seconds=time.perf_counter() - started,
        checks=3 * len(gammas) + len(upper), note="; ".join(sides(k, g) for k, g in enumerate(gammas)),
    )  # fmt: skip
    return row, constants._replace(wrong=int(wrong))


def constant_figure(found: Constants, path: Path) -> Path:
    """c(γ) over γ: what is attained, what is decided from above, the recursion; √γ and √(γ/(1−γ)) beside them."""
    figure, axes = panels(1, 2, (9.6, 4.6))
    fine = np.geomspace(min(found.gammas) / 2, 0.99, 200)
    scale = np.sqrt(np.array(found.gammas))
    for ax, divided in zip(axes[0], (False, True), strict=True):
        by, over = (scale, np.sqrt(fine)) if divided else (np.ones_like(scale), np.ones_like(fine))
        for name, label, style in (
            ("doors", "paid doors (lower, enclosed)", "v:"), ("coins", "coins, small steps (lower, exact limit)", "s:"),
            ("trees", "trees of decisions (lower, enclosed)", "o-"),
        ):  # fmt: skip
            ax.plot(found.gammas, getattr(found, name) / by, style, ms=4, label=label)
        if found.solved:
            g = np.array(list(found.solved))
            ax.plot(
                g,
                np.array(list(found.solved.values())) / (np.sqrt(g) if divided else 1),
                "kx",
                label="recursion (float)",
            )
        if found.upper:
            g = np.array(list(found.upper))
            top = np.array([float(arb(x.constant)) for x in found.upper.values()])
            ax.plot(g, top / (np.sqrt(g) if divided else 1), "^", color="#b2182b", label="upper, decided in balls")
        ax.plot(fine, 1 / over, "-", color="#888888", lw=0.8, label="1, S7")
        ax.plot(fine, np.sqrt(fine / (1 - fine)) / over, "--", color="#888888", lw=0.8, label="√(γ/(1−γ)), small steps")
        ax.plot(fine, fine / over, "-.", color="#888888", lw=0.8, label="γ")
        ax.set(xlabel="γ", xscale="log" if divided else "linear", ylim=(0, 1.6 if divided else 1.05))
        ax.set_title("c(γ)/√γ" if divided else "c(γ)", fontsize=LEGEND + 1)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=LEGEND, ncols=3, loc="outside lower center")
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    row, found = run(tier.quick, rng, lock)
    return Found((row,), {"constant.png": partial(constant_figure, found)})


WORDS = "How small the constant of the discounted log-sum bound can be made: above γ at every γ, below 1 for small γ."
STUDY = Study("constant of S7", {"S13": WORDS}, _job, figures={"constant.png": ("S13", "S7")})
