"""What every part of an update is given: the agent's network, the settings, the rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from teamtr_jax.llm.layout import Layout
from teamtr_jax.llm.losses import message_log_probs
from teamtr_jax.llm.model import ModelConfig, Params, policy_logits, split_trained
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings

__all__ = ["written_log_probs", "Policy", "policy_of", "Given", "Rows"]


def written_log_probs(
    config: ModelConfig, layout: Layout, params: Params, tokens: Int[Array, "R N"]
) -> Float[Array, "R turns L A"]:
    """Log-probabilities of everything that may be written at each message position.

    The last id predicts nothing and is not read; what the last layer makes of the prompt nobody asks for.
    """
    logits = policy_logits(config, layout, params, tokens[:, :-1], layout.prompt)
    return message_log_probs(layout, jnp.pad(logits, ((0, 0), (layout.prompt, 1), (0, 0))))


class Policy(NamedTuple):
    """An agent as a function of the numbers that an update may change."""

    start: Float[Array, " P"]  #: these numbers before the update
    leaves: Callable[[Float[Array, " P"]], list[Array]]  #: numbers → arrays of the network
    log_probs: Callable[[list[Array], Int[Array, "R N"]], Float[Array, "R turns L A"]]
    """(arrays, tokens) → log-probabilities of everything that may be written at each message position."""


def policy_of(config: ModelConfig, layout: Layout, params: Params) -> Policy:
    """The agent with these parameters."""
    leaves, merge = split_trained(params)
    start, unflat = ravel_pytree(leaves)

    def log_probs(trained: list[Array], tokens: Array) -> Array:
        return written_log_probs(config, layout, merge(trained), tokens)

    return Policy(start, unflat, log_probs)


class Given(NamedTuple):
    """The agent, how it is updated, and the devices."""

    policy: Policy
    compiled: CompiledSettings
    traced: TracedSettings
    beta: Float[Array, ""]
    mesh: Mesh | None


class Rows(NamedTuple):
    """Rollouts, those that are trained on first."""

    tokens: Int[Array, "R N"]
    written: Int[Array, "R turns L"]  #: the message positions of `tokens`
    own: Bool[Array, "R turns L"]  #: which of them an agent wrote whom the update moves
    credited: Bool[Array, "R turns L"]  #: which of these the surrogate that is ascended is made of
    advantage: Float[Array, " R"]  #: what the update uses
    centred: Float[Array, " R"]  #: unbiased
    weight: Float[Array, " R"]  #: importance weight of the transcript
    counts: Float[Array, " R"]  #: 1, or 0 for a rollout that is left out of the loss

    def take(self, index: Array | NDArray[np.int64] | slice) -> Rows:
        """Some of them."""
        return jax.tree.map(lambda x: x[index], self)

    @property
    def messages(self) -> Float[Array, "R turns"]:
        """The weight of each message of the agents that move; zero elsewhere."""
        return self.weight[:, None] * self.own.any(-1)
