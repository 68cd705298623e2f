"""One agent's update on what it read and wrote of text conversations: `update.improve` on a `Reading`, one compiled program.

What the conversations about one problem have in common, the role and the problem, is read once: `Shared`.

Parameters are in two: trained leaves, float32, whose shardings survive, and frozen ones, an argument of the program, which agents
on one base have in common.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.llm.ascend import optimiser_of
from teamtr_jax.llm.devices import in_chunks
from teamtr_jax.llm.given import NOTHING, Begun, Given, Policy, Rows, Shared, Text, reading_policy, text_of
from teamtr_jax.llm.language_model import LanguageModel, Params, Reading, split_trained
from teamtr_jax.llm.mesh import constrain
from teamtr_jax.llm.token_statistics import token_log_probs_of
from teamtr_jax.llm.update import Improved, Lesson, improve
from teamtr_jax.llm.update_settings import CompiledSettings, TracedSettings, UpdateSettings, parts
from teamtr_jax.validation import InputError, concrete, integers, permutation, whole_number

__all__ = ["Learner", "learner", "update_reading", "score_reading", "shared_of", "worth_sharing", "text_programs"]

LEAST = 32
"""Slots that are worth reading once."""


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


class _Program(NamedTuple):
    """What every program is compiled for."""

    model: LanguageModel
    shared: Shared

    def policy(self, trained: Params, frozen: Params, temperature: Array, reading: Reading, micro: int) -> Policy:
        """The agent; what the rows of a prompt have in common it reads once, at most `micro` of them at a time."""
        ids = reading.ids[:: self.shared.group, :, : self.shared.slots]
        begun = Begun(ids, micro * ids.shape[1]) if self.shared.slots else None
        return reading_policy(self.model, trained, frozen, temperature, begun)


@partial(jax.jit, static_argnums=(0, 1))
def _score(
    program: _Program, micro: int, trained: Params, frozen: Params, temperature: Array, reading: Reading
) -> Array:
    policy = program.policy(trained, frozen, temperature, reading, micro)
    leaves = policy.leaves(trained)
    head = policy.head(leaves)

    def chunk(text: Text, written: Array) -> Array:
        return token_log_probs_of(policy.features(leaves, text), head, written, temperature=temperature)

    return _in_chunks(chunk, micro, None, text_of(reading, program.shared), reading.written)


def score_reading(
    model: LanguageModel,
    trained: Params,
    frozen: Params,
    reading: Reading,
    temperature: float | Array = 1.0,
    micro_batch: int = 16,
    shared: Shared = NOTHING,
) -> Float[Array, "R M L"]:
    """Log-probability of what was written at each message position; meaningless where nothing was.

    Args:
      shared: what is read once for all rows of a prompt (`shared_of`).

    Raises:
      InputError: rows that have less in common.
    """
    _require_shared(reading, shared)
    heat = jnp.asarray(temperature, jnp.float32)
    return _score(_Program(model, shared), micro_batch, trained, frozen, heat, reading)


def shared_of(reading: Reading, group: int, step: int | None = None) -> Shared:
    """What the rows of each prompt have in common, `group` rows one after the other: of 32, 64, 128, … slots the most.

    Args:
      step: rows of a step of an update; none where rows are only scored.
    """
    whole_number("group", group, 1)
    slots = worth_sharing(_common(reading, group), len(reading.ids) // group, step)
    return Shared(slots, group) if slots else NOTHING


def worth_sharing(common: int, prompts: int = 1, step: int | None = None) -> int:
    """Slots that are read once where so many are common: powers of two, each another program, from 32 on.

    None where a step has fewer rows than there are prompts: it would read the beginnings of all.

    Example:
      >>> [worth_sharing(common) for common in (31, 32, 63, 64, 200)], worth_sharing(64, 9, 8), worth_sharing(64, 8, 8)
      ([0, 32, 32, 64, 128], 0, 64)
    """
    worth = common >= LEAST and (step is None or prompts <= step)
    return 2 ** (common.bit_length() - 1) if worth else 0


def _common(reading: Reading, group: int) -> int:
    """How many first ids of every view all rows of its prompt have, none of which an agent of these parameters wrote."""
    ids, readable, at = np.asarray(reading.ids), np.asarray(reading.readable), np.asarray(reading.at)
    if group == 1 or len(ids) % group:
        return 0
    by_prompt = ids.reshape(-1, group, *ids.shape[1:])
    alike = (by_prompt == by_prompt[:, :1]).all((0, 1, 2)) & readable.all((0, 1))
    first = (at % ids.shape[2])[np.asarray(reading.own)].min(initial=ids.shape[2] - 2) + 1
    return min(int(np.append(alike, False).argmin()), int(first))


def _require_shared(reading: Reading, shared: Shared) -> None:
    whole_number("shared.slots", shared.slots, 0)
    whole_number("shared.group", shared.group, 1)
    if shared.slots and concrete(reading.ids) is not None and (found := _common(reading, shared.group)) < shared.slots:
        raise InputError("shared", f"{shared.slots} slots", f"at most the {found} that rows of a prompt have in common")


@partial(jax.jit, static_argnums=(0, 1))
def _update(
    program: _Program,
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
    policy = program.policy(own.trained, frozen, temperature, reading, compiled.micro_batch)
    given = Given(policy, compiled, traced, own.beta, None, partial(constrain, axis=1))
    rows = Rows(text_of(reading, program.shared), reading.written, reading.own, reading.credited, *lesson)
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
    shared: Shared = NOTHING,
) -> Improved:
    """Algorithm 1's update of one set of parameters (`update_agent` says what is ascended).

    Args:
      frozen: the leaves that are no part of `own`.
      reading: what these parameters read; `own` and `credited` in it say whose messages count for what.
      order: the order in which each epoch visits the rows that are trained on, which are the first ones.
      shared: what is read once for all rows of a prompt (`shared_of`).

    Raises:
      InputError: an order that is none of the rows, or rows that have less in common.
    """
    _require_shared(reading, shared)
    if (visits := concrete(order)) is not None:
        for rows in integers("order", visits, 0, reading.ids.shape[0]):
            permutation("order", rows, len(rows))
    compiled, traced = parts(settings)
    heat = jnp.asarray(temperature, jnp.float32)
    return _update(_Program(model, shared), compiled, own, frozen, heat, reading, lesson, traced=traced, order=order)


def text_programs() -> dict[str, int]:
    """How many programs have been compiled for updates and for scoring of readings, in this process."""
    compiled: dict[str, Any] = {"update": _update, "score": _score}
    return {name: program._cache_size() for name, program in compiled.items()}
