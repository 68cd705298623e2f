"""Packages that offer names without importing where they come from: each is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from threading import RLock
from typing import Any

__all__ = ["lazy_names"]

_LOCK = RLock()  # two threads that import parts of one circle each wait for the other, or meet a module half made


def lazy_names(
    homes: Mapping[str, str], namespace: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
      homes: by name, the module that it comes from.
      namespace: of the package, its `globals()`: a name that was asked for once stands there.
    """
    package = namespace["__name__"]

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with _LOCK:
            value = getattr(import_module(homes[name]), name)
        namespace[name] = value
        return value

    return find, lambda: sorted({*homes, *(name for name in namespace if name.startswith("__"))})
