"""T2, occupancy shift in expected KL: T1, Pinsker, Jensen."""

import jax.numpy as jnp

from teamtr_jax.bounds import zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.claims.t1 import layer_budget
from teamtr_jax.divergences import exclusive_sum
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Discounted `‖d'−d‖₁ ≤ √2·γ/(1−γ)·√δ`; episodic `TV(d'_t, d_t) ≤ Σ_{u<t} √(κ_u/2)`."""
    del stage
    relative, shift = report.rounding.relative, report.rounding.shift
    if report.layer_kl is None or report.layer_shift is None:
        gamma = report.discount
        bound = zero_times(jnp.sqrt(2.0) * gamma / (1 - gamma) * jnp.ones_like(report.kl), jnp.sqrt(report.kl))
        rounding = 2 * shift / report.mass + 2 * zero_times(relative * jnp.ones_like(bound), bound)
        return {"": Check(2 * report.occupancy_tv_fresh, bound, rounding)}
    bound = exclusive_sum(jnp.sqrt(report.layer_kl / 2))
    return {"": Check(report.layer_shift, bound, layer_budget(report, report.layer_shift, bound))}


CLAIM = Claim(
    id="T2",
    words="The occupancy shifts by at most a constant times the square root of the expected KL.",
    statement="‖d^{π'}−d^π‖₁ ≤ √2·γ/(1−γ)·√δ; episodic TV(d'_t,d_t) ≤ Σ_{u<t} √(κ_u/2)",
    source="paper, T1 with Pinsker and Jensen",
    check=check,
    tight="never for γ > 0: √(1−γ) on the fork, → 1 only as γ → 0 (S2 is smaller by that factor)",
)
