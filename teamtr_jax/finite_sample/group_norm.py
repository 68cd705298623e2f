"""PE.10: what normalising advantages in a group does to the prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.finite_sample._inputs import numbers
from teamtr_jax.validation import whole_number, within

__all__ = ["group_normalised_weight"]


def group_normalised_weight(success: ArrayLike, group: int) -> NDArray[np.float64]:
    """PE.10: `w_G(p) = E√(K(G−K)) / (G p(1−p))`, `K ~ Bin(G, p)`: by how much normalising a group reweights a prompt.

    The surrogate formed with `(R−R̄)/s` has the mean `w_G(p)·L` on a prompt whose binary outcome succeeds with probability `p`.
    Its sign says nothing about `J` once the weights of prompts differ: `G ≥ 4`.

    Args:
      success: `p` in (0,1), any shape.
      group: `G ≥ 2` rollouts of one prompt.

    Raises:
      InputError: if `success` or `group` is out of range.

    Example:
      >>> print(group_normalised_weight([0.5, 0.1], 2), group_normalised_weight([0.5, 0.1], 8).round(3))
      [1. 1.] [1.856 2.328]
    """
    from scipy.stats import binom  # here: it takes longer to import than a log to monitor

    p = numbers("success", success)
    within("success", p, above=0.0, below=1.0, expected="numbers in (0, 1)")
    whole_number("group", group, 2, expected="at least 2")
    k = np.arange(group + 1)
    chance = binom.pmf(k, group, p[..., None])
    return np.asarray((chance * np.sqrt(k * (group - k))).sum(-1) / (group * p * (1 - p)))
