"""The token log of a run's updates, for `teamtr monitor`: a row for each token, whatever kind of team wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.llm.update import Outcome
from teamtr_jax.records import TOKEN_LOG_COLUMNS

__all__ = ["TokenLogger"]


@dataclass
class TokenLogger:
    """Passes the rows of the token log to `write`, a dict of NumPy arrays for each update.

    Columns: `records.TOKEN_LOG_COLUMNS` and `source`.

    `prompt` and `rollout` number prompts and transcripts within the stage, over all its sets of rollouts. Call `begin` before
    every stage. With `rescore` the stage's first rollouts are scored, and written, at every update.
    """

    write: Callable[[dict[str, NDArray[Any]]], None]
    rescore: bool = False
    stage: int = 0
    _update: int = 0
    _sets: list[Any] = field(default_factory=list)
    _sources: list[int] = field(default_factory=list)
    _first: Any = None

    def begin(self, stage: int) -> None:
        """A stage begins."""
        self.stage, self._update, self._sets, self._sources, self._first = stage, 0, [], [], None

    def add(self, kind: Any, states: tuple[Any, Any], found: Any, outcome: Outcome, agent: int) -> None:
        """What one update did to the tokens of the rollouts in use.

        Args:
          kind: `networks.Kind`.
          states: before and after the update.
          found: `networks.LanguageEstimate`.
        """
        rollouts = found.rollouts
        known = [i for i, x in enumerate(self._sets) if x is rollouts]
        number = known[0] if known else len(self._sets)
        if not known:
            self._sets.append(rollouts)
            self._sources.append(self._update)
        behaviour = kind.behaviour(rollouts)
        current = behaviour if found.current is None else found.current
        new = current + np.asarray(outcome.log_ratio, np.float64)
        self._emit(kind, rollouts, number, behaviour, current, new)
        if number == 0:
            self._first = new
        elif self.rescore:
            first = self._sets[0]
            old, now = (kind.score(state, first, agent) for state in states)
            theirs = np.isin(kind.speaker(first), kind.who.moved(agent))[:, :, None]
            following = np.where(theirs, self._first + now - old, self._first)
            self._emit(kind, first, 0, kind.behaviour(first), self._first, following)
            self._first = following
        self._update += 1

    def _emit(self, kind: Any, rollouts: Any, number: int, *logp: NDArray[np.float64]) -> None:
        prompts, group = rollouts.reward.shape
        written, speaker = kind.written(rollouts), kind.speaker(rollouts)
        row, turn, t = np.nonzero(written)
        count = len(row)
        reward = np.asarray(rollouts.reward).reshape(-1)
        columns = (
            number * prompts + row // group, number * prompts * group + row, np.full(count, self.stage),
            np.full(count, self._update), speaker[row, turn], turn, t, *(x[written] for x in logp), reward[row],
            np.full(count, self._sources[number]),
        )  # fmt: skip
        self.write(dict(zip((*TOKEN_LOG_COLUMNS, "source"), columns, strict=True)))
