"""The tokenizer of a GGUF file as the files of a Hugging Face folder: `tokenizer.json` and `tokenizer_config.json`."""

from __future__ import annotations

import math
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
    ids: tuple[tuple[str, int], ...] = ()  #: of special tokens, where the file does not say
    nfc: bool = False  #: texts are brought to Unicode's form C first, as the checkpoint's own tokenizer does; llama.cpp does not


_LLAMA3 = PreTokenizer((LLAMA3,), ignore_merges=True, adds_bos=True)
_QWEN2 = PreTokenizer((QWEN2,), nfc=True)
_SMOLLM = PreTokenizer((ONE_DIGIT, GPT2))
_SENTENCEPIECE = PreTokenizer((), adds_bos=True, ids=(("unknown", 0), ("bos", 1), ("eos", 2)))

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

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Of `tokenizer.ggml.token_type`. Unknown, control and user-defined ones are not merged: they are found in a text as they are."""


def tokenizer_files(fields: Mapping[str, Any], vocabulary: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`tokenizer.json` and `tokenizer_config.json` of the metadata of a GGUF file.

    `tokenizer.ggml.model` is ``gpt2``, a byte-level BPE, or ``llama``, SentencePiece's BPE, whose file has scores and no
    merges: these are all ways to put a token together, best score first, as transformers makes them. Of two pairs that make
    the same token SentencePiece takes the leftmost; that may differ where a token can be cut in several ways.

    Nothing is added to an encoded text. Rows without an id, which the converter calls ``[PAD17]``, have none here. Of
    the config: ``bos_token``, ``eos_token``, ``eot_token``, ``unk_token``, ``pad_token`` (texts, where the file names them, or
    by SentencePiece's own ids), ``eos_token_id`` (ids of eos and eot), ``add_bos_token``, ``chat_template``.

    Args:
      fields: the metadata.
      vocabulary: rows of the table of ids.

    Raises:
      InputError: names the key: another kind of tokenizer, an unknown pre-tokenizer, a key that is missing or does not fit.
    """
    model = _need(fields, "tokenizer.ggml.model", str)
    if model not in ("gpt2", "llama"):
        raise InputError("tokenizer.ggml.model", repr(model), "'gpt2', a byte-level BPE, or 'llama', SentencePiece's")
    pieces = model == "llama"
    cut = _SENTENCEPIECE if pieces else _pre_tokenizer(fields)
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
        **(_pieces(fields, kinds, vocab) if pieces else _byte_level(fields, kinds, vocab, cut)),
        "post_processor": None,
    }
    file["model"] = {
        "type": "BPE",
        "dropout": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "ignore_merges": cut.ignore_merges,
        "vocab": vocab,
        **file["model"],
    }
    return file, _config(fields, tokens, cut)


def _pre_tokenizer(fields: Mapping[str, Any]) -> PreTokenizer:
    pre = _need(fields, "tokenizer.ggml.pre", str)
    if pre not in PRE_TOKENIZERS:
        raise InputError("tokenizer.ggml.pre", repr(pre), f"one of {', '.join(PRE_TOKENIZERS)}")
    return PRE_TOKENIZERS[pre]


def _byte_level(
    fields: Mapping[str, Any], kinds: Sequence[int], vocab: Mapping[str, int], cut: PreTokenizer
) -> dict[str, Any]:
    """Every byte has a character of its own, and these are merged."""
    if BYTE in kinds:
        raise InputError("tokenizer.ggml.token_type", "an id of kind BYTE", "a byte-level BPE, which has none")
    return {
        "normalizer": {"type": "NFC"} if cut.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*map(_split, cut.patterns), _bytes()]},
        "decoder": _bytes(),
        "model": {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "merges": _merges(fields, vocab)},
    }


def _pieces(fields: Mapping[str, Any], kinds: Sequence[int], vocab: Mapping[str, int]) -> dict[str, Any]:
    """Characters are merged, blanks being ``▁``; what is no piece is written in ids of bytes, or as the unknown one."""
    key = "tokenizer.ggml.remove_extra_whitespaces"
    if key in fields and _need(fields, key, bool):
        raise InputError(key, "true", "blanks that are kept: others are not undone by decoding")
    if unused := [token for token, i in vocab.items() if kinds[i] == UNUSED]:
        raise InputError("tokenizer.ggml.token_type", f"{unused[0]!r} of kind UNUSED", "ids that are used")
    found = {token for token, i in vocab.items() if kinds[i] == BYTE}
    if found and (lacking := sorted({f"<0x{byte:02X}>" for byte in range(256)} - found)):
        raise InputError("tokenizer.ggml.tokens", f"no byte {lacking[0]}", "all 256 of kind BYTE, or none")
    key = "tokenizer.ggml.add_space_prefix"
    first = _need(fields, key, bool) if key in fields else True
    blank: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    unknown = next((token for token, i in vocab.items() if kinds[i] == UNKNOWN), None)
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*([{"type": "Prepend", "prepend": "▁"}] if first else []), blank],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [*back, *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if first else [])],
        },
        "model": {
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": bool(found),
            "merges": _by_score(fields, kinds, vocab),
        },
    }


def _by_score(fields: Mapping[str, Any], kinds: Sequence[int], vocab: Mapping[str, int]) -> list[list[str]]:
    """Every pair of tokens that makes a third, best score first; of one score the longer beginnings, then the longer ends."""
    scores = _need(fields, "tokenizer.ggml.scores", list)
    if len(scores) != len(kinds):
        raise InputError("tokenizer.ggml.scores", f"{len(scores)} entries", f"{len(kinds)}, one for every id")
    if bad := [x for x in scores if not isinstance(x, float | int) or not math.isfinite(x)]:
        raise InputError("tokenizer.ggml.scores", bad[0], "finite numbers")
    plain = {token: i for token, i in vocab.items() if kinds[i] == NORMAL}
    found = [
        (-scores[i], -cut, cut - len(token), i, [token[:cut], token[cut:]])
        for token, i in plain.items()
        for cut in range(1, len(token))
        if token[:cut] in plain and token[cut:] in plain
    ]
    return [pair for *_, pair in sorted(found)]


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _kinds(fields: Mapping[str, Any], count: int) -> list[int]:
    kinds = _need(fields, "tokenizer.ggml.token_type", list)
    if len(kinds) != count:
        raise InputError("tokenizer.ggml.token_type", f"{len(kinds)} entries", f"{count}, one for every id")
    if bad := [x for x in kinds if not isinstance(x, int)]:
        raise InputError("tokenizer.ggml.token_type", bad[0], "whole numbers")
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
        at = dict(cut.ids).get(key)
        key = f"tokenizer.ggml.{key}_token_id"
        if key in fields:
            at = _need(fields, key, int)
        if at is not None:
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
