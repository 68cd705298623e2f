"""What rollouts of one prompt have in common is read once: scores, gradients and records are those of rows read whole."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_teams import LLAMA, MISTRAL, QWEN

from teamtr_jax.llm.given import NOTHING, Shared
from teamtr_jax.llm.language_model import Reading
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.model import ModelConfig, Toy, Transformer
from teamtr_jax.llm.text_backend import _TextKind
from teamtr_jax.llm.text_update import learner, score_reading, shared_of, update_reading
from teamtr_jax.llm.update import Lesson
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.validation import InputError

PROMPTS, GROUP, VIEWS, LENGTH, COMMON, CAP = 4, 3, 2, 14, 6, 3
ROWS, SHARED = PROMPTS * GROUP, Shared(COMMON, GROUP)
MODELS: dict[str, Any] = {
    "toy": Toy(Transformer(ModelConfig(width=16, layers=2, heads=2), 12, 12, LENGTH)),
    "llama": replace(LLAMA, lora=Lora(2)),
    "unrolled": replace(QWEN, vocabulary=12, unroll=True),
    "window": replace(MISTRAL, remat=True),
}


def reading() -> Reading:
    """Two views of each row, a message in each; the first id of the first view's message follows the last common one."""
    rng = np.random.default_rng(3)
    begin = np.repeat(rng.integers(0, 12, (PROMPTS, VIEWS, COMMON)), GROUP, 0)
    rest = rng.integers(0, 12, (ROWS, VIEWS, LENGTH - COMMON))
    rest[::GROUP, :, 0] = (rest[1::GROUP, :, 0] + 1) % 12  # no more is common
    ids = np.concatenate([begin, rest], 2).astype(np.int32)
    ends = rng.integers(LENGTH - 2, LENGTH + 1, (ROWS, VIEWS, 1))
    first = np.array([COMMON - 1, COMMON + 1])
    at = (np.arange(VIEWS) * LENGTH + first)[:, None] + np.arange(CAP)
    at = np.broadcast_to(at, (ROWS, VIEWS, CAP)).astype(np.int32)
    written = np.take_along_axis(ids.reshape(ROWS, -1), at.reshape(ROWS, -1) + 1, 1).reshape(at.shape)
    own = np.ones(at.shape, bool)
    own[1, 1, 1:] = False
    at = np.where(own, at, 0)
    return Reading(ids, np.arange(LENGTH) < ends, at, written, own, own)


@pytest.mark.parametrize("name", MODELS)
def test_scores(name):
    model, said = MODELS[name], reading()
    trained, frozen = learner(model, model.init(jax.random.key(1)), UpdateSettings())
    whole, *once = (
        np.asarray(score_reading(model, trained.trained, frozen, said, 0.7, micro, shared))[said.own]
        for micro, shared in ((12, NOTHING), (12, SHARED), (3, SHARED))  # beginnings at once; six at a time
    )
    assert np.ptp(whole) > 0.5
    for found in once:
        np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "micro"), [("llama", 6), ("window", 3), pytest.param("toy", 3, marks=pytest.mark.slow)]
)
def test_updates(name, micro):
    model, said, rng = MODELS[name], reading(), np.random.default_rng(5)
    settings = UpdateSettings(learning_rate=0.01, epochs=1, minibatch=6, micro_batch=micro, ratio="token", average="unit",
                              early_stop=False, beta=0.3, max_grad_norm=1e3, step_rule="none")  # fmt: skip
    params = model.init(jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.02 * np.cos(np.arange(x.size)).reshape(x.shape).astype(x.dtype), params)
    own, frozen = learner(model, params, settings)
    ones = jnp.ones(ROWS)
    lesson = Lesson(jnp.asarray(rng.normal(size=ROWS), jnp.float32), jnp.asarray(rng.normal(size=ROWS)), ones, ones)
    order = jnp.asarray(rng.permutation(ROWS)[None], jnp.int32)
    whole, once = (
        update_reading(model, settings, own, frozen, said, lesson, order, temperature=0.7, shared=shared)
        for shared in (NOTHING, SHARED)
    )
    assert np.abs(np.asarray(whole.outcome.log_ratio)).max() > 1e-2
    np.testing.assert_allclose(once.outcome.log_ratio, whole.outcome.log_ratio, atol=2e-5)
    np.testing.assert_allclose(once.outcome.current, whole.outcome.current, atol=1e-5)
    for name in ("grad_norm", "message_kl", "monitor_reached"):
        np.testing.assert_allclose(once.outcome.numbers[name], whole.outcome.numbers[name], rtol=2e-4)
    # Adam's first moment is a tenth of the gradients' sum, of what is read once as well.
    for x, y in zip(jax.tree.leaves(once.moments), jax.tree.leaves(whole.moments), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5 * np.abs(np.asarray(y)).max())


def test_what_is_common():
    """Of 32, 64, … the most, up to the last slot before a message, if every view of every row has it."""

    def of(common: int, first: int, group: int = 2, readable: int = 100, views: int = 1) -> Shared:
        ids = np.zeros((4, views, 100), np.int32)
        ids[1::2, -1, common] = 1
        at, own = np.full((4, 1, 1), (views - 1) * 100 + first, np.int32), np.ones((4, 1, 1), bool)
        can = np.broadcast_to(np.arange(100) < readable, ids.shape)
        return shared_of(Reading(ids, can, at, at, own, own), group)

    assert [of(common, 98).slots for common in (31, 32, 63, 64, 96)] == [0, 32, 32, 64, 64]
    assert [of(80, first).slots for first in (30, 31, 62, 63)] == [0, 32, 32, 64]
    assert of(80, 98, readable=40).slots == 32
    assert of(70, 98, views=2) == Shared(64, 2)
    assert of(80, 98, group=1) == of(80, 98, group=3) == NOTHING


@pytest.mark.parametrize(("prompts", "minibatch", "slots"), [(2, 2, 32), (2, 1, 0), (3, 2, 0), (3, 3, 32)])
def test_a_step_with_fewer_rows_than_prompts_reads_them_whole(prompts, minibatch, slots):
    """It would read the beginnings of all. A score reads each once."""
    ids = np.repeat(np.arange(prompts * 64, dtype=np.int32).reshape(prompts, 1, 64), 2, 0)
    at, own = np.full((2 * prompts, 1, 1), 50, np.int32), np.ones((2 * prompts, 1, 1), bool)
    said = Reading(ids, np.ones(ids.shape, bool), at, at, own, own)
    nothing: Any = None
    settings = UpdateSettings(minibatch=minibatch, micro_batch=1)
    kind = _TextKind(nothing, nothing, nothing, settings, nothing, nothing, nothing)
    assert kind.in_update(said, 2).slots == slots
    assert kind._shared(said, 2).slots == 32


def test_more_than_is_common_is_refused():
    model = MODELS["llama"]
    own, frozen = learner(model, model.init(jax.random.key(1)), UpdateSettings())
    for slots, group in ((COMMON + 1, GROUP), (COMMON, 4), (1, 2 * GROUP)):
        with pytest.raises(InputError, match=rf"shared: found {slots} slots, expected at most the \d that rows"):
            score_reading(model, own.trained, frozen, reading(), shared=Shared(slots, group))
    for name, shared in (("slots", Shared(-1, GROUP)), ("group", Shared(1, 0))):
        with pytest.raises(InputError, match=f"shared.{name}"):
            score_reading(model, own.trained, frozen, reading(), shared=shared)
