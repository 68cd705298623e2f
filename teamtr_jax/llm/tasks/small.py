"""Tasks that a small team solves in seconds: for tests, examples and exact enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import eq
from string import ascii_lowercase

import numpy as np

from teamtr_jax.llm.checked import flags, whole
from teamtr_jax.llm.tasks.base import LONGEST, MOST_AGENTS, Problem

__all__ = ["Copy", "Parity"]


def _share(expected: str, messages: Sequence[str], length: int) -> float:
    """The share of characters that are right; a message that is not of this length has none."""
    if len(messages) * length != len(expected):
        return 0.0
    said = "".join([text if len(text) == length else " " * length for text in messages])
    return sum(map(eq, expected, said)) / len(expected)


@dataclass(frozen=True)
class Copy:
    """Each agent repeats its own part of the prompt. The reward is the share of characters that are right.

    Chance gives 1/symbols. Every character is rewarded, so reinforcement learning alone solves it, without a warm start.

    Example:
      >>> Copy().verify(Problem("adb", "adb"), ["a", "d", "c"])
      0.6666666666666666
    """

    symbols: int = 4  #: size of the alphabet: 2 to 26
    agents: int = 3
    length: int = 1  #: characters for each agent
    shares: bool = True  #: False: reward 1 if everything is right, else 0

    name = "copy"
    prompt_only = ""
    ends = False
    caps = None

    def __post_init__(self) -> None:
        whole(self, 2, "symbols", high=26)
        whole(self, 1, "agents", high=MOST_AGENTS)
        whole(self, 1, "length", high=LONGEST)
        flags(self, "shares")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"copyist {i + 1}" for i in range(self.agents))

    @property
    def characters(self) -> str:
        return ascii_lowercase[: self.symbols]

    @property
    def prompt_length(self) -> int:
        return self.agents * self.length

    @property
    def message_length(self) -> int:
        return self.length

    @property
    def turns(self) -> int:
        return self.agents

    def sample(self, rng: np.random.Generator) -> Problem:
        text = "".join(ascii_lowercase[i] for i in rng.integers(self.symbols, size=self.prompt_length).tolist())
        return Problem(text, text)

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        share = _share(problem.answer, messages, self.length)
        return share if self.shares else float(share == 1)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        return [problem.prompt[i : i + self.length] for i in range(0, self.prompt_length, self.length)]


@dataclass(frozen=True)
class Parity:
    """Each agent writes the parity of all bits up to the end of its own part: that of the message before, and its own bits.

    Reward 1 if the last message is right, else 0: a team that guesses earns 1/2, and no agent can do much alone. With `shares`
    it is the share of right messages, which is easy.

    Example:
      >>> Parity(agents=3, bits=2).demonstrate(Problem("100111", "0"), np.random.default_rng(0))
      ['1', '0', '0']
    """

    agents: int = 3
    bits: int = 2  #: bits of the prompt for each agent
    shares: bool = False

    name = "parity"
    characters = "01"
    prompt_only = ""
    message_length = 1
    ends = False
    caps = None

    def __post_init__(self) -> None:
        whole(self, 1, "agents", high=MOST_AGENTS)
        whole(self, 1, "bits", high=LONGEST)
        flags(self, "shares")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"counter {i + 1}" for i in range(self.agents))

    @property
    def prompt_length(self) -> int:
        return self.agents * self.bits

    @property
    def turns(self) -> int:
        return self.agents

    def sample(self, rng: np.random.Generator) -> Problem:
        prompt = "".join(map(str, rng.integers(2, size=self.prompt_length).tolist()))
        return Problem(prompt, str(prompt.count("1") % 2))

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        if self.shares:
            return _share("".join(self._parities(problem.prompt)), messages, 1)
        return float(len(messages) == self.turns and messages[-1] == problem.answer)

    def _parities(self, prompt: str) -> list[str]:
        parts = [prompt[i : i + self.bits].count("1") for i in range(0, len(prompt), self.bits)]
        return [str(total % 2) for total in accumulate(parts)]

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        return self._parities(problem.prompt)
