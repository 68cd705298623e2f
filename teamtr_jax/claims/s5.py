"""S5, vacuity: the paper's certificate is never positive once γ ≥ 1/2."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_paper, zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """The inequality behind it, and the certificates themselves where `γ` is past its threshold."""
    del stage
    gamma, relative = report.discount, report.rounding.relative
    root = jnp.sqrt(report.kl)
    bound = zero_times(jnp.sqrt(2.0) * report.advantage_max / (1 - gamma), root)
    budget = jnp.where(jnp.isfinite(bound), 8 * relative * bound, 0.0) + 4 * relative * abs(
        report.surrogate_intermediate
    )
    path = zero_times(jnp.sqrt(2.0) * gamma * report.advantage_max / (1 - gamma) ** 1.5, root)
    golden = gamma >= (jnp.sqrt(5.0) - 1) / 2

    def never(condition, penalty):
        own = budget + jnp.where(jnp.isfinite(penalty), 8 * relative * penalty, 0.0)
        return Check(report.surrogate_intermediate - penalty, jnp.where(condition, 0.0, jnp.inf), own)

    return {
        "surrogate": Check(abs(report.surrogate_intermediate), bound, budget),
        "P3.4": never(gamma >= 0.5, penalty_paper(report)),
        "S2": never(golden, path),
    }


CLAIM = Claim(
    id="S5",
    words="The paper's certificate with the discounted A_max is never positive once γ ≥ 1/2.",
    statement="L_i^seq ≤ √2·A_max√δ_i/(1−γ): L_i^seq − c_i√δ_i ≤ 0 once γ ≥ 1/2; with S2 and A_max once γ ≥ (√5−1)/2",
    source="ours",
    check=check,
    forms=("discounted",),
    tight="the inequality: one state, two actions at ½, as the step goes to zero",
)
