"""Trust-region updates: direction apart from radius."""

from teamtr_jax.trust_region.constrained import StepInfo, kl_constrained_step

__all__ = ["StepInfo", "kl_constrained_step"]
