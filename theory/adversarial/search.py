"""Adversarial search: gradient ascent on gap/bound over transitions, rewards, start and both policies, for every rung.

`python -m theory.adversarial` prints the tightest ratio found for each rung, shape, number of agents and γ, decides the tightest
of each rung and γ again in exact arithmetic and, with `--save`, writes these stages to `theory/instances/`. A reader's own
`Rung` is searched by `search(rung, shape, rng)`.

A stage is a point of unconstrained logits: softmax rows for transitions, start, current policy and an aim, sigmoid rewards in
[0,1], and `target = current + e·(aim − current)` with `e = sigmoid` of its own at every state. Between rounds of ascent the best
points are copied, disturbed and projected: probabilities below a threshold become exact zeros, which a softmax only approaches.
What is reported is `|gap|/penalty` of `stage_report` on the final arrays, less what rounding may have done to it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import flint
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flint import arb
from jax import Array, lax
from numpy.typing import NDArray

from teamtr_jax.bounds import DEFAULT, Rung, ladder
from teamtr_jax.command_line import parsed
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.files import output_file, output_folder, read_json, regular_file, replacing, seal
from teamtr_jax.records import dump
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import read_stage, write_stage
from teamtr_jax.types import Stage, StageReport, Team
from teamtr_jax.validation import InputError, whole_number
from theory.exact import PRECISION, exact_checks
from theory.families import take

__all__ = [
    "Exact",
    "Found",
    "INSTANCES",
    "Record",
    "SHAPES",
    "Shape",
    "judge_stages",
    "load",
    "read_index",
    "recheck",
    "run",
    "save",
    "search",
]

INSTANCES = Path(__file__).parent / "instances"
LIMIT = 30.0
"""Logits stay within ±30; what is projected is ±∞."""
LEAST_STEP = float(np.log(1e-6))
"""Smaller steps say nothing more: what a limit leaves to be gained is of the order of the step, and rounding grows."""
TINY = 1e-200
CHUNK = 25

EXACT: dict[str, tuple[str, str]] = {
    "penalty_trivial": ("S0", "fresh"), "penalty_paper": ("P3.4", ""), "penalty_share": ("S1", "fresh"),
    "penalty_path": ("S2", "gap"), "penalty_second_order": ("S4", "S4"), "penalty_later_turns": ("S4", "S4R"),
    "penalty_layers": ("E1", ""), "penalty_log_sum": ("S7", ""), "penalty_log_sum_advantage": ("S7b", "fresh"),
    "penalty_weighted": ("S9", "update"), "penalty_stale_trivial": ("S0", "stale"),
    "penalty_stale_paper": ("P3.7", "update"), "penalty_stale_share": ("S1", "stale"), "penalty_stale_path": ("S3", "gap"),
    "penalty_stale_second_order": ("S4", "S4 stale"), "penalty_stale_log_sum": ("S7b", "stale"),
    "penalty_stale_return_range": ("S7b", "stale, ϱ"), "penalty_cached_log_sum": ("S7c", "cached"),
    "penalty_reused_log_sum": ("S7c", "reused"),
}  # fmt: skip
"""Where `theory.exact.exact_checks` keeps the same inequality."""


class Shape(NamedTuple):
    """Array sizes of a search: one compiled program each. Fewer agents than `agents` leave the others without influence."""

    name: str
    states: int  #: contexts per time step when `horizon` is given
    actions: int | tuple[int, ...]  #: a tuple: product team
    agents: int
    horizon: int | None = None

    @property
    def rows(self) -> int:
        return self.states * (self.horizon or 1)

    @property
    def form(self) -> str:
        return "discounted" if self.horizon is None else "episodic"

    @property
    def factors(self) -> tuple[int, ...] | None:
        return self.actions if isinstance(self.actions, tuple) else None


SHAPES: tuple[Shape, ...] = (
    Shape("turn-taking", 6, 2, 3),
    Shape("product", 4, (2, 2, 2), 3),
    Shape("episodic", 3, 2, 3, 4),
    Shape("episodic product", 2, (2, 2), 2, 3),
)
GAMMAS = (0.5, 0.9, 0.99)


Named = TypeVar("Named", Rung, Shape)


class Logits(NamedTuple):
    """A stage without constraints."""

    transition: Any
    reward: Any
    initial: Any
    current: Any
    aim: Any
    step: Any


class Case(NamedTuple):
    """What the ascent leaves as it is."""

    which: Any  #: index of the rung whose ratio is maximised
    gamma: Any  #: 1 when episodic
    live: Any  #: agents 0 … live−1 own states or move
    active: Any
    order: Any


class Found(NamedTuple):
    """The result of `search`, best first."""

    stages: Stage  #: leading axis B on every array
    ratios: NDArray[np.float64]  #: [B] largest `|gap_i|/penalty_i` of the stage
    slack: NDArray[np.float64]  #: [B] what rounding may have done to the ratio


class Exact(NamedTuple):
    """The ratio of one stage in rational and ball arithmetic."""

    ratio: float
    holds: bool | None  #: `None` where two balls overlap
    evidence: str  #: exact, enclosed, inconclusive


@dataclass(frozen=True)
class Record:
    """The tightest ratio found for one rung, shape, n and γ."""

    rung: str
    id: str
    gap: str
    form: str
    shape: str
    agents: int
    gamma: float | None  #: `None` when episodic
    ratio: float
    slack: float  #: rounding of `ratio`
    stage: Stage
    exact: Exact | None = None

    @property
    def sure(self) -> float:
        return self.ratio - self.slack

    @property
    def violated(self) -> bool:
        return self.ratio > 1 + self.slack or (self.exact is not None and self.exact.holds is False)


# ------------------------------------------------------------------------------------------------------------ one program


@jax.custom_vjp
def _inverse(matrix: Array) -> Array:
    """Gauss–Jordan without exchanges: `I − γP_π` is diagonally dominant, and no two terms of unlike sign are ever added."""
    x = matrix
    for k in range(matrix.shape[0]):
        pivot, row, column = x[k, k], x[k] / x[k, k], x[:, k]
        x = (x - column[:, None] * row).at[k].set(row).at[:, k].set(-column / pivot).at[k, k].set(1 / pivot)
    return x


def _inverse_forward(matrix: Array) -> tuple[Array, Array]:
    x = _inverse(matrix)
    return x, x


def _inverse_backward(x: Array, cotangent: Array) -> tuple[Array]:
    return (-(x.T @ cotangent @ x.T),)


_inverse.defvjp(_inverse_forward, _inverse_backward)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Inverse:
    """A resolvent that is its own matrix."""

    table: Array

    def values(self, reward: Array) -> Array:
        return self.table @ reward

    def visits(self, initial: Array) -> Array:
        return initial @ self.table

    def reached(self, initial: Array, visits: Array | None = None) -> Array:
        return lax.stop_gradient(self.visits(initial) if visits is None else visits) > 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Eliminated(Dense):
    """`Dense` without LAPACK: the two solves of a gradient do not depend on each other (`dynamics/_linear.py` says why not)."""

    def resolvent(self, policy: Array) -> Any:
        induced = jnp.einsum("sa,sat->st", policy, self.transition)
        return _Inverse(_inverse(jnp.eye(policy.shape[0]) - self.discount * induced))


def _stage(shape: Shape, world: type[Dense], logits: Logits, case: Case) -> Stage:
    transition = jax.nn.softmax(logits.transition)
    first = jax.nn.softmax(logits.initial)
    current, aim = jax.nn.softmax(logits.current), jax.nn.softmax(logits.aim)
    target = current + jax.nn.sigmoid(logits.step)[..., None] * (aim - current)
    if shape.horizon is None:
        dynamics, initial = world(transition, case.gamma), first
    else:
        dynamics = Layered(Dense(transition, None), shape.horizon, stationary=False)
        initial = jnp.concatenate([first, jnp.zeros(shape.rows - shape.states)])
    active = case.active if shape.factors is None else None
    team = Team(dynamics, jax.nn.sigmoid(logits.reward), initial, active, shape.agents, shape.factors)
    return Stage(team, current, target, case.order)


def _positive(report: StageReport) -> StageReport:
    """With every divergence positive, so that a root has a derivative."""
    names = ("kl", "kl_stale", "tv", "layer_kl", "layer_kl_stale", "layer_tv", "share", "layer_share")
    moved = {name: getattr(report, name) for name in names}
    return report._replace(**{name: x + TINY for name, x in moved.items() if x is not None})


def _sides(report: StageReport, rungs: Sequence[Rung]) -> tuple[Array, Array, Array]:
    """``[R, n]``: `|gap|`, penalty, and the rounding of both."""
    penalties = ladder(report, rungs)
    gap = jnp.stack([abs(getattr(report, f"gap_{rung.gap}")) for rung in rungs])
    penalty = jnp.stack([penalties[rung.name] for rung in rungs])
    budget = jnp.stack([getattr(report.rounding, rung.gap) for rung in rungs])
    return gap, penalty, budget + 8 * report.rounding.relative * penalty


class Program(NamedTuple):
    """The compiled functions of one shape and one list of rungs."""

    ascend: Callable[..., Any]
    build: Callable[[Logits, Case], Stage]


_adam = optax.scale_by_adam(b2=0.99, eps=1e-16)


@lru_cache
def _program(shape: Shape, rungs: tuple[Rung, ...]) -> Program:
    def objective(logits: Logits, case: Case) -> Array:
        """`max_i log(|gap_i|/penalty_i)` of the rung that this case attacks."""
        report = _positive(stage_report(_stage(shape, _Eliminated, logits, case)))
        gap, penalty, _ = (side[case.which] for side in _sides(report, rungs))
        usable = jnp.isfinite(penalty) & (penalty > 1e-40)
        ratio = jnp.log(gap + TINY) - jnp.log(jnp.where(usable, penalty, 1.0))
        return jnp.where(usable, ratio, -1e3).max()

    def step(case: Case, rate: Array, state: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        logits, moments, best, top = state
        value, slope = jax.vmap(jax.value_and_grad(objective))(logits, case)
        better = value > top

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        best, top = jax.tree.map(keep, logits, best), jnp.where(better, value, top)
        slope = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), slope)
        ahead, moments = _adam.update(slope, moments)
        moved = jax.tree.map(
            lambda x, d: jnp.where(jnp.isfinite(x), jnp.clip(x + rate * d, -LIMIT, LIMIT), x), logits, ahead
        )
        floor = jnp.where(jnp.isfinite(moved.step), jnp.maximum(moved.step, LEAST_STEP), moved.step)
        return (moved._replace(step=floor), moments, best, top), None

    @jax.jit
    def ascend(state: tuple[Any, ...], case: Case, rate: Array) -> tuple[Any, ...]:
        return lax.scan(partial(step, case, rate), state, None, length=CHUNK)[0]

    return Program(ascend, jax.jit(jax.vmap(partial(_stage, shape, Dense))))


@lru_cache
def _judge(rungs: tuple[Rung, ...]) -> Callable[[Stage], tuple[Array, Array]]:
    def one(stage: Stage) -> tuple[Array, Array]:
        gap, penalty, budget = _sides(stage_report(stage), rungs)
        usable = jnp.isfinite(penalty) & (penalty > 0)
        over = jnp.where(usable, penalty, 1.0)
        wrong = ~usable & jnp.isfinite(penalty) & (gap > budget)  # a gap where the bound is zero
        ratio = jnp.where(usable, gap / over, jnp.where(wrong, jnp.inf, 0.0))
        slack = jnp.where(usable, budget / over, 0.0)
        chosen = jnp.argmax(ratio - slack, -1)[:, None]
        return jnp.take_along_axis(ratio, chosen, -1)[:, 0], jnp.take_along_axis(slack, chosen, -1)[:, 0]

    return jax.jit(jax.vmap(one), compiler_options={"xla_backend_optimization_level": 0})


def judge_stages(stages: Stage, rungs: Sequence[Rung]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[B, R]``: the largest `|gap_i|/penalty_i` of each stage for each rung, and what rounding may have done to it.

    A ratio above `1 + slack` is a counterexample. All rungs have to hold in the form of the stages.
    """
    ratio, slack = _judge(tuple(rungs))(stages)
    return np.asarray(ratio), np.asarray(slack)


# ----------------------------------------------------------------------------------------------------------------- search


def _draw(rng: np.random.Generator, shape: Shape, which: NDArray, gamma: NDArray, live: NDArray) -> tuple[Logits, Case]:
    batch, rows, factors = which.size, shape.rows, shape.factors
    joint = prod(shape.actions) if isinstance(shape.actions, tuple) else shape.actions
    kernel = (
        (rows, joint, shape.states) if shape.horizon is None else (shape.horizon, shape.states, joint, shape.states)
    )
    table = (rows, joint) if factors is None else (shape.agents, rows, max(factors))
    spread = np.exp(rng.uniform(np.log(0.5), np.log(4.0), batch))

    def normal(*size: int) -> NDArray[np.float64]:
        return rng.normal(size=(batch, *size)) * spread.reshape(-1, *(1,) * len(size))

    current, aim = normal(*table), normal(*table)
    step = rng.uniform(-6.0, 2.0, (batch, *table[:-1]))
    owner = rng.integers(0, live[:, None], (batch, rows))
    owner = _everybody(rng, owner, live)
    if factors is not None:
        for k, size in enumerate(factors):
            current[:, k, :, size:] = aim[:, k, :, size:] = -np.inf
        step[np.arange(shape.agents) >= live[:, None]] = -np.inf
    order = rng.permuted(np.tile(np.arange(shape.agents), (batch, 1)), axis=1)
    logits = Logits(normal(*kernel), normal(rows, joint), normal(shape.states), current, aim, step)
    return logits, Case(which, gamma, live, owner, order)


def _projected(logits: Logits, least: float) -> Logits:
    """Probabilities (and relative steps) below `least` made exact zeros, rewards within `least` of 0 or 1 made these."""

    def rows(x: NDArray) -> NDArray:
        p = np.exp(x - x.max(-1, keepdims=True))
        return np.where(p < least * p.sum(-1, keepdims=True), -np.inf, x)

    edge = np.log(least)
    reward = np.where(logits.reward < edge, -np.inf, np.where(logits.reward > -edge, np.inf, logits.reward))
    largest = logits.step.max(tuple(range(1, logits.step.ndim)), keepdims=True)
    small = (logits.step < edge + np.minimum(largest, 0.0)) & (logits.step < 0)
    return Logits(
        rows(logits.transition), reward, rows(logits.initial), rows(logits.current), rows(logits.aim),
        np.where(small, -np.inf, logits.step),
    )  # fmt: skip


class _Pool(NamedTuple):
    """Candidates, judged for every rung. `case.which` says whose ascent they come from."""

    logits: Logits
    case: Case
    stages: Stage
    ratio: NDArray[np.float64]  #: [B, R]
    slack: NDArray[np.float64]  #: [B, R]

    @property
    def sure(self) -> NDArray[np.float64]:
        return self.ratio - self.slack


def _judged(
    program: Program, rungs: tuple[Rung, ...], logits: Logits, case: Case, thresholds: Sequence[float]
) -> _Pool:
    """The candidates and their projections."""
    parts = []
    for least in thresholds:
        point = _projected(logits, least) if least else logits
        stages = jax.tree.map(np.asarray, program.build(point, case))
        parts.append(_Pool(point, case, stages, *judge_stages(stages, rungs)))
    return _joined(parts)


def _joined(parts: Sequence[_Pool]) -> _Pool:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _alike(pool: _Pool, gamma: float, live: int) -> NDArray[np.int64]:
    return np.flatnonzero((pool.case.gamma == gamma) & (pool.case.live == live))


def _next(rng: np.random.Generator, pool: _Pool, case: Case, restarts: int, shape: Shape) -> tuple[Logits, Case]:
    """The start of another round: for each group the best candidate of its n and γ as it is, and changed copies.

    A quarter are of the best of all rungs' candidates, one is of the best of another γ, one of the best of another n, the rest
    of the best of the group's own ascents, which keeps them apart. Changed: disturbed, and some with a few states frozen.
    """
    batch = case.which.size
    source = np.zeros(batch, int)
    gammas, agents = np.unique(case.gamma), np.unique(case.live)
    for members in np.arange(batch).reshape(-1, restarts):
        which, gamma, live = (x[members[0]] for x in (case.which, case.gamma, case.live))
        here = _alike(pool, gamma, live)
        own = here[pool.case.which[here] == which]
        pools = here, own, _alike(pool, rng.choice(gammas), live), _alike(pool, gamma, rng.choice(agents))
        few = max(1, restarts // 4)
        first = [group[np.argsort(-pool.sure[group, which])] for group in pools]
        chosen = [*first[0][:few], first[2][0], first[3][0], *first[1]]
        source[members] = chosen[:restarts]
    logits, taken = take(pool.logits, source), take(pool.case, source)
    kept = np.arange(batch) % restarts == 0
    noise = np.where(kept, 0.0, 10.0 ** rng.uniform(-2, 0.3, batch))

    def along(x: NDArray, ndim: int) -> NDArray:
        return x.reshape(-1, *(1,) * (ndim - 1))

    logits = jax.tree.map(lambda x: x + along(noise, x.ndim) * rng.normal(size=x.shape), logits)
    frozen = (rng.random(logits.step.shape) < 0.4) & along(~kept & (rng.random(batch) < 0.3), logits.step.ndim)
    step = np.where(frozen, -np.inf, logits.step)
    if shape.factors is not None:
        drawn = rng.uniform(-6.0, 2.0, step.shape)
        joins = np.arange(shape.agents) >= taken.live[:, None]
        step = np.where(joins[..., None], drawn, step)
        step = np.where((np.arange(shape.agents) >= case.live[:, None])[..., None], -np.inf, step)
    owner = _everybody(rng, taken.active % case.live[:, None], case.live)
    return logits._replace(step=step), case._replace(active=owner, order=taken.order)


def _everybody(rng: np.random.Generator, owner: NDArray[np.int64], live: NDArray[np.int64]) -> NDArray[np.int64]:
    """`owner`, changed where it must be so that every agent owns a row."""
    owner = owner.copy()
    for b, k in zip(*np.nonzero((owner[:, None, :] == np.arange(live.max())[:, None]).sum(-1) == 0), strict=True):
        if k < live[b]:
            spare = np.flatnonzero(np.bincount(owner[b])[owner[b]] > 1)
            owner[b, rng.choice(spare)] = k
    return owner


def _search(
    rungs: tuple[Rung, ...], shape: Shape, rng: np.random.Generator, gammas: Sequence[float], agents: Sequence[int],
    restarts: int, steps: int, rounds: int, progress: Callable[[int], None],
) -> tuple[_Pool, bool]:  # fmt: skip
    """All rungs, γ and n in one batch. Returns every candidate, and whether the search was interrupted."""
    program = _program(shape, rungs)
    groups = product(range(len(rungs)), gammas if shape.horizon is None else (1.0,), agents)
    which, gamma, live = (np.repeat(np.asarray(x), restarts) for x in zip(*groups, strict=True))
    logits, case = _draw(rng, shape, which, gamma.astype(float), live)
    pool = _judged(program, rungs, logits, case, (0.0,))
    chunks = -(-steps // (rounds * CHUNK))
    try:
        for turn in range(rounds if steps else 0):
            if turn:
                logits, case = _next(rng, pool, case, restarts, shape)
            state = (logits, _adam.init(jax.tree.map(jnp.asarray, logits)), logits, jnp.full(which.size, -jnp.inf))
            for k in range(chunks):
                rate = 0.3 / (1 + turn) * 0.1 ** (k / chunks)
                state = jax.block_until_ready(program.ascend(state, case, jnp.asarray(rate)))
                progress(CHUNK)
            best = jax.tree.map(np.asarray, state[2])
            pool = _joined([pool, _judged(program, rungs, best, case, (0.0, 1e-6, 1e-4, 1e-2))])
    except KeyboardInterrupt:
        return pool, True
    return pool, False


def search(
    rung: Rung,
    shape: Shape,
    rng: np.random.Generator,
    restarts: int = 32,
    steps: int = 300,
    gammas: Sequence[float] = (0.9,),
    agents: Sequence[int] | None = None,
    rounds: int = 3,
) -> Found:
    """Attack one rung, of `DEFAULT` or a reader's own.

    Args:
      restarts: points of each γ and n that ascend together.
      steps: of Adam, in all; 0 returns the points drawn.
      gammas: discounts (no meaning in an episodic shape).
      agents: how many own states or move; default all of the shape.

    Returns:
      The best stages found, as many as there are points, best first.

    Raises:
      InputError: if the rung does not hold in the form of the shape.
    """
    return search_all((rung,), shape, rng, restarts, steps, gammas, agents, rounds)[0]


def search_all(
    rungs: Sequence[Rung],
    shape: Shape,
    rng: np.random.Generator,
    restarts: int = 32,
    steps: int = 300,
    gammas: Sequence[float] = (0.9,),
    agents: Sequence[int] | None = None,
    rounds: int = 3,
) -> list[Found]:
    """`search` for several rungs in one program; what is found against one of them serves the others too."""
    for rung in rungs:
        if shape.form not in rung.forms:
            valid = " and ".join(rung.forms)
            raise InputError("rung", f"{rung.name}, which is for {valid} teams", f"one for {shape.form} teams")
    live = agents or (shape.agents,)
    pool, _ = _search(tuple(rungs), shape, rng, gammas, live, restarts, steps, rounds, lambda _: None)
    many = restarts * len(live) * (len(gammas) if shape.horizon is None else 1)
    out = []
    for k in range(len(rungs)):
        first = np.argsort(-pool.sure[:, k])[:many]
        out.append(Found(take(pool.stages, first), pool.ratio[first, k], pool.slack[first, k]))
    return out


# -------------------------------------------------------------------------------------------------- exact decision, files


def recheck(stage: Stage, rung: str) -> Exact:
    """The largest `|gap_i|/penalty_i` of a rung of `DEFAULT` in exact arithmetic, and whether it is at most 1."""
    key = EXACT[rung]
    pairs = exact_checks(jax.tree.map(np.asarray, stage), only=key[0])[key]
    ratios, holds, evidence = [0.0], True, "exact"
    with flint.ctx.workprec(PRECISION):
        for measured, bound in pairs:
            if bound is None:
                continue
            if isinstance(measured, arb) or isinstance(bound, arb):
                evidence = "enclosed"
            if measured > bound:
                holds = False
            elif not measured <= bound and holds:
                holds = None
            if bound > 0:
                ratios.append(float((arb(measured) / arb(bound)).mid()))
            elif measured > 0:
                ratios.append(float("inf"))
    return Exact(max(ratios), holds, evidence if holds is not None else "inconclusive")


def save(stage: Stage, path: str | Path) -> None:
    """Write a stage, discounted or episodic (one kernel for each step), as a stage file."""
    team, world = stage.team, stage.team.dynamics
    if not isinstance(world, Layered):
        write_stage(jax.tree.map(jnp.asarray, stage), path)
        return
    assert isinstance(world.kernel, Dense)
    horizon = world.horizon

    def timed(x: Array) -> NDArray[Any]:
        return np.asarray(x).reshape(horizon, -1, *x.shape[1:])

    def policy(x: Array) -> NDArray[Any]:
        return timed(x) if team.factors is None else np.moveaxis(np.asarray([timed(table) for table in x]), 0, 1)

    tables: dict[str, Any] = {
        "schema": 1, "horizon": horizon, "transition": world.kernel.transition, "reward": timed(team.reward),
        "initial": timed(team.initial)[0], "agents": team.agents, "order": stage.order,
        "current": policy(stage.current), "target": policy(stage.target),
    }  # fmt: skip
    tables |= {"active": timed(team.active)} if team.active is not None else {"factors": team.factors}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(x) for name, x in tables.items()})  # pyright: ignore[reportArgumentType]


def read_index(folder: Path = INSTANCES) -> dict[str, Any]:
    """`index.json`: the saved instances, and the tightest ratio of every rung, shape, n and γ.

    Raises:
      InputError: no such file, or one that was changed or cut since.
    """
    return read_json(folder / "index.json", "an index that `python -m theory.adversarial --save` wrote", sealed=True)


def load(folder: Path = INSTANCES) -> list[dict[str, Any]]:
    """The index of the saved instances, each entry with its `stage` read back.

    Raises:
      InputError: names the file that is damaged.
    """

    def stage(file: str) -> Stage:
        try:
            return read_stage(regular_file(folder / file, "a stage of the index"))
        except InputError as error:
            if error.name == str(folder / file):
                raise
            raise InputError(f"{folder / file}: {error.name}", error.found, error.expected) from error

    return [entry | {"stage": stage(entry["file"])} for entry in read_index(folder)["instances"]]


def _ratio(record: Record) -> dict[str, Any]:
    names = ("rung", "id", "gap", "form", "shape", "agents", "gamma", "ratio", "slack")
    return {name: getattr(record, name) for name in names}


def _instance(record: Record, file: str) -> dict[str, Any]:
    exact = record.exact
    verdict = {} if exact is None else {"exact_ratio": exact.ratio, "holds": exact.holds, "evidence": exact.evidence}
    return _ratio(record) | {"evidence": "float", **verdict, "file": file}


def tightest(records: Sequence[Record]) -> list[Record]:
    """The tightest record of each rung, form and γ, over shapes and n."""
    out: dict[tuple[str, str, float | None], Record] = {}
    for record in records:
        key = (record.rung, record.form, record.gamma)
        if key not in out or record.sure > out[key].sure:
            out[key] = record
    return list(out.values())


def run(
    quick: bool,
    rng: np.random.Generator,
    rungs: Sequence[Rung] = DEFAULT,
    shapes: Sequence[Shape] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[Record]:
    """The tightest ratio found per rung, shape, n and γ; the tightest of each rung and γ decided exactly.

    Args:
      quick: one shape, one γ, fewer points and steps.
      progress: called with the shape, the steps done and the steps in all.
    """
    out: list[Record] = []
    restarts, steps, rounds = (6, 400, 4) if quick else (8, 600, 4)
    gammas = GAMMAS[1:2] if quick else GAMMAS
    for shape in shapes or (SHAPES[:1] if quick else SHAPES):
        chosen = tuple(rung for rung in rungs if shape.form in rung.forms)
        if not chosen:
            continue
        agents = tuple(range(1, shape.agents + 1))
        done = 0

        def advance(now: int, name: str = shape.name) -> None:
            nonlocal done
            done += now
            progress(name, done, steps)

        pool, stopped = _search(chosen, shape, rng, gammas, agents, restarts, steps, rounds, advance)
        for (k, rung), gamma, live in product(enumerate(chosen), gammas if shape.horizon is None else (1.0,), agents):
            here = _alike(pool, gamma, live)
            top = here[np.argmax(pool.sure[here, k])]
            out.append(
                Record(
                    rung.name, rung.id, rung.gap, shape.form, shape.name, live, gamma if shape.horizon is None else None,
                    float(pool.ratio[top, k]), float(pool.slack[top, k]), take(pool.stages, np.asarray(top)),
                )
            )  # fmt: skip
        if stopped:
            break
    decided = {
        id(record) for record in tightest(out) if any(rung in DEFAULT for rung in rungs if rung.name == record.rung)
    }
    return [replace(r, exact=recheck(r.stage, r.rung)) if id(r) in decided else r for r in out]


@dataclass(frozen=True)
class Settings:
    """Search for stages that attain, or break, the rungs of the ladder."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One shape, one γ, fewer points and steps: about half a minute."""
    rung: str | None = None
    """Only this rung (its name, as `penalty_path`)."""
    shape: str | None = None
    """Only this shape: turn-taking, product, episodic, "episodic product"."""
    save: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the tightest stage of each rung and γ to `--out`."""
    out: Path = INSTANCES
    """Where `--save` writes; what is there is replaced by tighter stages only."""
    seed: int = 0


def write(records: Sequence[Record], folder: Path = INSTANCES) -> list[Path]:
    """Save the tightest record of each rung, form and γ beside `index.json`, where it beats what is there.

    The index holds the saved instances, and the tightest ratio of every rung, shape, n and γ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.json"
    old = read_index(folder) if path.exists() else {"instances": [], "ratios": []}

    def beats(new: Record, known: dict[str, Any] | None) -> bool:
        return known is None or new.sure > known["ratio"] - known["slack"]

    def place(x: dict[str, Any]) -> tuple[Any, ...]:
        return x["rung"], x["shape"], x["agents"], x["gamma"] or 1.0

    ratios = {place(x): x for x in old["ratios"]}
    for record in records:
        x = _ratio(record)
        if beats(record, ratios.get(place(x))):
            ratios[place(x)] = x
    instances = {x["file"]: x for x in old["instances"]}
    written = []
    for record in tightest(records):
        where = "episodic" if record.gamma is None else f"{record.gamma:g}"
        file = f"{record.rung.removeprefix('penalty_')}_{where}.npz"
        if beats(record, instances.get(file)):
            save(record.stage, folder / file)
            instances[file] = _instance(record, file)
            written.append(folder / file)

    def lines(rows: dict[Any, dict[str, Any]]) -> str:
        return ",\n".join(f"  {dump(rows[key])}" for key in sorted(rows))

    text = f'{{"schema": 1, "instances": [\n{lines(instances)}\n], "ratios": [\n{lines(ratios)}\n]}}'
    with replacing(path) as temporary:
        temporary.write_bytes(seal(text))
    return written


def table(records: Sequence[Record]) -> Any:
    """Rung × shape and n; a column for each γ."""
    from rich.table import Table

    gammas = sorted({r.gamma for r in records if r.gamma is not None})
    out = Table(title="tightest |gap|/penalty found", caption="* decided again in exact arithmetic: holds; ! violated")
    for heading in ("id", "rung", "shape", "n", *(f"γ = {gamma:g}" for gamma in gammas), "episodic"):
        out.add_column(heading, justify="left" if heading in ("id", "rung", "shape") else "right", no_wrap=True)
    groups: dict[tuple[str, str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.id, record.rung, record.shape, record.agents), []).append(record)
    for (id_, rung, shape, n), found in groups.items():
        marks = {r.gamma: "!" if r.violated else "*" if r.exact is not None and r.exact.holds else " " for r in found}
        cells = {r.gamma: f"{r.ratio:.5f}{marks[r.gamma]}" for r in found}
        style = "bold red" if any(record.violated for record in found) else None
        out.add_row(id_, rung, shape, str(n), *(cells.get(g, "") for g in (*gammas, None)), style=style)
    return out


def _named(flag: str, name: str | None, known: Sequence[Named]) -> list[Named]:
    chosen = [one for one in known if name in (None, one.name)]
    if not chosen:
        raise InputError(flag, name, "one of " + ", ".join(one.name for one in known))
    return chosen


def _run(settings: Settings) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    whole_number("--seed", settings.seed, 0)
    rungs = _named("--rung", settings.rung, DEFAULT)
    shapes = None if settings.shape is None else _named("--shape", settings.shape, SHAPES)
    if settings.save and output_folder("--out", settings.out).is_dir():
        output_file("--out", settings.out / "index.json")
        if (settings.out / "index.json").exists():
            read_index(settings.out)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bars: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = bar.add_task(name, total=total)
            bar.update(bars[name], completed=done)

        records = run(settings.quick, np.random.default_rng(settings.seed), rungs, shapes, progress)
    console.print(table(records))
    for record in records:
        if record.violated:
            console.print(
                f"VIOLATED: {record.rung}, {record.shape}, n = {record.agents}, γ = {record.gamma}", style="bold red"
            )
    failed = False
    if settings.save:
        try:
            written = write(records, settings.out)
        except (InputError, OSError) as error:
            print(f"theory.adversarial: error: {error}", file=sys.stderr)
            written, failed = [], True
        for path in written:
            console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 1 if any(record.violated for record in records) else 3 if failed else 0


def main() -> None:
    """Exit code 1 if a rung is violated, 2 on bad input, 3 if a number or a file could not be made, 130 if interrupted."""
    jax.config.update("jax_enable_x64", True)
    try:
        settings = parsed("theory.adversarial", lambda: tyro.cli(Settings, prog="python -m theory.adversarial"))
        code = _run(settings)
    except InputError as error:
        print(f"theory.adversarial: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception:
        traceback.print_exc()
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    main()
