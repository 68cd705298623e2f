"""S10, the χ²-budget: the standard deviation of the return times what the largest χ² along a path allows."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array

from teamtr_jax.bounds import (
    penalty_cached_chi_square,
    penalty_chi_square,
    penalty_reused_chi_square,
    stage_chi_square,
)
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Per update, and for the signed sum over the stage, cached and reused; with the rounding of the bound itself."""
    assert report.layers is not None
    rounding = report.rounding
    scale = abs(report.values).max() + abs(stage.team.reward).max()
    error = jnp.full_like(report.layers.return_deviation, 3 * rounding.relative * scale * jnp.sqrt(report.mass))
    of_error = report._replace(
        layers=report.layers._replace(return_deviation=error)
    )  # what sd may be off by, in its place

    def against(gap: Array, penalty: Callable[[StageReport], Array], budget: Array) -> Check:
        bound, loose = penalty(report), penalty(of_error)
        own = jnp.where(jnp.isfinite(bound), 8 * rounding.relative * bound + loose, 0.0)
        return Check(abs(gap), bound, budget + own)

    cached, reused = jnp.asarray(report.gap_cached.sum()), jnp.asarray(report.gap_reused.sum())
    return {
        "fresh": against(report.gap_fresh, penalty_chi_square, rounding.fresh),
        "cached": against(report.gap_cached, penalty_cached_chi_square, rounding.cached),
        "reused": against(report.gap_reused, penalty_reused_chi_square, rounding.reused),
        "stage, cached": against(cached, stage_chi_square, rounding.cached.sum()),
        "stage, reused": against(reused, partial(stage_chi_square, reused=True), rounding.reused.sum()),
    }


CLAIM = Claim(
    id="S10",
    words="A gap is at most the standard deviation of the return times what the largest χ² along an episode allows.",
    statement="|fresh_i| ≤ sd(R)√(e^X−1−X), X the largest Σχ² along a path; |Σ_i cached_i|, |Σ_i reused_i| the same under π̂⁰",
    source="ours; the rule of M2PO (arXiv:2510.01161) bounds such second moments",
    check=check,
    forms=("episodic",),
    tight="ratio → 1: many small steps, a return that follows the martingale (the relay as n grows); one update: two turns",
)
