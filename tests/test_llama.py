"""The Llama family against transformers (fixtures), caches, gaps, windows, remat, one program per configuration."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.llm.language_model import LanguageModel, logits_of
from teamtr_jax.llm.llama.adapters import adapted, merged, without_adapters
from teamtr_jax.llm.llama.config import LlamaConfig, config_of
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import LINEARS, Lora
from teamtr_jax.llm.llama.rope import Rope
from teamtr_jax.validation import InputError

CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"
FAMILIES = sorted(path.name for path in CHECKPOINTS.iterdir() if (path / "config.json").is_file())
TOLERANCE = 1e-4
"""Of logits with a standard deviation of 1; measured: 1.7e-5 at most."""


@partial(jax.jit, static_argnums=0)
def logits(config, params, ids, readable):
    found, _ = config.features(params, ids, readable)
    return logits_of(found, config.head(params))


def settings(folder, changes):
    """The config of a fixture with other entries; of the two places of rotation the new one."""
    entries = json.loads((folder / "config.json").read_text()) | changes
    for new, old in (("rope_scaling", "rope_parameters"), ("rope_parameters", "rope_scaling")):
        if new in changes:
            entries.pop(old, None)
    return config_of(entries)


@pytest.fixture(scope="session")
def agents():
    return {name: load_agent(CHECKPOINTS / name) for name in FAMILIES}


CASES = [(name, "") for name in FAMILIES] + [
    (name, variant)
    for name in FAMILIES
    if (CHECKPOINTS / name / "variants.json").is_file()
    for variant in json.loads((CHECKPOINTS / name / "variants.json").read_text())
    if variant != "dynamic"
]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_logits_are_those_of_transformers(agents, name, variant):
    """Every family, rotation and window: on the padded batch, or on its last row for another setting of the same weights."""
    folder, params = CHECKPOINTS / name, agents[name].params
    expected = np.load(folder / "expected.npz")
    ids, readable = expected["ids"], expected["readable"]
    config = agents[name].model
    if variant:
        config = settings(folder, json.loads((folder / "variants.json").read_text())[variant])
        ids, readable = ids[2:], readable[2:]
    found = np.asarray(logits(config, params, ids, readable))
    wanted = expected[f"logits.{variant}" if variant else "logits"]
    assert found.dtype == np.float32
    assert np.abs(found - wanted)[readable].max() < TOLERANCE
    if variant:  # the variant is another network: the test tells them apart
        assert np.abs(wanted - expected["logits"][2:]).max() > 0.5


def test_a_checkpoint_is_a_language_model(agents):
    agent = agents["qwen3"]
    assert isinstance(agent.model, LanguageModel)
    assert (agent.model.vocabulary, agent.model.width) == (300, 32)
    assert agent.model.head(agent.params) is agent.params["head"]["kernel"]
    assert agents["smollm2"].model.head(agents["smollm2"].params) is agents["smollm2"].params["embedding"]


@partial(jax.jit, static_argnums=(0, 5))
def continued(config, params, prompt, readable, first, count):
    """The prompt read into a cache, then greatest logits, one id after the other; the cache is longer than what is written."""
    start = prompt.shape[1]
    _, cache = config.features(params, prompt, readable, 0, config.init_cache(1, readable.shape[1]))
    params = config.prepared(params)

    def write(i, state):
        ids, cache = state
        found, cache = config.features(params, ids[:, i][:, None], readable, start + i, cache)
        next_ = logits_of(found[:, -1], config.head(params)).argmax(-1)
        return ids.at[:, i + 1].set(next_.astype(jnp.int32)), cache

    ids, _ = jax.lax.fori_loop(0, count - 1, write, (jnp.zeros((1, count), jnp.int32).at[:, 0].set(first), cache))
    return ids[0]


@pytest.mark.parametrize(
    ("name", "unroll"), [("llama3", False), ("mistral", True), ("mistral", False), ("qwen2", True)]
)
def test_a_cache_continues_as_transformers_does(agents, name, unroll):
    """Greedy: the first id from the last position of the prompt, the others from what was written into the cache."""
    expected, agent = np.load(CHECKPOINTS / name / "expected.npz"), agents[name]
    config, prompt = replace(agent.model, unroll=unroll), expected["ids"][:1, :10]
    found = np.asarray(logits(agent.model, agent.params, expected["ids"], expected["readable"]))[0, 9].argmax()
    wanted = expected["greedy"]
    assert found == wanted[0]
    ids = continued(config, agent.params, prompt, np.ones((1, 10 + len(wanted) + 3), bool), int(found), len(wanted))
    assert ids.tolist() == wanted.tolist()


GAPS = np.array([0, 1, 2, 4, 5, 7, 8, 9, 13, 14, 15])
"""Slots of a row of 16 in which its 11 ids stand."""


@partial(jax.jit, static_argnums=0)
def by_chunks(config, params, ids, readable, start):
    """The row of 16 slots in chunks of 7, 5 and 4: the first into a cache that is then past, the others into a second one."""
    early, late = config.init_cache(len(ids), 7), config.init_cache(len(ids), 9)
    found = []
    _, early = config.features(params, ids[:, :7], readable[:, :7], 0, early)
    features, again = config.features(params, ids[:, :7], readable[:, :7], 0, early)
    found.append(features)
    for begin, chunk in ((0, 5), (5, 4)):
        piece = jax.lax.dynamic_slice_in_dim(ids, start + begin, chunk, 1)
        features, late = config.features(params, piece, readable, start + begin, late, (again,))
        found.append(features)
    return jnp.concatenate(found, 1)


@partial(jax.jit, static_argnums=(0, 4))
def whole(config, params, ids, readable, first=0):
    return config.features(params, ids, readable, first=first)[0]


@pytest.mark.parametrize(("name", "unroll"), [("mistral", False), ("qwen2", True), ("smollm2", True)])
def test_gaps_padding_and_chunks_change_nothing(agents, name, unroll):
    """What an id means hangs on the readable ids before it alone: windows and rotations count those, not slots."""
    agent, rng = agents[name], np.random.default_rng(0)
    config = replace(agent.model, unroll=unroll)
    if name == "qwen2":  # one layer with a window of 5, one without
        config = replace(config, window=5, full=(0,))
    dense = rng.integers(0, 280, (2, 11)).astype(np.int32)
    ids = rng.integers(0, 280, (2, 16)).astype(np.int32)
    ids[:, GAPS] = dense
    readable = np.isin(np.arange(16), GAPS) & np.ones((2, 1), bool)
    wanted = np.asarray(whole(config, agent.params, dense, np.ones((2, 11), bool)))
    found = np.asarray(whole(config, agent.params, ids, readable))
    np.testing.assert_allclose(found[:, GAPS], wanted, atol=2e-5)
    chunks = np.asarray(by_chunks(config, agent.params, ids, readable, 7))
    np.testing.assert_allclose(chunks[:, GAPS], wanted, atol=2e-5)
    np.testing.assert_allclose(chunks, found, atol=2e-5)  # those of what is not readable too
    np.testing.assert_allclose(whole(config, agent.params, ids, readable, 9), found[:, 9:], atol=1e-6)


@pytest.mark.parametrize(("full", "reach"), [((), 9), ((0,), 20), ((0, 1), 20)])
def test_what_is_read(agents, full, reach):
    """Another id changes its own position and those after it up to `layers · (window − 1)`; with a full layer all after it."""
    agent = agents["mistral"]
    config = replace(agent.model, full=full)
    ids, readable = np.arange(20, dtype=np.int32)[None] + 30, np.ones((1, 20), bool)
    changed = ids.copy()
    changed[0, 6] = 200
    before, after = (np.asarray(whole(config, agent.params, row, readable)) for row in (ids, changed))
    moved = np.abs(before - after)[0].max(-1)
    last = min(6 + reach, 20)
    assert not moved[:6].any()
    assert (moved[6:last] > 1e-4).all()
    assert not moved[last:].any()


TINY = LlamaConfig(50, 16, 2, 4, 2, 4, 24, rope=Rope(100.0), biases=("q", "o"), tied=True, qk_norm=True)
LORA = Lora(3, 6.0, ("q", "v", "down"), ranks=(("v", 1, 2), ("down", 0, 0)), alphas=(("q", 1, 2.0),))


@pytest.fixture(scope="session")
def adapters():
    """A tiny network with adapters of different ranks, whose B is not zero where an adapter is."""
    config = replace(TINY, lora=LORA)
    params = config.init(jax.random.key(0))
    layers = {name: dict(leaves) for name, leaves in params["layers"].items()}
    for i, name in enumerate(LORA.targets):
        b = layers[name]["lora_b"]
        held = np.array([[j < LORA.rank_of(name, at) for j in range(b.shape[1])] for at in range(2)])[..., None]
        layers[name]["lora_b"] = 0.3 * jax.random.normal(jax.random.key(i), b.shape, jnp.float32) * held
    return config, params, {**params, "layers": layers}


IDS = jnp.asarray(np.random.default_rng(1).integers(0, 50, (2, 9)), jnp.int32)
READABLE = jnp.asarray(np.arange(9) < np.array([[9], [6]]))


@partial(jax.jit, static_argnums=0)
def gradient(config, params):
    return jax.grad(lambda p: (config.features(p, IDS, READABLE)[0] ** 2 * READABLE[..., None]).sum())(params)


def test_adapters_change_nothing_at_first_and_alone_are_trained(adapters):
    config, fresh, _ = adapters
    base = without_adapters(fresh)
    np.testing.assert_array_equal(whole(config, fresh, IDS, READABLE), whole(TINY, base, IDS, READABLE))
    assert base["layers"]["q"]["kernel"] is fresh["layers"]["q"]["kernel"]
    trained = jax.tree_util.tree_flatten_with_path(config.trained(fresh))[0]
    assert {jax.tree_util.keystr(path) for path, own in trained if own} == {
        f"['layers']['{name}']['lora_{side}']" for name in LORA.targets for side in "ab"
    }
    assert all(jax.tree.leaves(TINY.trained(base)))
    assert fresh["layers"]["v"]["lora_a"].shape == (2, 16, 3)
    assert fresh["layers"]["down"]["lora_a"].shape == (2, 24, 3)
    assert fresh["layers"]["q"]["lora_a"].dtype == jnp.float32
    second = adapted(config, base, jax.random.key(5))
    assert second["embedding"] is fresh["embedding"]
    assert not jnp.array_equal(second["layers"]["q"]["lora_a"], fresh["layers"]["q"]["lora_a"])


def test_sizes_of_fresh_numbers(adapters):
    """Kernels and tables have variance 1/in; A is uniform on ±1/√in, as PEFT draws it, up to a layer's rank, and B is 0."""
    _, fresh, _ = adapters
    for name, into in (("q", 16), ("o", 16), ("up", 16), ("down", 24)):
        assert float(fresh["layers"][name]["kernel"].std()) * into**0.5 == pytest.approx(1, abs=0.2), name
    assert float(fresh["embedding"].std()) * 4 == pytest.approx(1, abs=0.2)
    for name, into in (("q", 16), ("v", 16), ("down", 24)):
        a = np.asarray(fresh["layers"][name]["lora_a"]) * into**0.5
        held = np.arange(3) < np.array([[LORA.rank_of(name, layer)] for layer in range(2)])
        own = a.swapaxes(1, 2)[held].ravel()
        assert not a.swapaxes(1, 2)[~held].any()
        assert -1 <= own.min() < -0.9
        assert 0.9 < own.max() <= 1
        assert abs(own.mean()) < 4 / (3 * own.size) ** 0.5
        assert not np.asarray(fresh["layers"][name]["lora_b"]).any()


@partial(jax.jit, static_argnums=0)
def cached(config, params):
    return config.features(params, IDS, READABLE, 0, config.init_cache(2, 9))[0]


def test_adapters_are_what_they_say_and_merge(adapters):
    """`W + s A B` by hand, layer by layer, is the same network; so are the merged one and the one that is ready to write."""
    config, _, params = adapters
    by_hand = {name: dict(leaves) for name, leaves in without_adapters(params)["layers"].items()}
    for name, scales in {"q": (6 / 3, 2 / 3), "v": (6 / 3, 6 / 2), "down": (0.0, 6 / 3)}.items():
        own = {side: np.asarray(params["layers"][name][f"lora_{side}"], np.float64) for side in "ab"}
        added = [s * a @ b for s, a, b in zip(scales, own["a"], own["b"], strict=True)]
        by_hand[name]["kernel"] = jnp.asarray(np.asarray(by_hand[name]["kernel"]) + np.stack(added), jnp.float32)
    wanted = np.asarray(whole(TINY, {**params, "layers": by_hand}, IDS, READABLE))
    assert np.abs(wanted - np.asarray(whole(TINY, without_adapters(params), IDS, READABLE))).max() > 0.1
    np.testing.assert_allclose(whole(config, params, IDS, READABLE), wanted, atol=2e-5)
    np.testing.assert_allclose(whole(config, merged(config, params), IDS, READABLE), wanted, atol=2e-5)
    for unroll in (False, True):
        ready = replace(config, unroll=unroll)
        for form in (params, ready.prepared(params)):
            np.testing.assert_allclose(cached(ready, form), wanted, atol=2e-5)


def test_x64_off(adapters):
    """The same numbers, with a cache too."""
    config, _, params = adapters
    wanted = np.asarray(whole(config, params, IDS, READABLE))
    with jax.enable_x64(False):
        np.testing.assert_allclose(cached(config, params), wanted, atol=2e-5)


def test_gradients_with_and_without_remat(adapters):
    """The same; beyond a layer's own rank none, so that ranks stay what they are."""
    config, _, params = adapters
    plain, again = gradient(config, params), gradient(replace(config, remat=True), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)
    for name in LORA.targets:
        for layer in range(2):
            rank = LORA.rank_of(name, layer)
            a, b = (plain["layers"][name][f"lora_{side}"][layer] for side in "ab")
            assert not a[:, rank:].any()
            assert not b[rank:].any()
            assert rank == 0 or (jnp.abs(a[:, :rank]).max(0) > 0).all()
            assert rank == 0 or (jnp.abs(b[:rank]).max(1) > 0).all()


def test_rank_stabilised_scale():
    assert replace(LORA, rslora=True).scale_of("q", 0) == pytest.approx(6 / 3**0.5)
    assert LORA.scales("down", 2).tolist() == [0.0, 2.0]
    assert Lora(ranks=(("q", None, 4), ("q", 1, 2))).greatest("q", 2) == 4


def test_bfloat16(adapters):
    """Frozen kernels are kept in it, adapters, norms and what is trained in float32; features are float32's to some percent."""
    config, _, params = adapters
    half = replace(config, dtype="bfloat16")
    kept = half.init(jax.random.key(0))
    assert kept["layers"]["q"]["kernel"].dtype == kept["embedding"].dtype == jnp.bfloat16
    assert kept["layers"]["q"]["lora_b"].dtype == kept["norm"]["scale"].dtype == jnp.float32
    assert replace(half, lora=None).init(jax.random.key(0))["embedding"].dtype == jnp.float32
    found, wanted = whole(half, params, IDS, READABLE), whole(config, params, IDS, READABLE)
    assert found.dtype == jnp.bfloat16
    assert half.init_cache(1, 2)[0].dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, np.float32) - np.asarray(wanted))
    assert 1e-3 < error.max() < 0.1
    with pytest.raises(InputError, match="q in bfloat16, expected float32"):
        merged(half, kept)
    assert "lora_a" in half.prepared(kept)["layers"]["q"]


def test_one_program_for_equal_configs(agents):
    """A config is hashable and equal to one read again: nothing is compiled twice."""
    agent, count = agents["llama3"], logits._cache_size()
    for _ in range(2):
        again = config_of(json.loads((CHECKPOINTS / "llama3" / "config.json").read_text()))
        assert again == agent.model
        assert hash(again) == hash(agent.model)
        logits(again, agent.params, np.zeros((1, 5), np.int32), np.ones((1, 5), bool))
    assert logits._cache_size() == count + 1


def test_every_leaf_has_a_rule(adapters):
    """Kernels and tables lie on two axes, adapters on the side that is not their rank, norms and outer biases everywhere."""
    config, _, params = adapters
    params = {**params, "head": {"kernel": params["embedding"]}}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next(spec for pattern, spec in config.partition() if re.search(pattern, name))
        axes = [axis for axis in spec if axis is not None]
        assert len(spec) <= leaf.ndim
        assert not ("layers" in name and len(spec) and spec[0])  # layers are scanned
        wanted = 0 if "norm" in name or name == "layers/o/bias" else 1 if "lora" in name or "bias" in name else 2
        assert len(axes) == (wanted if name.startswith("layers") else min(wanted, 1)), name
        if "lora_a" in name:
            assert spec[-1] is None
        if "lora_b" in name:
            assert spec[1] is None


def test_what_meets_lies_along_the_same_axes():
    """Adapters and bias as their kernel; what q, k, v, gate and up give is divided as o and down take it; tables by ids."""

    def spec(name):
        found = next(spec for pattern, spec in TINY.partition() if re.search(pattern, name))
        return (*found, None, None, None)[:3]

    for linear in LINEARS:
        (_, into, out), adapter = spec(f"layers/{linear}/kernel"), f"layers/{linear}/lora"
        assert spec(f"{adapter}_a") == (None, into, None)
        assert spec(f"{adapter}_b") == (None, None, out)
        assert (into, out) == (("tensor", "fsdp") if linear in ("o", "down") else ("fsdp", "tensor"))
        assert spec(f"layers/{linear}/bias") == (None, None if linear in ("o", "down") else "tensor", None)
    assert spec("embedding") == spec("head/kernel") == ("tensor", None, None)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"start": 3, "cache": 8}, "ids: found a chunk that ends at slot 12"),
        ({}, {"cache": 12}, "readable: found 9 slots, expected 12"),
        ({}, {"start": 2, "cache": 9, "past": 9, "slots": 18}, "start: found 2, expected at least 9"),
        ({"rope": Rope(kind="dynamic", factor=2.0, original=8)}, {}, "at most 8"),
        ({"lora": None}, {}, "adapters of q, v, down"),
    ],
)
def test_wrong_calls_are_refused(adapters, change, arguments, message):
    config, _, params = adapters
    config = replace(config, **change)
    cache = config.init_cache(2, arguments["cache"]) if "cache" in arguments else None
    past = (config.init_cache(2, arguments["past"]),) if "past" in arguments else ()
    readable = jnp.ones((2, arguments.get("slots", 9)), bool)
    with pytest.raises(InputError, match=message):
        config.features(params, IDS, readable, arguments.get("start", 0), cache, past)


def test_layers_apart_need_a_cache(adapters):
    config = replace(adapters[0], unroll=True)
    with pytest.raises(InputError, match="stacked layers"):
        config.features(config.prepared(adapters[2]), IDS, READABLE)
    with pytest.raises(InputError, match="parameters without them"):
        adapted(config, adapters[2], jax.random.key(0))
    with pytest.raises(InputError, match="expected a Lora"):
        merged(TINY, adapters[2])
