"""What several questions share: their way of drawing intervals, and the tables of what was tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.figures import COLOURS
from experiments.reproduce.runs import Found
from experiments.reproduce.statistics import mean
from teamtr_jax.intervals import Interval

__all__ = ["TINT", "band", "points", "tokens_of", "rollouts_of", "thousands", "ends"]

TINT = {
    "TeamTR": COLOURS["fresh"], "naive": COLOURS["once"], "PPO": COLOURS["once"], "GRPO": COLOURS["single"],
    "DAPO": COLOURS["certificate"],
}  # fmt: skip


def band(
    ax: Any, x: ArrayLike, rows: ArrayLike, colour: str, label: str, style: str = "-", least: float = -np.inf
) -> None:
    """Mean and interval over seeds, ``rows [points, seeds]``, as a line in its band."""
    found = [mean(row) for row in np.asarray(rows, float)]
    ax.plot(x, [y.value for y in found], style, color=colour, label=label, markersize=3)
    low, high = [max(y.low, least) for y in found], [y.high for y in found]
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def points(ax: Any, found: Sequence[Interval], colours: Sequence[str] | str, names: Sequence[str]) -> None:
    """One interval a row, named on the left, the first on top."""
    for i, x in enumerate(found):
        colour = colours if isinstance(colours, str) else colours[i]
        ax.plot([x.low, x.high], [i, i], color=colour, linewidth=1)
        ax.plot(x.value, i, "o", color=colour, markersize=4)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.5, -0.5)


def tokens_of(found: Found) -> float:
    """Tokens that agents wrote in the rollouts of a run."""
    columns = found["columns"]
    return float(np.sum(np.multiply(columns["sampled.tokens"], columns["resampled"])))


def rollouts_of(found: Found) -> float:
    """Rollouts that a run collected."""
    return float(np.sum(found["columns"]["rollouts"]))


def thousands(values: ArrayLike) -> str:
    """A mean number of tokens or rollouts, in thousands."""
    return f"{np.mean(np.asarray(values, float)) / 1000:.1f}k"


def ends(found: Sequence[Found]) -> list[float]:
    """Values at the end of runs, in %."""
    return [100 * one["values"][-1] for one in found]
