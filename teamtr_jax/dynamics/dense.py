"""A world known by its full transition tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
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
from teamtr_jax.dynamics._linear import HIGHEST, DenseResolvent, dense_resolvent
from teamtr_jax.types import axes, floats, lead, one_batch, pytree, same, static_field
from teamtr_jax.validation import concrete, require_float64

__all__ = ["Dense"]


@pytree
@dataclass(frozen=True)
class Dense(Table):
    """`P[s,a,s']`, solved by LU.

    Discounted: `discount` in [0,1), rows sum to one. Episodic (`horizon` given): `discount` 1, rows sum to one or, at the
    end of the episode, to zero, and `clock` [S] says the time step of each state; `I − P_π` is then nilpotent plus one.

    Raises:
      InputError: rows that are no probabilities, a discount outside [0,1) (episodic: other than 1), a clock that does not
        count steps.
    """

    transition: Array  #: [S, A, S], float64
    discount: Any  #: [], a float64 array; `None` in the kernel of a `Layered` world
    clock: Array | None = None  #: [S], integer
    horizon: int | None = static_field(default=None)

    def verify(self) -> None:
        shape = axes("transition", self.transition, 3)
        if shape is not None:
            same("transition", shape[-1:], shape[-3:-2], "as many next states as states")
        _ = self.batch
        check_rows(self, "transition", floats(self.transition))
        check_clock(self)

    def verify_steps(self) -> None:
        values, clock = floats(self.transition), concrete(self.clock)
        if values is not None and clock is not None:
            check_steps(values > 0, clock[..., None, None, :], clock)

    @property
    def batch(self) -> tuple[int, ...]:
        return one_batch(
            {"transition": lead(self.transition, 3), "discount": lead(self.discount, 0), "clock": lead(self.clock, 1)}
        )

    @property
    def sizes(self) -> tuple[int, int]:
        return self.transition.shape[-3], self.transition.shape[-2]

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Σ_{s'} P(s'|s,a) v(s')`."""
        check_states(self.sizes, v=v)
        return jnp.matmul(self.transition, v, precision=HIGHEST)

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """`Σ_{s,a} m(s,a) P(s'|s,a)`."""
        check_actions(self.sizes, m=m)
        return jnp.matmul(m.ravel(), self.transition.reshape(m.size, -1), precision=HIGHEST)

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`max {v(s') : P(s'|s,a) > 0}`, zero where nothing follows."""
        check_states(self.sizes, v=v)
        best = jnp.where(self.transition > 0, v, -jnp.inf).max(-1)
        return jnp.where(jnp.isfinite(best), best, 0.0)

    def variance(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Σ_{s'} P(s'|s,a) (v(s') − E[v | s,a])²`."""
        return (self.transition * (v - self.backward(v)[..., None]) ** 2).sum(-1)

    def greatest_sum(self, policy: Float[Array, "S A"], x: Float[Array, "k S"]) -> Float[Array, "k S"]:
        """`T` sweeps over the pairs of states that follow each other with positive probability."""
        check_policy(self.sizes, policy, self.batch)
        follows = ((policy > 0)[..., None] & (self.transition > 0)).any(1)

        def sweep(_: Any, v: Array) -> Array:
            return x + jnp.where(follows, v[:, None, :], 0.0).max(-1)

        return lax.fori_loop(0, self.horizon, sweep, jnp.zeros_like(x))

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """A next state by the inverse of the distribution function of `P(·|s,a)`."""
        check_draw(self.sizes, state, action, uniform)
        return jnp.where(state < 0, -1, inverse_cdf(self.transition[state, action], uniform))

    def resolvent(self, policy: Float[Array, "S A"]) -> DenseResolvent:
        """Factor `I − γP_π`, `P_π[s,s'] = Σ_a π(a|s) P(s'|s,a)`.

        Raises:
          InputError: if the tables are not float64, or the policy is none of this world.
        """
        require_float64(transition=self.transition, discount=self._gamma(), policy=policy)
        check_policy(self.sizes, policy, self.batch)
        return dense_resolvent(jnp.einsum("sa,sat->st", policy, self.transition, precision=HIGHEST), self._gamma())
