"""Who plays with whose parameters, and which updates a stage has (theory/derivations/s7d.md).

Agents with one set of parameters (one network, or one adapter with role headers) are *sharers*: an update of one moves all of
them. Then the KL of the update is the sum over the messages of all of them. Everything that has to know asks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.validation import InputError, one_of, whole_number

__all__ = ["Updates", "Sharing", "apart", "members_of", "set_of", "sharers_of"]

Updates = Literal["sequential", "joint"]
"""Of sharers, in one stage: ``sequential``: one update for each agent in turn, made from its own messages; ``joint``: one update
for each set of parameters, made from the messages of all its agents."""

NUMBERS = (
    "for each agent the number of its parameters: 0 first, then a number that is there or the next one, as in 0,0,1"
)


@dataclass(frozen=True)
class Sharing:
    """A declaration of who shares parameters with whom.

    Raises:
      InputError: numbers of parameters that are not 0, 1, … in the order in which they first occur; unknown updates.

    Example:
      >>> joint = Sharing((0, 1, 0), "joint")
      >>> joint.sets, joint.leaders, joint.moved(2), joint.credited(2)
      (2, (0, 1), (0, 2), (0, 2))
      >>> sequential = Sharing((0, 1, 0))
      >>> sequential.leaders, sequential.moved(2), sequential.credited(2)
      ((0, 1, 2), (0, 2), (2,))
    """

    sharers: tuple[int, ...]  #: of each agent the number of its parameters
    updates: Updates = "sequential"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sharers", sharers_of("sharers", self.sharers))
        one_of("updates", self.updates, get_args(Updates))

    @property
    def agents(self) -> int:
        return len(self.sharers)

    @property
    def sets(self) -> int:
        """The number of sets of parameters."""
        return 1 + max(self.sharers)

    @property
    def apart(self) -> bool:
        """Whether every agent has parameters of its own."""
        return self.sets == self.agents

    @property
    def leaders(self) -> tuple[int, ...]:
        """The agents under whom the updates of a stage are booked: all, or of joint updates the first of each set."""
        return tuple(range(self.agents)) if self.updates == "sequential" else self.firsts

    @property
    def firsts(self) -> tuple[int, ...]:
        """The first agent of each set of parameters."""
        return tuple(self.sharers.index(number) for number in range(self.sets))

    def moved(self, agent: int) -> tuple[int, ...]:
        """Whom an update of this agent moves: all who play with its parameters."""
        return tuple(members_of(self.sharers, agent))

    def credited(self, agent: int) -> tuple[int, ...]:
        """Whose messages the surrogate of its update is made of."""
        return (agent,) if self.updates == "sequential" else self.moved(agent)

    @property
    def moves(self) -> NDArray[np.bool_]:
        """``[n, n]``: whether an update of agent k (row) moves agent i (column)."""
        return np.equal.outer(self.sharers, self.sharers)

    @property
    def credits(self) -> NDArray[np.bool_]:
        """``[n, n]``: whether an update of agent k (row) is made from the messages of agent i (column)."""
        return np.eye(self.agents, dtype=bool) if self.updates == "sequential" else self.moves


def apart(agents: int) -> Sharing:
    """Every agent with parameters of its own."""
    return Sharing(tuple(range(agents)))


def members_of(sharers: Sequence[int] | None, agent: int) -> list[int]:
    """Who plays with the parameters of this agent, itself among them; without a declaration the agent alone."""
    return [agent] if sharers is None else [k for k, number in enumerate(sharers) if number == sharers[agent]]


def set_of(sharers: Sequence[int] | None, agents: Sequence[int]) -> int | None:
    """The first of these agents if they are all who play with one set of parameters, otherwise `None`."""
    return agents[0] if agents and members_of(sharers, agents[0]) == list(agents) else None


def sharers_of(name: str, sharers: object, agents: int | None = None) -> tuple[int, ...]:
    """A declaration of sharers as a tuple.

    Args:
      name: what messages call it.
      agents: how many agents there are, where that is known.

    Raises:
      InputError: not one number for each agent, or numbers that are not 0, 1, … in the order in which they first occur.
    """
    if not isinstance(sharers, Sequence) or isinstance(sharers, str) or not sharers:
        raise InputError(name, repr(sharers), NUMBERS)
    numbers = tuple(whole_number(name, number, 0, expected=NUMBERS) for number in sharers)
    if agents is not None and len(numbers) != agents:
        raise InputError(name, f"{len(numbers)} numbers", f"{agents}, one for each agent")
    known = 0
    for number in numbers:
        if number > known:
            raise InputError(name, list(numbers), NUMBERS)
        known = max(known, number + 1)
    return numbers
