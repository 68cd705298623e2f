"""Methods side by side: the same tasks, seeds, starts and number of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures import axes, save
from experiments.llm.run import read_summary, train_run
from experiments.llm.settings import Compare
from experiments.llm.setup import set_up
from experiments.saved import places, write_json
from experiments.tables import show as table
from teamtr_jax import intervals
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.validation import shown

__all__ = ["DEFAULT", "compare", "spread"]

DEFAULT = ("teamtr", "no_resampling", "every_2", "importance_weights", "joint", "ppo", "grpo", "dapo", "single", "lone")
"""What is compared if nothing is asked for."""


def spread(x: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % t interval, infinite for one seed."""
    return intervals.mean(np.asarray(x, float), 0.05)[:3]


def _shown(x: Sequence[float]) -> str:
    value, low, high = spread(x)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if len(x) > 1 else f"{value:.3f}"


def _tested(summary: dict[str, Any]) -> int:
    """Updates after which a run looked for a regression: all, or without probes none."""
    return summary.get("regressions_tested", summary["updates"])


def _known(summary: dict[str, Any], key: str) -> Any:
    return None if key == "regressions" and not _tested(summary) else summary[key]


def _regressions(each: Sequence[dict[str, Any]]) -> str:
    tested = sum(map(_tested, each))
    return f"{sum(x['regressions'] for x in each)}/{tested}" if tested else "–"


def compare(settings: Compare) -> list[Path]:
    """Train what is missing, print the table, draw the figure from the summaries.

    Raises:
      InputError: an unknown method, or settings that do not fit one of them: before any work.
    """
    methods = DEFAULT if settings.methods is None else settings.methods
    places(settings.out, ("starts", *methods), ("compare.json", "compare.png"))
    runs = {(name, seed): settings.run(name, seed) for seed in range(settings.seeds) for name in methods}
    for run in runs.values():
        set_up(run)
    summaries: dict[tuple[str, int], dict[str, Any]] = {}
    for (name, _), run in runs.items():
        summary = read_summary(run.out)
        if summary is None or summary["stages"] != run.stages:
            print(f"{name}, seed {run.seed}", flush=True)
        start = settings.out / "starts" / f"{'one' if METHODS[name].lone else 'team'}-{run.seed}"
        summaries[name, run.seed - settings.seed] = train_run(run, start)
    found = {name: [summaries[name, seed] for seed in range(settings.seeds)] for name in methods}
    return report(settings.out, found)


def report(out: Path, found: dict[str, list[dict[str, Any]]]) -> list[Path]:
    """The table, its file and the figure."""
    keys = ("accuracy_start", "accuracy_end", "gain", "regressions", "tokens")
    seeds = len(next(iter(found.values())))
    lines = [
        [
            name,
            *(_shown([x[key] for x in each]) for key in ("accuracy_start", "accuracy_end", "gain")),
            _regressions(each),
            f"{np.mean([x['tokens'] for x in each]):.0f}",
        ]
        for name, each in found.items()
    ]
    note = f"n = {seeds} seeds; 95 % t intervals over seeds; tokens written in training rollouts, mean over seeds"
    table(
        "Methods at the same number of rollouts",
        ["method", "start", "end", "gain", "regressions", "tokens"],
        lines,
        note,
    )
    content = {
        "seeds": seeds,
        "methods": {name: {key: [_known(x, key) for x in each] for key in keys} for name, each in found.items()},
    }
    path = write_json(out / "compare.json", content)
    figure, ax = axes(1, 1, (6.4, 0.4 * len(found) + 1.2))
    for i, each in enumerate(found.values()):
        value, low, high = spread([x["gain"] for x in each])
        if seeds > 1:
            ax.plot([low, high], [i, i], color="#1b7837", linewidth=1)
        ax.plot([x["gain"] for x in each], [i] * seeds, ".", color="0.6", markersize=4)
        ax.plot(value, i, "o", color="#1b7837", markersize=4)
    ax.axvline(0, color="0.6", linewidth=0.8)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set(xlabel=f"gain on held-out prompts, {seeds} seeds, 95 % t interval")
    drawn = save(figure, out / "compare.png")
    print("\nwritten:", shown(path), shown(drawn), sep="\n  ")
    return [path, drawn]
