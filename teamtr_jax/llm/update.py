"""One agent's update on the rollouts in use: Algorithm 1 without the sampling, one compiled program.

`improve` knows no architecture and no vocabulary (`given.Policy`): it reads the rollouts with the agent as it is, takes
optimiser steps on minibatches until the monitor leaves the region (`ascend`), goes back along the step until it is inside
(`go_back`), adapts β, and measures what came of it (`diagnose`). `update_agent` is its program for a team that writes a `Layout`.
Rates, radii and the agent's index are arguments of the program, so that a run compiles it once for each size of network.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.ascend import ascend, optimiser_of
from teamtr_jax.llm.devices import everywhere, in_chunks, mesh_for, on_all, onto_first
from teamtr_jax.llm.diagnose import diagnose
from teamtr_jax.llm.given import Given, Rows, layout_policy
from teamtr_jax.llm.go_back import go_back
from teamtr_jax.llm.language_model import LanguageModel, Params, joined, split_trained
from teamtr_jax.llm.layout import Layout, by_turn
from teamtr_jax.llm.losses import own_tokens
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, language_model
from teamtr_jax.llm.token_statistics import token_log_probs_of
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings, UpdateSettings, parts
from teamtr_jax.trust_region.adaptive import adapted
from teamtr_jax.validation import concrete, integers, permutation, whole_number

__all__ = ["TrainState", "UpdateData", "Lesson", "Outcome", "Improved", "improve", "init_train_state", "update_agent", "score",
           "programs"]  # fmt: skip


class TrainState(NamedTuple):
    """What training changes. A pytree of arrays: leading axis of sets of parameters if networks are alike, tuples otherwise."""

    params: Params  #: of a text team the trained leaves alone
    optimiser: Any  #: of the trained leaves: of a `Layout`'s team as one vector
    beta: Float[Array, " sets"]  #: coefficient of the penalty of each set of parameters


class UpdateData(NamedTuple):
    """Rollouts as an update sees them, R rows; the first are trained on, those after them are only scored."""

    tokens: Int[Array, "R N"]
    speaker: Int[Array, "R turns"]
    advantage: Float[Array, " R"]  #: what the update uses
    centred: Float[Array, " R"]  #: unbiased
    weight: Float[Array, " R"]  #: importance weight of the transcript
    counts: Float[Array, " R"]  #: 1, or 0 for a rollout that is left out of the loss


class Lesson(NamedTuple):
    """What an update is told of each rollout, ``[R]``."""

    advantage: Array  #: what the update uses
    centred: Array  #: unbiased
    weight: Array  #: importance weight of the transcript
    counts: Array  #: 1, or 0 for a rollout that is left out of the loss


class Outcome(NamedTuple):
    """What an update did."""

    numbers: dict[str, Float[Array, ""]]
    own: Bool[Array, "R turns L"]
    """The tokens, in the rows that were measured, of the agents that moved. What follows is zero elsewhere."""
    log_ratio: Float[Array, "R turns L"]  #: `log π'/π` at these tokens
    kl: Float[Array, "R turns L"]
    current: Float[Array, "R turns L"]  #: `log π`
    start: Float[Array, ""]  #: `Ascent.start`


def init_train_state(team: LanguageTeam, params: Params, settings: UpdateSettings) -> TrainState:
    """The state at the start of training."""
    start = optimiser_of(parts(settings)[1]).init
    beta = jnp.full(team.who.sets, settings.beta, jnp.float32)

    def moments(which: int, own: Params) -> Any:
        return start(layout_policy(team.networks[which], team.layout, own).start)

    if team.alike:
        return TrainState(params, jax.vmap(partial(moments, 0))(params), beta)
    return TrainState(params, tuple(moments(k, own) for k, own in enumerate(params)), beta)


# ------------------------------------------------------------------------------------------------------------------ programs


class _Program(NamedTuple):
    """What every program is compiled for."""

    config: ModelConfig | LanguageModel
    layout: Layout
    stacked: bool  #: parameters have a leading axis of sets
    mesh: Mesh | None

    def own(self, tree: Any, place: Array) -> Any:
        """The part of parameters or moments that the agent plays with."""
        return jax.tree.map(lambda x: x[place], tree) if self.stacked else tree

    def split(self, params: Params) -> tuple[Params, Params]:
        """Trained and frozen leaves, of one set of parameters or a stack of them."""
        return split_trained(params, language_model(self.config, self.layout).trained(params))


class _Who(NamedTuple):
    """Whom an update is about."""

    place: Any  #: number of the parameters
    moved: Any  #: [n], who plays with them
    credited: Any  #: [n], whose messages the surrogate is made of


@partial(jax.jit, static_argnums=(0, 1))
def _score(program: _Program, micro: int, params: Params, place: Array, tokens: Array) -> Array:
    layout, mesh = program.layout, program.mesh

    def all_of(params: Params, place: Array, tokens: Array) -> Array:
        policy = layout_policy(program.config, layout, program.own(params, place))
        leaves = policy.leaves(policy.start)
        head = policy.head(leaves)

        def chunk(tokens: Array) -> Array:
            features, written = policy.features(leaves, tokens), by_turn(layout, tokens)
            return token_log_probs_of(features, head, written, temperature=policy.temperature)

        return in_chunks(chunk, micro, mesh, tokens)

    return on_all(mesh, all_of, params, place, tokens)


def score(
    team: LanguageTeam, params: Params, agent: int, tokens: Int[Array, "R N"], micro_batch: int = 16
) -> Float[Array, "R turns L"]:
    """Log-probability under `agent` of what stands at every message position, whoever wrote it; meaningless at PAD."""
    whole_number("agent", agent, 0, team.agents - 1)
    place = team.place(agent)
    own = params if team.alike else params[place]
    mesh = mesh_for(micro_batch, own, tokens)
    arguments = everywhere(mesh, (own, np.int32(place), tokens))
    program = _Program(team.models[agent], team.layout, team.alike, mesh)
    return onto_first(mesh, _score(program, micro_batch, *arguments))


class Improved(NamedTuple):
    """What an update makes of a policy."""

    trained: Any  #: as `Policy.start`
    moments: Any
    beta: Float[Array, ""]
    outcome: Outcome


def improve(given: Given, rows: Rows, moments: Any, order: Int[Array, "epochs training"]) -> Improved:
    """Ascend, go back, adapt β, diagnose. Within a compiled program.

    Args:
      rows: those that are trained on first.
      moments: of the optimiser, as for `Policy.start`.
      order: the order in which each epoch visits them.
    """
    ascent, current = ascend(given, rows, moments, order)

    shape, training = rows.own.shape, order.shape[1]
    some = math.ceil(given.compiled.measured * training)
    measured = np.concatenate([np.arange(some) * training // some, np.arange(training, shape[0])])
    if some < training:
        rows, current = rows.take(measured), current._replace(features=current.features[measured])
    kept = go_back(given, rows, current, some, ascent.trained)

    beta = jnp.where(kept.heard, _adapted(given, kept.reached, ascent.taken), given.beta)
    moved, entropy = jax.tree.map(lambda x: x[:some], (kept.moved, kept.entropy))
    found = diagnose(given, rows.take(slice(0, some)), moved, entropy) | {
        "monitor_reached": kept.reached,
        "multiplier": given.beta,
        "memory": beta,
        "step_scale": kept.scale,
        "stopped_early": (~ascent.going).astype(jnp.float32),
        "steps": ascent.taken.astype(jnp.float32),
        "grad_norm": ascent.norms / jnp.maximum(ascent.taken, 1),
    }
    # Of a step that is not a number the moments are forgotten.
    moments = jax.tree.map(lambda x, y: jnp.where(kept.sound, x, y), ascent.moments, moments)
    own, log_ratio, kl, current = (
        jnp.zeros(shape, x.dtype).at[measured].set(x) for x in (rows.own, *kept.moved, kept.current)
    )
    return Improved(kept.trained, moments, beta, Outcome(found, own, log_ratio, kl, current, ascent.start))


def _adapted(given: Given, reached: Array, taken: Array) -> Array:
    """`β` of the next update of these parameters."""
    following = adapted(given.beta, reached, given.traced.aim, taken, given.traced.beta)
    return jnp.where(jnp.asarray(given.traced.adaptive), following, given.beta).astype(given.beta.dtype)


class _Changed(NamedTuple):
    """What an update has changed: of all sets of parameters where they are stacked."""

    trained: Params  #: the leaves that it may change
    moments: Any
    beta: Array  #: of all sets of parameters
    outcome: Outcome


@partial(jax.jit, static_argnums=(0, 1))
def _update(program: _Program, compiled: CompiledSettings, *arguments: Any) -> _Changed:
    return on_all(program.mesh, partial(_one_update, program, compiled), *arguments)


def _one_update(
    program: _Program,
    compiled: CompiledSettings,
    state: TrainState,
    who: _Who,
    data: UpdateData,
    traced: TracedSettings,
    order: Array,
) -> _Changed:
    """`improve` one agent. Where agents are not alike `state` holds parameters and moments of this one only."""
    place = who.place
    policy = layout_policy(program.config, program.layout, program.own(state.params, place))
    moments = program.own(state.optimiser, place)
    given = Given(policy, compiled, traced, state.beta[place], program.mesh)
    written = by_turn(program.layout, data.tokens)
    own, credited = (own_tokens(program.layout, data.tokens, data.speaker, some) for some in (who.moved, who.credited))
    rows = Rows(data.tokens, written, own, credited, data.advantage, data.centred, data.weight, data.counts)
    new = improve(given, rows, moments, order)
    trained, moments = policy.leaves(new.trained), new.moments
    if program.stacked:
        whole = program.split(state.params)[0], state.optimiser
        trained, moments = jax.tree.map(lambda x, y: x.at[place].set(y), whole, (trained, moments))
    return _Changed(trained, moments, state.beta.at[place].set(new.beta), new.outcome)


def update_agent(
    team: LanguageTeam,
    settings: UpdateSettings,
    state: TrainState,
    agent: int,
    data: UpdateData,
    order: Int[Array, "epochs training"],
) -> tuple[TrainState, Outcome]:
    """Algorithm 1's update of one agent; parameters, moments and β that others play with are the same, bit for bit.

    It ascends the mean over minibatches of `Σ ω [min(ρA, clip(ρ)A) − A] − β Σ ω KL`, ρ the ratio to the agent as it was before
    this update, ω by `settings.average`. Of sharers (`team.sharing`) all move: the KL, in the penalty, the monitor and the
    certificates, is that of the messages of all of them. The surrogate that is ascended is made of the agent's own messages, or
    of a joint update of those of all sharers.

    Args:
      order: the order in which each epoch visits the rows that are trained on, which are the first ones.

    Raises:
      InputError: no such agent, or an order that is none of the rows.
    """
    whole_number("agent", agent, 0, team.agents - 1)
    if (visits := concrete(order)) is not None:
        for rows in integers("order", visits, 0, data.tokens.shape[0]):
            permutation("order", rows, len(rows))
    compiled, traced = parts(settings)
    mesh = mesh_for(settings.micro_batch, state, data)
    place, agents = team.place(agent), np.arange(team.agents)
    own = state if team.alike else TrainState(state.params[place], state.optimiser[place], state.beta)
    moved, credited = (np.isin(agents, some(agent)) for some in (team.who.moved, team.who.credited))
    arguments = everywhere(mesh, (own, _Who(np.int32(place), moved, credited), data, traced, order))
    program = _Program(team.models[agent], team.layout, team.alike, mesh)
    changed = onto_first(mesh, _update(program, compiled, *arguments))
    params, moments = joined(changed.trained, program.split(own.params)[1]), changed.moments
    if not team.alike:
        params = (*state.params[:place], params, *state.params[place + 1 :])
        moments = (*state.optimiser[:place], moments, *state.optimiser[place + 1 :])
    return TrainState(params, moments, changed.beta), changed.outcome


def programs() -> dict[str, int]:
    """How many programs have been compiled for updates and for scoring, in this process."""
    compiled: dict[str, Any] = {"update": _update, "score": _score}
    return {name: program._cache_size() for name, program in compiled.items()}
