"""What stands beside the float audit: decisions without rounding, the tightest saved instances, counterexamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from teamtr_jax.teams import write_stage
from theory.audit import Counterexample
from theory.ledger import Row

__all__ = ["add", "counterexamples", "page"]

LONGEST = 60
"""Characters of an id in the name of a file."""


def add(rows: Sequence[Row], decided: Mapping[tuple[str, str], Any], instances: Sequence[dict[str, Any]]) -> None:
    """Into the rows of their claims: what was decided without rounding, and the tightest saved instances."""
    for row in rows:
        own = [e for (id_, _), e in decided.items() if id_ == row.id]
        if own:
            row.exact = max(e.instances for e in own)
            row.exact_kind = "enclosed" if any(e.enclosed for e in own) else "exact"
            row.exact_violations, row.exact_undecided = sum(e.violated for e in own), sum(e.undecided for e in own)
        ratios = [
            saved["ratio"] for saved in instances if saved["id"].removesuffix("R") == row.id
        ]  # S4R is a check of S4
        row.searched = max(ratios, default=None)


def counterexamples(rows: Sequence[Row], broken: Mapping[str, Counterexample]) -> dict[str, Callable[[Path], Any]]:
    """A stage file for each claim that is violated, the worst stage found; its name goes into the note of the row."""
    draws: dict[str, Callable[[Path], Any]] = {}
    for row in (row for row in rows if row.id in broken):
        one = broken[row.id]
        stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in row.id)[:LONGEST]
        file = f"counterexample-{stem}.npz"
        while file in draws:
            file = f"{file.removesuffix('.npz')}_.npz"
        draws[file] = partial(write_stage, one.stage)
        check = f", check {one.check}" if one.check else ""
        said = f"counterexample of family {one.family}{check}: {file}"
        row.note = "; ".join(filter(None, (row.note, said)))
    return draws


def page(ratios: Sequence[dict[str, Any]], path: Path) -> None:
    """The tightest ratios that the adversarial search has found so far, as a page."""
    gammas = sorted({x["gamma"] for x in ratios if x["gamma"] is not None})
    cells: dict[tuple[str, str, str, int], dict[float | None, float]] = {}
    for x in ratios:
        cells.setdefault((x["id"], x["rung"], x["shape"], x["agents"]), {})[x["gamma"]] = x["ratio"]
    heads = ["id", "rung", "shape", "n", *(f"γ = {gamma:g}" for gamma in gammas), "episodic"]
    about = (
        "Largest `|gap|/penalty` found by `python -m theory.adversarial`, float64. The tightest stage of each rung, form and γ "
        "is kept in `theory/instances/`, and decided again without rounding in `tests/test_adversarial.py`."
    )
    lines = ["# Tightest instances", "", about, "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key, found in cells.items():
        row = [str(x) for x in key] + [f"{found[g]:.5f}" if g in found else "" for g in (*gammas, None)]
        lines.append("| " + " | ".join(row) + " |")
    path.write_text("\n".join(lines) + "\n")
