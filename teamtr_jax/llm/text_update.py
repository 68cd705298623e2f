"""One agent's update on what it read and wrote of text conversations: `update.improve` on a `Reading`, one compiled program.

Parameters are in two: trained leaves, float32, whose shardings survive, and frozen ones, an argument of the program, which agents
on one base have in common.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.llm.ascend import optimiser_of
from teamtr_jax.llm.devices import in_chunks
from teamtr_jax.llm.given import Given, Rows, Text, reading_policy
from teamtr_jax.llm.language_model import LanguageModel, Params, Reading, split_trained
from teamtr_jax.llm.mesh import constrain
from teamtr_jax.llm.token_statistics import token_log_probs_of
from teamtr_jax.llm.update import Improved, Lesson, improve
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings, UpdateSettings, parts
from teamtr_jax.validation import concrete, integers, permutation

__all__ = ["Learner", "learner", "update_reading", "score_reading", "text_programs"]


class Learner(NamedTuple):
    """What an update changes of one set of parameters."""

    trained: Params  #: the leaves that it may change
    moments: Any
    beta: Float[Array, ""]


def learner(model: LanguageModel, params: Params, settings: UpdateSettings) -> tuple[Learner, Params]:
    """A set of parameters at the start of training, and its frozen leaves.

    Trained leaves are float32 at least: at small rates few bfloat16 weights ever move, and a second moment in it does not decay.
    """
    trained, frozen = split_trained(params, model.trained(params))
    trained = jax.tree.map(lambda x: jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)), trained)
    beta = jnp.asarray(settings.beta, jnp.float32)
    return Learner(trained, optimiser_of(parts(settings)[1]).init(trained), beta), frozen


_in_chunks = partial(in_chunks, constrain=partial(constrain, axis=1))


@partial(jax.jit, static_argnums=(0, 1))
def _score(
    model: LanguageModel, micro: int, trained: Params, frozen: Params, temperature: Array, reading: Reading
) -> Array:
    policy = reading_policy(model, trained, frozen, temperature)
    head = policy.head(trained)

    def chunk(text: Text, written: Array) -> Array:
        return token_log_probs_of(policy.features(trained, text), head, written, temperature=temperature)

    return _in_chunks(chunk, micro, None, _text(reading), reading.written)


def score_reading(
    model: LanguageModel,
    trained: Params,
    frozen: Params,
    reading: Reading,
    temperature: float | Array = 1.0,
    micro_batch: int = 16,
) -> Float[Array, "R M L"]:
    """Log-probability of what was written at each message position; meaningless where nothing was."""
    return _score(model, micro_batch, trained, frozen, jnp.asarray(temperature, jnp.float32), reading)


def _text(reading: Reading) -> Text:
    return Text(reading.ids, reading.readable, reading.at)


@partial(jax.jit, static_argnums=(0, 1))
def _update(
    model: LanguageModel,
    compiled: CompiledSettings,
    own: Learner,
    frozen: Params,
    temperature: Array,
    reading: Reading,
    lesson: Lesson,
    *,
    traced: TracedSettings,
    order: Array,
) -> Improved:
    policy = reading_policy(model, own.trained, frozen, temperature)
    given = Given(policy, compiled, traced, own.beta, None, partial(constrain, axis=1))
    rows = Rows(_text(reading), reading.written, reading.own, reading.credited, *lesson)
    return improve(given, rows, own.moments, order)


def update_reading(
    model: LanguageModel,
    settings: UpdateSettings,
    own: Learner,
    frozen: Params,
    reading: Reading,
    lesson: Lesson,
    order: Int[Array, "epochs training"],
    *,
    temperature: float | Array = 1.0,
) -> Improved:
    """Algorithm 1's update of one set of parameters (`update_agent` says what is ascended).

    Args:
      frozen: the leaves that are no part of `own`.
      reading: what these parameters read; `own` and `credited` in it say whose messages count for what.
      order: the order in which each epoch visits the rows that are trained on, which are the first ones.

    Raises:
      InputError: an order that is none of the rows.
    """
    if (visits := concrete(order)) is not None:
        for rows in integers("order", visits, 0, reading.ids.shape[0]):
            permutation("order", rows, len(rows))
    compiled, traced = parts(settings)
    heat = jnp.asarray(temperature, jnp.float32)
    return _update(model, compiled, own, frozen, heat, reading, lesson, traced=traced, order=order)


def text_programs() -> dict[str, int]:
    """How many programs have been compiled for updates and for scoring of readings, in this process."""
    compiled: dict[str, Any] = {"update": _update, "score": _score}
    return {name: program._cache_size() for name, program in compiled.items()}
