"""Figure 4: who leaves the trust region, and whether certificates track what updates really gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.tables import show
from experiments.tabular.families import family
from experiments.tabular.rows import ABLATION, EXACT, FULL, GROUP, RADIUS, Row, exact_step, ppo
from experiments.tabular.runs import Floats, Records, train_row
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies.ablation import trained
from experiments.tabular.studies.regressions import named, text
from experiments.tabular.summary import bootstrap, interval, outside
from teamtr_jax.intervals import Interval
from teamtr_jax.schedules import once
from theory.studies.s8 import coverage_interval

__all__ = [
    "ROWS",
    "CERTIFICATES",
    "ALPHA",
    "spearman",
    "clustered",
    "monitored",
    "positive",
    "finite_sample",
    "run",
    "draw",
]

_LONG: dict[str, Any] = {"radius": np.inf, "adaptive": False, "epochs": 160, "learning_rate": 0.2}

ROWS: tuple[Row, ...] = (
    *named(ABLATION, "full", "adaptive KL only", "fixed KL only", "no trust region", "no resampling", "exact step"),
    replace(
        FULL,
        name="no clip, no trust region",
        step=ppo(radius=np.inf, adaptive=False, beta=0.0, clip=None),
        schedule=lambda family: once,
        paper=None,
        note="cached",
    ),
    replace(
        FULL,
        name="clip only, 160 epochs",
        step=ppo(**_LONG, beta=0.0),
        schedule=lambda family: once,
        paper=None,
        note="cached, learning rate .2",
    ),
)

CERTIFICATES = {
    "P3.4 (paper)": "exact.certificate_paper",
    "S7": "exact.certificate_estimable",
    "S9": "exact.certificate_weighted",
    "least": "exact.certificate",
}
SOURCES = named(EXACT, "fresh", "certificate-optimal radius")
FINITE = "info.certificate_finite_sample"
ALPHA = 0.1
SCALE = 32
"""S8 has so many times the budget: at 384 rollouts a stage it is never positive, at 8 times as many neither."""


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation of all entries; 0 if one of them is constant."""
    if any((a == a.flat[0]).all() for a in (x, y)):
        return 0.0
    found: Any = spearmanr(x.ravel(), y.ravel())
    return float(found.statistic)


def clustered(statistic: Callable[..., float], columns: Sequence[Floats]) -> Interval:
    """A statistic of columns ``[stages, updates, N]`` pooled; instances are resampled with all their updates."""

    def pooled(picks: NDArray[np.int64], axis: int) -> Floats:
        return np.apply_along_axis(lambda pick: statistic(*(x[..., pick].ravel() for x in columns)), axis, picks)

    return interval(pooled, np.arange(columns[0].shape[-1]), repeats=500)


def monitored(run: Records, radius: float) -> Floats:
    """``[N]``: share of the updates that the trainer's own monitor sees outside the region."""
    return (run["kl"] > 1.01 * radius).mean((0, 1))


def positive(certificate: Floats) -> Floats:
    """``[N]``: share of the updates that are certified to improve."""
    return (certificate > 0).mean((0, 1))


def finite_sample(settings: TabularSettings) -> Records:
    """The relay by samples, half of the prompts of each set held out for S8; U1, half of the stages."""
    budget = SCALE * settings.budget
    teams = family("relay", settings.instances, settings.seed)
    prompts = budget // (teams.team.agents * GROUP["group"])
    row = replace(
        FULL,
        name=f"exact step, half held out, {SCALE} x budget",
        step=exact_step(),
        sampling={**GROUP, "held_out": prompts // 2, "alpha": ALPHA},
        paper=None,
        note="S8 on the held-out prompts",
    )
    stages = (settings.stages + 1) // 2
    return train_row(row, teams, stages, budget, settings.seed, settings.out / "rows", settings.progress)


def run(settings: TabularSettings) -> list[Path]:
    """Train the rows of the three panels; one table, one figure for each family."""
    names = teams_of(settings, ("garnet", "handover"))
    lines: list[list[object]] = []
    figures = []
    held_out = finite_sample(settings)
    for name in names:
        runs = trained(settings, name, ROWS)
        for label, found in runs.items():
            shares = [text(bootstrap(100 * x(found, RADIUS), np.mean)) for x in (outside, monitored)]
            lines.append([f"{name}: {label}", *shares, "", "", ""])
        exact, short = trained(settings, name, SOURCES), {SOURCES[0].name: "U1", SOURCES[1].name: "certificate-optimal"}
        for source, found in exact.items():
            improvement = found["exact.improvement"]
            for label, column in CERTIFICATES.items():
                lower = found[column]
                tolerance = 1e-9 * abs(np.asarray(found.about["optimum"]))
                lines.append(
                    [f"{name}: {label}, {short[source]}", "", "", text(clustered(spearman, (lower, improvement))),
                     text(bootstrap(100 * positive(lower), np.mean)), int((lower > improvement + tolerance).sum())]
                )  # fmt: skip
        figures.append(draw(settings, name, settings.out / f"tracking-{name}.png"))
    lower, improvement = held_out[FINITE], held_out["exact.improvement"]
    missed = int((lower > improvement).sum())
    lines.append(
        ["relay: S8, U1 on samples", "", "", text(clustered(spearman, (lower, improvement))),
         text(bootstrap(100 * positive(lower), np.mean)), f"{missed} of {lower.size}"]
    )  # fmt: skip
    for who, share in paper.OUTSIDE.items():
        lines.append([f"paper: {who}", f"{100 * share:.0f}", "", "", "", ""])
    quoted = paper.CERTIFICATE
    lines.append(
        ["paper: its certificate", "", "", f"{quoted['correlation']:.2f}", "", f"{quoted['violations']:.0f} %"]
    )
    low, high = coverage_interval(lower.size - missed, lower.size)
    show(
        f"Tracking: {settings.instances} teams, {settings.stages} stages, δ = {RADIUS:g}; sampled: {settings.budget} rollouts "
        f"a stage, S8: {SCALE * settings.budget}",
        ["", "outside %, exact", "on the monitor %", "Spearman ρ", "certified > 0, %", "violations"],
        lines,
        "First lines of a family: how often sampled updates leave the region; then certificates in exact training. Outside: "
        "exact E_d KL(current‖new) > 1.01 δ under the true intermediate occupancy (float64); monitor: on the rollouts in use. "
        "ρ: certificate against exact improvement, all updates. Means over teams; 95 % bootstrap intervals over teams. S8 at "
        f"α = {ALPHA:g} covers {100 * (1 - missed / lower.size):.1f} % [{100 * low:.1f}, {100 * high:.1f}] of the updates "
        "(Clopper–Pearson, as if independent).",
    )  # fmt: skip
    return figures


def draw(settings: TabularSettings, name: str, path: Path) -> Path:
    """Share outside the region; certificates against improvement, exact; S8 against improvement."""
    figure, (left, middle, right) = axes(1, 3, (12.5, 3.8))
    runs = trained(settings, name, ROWS)
    labels = [*runs, *(f"paper: {who}" for who in paper.OUTSIDE)]
    for i, found in enumerate(runs.values()):
        for share, colour, shift in ((outside, COLOURS["once"], -0.12), (monitored, COLOURS["certificate"], 0.12)):
            x = bootstrap(100 * share(found, RADIUS), np.mean)
            left.plot([x.low, x.high], [i + shift] * 2, color=colour, linewidth=1)
            left.plot(x.value, i + shift, "o", color=colour, markersize=4, label=None if i else share.__name__)
    left.plot([100 * x for x in paper.OUTSIDE.values()], range(len(runs), len(labels)), "s", color="0.6")
    left.set_yticks(range(len(labels)), labels, fontsize=7)
    left.invert_yaxis()
    left.set_xlabel(f"updates outside the region, % ({name})\nred: exact, blue: as the monitor sees it", fontsize=8)

    exact = trained(settings, name, SOURCES)[SOURCES[-1].name]
    unit = np.asarray(exact.about["optimum"]) / 100
    for (label, column), colour in zip(list(CERTIFICATES.items())[1:], ("#8c510a", "#2166ac", "#1b7837"), strict=True):
        x, y = exact["exact.improvement"] / unit, exact[column] / unit
        middle.plot(x.ravel(), y.ravel(), ".", color=colour, markersize=2.5, label=f"{label}: ρ = {spearman(x, y):.2f}")
    middle.set_title(f"exact, {SOURCES[-1].name} ({name})", fontsize=9)

    held_out = finite_sample(settings)
    unit = np.asarray(held_out.about["optimum"]) / 100
    x, y = held_out["exact.improvement"] / unit, held_out[FINITE] / unit
    over = y > x
    right.plot(x[~over], y[~over], ".", color=COLOURS["fresh"], markersize=3, label=f"S8: ρ = {spearman(x, y):.2f}")
    right.plot(
        x[over], y[over], "x", color=COLOURS["once"], markersize=4, label=f"above: {int(over.sum())} of {over.size}"
    )
    right.set_title(f"relay, sampled, α = {ALPHA:g}", fontsize=9)
    for ax in (middle, right):
        ax.plot([], [], " ", label=f"paper: ρ ≈ {paper.CERTIFICATE['correlation']}, 0 % above")
        ax.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
        ax.axhline(0, color="0.9", linewidth=0.8, zorder=0)
        ax.set_xlabel("exact improvement of an update, % of J*")
        ax.legend(fontsize=7, frameon=False)
    middle.set_ylabel("certificate, % of J*")
    return save(figure, path)
