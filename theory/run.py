"""The suite: every claim on every family, every study, one ledger. `theory.__main__` is its command line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from teamtr_jax.claims import Claim
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import gymnasium_team
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError, whole_number
from theory import adversarial, audit, evidence, ledger, networks, processes
from theory.families import Family
from theory.ledger import Row
from theory.plugins import Plugins
from theory.proved import marked
from theory.studies.base import Found, Study
from theory.studies.every import STUDIES
from theory.tiers import Tier

__all__ = ["Result", "run", "selected"]

ROOT = Path(__file__).parents[1]
MOST = 10**9
"""Random stages that may be asked for: weeks of two cores."""
LEAST = 200
"""Random stages of a family, at the least."""
SILENT = 60.0
"""Seconds between two lines that say how far it is, where no bar is seen."""
ORDER = "TPESRU"
"""Kinds of ids in the ledger: tools, paper, episodic, sharper, rates, updates; a reader's own come last."""


@dataclass
class Result:
    """What a run found."""

    rows: list[Row]
    about: dict[str, Any]
    draws: dict[str, Callable[[Path], Any]] = field(default_factory=dict)  #: file name → how to make it


class Single(NamedTuple):
    """One stage that is its own family."""

    name: str
    make: Callable[[], Stage]
    without: tuple[str, ...] = ("P3.8",)  #: claims left out, as in `Family`


class Plan(NamedTuple):
    """What a run does."""

    tier: Tier
    claims: tuple[Claim, ...]
    families: tuple[Family, ...]
    counts: dict[str, int]  #: random stages, by family
    singles: tuple[Single, ...]
    studies: tuple[Study, ...]
    seed: int

    def rng(self, name: str) -> np.random.Generator:
        """The generator of a family or study: its own, whatever else a run does."""
        return np.random.default_rng([self.seed, *name.encode()])


def _gymnasium_stage(environment: str, agents: int) -> Stage:
    team = gymnasium_team(environment, agents, drop_time_limit=True)
    states, actions = team.reward.shape
    return improvement_stage(team, jax.numpy.full((states, actions), 1 / actions), 0.01, range(agents))


def _tied_stage(environment: str, agents: int, labels: int) -> Stage:
    """As `_gymnasium_stage`, where an agent sees the number of its state modulo `labels`: of FrozenLake and 4 the column (U4)."""
    team = gymnasium_team(environment, agents, drop_time_limit=True)
    states, actions = team.reward.shape
    seen = (jax.numpy.arange(states) // agents) % labels
    return improvement_stage(
        replace(team, observation=seen), jax.numpy.full((states, actions), 1 / actions), 0.01, range(agents)
    )


def _singles(tier: Tier) -> tuple[Single, ...]:
    """Gymnasium teams and enumerated networks.

    On a tree T1 is attained in every layer: float64 cannot decide it, the small teams of the family do.
    """
    return (
        *(Single(f"{env} × {n}", partial(_gymnasium_stage, env, n)) for env, n in tier.gym),
        *(Single(f"{env} × {n}, {k} seen", partial(_tied_stage, env, n, k)) for env, n, k in tier.tied),
        *(Single(name, partial(networks.preset_stage, name), ("P3.8", "T1")) for name in tier.presets),
    )


def _plan(
    tier: Tier, plugins: Plugins, seed: int, instances: int | None, studies: Sequence[Study], claims: Sequence[Claim]
) -> Plan:
    own = {f.name for f in plugins.families}
    families = tuple(f for f in plugins.all_families if claims and (f.name in tier.families or f.name in own))
    weight, total = sum(f.share for f in families), tier.instances if instances is None else instances
    counts = {f.name: max(LEAST, round(total * f.share / weight)) for f in families}
    return Plan(tier, tuple(claims), families, counts, _singles(tier) if claims else (), tuple(studies), seed)


def selected(only: Sequence[str], claims: Sequence[Claim], studies: Sequence[Study] = STUDIES):
    """The claims and studies that are about these ids; all of them if none is given.

    Raises:
      InputError: an id that neither a claim nor a study knows.
    """
    known = dict.fromkeys([*(claim.id for claim in claims), *(id_ for study in studies for id_ in study.says)])
    for id_ in only:
        if id_ not in known:
            raise InputError("--only", repr(id_), "ids among " + ", ".join(known))
    return (
        tuple(claim for claim in claims if not only or claim.id in only),
        tuple(study for study in studies if not only or set(only) & study.says.keys()),
    )


def _announce(plan: Plan, console: Console) -> None:
    if plan.families:
        console.print("stages audited:")
    for family in plan.families:
        console.print(f"  {plan.counts[family.name]:>7,}  {family.name}: {family.sizes}", markup=False, highlight=False)
    if plan.singles:
        names = ", ".join(single.name for single in plan.singles)
        console.print(f"  {len(plan.singles):>7}  of their own: {names}", markup=False, highlight=False)
    if plan.studies:
        console.print(f"studies: {'; '.join(study.name for study in plan.studies)}", markup=False, highlight=False)


def _keep(broken: dict[str, audit.Counterexample], found: audit.Counterexample) -> None:
    """The worst counterexample of each claim."""
    known = broken.get(found.id)
    if known is None or found.ratio > known.ratio:
        broken[found.id] = found


class Audited(NamedTuple):
    """What the audit of a family, or of one stage, found."""

    tallies: audit.Tallies
    broken: dict[str, audit.Counterexample]


class _Place(NamedTuple):
    """Where a job is done: in a worker, which does one at a time, or in a thread of this process."""

    progress: Callable[[int], None]  #: told of stages
    lock: AbstractContextManager[Any] = nullcontext()  #: held while a program runs
    stopped: Callable[[], bool] = lambda: False
    draws: bool = False  #: whether figures are drawn there


_worker = [_Place(lambda done: None)]
"""In a worker: its own place."""


def _start_process(told: Any = None) -> None:
    """Prepare a worker; `told` is the queue in which it says how many stages it has done."""
    jax.config.update("jax_enable_x64", True)
    _worker[0] = _Place((lambda done: None) if told is None else told.put, draws=True)


def _family(
    family: Family,
    stages: int,
    rng: np.random.Generator,
    claims: tuple[Claim, ...],
    chunk: int,
    book: audit.Journal | None,
    place: _Place | None = None,
) -> Audited:
    place, broken = place or _worker[0], {}
    tallies = audit.audit_family(
        family, stages, rng, claims, chunk=chunk, progress=place.progress, lock=place.lock, journal=book,
        stopped=place.stopped, broken=partial(_keep, broken),
    )  # fmt: skip
    return Audited(tallies, broken)


def _single(single: Single, claims: tuple[Claim, ...], place: _Place | None = None) -> Audited:
    place, broken = place or _worker[0], {}
    if place.stopped():
        return Audited({}, {})
    with place.lock:
        stage = single.make()
    chosen = [claim for claim in claims if claim.id not in single.without]
    return Audited(audit.audit_stage(single.name, stage, chosen, place.lock, partial(_keep, broken)), broken)


def _study(study: Study, tier: Tier, rng: np.random.Generator, place: _Place | None = None) -> Found:
    place = place or _worker[0]
    if place.stopped():
        return Found()
    found = study.job(tier, rng, place.lock)
    return _drawn(found) if place.draws else found


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _drawn(found: Found) -> Found:
    """The same with its files made already. One that fails is left as it is, to fail where that is said."""
    draws = dict(found.draws)
    with tempfile.TemporaryDirectory() as folder:
        for file, draw in found.draws.items():
            with suppress(Exception):
                draw(Path(folder) / file)
                draws[file] = partial(_write, (Path(folder) / file).read_bytes())
    return found._replace(draws=draws)


def _sendable(job: Any) -> bool:
    """Whether a worker can be told to do this: a reader's functions are known here only."""
    try:
        return b"__main__" not in pickle.dumps(job)
    except Exception:
        return False


MOST_WORKERS = 4
"""A worker holds a gigabyte; more of them have nothing left to do."""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Work:
    """The jobs of a run: a process for each core; two threads here for what cannot be sent, and for an accelerator's programs.

    In a process one program runs at a time (teamtr_jax/dynamics/_linear.py says why): that is the lock `running`.
    """

    def __init__(self, plan: Plan, book: audit.Journal | None, progress: Progress) -> None:
        self.plan, self.book, self.progress = plan, book, progress
        self.audited: dict[str, Audited] = {}  #: by family, or stage
        self.found: dict[str, Found] = {}  #: by study
        self.stop, self.began, self.said = threading.Event(), time.perf_counter(), time.perf_counter()
        self.here = _Place(self.advance, threading.Lock(), self.stop.is_set)
        self.stages_bar = progress.add_task("random stages", total=sum(plan.counts.values()))
        self.jobs_bar = progress.add_task("teams and studies", total=len(plan.singles) + len(plan.studies))

    def advance(self, stages: int) -> None:
        """Stages are done; every minute a line says so where no bar is seen."""
        self.progress.advance(self.stages_bar, stages)
        bar, now = self.progress.tasks[self.stages_bar], time.perf_counter()
        if self.progress.disable and now - self.said > SILENT:
            self.said, rate = now, bar.completed / (now - self.began)
            left = f"; about {((bar.total or 0) - bar.completed) / rate:.0f} s to go" if rate else ""
            self.progress.console.print(
                f"{bar.completed:,.0f} of {bar.total:,.0f} stages in {now - self.began:.0f} s{left}"
            )

    def listen(self, told: Any) -> None:
        """To the workers, until `None`."""
        while (stages := told.get()) is not None:
            self.advance(stages)

    def jobs(self) -> list[tuple[Callable[..., Any], tuple[Any, ...], bool]]:
        """A function, its arguments, whether it runs programs; what takes longest first."""
        plan = self.plan
        studies = [(_study, (one, plan.tier, plan.rng(one.name)), not one.apart) for one in plan.studies]
        families = [
            (_family, (one, plan.counts[one.name], plan.rng(one.name), plan.claims, plan.tier.chunk, self.book), True)
            for one in sorted(
                plan.families, key=lambda one: -one.share
            )  # small ones last: they share programs of others
        ]
        singles = [(_single, (one, plan.claims), True) for one in plan.singles]
        return [*studies, *singles, *families]

    def all(self) -> None:
        """Do everything; what failed, or Ctrl-C, ends the rest."""
        everywhere = jax.default_backend() == "cpu"
        jobs = self.jobs()
        sent = [(everywhere or not runs) and _sendable(arguments) for _, arguments, runs in jobs]
        count = min(sum(sent), _cores() if everywhere else 1, MOST_WORKERS)
        told = multiprocessing.get_context("spawn").SimpleQueue()
        listener = threading.Thread(target=self.listen, args=(told,), daemon=True)
        listener.start()
        with processes.workers(count, _start_process, told) if count else nullcontext() as executor:
            pool = ThreadPoolExecutor(2)
            try:
                begun: list[Future[Any]] = [
                    executor.submit(job, *arguments) if away and executor is not None
                    else pool.submit(job, *arguments, self.here)
                    for away, (job, arguments, _) in zip(sent, jobs, strict=True)
                ]  # fmt: skip
                for future, (job, _, _) in zip(begun, jobs, strict=True):
                    if job is not _family:
                        future.add_done_callback(lambda _: self.progress.advance(self.jobs_bar))
                for future in wait(begun, return_when=FIRST_EXCEPTION).done:
                    future.result()
                found = [future.result() for future in begun]
            except BaseException as error:
                self.stop.set()
                if executor is not None:
                    processes.end(executor)
                pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
                raise
            pool.shutdown()
        told.put(None)
        listener.join()
        for (_, (one, *_), _), result in zip(jobs, found, strict=True):
            (self.found if isinstance(one, Study) else self.audited)[one.name] = result


def run(
    tier: Tier,
    plugins: Plugins | None = None,
    seed: int = 0,
    instances: int | None = None,
    *,
    journal: Path | None = None,
    console: Console | None = None,
    studies: Sequence[Study] = STUDIES,
    claims: Sequence[Claim] | None = None,
) -> Result:
    """Audit every claim, run every study.

    Args:
      plugins: a reader's own rungs, claims and families.
      instances: random stages, instead of the tier's.
      journal: folder in which a tier with `keep` writes down where it stands.
      studies: which studies; none leaves the audit.
      claims: which claims (default: all, the plug-ins' included); none leaves the studies.

    Raises:
      InputError: `seed` or `instances` out of range, a damaged file in `journal` or in `theory/instances`; before the work.
    """
    plugins = plugins or Plugins()
    whole_number("seed", seed, 0)
    if instances is not None:
        whole_number("instances", instances, 1, MOST)
    index = adversarial.read_index(adversarial.INSTANCES)
    console = console or Console(quiet=True)
    started = time.perf_counter()
    plan = _plan(tier, plugins, seed, instances, studies, plugins.all_claims if claims is None else claims)
    _announce(plan, console)
    book = None
    if tier.keep and journal is not None:
        ids = [claim.id for claim in plan.claims]
        book = audit.Journal(journal, audit.fingerprint(seed, plan.counts, tier.chunk, ids, plugins.source))
        for family in plan.families:
            book.read(family.name)
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        work = _Work(plan, book, progress)
        work.all()
    found = [work.found[one.name] for one in plan.studies]
    tallies: audit.Tallies = {}
    broken: dict[str, audit.Counterexample] = {}
    for one in (*plan.families, *plan.singles):  # in this order, whatever was done first: of equals the first is named
        for key, tally in work.audited[one.name].tallies.items():
            tallies[key] = tallies[key].plus(tally) if key in tallies else tally
        for counterexample in work.audited[one.name].broken.values():
            _keep(broken, counterexample)
    rows = ledger.merged([*audit.rows(tallies, plan.claims, started), *(row for one in found for row in one.rows)])
    rows = [row for row in rows if row.statement]  # one without adds to another, which may not have been asked for
    decided = {key: x for one in found for key, x in one.evidence.items()}
    evidence.add(rows, decided, index["instances"])
    rows.sort(key=_place)
    draws = {file: draw for one in found for file, draw in one.draws.items()}
    draws |= {"adversarial.md": partial(evidence.page, index["ratios"])}
    draws |= evidence.counterexamples(rows, broken)
    shown = {id_: file for study in plan.studies for file, ids in study.figures.items() if file in draws for id_ in ids}
    said = {id_: words for study in plan.studies for id_, words in study.says.items() if words}
    for row in rows:
        row.words = row.words or said.get(row.id, "")
        row.page, row.figure = ledger.page_of(row.id), shown.get(row.id) or shown.get(row.id.partition(".")[0], "")
    rows = list(map(marked, rows))
    return Result(rows, _about(plan, decided, time.perf_counter() - started), draws)


def _about(plan: Plan, decided: dict[tuple[str, str], Any], seconds: float) -> dict[str, Any]:
    tier = plan.tier
    return {
        "instances": sum(plan.counts.values()) + len(plan.singles),
        "families": {f.name: f.sizes for f in plan.families}, "counts": plan.counts,
        "presets": [x.name for x in plan.singles if x.name in tier.presets],
        "gymnasium": [x.name for x in plan.singles if x.name not in tier.presets],
        "exact": max((x.instances for x in decided.values()), default=0), "seed": plan.seed,
        "quick": tier.quick, "seconds": seconds, "python": platform.python_version(), "jax": jax.__version__,
        "device": str(jax.devices()[0].device_kind), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def _place(row: Row) -> tuple[int, list[float], str]:
    """Tools, paper, …; by number; `S7` before `S7b`; a reader's own last."""
    kind = ORDER.find(row.id[0]) if row.id[1:2].isdigit() or row.id.startswith("PE") else -1
    numbers = [float(x) for x in "".join(c if c.isdigit() else " " for c in row.id).split()]
    return (kind if kind >= 0 else len(ORDER), numbers, row.id)
