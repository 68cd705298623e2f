"""P3.9, what a closer newcomer gains."""

from dataclasses import replace

import jax.numpy as jnp

from teamtr_jax.bounds import zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.divergences import expected
from teamtr_jax.types import Stage, StageReport
from teamtr_jax.visits import hybrids


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Halfway to the newcomer the KL is at most half (convexity), so that its own term `c√δ` is smaller by √2 or more.

    With the base team, the order and A_max held fixed. Later terms may grow: their A_max changes.
    """
    half = replace(stage, target=(stage.current + stage.target) / 2)
    weight = report.visits[0] if report.episodic else report.visits[0] / report.mass
    steps = hybrids(half).kl_current_to_new
    kl_half = expected(jnp.broadcast_to(weight, steps.shape), steps)
    bound = report.kl_stale / 2
    unit = 64 * jnp.finfo(kl_half.dtype).eps * jnp.ones_like(bound)
    # (p+q)/2 is rounded by u·p, which moves the KL by at most u·TV besides its own relative error.
    return {
        "": Check(
            kl_half, bound, zero_times(unit, bound) + unit * report.tv_stale * (report.mass if report.episodic else 1.0)
        )
    }


CLAIM = Claim(
    id="P3.9",
    words="A newcomer half as far away has a penalty smaller by √2, all else fixed.",
    statement="base team, order, A_max fixed: half the swap has at most half the KL, so its own term shrinks by √2",
    source="paper, Proposition 3.9",
    check=check,
    tight="ratio → 1 as a newcomer takes up an action that was never used",
)
