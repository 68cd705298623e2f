"""Certificates: surrogate − penalty − estimation error."""

from __future__ import annotations

from jax import Array
from jaxtyping import Float

from teamtr_jax.bounds import penalty_paper, penalty_stale_paper
from teamtr_jax.types import StageReport

__all__ = ["lower_bound_paper", "stage_bound_paper", "stage_bound_stale_paper"]


def lower_bound_paper(report: StageReport, estimation_error: Float[Array, " n"] | float = 0.0) -> Float[Array, " n"]:
    """P3.4: `L_i^seq − c_i√δ_i − ζ_i/(1−γ)`, a lower bound on `J(π̂ⁱ) − J(π̂ⁱ⁻¹)`.

    Args:
      estimation_error: `ζ_i/(1−γ) ≥ |L̂_i − L_i^seq|`; zero for exact surrogates.
    """
    return report.surrogate_intermediate - penalty_paper(report) - estimation_error


def stage_bound_paper(report: StageReport) -> Float[Array, ""]:
    """P3.6: the sum of P3.4 over the stage, any order; `O(n√δ̄)`."""
    return lower_bound_paper(report).sum(-1)


def stage_bound_stale_paper(report: StageReport) -> Float[Array, ""]:
    """P3.7: `Σ_i (L_i^stale − c_i Σ_{k≤i} √δ_k)`; `O(n²√δ̄)`."""
    return (report.surrogate_stale - penalty_stale_paper(report)).sum(-1)
