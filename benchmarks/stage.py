"""``python -m benchmarks.stage``: the package beside NumPy, SciPy LAPACK and plain Python, as ratios within one run.

Every comparison runs in a process of its own whose BLAS thread count is set before NumPy and SciPy are imported, because
it moves timings by orders of magnitude. Compilation is timed apart, arrays are on the device before the clock starts, and
a call ends when its result is ready (`block_until_ready`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import show_row, show_setup
from benchmarks.writer import writer
from teamtr_jax.files import replacing

__all__ = ["GROUPS", "main", "smallest"]

GROUPS = {
    "dispatch": "a call with nothing to compute, beside `jit` of nothing and SciPy",
    "batched": "values and visits of many small instances, beside NumPy's batched `solve` and `inv`",
    "single": "values and visits of one policy, beside SciPy's `lu_factor` and two `lu_solve`",
    "hybrids": "values and visits of all hybrids of a stage, beside n+1 factorisations and beside one policy",
    "stage": "every number of a stage, beside SciPy's LAPACK and plain Python loops",
    "audit": "every number of many small stages, beside a loop over instances and batched NumPy",
    "large": "all hybrids of thousands of states, dense, and of grids of up to a million, beside one policy and SciPy",
}
BLAS_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SETUPS = ("one-core", "blas-1", "blas-all")
PLATFORMS = {"auto": None, "cpu": "cpu", "gpu": "cuda"}


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Setup(NamedTuple):
    """BLAS threads and cores, the same for both sides."""

    name: str
    blas_threads: int
    cores: int
    clock: str  #: `cpu` where a process has one core for itself in name only: others may use it too


def setup_of(name: str) -> Setup:
    """A set-up by name, on the cores that there are."""
    available = len(cores())
    threads, used = {"blas-all": (available, available), "blas-1": (1, available), "one-core": (1, 1)}[name]
    return Setup(name, threads, used, "cpu" if used == 1 else "wall")


def environment(setup: Setup, device: str) -> dict[str, str]:
    """Environment of the process that measures."""
    env = dict(os.environ) | {name: str(setup.blas_threads) for name in BLAS_VARIABLES}
    env["JAX_ENABLE_X64"] = "1"
    if (platforms := PLATFORMS[device]) is not None:
        env["JAX_PLATFORMS"] = platforms
    return env


def pinned(setup: Setup) -> Callable[[], None] | None:
    """What the child does before it starts: keep to as many cores as the set-up says."""
    if setup.cores == len(cores()):
        return None
    return lambda: os.sched_setaffinity(0, cores()[: setup.cores])


def machine() -> dict[str, object]:
    """Processor, cores and memory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return dict(
        cpu=models[0] if models else platform.processor() or platform.machine(),
        cores=len(cores()),
        memory_gib=round(memory, 1),
        system=f"{platform.system()} {platform.machine()}",
    )


def commit(checkout: Path = Path()) -> str:
    """The commit of the package that is measured, with a + when files differ from it; empty outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "teamtr_jax") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def child(args: argparse.Namespace) -> None:
    """Measure one set-up in this process and write it to `args.json`."""
    import jax
    import numpy
    import scipy

    from benchmarks.cases import cases, measure

    versions = dict(
        python=platform.python_version(), jax=jax.__version__, numpy=numpy.__version__, scipy=scipy.__version__
    )
    device = jax.devices()[0]
    setup = json.loads(args.child)
    setup["load"] = os.getloadavg()[0]
    setup["clock"] = setup["clock"] if jax.devices()[0].platform == "cpu" else "wall"
    setup["device"] = device.device_kind if device.platform != "cpu" else "cpu"
    setup["blas_environment"] = {name: os.environ[name] for name in BLAS_VARIABLES}
    print(show_setup(setup, versions), flush=True)
    rows = []
    for make in cases("quick" if args.quick else "full", frozenset(args.groups)):
        rows.append(measure(make(), args.budget, args.quick, setup["clock"]))
        print(show_row(rows[-1]), flush=True)
        # After every row, so that a run that is cut off keeps what it has measured.
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(dict(versions=versions, setup=setup | dict(rows=rows))))


def run_setup(name: str, args: argparse.Namespace) -> dict[str, dict]:
    """Run one set-up in a process of its own; cut off after `--timeout`, it gives the rows measured until then.

    Raises:
      SystemExit: if it fails or measures nothing in time.
    """
    setup = setup_of(name)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks.stage", "--child", json.dumps(setup._asdict())]
        command += ["--json", str(out), "--budget", str(args.budget), "--groups", *args.groups]
        command += ["--quick"] * args.quick
        try:
            subprocess.run(
                command, env=environment(setup, args.device), preexec_fn=pinned(setup), timeout=args.timeout, check=True
            )
        except subprocess.TimeoutExpired:
            if not out.exists():
                raise SystemExit(f"{name}: nothing measured after {args.timeout:.0f} s") from None
            print(f"{name}: cut off after {args.timeout:.0f} s", flush=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{name}: failed with exit code {error.returncode}") from None
        return json.loads(out.read_text())


def smallest(group: str) -> None:
    """Every contender of a group once, at the smallest size, checked and not timed, in this process.

    Raises:
      AssertionError: names a contender that disagrees.
    """
    from benchmarks.cases import cases, check

    for make in cases("smallest", frozenset([group])):
        case = make()
        for call in case.units.values():
            call()
        check(case, next(iter(case.packages.values()))())


def main(argv: list[str] | None = None) -> None:
    """Parse, run every set-up in turn, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--device", choices=sorted(PLATFORMS), default="auto", help="where the package runs")
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=SETUPS, help="BLAS threads and cores")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="which comparisons")
    parser.add_argument("--budget", type=float, help="seconds for the rounds of each case")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for each set-up")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.budget is None:
        args.budget = 1.0 if args.quick else 6.0
    if args.child:
        child(args)
        return
    write = writer(args.json)
    names = [name for name in args.setups if name != "one-core" or hasattr(os, "sched_setaffinity")]
    result: dict[str, object] = dict(schema=1, quick=args.quick, machine=machine(), commit=commit())
    setups = []
    for name in names:
        done = run_setup(name, args)
        setups.append(done["setup"])
        # After every set-up, so that a run that is cut off keeps what it has.
        write(result | dict(versions=done["versions"], setups=setups))


if __name__ == "__main__":
    main()
