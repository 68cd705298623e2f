"""How much the suite does: a run of a minute, of a few, of hours."""

from __future__ import annotations

from dataclasses import dataclass

from theory.families import FAMILIES
from theory.networks import PRESETS

__all__ = ["Tier", "TIERS"]


@dataclass(frozen=True)
class Tier:
    """How much is done."""

    instances: int  #: random stages, float64
    exact: int  #: random stages decided without rounding
    families: tuple[str, ...]  #: names; a reader's own families are always included
    gym: tuple[tuple[str, int], ...]
    quick: bool  #: small studies
    chunk: int = 5_000  #: stages evaluated at once
    thorough: bool = False  #: the largest studies
    keep: bool = False  #: write down where every family stands, and go on from there
    presets: tuple[
        str, ...
    ] = ()  #: enumerated transformer teams of 65,536 transcripts (`theory.networks`), one stage each
    tied: tuple[tuple[str, int, int], ...] = ()  #: as `gym`, and how many labels an agent sees there (U4)


ALL = tuple(f.name for f in FAMILIES)
GYM = (("FrozenLake", 4), ("Taxi", 2), ("CliffWalking", 3), ("FrozenLake8x8", 3))
TIED = (("FrozenLake", 4, 4),)
NETWORKS = tuple(PRESETS)
QUICK = ("small", "episodic", "tied", "tied episodic", "corners", "episodic corners", "networks")
TIERS = {
    "quick": Tier(5_000, 60, QUICK, (), True, 1_000),
    "default": Tier(100_000, 1_000, ALL, GYM[:2], False, presets=NETWORKS[:1], tied=TIED),
    "full": Tier(1_000_000, 5_000, ALL, GYM, False, thorough=True, keep=True, presets=NETWORKS, tied=TIED),
}
