"""Tables 2b and 9: every row an option of ours, at the same budget of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.figures import axes, interval_points, save
from experiments.tables import show
from experiments.tabular.families import family
from experiments.tabular.rows import ABLATION, Row
from experiments.tabular.runs import Records, train_row
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.summary import bootstrap, closed, instability, regressions, rollouts

__all__ = ["run", "trained", "draw"]


def trained(settings: TabularSettings, name: str, rows: Sequence[Row]) -> dict[str, Records]:
    """The records of the rows on one family; what is on disk is not computed again."""
    teams = family(name, settings.instances, settings.seed)
    common = (teams, settings.stages, settings.budget, settings.seed, settings.out / "rows", settings.progress)
    return {row.name: train_row(row, *common) for row in rows}


def run(settings: TabularSettings) -> list[Path]:
    """Train every row on every family; one table and one figure for each family."""
    figures = []
    for name in teams_of(settings, ("garnet",)):
        runs = trained(settings, name, ABLATION)
        lines = []
        for row in ABLATION:
            found = runs[row.name]
            lines.append(
                [row.name, bootstrap(100 * closed(found)), bootstrap(100 * regressions(found), np.mean),
                 bootstrap(instability(found), np.mean), f"{rollouts(found).mean():.0f}",
                 int(found["exact.violations"].sum()), "–" if row.paper is None else f"{row.paper:.1f}"]
            )  # fmt: skip
        heads = ["row", "gap closed %", "regressions %", "instability %", "rollouts", "violations", "paper: AIME24"]
        held = f"{settings.instances} teams, {settings.stages} stages, {settings.budget} rollouts a stage"
        note = "medians or means over teams with 95 % bootstrap intervals; J exact (float64); last column: the paper's"
        show(f"Ablation, {name}: {held}, δ = .01 unless named", heads, lines, note)
        figures.append(draw(runs, name, settings.out / f"ablation-{name}.png"))
    return figures


def draw(runs: dict[str, Records], name: str, path: Path) -> Path:
    """Gap closed and regressions of each row, with intervals; the paper's accuracy in its own panel."""
    figure, (left, middle, right) = axes(1, 3, (11, 0.28 * len(ABLATION) + 1.2), sharey=True)
    names = [row.name for row in ABLATION]
    interval_points(left, [bootstrap(100 * closed(runs[row])) for row in names])
    interval_points(middle, [bootstrap(100 * regressions(runs[row]), np.mean) for row in names])
    for i, row in enumerate(ABLATION):
        if row.paper is not None:
            right.plot(row.paper, i, "s", color="0.6")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel(f"gap to the optimum closed, % ({name})")
    middle.set_xlabel("updates that make J smaller, %")
    right.set_xlabel("the paper's accuracy on AIME24")
    return save(figure, path)
