"""A GGUF file of llama.cpp as a checkpoint: its network's settings and parameters, its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.files import reason, regular_file
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.config import LlamaConfig, config_of
from teamtr_jax.llm.llama.gguf_config import ARCHITECTURES, config_json
from teamtr_jax.llm.llama.gguf_tokenizer import tokenizer_files
from teamtr_jax.llm.llama.tensors import Place, on_device, params_of
from teamtr_jax.validation import InputError, one_of

__all__ = ["GgufCheckpoint", "read_gguf", "read_gguf_texts"]

EXPECTED = "a whole GGUF file"
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OF_A_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GgufCheckpoint(NamedTuple):
    """What a GGUF file holds, in the words of a folder of Hugging Face."""

    model: LlamaConfig
    params: Params
    config: dict[str, Any]  #: as `config.json`
    tokenizer: dict[str, Any]  #: as `tokenizer.json`
    tokenizer_config: dict[str, Any]  #: as `tokenizer_config.json`


def read_gguf(path: str | Path, dtype: str = "float32", place: Place = on_device) -> GgufCheckpoint:
    """Read a network of the Llama family from a GGUF file, dequantised tensor by tensor.

    Args:
      dtype: of the parameters and of the computation, ``float32`` or ``bfloat16``.
      place: as in `load_agent`.

    Raises:
      InputError: no such file, a damaged one, another architecture, a tensor or key that is missing, unknown or does not fit,
        a tokenizer that is not known, an entry that is not a number.
    """
    one_of("dtype", dtype, ("float32", "bfloat16"))
    source = _Source(regular_file(path, EXPECTED))
    json, tokenizer, settings = _texts(source)
    model = replace(config_of(json), dtype=dtype)
    if ARCHITECTURES[source.fields["general.architecture"]][1]:
        source.heads = {"attn_q": model.heads, "attn_k": model.kv_heads}
    params = params_of(model, source, dtype, place)
    if left := sorted(set(source.tensors) - source.asked):
        raise InputError(f"{path}: {left[0]}", f"{len(left)} tensors that no part of the network reads", "no others")
    return GgufCheckpoint(model, params, json, tokenizer, settings)


def read_gguf_texts(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """`config.json`, `tokenizer.json` and `tokenizer_config.json` of a GGUF file, as `read_gguf` has them; no parameters.

    Raises:
      InputError: as `read_gguf`, of the metadata alone.
    """
    return _texts(_Source(regular_file(path, EXPECTED)))


def _texts(source: _Source) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    table = source.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise InputError(f"{source.path}: token_embd.weight", "no such table", "the table of ids")
    vocabulary = int(table.shape[-1])
    factors = source.read("rope_freqs.weight") if "rope_freqs.weight" in source.tensors else None
    json = config_json(source.fields, source.tensors, vocabulary, factors)
    return json, *tokenizer_files(source.fields, vocabulary)


def gguf_name(name: str) -> str:
    """What llama.cpp calls a tensor of transformers.

    Example:
      >>> gguf_name("model.layers.3.self_attn.q_proj.weight"), gguf_name("model.norm.weight")
      ('blk.3.attn_q.weight', 'output_norm.weight')
    """
    if name in WHOLE:
        return WHOLE[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None or found[2] not in OF_A_LAYER:
        raise InputError("name", repr(name), "the name of a tensor of the Llama family")
    return f"blk.{found[1]}.{OF_A_LAYER[found[2]]}.{found[3]}"


def unpaired(matrix: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of q or k from the order `x_0, x_{d/2}, x_1, x_{d/2+1}, …` of each head to `x_0, x_1, …, x_{d−1}`.

    llama.cpp rotates neighbours, transformers `(x_i, x_{i+d/2})`: the converter moves the rows, this moves them back.

    Example:
      >>> unpaired(np.array([0, 2, 1, 3, 4, 6, 5, 7]), 2).tolist()
      [0, 1, 2, 3, 4, 5, 6, 7]
    """
    pairs = matrix.reshape(heads, -1, 2, *matrix.shape[1:])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


class _Source:
    """An open GGUF file. A call gives the tensor of a name of transformers, float32 ``[out, in]``; what was asked for is kept."""

    def __init__(self, path: Path):
        self.path, self.asked = path, set[str]()
        self.heads: Mapping[str, int] = {}  #: of maps whose rows stand in pairs
        reader = _open(path)
        try:
            self.fields = {key: field.contents() for key, field in reader.fields.items()}
        except (ValueError, IndexError) as error:
            raise InputError(str(path), f"metadata that cannot be read ({reason(error)})", EXPECTED) from error
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def __call__(self, name: str) -> NDArray[np.float32]:
        theirs = gguf_name(name)
        out = self.read(theirs)
        part = theirs.split(".")[-2]
        if part in self.heads:
            if out.shape[0] % (2 * self.heads[part]):
                raise InputError(f"{self.path}: {theirs}", f"{out.shape[0]} rows", "an even number for each head")
            out = unpaired(out, self.heads[part])
        return out

    def read(self, name: str) -> NDArray[np.float32]:
        from gguf import dequantize

        self.asked.add(name)
        if name not in self.tensors:
            raise InputError(f"{self.path}: {name}", "no such tensor", "one that the network needs")
        tensor = self.tensors[name]
        try:
            out = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except (NotImplementedError, ValueError) as error:
            raise InputError(
                f"{self.path}: {name}", f"type {tensor.tensor_type.name}", "one that gguf dequantises"
            ) from error
        return out.reshape([int(size) for size in reversed(tensor.shape)])


def _open(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise InputError("gguf", "not installed", "pip install 'teamtr-jax[models]'") from error

    class Reader(GGUFReader):
        """What lies beyond the end of the file is empty for the library: a length that is damaged would keep it reading there."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it ends early")
            return super()._get(offset, dtype, count, override_order)

    try:
        reader = Reader(path)
    except (OSError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise InputError(str(path), f"a damaged file ({reason(error)})", EXPECTED) from error
    if reader.byte_order != "I":
        raise InputError(str(path), "numbers in the other byte order", "those of this machine")
    return reader
