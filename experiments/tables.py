"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["show"]


def show(title: str, heads: Sequence[str], lines: Sequence[Sequence[object]], caption: str = "") -> None:
    """Print a table; the first column is text, the others are numbers. Line breaks in title and caption count as blanks."""
    title, caption = (" ".join(text.split()) for text in (title, caption))
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right")
    for line in lines:
        table.add_row(*map(str, line))
    Console(width=130).print(table)
