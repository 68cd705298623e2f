"""U1, S5, S6: how much of the improvement of an exact KL-constrained step each rung certifies, against δ and γ."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax import programs
from teamtr_jax.bounds import BOTH, DEFAULT, Rung, ladder
from teamtr_jax.certificates import certificate_weighted
from teamtr_jax.teams import gymnasium_team, random_stages
from teamtr_jax.trust_region import certified_step
from teamtr_jax.types import StageReport, Team
from theory.figures import LEGEND, TEXT, panels, save
from theory.fits import median_interval
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "CertifiedCurves", "WEIGHTED", "run", "certified_figure"]

STATES, ACTIONS, AGENTS, BRANCHING = 12, 3, 4, 3
DISCOUNTS = (0.5, 0.9, 0.99)
RADII = 10.0 ** np.arange(-6.0, -0.9, 0.5)
GYM = (("FrozenLake", 4), ("CliffWalking", 3))
WEIGHTED = Rung(
    "S9", "certificate_weighted", "fresh", BOTH, "estimable",
    lambda report: report.surrogate_intermediate - certificate_weighted(report),
)  # fmt: skip
"""S9's one-sided penalty: it bounds the gap from below, which is the side that a certificate needs."""


class CertifiedCurves(NamedTuple):
    """Share of the improvement certified, `share[team kind][rung name]`: ``[radius, instance]``; `least`: all of them."""

    radii: np.ndarray
    shares: dict[str, dict[str, np.ndarray]]
    information: dict[str, str]
    violations: int
    checks: int


RUNGS = tuple(rung for rung in (*DEFAULT, WEIGHTED) if rung.gap == "fresh" and "discounted" in rung.forms)


def _shares(team: Team, policy: Array, radius: Array) -> tuple[dict[str, Array], Array]:
    """One step of agent 0 → `{rung: (L − penalty)/improvement}`; how many certificates exceed the improvement beyond rounding."""
    step = certified_step(team, policy, jnp.asarray(0), radius)
    report: StageReport = step.report
    lower = {name: (report.surrogate_intermediate - x)[0] for name, x in ladder(report, RUNGS).items()}
    lower["least"] = jnp.stack(list(lower.values())).max()
    budget = report.rounding.fresh[0] + 8 * report.rounding.relative * abs(report.surrogate_intermediate[0])
    better = step.improvement > budget  # an improvement within its rounding error has no share
    share = {k: jnp.where(better, x / jnp.where(better, step.improvement, 1.0), jnp.nan) for k, x in lower.items()}
    return share, (jnp.stack(list(lower.values())) > step.improvement + budget).sum()


def _shares_of_many(teams: Team, policies: Array, radii: Array) -> tuple[dict[str, Array], Array]:
    batched = jax.vmap(_shares, in_axes=(0, 0, None))
    return jax.lax.map(lambda radius: batched(teams, policies, radius), radii)


def _shares_of_one(team: Team, policy: Array, radii: Array) -> tuple[dict[str, Array], Array]:
    return jax.lax.map(lambda radius: _shares(team, policy, radius), radii)


Shares = dict[str, dict[str, np.ndarray]]


def _medians(found: Shares) -> str:
    def median(kind: str, name: str, radius: float) -> str:
        shares = found[kind][name][np.argmin(abs(RADII / radius - 1))]
        middle, low, high = median_interval(shares[np.isfinite(shares)])
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

    kinds = [f"random, γ = {gamma:g}" for gamma in (0.9, 0.99)]
    return "; ".join(
        f"{kind}, δ = {radius:g}: "
        + ", ".join(f"{name} {median(kind, key, radius)}" for name, key in (
            ("S4", "penalty_second_order"), ("S4R", "penalty_later_turns"), ("S9", "certificate_weighted"),
            ("S7", "penalty_log_sum"), ("least", "least"), ("paper", "penalty_paper")))
        for kind in kinds for radius in (1e-3, 1e-4)
    )  # fmt: skip


def _positive(found: Shares, name: str) -> str:
    shares = np.concatenate([of[name].ravel() for kind, of in found.items() if "0.5" not in kind])
    return f"{(shares > 0).sum():,} of {np.isfinite(shares).sum():,}"


def run(
    instances: int = 200,
    rng: np.random.Generator | None = None,
    gym: tuple[tuple[str, int], ...] = GYM,
    lock: AbstractContextManager[Any] | None = None,
) -> tuple[Row, CertifiedCurves]:
    """Random teams (one update of agent 0 from a random policy) and Gymnasium teams (from the uniform policy)."""
    started = time.perf_counter()
    rng = rng or np.random.default_rng(0)
    batch = len(DISCOUNTS) * instances
    stages = random_stages(
        rng, batch, STATES, ACTIONS, AGENTS, discount=np.repeat(DISCOUNTS, instances), branching=BRANCHING
    )
    found: Shares = {}
    wrong = checks = 0

    def book(names: list[str], out: tuple[dict[str, Array], Array], columns: int) -> None:
        nonlocal wrong, checks
        share, exceeding = out
        wrong += int(exceeding.sum())
        checks += sum(x.size for x in share.values())
        for k, name in enumerate(names):
            found[name] = {key: np.asarray(x).reshape(len(RADII), -1, columns)[:, k] for key, x in share.items()}

    with lock or nullcontext():
        out = jax.device_get(programs.run(_shares_of_many, stages.team, stages.current, RADII))
    book([f"random, γ = {gamma:g}" for gamma in DISCOUNTS], out, instances)
    for environment, agents in gym:
        team = gymnasium_team(environment, agents, discount=0.9, drop_time_limit=True)
        states, actions = team.reward.shape
        policy = jnp.full((states, actions), 1 / actions)
        with lock or nullcontext():
            out = jax.device_get(programs.run(_shares_of_one, team, policy, RADII, quick=True))
        book([f"{environment} × {agents}, γ = 0.9"], out, 1)

    curves = CertifiedCurves(
        RADII, found, {r.name: r.information for r in RUNGS} | {"least": "oracle"}, wrong, checks
    )  # fmt: skip

    row = Row(
        "U1", "exact KL-constrained steps: what each rung certifies of the true improvement", "float",
        batch * len(RADII) + len(gym) * len(RADII), wrong, 0, None, None, seconds=time.perf_counter() - started,
        checks=checks,
        note=(
            f"Garnet S = {STATES}, A = {ACTIONS}, n = {AGENTS}, {instances} teams for each γ, one update at the exact radius δ; "
            f"median certified share [95 % of the median, order statistics]: {_medians(found)}. "
            f"Positive certificates at γ ≥ 0.9, of the steps with an improvement, the same teams at {len(RADII)} "
            f"radii: paper {_positive(found, 'penalty_paper')}, S2 "
            f"{_positive(found, 'penalty_path')}, least rung {_positive(found, 'least')}"
        ),
    )  # fmt: skip
    return row, curves


BOTTOM = -0.3
STYLE = {
    "penalty_paper": ("P3.4, the paper", "#b2182b", ":"),
    "penalty_path": ("S2 path (oracle)", "#ef8a62", "--"),
    "penalty_second_order": ("S4 second order (oracle)", "#67a9cf", "--"),
    "penalty_later_turns": ("S4R later turns (oracle)", "#2166ac", "--"),
    "penalty_log_sum": ("S7 log-sum (estimable)", "#5aae61", "-"),
    "certificate_weighted": ("S9 value-weighted (estimable)", "#1b7837", "-"),
}


def certified_figure(curves: CertifiedCurves, path: Path) -> Path:
    """Median and quartiles of the certified share against the radius, a panel for each kind of team."""
    rows = -(-len(curves.shares) // 2)
    figure, axes = panels(rows, 2, (9.6, 3.6 * rows + 1.2), sharex=True, sharey=True)
    for ax in axes.ravel()[len(curves.shares) :]:
        ax.axis("off")
    for ax, (kind, shares) in zip(axes.ravel(), curves.shares.items(), strict=False):
        below = []
        for name, (label, colour, line) in STYLE.items():
            low, middle, high = np.nanquantile(shares[name], [0.25, 0.5, 0.75], axis=-1)
            if middle.max() < BOTTOM:
                below.append(f"{label.split()[0].rstrip(',')} (at most {middle.max():.0f})")
            ax.semilogx(curves.radii, np.maximum(middle, 3 * BOTTOM), line, color=colour, label=label)
            ax.fill_between(curves.radii, *np.maximum([low, high], 3 * BOTTOM), color=colour, alpha=0.1)
        ax.axhline(0, lw=0.7, color="grey")
        ax.set(title=kind, ylim=(BOTTOM, 1.03))
        if below:
            ax.text(0.02, 0.03, "below the panel: " + ", ".join(below), transform=ax.transAxes, fontsize=TEXT)
    figure.supxlabel("δ = E$_d$ KL(current‖new)")
    figure.supylabel("certified share of the true improvement (median, quartiles)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=LEGEND, ncols=2, loc="outside upper center")
    return save(figure, path)


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    if tier.quick:
        return Found()
    row, curves = run(100, rng, GYM if tier.thorough else GYM[:1], lock=lock)
    return Found((row,), {"certified.png": partial(certified_figure, curves)})


WORDS = "How much of the true improvement of an exact step each certificate certifies."
STUDY = Study("certified shares", {"U1": WORDS}, _job, figures={"certified.png": ("U1", "S4", "S5", "S6", "S9")})
