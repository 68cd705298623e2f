"""Real transformer teams in the audit: stages of actual neural updates, enumerated exactly (`teamtr_jax.llm.enumeration`).

Four teams of two agents with one tree of four binary levels, so that one program makes and one program judges all stages, and
the oracle can decide what float64 cannot; and the presets of the package, one stage each.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from teamtr_jax import programs
from teamtr_jax.divergences import message_kl_current_to_new, token_kl_current_to_new
from teamtr_jax.dynamics import Tree
from teamtr_jax.types import Stage
from teamtr_jax.values import objective

if TYPE_CHECKING:  # a second to import, which most processes of a run need not
    from teamtr_jax.llm.enumeration import Enumeration
    from teamtr_jax.llm.layout import Layout, Vocabulary
    from teamtr_jax.llm.model import LanguageTeam

__all__ = ["SIZES", "BATCH", "PRESETS", "layouts", "worlds", "noise", "make", "preset_stage", "message_chain_rule"]

AGENTS, HORIZON = 2, 4
BATCH = 200
"""Stages made at once: one compiled program for everybody who asks here."""
WARM = 6
"""Joint policy-gradient steps that a trained team has behind it."""

SIZES = (
    "2 transformers (d = 8), V = 2, T = 4: round robin, random router, two prompts, END; a third each one agent perturbed, "
    "policy-gradient updates of a fresh team, of a trained one; step log-uniform [1e-3, 10], reward uniform or 0/1"
)


def layouts() -> list[tuple[Layout, tuple[str, ...]]]:
    from teamtr_jax.llm.layout import Layout, Vocabulary, random_router, round_robin

    def vocabulary(ends: bool) -> Vocabulary:
        return Vocabulary("0" if ends else "01", AGENTS, "?!", ends)

    two = round_robin(AGENTS)
    return [
        (Layout(vocabulary(False), 1, 1, 4, two), ("?",)),
        (Layout(vocabulary(False), 1, 1, 2, random_router(AGENTS)), ("?",)),
        (Layout(vocabulary(False), 1, 1, 3, two), ("?", "!")),
        (Layout(vocabulary(True), 1, 2, 2, two), ("?",)),
    ]


def _widened(x: Array, shape: tuple[int, ...], fill: int) -> NDArray[Any]:
    return np.pad(x, [(0, m - k) for k, m in zip(x.shape, shape, strict=True)], constant_values=fill)


@cache
def worlds() -> Enumeration:
    """The four teams as one pytree with a leading axis. The reward of a leaf is the number of its transcript."""
    from teamtr_jax.llm.enumeration import enumerate_world
    from teamtr_jax.llm.model import LanguageTeam, ModelConfig

    worlds, model = [], ModelConfig(width=8, layers=1, heads=1)
    for layout, prompts in layouts():
        weights = np.array([0.6, 0.4][: len(prompts)]) if len(prompts) > 1 else None
        team = LanguageTeam(layout, (model,) * AGENTS)
        worlds.append(enumerate_world(team, prompts, lambda tokens: np.arange(len(tokens)), weights))
    ids = worlds[0].language.layout.vocabulary
    for world in worlds[1:]:  # the evaluation of a policy looks at no more of a layout than this
        other = world.language.layout.vocabulary
        assert (other.size, other.actions, other.pad) == (ids.size, ids.actions, ids.pad)
    size = [max(w.readings[0].tokens.shape[k] for w in worlds) for k in range(3)]
    nodes = max(w.readings[0].nodes.shape[0] for w in worlds)
    rows = max(w.tokens.shape[0] for w in worlds)
    out = []
    for world in worlds:
        r = world.readings[0]
        block, inside = np.divmod(r.row, r.tokens.shape[1])
        reading = replace(
            r, tokens=_widened(r.tokens, tuple(size), ids.pad), reader=_widened(r.reader, (size[0],), 0),
            nodes=_widened(r.nodes, (nodes,), world.team.reward.shape[0]),  # beyond the tree: dropped
            row=_widened(block * size[1] + inside, (nodes,), 0), position=_widened(r.position, (nodes,), 0),
        )  # fmt: skip
        empty = np.zeros((rows, 0), int)
        out.append(
            replace(world, readings=(reading,), tokens=empty, speaker=empty, leaf=_widened(world.leaf, (rows,), -1),
                    language=worlds[0].language)
        )  # fmt: skip
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *out)


@cache
def _shapes() -> Any:
    from teamtr_jax.llm.model import init_team

    language = worlds().language  # made outside the trace
    return jax.eval_shape(lambda: init_team(language, jax.random.key(0)))


def noise(rng: np.random.Generator, batch: int, start: bool) -> Any:
    """Normal numbers of the size of initial parameters; if `start`, with scales of 1, as a network has them at first."""

    def leaf(path: Any, x: Any) -> NDArray[np.float32]:
        name = jax.tree_util.keystr(path)
        out = rng.normal(size=(batch, *x.shape)) * x.shape[-1 if "embedding" in name else -2] ** -0.5
        return (np.ones_like(out) if start and "scale" in name else out).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, _shapes())


def _stages(
    worlds: Enumeration, params: Any, noise: Any, which: Array, moves: Array, rewards: Array, order: Array
) -> Stage:
    """`_stage` of a batch."""
    return jax.vmap(_stage, in_axes=(None, 0, 0, 0, 0, 0, 0))(worlds, params, noise, which, moves, rewards, order)


def _stage(
    worlds: Enumeration, params: Any, noise: Any, which: Array, moves: Array, rewards: Array, order: Array
) -> Stage:
    """A chain of steps `moves [k, 2, n]`: by how much each agent follows its gradient of the moment, and the noise.

    The stage begins after `WARM` of them.
    """
    from teamtr_jax.llm.enumeration import differentiable_policy

    world: Enumeration = jax.tree.map(lambda x: x[which], worlds)
    table = rewards[world.team.reward.astype(int)]
    last = Tree(2, HORIZON).level(HORIZON - 1)
    world = replace(world, team=replace(world.team, reward=jnp.zeros_like(table).at[last].set(table[last])))

    def value(params: Any) -> tuple[Array, Array]:
        policy = differentiable_policy(world, params)
        return objective(world.team, policy), policy

    def step(params: Any, by: Array) -> tuple[Any, Array]:
        grad, policy = jax.grad(value, has_aux=True)(params)

        def moved(x: Array, g: Array, z: Array) -> Array:
            shape = (-1, *(1 for _ in x.shape[1:]))
            return (x + g * by[0].reshape(shape) + z * by[1].reshape(shape)).astype(x.dtype)

        return jax.tree.map(moved, params, grad, noise), policy

    _, policies = lax.scan(step, params, moves)
    return Stage(world.team, policies[WARM], policies[-1], order)


def make(rng: np.random.Generator, batch: int = BATCH) -> Stage:
    """`batch` stages of the four teams: the first agent perturbed, a fresh team updated, a trained one updated."""
    order = np.stack([rng.permutation(AGENTS) for _ in range(batch)])
    rewards = rng.random((batch, 2**HORIZON))
    rewards = np.where(rng.random((batch, 1)) < 0.5, rewards, rewards < 0.4).astype(float)
    which, kind = (rng.integers(k, size=batch) for k in (len(layouts()), 3))
    rate = 10.0 ** rng.uniform(-3, 1, batch)
    moves = np.zeros((batch, WARM + AGENTS + 1, 2, AGENTS))  # the last moves nothing: it reads the policy
    moves[kind == 2, :WARM, 0] = 4.0
    for k in range(AGENTS):
        moves[np.arange(batch), WARM + k, 0, order[:, k]] = np.where(kind > 0, rate, 0.0)
    moves[np.arange(batch), WARM, 1, order[:, 0]] = np.where(kind == 0, 0.3 * rate, 0.0)
    drawn = (noise(rng, batch, start) for start in (True, False))
    return programs.run(
        _stages, worlds(), *drawn, which, moves, rewards, order
    )  # training is float32: others would come out


def _divergences(current: Array, new: Array) -> tuple[Array, Array]:
    tree = Tree(2, HORIZON)
    return (
        jax.vmap(partial(message_kl_current_to_new, tree))(current, new),
        jax.vmap(partial(token_kl_current_to_new, tree))(current, new),
    )


def message_chain_rule(rng: np.random.Generator, instances: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P3.2 on networks: message KL by summing over transcripts, and expected sum of token KLs; [instances] each."""
    found = []
    for _ in range(-(-instances // BATCH)):
        stages = make(rng)
        found.append(np.stack(programs.run(_divergences, stages.current, stages.target, quick=True)))
    message, tokens = np.concatenate(found, 1)[:, :instances]
    return message, tokens


def _agreement(tokens: NDArray[np.int32], team: LanguageTeam) -> NDArray[np.float64]:
    """1 if the last message begins as the first one ended: somebody has to remember."""
    layout = team.layout
    return (tokens[:, layout.start(0) + 1] == tokens[:, layout.start(layout.turns - 1) + 1]).astype(float)


PRESETS = {"V = 4, T = 8, END": "PRESET_4_8_END", "V = 4, T = 8": "PRESET_4_8", "V = 2, T = 16": "PRESET_2_16"}
"""By their names in `teamtr_jax.llm.enumeration`."""


def preset_stage(name: str, rate: float = 0.4, warm: int = 1) -> Stage:
    """A stage of policy-gradient updates, each on the exact gradient of the team as it stands, after `warm` stages like it."""
    from teamtr_jax.llm import enumeration
    from teamtr_jax.llm.model import agent_params, init_team, with_agent_params

    team: LanguageTeam = getattr(enumeration, PRESETS[name])
    world = enumeration.enumerate_world(team, ["?"], lambda tokens: _agreement(tokens, team))
    params = init_team(team, jax.random.key(0))
    policy = before = enumeration.enumerated_policy(world, params)
    for _ in range(warm + 1):
        before = policy
        for agent in range(team.agents):
            _, grad = enumeration.policy_gradient(world, params, agent, policy)
            own = jax.tree.map(lambda x, g: x + rate * g, agent_params(team, params, agent), grad)
            params = with_agent_params(team, params, agent, own)
            policy = enumeration.updated_policy(world, params, policy, agent)
    return Stage(world.team, before, policy, jnp.arange(team.agents))
