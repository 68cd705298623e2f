"""The first part of an update: steps of the optimiser on minibatches, until the monitor leaves the region."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.devices import everybodys, in_chunks, mine_of
from teamtr_jax.llm.given import Given, Rows
from teamtr_jax.llm.losses import clipped_surrogate, divergence, per_message, unit_weights, within_budget
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings

__all__ = ["Ascent", "ascend", "optimiser_of"]


def optimiser_of(traced: TracedSettings) -> optax.GradientTransformation:
    """Adam on one vector: it compiles in a fraction of the time that a tree of arrays takes."""
    b1, b2 = traced.moments
    return optax.chain(
        optax.clip_by_global_norm(traced.max_grad_norm),
        optax.adamw(traced.learning_rate, b1, b2, weight_decay=traced.weight_decay),
    )


class Ascent(NamedTuple):
    """Where the steps have led."""

    taken: Int[Array, ""]  #: steps
    trained: Float[Array, " P"]
    moments: Any  #: of the optimiser
    going: Bool[Array, ""]  #: no step was refused
    norms: Float[Array, ""]  #: sum of the gradients' norms


class _Plan(NamedTuple):
    """Which rows each step visits."""

    order: Array  #: [epochs, training]
    visits: Array  #: the same, filled up to whole minibatches
    size: int  #: of a minibatch
    slots: int  #: minibatches of an epoch

    @property
    def training(self) -> int:
        return self.order.shape[1]

    @property
    def steps(self) -> int:
        return self.order.shape[0] * self.slots

    @property
    def single(self) -> bool:
        """One step, which sees the agent as it is: what it finds need not be computed before it."""
        return self.steps == 1


def _plan(compiled: CompiledSettings, order: Array) -> _Plan:
    training, micro = order.shape[1], compiled.micro_batch
    size = min(compiled.minibatch, -(-training // micro) * micro)
    slots = -(-training // size)
    return _Plan(order, jnp.pad(order, ((0, 0), (0, slots * size - training))), size, slots)


def ascend(
    given: Given, rows: Rows, moments: Any, order: Int[Array, "epochs training"]
) -> tuple[Ascent, Float[Array, "R turns L A"]]:
    """Ascend the objective of `update_agent`, minibatch after minibatch.

    A step is refused, and is the last, if the monitor of its minibatch exceeds `delta` under `early_stop`, or its gradient is
    not a number.

    Returns:
      Where it led, and the log-probabilities of the agent as it was, of everything that may be written.
    """
    plan, policy = _plan(given.compiled, order), given.policy
    known = plan.training if plan.single else 0
    leaves = policy.leaves(policy.start)
    current = in_chunks(
        lambda tokens: policy.log_probs(leaves, tokens), given.compiled.micro_batch, given.mesh, rows.tokens[known:]
    )
    current = jnp.concatenate([jnp.zeros((known, *current.shape[1:]), current.dtype), current])
    begin = Ascent(jnp.int32(0), policy.start, moments, jnp.asarray(True), jnp.zeros((), jnp.float32))
    if plan.single:
        ascent, found = _step(given, rows, current, plan, begin)
        found = found.reshape(plan.size, *current.shape[1:])[:known]
        return ascent, current.at[order[0]].set(found)
    return lax.while_loop(
        lambda ascent: ascent.going & (ascent.taken < plan.steps),
        lambda ascent: _step(given, rows, current, plan, ascent)[0],
        begin,
    ), current


def _step(given: Given, rows: Rows, current: Array, plan: _Plan, ascent: Ascent) -> tuple[Ascent, Array]:
    """One step, if it may be taken, and the log-probabilities that it began with (of a single step)."""
    traced, trained = given.traced, ascent.trained
    sums, found = _accumulated(
        given, plan.single, trained, _minibatch(given.compiled, rows, current, plan, ascent.taken)
    )
    norm = jnp.linalg.norm(sums.gradient)
    seen = sums.monitor / jnp.maximum(sums.messages, jnp.finfo(sums.messages.dtype).tiny)
    go = jnp.isfinite(norm) & ~(jnp.asarray(traced.early_stop) & ~(seen <= traced.delta))
    change, following = optimiser_of(traced).update(sums.gradient, ascent.moments, trained)
    taken = optax.apply_updates(trained, change), following
    trained, moments = jax.tree.map(lambda x, y: jnp.where(go, y.astype(x.dtype), x), (trained, ascent.moments), taken)
    # The gradient of the agent as it is: where that is not a number nothing can be learned, and `grad_norm` shows it.
    counted = go | ((ascent.taken == 0) & ~jnp.isfinite(norm))
    norms = ascent.norms + jnp.where(counted, norm, 0.0).astype(ascent.norms.dtype)
    return Ascent(ascent.taken + go, trained, moments, go, norms), found


class _Chunk(NamedTuple):
    """`micro_batch` rows of a minibatch."""

    tokens: Array
    written: Array
    own: Array
    current: Array
    advantage: Array
    weight: Array
    unit: Array  #: how much each unit counts in the penalty of the minibatch
    credited: Array  #: and in its surrogate


def _minibatch(compiled: CompiledSettings, rows: Rows, current: Array, plan: _Plan, number: Array) -> _Chunk:
    """The minibatch of a step, in chunks ``[chunks, micro, …]``."""
    epoch, slot = number // plan.slots, number % plan.slots
    index = lax.dynamic_slice(plan.visits, (epoch, slot * plan.size), (1, plan.size))[0]
    real = (slot * plan.size + jnp.arange(plan.size) < plan.training).astype(rows.counts.dtype)
    here = rows.take(index)
    unit, credited = (
        unit_weights(compiled.ratio.units(some), real * here.counts, compiled.average)
        for some in (here.own, here.credited)
    )
    own = here.own & (real > 0)[:, None, None]
    chunk = _Chunk(here.tokens, here.written, own, current[index], here.advantage, here.weight, unit, credited)
    return jax.tree.map(
        lambda x: x.reshape(plan.size // compiled.micro_batch, compiled.micro_batch, *x.shape[1:]), chunk
    )


class _Sums(NamedTuple):
    """Over a minibatch."""

    gradient: Any
    monitor: Array  #: `Σ w ·` the monitor of each message
    messages: Array  #: `Σ w`


def _accumulated(given: Given, single: bool, trained: Array, chunks: _Chunk) -> tuple[_Sums, Array]:
    """The sums, and of a single step the policy's log-probabilities."""
    parameters = given.policy.leaves(trained)
    slope = jax.grad(partial(_loss, given, single), has_aux=True)

    def accumulate(total: _Sums, chunk: _Chunk) -> tuple[_Sums, Array]:
        gradient, (monitor, messages, found) = slope(parameters, chunk)
        new = _Sums(gradient, monitor, messages)
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, new), found

    zero = jnp.zeros((), chunks.weight.dtype)
    begin = _Sums(jax.tree.map(jnp.zeros_like, parameters), zero, zero)
    sums, found = lax.scan(accumulate, begin, mine_of(given.mesh, chunks))
    sums = sums._replace(gradient=ravel_pytree(sums.gradient)[0].astype(trained.dtype))
    return sums if given.mesh is None else lax.psum(sums, "rows"), everybodys(given.mesh, found)


class _Seen(NamedTuple):
    """What a loss finds on its way."""

    monitor: Array
    messages: Array
    found: Array  #: log-probabilities of the policy, of a single step


def _loss(given: Given, single: bool, parameters: list[Array], chunk: _Chunk) -> tuple[Array, _Seen]:
    """`β Σ ω KL − Σ ω [min(ρA, clip(ρ)A) − A]` over the rows of a chunk; no gain where a rollout has spent its budget."""
    compiled, traced = given.compiled, given.traced
    new = given.policy.log_probs(parameters, chunk.tokens)
    current = lax.stop_gradient(new) if single else chunk.current
    moved = divergence(current, new, chunk.written, chunk.own)
    penalty = compiled.penalty(moved)
    log_ratio, kl = compiled.ratio.log_ratio(moved.log_ratio, chunk.own), compiled.ratio.total(penalty)
    lift = (-1,) + (1,) * (log_ratio.ndim - 1)
    gain = clipped_surrogate(log_ratio, chunk.advantage.reshape(lift), traced.clip_low, traced.clip_high)
    if compiled.spending is not None:
        spent = jnp.where(chunk.own, lax.stop_gradient(compiled.spending(current, new, moved)), 0.0)
        gain = jnp.where(within_budget(compiled.ratio.total(spent), traced.budget), gain, 0.0)
    total = (chunk.weight.reshape(lift) * (chunk.unit * given.beta * kl - chunk.credited * gain)).sum()
    monitor = (chunk.weight[:, None] * per_message(compiled.monitor(moved))).sum()
    messages = (chunk.weight[:, None] * chunk.own.any(-1)).sum()
    return total, _Seen(monitor, messages, current if single else jnp.zeros((len(chunk.tokens), 0)))
