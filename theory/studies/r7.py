"""R7, the regime map: when is quadratic real? Exponents in n over coherence, memory, horizon, order, what is held fixed.

The team is a leaky relay: the coherent relay (R1) whose pending step is lost with probability `leak` after every turn, and whose
agents push in the common direction or against it. `coherence = 1`, `leak = 0` is R1. Derivations: theory/derivations/regimes.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from teamtr_jax import programs
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage, Team
from theory.figures import LEGEND, TEXT, panels, save
from theory.fits import Slope, bootstrap_slope
from theory.ledger import Row
from theory.studies.r3 import RandomCurves

__all__ = ["Cell", "RegimeMap", "Setting", "SETTINGS", "as_dict", "leading_sums", "leaky_relay", "regime_figure", "run"]

GAPS = ("fresh", "stale", "cached")
COHERENCE = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAKS = (0.0, 0.02, 0.1, 0.3, 0.9)
SIZES = (2, 4, 8, 16, 32)
PROBABILITY = 1e-4
RATIOS = (0.64, 0.32, 0.16, 0.08, 0.04, 0.02)
"""Steps tried, as ε/p of the message whose KL is held fixed; the largest within the error budget is used."""
THRESHOLD = 0.05
"""Largest error of a point: rounding budget over value, plus what halving the step says about the next order."""
BATCH, CHUNK = 8, 64
"""Points evaluated at once, and points of one call: one compiled shape however many there are."""


BEND = 0.5
"""A slope is marked as no power law where the local slope of the two largest n differs by more than this and its interval."""


class Setting(NamedTuple):
    """One panel column: how long an episode is, who speaks when, who is updated when, what is held fixed."""

    horizon: str  #: "2n", or "fixed": 2·(largest n), whatever n is
    order: str  #: forward (first speaker first), reverse, random
    router: str  #: "round robin", or "random": every turn's speaker drawn once and for all
    held: str  #: KL "message", or "agent": the same δ⁰ (KL summed over the episode) for every agent and n

    @property
    def name(self) -> str:
        return f"T {self.horizon}, {self.order}, {self.router}, KL per {self.held}"


SETTINGS = (
    Setting("2n", "forward", "round robin", "message"),
    Setting("2n", "reverse", "round robin", "message"),
    Setting("2n", "random", "round robin", "message"),
    Setting("2n", "random", "random", "message"),
    Setting("fixed", "forward", "round robin", "message"),
    Setting("fixed", "forward", "round robin", "agent"),
    Setting("fixed", "reverse", "round robin", "message"),
    Setting("fixed", "reverse", "round robin", "agent"),
    Setting("fixed", "random", "round robin", "message"),
    Setting("fixed", "random", "round robin", "agent"),
)
"""With T = 2n and round robin everybody sends two messages: KL per message and δ⁰ per agent are the same thing."""
SHOWN = tuple(SETTINGS[k] for k in (0, 2, 1, 4, 5))


class Cell(NamedTuple):
    """One exponent and where it comes from."""

    slope: Slope | None  #: `None` where a point is outside the error budget
    last: float  #: local slope between the two largest n: far from `slope` means not a power law
    means: np.ndarray  #: [size], mean over instances of `Σ_i|gap_i|`
    error: float  #: largest error of a point
    reason: str  #: why there is no slope: "rounding" or "next order"


class RegimeMap(NamedTuple):
    """Exponents by setting, gap, and `[coherence, leak]`."""

    sizes: tuple[int, ...]
    coherence: tuple[float, ...]
    leaks: tuple[float, ...]
    horizon: int  #: T where it is fixed
    ratio: float  #: the step ε/p that the error budget allowed
    kl: float  #: of a message, where that is held fixed
    instances: int
    cells: dict[Setting, dict[str, list[list[Cell]]]]
    garnet: dict[str, dict[str, Slope]] | None  #: R3's slopes, by what is held fixed

    def slopes(self, setting: Setting, gap: str) -> np.ndarray:
        """``[coherence, leak]``, NaN where there is none."""
        return np.array([[x.slope.slope if x.slope else np.nan for x in row] for row in self.cells[setting][gap]])


def leaky_relay(
    owner: Int[Array, " T"],
    probability: Float[Array, ""] | float,
    steps: Float[Array, " slots"],
    leak: Float[Array, ""] | float,
    order: Int[Array, " slots"],
) -> Stage:
    """Contexts 0 → 1 → 2: who speaks at time t steps up with probability p, updated to `p + steps[agent]`.

    1 → 2 is delivery and pays the only reward, 1; context 2 is absorbing, so the return has range 1. After every turn context 1
    falls back to 0 with probability `leak`: its memory is `1/leak` turns.

    Args:
      owner: the agent that speaks at each time; −1: nobody, and nothing steps up.
    """
    horizon, slots = owner.shape[0], steps.shape[0]
    leak = jnp.asarray(leak, jnp.float64)
    zero, one = jnp.zeros_like(leak), jnp.ones_like(leak)
    pending = jnp.stack([leak, 1 - leak, zero])
    stays = jnp.stack([jnp.stack([one, zero, zero]), pending, jnp.stack([zero, zero, one])])
    moves = jnp.stack([pending, jnp.stack([zero, zero, one]), jnp.stack([zero, zero, one])])
    reward = jnp.zeros((horizon, 3, 2)).at[:, 1, 1].set(1.0)

    def policy(rate: Array) -> Array:
        rate = jnp.where(owner >= 0, rate, 0.0)
        return jnp.repeat(jnp.stack([1 - rate, rate], -1), 3, 0)

    rate = jnp.full(horizon, probability)
    team = Team(
        Layered(Dense(jnp.stack([stays, moves], 1), None), horizon),
        reward.reshape(-1, 2),
        jnp.zeros(3 * horizon).at[0].set(1.0),
        jnp.repeat(owner, 3),
        slots,
    )
    return Stage(team, policy(rate), policy(rate + steps[owner]), order)


def leading_sums(owner: np.ndarray, steps: np.ndarray, leak: float, order: np.ndarray) -> tuple[np.ndarray, float]:
    """`Σ|fresh|, Σ|stale|, Σ|cached|` for `ε ≪ p → 0`, and `Σ_{k≤i}|M[k,i]| + Σ_{k<i}|M[i,k]|`.

    `M[k,i] = ε_k ε_i Σ_{u<v, u a turn of k, v a turn of i} (1−leak)^{v−u}`.
    """
    slots, turns = len(steps), np.flatnonzero(owner >= 0)
    speaks = owner[turns, None] == np.asarray(order)
    decay = np.triu((1 - leak) ** np.maximum(turns[None] - turns[:, None], 0), 1)
    ranked = np.asarray(steps)[order]
    matrix = (speaks.T @ decay @ speaks) * np.outer(ranked, ranked)
    upper = np.triu(np.ones((slots, slots)))
    stale = (matrix * upper).sum(0)
    cached = stale + (matrix.T * np.triu(upper, 1)).sum(0)
    sums = np.array([abs(np.diag(matrix)).sum(), abs(stale).sum(), abs(cached).sum()])
    return sums, float((abs(matrix) * upper).sum() + (abs(matrix.T) * np.triu(upper, 1)).sum())


def _steps_of(kl: np.ndarray, sign: np.ndarray, p: float) -> np.ndarray:
    """`ε·sign` with `KL((1−p, p) ‖ (1−p−ε·sign, p+ε·sign)) = kl`: Newton's method from the quadratic approximation."""
    x = sign * np.sqrt(2 * p * (1 - p) * kl)
    for _ in range(8):
        value = -p * np.log1p(x / p) - (1 - p) * np.log1p(-x / (1 - p))
        slope = x / ((p + x) * (1 - p - x))
        x = x - np.divide(value - kl, slope, out=np.zeros_like(x), where=slope != 0)
    return x


class _Draws(NamedTuple):
    """What is random in an instance, the same in every cell."""

    signs: np.ndarray  #: [instance, slots], uniform
    ranks: np.ndarray  #: [instance, slots], uniform
    turns: np.ndarray  #: [instance, T], uniform


class _Point(NamedTuple):
    owner: np.ndarray
    steps: np.ndarray
    leak: float
    order: np.ndarray


def _point(setting: Setting, n: int, coherence: float, leak: float, kl: float, draws: _Draws, b: int) -> _Point:
    slots, horizon = draws.signs.shape[1], draws.turns.shape[1]
    length = 2 * n if setting.horizon == "2n" else horizon
    speaker = np.arange(horizon) % n if setting.router == "round robin" else (draws.turns[b] * n).astype(int)
    owner = np.where(np.arange(horizon) < length, speaker, -1)
    order = np.arange(slots)
    if setting.order == "random":
        order[:n] = np.argsort(draws.ranks[b, :n])
    elif setting.order == "reverse":
        order[:n] = order[:n][::-1]
    sign = np.where(draws.signs[b] < (1 + coherence) / 2, 1.0, -1.0)
    held = kl if setting.held == "message" else kl * 2 * n / length  # δ⁰ = 2·kl for everybody
    return _Point(owner, _steps_of(np.full(slots, held), sign, PROBABILITY) * (np.arange(slots) < n), leak, order)


def _stage_sums(points: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
    """`Σ_i|gap_i|` and its rounding budget, ``[point, gap]``."""

    def one(point: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        owner, steps, leak, order = point
        report = stage_report(leaky_relay(owner, PROBABILITY, steps, leak, order))
        gaps = jnp.stack([abs(x).sum() for x in (report.gap_fresh, report.gap_stale, report.gap_cached)])
        rounding = report.rounding
        return gaps, jnp.stack([rounding.fresh.sum(), rounding.stale.sum(), rounding.cached.sum()])

    return jax.lax.map(one, points, batch_size=BATCH)


def _evaluate(points: Sequence[_Point], slots: Sequence[int], quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """`_stage_sums` of all points, `CHUNK` at a time (the last filled up), each in the smallest shape that holds its agents.

    Programs are compiled fast if `quick`.
    """
    shape = np.array([min(s for s in slots if s >= (x.steps != 0).sum()) for x in points])
    sums, budget = np.zeros((2, len(points), 3))
    for size in slots:
        chosen = np.flatnonzero(shape == size)
        for first in range(0, len(chosen), CHUNK):
            part = chosen[first : first + CHUNK]
            filled = [points[k] for k in np.resize(part, CHUNK).tolist()]
            found = programs.run(
                _stage_sums,
                (
                    np.stack([x.owner for x in filled]),
                    np.stack([x.steps[:size] for x in filled]),
                    np.array([x.leak for x in filled]),
                    np.stack([x.order[:size] for x in filled]),
                ),
                quick=quick,
            )
            sums[part], budget[part] = (np.asarray(x)[: len(part)] for x in found)
    return sums, budget


def _kl_of(ratio: float) -> float:
    p, x = PROBABILITY, ratio * PROBABILITY
    return float(-p * np.log1p(x / p) - (1 - p) * np.log1p(-x / (1 - p)))


def _window(draws: _Draws, sizes: tuple[int, ...], slots: Sequence[int], quick: bool) -> float:
    """The largest step whose error on the corners of the map (coherent, memory ∞ and 10, least and most agents) is in budget."""
    corners = [(s, n, q) for s in (SETTINGS[0], SETTINGS[5]) for n in (sizes[0], sizes[-1]) for q in (0.0, 0.1)]
    points = [
        _point(s, n, 1.0, q, _kl_of(r) * scale, draws, 0) for r in RATIOS for scale in (1, 0.25) for s, n, q in corners
    ]
    sums, budget = (x.reshape(len(RATIOS), 2, len(corners), 3) for x in _evaluate(points, slots, quick))
    error = budget[:, 0] / sums[:, 0] + abs(sums[:, 0] / (4 * sums[:, 1]) - 1)
    total = error[..., 1].max(-1)  # of the stale gap
    return RATIOS[int(np.argmax(total <= THRESHOLD))] if (total <= THRESHOLD).any() else RATIOS[int(np.argmin(total))]


class _Evaluated(NamedTuple):
    """Every point of the map: where it stands, its sums, and those at half the step for the first `CHECKED` instances."""

    places: list[tuple[Setting, float, float, int, int]]  #: setting, coherence, leak, n, instance
    points: list[_Point]
    sums: np.ndarray
    budget: np.ndarray
    half: dict[int, np.ndarray]  #: by point


CHECKED = 2
"""Instances evaluated at half the step too."""


class _Grid(NamedTuple):
    settings: tuple[Setting, ...]
    coherence: tuple[float, ...]
    leaks: tuple[float, ...]
    sizes: tuple[int, ...]
    instances: int

    def evaluated(self, draws: _Draws, kl: float, slots: Sequence[int], quick: bool) -> _Evaluated:
        places, points, halves = [], [], []
        for key in [(s, c, q) for s in self.settings for c in self.coherence for q in self.leaks]:
            setting, c, q = key
            random = c < 1 or setting.order == "random" or setting.router == "random"
            for n in self.sizes:
                for b in range(self.instances if random else 1):
                    places.append((*key, n, b))
                    points.append(_point(setting, n, c, q, kl, draws, b))
                    if b < CHECKED:
                        halves.append((len(points) - 1, _point(setting, n, c, q, kl / 4, draws, b)))
        sums, budget = _evaluate(points, slots, quick)
        half, _ = _evaluate([x for _, x in halves], slots, quick)
        return _Evaluated(places, points, sums, budget, {k: x for (k, _), x in zip(halves, half, strict=True)})


def _wrong(found: _Evaluated, largest: int) -> int:
    """Sums that differ from the closed form of their leading order by more than the next order in p."""
    small, wrong = 2 * largest * PROBABILITY, 0
    for x, sums, unsure in zip(found.points, found.sums, found.budget, strict=True):
        stated, scale = leading_sums(x.owner, x.steps, x.leak, x.order)
        floor = (small * np.abs(x.steps).max() * (x.owner >= 0).sum()) ** 2
        wrong += int((abs(sums - stated) > 4 * small * scale + floor + unsure).sum())
    return wrong


def _cells(grid: _Grid, found: _Evaluated, rng: np.random.Generator) -> dict[Setting, dict[str, list[list[Cell]]]]:
    where: dict[tuple[Any, ...], list[int]] = {}
    for k, (*key, n, _) in enumerate(found.places):
        where.setdefault((*key, n), []).append(k)
    sums, budget, sizes = found.sums, found.budget, grid.sizes

    def cell(setting: Setting, c: float, q: float, gap: int) -> Cell:
        rows = [where[setting, c, q, n] for n in sizes]
        values = np.array([sums[row, gap] for row in rows])
        noise = max(budget[row, gap].sum() / sums[row, gap].sum() for row in rows)
        bend = max(
            abs(sums[row[:CHECKED], gap].sum() / (4 * sum(found.half[k][gap] for k in row[:CHECKED])) - 1)
            for row in rows
        )
        means = values.mean(-1)
        last = float(np.log(means[-1] / means[-2]) / np.log(sizes[-1] / sizes[-2])) if (means > 0).all() else np.nan
        reason = "rounding" if not noise <= THRESHOLD else "next order" if not noise + bend <= THRESHOLD else ""
        slope = None if reason else bootstrap_slope(sizes, values, rng, 500)
        return Cell(slope, last, means, float(noise + bend), reason)

    return {
        s: {gap: [[cell(s, c, q, k) for q in grid.leaks] for c in grid.coherence] for k, gap in enumerate(GAPS)}
        for s in grid.settings
    }


def _corner(x: RegimeMap, setting: Setting, c: int, q: int) -> str:
    parts = []
    for gap in GAPS:
        slope = x.cells[setting][gap][c][q].slope
        parts.append(f"{gap} {slope.slope:.2f} [{slope.low:.2f}, {slope.high:.2f}]" if slope else f"{gap} –")
    return f"{setting.name}, coherence {x.coherence[c]:g}, leak {x.leaks[q]:g}: " + ", ".join(parts)


def run(
    quick: bool,
    rng: np.random.Generator,
    lock: AbstractContextManager[Any] | None = None,
    garnet: RandomCurves | None = None,
    thorough: bool = False,
) -> tuple[Row, RegimeMap]:
    """The ledger row and the map. Violations: sums further from the closed form of `leading_sums` than the next order in p.

    Args:
      lock: held while programs run, as in the audit.
      garnet: what `r3.run` returned: random teams as a reference in the figure.
      thorough: all `SETTINGS`, not only those of the figure.
    """
    started = time.perf_counter()
    sizes, instances = (SIZES[:3], 4) if quick else (SIZES, 8)
    coherence, leaks = (COHERENCE[::2], LEAKS[::2]) if quick else (COHERENCE, LEAKS)
    grid = _Grid(SETTINGS if thorough else SHOWN, coherence, leaks, sizes, instances)
    slots = sorted({sizes[min(2, len(sizes) - 1)], sizes[-1]})
    draws = _Draws(*(rng.random((instances, width)) for width in (sizes[-1], sizes[-1], 2 * sizes[-1])))
    with lock or nullcontext():
        ratio = _window(draws, sizes, slots, quick)
        kl = _kl_of(ratio)
        found = grid.evaluated(draws, kl, slots, quick)
    longest = 2 * sizes[-1]
    reference = None if garnet is None else garnet.slopes
    cells = _cells(grid, found, rng)
    drawn = RegimeMap(sizes, coherence, leaks, longest, ratio, kl, instances, cells, reference)
    everything = [x for of in cells.values() for rows in of.values() for row in rows for x in row]
    first = cells[SETTINGS[0]]["stale"][-1][0].slope
    corners = [
        _corner(drawn, s, c, q)
        for s in (SETTINGS[0], SETTINGS[1], SETTINGS[4], SETTINGS[5])
        for c, q in ((-1, 0), (0, 0), (-1, -2))
    ]
    row = Row(
        "R7", "regime map: in the leaky relay Σ|stale gap| ∝ n² needs coherent agents, a memory as long as the stage and a "
        "horizon that grows with n; the update order changes the constant, and the exponent only where memory is short", "float",
        len(found.points), _wrong(found, sizes[-1]), 0, None, None,
        exponent=None if first is None else first.slope, interval=None if first is None else (first.low, first.high),
        seconds=time.perf_counter() - started, checks=3 * len(found.points),
        note=(
            f"leaky relay, p = {PROBABILITY:g}, outcome reward in [0,1], n = {sizes[0]}…{sizes[-1]}, {instances} teams a cell "
            f"(1 where nothing is random), KL {kl:.2g} per message, that is ε = {ratio:g}p (δ⁰ = 2·KL where held per agent), "
            f"T = 2n or {longest}; a point is used if rounding budget / value + |S(ε)/(4S(ε/2)) − 1| ≤ {THRESHOLD:g}: "
            f"{sum(x.slope is None for x in everything)} "
            f"of {len(everything)} exponents have a point outside. Violations: sums that differ from the closed form of their "
            f"leading order by more than 4Tp of it (without signs). Slope of the mean, bootstrap over teams: "
            f"{'; '.join(corners)}. Exponent column: stale, T = 2n, forward, coherence 1, no leak"
        ),
    )  # fmt: skip
    return row, drawn


def as_dict(x: RegimeMap) -> dict[str, Any]:
    """The map for JSON; `slope` is `null` where a point is outside the error budget."""
    cells = []
    for setting, gap in ((s, gap) for s, of in x.cells.items() for gap in of):
        for (c, q), _ in np.ndenumerate(x.slopes(setting, gap)):
            one = x.cells[setting][gap][c][q]
            cells.append(
                setting._asdict()
                | {"gap": gap, "coherence": x.coherence[c], "leak": x.leaks[q], "slope": one.slope and one.slope.slope}
                | {"interval": one.slope and [one.slope.low, one.slope.high], "means": one.means.tolist()}
                | {"last_local_slope": one.last if np.isfinite(one.last) else None, "reason": one.reason}
                | {"error": one.error if np.isfinite(one.error) else None}
            )
    garnet = x.garnet and {held: {gap: s._asdict() for gap, s in of.items()} for held, of in x.garnet.items()}
    return {
        "sizes": list(x.sizes), "fixed_horizon": x.horizon, "probability": PROBABILITY, "step_over_probability": x.ratio,
        "kl_per_message": x.kl, "instances": x.instances, "threshold": THRESHOLD, "cells": cells, "garnet": garnet,
    }  # fmt: skip


def _map(ax: Any, curves: RegimeMap, setting: Setting, gap: str) -> Any:
    """One panel: exponents over memory and coherence, contours at 1 and 2."""
    slope = curves.slopes(setting, gap)
    from matplotlib import colormaps

    colours = colormaps["RdYlBu_r"].with_extremes(bad="#cccccc")
    image = ax.imshow(slope, origin="lower", cmap=colours, vmin=-1, vmax=2, aspect="auto")
    for level, style in ((1.0, "--"), (2.0, "-")):
        if (slope < level).any() and (slope > level).any():
            ax.contour(np.ma.masked_invalid(slope), [level], colors="black", linestyles=style, linewidths=1.4)
    for (c, q), x in np.ndenumerate(slope):
        one = curves.cells[setting][gap][c][q]
        label = "–"
        if one.slope is not None:
            bent = abs(one.last - x) > BEND + one.slope.high - one.slope.low
            label = f"{x:.1f}".replace("-0.0", "0.0") + ("*" if bent else "")
        shade = "white" if x > 1.75 or x < -0.75 else "black"
        ax.text(q, c, label, ha="center", va="center", fontsize=TEXT, color=shade)
    return image


def _caption(curves: RegimeMap) -> str:
    note = (
        f"Solid line: exponent 2; dashed: 1. *: no power law (local slope of the two largest n off by {BEND:g} and more).\n"
        "Grey: the gap is smaller than its rounding budget."
    )
    if curves.garnet is None:
        return note
    parts = [
        f"KL per {held}: " + ", ".join(f"{gap} {of[gap].slope:.2f}" for gap in GAPS)
        for held, of in curves.garnet.items()
    ]
    return note + "\nFor comparison, random (Garnet) teams, γ = 0.9: " + "; ".join(parts) + "."


def regime_figure(curves: RegimeMap, path: Path) -> Path:
    """Heat maps of the exponents over coherence and memory: rows are settings, columns are gaps; contours at 1 and 2."""
    long, shown = f"T = {curves.horizon}", [s for s in SHOWN if s in curves.cells]
    titles = dict(zip(SHOWN, (
        "T = 2n, first speaker\nupdated first", "T = 2n, random\nupdate order", "T = 2n, last speaker\nupdated first",
        f"{long}, KL per message fixed\nfirst speaker updated first", f"{long}, δ⁰ per agent fixed\nfirst speaker updated first",
    ), strict=True))  # fmt: skip
    figure, axes = panels(len(shown), 3, (9.8, 2.5 * len(shown) + 1.6), sharex=True, sharey=True)
    image = None
    for row, setting in zip(axes, shown, strict=True):
        for ax, gap in zip(row, ("stale", "fresh", "cached"), strict=True):
            image = _map(ax, curves, setting, gap)
        row[0].set_ylabel(f"{titles[setting]}\n\ncoherence")
        row[0].set_yticks(range(len(curves.coherence)), [f"{c:g}" for c in curves.coherence])
    for ax, gap in zip(axes[0], ("stale", "fresh", "cached"), strict=True):
        ax.set_title(f"Σ|{gap} gap|")
    for ax in axes[-1]:
        ax.set_xticks(range(len(curves.leaks)), ["∞" if q == 0 else f"{1 / q:.0f}" for q in curves.leaks])
        ax.set_xlabel("memory 1/leak (turns)")
    assert image is not None
    label = f"exponent in n, n = {curves.sizes[0]}…{curves.sizes[-1]}"
    figure.colorbar(image, ax=axes, shrink=0.5, extend="both", label=label)
    figure.suptitle("R7 when is quadratic real? Leaky relay, rare small steps, outcome reward in [0, 1]", fontsize=12)
    figure.supxlabel(_caption(curves), fontsize=LEGEND, x=0.02, ha="left")
    return save(figure, path)
