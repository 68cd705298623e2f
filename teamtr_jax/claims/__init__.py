"""Claims about one stage, one file each: the statement, its check with a rounding budget, where it is tight.

They live in the package, not in `theory/`, because `teamtr check` runs them on a user's own team from the wheel, which
ships the package alone. Studies of whole families (P3.2 on token trees, R1, R3) are in `theory/studies/`.
"""

from teamtr_jax.claims import (
    e1,
    p3_1,
    p3_3,
    p3_4,
    p3_6,
    p3_7,
    p3_8,
    p3_9,
    s0,
    s1,
    s2,
    s3,
    s4,
    s5,
    s6,
    s7,
    s7b,
    s7c,
    s9,
    s10,
    s11,
    s12,
    t0,
    t1,
    t2,
)
from teamtr_jax.claims.base import Check, Claim, Judged, Verdicts, checks, judge, judged, rung_claim
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage

STAGE_CLAIMS: tuple[Claim, ...] = tuple(
    module.CLAIM
    for module in (
        *(t0, t1, t2, p3_1, p3_3, p3_4, p3_6, p3_7, p3_8, p3_9),
        *(s0, s1, s2, s3, s4, s5, s6, s7, s7b, s7c, s9, s10, s11, s12, e1),
    )
)


def stage_verdicts(stage: Stage) -> dict[str, dict[str, Judged]]:
    """Every check of every claim that applies to a stage, judged, by the claim's id and the check's name: one program."""
    found = checks(STAGE_CLAIMS, stage, stage_report(stage))
    return {claim.id: {name: judged(check) for name, check in named.items()} for claim, named in found.items()}


__all__ = [
    "STAGE_CLAIMS", "Check", "Claim", "Judged", "Verdicts", "checks", "judge", "judged", "rung_claim", "stage_verdicts",
]  # fmt: skip
