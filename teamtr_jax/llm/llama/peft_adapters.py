"""Adapters in PEFT's format: a folder with `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import making_folder, read_json, reason, regular_file
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.llama.peft_config import adapter_config, lora_of, module_name
from teamtr_jax.llm.llama.safetensors_file import library, write_tensors
from teamtr_jax.validation import InputError

__all__ = ["load_adapters", "read_lora", "save_adapters"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EXPECTED = "an adapter saved by PEFT"
PREFIX = "base_model.model."


def save_adapters(folder: str | Path, model: LlamaConfig, params: Params, base: str = "") -> None:
    """Write the adapters of a network so that PEFT and `load_adapters` open them; whole or not at all.

    `lora_A.weight` is `lora_a` transposed, ``[r, in]``, and `lora_B.weight` is ``[out, r]``, each at its layer's own rank.

    Args:
      folder: new or empty.
      base: the network they belong to, a folder or a name: where PEFT looks for it if it is not given one.

    Raises:
      InputError: a network without adapters, an entry that is not finite, a folder that cannot be written.
    """
    if model.lora is None:
        raise InputError("model.lora", "None", "adapters")
    with making_folder("folder", folder) as place:
        tensors: dict[str, NDArray[np.float32]] = {}
        for linear in model.lora.targets:
            leaves = params["layers"][linear]
            for layer in range(model.layers):
                if rank := model.lora.rank_of(linear, layer):
                    name = PREFIX + module_name(model, linear, layer)
                    tensors[f"{name}.lora_A.weight"] = np.asarray(leaves["lora_a"][layer, :, :rank].T, np.float32)
                    tensors[f"{name}.lora_B.weight"] = np.asarray(leaves["lora_b"][layer, :rank].T, np.float32)
        for name, tensor in tensors.items():
            _require_finite(name, tensor)
        write_tensors(place / WEIGHTS, tensors)
        text = json.dumps(adapter_config(model.lora, model, base), indent=2, sort_keys=True)
        (place / CONFIG).write_text(text + "\n")


def read_lora(folder: str | Path, model: LlamaConfig) -> Lora:
    """Which adapters a folder holds: for `load_agent`, which then keeps the base as adapters need it.

    Raises:
      InputError: as `load_adapters`, of `adapter_config.json` alone.
    """
    return lora_of(read_json(Path(folder) / CONFIG, EXPECTED), model)


def load_adapters(folder: str | Path, model: LlamaConfig, params: Params) -> tuple[LlamaConfig, Params]:
    """The network with the adapters of a folder; its other leaves are the same arrays.

    Args:
      model, params: the base, without adapters or with others, which these replace.

    Raises:
      InputError: names what does not fit: an entry of the config (`peft_config.lora_of`), a tensor that is missing or that
        the config does not name, another shape than the base and the rank give, an entry that is not finite.
    """
    lora = read_lora(folder, model)
    path = Path(folder) / WEIGHTS
    if not path.exists() and (Path(folder) / "adapter_model.bin").exists():
        raise InputError(str(path), "adapter_model.bin, a pickle", "safetensors: pickles can run programs")
    regular_file(path, EXPECTED)
    try:
        tensors = library().load_file(path)
    except Exception as error:  # safetensors has errors of its own
        raise InputError(str(path), f"a damaged file ({reason(error)})", EXPECTED) from error
    layers = {
        name: {key: leaf for key, leaf in leaves.items() if not key.startswith("lora_")}
        for name, leaves in params["layers"].items()
    }
    for linear in lora.targets:
        layers[linear] |= _stacked(path, tensors, model, lora, linear)
    if tensors:
        left = min(tensors)
        tied = (
            ": PEFT merges and reloads it wrong where tables are tied" if "lm_head" in left or "embed" in left else ""
        )
        raise InputError(f"{path}: {left}", "a tensor that adapter_config.json does not name", f"no others{tied}")
    return replace(model, lora=lora), {**params, "layers": layers}


def _stacked(path: Path, tensors: dict[str, Any], model: LlamaConfig, lora: Lora, linear: str) -> dict[str, Any]:
    """`lora_a` ``[n, in, r]`` and `lora_b` ``[n, r, out]`` of one linear map, zero beyond a layer's own rank; taken out."""
    into, out = model.sides(linear)
    greatest = lora.greatest(linear, model.layers)
    a, b = (np.zeros((model.layers, *shape), np.float32) for shape in ((into, greatest), (greatest, out)))
    for layer in range(model.layers):
        rank = lora.rank_of(linear, layer)
        if rank:
            name = PREFIX + module_name(model, linear, layer)
            a[layer, :, :rank] = _taken(path, tensors, f"{name}.lora_A.weight", (rank, into)).T
            b[layer, :rank] = _taken(path, tensors, f"{name}.lora_B.weight", (out, rank)).T
    return {"lora_a": jnp.asarray(a), "lora_b": jnp.asarray(b)}


def _taken(path: Path, tensors: dict[str, Any], name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    if name not in tensors:
        raise InputError(f"{path}: {name}", "no such tensor", "one that adapter_config.json names")
    tensor = tensors.pop(name)
    if tensor.shape != shape:
        raise InputError(
            f"{path}: {name}", f"shape {list(tensor.shape)}", f"{list(shape)}, as the base and the rank give"
        )
    out = tensor.astype(np.float32)
    _require_finite(f"{path}: {name}", out)
    return out


def _require_finite(name: str, tensor: NDArray[np.float32]) -> None:
    if not np.isfinite(tensor).all():
        raise InputError(name, f"{int((~np.isfinite(tensor)).sum())} entries that are not finite", "finite numbers")
