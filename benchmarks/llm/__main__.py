"""``python -m benchmarks.llm --torch PYTHON``: sampler, GRPO step and team beside PyTorch, as ratios within one run.

PyTorch lives in an environment of its own (`benchmarks/torch-requirements.txt`). Each side is a process that waits for a name on
its input, measures once and answers; rounds alternate between the sides, in rotating order, and only one side works at a time.
`one-core` pins every process to one core and reads its CPU clock, which other people's load moves least; `all-cores` reads
the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.table import Table

from benchmarks.llm.sizes import SIZES, SMALLEST, size_of
from benchmarks.report import LLM_HEAD, llm_cells, peak_of
from benchmarks.stage import BLAS_VARIABLES, commit, cores, machine
from benchmarks.timing import Samples, quartiles, ratio
from benchmarks.writer import writer

__all__ = [
    "Compared",
    "Side",
    "TORCH",
    "SETUPS",
    "measure",
    "table_of",
    "GROUPS",
    "TARGETS",
    "main",
    "rows_of",
    "smallest",
]

GROUPS = {
    "sample": "the sampler of one agent, beside transformers' `generate` and a hand-written torch loop",
    "step": "a GRPO step from prompts to new parameters, beside TRL and a hand-written torch step",
    "team": "three agents that take turns, beside one agent that reads and writes as much",
}
SETUPS = ("one-core", "all-cores")
SIDES = {"sample": (("jax", "sample"), ("torch", "sample")), "step": (("jax", "step"), ("torch", "step"), ("torch", "trl")),
         "team": (("jax", "team"),)}  # fmt: skip
OURS = {"sample": "one", "step": "step_all"}
TARGETS = {
    ("sample", "large"): dict(hf=3.0, hf_static=3.0, hand=1.8),
    ("step", "large"): dict(trl=2.0),
    ("step", "small"): dict(trl=3.0),
}
"""Least ratio of the rival's time to the package's."""


TEAM_TARGET = 1.3  # most that a token of a team of three costs, in tokens of one agent plus its prefill
MATMUL = 2 * 2048**3
TORCH = ".venv-torch/bin/python"


class Batch(Protocol):
    """A network and the batch that it reads and writes."""

    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def new(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    def flops(self, passes: float = 1.0) -> float: ...
    def _asdict(self) -> dict[str, Any]: ...


class Side:
    """One process that measures on request."""

    def __init__(self, library: str, what: str, size: str, python: str, pinned: bool, package: str = "llm") -> None:
        threads = 1 if pinned else len(cores())
        env = dict(os.environ) | {name: str(threads) for name in BLAS_VARIABLES}
        env |= dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TEAMTR_BENCH_CLOCK="cpu" if pinned else "wall")
        env |= dict(PYTHONPATH=str(Path(__file__).parents[2]))
        if pinned:
            env["TEAMTR_BENCH_CORE"] = str(cores()[-1])
        interpreter = python if library == "torch" else sys.executable
        self.process = subprocess.Popen(
            [interpreter, "-m", f"benchmarks.{package}.{library}_side", what, size], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.name = f"{library}_side {what} {size}"
        self.about = self._read()
        self.names: list[str] = self.about["ready"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"{self.name}: ended with exit code {self.process.wait()}; run it by itself to see why")

    def seconds(self, name: str) -> float:
        """One measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return self._read()["seconds"]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Compared(NamedTuple):
    """What a program of this kind compares."""

    package: str  #: of `benchmarks`, where the sides are
    about: str
    groups: Mapping[str, str]
    sides: Mapping[str, Sequence[tuple[str, str]]]  #: group → (library, what it is asked for)
    ours: Mapping[str, str]  #: group → the package's contender
    targets: Mapping[tuple[str, str], Mapping[str, float]]  #: (group, size) → least ratio of a rival's time
    sizes: Sequence[str]
    sizes_help: str
    shape: Callable[[str], Batch]
    rounds: int
    without: Collection[tuple[str, str]] = ()  #: pairs of group and size that are not measured

    def smallest(self, group: str, contenders: Mapping[str, Callable[[], object]]) -> None:
        """The package's contenders once, untimed; PyTorch's too where `.venv-torch` is there.

        Each side compares what it sampled with its own teacher-forced log-probabilities before anything is measured.
        """
        for run in contenders.values():
            run()
        for library, what in self.sides[group]:
            if library == "torch" and Path(TORCH).exists():
                Side(library, what, "smallest", TORCH, True, self.package).close()


NETWORKS = Compared(
    "llm", (__doc__ or "").split("\n\n")[0], GROUPS, SIDES, OURS, TARGETS, sorted(SIZES),
    f"{', '.join(SIZES)}, or a width: large at that width", size_of, 7, {("team", "small")},
)  # fmt: skip


def measure(
    group: str, size: str, rounds: int, python: str, pinned: bool, compared: Compared = NETWORKS
) -> tuple[Samples, list[dict]]:
    """Seconds of every contender in every round, and what the sides say of themselves."""
    sides: list[Side] = []
    try:
        for library, what in compared.sides[group]:
            if library == "jax" or python:
                sides.append(Side(library, what, size, python, pinned, compared.package))
        contenders = [(side, name) for side in sides for name in side.names]
        samples: Samples = {name: [] for _, name in contenders}
        for done in range(rounds + 1):  # the first round warms up
            shift = done % len(contenders)
            for side, name in contenders[shift:] + contenders[:shift]:
                seconds = side.seconds(name)
                if done:
                    samples[name].append(seconds)
        return samples, [side.about for side in sides]
    finally:
        for side in sides:
            side.close()


class Row(NamedTuple):
    """One contender of one comparison."""

    group: str
    size: str
    name: str
    tokens: int
    seconds: list[float]  #: quartiles of one call
    gflops: float  #: matrix products of the new tokens only, at the median
    ratio: list[float] | None  #: quartiles of its time over the package's, formed within each round
    target: float | None
    met: bool | None


def rows_of(group: str, size: str, samples: Samples, compared: Compared | None = None) -> list[Row]:
    """Medians, ratios and targets."""
    compared = compared or NETWORKS
    shape = compared.shape(size)
    tokens, flops = shape.tokens, shape.flops(3.0 + 1.0 if group == "step" else 1.0)
    if group == "team":
        tokens = shape.batch * 3 * (shape.new // 3)
        flops *= tokens / shape.tokens
        alone = [float(sum(some)) for some in zip(*(samples[f"alone_{turn}"] for turn in range(3)), strict=True)]
        samples = {name: x for name, x in samples.items() if not name.startswith("alone_")} | {"alone": alone}
    out = []
    for name, seconds in samples.items():
        matmul = name.endswith("_matmul")
        middle = quartiles(seconds)[1]
        spread = target = met = None
        if group == "team" and name == "three":
            spread, target = ratio(samples, "three", "alone"), TEAM_TARGET
            met = spread[1] <= target
        elif group in compared.ours and not matmul and name != compared.ours[group]:
            spread = ratio(samples, name, compared.ours[group])
            target = compared.targets.get((group, size), {}).get(name)
            met = None if target is None else spread[1] >= target
        done = (MATMUL if matmul else flops) / middle / 1e9
        out.append(Row(group, size, name, 0 if matmul else tokens, quartiles(seconds), done, spread, target, met))
    return out


def smallest(group: str) -> None:
    """Every contender once, at a size of its own."""
    from benchmarks.llm.jax_side import contenders

    NETWORKS.smallest(group, contenders(group, SMALLEST))


def table_of(title: str, rows: list[dict[str, Any]], library: str, peak: float) -> Table:
    """What is printed."""
    table = Table(title=title, title_justify="left")
    above = "team / alone" if rows[0]["group"] == "team" else "rival / package"
    of = f"of {library} {peak:.0f}" if library else "of the peak"
    for column in (*LLM_HEAD[:-2], of, above):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*llm_cells(row, peak))
    return table


def main(argv: list[str] | None = None, compared: Compared | None = None) -> None:
    """Measure, print, write."""
    compared = compared or NETWORKS
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{compared.package}", description=compared.about)
    parser.add_argument("--torch", metavar="PYTHON", default=TORCH, help="interpreter with torch and TRL")
    parser.add_argument("--without-torch", action="store_true", help="the package alone")
    parser.add_argument("--rounds", type=int, default=compared.rounds)
    parser.add_argument("--groups", nargs="+", choices=list(compared.groups), default=list(compared.groups))
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", default=list(compared.sizes), help=compared.sizes_help)
    parser.add_argument("--setup", choices=SETUPS, default="all-cores")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    python = "" if args.without_torch else args.torch
    if python and not Path(python).exists():
        raise SystemExit(
            f"{python} does not exist: `make bench-llm` creates it, --torch names another, --without-torch does without"
        )
    try:
        shapes = {size: compared.shape(size) for size in args.sizes}
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    if args.rounds < 2:
        raise SystemExit("--rounds: at least 2")
    write = writer(args.json)
    console = Console(width=130)
    result: dict[str, Any] = dict(schema=1, machine=machine(), commit=commit(), setup=args.setup, cores=len(cores()), versions={},
                                  comparisons=[])  # fmt: skip
    for group in compared.groups:
        for size, shape in shapes.items():
            if group not in args.groups or (group, size) in compared.without:
                continue
            load = os.getloadavg()[0]
            samples, about = measure(group, size, args.rounds, python, args.setup == "one-core", compared)
            rows = rows_of(group, size, samples, compared)
            for side in about:
                result["versions"] |= side["versions"]
                result["device"] = side.get("device", result.get("device"))
            work = f"d={shape.width}, {shape.layers} layers, {shape.batch}×{shape.new} tokens"
            title = f"{group}, {size}: {work}; {args.setup}, load {load:.1f}"
            result["comparisons"].append(
                dict(group=group, size=size, shape=shape._asdict(), load=load, first=[side["first"] for side in about],
                     rows=[row._asdict() for row in rows], samples=samples)
            )  # fmt: skip
            measured = [row for comparison in result["comparisons"] for row in comparison["rows"]]
            console.print(table_of(title, result["comparisons"][-1]["rows"], *peak_of(measured)))
            write(result)  # after every comparison, so that a run that is cut off keeps what it has


if __name__ == "__main__":
    main()
