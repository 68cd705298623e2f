"""How the programs of `experiments` read their command line, and how they end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import jax
import tyro

from teamtr_jax.files import reason
from teamtr_jax.validation import InputError, shown

__all__ = ["use_all_cores", "parsed", "exit_code"]

FRAME = str.maketrans(dict.fromkeys("╭╮╰╯│─", " "))
PLAIN = re.compile(r"^[-+|\s]*$|^\||\|$")
"""The same, as it is drawn where only ASCII can be shown."""


def use_all_cores() -> None:
    """On a CPU, a device for each core, among which the sampler divides its rows. Before anything is computed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)


def _sentence(said: str) -> str:
    """What tyro says in a frame, on one line: its first part, and the second, which says what was expected."""
    parts, now = [], []
    for line in said.splitlines()[1:]:
        words = " ".join(PLAIN.sub("", line.translate(FRAME)).split())
        if words:
            now.append(words)
        elif now:
            parts.append(" ".join(now))
            now = []
    return "; ".join(parts[:2]) or " ".join(said.split())


def parsed(form: Any, arguments: list[str] | None, program: str, description: str | None) -> Any:
    """The command line as settings. tyro frames what it refuses, and an `InputError` too; both are taken out of the frame.

    Raises:
      InputError: as raised by the settings.
      SystemExit: as raised by tyro, for everything else, after one line on stderr.
    """
    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(form, prog=f"python -m {program}", description=description, args=arguments)
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None and not isinstance(error, InputError):
            error = error.__context__
        if error is not None:
            raise error from None
        if said.getvalue():
            print(f"{program}: error: {shown(_sentence(said.getvalue()), 600)}", file=sys.stderr)
        raise


def exit_code(program: str, run: Callable[[], object]) -> int:
    """Run, and say how it ended: 0; bad input: one line on stderr, 2; files, numbers: 3; Ctrl-C: what is saved stays, 130."""
    try:
        run()
        return 0
    except InputError as error:
        code = 2
        print(f"{program}: error: {error}", file=sys.stderr)
    except (OSError, ArithmeticError) as error:
        code = 3
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"{program}: error: {shown(where + reason(error), 600)}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    return code
