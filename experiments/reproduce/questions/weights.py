"""Table 10: importance weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import band
from experiments.reproduce.runs import Found, by_stage, trained
from experiments.reproduce.statistics import in_sign, in_value, mean, paired
from experiments.reproduce.training import Run, Way

__all__ = ["WEIGHTS"]

AGENTS = 5
DELTAS = {0.01: COLOURS["fresh"], 0.1: COLOURS["certificate"], 0.3: COLOURS["once"]}
STATISTICS = {
    "weight_ess": "ESS/B",
    "weight_p95": "P95",
    "weight_p99": "P99",
    "weight_max": "max",
    "weight_above_ten": "Pr[w > 10]",
}


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    stages = settings.at(6, 2)
    runs = [Run(Way(f"δ = {delta:g}", "importance_weights", 1e-2, delta), "chain agents=5 switches=3", 0, stages, 256, 0.4)
            for delta in DELTAS]  # fmt: skip
    found = trained(settings, runs)

    def since(x: Found) -> list[float]:
        """KL(rollouts' team‖current) of the path, before each update: exact, mean over the stages."""
        kl = by_stage(x, "kl_stale")
        return [0.0, *np.cumsum(kl, 1)[:, :-1].mean(0).tolist()]

    values = {
        run.way.name: {
            key: [by_stage(x, f"sampled.{key}").mean(0).tolist() for x in found[run.way.name]] for key in STATISTICS
        }
        | {"path_kl": [since(x) for x in found[run.way.name]]}
        for run in runs
    }
    return {"seeds": list(settings.own_seeds), "values": values}


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    theirs = paper.IMPORTANCE["ess_share"]
    for name, columns in data["values"].items():
        ess = np.asarray(columns["weight_ess"])
        fall = paired(ess[:, 4], ess[:, 1])
        out.append(Finding(f"Does ESS/B fall from update 2 to update 5, {name}?", f"{mean(ess[:, 1])} → {mean(ess[:, 4])}", fall,
                           f"{theirs[2]} → {theirs[5]}", in_sign(fall, -1.0)))  # fmt: skip
    at_end = mean(np.asarray(data["values"][f"δ = {min(DELTAS):g}"]["weight_ess"])[:, 4])
    question = f"What is ESS/B at update 5 with the paper's radius, δ = {min(DELTAS):g}?"
    out.append(Finding(question, str(at_end), at_end, f"{theirs[5]}", in_value(at_end, theirs[5])))
    return out


def table(data: dict[str, Any]) -> Table:
    lines = []
    for name, columns in data["values"].items():
        for i in range(AGENTS):
            ours = [mean(np.asarray(columns[key])[:, i]) for key in (*STATISTICS, "path_kl")]
            lines.append([name, i + 1, *ours, paper.IMPORTANCE["ess_share"].get(i + 1, "")])
    return ["", "update", *STATISTICS.values(), "KL(rollouts' team‖current), nats", "paper: ESS/B"], lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, (left, middle, right) = axes(1, 3, (11, 3))
    x = np.arange(1, AGENTS + 1)
    for (name, columns), colour in zip(data["values"].items(), DELTAS.values(), strict=True):
        band(left, x, np.asarray(columns["weight_ess"]).T, colour, f"ours, {name}", "o-")
        band(right, x, np.asarray(columns["weight_max"]).T, colour, name, "o-", 1.0)
        kl, ess = np.asarray(columns["path_kl"]).ravel(), np.asarray(columns["weight_ess"]).ravel()
        middle.plot(kl, ess, ".", color=colour, markersize=3)
    grid = np.linspace(0, max(1e-3, np.max([c["path_kl"] for c in data["values"].values()])), 50)
    middle.plot(grid, np.exp(-2 * grid), color="0.6", linewidth=0.8, label="exp(−2K)")
    middle.set(xlabel="K = KL(rollouts' team‖current) of the path, nats, exact", ylabel="ESS/B")
    middle.legend(fontsize=7, frameon=False)
    theirs = paper.IMPORTANCE["ess_share"]
    left.plot(list(theirs), list(theirs.values()), "s", color="0.6", label="the paper")
    left.set(xlabel="update", ylabel="ESS/B")
    left.legend(fontsize=7, frameon=False)
    right.axhline(paper.IMPORTANCE["largest"], color="0.6", linestyle=":", linewidth=0.8)
    right.set(xlabel="update", ylabel="largest weight (dotted: the paper's)", yscale="log")
    return save(figure, path)


WEIGHTS = Question(
    id="Tab 10",
    title="How fast do importance weights degenerate?",
    protocol="""
    Five agents, two rounds of one symbol, eight prompts less those held out, the task `Chain`, started at .4 to .5;
    one set of 1,280 rollouts a stage, weights of whole transcripts before the update of each agent, mean over the six
    stages. Three radii, one learning rate (0.01). KL of the rollouts' team to the current one: exact, of the whole
    path, adds over agents (S3).
    """,
    limits="""
    A transcript has ten tokens here and thousands in the paper: at the same KL a token, the paths of the paper are
    hundreds of times further apart.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    What decides is the KL of the path: for log weights that are nearly normal ESS/B is about exp(−2K). By that line
    the paper's .42 and .04 are paths of .4 and 1.6 nats.
    """,
)
