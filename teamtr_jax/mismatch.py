"""S12, trainer and sampler differ: rollouts of μ (an inference engine's numbers), the trainer's current π and new π'.

Each of the two policies is compared with μ, by S7 and S9, and the two comparisons are subtracted: `J(π') − J(π)` is
`L_μ(π') − L_μ(π)` but for `gap(μ,π') − gap(μ,π)`. Nothing is needed of π and π' but their probabilities where μ goes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from teamtr_jax.bounds import path_kl, zero_times
from teamtr_jax.divergences import kl_terms
from teamtr_jax.surrogates import hybrids_report
from teamtr_jax.types import Hybrids, Team, require_one, require_policy
from teamtr_jax.validation import require_float64
from teamtr_jax.visits import chain_hybrids

__all__ = ["Departure", "Mismatch", "departures", "compared", "mismatch"]


class Departure(NamedTuple):
    """A policy π seen from rollouts of μ. Units: those of the return, nats for `kl`."""

    surrogate: Float[Array, "*n"]  #: `L_μ(π) = Σ m^μ Σ_a (π−μ) A^μ`
    gap: Float[Array, "*n"]  #: `J(π) − J(μ) − L_μ(π)`
    kl: Float[Array, "*n"]  #: `K(μ,π) = KL(P_μ ‖ P_π)` of the whole path, μ first; `[0, ∞]`
    weighted_floor: Float[Array, "*n"]  #: `Σ m^μ Σ_a k (Q^μ−Φ)`, S9: `gap ≥ −weighted_floor`
    weighted_ceiling: Float[Array, "*n"]  #: `Σ m^μ Σ_a k (Ψ−Q^μ)`, S9: `gap ≤ weighted_ceiling`
    return_range: Float[Array, "*n"]  #: `ϱ`
    rounding: Float[Array, "*n"]  #: of `gap`


class Mismatch(NamedTuple):
    """`J(π') − J(π)` from rollouts of μ. Units: those of the return, nats for the KLs."""

    surrogate: Float[Array, "*n"]  #: `L_μ(π') − L_μ(π)`
    gap: Float[Array, "*n"]  #: `J(π') − J(π)` less this surrogate
    kl_sampler_to_current: Float[Array, "*n"]  #: `K(μ,π)`
    kl_sampler_to_new: Float[Array, "*n"]  #: `K(μ,π')`
    penalty: Float[Array, "*n"]  #: `ϱ(K(μ,π) + K(μ,π')) ≥ |gap|`
    weighted_floor: Float[Array, "*n"]  #: S9's floor for π' and its ceiling for π: `gap ≥ −weighted_floor`
    weighted_ceiling: Float[Array, "*n"]  #: its ceiling for π' and its floor for π: `gap ≤ weighted_ceiling`
    rounding: Float[Array, "*n"]  #: of `gap`

    @property
    def improvement(self) -> Array:
        """`J(π') − J(π)`."""
        return self.surrogate + self.gap

    @property
    def certificate(self) -> Array:
        """`L_μ(π') − L_μ(π) − weighted_floor ≤ J(π') − J(π)`; never below that with `penalty`."""
        return self.surrogate - self.weighted_floor


def departures(
    team: Team, samplers: Float[Array, "m S A"], policies: Float[Array, "m S A"], steps: Float[Array, "m S A"]
) -> Departure:
    """`policies[i]` seen from `samplers[i]`, one after the other: a program has one chain of LAPACK calls.

    Args:
      samplers: joint policies, as `policies`.
      steps: `policies − samplers`, formed without cancellation.
    """

    def one(xs: tuple[Array, Array, Array]) -> Departure:
        sampler, policy, step = xs
        kl = kl_terms(sampler, policy, step).sum(-1)[None]
        moved = (step != 0).any(-1)[None]
        pair = Hybrids(jnp.stack([sampler, policy]), step[None], kl, kl, abs(step).sum(-1)[None] / 2, moved)
        x = hybrids_report(team, pair, step[None])
        return Departure(
            x.surrogate_intermediate[0], x.gap_fresh[0], path_kl(x, x.kl)[0], x.weighted_floor[0], x.weighted_ceiling[0],
            x.return_range, x.rounding.fresh[0],
        )  # fmt: skip

    return jax.lax.map(one, (samplers, policies, steps))


def compared(current: Departure, new: Departure) -> Mismatch:
    """S12: two policies seen from the same sampler.

    `|gap| ≤ ϱ(K(μ,π) + K(μ,π'))`, and `−(floor' + ceiling) ≤ gap ≤ ceiling' + floor`.
    """
    return Mismatch(
        surrogate=new.surrogate - current.surrogate,
        gap=new.gap - current.gap,
        kl_sampler_to_current=current.kl,
        kl_sampler_to_new=new.kl,
        penalty=zero_times(new.return_range, current.kl + new.kl),
        weighted_floor=new.weighted_floor + current.weighted_ceiling,
        weighted_ceiling=new.weighted_ceiling + current.weighted_floor,
        rounding=current.rounding + new.rounding,
    )


def mismatch(
    team: Team, sampler: Float[Array, "*n S A"], current: Float[Array, "*n S A"], new: Float[Array, "*n S A"]
) -> Mismatch:
    """Both sides of S12 exactly, discounted or episodic, either protocol, whichever agents differ.

    Args:
      sampler: μ, a policy of the team: ``[S, A]``, or zero-padded factors ``[n, S, max A_k]`` in a product team.
      current: π, `new`: π'; where nobody acts they are taken from `sampler`.

    Raises:
      InputError: if an array is not float64, a table is no policy of the team, or the team is a batch.
    """
    require_float64(sampler=sampler, current=current, new=new)
    require_one(team, "team")
    require_policy(team, sampler=sampler, current=current, new=new)
    return _mismatch(team, sampler, current, new)


@jax.jit
def _mismatch(team: Team, sampler: Array, current: Array, new: Array) -> Mismatch:
    agents = jnp.arange(team.agents)

    def towards(policy: Array) -> tuple[Array, Array, Array]:
        """Joint sampler, joint policy, and the step between them as the sum of those of one agent after the other."""
        own = team.active if team.factors is None else agents[:, None]
        assert own is not None
        moved = (own < jnp.arange(team.agents + 1)[(slice(None), *(None for _ in own.shape))]) & (own >= 0)
        chain = chain_hybrids(team, jnp.where(moved[..., None], policy, sampler), agents)
        return chain.policies[0], chain.policies[-1], chain.steps.sum(0)

    pairs = [towards(policy) for policy in (current, new)]
    seen = departures(team, *(jnp.stack(x) for x in zip(*pairs, strict=True)))
    return compared(*(jax.tree.map(lambda x, k=k: x[k], seen) for k in (0, 1)))
