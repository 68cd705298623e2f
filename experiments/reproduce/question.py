"""What a question of the paper is: who is trained, what is kept, what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from teamtr_jax.files import output_folder
from teamtr_jax.intervals import Interval
from teamtr_jax.llm.checked import flags, places, texts
from teamtr_jax.validation import InputError

__all__ = ["ReproduceSettings", "Finding", "Question", "Table"]

DEFAULT = Path("results/reproduce")
MANY = 10
MOST = 500
"""Seeds from here on are of other things: of teams that train on after a replacement, of rates that are chosen."""


@dataclass(frozen=True)
class ReproduceSettings:
    """Where, and for how long."""

    out: Path = DEFAULT
    """Folder of runs, data and report; an interrupted run goes on from there. A quick one has a folder of its own."""
    seeds: int = MANY
    """Teams of their own start, for enumerated teams; every way to train gets the same ones. Others: at most 5."""
    quick: bool = False
    """Smaller teams, fewer stages, two seeds: about ten minutes, and intervals that say little."""
    only: tuple[str, ...] = ()
    """Questions, such as "Tab 2a"; none: all."""
    spent: dict[Path, float] = field(default_factory=dict, init=False, compare=False)
    """Seconds of each run that was used, whenever it was made."""

    def __post_init__(self) -> None:
        """Raises `InputError` for seeds out of range, and for a place that cannot be written."""
        places(self, "out")
        flags(self, "quick")
        texts(self, "only")
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int):
            raise InputError("seeds", repr(self.seeds), f"an integer from 5 to {MOST}, or --quick")
        if self.quick:
            if self.seeds not in (MANY, 2):
                raise InputError("seeds", self.seeds, "none beside --quick, which has two")
            object.__setattr__(self, "seeds", 2)
            if self.out == DEFAULT:
                object.__setattr__(self, "out", DEFAULT.with_name(DEFAULT.name + "-quick"))
        elif not 5 <= self.seeds <= MOST:
            raise InputError("seeds", self.seeds, f"at least 5, or --quick, and at most {MOST}")
        output_folder("out", self.out)

    @property
    def own_seeds(self) -> range:
        """Of enumerated teams."""
        return range(self.seeds)

    @property
    def few_seeds(self) -> range:
        """Of teams that are sampled, which take minutes."""
        return range(min(self.seeds, 5))

    def at(self, full: int, quick: int) -> int:
        """A size, in full or in a quick run."""
        return quick if self.quick else full

    def rates(self, full: Sequence[float]) -> tuple[float, ...]:
        """The rates that are tried."""
        return tuple(full[1:3]) if self.quick else tuple(full)

    def tuning(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds on which rates are chosen."""
        return tuple(seeds[:1]) if self.quick else tuple(seeds)


class Finding(NamedTuple):
    """One line of `reproduction.json`, without what the report adds."""

    question: str
    ours: str
    interval: Interval | None
    paper: str
    verdict: str


Table = tuple[Sequence[object], Sequence[Sequence[object]]]
"""Heads and lines."""


@dataclass(frozen=True)
class Question:
    """A row of the paper's list of tables and figures. Everything but `collect` works from its data alone."""

    id: str
    title: str
    protocol: str
    limits: str  #: where the toy cannot speak for 8B models
    collect: Callable[[ReproduceSettings], dict[str, Any]]
    findings: Callable[[dict[str, Any]], list[Finding]]
    table: Callable[[dict[str, Any]], Table]
    draw: Callable[[dict[str, Any], Path], Path]
    why: str = ""  #: prose
    paper: str = ""  #: the paper's figures as a caption, where they are not columns of the table

    @property
    def slug(self) -> str:
        """A file name."""
        return self.id.lower().replace(" ", "-").replace(",", "").replace("/", "")
