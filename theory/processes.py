"""Worker processes that end with the process that started them, however that one ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

__all__ = ["pool", "end", "workers"]

PR_SET_PDEATHSIG = 1


def _watch(parent: Any) -> None:
    wait([parent.sentinel])
    os._exit(1)


def _begin(prepare: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """In a worker: Ctrl-C is the parent's business, and nothing outlives the parent.

    On Linux the kernel sends the signal, whatever the worker computes at that moment; elsewhere a thread waits for the end of the
    parent. Of a parent that ended before the kernel was asked the same thread learns.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    prepare(*arguments)


def pool(count: int, prepare: Callable[..., object], *arguments: Any) -> ProcessPoolExecutor:
    """`count` fresh processes, each of which calls `prepare(*arguments)` first. They end with this process, killed or not.

    Jobs have to be submitted from a thread that lives as long as they are needed: Linux sends its signal when the thread ends.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (prepare, arguments))


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
