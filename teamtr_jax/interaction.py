"""The interaction matrix of a stage: who shifts whose context (R5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from teamtr_jax.dynamics import after
from teamtr_jax.surrogates import inflow, mapped
from teamtr_jax.types import Stage, StageReport, floats, require_one, require_table
from teamtr_jax.validation import at_least, require_float64
from teamtr_jax.visits import solo_steps, team_policy

__all__ = ["interaction_matrix", "skippable"]


def interaction_matrix(stage: Stage, report: StageReport) -> Float[Array, "n n"]:
    """`M[k,i] = Σ_s (m^{⟨k⟩} − m⁰)(s) g_i(s)`, where in `⟨k⟩` only the agent at position k of the order is updated (R5).

    Rows and columns are positions of the order. `x = m^{⟨k⟩} − m⁰` is solved from `(I−γP_{⟨k⟩}ᵀ)x = γ(P_{⟨k⟩}−P_0)ᵀm⁰`, never
    subtracted. Units: those of the reward. To third order in the steps `fresh_i = M[i,i]`,
    `L_i^seq − L_i^stale = Σ_{k<i} M[k,i]` and `cached_i − fresh_i = Σ_{k<i} (M[k,i] + M[i,k])`.

    Args:
      report: `stage_report(stage)`; in one program with it the two form one chain of LAPACK calls.

    Raises:
      InputError: if an array is not float64, or the report is that of another stage.

    Example:
      >>> from teamtr_jax.surrogates import evaluate_stage
      >>> from teamtr_jax.teams import relay_stage
      >>> stage = relay_stage(3, 1e-6, 1e-6, slots=3)
      >>> print(jnp.round(interaction_matrix(stage, evaluate_stage(stage)) / 1e-12, 3))
      [[1. 3. 3.]
       [1. 1. 3.]
       [1. 1. 1.]]
    """
    require_float64(current=stage.current, target=stage.target, conditional=report.conditional)
    require_one(stage, "stage")
    updates, states = stage.team.agents, stage.team.initial.shape[-1]
    require_table((updates, states), **{"report.conditional": report.conditional})
    require_table((updates + 1, states), **{"report.visits": report.visits})
    return _jitted(stage, report)


def _interaction(stage: Stage, report: StageReport) -> Array:
    team = stage.team
    policy = after(team_policy(team, stage.current), report.shift)

    def shift(step: Array) -> Array:
        return team.dynamics.resolvent(policy + step).visits(inflow(team, report.visits[0], step))

    shifts = mapped(team, shift, solo_steps(stage))
    return jnp.matmul(shifts, report.conditional.T, precision=lax.Precision.HIGHEST)


_jitted = jax.jit(_interaction)


def skippable(matrix: Float[Array, "n n"], tolerance: Float[Array, ""] | float) -> Bool[Array, " n"]:
    """Updates that may go on with older rollouts: `|Σ_{b≤k<i} M[k,i]| ≤ tolerance`, rollouts last collected before update b.

    Greedy in the order of the stage; the first update never skips. By R5 the sum is the error of the surrogate that the older
    rollouts estimate, `Σ_s (m^{π̂ⁱ⁻¹} − m^{π̂ᵇ⁻¹}) g_i`, up to third order in the steps.

    Raises:
      InputError: if the matrix is not square and finite, or the tolerance is negative or NaN.
    """
    require_table((matrix.shape[0], matrix.shape[0]), matrix=matrix)
    at_least("tolerance", floats(tolerance), expected="a number that is not negative")
    position = jnp.arange(matrix.shape[0])

    def decide(collected: Array, i: Array) -> tuple[Array, Array]:
        drift = jnp.where((position >= collected) & (position < i), matrix[:, i], 0.0).sum()
        skip = (abs(drift) <= tolerance) & (i > 0)
        return jnp.where(skip, collected, i), skip

    return lax.scan(decide, jnp.zeros((), position.dtype), position)[1]
