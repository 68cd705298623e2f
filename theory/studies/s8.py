"""S8, what a finite sample certifies: coverage and rollouts needed, simulated on teams whose improvement is known exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from teamtr_jax import finite_sample as fs
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.teams import random_stages, relay_stage
from teamtr_jax.types import Stage
from theory.figures import LEGEND, TEXT, save
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "ALPHAS", "LIMITS", "Problem", "S8Data", "problem", "relay", "garnet", "opening", "rollouts", "samples",
           "coverage_interval", "same_data_coverage", "run", "finite_sample_figure"]  # fmt: skip

ALPHAS = (0.2, 0.1, 0.05, 0.01)
SIZES = (100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
SHARE = 0.9  # of the repetitions in which the certificate is positive: "positive"
CHUNK = 100_000  # rollouts held at a time
CLIP = 0.2  # the prototype's ε
Floats = NDArray[np.float64]


class Problem(NamedTuple):
    """An update of one agent, as arrays; the reward is 1 with probability `success[x, a]` in the last layer, else 0."""

    name: str
    current: Floats  #: [T, X, A], the team before the update
    new: Floats  #: [T, X, A], after it
    transition: Floats  #: [X, A, X]
    success: Floats  #: [X, A]
    initial: Floats  #: [X], the distribution of prompts
    speaks: tuple[int, ...]  #: layers in which the updated agent has a message

    @property
    def ratio_range(self) -> tuple[float, float]:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.new / self.current
        ratio = ratio[np.isfinite(ratio) | (self.new > 0)]
        return min(1.0, float(ratio.min())), max(1.0, float(ratio.max()))

    def kl(self) -> Floats:
        """KL(current‖new), [T, X]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.current > 0, self.current * np.log(self.current / self.new), 0.0).sum(-1)

    def objective(self, policy: Floats) -> float:
        v = (policy[-1] * self.success).sum(-1)
        for row in policy[-2::-1]:
            v = (row * (self.transition @ v)).sum(-1)
        return float(self.initial @ v)

    @property
    def improvement(self) -> float:
        return self.objective(self.new) - self.objective(self.current)


def problem(name: str, stage: Stage) -> Problem:
    """The first update of an episodic turn-taking stage whose reward comes with the last action."""
    dynamics: Any = stage.team.dynamics
    horizon = dynamics.horizon
    current, target = (np.asarray(x).reshape(horizon, -1, x.shape[-1]) for x in (stage.current, stage.target))
    reward = np.asarray(stage.team.reward).reshape(current.shape)
    acts = np.asarray(stage.team.active).reshape(horizon, -1) == int(stage.order[0])
    assert not reward[:-1].any()
    speaks = tuple(int(t) for t in np.flatnonzero(acts.any(1)))
    return Problem(
        name, current, np.where(acts[..., None], target, current), np.asarray(dynamics.kernel.transition), reward[-1],
        np.asarray(stage.team.initial)[: current.shape[1]], speaks,
    )  # fmt: skip


def _bernoulli_kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def _relay_stage(messages: int, probability: float, step: float) -> Stage:
    stage = relay_stage(2, probability, step, slots=2, rounds=messages)
    prompts = jnp.zeros_like(stage.team.initial).at[:3].set(jnp.array([0.5, 0.3, 0.2]))
    return replace(stage, team=replace(stage.team, initial=prompts))


def relay(name: str, messages: int, kl: float, level: float) -> Problem:
    """R1's relay, two agents of `messages` turns each, prompts in context 0, 1, 2 with probabilities .5, .3, .2.

    `level` is the success probability of the current team, `kl` = δ^ep of the update of the first agent.
    """

    def success(p: float) -> float:  # of at least 2 or 1 ups in 2·messages turns
        turns = scipy.stats.binom(2 * messages, p)
        return 0.5 * float(turns.sf(1)) + 0.3 * float(turns.sf(0)) + 0.2

    p: Any = scipy.optimize.brentq(lambda p: success(p) - level, 1e-6, 1 - 1e-6)
    q: Any = scipy.optimize.brentq(lambda q: _bernoulli_kl(p, q) - kl / messages, p, 1 - 1e-9)
    return problem(name, _relay_stage(messages, p, q - p))


def opening(name: str, probability: float) -> Problem:
    """The relay of two turns each in which the updated agent never stepped up before: half of the new paths were never seen."""
    stage = _relay_stage(2, 0.4, probability - 0.4)
    own = (np.asarray(stage.team.active) == 0)[:, None]
    return problem(name, replace(stage, current=jnp.where(own, jnp.array([1.0, 0.0]), stage.current)))


def garnet(name: str, rng: np.random.Generator, step: float) -> Problem:
    """A random team and a random update, which may do harm: 5 contexts, 3 actions, 6 turns of 2 agents."""
    stages = random_stages(rng, 1, states=5, actions=3, agents=2, horizon=6, step=step)
    kernel = Dense(stages.team.dynamics.kernel.transition[0], None)  # pyright: ignore[reportAttributeAccessIssue]
    reward = stages.team.reward[0].at[:-5].set(0.0)
    active = stages.team.active[0]  # pyright: ignore[reportOptionalSubscript]
    team = replace(
        stages.team, dynamics=Layered(kernel, 6), reward=reward, initial=stages.team.initial[0], active=active
    )
    return problem(
        name, replace(stages, team=team, current=stages.current[0], target=stages.target[0], order=stages.order[0])
    )


class _Alias(NamedTuple):
    """Walker's alias tables of every row, for draws in two look-ups."""

    keep: Floats
    other: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Floats) -> _Alias:
        size = rows.shape[-1]
        keep, other = np.ones(rows.shape), np.tile(np.arange(size), (len(rows), 1))
        for row in range(len(rows)):
            q = rows[row] * size
            small, large = [int(i) for i in np.flatnonzero(q < 1)], [int(i) for i in np.flatnonzero(q >= 1)]
            while small and large:
                i, j = small.pop(), large[-1]
                keep[row, i], other[row, i] = q[i], j
                q[j] -= 1 - q[i]
                if q[j] < 1:
                    small.append(large.pop())
        return cls(keep.ravel(), other.ravel())

    def draw(self, rng: np.random.Generator, row: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        u = rng.random(len(row)) * size
        column = u.astype(np.int64)
        place = row * size + column
        return np.where(u - column < self.keep[place], column, self.other[place])


class Rollouts(NamedTuple):
    """Rewards [prompts, G] and, per message of the updated agent, log ratio and KL [prompts, G, τ]."""

    reward: Floats
    log_ratio: Floats
    kl: Floats


def sampler(task: Problem, policy: Floats) -> Callable[[np.random.Generator, int, int], Rollouts]:
    """`rollouts(rng, prompts, G)` of `policy`, the prompts drawn independently."""
    horizon, contexts, actions = policy.shape
    joint = (policy[..., None] * task.transition).reshape(horizon * contexts, -1)
    alias = _Alias.of(joint)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (np.log(task.new) - np.log(task.current)).reshape(-1)
    kl = task.kl().ravel()

    def rollouts(rng: np.random.Generator, prompts: int, group: int) -> Rollouts:
        x = np.repeat(rng.choice(contexts, prompts, p=task.initial), group)
        ratios, divergences = [], []
        a = x
        for t in range(horizon):
            row = t * contexts + x
            both = alias.draw(rng, row, joint.shape[-1])
            a, following = both // contexts, both % contexts
            if t in task.speaks:
                ratios.append(ratio[row * actions + a])
                divergences.append(kl[row])
            if t == horizon - 1:
                break
            x = following
        reward = (rng.random(len(x)) < task.success[x, a]).astype(np.float64)
        shape = (prompts, group)
        return Rollouts(
            reward.reshape(shape),
            np.stack(ratios, -1).reshape(*shape, -1),
            np.stack(divergences, -1).reshape(*shape, -1),
        )

    return rollouts


def rollouts(task: Problem, rng: np.random.Generator, prompts: int, group: int, new: bool = False) -> Rollouts:
    """Rollouts of the team before the update, or after it."""
    return sampler(task, task.new if new else task.current)(rng, prompts, group)


class Limit(NamedTuple):
    """A lower limit of the improvement: an estimator, its bound, and what it needs besides rewards and ratios."""

    name: str
    bound: str
    make: Callable[[Problem, Rollouts, Rollouts], fs.Sample]
    twice: bool = False  #: also uses as many rollouts of the new team


def _cap(task: Problem) -> float:
    return len(task.speaks) * float(task.kl().max())


def _message(task: Problem, x: Rollouts) -> fs.Sample:
    return fs.message_sample(x.reward, x.log_ratio, x.kl, CLIP, _cap(task))


def _bounded(task: Problem, x: Rollouts, baseline: Literal["others"] | float) -> fs.Sample:
    low, high = task.ratio_range
    return fs.path_sample(x.reward, x.log_ratio, baseline, (low, math.inf if baseline == 0.0 else high))


LIMITS = (
    Limit("message, Bernstein (S8)", "bernstein", lambda p, x, _: _message(p, x)),
    Limit("message, betting", "betting", lambda p, x, _: _message(p, x)),
    Limit("log, betting", "betting", lambda p, x, _: fs.log_sample(x.reward, x.log_ratio)),
    Limit("truncated at 2, Bernstein", "bernstein", lambda p, x, _: fs.truncated_sample(x.reward, x.log_ratio, 2.0)),
    Limit("path, betting", "betting", lambda p, x, _: fs.path_sample(x.reward, x.log_ratio)),
    Limit("clipped, betting", "betting", lambda p, x, _: fs.clipped_sample(x.reward, x.log_ratio, x.kl, _cap(p))),
    Limit("ratio ≥ low, betting", "betting", lambda p, x, _: _bounded(p, x, 0.0)),
    Limit("bounded ratio, betting", "betting", lambda p, x, _: _bounded(p, x, "others")),
    Limit("difference, betting", "betting", lambda p, x, y: fs.difference_sample(x.reward, y.reward), True),
    Limit("bridge, betting", "betting",
           lambda p, x, y: fs.bridge_sample(x.reward, x.log_ratio, y.reward, y.log_ratio), True),
)  # fmt: skip
"""Fixed before looking: one estimator and bound each, compared, never chosen by the data."""


def samples(
    task: Problem,
    rng: np.random.Generator,
    repeats: int,
    prompts: int,
    group: int,
    limits: tuple[Limit, ...] = LIMITS,
) -> dict[str, fs.Sample]:
    """For each limit `repeats` independent samples of `prompts` numbers, from the same rollouts; {name: values [repeats, B]}."""
    old, new = sampler(task, task.current), sampler(task, task.new)
    twice = any(limit.twice for limit in limits)
    parts: dict[str, list[fs.Sample]] = {limit.name: [] for limit in limits}
    left, step = repeats * prompts, max(1, CHUNK // group)
    while left:
        now = min(left, step)
        before = old(rng, now, group)
        after = new(rng, now, group) if twice else before
        for limit in limits:
            parts[limit.name].append(limit.make(task, before, after))
        left -= now
    return {
        name: part[0]._replace(values=np.concatenate([s.values for s in part]).reshape(repeats, prompts))
        for name, part in parts.items()
    }


def exceeds(limit: Limit, sample: fs.Sample, mean: float, alpha: float) -> NDArray[np.bool_]:
    """Whether the lower limit lies above `mean`; the betting limit does iff the capital at `mean` has reached 1/α."""
    if limit.bound == "bernstein":
        return fs.bernstein_bound(sample, alpha) > mean
    if mean <= sample.lower:  # a mean at the edge of the range is never rejected
        return np.zeros(sample.values.shape[:-1], bool)
    return fs.betting_log_capital(sample, mean, alpha) > math.log(1 / alpha)


def coverage_interval(covered: ArrayLike, repeats: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """Clopper and Pearson (1934)."""
    k, tail = np.asarray(covered, float), (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(k > 0, scipy.stats.beta.ppf(tail, k, repeats - k + 1), 0.0)
        high = np.where(k < repeats, scipy.stats.beta.ppf(1 - tail, k + 1, repeats - k), 1.0)
    return low, high


def same_data_coverage(
    rng: np.random.Generator, repeats: int, prompts: int, alpha: float
) -> dict[str, tuple[int, int]]:
    """Trained on the rollouts that certify it, and on others: covered repetitions, of how many.

    32 kinds of prompt, one message of two, a reward that nothing influences: every update has improvement 0. The trainer moves
    each kind's probability from ½ to ½ ± 0.1 towards the message that paid better. One rollout a prompt.
    """
    kinds = 32

    def draw() -> tuple[NDArray[np.int64], Floats, Floats]:
        shape = (repeats, prompts)
        message = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        return rng.integers(0, kinds, shape), message, (rng.random(shape) < 0.5).astype(np.float64)

    x, a, r = draw()
    other = draw()
    out = {}
    for name, (kind, message, paid) in {"same rollouts": (x, a, r), "other rollouts": other}.items():
        score = np.zeros((repeats, kinds))
        np.add.at(score, (np.arange(repeats)[:, None], kind), message * (paid - 0.5))
        better = np.take_along_axis(np.where(score >= 0, 1.0, -1.0), x, 1)
        log_ratio = np.log1p(0.2 * better * a)[..., None, None]
        sample = fs.path_sample(r[..., None], log_ratio)
        misses = fs.betting_log_capital(sample, 0.0, alpha) > math.log(1 / alpha)
        out[name] = (int((~misses).sum()), repeats)
    return out


class S8Data(NamedTuple):
    """What the simulation found. `coverage[team][limit][α]` = covered repetitions; `positive[team][limit]` = shares by size."""

    alphas: tuple[float, ...]
    repeats: int
    prompts: int  #: where coverage was counted, with `pair` rollouts each
    pair: int
    group: int  #: rollouts per prompt where `positive` was counted
    coverage: dict[str, dict[str, dict[float, int]]]
    positive_alpha: float
    sizes: dict[str, tuple[int, ...]]
    positive: dict[str, dict[str, list[float]]]
    needed: dict[str, dict[str, int | None]]
    about: dict[str, dict[str, float]]
    same_data: dict[str, tuple[int, int]]
    groups: dict[int, dict[str, int | None]]


def _positive(
    task: Problem,
    rng: np.random.Generator,
    repeats: int,
    sizes: tuple[int, ...],
    group: int,
    alpha: float,
    limits: tuple[Limit, ...] = LIMITS,
) -> Iterator[tuple[str, list[float], int | None]]:
    found = samples(task, rng, repeats, sizes[-1] // group, group, limits)
    for limit in limits:
        sample = found[limit.name]
        share = [
            float(exceeds(limit, sample._replace(values=sample.values[:, : size // group]), 0.0, alpha).mean())
            for size in sizes
        ]
        enough = [size for i, size in enumerate(sizes) if min(share[i:]) >= SHARE]
        yield limit.name, share, enough[0] if enough else None


class _Plan(NamedTuple):
    """Which teams, and how often."""

    repeats: int
    prompts: int
    few: int  #: repetitions of a short team in the second question
    covering: list[Problem]  #: teams on which coverage is counted
    timed: list[Problem]  #: teams on which rollouts are counted; the first for other group sizes too


PAIR, GROUP, ALPHA = 2, 4, 0.1
"""Rollouts a prompt where coverage is counted, and where rollouts are; the level there."""


def _plan(quick: bool, rng: np.random.Generator, thorough: bool) -> _Plan:
    short = relay("relay, τ = 2, δ = .005", 2, 0.005, 0.5)
    harmful = short._replace(name="the same, backwards", current=short.new, new=short.current)
    covering = [
        short, harmful, relay("relay, τ = 2, δ = .1", 2, 0.1, 0.9),
        opening("opening, τ = 2", 0.3), garnet("random, T = 6", rng, 0.3),
    ]  # fmt: skip
    timed = [short, relay("relay, τ = 2, δ = .005, 90 % solved", 2, 0.005, 0.9)]
    if not quick:
        covering += [relay("relay, τ = 16, δ = .3", 16, 0.3, 0.5)]
        timed += [
            relay("relay, τ = 2, δ = .05", 2, 0.05, 0.5), relay("relay, τ = 16, δ = .05", 16, 0.05, 0.5),
            relay("relay, τ = 64, δ = .05", 64, 0.05, 0.5), relay("relay, τ = 64, δ = 1, 90 % solved", 64, 1.0, 0.9),
        ]  # fmt: skip
    few = 20 if quick else 60 if thorough else 30
    return _Plan(1_500 if thorough else 1_000, 100 if quick else 250, few, covering, timed)


class _Cell(NamedTuple):
    """Coverage of one limit on one team at one level."""

    where: str
    level: float
    covered: int
    least: float  #: 95 % Clopper–Pearson of the coverage
    most: float


def _coverage(plan: _Plan, rng: np.random.Generator) -> tuple[dict[str, dict[str, dict[float, int]]], list[_Cell]]:
    table: dict[str, dict[str, dict[float, int]]] = {}
    cells = []
    for task in plan.covering:
        finite = math.isfinite(task.ratio_range[1])
        limits = LIMITS if finite else tuple(m for m in LIMITS if "bounded" not in m.name)
        found = samples(task, rng, plan.repeats, plan.prompts, PAIR, limits)
        table[task.name] = {limit.name: {} for limit in limits}
        for limit in limits:
            for level in ALPHAS:
                covered = int((~exceeds(limit, found[limit.name], task.improvement, level)).sum())
                table[task.name][limit.name][level] = covered
                least, most = (float(x) for x in coverage_interval(covered, plan.repeats))
                cells.append(_Cell(f"{limit.name}, {task.name}, α = {level:g}", level, covered, least, most))
    return table, cells


def _detects(repeats: int) -> float:
    """The smallest excess of misses, relative to α, that would be refuted at some level."""
    excess = []
    for level in ALPHAS:
        flagged = coverage_interval(repeats - np.arange(repeats + 1), repeats)[1] < 1 - level
        excess.append(float(np.argmax(flagged)) / (repeats * level) - 1)
    return min(excess)


class _Counted(NamedTuple):
    """The second question: sizes tried, shares of positive certificates, rollouts needed, by team (and group size)."""

    sizes: dict[str, tuple[int, ...]]
    positive: dict[str, dict[str, list[float]]]
    needed: dict[str, dict[str, int | None]]
    groups: dict[int, dict[str, int | None]]

    def until(self, name: str, team: str) -> str:
        found = self.needed[team][name]
        return f"{found:,}" if found else f"more than {self.sizes[team][-1]:,}"


def _counted(plan: _Plan, quick: bool, rng: np.random.Generator, thorough: bool) -> _Counted:
    out = _Counted({}, {}, {}, {})
    for task in plan.timed:
        messages = len(task.speaks)
        largest = 5_000 if messages > 16 else 20_000 if messages > 2 or quick else 50_000
        sizes = out.sizes[task.name] = tuple(size for size in SIZES if size <= largest)
        out.positive[task.name], out.needed[task.name] = {}, {}
        for name, share, enough in _positive(task, rng, 20 if messages > 2 else plan.few, sizes, GROUP, ALPHA):
            out.positive[task.name][name], out.needed[task.name][name] = share, enough
    for size in () if quick else (1, 16):
        found = _positive(plan.timed[0], rng, 40 if thorough else 20, SIZES, size, ALPHA)
        out.groups[size] = {name: enough for name, _, enough in found}
    return out


def _note(plan: _Plan, cells: list[_Cell], found: _Counted, same: dict[str, tuple[int, int]], times: str) -> str:
    worst = max(cells, key=lambda x: (1 - x.covered / plan.repeats) / x.level)
    ratio, low, high = ((1 - x) / worst.level for x in (worst.covered / plan.repeats, worst.most, worst.least))
    levels, tried = ", ".join(f"{a:g}" for a in ALPHAS), ", ".join(f"{s:,}" for s in SIZES)
    counts = "; ".join(
        f"{task.name}: " + ", ".join(f"{m.name} {found.until(m.name, task.name)}" for m in LIMITS)
        for task in plan.timed
    )

    def kept(name: str) -> str:
        covered, _ = same[name]
        least, most = coverage_interval(covered, plan.repeats)
        return f"{covered / plan.repeats:.1%} [{float(least):.1%}, {float(most):.1%}]"

    return (
        f"{plan.repeats:,} repetitions of {plan.prompts * PAIR} rollouts per team, α = {levels}; largest share of misses per α: "
        f"{ratio:.2f} [{low:.2f}, {high:.2f}], 95 % Clopper–Pearson of that one cell ({worst.where}). First of {tried} rollouts "
        f"from which {SHARE:.0%} of the certificates are positive ({times} repetitions each) at α = {ALPHA:g}, G = {GROUP}: "
        f"{counts}. The last two use as many of the new team again. Control, update trained on the rollouts that certify it: "
        f"{kept('same rollouts')} covered at α = {ALPHA:g}; on others {kept('other rollouts')}"
    )


def run(quick: bool, rng: np.random.Generator, thorough: bool = False) -> tuple[Row, S8Data]:
    """Coverage of every limit at every level, and the rollouts it needs until 90 % of the certificates are positive.

    Args:
      thorough: half as many repetitions again for coverage, twice as many for the second question.
    """
    started = time.perf_counter()
    plan = _plan(quick, rng, thorough)
    coverage, cells = _coverage(plan, rng)
    found = _counted(plan, quick, rng, thorough)
    same = same_data_coverage(rng, plan.repeats, 1_000, ALPHA)
    about = {
        task.name: {
            "improvement": task.improvement, "success": task.objective(task.current), "kl_path_max": _cap(task),
            "ratio_low": task.ratio_range[0], "ratio_high": task.ratio_range[1], "messages": len(task.speaks),
        }
        for task in [*plan.covering, *plan.timed]
    }  # fmt: skip
    data = S8Data(
        ALPHAS, plan.repeats, plan.prompts, PAIR, GROUP, coverage, ALPHA, found.sizes, found.positive, found.needed, about,
        same, found.groups,
    )  # fmt: skip
    note = _note(plan, cells, found, same, "20" if quick else "20 to 60" if thorough else "20 to 30")
    row = Row(
        "S8", "P(J(π̂ⁱ)−J(π̂ⁱ⁻¹) ≥ certificate from B·G rollouts) ≥ 1−α", "simulated", plan.repeats * len(plan.covering),
        sum(x.most < 1 - x.level for x in cells), 0, max(0.0, *((1 - x.most) / x.level for x in cells)), _detects(plan.repeats),
        seconds=time.perf_counter() - started, checks=len(cells), note=note,
    )  # fmt: skip
    return row, data


LEVELS = dict(zip(ALPHAS, (("o", -0.3), ("s", -0.1), ("^", 0.1), ("v", 0.3)), strict=True))
"""Markers of the levels α, and where they stand in the row of a limit."""


def _thousands(size: int) -> str:
    return f"{size / 1000:g}k" if size >= 1000 else str(size)


def _misses(ax: Any, data: S8Data) -> None:
    """Misses over α, the worst team of each limit: one mark for each level."""
    for k, limit in enumerate(LIMITS):
        tables = [table[limit.name] for table in data.coverage.values() if limit.name in table]
        least = np.array([min(table[alpha] for table in tables) for alpha in data.alphas])
        low, high = coverage_interval(least, data.repeats)
        for alpha, *x in zip(data.alphas, 1 - high, 1 - least / data.repeats, 1 - low, strict=True):
            smallest, miss, largest = (value / alpha for value in x)
            marker, shift = LEVELS[alpha]
            ax.plot([smallest, largest], [k + shift] * 2, "-", lw=1, color="#666666")
            ax.plot(miss, k + shift, marker, ms=4.5, color="#2166ac", label=f"α = {alpha:g}" if k == 0 else None)
    ax.axvline(1, lw=0.8, color="black")
    ax.set(
        xlabel="misses / α (line: allowed)", xlim=(-0.03, None),
        title=f"certificates above the truth, worst of {len(data.coverage)} teams\n{data.repeats:,} repetitions, 95 % intervals",
    )  # fmt: skip
    ax.legend(fontsize=LEGEND, loc="upper right")


def _shares(ax: Any, data: S8Data) -> None:
    """The share of positive certificates on the first team."""
    team, found = next(iter(data.positive.items()))
    table = np.array([found[limit.name] for limit in LIMITS])
    ax.imshow(table, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (k, i), share in np.ndenumerate(table):
        shade = "white" if share > 0.6 else "black"
        ax.text(i, k, f"{100 * share:.0f}", ha="center", va="center", fontsize=TEXT, color=shade)
    ax.set_xticks(range(table.shape[1]), [_thousands(size) for size in data.sizes[team]])
    about = f"true improvement {data.about[team]['improvement']:.4f}, α = {data.positive_alpha:g}"
    ax.set(xlabel=f"rollouts (G = {data.group} a prompt)", title=f"positive certificates, %: {team}\n{about}")


def _needed(ax: Any, data: S8Data) -> None:
    """Rollouts until `SHARE` of the certificates are positive, by team."""
    teams = list(data.needed)
    table = np.array([[data.needed[team][limit.name] or np.nan for team in teams] for limit in LIMITS], float)
    from matplotlib import colormaps

    shade = colormaps["Blues_r"].with_extremes(bad="#dddddd")
    ax.imshow(np.log10(table), cmap=shade, vmin=1, vmax=5.5, aspect="auto")
    for (k, i), size in np.ndenumerate(table):
        text = f"> {_thousands(data.sizes[teams[i]][-1])}" if np.isnan(size) else _thousands(int(size))
        dark = np.isfinite(size) and size < 3_000
        ax.text(i, k, text, ha="center", va="center", fontsize=TEXT, color="white" if dark else "black")
    ax.set_xticks(range(len(teams)), [team.replace(", ", ",\n") for team in teams])
    ax.set_title(
        f"rollouts until {SHARE:.0%} of the certificates are positive, α = {data.positive_alpha:g}, G = {data.group}"
    )


def finite_sample_figure(data: S8Data, path: Path) -> Path:
    """Limits are rows: misses against their level, positive certificates against rollouts, the rollouts needed by team."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9.6), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    first = figure.add_subplot(grid[0, 0])
    second, third = figure.add_subplot(grid[0, 1], sharey=first), figure.add_subplot(grid[1, :], sharey=first)
    for ax, draw in ((first, _misses), (second, _shares), (third, _needed)):
        draw(ax, data)
        ax.tick_params(labelsize=TEXT)
        ax.title.set_fontsize(LEGEND + 0.5)
    second.tick_params(labelleft=False)
    first.set_yticks(range(len(LIMITS)), [limit.name for limit in LIMITS])
    first.set_ylim(len(LIMITS) - 0.5, -0.5)
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del lock
    row, found = run(tier.quick, rng, tier.thorough)
    return Found((row,), {"finite_sample.png": partial(finite_sample_figure, found)})


WORDS = "A certificate from finitely many rollouts exceeds the true improvement no more often than its level allows."
STUDY = Study("finite samples", {"S8": WORDS}, _job, apart=True, figures={"finite_sample.png": ("S8",)})
