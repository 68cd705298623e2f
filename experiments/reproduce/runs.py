"""The runs that a question needs: trained if they are missing, with a bar and the time left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from experiments.reproduce.chain import Chain
from experiments.reproduce.enumerated import Run, Way, train
from experiments.reproduce.question import Settings

__all__ = ["Found", "by_stage", "objective", "regressions", "loss_of", "trained", "tuned", "RATES", "TUNING_SEEDS"]

RATES = (1e-3, 3e-3, 1e-2)
"""What every way to train may choose from, on seeds of its own: the same three for all, so the same budget."""

TUNING_SEEDS = (1000, 1001)

Found = dict[str, Any]


def trained(
    settings: Settings, ways: Sequence[Way], task: Chain, stages: int, rollouts: int, seeds: Sequence[int] | None = None
) -> dict[str, list[Found]]:
    """The columns of every way to train, a run for each seed; by name of the way."""
    seeds = range(settings.seeds) if seeds is None else seeds
    jobs = [(way, seed) for way in ways for seed in seeds]
    found: dict[str, list[Found]] = {way.name: [] for way in ways}
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"{task.agents} agents", total=len(jobs))
        for way, seed in jobs:
            run = Run(way, task, seed, stages, rollouts)
            name = f"{way.method}-{way.order}-{way.learning_rate:g}-{way.delta:g}"
            place = f"n{task.agents}r{task.rounds}l{task.message_length}-{stages}x{rollouts}"
            path = settings.out / "runs" / place / name / f"{seed}.json"
            made = train(run, path)
            settings.spent[path] = made["seconds"]
            found[way.name].append(made["columns"])
            progress.advance(bar)
    return found


def by_stage(columns: Found, name: str) -> NDArray[np.float64]:
    """``[stages, updates of a stage]``."""
    stages = int(columns["stage"][-1]) + 1
    return np.asarray(columns[name], float).reshape(stages, -1)


def objective(columns: Found) -> NDArray[np.float64]:
    """``[stages + 1]``: exact J before the first stage and after each."""
    after = by_stage(columns, "objective_after")[:, -1]
    return np.concatenate([[columns["objective_before"][0]], after])


def regressions(columns: Found) -> float:
    """Updates that make the exact J smaller, %."""
    return float(100 * by_stage(columns, "regression").mean())


def loss_of(columns: Found) -> float:
    """Mean of `max(0, J(π̂ⁱ⁻¹) − J(π̂ⁱ))` over updates: instability."""
    return float(np.maximum(-by_stage(columns, "improvement"), 0).mean())


def tuned(
    settings: Settings, ways: Sequence[Way], task: Chain, stages: int, rollouts: int
) -> tuple[list[Way], list[dict[str, Any]]]:
    """Every way with the rate at which its exact J ends highest, mean over `TUNING_SEEDS`; and all that was tried."""
    tried = {
        way.name: [replace(way, name=f"{way.name} {rate:g}", learning_rate=rate) for rate in RATES] for way in ways
    }
    found = trained(settings, [x for each in tried.values() for x in each], task, stages, rollouts, TUNING_SEEDS)
    chosen, record = [], []
    for way in ways:
        ends = [float(np.mean([objective(c)[-1] for c in found[x.name]])) for x in tried[way.name]]
        best = RATES[int(np.argmax(ends))]
        chosen.append(replace(way, learning_rate=best))
        record.append(
            {"way": way.name, "rates": list(RATES), "ends": ends, "chosen": best, "seeds": list(TUNING_SEEDS)}
        )
    return chosen, record
