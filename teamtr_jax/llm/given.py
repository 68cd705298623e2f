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
from teamtr_jax.llm.language_model import LanguageModel, Params, joined, split_trained
from teamtr_jax.llm.layout import Layout
from teamtr_jax.llm.model import ModelConfig, language_model, policy_head
from teamtr_jax.llm.token_statistics import TokenStatistics, token_statistics
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings

__all__ = ["Spoken", "Policy", "layout_policy", "Text", "reading_policy", "Given", "Rows", "unchanged"]


class Spoken(NamedTuple):
    """A policy at the tokens that were written: `softmax(features · headᵀ / temperature)`, which is never whole."""

    features: Float[Array, "R M L D"]
    head: Float[Array, "V D"]


class Policy(NamedTuple):
    """An agent as a function of the numbers that an update may change."""

    start: Any  #: these numbers before the update: a pytree
    leaves: Callable[[Any], Any]
    """Numbers → arrays of the network. The identity, unless the numbers are one vector, which compiles quicker."""
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


def reading_policy(model: LanguageModel, trained: Params, frozen: Params, temperature: float | Array) -> Policy:
    """The agent of a text team, which reads the `Text` of a `Reading`; its numbers are its trained leaves."""

    def features(trained: Params, text: Text) -> Float[Array, "R M L D"]:
        rows, views, length = text.ids.shape
        ids, readable = (x.reshape(rows * views, length) for x in (text.ids, text.readable))
        found = model.features(joined(trained, frozen), ids, readable)[0].reshape(rows, views * length, -1)
        at = text.at.reshape(rows, -1, 1)
        return jnp.take_along_axis(found, at, 1).reshape(*text.at.shape, -1)

    return Policy(trained, unchanged, features, lambda trained: model.head(joined(trained, frozen)), temperature)


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
