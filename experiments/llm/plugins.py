"""Tasks by name: those of the package, and those of one's own as ``FILE.py:NAME``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from teamtr_jax.files import reason, regular_file
from teamtr_jax.llm.tasks import (
    TASKS,
    WORD_TASKS,
    Task,
    WordTask,
    check_task,
    check_word_task,
    make_task,
    make_word_task,
)
from teamtr_jax.validation import InputError

__all__ = ["DIFFICULTY", "TASK_FILE", "TaskFile", "task_file", "task_of", "word_task_of", "task_settings", "task_identity",
           "loaded"]  # fmt: skip

DIFFICULTY: dict[str, tuple[str, ...]] = {"carry": ("digits=2",), "copy": ("length=3",), "parity": ("bits=4",)}
"""Settings for a run, where the task's own have too few prompts to hold some out, or take long."""

TASK_FILE = "task.py"
"""The copy of a task of one's own in the folder of a run."""

LARGEST = 2**22
"""Most bytes of such a file."""


class TaskFile(NamedTuple):
    """Where a task of one's own is written."""

    path: Path
    name: str  #: of the class, the function that makes it, or the task
    source: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.source).hexdigest()


def task_file(task: str) -> TaskFile | None:
    """The file of ``FILE.py:NAME``, read; `None` for a name without a file, as tasks of the package have.

    Raises:
      InputError: no such file, or none that can be read.
    """
    place, sign, name = task.rpartition(":")
    if not sign:
        return None
    path = regular_file(place, "a Python file with a task, as FILE.py:NAME")
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(place, f"{path.stat().st_size} bytes", f"a Python file of at most {LARGEST}")
        return TaskFile(path.resolve(), name, path.read_bytes())
    except OSError as error:
        raise InputError(place, reason(error), "a Python file with a task") from error


def task_identity(task: str) -> str:
    """What tells tasks apart: the name, and of a task of one's own the file's contents, wherever it is."""
    own = task_file(task)
    return task if own is None else f"{own.name} of a file with SHA-256 {own.digest}"


def task_settings(difficulty: Iterable[str]) -> dict[str, int]:
    """Settings written as ``digits=4``.

    Raises:
      InputError: names the setting that cannot be read.
    """
    settings: dict[str, int] = {}
    for item in difficulty:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise InputError("difficulty", repr(item), "name=value, such as digits=4")
        if key in settings:
            raise InputError(f"difficulty: {key}", "two values", "one")
        try:
            settings[key] = {"True": True, "False": False}[text] if text in ("True", "False") else int(text)
        except ValueError:
            raise InputError(f"difficulty: {key}", repr(text), "an integer, True or False") from None
    return settings


class _Kind(NamedTuple):
    """Tasks in characters, or in words."""

    known: Mapping[str, Any]
    make: Callable[..., Any]
    check: Callable[[Any], None]


def task_of(task: str, difficulty: tuple[str, ...]) -> Task:
    """A task by name, or by ``FILE.py:NAME``, with settings as `task_settings` reads them.

    Raises:
      InputError: names the task, the setting or the value that is not known; of a task of one's own what is wrong with it.
    """
    return _task_of(task, difficulty, _Kind(TASKS, make_task, check_task))


def word_task_of(task: str, difficulty: tuple[str, ...]) -> WordTask:
    """`task_of`, of a task in words.

    Raises:
      InputError: as there.
    """
    return _task_of(task, difficulty, _Kind(WORD_TASKS, make_word_task, check_word_task))


def _task_of(task: str, difficulty: tuple[str, ...], kind: _Kind) -> Any:
    settings = task_settings(difficulty)
    own = task_file(task)
    if own is None:
        if task not in kind.known:
            raise InputError("task", repr(task), f"{', '.join(kind.known)}, or one of your own as FILE.py:NAME")
        return kind.make(task, **settings)
    found = loaded(own)
    where = f"task {own.path.name}:{own.name}"
    if _makes_tasks(found):
        try:
            found = found(**settings)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(where, _said(error), "a task that can be made with these settings") from error
    elif settings:
        raise InputError("difficulty", " ".join(difficulty), f"none: {own.name} is a task already, not what makes one")
    try:
        kind.check(found)
    except InputError as error:
        raise InputError(f"{where}: {error.name}", error.found, error.expected) from error
    except (Exception, SystemExit) as error:  # a property of the task that raises, or returns something odd
        raise InputError(where, _said(error), "a task (docs/llm.md)") from error
    return found


def _makes_tasks(found: Any) -> bool:
    """Whether it is a class or a function, and no task itself."""
    return isinstance(found, type) or (callable(found) and not hasattr(found, "verify"))


def _said(error: BaseException) -> str:
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    text = error.msg if isinstance(error, SyntaxError) else reason(error)
    return type(error).__name__ if text in ("", type(error).__name__) else f"{type(error).__name__}: {text}{line}"


@lru_cache(maxsize=64)
def loaded(own: TaskFile) -> Any:
    """The object of this name in the file, which is run once."""
    module = ModuleType(f"task_{own.digest[:16]}")
    module.__file__ = str(own.path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(own.source, str(own.path), "exec"), module.__dict__)  # noqa: S102 — a task of one's own is code
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # code of somebody else: SystemExit and exceptions of its own too
        raise InputError(f"task {own.path.name}", _said(error), "a file that runs without an error") from error
    if not own.name or own.name not in module.__dict__:
        names = ", ".join(name for name, x in module.__dict__.items() if hasattr(x, "verify")) or "none"
        raise InputError(f"task {own.path.name}", f"no {own.name!r}", f"the name of a task in it: {names}")
    return module.__dict__[own.name]
