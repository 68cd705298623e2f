"""What the update, the samplers and the enumeration need of a network: they know no architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int

__all__ = ["Params", "Cache", "LanguageModel", "Reading", "logits_of", "split_trained", "joined"]

Params = Any
"""Nested dicts of arrays; of a stack of like layers each leaf has a leading axis of layers."""

Cache = Any
"""What a network keeps of the ids it has read: leaves ``[…, B, H, N, d]``, N positions."""


@runtime_checkable
class LanguageModel(Protocol):
    """A decoder-only network: hashable, a static argument of `jit`; its parameters go beside it.

    Ids stand in slots ``0 … N−1`` of a row. Slot q reads slot k if `k ≤ q` and k is readable, or `k = q`. Where a network says
    that an id *stands* is its own convention: the toy counts slots, the Llama family counts the readable ids before it.
    """

    @property
    def vocabulary(self) -> int:
        """V: ids that can be written, `0 … V−1`, the rows of the head. More may be read."""
        ...

    @property
    def width(self) -> int:
        """D: of the features."""
        ...

    def init(self, key: Array) -> Params:
        """Random parameters."""
        ...

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache of `length` slots."""
        ...

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
        """What the head reads, of the chunk in the slots `start … start+C−1`, from its entry `first` on (M = C − first).

        Without a cache the chunk begins where `past` ends, N its last slot, and comes back as one would hold it. With a cache,
        which begins there, the chunk must end within it; it comes back with the chunk in it. `past` is only read.
        """
        ...

    def head(self, params: Params) -> Float[Array, "V D"]:
        """The last linear map: `logits = features · headᵀ`, in float32 whatever the dtype of the rest (`logits_of`)."""
        ...

    def trained(self, params: Params) -> Any:
        """Which leaves an update may change, a pytree of Booleans: adapters where there are some, everything otherwise."""
        ...

    def partition(self) -> tuple[tuple[str, PartitionSpec], ...]:
        """How parameters lie on a mesh with the axes ``rows``, ``fsdp``, ``tensor``: (regular expression on the path, spec).

        The first that matches counts.
        """
        ...


def logits_of(features: Float[Array, "*batch D"], head: Float[Array, "V D"]) -> Float[Array, "*batch V"]:
    """`features · headᵀ` in float32 at least."""
    wide = jnp.promote_types(features.dtype, jnp.float32)
    flat = features.reshape(-1, features.shape[-1]).astype(wide)
    return (flat @ head.astype(wide).T).reshape(*features.shape[:-1], head.shape[0])


def split_trained(params: Params, trained: Any) -> tuple[Params, Params]:
    """Parameters in two: the leaves that an update may change, and the frozen ones; `joined` puts them together again.

    Both are nested dicts with the paths of `params`, and the leaves are the same arrays.

    Args:
      trained: a pytree of Booleans (`LanguageModel.trained`).

    Example:
      >>> params = {"a": {"kernel": 1, "lora_a": 2}, "head": 3}
      >>> split_trained(params, {"a": {"kernel": False, "lora_a": True}, "head": False})
      ({'a': {'lora_a': 2}}, {'a': {'kernel': 1}, 'head': 3})
    """
    return _chosen(params, trained), _chosen(params, jax.tree.map(lambda x: not x, trained))


def _chosen(params: Params, which: Any) -> Params:
    """The leaves that are chosen, without dicts that would be empty."""
    out = {}
    for name, value in params.items():
        if not isinstance(value, Mapping):
            out |= {name: value} if which[name] else {}
        elif inner := _chosen(value, which[name]):
            out[name] = inner
    return out


def joined(trained: Params, frozen: Params) -> Params:
    """One tree of both; the inverse of `split_trained`.

    Example:
      >>> joined({"a": {"lora_a": 2}}, {"a": {"kernel": 1}, "head": 3})
      {'a': {'kernel': 1, 'lora_a': 2}, 'head': 3}
    """
    out = dict(frozen)
    for name, value in trained.items():
        out[name] = joined(value, out.get(name, {})) if isinstance(value, Mapping) else value
    return out


class Reading(NamedTuple):
    """Conversations as one set of parameters reads them, R rows; those that are trained on first.

    A set of parameters that several agents share reads each conversation once for each of them: V views. A view is a row of ids
    from slot 0 on, of the agent's own encoding. M messages of at most L ids were written by these agents.
    """

    ids: Int[Array, "R V T"]
    readable: Bool[Array, "R V T"]
    at: Int[
        Array, "R M L"
    ]  #: slot ``view·T + t`` whose features predict the id of each message position; 0 where there is none
    written: Int[Array, "R M L"]  #: the id there
    own: Bool[Array, "R M L"]  #: whether there is one that an agent wrote whom the update moves
    credited: Bool[Array, "R M L"]  #: whether the surrogate that is ascended is made of it
