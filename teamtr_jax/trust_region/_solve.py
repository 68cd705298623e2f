"""The two families of policies that solve U1, and the root finder that puts them on the radius."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from teamtr_jax.divergences import kl_terms

__all__ = ["ratio_kl", "ratio_kl_reverse", "harmonic", "harmonic_slope", "tilted", "tilted_slope", "decreasing_root"]

ROUNDS = 100
TOLERANCE = 1e-13
LARGEST = 1e4  # e^−LARGEST is zero
INNER_ROUNDS = 60
INNER_TOLERANCE = 1e-9  # before the last of the quadratically convergent steps


def ratio_kl(share: Array, ratio: Array, change: Array) -> Array:
    """`Σ_a π(u − log ρ)` of each row, `ρ = π'/π = 1 + u`: KL(current‖new) without cancellation."""
    return (share * kl_terms(jnp.ones_like(ratio), ratio, change)).sum(-1)


def ratio_kl_reverse(share: Array, ratio: Array, change: Array) -> Array:
    """`Σ_a π(ρ log ρ − u)` of each row: KL(new‖current) without cancellation."""
    return (share * kl_terms(ratio, jnp.ones_like(ratio), -change)).sum(-1)


def harmonic(share: Array, deficit: Array, multiplier: Array) -> tuple[Array, Array]:
    """`ρ = 1/(z + e)`, `e = (A* − A)/λ`, with the root `z = (ν − A*)/λ` of `Σ_a πρ = Σ_a π` of each row; and `ρ − 1`.

    Newton's method on the weighted harmonic mean `h(z) = Σπ/Σ_a π/(z+e)`, concave and increasing, from a point on its left:
    the root for two values of `e`, zero and the mean of the others, is one by Jensen's inequality. `z` and `c = 1 − z` are
    kept side by side, so that small steps (`c → 0`) and rare best actions (`z → 0`) keep all their digits.

    Args:
      share: `π` on the support, zero elsewhere; rows that are zero give `ρ = 1`.
      deficit: `A* − A ≥ 0`.
      multiplier: `λ > 0`, broadcast to rows.
    """
    total = share.sum(-1)
    share = share / jnp.where(total > 0, total, 1.0)[..., None]
    e = deficit / multiplier[..., None]
    best = jnp.where(deficit == 0, share, 0.0).sum(-1)
    rest = jnp.where(deficit == 0, 0.0, share)
    others = rest.sum(-1)
    moving = (others > 0) & (best > 0)
    mean = (rest * e).sum(-1) / jnp.where(moving, others, 1.0)
    best = jnp.where(moving, best, 1.0)
    size = jnp.maximum(mean, 1.0)
    root = size * jnp.sqrt(((1 - mean) / size) ** 2 + 4 * best * (mean / size) / size)
    z = jnp.where(mean <= 1, (1 - mean + root) / 2, 2 * best * mean / (root + mean - 1))
    c = 2 * mean * jnp.where(moving, others, 0.0) / (1 + mean + root)

    def ratios(z: Array, c: Array) -> tuple[Array, Array]:
        ratio = 1 / (z[..., None] + e)
        return ratio, (c[..., None] - e) * ratio

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, count, going = state
        return going & (count < INNER_ROUNDS)

    def newton(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        z, c, count, _ = state
        ratio, change = ratios(z, c)
        moved = share * change
        over, square = moved.sum(-1), (share * ratio * ratio).sum(-1)
        step = jnp.where(moving, (1 + over) * over / jnp.where(moving, square, 1.0), 0.0)
        going = moving & (abs(over) > INNER_TOLERANCE * abs(moved).sum(-1))
        return z + step, c - step, count + 1, going.any()

    z, c, _, _ = lax.while_loop(unfinished, newton, (z, c, jnp.asarray(0), jnp.asarray(True)))
    ratio, change = ratios(z, c)
    still = ~moving[..., None]
    return jnp.where(still, 1.0, ratio), jnp.where(still, 0.0, change)


def harmonic_slope(share: Array, deficit: Array, ratio: Array, change: Array) -> Array:
    """`dKL(current‖new)/d log λ = −χ²/(1 + χ²)`, `χ² = Σπ(ρ−1)²`, along `harmonic`."""
    del deficit, ratio
    square = (share * change * change).sum(-1)
    return -square / (1 + square)


def tilted(share: Array, deficit: Array, multiplier: Array) -> tuple[Array, Array]:
    """`ρ = e^{−(A*−A)/λ}/Z`, and `ρ − 1`; greedy for `λ = 0`."""
    total = share.sum(-1)
    share = share / jnp.where(total > 0, total, 1.0)[..., None]
    positive = multiplier > 0
    e = deficit / jnp.where(positive, multiplier, 1.0)[..., None]
    e = jnp.where(deficit > 0, jnp.where(positive[..., None], jnp.minimum(e, LARGEST), LARGEST), 0.0)
    lost = -(share * jnp.expm1(-e)).sum(-1)  # 1 − Z
    z = jnp.where(total > 0, (share * jnp.exp(-e)).sum(-1), 1.0)
    log_z = jnp.where(lost < 0.5, jnp.log1p(-jnp.minimum(lost, 0.5)), jnp.log(z))
    return jnp.exp(-e) / z[..., None], jnp.expm1(-e - log_z[..., None])


def tilted_slope(share: Array, deficit: Array, ratio: Array, change: Array, multiplier: Array) -> Array:
    """`dKL(new‖current)/d log λ = −Var_{π'}(A/λ)` along `tilted`."""
    del change
    e = jnp.minimum(deficit / multiplier[..., None], LARGEST)
    new = share * ratio
    mean = (new * e).sum(-1, keepdims=True)
    return -(new * (e - mean) ** 2).sum(-1)


class _Bracket(NamedTuple):
    """The loop of `decreasing_root`, entry by entry."""

    x: Array
    below: Array  #: a point with a value above the target
    above: Array  #: a point with a value below it
    last: Array  #: the last Newton step's distance from the target; infinite after a bisection
    rounds: Array
    going: Array


def decreasing_root(
    f: Callable[[Array], tuple[Array, Array]],
    start: Array,
    low: Array,
    high: Array,
    target: Array,
    ceiling: Array | float = jnp.inf,
    active: Array | bool = True,
) -> Array:
    """`x` in `[low, high]` with `f(x) = target` to a relative `TOLERANCE`; `low` where `f(low) ≤ target`.

    Newton's method on a function of `f` that is nearly linear in `x`, kept inside a bracket that bisection closes where
    Newton's step leaves it or gains little. Without a ceiling `log(e^f − 1)`: a divergence is `∝ e^{−2x}` where it is small and
    linear where it is large. With one, `log f − log(ceiling − f)`.

    Args:
      f: value and slope at `x`, entry by entry.
      active: entries to solve; the others are returned as `start`.
    """
    bounded = jnp.isfinite(ceiling)
    top = jnp.where(bounded, ceiling, 1.0)

    def straight(y: Array) -> tuple[Array, Array]:
        """`h(y)` and `h'(y)`."""
        room = jnp.maximum(top - y, 0.0)
        free = -jnp.expm1(-y)
        value = jnp.where(bounded, jnp.log(y) - jnp.log(room), y + jnp.log(free))
        return value, jnp.where(bounded, top / (y * room), 1 / free)

    aim, _ = straight(target)

    def unfinished(state: _Bracket) -> Array:
        return state.going.any() & (state.rounds < ROUNDS)

    def improve(state: _Bracket) -> _Bracket:
        x, below, above, last, rounds, going = state
        value, slope = f(x)
        outside = value > target
        below, above = jnp.where(outside, x, below), jnp.where(outside, above, x)
        level, rise = straight(value)
        gap = level - aim
        newton = jnp.maximum(x - gap / (rise * slope), low)
        good = (newton > below) & (newton < above) & (abs(gap) <= 0.5 * last)  # false for NaN
        going = going & (abs(value - target) > TOLERANCE * target) & ((x > low) | outside)
        going &= above - below > 4 * jnp.finfo(x.dtype).eps * jnp.maximum(abs(x), 1.0)
        following = jnp.where(good, newton, jnp.maximum((below + above) / 2, low))
        x, last = jnp.where(going, following, x), jnp.where(good, abs(gap), jnp.inf)
        return _Bracket(x, below, above, last, rounds + 1, going)

    start, low, high, going = jnp.broadcast_arrays(start, low, high, active)
    state = _Bracket(start, low - 1, high + 1, jnp.full_like(start, jnp.inf), jnp.asarray(0), going)
    return lax.while_loop(unfinished, improve, state).x
