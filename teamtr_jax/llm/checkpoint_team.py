"""A team out of checkpoints: who plays with which network, in which role."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import Array

from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.adapters import adapted, without_adapters
from teamtr_jax.llm.llama.load import Agent
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Scribe
from teamtr_jax.llm.text_team import TextAgent, TextTeam, text_params
from teamtr_jax.sharing import Sharing, apart
from teamtr_jax.validation import InputError

__all__ = ["team_of"]


def team_of(
    agents: Agent | Sequence[Agent],
    roles: Sequence[Role],
    turns: int,
    *,
    key: Array | None = None,
    sharing: Sharing | None = None,
    temperature: float = 1.0,
    truncation: str = "refuse",
) -> tuple[TextTeam, tuple[Params, ...]]:
    """A team that speaks in the order of its roles, and one pytree of parameters for each set; a base is in memory once.

    Views are no longer than what the network was made for. Other schedules, routers and templates: `TextTeam`, `Scribe`.

    Args:
      agents: one checkpoint for all roles, or one for each role.
      turns: messages of a conversation.
      key: adapters are drawn anew from it for each set of parameters. Without it they are those of the checkpoint, as they
        must be where trained ones were loaded.
      truncation: as of `Scribe`.

    Raises:
      InputError: another number of checkpoints than of roles; sharers with different ones; a key without adapters; whatever
        `TextTeam` and `Scribe` refuse.
    """
    each = [agents] * len(roles) if isinstance(agents, Agent) else list(agents)
    if len(each) != len(roles):
        raise InputError("agents", f"{len(each)} checkpoints", f"one for all, or {len(roles)}, one for each role")
    made = [
        TextAgent(role, agent.model, Scribe(agent.tokenizer, role, context=agent.model.longest, truncation=truncation))
        for role, agent in zip(roles, each, strict=True)
    ]
    team = TextTeam(tuple(made), turns, sharing=sharing or apart(len(each)), temperature=temperature)
    own = [each[first] for first in team.who.firsts]
    for k, number in enumerate(team.who.sharers):
        if each[k].digest != own[number].digest:
            expected = f"{own[number].name}, that of agent {team.who.firsts[number]}, a sharer"
            raise InputError(f"agents[{k}]", each[k].name, expected)
    params = [agent.params for agent in own]
    if key is not None:
        if plain := [agent.name for agent in own if agent.model.lora is None]:
            raise InputError("key", f"one, but {plain[0]} has no adapters", "load_agent(…, lora=Lora(…)), or no key")
        keys = jax.random.split(key, len(own))
        params = [adapted(a.model, without_adapters(a.params), k) for a, k in zip(own, keys, strict=True)]
    return team, text_params(team, params)
