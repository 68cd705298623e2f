"""`teamtr`: stage reports, checks of every claim, teams of other libraries, and the monitor of token logs from the command line.

`teamtr --version` says which version this is.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import teamtr_jax
from teamtr_jax.command_line import parsed
from teamtr_jax.files import output_file, reason
from teamtr_jax.formats import dump
from teamtr_jax.import_commands import ImportGymCommand, ImportOpenSpielCommand
from teamtr_jax.monitor_settings import Settings, Watching
from teamtr_jax.validation import InputError, shown

if TYPE_CHECKING:
    from rich.table import Table

    from teamtr_jax.claims import Judged
    from teamtr_jax.types import Stage

__all__ = ["main"]

Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…")]

TRACEBACK = "TEAMTR_TRACEBACK"
"""Environment variable: set, it shows where an unexpected error came from."""


@dataclass(frozen=True)
class StageCommand:
    """Everything known exactly about each stage file: surrogates, gaps, divergences, the paper's bounds."""

    files: Files
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One strict-JSON object per file, one per line, instead of tables."""
    html: Path | None = None
    """Also write one page to look at, of one stage file."""

    def run(self) -> int:
        from teamtr_jax.records import evaluated_record

        if self.html is not None:
            _one_page(self.files, self.html)
        for path, stage in _read_all(self.files):
            try:
                record = evaluated_record(stage, str(path))
                line = dump(record)  # also refuses NaN before anything is shown
            except ArithmeticError as error:
                raise ArithmeticError(f"{path}: {error}") from error
            if self.html is not None:
                from teamtr_jax.stage_page import write_stage_page
                from teamtr_jax.surrogates import evaluate_stage

                write_stage_page(stage, evaluate_stage(stage), self.html, path.name)
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
        from rich.table import Table
        from rich.text import Text

        from teamtr_jax import claims, padded
        from teamtr_jax.exact import EXACT_STATES, EXACT_WORK

        failed = False
        for path, stage in _read_all(self.files):
            found = padded.run(claims.stage_verdicts, stage)
            form = "discounted" if stage.team.dynamics.horizon is None else "episodic"
            title = f"{shown(path)}: {form}, {stage.team.agents} agents, {stage.team.reward.shape[0]} states"
            table = Table(title=Text(title, "table.title"))
            for heading in ("claim", "check", "verdict", "instances", "tightest", "evidence"):
                words = 18 if heading == "verdict" else None  # several words, in one line
                table.add_column(heading, overflow="fold", no_wrap=heading != "check", min_width=words)
            for claim in claims.STAGE_CLAIMS:
                for name, check in found.get(claim.id, {}).items():
                    if check.unknown.any():
                        label = f"{path}: {claim.id} {name}".rstrip()
                        raise ArithmeticError(f"{label}: not a number (the linear solve did not succeed)")
                    violated, cells = _verdict(stage, claim.id, name, check)
                    failed |= violated
                    table.add_row(*map(Text, (claim.id, name or claim.statement, *cells)))
            _show(table)
        print(
            "float: float64 with a rounding budget; exact: closer than that budget, and decided in rational or ball arithmetic;\n"
            f"inconclusive: closer than that budget, and not decided (more than {EXACT_STATES} states, more than\n"
            f"{EXACT_WORK:,} states × actions × agents, or balls that overlap)"
        )
        return int(failed)


def _verdict(stage: Stage, claim: str, name: str, check: Judged) -> tuple[bool, list[str]]:
    """Whether a check is violated, and the cells of its row: verdict, instances, tightest, evidence."""
    from numpy import flatnonzero

    from teamtr_jax.exact import decide

    decided = decide(stage, claim, name, flatnonzero(check.inconclusive))
    violated, unsure = int(check.violated.sum()) + decided.count("violated"), decided.count("open")
    verdict = f"VIOLATED ×{violated}" if violated else f"inconclusive ×{unsure}" if unsure else "holds"
    tightest = f"{float(check.ratio.max()):.3g}" if check.identity is None else "identity"
    sure = len(decided) - unsure
    evidence = f"float, {sure} exact" if sure else "float"
    return violated > 0, [verdict, str(check.violated.size), tightest, evidence]


@dataclass(frozen=True)
class MonitorCommand:
    """What a token log says about every update: KL, weights, certificates, resampling, interaction. Exit code 4: a threshold."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LOG.jsonl|.parquet|FOLDER")]
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff] = field(
        default_factory=Settings
    )
    watching: Annotated[
        Watching, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction
    ] = field(default_factory=Watching)
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One strict-JSON object per update, one per line, instead of tables."""
    html: Path | None = None
    """Also write one page with tables and figures; under --follow again and again, and it loads itself."""
    advice: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """What to do with each agent, with reasons, instead of tables: rollouts, radius, whom to hold. --json: one object each."""
    tensorboard: Path | None = None
    """Also write scalars as events into this folder (the extra `tensorboard`)."""
    latex: Path | None = None
    """Also write the tables as LaTeX (booktabs) into this file."""

    def run(self) -> int:
        from teamtr_jax.monitor import run

        return run(
            self.file,
            self.settings,
            self.json,
            self.html,
            watching=self.watching,
            advice=self.advice,
            tensorboard=self.tensorboard,
            latex=self.latex,
        )


def _read_all(files: tuple[Path, ...]) -> list[tuple[Path, Stage]]:
    """Every file, checked, before anything is printed."""
    from teamtr_jax.teams.stage_file import read_stage

    if not files:
        raise InputError("FILE", "none", "at least one stage file")
    stages = []
    for path in files:
        try:
            stages.append((path, read_stage(path)))
        except InputError as error:
            raise InputError(f"{shown(path)}: {error.name}", error.found, error.expected) from error
    return stages


def _one_page(files: tuple[Path, ...], place: Path) -> None:
    """Refuse `--html` for several files, in the place of the stage file, or where nothing can be written."""
    if len(files) > 1:
        raise InputError("--html", f"{len(files)} stage files", "one stage file for one page")
    real = output_file("--html", place)
    if any(real == Path(os.path.realpath(path)) for path in files):
        raise InputError("--html", f"{place}, the stage file itself", "another place")


def _print_record(record: dict) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    n = record["agents"]
    title = f"{shown(record['file'])}: {record['form']}, {record['protocol']}, {n} agents"
    caption = "J: " + " → ".join(f"{x:.6g}" for x in record["objective"])
    table = Table(title=Text(title, "table.title"), caption=Text(caption, "table.caption"))
    table.add_column("update (agent)", no_wrap=True)
    for agent in record["order"]:
        table.add_column(str(agent), justify="right", no_wrap=True)
    for key, value in record.items():
        if isinstance(value, list) and key not in ("order", "objective"):
            table.add_row(key, *("–" if x is None else f"{x:.6g}" for x in value))
    _show(table)
    console = Console()
    for key, value in record.items():
        if isinstance(value, float):
            console.print(f"{key:>24}  {value:.6g}", highlight=False)


def _show(table: Table) -> None:
    """Print a table, wider than the terminal where a number would be cut otherwise."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    least = Measurement.get(console, console.options.update(max_width=10**6), table).minimum
    Console(width=max(console.width, least)).print(table)


def _fail(text: str, code: int) -> int:
    """One line on standard error; standard output takes nothing more, so that closing it cannot fail."""
    print(f"teamtr: error: {text}", file=sys.stderr)
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    return code


def _run(command: Any) -> int:
    """The exit code: 1 comes from a violated claim alone, 4 from a threshold of the monitor."""
    try:
        if not isinstance(command, MonitorCommand):
            import jax

            jax.config.update("jax_enable_x64", True)
        code = command.run()
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error), 2)
    except ArithmeticError as error:
        return _fail(shown(error), 3)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except SystemExit:  # what Rich makes of a pipe that nobody reads
        return _fail("standard output was closed", 3)
    except Exception as error:
        if isinstance(error, OSError):
            with suppress(OSError, ValueError):  # what is left in the buffer cannot be written at the end either
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = "" if os.environ.get(TRACEBACK) else f" ({TRACEBACK}=1 shows where)"
        return _fail(f"{type(error).__name__}: {shown(reason(error))}{where}", 3)
    return code


def main() -> None:
    """Entry point of `teamtr`. Bad input: one line on stderr, exit code 2, nothing written."""
    warnings.formatwarning = lambda message, *_: f"teamtr: warning: {shown(message)}\n"
    commands = {
        "stage": StageCommand,
        "check": CheckCommand,
        "import-gym": ImportGymCommand,
        "import-openspiel": ImportOpenSpielCommand,
        "monitor": MonitorCommand,
    }
    if sys.argv[1:] == ["--version"]:
        from teamtr_jax.programs import described

        print(f"teamtr {teamtr_jax.__version__}\n{described()}")
        sys.exit(0)

    def read() -> Any:
        return tyro.extras.subcommand_cli_from_dict(commands, prog="teamtr", description=__doc__)

    try:
        command = parsed("teamtr", read)
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    sys.exit(_run(command))


if __name__ == "__main__":
    main()
