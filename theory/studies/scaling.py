"""R1, R3 and R7 side by side: how the gaps of a stage grow with n in a coherent, in random and in leaky teams."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from teamtr_jax.records import dump
from theory.figures import COLOURS, LEGEND, agent_axis, panels, save
from theory.studies import r1, r3, r7
from theory.studies.base import Found, Study, write
from theory.studies.r1 import RelayCurves
from theory.studies.r3 import HELD, RandomCurves
from theory.tiers import Tier

__all__ = ["STUDY", "scaling_figure"]

NAMES = ("cached", "stale", "fresh")
PAPER = {"fresh": 1.07, "stale": 1.94}
"""Slopes that the paper quotes (TeamTR, naive), for comparison only."""


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    relay_row, relay = r1.run((2, 3, 4, 6, 8, 16) if tier.quick else r1.SIZES)
    random_row, random = r3.run(100, rng, r3.SIZES[:3] if tier.quick else r3.SIZES, lock)
    map_row, regimes = r7.run(tier.quick, rng, lock, None if tier.quick else random, tier.thorough)
    return Found((relay_row, random_row, map_row), {
        "scaling.png": partial(scaling_figure, relay, random),
        "regimes.png": partial(r7.regime_figure, regimes),
        "regimes.json": lambda path: write(dump(r7.as_dict(regimes)), path),
    })  # fmt: skip


STUDY = Study("growth in n", {
    "R1": "In a team whose messages build on each other the stale gaps of a stage grow like n², the fresh ones like n.",
    "R3": "In random teams the stale gaps grow much more slowly than n²: signs cancel, mixing forgets.",
    "R7": "Quadratic growth needs agents that push together, a memory as long as the stage and a horizon that grows with n.",
}, _job, figures={"scaling.png": ("R1", "R3"), "regimes.png": ("R7",)})  # fmt: skip


def _relay_sums(ax: Any, relay: RelayCurves) -> None:
    n = relay.sizes
    for name in NAMES:
        slope = relay.slopes[name]
        label = f"{name}: slope {slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
        ax.loglog(n, relay.gaps[name][0] / relay.steps[0] ** 2, "o-", ms=4, color=COLOURS[name], label=label)
    few = n[n <= 8]
    for name, quoted in PAPER.items():
        line = relay.gaps[name][0][0] / relay.steps[0] ** 2 * (few / few[0]) ** quoted
        label = f"the paper's {quoted} ({name}, n ≤ 8)"
        ax.loglog(few, line, ":", lw=3, alpha=0.6, color=COLOURS[name], label=label)
    ax.set(
        title=f"R1 coherent relay, p = ε = {relay.steps[0]:g}\nepisode of 2n turns, outcome reward in [0, 1]",
        xlabel="agents n", ylabel="Σᵢ |gapᵢ| / ε²",
    )  # fmt: skip


def _relay_slopes(ax: Any, relay: RelayCurves) -> None:
    n = relay.sizes
    curves = [("stale", step, gap, style) for step, gap, style in
              zip(relay.steps, relay.gaps["stale"], ("-", "--", ":"), strict=False)]  # fmt: skip
    for name, step, gap, style in [*curves, ("fresh", relay.steps[0], relay.gaps["fresh"][0], "-")]:
        local = np.diff(np.log(gap)) / np.diff(np.log(n))
        between = np.sqrt(n[1:] * n[:-1])
        ax.semilogx(between, local, "o" + style, ms=4, color=COLOURS[name], label=f"{name}, p = ε = {step:g}")
    for level in (1, 2):
        ax.axhline(level, lw=0.7, color="grey")
    ax.set(
        title="R1 coherent relay: local slope, and where it bends\n(only while 2n·p ≪ 1 is it 2)",
        xlabel="agents n", ylabel="d log Σ|gap| / d log n", ylim=(-2, 4),
    )  # fmt: skip


def _random_sums(ax: Any, random: RandomCurves) -> None:
    for held, style in zip(HELD, ("--", "-"), strict=True):
        for name in NAMES:
            gaps, slope = random.gaps[held][name], random.slopes[held][name]
            label = f"{name}, fixed per {held}: {slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
            ax.loglog(random.sizes, gaps.mean(-1), "o" + style, ms=4, color=COLOURS[name], label=label)
            ax.fill_between(random.sizes, *np.quantile(gaps, [0.25, 0.75], axis=-1), alpha=0.08, color=COLOURS[name])
    ax.set(
        title="R3 random (Garnet) teams, γ = 0.9, one KL for each\nagent or message (band: middle half of the teams)",
        xlabel="agents n", ylabel="Σᵢ |gapᵢ|, mean over teams",
    )  # fmt: skip


def scaling_figure(relay: RelayCurves, random: RandomCurves, path: Path) -> Path:
    """Stage sums of |gap| against n, log-log: a coherent team, where quadratic is real, and random teams, where it is not."""
    figure, axes = panels(2, 2, (10, 8.6))
    beside = axes[1][1]
    beside.axis("off")
    _relay_sums(axes[0][0], relay)
    _relay_slopes(axes[0][1], relay)
    _random_sums(axes[1][0], random)
    for ax, sizes in zip(axes.ravel(), (relay.sizes, relay.sizes, random.sizes), strict=False):
        agent_axis(ax, sizes)
    for ax in axes[0]:
        ax.legend(fontsize=LEGEND)
    beside.legend(*axes[1][0].get_legend_handles_labels(), fontsize=LEGEND, loc="center left", title="R3, slope [95 %]")
    return save(figure, path)
