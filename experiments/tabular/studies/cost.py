"""Table 6: what resampling costs and what it buys, at equal sets of rollouts and at an equal budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.saved import write_json
from experiments.tables import show
from experiments.tabular.families import FAMILIES, Family
from experiments.tabular.rows import EPOCHS, FULL, RADIUS, Row, exact_step
from experiments.tabular.runs import Floats, Records, train_row
from experiments.tabular.settings import TabularSettings, teams_of
from experiments.tabular.studies.regressions import text
from experiments.tabular.summary import bootstrap, closed, regressions, rollouts
from teamtr_jax.divergences import expected, kl_current_to_new
from teamtr_jax.files import read_json
from teamtr_jax.intervals import Interval
from teamtr_jax.rollouts import default_horizon
from teamtr_jax.schedules import Schedule, certificate_driven, every, fresh, once
from teamtr_jax.tabular import evaluate
from teamtr_jax.validation import InputError

__all__ = ["AGENTS", "MARGIN", "CostCase", "CASES", "sized", "rows", "trained", "horizon_of", "stage_times", "spread_of",
           "verdict", "monitor_share", "run", "draw"]  # fmt: skip

AGENTS = 6
"""With three agents a stage has three updates, and one set in three is the least: too few to save half in more than one way."""

MARGIN = 3.0
"""Points of the gap closed and of the share of regressions within which a schedule counts as equal to the fresh one."""

CALLS = 50
"""How often the KL monitor is timed."""


class CostCase(NamedTuple):
    """What is held fixed in one block of the table."""

    family: str
    name: str
    base: Row
    tolerances: tuple[float, ...]


EXACT_ROW = Row("exact", exact_step())
HARD = 0.03
"""A radius at which cached rollouts hurt in the handover."""

CASES: tuple[CostCase, ...] = (
    CostCase("garnet", "exact", EXACT_ROW, (0.3,)),
    CostCase("garnet", "PPO", FULL, (0.1, 0.2)),
    CostCase("handover", "exact", EXACT_ROW, (0.3,)),
    CostCase("handover", f"U1 {HARD:g}", replace(FULL, step=exact_step(HARD), note="U1 on samples"), (0.4, 0.6)),
    CostCase("relay", "PPO", FULL, (0.03, 0.05)),
)


def sized(name: str, settings: TabularSettings, agents: int = AGENTS) -> Family:
    """A family with so many agents, under a name of its own."""
    make: Callable[..., Family] = FAMILIES[name]
    return make(settings.instances, settings.seed, agents=agents)._replace(name=f"{name}-{agents}")


def _same_set(make: Callable[[Family], Schedule]) -> Callable[[Family], Schedule]:
    """Sets as small as those of the fresh schedule; the rest of the budget is saved."""
    return lambda family: make(family)._replace(draws=lambda n: n)


def rows(case: CostCase) -> dict[str, Row]:
    """The schedules of a case, by the name in the table. Exact sets are infinitely large: there is no equal budget."""
    made: dict[str, Callable[[Family], Schedule]] = {
        "fresh": lambda family: fresh,
        "every 2nd": _same_set(lambda family: every(2)),
        **{f"shift ≤ {x:g}": lambda family, x=x: certificate_driven(x, family.discount) for x in case.tolerances},
        "once": _same_set(lambda family: once),
    }
    if case.base.sampling is not None:
        made["once, = budget"] = lambda family: once
    return {
        name: replace(case.base, name=f"cost {case.name} {name}", schedule=schedule, paper=None)
        for name, schedule in made.items()
    }


def trained(settings: TabularSettings, case: CostCase) -> dict[str, Records]:
    """The runs of a case; `settings.budget` is that of three agents, so that a set is as large as theirs."""
    teams = sized(case.family, settings)
    budget = settings.budget * AGENTS // 3
    common = (teams, settings.stages, budget, settings.seed, settings.out / "rows", settings.progress)
    return {name: train_row(row, *common) for name, row in rows(case).items()}


def horizon_of(teams: Family) -> int:
    """Steps of a rollout (tokens): all rollouts of a family are equally long."""
    horizon = teams.team.dynamics.horizon
    return horizon if horizon is not None else default_horizon(np.asarray(teams.team.dynamics.discount).max())


def stage_times(found: Records) -> Floats:
    """Seconds of each stage of all instances, without the first, which compiles."""
    seconds = found["time_stage"][:, 0, 0]
    return seconds[1:] if len(seconds) > 1 else seconds


def spread_of(x: Floats, form: str) -> str:
    """The median and the quartiles."""
    lower, middle, upper = (format(y, form) for y in np.quantile(x, [0.25, 0.5, 0.75]))
    return f"{middle} [{lower}, {upper}]"


def verdict(share: float, gain: Interval, worse: Interval) -> str:
    """Whether the goal is reached: at most half of the rollouts, final J and regressions as with fresh ones.

    ``yes``: both intervals of the paired differences stay within `MARGIN`; ``no``: one of them lies wholly on the bad side of 0;
    ``open`` otherwise.
    """
    if share > 0.5:
        return "–"
    if gain.low > -MARGIN and worse.high < MARGIN:
        return "yes"
    return "no" if gain.high < 0 or worse.low > 0 else "open"


def compared(found: Records, base: Records) -> tuple[Interval, Interval, float]:
    """Paired differences to the fresh schedule, in points: gap closed, share of regressions; and the share of rollouts."""
    gain = bootstrap(100 * (closed(found) - closed(base)), np.mean)
    worse = bootstrap(100 * (regressions(found) - regressions(base)), np.mean)
    return gain, worse, float(rollouts(found).mean() / rollouts(base).mean())


def run(settings: TabularSettings) -> list[Path]:
    """Train every schedule of every case; one table and one figure."""
    usual = tuple(dict.fromkeys(x.family for x in CASES))
    chosen = [x for x in CASES if x.family in teams_of(settings, usual)]
    if not chosen:
        raise InputError("families", ", ".join(settings.families or ()), f"one of {', '.join(usual)} in this study")
    lines: list[list[object]] = []
    found = [(case, trained(settings, case)) for case in chosen]
    for case, runs in found:
        base = runs["fresh"]
        for name, records in runs.items():
            gain, worse, share = compared(records, base)
            number = rollouts(records).mean()
            paired = ["", "", ""] if name == "fresh" else [text(gain), text(worse), verdict(share, gain, worse)]
            lines.append(
                [f"{case.family} {case.name}: {name}", f"{number:.4g}",
                 f"{share:.2f}",
                 spread_of(stage_times(records) / np.median(stage_times(base)), ".2f"),
                 text(bootstrap(100 * closed(records), np.mean)), *paired]
            )  # fmt: skip
    lengths = ", ".join(f"{x} {horizon_of(sized(x, settings))}" for x in dict.fromkeys(case.family for case in chosen))
    monitor, theirs = spread_of(100 * monitor_share(settings), ".2g"), paper.COST
    show(
        f"Cost: {AGENTS} agents, {settings.instances} teams, {settings.stages} stages, δ = {RADIUS:g} unless named",
        ["", "rollouts", "share", "wall", "gap closed %", "− fresh", "worse − fresh", "goal"],
        lines,
        f"""
        Rollouts: means a stage; share and wall: of the fresh schedule's. Wall: the seconds of a stage by the fresh
        schedule's median; median and quartiles over stages, on the machine as it was. Steps (tokens) of a rollout:
        {lengths}: share is theirs, too. 'shift ≤': certificate-driven. Sets as large as the fresh schedule's, except
        '= budget': fewer, larger sets. Exact rows count sets. Gap closed, its paired difference to fresh and that of
        updates that make J worse, in points: means, 95 % bootstrap intervals over teams; J exact (float64). Goal: at most
        half of the rollouts, both differences within {MARGIN:g} points (yes), one significantly worse (no). KL monitors:
        {monitor} % of a fresh stage's median time, median and quartiles over {CALLS} calls. The paper (Table 6):
        tokens +{100 * theirs["tokens"]:.1f} %, wall {theirs["wall"]:.2f}×, monitor {100 * theirs["monitor"]:.1f} %.
        """,
    )
    return [draw(found, settings.out / "cost.png")]


def monitor_share(settings: TabularSettings) -> Floats:
    """Share of the median wall time of a fresh stage that its KL monitors take, for each call; measured once and saved."""
    path = settings.out / "cost-monitors.json"
    if not path.exists():
        case = next(x for x in CASES if x.base is FULL)
        teams = sized(case.family, settings)
        weight = jax.vmap(lambda team, policy: evaluate(team, policy).weight)(teams.team, teams.policy)

        @jax.jit
        def monitor(policy: Array, new: Array) -> Array:
            return jax.vmap(lambda w, p, q: expected(w, kl_current_to_new(p, q)))(weight, policy, new)

        new = 0.9 * teams.policy + 0.1 / teams.policy.shape[-1]
        monitor(teams.policy, new).block_until_ready()
        seconds = []
        for _ in range(CALLS):
            begin = time.perf_counter()
            monitor(teams.policy, new).block_until_ready()
            seconds.append(time.perf_counter() - begin)
        stage = float(np.median(stage_times(trained(settings, case)["fresh"])))
        record: dict[str, Any] = {"monitor": seconds, "epochs": EPOCHS, "updates": AGENTS, "stage": stage}
        write_json(path, record)
    record = read_json(path, "times of monitors (without it they are measured again)", sealed=True)
    return np.asarray(record["monitor"]) * record["epochs"] * record["updates"] / record["stage"]


def draw(found: list[tuple[CostCase, dict[str, Records]]], path: Path) -> Path:
    """Gap closed and regressions against rollouts, relative to the fresh schedule."""
    figure, grid = axes(2, len(found), (2.5 * len(found), 4.6), sharex=True, squeeze=False)
    for column, (case, runs) in enumerate(found):
        base = runs["fresh"]
        for name, records in runs.items():
            share = rollouts(records).mean() / rollouts(base).mean()
            word = "certificate" if name.startswith("shift") else name.split(",")[0]
            colour = COLOURS.get(word, "0.4")
            marker = "s" if "budget" in name else "o"
            for ax, x in ((grid[0, column], closed(records)), (grid[1, column], regressions(records))):
                y = bootstrap(100 * x, np.mean)
                ax.plot([share, share], [y.low, y.high], color=colour, linewidth=1)
                face = colour if marker == "o" else "white"
                ax.plot(
                    share,
                    y.value,
                    marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=4.5,
                    label="certificate-driven" if word == "certificate" else name,
                )
        tolerances = ", ".join(f"{x:g}" for x in case.tolerances)
        grid[0, column].set_title(f"{case.family}, {case.name}\nshift ≤ {tolerances}", fontsize=9)
        grid[1, column].set_xlabel("rollouts, share of fresh")
        for ax in grid[:, column]:
            ax.axvline(0.5, color="0.85", linewidth=0.8, zorder=0)
            ax.set_xlim(0, 1.1)
    labelled = {label: handle for ax in grid[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        labelled.values(), labelled, loc="outside upper center", ncols=len(labelled), fontsize=8, frameon=False
    )
    grid[0, 0].set_ylabel("gap to the optimum closed, %")
    grid[1, 0].set_ylabel("updates that make J smaller, %")
    return save(figure, path)
