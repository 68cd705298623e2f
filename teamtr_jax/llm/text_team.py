"""Teams that talk in text: each agent with a network, a tokenizer and a role of its own; who speaks when; whose parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from teamtr_jax.llm.checked import FLOAT32, real, whole
from teamtr_jax.llm.language_model import LanguageModel, Params
from teamtr_jax.llm.text.drift import Drift
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Told
from teamtr_jax.sharing import Sharing, apart
from teamtr_jax.validation import InputError, real_number, shown, whole_number

__all__ = ["Desk", "TextAgent", "TextTeam", "Schedule", "TextRouter", "text_params"]


@runtime_checkable
class Desk(Protocol):
    """What a team asks of an agent's scribe (`teamtr_jax.llm.text.view.Scribe`): text into the agent's own ids and back."""

    @property
    def stops(self) -> Sequence[Sequence[int]]:
        """Sequences of ids each of which ends a message and belongs to it."""
        ...

    def told_first(self, problem: str, heard: Sequence[tuple[str, str]]) -> Told:
        """What the agent reads before its first message; `heard`: ``(name, text)`` of all that others said."""
        ...

    def told_next(self, own_ids: Sequence[int], heard: Sequence[tuple[str, str]], used: int) -> Told:
        """What it reads between its last message, these ids, and its next; `used`: ids of its view so far."""
        ...

    def read(self, own_ids: Sequence[int]) -> str:
        """The text of a message, without its stop."""
        ...

    def drift(self, own_ids: Sequence[int]) -> Drift:
        """How far the ids of its text are from a message."""
        ...


class TextAgent(NamedTuple):
    """One agent. Its parameters stand apart, so that sharers have them once."""

    role: Role
    model: LanguageModel
    scribe: Desk


Schedule = Callable[[int], int]
"""Turn → agent."""

TextRouter = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""``(name, text)`` of all that was said → the probability of each agent to speak next. A router never draws."""


@dataclass(frozen=True, eq=False)
class TextTeam:
    """The fixed part of a team that talks in text.

    The transcript is text: each agent reads its own encoding of it (U4), and ids and log-probabilities never cross agents.

    Raises:
      InputError: no agent, two of one name, a sharing of another number of agents, sharers with different networks, a schedule of
        agents who are not there, a role that sees one who is not there, a stop that the network cannot write, a schedule beside a
        router, what is no function.
    """

    agents: tuple[TextAgent, ...]
    turns: int
    schedule: Schedule | None = None  #: round robin if there is no router either
    router: TextRouter | None = None
    sharing: Sharing | None = None  #: who plays with whose parameters; kept as `apart(n)` if not given
    temperature: float = 1.0  #: every policy is `softmax(logits/temperature)`: sampled, trained and certified alike

    def __post_init__(self) -> None:
        object.__setattr__(self, "agents", tuple(self.agents))
        if not self.agents:
            raise InputError("agents", "none", "at least one")
        whole(self, 1, "turns")
        real(self, "temperature", **FLOAT32)
        for k, agent in enumerate(self.agents):
            if not isinstance(agent, TextAgent):
                raise InputError(f"agents[{k}]", shown(repr(agent)), "a TextAgent")
            self._check_parts(k, agent)
        names = [agent.role.name for agent in self.agents]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError("agents", f"{names.count(twice[0])} named {twice[0]!r}", "another name for each")
        if self.sharing is None:
            object.__setattr__(self, "sharing", apart(len(self.agents)))
        if not isinstance(self.sharing, Sharing) or self.sharing.agents != len(self.agents):
            raise InputError("sharing", repr(self.sharing), f"a Sharing of {len(self.agents)} agents")
        if self.schedule is not None and self.router is not None:
            raise InputError("schedule, router", "both", "one of them")
        for name in ("schedule", "router"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise InputError(name, shown(repr(getattr(self, name))), "a function")
        for k, agent in enumerate(self.agents):
            self._check(k, agent, names)
        if self.router is None:
            for turn in range(self.turns):
                whole_number(f"schedule({turn})", self.speaker(turn), 0, len(self.agents) - 1)

    def _check_parts(self, k: int, agent: TextAgent) -> None:
        for part, kind in ((agent.role, Role), (agent.model, LanguageModel), (agent.scribe, Desk)):
            if not isinstance(part, kind):
                raise InputError(f"agents[{k}]", shown(repr(part)), f"a {kind.__name__}")

    def _check(self, k: int, agent: TextAgent, names: list[str]) -> None:
        sees = () if isinstance(agent.role.sees, str) else agent.role.sees
        if strangers := [name for name in sees if name not in names]:
            raise InputError(f"agents[{k}].role.sees", repr(strangers[0]), f"a role of the team: {', '.join(names)}")
        first = self.who.firsts[self.who.sharers[k]]
        if agent.model != self.agents[first].model:
            raise InputError(f"agents[{k}].model", repr(agent.model), f"the network of agent {first}, a sharer")
        for stop in agent.scribe.stops:
            if not stop or min(stop) < 0 or max(stop) >= agent.model.vocabulary:
                raise InputError(
                    f"agents[{k}].scribe.stops", list(stop), f"ids below {agent.model.vocabulary}, at least one"
                )

    @property
    def who(self) -> Sharing:
        """`sharing`, which is there once the team is."""
        assert self.sharing is not None
        return self.sharing

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(agent.role.name for agent in self.agents)

    @property
    def models(self) -> tuple[LanguageModel, ...]:
        """The network of each set of parameters."""
        return tuple(self.agents[agent].model for agent in self.who.firsts)

    def speaker(self, turn: int) -> int:
        """Who speaks, where a schedule says so."""
        return turn % len(self.agents) if self.schedule is None else self.schedule(turn)

    def chances(self, said: Sequence[tuple[str, str]]) -> np.ndarray:
        """The router's probability of each agent after what was said.

        Raises:
          InputError: not one probability for each agent, or a sum other than one.
        """
        assert self.router is not None
        found = self.router(said)
        if not isinstance(found, Sequence | np.ndarray | jax.Array) or isinstance(found, str) or np.ndim(found) != 1:
            raise InputError("router", shown(repr(found)), f"{len(self.agents)} probabilities, one for each agent")
        if len(found) != len(self.agents):
            raise InputError("router", f"{len(found)} probabilities", f"{len(self.agents)}, one for each agent")
        chances = np.array([real_number("router", p, 0.0, 1.0, expected="probabilities") for p in found])
        if abs(chances.sum() - 1) > 1e-6:
            raise InputError("router", chances.tolist(), "probabilities that sum to 1")
        return chances


def text_params(team: TextTeam, params: Sequence[Params]) -> tuple[Params, ...]:
    """One pytree for each set of parameters, in which equal frozen arrays are one array: the base is in memory once.

    Frozen are the leaves that an update may not change (`LanguageModel.trained`). Those of one place, shape, dtype and value
    are replaced by those of the first set that has them.

    Raises:
      InputError: another number of sets than the team has, or of another structure than the network's.
    """
    if len(params) != team.who.sets:
        raise InputError("params", f"{len(params)} pytrees", f"{team.who.sets}, one for each set of parameters")
    known: dict[str, list[jax.Array]] = {}

    def once(path: tuple[object, ...], leaf: jax.Array, trained: bool) -> jax.Array:
        if trained:
            return leaf
        there = known.setdefault(jax.tree_util.keystr(path), [])
        for other in there:
            if other is leaf or (
                other.shape == leaf.shape and other.dtype == leaf.dtype and bool((other == leaf).all())
            ):
                return other
        there.append(leaf)
        return leaf

    out = []
    for number, (model, own) in enumerate(zip(team.models, params, strict=True)):
        try:
            out.append(jax.tree_util.tree_map_with_path(once, own, model.trained(own)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"params[{number}]", shown(error), "the parameters of its network") from error
    return tuple(out)
