"""S7d: agents that share parameters. S7 holds for the joint step; the KLs of increments on one batch do not bound its error."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flint
import numpy as np
from flint import arb, fmpq

from theory.constructions.sharers import Chain, count_chain, count_curvature, door_chain, even_doors
from theory.ledger import Row
from theory.studies.base import Found, Study
from theory.tiers import Tier

__all__ = ["STUDY", "SIZES", "Growth", "run"]

SIZES = (2, 4, 8, 16, 32, 64)
STEP = fmpq(1, 1000)
DOOR = fmpq(1, 1000)
PRECISION = 256


class Growth(NamedTuple):
    """Of every n: `|Σ cached|/Σ K_k` in the limit of small steps (rational) and at finite ones; the largest `|gap|/bound`."""

    coins: list[fmpq]
    counts: list[fmpq]
    doors: list[float]
    finite: list[float]
    own: list[float]
    tightest: float
    wrong: int
    checks: int


def _held(chain: Chain) -> tuple[int, int, float]:
    """S7 update by update with K over all sharers, and the sum against `K(0→n)`: violations, comparisons, largest ratio."""
    pairs = [*zip(chain.fresh, chain.increments, strict=True), (sum(chain.cached), chain.joint)]
    ratios = [float((arb(abs(gap)) / bound).mid()) for gap, bound in pairs]
    return sum(not (arb(abs(gap)) <= bound) for gap, bound in pairs), len(pairs), max(ratios)


def _ratio(chain: Chain) -> float:
    return float((arb(abs(sum(chain.cached))) / sum(chain.increments)).mid())


def growth(sizes: tuple[int, ...] = SIZES) -> Growth:
    """Coins: two messages, reward 1 if they agree, from p = ½. Counts: n messages, reward 1 for two ones or more, p = 3/(8n)."""
    half, alike = fmpq(1, 2), [fmpq(1), fmpq(0), fmpq(1)]
    coins, counts, doors, finite, own = [], [], [], [], []
    wrong = checks = 0
    tightest = 0.0
    with flint.ctx.workprec(PRECISION):
        for n in sizes:
            many = [fmpq(int(c >= 2)) for c in range(n + 1)]
            step, rare = STEP / n, fmpq(3, 8 * n)
            chains = [
                count_chain([half + k * step for k in range(n + 1)], alike),
                count_chain([rare * (1 + k * step) for k in range(n + 1)], many),
                door_chain(even_doors(n, DOOR)),
            ]
            for chain in chains:
                violated, compared, ratio = _held(chain)
                wrong, checks, tightest = wrong + violated, checks + compared, max(tightest, ratio)
            coin, _, door = chains
            coins.append(n * count_curvature(half, alike))
            counts.append(n * count_curvature(rare, many))
            wrong += (
                (coins[-1] != fmpq(n, 2))
                + (sum(coin.cached) != 2 * STEP**2)
                + sum(x != 2 * step**2 for x in coin.fresh)
            )
            checks += 2 + n
            finite.append(_ratio(coin))
            doors.append(_ratio(door))
            own.append(float((arb(n) * coin.fresh[0] / coin.increments[0]).mid()))
    return Growth(coins, counts, doors, finite, own, tightest, wrong, checks)


def run(sizes: tuple[int, ...] = SIZES) -> tuple[Row, Growth]:
    """The ledger row: the ratio is n/2 exactly for coins, and grows like n/2 behind a door; both stay below `K(0→n)`."""
    started = time.perf_counter()
    found = growth(sizes)
    last = sizes[-1]
    row = Row(
        "S7d", "sharers: |fresh_i| ≤ ϱK_i and |Σcached| ≤ ϱK(0→n), K over the messages of all; |Σcached|/ΣK_k = n/2 exactly",
        "exact; bounds enclosed", 3 * len(sizes), found.wrong, 0, found.tightest, 1 - found.tightest,
        exponent=1.0, checks=found.checks, seconds=time.perf_counter() - started,
        note=(
            f"n sharers updated one after another on one batch, n = {sizes[0]}…{last}; |Σcached|/ΣK_k at n = {last}. Coins (two "
            f"messages from p = ½, reward 1 if they agree): {found.coins[-1]} as steps go to 0, {found.finite[-1]:.4f} at a "
            f"total step of {STEP}. Counts (n messages, p = 3/(8n)): {float(arb(found.counts[-1]).mid()):.3f} as steps go to 0. "
            f"The door, opened to {DOOR}: {found.doors[-1]:.3f}. |fresh|/K with the KL of the updated agent's own messages "
            f"alone: {found.own[-1]:.3f} (coins)"
        ),
    )  # fmt: skip
    return row, found


def _job(tier: Tier, rng: np.random.Generator, lock: AbstractContextManager[Any]) -> Found:
    del rng, lock
    return Found((run(SIZES[:4] if tier.quick else SIZES)[0],))


WORDS = (
    "Where agents share parameters one update moves all: what bounds its error is the KL of all their messages since the "
    "rollouts, not a sum over updates."
)
STUDY = Study("shared parameters", {"S7d": WORDS}, _job, apart=True)
