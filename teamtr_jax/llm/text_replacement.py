"""A swap between two teams that talk in text, measured on conversations of the first: one agent is another, the rest as it was.

There is a KL of messages only where both agents read and write the same ids, so that is what is asked of them: every view is
encoded again by the agents of the second team and has to be what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from teamtr_jax import intervals
from teamtr_jax.intervals import Interval
from teamtr_jax.llm.conversations import Conversations, own_messages, reading_of
from teamtr_jax.llm.devices import in_chunks
from teamtr_jax.llm.given import Spoken, Text, reading_policy, text_of
from teamtr_jax.llm.language_model import LanguageModel, Params, Reading, split_trained
from teamtr_jax.llm.losses import k3_float64
from teamtr_jax.llm.replacement import SampledSwap, SwapTokens, checked_scores, swap_of
from teamtr_jax.llm.text_sampler import read_again
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.token_statistics import token_statistics
from teamtr_jax.validation import InputError, real_number, whole_number

__all__ = ["SampledTextSwap", "sampled_text_swap"]


class SampledTextSwap(NamedTuple):
    """What conversations of the team before the swap say about it."""

    swap: SampledSwap
    mismatch: Interval
    """k3 of the outgoing agent's ids as they are scored against as they were drawn, summed over a conversation: rounding, or the
    conversations are not of these parameters. The limit counts it (S12), the other numbers do not."""


def sampled_text_swap(
    team: TextTeam,
    params: Sequence[Params],
    swapped: TextTeam,
    new_params: Sequence[Params],
    agent: int,
    said: Conversations,
    reward: ArrayLike | None = None,
    *,
    alpha: float = 0.1,
    micro_batch: int = 16,
) -> SampledTextSwap:
    """KL monitor and certificates of a swap (P3.8 by samples), from conversations of the team with the outgoing agent.

    The newcomer is another checkpoint, other adapters, a network of another size. Its tokenizer, template and stops have to give
    the ids that were read and written; between two tokenizers no certificate speaks: compare rewards on held-out problems.

    Args:
      swapped: the team with the newcomer in the place of `agent`; everyone else as in `team`, parameters too.
      said: of `team` with `params`, written by its own sampler (`converse`); of the parameters of others that is not checked.
      reward: ``[B, G]`` in [0, 1], of the G = `said.group` conversations about each of B independent problems (``[B]`` where G is
        1); without it no certificates.
      alpha: probability of error of the limit and of each interval.
      micro_batch: rows that a network reads at once.

    Raises:
      InputError: teams that differ in more than the agent; a newcomer that reads other ids, ends messages otherwise, or has
        other ids to write; an agent that shares its parameters, never spoke or drew again; an external sampler; rewards of
        another shape or range.
    """
    alpha = real_number("alpha", alpha, above=0.0, below=1.0)
    whole_number("micro_batch", micro_batch, 1)
    score = checked_scores(reward, len(said.said))
    if score is not None and score.shape[1] != said.group:
        raise InputError("reward", f"{score.shape[1]} for each problem", f"{said.group}, its conversations: [B, G]")
    _require_one(team, params, swapped, new_params, agent)
    _require_same_ids(team, swapped, said, agent)
    which = team.who.sharers[agent]
    reading = reading_of(team, said, which)
    if not reading.own.any():
        raise InputError("said", f"no message of {team.names[agent]}", "at least one")
    its = swapped.who.sharers[agent]
    models, heat = (team.models[which], swapped.models[its]), jnp.asarray(team.temperature, jnp.float32)
    found = _scores(models, min(micro_batch, len(reading.ids)), params[which], new_params[its], heat, reading)
    current, new, kl, back = (np.asarray(x, np.float64) for x in found)
    for name, x in (("params", current), ("new_params", new)):
        if not np.isfinite(x[reading.own]).all():
            raise InputError(name, f"scores of {team.names[agent]} that are not numbers", "finite log-probabilities")
    own = np.asarray(reading.own)
    away = np.where(own, current - own_messages(team, said, which).logp, 0.0)
    apart = k3_float64(away).sum((1, 2)).reshape(-1, said.group)
    swap = swap_of(SwapTokens(own, new - current, kl, back, away), score, said.group, alpha)
    return SampledTextSwap(swap, intervals.mean(apart.mean(1), alpha))


@partial(jax.jit, static_argnums=(0, 1))
def _scores(
    models: tuple[LanguageModel, LanguageModel],
    micro: int,
    current: Params,
    new: Params,
    temperature: Array,
    reading: Reading,
) -> tuple[Array, Array, Array, Array]:
    """`log π(u)`, `log π'(u)` of what was written, `KL(π‖π')` and `KL(π'‖π)` there, each ``[R, M, L]``."""

    def spoken(model: LanguageModel, params: Params) -> Spoken:
        policy = reading_policy(model, *split_trained(params, model.trained(params)), temperature)
        leaves = policy.leaves(policy.start)

        def features(text: Text) -> Array:
            return policy.features(leaves, text)

        return Spoken(in_chunks(features, micro, None, text_of(reading)), policy.head(leaves))

    (x, head), (y, new_head) = (spoken(*each) for each in zip(models, (current, new), strict=True))

    def compare(x: Array, y: Array, written: Array) -> tuple[Array, Array, Array, Array]:
        there = token_statistics(x, head, y, new_head, written, temperature=temperature)
        back = token_statistics(y, new_head, x, head, written, temperature=temperature)
        return there.current, there.new, there.kl, back.kl

    return in_chunks(compare, micro, None, x, y, reading.written)


def _require_one(
    team: TextTeam, params: Sequence[Params], swapped: TextTeam, new_params: Sequence[Params], agent: int
) -> None:
    """Refuse teams that differ in more than one agent and its parameters."""
    whole_number("agent", agent, 0, len(team.agents) - 1)
    for name, x, own in (("params", params, team), ("new_params", new_params, swapped)):
        if len(x) != own.who.sets:
            raise InputError(name, f"{len(x)} pytrees", f"{own.who.sets}, one for each set of parameters")
    for name in ("names", "turns", "temperature", "router"):
        here, there = getattr(team, name), getattr(swapped, name)
        if here != there:
            raise InputError(f"{name} of swapped", repr(there), repr(here))
    if team.router is None:
        order, after = ([x.speaker(t) for t in range(team.turns)] for x in (team, swapped))
        if order != after:
            raise InputError("schedule of swapped", repr(after), repr(order))
    if others := [k for x in (team, swapped) for k in x.who.moved(agent) if k != agent]:
        found = f"{agent}, which shares its parameters with {', '.join(map(str, sorted(set(others))))}"
        raise InputError("agent", found, "an agent with parameters of its own")
    for k in range(len(team.agents)):
        here, there = team.who.sharers[k], swapped.who.sharers[k]
        if k != agent and (team.models[here] != swapped.models[there] or not _equal(params[here], new_params[there])):
            raise InputError(f"agents[{k}] of swapped", "another network or other parameters", "those of `team`")


def _equal(one: Params, other: Params) -> bool:
    """Leaf by leaf; most are the same array."""
    (x, here), (y, there) = jax.tree.flatten(one), jax.tree.flatten(other)
    return here == there and all(
        a is b or (a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()))
        for a, b in zip(x, y, strict=True)
    )


def _require_same_ids(team: TextTeam, swapped: TextTeam, said: Conversations, agent: int) -> None:
    """Refuse a team that would have read or heard anything else, or ended a message elsewhere."""
    agents, turns = len(said.views), said.speaker.shape[1]
    if (agents, turns) != (len(team.agents), team.turns):
        expected = f"those of the team: {team.turns} turns, {len(team.agents)} agents"
        raise InputError("said", f"conversations of {turns} turns and {agents} agents", expected)
    if foreign := [name for name in said.settings.sampler if name != "own"]:
        raise InputError("said", f"messages by {foreign[0]}", "conversations of the team's own sampler")
    own = said.speaker == agent
    if count := int((said.redrawn[own] > 0).sum()):
        found = f"{count} messages of {team.names[agent]} that were drawn again"
        raise InputError("said.redrawn", found, "none: their probability is not the policy's")
    for k, (old, new) in enumerate(zip(team.agents, swapped.agents, strict=True)):
        where = f"agents[{k}] of swapped"
        if new.model.vocabulary != old.model.vocabulary:
            raise InputError(where, f"{new.model.vocabulary} ids to write", f"{old.model.vocabulary}")
        if sorted(map(tuple, new.scribe.stops)) != sorted(map(tuple, old.scribe.stops)):
            raise InputError(where, "other stops", f"those of {old.role.name}")
        if new.role.cap != old.role.cap:
            raise InputError(where, f"messages of {new.role.cap} ids", f"{old.role.cap}")
        again, view = read_again(swapped, said, k), said.views[k]
        if not all(np.array_equal(x, y) for x, y in zip(again, view, strict=True)):
            raise InputError(where, "other ids for what was said", f"those that {old.role.name} read")
        for row, turn in np.argwhere(said.speaker == k).tolist():
            ids = said.ids[row, turn, : said.length[row, turn]].tolist()
            if new.scribe.read(ids) != said.said[row][turn]:
                raise InputError(where, "another text of the ids that were written", f"that of {old.role.name}")
