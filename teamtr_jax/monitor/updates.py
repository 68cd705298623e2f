"""What the reader of a log declares, and which rollouts each update is judged by."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from teamtr_jax.monitor.estimates import Ints
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.sources import Again
from teamtr_jax.validation import InputError, real_number, whole_number

MOST_DRAWS = 10_000

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
    complete: bool = False
    """No rollout was left out: groups of unequal size and gaps in the rollout ids are as they were drawn."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
          InputError: names the option.
        """
        real_number("--delta", self.delta, above=0.0)
        real_number("--alpha", self.alpha, above=0.0, below=1.0)
        real_number("--tolerance", self.tolerance, 0.0, 1.0)
        try:
            low, high = (real_number("--reward-range", end) for end in self.reward_range)
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not low < high:
            raise InputError("--reward-range", self.reward_range, "LOW < HIGH, both finite")
        for name, value in (("--held-out", self.held_out), ("--complete", self.complete)):
            if not isinstance(value, bool | np.bool_):
                raise InputError(name, repr(value), "True or False")
        real_number("--match", self.match, 0.0)
        whole_number("--draws", self.draws, 1, MOST_DRAWS)
        whole_number("--seed", self.seed, 0)


class Update(NamedTuple):
    """An update and its rollouts: those it is judged by, and those that were written by an earlier team."""

    stage: int
    update: int
    agents: list[int]
    changed: list[int]
    sets: dict[int, Ints]  #: by source, the transcripts of sets that may be used
    off: dict[int, float]  #: by source, max |logp_current − logp_behaviour|; also of sets that may not
    resampled: bool
    evidence: str  #: fresh, reused or incomplete
    chosen: Ints
    source: int
    again: list[Again]  #: what is here of older sets


def updates_of(log: TokenLog, settings: Settings) -> list[Update]:
    """Every update of the log, in its order."""
    first = log.transcripts[:-1]
    stage, update = log.stage[first], log.update[first]
    bounds = np.r_[0, np.flatnonzero((np.diff(stage) != 0) | (np.diff(update) != 0)) + 1, first.size]
    distance = np.maximum.reduceat(abs(log.logp_current - log.logp_behaviour), first)
    stepped = log.logp_new != log.logp_current
    seen: dict[tuple[int, int], list[Again]] = {}
    for found in log.again:
        seen.setdefault((found.stage, found.update), []).append(found)
    out = []
    for a, b in itertools.pairwise(bounds.tolist()):
        rows = slice(log.transcripts[a], log.transcripts[b])
        changed = np.unique(log.agent[rows][stepped[rows]]).tolist()
        told = None if log.updated is None else int(log.updated[rows.start])
        every, here = np.arange(a, b), int(update[a])
        spoken = np.unique(log.agent[rows][log.t[rows] >= 0]).tolist()
        agents = changed if told is None else spoken if told == -1 else [told]
        there = {int(s): every[log.source[a:b] == s] for s in np.unique(log.source[a:b])}
        off = {s: float(distance[chosen].max()) for s, chosen in there.items()}
        sets = {s: chosen for s, chosen in there.items() if log.usable[chosen].all()}
        fresh = here in sets and off[here] <= settings.match
        source = here if fresh else max(sets or there)
        evidence = "fresh" if fresh else "reused" if sets else "incomplete"
        again = seen.get((int(stage[a]), here), [])
        out.append(
            Update(
                int(stage[a]), here, agents, changed, sets, off, here in there, evidence, there[source], source, again
            )
        )
    return out
