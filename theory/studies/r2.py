"""R2, the crossover: rare coherent steps add (`TV ∝ n`) until S3 binds, well-mixed steps count (`TV ∝ √n`). Exact."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flint
import numpy as np
from flint import arb, fmpq

from teamtr_jax.exact import PRECISION
from theory.fits import local_slopes
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "Crossover", "shift_coefficient", "mean_deviation", "run"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROBABILITIES = ((1, 2), (1, 10), (1, 100), (1, 1000))


class Crossover(NamedTuple):
    """`dTV/dε` of the running count at ε = 0, ``[p, n]``, its ratio to S3, and the local exponents."""

    sizes: np.ndarray
    probabilities: np.ndarray
    coefficients: np.ndarray
    ratios: np.ndarray
    exponents: np.ndarray


def shift_coefficient(n: int, p: fmpq) -> fmpq:
    """`½ Σ_k |∂_p C(n,k) p^k (1−p)^{n−k}|`: the derivative of `TV(Bin(n, p+ε), Bin(n, p))` in ε, term by term."""
    q = 1 - p
    total = fmpq(0)
    for k in range(n + 1):
        rise = k * p ** (k - 1) * q ** (n - k) if k else fmpq(0)
        fall = (n - k) * p**k * q ** (n - k - 1) if k < n else fmpq(0)
        total += math.comb(n, k) * abs(rise - fall)
    return total / 2


def mean_deviation(n: int, p: fmpq) -> fmpq:
    """`E|X − np|`, `X ~ Bin(n, p)`, by de Moivre: `2ν C(n,ν) p^ν (1−p)^{n−ν+1}`, `ν = ⌊np⌋ + 1`."""
    nu = int((n * p).floor()) + 1
    if nu > n:  # only p = 1
        return fmpq(0)
    return 2 * nu * math.comb(n, nu) * p**nu * (1 - p) ** (n - nu + 1)


def run(sizes: tuple[int, ...] = SIZES) -> tuple[Row, Crossover]:
    """Violations: coefficients other than `E|X−np|/(2p(1−p))` or, where `np < 1`, `n(1−p)^{n−1}`; above S3's `½√(n/(p(1−p)))`."""
    started = time.perf_counter()
    wrong = checks = 0
    table, ratios = [], []
    with flint.ctx.workprec(PRECISION):
        for p in (fmpq(*pair) for pair in PROBABILITIES):
            row, ratio = [], []
            for n in sizes:
                c = shift_coefficient(n, p)
                wrong += c != mean_deviation(n, p) / (2 * p * (1 - p))
                if n * p < 1:
                    wrong, checks = wrong + (c != n * (1 - p) ** (n - 1)), checks + 1
                bound = (arb(n) / (p * (1 - p))).sqrt() / 2
                wrong += not (arb(c) <= bound)
                checks += 2
                row.append(float(arb(c).mid()))
                ratio.append(float((arb(c) / bound).mid()))
            table.append(row)
            ratios.append(ratio)
    coefficients = np.array(table)
    exponents = np.stack([local_slopes(sizes, row) for row in coefficients])
    found = Crossover(
        np.array(sizes), np.array([a / b for a, b in PROBABILITIES]), coefficients, np.array(ratios), exponents
    )
    said = "; ".join(
        f"p = {p:g}: {x[0]:.2f} first, {x[-1]:.2f} last" for p, x in zip(found.probabilities, exponents, strict=True)
    )
    row = Row(
        "R2", "running count: dTV/dε = E|X−np|/(2p(1−p)), X ~ Bin(n,p): n(1−p)^{n−1} while np < 1, then ∝ √n; at most S3",
        "exact; bounds enclosed", len(sizes) * len(PROBABILITIES), wrong, 0, float(found.ratios.max()),
        float(1 - found.ratios.max()), checks=checks, exponent=float(exponents[0, -1]),
        seconds=time.perf_counter() - started,
        note=(
            f"first order in the change ε of the probability of a step, episodic, one turn each, n = {sizes[0]}…{sizes[-1]}, "
            f"p and ε fixed as n grows. Local exponents in n: {said}. Exponent column: p = ½, n = {sizes[-2]}…{sizes[-1]}"
        ),
    )  # fmt: skip
    return row, found


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del rng, lock
    return Found((run(SIZES[:6] if tier.quick else SIZES)[0],))


WORDS = "Rare coherent steps shift a count like n; once many steps are expected, like √n."
STUDY = Study("crossover", {"R2": WORDS}, _job, apart=True)
