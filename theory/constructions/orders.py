"""S11, one order alone: trees of contexts in which every update is seen at its rarest.

A binary tree, no two contexts alike. Every inner context has its own agent, updated in the order of the contexts from left to
right (the tree read *in order*). An agent at an inner context turns left or right: `½(1−ε), ½(1+ε)` before its update and the
reverse after it. The agents on the left are updated earlier and still see the old turn to the left, those on the right see the
new turn to the right: the rare one, `½(1−ε)`, both. At a last context the agent stays before its update and leaves after it.

The fresh squared Hellinger distances sum to `D_m`, `D_0 = 1`, `D_{m+1} = min_ε 1−√(1−ε²)+(1−ε)D_m = 1+D_m−√(1+D_m²)`, while
`H²(P⁰,Pⁿ) = 1` for every depth m.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flint import arb
from numpy.typing import ArrayLike

from teamtr_jax.dynamics import Tree
from teamtr_jax.types import Stage, Team

__all__ = ["in_order", "in_order_costs", "in_order_stage", "tree_stage"]


def tree_stage(owners: ArrayLike, current: ArrayLike, target: ArrayLike, agents: int) -> Stage:
    """Contexts: inner nodes of a complete binary tree, breadth first; agents are updated by number; the last right earns 1."""
    owner = np.asarray(owners)
    states = owner.size
    horizon = int(np.log2(states + 1))
    reward = np.zeros((states, 2))
    reward[states // 2 :, 1] = 1.0
    team = Team(Tree(2, horizon), jnp.asarray(reward), jnp.eye(states)[0], jnp.asarray(owner), agents)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(agents))


def in_order(levels: int) -> np.ndarray:
    """The place of each node of a complete binary tree (breadth first) when it is read from left to right."""
    node = np.arange(1, 2**levels)
    level = np.floor(np.log2(node)).astype(int)
    return ((2 * (node - 2**level) + 1) << (levels - 1 - level)) - 1


def in_order_costs(depth: int) -> list[arb]:
    """`D_0 … D_depth`; at most `2/(m+2)` each, since `√(1+x²) ≤ 1+x`."""
    out = [arb(1)]
    for _ in range(depth):
        out.append(1 + out[-1] - (1 + out[-1] ** 2).sqrt())
    return out


def in_order_stage(depth: int) -> Stage:
    """`n = 2^{depth+1} − 1` agents; a turn above subtrees of depth m has `ε = D_m/√(1+D_m²)`."""
    cost = [float(x) for x in in_order_costs(depth)]
    level = np.floor(np.log2(np.arange(1, 2 ** (depth + 1)))).astype(int)
    below = np.array([*cost[:depth][::-1], np.nan])[level]
    step = below / np.sqrt(1 + below**2)
    current = np.stack([(1 - step) / 2, (1 + step) / 2], -1)
    last = level == depth
    current[last] = [1.0, 0.0]
    return tree_stage(in_order(depth + 1), current, current[:, ::-1], level.size)
