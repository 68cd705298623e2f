"""S8, what a finite sample certifies: coverage and rollouts needed, simulated on teams whose improvement is known exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from teamtr_jax import finite_sample as fs
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.teams import random_stages, relay_stage
from teamtr_jax.types import Stage
from theory.ledger import Row

__all__ = ["ALPHAS", "METHODS", "Problem", "S8Data", "problem", "relay", "garnet", "opening", "rollouts", "samples",
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


class Method(NamedTuple):
    """An estimator, its bound, and what it needs besides rewards and ratios."""

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


METHODS = (
    Method("message, Bernstein (S8)", "bernstein", lambda p, x, _: _message(p, x)),
    Method("message, betting", "betting", lambda p, x, _: _message(p, x)),
    Method("log, betting", "betting", lambda p, x, _: fs.log_sample(x.reward, x.log_ratio)),
    Method("truncated at 2, Bernstein", "bernstein", lambda p, x, _: fs.truncated_sample(x.reward, x.log_ratio, 2.0)),
    Method("path, betting", "betting", lambda p, x, _: fs.path_sample(x.reward, x.log_ratio)),
    Method("clipped, betting", "betting", lambda p, x, _: fs.clipped_sample(x.reward, x.log_ratio, x.kl, _cap(p))),
    Method("ratio ≥ low, betting", "betting", lambda p, x, _: _bounded(p, x, 0.0)),
    Method("bounded ratio, betting", "betting", lambda p, x, _: _bounded(p, x, "others")),
    Method("difference, betting", "betting", lambda p, x, y: fs.difference_sample(x.reward, y.reward), True),
    Method("bridge, betting", "betting",
           lambda p, x, y: fs.bridge_sample(x.reward, x.log_ratio, y.reward, y.log_ratio), True),
)  # fmt: skip
"""Fixed before looking: one estimator and bound each, compared, never chosen by the data."""


def samples(
    task: Problem,
    rng: np.random.Generator,
    repeats: int,
    prompts: int,
    group: int,
    methods: tuple[Method, ...] = METHODS,
) -> dict[str, fs.Sample]:
    """For each method `repeats` independent samples of `prompts` numbers, from the same rollouts; {name: values [repeats, B]}."""
    old, new = sampler(task, task.current), sampler(task, task.new)
    twice = any(method.twice for method in methods)
    parts: dict[str, list[fs.Sample]] = {method.name: [] for method in methods}
    left, step = repeats * prompts, max(1, CHUNK // group)
    while left:
        now = min(left, step)
        before = old(rng, now, group)
        after = new(rng, now, group) if twice else before
        for method in methods:
            parts[method.name].append(method.make(task, before, after))
        left -= now
    return {
        name: part[0]._replace(values=np.concatenate([s.values for s in part]).reshape(repeats, prompts))
        for name, part in parts.items()
    }


def exceeds(method: Method, sample: fs.Sample, mean: float, alpha: float) -> NDArray[np.bool_]:
    """Whether the lower limit lies above `mean`; the betting limit does iff the capital at `mean` has reached 1/α."""
    if method.bound == "bernstein":
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
    """What the simulation found. `coverage[team][method][α]` = covered repetitions; `positive[team][method]` = shares by size."""

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
    methods: tuple[Method, ...] = METHODS,
) -> Iterator[tuple[str, list[float], int | None]]:
    found = samples(task, rng, repeats, sizes[-1] // group, group, methods)
    for method in methods:
        sample = found[method.name]
        share = [
            float(exceeds(method, sample._replace(values=sample.values[:, : size // group]), 0.0, alpha).mean())
            for size in sizes
        ]
        enough = [size for i, size in enumerate(sizes) if min(share[i:]) >= SHARE]
        yield method.name, share, enough[0] if enough else None


def run(quick: bool, rng: np.random.Generator, thorough: bool = False) -> tuple[Row, S8Data]:
    """Coverage of every method at every level, and the rollouts it needs until 90 % of the certificates are positive.

    Args:
      thorough: half as many repetitions again for coverage, twice as many for the second question.
    """
    started = time.perf_counter()
    repeats, prompts, pair, alpha = 1_500 if thorough else 1_000, 100 if quick else 250, 2, 0.1
    group = 4  # where rollouts are counted
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

    coverage: dict[str, dict[str, dict[float, int]]] = {}
    worst, tightest, detects, violations, checks = 0.0, 0.0, math.inf, 0, 0
    where, lowest, highest = "", 0.0, 0.0
    for task in covering:
        methods = (
            METHODS if math.isfinite(task.ratio_range[1]) else tuple(m for m in METHODS if "bounded" not in m.name)
        )
        found = samples(task, rng, repeats, prompts, pair, methods)
        table = coverage[task.name] = {}
        for method in methods:
            table[method.name] = {}
            for level in ALPHAS:
                covered = int((~exceeds(method, found[method.name], task.improvement, level)).sum())
                table[method.name][level] = covered
                least, sure = (float(x) for x in coverage_interval(covered, repeats))
                violations += int(sure < 1 - level)
                checks += 1
                tightest = max(tightest, (1 - sure) / level)
                if (ratio := (1 - covered / repeats) / level) > worst:
                    worst, where = ratio, f"{method.name}, {task.name}, α = {level:g}"
                    lowest, highest = (1 - sure) / level, (1 - least) / level
    for level in ALPHAS:
        flagged = coverage_interval(repeats - np.arange(repeats + 1), repeats)[1] < 1 - level
        detects = min(detects, float(np.argmax(flagged)) / (repeats * level) - 1)

    sizes: dict[str, tuple[int, ...]] = {}
    positive: dict[str, dict[str, list[float]]] = {}
    needed: dict[str, dict[str, int | None]] = {}
    for task in timed:
        long = len(task.speaks) > 2
        few = 20 if quick or long else 60 if thorough else 30
        sizes[task.name] = tuple(
            size for size in SIZES if size <= (5_000 if len(task.speaks) > 16 else 20_000 if long or quick else 50_000)
        )
        positive[task.name], needed[task.name] = {}, {}
        for name, share, enough in _positive(task, rng, few, sizes[task.name], group, alpha):
            positive[task.name][name], needed[task.name][name] = share, enough
    groups: dict[int, dict[str, int | None]] = {}
    for size in () if quick else (1, 16):
        groups[size] = {
            name: enough for name, _, enough in _positive(short, rng, 40 if thorough else 20, SIZES, size, alpha)
        }

    same = same_data_coverage(rng, repeats, 1_000, alpha)
    about = {
        task.name: {
            "improvement": task.improvement, "success": task.objective(task.current), "kl_path_max": _cap(task),
            "ratio_low": task.ratio_range[0], "ratio_high": task.ratio_range[1], "messages": len(task.speaks),
        }
        for task in [*covering, *timed]
    }  # fmt: skip
    data = S8Data(ALPHAS, repeats, prompts, pair, group, coverage, alpha, sizes, positive, needed, about, same, groups)

    def until(name: str, task: Problem) -> str:
        found = needed[task.name][name]
        return f"{found:,}" if found else f"more than {sizes[task.name][-1]:,}"

    levels = ", ".join(f"{a:g}" for a in ALPHAS)
    counts = "; ".join(
        f"{task.name}: " + ", ".join(f"{m.name} {until(m.name, task)}" for m in METHODS) for task in timed
    )

    def kept(name: str) -> str:
        covered, _ = same[name]
        low, high = coverage_interval(covered, repeats)
        return f"{covered / repeats:.1%} [{float(low):.1%}, {float(high):.1%}]"

    tried, times = ", ".join(f"{s:,}" for s in SIZES), "20" if quick else "20 to 60" if thorough else "20 to 30"
    note = (
        f"{repeats:,} repetitions of {prompts * pair} rollouts per team, α = {levels}; largest share of misses per α: "
        f"{worst:.2f} [{lowest:.2f}, {highest:.2f}], 95 % Clopper–Pearson of that one cell ({where}). First of {tried} rollouts "
        f"from which {SHARE:.0%} of the certificates are positive ({times} repetitions each) at α = {alpha:g}, G = {group}: "
        f"{counts}. The last two use as many of the new team again. Control, update trained on the rollouts that certify it: "
        f"{kept('same rollouts')} covered at α = {alpha:g}; on others {kept('other rollouts')}"
    )
    row = Row(
        "S8", "P(J(π̂ⁱ)−J(π̂ⁱ⁻¹) ≥ certificate from B·G rollouts) ≥ 1−α", "simulated", repeats * len(covering), violations, 0,
        tightest, detects, seconds=time.perf_counter() - started, checks=checks, note=note,
    )  # fmt: skip
    return row, data


COLOURS = ("#b2182b", "#ef8a62", "#b8860b", "#888888", "#1b7837", "#5aae61", "#67a9cf", "#2166ac", "#c2a5cf", "#7b3294")


def finite_sample_figure(data: S8Data, path: Path) -> Path:
    """Misses against their level, the share of positive certificates against rollouts, and the rollouts needed per team."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14.5, 4.6), width_ratios=(1, 1, 1.25))
    colour = {method.name: c for method, c in zip(METHODS, COLOURS, strict=True)}
    ax = axes[0]
    for k, method in enumerate(METHODS):
        tables = [table[method.name] for table in data.coverage.values() if method.name in table]
        least = np.array([min(table[alpha] for table in tables) for alpha in data.alphas])
        low, high = coverage_interval(least, data.repeats)
        miss = 1 - least / data.repeats
        x = np.array(data.alphas) * 1.04 ** (k - 4)
        ax.errorbar(
            x,
            miss,
            (miss - (1 - high), (1 - low) - miss),
            fmt="o",
            ms=3,
            lw=1,
            color=colour[method.name],
            label=method.name,
        )
    ax.plot([0.008, 0.25], [0.008, 0.25], "k-", lw=0.8)
    ax.set(
        xscale="log", xlabel="α", ylabel="share of certificates above the truth",
        title=f"Misses, worst of {len(data.coverage)} teams (line: α)\n{data.repeats:,} repetitions, 95 % Clopper–Pearson",
    )  # fmt: skip
    ax.set_yscale("symlog", linthresh=0.002)
    ax.set_ylim(0, 0.3)
    ax.set_xticks(data.alphas, [f"{a:g}" for a in data.alphas])
    ax.minorticks_off()

    ax = axes[1]
    first = next(iter(data.positive))
    for name, share in data.positive[first].items():
        ax.semilogx(data.sizes[first], share, "o-", ms=3, color=colour[name], label=name)
    ax.axhline(SHARE, lw=0.7, color="grey")
    ax.set(
        xlabel=f"rollouts (G = {data.group} a prompt)", ylabel="share of positive certificates",
        title=f"{first}\ntrue improvement {data.about[first]['improvement']:.4f}, α = {data.positive_alpha:g}",
    )  # fmt: skip
    figure.legend(*ax.get_legend_handles_labels(), fontsize=7, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 0.01))

    ax = axes[2]
    teams = list(data.needed)
    for k, method in enumerate(METHODS):
        for row, team in enumerate(teams):
            found, most = data.needed[team][method.name], data.sizes[team][-1]
            place = row + (k - 4) * 0.08
            ax.plot(found or 1.5 * most, place, "o" if found else ">", ms=4, color=colour[method.name])
    ax.set_yticks(range(len(teams)), teams, fontsize=7)
    ax.invert_yaxis()
    ax.set(
        xscale="log", xlabel="rollouts until 90 % are positive (▸: more than were tried)",
        title=f"Every method, α = {data.positive_alpha:g}, G = {data.group}",
    )  # fmt: skip
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, bbox_inches="tight")
    plt.close(figure)
    return path
