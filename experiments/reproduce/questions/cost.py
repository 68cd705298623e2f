"""Table 6: what resampling and the monitor cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import ends, points, rollouts_of, thousands, tokens_of
from experiments.reproduce.runs import Found, trained
from experiments.reproduce.statistics import in_value, mean, ours_alone, paired, within
from experiments.reproduce.training import Run, Way
from teamtr_jax.intervals import Interval

__all__ = ["COST"]

RATE = 1e-3
MARGIN = 3.0
FULL, NAIVE, SAME, BLIND = "TeamTR", "naive, same rollouts", "naive, same sets", "TeamTR, monitor on 1/32"
DRIVEN = {f"certificate-driven, shift ≤ {tolerance:g}": tolerance for tolerance in (0.05, 0.07, 0.1)}
WAYS = (
    Way(FULL, "teamtr", RATE),
    *(Way(name, f"teamtr@{tolerance:g}", RATE) for name, tolerance in DRIVEN.items()),
    Way(SAME, "no_resampling", RATE, same_sets=True),
    Way(NAIVE, "no_resampling", RATE),
    Way(BLIND, "teamtr", RATE, measured=1 / 32),
)


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    runs = [Run(way, "carry digits=2", 0, settings.at(12, 4), 256, 0.25) for way in WAYS]
    found = trained(settings, runs, settings.few_seeds)

    def seconds(x: Found) -> list[float]:
        """Of the stages after the first two, in which programs are compiled."""
        return x["stage_seconds"][2:]

    return {
        "seeds": list(settings.few_seeds),
        "seconds": {name: [seconds(x) for x in each] for name, each in found.items()},
        "tokens": {name: [tokens_of(x) for x in each] for name, each in found.items()},
        "rollouts": {name: [rollouts_of(x) for x in each] for name, each in found.items()},
        "start": {name: [100 * x["values"][0] for x in each] for name, each in found.items()},
        "end": {name: ends(each) for name, each in found.items()},
    }


def _median(data: dict[str, Any], name: str) -> list[float]:
    """Seconds of a stage: the median of each seed."""
    return [float(np.median(x)) for x in data["seconds"][name]]


def _ratio(data: dict[str, Any], key: str, a: str, b: str) -> Interval:
    """Of `a` to `b`, less 1, in %: paired by seed."""
    x, y = (np.asarray(_median(data, name) if key == "seconds" else data[key][name]) for name in (a, b))
    return mean(100 * (x / y - 1))


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    theirs = {
        "tokens": ("tokens", 100 * paper.COST["tokens"]),
        "seconds": ("wall time", 100 * (paper.COST["wall"] - 1)),
    }
    for name, equal in ((NAIVE, "at equal rollouts"), (SAME, "with equal sets")):
        for key, (what, value) in theirs.items():
            ours = _ratio(data, key, FULL, name)
            question = f"How much more {what} does a stage of TeamTR take than a naive one, {equal}?"
            out.append(Finding(question, f"{ours} %", ours, f"+{value:.3g} %", in_value(ours, value)))
    ours = _ratio(data, "seconds", BLIND, FULL)
    share = ours._replace(value=-ours.value, low=-ours.high, high=-ours.low)
    theirs = 100 * paper.COST["monitor"]
    question = "Which share of a stage's time is the KL monitor?"
    out.append(Finding(question, f"{share} %", share, f"{theirs:.3g} %", in_value(share, theirs)))
    for name in DRIVEN:
        ours, saved = paired(data["end"][name], data["end"][FULL]), _ratio(data, "tokens", name, FULL)
        question = f"Does resampling that is {name} end within {MARGIN:g} points of TeamTR?"
        out.append(
            Finding(
                question, f"{ours} points, tokens {saved} %", ours, "not in the paper", ours_alone(within(ours, MARGIN))
            )
        )
    return out


def table(data: dict[str, Any]) -> Table:
    lines = []
    for way in WAYS:
        stages = np.concatenate(data["seconds"][way.name])
        low, middle, high = np.quantile(stages, [0.25, 0.5, 0.75])
        versus = (
            ["", ""]
            if way.name == NAIVE
            else [f"{_ratio(data, key, way.name, NAIVE)} %" for key in ("tokens", "seconds")]
        )
        lines.append(
            [
                way.name,
                thousands(data["rollouts"][way.name]),
                thousands(data["tokens"][way.name]),
                versus[0],
                f"{middle:.2f} [{low:.2f}, {high:.2f}]",
                versus[1],
                mean(data["start"][way.name]),
                mean(data["end"][way.name]),
            ]
        )
    return [
        "",
        "rollouts",
        "tokens",
        "tokens − naive",
        "seconds a stage: median, quartiles",
        "wall − naive",
        "accuracy at the start, %",
        "at the end, %",
    ], lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, grid = axes(1, 3, (12, 2.6))
    names = [way.name for way in WAYS]
    panels = {
        "tokens written, thousands": lambda name: mean(np.asarray(data["tokens"][name]) / 1000),
        "seconds a stage (median of a seed)": lambda name: mean(_median(data, name)),
        "held-out accuracy at the end, %": lambda name: mean(data["end"][name]),
    }
    for ax, (title, f) in zip(grid, panels.items(), strict=True):
        points(ax, [f(name) for name in names], COLOURS["fresh"], names if ax is grid[0] else [""] * len(names))
        ax.set_title(title, fontsize=9)
    return save(figure, path)


COST = Question(
    id="Tab 6",
    title="What does resampling cost?",
    protocol="""
    Three agents (d = 32, two layers) add numbers of two digits, the task `carry`; 12 stages of 768 rollouts, divided
    among the sets that a way collects; `same sets`, `certificate-driven`: sets as large as TeamTR's, and only as many
    as are asked for. Accuracy on 256 held-out prompts, two conversations each. Times are
    of this machine: each run has one core of it, another run has the other. Wall time: rollouts and updates, without
    evaluation, stages after the second (compilation).
    """,
    limits="""
    Of the paper's wall time most is generation by models of 8 to 32 billion parameters on many devices; its +11.1 %
    tokens and 1.12 × are of its own naive variant, whose number of rollouts we do not know.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    paper="The paper: tokens +{tokens:.1%}, wall {wall} ×, KL monitor {monitor:.1%}.".format(**paper.COST),
    why="""
    A naive stage trains every agent on all of its rollouts, n times those of an update of TeamTR: at equal rollouts it is the
    dearer one. With equal sets TeamTR writes n times the tokens, and pays for it what sampling costs against training. The
    monitor scores all rollouts once more after the steps.
    """,
)
