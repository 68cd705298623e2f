"""U2 for any loop: may these rollouts be used for the next agent? Certificate-driven resampling as something that is asked.

NumPy only; to book rows of a token log the monitor is imported (SciPy, rich), never jax.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.path_shift import Since, summed_shift
from teamtr_jax.sharing import members_of, sharers_of
from teamtr_jax.validation import InputError, one_of, real_number, whole_number

__all__ = ["ReuseAnswer", "Reuse"]

IN_USE = "the rollouts in use, with their ids and the scores of who drew them, scored again"
"""What rows are of."""
LOOSE = 100.0
"""By how much a limit of K may exceed what K is."""
Measured = Literal["in use", "own"]
"""On which rollouts the KL of an update was measured: those that `Reuse` is asked about, or new ones of the team before it."""


class ReuseAnswer(NamedTuple):
    """Whether the rollouts may be used once more; false in an `if` where they may not."""

    yes: bool
    shift: float  #: how far the team has moved since they were drawn, total variation, at most; 1: nothing is known
    rung: str  #: by which statement
    reason: str

    def __bool__(self) -> bool:
        return self.yes


class _Books(NamedTuple):
    """What happened since the rollouts in use were drawn."""

    since: Since  #: who moved, and S3's K, by upper limits
    own: tuple[float, ...] = ()  #: upper limits of K on other rollouts than these, later than all of S3's
    scored: bool = False  #: K is of these rollouts scored again, after the last update
    doubt: str = ""  #: why nothing bounds the shift
    drawn: _Drawn | None = None  #: the rollouts in use, once they were scored


class _Drawn(NamedTuple):
    """T tokens of rollouts, in the order of a log."""

    names: NDArray[np.int64]  #: [6, T] prompt, rollout, turn, t, agent, token (−1 where ids are not known)
    behaviour: NDArray[np.float64]  #: [T] nats

    def same(self, other: _Drawn, match: float) -> bool:
        """Whether these are the same rollouts, scored by who drew them within `match` nats a token."""
        return np.array_equal(self.names, other.names) and bool((abs(self.behaviour - other.behaviour) <= match).all())


class Reuse:
    """Books how far a team has moved since its rollouts were drawn, and says whether they may be used for the next agent.

    Yes, if the certified shift is within the tolerance: S3, `√(K/2)` with `K` the KL of a whole rollout between the team that
    drew it and the team now. Where the rollouts are scored again, K is measured. Otherwise the K of updates of *different*
    agents, each on these same rollouts, add up; where an agent, or a sharer of its parameters, moves a second time they do not,
    and the shift is 1, as the schedule `certificate_driven` books it. Of updates on new rollouts of their own, S2: `Σ√(K_k/2)`.
    Limits from rollouts on which the update was trained are in-sample: no guarantee.

    Args:
      tolerance: total variation, between 0 and 1.
      alpha: all answers of a stage hold together at level `1 − alpha`, where each limit that is booked has the level `1 − level`.
      updates: how many updates a stage has; `level` is `alpha / updates`.
      sharers: for each agent the number of its parameters, where some share them.
      match: log-probabilities within this, nats a token, are of the same policy (of rows).

    Raises:
      InputError: names the setting.

    Example:
      >>> reuse = Reuse(tolerance=0.15, alpha=0.1, updates=3)
      >>> for agent in range(3):
      ...     if not (answer := reuse.may_reuse(agent)):
      ...         reuse.resampled()  # here the team writes new rollouts
      ...     reuse.book(agent, 0.02)  # the update's K: its upper limit at reuse.level
      ...     print(agent, answer.yes, round(answer.shift, 3), answer.rung)
      0 False 1.0 none
      1 True 0.1 S3, added over agents
      2 True 0.141 S3, added over agents
    """

    def __init__(
        self, *, tolerance: float, alpha: float, updates: int, sharers: Sequence[int] | None = None, match: float = 1e-4
    ):
        self.tolerance = real_number("tolerance", tolerance, 0.0, 1.0)
        alpha = real_number("alpha", alpha, above=0.0, below=1.0)
        self.level = alpha / whole_number("updates", updates, 1)
        self.sharers = None if sharers is None else sharers_of("sharers", sharers)
        self.match = real_number("match", match, 0.0)
        self._books: _Books | None = None

    def resampled(self) -> None:
        """The team as it stands has written new rollouts: these are in use from now on."""
        self._books = _Books(Since(np.zeros(0, bool), np.float64(0.0)))

    def book(
        self,
        agents: int | Sequence[int],
        kl: float | Mapping[str, ArrayLike],
        rollouts: Measured = "in use",
    ) -> None:
        """An update was made.

        Args:
          agents: of whom; sharers of its parameters are added.
          kl: the upper limit, of level `1 − level`, of the update's `K = KL(current‖new)` of a whole rollout, in nats; or the
            rows of the update (`token_rows`), of the rollouts in use and of all agents' messages, from which K since these
            rollouts were drawn is measured.
          rollouts: on which the number was measured.

        Raises:
          InputError: nothing was drawn (`resampled`), an agent that is not there, a number that is NaN or below 0, one measured
            on the rollouts in use after one that was not, or rows of another update, agents or set.
        """
        if self._books is None:
            raise InputError(
                "book", "an update before any rollouts", "resampled() first: the team has written rollouts"
            )
        one_of("rollouts", rollouts, get_args(Measured))
        moves = self._members(agents)
        books = _wide(self._books, max(moves) + 1)
        size = np.arange(books.since.moved.size)
        if isinstance(kl, Mapping):
            found, doubt, drawn = self._measured(kl, moves, books)
            since = Since(books.since.moved | np.isin(size, moves), np.float64(found))
            self._books = _Books(since, scored=True, doubt=doubt, drawn=drawn)
            return
        limit = real_number("kl", kl, 0.0, infinite=True, expected="an upper limit of K in nats, at least 0, or rows")
        if rollouts == "own":
            moved = books.since.moved | np.isin(size, moves)
            since, own = books.since._replace(moved=moved), (*books.own, limit)
        elif books.own:
            raise InputError("rollouts", "in use, after own", "own, rows, or resampled() before: these do not add up")
        else:
            since, own = books.since.moved_on(np.isin(size, moves), limit), ()
        self._books = _Books(since, own, doubt=books.doubt, drawn=books.drawn)

    def may_reuse(self, agent: int) -> ReuseAnswer:
        """Whether the rollouts in use may be used for an update of this agent, by what was booked since they were drawn.

        No also where the agent itself has moved since and they were not scored again: its own messages are then of an older
        policy of it, and after that update nothing would bound the shift.

        Raises:
          InputError: an agent that is not there.
        """
        members = self._members(agent)
        if self._books is None:
            return ReuseAnswer(False, 1.0, "none", "no rollouts were drawn yet")
        since, own, scored, doubt, _ = self._books
        shift = summed_shift([float(since.path_kl), *own])
        rung = "S2, summed over updates" if own else "S3, re-scored rollouts" if scored else "S3, added over agents"
        if doubt:
            return ReuseAnswer(False, 1.0, "none", f"the rollouts are in doubt: {doubt}")
        moved = [k for k in members if k < since.moved.size and since.moved[k]]
        if math.isinf(since.path_kl) and not scored:
            return ReuseAnswer(False, 1.0, "none", "an agent moved twice, or its K has no limit: these do not add up")
        text = f"the team has moved by up to {shift:.3g} {{}} tolerance {self.tolerance:g}, in total variation"
        if not shift <= self.tolerance:
            return ReuseAnswer(False, shift, rung, text.format(">"))
        if moved and not scored:
            return ReuseAnswer(False, shift, rung, f"agent {moved[0]} has moved since; score them again, and it may")
        return ReuseAnswer(True, shift, rung, text.format("≤"))

    def _members(self, agents: Any) -> list[int]:
        """All whom an update of these agents moves."""
        asked = list(agents) if isinstance(agents, Sequence) and not isinstance(agents, str) else [agents]
        last = None if self.sharers is None else len(self.sharers) - 1
        if not asked:
            raise InputError("agents", "none", "one at least")
        return sorted({k for x in asked for k in members_of(self.sharers, whole_number("agent", x, 0, last))})

    def _measured(
        self, rows: Mapping[str, ArrayLike], moves: list[int], books: _Books
    ) -> tuple[float, str, _Drawn | None]:
        """The upper limit of `K(rollouts‖now)`, k3 over all tokens, why the rows are in doubt, and what they are of."""
        from teamtr_jax.intervals import mean, upper_limit
        from teamtr_jax.monitor.doubts import doubts_of
        from teamtr_jax.monitor.log import token_log
        from teamtr_jax.monitor.scored import per_prompt, score
        from teamtr_jax.monitor.updates import updates_of
        from teamtr_jax.monitor_settings import Settings

        settings = Settings(alpha=self.level, sharers=self.sharers, match=self.match)
        log = token_log({key: x for key, x in rows.items() if key != "source"}, "rows", match=self.match)
        found = updates_of(log, settings)
        if len(found) > 1:
            raise InputError("rows", f"{len(found)} updates", "those of one update")
        (u,) = found
        if u.changed and u.agents != moves:
            raise InputError("rows: agents that changed", u.agents, f"{moves}, whose update is booked")
        before = np.flatnonzero(books.since.moved).tolist()
        if silent := sorted({*before, *moves} - set(log.agent[log.t >= 0].tolist())):
            expected = "the messages of all who have moved since these rollouts, scored again"
            raise InputError("rows", f"no token of agent {silent[0]}", expected)
        names = (
            log.prompt,
            log.rollout,
            log.turn,
            log.t,
            log.agent,
            np.full_like(log.t, -1) if log.token is None else log.token,
        )
        drawn = _Drawn(np.stack(names), log.logp_behaviour)
        if books.drawn is not None and not drawn.same(books.drawn, self.match):
            raise InputError(
                "rows", "other rollouts than those that were booked before", f"{IN_USE}, or resampled() first"
            )
        s = score(log, u.chosen, np.asarray(moves, np.int64))
        limit = upper_limit(mean(per_prompt(s, s.sums(s.k3_new)), self.level), self.level)
        invalid = doubts_of(log, u, settings).invalid
        unmoved = LOOSE * float(s.tokens.sum()) / s.reward.size * self.match**2  # K where nobody had moved, at most
        if u.evidence == "fresh" and float(books.since.path_kl) > unmoved:
            invalid = [*invalid, "they were drawn after updates that were booked"]
        return max(limit, 0.0), invalid[0] if invalid else "", drawn


def _wide(books: _Books, agents: int) -> _Books:
    """With places for so many agents."""
    moved = books.since.moved
    more = np.zeros(max(agents - moved.size, 0), bool)
    return books._replace(since=books.since._replace(moved=np.concatenate([moved, more])))
