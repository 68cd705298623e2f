"""Squared Hellinger distances between the laws of transcripts of partly updated teams, without listing a transcript (S11).

The affinity `Σ_x √(P(x)Q(x))` of the laws of two policies of one world is what the substochastic policy `w = √(π^P π^Q)` keeps:
at a state it loses `h(s) = 1 − Σ_a w(a|s)`, the squared Hellinger distance of the two rows. So, with the visits `m_w` under `w`,

    H²(P, Q) = 1 − Σ_x √(P(x)Q(x)) = Σ_s m_w(s) h(s),

a sum of terms of one sign. Discounted, the transcript ends at a geometric time; the law of this time is in `m_w`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from teamtr_jax.dynamics import after
from teamtr_jax.surrogates import mapped
from teamtr_jax.types import Stage, require_one
from teamtr_jax.validation import require_float64, whole_number
from teamtr_jax.visits import team_policy

__all__ = ["Cube", "hellinger_cube", "MOST_UPDATES"]

MOST_UPDATES = 8
"""`n 2^{n−1}` distances are solved for: 1,024."""


class Cube(NamedTuple):
    """The last m updates of a stage, the earlier ones made: squared Hellinger distances in [0, 1] of laws of transcripts.

    `P^S`: the team in which the updates in S ⊂ {1 … m} are made.
    """

    whole: Float[Array, ""]  #: `H²(P^∅, P^{all})`
    edges: Float[Array, " m"]  #: mean over `S ∌ i` of `H²(P^S, P^{S+i})`
    forward: Float[Array, " m"]  #: `H²(P^{1…i−1}, P^{1…i})`: fresh, in the order of the stage
    backward: Float[Array, " m"]  #: `H²(P^{i+1…m}, P^{i…m})`: fresh, in the opposite order
    apart: Float[Array, " S"]  #: largest `|π^S π^{S^c} − π^∅ π^{all}|` of a state: 0
    size: Float[Array, " S"]  #: largest `π^∅ π^{all}` of a state
    alone: Bool[Array, ""]  #: whether at most one of the updates moves a row: then all distances of it are one number


def hellinger_cube(stage: Stage, updates: int, dependency: Array | None = None) -> Cube:
    """All `2^m` partly updated teams of the last `m = updates` updates of a stage.

    Args:
      updates: m, at most `MOST_UPDATES` and the agents of the team.
      dependency: an array to compute first (see `teamtr_jax.dynamics.after`).

    Raises:
      InputError: if an array is not float64, the stage is a batch, or there are not so many updates.

    Example:
      >>> from teamtr_jax.teams import relay_stage
      >>> cube = hellinger_cube(relay_stage(3, 0.1, 0.1, slots=3), 3)
      >>> print(bool(cube.whole <= cube.edges.sum()), float(cube.apart.max()) < 1e-15)
      True True
    """
    require_float64(current=stage.current, target=stage.target, initial=stage.team.initial)
    require_one(stage, "stage")
    whole_number("updates", updates, 1, min(MOST_UPDATES, stage.team.agents))
    return _cube(stage, updates, jnp.zeros(1) if dependency is None else dependency)


def _losses(stage: Stage, position: Array, first: int, updates: int) -> Float[Array, "m S"]:
    """`h_i(s) = ½ Σ_a (√π_i − √π'_i)²`, the updated agent's own; 0 where it does not act."""
    size = jnp.sqrt(stage.current) + jnp.sqrt(stage.target)
    apart = jnp.where(size > 0, (stage.target - stage.current) / jnp.where(size > 0, size, 1.0), 0.0)
    own, rank = 0.5 * (apart**2).sum(-1), first + jnp.arange(updates)
    if stage.team.factors is None:
        return jnp.where(position == rank[:, None], own, 0.0)
    return own[stage.order[rank]]


@partial(jax.jit, static_argnums=1)
def _cube(stage: Stage, updates: int, dependency: Array) -> Cube:
    team, n = stage.team, stage.team.agents
    first = n - updates
    rank = jnp.zeros_like(stage.order).at[stage.order].set(jnp.arange(n), unique_indices=True)
    if team.factors is None:
        assert team.active is not None
        position = jnp.where(team.active >= 0, rank[team.active], n)
    else:
        position = rank[:, None]
    subsets = (np.arange(2**updates)[:, None] >> np.arange(updates)) & 1  # [2^m, m]; bit i: update i is made
    made = jnp.concatenate([jnp.ones((2**updates, first), bool), jnp.asarray(subsets == 1)], 1)
    made = jnp.concatenate([made, jnp.zeros((2**updates, 1), bool)], 1)  # nobody's states stay
    tables = jnp.where(made[:, position][..., None], stage.target, stage.current)
    policies = jax.vmap(partial(team_policy, team))(tables)
    lost = _losses(stage, position, first, updates)

    bit = 1 << np.arange(updates)
    lower = [[s for s in range(2**updates) if not s & b] for b in bit]  # [m, 2^{m−1}]
    flat = np.array([0, *np.ravel(lower)])
    ends = np.array([2**updates - 1, *np.ravel(np.array(lower) + bit[:, None])])
    together = -jnp.expm1(jnp.log1p(-lost).sum(0))
    pairs = jnp.concatenate([together[None], jnp.repeat(lost, 2 ** (updates - 1), 0)])
    weights = after(jnp.sqrt(policies[flat] * policies[ends]), dependency)
    visits = mapped(team, lambda w: team.dynamics.resolvent(w).visits(team.initial), weights)
    whole, edges = jnp.split((visits * pairs).sum(-1), [1])
    edges = edges.reshape(updates, -1)
    own = np.arange(updates)
    ahead = [lower[i].index(bit[i] - 1) for i in own]
    behind = [lower[i].index(2**updates - 2 * bit[i]) for i in own]
    products = policies * policies[::-1]
    return Cube(
        whole[0], edges.mean(-1), edges[own, np.array(ahead)], edges[own, np.array(behind)],
        abs(products - products[0]).max((0, 2)), products[0].max(-1),
        (lost > 0).any(-1).sum() <= 1,
    )  # fmt: skip
