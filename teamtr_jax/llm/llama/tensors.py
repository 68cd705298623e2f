"""The names that Hugging Face gives to the arrays of the Llama family, and parameters read by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import LINEARS
from teamtr_jax.validation import InputError

__all__ = ["Place", "Tensor", "hf_names", "on_device", "params_of", "tensor_shapes"]

Tensor = Callable[[str], np.ndarray]
"""From a name to the array of a checkpoint; linear maps are ``[out, in]`` there."""

Place = Callable[[str, np.ndarray], Array]
"""From the path of a leaf (``layers/q/kernel``) and its array on the host to one on the devices."""

_MODULES = {
    **{name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}


def hf_names(config: LlamaConfig) -> dict[tuple[str, ...], str]:
    """From the path of each leaf to its name, adapters apart; leaves of layers have ``{}`` where the number of the layer stands.

    Kernels of linear maps are transposed there, the tables are not.

    Example:
      >>> from teamtr_jax.llm.llama.config import config_of
      >>> hf_names(config_of({"model_type": "llama"}))["layers", "q", "kernel"]
      'model.layers.{}.self_attn.q_proj.weight'
    """
    leaves = [(name, "kernel") for name in LINEARS] + [(name, "bias") for name in LINEARS if name in config.biases]
    leaves += [(name, "scale") for name in ("attention_norm", "mlp_norm")]
    leaves += [(name, "scale") for name in ("q_norm", "k_norm") if config.qk_norm]
    names: dict[tuple[str, ...], str] = {("embedding",): "model.embed_tokens.weight"}
    names |= {("layers", *leaf): f"model.layers.{{}}.{_MODULES[leaf[0]]}.{_LEAVES[leaf[1]]}" for leaf in leaves}
    names["norm", "scale"] = "model.norm.weight"
    if not config.tied:
        names["head", "kernel"] = "lm_head.weight"
    return names


def _shape(config: LlamaConfig, path: tuple[str, ...]) -> tuple[int, ...]:
    """Of one array of a checkpoint: of a leaf without its axis of layers."""
    if path[0] == "layers":
        if path[2] == "kernel":
            return config.sides(path[1])[::-1]
        if path[2] == "bias":
            return (config.sides(path[1])[1],)
        return (config.head_dim if path[1] in ("q_norm", "k_norm") else config.width,)
    return (config.width,) if path[0] == "norm" else (config.vocabulary, config.width)


def tensor_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every array that a checkpoint of this network holds, with its shape."""
    found = {}
    for path, name in hf_names(config).items():
        numbers = range(config.layers) if path[0] == "layers" else range(1)
        found |= {name.format(i): _shape(config, path) for i in numbers}
    return found


def on_device(path: str, array: np.ndarray) -> Array:
    """The array on the first device."""
    return jnp.asarray(array)


def params_of(config: LlamaConfig, tensor: Tensor, dtype: str | None = None, place: Place = on_device) -> Params:
    """Parameters, array by array: besides them there is never more than one leaf in memory.

    Args:
      config: the network.
      tensor: from a name to the array; each is asked for once and let go.
      dtype: of kernels, biases and tables; default: `config.kept`. Norms are float32.
      place: from the path of a leaf (``layers/q/kernel``) and its array on the host to one on the devices.

    Raises:
      InputError: names the array: another shape than the config says, or numbers that are not finite.
    """
    params: dict[str, Any] = {}
    for path, name in hf_names(config).items():
        kind = np.dtype(np.float32) if path[-1] == "scale" else jnp.dtype(dtype or config.kept)
        shape = _shape(config, path)
        if path[0] != "layers":
            leaf = _checked(name, tensor(name), shape, kind)
        else:
            turned = path[-1] == "kernel"
            leaf = np.empty((config.layers, *(shape[::-1] if turned else shape)), kind)
            for i in range(config.layers):
                own = name.format(i)
                array = _checked(own, tensor(own), shape, kind)
                leaf[i] = array.T if turned else array
        inner = params
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
        inner[path[-1]] = place("/".join(path), leaf)
    return params


def _checked(name: str, array: np.ndarray, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    if array.shape != shape:
        raise InputError(name, f"shape {list(array.shape)}", f"{list(shape)}, as the config says")
    out = array.astype(kind, copy=False)
    if not np.isfinite(out).all():
        raise InputError(name, f"numbers that are not finite in {kind.name}", "finite numbers")
    return out
