"""Word problems in the manner of GSM8K, made by rules: somebody has some things, a few things happen, how many are there?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from teamtr_jax.llm.checked import flags, whole
from teamtr_jax.llm.tasks.answers import number, verified
from teamtr_jax.llm.tasks.base import Problem
from teamtr_jax.llm.tasks.word_task import said, solving_roles
from teamtr_jax.llm.text.role import Role
from teamtr_jax.validation import InputError

__all__ = ["WordProblems", "Story", "STORIES", "NAMES", "tell", "expression"]

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jack", "Kira", "Liam", "Maria", "Noah",
         "Olga", "Peter", "Rosa", "Sam", "Tara", "Victor")  # fmt: skip


class Story(NamedTuple):
    """Sentences about things of a kind; in them {x}: who, {y}: somebody else, {t}: the things, {a}, {k}: numbers."""

    things: tuple[str, ...]
    begin: tuple[str, ...]
    begin_many: tuple[str, ...]  #: k times a
    more: tuple[str, ...]  #: a more
    fewer: tuple[str, ...]  #: a fewer
    times: tuple[str, ...]  #: k times as many
    shared: tuple[str, ...]  #: one of k equal parts
    ask: tuple[str, ...]


STORIES = (
    Story(
        ("apples", "pears", "eggs", "cookies", "oranges", "muffins", "plums", "rolls"),
        ("{x} has {a} {t}.", "{x} picks {a} {t} in the morning.", "There are {a} {t} in the kitchen of {x}."),
        ("{x} buys {k} bags with {a} {t} in each.", "{x} has {k} baskets, each with {a} {t}."),
        ("{y} brings {a} more {t}.", "{x} buys another {a} {t}.", "Then {x} gets {a} more {t} from {y}."),
        ("{x} eats {a} of the {t}.", "{x} gives {a} {t} to {y}.", "{a} of the {t} go bad and are thrown away."),
        ("A week later {x} has {k} times as many {t}.", "Then the number of {t} grows to {k} times what it was."),
        ("{x} shares the {t} equally among {k} people and keeps one of these shares.",
         "{x} puts the {t} into {k} equal bags and keeps only one bag."),
        ("How many {t} does {x} have now?", "How many {t} are left for {x}?",
         "What is the number of {t} that {x} has in the end?"),
    ),
    Story(
        ("books", "stamps", "marbles", "cards", "coins", "pencils", "stickers", "shells"),
        ("{x} owns {a} {t}.", "{x} has a collection of {a} {t}.", "At first {x} has {a} {t}."),
        ("{x} has {k} boxes with {a} {t} in each.", "{x} fills {k} drawers with {a} {t} each."),
        ("{x} finds {a} {t} at a market.", "For a birthday {x} receives {a} {t} from {y}.", "{y} gives {x} {a} {t}."),
        ("{x} loses {a} of the {t}.", "{x} sells {a} {t} to {y}.", "{y} borrows {a} {t} and does not return them."),
        ("A year later {x} has {k} times as many {t}.", "After a trip the collection of {t} is {k} times as large."),
        ("{x} divides the {t} into {k} equal piles and keeps one pile.",
         "{x} and others, {k} people in all, split the {t} evenly, and {x} takes one part."),
        ("How many {t} does {x} have now?", "How many {t} are in the collection of {x} at the end?",
         "How many {t} does {x} own after this?"),
    ),
    Story(
        ("dollars",),
        ("{x} has {a} {t}.", "{x} starts the week with {a} {t}.", "There are {a} {t} in the wallet of {x}."),
        ("{x} works {k} hours and earns {a} {t} an hour.", "{x} sells {k} cakes for {a} {t} each."),
        ("{x} earns {a} {t}.", "{y} pays {x} {a} {t}.", "{x} finds {a} {t} on the street."),
        ("{x} spends {a} {t} on lunch.", "{x} pays {a} {t} for a ticket.", "{x} lends {a} {t} to {y}."),
        ("With a good trade {x} turns this into {k} times as many {t}.",
         "{x} saves until there are {k} times as many {t}."),
        ("{x} divides the money into {k} equal parts and keeps one part.",
         "{x} splits the {t} evenly with others, {k} people in all."),
        ("How many {t} does {x} have now?", "How many {t} does {x} have left?",
         "How much money, in {t}, does {x} have in the end?"),
    ),
)  # fmt: skip

FACTORS = (2, 3, 4, 5)
MOST_NUMBER = 10**9


@dataclass(frozen=True)
class WordProblems:
    """A story of some operations on whole numbers; the answer is a whole number, never negative.

    Example:
      >>> problem = WordProblems(largest=9, multiply=False, max_steps=1).sample(np.random.default_rng(1))
      >>> problem.prompt.split(". ")[0], problem.answer
      ('Ben owns 2 stickers', '7')
    """

    min_steps: int = 1  #: operations of a story
    max_steps: int = 2
    largest: int = 20  #: greatest number in a story: 2 to 10⁹
    multiply: bool = True  #: otherwise sums and differences only
    divide: bool = False
    agents: int = 3
    cap: int = 48  #: ids of a message

    name = "arithmetic"

    def __post_init__(self) -> None:
        whole(self, 1, "min_steps", "max_steps", high=10)
        if self.min_steps > self.max_steps:
            raise InputError(
                "min_steps, max_steps", f"{self.min_steps}, {self.max_steps}", "the first at most the second"
            )
        whole(self, 2, "largest", high=MOST_NUMBER)
        flags(self, "multiply", "divide")
        solving_roles(self.agents, "", self.cap)

    @property
    def roles(self) -> tuple[Role, ...]:
        return solving_roles(self.agents, "the number", self.cap)

    @property
    def turns(self) -> int:
        return self.agents

    def sample(self, rng: np.random.Generator) -> Problem:
        text, total = tell(self, rng)
        return Problem(text, str(total))

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """The calculation and its value, as often as there are agents before the last; the answer."""
        del rng
        solved = f"{expression(problem.prompt)} = {problem.answer}"
        return [*[solved] * (self.agents - 1), said(problem.answer)]

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """1 if the answer of the last message is the right number, else 0."""
        return verified(problem, messages, self.turns, number)


def tell(task: WordProblems, rng: np.random.Generator) -> tuple[str, int]:
    """A story and its number."""

    def one(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    story = STORIES[int(rng.integers(len(STORIES)))]
    first, second = rng.permutation(len(NAMES))[:2].tolist()
    who = {"x": NAMES[first], "y": NAMES[second], "t": one(story.things)}
    left = int(rng.integers(task.min_steps, task.max_steps + 1))
    total = int(rng.integers(2, task.largest + 1))
    said: list[str] = []
    if task.multiply and rng.integers(3) == 0:
        factor = int(rng.choice(FACTORS))
        said.append(one(story.begin_many).format(**who, k=factor, a=total))
        total, left = total * factor, left - 1
    else:
        said.append(one(story.begin).format(**who, a=total))
    for _ in range(left):
        divisors = [k for k in FACTORS if total % k == 0 and total > 0] if task.divide else []
        ways = ["more"] + ["fewer"] * (total > 1) + ["times"] * task.multiply + ["shared"] * bool(divisors)
        way = one(ways)
        a = int(rng.integers(2, task.largest + 1))
        k = int(rng.choice(divisors if way == "shared" else FACTORS))
        if way == "fewer":
            a = int(rng.integers(1, min(total - 1, task.largest) + 1))
        said.append(one(getattr(story, way)).format(**who, a=a, k=k))
        total = {"more": total + a, "fewer": total - a, "times": total * k, "shared": total // k}[way]
    said.append(one(story.ask).format(**who))
    return " ".join(said), total


SIGNS = {"more": "+", "fewer": "-", "times": "*", "shared": "/"}


def expression(prompt: str) -> str:
    """The calculation that a story asks for, in its order; the last operation is outermost.

    Raises:
      InputError: a sentence that is in no story.

    Example:
      >>> expression("Ben has 2 eggs. Ben buys another 3 eggs. Then the number of eggs grows to 4 times what it was. How many?")
      '(2 + 3) * 4'
    """
    *told, _ = re.split(r"(?<=\.) ", prompt)
    out = ""
    for sentence in told:
        kind, numbers = _read(sentence)
        a, k = numbers.get("a", ""), numbers.get("k", "")
        if not out:
            out = f"{k} * {a}" if kind == "begin_many" else a
            continue
        inner = f"({out})" if " " in out else out
        out = f"{inner} {SIGNS[kind]} {a or k}"
    return out


def _read(sentence: str) -> tuple[str, dict[str, str]]:
    for kind, pattern in _PATTERNS:
        if found := pattern.fullmatch(sentence):
            return kind, found.groupdict()
    raise InputError("prompt", repr(sentence), "sentences of a story of `WordProblems`")


def _pattern(template: str) -> re.Pattern[str]:
    """What a sentence becomes; the text between its blanks is verbatim."""
    parts = re.split(r"(\{[xytak]\})", template)
    blanks = {"{a}": r"(?P<a>[0-9]+)", "{k}": r"(?P<k>[0-9]+)"}
    return re.compile("".join(blanks.get(p, "[A-Za-z]+" if p.startswith("{") else re.escape(p)) for p in parts))


_PATTERNS = [
    (kind, _pattern(template))
    for story in STORIES
    for kind in ("begin", "begin_many", *SIGNS)
    for template in getattr(story, kind)
]
