"""The tree of prefixes: the state is everything written so far. No index, no matrix, only reshapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from teamtr_jax.dynamics._check import check_actions, check_draw, check_policy, check_states
from teamtr_jax.dynamics._linear import reachable
from teamtr_jax.types import World, pytree, static_field
from teamtr_jax.validation import InputError, require_float64, whole_number

__all__ = ["Tree"]


LEAVES = 2**31
"""Most messages of a tree: more nodes fit into no table."""


@pytree
@dataclass(frozen=True)
class Tree(World):
    """All prefixes of fewer than `horizon` symbols over `branching` symbols, breadth first.

    The children of node `k` are nodes `k·V+1 … k·V+V`, so that all children of all nodes are the array ``[1:]``, reshaped.
    A node that belongs to chance (a prompt, a router) is a node whose active agent is −1; its policy is the chance.

    Raises:
      InputError: fewer than 2 symbols, no step, or more nodes than fit into a table.
    """

    branching: int = static_field()
    horizon: int = static_field()

    def verify(self) -> None:
        whole_number("branching", self.branching, 2, expected="at least 2 symbols")
        whole_number("horizon", self.horizon, 1, expected="at least 1 step")
        if self.horizon * math.log2(self.branching) > math.log2(LEAVES):
            most = int(math.log2(LEAVES) / math.log2(self.branching))
            found = f"{self.horizon} steps of {self.branching} symbols"
            raise InputError("horizon", found, f"at most {most} steps: 2³¹ messages")

    @property
    def batch(self) -> tuple[int, ...]:
        return ()

    @property
    def sizes(self) -> tuple[int, int]:
        return self.states, self.branching

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
        check_states(self.sizes, v=v)
        return self._children(v)

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """Mass moves to the children; what enters a leaf is gone."""
        check_actions(self.sizes, m=m)
        return jnp.concatenate([jnp.zeros(1, m.dtype), m.ravel()[: self.states - 1]])

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """A child is the only successor."""
        check_states(self.sizes, v=v)
        return self._children(v)

    def variance(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """Zero: a child is the only successor."""
        check_states(self.sizes, v=v)
        return jnp.zeros(self.sizes, v.dtype)

    def greatest_sum(self, policy: Float[Array, "S A"], x: Float[Array, "k S"]) -> Float[Array, "k S"]:
        """Level by level."""
        check_policy(self.sizes, policy)
        below, out = jnp.zeros((len(x), self.branching**self.horizon), x.dtype), []
        for t in reversed(range(self.horizon)):
            level = self.level(t)
            best = jnp.where(policy[level] > 0, below.reshape(len(x), -1, self.branching), 0.0).max(-1)
            below = x[:, level] + best
            out.append(below)
        return jnp.concatenate(out[::-1], -1)

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """The child; −1 below the last level. Nothing is left to `uniform`."""
        check_draw(self.sizes, state, action, uniform)
        child = state * self.branching + 1 + action
        return jnp.where((state < 0) | (child >= self.states), -1, child)

    def resolvent(self, policy: Float[Array, "S A"]) -> TreeResolvent:
        """Level by level.

        Raises:
          InputError: if the policy is not float64, or none of this tree.
        """
        require_float64(policy=policy)
        check_policy(self.sizes, policy)
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
