"""Tables 2b and 9: what each part of the method is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import ends, points, rollouts_of, thousands, tokens_of
from experiments.reproduce.runs import regressions, trained, tuned
from experiments.reproduce.statistics import in_size, mean, p_value, paired, within
from experiments.reproduce.training import Run, Way
from teamtr_jax.intervals import Interval

__all__ = ["ABLATION", "TEACHING", "run_of"]

FULL = Way("full", "teamtr")

WAYS = (
    FULL,
    Way("adaptive KL only", "adaptive_kl"),
    Way("fixed KL only", "fixed_kl"),
    Way("resample every 2nd", "every_2"),
    Way("importance weights", "importance_weights"),
    Way("no resampling", "no_resampling"),
    Way("importance weights, same sets", "importance_weights", same_sets=True),
    Way("no resampling, same sets", "no_resampling", same_sets=True),
    Way("no trust region", "no_trust_region"),
    Way("δ = .001", "teamtr", delta=0.001),
    Way("δ = .1", "teamtr", delta=0.1),
    Way("order reverse", "teamtr", order="reverse"),
    Way("order random", "teamtr", order="random"),
    Way("no group norm", "no_group_norm"),
    Way("no clip", "no_clip"),
)

FRAIL = ("adaptive KL only", "fixed KL only", "no trust region", "δ = .1")
LARGE = 0.03
"""Also compared at this rate: too large, as one may choose it unknowingly."""

TEACHING = """
    Three agents, two rounds of one symbol, eight prompts of three switches less those held out; the task `Chain`: the
    first mistake ends the chain. A supervised start ends at a mean reward of .5 to .6. All 512 transcripts are
    enumerated: J and all that is said of an update are exact.
    """
"""The teams of most questions."""


def run_of(way: Way, settings: ReproduceSettings) -> Run:
    """A run on these teams."""
    return Run(way, "chain switches=3", 0, settings.at(30, 3), 128, 0.5)


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    runs, record = tuned(settings, [run_of(way, settings) for way in WAYS])
    found = trained(settings, runs)
    rate = record[0]["chosen"]
    same = trained(settings, [run_of(replace(way, learning_rate=rate), settings) for way in WAYS])
    large = trained(
        settings, [run_of(replace(way, learning_rate=LARGE), settings) for way in WAYS if way.name in ("full", *FRAIL)]
    )
    return {
        "seeds": list(settings.own_seeds),
        "tuning": record,
        "end": {name: ends(each) for name, each in found.items()},
        "end_at_one_rate": {name: ends(each) for name, each in same.items()},
        "end_at_large_rate": {name: ends(each) for name, each in large.items()},
        "start": [100 * one["values"][0] for one in found["full"]],
        "regressions": {name: [regressions(one) for one in each] for name, each in found.items()},
        "rollouts": {name: [rollouts_of(x) for x in each] for name, each in found.items()},
        "tokens": {name: [tokens_of(x) for x in each] for name, each in found.items()},
    }


def _difference(data: dict[str, Any], name: str, key: str = "end") -> Interval:
    return paired(data[key][name], data[key]["full"])


def _tried(data: dict[str, Any], name: str) -> dict[float, float]:
    """Value at the end in %, mean over the tuning seeds, for each rate."""
    found = next(x for x in data["tuning"] if x["way"] == name)
    return {rate: 100 * float(np.mean(x)) for rate, x in zip(found["rates"], found["ends"], strict=True)}


def _theirs(name: str) -> float:
    """The paper's difference to the full method, in points."""
    return paper.ABLATION[name.removesuffix(", same sets")] - paper.ABLATION["full"]


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for way in WAYS[1:]:
        ours, theirs = _difference(data, way.name), _theirs(way.name)
        if way.name.startswith("order"):
            question = f"Is it within {paper.ORDER_SPREAD} points of the full method with '{way.name}'?"
            out.append(
                Finding(question, f"{ours} points", ours, f"{theirs:+.1f} points", within(ours, paper.ORDER_SPREAD))
            )
            continue
        question = f"Does '{way.name}' end below the full method, each at its best rate?"
        out.append(Finding(question, f"{ours} points", ours, f"{theirs:+.1f} points", in_size(ours, theirs)))
    for name in FRAIL:
        ours, theirs = _difference(data, name, "end_at_large_rate"), _theirs(name)
        question = f"Does '{name}' end below the full method at a large rate, {LARGE:g}?"
        out.append(Finding(question, f"{ours} points", ours, f"{theirs:+.1f} points", in_size(ours, theirs)))
    return out


def table(data: dict[str, Any]) -> Table:
    rates = {x["way"]: x["chosen"] for x in data["tuning"]}
    lines = []
    for way in WAYS:
        difference = None if way is FULL else _difference(data, way.name)
        at_one = "" if way is FULL else _difference(data, way.name, "end_at_one_rate")
        found = None if difference is None else p_value(difference)
        p = "" if found is None else f"{found:.2g}"
        tried = _tried(data, way.name)
        lines.append([
            way.name, mean(data["end"][way.name]), "" if difference is None else difference, p, f"{rates[way.name]:g}",
            at_one, f"{min(tried.values()):.0f} to {max(tried.values()):.0f}", mean(data["regressions"][way.name]),
            thousands(data["rollouts"][way.name]), thousands(data["tokens"][way.name]), paper.ABLATION.get(way.name, ""),
        ])  # fmt: skip
    one = f"{rates['full']:g}"
    return ["", "J at the end, %", "− full, points", "p", "its rate", f"− full, all at rate {one}", "J over all rates, %",
            "regressions, %", "rollouts", "tokens", "paper: accuracy, %"], lines  # fmt: skip


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, (ours, theirs, rates) = axes(1, 3, (12, 4), width_ratios=[1, 0.8, 1.1])
    names = [way.name for way in WAYS[1:]]
    points(ours, [_difference(data, name) for name in names], COLOURS["fresh"], names)
    there = [_theirs(name) for name in names]
    theirs.plot(there, range(len(names)), "s", color="0.6", markersize=4)
    theirs.set_yticks(range(len(names)), [])
    theirs.set_ylim(len(names) - 0.5, -0.5)
    for ax, title in (
        (ours, "ours, each at its best rate: J − full, points"),
        (theirs, "the paper: accuracy − full, points"),
    ):
        ax.axvline(0, color="0.7", linewidth=0.8)
        ax.set_title(title, fontsize=9)
    shown = {"full": COLOURS["fresh"], "δ = .001": "0.6", "δ = .1": COLOURS["certificate"], "adaptive KL only": COLOURS["joint"],
             "fixed KL only": COLOURS["single"], "no trust region": COLOURS["once"]}  # fmt: skip
    for name, colour in shown.items():
        tried = _tried(data, name)
        rates.plot(list(tried), list(tried.values()), "o-", color=colour, markersize=3, label=name)
    rates.axhline(np.mean(data["start"]), color="0.8", linewidth=0.8)
    rates.set(xscale="log", xlabel="learning rate", title="J at the end, %, over the rates tried")
    rates.title.set_fontsize(9)
    rates.legend(fontsize=7, frameon=False)
    return save(figure, path)


ABLATION = Question(
    id="Tab 2b, 9",
    title="What is each part of the method worth?",
    protocol=f"""
    {TEACHING} Every row trains from the same starts with the same number of rollouts and tokens a stage, 30 stages,
    paired by seed; `same sets`: with sets as large as those of the full method, so a third of its rollouts. Every row
    has its own learning rate, chosen by the exact J at the end among the same five on three seeds that are not used
    again. Beside it, all rows at the rate of the full method, the span of J over all rates on the seeds that chose,
    and some at a rate that is too large.
    """,
    limits="""
    A toy policy has one task to lose; what a large step destroys in a language model, from format to other tasks, is
    not in J. The radius is that of the paper, .01 a message of one token; there, of hundreds.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    Who may choose a learning rate does not need the radius to avoid collapse: what it buys is that a wrong rate does
    less harm (right panel). Resampling makes sets a third as large at equal rollouts; where advantages are noise,
    that is dearer than staleness (docs/experiments.md, regressions). The rows with the same sets show staleness
    alone: with one common reward a turn-taking stage from one batch hardly loses by it (U2: with exact advantages it
    cannot).
    """,
)
