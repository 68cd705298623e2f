"""How the suite's figures look: drawn without a display, at most ten inches wide, no text below nine points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "LEGEND", "TEXT", "agent_axis", "panels", "save"]

COLOURS = {"fresh": "#1b7837", "stale": "#b2182b", "cached": "#7b3294"}
LEGEND, TEXT = 9.5, 9
"""Points."""


def panels(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``[rows, columns]``; `size` in inches."""
    from matplotlib.figure import Figure  # who draws nothing does not wait for it

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def agent_axis(ax: Any, sizes: Any) -> None:
    """Numbers of agents, powers of two, on a logarithmic axis."""
    from matplotlib.ticker import NullLocator

    ax.set_xticks([n for n in (2, 4, 8, 16, 32, 64, 128, 256) if n <= max(sizes)])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())


def save(figure: Figure, path: Path) -> Path:
    """Write the figure; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    return path
