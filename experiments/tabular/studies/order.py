"""Table 9: who is updated first. Fixed, reverse, random and greedy order, exactly and by samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments import paper
from experiments.figures import axes, interval_points, save
from experiments.tables import show
from experiments.tabular.families import family
from experiments.tabular.rows import ABLATION, EXACT, FULL, Row, exact_step
from experiments.tabular.runs import Floats, Records, train_row
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies.ablation import trained
from experiments.tabular.studies.regressions import named, text
from experiments.tabular.summary import bootstrap, interval, objective, regressions
from teamtr_jax.intervals import Interval
from teamtr_jax.schedules import random_order, reverse

__all__ = ["ORDERS", "ROWS", "final", "spread", "spread_of_means", "orders", "repeated", "run", "draw"]

ORDERS = ("fixed", "reverse", "random", "greedy")
ROWS: dict[str, tuple[Row, ...]] = {
    "exact": (
        *named(EXACT, "fresh"),
        Row("exact reverse", exact_step(), order=lambda family: reverse(family.team.agents)),
        Row("exact random", exact_step(), order=lambda family: random_order),
        *named(EXACT, "greedy order"),
    ),
    "PPO": named(ABLATION, "full", "order reverse", "order random", "order greedy"),
}
"""In the order of `ORDERS`."""


def final(run: Records) -> Floats:
    """``[N]``: J after the last stage, in percent of `J*`."""
    return 100 * objective(run)[-1] / np.asarray(run.about["optimum"])


def spread(finals: Floats) -> Floats:
    """``[N]``: max − min over the orders of ``[orders, N]``, for each team."""
    return finals.max(0) - finals.min(0)


def spread_of_means(finals: Floats) -> Interval:
    """Max − min over the orders of the means over teams, as the paper has it; a team with all its orders is resampled."""

    def statistic(*orders: Floats, axis: int) -> Floats:
        return np.ptp([x.mean(axis) for x in orders], 0)

    return interval(statistic, *finals)


def orders(settings: TabularSettings, name: str, kind: str) -> dict[str, Records]:
    """The runs of the four orders."""
    found = trained(settings, name, ROWS[kind])
    return {order: found[row.name] for order, row in zip(ORDERS, ROWS[kind], strict=True)}


def repeated(settings: TabularSettings, name: str) -> dict[str, Records]:
    """The fixed order as often as there are orders, with other rollouts: how far runs differ by noise alone."""
    teams = family(name, settings.instances, settings.seed)
    home = settings.out / "rows"
    runs = {"seed 0": trained(settings, name, (FULL,))[FULL.name]}
    for i in range(1, len(ORDERS)):
        row = replace(FULL, name=f"full, rollouts {i}", note="other rollouts")
        seed = settings.seed + 1000 * i
        runs[f"seed {i}"] = train_row(row, teams, settings.stages, settings.budget, seed, home, settings.progress)
    return runs


def run(settings: TabularSettings) -> list[Path]:
    """Train the orders, exactly and by samples; one table and one figure."""
    names = teams_of(settings, ("garnet", "handover"))
    lines, found = [], {}
    for name in names:
        sets = {kind: orders(settings, name, kind) for kind in ROWS}
        sets["other rollouts"] = repeated(settings, name)
        found[name] = sets
        for kind, runs in sets.items():
            finals = np.stack([final(x) for x in runs.values()])
            worse = np.mean([regressions(x) for x in runs.values()], 0)
            means = [_around(bootstrap(x, np.mean)) for x in finals] if kind in ROWS else ["–"] * len(ORDERS)
            lines.append(
                [f"{name}, {kind}", *means, text(bootstrap(spread(finals), np.mean)),
                 text(spread_of_means(finals)), text(bootstrap(100 * worse, np.mean))]
            )  # fmt: skip
    lines.append(["the paper: AIME24", *(paper.ORDER.get(x, "–") for x in ORDERS), "–", f"< {paper.ORDER_SPREAD}", "–"])
    show(
        f"Order of updates: {settings.instances} teams, {settings.stages} stages, fresh rollouts, δ = .01; sampled: PPO, "
        f"{settings.budget} rollouts a stage",
        ["", *ORDERS, "spread", "of the means", "worse %"],
        lines,
        "Final J in % of J*, mean over teams ± half of its interval; spread: max − min over the orders, of each team (mean) and "
        "of the means; 95 % bootstrap intervals over teams (a team with all its orders). J exact (float64). Third line of a "
        "family: four runs of the fixed order that differ in their rollouts only. Worse: updates that make J smaller. Last line: "
        "the paper's.",
    )  # fmt: skip
    return [draw(found, settings.out / "order.png")]


def _around(x: Interval) -> str:
    """The value and half the length of its interval."""
    return f"{x.value:.1f} ±{(x.high - x.low) / 2:.1f}"


def draw(found: dict[str, dict[str, dict[str, Records]]], path: Path) -> Path:
    """Final J of each order relative to the fixed one, paired by team; the paper's differences in grey."""
    panels = [(name, kind) for name in found for kind in ROWS]
    figure, grid = axes(1, len(panels), (2.9 * len(panels), 2.6), sharey=True, squeeze=False)
    for ax, (name, kind) in zip(grid[0], panels, strict=True):
        runs = found[name][kind]
        base = final(runs["fixed"])
        interval_points(ax, [bootstrap(final(runs[order]) - base, np.mean) for order in ORDERS])
        theirs = [(i, paper.ORDER[x] - paper.ORDER["fixed"]) for i, x in enumerate(ORDERS) if x in paper.ORDER]
        ax.plot([x for _, x in theirs], [i + 0.2 for i, _ in theirs], "s", color="0.6", markersize=4)
        ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        ax.set_title(f"{name}, {kind}", fontsize=9)
        ax.set_xlabel("final J less that of the fixed order\n% of J* (grey: the paper, points)", fontsize=8)
    grid[0, 0].set_yticks(range(len(ORDERS)), ORDERS)
    grid[0, 0].invert_yaxis()
    return save(figure, path)
