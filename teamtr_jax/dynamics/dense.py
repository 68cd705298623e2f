"""A world known by its full transition tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.dynamics._draw import inverse_cdf
from teamtr_jax.dynamics._linear import HIGHEST, DenseResolvent, dense_resolvent
from teamtr_jax.types import static_field
from teamtr_jax.validation import InputError, require_float64

__all__ = ["Dense"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """`P[s,a,s']`, solved by LU.

    Discounted: `discount` in [0,1), rows sum to one. Episodic (`horizon` given): `discount` 1, rows sum to one or, at the
    end of the episode, to zero, and `clock` [S] says the time step of each state; `I − P_π` is then nilpotent plus one.
    """

    transition: Array  #: [S, A, S], float64
    discount: Any  #: [], a float64 array; `None` in the kernel of a `Layered` world
    clock: Array | None = None  #: [S], integer
    horizon: int | None = static_field(default=None)

    def time(self) -> Int[Array, " S"]:
        return jnp.zeros(self.transition.shape[0], int) if self.clock is None else self.clock

    def _gamma(self) -> Array:
        if self.discount is None:
            raise InputError("discount", "None", "a discount, unless the world is the kernel of a Layered one")
        return self.discount

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Σ_{s'} P(s'|s,a) v(s')`."""
        return jnp.matmul(self.transition, v, precision=HIGHEST)

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """`Σ_{s,a} m(s,a) P(s'|s,a)`."""
        return jnp.matmul(m.ravel(), self.transition.reshape(m.size, -1), precision=HIGHEST)

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`max {v(s') : P(s'|s,a) > 0}`, zero where nothing follows."""
        best = jnp.where(self.transition > 0, v, -jnp.inf).max(-1)
        return jnp.where(jnp.isfinite(best), best, 0.0)

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """A next state by the inverse of the distribution function of `P(·|s,a)`."""
        return jnp.where(state < 0, -1, inverse_cdf(self.transition[state, action], uniform))

    def resolvent(self, policy: Float[Array, "S A"]) -> DenseResolvent:
        """Factor `I − γP_π`, `P_π[s,s'] = Σ_a π(a|s) P(s'|s,a)`.

        Raises:
          InputError: if the tables are not float64.
        """
        require_float64(transition=self.transition, discount=self._gamma(), policy=policy)
        return dense_resolvent(jnp.einsum("sa,sat->st", policy, self.transition, precision=HIGHEST), self._gamma())
