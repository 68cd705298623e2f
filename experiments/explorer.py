"""The values behind the explorer of the documentation: `python -m experiments.explorer` writes docs/explorer/values.json.

Two families of teams, evaluated exactly: the coherent relay (R1) and random worlds shared among n agents. In a relay every agent
moves until its KL per episode is δ; in a random team every agent takes the best step with an expected KL of at most δ. What a
trainer is promised for that stage, and what can be certified, depends on when it collects rollouts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from teamtr_jax.bounds import penalty_stale_return_range
from teamtr_jax.certificates import (
    stage_bound_cached,
    stage_bound_paper,
    stage_bound_stale_paper,
    stage_bound_weighted,
)
from teamtr_jax.dynamics import Dense
from teamtr_jax.files import output_file, replacing
from teamtr_jax.surrogates import stage_report
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import relay_stage
from teamtr_jax.types import Stage, Team

__all__ = ["AXES", "SCHEDULES", "NUMBERS", "VALUES", "settings", "relay", "random_team", "values", "document"]

VALUES = Path(__file__).parents[1] / "docs/explorer/values.json"
DELTAS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
AXES: dict[str, dict[str, tuple[float, ...]]] = {
    "relay": {"n": (1, 2, 4, 8, 16, 32), "p": (0.001, 0.01, 0.1), "delta": DELTAS},
    "random": {"n": (1, 2, 4, 8, 16), "gamma": (0.5, 0.8, 0.9, 0.95, 0.99), "world": (1, 2, 3), "delta": DELTAS},
}
"""What the sliders move, outermost first; the values of every family are in this order."""

SCHEDULES = ("every update", "every 2nd update", "every 4th update", "once", "once, present advantages")
"""When new rollouts are collected. The last: old rollouts, but the advantages of the team as it is (stale)."""

EVERY = (1, 2, 4, None)
"""Updates that share their rollouts, of the schedules but the last; `None`: all of them."""

NUMBERS = ("promised", "gaps", "certified", "paper")
"""For each schedule: sum of the surrogates, sum of the |gaps|, lower bound from rollouts, the paper's lower bound (or none)."""

STATES, ACTIONS = 16, 3
DIGITS = 6


def relay(n: int, p: float, delta: float) -> Stage:
    """The coherent relay: two turns an agent, each of which steps up with probability `p`, moved until its KL is `delta`."""

    def kl(q: float) -> float:
        return 2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) - delta

    moved: Any = brentq(kl, p, 1 - 1e-12, xtol=1e-16)
    return relay_stage(n, p, float(moved) - p, slots=n)


def random_team(n: int, gamma: float, world: int, delta: float) -> Stage:
    """A random world whose states `n` agents share evenly, and one exact improvement step of each, KL at most `delta`."""
    rng = np.random.default_rng(world)
    transition, reward = rng.dirichlet(np.full(STATES, 0.2), (STATES, ACTIONS)), rng.random((STATES, ACTIONS))
    initial, current = rng.dirichlet(np.ones(STATES)), rng.dirichlet(np.ones(ACTIONS), STATES)
    active = rng.permutation(STATES) % n
    dynamics = Dense(jnp.asarray(transition), jnp.asarray(gamma))
    team = Team(dynamics, jnp.asarray(reward), jnp.asarray(initial), jnp.asarray(active), n)
    return improvement_stage(team, jnp.asarray(current), delta, range(n))


MAKE = {"relay": relay, "random": random_team}


class Block(NamedTuple):
    """Sums over the updates that share their rollouts."""

    promised: jax.Array
    gaps: jax.Array
    certified: jax.Array


@jax.jit
def _blocks(stage: Stage, every: jax.Array) -> Block:
    """Promises, gaps and certificates where rollouts are collected before update 0 and every `every` later.

    Each block is a stage of its own that begins where the one before it ended; the updates outside it do nothing.
    """
    team = stage.team
    assert team.active is not None
    position = jnp.argsort(stage.order)[team.active][:, None]

    def block(start: jax.Array) -> Block:
        current, target = (jnp.where(position < end, stage.target, stage.current) for end in (start, start + every))
        report = stage_report(Stage(team, current, target, stage.order))
        certified = jnp.maximum(stage_bound_cached(report), stage_bound_weighted(report))
        return Block(report.surrogate_cached.sum(), abs(report.gap_cached).sum(), certified)

    return jax.tree.map(jnp.sum, jax.lax.map(block, every * jnp.arange(team.agents)))


@jax.jit
def _whole(stage: Stage) -> dict[str, jax.Array]:
    report = stage_report(stage)
    certified = (report.surrogate_stale - penalty_stale_return_range(report)).sum()
    return {
        "before": report.objective[0],
        "brings": report.improvement,
        "kl": report.kl.mean(),
        "stale": jnp.stack([report.surrogate_stale.sum(), abs(report.gap_stale).sum(), certified]),
        "paper": stage_bound_paper(report),
        "stale_paper": stage_bound_stale_paper(report),
    }


def values(stage: Stage) -> dict[str, Any]:
    """What a stage brings: `before`, `brings`, `kl`, and under `schedules` a row of `NUMBERS` for each of `SCHEDULES`."""
    whole, n = _whole(stage), stage.team.agents
    rows: list[list[float | None]] = []
    for every in EVERY:
        block = _blocks(stage, jnp.asarray(min(every or n, n)))
        paper = float(whole["paper"]) if every == 1 else None
        rows.append([float(block.promised), float(block.gaps), float(block.certified), paper])
    rows.append([*(float(x) for x in whole["stale"]), float(whole["stale_paper"])])
    return {**{key: float(whole[key]) for key in ("before", "brings", "kl")}, "schedules": rows}


def settings(family: str) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Every setting of a family with its place in the list of values."""
    axes = list(AXES[family].values())
    for place, index in enumerate(np.ndindex(*(len(axis) for axis in axes))):
        yield place, tuple(axis[i] for axis, i in zip(axes, index, strict=True))


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return None if value is None else float(f"{value:.{DIGITS}g}")


def document() -> dict[str, Any]:
    """What is written: axes, names and values to `DIGITS` digits, without a key that is repeated for every setting."""
    families = {}
    for family, axes in AXES.items():
        rows = []
        for _, setting in settings(family):
            found = _short(values(MAKE[family](*setting)))
            rows.append(
                [found["before"], found["brings"], found["kl"], *(x for row in found["schedules"] for x in row)]
            )
        families[family] = {"axes": axes, "values": rows}
    return {
        "schema": 1,
        "command": "python -m experiments.explorer",
        "schedules": SCHEDULES,
        "numbers": NUMBERS,
        **families,
    }


def main(path: Path = VALUES) -> None:
    """Write the values."""
    jax.config.update("jax_enable_x64", True)
    output_file("path", path)
    text = json.dumps(document(), allow_nan=False, separators=(",", ":")).replace("],[", "],\n[")
    data = f"{text}\n".encode()
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    print(f"{path}: {len(data):,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
