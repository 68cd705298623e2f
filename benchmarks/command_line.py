"""``python -m benchmarks.command_line``: what a user of `teamtr` waits for, as whole processes.

A folder of stage files of different sizes (`benchmarks/stage_files.py`) is given to `teamtr stage --json` and to
`benchmarks/reference.py`, which prints the same lines with NumPy alone. Seconds are those of the processor, of a process and of
all it has started, imports included, from the first instruction to the last: other people's load moves them least. Every round
begins with an empty cache folder; what was compiled in one call is there for the next.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import command_line_table
from benchmarks.stage import commit, machine
from benchmarks.stage_files import write_files
from benchmarks.writer import writer

__all__ = ["GROUPS", "disagreement", "main", "smallest"]

GROUPS = {
    "folder": "`teamtr stage --json` on 60 files of 60 shapes, without and with a cache, beside plain NumPy; each further file",
    "check": "`teamtr check` on 20 files of 20 shapes, without and with a cache, beside itself before issue 16",
    "start": "`teamtr --help` and `teamtr --version`: what a call costs that computes nothing",
    "one": "`teamtr stage --json` on one file, without and with a cache",
}
FILES, CHECKED = 60, 20
REFERENCES = 5
"""Calls of the reference in a round, of which the middle one counts: it is short, and everything is divided by it."""
AGREEMENT = 1e-9
"""Every number of every file, relative to the number and to 1e-3 at least, must be that of the reference."""
ROOT = Path(__file__).parents[1]
BEFORE = sorted((Path(__file__).parent / "results").glob("command_line-before*.json"))
OWN = {
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "XLA_FLAGS",
}
"""Environment variables that the Makefile and the tests set for themselves and a user does not."""

Sample = list[float]
Call = Callable[[str, Sequence[str]], Sample]


def spent(argv: Sequence[str], env: Mapping[str, str], out: Path) -> Sample:
    """`[processor, wall]` seconds of a process and its children; what it prints goes to `out`.

    Raises:
      SystemExit: if it fails.
    """
    begin, said = time.perf_counter(), out.with_suffix(".err")
    with out.open("wb") as file, said.open("wb") as errors:
        process = subprocess.Popen(argv, env=dict(env), stdout=file, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv[:5])} …: exit code {process.returncode}\n{said.read_text()}")
    return [used.ru_utime + used.ru_stime, time.perf_counter() - begin]


def as_users_do(cache: Path) -> dict[str, str]:
    """An environment without settings of ours, with a cache folder of its own."""
    return {name: value for name, value in os.environ.items() if name not in OWN} | {"TEAMTR_CACHE": str(cache)}


def caller(checkout: Path, folder: Path, env: Mapping[str, str]) -> Call:
    """What calls `teamtr` (of a checkout) or the reference; output goes to `folder/NAME.out`."""
    env = {**env, "PYTHONPATH": str(checkout)}
    teamtr, reference = ["-m", "teamtr_jax.cli"], [str(Path(__file__).with_name("reference.py"))]

    def call(name: str, words: Sequence[str]) -> Sample:
        program = reference if name.startswith("reference") else teamtr
        return spent([sys.executable, *program, *words], env, folder / f"{name}.out")

    return call


def disagreement(found: Any, wanted: Any) -> float:
    """The largest error of a number beside the reference's, in units of `max(|number|, 1e-3)`; ∞ where anything else differs."""
    if isinstance(wanted, Mapping):
        if set(found) != set(wanted):
            return math.inf
        return max(disagreement(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return math.inf
        return max((disagreement(x, y) for x, y in zip(found, wanted, strict=True)), default=0.0)
    if not isinstance(wanted, float) or not isinstance(found, int | float):
        return 0.0 if found == wanted else math.inf
    return abs(found - wanted) / max(abs(wanted), 1e-3)


def compare(found: Path, wanted: Path) -> float:
    """Line by line.

    Raises:
      AssertionError: names the first file whose numbers differ.
    """
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (found, wanted)]
    if len(lines[0]) != len(lines[1]) or not lines[0]:
        raise AssertionError(f"{len(lines[0])} lines beside {len(lines[1])} of the reference")
    worst = 0.0
    for ours, theirs in zip(*lines, strict=True):
        error = disagreement(ours, theirs)
        if not error <= AGREEMENT:
            keys = [key for key in theirs if not disagreement(ours.get(key), theirs[key]) <= AGREEMENT]
            raise AssertionError(f"{theirs['file']}: the reference disagrees by {error:.1e} in {', '.join(keys)}")
        worst = max(worst, error)
    return worst


def calls(group: str, files: list[str], once: bool) -> dict[str, list[str]]:
    """What is called in a round, in this order: name and words. Of `files` the second half is for further ones.

    Args:
      once: leave out what shows a cache at work.
    """
    half = files[: len(files) // 2]
    few = half[: max(1, len(half) * CHECKED // FILES)]
    stage, one = ["stage", "--json"], ["stage", "--json", half[0]]
    every = {
        "folder": {"stage, cold": [*stage, *half], "stage, again": [*stage, *half], "stage, twice the files": [*stage, *files]},
        "check": {"check, cold": ["check", *few], "check, again": ["check", *few]},
        "start": {"help": ["--help"], "version": ["--version"]},
        "one": {"one file, cold": one, "one file, again": one},
    }  # fmt: skip
    more = ("stage, again", "stage, twice the files", "check, again", "one file, again")
    return {name: words for name, words in every[group].items() if not (once and name in more)}


def together(some: Sequence[Mapping[str, list[Sample]]]) -> dict[str, list[Sample]]:
    """The samples of several runs by name."""
    out: dict[str, list[Sample]] = {}
    for commands in some:
        for name, samples in commands.items():
            out[name] = out.get(name, []) + samples
    return out


def smallest(group: str) -> None:
    """Every call of a group once, on one file, checked beside the reference and not timed; caches are those of the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder, 2)
        call = caller(ROOT, folder, {"TEAMTR_CACHE": str(folder / "cache")} | dict(os.environ))
        call("reference", files[:1])
        for label, words in calls(group, files, once=True).items():
            call(label, words)
        if group == "folder":
            compare(folder / "stage, cold.out", folder / "reference.out")


def main(argv: list[str] | None = None) -> None:
    """Round after round, a table after each; the file also says on what machine and with which versions."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.command_line", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=FILES, help="stage files in the folder")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="which comparisons")
    parser.add_argument(
        "--once", action="store_true", help="without second calls and further files (a package without cache)"
    )
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, help="another checkout of the package, to measure that one"
    )
    parser.add_argument("--before", nargs="*", type=Path, default=BEFORE, help="what was measured of an earlier commit")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    write = writer(args.json)
    result: dict[str, Any] = dict(
        schema=1,
        machine=machine(),
        commit=commit(args.checkout),
        versions=dict(python=platform.python_version())
        | {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")},
        load=os.getloadavg()[0],
        files=args.files,
        commands={},
        before=together([json.loads(path.read_text())["commands"] for path in args.before]),
    )
    commands = result["commands"]
    for done in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = write_files(folder, 2 * args.files)
            reference = caller(args.checkout, folder, os.environ)
            several = [reference("reference", files[: args.files]) for _ in range(REFERENCES)]
            commands.setdefault("reference", []).append(sorted(several)[REFERENCES // 2])
            for group in args.groups:
                call = caller(args.checkout, folder, as_users_do(folder / f"cache-{group}"))
                for label, words in calls(group, files, args.once).items():
                    commands.setdefault(label, []).append(call(label, words))
                    if label in ("stage, cold", "stage, again"):
                        result["disagreement"] = compare(folder / f"{label}.out", folder / "reference.out")
                    write(result)  # after every call, so that a run that is cut off keeps what it has
        print(f"\nround {done + 1} of {args.rounds}\n" + "\n".join(command_line_table(result)), flush=True)


if __name__ == "__main__":
    main()
