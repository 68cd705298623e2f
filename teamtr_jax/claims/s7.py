"""S7, the log-sum lemma: the gap is at most the range of the return times the KL that a trainer monitors."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_log_sum, zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Every update (`π̂ⁱ⁻¹` to `π̂ⁱ`), and the whole stage as one step (`π̂⁰` to `π̂ⁿ`, whose path KL is `Σ_k K_k`)."""
    del stage
    total = report.kl_stale.sum() if report.episodic else report.kl_stale.sum() / (1 - report.discount)
    whole = zero_times(report.return_range, total)
    return {
        "update": Check(abs(report.gap_fresh), penalty_log_sum(report), report.rounding.fresh),
        "stage as one step": Check(jnp.asarray(abs(report.gap_cached.sum())), whole, report.rounding.cached.sum()),
    }


CLAIM = Claim(
    id="S7",
    statement="|J(π')−J(π)−L_π(π')| ≤ ϱ·KL(P_π‖P_π'): |fresh gap_i| ≤ span(r)δ_i/(1−γ)², episodic ≤ ϱδ_i^ep",
    source="ours",
    check=check,
    tight="ratio → γ (discounted), → 1 (episodic): an agent that opens a never-visited branch",
)
