"""The tasks of the enumerated teams: messages that build on each other, and messages that stand in for each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from string import ascii_lowercase

import numpy as np

from experiments.llm.settings import task_settings
from teamtr_jax.llm.tasks import TASKS, Problem, Task
from teamtr_jax.llm.tasks.base import make
from teamtr_jax.validation import whole_number

__all__ = ["Chain", "Quota", "task_named"]


@dataclass(frozen=True)
class Chain:
    """Agents in turn, `rounds` times; the first mistake ends the chain. Complements: what one can earn hangs on those before it.

    Every character is the one before it, moved on by the step of its speaker, from a on. Agent k steps by k mod `symbols`; with
    `switches` the prompt says who steps at all, a character for each of the first agents, and agent k looks at number
    k mod `switches`. The reward is the share of messages before the first one with a mistake.

    Example:
      >>> Chain(agents=2).verify(Problem("?", "abba"), ["a", "b", "b", "b"])
      0.75
      >>> Chain(agents=2, switches=2).demonstrate(Problem("ba", "bbaa"), np.random.default_rng(0))
      ['b', 'b', 'a', 'a']
    """

    agents: int = 3
    rounds: int = 2
    message_length: int = 1
    symbols: int = 2
    switches: int = 0  #: characters of the prompt, a (repeat) or b (move on)

    name = "chain"
    ends = False
    caps = None

    def __post_init__(self) -> None:
        for name, low, high in (("agents", 1, None), ("rounds", 1, None), ("message_length", 1, None), ("symbols", 2, 26),
                                ("switches", 0, None)):  # fmt: skip
            whole_number(name, getattr(self, name), low, high)

    @property
    def characters(self) -> str:
        return ascii_lowercase[: self.symbols]

    @property
    def prompt_only(self) -> str:
        return "" if self.switches else "?"

    @property
    def prompt_length(self) -> int:
        return max(self.switches, 1)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"steps by {k % self.symbols}" for k in range(self.agents))

    @property
    def turns(self) -> int:
        return self.agents * self.rounds

    def _right(self, prompt: str) -> list[str]:
        last, said = 0, []
        for turn in range(self.turns):
            agent = turn % self.agents
            step = prompt[agent % self.switches] == "b" if self.switches else agent
            message = []
            for _ in range(self.message_length):
                last = (last + step) % self.symbols
                message.append(ascii_lowercase[last])
            said.append("".join(message))
        return said

    def sample(self, rng: np.random.Generator) -> Problem:
        """A random prompt; without switches there is one problem only."""
        prompt = "".join("ab"[i] for i in rng.integers(2, size=self.switches)) if self.switches else "?"
        return Problem(prompt, "".join(self._right(prompt)))

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The share of messages before the first one with a mistake."""
        length = self.message_length
        wanted = [problem.answer[i : i + length] for i in range(0, len(problem.answer), length)]
        wrong = [said != want for said, want in zip_longest(messages, wanted)]
        return (wrong.index(True) if True in wrong else len(wrong)) / self.turns

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """What to say."""
        del rng
        return self._right(problem.prompt)


@dataclass(frozen=True)
class Quota:
    """Exactly one message says b. Substitutes: whoever takes it leaves nothing to the others, and two are one too many.

    Example:
      >>> Quota(agents=3).verify(Problem("?", ""), ["a", "b", "a"]), Quota(agents=3).verify(Problem("?", ""), ["a", "b", "b"])
      (1.0, 0.0)
    """

    agents: int = 3

    name = "quota"
    characters = "ab"
    prompt_only = "?"
    prompt_length = 1
    message_length = 1
    ends = False
    caps = None

    def __post_init__(self) -> None:
        whole_number("agents", self.agents, 2)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"volunteer {k + 1}" for k in range(self.agents))

    @property
    def turns(self) -> int:
        return self.agents

    def sample(self, rng: np.random.Generator) -> Problem:
        """The only problem there is."""
        del rng
        return Problem("?", "")

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """1 for exactly one b among as many messages as there are agents."""
        del problem
        return float(len(messages) == self.agents and sum(said == "b" for said in messages) == 1)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """One of the agents, by chance."""
        del problem
        chosen = rng.integers(self.agents)
        return ["b" if k == chosen else "a" for k in range(self.agents)]


OWN: dict[str, Callable[..., Task]] = {"chain": Chain, "quota": Quota}


@cache
def task_named(text: str) -> Task:
    """A task from its name and settings, such as ``chain agents=3``: those above, and those of the library.

    Raises:
      InputError: names the task or the setting that is not known.
    """
    name, *difficulty = text.split()
    return make({**TASKS, **OWN}, name, dict(task_settings(difficulty)))
