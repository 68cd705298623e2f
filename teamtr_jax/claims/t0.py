"""T0, performance difference (Kakade and Langford 2002), for every update and telescoped over the stage."""

import jax.numpy as jnp

from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Left side from values, `ρᵀV`; right side from visits, `Σ m^{π̂ⁱ} g_i`: two independent solves."""
    del stage
    left = report.objective[1:] - report.objective[:-1]
    right = (report.visits[1:] * report.conditional).sum(-1)
    total = report.objective[-1] - report.objective[0]
    budget = report.rounding.identity
    return {
        "update": Check(abs(left - right), jnp.zeros_like(left), budget, abs(right)),
        "stage": Check(abs(total - right.sum()), jnp.zeros_like(total), budget.sum(), abs(right.sum())),
    }


CLAIM = Claim(
    id="T0",
    words="An update improves by the old advantages, averaged where the new policy goes; over a stage the improvements add up.",
    statement="J(π')−J(π) = Σ m^{π'} E_{π'}A^π; telescoped over the stage, for every order",
    source="Kakade & Langford 2002; the paper's starting point",
    check=check,
    tight="identity",
)
