"""One agent's update on the rollouts in use: Algorithm 1 without the sampling, one compiled program.

The program scores the rollouts with the agent as it is, takes optimiser steps on minibatches until the monitor leaves the
region, goes back along the step until it is inside, and measures what came of it. Rates, radii and the agent's index are
arguments of the program, so that a run compiles it once for each size of network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.devices import everybodys, everywhere, mesh_for, mine_of, on_all, onto_first
from teamtr_jax.llm.layout import Layout, by_turn
from teamtr_jax.llm.losses import (
    Divergence,
    clipped_surrogate,
    divergence,
    entropy,
    k1,
    k3,
    message_log_probs,
    own_tokens,
    per_message,
    ratio_of,
    token_log_probs,
    unit_weights,
)
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Params, is_trained, policy_logits
from teamtr_jax.llm.update_settings import Numbers, Shape, UpdateSettings, parts
from teamtr_jax.trust_region.adaptive import adapted
from teamtr_jax.validation import concrete, integers, permutation, whole_number

__all__ = ["TrainState", "UpdateData", "Outcome", "init_train_state", "update_agent", "score", "programs",
           "split_trained"]  # fmt: skip


class TrainState(NamedTuple):
    """What training changes. A pytree of arrays: leading axis of agents if networks are alike, tuples otherwise."""

    params: Params
    optimiser: Any  #: of the trained leaves, as one vector
    beta: Float[Array, " n"]  #: coefficient of each agent's penalty


class UpdateData(NamedTuple):
    """Rollouts as an update sees them, R rows; the first are trained on, those after them are only scored."""

    tokens: Int[Array, "R N"]
    speaker: Int[Array, "R turns"]
    advantage: Float[Array, " R"]  #: what the update uses
    centred: Float[Array, " R"]  #: unbiased
    weight: Float[Array, " R"]  #: importance weight of the transcript
    counts: Float[Array, " R"]  #: 1, or 0 for a rollout that is left out of the loss


class Outcome(NamedTuple):
    """What an update did."""

    numbers: dict[str, Float[Array, ""]]
    own: Bool[
        Array, "R turns L"
    ]  #: the agent's tokens in the rows that were measured; elsewhere the following are zero
    log_ratio: Float[Array, "R turns L"]  #: `log π'/π` at the agent's tokens, zero elsewhere
    kl: Float[Array, "R turns L"]


def split_trained(params: Params) -> tuple[list[Array], Callable[[list[Array]], Params]]:
    """The leaves that an update may change, and what puts changed ones back among the others, which stay the same arrays."""
    leaves, structure = jax.tree.flatten(params)
    trained = jax.tree.leaves(is_trained(params))

    def merge(new: list[Array]) -> Params:
        following = iter(new)
        return jax.tree.unflatten(
            structure, [next(following) if t else x for x, t in zip(leaves, trained, strict=True)]
        )

    return [x for x, t in zip(leaves, trained, strict=True) if t], merge


def _flat(trained: list[Array]) -> Array:
    """All numbers in one vector: the optimiser compiles in a fraction of the time."""
    return ravel_pytree(trained)[0]


def _optimiser(numbers: Numbers) -> optax.GradientTransformation:
    b1, b2 = numbers.moments
    return optax.chain(
        optax.clip_by_global_norm(numbers.max_grad_norm),
        optax.adamw(numbers.learning_rate, b1, b2, weight_decay=numbers.weight_decay),
    )


def init_train_state(team: LanguageTeam, params: Params, settings: UpdateSettings) -> TrainState:
    """The state at the start of training."""
    start = _optimiser(parts(settings)[1]).init
    beta = jnp.full(team.agents, settings.beta, jnp.float32)
    if team.alike:
        vectors = jax.vmap(_flat)(split_trained(params)[0])
        return TrainState(params, jax.vmap(start)(vectors), beta)
    return TrainState(params, tuple(start(_flat(split_trained(own)[0])) for own in params), beta)


# ------------------------------------------------------------------------------------------------------------------ programs


def _in_chunks(f: Callable[..., Any], micro: int, mesh: Mesh | None, *rows: Array) -> Any:
    """`f` on `micro` rows at a time, one after the other; results as if on all."""
    size = rows[0].shape[0]
    chunks = -(-size // micro)

    def cut(x: Array) -> Array:
        filled = jnp.concatenate([x, jnp.broadcast_to(x[:1], (chunks * micro - size, *x.shape[1:]))])
        return filled.reshape(chunks, micro, *x.shape[1:])

    out = everybodys(mesh, lax.map(lambda chunk: f(*chunk), mine_of(mesh, tuple(cut(x) for x in rows))))
    return jax.tree.map(lambda x: x.reshape(chunks * micro, *x.shape[2:])[:size], out)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _score(
    config: ModelConfig,
    layout: Layout,
    micro: int,
    stacked: bool,
    mesh: Mesh | None,
    params: Params,
    agent: Array,
    tokens: Array,
) -> Array:
    def program(params: Params, agent: Array, tokens: Array) -> Array:
        own = jax.tree.map(lambda x: x[agent], params) if stacked else params

        def chunk(tokens: Array) -> Array:
            log_probs = message_log_probs(layout, policy_logits(config, layout, own, tokens))
            return token_log_probs(log_probs, by_turn(layout, tokens))

        return _in_chunks(chunk, micro, mesh, tokens)

    return on_all(mesh, program, params, agent, tokens)


def score(
    team: LanguageTeam, params: Params, agent: int, tokens: Int[Array, "R N"], micro_batch: int = 16
) -> Float[Array, "R turns L"]:
    """Log-probability under `agent` of what stands at every message position, whoever wrote it; meaningless at PAD."""
    whole_number("agent", agent, 0, team.agents - 1)
    own = params if team.alike else params[agent]
    mesh = mesh_for(micro_batch, own, tokens)
    given = everywhere(mesh, (own, np.int32(agent), tokens))
    return onto_first(mesh, _score(team.models[agent], team.layout, micro_batch, team.alike, mesh, *given))


class _Search(NamedTuple):
    """How far along the step: the scale that is tried, or was kept."""

    scale: Array
    done: Array
    tried: Array
    reached: Array  #: the monitor at the first scale
    best: Array
    chosen: Array
    moved: Divergence
    entropies: Array


def _masked_mean(x: Array, weight: Array) -> Array:
    return (weight * x).sum() / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _update(
    config: ModelConfig, layout: Layout, shape: Shape, stacked: bool, mesh: Mesh | None, *arguments: Any
) -> tuple[list[Array], Any, Array, Outcome]:
    return on_all(mesh, partial(_one_update, config, layout, shape, stacked, mesh), *arguments)


def _one_update(
    config: ModelConfig,
    layout: Layout,
    shape: Shape,
    stacked: bool,
    mesh: Mesh | None,
    params: Params,
    optimiser: Any,
    betas: Array,
    agent: Array,
    data: UpdateData,
    numbers: Numbers,
    order: Array,
) -> tuple[list[Array], Any, Array, Outcome]:
    def pick(x: Array) -> Array:
        return x[agent] if stacked else x

    own_params, moments = jax.tree.map(pick, params), jax.tree.map(pick, optimiser)
    leaves, merge = split_trained(own_params)
    start, unflat = ravel_pytree(leaves)
    transform = _optimiser(numbers)
    beta = betas[agent]
    micro, training = shape.micro_batch, order.shape[1]

    own = own_tokens(layout, data.tokens, data.speaker, agent)
    written = by_turn(layout, data.tokens)

    def log_probs_of(trained: list[Array], tokens: Array) -> Array:
        return message_log_probs(layout, policy_logits(config, layout, merge(trained), tokens))

    # ------------------------------------------------------------------------------------------ optimiser steps
    size = min(shape.minibatch, -(-training // micro) * micro)
    slots = -(-training // size)
    visits = jnp.pad(order, ((0, 0), (0, slots * size - training)))
    steps = order.shape[0] * slots
    # The first step sees the agent as it is. Where it is the only one, what it found need not be computed before it.
    known = training if steps == 1 else 0
    current = _in_chunks(lambda tokens: log_probs_of(leaves, tokens), micro, mesh, data.tokens[known:])
    current = jnp.concatenate([jnp.zeros((known, *current.shape[1:]), current.dtype), current])

    def monitored(moved: Divergence) -> Array:
        """The monitor's term of each token."""
        if shape.monitor == "exact":
            return moved.kl
        return k1(moved.log_ratio) if shape.monitor == "k1" else k3(moved.log_ratio)

    def penalised(moved: Divergence) -> Array:
        if shape.penalty == "exact":
            return moved.kl
        if shape.penalty == "k1":
            return k1(moved.log_ratio)
        return k3(moved.log_ratio) if shape.penalty == "k3" else k3(-moved.log_ratio)

    def loss(trained: list[Array], rows: tuple[Array, ...]) -> tuple[Array, tuple[tuple[Array, Array], Array]]:
        tokens, written, own, current, advantage, weight, unit = rows
        new = log_probs_of(trained, tokens)
        current = lax.stop_gradient(new) if known else current
        moved = divergence(current, new, written, own)
        log_ratio, kl = moved.log_ratio, penalised(moved)
        if shape.ratio == "message":
            log_ratio, kl = per_message(log_ratio), per_message(kl)
        lift = (-1,) + (1,) * (log_ratio.ndim - 1)
        gain = clipped_surrogate(log_ratio, advantage.reshape(lift), numbers.clip_low, numbers.clip_high)
        total = (unit * weight.reshape(lift) * (beta * kl - gain)).sum()
        messages = weight[:, None] * own.any(-1)
        sums = (weight[:, None] * per_message(monitored(moved))).sum(), messages.sum()
        return total, (sums, current if known else jnp.zeros((len(tokens), 0)))

    def minibatch(number: Array) -> tuple[Array, ...]:
        epoch, slot = number // slots, number % slots
        rows = lax.dynamic_slice(visits, (epoch, slot * size), (1, size))[0]
        real = (slot * size + jnp.arange(size) < training).astype(data.counts.dtype)
        counts = real * data.counts[rows]
        unit = unit_weights(own[rows], counts, shape.ratio, shape.average)
        seen = own[rows] & (real > 0)[:, None, None]
        taken = (data.tokens[rows], written[rows], seen, current[rows], data.advantage[rows], data.weight[rows], unit)
        return jax.tree.map(lambda x: x.reshape(size // micro, micro, *x.shape[1:]), taken)

    def accumulated(trained: Array, chunks: tuple[Array, ...]) -> tuple[Any, Array]:
        """Gradient, sum of the monitor and number of messages over a minibatch, and the policy's log-probabilities on it."""
        parameters = unflat(trained)

        def accumulate(total: Any, rows: tuple[Array, ...]) -> tuple[Any, Array]:
            gradient, (sums, found) = jax.grad(loss, has_aux=True)(parameters, rows)
            return jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, (gradient, *sums)), found

        zero = jnp.zeros((), data.weight.dtype)
        begin = (jax.tree.map(jnp.zeros_like, parameters), zero, zero)
        (gradient, *sums), found = lax.scan(accumulate, begin, mine_of(mesh, chunks))
        total = (_flat(gradient).astype(trained.dtype), *sums)
        return total if mesh is None else lax.psum(total, "rows"), everybodys(mesh, found)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        number, trained, moments, _, norms, current = state
        (gradient, moved, messages), found = accumulated(trained, minibatch(number))
        if known:
            current = current.at[order[0]].set(found.reshape(size, *current.shape[1:])[:training])
        norm = jnp.linalg.norm(gradient)
        seen = moved / jnp.maximum(messages, jnp.finfo(messages.dtype).tiny)
        go = jnp.isfinite(norm) & ~(jnp.asarray(numbers.early_stop) & ~(seen <= numbers.delta))
        change, following = transform.update(gradient, moments, trained)
        trained, moments = jax.tree.map(
            lambda x, y: jnp.where(go, y.astype(x.dtype), x), (trained, moments), (trained + change, following)
        )
        # The gradient of the agent as it is: where that is not a number nothing can be learned, and `grad_norm` shows it.
        counted = go | ((number == 0) & ~jnp.isfinite(norm))
        return number + go, trained, moments, go, norms + jnp.where(counted, norm, 0.0).astype(norms.dtype), current

    def unfinished(state: tuple[Any, ...]) -> Array:
        number, _, _, go, _, _ = state
        return go & (number < steps)

    begin = (jnp.int32(0), start, moments, jnp.asarray(True), jnp.zeros((), jnp.float32), current)
    taken, last, moments, going, norms, current = step(begin) if known else lax.while_loop(unfinished, step, begin)

    # -------------------------------------------------------------------------------------------- how far to go
    # From here on the rows that are measured are all there is.
    some = math.ceil(shape.measured * training)
    everything = own.shape
    looked_at = np.concatenate([np.arange(some) * training // some, np.arange(training, everything[0])])
    if some < training:
        data, own, written, current = jax.tree.map(lambda x: x[looked_at], (data, own, written, current))
        training = some

    def at(scale: Array) -> list[Array]:
        return unflat(jnp.where(scale > 0, start + scale.astype(start.dtype) * (last - start), start))

    def assess(scale: Array) -> tuple[Divergence, Array]:
        trained = at(scale)

        def chunk(tokens: Array, written: Array, own: Array, current: Array) -> tuple[Divergence, Array]:
            new = log_probs_of(trained, tokens)
            return divergence(current, new, written, own), jnp.where(own, entropy(new), 0.0)

        return _in_chunks(chunk, micro, mesh, data.tokens, written, own, current)

    mine = own[:training]
    weight = data.weight[:training, None]
    messages = weight * mine.any(-1)
    rows = training

    def per_rollout(x: Array) -> Array:
        """`Ê[w Σ_m x]`: the sum over the agent's messages, mean over rollouts."""
        return (messages * x).sum() / rows

    def monitor_of(moved: Divergence) -> Array:
        return _masked_mean(per_message(monitored(moved))[:training], messages)

    def linear(moved: Divergence, advantage: Array) -> Array:
        """`Ê[w Σ_m (ρ_m − 1)] A`."""
        return per_rollout((ratio_of(per_message(moved.log_ratio)[:training]) - 1) * advantage[:training, None])

    def certificate(moved: Divergence) -> Array:
        """S7: `L̂ − ϱK̂`."""
        return linear(moved, data.centred) - numbers.reward_range * per_rollout(per_message(moved.kl)[:training])

    one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    sound = jnp.isfinite(last).all()
    nothing = jnp.zeros(own.shape, current.dtype)
    intervals = shape.backtrack if shape.step_rule == "certificate" else 1

    def untried(search: _Search) -> Array:
        return ~search.done

    def try_(search: _Search) -> _Search:
        """Assess one scale, and say which is next or that this one is kept."""
        scale = search.scale
        moved, entropies = assess(scale)
        monitor = monitor_of(moved)
        first = search.tried == 0
        reached = jnp.where(first, monitor, search.reached).astype(one.dtype)
        best, chosen, tried = search.best, search.chosen, search.tried + 1
        if shape.step_rule == "certificate":
            # From 1 down the grid, then once more the best of it; 0 is worth 0.
            value = certificate(moved).astype(one.dtype)
            better = (value > best) & (tried <= intervals)
            best, chosen = jnp.where(better, value, best), jnp.where(better, scale, chosen)
            done = (tried > intervals) | ((tried == intervals) & (chosen == scale))
            following = jnp.where(tried < intervals, (intervals - tried) / intervals, chosen)
        elif shape.step_rule == "trust_region":
            done = (monitor <= numbers.delta) | (scale == 0)
            following = jnp.where(tried <= shape.backtrack, scale / 2, 0.0)
        else:
            done, following = jnp.isfinite(monitor) | (scale == 0), zero
        following = jnp.where(done, scale, jnp.where(sound, following, 0.0)).astype(one.dtype)
        return _Search(following, done, tried, reached, best, chosen, moved, entropies)

    begin = _Search(jnp.where(sound, one, zero), jnp.asarray(False), jnp.int32(0), zero, zero, zero,
                    Divergence(nothing, nothing), nothing)  # fmt: skip
    search = lax.while_loop(untried, try_, begin)
    scale, reached, moved, entropies = search.scale, search.reached, search.moved, search.entropies
    reached = jnp.where(sound & ~jnp.isnan(reached), reached, jnp.inf)
    # A step that is not a number is no step, whatever the rule; its moments are forgotten.
    moments = jax.tree.map(lambda x, y: jnp.where(sound, x, pick(y)), moments, optimiser)

    following = adapted(beta, reached, numbers.aim, taken, numbers.beta)
    memory = jnp.where(jnp.asarray(numbers.adaptive), following, beta).astype(betas.dtype)

    # ----------------------------------------------------------------------------------------------------- books
    kl, log_ratio = per_message(moved.kl)[:training], per_message(moved.log_ratio)[:training]
    third = per_message(k3(moved.log_ratio))[:training]
    unit = unit_weights(mine, data.counts[:training], shape.ratio, shape.average)
    lift = (-1,) + (1,) * (unit.ndim - 1)
    unit_ratio = log_ratio if shape.ratio == "message" else moved.log_ratio[:training]
    advantage = data.advantage[:training].reshape(lift)
    clipped = clipped_surrogate(unit_ratio, advantage, numbers.clip_low, numbers.clip_high)
    cut = jnp.where(
        advantage > 0, ratio_of(unit_ratio) > 1 + numbers.clip_high, ratio_of(unit_ratio) < 1 - numbers.clip_low
    )
    unit_mask = mine.any(-1) if shape.ratio == "message" else mine
    steps_taken = jnp.maximum(taken, 1)
    out = {
        "surrogate": (unit * data.weight[:training].reshape(lift) * clipped).sum(),
        "kl": per_rollout(kl),
        "gain": linear(moved, data.advantage),
        "surrogate_raw": linear(moved, data.centred),
        "certificate_estimable": certificate(moved),
        "kl_k1": per_rollout(k1(log_ratio)),
        "kl_k3": per_rollout(third),
        "message_kl": _masked_mean(kl, messages),
        "message_kl_k1": _masked_mean(k1(log_ratio), messages),
        "message_kl_k3": _masked_mean(third, messages),
        "monitor": monitor_of(moved),
        "monitor_reached": reached,
        "outside": _masked_mean((kl > numbers.delta).astype(kl.dtype), mine.any(-1).astype(kl.dtype)),
        "clipped": _masked_mean((cut & (advantage != 0)).astype(kl.dtype), unit_mask.astype(kl.dtype)),
        "entropy": _masked_mean(entropies[:training], mine.astype(entropies.dtype)),
        "multiplier": beta,
        "memory": memory,
        "step_scale": scale,
        "stopped_early": (~going).astype(jnp.float32),
        "steps": taken.astype(jnp.float32),
        "grad_norm": norms / steps_taken,
    }
    chosen = at(scale)
    if stacked:
        whole = split_trained(params)[0]
        chosen = [x.at[agent].set(y) for x, y in zip(whole, chosen, strict=True)]
        moments = jax.tree.map(lambda x, y: x.at[agent].set(y), optimiser, moments)
    tokens = [jnp.zeros(everything, x.dtype).at[looked_at].set(x) for x in (own, moved.log_ratio, moved.kl)]
    return chosen, moments, betas.at[agent].set(memory), Outcome(out, *tokens)


def update_agent(
    team: LanguageTeam,
    settings: UpdateSettings,
    state: TrainState,
    agent: int,
    data: UpdateData,
    order: Int[Array, "epochs training"],
) -> tuple[TrainState, Outcome]:
    """Algorithm 1's update of one agent; the parameters, moments and β of the others are the same, bit for bit.

    It ascends the mean over minibatches of `Σ ω [min(ρA, clip(ρ)A) − A − β KL]`, ρ the ratio to the agent as it was before this
    update, ω by `settings.average`.

    Args:
      order: the order in which each epoch visits the rows that are trained on, which are the first ones.

    Raises:
      InputError: no such agent, or an order that is none of the rows.
    """
    whole_number("agent", agent, 0, team.agents - 1)
    if (visits := concrete(order)) is not None:
        for rows in integers("order", visits, 0, data.tokens.shape[0]):
            permutation("order", rows, len(rows))
    shape, numbers = parts(settings)
    config, alike = team.models[agent], team.alike
    params, optimiser = (state.params, state.optimiser) if alike else (state.params[agent], state.optimiser[agent])
    mesh = mesh_for(settings.micro_batch, state, data)
    given = everywhere(mesh, (params, optimiser, state.beta, np.int32(agent), data, numbers, order))
    trained, moments, beta, outcome = onto_first(mesh, _update(config, team.layout, shape, alike, mesh, *given))
    params = split_trained(params)[1](trained)
    if not alike:
        params = (*state.params[:agent], params, *state.params[agent + 1 :])
        moments = (*state.optimiser[:agent], moments, *state.optimiser[agent + 1 :])
    return TrainState(params, moments, beta), outcome


def programs() -> dict[str, int]:
    """How many programs have been compiled for updates and for scoring, in this process."""
    compiled: dict[str, Any] = {"update": _update, "score": _score}
    return {name: program._cache_size() for name, program in compiled.items()}
