"""Samplers of somebody else's: an inference engine writes the messages, and says with which probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from teamtr_jax.validation import InputError

__all__ = ["ExternalSampler", "Written", "ends", "write_externally"]

ExternalSampler = Callable[
    [list[list[int]], int, tuple[tuple[int, ...], ...], float, int],
    tuple[Sequence[Sequence[int]], Sequence[Sequence[float]]],
]
"""``(prompts, cap, stops, temperature, seed) → (ids, log-probabilities)``, one list for each prompt.

Prompts are ids of the agent's own tokenizer. A message ends with the first stop that it holds, stop included, or has `cap` ids.
Log-probabilities are those of `softmax(logits/temperature)` over the whole vocabulary, nothing cut.
"""

MOST = 1e-5
"""By how much a log-probability may exceed 0, by rounding; it is booked as 0 then."""


class Written(NamedTuple):
    """Messages on the host."""

    ids: Int[ndarray, "B L"]  #: 0 after the end
    logp: Float[ndarray, "B L"]  #: 0 after the end
    length: Int[ndarray, " B"]
    stopped: Bool[ndarray, " B"]

    @classmethod
    def empty(cls, rows: int, cap: int) -> Written:
        """Nothing yet."""
        return cls(
            np.zeros((rows, cap), np.int32),
            np.zeros((rows, cap), np.float32),
            np.zeros(rows, np.int32),
            np.zeros(rows, bool),
        )


def ends(ids: Sequence[int], stops: Sequence[Sequence[int]]) -> int | None:
    """After how many ids the first stop is complete; `None` without one.

    Example:
      >>> ends([5, 3, 4, 9], [[3, 4], [9]]), ends([5, 3], [[3, 4]])
      (3, None)
    """
    found = list(ids)
    for count in range(1, len(found) + 1):
        if any(found[max(count - len(stop), 0) : count] == list(stop) for stop in stops):
            return count
    return None


def write_externally(
    sampler: ExternalSampler,
    prompts: list[list[int]],
    *,
    cap: int,
    stops: Sequence[Sequence[int]],
    temperature: float,
    seed: int,
    vocabulary: int,
    name: str = "external sampler",
) -> Written:
    """Messages of an external sampler, each of them looked at.

    With it trainer and sampler are two policies (S12): what it booked is μ, and no log-probability is ever made up.

    Args:
      vocabulary: ids are below it.
      name: what errors call it.

    Raises:
      InputError: not one message for each prompt, an id that is not in the vocabulary, a log-probability that is missing, not
        finite or above 0, a message that goes on after a stop, or ends before the cap without one.

    Example:
      >>> import math
      >>> def coin(prompts, cap, stops, temperature, seed):  # says 1 until a fair coin says 0, which is a stop
      ...     rng = np.random.default_rng(seed)
      ...     heads = [min(int(rng.geometric(0.5)), cap) for _ in prompts]
      ...     ids = [[1] * (n - 1) + [0] if n < cap else [1] * n for n in heads]
      ...     return ids, [[math.log(0.5)] * len(row) for row in ids]
      >>> out = write_externally(coin, [[7, 8], [9]], cap=4, stops=((0,),), temperature=1.0, seed=1, vocabulary=10)
      >>> out.ids.tolist(), out.length.tolist(), np.exp(out.logp[0, :2]).tolist()
      ([[1, 0, 0, 0], [1, 1, 1, 1]], [2, 4], [0.5, 0.5])
    """
    stops = tuple(tuple(stop) for stop in stops)
    found = sampler([list(prompt) for prompt in prompts], cap, stops, temperature, seed)
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputError(name, type(found).__name__, "a pair: ids and log-probabilities")
    ids, logps = found
    for what, rows in (("ids", ids), ("log-probabilities", logps)):
        if rows is None or len(rows) != len(prompts):
            number = "none" if rows is None else f"{len(rows)} lists"
            raise InputError(f"{name}: {what}", number, f"{len(prompts)}, one for each prompt")
    out = Written.empty(len(prompts), cap)
    for row, (message, logp) in enumerate(zip(ids, logps, strict=True)):
        where = f"{name}: row {row}"
        own = _ids(where, message, vocabulary)
        booked = _log_probs(where, logp, len(own))
        end = ends(own, stops)
        if len(own) != (cap if end is None else end) or len(own) > cap:
            says = f"{cap} ids, the cap, or fewer that end with their first stop"
            raise InputError(where, f"{len(own)} ids, the first stop after {end}", says)
        out.ids[row, : len(own)], out.logp[row, : len(own)] = own, booked
        out.length[row], out.stopped[row] = len(own), end is not None
    return out


def _ids(where: str, message: Any, vocabulary: int) -> list[int]:
    own = np.asarray(message)
    if own.ndim != 1 or not np.issubdtype(own.dtype, np.integer):
        raise InputError(f"{where}: ids", repr(message), "a list of integers, at least one")
    if (bad := (own < 0) | (own >= vocabulary)).any():
        raise InputError(f"{where}: ids", own[bad][0], f"ids from 0 to {vocabulary - 1}")
    return own.tolist()


def _log_probs(where: str, logp: Any, count: int) -> list[float]:
    if logp is None or len(logp) != count or any(x is None for x in logp):
        number = "none" if logp is None else sum(x is not None for x in logp)
        raise InputError(
            f"{where}: log-probabilities", number, f"{count}, one for each id: one that is missing is not 0"
        )
    booked = np.asarray(logp, np.float64)
    if (bad := ~np.isfinite(booked) | (booked > MOST)).any():
        raise InputError(f"{where}: log-probabilities", booked[bad][0], "finite numbers, at most 0")
    return np.minimum(booked, 0).tolist()
