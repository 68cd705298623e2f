"""A team of transformers with all its transcripts written down: a `types.Team` on a `Tree`, without sampling error.

A node of the tree is a transcript so far; an edge is a symbol. Levels, in the order of the transcript: the prompt (base-V digits
of its number), then for each turn the router's choice (digits of the speaker, only if the router has no schedule) and the
positions of the message. Prompts and router belong to chance: nobody's nodes, whose policy is the chance. After END, and beyond
the speaker's cap, a position is nobody's too, with probability 1 on symbol 0. Headers follow from the speaker: they are in the
rows that the networks read and are no levels.

A symbol of probability 0 at a node of nobody leads to a copy of the subtree of a symbol that can occur: copies have the same
owners, policies and rewards, so suprema over all nodes and the range of the return are those of the transcripts that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.divergences import message_probabilities
from teamtr_jax.dynamics import Tree
from teamtr_jax.llm.layout import Layout, View, Vocabulary, messages, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Params, agent_params, policy_logits
from teamtr_jax.schedules import Schedule
from teamtr_jax.surrogates import hybrids_report
from teamtr_jax.tabular import OPTIONS, TeamState, audit_records
from teamtr_jax.types import Stage, StageReport, Team, UpdateRecord, static_field
from teamtr_jax.validation import InputError, finite, probability_rows, require_float64, shaped
from teamtr_jax.values import advantages, evaluate_policy, objective
from teamtr_jax.visits import chain_hybrids, chain_solo_steps

__all__ = ["Enumeration", "enumerate_world", "enumerate_team", "enumerated_policy", "updated_policy", "chain_policies",
           "differentiable_policy", "exact_objective", "policy_gradient", "network_stage", "chain_report", "network_audit",
           "transcript_law", "verified", "PRESET_4_8", "PRESET_4_8_END", "PRESET_2_16"]  # fmt: skip

LARGEST = 2**22
"""Most leaves of a tree."""

ROWS = 128
"""Most rows that one pass of a network reads at once."""


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
    members: tuple[int, ...] = static_field()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Enumeration:
    """The world of a transformer team: everything but the parameters."""

    team: Team  #: on `Tree(V, T)`, V the number of ids that an agent may write
    chance: Array  #: [S, V], the policy at nobody's nodes, 0 at the agents'
    readings: tuple[Reading, ...]
    tokens: Array  #: [R, N], the transcripts that can occur
    speaker: Array  #: [R, turns]
    leaf: Array  #: [R], which of the `V^T` leaves each of them is
    language: LanguageTeam = static_field()  # noqa: RUF009 — a field, not a default


class _Level(NamedTuple):
    """The nodes of one level that can occur."""

    tokens: NDArray[np.int32]  #: [R, N]
    owner: NDArray[np.int64]  #: [R], −1: nobody
    chance: NDArray[np.float64]  #: [R, V], 0 at the agents' nodes
    position: int  #: of the last id before the one that is chosen here
    parent: NDArray[np.int64]  #: [R], in the level before
    place: NDArray[np.int64]  #: [V^t], which of the R each node is, or is a copy of


def _digits(outcomes: int, base: int) -> int:
    """How many symbols of `base` tell so many outcomes apart."""
    count = 0
    while base**count < outcomes:
        count += 1
    return count


def _events(layout: Layout, prompts: int) -> list[tuple[str, int, int]]:
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


def _grow(layout: Layout, prompts: NDArray[np.int32], weights: NDArray[np.float64]):
    """Level by level: which nodes can occur, and what stands in the transcript there."""
    v, caps = layout.vocabulary.actions, np.array([layout.cap(a) for a in range(layout.agents)])
    scheduled = layout.router.schedule
    tokens = np.full((1, layout.length), layout.vocabulary.pad, np.int32)
    tokens[:, : layout.prompt] = prompts[0]
    speaker = np.full((1, layout.turns), -1)
    index, ended = (
        np.zeros(1, int),
        np.zeros(1, bool),
    )  # digits of the running event so far; whether the message is over
    parent, place, node = np.zeros(1, int), np.zeros(1, int), np.zeros(1, int)
    law = weights[None]  # [R, outcomes], of the running chance event
    levels: list[_Level] = []

    def begin_turn(turn: int, who: NDArray[np.int64]) -> None:
        nonlocal ended
        speaker[:, turn] = who
        tokens[:, layout.start(turn)] = layout.vocabulary.header(0) + who
        ended = np.zeros(len(tokens), bool)

    for kind, turn, k in _events(layout, len(prompts)):
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
        levels.append(_Level(tokens.copy(), owner, chance, position, parent, place))

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
    return levels, tokens, speaker, place, node


def _readings(team: LanguageTeam, levels: list[_Level], first: NDArray[np.int64]) -> tuple[Reading, ...]:
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
        members = tuple(a for a in range(team.agents) if team.models[a] == config)
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


def enumerate_world(
    team: LanguageTeam,
    prompts: Sequence[str],
    reward: Callable[[NDArray[np.int32]], ArrayLike],
    weights: Sequence[float] | NDArray[np.float64] | None = None,
) -> Enumeration:
    """The tree of all transcripts of a team, for any parameters.

    Args:
      prompts: the prompts that there are.
      reward: outcome of final transcripts, `tokens [R, N] → [R]`; or `verified(…)`, by a task's verifier.
      weights: probability of each prompt; all the same if not given.

    Raises:
      InputError: a tree of more than `LARGEST` leaves, a prompt that does not fit, probabilities that do not sum to one, or a
        reward of another shape or not finite.
    """
    layout = team.layout
    if not len(prompts):
        raise InputError("prompts", "none", "at least one")
    v, horizon = layout.vocabulary.actions, len(_events(layout, len(prompts)))
    if v**horizon > LARGEST:
        raise InputError("team, prompts", f"{v}^{horizon} leaves", f"at most {LARGEST}")
    law = np.full(len(prompts), 1 / len(prompts)) if weights is None else np.asarray(weights, np.float64)
    shaped("weights", law, (len(prompts),))
    ids = layout.encode_prompts(list(prompts))
    levels, tokens, speaker, place, leaf = _grow(layout, ids, probability_rows("weights", law))

    tree = Tree(v, horizon)
    first = np.array([tree.level(t).start for t in range(horizon)])
    outcome = np.asarray(reward(tokens), np.float64)
    shaped("reward", outcome, (len(tokens),))
    table = np.zeros((tree.states, v))
    table[tree.level(horizon - 1)] = finite("reward", outcome)[place].reshape(-1, v)
    initial = np.zeros(tree.states)
    initial[0] = 1.0
    active = np.concatenate([level.owner[level.place] for level in levels])
    chance = np.concatenate([level.chance[level.place] for level in levels])
    require_float64(reward=jnp.asarray(table))
    world = Team(tree, jnp.asarray(table), jnp.asarray(initial), jnp.asarray(active), team.agents)
    readings = _readings(team, levels, first)
    written, who, place = (jnp.asarray(x) for x in (tokens, speaker, leaf))
    return Enumeration(world, jnp.asarray(chance), readings, written, who, place, team)


def enumerate_team(
    team: LanguageTeam,
    params: Params,
    prompts: Sequence[str],
    reward: Callable[[NDArray[np.int32]], ArrayLike],
    weights: Sequence[float] | NDArray[np.float64] | None = None,
) -> tuple[Team, Float[Array, "S V"]]:
    """The team as tables: `enumerate_world` and the policy of these parameters."""
    world = enumerate_world(team, prompts, reward, weights)
    return world.team, enumerated_policy(world, params)


def verified(
    layout: Layout, problems: Sequence[Any], verify: Callable[[Any, list[str]], float]
) -> Callable[[NDArray[np.int32]], NDArray[np.float64]]:
    """The reward of final transcripts by a task's verifier; `problems` are told apart by their `prompt`.

    Raises:
      InputError: two problems with one prompt.
    """
    number = {tuple(row): problem for row, problem in zip(_prompt_rows(layout, problems), problems, strict=True)}
    if len(number) < len(problems):
        raise InputError("problems", "two with the same prompt", "different prompts")

    def reward(tokens: NDArray[np.int32]) -> NDArray[np.float64]:
        asked = [number[tuple(row)] for row in tokens[:, : layout.prompt].tolist()]
        return np.array([verify(one, said) for one, said in zip(asked, messages(layout, tokens), strict=True)], float)

    return reward


def _prompt_rows(layout: Layout, problems: Sequence[Any]) -> list[list[int]]:
    return layout.encode_prompts([problem.prompt for problem in problems]).tolist()


def _stacked(world: Enumeration, reading: Reading, params: Params) -> Params:
    """The parameters of the members with a leading axis."""
    if world.language.alike:
        return params
    return jax.tree.map(lambda *x: jnp.stack(x), *(params[a] for a in reading.members))


def _logits(world: Enumeration, reading: Reading, own: Params, block: Array) -> Array:
    """Teacher-forced, of one block of rows."""
    config = world.language.models[reading.members[0]]
    return policy_logits(config, world.language.layout, own, reading.tokens[block])


def _at_nodes(world: Enumeration, reading: Reading, logits: Array) -> Array:
    """``[Q, V]``, the policy at the nodes: softmax in float64 of logits as the network computed them."""
    flat = logits.reshape(-1, *logits.shape[-2:])[reading.row, reading.position]
    return jnp.exp(jax.nn.log_softmax(flat.astype(world.chance.dtype)))


@jax.jit
def _fill(
    world: Enumeration, reading: Reading, stacked: Params, policy: Array, begin: Array | int, end: Array | int
) -> Array:
    """`policy` with the nodes that blocks `begin … end−1` are about as the networks of their readers have them."""
    blocks, size, length = reading.tokens.shape
    dtype = jnp.promote_types(world.language.models[reading.members[0]].dtype, jnp.float32)

    def read(block: Array, logits: Array) -> Array:
        own = jax.tree.map(lambda x: x[reading.reader[block]], stacked)
        return logits.at[block].set(_logits(world, reading, own, block))

    empty = jnp.zeros((blocks, size, length, policy.shape[-1]), dtype)
    table = _at_nodes(world, reading, lax.fori_loop(begin, end, read, empty))
    block = reading.row // size
    nodes = jnp.where((begin <= block) & (block < end), reading.nodes, policy.shape[0])
    return policy.at[nodes].set(table, mode="drop")


def enumerated_policy(world: Enumeration, params: Params) -> Float[Array, "S V"]:
    """`π(a|prefix)` at every node: logits in the network's precision, softmax in float64, chance as it is.

    Every distinct row is read once, by the agents that speak in it only.

    Raises:
      InputError: with the x64 setting off.
    """
    policy = world.chance
    require_float64(chance=policy)
    for reading in world.readings:
        policy = _fill(world, reading, _stacked(world, reading, params), policy, 0, reading.tokens.shape[0])
    return policy


def updated_policy(world: Enumeration, params: Params, policy: Float[Array, "S V"], agent: int) -> Float[Array, "S V"]:
    """`policy` after an update of one agent: its own nodes read anew, the others bit for bit as they were."""
    require_float64(policy=policy)
    reading, member = _place_of(world, agent)
    begin, end = reading.first[member], reading.first[member + 1]
    return _fill(world, reading, _stacked(world, reading, params), policy, begin, end)


def _place_of(world: Enumeration, agent: int) -> tuple[Reading, int]:
    if not 0 <= agent < world.team.agents:
        raise InputError("agent", agent, f"0 … {world.team.agents - 1}")
    return next((r, r.members.index(agent)) for r in world.readings if agent in r.members)


def chain_policies(world: Enumeration, states: Sequence[Params], agents: Sequence[int]) -> Float[Array, "m S V"]:
    """The policies of a chain of updates: `agents[i]` moves from parameters `states[i]` to `states[i+1]`.

    The whole chain costs two evaluations of the team, however many agents there are.
    """
    if len(states) != len(agents) + 1:
        raise InputError("states", f"{len(states)} for {len(agents)} updates", "one more than updates")
    chain = [enumerated_policy(world, states[0])]
    for params, agent in zip(states[1:], agents, strict=True):
        chain.append(updated_policy(world, params, chain[-1], int(agent)))
    return jnp.stack(chain)


def differentiable_policy(world: Enumeration, params: Params) -> Float[Array, "S V"]:
    """`enumerated_policy` for `jax.grad` and `jax.vmap`."""
    policy = world.chance
    for reading in world.readings:
        stacked = _stacked(world, reading, params)

        def read(block: Array, reading: Reading = reading, stacked: Params = stacked) -> Array:
            own = jax.tree.map(lambda x: x[reading.reader[block]], stacked)
            return _logits(world, reading, own, block)

        logits = lax.map(jax.checkpoint(read), jnp.arange(reading.tokens.shape[0]))
        policy = policy.at[reading.nodes].set(_at_nodes(world, reading, logits), mode="drop")
    return policy


def exact_objective(world: Enumeration, params: Params) -> Float[Array, ""]:
    """`J` of the enumerated team as a function of all parameters, for `jax.grad`; `policy_gradient` is cheaper."""
    return objective(world.team, differentiable_policy(world, params))


def policy_gradient(
    world: Enumeration, params: Params, agent: int, policy: Float[Array, "S V"] | None = None
) -> tuple[Float[Array, ""], Params]:
    """`J`, and its exact gradient `Σ_s m(s) Σ_a ∇π(a|s) A(s,a)` in the parameters of one agent.

    Args:
      policy: `enumerated_policy(world, params)`, if it is at hand.
    """
    policy = enumerated_policy(world, params) if policy is None else policy
    reading, member = _place_of(world, agent)
    begin, end = reading.first[member], reading.first[member + 1]
    return _gradient(world, reading, agent_params(world.language, params, agent), policy, begin, end)


@jax.jit
def _gradient(
    world: Enumeration, reading: Reading, own: Params, policy: Array, begin: Array, end: Array
) -> tuple[Array, Params]:
    _, v, m = evaluate_policy(world.team, policy)
    credit = m[:, None] * advantages(world.team, v)
    blocks, size, length = reading.tokens.shape
    credits = jnp.zeros((blocks * size, length, policy.shape[-1])).at[reading.row, reading.position]
    credits = credits.add(credit[reading.nodes]).reshape(blocks, size, length, -1)

    def gain(own: Params, block: Array) -> Array:
        return (jax.nn.softmax(_logits(world, reading, own, block).astype(credit.dtype)) * credits[block]).sum()

    def add(block: Array, total: Params) -> Params:
        return jax.tree.map(jnp.add, total, jax.grad(gain)(own, block))

    return world.team.initial @ v, lax.fori_loop(begin, end, add, jax.tree.map(jnp.zeros_like, own))


def network_stage(world: Enumeration, before: Params, after: Params, order: Sequence[int]) -> Stage:
    """The stage in which the agents go, in this order, from their parameters `before` to `after`."""
    tables = enumerated_policy(world, before), enumerated_policy(world, after)
    return Stage(world.team, *tables, jnp.asarray(order))


@partial(jax.jit, compiler_options=OPTIONS)
def chain_report(team: Team, chain: Float[Array, "m S V"], agents: Array) -> StageReport:
    """Everything known exactly of a chain of updates: the functions of the tabular core on the enumerated team."""
    return hybrids_report(team, chain_hybrids(team, chain, agents), chain_solo_steps(team, chain, agents, chain[0]))


def network_audit(
    world: Enumeration,
) -> Callable[[list[Any], list[UpdateRecord], Schedule], dict[str, Any]]:
    """The `audit` of a backend whose states have `params`: exact numbers of actual neural updates (`tabular.audit_records`).

    The parts of `ζ` are there where the records hold the gain of the surrogate that the update maximised (`info["gain"]`).
    """

    def audit(states: list[Any], records: list[UpdateRecord], schedule: Schedule) -> dict[str, Any]:
        policies = chain_policies(world, [state.params for state in states], [int(r.agent) for r in records])
        tables = [TeamState(policy, jnp.zeros(world.team.agents)) for policy in policies]
        known = all("gain" in record.info for record in records)
        booked = [record._replace(info={"gain": np.nan, **record.info}) for record in records]
        exact = audit_records(world.team, tables, booked, schedule)
        return exact if known else {name: x for name, x in exact.items() if not name.startswith("zeta")}

    return audit


@jax.jit
def transcript_law(world: Enumeration, policy: Float[Array, "S V"]) -> Float[Array, " R"]:
    """The probability of each of `world.tokens`."""
    tree = world.team.dynamics
    assert isinstance(tree, Tree)
    return message_probabilities(tree, policy)[world.leaf]


def _preset(characters: str, ends: bool, agents: int, message: int, turns: int) -> LanguageTeam:
    vocabulary = Vocabulary(characters, agents, prompt_only="?", ends=ends)
    layout = Layout(vocabulary, 1, message, turns, round_robin(agents))
    return LanguageTeam(layout, (ModelConfig(width=16, layers=2, heads=2),) * agents)


PRESET_4_8 = _preset("0123", False, agents=4, message=2, turns=4)
"""V = 4, T = 8: four agents, one message of two symbols each, 65,536 transcripts."""

PRESET_4_8_END = _preset("012", True, agents=3, message=2, turns=4)
"""V = 4, T = 8: three agents, four messages of at most two symbols, END one of them."""

PRESET_2_16 = _preset("01", False, agents=8, message=1, turns=16)
"""V = 2, T = 16: eight agents, two messages of one symbol each, 65,536 transcripts."""
