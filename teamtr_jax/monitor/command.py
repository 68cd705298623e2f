"""The command `teamtr monitor`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from teamtr_jax.files import output_file
from teamtr_jax.formats import dump
from teamtr_jax.monitor.advice import advice_json, advices
from teamtr_jax.monitor.columns import Record, agents_text
from teamtr_jax.monitor.dashboard import Dashboard
from teamtr_jax.monitor.events import Events
from teamtr_jax.monitor.follow import Followed, follow
from teamtr_jax.monitor.log import optional_import
from teamtr_jax.monitor.page import write_page
from teamtr_jax.monitor.reading import Progress, read_stages
from teamtr_jax.monitor.remarks import refused
from teamtr_jax.monitor.report import MonitorReport, monitor
from teamtr_jax.monitor.scalars import Threshold, passed, thresholds
from teamtr_jax.monitor.terminal import show
from teamtr_jax.monitor.tex import write_latex
from teamtr_jax.monitor_settings import Settings, Watching
from teamtr_jax.validation import InputError, shown

__all__ = ["PASSED", "run"]

PASSED = 4
"""Exit code where an update passes a threshold."""
PATIENCE = 2.0
"""Seconds after which a terminal is told how long it will take."""
CLEAR = "\r\x1b[K"
"""Back to the beginning of the line, which is emptied."""
PAGES = 5.0
"""A page is written at most so often that it takes a sixth of the time."""
SAID = 5
"""Thresholds that were passed of which standard error says which."""


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


@contextmanager
def _stopped_by_hand() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; the second time it interrupts."""
    stop = threading.Event()

    def handler(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _Pages:
    """Writes the page of a log that grows, not more often than it is worth."""

    def __init__(self, place: Path, log: str, refresh: float):
        self._place, self._log, self._refresh, self._next = place, log, refresh, 0.0

    def write(self, report: MonitorReport) -> None:
        begun = time.monotonic()
        if begun >= self._next:
            write_page(report, self._place, self._log, self._refresh)
            self._next = time.monotonic() + PAGES * (time.monotonic() - begun)


class _Told:
    """What happens with each update of a log that is followed, once it is whole."""

    def __init__(self, limits: Sequence[Threshold], events: Events | None, lines: bool, board: Dashboard):
        self._limits, self._events, self._lines, self._board = limits, events, lines, board

    @property
    def asked(self) -> bool:
        """Whether anything happens."""
        return bool(self._limits or self._events or self._lines or self._board.lines)

    def __call__(self, record: Record) -> bool:
        self._board.record(record)
        if self._events is not None:
            self._events.write(record)
        if self._lines:
            sys.stdout.write(dump(record) + "\n")
            sys.stdout.flush()
        return bool(passed(record, self._limits))


def _followed(
    file: Path, settings: Settings, watching: Watching, pages: _Pages | None, board: Dashboard, told: _Told
) -> Followed:
    """The report of a log that is still written, once that is over."""

    def on_report(report: MonitorReport) -> None:
        board.report(report)
        if pages is not None:
            pages.write(report)

    if not os.path.exists(file):
        sys.stderr.write(f"teamtr: {file} is not there yet: waiting (Ctrl-C ends)\n")
    with _stopped_by_hand() as stop, board:
        return follow(
            file,
            settings,
            every=watching.refresh,
            until_idle=watching.until_idle,
            settle=watching.settle,
            on_report=on_report,
            on_record=told if told.asked else None,
            stop=stop,
        )


def _failed(records: Sequence[Record], limits: Sequence[Threshold]) -> bool:
    """Whether an update passes a threshold; standard error says which."""
    found = [text for record in records for text in passed(record, limits)]
    for text in found[:SAID]:
        sys.stderr.write(f"teamtr: {text}\n")
    if len(found) > SAID:
        sys.stderr.write(f"teamtr: and {len(found) - SAID} more\n")
    return bool(found)


def _advise(report: MonitorReport, json: bool) -> None:
    """Print what to do with each agent, with the reasons."""
    for found in advices(report):
        if json:
            sys.stdout.write(dump(advice_json(found)) + "\n")
            continue
        sys.stdout.write(f"{agents_text(list(found.agents)).capitalize()}, update {found.update}\n")
        for key, (why, information) in found.reasons.items():
            value = getattr(found, key)
            sys.stdout.write(f"  {key}: {'unknown' if value is None else value} ({information}). {why}\n")
    sys.stdout.flush()


def run(
    file: Path,
    settings: Settings,
    json: bool = False,
    html: Path | None = None,
    *,
    watching: Watching | None = None,
    advice: bool = False,
    tensorboard: Path | None = None,
    latex: Path | None = None,
) -> int:
    """Read stage by stage, report, print: tables, or one strict-JSON object per update; and a page with figures.

    Args:
      watching: whether the log is still written, and thresholds.
      advice: print what to do with each agent instead.
      tensorboard: a folder for events.
      latex: a file for the tables.

    Returns:
      The exit code: 2 (bad input) where the log contradicts itself and has no sampler settings, what is known of it being
      printed all the same; `PASSED` where an update passes a threshold; otherwise 0.

    Raises:
      InputError: before anything is printed or written; of a log that is followed also later.
    """
    watching = Watching() if watching is None else watching
    settings.check()
    watching.check()
    limits = [
        *thresholds("--fail-above", watching.fail_above, True),
        *thresholds("--fail-below", watching.fail_below, False),
    ]
    if html is not None:
        optional_import("matplotlib")
    for option, place in (("--html", html), ("--latex", latex)):
        if place is not None and output_file(option, place) == Path(os.path.realpath(file)):
            raise InputError(option, str(place), "another file than the log")
    if html is not None and latex is not None and os.path.realpath(html) == os.path.realpath(latex):
        raise InputError("--latex", str(latex), "another file than the page")
    events = None if tensorboard is None else Events(tensorboard)
    lines = json and not advice
    if watching.follow:
        pages = None if html is None else _Pages(html, str(file), watching.refresh)
        board = Dashboard(str(file), f"Ctrl-C ends{'' if html is None else f'; figures: {html}'}", quiet=json or advice)
        found = _followed(file, settings, watching, pages, board, _Told(limits, events, lines, board))
        report, judged = found.report, [] if found.record is None else [found.record]
    else:
        with _progress() as progress:
            report = monitor(read_stages(file, settings.match, progress), settings)
        judged = report.records
        if events is not None:
            for record in report.records:
                events.write(record)
    texts = [] if watching.follow else [dump(record) for record in report.records]
    if html is not None:
        write_page(report, html, str(file))
    if latex is not None:
        write_latex(report, latex, str(file))
    if events is not None:
        events.close()
    if advice:
        _advise(report, json)
    elif json:
        sys.stdout.writelines(line + "\n" for line in texts)
        sys.stdout.flush()
    else:
        show(report, str(file))
    if watching.follow and html is not None and not json:
        sys.stdout.write(f"Figures: {shown(html)}\n")
    failed = _failed(judged, limits)
    if why := refused(report):
        sys.stderr.write(f"teamtr: refused: {shown(str(file))}: {why}\n")
        return 2
    return PASSED if failed else 0
