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
# # When is quadratic real?
#
# A leaky relay: agents take turns, each moves a token up with a small probability, and what is pending is lost with probability
# `leak` after every turn. `coherence` is how many of the updates push the same way. Change the knobs below and see what the stale
# gap does as the team grows.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.interaction import interaction_matrix
from teamtr_jax.surrogates import evaluate_stage
from theory.studies import r7

# %% [markdown]
# ## The knobs

# %%
coherence = 1.0  # 1: every agent pushes the same way; 0: signs at random
leak = 0.0  # 0: nothing is forgotten; 1: nothing is remembered
reverse = False  # True: who speaks last is updated first
p, step = 1e-4, 1e-5  # probability of a move, and by how much an update changes it

rng = np.random.default_rng(0)
signs = np.where(rng.random(16) < (1 + coherence) / 2, 1.0, -1.0)


def relay(n):
    """Two rounds of `n` agents."""
    order = np.arange(n)[::-1] if reverse else np.arange(n)
    return r7.leaky_relay(jnp.arange(2 * n) % n, p, jnp.asarray(step * signs[:n]), leak, jnp.asarray(order.copy()))


# %% [markdown]
# ## The realised gaps, and their leading order
#
# The gaps are exact (float64). Beside them the closed form of their leading order in the step, with
# `M[k,i] = ε_k ε_i Σ_{u<v} (1−leak)^{v−u}` over the turns `u` of agent k and `v` of agent i.

# %%
sizes = [2, 4, 8, 16]
sums = []
for n in sizes:
    stage = relay(n)
    report = evaluate_stage(stage)
    realised = [float(abs(gap).sum()) for gap in (report.gap_fresh, report.gap_stale, report.gap_cached)]
    leading, _ = r7.leading_sums(np.arange(2 * n) % n, step * signs[:n], leak, np.asarray(stage.order))
    sums.append(realised)
    print(f"n = {n:>2}: fresh {realised[0]:.3e}, stale {realised[1]:.3e}, cached {realised[2]:.3e}; over leading order "
          + ", ".join(f"{x / y:.4f}" for x, y in zip(realised, leading, strict=True) if y))  # fmt: skip
sums = np.array(sums)
local = np.diff(np.log(sums), axis=0) / np.diff(np.log(sizes))[:, None]
print("local slopes of the stale sum:", np.round(local[:, 1], 2))

# %% [markdown]
# ## Who shifts whose context
#
# Row k shifts the context in which column i is judged. Above the stairs: what staleness costs; on the diagonal: the fresh gap.
# One more power of n for the stale sum means that the entries above the diagonal stay comparable to those on it (R4).

# %%
stage = relay(8)
report = evaluate_stage(stage)
M = np.asarray(interaction_matrix(stage, report))
limit = abs(M).max()
plt.imshow(M, cmap="RdBu_r", vmin=-limit, vmax=limit)
plt.xlabel("judged")
plt.ylabel("updated alone")
plt.colorbar()
plt.show()
expected = 1 + np.triu(M, 1).sum() / np.trace(M)
realised = float(report.gap_stale.sum() / report.gap_fresh.sum())
print(f"1 + Σ_above M / tr M = {expected:.3f}, Σ stale / Σ fresh = {realised:.3f}")
assert np.isclose(expected, realised, rtol=0.05)

# %% [markdown]
# ## The map
#
# A coarse version of the map in the ledger: exponents of the three sums over coherence and memory, for two horizons, and for KL
# held fixed per message or per agent.

# %%
row, found = r7.run(True, np.random.default_rng(0))
for gap in ("fresh", "stale", "cached"):
    print(gap, "T = 2n, first speaker updated first; rows: coherence", found.coherence, "columns: leak", found.leaks)
    print(np.round(found.slopes(r7.SETTINGS[0], gap), 2))
assert row.violations == 0
