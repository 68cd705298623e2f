"""S13: the exact constant of the discounted S7 as the root of a Bellman recursion, on a grid, in floats: a number, not a proof.

Rewards in any tree world may follow the path, so the largest gap less `cK` of all worlds and policies needs of the past only
`ℓ = Λ` and `z = Λ − 1 − Σu`. With `u = π'/π − 1`, `E u = −o`, o what the new policy opens,

    W(ℓ, z) = sup_u E[(1−γ)z₁⁺ + γW(ℓ₁, z₁) + c log(1+u)] + o(γℓ + (1−γ)(ℓ−1)⁺),   ℓ₁ = ℓ(1+u),  z₁ = z + (ℓ−1)u,

which is `inf_{p ≥ γℓ+(1−γ)(ℓ−1)⁺} sup_u {… − pu}`; c is valid exactly if `W(1, 0) = 0`. W is convex. Moves are between the values
of ℓ on the grid only, which makes W smaller; linear interpolation in z makes it larger.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

__all__ = ["recursion_constant", "value_at_start"]

RATIOS, GAINS = 24, 32
"""Grid points on either side of ℓ = 1 and of z = 0."""
POSITIVE = 1e-5
"""W(1, 0) above it counts as positive."""


def _axis(points: int, end: float, bend: float) -> NDArray[np.float64]:
    return end * np.sinh(bend * np.arange(-points, points + 1) / points) / np.sinh(bend)


ELL, ZED = np.exp(_axis(RATIOS, 3.0, 4.0)), _axis(GAINS, 60.0, 9.0)


@jax.jit
def value_at_start(gamma: Array, c: Array, start: Array, rounds: Array) -> tuple[Array, Array]:
    """`W(1, 0)` and W ``[ℓ, z]`` after so many steps of the recursion from `start`, a lower bound of W (no more moves: `z⁺`)."""
    ell, zed = jnp.asarray(ELL), jnp.asarray(ZED)
    move = ell[None, :] / ell[:, None] - 1  # [ℓ, ℓ₁]
    arrive = zed[None, :, None] + ((ell - 1)[:, None] * move)[:, None]  # [ℓ, z, ℓ₁]
    place = jnp.clip(jnp.searchsorted(zed, arrive) - 1, 0, zed.size - 2)
    share = jnp.clip((arrive - zed[place]) / (zed[place + 1] - zed[place]), 0.0, 1.0)
    paid = (1 - gamma) * jnp.maximum(arrive, 0.0) + gamma * jnp.maximum(arrive - zed[-1], 0.0)
    paid = paid + c * jnp.log1p(move)[:, None]
    column = jnp.broadcast_to(jnp.arange(ell.size), place.shape)
    least = (gamma * ell + (1 - gamma) * jnp.maximum(ell - 1, 0.0))[:, None] * jnp.ones_like(zed)

    def advance(_: Array, w: Array) -> Array:
        value = paid + gamma * ((1 - share) * w[column, place] + share * w[column, place + 1])

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            p = (low + high) / 2
            best = jnp.argmax(value - p[..., None] * move[:, None], -1)
            right = jnp.take_along_axis(move, best, 1) > 0
            return jnp.where(right, p, low), jnp.where(right, high, p)

        low, high = lax.fori_loop(0, 26, halve, (least, least + 50 * ell[:, None] + 5))
        return jnp.minimum(*((value - p[..., None] * move[:, None]).max(-1) for p in (low, high)))

    w = lax.fori_loop(0, rounds, advance, start)
    return w[RATIOS, GAINS], w


def recursion_constant(gamma: float, low: float, halvings: int = 6) -> float:
    """The least c with `W(1, 0) ≤ POSITIVE`, by bisection on [low, 1], low a constant that is too small."""
    start = jnp.broadcast_to(jnp.maximum(jnp.asarray(ZED), 0.0), (ELL.size, ZED.size))
    high, rounds = 1.0, jnp.asarray(int(np.ceil(np.log(1e-5) / np.log(max(gamma, 0.1)))))
    for _ in range(halvings):
        c = (low + high) / 2
        value, w = value_at_start(jnp.asarray(gamma), jnp.asarray(c), start, rounds)
        if value > POSITIVE:
            low = c
        else:
            high, start = c, w  # W falls as c rises
    return high
