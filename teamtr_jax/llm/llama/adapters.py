"""Adapters as arrays: put beside the linear maps of a network, or merged into them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.llama.shape import LlamaShape
from teamtr_jax.validation import InputError

__all__ = ["adapted", "merged", "without_adapters"]


def adapted(config: LlamaShape, params: Params, key: Array) -> Params:
    """`params` with new adapters: A uniform on ±1/√in as PEFT draws it, B = 0, in float32. The other leaves are the same arrays.

    Raises:
      InputError: the config has no adapters, or the parameters have some.
    """
    lora = _lora(config)
    if any("lora_a" in linear for linear in params["layers"].values()):
        raise InputError("params", "parameters with adapters", "parameters without them")
    layers = dict(params["layers"])
    for name, own in zip(lora.targets, jax.random.split(key, len(lora.targets)), strict=True):
        (into, out), rank = config.sides(name), lora.greatest(name, config.layers)
        if not rank:
            continue
        held = jnp.array([[j < lora.rank_of(name, layer) for j in range(rank)] for layer in range(config.layers)])
        drawn = jax.random.uniform(own, (config.layers, into, rank), jnp.float32, -1.0, 1.0) * into**-0.5
        layers[name] = {
            **layers[name],
            "lora_a": jnp.where(held[:, None], drawn, 0.0),
            "lora_b": jnp.zeros((config.layers, rank, out), jnp.float32),
        }
    return {**params, "layers": layers}


def merged(config: LlamaShape, params: Params) -> Params:
    """`params` with `W + s A B` for each kernel W and no adapters: the same network, a little faster to sample from.

    In float32 alone: bfloat16 kernels would lose most of what an adapter adds.

    Raises:
      InputError: kernels in bfloat16, or a config without adapters.
    """
    lora = _lora(config)

    def one(name: str, leaves: dict[str, Array]) -> dict[str, Array]:
        if "lora_a" not in leaves:
            return leaves
        if leaves["kernel"].dtype != jnp.float32:
            raise InputError(
                "params", f"{name} in {leaves['kernel'].dtype}", "float32 kernels: merging rounds adapters away"
            )
        scale = lora.scales(name, config.layers)[:, None, None]
        added = jnp.einsum("nir,nro->nio", leaves["lora_a"], scale * leaves["lora_b"], precision="highest")
        return {**_base(leaves), "kernel": leaves["kernel"] + added}

    return {**params, "layers": {name: one(name, leaves) for name, leaves in params["layers"].items()}}


def without_adapters(params: Params) -> Params:
    """The base under the adapters: the same arrays."""
    return {**params, "layers": {name: _base(leaves) for name, leaves in params["layers"].items()}}


def _base(leaves: dict[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if not name.startswith("lora_")}


def _lora(config: LlamaShape) -> Lora:
    if config.lora is None:
        raise InputError("config.lora", "None", "a Lora")
    return config.lora
