"""What every step reports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax.divergences import expected, kl_current_to_new, kl_new_to_current
from teamtr_jax.types import Estimate, StepInfo
from teamtr_jax.validation import InputError, at_least, concrete, finite, probability_rows, real_number, require_float64

__all__ = ["UNITS", "require_estimate", "require_tables", "require_setting", "require_shape", "require_rows",
           "require_weight", "support_of", "deficits", "rounded", "gains", "error_of", "step_info"]  # fmt: skip

UNITS = 8.0
"""Units in the last place by which numbers of unknown origin are taken to be off."""


def require_setting(
    name: str, value: object, low: float = 0.0, *, above: float | None = None, below: float | None = None
) -> None:
    """Refuse a setting, or an entry of an array of them, that is NaN or out of its range. What is traced passes.

    Infinities inside the range are settings like others.

    Raises:
      InputError: names the setting.
    """
    entries = [value]
    if getattr(value, "size", 1) == 0:
        raise InputError(name, "an empty array", "a number")
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        found = concrete(value)
        entries = [] if found is None else found.reshape(-1).tolist()
    for entry in entries:
        real_number(name, entry, low, above=above, below=below, infinite=True)


def require_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape, which might broadcast."""
    if array.shape != shape:
        raise InputError(name, f"shape {list(array.shape)}", f"shape {list(shape)}")


def require_rows(name: str, policy: Array, weight: Array) -> None:
    """Refuse rows of positive weight that are no probabilities."""
    if len(policy.shape) != 2:
        raise InputError(name, f"shape {list(policy.shape)}", "shape [R, A]")
    rows, counted = concrete(policy), concrete(weight)
    if rows is not None and counted is not None:
        probability_rows(name, np.where(counted[:, None] > 0, rows, np.eye(1, rows.shape[1])))


def require_weight(weight: Array, policy: Array) -> None:
    """Refuse weights that are negative, not finite or not those of the rows."""
    require_shape("weight", weight, policy.shape[:1])
    if (found := concrete(weight)) is not None:
        at_least("weight", finite("weight", found), expected="weights ≥ 0")


def require_tables(current: Array, weight: Array, **tables: Array | None) -> None:
    """Refuse what no step can use: dtypes, shapes, rows that are no probabilities, negative weights, numbers that are not finite.

    Only what a step reads is looked at: rows of positive weight, and there the support of the policy. What is traced passes.

    Raises:
      InputError: names the array.
    """
    given = {name: table for name, table in tables.items() if table is not None}
    require_float64(current=current, weight=weight, **given)
    require_weight(weight, current)
    require_rows("current", current, weight)
    rows, policy = concrete(weight), concrete(current)
    for name, table in given.items():
        require_shape(name, table, current.shape)
        if rows is not None and policy is not None and (entries := concrete(table)) is not None:
            finite(name, np.where((rows > 0)[:, None] & (policy > 0), entries, 0.0))


def require_estimate(current: Array, estimate: Estimate) -> None:
    """Refuse anything but float64 tables of one shape that hold what a step can use."""
    require_tables(current, **estimate._asdict())


def support_of(current: Array, weight: Array) -> Array:
    """Entries that a step may move: `π > 0` in rows of positive weight."""
    return (current > 0) & (weight > 0)[..., None]


def deficits(current: Array, advantage: Array, weight: Array, error: Array | None = None) -> Array:
    """`max_b A(s,b) − A(s,a) ≥ 0` over the support, zero elsewhere: `A` up to a constant per row.

    With an `error`, differences that rounding can have made are ties: `max_b A(s,b) − A(s,a) ≤ error(s,a) + error(s,b)` is zero.
    """
    support = support_of(current, weight)
    inside = jnp.where(support, advantage, -jnp.inf)
    best = inside.max(-1, keepdims=True)
    deficit = jnp.where(support, best - advantage, 0.0)
    if error is None:
        return deficit
    of_best = jnp.take_along_axis(error, inside.argmax(-1, keepdims=True), -1)
    return jnp.where(deficit <= error + of_best, 0.0, deficit)


def rounded(current: Array, weight: Array, *tables: Array) -> Array:
    """`UNITS` in the last place of the largest entry of each row of the support: the error of tables that came without one."""
    support = support_of(current, weight)
    sizes = [jnp.where(support, abs(table), 0.0).max(-1, keepdims=True) for table in tables]
    return UNITS * jnp.finfo(current.dtype).eps / 2 * jnp.broadcast_to(jnp.stack(sizes).max(0), current.shape)


def gains(current: Array, table: Array, weight: Array, error: Array | None = None) -> Array:
    """`deficits` beyond rounding: all that a step may follow. A row of zeros has nothing to gain and stays."""
    return deficits(current, table, weight, rounded(current, weight, table) if error is None else error)


def error_of(current: Array, estimate: Estimate) -> Array:
    """The error of an estimate's advantage. Without one it was formed from values as large as `value`."""
    given = estimate.advantage_error
    return rounded(current, estimate.weight, estimate.advantage, estimate.value) if given is None else given


def step_info(
    current: Array,
    new: Array,
    advantage: Array,
    weight: Array,
    multiplier: Array | float = 0.0,
    memory: Array | float = 0.0,
    objective: Array | None = None,
) -> StepInfo:
    """The books of a step, from the tables themselves. Without an `objective` it is the gain."""
    gain = (weight * ((current - new) * deficits(current, advantage, weight)).sum(-1)).sum()
    return StepInfo(
        kl=expected(weight, kl_current_to_new(current, new)),
        kl_new_to_current=expected(weight, kl_new_to_current(current, new)),
        gain=gain,
        objective=gain if objective is None else objective,
        multiplier=jnp.asarray(multiplier, gain.dtype),
        memory=jnp.asarray(memory, gain.dtype),
    )
