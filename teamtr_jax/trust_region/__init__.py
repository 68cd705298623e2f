"""Trust-region updates: direction apart from radius."""

from teamtr_jax.trust_region.constrained import StepInfo, kl_constrained_step
from teamtr_jax.trust_region.radius import CertifiedStep, certificate_optimal_radius, certified_step
from teamtr_jax.trust_region.weighted import value_weighted_step

__all__ = [
    "StepInfo", "kl_constrained_step", "CertifiedStep", "certified_step", "certificate_optimal_radius", "value_weighted_step",
]  # fmt: skip
