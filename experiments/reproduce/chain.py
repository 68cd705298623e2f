"""The task of the enumerated teams: a chain of messages that the first mistake ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np

from teamtr_jax.llm.tasks import Problem
from teamtr_jax.validation import InputError

__all__ = ["Chain"]


@dataclass(frozen=True)
class Chain:
    """Agents in turn, `rounds` times. Every character repeats the one before it (even agents) or flips it (odd), from a on.

    The reward is the share of messages before the first one with a mistake: what a later agent can earn hangs on all that speak
    before it, as in a solution whose steps build on each other.

    Example:
      >>> Chain(agents=2).verify(Problem("?", "abba"), ["a", "b", "b", "b"])
      0.75
    """

    agents: int = 3
    rounds: int = 2
    message_length: int = 1

    name = "chain"
    characters = "ab"
    prompt_only = "?"
    prompt_length = 1
    ends = False
    caps = None

    def __post_init__(self) -> None:
        for name in ("agents", "rounds", "message_length"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "at least 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple("repeats" if i % 2 == 0 else "flips" for i in range(self.agents))

    @property
    def turns(self) -> int:
        return self.agents * self.rounds

    def _right(self) -> Iterator[str]:
        last = 0
        for turn in range(self.turns):
            message = []
            for _ in range(self.message_length):
                last ^= turn % self.agents % 2
                message.append("ab"[last])
            yield "".join(message)

    def sample(self, rng: np.random.Generator) -> Problem:
        """The only problem there is."""
        del rng
        return Problem("?", "".join(self._right()))

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The share of messages before the first one with a mistake."""
        length = self.message_length
        wanted = [problem.answer[i : i + length] for i in range(0, len(problem.answer), length)]
        wrong = [said != want for said, want in zip_longest(messages, wanted)]
        return (wrong.index(True) if True in wrong else len(wrong)) / self.turns

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """What to say."""
        del rng, problem
        return list(islice(self._right(), self.turns))
