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


def _relay_bounds(ax: Any, relay: RelayCurves) -> None:
    """The signed cached sum of the relay between S10, which is sharp for it, and S7c, whose rate is another one."""
    n, scale = relay.sizes, relay.steps[0] ** 2
    labels = {"S7c": "S7c: ϱ·ΣK, linear", "S10": "S10: sd(R)·√(eˣ−1−X)", "signed": "Σ cached gap: 2n²−n"}
    for name, colour in (("S7c", "#1b7837"), ("S10", "#2166ac"), ("signed", COLOURS["cached"])):
        ax.loglog(n, relay.bounds[name][0] / scale, "o-", ms=4, color=colour, label=labels[name])
    ax.set(
        title=f"R1 coherent relay, p = ε = {relay.steps[0]:g}: the signed\nerror of a stage on one batch, and two bounds on it",
        xlabel="agents n", ylabel="Σᵢ cached gapᵢ / ε², and bounds",
    )  # fmt: skip


def _relay_shares(ax: Any, relay: RelayCurves) -> None:
    """What share of S10's bound the signed cached sum is, and its limit as p → 0."""
    n = relay.sizes
    for at, style in enumerate(("o-", "o--", "o:")):
        share = relay.bounds["signed"][at] / relay.bounds["S10"][at]
        ax.semilogx(n, share, style, ms=4, color="#2166ac", label=f"p = ε = {relay.steps[at]:g}")
    limit = [float(x.squared_share) ** 0.5 for x in relay.leading]
    ax.semilogx(n, limit, "kx", label="p = ε → 0, exact: √(1−1/(2n))")
    ax.axhline(1, lw=0.7, color="grey")
    ax.set(
        title="R1 coherent relay: the signed error of a stage\nas a share of S10's bound (1: attained)",
        xlabel="agents n", ylabel="Σᵢ cached gapᵢ / bound",
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
    figure, axes = panels(3, 2, (10, 12.4))
    beside = axes[2][1]
    beside.axis("off")
    drawn = (_relay_sums, _relay_slopes, _relay_bounds, _relay_shares)
    for draw, ax in zip(drawn, axes.ravel(), strict=False):
        draw(ax, relay)
        agent_axis(ax, relay.sizes)
        ax.legend(fontsize=LEGEND)
    _random_sums(axes[2][0], random)
    agent_axis(axes[2][0], random.sizes)
    beside.legend(*axes[2][0].get_legend_handles_labels(), fontsize=LEGEND, loc="center left", title="R3, slope [95 %]")
    return save(figure, path)
