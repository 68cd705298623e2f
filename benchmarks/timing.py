"""Interleaved timing: A B C, B C A, … in one process, so that the noise of the machine hits every contender alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["CLOCKS", "Samples", "first_call", "interleaved", "quartiles", "ratio"]

Samples = dict[str, list[float]]
"""Seconds per call, one entry per round, for each contender."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds on the wall, or seconds that the threads of this process ran: on one core the same, but for other people's load."""

LONG = 0.2
"""A call of this many seconds needs neither repetition inside a round nor a warm-up before it."""


def first_call(run: Callable[[], object]) -> float:
    """Seconds of one call; for a jitted function that has not run yet this is compilation plus one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
    least: float = 5e-3,
    rounds: tuple[int, int] = (5, 41),
) -> Samples:
    """Time every contender once in each round, in rotating order.

    Args:
      contenders: functions that have run before and that return only when their result is ready.
      budget: seconds after which no further round starts, once the least number of rounds is done.
      clock: what a sample is measured with, one of `CLOCKS`.
      least: a sample repeats its call for at least this long, after one untimed call (so that caches and thread pools are
        in the state that a user's loop would leave them in); calls longer than `LONG` are single.
      rounds: least and greatest number of rounds.
    """
    names = list(contenders)
    once = {name: first_call(contenders[name]) for name in names}
    once |= {name: min(once[name], first_call(contenders[name])) for name in names if once[name] < LONG}
    repeats = {name: 1 if once[name] > least else math.ceil(least / once[name]) for name in names}
    samples: Samples = {name: [] for name in names}
    begin = time.perf_counter()
    for done in range(rounds[1]):
        if done >= rounds[0] and time.perf_counter() - begin > budget:
            break
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            run = contenders[name]
            if once[name] < LONG:
                run()
            start = clock()
            for _ in range(repeats[name]):
                run()
            samples[name].append((clock() - start) / repeats[name])
    return samples


def quartiles(x: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile; of a single number three times that."""
    if len(x) == 1:
        return [x[0]] * 3
    lower, middle, upper = statistics.quantiles(x, n=4, method="inclusive")
    return [lower, middle, upper]


def ratio(samples: Samples, above: str, below: str) -> list[float]:
    """Quartiles of `above/below`, formed within each round."""
    return quartiles([a / b for a, b in zip(samples[above], samples[below], strict=True)])
