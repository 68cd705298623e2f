"""S8 when the data decide how many prompts are drawn: what stopping at the first positive limit does to each limit, and saves."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from teamtr_jax import finite_sample as fs
from theory.figures import LEGEND, save
from theory.fits import median_interval
from theory.ledger import Row
from theory.studies import s8
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "RULES", "StoppingData", "thresholds", "ever", "replanned", "run", "stopping_figure"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
STEP = 0.2
"""The coin team: one message, ½ to 0.6, a reward of 1 whatever is said. `Z` is 0.2 or −0.2, and the improvement is exactly 0."""

RULES: tuple[str, ...] = ("anytime", "Bernstein at every B", "normal at every B")
ALPHA = 0.1
SHARE = 0.9
FIRST_NORMAL = 30  # prompts before the normal limit is looked at


def _above_anytime(ups: Whole, prompts: Whole, alpha: float) -> NDArray[np.bool_]:
    """Whether the anytime limit of so many ups in so many prompts is above 0: the capital depends on the two counts only."""
    state = fs.anytime_start(alpha, -STEP)
    one = {z: fs.anytime_update(state, fs.Sample(np.array([z]), -STEP, STEP))[0].log_products for z in (STEP, -STEP)}
    products = ups[:, None] * one[STEP] + (prompts - ups)[:, None] * one[-STEP]
    return fs.anytime_capital(state._replace(log_products=products, prompts=prompts), 0.0) >= math.log(1 / alpha)


def _above_mean(ups: Whole, prompts: Whole, least: Floats) -> NDArray[np.bool_]:
    return (2 * ups - prompts) / prompts > least


def thresholds(rule: str, alpha: float, prompts: int) -> Whole:
    """After t = 1 … prompts: the least number of ups at which the rule's limit is above 0, by bisection; t + 1 if none is."""
    t = np.arange(1, prompts + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if rule == "anytime":
            above = partial(_above_anytime, prompts=t, alpha=alpha)
        else:  # in units of STEP the sample variance is (1 − x²)t/(t − 1), and x − offset ≥ √(square(1 − x²)) at the threshold
            bernstein = rule == RULES[1]
            scale = 2 * math.log(2 / alpha) if bernstein else scipy.stats.norm.isf(alpha) ** 2
            square, offset = scale / (t - 1), (7 * 2 * scale / 2 / (3 * (t - 1)) if bernstein else 0.0 * t)
            root = np.sqrt(np.maximum(offset**2 - (1 + square) * (offset**2 - square), 0))
            never = (t < (2 if bernstein else FIRST_NORMAL)) | (offset >= 1)
            least = np.where(never, 2.0, (offset + root) / (1 + square))
            above = partial(_above_mean, prompts=t, least=least)
    low, high = np.zeros_like(t) - 1, t + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        found = above(np.clip(middle, 0, t)) & (middle >= 0)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return high


def ever(least: Whole, chance: float = 0.5) -> Floats:
    """P(ups ≥ least after some of the first t prompts) for every t, not sampled: the law of the count of those that go on."""
    law, first, last, stopped = np.zeros(len(least) + 2), 0, 0, 0.0
    law[0], out = 1.0, np.empty(len(least))
    for t, k in enumerate(least):
        alive = law[first : last + 2]
        alive[1:] = (1 - chance) * alive[1:] + chance * alive[:-1]
        alive[0] *= 1 - chance
        last += 1
        if k <= last:
            k = max(int(k), first)
            stopped += law[k : last + 1].sum()
            law[k : last + 1], last = 0.0, max(k - 1, first)
        while first < last and law[first] < 1e-30:  # 10⁶ of these are nothing beside what is printed
            law[first], first = 0.0, first + 1
        out[t] = stopped
    return out


def replanned(rng: np.random.Generator, repeats: int, sizes: tuple[int, ...], alpha: float) -> int:
    """Of so many coin streams, those in which the betting limit of a *fixed* number of prompts is above 0 at one of the sizes.

    Its bets are planned for the number of prompts, so each look is another bettor, and they do not share one α.
    """
    values = np.where(rng.random((repeats, sizes[-1])) < 0.5, STEP, -STEP)
    above = np.zeros(repeats, bool)
    for size in sizes:
        part = fs.Sample(values[:, :size], -STEP, math.inf)
        above |= fs.betting_log_capital(part, 0.0, alpha) >= math.log(1 / alpha)
    return int(above.sum())


def _streams(task: s8.Problem, rng: np.random.Generator, repeats: int, prompts: int) -> tuple[fs.Sample, fs.Sample]:
    """Path weights and weights truncated at 2, one rollout a prompt, [repeats, prompts]."""
    old = s8.rollouts(task, rng, repeats * prompts, 1)
    both = fs.path_sample(old.reward, old.log_ratio), fs.truncated_sample(old.reward, old.log_ratio, 2.0)
    path, truncated = (x._replace(values=x.values.reshape(repeats, prompts)) for x in both)
    return path, truncated


def _kept(task: s8.Problem, rng: np.random.Generator, repeats: int, prompts: int) -> dict[str, int]:
    """In how many streams the limit never exceeds the true improvement, however long one looks."""
    kept = dict.fromkeys(RULES, 0)
    t = np.arange(1, prompts + 1)
    for _ in range(repeats // 50):
        path, truncated = _streams(task, rng, 50, prompts)
        capital = fs.anytime_log_capital(path, max(task.improvement, path.lower))
        above = {RULES[0]: (capital >= math.log(1 / ALPHA)).any(1)}
        for rule, sample in zip(RULES[1:], (truncated, path), strict=True):
            mean = np.cumsum(sample.values, 1) / t
            squares = np.cumsum(sample.values**2, 1) / t
            variance = np.maximum(squares - mean**2, 0) * t / np.maximum(t - 1, 1)
            if rule == RULES[1]:
                scale = math.log(2 / ALPHA)
                width = (sample.upper - sample.lower) * 7 * scale / (3 * np.maximum(t - 1, 1))
                limit, least = mean - np.sqrt(2 * variance * scale / t) - width, 2
            else:
                limit, least = mean - scipy.stats.norm.isf(ALPHA) * np.sqrt(variance / t), FIRST_NORMAL
            above[rule] = (limit[:, least - 1 :] > task.improvement).any(1)
        for rule, found in above.items():
            kept[rule] += int((~found).sum())
    return kept


class Saved(NamedTuple):
    """Prompts (one rollout each) until a limit is positive, one team."""

    improvement: float
    first: Floats  #: [repeats], when the anytime limit is positive first; infinite if never
    betting: int | None  #: first fixed number at which 90 % of the betting limits planned for it are positive
    bernstein: int | None
    sizes: tuple[int, ...]


def _sizes(prompts: int) -> tuple[int, ...]:
    """25, 30, 35, 42, … : each a fifth more."""
    return tuple(int(25 * 1.2**k) for k in range(80) if 25 * 1.2**k <= prompts)


def _saved(task: s8.Problem, rng: np.random.Generator, repeats: int, prompts: int) -> Saved:
    path, truncated = _streams(task, rng, repeats, prompts)
    first = np.empty(repeats)
    for row in range(0, repeats, 50):
        part = path._replace(values=path.values[row : row + 50])
        positive = fs.anytime_log_capital(part, 0.0) >= math.log(1 / ALPHA)
        first[row : row + 50] = np.where(positive.any(1), positive.argmax(1) + 1, math.inf)
    sizes = _sizes(prompts)

    def needed(sample: fs.Sample, bound: str) -> int | None:
        limit = s8.Limit("", bound, lambda *_: sample)
        share = [
            float(s8.exceeds(limit, sample._replace(values=sample.values[:, :size]), 0.0, ALPHA).mean())
            for size in sizes
        ]
        return next((size for i, size in enumerate(sizes) if min(share[i:]) >= SHARE), None)

    return Saved(task.improvement, first, needed(path, "betting"), needed(truncated, "bernstein"), sizes)


class StoppingData(NamedTuple):
    """What was found."""

    prompts: int  #: of the coin streams
    stopped: dict[
        str, Floats
    ]  #: by rule: exact probability of a positive limit after some of the first t prompts, [prompts]
    replanned: tuple[int, int, int]  #: coin streams with one at a look, of how many, looks
    repeats: int
    kept: dict[str, dict[str, int]]  #: by team and rule, of `repeats`
    saved: dict[str, Saved]


def _teams(quick: bool, rng: np.random.Generator) -> tuple[list[s8.Problem], list[tuple[s8.Problem, int]]]:
    short = s8.relay("relay, τ = 2, δ = .005", 2, 0.005, 0.5)
    harmful = short._replace(name="the same, backwards", current=short.new, new=short.current)
    covering = [short, harmful, s8.opening("opening, τ = 2", 0.3), s8.garnet("random, T = 6", rng, 0.3)]
    timed = [(short, 1_500), (s8.relay("relay, τ = 2, δ = .05", 2, 0.05, 0.5), 1_500)]
    if not quick:
        timed += [
            (s8.relay("relay, τ = 16, δ = .05", 16, 0.05, 0.5), 1_500),
            (s8.relay("relay, τ = 2, δ = .0005", 2, 0.0005, 0.5), 4_000),
        ]
    return covering, timed


def _quantile(x: Floats) -> str:
    return f"{np.quantile(x, SHARE, method='inverted_cdf'):,.0f}"


def _note(data: StoppingData) -> str:
    coins = "; ".join(
        f"{rule} " + ", ".join(f"{stopped[t - 1]:.3f} at {t:,}" for t in _looks(data.prompts))
        for rule, stopped in data.stopped.items()
    )
    hits, streams, looks = data.replanned
    low, high = s8.coverage_interval(hits, streams)
    kept = "; ".join(
        f"{team}: "
        + ", ".join(
            "{} {:.1%} [{:.1%}, {:.1%}]".format(
                rule, k / data.repeats, *map(float, s8.coverage_interval(k, data.repeats))
            )
            for rule, k in by.items()
        )
        for team, by in data.kept.items()
    )
    saved = "; ".join(
        "{} (improvement {:.4f}): anytime {:,.0f} [{:,.0f}, {:,.0f}], nine in ten by {}, fixed B betting {}, Bernstein {}".format(
            team, x.improvement, *median_interval(x.first), _quantile(x.first), *(f"{b:,}" if b else f"more than {x.sizes[-1]:,}"
                                                                    for b in (x.betting, x.bernstein)))
        for team, x in data.saved.items()
    )  # fmt: skip
    return (
        f"optional stopping, α = {ALPHA:g}. Coin team, improvement 0, exact probability that a limit is ever positive: {coins}; "
        f"betting limit planned anew at {looks} doublings of B: {hits / streams:.3f} [{float(low):.3f}, {float(high):.3f}]. "
        f"Never above the truth, {data.repeats:,} streams a team, 95 % Clopper–Pearson: {kept}. Prompts (one rollout each) until "
        f"the limit is positive, median [95 %]: {saved}"
    )


def _looks(prompts: int) -> list[int]:
    return [t for t in (100, 10_000, 1_000_000) if t < prompts] + [prompts]


def run(quick: bool, rng: np.random.Generator) -> tuple[Row, StoppingData]:
    """Errors of three limits under the worst stopping rule, and prompts needed. Only the anytime limit can be refuted."""
    started = time.perf_counter()
    prompts, repeats, streams = (10_000, 500, 800) if quick else (1_000_000, 2_000, 3_000)
    stopped = {rule: ever(thresholds(rule, ALPHA, prompts)) for rule in RULES}
    sizes = tuple(2**k for k in range(5, 12 if quick else 15))
    again = sum(replanned(rng, 200, sizes, ALPHA) for _ in range(streams // 200)), streams, len(sizes)
    covering, timed = _teams(quick, rng)
    kept = {task.name: _kept(task, rng, repeats, 500 if quick else 1_000) for task in covering}
    saved = {task.name: _saved(task, rng, 100 if quick else 300, most) for task, most in timed}
    data = StoppingData(prompts, stopped, again, repeats, kept, saved)
    most = {team: float(s8.coverage_interval(by["anytime"], repeats)[1]) for team, by in kept.items()}
    wrong = sum(x < 1 - ALPHA for x in most.values()) + int(stopped["anytime"][-1] > ALPHA)
    flagged = s8.coverage_interval(repeats - np.arange(repeats + 1), repeats)[1] < 1 - ALPHA
    row = Row(
        "S8", "", "simulated", repeats * len(covering), wrong, 0, float(stopped["anytime"][-1] / ALPHA),
        float(np.argmax(flagged)) / (repeats * ALPHA) - 1, seconds=time.perf_counter() - started, checks=len(covering) + 1,
        note=_note(data),
    )  # fmt: skip
    return row, data


COLOURS: dict[str, str] = dict(zip(RULES, ("#1b7837", "#2166ac", "#b2182b"), strict=True))


def stopping_figure(data: StoppingData, path: Path) -> Path:
    """Left: the probability of a false positive by then. Right: prompts until the limit is positive."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = np.unique(np.geomspace(1, data.prompts, 400).astype(int))
    for rule, stopped in data.stopped.items():
        left.semilogx(t, stopped[t - 1], color=COLOURS[rule], label=rule)
    left.axhline(ALPHA, lw=0.8, color="black", ls=":")
    left.set(
        xlabel="prompts looked at, one after the other", ylabel="P(a positive limit by then)", ylim=(0, 1),
        title=f"a coin team whose true improvement is 0, α = {ALPHA:g} (dotted)",
    )  # fmt: skip
    left.legend(fontsize=LEGEND)
    for k, (team, x) in enumerate(data.saved.items()):
        shade = f"C{k}"
        first = np.sort(x.first)
        right.step(first, np.arange(1, len(first) + 1) / len(first), where="post", color=shade, label=team)
        for size, marker in ((x.betting, "o"), (x.bernstein, "s")):
            if size:
                right.plot(size, SHARE, marker, color=shade)
    right.set(
        xscale="log", xlabel="prompts, one rollout each", ylabel="share of certificates that are positive", ylim=(0, 1.02),
        title="lines: anytime; B fixed for nine in ten: ● betting, ■ Bernstein",
    )  # fmt: skip
    right.legend(fontsize=LEGEND, loc="lower right")
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del lock
    row, found = run(tier.quick, rng)
    return Found((row,), {"stopping.png": partial(stopping_figure, found)})


STUDY = Study("optional stopping", {"S8": ""}, _job, apart=True, figures={"stopping.png": ("S8",)})
