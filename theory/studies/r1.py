"""R1, the coherent relay: a team in which the stale gap carries one more power of n than the fresh gap."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np

from teamtr_jax import programs
from teamtr_jax.bounds import penalty_cached_log_sum, stage_chi_square
from teamtr_jax.surrogates import stage_report
from teamtr_jax.teams import relay_stage
from theory.constructions.relay import Leading, leading_coefficients
from theory.fits import Slope, local_slopes, log_slope
from theory.ledger import Row

__all__ = ["RelayCurves", "run", "curves", "SIZES", "STEPS"]

SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
STEPS = (1e-5, 1e-3, 1e-2)
FITTED = 0  # index into STEPS of the curve whose slope goes into the ledger


class RelayCurves(NamedTuple):
    """Stage sums of absolute gaps, ``[step, size]``, and the exact leading coefficients."""

    sizes: np.ndarray
    steps: np.ndarray
    gaps: dict[str, np.ndarray]
    bounds: dict[str, np.ndarray]  #: ``signed``: `Σ cached gap`; ``S10``, ``S7c``: what bounds its absolute value
    leading: list[Leading]
    slopes: dict[str, Slope]
    wrong: int


def _stage_sums(slots: int, sizes: jax.Array, steps: jax.Array) -> dict[str, jax.Array]:
    """Stage sums of the absolute gaps of relays, one after the other; the signed cached sum and two bounds on it."""

    def of(relay: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        n, p = relay
        report = stage_report(relay_stage(n, p, p, slots))
        gaps = {"fresh": report.gap_fresh, "stale": report.gap_stale, "cached": report.gap_cached}
        bounds = {
            "signed": report.gap_cached.sum(),
            "S10": stage_chi_square(report),
            "S7c": penalty_cached_log_sum(report)[-1],
        }
        return {name: abs(gap).sum() for name, gap in gaps.items()} | bounds

    return jax.lax.map(of, (sizes, steps))


def curves(sizes: tuple[int, ...] = SIZES, steps: tuple[float, ...] = STEPS) -> RelayCurves:
    """Exact coefficients for every n, and the finite-step gaps by the float64 core, all sizes in one program."""
    grid = [(n, p) for p in steps for n in sizes]
    counts, chances = np.array([n for n, _ in grid]), np.array([p for _, p in grid])
    found = programs.run(_stage_sums, counts, chances, static=(max(sizes),), quick=True)
    gaps = {name: np.asarray(gap).reshape(len(steps), len(sizes)) for name, gap in found.items()}
    bounds = {name: gaps.pop(name) for name in ("signed", "S10", "S7c")}
    leading = [leading_coefficients(n) for n in sizes]
    wrong = sum(
        (exact.fresh != n) + (2 * exact.stale != 3 * n * n - n) + (exact.squared_share != 1 - Fraction(1, 2 * n))
        for n, exact in zip(sizes, leading, strict=True)
    )
    slopes = {name: log_slope(sizes, gap[FITTED]) for name, gap in gaps.items()}
    return RelayCurves(np.array(sizes), np.array(steps), gaps, bounds, leading, slopes, wrong)


def run(sizes: tuple[int, ...] = SIZES) -> tuple[Row, RelayCurves]:
    """The ledger row: exact coefficients n and (3n²−n)/2; the exponent is the stale slope at the smallest step."""
    started = time.perf_counter()
    found = curves(sizes)
    bends = {step: local_slopes(found.sizes, gap) for step, gap in zip(STEPS, found.gaps["stale"], strict=True)}
    bent = "; ".join(
        f"at {step:g} it is {b[0]:.2f} first, {b.min():.2f} at the least (n = {sizes[b.argmin()]}…{sizes[b.argmin() + 1]})"
        for step, b in bends.items()
    )
    slopes = ", ".join(f"{name} {s.slope:.3f} [{s.low:.3f}, {s.high:.3f}]" for name, s in found.slopes.items())
    stale = found.slopes["stale"]
    share = found.bounds["signed"][FITTED] / found.bounds["S10"][FITTED]
    far = found.bounds["S7c"][FITTED] / found.bounds["signed"][FITTED]
    row = Row(
        "R1", "coherent relay, p = ε → 0, exactly: Σ|fresh|/ε² = n, Σ|stale|/ε² = (3n²−n)/2, Σ cached/S10 = √(1−1/(2n))", "exact",
        len(sizes), found.wrong, 0, None, 1.0 / max(2 * x.stale for x in found.leading),
        exponent=stale.slope, interval=(stale.low, stale.high), seconds=time.perf_counter() - started,
        checks=3 * len(sizes),
        note=(
            f"coefficients exact (integers) for n = {sizes[0]}…{sizes[-1]}; slopes at p = ε = {STEPS[FITTED]:g} per message, "
            f"episode 2n turns, ϱ = 1, n = {sizes[0]}…{sizes[-1]}: {slopes}. Where the local stale slope bends "
            f"(2n·p no longer small): {bent}. Signed cached sum over S10's bound "
            f"{share[0]:.3f} at n = {sizes[0]}, {share[-1]:.4f} at n = {sizes[-1]} (limits √(1−1/(2n)), exact); S7c's is "
            f"{far.min():.0f} to {far.max():.0f} times the sum. The paper quotes fresh 1.07, stale 1.94 at n ≤ 8"
        ),
    )  # fmt: skip
    return row, found
