"""What the figures of the studies share. Figures are drawn from saved records only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from teamtr_jax.files import replacing
from teamtr_jax.intervals import Interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["COLOURS", "REPLACED", "PAPER", "axes", "interval_points", "save"]

COLOURS = {"fresh": "#1b7837", "once": "#b2182b", "joint": "#7b3294", "certificate": "#2166ac", "single": "#8c510a"}
REPLACED = {
    "no replacement": "0.5",
    "direct": COLOURS["once"],
    "aligned": COLOURS["fresh"],
    "from scratch": COLOURS["single"],
}
"""How an agent of a trained team is replaced: the conditions, each in its colour."""
PAPER = {"color": "0.6", "marker": "s", "linestyle": ":", "label": "the paper (8–32B models)"}
"""How figures of the paper are marked beside ours."""


def axes(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, without the frame's upper and right side."""
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, grid


def interval_points(ax: Any, found: Sequence[Interval], colour: str = "#1b7837") -> None:
    """One statistic a row, with its interval."""
    for i, x in enumerate(found):
        ax.plot([x.low, x.high], [i, i], color=colour, linewidth=1)
        ax.plot(x.value, i, "o", color=colour, markersize=4)


def save(figure: Any, path: Path) -> Path:
    """Write the figure, whole or not at all, and close it.

    Raises:
      InputError: a place that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=160, format=path.suffix.removeprefix("."))
    finally:
        plt.close(figure)
    return path
