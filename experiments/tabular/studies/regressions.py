"""Figure 3: does J go down in the middle of training? Counted exactly, at the same budget of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.figures import COLOURS, axes, save
from experiments.tables import show
from experiments.tabular.rows import ABLATION, FULL, RADIUS, Row, exact_step
from experiments.tabular.runs import Floats, Records
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies.ablation import trained
from experiments.tabular.summary import bootstrap, closed, objective, regressions, resampled, rollouts
from teamtr_jax.intervals import Interval
from teamtr_jax.schedules import importance_weighted, joint, once

__all__ = ["RADII", "GROUPS", "named", "text", "lost", "fall", "run", "draw"]

RADII = (RADIUS, 0.1, 0.3)
"""The paper's radius, and larger ones, at which the failure is looked for."""


def named(rows: Sequence[Row], *names: str) -> tuple[Row, ...]:
    """Rows by name, in this order."""
    by_name = {row.name: row for row in rows}
    return tuple(by_name[name] for name in names)


def _exact(radius: float) -> tuple[Row, ...]:
    name, step = f"exact δ = {radius:g}", exact_step(radius)
    return (
        Row(f"{name}, fresh", step),
        Row(f"{name}, once", step, schedule=lambda family: once),
        Row(f"{name}, joint", step, schedule=lambda family: joint),
    )


def _sampled(radius: float) -> tuple[Row, ...]:
    name, base = (
        f"U1 δ = {radius:g}",
        replace(FULL, step=exact_step(radius), paper=None, note="U1 on sampled advantages"),
    )
    return (
        replace(base, name=f"{name}, fresh"),
        replace(base, name=f"{name}, no resampling", schedule=lambda family: once),
        replace(base, name=f"{name}, importance weights", schedule=lambda family: importance_weighted()),
    )


GROUPS: dict[str, tuple[Row, ...]] = {
    "PPO, δ = .01, sampled": named(
        ABLATION, "full", "no resampling", "joint", "no trust region", "importance weights", "certificate-driven"
    ),
    "U1, δ = .3, sampled": _sampled(RADII[-1]),
    **{f"U1, δ = {radius:g}, exact": _exact(radius) for radius in RADII},
}
SHOWN = ("PPO, δ = .01, sampled", "U1, δ = .3, sampled", "U1, δ = 0.3, exact")


def text(x: Interval) -> str:
    """A statistic and its interval, short."""

    def plain(value: float) -> str:
        if abs(value) < 5e-4:
            return "0"
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"

    return f"{plain(x.value)} [{plain(x.low)}, {plain(x.high)}]"


def lost(run: Records) -> Floats:
    """``[N]``: what all updates together lost, `Σ max(0, J(π̂ⁱ⁻¹) − J(π̂ⁱ))`, in percent of `J*`."""
    return 100 * np.maximum(-run["exact.improvement"], 0).sum((0, 1)) / np.asarray(run.about["optimum"])


def fall(run: Records) -> Floats:
    """``[N]``: how far J falls below the best of the stages before, at most, in percent of `J*`."""
    j = objective(run)
    return 100 * (np.maximum.accumulate(j) - j).max(0) / np.asarray(run.about["optimum"])


def cumulative(run: Records) -> Floats:
    """``[updates, N]``: regressions so far."""
    flags = run["exact.regression"].astype(float)
    return np.cumsum(flags.reshape(-1, flags.shape[-1]), 0)


def run(settings: TabularSettings) -> list[Path]:
    """Train every row on every family; one table, one figure for each family."""
    names = teams_of(settings, ("garnet", "handover"))
    figures, lines = [], []
    for name in names:
        for rows in GROUPS.values():
            for row, found in trained(settings, name, rows).items():
                lines.append([f"{name}: {row}", *measured(found)])
        figures.append(draw(settings, name, settings.out / f"regressions-{name}.png"))
    show(
        f"Regressions: {settings.instances} teams, {settings.stages} stages; sampled: {settings.budget} rollouts a stage for "
        "every row; δ in nats per agent",
        ["", "gap closed %", "updates worse %", "lost % of J*", "fall % of J*", "rollouts"],
        lines,
        "Gap closed: median over teams; others: means; 95 % bootstrap intervals over teams. J exact (float64): an update is "
        "worse where J falls by more than rounding. Lost: sum of all losses; fall: largest drop below an earlier stage. Rollouts "
        "of exact rows: sets. The paper (Figure 3, no figures given): sequential PPO/GRPO/DAPO regress mid-training; TeamTR does "
        "not.",
    )  # fmt: skip
    return figures


def measured(found: Records) -> list[str]:
    """The columns of the table."""
    return [
        text(bootstrap(100 * closed(found))),
        text(bootstrap(100 * regressions(found), np.mean)),
        *(text(bootstrap(f(found), np.mean)) for f in (lost, fall)),
        f"{rollouts(found).mean():.3g}",
    ]


def _colour(row: str) -> str:
    for word, colour in (("certificate", COLOURS["certificate"]), ("joint", COLOURS["joint"]), ("weights", "#e08214"),
                         ("trust", "0.3"), ("resampling", COLOURS["once"]), ("once", COLOURS["once"])):  # fmt: skip
        if word in row:
            return colour
    return COLOURS["fresh"]


def draw(settings: TabularSettings, name: str, path: Path) -> Path:
    """J over the stages and the regressions so far, with bands, for three groups of rows."""
    figure, grid = axes(2, len(SHOWN), (3.7 * len(SHOWN), 5.2), sharex="row", squeeze=False)
    for column, group in enumerate(SHOWN):
        upper, lower = grid[:, column]
        for row, found in trained(settings, name, GROUPS[group]).items():
            share = 100 * objective(found) / np.asarray(found.about["optimum"])
            style = {
                "color": _colour(row),
                "linestyle": "--" if "joint" in row else ":" if row.endswith(("once", "no resampling")) else "-",
            }
            label = row.split(", ")[-1]
            curves = ((upper, resampled(np.median, share)), (lower, resampled(np.mean, cumulative(found))))
            for ax, (middle, low, high) in curves:
                x = np.arange(len(middle)) + (ax is lower)
                ax.plot(x, middle, label=label, linewidth=1.3, **style)
                ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        upper.set_title(f"{group} ({name})", fontsize=9)
        upper.legend(fontsize=7, frameon=False)
        upper.set_xlabel("stages")
        lower.set_xlabel("updates")
    grid[0, 0].set_ylabel("median J, % of J*")
    grid[1, 0].set_ylabel("regressions so far, mean of a team")
    return save(figure, path)
