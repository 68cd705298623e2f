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
# # Where is the n²?
#
# A stage updates n agents on one batch of rollouts. How wrong is what it promises? Bounds say: at most something that
# grows like n. In the coherent relay (R1) the error itself grows like n². Both are true: this notebook looks at the
# error and at two bounds side by side, and at the one of them that grows as the error does.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.bounds import ladder, stage_chi_square
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import relay_stage
from theory.constructions.relay import leading_coefficients
from theory.constructions.spent import spent_stage

# %% [markdown]
# ## The team
#
# Agents speak in turn, twice each. The context is 0, 1 or 2; whoever speaks steps it up with probability `p`, and 2 at
# the end is success. Every agent is updated from `p` to `p + step`. All agents push the same way, and nothing is forgotten.

# %%
p, step = 1e-4, 1e-4
sizes = [2, 4, 8, 16, 32]
reports = [evaluate_stage(relay_stage(n, p, step, slots=max(sizes))) for n in sizes]
error = np.array([float(report.gap_cached.sum()) for report in reports])
linear = np.array([float(ladder(report)["penalty_cached_log_sum"][-1]) for report in reports])
budget = np.array([float(stage_chi_square(report)) for report in reports])

# %% [markdown]
# ## The error, S7c and S10
#
# The error of the stage is the signed sum of the cached gaps: what it brings, less what was promised from the first
# rollouts. S7c bounds it by `ϱ·ΣK`, the range of the return times the KL, which is linear in n. S10 bounds it by
# `sd(R)·√(eˣ−1−X)`, the standard deviation of the return and the largest χ² along an episode.

# %%
print(" n      error/step²   error/S10   limit p → 0   error/S7c")
for n, e, b, k in zip(sizes, error, budget, linear, strict=True):
    limit = float(leading_coefficients(n).squared_share) ** 0.5
    print(f"{n:>2} {e / step**2:>14.1f} {e / b:>11.4f} {limit:>13.4f} {e / k:>11.1e}")

figure, ax = plt.subplots(figsize=(6, 4))
for values, label in ((linear, "S7c: linear"), (budget, "S10"), (error, "Σ cached gap: 2n² − n")):
    ax.loglog(sizes, values / step**2, "o-", label=label)
ax.set(xlabel="agents n", ylabel="/ step²", title=f"relay, p = step = {p:g}")
ax.legend()
plt.show()
slopes = np.diff(np.log([error, budget, linear]), axis=1) / np.diff(np.log(sizes))
print("local slopes, error:", np.round(slopes[0], 2), " S10:", np.round(slopes[1], 2), " S7c:", np.round(slopes[2], 2))
assert (error < budget).all()
assert (budget < linear).all()

# %% [markdown]
# ## Where it comes from
#
# S10's bound is a product. The χ² of an episode adds up over its turns: one factor n. The standard deviation of the return is the
# root of the probability of success, which needs two steps out of 2n: the other factor n. S7c has the *range* of the
# return in its place, which is 1 for every n. So the n² is in how likely the return is to be anything at all; where
# success is common, the deviation no longer grows.

# %%
for n, report in zip(sizes, reports, strict=True):
    steps = report.layers
    assert steps is not None
    print(f"n = {n:>2}: sd(R) = {float(steps.return_deviation[0]):.2e}, X = {float(steps.chi_square_cached[-1]):.2e}")

# %% [markdown]
# ## Not a law of all teams
#
# The same sum in the same relay, once the chance of a step is no longer small: the error falls behind S10 and then
# changes its sign.

# %%
for chance in (1e-4, 1e-2, 1e-1):
    shares = []
    for n in sizes:
        report = evaluate_stage(relay_stage(n, chance, chance, slots=max(sizes)))
        shares.append(float(report.gap_cached.sum() / stage_chi_square(report)))
    print(f"p = step = {chance:g}: error/S10 =", np.round(shares, 3))

# %% [markdown]
# ## What the budget has to count
#
# Where agents act at once, the cached error needs the χ² of the *joint* step. The sum of the agents' own χ² is smaller,
# and a bound made from it is false: a team of two that breaks it by more than a hundredth.

# %%
report = evaluate_stage(spent_stage())
steps = report.layers
assert steps is not None
own, joint = float(steps.chi_square_reused[-1]), float(steps.chi_square_cached[-1])
deviation, found = float(steps.return_deviation[0]), float(report.gap_cached.sum())
bounds = [deviation * np.sqrt(np.exp(x) - 1 - x) for x in (own, joint)]
print(
    f"error {found:.4f}; from own χ² (X = {own:.3f}) {bounds[0]:.4f}; from the joint χ² (X = {joint:.3f}) {bounds[1]:.4f}"
)
assert bounds[0] < found < bounds[1]
