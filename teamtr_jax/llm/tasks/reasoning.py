"""Tasks from reasoning-gym: its problems and its verifiers, with prompts cut down to a few characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from string import ascii_lowercase
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.llm.checked import flags, whole
from teamtr_jax.llm.tasks.base import MOST_AGENTS, Problem
from teamtr_jax.validation import InputError, whole_number

__all__ = ["Recipe", "RECIPES", "ReasoningGymTask", "reasoning_gym_task", "dataset_of", "Options",
           "MOST_OPTION"]  # fmt: skip

Entry = dict[str, Any]
Options = tuple[tuple[str, Any], ...]


class Recipe(NamedTuple):
    """How a dataset of reasoning-gym becomes a task for a team. With one of your own, any dataset does.

    Example:
      >>> Recipe(
      ...     roles=("draft", "answer"),
      ...     options=lambda agents: {"max_n": 255},
      ...     characters="0123456789",
      ...     prompt_only="",
      ...     lengths=lambda options, agents: (3, 8),
      ...     prompt=lambda entry: str(entry["metadata"]["number"]),
      ...     steps=lambda prompt, answer, agents: [format(int(prompt), "b"), answer],
      ... ).steps("9", "2", 2)
      ['1001', '2']
    """

    roles: tuple[str, ...]
    """Of the first agents (the last of these is repeated as often as needed) and of the one who answers."""
    options: Callable[[int], dict[str, Any]]
    """Agents → the settings of the dataset that may be chosen, and their defaults."""
    characters: str
    prompt_only: str
    lengths: Callable[[dict[str, Any], int], tuple[int, int]]  #: settings, agents → longest prompt, longest message
    prompt: Callable[[Entry], str]  #: the short prompt of an entry
    steps: Callable[[str, str, int], list[str]]  #: prompt, answer, agents → messages that lead to the answer
    entry: Callable[[Problem], Entry] = lambda problem: {"answer": problem.answer, "metadata": {}}
    """What the dataset's `score_answer` gets: enough for datasets that read no metadata there."""


def _running_totals(prompt: str, answer: str, agents: int) -> list[str]:
    terms = prompt.replace("-", "+-").split("+")
    totals = list(accumulate(map(int, terms)))
    return [str(totals[-(-len(totals) * (i + 1) // agents) - 1]) for i in range(agents - 1)] + [answer]


def _euclid(prompt: str, answer: str, agents: int) -> list[str]:
    numbers, said = list(map(int, prompt.split(","))), []
    for _ in range(agents - 1):
        if len(numbers) > 2 and not numbers[1]:
            del numbers[1]
        a, b = numbers[:2]
        numbers[:2] = (b, a % b) if b else (a, 0)
        said.append(",".join(map(str, numbers)))
    return [*said, answer]


def _backwards(prompt: str, answer: str, agents: int) -> list[str]:
    return [answer[: -(-len(answer) * (i + 1) // agents)].lower() for i in range(agents)]


RECIPES: dict[str, Recipe] = {
    "chain_sum": Recipe(
        roles=("adder", "answerer"),
        options=lambda agents: dict(min_terms=agents + 1, max_terms=agents + 1, min_digits=1, max_digits=1),
        characters="0123456789-",
        prompt_only="+",
        lengths=lambda o, agents: (
            o["max_terms"] * (o["max_digits"] + 1) - 1,
            len(str(o["max_terms"] * (10 ** o["max_digits"] - 1))) + 1,
        ),
        prompt=lambda entry: entry["metadata"]["expression"].replace(" ", ""),
        steps=_running_totals,
    ),
    "gcd": Recipe(
        roles=("divider", "answerer"),
        options=lambda agents: dict(min_numbers=2, max_numbers=2, min_value=1, max_value=60),
        characters="0123456789,",
        prompt_only="",
        lengths=lambda o, agents: (o["max_numbers"] * (len(str(o["max_value"])) + 1) - 1,) * 2,
        prompt=lambda entry: ",".join(map(str, entry["metadata"]["numbers"])),
        steps=_euclid,
    ),
    "spell_backward": Recipe(
        roles=("speller", "answerer"),
        options=lambda agents: dict(min_word_len=3, max_word_len=5),
        characters=ascii_lowercase,
        prompt_only="",
        lengths=lambda o, agents: (o["max_word_len"], o["max_word_len"]),
        prompt=lambda entry: entry["metadata"]["word"].lower(),
        steps=_backwards,
    ),
}
"""`chain_sum`: running totals, each agent a few terms further. `gcd`: steps of Euclid's algorithm, then the divisor.
`spell_backward`: the word from its end, each agent some letters more."""

MOST_OPTION, MOST_VALUE = 100, 10**9
"""Of the settings of `RECIPES`: of numbers of terms, digits, letters; of the numbers themselves (`…_value`)."""


@lru_cache(maxsize=64)
def dataset_of(name: str, options: Options) -> Any:
    """A dataset of reasoning-gym, of seed 0.

    Raises:
      InputError: reasoning-gym is not installed; unknown dataset or setting.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError("reasoning_gym", "not installed", "pip install 'teamtr-jax[tasks]'") from error
    try:
        return reasoning_gym.create_dataset(name, seed=0, size=2**31, **dict(options))
    except Exception as error:  # what it raises differs between datasets: AssertionError, TypeError, ValueError
        raise InputError(f"reasoning-gym dataset {name!r}", str(error), "a known dataset and its settings") from error


@dataclass(frozen=True)
class ReasoningGymTask:
    """A dataset of reasoning-gym for a team: scratch text first, the last message is the answer. `reasoning_gym_task` makes one.

    The generator draws an index below 2³¹ into the dataset of seed 0, so problems follow from the generator alone.
    """

    name: str
    agents: int
    options: Options
    recipe: Recipe
    partial: bool = False

    def __post_init__(self) -> None:
        whole(self, 2, "agents", high=MOST_AGENTS)
        flags(self, "partial")
        dataset_of(self.name, self.options)

    @property
    def roles(self) -> tuple[str, ...]:
        *scratch, last = self.recipe.roles
        names = [scratch[min(i, len(scratch) - 1)] for i in range(self.agents - 1)]
        return (*(f"{x} {i + 1}" if names.count(x) > 1 else x for i, x in enumerate(names)), last)

    @property
    def characters(self) -> str:
        return self.recipe.characters

    @property
    def prompt_only(self) -> str:
        return self.recipe.prompt_only

    @property
    def prompt_length(self) -> int:
        return self.recipe.lengths(dict(self.options), self.agents)[0]

    @property
    def message_length(self) -> int:
        return self.recipe.lengths(dict(self.options), self.agents)[1]

    @property
    def caps(self) -> None:
        return None

    @property
    def turns(self) -> int:
        return self.agents

    def sample(self, rng: np.random.Generator) -> Problem:
        entry = dataset_of(self.name, self.options)[int(rng.integers(2**31))]
        return Problem(self.recipe.prompt(entry), entry["answer"])

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The dataset's own `score_answer` of the last message; scores below 1 count as 0 unless `partial`."""
        if len(messages) != self.turns:
            return 0.0
        try:
            score = float(dataset_of(self.name, self.options).score_answer(messages[-1], self.recipe.entry(problem)))
        except Exception:  # an answer that the dataset cannot read
            return 0.0
        return min(max(score, 0.0), 1.0) if self.partial else float(score == 1)

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        return self.recipe.steps(problem.prompt, problem.answer, self.agents)


def reasoning_gym_task(
    name: str, agents: int = 3, partial: bool = False, recipe: Recipe | None = None, **options: Any
) -> ReasoningGymTask:
    """A dataset of reasoning-gym as a task: `chain_sum`, `gcd`, `spell_backward`, or any with a recipe of your own.

    Args:
      partial: scores between 0 and 1 as reasoning-gym gives them. It gives some for wrong answers that contain the right one
        (`chain_sum`, `gcd`: right 7, answer 17, score 0.5), or by letters in place (`spell_backward`). Otherwise all or nothing.
      options: settings of the dataset, among those that the recipe has.

    Raises:
      InputError: reasoning-gym is not installed; unknown dataset or setting; a dataset without a recipe.
    """
    if recipe is None and name not in RECIPES:
        raise InputError("name", repr(name), f"one of {', '.join(sorted(RECIPES))}, or a recipe for it")
    recipe = RECIPES[name] if recipe is None else recipe
    whole_number("agents", agents, 2, MOST_AGENTS)
    defaults = recipe.options(agents)
    if unknown := sorted(set(options) - set(defaults)):
        raise InputError(f"settings of {name!r}", repr(unknown[0]), "agents, partial, recipe, " + ", ".join(defaults))
    if recipe is RECIPES.get(name):
        for option, value in options.items():
            whole_number(option, value, 0, MOST_VALUE if option.endswith("_value") else MOST_OPTION)
    return ReasoningGymTask(name, agents, tuple((defaults | options).items()), recipe, partial)
