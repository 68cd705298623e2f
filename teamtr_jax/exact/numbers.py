"""Numbers without rounding: rationals (`fmpq`), balls (`arb`) where a logarithm or a root has entered, and `None` for +∞.

What is rational stays rational: an exact zero is never multiplied into a ball, and a minimum with a rational side keeps that
side where it is certainly smaller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flint
from flint import arb, fmpq

__all__ = [
    "Number",
    "Pair",
    "PRECISION",
    "Row",
    "before",
    "capped",
    "comparable",
    "distance",
    "dot",
    "larger",
    "precisely",
    "rational",
    "root",
    "running",
    "smaller",
    "split",
    "spread",
    "times",
    "total",
    "verdict",
]

Number = Any  # fmpq, arb or None
Pair = tuple[Number, Number]  # measured, bound
Row = list[fmpq]

PRECISION = 256
"""Bits of a ball."""
ZERO, ONE = fmpq(0), fmpq(1)

_LOCK = threading.Lock()  # the precision of python-flint belongs to the process


@contextmanager
def precisely() -> Iterator[None]:
    """Balls of `PRECISION` bits, in one thread at a time."""
    with _LOCK, flint.ctx.workprec(PRECISION):
        yield


def rational(x: float) -> fmpq:
    """The float as the rational it is."""
    return fmpq(*float(x).as_integer_ratio())


def _zero(x: Number) -> bool:
    return isinstance(x, fmpq) and not x


def times(*xs: Number) -> Number:
    """The product, with `0·∞ = 0`."""
    out, infinite = ONE, False
    for x in xs:
        if x is None:
            infinite = True
        elif isinstance(x, fmpq) and not x:
            return ZERO
        else:
            out = out * x
    return None if infinite else out


def total(xs: Iterable[Number]) -> Number:
    """The sum; ∞ if one of them is."""
    out: Number = ZERO
    for x in xs:
        if x is None:
            return None
        out = out + x
    return out


def root(x: Number) -> Number:
    """`√x`, exactly zero at zero."""
    return x if x is None or _zero(x) else arb(x).sqrt()


def smaller(*xs: Number) -> Number:
    """The minimum."""
    out: Number = None
    for x in xs:
        if out is None or (x is not None and x <= out):
            out = x
        elif x is not None and not out <= x:
            out = arb(out).min(arb(x))
    return out


def larger(x: Number, y: Number) -> Number:
    """The maximum."""
    if x is None or y is None:
        return None
    return x if y <= x else y if x <= y else arb(x).max(arb(y))


def capped(x: Number) -> Number:
    """`min(1, x)`."""
    return smaller(x, ONE)


def distance(x: Sequence[fmpq], y: Sequence[fmpq]) -> fmpq:
    """`TV(x/Σx, y/Σy)`."""
    a, b = sum(x, ZERO), sum(y, ZERO)
    return sum((abs(p / a - q / b) for p, q in zip(x, y, strict=True) if p or q), ZERO) / 2


def verdict(measured: Number, bound: Number) -> str:
    """`exact` or `enclosed` if `measured ≤ bound` holds for certain, `violated`, or `open` (overlapping balls)."""
    if bound is None:
        return "exact"
    if measured <= bound:
        return "exact" if isinstance(measured, fmpq) and isinstance(bound, fmpq) else "enclosed"
    return "violated" if measured > bound else "open"


def before(xs: Sequence[Number]) -> list[Number]:
    """`Σ_{u<t} x_u`."""
    out: list[Number] = [ZERO]
    for x in xs[:-1]:
        out.append(total((out[-1], x)))
    return out


def running(rows: Sequence[Sequence[Number]], i: int) -> list[Number]:
    """`Σ_{k≤i} rows[k]`, entry by entry."""
    return [total(column) for column in zip(*rows[: i + 1], strict=True)]


def split(xs: Sequence[Number], ys: Sequence[Number]) -> Number:
    """`Σ x y`, with `0·∞ = 0`."""
    return total(times(x, y) for x, y in zip(xs, ys, strict=True))


def dot(x: Sequence[Any], y: Sequence[Any]) -> Any:
    """`Σ x y`."""
    return sum((a * b for a, b in zip(x, y, strict=True) if a and b), ZERO)


def spread(xs: Sequence[fmpq]) -> fmpq:
    """`max − min`."""
    return max(xs) - min(xs)


def comparable(measured: Number, bound: Number) -> Pair:
    """Two balls, where one side is one: to compare a rational with a ball rounds it to the precision of the moment."""
    if isinstance(measured, arb) or isinstance(bound, arb):
        return arb(measured), None if bound is None else arb(bound)
    return measured, bound
