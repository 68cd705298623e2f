"""`python -m experiments.tabular STUDY`: train what is missing, draw the figure, print the table and where the files are."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO, TextIOBase
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.commands import exit_code
from experiments.tabular.settings import Settings
from experiments.tabular.studies import LONGER, STUDIES
from teamtr_jax.validation import InputError

PROGRAM = "experiments.tabular"
DEFAULT = Settings()
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


def main() -> int:
    """What was asked for. Exit codes: `exit_code`."""
    jax.config.update("jax_enable_x64", True)

    def command(
        study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=NAMES)],
        settings: Annotated[Settings, tyro.conf.arg(name="")] = DEFAULT,
    ) -> None:
        chosen = tuple(STUDIES) if study == "all" else (study,)
        studies = STUDIES | LONGER
        if chosen[0] not in studies:
            raise InputError("study", repr(study), NAMES)
        written: list[Path] = []
        for name in chosen:
            text = StringIO()
            with redirect_stdout(Both(text)):
                written += studies[name](settings)
            written.append(settings.out / f"{name}.txt")
            lines = (line.rstrip() for line in text.getvalue().splitlines())
            written[-1].write_text("\n".join([*lines, ""]))
        print("\nrecords:", settings.out, "figures and tables:", *written, sep="\n  ")

    def asked() -> None:
        tyro.cli(command, prog=f"python -m {PROGRAM}", description=__doc__)

    return exit_code(PROGRAM, asked)


if __name__ == "__main__":
    sys.exit(main())
