"""S10: the χ² that a step spends along a path, and what a budget of it buys.

With `χ²(s) = Σ_a (π'−π)²/π` and `X` the greatest `Σ_t χ²(s_t)` along an episode that has positive probability under
`π`, the gap of the step is at most `sd_π(R)·√G(X)`, `G(x) = e^x − 1 − x` (theory/derivations/s10.md).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from teamtr_jax.divergences import chi_square_new_to_current, chi_square_terms
from teamtr_jax.types import Hybrids, Team, require_joint, require_one
from teamtr_jax.validation import InputError, positive, require_float64
from teamtr_jax.values import return_deviation
from teamtr_jax.visits import visits

__all__ = ["excess", "root_excess", "root_increment", "along_paths", "path_chi_square", "path_sums", "within_budget"]

AT_ONCE = 2**18
"""Numbers in the policies of all hybrids up to which they are looked at side by side."""

_TERMS = 14
_SMALL = 0.5


def _series(x: Array) -> tuple[Array, Array]:
    """Where `0 ≤ x < ½`, and `Σ_k x^k/(k+2)! = (e^x − 1 − x)/x²` there."""
    small = x < _SMALL
    y, out = jnp.where(small, x, 0.0), jnp.zeros_like(x)
    for k in reversed(range(_TERMS)):
        out = out * y + 1 / math.factorial(k + 2)
    return small, out


def excess(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`G(x) = e^x − 1 − x` of `x ≥ 0`, to a few units: a series where subtraction would cancel.

    Example:
      >>> print(excess(jnp.array([0.0, 1e-9, 1.0, jnp.inf])))
      [0.00000000e+00 5.00000000e-19 7.18281828e-01            inf]
    """
    small, series = _series(x)
    y = jnp.where(small | jnp.isinf(x), 0.0, x)
    return jnp.where(small, x * x * series, jnp.where(jnp.isinf(x), jnp.inf, jnp.expm1(y) - y))


LARGE = 600.0
"""Beyond it `1 + x` is less than 10⁻²⁵⁷ of `e^x`, which soon has no number."""


def root_excess(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`√(e^x − 1 − x)`, `x/√2` to first order; `e^{x/2}` where the square has no number."""
    small, series = _series(x)
    middle = jnp.sqrt(excess(jnp.where(small | (x > LARGE), 1.0, x)))
    return jnp.where(x > LARGE, jnp.exp(x / 2), jnp.where(small, jnp.where(small, x, 0.0) * jnp.sqrt(series), middle))


def root_increment(earlier: Float[Array, "*n"], own: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`√(G(a+b) − G(a))`, as `√(G(b) + (e^a−1)(e^b−1))`; infinite where one of the two is."""
    infinite = jnp.isinf(earlier) | jnp.isinf(own)
    large = ~infinite & (earlier + own > LARGE) & (own > 0)  # e^{a+b}(1 − e^{−b}), where the square may have no number
    far = jnp.exp(jnp.where(large, earlier + own, 0.0) / 2) * jnp.sqrt(-jnp.expm1(-jnp.where(large, own, 0.0)))
    a, b = (jnp.where(infinite | large, 0.0, x) for x in (earlier, own))
    grown = jnp.where((a > 0) & (b > 0), jnp.expm1(a) * jnp.expm1(jnp.where(a > 0, b, 0.0)), 0.0)
    square = excess(b) + grown
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return jnp.where(infinite, jnp.inf, jnp.where(large, far, root))


def along_paths(
    team: Team, policy: Float[Array, "S A"], m: Float[Array, " S"], x: Float[Array, "k S"]
) -> Float[Array, " k"]:
    """Greatest `Σ_t x(s_t)` along an episode of positive probability under `policy`; infinite where a visited state is.

    Args:
      m: visits of the policy, zero exactly where it never comes.
      x: numbers from 0 to ∞.
    """
    met = m > 0
    infinite = (met & jnp.isinf(x)).any(-1)
    sums = team.dynamics.greatest_sum(policy, jnp.where(met & jnp.isfinite(x), x, 0.0))
    return jnp.where(infinite, jnp.inf, jnp.where(team.initial > 0, sums, 0.0).max(-1))


def path_sums(
    team: Team, h: Hybrids, m: Float[Array, "m S"], v: Float[Array, "m S"], reused: Float[Array, "n S A"]
) -> dict[str, Float[Array, " n"]]:
    """The fields of S10 in the `Layers` of an episodic stage.

    Args:
      m: visits of the hybrids.
      v: their values.
      reused: `π^{⟨i⟩} − π̂⁰`.
    """
    first, updates = h.policies[0], len(h.steps)
    fresh = chi_square_terms(h.policies[:-1], h.steps).sum(-1)

    def of(hybrid: tuple[Array, ...]) -> tuple[Array, Array]:
        policy, m, v, x = hybrid
        return return_deviation(team, policy, m, v), along_paths(team, policy, m, x[None])[0]

    hybrids = h.policies[:-1], m[:-1], v[:-1], fresh
    deviation, path = jax.vmap(of)(hybrids) if h.policies.size <= AT_ONCE else lax.map(of, hybrids)
    steps = (reused,) if team.factors is None else (reused, h.steps)  # turn-taking: they are the same
    own = [chi_square_terms(jnp.broadcast_to(first, step.shape), step).sum(-1) for step in steps]
    sums = along_paths(team, first, m[0], jnp.concatenate([y for x in own for y in (jnp.cumsum(x, 0), x)]))
    sums = sums.reshape(len(own), 2, updates)
    return {
        "return_deviation": deviation,
        "chi_square": path,
        "chi_square_reused": sums[0, 0],
        "chi_square_reused_own": sums[0, 1],
        "chi_square_cached": sums[-1, 0],
        "chi_square_cached_own": sums[-1, 1],
    }


def path_chi_square(team: Team, current: Float[Array, "S A"], new: Float[Array, "S A"]) -> Float[Array, ""]:
    """`X` of S10: greatest sum of `χ²(new ‖ current)` along an episode that has positive probability under `current`.

    Raises:
      InputError: a discounted team, a table that is not float64 or no policy (of a product team: over joint actions).
    """
    require_float64(current=current, new=new)
    require_one(team, "team")
    require_joint(team, current=current, new=new)
    if team.dynamics.horizon is None:
        raise InputError("team", "a discounted team", "an episodic team, whose paths end")
    return _path_chi_square(team, current, new)


@jax.jit
def _path_chi_square(team: Team, current: Array, new: Array) -> Array:
    chi = chi_square_new_to_current(current, new)
    return along_paths(team, current, visits(team, current), chi[None])[0]


def within_budget(
    team: Team, current: Float[Array, "S A"], new: Float[Array, "S A"], budget: float
) -> tuple[Float[Array, "S A"], Float[Array, ""]]:
    """The longest part of a step that spends no more than `budget` along any path: `π + θ(π'−π)`, `θ = min(1, √(X̄/X))`.

    Every `χ²(s)` is multiplied by `θ²`, hence so is the greatest sum along a path: one scale for all rows is exact.

    Args:
      budget: `X̄ > 0`.

    Returns:
      The shortened policy and `θ`; where `new` takes up an action on a reachable state `θ` is 0.

    Raises:
      InputError: as `path_chi_square`; a budget that is not positive.
    """
    positive("budget", budget, infinite=True)
    spent = path_chi_square(team, current, new)
    theta = jnp.where(spent > budget, jnp.sqrt(budget / jnp.where(spent > 0, spent, 1.0)), 1.0)
    return current + theta * (new - current), theta
