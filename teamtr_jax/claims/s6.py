"""S6, certificates: the least of the valid penalties is a valid penalty."""

from teamtr_jax.bounds import least
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`|gap_i| ≤ min over the rungs`, fresh and stale: then surrogate minus penalty is a lower bound on the improvement."""
    del stage
    return {
        "fresh": Check(abs(report.gap_fresh), least(report, "fresh"), report.rounding.fresh),
        "stale": Check(abs(report.gap_stale), least(report, "stale"), report.rounding.stale),
    }


CLAIM = Claim(
    id="S6",
    words="The surrogate less the least valid penalty is a certificate, whatever one is able to know.",
    statement="surrogate − least valid penalty ≤ improvement, at every information level",
    source="ours",
    check=check,
    tight="wherever one of the rungs is",
)
