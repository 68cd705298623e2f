"""The teams of the studies, in batches: one leading axis of instances, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.teams import gymnasium_team, handover_team, random_stages, relay_stage
from teamtr_jax.types import Team
from teamtr_jax.values import optimal_values
from theory.constructions.tied import DriftSizes, drift_teams

__all__ = ["Family", "FAMILIES", "family", "garnet"]

OBSERVATIONS = 4
"""Labels of an agent of `garnet-tied`."""


class Family(NamedTuple):
    """N teams of one shape and where they start."""

    name: str
    team: Team  #: every array with a leading axis of N
    policy: Array
    optimum: NDArray[np.float64]  #: [N], `J*` of the best joint policy
    about: dict[str, Any]  #: what is held fixed: printed beside every result

    @property
    def instances(self) -> int:
        return self.optimum.shape[0]

    @property
    def discount(self) -> float | None:
        """`γ`, `None` when episodic."""
        return None if self.team.dynamics.horizon is not None else float(np.asarray(self.team.dynamics.discount).max())


def _made(name: str, team: Team, policy: Array, **about: Any) -> Family:
    optimum = np.asarray((jax.vmap(optimal_values)(team) * team.initial).sum(-1))
    return Family(name, team, policy, optimum, {"family": name, "instances": len(optimum), **about})


def _repeated(tree: Any, instances: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (instances, *x.shape)), tree)


def _dirichlet(rng: np.random.Generator, shape: tuple[int, ...], concentration: float) -> Array:
    return jnp.asarray(rng.dirichlet(np.full(shape[-1], concentration), shape[:-1]))


def garnet(
    instances: int,
    seed: int,
    agents: int = 3,
    states: int = 32,
    actions: int = 4,
    discount: float = 0.9,
    live_agents: NDArray[np.int64] | None = None,
) -> Family:
    """Garnet teams, turn-taking: random owners of the states, 3 successors, rewards in [0, 1], Dirichlet(1) start policies."""
    stages = random_stages(
        np.random.default_rng(seed), instances, states, actions, agents, discount, branching=3, live_agents=live_agents
    )
    about = {"agents": agents, "states": states, "actions": actions, "discount": discount, "branching": 3, "seed": seed}
    return _made("garnet", stages.team, stages.current, **about)


def _frozenlake(instances: int, seed: int, agents: int = 3) -> Family:
    """FrozenLake 4×4, agents speak in turn, γ = .95; every instance starts at its own Dirichlet(3) policy."""
    team = gymnasium_team("FrozenLake", agents, discount=0.95, drop_time_limit=True)
    policy = _dirichlet(np.random.default_rng(seed), (instances, *team.reward.shape), 3.0)
    about = {"agents": agents, "discount": 0.95, "router": "round robin", "seed": seed}
    return _made("frozenlake", _repeated(team, instances), policy, **about)


def _relay(instances: int, seed: int, agents: int = 4) -> Family:
    """Relay of 2 rounds, outcome reward; each agent steps up with its own probability in [.1, .4] at each context."""
    stage = relay_stage(agents, 0.25, 0.0, slots=agents)
    up = np.random.default_rng(seed).uniform(0.1, 0.4, (instances, *stage.current.shape[:1]))
    policy = jnp.asarray(np.stack([1 - up, up], -1))
    return _made("relay", _repeated(stage.team, instances), policy, agents=agents, rounds=2, seed=seed)


def _handover(instances: int, seed: int, agents: int = 3) -> Family:
    """Handover at 3 stations, γ = .9: a product team; each agent takes with its own probability in [.1, .4] at each station."""
    team = handover_team(agents, 3, 0.9)
    up = np.random.default_rng(seed).uniform(0.1, 0.4, (instances, agents, 3))
    policy = jnp.asarray(np.stack([1 - up, up], -1))
    return _made("handover", _repeated(team, instances), policy, agents=agents, stations=3, discount=0.9, seed=seed)


def _drift(instances: int, seed: int, labels: int = 1) -> Family:
    """Drift teams (theory/constructions/tied.py): six agents with tied rows, episodic. `J*` is that of a team that sees all."""
    team, policy = drift_teams(np.random.default_rng(seed), instances, labels)
    about = {"agents": team.agents, "positions": DriftSizes().positions, "observations": labels, "seed": seed}
    return _made("drift" if labels == 1 else "drift-apart", team, policy, **about)


def _garnet_tied(instances: int, seed: int, agents: int = 3) -> Family:
    """As `garnet`, where an agent sees one of four labels, drawn for each state. `J*` is that of a team that sees all."""
    stages = random_stages(
        np.random.default_rng(seed), instances, 32, 4, agents, 0.9, branching=3, observations=OBSERVATIONS
    )
    about = {"agents": agents, "states": 32, "actions": 4, "discount": 0.9, "observations": OBSERVATIONS, "seed": seed}
    return _made("garnet-tied", stages.team, stages.current, **about)


FAMILIES: dict[str, Callable[[int, int], Family]] = {
    "garnet": garnet,
    "frozenlake": _frozenlake,
    "relay": _relay,
    "handover": _handover,
    "drift": _drift,
    "drift-apart": partial(_drift, labels=DriftSizes().positions),
    "garnet-tied": _garnet_tied,
}


def family(name: str, instances: int, seed: int) -> Family:
    """A family by name."""
    return FAMILIES[name](instances, seed)
