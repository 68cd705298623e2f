"""`make mutants`: small changes to the code, one at a time, each of which some test has to notice (Cosmic Ray).

Runs in an environment that holds Cosmic Ray alone; the tests run in that of the project. README.md beside this file says what is
counted. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "mutants"
SCORE = HERE / "score.json"
HARMLESS = HERE / "harmless.toml"

CPU_SECONDS, WALL_SECONDS = 400, 4 * 3600.0
"""A change under which the tests compute longer than this was noticed. CPU seconds, because other work may hold the cores."""


class Mutant(NamedTuple):
    """One change at one place."""

    group: str
    path: str
    operator: str
    arguments: str  #: JSON
    occurrence: int
    line: int
    column: int

    @property
    def key(self) -> str:
        """Names it in results and in harmless.toml."""
        short = self.operator.rpartition("/")[2]
        return f"{self.path}:{self.line}:{self.column} {short} {self.occurrence}"


def words(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and decorators stand: a change there changes no number."""
    spans = []
    for node in ast.walk(ast.parse(path.read_text())):
        found = [getattr(node, name, None) for name in ("annotation", "returns")] + getattr(node, "decorator_list", [])
        spans += [((x.lineno, x.col_offset), (x.end_lineno, x.end_col_offset)) for x in found if x is not None]
    return spans


ARITHMETIC, BITS = (
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"},
    {"BitAnd", "BitOr", "BitXor", "LShift", "RShift"},
)
"""Operators of numbers and of masks: one of these for one of those is a TypeError, which any test would see."""


def plausible(operator: str) -> bool:
    """Whether the change might be somebody's mistake."""
    *_, old, new = ["", *operator.split("_")]
    mixed = (old in ARITHMETIC and new in BITS) or (old in BITS and new in ARITHMETIC)
    return not mixed and new not in ("Invert", "Not", "LShift", "RShift")


def mutants(group: str, modules: list[str]) -> list[Mutant]:
    """Every change that Cosmic Ray knows and that might be a mistake, in the order of the source."""
    out = []
    for path in sorted(path for pattern in modules for path in ROOT.glob(pattern)):
        skipped = words(path)
        for item in _all_work_items([path], {}):
            (m,) = item.mutations
            if plausible(m.operator_name) and not any(a <= m.start_pos < b for a, b in skipped):
                name = path.relative_to(ROOT).as_posix()
                place = json.dumps(m.operator_args), m.occurrence, *m.start_pos
                out.append(Mutant(group, name, m.operator_name, *place))
    return sorted(out)


def sample(found: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """`size` places of the source, drawn at random, and at each of them one change, drawn at random."""
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for m in found:
        places.setdefault((m.path, m.line, m.column), []).append(m)
    rng = random.Random(seed)
    chosen = rng.sample(sorted(places), min(size, len(places)))
    return [rng.choice(places[place]) for place in chosen]


def files() -> list[str]:
    """What git tracks, and what it does not and might."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in set(names) if name and (ROOT / name).is_file())


def digest(group: dict[str, Any]) -> str:
    """Of what mostly decides whether a mutant of the group dies: its code, its tests and what tests share."""
    own = sorted(path for pattern in group["modules"] for path in ROOT.glob(pattern))
    shared = sorted(path for path in (ROOT / "tests").glob("*.py") if not path.name.startswith("test_"))
    tests = [ROOT / name for name in group["tests"] if (ROOT / name).is_file()]  # a folder's docstrings are its code
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*own, *shared, *tests])).hexdigest()[:16]


def commit() -> str:
    """What was measured: the commit, with a mark where the working tree differs from it."""
    said = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(said, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def copy(number: int) -> Path:
    """A copy of the working tree in which one worker changes files."""
    place = BUILD / f"copy-{number}"
    shutil.rmtree(place, ignore_errors=True)
    for name in files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / name)
    return place


def command(python: str, tests: list[str], path: str = "") -> str:
    """The tests of a group, those first whose file has the name of the changed one."""
    there = [name for name in tests if (ROOT / name).exists()]
    there.sort(key=lambda name: not (path and Path(path).stem in name))
    return f"prlimit --cpu={CPU_SECONDS} {python} -m pytest -x -q --no-header -p no:cacheprovider {' '.join(there)}"


def begin(numbers: Any) -> None:
    """A worker: its copy, and an environment in which the tests import it."""
    os.chdir(copy(numbers.get()))
    os.environ["PYTHONPATH"] = os.getcwd()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def work(job: tuple[Mutant, str, float]) -> dict[str, Any]:
    """Make the change, run the tests, undo it."""
    from cosmic_ray.work_item import MutationSpec

    m, test_command, timeout = job
    if m.operator == "baseline":
        done = subprocess.run(test_command.split(), capture_output=True, text=True, timeout=timeout)
        return {"outcome": "passed" if done.returncode == 0 else "failed", "output": done.stdout[-2000:]}
    place = (m.line, m.column)
    spec = MutationSpec(m.path, m.operator, m.occurrence, place, (m.line, m.column + 1), json.loads(m.arguments))
    result = mutate_and_test([spec], test_command, timeout)
    changed = [x for x in (result.diff or "").splitlines() if x[:1] in "+-" and x[:3] not in ("+++", "---")]
    out = {
        **m._asdict(),
        "key": m.key,
        "outcome": str(result.test_outcome and result.test_outcome.value),
        "change": changed,
    }
    return out | ({"output": (result.output or "")[-500:]} if out["outcome"] == "incompetent" else {})


def wilson(killed: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.959964, killed / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def report(groups: dict[str, Any], results: dict[str, list[dict[str, Any]]], totals: dict[str, int]) -> dict[str, Any]:
    """The score of every group, and its survivors with the reason why each is harmless, where one was given."""
    listed = tomllib.loads(HARMLESS.read_text())["harmless"] if HARMLESS.exists() else []
    reasons = {(row["path"], *row["change"]): row["why"] for row in listed}
    out = {}
    for name in groups:
        rows = [r for r in results.get(name, []) if r["outcome"] in ("killed", "survived")]
        if not rows:
            continue
        left = [r for r in rows if r["outcome"] == "survived"]
        known = {r["key"]: reasons.get((r["path"], *r["change"])) for r in left}
        killed = len(rows) - len(left)
        low, high = wilson(killed, len(rows))
        out[name] = {
            "commit": commit(), "mutants": totals[name],
            "tried": len(rows), "killed": killed, "share": round(killed / len(rows), 3),
            "low95": round(low, 3), "high95": round(high, 3),
            "harmless": sum(reason is not None for reason in known.values()),
            "survivors": [{"where": r["key"], "change": r["change"], "harmless": known[r["key"]]} for r in left],
        }  # fmt: skip
    return out


def main() -> int:
    groups = tomllib.loads((HERE / "groups.toml").read_text())
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"among {', '.join(groups)}; all if none is named")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="runs the tests")
    parser.add_argument("--sample", type=int, default=40, help="places of each group; 0: every change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after so long")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.groups) - set(groups)):
        parser.error(f"no group {', '.join(unknown)}")
    groups = {name: group for name, group in groups.items() if name in (asked.groups or groups)}
    python = str(Path(asked.python).absolute())

    BUILD.mkdir(parents=True, exist_ok=True)
    book = BUILD / "results.jsonl"
    known = {}
    for line in book.read_text().splitlines() if book.exists() else []:
        row = json.loads(line)
        known[row["key"], row["digest"]] = row
    results: dict[str, list[dict[str, Any]]] = {}
    totals, jobs = {}, []
    for name, group in groups.items():
        every = mutants(name, group["modules"])
        totals[name] = len(every)
        mark = digest(group)
        group["mark"] = mark
        for m in sample(every, asked.sample, asked.seed) if asked.sample else every:
            if (m.key, mark) in known:
                results.setdefault(name, []).append(known[m.key, mark])
            else:
                jobs.append((m, command(python, group["tests"], m.path), WALL_SECONDS))
    random.Random(asked.seed).shuffle(jobs)

    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(asked.workers):
        numbers.put(number)
    began = time.monotonic()
    with context.Pool(asked.workers, begin, (numbers,)) as pool, book.open("a") as file:
        base = [
            (Mutant(name, "", "baseline", "{}", 0, 0, 0), command(python, group["tests"]), WALL_SECONDS)
            for name, group in groups.items()
        ]
        for name, found in zip(groups, pool.imap(work, base if jobs else []), strict=False):
            if found["outcome"] != "passed":
                print(f"{name}: the tests fail without any change\n{found['output']}", file=sys.stderr)
                return 1
        for count, row in enumerate(pool.imap_unordered(work, jobs), 1):
            row["digest"] = groups[row["group"]]["mark"]
            results.setdefault(row["group"], []).append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            minutes = (time.monotonic() - began) / 60
            left = minutes / count * (len(jobs) - count)
            print(
                f"{count}/{len(jobs)} {row['outcome']:9} {row['key']}  ({minutes:.0f} min, about {left:.0f} left)",
                flush=True,
            )
            if minutes > asked.minutes:
                break
        pool.terminate()
    old = json.loads(SCORE.read_text())["groups"] if SCORE.exists() else {}
    new = report(groups, results, totals)
    tool = f"cosmic-ray {__import__('importlib.metadata').metadata.version('cosmic-ray')}"
    about = {"tool": tool, "sample": asked.sample, "seed": asked.seed, "groups": {**old, **new}}
    SCORE.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    for name, row in new.items():
        print(
            f"{name:14} {row['killed']}/{row['tried']} killed, {row['share']:.0%} [{row['low95']:.0%}, {row['high95']:.0%}], "
            f"{row['harmless']} of {len(row['survivors'])} survivors harmless"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
