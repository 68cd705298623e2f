"""Certificates: surrogate − penalty, and what is left of the true improvement. Per update `[n]`, per stage a scalar.

Of a report with NaN or a negative divergence every function here says so (`InputError`).

A certificate is a lower bound on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`; a stage bound is one on `J(π̂ⁿ) − J(π̂⁰)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.bounds import (
    DEFAULT,
    Rung,
    least,
    penalty_log_sum,
    penalty_paper,
    penalty_reused_log_sum,
    penalty_stale_paper,
    stage_chi_square,
)
from teamtr_jax.types import StageReport, floats, require_report
from teamtr_jax.validation import at_least

__all__ = ["lower_bound_paper", "certificate_estimable", "certificate_weighted", "certificate", "certified_share",
           "stage_bound_paper", "stage_bound_stale_paper", "stage_bound_cached", "stage_bound_reused",
           "stage_bound_chi_square", "stage_bound_weighted", "stage_bound_least"]  # fmt: skip


def lower_bound_paper(report: StageReport, estimation_error: Float[Array, " n"] | float = 0.0) -> Float[Array, " n"]:
    """P3.4: `L_i^seq − c_i√δ_i − ζ_i/(1−γ)`. Never positive once `γ ≥ 1/2` (S5).

    Args:
      estimation_error: `ζ_i/(1−γ) ≥ |L̂_i − L_i^seq|`; zero for exact surrogates.
    """
    require_report(report)
    at_least("estimation_error", floats(estimation_error), expected="numbers ≥ 0: a bound on an absolute error")
    return report.surrogate_intermediate - penalty_paper(report) - estimation_error


def certificate_estimable(report: StageReport) -> Float[Array, " n"]:
    """S7: `L_i^seq − ϱ·K_i`: what a trainer that knows the range of the return can print."""
    require_report(report)
    return report.surrogate_intermediate - penalty_log_sum(report)


def certificate_weighted(report: StageReport) -> Float[Array, " n"]:
    """S9 (g): `J̃(e^{b/J̃} − 1) ≥ b`, `b = L_i^seq − Σm Σ_a k(Q−Φ) = Σm Σ_a π log(π'/π)(Q−Φ)`, `J̃ = J(π̂ⁱ⁻¹) − ρᵀΦ`.

    Estimable, never below S7's, and never below `−J̃`: no more can be lost than there is.
    """
    require_report(report)
    return _jensen(report.surrogate_intermediate - report.weighted_floor, report.objective[:-1] - report.return_floor)


def _jensen(b: Float[Array, "*n"], above_floor: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`J̃(e^{b/J̃} − 1)`; `b` where `J̃ = 0`, which then is 0."""
    some = above_floor > 0
    return jnp.where(some, above_floor * jnp.expm1(b / jnp.where(some, above_floor, 1.0)), b)


def certificate(report: StageReport, rungs: Sequence[Rung] = DEFAULT) -> Float[Array, " n"]:
    """S6: `L_i^seq` minus the least penalty of all rungs on the fresh gap, oracle ones included."""
    return report.surrogate_intermediate - least(report, "fresh", rungs=rungs)


def certified_share(report: StageReport, lower_bound: Float[Array, " n"]) -> tuple[Float[Array, " n"], Array]:
    """`lower_bound / (J(π̂ⁱ) − J(π̂ⁱ⁻¹))`, and where that is defined: where the improvement is positive (0 elsewhere)."""
    require_report(report)
    improvement = report.surrogate_intermediate + report.gap_fresh
    better = improvement > 0
    return jnp.where(better, lower_bound / jnp.where(better, improvement, 1.0), 0.0), better


def stage_bound_paper(report: StageReport) -> Float[Array, ""]:
    """P3.6: the sum of P3.4 over the stage, any order; `O(n√δ̄)`."""
    return lower_bound_paper(report).sum(-1)


def stage_bound_stale_paper(report: StageReport) -> Float[Array, ""]:
    """P3.7: `Σ_i (L_i^stale − c_i Σ_{k≤i} √δ_k)`; `O(n²√δ̄)`."""
    require_report(report)
    return (report.surrogate_stale - penalty_stale_paper(report)).sum(-1)


def stage_bound_cached(report: StageReport) -> Float[Array, ""]:
    """S7c: `Σ_i L_i^cached − ϱ Σ_k K_k`, from the rollouts of the stage's start alone; linear in n."""
    require_report(report)
    return report.surrogate_cached.sum(-1) - penalty_reused_log_sum(report)[-1]


def stage_bound_chi_square(report: StageReport) -> Float[Array, ""]:
    """S10: `Σ_i L_i^cached − sd(R)·√(e^X − 1 − X)`, sd and `X` under `π̂⁰`; `−∞` for a discounted team."""
    require_report(report)
    return report.surrogate_cached.sum(-1) - stage_chi_square(report)


def stage_bound_reused(report: StageReport) -> Float[Array, ""]:
    """S7c: the same with the reused surrogate, which is what a trainer on the stage's first rollouts adds up."""
    require_report(report)
    return report.surrogate_reused.sum(-1) - penalty_reused_log_sum(report)[-1]


def stage_bound_weighted(report: StageReport) -> Float[Array, ""]:
    """S9 (e, g): `J̃(e^{b/J̃} − 1)`, `b = Σ_k Σ m^{π̂⁰} Σ_a π̂⁰ log(π^{⟨k⟩}/π̂⁰)(Q_0−Φ)`: from the stage's first rollouts alone.

    `b` has one term for each agent.
    """
    require_report(report)
    return _jensen(
        (report.surrogate_reused - report.weighted_reused).sum(-1), report.objective[..., 0] - report.return_floor
    )


def stage_bound_least(report: StageReport, rungs: Sequence[Rung] = DEFAULT) -> Float[Array, ""]:
    """The sum of `certificate` over the stage."""
    return certificate(report, rungs).sum(-1)
