"""Addition in three roles: who carries, who adds up columns, who writes the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from teamtr_jax.llm.checked import flags, whole
from teamtr_jax.llm.tasks.base import LONGEST, Problem

__all__ = ["Carry"]


@dataclass(frozen=True)
class Carry:
    """The planner writes the carries, the solver the digits, the checker the sum. Reward 1 for the right sum, else 0.

    With columns counted from the lowest, ``c_0 = 0``, ``c_{j+1} = ⌊(Σ_i x_ij + c_j)/10⌋`` and ``s_j = (Σ_i x_ij + c_j) mod 10``:
    the planner writes ``c_1 … c_d``, the solver ``s_0 … s_{d−1}``, the checker ``s_0 … s_{d−1} c_d``. Each character then
    follows from one column and one character written before. Only the last message is rewarded.

    Example:
      >>> task = Carry(digits=2)
      >>> task.demonstrate(Problem("74+85", "105"), np.random.default_rng(0))  # 47 + 58
      ['11', '50', '501']
      >>> Carry(digits=2, low_first=False).demonstrate(Problem("47+58", "105"), np.random.default_rng(0))
      ['11', '50', '105']
    """

    numbers: int = 2  #: k, how many numbers are added: 2 to 10
    digits: int = 3  #: d, digits of each, zeros in front included
    low_first: bool = True
    """Prompt and sum begin with the lowest digit; False: with the highest, which is harder to write."""

    name = "carry"
    roles = ("planner", "solver", "checker")
    characters = "0123456789"
    prompt_only = "+"
    turns = 3

    def __post_init__(self) -> None:
        whole(self, 2, "numbers", high=10)
        whole(self, 1, "digits", high=LONGEST)
        flags(self, "low_first")

    @property
    def prompt_length(self) -> int:
        return self.numbers * (self.digits + 1) - 1

    @property
    def message_length(self) -> int:
        return self.digits + 1

    @property
    def caps(self) -> tuple[int, ...]:
        return (self.digits, self.digits, self.digits + 1)

    def _written(self, text: str) -> str:
        return text if self.low_first else text[::-1]

    def sample(self, rng: np.random.Generator) -> Problem:
        low_first = ["".join(map(str, row)) for row in rng.integers(10, size=(self.numbers, self.digits)).tolist()]
        return Problem("+".join(map(self._written, low_first)), str(sum(int(x[::-1]) for x in low_first)))

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        if len(messages) != self.turns or not messages[-1]:
            return 0.0
        highest_first = messages[-1][::-1] if self.low_first else messages[-1]
        return float((highest_first.lstrip("0") or "0") == problem.answer)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        columns = zip(*(map(int, self._written(x)) for x in problem.prompt.split("+")), strict=True)
        carries, digits, carry = [], [], 0
        for column in columns:
            carry, digit = divmod(sum(column) + carry, 10)
            carries.append(str(carry))
            digits.append(str(digit))
        return ["".join(carries), "".join(digits), self._written("".join(digits) + carries[-1])]
