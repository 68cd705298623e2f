"""A world known by a short list of successors for each state and action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.dynamics._draw import inverse_cdf
from teamtr_jax.dynamics._linear import DenseResolvent, SparseResolvent, dense_resolvent, scatter
from teamtr_jax.types import static_field
from teamtr_jax.validation import InputError, require_float64

__all__ = ["Successors"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Successors:
    """`index[s,a,k]`, `prob[s,a,k]`: kilobytes where a dense tensor would take gigabytes.

    Repeated indices add up; a slot of probability zero may point anywhere. Up to `lu_states` states the policy's matrix
    `P_π` (not the tensor) is filled in and factored; above, SciPy's sparse LU on the host is used.
    """

    index: Array  #: [S, A, K], integer
    prob: Array  #: [S, A, K], float64
    discount: Any  #: [], a float64 array; `None` in the kernel of a `Layered` world
    clock: Array | None = None  #: [S], integer, episodic only
    horizon: int | None = static_field(default=None)
    lu_states: int = static_field(default=1500)

    def time(self) -> Int[Array, " S"]:
        return jnp.zeros(self.index.shape[0], int) if self.clock is None else self.clock

    def _gamma(self) -> Array:
        if self.discount is None:
            raise InputError("discount", "None", "a discount, unless the world is the kernel of a Layered one")
        return self.discount

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Σ_k prob[s,a,k] v(index[s,a,k])`."""
        return (self.prob * v[self.index]).sum(-1)

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """The mass that arrives, scattered."""
        return scatter(self.index, self.prob * m[..., None])

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`max {v(s') : P(s'|s,a) > 0}`, zero where nothing follows."""
        best = jnp.where(self.prob > 0, v[self.index], -jnp.inf).max(-1)
        return jnp.where(jnp.isfinite(best), best, 0.0)

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """The successor in a slot drawn with its probability."""
        slot = inverse_cdf(self.prob[state, action], uniform)
        return jnp.where((state < 0) | (slot < 0), -1, self.index[state, action, slot])

    def resolvent(self, policy: Float[Array, "S A"]) -> DenseResolvent | SparseResolvent:
        """LU of the filled-in `I − γP_π`, or sparse LU when `S > lu_states` (discounted only).

        Raises:
          InputError: if the tables are not float64.
        """
        require_float64(successor_prob=self.prob, discount=self._gamma(), policy=policy)
        states = self.index.shape[0]
        weight = (policy[..., None] * self.prob).reshape(states, -1)
        index = self.index.reshape(states, -1)
        if states > self.lu_states:
            return SparseResolvent(index, weight, jnp.asarray(self._gamma()))
        induced = jnp.zeros((states, states), weight.dtype).at[jnp.arange(states)[:, None], index].add(weight)
        return dense_resolvent(induced, self._gamma())
