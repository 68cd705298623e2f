"""Tables 7 and 8: what the estimation error is made of, and monitors that look at a part of the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, Settings, Table
from experiments.reproduce.questions.shared import points
from experiments.reproduce.runs import by_stage, trained
from experiments.reproduce.statistics import in_order, in_sign, mean, paired
from experiments.reproduce.training import Run, Way
from experiments.reproduce.watch import DRAWS, PARTS

__all__ = ["MONITOR"]

WAYS = (
    Way("TeamTR", "teamtr", monitor="k1"),
    Way("naive", "no_resampling", monitor="k1"),
    Way("adaptive KL only", "adaptive_kl", monitor="k1"),
)
ZETA = {
    "zeta": "ζ",
    "zeta_ratio": "rollouts of another team",
    "zeta_sampling": "finitely many",
    "zeta_normalisation": "normalisation",
    "zeta_clip": "clip of ratios",
}
NEAR = 0.25
"""An update is near the threshold if its monitor on all tokens is within this share of δ."""


def collect(settings: Settings) -> dict[str, Any]:
    runs = [
        Run(way, "chain switches=2 rounds=1 message_length=3", 0, settings.at(30, 3), 128, 0.5, watch=("monitor",))
        for way in WAYS
    ]
    found = trained(settings, runs)
    delta = WAYS[0].delta
    data: dict[str, Any] = {
        "seeds": list(settings.own_seeds),
        "delta": delta,
        "flips": {},
        "near": {},
        "zeta": {},
        "gain": {},
    }
    for name, each in found.items():
        zeta = {key: [float(100 * abs(by_stage(x, key)).mean()) for x in each] for key in ZETA}
        data["zeta"][name] = zeta
        data["gain"][name] = [float(100 * by_stage(x, "surrogate_intermediate").mean()) for x in each]
        flips: dict[str, list[list[float]]] = {f"{part:g}": [] for part in (*PARTS, 1.0)}
        near = []
        for x in each:
            monitor, exact = by_stage(x, "watch_monitor").ravel(), by_stage(x, "kl").ravel()
            close = abs(monitor / delta - 1) <= NEAR
            near.append([int(close.sum()), close.size])
            for part in PARTS:
                flips[f"{part:g}"].append(by_stage(x, f"watch_flips_{part:g}").ravel()[close].tolist())
            flips["1"].append(((monitor > delta) != (exact > delta))[close].astype(float).tolist())
        data["flips"][name], data["near"][name] = flips, near
    return data


def _flips(data: dict[str, Any], part: str) -> NDArray[np.float64]:
    """%, of each seed, over the near updates of all ways; seeds without one are left out."""
    seeds = range(len(data["seeds"]))
    pooled = [np.concatenate([data["flips"][way.name][part][s] for way in WAYS]) for s in seeds]
    return np.array([100 * x.mean() for x in pooled if len(x)])


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for part in PARTS:
        ours, theirs = mean(_flips(data, f"{part:g}")), paper.MONITOR_FLIPS[part]
        question = f"How many decisions near the threshold does a monitor on {100 * part:.0f} % of the tokens flip?"
        holds = ours.low <= theirs <= ours.high
        verdict = (
            "agrees"
            if holds
            else "disagrees: more than the paper's"
            if ours.low > theirs
            else "disagrees: fewer than the paper's"
        )
        out.append(Finding(question, f"{ours} %", ours, f"{theirs} %", verdict))
    order = [paired(_flips(data, "0.25"), _flips(data, "0.5")), mean(_flips(data, "0.5"))]
    shown = ", ".join(f"{100 * part:.0f} %: {mean(_flips(data, f'{part:g}')).value:.1f}" for part in PARTS)
    theirs = ", ".join(f"{100 * part:.0f} %: {x}" for part, x in paper.MONITOR_FLIPS.items())
    out.append(
        Finding(
            "Does a monitor on fewer tokens flip more decisions?", f"{shown}, 100 %: 0", None, theirs, in_order(order)
        )
    )
    for name in ("TeamTR", "naive"):
        ours = paired(data["gain"][name], data["zeta"][name]["zeta"])
        question = f"Is ζ smaller than the surrogate that it is an error of, {name}, mean over updates?"
        out.append(Finding(question, f"{ours} points", ours, "yes (proxies)", in_sign(ours, 1.0)))
    return out


def table(data: dict[str, Any]) -> Table:
    lines: list[list[object]] = []
    for way in WAYS:
        zeta = [mean(data["zeta"][way.name][key]) for key in ZETA]
        lines.append([way.name, mean(data["gain"][way.name]), *zeta, *([""] * 4)])
    near, updates = np.sum([data["near"][way.name] for way in WAYS], (0, 1))
    for part in (*PARTS, 1.0):
        label = f"monitor on {100 * part:.0f} % of the tokens"
        found = mean(_flips(data, f"{part:g}"))
        against = "that on all tokens" if part < 1 else "the exact KL"
        lines.append(
            [label, *[""] * (1 + len(ZETA)), found, against, f"{near} of {updates}", paper.MONITOR_FLIPS[part]]
        )
    heads = [
        "",
        "L^seq, points",
        *(f"|{x}|" if x != "ζ" else "ζ, points" for x in ZETA.values()),
        "decisions flipped, %",
        "against",
        "updates near δ",
        "paper, %",
    ]
    return heads, lines


def draw(data: dict[str, Any], path: Path) -> Path:
    figure, (left, right) = axes(1, 2, (9.5, 3))
    names, found, colours = [], [], []
    for way, colour in zip(WAYS, (COLOURS["fresh"], COLOURS["once"], COLOURS["joint"]), strict=True):
        for key, label in {"gain": "L^seq", **ZETA}.items():
            names.append(f"{way.name}: {label}")
            found.append(mean(data["gain"][way.name] if key == "gain" else data["zeta"][way.name][key]))
            colours.append(colour)
    points(left, found, colours, names)
    left.tick_params(axis="y", labelsize=5)
    left.set_xlabel("points of the reward, mean over updates, exact")
    parts = [*PARTS, 1.0]
    ours = [mean(_flips(data, f"{part:g}")) for part in PARTS] + [mean([0.0, 0.0])]
    x = [100 * part for part in parts]
    right.errorbar(x, [y.value for y in ours], [[y.value - y.low for y in ours], [y.high - y.value for y in ours]], fmt="o-",
                   color=COLOURS["fresh"], markersize=4, label="ours")  # fmt: skip
    right.plot(x, [paper.MONITOR_FLIPS[part] for part in parts], "s:", color="0.6", markersize=4, label="the paper")
    right.set(xlabel="tokens that the monitor sees, %", ylabel="decisions flipped near δ, %")
    right.legend(fontsize=7, frameon=False)
    return save(figure, path)


MONITOR = Question(
    id="Tab 7, 8",
    title="What is ζ made of, and what does a monitor on fewer tokens decide differently?",
    protocol=f"""
    Three agents, one round of messages of three symbols, prompts of two switches, the task `Chain`, started at .5 to
    .6; 128 rollouts an update, 30 stages, the paper's monitor (k1 on the tokens written). ζ = |L̂ − L^seq| and its
    four parts, which add up to it with their signs, are exact differences; shown are means of absolute values over
    the updates. A decision: whether the monitor is above δ, of updates whose monitor on all tokens is within
    {NEAR:.0%} of δ; {DRAWS} random parts of the tokens of each.
    """,
    limits="""
    An update has some hundred tokens to look at here, and tens of thousands in the paper: a quarter of them says
    less. Its proxies of ζ are not given as numbers.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    Group normalisation is no estimate of an advantage in units of the reward: it divides by the standard deviation,
    and that part of ζ does not shrink with more rollouts (PE.10). A monitor on all tokens that were trained on is
    itself no estimate of the exact KL: the row "against the exact KL".
    """,
)
