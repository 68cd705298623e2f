"""The ladder: rungs by id and name, each an upper bound on `|gap_i|` of every update of a stage.

A rung says which gap it bounds, in which form of team it holds, and who can print it:

* ``oracle``: needs a supremum over states or exact tables,
* ``prior``: needs only declared ranges (of the reward, of a per-state radius) and monitored averages,
* ``estimable``: needs rollouts, and then carries a confidence.

`ladder(report, rungs=DEFAULT)` evaluates all that apply; a reader's own `Rung` is passed in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.divergences import exclusive_sum
from teamtr_jax.types import StageReport
from teamtr_jax.validation import InputError

__all__ = [
    "Rung",
    "ladder",
    "DEFAULT",
    "paper_constant",
    "penalty_drift_paper",
    "penalty_log_sum",
    "penalty_paper",
    "penalty_stale_paper",
    "penalty_trivial",
    "zero_times",
    "BOTH",
    "Form",
]

Form = Literal["discounted", "episodic"]


class Rung(NamedTuple):
    """One bound on one gap. `fn(report)` returns ``[n]``, in units of the return; it may be infinite, never NaN."""

    id: str
    name: str  #: the key it is printed under
    gap: Literal["fresh", "stale", "cached"]
    forms: tuple[Form, ...]
    information: Literal["oracle", "prior", "estimable"]
    fn: Callable[[StageReport], Float[Array, " n"]]


def zero_times(x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x·y` with `0·∞ = 0`."""
    return jnp.where((x == 0) | (y == 0), 0.0, x * y)


def paper_constant(report: StageReport) -> Float[Array, " n"]:
    """`c_i = √2·γ·A_max,i/(1−γ)²` of a discounted team (P3.3)."""
    return jnp.sqrt(2.0) * report.discount * report.advantage_max / (1 - report.discount) ** 2


def penalty_paper(report: StageReport) -> Float[Array, " n"]:
    """P3.4: discounted `c_i √δ_i`; episodic (E1, the paper's form) `2A_max Σ_t min(1, Σ_{u<t} √(κ_u/2))`."""
    if report.layer_kl is None:
        return zero_times(paper_constant(report), jnp.sqrt(report.kl))
    shift = jnp.minimum(1.0, exclusive_sum(jnp.sqrt(report.layer_kl / 2)))
    return 2 * report.advantage_max * shift.sum(-1)


def penalty_stale_paper(report: StageReport) -> Float[Array, " n"]:
    """P3.7: discounted `c_i Σ_{k≤i} √δ_k` with the `A_max` of update i; episodic with `Σ_{k≤i}` inside the minimum."""
    return _drift_penalty(report, inclusive=True)


def penalty_drift_paper(report: StageReport) -> Float[Array, " n"]:
    """P3.3: the same sums over `k < i`, a bound on `|L_i^seq − L_i^stale|`."""
    return _drift_penalty(report, inclusive=False)


def _drift_penalty(report: StageReport, inclusive: bool) -> Float[Array, " n"]:
    def sums(x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        through = jnp.cumsum(x, 0)
        return through if inclusive else jnp.concatenate([jnp.zeros_like(x[:1]), through[:-1]])

    if report.layer_kl is None:
        return zero_times(paper_constant(report), sums(jnp.sqrt(report.kl)))
    shift = jnp.minimum(1.0, sums(exclusive_sum(jnp.sqrt(report.layer_kl / 2))))
    return 2 * report.advantage_max * shift.sum(-1)


def penalty_trivial(report: StageReport) -> Float[Array, " n"]:
    """S0: `Σm · span(g_i)`; bounds the fresh and the stale gap, no rung may be worse.

    Where an update changes how long episodes last, the end of the episode counts as a state with `g = 0`, and `Σm` is that of
    the longest: only then are the visits that S0 compares measures of equal mass.
    """
    mass, g = report.visits.sum(-1), report.conditional
    longest = mass.max(-1)
    uneven = longest - mass.min(-1) > 1e-9 * longest
    span = jnp.where(uneven, jnp.maximum(g.max(-1), 0.0) - jnp.minimum(g.min(-1), 0.0), report.span_g)
    return jnp.where(uneven, longest, report.mass) * span


def penalty_log_sum(report: StageReport) -> Float[Array, " n"]:
    """S7: discounted `span(r)·δ_i/(1−γ)²`, episodic `ϱ·δ_i^ep`: linear in the monitored KL."""
    if report.layer_kl is None:
        return zero_times(report.reward_span / (1 - report.discount) ** 2 * jnp.ones_like(report.kl), report.kl)
    return zero_times(report.return_range * jnp.ones_like(report.kl), report.kl)


BOTH: tuple[Form, ...] = ("discounted", "episodic")

DEFAULT: tuple[Rung, ...] = (
    Rung("S0", "penalty_trivial", "fresh", BOTH, "oracle", penalty_trivial),
    Rung("S0", "penalty_stale_trivial", "stale", BOTH, "oracle", penalty_trivial),
    Rung("P3.4", "penalty_paper", "fresh", BOTH, "oracle", penalty_paper),
    Rung("P3.7", "penalty_stale_paper", "stale", BOTH, "oracle", penalty_stale_paper),
    Rung("S7", "penalty_log_sum", "fresh", BOTH, "estimable", penalty_log_sum),
)


def ladder(report: StageReport, rungs: Sequence[Rung] = DEFAULT) -> dict[str, Float[Array, " n"]]:
    """`{name: penalty [n]}` for every rung that holds in the form of this stage.

    Raises:
      InputError: if two rungs share a name, or a rung returns another shape than ``[n]``.
    """
    form = "episodic" if report.episodic else "discounted"
    out: dict[str, Array] = {}
    for rung in rungs:
        if form not in rung.forms:
            continue
        if rung.name in out:
            raise InputError("rungs", f"two rungs named {rung.name}", "one name for each")
        penalty = rung.fn(report)
        if penalty.shape != report.gap_fresh.shape:
            shape = list(report.gap_fresh.shape)
            raise InputError(f"rung {rung.name}", f"shape {list(penalty.shape)}", f"shape {shape}, one for each update")
        out[rung.name] = penalty
    return out
