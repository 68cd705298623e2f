"""``python -m benchmarks.monitor``: how long `teamtr monitor` takes for a log of a million rows, from the file to the page.

Its steps are timed in this process, and the whole command, imports included, as one of its own, whose memory is measured too;
then the command on twenty million rows in Parquet.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import MONITOR_HEAD, MONITOR_STEPS, large_line, monitor_cells
from benchmarks.stage import commit, machine
from benchmarks.writer import writer
from teamtr_jax.monitor import (
    MonitorReport,
    Settings,
    monitor,
    read_token_log,
    show,
    write_page,
    write_token_log,
)

__all__ = ["GROUPS", "main", "made_up", "measure", "command", "smallest", "write_large"]

AGENTS, TOKENS, GROUP, STAGES = 3, 16, 8, 4
TARGETS = {"parquet": 3.0, "jsonl": 10.0}
"""Seconds of the processor for the command, from a file of a million rows to tables and page."""
MEMORY = 1.5e9
"""Bytes that the command may take for a Parquet log of any number of stages."""
PART = 1_000_000
"""Rows of the large log that are written at once: four stages."""
WATCH = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Seconds and kilobytes of a command, for a small process to ask: Linux counts what the starting one holds as the command's."""
COMMAND = (sys.executable, "-m", "teamtr_jax.cli", "monitor")
KINDS = {"new rollouts": False, "and the start scored again": True}
GROUPS = {
    "parquet": "`teamtr monitor` on a Parquet log of a million rows, from the file to the page, and its steps",
    "jsonl": "the same of JSON lines",
}


def made_up(rows: int, again: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """A log of about `rows` rows: stages of three updates; with `again` the stage's start is scored at every update."""
    rng = np.random.default_rng(seed)
    length = AGENTS * TOKENS
    sets = STAGES * (2 * AGENTS - 1 if again else AGENTS)
    rollouts = rows // (sets * length) // GROUP * GROUP
    n = rollouts * length
    agent = np.tile(np.repeat(np.arange(AGENTS), TOKENS), rollouts)
    token, rollout = np.tile(np.arange(TOKENS), AGENTS * rollouts), np.repeat(np.arange(rollouts), length)
    parts = []

    def add(
        stage: int, update: int, shift: int, behaviour: np.ndarray, current: np.ndarray, reward: np.ndarray
    ) -> np.ndarray:
        new = np.where(agent == update, np.minimum(current + 0.03 * rng.normal(size=n), 0.0), current)
        parts.append(
            dict(
                prompt=rollout // GROUP,
                rollout=rollout % GROUP + GROUP * shift,
                stage=np.full(n, stage),
                update=np.full(n, update),
                agent=agent,
                turn=agent,
                t=token,
                logp_behaviour=behaviour,
                logp_current=current,
                logp_new=new,
                reward=np.repeat(reward, length),
            )
        )
        return new

    for stage in range(STAGES):
        start = scored = -rng.exponential(1.0, n)
        outcome = (rng.random(rollouts) < 0.5).astype(float)
        for update in range(AGENTS):
            if update == 0 or again:
                scored = add(stage, update, 0, start, scored, outcome)
            if update > 0:
                fresh = -rng.exponential(1.0, n)
                add(stage, update, update, fresh, fresh, (rng.random(rollouts) < 0.5).astype(float))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def command(path: Path) -> tuple[list[float], int]:
    """The whole command as a process of its own: ``[wall, processor]`` seconds, and the most bytes that it held.

    Raises:
      SystemExit: it failed.
    """
    wall = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *COMMAND, str(path), "--html", str(path.with_suffix(".html"))],
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        raise SystemExit(f"teamtr monitor: exit code {done.returncode}")
    seconds, held = json.loads(done.stdout.splitlines()[-1])
    return [time.perf_counter() - wall, seconds], held * 1024


def write_large(path: Path, rows: int) -> int:
    """A Parquet log of about so many rows, four stages after the other; how many rows it has."""
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    names = {key: column.dtype for key, column in made_up(STAGES * 1000, True).items()}
    schema, written = pa.schema([(key, pa.from_numpy_dtype(kind)) for key, kind in names.items()]), 0
    with parquet.ParquetWriter(path, schema, write_page_checksum=True) as out:
        for i in range(max(round(rows / PART), 1)):
            table = made_up(min(rows, PART), True, seed=i)
            table["stage"] += STAGES * i
            out.write_table(pa.table(table, schema))
            written += table["t"].size
    return written


def measure(
    path: Path, table: Mapping[str, np.ndarray], rounds: int
) -> tuple[dict[str, list[list[float]]], list[int], int]:
    """By step, ``[wall, processor]`` seconds of every round; the memory of the command; and how many bytes the log has."""
    memory: list[int] = []
    samples: dict[str, list[list[float]]] = {name: [] for name in MONITOR_STEPS}
    write_token_log(path, table, check=False)

    def shown(report: MonitorReport) -> MonitorReport:
        with contextlib.redirect_stdout(io.StringIO()):
            show(report, path.name)
        return report

    steps: dict[str, Callable[[Any], Any]] = dict(
        read=lambda _: read_token_log(path),
        report=lambda log: monitor(log, Settings()),
        show=shown,
        page=lambda report: write_page(report, path.with_suffix(".html"), path.name),
    )
    for _ in range(rounds):
        out: Any = None
        for name, step in steps.items():
            wall, processor = time.perf_counter(), time.process_time()
            out = step(out)
            samples[name].append([time.perf_counter() - wall, time.process_time() - processor])
        seconds, held = command(path)
        samples["command"].append(seconds)
        memory.append(held)
    return samples, memory, path.stat().st_size


def smallest(group: str) -> None:
    """A small log with new rollouts and a start that is scored again: every step and the command once.

    Raises:
      AssertionError: if what was read is not what was written.
    """
    table = made_up(10_000, True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{group}"
        measure(path, table, 1)
        log = read_token_log(path)
        order = np.lexsort([table[key] for key in ("t", "turn", "rollout", "prompt", "update", "stage")])
        for key, column in table.items():
            if not np.array_equal(getattr(log, key), column[order]):
                raise AssertionError(f"{group}: {key} is not what was written")


def main(argv: list[str] | None = None) -> None:
    """Both kinds of log in both formats: one line each. The file also says on what machine and with which versions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitor", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="which comparisons")
    parser.add_argument(
        "--large", type=int, default=20_000_000, metavar="ROWS", help="of a Parquet log in many stages; 0: none"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        raise SystemExit("--rounds: at least 2")
    write = writer(args.json)
    load = os.getloadavg()[0]
    logs = []
    print(" | ".join(MONITOR_HEAD))
    with tempfile.TemporaryDirectory() as folder:
        for kind, again in KINDS.items():
            table = made_up(args.rows, again)
            for form in args.groups:
                samples, memory, size = measure(Path(folder) / f"log.{form}", table, args.rounds)
                logs.append(
                    dict(
                        kind=kind, form=form, rows=table["t"].size, bytes=size, target=TARGETS[form], samples=samples,
                        memory=memory,
                    )
                )  # fmt: skip
                print(" | ".join(monitor_cells(logs[-1])), flush=True)
        large = []
        if args.large:
            path = Path(folder) / "large.parquet"
            rows = write_large(path, args.large)
            found = [command(path) for _ in range(args.rounds)]
            large.append(dict(rows=rows, bytes=path.stat().st_size, target=MEMORY, seconds=[x for x, _ in found],
                              memory=[x for _, x in found]))  # fmt: skip
            print(large_line(large[-1]), flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "pyarrow", "matplotlib")}
    write(
        dict(
            schema=1,
            machine=machine(),
            commit=commit(),
            versions=dict(python=platform.python_version()) | versions,
            load=load,
            logs=logs,
            large=large,
        )
    )


if __name__ == "__main__":
    main()
