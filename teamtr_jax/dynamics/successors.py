"""A world known by a short list of successors for each state and action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.dynamics._check import (
    Table,
    check_actions,
    check_clock,
    check_draw,
    check_policy,
    check_rows,
    check_states,
    check_steps,
)
from teamtr_jax.dynamics._draw import inverse_cdf
from teamtr_jax.dynamics._linear import DenseResolvent, dense_resolvent, scatter
from teamtr_jax.dynamics.sparse import SparseResolvent, sparse_resolvent
from teamtr_jax.types import axes, floats, ints, lead, one_batch, pytree, same, static_field
from teamtr_jax.validation import concrete, require_float64, whole_number

__all__ = ["Successors"]


@pytree
@dataclass(frozen=True)
class Successors(Table):
    """`index[s,a,k]`, `prob[s,a,k]`: kilobytes where a dense tensor would take gigabytes.

    Repeated indices add up; a slot of probability zero may point to any state. Up to `lu_states` states the policy's matrix
    `P_π` (not the tensor) is filled in and factored; above, it is solved on the host as a sparse one
    (`teamtr_jax.dynamics.sparse`).

    Raises:
      InputError: a successor that is no state, rows that are no probabilities, a discount outside [0,1) (episodic: other
        than 1), a clock that does not count steps.
    """

    index: Array  #: [S, A, K], integer
    prob: Array  #: [S, A, K], float64
    discount: Any  #: [], a float64 array; `None` in the kernel of a `Layered` world
    clock: Array | None = None  #: [S], integer, episodic only
    horizon: int | None = static_field(default=None)
    lu_states: int = static_field(default=1500)

    def verify(self) -> None:
        index, prob = axes("index", self.index, 3), axes("prob", self.prob, 3)
        if index and prob:
            same("prob", prob[-3:], index[-3:], "those of index")
        whole_number("lu_states", self.lu_states, 0)
        _ = self.batch
        check_rows(self, "prob", floats(self.prob))
        if index:
            ints("index", self.index, 0, self.sizes[0])
        check_clock(self)

    def verify_steps(self) -> None:
        index, values, clock = concrete(self.index), floats(self.prob), concrete(self.clock)
        if index is None or values is None or clock is None:
            return
        flat = index.reshape(*index.shape[:-3], -1)
        later = np.take_along_axis(np.broadcast_to(clock, (*flat.shape[:-1], clock.shape[-1])), flat, -1)
        check_steps(values > 0, later.reshape(index.shape), clock)

    @property
    def batch(self) -> tuple[int, ...]:
        tables = {"index": lead(self.index, 3), "prob": lead(self.prob, 3)}
        return one_batch({**tables, "discount": lead(self.discount, 0), "clock": lead(self.clock, 1)})

    @property
    def sizes(self) -> tuple[int, int]:
        return self.index.shape[-3], self.index.shape[-2]

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Σ_k prob[s,a,k] v(index[s,a,k])`."""
        check_states(self.sizes, v=v)
        return (self.prob * v[self.index]).sum(-1)

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """The mass that arrives, scattered."""
        check_actions(self.sizes, m=m)
        return scatter(self.index, self.prob * m[..., None])

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`max {v(s') : P(s'|s,a) > 0}`, zero where nothing follows."""
        check_states(self.sizes, v=v)
        best = jnp.where(self.prob > 0, v[self.index], -jnp.inf).max(-1)
        return jnp.where(jnp.isfinite(best), best, 0.0)

    def variance(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Σ_k prob (v(index) − E[v | s,a])²`."""
        return (self.prob * (v[self.index] - self.backward(v)[..., None]) ** 2).sum(-1)

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """The successor in a slot drawn with its probability."""
        check_draw(self.sizes, state, action, uniform)
        slot = inverse_cdf(self.prob[state, action], uniform)
        return jnp.where((state < 0) | (slot < 0), -1, self.index[state, action, slot])

    def resolvent(self, policy: Float[Array, "S A"]) -> DenseResolvent | SparseResolvent:
        """LU of the filled-in `I − γP_π`, or `SparseResolvent` when `S > lu_states`.

        Raises:
          InputError: if the tables are not float64, or the policy is none of this world.
        """
        require_float64(successor_prob=self.prob, discount=self._gamma(), policy=policy)
        check_policy(self.sizes, policy, self.batch)
        states = self.index.shape[0]
        weight = (policy[..., None] * self.prob).reshape(states, -1)
        index = self.index.reshape(states, -1)
        if states > self.lu_states:
            return sparse_resolvent(index, weight, jnp.asarray(self._gamma()))
        induced = jnp.zeros((states, states), weight.dtype).at[jnp.arange(states)[:, None], index].add(weight)
        return dense_resolvent(induced, self._gamma())
