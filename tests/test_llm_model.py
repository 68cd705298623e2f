"""The transformer: causality by gradients, cache against teacher forcing, RoPE, adapters, stacked and unlike teams."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm.layout import Layout, Router, Vocabulary, author, emitted, random_router, round_robin
from teamtr_jax.llm.model import (
    LanguageTeam,
    ModelConfig,
    agent_params,
    extend_cache,
    init_cache,
    init_params,
    init_team,
    is_trained,
    policy_logits,
    rotate,
    with_agent_params,
)
from teamtr_jax.llm.sampler import _groups, sample
from teamtr_jax.validation import InputError

SMALL = ModelConfig(width=8, layers=2, heads=2)
LOGITS = jax.jit(policy_logits, static_argnums=(0, 1), static_argnames="first")
EXTEND = jax.jit(extend_cache, static_argnums=(0, 1))


def by_last(view):
    """Hardly ever the one who spoke last; by the text at first."""
    odd = (view.tokens[:, 0] % 2 == 1)[:, None]
    start = jnp.where(odd, jnp.array([0.5, 0.5, 0.0]), jnp.array([0.0, 0.0, 1.0]))
    rest = jnp.where(view.last[:, None] == jnp.arange(3), 0.1, 0.45)
    return jnp.where((view.last < 0)[:, None], start, rest)


def test_causality():
    """d logits[p] / d embedding of position q: zero for q > p and for PAD, not zero for q ≤ p. Every position has its own id."""
    vocabulary = Vocabulary("01", 1, "abcdefghij")
    layout = Layout(vocabulary, 10, 1, 1, round_robin(1))
    params = init_params(SMALL, layout, jax.random.key(0))
    padded = 4
    ids = vocabulary.encode("abcdefghij")
    tokens = np.where(np.arange(10) == padded, vocabulary.pad, ids)
    jacobian = jax.jit(jax.jacrev(lambda p: policy_logits(SMALL, layout, p, jnp.asarray(tokens)[None])[0]))(params)
    size = np.abs(np.asarray(jacobian["embedding"])).max(
        (1, 3)
    )  # [p, id]; ids that only prompts hold are not in the head
    read = size[:, ids]
    for p in range(10):
        for q in range(10):
            if q > p or q == padded:
                assert read[p, q] == 0
            elif p != padded:
                assert read[p, q] > 1e-6
    assert not np.delete(size[:, vocabulary.pad], padded).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_window_is_what_is_read(layers):
    """The prompt, and the last three positions with oneself among them; a second layer reaches two further back."""
    window, prompt, length = 3, 2, 10
    vocabulary = Vocabulary("abcdefgh", 1, "xy", ends=False)
    layout = Layout(vocabulary, prompt, length - prompt - 1, 1, round_robin(1))
    config = ModelConfig(8, layers, 2, window=window)
    params = init_params(config, layout, jax.random.key(0))
    ids = np.array([*vocabulary.encode("xy"), vocabulary.header(0), *vocabulary.encode("abcdefg")])
    jacobian = jax.jit(jax.jacrev(lambda p: policy_logits(config, layout, p, jnp.asarray(ids)[None])[0]))(params)
    # ids in the head move every logit: by what they were written as is seen in those of other actions
    table = np.abs(np.asarray(jacobian["embedding"]))  # [p, action, id, width]
    reach = 1 + layers * (window - 1)
    for p in range(length):
        for q in range(length):
            others = [a for a in range(vocabulary.actions) if a != ids[q]]
            read = table[p, others, ids[q]].max()
            if q <= p and (q < prompt or q > p - reach):
                assert read > 1e-7, (p, q)
            else:
                assert read == 0, (p, q)


ROUTERS = {"round robin": round_robin(3), "random": random_router(3), "by last speaker": Router("by last", by_last)}
ONE = ModelConfig(width=8, layers=1, heads=1)
UNLIKE = (ONE, ModelConfig(width=16, layers=1, heads=2), ModelConfig(width=8, layers=1, heads=1, lora_rank=2))
TEAMS = [
    ("round robin", True, None, (SMALL,) * 3, 1.0),
    ("random", True, (2, 3, 4), (SMALL,) * 3, 0.5),
    ("by last speaker", False, (4, 1, 2), UNLIKE, 1.0),
    ("round robin", False, (1, 4, 3), UNLIKE, 2.0),
]


@partial(jax.jit, static_argnums=(0, 1))
def next_log_p(config, layout, params, tokens):
    """Teacher-forced, of the id that follows each position but the last."""
    chosen = jnp.minimum(tokens[:, 1:], layout.vocabulary.actions - 1)[..., None]
    log_p = jax.nn.log_softmax(policy_logits(config, layout, params, tokens)[:, :-1])
    return jnp.take_along_axis(log_p, chosen, 2)[..., 0]


def both_ways(router, ends, caps, models, temperature, message=4, turns=5, batch=256):
    """Log-probabilities as sampled with the cache, and teacher-forced, of a batch of transcripts."""
    layout = Layout(Vocabulary("01+", 3, "?!", ends), 4, message, turns, ROUTERS[router], caps, temperature)
    team = LanguageTeam(layout, models)
    params = init_team(team, jax.random.key(0))
    prompts = jnp.asarray(layout.encode_prompts(["?!", "1?", "!", "01+?"] * (batch // 4)))
    out = sample(team, params, prompts, jax.random.key(1))
    forced = np.zeros(out.tokens.shape, np.float32)
    who = np.asarray(author(layout, out.speaker))
    for agent in range(3):
        own = jax.tree.map(np.asarray, agent_params(team, jax.tree.map(np.asarray, params), agent))
        log_p = np.asarray(next_log_p(models[agent], layout, own, out.tokens))
        forced[:, 1:] = np.where(who[:, 1:] == agent, log_p, forced[:, 1:])
    wrote = np.asarray(emitted(layout, out.tokens))
    return np.asarray(out.logp)[wrote], forced[wrote], out


@pytest.mark.parametrize(
    ("settings", "wide"),
    [(TEAMS[0], True), (TEAMS[1], False), pytest.param(TEAMS[2], True, marks=pytest.mark.slow), (TEAMS[3], False)],
    ids=lambda x: f"{x[0]}, END {x[1]}, caps {x[2]}" if isinstance(x, tuple) else f"x64 {x}",
)
def test_cache_is_teacher_forcing(settings, wide):
    """To 1e-5 in float32 at B = 256, with the setting x64 on and off; every agent speaks somewhere."""
    with jax.enable_x64(wide):
        cached, forced, out = both_ways(*settings)
        assert out.logp.dtype == jnp.float32
    assert len(cached) > 1000
    assert cached.std() > 0.1
    np.testing.assert_allclose(cached, forced, atol=1e-5)
    assert set(np.unique(out.speaker)) == {0, 1, 2}


def test_long_conversation_is_teacher_forcing():
    """Caches that grow from turn to turn, and between the halves of a last, long message."""
    cached, forced, out = both_ways("round robin", False, None, (ONE,) * 3, 1.0, message=32, turns=3, batch=8)
    assert len(cached) == 8 * 96
    assert cached.std() > 0.1
    np.testing.assert_allclose(cached, forced, atol=1e-5)
    layout = Layout(Vocabulary("01+", 3, "?!", False), 4, 32, 3, ROUTERS["round robin"])
    assert [group.keys for group in _groups(layout)] == [(37,), (70,), (86, 102)]
    assert out.tokens.shape == (8, 103)


@pytest.mark.parametrize("window", [0, 3])
def test_caches_in_parts_and_logits_from_a_position(window):
    """A cache after two that are only read, and the last layer from a position on: as one pass over everything, PAD included."""
    layout = Layout(Vocabulary("01+", 1, "?!"), 4, 6, 1, round_robin(1))
    config = ModelConfig(16, 2, 2, window=window)
    params = init_params(config, layout, jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, layout.vocabulary.size, (5, layout.length)), jnp.int32)
    tokens = tokens.at[:3, :2].set(layout.vocabulary.pad)
    readable, expected = tokens != layout.vocabulary.pad, np.asarray(LOGITS(config, layout, params, tokens))
    found, parts, begin = [], (), 0
    for size in (4, 3, 4):
        cache = init_cache(config, 5, size)
        for at in range(begin, begin + size):
            seen, one = readable[:, : begin + size], tokens[:, at : at + 1]
            logits, cache = EXTEND(config, layout, params, one, seen, jnp.asarray(at), cache, past=parts)
            found.append(np.asarray(logits))
        parts, begin = (*parts, cache), begin + size
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-5)
    for first in (0, 4, 10):
        np.testing.assert_allclose(LOGITS(config, layout, params, tokens, first=first), expected[:, first:], atol=1e-5)


def by_hand(config, layout, params, tokens):
    """Logits ``[N, A]`` of one row, as the docstrings say, in NumPy and float64."""
    p, n = jax.tree.map(lambda x: np.asarray(x, np.float64), params), len(tokens)

    def linear(own, x):
        return x @ own["kernel"] + x @ own["lora_a"] @ own["lora_b"] / config.lora_rank

    def norm(own, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * own["scale"]

    def turned(x):
        half = x.shape[-1] // 2
        angle = np.arange(n)[:, None, None] * config.rope_base ** (-np.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate(
            [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)], -1
        )

    x = p["embedding"][tokens] * config.width**0.5
    seen = (np.arange(n) <= np.arange(n)[:, None]) & ((tokens != layout.vocabulary.pad) | np.eye(n, dtype=bool))
    for k in range(config.layers):
        block = p[f"block_{k}"]
        attention = block["Attention_0"]
        joint = np.split(linear(attention["qkv"], norm(block["RMSNorm_0"], x)), 3, -1)
        q, k, v = (part.reshape(n, config.heads, -1) for part in joint)
        scores = np.einsum("qhd,khd->hqk", turned(q), turned(k)) / (config.width / config.heads) ** 0.5
        weights = np.exp(np.where(seen, scores, -np.inf))
        read = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v)
        x = x + linear(attention["out"], read.reshape(n, -1))
        gate, up = np.split(linear(block["gate_up"], norm(block["RMSNorm_1"], x)), 2, -1)
        x = x + linear(block["down"], gate / (1 + np.exp(-gate)) * up)
    return norm(p["RMSNorm_0"], x) @ p["embedding"][: layout.vocabulary.actions].T / layout.temperature


def test_the_network_by_hand():
    """Attention, rotation, norms, SwiGLU, adapters of rank 3, a tied head, the temperature; PAD is read by itself alone."""
    layout = Layout(Vocabulary("01+", 1, "?!"), 4, 3, 1, round_robin(1), temperature=0.7)
    config = ModelConfig(12, 2, 3, lora_rank=3, rope_base=50.0)
    fresh = jax.tree.map(np.asarray, init_params(config, layout, jax.random.key(0)))
    params = jax.tree.map(lambda x: x + 0.3 * np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape), fresh)
    rows = np.random.default_rng(0).integers(0, layout.vocabulary.pad, (3, layout.length))
    rows[0, :2] = rows[1, 5] = layout.vocabulary.pad
    found = LOGITS(config, layout, params, jnp.asarray(rows, jnp.int32))
    for logits, row in zip(np.asarray(found), rows, strict=True):
        np.testing.assert_allclose(logits, by_hand(config, layout, params, row), atol=1e-4)
    for name, sides in (("gate_up", (12, 2 * 32)), ("down", (32, 12))):  # 8/3 of 12, up to a multiple of 8
        kernel = fresh["block_0"][name]["kernel"]
        assert kernel.shape == sides
        assert kernel.std() * sides[0] ** 0.5 == pytest.approx(1, abs=0.15)  # four standard errors of 384 numbers


def test_rope_is_relative():
    """`⟨rotate(q, m), rotate(k, n)⟩` depends on m − n alone, and does depend on it; lengths are kept."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8), jnp.float64)

    @jax.jit
    def score(m, n, q=q, k=k):
        return (rotate(q, m, 100.0, 128) * rotate(k, n, 100.0, 128)).sum()

    assert float(score(7, 3)) == pytest.approx(float(score(4, 0)), abs=1e-5)
    assert float(score(107, 103)) == pytest.approx(float(score(4, 0)), abs=1e-5)
    assert abs(float(score(5, 0)) - float(score(4, 0))) > 1e-3
    assert float(score(9, 9, q, q)) == pytest.approx(float((q**2).sum()), rel=1e-6)


def test_fresh_adapters_change_nothing():
    """LoRA begins at the base model; only adapters are trained, and they do something once `b` is not zero."""
    layout = Layout(Vocabulary("01", 1, "?"), 2, 3, 1, round_robin(1))
    config = ModelConfig(width=8, layers=1, heads=1, lora_rank=2)
    params = jax.tree.map(np.asarray, init_params(config, layout, jax.random.key(0)))

    def base(tree):
        return {k: base(x) if isinstance(x, dict) else x for k, x in tree.items() if not k.startswith("lora_")}

    tokens = jnp.array([[2, 3, 1, 0], [1, 1, 2, 0]], jnp.int32)
    bare = LOGITS(ONE, layout, base(params), tokens)
    np.testing.assert_array_equal(LOGITS(config, layout, params, tokens), bare)
    trained = is_trained(params)
    assert any(jax.tree.leaves(trained))
    moved = jax.tree.map(lambda x, t: x + np.float32(0.1 * t), params, trained)
    assert jax.tree.all(jax.tree.map(lambda x, y, t: bool(t) or bool((x == y).all()), moved, params, trained))
    assert float(abs(LOGITS(config, layout, moved, tokens) - bare).max()) > 1e-3
    assert all(jax.tree.leaves(is_trained(base(params))))


replaced = jax.jit(with_agent_params, static_argnums=(0, 2))


def test_tuple_and_stack_are_the_same_team():
    """A team of equal networks whose configurations are told apart (hidden size given or by default) samples the same."""
    layout = Layout(Vocabulary("01", 2, "?"), 1, 2, 3, random_router(2))
    spelled = ModelConfig(width=8, layers=1, heads=1, hidden=ONE.inner)
    stacked, apart = (LanguageTeam(layout, models) for models in ((ONE, ONE), (ONE, spelled)))
    assert (stacked.alike, apart.alike) == (True, False)
    params = init_team(stacked, jax.random.key(0))
    listed = init_team(apart, jax.random.key(0))
    for agent in range(2):
        jax.tree.map(
            np.testing.assert_array_equal, agent_params(stacked, params, agent), agent_params(apart, listed, agent)
        )
    prompts = jnp.asarray(layout.encode_prompts(["?"] * 64))
    a, b = (sample(team, p, prompts, jax.random.key(1)) for team, p in ((stacked, params), (apart, listed)))
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-6)

    new = jax.tree.map(lambda x: np.asarray(x) + 1, agent_params(stacked, params, 1))
    for team, p in ((stacked, params), (apart, listed)):
        changed = replaced(team, p, 1, new)
        jax.tree.map(np.testing.assert_array_equal, agent_params(team, changed, 0), agent_params(team, p, 0))
        jax.tree.map(np.testing.assert_array_equal, agent_params(team, changed, 1), new)
    with pytest.raises(InputError, match="agent: found a traced index"):
        agent_params(apart, listed, jnp.array(0))
    with pytest.raises(InputError, match="agent: found a traced index"):
        with_agent_params(apart, listed, jnp.array(0), new)


def test_no_position_beyond_a_transcript():
    """A slice past the sines, or past the cache, would silently be moved back: it is refused."""
    layout = Layout(Vocabulary("01", 1, "?"), 2, 3, 1, round_robin(1))
    config, params = ONE, init_params(ONE, layout, jax.random.key(0))

    def whole(length):
        return jax.eval_shape(lambda: policy_logits(config, layout, params, jnp.zeros((1, length), jnp.int32)))

    def chunk(start, held, past=0):
        tokens, readable = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, past + held), bool)
        cache, before = init_cache(config, 1, held), (init_cache(config, 1, past),) if past else ()
        return jax.eval_shape(
            lambda: extend_cache(config, layout, params, tokens, readable, start, cache, past=before)[0]
        )

    assert layout.length == 6
    assert whole(6).shape == (1, 6, 3)
    assert chunk(4, 6).shape == (1, 2, 3)
    with pytest.raises(InputError, match="tokens: found 7 positions, expected at most 6"):
        whole(7)
    with pytest.raises(InputError, match="tokens: found 7 positions, expected at most 6"):
        chunk(5, 6)
    with pytest.raises(InputError, match="tokens: found 5 positions, expected at most 4"):
        chunk(3, 4)
    with pytest.raises(InputError, match="tokens: found 9 positions, expected at most 6"):
        chunk(0, 9)
    with pytest.raises(InputError, match="tokens: found 6 positions, expected at most 5"):
        chunk(4, 2, past=3)
    with pytest.raises(InputError, match="tokens: found 7 positions, expected at most 6"):
        chunk(0, 4, past=3)


def test_refusals():
    for bad in (dict(width=6, heads=2), dict(layers=0), dict(lora_rank=-1), dict(dtype="float16")):
        with pytest.raises(InputError):
            ModelConfig(**bad)  # pyright: ignore[reportArgumentType]
    vocabulary = Vocabulary("01", 2, "?")
    with pytest.raises(InputError, match="models: found 1 networks"):
        LanguageTeam(Layout(vocabulary, 1, 1, 1, round_robin(2)), (SMALL,))
    with pytest.raises(InputError, match="characters, prompt_only"):
        Vocabulary("00", 1)
    with pytest.raises(InputError, match="at least two things to write"):
        Vocabulary("", 1)
    with pytest.raises(InputError, match="characters among"):
        vocabulary.encode("2")
    one: dict[str, Any] = dict(vocabulary=vocabulary, prompt=1, message=1, turns=1, router=round_robin(2))
    for bad in (dict(caps=(1,)), dict(caps=(0, 1)), dict(caps=(1, 9)), dict(temperature=0.0), dict(turns=0)):
        settings: dict[str, Any] = one | bad
        with pytest.raises(InputError):
            Layout(**settings)
    layout = Layout(vocabulary, 2, 2, 1, round_robin(2))
    with pytest.raises(InputError, match="prompts"):
        layout.encode_prompts(["?" * 3])
