"""``python -m benchmarks.programs``: every group of every benchmark once, at its smallest size, untimed.

A benchmark is a program that takes `--json`. Its module has `GROUPS`, what each group compares in a line, and `smallest(group)`,
which runs every contender of a group once and raises an `AssertionError` where one of them disagrees. `make test` runs all.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

__all__ = ["programs"]

HERE = Path(__file__).parent


def programs() -> dict[str, ModuleType]:
    """The benchmarks by the name that `python -m` takes (of a folder that of its `__main__`)."""
    found = {}
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*/__main__.py")]):
        if path != Path(__file__) and "\ndef smallest(" in path.read_text():
            name = ".".join(["benchmarks", *path.relative_to(HERE).with_suffix("").parts])
            found[name] = importlib.import_module(name)
    return found


def main() -> None:
    """One line for each group."""
    import jax

    jax.config.update("jax_enable_x64", True)
    for name, module in programs().items():
        for group, compared in module.GROUPS.items():
            module.smallest(group)
            print(f"{name.removesuffix('.__main__')}: {group}: {compared}", flush=True)


if __name__ == "__main__":
    main()
