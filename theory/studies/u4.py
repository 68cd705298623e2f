"""U4, tied rows × schedule: where do new rollouts beat old ones, in how many updates, and by how much?

Three schedules on the same random teams (theory/constructions/tied.py), exact: fresh rollouts, the occupancy of old ones with
current advantages (the paper's stale surrogate), old ones as they are (cached). Derivation: theory/derivations/u4.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax.records import dump
from teamtr_jax.schedules import Schedule, fresh, joint, once, stale_occupancy
from teamtr_jax.stage import run_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import kl_constrained, value_weighted
from teamtr_jax.types import Step, Team
from theory.constructions.tied import DriftSizes, crossing_gains, drift_teams, factor_of
from theory.figures import COLOURS, LEGEND, panels, save
from theory.ledger import Row
from theory.studies.base import Found, Study, write
from theory.tiers import Tier

__all__ = ["STUDY", "GROUPS", "LABELS", "RADII", "Cell", "TiedMap", "as_dict", "cell", "crossings", "play", "run",
           "tied_figure"]  # fmt: skip

LABELS: tuple[int | None, ...] = (1, 2, 4, None)
"""Observations of an agent; `None`: all contexts are told apart."""
RADII = (0.01, 0.1, 0.5)
"""δ per agent, nats: of drift teams summed over the episode, of random ones a mean over the occupancy."""
SCHEDULES = {"fresh": fresh, "stale": stale_occupancy, "cached": once}
TEAMS, MANY, STAGES = 60, 200, 4
WORSE = 1e-12
"""An update or stage is worse if J falls by more; J is of the order of one, and rounding a thousandth of this."""
RANDOM = (12, 3, 3)
"""States, actions, agents of the random teams; γ = .9."""
STEPS = (Fraction(1, 4), Fraction(1, 8), Fraction(1, 64), Fraction(1, 4096))
FACTORS = (Fraction(11, 10), Fraction(2), Fraction(10), Fraction(10**6))


Teams = tuple[Team, Array]
"""A batch of teams and their policies."""


def _drift(coherence: float, forget: float, rng: np.random.Generator, teams: int, labels: int | None) -> Teams:
    return drift_teams(rng, teams, labels or DriftSizes().positions, coherence, forget)


def _random(rng: np.random.Generator, teams: int, labels: int | None) -> Teams:
    states, actions, agents = RANDOM
    stages = random_stages(rng, teams, states, actions, agents, 0.9, branching=3, observations=labels)
    if labels is None:
        apart = jnp.tile(jnp.arange(states), (teams, 1))
        return replace(stages.team, observation=apart), stages.current
    return stages.team, stages.current


GROUPS: dict[str, Callable[[np.random.Generator, int, int | None], Teams]] = {
    "drift": partial(_drift, 1.0, 0.0),
    "drift, random signs": partial(_drift, 0.0, 0.0),
    "drift, forgets": partial(_drift, 1.0, 0.3),
    "random": _random,
}
"""Drift teams: pushes the same way, pushes in random directions, a position lost with probability .3 a turn; Garnet teams."""


class Cell(NamedTuple):
    """One schedule on one batch of teams. Each number with its 95 % bootstrap interval over the teams: (value, low, high)."""

    updates: tuple[float, float, float]  #: share of the updates after which J is smaller
    stages: tuple[float, float, float]  #: of the stages
    lost: tuple[float, float, float]  #: 1 − growth of J over that with new rollouts, means over teams


Place = tuple[str, int | None, float, str]
"""Group, labels, radius, schedule."""


class TiedMap(NamedTuple):
    """`cells` by group, labels, radius and schedule."""

    teams: int
    stages: int
    cells: dict[Place, Cell]


def play(team: Team, policy: Array, step: Step, schedule: Schedule, stages: int) -> np.ndarray:
    """``[stages, n + 1, N]``: J before the first update of a stage and after each. The agents in turn, the first one first."""
    backend = exact_backend(team, step, audit=False)

    def objectives(states: list[Any], records: Any, schedule: Any) -> dict[str, Any]:
        found = np.stack([np.asarray(backend.rollout(state, None).objective) for state in states])
        return {"before": found[:-1], "after": found[1:]}

    backend, state, out = backend._replace(audit=objectives), team_state(team, policy), []
    for _ in range(stages):
        state, records = run_stage(backend, state, range(team.agents), schedule)
        exact = [record.exact or {} for record in records]
        out.append(np.stack([exact[0]["before"], *(x["after"] for x in exact)]))
    return np.stack(out)


def cell(j: np.ndarray, renewed: np.ndarray, rng: np.random.Generator, repeats: int = 1000) -> Cell:
    """What `play` found under a schedule, beside what it found of the same teams on new rollouts."""
    updates = (np.diff(j, axis=1) < -WORSE).mean((0, 1))
    stages = (j[:, -1] - j[:, 0] < -WORSE).mean(0)
    gain, best = j[-1, -1] - j[0, 0], renewed[-1, -1] - renewed[0, 0]
    picks = rng.integers(0, len(gain), (repeats, len(gain)))

    def spread(statistic: Callable[[Any], np.ndarray]) -> tuple[float, float, float]:
        low, high = np.quantile(statistic(picks), [0.025, 0.975])
        return float(statistic(slice(None))), float(low), float(high)

    return Cell(
        spread(lambda pick: updates[pick].mean(-1)),
        spread(lambda pick: stages[pick].mean(-1)),
        spread(lambda pick: 1 - gain[pick].mean(-1) / best[pick].mean(-1)),
    )


def crossings() -> tuple[int, int]:
    """Stages of the crossing in rationals, every history written out: (numbers that differ from the closed form, numbers)."""
    wrong = checks = 0
    half = Fraction(1, 2)

    def objective(to_x: Fraction, first: Fraction, tilt: Fraction, lead: Fraction) -> Fraction:
        """`first`: probability of agent 1's action 1."""
        return (1 - to_x) * (lead + tilt / 2) + to_x * first + (1 - to_x) * (1 - first) * (1 - tilt)

    for step in STEPS:
        for tilt in (step / 2, step / 64):
            for factor in FACTORS:
                lead = factor_of(step, tilt, factor)
                stated = crossing_gains(step, tilt, lead)
                start, moved = (objective(half - way, half, tilt, lead) for way in (0, step))
                old, new = (objective(half - step, half + way, tilt, lead) - moved for way in (step, -step))
                promised = step * (half - half * (1 - tilt))  # on the occupancy (½, ½)
                found = (moved - start, promised, old, new)
                wrong += sum(a != b for a, b in zip(found, stated, strict=True))
                wrong += (moved + new - start) != factor * (moved + old - start)
                wrong += not (promised > 0 > old and moved > start)
                checks += 6
    return wrong, checks


def _theorems(j: np.ndarray, stage_only: bool = False) -> tuple[int, int]:
    """(Updates, or stages, that are worse; how many there are) where a theorem says that none is."""
    change = j[:, -1] - j[:, 0] if stage_only else np.diff(j, axis=1)
    return int((change < -WORSE).sum()), change.size


def run(
    rng: np.random.Generator,
    lock: AbstractContextManager[Any] | None = None,
    teams: int = TEAMS,
    stages: int = STAGES,
    groups: tuple[str, ...] = tuple(GROUPS),
    radii: tuple[float, ...] = RADII,
) -> tuple[Row, TiedMap | None]:
    """The ledger row and the map; `teams = 0`: the crossing alone, and no map.

    Violations: numbers of the crossing that differ from its closed form; where all contexts are told apart, fresh or stale
    updates and cached stages (turn-taking) that lose (U2); value-weighted updates on new rollouts, and stages of all agents at
    once, that lose (S9, pooled).
    """
    started = time.perf_counter()
    wrong, checks = crossings()
    cells: dict[Place, Cell] = {}
    seed = int(rng.integers(2**32))
    with lock or nullcontext():
        for group in groups if teams else ():
            for labels in LABELS:
                made = GROUPS[group](np.random.default_rng(seed), teams, labels)  # the same teams, whatever they see
                for radius in radii:
                    found = {name: play(*made, kl_constrained(radius), s, stages) for name, s in SCHEDULES.items()}
                    for name, j in found.items():
                        cells[group, labels, radius, name] = cell(j, found["fresh"], rng)
                        if labels is None:
                            more = _theorems(j, name == "cached")
                            wrong, checks = wrong + more[0], checks + more[1]
                for schedule in (fresh, joint):
                    more = _theorems(play(*made, value_weighted(), schedule, stages), schedule is joint)
                    wrong, checks = wrong + more[0], checks + more[1]
    found = TiedMap(teams, stages, cells) if teams else None
    crossed, drawn = len(STEPS) * 2 * len(FACTORS), teams * len(groups) * len(LABELS)
    row = Row(
        "U4", "tied rows: exact current advantages on an old occupancy can lose at every radius, and a fresh stage gains any "
        "factor more than a stale or cached one; pooled value-weighted updates never lose", "float" if teams else "exact",
        drawn or crossed, wrong, 0, None, None, seconds=time.perf_counter() - started, checks=checks,
        exact=crossed if teams else 0, exact_kind="exact" if teams else "", note=_note(found),
    )  # fmt: skip
    return row, found


def _text(x: tuple[float, float, float]) -> str:
    return f"{100 * x[0]:.1f} [{100 * x[1]:.1f}, {100 * x[2]:.1f}] %"


def _note(found: TiedMap | None) -> str:
    said = (
        "crossing: two agents, two rows, rational; a fresh stage gains "
        f"{', '.join(f'{float(x):g}' for x in FACTORS)} times what a stale or cached one does, in which agent 1's update "
        f"promises a gain and loses, ε = {float(STEPS[0]):g} … {float(STEPS[-1]):g} for both"
    )
    if found is None:
        return said
    shown, radius = [], RADII[1] if any(key[2] == RADII[1] for key in found.cells) else next(iter(found.cells))[2]
    for group in dict.fromkeys(key[0] for key in found.cells):
        blind, apart = ({name: found.cells[group, k, radius, name] for name in SCHEDULES} for k in (1, None))
        lost = ", ".join(f"{name} {_text(blind[name].lost)}" for name in ("stale", "cached"))
        worse = ", ".join(f"{name} {_text(x.updates)}" for name, x in blind.items())
        most = max(100 * abs(x.lost[0]) for x in apart.values())
        shown.append(
            f"{group}: lost {lost}, updates worse {worse}; all told apart: lost {most:.1f} % at most, either way"
        )
    return (
        f"{said}. Map: {found.teams} teams a cell, {found.stages} stages, exact KL-constrained steps, radius per agent held "
        f"fixed. Growth of J lost against new rollouts at δ = {radius:g} by agents that see one label: "
        + "; ".join(shown)
    )


def as_dict(x: TiedMap) -> dict[str, Any]:
    """The map for JSON."""
    cells = [
        {"group": group, "observations": labels, "radius": radius, "schedule": name} | found._asdict()
        for (group, labels, radius, name), found in x.cells.items()
    ]
    return {"teams": x.teams, "stages": x.stages, "interval": "95 %, bootstrap over teams", "cells": cells}


def tied_figure(x: TiedMap, path: Path) -> Path:
    """Growth lost against new rollouts, and updates that lose, over the number of observations; a column for each group."""
    groups, labels, radii, _ = (list(dict.fromkeys(column)) for column in zip(*x.cells, strict=True))
    figure, axes = panels(2, len(groups), (9.8, 5.8), sharex=True, sharey="row")
    for column, group in enumerate(groups):
        for radius, style in zip(radii, (":", "--", "-"), strict=False):
            for name in SCHEDULES:
                for row, field in enumerate(("lost", "updates")):
                    if field == "lost" and name == "fresh":
                        continue
                    found = 100 * np.array([getattr(x.cells[group, k, radius, name], field) for k in labels])
                    ax, places, label = axes[row, column], np.arange(len(labels)), f"{name}, δ = {radius:g}"
                    ax.plot(places, found[:, 0], "o" + style, ms=3, color=COLOURS[name], label=label)
                    ax.fill_between(places, found[:, 1], found[:, 2], color=COLOURS[name], alpha=0.1, linewidth=0)
        axes[0, column].set_title(group, fontsize=LEGEND + 1)
        axes[0, column].axhline(0, color="grey", lw=0.7)
        axes[1, column].set_xticks(range(len(labels)), ["all" if k is None else str(k) for k in labels])
        axes[1, column].set_xlabel("observations of an agent")
    axes[0, 0].set_ylabel("growth of J lost\nagainst new rollouts, %")
    axes[1, 0].set_ylabel("updates that lose, %")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), fontsize=LEGEND, loc="outside lower center", ncols=3)
    figure.suptitle(f"U4 tied rows × schedule: {x.teams} teams a point, {x.stages} stages, exact", fontsize=12)
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    row, found = run(rng, lock, 0 if tier.quick else MANY if tier.thorough else TEAMS)
    if found is None:
        return Found((row,))
    return Found((row,), {
        "tied.png": partial(tied_figure, found), "tied.json": lambda path: write(dump(as_dict(found)), path)
    })  # fmt: skip


STUDY = Study("tied rows", {
    "U4": "Where contexts share a row, old rollouts alone can make an update lose, and new ones can win by any factor.",
}, _job, figures={"tied.png": ("U4",)})  # fmt: skip
