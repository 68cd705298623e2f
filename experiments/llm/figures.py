"""Figures of a run, drawn from its saved records and summary only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from experiments.figures import axes, save
from experiments.llm.run import FIGURES, read_summary
from teamtr_jax.training import read_records
from teamtr_jax.validation import InputError, shown

__all__ = ["AGENTS", "draw_run"]

AGENTS = ("#2166ac", "#b2182b", "#1b7837", "#8c510a", "#7b3294", "#e08214", "#35978f", "#c51b7d")
"""Colours of the updated agents."""

Records = list[dict[str, Any]]


def column(records: Records, *path: str) -> NDArray[np.float64]:
    """One number a record; infinities as written by `records.dump`."""

    def pick(record: Any) -> float:
        for key in path:
            record = record[key]
        return float(record)

    return np.array([pick(record) for record in records])


def draw_run(home: Path) -> list[Path]:
    """Accuracy, KL, certificate and β of a run: one file each."""
    records, summary = read_records(home), read_summary(home)
    if summary is None:
        raise InputError(str(home), "no summary", "the folder of a finished run of `train`")
    accuracy, kl, certificate, control = (home / name for name in FIGURES)
    return [
        _accuracy(accuracy, records, summary),
        _kl(kl, records),
        _certificate(certificate, records),
        _control(control, records),
    ]


def _who(records: Records) -> tuple[NDArray[np.int64], list[str]]:
    agent = np.array([record["agent"] for record in records])
    return agent, [AGENTS[k % len(AGENTS)] for k in agent.tolist()]


def _legend(ax: Any, agent: NDArray[np.int64], *others: Line2D, **options: Any) -> None:
    handles = [Line2D([], [], color=AGENTS[k % len(AGENTS)], marker="o", linestyle="", markersize=4, label=f"agent {k}")
               for k in sorted(set(agent.tolist()))]  # fmt: skip
    ax.legend(handles=[*handles, *others], frameon=False, fontsize=8, **options)


def _accuracy(path: Path, records: Records, summary: dict[str, Any]) -> Path:
    figure, ax = axes(1, 1, (7.2, 3.6))
    agent, colours = _who(records)
    x = np.arange(1, len(records) + 1)
    probed = bool(records[0]["probe"])
    others = []
    if probed:
        after, error = column(records, "probe", "after"), column(records, "probe", "after_error")
        start = records[0]["probe"]["before"]
        ax.fill_between(x, after - error, after + error, color="0.85", linewidth=0)
        ax.plot(np.r_[0, x], np.r_[start, after], color="0.6", linewidth=1, zorder=1)
        ax.scatter(x, after, c=colours, s=12, zorder=2)
        lost = column(records, "probe", "regression") > 0
        ax.scatter(x[lost], after[lost], marker="x", color="black", s=40, zorder=3)
        others.append(Line2D([], [], color="black", marker="x", linestyle="", label="regression (sign test, .01)"))
    fresh = np.array([record["resampled"] for record in records])
    ax.plot(x[fresh] - 1, column(records, "info", "reward")[fresh], ".", color="0.4", markersize=3, zorder=1)
    others.append(Line2D([], [], color="0.4", marker=".", linestyle="", label="training rollouts before it"))
    ends = [summary["accuracy_start"], summary["accuracy_end"]]
    ax.plot([0, len(records)], ends, "D", color="black", markersize=5, markerfacecolor="none", zorder=4)
    others.append(Line2D([], [], color="black", marker="D", linestyle="", markerfacecolor="none",
                         label=f"{summary['test_prompts']} test prompts"))  # fmt: skip
    _legend(ax, agent, *others, ncols=2)
    what = "mean reward after the update" + (f", {summary['probe_prompts']} held-out prompts" if probed else "")
    task = shown(summary["task"], 60)
    title = f"{task}, {summary['method']}, seed {summary['seed']}: gain ≥ {float(summary['gain_low95']):.3f} (95 %)"
    ax.set(xlabel="update", ylabel=what.replace(", ", ",\n"))
    ax.set_title(title, parse_math=False)
    return save(figure, path)


def _kl(path: Path, records: Records) -> Path:
    figure, ax = axes(1, 1, (7.2, 3.4))
    x = np.arange(1, len(records) + 1)
    exact = column(records, "info", "message_kl")
    kinds = (("message_kl_k1", "k1 (the paper's)", "v", "#b2182b"), ("message_kl_k3", "k3", "^", "#2166ac"))
    for key, label, marker, colour in kinds:
        ax.plot(x, column(records, "info", key), marker, color=colour, markersize=3.5, label=label)
    ax.plot(x, exact, "o", color="black", markersize=4, markerfacecolor="none", label="full vocabulary")
    ax.plot(
        x, column(records, "info", "monitor_reached"), "_", color="0.6", markersize=7, label="monitor before going back"
    )
    delta = records[0]["delta"]
    ax.axhline(delta, color="#1b7837", linewidth=1, label=f"δ = {delta:g}")
    ax.set_yscale("symlog", linthresh=delta / 10)
    drawn = np.stack([column(records, "info", key) for key in ("message_kl_k1", "message_kl_k3", "monitor_reached")])
    highest = drawn[np.isfinite(drawn)].max()  # the monitor of a step that was undone may be infinite
    ax.set_ylim(min(0.0, column(records, "info", "message_kl_k1").min()) * 1.5, 1.5 * max(delta, highest))
    ax.set(xlabel="update", ylabel="KL(current‖new), nats a message", title="on the rollouts trained on")
    ax.legend(frameon=False, fontsize=8, ncols=3)
    return save(figure, path)


def _certificate(path: Path, records: Records) -> Path:
    figure, (left, right) = axes(1, 2, (9.0, 3.6))
    agent, colours = _who(records)
    lower = column(records, "info", "certificate_estimable")
    x = np.arange(1, len(records) + 1)
    if records[0]["probe"]:
        change, error = column(records, "probe", "change"), column(records, "probe", "change_error")
        left.errorbar(lower, change, yerr=error, fmt="none", ecolor="0.8", elinewidth=0.8, zorder=1)
        left.scatter(lower, change, c=colours, s=14, zorder=2)
        ends = [min(lower.min(), change.min()), max(lower.max(), change.max())]
        left.plot(ends, ends, color="0.5", linewidth=1, linestyle="--")
        _legend(left, agent, Line2D([], [], color="0.5", linestyle="--", label="equal"))
        below = int((change + error < lower).sum())
        left.set_title(f"interval wholly below the certificate: {below} of {len(records)} updates", fontsize=9)
    left.locator_params(axis="x", nbins=5)
    left.set(xlabel="S7: surrogate − ϱ·KL, estimated on the rollouts trained on", ylabel="change on held-out probes")
    for key, label, colour in (("surrogate_raw", "surrogate", "#2166ac"), ("kl", "KL an episode", "#b2182b")):
        values = column(records, "info", key) if key != "kl" else column(records, key)
        right.plot(x, values, ".", color=colour, markersize=5, label=label)
    right.plot(x, lower, "o", color="black", markersize=4, markerfacecolor="none", label="surrogate − KL")
    right.axhline(0, color="0.6", linewidth=0.8)
    right.set(xlabel="update", ylabel="reward, nats")
    right.legend(frameon=False, fontsize=8)
    return save(figure, path)


def _control(path: Path, records: Records) -> Path:
    figure, (above, below) = axes(2, 1, (7.2, 4.6), sharex=True)
    agent, colours = _who(records)
    x = np.arange(1, len(records) + 1)
    beta, steps = column(records, "info", "multiplier"), column(records, "info", "steps")
    stopped, scale = column(records, "info", "stopped_early") > 0, column(records, "info", "step_scale")
    for k in sorted(set(agent.tolist())):
        above.plot(x[agent == k], beta[agent == k], "-", color=AGENTS[k % len(AGENTS)], linewidth=1)
    above.scatter(x, beta, c=colours, s=12)
    if beta.min() > 0:
        above.set_yscale("log", base=2)
    above.set(ylabel="β")
    below.scatter(x[~stopped], steps[~stopped], c=[c for c, s in zip(colours, stopped, strict=True) if not s], s=14)
    below.scatter(
        x[stopped], steps[stopped], c=[c for c, s in zip(colours, stopped, strict=True) if s], s=22, marker="v"
    )
    back = scale < 1
    below.scatter(x[back], steps[back], s=60, facecolors="none", edgecolors="0.4", linewidths=0.8)
    grey: dict[str, Any] = {"color": "0.4", "linestyle": ""}
    marks = (
        Line2D([], [], marker="v", label="stopped early", **grey),
        Line2D([], [], marker="o", markersize=8, markerfacecolor="none", label="went back", **grey),
    )
    _legend(below, agent, *marks, ncols=2)
    below.set(xlabel="update", ylabel="optimiser steps")
    return save(figure, path)
