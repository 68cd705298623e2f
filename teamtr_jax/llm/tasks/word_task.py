"""A task in words, for teams of language models with tokenizers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from teamtr_jax.llm.tasks.base import Problem, check_attributes, demonstrated, earned, sampled
from teamtr_jax.llm.text.role import Role
from teamtr_jax.validation import InputError, whole_number

__all__ = ["WordTask", "views_of", "check_word_task", "solving_roles", "said", "ANSWER", "MOST_CAP"]

MOST_CAP = 2**16
"""Greatest cap of a message, in ids."""


ANSWER = "End with 'The answer is' and {form}."
"""What the one who speaks last is told, at the end of what it reads."""


def said(answer: str) -> str:
    """An answer in the form that `ANSWER` asks for."""
    return f"The answer is {answer}."


@runtime_checkable
class WordTask(Protocol):
    """Any object with these attributes and methods is a task in words; nothing is registered.

    Agent `t mod n` speaks at turn `t`. A reward may depend on everything that was said, is in [0, 1], and is 0 for what cannot be
    read: `verify` never raises. More methods may be there: `demonstrate`, messages of reward 1 for a supervised start
    (`base.Demonstrates`); ``views(problem)``, one text for each role, what it sees of the problem, where some know what others do
    not (``""``: nothing); and `listed` (`base.Source`).

    Attributes:
      roles: of the agents, in the order of speaking; `n = len(roles)`.
      turns: messages in a conversation.
    """

    @property
    def name(self) -> str: ...

    @property
    def roles(self) -> tuple[Role, ...]: ...

    @property
    def turns(self) -> int: ...

    def sample(self, rng: np.random.Generator) -> Problem:
        """A random problem. The same generator state gives the same problem."""
        ...

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The reward, in [0, 1], of what was said, one text for each turn."""
        ...


def views_of(task: WordTask, problem: Problem) -> tuple[str, ...]:
    """What each role sees of a problem: all of it if it sees problems (`Role.sees_problem`), unless the task has `views`.

    Raises:
      InputError: `views` returns what is not one text for each role.
    """
    views = getattr(task, "views", None)
    if views is None:
        return tuple(problem.prompt if role.sees_problem else "" for role in task.roles)
    try:
        found = tuple(views(problem))
    except Exception as error:
        raise InputError("views", f"{error!r} for {problem}", "one text for each role") from error
    if len(found) != len(task.roles) or not all(isinstance(text, str) for text in found):
        raise InputError("views", f"{found} for {problem}", f"{len(task.roles)} texts, one for each role")
    return found


def check_word_task(task: Any, size: int = 32, seed: int = 0) -> None:
    """Try a task on random problems; for whoever writes one.

    Everything that the protocol asks for is there and of its type; the same seed gives the same problems; silence, nonsense and
    a conversation that is too short earn something in [0, 1].

    Raises:
      InputError: names what is wrong, and shows it.
    """
    check_attributes(task, ("name",), ("turns",), ("sample", "verify"), ("roles",))
    roles = task.roles
    known = isinstance(roles, tuple | list) and all(isinstance(role, Role) for role in roles)
    if not known or not roles or len({role.name for role in roles}) < len(roles):
        raise InputError("task: roles", repr(roles), "a Role for each agent, at least one, each name once")
    problems, again = (_problems(task, size, seed) for _ in range(2))
    if problems != again:
        raise InputError("sample", "other problems from the same seed", "the same: let chance come from rng alone")
    if hasattr(task, "demonstrate"):
        rng = np.random.default_rng(seed)
        for problem, messages in [(x, demonstrated(task, x, rng)) for x in problems]:
            if (value := earned(task, problem, messages)) != 1:
                raise InputError("demonstrate", f"{messages} for {problem}, reward {value}", "messages of reward 1")
    for problem in problems:
        views_of(task, problem)
        for text in ("", "²", "Answer: ", "\x00"):
            earned(task, problem, [text] * task.turns)
        earned(task, problem, [])


def _problems(task: Any, size: int, seed: int) -> list[Problem]:
    rng = np.random.default_rng(seed)
    return [sampled(task, rng) for _ in range(size)]


def solving_roles(agents: int, form: str, cap: int) -> tuple[Role, ...]:
    """One who solves, one who checks, further ones who check again, and one who answers; of one agent, all at once.

    Args:
      form: what an answer is, as ``the number``.
      cap: ids of a message.

    Raises:
      InputError: no agent, or too many; a cap out of range.
    """
    whole_number("agents", agents, 1, 8)
    whole_number("cap", cap, 1, MOST_CAP)
    last = ANSWER.format(form=form)
    if agents == 1:
        return (Role("solver", "You solve problems.", cap, ending=last),)
    solver = Role("solver", "You solve problems.", cap, ending="Solve this in one short sentence.")
    again = "Check the solution. Say the right one in one short sentence."
    names = ["checker"] if agents == 3 else [f"checker {i + 1}" for i in range(agents - 2)]
    checks = (Role(name, "You check solutions.", cap, ending=again) for name in names)
    return (solver, *checks, Role("answerer", "You give the final answer.", cap, ending=last))
