"""Retokenisation drift: ids that an agent wrote are not the ids of their text.

A policy writes ids, and many ids spell one text: ``encode(decode(ids)) ≠ ids`` where it wrote a word in other pieces than the
tokenizer would, half a character, or an id that stands for no text. Who encodes the text again scores another message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from teamtr_jax.llm.checked import whole
from teamtr_jax.validation import InputError, one_of

__all__ = ["Drift", "drift_between", "DriftPolicy", "DriftCount", "NO_DRIFTS"]


class Drift(NamedTuple):
    """How far the ids of a text are from the ids that were written."""

    ids: int  #: of the message, without its stop
    changed: int  #: ids between the common beginning and the common end, of the longer of the two
    first: int  #: place of the first id that differs; −1 where none does
    share: float  #: `changed` over the length of the longer of the two, 0 of an empty message


def drift_between(written: Sequence[int], again: Sequence[int]) -> Drift:
    """The drift of ids `again`, those of the text, from ids `written`.

    Example:
      >>> drift_between([5, 6, 7, 8], [5, 9, 8])
      Drift(ids=4, changed=2, first=1, share=0.5)
      >>> drift_between([5, 6], [5, 6])
      Drift(ids=2, changed=0, first=-1, share=0.0)
    """
    shorter, longer = sorted((len(written), len(again)))
    if list(written) == list(again):
        return Drift(len(written), 0, -1, 0.0)
    first = next((i for i in range(shorter) if written[i] != again[i]), shorter)
    last = next((i for i in range(shorter - first) if written[-1 - i] != again[-1 - i]), shorter - first)
    changed = longer - first - last
    return Drift(len(written), changed, first, changed / longer)


@dataclass(frozen=True)
class DriftPolicy:
    """What to do about a message that drifts.

    * "keep": the agent goes on reading the ids that it wrote; the others read their own encodings of its text. Nothing is lost:
      the text is a function of the ids, so the probability of a conversation is still the product over messages of
      `π(ids | view)`, views hold the ids that were read, and log-probabilities are those of the ids that were drawn. Drift then
      only says what would go wrong if somebody encoded the text again.
    * "refuse": an error that names conversation and turn.
    * "resample": the message is drawn again, at most `tries` times; one that still drifts is kept and counted. The law of an
      accepted message is the policy's given that it does not drift, `π(y) 1[y stable] / Z`, `Z = π(stable | view)`, while the
      booked log-probabilities are `log π(y)`. A ratio of two policies neglects `Z/Z'`; the share of first draws that drifted
      (`DriftCount`) estimates `1 − Z`, and `|log Z − log Z'|` is about the difference of two such shares.

    Raises:
      InputError: another kind; tries below 1.
    """

    kind: str = "keep"
    tries: int = 4

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("keep", "refuse", "resample"))
        whole(self, 1, "tries", high=1000)

    def again(self, drift: Drift, drawn: int, conversation: int, turn: int) -> bool:
        """Whether to draw this message again, which was drawn `drawn` times so far.

        Raises:
          InputError: a message that drifts where none may.
        """
        if drift.first < 0 or self.kind == "keep":
            return False
        if self.kind == "refuse":
            where = f"message of turn {turn} in conversation {conversation}"
            found = (
                f"{where}: encoding its text changes {drift.changed} of {drift.ids} ids, from place {drift.first} on"
            )
            raise InputError("drift", found, 'messages that are the ids of their text, or drift="keep" or "resample"')
        return drawn <= self.tries


class DriftCount(NamedTuple):
    """Messages and their drift, summed. Counts of two parts of a run are added with `plus`."""

    messages: int  #: that stand in conversations
    drifted: int  #: among these
    changed: int  #: ids of these that encoding their text changes
    ids: int  #: of these, stops left out
    first_drifted: int  #: messages whose first draw drifted: over `messages` an estimate of `1 − Z`
    redrawn: int  #: draws thrown away

    def plus(self, other: DriftCount) -> DriftCount:
        return DriftCount(*(a + b for a, b in zip(self, other, strict=True)))

    @classmethod
    def of(cls, draws: Sequence[Drift]) -> DriftCount:
        """Of one message, whose draws these were; the last one stands."""
        last = draws[-1]
        return cls(1, int(last.first >= 0), last.changed, last.ids, int(draws[0].first >= 0), len(draws) - 1)


NO_DRIFTS = DriftCount(0, 0, 0, 0, 0, 0)
