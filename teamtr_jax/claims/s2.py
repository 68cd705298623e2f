"""S2, path Pinsker: the occupancy is the law of the state at a geometric time."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_path
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.claims.t1 import layer_budget
from teamtr_jax.divergences import exclusive_sum
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`TV(d', d) ≤ γ√(δ/(2(1−γ)))`, episodic `TV(d'_t, d_t) ≤ √(½Σ_{u<t}κ_u)`, and the gap by Hölder's inequality."""
    del stage
    rounding = report.rounding
    gap = Check(abs(report.gap_fresh), penalty_path(report), rounding.fresh)
    if report.layer_kl is None or report.layer_shift is None:
        bound = report.discount * jnp.sqrt(report.kl / (2 * (1 - report.discount)))
        bound = jnp.where(report.discount == 0, 0.0, bound)
        finite = jnp.where(jnp.isfinite(bound), bound, 0.0)
        budget = rounding.shift / report.mass + 2 * rounding.relative * finite
        return {"shift": Check(report.occupancy_tv_fresh, bound, budget), "gap": gap}
    bound = jnp.sqrt(exclusive_sum(report.layer_kl) / 2)
    return {"shift": Check(report.layer_shift, bound, layer_budget(report, report.layer_shift, bound)), "gap": gap}


CLAIM = Claim(
    id="S2",
    words="The occupancy shifts by at most the square root of the KL along a path: tighter than the paper's bound by √(1−γ).",
    statement="TV(d^{π'}, d^π) ≤ γ√(δ/(2(1−γ))), δ = E_{d^π}KL(π‖π'); T2 is larger by 1/√(1−γ)",
    source="ours",
    check=check,
    tight="a fork, as the step goes to zero",
)
