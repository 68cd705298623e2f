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
# # The ladder
#
# Every bound on the gaps of one stage, side by side: what it says, who can print it, and how far it is from the gap. Change the
# team, the step, the discount, and run on.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.bounds import DEFAULT, ladder
from teamtr_jax.surrogates import evaluate_stage, stage_report
from teamtr_jax.teams import random_stages

# %% [markdown]
# ## One stage

# %%
rng = np.random.default_rng(1)
stages = random_stages(rng, 500, states=12, actions=3, agents=4, discount=0.9, branching=3, step=0.05)
stage = jax.tree.map(lambda x: x[0], stages)
report = evaluate_stage(stage)
penalties = ladder(report)
gaps = {"fresh": report.gap_fresh, "stale": report.gap_stale, "cached": report.gap_cached, "reused": report.gap_reused}
for rung in DEFAULT:
    if rung.name in penalties:
        ratio = np.asarray(penalties[rung.name] / abs(gaps[rung.gap]))
        print(
            f"{rung.id:>5} {rung.name:<28} {rung.gap:<7} {rung.information:<10} penalty/gap of the last update {ratio[-1]:.3g}"
        )

# %% [markdown]
# ## How a rung scales with the step
#
# First-order rungs are proportional to the step, the gap and the second-order rungs to its square: only these can certify a
# small step. Same teams, shrinking steps.


# %%
@jax.jit
def medians(size):
    """Median penalty and gap over the teams, the step scaled down by `size`."""

    def one(stage):
        smaller = type(stage)(
            stage.team, stage.current, stage.current + size * (stage.target - stage.current), stage.order
        )
        report = stage_report(smaller)
        return abs(report.gap_fresh).max(), {k: v.max() for k, v in ladder(report).items()}

    return jax.tree.map(jax.numpy.median, jax.vmap(one)(stages))


sizes = 10.0 ** np.arange(-4, 0.1, 0.5)
found = [medians(size) for size in sizes]

# %%
shown = {
    "penalty_paper": "P3.4, the paper",
    "penalty_path": "S2",
    "penalty_trivial": "S0",
    "penalty_second_order": "S4",
    "penalty_later_turns": "S4R",
    "penalty_log_sum": "S7",
    "penalty_weighted": "S9",
}
plt.loglog(sizes, [gap for gap, _ in found], "k.-", label="|fresh gap|")
for name, label in shown.items():
    plt.loglog(sizes, [rungs[name] for _, rungs in found], label=label)
plt.xlabel("step, relative")
plt.ylabel("median over teams of the largest update")
plt.legend()
plt.show()

# %%
slopes = {
    label: np.polyfit(np.log(sizes[:5]), np.log([float(x[1][name]) for x in found[:5]]), 1)[0]
    for name, label in shown.items()
}
print({label: round(float(slope), 2) for label, slope in slopes.items()})
assert slopes["S7"] > 1.9
assert slopes["P3.4, the paper"] < 1.1
