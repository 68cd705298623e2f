"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from teamtr_jax.validation import shown

__all__ = ["show"]

LONGEST = 2000
"""Characters of a title or caption."""


def show(title: str, heads: Sequence[str], lines: Sequence[Sequence[object]], caption: str = "") -> None:
    """Print a table; the first column is text, the others are numbers. Line breaks in title and caption count as blanks.

    Text is printed as it is: brackets are no markup, control characters are shown as escapes.
    """
    title, caption = (shown(" ".join(text.split()), LONGEST) for text in (title, caption))
    table = Table(
        title=Text(title, "table.title"), caption=Text(caption, "table.caption") if caption else None,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for i, head in enumerate(heads):
        table.add_column(Text(shown(head)), justify="left" if i == 0 else "right")
    for line in lines:
        table.add_row(*(Text(shown(cell)) for cell in line))
    Console(width=130).print(table)
