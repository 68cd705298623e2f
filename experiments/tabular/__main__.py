"""`python -m experiments.tabular STUDY`: train what is missing, draw the figure, print the table and where the files are."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO, TextIOBase
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.commands import exit_code, parsed
from experiments.saved import places, write_bytes
from experiments.tabular.settings import TabularSettings
from experiments.tabular.studies import LONGER, STUDIES
from teamtr_jax.validation import InputError, shown

PROGRAM = "experiments.tabular"
DEFAULT = TabularSettings()
NAMES = f"{', '.join([*STUDIES, *LONGER])} or all"


class Both(TextIOBase):
    """The terminal, and a copy of what is printed there."""

    def __init__(self, copy: StringIO):
        self.terminal, self.copy = sys.stdout, copy

    def write(self, text: str, /) -> int:
        self.copy.write(text)
        return self.terminal.write(text)

    def flush(self) -> None:
        self.terminal.flush()


@dataclass(frozen=True)
class Asked:
    """A study, and what it is run on."""

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=NAMES)]
    settings: Annotated[TabularSettings, tyro.conf.arg(name="")] = DEFAULT


def run(asked: Asked) -> None:
    """Run the study, or all, and keep what it prints."""
    settings, chosen, studies = asked.settings, (asked.study,), STUDIES | LONGER
    if asked.study == "all":
        chosen = tuple(STUDIES)
    elif asked.study not in studies:
        raise InputError("study", repr(asked.study), NAMES)
    there = [path.name for pattern in ("*.png", "*.json") for path in settings.out.glob(pattern)]
    places(settings.out, files=[*there, *(f"{name}.txt" for name in chosen)])
    written: list[Path] = []
    for name in chosen:
        text = StringIO()
        with redirect_stdout(Both(text)):
            written += studies[name](settings)
        lines = (line.rstrip() for line in text.getvalue().splitlines())
        written.append(write_bytes(settings.out / f"{name}.txt", "\n".join([*lines, ""]).encode()))
    print("\nrecords:", shown(settings.out), "figures and tables:", *map(shown, written), sep="\n  ")


def main() -> int:
    """What was asked for. Exit codes: `exit_code`."""
    jax.config.update("jax_enable_x64", True)
    return exit_code(PROGRAM, lambda: run(parsed(Asked, None, PROGRAM, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
