"""What the update, the samplers and the enumeration need of a network: they know no architecture."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int

__all__ = ["Params", "Cache", "LanguageModel", "Reading", "logits_of"]

Params = Any
"""Nested dicts of arrays; of a stack of like layers each leaf has a leading axis of layers."""

Cache = Any
"""What a network keeps of the ids it has read: leaves ``[…, B, H, N, d]``, N positions."""


@runtime_checkable
class LanguageModel(Protocol):
    """A decoder-only network: hashable, a static argument of `jit`; its parameters go beside it.

    Ids stand in slots ``0 … N−1`` of a row. Slot q reads slot k if `k ≤ q` and k is readable, or `k = q`. The position of an id is
    the network's own convention: the toy counts slots, the Llama family counts the readable ids before it.
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

        Without a cache N = C. With one, which begins where `past` ends, the chunk must end within it; it comes back with the
        chunk in it, and `past` is only read.
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
