"""The second part of an update: back along the step, by a rule, to a point that is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from teamtr_jax.llm import diagnose
from teamtr_jax.llm.given import Given, Rows, Spoken
from teamtr_jax.llm.losses import Divergence, divergence
from teamtr_jax.llm.step_rules import Search, Trial

__all__ = ["Kept", "go_back"]


class Kept(NamedTuple):
    """The point that is kept, and what was seen on the way to it."""

    trained: Any  #: as `Policy.start`
    scale: Float[Array, ""]  #: share of the step
    reached: Float[Array, ""]  #: monitor at the end of the step, infinite if it is not a number
    sound: Bool[Array, ""]  #: whether every number of the step's end is one
    heard: Bool[Array, ""]  #: whether the agents that move said anything where it is measured
    moved: Divergence
    entropy: Float[Array, "R turns L"]
    current: Float[Array, "R turns L"]  #: log-probability of what was written, of the agent as it was


class _Seen(NamedTuple):
    """Of each token; zero elsewhere."""

    moved: Divergence
    entropy: Array
    current: Array


class _Carry(NamedTuple):
    search: Search
    reached: Array  #: the monitor at the first scale
    seen: _Seen


def go_back(given: Given, rows: Rows, current: Spoken, training: int, last: Any) -> Kept:
    """The point `θ + c(θ'−θ)` that the step rule keeps. A step that is not a number is no step, whatever the rule.

    Nor is one that nobody saw, where the agents that move said nothing: momentum alone leads it, and every monitor is 0.

    Args:
      rows: those that are measured; the first `training` of them decide.
      current: the agent as it was.
      last: `θ'`, where the steps ended.
    """
    compiled, policy = given.compiled, given.policy
    one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    sound = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(last)]).all()
    trained_on = rows.take(slice(0, training))
    heard = trained_on.messages.sum() > 0
    allowed = sound & heard

    def at(scale: Array) -> Any:
        def part(start: Array, last: Array) -> Array:
            return jnp.where(scale > 0, start + scale.astype(start.dtype) * (last - start), start)

        return jax.tree.map(part, policy.start, last)

    def assess(scale: Array) -> _Seen:
        leaves = policy.leaves(at(scale))
        head = policy.head(leaves)

        def chunk(text: Any, written: Array, own: Array, features: Array) -> _Seen:
            new = Spoken(policy.features(leaves, text), head)
            found = policy.compare(Spoken(features, current.head), new, written)
            return _Seen(divergence(found, own), *(jnp.where(own, x, 0.0) for x in (found.entropy, found.current)))

        return given.in_chunks(chunk, rows.text, rows.written, rows.own, current.features)

    def try_(carry: _Carry) -> _Carry:
        search = carry.search
        seen = assess(search.scale)
        front = jax.tree.map(lambda x: x[:training], seen.moved)
        monitor = diagnose.monitor(given, trained_on, front)
        reached = jnp.where(search.tried == 0, monitor, carry.reached).astype(one.dtype)
        trial = Trial(
            monitor, lambda: diagnose.certificate(given, trained_on, front), given.traced.delta, compiled.backtrack
        )
        found = compiled.step_rule(search._replace(tried=search.tried + 1), trial)
        following = jnp.where(found.done, search.scale, jnp.where(allowed, found.scale, 0.0)).astype(one.dtype)
        return _Carry(found._replace(scale=following), reached, seen)

    nothing = jnp.zeros(rows.own.shape, jnp.promote_types(current.features.dtype, one.dtype))
    search = Search(jnp.where(allowed, one, zero), jnp.asarray(False), jnp.int32(0), zero, zero)
    begin = _Carry(search, zero, _Seen(Divergence(nothing, nothing), nothing, nothing))
    end = lax.while_loop(lambda carry: ~carry.search.done, try_, begin)
    reached = jnp.where(sound & ~jnp.isnan(end.reached), end.reached, jnp.inf)
    return Kept(at(end.search.scale), end.search.scale, reached, sound, heard, *end.seen)
