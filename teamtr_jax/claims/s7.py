"""S7, the log-sum lemma: the gap is at most the range of the return times the KL that a trainer monitors."""

from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Every update, from `π̂ⁱ⁻¹` to `π̂ⁱ`."""
    del stage
    return {"": Check(abs(report.gap_fresh), penalty_log_sum(report), report.rounding.fresh)}


CLAIM = Claim(
    id="S7",
    words="A gap is at most the range of the return times the KL that a trainer monitors.",
    statement="|J(π')−J(π)−L_π(π')| ≤ ϱ·KL(P_π‖P_π'): |fresh gap_i| ≤ span(r)δ_i/(1−γ)², episodic ≤ ϱδ_i^ep",
    source="ours",
    check=check,
    tight="ratio → 1 (episodic), ≥ γ (discounted; → 1 with K − (1−γ)κ_0): an agent that opens a never-visited branch",
)
