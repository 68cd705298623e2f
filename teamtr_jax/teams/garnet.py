"""Garnet random teams: few random successors, random rewards, random policies, a step of a chosen size."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError, integers

__all__ = ["random_stages", "tied_rows"]


def random_stages(
    rng: np.random.Generator,
    batch: int,
    states: int,
    actions: int | tuple[int, ...],
    agents: int,
    discount: ArrayLike | None = None,
    horizon: int | None = None,
    *,
    branching: ArrayLike | None = None,
    step: ArrayLike = 0.1,
    concentration: ArrayLike = 1.0,
    live_states: ArrayLike | None = None,
    live_agents: ArrayLike | None = None,
    sparse_reward: ArrayLike = False,
    observations: ArrayLike | None = None,
) -> Stage:
    """A batch of random stages: every array has a leading axis, so that ``jax.vmap(stage_report)`` takes it.

    Made in NumPy from a seeded generator (drawing is not what needs a compiler). Every number may be given per instance.
    Transitions: `branching` distinct successors with uniform-simplex weights (Archibald, McKinnon, Thomas 1995). Policies:
    Dirichlet(`concentration`) rows. Target: `(1−step)·current + step·Dirichlet(1)`. Rewards: uniform in [0,1], or one action in
    eight rewarded by 1. Agents own states at random (turn-taking) or all act (`actions` a tuple: product team).

    Args:
      states: `S`, or contexts per time step when `horizon` is given.
      discount: `γ` in [0,1); exactly one of `discount` and `horizon`.
      live_states: successors and starts are drawn among the first so many states (default all).
      live_agents: states are owned by the first so many agents (default all); the others own nothing.
      observations: each agent sees one of so many labels at each state, drawn at random, and has one row for each (a random
        Dec-POMDP, U4); default: all states are told apart.

    Raises:
      InputError: both or neither of `discount` and `horizon`; `observations` that are no integers from 1 to the number of rows.

    Example:
      >>> import jax, numpy as np
      >>> from teamtr_jax.surrogates import stage_report
      >>> stages = random_stages(np.random.default_rng(0), 5, states=4, actions=2, agents=3, discount=0.9)
      >>> jax.jit(jax.vmap(stage_report))(stages).gap_fresh.shape
      (5, 3)
    """
    if (discount is None) == (horizon is None):
        raise InputError("discount, horizon", f"{discount}, {horizon}", "exactly one of the two")
    factors = actions if isinstance(actions, tuple) else None
    joint = math.prod(actions) if isinstance(actions, tuple) else actions

    def per_instance(x: ArrayLike | None, default: float) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(default if x is None else x), batch)

    live = per_instance(live_states, states)
    alive = np.arange(states) < live[:, None]
    transition = _transitions(rng, alive, joint, np.minimum(per_instance(branching, states), live))
    uniform = rng.random((batch, states, joint))
    reward = np.where(per_instance(sparse_reward, 0)[:, None, None], (uniform < 0.125) * 1.0, uniform)
    initial = _normalised(np.where(alive, rng.exponential(size=(batch, states)), 0.0))
    rows = states * (1 if horizon is None else horizon)
    alpha, size = per_instance(concentration, 1.0), per_instance(step, 0.1)[:, None, None]

    active = None
    if factors is None:
        owners = np.minimum(per_instance(live_agents, agents), agents)
        active = jnp.asarray(rng.integers(0, owners[:, None], (batch, rows)))
    current, target = _policies(rng, actions, rows, alpha, size)
    order = rng.permuted(np.tile(np.arange(agents), (batch, 1)), axis=1)
    seen = None
    if observations is not None:
        most = integers("observations", np.broadcast_to(observations, batch), 1, rows + 1)
        shape = (batch, rows) if factors is None else (batch, agents, rows)
        seen = rng.integers(0, most.reshape(-1, *(1,) * (len(shape) - 1)), shape)
        current, target = (tied_rows(table, seen, active) for table in (current, target))
    if horizon is None:
        dynamics = Dense(jnp.asarray(transition), jnp.asarray(per_instance(discount, 0.9), jnp.float64))
    else:
        dynamics = Layered(Dense(jnp.asarray(transition), None), horizon)
        reward = np.tile(reward, (1, horizon, 1))
        initial = np.concatenate([initial, np.zeros((batch, rows - states))], -1)
    seen = None if seen is None else jnp.asarray(seen)
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), active, agents, factors, seen)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.asarray(order))


def tied_rows(table: NDArray[np.float64], seen: NDArray[np.int64], active: Any) -> NDArray[np.float64]:
    """`table` [..., S, A] with the row of the first state of an agent at which it sees the same (U4).

    Args:
      seen: labels [..., S], of a product team [..., n, S].
      active: `None`, or the agent that acts at each state.
    """
    label = seen if active is None else np.asarray(active) * seen.shape[-1] + seen
    first = (label[..., :, None] == label[..., None, :]).argmax(-1)
    return np.take_along_axis(table, first[..., None], -2)


def _transitions(
    rng: np.random.Generator, alive: NDArray[np.bool_], actions: int, keep: NDArray[Any]
) -> NDArray[np.float64]:
    """`P` [batch, S, A, S]: `keep` [batch] successors among the states that are `alive` [batch, S]."""
    batch, states = alive.shape
    score = np.where(alive[:, None, None], rng.random((batch, states, actions, states)), 2.0)
    cut = np.take_along_axis(np.sort(score, -1), keep[:, None, None, None].astype(int) - 1, -1)
    return _normalised(np.where(score <= cut, rng.exponential(size=score.shape), 0.0))


def _policies(
    rng: np.random.Generator, actions: int | tuple[int, ...], rows: int, alpha: NDArray[Any], size: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Current and target [batch, rows, A], of a product team [batch, n, rows, max A_k]."""

    def pair(width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        old = _rows(rng, alpha, rows, width)
        return old, (1 - size) * old + size * _rows(rng, np.ones(len(alpha)), rows, width)

    if not isinstance(actions, tuple):
        return pair(actions)
    pads = [[(0, 0), (0, 0), (0, max(actions) - width)] for width in actions]
    tables = [[np.pad(t, pad) for t in pair(width)] for width, pad in zip(actions, pads, strict=True)]
    current, target = (np.stack(side, 1) for side in zip(*tables, strict=True))
    return current, target


def _rows(rng: np.random.Generator, alpha: NDArray[Any], rows: int, width: int) -> NDArray[np.float64]:
    """Dirichlet(`alpha` [batch]) rows [batch, rows, width]."""
    g = rng.gamma(np.broadcast_to(alpha[:, None, None], (len(alpha), rows, width)))
    g[..., 0] += g.sum(-1) == 0  # all underflowed: a corner of the simplex
    return _normalised(g)


def _normalised(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    return weight / weight.sum(-1, keepdims=True)
