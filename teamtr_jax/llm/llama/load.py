"""Checkpoints as agents: a folder as Hugging Face writes it, or a GGUF file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from teamtr_jax.files import read_json
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.adapters import adapted
from teamtr_jax.llm.llama.config import LlamaConfig, config_of
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.llama.tensors import Place, on_device, params_of, tensor_shapes
from teamtr_jax.llm.text.tokenizer import REMEDY, Tokenizer, load_tokenizer, require_fit, tokenizer_of
from teamtr_jax.validation import InputError

__all__ = ["Agent", "load_agent"]

INDEX = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
"""Of arrays in a safetensors file that are weights as they are; others are quantised."""


class Agent(NamedTuple):
    """A checkpoint in memory."""

    model: LlamaConfig
    params: Params
    tokenizer: Tokenizer
    name: str  #: of the folder or of the file
    digest: str  #: SHA-256 of the files with the weights, one after the other in the order of their names


def load_agent(
    path: str | Path,
    *,
    dtype: str = "float32",
    lora: Lora | None = None,
    key: Array | None = None,
    place: Place = on_device,
) -> Agent:
    """The network, the parameters and the tokenizer of a checkpoint.

    Every array is there, has the shape that the config says, and is finite, or nothing is returned. One array at a time is read
    and converted. A second agent on the same base takes the parameters of the first (`adapters.adapted`): no copy.

    Args:
      path: a folder with ``config.json``, ``*.safetensors`` (and their index) and ``tokenizer.json``, or a ``.gguf`` file.
      dtype: of the computation. With adapters the base is kept in it; without, everything is trained and kept in float32.
      lora: adapters to put beside the linear maps.
      key: they are drawn from it; default: `jax.random.key(0)`.
      place: from the path of a leaf (``layers/q/kernel``) and its array on the host to one on the devices.

    Raises:
      InputError: names what is missing, damaged or of another kind: file, architecture, array, tokenizer.
    """
    path, own = Path(path), jax.random.key(0) if key is None else key
    settings: dict[str, Any] = {"dtype": dtype, "lora": lora}
    if path.suffix == ".gguf":
        from teamtr_jax.llm.llama.gguf_file import read_gguf

        found = read_gguf(path, "float32" if lora is None else dtype, place)
        config, params, files = replace(found.model, **settings), found.params, [path]
        tokenizer = tokenizer_of(found.tokenizer, found.tokenizer_config)
    elif path.is_dir():
        config = replace(config_of(read_json(path / "config.json", "the config.json of a checkpoint")), **settings)
        tokenizer, files = load_tokenizer(path), _weights(path)
        require_fit(tokenizer, config.vocabulary)
        params = _read(config, files, place)
    else:
        raise InputError("path", str(path), "a checkpoint's folder, or a .gguf file")
    require_fit(tokenizer, config.vocabulary)
    if lora is not None:
        params = adapted(config, params, own)
    return Agent(config, params, tokenizer, path.resolve().name, _digest(files))


def _weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by their names: one, or those of the index."""
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX, "an index of arrays").get("weight_map")
        if not isinstance(listed, Mapping) or not listed or not all(isinstance(file, str) for file in listed.values()):
            raise InputError(INDEX, repr(listed), "a weight_map from arrays to files")
        names = sorted(set(listed.values()))
        if outside := [name for name in names if Path(name).name != name]:
            raise InputError(INDEX, repr(outside[0]), "names of files in the same folder")
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only {pickles[0]}, a pickle, which may run anything," if pickles else "none"
        raise InputError("model.safetensors", f"{found} in {folder}", f"model.safetensors or {INDEX}")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(name, f"no such file in {folder}", "every file that the index lists")
    return [folder / name for name in names]


def _read(config: LlamaConfig, files: Sequence[Path], place: Place) -> Params:
    """Parameters from safetensors files that hold every array of the network and no other."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError("safetensors", "not installed", REMEDY) from None
    with ExitStack() as stack:
        holder: dict[str, Any] = {}
        for file in files:
            try:
                handle = stack.enter_context(safe_open(file, "numpy"))
            except (SafetensorError, OSError) as error:
                raise InputError(str(file), f"damaged or cut short ({error})", "a safetensors file") from None
            for name in handle.keys():  # noqa: SIM118 - no mapping
                if name in holder:
                    raise InputError(name, "twice", "every array in one file")
                holder[name] = handle

        def tensor(name: str) -> np.ndarray:
            if (kind := holder[name].get_slice(name).get_dtype()) not in DTYPES:
                raise InputError(
                    name, f"numbers of type {kind}", "weights that are not quantised: " + ", ".join(DTYPES)
                )
            return holder[name].get_tensor(name)

        _complete(config, set(holder))
        if config.tied and "lm_head.weight" in holder:
            table = tensor("model.embed_tokens.weight")
            if not np.array_equal(tensor("lm_head.weight"), table):
                raise InputError(
                    "lm_head.weight", "another table than that of the embeddings", "the same: they are tied"
                )
        return params_of(config, tensor, place=place)


def _complete(config: LlamaConfig, names: set[str]) -> None:
    """Every array of the network and no other; rotations that older files store, and the head that is tied, may be there."""
    expected = set(tensor_shapes(config))
    if missing := sorted(expected - names):
        raise InputError(
            missing[0], f"no such array, and {len(missing) - 1} others", "every array that the config asks for"
        )
    unknown = {name for name in names - expected if not name.endswith("rotary_emb.inv_freq")}
    if config.tied:
        unknown.discard("lm_head.weight")
    if unknown:
        raise InputError(min(unknown), f"an array that the config does not ask for ({len(unknown)} such)", "none")


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of the files, one after the other."""
    sha = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                sha.update(block)
    return sha.hexdigest()
