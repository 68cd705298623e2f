"""Table 1: a team against a single agent, and against other ways to train a team, on all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import ends, rollouts_of, thousands, tokens_of
from experiments.reproduce.runs import trained, tuned
from experiments.reproduce.statistics import in_sign, in_size, mean, paired
from experiments.reproduce.training import Run, Way, is_exact
from teamtr_jax.intervals import Interval

__all__ = ["TEAMS"]

TASKS = {
    "chain": ("chain switches=3", 0.5),
    "quota": ("quota agents=4", 0.45),
    "copy": ("copy", 0.4),
    "parity": ("parity shares=True", 0.5),
    "carry": ("carry digits=2", 0.15),
    "relay": ("relay keys=5", 0.3),
    "chain_sum": ("chain_sum", 0.1),
    "gcd": ("gcd max_value=30", 0.2),
    "spell_backward": ("spell_backward min_word_len=3 max_word_len=3", 0.15),
}
"""Name → task and where the supervised start ends."""

WAYS = (
    Way("TeamTR", "teamtr"),
    Way("stale", "no_resampling"),
    Way("importance weights", "importance_weights"),
    Way("single agent", "lone"),
)
TINTS = (COLOURS["fresh"], COLOURS["once"], COLOURS["certificate"], COLOURS["single"])
RATES = (1e-3, 3e-3, 1e-2)
SAMPLED_RATES = (1e-3, 3e-3)
TUNING = (1000,)
QUICK_TASKS = ("chain", "quota", "copy")


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    data: dict[str, Any] = {"seeds": list(settings.few_seeds), "tasks": {}, "tuning": []}
    for name, (task, start) in TASKS.items():
        if settings.quick and name not in QUICK_TASKS:
            continue
        exact = is_exact(task)
        stages = settings.at(20 if exact else 10, 2)
        runs = [Run(way, task, 0, stages, 128 if exact else 256, start) for way in WAYS]
        chosen, record = tuned(settings, runs, RATES if exact else SAMPLED_RATES, TUNING)
        found = trained(settings, chosen, settings.few_seeds)
        data["tuning"] += [{**x, "way": f"{name}, {x['way']}"} for x in record]
        data["tasks"][name] = {
            "exact": exact,
            "start": {way: [100 * x["values"][0] for x in each] for way, each in found.items()},
            "end": {way: ends(each) for way, each in found.items()},
            "tokens": {way: [tokens_of(x) for x in each] for way, each in found.items()},
            "rollouts": {way: [rollouts_of(x) for x in each] for way, each in found.items()},
        }
    return data


def _over_tasks(data: dict[str, Any], way: str, gain: bool = False) -> NDArray[np.float64]:
    """``[seeds]``: mean over the tasks of the value at the end, or of what was gained."""
    each = [np.asarray(x["end"][way]) - (np.asarray(x["start"][way]) if gain else 0) for x in data["tasks"].values()]
    return np.mean(each, 0)


def _against(data: dict[str, Any], way: str, gain: bool = False) -> Interval:
    return paired(_over_tasks(data, "TeamTR", gain), _over_tasks(data, way, gain))


def findings(data: dict[str, Any]) -> list[Finding]:
    tasks = len(data["tasks"])
    ours = _against(data, "single agent")
    theirs = f"{paper.TEAM_GAIN:+.1f} %"
    question = f"Does the team end above the single agent, mean over {tasks} tasks?"
    out = [Finding(question, f"{ours} points", ours, theirs, in_size(ours, paper.TEAM_GAIN))]
    ours = _against(data, "single agent", True)
    question = f"Does the team gain more than the single agent by training, mean over {tasks} tasks?"
    out.append(Finding(question, f"{ours} points", ours, theirs, in_size(ours, paper.TEAM_GAIN)))
    for way in ("stale", "importance weights"):
        ours = _against(data, way)
        question = f"Does TeamTR end above the team trained with {way}{' rollouts' * (way == 'stale')}, mean over {tasks} tasks?"
        out.append(Finding(question, f"{ours} points", ours, "yes", in_sign(ours, 1.0)))
    return out


def table(data: dict[str, Any]) -> Table:
    rates = {x["way"]: x["chosen"] for x in data["tuning"]}
    lines = []
    for name, x in data["tasks"].items():
        for way in WAYS:
            end = x["end"][way.name]
            against = "" if way.name == "TeamTR" else paired(x["end"]["TeamTR"], end)
            lines.append(
                [
                    name,
                    "exact J" if x["exact"] else "held-out",
                    way.name,
                    mean(x["start"][way.name]),
                    mean(end),
                    against,
                    thousands(x["rollouts"][way.name]),
                    thousands(x["tokens"][way.name]),
                    f"{rates[f'{name}, {way.name}']:g}",
                ]
            )
    for way in WAYS:
        against = "" if way.name == "TeamTR" else _against(data, way.name)
        lines.append(["**mean over tasks**", "", way.name, "", mean(_over_tasks(data, way.name)), against, "", "", ""])
    return [
        "task",
        "measured",
        "",
        "at the start, %",
        "at the end, %",
        "TeamTR − it, points",
        "rollouts",
        "tokens",
        "its rate",
    ], lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, ax = axes(1, 1, (9.5, 3.2))
    names = [*data["tasks"], "mean"]
    for k, (way, colour) in enumerate(zip(WAYS, TINTS, strict=True)):
        found = [mean(x["end"][way.name]) for x in data["tasks"].values()] + [mean(_over_tasks(data, way.name))]
        x = np.arange(len(names)) + 0.16 * (k - 1.5)
        ax.errorbar(x, [y.value for y in found], [[y.value - y.low for y in found], [y.high - y.value for y in found]], fmt="o",
                    color=colour, markersize=4, linewidth=1, label=way.name)  # fmt: skip
    starts = [np.mean([x["start"][way.name] for way in WAYS]) for x in data["tasks"].values()]
    ax.plot(range(len(starts)), starts, "_", color="0.6", markersize=22, label="start")
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set_ylabel("value at the end, %")
    ax.legend(fontsize=7, frameon=False)
    return save(figure, path)


TEAMS = Question(
    id="Tab 1",
    title="Is a team better than a single agent, at a matched budget?",
    protocol="""
    Nine verifiable tasks, teams of three (quota: four). Exact J where all transcripts are enumerated (d = 16, one
    layer, 20 stages, 384 rollouts a stage), accuracy on 256 held-out prompts with two conversations each elsewhere (d
    = 32, two layers, 10 stages, 768 rollouts). The single agent has one network of the same size, which takes every
    turn of the same conversations, with roles told apart by position only: the same rollouts (more tokens where a
    role of the team may only write less, as in carry), and one update where a team has one for each agent. Supervised
    starts of all end in the same band of mean rewards (with label smoothing where sampled). Rates are chosen among
    three (two where sampled) on a seed of their own. `joint` (all agents at once) is not listed: where agents take
    turns it is `stale` (`teamtr_jax.schedules.joint`). Five seeds.
    """,
    limits="""
    Three agents have three times the parameters of one here, and start level by construction; in the paper roles of
    strong models bring different abilities together.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    A network of a team learns from its own messages, the single agent from all of them: at matched rollouts it has n
    times the data, and one update on the whole set. Where roles are different mappings (carry) the team is ahead all
    the same; where they are one mapping in several places (chain, copy) the single agent learns it once.
    TeamTR's sets are a third of those of `stale` and `importance weights`, as in Tab 2b. Best rates are at the lower
    end of the three or two in many rows.
    """,
)
