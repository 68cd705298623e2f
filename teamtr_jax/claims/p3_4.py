"""P3.4, the paper's lower bound on one update."""

from teamtr_jax.bounds import penalty_paper
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`|J(π̂ⁱ) − J(π̂ⁱ⁻¹) − L_i^seq| ≤ c_i √δ_i`; the theorem states the lower side (ζ = 0: exact surrogates)."""
    del stage
    return {"": Check(abs(report.gap_fresh), penalty_paper(report), report.rounding.fresh)}


CLAIM = Claim(
    id="P3.4",
    words="One update improves at least by its surrogate less the paper's penalty, which grows like √KL.",
    statement="J(π̂ⁱ)−J(π̂ⁱ⁻¹) ≥ L_i^seq − c_i√δ_i (two-sided); episodic 2A_max Σ_t min(1, Σ_{u<t} √(κ_u/2))",
    source="paper, Theorem 3.4",
    check=check,
    tight="discounted: never, first order in √δ where the gap is second order; episodic: large steps",
)
