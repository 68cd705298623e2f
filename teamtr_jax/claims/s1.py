"""S1, the activity share: an agent that speaks seldom moves the occupancy little."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_share, penalty_stale_share, zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """P3.4 and P3.7 with `√(w_k δ_k)`, and T2 with it (discounted)."""
    del stage
    rounding = report.rounding
    checks = {
        "fresh": Check(abs(report.gap_fresh), penalty_share(report), rounding.fresh),
        "stale": Check(abs(report.gap_stale), penalty_stale_share(report), rounding.stale),
    }
    if not report.episodic:
        gamma = report.discount
        root = jnp.sqrt(zero_times(report.share, report.kl))
        bound = zero_times(jnp.sqrt(2.0) * gamma / (1 - gamma), root)
        budget = 2 * rounding.shift / report.mass + 2 * rounding.relative * jnp.where(jnp.isfinite(bound), bound, 0.0)
        checks["shift"] = Check(2 * report.occupancy_tv_fresh, bound, budget)
    return checks


CLAIM = Claim(
    id="S1",
    words="An agent that speaks seldom shifts the occupancy little.",
    statement="turn-taking: E_d TV_k ≤ √(w_kδ_k/2), so √(w_kδ_k) for √δ_k in T2, P3.4, P3.7",
    source="ours",
    check=check,
    tight="the shift: ratio → 1 on a fork (w = 1−γ), as the step goes to zero",
)
