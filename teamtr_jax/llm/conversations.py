"""What a text team wrote: texts, each agent's own ids and log-probabilities, and what each agent read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from teamtr_jax.llm.language_model import Reading
from teamtr_jax.llm.text.drift import DriftCount, DriftPolicy
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.writing import bucket
from teamtr_jax.validation import InputError, whole_number

__all__ = ["SamplerSettings", "View", "Conversations", "OwnMessages", "own_messages", "reading_of"]


class SamplerSettings(NamedTuple):
    """How ids were drawn: without it a log-probability says nothing."""

    temperature: float
    top_k: None  #: never cut
    top_p: None  #: never cut
    dtype: tuple[str, ...]  #: of each agent's network; logits are float32 whatever it is
    sampler: tuple[str, ...]  #: of each agent ``own`` or the name of an external sampler
    drift: DriftPolicy


class View(NamedTuple):
    """What one agent read, in its own ids, without gaps; nothing after its last message."""

    ids: Int[ndarray, "R T"]
    length: Int[ndarray, " R"]
    begin: Int[ndarray, "R turns"]  #: where its message of a turn begins; −1 where another spoke


class Conversations(NamedTuple):
    """Finished conversations, R rows: `group` for each problem, one after the other."""

    problems: tuple[str | tuple[str, ...], ...]  #: of each row; a tuple has one text for each agent
    group: int
    said: tuple[tuple[str, ...], ...]  #: ``[R][turns]``
    speaker: Int[ndarray, "R turns"]
    chance: Float[ndarray, "R turns"]  #: the router's probability of this speaker; 1 with a schedule
    ids: Int[ndarray, "R turns L"]  #: what the speaker wrote, in its own ids, stop included; 0 after the end
    logp: Float[ndarray, "R turns L"]  #: log-probability of each of them as it was drawn; 0 after the end
    length: Int[ndarray, "R turns"]
    stopped: Bool[ndarray, "R turns"]  #: whether a stop ended the message, or else the cap
    views: tuple[View, ...]  #: of each agent
    drifted: Bool[ndarray, "R turns"]  #: whether the text of the message, encoded again, gives other ids
    redrawn: Int[ndarray, "R turns"]  #: how many times the message was drawn again for that
    dropped: Int[ndarray, "R turns"]  #: messages of others that the speaker was not told for want of room
    drift: DriftCount  #: over all messages
    settings: SamplerSettings


class OwnMessages(NamedTuple):
    """The messages of all who play with one set of parameters, in the order of turns; M ≥ 1, silent or not."""

    turn: Int[ndarray, "R M"]  #: −1 where a row has fewer
    agent: Int[ndarray, "R M"]  #: who wrote; −1 where a row has fewer
    logp: Float[ndarray, "R M L"]  #: as it was drawn; 0 where there is no id


def own_messages(team: TextTeam, conversations: Conversations, which: int) -> OwnMessages:
    """Who wrote what when with the parameters `which`: where the messages of `reading_of` come from.

    Raises:
      InputError: no such set of parameters.
    """
    whole_number("which", which, 0, team.who.sets - 1)
    members = [k for k, number in enumerate(team.who.sharers) if number == which]
    speaker = conversations.speaker
    theirs = np.isin(speaker, members)
    order = np.argsort(~theirs, axis=1, kind="stable")[:, : theirs.sum(1).max(initial=1)]
    there = np.take_along_axis(theirs, order, 1)
    cap = max(team.agents[k].role.cap for k in members)
    logp = np.take_along_axis(conversations.logp[:, :, :cap], order[:, :, None], 1)
    return OwnMessages(
        np.where(there, order, -1).astype(np.int32),
        np.where(there, np.take_along_axis(speaker, order, 1), -1).astype(np.int32),
        np.where(there[:, :, None], logp, 0),
    )


def reading_of(
    team: TextTeam, conversations: Conversations, which: int, agent: int | None = None, length: int | None = None
) -> Reading:
    """Conversations as the parameters `which` read them: views padded on the right, to a bucket of slots.

    The id of message position l stands in slot `begin + l` of the writer's view; the slot before it predicts it.

    Args:
      agent: whose update it is, credited as the team's sharing says; without one all messages are.
      length: T, instead of the bucket of the longest view: for one compiled shape over a run.

    Raises:
      InputError: no such set of parameters, an agent of another, or a `length` that is too short.
    """
    members = [k for k, number in enumerate(team.who.sharers) if number == which]
    own, views = own_messages(team, conversations, which), [conversations.views[k] for k in members]
    longest = max(int(view.length.max(initial=1)) for view in views)
    length = bucket(longest) if length is None else whole_number("length", length, longest)
    if agent is not None and agent not in members:
        raise InputError("agent", agent, f"one of {members}, who play with parameters {which}")
    credited = members if agent is None else team.who.credited(agent)

    ids = np.zeros((len(conversations.said), len(views), length), np.int32)
    for v, view in enumerate(views):
        ids[:, v, : view.ids.shape[1]] = view.ids[:, :length]
    readable = np.arange(length) < np.stack([view.length for view in views], 1)[:, :, None]

    rows, turn = np.arange(len(ids))[:, None], np.maximum(own.turn, 0)
    place = np.array([members.index(k) if k in members else 0 for k in range(len(team.agents))])[own.agent]
    begin = np.stack([view.begin for view in views], 1)[rows, place, turn]
    cap = own.logp.shape[2]
    position = np.arange(cap)
    there = (own.turn >= 0)[:, :, None] & (position < conversations.length[rows, turn][:, :, None])
    at = (place * length + begin - 1)[:, :, None] + position
    parts: Any = (  # on the host: no array of jax yet
        ids,
        readable,
        np.where(there, at, 0).astype(np.int32),
        np.where(there, conversations.ids[rows, turn, :cap], 0).astype(np.int32),
        there,
        there & np.isin(own.agent, credited)[:, :, None],
    )
    return Reading(*parts)
