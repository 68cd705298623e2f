r"""The answer of a message in words, read strictly: after a marker, one answer, and nothing after it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from teamtr_jax.llm.tasks.base import Problem
from teamtr_jax.validation import one_of

__all__ = ["Reader", "READERS", "number", "exact", "choice", "parse_answer", "verified"]

Reader = Callable[[str], str | None]
"""One answer → its normal form; `None` for what is none. Equal answers have equal normal forms."""

LONGEST = 200
"""Characters of an answer."""

AROUND = " \t\r\n*_`\"'“”"
"""Blanks, emphasis and quotation marks: no part of an answer."""

MINUS = str.maketrans(dict.fromkeys("\u2212\ufe63\uff0d\u2013", "-"))
"""Minus signs, the small and the wide one, and the dash that often stands for one."""

NUMBER = re.compile(r"([+-]?)[$£€]?([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.([0-9]+))?")

TAGGED = re.compile(r"\\boxed\{([^{}]*)\}|<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
OPENED = re.compile(r"\\boxed\s*\{|</?answer\b", re.IGNORECASE)
SAID = re.compile(r"(?<![^\W_])answer[*_ \t]*(?::|is\b[*_ \t]*:?)([^\n]*)", re.IGNORECASE)


def _bare(text: str) -> str:
    """Without what stands around an answer and one period at its end."""
    return text.strip(AROUND).removesuffix(".").strip(AROUND)


def number(text: str) -> str | None:
    """A decimal number: no thousands commas, sign +, leading zeros, zeros or period at its end; also as mathematics, ``$7$``.

    Example:
      >>> [number(x) for x in ("1,234.", "+07", "−3.50", "$12", "-0", "1,23", "7 or 8", "٧", "1e3", "12 apples")]
      ['1234', '7', '-3.5', '12', '0', None, None, None, None, None]
    """
    bare = _bare(text)
    bare = bare[1:-1] if re.fullmatch(r"\$[^$]+\$", bare) else bare
    found = NUMBER.fullmatch(bare.translate(MINUS)) if len(text) <= LONGEST else None
    if found is None or (found[1] and found[2]):
        return None
    whole, part = found[3].replace(",", "").lstrip("0") or "0", (found[4] or "").rstrip("0")
    value = f"{whole}.{part}" if part else whole
    return "-" + value if "-" in (found[1], found[2]) and value != "0" else value


def exact(text: str) -> str | None:
    """Some text on one line: blanks once, no quotation marks around it, no period at its end; capital letters count.

    Example:
      >>> [exact(x) for x in (' "mother-in-law". ', "New  York", "Yes", "", ".")]
      ['mother-in-law', 'New York', 'Yes', None, None]
    """
    text = _bare(text)
    if len(text) > LONGEST or "\n" in text:
        return None
    return unicodedata.normalize("NFC", " ".join(text.split())) or None


def choice(text: str) -> str | None:
    """One letter, A to Z, as of a question with choices.

    Example:
      >>> [choice(x) for x in ("b", "(C)", "D.", "E)", "A or B", "AB", "1", "")]
      ['B', 'C', 'D', 'E', None, None, None, None]
    """
    found = re.fullmatch(r"\(?([A-Za-z])\)?", _bare(text))
    return found and found[1].upper()


READERS: dict[str, Reader] = {"number": number, "exact": exact, "choice": choice}
"""By name."""


def _inside(text: str) -> str:
    """What stands in a marker that is all of the text: a boxed answer after ``Answer:``."""
    bare = text.strip(AROUND + "$.")
    found = TAGGED.fullmatch(bare)
    return _inside(found[1] if found[1] is not None else found[2]) if found else text


def parse_answer(text: str, read: Reader = number) -> str | None:
    r"""The normal form of a message's one answer.

    It follows ``Answer:``, ``The answer is`` or ``The answer is:`` on its line, or stands in ``\boxed{}`` or ``<answer>``.

    `None` where there is no marker, what stands after one cannot be read, two say different things, or anything but closing
    marks follows the last one. So a list of guesses is no answer, whatever its form, and what is read is what was said last.

    Example:
      >>> parse_answer("12 and 30 make 42.\nAnswer: 42."), parse_answer(r"So it is $\boxed{1{,}000}$"), parse_answer("42")
      ('42', None, None)
      >>> parse_answer("Answer: 7\nAnswer: 8"), parse_answer("Answer: 7, 17"), parse_answer("Answer: 7. Or 8?")
      (None, None, None)
    """
    tagged, said = list(TAGGED.finditer(text)), list(SAID.finditer(text))
    opened = len(OPENED.findall(text))
    closed = sum(1 if found[1] is not None else 2 for found in tagged)
    if opened != closed:  # a marker within a marker, or one that is left open
        return None
    marked = [found[1] if found[1] is not None else found[2] for found in tagged] + [found[1] for found in said]
    answers = {read(_inside(content)) for content in marked}
    end = max((found.end() for found in (*tagged, *said)), default=0)
    answer = answers.pop() if len(answers) == 1 else None
    return None if text[end:].strip(AROUND + "$.)") else answer


def verified(problem: Problem, messages: Sequence[str], turns: int, read: Reader) -> float:
    """1 if there is a message for each turn and the answer of the last one is the problem's, else 0."""
    if len(messages) != turns:
        return 0.0
    found = parse_answer(messages[-1], read)
    return float(found is not None and found == read(problem.answer))


def reader_of(name: str) -> Reader:
    """Of `READERS`.

    Raises:
      InputError: names those that there are.
    """
    one_of("reader", name, tuple(READERS))
    return READERS[name]
