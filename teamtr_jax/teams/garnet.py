"""Garnet random teams: few random successors, random rewards, random policies, a step of a chosen size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError

__all__ = ["random_stage"]


def random_stage(
    key: Array,
    states: int,
    actions: int | tuple[int, ...],
    agents: int,
    discount: Float[Array, ""] | float | None = None,
    horizon: int | None = None,
    branching: Int[Array, ""] | int | None = None,
    step: Float[Array, ""] | float = 0.1,
    concentration: Float[Array, ""] | float = 1.0,
    live_states: Int[Array, ""] | int | None = None,
    live_agents: Int[Array, ""] | int | None = None,
    sparse_reward: Array | bool = False,
) -> Stage:
    """A random stage; only sizes are compile-time, so that a batch is ``vmap`` over keys and numbers.

    Transitions: `branching` distinct successors with uniform-simplex weights (Archibald, McKinnon, Thomas 1995). Policies:
    Dirichlet(`concentration`) rows. Target: `(1−step)·current + step·Dirichlet(1)`. Rewards: uniform in [0,1], or one action in
    eight rewarded by 1. Agents own states at random (turn-taking) or all act (`actions` a tuple: product team).

    Args:
      states: `S`, or contexts per time step when `horizon` is given.
      discount: `γ` in [0,1); exactly one of `discount` and `horizon`.
      live_states: successors and starts are drawn among the first so many states (default all).
      live_agents: states are owned by the first so many agents (default all); the others own nothing.

    Raises:
      InputError: both or neither of `discount` and `horizon`.
    """
    if (discount is None) == (horizon is None):
        raise InputError("discount, horizon", f"{discount}, {horizon}", "exactly one of the two")
    factors = actions if isinstance(actions, tuple) else None
    joint = int(jnp.prod(jnp.array(factors))) if factors is not None else int(actions)  # pyright: ignore[reportArgumentType]
    live_states = states if live_states is None else live_states
    live_agents = agents if live_agents is None else live_agents
    branching = states if branching is None else branching
    keys = jax.random.split(key, 7)

    alive = jnp.arange(states) < live_states
    score = jnp.where(alive, jax.random.uniform(keys[0], (states, joint, states)), -1.0)
    rank = jnp.argsort(jnp.argsort(-score, -1), -1)
    weight = jnp.where((rank < branching) & alive, jax.random.exponential(keys[1], (states, joint, states)), 0.0)
    transition = weight / weight.sum(-1, keepdims=True)
    uniform = jax.random.uniform(keys[2], (states, joint))
    reward = jnp.where(sparse_reward, (uniform < 0.125).astype(uniform.dtype), uniform)
    start = jnp.where(alive, jax.random.exponential(keys[3], (states,)), 0.0)
    initial = start / start.sum()

    layers = 1 if horizon is None else horizon
    rows = layers * states

    def dirichlet(key: Array, alpha: Array | float, shape: tuple[int, ...]) -> Array:
        g = jax.random.loggamma(key, jnp.broadcast_to(jnp.asarray(alpha, jnp.float64), shape))
        return jax.nn.softmax(g, -1)

    if factors is None:
        active = jax.random.randint(keys[4], (rows,), 0, live_agents)
        shapes = [(rows, joint)]
    else:
        active = None
        shapes = [(rows, size) for size in factors]

    def policies(key: Array) -> tuple[Array, Array]:
        current, target = [], []
        for sub, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True):
            first, second = jax.random.split(sub)
            old = dirichlet(first, concentration, shape)
            current.append(old)
            target.append((1 - step) * old + step * dirichlet(second, 1.0, shape))
        if factors is None:
            return current[0], target[0]

        def padded(tables: list[Array]) -> Array:
            return jnp.stack([jnp.pad(t, ((0, 0), (0, max(factors) - t.shape[-1]))) for t in tables])

        return padded(current), padded(target)

    current, target = policies(keys[5])
    if horizon is None:
        dynamics = Dense(transition, jnp.asarray(discount, jnp.float64))
        team = Team(dynamics, reward, initial, active, agents, factors)
    else:
        dynamics = Layered(Dense(transition, None), horizon)
        first_layer = jnp.zeros(rows).at[:states].set(initial)
        team = Team(dynamics, jnp.tile(reward, (horizon, 1)), first_layer, active, agents, factors)
    return Stage(team, current, target, jax.random.permutation(keys[6], agents))
