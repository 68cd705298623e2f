"""S11, the cube: what a whole stage does to the law of the transcript, in distances of partly updated teams."""

import jax.numpy as jnp
from jax import Array

from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.cube import hellinger_cube
from teamtr_jax.types import Stage, StageReport

UPDATES = 5
"""The cube of the last five updates of a stage: 81 distances."""
STATES = 1024
"""Larger teams are left out: each distance costs one evaluation of a policy."""


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """`H²(P⁰,Pⁿ)` against both bounds, `TV ≤ √2·H` of the layers, `H² ≤ K/2` of each update, `P^S P^{S^c} = P⁰Pⁿ`."""
    if stage.team.initial.shape[-1] > STATES:
        return {}
    n = report.agents
    updates = min(UPDATES, n)
    cube = hellinger_cube(stage, updates, report.shift)
    eta = 8 * report.rounding.relative  # of visits, rows and roots
    closure = report.rounding.closure[n - updates :].sum()

    def against(bound: Array) -> Check:
        """Where one agent moves, both sides are one number, which rounding must not part: 0 ≤ 0."""
        sides = jnp.where(cube.alone, 0.0, jnp.stack([cube.whole, bound]))
        return Check(sides[0], sides[1], eta * sides.sum() + jnp.where(cube.alone, 0.0, closure))

    kl = report.kl if report.episodic else report.kl * report.mass
    acted = jnp.arange(n) >= n - updates
    distance = jnp.concatenate([jnp.zeros(n - updates), cube.forward])
    half = jnp.where(acted, kl / 2, 0.0)
    finite = jnp.where(jnp.isfinite(half), half, 0.0)
    moved, rounding = report.shift[n - updates :].sum(0), report.rounding.shift[n - updates :].sum()
    far = jnp.sqrt(2 * cube.whole)
    if report.layers is None:
        shift, rounding = 0.5 * abs(moved).sum() / report.mass, rounding / report.mass
    else:
        dynamics = stage.team.dynamics
        layers = jnp.zeros((2, report.layers.kl.shape[-1])).at[:, dynamics.time()].add(jnp.stack([abs(moved), moved]))
        shift = 0.5 * abs(layers).sum(0)  # an episode that is over is in one more state
    unit = jnp.finfo(cube.size.dtype).eps
    return {
        "cube": against(cube.edges.sum()),
        "order": against(jnp.sqrt(cube.forward.sum() * cube.backward.sum())),
        "KL": Check(distance, half, eta * (distance + finite) + jnp.where(acted, report.rounding.closure, 0.0)),
        "TV": Check(shift, far, rounding + eta * far + jnp.sqrt(closure)),
        "product": Check(cube.apart, jnp.zeros_like(cube.apart), 4 * n * unit * cube.size, cube.size),
    }


CLAIM = Claim(
    id="S11",
    words="What a stage does to the law of the transcript is bounded by steps of partly updated teams, half of them on average.",
    statement="P^S P^T = P^{S∩T} P^{S∪T}; H²(P⁰,Pⁿ) ≤ Σ_k mean_S H²(P^S,P^{S+k}), and ≤ √(Σ fresh · Σ fresh backwards)",
    source="ours; Enflo's inequality for the cube",
    check=check,
    tight="ratio → 1: one agent moves, or steps that do not meet; along one order alone the ratio has no bound in n",
)
