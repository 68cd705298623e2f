"""A log that is followed, on the terminal: verdicts and the last updates, drawn again; lines where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from teamtr_jax.monitor.columns import Record, interval_text, name, number, who
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor.verdict import verdicts
from teamtr_jax.validation import shown

__all__ = ["Dashboard", "drawn", "line_of"]

UPDATES = 8
"""The last ones are shown."""
TONES = {"good": "green", "bad": "red", "open": ""}
HEADS = ("update", "agent", "reward", "k1 per message", "δ", "L", "lower", "S8 lower", "shift upper", "doubts")


def _cells(r: Record, show: Callable[[Mapping[str, Any] | None], str]) -> list[str]:
    """An update; `show` writes an estimate."""
    finite = r["certificate_finite_sample"]
    return [
        name(r),
        who(r["agents"]),
        show(r["reward"]),
        show(r["kl_k1"]),
        "–" if r["outside"] is None else "outside" if r["outside"] else "inside",
        show(r["surrogate"]),
        number(r["certificate"]["lower"]),
        "–" if finite is None else number(finite["lower"]),
        number(r["shift_upper"]),
        str(len(r["invalid"])),
    ]


def _value(x: Mapping[str, Any] | None) -> str:
    """An estimate without its interval: a screen is narrow, and a number that is cut is another one."""
    return number(None if x is None else x["value"])


def drawn(report: MonitorReport | None, log: str, where: str) -> Group:
    """What is on the screen.

    Args:
      report: `None` before the first row.
      where: what else to say, of the page and of how to end.
    """
    if report is None:
        return Group(Text(f"{shown(log)}: nothing yet"), Text(where, "dim"))
    parts: list[Text | Table] = [Text(f"{shown(log)}: {report.rows:,} tokens, {len(report.records)} updates", "bold")]
    for verdict in verdicts(report):
        line = Text(f"{verdict.whose}: ")
        for i, answer in enumerate(verdict.answers):
            line.append(", " * (i > 0)).append(answer.answer, TONES[answer.tone])
        parts.append(line)
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for i, head in enumerate(HEADS):
        table.add_column(head, justify="left" if i < 2 else "right", overflow="fold")
    for record in report.records[-UPDATES:]:
        table.add_row(*map(escape, _cells(record, _value)))
    return Group(*parts, table, Text(where, "dim"))


def line_of(record: Record) -> str:
    """An update in one line, where there is no terminal."""
    return ", ".join(f"{head} {cell}" for head, cell in zip(HEADS, _cells(record, interval_text), strict=True))


class Dashboard:
    """Draws reports of a log as they come; what it drew is gone in the end.

    Args:
      log: its name.
      where: what else to say.
      quiet: nothing is drawn and no line is written.
    """

    def __init__(self, log: str, where: str, quiet: bool):
        self._log, self._where = log, where
        console = Console()
        self.lines = not quiet and not console.is_terminal  #: whether each update is a line
        self._live: Live | None = None
        if not quiet and console.is_terminal:
            first = drawn(None, log, where)
            self._live = Live(first, console=console, transient=True, auto_refresh=False, vertical_overflow="crop")

    def report(self, report: MonitorReport) -> None:
        """There is something new."""
        if self._live is not None:
            self._live.update(drawn(report, self._log, self._where), refresh=True)

    def record(self, record: Record) -> None:
        """An update is whole."""
        if self.lines:
            sys.stdout.write(line_of(record) + "\n")
            sys.stdout.flush()

    def __enter__(self) -> Dashboard:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
