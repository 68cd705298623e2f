"""Tasks in words in which roles matter: who speaks last has not seen what the answer depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from teamtr_jax.llm.checked import flags, whole
from teamtr_jax.llm.tasks.answers import number, verified
from teamtr_jax.llm.tasks.arithmetic import MOST_NUMBER, NAMES, WordProblems, expression
from teamtr_jax.llm.tasks.base import Problem
from teamtr_jax.llm.tasks.word_task import ANSWER, MOST_CAP, said
from teamtr_jax.llm.text.role import Role

__all__ = ["Shop", "Relayed", "GOODS"]

GOODS = ("apple", "book", "candle", "drum", "fork", "glove", "hat", "kite", "lamp", "mug", "pen", "rope", "soap", "towel",
         "umbrella", "vase")  # fmt: skip

HEARS: dict[str, Any] = {"sees": "last", "sees_problem": False}
"""Of a role that knows the message before its own, and nothing else."""

LAST = ANSWER.format(form="the number")


@dataclass(frozen=True)
class Shop:
    """Two roles: the clerk knows the prices, the cashier the order. The clerk speaks, the cashier says what is to be paid.

    The prompt is a price list and, after a blank line, an order; each role sees its own part. The clerk does not know what is
    ordered, so it has to pass on all prices; whoever guesses one price is right once in ``largest − 1`` times.

    Example:
      >>> task = Shop(goods=2, bought=1, most=1)
      >>> problem = task.sample(np.random.default_rng(0))
      >>> task.views(problem)  # the clerk's, the cashier's
      ('One candle costs 12 dollars. One rope costs 2 dollars.', 'Olga buys 1 candle. How many dollars does Olga pay?')
    """

    goods: int = 3  #: on the list; a single one makes so few lists that training would show most of the held-out ones
    bought: int = 1  #: kinds in the order
    most: int = 1  #: greatest number of each; 1: one of each
    largest: int = 20  #: greatest price
    porters: int = 0  #: between the two, who hear the message before their own and nothing else
    cap: int = 48  #: ids of a message

    name = "shop"

    def __post_init__(self) -> None:
        whole(self, 2, "goods", high=len(GOODS))
        whole(self, 1, "bought", high=self.goods)
        whole(self, 1, "most", high=MOST_NUMBER)
        whole(self, 2, "largest", high=MOST_NUMBER)
        whole(self, 0, "porters", high=6)
        whole(self, 1, "cap", high=MOST_CAP)

    @property
    def roles(self) -> tuple[Role, ...]:
        clerk = Role("clerk", "You know the prices in a shop.", self.cap, ending="What does each thing cost?")
        names = ["porter"] if self.porters == 1 else [f"porter {i + 1}" for i in range(self.porters)]
        porters = (
            Role(name, "You carry messages.", self.cap, **HEARS, ending="What does each thing cost?") for name in names
        )
        cashier = Role("cashier", "You work out what customers pay.", self.cap, "last", ending=LAST)
        return (clerk, *porters, cashier)

    @property
    def turns(self) -> int:
        return 2 + self.porters

    def sample(self, rng: np.random.Generator) -> Problem:
        goods = [GOODS[i] for i in rng.permutation(len(GOODS))[: self.goods].tolist()]
        prices = rng.integers(2, self.largest + 1, size=self.goods).tolist()
        chosen = sorted(rng.permutation(self.goods)[: self.bought].tolist())
        counts = rng.integers(1, self.most + 1, size=self.bought).tolist()
        listed = " ".join(f"One {x} costs {price} dollars." for x, price in zip(goods, prices, strict=True))
        wanted = " and ".join(f"{n} {goods[i]}{'s' * (n > 1)}" for i, n in zip(chosen, counts, strict=True))
        who = NAMES[int(rng.integers(len(NAMES)))]
        order = f"{who} buys {wanted}. How many dollars does {who} pay?"
        return Problem(f"{listed}\n\n{order}", str(sum(prices[i] * n for i, n in zip(chosen, counts, strict=True))))

    def views(self, problem: Problem) -> tuple[str, ...]:
        """The prices for the clerk, the order for the cashier."""
        listed, _, order = problem.prompt.partition("\n\n")
        return (listed, *[""] * self.porters, order)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """The price list, passed on as it is, and the answer; there is one way to say it."""
        del rng
        listed, _, _ = problem.prompt.partition("\n\n")
        return [*[listed] * (1 + self.porters), said(problem.answer)]

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """1 if the cashier's answer is the right number, else 0."""
        return verified(problem, messages, self.turns, number)


@dataclass(frozen=True)
class Relayed:
    """Three roles: the reader sees a word problem (`WordProblems`), the calculator and the answerer only what was said.

    Reader: the sum as an expression; calculator: its value; answerer: the answer in its form.
    """

    steps: int = 1  #: operations of a story
    largest: int = 20
    multiply: bool = False
    cap: int = 32  #: ids of a message

    name = "relayed"
    turns = 3

    def __post_init__(self) -> None:
        flags(self, "multiply")
        self.source  # noqa: B018 — checks the rest

    @property
    def source(self) -> WordProblems:
        """Where problems come from."""
        return WordProblems(self.steps, self.steps, self.largest, self.multiply, cap=self.cap)

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        return (
            Role(
                "reader",
                "You read stories.",
                self.cap,
                ending="Write the calculation that this asks for, such as 2 + 5.",
            ),
            Role("calculator", "You calculate.", self.cap, **HEARS, ending="Say the result of this calculation."),
            Role("answerer", "You give the final answer.", self.cap, **HEARS, ending=LAST),
        )

    def sample(self, rng: np.random.Generator) -> Problem:
        return self.source.sample(rng)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """The calculation, its value, and the answer; there is one way to say it."""
        del rng
        return [expression(problem.prompt), problem.answer, said(problem.answer)]

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """1 if the answerer's answer is the right number, else 0."""
        return verified(problem, messages, self.turns, number)
