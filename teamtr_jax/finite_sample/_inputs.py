"""What the functions of this package refuse."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.validation import InputError, pair, real_number

__all__ = ["numbers", "level", "path_range"]


def numbers(name: str, array: ArrayLike) -> NDArray[np.float64]:
    """An array of float64; refused where it is none."""
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(name, f"a {type(array).__name__}", "an array of real numbers") from error


def level(alpha: float) -> float:
    """`alpha`; refused unless it is a probability strictly between 0 and 1."""
    expected = "a probability of error strictly between 0 and 1"
    return real_number("alpha", alpha, above=0.0, below=1.0, expected=expected)


def path_range(ratio_range: tuple[float, float], messages: int) -> tuple[float, float]:
    """The least and the largest weight of a path of so many messages."""
    expected = "(low, high) with 0 ≤ low ≤ 1 ≤ high"
    low, high = pair("ratio_range", ratio_range, expected)
    if not 0 <= low <= 1 <= high:
        raise InputError("ratio_range", ratio_range, expected)
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float64(low) ** messages), float(np.float64(high) ** messages)
