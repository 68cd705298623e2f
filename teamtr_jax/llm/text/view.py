"""What an agent reads of a conversation: its own ids, appended to, never written over.

A view is `opening own between own between … own`. Opening and between are what the template writes around what the agent is told,
each content encoded apart from what stands around it; own ids are those that it drew, its stop included, never encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from teamtr_jax.llm.checked import made, whole
from teamtr_jax.llm.text.drift import Drift, drift_between
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.template import ChatTemplate, Parts, parts_of, template_of
from teamtr_jax.llm.text.tokenizer import Tokenizer
from teamtr_jax.validation import InputError, one_of

__all__ = ["Scribe", "Told", "Span", "View", "EMPTY_VIEW"]

Heard = Sequence[tuple[str, str]]
"""What was said since an agent's last message: who, and what."""


class Told(NamedTuple):
    """Ids that an agent is told, and how many of the messages that it sees were left out for want of room, the oldest."""

    ids: list[int]
    dropped: int


@dataclass(frozen=True)
class Scribe:
    """One agent's writing desk: its tokenizer, its chat template and its role.

    A view has no end that can be moved: what was read stays read. So with `truncation="oldest"` only messages that the agent has
    not read yet are left out, the oldest first, and `Told` says how many; a view that is full all the same is an error.

    Raises:
      InputError: a template that cannot be cut (`parts_of`); no id that ends a message; settings that are none.

    Example:
      >>> from teamtr_jax.llm.text.tokenizer import CharacterTokenizer
      >>> t = CharacterTokenizer("abcdr: ")
      >>> desk = Scribe(t, Role("d", cap=4, separator=" "))
      >>> view = EMPTY_VIEW.told(desk.opening("ab", [("c", "ba")])).wrote(t.encode("a") + [0], turn=1)
      >>> view = view.told(desk.between(view.ids[-2:], [("c", "a")])).wrote(t.encode("bbbb"), turn=3)
      >>> t.decode(view.ids)
      '<user>ab c: ba<end><assistant>a<end><user>c: a<end><assistant>bbbb'
      >>> t.decode(desk.between(view.ids[-4:], []))
      '<end><user><end><assistant>'
    """

    tokenizer: Tokenizer
    role: Role
    template: ChatTemplate | None = None  #: the checkpoint's own if not given
    context: int | None = None  #: most ids of a view, the message that is being written at its longest
    truncation: str = "refuse"  #: or "oldest"
    default_system: str = "keep"
    """What to do about a system message that the template writes of its own, where the role has none: "keep" it, as the
    checkpoint was trained, or "suppress" it by an empty one."""
    rewritten: str = "refuse"  #: as of `parts_of`

    def __post_init__(self) -> None:
        made(self, Role, "role")
        if self.context is not None:
            whole(self, self.role.cap + 1, "context")
        one_of("truncation", self.truncation, ("refuse", "oldest"))
        one_of("default_system", self.default_system, ("keep", "suppress"))
        if self.template is None:
            object.__setattr__(self, "template", template_of(self.tokenizer))
        made(self, ChatTemplate, "template")
        self.stops  # noqa: B018  # whatever is wrong with the template is said here

    @cached_property
    def parts(self) -> Parts:
        """What the template writes around contents, and what a reader of results should know about it (`parts.notes`)."""
        assert self.template is not None
        parts = parts_of(self.template, bool(self.role.system), self.rewritten)
        if not parts.added or self.default_system == "keep" or self.role.system:
            return parts
        empty = parts_of(self.template, True, self.rewritten)
        if not empty.system_apart or parts.added in empty.before_system + empty.before_first:
            raise InputError(
                "default_system", repr(parts.added), 'a template that an empty system message stops, or "keep"'
            )
        return empty

    def _encoded(self, parts: Iterable[tuple[str, bool]], opens: bool) -> list[int]:
        """Ids of texts, those of the template (True) with controls, contents without; nothing merges across."""
        ids: list[int] = []
        for text, controls in parts:
            if text:
                ids += (self.tokenizer.encode_template if controls else self.tokenizer.encode)(text, opens)
                opens = self._steers(ids)
        return ids

    def _steers(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[-1] in self._controls

    @cached_property
    def _controls(self) -> frozenset[int]:
        return frozenset(self.tokenizer.controls.values())

    @cached_property
    def _close(self) -> tuple[tuple[int, ...], list[int]]:
        """The ids by which the template ends an answer, and those up to the next user message."""
        ids = self.tokenizer.encode_template(self.parts.after_own)
        if last := next((n for n, i in enumerate(ids, 1) if i in self._controls), 0):
            return tuple(ids[:last]), ids[last:]
        text = self.parts.after_own.rstrip()
        if not text:
            found = f"nothing but white space behind an answer: {self.parts.after_own!r}"
            raise InputError("chat template", found, "a text that ends answers")
        return tuple(self.tokenizer.encode_template(text)), self.tokenizer.encode_template(
            self.parts.after_own[len(text) :]
        )

    @property
    def end(self) -> tuple[int, ...]:
        """The ids by which the template ends an answer."""
        return self._close[0]

    @property
    def stops(self) -> tuple[tuple[int, ...], ...]:
        """Sequences of ids that end a message, longest first: the template's end of an answer, and every eos."""
        found = {self.end, *((i,) for i in self.tokenizer.eos)}
        return tuple(sorted(found, key=lambda stop: (-len(stop), stop)))

    def stop_of(self, own_ids: Sequence[int]) -> tuple[int, ...]:
        """The longest stop that ids end with; empty if they end with none."""
        return next((stop for stop in self.stops if tuple(own_ids[len(own_ids) - len(stop) :]) == stop), ())

    def content(self, own_ids: Sequence[int]) -> list[int]:
        """The ids of a message without its stop.

        Raises:
          InputError: a stop before its end: whoever drew these ids went on behind it.
        """
        ids = list(own_ids)
        ids = ids[: len(ids) - len(self.stop_of(ids))]
        lasts = {stop[-1] for stop in self.stops}
        if early := next((n for n, i in enumerate(ids, 1) if i in lasts and self.stop_of(ids[:n])), 0):
            raise InputError(
                "ids", f"{ids[early - 1]}, which ends messages, in the middle of one", "messages that end there"
            )
        return ids

    def read(self, own_ids: Sequence[int]) -> str:
        """The text of a message without its stop, as others hear it."""
        return self._text(self.content(own_ids)).removeprefix(self.parts.lead)

    def message(self, text: str) -> list[int]:
        """The ids of a text as a message, with the template's end of an answer; `read` gives the text back."""
        return [*self.tokenizer.encode(self.parts.lead + text, self._opens), *self.end]

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, self._opens)

    @cached_property
    def _opens(self) -> bool:
        """Whether an agent writes right behind a control."""
        return self._steers(self.tokenizer.encode_template(self.parts.header))

    def drift(self, own_ids: Sequence[int]) -> Drift:
        """How far the ids of its text are from a message. U+FFFD in the text always counts: it was no text."""
        ids = self.content(own_ids)
        return drift_between(ids, self._again(self._text(ids)))

    def drifts(self, own_ids: Sequence[int]) -> bool:
        """Whether encoding the text of a message gives other ids."""
        return self.drift(own_ids).first >= 0

    def _again(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text, self._opens)
        except InputError:  # a tokenizer of few characters cannot write what stands for no text
            return []

    def told_first(self, problem: str, heard: Heard = ()) -> Told:
        """The ids from the beginning to where the agent writes its first message.

        Raises:
          InputError: more than there is room for.
        """
        system, first = self.role.system, self.parts.trims["first"]

        def ids(seen: Heard) -> list[int]:
            user = self.role.user_text(problem, seen)
            if self.parts.system_apart:
                head = [(self.parts.before_system, True), (self.parts.trims["system"](system), False)]
            else:
                head, user = [], self.role.separator.join(text for text in (system, user) if text)
            turn = [(self.parts.before_first, True), (first(user), False), (self.parts.header, True)]
            return self._encoded([*head, *turn], opens=True)

        return self._fitted(ids, heard, used=0)

    def told_next(self, own_ids: Sequence[int], heard: Heard = (), used: int = 0) -> Told:
        """The ids from the end of an own message to where the agent writes its next one.

        A message that ran into its cap is closed by the template's end of an answer; so is one that ended with another eos than
        the template's.

        Args:
          own_ids: its last message.
          used: ids of its view so far, this message included; needed where there is a limit.

        Raises:
          InputError: more than there is room for.
        """
        close, rest = self._close
        stop = self.stop_of(own_ids)
        closed = bool(stop) and (stop == close or (stop[-1] == close[-1] and stop[-1] in self._controls))
        begin = rest if closed else [*close, *rest]

        def ids(seen: Heard) -> list[int]:
            user = self.parts.trims["later"](self.role.user_text("", seen))
            opens = self._steers(begin or close)
            return [*begin, *self._encoded([(user, False), (self.parts.header, True)], opens)]

        return self._fitted(ids, heard, used)

    def _fitted(self, ids: Callable[[Heard], list[int]], heard: Heard, used: int) -> Told:
        seen, dropped = self.role.seen(heard), 0
        out = ids(seen)
        while (full := self._full(used + len(out))) and self.truncation == "oldest" and dropped < len(seen):
            dropped += 1
            out = ids(seen[dropped:])
        if full:
            found = f"{used + len(out)} ids and {self.role.cap} to write as {self.role.name}"
            raise InputError("context", found, f"at most {self.context}: a shorter conversation, or a greater limit")
        return Told(out, dropped)

    def _full(self, used: int) -> bool:
        return self.context is not None and used + self.role.cap > self.context

    def opening(self, problem: str, heard: Heard = ()) -> list[int]:
        """The ids of `told_first`."""
        return self.told_first(problem, heard).ids

    def between(self, own_ids: Sequence[int], heard: Heard = (), used: int = 0) -> list[int]:
        """The ids of `told_next`."""
        return self.told_next(own_ids, heard, used).ids


class Span(NamedTuple):
    """A part of a view: `ids[start:stop]`."""

    start: int
    stop: int
    turn: int  #: of the conversation, of a message that the agent wrote; −1 of what it was told


class View(NamedTuple):
    """What an agent has read and written so far. `told` and `wrote` append; nothing changes what stands there."""

    ids: tuple[int, ...]
    own: tuple[bool, ...]  #: whether the agent wrote it
    spans: tuple[Span, ...]

    def told(self, ids: Sequence[int]) -> View:
        return self._with(ids, -1)

    def wrote(self, ids: Sequence[int], turn: int) -> View:
        return self._with(ids, turn)

    def _with(self, ids: Sequence[int], turn: int) -> View:
        span = Span(len(self.ids), len(self.ids) + len(ids), turn)
        return View((*self.ids, *ids), (*self.own, *[turn >= 0] * len(ids)), (*self.spans, span))


EMPTY_VIEW = View((), (), ())
