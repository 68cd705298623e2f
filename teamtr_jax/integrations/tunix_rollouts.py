"""What tunix's engine returned, as arrays: completions with their end, masks by length, the engine's own numbers. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.integrations.twice import LEAST
from teamtr_jax.validation import InputError

__all__ = ["Batch", "completed", "engine_numbers", "twice_in_stream"]


class Batch(NamedTuple):
    """Rollouts of one call of the engine: N completions of at most T tokens, prompts padded on the left to P tokens."""

    prompts: NDArray[np.int32]
    """[N, P]"""
    completions: NDArray[np.int32]
    """[N, T], filled with the pad id behind the end"""
    mask: NDArray[np.bool_]
    """[N, T], the tokens that were written"""
    stops: NDArray[np.int32]
    """[N], place of the token that ended the completion, −1 where the limit did"""
    engine: NDArray[np.float32]
    """[N, T], the engine's own log-probabilities, NaN where it gave none"""
    reward: NDArray[np.float64]
    """[N], NaN until it is known"""


def completed(
    tokens: Sequence[ArrayLike], width: int, stops: Sequence[int], pad: int, left_out: bool
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int32]]:
    """Completions as a padded array, their mask by length, and where each ended.

    A mask of "not the pad id" loses a pad that the model wrote, and the end where pad and end of sequence are one id.
    tunix's own sampler leaves the end of sequence out of what it returns: a completion shorter than the limit ended
    with it, so it is put back.

    Args:
      tokens: N sequences of ids.
      width: T, the limit of tokens.
      stops: ids that end a completion. Where there are several, which one was written is not known if it was left out:
        the first stands for all.
      pad: fills the rest.
      left_out: the engine leaves the stop out.

    Returns:
      ids [N, T]; mask [N, T]; place of the stop [N], −1 where there is none.

    Raises:
      InputError: if a completion is longer than the limit.

    Example:
      >>> ids, mask, ends = completed([[5, 0], [5, 6, 7]], 3, [2], pad=0, left_out=True)
      >>> print(ids.tolist(), mask.sum(1), ends)
      [[5, 0, 2], [5, 6, 7]] [3 3] [ 2 -1]
    """
    ids = np.full((len(tokens), width), pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    ends = np.full(len(tokens), -1, np.int32)
    for row, written in enumerate(tokens):
        found = np.asarray(written, np.int32).reshape(-1)
        if found.size > width:
            raise InputError(f"tokens, row {row}", f"{found.size} tokens", f"at most max_tokens_to_generate = {width}")
        stopped = found.size > 0 and int(found[-1]) in stops
        if left_out and not stopped and found.size < width:
            found, stopped = np.append(found, np.int32(stops[0])), True
        ids[row, : found.size] = found
        mask[row, : found.size] = True
        if stopped:
            ends[row] = found.size - 1
    return ids, mask, ends


def engine_numbers(logprobs: Sequence[ArrayLike] | None, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The engine's log-probabilities of the tokens that were written, [N, T]; NaN where it gave none.

    Example:
      >>> print(engine_numbers([[-1.0]], np.array([[True, True, False]])))
      [[-1. nan nan]]
    """
    out = np.full(mask.shape, np.nan, np.float32)
    for row, given in enumerate(logprobs or ()):
        numbers = np.asarray(given, np.float32).reshape(-1)[: mask.shape[1]]
        out[row, : numbers.size] = numbers
    return np.where(mask, out, np.float32(np.nan))


def twice_in_stream(first: int, rollouts: int, group: int, share: float) -> NDArray[np.bool_]:
    """Which rollouts are scored a second time, as they come: one in every 1/share, and the first of each of four groups.

    Args:
      first: number of the first of them within the update.
      rollouts: how many come now; group by group.

    Example:
      >>> np.flatnonzero(twice_in_stream(0, 48, 8, 1 / 12)), np.flatnonzero(twice_in_stream(48, 16, 8, 1 / 12))
      (array([ 0,  8, 12, 16, 24, 36]), array([ 0, 12]))
    """
    number = first + np.arange(rollouts)
    return (number % max(round(1 / share), 1) == 0) | ((number % group == 0) & (number < LEAST * group))
