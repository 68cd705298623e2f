"""Draw ids from logits, by the law that is booked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

__all__ = ["draw_token"]


def draw_token(
    logits: Float[Array, "*batch V"], key: Array, *, temperature: float | Array = 1.0
) -> tuple[Int[Array, "*batch"], Float[Array, "*batch"]]:
    """An id for each row from `softmax(logits / temperature)` in float32 at least, and its log-probability.

    `jax.random.categorical` makes its noise in the dtype of the logits: in bfloat16 there are 128 values of it, and what is drawn
    does not follow the law, while the log-probabilities that are booked look right.
    """
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    scaled = logits.astype(wide) / jnp.asarray(temperature, wide)
    drawn = jax.random.categorical(key, scaled)
    log_prob = jnp.take_along_axis(scaled, drawn[..., None], -1)[..., 0] - jax.nn.logsumexp(scaled, -1)
    return drawn, log_prob
