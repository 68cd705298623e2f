"""The floor of a policy's KL with itself: by value where a network is made to answer to its shape, and of the Llama by dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from teamtr_jax.llm.language_model import Reading, split_trained
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.self_kl import self_kl_floor
from teamtr_jax.validation import InputError

R, VIEWS, T, M, L, V = 6, 2, 7, 3, 2, 12
MOVE = 0.01


class Shapely(LlamaConfig):
    """Logits are a table of ids, and `MOVE` higher for id 0 where a row is longer: what roundings do, large enough to compute."""

    def features(self, params, ids, readable, start=0, cache=None, past=(), first=0):
        longer = MOVE if ids.shape[1] > T else 0.0
        return params["table"][ids] + longer * (jnp.arange(V) == 0), None

    def head(self, params):
        return params["head"]


SHAPELY = Shapely(vocabulary=V, width=V, layers=1, heads=1, kv_heads=1, head_dim=2, hidden=1)


@pytest.fixture(scope="module")
def reading():
    rng = np.random.default_rng(1)
    own = rng.random((R, M, L)) < 0.7
    own[0], own[1, 0] = False, True
    return Reading(
        ids=jnp.asarray(rng.integers(0, V, (R, VIEWS, T))),
        readable=jnp.asarray(np.arange(T) < rng.integers(5, T + 1, (R, VIEWS, 1))),
        at=jnp.asarray(rng.integers(0, VIEWS * T, (R, M, L))),
        written=jnp.asarray(rng.integers(0, V, (R, M, L))),
        own=jnp.asarray(own),
        credited=jnp.asarray(own),
    )


def test_floor_by_value(reading):
    """KL, k3 and log ratio of a known move, per message, mean over messages; rows of the second scoring read the same slots."""
    table = np.random.default_rng(2).normal(size=(V, V))
    trained, frozen = {"table": jnp.asarray(table)}, {"head": jnp.eye(V)}
    found = self_kl_floor(SHAPELY, trained, frozen, reading, temperature=0.5, micro_batch=4)
    ids = np.asarray(reading.ids).reshape(R, -1)
    logits = table[np.take_along_axis(ids, np.asarray(reading.at).reshape(R, -1), 1).reshape(R, M, L)] / 0.5
    log_p, log_q = (
        x - np.logaddexp.reduce(x, -1, keepdims=True) for x in (logits, logits + MOVE / 0.5 * (np.arange(V) == 0))
    )
    own, written = np.asarray(reading.own), np.asarray(reading.written)
    moved = np.take_along_axis(log_q - log_p, written[..., None], -1)[..., 0]
    kl = np.where(own, (np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0).sum(-1)
    k3 = np.where(own, np.expm1(moved) - moved, 0.0).sum(-1)
    messages = own.any(-1).sum()
    np.testing.assert_allclose(found.kl.value, kl.sum() / messages, rtol=1e-6)
    np.testing.assert_allclose(found.k3.value, k3.sum() / messages, rtol=1e-6)
    np.testing.assert_allclose(found.log_ratio, abs(np.where(own, moved, 0.0).sum(-1)).max(), rtol=1e-6)
    rest = kl.sum(-1) - found.kl.value * own.any(-1).sum(-1)  # a ratio of two sums over conversations, linearised
    half = stats.t.ppf(0.975, R - 1) * (R / (R - 1) * (rest @ rest)) ** 0.5 / messages
    np.testing.assert_allclose((found.kl.low, found.kl.high), found.kl.value + np.array([-half, half]), rtol=1e-5)
    assert found.kl.n == R
    assert found.sees(3 * found.kl.high)
    assert not found.sees(2.9 * found.kl.high)


def test_floor_of_a_llama():
    """Empty slots behind a row and the size of the batch change nothing but roundings.

    In bfloat16 these are .002 to .05 nats a message at six layers of width 192; networks as small as this one may show none.
    """
    rows, length, written, ids = 4, 60, 30, 50
    own = np.ones((rows, 1, written), bool)
    text = jnp.asarray(np.random.default_rng(0).integers(0, ids, (rows, 1, length)))
    at = jnp.broadcast_to(jnp.arange(length - written - 1, length - 1), own.shape)
    whole = jnp.ones((rows, 1, length), bool)
    reading = Reading(text, whole, at, text[..., length - written :], jnp.asarray(own), jnp.asarray(own))
    floors = {}
    for dtype in ("float32", "bfloat16"):
        model = LlamaConfig(
            ids, 64, 2, heads=6, kv_heads=2, head_dim=32, hidden=512, tied=True, dtype=dtype, lora=Lora(rank=4)
        )
        params = model.init(jax.random.key(0))
        params["embedding"] = 3 * params["embedding"]
        floors[dtype] = self_kl_floor(model, *split_trained(params, model.trained(params)), reading, micro_batch=4)
    assert floors["float32"].kl.value < 1e-9
    assert floors["bfloat16"].kl.value < 0.1
    assert floors["float32"].log_ratio < 1e-4


def test_refusals(reading):
    trained, frozen = {"table": jnp.full((V, V), jnp.nan)}, {"head": jnp.eye(V)}
    with pytest.raises(InputError, match="params: found scores that are not numbers"):
        self_kl_floor(SHAPELY, trained, frozen, reading, micro_batch=4)
    nobody = reading._replace(own=jnp.zeros_like(reading.own))
    with pytest.raises(InputError, match="reading: found no message"):
        self_kl_floor(SHAPELY, trained, frozen, nobody, micro_batch=4)
