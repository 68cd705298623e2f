"""Workers end with the process that started them: killed, interrupted, or by an exception."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LIGHT = """
import os, signal, time
from theory.processes import workers
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the one that starts the tests ignores
    with workers(2, int) as pool:
        first = [pool.submit(time.sleep, 0.5) for _ in range(2)]
        [job.result() for job in first]
        busy = [pool.submit(time.sleep, 100) for _ in range(4)]
        print(os.getpid(), *pool._processes, flush=True)
        {then}
"""
"""Two workers, busy."""

REAL = """
import os, sys, time
from pathlib import Path
from experiments.reproduce import runs
from theory import processes, run
if __name__ == "__main__":
    ours = runs._pool(1, Path(sys.argv[1]), True)
    with processes.workers(1, run._start_process) as theirs:
        [pool.submit(time.sleep, 0).result() for pool in (ours, theirs)]
        busy = [pool.submit(sum, range(10**11)) for pool in (ours, theirs)]
        print(os.getpid(), *ours._processes, *theirs._processes, flush=True)
        time.sleep(100)
"""
"""A worker of the questions and one of the suite, in C code that does not let go."""

ELSEWHERE = """
import sys
from theory import processes
real = processes._begin
def begin(*arguments):
    sys.platform = "elsewhere"
    real(*arguments)
"""

EARLY = """
import os, time
from theory.processes import workers
if __name__ != "__main__":
    time.sleep(60)
import slow
if __name__ == "__main__":
    with workers(2, slow.prepare) as pool:
        busy = [pool.submit(time.sleep, 100) for _ in range(2)]
        print(os.getpid(), *pool._processes, flush=True)
        time.sleep(100)
"""
"""Two workers that do not come to an end of their imports."""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, seconds=2.0):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


@contextmanager
def started(tmp_path, text, *arguments):
    """The process of a program, and the ids of its two workers."""
    path = tmp_path / "program.py"
    path.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(path), *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        own, *pids = map(int, process.stdout.readline().split())
        try:
            assert own == process.pid
            assert len(pids) == 2
            assert all(map(alive, pids))
            yield process, pids
        finally:
            process.kill()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


@needs_proc
def test_workers_of_both_programs_die_with_a_killed_parent(tmp_path):
    with started(tmp_path, REAL, str(tmp_path / "compiled")) as (process, pids):
        process.kill()
        process.wait()
        assert gone(pids)


@needs_proc
def test_workers_die_without_the_signal_of_the_kernel(tmp_path):
    """Where there is no prctl a thread sees the end of the parent's pipe."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    elsewhere = "import elsewhere\nfrom theory import processes\nprocesses._begin = elsewhere.begin\n"
    with started(tmp_path, elsewhere + LIGHT.format(then="time.sleep(100)")) as (process, pids):
        process.kill()
        process.wait()
        assert gone(pids)


@needs_proc
@pytest.mark.parametrize(
    ("then", "sent", "code"),
    [("time.sleep(100)", signal.SIGINT, -signal.SIGINT), ("time.sleep(2); raise ValueError", None, 1)],
)
def test_workers_are_ended_by_an_exception(tmp_path, then, sent, code):
    """Ctrl-C and an error alike: the workers are gone at once, not when their work is done."""
    with started(tmp_path, LIGHT.format(then=then)) as (process, pids):
        if sent:
            process.send_signal(sent)
        assert gone(pids, 10)
        assert process.wait(5) == code


@needs_proc
def test_workers_that_still_import_die_with_a_killed_parent(tmp_path):
    """They are watched before they import what they compute with, and do not run the program again."""
    slow = (
        "import multiprocessing, time\nif multiprocessing.parent_process():\n    time.sleep(60)\ndef prepare(): pass\n"
    )
    (tmp_path / "slow.py").write_text(slow)
    with started(tmp_path, EARLY) as (process, pids):
        process.kill()
        process.wait()
        assert gone(pids, 3)
