"""Gradient ascent on gap/bound over transitions, rewards, start and both policies, for every rung, built-in or a reader's own.

A stage is a point of unconstrained logits: softmax rows for transitions, start, current policy and an aim, sigmoid rewards in
[0,1], and `target = current + e·(aim − current)` with `e = sigmoid` of its own at every state. Between rounds of ascent the best
points are copied, disturbed and projected: probabilities below a threshold become exact zeros, which a softmax only approaches.
What is reported is `|gap|/penalty` of `stage_report` on the final arrays, less what rounding may have done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from numpy.typing import NDArray

from teamtr_jax.bounds import Rung, ladder
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage, StageReport, Team
from teamtr_jax.validation import InputError
from theory.families import take

__all__ = [
    "Found",
    "GAMMAS",
    "LOW_GAMMAS",
    "STAGE_SIZES",
    "StageSizes",
    "alike",
    "climb",
    "judge_stages",
    "search",
    "search_all",
]

LIMIT = 30.0
"""Logits stay within ±30; what is projected is ±∞."""
LEAST_STEP = float(np.log(1e-6))
"""Smaller steps say nothing more: what a limit leaves to be gained is of the order of the step, and rounding grows."""
TINY = 1e-200
CHUNK = 25


class StageSizes(NamedTuple):
    """Sizes of the stages of a search, one compiled program each; `name` is the *shape* of the command line and the index.

    Fewer agents than `agents` leave the others without influence.
    """

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


STAGE_SIZES: tuple[StageSizes, ...] = (
    StageSizes("turn-taking", 6, 2, 3),
    StageSizes("product", 4, (2, 2, 2), 3),
    StageSizes("episodic", 3, 2, 3, 4),
    StageSizes("episodic product", 2, (2, 2), 2, 3),
)
GAMMAS = (0.5, 0.9, 0.99)
LOW_GAMMAS = (0.01, 0.1, 0.25)
"""Where the constant of the discounted S7 is asked for (S13): stages are kept for `penalty_log_sum` alone."""


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


def _stage(sizes: StageSizes, world: type[Dense], logits: Logits, case: Case) -> Stage:
    transition = jax.nn.softmax(logits.transition)
    first = jax.nn.softmax(logits.initial)
    current, aim = jax.nn.softmax(logits.current), jax.nn.softmax(logits.aim)
    target = current + jax.nn.sigmoid(logits.step)[..., None] * (aim - current)
    if sizes.horizon is None:
        dynamics, initial = world(transition, case.gamma), first
    else:
        dynamics = Layered(Dense(transition, None), sizes.horizon, stationary=False)
        initial = jnp.concatenate([first, jnp.zeros(sizes.rows - sizes.states)])
    active = case.active if sizes.factors is None else None
    team = Team(dynamics, jax.nn.sigmoid(logits.reward), initial, active, sizes.agents, sizes.factors)
    return Stage(team, current, target, case.order)


def _positive(report: StageReport) -> StageReport:
    """With every divergence positive, so that a root has a derivative."""
    names = ("kl", "kl_stale", "tv", "share")
    moved, layers = {name: getattr(report, name) + TINY for name in names}, report.layers
    if layers is not None:
        layers = layers._replace(**{name: getattr(layers, name) + TINY for name in names})
    return report._replace(**moved, layers=layers)


def _sides(report: StageReport, rungs: Sequence[Rung]) -> tuple[Array, Array, Array]:
    """``[R, n]``: `|gap|`, penalty, and the rounding of both."""
    penalties = ladder(report, rungs)
    gap = jnp.stack([abs(getattr(report, f"gap_{rung.gap}")) for rung in rungs])
    penalty = jnp.stack([penalties[rung.name] for rung in rungs])
    budget = jnp.stack([getattr(report.rounding, rung.gap) for rung in rungs])
    return gap, penalty, budget + 8 * report.rounding.relative * penalty


class Program(NamedTuple):
    """The compiled functions of one size of stages and one list of rungs."""

    ascend: Callable[..., Any]
    build: Callable[[Logits, Case], Stage]


_adam = optax.scale_by_adam(b2=0.99, eps=1e-16)


@lru_cache
def _program(sizes: StageSizes, rungs: tuple[Rung, ...]) -> Program:
    def objective(logits: Logits, case: Case) -> Array:
        """`max_i log(|gap_i|/penalty_i)` of the rung that this case attacks."""
        report = _positive(stage_report(_stage(sizes, _Eliminated, logits, case)))
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

    return Program(ascend, jax.jit(jax.vmap(partial(_stage, sizes, Dense))))


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


def _draw(
    rng: np.random.Generator, sizes: StageSizes, which: NDArray, gamma: NDArray, live: NDArray
) -> tuple[Logits, Case]:
    batch, rows, factors = which.size, sizes.rows, sizes.factors
    joint = prod(sizes.actions) if isinstance(sizes.actions, tuple) else sizes.actions
    kernel = (
        (rows, joint, sizes.states) if sizes.horizon is None else (sizes.horizon, sizes.states, joint, sizes.states)
    )
    table = (rows, joint) if factors is None else (sizes.agents, rows, max(factors))
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
        step[np.arange(sizes.agents) >= live[:, None]] = -np.inf
    order = rng.permuted(np.tile(np.arange(sizes.agents), (batch, 1)), axis=1)
    logits = Logits(normal(*kernel), normal(rows, joint), normal(sizes.states), current, aim, step)
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


class Pool(NamedTuple):
    """Candidates, judged for every rung. `case.which` says whose ascent they come from."""

    logits: Logits
    case: Case
    stages: Stage
    ratio: NDArray[np.float64]  #: [B, R]
    slack: NDArray[np.float64]  #: [B, R]

    @property
    def sure(self) -> NDArray[np.float64]:
        return self.ratio - self.slack


def _judged(program: Program, rungs: tuple[Rung, ...], logits: Logits, case: Case, thresholds: Sequence[float]) -> Pool:
    """The candidates and their projections."""
    parts = []
    for least in thresholds:
        point = _projected(logits, least) if least else logits
        stages = jax.tree.map(np.asarray, program.build(point, case))
        parts.append(Pool(point, case, stages, *judge_stages(stages, rungs)))
    return _joined(parts)


def _joined(parts: Sequence[Pool]) -> Pool:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def alike(pool: Pool, gamma: float, live: int) -> NDArray[np.int64]:
    """The candidates of one γ and one number of agents."""
    return np.flatnonzero((pool.case.gamma == gamma) & (pool.case.live == live))


def _next(rng: np.random.Generator, pool: Pool, case: Case, restarts: int, sizes: StageSizes) -> tuple[Logits, Case]:
    """The start of another round: for each group the best candidate of its n and γ as it is, and changed copies.

    A quarter are of the best of all rungs' candidates, one is of the best of another γ, one of the best of another n, the rest
    of the best of the group's own ascents, which keeps them apart. Changed: disturbed, and some with a few states frozen.
    """
    batch = case.which.size
    source = np.zeros(batch, int)
    gammas, agents = np.unique(case.gamma), np.unique(case.live)
    for members in np.arange(batch).reshape(-1, restarts):
        which, gamma, live = (x[members[0]] for x in (case.which, case.gamma, case.live))
        here = alike(pool, gamma, live)
        own = here[pool.case.which[here] == which]
        pools = here, own, alike(pool, rng.choice(gammas), live), alike(pool, gamma, rng.choice(agents))
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
    if sizes.factors is not None:
        drawn = rng.uniform(-6.0, 2.0, step.shape)
        joins = np.arange(sizes.agents) >= taken.live[:, None]
        step = np.where(joins[..., None], drawn, step)
        step = np.where((np.arange(sizes.agents) >= case.live[:, None])[..., None], -np.inf, step)
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


def climb(
    rungs: tuple[Rung, ...],
    sizes: StageSizes,
    rng: np.random.Generator,
    *,
    gammas: Sequence[float],
    agents: Sequence[int],
    restarts: int,
    steps: int,
    rounds: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Pool, bool]:
    """All rungs, γ and n in one batch. Returns every candidate, and whether the search was interrupted."""
    program = _program(sizes, rungs)
    groups = product(range(len(rungs)), gammas if sizes.horizon is None else (1.0,), agents)
    which, gamma, live = (np.repeat(np.asarray(x), restarts) for x in zip(*groups, strict=True))
    logits, case = _draw(rng, sizes, which, gamma.astype(float), live)
    pool = _judged(program, rungs, logits, case, (0.0,))
    chunks = -(-steps // (rounds * CHUNK))
    try:
        for turn in range(rounds if steps else 0):
            if turn:
                logits, case = _next(rng, pool, case, restarts, sizes)
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
    sizes: StageSizes,
    rng: np.random.Generator,
    restarts: int = 32,
    steps: int = 300,
    *,
    gammas: Sequence[float] = (0.9,),
    agents: Sequence[int] | None = None,
    rounds: int = 3,
) -> Found:
    """Attack one rung, of `DEFAULT` or a reader's own.

    Args:
      restarts: points of each γ and n that ascend together.
      steps: of Adam, in all; 0 returns the points drawn.
      gammas: discounts (no meaning in episodic sizes).
      agents: how many own states or move; default all of `sizes`.

    Returns:
      The best stages found, as many as there are points, best first.

    Raises:
      InputError: if the rung does not hold in the form of `sizes`.
    """
    return search_all((rung,), sizes, rng, restarts, steps, gammas=gammas, agents=agents, rounds=rounds)[0]


def search_all(
    rungs: Sequence[Rung],
    sizes: StageSizes,
    rng: np.random.Generator,
    restarts: int = 32,
    steps: int = 300,
    *,
    gammas: Sequence[float] = (0.9,),
    agents: Sequence[int] | None = None,
    rounds: int = 3,
) -> list[Found]:
    """`search` for several rungs in one program; what is found against one of them serves the others too."""
    for rung in rungs:
        if sizes.form not in rung.forms:
            valid = " and ".join(rung.forms)
            raise InputError("rung", f"{rung.name}, which is for {valid} teams", f"one for {sizes.form} teams")
    live = agents or (sizes.agents,)
    effort: Any = {"restarts": restarts, "steps": steps, "rounds": rounds}
    pool, _ = climb(tuple(rungs), sizes, rng, gammas=gammas, agents=live, **effort)
    many = restarts * len(live) * (len(gammas) if sizes.horizon is None else 1)
    out = []
    for k in range(len(rungs)):
        first = np.argsort(-pool.sure[:, k])[:many]
        out.append(Found(take(pool.stages, first), pool.ratio[first, k], pool.slack[first, k]))
    return out
