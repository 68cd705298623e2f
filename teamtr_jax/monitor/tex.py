"""The tables of a report as LaTeX, for a paper."""

from __future__ import annotations

from pathlib import Path

from teamtr_jax.files import replacing
from teamtr_jax.latex import preamble, table
from teamtr_jax.monitor.report import MonitorReport
from teamtr_jax.monitor.terminal import tables
from teamtr_jax.validation import shown

__all__ = ["latex_tables", "write_latex"]


def latex_tables(report: MonitorReport, name: str) -> str:
    r"""The tables that the terminal has, every row of them; ``\input`` it, with the preamble that its first line says.

    Args:
      name: of the log, for a comment.
    """
    head = f"% {shown(name)}: teamtr monitor. Preamble: {preamble()}\n"
    return head + "\n".join(table(title, heads, rows, caption) for title, heads, rows, caption in tables(report))


def write_latex(report: MonitorReport, path: Path, name: str) -> Path:
    """Write them, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(latex_tables(report, name), encoding="utf-8")
    return path
