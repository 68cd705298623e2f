"""S0, the trivial rung."""

import jax.numpy as jnp

from teamtr_jax.bounds import penalty_trivial
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.types import Stage, StageReport


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`|fresh gap_i|, |stale gap_i| ≤ Σm·span(g_i)`.

    True of any function g, so the computed g is taken as it is and only the error of the shift of visits counts.
    """
    del stage
    bound, shift = penalty_trivial(report), report.rounding.shift
    scale = abs(report.conditional).max(-1)
    return {
        "fresh": Check(abs(report.gap_fresh), bound, scale * shift),
        "stale": Check(abs(report.gap_stale), bound, scale * jnp.cumsum(shift)),
    }


CLAIM = Claim(
    id="S0",
    words="No gap is larger than all visits times the span of what is averaged: the trivial rung.",
    statement="|fresh gap_i|, |stale gap_i| ≤ Σm·span(g_i)",
    source="ours",
    check=check,
    tight="ratio → γ: old and new occupancy part after the first step",
)
