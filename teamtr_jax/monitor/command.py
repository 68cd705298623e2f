"""The command `teamtr monitor`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teamtr_jax.files import output_file
from teamtr_jax.formats import dump
from teamtr_jax.monitor.log import optional_import
from teamtr_jax.monitor.page import write_page
from teamtr_jax.monitor.reading import Progress, read_stages
from teamtr_jax.monitor.remarks import refused
from teamtr_jax.monitor.report import monitor
from teamtr_jax.monitor.terminal import show
from teamtr_jax.monitor_settings import Settings
from teamtr_jax.validation import InputError, shown

__all__ = ["run"]

PATIENCE = 2.0
"""Seconds after which a terminal is told how long it will take."""
CLEAR = "\r\x1b[K"
"""Back to the beginning of the line, which is emptied."""


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Says how far it is, in one line of a terminal that is gone at the end; nothing where standard error is none."""
    begun, said = time.monotonic(), False

    def tell(done: int, rows: int) -> None:
        nonlocal said
        spent = time.monotonic() - begun
        if spent >= PATIENCE:
            left = spent * (rows - done) / done
            sys.stderr.write(f"{CLEAR}{100 * done // rows} % of {rows:,} rows, about {left:.0f} s left")
            sys.stderr.flush()
            said = True

    try:
        yield tell if sys.stderr.isatty() else None
    finally:
        if said:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()


def run(file: Path, settings: Settings, json: bool = False, html: Path | None = None) -> int:
    """Read stage by stage, report, print: tables, or one strict-JSON object per update; and a page with figures.

    Returns:
      2 (bad input) where the log contradicts itself and has no sampler settings. What is known of it is printed all the same.

    Raises:
      InputError: before anything is printed or written.
    """
    settings.check()
    if html is not None:
        optional_import("matplotlib")
        if output_file("--html", html) == Path(os.path.realpath(file)):
            raise InputError("--html", str(html), "another file than the log")
    with _progress() as progress:
        report = monitor(read_stages(file, settings.match, progress), settings)
    lines = [dump(record) for record in report.records]
    if html is not None:
        write_page(report, html, str(file))
    if json:
        sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()
    else:
        show(report, str(file))
    if why := refused(report):
        sys.stderr.write(f"teamtr: refused: {shown(str(file))}: {why}\n")
    return 2 if why else 0
