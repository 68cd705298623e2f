"""U3 in networks: Stage-0 alignment of a newcomer to the agent that it replaces, on probe contexts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from teamtr_jax.checkpoint import describe, same_leaves
from teamtr_jax.llm.checked import FLOAT32, SEEDS, real, whole
from teamtr_jax.llm.description import vocabulary_difference
from teamtr_jax.llm.language_model import LanguageModel, joined, split_trained
from teamtr_jax.llm.layout import Layout, Transcripts, Vocabulary, by_turn
from teamtr_jax.llm.losses import own_tokens
from teamtr_jax.llm.model import (
    LanguageTeam,
    ModelConfig,
    Params,
    agent_params,
    init_params,
    language_model,
    policy_logits,
)
from teamtr_jax.llm.update_settings import MOST_EPOCHS
from teamtr_jax.trust_region.alignment import align_to_ball
from teamtr_jax.trust_region.constrained import require_direction
from teamtr_jax.validation import InputError, whole_number

__all__ = ["PROBES", "check_newcomer", "own_log_probs", "own_positions", "log_kl", "AlignmentSettings", "Distances",
           "AlignmentInfo", "align", "targets"]  # fmt: skip

PROBES = 500
"""Probe conversations of the paper (Figure 6)."""


def check_newcomer(
    team: LanguageTeam,
    agent: int,
    config: ModelConfig | LanguageModel,
    own_params: Params,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Refuse a newcomer that does not read and write the ids of this team, or whose parameters are not those of `config`.

    Raises:
      InputError: names what differs: the agent, characters, END, header ids, the rows of the embedding, or a leaf; an agent that
        shares its parameters: its sharers would be replaced with it.
    """
    own = team.layout.vocabulary
    whole_number("agent", agent, 0, team.agents - 1)
    if others := [k for k in team.who.moved(agent) if k != agent]:
        found = f"{agent}, which shares its parameters with {', '.join(map(str, others))}"
        raise InputError("agent", found, "an agent with parameters of its own")
    if vocabulary is not None and (differs := vocabulary_difference(vocabulary, own)):
        raise InputError("vocabulary of the newcomer", *differs)
    table = own_params.get("embedding") if isinstance(own_params, dict) and isinstance(config, ModelConfig) else None
    if getattr(table, "ndim", 0) == 2 and table.shape[0] != own.size:  # pyright: ignore[reportOptionalMemberAccess]
        found = f"{table.shape[0]} ids"  # pyright: ignore[reportOptionalMemberAccess]
        raise InputError("embedding of the newcomer", found, f"{own.size}, the size of the team's vocabulary")
    expected = jax.eval_shape(partial(init_params, config, team.layout), jax.random.key(0))
    same_leaves(describe(own_params), describe(expected), "parameters of the newcomer")


@partial(jax.jit, static_argnums=(0, 1))
def _logits(config: ModelConfig | LanguageModel, layout: Layout, params: Params, tokens: Array) -> Array:
    """``[B, turns, L, A]``: logits of what is written at each message position."""
    return by_turn(layout, jnp.roll(policy_logits(config, layout, params, tokens), 1, axis=1))


def own_log_probs(
    config: ModelConfig | LanguageModel, layout: Layout, params: Params, tokens: ArrayLike
) -> NDArray[np.float64]:
    """``[B, turns, L, A]``: the policy at every message position, `log π(·|context)` in float64, whoever wrote there."""
    return log_softmax(np.asarray(_logits(config, layout, params, jnp.asarray(tokens)), np.float64), axis=-1)


def own_positions(layout: Layout, probes: Transcripts, agent: int) -> NDArray[np.bool_]:
    """``[B, turns, L]``: the message positions that `agent` wrote.

    Raises:
      InputError: if there is none.
    """
    own = np.asarray(own_tokens(layout, probes.tokens, probes.speaker, agent))
    if not own.any():
        raise InputError("probes", f"no message of agent {agent}", "conversations in which it speaks")
    return own


def log_kl(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """`KL(p‖q)` in the last axis."""
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


@dataclass(frozen=True)
class AlignmentSettings:
    """How close, in which direction, and how long."""

    radius: float = 0.05  #: `δ`, nats of a conversation
    direction: str = (
        "current_to_new"  #: which KL is bounded: KL(outgoing‖aligned), or with ``"new_to_current"`` the other one
    )
    margin: float = 0.5  #: targets are in the ball of radius `margin·δ`: a network misses them by something
    epochs: int = 100  #: most passes over the probes
    batch: int = 50  #: conversations of a step
    learning_rate: float = 3e-3  #: of Adam
    held_out: float = 0.2  #: share of the probes that only measure

    def __post_init__(self) -> None:
        require_direction(self.direction)
        real(self, "radius", "learning_rate", **FLOAT32)
        real(self, "margin", high=1.0, above=0.0)
        whole(self, 0, "epochs", high=MOST_EPOCHS)
        whole(self, 1, "batch")
        real(self, "held_out", above=0.0, below=1.0)


class Distances(NamedTuple):
    """KL between the outgoing agent and another policy, on the probes: nats of a conversation, in both directions."""

    kl: float  #: KL(outgoing‖·), probes that train
    kl_new_to_current: float  #: KL(·‖outgoing), probes that train
    held_out_kl: float
    held_out_kl_new_to_current: float


class AlignmentInfo(NamedTuple):
    """What alignment did."""

    before: Distances  #: of the newcomer as it came
    target: Distances  #: of the projection, which the network was taught
    after: Distances  #: of the network that is returned
    mixture: float  #: `t`, weight of the outgoing agent in the targets; 0 if the newcomer was close enough
    inside: bool  #: whether the KL in the direction of the settings is at most the radius, on both parts of the probes
    steps: int  #: of the optimiser
    epochs: int
    history: tuple[float, ...]  #: that KL after each epoch, on the part where it is greater
    conversations: tuple[int, int]  #: probes that train, held-out ones
    contexts: int  #: token contexts of the agent in the probes that train


def align(
    team: LanguageTeam,
    params: Params,
    agent: int,
    config: ModelConfig | LanguageModel,
    own_params: Params,
    probes: Transcripts,
    settings: AlignmentSettings = AlignmentSettings(),
    *,
    seed: int = 0,
) -> tuple[Params, AlignmentInfo]:
    """Bring a newcomer near the agent that it is to replace; then `replace_agent`.

    The targets are the projection of U3: the policy nearest to the newcomer in a KL ball around the outgoing agent, over the
    contexts in which that agent wrote (`align_to_ball`, one `t` for all). The network learns them by the Lagrangian of the same
    problem, which up to a constant is ``"current_to_new"`` `Σ KL(target‖network)` (arithmetic mixture), ``"new_to_current"``
    `Σ KL(network‖target)` (geometric mixture), over the whole vocabulary. It starts from the newcomer and ends as soon as it is
    inside the ball on the probes that train and on those held out: no closer to the outgoing agent than it has to be. If it never
    is inside, the parameters that came closest come back, and `inside` says so. Because the probes chose the end, the KL on new
    conversations may be above the radius: `replacement.sampled_swap` measures it.

    Args:
      config, own_params: the newcomer.
      probes: conversations of the team with the outgoing agent (`sample`), prompts in random order; the last ones are held out.
      seed: of the order of the probes in training.

    Raises:
      InputError: a newcomer that does not fit (`check_newcomer`), or probes in which the agent does not speak.
      ArithmeticError: a KL that is not a number: the learning rate is too large.
    """
    layout = team.layout
    whole_number("seed", seed, 0, SEEDS)
    check_newcomer(team, agent, config, own_params)
    own = own_positions(layout, probes, agent)
    rows = len(own)
    held = max(1, round(settings.held_out * rows))
    if rows - held < 1:
        raise InputError("probes", f"{rows} conversations", "at least 2")
    train, test = slice(0, rows - held), slice(rows - held, rows)
    if not (own[train].any() and own[test].any()):
        raise InputError("probes", f"agent {agent} silent in the held-out or in the other ones", "more conversations")
    out = own_log_probs(team.models[agent], layout, agent_params(team, params, agent), probes.tokens)
    new = own_log_probs(config, layout, own_params, probes.tokens)
    weight = np.where(own, 1.0 / (rows - held), 0.0)
    weight[test] = 0.0
    target, mixture = targets(out, new, weight, settings.margin * settings.radius, settings.direction)

    def distances(log_probs: NDArray[np.float64]) -> Distances:
        return _distances(own, out, log_probs, held)

    def measured(found: Distances) -> float:
        return max(found[0::2] if settings.direction == "current_to_new" else found[1::2])

    before = distances(new)
    if np.isnan(before).any():
        raise ArithmeticError(f"alignment of agent {agent}: the KL to the newcomer is not a number: {before}")
    batch = min(settings.batch, rows - held)
    shape = _Shape(config, layout, settings.direction, held, batch, settings.epochs)
    floats = (jnp.asarray(x, jnp.float32) for x in (target, out))
    lessons = _Lessons(jnp.asarray(probes.tokens), jnp.asarray(own), *floats)
    numbers = (jnp.asarray(x, jnp.float32) for x in (measured(before), settings.radius, settings.learning_rate))
    aligned, epochs, history = _distil(shape, own_params, lessons, jax.random.key(seed), *numbers)
    epochs, history = int(epochs), np.asarray(history, float)[: int(epochs)]
    if (bad := np.flatnonzero(~np.isfinite(history))).size:
        raise ArithmeticError(f"alignment of agent {agent}: its KL is not a number after epoch {bad[0] + 1}")
    after = distances(own_log_probs(config, layout, aligned, probes.tokens))
    return aligned, AlignmentInfo(
        before=before,
        target=distances(target),
        after=after,
        mixture=mixture,
        inside=measured(after) <= settings.radius,
        steps=epochs * ((rows - held) // batch),
        epochs=epochs,
        history=tuple(history.tolist()),
        conversations=(rows - held, held),
        contexts=int(own[train].sum()),
    )


def _distances(own: NDArray[np.bool_], out: NDArray[np.float64], new: NDArray[np.float64], held: int) -> Distances:
    found = []
    for part in (slice(0, -held), slice(-held, None)):
        for p, q in ((out, new), (new, out)):
            found.append(float(np.where(own[part], log_kl(p[part], q[part]), 0.0).sum() / len(own[part])))
    return Distances(*found)


INSIDE = 1 - 1e-4
"""Training ends at so much of the radius, so that rounding in float32 does not count."""

_project = jax.jit(align_to_ball, static_argnames="direction")


def targets(
    out: NDArray[np.float64], new: NDArray[np.float64], weight: NDArray[np.float64], radius: float, direction: str
) -> tuple[NDArray[np.float64], float]:
    """The projection at every message position as log-probabilities, and its `t`; float64 whatever the setting of jax.

    Args:
      out, new: ``[…, A]`` log-probabilities.
      weight: ``[…]``: how often each context is met in a conversation.
    """
    actions = out.shape[-1]
    with jax.enable_x64(True):
        aligned, info = _project(
            jnp.asarray(np.exp(out).reshape(-1, actions)), jnp.asarray(np.exp(new).reshape(-1, actions)),
            jnp.asarray(weight.ravel()), jnp.asarray(radius, float), direction=direction,
        )  # fmt: skip
        log_probs = np.log(np.maximum(np.asarray(aligned), np.finfo(float).tiny)).reshape(out.shape)
        return log_probs, float(info.mixture[0])


class _Shape(NamedTuple):
    """What the training of a newcomer is compiled for."""

    config: ModelConfig | LanguageModel
    layout: Layout
    direction: str
    held: int  #: rows, the last ones, that only measure
    batch: int
    most: int  #: epochs


class _Lessons(NamedTuple):
    """Probes, and what a newcomer is to say there."""

    tokens: Array  #: [B, N]
    own: Array  #: [B, turns, L]
    target: Array  #: [B, turns, L, A] log-probabilities
    out: Array  #: of the outgoing agent


class _Learning(NamedTuple):
    """A newcomer that learns."""

    epochs: Array
    flat: Array  #: its trained numbers
    memory: Any  #: of Adam
    best: Array  #: the numbers of the least KL so far
    least: Array
    history: Array


class _Distilled(NamedTuple):
    """A newcomer that has learned."""

    params: Params
    epochs: Array
    history: Array  #: KL after each epoch, the greater of both parts


@partial(jax.jit, static_argnums=0)
def _distil(
    shape: _Shape, newcomer: Params, lessons: _Lessons, key: Array, kl: Array, radius: Array, rate: Array
) -> _Distilled:
    """One program for all radii and rates; `kl` is what the newcomer has. All trained numbers are one vector."""
    (config, layout, direction, held, batch, most), (tokens, own, target, out) = shape, lessons
    forward = direction == "current_to_new"
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    training = len(tokens) - held
    trained, frozen = split_trained(newcomer, language_model(config, layout).trained(newcomer))
    start, unflat = ravel_pytree(trained)

    def params_of(flat: Array) -> Params:
        return joined(unflat(flat), frozen)

    def spent(flat: Array, other: Array, rows: Array | slice) -> Array:
        """Nats of each conversation."""
        net = jax.nn.log_softmax(_logits(config, layout, params_of(flat), tokens[rows]))
        p, q = (other[rows], net) if forward else (net, other[rows])
        return jnp.where(own[rows][..., None], jnp.exp(p) * (p - q), 0.0).sum((1, 2, 3))

    def loss(flat: Array, rows: Array) -> Array:
        return spent(flat, target, rows).mean()

    def step(state: Any, rows: Array) -> Any:
        flat, memory = state
        change, memory = adam.update(jax.grad(loss)(flat, rows), memory)
        return (optax.apply_updates(flat, jax.tree.map(lambda x: -rate * x, change)), memory), None

    def epoch(state: _Learning) -> _Learning:
        k, flat, memory, best, least, history = state
        order = jax.random.permutation(jax.random.fold_in(key, k), training)
        order = order[: training // batch * batch].reshape(-1, batch)
        (flat, memory), _ = lax.scan(step, (flat, memory), order)
        each = spent(flat, out, slice(None))
        now = jnp.maximum(each[:training].mean(), each[training:].mean())
        best = jnp.where(now < least, flat, best)
        return _Learning(k + 1, flat, memory, best, jnp.minimum(now, least), history.at[k].set(now))

    state = _Learning(jnp.zeros((), jnp.int32), start, adam.init(start), start, kl, jnp.zeros(most, kl.dtype))
    end = lax.while_loop(lambda s: (s.epochs < most) & (s.least > INSIDE * radius), epoch, state)
    return _Distilled(params_of(end.best), end.epochs, end.history)
