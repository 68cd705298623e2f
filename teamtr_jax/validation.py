"""One place where bad input becomes a named error.

Two kinds of check. `require_float64` looks at dtypes only, works under `jit`, and guards every public function of the
exact core. The others read values, run on the host on NumPy arrays, and guard the edges: constructors and stage files.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["InputError", "ROW_TOLERANCE", "require_float64", "probability_rows", "finite", "permutation", "integers",
           "discount_factor", "shaped"]  # fmt: skip

ROW_TOLERANCE = 1e-9
"""Rows of probabilities sum to one within this; they are never renormalised."""

X64_REMEDY = "call jax.config.update('jax_enable_x64', True) before making arrays, or set JAX_ENABLE_X64=1"


class InputError(ValueError):
    """Bad input: names the argument, what was found and what was expected, on one line."""

    def __init__(self, name: str, found: object, expected: str):
        self.name, self.found, self.expected = name, str(found), expected
        super().__init__(f"{name}: found {found}, expected {expected}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """For pickle and copy: an error of a worker process reaches the one that waits for it."""
        return type(self), (self.name, self.found, self.expected)


def require_float64(**arrays: object) -> None:
    """Refuse arrays of another dtype than float64, and float64 arrays outside the x64 setting.

    Outside it a float64 array silently becomes float32 in ``x + 1``, so the setting is looked at too.

    Raises:
      InputError: names the argument and the remedy.
    """
    for name, leaf in arrays.items():
        dtype = getattr(leaf, "dtype", None)
        if dtype != np.float64:
            raise InputError(name, f"dtype {dtype}", f"float64 ({X64_REMEDY})")
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise InputError(next(iter(arrays)), "float64 with jax_enable_x64 off", f"the setting on ({X64_REMEDY})")


def shaped(name: str, array: NDArray[np.generic], *shapes: Sequence[int | str]) -> dict[str, int]:
    """Check `array.shape` against alternatives such as ``("S", "A", "S")``; equal letters mean equal sizes.

    Returns the sizes that the letters of the first matching alternative took.

    Raises:
      InputError: if no alternative fits.
    """
    for shape in shapes:
        sizes: dict[str, int] = {}
        if len(shape) == array.ndim and all(
            size == want if isinstance(want, int) else sizes.setdefault(want, size) == size
            for size, want in zip(array.shape, shape, strict=True)
        ):
            return sizes
    wanted = " or ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)
    raise InputError(name, f"shape {list(array.shape)}", f"shape {wanted}")


def _first(array: NDArray[np.generic], bad: NDArray[np.bool_]) -> str:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{array[index]} at {list(index)}"


def real_table(name: str, array: ArrayLike) -> NDArray[np.float64]:
    """`array` as it is if it is a float64 table, an error if it is of any other dtype."""
    out = np.asarray(array)
    if out.dtype != np.float64:
        raise InputError(name, f"dtype {out.dtype}", "dtype float64")
    return out


def finite(name: str, array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Refuse NaN and infinities."""
    if (bad := ~np.isfinite(array)).any():
        raise InputError(name, _first(array, bad), "finite numbers")
    return array


def probability_rows(name: str, array: NDArray[np.float64], sums: bool = True) -> NDArray[np.float64]:
    """Refuse NaN, negative entries and (if `sums`) last-axis sums further than `ROW_TOLERANCE` from one."""
    if (bad := ~np.isfinite(array)).any():
        raise InputError(name, _first(array, bad), "finite probabilities")
    if (bad := array < 0).any():
        raise InputError(name, _first(array, bad), "probabilities ≥ 0")
    if sums:
        total = array.sum(-1)
        if (bad := abs(total - 1) > ROW_TOLERANCE).any():
            index = [int(i) for i in np.argwhere(bad)[0]] if total.ndim else []
            found = float(total[tuple(index)])
            raise InputError(name, f"row {index} that sums to {found!r}", f"rows that sum to 1 within {ROW_TOLERANCE}")
    return array


def integers(name: str, array: ArrayLike, low: int, high: int) -> NDArray[np.int64]:
    """`array` as int64 with every entry in ``[low, high)``."""
    out = np.asarray(array)
    if not np.issubdtype(out.dtype, np.integer):
        raise InputError(name, f"dtype {out.dtype}", "an integer dtype")
    if (bad := (out < low) | (out >= high)).any():
        raise InputError(name, _first(out, bad), f"integers from {low} to {high - 1}")
    return out.astype(np.int64)


def permutation(name: str, array: ArrayLike, n: int) -> NDArray[np.int64]:
    """`array` as a permutation of ``0 … n−1``."""
    out = np.asarray(array)
    if not np.issubdtype(out.dtype, np.integer) or out.shape != (n,) or sorted(out.tolist()) != list(range(n)):
        raise InputError(name, str(out.tolist()), f"a permutation of 0 … {n - 1}")
    return out.astype(np.int64)


def discount_factor(name: str, value: ArrayLike) -> float:
    """`value` as a discount in [0, 1)."""
    out = np.asarray(value)
    if out.ndim or (out.dtype != np.float64 and not np.issubdtype(out.dtype, np.integer)):
        raise InputError(name, f"shape {list(out.shape)}, dtype {out.dtype}", "one float64 in [0, 1)")
    if not 0 <= float(out) < 1:
        raise InputError(name, float(out), "a discount in [0, 1)")
    return float(out)
