"""P3.6, the paper's lower bound on a stage with fresh occupancies."""

from teamtr_jax.bounds import penalty_paper
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`J(π̂ⁿ) − J(π̂⁰) ≥ Σ_i (L_i^seq − c_i√δ_i)`: the shortfall `−Σ gap_i` against the summed penalties."""
    del stage
    return {"": Check(abs(report.gap_fresh.sum()), penalty_paper(report).sum(), report.rounding.fresh.sum())}


CLAIM = Claim(
    id="P3.6",
    words="A stage with fresh rollouts improves at least by the sum of the paper's bounds on its updates, in any order.",
    statement="J(π̂ⁿ)−J(π̂⁰) ≥ Σ_i (L_i^seq − c_i√δ_i), any order",
    source="paper, Theorem 3.6",
    check=check,
    tight="as P3.4",
)
