"""T1, occupancy shift in expected total variation."""

import jax.numpy as jnp
from jax import Array

from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.divergences import exclusive_sum
from teamtr_jax.types import Stage, StageReport


def layer_budget(report: StageReport, shift: Array, bound: Array) -> Array:
    """Rounding of a layer's shift: relative to what moved in the layers before it, zero if nothing did (both sides are 0)."""
    own = 4 * report.rounding.relative * (shift + jnp.where(jnp.isfinite(bound), bound, 0.0))
    return jnp.where((shift == 0) & (bound == 0), 0.0, own + 2 * report.rounding.closure[:, None])


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Discounted `‖d^{π̂ⁱ}−d^{π̂ⁱ⁻¹}‖₁ ≤ 2γ/(1−γ)·E_d TV`; episodic `TV(d'_t, d_t) ≤ Σ_{u<t} E_{d_u} TV_u`."""
    del stage
    relative, shift = report.rounding.relative, report.rounding.shift
    if report.layer_tv is None or report.layer_shift is None:
        bound = 2 * report.discount / (1 - report.discount) * report.tv
        return {"": Check(2 * report.occupancy_tv_fresh, bound, 2 * shift / report.mass + 2 * relative * bound)}
    bound = exclusive_sum(report.layer_tv)
    return {"": Check(report.layer_shift, bound, layer_budget(report, report.layer_shift, bound))}


CLAIM = Claim(
    id="T1",
    words="The occupancy shifts by at most the expected total variation of the step, times 2γ/(1−γ).",
    statement="‖d^{π'}−d^π‖₁ ≤ 2γ/(1−γ)·E_{d^π} TV(π',π); episodic TV(d'_t,d_t) ≤ Σ_{u<t} E TV_u",
    source="paper, Lemma on occupancy shift",
    check=check,
    tight="attained: a first choice between two absorbing states",
)
