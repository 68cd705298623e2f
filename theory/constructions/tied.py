"""U4: teams in which an agent has one row for contexts that ask for different actions, and others move it between them.

*Crossing*: two agents, two rows, everything rational; resampling wins by any factor. *Drift*: random teams of n agents that move
a position and are asked later on which side it is, of which they see a label. Derivation: theory/derivations/u4.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.types import Team

__all__ = ["Crossing", "crossing_team", "crossing_gains", "crossing_radius", "factor_of", "DriftSizes", "drift_teams"]


class Crossing(NamedTuple):
    """What the updates of a stage of `crossing_team` promise and bring; numbers of the type that went in."""

    first: Any  #: agent 0's update, whatever the schedule
    promised: Any  #: agent 1's on the rollouts of the start: `L^stale` and `L^cached`
    stale: Any  #: what that brings
    fresh: Any  #: what agent 1's update on new rollouts promises and brings

    @property
    def stage_fresh(self) -> Any:
        return self.first + self.fresh

    @property
    def stage_stale(self) -> Any:
        return self.first + self.stale


def crossing_team(tilt: float, lead: float) -> tuple[Team, Array]:
    """Agent 0 leads to x or y, agent 1 has one row for both; all rows are (½, ½).

    Two steps, two contexts. Step 0: agent 0 leads to x by action 0, to y by action 1, which pays `lead + tilt/2`. Step 1: agent 1
    earns 1 at x by action 1, `1 − tilt` at y by action 0. So to agent 0 action 1 is worth `lead` more than action 0.

    Args:
      tilt: in (0, 1).
      lead: positive.
    """
    kernel = np.zeros((2, 2, 2))
    kernel[:, 0, 0] = kernel[:, 1, 1] = 1.0
    reward = np.zeros((4, 2))
    reward[0, 1], reward[2, 1], reward[3, 0] = lead + tilt / 2, 1.0, 1.0 - tilt
    arrays = jnp.asarray(reward), jnp.array([1.0, 0, 0, 0]), jnp.array([0, 0, 1, 1])
    team = Team(Layered(Dense(jnp.asarray(kernel), None), 2), *arrays, 2, observation=jnp.array([0, 1, 2, 2]))
    return team, jnp.full((4, 2), 0.5)


def crossing_gains(step: Any, tilt: Any, lead: Any) -> Crossing:
    """Each agent moves a probability by `step`: `first = ε·lead`, `promised = ε·tilt/2`, `fresh = −stale = ε(2ε − tilt(½+ε))`.

    Exact at every size; rational numbers give rational ones.
    """
    after = step * (2 * step - tilt * (1 + 2 * step) / 2)
    return Crossing(step * lead, step * tilt / 2, -after, after)


def crossing_radius(step: float) -> float:
    """`KL((½, ½) ‖ (½−ε, ½+ε)) = −½ log(1 − 4ε²)`: the radius at which both exact steps move by ε, in nats."""
    return -0.5 * math.log1p(-4 * step**2)


def factor_of(step: Any, tilt: Any, factor: Any) -> Any:
    """The `lead` at which a fresh stage gains `factor` times (> 1) what a stale or cached one does.

    Below `factor → ∞`, that is `2·step − tilt(½+step)`, the fresh stage gains and the others lose.
    """
    return (2 * step - tilt * (1 + 2 * step) / 2) * (factor + 1) / (factor - 1)


class DriftSizes(NamedTuple):
    """Shape of a batch of drift teams: an episode of `2·agents` turns over `positions`."""

    agents: int = 6
    positions: int = 9


PUSH = 0.05
"""What an agent earns by a push in its own direction."""


def drift_teams(
    rng: np.random.Generator,
    batch: int,
    labels: int,
    coherence: float = 1.0,
    forget: float = 0.0,
    sizes: DriftSizes | None = None,
) -> tuple[Team, Array]:
    """Random teams that move a position and are asked later where it is; rows are tied by what an agent sees of it.

    At turn k < n agent k pushes the position down (action 0) or up (1), and earns `PUSH` in its own direction, which is up with
    probability `(1+coherence)/2`. At turn n + k it says whether the position is above the middle (1) or below (0); right pays a
    weight of the position, uniform on [.5, 1.5]/n; at the middle a coin of the team decides. Pushes stop at both ends. After
    every turn the position returns to where it began, the middle or beside it, with probability `forget`.

    An agent sees one of `labels` labels, which positions share at random (equally often but for one), and whether it pushes or
    says. Its rows are uniform on [.3, .7]. With as many labels as positions it tells all of them apart. What is drawn does not
    depend on `labels`, `coherence` and `forget`, so that teams can be compared in pairs.

    Returns:
      The teams, every array with a leading axis of `batch`, and their policies.
    """
    n, width = sizes or DriftSizes()
    horizon, x, middle = 2 * n, np.arange(width), width // 2
    up = rng.random((batch, n)) < (1 + coherence) / 2
    weight, coin = rng.uniform(0.5, 1.5, (batch, width)) / n, rng.integers(0, 2, batch)
    begin = middle + rng.integers(-1, 2, batch)
    label = rng.permuted(np.tile(x, (batch, 1)), axis=1) % labels
    rows = rng.uniform(0.3, 0.7, (batch, horizon, width))

    kernel = np.zeros((batch, horizon, width, 2, width))
    for action, way in enumerate((-1, 1)):
        kernel[:, :n, x, action, np.clip(x + way, 0, width - 1)] = 1.0 - forget
        kernel[:, n:, x, action, x] = 1.0 - forget
    kernel[np.arange(batch), ..., begin] += forget
    reward = np.zeros((batch, horizon, width, 2))
    above = np.where(x == middle, coin[:, None], x > middle)
    for action in range(2):
        reward[:, :n, :, action] = PUSH * (up == action)[..., None]
        reward[:, n:, :, action] = (weight * (above == action))[:, None]
    initial = np.zeros((batch, horizon * width))
    initial[np.arange(batch), begin] = 1.0

    seen = np.stack([label, width + label], 1).repeat(n, axis=1).reshape(batch, -1)
    rate = np.take_along_axis(rows, label[:, None].repeat(horizon, 1), 2).reshape(batch, -1)
    active = np.tile((np.arange(horizon) % n).repeat(width), (batch, 1))
    team = Team(
        Layered(Dense(jnp.asarray(kernel), None), horizon, stationary=False),
        jnp.asarray(reward.reshape(batch, -1, 2)), jnp.asarray(initial), jnp.asarray(active), n, observation=jnp.asarray(seen),
    )  # fmt: skip
    return team, jnp.asarray(np.stack([1 - rate, rate], -1))
