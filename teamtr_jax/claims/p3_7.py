"""P3.7, the paper's lower bound on a stage scored on the stale occupancy."""

import jax.numpy as jnp

from teamtr_jax.bounds import paper_constant, penalty_stale_paper, zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Per update and per stage, with the fresh δ; discounted teams also with `δ⁰`."""
    del stage
    penalty = penalty_stale_paper(report)
    checks = {
        "update": Check(abs(report.gap_stale), penalty, report.rounding.stale),
        "stage": Check(abs(report.gap_stale.sum()), penalty.sum(), report.rounding.stale.sum()),
    }
    if not report.episodic:
        stale = zero_times(paper_constant(report), jnp.cumsum(jnp.sqrt(report.kl_stale)))
        checks["update, δ⁰"] = Check(abs(report.gap_stale), stale, report.rounding.stale)
    return checks


CLAIM = Claim(
    id="P3.7",
    words="A stage scored on the rollouts from before it improves at least by surrogates less larger penalties.",
    statement="J(π̂ⁿ)−J(π̂⁰) ≥ Σ_i (L_i^stale − c_i Σ_{k≤i}√δ_k), with δ and with δ⁰",
    source="paper, Theorem 3.7",
    check=check,
    tight="as P3.4",
)
