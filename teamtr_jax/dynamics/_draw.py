"""The inverse of a distribution function, for actions and for transitions."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

__all__ = ["inverse_cdf"]


def inverse_cdf(weight: Float[Array, "*batch K"], uniform: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
    """The least `k` with `weight_k > 0` and `Σ_{j≤k} weight_j > u·Σ_j weight_j`; −1 where all weights are zero.

    Given `u` uniform on [0, 1) it has the distribution `weight/Σ weight`. Never a `k` of weight zero, however sums are rounded.

    Example:
      >>> print(inverse_cdf(jnp.array([[0.25, 0.0, 0.75]] * 3), jnp.array([0.0, 0.24, 0.25])))
      [0 0 2]
    """
    below, used, k = jnp.cumsum(weight, -1), weight > 0, jnp.arange(weight.shape[-1])
    beyond = (below > uniform[..., None] * below[..., -1:]) & used
    first = jnp.where(beyond, k, weight.shape[-1]).min(-1)
    last = jnp.where(used, k, -1).max(-1)
    return jnp.minimum(first, last)
