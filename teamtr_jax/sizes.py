"""Sizes are computed before anything of that size is made: what a machine cannot hold is refused at once, with what would fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from teamtr_jax.validation import InputError

__all__ = ["HISTORIES", "memory", "bytes_text", "most", "fitting", "require_room"]

HISTORIES = 250_000
"""Histories of a game, chance and ends among them, that are walked unless more are allowed."""

CGROUP = Path("/sys/fs/cgroup/memory.max")


def memory() -> int:
    """Bytes of memory of this machine, or of the container if that has less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no limit is "max"
        found = min(found, int(CGROUP.read_text()))
    return found


def bytes_text(size: float) -> str:
    """A number of bytes, to three digits.

    Example:
      >>> bytes_text(999), bytes_text(3.2e9), bytes_text(4.56e16)
      ('999 B', '3.2 GB', '45.6 PB')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    for unit in units[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {units[-1]}"


def most(needed: Callable[[int], float], limit: float) -> int:
    """The greatest whole number `x ≥ 0` with ``needed(x) ≤ limit``, for a `needed` that grows.

    Example:
      >>> most(lambda x: 3 * x * x, 75)
      5
    """
    low, high = 0, 1
    while needed(high) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= limit else (low, middle)
    return low


def fitting(name: str, value: int, needed: Callable[[int], int], what: str) -> None:
    """Refuse a number for which more memory is needed than there is.

    Args:
      name: of the setting or key.
      needed: bytes for each value of it; growing.
      what: what takes them.

    Raises:
      InputError: with the estimate, the memory, and the greatest number that fits.
    """
    limit = memory()
    if (size := needed(value)) > limit:
        found = f"{value}, which takes {bytes_text(size)} ({what})"
        raise InputError(name, found, f"at most {most(needed, limit)}, what {bytes_text(limit)} of memory hold")


def require_room(path: Path, rows: int, each: int, remedy: str) -> None:
    """Refuse rows, of a log or of one stage, that are more than this machine's memory takes together, with `each` in bytes."""
    if rows * each > (limit := memory()):
        found = f"about {rows:.3g} rows, which take {bytes_text(rows * each)}"
        raise InputError(
            str(path), found, f"at most {limit // each:.3g} rows in {bytes_text(limit)} of memory: {remedy}"
        )
