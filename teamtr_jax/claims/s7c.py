"""S7c: how wrong a stage of cached updates can be has a bound that is linear in n (in the relay the error itself is 2n²−n)."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_cached_log_sum, penalty_reused_log_sum
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Per update and for the signed sum over the stage, for the cached and for the reused surrogate."""
    del stage
    reused, rounding = penalty_reused_log_sum(report), report.rounding
    return {
        "cached": Check(abs(report.gap_cached), penalty_cached_log_sum(report), rounding.cached),
        "reused": Check(abs(report.gap_reused), reused, rounding.reused),
        "stage, cached": Check(jnp.asarray(abs(report.gap_cached.sum())), reused[-1], rounding.cached.sum()),
        "stage, reused": Check(jnp.asarray(abs(report.gap_reused.sum())), reused[-1], rounding.reused.sum()),
    }


CLAIM = Claim(
    id="S7c",
    words="The error of a whole stage of cached or reused updates is at most the range of the return times the sum of the KLs.",
    statement="|cached_i| ≤ ϱΣ_{k≤i}K_k (product ϱ(D_i+D_{i−1})), |reused_i| ≤ ϱD_i; |Σ_i cached_i|, |Σ_i reused_i| ≤ ϱΣ_kK_k",
    source="ours",
    check=check,
    tight="ratio → 1 (episodic), ≥ γ (discounted): own doors",
)
