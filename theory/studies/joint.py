"""U1: how far each agent goes, chosen together under one certificate of the stage; exactly in tables, and from rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax import finite_sample as fs
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import random_stages, relay_stage
from teamtr_jax.trust_region import (
    budget_scales,
    certificate_optimal,
    joint_scales,
    kl_constrained,
    scaled,
    value_weighted,
)
from teamtr_jax.types import Estimate, Step, Team
from teamtr_jax.values import advantage_error, advantages, evaluate_policy, objective, return_bounds, return_range
from teamtr_jax.visits import marginal_advantage, team_policy
from theory.fits import median_interval
from theory.ledger import Row
from theory.studies import s8
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "JointData", "Outcome", "run"]

Floats = NDArray[np.float64]
RADII = 10.0 ** np.arange(-4.0, 0.1, 0.5)
WAYS = ("full", "common", "joint", "joint, S7c", "own radius, S7c", "S9 step")
"""All from the tables of the team as it stands alone; certificates are S9 (e) where nothing else is said."""
ALPHA = 0.1


class Outcome(NamedTuple):
    """What a way to choose certifies and what it gains, [radius, team]."""

    certified: Floats
    improvement: Floats


class Sampled(NamedTuple):
    """From rollouts, one number for each repetition."""

    limit: Floats  #: of level 1 − α
    improvement: Floats  #: the true one at the scales chosen


class JointData(NamedTuple):
    """What was found."""

    exact: dict[str, dict[str, Outcome]]  #: by kind of team and way
    violations: int
    budget: dict[str, tuple[float, float]]  #: S10 on a relay, by way: certificate, improvement
    sampled: dict[str, Sampled]


def _targets(team: Team, policy: Array, radius: Array) -> tuple[Array, Array, Array]:
    """Where all agents go from the same tables: exact steps of a radius, of the multiplier ϱ (the best for S7), and of S9 (d)."""
    joint = team_policy(team, policy)
    resolvent, v, m = evaluate_policy(team, joint)
    error, a = advantage_error(team, joint, resolvent, v), advantages(team, v)
    q = jnp.maximum(a + (v - return_bounds(team)[0])[:, None], 0.0)
    weight = m if team.dynamics.horizon is not None else m / m.sum()
    agents = jnp.arange(team.agents)

    def moved(step: Step) -> Array:
        def own(rows: Array, weight: Array, advantage: Array, value: Array, off: Array) -> Array:
            gained = weight[:, None] * rows * advantage
            signed = jnp.maximum(gained, 0), jnp.maximum(-gained, 0)
            estimate = Estimate(weight, advantage, *signed, jnp.maximum(value, 0.0), off, off)
            return step(rows, estimate, jnp.zeros(()))[0]

        if team.factors is not None:
            mine = (jax.vmap(lambda k, x=x: marginal_advantage(team, policy, x, k))(agents) for x in (a, q, error))
            return jax.vmap(own, in_axes=(0, None, 0, 0, 0))(policy, weight, *mine)
        assert team.active is not None
        acts = team.active == agents[:, None]
        tables = jax.vmap(lambda acts: own(policy, jnp.where(acts, weight, 0.0), a, q, error))(acts)
        return jnp.where(acts[..., None], tables - policy, 0.0).sum(0) + policy

    return moved(kl_constrained(radius)), moved(certificate_optimal(return_range(team))), moved(value_weighted())


def _gained(team: Team, policy: Array, tables: Array) -> Array:
    both = jnp.stack([team_policy(team, policy), team_policy(team, tables)])
    before, after = jax.vmap(lambda x: objective(team, x))(both)
    return after - before


_joint_scales_of_s7c = partial(joint_scales, form="log_sum")


def _scaled(team: Team, policy: Array, target: Array, scales: Array) -> Array:
    return scaled(policy, target, team, scales)


@cache
def _over(f: Callable[..., Any], tables: int) -> Callable[..., Any]:
    """`f` of every team with its policy, at every radius: compiled once for teams of one shape."""
    inner = jax.vmap(f, in_axes=(0, 0) + (0,) * tables)
    return jax.jit(jax.vmap(inner, in_axes=(None, None) + (0,) * tables))


def _ways(teams: Team, policies: Array, radii: Floats) -> dict[str, Outcome]:
    """Certificate and improvement of every way, [radius, team]. One factorisation a program (`dynamics/_linear.py` says why)."""

    def over(f: Callable[..., Any], *tables: Array) -> Any:
        return _over(f, len(tables))(teams, policies, *tables)

    ones = jnp.ones((len(radii), policies.shape[0]))
    targets, penalised, weighted = over(_targets, jnp.asarray(radii)[:, None] * ones)
    agents = jnp.ones((*ones.shape, teams.agents))
    found = over(joint_scales, targets)
    other = over(_joint_scales_of_s7c, targets)

    def tables(scales: Array) -> Array:
        return over(_scaled, targets, scales)

    at = {
        "full": (found.full_certificate, targets),
        "common": (found.common_certificate, tables(found.common[..., None] * agents)),
        "joint": (found.certificate, tables(found.scales)), "joint, S7c": (other.certificate, tables(other.scales)),
        "own radius, S7c": (over(_joint_scales_of_s7c, penalised).full_certificate, penalised),
        "S9 step": (over(joint_scales, weighted).full_certificate, weighted),
    }  # fmt: skip
    return {name: Outcome(np.asarray(lower), np.asarray(over(_gained, moved))) for name, (lower, moved) in at.items()}


KINDS = {
    "turns, γ = 0.9": {"states": 12, "actions": 3, "agents": 4, "discount": 0.9, "branching": 3},
    "product, γ = 0.9": {"states": 6, "actions": (2, 2, 2), "agents": 3, "discount": 0.9, "branching": 3},
    "turns, T = 8": {"states": 4, "actions": 3, "agents": 4, "horizon": 8},
}


def _relay_budget() -> dict[str, tuple[float, float]]:
    """S10 on the relay of four agents, two turns each, whose steps are 1, 2, 4 and 8 times 0.04 long."""
    probability, lengths = 0.2, 0.04 * np.array([1.0, 2.0, 4.0, 8.0])
    stage = relay_stage(4, probability, 0.0, slots=4)
    assert stage.team.active is not None
    rows = np.asarray(stage.team.active)

    def tables(scales: Floats) -> Array:
        return stage.current + jnp.asarray((scales * lengths)[rows][:, None] * np.array([-1.0, 1.0]))

    report = evaluate_stage(replace(stage, target=tables(np.ones(4))))
    surrogate = np.asarray(report.surrogate_reused)
    chi_square = 2 * lengths**2 / (probability * (1 - probability))
    start = float(report.objective[0])
    deviation = math.sqrt(start * (1 - start))

    def certified(scales: Floats) -> float:
        total = float((scales**2 * chi_square).sum())
        return float(scales @ surrogate) - deviation * math.sqrt(math.expm1(total) - total)

    def own(k: slice) -> Floats:
        return np.asarray(budget_scales(jnp.asarray(surrogate[k]), jnp.asarray(chi_square[k]), deviation))

    scales = {
        "joint": own(slice(4)), "each as if alone": np.concatenate([own(slice(k, k + 1)) for k in range(4)]),
        "common": max((np.full(4, t) for t in np.linspace(0, 1, 2_001)), key=certified), "full": np.ones(4),
    }  # fmt: skip
    return {name: (certified(t), float(objective(stage.team, tables(t))) - start) for name, t in scales.items()}


LENGTHS = (0.1, 0.05, -0.1, 0.6)
"""Four agents of two turns each at p = 0.2: three good steps, one of them too long, and a harmful one."""


CHOICES = (
    "halves, joint",
    "halves, common",
    "halves, joint by S9 (e)",
    "all, full",
    "all, union over 8 common",
    "one half twice",
)
"""The last has no guarantee: chosen and certified on the same prompts."""


def _problem() -> tuple[s8.Problem, NDArray[np.int64]]:
    stage = relay_stage(4, 0.2, 0.0, slots=4)
    active = np.asarray(stage.team.active).reshape(8, 3)
    current = np.asarray(stage.current).reshape(8, 3, 2)
    new = current + np.array(LENGTHS)[active][..., None] * np.array([-1.0, 1.0])
    reward = np.asarray(stage.team.reward).reshape(8, 3, 2)
    dynamics: Any = stage.team.dynamics
    task = s8.Problem("four steps", current, new, np.asarray(dynamics.kernel.transition), reward[-1],
                      np.asarray(stage.team.initial)[:3], tuple(range(8)))  # fmt: skip
    return task, active[:, 0]


def _best(slope: Callable[[Floats], Floats], agents: int) -> Floats:
    """Zeros of decreasing slopes on [0, 1]."""
    low, high = np.zeros(agents), np.ones(agents)
    for _ in range(40):
        middle = (low + high) / 2
        rises = slope(middle) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return np.where(slope(np.zeros(agents)) > 0, low, 0.0)


def _sampled(rng: np.random.Generator, repeats: int, prompts: int) -> dict[str, Sampled]:
    """Scales from one half of the prompts, a certificate from the other; and what stands beside it."""
    task, owner = _problem()
    agents = len(LENGTHS)
    grid = np.arange(9) / 8
    first, second, every = slice(0, prompts // 2), slice(prompts // 2, prompts), slice(0, prompts)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CHOICES}

    def gain(t: Floats) -> float:
        return task._replace(new=task.current + t[owner][:, None, None] * (task.new - task.current)).improvement

    for _ in range(repeats):
        x = s8.rollouts(task, rng, prompts, 1)
        u = np.expm1(x.log_ratio[:, 0])

        def numbers(t: Floats, rows: slice, x: s8.Rollouts = x, u: Floats = u) -> fs.Sample:
            with np.errstate(divide="ignore"):
                return fs.path_sample(x.reward[rows], np.log1p(t[owner] * u[rows])[:, None])

        def limit(t: Floats, rows: slice, alpha: float, numbers: Callable[..., fs.Sample] = numbers) -> float:
            return float(fs.betting_bound(numbers(t, rows), alpha, 40))

        def estimated(
            t: Floats, numbers: Callable[..., fs.Sample] = numbers
        ) -> float:  # of the limit, from the first half
            z = numbers(t, first).values
            return float(z.mean() - math.sqrt(2 * z.var() * math.log(1 / ALPHA) / len(z)))

        def slopes(t: Floats, x: s8.Rollouts = x, u: Floats = u) -> Floats:
            per_message = (x.reward[first] * u[first] / (1 + t[owner] * u[first])).mean(0)
            return np.bincount(owner, per_message, agents).astype(float)

        joint = np.zeros(agents)
        for k in [*range(agents)] * 2:
            joint = max((np.where(np.arange(agents) == k, g, joint) for g in grid), key=estimated)
        common = max((np.full(agents, g) for g in grid), key=estimated)
        weighted, ones = _best(slopes, agents), np.ones(agents)
        looks = [(limit(g * ones, every, ALPHA / len(grid[1:])), gain(g * ones)) for g in grid[1:]]
        chosen = (
            (limit(joint, second, ALPHA), gain(joint)), (limit(common, second, ALPHA), gain(common)),
            (limit(weighted, second, ALPHA), gain(weighted)), (limit(ones, every, ALPHA), gain(ones)), max(looks),
            (limit(joint, first, ALPHA), gain(joint)),
        )  # fmt: skip
        for name, pair in zip(CHOICES, chosen, strict=True):
            found[name].append(pair)
    return {name: Sampled(*np.array(pairs).T) for name, pairs in found.items()}


def _ratio(by: dict[str, Outcome], over: str, under: str, at: int, field: str) -> str:
    x, y = (getattr(by[name], field)[at] for name in (over, under))
    middle, low, high = median_interval(np.where(y > 0, x / np.where(y > 0, y, 1.0), math.inf))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _note(data: JointData, teams: int) -> str:
    def kind(name: str) -> str:
        by = data.exact[name]
        parts = []
        for at, radius in enumerate(RADII):
            if abs(math.log10(radius) % 1) > 1e-9:
                continue
            parts.append(
                f"δ = {radius:g}: certified {_ratio(by, 'joint', 'common', at, 'certified')}, gained "
                f"{_ratio(by, 'joint', 'common', at, 'improvement')}; full certifies "
                f"{(by['full'].certified[at] > 0).sum()} of {teams}"
            )
        last = len(RADII) - 1
        rest = ", ".join(
            f"{other} {_ratio(by, other, 'joint', last, 'certified')}, {_ratio(by, other, 'joint', last, 'improvement')}"
            for other in WAYS[4:]
        )
        return f"{name}: {'; '.join(parts)}; of the joint choice at δ = 1 certify and gain: {rest}"

    budget = ", ".join(f"{name} {lower:.4f} of {true:.4f}" for name, (lower, true) in data.budget.items())

    def sampled(name: str) -> str:
        x = data.sampled[name]
        middle, low, high = median_interval(x.limit)
        least, most = map(float, s8.coverage_interval(int((x.limit <= x.improvement).sum()), len(x.limit)))
        return (
            f"{name}: limit {middle:.4f} [{low:.4f}, {high:.4f}] of {np.median(x.improvement):.4f}, "
            f"covered [{least:.1%}, {most:.1%}]"
        )

    return (
        "steps of all agents from the same tables (equal information), S9 (e), joint over common scales, median [95 %]: "
        + "; ".join(kind(name) for name in data.exact)
        + f". S10's shared budget, relay of 4, certified of gained: {budget}. From rollouts of one batch, α = {ALPHA:g}: "
        + "; ".join(map(sampled, data.sampled))
    )


def run(
    quick: bool, rng: np.random.Generator, lock: AbstractContextManager[Any] | None = None
) -> tuple[Row, JointData]:
    """The choice exactly on random teams, S10's on a relay, and from rollouts on one team."""
    started = time.perf_counter()
    teams = 10 if quick else 200
    exact: dict[str, dict[str, Outcome]] = {}
    wrong = checks = 0
    for name, settings in list(KINDS.items())[: 1 if quick else None]:
        stages = random_stages(rng, teams, **settings)
        with lock or nullcontext():
            exact[name] = _ways(stages.team, stages.current, RADII)
        for lower, improvement in exact[name].values():
            wrong += int((lower > improvement + 1e-11 * (1 + abs(improvement))).sum())
            checks += lower.size
    budget = _relay_budget()
    sampled = _sampled(rng, 20 if quick else 400, 2_000)
    wrong += sum(lower > true + 1e-12 for lower, true in budget.values())
    for name in CHOICES[:-1]:
        x = sampled[name]
        wrong += float(s8.coverage_interval(int((x.limit <= x.improvement).sum()), len(x.limit))[1]) < 1 - ALPHA
    data = JointData(exact, wrong, budget, sampled)
    row = Row(
        "U1", "", "float", teams * len(exact), wrong, 0, None, None, seconds=time.perf_counter() - started,
        checks=checks + len(budget) + len(CHOICES) - 1, note=_note(data, teams),
    )  # fmt: skip
    return row, data


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    if tier.quick:
        return Found()
    return Found((run(False, rng, lock)[0],))


STUDY = Study("steps chosen together", {"U1": ""}, _job)
