"""Figures 3 and 4, Table 10: regressions, the region, certificates and importance weights while methods train."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.chain import Chain
from experiments.reproduce.enumerated import Way
from experiments.reproduce.question import Finding, Question, Settings
from experiments.reproduce.questions.ablation import QUICK_STAGES, ROLLOUTS, STAGES, TASK
from experiments.reproduce.runs import Found, by_stage, loss_of, objective, regressions, trained, tuned
from experiments.reproduce.statistics import in_order, in_sign, mean, paired, share

__all__ = ["REGRESSIONS", "TRACKING", "WEIGHTS"]

WAYS = (Way("TeamTR", "teamtr"), Way("DAPO", "dapo"), Way("GRPO", "grpo"), Way("PPO", "ppo"))
TINT = {"TeamTR": COLOURS["fresh"], "DAPO": COLOURS["certificate"], "GRPO": COLOURS["single"], "PPO": COLOURS["once"]}


def _runs(settings: Settings) -> tuple[dict[str, list[Found]], list[dict[str, Any]], int]:
    stages = QUICK_STAGES if settings.quick else STAGES
    ways, record = tuned(settings, WAYS, TASK, stages, ROLLOUTS)
    return trained(settings, ways, TASK, stages, ROLLOUTS), record, stages


# --------------------------------------------------------------------------------------------------------------------- Figure 3


def collect_regressions(settings: Settings) -> dict[str, Any]:
    runs, record, stages = _runs(settings)
    return {
        "stages": stages, "seeds": list(range(settings.seeds)), "tuning": record,
        "curve": {name: [(100 * objective(c)).tolist() for c in each] for name, each in runs.items()},
        "regressions": {name: [regressions(c) for c in each] for name, each in runs.items()},
        "loss": {name: [float(100 * loss_of(c)) for c in each] for name, each in runs.items()},
        "rollouts": {name: [float(by_stage(c, "rollouts").sum()) for c in each] for name, each in runs.items()},
    }  # fmt: skip


def regression_findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for name in ("PPO", "GRPO", "DAPO"):
        more = paired(data["regressions"][name], data["regressions"]["TeamTR"])
        out.append(
            Finding(
                f"Do more updates of sequential {name} make J smaller than of TeamTR?",
                f"{more} points",
                more,
                "yes",
                in_sign(more, 1.0),
            )
        )
        end = paired([x[-1] for x in data["curve"][name]], [x[-1] for x in data["curve"]["TeamTR"]])
        out.append(
            Finding(f"Does sequential {name} end lower than TeamTR?", f"{end} points", end, "yes", in_sign(end, -1.0))
        )
    return out


def regression_table(data: dict[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    rates = {x["way"]: x["chosen"] for x in data["tuning"]}
    heads = [
        "",
        "J at the end, %",
        "updates with J(π̂ⁱ) < J(π̂ⁱ⁻¹), %",
        "mean loss of an update, points",
        "rollouts",
        "rate",
    ]
    return heads, [
        [way.name, mean([x[-1] for x in data["curve"][way.name]]), mean(data["regressions"][way.name]),
         mean(data["loss"][way.name]),
         f"{np.mean(data['rollouts'][way.name]):.0f}", f"{rates[way.name]:g}"] for way in WAYS
    ]  # fmt: skip


def draw_regressions(data: dict[str, Any], path: Path) -> Path:
    figure, (left, right) = axes(1, 2, (9, 3.2))
    for i, way in enumerate(WAYS):
        curves = np.asarray(data["curve"][way.name])
        x = np.arange(curves.shape[1])
        left.plot(x, curves.T, color=TINT[way.name], linewidth=0.5, alpha=0.5)
        left.plot(x, curves.mean(0), color=TINT[way.name], label=way.name)
        found = mean(data["regressions"][way.name])
        right.plot([found.low, found.high], [i, i], color=TINT[way.name])
        right.plot(found.value, i, "o", color=TINT[way.name])
    left.set(xlabel="stage", ylabel="J, %, exact")
    left.legend(fontsize=7, frameon=False)
    right.set_yticks(range(len(WAYS)), [way.name for way in WAYS])
    right.set_xlabel("updates that make J smaller, % (exact)")
    return save(figure, path)


REGRESSIONS = Question(
    id="Fig 3",
    title="Do sequential PPO, GRPO and DAPO regress where TeamTR does not?",
    protocol="""
    The teams of Tab 2b. The baselines use one set of rollouts a stage, TeamTR three of a third. A regression is an
    update after which the exact J is smaller. Rates are tuned as in Tab 2b.
    """,
    limits="""
    The paper's regressions come after many stages on models that start good. These teams have one task and end once
    they have learnt it.
    """,
    collect=collect_regressions,
    findings=regression_findings,
    table=regression_table,
    draw=draw_regressions,
)

# --------------------------------------------------------------------------------------------------------------------- Figure 4


def collect_tracking(settings: Settings) -> dict[str, Any]:
    runs, record, stages = _runs(settings)
    delta = WAYS[0].delta

    def outside(c: Found) -> float:
        return float(100 * (by_stage(c, "kl") / TASK.rounds > 1.01 * delta).mean())

    def columns(c: Found) -> dict[str, Any]:
        return {
            key: by_stage(c, key).ravel().tolist()
            for key in ("improvement", "certificate_estimable", "certificate_paper", "certificate")
        }

    return {
        "stages": stages, "seeds": list(range(settings.seeds)), "tuning": record, "delta": delta,
        "outside": {name: [outside(c) for c in each] for name, each in runs.items()},
        "certificates": [columns(c) for c in runs["TeamTR"]],
    }  # fmt: skip


CERTIFICATES = {"certificate_estimable": "S7", "certificate": "least", "certificate_paper": "P3.4 (the paper's)"}


def _tracked(data: dict[str, Any], key: str) -> list[float]:
    """Rank correlation with the exact improvement, each seed; 0 where one is constant."""
    found = []
    for c in data["certificates"]:
        rho: Any = spearmanr(c[key], c["improvement"])
        found.append(float(rho.statistic) if np.isfinite(rho.statistic) else 0.0)
    return found


def _violations(data: dict[str, Any], key: str) -> tuple[int, int]:
    gaps = np.array([np.subtract(c[key], c["improvement"]) for c in data["certificates"]])
    return int((gaps > 1e-9).sum()), gaps.size


def tracking_findings(data: dict[str, Any]) -> list[Finding]:
    order = ["TeamTR", "DAPO", "GRPO", "PPO"]
    steps = [paired(data["outside"][b], data["outside"][a]) for a, b in pairwise(order)]
    ours = ", ".join(f"{name} {mean(data['outside'][name]).value:.0f} %" for name in order)
    theirs = ", ".join(f"{name} {100 * paper.OUTSIDE[name]:.0f} %" for name in order)
    out = [Finding("Which share of the updates leaves the region, in this order?", ours, None, theirs, in_order(steps))]
    for key, name in CERTIFICATES.items():
        rho = mean(_tracked(data, key))
        out.append(
            Finding(
                f"Does {name} track the exact improvement (Spearman ρ)?",
                str(rho),
                rho,
                f"{paper.CERTIFICATE['correlation']}",
                in_sign(rho, 1.0),
            )
        )
        hits, tries = _violations(data, key)
        found = share(hits, tries)
        out.append(
            Finding(
                f"How often is {name} above the exact improvement?",
                f"{hits} of {tries}",
                found,
                "0 %",
                "agrees" if hits == 0 else "disagrees",
            )
        )
    return out


def tracking_table(data: dict[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    lines: list[Sequence[object]] = [
        [way.name, mean(data["outside"][way.name]), "", "", "", f"{100 * paper.OUTSIDE[way.name]:.0f}"] for way in WAYS
    ]
    for key, name in CERTIFICATES.items():
        positive = mean([100 * float((np.asarray(c[key]) > 0).mean()) for c in data["certificates"]])
        hits, tries = _violations(data, key)
        lines.append(
            [
                f"TeamTR, certificate {name}",
                "",
                mean(_tracked(data, key)),
                positive,
                f"{hits} of {tries}",
                paper.CERTIFICATE["correlation"],
            ]
        )
    return ["", "outside the region, %", "Spearman ρ", "positive, %", "above the improvement", "paper (%, ρ)"], lines


def draw_tracking(data: dict[str, Any], path: Path) -> Path:
    figure, (left, right) = axes(1, 2, (9.5, 3.4))
    for i, way in enumerate(WAYS):
        found = mean(data["outside"][way.name])
        left.plot([found.low, found.high], [i, i], color=TINT[way.name])
        left.plot(found.value, i, "o", color=TINT[way.name])
        left.plot(100 * paper.OUTSIDE[way.name], i, "s", color="0.6", label="the paper" if i == 0 else None)
    left.set_yticks(range(len(WAYS)), [way.name for way in WAYS])
    left.set_xlabel(f"updates with exact KL per message above δ = {data['delta']:g}, %")
    left.legend(fontsize=7, frameon=False)
    for (key, name), colour in zip(list(CERTIFICATES.items())[:2], ("#2166ac", "#1b7837"), strict=True):
        x = np.concatenate([c["improvement"] for c in data["certificates"]])
        y = np.concatenate([c[key] for c in data["certificates"]])
        right.plot(100 * x, 100 * y, ".", color=colour, markersize=3, label=name)
    right.axline((0, 0), slope=1, color="0.7", linewidth=0.8)
    right.axhline(0, color="0.9", linewidth=0.8)
    right.set(xlabel="exact improvement of an update, points", ylabel="certificate, points")
    right.legend(fontsize=7, frameon=False)
    return save(figure, path)


TRACKING = Question(
    id="Fig 4",
    title="Who leaves the trust region, and do certificates track improvements?",
    protocol="""
    The runs of Fig 3. Outside: the exact KL(current‖new), mean over messages, above 1.01 δ, whatever the trainer's
    monitor said. Certificates and improvements are exact, of every update of TeamTR.
    """,
    limits="""
    The paper's certificate is estimated from rollouts; ours are computed. What sampling adds is in Tab 7, 8 and in
    docs/monitor.md.
    """,
    collect=collect_tracking,
    findings=tracking_findings,
    table=tracking_table,
    draw=draw_tracking,
    why="""
    S5: the paper's certificate cannot be positive for horizons like these; S7 is linear in the KL and is.
    """,
)

# --------------------------------------------------------------------------------------------------------------------- Table 10

TEAM_OF_FIVE = Chain(5)
WEIGHTED = (Way("importance weights", "importance_weights"),)
STATISTICS = {
    "weight_ess": "ESS/B",
    "weight_p95": "P95",
    "weight_p99": "P99",
    "weight_max": "max",
    "weight_above_ten": "Pr[w > 10]",
}


def collect_weights(settings: Settings) -> dict[str, Any]:
    stages = QUICK_STAGES if settings.quick else STAGES
    deltas = (0.01, 0.1)
    ways = [Way(f"δ = {d:g}", "importance_weights", learning_rate=1e-2, delta=d) for d in deltas]
    runs = trained(settings, ways, TEAM_OF_FIVE, stages, ROLLOUTS)
    values = {
        way.name: {key: [by_stage(c, f"sampled.{key}").mean(0).tolist() for c in runs[way.name]] for key in STATISTICS}
        for way in ways
    }
    return {"stages": stages, "seeds": list(range(settings.seeds)), "values": values}


def weight_findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    theirs = paper.IMPORTANCE["ess_share"]
    for name, columns in data["values"].items():
        ess = np.asarray(columns["weight_ess"])
        fall = paired(ess[:, 4], ess[:, 1])
        out.append(Finding(f"Does ESS/B fall from update 2 to update 5, {name}?", f"{mean(ess[:, 1])} → {mean(ess[:, 4])}", fall,
                           f"{theirs[2]} → {theirs[5]}", in_sign(fall, -1.0)))  # fmt: skip
    return out


def weight_table(data: dict[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    lines: list[Sequence[object]] = []
    for name, columns in data["values"].items():
        for i in range(TEAM_OF_FIVE.agents):
            theirs = paper.IMPORTANCE["ess_share"].get(i + 1, "")
            lines.append([name, i + 1, *(mean(np.asarray(columns[key])[:, i]) for key in STATISTICS), theirs])
    return ["", "update", *STATISTICS.values(), "paper: ESS/B"], lines


def draw_weights(data: dict[str, Any], path: Path) -> Path:
    figure, (left, right) = axes(1, 2, (8, 3))
    for (name, columns), colour in zip(data["values"].items(), (COLOURS["fresh"], COLOURS["once"]), strict=True):
        x = np.arange(1, TEAM_OF_FIVE.agents + 1)
        for ax, key in ((left, "weight_ess"), (right, "weight_max")):
            found = [mean(y) for y in np.asarray(columns[key]).T]
            ax.plot(x, [y.value for y in found], "o-", color=colour, markersize=3, label=f"ours, {name}")
            ax.fill_between(x, [y.low for y in found], [y.high for y in found], color=colour, alpha=0.15, linewidth=0)
            ax.set_xlabel("update")
    theirs = paper.IMPORTANCE["ess_share"]
    left.plot(list(theirs), list(theirs.values()), "s", color="0.6", label="the paper")
    left.set_ylabel("ESS/B")
    left.legend(fontsize=7, frameon=False)
    right.set(ylabel="largest weight", yscale="log")
    return save(figure, path)


WEIGHTS = Question(
    id="Tab 10",
    title="How fast do importance weights degenerate?",
    protocol="""
    Five agents, two rounds of one symbol; one set of rollouts a stage, weights of whole transcripts before the update
    of each agent, means over the stages. Two radii.
    """,
    limits="""
    A transcript has ten tokens here and thousands in the paper: the weights of whole transcripts spread with their
    KL, which adds over tokens.
    """,
    collect=collect_weights,
    findings=weight_findings,
    table=weight_table,
    draw=draw_weights,
)
