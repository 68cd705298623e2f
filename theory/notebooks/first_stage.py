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
# # A stage, two agents, and the gap between them
#
# A team takes turns in one shared context. When one agent is updated, the contexts that the others see move. This notebook
# builds a team, updates two agents, shows the gap that this opens between the surrogate and the truth, changes the number
# of agents, and adds a bound of your own. Everything is exact (float64 linear algebra); nothing is sampled.
#
# Change any cell and run on.

# %%
import jax

jax.config.update("jax_enable_x64", True)  # the exact core refuses anything less

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.bounds import DEFAULT, Rung, ladder
from teamtr_jax.dynamics import Dense
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import relay_stage
from teamtr_jax.types import Stage, Team

# %% [markdown]
# ## Build a team
#
# Four contexts, two actions. Agent 0 speaks in contexts 0 and 1, agent 1 in contexts 2 and 3.
# `P[s, a, s']`, `r[s, a]`, `ρ[s]`, `γ`.

# %%
rng = np.random.default_rng(0)
P = jnp.asarray(rng.dirichlet(np.ones(4), (4, 2)))
r = jnp.asarray(rng.random((4, 2)))
rho = jnp.array([1.0, 0.0, 0.0, 0.0])
team = Team(Dense(P, jnp.asarray(0.9)), r, rho, active=jnp.array([0, 0, 1, 1]), agents=2)

# %% [markdown]
# ## Update both agents
#
# `current` is the team before the stage, `target` what each agent wants to become. The stage puts them in one after the
# other, in the given order.

# %%
current = jnp.full((4, 2), 0.5)
target = jnp.array([[0.3, 0.7], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
report = evaluate_stage(Stage(team, current, target, order=jnp.array([0, 1])))

print("J of the hybrids      ", report.objective)
print("fresh surrogate  L_seq", report.surrogate_intermediate)
print("stale surrogate       ", report.surrogate_stale)
print("fresh gap             ", report.gap_fresh)
print("stale gap             ", report.gap_stale)
print("KL(current ‖ new)  δ_i", report.kl)

# %% [markdown]
# The performance-difference identity (T0) says `J(π̂ⁱ) − J(π̂ⁱ⁻¹) = L_i^seq + fresh gap_i`. The gap was computed without ever
# subtracting the two objectives, so this is a check, not a definition:

# %%
difference = jnp.diff(report.objective) - report.surrogate_intermediate - report.gap_fresh
print(difference)
assert float(abs(difference).max()) < 1e-13

# %% [markdown]
# ## Change n
#
# In the coherent relay (R1) every agent pushes the shared context the same way. Scored on the rollouts of the stage's start,
# the errors add up like `n²`; resampled after every update, like `n`. The exact leading coefficients are `(3n² − n)/2` and `n`.

# %%
sizes = [2, 4, 8, 16]
step = 1e-4
slots = max(sizes)
sums = jax.jit(lambda n: evaluate_stage(relay_stage(n, step, step, slots)))
reports = [sums(n) for n in sizes]
fresh = np.array([float(abs(x.gap_fresh).sum()) for x in reports]) / step**2
stale = np.array([float(abs(x.gap_stale).sum()) for x in reports]) / step**2
print("fresh", fresh, "exact", sizes)
print("stale", stale, "exact", [(3 * n * n - n) / 2 for n in sizes])
assert np.allclose(fresh, sizes, rtol=0.02)

plt.loglog(sizes, stale, "o-", label="stale")
plt.loglog(sizes, fresh, "o-", label="fresh")
plt.xlabel("agents n")
plt.ylabel("Σ |gap| / ε²")
plt.legend()
plt.show()

# %% [markdown]
# ## Add a rung of your own
#
# A rung is a function of the report that bounds one of the gaps. It goes through the same ladder as the built-in ones, without
# touching the package. Here: S0 with the trivial bound on the occupancy shift replaced by the exact shift, an oracle bound.


# %%
def exact_shift(report):
    """`Σm · TV(d', d) · span(g)`: Hölder's inequality and nothing else."""
    return report.mass * report.occupancy_tv_fresh * report.span_g


mine = Rung("mine", "penalty_exact_shift", "fresh", ("discounted", "episodic"), "oracle", exact_shift)
for name, penalty in ladder(report, (*DEFAULT, mine)).items():
    print(f"{name:>24}", penalty)

assert bool((abs(report.gap_fresh) <= exact_shift(report) * (1 + 1e-12)).all())

# %% [markdown]
# What would have to change for your rung to be *wrong*? Drop the factor `report.mass`, run again, and see the last line fail.
