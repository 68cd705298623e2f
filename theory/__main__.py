"""`python -m theory`: every claim, on random stages, corner stages, Gymnasium teams and studies of growth; the ledger."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import tyro
from rich.console import Console

from teamtr_jax.command_line import parsed
from teamtr_jax.llm.checked import flags, places, texts
from teamtr_jax.validation import InputError, shown, whole_number

if TYPE_CHECKING:
    from theory.run import Result

PROGRESS = ".progress"
INTERRUPTED = 130


@dataclass(frozen=True)
class VerifySettings:
    """Verify the theory: the claim ledger, its figures and machine-readable results. Five to ten minutes on two cores."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """About a minute, less where compiled programs are kept: few stages, small studies."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A million stages. Can be interrupted; the same command goes on where it was."""
    json: Path | None = None
    """Also write the ledger to this file."""
    latex: Path | None = None
    """Also write the ledger's table as LaTeX (booktabs) into this file."""
    out: Path = Path("results/theory")
    """Where the ledger and the figures go."""
    instances: int | None = None
    """Random stages in all, instead of the tier's 5,000, 100,000 or 1,000,000; at least 200 of every family."""
    seed: int = 0
    plugin: Path | None = None
    """A Python file with RUNGS, CLAIMS or FAMILIES of your own, audited beside what is built in."""
    only: tuple[str, ...] = ()
    """Ids of claims (a rung's id is its name): only these are audited, and only studies about them are run."""

    def __post_init__(self) -> None:
        flags(self, "quick", "full")
        if self.quick and self.full:
            raise InputError("--quick, --full", "both", "at most one of them")
        places(self, "out", *(name for name in ("json", "latex", "plugin") if getattr(self, name) is not None))
        texts(self, "only")
        whole_number("--seed", self.seed, 0)
        if self.instances is not None:
            from theory.run import MOST

            whole_number("--instances", self.instances, 1, MOST)


def _places(settings: VerifySettings, keep: bool) -> None:
    """Try what will be written, before the work.

    Raises:
      InputError: names the option and the place.
    """
    from teamtr_jax.files import output_file, output_folder

    out = output_folder("--out", settings.out)
    if out.is_dir():
        for name in ("ledger.json", "ledger.md"):
            output_file("--out", out / name)
        if keep:
            output_folder("--out", out / PROGRESS)
    if settings.json is not None and (out.is_dir() or settings.json.resolve().parent != out):
        output_file("--json", settings.json)
    if settings.latex is not None and (out.is_dir() or settings.latex.resolve().parent != out):
        output_file("--latex", settings.latex)


def _draw(draw: Callable[[Path], Any], path: Path) -> None:
    """The file that `draw` makes, whole or not at all."""
    from teamtr_jax.files import replacing

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draw(Path(folder) / path.name)
        with replacing(path) as temporary:
            shutil.copyfile(Path(folder) / path.name, temporary)


def write(result: Result, out: Path, copy: Path | None, console: Console, latex: Path | None = None) -> list[str]:
    """Write the ledger, print it, then write and draw all else; one that fails takes nothing else with it.

    Args:
      copy: where the ledger goes too.
      latex: where its table goes as LaTeX.

    Returns:
      What failed, a line each. Where no file could hold the ledger, it was printed as JSON.
    """
    from teamtr_jax.files import reason, replacing
    from theory import ledger
    from theory.run import ROOT

    rows, about = result.rows, result.about
    failed: list[str] = []

    def tried(name: str, do: Callable[[], object]) -> bool:
        try:
            do()
        except (Exception, SystemExit) as error:  # rich exits where nobody reads
            failed.append(
                str(error) if isinstance(error, InputError) else f"{name}: {type(error).__name__}: {reason(error)}"
            )
            return False
        return True

    def page(path: Path) -> None:
        root = os.path.relpath(ROOT, Path(os.path.realpath(path)).parent)
        with replacing(path) as temporary:
            temporary.write_text(ledger.markdown(rows, about, f"{root}/"))

    tried(str(out), lambda: out.mkdir(parents=True, exist_ok=True))
    paths = []
    for path in filter(None, (out / "ledger.json", copy)):
        if tried(str(path), lambda path=path: ledger.write_json(rows, path, about)):
            paths.append(path)
    tried("terminal", lambda: console.print(ledger.terminal(rows, console.width)))
    if not paths:
        tried("terminal", lambda: print(ledger.as_json(rows, about), flush=True))
    if tried("ledger.md", lambda: page(out / "ledger.md")):
        paths.append(out / "ledger.md")
    if latex is not None and tried(str(latex), lambda: ledger.write_latex(rows, latex, about)):
        paths.append(latex)
    for file, draw in result.draws.items():
        if tried(file, lambda file=file, draw=draw: _draw(draw, out / file)):
            paths.append(out / file)

    def say() -> None:
        console.print("verdict:", style="bold")
        for line in ledger.verdict(rows, about):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        console.print("What was held fixed, ranges of fits and where extremes were found: the notes in ledger.md.")
        console.print(
            f"{about['instances']:,} stages, {about['exact']:,} more without rounding, in {about['seconds']:.0f} s "
            f"on {about['device']}"
        )
        for path in paths:
            console.print(f"  {path}", highlight=False, soft_wrap=True)

    tried("terminal", say)
    return failed


def run(settings: VerifySettings) -> int:
    """Run one tier, write and print what it found. Exit code 1: some claim is violated; 3: not all could be written."""
    from theory import run as suite
    from theory.plugins import Plugins, load
    from theory.tiers import TIERS

    tier = TIERS["quick" if settings.quick else "full" if settings.full else "default"]
    _places(settings, tier.keep)
    plugins = load(settings.plugin) if settings.plugin else Plugins()
    claims, studies = suite.selected(settings.only, plugins.all_claims)
    console = Console() if sys.stdout.isatty() else Console(width=190)
    result = suite.run(
        tier, plugins, settings.seed, settings.instances, journal=settings.out / PROGRESS, console=console,
        studies=studies, claims=claims,
    )  # fmt: skip
    failed = write(result, settings.out, settings.json, console, settings.latex)
    for line in failed:
        print(f"theory: error: {shown(line)}", file=sys.stderr)
    return 1 if any(row.violations + row.exact_violations for row in result.rows) else 3 if failed else 0


def main() -> None:
    """Exit code 1 if a claim is violated, 2 on bad input, 3 if a number or a file could not be made, 130 if interrupted."""
    jax.config.update("jax_enable_x64", True)
    settings = None
    try:
        settings = parsed("theory", lambda: tyro.cli(VerifySettings, prog="python -m theory"), lists=("--only",))
        code = run(settings)
    except InputError as error:
        print(f"theory: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        kept = "the same command goes on where it was" if settings and settings.full else "nothing was written"
        print(f"theory: interrupted; {kept}", file=sys.stderr)
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # a thread that compiles cannot be stopped, and nobody waits for it
            util._run_finalizers(0)  # pyright: ignore[reportAttributeAccessIssue] — semaphores of workers that are gone
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(INTERRUPTED)
        raise
