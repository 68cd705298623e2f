"""The tree of prefixes: the state is everything written so far. No index, no matrix, only reshapes."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from teamtr_jax.dynamics._linear import reachable
from teamtr_jax.types import static_field
from teamtr_jax.validation import InputError, require_float64

__all__ = ["Tree"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tree:
    """All prefixes of fewer than `horizon` symbols over `branching` symbols, breadth first.

    The children of node `k` are nodes `k·V+1 … k·V+V`, so that all children of all nodes are the array ``[1:]``, reshaped.
    A node that belongs to chance (a prompt, a router) is a node whose active agent is −1; its policy is the chance.
    """

    branching: int = static_field()
    horizon: int = static_field()

    def __post_init__(self) -> None:
        if self.branching < 2:
            raise InputError("branching", self.branching, "at least 2 symbols")
        if self.horizon < 1:
            raise InputError("horizon", self.horizon, "at least 1 step")

    @property
    def discount(self) -> float:
        return 1.0

    @property
    def states(self) -> int:
        """`Σ_{t<T} V^t`."""
        return (self.branching**self.horizon - 1) // (self.branching - 1)

    def level(self, t: int) -> slice:
        """The nodes of length `t`."""
        first = (self.branching**t - 1) // (self.branching - 1)
        return slice(first, first + self.branching**t)

    def time(self) -> Int[Array, " S"]:
        sizes = [self.branching**t for t in range(self.horizon)]
        return jnp.asarray(np.repeat(np.arange(self.horizon), sizes))

    def _children(self, v: Array) -> Array:
        leaves = jnp.zeros(self.branching**self.horizon, v.dtype)
        return jnp.concatenate([v[1:], leaves]).reshape(self.states, self.branching)

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """The value of each child; leaves count zero."""
        return self._children(v)

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """Mass moves to the children; what enters a leaf is gone."""
        return jnp.concatenate([jnp.zeros(1, m.dtype), m.ravel()[: self.states - 1]])

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """A child is the only successor."""
        return self._children(v)

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """The child; −1 below the last level. Nothing is left to `uniform`."""
        child = state * self.branching + 1 + action
        return jnp.where((state < 0) | (child >= self.states), -1, child)

    def resolvent(self, policy: Float[Array, "S A"]) -> TreeResolvent:
        """Level by level.

        Raises:
          InputError: if the policy is not float64.
        """
        require_float64(policy=policy)
        return TreeResolvent(self, policy)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TreeResolvent:
    """Sweeps over the levels (whose sizes differ, so the loop over `T` levels is unrolled)."""

    world: Tree
    policy: Array  #: [S, V]

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        """`V(prefix) = b + Σ_a π(a|prefix) V(prefix·a)`."""
        tree, out = self.world, []
        below = jnp.zeros(tree.branching**tree.horizon, reward.dtype)
        for t in reversed(range(tree.horizon)):
            level = tree.level(t)
            below = reward[level] + (self.policy[level] * below.reshape(-1, tree.branching)).sum(-1)
            out.append(below)
        return jnp.concatenate(out[::-1])

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        """`m(prefix·a) = b + m(prefix) π(a|prefix)`."""
        tree, out = self.world, []
        arriving = jnp.zeros(1, initial.dtype)
        for t in range(tree.horizon):
            level = tree.level(t)
            m = initial[level] + arriving
            out.append(m)
            arriving = (m[:, None] * self.policy[level]).ravel()
        return jnp.concatenate(out)

    def reached(self, initial: Float[Array, " S"], visits: Float[Array, " S"] | None = None) -> Bool[Array, " S"]:
        return reachable(self.world.forward, self.policy, initial)
