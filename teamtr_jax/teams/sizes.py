"""Sizes are computed before anything of that size is made: what a machine cannot hold is refused at once, with what would fit."""

from __future__ import annotations

import os
from collections.abc import Callable

from teamtr_jax.validation import InputError

__all__ = ["memory", "gigabytes", "fitting", "most"]


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gigabytes(size: int) -> str:
    """A number of bytes to read.

    Example:
      >>> gigabytes(25_200_000_000), gigabytes(8 * 10**18)
      ('25.2 GB', '8e+09 GB')
    """
    return f"{size / 1e9:.3g} GB"


def most(needed: Callable[[int], int], limit: int) -> int:
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
        found = f"{value}, which takes {gigabytes(size)} ({what})"
        raise InputError(name, found, f"at most {most(needed, limit)}, what {gigabytes(limit)} of memory hold")
