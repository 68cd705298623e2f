"""`python -m theory`: every claim, on random stages, corner stages, Gymnasium teams and studies of growth; the ledger."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console


@dataclass(frozen=True)
class Settings:
    """Verify the theory: the claim ledger, its figures and machine-readable results. Two or three minutes on two cores."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Under a minute, for CI: few stages, small studies."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A million stages. Can be interrupted; the same command goes on where it was."""
    json: Path | None = None
    """Also write the ledger to this file."""
    out: Path = Path("results/theory")
    """Where the ledger and the figures go."""
    instances: int | None = None
    """Random stages in all, instead of the tier's 5,000, 100,000 or 1,000,000."""
    seed: int = 0
    plugin: Path | None = None
    """A Python file with RUNGS, CLAIMS or FAMILIES of your own, audited beside what is built in."""


def run(settings: Settings) -> int:
    """Run one tier, write and print what it found. Exit code 1: some claim is violated."""
    from theory import ledger
    from theory import run as suite
    from theory.plugins import Plugins, load

    console = Console() if sys.stdout.isatty() else Console(width=190)
    plugins = load(settings.plugin) if settings.plugin else Plugins()
    name = "quick" if settings.quick else "full" if settings.full else "default"
    folder = settings.out / ".progress"
    result = suite.run(suite.TIERS[name], plugins, settings.seed, settings.instances, folder, console)
    rows, about = result.rows, result.about
    console.print(ledger.terminal(rows, console.width))
    paths = [draw(settings.out / file) for file, draw in result.draws.items()]
    for path in filter(None, (settings.out / "ledger.json", settings.json)):
        ledger.write_json(rows, path, about)
        paths.append(path)
    table = settings.out / "ledger.md"
    table.write_text(ledger.markdown(rows, about, f"{os.path.relpath(suite.ROOT, settings.out.resolve())}/"))
    console.print("What was held fixed, ranges of fits and where extremes were found: the notes in ledger.md.")
    console.print(
        f"{about['instances']:,} stages, {about['exact']:,} more without rounding, in {about['seconds']:.0f} s "
        f"on {about['device']}"
    )
    for path in [*paths, table]:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    return int(any(row.violations + row.exact_violations for row in rows))


def main() -> None:
    """Exit code 1 if a claim is violated, 2 on bad input, 130 if interrupted."""
    jax.config.update("jax_enable_x64", True)
    from teamtr_jax.validation import InputError

    settings = tyro.cli(Settings, prog="python -m theory")
    try:
        if settings.instances is not None and settings.instances < 1:
            raise InputError("--instances", settings.instances, "at least 1")
        if settings.quick and settings.full:
            raise InputError("--quick, --full", "both", "at most one of them")
        code = run(settings)
    except InputError as error:
        print(f"theory: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        kept = "the same command goes on where it was" if settings.full else "nothing was written"
        print(f"theory: interrupted; {kept}", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
