"""A table and a start: each agent follows one arrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

import numpy as np

from teamtr_jax.llm.checked import whole
from teamtr_jax.llm.tasks.base import Problem
from teamtr_jax.validation import InputError

__all__ = ["Relay"]


@dataclass(frozen=True)
class Relay:
    """The prompt is a random cycle through all keys as a table in random order, then a start; a message is one hop.

    ``dCbAcBaDa`` reads d after C, b after A, c after B, a after D, start a: the first agent writes b, the second c, the third d.
    (Keys come second: a small transformer then learns to look them up in fewer steps.) Reward 1 if the last character of the last
    message is where ``hops = agents · rounds · hops_each`` hops lead, else 0. Whoever cannot read the table guesses one of the
    ``keys − 1`` others, or if the path so far is known, of the ``keys − hops`` not yet on it.

    Example:
      >>> Relay(keys=4).demonstrate(Problem("dCbAcBaDa", "d"), np.random.default_rng(0))
      ['b', 'c', 'd']
    """

    keys: int = 8  #: entries of the table: more than hops, at most 26
    agents: int = 3
    rounds: int = 1  #: how often each agent speaks
    hops_each: int = 1  #: characters of a message, one hop each

    name = "relay"
    ends = False
    caps = None

    def __post_init__(self) -> None:
        whole(self, 1, "agents", "rounds", "hops_each", high=25)
        if self.turns * self.hops_each > 25:
            found = f"{self.agents}, {self.rounds}, {self.hops_each}"
            raise InputError("agents, rounds, hops_each", found, "a product of at most 25 hops")
        whole(self, max(2, self.turns * self.hops_each + 1), "keys", high=26)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"runner {i + 1}" for i in range(self.agents))

    @property
    def characters(self) -> str:
        return ascii_lowercase[: self.keys]

    @property
    def prompt_only(self) -> str:
        return ascii_uppercase[: self.keys]

    @property
    def prompt_length(self) -> int:
        return 2 * self.keys + 1

    @property
    def message_length(self) -> int:
        return self.hops_each

    @property
    def turns(self) -> int:
        return self.agents * self.rounds

    def _path(self, prompt: str) -> str:
        table, here, path = dict(zip(prompt[1:-1:2].lower(), prompt[:-1:2], strict=True)), prompt[-1], []
        for _ in range(self.turns * self.hops_each):
            here = table[here]
            path.append(here)
        return "".join(path)

    def sample(self, rng: np.random.Generator) -> Problem:
        cycle, order = rng.permutation(self.keys).tolist(), rng.permutation(self.keys).tolist()
        pairs = [ascii_lowercase[cycle[i]] + ascii_uppercase[cycle[i - 1]] for i in order]
        prompt = "".join(pairs) + ascii_lowercase[int(rng.integers(self.keys))]
        return Problem(prompt, self._path(prompt)[-1])

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        if len(messages) != self.turns or len(messages[-1]) != self.hops_each:
            return 0.0
        return float(messages[-1][-1] == problem.answer)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        path = self._path(problem.prompt)
        return [path[i : i + self.hops_each] for i in range(0, len(path), self.hops_each)]
