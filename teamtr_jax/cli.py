"""`teamtr`: stage reports, checks of every claim, Gymnasium teams, and the monitor of token logs from the command line."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from teamtr_jax.claims import STAGE_CLAIMS, judge
from teamtr_jax.llm import monitor
from teamtr_jax.records import dump, stage_record
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.tabular import improvement_stage
from teamtr_jax.teams import gymnasium_team, read_stage, write_stage
from teamtr_jax.teams.gymnasium import Router
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError

__all__ = ["main"]

Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…")]


@dataclass(frozen=True)
class StageCommand:
    """Everything known exactly about each stage file: surrogates, gaps, divergences, the paper's bounds."""

    files: Files
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One strict-JSON object per file, one per line, instead of tables."""

    def run(self) -> int:
        stages = _read_all(self.files)
        for path, stage in stages:
            record = stage_record(stage, evaluate_stage(stage), str(path))
            line = dump(record)  # also refuses NaN before anything is shown
            if self.json:
                print(line, flush=True)
            else:
                _print_record(record)
        return 0


@dataclass(frozen=True)
class CheckCommand:
    """Run every applicable claim on your own team: which hold, how tightly, with what evidence. Exit code 1: one fails."""

    files: Files

    def run(self) -> int:
        failed = False
        for path, stage in _read_all(self.files):
            report = evaluate_stage(stage)
            form = "episodic" if report.episodic else "discounted"
            table = Table(title=f"{path}: {form}, {stage.team.agents} agents, {stage.team.reward.shape[0]} states")
            for heading in ("claim", "check", "verdict", "instances", "tightest", "evidence"):
                table.add_column(heading, overflow="fold")
            for claim in STAGE_CLAIMS:
                if form not in claim.forms:
                    continue
                for name, check in jax.jit(claim.check)(stage, report).items():
                    verdicts = judge(check)
                    violated, unsure = int(verdicts.violated.sum()), int(verdicts.inconclusive.sum())
                    failed |= violated > 0
                    verdict = f"VIOLATED ×{violated}" if violated else f"inconclusive ×{unsure}" if unsure else "holds"
                    identity = check.scale is not None
                    tightest = "identity" if identity else f"{float(verdicts.ratio.max()):.3g}"
                    table.add_row(
                        claim.id, name or claim.statement, verdict, str(verdicts.violated.size), tightest, "float"
                    )
            Console().print(table)
        print("float: float64 with a rounding budget; inconclusive: measured and bound closer than that budget")
        return int(failed)


@dataclass(frozen=True)
class ImportGymCommand:
    """Write a Gymnasium toy-text environment as a stage file: a turn-taking team of N agents and a target policy."""

    env: Annotated[str, tyro.conf.Positional]
    """Name without a version, for instance FrozenLake, FrozenLake8x8, CliffWalking, Taxi."""
    agents: int
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where to write the .npz file."""
    router: Router = "round_robin"
    """Who speaks next."""
    discount: float = 0.99
    seed: int = 0
    """Of the random target."""
    target: str = "improve:0.01"
    """improve:δ, one exact improvement step of each agent with E_d KL(current‖new) ≤ δ; or random:ε, ε of the way to a
    random policy."""

    def run(self) -> int:
        kind, _, text = self.target.partition(":")
        expected = "improve:δ with δ > 0, or random:ε with 0 ≤ ε ≤ 1"
        try:
            size = float(text)
        except ValueError:
            raise InputError("--target", repr(self.target), expected) from None
        if not (kind == "improve" and 0 < size < np.inf) and not (kind == "random" and 0 <= size <= 1):
            raise InputError("--target", repr(self.target), expected)
        if not self.output.parent.is_dir():
            raise InputError("--output", f"no folder {self.output.parent}", "a file in an existing folder")
        team = gymnasium_team(self.env, self.agents, self.router, self.discount)
        states, actions = team.reward.shape
        current = jnp.full((states, actions), 1 / actions)
        if kind == "improve":
            stage = improvement_stage(team, current, size, range(self.agents))
        else:
            drawn = np.random.default_rng(self.seed).dirichlet(np.ones(actions), states)
            stage = Stage(team, current, (1 - size) * current + size * jnp.asarray(drawn), jnp.arange(self.agents))
        write_stage(stage, self.output)
        print(self.output)
        return 0


@dataclass(frozen=True)
class MonitorCommand:
    """What a token log says about every update: KL, weights, certificates, resampling, interaction."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LOG.jsonl|.parquet")]
    settings: Annotated[monitor.Settings, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff] = field(
        default_factory=monitor.Settings
    )
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One strict-JSON object per update, one per line, instead of tables."""
    html: Path | None = None
    """Also write one page with tables and figures."""

    def run(self) -> int:
        return monitor.run(self.file, self.settings, self.json, self.html)


def _read_all(files: tuple[Path, ...]) -> list[tuple[Path, Stage]]:
    """Every file, checked, before anything is printed."""
    if not files:
        raise InputError("FILE", "none", "at least one stage file")
    stages = []
    for path in files:
        try:
            stages.append((path, read_stage(path)))
        except InputError as error:
            raise InputError(f"{path}: {error.name}", error.found, error.expected) from error
    return stages


def _print_record(record: dict) -> None:
    console = Console()
    n = record["agents"]
    title = f"{record['file']}: {record['form']}, {record['protocol']}, {n} agents"
    table = Table(title=title, caption="J: " + " → ".join(f"{x:.6g}" for x in record["objective"]))
    table.add_column("update (agent)")
    for agent in record["order"]:
        table.add_column(str(agent), justify="right")
    for key, value in record.items():
        if isinstance(value, list) and key not in ("order", "objective"):
            table.add_row(key, *("–" if x is None else f"{x:.6g}" for x in value))
    console.print(table)
    for key, value in record.items():
        if isinstance(value, float):
            console.print(f"{key:>24}  {value:.6g}", highlight=False)


def main() -> None:
    """Entry point of `teamtr`. Bad input: one line on stderr, exit code 2, nothing written."""
    jax.config.update("jax_enable_x64", True)
    warnings.formatwarning = lambda message, *_: f"teamtr: warning: {message}\n"
    command = tyro.extras.subcommand_cli_from_dict(
        {"stage": StageCommand, "check": CheckCommand, "import-gym": ImportGymCommand, "monitor": MonitorCommand},
        prog="teamtr",
        description=__doc__,
    )
    try:
        code = command.run()
    except InputError as error:
        print(f"teamtr: error: {error}", file=sys.stderr)
        code = 2
    except ArithmeticError as error:
        print(f"teamtr: error: {error}", file=sys.stderr)
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    main()
