"""The runs that a question needs: made where they are missing, on all cores, with a bar and the time left."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import saved
from experiments.reproduce.question import ReproduceSettings
from experiments.reproduce.training import Run
from teamtr_jax.validation import InputError
from theory import processes

__all__ = ["Job", "made", "Found", "by_stage", "regressions", "loss_of", "trained", "tuned", "RATES", "TUNING_SEEDS"]

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""What every way to train may choose from, on seeds of its own: the same for all, so the same budget."""

TUNING_SEEDS = (1000, 1001, 1002)

SCHEMA = 2
"""Of what a run is: one more whenever what is recorded, or how a run is made, changes. Runs of another one are made again."""

Found = dict[str, Any]


class Job(Protocol):
    """Something that takes seconds to minutes, whose result is JSON, and which depends on nothing but its own fields."""

    @property
    def task(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def place(self) -> str:
        """Where its result is kept, below the folder of all runs."""
        ...

    def work(self) -> dict[str, Any]: ...


def _asked(job: Any) -> Any:
    """What decides a result: all fields but names, which only say how a table calls it."""

    def unnamed(x: Any) -> Any:
        return {key: unnamed(value) for key, value in x.items() if key != "name"} if isinstance(x, dict) else x

    return json.loads(json.dumps(unnamed(asdict(job))))


def _kept(job: Job, folder: Path) -> Found | None:
    """The result that is there; none if there is none, or one of another job or schema.

    Raises:
      InputError: a file that was changed or cut since it was written.
    """
    path = folder / job.place
    if not path.exists():
        return None
    try:
        found = saved.read(path, "the result of a run (delete it: it is made again)")
    except InputError:
        if _is_older(path):
            return None
        raise
    return found if (found.get("schema"), found.get("job")) == (SCHEMA, _asked(job)) else None


def _is_older(path: Path) -> bool:
    """Whether this is a run of the first schema, which had neither a number nor a digest."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "job" in found and not {"schema", "sha256"} & found.keys()


def _begin(core: Any) -> None:
    """A worker has a core of its own: the small products of these networks do not use a second one."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[_next(core) % len(cores)]})
    jax.config.update("jax_enable_x64", True)


def _next(counter: Any) -> int:
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1


def _work(jobs: Sequence[Job], folder: Path) -> int:
    for job in jobs:
        began = time.perf_counter()
        found = job.work()
        about = {"schema": SCHEMA, "job": _asked(job), "seconds": time.perf_counter() - began}
        saved.write_json(folder / job.place, about | found)
    return len(jobs)


def made(settings: ReproduceSettings, jobs: Sequence[Job]) -> list[Found]:
    """The result of every job; those that are there already are not made again. Jobs of one task and seed share a process.

    Raises:
      InputError: the file of a run is damaged; before any is made.
    """
    folder = settings.out / "runs"
    found = {job.place: _kept(job, folder) for job in jobs}
    missing = {job.place: job for job in jobs if found[job.place] is None}
    groups = [list(group) for _, group in itertools.groupby(sorted(missing.values(), key=_order), _order)]
    if groups:
        _all(settings, groups, folder)
        found |= {place: _kept(job, folder) for place, job in missing.items()}
    out = []
    for job in jobs:
        one = found[job.place]
        assert one is not None
        settings.spent[folder / job.place] = one["seconds"]
        out.append(one)
    return out


def _order(job: Job) -> tuple[str, bool, int]:
    way = getattr(job, "way", None)
    return job.task, way is not None and way.method == "lone", job.seed


@cache
def _pool(cores: int, compiled: Path, quick: bool) -> ProcessPoolExecutor:
    """Workers that live as long as this process, with what they have compiled; in a quick run with few optimisations."""
    if quick:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    return processes.pool(cores, _begin, multiprocessing.get_context("spawn").Value("i", 0))


def _all(settings: ReproduceSettings, groups: Sequence[Sequence[Job]], folder: Path) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    columns = (TextColumn("  runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    pool = _pool(cores, (settings.out / "compiled").resolve(), settings.quick)
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=sum(map(len, groups)))
        waiting = {pool.submit(_work, group, folder) for group in groups}
        try:
            for each in as_completed(waiting):
                progress.advance(bar, each.result())
        except BaseException:
            _pool.cache_clear()
            processes.end(pool)
            raise


def trained(
    settings: ReproduceSettings, runs: Sequence[Run], seeds: Sequence[int] | None = None
) -> dict[str, list[Found]]:
    """Every run from every seed, by name of the way."""
    seeds = settings.own_seeds if seeds is None else seeds
    jobs = [replace(run, seed=seed) for run in runs for seed in seeds]
    each = made(settings, jobs)
    found: dict[str, list[Found]] = {run.way.name: [] for run in runs}
    for job, one in zip(jobs, each, strict=True):
        found[job.way.name].append(one)
    return found


def by_stage(found: Found, name: str) -> NDArray[np.float64]:
    """``[stages, updates of a stage]``."""
    columns = found["columns"]
    stages = int(columns["stage"][-1]) + 1
    return np.asarray(columns[name], float).reshape(stages, -1)


def regressions(found: Found) -> float:
    """Updates that make the exact J smaller, %."""
    return float(100 * by_stage(found, "regression").mean())


def loss_of(found: Found) -> float:
    """Mean of `max(0, J(π̂ⁱ⁻¹) − J(π̂ⁱ))` over updates, in points: instability."""
    return float(100 * np.maximum(-by_stage(found, "improvement"), 0).mean())


def tuned(
    settings: ReproduceSettings,
    runs: Sequence[Run],
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = TUNING_SEEDS,
) -> tuple[list[Run], list[dict[str, Any]]]:
    """Every run with the rate at which its value ends highest, mean over the tuning seeds; and all that was tried."""
    rates, seeds = settings.rates(rates), settings.tuning(seeds)

    def at(run: Run, rate: float) -> Run:
        return replace(run, way=replace(run.way, name=f"{run.way.name} {rate:g}", learning_rate=rate))

    found = trained(settings, [at(run, rate) for run in runs for rate in rates], seeds)
    chosen, record = [], []
    for run in runs:
        ends = [[one["values"][-1] for one in found[at(run, rate).way.name]] for rate in rates]
        best = rates[int(np.argmax(np.mean(ends, 1)))]
        chosen.append(replace(run, way=replace(run.way, learning_rate=best)))
        record.append({"way": run.way.name, "rates": list(rates), "ends": ends, "chosen": best, "seeds": list(seeds)})
    return chosen, record
