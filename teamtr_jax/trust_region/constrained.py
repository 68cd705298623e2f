"""U1: the exact KL-constrained improvement step of one agent's table."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from teamtr_jax.divergences import expected, kl_current_to_new
from teamtr_jax.validation import require_float64

__all__ = ["StepInfo", "kl_constrained_step"]

BISECTIONS = 80
NEWTON_STEPS = 30


class StepInfo(NamedTuple):
    """What the step did."""

    kl: Float[Array, ""]  #: `Σ_s w KL(current‖new)`, at most the radius
    gain: Float[Array, ""]  #: `Σ_s w Σ_a (new − current) A`
    multiplier: Float[Array, ""]  #: `λ`; zero where no action is better than another


def kl_constrained_step(
    current: Float[Array, "S A"], advantage: Float[Array, "S A"], weight: Float[Array, " S"], radius: Float[Array, ""]
) -> tuple[Float[Array, "S A"], StepInfo]:
    """Maximise `Σ_s w(s) Σ_a π'(a|s) A(s,a)` subject to `Σ_s w(s) KL(π(·|s) ‖ π'(·|s)) ≤ δ`.

    The solution is `π' = λπ/(ν_s − A)` with one multiplier `λ` and a root `ν_s` per state with `Σ_a π' = 1`. Rows with
    `w = 0` and entries with `π = 0` stay. `ν_s` by Newton's method on the harmonic form `1/Σ_a λπ/(ν−A)`, which is concave
    and increasing, so that the iteration is monotone; `λ` by bisection on `log λ`, from the feasible side.

    Args:
      current: rows of the agent (other rows: give weight 0).
      advantage: `A(s,a)`; a constant per state changes nothing.
      weight: `w ≥ 0`, for instance the occupancy on the agent's states.
      radius: `δ > 0` in nats.

    Raises:
      InputError: if an array is not float64.
    """
    require_float64(current=current, advantage=advantage, weight=weight)
    support = (current > 0) & (weight > 0)[:, None]
    best = jnp.where(support, advantage, -jnp.inf).max(-1, keepdims=True)
    deficit = jnp.where(support, best - advantage, 0.0)  # ≥ 0, zero at the best action of the support
    useful = deficit.max(-1) > 0
    scale = deficit.max()
    top = jnp.where(support & (deficit == 0), current, 0.0).sum(-1)

    def policy(multiplier: Array) -> Array:
        share = jnp.where(support, current, 0.0)

        def newton(_: Array, excess: Array) -> Array:
            terms = multiplier * share / (excess[:, None] + deficit)
            total, slope = terms.sum(-1), (terms / (excess[:, None] + deficit)).sum(-1)
            return jnp.where(useful, excess + (1 - 1 / total) * total**2 / jnp.where(useful, slope, 1.0), excess)

        excess = lax.fori_loop(0, NEWTON_STEPS, newton, jnp.where(useful, multiplier * top, multiplier))
        new = multiplier * share / (excess[:, None] + deficit)
        new = new / new.sum(-1, keepdims=True)
        return jnp.where(useful[:, None], new, current)

    def bisect(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        inside = expected(weight, kl_current_to_new(current, policy(jnp.exp(middle)))) <= radius
        return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

    # KL ≤ E[deficit²]·(const)/λ², so 4·scale·max(1, 1/√δ)·√Σw is feasible; e⁻⁶⁰ of the scale is greedy to machine precision.
    size = jnp.log(jnp.where(scale > 0, scale, 1.0))
    high = size + jnp.log(4 * jnp.maximum(1.0, jnp.sqrt(weight.sum() / radius)))
    _, log_multiplier = lax.fori_loop(0, BISECTIONS, bisect, (size - 60.0, high))
    new = jnp.where(scale > 0, policy(jnp.exp(log_multiplier)), current)
    return new, StepInfo(
        kl=expected(weight, kl_current_to_new(current, new)),
        gain=(weight * ((new - current) * jnp.where(support, advantage, 0.0)).sum(-1)).sum(),
        multiplier=jnp.where(scale > 0, jnp.exp(log_multiplier), 0.0),
    )
