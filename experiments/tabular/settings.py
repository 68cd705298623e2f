"""What the studies share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.tabular.families import FAMILIES
from teamtr_jax.validation import InputError

__all__ = ["Settings", "teams_of"]


@dataclass(frozen=True)
class Settings:
    """Where, on which teams, for how long."""

    out: Path = Path("results/tabular")
    """Folder of records and figures; an interrupted run goes on from there."""
    families: tuple[str, ...] | None = None
    """Among garnet, frozenlake, relay, handover; None: each study's usual ones. Those of scaling and importance are fixed."""
    instances: int = 20
    """Teams (or start policies) of a family, trained side by side."""
    stages: int = 10
    """Stages of training."""
    budget: int = 384
    """Rollouts a stage, the same for every schedule."""
    seed: int = 0
    """Of the teams, the start policies and the rollouts."""
    progress: bool = True
    """Bars with the time left."""

    def __post_init__(self):
        for name in self.families or ():
            if name not in FAMILIES:
                raise InputError("families", repr(name), ", ".join(FAMILIES))
        for name in ("instances", "stages", "budget"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "at least 1")
        if self.out.exists() and not self.out.is_dir():
            raise InputError("out", f"{self.out}, a file", "a folder")


def teams_of(settings: Settings, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The families that were asked for; where none was, those that are usual in a study."""
    return usual if settings.families is None else settings.families
