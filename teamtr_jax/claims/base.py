"""What a claim is, and how a float verdict is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from teamtr_jax.bounds import BOTH, Form, Rung
from teamtr_jax.dynamics import after
from teamtr_jax.types import Stage, StageReport

__all__ = ["Check", "Claim", "Verdicts", "Judged", "checks", "judge", "judged", "rung_claim"]


class Check(NamedTuple):
    """Instances of `measured ≤ bound`, each with the rounding that float64 may have done to their difference.

    An identity is `|left − right| ≤ 0`; its `scale` is the size of either side, so that a relative error can be stated.
    """

    measured: Float[Array, "..."]
    bound: Float[Array, "..."]
    budget: Float[Array, "..."]
    scale: Float[Array, "..."] | None = None  #: identities only


class Claim(NamedTuple):
    """One statement of theory/derivations/statements.md about a stage. `check(stage, report)` returns named checks."""

    id: str
    statement: str
    source: str  #: where the paper, or who, states it
    check: Callable[[Stage, StageReport], dict[str, Check]]
    forms: tuple[Form, ...] = BOTH
    tight: str = ""  #: whether and where equality is reached
    words: str = ""  #: the statement as a sentence without symbols that need a page


def checks(claims: Iterable[Claim], stage: Stage, report: Any) -> dict[Claim, dict[str, Check]]:
    """The checks of every claim that applies to a stage, as one chain of LAPACK calls (see teamtr_jax/dynamics/_linear.py).

    A claim may solve for visits of its own: it is given policies that are ready once the claims before it are checked.

    Args:
      report: `stage_report(stage)`, or what the claims need of it.
    """
    form: Form = "episodic" if report.episodic else "discounted"
    found: dict[Claim, dict[str, Check]] = {}
    for claim in claims:
        if form in claim.forms:
            found[claim] = claim.check(stage, report)
            done = sum((_finite(check.measured) for check in found[claim].values()), jnp.zeros(()))
            stage = replace(stage, current=after(stage.current, done), target=after(stage.target, done))
    return found


def _finite(x: Array) -> Array:
    """Something finite that is computed from `x`."""
    first = jnp.asarray(x).ravel()[0]
    return jnp.where(jnp.isfinite(first), first, 0.0)


class Verdicts(NamedTuple):
    """Float verdicts on the instances of a check. None of the first three: holds."""

    violated: Bool[Array, "..."]
    inconclusive: Bool[Array, "..."]
    trivial: Bool[Array, "..."]  #: both sides are exactly 0.0: holds, and says nothing about any constant
    ratio: Float[Array, "..."]  #: measured/bound; 0 where both vanish, where the bound is infinite, and for identities
    slack: Float[
        Array, "..."
    ]  #: smallest relative error of the bound (of either side, for an identity) that would be caught


class Judged(NamedTuple):
    """What a table of verdicts needs to know of a check."""

    violated: Bool[Array, "..."]
    inconclusive: Bool[Array, "..."]
    ratio: Float[Array, "..."]
    unknown: Bool[Array, "..."]  #: NaN in what is measured, in the bound, in its budget or in the scale
    identity: Bool[Array, ""] | None  #: `None` for an inequality


def judge(check: Check) -> Verdicts:
    """Compare with the rounding budget on both sides of the bound: violated, inconclusive or (neither) holds."""
    measured, bound, budget = jnp.broadcast_arrays(check.measured, check.bound, check.budget)
    if check.scale is not None:
        wrong = measured > bound + budget
        scale = jnp.broadcast_to(check.scale, measured.shape)
        slack = jnp.where(scale > 0, (budget + measured) / jnp.where(scale > 0, scale, 1.0), jnp.inf)
        broken = wrong | jnp.isnan(measured + bound + budget)
        return Verdicts(broken, jnp.zeros_like(wrong), (measured == 0) & (scale == 0), jnp.zeros_like(measured), slack)
    open_bound = jnp.isposinf(bound)
    violated = ~open_bound & (measured - budget > bound)
    trivial = (measured == 0) & (bound == 0)
    inconclusive = ~open_bound & ~violated & ~trivial & (measured + budget > bound)
    usable = (bound > 0) & ~open_bound
    ratio = jnp.where(usable, measured / jnp.where(usable, bound, 1.0), jnp.where(violated, jnp.inf, 0.0))
    broken = jnp.isnan(measured) | jnp.isnan(bound) | (jnp.isnan(budget) & ~open_bound)
    sure = jnp.where(usable, (measured - budget) / jnp.where(usable, bound, 1.0), 0.0)  # caught beyond rounding only
    return Verdicts((violated & ~trivial) | broken, inconclusive & ~broken, trivial, ratio, 1 - jnp.maximum(sure, 0.0))


def judged(check: Check) -> Judged:
    """The verdicts on a check, and where it is none because a number could not be computed."""
    verdicts = judge(check)
    unknown = jnp.zeros_like(verdicts.violated)
    for part in check:
        if part is not None:
            unknown |= jnp.isnan(part)
    identity = None if check.scale is None else jnp.asarray(True)
    return Judged(verdicts.violated, verdicts.inconclusive, verdicts.ratio, unknown, identity)


def rung_claim(rung: Rung) -> Claim:
    """A rung as a claim: `|gap| ≤ penalty` for every update, with the rounding budget of that gap. Its id is the rung's name."""

    def check(stage: Stage, report: StageReport) -> dict[str, Check]:
        del stage
        gap = getattr(report, f"gap_{rung.gap}")
        return {"": Check(abs(gap), rung.fn(report), getattr(report.rounding, rung.gap))}

    words = f"The {rung.gap} gap of an update is at most {rung.name}."
    return Claim(rung.name, f"|{rung.gap} gap_i| ≤ {rung.name}", rung.id, check, rung.forms, words=words)
