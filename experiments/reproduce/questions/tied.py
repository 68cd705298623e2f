"""Tables 2b and 9 again: what resampling is worth where agents see part of the transcript, or share one network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.ablation import run_of
from experiments.reproduce.questions.shared import ends, points, rollouts_of, thousands
from experiments.reproduce.runs import regressions, trained
from experiments.reproduce.statistics import in_sign, in_size, mean, ours_alone, paired
from experiments.reproduce.training import Run, Way
from teamtr_jax.intervals import Interval

__all__ = ["TIED"]


@dataclass(frozen=True)
class Kind:
    """What the agents of a team know and share."""

    name: str
    task: str
    window: int = 0
    shared: bool = False


FREE = "Chain, own networks, whole transcript"
ALL = "Quota of 8, own networks, whole transcript"
KINDS = (
    Kind(FREE, "chain"),
    Kind("Chain, own networks, prompt and last message", "chain", window=2),
    Kind("Chain, one network for all roles", "chain", shared=True),
    Kind(ALL, "quota"),
    Kind("Quota of 8, own networks, prompt and own turn", "quota", window=1),
)
AGAINST = {"chain": FREE, "quota": ALL}
"""With which kind, of the same task, the others are compared."""

WAYS = (
    Way("full", "teamtr"),
    Way("no resampling", "no_resampling"),
    Way("no resampling, same sets", "no_resampling", same_sets=True),
)
RATES = {"chain": 1e-3, "quota": 3e-3}
"""Those of the full method in Tab 2b and of both ways in Tab 2a."""
START = 0.3
"""Of quotas: blind volunteers cannot be taught more than .39."""


def _run(kind: Kind, way: Way, settings: ReproduceSettings) -> Run:
    way = replace(way, learning_rate=RATES[kind.task], window=kind.window, shared=kind.shared)
    if kind.task == "chain":
        return run_of(way, settings)
    return Run(way, "quota agents=8", 0, settings.at(10, 2), 256, START)


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    kinds = KINDS[:3] if settings.quick else KINDS
    found = {
        kind.name: trained(settings, [_run(kind, way, settings) for way in WAYS], settings.few_seeds) for kind in kinds
    }
    return {
        "seeds": list(settings.few_seeds),
        "kinds": {
            name: {
                way: {
                    "start": [100 * x["values"][0] for x in each],
                    "end": ends(each),
                    "regressions": [regressions(x) for x in each],
                    "rollouts": [rollouts_of(x) for x in each],
                }
                for way, each in of.items()
            }
            for name, of in found.items()
        },
    }


def _kinds(data: dict[str, Any]) -> list[Kind]:
    return [kind for kind in KINDS if kind.name in data["kinds"]]


def _difference(data: dict[str, Any], kind: str, way: str, key: str = "end") -> Interval:
    return paired(data["kinds"][kind][way][key], data["kinds"][kind]["full"][key])


def _moved(data: dict[str, Any], kind: Kind, way: str) -> Interval:
    """By how much more the way ends below the full method than it does with free rows, points."""

    def below(name: str) -> list[float]:
        found = data["kinds"][name]
        return np.subtract(found["full"]["end"], found[way]["end"]).tolist()

    return paired(below(kind.name), below(AGAINST[kind.task]))


def findings(data: dict[str, Any]) -> list[Finding]:
    theirs, out = paper.ABLATION["no resampling"] - paper.ABLATION["full"], []
    for kind in _kinds(data):
        for way in WAYS[1:]:
            ours = _difference(data, kind.name, way.name)
            question = f"{kind.name}: does '{way.name}' end below the full method?"
            out.append(Finding(question, f"{ours} points", ours, f"{theirs:+.1f} points", in_size(ours, theirs)))
        more = _difference(data, kind.name, "no resampling, same sets", "regressions")
        question = f"{kind.name}: do more updates make J smaller without resampling, same sets?"
        out.append(Finding(question, f"{more} points", more, "yes", in_sign(more, 1.0)))
        if kind.name != AGAINST[kind.task]:
            ours = _moved(data, kind, "no resampling, same sets")
            question = f"{kind.name}: is resampling worth more than with free rows, same sets?"
            out.append(Finding(question, f"{ours} points", ours, "–", ours_alone(in_sign(ours, 1.0))))
    return out


def table(data: dict[str, Any]) -> Table:
    lines = []
    for kind in _kinds(data):
        for way in WAYS:
            x = data["kinds"][kind.name][way.name]
            below = "" if way.name == "full" else _difference(data, kind.name, way.name)
            lines.append(
                [
                    kind.name, way.name, mean(x["start"]), mean(x["end"]), below, mean(x["regressions"]),
                    f"{RATES[kind.task]:g}", thousands(x["rollouts"]), paper.ABLATION.get(way.name, ""),
                ]
            )  # fmt: skip
    return ["", "", "J at the start, %", "J at the end, %", "− full, points", "regressions, %", "rate", "rollouts",
            "paper: accuracy, %"], lines  # fmt: skip


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, grid = axes(1, 2, (12, 2.8))
    kinds = _kinds(data)
    for ax, way, colour in zip(grid, WAYS[1:], (COLOURS["once"], COLOURS["certificate"]), strict=True):
        names = [kind.name for kind in kinds] if ax is grid[0] else [""] * len(kinds)
        points(ax, [_difference(data, kind.name, way.name) for kind in kinds], colour, names)
        ax.axvline(0, color="0.7", linewidth=0.8)
        ax.axvline(paper.ABLATION["no resampling"] - paper.ABLATION["full"], color="0.6", linestyle=":")
        ax.set_title(f"'{way.name}' − full, points; dotted: the paper", fontsize=9)
    return save(figure, path)


TIED = Question(
    id="Tab 2b, tied",
    title="Is resampling worth more where agents see less, or share one network?",
    protocol="""
    The rows on resampling of Tab 2b, at one rate, that of the full method there (.001), from the same seeds, for three
    kinds of teams on its task `Chain`: agents with networks of their own that read the whole transcript, as in all
    other questions; networks that read the prompt and the last message only (a window of two positions, one layer:
    their rows are tied exactly); and one network that takes every turn, updated three times a stage on all messages.
    And eight volunteers of `Quota`, as in Tab 2a (rate .003, ten stages), from a mean reward of .3 to .4: with the
    whole transcript, and with the prompt and their own turn only. J is exact. Five seeds.
    """,
    limits="""
    Networks of one layer, two symbols, the mistake or the one b ends what can be earned: how often a row is shared by
    contexts that want different things decides, and in a language model nobody knows how often that is.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    A window makes rows equal exactly where an agent reads the same (one layer). On the chain that ties no two contexts
    that want different things: see Tab 2a, tied. One network that is updated three times on one set of rollouts follows
    old advantages of its own rows, which is another staleness than that of the paper's agents. Seconds are those of a
    machine with much else to do.
    """,
)
