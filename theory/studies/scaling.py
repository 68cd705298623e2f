"""Figures, from saved numbers only."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from theory.studies.r1 import RelayCurves
from theory.studies.r3 import HELD, RandomCurves

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

__all__ = ["scaling_figure", "bound_figure"]

COLOURS = {"fresh": "#1b7837", "stale": "#b2182b", "cached": "#7b3294"}
PAPER = {"fresh": 1.07, "stale": 1.94}  # slopes quoted by the paper (TeamTR, naive), for comparison only


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, bbox_inches="tight")
    plt.close(figure)
    return path


def _agent_axis(ax, sizes: np.ndarray) -> None:
    ax.set_xticks([n for n in (2, 4, 8, 16, 32, 64, 128, 256) if n <= max(sizes)])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())


def scaling_figure(relay: RelayCurves, random: RandomCurves, path: Path) -> Path:
    """Stage sums of |gap| against n, log-log: a coherent team, where quadratic is real, and random teams, where it is not."""
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.3))
    n = relay.sizes
    ax = axes[0]
    for name in ("cached", "stale", "fresh"):
        slope = relay.slopes[name]
        label = f"{name}: slope {slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
        ax.loglog(n, relay.gaps[name][0] / relay.steps[0] ** 2, "o-", ms=4, color=COLOURS[name], label=label)
    for name, quoted in PAPER.items():
        start = relay.gaps[name][0][0] / relay.steps[0] ** 2
        few = n[n <= 8]
        ax.loglog(
            few,
            start * (few / few[0]) ** quoted,
            ":",
            lw=3,
            alpha=0.6,
            color=COLOURS[name],
            label=f"the paper's {quoted} ({name}, n ≤ 8)",
        )
    ax.set(
        title=f"R1 coherent relay, p = ε = {relay.steps[0]:g}\nepisode of 2n turns, outcome reward in [0, 1]",
        xlabel="agents n",
        ylabel="Σᵢ |gapᵢ| / ε²",
    )
    ax.legend(fontsize=7)

    ax = axes[1]
    for step, gap, style in zip(relay.steps, relay.gaps["stale"], ("-", "--", ":"), strict=False):
        local = np.diff(np.log(gap)) / np.diff(np.log(n))
        ax.semilogx(
            np.sqrt(n[1:] * n[:-1]), local, "o" + style, ms=4, color=COLOURS["stale"], label=f"stale, p = ε = {step:g}"
        )
    local = np.diff(np.log(relay.gaps["fresh"][0])) / np.diff(np.log(n))
    ax.semilogx(
        np.sqrt(n[1:] * n[:-1]), local, "o-", ms=4, color=COLOURS["fresh"], label=f"fresh, p = ε = {relay.steps[0]:g}"
    )
    ax.axhline(2, lw=0.7, color="grey")
    ax.axhline(1, lw=0.7, color="grey")
    ax.set(
        title="R1 local slope, and where it bends\n(only while 2n·p ≪ 1 is it 2)",
        xlabel="agents n",
        ylabel="d log Σ|gap| / d log n",
        ylim=(-2, 4),
    )
    ax.legend(fontsize=7)

    ax = axes[2]
    for held, style in zip(HELD, ("--", "-"), strict=True):
        for name in ("cached", "stale", "fresh"):
            mean, slope = random.gaps[held][name].mean(-1), random.slopes[held][name]
            spread = np.quantile(random.gaps[held][name], [0.25, 0.75], axis=-1)
            ax.loglog(
                random.sizes,
                mean,
                "o" + style,
                ms=4,
                color=COLOURS[name],
                label=f"{name}, fixed per {held}: {slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]",
            )
            ax.fill_between(random.sizes, *spread, alpha=0.08, color=COLOURS[name])
    ax.set(
        title="R3 random (Garnet) teams, γ = 0.9\nKL held fixed per agent or per message",
        xlabel="agents n",
        ylabel="Σᵢ |gapᵢ|, mean over teams",
    )
    ax.legend(fontsize=6)
    for ax, sizes in zip(axes, (n, n, random.sizes), strict=True):
        _agent_axis(ax, sizes)
    figure.tight_layout()
    return _save(figure, path)


def bound_figure(gap: np.ndarray, penalties: dict[str, np.ndarray], path: Path) -> Path:
    """Every bound against the gap it bounds, on random stages; nothing may lie above the diagonal."""
    figure, ax = plt.subplots(figsize=(5.4, 5))
    low = 1e-18
    for name, colour in zip(penalties, ("#b2182b", "#2166ac", "#888888"), strict=False):
        keep = (gap > 0) & np.isfinite(penalties[name])
        ax.loglog(penalties[name][keep], gap[keep], ".", ms=1.5, alpha=0.35, color=colour, label=name, rasterized=True)
    top = max(np.max(p[np.isfinite(p)]) for p in penalties.values())
    ax.loglog([low, top], [low, top], "k-", lw=0.8, label="gap = bound")
    ax.set(
        xlabel="bound on |fresh gapᵢ|",
        ylabel="|fresh gapᵢ| (exact, float64)",
        title="Bound against realised gap, random stages",
        xlim=(low, top),
        ylim=(low, top),
    )
    ax.legend(fontsize=8, markerscale=6)
    return _save(figure, path)
