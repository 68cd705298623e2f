"""What the reader of a log declares, and which rollouts each update is judged by."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from teamtr_jax.llm.monitor.estimates import Ints
from teamtr_jax.llm.monitor.log import TokenLog
from teamtr_jax.validation import InputError

__all__ = ["Settings", "Update", "updates_of"]


@dataclass(frozen=True)
class Settings:
    """What the reader declares."""

    delta: float = 0.01
    """Threshold of the token-KL monitor, nats per message."""
    alpha: float = 0.1
    """Intervals and limits have level 1 − α."""
    tolerance: float = 0.1
    """Resample only above this certified shift (total variation) since the rollouts in use."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Declared least and largest reward; ϱ is the difference."""
    held_out: bool = False
    """No update was trained on the rollouts of this log."""
    match: float = 1e-4
    """Log-probabilities within this, nats per token, are of the same policy."""
    draws: int = 100
    """Sub-samples of the tokens, for threshold flips."""
    seed: int = 0
    """Of the sub-samples."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
          InputError: names the option.
        """
        low, high = self.reward_range
        for name, value, good, expected in (
            ("delta", self.delta, 0 < self.delta < np.inf, "a positive number"),
            ("alpha", self.alpha, 0 < self.alpha < 1, "a probability strictly between 0 and 1"),
            ("tolerance", self.tolerance, 0 <= self.tolerance <= 1, "a total variation, 0 … 1"),
            ("reward-range", self.reward_range, -np.inf < low < high < np.inf, "LOW < HIGH, both finite"),
            ("match", self.match, 0 <= self.match < np.inf, "a number ≥ 0"),
            ("draws", self.draws, self.draws >= 1, "at least 1"),
        ):
            if not good:
                raise InputError(f"--{name}", value, expected)


class Update(NamedTuple):
    """An update and its rollouts: those it is judged by, and those that were written by an earlier team."""

    stage: int
    update: int
    agents: list[int]
    changed: list[int]
    sets: dict[int, Ints]  #: by source, the transcripts
    off: dict[int, float]  #: by source, max |logp_current − logp_behaviour|
    evidence: str  #: fresh or reused
    chosen: Ints
    source: int


def updates_of(log: TokenLog, settings: Settings) -> list[Update]:
    """Every update of the log, in its order."""
    first = log.transcripts[:-1]
    stage, update = log.stage[first], log.update[first]
    bounds = np.r_[0, np.flatnonzero((np.diff(stage) != 0) | (np.diff(update) != 0)) + 1, first.size]
    distance = np.maximum.reduceat(abs(log.logp_current - log.logp_behaviour), first)
    stepped = log.logp_new != log.logp_current
    out = []
    for a, b in itertools.pairwise(bounds.tolist()):
        rows = slice(log.transcripts[a], log.transcripts[b])
        changed = np.unique(log.agent[rows][stepped[rows]]).tolist()
        told = None if log.updated is None else int(log.updated[rows.start])
        agents = changed if told is None else np.unique(log.agent[rows]).tolist() if told == -1 else [told]
        every = np.arange(a, b)
        sets = {int(s): every[log.source[a:b] == s] for s in np.unique(log.source[a:b])}
        off = {s: float(distance[chosen].max()) for s, chosen in sets.items()}
        fresh = [s for s in sets if off[s] <= settings.match]
        source = max(fresh or sets)
        chosen = np.sort(np.concatenate([sets[s] for s in fresh or [source]]))
        evidence = "fresh" if fresh else "reused"
        out.append(Update(int(stage[a]), int(update[a]), agents, changed, sets, off, evidence, chosen, source))
    return out
