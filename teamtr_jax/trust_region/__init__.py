"""Trust-region updates: direction apart from radius."""

from teamtr_jax.trust_region.alignment import Alignment, align_to_ball
from teamtr_jax.trust_region.budgeted import chi_square_budget
from teamtr_jax.trust_region.certified import certificate_optimal
from teamtr_jax.trust_region.clipped import ppo_clip
from teamtr_jax.trust_region.constrained import Direction, kl_constrained, kl_constrained_step
from teamtr_jax.trust_region.joint import JointScales, budget_scales, joint_scales, scaled
from teamtr_jax.trust_region.natural import natural_gradient
from teamtr_jax.trust_region.radius import CertifiedStep, certificate_optimal_radius, certified_step
from teamtr_jax.trust_region.weighted import value_weighted, value_weighted_step

__all__ = [
    "Direction", "kl_constrained", "natural_gradient", "ppo_clip", "certificate_optimal", "value_weighted", "chi_square_budget",
    "kl_constrained_step", "value_weighted_step",
    "Alignment", "align_to_ball",
    "CertifiedStep", "certified_step", "certificate_optimal_radius",
    "JointScales", "joint_scales", "budget_scales", "scaled",
]  # fmt: skip
