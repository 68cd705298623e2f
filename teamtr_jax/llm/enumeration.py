"""A team of transformers with all its transcripts written down: a `types.Team` on a `Tree`, without sampling error.

The tree is that of `teamtr_jax.llm.transcript_tree`; here are its teams, policies, gradients and audits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.chain_audit import OPTIONS, audit_records
from teamtr_jax.divergences import message_probabilities
from teamtr_jax.dynamics import Tree
from teamtr_jax.llm.layout import Layout, Vocabulary, messages, round_robin
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Params, agent_params, policy_logits
from teamtr_jax.llm.transcript_tree import Reading, events, grow, readings
from teamtr_jax.schedules import Schedule
from teamtr_jax.surrogates import hybrids_report
from teamtr_jax.tabular import TeamState
from teamtr_jax.types import Stage, StageReport, Team, UpdateRecord, static_field
from teamtr_jax.validation import InputError, finite, probability_rows, require_float64, shaped
from teamtr_jax.values import advantages, evaluate_policy, objective
from teamtr_jax.visits import chain_hybrids, chain_solo_steps

__all__ = ["Enumeration", "enumerate_world", "enumerate_team", "enumerated_policy", "updated_policy", "chain_policies",
           "differentiable_policy", "exact_objective", "policy_gradient", "network_stage", "chain_report", "network_audit",
           "transcript_law", "verified", "PRESET_4_8", "PRESET_4_8_END", "PRESET_2_16"]  # fmt: skip

LARGEST = 2**22
"""Most leaves of a tree."""


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
    language: LanguageTeam = static_field()  # noqa: RUF009 — `static_field` makes a field, not a default that instances share


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
    v, horizon = layout.vocabulary.actions, len(events(layout, len(prompts)))
    if v**horizon > LARGEST:
        raise InputError("team, prompts", f"{v}^{horizon} leaves", f"at most {LARGEST}")
    law = np.full(len(prompts), 1 / len(prompts)) if weights is None else np.asarray(weights, np.float64)
    shaped("weights", law, (len(prompts),))
    ids = layout.encode_prompts(list(prompts))
    levels, tokens, speaker, place, leaf = grow(layout, ids, probability_rows("weights", law))

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
    written, who, place = (jnp.asarray(x) for x in (tokens, speaker, leaf))
    return Enumeration(world, jnp.asarray(chance), readings(team, levels, first), written, who, place, team)


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
    language, places = world.language, [world.language.place(a) for a in reading.members]
    if language.alike:
        return params if language.who.apart else jax.tree.map(lambda x: x[np.array(places)], params)
    return jax.tree.map(lambda *x: jnp.stack(x), *(params[place] for place in places))


def _logits(world: Enumeration, reading: Reading, own: Params, block: Array | int) -> Array:
    """Teacher-forced, of one block of rows."""
    config = world.language.models[reading.members[0]]
    return policy_logits(config, world.language.layout, own, reading.tokens[block])


def _at_nodes(world: Enumeration, reading: Reading, logits: Array) -> Array:
    """``[Q, V]``, the policy at the nodes: softmax in float64 of logits as the network computed them."""
    flat = logits.reshape(-1, *logits.shape[-2:])[reading.row, reading.position]
    return jnp.exp(jax.nn.log_softmax(flat.astype(world.chance.dtype)))


@jax.jit
def _fill(
    world: Enumeration, reading: Reading, params: Params, policy: Array, begin: Array | int, end: Array | int
) -> Array:
    """`policy` with the nodes that blocks `begin … end−1` are about as the networks of their readers have them."""
    stacked = _stacked(world, reading, params)
    blocks, size, length = reading.tokens.shape

    def found(block: Array | int) -> Array:
        return _logits(world, reading, jax.tree.map(lambda x: x[reading.reader[block]], stacked), block)

    def read(block: Array, logits: Array) -> Array:
        return logits.at[block].set(found(block))

    empty = jnp.zeros((blocks, size, length, policy.shape[-1]), jax.eval_shape(found, 0).dtype)
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
        policy = _fill(world, reading, params, policy, 0, reading.tokens.shape[0])
    return policy


def updated_policy(world: Enumeration, params: Params, policy: Float[Array, "S V"], agent: int) -> Float[Array, "S V"]:
    """`policy` after an update of one agent: the nodes of all who play with its parameters read anew.

    The others are bit for bit as they were.
    """
    require_float64(policy=policy)
    reading, begin, end = _place_of(world, agent)
    return _fill(world, reading, params, policy, begin, end)


def _place_of(world: Enumeration, agent: int) -> tuple[Reading, Array, Array]:
    """What the sharers of the agent's parameters read, and from which block to which."""
    if not 0 <= agent < world.team.agents:
        raise InputError("agent", agent, f"0 … {world.team.agents - 1}")
    reading = next(r for r in world.readings if agent in r.members)
    places = [reading.members.index(k) for k in world.language.who.moved(agent)]
    return reading, reading.first[min(places)], reading.first[max(places) + 1]


def chain_policies(world: Enumeration, states: Sequence[Params], agents: Sequence[int]) -> Float[Array, "m S V"]:
    """The policies of a chain of updates: `agents[i]` moves from parameters `states[i]` to `states[i+1]`, and so do its sharers.

    The whole chain costs two evaluations of the team, however many agents there are that share nothing.
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
    """`J`, and the exact gradient `Σ_s m(s) Σ_a ∇π(a|s) A(s,a)` of an update of one agent in the parameters that it plays with.

    The sum is over the states of the agents whose messages the update is credited with (`Sharing.credited`): of its own, which
    without sharers is the gradient of J in its parameters, or of a joint update of all sharers, which is it with them.

    Args:
      policy: `enumerated_policy(world, params)`, if it is at hand.
    """
    reading, begin, end = _place_of(world, agent)
    policy = enumerated_policy(world, params) if policy is None else policy
    credited = np.isin(np.arange(world.team.agents), world.language.who.credited(agent))
    own = agent_params(world.language, params, agent)
    return _gradient(world, reading, own, policy, jnp.asarray(credited), begin, end)


@jax.jit
def _gradient(
    world: Enumeration, reading: Reading, own: Params, policy: Array, credited: Array, begin: Array, end: Array
) -> tuple[Array, Params]:
    _, v, m = evaluate_policy(world.team, policy)
    active = world.team.active
    assert active is not None
    mine = (active >= 0) & credited[active]
    credit = jnp.where(mine, m, 0.0)[:, None] * advantages(world.team, v)
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
    """Everything known exactly of a chain of updates: the functions of the tabular core on the enumerated team.

    Args:
      agents: who moves (`visits.chain_hybrids`): of sharers ``sharing.moves[agents]``.
    """
    return hybrids_report(team, chain_hybrids(team, chain, agents), chain_solo_steps(team, chain, agents, chain[0]))


def network_audit(
    world: Enumeration,
) -> Callable[[list[Any], list[UpdateRecord], Schedule], dict[str, Any]]:
    """The `audit` of a backend whose states have `params`: exact numbers of actual neural updates (`chain_audit.audit_records`).

    The parts of `ζ` are there where the records hold the gain of the surrogate that the update maximised (`info["gain"]`).
    """

    def audit(states: list[Any], records: list[UpdateRecord], schedule: Schedule) -> dict[str, Any]:
        moves, agents = world.language.who.moves, [int(record.agent) for record in records]
        for record, agent in zip(records, agents, strict=True):
            if record.moved is not None and (np.asarray(record.moved) != moves[agent]).any():
                found = f"an update of agent {agent} that moves {np.flatnonzero(record.moved).tolist()}"
                raise InputError("sharing of the backend", found, f"{np.flatnonzero(moves[agent]).tolist()}")
        policies = chain_policies(world, [state.params for state in states], agents)
        tables = [TeamState(policy, jnp.zeros(world.team.agents)) for policy in policies]
        known = all("gain" in record.info for record in records)
        booked = [
            record._replace(moved=moves[agent], info={"gain": np.nan, **record.info})
            for record, agent in zip(records, agents, strict=True)
        ]
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
