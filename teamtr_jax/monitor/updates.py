"""Which rollouts each update is judged by."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from teamtr_jax.monitor.estimates import Ints
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.sources import Again
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.sharing import members_of

__all__ = ["Update", "updates_of"]


class Update(NamedTuple):
    """An update and its rollouts: those it is judged by, and those that were written by an earlier team."""

    stage: int
    update: int
    agents: list[int]  #: whom it moves: of sharers all who play with the parameters
    changed: list[int]
    unscored: list[int]  #: of these, who wrote something while no score of theirs changed, though a sharer's did
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
        begun = changed if told is None else spoken if told == -1 else [told]
        agents = sorted({k for agent in begun for k in members_of(settings.sharers, agent)})
        moved = {k for agent in changed for k in members_of(settings.sharers, agent)}
        unscored = [k for k in agents if k in moved and k in spoken and k not in changed]
        there = {int(s): every[log.source[a:b] == s] for s in np.unique(log.source[a:b])}
        off = {s: float(distance[chosen].max()) for s, chosen in there.items()}
        sets = {s: chosen for s, chosen in there.items() if log.usable[chosen].all()}
        fresh = here in sets and off[here] <= settings.match
        source = here if fresh else max(sets or there)
        evidence = "fresh" if fresh else "reused" if sets else "incomplete"
        again = seen.get((int(stage[a]), here), [])
        out.append(
            Update(
                int(stage[a]),
                here,
                agents,
                changed,
                unscored,
                sets,
                off,
                here in there,
                evidence,
                there[source],
                source,
                again,
            )
        )
    return out
