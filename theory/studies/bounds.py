"""Every bound against the gap that it bounds, on random stages: a figure for S0, P3.4, S4R and S7."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from teamtr_jax import programs
from teamtr_jax.bounds import penalty_later_turns, penalty_log_sum, penalty_paper, penalty_trivial
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage
from theory.families import FAMILIES
from theory.figures import LEGEND, panels, save
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "Cloud", "bound_figure"]

STAGES = 2_000
SHOWN = {
    "P3.4, the paper: c√δ": (penalty_paper, "#b2182b"),
    "S0, trivial": (penalty_trivial, "#888888"),
    "S7, log-sum: ϱδ": (penalty_log_sum, "#1b7837"),
    "S4R, later turns": (penalty_later_turns, "#2166ac"),
}


class Cloud(NamedTuple):
    """Updates whose fresh gap float64 can tell from 0, ``[update]``."""

    gap: np.ndarray
    penalties: dict[str, np.ndarray]  #: by the names of `SHOWN`
    below: int  #: updates with a gap within its rounding budget, left out
    zero: int  #: updates with no gap at all, left out


def _numbers(stages: Stage) -> tuple[Array, ...]:
    """The fresh gaps, their budgets and their bounds, ``[B, n]`` each."""

    def of(stage: Stage) -> tuple[Array, ...]:
        report = stage_report(stage)
        return abs(report.gap_fresh), report.rounding.fresh, *(penalty(report) for penalty, _ in SHOWN.values())

    return jax.vmap(of)(stages)


def cloud(rng: np.random.Generator, lock: AbstractContextManager[Any], stages: int = STAGES) -> Cloud:
    """The first family of the audit."""
    made = FAMILIES[0].make(rng, stages)
    with lock:
        gap, budget, *penalties = (np.asarray(x).ravel() for x in programs.run(_numbers, made, quick=True))
    sure = gap > budget
    kept = dict(zip(SHOWN, (x[sure] for x in penalties), strict=True))
    return Cloud(gap[sure], kept, int((~sure & (gap > 0)).sum()), int((gap == 0).sum()))


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del tier
    return Found(draws={"bounds.png": partial(bound_figure, cloud(rng, lock))})


STUDY = Study("bounds", {"S0": "", "P3.4": "", "S7": ""}, _job, figures={"bounds.png": ("S0", "P3.4", "S7")})


def bound_figure(found: Cloud, path: Path) -> Path:
    """A panel for each bound, the gap against it: nothing may lie above the diagonal. Rounding is cut, and counted."""
    figure, axes = panels(2, 2, (9, 8.4), sharex=True, sharey=True)
    low = 10.0 ** np.floor(np.log10(found.gap.min()))
    top = max(np.max(x[np.isfinite(x)]) for x in found.penalties.values())
    for ax, (name, penalty) in zip(axes.ravel(), found.penalties.items(), strict=True):
        keep = np.isfinite(penalty)
        ax.loglog(penalty[keep], found.gap[keep], ".", ms=2, alpha=0.4, color=SHOWN[name][1], rasterized=True)
        ax.loglog([low, top], [low, top], "k-", lw=0.8)
        share = np.median(found.gap[keep] / penalty[keep])
        ax.set(title=f"{name}\nmedian of gap/bound {share:.2g}", xlim=(low, top), ylim=(low, top))
    for ax in axes[-1]:
        ax.set_xlabel("bound on |fresh gapᵢ|")
    for ax in axes[:, 0]:
        ax.set_ylabel("|fresh gapᵢ| (float64)")
    figure.suptitle(
        f"Bound against gap, {len(found.gap):,} updates of random turn-taking teams (family small); line: gap = bound.\n"
        f"Left out: {found.below:,} gaps within their rounding budget, {found.zero:,} that are 0.",
        fontsize=LEGEND + 1,
    )  # fmt: skip
    return save(figure, path)
