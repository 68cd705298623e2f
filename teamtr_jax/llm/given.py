"""What every part of an update is given: the agent as a policy, the settings, the rollouts.

A `Policy` knows no architecture: of a network it has the features at the tokens that were written, and the head. What it reads is
its own affair, a pytree with a leading axis of rows: of a toy team the ids of a `Layout`, of a text team a `Reading`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from teamtr_jax.llm.devices import in_chunks
from teamtr_jax.llm.language_model import LanguageModel, Params, Reading, joined, split_trained
from teamtr_jax.llm.layout import Layout
from teamtr_jax.llm.model import ModelConfig, language_model, policy_head
from teamtr_jax.llm.token_statistics import TokenStatistics, token_statistics
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings

__all__ = ["Spoken", "Policy", "layout_policy", "Shared", "NOTHING", "Text", "text_of", "Begun", "reading_policy", "Given",
           "Rows", "unchanged"]  # fmt: skip


class Spoken(NamedTuple):
    """A policy at the tokens that were written: `softmax(features · headᵀ / temperature)`, which is never whole."""

    features: Float[Array, "R M L D"]
    head: Float[Array, "V D"]


class Policy(NamedTuple):
    """An agent as a function of the numbers that an update may change."""

    start: Any  #: these numbers before the update: a pytree
    leaves: Callable[[Any], Any]
    """Numbers → arrays that features and head are made of, once for all rows: the network's, and what it keeps of beginnings."""
    features: Callable[
        [Any, Any], Float[Array, "R M L D"]
    ]  #: (arrays, what it reads) → features at each message position
    head: Callable[[Any], Float[Array, "V D"]]  #: arrays → rows of what may be written
    temperature: float | Array

    def compare(self, current: Spoken | None, new: Spoken, written: Int[Array, "R M L"]) -> TokenStatistics:
        """Two policies at the same tokens; without a current one the new one with itself, as it is."""
        return token_statistics(*(current or (None, None)), *new, written, temperature=self.temperature)


def layout_policy(config: ModelConfig | LanguageModel, layout: Layout, params: Params) -> Policy:
    """The agent of a toy team, which reads transcripts ``[R, N]`` of a layout; its numbers are one vector.

    The last id predicts nothing and is not read; what the last layer makes of the prompt nobody asks for.
    """
    model = language_model(config, layout)
    trained, frozen = split_trained(params, model.trained(params))
    start, leaves = ravel_pytree(trained)

    def features(trained: Params, tokens: Int[Array, "R N"]) -> Float[Array, "R turns L D"]:
        readable = tokens != layout.vocabulary.pad
        found, _ = model.features(joined(trained, frozen), tokens[:, :-1], readable[:, :-1], first=layout.prompt)
        # The entry of a position is about the next one: these are the headers and all positions of a message but the last.
        turns = jnp.pad(found, ((0, 0), (0, 1), (0, 0))).reshape(len(tokens), layout.turns, 1 + layout.message, -1)
        return turns[:, :, :-1]

    def head(trained: Params) -> Float[Array, "A D"]:
        return policy_head(config, layout, joined(trained, frozen))

    return Policy(start, leaves, features, head, layout.temperature)


class Text(NamedTuple):
    """What a `Reading` gives a network to read, and where its features are asked for."""

    ids: Int[Array, "R V T"]
    readable: Bool[Array, "R V T"]
    at: Int[Array, "R M L"]
    prompt: Int[Array, " R"]  #: which beginning is the row's


class Shared(NamedTuple):
    """What the rows of a reading have in common; static."""

    slots: int = 0  #: P: so many first ids of each view are those of all rows of the prompt, and read once
    group: int = 1  #: G: the rows b·G to b·G + G − 1 are of prompt b


NOTHING = Shared()
"""Every row is read whole."""


def text_of(reading: Reading, shared: Shared = NOTHING) -> Text:
    """What a network reads of a reading."""
    prompt = jnp.arange(reading.ids.shape[0], dtype=jnp.int32) // shared.group
    return Text(reading.ids, reading.readable, reading.at, prompt)


class Begun(NamedTuple):
    """Ids with which the rows of each prompt begin, to be read once."""

    ids: Int[Array, "B V P"]
    most: int  #: views that are read at once; the rest after them, and once more on the way back


class _Leaves(NamedTuple):
    """What the features of a text are made of."""

    trained: Params
    last: Array | None  #: [B·V, 1, D] features at the last slot of the beginnings
    past: Any  #: `Cache` of the beginnings


def reading_policy(
    model: LanguageModel, trained: Params, frozen: Params, temperature: float | Array, begun: Begun | None = None
) -> Policy:
    """The agent of a text team, which reads the `Text` of a `Reading`; its numbers are its trained leaves.

    Args:
      begun: what rows have in common; features are asked for from its last slot on.
    """

    def leaves(trained: Params) -> _Leaves:
        return _Leaves(trained, *((None, ()) if begun is None else _read(model, joined(trained, frozen), begun)))

    def features(leaves: _Leaves, text: Text) -> Float[Array, "R M L D"]:
        (rows, views, length), params = text.ids.shape, joined(leaves.trained, frozen)
        readable, skipped = text.readable.reshape(rows * views, length), 0
        if begun is None:
            found, _ = model.features(params, text.ids.reshape(rows * views, length), readable)
        else:
            slots = begun.ids.shape[2]
            ids, skipped = text.ids[:, :, slots:].reshape(rows * views, length - slots), slots - 1
            own = (text.prompt[:, None] * views + jnp.arange(views)).reshape(-1)
            past = jax.tree.map(lambda x: jnp.take(x, own, x.ndim - 4, mode="clip"), leaves.past)
            found, _ = model.features(params, ids, readable, slots, past=(past,))
            assert leaves.last is not None
            found = jnp.concatenate([leaves.last[own], found], 1)
        found = found.reshape(rows, views * (length - skipped), -1)
        view, slot = jnp.divmod(text.at.reshape(rows, -1, 1), length)
        at = view * (length - skipped) + jnp.maximum(slot - skipped, 0)
        return jnp.take_along_axis(found, at, 1).reshape(*text.at.shape, -1)

    return Policy(trained, leaves, features, lambda leaves: model.head(joined(leaves.trained, frozen)), temperature)


def _read(model: LanguageModel, params: Params, begun: Begun) -> tuple[Array, Any]:
    """Features at the last slot of every beginning, and what the network keeps of them."""
    ids = begun.ids.reshape(-1, begun.ids.shape[2])
    count, most = len(ids), begun.most

    def read(ids: Array) -> tuple[Array, Any]:
        found, past = model.features(params, ids, jnp.ones_like(ids, bool))
        return found[:, -1:], past

    if count <= most:
        return read(ids)
    chunks = jnp.pad(ids, ((0, -count % most), (0, 0)), mode="edge").reshape(-1, most, ids.shape[1])
    last, past = jax.lax.map(jax.checkpoint(read), chunks)

    def whole(x: Array) -> Array:  # [chunks, …, most, H, P, d]
        x = jnp.moveaxis(x, 0, -5)
        return jax.lax.slice_in_dim(x.reshape(*x.shape[:-5], -1, *x.shape[-3:]), 0, count, axis=x.ndim - 5)

    return last.reshape(-1, *last.shape[2:])[:count], jax.tree.map(whole, past)


def unchanged(x: Any) -> Any:
    """The identity."""
    return x


class Given(NamedTuple):
    """The agent, how it is updated, and the devices."""

    policy: Policy
    compiled: CompiledSettings
    traced: TracedSettings
    beta: Float[Array, ""]
    mesh: Mesh | None  #: whose devices divide the rows by `shard_map`
    constrain: Callable[[Any], Any] = unchanged
    """Says where arrays ``[chunks, micro, …]`` of rows lie on a mesh of automatic axes."""

    def in_chunks(self, f: Callable[..., Any], *rows: Any) -> Any:
        """`f` on `micro_batch` rows at a time; results as if on all."""
        return in_chunks(f, self.compiled.micro_batch, self.mesh, *rows, constrain=self.constrain)


class Rows(NamedTuple):
    """Rollouts, those that are trained on first. M messages, of a layout its turns, of at most L ids."""

    text: Any  #: what the policy reads, each leaf ``[R, …]``
    written: Int[Array, "R M L"]  #: the id at each message position
    own: Bool[Array, "R M L"]  #: which of them an agent wrote whom the update moves
    credited: Bool[Array, "R M L"]  #: which of these the surrogate that is ascended is made of
    advantage: Float[Array, " R"]  #: what the update uses
    centred: Float[Array, " R"]  #: unbiased
    weight: Float[Array, " R"]  #: importance weight of the transcript
    counts: Float[Array, " R"]  #: 1, or 0 for a rollout that is left out of the loss

    def take(self, index: Array | NDArray[np.int64] | slice) -> Rows:
        """Some of them."""
        return jax.tree.map(lambda x: x[index], self)

    @property
    def messages(self) -> Float[Array, "R M"]:
        """The weight of each message of the agents that move; zero elsewhere."""
        return self.weight[:, None] * self.own.any(-1)
