"""A log without a line of Python: `VERL_USE_EXTERNAL_MODULES=teamtr_jax.integrations.verl_plugin TEAMTR_LOG=run` (docs/verl.md).

verl imports the modules of that variable in every process. Here nothing happens until one of them imports a trainer; then its
`fit` begins with `watch(trainer, TEAMTR_LOG)`, and ends with its `close`.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from teamtr_jax.integrations.verl import watch
from teamtr_jax.integrations.verl_batches import Held, Stored
from teamtr_jax.validation import InputError

__all__ = ["FOLDER", "watched"]

FOLDER = "TEAMTR_LOG"
"""The variable that names the log's folder."""
TRAINERS = dict(kind.home.rsplit(".", 1) for kind in (Held, Stored))
"""By module, the class of the trainer in it."""


def watched(trainer: type, folder: str) -> None:
    """Let every trainer of this class write a log into the folder while it fits.

    Raises:
      InputError: later, from `fit`: see `watch`.
    """
    original = trainer.__dict__["fit"]

    @functools.wraps(original)
    def fit(self: Any, *args: Any, **settings: Any) -> Any:
        log = watch(self, folder)
        try:
            return original(self, *args, **settings)
        finally:
            log.close()

    if inspect.iscoroutinefunction(original):  # none of the known versions has one
        raise InputError(f"{trainer.__qualname__}.fit", "a coroutine", "a function")
    setattr(trainer, "fit", fit)  # noqa: B010 - a type has no `fit` to a type checker


class _AfterImport(MetaPathFinder):
    """Finds the modules of the trainers as Python does; their classes are changed as soon as they are there."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in TRAINERS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def and_watch(module: ModuleType) -> None:
            execute(module)
            watched(getattr(module, TRAINERS[fullname]), os.environ[FOLDER])

        vars(spec.loader)["exec_module"] = and_watch  # of this loader alone
        return spec


if os.environ.get(FOLDER):
    for _module, _trainer in TRAINERS.items():
        if _module in sys.modules:
            watched(getattr(sys.modules[_module], _trainer), os.environ[FOLDER])
    sys.meta_path.insert(0, _AfterImport())
