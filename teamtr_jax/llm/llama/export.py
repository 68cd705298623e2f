"""A trained network as a folder that transformers opens: `config.json`, `*.safetensors`, the tokenizer's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import making_folder, read_json
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.adapters import merged
from teamtr_jax.llm.llama.config import LlamaConfig, config_of
from teamtr_jax.llm.llama.gguf_file import read_gguf_texts
from teamtr_jax.llm.llama.safetensors_file import write_tensors
from teamtr_jax.llm.llama.tensors import hf_names, tensor_shapes
from teamtr_jax.validation import InputError

__all__ = ["SHARD", "export_folder", "tensor_of"]

SHARD = 4 * 2**30
"""Bytes of one safetensors file at most, one array of any size apart."""

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""What is taken over from the folder that a network came from."""


def export_folder(
    folder: str | Path, model: LlamaConfig, params: Params, source: str | Path, shard: int = SHARD
) -> None:
    """Write a network as Hugging Face writes it, whole or not at all; adapters are merged into their kernels.

    The config is the one that the network came with; only the dtype that it names is that of the parameters. The head of a tied
    network is not written.

    Args:
      folder: new or empty.
      source: the folder or the GGUF file that the network was loaded from: its config and its tokenizer.
      shard: bytes of one file of weights.

    Raises:
      InputError: another network than the source's; a leaf of another shape, or with an entry that is not finite; adapters on a
        bfloat16 base, where the sum is rounded to 8 bits and most of an adapter is lost; a folder that cannot be written.
    """
    source = Path(source)
    with making_folder("folder", folder) as place:
        texts = _source(source)
        config = json.loads(texts["config.json"])
        ours = {"dtype": model.dtype, "lora": model.lora, "remat": model.remat, "unroll": model.unroll}
        if replace(config_of(config), **ours) != model:
            raise InputError("source", f"the config of another network in {source}", "what the network was loaded from")
        dtype = str(params["embedding"].dtype)
        if model.lora is not None:
            if dtype != "float32":
                raise InputError(
                    "params", f"adapters on a {dtype} base", "float32, or save_adapters: merging rounds them away"
                )
            model, params = replace(model, lora=None), merged(model, params)
        config.pop("torch_dtype", None)
        texts["config.json"] = json.dumps(config | {"dtype": dtype}, indent=2) + "\n"
        for name, text in texts.items():
            (place / name).write_text(text, encoding="utf-8")
        if source.is_dir():
            for name in COPIED:
                if (source / name).is_file():
                    shutil.copyfile(source / name, place / name)
        _write(place, model, tensor_of(model, params), np.dtype(params["embedding"].dtype).itemsize, shard)


def tensor_of(model: LlamaConfig, params: Params) -> Callable[[str], NDArray[Any]]:
    """From the name of a tensor of transformers to its array on the host, linear maps as ``[out, in]``: `params_of` backwards.

    Raises (the call):
      InputError: another shape than the network's, or an entry that is not finite.
    """
    places: dict[str, tuple[tuple[str, ...], int | None]] = {}
    for path, name in hf_names(model).items():
        numbers = range(model.layers) if path[0] == "layers" else (None,)
        places |= {name.format(number): (path, number) for number in numbers}
    shapes = tensor_shapes(model)

    def tensor(name: str) -> NDArray[Any]:
        path, number = places[name]
        leaf = params
        for step in path:
            leaf = leaf[step]
        out = np.asarray(leaf if number is None else leaf[number])
        out = out.T if path[0] == "layers" and path[-1] == "kernel" else out
        if out.shape != shapes[name]:
            raise InputError("/".join(path), f"shape {list(out.shape)} for {name}", f"{list(shapes[name])}")
        if not np.isfinite(out.astype(np.float32, copy=False)).all():
            raise InputError("/".join(path), f"entries of {name} that are not finite", "finite numbers")
        return out

    return tensor


def _source(source: Path) -> dict[str, str]:
    """The files that are written as texts: of a folder its config, of a GGUF file all that stands in for one."""
    if source.is_dir():
        return {"config.json": json.dumps(read_json(source / "config.json", "the config of a checkpoint"))}
    config, tokenizer, settings = read_gguf_texts(source)
    found: Mapping[str, Any] = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {key: value for key, value in settings.items() if key != "eos_token_id"},
        "generation_config.json": {key: value for key, value in config.items() if key.endswith("_token_id")}
        | {key: value for key, value in settings.items() if key == "eos_token_id"},
    }
    return {name: json.dumps(entries, ensure_ascii=False) for name, entries in found.items()}


def _write(place: Path, model: LlamaConfig, tensor: Callable[[str], NDArray[Any]], itemsize: int, shard: int) -> None:
    sizes = {name: itemsize * int(np.prod(shape)) for name, shape in tensor_shapes(model).items()}
    parts = list(_parts(sizes, shard))
    index: dict[str, str] = {}
    for number, names in enumerate(parts, 1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_tensors(place / file, {name: tensor(name) for name in names})
        index |= dict.fromkeys(names, file)
    if len(parts) > 1:
        text = json.dumps({"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}, indent=2)
        (place / "model.safetensors.index.json").write_text(text + "\n")


def _parts(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names in groups whose sizes add up to `most` at most, or of a single name.

    Example:
      >>> list(_parts({"a": 3, "b": 3, "c": 9, "d": 1}, 6))
      [['a', 'b'], ['c'], ['d']]
    """
    part: list[str] = []
    held = 0
    for name, size in sizes.items():
        if part and held + size > most:
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    yield part
