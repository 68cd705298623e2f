"""Table 2a again: what grows with the number of agents where contexts share a row, on tables, without noise and with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import PAPER, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import TINT, band
from experiments.reproduce.runs import made
from experiments.reproduce.statistics import in_exponent, in_sign, in_size, mean, ours_alone, paired, slope
from experiments.reproduce.tables import RADIUS, TableRun
from teamtr_jax.intervals import Interval
from theory.fits import log_slope

__all__ = ["TIED_TABLES"]

VIEWS = {"whole transcript": 0, "last message": 2, "own turn": 1}
"""What an agent sees besides the prompt and its own turn, and the window of `observations`."""
STYLE = {"whole transcript": "o:", "last message": "^--", "own turn": "s-"}
EXACT = {"TeamTR": "fresh", "naive": "once"}
SAMPLED = {"TeamTR": "fresh", "naive": "once", "naive, same sets": "once, same sets"}
CHAIN = "chain switches=3"
KEYS = ("delta_stale", "d_occ", "instability", "regressions")
ROLLOUTS = 256
LARGE = 0.1
"""The radius of the paper's row δ = .1: ten times its own."""
HOWS = {
    "sampled": (SAMPLED, "by rollouts"),
    "large": (EXACT, "exact tables, δ = .1"),
    "sampled_large": (SAMPLED, "by rollouts, δ = .1"),
}
"""What is asked at the largest n only: ways, and in words."""


def _runs(settings: ReproduceSettings, n: int) -> dict[tuple[str, str, str], TableRun]:
    """By how, view and way; those with rollouts, and of the task `Chain`, at the largest size only."""
    sizes = _sizes(settings)
    stages, seeds = settings.at(10, 2), len(settings.own_seeds)

    def run(task: str, view: str, schedule: str, start: float, how: str = "exact") -> TableRun:
        rollouts = ROLLOUTS if how.startswith("sampled") else 0
        radius = LARGE if how.endswith("large") else RADIUS
        return TableRun(task, VIEWS[view], schedule, start, seeds, stages, rollouts, radius)

    found = {}
    for view in VIEWS:
        for way, schedule in EXACT.items():
            found["exact", view, way] = run(f"quota agents={n}", view, schedule, 1 / n)
        found["exact", view, "stale occupancy"] = run(f"quota agents={n}", view, "stale occupancy", 1 / n)
        if n == sizes[-1]:
            for how, (ways, _) in HOWS.items():
                for way, schedule in ways.items():
                    found[how, view, way] = run(f"quota agents={n}", view, schedule, 1 / n, how)
            for way, schedule in EXACT.items():
                found["chain", view, way] = run(CHAIN, view, schedule, 0.5)
    return found


def _sizes(settings: ReproduceSettings) -> list[int]:
    return list(paper.SCALING_N[: settings.at(6, 3)])


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    asked = {n: _runs(settings, n) for n in _sizes(settings)}
    done = iter(made(settings, [job for jobs in asked.values() for job in jobs.values()]))
    found = {n: {which: next(done) for which in jobs} for n, jobs in asked.items()}

    def kept(x: dict[str, Any]) -> dict[str, Any]:
        values = np.round(100 * np.asarray(x["values"]), 6)  # exact but for rounding: what is equal shall look so
        rounded = {key: [float(f"{100 * y:.5g}") for y in x[key]] for key in KEYS}
        return {"start": values[:, 0].tolist(), "end": values[:, -1].tolist(), **rounded}

    data: dict[str, Any] = {"seeds": list(settings.own_seeds), "sizes": list(asked), "exact": {}}
    for (how, view, way), job in asked[max(asked)].items():
        del job
        if how == "exact":
            data["exact"].setdefault(view, {})[way] = [kept(found[n][how, view, way]) for n in asked]
        else:
            data.setdefault(how, {}).setdefault(view, {})[way] = kept(found[max(asked)][how, view, way])
    return data


def _column(data: dict[str, Any], view: str, way: str, key: str) -> NDArray[np.float64]:
    """``[sizes, seeds]``, of exact tables; D_occ as it is, all else in %."""
    found = np.asarray([x[key] for x in data["exact"][view][way]])
    return found / 100 if key == "d_occ" else found


def _lost(data: dict[str, Any], view: str) -> NDArray[np.float64]:
    """``[sizes, seeds]``: J at the end, naive less TeamTR, points, exact tables."""
    return _column(data, view, "naive", "end") - _column(data, view, "TeamTR", "end")


def _below(data: dict[str, Any], how: str, view: str, way: str) -> Interval:
    return paired(data[how][view][way]["end"], data[how][view]["TeamTR"]["end"])


PAPERS = paper.SCALING_ENDS["naive"]["accuracy"][1] - paper.SCALING_ENDS["TeamTR"]["accuracy"][1]
"""Accuracy at n = 8, points."""


def findings(data: dict[str, Any]) -> list[Finding]:
    sizes, out = data["sizes"], []
    last, theirs = sizes[-1], f"{PAPERS:+.1f} points at n = 8"
    for view in VIEWS:
        ours = mean(_lost(data, view)[-1])
        question = f"Agents see {view}: at n = {last}, does the stage without resampling end lower, exact tables?"
        out.append(Finding(question, f"{ours} points", ours, theirs, in_size(ours, PAPERS)))
        if view != "whole transcript":
            more = mean(_lost(data, view)[0] - _lost(data, view)[-1])
            question = (
                f"Agents see {view}: does it end lower by more at n = {last} than at n = {sizes[0]}, exact tables?"
            )
            out.append(Finding(question, f"{more} points", more, "yes", in_sign(more, 1.0)))
            for key, name in (("instability", "instability"), ("regressions", "the share of updates that lose")):
                more = paired(_column(data, view, "naive", key)[-1], _column(data, view, "TeamTR", key)[-1])
                question = f"Agents see {view}: at n = {last}, is {name} larger without resampling, exact tables?"
                out.append(Finding(question, f"{more} points", more, "yes", in_sign(more, 1.0)))
            out += _slopes(data, view)
            same = np.abs(_column(data, view, "stale occupancy", "end") - _column(data, view, "naive", "end")).max()
            question = (
                f"Agents see {view}: is it the stale occupancy alone that loses (U4), the advantages being current?"
            )
            verdict = ours_alone(in_sign(mean(_lost(data, view)[-1]), -1.0) if same < 1e-6 else "disagrees")
            out.append(Finding(question, f"at most {same:.1g} points apart", None, "–", verdict))
        for how, (ways, words) in HOWS.items():
            for way in list(ways)[1:]:
                ours = _below(data, how, view, way)
                question = f"Agents see {view}: at n = {last}, does '{way}' end lower, {words}?"
                out.append(Finding(question, f"{ours} points", ours, theirs, in_size(ours, PAPERS)))
    for view in VIEWS:
        ours = _below(data, "chain", view, "naive")
        question = f"Chain, agents see {view}: does the stage without resampling end lower, exact tables?"
        out.append(Finding(question, f"{ours} points", ours, "-17.0 points (Tab 2b)", in_size(ours, -17.0)))
    return out


def _slopes(data: dict[str, Any], view: str) -> list[Finding]:
    out = []
    for way in EXACT:
        for key, name in (("delta_stale", "Δ_stale"), ("d_occ", "D_occ")):
            quoted = paper.SLOPES[way][key]
            rows = log_slope(paper.SCALING_N, paper.SCALING[way][key]).slope
            ours = slope(data["sizes"], _column(data, view, way, key).T)
            question = f"Agents see {view}: with which power of n does {name} grow, {way}, exact tables?"
            shown = f"{name}: {quoted:.2f} quoted, {rows:.2f} by least squares on its rows"
            verdict = in_exponent(ours, (quoted, rows))
            out.append(Finding(question, "" if ours is None else str(ours), ours, shown, verdict))
    return out


def table(data: dict[str, Any]) -> Table:
    heads = ["rows tied by what is seen", "", "n", "J at the start, %", "J at the end, %", "− TeamTR, points", "Δ_stale, %",
             "D_occ", "instability, %", "updates that lose, %"]  # fmt: skip
    lines: list[list[object]] = []
    for view in VIEWS:
        for way in EXACT:
            for i, n in enumerate(data["sizes"]):
                start, end, stale, d, loss, share = (
                    mean(_column(data, view, way, key)[i]) for key in ("start", "end", *KEYS)
                )
                below = "" if way == "TeamTR" else mean(_lost(data, view)[i])
                lines.append([f"{view}, exact tables", way, n, start, end, below, stale, d, loss, share])
    for how, (ways, words) in HOWS.items():
        for view in VIEWS:
            for way in ways:
                lines.append([f"{view}, {words}", way, data["sizes"][-1], *_shown(data[how][view], way)])
    for view in VIEWS:
        for way in EXACT:
            lines.append([f"{view}, Chain, exact tables", way, 3, *_shown(data["chain"][view], way)])
    return heads, lines


def _shown(found: dict[str, Any], way: str) -> list[object]:
    x = found[way]
    below = "" if way == "TeamTR" else paired(x["end"], found["TeamTR"]["end"])
    d = mean(np.asarray(x["d_occ"]) / 100)
    return [
        mean(x["start"]),
        mean(x["end"]),
        below,
        mean(x["delta_stale"]),
        d,
        mean(x["instability"]),
        mean(x["regressions"]),
    ]


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, (ends, lost, stale) = axes(1, 3, (12, 3.4))
    sizes = data["sizes"]
    for view in VIEWS:
        for way in EXACT:
            band(ends, sizes, _column(data, view, way, "end"), TINT[way], f"{view}, {way}", STYLE[view])
            rows = _column(data, view, way, "delta_stale")
            if (rows > 0).all():
                band(stale, sizes, rows, TINT[way], f"{view}, {way}", STYLE[view], 1e-6)
        band(lost, sizes, _lost(data, view), TINT["naive"], view, STYLE[view])
    lost.plot((2, 8), [a - b for a, b in zip(*(paper.SCALING_ENDS[x]["accuracy"] for x in ("naive", "TeamTR")), strict=True)],
              **{**PAPER, "label": "the paper"})  # fmt: skip
    for ax, title in (
        (ends, "J at the end, %, exact tables"),
        (lost, "J at the end, naive − TeamTR, points"),
        (stale, "Δ_stale, %"),
    ):
        ax.set(xlabel="agents n", title=title)
        ax.title.set_fontsize(9)
        ax.set_xticks(sizes, sizes)
    stale.set_yscale("log")
    ends.legend(fontsize=6, frameon=False)
    lost.legend(fontsize=6, frameon=False)
    return save(figure, path)


TIED_TABLES = Question(
    id="Tab 2a, tied",
    title="What grows with the number of agents where contexts share a row?",
    protocol="""
    The substitutes of Tab 2a (`Quota`: exactly one of n messages is to say b) played by tables, one row for each thing
    that an agent can see: the whole transcript, the last message, or its own turn only. Starts: every row says b with
    logit log(1/(n−1)) and normal noise of .5, which is what demonstrations teach. Exact tables: exact occupancies and
    advantages, the exact step at δ = .01, no noise at all; cached rollouts against fresh ones, ten stages. By rollouts,
    at the largest n: PPO-clip, adaptive β, early stop at δ = .01, groups of eight, the same 256 n rollouts a stage for
    TeamTR and naive (and sets of 256 for `same sets`). Both also with a radius ten times as large. And the teaching
    teams of Tab 2b (`Chain` with three switches) by exact tables. J and all quantities are exact; ten seeds; every way
    from the same starts.
    """,
    limits="""
    One family in which contexts of a row want opposite things, and one in which they do not. What a language model's
    shared weights tie together is not known; R5 measures it from rollouts.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    Volunteers who cannot see whether somebody has spoken have one row for contexts that want opposite things: say b
    after silence, a after a b. On fresh rollouts the next one knows how likely a b has become and takes the other side;
    on cached ones all read the same lack of it and step forward together, then back together in the next stage. Here
    each agent speaks once, so old advantages are the current ones, digit by digit, and all of the loss is that of the
    stale occupancy: the case in which U2's theorem fails (U4). On the chain a row has at most one context in which
    something can still be earned: weights scale its advantage and never turn it, so U2 holds there with tied rows too.
    Seconds are those of a machine with much else to do.
    """,
)
