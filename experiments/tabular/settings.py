"""What the studies share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.tabular.families import FAMILIES
from teamtr_jax.llm.checked import SEEDS, flags, places, texts, whole
from teamtr_jax.sizes import bytes_text, memory
from teamtr_jax.validation import InputError, one_of

__all__ = ["TabularSettings", "teams_of"]


MOST = 10**6
ROLLOUT = 4096
"""Bytes of one, at the least: states, actions, rewards, weights of some 64 steps."""


@dataclass(frozen=True)
class TabularSettings:
    """Where, on which teams, for how long."""

    out: Path = Path("results/tabular")
    """Folder of records and figures; an interrupted run goes on from there."""
    families: tuple[str, ...] | None = None
    """Among garnet, frozenlake, relay, handover, drift, drift-apart, garnet-tied; None: each study's usual ones. Those of scaling
    and importance are fixed."""
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
        places(self, "out")
        if self.families is not None:
            texts(self, "families")
            if not self.families or len(set(self.families)) < len(self.families):
                raise InputError("families", repr(self.families), "each family at most once, and at least one")
            for name in self.families:
                one_of("families", name, list(FAMILIES))
        whole(self, 1, "instances", "stages", "budget", high=MOST)
        whole(self, 0, "seed", high=SEEDS)
        flags(self, "progress")
        needed, limit = self.instances * self.budget * ROLLOUT, memory()
        if needed > limit:
            found = f"{self.instances}, {self.budget}: at least {bytes_text(needed)} of rollouts"
            expected = f"at most {limit // (self.instances * ROLLOUT)} rollouts, for {bytes_text(limit)} of memory"
            raise InputError("instances, budget", found, expected)


def teams_of(settings: TabularSettings, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The families that were asked for; where none was, those that are usual in a study."""
    return usual if settings.families is None else settings.families
