"""E1, the episodic ladder: layer by layer, each shift at most one."""

from teamtr_jax.bounds import penalty_layers
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """The gap; the shift of a layer is checked by T1 and S2, whose lesser it takes."""
    del stage
    penalty = penalty_layers(report)
    return {"": Check(abs(report.gap_fresh), penalty, report.rounding.fresh + 8 * report.rounding.relative * penalty)}


CLAIM = Claim(
    id="E1",
    words="In an episode a gap is at most a sum over steps, and no step shifts by more than one.",
    statement="|fresh gap_i| ≤ Σ_t TV(d'_t,d_t)·span(g_t), TV(d'_t,d_t) ≤ min(1, Σ_{u<t}E TV_u, √(½Σ_{u<t}E KL_u))",
    source="ours",
    check=check,
    forms=("episodic",),
    tight="attained: one layer that forks",
)
