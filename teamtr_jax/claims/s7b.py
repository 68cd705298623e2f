"""S7b: the log-sum lemma with the span of the advantage, for the fresh and the stale gap."""

from teamtr_jax.bounds import penalty_log_sum_advantage, penalty_stale_log_sum, penalty_stale_return_range
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Fresh; stale with `B_i`; stale with `ϱ ≥ B_i`."""
    del stage
    return {
        "fresh": Check(abs(report.gap_fresh), penalty_log_sum_advantage(report), report.rounding.fresh),
        "stale": Check(abs(report.gap_stale), penalty_stale_log_sum(report), report.rounding.stale),
        "stale, ϱ": Check(abs(report.gap_stale), penalty_stale_return_range(report), report.rounding.stale),
    }


CLAIM = Claim(
    id="S7b",
    words="The same with the span of the agent's own advantage, for fresh and for stale rollouts.",
    statement="|fresh_i| ≤ B_iδ_i/(1−γ)²; |stale_i| ≤ B_i(δ⁰_i + γ/(1−γ)·Σ_{k≤i}δ⁰_k)/(1−γ), both protocols; episodic per layer",
    source="ours",
    check=check,
    tight="stale: a branch opened by one agent for another (ratio → 1, n = 2); the parity team (n → ∞)",
)
