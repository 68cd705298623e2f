"""P3.8 and P3.9, replacing one agent by a newcomer."""

import jax
import jax.numpy as jnp
from jax import Array

from teamtr_jax.bounds import penalty_paper, zero_times
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.divergences import expected
from teamtr_jax.surrogates import swap_report
from teamtr_jax.types import Stage, StageReport
from teamtr_jax.visits import hybrids


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Each agent in turn swapped alone into the current team (P3.8), and half a swap against a whole one (P3.9).

    P3.8: the newcomer `⟨k⟩` obeys `|J(π^{⟨k⟩}) − J(π̂⁰) − L| ≤ c√δ` like any update. P3.9: with base team, order and A_max fixed,
    the mixture halfway to the newcomer has at most half its KL (convexity), hence a penalty smaller by √2.
    """

    h = hybrids(stage)

    def swap(position: Array) -> tuple[Array, Array, Array]:
        alone = swap_report(stage, h, position)
        return alone.gap_fresh[0], penalty_paper(alone)[0], alone.rounding.gap[0]

    gap, penalty, budget = jax.lax.map(swap, jnp.arange(report.agents))
    half = Stage(stage.team, stage.current, (stage.current + stage.target) / 2, stage.order)
    weight = report.visits[0] if report.episodic else report.visits[0] / report.mass
    steps = hybrids(half).kl_current_to_new
    kl_half = expected(jnp.broadcast_to(weight, steps.shape), steps)
    unit = 64 * jnp.finfo(kl_half.dtype).eps
    bound = report.kl_stale / 2
    return {
        "P3.8": Check(abs(gap), penalty, budget),
        "P3.9": Check(kl_half, bound, zero_times(unit * jnp.ones_like(bound), bound)),
    }


CLAIM = Claim(
    id="P3.8",
    statement="swapping one agent: |J(π^⟨k⟩)−J−L| ≤ c√δ; P3.9: half the swap has at most half the KL, its own term shrinks",
    source="paper, Propositions 3.8 and 3.9",
    check=check,
    tight="P3.9 → 1 as the newcomer leaves the support: KL → ∞ only at the full swap",
)
