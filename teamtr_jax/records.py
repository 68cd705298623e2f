"""What is written of stages and updates (docs/records.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teamtr_jax.bounds import DEFAULT, ladder, least
from teamtr_jax.certificates import (
    certificate,
    certificate_estimable,
    certificate_weighted,
    certified_share,
    lower_bound_paper,
    stage_bound_cached,
    stage_bound_chi_square,
    stage_bound_least,
    stage_bound_paper,
    stage_bound_reused,
    stage_bound_stale_paper,
    stage_bound_weighted,
)
from teamtr_jax.formats import (
    LEDGER_SCHEMA,
    REPORT_SCHEMA,
    TOKEN_LOG_COLUMNS,
    TOKEN_LOG_OPTIONAL,
    TOKEN_LOG_SCHEMA,
    UPDATE_SCHEMA,
    dump,
)
from teamtr_jax.padded import run
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage, StageReport, UpdateRecord, require_report, wrong_fields
from teamtr_jax.validation import InputError

__all__ = ["REPORT_SCHEMA", "LEDGER_SCHEMA", "UPDATE_SCHEMA", "TOKEN_LOG_SCHEMA", "TOKEN_LOG_COLUMNS", "TOKEN_LOG_OPTIONAL",
           "stage_record", "evaluated_record", "update_lines", "dump"]  # fmt: skip

LISTS = (
    "surrogate_intermediate", "surrogate_stale", "surrogate_cached", "gap_fresh", "gap_stale", "gap_cached",
    "kl", "kl_stale", "tv", "share", "span_g", "advantage_max", "occupancy_tv_fresh", "occupancy_tv_stale",
)  # fmt: skip

ORDER = (
    "objective", *LISTS, "surrogate_reused", "gap_reused", *(rung.name for rung in DEFAULT),
    "penalty_least", "penalty_stale_least", "lower_bound_paper", "certificate_paper", "certificate_estimable",
    "certificate_weighted", "certificate", "certified_share", "delta_stale", "d_occ", "stage_bound_paper",
    "stage_bound_stale_paper", "stage_bound_cached", "stage_bound_reused", "stage_bound_weighted", "stage_bound_chi_square",
    "stage_bound_least", "improvement",
)  # fmt: skip
"""The numbers of a stage's record, as a reader wants them."""


def stage_record(stage: Stage, report: StageReport, file: str) -> dict[str, Any]:
    """The stage report of `teamtr stage --json`: plain numbers, lists in stage order.

    Raises:
      InputError: a number of the report is NaN, or a divergence negative.
    """
    require_report(report)
    return _record(stage, _numbers(stage, report), file)


def evaluated_record(stage: Stage, file: str) -> dict[str, Any]:
    """`stage_record(stage, evaluate_stage(stage), file)` by one kept program, which small stages share (`teamtr_jax.padded`).

    Raises:
      ArithmeticError: names a field of the report that is not a number.
    """
    found = run(_evaluated, stage)
    for name, wrong in found.pop("wrong").items():
        if wrong.any():
            raise ArithmeticError(f"{name}: not a number")
    return _record(stage, found, file)


def _evaluated(stage: Stage) -> dict[str, Any]:
    report = stage_report(stage)
    return {"wrong": wrong_fields(report), **_numbers(stage, report)}


def _numbers(stage: Stage, report: StageReport) -> dict[str, Any]:
    """What a record says in numbers, by key."""
    numbers: dict[str, Any] = {"objective": report.objective, **{name: getattr(report, name) for name in LISTS}}
    if stage.team.factors is not None:
        numbers |= {"surrogate_reused": report.surrogate_reused, "gap_reused": report.gap_reused}
    if report.episodic:
        numbers["stage_bound_chi_square"] = stage_bound_chi_square(report)
    lower = certificate(report)
    share, better = certified_share(report, lower)
    return numbers | {
        **ladder(report),
        "penalty_least": least(report, "fresh"),
        "penalty_stale_least": least(report, "stale"),
        "lower_bound_paper": lower_bound_paper(report),
        "certificate_paper": lower_bound_paper(report),
        "certificate_estimable": certificate_estimable(report),
        "certificate_weighted": certificate_weighted(report),
        "certificate": lower,
        "certified_share": (share, better),
        "delta_stale": report.delta_stale,
        "d_occ": report.d_occ,
        "stage_bound_paper": stage_bound_paper(report),
        "stage_bound_stale_paper": stage_bound_stale_paper(report),
        "stage_bound_cached": stage_bound_cached(report),
        "stage_bound_reused": stage_bound_reused(report),
        "stage_bound_weighted": stage_bound_weighted(report),
        "stage_bound_least": stage_bound_least(report),
        "improvement": report.improvement,
    }


def _record(stage: Stage, numbers: dict[str, Any], file: str) -> dict[str, Any]:
    """The record of these numbers (a program returns them sorted by name)."""
    team = stage.team
    share, better = numbers["certified_share"]
    numbers = numbers | {"certified_share": np.where(better, share, None)}
    return {
        "schema": REPORT_SCHEMA,
        "file": file,
        "form": "discounted" if team.dynamics.horizon is None else "episodic",
        "protocol": "product" if team.factors is not None else "turn-taking",
        "order": np.asarray(stage.order).tolist(),
        "agents": team.agents,
        **{key: np.asarray(numbers[key]).tolist() for key in ORDER if key in numbers},
    }


def update_lines(records: Sequence[UpdateRecord], labels: Sequence[Mapping[str, Any]] = ({},)) -> list[dict[str, Any]]:
    """Update records as JSON objects, one for each update and instance; `labels[i]` names instance i of the batch.

    Raises:
      InputError: if there is not one label for each instance.

    Example:
      >>> record = UpdateRecord(0, 0, agent=2, resampled=True, surrogate=0.5, kl=0.01, rollouts=8)
      >>> line = update_lines([record], [{"seed": 7}])[0]
      >>> line["seed"], line["moved"]
      (7, [2])
    """
    lines = []
    for record in records:
        columns = record._asdict()
        nested = {name: columns.pop(name) for name in ("info", "exact")}
        whose = {name: columns.pop(name) for name in ("moved", "credited")}
        size = 1 if np.ndim(record.agent) == 0 else np.shape(record.agent)[0]
        if len(labels) != size:
            raise InputError("labels", f"{len(labels)} labels", f"{size}, one for each instance")
        for i, label in enumerate(labels):

            def pick(value: Any, i: int = i, whole: bool = np.ndim(record.agent) == 0) -> Any:
                picked = np.asarray(value if whole or np.ndim(value) == 0 else value[i])
                return None if picked.dtype == object else picked.tolist()

            line: dict[str, Any] = {"schema": UPDATE_SCHEMA, **label}
            line |= {name: pick(value) for name, value in columns.items()}
            line |= {
                name: [line["agent"]] if x is None else np.flatnonzero(pick(x)).tolist() for name, x in whose.items()
            }
            for name, inner in nested.items():
                line[name] = None if inner is None else {key: pick(value) for key, value in inner.items()}
            lines.append(line)
    return lines
