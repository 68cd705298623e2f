"""U1: the exact KL-constrained improvement step of one agent's table, in both directions of the KL."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Float

from teamtr_jax.divergences import expected
from teamtr_jax.trust_region._info import (
    error_of,
    gains,
    require_estimate,
    require_setting,
    require_tables,
    step_info,
    support_of,
)
from teamtr_jax.trust_region._solve import (
    decreasing_root,
    harmonic,
    harmonic_slope,
    ratio_kl,
    ratio_kl_reverse,
    tilted,
    tilted_slope,
)
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.validation import InputError, require_float64

__all__ = ["Direction", "require_direction", "kl_constrained", "kl_constrained_step"]

Direction = Literal["current_to_new", "new_to_current"]
DEEPEST = 600.0  # e^−600 is the smallest ratio π'/π that is looked at


def require_direction(direction: str) -> None:
    """Refuse a word that is no direction of the KL.

    Raises:
      InputError: names the two directions.
    """
    if direction not in get_args(Direction):
        raise InputError("direction", direction, "'current_to_new' or 'new_to_current'")


def kl_constrained_step(
    current: Float[Array, "S A"],
    advantage: Float[Array, "S A"],
    weight: Float[Array, " S"],
    radius: Float[Array, ""] | Float[Array, " S"],
    *,
    direction: str = "current_to_new",
    per_state: bool = False,
    error: Float[Array, "S A"] | None = None,
) -> tuple[Float[Array, "S A"], StepInfo]:
    """Maximise `Σ_s w(s) Σ_a π'(a|s) A(s,a)` subject to `Σ_s w(s) KL(s) ≤ δ`, or to `KL(s) ≤ δ(s)` at each state.

    `KL(π‖π')` (``"current_to_new"``): `π' = λπ/(ν_s − A)`, with `ν_s` the root of `Σ_a π' = 1`. `KL(π'‖π)`
    (``"new_to_current"``): `π' ∝ π e^{A/λ}`, and the greedy policy of the support where that is inside the radius. One `λ` for
    all states, or one for each. Rows with `w = 0` and entries with `π = 0` stay, and so do rows in which rounding can have made
    the differences of `A` (docs/rounding.md): scaled up to the radius, noise would take all of it.

    The constraint is met to a relative 1e-13 before `π'` is rounded. A radius beyond `log(π'/π) = −600` is not reached.

    Args:
      current: rows of the agent (other rows: give weight 0).
      advantage: `A(s,a)`; a constant per state changes nothing.
      weight: `w ≥ 0`, for instance the occupancy on the agent's states.
      radius: `δ` in nats, one for each row if `per_state` (or one for all of them).
      direction: which KL is bounded.
      per_state: whether the bound holds at each state of positive weight or for the weighted sum.
      error: bound on what rounding has done to `advantage`; default eight units in the last place of the largest of a row.

    Returns:
      `π'`, and a `StepInfo` with the multiplier `λ`; if `per_state`, `Σ_s w λ_s`, the slope of the gain in a common radius.

    Raises:
      InputError: if an array is not float64 or holds what is none of these, the radius is negative or not a number, or
        `direction` is not one of the two.
    """
    require_float64(advantage=advantage)
    require_tables(current, weight, advantage=advantage, error=error)
    require_direction(direction)
    require_setting("radius", radius)
    share = jnp.where(support_of(current, weight), current, 0.0)
    deficit = gains(current, advantage, weight, error)
    useful = deficit.max(-1) > 0
    found, active, greedy = _multipliers(share, deficit, weight, radius, direction=direction, per_state=per_state)
    multiplier = jnp.broadcast_to(jnp.where(greedy, 0.0, jnp.where(active, found, 1.0)), useful.shape)
    family = harmonic if direction == "current_to_new" else tilted
    ratio, _ = family(share, deficit, multiplier)
    moved = jnp.broadcast_to(active | greedy, useful.shape)
    new = jnp.where((moved & useful)[:, None], current * ratio, current)
    price = jnp.where(active, found, 0.0)
    return new, step_info(current, new, advantage, weight, (weight * price).sum() if per_state else price[0])


def _multipliers(
    share: Array, deficit: Array, weight: Array, radius: Array, *, direction: str, per_state: bool
) -> tuple[Array, Array, Array]:
    """`λ` on the radius, one for each row or for all of them; where there is one; where the greedy policy is inside it.

    Args:
      share: `π` on the support, zero elsewhere.
      deficit: `A* − A ≥ 0` there.
    """
    useful = deficit.max(-1) > 0
    own = jnp.where(useful, weight, 0.0)

    def pooled(x: Array) -> Array:
        return jnp.where(useful, x, 0.0) if per_state else expected(own, x)[None]

    def pooled_max(x: Array) -> Array:
        return x if per_state else x.max(keepdims=True)

    delta = jnp.broadcast_to(radius, useful.shape if per_state else (1,))
    mean = (share * deficit).sum(-1)
    spread = pooled((share * (deficit - (mean / jnp.where(useful, share.sum(-1), 1.0))[:, None]) ** 2).sum(-1))
    scale = pooled_max(jnp.where(useful, deficit.max(-1), 0.0))
    active = (scale > 0) & (delta > 0)
    bound = jnp.where(active, delta, 1.0)
    size = jnp.where(active, scale, 1.0)
    greedy = jnp.zeros_like(active)
    mass = jnp.where(active, 1.0 if per_state else own.sum()[None], 1.0)
    # λ·KL is at most the gain, which is at most Σwπ(A*−A)
    high = jnp.log(jnp.where(active, pooled(mean) / bound, 1.0))

    if direction == "current_to_new":
        ceiling = jnp.full_like(size, jnp.inf)
        smallest = jnp.finfo(size.dtype).tiny  # below it a multiplier is 0 on CPUs
        low = jnp.maximum(jnp.log(size) - DEEPEST, jnp.log(smallest))

        def evaluate(log_multiplier: Array) -> tuple[Array, Array]:
            ratio, change = harmonic(share, deficit, jnp.broadcast_to(jnp.exp(log_multiplier), useful.shape))
            slope = pooled(harmonic_slope(share, deficit, ratio, change))
            return pooled(ratio_kl(share, ratio, change)) / mass, slope / mass
    else:
        best = jnp.where(deficit == 0, share, 0.0).sum(-1)
        ceiling = pooled(-jnp.log(jnp.where(useful, best / share.sum(-1), 1.0)) * share.sum(-1)) / mass  # greedy
        least = jnp.where(deficit > 0, deficit, jnp.inf).min(-1)
        low = jnp.log(jnp.where(active, -pooled_max(-least), 1.0)) - jnp.log(800.0)

        def evaluate(log_multiplier: Array) -> tuple[Array, Array]:
            multiplier = jnp.broadcast_to(jnp.exp(log_multiplier), useful.shape)
            ratio, change = tilted(share, deficit, multiplier)
            slope = pooled(tilted_slope(share, deficit, ratio, change, multiplier))
            return pooled(ratio_kl_reverse(share, ratio, change)) / mass, slope / mass

        slack = ceiling <= bound / mass
        active, greedy = active & ~slack, active & slack
        ceiling = jnp.where(active, ceiling, jnp.inf)

    guess = 0.5 * jnp.log(jnp.where(active, spread, 1.0) / (2 * mass * jnp.expm1(jnp.minimum(bound / mass, 700.0))))
    start = jnp.clip(guess, low, jnp.maximum(high, low))
    found = jnp.exp(decreasing_root(evaluate, start, low, jnp.maximum(high, low), bound / mass, ceiling, active))
    return found, active, greedy


def kl_constrained(radius: float | Array, direction: str = "current_to_new", per_state: bool = False) -> Step:
    """The exact step of U1 with these settings; see `kl_constrained_step`.

    Raises:
      InputError: if `direction` is not one of the two, or the radius is negative or not a number.
    """
    require_direction(direction)
    require_setting("radius", radius)
    return Partial(_kl_constrained(direction, per_state), radius)


@cache
def _kl_constrained(direction: str, per_state: bool) -> Callable[..., tuple[Array, StepInfo]]:
    def step(radius: ArrayLike, current: Array, estimate: Estimate, memory: Array) -> tuple[Array, StepInfo]:
        require_estimate(current, estimate)
        delta = jnp.asarray(radius, current.dtype)
        options = {"direction": direction, "per_state": per_state, "error": error_of(current, estimate)}
        new, info = kl_constrained_step(current, estimate.advantage, estimate.weight, delta, **options)
        return new, info._replace(memory=memory)

    return step
