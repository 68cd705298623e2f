"""R4, one more power of n? What stage staleness costs beside stage freshness, from the interaction matrix.

    Σ_i stale_i / Σ_i fresh_i → 1 + Σ_{k<i} M[k,i] / tr M          (signed sums, small steps; `M` to leading order)
    Σ_i|stale_i| / Σ_i|fresh_i| → Σ_i|Σ_{k≤i} M[k,i]| / Σ_i|M[i,i]|

The second equals the first where no sign changes. Whether the ratio grows with n is a property of the family: with one turn each
it is 0/0 or infinite, with interaction of bounded range it is bounded, in the coherent relay it is `(3n−1)/2`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flint import fmpq

from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.teams import random_stages
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import unchecked
from theory.families import take
from theory.fits import Slope, log_slope
from theory.ledger import Row
from theory.studies.r5 import coherent_relay, expand

__all__ = ["OnePower", "run", "windowed_relay", "leading_sums", "reversed_order", "SIZES", "RANGES"]

SIZES = (2, 3, 4, 6, 8)
RANGES = (1, 2)


class OnePower(NamedTuple):
    """Leading coefficients of the stage sums of |gap|, exact; ``sums[family] = [(n, fresh, stale, cached), …]``."""

    sums: dict[str, list[tuple[int, int, int, int]]]
    slopes: dict[str, dict[str, Slope]]
    random_teams: int
    signed_wrong: int
    unsigned_differs: int  #: random teams in which the ratio of absolute sums has another limit than the signed one


def windowed_relay(n: int, reach: int, probability: float, step: float) -> Stage:
    """A relay whose memory has a bounded range: agent k shifts the context of the agents k … k+reach and of nobody else.

    Agent k speaks at times 2k and 2k+1. The context is the age of the last mark: 0 (none), 1 … reach+1. At 2k agent k earns 1 for
    acting on a mark of age 1 … reach left by the agents before it, and acting leaves a mark of its own (age 1); at 2k+1
    it earns 1 for acting on its own mark. It acts with probability p, updated to p+ε. `reach = n−1`: every earlier agent counts.
    """
    contexts, horizon = reach + 2, 2 * n
    move = np.zeros((horizon, contexts, 2, contexts))
    older = np.array([0, *range(2, reach + 2), 0])
    for x in range(contexts):
        move[0::2, x, 0, older[x]] = move[0::2, x, 1, 1] = 1.0
        move[1::2, x, :, x] = 1.0
    reward = np.zeros((horizon, contexts, 2))
    reward[0::2, 1 : reach + 1, 1] = 1.0
    reward[1::2, 1, 1] = 1.0
    initial = np.zeros(horizon * contexts)
    initial[0] = 1.0
    rows = np.broadcast_to([1.0, 0.0], (horizon * contexts, 2)) + probability * np.array([-1.0, 1.0])
    team = Team(
        Layered(Dense(jnp.asarray(move), None), horizon, stationary=False),
        jnp.asarray(reward.reshape(-1, 2)),
        jnp.asarray(initial),
        jnp.asarray(np.repeat(np.arange(horizon) // 2, contexts)),
        n,
    )
    return Stage(team, jnp.asarray(rows), jnp.asarray(rows + step * np.array([-1.0, 1.0])), jnp.asarray(np.arange(n)))


def reversed_order(stage: Stage) -> Stage:
    """The same stage, last agent first."""
    with unchecked():  # what is there has been checked, or is formal
        return Stage(stage.team, stage.current, stage.target, jnp.asarray(np.asarray(stage.order)[::-1]))


def leading_sums(stage: Stage, base: np.ndarray | None = None) -> dict[str, Any]:
    """t² coefficients: stage sums of |gap|, the signed ones, `tr M` and `Σ_{k<i} M[k,i]`; `other`: all other powers of fresh."""
    x = expand(stage, 4, base)
    second = {"fresh": x.fresh[:, 2], "stale": x.stale[:, 2], "cached": x.cached[:, 2]}
    n = len(x.fresh)
    return {
        **{name: sum((abs(c) for c in gap), fmpq(0)) for name, gap in second.items()},
        **{f"signed {name}": sum(gap, fmpq(0)) for name, gap in second.items()},
        "trace": sum((x.matrix[i, i, 2] for i in range(n)), fmpq(0)),
        "above": sum((x.matrix[k, i, 2] for i in range(n) for k in range(i)), fmpq(0)),
        "zero": {
            name: all(c == 0 for c in gap.ravel()) for name, gap in zip(x._fields[:3], x[:3], strict=True)
        },  # all powers up to t³
    }


def _rare(stage: Stage) -> np.ndarray:
    """The policy of a relay in which nobody acts: p = ε = t start from it."""
    return np.tile([1.0, 0.0], (stage.current.shape[0], 1))


def _pairs(reach: int | None, n: int) -> int:
    """Pairs of agents at most `reach` apart; all of them if `None`."""
    return sum(min(i, n if reach is None else reach) for i in range(n))


def _windowed(reach: int | None, n: int) -> Stage:
    with unchecked():  # as in `coherent_relay`: the rows are coefficients
        return windowed_relay(n, n - 1 if reach is None else reach, 1.0, 1.0)


def run(sizes: tuple[int, ...], rng: np.random.Generator, teams: int = 20) -> tuple[Row, OnePower]:
    """The ledger row: violations are exact coefficients that differ from the stated ones. `sizes`: see `SIZES`."""
    started = time.perf_counter()
    families: dict[str, Any] = {
        "coherent relay": (lambda n: coherent_relay(n)[0], lambda n: (n, (3 * n * n - n) // 2, 2 * n * n - n)),
        "one turn each": (
            lambda n: coherent_relay(n, 1)[0], lambda n: (0, n * (n - 1) // 2, n * (n - 1) // 2)
        ),
        "one turn each, reversed": (
            lambda n: reversed_order(coherent_relay(n, 1)[0]), lambda n: (0, 0, n * (n - 1) // 2)
        ),
    }  # fmt: skip
    for reach in (*RANGES, None):
        name = "range n−1" if reach is None else f"range {reach}"
        pairs, make = partial(_pairs, reach), partial(_windowed, reach)
        families[name] = (make, lambda n, pairs=pairs: (n, n + pairs(n), n + pairs(n)))
        families[f"{name}, reversed"] = (
            lambda n, make=make: reversed_order(make(n)),
            lambda n, pairs=pairs: (n, n, n + pairs(n)),
        )

    wrong = checks = 0
    sums: dict[str, list[tuple[int, int, int, int]]] = {}
    for name, (make, stated) in families.items():
        sums[name] = []
        for n in sizes:
            stage = make(n)
            found = leading_sums(stage, _rare(stage))
            gaps = tuple(int(found[kind].p) if found[kind].q == 1 else -1 for kind in ("fresh", "stale", "cached"))
            sums[name].append((n, gaps[0], gaps[1], gaps[2]))
            wrong += sum(a != b for a, b in zip(gaps, stated(n), strict=True))
            checks += 3
            for kind, gap in zip(("fresh", "stale", "cached"), stated(n), strict=True):
                if gap == 0:  # nothing at all, in every power
                    wrong, checks = wrong + (not found["zero"][kind]), checks + 1

    signed_wrong = differs = 0
    shape: dict[str, Any] = {"states": 4, "actions": 2, "agents": 3}
    stages = random_stages(rng, teams, **shape, discount=0.9, step=0.5, branching=2)
    for b in range(teams):
        found = leading_sums(take(stages, b))
        signed_wrong += found["signed stale"] != found["trace"] + found["above"]
        signed_wrong += found["signed fresh"] != found["trace"]
        differs += found["stale"] * abs(found["signed fresh"]) != abs(found["signed stale"]) * found["fresh"]
    checks += 2 * teams

    slopes = {
        name: {
            kind: log_slope([x[0] for x in rows[1:]], [x[1 + k] for x in rows[1:]])
            for k, kind in enumerate(("fresh", "stale", "cached"))
            if all(x[1 + k] for x in rows[1:])
        }
        for name, rows in sums.items()
    }
    bounded = slopes["range 1"]["stale"]
    largest = {name: rows[-1] for name, rows in sums.items()}
    text = "; ".join(f"{name}: {x[1]}, {x[2]}, {x[3]}" for name, x in largest.items())
    row = Row(
        "R4", "Σstale/Σfresh → 1 + Σ_{k<i} M[k,i]/tr M (signed sums, small steps); one more power of n is not a law: none with "
        "bounded range, infinite ratio with one turn each, 0/0 there in reversed order", "exact",
        len(sizes) * len(families) + teams, wrong + signed_wrong, 0, None, 1.0 / max(max(x[1:]) for x in largest.values()),
        exponent=bounded.slope, interval=(bounded.low, bounded.high), seconds=time.perf_counter() - started, checks=checks,
        note=(
            f"exact t² coefficients (p = ε = t per message) of Σ|fresh|, Σ|stale|, Σ|cached|, n = {sizes[0]}…{sizes[-1]}; "
            f"at n = {sizes[-1]}: {text}. {teams} random teams: the signed ratio has the stated limit in all but {signed_wrong}, "
            f"the ratio of absolute sums has another in {differs}. Exponent column: stale, range 1 (2n−1 exactly), fitted on "
            f"n = {sizes[1]}…{sizes[-1]}; with range n−1 it is {slopes['range n−1']['stale'].slope:.2f} on the same window"
        ),
    )  # fmt: skip
    return row, OnePower(sums, slopes, teams, signed_wrong, differs)
