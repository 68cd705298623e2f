"""S12, three policies: rollouts of one team say how far two others are apart."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from teamtr_jax.claims.base import Check, Claim
from teamtr_jax.dynamics import after
from teamtr_jax.dynamics._linear import HIGHEST
from teamtr_jax.mismatch import Departure, compared, departures
from teamtr_jax.types import Stage, StageReport
from teamtr_jax.visits import hybrids

__all__ = ["CLAIM", "check", "triples"]


def triples(updates: int) -> list[tuple[int, int, int]]:
    """`(μ, π, π')` among the hybrids, two for each update i: `(0, i−1, i)` and `(i, i−1, i+1)`, of the last one `(n, n−1, n)`."""
    return [triple for i in range(1, updates + 1) for triple in ((0, i - 1, i), (i, i - 1, min(i + 1, updates)))]


def check(stage: Stage, report: StageReport) -> dict[str, Check]:
    """[n, 2]: `π̂ⁱ⁻¹ → π̂ⁱ` seen from rollouts of `π̂⁰`, and `π̂ⁱ⁻¹ → π̂ⁱ⁺¹` seen from those of `π̂ⁱ`."""
    # One program, one chain of LAPACK calls: the pairs are solved after the stage (see teamtr_jax/dynamics/_linear.py).
    h = hybrids(replace(stage, current=after(stage.current, report.shift), target=after(stage.target, report.shift)))
    updates = h.steps.shape[0]
    chosen = triples(updates)
    pairs = sorted({(mu, policy) for mu, *two in chosen for policy in two if policy != mu})
    first, second = np.array(pairs).T
    # the step from π̂ʲ to π̂ᵏ is the sum of those between them, and of no others: these would cancel, but for rounding
    k = np.arange(updates)
    sign = np.where((first[:, None] <= k) & (k < second[:, None]), 1.0, 0.0)
    sign -= np.where((second[:, None] <= k) & (k < first[:, None]), 1.0, 0.0)
    steps = jnp.tensordot(jnp.asarray(sign), h.steps, 1, precision=HIGHEST)
    seen = departures(stage.team, h.policies[first], h.policies[second], steps)
    still = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros(1)]), seen)  # a policy seen from itself
    still = still._replace(return_range=jnp.full(len(pairs) + 1, report.return_range))

    def of(mu: int, policy: int) -> int:
        return len(pairs) if mu == policy else pairs.index((mu, policy))

    def pick(which: list[int]) -> Departure:
        def one(x: Array) -> Array:
            return x[np.array(which)]

        return jax.tree.map(one, still)

    x = compared(pick([of(mu, pi) for mu, pi, _ in chosen]), pick([of(mu, new) for mu, _, new in chosen]))
    x = jax.tree.map(lambda side: side.reshape(updates, 2), x)  # an axis of updates: what padding added is cut
    return {
        "": Check(abs(x.gap), x.penalty, x.rounding),
        "floor": Check(-x.gap, x.weighted_floor, x.rounding),
        "ceiling": Check(x.gap, x.weighted_ceiling, x.rounding),
    }


CLAIM = Claim(
    id="S12",
    words="Rollouts of a sampler that is neither the current nor the new team certify the step from one to the other.",
    statement="|J(π')−J(π)−(L_μ(π')−L_μ(π))| ≤ ϱ(K(μ,π)+K(μ,π')); ≥ −Σm^μΣ_a(k'(Q−Φ)+k(Ψ−Q)): a floor for π', a ceiling for π",
    source="ours",
    check=check,
    tight="ratio → 1 (episodic): the sampler opens neither of two doors, π one, π' the other",
)
