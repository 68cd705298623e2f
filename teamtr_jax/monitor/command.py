"""The command `teamtr monitor`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from teamtr_jax.files import output_file
from teamtr_jax.formats import dump
from teamtr_jax.monitor.log import optional_import
from teamtr_jax.monitor.page import write_page
from teamtr_jax.monitor.reading import read_stages
from teamtr_jax.monitor.report import monitor
from teamtr_jax.monitor.terminal import show
from teamtr_jax.monitor.updates import Settings
from teamtr_jax.validation import InputError

__all__ = ["run"]


def run(file: Path, settings: Settings, json: bool = False, html: Path | None = None) -> int:
    """Read, report, print: tables, or one strict-JSON object per update; and a page with figures.

    Raises:
      InputError: before anything is printed or written.
    """
    settings.check()
    if html is not None:
        optional_import("matplotlib")
        if output_file("--html", html) == Path(os.path.realpath(file)):
            raise InputError("--html", str(html), "another file than the log")
    report = monitor(read_stages(file, settings.match), settings)
    lines = [dump(record) for record in report.records]
    if html is not None:
        write_page(report, html, str(file))
    if json:
        sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()
    else:
        show(report, str(file))
    return 0
