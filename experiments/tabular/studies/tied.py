"""Tied rows (U4): agents that see part of the state, on new rollouts and on old ones; same budget, losses counted exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.figures import axes, save
from experiments.tables import show
from experiments.tabular.rows import ABLATION, FULL, Row, exact_step
from experiments.tabular.runs import Floats, Records
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies.ablation import trained
from experiments.tabular.studies.regressions import lost, named, text
from experiments.tabular.summary import bootstrap, interval, objective, regressions, resampled, rollouts
from teamtr_jax.schedules import importance_weighted, once, stale_occupancy

__all__ = ["RADIUS", "SCALE", "USUAL", "GROUPS", "behind", "run", "draw"]

RADIUS = 0.1
"""`δ` per agent of the exact steps, nats."""
SCALE = 16
"""The group `many` has so many times the budget: there the noise of a set is no longer what decides. Episodic families only."""
USUAL = ("drift", "drift-apart", "garnet-tied")


def _rows(base: Row, *names: str) -> tuple[Row, ...]:
    schedules = {
        "fresh": FULL.schedule,
        "stale occupancy": lambda family: stale_occupancy,
        "no resampling": lambda family: once,
        "importance weights": lambda family: importance_weighted(),
        "importance weights ≤ 5": lambda family: importance_weighted(5.0),
    }
    return tuple(replace(base, name=f"{base.name}, {name}", schedule=schedules[name]) for name in names)


SAMPLED = replace(FULL, name="sampled", step=exact_step(RADIUS), paper=None, note="U1 on sampled advantages")
GROUPS: dict[str, tuple[Row, ...]] = {
    "exact": _rows(Row("exact", exact_step(RADIUS)), "fresh", "stale occupancy", "no resampling"),
    "many": _rows(replace(SAMPLED, name=f"{SCALE} x sampled"), "fresh", "no resampling", "importance weights"),
    "sampled": _rows(SAMPLED, "fresh", "no resampling", "importance weights", "importance weights ≤ 5"),
    "PPO": named(ABLATION, "full", "no resampling", "importance weights"),
}
"""The first row of each is on new rollouts; the others are compared with it."""


def _groups(name: str) -> list[str]:
    return [group for group in GROUPS if group != "many" or name.startswith("drift")]


def _trained(settings: TabularSettings, name: str, group: str) -> dict[str, Records]:
    scaled = replace(settings, budget=SCALE * settings.budget) if group == "many" else settings
    return trained(scaled, name, GROUPS[group])


def _label(row: str) -> str:
    """The name of a row in the table; PPO's are those of the ablation."""
    return row if ", " in row else f"PPO, {'fresh' if row == FULL.name else row}"


def behind(run: Records, renewed: Records, stages: int) -> tuple[Floats, Floats]:
    """``[N]`` each: growth of J in the first `stages` stages, of a run and of the one on new rollouts."""
    return tuple(j[stages] - j[0] for j in map(objective, (run, renewed)))  # pyright: ignore[reportReturnType]


def _share(gain: Floats, renewed: Floats, axis: int = -1) -> Floats:
    return 100 * (1 - gain.mean(axis) / renewed.mean(axis))


def _measured(runs: dict[str, Records], rows: Sequence[Row], stages: int) -> list[list[str]]:
    first = runs[rows[0].name]
    lines = []
    for row in rows:
        found = runs[row.name]
        short = [text(interval(_share, *behind(found, first, k))) if row is not rows[0] else "" for k in (1, stages)]
        lines.append(
            [_label(row.name), text(bootstrap(100 * regressions(found), np.mean)), text(bootstrap(lost(found), np.mean)), *short,
             f"{rollouts(found).mean():.3g}"]
        )  # fmt: skip
    return lines


def run(settings: TabularSettings) -> list[Path]:
    """Train every row on every family; one table, one figure for all families."""
    names, lines = teams_of(settings, USUAL), []
    for name in names:
        for group in _groups(name):
            measured = _measured(_trained(settings, name, group), GROUPS[group], settings.stages)
            lines += [[f"{name}: {row[0]}", *row[1:]] for row in measured]
    show(
        f"Tied rows: {settings.instances} teams, {settings.stages} stages, δ = {RADIUS:g} (PPO: .01); sampled: {settings.budget} "
        f"rollouts a stage for every row, or {SCALE} times as many",
        ["", "updates worse %", "lost % of J*", "behind %, 1 stage", "behind %, end", "rollouts"],
        lines,
        "Behind: how much less J has grown than in the first row of the group, over what it has grown there, means over "
        "teams in pairs; below zero: ahead. Others: means. 95 % bootstrap intervals over teams. J exact (float64). "
        "Rollouts of exact rows: sets. drift: an agent sees nothing of the position that others have moved; drift-apart: "
        "the same teams, all of it; garnet-tied: random teams, four labels. J* is that of a team that sees the state.",
    )  # fmt: skip
    return [draw(settings, names, settings.out / "tied.png")]


COLOURS = {"fresh": "#1b7837", "occupancy": "#b2182b", "resampling": "#7b3294", "weights": "#e08214", "5": "0.5"}


def draw(settings: TabularSettings, names: Sequence[str], path: Path) -> Path:
    """J over the stages, with bands: a column for each family; exact, many rollouts, few."""
    figure, grid = axes(3, len(names), (3.6 * len(names), 7.5), sharex=True, sharey="col", squeeze=False)
    for column, name in enumerate(names):
        for ax, group in zip(grid[:, column], ("exact", "many", "sampled"), strict=True):
            if group not in _groups(name):
                ax.axis("off")
                continue
            for row, found in _trained(settings, name, group).items():
                share = 100 * objective(found) / np.asarray(found.about["optimum"])
                middle, low, high = resampled(np.mean, share)
                label = row.rpartition(", ")[-1]
                colour = COLOURS[label.rpartition(" ")[-1]]
                ax.plot(middle, label=label, color=colour, linewidth=1.3)
                ax.fill_between(np.arange(len(middle)), low, high, color=colour, alpha=0.12, linewidth=0)
            ax.set_title(f"{name}, {next(iter(GROUPS[group])).name.partition(', ')[0]}, δ = {RADIUS:g}", fontsize=9)
            ax.legend(fontsize=7, frameon=False)
        grid[-1, column].set_xlabel("stages")
    for ax in grid[:, 0]:
        ax.set_ylabel("mean J, % of J*")
    return save(figure, path)
