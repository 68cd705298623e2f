"""Train a family by a row and keep its records: resumable, one folder for each row."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from experiments.saved import write_json
from experiments.tabular.families import Family
from experiments.tabular.rows import Row, backend_of
from teamtr_jax.files import read_json, reason
from teamtr_jax.records import update_lines
from teamtr_jax.stage import run_stage
from teamtr_jax.tabular import TeamState, as_pytree, team_state
from teamtr_jax.training import read_records, train
from teamtr_jax.types import Step
from teamtr_jax.validation import InputError

__all__ = ["ABOUT", "Floats", "Records", "train_row", "load", "slug"]


ABOUT = "settings.json"

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Records:
    """The records of a run as arrays ``[stages, updates, instances]``, by name; those of the audit as ``exact.…``."""

    about: dict[str, Any]
    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]


def slug(name: str) -> str:
    """A file name for a row."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def train_row(
    row: Row, family: Family, stages: int, budget: int, seed: int, folder: Path, progress: bool = True
) -> Records:
    """Train every instance of the family for `stages` stages, from `folder` if it was begun there, and load the records.

    Args:
      budget: rollouts a stage, enforced; exact backends count sets, at most one for each update.
    """
    backend = backend_of(row, family, budget)
    schedule, order = row.schedule(family), row.order(family)
    limit = budget if row.sampling is not None else family.team.agents
    labels = [{"instance": i} for i in range(family.instances)]

    def stage(state: TeamState, key: Array, k: int) -> tuple[TeamState, list[dict[str, Any]]]:
        begin = time.perf_counter()
        state, records = run_stage(backend, state, order, schedule, key, k, limit)
        lines = update_lines(records, labels)
        for line in lines:
            line["time_stage"] = time.perf_counter() - begin
        return state, lines

    settings = {**family.about, "row": row.name, "note": row.note, "budget": limit, "schedule": schedule.name,
                "sampled": row.sampling is not None, "sampling": row.sampling or {}, "cost": backend.cost, "seed_run": seed,
                "step": _described(row.step(family)), "optimum": family.optimum.tolist()}  # fmt: skip
    home = folder / family.name / slug(row.name)
    train(stage, team_state(family.team, family.policy), stages, jax.random.key(seed), home, settings, progress)
    write_json(home / ABOUT, settings)
    return load(home)


def _described(step: Step) -> list[Any]:
    """The kind of a step and its settings, so that a run is continued under the same ones only."""
    made = as_pytree(step)
    leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(made)]
    return [str(getattr(made, "func", made)).split(" at ")[0], *(str(x) if x == np.inf else x for x in leaves)]


def load(home: Path) -> Records:
    """The saved records of a run as arrays.

    Raises:
      InputError: no such run, or a damaged one.
    """
    about = read_json(home / ABOUT, "the settings of a run, as it wrote them", sealed=True)
    lines = read_records(home)
    try:
        shape = tuple(max(x[name] for x in lines) + 1 for name in ("stage", "update", "instance"))
        return Records(about, {name: np.array(column).reshape(shape) for name, column in _columns(lines).items()})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            str(home), f"records of another program ({reason(error)})", "the records of a study"
        ) from error


def _columns(lines: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for line in lines:
        flat = {name: value for name, value in line.items() if not isinstance(value, dict)}
        for part in ("info", "exact"):
            flat |= {f"{part}.{name}": value for name, value in (line[part] or {}).items()}
        for name, value in flat.items():
            columns.setdefault(name, []).append(float(value) if value in ("inf", "-inf") else value)
    return columns
