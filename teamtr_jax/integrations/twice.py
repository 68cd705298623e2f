"""Which rollouts of an update are scored a second time, for the floor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHARE", "LEAST", "scored_twice"]

SHARE = 1 / 8
"""Of the rollouts."""
LEAST = 4
"""Rollouts, where there are so many."""


def scored_twice(rollouts: int, share: float = SHARE) -> NDArray[np.int64]:
    """A share of rollouts that stand group by group, four at least, as far apart as can be.

    Prompts are the units of every interval: of whole groups a batch of eight prompts has one, and of one prompt alone nothing
    is known of how far its floor scatters.

    Example:
      >>> scored_twice(32), scored_twice(8), scored_twice(2)
      (array([ 0,  8, 16, 24]), array([0, 2, 4, 6]), array([0, 1]))
    """
    count = min(rollouts, max(math.ceil(share * rollouts), LEAST))
    return np.arange(count) * rollouts // max(count, 1)
