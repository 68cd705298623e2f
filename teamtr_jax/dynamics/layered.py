"""An episodic world of `T` steps whose states are contexts at a time, solved by scanning over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from teamtr_jax.dynamics._check import check_actions, check_draw, check_policy, check_states
from teamtr_jax.dynamics._linear import reachable
from teamtr_jax.dynamics.dense import Dense
from teamtr_jax.dynamics.successors import Successors
from teamtr_jax.types import World, pytree, static_field, verified
from teamtr_jax.validation import InputError, require_float64, whole_number

__all__ = ["Layered"]


@pytree
@dataclass(frozen=True)
class Layered(World):
    """`T` layers of `X` contexts: state `t·X + x` is context `x` at step `t`; after step `T−1` the episode is over.

    `kernel` moves one layer to the next. With `stationary` its arrays have no time axis and serve every step, otherwise
    each has a leading axis of length `T` (the last one's successors are never entered). A row of zeros ends the episode.

    Raises:
      InputError: a kernel with a discount, a clock or a horizon of its own, or with another number of layers.
    """

    kernel: Dense | Successors
    horizon: int = static_field()
    stationary: bool = static_field(default=True)

    def verify(self) -> None:
        whole_number("horizon", self.horizon, 1)
        kernel = self.kernel
        if not isinstance(kernel, Dense | Successors):
            return  # a place-holder of jax
        layers = verified(kernel).batch
        if not self.stationary and layers[-1:] != (self.horizon,):
            found = f"{layers[-1]} layers" if layers else "no axis of layers"
            raise InputError("kernel", found, f"{self.horizon}, one for each step (or stationary=True)")

    def verify_steps(self) -> None:
        for name in ("discount", "clock", "horizon"):
            if getattr(self.kernel, name) is not None:
                raise InputError(f"kernel.{name}", "a value", "None: a Layered world counts its own steps")

    @property
    def batch(self) -> tuple[int, ...]:
        return self.kernel.batch if self.stationary else self.kernel.batch[:-1]

    @property
    def sizes(self) -> tuple[int, int]:
        contexts, actions = self.kernel.sizes
        return self.horizon * contexts, actions

    @property
    def discount(self) -> float:
        return 1.0

    def _layers(self, function, *xs: Array) -> Array:
        return jax.vmap(function, in_axes=(None if self.stationary else 0, *(0 for _ in xs)))(self.kernel, *xs)

    def _split(self, x: Array) -> Array:
        return x.reshape(self.horizon, -1, *x.shape[1:])

    def _next(self, v: Array) -> Array:
        layers = self._split(v)
        return jnp.concatenate([layers[1:], jnp.zeros_like(layers[:1])])

    def time(self) -> Int[Array, " S"]:
        return jnp.repeat(jnp.arange(self.horizon), self.kernel.sizes[0])

    def backward(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`E[v_{t+1}(x') | x, a]`, zero after the last step."""
        check_states(self.sizes, v=v)
        out = self._layers(lambda kernel, w: kernel.backward(w), self._next(v))
        return out.reshape(-1, out.shape[-1])

    def forward(self, m: Float[Array, "S A"]) -> Float[Array, " S"]:
        """Mass that arrives one step later; what leaves the last step is gone."""
        check_actions(self.sizes, m=m)
        out = self._layers(lambda kernel, flow: kernel.forward(flow), self._split(m))
        return jnp.concatenate([jnp.zeros_like(out[:1]), out[:-1]]).ravel()

    def greatest(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """Greatest next value in the support, zero after the last step."""
        check_states(self.sizes, v=v)
        out = self._layers(lambda kernel, w: kernel.greatest(w), self._next(v))
        return out.reshape(-1, out.shape[-1])

    def variance(self, v: Float[Array, " S"]) -> Float[Array, "S A"]:
        """`Var[v_{t+1}(x') | x, a]`, zero after the last step."""
        check_states(self.sizes, v=v)
        out = self._layers(lambda kernel, w: kernel.variance(w), self._next(v))
        return out.reshape(-1, out.shape[-1])

    def greatest_sum(self, policy: Float[Array, "S A"], x: Float[Array, "k S"]) -> Float[Array, "k S"]:
        """`v_t = x_t + max v_{t+1}` over the support, from the last step to the first."""
        check_policy(self.sizes, policy, self.batch)

        def step(v: Array, xs: tuple[Array, Array, Any]) -> tuple[Array, Array]:
            now, rows, sliced = xs
            kernel: Any = self.kernel if self.stationary else sliced
            v = now + jnp.where(rows > 0, jax.vmap(kernel.greatest)(v), 0.0).max(-1)
            return v, v

        steps = x.reshape(len(x), self.horizon, -1).swapaxes(0, 1)
        xs = steps, self._split(policy), None if self.stationary else self.kernel
        return lax.scan(step, jnp.zeros_like(steps[0]), xs, reverse=True)[1].swapaxes(0, 1).reshape(x.shape)

    def draw(
        self, state: Int[Array, "*batch"], action: Int[Array, "*batch"], uniform: Float[Array, "*batch"]
    ) -> Int[Array, "*batch"]:
        """A context of the next layer by the kernel of this one; −1 after the last."""
        check_draw(self.sizes, state, action, uniform)
        contexts = self.kernel.sizes[0]
        layer = state // contexts
        if self.stationary:
            context = self.kernel.draw(state % contexts, action, uniform)
        else:
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.kernel)
            context = flat.draw(state, action, uniform)
        over = (state < 0) | (context < 0) | (layer == self.horizon - 1)
        return jnp.where(over, -1, (layer + 1) * contexts + context)

    def resolvent(self, policy: Float[Array, "S A"]) -> LayeredResolvent:
        """Two scans over time, backwards for values and forwards for visits.

        Raises:
          InputError: if the tables or the policy are not float64, or the policy is none of this world.
        """
        kernel = self.kernel
        if isinstance(kernel, Dense):
            require_float64(transition=kernel.transition)
        else:
            require_float64(successor_prob=kernel.prob)
        require_float64(policy=policy)
        check_policy(self.sizes, policy, self.batch)
        return LayeredResolvent(self, policy)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayeredResolvent:
    """The scans that solve `(I − P_π) x = b` for time-indexed states; zeros stay exact zeros."""

    world: Layered
    policy: Array  #: [T·X, A]

    def _scanned(self, b: Array) -> tuple[Array, Array, object]:
        kernels = None if self.world.stationary else self.world.kernel
        return self.world._split(b), self.world._split(self.policy), kernels

    def _kernel(self, sliced: object) -> Dense | Successors:
        return self.world.kernel if self.world.stationary else sliced  # pyright: ignore[reportReturnType]

    def values(self, reward: Float[Array, " S"]) -> Float[Array, " S"]:
        """`V_t = b_t + E_π V_{t+1}`."""

        def step(v: Array, xs: tuple[Array, Array, object]) -> tuple[Array, Array]:
            b, policy, kernel = xs
            v = b + (policy * self._kernel(kernel).backward(v)).sum(-1)
            return v, v

        xs = self._scanned(reward)
        return lax.scan(step, jnp.zeros_like(xs[0][0]), xs, reverse=True)[1].ravel()

    def visits(self, initial: Float[Array, " S"]) -> Float[Array, " S"]:
        """`m_{t+1} = b_{t+1} + P_πᵀ m_t`."""

        def step(arriving: Array, xs: tuple[Array, Array, object]) -> tuple[Array, Array]:
            b, policy, kernel = xs
            m = b + arriving
            return self._kernel(kernel).forward(m[:, None] * policy), m

        xs = self._scanned(initial)
        return lax.scan(step, jnp.zeros_like(xs[0][0]), xs)[1].ravel()

    def reached(self, initial: Float[Array, " S"], visits: Float[Array, " S"] | None = None) -> Bool[Array, " S"]:
        return reachable(self.world.forward, self.policy, initial)
