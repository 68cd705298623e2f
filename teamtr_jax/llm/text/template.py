"""Chat templates: what a checkpoint's template writes around contents, found once, so that contents can be encoded apart.

A template is a program. It is run on stand-ins for contents, short words that no template changes, and its text is cut at
them. So no content ever reaches it, and what stands around contents is known before anybody speaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from teamtr_jax.llm.text.tokenizer import REMEDY, Tokenizer
from teamtr_jax.validation import InputError

__all__ = ["ChatTemplate", "Trim", "Parts", "template_of", "parts_of", "FIXED_DATE"]

FIXED_DATE = date(2024, 7, 26)
"""What `strftime_now` of a template says, on every day: views do not depend on when they are made."""
SAFE_JINJA = (3, 1, 6)
"""Older sandboxes are known to leak, and a template comes with somebody's checkpoint."""
TURNS = 3
"""Turns of the longest conversation that a template is tried on."""


@dataclass(frozen=True)
class ChatTemplate:
    """The source of a chat template and what it may ask for besides the messages.

    Raises:
      InputError: no text, or variables that are no dictionary.
    """

    source: str
    names: Mapping[str, str] = field(default_factory=dict)  #: texts of special tokens, as `Tokenizer.names`
    variables: Mapping[str, Any] = field(default_factory=dict)  #: settings of this template, as ``enable_thinking``
    date: date = FIXED_DATE

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise InputError("chat template", repr(self.source), "the text of a Jinja template")
        for name in ("names", "variables"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(name, repr(getattr(self, name)), "a dictionary")

    def render(self, messages: Sequence[Mapping[str, str]], header: bool = True) -> str:
        """The text of a conversation ``{"role": …, "content": …}``, with the header of an answer behind it if `header`.

        Raises:
          InputError: what the template, or Jinja about it, says.
        """
        program = _compiled(self.source, self.date)
        import jinja2

        try:
            return program.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=header,
                **{**self.names, **self.variables},
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError("chat template", error, f"a template for messages of {roles}") from None


def template_of(tokenizer: Tokenizer, *, source: str | None = None, **variables: Any) -> ChatTemplate:
    """The chat template of a tokenizer's checkpoint, or another one for its special tokens.

    Raises:
      InputError: the checkpoint has none.
    """
    source = tokenizer.chat_template if source is None else source
    if source is None:
        raise InputError(
            "chat template", "none in this checkpoint", "one, or source=… (a base model has never seen a chat)"
        )
    return ChatTemplate(source, tokenizer.names, variables)


@lru_cache(maxsize=64)
def _compiled(source: str, today: date) -> Any:
    try:
        import jinja2
        from jinja2 import ext, sandbox
    except ImportError:
        raise InputError("chat template", "no library jinja2", REMEDY) from None
    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()) < SAFE_JINJA:
        raise InputError("chat template", f"jinja2 {jinja2.__version__}", "3.1.6 or later, whose sandbox holds")
    import json

    class Generation(ext.Extension):
        """``{% generation %}`` marks what an assistant wrote; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 (as jinja2 has it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    world = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    world.filters["tojson"] = tojson
    world.globals["raise_exception"] = refuse
    world.globals["strftime_now"] = datetime.combine(today, time()).strftime
    try:
        return world.from_string(source)
    except jinja2.TemplateError as error:
        raise InputError("chat template", error, "a template that Jinja reads") from None


class Trim(NamedTuple):
    """Whether the template takes white space off a content, on the left and on the right."""

    left: bool = False
    right: bool = False

    def __call__(self, text: str) -> str:
        text = text.lstrip() if self.left else text
        return text.rstrip() if self.right else text


class Parts(NamedTuple):
    """What a template writes: `before_system S before_first U header lead A after_own U header lead A after_own …`.

    U are user messages, A the agent's own ones, S the system message.
    """

    before_system: str  #: "" where there is no system message apart
    before_first: str  #: up to the first user message
    header: str  #: from the end of a user message to where the agent writes
    lead: str  #: white space that the template puts before an answer of the past, and an agent writes itself
    after_own: str  #: from the end of an answer to the next user message
    system_apart: bool  #: whether the system message stands by itself; otherwise it belongs to the first user message
    trims: Mapping[str, Trim]  #: of ``system``, ``first``, ``later`` (user messages) and ``own``
    added: str  #: text of its own before the first user message, that nobody asked for; "" if there is none
    notes: tuple[str, ...]  #: what a reader of results should know about this template


def parts_of(template: ChatTemplate, system: bool, rewritten: str = "refuse") -> Parts:
    """What the template writes around contents, if a longer conversation only appends to a shorter one.

    A system message that the template refuses, moves or leaves out is put before the first user message.

    Args:
      system: whether there is a system message.
      rewritten: what to do if the header that an agent writes behind reads otherwise once it has answered (Qwen 3 without
        thinking: an empty thought): "refuse", or "keep" it, since what an agent has read cannot change.

    Raises:
      InputError: what a longer conversation changes; contents that the template changes by more than white space.
    """
    if rewritten not in ("refuse", "keep"):
        raise InputError("rewritten", repr(rewritten), '"refuse" or "keep"')
    if not system:
        return _parts(template, False, rewritten)
    try:
        return _parts(template, True, rewritten)
    except InputError as refused:
        try:
            parts = _parts(template, False, rewritten)
        except InputError:
            raise refused from None
        note = f"the system message stands at the head of the first user message ({refused.found})"
        return parts._replace(notes=(*parts.notes, note))


def _stand_in(name: str) -> str:
    return f"qx{name}zq7"


def _chat(turns: int, system: bool, contents: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """``[system] user0 own0 user1 … user{turns}``; stand-ins where no content is given."""
    names = [*(["system"] if system else []), "user0"]
    names += [name for turn in range(turns) for name in (f"own{turn}", f"user{turn + 1}")]
    role = {"s": "system", "u": "user", "o": "assistant"}
    return [{"role": role[name[0]], "content": (contents or {}).get(name, _stand_in(name))} for name in names]


def _cut(template: ChatTemplate, turns: int, system: bool) -> list[str]:
    """The template's text around the stand-ins of a conversation."""
    chat = _chat(turns, system)
    whole = rest = template.render(chat)
    out: list[str] = []
    for message in chat:
        if (times := whole.count(message["content"])) != 1 or message["content"] not in rest:
            found = "not in its place" if times == 1 else f"{times} times"
            raise InputError(
                "chat template", f"the {message['role']} message {found}", "every message once, in its order"
            )
        before, rest = rest.split(message["content"])
        out.append(before)
    return [*out, rest]


def _parts(template: ChatTemplate, system: bool, rewritten: str) -> Parts:
    cuts = [_cut(template, turns, system) for turns in range(TURNS + 1)]
    head = 2 if system else 1
    longest = cuts[-1]
    header, after_own = longest[-1], longest[head + 1]
    past = longest[head]
    for cut, longer in pairwise(cuts):
        _same(cut[:-1], longer[: len(cut) - 1], "in front of an answer")
        _same([cut[-1]], [header], "behind the last message")
    _same(longest[head + 1 :: 2], [after_own] * TURNS, "behind an answer")
    _same(longest[head:-1:2], [past] * TURNS, "before an answer")
    notes: list[str] = []
    lead = past.removeprefix(header)
    if past.startswith(header) and not lead.strip():
        pass
    elif rewritten == "keep":
        lead = ""
        notes.append(
            f"once answered, the header {header!r} reads {past!r}; agents go on reading what they wrote behind"
        )
    else:
        _same([header], [past], 'before an answer, once there is one (rewritten="keep" leaves it as it was)')
    before = longest[:head]
    trims = _trims(template, system)
    added = _added(template, before[0], after_own) if not system else ""
    notes += _remarks(template, system, trims, added)
    return Parts(
        before_system=before[0] if system else "",
        before_first=before[-1],
        header=header,
        lead=lead,
        after_own=after_own,
        system_apart=system,
        trims=trims,
        added=added,
        notes=tuple(notes),
    )


def _same(found: Sequence[str], expected: Sequence[str], where: str) -> None:
    for a, b in zip(found, expected, strict=True):
        if a != b:
            raise InputError("chat template", f"{a!r} that becomes {b!r} {where}", "a longer chat that only appends")


def _trims(template: ChatTemplate, system: bool) -> dict[str, Trim]:
    """What the template does to white space around contents, tried on one place at a time."""
    plain = template.render(_chat(1, system))
    places = {"first": "user0", "later": "user1", "own": "own0", **({"system": "system"} if system else {})}
    return {place: _trim(template, system, plain, name) for place, name in places.items()}


def _trim(template: ChatTemplate, system: bool, plain: str, name: str) -> Trim:
    word = _stand_in(name)
    before, after = plain.split(word)
    core = f"{word}\n\n {word}\t{word}"
    probe = f" \n{core} \n"
    text = template.render(_chat(1, system, {name: probe}))
    for trim in (Trim(), Trim(True, True), Trim(False, True), Trim(True, False)):
        if text == before + trim(probe) + after:
            return trim
    raise InputError("chat template", f"a changed content of {name!r}", "contents left as they are, or trimmed")


def _added(template: ChatTemplate, before: str, after_own: str) -> str:
    """What stands before the first user message and not before later ones; nothing if that only begins every text."""
    begins = template.names.get("bos_token", "")
    if not _without_end(before.removeprefix(begins), after_own).strip():
        return ""
    return _without_end(before, after_own)


def _without_end(text: str, other: str) -> str:
    """A text without the end that it has in common with another one."""
    same = 0
    while same < min(len(text), len(other)) and text[-1 - same] == other[-1 - same]:
        same += 1
    return text[: len(text) - same]


def _remarks(template: ChatTemplate, system: bool, trims: Mapping[str, Trim], added: str) -> list[str]:
    notes = []
    if added:
        notes.append(f"without a system message the template writes one of its own: {added!r}")
    if any(trims[place] != Trim() for place in ("first", "later")):
        notes.append("white space around what others said is taken off, as the template does")
    if trims["own"] != Trim():
        notes.append("the template takes white space off answers; agents go on reading the ids that they wrote")
    dated = ChatTemplate(template.source, template.names, template.variables, date(1999, 12, 31))
    if dated.render(_chat(1, system)) != template.render(_chat(1, system)):
        notes.append(f"the template writes today's date; here it is always {template.date}")
    thought = f"<think>\n{_stand_in('thought')}\n</think>\n\n{_stand_in('own0')}"
    if _stand_in("thought") not in template.render(_chat(1, system, {"own0": thought})):
        notes.append("the template takes thoughts out of earlier answers; agents go on reading the ids that they wrote")
    return notes
