"""The network that a `config.json` of the Llama family describes, with the defaults and the traps of each family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int

from teamtr_jax.llm.language_model import Cache, Params
from teamtr_jax.llm.llama import network
from teamtr_jax.llm.llama.rope import rope_of
from teamtr_jax.llm.llama.shape import LlamaShape
from teamtr_jax.llm.model import is_trained
from teamtr_jax.validation import InputError, whole_number

__all__ = ["FAMILIES", "LlamaConfig", "config_of"]


@dataclass(frozen=True)
class LlamaConfig(LlamaShape):
    """A network of the Llama family apart from its parameters: a `LanguageModel` of this `LlamaShape`."""

    def init(self, key: Array) -> Params:
        return network.init(self, key)

    def init_cache(self, batch: int, length: int) -> Cache:
        return network.init_cache(self, batch, length)

    def features(
        self,
        params: Params,
        ids: Int[Array, "B C"],
        readable: Bool[Array, "B N"],
        start: Array | int = 0,
        cache: Cache | None = None,
        past: tuple[Cache, ...] = (),
        first: int = 0,
    ) -> tuple[Float[Array, "B M D"], Cache]:
        return network.features(self, params, ids, readable, start, cache, past=past, first=first)

    def prepared(self, params: Params) -> Params:
        return network.prepared(self, params)

    def head(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding"] if self.tied else params["head"]["kernel"]

    def trained(self, params: Params) -> Any:
        return is_trained(params)

    def partition(self) -> tuple[tuple[str, PartitionSpec], ...]:
        return network.PARTITION


# What transformers 5.23 takes where a config.json is silent (models/*/configuration_*.py); None: derived from other entries.
_LLAMA: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
_QWEN2: dict[str, Any] = {
    **_LLAMA, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "max_position_embeddings": 32768,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("llama", _LLAMA),
    "Qwen2ForCausalLM": ("qwen2", _QWEN2),
    "Qwen3ForCausalLM": ("qwen3", {**_QWEN2, "head_dim": 128}),
    "MistralForCausalLM": (
        "mistral",
        {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
         "sliding_window": 4096, "layer_types": None},
    ),
}  # fmt: skip
"""Architectures: the `model_type` of each, and the defaults of its entries."""


def config_of(json: Mapping[str, Any]) -> LlamaConfig:
    """The network that a ``config.json`` describes, in float32, without adapters.

    Entries that are absent mean what the family's class of transformers makes of it: a Mistral without `sliding_window` has one
    of 4,096 (null: none), a Qwen3 without `head_dim` has 128, a Qwen2 has biases on q, k and v.

    Raises:
      InputError: names the entry: another architecture or activation, weights that are quantised, entries that contradict each
        other, sizes that do not fit.

    Example:
      >>> config = config_of({"architectures": ["MistralForCausalLM"], "hidden_size": 64, "num_attention_heads": 8})
      >>> config.window, config.head_dim, config.rope.theta
      (4096, 8, 10000.0)
    """
    architecture = _architecture(json)
    family, defaults = FAMILIES[architecture]
    entries = {**defaults, **{k: v for k, v in json.items() if k in defaults}}
    if json.get("quantization_config"):
        raise InputError("quantization_config", repr(json["quantization_config"]), "weights that are not quantised")
    if entries["hidden_act"] not in ("silu", "swish"):
        raise InputError("hidden_act", repr(entries["hidden_act"]), "silu")
    for name in ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window"):
        if not isinstance(entries.get(name, False), bool):
            raise InputError(name, repr(entries[name]), "true or false")
    width, heads = (whole_number(name, entries[name], 1) for name in ("hidden_size", "num_attention_heads"))
    if entries["head_dim"] is None and width % heads:
        raise InputError(
            "hidden_size, num_attention_heads", f"{width}, {heads}", "a multiple of the second, or a head_dim"
        )
    layers = whole_number("num_hidden_layers", entries["num_hidden_layers"], 1)
    longest = whole_number("max_position_embeddings", entries["max_position_embeddings"], 1)
    window, full = _windows(entries, family, layers)
    return LlamaConfig(
        vocabulary=entries["vocab_size"],
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads if entries["num_key_value_heads"] is None else entries["num_key_value_heads"],
        head_dim=width // heads if entries["head_dim"] is None else entries["head_dim"],
        hidden=entries["intermediate_size"],
        norm_eps=entries["rms_norm_eps"],
        rope=rope_of(json, longest),
        biases=_biases(entries, family),
        qk_norm=family == "qwen3",
        window=window,
        full=full,
        tied=entries["tie_word_embeddings"],
        longest=longest,
    )


def _architecture(json: Mapping[str, Any]) -> str:
    """The class that a config names; where it names none, that of its `model_type`."""
    known = ", ".join(FAMILIES)
    by_type = {family: name for name, (family, _) in FAMILIES.items()}
    kind, names = json.get("model_type"), json.get("architectures")
    if not names:
        if kind not in by_type:
            raise InputError("architectures", f"none, model_type {kind!r}", known)
        return by_type[kind]
    if not isinstance(names, list | tuple) or len(names) != 1 or names[0] not in FAMILIES:
        raise InputError("architectures", repr(names), f"one of {known}")
    if kind is not None and kind != FAMILIES[names[0]][0]:
        raise InputError("model_type", f"{kind!r} beside the architecture {names[0]}", FAMILIES[names[0]][0])
    return names[0]


def _biases(entries: Mapping[str, Any], family: str) -> tuple[str, ...]:
    """Linear maps with a bias: Qwen2's are fixed, Mistral has none whatever the entry says, others say it."""
    if family == "qwen2":
        return ("q", "k", "v")
    if family == "mistral":
        return ()
    attention = ("q", "k", "v", "o") if entries["attention_bias"] else ()
    return attention + (("gate", "up", "down") if family == "llama" and entries["mlp_bias"] else ())


def _windows(entries: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The window, and the layers that read all in spite of it."""
    if family == "llama":
        return None, ()
    window, kinds = entries["sliding_window"], entries["layer_types"]
    if family != "mistral" and not entries["use_sliding_window"]:
        window = None
    if window is not None:
        window = whole_number("sliding_window", window, 1)
    if kinds is None:
        if window is None or family == "mistral":
            return window, ()
        first = whole_number("max_window_layers", entries["max_window_layers"], 0)
        return window, tuple(range(min(first, layers)))
    if not isinstance(kinds, list | tuple) or len(kinds) != layers:
        raise InputError("layer_types", repr(kinds), f"a list of {layers}, one for each layer")
    if other := [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]:
        raise InputError("layer_types", repr(other[0]), "full_attention or sliding_attention")
    full = tuple(i for i, kind in enumerate(kinds) if kind == "full_attention")
    if window is None and len(full) < layers:
        raise InputError(
            "layer_types", "sliding_attention without a window", "a sliding_window that is used, or full_attention"
        )
    if family == "mistral" and window is not None and full:
        raise InputError("layer_types", "full_attention in a Mistral with a window", "none: transformers reads over it")
    return window, full if window is not None else ()
