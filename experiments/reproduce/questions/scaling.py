"""Table 2a and Figure 2: what grows with the number of agents, on cached rollouts and on fresh ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import PAPER, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import TINT, band
from experiments.reproduce.runs import Found, by_stage, loss_of, trained
from experiments.reproduce.statistics import in_exponent, in_sign, mean, paired, slope
from experiments.reproduce.training import Run, Way
from theory.fits import log_slope

__all__ = ["SCALING", "GAPS"]

WAYS = (Way("TeamTR", "teamtr"), Way("naive", "no_resampling"))
TASKS = {"chain": ("chain agents={}", "complements"), "quota": ("quota agents={}", "substitutes")}
STYLE = {"chain": "o-", "quota": "^--"}
START = 0.45
ROLLOUTS = 256

QUANTITIES = {
    "delta_stale": ("Δ_stale, %", lambda x: 100 * abs(by_stage(x, "seq_minus_stale")).sum(1).mean()),
    "d_occ": ("D_occ", lambda x: by_stage(x, "occupancy_tv_stale").sum(1).mean()),
    "gap_in_use": ("Σ|gap in use|, %", lambda x: 100 * abs(_gaps(x)).sum(1).mean()),
    "signed": ("|Σ gap in use|, %", lambda x: 100 * abs(_gaps(x).sum(1)).mean()),
    "accuracy": ("J at the end, %", lambda x: 100 * x["values"][-1]),
    "instability": ("instability, %", loss_of),
}


def _gaps(found: Found) -> NDArray[np.float64]:
    """Exact improvement less the exact surrogate that the rollouts in use estimate, ``[stages, updates]``."""
    return by_stage(found, "improvement") - by_stage(found, "surrogate_in_use")


COMPARED = {
    "delta_stale": (1.0, "is Δ_stale larger"),
    "d_occ": (1.0, "is D_occ larger"),
    "gap_in_use": (1.0, "is Σ|gap in use| larger"),
    "accuracy": (-1.0, "is J at the end lower"),
    "instability": (1.0, "is instability larger"),
}


SLOPED = {"delta_stale": "delta_stale", "d_occ": "d_occ", "gap_in_use": "delta_stale"}
"""Quantities whose exponent is fitted, and which of the paper's it is set beside; on fresh rollouts gaps in use may be 0."""


def _runs(task: str, n: int, settings: ReproduceSettings) -> list[Run]:
    return [Run(way, TASKS[task][0].format(n), 0, settings.at(10, 2), ROLLOUTS, START) for way in WAYS]


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    sizes = paper.SCALING_N[: settings.at(6, 3)]
    found = {task: [trained(settings, _runs(task, n, settings)) for n in sizes] for task in TASKS}
    return {
        "sizes": list(sizes),
        "seeds": list(settings.own_seeds),
        "values": {
            task: {
                way.name: {
                    key: [[float(f(x)) for x in of_size[way.name]] for of_size in each]
                    for key, (_, f) in QUANTITIES.items()
                }
                for way in WAYS
            }
            for task, each in found.items()
        },
    }


def _values(data: dict[str, Any], task: str, way: str, key: str) -> NDArray[np.float64]:
    """``[sizes, seeds]``."""
    return np.asarray(data["values"][task][way][key])


def findings(data: dict[str, Any]) -> list[Finding]:
    sizes, out = data["sizes"], []
    for task, (_, kind) in TASKS.items():
        for way, key in [(way, key) for way in WAYS for key in SLOPED if key != "gap_in_use" or way.name == "naive"]:
            theirs = SLOPED[key]
            quoted = paper.SLOPES[way.name][theirs]
            rows = log_slope(paper.SCALING_N, paper.SCALING[way.name][theirs]).slope
            ours = slope(sizes, _values(data, task, way.name, key).T)
            name = QUANTITIES[key][0].split(",")[0]
            question = f"{kind.capitalize()}: with which power of n does {name} grow, {way.name}?"
            shown = f"{QUANTITIES[theirs][0].split(',')[0]}: {quoted} quoted, {rows:.2f} by least squares on its rows"
            verdict = in_exponent(ours, (quoted, rows))
            out.append(Finding(question, "" if ours is None else str(ours), ours, shown, verdict))
        for key, (sign, text) in COMPARED.items():
            ours = paired(_values(data, task, "naive", key)[-1], _values(data, task, "TeamTR", key)[-1])
            question = f"{kind.capitalize()}: at n = {sizes[-1]}, {text} on cached rollouts than on fresh ones?"
            unit = "" if key == "d_occ" else " %" if key in ("delta_stale", "gap_in_use") else " points"
            out.append(Finding(question, f"{ours}{unit}", ours, "yes", in_sign(ours, sign)))
    return out


def table(data: dict[str, Any]) -> Table:
    heads = [
        "",
        "n",
        *(name for name, _ in QUANTITIES.values()),
        "paper: Δ_stale",
        "D_occ",
        "accuracy, %",
        "instability, %",
    ]
    lines = []
    for task in TASKS:
        for way in WAYS:
            theirs, ends = paper.SCALING[way.name], paper.SCALING_ENDS[way.name]
            for i, n in enumerate(data["sizes"]):
                at = paper.SCALING_N.index(n)
                ours = [str(mean(_values(data, task, way.name, key)[i])) for key in QUANTITIES]
                known = {0: 0, len(paper.SCALING_N) - 1: 1}
                last = [ends[key][known[at]] if at in known else "" for key in ("accuracy", "instability")]
                lines.append(
                    [f"{TASKS[task][1]}, {way.name}", n, *ours, theirs["delta_stale"][at], theirs["d_occ"][at], *last]
                )
    return heads, lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, grid = axes(1, 5, (16, 3.1))
    sizes = data["sizes"]
    for ax, key in zip(grid, COMPARED, strict=True):
        for task in TASKS:
            for way in WAYS:
                rows = _values(data, task, way.name, key)
                if key != "gap_in_use" or (rows > 1e-9).all():
                    band(ax, sizes, rows, TINT[way.name], f"ours, {TASKS[task][1]}, {way.name}", STYLE[task])
        for way in WAYS:
            if key in paper.SCALING[way.name]:
                style = {**PAPER, "label": f"the paper, {way.name}", "marker": "s" if way.name == "naive" else "v"}
                ax.plot(paper.SCALING_N, paper.SCALING[way.name][key], markersize=3, linewidth=0.8, **style)
            elif key in paper.SCALING_ENDS[way.name]:
                style = {**PAPER, "marker": "s" if way.name == "naive" else "v"}
                ax.plot((2, 8), paper.SCALING_ENDS[way.name][key], markersize=3, linewidth=0.8, **style)
        if key in ("delta_stale", "d_occ", "gap_in_use"):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
        ax.minorticks_off()
        ax.set_xticks(sizes, sizes)
        ax.set_xlabel("agents n")
        ax.set_title(QUANTITIES[key][0], fontsize=9)
    grid[1].legend(fontsize=6, frameon=False)
    return save(figure, path)


SCALING = Question(
    id="Tab 2a",
    title="What grows with the number of agents?",
    protocol="""
    Transformer teams (d = 16, one layer), two symbols, started at a mean reward of .45 to .55 whatever n (at n = 2
    above it where random networks already are). Complements: the task `Chain`, two rounds, T = 2n: the first mistake
    ends the chain. Substitutes: the task `Quota`, one round, T = n: exactly one message is to say b. Every transcript
    is enumerated: Δ_stale = Σ_i |L_i^seq − L_i^stale|, D_occ = Σ_i TV(d^{i−1}, d⁰), the gap between an improvement
    and the surrogate that the rollouts in use estimate, J and instability (mean loss of J in an update) are exact,
    means over ten stages. Both ways get the same rollouts and tokens a stage (256 n), and the same rate (0.003).
    Slopes: least squares in logarithms for each seed over all n shown; held fixed: δ = .01 nats a message, range of
    the reward, J at the start.
    """,
    limits="""
    Two symbols and at most sixteen turns: contexts are few and none is new after an update.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
Δ_stale and D_occ are differences between the stage's teams and its first one: they do not depend on which rollouts were
    used, and two ways whose steps are equally long have equal ones. What resampling changes is the gap of the surrogate in
    use. D_occ of chains is near the n^{3/2} that S3 allows; that of quotas still grows as coherent rare steps do (R2). Sums
    over pairs k < i have no terms at i = 1, so a fit over small n reads more than the power that lasts; signs of single gaps
    cancel where agents do not push the same way (R3, R7).
    """,
)


# --------------------------------------------------------------------------------------------------------------------- Figure 2


def collect_gaps(settings: ReproduceSettings) -> dict[str, Any]:
    found = {task: trained(settings, _runs(task, 3, settings)) for task in TASKS}
    return {"seeds": list(settings.own_seeds),
            "gaps": {task: {way.name: [abs(_gaps(x))[:, 1:].tolist() for x in each[way.name]] for way in WAYS}
                     for task, each in found.items()}}  # fmt: skip


def _means(data: dict[str, Any], task: str, way: str) -> NDArray[np.float64]:
    """``[seeds, 2]``, %: mean over the stages of the gap of the second and of the third update."""
    return 100 * np.asarray(data["gaps"][task][way]).mean(1)


def gap_findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for task, (_, kind) in TASKS.items():
        naive, ours = _means(data, task, "naive"), _means(data, task, "TeamTR")
        later = paired(naive[:, 1], naive[:, 0])
        question = (
            f"{kind.capitalize()}: on cached rollouts, is the gap of the third update larger than that of the second?"
        )
        out.append(Finding(question, f"{later} %", later, "yes", in_sign(later, 1.0)))
        fresh = paired(naive.sum(1), ours.sum(1))
        question = f"{kind.capitalize()}: are the gaps on cached rollouts larger than on fresh ones?"
        out.append(Finding(question, f"{fresh} %", fresh, "yes", in_sign(fresh, 1.0)))
    return out


def gap_table(data: dict[str, Any]) -> Table:
    lines = [
        [f"{TASKS[task][1]}, {way.name}", *(str(mean(x)) for x in _means(data, task, way.name).T)]
        for task in TASKS
        for way in WAYS
    ]
    return [
        "|gap| of the surrogate in use, % of the reward's range, mean over stages",
        "update 2",
        "update 3",
    ], lines


def draw_gaps(data: dict[str, Any], path: Path) -> Path:
    figure, grid = axes(1, 4, (13, 3))
    for ax, (task, way) in zip(grid, [(task, way) for task in TASKS for way in WAYS], strict=True):
        gaps = 100 * np.asarray(data["gaps"][task][way.name])
        for update, style in ((0, "-"), (1, "--")):
            rows = gaps[:, :, update].T
            band(ax, np.arange(1, len(rows) + 1), rows, TINT[way.name], f"update {update + 2}", style, 0.0)
        ax.set(xlabel="stage", title=f"{TASKS[task][1]}, {way.name}")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=7, frameon=False)
    for left, right in (grid[:2], grid[2:]):
        right.sharey(left) if np.diff(right.get_ylim()) < np.diff(left.get_ylim()) else left.sharey(right)
    grid[0].set_ylabel("|gap|, % of the reward's range")
    return save(figure, path)


GAPS = Question(
    id="Fig 2",
    title="Does the gap grow along a stage?",
    protocol="""
    The three-agent teams of Tab 2a. Gap: exact improvement less the exact surrogate that the rollouts in use
    estimate, of the second and third update of every stage.
    """,
    limits="""
    The paper's curves are not given as numbers; only their order can be compared.
    """,
    collect=collect_gaps,
    findings=gap_findings,
    table=gap_table,
    draw=draw_gaps,
    why="""
    Where every agent speaks once, in the order of the updates, what an agent says cannot reach its own later turns:
    fresh gaps are 0 exactly (R4).
    """,
)
