"""Figures 3 and 4: regressions, the region, and certificates while methods train."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments import paper
from experiments.figures import axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.ablation import LARGE, TEACHING, run_of
from experiments.reproduce.questions.shared import TINT, band, points, rollouts_of, thousands, tokens_of
from experiments.reproduce.runs import Found, by_stage, loss_of, regressions, trained, tuned
from experiments.reproduce.statistics import in_order, in_sign, in_size, mean, paired, share
from experiments.reproduce.training import Way

__all__ = ["REGRESSIONS", "TRACKING", "WAYS"]

WAYS = (Way("TeamTR", "teamtr"), Way("DAPO", "dapo"), Way("GRPO", "grpo"), Way("PPO", "ppo"))


def _runs(settings: ReproduceSettings) -> tuple[dict[str, list[Found]], list[dict[str, Any]]]:
    runs, record = tuned(settings, [run_of(way, settings) for way in WAYS])
    return trained(settings, runs), record


# --------------------------------------------------------------------------------------------------------------------- Figure 3


def collect_regressions(settings: ReproduceSettings) -> dict[str, Any]:
    found, record = _runs(settings)
    untuned = trained(settings, [run_of(replace(way, learning_rate=LARGE), settings) for way in WAYS])
    return {
        "seeds": list(settings.own_seeds), "tuning": record, "rate": LARGE,
        "curve": {name: [(100 * np.asarray(x["values"])).tolist() for x in each] for name, each in found.items()},
        "curve_at_one_rate": {name: [(100 * np.asarray(x["values"])).tolist() for x in each] for name, each in untuned.items()},
        "regressions": {name: [regressions(x) for x in each] for name, each in found.items()},
        "loss": {name: [loss_of(x) for x in each] for name, each in found.items()},
        "rollouts": {name: [rollouts_of(x) for x in each] for name, each in found.items()},
        "tokens": {name: [tokens_of(x) for x in each] for name, each in found.items()},
    }  # fmt: skip


def regression_findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for name in ("PPO", "GRPO", "DAPO"):
        more = paired(data["regressions"][name], data["regressions"]["TeamTR"])
        question = f"Do more updates of sequential {name} make J smaller than of TeamTR?"
        out.append(Finding(question, f"{more} points", more, "yes", in_sign(more, 1.0)))
        lost = paired(data["loss"][name], data["loss"]["TeamTR"])
        question = f"Does an update of sequential {name} lose more than one of TeamTR, on average?"
        out.append(Finding(question, f"{lost} points", lost, "yes", in_sign(lost, 1.0)))
        for key, where in (("curve", "each at its best rate"), ("curve_at_one_rate", f"all at rate {data['rate']:g}")):
            end = paired([x[-1] for x in data[key][name]], [x[-1] for x in data[key]["TeamTR"]])
            question = f"Does sequential {name} end lower than TeamTR, {where}?"
            out.append(Finding(question, f"{end} points", end, "yes", in_sign(end, -1.0)))
    return out


def regression_table(data: dict[str, Any]) -> Table:
    rates = {x["way"]: x["chosen"] for x in data["tuning"]}
    heads = ["", "J at the end, %", "updates with J(π̂ⁱ) < J(π̂ⁱ⁻¹), %", "mean loss of an update, points", "its rate",
             f"J at the end, all at rate {data['rate']:g}, %", "rollouts", "tokens"]  # fmt: skip
    return heads, [
        [
            way.name,
            mean([x[-1] for x in data["curve"][way.name]]),
            mean(data["regressions"][way.name]),
            mean(data["loss"][way.name]),
            f"{rates[way.name]:g}",
            mean([x[-1] for x in data["curve_at_one_rate"][way.name]]),
            thousands(data["rollouts"][way.name]),
            thousands(data["tokens"][way.name]),
        ]
        for way in WAYS
    ]


def draw_regressions(data: dict[str, Any], path: Path) -> Path:
    figure, (left, middle, right) = axes(1, 3, (12, 3.2))
    for way in WAYS:
        for ax, key in ((left, "curve"), (middle, "curve_at_one_rate")):
            curves = np.asarray(data[key][way.name]).T
            band(ax, np.arange(len(curves)), curves, TINT[way.name], way.name)
    left.set(xlabel="stage", ylabel="J, %, exact", title="each at its best rate")
    middle.set(xlabel="stage", title=f"all at rate {data['rate']:g}")
    left.legend(fontsize=7, frameon=False)
    found = [mean(data["regressions"][way.name]) for way in WAYS]
    points(right, found, [TINT[way.name] for way in WAYS], [way.name for way in WAYS])
    right.set_xlabel("updates that make J smaller, % (exact)")
    return save(figure, path)


REGRESSIONS = Question(
    id="Fig 3",
    title="Do sequential PPO, GRPO and DAPO regress where TeamTR does not?",
    protocol=f"""
    {TEACHING} The baselines use one set of rollouts a stage, TeamTR three of a third: the same rollouts and tokens. A
    regression is an update after which the exact J is smaller. Rates are chosen as in Tab 2b; all are also compared
    at one rate.
    """,
    limits="""
    The paper's regressions come after many stages of models that start good; these start at .5 to .6 and have one task.
    """,
    collect=collect_regressions,
    findings=regression_findings,
    table=regression_table,
    draw=draw_regressions,
    why="""
    A region decides how much one update can lose, not how often it loses a little: with small steps from noisy
    advantages the sign of an improvement is close to a coin's. At a common large rate what has no region collapses.
    """,
)

# --------------------------------------------------------------------------------------------------------------------- Figure 4


def collect_tracking(settings: ReproduceSettings) -> dict[str, Any]:
    found, record = _runs(settings)
    delta, rounds = WAYS[0].delta, 2

    def outside(x: Found) -> float:
        return float(100 * (by_stage(x, "kl") / rounds > 1.01 * delta).mean())

    def columns(x: Found) -> dict[str, Any]:
        names = ("improvement", *CERTIFICATES)
        return {key: [float(f"{value:.5g}") for value in by_stage(x, key).ravel()] for key in names}

    return {
        "seeds": list(settings.own_seeds), "tuning": record, "delta": delta,
        "outside": {name: [outside(x) for x in each] for name, each in found.items()},
        "certificates": [columns(x) for x in found["TeamTR"]],
        "violations": {key: [int((by_stage(x, key) - by_stage(x, "improvement") > 1e-9).sum()) for x in found["TeamTR"]]
                       for key in CERTIFICATES},
    }  # fmt: skip


CERTIFICATES = {
    "certificate_estimable": "S7 (estimable)",
    "certificate": "the least penalty (oracle)",
    "certificate_paper": "P3.4 (the paper's)",
}


def _tracked(data: dict[str, Any], key: str) -> list[float]:
    """Rank correlation with the exact improvement, each seed; 0 where one is constant."""

    def rho(x: list[float], y: list[float]) -> float:
        found: Any = spearmanr(x, y) if len({*x}) > 1 and len({*y}) > 1 else None
        return 0.0 if found is None else float(found.statistic)

    return [rho(c[key], c["improvement"]) for c in data["certificates"]]


def _violations(data: dict[str, Any], key: str) -> tuple[int, int]:
    return sum(data["violations"][key]), sum(len(c[key]) for c in data["certificates"])


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
                in_size(rho, paper.CERTIFICATE["correlation"]),
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


def tracking_table(data: dict[str, Any]) -> Table:
    lines: list[list[object]] = [
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
    S5: the paper's certificate cannot be positive for horizons like these. S7 is linear in the KL: it is positive
    where the surrogate gain of an update exceeds its KL.
    """,
)
