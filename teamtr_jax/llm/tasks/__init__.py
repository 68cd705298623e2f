"""Tasks with a verifier. `TASKS` names those that come with the package; any object that satisfies `Task` is one."""

from collections.abc import Callable
from functools import partial
from typing import Any

from teamtr_jax.llm.tasks.answers import parse_answer
from teamtr_jax.llm.tasks.arithmetic import WordProblems
from teamtr_jax.llm.tasks.base import (
    Demonstrates,
    Problem,
    Source,
    Task,
    check_task,
    demonstrated,
    draw,
    earned,
    is_held_out,
    layout_of,
    make,
)
from teamtr_jax.llm.tasks.carry import Carry
from teamtr_jax.llm.tasks.jsonl import JsonLines, jsonl_task
from teamtr_jax.llm.tasks.reasoning import RECIPES, Recipe, reasoning_gym_task
from teamtr_jax.llm.tasks.relay import Relay
from teamtr_jax.llm.tasks.roles import Relayed, Shop
from teamtr_jax.llm.tasks.small import Copy, Parity
from teamtr_jax.llm.tasks.word_task import WordTask, check_word_task, views_of
from teamtr_jax.llm.tasks.words import WORDINGS, GymWords, gym_words

__all__ = ["Problem", "Source", "Demonstrates", "Task", "is_held_out", "draw", "earned", "demonstrated", "layout_of",
           "check_task", "TASKS", "make_task",
           "Carry", "Relay", "Copy", "Parity", "reasoning_gym_task", "Recipe",
           "WordTask", "views_of", "check_word_task", "parse_answer", "WORD_TASKS", "make_word_task",
           "WordProblems", "Shop", "Relayed", "GymWords", "gym_words", "JsonLines", "jsonl_task"]  # fmt: skip

TASKS: dict[str, Callable[..., Task]] = {
    "carry": Carry,
    "relay": Relay,
    "copy": Copy,
    "parity": Parity,
    **{name: partial(reasoning_gym_task, name) for name in RECIPES},
}
"""Name → what makes the task from its settings."""


def make_task(name: str, **settings: Any) -> Task:
    """A task of `TASKS` by name.

    Raises:
      InputError: unknown name or setting, or a setting out of range.

    Example:
      >>> make_task("carry", digits=4).message_length
      5
    """
    return make(TASKS, name, settings)


WORD_TASKS: dict[str, Callable[..., WordTask]] = {
    "arithmetic": WordProblems,
    "shop": Shop,
    "relayed": Relayed,
    **{name: partial(gym_words, name) for name in WORDINGS},
}
"""Name → what makes the task in words from its settings."""


def make_word_task(name: str, **settings: Any) -> WordTask:
    """A task of `WORD_TASKS` by name.

    Raises:
      InputError: unknown name or setting, or a setting out of range.

    Example:
      >>> [role.name for role in make_word_task("shop", goods=4).roles]
      ['clerk', 'cashier']
    """
    return make(WORD_TASKS, name, settings)
