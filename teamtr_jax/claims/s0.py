"""S0, the trivial rung."""

from teamtr_jax.bounds import penalty_trivial
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`|fresh gap_i|, |stale gap_i| ≤ Σm·span(g_i)`."""
    del stage
    bound, budget = penalty_trivial(report), report.rounding.gap
    return {"fresh": Check(abs(report.gap_fresh), bound, budget), "stale": Check(abs(report.gap_stale), bound, budget)}


CLAIM = Claim(
    id="S0",
    statement="|fresh gap_i|, |stale gap_i| ≤ Σm·span(g_i)",
    source="ours",
    check=check,
    tight="ratio → γ: old and new occupancy part after the first step",
)
