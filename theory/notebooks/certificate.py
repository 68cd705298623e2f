# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A certificate
#
# How much of an update's improvement can be guaranteed, by which bound, at which radius? And is resampling needed for a
# guarantee at all?

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.bounds import penalty_later_turns, penalty_log_sum, penalty_paper
from teamtr_jax.certificates import certificate_weighted, stage_bound_cached, stage_bound_weighted
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import certificate_optimal_radius, certified_step, value_weighted_step
from teamtr_jax.types import Stage
from teamtr_jax.values import action_values, optimal_values, return_bounds, return_range, values

stages = random_stages(np.random.default_rng(0), 1, states=8, actions=3, agents=3, discount=0.9, branching=3)
stage = jax.tree.map(lambda x: x[0], stages)
team, policy = stage.team, stage.current


# %% [markdown]
# ## Certified improvement against the radius
#
# Agent 0 takes the exact step that maximises the surrogate under `E_d KL(current‖new) ≤ δ`.


# %%
def weighted_floor(report):
    """S9's one-sided penalty."""
    return report.weighted_floor


penalties = {"P3.4, the paper": penalty_paper, "S7": penalty_log_sum, "S9": weighted_floor, "S4R": penalty_later_turns}
radii = 10.0 ** np.arange(-7, 0.1, 0.5)


@jax.jit
def curves(radius):
    step = certified_step(team, policy, jnp.asarray(0), radius)
    surrogate = step.report.surrogate_intermediate
    return step.improvement, {name: (surrogate - penalty(step.report))[0] for name, penalty in penalties.items()}


found = [curves(radius) for radius in radii]
plt.semilogx(radii, [x for x, _ in found], "k", label="true improvement")
for name in penalties:
    plt.semilogx(radii, [max(float(x[name]), -0.05) for _, x in found], label=f"certified by {name}")
plt.axhline(0, lw=0.5, color="grey")
plt.xlabel("δ")
plt.ylim(-0.05, None)
plt.legend()
plt.show()
assert max(float(x["P3.4, the paper"]) for _, x in found) <= 0  # S5: γ ≥ 1/2

# %% [markdown]
# ## The best radius
#
# For S7 the certificate is concave in `δ`, and at its maximum the multiplier of the step equals the range `ϱ` of the return (U1):
# the step is the KL-regularised one with coefficient `ϱ`.

# %%
best = certificate_optimal_radius(team, policy, 0)
print(f"δ = {float(best.radius):.2e}, certified {float(best.certificate):.2e} of {float(best.improvement):.2e}")
print(f"multiplier {float(best.multiplier):.5f}, range of the return {float(return_range(team)):.5f}")

# %% [markdown]
# ## All agents at once, one batch, no trust region
#
# `J(π')−J(π) ≥ Σ m Σ_a π log(π'/π)·(Q−Φ)` (S9). The logarithm of a product is a sum, so from the stage's first rollouts the
# bound is one term for each agent, and each term has a closed-form maximiser, `π' ∝ π·(Q−Φ)`. The certificate of the whole
# stage is positive although nothing was resampled. Compare it with the sum of the fresh ones.

# %%
v = values(team, policy)
q = action_values(team, v) - return_bounds(team)[0][:, None]
report = evaluate_stage(Stage(team, policy, value_weighted_step(policy, q), jnp.arange(3)))
print(f"improvement                     {float(report.improvement):.4f}")
print(f"certified, cached rollouts, S9  {float(stage_bound_weighted(report)):.4f}")
print(f"certified, cached rollouts, S7c {float(stage_bound_cached(report)):.4f}")
print(f"certified, fresh rollouts, S9   {float(certificate_weighted(report).sum()):.4f}")
print(f"best possible improvement       {float(team.initial @ optimal_values(team) - report.objective[0]):.4f}")
assert 0 < float(stage_bound_weighted(report)) <= float(report.improvement)
