"""What an update on text is said to take, against what XLA says of the compiled update; abstract parameters, no array is made."""

import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm.ascend import optimiser_of
from teamtr_jax.llm.given import Shared
from teamtr_jax.llm.language_model import Reading, split_trained
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.text_sizes import Needs, TextSizes, _kept, bytes_beside, needs_text, require_text_room, text_needs
from teamtr_jax.llm.text_update import Learner, _Program, _update
from teamtr_jax.llm.token_statistics import BLOCK
from teamtr_jax.llm.update import Lesson
from teamtr_jax.llm.update_settings import UpdateSettings, parts
from teamtr_jax.validation import InputError

FACTOR = 1.5
"""The estimate is at least what XLA says, and at most so many times it (measured: 1.07, 1.24 and 1.32)."""

NARROW = LlamaConfig(vocabulary=150_000, width=64, layers=2, heads=2, kv_heads=1, head_dim=8, hidden=32, tied=True, remat=True,
                     lora=Lora(rank=2))  # fmt: skip
KEPT = replace(NARROW, vocabulary=600, width=32, hidden=96, remat=False, lora=None, tied=False)
LARGE = TextSizes(rows=64, length=512, written=512, micro_batch=4)


def compiled(model: LlamaConfig, sizes: TextSizes) -> Any:
    """The update as it is run, of two epochs, for arrays of these shapes."""
    settings = parts(UpdateSettings(micro_batch=sizes.micro_batch, minibatch=sizes.rows, epochs=2))
    params = jax.eval_shape(model.init, jax.random.key(0))
    trained, frozen = split_trained(params, model.trained(params))
    learner = jax.eval_shape(lambda x: Learner(x, optimiser_of(settings[1]).init(x), jnp.float32(1)), trained)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((sizes.rows, *shape), dtype)

    texts = of(jnp.int32, sizes.views, sizes.length), of(jnp.bool_, sizes.views, sizes.length)
    at, own = of(jnp.int32, 1, sizes.written), of(jnp.bool_, 1, sizes.written)
    lesson = Lesson(*(of(jnp.float32) for _ in Lesson._fields))
    order = jax.ShapeDtypeStruct((2, sizes.rows), jnp.int32)  # a single step compares a policy with itself: less
    number = jax.ShapeDtypeStruct((), jnp.float32)
    reading = Reading(*texts, at, at, own, own)
    fixed, traced = settings
    shared = Shared(sizes.shared, sizes.group)
    program = _update.lower(
        _Program(model, shared), fixed, learner, frozen, number, reading, lesson, traced=traced, order=order
    )
    return program.compile()


def largest(program: Any) -> int:
    """Numbers of the largest array in it."""
    shapes = re.findall(r"\b(?:f16|bf16|f32|f64|s32|s64|pred)\[([\d,]+)\]", program.as_text())
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def taken(program: Any) -> int:
    """Bytes: parameters and rollouts, what comes out, and what is between. `peak_memory` leaves the last out."""
    found = program.memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (NARROW, LARGE),
        (KEPT, replace(LARGE, rows=8, views=2, written=64)),
        (KEPT, replace(LARGE, rows=16, views=2, written=64, shared=384, group=2)),
    ],
    ids=["64 x 512 tokens of 150,000 ids", "everything is trained and kept, a small vocabulary", "most is read once"],
)
def test_an_update_takes_what_is_said_before_it(model, sizes):
    needs, program = text_needs(model, sizes), compiled(model, sizes)
    assert taken(program) <= needs.update <= FACTOR * taken(program)
    whole = sizes.rows * sizes.written * model.vocabulary
    assert largest(program) < max(BLOCK // 4, model.vocabulary * model.width) * 1.01
    if model is NARROW:
        assert needs.update < 4 * whole / 50  # 20 GB would be one array of it
        assert largest(program) < whole / 400


def test_parts_by_value():
    """Shapes of a Llama counted by hand; adapters of three sets on one base; divided among devices."""
    model = replace(NARROW, dtype="bfloat16")
    needs = text_needs(model, LARGE)
    table, norms = 150_000 * 64, 2 * 2 * 64 + 64
    linear = [(64, 16), (64, 8), (64, 8), (16, 64), (64, 32), (64, 32), (32, 64)]
    kernels, adapters = (2 * sum(f(*sides) for sides in linear) for f in (lambda a, b: a * b, lambda a, b: 2 * (a + b)))
    assert needs.frozen == 2 * (table + kernels) + 4 * norms
    assert needs.trained == 2 * 3 * 4 * adapters
    assert needs.head == 4 * table
    assert needs.statistics == 6 * 4 * 64 * 150_000
    assert needs.gradient == 2 * 4 * adapters
    whole, slopes = (
        2 * 64 * (64 * 2),
        4 * (2 * 64 * 2 + 4 * 64 * 4),
    )  # twice of 64 rows in bfloat16; of four rows both policies
    assert needs.features == 512 * (whole + slopes)
    assert needs.sampler == 64 * 512 * (2 * 2 * 8 * 2) + 3 * 4 * 64 * 150_000
    three = text_needs(model, replace(LARGE, sets=3))
    assert three.frozen == needs.frozen
    assert three.trained == 3 * needs.trained
    assert three.sampler - needs.sampler == 2 * 64 * 512 * (2 * 2 * 8 * 2)  # keys and values, layers, numbers, bytes
    apart = text_needs(replace(model, unroll=True), LARGE)  # writes with a copy of its layers
    assert apart.sampler - needs.sampler == 2 * kernels + 4 * adapters + 4 * 2 * 2 * 64
    merged = replace(NARROW, unroll=True)
    assert text_needs(merged, LARGE).sampler - text_needs(NARROW, LARGE).sampler == 4 * kernels + 4 * 2 * 2 * 64
    assert text_needs(model, replace(LARGE, beside=1_000)).frozen == needs.frozen + 1_000
    many = text_needs(model, replace(LARGE, row_devices=4, parameter_devices=2))
    assert many.frozen == needs.frozen // 2
    assert many.statistics == needs.statistics // 4
    assert many.features == needs.features // 4
    assert many.activations == needs.activations // 4
    assert text_needs(replace(model, remat=False), LARGE).activations > 5 * needs.activations
    assert needs.peak == needs.frozen + needs.trained + max(needs.sampler, needs.update - needs.frozen - needs.trained)


def test_what_is_kept_of_one_more_beginning():
    """Its keys and values, their slopes from a micro-batch, and the sums of these in float32."""
    model = replace(NARROW, dtype="bfloat16")
    some, more = (text_needs(model, replace(LARGE, rows=rows, shared=384, group=2)).beginnings for rows in (64, 66))
    assert more - some == 384 * (2 * 2 * 8) * (2 + 2 + 4)  # layers, keys and values, numbers


@dataclass(frozen=True)
class Squares:
    """A network that keeps of each row what is squared, here and in its past, and of all rows its one kernel."""

    vocabulary = width = init = init_cache = head = trained = partition = 0  # not asked for

    def features(self, params, ids, readable, start=0, cache=None, past=()):
        x = ids[..., None].astype(jnp.float32) * params["kernel"] ** 2
        begun = sum((y**2).sum(1, keepdims=True) for (y,) in past)
        return (x + begun) ** 2, (x,)


@pytest.mark.parametrize("past", [0, 3])
def test_what_is_kept_is_that_of_one_more_row(past):
    """Two rows less one, as autodiff is asked of arrays that are there; what rows have in common is no row's."""
    kernel, own = {"kernel": jnp.ones(20_000, jnp.float32)}, 7 - past  # more bytes than there are rows

    def kept(rows):
        def features(kernel, begun):
            ids = jnp.ones((rows, own), jnp.int32)
            return Squares().features(kernel, ids, None, past=(begun,) if past else ())[0]

        begun = (jnp.ones((rows, past, 20_000), jnp.float32),)
        return sum(x.nbytes for x in jax.tree.leaves(jax.vjp(features, kernel, begun)))

    assert kept(1) > kept(2) - kept(1)
    assert _kept(Squares(), kernel, {}, 7, past) == kept(2) - kept(1)


def test_bases_of_others_are_counted_once():
    """Two agents on one base and one on another: each sees what it has not got, and what it shares is no other's."""
    one = {"a": jnp.ones((3, 5), jnp.float32), "b": jnp.ones(7, jnp.float32)}
    team = (one, {"a": one["a"], "b": one["b"] + 1}, {"a": jnp.ones((2, 2), jnp.bfloat16)})
    assert [bytes_beside(team, which) for which in range(3)] == [28 + 8, 28 + 8, 4 * 15 + 28 + 28]
    assert bytes_beside((one, one), 0) == 0


def test_what_is_printed():
    text = needs_text(Needs(300, 20, 10, 0, 50, 600, 70, 200, 100), 2_000)
    parts = (
        "frozen 300 B, trained 20 B, gradient 10 B, features 50 B, activations 600 B, beginnings 70 B, statistics 200 B"
    )
    assert text == f"an update takes 1.25 kB of 2 kB: {parts}; sampling 420 B"


def test_refusals_name_what_would_fit():
    model = replace(NARROW, remat=False)
    assert require_text_room(model, LARGE, 10**12) == text_needs(model, LARGE)
    large = replace(LARGE, micro_batch=64)
    limit = text_needs(model, replace(LARGE, micro_batch=5)).peak
    with pytest.raises(InputError, match=r"micro_batch: found 64 of 512 ids: at least .* expected at most 5, for "):
        require_text_room(model, large, limit)
    assert require_text_room(model, replace(large, micro_batch=5), limit).peak == limit
    many = replace(LARGE, rows=50_000)
    limit = text_needs(model, replace(many, rows=1_000, micro_batch=1)).peak
    with pytest.raises(InputError, match=r"rows: found 50,000 of 512 ids: .* expected at most 1,000, for"):
        require_text_room(model, many, limit)
    with pytest.raises(InputError, match=r"base: found 9,\d+,\d+ parameters, 1 sets .* adapters in place of"):
        require_text_room(model, LARGE, 5_000_000)
    with pytest.raises(InputError, match=r"rows: .* expected shorter texts"):
        require_text_room(model, LARGE, 100_000_000)
    with pytest.raises(InputError, match="micro_batch: found 0"):
        TextSizes(64, 512, 512, 0)
