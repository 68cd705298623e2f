"""`python -m theory`: every claim so far, on random stages, corner stages and Gymnasium teams; the ledger and its figures."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Settings:
    """Verify the theory: the claim ledger, its figures and machine-readable results."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A tenth of the instances and smaller families: half a minute, for CI."""
    json: Path | None = None
    """Also write the ledger to this file."""
    out: Path = Path("results/theory")
    """Where the ledger and the figures go."""
    instances: int = 100_000
    """Random stages in all."""
    seed: int = 0


GYM_TEAMS = (("FrozenLake", 4), ("CliffWalking", 3), ("FrozenLake8x8", 3), ("Taxi", 2))


def run(settings: Settings) -> int:
    from teamtr_jax.claims import STAGE_CLAIMS
    from teamtr_jax.stage import improvement_stage
    from teamtr_jax.teams import gymnasium_team
    from theory import audit, families, figures, ledger
    from theory.claims import p3_2, r1, r3

    console = Console() if sys.stdout.isatty() else Console(width=170)
    started = time.perf_counter()
    total = max(1000, settings.instances // 20) if settings.quick else settings.instances
    chosen = [
        f for f in families.FAMILIES if not settings.quick or f.name in ("small", "product", "episodic", "corners")
    ]
    weight = sum(f.share for f in chosen)
    counts = {f.name: max(200, round(total * f.share / weight)) for f in chosen}
    gym_teams = GYM_TEAMS[:1] if settings.quick else GYM_TEAMS
    relay_sizes = (2, 3, 4, 6, 8, 16) if settings.quick else r1.SIZES
    names = [*(f.name for f in families.FAMILIES), "P3.2", "R3"]
    seeds = dict(zip(names, np.random.SeedSequence(settings.seed).spawn(len(names)), strict=True))

    console.print("stages audited:")
    for family in chosen:
        console.print(f"  {counts[family.name]:>7,}  {family.name}: {family.sizes}", highlight=False)
    console.print(
        f"  {len(gym_teams):>7}  Gymnasium: " + ", ".join(f"{env} × {n}" for env, n in gym_teams), highlight=False
    )

    tallies: audit.Tallies = {}
    lock, running = threading.Lock(), threading.Lock()

    def add(found: audit.Tallies) -> None:
        with lock:
            for key, tally in found.items():
                tallies[key] = tallies[key].plus(tally) if key in tallies else tally

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        stages_bar = progress.add_task("random stages", total=sum(counts.values()))
        jobs_bar = progress.add_task("teams and families", total=len(gym_teams) + 3)

        def one_family(family: families.Family) -> None:
            def advance(done: int) -> None:
                progress.advance(stages_bar, done)

            rng = np.random.default_rng(seeds[family.name])
            add(audit.audit_family(family, counts[family.name], rng, progress=advance, lock=running))

        def one_team(environment: str, agents: int) -> None:
            team = gymnasium_team(environment, agents)
            states, actions = team.reward.shape
            with running:
                stage = improvement_stage(team, jax.numpy.full((states, actions), 1 / actions), 0.01, range(agents))
            add(audit.audit_stage(f"{environment} × {agents}", stage, few, running))
            progress.advance(jobs_bar)

        def done(result):
            progress.advance(jobs_bar)
            return result

        few = [claim for claim in STAGE_CLAIMS if claim.id != "P3.8"]
        r3_sizes, r3_teams = (r3.SIZES[:3], 20) if settings.quick else (r3.SIZES, 100)
        with ThreadPoolExecutor(2) as pool:  # two compile at a time, one runs at a time (dynamics/_linear.py says why)
            jobs = [pool.submit(one_family, family) for family in chosen]
            messages = pool.submit(
                lambda: done(p3_2.run(2_000 if settings.quick else 20_000, np.random.default_rng(seeds["P3.2"])))
            )
            relays = pool.submit(lambda: done(r1.run(relay_sizes)))
            randoms = pool.submit(lambda: done(r3.run(r3_teams, np.random.default_rng(seeds["R3"]), r3_sizes, running)))
            jobs += [pool.submit(one_team, environment, agents) for environment, agents in gym_teams]
            for job in jobs:
                job.result()
            relay_row, relay = relays.result()
            random_row, random = randoms.result()
            rows = [*audit.rows(tallies, STAGE_CLAIMS, started), messages.result(), relay_row, random_row]

    rows.sort(key=lambda row: ("TPSR".index(row.id[0]), [int(x) for x in row.id[1:].split(".")]))
    seconds = time.perf_counter() - started
    about = {
        "instances": sum(counts.values()) + len(gym_teams), "families": {f.name: f.sizes for f in chosen}, "counts": counts,
        "gymnasium": [f"{env} × {n}" for env, n in gym_teams], "seed": settings.seed, "quick": settings.quick, "seconds": seconds,
        "python": platform.python_version(), "jax": jax.__version__, "device": str(jax.devices()[0].device_kind),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    console.print(ledger.terminal(rows, console.width))
    for row in rows:
        if row.note and row.id[0] == "R":
            console.print(f"{row.id}: {row.note}", highlight=False)

    sample = families.FAMILIES[0].make(np.random.default_rng(settings.seed), 2_000)
    paths = [
        figures.scaling_figure(relay, random, settings.out / "scaling.png"),
        figures.bound_figure(*_bounds(sample), settings.out / "bounds.png"),
    ]
    for path in filter(None, (settings.out / "ledger.json", settings.json)):
        ledger.write_json(rows, path, about)
        paths.append(path)
    table = settings.out / "ledger.md"
    table.write_text(ledger.markdown(rows, about))
    console.print(
        f"{sum(counts.values()):,} random stages and {len(gym_teams)} Gymnasium teams in {seconds:.0f} s on {about['device']}"
    )
    for path in [*paths, table]:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    return int(any(row.violations for row in rows))


def _bounds(stages) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    from teamtr_jax.bounds import penalty_log_sum, penalty_paper, penalty_trivial
    from teamtr_jax.surrogates import stage_report

    @jax.jit
    @jax.vmap
    def numbers(stage):
        report = stage_report(stage)
        return abs(report.gap_fresh), penalty_paper(report), penalty_log_sum(report), penalty_trivial(report)

    gap, paper, log_sum, trivial = (np.asarray(x).ravel() for x in numbers(stages))
    return gap, {"P3.4, the paper: c√δ": paper, "S7, log-sum: ϱδ": log_sum, "S0, trivial": trivial}


def main() -> None:
    """Exit code 1 if a claim is violated, 2 on bad input."""
    jax.config.update("jax_enable_x64", True)
    from teamtr_jax.validation import InputError

    settings = tyro.cli(Settings, prog="python -m theory")
    try:
        if settings.instances < 1:
            raise InputError("--instances", settings.instances, "at least 1")
        code = run(settings)
    except InputError as error:
        print(f"theory: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("theory: interrupted; nothing was written", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
