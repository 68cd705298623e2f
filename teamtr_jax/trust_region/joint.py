"""U1 for the whole team: how far each agent goes along its own direction, chosen together under one certificate of the stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from teamtr_jax.chi_square import root_excess
from teamtr_jax.divergences import kl_terms
from teamtr_jax.trust_region._info import require_setting, require_shape
from teamtr_jax.types import Team, require_one, require_policy
from teamtr_jax.validation import one_of, require_float64
from teamtr_jax.values import advantages, evaluate_policy, return_bounds, return_range
from teamtr_jax.visits import marginal_advantage, team_policy

__all__ = ["JointScales", "joint_scales", "budget_scales", "scaled"]

BISECTIONS = 60
LARGEST = 600.0  # `e^X` is finite, and no budget is best beyond


class JointScales(NamedTuple):
    """Scales `t_k` in [0, 1] of the agents' steps, and what the stage is certified to gain from rollouts of its start alone."""

    scales: Float[Array, " n"]  #: the best scale of each agent
    certificate: Float[Array, ""]  #: of the stage at these scales, ≥ 0
    common: Float[Array, ""]  #: the best scale if all agents have the same
    common_certificate: Float[Array, ""]
    full_certificate: Float[Array, ""]  #: at `t = 1` for all; may be negative, −∞ where an action is dropped


def scaled(policy: Array, target: Array, team: Team, scales: Float[Array, " n"]) -> Array:
    """Tables `π_k + t_k(π'_k − π_k)` of the team."""
    t = scales[:, None, None] if team.factors is not None else _of_states(team, scales)[:, None]
    return policy + t * (target - policy)


def _of_states(team: Team, scales: Array) -> Array:
    """The scale of the agent who acts, state by state; 0 where none does."""
    assert team.active is not None
    return jnp.where(team.active >= 0, scales[jnp.maximum(team.active, 0)], 0.0)


class _Terms(NamedTuple):
    """One agent: `C(t) = t·L − Σ_s m Σ_a k_t(s,a) c(s,a)`, `k_t` the terms of `KL(π‖π + t·step)`, c their price."""

    surrogate: Float[Array, ""]  #: `L`
    weight: Float[Array, "S A"]  #: `m·c`
    current: Float[Array, "S A"]
    step: Float[Array, "S A"]

    def certificate(self, t: Array) -> Array:
        terms = kl_terms(self.current, self.current + t * self.step, t * self.step)
        used = (self.weight > 0) & (terms > 0)
        return t * self.surrogate - jnp.where(used, self.weight * jnp.where(used, terms, 0.0), 0.0).sum()

    def slope(self, t: Array) -> Array:
        """`L − Σ m c p u² t/(1 + ut)`, `u = step/p`, and `m c·step` where `p = 0`: decreasing in t."""
        used = (self.weight > 0) & (self.step != 0)
        p = jnp.where(self.current > 0, self.current, 1.0)
        u = jnp.where(used & (self.current > 0), self.step / p, 0.0)
        cost = jnp.where(self.current > 0, p * u**2 * t / (1 + u * t), self.step)
        return self.surrogate - jnp.where(used, self.weight * jnp.where(used, cost, 0.0), 0.0).sum()


def _greatest(slope: Callable[[Array], Array]) -> Array:
    """Where a concave function on [0, 1] is greatest, from its decreasing slope; 0 where it never rises."""

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        rises = slope(middle) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    low, _ = lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros(()), jnp.ones(())))
    return jnp.where(slope(jnp.ones(())) >= 0, 1.0, jnp.where(slope(jnp.zeros(())) > 0, low, 0.0))


def _terms(team: Team, policy: Array, target: Array, form: str) -> _Terms:
    """Of every agent, on an axis of agents."""
    joint = team_policy(team, policy)
    _, v, m = evaluate_policy(team, joint)
    a = advantages(team, v)
    floor, _ = return_bounds(team)
    price = jnp.maximum(a + (v - floor)[:, None], 0.0) if form == "weighted" else jnp.full_like(a, return_range(team))
    step = target - policy

    def of(agent: Array) -> _Terms:
        if team.factors is None:
            own = jnp.where(team.active == agent, m, 0.0)
            return _Terms((own * (step * a).sum(-1)).sum(), own[:, None] * price, policy, step)
        own_a, own_price = (marginal_advantage(team, policy, x, agent) for x in (a, price))
        surrogate = (m * (step[agent] * own_a).sum(-1)).sum()
        return _Terms(surrogate, m[:, None] * own_price, policy[agent], step[agent])

    return jax.vmap(of)(jnp.arange(team.agents))


@partial(jax.jit, static_argnames="form")
def _joint_scales(team: Team, policy: Array, target: Array, form: str) -> JointScales:
    terms = _terms(team, policy, target, form)

    def certificate(scales: Array) -> Array:
        return jax.vmap(_Terms.certificate)(terms, scales).sum()

    def slopes(t: Array) -> Array:
        return jax.vmap(_Terms.slope, in_axes=(0, None))(terms, t)

    scales = jax.vmap(lambda term: _greatest(term.slope))(terms)
    common = _greatest(lambda t: slopes(t).sum())
    ones = jnp.ones_like(scales)
    return JointScales(scales, certificate(scales), common, certificate(common * ones), certificate(ones))


def joint_scales(
    team: Team, policy: Array, target: Array, form: Literal["weighted", "log_sum"] = "weighted"
) -> JointScales:
    """`max_t Σ_k [t_k L_k − Σ m⁰ Σ_a k_{t_k} c]` over `t ∈ [0, 1]ⁿ`, agent k at `π_k + t_k(π'_k − π_k)`.

    `"weighted"`: `c = Q⁰ − Φ`, the stage bound S9 (e); `"log_sum"`: `c = ϱ`, S7c with the reused surrogate. Both protocols, every
    order. Each is a sum of one concave function for each agent (theory/derivations/u1.md), so that choosing together is choosing
    each for itself, and the certificate of the choice is that of the whole stage. `vmap` over teams is allowed.

    Args:
      policy: tables of the team; `target`: where the agents' directions lead.

    Raises:
      InputError: if a policy is none of the team, or the form is unknown.
    """
    one_of("form", form, ("weighted", "log_sum"))
    require_one(team, "team")
    require_float64(policy=policy, target=target)
    require_policy(team, policy=policy, target=target)
    return _joint_scales(team, policy, target, form)


def _deviation_slope(x: Array) -> Array:
    """Derivative of `√(eˣ − 1 − x)`: `(eˣ − 1)/(2√(eˣ − 1 − x))`, `1/√2` at 0."""
    safe = jnp.where(x > 0, x, 1.0)
    return jnp.where(x > 0, jnp.expm1(safe) / (2 * root_excess(safe)), math.sqrt(0.5))


def budget_scales(
    surrogate: Float[Array, " n"], chi_square: Float[Array, " n"], deviation: Float[Array, ""] | float
) -> Float[Array, " n"]:
    """S10: `max_t Σ_k t_k L_k − sd·√(e^X − 1 − X)`, `X = Σ_k t_k² X_k`, over `t ∈ [0, 1]ⁿ`. Here the agents share one budget.

    Jointly concave; greatest at `t_k = min(1, L_k⁺/(2νX_k))` with one multiplier `ν = sd·(d/dX)√(e^X − 1 − X)` for all agents,
    found by bisection (theory/derivations/u1.md).

    Args:
      surrogate: `L_k` of the whole steps, reused; `chi_square`: `X_k ≥ 0`, the largest sum of `χ²` along a path, of whole steps.
      deviation: `sd_π(R) ≥ 0`.

    Raises:
      InputError: if an array has another shape or dtype, or `chi_square` or `deviation` is negative or not a number.
    """
    require_float64(surrogate=surrogate, chi_square=chi_square)
    require_shape("surrogate", surrogate, (surrogate.size,))
    require_shape("chi_square", chi_square, surrogate.shape)
    require_setting("chi_square", chi_square)
    require_setting("deviation", deviation)
    gain, sd = jnp.maximum(surrogate, 0.0), jnp.asarray(deviation, surrogate.dtype)
    finite = jnp.isfinite(chi_square)
    cost = jnp.where(finite, chi_square, 0.0)

    def scales(price: Array) -> Array:
        full = 2 * price * cost <= gain
        ratio = gain / jnp.where(full, 1.0, 2 * price * cost)
        return jnp.where(finite & (gain > 0), jnp.where(full, 1.0, ratio), 0.0)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        spent = jnp.minimum((scales(middle) ** 2 * cost).sum(), LARGEST)
        dear = sd * _deviation_slope(spent) < middle
        return jnp.where(dear, low, middle), jnp.where(dear, middle, high)

    ends = (sd / jnp.sqrt(2.0), sd * _deviation_slope(jnp.minimum(cost.sum(), LARGEST)))
    _, price = lax.fori_loop(0, BISECTIONS, halve, ends)
    return scales(price)
