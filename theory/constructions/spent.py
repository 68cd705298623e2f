"""S10 in product teams: what a budget of the agents' own χ² does not buy for the cached surrogate.

Agent 0 plays "stop" with probability `q` for `turns` steps, and is updated to never stop; then, or where it has
stopped, all that is left of a budget of 1 is spent at once by two agents. On paths that have stopped the ratio is 0,
every further bit of the joint χ² counts in full, and two agents who spend `y/2` each have a joint χ² of `y + y²/4`. The
return is the martingale of the proof.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from teamtr_jax.dynamics import Dense
from teamtr_jax.types import Stage, Team

__all__ = ["BUDGET", "spent_stage"]

BUDGET = 1.0
"""Of the sum of both agents' own χ² along every path."""


def spent_stage(turns: int = 30, each: float = 1 / 32) -> Stage:
    """A product team of two, in which every path spends `BUDGET` of the agents' own χ².

    A stop has probability `q` with `q/(1−q) = each`. States: still going at step t, the last shot after a stop at step t, and the
    last shot of those that never stopped.

    Args:
      turns: steps in which agent 0 may stop, `turns·each < 1`.
      each: χ² of each of them.
    """
    states, q = 2 * turns + 1, each / (1 + each)
    going, shot = np.arange(turns), turns + np.arange(turns + 1)
    move = np.zeros((states, 2, 2, states))
    move[going, 0, :, np.append(going[1:], shot[-1])] = 1.0
    move[going, 1, :, shot[:-1]] = 1.0
    clock = np.concatenate([going, going + 1, [turns]])
    left = BUDGET - each * np.append(going + 1, turns)  # of the budget, at the last shots
    low = left / 2  # a coin: the ratio less 1 is 1 with probability low/(1+low), else −low
    chance = low / (1 + low)
    current, target = (np.zeros((2, states, 2)) for _ in range(2))
    current[..., 0] = target[..., 0] = 1.0
    current[0, going] = [1 - q, q]
    current[:, shot] = np.stack([1 - chance, chance], -1)
    target[:, shot] = np.stack([(1 - low) * (1 - chance), 2 * chance], -1)
    ratio = np.append(np.zeros(turns), (1 - q) ** -turns)
    before = np.append(-each * going, (1 - q) ** -turns - 1 - turns * each)  # Λ − 1 − Σu when the last shot comes
    one = np.stack([-low, np.ones(turns + 1)], -1)
    moved = (1 + one[:, :, None]) * (1 + one[:, None, :]) - 1
    reward = np.zeros((states, 2, 2))
    reward[shot] = before[:, None, None] + (ratio - 1)[:, None, None] * moved
    start = np.eye(states)[0]
    world = Dense(jnp.asarray(move.reshape(states, 4, states)), jnp.asarray(1.0), jnp.asarray(clock), turns + 1)
    team = Team(world, jnp.asarray(reward.reshape(states, 4)), jnp.asarray(start), None, 2, (2, 2))
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(2))
