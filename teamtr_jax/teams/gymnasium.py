"""Teams from Gymnasium's tables: any environment that exposes `P[s][a] = [(prob, next, reward, terminated), …]`."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Successors
from teamtr_jax.types import Team
from teamtr_jax.validation import InputError, discount_factor

__all__ = ["gymnasium_team", "Router", "ROUTERS"]

Router = Literal["round_robin", "random"]
ROUTERS: tuple[Router, ...] = ("round_robin", "random")


def _table(environment: str) -> tuple[dict[Any, Any], NDArray[np.float64]]:
    try:
        import gymnasium
    except ImportError as error:
        raise InputError("gymnasium", "not installed", "pip install 'teamtr-jax[gym]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name without a version is meant: take the installed one
            made: Any = gymnasium.make(environment).unwrapped
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("ENV", f"{environment!r} ({reason})", "the name of an installed environment") from error
    table, start = getattr(made, "P", None), getattr(made, "initial_state_distrib", None)
    if not isinstance(table, dict) or start is None:
        expected = "an environment that exposes its table (attributes P and initial_state_distrib), such as FrozenLake"
        raise InputError("ENV", f"{environment!r} without a table", expected)
    return table, np.asarray(start, np.float64)


def gymnasium_team(environment: str, agents: int, router: str = "round_robin", discount: float = 0.99) -> Team:
    """A turn-taking team in a tabular environment: state = (environment state, who speaks), index `s·n + speaker`.

    After a `terminated` transition the team sits in one more environment state that never pays and never ends, the turn
    still going round. `round_robin`: agent 0 starts and the next speaker is `j+1 mod n`. `random`: every speaker, the first
    included, is drawn uniformly. The environment does not see who speaks, so the optimal return of the team is the
    environment's own.

    Raises:
      InputError: unknown environment, one without a table, bad `agents`, `router` or `discount`; gymnasium missing.
    """
    if agents < 1:
        raise InputError("agents", agents, "at least 1")
    if router not in ROUTERS:
        raise InputError("router", repr(router), " or ".join(ROUTERS))
    gamma = discount_factor("discount", float(discount))
    table, start = _table(environment)
    n_states, n_actions = len(table), len(table[0])
    slots = max(len(table[s][a]) for s in table for a in table[s])
    index = np.full((n_states + 1, n_actions, slots), n_states)
    prob = np.zeros((n_states + 1, n_actions, slots))
    reward = np.zeros((n_states + 1, n_actions))
    prob[n_states, :, 0] = 1.0
    for s in range(n_states):  # reading Gymnasium's nested dictionaries, once
        for a in range(n_actions):
            for k, (p, following, r, terminated) in enumerate(table[s][a]):
                index[s, a, k] = n_states if terminated else following
                prob[s, a, k] = p
                reward[s, a] += p * r

    speakers = np.arange(agents)
    if router == "round_robin":
        following = ((speakers + 1) % agents)[None, :, None, None]
        team_index = index[:, None] * agents + following
        team_prob = np.broadcast_to(prob[:, None], team_index.shape)
        first = np.where(speakers == 0, 1.0, 0.0)
    else:
        team_index = (index[..., None] * agents + speakers).reshape(n_states + 1, 1, n_actions, -1)
        team_prob = np.repeat(prob / agents, agents, -1)[:, None]
        team_index, team_prob = (np.repeat(x, agents, 1) for x in (team_index, team_prob))
        first = np.full(agents, 1 / agents)
    states = (n_states + 1) * agents
    initial = np.append(start / start.sum(), 0.0)[:, None] * first
    return Team(
        Successors(
            jnp.asarray(team_index.reshape(states, n_actions, -1)),
            jnp.asarray(team_prob.reshape(states, n_actions, -1)),
            jnp.asarray(gamma),
        ),
        jnp.asarray(np.repeat(reward, agents, 0)),
        jnp.asarray(initial.ravel()),
        jnp.asarray(np.tile(speakers, n_states + 1)),
        agents,
    )
