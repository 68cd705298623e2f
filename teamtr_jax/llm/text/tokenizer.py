"""Tokenizers: text and ids, where what somebody wrote never becomes an id that steers.

A *control* is an id that only a chat template may write: ``<|im_end|>``, the id that begins a text, and every added token that
the template names. `encode` is for contents and never yields one; `encode_template` is for the text of the template and does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from teamtr_jax.validation import InputError

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "Tokenizer",
    "FileTokenizer",
    "CharacterTokenizer",
    "load_tokenizer",
    "tokenizer_of",
    "require_fit",
    "REMEDY",
]

REMEDY = "pip install 'teamtr-jax[models]'"
LOST = "\N{REPLACEMENT CHARACTER}"
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
"""Entries of a `tokenizer_config.json` that name a special token, and that a chat template may ask for."""
ANCHORS = ("\n", "\t", "|")
"""Texts that stand before one in the middle, where a tokenizer treats the beginning of a text in a special way."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text and ids of one agent. `opens` says whether a text stands at the very beginning or right behind a control.

    Tokenizers converted from sentencepiece put a blank before such a text; others know no difference.
    """

    @property
    def size(self) -> int:
        """One more than the greatest id."""
        ...

    @property
    def controls(self) -> Mapping[str, int]:
        """Ids that `encode` never yields, by their text."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """What a chat template may ask for: ``{"bos_token": "<s>", …}``."""
        ...

    @property
    def eos(self) -> tuple[int, ...]:
        """Ids that end a text; a checkpoint may have several."""
        ...

    @property
    def bos(self) -> int | None: ...

    @property
    def pad(self) -> int | None:
        """What fills rows, if the checkpoint has one. It may equal an eos: positions are masked, never ids."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The source of the checkpoint's chat template."""
        ...

    def encode(self, text: str, opens: bool = False) -> list[int]:
        """Ids of what somebody wrote: nothing is added, and no control comes out.

        Raises:
          InputError: a text that this tokenizer cannot write.
        """
        ...

    def encode_template(self, text: str, opens: bool = False) -> list[int]:
        """Ids of the text of a template: controls are recognised; nothing is added."""
        ...

    def decode(self, ids: Sequence[int], opens: bool = False) -> str:
        """The text of ids, controls as their text. What is no text (half a character, an id without a token) is U+FFFD."""
        ...


class FileTokenizer:
    """A `Tokenizer` of the library `tokenizers`.

    `decode` undoes `encode` where bytes are merged and texts are not normalised. Pieces of sentencepiece write ``▁`` as a blank.

    Args:
      full: reads the text of templates.
      controls: texts that only a template may write; they must be tokens.
      names: as `Tokenizer.names`.
      eos: ids that end a text besides the token that `names` calls ``eos_token``.

    Raises:
      InputError: a control or a named token that is none of the tokens; an eos outside.
    """

    def __init__(
        self,
        full: tokenizers.Tokenizer,
        *,
        controls: Sequence[str],
        names: Mapping[str, str],
        eos: Sequence[int] = (),
        chat_template: str | None = None,
    ):
        vocabulary = full.get_vocab(with_added_tokens=True)
        for text in [*controls, *names.values()]:
            if text not in vocabulary:
                raise InputError("tokenizer", f"no token {text!r}", "every special token in its vocabulary")
        self._full = full
        self._known = frozenset(vocabulary.values())
        self.size = max(self._known) + 1
        self.names = dict(names)
        self.controls = {text: vocabulary[text] for text in [*controls, *names.values()]}
        self._steer = frozenset(self.controls.values())
        self.bos, self.pad = (vocabulary.get(names.get(f"{name}_token", "")) for name in ("bos", "pad"))
        own = [vocabulary[names["eos_token"]]] if "eos_token" in names else []
        self.eos = tuple(dict.fromkeys([*own, *eos]))
        if outside := [i for i in self.eos if i not in self._known]:
            raise InputError("eos_token_id", outside[0], f"ids of the tokenizer, below {self.size}")
        self.chat_template = chat_template

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer that sees no control: each is marked special, and special ones are encoded as text."""
        described = json.loads(self._full.to_str())
        for token in described["added_tokens"]:
            token["special"] = token["content"] in self.controls
        plain = type(self._full).from_str(json.dumps(described))
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _blank_first(self) -> bool:
        """Whether a text at the very beginning is encoded otherwise than in the middle."""
        return _ids(self._plain, "a") != _behind(self._plain, ANCHORS[0], "a")

    @cached_property
    def _blank_behind_controls(self) -> bool:
        """Whether a text right behind a control is encoded as at the beginning."""
        if not self._blank_first or not self.controls:
            return self._blank_first
        control = next(iter(self.controls))
        return _behind(self._full, control, "a") == _ids(self._plain, "a")

    def _in_place(self, tokenizer: tokenizers.Tokenizer, text: str, opens: bool) -> list[int]:
        if not text or not self._blank_first or (opens and self._blank_behind_controls):
            return _ids(tokenizer, text)
        for anchor in ANCHORS:
            if (ids := _behind(tokenizer, anchor, text)) is not None:
                return ids
        return _ids(tokenizer, text)

    def encode(self, text: str, opens: bool = False) -> list[int]:
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError("text", repr(text), "characters: half of a surrogate pair is none")
        ids = self._in_place(self._plain, text, opens)
        if not self._steer.intersection(ids):
            return ids
        # Some vocabularies spell a control from its characters: a text that has it is encoded in parts.
        found = next(control for control, i in self.controls.items() if i in ids)
        first, *others = text.split(found)
        if not others or len(found) < 2:
            raise InputError("text", repr(text), f"text that this tokenizer can encode without {found!r}")
        parts = [first, *(found[1:] + other for other in others)]
        parts = [*(part + found[0] for part in parts[:-1]), parts[-1]]
        return [i for n, part in enumerate(parts) for i in self.encode(part, opens and not n)]

    def encode_template(self, text: str, opens: bool = False) -> list[int]:
        first = any(text.startswith(control) for control in self.controls)
        return _ids(self._full, text) if first else self._in_place(self._full, text, opens)

    def decode(self, ids: Sequence[int], opens: bool = False) -> str:
        parts: list[list[int]] = [[]]
        for i in ids:
            if i in self._known:
                parts[-1].append(int(i))
            else:
                parts.append([])
        return LOST.join(self._decode(part, opens and not n) for n, part in enumerate(parts))

    def _decode(self, ids: list[int], opens: bool) -> str:
        if not ids or not self._blank_first or (opens and self._blank_behind_controls):
            return self._full.decode(ids, skip_special_tokens=False)
        anchor = _ids(self._plain, "a")
        before = self._full.decode(anchor, skip_special_tokens=False)
        return self._full.decode([*anchor, *ids], skip_special_tokens=False)[len(before) :]


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _behind(tokenizer: tokenizers.Tokenizer, anchor: str, text: str) -> list[int] | None:
    """Ids of a text behind an anchor, `None` where the two are not apart."""
    before, whole = _ids(tokenizer, anchor), _ids(tokenizer, anchor + text)
    return whole[len(before) :] if whole[: len(before)] == before else None


class CharacterTokenizer:
    """A `Tokenizer` of single characters, made of nothing: for small networks in a team of text, and for tests.

    What agents may write comes first: END, then the characters. Behind it stand the controls of `chat_template`.

    Raises:
      InputError: no characters, or one twice.

    Example:
      >>> t = CharacterTokenizer("ab<>end")
      >>> t.encode("a<end>"), t.encode_template("a<end>"), t.decode([1, 2, 0]), t.size
      ([1, 3, 5, 6, 7, 4], [1, 0], 'ab<end>', 12)
    """

    chat_template = (
        "{% for message in messages %}{{ '<' + message.role + '>' + message.content + '<end>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    names: Mapping[str, str] = {"eos_token": "<end>", "pad_token": "<pad>"}
    eos = (0,)
    bos = None

    def __init__(self, characters: str):
        if not isinstance(characters, str) or not characters or len(set(characters)) != len(characters):
            raise InputError("characters", repr(characters), "some characters, every one once")
        self.characters = characters
        n = len(characters)
        self.controls = {"<end>": 0, "<system>": n + 1, "<user>": n + 2, "<assistant>": n + 3, "<pad>": n + 4}
        self.size = n + 5
        self.pad = n + 4
        self._texts = {0: "<end>", **dict(enumerate(characters, 1)), **{i: c for c, i in self.controls.items()}}
        self._ids = {c: i for i, c in enumerate(characters, 1)}

    def encode(self, text: str, opens: bool = False) -> list[int]:
        if unknown := sorted(set(text) - set(self._ids)):
            raise InputError("text", repr(unknown[0]), f"characters among {self.characters!r}")
        return [self._ids[c] for c in text]

    def encode_template(self, text: str, opens: bool = False) -> list[int]:
        parts = re.split("(" + "|".join(map(re.escape, self.controls)) + ")", text)
        pairs = ([self.controls[part]] if n % 2 else self.encode(part) for n, part in enumerate(parts))
        return [i for ids in pairs for i in ids]

    def decode(self, ids: Sequence[int], opens: bool = False) -> str:
        return "".join(self._texts.get(int(i), LOST) for i in ids)


def require_fit(tokenizer: Tokenizer, vocabulary: int) -> None:
    """Refuse a tokenizer with ids that a network does not have. A network may have more: rows that nobody reads.

    Raises:
      InputError: both sizes.
    """
    if tokenizer.size > vocabulary:
        raise InputError(
            "tokenizer", f"ids up to {tokenizer.size - 1}", f"ids below {vocabulary}, those of the network"
        )


def load_tokenizer(folder: str | Path) -> FileTokenizer:
    """The tokenizer of a checkpoint's folder, as Hugging Face writes it.

    Reads `tokenizer.json`, `tokenizer_config.json` (older ones `special_tokens_map.json` too), the ids that end a text from
    `generation_config.json` or else `config.json`, and the chat template (`chat_template.jinja` counts more than the entry).

    What `tokenizer.json` says counts. transformers 5 makes some tokenizers anew from their class and drops the rest of the file:
    with `LlamaTokenizer` the blanks behind special tokens, with `GPT2Tokenizer` how SmolLM2 cuts digits (0.7 % of lines differ).

    Raises:
      InputError: names the file that is missing or cannot be read, and what does not fit.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise InputError("tokenizer", f"no tokenizer.json in {folder}", "a checkpoint's folder with a tokenizer.json")
    config = {**_read(folder, "special_tokens_map.json"), **_read(folder, "tokenizer_config.json")}
    for name in ("generation_config.json", "config.json"):
        if (eos := _read(folder, name).get("eos_token_id")) is not None:
            config["eos_token_id"] = eos
            break
    if (folder / "chat_template.jinja").is_file():
        config["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer_of(_read(folder, "tokenizer.json"), config)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(name, error, "a readable JSON file") from None
    if not isinstance(found, dict):
        raise InputError(name, type(found).__name__, "a JSON object")
    return found


def tokenizer_of(tokenizer_json: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> FileTokenizer:
    """A tokenizer from what the two files of a checkpoint hold; ``eos_token_id``, a number or several, may stand in the second.

    Truncation and padding that the file has switched on are switched off.

    Raises:
      InputError: the library is missing; a file that it cannot read; merges left out at random; ids with gaps; names that
        are no tokens.
    """
    library = _library()
    if (tokenizer_json.get("model") or {}).get("dropout"):
        raise InputError("tokenizer.json", "dropout of merges", "a tokenizer without chance")
    try:
        full = library.Tokenizer.from_str(json.dumps(dict(tokenizer_json)))
    except Exception as error:  # the library raises plain `Exception`
        raise InputError("tokenizer.json", error, "a file that the library tokenizers reads") from None
    full.no_truncation()
    full.no_padding()
    added = tokenizer_json.get("added_tokens") or []
    for token in added:
        if (given := full.token_to_id(token["content"])) != token[
            "id"
        ]:  # the library gives others where numbers have gaps
            raise InputError(
                "tokenizer.json", f"{token['content']!r} as id {token['id']}", f"{given}, the next free id"
            )
    template = _default_template(tokenizer_config.get("chat_template"))
    names = {name: _text(tokenizer_config[name]) for name in NAMED if tokenizer_config.get(name) is not None}
    late = tokenizer_config.get("added_tokens_decoder") or {}
    if not isinstance(late, Mapping):
        raise InputError("added_tokens_decoder", late, "a JSON object")
    late = [_text(token) for token in late.values()]
    if missing := [text for text in [*late, *names.values()] if full.token_to_id(text) is None]:
        raise InputError("tokenizer_config.json", f"the token {missing[0]!r}", "tokens that tokenizer.json has")
    steer = [t["content"] for t in added if t.get("special") or _named_in(t["content"], template)]
    eos = tokenizer_config.get("eos_token_id")
    ids = [] if eos is None else eos if isinstance(eos, list | tuple) else [eos]
    if wrong := [i for i in ids if not isinstance(i, int)]:
        raise InputError("eos_token_id", repr(wrong[0]), "an id, or several")
    return FileTokenizer(full, controls=steer, names=names, eos=ids, chat_template=template)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError("tokenizer", "no library tokenizers", REMEDY) from None
    return tokenizers


def _text(token: object) -> str:
    """The text of a special token, written as such or as a description."""
    found = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(found, str):
        raise InputError("tokenizer_config.json", token, "special tokens as texts")
    return found


def _default_template(found: object) -> str | None:
    """The default one of several templates, which a list names."""
    if isinstance(found, list):
        if not all(isinstance(x, Mapping) and isinstance(x.get("name"), str) and "template" in x for x in found):
            raise InputError("chat_template", found, "a text, or a list of named ones with a default")
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if found is not None and not isinstance(found, str):
        raise InputError("chat_template", type(found).__name__, "a text, or a list of named ones with a default")
    return found


def _named_in(token: str, template: str | None) -> bool:
    """Whether a template has this added token among its texts; white space is ordinary text wherever it stands."""
    return template is not None and not token.isspace() and token in template
