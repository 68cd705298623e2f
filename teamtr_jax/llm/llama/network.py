"""The forward pass of the Llama family: one scan over stacked layers, with a cache or without."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.language_model import Cache, Params
from teamtr_jax.llm.llama.adapters import adapted, merged
from teamtr_jax.llm.llama.lora import LINEARS
from teamtr_jax.llm.llama.shape import LlamaShape
from teamtr_jax.llm.mesh import constrain
from teamtr_jax.llm.model import product
from teamtr_jax.validation import InputError

__all__ = ["PARTITION", "features", "init", "init_cache", "prepared"]

_INWARD = "layers/(q|k|v|gate|up)/"
_OUTWARD = "layers/(o|down)/"

PARTITION: tuple[tuple[str, P], ...] = (
    ("embedding$|head/kernel$", P("tensor", None)),
    (_INWARD + "kernel$", P(None, "fsdp", "tensor")),
    (_INWARD + "bias$", P(None, "tensor")),
    (_INWARD + "lora_a$", P(None, "fsdp", None)),
    (_INWARD + "lora_b$", P(None, None, "tensor")),
    (_OUTWARD + "kernel$", P(None, "tensor", "fsdp")),
    (_OUTWARD + "lora_a$", P(None, "tensor", None)),
    (_OUTWARD + "lora_b$", P(None, None, "fsdp")),
    (".*", P()),  # norms, and biases of what every part of a head adds to
)
"""Heads and hidden features over ``tensor``, the other side over ``fsdp``: one sum over ``tensor`` after o and one after down."""


def init(config: LlamaShape, key: Array) -> Params:
    """Random parameters: kernels normal with variance 1/in, norms 1, biases 0, adapters as `adapted`."""
    n, (own, *tables, last) = config.layers, jax.random.split(key, 4)
    keys = iter(jax.random.split(own, len(LINEARS)))

    def normal(key: Array, shape: tuple[int, ...], size: int) -> Array:
        return (jax.random.normal(key, shape, jnp.float32) * size**-0.5).astype(config.kept)

    layers: dict[str, Any] = {}
    for name in LINEARS:
        into, out = config.sides(name)
        layers[name] = {"kernel": normal(next(keys), (n, into, out), into)}
        if name in config.biases:
            layers[name]["bias"] = jnp.zeros((n, out), config.kept)
    norms = {"attention_norm": config.width, "mlp_norm": config.width}
    if config.qk_norm:
        norms |= {"q_norm": config.head_dim, "k_norm": config.head_dim}
    layers |= {name: {"scale": jnp.ones((n, size), jnp.float32)} for name, size in norms.items()}
    table = (config.vocabulary, config.width)
    params = {"embedding": normal(tables[0], table, config.width), "layers": layers}
    params["norm"] = {"scale": jnp.ones(config.width, jnp.float32)}
    if not config.tied:
        params["head"] = {"kernel": normal(tables[1], table, config.width)}
    return params if config.lora is None else adapted(config, params, last)


def init_cache(config: LlamaShape, batch: int, length: int) -> Cache:
    """Keys and values of no ids: two arrays ``[n, B, Hkv, N, d]``; unrolled, a pair of ``[B, Hkv, N, d]`` for each layer."""
    shape = (batch, config.kv_heads, length, config.head_dim)
    if config.unroll:
        return tuple((jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.layers))
    return jnp.zeros((config.layers, *shape), config.dtype), jnp.zeros((config.layers, *shape), config.dtype)


class _Where(NamedTuple):
    """What a chunk may read and how it is turned, the same in every layer."""

    cos: Array  #: [B, 1, C, d/2]
    sin: Array
    seen: tuple[Array, ...]  #: of the past, part after part, and of what the chunk's own cache holds: [B, C, Nk]
    near: tuple[Array, ...]  #: those within the window as well


def features(
    config: LlamaShape,
    params: Params,
    ids: Int[Array, "B C"],
    readable: Bool[Array, "B N"],
    start: Array | int = 0,
    cache: Cache | None = None,
    *,
    past: tuple[Cache, ...] = (),
    first: int = 0,
) -> tuple[Float[Array, "B M D"], Cache]:
    """What the head reads of a chunk (`LanguageModel.features`), in the dtype of the computation.

    `readable` says of the slots before the chunk what it said when they were written: keys were turned by it.

    Raises:
      InputError: a chunk that ends beyond its cache, `readable` of another length than the slots, more slots than a rotation that
        depends on the length of a text allows. A traced `start` cannot be checked.
    """
    before = [_slots(part) for part in past]
    length = ids.shape[1] if cache is None else _slots(cache)
    layers = params["layers"]
    if config.lora is None and (extra := _adapted(layers if isinstance(layers, dict) else layers[0])):
        raise InputError("params", f"adapters of {', '.join(extra)}", "none: the network has no `lora`")
    _check(config, ids.shape[1], [*before, length], readable.shape[1], start, cache is None)
    where = _where(config, readable, start, ids.shape[1], [*before, length])
    x = constrain(params["embedding"][ids].astype(config.dtype))
    if cache is None:
        x, written = _whole(config, layers, x, where, past)
    else:
        extend = _unrolled if config.unroll else _scanned
        x, written = extend(config, layers, x, where, past, cache, start - sum(before))
    return _norm(x[:, first:], params["norm"]["scale"], config.norm_eps), written


def prepared(config: LlamaShape, params: Params) -> Params:
    """The same network as it writes fastest: adapters merged if it is float32, and layers apart if they are unrolled.

    `features` with a cache takes it; it is a copy of the kernels.
    """
    if config.dtype == "float32" and _adapted(params["layers"]):
        params = merged(config, params)
    if config.unroll and isinstance(params["layers"], dict):
        params = {**params, "layers": tuple(_layer(params["layers"], i) for i in range(config.layers))}
    return params


def _layer(weights: Any, number: int) -> dict[str, Any]:
    """One out of a stack, or of those that are apart."""
    return jax.tree.map(lambda x: x[number], weights) if isinstance(weights, dict) else weights[number]


def _slots(cache: Cache) -> int:
    return jax.tree.leaves(cache)[0].shape[-2]


def _stacked(config: LlamaShape, weights: Any, past: tuple[Cache, ...]) -> dict[str, Any]:
    """What a scan over layers takes of each."""
    if not isinstance(weights, dict):
        raise InputError("params", "layers apart", "stacked layers: these are for `unroll` and a cache")
    if config.unroll:  # a past that was written with a cache
        past = tuple(jax.tree.map(lambda *x: jnp.stack(x), *part) for part in past)
    scales = {name: config.lora.scales(name, config.layers) for name in _adapted(weights)} if config.lora else {}
    full = np.isin(np.arange(config.layers), config.full)
    return {"weights": weights, "scales": scales, "full": full, "past": past}


def _whole(config: LlamaShape, weights: Any, x: Array, where: _Where, past: tuple[Cache, ...]) -> tuple[Array, Cache]:
    """A text without a cache, as it is differentiated: one layer is compiled, and with `remat` no more than one is kept."""

    def block(x: Array, layer: dict[str, Any]) -> tuple[Array, Cache]:
        q, k, v = _heads(config, layer, x, where)
        return _rest(config, layer, x, where, q, k, v), (k, v)

    layers = _stacked(config, weights, past)
    x, written = lax.scan(jax.checkpoint(block, prevent_cse=False) if config.remat else block, x, layers)
    return x, tuple(zip(*written, strict=True)) if config.unroll else written


def _scanned(
    config: LlamaShape, weights: Any, x: Array, where: _Where, past: tuple[Cache, ...], cache: Cache, at: Array | int
) -> tuple[Array, Cache]:
    """A chunk written into slot `at` of the cache and after; the cache is carried through the layers, in place."""

    def block(carry: tuple[Array, Cache], layer: dict[str, Any]) -> tuple[tuple[Array, Cache], None]:
        x, cache = carry
        q, *new = _heads(config, layer, x, where)
        zero = jnp.int32(0)
        place = (layer["number"], zero, zero, jnp.asarray(at, jnp.int32), zero)  # one type, x64 on or off
        cache = tuple(lax.dynamic_update_slice(all_, one[None], place) for all_, one in zip(cache, new, strict=True))
        k, v = (lax.dynamic_index_in_dim(all_, layer["number"], 0, False) for all_ in cache)
        return (_rest(config, layer, x, where, q, k, v), cache), None

    numbers = np.arange(config.layers, dtype=np.int32)
    (x, written), _ = lax.scan(block, (x, tuple(cache)), _stacked(config, weights, past) | {"number": numbers})
    return x, written


def _unrolled(
    config: LlamaShape, weights: Any, x: Array, where: _Where, past: tuple[Cache, ...], cache: Cache, at: Array | int
) -> tuple[Array, Cache]:
    """The same, layer by layer: nothing is sliced out of a stack, neither weights nor keys."""
    written, zero = [], jnp.int32(0)
    place = (zero, zero, jnp.asarray(at, jnp.int32), zero)
    for i in range(config.layers):
        own = _layer(weights, i)
        layer = {
            "weights": own,
            "scales": {name: config.lora.scale_of(name, i) for name in _adapted(own)} if config.lora else {},
            "full": i in config.full,
            "past": [part[i] for part in past],
        }
        q, *new = _heads(config, layer, x, where)
        k, v = (lax.dynamic_update_slice(old, one, place) for old, one in zip(cache[i], new, strict=True))
        x = _rest(config, layer, x, where, q, k, v)
        written.append((k, v))
    return x, tuple(written)


def _check(config: LlamaShape, chunk: int, slots: list[int], readable: int, start: Array | int, whole: bool) -> None:
    held = sum(slots)
    end = start + chunk if isinstance(start, int) else chunk
    if end > held or (whole and isinstance(start, int) and end < held):
        raise InputError("ids", f"a chunk that ends at slot {end}", f"{held} at most: what the past and the cache hold")
    if isinstance(start, int) and start < held - slots[-1]:
        raise InputError("start", start, f"at least {held - slots[-1]}, where the past ends")
    if readable != held:
        raise InputError("readable", f"{readable} slots", f"{held}: those of the past and of the cache or the chunk")
    if config.rope.kind == "dynamic" and held > config.rope.original:
        found = f"{held} slots with a dynamic rotation"
        raise InputError(
            "readable", found, f"at most {config.rope.original}: beyond them it depends on the longest text"
        )


def _where(config: LlamaShape, readable: Array, start: Array | int, chunk: int, slots: list[int]) -> _Where:
    """An id stands at the number of readable ids before it; a position without any reads itself: no row is empty."""
    count = readable.astype(jnp.int32)
    stands = jnp.cumsum(count, 1, dtype=jnp.int32) - count
    here = lax.dynamic_slice_in_dim(stands, start, chunk, 1)
    angle = here[..., None].astype(jnp.float32) * config.rope.frequencies(config.head_dim).astype(np.float32)
    cos, sin = (turn(angle)[:, :, None] * np.float32(config.rope.attention) for turn in (jnp.cos, jnp.sin))
    slot, own = jnp.arange(sum(slots)), start + jnp.arange(chunk)[:, None]
    seen = (slot <= own) & (readable[:, None] | (slot == own))
    near = seen if config.window is None else seen & (stands[:, None] > here[..., None] - config.window)
    ends = np.cumsum(slots)[:-1].tolist()
    return _Where(cos, sin, *(tuple(jnp.split(mask, ends, 2)) for mask in (seen, near)))


def _adapted(layers: dict[str, Any]) -> list[str]:
    """Linear maps that have an adapter."""
    return [name for name in LINEARS if "lora_a" in layers[name]]


def _linear(layer: dict[str, Any], name: str, x: Array) -> Array:
    """`x W + b + s x A B`, adapters in float32: what a small step changes is lost in bfloat16."""
    leaves = layer["weights"][name]
    y = product(x, leaves["kernel"].astype(x.dtype))
    if "bias" in leaves:
        y = y + leaves["bias"].astype(x.dtype)
    if "lora_a" in leaves:
        low = product(x.astype(jnp.float32), leaves["lora_a"])
        y = (y + product(low, layer["scales"][name] * leaves["lora_b"])).astype(x.dtype)
    return y


def _norm(x: Array, scale: Array, eps: float) -> Array:
    """`x / √(mean x² + ε) · scale` over the last axis, in float32."""
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt((wide**2).mean(-1, keepdims=True) + eps) * scale.astype(jnp.float32)).astype(x.dtype)


def _turned(x: Array, where: _Where) -> Array:
    """RoPE: the pair `(x_i, x_{i+d/2})` turned by `position · f_i`, in float32; `x` is ``[B, C, H, d]``."""
    first, second = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([first * where.cos - second * where.sin, first * where.sin + second * where.cos], -1)


def _heads(config: LlamaShape, layer: dict[str, Any], x: Array, where: _Where) -> tuple[Array, Array, Array]:
    """Queries ``[B, Hkv, G·C, d]`` of the G heads that share each key, divided by √d; keys and values ``[B, Hkv, C, d]``."""
    (batch, chunk, _), size, norms = x.shape, config.head_dim, layer["weights"]
    h = _norm(x, norms["attention_norm"]["scale"], config.norm_eps)
    q, k, v = (_linear(layer, name, h).reshape(batch, chunk, -1, size) for name in ("q", "k", "v"))
    if config.qk_norm:
        q = _norm(q, norms["q_norm"]["scale"], config.norm_eps)
        k = _norm(k, norms["k_norm"]["scale"], config.norm_eps)
    q = (_turned(q, where) * np.float32(size**-0.5)).astype(x.dtype).swapaxes(1, 2)
    k = _turned(k, where).astype(x.dtype).swapaxes(1, 2)
    return q.reshape(batch, config.kv_heads, -1, size), k, v.swapaxes(1, 2)


def _rest(config: LlamaShape, layer: dict[str, Any], x: Array, where: _Where, q: Array, k: Array, v: Array) -> Array:
    """Attention over the past and over `k, v`, then SwiGLU, each added to what came in. Softmax in float32."""
    batch, chunk, _ = x.shape
    masks = where.near
    if config.full and config.window is not None:
        masks = [jnp.where(layer["full"], *both) for both in zip(where.seen, where.near, strict=True)]
    parts = [*layer["past"], (k, v)]
    scores = []
    for (keys, _), seen in zip(parts, masks, strict=True):
        found = jnp.einsum("bhqd,bhkd->bhqk", q, keys).astype(jnp.float32)
        found = found.reshape(batch, config.kv_heads, -1, chunk, keys.shape[2])
        scores.append(jnp.where(seen[:, None, None], found, jnp.finfo(jnp.float32).min))
    top = lax.stop_gradient(reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores]))
    weights = [jnp.exp(part - top) for part in scores]
    total = reduce(jnp.add, [w.sum(-1, keepdims=True) for w in weights]).reshape(*q.shape[:3], 1)
    read = [
        jnp.einsum("bhqk,bhkd->bhqd", w.reshape(*q.shape[:3], -1).astype(x.dtype), values).astype(jnp.float32)
        for w, (_, values) in zip(weights, parts, strict=True)
    ]
    out = (reduce(jnp.add, read) / total).astype(x.dtype)  # fewer divisions than softmax
    out = out.reshape(batch, config.heads, chunk, -1).swapaxes(1, 2).reshape(batch, chunk, -1)
    x = constrain(x + _linear(layer, "o", out))
    h = _norm(x, layer["weights"]["mlp_norm"]["scale"], config.norm_eps)
    return constrain(x + _linear(layer, "down", jax.nn.silu(_linear(layer, "gate", h)) * _linear(layer, "up", h)))
