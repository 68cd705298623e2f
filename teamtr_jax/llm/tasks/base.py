"""What a task is: endless prompts, a verifier of the finished conversation, and messages that solve it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from teamtr_jax.llm.layout import Layout, Router, Vocabulary, round_robin
from teamtr_jax.validation import InputError, whole_number

__all__ = ["Problem", "Source", "Demonstrates", "Task", "HELD_OUT", "is_held_out", "draw", "earned", "demonstrated", "layout_of",
           "check_task", "check_attributes", "sampled", "make"]  # fmt: skip

HELD_OUT = 8
"""One prompt in so many is held out."""

MOST_AGENTS = 256
LONGEST = 4096
"""Most characters of a part of a prompt or of a message, in the tasks of the package."""

MOST_PROBLEMS = 10**7

Made = TypeVar("Made")

MISSES = 10_000
"""`draw` gives up after so many prompts in a row that it cannot use."""


class Problem(NamedTuple):
    """A prompt, and what the verifier needs to know about it, as text."""

    prompt: str
    answer: str


@runtime_checkable
class Source(Protocol):
    """Problems and their verifier: what `draw` and `earned` need of a task, in characters or in words.

    One more attribute may be there, `listed`: ``listed(held_out) → problems``, of a task that has a list of them, each prompt
    once, and says itself which are held out.
    """

    @property
    def name(self) -> str: ...

    def sample(self, rng: np.random.Generator) -> Problem:
        """A random problem. The same generator state gives the same problem."""
        ...

    def verify(self, problem: Problem, messages: Sequence[str]) -> float:
        """The reward, in [0, 1], of what was said, one text for each turn; 0 for what cannot be read."""
        ...


@runtime_checkable
class Demonstrates(Source, Protocol):
    """A `Source` that shows how its problems are solved: what a supervised start needs, in characters or in words."""

    @property
    def turns(self) -> int: ...

    def demonstrate(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """Messages of reward 1, one for each turn. `rng` chooses among several, if there are."""
        ...


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


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is kept for evaluation: by its BLAKE2b hash, the same in every run and on every machine."""
    return int.from_bytes(blake2b(prompt.encode(), digest_size=8).digest(), "little") % HELD_OUT == 0


def _answered(task: Source, method: str, *arguments: Any) -> Any:
    """What a method of the task returns; whatever it raises is an `InputError`."""
    try:
        return getattr(task, method)(*arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        about = " and ".join(str(x) for x in arguments if not isinstance(x, np.random.Generator))
        found = f"{error!r} for {about}" if about else repr(error)
        raise InputError(method, found, RETURNS[method]) from error


RETURNS = {
    "sample": "a Problem, whatever the generator",
    "demonstrate": "messages, one text for each turn",
    "verify": "a reward; 0 for the unreadable",
}
"""What a method of a task returns, for the message where it fails."""


def sampled(task: Source, rng: np.random.Generator) -> Problem:
    """`task.sample`, refused by name where it is broken."""
    problem = _answered(task, "sample", rng)
    prompt, answer = getattr(problem, "prompt", None), getattr(problem, "answer", None)
    if not (isinstance(prompt, str) and isinstance(answer, str)):
        raise InputError("sample", repr(problem), "a Problem: prompt and answer, two texts")
    return problem


def earned(task: Source, problem: Problem, messages: Sequence[str]) -> float:
    """`task.verify`: the reward of a conversation.

    Raises:
      InputError: a verifier that raises, or returns what is no reward in [0, 1].
    """
    value = _answered(task, "verify", problem, messages)
    number = np.asarray(value)  # a reward may come as a scalar of NumPy or jax
    if number.ndim or number.dtype.kind not in "biuf" or not 0 <= number <= 1:
        raise InputError("verify", f"{value} for {problem} and {messages}", "a reward in [0, 1]")
    return float(value)


def demonstrated(task: Demonstrates, problem: Problem, rng: np.random.Generator) -> list[str]:
    """`task.demonstrate`: messages that solve the problem.

    Raises:
      InputError: a method that raises, or returns what is not one text for each turn.
    """
    said = _answered(task, "demonstrate", problem, rng)
    if not isinstance(said, list | tuple) or not all(isinstance(text, str) for text in said):
        raise InputError("demonstrate", f"{said!r} for {problem}", f"{task.turns} texts, one for each turn")
    if len(said) != task.turns:
        raise InputError("demonstrate", f"{len(said)} messages for {problem}", f"{task.turns}, one for each turn")
    return list(said)


def draw(
    task: Source, rng: np.random.Generator, size: int, held_out: bool, distinct: bool = False, fewer: bool = False
) -> list[Problem]:
    """Random problems whose prompts are all held out, or all not.

    Args:
      distinct: no prompt twice.
      fewer: where the task has too few such prompts, those that were found, if there is one.

    Raises:
      InputError: the task has too few such prompts: 10,000 in a row were of no use, or its list has no more.
    """
    whole_number("size", size, 0, MOST_PROBLEMS)
    if hasattr(task, "listed"):
        return _chosen(task, rng, size, held_out, distinct, fewer)
    problems: list[Problem] = []
    seen: set[str] = set()
    misses = 0
    while len(problems) < size:
        problem = sampled(task, rng)
        if is_held_out(problem.prompt) == held_out and not (distinct and problem.prompt in seen):
            problems.append(problem)
            seen.add(problem.prompt)
            misses = 0
        elif (misses := misses + 1) >= MISSES:
            if fewer and problems:
                break
            gave = f"gave {len(problems)} of {size} {_kind(held_out, distinct)} prompts and then none in {MISSES}"
            raise InputError("task", f"{task.name!r}, which {gave}", MORE)
    return problems


MORE = "settings with more prompts, or a smaller size"


def _kind(held_out: bool, distinct: bool) -> str:
    return ("distinct " if distinct else "") + ("held-out" if held_out else "training")


def _chosen(
    task: Any, rng: np.random.Generator, size: int, held_out: bool, distinct: bool, fewer: bool
) -> list[Problem]:
    """`draw`, from a list."""
    known: Sequence[Problem] = task.listed(held_out)
    if fewer and distinct and known:
        size = min(size, len(known))
    if size and len(known) < (size if distinct else 1):
        raise InputError("task", f"{task.name!r}, which has {len(known)} {_kind(held_out, distinct)} prompts", MORE)
    chosen = rng.permutation(len(known))[:size] if distinct else rng.integers(max(len(known), 1), size=size)
    return [known[i] for i in chosen.tolist()]


def layout_of(task: Task, router: Router | None = None, temperature: float = 1.0, turns: int | None = None) -> Layout:
    """The transcripts of a task: round robin unless another router is given, as many turns as the task says."""
    agents = len(task.roles)
    vocabulary = Vocabulary(task.characters, agents, task.prompt_only, getattr(task, "ends", True))
    return Layout(vocabulary, task.prompt_length, task.message_length, task.turns if turns is None else turns,
                  round_robin(agents) if router is None else router, task.caps, temperature)  # fmt: skip


def check_task(task: Any, size: int = 64, seed: int = 0) -> None:
    """Try a task on random problems; for whoever writes one.

    Everything that the protocol asks for is there and of its type; prompts and demonstrations fit the layout and its vocabulary,
    one message for each turn; demonstrations earn 1; silence and other unreadable messages earn something in [0, 1]; the same
    seed gives the same problems and demonstrations.

    Raises:
      InputError: names what is wrong, and shows it.
    """
    _check_attributes(task)
    layout = layout_of(task)
    speaker = np.arange(task.turns, dtype=np.int32)[None] % len(task.roles)

    def run() -> list[tuple[Problem, list[str]]]:
        rng = np.random.default_rng(seed)
        problems = [sampled(task, rng) for _ in range(size)]
        return [(problem, demonstrated(task, problem, rng)) for problem in problems]

    pairs = run()
    if pairs != run():
        raise InputError(
            "sample, demonstrate", "other results from the same seed", "the same: let chance come from rng alone"
        )
    for problem, messages in pairs:
        layout.encode_transcripts([problem.prompt], [messages], speaker)
        if (value := earned(task, problem, messages)) != 1:
            raise InputError("demonstrate", f"{messages} for {problem}, reward {value}", "messages of reward 1")
        for text in ("", task.characters[0] * task.message_length, "²", "-"):
            earned(task, problem, [text] * task.turns)
        earned(task, problem, [])


def check_attributes(
    task: object, texts: Sequence[str], numbers: Sequence[str], calls: Sequence[str], others: Sequence[str]
) -> None:
    """That the attributes of a protocol are there, and of their types; ranges are for others to check.

    Raises:
      InputError: names the first that is not.
    """
    for name in (*texts, *numbers, *others, *calls):
        try:
            value = getattr(task, name)
        except AttributeError as error:
            raise InputError(f"task: {name}", f"none in {task!r}", "an attribute of every task") from error
        except Exception as error:
            raise InputError(f"task: {name}", repr(error), "an attribute of every task") from error
        if name in texts and not isinstance(value, str):
            raise InputError(f"task: {name}", repr(value), "a text")
        if name in numbers:
            whole_number(f"task: {name}", value, 1)
        if name in calls and not callable(value):
            raise InputError(f"task: {name}", repr(value), "a method")


def _check_attributes(task: Any) -> None:
    """Those of `Task`."""
    lengths = ("prompt_length", "message_length", "turns")
    check_attributes(task, ("name", "characters", "prompt_only"), lengths, tuple(RETURNS), ("roles", "caps"))
    roles = task.roles
    if not (isinstance(roles, tuple | list) and roles and all(isinstance(role, str) for role in roles)):
        raise InputError("task: roles", repr(roles), "names of the agents, at least one")
    if not task.characters:
        raise InputError("task: characters", "none", "at least one character")


def make(registry: dict[str, Callable[..., Made]], name: str, settings: dict[str, Any]) -> Made:
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
