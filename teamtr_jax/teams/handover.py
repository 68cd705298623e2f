"""A relay in which coordination matters: all agents see the item, exactly one may take it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from teamtr_jax.dynamics import Dense
from teamtr_jax.types import Team
from teamtr_jax.validation import discount_factor, whole_number

__all__ = ["handover_team"]


def handover_team(agents: int, stations: int, discount: float = 0.9) -> Team:
    """Product team: an item moves along `stations`; at each, all agents at once wait (0) or take it (1).

    If exactly one takes it, the item moves on; from the last station it is delivered (reward 1) and the next one starts at
    station 0. If nobody takes it, it stays; if several do, it falls back to station 0. What is best for an agent turns round
    with what the others do: when all of them wait, taking is best, and when one of them takes, waiting is. The optimum
    delivers an item every `stations` steps: `J* = γ^{stations−1}/(1−γ^{stations})`.

    Args:
      agents: n from 2 to 10; the joint table has `2ⁿ` actions.

    Raises:
      InputError: if a number is out of range.

    Example:
      >>> handover_team(3, 2).reward.shape
      (2, 8)
    """
    whole_number("agents", agents, 2, 10, expected="2 … 10")
    whole_number("stations", stations, 1, expected="at least 1")
    gamma = discount_factor("discount", float(discount))
    takers = np.array([bin(joint).count("1") for joint in range(2**agents)])
    station = np.arange(stations)[:, None]
    following = np.where(takers == 1, (station + 1) % stations, np.where(takers == 0, station, 0))
    reward = (takers == 1) & (station == stations - 1)
    return Team(
        Dense(jnp.asarray(np.eye(stations)[following]), jnp.asarray(gamma)),
        jnp.asarray(reward * 1.0),
        jnp.asarray(np.eye(stations)[0]),
        None,
        agents,
        (2,) * agents,
    )
