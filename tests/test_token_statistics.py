"""Token statistics by blocks: against float64 NumPy and finite differences, exact zeros, infinities, memory as XLA counts it."""

import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from teamtr_jax.llm.token_statistics import (
    BLOCK,
    TokenStatistics,
    block_of,
    statistics_of_logits,
    token_log_probs_of,
    token_statistics,
)
from teamtr_jax.validation import InputError

SHAPE, WIDTH, V, TEMPERATURE = (3, 5), 4, 11, 0.7
CHUNKS = (None, 4, 1)
"""One block; four, the last one not full; one for each position."""


def log_softmax(x):
    return x - np.logaddexp.reduce(x, -1, keepdims=True)


def oracle(current, current_head, new, new_head, written, temperature):
    """The definitions, whole and in float64."""
    log_p, log_q = (
        log_softmax(np.asarray(x, np.float64) @ np.asarray(h, np.float64).T / temperature)
        for x, h in ((current, current_head), (new, new_head))
    )
    p, q = np.exp(log_p), np.exp(log_q)
    at = [np.take_along_axis(x, np.asarray(written)[..., None], -1)[..., 0] for x in (log_p, log_q)]
    kl, entropy = (p * (log_p - log_q)).sum(-1), -(q * log_q).sum(-1)
    return TokenStatistics(*at, kl, entropy, ((q - p) ** 2 / p).sum(-1))


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    current = rng.normal(size=(*SHAPE, WIDTH))
    new = current + 0.3 * rng.normal(size=current.shape)
    head = rng.normal(size=(V, WIDTH))
    return current, head, new, head + 0.1 * rng.normal(size=head.shape), jnp.asarray(rng.integers(0, V, SHAPE))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_against_numpy_in_float64_and_in_float32(case, chunk):
    expected = oracle(*case, TEMPERATURE)
    found = token_statistics(*map(jnp.asarray, case), temperature=TEMPERATURE, chunk=chunk)
    for name, x, y in zip(expected._fields, found, expected, strict=True):
        assert x.shape == SHAPE
        assert x.dtype == jnp.float64
        np.testing.assert_allclose(x, y, rtol=1e-12, err_msg=name)
    *arrays, written = case
    narrow = [jnp.asarray(x, jnp.float32) for x in arrays]
    found = jax.jit(lambda *x: token_statistics(*x, temperature=jnp.float32(TEMPERATURE), chunk=chunk))(
        *narrow, written
    )
    for name, x, y in zip(expected._fields, found, expected, strict=True):
        assert x.dtype == jnp.float32, name
        np.testing.assert_allclose(x, y, rtol=3e-5, err_msg=name)
    alone = token_log_probs_of(
        jnp.asarray(case[2]), jnp.asarray(case[3]), written, temperature=TEMPERATURE, chunk=chunk
    )
    np.testing.assert_allclose(alone, expected.new, rtol=1e-12)


def test_without_x64_under_vmap_and_scan_and_in_bfloat16(case):
    """The arrays of another dtype are computed with in float32; a pad beyond the vocabulary counts as the last id."""
    *arrays, written = map(np.asarray, case)
    with jax.enable_x64(False):
        narrow = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
        expected = oracle(*(np.asarray(x.astype(jnp.float32)) for x in narrow), np.minimum(written, V - 1), TEMPERATURE)
        written = jnp.asarray(np.where(written == V - 1, V + 7, written), jnp.int32)

        def of(current, new, written):
            return token_statistics(current, narrow[1], new, narrow[3], written, temperature=TEMPERATURE, chunk=2)

        rows = (narrow[0], narrow[2], written)
        for found in (jax.jit(jax.vmap(of))(*rows), jax.lax.map(lambda x: of(*x), rows)):
            for x, y in zip(found, expected, strict=True):
                assert x.dtype == jnp.float32
                np.testing.assert_allclose(x, y, rtol=3e-5)


# --------------------------------------------------------------------------------------------------------------- gradients


def objective(chunk, weights):
    """A sum that is not linear in the statistics, as a clipped surrogate with a penalty is not."""

    def total(new, new_head, current, current_head, written):
        found = token_statistics(current, current_head, new, new_head, written, temperature=TEMPERATURE, chunk=chunk)
        return (weights * (jnp.exp(found.new - found.current) + 0.3 * found.kl**2)).sum()

    return total


@pytest.mark.parametrize("chunk", CHUNKS[:2])
def test_gradients_against_finite_differences(case, chunk):
    current, current_head, new, new_head, written = map(jnp.asarray, case)
    rng = np.random.default_rng(4)
    total = jax.jit(objective(chunk, jnp.asarray(rng.normal(size=SHAPE))))
    slopes = jax.jit(jax.grad(total, (0, 1)))(new, new_head, current, current_head, written)
    step = 1e-5
    for which in (0, 1):
        direction = rng.normal(size=(new, new_head)[which].shape)
        ends = []
        for sign in (1, -1):
            moved = [new, new_head]
            moved[which] = moved[which] + sign * step * direction
            ends.append(total(*moved, current, current_head, written))
        numeric = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose((slopes[which] * direction).sum(), numeric, rtol=1e-7)


@pytest.mark.parametrize("chunk", CHUNKS[:2])
def test_what_is_not_differentiated(case, chunk):
    """Nothing goes to the current policy, nothing through the entropy, the χ² and what the current policy says."""

    def total(fields, current, current_head, new, new_head):
        found = token_statistics(current, current_head, new, new_head, case[-1], temperature=TEMPERATURE, chunk=chunk)
        return sum(getattr(found, name).sum() for name in fields)

    arrays = tuple(map(jnp.asarray, case[:-1]))
    slopes = jax.grad(total, (1, 2, 3, 4))(("new", "kl"), *arrays)
    assert [bool((x != 0).any()) for x in slopes] == [False, False, True, True]
    slopes = jax.grad(total, (1, 2, 3, 4))(("current", "entropy", "chi_square"), *arrays)
    assert not any((x != 0).any() for x in slopes)


# -------------------------------------------------------------------------------------------------------- exact, small, far


@pytest.mark.parametrize("chunk", CHUNKS[:2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_policy_is_at_no_distance_from_itself(case, chunk, dtype):
    """KL, χ² and the slope of the KL are exactly 0; `current=None` says the same for half of the work."""
    current, head, written = jnp.asarray(case[0], dtype), jnp.asarray(case[1], dtype), case[-1]

    def of(new, current, current_head):
        found = token_statistics(current, current_head, new, head, written, temperature=TEMPERATURE, chunk=chunk)
        return found.kl.sum(), found

    both = jax.jit(jax.value_and_grad(of, has_aux=True))
    for arguments in ((current, current, head), (current, None, None)):
        (total, found), slope = both(*arguments)
        assert float(total) == 0.0
        assert not (slope != 0).any()
        assert not (found.chi_square != 0).any()
        assert (found.current == found.new).all()
    slope = jax.grad(lambda x: token_log_probs_of(x, head, written, temperature=TEMPERATURE, chunk=chunk).sum())(
        current
    )
    same = jax.grad(
        lambda x: token_statistics(current, head, x, head, written, temperature=TEMPERATURE, chunk=chunk).new.sum()
    )(current)
    np.testing.assert_array_equal(slope, same)
    assert (slope != 0).any()


@pytest.mark.parametrize("chunk", CHUNKS[:2])
def test_a_small_distance_is_not_lost_in_float32(case, chunk):
    """1e-10 nats: `Σ p (log p − log q)` in float32 is noise a thousand times larger, of either sign."""
    current, head, _, _, written = case
    current, head = jnp.float32(current), jnp.float32(head)
    new = current + np.float32(1e-5) * np.random.default_rng(0).normal(size=current.shape).astype(np.float32)
    expected = oracle(current, head, new, head, written, TEMPERATURE)
    found = token_statistics(current, head, new, head, written, temperature=TEMPERATURE, chunk=chunk)
    assert 1e-11 < expected.kl.mean() < 1e-9
    np.testing.assert_allclose(found.kl.sum(), expected.kl.sum(), rtol=0.05)
    np.testing.assert_allclose(found.chi_square.sum(), expected.chi_square.sum(), rtol=0.05)
    assert (found.kl > 0).all()
    log_p, log_q = (jax.nn.log_softmax(x @ head.T / np.float32(TEMPERATURE)) for x in (current, new))
    naive = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    assert float(abs(naive - expected.kl).max()) > 100 * expected.kl.mean()  # what is avoided


def test_infinite_and_huge_logits():
    """By value, in float32: ids that are never written, policies that exclude each other, logits near the largest number."""
    no, half = -np.inf, np.log(0.5)
    current = jnp.array(
        [[0.0, 0.0, no], [0.0, 0.0, no], [0.0, 0.0, 0.0], [3e38, -3e38, 0.0], [200.0, 0.0, 0.0]], jnp.float32
    )
    new = jnp.array(
        [[np.log(3.0), 0.0, no], [0.0, 0.0, 0.0], [0.0, 0.0, no], [-3e38, 3e38, 0.0], [0.0, 0.0, 200.0]], jnp.float32
    )
    written = jnp.array([0, 0, 1, 0, 0])

    def total(new):
        found = statistics_of_logits(current, new, written)
        return (found.new + found.kl)[jnp.array([0, 1])].sum(), found

    (_, found), slope = jax.value_and_grad(total, has_aux=True)(new)
    log_3 = np.log(3.0)
    np.testing.assert_allclose(found.kl[:3], [half - 0.5 * np.log(3 / 16), np.log(1.5), np.inf], rtol=1e-6)
    np.testing.assert_allclose(found.chi_square[:3], [0.25, np.inf, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.entropy[:3], [np.log(4.0) - 0.75 * log_3, log_3, np.log(2.0)], rtol=1e-6)
    np.testing.assert_allclose(found.new[:3], [np.log(0.75), -log_3, half], rtol=1e-6)
    np.testing.assert_allclose(found.kl[4], 200.0, rtol=1e-6)
    assert np.isposinf(found.kl[3])
    assert not any(jnp.isnan(x).any() for x in found)
    expected = np.array([[0.25 + 0.25, -0.25 - 0.25, 0.0], [2 / 3 - 1 / 6, -1 / 3 - 1 / 6, 0.0]])
    np.testing.assert_allclose(slope[:2], expected, atol=1e-6)  # (1_a − q) + (q − p)
    assert jnp.isfinite(slope).all()


# ------------------------------------------------------------------------------------------------------------------ memory


WIDE, ROW, NARROW = 20_000, 16, 8
"""A vocabulary, positions of a block, a width."""


def compiled(positions, argnums, current=True):
    def total(new, new_head, current, current_head, written):
        old = (current, current_head) if with_current else (None, None)
        found = token_statistics(*old, new, new_head, written, temperature=TEMPERATURE, chunk=ROW)
        return (jnp.exp(found.new - found.current) + found.kl).sum(), found

    with_current = current
    features, head = (jax.ShapeDtypeStruct((n, NARROW), jnp.float32) for n in (positions, WIDE))
    written = jax.ShapeDtypeStruct((positions,), jnp.int32)
    slopes = jax.jit(jax.value_and_grad(total, argnums, has_aux=True))
    return slopes.lower(features, head, features, head, written).compile()


@pytest.mark.parametrize("argnums", [(0,), (0, 1)], ids=["frozen head", "trained head"])
def test_memory_is_that_of_a_block(argnums):
    """Forward and backward: eight times the positions take what their features do; whole logits would take ten times as much."""
    few, many = compiled(16 * ROW, argnums), compiled(128 * ROW, argnums)
    block, features = 4 * ROW * WIDE, 4 * 128 * ROW * NARROW
    small, large = (x.memory_analysis().temp_size_in_bytes for x in (few, many))
    assert large - small < 16 * features
    assert large < 10 * block + 4 * 4 * WIDE * NARROW + 16 * features
    assert large < 0.1 * 128 * block
    arrays = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", many.as_text())
    sizes = [int(np.prod([int(n) for n in shape.split(",")])) for shape in arrays]
    assert max(sizes) <= max(ROW * WIDE, WIDE * NARROW)
    if argnums == (0,):  # nothing of the head's shape is computed
        of_head = re.findall(rf"= f32\[(?:{WIDE},{NARROW}|{NARROW},{WIDE})\]\S* (\S+?)\(", many.as_text())
        assert set(of_head) <= {"parameter", "get-tuple-element", "bitcast", "transpose", "copy", "fusion"}
        dots = re.findall(r"= f32\[[\d,]+\]\S* dot\(", many.as_text())
        assert len(dots) == 4  # two of logits, two of slopes: a backward pass makes none


def test_blocks():
    """A small vocabulary is one block, a large one at most 64 MB, never less than a position."""
    assert block_of(64, 100_000) == 100_000
    for vocabulary, itemsize in ((49_152, 4), (150_000, 4), (151_936, 8), (10**8, 4)):
        size = block_of(vocabulary, 10**6, itemsize)
        assert size & (size - 1) == 0
        assert size == 1 or size * vocabulary * itemsize <= BLOCK
        assert 2 * size * vocabulary * itemsize > BLOCK
    empty = token_statistics(*(jnp.zeros((0, 2)), jnp.zeros((3, 2))) * 2, jnp.zeros(0, int), temperature=1.0)
    assert empty.kl.shape == (0,)


def test_refusals(case, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user meets
    current, head, new, _, written = map(jnp.asarray, case)

    def of(current=current, current_head=head, new=new, new_head=head, written=written, temperature=1.0, chunk=None):
        return token_statistics(current, current_head, new, new_head, written, temperature=temperature, chunk=chunk)

    of()
    for match, arguments in {
        r"head of new: found shape \[1, 4\]": dict(current_head=head[:1], new_head=head[:1]),
        r"new: found shape \[3, 5, 3\], expected \[…, 4\]": dict(new=new[..., :3]),
        r"written: found shape \[3, 4\], expected shape \[3, 5\]": dict(written=written[:, :4]),
        r"current: found shape \[2, 5, 4\]": dict(current=current[:2]),
        r"current_head: found shape \[10, 4\]": dict(current_head=head[:-1]),
        r"current, current_head: found one of them": dict(current=None),
        r"temperature: found 0": dict(temperature=0.0),
        r"temperature: found nan": dict(temperature=jnp.asarray(jnp.nan)),
        r"chunk: found 0": dict(chunk=0),
    }.items():
        with pytest.raises(InputError, match=match):
            of(**arguments)
