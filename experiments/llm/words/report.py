"""`python -m experiments.llm.words.report results/smollm docs/smollm`: what the seeds of a run gained, together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.lines import Line2D

from experiments.commands import exit_code
from experiments.figures import axes, save
from experiments.llm.figures import AGENTS
from experiments.llm.keeping import SUMMARY, TOKENS
from experiments.llm.measure import Mean
from experiments.saved import read, write_json
from teamtr_jax import intervals
from teamtr_jax.monitor import MonitorReport, Settings, monitor, pool, read_stages, verdicts
from teamtr_jax.training import read_records
from teamtr_jax.validation import InputError

__all__ = ["wilson", "pooled", "report"]

Summary = dict[str, Any]

KEPT = ("resampled", "surrogate")
TOLD = ("reward", "uniform_groups", "message_kl", "monitor_reached", "step_scale", "certificate_estimable", "floor",
        "mismatch_max", "drift", "truncated")  # fmt: skip
"""Of the records, what the report keeps of each update."""


def wilson(rate: float, n: int) -> Mean:
    """A share of n with its 95 % interval by Wilson.

    Example:
      >>> print(wilson(0.07, 200))
      0.070 [0.042, 0.114]
    """
    found = scipy.stats.binomtest(round(rate * n), n).proportion_ci(0.95, "wilson")
    return Mean(rate, float(found.low), float(found.high))


def pooled(summaries: Sequence[Summary]) -> Mean:
    """Mean gain of the prompts of all seeds, each paired with itself: `Σ ĝ_s/S ± 1.96·√(Σ e_s²)/S`, as many prompts a seed.

    It speaks of these runs. Whether further seeds gain is what the t interval over seeds says.
    """
    gains = [float(x["gain"]) for x in summaries]
    errors = [(float(x["gain_high95"]) - float(x["gain_low95"])) / 2 for x in summaries]
    value, half = float(np.mean(gains)), float(np.sqrt(np.sum(np.square(errors)))) / len(gains)
    return Mean(value, value - half, value + half)


def report(folder: Path, out: Path) -> list[Path]:
    """The table on the terminal, and `results.json` and `accuracy.png` in `out`, of the runs ``folder/seed-*``.

    Certificates are the monitor's, of the token logs: of the rollouts that trained, so no guarantee.

    Raises:
      InputError: no finished run.
    """
    homes = sorted(home for home in folder.glob("seed-*") if (home / SUMMARY).exists())
    if not homes:
        raise InputError(str(folder), "no finished run", "folders seed-0, seed-1, … of `train`")
    summaries = [read(home / SUMMARY, "the summary of a run") for home in homes]
    for home, x in zip(homes, summaries, strict=True):
        if x["test_samples"] != 1:
            raise InputError(f"{home}: test_samples", x["test_samples"], "1: the interval is of that many problems")
    records = [read_records(home) for home in homes]
    monitored = [_monitored(home, lines[0]["delta"]) for home, lines in zip(homes, records, strict=True)]
    spoiled = pool([matrix for found in monitored for matrix in found.interactions], 0.1)
    together, over = pooled(summaries), intervals.mean(np.array([float(x["gain"]) for x in summaries]), 0.05)
    print(
        "| seed | before demonstrations | start | end | gain, paired by prompt | seconds |\n|---|---|---|---|---|---|"
    )
    for x in summaries:
        shown = [wilson(float(x[name]), x["test_prompts"]) for name in STEPS]
        gain = Mean(*(float(x[name]) for name in ("gain", "gain_low95", "gain_high95")))
        print(f"| {x['seed']} |", " | ".join(map(str, (*shown, gain))), f"| {x['seconds']:.0f} |")
    print(f"\npooled gain {together} (n = {sum(x['test_prompts'] for x in summaries)} prompts); "
          f"t interval over {over.n} seeds {over}")  # fmt: skip
    content = {
        "runs": summaries,
        "gain_pooled": together._asdict(),
        "gain_over_seeds": {"value": over.value, "low": over.low, "high": over.high, "n": over.n},
        "updates": [
            [_told(*both) for both in zip(lines, found.records, strict=True)]
            for lines, found in zip(records, monitored, strict=True)
        ],
        "verdicts": [[x.headline for x in verdicts(found)] for found in monitored],
        "interaction": {"alpha": 0.1, "stages": spoiled.stages, "agents": spoiled.agents, "entries": spoiled.entries},
    }
    return [write_json(out / "results.json", content), _figure(out / "accuracy.png", summaries, records)]


STEPS = ("accuracy_untrained", "accuracy_start", "accuracy_end")


def _monitored(home: Path, delta: float) -> MonitorReport:
    path = next((path for path in sorted(home.glob(f"{TOKENS}.*")) if path.is_file()), None)
    if path is None:
        raise InputError(str(home), "no token log", "a run with --log")
    return monitor(read_stages(path), Settings(delta=delta))


def _told(line: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """An update: of its record, and of what the monitor says of its rollouts."""
    numbers = {name: line["info"][name] for name in TOLD if name in line["info"]}
    rungs = {f"{x['id']}, {x['name']}": x["certificate"]["value"] for x in seen["rungs"]}
    limits = {"certified_lower": seen["certificate"]["lower"], "S8_lower": seen["certificate_finite_sample"]["lower"]}
    said = {"kl_k1": seen["kl_k1"]["value"], "surrogate_drift": seen["drift"]} if seen["kl_k1"] else {}
    return {name: line[name] for name in ("stage", "agent", *KEPT)} | numbers | said | {"certificates": rungs | limits}


def _figure(path: Path, summaries: Sequence[Summary], records: Sequence[Sequence[dict[str, Any]]]) -> Path:
    figure, (left, right) = axes(1, 2, (9.0, 3.4))
    for k, x in enumerate(summaries):
        found = [wilson(float(x[name]), x["test_prompts"]) for name in STEPS]
        at = np.arange(3) + 0.08 * (k - (len(summaries) - 1) / 2)
        left.errorbar(
            at, [y.value for y in found], [[y.value - y.low for y in found], [y.high - y.value for y in found]],
            color=f"{0.2 + 0.2 * k:.1f}", marker="o", markersize=4, linewidth=1, label=f"seed {x['seed']}",
        )  # fmt: skip
    demonstrations = summaries[0]["warm_start"]["demonstrations"] if summaries[0]["warm_start"] else 0
    left.set_xticks(range(3), ["untrained", f"after {demonstrations}\ndemonstrations", "trained"])
    left.set(ylabel="held-out accuracy, 95 % (Wilson)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8, loc="upper left")
    for lines in records:
        kl = [float(line["info"]["message_kl"]) for line in lines]
        right.scatter(range(1, len(lines) + 1), kl, c=[AGENTS[line["agent"]] for line in lines], s=14)
    right.axhline(records[0][0]["delta"], color="0.4", linewidth=1)
    right.set_yscale("log")
    right.set(xlabel="update", ylabel="KL(current‖new), nats a message", title=f"line: δ = {records[0][0]['delta']:g}")
    agents = sorted({line["agent"] for line in records[0]})
    right.legend(
        handles=[Line2D([], [], color=AGENTS[k], marker="o", linestyle="", markersize=4, label=f"agent {k}") for k in agents],
        frameon=False, fontsize=8,
    )  # fmt: skip
    return save(figure, path)


if __name__ == "__main__":
    sys.exit(exit_code("experiments.llm.words.report", lambda: report(*map(Path, sys.argv[1:3]))))
