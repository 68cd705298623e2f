"""S4 and S4R, oracle second order: small shift times small advantage."""

from teamtr_jax.bounds import penalty_later_turns, penalty_second_order, penalty_stale_second_order
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """S4, S4R and S4 for the stale gap; each bound has rounding errors of its own, of the size of the report's."""
    del stage
    fresh, stale = report.rounding.fresh, report.rounding.stale
    relative = 8 * report.rounding.relative

    def against(gap, penalty, budget):
        return Check(abs(gap), penalty, budget + relative * penalty)

    return {
        "S4": against(report.gap_fresh, penalty_second_order(report), fresh),
        "S4R": against(report.gap_fresh, penalty_later_turns(report), fresh),
        "S4 stale": against(report.gap_stale, penalty_stale_second_order(report), stale),
    }


CLAIM = Claim(
    id="S4",
    words="A gap is a small shift times a small advantage: second order in the step.",
    statement="|fresh gap_i| ≤ γ/(1−γ)²·E_d[TV_i]·span(g_i); S4R: the agent's own later turns N⁺ for γ/(1−γ)",
    source="ours",
    check=check,
    tight="attained: S4R by an agent whose later turn answers its step (round robin)",
)
