"""The suite: every claim on every family, every study, one ledger. `theory.__main__` is its command line."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from teamtr_jax.claims import Claim
from teamtr_jax.records import dump
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import gymnasium_team
from teamtr_jax.validation import whole_number
from theory import adversarial, audit, exact_audit, figures, ledger, networks, processes, regimes
from theory.claims import p3_2, r1, r2, r3, r4, r5, rates, s8, u1
from theory.families import FAMILIES
from theory.ledger import Row
from theory.plugins import Plugins

__all__ = ["Tier", "TIERS", "Result", "run"]

ROOT = Path(__file__).parents[1]
MOST = 10**9
"""Random stages that may be asked for: weeks of two cores."""
ORDER = "TPESRU"
"""Kinds of ids in the ledger: tools, paper, episodic, sharper, rates, updates; a reader's own come last."""


@dataclass(frozen=True)
class Tier:
    """How much is done."""

    instances: int  #: random stages, float64
    exact: int  #: random stages decided without rounding
    families: tuple[str, ...]  #: names; a reader's own families are always included
    gym: tuple[tuple[str, int], ...]
    quick: bool  #: small studies
    chunk: int = 5_000  #: stages evaluated at once
    thorough: bool = False  #: the largest studies
    keep: bool = False  #: write down where every family stands, and go on from there
    presets: tuple[
        str, ...
    ] = ()  #: enumerated transformer teams of 65,536 transcripts (`theory.networks`), one stage each


ALL = tuple(f.name for f in FAMILIES)
GYM = (("FrozenLake", 4), ("Taxi", 2), ("CliffWalking", 3), ("FrozenLake8x8", 3))
NETWORKS = tuple(networks.PRESETS)
TIERS = {
    "quick": Tier(5_000, 60, ("small", "episodic", "corners", "episodic corners", "networks"), (), True, 1_000),
    "default": Tier(100_000, 1_000, ALL, GYM[:2], False, presets=NETWORKS[:1]),
    "full": Tier(1_000_000, 5_000, ALL, GYM, False, thorough=True, keep=True, presets=NETWORKS),
}


@dataclass
class Result:
    """What a run found."""

    rows: list[Row]
    about: dict[str, Any]
    draws: dict[str, Callable[[Path], Any]] = field(default_factory=dict)  #: file name → how to draw it


class Study(NamedTuple):
    """`job(tier, rng, lock)` → rows, and what can be drawn from them: `{file name: how}`."""

    name: str
    job: Callable[[Tier, np.random.Generator, AbstractContextManager[Any]], tuple[list[Row], dict[str, Any]]]


def _messages(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]):
    del lock
    return [p3_2.run(2_000 if tier.quick else 20_000, rng)], {}


def _scaling(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]):
    relay_row, relay = r1.run((2, 3, 4, 6, 8, 16) if tier.quick else r1.SIZES)
    random_row, random = r3.run(20 if tier.quick else 100, rng, r3.SIZES[:3] if tier.quick else r3.SIZES, lock)
    map_row, regime_map = regimes.run(tier.quick, rng, lock, None if tier.quick else random, tier.thorough)
    return [relay_row, random_row, map_row], {
        "scaling.png": lambda path: figures.scaling_figure(relay, random, path),
        "regimes.png": lambda path: regimes.regime_figure(regime_map, path),
        "regimes.json": lambda path: _write(dump(regimes.as_dict(regime_map)), path),
    }


def _write(text: str, path: Path) -> Path:
    path.write_text(text + "\n")
    return path


def _interactions(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]):
    row, found = r5.run(tier.quick, rng, lock)
    order = range(len(found.relay))
    return [row], {"interaction.png": lambda path: r5.interaction_figure(found.relay, order, path)}


def _certified(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]):
    if tier.quick:
        return [], {}
    row, curves = u1.run(100, rng, u1.GYM if tier.thorough else u1.GYM[:1], lock=lock)
    return [row], {"certified.png": lambda path: u1.certified_figure(curves, path)}


def _sampled_networks(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]):
    del lock
    return [networks.coverage(rng, *(() if tier.quick else (20, 1_000)))], {}


STUDIES: tuple[Study, ...] = (
    Study("R1, R3, regimes", _scaling),
    Study("certified shares", _certified),
    Study("interactions", _interactions),
    Study("messages", _messages),
    Study("sampled networks", _sampled_networks),
)


def _start_process() -> None:
    jax.config.update("jax_enable_x64", True)


def run(
    tier: Tier,
    plugins: Plugins | None = None,
    seed: int = 0,
    instances: int | None = None,
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
      claims: which claims (default: all, the plug-ins' included).

    Raises:
      InputError: `seed` or `instances` out of range, a damaged file in `journal` or in `theory/instances`; before the work.
    """
    plugins = plugins or Plugins()
    whole_number("seed", seed, 0)
    if instances is not None:
        whole_number("instances", instances, 1, MOST)
    index = adversarial.read_index(adversarial.INSTANCES)
    chosen_claims = plugins.all_claims if claims is None else tuple(claims)
    console = console or Console(quiet=True)
    started = time.perf_counter()
    total = tier.instances if instances is None else instances
    own = {f.name for f in plugins.families}
    chosen = [f for f in plugins.all_families if f.name in tier.families or f.name in own]
    weight = sum(f.share for f in chosen)
    counts = {f.name: max(200, round(total * f.share / weight)) for f in chosen}
    names = [*(f.name for f in plugins.all_families), "exact", "bounds", "S8", "R4", *(s.name for s in studies)]
    seeds = dict(zip(names, np.random.SeedSequence(seed).spawn(len(names)), strict=True))

    console.print("stages audited:")
    for family in chosen:
        console.print(f"  {counts[family.name]:>7,}  {family.name}: {family.sizes}", markup=False, highlight=False)
    gym = ", ".join(f"{env} × {n}" for env, n in tier.gym)
    console.print(f"  {len(tier.gym):>7}  Gymnasium: {gym}", highlight=False)
    if tier.presets:
        console.print(f"  {len(tier.presets):>7}  transformer teams: {'; '.join(tier.presets)}", highlight=False)
    console.print(f"  {tier.exact:>7,}  decided without rounding: {_worlds()}", highlight=False)

    book = None
    if tier.keep and journal is not None:
        book = audit.Journal(
            journal,
            audit.fingerprint(seed, counts, tier.chunk, [claim.id for claim in chosen_claims], plugins.source),
        )
        for family in chosen:
            book.read(family.name)
    tallies: audit.Tallies = {}
    lock, running, stop = threading.Lock(), threading.Lock(), threading.Event()

    def add(found: audit.Tallies) -> None:
        with lock:
            for key, tally in found.items():
                tallies[key] = tallies[key].plus(tally) if key in tallies else tally

    few = [claim for claim in chosen_claims if claim.id != "P3.8"]
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        stages_bar = progress.add_task("random stages", total=sum(counts.values()))
        pieces = len(tier.gym) + len(tier.presets) + len(studies) + 5 * bool(studies)
        jobs_bar = progress.add_task("teams and studies", total=pieces)

        def one_family(family: Any) -> None:
            def advance(done: int) -> None:
                progress.advance(stages_bar, done)

            rng = np.random.default_rng(seeds[family.name])
            add(audit.audit_family(
                family, counts[family.name], rng, chosen_claims, tier.chunk, advance, running, book, stop.is_set
            ))  # fmt: skip

        def one_team(environment: str, agents: int) -> None:
            if stop.is_set():
                return
            team = gymnasium_team(environment, agents, drop_time_limit=True)
            states, actions = team.reward.shape
            with running:
                stage = improvement_stage(team, jax.numpy.full((states, actions), 1 / actions), 0.01, range(agents))
            add(audit.audit_stage(f"{environment} × {agents}", stage, few, running))
            progress.advance(jobs_bar)

        def one_preset(name: str) -> None:
            if stop.is_set():
                return
            with running:
                stage = networks.preset_stage(name)
            # On a tree T1 is attained in every layer: float64 cannot decide it, the small teams of the family do.
            add(audit.audit_stage(name, stage, [claim for claim in few if claim.id != "T1"], running))
            progress.advance(jobs_bar)

        def one_study(study: Study):
            out = study.job(tier, np.random.default_rng(seeds[study.name]), running) if not stop.is_set() else ([], {})
            progress.advance(jobs_bar)
            return out

        # Two programs compile at a time, one runs at a time (teamtr_jax/dynamics/_linear.py says why); exact arithmetic and
        # NumPy in a process of their own.
        with processes.workers(1, _start_process) if studies else nullcontext() as apart:
            pool = ThreadPoolExecutor(2)
            jobs: list[Future[Any]] = []
            found: dict[str, Future[Any]] = {}
            slow: dict[str, Future[Any]] = {}
            try:
                if apart is not None:
                    slow = {
                        "exact": apart.submit(exact_audit.run, tier.exact, np.random.default_rng(seeds["exact"])),
                        "S8": apart.submit(s8.run, tier.quick, np.random.default_rng(seeds["S8"]), tier.thorough),
                        "rates": apart.submit(rates.run, tier.quick),
                        "R2": apart.submit(r2.run, r2.SIZES[:6] if tier.quick else r2.SIZES),
                        "R4": apart.submit(
                            r4.run, *(((2, 3, 4), np.random.default_rng(seeds["R4"]), 4) if tier.quick
                                      else (r4.SIZES, np.random.default_rng(seeds["R4"]), 20))
                        ),
                    }  # fmt: skip
                    for job in slow.values():
                        job.add_done_callback(lambda _: progress.advance(jobs_bar))
                jobs = [pool.submit(one_family, family) for family in chosen[:2]]
                found = {study.name: pool.submit(one_study, study) for study in studies}
                jobs += [pool.submit(one_family, family) for family in chosen[2:]]
                jobs += [pool.submit(one_team, environment, agents) for environment, agents in tier.gym]
                jobs += [pool.submit(one_preset, name) for name in tier.presets]
                for job in jobs:
                    job.result()
                results = [job.result() for job in found.values()]
                done = {name: job.result() for name, job in slow.items()}
            except BaseException as error:
                stop.set()
                if apart is not None:
                    processes.end(apart)
                pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
                raise
            pool.shutdown()

    rows = audit.rows(tallies, chosen_claims, started)
    draws: dict[str, Callable[[Path], Any]] = {}
    for found_rows, drawn in results:
        rows += found_rows
        draws |= drawn
    if done:
        (finite, finite_data), (rate_rows, rate_curves), (power, _) = done["S8"], done["rates"], done["R4"]
        rows += [finite, *rate_rows, power, done["R2"][0]]
        draws["finite_sample.png"] = lambda path: s8.finite_sample_figure(finite_data, path)
        draws["rates.png"] = lambda path: rates.rates_figure(rate_curves, path)
    rows = ledger.merged(rows)
    _add_evidence(rows, done.get("exact", {}), index["instances"])
    rows.sort(key=_place)
    seconds = time.perf_counter() - started
    about = {
        "instances": sum(counts.values()) + len(tier.gym) + len(tier.presets),
        "families": {f.name: f.sizes for f in chosen}, "counts": counts, "presets": list(tier.presets),
        "gymnasium": [f"{env} × {n}" for env, n in tier.gym], "exact": tier.exact if studies else 0, "seed": seed,
        "quick": tier.quick, "seconds": seconds, "python": platform.python_version(), "jax": jax.__version__,
        "device": str(jax.devices()[0].device_kind), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    draws["adversarial.md"] = lambda path: _write(_instances(index["ratios"]), path)
    draws["bounds.png"] = lambda path: figures.bound_figure(*_bounds(np.random.default_rng(seeds["bounds"])), path)
    figure = {name: file for file, ids in FIGURES.items() if file in draws for name in ids}
    for row in rows:
        row.page, row.figure = ledger.page_of(row.id), figure.get(row.id) or figure.get(row.id.partition(".")[0], "")
    return Result(rows, about, draws)


FIGURES = {
    "scaling.png": ("R1", "R3"), "regimes.png": ("R7",), "interaction.png": ("R4", "R5"), "rates.png": ("R6", "S3", "S7c"),
    "certified.png": ("U1", "S4", "S5", "S6", "S9"), "finite_sample.png": ("S8",), "bounds.png": ("S0", "P3.4", "S7"),
}  # fmt: skip


def _worlds() -> str:
    return ", ".join(world.name for world in exact_audit.WORLDS)


def _place(row: Row) -> tuple[int, list[float], str]:
    """Tools, paper, …; by number; `S7` before `S7b`; a reader's own last."""
    kind = ORDER.find(row.id[0]) if row.id[1:2].isdigit() or row.id.startswith("PE") else -1
    numbers = [float(x) for x in "".join(c if c.isdigit() else " " for c in row.id).split()]
    return (kind if kind >= 0 else len(ORDER), numbers, row.id)


def _add_evidence(
    rows: Sequence[Row], evidence: dict[tuple[str, str], Any], instances: Sequence[dict[str, Any]]
) -> None:
    """What was decided without rounding, and the tightest saved instances, in the rows of their claims."""
    for row in rows:
        own = [e for (id_, _), e in evidence.items() if id_ == row.id]
        if own:
            row.exact = max(e.instances for e in own)
            row.exact_kind = "enclosed" if any(e.enclosed for e in own) else "exact"
            row.exact_violations, row.exact_undecided = sum(e.violated for e in own), sum(e.undecided for e in own)
        ratios = [
            saved["ratio"] for saved in instances if saved["id"].removesuffix("R") == row.id
        ]  # S4R is a check of S4
        row.searched = max(ratios, default=None)


def _instances(ratios: Sequence[dict[str, Any]]) -> str:
    """The tightest ratios that the adversarial search has found so far, as a page."""
    gammas = sorted({x["gamma"] for x in ratios if x["gamma"] is not None})
    cells: dict[tuple[str, str, str, int], dict[float | None, float]] = {}
    for x in ratios:
        cells.setdefault((x["id"], x["rung"], x["shape"], x["agents"]), {})[x["gamma"]] = x["ratio"]
    heads = ["id", "rung", "shape", "n", *(f"γ = {gamma:g}" for gamma in gammas), "episodic"]
    about = (
        "Largest `|gap|/penalty` found by `python -m theory.adversarial`, float64. The tightest stage of each rung, form and γ "
        "is kept in `theory/instances/`, and decided again without rounding in `tests/test_adversarial.py`."
    )
    lines = ["# Tightest instances", "", about, "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key, found in cells.items():
        row = [str(x) for x in key] + [f"{found[g]:.5f}" if g in found else "" for g in (*gammas, None)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _bounds(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    from teamtr_jax.bounds import penalty_later_turns, penalty_log_sum, penalty_paper, penalty_trivial
    from teamtr_jax.surrogates import stage_report

    @jax.jit
    @jax.vmap
    def numbers(stage):
        report = stage_report(stage)
        penalties = (
            penalty_paper(report),
            penalty_trivial(report),
            penalty_log_sum(report),
            penalty_later_turns(report),
        )
        return abs(report.gap_fresh), *penalties

    gap, paper, trivial, log_sum, turns = (np.asarray(x).ravel() for x in numbers(FAMILIES[0].make(rng, 2_000)))
    return gap, {
        "P3.4, the paper: c√δ": paper,
        "S0, trivial": trivial,
        "S7, log-sum: ϱδ": log_sum,
        "S4R, later turns": turns,
    }
