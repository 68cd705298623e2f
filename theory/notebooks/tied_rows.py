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
# # Tied rows: when old rollouts make an update lose
#
# An agent that sees part of the transcript has one row for all contexts that look the same to it. Then it matters how often each
# of them comes up, and that is what old rollouts get wrong. First the smallest team in which this decides everything, then random
# teams in which agents see more and more. All numbers are exact; nothing is sampled.
#
# Change any cell and run on.

# %%
import jax

jax.config.update("jax_enable_x64", True)

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.schedules import fresh, joint, once, stale_occupancy
from teamtr_jax.stage import run_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.trust_region import kl_constrained, value_weighted
from teamtr_jax.values import advantages
from theory.constructions.tied import crossing_gains, crossing_radius, crossing_team, drift_teams, factor_of
from theory.studies.u4 import play

np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## Two agents, two rows
#
# The guide leads to the hall or to the yard; the yard pays it a little more. The speaker has *one row for both*: at the hall its
# second word earns 1, in the yard its first word earns `1 − tilt`. Everybody begins at ½.
#
# On the rollouts of the start the hall is as frequent as the yard, so the second word looks better by `tilt/2`. But the guide is
# updated first, and leads to the yard.

# %%
step, tilt = 0.125, 0.0625  # how far an update moves a probability; how much better the hall pays
factor = 10.0  # how many times more a fresh stage shall gain
lead = factor_of(step, tilt, factor)
team, current = crossing_team(tilt, lead)
radius = crossing_radius(step)  # the KL of such a move, in nats
backend = exact_backend(team, kl_constrained(radius))
start = team_state(team, current)
stated = crossing_gains(step, tilt, lead)

gained = {}
for schedule in (fresh, stale_occupancy, once):
    after, records = run_stage(backend, start, [0, 1], schedule)
    speaker = records[1]
    gained[schedule.name] = sum(x.exact["improvement"] for x in records)
    print(
        f"{schedule.name:>15}: the speaker is promised {speaker.surrogate:+.5f} and gets {speaker.exact['improvement']:+.5f}; "
        f"the stage gains {gained[schedule.name]:.5f}"
    )
print("fresh over stale:", round(gained["fresh"] / gained["stale_occupancy"], 6))
assert np.isclose(gained["fresh"], stated.stage_fresh)
assert np.isclose(gained["once"], stated.stage_stale)

# %% [markdown]
# The advantages that the stale update uses are exact and *current*. Only how often the speaker is asked in the hall and in the
# yard is old. Set `factor` to a million, or `lead` to half of `factor_of(step, tilt, 1e9)`, and run again: then the fresh stage
# gains and the stale one loses.
#
# With a row for each place the same team cannot lose.

# %%
apart = replace(team, observation=None)
free = exact_backend(apart, kl_constrained(radius))
_, records = run_stage(free, team_state(apart, current), [0, 1], stale_occupancy)
print("told apart, stale occupancy:", [round(float(x.exact["improvement"]), 5) for x in records])
assert all(x.exact["improvement"] > 0 for x in records)

# %% [markdown]
# ## What decides
#
# The update loses, to first order in its own step, where a sum over pairs of contexts is negative: the weight of one on the
# current rollouts, times that of the other on the old ones, times the *covariance of their advantages* under the shared row. A
# context with itself has a variance, which is never negative.

# %%
now, _ = run_stage(backend._replace(audit=None), start, [0, 1], fresh)
moved = start._replace(policy=start.policy.at[0].set(now.policy[0]))  # only the guide has moved
old, new = backend.rollout(start, None), backend.rollout(moved, None)
hall_yard = [2, 3]
A = np.asarray(advantages(team, new.values))[hall_yard]
covariance = A @ np.diag(np.asarray(moved.policy)[2]) @ A.T
print("covariance of the advantages\n", covariance)
X = np.asarray(new.weight)[hall_yard] @ covariance @ np.asarray(old.weight)[hall_yard]
promised = np.asarray(old.weight)[hall_yard] @ covariance @ np.asarray(old.weight)[hall_yard]
print(f"promised {promised:+.5f}, brought {X:+.5f}, in the same unit")
assert X < 0 < promised

# %% [markdown]
# ## Teams that move a position
#
# Six agents. In the first half of an episode each pushes a position up or down; in the second half each is asked on which side it
# is. An agent sees one of 1, 2, 4 or 9 labels, which the nine positions share at random: with one it is blind, with nine it sees
# all. The teams are the same but for that.

# %%
labels, teams, stages, radius = (1, 2, 4, 9), 20, 3, 0.5
lost, worse = {}, {}
for k in labels:
    made = drift_teams(np.random.default_rng(0), teams, k)
    found = {s.name: play(*made, kl_constrained(radius), s, stages) for s in (fresh, stale_occupancy, once)}
    gain = {name: (j[-1, -1] - j[0, 0]).mean() for name, j in found.items()}
    lost[k] = [100 * (1 - gain[name] / gain["fresh"]) for name in ("stale_occupancy", "once")]
    worse[k] = [100 * (np.diff(j, axis=1) < -1e-12).mean() for j in found.values()]
    print(
        f"{k} labels: growth of J lost against new rollouts: stale {lost[k][0]:5.1f} %, cached {lost[k][1]:5.1f} %; "
        f"updates that lose: {worse[k][0]:.1f}, {worse[k][1]:.1f}, {worse[k][2]:.1f} %"
    )
assert lost[1][0] > 10
assert abs(lost[9][0]) < 1

# %%
for k, (name, colour) in enumerate({"stale: old occupancy": "#b2182b", "cached: old rollouts": "#7b3294"}.items()):
    plt.plot(range(4), [lost[x][k] for x in labels], "o-", color=colour, label=name)
plt.xticks(range(4), [str(k) for k in labels])
plt.xlabel("labels that an agent can see")
plt.ylabel("growth of J lost, %")
plt.legend()
plt.show()

# %% [markdown]
# ## What does not fail
#
# The step that weights actions with their value (S9) pools over the contexts of a row. On new rollouts it never loses, and
# neither does a stage in which *all agents at once* take it on one set of rollouts, whatever they see.

# %%
made = drift_teams(np.random.default_rng(0), teams, 1)
for schedule in (fresh, joint):
    j = play(*made, value_weighted(), schedule, stages)
    change = np.diff(j, axis=1) if schedule is fresh else j[:, -1] - j[:, 0]
    print(f"{schedule.name}: smallest {'update' if schedule is fresh else 'stage'} {change.min():+.2e}")
    assert change.min() > -1e-12
