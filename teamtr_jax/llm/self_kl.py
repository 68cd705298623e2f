"""How far a policy is from itself, scored twice in programs of other shapes: below that no KL is seen."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax.hosts import gathered
from teamtr_jax.intervals import Interval, ratio
from teamtr_jax.llm.devices import in_chunks
from teamtr_jax.llm.given import Spoken, Text, reading_policy, text_of
from teamtr_jax.llm.language_model import LanguageModel, Params, Reading
from teamtr_jax.llm.losses import k3
from teamtr_jax.llm.mesh import constrain
from teamtr_jax.validation import InputError, concrete

__all__ = ["Floor", "self_kl_floor"]

LONGER = 8
"""Empty slots by which a row is longer the second time."""


class Floor(NamedTuple):
    """Per message, mean over messages with an interval over conversations. All are zero in exact arithmetic.

    A KL of two policies that is not well above its floor says nothing: what moved may be roundings. In float32 the floor is some
    1e-9 nats; in bfloat16 it has been seen at .2, ten times the radius of a region (SmolLM2, messages of 128 ids).
    """

    kl: Interval  #: `KL` over the vocabulary, nats
    k3: Interval  #: `Σ_u r − 1 − log r` of what was written, nats: what a trainer sees
    log_ratio: float  #: greatest `|Σ_u log r|` of a message

    def sees(self, kl: float, times: float = 3.0) -> bool:
        """Whether a KL is at least so many times the upper end of the floor's interval.

        Example:
          >>> Floor(*[Interval(1e-3, 5e-4, 2e-3, 3e-4, 9)] * 2, log_ratio=0.1).sees(5e-3)
          False
        """
        return kl >= times * self.kl.high


def self_kl_floor(
    model: LanguageModel,
    trained: Params,
    frozen: Params,
    reading: Reading,
    temperature: float | Array = 1.0,
    micro_batch: int = 16,
    alpha: float = 0.05,
) -> Floor:
    """Score a reading as it is in chunks of `micro_batch`, and with longer rows in chunks of half as many; compare.

    Args:
      reading: messages that count are those of `own`.

    Raises:
      InputError: a reading without a message, or scores that are not numbers.
    """
    if (own := concrete(reading.own)) is not None and not own.any():
        raise InputError("reading", "no message of the agent", "at least one")
    found = _scores(model, micro_batch, trained, frozen, jnp.asarray(temperature, jnp.float32), reading)
    kl, k3s, log_ratio, there = map(np.asarray, gathered(found))
    if not np.isfinite(log_ratio).all():
        raise InputError("params", "scores that are not numbers", "finite log-probabilities")
    count = there.sum(-1).astype(float)
    kl, k3s = (ratio(x.astype(float).sum(-1), count, alpha) for x in (kl, k3s))
    return Floor(kl, k3s, float(abs(log_ratio).max()))


@partial(jax.jit, static_argnums=(0, 1))
def _scores(
    model: LanguageModel, micro: int, trained: Params, frozen: Params, temperature: Array, reading: Reading
) -> tuple[Array, Array, Array, Array]:
    """KL, k3 and log ratio of each message ``[R, M]``, zero where there is none, and whether there is one."""
    policy = reading_policy(model, trained, frozen, temperature)
    leaves = policy.leaves(trained)
    head = policy.head(leaves)
    chunks = partial(in_chunks, constrain=partial(constrain, axis=1))

    def score(text: Text, micro: int) -> Array:
        return chunks(lambda text: policy.features(leaves, text), micro, None, text)

    text = text_of(reading)
    first, second = score(text, micro), score(_longer(text), max(micro // 2, 1))

    def compare(first: Array, second: Array, written: Array, own: Array) -> tuple[Array, Array, Array]:
        found = policy.compare(Spoken(first, head), Spoken(second, head), written)
        moved = found.new - found.current
        kl, k3s, moved = (jnp.where(own, x, 0.0).sum(-1) for x in (found.kl, k3(moved), moved))
        return kl, k3s, moved

    found = chunks(compare, micro, None, first, second, reading.written, reading.own)
    return *found, reading.own.any(-1)


def _longer(text: Text) -> Text:
    """The same text with empty slots behind each view; features are asked for where they were."""
    length = text.ids.shape[-1]
    ids, readable = (jnp.pad(x, ((0, 0), (0, 0), (0, LONGER))) for x in (text.ids, text.readable))
    return Text(ids, readable, text.at // length * (length + LONGER) + text.at % length, text.prompt)
