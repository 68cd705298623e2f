"""What a task is: endless prompts, a verifier of the finished conversation, and messages that solve it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from teamtr_jax.llm.layout import Layout, Router, Vocabulary, round_robin
from teamtr_jax.validation import InputError

__all__ = ["Problem", "Task", "HELD_OUT", "is_held_out", "draw", "layout_of", "check_task", "knob"]

HELD_OUT = 8
"""One prompt in so many is held out."""

MISSES = 10_000
"""`draw` gives up after so many prompts in a row that it cannot use."""


class Problem(NamedTuple):
    """A prompt, and what the verifier needs to know about it, as text."""

    prompt: str
    answer: str


@runtime_checkable
class Task(Protocol):
    """Any object with these attributes and methods is a task; nothing is registered.

    Agent `t mod n` speaks at turn `t` under the round robin. A reward may depend on everything that was said, is in [0, 1], and
    is 0 for what cannot be read: `verify` never raises. One more attribute may be there, `ends` (default True): whether a message
    may be shorter than its cap; without it every message has exactly as many characters as its agent may write.

    Attributes:
      roles: names of the agents, in the order of speaking; `n = len(roles)`.
      characters: what agents may write.
      prompt_only: further characters, which only prompts hold.
      prompt_length: most characters of a prompt.
      message_length: most ids of a message; END is one of them where a message is shorter than its cap.
      caps: the same for each agent, if they differ.
      turns: messages in a conversation.

    Example (the first agent reports the greatest of three digits, the second the greatest of six):
      >>> class Greatest:
      ...     name, roles, turns = "greatest", ("scout", "judge"), 2
      ...     characters, prompt_only = "0123456789", ""
      ...     prompt_length, message_length, caps = 6, 1, None
      ...     def sample(self, rng):
      ...         digits = "".join(map(str, rng.integers(10, size=6)))
      ...         return Problem(digits, max(digits))
      ...     def verify(self, problem, messages):
      ...         return float(messages[1:] == [problem.answer])
      ...     def demonstrate(self, problem, rng):
      ...         return [max(problem.prompt[:3]), problem.answer]
      >>> check_task(Greatest())
      >>> draw(Greatest(), np.random.default_rng(0), 2, held_out=True)
      [Problem(prompt='810805', answer='8'), Problem(prompt='456419', answer='9')]
    """

    @property
    def name(self) -> str: ...

    @property
    def roles(self) -> tuple[str, ...]: ...

    @property
    def characters(self) -> str: ...

    @property
    def prompt_only(self) -> str: ...

    @property
    def prompt_length(self) -> int: ...

    @property
    def message_length(self) -> int: ...

    @property
    def caps(self) -> tuple[int, ...] | None: ...

    @property
    def turns(self) -> int: ...

    def sample(self, rng: np.random.Generator) -> Problem:
        """A random problem. The same generator state gives the same problem."""
        ...

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The reward, in [0, 1], of what was said, one text for each turn."""
        ...

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """Messages of reward 1, one for each turn: for the warm start. `rng` chooses among several, if there are."""
        ...


def knob(name: str, value: int, low: int, high: int | None = None) -> None:
    """Refuse a setting of a task that is no integer from `low` to `high`.

    Raises:
      InputError: names the setting.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | np.integer)
        or value < low
        or (high is not None and value > high)
    ):
        raise InputError(
            name, repr(value), f"an integer from {low} to {high}" if high is not None else f"an integer ≥ {low}"
        )


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is kept for evaluation: by its BLAKE2b hash, the same in every run and on every machine."""
    return int.from_bytes(blake2b(prompt.encode(), digest_size=8).digest(), "little") % HELD_OUT == 0


def draw(task: Task, rng: np.random.Generator, size: int, held_out: bool, distinct: bool = False) -> list[Problem]:
    """Random problems whose prompts are all held out, or all not.

    Args:
      distinct: no prompt twice.

    Raises:
      InputError: the task has too few such prompts: 10,000 in a row were of no use.
    """
    knob("size", size, 0)
    problems: list[Problem] = []
    seen: set[str] = set()
    misses = 0
    while len(problems) < size:
        problem = task.sample(rng)
        if is_held_out(problem.prompt) == held_out and not (distinct and problem.prompt in seen):
            problems.append(problem)
            seen.add(problem.prompt)
            misses = 0
        elif (misses := misses + 1) >= MISSES:
            kind = ("distinct " if distinct else "") + ("held-out" if held_out else "training")
            found = f"{task.name!r}, which gave {len(problems)} of {size} {kind} prompts and then none in {MISSES}"
            raise InputError("task", found, "settings with more prompts, or a smaller size")
    return problems


def layout_of(task: Task, router: Router | None = None, temperature: float = 1.0, turns: int | None = None) -> Layout:
    """The transcripts of a task: round robin unless another router is given, as many turns as the task says."""
    agents = len(task.roles)
    vocabulary = Vocabulary(task.characters, agents, task.prompt_only, getattr(task, "ends", True))
    return Layout(vocabulary, task.prompt_length, task.message_length, task.turns if turns is None else turns,
                  round_robin(agents) if router is None else router, task.caps, temperature)  # fmt: skip


def check_task(task: Task, size: int = 64, seed: int = 0) -> None:
    """Try a task on random problems; for whoever writes one.

    Prompts and demonstrations fit the layout and its vocabulary, one message for each turn; demonstrations earn 1; silence and
    other unreadable messages earn something in [0, 1]; the same seed gives the same problems and demonstrations.

    Raises:
      InputError: names what is wrong, and shows it.
    """
    layout = layout_of(task)
    speaker = np.arange(task.turns, dtype=np.int32)[None] % len(task.roles)

    def reward(problem: Problem, messages: list[str]) -> float:
        try:
            value = task.verify(problem, messages)
        except Exception as error:
            raise InputError(
                "verify", f"{error!r} for {problem} and {messages}", "a reward; 0 for the unreadable"
            ) from error
        if not 0 <= value <= 1:
            raise InputError("verify", f"{value} for {problem} and {messages}", "a reward in [0, 1]")
        return value

    def run() -> list[tuple[Problem, list[str]]]:
        rng = np.random.default_rng(seed)
        problems = [task.sample(rng) for _ in range(size)]
        return [(problem, task.demonstrate(problem, rng)) for problem in problems]

    pairs = run()
    if pairs != run():
        raise InputError(
            "sample, demonstrate", "other results from the same seed", "the same: let chance come from rng alone"
        )
    for problem, messages in pairs:
        if len(messages) != task.turns:
            raise InputError(
                "demonstrate", f"{len(messages)} messages for {problem}", f"{task.turns}, one for each turn"
            )
        layout.encode_transcripts([problem.prompt], [messages], speaker)
        if (value := reward(problem, messages)) != 1:
            raise InputError("demonstrate", f"{messages} for {problem}, reward {value}", "messages of reward 1")
        for text in ("", task.characters[0] * task.message_length, "²", "-"):
            reward(problem, [text] * task.turns)
        reward(problem, [])


def make(registry: dict[str, Callable[..., Task]], name: str, settings: dict[str, Any]) -> Task:
    """`registry[name](**settings)`, unknown names and settings refused.

    Raises:
      InputError: names the known ones.
    """
    if name not in registry:
        raise InputError("task", repr(name), "one of " + ", ".join(sorted(registry)))
    try:
        return registry[name](**settings)
    except TypeError as error:
        raise InputError(f"settings of {name!r}", str(error), "settings that the task has") from error
