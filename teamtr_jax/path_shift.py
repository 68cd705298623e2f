"""S3, S2: how far a team has moved since its rollouts, from its KLs. NumPy on the host, so that a monitor needs no jax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.validation import InputError, real_number

__all__ = ["path_shift", "summed_shift", "Since"]


def path_shift(path_kl: ArrayLike, discount: float | None) -> NDArray[np.float64] | np.float64:
    """S3: `TV(d^{now}, d^{rollouts}) ≤ γ√(K/(2(1−γ)))`, `K = Σ_k δ_k` under the rollouts; episodic `√(K/2)`; at most 1.

    Args:
      path_kl: `K` in nats; episodic: summed over the episode.
      discount: `γ`, or `None` for an episodic team (where it bounds the TV of the laws of the transcript).

    Raises:
      InputError: a KL that is NaN, or `discount` is given and not in [0, 1).
    """
    if np.isnan(path_kl).any():
        raise InputError("path_kl", "nan", "a KL in nats")
    if discount is not None:
        real_number("discount", discount, 0.0, below=1.0)
    kl = np.maximum(np.asarray(path_kl, float), 0.0)
    shift = np.sqrt(kl / 2) if discount is None else discount * np.sqrt(kl / (2 * (1 - discount)))
    return np.minimum(shift, 1.0)


def summed_shift(kls: Iterable[float]) -> float:
    """S2, episodic: `Σ_k √(K_k/2)`, at most 1, where each `K_k` is under the team just before update k, not under the rollouts.

    These do not add up under the root; the triangle inequality holds, also where an agent moved twice.

    Example:
      >>> print(round(summed_shift([0.02, 0.02]), 3), round(float(path_shift(0.04, None)), 3))
      0.2 0.141
    """
    return min(float(sum(path_shift(kl, None) for kl in kls)), 1.0)


class Since(NamedTuple):
    """What a team has done since the rollouts in use were drawn: U2's books, for one team or, in front, a batch of them."""

    moved: NDArray[np.bool_]  #: [..., n], who was updated
    path_kl: NDArray[np.float64] | np.float64  #: [...], `K` of S3, as it adds up

    def moved_on(self, moves: NDArray[np.bool_], kl: Any) -> Since:
        """After an update that moves some agents, ``[..., n]``. The KL adds up over different agents only: else it is ∞.

        Example:
          >>> start = Since(np.zeros(2, bool), np.float64(0.0))
          >>> after = start.moved_on(np.array([True, False]), 0.02)
          >>> print(after.path_kl, after.moved_on(np.array([True, False]), 0.02).path_kl)
          0.02 inf
        """
        twice = (self.moved & moves).any(-1)
        return Since(self.moved | moves, np.where(twice, np.inf, self.path_kl + np.asarray(kl))[()])
