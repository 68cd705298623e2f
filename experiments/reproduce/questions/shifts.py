"""Figure 5: by how much logits move, by the rank of the token, inside and outside the region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.dynamics import WAYS
from experiments.reproduce.questions.shared import band
from experiments.reproduce.runs import by_stage, trained
from experiments.reproduce.statistics import in_sign, mean, paired
from experiments.reproduce.training import Run, Way
from teamtr_jax.intervals import Interval

__all__ = ["SHIFTS"]

SYMBOLS, ROUNDS, RATE = 4, 2, 3e-3
SIDES = ("inside", "outside")


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    ways = [Way(way.name, way.method, RATE) for way in WAYS]
    runs = [Run(way, "chain symbols=4 switches=2", 0, settings.at(12, 2), 128, 0.4, watch=("ranks",)) for way in ways]
    found = trained(settings, runs)
    delta = WAYS[0].delta
    sides: dict[str, list[list[float] | None]] = {side: [] for side in SIDES}
    counts = {way.name: [0, 0] for way in ways}
    for s in range(len(settings.own_seeds)):
        kept: dict[str, list[NDArray[np.float64]]] = {side: [] for side in SIDES}
        for way in ways:
            x = found[way.name][s]
            kl = by_stage(x, "kl").ravel() / ROUNDS
            shift = np.stack([by_stage(x, f"watch_rank_{r + 1}").ravel() for r in range(SYMBOLS)], 1)
            out = kl > 1.01 * delta
            kept["inside"].append(shift[~out])
            kept["outside"].append(shift[out])
            counts[way.name][0] += int((~out).sum())
            counts[way.name][1] += int(out.sum())
        for side in SIDES:
            rows = np.concatenate(kept[side])
            sides[side].append(rows.mean(0).tolist() if len(rows) else None)
    return {"seeds": list(settings.own_seeds), "delta": delta, "shift": sides, "counts": counts}


def _rows(data: dict[str, Any], side: str) -> NDArray[np.float64]:
    """``[seeds, ranks]``; seeds that have updates on both sides."""
    both = [i for i in range(len(data["seeds"])) if all(data["shift"][x][i] is not None for x in SIDES)]
    return np.array([data["shift"][side][i] for i in both])


def _difference(data: dict[str, Any], rank: int) -> Interval:
    return paired(_rows(data, "outside")[:, rank], _rows(data, "inside")[:, rank])


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for rank in range(SYMBOLS):
        ours = _difference(data, rank)
        question = f"Do logits of rank {rank + 1} move further in updates outside the region than inside?"
        out.append(Finding(question, str(ours), ours, "yes (presumed: no figures are known to us)", in_sign(ours, 1.0)))
    return out


def table(data: dict[str, Any]) -> Table:
    lines = []
    for side in SIDES:
        rows = _rows(data, side)
        at = SIDES.index(side)
        number = ", ".join(f"{name} {x[at]}" for name, x in data["counts"].items())
        lines.append([side, *(mean(rows[:, r]) for r in range(SYMBOLS)), number])
    return ["E|Δz|", *(f"rank {r + 1}" for r in range(SYMBOLS)), "updates"], lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, ax = axes(1, 1, (5, 3))
    for side, colour in zip(SIDES, (COLOURS["fresh"], COLOURS["once"]), strict=True):
        band(ax, np.arange(1, SYMBOLS + 1), _rows(data, side).T, colour, f"{side} the region", "o-", 0.0)
    ax.set_xticks(range(1, SYMBOLS + 1))
    ax.set(xlabel="rank of the token before the update", ylabel="mean |shift of its logit|")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False)
    return save(figure, path)


SHIFTS = Question(
    id="Fig 5",
    title="By how much do logits move, inside and outside the region?",
    protocol="""
    Three agents, four symbols, two rounds, prompts of two switches, the task `Chain`, started at .4 to .5. All
    updates of TeamTR, DAPO, GRPO and PPO at one rate (0.003), 12 stages of 384 rollouts; outside: exact
    KL(current‖new) a message above 1.01 δ, δ = .01. Shift: the mean over the contexts in which the agent speaks, with
    their exact probabilities, of |Δz|; z: logits less their mean over the vocabulary; ranks are those before the
    update.
    """,
    limits="""
    Four symbols have no long tail: of the hundred thousand tokens of a language model most are never written, and KL
    hardly sees them.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    That logits move further where KL is larger is nearly its definition; over the ranks both sides have the same shape.
    """,
)
