"""`python -m experiments.reproduce run | report`: the paper's questions on teams that are small enough to be exact."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import flax
import jax
import numpy as np
import optax
import tyro

from experiments import saved
from experiments.commands import exit_code, parsed
from experiments.reproduce.question import Question, ReproduceSettings
from experiments.reproduce.questions.ablation import ABLATION
from experiments.reproduce.questions.cost import COST
from experiments.reproduce.questions.dynamics import REGRESSIONS, TRACKING
from experiments.reproduce.questions.monitor import MONITOR
from experiments.reproduce.questions.replacement import REPLACEMENT
from experiments.reproduce.questions.scaling import GAPS, SCALING
from experiments.reproduce.questions.shifts import SHIFTS
from experiments.reproduce.questions.teams import TEAMS
from experiments.reproduce.questions.tied import TIED
from experiments.reproduce.questions.tied_tables import TIED_TABLES
from experiments.reproduce.questions.weights import WEIGHTS
from experiments.reproduce.report import build, data_file, places
from teamtr_jax.files import output_folder
from teamtr_jax.validation import InputError

__all__ = ["QUESTIONS", "main"]

PROGRAM = "experiments.reproduce"
QUESTIONS: tuple[Question, ...] = (
    GAPS,
    SCALING,
    ABLATION,
    REGRESSIONS,
    TRACKING,
    WEIGHTS,
    MONITOR,
    SHIFTS,
    REPLACEMENT,
    COST,
    TEAMS,
    TIED_TABLES,
    TIED,
)


@dataclass(frozen=True)
class BuildReport:
    """Build the report again from the data, without training."""

    out: Annotated[Path, tyro.conf.Positional] = Path("docs/reproduction")
    """Folder with `data/`."""

    def __post_init__(self) -> None:
        if not (self.out / "data").is_dir():
            raise InputError("out", f"no {self.out / 'data'}", "a folder that `run` wrote")


def _about(settings: ReproduceSettings, seconds: float) -> dict[str, object]:
    versions = {"Python": platform.python_version(), **{x.__name__: x.__version__ for x in (jax, flax, optax, np)}}
    return {"seeds": settings.seeds, "quick": settings.quick, "seconds": seconds, "versions": versions,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat()}  # fmt: skip


def run(settings: ReproduceSettings) -> list[Path]:
    """Train what is missing for every question, keep its data, build the report.

    Raises:
      InputError: an unknown question, a place that cannot be written, the damaged file of a run.
    """
    places(settings.out)
    output_folder("out", settings.out / "runs")
    names = [q.id for q in QUESTIONS]
    for name in settings.only:
        if name not in names:
            raise InputError("only", repr(name), ", ".join(names))
    for question in QUESTIONS:
        if settings.only and question.id not in settings.only:
            continue
        print(f"{question.id}: {question.title}", flush=True)
        settings.spent.clear()
        data = question.collect(settings)
        about = _about(settings, sum(settings.spent.values()))
        saved.write_json(data_file(settings.out, question), {"about": about, "data": data})
    return build(settings.out, QUESTIONS)


def main(arguments: list[str] | None = None) -> int:
    """What was asked for. Exit codes: `exit_code`."""
    jax.config.update("jax_enable_x64", True)

    def asked() -> None:
        command = parsed(
            Annotated[ReproduceSettings, tyro.conf.subcommand("run")]
            | Annotated[BuildReport, tyro.conf.subcommand("report")],
            arguments,
            PROGRAM,
            __doc__,
        )
        written = run(command) if isinstance(command, ReproduceSettings) else build(command.out, QUESTIONS)
        print("\nwritten:", *written, sep="\n  ")

    return exit_code(PROGRAM, asked)


if __name__ == "__main__":
    sys.exit(main())
