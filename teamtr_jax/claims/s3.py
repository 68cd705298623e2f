"""S3, joint path KL: the drift of a whole stage is of order √n in δ⁰, so D_occ is of order n^{3/2}."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_stale_path
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.divergences import exclusive_sum
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`TV(d^{π̂ⁱ⁻¹}, d^{π̂⁰}) ≤ γ√(Σ_{k<i}δ⁰_k/(2(1−γ)))` (discounted), and the stale gap by Hölder's inequality."""
    del stage
    rounding = report.rounding
    checks = {"gap": Check(abs(report.gap_stale), penalty_stale_path(report), rounding.stale)}
    if not report.episodic:
        bound = report.discount * jnp.sqrt(exclusive_sum(report.kl_stale) / (2 * (1 - report.discount)))
        bound = jnp.where(report.discount == 0, 0.0, bound)
        budget = exclusive_sum(rounding.shift) / report.mass + 2 * rounding.relative * jnp.where(
            jnp.isfinite(bound), bound, 0.0
        )
        checks["shift"] = Check(report.occupancy_tv_stale, bound, budget)
    return checks


CLAIM = Claim(
    id="S3",
    words="A whole stage shifts the occupancy like √n, not like n, at a fixed KL for each agent.",
    statement="TV(d^{π̂ⁱ}, d^{π̂⁰}) ≤ γ√(Σ_{k≤i}δ⁰_k/(2(1−γ))): D_occ = O(n^{3/2}√δ⁰); false with the fresh δ",
    source="ours",
    check=check,
    tight="ratio → 1: a random first speaker; → √(2/π): a running count",
)
