"""Sampling whole conversations: one compiled program over turns and tokens, a cache for each agent."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from teamtr_jax.dynamics._draw import inverse_cdf
from teamtr_jax.llm.devices import by_rows, everywhere, mesh_for, onto_first
from teamtr_jax.llm.layout import Layout, Transcripts, View
from teamtr_jax.llm.model import LanguageTeam, Params, agent_params, extend_cache, init_cache
from teamtr_jax.validation import InputError, concrete, integers, whole_number

__all__ = ["sample"]

PROMPT_CHUNK = 128
"""Positions of a prompt that are read at once where a group shares it."""

PARTS = 2
"""In which the last message is written if it is long. More of them read less that is empty, and compile longer."""


class _Carry(NamedTuple):
    tokens: Array  #: [B, N]
    logp: Array  #: [B, N]
    caches: Any  #: of each set of parameters: stacked, or a tuple. Sharers read the same text with the same network
    seen: Array  #: [sets, B] how many positions of the transcript the cache holds


def sample(team: LanguageTeam, params: Params, prompts: Int[Array, "B P"], key: Array, group: int = 1) -> Transcripts:
    """`group` conversations for each prompt, ``[B·group]`` rows, by the team as it stands.

    At its turn an agent takes in by chunks what was written since its last one, then writes token by token: a step costs one
    network, whatever the size of the team. Where the router depends on chance or on the text, rows are sorted by speaker and
    handled in blocks, so that a turn costs little more than if one agent spoke in every row.

    The devices of this process divide the rows among them where their number allows it (`devices.mesh_for`); transcripts come
    back on the first.

    Args:
      prompts: ids, padded on the left (`Layout.encode_prompts`).
      key: a PRNG key; every row draws from uniforms of its own.
      group: conversations of each prompt, rows `b·group` to `(b+1)·group`; they share what the agents made of the prompt.

    Raises:
      InputError: prompts of another length than the layout's, or with ids that the vocabulary does not have; no `group`.
    """
    whole_number("group", group, 1)
    if prompts.ndim != 2 or prompts.shape[1] != team.layout.prompt:
        raise InputError("prompts", f"shape {list(prompts.shape)}", f"[B, {team.layout.prompt}]")
    if (ids := concrete(prompts)) is not None:
        integers("prompts", ids, 0, team.layout.vocabulary.size)
    if prompts.shape[0] % jax.local_device_count():  # rows may be many enough for the devices where prompts are not
        prompts, group = jnp.repeat(prompts, group, axis=0), 1
    mesh = mesh_for(prompts.shape[0], prompts)
    params, key = everywhere(mesh, (params, key))
    return onto_first(mesh, _sample(team, mesh, group, params, by_rows(mesh, prompts), key))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(
    team: LanguageTeam, mesh: Mesh | None, group: int, params: Params, prompts: Array, key: Array
) -> Transcripts:
    """With a mesh its devices converse apart: prompts have nothing to do with each other."""
    layout, batch = team.layout, prompts.shape[0] * group
    route, write = jax.random.split(key)
    router = jax.random.uniform(route, (layout.turns, batch))
    uniform = jax.random.uniform(write, (layout.turns, layout.message, batch))
    each = partial(_converse, team, group)
    if mesh is not None:
        rows = P(None, "rows"), P(None, None, "rows")
        each = jax.shard_map(each, mesh=mesh, in_specs=(P(), P("rows"), *rows), out_specs=P("rows"), check_vma=False)
    return each(params, prompts, router, uniform)


def _converse(
    team: LanguageTeam, group: int, params: Params, prompts: Array, router: Array, uniform: Array
) -> Transcripts:
    layout, batch = team.layout, prompts.shape[0] * group
    pad = layout.vocabulary.pad
    rows = jnp.repeat(prompts, group, axis=0)
    tokens = jnp.full((batch, layout.length), pad, jnp.int32).at[:, : layout.prompt].set(rows)
    logp = jnp.zeros((batch, layout.length), jnp.float32)
    groups = _groups(layout)
    if group > 1:  # a prompt is read once by each agent
        caches, read = _copied(_prompted(team, params, prompts), group), layout.prompt
    else:
        each = [init_cache(config, batch, layout.prompt) for config in team.networks]
        caches, read = jax.tree.map(lambda *x: jnp.stack(x), *each) if team.alike else tuple(each), 0
    carry = _Carry(tokens, logp, caches, jnp.full((team.who.sets, batch), read, jnp.int32))
    scheduled = layout.router.schedule
    planned = None if scheduled is None else jnp.array([scheduled(t) for t in range(layout.turns)], jnp.int32)

    def converse(some: _Group, state: tuple[_Carry, Array], now: tuple[Array, Array, Array]):
        carry, last = state
        number, chance, uniform = now
        at = layout.prompt + number * (1 + layout.message)
        if planned is not None:
            speaker = jnp.full(batch, planned[number])
        else:
            view = View(number, last, carry.tokens)
            speaker = inverse_cdf(layout.router.probabilities(view), chance).astype(jnp.int32)
        header = layout.vocabulary.header(0) + speaker
        carry = carry._replace(tokens=lax.dynamic_update_slice(carry.tokens, header[:, None], (0, at)))
        turn = _Turn(at, uniform, some.keys)
        if planned is not None:
            carry = _speak(team, params, carry, _Speaker(planned[number], None), turn)
        else:
            carry = _speak_in_blocks(team, params, carry, speaker, turn)
        return (carry, speaker), speaker

    state, spoken = (carry, jnp.full(batch, -1, jnp.int32)), []
    for some in groups:
        state = (state[0]._replace(caches=_grown(state[0].caches, some.keys[0])), state[1])
        turns = slice(some.first, some.stop)
        state, speaker = lax.scan(
            partial(converse, some), state, (jnp.arange(layout.turns)[turns], router[turns], uniform[turns])
        )
        spoken.append(speaker)
    return Transcripts(state[0].tokens, state[0].logp, jnp.concatenate(spoken).T)


def _prompted(team: LanguageTeam, params: Params, prompts: Array) -> Any:
    """The cache of the prompts of each set of parameters, as long as these."""
    layout, (number, length) = team.layout, prompts.shape

    def of(which: int, own: Params) -> Any:
        config, readable, chunk = team.networks[which], prompts != layout.vocabulary.pad, min(PROMPT_CHUNK, length)

        def read(k: Array, cache: Any) -> Any:
            begin = jnp.minimum(k * chunk, length - chunk)
            piece = lax.dynamic_slice(prompts, (0, begin), (number, chunk))
            return extend_cache(config, layout, own, piece, readable, begin, cache)[1]

        return lax.fori_loop(0, -(-length // chunk), read, init_cache(config, number, length))

    return lax.map(partial(of, 0), params) if team.alike else tuple(of(k, own) for k, own in enumerate(params))


def _copied(caches: Any, group: int) -> Any:
    """A copy of each prompt's cache for each of its rows."""
    return jax.tree.map(lambda x: jnp.repeat(x, group, axis=x.ndim - 4), caches)


class _Writing(NamedTuple):
    """A message that grows."""

    written: Array  #: tokens of it, an integer
    tokens: Array
    logp: Array
    done: Array  #: rows whose message has ended
    cache: Any


class _Turn(NamedTuple):
    """What the speakers of a turn share."""

    at: Array  #: position of the header
    uniform: Array  #: [L, B] what tokens are drawn with
    keys: tuple[int, ...]  #: where the caches end (`_Group`)


class _Speaker(NamedTuple):
    """Who speaks, and in which rows: all if `None`. A row beyond the batch is idle: nothing of it is written."""

    agent: Array
    rows: Array | None


class _Group(NamedTuple):
    """Turns that are scanned with caches of one length.

    A last, long message is written in parts, each with a cache of its own after those before it, which are only read.
    """

    first: int
    stop: int
    keys: tuple[int, ...]


def _groups(layout: Layout) -> list[_Group]:
    """Attention reads the whole cache, so in a long conversation caches grow, three times at most."""
    turns, message = layout.turns, layout.message
    last = turns - 1 if message >= 32 else turns
    parts = min(last, 3, -(-layout.start(last) // 32))
    bounds = [last * k // parts for k in range(parts + 1)] if parts else []
    groups = [_Group(a, b, (layout.start(b),)) for a, b in pairwise(bounds)]
    if last < turns:
        groups.append(_Group(last, turns, tuple(layout.start(last) + stop for stop in _stops(layout, PARTS))))
    return groups


def _stops(layout: Layout, parts: int) -> list[int]:
    """After how many ids of a message each part of it ends."""
    return [layout.message * (k + 1) // parts for k in range(parts)]


def _grown(caches: Any, keys: int) -> Any:
    def grow(x: Array) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, keys - x.shape[-2]), (0, 0)])

    return jax.tree.map(grow, caches)


def _speak(team: LanguageTeam, params: Params, carry: _Carry, speaker: _Speaker, turn: _Turn) -> _Carry:
    """One message."""
    agent, rows = speaker
    place = team.place(agent)
    if team.alike:
        cache = jax.tree.map(lambda x: _of_rows(x[place], rows), carry.caches)
        own, cache = _write(team, 0, agent_params(team, params, agent), carry, cache, speaker, turn)

        def put(old: Array, new: Array) -> Array:
            if rows is None:
                return old.at[place].set(new)
            layers = new.ndim - 4  # what is indexed by arrays comes first where something stands between them
            return old.at[place, *_rows_index(new, rows)].set(jnp.moveaxis(new, layers, 0), mode="drop")

        return own._replace(caches=jax.tree.map(put, carry.caches, cache))

    def branch(k: int, carry: _Carry) -> _Carry:
        cache = jax.tree.map(lambda x: _of_rows(x, rows), carry.caches[k])
        own, cache = _write(team, k, params[k], carry, cache, speaker, turn)

        def put(old: Array, new: Array) -> Array:
            return new if rows is None else old.at[_rows_index(new, rows)].set(new, mode="drop")

        whole = jax.tree.map(put, carry.caches[k], cache)
        return own._replace(caches=(*carry.caches[:k], whole, *carry.caches[k + 1 :]))

    return lax.switch(place, [partial(branch, k) for k in range(team.who.sets)], carry)


def _take(x: Array, rows: Array | None) -> Array:
    return x if rows is None else x.at[rows].get(mode="clip")


def _of_rows(cache: Array, rows: Array | None) -> Array:
    """The part of these rows in a cache ``[…, B, H, N, d]``."""
    return cache if rows is None else cache.at[_rows_index(cache, rows)].get(mode="clip")


def _rows_index(cache: Array, rows: Array) -> tuple[slice | Array, ...]:
    return (*(slice(None),) * (cache.ndim - 4), rows)


def _write(
    team: LanguageTeam, which: int, own: Params, carry: _Carry, cache: Any, speaker: _Speaker, turn: _Turn
) -> tuple[_Carry, Any]:
    """Prefill up to the header, then write. The cache comes back as long as it was given."""
    layout, config = team.layout, team.networks[which]
    (agent, rows), (at, uniform, keys) = speaker, turn
    pad, place = layout.vocabulary.pad, team.place(agent)
    tokens, seen = _take(carry.tokens, rows), _take(carry.seen[place], rows)
    idle = jnp.zeros(tokens.shape[0], bool) if rows is None else rows == carry.tokens.shape[0]
    uniform = uniform if rows is None else _take(uniform.swapaxes(0, 1), rows).swapaxes(0, 1)
    chunk = min(_chunk(layout), keys[0])

    def unread(state: tuple[Array, Any]) -> Array:
        return state[0] < at

    def prefill(state: tuple[Array, Any]) -> tuple[Array, Any]:
        first, cache = state
        begin = jnp.minimum(first, keys[0] - chunk)  # what is read twice is written twice, the same
        piece = lax.dynamic_slice(tokens, (0, begin), (tokens.shape[0], chunk))
        _, cache = extend_cache(config, layout, own, piece, (tokens != pad)[:, : keys[0]], begin, cache)
        return first + chunk, cache

    _, cache = lax.while_loop(unread, prefill, (jnp.where(idle, at, seen).min(), cache))

    caps = jnp.array([layout.cap(a) for a in range(layout.agents)], jnp.int32)
    most = caps[agent]

    def write(state: _Writing, stop: int, length: int, past: tuple[Any, ...]) -> _Writing:
        def unfinished(state: _Writing) -> Array:
            return (state.written < jnp.minimum(most, stop)) & ~state.done.all()

        def step(state: _Writing) -> _Writing:
            u, tokens, logp, done, cache = state
            piece = lax.dynamic_slice(tokens, (0, at + u), (tokens.shape[0], 1))
            readable = (tokens != pad)[:, :length]
            logits, cache = extend_cache(config, layout, own, piece, readable, at + u, cache, past=past)
            above = logits[:, 0] - logits[:, 0].max(-1, keepdims=True)
            weight = jnp.exp(above)
            drawn = inverse_cdf(weight, uniform[u]).astype(jnp.int32)
            here = jnp.take_along_axis(above, drawn[:, None], 1)[:, 0] - jnp.log(weight.sum(-1))
            here = jnp.where(done, 0.0, here)
            tokens = lax.dynamic_update_slice(tokens, jnp.where(done, pad, drawn)[:, None], (0, at + u + 1))
            logp = lax.dynamic_update_slice(logp, here.astype(logp.dtype)[:, None], (0, at + u + 1))
            if layout.vocabulary.ends:
                done |= drawn == 0
            return _Writing(u + 1, tokens, logp, done, cache)

        return lax.while_loop(unfinished, step, state)

    state = _Writing(jnp.zeros((), jnp.int32), tokens, _take(carry.logp, rows), idle, cache)
    first, *later = _stops(layout, len(keys))
    state = write(state, first, keys[0], ())
    parts = (cache := state.cache,)
    for stop, (begin, end) in zip(later, pairwise(keys), strict=True):
        state = write(state._replace(cache=init_cache(config, tokens.shape[0], end - begin)), stop, end, parts)
        parts = (*parts, state.cache)
    u, tokens, logp, _, _ = state
    # The last id written has not been read, and where rows ended early neither have the PADs after it; nor will be, but for it.
    seen = jnp.broadcast_to((at + u).astype(jnp.int32), tokens.shape[:1])
    if rows is None:
        return carry._replace(tokens=tokens, logp=logp, seen=carry.seen.at[place].set(seen)), cache
    return carry._replace(
        tokens=carry.tokens.at[rows].set(tokens, mode="drop"),
        logp=carry.logp.at[rows].set(logp, mode="drop"),
        seen=carry.seen.at[place, rows].set(seen, mode="drop"),
    ), cache


def _chunk(layout: Layout) -> int:
    """How many positions a prefill reads at once: an even part of what is new to an agent in a later round, about 16."""
    new = 1 + (layout.agents - 1) * (1 + layout.message) if layout.agents > 1 else layout.prompt
    return min(layout.length, max(-(-new // -(-new // 16)), 4))


def _speak_in_blocks(team: LanguageTeam, params: Params, carry: _Carry, speaker: Array, turn: _Turn) -> _Carry:
    """One message in each row by its own speaker: rows sorted by speaker, a pass for each block of one speaker."""
    n, batch = team.agents, speaker.shape[0]
    size = min(batch, max(8, -(-batch // (4 * n))))
    order = jnp.argsort(speaker, stable=True)
    sorted_ = speaker[order]
    # Passes: a new one begins where the speaker changes or a block is full. At most ⌈B/size⌉ + n of them.
    rank = jnp.arange(batch) - jnp.searchsorted(sorted_, sorted_, side="left")
    opens = rank % size == 0
    passes = jnp.nonzero(opens, size=-(-batch // size) + n, fill_value=batch)[0]

    def one(state: tuple[Array, _Carry]) -> tuple[Array, _Carry]:
        i, carry = state
        first = passes[i]
        agent = sorted_[first]
        at_most = first + jnp.arange(size)
        mine = (at_most < batch) & (sorted_[jnp.minimum(at_most, batch - 1)] == agent)
        rows = jnp.where(mine, order[jnp.minimum(at_most, batch - 1)], batch)
        return i + 1, _speak(team, params, carry, _Speaker(agent, rows), turn)

    total = opens.sum()
    return lax.while_loop(lambda s: s[0] < total, one, (jnp.zeros((), total.dtype), carry))[1]
