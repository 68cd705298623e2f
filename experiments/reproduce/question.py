"""What a question of the paper is: who is trained, what is kept, what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reproduce.statistics import Interval
from teamtr_jax.validation import InputError

__all__ = ["Settings", "Finding", "Question"]


@dataclass(frozen=True)
class Settings:
    """Where, and for how long."""

    out: Path = Path("results/reproduce")
    """Folder of runs, data and report; an interrupted run goes on from there."""
    seeds: int = 5
    """Teams of their own start; every way to train gets the same ones."""
    quick: bool = False
    """Smaller teams, fewer stages: ten minutes, and intervals that say little."""
    only: tuple[str, ...] = ()
    """Questions, such as "Tab 2a"; none: all."""
    spent: dict[Path, float] = field(default_factory=dict, init=False, compare=False)
    """Seconds of each run that was used, whenever it was made."""

    def __post_init__(self) -> None:
        if self.seeds < (2 if self.quick else 5):
            raise InputError("seeds", self.seeds, "at least 2" if self.quick else "at least 5, or --quick")
        if self.out.exists() and not self.out.is_dir():
            raise InputError("out", f"{self.out}, a file", "a folder")


class Finding(NamedTuple):
    """One line of `reproduction.json`, without what the report adds."""

    question: str
    ours: str
    interval: Interval | None
    paper: str
    verdict: str


@dataclass(frozen=True)
class Question:
    """A row of the paper's list of tables and figures. Everything but `collect` works from its data alone."""

    id: str
    title: str
    protocol: str
    limits: str  #: where the toy cannot speak for 8B models
    collect: Callable[[Settings], dict[str, Any]]
    findings: Callable[[dict[str, Any]], list[Finding]]
    table: Callable[[dict[str, Any]], tuple[Sequence[str], Sequence[Sequence[object]]]]
    draw: Callable[[dict[str, Any], Path], Path]
    why: str = ""  #: prose
    seeds: Callable[[dict[str, Any]], list[int]] = lambda data: data["seeds"]

    @property
    def slug(self) -> str:
        """A file name."""
        return self.id.lower().replace(" ", "-").replace(",", "").replace("/", "")
