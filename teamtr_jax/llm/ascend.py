"""The first part of an update: steps of the optimiser on minibatches, until the monitor leaves the region."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.devices import cut, everybodys, mine_of, uncut
from teamtr_jax.llm.given import Given, Rows, Spoken
from teamtr_jax.llm.losses import clipped_surrogate, divergence, per_message, unit_weights, within_budget
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings

__all__ = ["Ascent", "ascend", "optimiser_of"]


def optimiser_of(traced: TracedSettings) -> optax.GradientTransformation:
    """Adam, of gradients whose norm over all that is trained is clipped."""
    b1, b2 = traced.moments
    return optax.chain(
        optax.clip_by_global_norm(traced.max_grad_norm),
        optax.adamw(traced.learning_rate, b1, b2, weight_decay=traced.weight_decay),
    )


class Ascent(NamedTuple):
    """Where the steps have led."""

    taken: Int[Array, ""]  #: steps
    trained: Any  #: as `Policy.start`
    moments: Any  #: of the optimiser
    going: Bool[Array, ""]  #: no step was refused
    norms: Float[Array, ""]  #: sum of the gradients' norms
    start: Float[Array, ""]  #: the monitor of the first minibatch before its step: 0 but for rounding


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


def ascend(given: Given, rows: Rows, moments: Any, order: Int[Array, "epochs training"]) -> tuple[Ascent, Spoken]:
    """Ascend the objective of `update_agent`, minibatch after minibatch.

    A step is refused, and is the last, if the monitor of its minibatch exceeds `delta` under `early_stop`, or its gradient is
    not a number.

    Returns:
      Where it led, and the agent as it was, on every row.
    """
    plan, policy = _plan(given.compiled, order), given.policy
    known = plan.training if plan.single else 0
    leaves = policy.leaves(policy.start)
    unknown = jax.tree.map(lambda x: x[known:], rows.text)
    features = given.in_chunks(lambda text: policy.features(leaves, text), unknown)
    features = jnp.concatenate([jnp.zeros((known, *features.shape[1:]), features.dtype), features])
    current = Spoken(features, policy.head(leaves))
    zero = jnp.zeros((), jnp.float32)
    begin = Ascent(jnp.int32(0), policy.start, moments, jnp.asarray(True), zero, zero)
    if plan.single:
        ascent, found = _step(given, rows, current, plan, begin)
        found = uncut(found)[:known]
        return ascent, current._replace(features=features.at[order[0]].set(found))
    return lax.while_loop(
        lambda ascent: ascent.going & (ascent.taken < plan.steps),
        lambda ascent: _step(given, rows, current, plan, ascent)[0],
        begin,
    ), current


def _step(given: Given, rows: Rows, current: Spoken, plan: _Plan, ascent: Ascent) -> tuple[Ascent, Array]:
    """One step, if it may be taken, and the features that it began with (of a single step)."""
    traced, trained = given.traced, ascent.trained
    chunks = _minibatch(given, rows, current.features, plan, ascent.taken)
    sums, found = _accumulated(given, None if plan.single else current.head, trained, chunks)
    norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(sums.gradient)))  # `optax.tree.norm`, of 0.2.6 on
    seen = sums.monitor / jnp.maximum(sums.messages, jnp.finfo(sums.messages.dtype).tiny)
    go = jnp.isfinite(norm) & ~(jnp.asarray(traced.early_stop) & ~(seen <= traced.delta))
    change, following = optimiser_of(traced).update(sums.gradient, ascent.moments, trained)
    taken = optax.apply_updates(trained, change), following
    trained, moments = jax.tree.map(lambda x, y: jnp.where(go, y.astype(x.dtype), x), (trained, ascent.moments), taken)
    # The gradient of the agent as it is: where that is not a number nothing can be learned, and `grad_norm` shows it.
    counted = go | ((ascent.taken == 0) & ~jnp.isfinite(norm))
    norms = ascent.norms + jnp.where(counted, norm, 0.0).astype(ascent.norms.dtype)
    start = jnp.where(ascent.taken == 0, seen, ascent.start).astype(ascent.start.dtype)
    return Ascent(ascent.taken + go, trained, moments, go, norms, start), found


class _Chunk(NamedTuple):
    """`micro_batch` rows of a minibatch."""

    text: Any
    written: Array
    own: Array
    current: Array  #: features of the agent as it was
    advantage: Array
    weight: Array
    unit: Array  #: how much each unit counts in the penalty of the minibatch
    credited: Array  #: and in its surrogate


def _minibatch(given: Given, rows: Rows, current: Array, plan: _Plan, number: Array) -> _Chunk:
    """The minibatch of a step, in chunks ``[chunks, micro, …]``."""
    compiled = given.compiled
    epoch, slot = number // plan.slots, number % plan.slots
    index = lax.dynamic_slice(plan.visits, (epoch, slot * plan.size), (1, plan.size))[0]
    real = (slot * plan.size + jnp.arange(plan.size) < plan.training).astype(rows.counts.dtype)
    here = rows.take(index)
    unit, credited = (
        unit_weights(compiled.ratio.units(some), real * here.counts, compiled.average)
        for some in (here.own, here.credited)
    )
    own = here.own & (real > 0)[:, None, None]
    chunk = _Chunk(here.text, here.written, own, current[index], here.advantage, here.weight, unit, credited)
    return given.constrain(jax.tree.map(lambda x: cut(x, compiled.micro_batch), chunk))


class _Sums(NamedTuple):
    """Over a minibatch."""

    gradient: Any
    monitor: Array  #: `Σ w ·` the monitor of each message
    messages: Array  #: `Σ w`


def _accumulated(given: Given, head: Array | None, trained: Any, chunks: _Chunk) -> tuple[_Sums, Array]:
    """The sums, and of a single step (no `head`) the policy's features."""
    parameters, back = jax.vjp(given.policy.leaves, trained)
    slope = jax.grad(partial(_loss, given, head), has_aux=True)

    def accumulate(total: _Sums, chunk: _Chunk) -> tuple[_Sums, Array]:
        gradient, (monitor, messages, found) = slope(parameters, chunk)
        new = _Sums(gradient, monitor, messages)
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, new), found

    zero = jnp.zeros((), chunks.weight.dtype)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), parameters)
    sums, found = lax.scan(accumulate, _Sums(nothing, zero, zero), mine_of(given.mesh, chunks))
    gradient = jax.tree.map(lambda x, like: x.astype(like.dtype), sums.gradient, parameters)
    sums = sums._replace(gradient=back(gradient)[0])
    return sums if given.mesh is None else lax.psum(sums, "rows"), everybodys(given.mesh, found)


class _Seen(NamedTuple):
    """What a loss finds on its way."""

    monitor: Array
    messages: Array
    found: Array  #: features of the policy, of a single step


def _loss(given: Given, head: Array | None, parameters: Any, chunk: _Chunk) -> tuple[Array, _Seen]:
    """`β Σ ω KL − Σ ω [min(ρA, clip(ρ)A) − A]` over the rows of a chunk; no gain where a rollout has spent its budget.

    Args:
      head: of the agent as it was; none where these parameters are its own.
    """
    compiled, traced, policy = given.compiled, given.traced, given.policy
    new = Spoken(policy.features(parameters, chunk.text), policy.head(parameters))
    found = policy.compare(None if head is None else Spoken(chunk.current, head), new, chunk.written)
    moved = divergence(found, chunk.own)
    penalty = compiled.penalty(moved)
    log_ratio, kl = compiled.ratio.log_ratio(moved.log_ratio, chunk.own), compiled.ratio.total(penalty)
    lift = (-1,) + (1,) * (log_ratio.ndim - 1)
    gain = clipped_surrogate(log_ratio, chunk.advantage.reshape(lift), traced.clip_low, traced.clip_high)
    if compiled.spending is not None:
        spent = jnp.where(chunk.own, lax.stop_gradient(compiled.spending(found)), 0.0)
        gain = jnp.where(within_budget(compiled.ratio.total(spent), traced.budget), gain, 0.0)
    total = (chunk.weight.reshape(lift) * (chunk.unit * given.beta * kl - chunk.credited * gain)).sum()
    monitor = (chunk.weight[:, None] * per_message(compiled.monitor(moved))).sum()
    messages = (chunk.weight[:, None] * chunk.own.any(-1)).sum()
    return total, _Seen(monitor, messages, new.features if head is None else jnp.zeros((len(chunk.own), 0)))
