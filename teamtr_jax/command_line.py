"""What a command line refuses, on one line: tyro frames it, over many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
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


def _once(arguments: Sequence[str], several: Collection[str]) -> None:
    """Refuse an option that is given twice: tyro would keep the last and say nothing of the others."""
    names = [x.partition("=")[0].replace("_", "-") for x in arguments if x.startswith("--") and x != "--"]
    for name in names:
        if names.count(name) > 1 and name not in several:
            raise InputError(name, f"given {names.count(name)} times", "once, with all its values")


def parsed(
    program: str,
    read: Callable[[], Parsed],
    arguments: Sequence[str] | None = None,
    several: Collection[str] = (),
) -> Parsed:
    """What `read` makes of the command line. tyro frames what it refuses, an `InputError` too: neither stays so.

    Args:
      program: named at the beginning of the line.
      read: calls tyro.
      arguments: what it reads; those of the program unless given.
      several: options that may be given several times.

    Raises:
      InputError: as raised by the settings, or an option is given twice.
      SystemExit: as raised by tyro, for everything else, after one line on stderr.
    """
    _once(sys.argv[1:] if arguments is None else arguments, several)
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
