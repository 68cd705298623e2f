"""S10 beside its neighbours: a χ² budget, a clip and a KL penalty as ways to say how far an update goes, at matched rollouts.

Each has a knob, so each is trained at three settings from small to large; what is compared is the best that any setting of one
reaches, and what each setting leaves of the certificates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.figures import axes, interval_points, save
from experiments.tables import show
from experiments.tabular.families import family
from experiments.tabular.rows import GROUP, Row, ppo
from experiments.tabular.runs import Records, train_row
from experiments.tabular.settings import TabularSettings
from experiments.tabular.studies.scaling import short
from experiments.tabular.summary import bootstrap, closed, objective, regressions
from teamtr_jax.trust_region import chi_square_budget, kl_constrained

__all__ = ["EARLY", "rows", "early", "ratio", "run", "draw"]

TURNS = 2
"""Of each agent of the relay in an episode."""

DIRECTION = 1.0
"""Radius of the exact step whose direction the budget shortens, in nats: so far that the budget alone decides."""

EARLY = 3
"""Stages after which it is looked at how far a way has come: at the end all are near the optimum."""


def rows() -> tuple[Row, ...]:
    """Three settings of each way."""
    out = []
    for clip in (0.05, 0.2, 0.5):
        step = ppo(radius=np.inf, adaptive=False, beta=0.0, clip=clip)
        out.append(Row(f"clip {clip:g}", step, sampling=GROUP, note="ratios clipped, no KL"))
    for target in (0.005, 0.02, 0.08):
        step = ppo(radius=np.inf, target=target, clip=None)
        out.append(Row(f"KL penalty {target:g}", step, sampling=GROUP, note="β adapts to this KL, no clip"))
    for radius in (0.005, 0.02, 0.08):
        out.append(Row(f"exact KL step {radius:g}", lambda family, r=radius: kl_constrained(r), sampling=GROUP))
    for budget in (0.01, 0.04, 0.16):
        out.append(
            Row(
                f"χ² budget {budget:g}",
                lambda family, x=budget: chi_square_budget(kl_constrained(DIRECTION), x, TURNS),
                sampling=GROUP,
                note=f"the direction of the exact step of {DIRECTION:g}, χ² of each of {TURNS} turns at most half of it",
            )
        )
    return tuple(out)


def ratio(run: Records, penalty: str) -> np.ndarray:
    """``[N]``: `Σ |fresh gap| / Σ penalty` over the updates of an instance; 0 where a penalty is infinite or nothing moved."""
    gap, bound = abs(run["exact.gap_fresh"]).sum((0, 1)), run[f"exact.{penalty}"].sum((0, 1))
    return np.where((bound > 0) & np.isfinite(bound), gap / np.where(bound > 0, bound, 1.0), 0.0)


def early(run: Records, stages: int = EARLY) -> np.ndarray:
    """``[N]``: the share of the gap to the optimum that the first stages closed."""
    j = objective(run)
    return (j[min(stages, len(j) - 1)] - j[0]) / (np.asarray(run.about["optimum"]) - j[0])


def run(settings: TabularSettings) -> list[Path]:
    """Train every row on relays; one table, one figure."""
    teams = family("relay", settings.instances, settings.seed)
    common = (teams, settings.stages, settings.budget, settings.seed, settings.out / "rows", settings.progress)
    runs = {row.name: train_row(row, *common) for row in rows()}
    lines = []
    for name, found in runs.items():
        penalty = bootstrap(
            found["exact.penalty_chi_square"].sum(1).mean(0) / found["exact.penalty_log_sum"].sum(1).mean(0)
        )
        lines.append(
            [name, short(bootstrap(100 * early(found))), short(bootstrap(100 * closed(found))),
             short(bootstrap(100 * regressions(found), np.mean)),
             short(bootstrap(found["exact.kl"].mean((0, 1)))), short(penalty),
             short(bootstrap(ratio(found, "penalty_chi_square"))), short(bootstrap(ratio(found, "penalty_log_sum"))),
             int(found["exact.violations"].sum())]
        )  # fmt: skip
    heads = [
        "row",
        f"gap closed, {EARLY} stages %",
        "all %",
        "regressions %",
        "KL an update",
        "S10/S7",
        "gap/S10",
        "gap/S7",
        "violations",
    ]
    held = f"{settings.instances} teams of {teams.team.agents}, {settings.stages} stages, {settings.budget} rollouts a stage"
    show(f"How far an update goes, relay: {held}, fresh rollouts", heads, lines,
         "Medians (regressions: mean) over teams ± half the 95 % bootstrap interval; J, KL (nats, of an episode), gaps and "
         "bounds exact. S10/S7: the χ² bound over the KL bound of the same updates, summed over a run.")  # fmt: skip
    return [draw(runs, settings.out / "budget-relay.png")]


def draw(runs: dict[str, Records], path: Path) -> Path:
    """Gap closed and what S10 and S7 would have subtracted, by row."""
    names = list(runs)
    figure, (left, right) = axes(1, 2, (9, 0.28 * len(names) + 1.4), sharey=True)
    interval_points(left, [bootstrap(100 * early(runs[name])) for name in names])
    for penalty, colour in (("penalty_chi_square", "#2166ac"), ("penalty_log_sum", "#1b7837")):
        found = [bootstrap(runs[name][f"exact.{penalty}"].sum(1).mean(0)) for name in names]
        right.plot([x.value for x in found], range(len(names)), "o", ms=4, color=colour)
        right.hlines(range(len(names)), [x.low for x in found], [x.high for x in found], color=colour, lw=1,
                     label={"penalty_chi_square": "S10", "penalty_log_sum": "S7"}[penalty])  # fmt: skip
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel(f"gap to the optimum closed after {EARLY} stages, %")
    right.set_xscale("log")
    right.set_xlabel("bound on the fresh gaps of a stage")
    right.legend(fontsize=8, frameon=False)
    return save(figure, path)
