"""What a command line refuses, on one line: tyro frames it, over many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from contextlib import redirect_stderr
from io import StringIO
from typing import TypeVar

from teamtr_jax.validation import LONGEST, InputError, shown

__all__ = ["parsed"]

FRAME = "╭╮╰╯│─+|- "
"""What tyro draws frames with, on terminals without such characters too."""

Parsed = TypeVar("Parsed")


def _sentence(said: str) -> str:
    """What tyro says in a frame, on one line: its first part, and the second, which says what was expected."""
    parts, now = [], []
    for line in said.splitlines()[1:]:
        words = " ".join(line.strip(" │|").split())
        if words.strip(FRAME):
            now.append(words)
        elif now:
            parts.append(" ".join(now))
            now = []
    parts = [part for part in parts if not part.startswith("For full helptext")]
    return "; ".join(parts[:2]) or " ".join(said.split())


def _once(lists: Collection[str]) -> None:
    """Refuse a list that is given in parts: tyro would keep the last part, and it would seem that all were taken."""
    names = [x.partition("=")[0].replace("_", "-") for x in sys.argv[1:]]
    for name in lists:
        if names.count(name) > 1:
            raise InputError(name, f"given {names.count(name)} times", "once, with all its values")


def parsed(program: str, read: Callable[[], Parsed], lists: Collection[str] = ()) -> Parsed:
    """What `read` makes of the command line. tyro frames what it refuses, an `InputError` too: neither stays so.

    Args:
      program: named at the beginning of the line.
      read: calls tyro.
      lists: options with several values, which are given once. Of any other option the last counts.

    Raises:
      InputError: as raised by the settings, or a list is given in parts.
      SystemExit: as raised by tyro, for everything else, after one line on stderr.
    """
    _once(lists)
    said = StringIO()
    try:
        with redirect_stderr(said):
            return read()
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None and not isinstance(error, InputError):
            error = error.__context__
        if error is not None:
            raise error from None
        if said.getvalue():
            sys.stderr.write(f"{program}: error: {shown(_sentence(said.getvalue()), 2 * LONGEST)}\n")
        raise
