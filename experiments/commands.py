"""How the programs of `experiments` read their command line, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import tyro

from teamtr_jax import command_line
from teamtr_jax.files import reason
from teamtr_jax.hosts import FirstFailed
from teamtr_jax.validation import InputError, shown

__all__ = ["use_all_cores", "parsed", "exit_code"]


def use_all_cores() -> None:
    """On a CPU, a device for each core, among which the sampler divides its rows. Before anything is computed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)


def parsed(form: Any, arguments: list[str] | None, program: str, description: str | None) -> Any:
    """The command line as settings; what is refused is said on one line (`teamtr_jax.command_line`).

    Raises:
      InputError: as raised by the settings.
      SystemExit: as raised by tyro, for everything else, after one line on stderr.
    """
    return command_line.parsed(
        program, lambda: tyro.cli(form, prog=f"python -m {program}", description=description, args=arguments)
    )


def exit_code(program: str, run: Callable[[], object]) -> int:
    """Run, and say how it ended: 0; bad input: one line on stderr, 2; files, numbers: 3; Ctrl-C: what is saved stays, 130.

    A process that process 0 ended: 3.
    """
    try:
        run()
        return 0
    except InputError as error:
        code = 2
        print(f"{program}: error: {error}", file=sys.stderr)
    except FirstFailed as error:
        code = 3
        print(f"{program}: error: {error}", file=sys.stderr)
    except (OSError, ArithmeticError) as error:
        code = 3
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"{program}: error: {shown(where + reason(error), 600)}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    return code
