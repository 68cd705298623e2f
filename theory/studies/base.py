"""What a study is: a statement about a family of teams (growth in n, coverage, a construction), looked at once in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theory.ledger import Row
from theory.tiers import Tier

__all__ = ["Found", "Study", "write"]

Draw = Callable[[Path], Any]


class Found(NamedTuple):
    """What a study found."""

    rows: Sequence[Row] = ()  #: a row without a statement adds to the row of its id
    draws: Mapping[str, Draw] = {}  #: file name → what makes that file
    evidence: Mapping[
        tuple[str, str], Any
    ] = {}  #: decisions without rounding, by claim and check (`exact_audit.Evidence`)


class Study(NamedTuple):
    """`job(tier, rng, lock)` does the work; the lock is held while a compiled program runs."""

    name: str
    says: Mapping[str, str]  #: ids of the statements that it is about, and each as a sentence (empty: said elsewhere)
    job: Callable[[Tier, np.random.Generator, AbstractContextManager[Any]], Found]
    apart: bool = False  #: exact arithmetic or NumPy alone: in a worker even where programs run on an accelerator
    figures: Mapping[str, tuple[str, ...]] = {}  #: file name → ids of the rows that the figure shows


def write(text: str, path: Path) -> Path:
    """The text as a file that ends with a line break."""
    path.write_text(text + "\n")
    return path
