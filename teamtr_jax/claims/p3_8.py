"""P3.8, replacing one agent by a newcomer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from teamtr_jax.bounds import penalty_paper
from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.dynamics import after
from teamtr_jax.surrogates import swap_report
from teamtr_jax.types import Stage, StageReport
from teamtr_jax.visits import hybrids, solo_steps


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """Each agent in turn swapped alone into the current team: `|J(π^{⟨k⟩}) − J(π̂⁰) − L| ≤ c√δ`, like any update."""
    # One program, one chain of LAPACK calls: the swaps are solved after the stage (see teamtr_jax/dynamics/_linear.py).
    h = hybrids(replace(stage, current=after(stage.current, report.shift), target=after(stage.target, report.shift)))

    solo = solo_steps(stage)

    def swap(position: Array) -> tuple[Array, Array, Array]:
        alone = swap_report(stage.team, h, solo, position)
        return alone.gap_fresh[0], penalty_paper(alone)[0], alone.rounding.fresh[0]

    gap, penalty, budget = jax.lax.map(swap, jnp.arange(report.agents))
    return {"": Check(abs(gap), penalty, budget)}


CLAIM = Claim(
    id="P3.8",
    words="Replacing one agent by a newcomer keeps the form of the paper's bound.",
    statement="swapping one agent keeps the form of the bound: |J(π^⟨k⟩)−J−L| ≤ c√δ for each newcomer k",
    source="paper, Proposition 3.8",
    check=check,
    tight="as P3.4",
)
