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
# # Plug in: a rung, a family and a claim of your own
#
# Nothing has to be registered and the package is not touched. A bound (`Rung`), a family of teams (`Family`) and a statement
# about one stage (`Claim`) go through the same ladder, audit, adversarial search and ledger as the built-in ones. The same
# three lists in a file go through the whole suite: `python -m theory --plugin mine.py`.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from teamtr_jax.bounds import DEFAULT, Rung, ladder
from teamtr_jax.claims import Check, Claim
from teamtr_jax.dynamics import Dense
from teamtr_jax.surrogates import stage_report
from teamtr_jax.types import Stage, Team
from theory import adversarial, ledger
from theory.families import Family
from theory.plugins import Plugins
from theory.run import run
from theory.tiers import Tier

# %% [markdown]
# ## A rung
#
# `‖m'−m‖₁` is at most `2γ/(1−γ)²·E_d[TV]` (T1), so half of it times the span of `g` bounds the gap; that is S4. Suppose
# someone averages instead of taking the span: `γ/(1−γ)²·E_d[TV]·E_d|g|`. Is that a bound? It would be smaller, and easier to
# estimate.


# %%
def mean_advantage(report):
    d = report.visits[:-1] / report.visits[:-1].sum(-1, keepdims=True)
    return report.discount / (1 - report.discount) ** 2 * report.tv * (d * abs(report.conditional)).sum(-1)


hope = Rung("hope", "penalty_mean_advantage", "fresh", ("discounted",), "estimable", mean_advantage)

# %% [markdown]
# ## A family of teams
#
# A ring: each agent owns one place, action 0 stays, action 1 moves on; the reward is at place 0. `make(rng, batch)` returns a
# batch of stages with a leading axis on every array.


# %%
def ring(rng, batch, places=5):
    P = np.zeros((batch, places, 2, places))
    s = np.arange(places)
    P[:, s, 0, s] = 1.0
    P[:, s, 1, (s + 1) % places] = 1.0
    r = np.zeros((batch, places, 2))
    r[:, 0] = 1.0
    rho = np.full((batch, places), 1 / places)
    move, more = rng.random((2, batch, places))
    new = np.clip(move + 10.0 ** rng.uniform(-4, -1, (batch, 1)) * (more - 0.5), 0, 1)
    policies = [jnp.asarray(np.stack([1 - p, p], -1)) for p in (move, new)]
    active = np.tile(s, (batch, 1))
    world = Dense(jnp.asarray(P), jnp.asarray(rng.uniform(0, 0.99, batch)))
    team = Team(world, jnp.asarray(r), jnp.asarray(rho), jnp.asarray(active), places)
    return Stage(team, *policies, jnp.asarray(active))


rings = Family("rings", "S = 5 places, n = 5, γ uniform [0, 0.99)", 1.0, ring)

# %% [markdown]
# ## A claim
#
# S1 says that the shares of the agents sum to at most `1 + D_occ` in a turn-taking team. `Check(measured, bound, budget)`: the
# budget is what rounding may have done to the difference.


# %%
def shares(stage, report):
    several = report.simultaneous  # in a product team everybody acts all the time
    bound = jnp.where(several, jnp.inf, 1 + report.d_occ)
    return {"": Check(report.share.sum(), bound, 16 * report.rounding.relative * report.agents)}


mine = Claim("mine", "turn-taking: Σ_i w_i ≤ 1 + D_occ", "this notebook", shares)

# %% [markdown]
# ## The ladder

# %%
stages = ring(np.random.default_rng(0), 1000)
penalties = jax.jit(jax.vmap(lambda stage: ladder(stage_report(stage), (*DEFAULT, hope))))(stages)
for name, penalty in sorted(penalties.items(), key=lambda item: float(np.median(item[1]))):
    if not name.startswith(("penalty_stale", "penalty_cached", "penalty_reused")):
        print(f"{name:>28}  median {np.median(penalty):.2e}")

# %% [markdown]
# ## The audit and the ledger
#
# A small tier: 3,000 random stages and 1,000 rings, no studies. The row of the rung says how often it fails.

# %%
tier = Tier(instances=4000, exact=0, families=("small",), gym=(), quick=True)
result = run(tier, Plugins((hope,), (mine,), (rings,)), studies=())
own = [row for row in result.rows if row.id in ("mine", "penalty_mean_advantage", "S4")]
Console(width=180).print(ledger.terminal(own, 180))
violations = {row.id: row.violations for row in own}
assert violations["S4"] == 0
assert violations["mine"] == 0

# %% [markdown]
# ## The adversarial search
#
# If the audit finds no counterexample, the search may: gradient ascent on `gap/penalty` through the exact solver.

# %%
sizes = adversarial.StageSizes("turn-taking", 4, 2, 2)
found = adversarial.search(hope, sizes, np.random.default_rng(0), restarts=8, steps=120, rounds=2)
print(f"largest gap/penalty: {found.ratios[0]:.3g} ± {found.slack[0]:.1g}")
worst = jax.tree.map(lambda x: x[0], found.stages)
print("reward", np.round(np.asarray(worst.team.reward), 3), "current", np.round(np.asarray(worst.current), 3), sep="\n")

# %% [markdown]
# A ratio above 1 is a counterexample: the mean of `|g|` is no substitute for its span, because the visits may move to where
# `|g|` is large and `d` is small. Change `mean_advantage` into something true, and run again: `report.span_g` in place of the
# mean gives S4.

# %%
assert violations["penalty_mean_advantage"] > 0 or found.ratios[0] - found.slack[0] > 1
