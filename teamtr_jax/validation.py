"""One place where bad input becomes a named error.

Two kinds of check. `require_float64` looks at dtypes only, works under `jit`, and guards every public function of the
exact core. The others read values, run on the host on NumPy arrays, and guard the edges: constructors, public functions,
settings and files. Values that are traced are not there yet and pass (`concrete`); `unchecked` switches the reading of values
off in a loop.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["InputError", "ROW_TOLERANCE", "shown", "unchecked", "concrete", "require_float64", "probability_rows", "finite",
           "permutation", "integers", "discount_factor", "shaped", "whole_number", "real_number", "positive", "within",
           "at_least", "pair", "one_of"]  # fmt: skip

ROW_TOLERANCE = 1e-9
"""Rows of probabilities sum to one within this; they are never renormalised."""

LONGEST = 300
"""Characters of a text from outside that a message shows."""

X64_REMEDY = "call jax.config.update('jax_enable_x64', True) before making arrays, or set JAX_ENABLE_X64=1"


def shown(text: object, longest: int = LONGEST) -> str:
    r"""A text from outside as it may be shown: control characters and the like as escapes, the middle of a long one left out.

    Example:
      >>> print(shown("name\x1b[2J\n"), shown("a" * 50, 9))
      name\x1b[2J\n aaaa…aaaa
    """
    out = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
    return out if len(out) <= longest else out[: longest // 2] + "…" + out[len(out) - (longest - 1) // 2 :]


class InputError(ValueError):
    """Bad input: names the argument, what was found and what was expected, on one line.

    `name`, `found` and `expected` may hold text of a file or of a command line: it is made fit to be shown here (`shown`).
    """

    def __init__(self, name: str, found: object, expected: str):
        self.name, self.found, self.expected = shown(name), shown(found), shown(expected, 2 * LONGEST)
        super().__init__(f"{self.name}: found {self.found}, expected {self.expected}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """For pickle and copy: an error of a worker process reaches the one that waits for it."""
        return type(self), (self.name, self.found, self.expected)


_checking: ContextVar[bool] = ContextVar("teamtr_jax_checking", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside this block the values of arrays are not read: for a loop over input that was checked before it.

    dtypes and shapes are looked at all the same, and so are settings. Only this thread and context are affected.

    Example:
      >>> from teamtr_jax.dynamics import Dense
      >>> with unchecked():
      ...     world = Dense(jnp.full((1, 1, 1), 0.5), jnp.asarray(0.9))  # a row that does not sum to one, unseen
    """
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)


def concrete(array: object) -> NDArray[Any] | None:
    """The values of `array` on the host; `None` where there are none to read.

    That is: a value that `jit`, `vmap` or `grad` traces, the shape of an array, an array of which this process holds a part,
    the place-holder of a pytree transformation, or anything inside `unchecked`.
    """
    if not _checking.get():
        return None
    if isinstance(array, np.ndarray | np.generic):
        return np.asarray(array)
    from jax import Array  # here: what checks a file or a setting needs none
    from jax.core import Tracer

    if isinstance(array, Tracer) or not isinstance(array, Array):
        return None
    return np.asarray(array) if array.is_fully_addressable and not array.is_deleted() else None


def require_float64(**arrays: object) -> None:
    """Refuse arrays of another dtype than float64, and float64 arrays outside the x64 setting.

    Outside it a float64 array silently becomes float32 in ``x + 1``, so the setting is looked at too.

    Raises:
      InputError: names the argument and the remedy.
    """
    import jax

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


def within(
    name: str,
    values: NDArray[Any] | float | None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
    expected: str,
) -> None:
    """Refuse a number, or an entry of an array on the host, that is NaN, outside ``[low, high]``, not above or not below.

    Args:
      values: `None` where there are none to read (`concrete`): that passes.

    Raises:
      InputError: names the array and the first such entry.
    """
    if values is None:
        return
    values = np.asarray(values)
    good = (values >= low) & (values <= high)
    for limit, side in ((above, np.greater), (below, np.less)):
        if limit is not None:
            good &= side(values, limit)
    if not good.all():
        raise InputError(name, values[~good][0], expected)


def at_least(name: str, values: NDArray[Any] | float | None, low: float = 0.0, expected: str = "numbers ≥ 0") -> None:
    """`within`, without an upper limit."""
    within(name, values, low, expected=expected)


def positive(name: str, value: object, expected: str = "a positive number", *, infinite: bool = False) -> float:
    """`value` as a finite number above 0; an infinite one too if that will do.

    Raises:
      InputError: names the setting and its value.
    """
    return real_number(name, value, above=0.0, infinite=infinite, expected=expected)


def whole_number(name: str, value: object, low: int, high: int | None = None, expected: str = "") -> int:
    """`value` as an int in ``[low, high]``; floats and truth values are none.

    Args:
      expected: what the message says instead of the range.

    Raises:
      InputError: names the setting, its value and the range.
    """
    expected = expected or (f"an integer, at least {low}" if high is None else f"an integer from {low} to {high}")
    try:
        out = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise InputError(name, repr(value), expected) from None
    if isinstance(value, bool | np.bool_) or out < low or (high is not None and out > high):
        raise InputError(name, value, expected)
    return out


def real_number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
    infinite: bool = False,
    expected: str = "",
) -> float:
    """`value` as a finite number in ``[low, high]``, more than `above` and less than `below`.

    Args:
      infinite: whether an infinity inside the range will do.
      expected: what the message says instead of the range.

    Raises:
      InputError: names the setting, its value and the range.

    Example:
      >>> real_number("radius", -1.0, above=0.0)
      Traceback (most recent call last):
      ...
      teamtr_jax.validation.InputError: radius: found -1.0, expected a finite number greater than 0
    """
    limits = [
        (low, -math.inf, "at least"),
        (above, None, "greater than"),
        (high, math.inf, "at most"),
        (below, None, "less than"),
    ]
    words = [f"{text} {limit:g}" for limit, none, text in limits if limit is not None and limit != none]
    expected = expected or " ".join(["a number" if infinite else "a finite number", " and ".join(words)]).rstrip()
    try:
        out = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        raise InputError(name, repr(value), expected) from None
    inside = low <= out <= high and (above is None or out > above) and (below is None or out < below)
    if isinstance(value, str | bool | np.bool_) or not inside or not (infinite or math.isfinite(out)):
        raise InputError(name, value, expected)
    return out


def pair(name: str, value: object, expected: str) -> tuple[float, float]:
    """`value` as two numbers; infinite ones will do.

    Raises:
      InputError: names the setting and what it is.
    """
    if not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(name, value, expected)
    first, second = (real_number(name, edge, infinite=True) for edge in value)
    return first, second


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is none of the `choices`.

    Raises:
      InputError: names the setting, its value and the choices.
    """
    if value not in choices:
        raise InputError(name, repr(value), " or ".join(map(str, choices)))
