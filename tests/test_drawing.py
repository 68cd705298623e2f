"""Ids follow `softmax(logits / temperature)` in the dtype that is used, and what is booked is that law's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from teamtr_jax.llm.drawing import SIDE, draw_token
from teamtr_jax.validation import InputError

V, DRAWS = 4_096, 100_000
FALSE_ALARM = 1e-6
"""Chance that a test of a law fails although it holds."""


def logits_of_a_network(dtype):
    """Logits as a network has them: a spread of 3 nats."""
    return jnp.asarray(3.0 * np.random.default_rng(7).normal(size=V), dtype)


def law(logits, temperature=1.0):
    x = np.asarray(logits, np.float64) / temperature
    return np.exp(x - np.logaddexp.reduce(x))


def p_value(ids, probability, expected=25.0):
    """Pearson's test: ids in order of their probability, pooled until so many are expected in each cell."""
    order = np.argsort(probability)
    mass = np.cumsum(probability[order]) * len(ids)
    cell = np.minimum(mass // expected, mass[-1] // expected - 1).astype(int)
    cell = np.unique(cell, return_inverse=True)[1]
    counts, wanted = np.zeros(cell[-1] + 1), np.zeros(cell[-1] + 1)
    np.add.at(counts, cell, np.bincount(ids, minlength=V)[order])
    np.add.at(wanted, cell, probability[order] * len(ids))
    return stats.chi2.sf(((counts - wanted) ** 2 / wanted).sum(), len(counts) - 1)


@pytest.fixture(scope="module")
def draws():
    """Of one row of logits: its weights are computed once."""
    return jax.jit(jax.vmap(lambda z, u, t: draw_token(z, u, temperature=t), (None, 0, None)))


@pytest.mark.parametrize(("dtype", "temperature"), [(jnp.bfloat16, 1.0), (jnp.float32, 0.7)])
def test_ids_follow_the_law_in_the_dtype_that_is_used(draws, dtype, temperature):
    logits = logits_of_a_network(dtype)
    uniform = jax.random.uniform(jax.random.key(3), (DRAWS, 2), jnp.float32)
    ids, log_probs = map(np.asarray, draws(logits, uniform, temperature))
    probability = law(logits, temperature)
    assert p_value(ids, probability) > FALSE_ALARM
    np.testing.assert_allclose(log_probs, np.log(probability[ids]), atol=1e-5)
    assert log_probs.dtype == np.float32
    assert p_value(ids, law(logits, 1.05 * temperature)) < FALSE_ALARM  # what the test would see


def test_categorical_in_bfloat16_draws_by_another_law():
    """The trap: noise in the dtype of the logits. If this fails jax has mended it, and nothing here needs to change."""
    logits = logits_of_a_network(jnp.bfloat16)
    categorical = jax.jit(lambda key: jax.random.categorical(key, logits, shape=(2_000,)))
    ids = np.concatenate([np.asarray(categorical(key)) for key in jax.random.split(jax.random.key(3), 2)])
    probability = law(logits)
    assert p_value(ids, probability) < FALSE_ALARM
    likely = probability > 1e-3  # enough draws of each of these to see a distance
    distance = abs(np.bincount(ids, minlength=V)[likely] / len(ids) - probability[likely]).sum() / 2
    assert distance > 0.1


def test_rare_ids_are_not_lost_in_the_sum_of_the_others():
    """One id with half of the mass, the rest spread over 4,095, each 3e-9 of a uniform's step: all groups, all ids of them."""
    logits = jnp.full(V, -20.0).at[5].set(0.0)
    grid = (np.arange(64) + 0.5) / 64
    first = 1 - np.arange(1, 65) * 2.0**-24 * 0.5  # the last numbers below 1 where the tail lives
    uniform = jnp.asarray(np.stack(np.meshgrid(first, grid), -1).reshape(-1, 2), jnp.float32)
    ids = np.asarray(jax.jit(jax.vmap(lambda u: draw_token(logits, u)[0]))(uniform))
    assert len(np.unique(ids)) > 64  # by one uniform and one sum at most a handful


def test_shapes_keys_and_what_cannot_be_written():
    draw = jax.jit(draw_token)
    logits = jnp.asarray(np.where(np.arange(SIDE + 3) < SIDE, -np.inf, np.zeros((2, 3, 1))))
    ids, log_probs = draw(logits, jax.random.key(0))
    assert ids.shape == (2, 3)
    assert ids.dtype == jnp.int32
    assert (ids >= SIDE).all()
    np.testing.assert_allclose(log_probs, -np.log(3.0), rtol=1e-6)
    ids, _ = draw(logits, np.full((2, 3, 2), np.nextafter(np.float32(1), np.float32(0))))
    assert (ids == SIDE + 2).all()
    bad = np.array(logits)
    bad[:, 0, 1] = np.nan, np.inf
    bad[1, 2] = -np.inf
    ids, log_probs = map(np.asarray, draw(bad, jax.random.key(0)))
    lost = np.array([[True, False, False], [True, False, True]])
    assert (ids[lost] == -1).all()
    assert np.isnan(log_probs[lost]).all()
    assert (ids[~lost] >= SIDE).all()
    assert np.isfinite(log_probs[~lost]).all()
    with pytest.raises(InputError, match=r"uniform: found shape \[3\], expected shape \[3, 2\]"):
        draw_token(logits[0], jnp.zeros(3))
