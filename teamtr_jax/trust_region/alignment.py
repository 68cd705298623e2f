"""U3: Stage-0 alignment of a replaced agent: the newcomer projected onto a KL ball around the outgoing agent."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from teamtr_jax.divergences import expected, kl_current_to_new, kl_new_to_current, kl_terms
from teamtr_jax.trust_region._info import require_rows, require_setting, require_shape, require_weight
from teamtr_jax.trust_region._solve import decreasing_root, ratio_kl_reverse, tilted, tilted_slope
from teamtr_jax.trust_region.constrained import require_direction
from teamtr_jax.validation import require_float64

__all__ = ["Alignment", "align_to_ball"]

LEAST = -700.0  # log-odds of the least weight of the outgoing agent that is looked at


class Alignment(NamedTuple):
    """What the projection did. The outgoing agent is `current`, the aligned one `new`."""

    kl: Float[Array, ""]  #: `Σ_s w KL(outgoing‖aligned)`
    kl_new_to_current: Float[Array, ""]  #: `Σ_s w KL(aligned‖outgoing)`
    distance: Float[Array, ""]  #: the minimum: `Σ_s w KL(newcomer‖aligned)`, or `Σ_s w KL(aligned‖newcomer)`
    mixture: Float[
        Array, " R"
    ]  #: `t(s)`, weight of the outgoing agent; 0: the newcomer, on the shared support if geometric
    feasible: Bool[
        Array, " R"
    ]  #: whether the ball holds a policy at a finite distance; if not, the outgoing rows are returned


def align_to_ball(
    outgoing: Float[Array, "R A"],
    newcomer: Float[Array, "R A"],
    weight: Float[Array, " R"],
    radius: Float[Array, ""] | Float[Array, " R"],
    direction: str = "current_to_new",
    per_state: bool = False,
) -> tuple[Float[Array, "R A"], Alignment]:
    """The policy nearest to the newcomer in a KL ball around the outgoing agent (U3, theory/derivations/u3.md).

    ``"current_to_new"``: `min Σ w KL(newcomer‖π')` subject to `Σ w KL(outgoing‖π') ≤ δ`: the arithmetic mixture
    `(1−t)·newcomer + t·outgoing`. This KL is the δ of the certificates; there is a solution for every newcomer.

    ``"new_to_current"``: `min Σ w KL(π'‖newcomer)` subject to `Σ w KL(π'‖outgoing) ≤ δ`: the geometric mixture
    `∝ newcomer^{1−t} outgoing^t` on the shared support. Its KL is at least `−log outgoing(shared support)`. Where that exceeds
    the radius, every policy in the ball is at an infinite distance.

    One `t` for all rows, or one for each. Rows with `w = 0` are not part of either sum: they get the common `t`; with
    `per_state` the bound holds in every row, whatever its weight.

    Args:
      weight: `w ≥ 0`: visits of the probe contexts.
      radius: `δ ≥ 0` in nats, one for each row if `per_state` (or one for all of them).
      direction: which KL is bounded, from the outgoing agent (`current`) to the aligned one (`new`) or back.

    Raises:
      InputError: if an array is not float64, holds what is none of these, or `direction` is not one of the two.

    Example:
      >>> out, new = jnp.array([[0.5, 0.5]]), jnp.array([[0.9, 0.1]])
      >>> aligned, info = align_to_ball(out, new, jnp.ones(1), jnp.array(0.1))
      >>> print(aligned.round(4), round(float(info.kl), 12))
      [[0.7129 0.2871]] 0.1
    """
    require_float64(outgoing=outgoing, newcomer=newcomer, weight=weight, radius=radius)
    require_direction(direction)
    require_setting("radius", radius)
    for name, rows in (("outgoing", outgoing), ("newcomer", newcomer)):
        require_rows(name, rows, jnp.ones(outgoing.shape[:1]))
    require_shape("newcomer", newcomer, outgoing.shape)
    require_weight(weight, outgoing)
    rows = weight.shape

    def pooled(x: Array) -> Array:
        return x if per_state else expected(weight, x)[None]

    delta = jnp.broadcast_to(radius, rows if per_state else (1,))
    mass = jnp.ones_like(delta) if per_state else jnp.where(weight.sum() > 0, weight.sum(), 1.0)[None]
    solve = _arithmetic if direction == "current_to_new" else _geometric
    aligned, mixture, feasible = solve(outgoing, newcomer, delta, mass, pooled)
    aligned = jnp.where(feasible[:, None], aligned, outgoing)
    new_first = direction == "new_to_current"
    return aligned, Alignment(
        kl=expected(weight, kl_current_to_new(outgoing, aligned)),
        kl_new_to_current=expected(weight, kl_new_to_current(outgoing, aligned)),
        distance=expected(weight, (kl_new_to_current if new_first else kl_current_to_new)(newcomer, aligned)),
        mixture=jnp.where(feasible, mixture, 1.0),
        feasible=feasible,
    )


def _arithmetic(outgoing: Array, newcomer: Array, delta: Array, mass: Array, pooled) -> tuple[Array, Array, Array]:
    rows = outgoing.shape[:1]
    apart = newcomer - outgoing
    used = outgoing > 0
    added = jnp.where(used, 0.0, newcomer).sum(-1)
    active = (pooled(kl_current_to_new(outgoing, newcomer)) > delta) & (delta > 0)

    def parts(odds: Array) -> tuple[Array, Array, Array, Array]:
        odds = jnp.broadcast_to(odds, rows)
        keep, move = jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds)
        mixed = move[:, None] * newcomer + keep[:, None] * outgoing
        return keep, move, mixed, move[:, None] * apart

    def evaluate(odds: Array) -> tuple[Array, Array]:
        keep, move, mixed, step = parts(odds)
        value = kl_terms(outgoing, mixed, step).sum(-1)
        square = jnp.where(used, apart * (apart / jnp.where(used, mixed, 1.0)), 0.0).sum(-1)
        slope = -keep * move * (move * square + added)
        return pooled(value) / mass, pooled(slope) / mass

    bound = jnp.where(active, delta, mass) / mass
    high = jnp.maximum(-jnp.log(bound), LEAST)  # KL(p‖(1−t)q + tp) ≤ −log t ≤ (1−t)/t
    found = decreasing_root(evaluate, jnp.minimum(0.0, high), jnp.full_like(high, LEAST), high, bound, active=active)
    keep, _, mixed, _ = parts(found)
    solved = jnp.broadcast_to(active, rows)
    stay = jnp.broadcast_to(delta <= 0, rows)
    aligned = jnp.where(stay[:, None], outgoing, jnp.where(solved[:, None], mixed, newcomer))
    return aligned, jnp.where(stay, 1.0, jnp.where(solved, keep, 0.0)), jnp.ones(rows, bool)


def _geometric(outgoing: Array, newcomer: Array, delta: Array, mass: Array, pooled) -> tuple[Array, Array, Array]:
    rows = outgoing.shape[:1]
    shared = (outgoing > 0) & (newcomer > 0)
    share = jnp.where(shared, outgoing, 0.0)
    dropped = jnp.where(shared, 0.0, outgoing).sum(-1)
    some = shared.any(-1)
    tilt = jnp.log(jnp.where(shared, newcomer, 1.0)) - jnp.log(jnp.where(shared, outgoing, 1.0))
    deficit = jnp.where(shared, jnp.where(shared, tilt, -jnp.inf).max(-1, keepdims=True) - tilt, 0.0)
    total = jnp.where(some, share.sum(-1), 1.0)
    base = share / total[:, None]
    # KL(π'‖outgoing) = KL(π'‖base) − log outgoing(shared)
    lost = jnp.where(some, jnp.where(dropped < 0.5, -jnp.log1p(-jnp.minimum(dropped, 0.5)), -jnp.log(total)), jnp.inf)
    room = delta - pooled(lost)
    possible = room >= 0
    active = room > 0

    def mixed(log_multiplier: Array) -> tuple[Array, Array, Array]:
        multiplier = jnp.broadcast_to(jnp.exp(log_multiplier), rows)
        return multiplier, *tilted(share, deficit, multiplier)

    def evaluate(log_multiplier: Array) -> tuple[Array, Array]:
        multiplier, ratio, change = mixed(log_multiplier)
        value = pooled(ratio_kl_reverse(base, ratio, change)) / mass
        return value, pooled(tilted_slope(base, deficit, ratio, change, multiplier)) / mass

    mean = (base * deficit).sum(-1)
    spread = pooled((base * (deficit - mean[:, None]) ** 2).sum(-1)) / mass
    bound = jnp.where(active, room, mass) / mass
    low = jnp.zeros_like(bound)
    high = jnp.maximum(jnp.log(pooled(mean) / mass / bound), 0.0)  # λKL ≤ Σ base·deficit
    start = jnp.clip(0.5 * jnp.log(spread / (2 * jnp.expm1(jnp.minimum(bound, 700.0)))), low, high)
    found = decreasing_root(evaluate, start, low, high, bound, active=active)
    found = jnp.where(active, found, jnp.inf)
    multiplier, ratio, _ = mixed(found)
    feasible = jnp.broadcast_to(possible, rows) & some
    return base * ratio, 1 - 1 / multiplier, feasible
