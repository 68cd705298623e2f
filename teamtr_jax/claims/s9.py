"""S9, the value-weighted log-sum: `Λ ≥ 1 + log Λ`, weighted by a return that is never negative."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_weighted
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Both sides of the gap, the larger of them, and the stage from its first rollouts."""
    del stage
    fresh, reused = report.rounding.fresh, report.rounding.reused
    return {
        "floor": Check(-report.gap_fresh, report.weighted_floor, fresh),
        "ceiling": Check(report.gap_fresh, report.weighted_ceiling, fresh),
        "update": Check(abs(report.gap_fresh), penalty_weighted(report), fresh),
        "stage": Check(jnp.asarray(-report.gap_reused.sum()), report.weighted_reused.sum(), reused.sum()),
    }


CLAIM = Claim(
    id="S9",
    words="Weighted by value, the same KL certifies more; the certificates of a stage add up.",
    statement="J(π')−J(π) ≥ Σm Σ_a π log(π'/π)(Q−Φ): penalty Σm Σ_a k(Q−Φ) ≤ ϱK; additive over the agents of a stage",
    source="ours; Λ ≥ 1 + log Λ as in reward-weighted regression",
    check=check,
    tight="ratio → 1: an opened action that pays at once (ceiling), a branch given up (floor)",
)
