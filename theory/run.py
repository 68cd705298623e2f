"""The suite: every claim on every family, every study, one ledger. `theory.__main__` is its command line."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
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
from theory.studies.base import Found, Study
from theory.studies.every import STUDIES
from theory.tiers import Tier

__all__ = ["Result", "run", "selected"]

ROOT = Path(__file__).parents[1]
MOST = 10**9
"""Random stages that may be asked for: weeks of two cores."""
LEAST = 200
"""Random stages of a family, at the least."""
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


def _singles(tier: Tier) -> tuple[Single, ...]:
    """Gymnasium teams and enumerated networks.

    On a tree T1 is attained in every layer: float64 cannot decide it, the small teams of the family do.
    """
    return (
        *(Single(f"{env} × {n}", partial(_gymnasium_stage, env, n)) for env, n in tier.gym),
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


def _start_process() -> None:
    jax.config.update("jax_enable_x64", True)


def _apart(job: Callable[..., Found], tier: Tier, rng: np.random.Generator) -> Found:
    """A study in a process of its own: nobody else runs programs there."""
    return job(tier, rng, nullcontext())


def _workers(plan: Plan) -> AbstractContextManager[Any]:
    return processes.workers(1, _start_process) if any(study.apart for study in plan.studies) else nullcontext()


class _Work:
    """The jobs of a run, and what they have found so far.

    Two programs compile at a time, one runs at a time (teamtr_jax/dynamics/_linear.py says why): that is the lock `running`.
    """

    def __init__(self, plan: Plan, book: audit.Journal | None, progress: Progress) -> None:
        self.plan, self.book, self.progress = plan, book, progress
        self.tallies: audit.Tallies = {}
        self.broken: dict[str, audit.Counterexample] = {}
        self.adding, self.running, self.stop = threading.Lock(), threading.Lock(), threading.Event()
        self.stages_bar = progress.add_task("random stages", total=sum(plan.counts.values()))
        self.jobs_bar = progress.add_task("teams and studies", total=len(plan.singles) + len(plan.studies))

    def _add(self, found: audit.Tallies) -> None:
        with self.adding:
            for key, tally in found.items():
                self.tallies[key] = self.tallies[key].plus(tally) if key in self.tallies else tally

    def _break(self, found: audit.Counterexample) -> None:
        with self.adding:
            known = self.broken.get(found.id)
            if known is None or found.ratio > known.ratio:
                self.broken[found.id] = found

    def family(self, family: Family) -> None:
        plan = self.plan
        self._add(audit.audit_family(
            family, plan.counts[family.name], plan.rng(family.name), plan.claims, chunk=plan.tier.chunk,
            progress=lambda done: self.progress.advance(self.stages_bar, done), lock=self.running, journal=self.book,
            stopped=self.stop.is_set, broken=self._break,
        ))  # fmt: skip

    def single(self, single: Single) -> None:
        if self.stop.is_set():
            return
        with self.running:
            stage = single.make()
        claims = [claim for claim in self.plan.claims if claim.id not in single.without]
        self._add(audit.audit_stage(single.name, stage, claims, self.running, self._break))
        self.progress.advance(self.jobs_bar)

    def study(self, study: Study) -> Found:
        if self.stop.is_set():
            return Found()
        found = study.job(self.plan.tier, self.plan.rng(study.name), self.running)
        self.progress.advance(self.jobs_bar)
        return found

    def begin_apart(self, study: Study, executor: ProcessPoolExecutor) -> Future[Found]:
        job = executor.submit(_apart, study.job, self.plan.tier, self.plan.rng(study.name))
        job.add_done_callback(lambda _: self.progress.advance(self.jobs_bar))
        return job

    def all(self) -> list[Found]:
        """Do everything; what failed, or Ctrl-C, ends the rest."""
        plan = self.plan
        with _workers(plan) as executor:
            pool = ThreadPoolExecutor(2)
            try:
                begun = {study.name: self.begin_apart(study, executor) for study in plan.studies if study.apart}
                jobs = [pool.submit(self.family, family) for family in plan.families[:2]]
                begun |= {study.name: pool.submit(self.study, study) for study in plan.studies if not study.apart}
                jobs += [pool.submit(self.family, family) for family in plan.families[2:]]
                jobs += [pool.submit(self.single, single) for single in plan.singles]
                for job in jobs:
                    job.result()
                found = [begun[study.name].result() for study in plan.studies]
            except BaseException as error:
                self.stop.set()
                if executor is not None:
                    processes.end(executor)
                pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
                raise
            pool.shutdown()
        return found


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
        found = work.all()
    rows = ledger.merged([*audit.rows(work.tallies, plan.claims, started), *(row for one in found for row in one.rows)])
    rows = [row for row in rows if row.statement]  # one without adds to another, which may not have been asked for
    decided = {key: x for one in found for key, x in one.evidence.items()}
    evidence.add(rows, decided, index["instances"])
    rows.sort(key=_place)
    draws = {file: draw for one in found for file, draw in one.draws.items()}
    draws |= {"adversarial.md": partial(evidence.page, index["ratios"])}
    draws |= evidence.counterexamples(rows, work.broken)
    shown = {id_: file for study in plan.studies for file, ids in study.figures.items() if file in draws for id_ in ids}
    said = {id_: words for study in plan.studies for id_, words in study.says.items() if words}
    for row in rows:
        row.words = row.words or said.get(row.id, "")
        row.page, row.figure = ledger.page_of(row.id), shown.get(row.id) or shown.get(row.id.partition(".")[0], "")
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
