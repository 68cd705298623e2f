"""Tables on the transcripts of an enumerated task, their rows tied by what an agent sees: trained exactly, or by rollouts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from experiments.reproduce.training import ground
from teamtr_jax.llm.enumeration import Enumeration
from teamtr_jax.sampled import Sampling, prompts_per_set, sampled_backend
from teamtr_jax.schedules import Schedule, fresh, once, stale_occupancy
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.trust_region import kl_constrained, ppo_clip
from teamtr_jax.types import Team

__all__ = ["TableRun", "RADIUS", "SCHEDULES", "observations", "start_table"]

RADIUS = 0.01
"""`δ`, the paper's."""

GROUP = 8
"""Rollouts of each start."""

SCHEDULES: dict[str, Schedule] = {
    "fresh": fresh,
    "once": once,
    "once, same sets": once._replace(draws=lambda n: n),
    "stale occupancy": stale_occupancy,
}
"""By name; the last one, on exact tables only, has the occupancy of the stage's start and the current team's advantages."""


def observations(world: Enumeration, window: int) -> NDArray[np.int64]:
    """What the agent sees at each node ``[S]``: the prompt and the last `window` positions, its header included; 0: all.

    The label is a node at which an agent sees the same, and one of its own.
    """
    label = np.arange(world.team.reward.shape[0])
    if not window:
        return label
    prompt = world.language.layout.prompt
    for reading in world.readings:
        tokens = np.asarray(reading.tokens)
        tokens = tokens.reshape(-1, tokens.shape[-1])
        nodes, row, position = (np.asarray(x) for x in (reading.nodes, reading.row, reading.position))
        real = nodes < label.size
        nodes, row, position = nodes[real], row[real], position[real, None]
        at = np.arange(tokens.shape[1])
        seen = (at <= position) & ((at < prompt) | (at > position - window))
        key = np.concatenate([np.where(seen, tokens[row], -1), position], 1)
        _, first, which = np.unique(key, axis=0, return_index=True, return_inverse=True)
        label[nodes] = nodes[first][which.ravel()]
    return label


def start_table(world: Enumeration, label: NDArray[np.int64], mean: float, seed: int) -> NDArray[np.float64]:
    """Every row says its second symbol with logit `log(mean/(1−mean)) + ε/2`, ε standard normal, one for each label."""
    rng = np.random.default_rng([seed, 7])
    odds = np.log(mean / (1 - mean)) + 0.5 * rng.normal(size=label.size)
    second = (1 / (1 + np.exp(-odds)))[label]
    own = np.asarray(world.team.active) >= 0
    return np.where(own[:, None], np.stack([1 - second, second], -1), np.asarray(world.chance))


@cache
def _teams(task: str, window: int, mean: float, seeds: int) -> tuple[Team, Array]:
    world = ground(task, False).world
    assert world is not None
    label = observations(world, window)
    one = replace(world.team, observation=jnp.asarray(label))
    team = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)), one)
    return team, jnp.asarray(np.stack([start_table(world, label, mean, seed) for seed in range(seeds)]))


@dataclass(frozen=True)
class TableRun:
    """Tables from `seeds` starts at once, by one schedule. `Job` of `runs`."""

    task: str
    window: int  #: of `observations`
    schedule: str  #: in `SCHEDULES`
    mean: float  #: of `start_table`
    seeds: int
    stages: int
    rollouts: int = 0  #: of one update, the paper's step; 0: exact tables and the exact step (U1)
    radius: float = RADIUS
    seed: int = 0

    @property
    def place(self) -> str:
        """Where its result is kept."""
        name = (
            f"{self.window}-{self.schedule}-{self.rollouts}-{self.radius:g}-{self.mean:.3g}-{self.stages}-{self.seeds}"
        )
        return f"tables/{self.task}/{name}".replace(" ", "-").replace(",", "") + ".json"

    def _backend(self, team: Team) -> Backend:
        if not self.rollouts:
            return exact_backend(team, kl_constrained(self.radius))
        prompts = prompts_per_set(self.rollouts * team.agents, SCHEDULES[self.schedule], team.agents, GROUP)
        # the settings of a PPO update in experiments.tabular: the defaults, but for the backtracks
        return sampled_backend(team, ppo_clip(self.radius, backtracks=6), Sampling(prompts, GROUP))

    def work(self) -> dict[str, Any]:
        """Each seed: J before the first stage and after each; means over stages of the sums over a stage, exact."""
        team, policy = _teams(self.task, self.window, self.mean, self.seeds)
        backend, state = self._backend(team), team_state(team, policy)
        key, values, found = jax.random.key(self.seed), [], []
        for stage in range(self.stages):
            state, records = run_stage(
                backend, state, range(team.agents), SCHEDULES[self.schedule], jax.random.fold_in(key, stage), stage
            )
            exact = [record.exact or {} for record in records]
            if not values:
                values.append(exact[0]["objective_before"])
            values.append(exact[-1]["objective_after"])
            found.append({name: np.stack([x[name] for x in exact]) for name in KEPT})
        columns = {name: np.stack([x[name] for x in found]) for name in KEPT}  # [stages, updates, seeds]
        loss = np.maximum(-columns["improvement"], 0)
        return {
            "values": np.stack(values).T.tolist(),
            "delta_stale": abs(columns["seq_minus_stale"]).sum(1).mean(0).tolist(),
            "d_occ": columns["occupancy_tv_stale"].sum(1).mean(0).tolist(),
            "instability": loss.mean((0, 1)).tolist(),
            "regressions": columns["regression"].mean((0, 1)).tolist(),
        }


KEPT = ("improvement", "seq_minus_stale", "occupancy_tv_stale", "regression")
