"""What an update on text needs in memory, computed from shapes alone before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from teamtr_jax.llm.checked import whole
from teamtr_jax.llm.language_model import LanguageModel, Params, joined, split_trained
from teamtr_jax.llm.sizes import device_memory
from teamtr_jax.llm.token_statistics import block_of
from teamtr_jax.sizes import bytes_text, most
from teamtr_jax.validation import InputError

__all__ = ["BLOCKS", "TextSizes", "Needs", "bytes_beside", "text_needs", "needs_text", "require_text_room"]

FLOAT = 4
"""Bytes of a float32: of trained leaves, moments, logits, slopes in features."""

BLOCKS = 6
"""Arrays ``[chunk, V]`` that are alive at once while token statistics are computed: logits, probabilities, what is between."""

ADAM = 3
"""Arrays of the size of what is trained that a state has: the leaves, and two moments."""

GRADIENTS = 2
"""Arrays of the size of what is trained: of the minibatch, and of the micro-batch that is added to it."""

LOGITS = 3
"""Arrays ``[rows, V]`` that are alive while ids are drawn."""

MANY = 65_521
"""Rows for which shapes are asked: a prime, so that an axis that it divides is one of rows. No array is made."""


@dataclass(frozen=True)
class TextSizes:
    """Of one update on what a set of parameters reads.

    Raises:
      InputError: names the setting.
    """

    rows: int  #: R, conversations
    length: int  #: T, ids of a view
    written: int  #: M·L, message positions of a conversation
    micro_batch: int  #: rows whose gradient is taken at once
    views: int = 1  #: V: agents that share the parameters
    sets: int = 1  #: sets of trained leaves on one base
    row_devices: int = 1  #: among which rows are divided
    parameter_devices: int = 1  #: among which each parameter is divided
    beside: int = 0  #: bytes of the bases of others (`bytes_beside`)
    shared: int = 0  #: P, first slots of a view that are read once for all rows of a prompt
    group: int = 1  #: these rows

    def __post_init__(self) -> None:
        whole(self, 1, *(name for name in self.__dataclass_fields__ if name not in ("beside", "shared")))
        whole(self, 0, "beside", "shared")


class Needs(NamedTuple):
    """Bytes on each device."""

    frozen: int  #: every base of the team, once
    trained: int  #: trained leaves with their moments, of every set, before its update and after
    gradient: int  #: of the micro-batch and of the minibatch
    head: int  #: the head in float32, where it is kept in another dtype
    features: int  #: of the policy as it was, at every message position, and of a micro-batch with their slopes
    activations: int  #: of a micro-batch, that a backward pass asks for
    beginnings: int  #: what is kept of shared slots with its slopes, a micro-batch's copy, activations of reading them
    statistics: int  #: blocks of positions × vocabulary
    sampler: int
    """Caches of every set, the logits that ids are drawn from, and of a network that says `unroll` the copy of its layers that it
    writes with; not at the same time as the update."""

    @property
    def update(self) -> int:
        """At the peak of an update."""
        return sum(self) - self.sampler

    @property
    def peak(self) -> int:
        """Of a stage: sampling or an update, whichever takes more."""
        kept = self.frozen + self.trained
        return kept + max(self.sampler, self.update - kept)


def _bytes(tree: Any) -> int:
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def bytes_beside(frozen: Sequence[Params], which: int) -> int:
    """Of the frozen arrays of all sets of parameters, those that set `which` has not got, each once: the bases of others."""
    arrays = {id(x): x for own in frozen for x in jax.tree.leaves(own)}
    return _bytes([x for number, x in arrays.items() if number not in set(map(id, jax.tree.leaves(frozen[which])))])


def _kept(model: LanguageModel, trained: Params, frozen: Params, length: int, past: int) -> int:
    """Bytes that a backward pass asks for of a row ``[T]`` of ids: what autodiff keeps that has an axis of rows.

    Args:
      past: so many first ids of the row were read before.
    """

    def read(params: Params, ids: jax.Array, *more: Any) -> Any:
        return model.features(params, ids, jnp.ones((MANY, length if more else past), bool), *more)

    def forward(trained: Params, frozen: Params, ids: jax.Array, begun: Any) -> Any:
        def features(trained: Params, begun: Any) -> Any:
            return read(joined(trained, frozen), ids, past, None, (begun,) if past else ())[0]

        return jax.vjp(features, trained, begun)

    first, rest = (jax.ShapeDtypeStruct((MANY, count), jnp.int32) for count in (past, length - past))
    begun = jax.eval_shape(read, joined(trained, frozen), first)[1] if past else ()
    kept = jax.tree.leaves(jax.eval_shape(forward, trained, frozen, rest, begun))
    return _bytes([x for x in kept if any(size % MANY == 0 for size in x.shape)]) // MANY


@lru_cache(maxsize=64)
def _activations(model: Any, length: int, past: int = 0) -> tuple[int, int]:
    """Bytes of a row that are kept over a forward pass, and those that a backward pass through one layer has besides.

    These are as many as are kept of one layer: its cotangents, or with `remat` what is computed again.
    """

    def of(model: LanguageModel) -> int:
        params = jax.eval_shape(model.init, jax.random.key(0))
        return _kept(model, *split_trained(params, model.trained(params)), length, past)

    if not hasattr(model, "remat"):
        return of(model), 0
    lora = model.lora and replace(model.lora, ranks=(), alphas=())  # exceptions may name layers that are left out
    layer = of(replace(model, remat=False, layers=1, full=(), lora=lora))
    return of(model), layer


def text_needs(model: LanguageModel, sizes: TextSizes) -> Needs:
    """What an update of a network takes, from the shapes of its parameters and of what autodiff keeps; no array is made."""
    return _needs(model, sizes.length, sizes.shared)(sizes)


@lru_cache(maxsize=64)
def _needs(model: LanguageModel, length: int, shared: int) -> Callable[[TextSizes], Needs]:
    """As a function of the other sizes; the network is traced once."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    trained, frozen = split_trained(params, model.trained(params))
    numbers = sum(x.size for x in jax.tree.leaves(trained))
    head = jax.eval_shape(model.head, params)
    features = jax.eval_shape(
        lambda params, ids, readable: model.features(params, ids, readable)[0],
        params,
        *(jax.ShapeDtypeStruct((1, 2), dtype) for dtype in (jnp.int32, jnp.bool_)),
    )
    kept, besides = _activations(model, length, shared)
    begun = sum(_activations(model, shared)) if shared else 0
    cache = _bytes(jax.eval_shape(lambda: model.init_cache(1, length)))
    prepare: Any = getattr(model, "prepared", None) if getattr(model, "unroll", False) else None
    copied = 0 if prepare is None else _bytes(jax.eval_shape(prepare, params)["layers"])

    def of(sizes: TextSizes) -> Needs:
        rows, micro = (-(-n // sizes.row_devices) for n in (sizes.rows, min(sizes.micro_batch, sizes.rows)))
        split = sizes.parameter_devices
        position = model.width * features.dtype.itemsize
        # The policy as it was is there twice, while what a step found is put in its place. Of a micro-batch there is what was
        # found of both policies, the same in float32, and the two slopes.
        found = 2 * rows * position + micro * (2 * position + 4 * model.width * FLOAT)
        block = min(block_of(model.vocabulary, sizes.micro_batch * sizes.written), sizes.micro_batch * sizes.written)
        statistics = BLOCKS * FLOAT * model.vocabulary * -(-block // sizes.row_devices)
        activations = micro * sizes.views * kept + max(micro * sizes.views * besides - statistics, 0)
        # Of beginnings: caches of every prompt, their slopes and those of a micro-batch, which are as many; what its rows read
        # of them, with slopes; what reading them keeps. More than a micro-batch are read again after it, a few at a time.
        prompts, wide = -(-sizes.rows // sizes.group), FLOAT / jnp.dtype(features.dtype).itemsize
        caches = (prompts * (2 + wide) + micro * (1 + wide)) * cache * shared / length
        again = max(micro * sizes.views * begun - activations, 0)
        beginnings = sizes.views * int(caches) + (sizes.views * prompts * begun if prompts <= micro else again)
        return Needs(
            frozen=(_bytes(frozen) + sizes.beside) // split,
            trained=2 * sizes.sets * ADAM * numbers * FLOAT // split,
            gradient=GRADIENTS * numbers * FLOAT // split,
            head=0 if head.dtype == jnp.float32 else head.size * FLOAT // split,
            features=found * sizes.written,
            activations=activations,
            beginnings=beginnings if shared else 0,
            statistics=statistics,
            sampler=rows * sizes.sets * sizes.views * cache
            + LOGITS * FLOAT * rows * model.vocabulary
            + copied // split,
        )

    return of


def needs_text(needs: Needs, limit: int | None = None) -> str:
    """One line: what is printed before a run.

    Args:
      limit: bytes of a device; default those of the first.

    Example:
      >>> print(needs_text(Needs(300, 20, 0, 0, 0, 600, 0, 80, 100), 2_000))
      an update takes 1 kB of 2 kB: frozen 300 B, trained 20 B, activations 600 B, statistics 80 B; sampling 420 B
    """
    parts = [f"{name} {bytes_text(x)}" for name, x in needs._asdict().items() if name != "sampler" and x]
    limit = device_memory() if limit is None else limit
    text = f"an update takes {bytes_text(needs.update)} of {bytes_text(limit)}: " + ", ".join(parts)
    return f"{text}; sampling {bytes_text(needs.frozen + needs.trained + needs.sampler)}"


def require_text_room(model: LanguageModel, sizes: TextSizes, limit: int | None = None) -> Needs:
    """Refuse an update that needs more memory than a device has, before it is compiled, with the estimate and what would fit.

    Raises:
      InputError: names `base` where parameters alone do not fit; `rows` where one row at a time does not; else `micro_batch`.
    """
    of, limit = _needs(model, sizes.length, sizes.shared), device_memory() if limit is None else limit
    needs = of(sizes)
    if needs.peak <= limit:
        return needs
    have = f"{bytes_text(limit)} of memory"
    if (alone := needs.frozen + needs.trained + needs.gradient + needs.head) > limit:
        numbers = sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
        found = f"{numbers:,} parameters, {sizes.sets} sets of what is trained: at least {bytes_text(alone)}"
        expected = "a smaller checkpoint, adapters in place of all parameters, bfloat16 or more devices"
        raise InputError("base", found, f"{expected}, for {have}")

    def needed(rows: int, micro: int) -> int:
        return of(replace(sizes, rows=max(rows, 1), micro_batch=max(micro, 1))).peak

    if (least := needed(sizes.rows, sizes.row_devices)) > limit:
        fits = most(lambda rows: needed(rows, sizes.row_devices), limit) if needed(1, 1) <= limit else 0
        found = f"{sizes.rows:,} of {sizes.length:,} ids: at least {bytes_text(least)}"
        raise InputError("rows", found, f"at most {fits:,}, for {have}" if fits else f"shorter texts, for {have}")
    fits = most(lambda micro: needed(sizes.rows, micro), limit)
    found = f"{sizes.micro_batch:,} of {sizes.length:,} ids: at least {bytes_text(needs.peak)}"
    raise InputError("micro_batch", found, f"at most {fits:,}, for {have}")
