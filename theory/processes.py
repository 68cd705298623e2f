"""Worker processes that end with the process that started them, however that one ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

__all__ = ["pool", "end", "workers"]

PR_SET_PDEATHSIG = 1


class _Process(SpawnProcess):
    """One that does not run the program again: what it imports first is this module, so that it is watched from the first."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = program


class _Context(SpawnContext):
    Process = _Process  # pyright: ignore[reportAssignmentType]


def _watch(parent: Any) -> None:
    wait([parent.sentinel])
    os._exit(1)


def _begin(prepare: bytes, arguments: tuple[Any, ...]) -> None:
    """In a worker: Ctrl-C is the parent's business, and nothing outlives the parent, not even the imports of `prepare`.

    On Linux the kernel sends the signal, whatever the worker computes at that moment; elsewhere a thread waits for the end of the
    parent. Of a parent that ended before the kernel was asked the same thread learns.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    pickle.loads(prepare)(*arguments)  # noqa: S301 — of the parent


def pool(count: int, prepare: Callable[..., object], *arguments: Any) -> ProcessPoolExecutor:
    """`count` fresh processes, each of which calls `prepare(*arguments)` first. They end with this process, killed or not.

    Jobs have to be submitted from a thread that lives as long as they are needed: Linux sends its signal when the thread ends.
    `prepare` and the jobs are functions of modules: workers do not know those of the program that is run.
    """
    return ProcessPoolExecutor(count, _Context(), _begin, (pickle.dumps(prepare), arguments))


def end(executor: ProcessPoolExecutor) -> None:
    """End the workers now, whatever they compute, and drop the jobs that wait."""
    processes = list((executor._processes or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


@contextmanager
def workers(count: int, prepare: Callable[..., object], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """`pool` for the time of a block; an exception in it (Ctrl-C too) ends the workers instead of waiting for them."""
    executor = pool(count, prepare, *arguments)
    try:
        yield executor
    except BaseException:
        end(executor)
        raise
    executor.shutdown()
