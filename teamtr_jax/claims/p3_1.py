"""P3.1, the divergence of a team is that of its active factors."""

import jax.numpy as jnp

from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.divergences import kl_current_to_new, total_variation
from teamtr_jax.types import Stage, StageReport
from teamtr_jax.visits import hybrids


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`KL(π̂⁰‖π̂ⁿ)` of the joint policies against `Σ_k KL_k` of the agents, and `TV ≤ Σ_k TV_k`, state by state."""
    h = hybrids(stage)
    first, last = h.policies[0], h.policies[-1]
    team_kl, parts = kl_current_to_new(first, last), h.kl_current_to_new.sum(0)
    tv, tv_parts = total_variation(first, last), h.tv.sum(0)
    counts = stage.team.counts
    unit = jnp.finfo(first.dtype).eps * 8 * (counts.agents + counts.actions)
    same = jnp.isinf(team_kl) & jnp.isinf(parts)
    finite_parts = jnp.where(same, 0.0, parts)
    residual = abs(jnp.where(same, 0.0, team_kl) - finite_parts)
    return {
        "KL": Check(residual, jnp.zeros_like(residual), unit * (finite_parts + tv_parts + unit), finite_parts),
        # Turn-taking: both sides are the same float sum over one agent's row, so nothing was rounded apart.
        "TV": Check(tv, tv_parts, (0.0 if stage.team.factors is None else unit) * tv_parts),
    }


CLAIM = Claim(
    id="P3.1",
    words="A team moves as far as the agents that act: their KLs, added.",
    statement="team KL = KL of the active agent (turn-taking) or Σ_k KL_k (product); team TV ≤ Σ_k TV_k",
    source="paper, Proposition 3.1",
    check=check,
    tight="KL identity; TV attained when turn-taking",
)
