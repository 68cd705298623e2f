"""A decoder-only transformer (RoPE, RMSNorm, SwiGLU, tied embeddings) and teams of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.checked import whole
from teamtr_jax.llm.language_model import Cache, LanguageModel, Params, logits_of
from teamtr_jax.llm.layout import Layout
from teamtr_jax.llm.sizes import require_room
from teamtr_jax.sharing import Sharing, apart
from teamtr_jax.validation import X64_REMEDY, InputError, one_of, real_number

__all__ = ["ModelConfig", "Transformer", "Toy", "Cache", "LanguageTeam", "language_model", "init_params", "init_team",
           "init_cache", "agent_params", "with_agent_params", "policy_logits", "policy_head", "extend_cache", "is_trained",
           "parameter_count"]  # fmt: skip

_Keys = tuple[Array, Array]
"""Of one layer, keys and values ``[B, H, N, d/H]``: a cache of the toy has these for each layer. Other layouts are slower, one
is wrong on jax 0.10.2."""


@dataclass(frozen=True)
class ModelConfig:
    """The size of one agent's network."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int | None = None  #: of SwiGLU; default: 8/3 of the width, rounded up to a multiple of 8
    lora_rank: int = 0  #: > 0: low-rank adapters on every linear map, and only they are trained
    rope_base: float = 10_000.0  #: at least 1
    dtype: str = "float32"  #: of the computation; parameters are float32. bfloat16 is for accelerators
    window: int = 0
    """Above 0: positions read the prompt and so many last ones, themselves included. Every further layer reaches as far again."""

    def __post_init__(self) -> None:
        whole(self, 1, "width", "layers", "heads")
        if self.width % (2 * self.heads):
            raise InputError(
                "width, heads", f"{self.width}, {self.heads}", "a width that is a multiple of twice the heads"
            )
        if self.hidden is not None:
            whole(self, 1, "hidden")
        whole(self, 0, "lora_rank", "window")
        object.__setattr__(self, "rope_base", real_number("rope_base", self.rope_base, 1.0))
        one_of("dtype", self.dtype, ("float32", "bfloat16", "float64"))
        if self.dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            raise InputError("dtype", "float64 with jax_enable_x64 off", X64_REMEDY)

    @property
    def inner(self) -> int:
        """The hidden width of SwiGLU."""
        return -(-8 * self.width // 24) * 8 if self.hidden is None else self.hidden


class Linear(nn.Module):
    """`x W + x A B / r`: a linear map without bias, with adapters of rank `r` if `rank > 0` (`B = 0` at first)."""

    features: int
    rank: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        into = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(into**-0.5), (into, self.features), jnp.float32)
        y = product(x, kernel.astype(x.dtype))
        if self.rank:
            a = self.param("lora_a", nn.initializers.normal(into**-0.5), (into, self.rank), jnp.float32)
            b = self.param("lora_b", nn.initializers.zeros, (self.rank, self.features), jnp.float32)
            y = y + product(product(x, a.astype(x.dtype)), b.astype(x.dtype)) / self.rank
        return y


def product(x: Array, matrix: Array) -> Array:
    """`x @ matrix` over the last axis, as one product of matrices: on a CPU its gradient takes a third of the time."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


class RMSNorm(nn.Module):
    """`x / √(mean x² + 1e-6) · scale`, in float32 at least."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * scale).astype(x.dtype)


def rotate(x: Array, start: Array | int, base: float, length: int) -> Array:
    """RoPE: the pair `(x_i, x_{i+d/2})` turned by `position · base^{−2i/d}`; `x` is ``[B, H, C, d]``, from position `start` on.

    Sines and cosines of all `length` positions are constants of the program: on a CPU they cost more than the attention.
    A chunk that ends beyond them would be turned as if it ended there; `Transformer` refuses it.
    """
    half, chunk = x.shape[-1] // 2, x.shape[2]
    angle = np.arange(length)[:, None] * float(base) ** (-np.arange(half) / half)
    table = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]), x.dtype)
    cos, sin = jax.lax.dynamic_slice_in_dim(table, start, chunk, 1)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


class _Where(NamedTuple):
    """What a chunk may read, and where it stands."""

    readable: Array
    start: Array | int


class Attention(nn.Module):
    """Causal attention of a chunk over what is past and the cache, or itself without one; from its entry `first` on."""

    config: ModelConfig
    length: int  #: of the longest transcript
    prompt: int  #: positions that are read from everywhere

    @nn.compact
    def __call__(
        self, x: Array, where: _Where, cache: _Keys | None, past: list[_Keys], first: int
    ) -> tuple[Array, _Keys]:
        config, (batch, chunk, width), (readable, start) = self.config, x.shape, where
        size = width // config.heads
        joint = Linear(3 * width, config.lora_rank, name="qkv")(x)
        q, k, v = (z.reshape(batch, chunk, config.heads, size).swapaxes(1, 2) for z in jnp.split(joint, 3, -1))
        q, k = (rotate(z, start, config.rope_base, self.length) for z in (q, k))
        if cache is not None:
            at = start - sum(keys.shape[2] for keys, _ in past)
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, at, 2) for old, new in zip(cache, (k, v), strict=True)
            )
        q, positions = q[:, :, first:], (start + jnp.arange(first, chunk))[:, None]
        scores, begin = [], 0
        for keys, _ in (*past, (k, v)):
            key_at = begin + jnp.arange(keys.shape[2])
            # A position reads itself even if it is PAD: a row without keys has no softmax. Nobody reads what it computes.
            seen = (key_at <= positions) & (readable[:, None, begin : begin + keys.shape[2]] | (key_at == positions))
            if config.window:
                seen &= (key_at < self.prompt) | (key_at > positions - config.window)
            found = jnp.einsum("bhqd,bhkd->bhqk", q, keys) * size**-0.5
            scores.append(jnp.where(seen[:, None], found, jnp.finfo(found.dtype).min))
            begin += keys.shape[2]
        top = jax.lax.stop_gradient(reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores]))
        weights = [jnp.exp(part - top) for part in scores]
        read = [
            jnp.einsum("bhqk,bhkd->bhqd", w, values) for w, (_, values) in zip(weights, (*past, (k, v)), strict=True)
        ]
        total = reduce(jnp.add, [w.sum(-1, keepdims=True) for w in weights])
        out = reduce(jnp.add, read) / total  # fewer divisions than softmax
        return Linear(width, config.lora_rank, name="out")(out.swapaxes(1, 2).reshape(batch, -1, width)), (k, v)


class Block(nn.Module):
    """Attention and SwiGLU, each after a norm and added to what came in; from the chunk's entry `first` on."""

    config: ModelConfig
    length: int
    prompt: int

    @nn.compact
    def __call__(self, x: Array, where: _Where, cache: _Keys | None, past: list[_Keys], first: int):
        config = self.config
        y, cache = Attention(config, self.length, self.prompt)(RMSNorm()(x), where, cache, past, first)
        x = x[:, first:] + y
        gate, up = jnp.split(Linear(2 * config.inner, config.lora_rank, name="gate_up")(RMSNorm()(x)), 2, -1)
        return x + Linear(x.shape[-1], config.lora_rank, name="down")(nn.silu(gate) * up), cache


class Transformer(nn.Module):
    """What the head reads, for the position after each one of a chunk. The head is the table of the first `actions` ids.

    Args of a call:
      tokens: ``[B, C]`` ids at positions `start … start+C−1`.
      readable: ``[B, N]`` which positions are not PAD; without a cache or a past N = C.
      cache: what was written before `start`; it comes back with the chunk in it.
      past: what stands before the cache, part after part; read only.
      first: entry of the chunk from which on features are asked for; the last layer computes no others.

    Raises:
      InputError: more positions than a transcript has, or a chunk that ends beyond its cache. A traced `start` cannot be
        checked.
    """

    config: ModelConfig
    vocabulary: int
    actions: int
    length: int  #: of the longest transcript
    prompt: int = 0  #: positions at its beginning that a network with a `window` reads from everywhere

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        readable: Array,
        start: Array | int = 0,
        cache: Cache | None = None,
        past: tuple[Cache, ...] = (),
        first: int = 0,
    ) -> tuple[Array, Cache]:
        config, chunk = self.config, tokens.shape[1]
        held = sum(part[0][0].shape[2] for part in past) + (chunk if cache is None else cache[0][0].shape[2])
        end = start + chunk if isinstance(start, int) else chunk
        if held > self.length or end > held:
            raise InputError("tokens", f"{max(held, end)} positions", f"at most {min(held, self.length)}")
        table = self.param(
            "embedding", nn.initializers.normal(config.width**-0.5), (self.vocabulary, config.width), jnp.float32
        )
        x = table.astype(config.dtype)[tokens] * config.width**0.5
        caches = []
        for layer in range(config.layers):
            x, written = Block(config, self.length, self.prompt, name=f"block_{layer}")(
                x,
                _Where(readable, start),
                None if cache is None else cache[layer],
                [part[layer] for part in past],
                first if layer == config.layers - 1 else 0,
            )
            caches.append(written)
        return RMSNorm()(x), tuple(caches)


@dataclass(frozen=True)
class Toy:
    """The transformer as a `LanguageModel`: ids stand in their slots, the tables of ids and of the head are one."""

    network: Transformer

    @property
    def vocabulary(self) -> int:
        return self.network.actions

    @property
    def width(self) -> int:
        return self.network.config.width

    def init(self, key: Array) -> Params:
        return self.network.init(key, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))["params"]

    def init_cache(self, batch: int, length: int) -> Cache:
        return init_cache(self.network.config, batch, length)

    def features(
        self,
        params: Params,
        ids: Int[Array, "B C"],
        readable: Bool[Array, "B N"],
        start: Array | int = 0,
        cache: Cache | None = None,
        past: tuple[Cache, ...] = (),
        first: int = 0,
    ) -> tuple[Float[Array, "B M D"], Cache]:
        out = self.network.apply({"params": params}, ids, readable, start, cache, past, first)
        return cast(tuple[Array, Cache], out)

    def head(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding"][: self.network.actions]

    def trained(self, params: Params) -> Any:
        return is_trained(params)

    def partition(self) -> tuple[tuple[str, PartitionSpec], ...]:
        return ((".*", PartitionSpec()),)  # small: a copy on every device


@dataclass(frozen=True)
class LanguageTeam:
    """The fixed part of a team: transcript layout and the network of each agent. Hashable: a static argument of `jit`.

    A network is a `ModelConfig`, of the toy transformer, or any `LanguageModel` that has all ids of the layout; it writes the
    first `actions` of them.

    Its parameters are one pytree with a leading axis of sets of parameters if all networks are alike, a tuple of pytrees
    otherwise. Without `sharing` there is one set for each agent. Sharers are told apart by their role headers: a transcript says
    who speaks.

    Raises:
      InputError: not one network for each agent, a network with fewer ids than the layout or that cannot be hashed, a sharing of
        another number of agents, or sharers with different networks.
    """

    layout: Layout
    models: tuple[ModelConfig | LanguageModel, ...]
    sharing: Sharing | None = None  #: who plays with whose parameters; kept as `apart(n)` if not given

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        for number, config in enumerate(self.models):
            _check_model(f"models[{number}]", config, self.layout)
        if len(self.models) != self.layout.agents:
            raise InputError("models", f"{len(self.models)} networks", f"{self.layout.agents}, one for each agent")
        if self.sharing is None:
            object.__setattr__(self, "sharing", apart(self.agents))
        if not isinstance(self.sharing, Sharing):
            raise InputError("sharing", repr(self.sharing), "a Sharing")
        if self.sharing.agents != self.agents:
            found = f"{self.sharing.agents} agents, {list(self.sharing.sharers)}"
            raise InputError("sharing", found, f"{self.agents}, those of the layout")
        for agent, number in enumerate(self.sharing.sharers):
            if self.models[agent] != self.networks[number]:
                first = self.sharing.firsts[number]
                raise InputError(
                    f"models[{agent}]", repr(self.models[agent]), f"the network of agent {first}, a sharer"
                )

    @property
    def agents(self) -> int:
        return self.layout.agents

    @property
    def who(self) -> Sharing:
        """`sharing`, which is there once the team is."""
        assert self.sharing is not None
        return self.sharing

    @property
    def networks(self) -> tuple[ModelConfig | LanguageModel, ...]:
        """The network of each set of parameters."""
        return tuple(self.models[agent] for agent in self.who.firsts)

    @property
    def alike(self) -> bool:
        """Whether parameters are stacked."""
        return len(set(self.models)) == 1

    def place(self, agent: Any) -> Any:
        """Which set of parameters an agent plays with; of traced agents traced."""
        if self.who.apart:
            return agent
        return jnp.asarray(self.who.sharers)[agent] if isinstance(agent, Array) else self.who.sharers[agent]

    def network(self, agent: int = 0) -> LanguageModel:
        """The network of an agent, parameters apart."""
        return language_model(self.models[agent], self.layout)


def _check_model(name: str, model: Any, layout: Layout) -> None:
    """Refuse what is no network for this layout."""
    if isinstance(model, ModelConfig):
        return
    if not isinstance(model, LanguageModel):
        raise InputError(name, repr(model), "a ModelConfig or a LanguageModel")
    try:
        hash(model)
    except TypeError as error:
        raise InputError(name, str(error), "a LanguageModel that can be hashed: a static argument of `jit`") from error
    if model.vocabulary < layout.vocabulary.size:
        raise InputError(name, f"{model.vocabulary} ids", f"at least {layout.vocabulary.size}, those of the layout")


def language_model(model: ModelConfig | LanguageModel, layout: Layout) -> LanguageModel:
    """The network that a team's agent has: of a `ModelConfig` the toy transformer for this layout, any other as it is."""
    return Toy(network(model, layout)) if isinstance(model, ModelConfig) else model


def network(config: ModelConfig, layout: Layout) -> Transformer:
    """The network of this size for this vocabulary."""
    return Transformer(config, layout.vocabulary.size, layout.vocabulary.actions, layout.length, layout.prompt)


@partial(jax.jit, static_argnums=(0, 1))
def init_params(config: ModelConfig | LanguageModel, layout: Layout, key: Array) -> Params:
    """Random parameters of one agent."""
    return language_model(config, layout).init(key)


def init_team(team: LanguageTeam, key: Array) -> Params:
    """Random parameters of all agents, each set of them from a key of its own.

    Raises:
      InputError: more than there is memory for.
    """
    require_room(team)
    keys = jax.random.split(key, team.who.sets)
    each = [init_params(config, team.layout, k) for config, k in zip(team.networks, keys, strict=True)]
    return jax.tree.map(lambda *x: jnp.stack(x), *each) if team.alike else tuple(each)


def agent_params(team: LanguageTeam, params: Params, agent: Array | int) -> Params:
    """The parameters of one agent; `agent` may be traced where networks are alike."""
    place = team.place(agent)
    if team.alike:
        return jax.tree.map(lambda x: x[place], params)
    if isinstance(agent, Array):
        raise InputError("agent", "a traced index", "a Python integer: the networks differ")
    return params[place]


def with_agent_params(team: LanguageTeam, params: Params, agent: Array | int, new: Params) -> Params:
    """The team's parameters with those that one agent plays with replaced, for it and its sharers.

    The others are the same arrays, bit for bit.
    """
    place = team.place(agent)
    if team.alike:
        return jax.tree.map(lambda all_, own: all_.at[place].set(own), params, new)
    if isinstance(agent, Array):
        raise InputError("agent", "a traced index", "a Python integer: the networks differ")
    return (*params[:place], new, *params[place + 1 :])


def is_trained(params: Params) -> Any:
    """Which leaves an update may change: all of them, or with adapters only those. A pytree of Booleans, for `optax.masked`."""
    named, structure = jax.tree_util.tree_flatten_with_path(params)
    lora = ["lora_" in jax.tree_util.keystr(path) for path, _ in named]
    return jax.tree.unflatten(structure, lora if any(lora) else [True] * len(lora))


def parameter_count(params: Params) -> int:
    """The number of parameters in a pytree."""
    return sum(x.size for x in jax.tree.leaves(params))


def policy_logits(
    config: ModelConfig | LanguageModel, layout: Layout, params: Params, tokens: Int[Array, "B N"], first: int = 0
) -> Float[Array, "B M A"]:
    """Teacher-forced logits of the policy, over what an agent may write, already divided by the temperature.

    Entry `p` is about the id at position `first + p + 1`. Rows may be cut at any N ≤ `layout.length`.
    """
    readable = tokens != layout.vocabulary.pad
    logits, _ = _apply(config, layout, params, tokens, readable, 0, None, (), first)
    return logits / layout.temperature


def init_cache(config: ModelConfig | LanguageModel, batch: int, length: int) -> Cache:
    """An empty cache of `length` positions."""
    if not isinstance(config, ModelConfig):
        return config.init_cache(batch, length)
    shape = (batch, config.heads, length, config.width // config.heads)
    return tuple((jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.layers))


def extend_cache(
    config: ModelConfig | LanguageModel,
    layout: Layout,
    params: Params,
    tokens: Int[Array, "B C"],
    readable: Bool[Array, "B N"],
    start: Array | int,
    cache: Cache,
    *,
    past: tuple[Cache, ...] = (),
) -> tuple[Float[Array, "B C A"], Cache]:
    """As `policy_logits` for the chunk that begins at `start`, after what the cache holds. It must end within the cache.

    The cache begins where `past` ends, which is read and not written: a cache that is full need not be copied to go on.
    """
    logits, cache = _apply(config, layout, params, tokens, readable, start, cache, past)
    return logits / layout.temperature, cache


def _apply(config: ModelConfig | LanguageModel, layout: Layout, params: Params, *arguments: Any) -> tuple[Array, Cache]:
    features, cache = language_model(config, layout).features(params, *arguments)
    return logits_of(features, policy_head(config, layout, params)), cache


def policy_head(config: ModelConfig | LanguageModel, layout: Layout, params: Params) -> Float[Array, "A D"]:
    """The rows of the head that the layout has actions for."""
    return language_model(config, layout).head(params)[: layout.vocabulary.actions]
