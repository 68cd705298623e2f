"""Tables 2b and 9: what each part of the method is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.chain import Chain
from experiments.reproduce.enumerated import Way
from experiments.reproduce.question import Finding, Question, Settings
from experiments.reproduce.runs import by_stage, objective, regressions, trained, tuned
from experiments.reproduce.statistics import Interval, in_sign, mean, paired, within

__all__ = ["ABLATION", "TASK", "STAGES", "QUICK_STAGES", "ROLLOUTS"]

TASK = Chain(3, rounds=2, message_length=2)
STAGES, QUICK_STAGES = 12, 3
ROLLOUTS = 128
FULL = Way("full", "teamtr")

WAYS = (
    FULL,
    Way("adaptive KL only", "adaptive_kl"),
    Way("fixed KL only", "fixed_kl"),
    Way("resample every 2nd", "every_2"),
    Way("importance weights", "importance_weights"),
    Way("no resampling", "no_resampling"),
    Way("no trust region", "no_trust_region"),
    Way("δ = .001", "teamtr", delta=0.001),
    Way("δ = .1", "teamtr", delta=0.1),
    Way("order reverse", "teamtr", order="reverse"),
    Way("order random", "teamtr", order="random"),
    Way("no group norm", "no_group_norm"),
    Way("no clip", "no_clip"),
)


def collect(settings: Settings) -> dict[str, Any]:
    stages = QUICK_STAGES if settings.quick else STAGES
    ways, record = tuned(settings, WAYS, TASK, stages, ROLLOUTS)
    runs = trained(settings, ways, TASK, stages, ROLLOUTS)
    return {
        "stages": stages,
        "seeds": list(range(settings.seeds)),
        "tuning": record,
        "end": {name: [float(100 * objective(c)[-1]) for c in each] for name, each in runs.items()},
        "start": [float(100 * objective(c)[0]) for c in runs["full"]],
        "regressions": {name: [regressions(c) for c in each] for name, each in runs.items()},
        "rollouts": {name: [float(by_stage(c, "rollouts").sum()) for c in each] for name, each in runs.items()},
    }


def _difference(data: dict[str, Any], name: str) -> Interval:
    return paired(data["end"][name], data["end"]["full"])


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for way in WAYS[1:]:
        ours, theirs = _difference(data, way.name), paper.ABLATION[way.name] - paper.ABLATION["full"]
        if way.name.startswith("order"):
            verdict, question = (
                within(ours, paper.ORDER_SPREAD),
                f"Is it within {paper.ORDER_SPREAD} points of the full method with '{way.name}'?",
            )
        else:
            verdict, question = in_sign(ours, theirs), f"Does '{way.name}' end below the full method?"
        out.append(Finding(question, f"{ours} points", ours, f"{theirs:+.1f} points", verdict))
    return out


def table(data: dict[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    rates = {x["way"]: x["chosen"] for x in data["tuning"]}
    lines: list[Sequence[object]] = []
    for way in WAYS:
        difference = "" if way is FULL else _difference(data, way.name)
        p = "" if way is FULL or difference == "" or difference.p is None else f"{difference.p:.2g}"
        lines.append([way.name, mean(data["end"][way.name]), difference, p, mean(data["regressions"][way.name]),
                      f"{np.mean(data['rollouts'][way.name]):.0f}", f"{rates[way.name]:g}",
                      paper.ABLATION[way.name]])  # fmt: skip
    return [
        "",
        "J at the end, %",
        "− full, points",
        "p",
        "regressions, %",
        "rollouts",
        "rate",
        "paper: accuracy, %",
    ], lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, (ours, theirs) = axes(1, 2, (9, 4), sharey=True)
    names = [way.name for way in WAYS[1:]]
    for i, name in enumerate(names):
        x = _difference(data, name)
        ours.plot([x.low, x.high], [i, i], color=COLOURS["fresh"], linewidth=1)
        ours.plot(x.value, i, "o", color=COLOURS["fresh"], markersize=4)
    theirs.plot(
        [paper.ABLATION[name] - paper.ABLATION["full"] for name in names],
        range(len(names)),
        "s",
        color="0.6",
        markersize=4,
    )
    for ax, title in ((ours, "ours: J at the end − full, points"), (theirs, "the paper: accuracy − full, points")):
        ax.axvline(0, color="0.7", linewidth=0.8)
        ax.set_title(title, fontsize=9)
    ours.set_yticks(range(len(names)), names, fontsize=8)
    ours.invert_yaxis()
    return save(figure, path)


ABLATION = Question(
    id="Tab 2b, 9",
    title="What is each part of the method worth?",
    protocol="""
    Three agents, two rounds, messages of two symbols (4,096 transcripts), the task `Chain`, from random networks. J
    is exact, paired by seed. Every row has its own learning rate, chosen by the exact J at the end among the same
    three on two seeds that are not used again; the same rollouts and tokens a stage.
    """,
    limits="""
    A toy policy has nothing to forget: what a large step destroys in a language model, from format to other tasks, is
    not in J.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    On a task that is learnt from nothing, whoever moves further in a stage ends higher; a radius costs speed, and
    there is nothing that it protects. At matched rollouts one large set has less noise than three small ones
    (docs/experiments.md, regressions).
    """,
)
