"""S3: how far a team has moved since its rollouts, from their KL. NumPy on the host, so that the monitor needs no jax."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.validation import InputError, real_number

__all__ = ["path_shift"]


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
