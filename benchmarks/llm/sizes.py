"""The sizes that both sides measure, and the loop in which a side answers the harness. Imports neither JAX nor PyTorch."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = [
    "CHARACTERS",
    "GROUP",
    "LEARNING_RATE",
    "SIZES",
    "SMALLEST",
    "Size",
    "answer",
    "clock",
    "requests",
    "serve",
    "size_of",
    "tell",
    "timed",
]

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCD"
"""What is written: with two special ids a vocabulary of 32."""

GROUP = 8  # rollouts of each prompt in a GRPO step
LEARNING_RATE = 1e-4


class Size(NamedTuple):
    """One network and one batch."""

    width: int
    layers: int
    heads: int
    batch: int
    new: int  #: tokens written in each row; nothing ends early
    prompt: int = 8

    @property
    def inner(self) -> int:
        """Hidden width of SwiGLU."""
        return -(-8 * self.width // 24) * 8

    @property
    def tokens(self) -> int:
        """New tokens of one batch."""
        return self.batch * self.new

    def flops(self, passes: float = 1.0) -> float:
        """Multiplications and additions of the matrix products for the new tokens: one pass forward, three with gradients."""
        length = self.prompt + (self.new + 1) / 2  # keys that a new token attends to, on average
        maps = 4 * self.width**2 + 3 * self.width * self.inner
        token = self.layers * (2 * maps + 4 * length * self.width) + 2 * 32 * self.width
        return passes * self.tokens * token


SIZES = {"large": Size(128, 4, 4, 256, 64), "small": Size(64, 2, 4, 64, 16)}
SMALLEST = Size(16, 1, 2, 8, 3)
"""Where nothing is timed."""


def size_of(name: str) -> Size:
    """A size by its name, or ``large`` at another width, a multiple of 32, with heads of 32.

    Raises:
      ValueError: neither.
    """
    if name in SIZES:
        return SIZES[name]
    if not (name.isdecimal() and int(name) and int(name) % 32 == 0):
        raise ValueError(f"{name!r}: {', '.join(SIZES)}, or a width that is a multiple of 32")
    return SIZES["large"]._replace(width=int(name), heads=int(name) // 32)


clock = time.process_time if os.environ.get("TEAMTR_BENCH_CLOCK") == "cpu" else time.perf_counter
"""Seconds that the threads of this process ran, where it has one core for itself in name only; else on the wall."""


def tell(message: dict) -> None:
    """One line of JSON to the harness."""
    print("@" + json.dumps(message), flush=True)


def requests() -> Iterable[str]:
    """Names of what the harness wants measured, until it closes the pipe."""
    for line in sys.stdin:
        yield line.strip()


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = clock()
    run()
    return clock() - start


def answer(name: str, seconds: float) -> None:
    """What one request took."""
    tell(dict(name=name, seconds=seconds))


def serve(contenders: dict[str, Callable[[], object]], about: dict) -> None:
    """Run everything once, say so, then measure on request."""
    first = {name: timed(run) for name, run in contenders.items()}
    tell(dict(ready=sorted(contenders), first=first, **about))
    for name in requests():
        answer(name, timed(contenders[name]))
