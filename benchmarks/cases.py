"""What is compared: contenders that compute the same numbers, checked against each other before any of them is timed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from benchmarks import rivals
from benchmarks.rivals import Tables
from benchmarks.timing import CLOCKS, first_call, interleaved, quartiles, ratio
from teamtr_jax.dynamics import Dense, after
from teamtr_jax.surrogates import evaluate_stage, hybrid_evaluations, stage_report
from teamtr_jax.types import Stage, StageReport, Team
from teamtr_jax.visits import cleaned_visits

__all__ = ["Case", "cases", "check", "measure"]

AGREEMENT = 1e-9
"""Every number of every contender, relative to `1 + |number|`, must agree with the package's within this."""

DISCOUNT = 0.95

Call = Callable[[], Mapping[str, object]]


@dataclass(frozen=True)
class Case:
    """Contenders that return the same named numbers; each of `packages` is compared with each other contender."""

    group: str  #: of `benchmarks.stage.GROUPS`
    label: str
    packages: dict[str, Call]
    rivals: dict[str, Call]
    targets: dict[str, float]  #: for a rival: the least median of rival time / package time that the project asks for
    needs: int = 0  #: bytes of memory
    units: dict[str, Call] = field(default_factory=dict)  #: what a price is counted in: timed, but other numbers


def instance(seed: int, batch: tuple[int, ...], states: int, actions: int, agents: int) -> Tables:
    """Random turn-taking stages: dense transitions, a random speaker at each state, a moderate step, a random order."""
    rng = np.random.default_rng(seed)
    transition = rng.random((*batch, states, actions, states))
    transition /= transition.sum(-1, keepdims=True)
    current, towards = rng.dirichlet(np.ones(actions), (2, *batch, states))
    return Tables(
        transition,
        rng.random((*batch, states, actions)),
        rng.dirichlet(np.ones(states), batch),
        rng.integers(agents, size=(*batch, states)),
        current,
        0.9 * current + 0.1 * towards,
        rng.permuted(np.broadcast_to(np.arange(agents), (*batch, agents)), axis=-1),
        DISCOUNT,
    )


def chain(states: int, actions: int) -> Tables:
    """A walk along a line, from its first state: `states` steps from end to end, where random dense worlds take one."""
    tables = instance(2, (), states, actions, 2)
    stay, forward = np.eye(states), np.eye(states)[np.minimum(np.arange(states) + 1, states - 1)]
    speed = np.linspace(0.5, 1.0, actions)[:, None]
    transition = (1 - speed) * stay[:, None] + speed * forward[:, None]
    return tables._replace(transition=transition, initial=np.eye(states)[0])


def to_stage(tables: Tables) -> Stage:
    """The same stage (or batch of stages, every array with a leading axis) for the package, on its device."""
    batch = tables.initial.shape[:-1]
    agents = tables.order.shape[-1]
    discount = jnp.full(batch, tables.discount)
    t = jax.tree.map(jnp.asarray, tables)
    dense = Dense(t.transition, discount)
    team = Team(dense, t.reward, t.initial, t.active, agents)  # pyright: ignore[reportArgumentType]
    return jax.block_until_ready(Stage(team, t.current, t.target, t.order))


def solve_pair(stage: Stage, clean: bool) -> dict[str, Float[Array, " S"]]:
    """Values and visits of the current policy from one factorisation; `clean`: exact zeros at unreachable states."""
    team, policy = stage.team, stage.current
    resolvent = team.dynamics.resolvent(policy)
    v = resolvent.values((policy * team.reward).sum(-1))
    m = cleaned_visits(resolvent, team.initial, v) if clean else resolvent.visits(after(team.initial, v))
    return dict(values=v, visits=m)


def _ready(function: Callable[[Any], Mapping[str, object] | StageReport], argument: object) -> Call:
    def call() -> Mapping[str, object]:
        out = jax.block_until_ready(function(argument))
        return out._asdict() if isinstance(out, StageReport) else out

    return call


def _pair(function: Callable[[Tables], tuple[object, object]], tables: Tables) -> Call:
    def call() -> Mapping[str, object]:
        v, m = function(tables)
        return dict(values=v, visits=m)

    return call


def _solves(stage: Stage, batched: bool) -> dict[str, Call]:
    def program(clean: bool) -> Callable[[Stage], Mapping[str, object]]:
        one = partial(solve_pair, clean=clean)
        return jax.jit(jax.vmap(one) if batched else one)

    return {"package": _ready(program(False), stage), "package, exact support": _ready(program(True), stage)}


def dispatch() -> Case:
    """What a call costs when there is nothing to compute."""
    tables = instance(0, (), 4, 2, 2)
    stage = to_stage(tables)
    packages = {
        "V, m of 4 states": _solves(stage, False)["package"],
        "evaluate_stage of 4 states": _ready(evaluate_stage, stage),
    }
    one = stage.current[0, 0]
    trivial = jax.jit(lambda s: {"x": s.current[0, 0]})
    return Case(
        "dispatch",
        "S=4, A=2, n=2",
        packages,
        {
            "jit of nothing, same arguments": _ready(trivial, stage),
            "jit of nothing, one array": _ready(jax.jit(lambda x: {"x": x}), one),
            "scipy lu_factor + 2 lu_solve": _pair(rivals.lu_scipy, tables),
            "scipy, whole stage": lambda: rivals.stage_scipy(tables),
        },
        {},
    )


def batched(batch: int, states: int, actions: int) -> Case:
    """Values and visits of many small instances."""
    tables = instance(1, (batch,), states, actions, 2)
    return Case(
        "batched",
        f"V, m: B={batch}, S={states}, A={actions}",
        _solves(to_stage(tables), True),
        {
            "numpy batched solve ×2": _pair(rivals.solve_numpy, tables),
            "numpy batched inv": _pair(rivals.inverse_numpy, tables),
        },
        {"numpy batched solve ×2": 1.3} if batch >= 1000 else {},
    )


def single(states: int, actions: int, line: bool = False) -> Case:
    """Values and visits of one policy."""
    tables = chain(states, actions) if line else instance(2, (), states, actions, 2)
    name = "scipy lu_factor + 2 lu_solve"
    remark = ", a chain" if line else " (dispatch-bound)" if states < 256 else ""
    return Case(
        "single",
        f"V, m: S={states}, A={actions}{remark}",
        _solves(to_stage(tables), False),
        {name: _pair(rivals.lu_scipy, tables)},
        {name: 1 / 1.3} if states >= 256 else {},
    )


def every_hybrid(states: int, actions: int, agents: int) -> Case:
    """Values and visits of all hybrids of a stage, beside those of one policy."""
    tables = instance(5, (), states, actions, agents)
    stage = to_stage(tables)

    def evaluations(stage: Stage) -> Mapping[str, object]:
        m, v = hybrid_evaluations(stage)
        return dict(visits=m, values=v)

    one = _solves(stage, False)
    units = {"one policy, package": one["package"], "one policy, scipy": _pair(rivals.lu_scipy, tables)}
    return Case(
        "hybrids",
        f"V, m of all hybrids: S={states}, A={actions}, n={agents}",
        {"package": _ready(evaluations, stage)},
        {"scipy, n+1 LU + 2 solves each": lambda: rivals.hybrids_scipy(tables)},
        dict.fromkeys(units, 1 / 5) if states == 512 else {},
        needs=8 * states**2 * (2 * actions + 20),
        units=units,
    )


def whole_stage(states: int, actions: int, agents: int, plain: bool) -> Case:
    """Every number of a stage of `agents` updates."""
    tables = instance(3, (), states, actions, agents)
    others: dict[str, Call] = {"scipy LAPACK, 1 LU + 4 solves per hybrid": lambda: rivals.stage_scipy(tables)}
    if plain:
        others["plain Python loops"] = lambda: rivals.stage_python(tables)
    return Case(
        "stage",
        f"S={states}, A={actions}, n={agents}",
        {"package": _ready(evaluate_stage, to_stage(tables))},
        others,
        {},
        needs=stage_bytes(states, actions, agents),
    )


def stage_bytes(states: int, actions: int, agents: int) -> int:
    """Rough memory of a whole-stage case: six matrices for each hybrid (package), the tables twice."""
    return 8 * (6 * (agents + 1) * states**2 + 2 * states**2 * actions)


def audit(batch: int, states: int, actions: int, agents: int) -> Case:
    """Every number of many small stages."""
    tables = instance(4, (batch,), states, actions, agents)
    members = [tables.member(b) for b in range(batch)]

    def loop() -> Mapping[str, object]:
        done = [rivals.stage_scipy(member) for member in members]
        return {name: np.stack([one[name] for one in done]) for name in done[0]}

    return Case(
        "audit",
        f"B={batch}, S={states}, A={actions}, n={agents}",
        {"package, vmap(stage_report)": _ready(jax.jit(jax.vmap(stage_report)), to_stage(tables))},
        {"numpy/scipy loop over instances": loop, "numpy batched over everything": lambda: rivals.stage_numpy(tables)},
        {},
    )


class Sizes(NamedTuple):
    """How large the cases are."""

    batches: tuple[tuple[int, int, int], ...]  #: instances, states, actions
    states: tuple[int, ...]
    actions: int
    teams: tuple[int, ...]  #: agents
    hybrids: tuple[int, tuple[int, ...]]  #: states, agents
    audit: tuple[int, int, int, int]  #: instances, states, actions, agents


SIZES = dict(
    full=Sizes(
        ((1000, 32, 5), (4096, 8, 5)), (64, 256, 1024), 4, (2, 8, 64), (512, (2, 8, 64, 256, 512)), (1000, 12, 3, 4)
    ),
    quick=Sizes(((100, 32, 5), (400, 8, 5)), (64, 256), 4, (2, 8), (128, (2, 8)), (100, 12, 3, 4)),
    smallest=Sizes(((2, 4, 2),), (4,), 2, (2,), (192, (3,)), (2, 4, 2, 2)),
)
"""`smallest`: nothing is timed; as few shapes as possible, and hybrids that share their elimination as large ones do."""


def cases(size: str, groups: frozenset[str]) -> Iterator[Callable[[], Case]]:
    """Makers of the cases, so that the arrays of one are gone before the next is built."""
    sizes = SIZES[size]
    every: list[tuple[str, Callable[[], Case]]] = [("dispatch", dispatch)]
    every += [("batched", partial(batched, *batch)) for batch in sizes.batches]
    every += [("single", partial(single, states, sizes.actions)) for states in sizes.states]
    every += [("single", partial(single, sizes.states[-1], sizes.actions, line=True))]
    states, numbers = sizes.hybrids
    every += [("hybrids", partial(every_hybrid, states, sizes.actions, agents)) for agents in numbers]
    every += [
        ("stage", partial(whole_stage, states, sizes.actions, agents, plain=states <= 64 and agents < 64))
        for states in sizes.states
        for agents in sizes.teams
    ]
    every += [("audit", partial(audit, *sizes.audit))]
    from benchmarks import large  # which takes its dense case from here

    every += large.cases(size)
    return (make for group, make in every if group in groups)


def disagreement(found: Mapping[str, object], wanted: Mapping[str, object]) -> float:
    """The largest `|difference| / (1 + |number|)` over the arrays that both have; ∞ where a truth value differs."""
    arrays = (np.ndarray, Array)
    common = sorted(name for name in set(found) & set(wanted) if isinstance(found[name], arrays))
    pairs = [(np.asarray(found[name]), np.asarray(wanted[name])) for name in common]
    for name, (a, b) in zip(common, pairs, strict=True):
        if a.shape != b.shape:
            raise AssertionError(f"{name}: shapes {a.shape} and {b.shape}")
    errors = [np.where(a == b, 0.0, np.inf) if b.dtype == bool else abs(a - b) / (1 + abs(b)) for a, b in pairs]
    return max((float(error.max()) for error in errors), default=0.0)


def check(case: Case, reference: Mapping[str, object]) -> float:
    """Assert that all contenders give the numbers of `reference` (those of `dispatch` have none in common).

    Returns the largest disagreement.

    Raises:
      AssertionError: names the contender.
    """
    worst = 0.0
    for name, call in (case.packages | case.rivals).items():
        found = call()
        error = 0.0 if case.group == "dispatch" else disagreement(found, reference)
        if not error <= AGREEMENT:
            raise AssertionError(f"{case.group}, {case.label}: {name} disagrees with the package by {error:.1e}")
        worst = max(worst, error)
    return worst


def measure(case: Case, budget: float, quick: bool, clock: str) -> dict[str, object]:
    """Check, then time: seconds of every contender and `rival / package` ratios, each as quartiles over the rounds."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    row: dict[str, object] = dict(group=case.group, label=case.label)
    if case.needs > 0.8 * free:
        return row | dict(skipped=f"needs {case.needs / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
    compiling = {name: first_call(call) for name, call in case.packages.items()}
    error = check(case, next(iter(case.packages.values()))())
    for call in case.units.values():
        call()
    others = case.rivals | case.units
    samples = interleaved(case.packages | others, budget, CLOCKS[clock], rounds=(3, 7) if quick else (5, 41))
    seconds = {name: quartiles(taken) for name, taken in samples.items()}
    ratios = [
        dict(package=package, rival=rival, ratio=ratio(samples, rival, package), target=case.targets.get(rival))
        for package in case.packages
        for rival in others
    ]
    return row | dict(
        rounds=len(next(iter(samples.values()))),
        seconds=seconds,
        compile_seconds={name: max(0.0, first - seconds[name][1]) for name, first in compiling.items()},
        disagreement=error,
        ratios=[] if case.group == "dispatch" else ratios,
    )
