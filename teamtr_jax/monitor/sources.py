"""Which rollouts of an update were sampled at an earlier one: whole sets, token by token, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.monitor.estimates import Floats, Ints

__all__ = ["Again", "Rows", "sources", "rows_of"]


class Again(NamedTuple):
    """What an update has of a set of rollouts that was sampled at an earlier one."""

    stage: int
    update: int
    source: int  #: the update at which the set was sampled
    size: int  #: its rollouts; 0 where the log does not have that update
    same: int  #: of these, here with the same tokens
    missing: int  #: not here
    changed: int  #: here with other tokens, `logp_behaviour` or reward
    extra: int  #: said to be of this set, and not in it
    state: str  #: whole: scored again; part: not used as such; unclear: new rollouts could look the same


class Rows(NamedTuple):
    """The sorted rows of a log."""

    transcripts: Ints  #: [N+1] first row of every scored transcript, and the number of rows
    columns: Mapping[str, NDArray[Any]]

    def of(self, key: str) -> NDArray[Any]:
        """[N] a column, one value for each transcript."""
        return self.columns[key][self.transcripts[:-1]]


def rows_of(transcripts: Ints, chosen: Ints) -> Ints:
    """The rows of some transcripts."""
    starts, length = transcripts[chosen], np.diff(transcripts)[chosen]
    ends = np.cumsum(length)
    return np.arange(int(ends[-1])) + np.repeat(starts - (ends - length), length)


def _same(rows: Rows, a: Ints, b: Ints, match: float) -> NDArray[np.bool_]:
    """Whether transcripts `a[i]` and `b[i]` have the same reward, tokens and (within `match`) behaviour, token by token."""
    length, reward = np.diff(rows.transcripts), rows.of("reward")
    out = (length[a] == length[b]) & (reward[a] == reward[b])
    if out.any():
        one, two = (rows_of(rows.transcripts, x[out]) for x in (a, b))
        exact = [rows.columns[key] for key in ("turn", "t", "agent", "token") if key in rows.columns]
        behaviour = rows.columns["logp_behaviour"]
        equal = abs(behaviour[one] - behaviour[two]) <= match
        for column in exact:
            equal &= column[one] == column[two]
        kept = length[a[out]]
        out[out] = np.logical_and.reduceat(equal, np.cumsum(kept) - kept)
    return out


def _names(rows: Rows) -> Ints:
    """[N] equal numbers for equal (stage, prompt, rollout)."""
    keys = [rows.of(key) for key in ("rollout", "prompt", "stage")]
    order = np.lexsort(keys)
    new = np.r_[False, np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])]
    out = np.empty(order.size, np.int64)
    out[order] = np.cumsum(new)
    return out


def sources(rows: Rows, match: float) -> tuple[Ints, NDArray[np.bool_], tuple[Again, ...]]:
    """The update at which each transcript was sampled, whether it may be used, and what was found of older sets.

    With a column `source` the log says it. Of an older set only the whole, with the same tokens, is usable.

    Without it a set counts as scored again if the whole of it stands at the later update with the same tokens, and it was
    on-policy when it was sampled and no longer is: rollouts drawn anew are on-policy. Everything else counts as sampled at its
    update; where that is contradicted (some old rollouts are there, and the log-probabilities are not the behaviour's), it is
    not usable.
    """
    return _told(rows, match) if "source" in rows.columns else _found(rows, match)


def _told(rows: Rows, match: float) -> tuple[Ints, NDArray[np.bool_], tuple[Again, ...]]:
    stage, update, source = (rows.of(key) for key in ("stage", "update", "source"))
    usable = np.ones(source.size, bool)
    order = np.lexsort([update, source, stage])  # stable: within a set as in the log, by prompt and rollout
    new = np.logical_or.reduce([np.diff(key[order]) != 0 for key in (stage, source, update)])
    names, again = _names(rows), []
    home: Ints = order[:0]
    for here in np.split(order, np.flatnonzero(new) + 1):
        st, up, so = int(stage[here[0]]), int(update[here[0]]), int(source[here[0]])
        if up == so:
            home = here
            continue
        if not home.size or (int(stage[home[0]]), int(source[home[0]])) != (st, so):
            home = order[:0]
        common, i, j = np.intersect1d(names[home], names[here], assume_unique=True, return_indices=True)
        same = int(_same(rows, home[i], here[j], match).sum())
        missing, changed, extra = home.size - common.size, common.size - same, here.size - common.size
        usable[here] = home.size > 0 and missing == changed == extra == 0
        state = "whole" if usable[here[0]] else "part"
        again.append(Again(st, up, so, home.size, same, missing, changed, extra, state))
    return source, usable, tuple(sorted(again))


def _found(rows: Rows, match: float) -> tuple[Ints, NDArray[np.bool_], tuple[Again, ...]]:
    stage, update = rows.of("stage"), rows.of("update")
    names = _names(rows)
    distance = abs(rows.columns["logp_current"] - rows.columns["logp_behaviour"])
    off: Floats = np.maximum.reduceat(distance, rows.transcripts[:-1])
    source, usable = update.copy(), np.ones(update.size, bool)
    # By name, the first transcript and the newest one that counts as sampled at its update.
    oldest, newest = (np.full(int(names.max()) + 1, -1) for _ in range(2))
    sets: dict[int, Ints] = {}
    again: list[Again] = []
    bounds = np.flatnonzero((np.diff(stage) != 0) | (np.diff(update) != 0)) + 1
    for here in np.split(np.arange(update.size), bounds):
        st, up = int(stage[here[0]]), int(update[here[0]])
        if here[0] == 0 or stage[here[0] - 1] != st:
            sets = {}
        like: dict[int, NDArray[np.bool_]] = {}  # by source, which of `here` are of it
        for known in (oldest[names[here]], newest[names[here]]):
            some = np.flatnonzero(known >= 0)
            if not some.size:
                continue
            some = some[_same(rows, known[some], here[some], match)]
            for s in np.unique(source[known[some]]).tolist():
                of_it = some[source[known[some]] == s]
                like.setdefault(s, np.zeros(here.size, bool))[of_it] = True
        rest, part = np.ones(here.size, bool), False
        explained = np.zeros(here.size, bool)  # by an older set that is there as a whole
        for s, mine in sorted(like.items()):
            mine &= ~explained
            home, same = sets[s], int(mine.sum())
            if not same:
                continue
            present = int(np.isin(names[here], names[home]).sum())
            whole = same == home.size
            moved = whole and off[home].max() <= match < off[here[mine]].max()
            state = "whole" if moved else "unclear" if whole else "part"
            again.append(Again(st, up, s, home.size, same, home.size - present, present - same, 0, state))
            part |= not whole
            explained |= mine & whole
            if moved:
                source[here[mine]] = s
                rest &= ~mine
        left = here[rest]
        if left.size:
            sets[up] = left
            usable[left] = not (part and off[left].max() > match)
            newest[names[left]] = left
            first = left[oldest[names[left]] < 0]
            oldest[names[first]] = first
    return source, usable, tuple(again)
