"""One training run of a small team: exact numbers where its transcripts are enumerated, held-out accuracy elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.llm.measure import converse
from experiments.networks import Training, backend_of, team_for, train_stage, training_of
from experiments.reproduce.tasks import task_named
from experiments.reproduce.watch import MonitorWatch, rank_shifts
from teamtr_jax.llm.backend import LanguageSampling, TokenLogger
from teamtr_jax.llm.enumeration import (
    Enumeration,
    chain_policies,
    enumerate_world,
    enumerated_policy,
    network_audit,
    verified,
)
from teamtr_jax.llm.methods import METHODS, Method
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, Params, init_team
from teamtr_jax.llm.tasks import Problem, draw, is_held_out
from teamtr_jax.llm.update import TrainState, init_train_state
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.llm.warm_start import WarmStart, warm_start
from teamtr_jax.sampled import prompts_per_set
from teamtr_jax.schedules import certificate_driven, single
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError
from teamtr_jax.values import objective

__all__ = ["Way", "Run", "Ground", "ground", "is_exact", "start_of", "stages_of", "value_of"]

ENUMERATED = ("chain", "quota", "copy", "parity")
"""Tasks whose transcripts are all enumerated, at the sizes that the questions ask for."""

SMALL, LARGER = ModelConfig(width=16, layers=1, heads=2), ModelConfig(width=32, layers=2, heads=2)
"""Networks of enumerated teams, and of the others."""

BAND = 0.1
"""Width of the band of mean rewards in which a warm start ends."""

TEST, TEST_SAMPLES = 256, 2
"""Held-out prompts of teams that are not enumerated, and conversations on each, after every stage."""

EXACT = ("objective_before", "objective_after", "improvement", "gap_fresh", "gap_stale", "gap_cached", "kl", "kl_stale", "share",
         "occupancy_tv_fresh", "occupancy_tv_stale", "shift_in_use", "seq_minus_stale", "surrogate_in_use",
         "surrogate_intermediate", "certificate_estimable", "certificate_paper", "certificate", "regression",
         "zeta", "zeta_ratio", "zeta_sampling", "zeta_normalisation", "zeta_clip")  # fmt: skip
"""What is kept of the audit of each update: exact, float64."""

INFO = ("weight_ess", "weight_p95", "weight_p99", "weight_max", "weight_above_ten", "certificate_estimable", "monitor",
        "message_kl", "tokens", "reward")  # fmt: skip
"""What is kept of the trainer's own diagnostics: from its rollouts."""


@dataclass(frozen=True)
class Way:
    """One way to train: a row of a table."""

    name: str
    method: str  #: in `METHODS`, or one of them and a tolerance: "teamtr@0.1" resamples once the certified shift is above .1
    learning_rate: float = 3e-3
    delta: float = 0.01
    order: str = "fixed"
    same_sets: bool = False  #: sets of rollouts as large as those of a schedule that collects one for each update
    monitor: str = "exact"
    measured: float = 1.0  #: share of the rollouts that are scored after an update
    window: int = (
        0  #: > 0: agents see the prompt and so many last positions, their own header included; 0: all of the transcript
    )
    shared: bool = False  #: one network takes every turn, and every update of a stage is its


class Ground(NamedTuple):
    """Where a run takes place."""

    team: LanguageTeam
    world: Enumeration | None
    problems: list[Problem]  #: held-out ones, where nothing is enumerated


def is_exact(task: str) -> bool:
    """Whether teams on this task are enumerated."""
    return task.split()[0] in ENUMERATED


@cache
def ground(task: str, lone: bool, window: int = 0) -> Ground:
    """The team, or its one agent that takes every turn, and what it is measured on."""
    made = task_named(task)
    exact = is_exact(task)
    team = team_for(made, replace(SMALL if exact else LARGER, window=window), lone)
    rng = np.random.default_rng(0)
    if not exact:
        return Ground(team, None, draw(made, rng, TEST, held_out=True))
    found = {problem.prompt: problem for problem in (made.sample(rng) for _ in range(4000))}
    problems = [found[prompt] for prompt in sorted(found) if not is_held_out(prompt)]
    reward = verified(team.layout, problems, made.verify)
    return Ground(team, enumerate_world(team, [problem.prompt for problem in problems], reward), [])


@lru_cache(maxsize=64)
def start_of(task: str, lone: bool, seed: int, low: float | None, member: int = 0, window: int = 0) -> Params:
    """Random networks, or networks after a supervised start that ends at a mean reward of `low` to `low + BAND`.

    Args:
      member: of several starts for one seed.
    """
    team = ground(task, lone, window).team
    params = init_team(team, jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), member))
    if low is None:
        return params
    how = WarmStart(low=low, high=low + BAND, prompts=512, learning_rate=1e-3)
    if not is_exact(task):
        how = replace(how, learning_rate=3e-3, smoothing=0.15, every=50, batch=32)
    return _warmed(team, task, params, seed + 1000 * member, how)


def _warmed(team: LanguageTeam, task: str, params: Params, seed: int, how: WarmStart) -> Params:
    """The warm start; none where random networks are above the band; where one step leaps over it, again with smaller steps."""
    for _ in range(3):
        try:
            return warm_start(team, task_named(task), params, seed, how)[0]
        except InputError as error:
            if "of the untrained team" in error.found:
                return params
            if "a smaller learning rate" not in error.expected:
                raise
            how = replace(how, learning_rate=how.learning_rate / 4)
    return warm_start(team, task_named(task), params, seed, how)[0]


def value_of(task: str, lone: bool, params: Params, seed: int) -> float:
    """Exact J, or the mean reward on held-out prompts, with the same random numbers for every team of a seed."""
    team, world, problems = ground(task, lone)
    if world is not None:
        return float(objective(world.team, enumerated_policy(world, params)))
    key = jax.random.fold_in(jax.random.key(seed), 10**6)
    rows = TEST * TEST_SAMPLES
    return float(converse(team, params, task_named(task), problems, TEST_SAMPLES, key, rows).reward.mean())


@dataclass(frozen=True)
class Run:
    """One training run: a team of its own start, by one way. `Job` of `runs`."""

    way: Way
    task: str
    seed: int
    stages: int
    rollouts: int  #: of one update; a stage has n times as many, divided among the sets that the schedule collects
    start: float | None = None  #: lower end of the band where the warm start ends; none: random networks
    group: int = 8
    watch: tuple[str, ...] = ()  #: "ranks", "monitor"

    @property
    def place(self) -> str:
        """Where its result is kept."""
        way, more = self.way, list(self.watch)
        more += (
            ["same"] * way.same_sets
            + [way.monitor] * (way.monitor != "exact")
            + [f"{way.measured:g}"] * (way.measured < 1)
            + [f"window{way.window}"] * (way.window > 0)
            + ["shared"] * way.shared
        )
        name = "-".join([way.method, way.order, f"{way.learning_rate:g}", f"{way.delta:g}", *more])
        return f"{self.task.replace(' ', '-')}/{self.start}-{self.stages}x{self.rollouts}/{name}/{self.seed}.json"

    def work(self) -> dict[str, Any]:
        """The columns, one entry for each update, and the value of the team before the first stage and after each."""
        lone = method_of(self.way).lone
        team = ground(self.task, lone, self.way.window).team
        start = start_of(self.task, lone, self.seed, self.start, window=self.way.window)
        state = init_train_state(team, start, settings_of(self))
        columns: dict[str, list[float]] = {}
        values: list[float] = []
        if not is_exact(self.task):
            values.append(value_of(self.task, lone, state.params, self.seed))
        seconds: list[float] = []
        for records, new, took in stages_of(self, state):
            for record in records:
                for name, value in _known(record).items():
                    columns.setdefault(name, []).append(float(np.asarray(value)))
            if records[0].exact is None:
                values.append(value_of(self.task, lone, new.params, self.seed))
            elif not values:
                values.append(float(records[0].exact["objective_before"]))
            if records[-1].exact is not None:
                values.append(float(records[-1].exact["objective_after"]))
            seconds.append(took)
        return {"values": values, "stage_seconds": seconds, "columns": columns}


def method_of(way: Way) -> Method:
    """How a way trains."""
    name, _, tolerance = way.method.partition("@")
    method = METHODS[name]
    schedule = certificate_driven(float(tolerance), None) if tolerance else method.schedule
    if way.shared:
        method = method._replace(lone=True, order=single(0))
    return method._replace(schedule=schedule._replace(draws=lambda n: n) if way.same_sets else schedule)


def settings_of(run: Run) -> UpdateSettings:
    """The settings of an update."""
    way = run.way
    own = {"learning_rate": way.learning_rate, "delta": way.delta, "monitor": way.monitor, "measured": way.measured}
    return replace(method_of(way).settings, **own, minibatch=256, micro_batch=64)


def set_up(run: Run) -> Training:
    """The team of a run and how it is trained."""
    method, task = method_of(run.way), task_named(run.task)
    team = ground(run.task, method.lone, run.way.window).team
    training = training_of(task, team, method, settings_of(run), run.rollouts, run.group, run.way.order)
    if not run.way.shared:
        return training
    prompts = prompts_per_set(training.budget, method.schedule, len(task.roles), run.group)
    return replace(training, sampling=LanguageSampling(prompts, run.group))


def _known(record: UpdateRecord) -> dict[str, Any]:
    exact = record.exact or {}
    known = {name: exact[name] for name in exact if name in EXACT or name.startswith("watch_")}
    known |= {f"sampled.{name}": record.info[name] for name in INFO if name in record.info}
    booked = ("stage", "update", "agent", "resampled", "rollouts", "path_kl")
    return known | {name: getattr(record, name) for name in booked}


def stages_of(run: Run, state: TrainState) -> Iterator[tuple[list[UpdateRecord], TrainState, float]]:
    """The records of each stage, the state after it, and how long it took: rollouts and updates, without audits."""
    training = set_up(run)
    world = ground(run.task, training.method.lone, run.way.window).world
    watch = MonitorWatch(run.way.delta, run.seed) if "monitor" in run.watch else None
    log = None if watch is None else TokenLogger(watch)
    spent = [0.0]
    audit = None if world is None else _timed(_audit(world, run, watch), spent)
    backend = backend_of(training, audit=audit, log=log)
    if run.way.shared:
        backend = backend._replace(agents=len(training.task.roles))
    root = jax.random.key(run.seed)
    for stage in range(run.stages):
        if log is not None:
            log.begin(stage)
        began, spent[0] = time.perf_counter(), 0.0
        key = jax.random.fold_in(root, 1 + stage)
        state, records = train_stage(training, backend, state, key, stage)
        jax.block_until_ready(state.params)
        yield records, state, time.perf_counter() - began - spent[0]


Audit = Callable[[list[Any], list[UpdateRecord], Any], dict[str, Any]]


def _audit(world: Enumeration, run: Run, watch: MonitorWatch | None) -> Audit:
    base = network_audit(world)

    def audit(states: list[Any], records: list[UpdateRecord], schedule: Any) -> dict[str, Any]:
        exact = base(states, records, schedule)
        agents = [int(record.agent) for record in records]
        found: dict[str, Sequence[float] | NDArray[np.float64]] = {}
        if "ranks" in run.watch:
            found |= rank_shifts(world.team, chain_policies(world, [state.params for state in states], agents), agents)
        if watch is not None:
            found |= watch.collected()
        return exact | {f"watch_{name}": np.asarray(x) for name, x in found.items()}

    return audit


def _timed(audit: Audit, spent: list[float]) -> Audit:
    def timed(*arguments: Any) -> dict[str, Any]:
        began = time.perf_counter()
        found = audit(*arguments)
        spent[0] += time.perf_counter() - began
        return found

    return timed
