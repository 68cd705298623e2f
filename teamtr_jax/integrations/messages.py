"""Which of the tokens of a response belong to one message."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["message_numbers"]


def message_numbers(wrote: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N, T] the number of the message in its response: a new one begins where the policy writes after somebody else did.

    Args:
      wrote: [N, T] tokens that the policy wrote; a tool's answer and padding are not.

    Example:
      >>> message_numbers(np.array([[True, True, False, True, False, False]]))
      array([[0, 0, 0, 1, 1, 1]])
    """
    begins = wrote & ~np.pad(wrote, ((0, 0), (1, 0)))[:, :-1]
    return np.maximum(begins.cumsum(1) - 1, 0)
