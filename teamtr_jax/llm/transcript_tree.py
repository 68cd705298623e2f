"""The tree of all transcripts of a layout, level by level, and which rows the networks have to read. Host code.

A node is a transcript so far; an edge is a symbol. Levels, in the order of the transcript: the prompt (base-V digits
of its number), then for each turn the router's choice (digits of the speaker, only if the router has no schedule) and the
positions of the message. Prompts and router belong to chance: nobody's nodes, whose policy is the chance. After END, and beyond
the speaker's cap, a position is nobody's too, with probability 1 on symbol 0. Headers follow from the speaker: they are in the
rows that the networks read and are no levels.

A symbol of probability 0 at a node of nobody leads to a copy of the subtree of a symbol that can occur: copies have the same
owners, policies and rewards, so suprema over all nodes and the range of the return are those of the transcripts that exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.llm.layout import Layout, View
from teamtr_jax.llm.model import LanguageTeam
from teamtr_jax.types import static_field
from teamtr_jax.validation import InputError, probability_rows, shaped

__all__ = ["Level", "Grown", "Reading", "events", "grow", "readings"]

ROWS = 128
"""Most rows that one pass of a network reads at once."""


class Level(NamedTuple):
    """The nodes of one level that can occur."""

    tokens: NDArray[np.int32]  #: [R, N]
    owner: NDArray[np.int64]  #: [R], −1: nobody
    chance: NDArray[np.float64]  #: [R, V], 0 at the agents' nodes
    position: int  #: of the last id before the one that is chosen here
    parent: NDArray[np.int64]  #: [R], in the level before
    place: NDArray[np.int64]  #: [V^t], which of the R each node is, or is a copy of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """What the agents of one network size read, and where the answers belong."""

    tokens: Array  #: [C, M, N'] distinct rows, in blocks that belong to one agent each
    reader: Array  #: [C] whose block it is, counted among `members`
    first: Array  #: [members + 1] where the blocks of each member begin
    nodes: Array  #: [Q] nodes of the tree that members own
    row: Array  #: [Q] the row, counted over all blocks, in which the node's prefix stands
    position: Array  #: [Q] the last position of the prefix: its logits are about the node
    members: tuple[int, ...] = static_field()  #: sharers of parameters beside each other


def _digits(outcomes: int, base: int) -> int:
    """How many symbols of `base` tell so many outcomes apart."""
    count = 0
    while base**count < outcomes:
        count += 1
    return count


def events(layout: Layout, prompts: int) -> list[tuple[str, int, int]]:
    """The levels of the tree: (kind, turn, which digit or position)."""
    v, scheduled = layout.vocabulary.actions, layout.router.schedule
    out = [("prompt", -1, k) for k in range(_digits(prompts, v))]
    longest = max(layout.cap(a) for a in range(layout.agents))
    for turn in range(layout.turns):
        if scheduled is None:
            out += [("router", turn, k) for k in range(_digits(layout.agents, v))]
        out += [("token", turn, u) for u in range(longest if scheduled is None else layout.cap(scheduled(turn)))]
    return out


def _router_probabilities(layout: Layout, turn: int, last: NDArray[np.int64], tokens: NDArray[np.int32]) -> NDArray:
    view = View(jnp.asarray(turn, jnp.int32), jnp.asarray(last, jnp.int32), jnp.asarray(tokens))
    found = np.asarray(layout.router.probabilities(view), np.float64)
    shaped(f"router {layout.router.name}", found, (len(tokens), layout.agents))
    probability_rows(f"router {layout.router.name}", found, sums=False)
    total = found.sum(-1, keepdims=True)
    if (bad := abs(total - 1) > 1e-5).any():
        raise InputError(f"router {layout.router.name}", f"probabilities that sum to {total[bad][0]:g}", "1")
    return found / total


class Grown(NamedTuple):
    """All that can occur."""

    levels: list[Level]
    tokens: NDArray[np.int32]  #: [R, N], the transcripts
    speaker: NDArray[np.int64]  #: [R, turns]
    place: NDArray[np.int64]  #: [V^T], which of the R each leaf is, or is a copy of
    leaf: NDArray[np.int64]  #: [R], which leaf each of them is


def grow(layout: Layout, prompts: NDArray[np.int32], weights: NDArray[np.float64]) -> Grown:
    """Level by level: which nodes can occur, and what stands in the transcript there."""
    v, caps = layout.vocabulary.actions, np.array([layout.cap(a) for a in range(layout.agents)])
    scheduled = layout.router.schedule
    tokens = np.full((1, layout.length), layout.vocabulary.pad, np.int32)
    tokens[:, : layout.prompt] = prompts[0]
    speaker = np.full((1, layout.turns), -1)
    index = np.zeros(1, int)  # digits of the running event so far
    ended = np.zeros(1, bool)  # whether the message is over
    parent, place, node = np.zeros(1, int), np.zeros(1, int), np.zeros(1, int)
    law = weights[None]  # [R, outcomes], of the running chance event
    levels: list[Level] = []

    def begin_turn(turn: int, who: NDArray[np.int64]) -> None:
        nonlocal ended
        speaker[:, turn] = who
        tokens[:, layout.start(turn)] = layout.vocabulary.header(0) + who
        ended = np.zeros(len(tokens), bool)

    for kind, turn, k in events(layout, len(prompts)):
        owner, chance = np.full(len(tokens), -1), np.zeros((len(tokens), v))
        position, digits = 0, _digits(len(prompts) if kind == "prompt" else layout.agents, v)
        if kind == "token":
            if k == 0 and scheduled is not None:
                begin_turn(turn, np.full(len(tokens), scheduled(turn)))
            position = layout.start(turn) + k
            speaks = ~ended & (k < caps[speaker[:, turn]])
            owner = np.where(speaks, speaker[:, turn], -1)
            chance[~speaks, 0] = 1.0
        else:
            if k == 0:
                index = np.zeros(len(tokens), int)
                if kind == "router":
                    last = speaker[:, turn - 1] if turn else np.full(len(tokens), -1)
                    law = _router_probabilities(layout, turn, last, tokens)
            whole = np.zeros((len(tokens), v**digits))
            whole[:, : law.shape[1]] = law
            mass = whole.reshape(len(tokens), v**k, v, -1).sum(-1)[np.arange(len(tokens)), index]
            chance = mass / mass.sum(-1, keepdims=True)
        levels.append(Level(tokens.copy(), owner, chance, position, parent, place))

        occurs = (owner >= 0)[:, None] | (chance > 0)
        stands_for = np.where(occurs, np.arange(v), chance.argmax(-1)[:, None])
        parent, symbol = np.nonzero(occurs)
        number = np.zeros(occurs.shape, int)
        number[parent, symbol] = np.arange(len(parent))
        place = np.take_along_axis(number, stands_for, 1)[place].ravel()
        tokens, speaker, law = tokens[parent], speaker[parent], law[parent]
        ended, index, node = ended[parent], index[parent], node[parent] * v + symbol
        if kind == "token":
            wrote = owner[parent] >= 0
            tokens[wrote, position + 1] = symbol[wrote]
            if layout.vocabulary.ends:
                ended = ended | (wrote & (symbol == 0))
        else:
            index = index * v + symbol
            if k + 1 == digits and kind == "prompt":
                tokens[:, : layout.prompt] = prompts[index]
            if k + 1 == digits and kind == "router":
                begin_turn(turn, index)
    return Grown(levels, tokens, speaker, place, node)


def readings(team: LanguageTeam, levels: list[Level], first: NDArray[np.int64]) -> tuple[Reading, ...]:
    """For each agent the fewest rows that hold all its prefixes: those of its deepest level, then what they leave out."""
    rows: list[list[NDArray[np.int32]]] = []
    places: list[list[NDArray[np.int64]]] = []  # of each agent and level, the row of every node that can occur
    for agent in range(team.agents):
        own: list[NDArray[np.int32]] = []
        through = np.zeros(0, int)  # [R] a row that passes through each node of the level, −1 if none
        at: list[NDArray[np.int64]] = []
        count = 0
        for t in reversed(range(len(levels))):
            level = levels[t]
            here = np.full(len(level.owner), -1)
            if t + 1 < len(levels):
                here[levels[t + 1].parent[through >= 0]] = through[through >= 0]
            new = (level.owner == agent) & (here < 0)
            here[new] = count + np.arange(new.sum())
            count += int(new.sum())
            own.append(level.tokens[new])
            at.append(here)
            through = here
        rows.append(own)
        places.append(at[::-1])

    out = []
    for config in dict.fromkeys(team.models):
        members = tuple(a for a in np.argsort(team.who.sharers, kind="stable").tolist() if team.models[a] == config)
        deepest = [level.position for level in levels if np.isin(level.owner, members).any()]
        length = 1 + max(deepest, default=0)
        texts = [np.concatenate(rows[a])[:, :length] for a in members]
        size = min(ROWS, max(1, *map(len, texts)))
        blocks, reader, begins = [], [], [0]
        for member, text in enumerate(texts):
            number = -(-len(text) // size)
            filled = np.resize(text, (number * size, length)) if number else text
            blocks.append(filled.reshape(number, size, length))
            reader += [member] * number
            begins.append(begins[-1] + number)
        nodes, row, position = [], [], []
        for t, level in enumerate(levels):
            owner = level.owner[level.place]
            for member, agent in enumerate(members):
                mine = np.flatnonzero(owner == agent)
                nodes.append(first[t] + mine)
                row.append(begins[member] * size + places[agent][t][level.place[mine]])
                position.append(np.full(len(mine), level.position))
        arrays = (np.concatenate(x) for x in (blocks, nodes, row, position))
        tokens, nodes, row, position = (jnp.asarray(x.astype(np.int32)) for x in arrays)
        reader, begins = (jnp.asarray(np.array(x, np.int32)) for x in (reader, begins))
        out.append(Reading(tokens, reader, begins, nodes, row, position, members))
    return tuple(out)
