"""Ways to train, by name: schedule × order × update × how rollouts are used. A row of a table is one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from experiments.tabular.families import Family
from teamtr_jax.sampled import Advantage, Sampling, prompts_per_set, sampled_backend
from teamtr_jax.schedules import (
    Order,
    Schedule,
    certificate_driven,
    every,
    fresh,
    greedy,
    importance_weighted,
    joint,
    once,
    random_order,
    reverse,
    single,
)
from teamtr_jax.stage import Backend
from teamtr_jax.tabular import exact_backend
from teamtr_jax.trust_region import certificate_optimal, kl_constrained, natural_gradient, ppo_clip, value_weighted
from teamtr_jax.types import Step
from teamtr_jax.values import return_range

__all__ = ["Row", "FULL", "GROUP", "ABLATION", "EXACT", "EPOCHS", "RADIUS", "backend_of", "driven", "exact_step", "ppo"]

RADIUS = 0.01
"""`δ` per agent, the paper's default (nats; `E_d KL(current‖new)`, of an episodic team summed over the episode)."""

EPOCHS = 40
"""Gradient steps of a PPO update; the KL monitor is read after each."""


@dataclass(frozen=True)
class Row:
    """One way to train. `step`, `schedule` and `order` are made for a family, because some need γ, ϱ or n."""

    name: str
    step: Callable[[Family], Step]
    schedule: Callable[[Family], Schedule] = lambda family: fresh
    order: Callable[[Family], Order | Sequence[int]] = lambda family: range(family.team.agents)
    sampling: dict[str, Any] | None = None  #: options of `Sampling`; `None`: exact tables
    paper: float | None = None  #: the paper's accuracy on AIME24, for comparison only (Table 2b, 9)
    note: str = ""


def ppo(**options: Any) -> Callable[[Family], Step]:
    """The paper's update: PPO-clip, adaptive β, early stop or backtrack on the monitor."""
    settings = {"radius": RADIUS, "target": RADIUS / 2, "epochs": EPOCHS, "learning_rate": 0.05, "backtracks": 6}
    settings |= options
    return lambda family: ppo_clip(**settings)


def exact_step(radius: float = RADIUS) -> Callable[[Family], Step]:
    """U1 with `E_d KL(current‖new) ≤ δ`."""
    return lambda family: kl_constrained(radius)


def _certificate_optimal(family: Family) -> Step:
    """With the greatest ϱ of the batch: S7 certifies every team; one with a smaller ϱ steps less far than it allows."""
    return certificate_optimal(float(np.asarray(jax.vmap(return_range)(family.team)).max()))


def driven(tolerance: float) -> Callable[[Family], Schedule]:
    """Certificate-driven resampling with this tolerance on the certified shift."""
    return lambda family: certificate_driven(tolerance, family.discount)


GROUP: dict[str, Any] = {"group": 8, "advantage": "group_normalised", "advantage_clip": 5.0}
FULL = Row("full", ppo(), sampling=GROUP, paper=88.1, note="fresh rollouts, adaptive β, early stop at δ = .01")

ABLATION: tuple[Row, ...] = (
    FULL,
    replace(FULL, name="adaptive KL only", step=ppo(radius=np.inf), paper=84.9, note="no early stop"),
    replace(
        FULL, name="fixed KL only", step=ppo(radius=np.inf, adaptive=False), paper=80.7, note="β = 1, no early stop"
    ),
    replace(FULL, name="resample every 2nd", schedule=lambda family: every(2), paper=79.3, note=""),
    replace(
        FULL,
        name="importance weights",
        schedule=lambda family: importance_weighted(),
        paper=74.5,
        note="of whole paths",
    ),
    replace(
        FULL,
        name="importance weights ≤ 5",
        schedule=lambda family: importance_weighted(5.0),
        paper=None,
        note="truncated",
    ),
    replace(FULL, name="no resampling", schedule=lambda family: once, paper=71.1, note="one set of rollouts a stage"),
    replace(
        FULL, name="no trust region", step=ppo(radius=np.inf, adaptive=False, beta=0.0), paper=68.3, note="clip only"
    ),
    replace(FULL, name="δ = .001", step=ppo(radius=0.001, target=0.0005), paper=82.5, note=""),
    replace(FULL, name="δ = .1", step=ppo(radius=0.1, target=0.05), paper=75.1, note=""),
    replace(FULL, name="order reverse", order=lambda family: reverse(family.team.agents), paper=86.9, note=""),
    replace(FULL, name="order random", order=lambda family: random_order, paper=87.5, note=""),
    replace(FULL, name="order greedy", order=lambda family: greedy, paper=None, note="by predicted gain"),
    replace(
        FULL,
        name="no group norm",
        sampling={**GROUP, "advantage": "centred"},
        paper=83.1,
        note="R_g − mean of the others",
    ),
    replace(FULL, name="no clip", step=ppo(clip=None), paper=84.5, note="ratios not clipped"),
    replace(FULL, name="joint", schedule=lambda family: joint, paper=None, note="all agents at once"),
    replace(FULL, name="single agent", order=lambda family: single(0), paper=None, note="agent 0 takes every update"),
    replace(
        FULL,
        name="certificate-driven",
        schedule=driven(0.25),
        paper=None,
        note="resample when the certified shift > .25",
    ),
    replace(FULL, name="exact step", step=exact_step(), paper=None, note="U1 on sampled advantages"),
    replace(
        FULL, name="natural gradient", step=lambda family: natural_gradient(RADIUS), paper=None, note="KL line search"
    ),
)

EXACT: tuple[Row, ...] = (
    Row("fresh", exact_step()),
    Row("every 2nd", exact_step(), schedule=lambda family: every(2)),
    Row("certificate-driven (exact)", exact_step(), schedule=driven(0.25)),
    Row("once (cached)", exact_step(), schedule=lambda family: once),
    Row("joint (exact)", exact_step(), schedule=lambda family: joint),
    Row("single agent (exact)", exact_step(), order=lambda family: single(0)),
    Row("greedy order", exact_step(), order=lambda family: greedy),
    Row("certificate-optimal radius", _certificate_optimal),
    Row("value-weighted (S9)", lambda family: value_weighted()),
)


def backend_of(row: Row, family: Family, budget: int) -> Backend:
    """The backend of a row; a sampled one splits `budget` rollouts a stage among the sets that its schedule may ask for."""
    if row.sampling is None:
        return exact_backend(family.team, row.step(family))
    options = dict(row.sampling)
    prompts = prompts_per_set(budget, row.schedule(family), family.team.agents, options["group"])
    advantage: Advantage = options.pop("advantage")
    return sampled_backend(family.team, row.step(family), Sampling(prompts, advantage=advantage, **options))
