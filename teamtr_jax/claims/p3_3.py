"""P3.3, what scoring on the stale occupancy changes."""

from teamtr_jax.bounds import penalty_drift_paper
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`|L_i^seq − L_i^stale| ≤ c_i Σ_{k<i} √δ_k` (episodic: the E1 form with `k < i`)."""
    del stage
    return {"": Check(abs(report.seq_minus_stale), penalty_drift_paper(report), report.rounding.drift)}


CLAIM = Claim(
    id="P3.3",
    words="Scoring an update on rollouts from before the stage costs at most what the earlier updates shifted.",
    statement="|L_i^seq − L_i^stale| ≤ c_i Σ_{k<i} √δ_k, c_i = √2·γ·A_max/(1−γ)²",
    source="paper, Proposition 3.3",
    check=check,
    tight="discounted: ratio → √(1−γ) for the second update, as T2; episodic: large steps",
)
