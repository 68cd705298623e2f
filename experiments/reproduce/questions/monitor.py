"""Tables 7 and 8: what the estimation error is made of, and monitors that look at a part of the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import paper
from experiments.figures import COLOURS, axes, save
from experiments.reproduce.question import Finding, Question, ReproduceSettings, Table
from experiments.reproduce.questions.shared import points
from experiments.reproduce.runs import by_stage, trained
from experiments.reproduce.statistics import in_sign, in_value, mean, ours_alone, paired
from experiments.reproduce.training import Run, Way
from experiments.reproduce.watch import DRAWS, MONITORS, PARTS

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


SIZES = (128, 1024)
"""Rollouts of an update: of all ways, and of TeamTR only."""


def collect(settings: ReproduceSettings) -> dict[str, Any]:
    task, stages = "chain switches=2 rounds=1 message_length=3", settings.at(30, 3)
    runs = [Run(way, task, 0, stages, SIZES[0], 0.5, watch=("monitor",)) for way in WAYS]
    found = trained(settings, runs)
    large = trained(settings, [Run(WAYS[0], task, 0, settings.at(15, 2), SIZES[1], 0.5, watch=("monitor",))])
    delta = WAYS[0].delta
    zeta = {
        name: {key: [float(100 * abs(by_stage(x, key)).mean()) for x in each] for key in ZETA}
        for name, each in found.items()
    }
    gain = {
        name: [float(100 * by_stage(x, "surrogate_intermediate").mean()) for x in each] for name, each in found.items()
    }

    def pooled(seed: int, size: int, name: str) -> NDArray[np.float64]:
        each = [found[way.name] for way in WAYS] if size == SIZES[0] else [large[WAYS[0].name]]
        return np.concatenate([by_stage(x[seed], name).ravel() for x in each])

    flips: dict[str, dict[str, list[list[float]]]] = {}
    updates = {}
    for size in SIZES:
        for kind in MONITORS:
            one: dict[str, list[list[float]]] = {f"{part:g}": [] for part in (*PARTS, 1.0)}
            for seed in range(len(settings.own_seeds)):
                monitor, exact = pooled(seed, size, f"watch_{kind}"), pooled(seed, size, "kl")
                close = abs(monitor / delta - 1) <= NEAR
                for part in PARTS:
                    one[f"{part:g}"].append(pooled(seed, size, f"watch_{kind}_flips_{part:g}")[close].tolist())
                one["1"].append(((monitor > delta) != (exact > delta))[close].astype(float).tolist())
                updates[str(size)] = len(monitor) * len(settings.own_seeds)
            flips[f"{kind}, {size}"] = one
    return {
        "seeds": list(settings.own_seeds),
        "delta": delta,
        "zeta": zeta,
        "gain": gain,
        "flips": flips,
        "updates": updates,
    }


def _flips(data: dict[str, Any], monitor: str, part: float) -> NDArray[np.float64]:
    """%, of each seed that has updates near the threshold."""
    return np.array([100 * np.mean(x) for x in data["flips"][monitor][f"{part:g}"] if x])


def findings(data: dict[str, Any]) -> list[Finding]:
    out = []
    for monitor in data["flips"]:
        kind, size = monitor.split(", ")
        for part in PARTS:
            ours, theirs = mean(_flips(data, monitor, part)), paper.MONITOR_FLIPS[part]
            question = (
                f"How many decisions near δ does {kind} on {100 * part:.0f} % of the tokens of {size} rollouts flip?"
            )
            verdict = in_value(ours, theirs)
            out.append(Finding(question, f"{ours} %", ours, f"{theirs} %", verdict))
        fewer = paired(_flips(data, monitor, 0.25), _flips(data, monitor, 0.5))
        question = (
            f"Does {kind} on a quarter of the tokens of {size} rollouts flip more decisions than on half of them?"
        )
        out.append(Finding(question, f"{fewer} points", fewer, "yes", in_sign(fewer, 1.0)))
    for name in ("TeamTR", "naive"):
        ours = paired(data["gain"][name], data["zeta"][name]["zeta"])
        question = f"Is ζ smaller than the surrogate that it is an error of, {name}, mean over updates?"
        out.append(
            Finding(question, f"{ours} points", ours, "its proxies are not known to us", ours_alone(in_sign(ours, 1.0)))
        )
    return out


def table(data: dict[str, Any]) -> Table:
    blank = [""] * 4
    lines: list[list[object]] = []
    for way in WAYS:
        zeta = [mean(data["zeta"][way.name][key]) for key in ZETA]
        lines.append([f"ζ, {way.name}", mean(data["gain"][way.name]), *zeta, *blank])
    for monitor, one in data["flips"].items():
        kind, size = monitor.split(", ")
        near = sum(map(len, one["1"]))
        for part in (*PARTS, 1.0):
            label = f"{kind} on {100 * part:.0f} % of the tokens, {size} rollouts"
            against = "that on all tokens" if part < 1 else "the exact KL"
            found = [
                mean(_flips(data, monitor, part)),
                against,
                f"{near} of {data['updates'][size]}",
                paper.MONITOR_FLIPS[part],
            ]
            lines.append([label, *[""] * (1 + len(ZETA)), *found])
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
    x = [100 * part for part in parts]
    for monitor, colour in zip(
        data["flips"], (COLOURS["once"], COLOURS["single"], COLOURS["fresh"], COLOURS["certificate"]), strict=True
    ):
        kind, size = monitor.split(", ")
        rows = [*(_flips(data, monitor, part) for part in PARTS), np.zeros(2)]
        ours = [mean(row) for row in rows]
        bars = [[y.value - y.low for y in ours], [y.high - y.value for y in ours]]
        right.errorbar(
            x, [y.value for y in ours], bars, fmt="o-", color=colour, markersize=4, label=f"{kind}, {size} rollouts"
        )
    right.plot(x, [paper.MONITOR_FLIPS[part] for part in parts], "s:", color="0.6", markersize=4, label="the paper")
    right.set(xlabel="tokens that the monitor sees, %", ylabel="decisions flipped near δ, %")
    right.legend(fontsize=7, frameon=False)
    return save(figure, path)


MONITOR = Question(
    id="Tab 7, 8",
    title="What is ζ made of, and what does a monitor on fewer tokens decide differently?",
    protocol=f"""
    Three agents, one round of messages of three symbols, prompts of two switches, the task `Chain`, started at .5 to .6; 128
    rollouts an update, 30 stages, or 1024 and 15; the paper's monitor (k1 on the tokens written) ends steps. ζ = |L̂ − L^seq|
    and its four parts, which add up to it with their signs, are exact differences; shown are means of absolute values over
    the updates. A decision: whether a monitor is above δ, of updates where on all tokens it is within {NEAR:.0%} of δ;
    {DRAWS} random parts of the tokens of each.
    """,
    limits="""
    An update has 384 or 3,072 tokens to look at here, and tens of thousands in the paper: a quarter of them says less. Its
    proxies of ζ are not given as numbers.
    """,
    collect=collect,
    findings=findings,
    table=table,
    draw=draw,
    why="""
    k1 has a standard error of about √(2δ/M) over M messages, above δ/4 unless M exceeds 32/δ, 3,200 messages at δ =
    .01: on fewer it decides by chance near δ. k3 costs nothing more, and parts of the tokens flip fewer of its
    decisions; against the exact KL it is not better than k1. Group normalisation is no estimate of an advantage in
    units of the reward: it divides by the standard deviation, and that part of ζ does not shrink with more rollouts
    (PE.10). On tokens that were trained on no monitor is unbiased: the rows "against the exact KL".
    """,
)
