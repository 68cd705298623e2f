"""The tokenizer of a GGUF file as the files of a Hugging Face folder: `tokenizer.json` and `tokenizer_config.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from teamtr_jax.validation import InputError

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "tokenizer_files"]

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ONE_DIGIT = r"\p{N}"
GPT2 = CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
QWEN2 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_UPPER, _LOWER, _HEAD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"
TEKKEN = (
    f"{_HEAD}{_UPPER}*{_LOWER}+|{_HEAD}{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"


class PreTokenizer(NamedTuple):
    """How a text is cut before bytes are merged: every pattern cuts the pieces of the one before; what lies between is kept."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  #: a piece that is an id as a whole is that id
    adds_bos: bool = False  #: where the file does not say
    nfc: bool = False  #: texts are brought to Unicode's form C first, as the checkpoint's own tokenizer does; llama.cpp does not


_LLAMA3 = PreTokenizer((LLAMA3,), ignore_merges=True, adds_bos=True)
_QWEN2 = PreTokenizer((QWEN2,), nfc=True)
_SMOLLM = PreTokenizer((ONE_DIGIT, GPT2))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer((PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer((GPT2,)),
    "smollm": _SMOLLM,
    "starcoder": _SMOLLM,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": PreTokenizer((LLAMA3,)),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": PreTokenizer((TEKKEN,), ignore_merges=True, adds_bos=True),
}
"""What `tokenizer.ggml.pre` may be."""

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""Of `tokenizer.ggml.token_type`. The first three are not merged from bytes: they are found in a text as they are."""


def tokenizer_files(fields: Mapping[str, Any], vocabulary: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`tokenizer.json` and `tokenizer_config.json` of the metadata of a GGUF file.

    Nothing is added to an encoded text. Rows without an id, which the converter calls ``[PAD17]``, have none here. Of
    the config: ``bos_token``, ``eos_token``, ``eot_token``, ``unk_token``, ``pad_token`` (texts, where the file names them),
    ``eos_token_id`` (ids of eos and eot), ``add_bos_token``, ``chat_template``.

    Args:
      fields: the metadata; of a byte-level BPE (`tokenizer.ggml.model` is ``gpt2``).
      vocabulary: rows of the table of ids.

    Raises:
      InputError: names the key: another kind of tokenizer, an unknown pre-tokenizer, a key that is missing or does not fit.
    """
    model = _need(fields, "tokenizer.ggml.model", str)
    if model != "gpt2":
        hint = (
            ": SentencePiece's merges are not in the file, load the checkpoint's own folder" if model == "llama" else ""
        )
        raise InputError("tokenizer.ggml.model", repr(model), f"'gpt2', a byte-level BPE{hint}")
    pre = _need(fields, "tokenizer.ggml.pre", str)
    if pre not in PRE_TOKENIZERS:
        raise InputError("tokenizer.ggml.pre", repr(pre), f"one of {', '.join(PRE_TOKENIZERS)}")
    cut = PRE_TOKENIZERS[pre]
    tokens = _texts(fields, "tokenizer.ggml.tokens")
    if len(tokens) != vocabulary:
        raise InputError("tokenizer.ggml.tokens", f"{len(tokens)} ids", f"{vocabulary}, the rows of token_embd.weight")
    if twice := [token for token, times in Counter(tokens).items() if times > 1]:
        raise InputError("tokenizer.ggml.tokens", f"{twice[0]!r} twice", "another text for every id")
    kinds = _kinds(fields, len(tokens))
    filled = {i for i, kind in enumerate(kinds) if kind in (UNUSED, USER_DEFINED) and tokens[i] == f"[PAD{i}]"}
    vocab = {token: i for i, token in enumerate(tokens) if i not in filled}
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(kinds, tokens, filled),
        "normalizer": {"type": "NFC"} if cut.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*map(_split, cut.patterns), _bytes()]},
        "post_processor": None,
        "decoder": _bytes(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut.ignore_merges,
            "vocab": vocab,
            "merges": _merges(fields, vocab),
        },
    }
    return file, _config(fields, tokens, cut)


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _kinds(fields: Mapping[str, Any], count: int) -> list[int]:
    kinds = _need(fields, "tokenizer.ggml.token_type", list)
    if len(kinds) != count:
        raise InputError("tokenizer.ggml.token_type", f"{len(kinds)} entries", f"{count}, one for every id")
    if BYTE in kinds:
        raise InputError("tokenizer.ggml.token_type", "an id of kind BYTE", "a byte-level BPE, which has none")
    return kinds


def _added(kinds: Sequence[int], tokens: Sequence[str], filled: Collection[int]) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": tokens[i], **plain, "special": kind != USER_DEFINED}
        for i, kind in enumerate(kinds)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED) and i not in filled
    ]


def _merges(fields: Mapping[str, Any], vocab: Mapping[str, int]) -> list[list[str]]:
    out = []
    for merge in _texts(fields, "tokenizer.ggml.merges"):
        first, _, second = merge[1:].partition(" ")
        pair = [merge[:1] + first, second]
        if any(text not in vocab for text in (*pair, "".join(pair))):
            raise InputError(
                "tokenizer.ggml.merges", repr(merge), "two ids that make a third, with a blank between them"
            )
        out.append(pair)
    return out


def _config(fields: Mapping[str, Any], tokens: Sequence[str], cut: PreTokenizer) -> dict[str, Any]:
    out: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("eot", "eot"), ("unk", "unknown"), ("pad", "padding")):
        key = f"tokenizer.ggml.{key}_token_id"
        if key in fields:
            at = _need(fields, key, int)
            if not 0 <= at < len(tokens):
                raise InputError(key, at, f"an id from 0 to {len(tokens) - 1}")
            out[f"{name}_token"] = tokens[at]
            if name in ("eos", "eot"):
                out["eos_token_id"] = [*out.get("eos_token_id", []), at]
    for name, otherwise in (("bos", cut.adds_bos), ("eos", False)):
        key = f"tokenizer.ggml.add_{name}_token"
        out[f"add_{name}_token"] = _need(fields, key, bool) if key in fields else otherwise
    if "tokenizer.chat_template" in fields:
        out["chat_template"] = _need(fields, "tokenizer.chat_template", str)
    return out


def _texts(fields: Mapping[str, Any], key: str) -> list[str]:
    out = _need(fields, key, list)
    if not all(isinstance(text, str) and text for text in out):
        raise InputError(key, "an entry that is no text", "a list of texts")
    return out


def _need(fields: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in fields:
        raise InputError(key, "no such key in the metadata", f"a {kind.__name__}")
    if not isinstance(fields[key], kind):
        raise InputError(key, f"a {type(fields[key]).__name__}", f"a {kind.__name__}")
    return fields[key]
