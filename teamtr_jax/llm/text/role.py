"""Roles: what an agent is told to be, how long its messages may be, and what it sees of the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from teamtr_jax.llm.checked import flags, made, whole
from teamtr_jax.validation import InputError

__all__ = ["Role", "EVERYTHING", "LAST", "OWN", "LONGEST_MESSAGE"]

EVERYTHING, LAST, OWN = "everything", "last", "own"
LONGEST_MESSAGE = 2**20


@dataclass(frozen=True)
class Role:
    r"""A part in a conversation. An agent does not condition on what it does not see: one row for all such contexts (U4).

    Headings are plain text, and so an agent can write one itself.

    Raises:
      InputError: names the setting.

    Example:
      >>> role = Role("checker", "Check the sum.", cap=32, sees=("solver",))
      >>> seen = role.seen([("planner", "add"), ("solver", "3")])
      >>> print(role.user_text("1 + 2", seen))
      1 + 2
      <BLANKLINE>
      solver: 3
    """

    name: str
    system: str = ""  #: its system prompt; "" for none
    cap: int = 128  #: most ids of one of its messages, what ends it included
    sees: str | tuple[str, ...] = EVERYTHING
    """What it sees of the others: "everything"; the "last" message alone; its "own" messages alone; those of the roles named."""
    sees_problem: bool = True
    heading: str = "{name}: "  #: stands before what another agent said
    separator: str = "\n\n"  #: stands between the problem and what was said, and between messages
    ending: str = (
        ""  #: stands at the end of each of its user messages: small networks heed that more than a system prompt
    )

    def __post_init__(self) -> None:
        made(self, str, "name", "system", "heading", "separator", "ending")
        if not self.name or not self.name.isprintable():
            raise InputError("name", repr(self.name), "the name of a role, on one line")
        whole(self, 1, "cap", high=LONGEST_MESSAGE)
        flags(self, "sees_problem")
        if isinstance(self.sees, list | tuple):
            object.__setattr__(self, "sees", tuple(self.sees))
            if not self.sees or not all(isinstance(name, str) for name in self.sees):
                raise InputError("sees", repr(self.sees), "names of roles")
            if self.name in self.sees:
                raise InputError("sees", repr(self.name), "other roles: an agent always sees what it wrote itself")
        elif self.sees not in (EVERYTHING, LAST, OWN):
            raise InputError("sees", repr(self.sees), f'"{EVERYTHING}", "{LAST}", "{OWN}" or a tuple of names of roles')

    def seen(self, said: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """What it sees of `(who, text)` that was said since its last message. Its own messages it has anyway."""
        others = [(who, text) for who, text in said if who != self.name]
        if self.sees == EVERYTHING:
            return others
        if isinstance(self.sees, str):
            return others[-1:] if self.sees == LAST else []
        return [(who, text) for who, text in others if who in self.sees]

    def user_text(self, problem: str, seen: Sequence[tuple[str, str]]) -> str:
        """Its next user message: the problem if there is one that it sees, then what it has `seen`, each under a heading.

        Consecutive messages of others are one user message, since many templates want user and assistant in turns. An agent
        that has seen nothing new gets an empty one.
        """
        heads = (self.heading.replace("{name}", who) + text for who, text in seen)
        problems = [problem] if problem and self.sees_problem else []
        return self.separator.join([*problems, *heads, *([self.ending] if self.ending else [])])
