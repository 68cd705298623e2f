"""`python -m theory.adversarial`: the tightest ratio found for each rung, shape, number of agents and γ, and the stages kept."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import numpy as np
import tyro

from teamtr_jax.bounds import DEFAULT, Rung
from teamtr_jax.command_line import parsed
from teamtr_jax.files import output_file, output_folder
from teamtr_jax.validation import InputError, whole_number
from theory.adversarial.instances import INSTANCES, Record, read_index, run, write
from theory.adversarial.search import GAMMAS, LOW_GAMMAS, STAGE_SIZES, StageSizes
from theory.plugins import load

Named = TypeVar("Named", Rung, StageSizes)


@dataclass(frozen=True)
class SearchSettings:
    """Search for stages that attain, or break, the rungs of the ladder."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One shape, one γ, fewer points and steps: about half a minute."""
    plugin: Path | None = None
    """Attack the `RUNGS` of this Python file instead of the built-in ones (run as it stands)."""
    rung: str | None = None
    """Only this rung (its name, as `penalty_path`)."""
    shape: str | None = None
    """Only this shape: turn-taking, product, episodic, "episodic product"."""
    low: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """γ = .01, .1, .25 instead of .5, .9, .99 (S13)."""
    save: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the tightest stage of each rung and γ to `--out`."""
    out: Path = INSTANCES
    """Where `--save` writes; what is there is replaced by tighter stages only."""
    seed: int = 0


def table(records: Sequence[Record]) -> Any:
    """Rung × shape and n; a column for each γ."""
    from rich.table import Table

    gammas = sorted({r.gamma for r in records if r.gamma is not None})
    out = Table(title="tightest |gap|/penalty found", caption="* decided again in exact arithmetic: holds; ! violated")
    for heading in ("id", "rung", "shape", "n", *(f"γ = {gamma:g}" for gamma in gammas), "episodic"):
        out.add_column(heading, justify="left" if heading in ("id", "rung", "shape") else "right", no_wrap=True)
    groups: dict[tuple[str, str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.id, record.rung, record.shape, record.agents), []).append(record)
    for (id_, rung, shape, n), found in groups.items():
        marks = {r.gamma: "!" if r.violated else "*" if r.exact is not None and r.exact.holds else " " for r in found}
        cells = {r.gamma: f"{r.ratio:.5f}{marks[r.gamma]}" for r in found}
        style = "bold red" if any(record.violated for record in found) else None
        out.add_row(id_, rung, shape, str(n), *(cells.get(g, "") for g in (*gammas, None)), style=style)
    return out


def named(flag: str, name: str | None, known: Sequence[Named]) -> list[Named]:
    """Those of this name, all without one.

    Raises:
      InputError: an unknown name.
    """
    chosen = [one for one in known if name in (None, one.name)]
    if not chosen:
        raise InputError(flag, name, "one of " + ", ".join(one.name for one in known))
    return chosen


def _rungs(settings: SearchSettings) -> Sequence[Rung]:
    """What is attacked.

    Raises:
      InputError: an unknown name, a file without rungs, stages of its rungs among the instances of the built-in ones.
    """
    if settings.plugin is None:
        return named("--rung", settings.rung, DEFAULT)
    own = load(settings.plugin).rungs
    if not own:
        raise InputError("--plugin", f"{settings.plugin} without RUNGS", "at least one bound to attack")
    if settings.save and settings.out.resolve() == INSTANCES.resolve():
        raise InputError("--out", str(settings.out), "a folder of your own: this one is for the built-in rungs")
    return named("--rung", settings.rung, own)


def _run(settings: SearchSettings) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    whole_number("--seed", settings.seed, 0)
    rungs = _rungs(settings)
    sizes = None if settings.shape is None else named("--shape", settings.shape, STAGE_SIZES)
    if settings.save and output_folder("--out", settings.out).is_dir():
        output_file("--out", settings.out / "index.json")
        if (settings.out / "index.json").exists():
            read_index(settings.out)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bars: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = bar.add_task(name, total=total)
            bar.update(bars[name], completed=done)

        rng = np.random.default_rng(settings.seed)
        records = run(settings.quick, rng, rungs, sizes, progress, LOW_GAMMAS if settings.low else GAMMAS)
    console.print(table(records))
    for record in records:
        if record.violated:
            console.print(
                f"VIOLATED: {record.rung}, {record.shape}, n = {record.agents}, γ = {record.gamma}", style="bold red"
            )
    failed = False
    if settings.save:
        try:
            written = write(records, settings.out)
        except (InputError, OSError) as error:
            print(f"theory.adversarial: error: {error}", file=sys.stderr)
            written, failed = [], True
        for path in written:
            console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 1 if any(record.violated for record in records) else 3 if failed else 0


def main() -> None:
    """Exit code 1 if a rung is violated, 2 on bad input, 3 if a number or a file could not be made, 130 if interrupted."""
    jax.config.update("jax_enable_x64", True)
    try:
        settings = parsed("theory.adversarial", lambda: tyro.cli(SearchSettings, prog="python -m theory.adversarial"))
        code = _run(settings)
    except InputError as error:
        print(f"theory.adversarial: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception:
        traceback.print_exc()
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    main()
