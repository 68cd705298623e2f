"""Conversations in text: a host loop over turns; each turn one compiled read and one compiled loop over ids.

Each agent keeps its cache over turns. Only text goes from one agent to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.llm import writing
from teamtr_jax.llm.conversations import Conversations, Drift, SamplerSettings, View
from teamtr_jax.llm.external import ExternalSampler, Written, write_externally
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.text_team import TextAgent, TextTeam
from teamtr_jax.llm.writing import Held, bucket
from teamtr_jax.validation import InputError, one_of, whole_number

__all__ = ["Problem", "converse"]

Problem = str | tuple[str, ...]
"""One text that every agent reads, or one for each agent, of which the others know nothing."""

SHARED = 16
"""Ids that the rollouts of a problem must have in common before they are read once."""

HALVED = 8
"""Rows below which a batch is not halved: a step of fewer costs as much."""

Drifts = Callable[[Any, Sequence[int]], bool]


@dataclass
class _Reader:
    """What one agent has read and written."""

    views: list[list[int]]
    begin: NDArray[np.int32]  #: [R, turns]
    heard: list[int]  #: turns of each row that the agent knows
    last: list[list[int]]  #: its last message
    unread: list[list[int]]  #: ids at the end of each view that the cache does not hold
    held: Held | None = None
    used: int = 0  #: slots


class _Settings(NamedTuple):
    group: int
    temperature: float
    halve: bool


def converse(
    team: TextTeam,
    params: Sequence[Params],
    problems: Sequence[Problem],
    key: Array,
    group: int = 1,
    *,
    drift: Drift = "keep",
    redraws: int = 3,
    external: Mapping[int, ExternalSampler] | None = None,
    halve: bool = True,
) -> Conversations:
    """`group` conversations about each problem, rows `b·group` to `(b+1)·group`, by the team as it stands.

    Every id is drawn from `softmax(logits/temperature)`, logits in float32, nothing cut, with uniforms of its row's own: what
    a row says depends on no other row but by rounding.

    Args:
      params: one pytree for each set of parameters.
      key: a PRNG key.
      drift: what happens to a message whose text, encoded again, gives other ids. ``resample`` draws the message again; what stays
        is then distributed as `p/Z`, given no drift, while `p` is booked: `redrawn` says how often.
      redraws: most times that a message is drawn again. What drifts even then is kept and counted.
      external: agent → a sampler that writes in its place (`external.write_externally`).
      halve: go on with half of the rows where half of them have ended.

    Raises:
      InputError: another number of sets than the team has, no problem, a problem without a text for each agent, a view that would
        be longer than the team's `context`, an external sampler that breaks its word, or a message that drifts under ``refuse``.
    """
    external = dict(external or {})
    rows = _checked(team, params, problems, group, external)
    one_of("drift", drift, ("keep", "refuse", "resample"))
    redraws = whole_number("redraws", redraws, 0) if drift == "resample" else 0
    count, turns, settings = len(rows), team.turns, _Settings(group, team.temperature, halve)
    route, write = jax.random.split(key)
    chance = np.asarray(jax.random.uniform(route, (turns, count), jnp.float32))
    readers = [
        _Reader([[] for _ in rows], np.full((count, turns), -1, np.int32), [-1] * count, [[] for _ in rows], [[] for _ in rows])
        for _ in team.agents
    ]
    cap = max(agent.role.cap for agent in team.agents)
    out = Conversations(
        rows, group, (), np.zeros((count, turns), np.int32), np.ones((count, turns)),
        np.zeros((count, turns, cap), np.int32), np.zeros((count, turns, cap), np.float32), np.zeros((count, turns), np.int32),
        np.zeros((count, turns), bool), (), np.zeros((count, turns), bool), np.zeros((count, turns), np.int32),
        SamplerSettings(team.temperature, None, None, tuple(map(_dtype, team.agents)),
                        tuple(_name(external.get(k)) for k in range(len(team.agents))), drift),
    )  # fmt: skip
    said: list[list[str]] = [[] for _ in rows]
    for turn in range(turns):
        out.speaker[:, turn], out.chance[:, turn] = _speakers(team, turn, out.speaker, said, chance[turn])
        for number in np.unique(out.speaker[:, turn]):
            who = np.flatnonzero(out.speaker[:, turn] == number)
            agent, reader, own = team.agents[number], readers[number], params[team.who.sharers[number]]
            _listen(team, number, reader, rows, out.speaker, said, who)
            last = team.router is None and all(team.speaker(t) != number for t in range(turn + 1, turns))
            pen = _pen(agent, own, reader, who, settings, external.get(number), write, turn, last)
            written = pen(who, 0)
            for attempt in range(redraws + 1):
                texts, drifted = _texts(agent, who, written)
            ...
    return out
