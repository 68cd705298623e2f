"""S10: no turn spends more than its share of a χ² budget."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from teamtr_jax.divergences import chi_square_terms
from teamtr_jax.trust_region._info import require_estimate, require_setting, step_info
from teamtr_jax.types import Estimate, Step, StepInfo
from teamtr_jax.validation import whole_number

__all__ = ["chi_square_budget"]


def chi_square_budget(step: Step, budget: float | Array, turns: int) -> Step:
    """Another step, shortened row by row until `χ²(new‖current)(s) ≤ X/τ`: then no episode of `τ` turns spends more than `X`.

    The direction is that of `step`; `π + θ_s(π'−π)` with the largest `θ_s ≤ 1` has `θ_s²` times its χ². It holds on every path,
    visited or not, and asks nothing of the world but the number of turns; where paths are unlike, a common scale
    (`teamtr_jax.chi_square.within_budget`) may leave more of the step.

    Args:
      step: what gives the direction, for instance `kl_constrained(radius)`.
      budget: `X ≥ 0` of this one update; the budgets of a stage's updates add up.
      turns: `τ`, the most turns of the agent in an episode (in a product team its length).

    Raises:
      InputError: a budget that is negative or not a number, fewer turns than one.
    """
    require_setting("budget", budget)
    whole_number("turns", turns, 1)
    inner = step if isinstance(step, Partial) else Partial(step)
    return Partial(_budgeted, inner, budget, float(turns))


def _budgeted(
    inner: Step, budget: ArrayLike, turns: ArrayLike, current: Array, estimate: Estimate, memory: Array
) -> tuple[Array, StepInfo]:
    require_estimate(current, estimate)
    whole, info = inner(current, estimate, memory)
    spent = chi_square_terms(current, whole - current).sum(-1)
    share = jnp.asarray(budget, current.dtype) / turns
    over = spent > share
    theta = jnp.where(over, jnp.sqrt(share / jnp.where(over, spent, 1.0)), 1.0)[:, None]
    new = jnp.where(over[:, None], current + theta * (whole - current), whole)
    return new, step_info(current, new, estimate.advantage, estimate.weight, info.multiplier, info.memory)
