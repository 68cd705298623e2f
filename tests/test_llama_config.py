"""What a config.json says: defaults of each family, rotations in two places, windows, refusals; what a folder must hold."""

import json
import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from teamtr_jax.llm.llama.config import config_of
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.llama.rope import Rope
from teamtr_jax.llm.llama.tensors import tensor_shapes
from teamtr_jax.validation import InputError

CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"

DEFAULTS = {
    "llama": ((32000, 4096, 32, 32, 32, 128, 11008, 2048), (), False, None),
    "qwen2": ((151936, 4096, 32, 32, 32, 128, 22016, 32768), ("q", "k", "v"), False, None),
    "qwen3": ((151936, 4096, 32, 32, 32, 128, 22016, 32768), (), True, None),
    "mistral": ((32000, 4096, 32, 32, 8, 128, 14336, 131072), (), False, 4096),
}
"""As transformers 5.23 makes them of an empty config of the family (`models/*/configuration_*.py`)."""


@pytest.mark.parametrize("family", DEFAULTS)
def test_defaults_by_family(family):
    sizes, biases, qk_norm, window = DEFAULTS[family]
    c = config_of({"model_type": family})
    found = (c.vocabulary, c.width, c.layers, c.heads, c.kv_heads, c.head_dim, c.hidden, c.longest)
    assert found == sizes
    assert (c.biases, c.qk_norm, c.window, c.full, c.tied) == (biases, qk_norm, window, (), False)
    assert (c.rope, c.norm_eps) == (Rope(10_000.0), 1e-6)


LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
QWEN2 = {"model_type": "qwen2", "num_hidden_layers": 4, "sliding_window": 8, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}, {"head_dim": 16, "kv_heads": 4}),
        ({"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 32}, {"head_dim": 128, "kv_heads": 32}),
        ({"model_type": "qwen2", "num_key_value_heads": None}, {"kv_heads": 32}),
        ({"model_type": "mistral", "sliding_window": None}, {"window": None}),
        ({"model_type": "mistral", "sliding_window": 7, "attention_bias": True}, {"window": 7, "biases": ()}),
        ({"model_type": "llama", "sliding_window": 7}, {"window": None}),
        ({"model_type": "llama", "attention_bias": True}, {"biases": ("q", "k", "v", "o")}),
        ({"model_type": "llama", "mlp_bias": True}, {"biases": ("gate", "up", "down")}),
        ({"model_type": "qwen3", "attention_bias": True}, {"biases": ("q", "k", "v", "o")}),
        ({"model_type": "qwen2", "sliding_window": 8}, {"window": None, "full": ()}),
        (QWEN2, {"window": 8, "full": (0, 1, 2, 3)}),  # 28 of 4 layers are full
        ({**QWEN2, "max_window_layers": 1}, {"window": 8, "full": (0,)}),
        (
            {**QWEN2, "max_window_layers": 1, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
            {"window": 8, "full": (3,)},
        ),
        ({"model_type": "llama", "rope_theta": 5e5}, {"rope": Rope(5e5)}),
        ({"model_type": "llama", "rope_parameters": {"rope_theta": 5e5}}, {"rope": Rope(5e5)}),
        ({"model_type": "llama", "rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}}, {"rope": Rope(5e5)}),
        ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2}}, {"rope": Rope(1e4, "linear", 2.0)}),
        (
            {"model_type": "llama", "max_position_embeddings": 64, "rope_theta": 5e5, "rope_scaling": LLAMA3},
            {"rope": Rope(5e5, "llama3", 8.0, 64, 1.0, 4.0)},
        ),
        (
            {"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            {"rope": Rope(1e4, "dynamic", 2.0, 64)},
        ),
        (
            {"model_type": "qwen2", "rope_scaling": YARN},
            {"rope": Rope(1e4, "yarn", 4.0, 32, attention=0.1 * math.log(4) + 1)},
        ),
        (
            {"model_type": "qwen2", "rope_theta": 100.0, "rope_scaling": YARN, "rope_parameters": dict(YARN)},
            {"rope": Rope(100.0, "yarn", 4.0, 32, attention=0.1 * math.log(4) + 1)},
        ),
    ],
)
def test_what_entries_mean(entries, wanted):
    config = config_of(entries)
    assert {name: getattr(config, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "architectures: found none, model_type None, expected LlamaForCausalLM"),
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures: found .'GPT2LMHeadModel'"),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "architectures: found"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "qwen2"}, "model_type: found 'qwen2' beside"),
        ({"hidden_act": "gelu"}, "hidden_act: found 'gelu', expected silu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size, num_attention_heads: found 30, 4"),
        ({"num_key_value_heads": 5}, "heads, kv_heads: found 32, 5"),
        ({"head_dim": 7}, "head_dim: found 7"),
        ({"vocab_size": "300"}, "vocabulary: found '300'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: found 1"),
        ({"rms_norm_eps": 0}, "norm_eps"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta: found 1000000.0 and 10000.0"),
        (
            {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling: found .* beside rope_parameters",
        ),
        ({"rope_parameters": [1]}, "rope_parameters: found .1., expected an object"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type: found 'longrope'"),
        ({"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}, "rope_scaling.mrope_section"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "'yarn' and 'linear'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: found none"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor: found none"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4}}, "low_freq_factor, high_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5"),
        (
            {"original_max_position_embeddings": 8, "rope_scaling": YARN},
            "original_max_position_embeddings: found 32 and 8",
        ),
        ({**QWEN2, "layer_types": ["full_attention"]}, "layer_types"),
        ({**QWEN2, "layer_types": ["chunked_attention"] * 4}, "layer_types: found 'chunked_attention'"),
        ({**QWEN2, "use_sliding_window": False, "layer_types": ["sliding_attention"] * 4}, "without a window"),
        ({"model_type": "mistral", "num_hidden_layers": 1, "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window: found 0"),
    ],
)
def test_what_is_refused(entries, message):
    if entries and "model_type" not in entries and "architectures" not in entries:
        entries = {"model_type": "llama", **entries}
    with pytest.raises(InputError, match=message):
        config_of(entries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank: found 0"),
        ({"alpha": 0.0}, "alpha"),
        ({"targets": ("q", "q")}, "targets"),
        ({"targets": ("query",)}, "targets"),
        ({"targets": ("q",), "ranks": (("k", None, 2),)}, "ranks: found .'k', None, 2., expected"),
        ({"ranks": (("q", 0, -1),)}, "ranks: rank: found -1"),
        ({"alphas": (("q", 0, 0.0),)}, "alphas: alpha"),
    ],
)
def test_wrong_adapters_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Lora(**arguments)


def test_adapters_of_layers_that_are_not_there():
    from dataclasses import replace

    with pytest.raises(InputError, match=r"lora.ranks: found layer 2, expected layers below 2"):
        replace(config_of({"model_type": "llama", "num_hidden_layers": 2}), lora=Lora(ranks=(("q", 2, 1),)))


def copied(tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(CHECKPOINTS / name, folder)
    return folder


def arrays(path):
    from safetensors.numpy import load_file

    return load_file(path)


def rewritten(path, change):
    """A safetensors file with other arrays."""
    from safetensors.numpy import save_file

    found = arrays(path)
    change(found)
    save_file(found, path)


def test_a_folder_is_read(tmp_path):
    """Names, dtypes, the digest; leaves go where they are placed; rotations of older files and a tied head are no strangers."""
    import hashlib

    folder = copied(tmp_path, "smollm2")
    file = folder / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    seen = {}

    def place(path, array):
        seen[path] = array.dtype
        return jnp.asarray(array)

    agent = load_agent(folder, dtype="bfloat16", lora=Lora(2, targets=("q",)), place=place)
    assert (agent.name, agent.digest) == ("smollm2", digest)
    assert seen["layers/q/kernel"] == seen["embedding"] == ml_dtypes.bfloat16
    assert seen["norm/scale"] == seen["layers/mlp_norm/scale"] == np.float32
    assert set(agent.params["layers"]["q"]) == {"kernel", "lora_a", "lora_b"}
    stored = arrays(file)
    kernel = load_agent(folder).params["layers"]["up"]["kernel"]
    np.testing.assert_array_equal(kernel[1], stored["model.layers.1.mlp.up_proj.weight"].T)

    def older(found):
        found["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
        found["lm_head.weight"] = found["model.embed_tokens.weight"]

    rewritten(file, older)
    again = load_agent(folder)
    np.testing.assert_array_equal(again.params["embedding"], stored["model.embed_tokens.weight"])
    assert again.digest != digest
    shards = load_agent(CHECKPOINTS / "llama3")
    data = b"".join(path.read_bytes() for path in sorted((CHECKPOINTS / "llama3").glob("*.safetensors")))
    assert shards.digest == hashlib.sha256(data).hexdigest()


def set_entry(file, **entries):
    def change(folder):
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return change


def with_arrays(change):
    return lambda folder: rewritten(folder / "model.safetensors", change)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def not_finite(found):
    found["model.norm.weight"] = found["model.norm.weight"] * np.float32(np.nan)


def no_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


Q1 = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("smollm2", lambda folder: (folder / "config.json").unlink(), "config.json: found no such file"),
        ("smollm2", lambda folder: (folder / "config.json").write_text("{"), "config.json: found a damaged file"),
        ("smollm2", lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        ("smollm2", lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: found none"),
        ("smollm2", pickled, "only pytorch_model.bin, a pickle"),
        ("smollm2", cut, "damaged or cut short"),
        ("llama3", no_shard, "model-00002-of-00002.safetensors: found no such file"),
        ("llama3", set_entry("model.safetensors.index.json", weight_map={"a": "../x.safetensors"}), "same folder"),
        ("llama3", set_entry("model.safetensors.index.json", weight_map=3), "weight_map"),
        ("smollm2", set_entry("config.json", architectures=["GemmaForCausalLM"]), "architectures"),
        ("smollm2", set_entry("config.json", tie_word_embeddings=False), "lm_head.weight: found no such array"),
        (
            "smollm2",
            set_entry("config.json", intermediate_size=40),
            r"gate_proj.weight: found shape .48, 48., expected .40, 48.",
        ),
        (
            "smollm2",
            set_entry("config.json", num_hidden_layers=1),
            "layers.1.* an array that the config does not ask for .9 such",
        ),
        ("smollm2", set_entry("config.json", vocab_size=200), "tokenizer: found ids up to 294, expected ids below 200"),
        ("smollm2", with_arrays(lambda found: found.pop(Q1)), "layers.1.self_attn.q_proj.weight: found no such array"),
        ("smollm2", with_arrays(not_finite), "model.norm.weight: found numbers that are not finite"),
        ("smollm2", with_arrays(lambda found: found.update({Q1: found[Q1].astype(np.int8)})), "numbers of type I8"),
        (
            "smollm2",
            with_arrays(lambda found: found.update({"lm_head.weight": found["model.embed_tokens.weight"] + 1})),
            "lm_head.weight: found another table",
        ),
    ],
)
def test_a_folder_that_does_not_hold_a_checkpoint(tmp_path, name, change, message):
    folder = copied(tmp_path, name)
    change(folder)
    with pytest.raises(InputError, match=message):
        load_agent(folder)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"path: found .*nowhere"):
        load_agent(tmp_path / "nowhere")


def test_every_array_of_the_fixtures_has_a_place():
    for folder in sorted(path for path in CHECKPOINTS.iterdir() if path.is_dir() and (path / "config.json").is_file()):
        config = config_of(json.loads((folder / "config.json").read_text()))
        found = {}
        for file in folder.glob("*.safetensors"):
            found |= {name: array.shape for name, array in arrays(file).items()}
        assert tensor_shapes(config) == found


@pytest.mark.parametrize("name", ["factor", "mscale", "mscale_all_dim"])
@pytest.mark.parametrize("wrong", ["2", [1], {"a": 1}])
def test_a_number_of_yarn_that_is_none(name, wrong):
    rope = {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0, name: wrong}
    with pytest.raises(InputError, match=f"{name}: found"):
        config_of({"model_type": "llama", "rope_parameters": rope})
