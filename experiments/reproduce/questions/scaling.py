"""Table 2a and Figure 2: what grows with the number of agents, on cached rollouts and on fresh ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import COLOURS, PAPER, axes, save
from experiments.reproduce.chain import Chain
from experiments.reproduce.enumerated import Way
from experiments.reproduce.question import Finding, Question, Settings
from experiments.reproduce.runs import Found, by_stage, objective, trained
from experiments.reproduce.statistics import in_exponent, in_sign, mean, paired, slope
from theory.fits import log_slope

__all__ = ["SCALING", "GAPS"]

WAYS = (Way("TeamTR", "teamtr"), Way("naive", "no_resampling"))
SCHEDULE = {"TeamTR": "fresh", "naive": "once"}
STAGES, QUICK_STAGES = 10, 3
ROLLOUTS = 256

QUANTITIES = {
    "delta_stale": (
        "Δ_stale, % of the reward's range",
        lambda c: 100 * abs(by_stage(c, "seq_minus_stale")).sum(1).mean(),
    ),
    "d_occ": ("D_occ", lambda c: by_stage(c, "occupancy_tv_stale").sum(1).mean()),
    "gap_in_use": (
        "Σ|gap in use| %",
        lambda c: 100 * abs(by_stage(c, "improvement") - by_stage(c, "surrogate_in_use")).sum(1).mean(),
    ),
    "accuracy": ("J at the end, %", lambda c: 100 * objective(c)[-1]),
    "instability": ("instability, %", lambda c: 100 * np.maximum(-by_stage(c, "improvement"), 0).mean()),
}


COMPARED = {
    "delta_stale": (1.0, "is Δ_stale larger"),
    "d_occ": (1.0, "is D_occ larger"),
    "accuracy": (-1.0, "is accuracy at the end lower"),
    "instability": (1.0, "is instability larger"),
}


def _sizes(settings: Settings) -> tuple[int, ...]:
    return paper.SCALING_N[:3] if settings.quick else paper.SCALING_N


def collect(settings: Settings) -> dict[str, Any]:
    sizes, stages = _sizes(settings), QUICK_STAGES if settings.quick else STAGES
    runs = {n: trained(settings, WAYS, Chain(n), stages, ROLLOUTS) for n in sizes}
    return {
        "sizes": list(sizes),
        "stages": stages,
        "seeds": list(range(settings.seeds)),
        "values": {
            way.name: {
                key: [[float(f(c)) for c in runs[n][way.name]] for n in sizes] for key, (_, f) in QUANTITIES.items()
            }
            for way in WAYS
        },
    }


def _values(data: dict[str, Any], way: str, key: str) -> NDArray[np.float64]:
    """``[sizes, seeds]``."""
    return np.asarray(data["values"][way][key])


def findings(data: dict[str, Any]) -> list[Finding]:
    sizes, out = data["sizes"], []
    for way in WAYS:
        for key in ("delta_stale", "d_occ"):
            quoted = paper.SLOPES[way.name][key]
            rows = log_slope(paper.SCALING_N, paper.SCALING[way.name][key]).slope
            ours = slope(sizes, _values(data, way.name, key).T)
            name = QUANTITIES[key][0].split(",")[0]
            out.append(
                Finding(f"With which power of n does {name} grow, {way.name}?", "" if ours is None else str(ours), ours,
                        f"{quoted} quoted; {rows:.2f} by least squares on its rows", in_exponent(ours, (quoted, rows)))
            )  # fmt: skip
    for key, (sign, text) in COMPARED.items():
        ours = paired(_values(data, "naive", key)[-1], _values(data, "TeamTR", key)[-1])
        out.append(
            Finding(
                f"At n = {sizes[-1]}, {text} on cached rollouts than on fresh ones?",
                str(ours),
                ours,
                "yes",
                in_sign(ours, sign),
            )
        )
    return out


def table(data: dict[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    heads = ["", "n", *(name for name, _ in QUANTITIES.values()), "paper: Δ_stale", "paper: D_occ"]
    lines = []
    for way in WAYS:
        for i, n in enumerate(data["sizes"]):
            theirs = paper.SCALING[way.name]
            at = paper.SCALING_N.index(n)
            ours = [str(mean(_values(data, way.name, key)[i])) for key in QUANTITIES]
            lines.append([way.name, n, *ours, theirs["delta_stale"][at], theirs["d_occ"][at]])
    return heads, lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, grid = axes(1, 4, (13, 3.1))
    for ax, key in zip(grid, ("delta_stale", "d_occ", "accuracy", "instability"), strict=True):
        for way in WAYS:
            found = [mean(x) for x in _values(data, way.name, key)]
            colour = COLOURS[SCHEDULE[way.name]]
            ax.plot(
                data["sizes"], [x.value for x in found], "o-", color=colour, markersize=3, label=f"ours, {way.name}"
            )
            ax.fill_between(
                data["sizes"], [x.low for x in found], [x.high for x in found], color=colour, alpha=0.2, linewidth=0
            )
            if key in paper.SCALING[way.name]:
                style = {**PAPER, "label": f"the paper, {way.name}", "marker": "s" if way.name == "naive" else "^"}
                ax.plot(paper.SCALING_N, paper.SCALING[way.name][key], markersize=3, linewidth=0.8, **style)
        if key in ("delta_stale", "d_occ"):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
        ax.set_xticks(data["sizes"], data["sizes"])
        ax.set_xlabel("agents n")
        ax.set_title(QUANTITIES[key][0], fontsize=9)
    grid[0].legend(fontsize=6, frameon=False)
    return save(figure, path)


SCALING = Question(
    id="Tab 2a",
    title="What grows with the number of agents?",
    protocol="""
    Transformer teams (d = 16, one layer) with two symbols and two rounds of one symbol each, so T = 2n; the task
    `Chain`: the first mistake ends the chain. Every transcript is enumerated: Δ_stale = Σ_i |L_i^seq − L_i^stale|,
    D_occ = Σ_i TV(d^{i−1}, d⁰), J and instability (mean loss of J in an update) are exact, means over the stages.
    Both ways get the same rollouts and tokens a stage. Slopes: least squares in logarithms for each seed over all n
    shown, δ per message held fixed.
    """,
    limits="""
    Two symbols and sixteen turns: contexts are few and none is new after an update. Accuracy of the paper is of
    models that are good before training; ours learn from nothing.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    Sums over pairs k < i have no terms at i = 1, so a fit over small n reads more than the power that lasts; signs of
    the single gaps cancel where agents do not push the same way (R3, R7). U2: a turn-taking stage on one batch of
    exact advantages cannot end below its start.
    """,
)


# --------------------------------------------------------------------------------------------------------------------- Figure 2


def collect_gaps(settings: Settings) -> dict[str, Any]:
    stages = QUICK_STAGES if settings.quick else STAGES
    runs = trained(settings, WAYS, Chain(3), stages, ROLLOUTS)

    def gaps(c: Found) -> list[list[float]]:
        return abs(by_stage(c, "improvement") - by_stage(c, "surrogate_in_use"))[:, 1:].tolist()

    return {"stages": stages, "seeds": list(range(settings.seeds)),
            "gaps": {way.name: [gaps(c) for c in runs[way.name]] for way in WAYS}}  # fmt: skip


def _means(data: dict[str, Any], way: str) -> NDArray[np.float64]:
    """``[seeds, 2]``: mean over the stages of the gap of the second and of the third update."""
    return np.asarray(data["gaps"][way]).mean(1)


def gap_findings(data: dict[str, Any]) -> list[Finding]:
    naive, ours = _means(data, "naive"), _means(data, "TeamTR")
    later = paired(naive[:, 1], naive[:, 0])
    fresh = paired(naive.sum(1), ours.sum(1))
    return [
        Finding(
            "On cached rollouts, is the gap of the third update larger than that of the second?",
            str(later),
            later,
            "yes",
            in_sign(later, 1.0),
        ),
        Finding(
            "Are the gaps on fresh rollouts smaller than on cached ones?", str(fresh), fresh, "yes", in_sign(fresh, 1.0)
        ),
    ]


def gap_table(data: dict[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    lines = [[way.name, *(str(mean(x)) for x in _means(data, way.name).T)] for way in WAYS]
    return ["|gap| of the surrogate in use, mean over stages", "update 2", "update 3"], lines


def draw_gaps(data: dict[str, Any], path: Path) -> Path:
    figure, grid = axes(1, 2, (8, 3), sharey=True)
    for ax, way in zip(grid, WAYS, strict=True):
        gaps = np.asarray(data["gaps"][way.name])
        for update, style in ((0, "-"), (1, "--")):
            found = [mean(x) for x in gaps[:, :, update].T]
            x = np.arange(1, len(found) + 1)
            ax.plot(x, [y.value for y in found], style, color=COLOURS[SCHEDULE[way.name]], label=f"update {update + 2}")
            ax.fill_between(
                x,
                [max(y.low, 0) for y in found],
                [y.high for y in found],
                color=COLOURS[SCHEDULE[way.name]],
                alpha=0.15,
                linewidth=0,
            )
        ax.set(xlabel="stage", title=way.name)
        ax.legend(fontsize=7, frameon=False)
    grid[0].set_ylabel("|gap|, in units of the reward")
    return save(figure, path)


GAPS = Question(
    id="Fig 2",
    title="Does the gap grow along a stage?",
    protocol="""
    The three-agent teams of Tab 2a. Gap: exact improvement minus the exact surrogate on the occupancy that the
    rollouts in use came from, of the second and third update of every stage.
    """,
    limits="""
    The paper's curves are not given as numbers; only their order can be compared.
    """,
    collect=collect_gaps,
    findings=gap_findings,
    table=gap_table,
    draw=draw_gaps,
)
