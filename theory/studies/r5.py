"""R5, the interaction matrix: to third order it holds all three gaps of a stage.

Decided exactly. Along `π^k(t) = π^k + t·(target − current)` every gap and every entry of `M` is a rational function of t
without a pole at 0, so `remainder = O(t³)` says that its coefficients of 1, t, t² are zero: rational numbers, computed here by
power series. Slopes of the float core over a window of steps are reported beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flint import fmpq, fmpq_mat

from teamtr_jax import programs
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.exact import exact_numbers, exact_stage
from teamtr_jax.interaction import interaction_matrix
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import random_stages
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import unchecked
from theory.families import take
from theory.figures import TEXT, panels, save
from theory.fits import Slope, bootstrap_slope
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = [
    "STUDY",
    "Expansion",
    "Interactions",
    "coherent_relay",
    "expand",
    "interaction_figure",
    "relay_matrix",
    "remainders",
    "run",
]

TERMS = 4
"""Coefficients of 1, t, t², t³: the last one says whether a remainder is of third order exactly."""
STEPS = 1e-2 / 2.0 ** np.arange(8)
"""1e-2 … 7.8e-5; neighbours are a step and its half."""
THRESHOLD = 0.05
"""Largest error of a point of a fit: rounding budget over value, plus what halving the step says about the next order."""
RELATIONS = {
    "drift": "stale_i − fresh_i − Σ_{k<i} M[k,i]",
    "fresh": "fresh_i − M[i,i]",
    "cached": "cached_i − fresh_i − Σ_{k<i} (M[k,i] + M[i,k])",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "turn-taking": {"states": 6, "actions": 3, "agents": 4, "discount": 0.9},
    "product": {"states": 4, "actions": (2, 3, 2), "agents": 3, "discount": 0.9},
    "episodic": {"states": 3, "actions": 2, "agents": 4, "horizon": 8},
}

Series = list[Any]  # matrices; number k is the coefficient of t^k


class Expansion(NamedTuple):
    """Coefficients ``[…, t-power]`` of the gaps and of `M`, rational (object arrays of `fmpq`)."""

    fresh: np.ndarray  #: [n, terms]
    stale: np.ndarray  #: [n, terms]
    cached: np.ndarray  #: [n, terms]
    matrix: np.ndarray  #: [n, n, terms], `M[k,i]`


class Interactions(NamedTuple):
    """What R5's checks found; `slopes[family][relation]`, fitted on `windows[family][relation] = (least, largest)` step."""

    slopes: dict[str, dict[str, Slope]]
    windows: dict[str, dict[str, tuple[float, float]]]
    exact_stages: dict[str, int]
    exact_third: dict[str, int]  #: remainders whose coefficient of t³ is not zero, by relation
    relay: np.ndarray  #: leading `M/t²` of the coherent relay with 8 agents


def _integer(x: fmpq) -> int:
    assert x.q == 1
    return int(x.p)


def _sub(a: Series, b: Series) -> Series:
    return [x - y for x, y in zip(a, b, strict=True)]


def _row_series(old: Sequence[fmpq], new: Sequence[fmpq], base: Sequence[fmpq] | None, terms: int):
    """Coefficients of the current and the target row at step t."""
    zero = [fmpq(0)] * len(old)
    if terms == 1:  # the stage as it is: t = 1
        return [list(old)], [list(new)]
    if base is None:
        moving = [q - p for p, q in zip(old, new, strict=True)]
        return [list(old), *[zero] * (terms - 1)], [list(old), moving, *[zero] * (terms - 2)]
    rest = [zero] * (terms - 2)
    return tuple([list(base), [q - p for p, q in zip(base, row, strict=True)], *rest] for row in (old, new))


def _joint_series(rows: Sequence[list[list[fmpq]]], terms: int) -> list[list[fmpq]]:
    """Product of the agents' rows, truncated: `out[power][joint action]`."""
    out = [[fmpq(int(k == 0))] for k in range(terms)]
    for row in rows:
        out = [
            [
                sum((out[j][x] * row[k - j][y] for j in range(k + 1)), fmpq(0))
                for x in range(len(out[0]))
                for y in range(len(row[0]))
            ]
            for k in range(terms)
        ]
    return out


class _Arithmetic:
    """Matrices of rational numbers; if `whole`, of integers: int64 arrays. Series are truncated after `terms` powers of t."""

    def __init__(self, states: int, actions: int, terms: int, whole: bool) -> None:
        self.states, self.actions, self.terms, self.whole = states, actions, terms, whole

    def matrix(self, rows: Sequence[Sequence[fmpq]]) -> Any:
        if self.whole:
            return np.array([[_integer(x) if x else 0 for x in row] for row in rows])
        return fmpq_mat([*map(list, rows)])

    def product(self, a: Any, b: Any) -> Any:
        return a @ b if self.whole else a * b

    def convolve(self, a: Series, b: Series) -> Series:
        return [
            sum((self.product(a[j], b[k - j]) for j in range(1, k + 1)), self.product(a[0], b[k]))
            for k in range(self.terms)
        ]

    def inverse(self, m: Any) -> Any:
        if not self.whole:
            return m.inv()
        found = np.rint(np.linalg.inv(m)).astype(np.int64)
        assert (found @ m == np.eye(self.states, dtype=np.int64)).all()
        return found

    def averaging(self, table: list[list[fmpq]]) -> Any:
        """`[S, S·A]`: the matrix that takes the mean over actions."""
        shape = (self.states, self.states * self.actions)
        out: Any = np.zeros(shape, np.int64) if self.whole else fmpq_mat(*shape)
        for s, row in enumerate(table):
            for a, x in enumerate(row):
                if x:
                    out[s, s * self.actions + a] = _integer(x) if self.whole else x
        return out

    def total(self, x: Series, y: Series) -> list[fmpq]:
        """Coefficients of the number `x·y`, x a row and y a column."""
        return [fmpq(int(z[0, 0])) if self.whole else z[0, 0] for z in self.convolve(x, y)]


class _Solved(NamedTuple):
    mean: Series
    visits: Series  # [1, S]
    advantage: Series  # [S·A, 1]


def _policy(stage: Stage, e: Any, updated: set[int], terms: int, base: np.ndarray | None) -> list[list[list[fmpq]]]:
    """`[power][S][A]` with the agents at these positions updated; `e`: the exact stage."""
    floor = None if base is None else [[fmpq(*float(x).as_integer_ratio()) for x in row] for row in np.asarray(base)]
    order = np.asarray(stage.order).tolist()
    rank = {agent: i for i, agent in enumerate(order)}
    per_state = []
    for s in range(len(e.initial)):
        if stage.team.factors is None:
            owner = next((i for i in range(len(order)) if e.moved[i][s] is not None), None)
            pair = None if owner is None else e.moved[owner][s]
            old, new = pair or (e.policies[0][s], e.policies[0][s])
            start = None if floor is None else floor[s]
            per_state.append(_row_series(old, new, start, terms)[int(owner in updated)])
        else:
            pairs = [e.moved[rank[agent]][s] for agent in range(len(order))]
            rows = [_row_series(p[0], p[1], None, terms)[int(rank[k] in updated)] for k, p in enumerate(pairs) if p]
            per_state.append(_joint_series(rows, terms))
    return [[row[k] for row in per_state] for k in range(terms)]


def _solver(stage: Stage, terms: int, base: np.ndarray | None) -> tuple[Callable[[set[int]], _Solved], _Arithmetic]:
    """`solve(positions updated)` → the mean over actions, the visits and the advantage, as series; and their arithmetic."""
    e = exact_stage(stage)
    states, actions = len(e.initial), len(e.reward[0])
    by = _Arithmetic(states, actions, terms, base is not None)
    world = by.matrix([row for table in e.transition for row in table])  # [S·A, S]
    reward = by.matrix([[x] for row in e.reward for x in row])
    initial = by.matrix([e.initial])
    identity = by.matrix([[fmpq(int(s == t)) for t in range(states)] for s in range(states)])
    spread = by.matrix([[fmpq(int(s == t)) for t in range(states)] for s in range(states) for _ in range(actions)])
    gamma = _integer(e.gamma) if by.whole else e.gamma

    def solve(updated: set[int]) -> _Solved:
        mean = [by.averaging(table) for table in _policy(stage, e, updated, terms, base)]
        moves = [gamma * by.product(x, world) for x in mean]
        inverse = by.inverse(identity - moves[0])
        visits, values = [], []
        for k in range(terms):
            arriving = sum((by.product(visits[k - j], moves[j]) for j in range(1, k + 1)), initial * int(k == 0))
            visits.append(by.product(arriving, inverse))
            following = sum((by.product(moves[j], values[k - j]) for j in range(1, k + 1)), by.product(mean[k], reward))
            values.append(by.product(inverse, following))
        advantage = [gamma * by.product(world, v) - by.product(spread, v) for v in values]
        advantage[0] = advantage[0] + reward
        return _Solved(mean, visits, advantage)

    return solve, by


def expand(stage: Stage, terms: int = TERMS, base: np.ndarray | None = None) -> Expansion:
    """Power series in t of the gaps and of `M`, exactly, for the stage with steps `t·(target − current)`.

    Args:
      terms: number of coefficients; 1 means the stage as it is, without a t.
      base: turn-taking only: a policy ``[S, A]`` from which current and target both start, `base + t·(current − base)` and
        `base + t·(target − base)` (rare steps: p = ε = t). All numbers must be integers.
    """
    solve, by = _solver(stage, terms, base)
    n = len(np.asarray(stage.order))
    hybrids = [solve(set(range(i))) for i in range(n + 1)]
    solos = [hybrids[1] if k == 0 else solve({k}) for k in range(n)]
    steps = [_sub(hybrids[i + 1].mean, hybrids[i].mean) for i in range(n)]
    g = [by.convolve(steps[i], hybrids[i].advantage) for i in range(n)]
    start = hybrids[0]
    fresh = [by.total(_sub(hybrids[i + 1].visits, hybrids[i].visits), g[i]) for i in range(n)]
    stale = [by.total(_sub(hybrids[i + 1].visits, start.visits), g[i]) for i in range(n)]
    cached = []
    for i in range(n):
        first = by.convolve(steps[i], start.advantage)
        new = by.total(hybrids[i + 1].visits, g[i])
        cached.append([x - y for x, y in zip(new, by.total(start.visits, first), strict=True)])
    matrix = [[by.total(_sub(solos[k].visits, start.visits), g[i]) for i in range(n)] for k in range(n)]
    return Expansion(*(np.array(x, object) for x in (fresh, stale, cached, matrix)))


def remainders(x: Expansion | Any) -> dict[str, np.ndarray]:
    """The left sides of R5's order relations, ``[n, …]``; `x` has fields fresh, stale, cached and matrix, agents first."""
    n = x.matrix.shape[0]
    diagonal = np.stack([x.matrix[i, i] for i in range(n)])
    zero = x.matrix[0, 0] * 0
    above = np.stack([sum((x.matrix[k, i] for k in range(i)), zero) for i in range(n)])
    left = np.stack([sum((x.matrix[i, k] for k in range(i)), zero) for i in range(n)])
    return {
        "drift": x.stale - x.fresh - above,
        "fresh": x.fresh - diagonal,
        "cached": x.cached - x.fresh - above - left,
    }


def _exact(stage: Stage) -> tuple[int, int, dict[str, int]]:
    """`(equations, wrong, remainders with a t³ term)` of one stage."""
    numbers = exact_numbers(exact_stage(stage))
    pairs = [
        pair
        for gain, seq, stale, fresh_gap, stale_gap in zip(
            *(numbers[key] for key in ("gain", "seq", "stale", "gap_fresh", "gap_stale")), strict=True
        )
        for pair in ((gain - seq, fresh_gap), (gain - stale, stale_gap), (stale_gap - fresh_gap, seq - stale))
    ]
    found = remainders(expand(stage))
    low = [c for rest in found.values() for row in rest for c in row[:3]]
    wrong = sum(a != b for a, b in pairs) + sum(c != 0 for c in low)
    return len(pairs) + len(low), wrong, {name: sum(c != 0 for c in rest[:, 3]) for name, rest in found.items()}


def _all_steps(stages: Stage, steps: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Gaps and interaction matrix of every stage at every step, and the budget of their sums."""

    def one(stage: Stage, step: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
        moved = stage.current + step * (stage.target - stage.current)
        stage = Stage(stage.team, stage.current, moved, stage.order)
        report = stage_report(stage)
        matrix = interaction_matrix(stage, report)
        parts = report.gap_fresh, report.gap_stale, report.gap_cached, matrix
        return parts, 2 * report.rounding.cached.sum()

    return jax.lax.map(lambda step: jax.vmap(one, (0, None))(stages, step), steps)


def _sums(stages: Stage) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`Σ_i |remainder_i|` and its rounding budget, ``[step, instance]``."""
    parts, budget = jax.device_get(programs.run(_all_steps, stages, STEPS, quick=True))
    fresh, stale, cached = (np.moveaxis(x, -1, 0) for x in parts[:3])
    found = Expansion(fresh, stale, cached, np.moveaxis(parts[3], (-2, -1), (0, 1)))
    return budget, {name: abs(rest).sum(0) for name, rest in remainders(found).items()}


def _fit(budget: np.ndarray, rest: np.ndarray, rng: np.random.Generator) -> tuple[Slope, tuple[float, float]] | None:
    """Slope on the steps whose error is below `THRESHOLD`; the error uses the instances' mean, as the slope does."""
    mean = rest.mean(-1)
    error = budget.mean(-1)[:-1] / mean[:-1] + abs(mean[:-1] / (8 * mean[1:]) - 1)
    keep = np.flatnonzero(error <= THRESHOLD)
    if len(keep) < 3:
        return None
    return bootstrap_slope(STEPS[keep], rest[keep], rng), (float(STEPS[keep[-1]]), float(STEPS[keep[0]]))


def run(
    quick: bool, rng: np.random.Generator, lock: AbstractContextManager[Any] | None = None
) -> tuple[Row, Interactions]:
    """The ledger row: violations are nonzero coefficients of 1, t, t² (exact); the exponent is the drift remainder's slope."""
    started = time.perf_counter()
    exact, floats = (3, 8) if quick else (12, 40)
    families = dict(list(FAMILIES.items())[1:2]) if quick else FAMILIES
    checks = wrong = 0
    third = dict.fromkeys(RELATIONS, 0)
    for shape in FAMILIES.values():
        small = shape | {"states": min(shape["states"], 4), "horizon": shape.get("horizon") and 4}
        if not isinstance(shape["actions"], tuple):
            small["agents"] = 3
        stages = random_stages(rng, exact, **small, step=0.5, branching=2)
        for b in range(exact):
            done, bad, found = _exact(take(stages, b))
            checks, wrong = checks + done, wrong + bad
            third = {name: third[name] + found[name] for name in third}

    slopes: dict[str, dict[str, Slope]] = {}
    windows: dict[str, dict[str, tuple[float, float]]] = {}
    for family, shape in families.items():
        stages = random_stages(rng, floats, **shape, step=1.0)
        with lock or nullcontext():
            budget, sums = _sums(stages)
        fits = {name: fit for name, rest in sums.items() if (fit := _fit(budget, rest, rng)) is not None}
        slopes[family] = {name: fit[0] for name, fit in fits.items()}
        windows[family] = {name: fit[1] for name, fit in fits.items()}
    main = slopes.get("product", {}).get("drift")
    text = "; ".join(
        f"{family}: " + ", ".join(
            f"{name} {s.slope:.3f} [{s.low:.3f}, {s.high:.3f}] on t = {least:.1e}…{largest:.1e}"
            for name, s in of.items() for least, largest in (windows[family][name],)
        )
        for family, of in slopes.items()
    )  # fmt: skip
    stages_exact = dict.fromkeys(FAMILIES, exact)
    row = Row(
        "R5", "interaction matrix, up to third order: fresh_i = M[i,i], stale_i − fresh_i = Σ_{k<i} M[k,i], "
        "cached_i − fresh_i = Σ_{k<i}(M[k,i]+M[i,k]); exactly: stale_i − fresh_i = L_i^seq − L_i^stale", "exact",
        exact * len(FAMILIES), wrong, 0, None, None,
        exponent=None if main is None else main.slope, interval=None if main is None else (main.low, main.high),
        seconds=time.perf_counter() - started, checks=checks,
        note=(
            "rational power series: the coefficients of 1, t, t² of every remainder are zero; of t³ not zero in "
            + ", ".join(f"{count} ({name})" for name, count in third.items())
            + f" updates. Float slopes of the mean of Σ|remainder| in the step t, {floats} Garnet teams each, 95 % bootstrap "
            f"over teams; steps halved from {STEPS[0]:g} to {STEPS[-1]:.1e}, a step is used if rounding budget / remainder + "
            f"|R(t)/(8R(t/2)) − 1| ≤ {THRESHOLD:g}. {text}. Exponent column: drift, product teams"
        ),
    )  # fmt: skip
    return row, Interactions(slopes, windows, stages_exact, third, relay_matrix(8))


def coherent_relay(n: int, rounds: int = 2) -> tuple[Stage, np.ndarray]:
    """R1 formally at p = ε = 1, and the policy of nobody acting: with it as `base`, `expand` gives p = ε = t.

    As `relay_stage`, but the reward is paid on arrival in context 2, which comes to the same without a discount.
    """
    horizon = rounds * n
    move = np.zeros((3, 2, 3))
    move[[0, 1, 2], 0, [0, 1, 2]] = move[[0, 1, 2], 1, [1, 2, 2]] = 1.0
    reward = np.zeros((horizon, 3, 2))
    reward[:, 1, 1] = 1.0
    initial = np.zeros(horizon * 3)
    initial[0] = 1.0
    nobody = np.tile([1.0, 0.0], (horizon * 3, 1))
    acts = np.array([-1.0, 1.0])
    team = Team(
        Layered(Dense(jnp.asarray(move), None), horizon),
        jnp.asarray(reward.reshape(-1, 2)),
        jnp.asarray(initial),
        jnp.asarray(np.repeat(np.arange(horizon) % n, 3)),
        n,
    )
    with unchecked():  # p = ε = 1 names the powers that `expand` counts: the rows are coefficients
        stage = Stage(team, jnp.asarray(nobody + acts), jnp.asarray(nobody + 2 * acts), jnp.asarray(np.arange(n)))
    return stage, nobody


def relay_matrix(n: int, rounds: int = 2) -> np.ndarray:
    """Leading `M/t²` of the coherent relay at p = ε = t → 0, exact."""
    stage, nobody = coherent_relay(n, rounds)
    return expand(stage, 3, nobody).matrix[..., 2].astype(float)


def interaction_figure(matrix: np.ndarray, path: Path) -> Path:
    """Heat map of `M` of the coherent relay: row k shifts the context that column i is judged in."""
    n = len(matrix)
    limit = abs(matrix).max() or 1.0
    figure, axes = panels(1, 1, (2.4 + 0.5 * n, 1.8 + 0.5 * n))
    ax = axes[0][0]
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for edge in range(n):  # the stairs between what came before an update and what comes after it
        ax.plot([edge - 0.5, edge + 0.5], [edge - 0.5] * 2, color="black", lw=1.2)
        ax.plot([edge + 0.5] * 2, [edge - 0.5, edge + 0.5], color="black", lw=1.2)
    for k, i in np.ndindex(n, n) if n <= 12 else ():
        shade = "white" if abs(matrix[k, i]) > 0.6 * limit else "black"
        ax.text(i, k, f"{matrix[k, i]:.2g}", ha="center", va="center", fontsize=TEXT, color=shade)
    ax.set_xticks(range(n))
    ax.set_yticks(range(n))
    ax.set(
        xlabel="agent whose surrogate is judged, σ(i)", ylabel="agent that alone was updated, σ(k)",
        title=f"R5 interaction matrix M[k, i]/t², coherent relay, {n} agents,\ntwo turns each, p = ε = t → 0 (exact).\n"
        "Above the stairs: stale − fresh; diagonal: fresh",
    )  # fmt: skip
    figure.colorbar(image, ax=ax, shrink=0.8)
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    row, found = run(tier.quick, rng, lock)
    return Found((row,), {"interaction.png": partial(interaction_figure, found.relay)})


WORDS = "One matrix of pairs of agents gives all three gaps of a stage, up to third order in the step."
STUDY = Study("interactions", {"R5": WORDS}, _job, figures={"interaction.png": ("R4", "R5")})
