"""What the metadata of a GGUF file says of its network, as a `config.json` of Hugging Face would say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.validation import InputError, positive, whole_number

__all__ = ["ARCHITECTURES", "config_json", "llama3_scaling"]

ARCHITECTURES: Mapping[str, tuple[str, bool]] = {
    "llama": ("LlamaForCausalLM", True),
    "qwen2": ("Qwen2ForCausalLM", False),
    "qwen3": ("Qwen3ForCausalLM", False),
}
"""`general.architecture`: the class of transformers, and whether rows of q and k stand in pairs for the rotation.

llama.cpp writes Mistral 7B as ``llama``, without a window.
"""

SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
PASSED_BY = {"context_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned"}
USUAL = {"attention.causal": True, "expert_count": 0, "expert_used_count": 0, "attention.sliding_window": 0}
"""Keys that may stand there with this value only."""

OTHERS = {
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
}
SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
MEANT: Mapping[str, set[str]] = {"none": set(), "linear": {"factor"}, "yarn": set(SCALING)}
"""Kinds of rope scaling, and what each may say under `rope.scaling`."""


def config_json(
    fields: Mapping[str, Any],
    tensors: Collection[str],
    vocabulary: int,
    rope_freqs: NDArray[np.floating[Any]] | None = None,
) -> dict[str, Any]:
    """A `config.json` of the metadata.

    Args:
      tensors: names of the tensors in the file: they say whether the head is the table of ids and where biases are.
      vocabulary: rows of the table of ids.
      rope_freqs: what frequencies are divided by ``[head_dim / 2]``: how llama.cpp writes the scaling of Llama 3.

    Raises:
      InputError: names the key: another architecture, a key that is missing, unknown, or does not fit.
    """
    kind = fields.get("general.type", "model")
    if kind != "model":
        raise InputError("general.type", repr(kind), "'model'")
    if fields.get("split.count", 1) not in (0, 1):
        raise InputError("split.count", fields["split.count"], "one file: join the parts with llama-gguf-split --merge")
    name = fields.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InputError("general.architecture", repr(name), f"one of {', '.join(ARCHITECTURES)}")
    own = {key[len(name) + 1 :]: value for key, value in fields.items() if key.startswith(f"{name}.")}
    _require_known(own, name)
    out: dict[str, Any] = {"architectures": [ARCHITECTURES[name][0]], "model_type": name, "hidden_act": "silu"}
    out |= {key: _whole(own, name, ours) for ours, key in SIZES.items()} | {"vocab_size": vocabulary}
    if own.get("vocab_size", vocabulary) != vocabulary:
        raise InputError(f"{name}.vocab_size", own["vocab_size"], f"{vocabulary}, the rows of token_embd.weight")
    heads = out["num_attention_heads"]
    kv = "attention.head_count_kv"
    out["num_key_value_heads"] = _whole(own, name, kv) if kv in own else heads
    size = _whole(own, name, "attention.key_length") if "attention.key_length" in own else out["hidden_size"] // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, size) != size:
            raise InputError(f"{name}.{key}", own[key], f"{size}, the size of a head")
    out["head_dim"] = size
    if "context_length" in own:
        out["max_position_embeddings"] = _whole(own, name, "context_length")
    out["rms_norm_eps"] = _real(own, name, "attention.layer_norm_rms_epsilon")
    if rope_freqs is not None and rope_freqs.shape != (size // 2,):
        raise InputError("rope_freqs.weight", f"shape {list(rope_freqs.shape)}", f"[{size // 2}], half a head")
    out["rope_parameters"] = _rope(own, name, rope_freqs)
    out["tie_word_embeddings"] = "output.weight" not in tensors
    if name != "qwen2":
        out["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if name == "llama":
        out["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (key := f"tokenizer.ggml.{key}_token_id") in fields:
            out[f"{role}_token_id"] = fields[key]
    return out


def _require_known(own: Mapping[str, Any], name: str) -> None:
    for key, value in own.items():
        if key in USUAL and value != USUAL[key]:
            raise InputError(f"{name}.{key}", value, f"{USUAL[key]}, or no such key")
        if not (key in SIZES or key in PASSED_BY or key in USUAL or key in OTHERS or key.startswith("rope.scaling.")):
            raise InputError(f"{name}.{key}", value, "no such key: what it changes is not known here")


def _rope(own: Mapping[str, Any], name: str, factors: NDArray[Any] | None) -> dict[str, Any]:
    theta = _real(own, name, "rope.freq_base") if "rope.freq_base" in own else 10_000.0
    kind = own.get("rope.scaling.type", "none")
    if not isinstance(kind, str) or kind not in MEANT:
        raise InputError(f"{name}.rope.scaling.type", repr(kind), f"one of {', '.join(MEANT)}")
    out: dict[str, Any] = {"rope_type": "default" if kind == "none" else kind, "rope_theta": theta}
    for key in own:
        part = key.removeprefix("rope.scaling.")
        if part == key or part == "type" or key in PASSED_BY:
            continue
        if part not in MEANT[kind]:
            raise InputError(f"{name}.{key}", own[key], f"no such key for the scaling {kind}")
        out[SCALING[part]] = (_whole if part == "original_context_length" else _real)(own, name, key)
    if kind != "none" and "factor" not in out:
        raise InputError(f"{name}.rope.scaling.factor", "no such key in the metadata", "a number")
    if factors is None:
        return out
    if kind != "none":
        raise InputError("rope_freqs.weight", f"beside the scaling {kind}", "one of the two")
    return {"rope_theta": theta, **llama3_scaling(factors, theta)}


def llama3_scaling(factors: NDArray[Any], theta: float) -> dict[str, Any]:
    """The scaling of Llama 3 whose factors `f_i` divide the frequencies `w_i = theta^(−2i/d)`.

    With `s_i = (old w_i / 2π − low) / (high − low)` the factor is 1 where `s_i ≥ 1`, `factor` where `s_i ≤ 0`, and between
    them `1 / ((1 − s_i) / factor + s_i)`. `low` is 1 and `high` 4, as in every checkpoint; `old` is 8192 or what one factor says.

    Raises:
      InputError: other factors than these.

    Example:
      >>> found = llama3_scaling(np.array([1.0, 4.0, 8.0]), 1e6)
      Traceback (most recent call last):
      ...
      teamtr_jax.validation.InputError: rope_freqs.weight: found factors from 1 to 8, expected those of the scaling of Llama 3
    """
    factors = np.asarray(factors, np.float64)
    if not (np.isfinite(factors) & (factors >= 1)).all():
        raise InputError(
            "rope_freqs.weight", f"factors from {factors.min():g} to {factors.max():g}", "numbers of at least 1"
        )
    frequencies = theta ** (-np.arange(len(factors)) / len(factors))
    greatest = round(float(factors.max()), 6)
    olds, low, high = [8192], 1.0, 4.0
    between = (factors > 1) & (factors < greatest * (1 - 1e-6))
    if between.any():
        s = (1 / factors[between][0] - 1 / greatest) / (1 - 1 / greatest)
        olds.append(round(2 * np.pi * (low + s * (high - low)) / frequencies[between][0]))
    for old in olds:
        s = ((old * frequencies / (2 * np.pi) - low) / (high - low)).clip(0, 1)
        if np.allclose(1 / ((1 - s) / greatest + s), factors, rtol=1e-5, atol=0):
            numbers = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": old}
            return {"rope_type": "llama3", "factor": greatest, **numbers}
    raise InputError(
        "rope_freqs.weight", f"factors from {factors.min():g} to {greatest:g}", "those of the scaling of Llama 3"
    )


def _whole(own: Mapping[str, Any], name: str, key: str) -> int:
    return whole_number(f"{name}.{key}", own.get(key, "no such key in the metadata"), 1)


def _real(own: Mapping[str, Any], name: str, key: str) -> float:
    """A float32 of the file as the number that was meant: 1e-05, not 9.999999747378752e-06."""
    value = positive(f"{name}.{key}", own.get(key, "no such key in the metadata"))
    return float(str(np.float32(value)))
