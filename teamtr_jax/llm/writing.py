"""The compiled programs of the text sampler: read a chunk into a cache, draw a first id, write on until rows are done.

Slots are common to all rows of a batch and may have gaps: a network places an id at the number of readable ids before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key
from numpy.typing import NDArray

from teamtr_jax.llm.drawing import draw_token
from teamtr_jax.llm.language_model import Cache, LanguageModel, Params, logits_of

__all__ = ["Message", "Held", "bucket", "stop_table", "uniforms", "empty", "read", "begin", "write", "grow", "pack", "repeat",
           "take", "gather", "scatter"]  # fmt: skip

PIECE = 128
"""Most ids of a row that are read at once."""

ANY = -2
"""In a table of stops: whatever stands before the stop. Nothing, in the tail of a message, is −1."""


class Held(NamedTuple):
    """What an agent keeps of its rows."""

    cache: Cache  #: leaves ``[…, B, H, N, d]``
    readable: Bool[Array, "B N"]  #: slots that hold an id


class Message(NamedTuple):
    """Messages that grow together."""

    drawn: Int[Array, ""]  #: ids of each row that still writes
    ids: Int[Array, "B L"]
    logp: Float[Array, "B L"]  #: log-probability of each id; 0 after the end
    length: Int[Array, " B"]
    done: Bool[Array, " B"]
    tail: Int[Array, "B S"]  #: the last ids, as many as the longest stop has


def bucket(count: int, least: int = 32) -> int:
    """The least of 32, 48, 64, 96, 128, 192, … that is at least `count`: few compiled shapes, a third of them empty at most.

    Example:
      >>> [bucket(count) for count in (1, 33, 64, 129)], bucket(1, 64)
      ([32, 48, 64, 192], 64)
    """
    size = least
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def stop_table(stops: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """``[K, S]``: each stop on the right of its row, `ANY` before it.

    Example:
      >>> stop_table([[7], [3, 4]]).tolist()
      [[-2, 7], [3, 4]]
    """
    longest = max(map(len, stops), default=1)
    rows = [[ANY] * (longest - len(stop)) + list(stop) for stop in stops]
    return np.array(rows, np.int32).reshape(len(stops), longest)


@partial(jax.jit, static_argnames="length")
def uniforms(
    key: Key[Array, ""], rows: Int[Array, " B"], turn: int | Array, attempt: int | Array, *, length: int
) -> Float[Array, "B L 2"]:
    """What the ids of each row's message are drawn with: of its own key, whatever the other rows are."""

    def of(row: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, row), turn), attempt)
        return jax.random.uniform(own, (length, 2), jnp.float32)

    return jax.vmap(of)(rows)


def empty(model: LanguageModel, batch: int, slots: int) -> Held:
    """Nothing read yet."""
    return Held(model.init_cache(batch, slots), jnp.zeros((batch, slots), bool))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def read(
    model: LanguageModel, params: Params, held: Held, ids: Int[Array, "B C"], real: Bool[Array, "B C"], start: Array | np.int32
) -> tuple[Float[Array, "B D"], Held]:  # fmt: skip
    """A chunk into the slots `start … start+C−1`; the features of its last slot, which the head reads.

    Args:
      ids: on the right of each row; C is a `bucket`, read in even pieces of at most `PIECE`.
      real: which of them are there.
    """
    chunk = ids.shape[1]
    readable = lax.dynamic_update_slice_in_dim(held.readable, real, start, 1)
    pieces = -(-chunk // PIECE)
    width = chunk // pieces

    def piece(k: Any, cache: Cache) -> tuple[Array, Cache]:
        part = lax.dynamic_slice_in_dim(ids, k * width, width, 1)
        features, cache = model.features(params, part, readable, start + k * width, cache, (), width - 1)
        return features[:, 0], cache

    cache = lax.fori_loop(np.int32(0), np.int32(pieces - 1), lambda k, cache: piece(k, cache)[1], held.cache)
    features, cache = piece(np.int32(pieces - 1), cache)
    return features, Held(cache, readable)


def _draw(features: Array, head: Array, uniform: Array, temperature: Array | float) -> tuple[Array, Array]:
    """One id of each row from `softmax(logits/temperature)` in float32, and its log-probability."""
    return draw_token(logits_of(features, head).astype(jnp.float32), uniform, temperature=temperature)


def _add(message: Message, drawn: Array, logp: Array, stops: Array) -> Message:
    """One more id in every row that is not done."""
    at, ids, logps, length, done, tail = message
    ids = lax.dynamic_update_slice_in_dim(ids, jnp.where(done, 0, drawn)[:, None], at, 1)
    logps = lax.dynamic_update_slice_in_dim(logps, jnp.where(done, 0.0, logp)[:, None], at, 1)
    length = length + ~done
    tail = jnp.where(done[:, None], tail, jnp.concatenate([tail[:, 1:], drawn[:, None]], 1))
    ended = ((tail[:, None] == stops) | (stops == ANY)).all(-1).any(-1)
    return Message(at + 1, ids, logps, length, done | ended, tail)


@jax.jit
def begin(
    features: Float[Array, "B D"],
    head: Float[Array, "V D"],
    uniform: Float[Array, "B L 2"],
    stops: Int[Array, "K S"],
    temperature: float | Array,
    idle: Bool[Array, " B"],
) -> Message:
    """The first id of each row that is not idle."""
    batch, cap, _ = uniform.shape
    empty = Message(
        jnp.zeros((), jnp.int32), jnp.zeros((batch, cap), jnp.int32), jnp.zeros((batch, cap), jnp.float32),
        jnp.zeros(batch, jnp.int32), idle, jnp.full((batch, stops.shape[1]), -1, jnp.int32),
    )  # fmt: skip
    return _add(empty, *_draw(features, head, uniform[:, 0], temperature), stops)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def write(
    model: LanguageModel,
    params: Params,
    held: Held,
    message: Message,
    uniform: Float[Array, "B L 2"],
    stops: Int[Array, "K S"],
    temperature: float | Array,
    *,
    start: Array | np.int32,
    few: Array | np.int32,
) -> tuple[Message, Held]:
    """Id after id until the cap, or until at most `few` rows still write.

    Args:
      start: slot of a message's first id. What is drawn last has not been read.
    """
    head, cap = model.head(params), uniform.shape[1]

    def unfinished(state: tuple[Message, Held]) -> Array:
        message, _ = state
        return (message.drawn < cap) & ((~message.done).sum() > few)

    def step(state: tuple[Message, Held]) -> tuple[Message, Held]:
        message, held = state
        at = message.drawn
        last = lax.dynamic_slice_in_dim(message.ids, at - 1, 1, 1)
        readable = lax.dynamic_update_slice_in_dim(held.readable, (message.length == at)[:, None], start + at - 1, 1)
        features, cache = model.features(params, last, readable, start + at - 1, held.cache)
        drawn, logp = _draw(features[:, 0], head, lax.dynamic_slice_in_dim(uniform, at, 1, 1)[:, 0], temperature)
        return _add(message, drawn, logp, stops), Held(cache, readable)

    return lax.while_loop(unfinished, step, (message, held))


@partial(jax.jit, static_argnums=1)
def grow(held: Held, slots: int) -> Held:
    """The same with more slots."""

    def more(x: Array) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, slots - x.shape[-2]), (0, 0)])

    return Held(jax.tree.map(more, held.cache), jnp.pad(held.readable, ((0, 0), (0, slots - held.readable.shape[1]))))


@partial(jax.jit, static_argnums=1)
def pack(held: Held, slots: int) -> Held:
    """The ids of each row moved to its first slots, of which there are then so many.

    What a network makes of an id depends on those before it and on no slot.
    """
    order = jnp.argsort(~held.readable, axis=1, stable=True)[:, :slots]
    readable = jnp.take_along_axis(held.readable, order, 1)

    def move(x: Array) -> Array:
        rows = x.ndim - 4
        return jax.vmap(lambda own, at: jnp.take(own, at, axis=-2), (rows, 0), rows)(x, order)

    return grow(Held(jax.tree.map(move, held.cache), readable), slots)


@partial(jax.jit, static_argnums=1)
def repeat(held: Held, group: int) -> Held:
    """A copy of each row for each of its rollouts."""
    cache = jax.tree.map(lambda x: jnp.repeat(x, group, axis=x.ndim - 4), held.cache)
    return Held(cache, jnp.repeat(held.readable, group, axis=0))


@jax.jit
def take(
    message: Message, uniform: Float[Array, "B L 2"], rows: Int[Array, " b"], idle: Bool[Array, " b"]
) -> tuple[Message, Array]:
    """Some of the messages, and what their ids are drawn with; idle ones write no more."""
    some = jax.tree.map(lambda x: x[rows] if x.ndim else x, message)
    return some._replace(done=some.done | idle), uniform[rows]


@jax.jit
def gather(held: Held, rows: Int[Array, " b"]) -> Held:
    """Some of the rows."""
    return Held(jax.tree.map(lambda x: jnp.take(x, rows, axis=x.ndim - 4), held.cache), held.readable[rows])


@partial(jax.jit, donate_argnums=0)
def scatter(held: Held, rows: Int[Array, " b"], some: Held) -> Held:
    """These rows put back; a number beyond the batch is nobody's."""

    def put(old: Array, new: Array) -> Array:
        return old.at[(slice(None),) * (old.ndim - 4) + (rows,)].set(new, mode="drop")

    return Held(jax.tree.map(put, held.cache, some.cache), held.readable.at[rows].set(some.readable, mode="drop"))
