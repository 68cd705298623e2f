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
# # A stage goes wrong, one agent at a time
#
# Three agents take turns and are fine-tuned one after the other. Once on the rollouts that were collected before the stage, once
# on rollouts collected before every update. Everything is printed after each update: what the trainer believes, what is true,
# and where the team is against where the rollouts say it is. All numbers are exact; nothing is sampled.
#
# Change any cell and run on.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from teamtr_jax.dynamics import Dense
from teamtr_jax.interaction import interaction_matrix, skippable
from teamtr_jax.schedules import (
    Schedule,
    certificate_driven,
    fresh,
    importance_weighted,
    joint,
    once,
    path_shift,
    stale_occupancy,
)
from teamtr_jax.stage import run_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.teams import handover_team, random_stages
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.types import Stage, Team
from teamtr_jax.values import advantages

np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## The team
#
# Three contexts, two actions in each, no chance but that of the agents.
#
# | context | agent | action 0 | action 1 |
# |---|---|---|---|
# | desk | 0, the opener | wait: stay at the desk, earn 0 | open: go to the hall, earn 0 |
# | hall | 2, the dispatcher | settle: back to the desk, earn 0.3 | pass: go to the bench, earn 0 |
# | bench | 1, the worker | idle: back to the desk, earn 0 | work: back to the desk, earn 1 |
#
# The opener seldom opens, the dispatcher passes every second time, the worker seldom works. As long as the worker idles, the
# dispatcher had better settle. Once the worker works, it had better pass.

# %%
names, agents = ["desk", "hall", "bench"], ["opener", "worker", "dispatcher"]
P = np.zeros((3, 2, 3))  # P[s, a, s']
P[0, 0, 0] = P[0, 1, 1] = P[1, 0, 0] = P[1, 1, 2] = P[2, 0, 0] = P[2, 1, 0] = 1.0
r = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 1.0]])
active, discount = np.array([0, 2, 1]), 0.9
team = Team(
    Dense(jnp.asarray(P), jnp.asarray(discount)), jnp.asarray(r), jnp.array([1.0, 0.0, 0.0]), jnp.asarray(active), 3
)
ones = np.array([0.1, 0.5, 0.2])  # open, pass, work
current = jnp.asarray(np.stack([1 - ones, ones], -1))

radius, order = 0.03, [0, 1, 2]  # the order of the updates
backend = exact_backend(team, kl_constrained(radius))

start = backend.rollout(team_state(team, current), None)  # exact: as if infinitely many
print("occupancy     ", start.weight, names)
print("A(s, action 1)", advantages(team, start.values)[:, 1])
assert advantages(team, start.values)[1, 1] < 0  # while the worker idles, passing on does not pay

# %% [markdown]
# ## One stage, two schedules
#
# Each agent in turn takes the step that gains most under `E_d KL(current‖new) ≤ 0.03` (U1). `d` and the advantages are those of
# the rollouts in use. `once` collects one set for the stage; `fresh` collects one before every update.


# %%
def watch(schedule, quiet=False):
    """One stage under a schedule: the updated tables, the records, J after 0 … n updates."""
    state, records = run_stage(backend, team_state(team, current), order, schedule)
    objective = np.array([records[0].exact["objective_before"], *(x.exact["objective_after"] for x in records)])
    if not quiet:
        print(f"{schedule.name}: {sum(x.rollouts for x in records)} sets of rollouts")
        print("  update of    believes    true      gap      J    TV(d, rollouts)  KL on rollouts   KL now")
        for x, after in zip(records, objective[1:], strict=True):
            true = x.exact["improvement"]
            print(f"  {agents[x.agent]:<11} {x.surrogate:8.4f} {true:8.4f} {true - x.surrogate:8.4f} {after:8.4f}"
                  f" {x.exact['shift_in_use']:12.4f} {x.kl:15.4f} {x.exact['kl']:11.4f}")  # fmt: skip
        print("  open, pass, work:", np.asarray(state.policy[:, 1]))
    return state.policy, records, objective


cached_policy, cached_records, cached_objective = watch(once)
fresh_policy, fresh_records, fresh_objective = watch(fresh)

assert (np.diff(fresh_objective) > 0).all()  # every update improves the team
assert cached_records[2].surrogate > 0 > cached_records[2].exact["improvement"]  # believed a gain, is a loss
assert cached_objective[0] < cached_objective[3] < fresh_objective[3]

# %% [markdown]
# The first two updates go well under both schedules. Then the dispatcher is updated. On the old rollouts the worker idles, so the
# dispatcher learns to settle, and the trainer books a gain. But the worker works by now. `J` falls.
#
# On fresh rollouts the dispatcher sees a worker who works, and passes.

# %%
report = evaluate_stage(Stage(team, current, cached_policy, jnp.asarray(order)))
figure, axes = plt.subplots(1, 5, figsize=(15, 3), layout="constrained", width_ratios=[1.6, 1, 1, 1, 1])
axes[0].plot(cached_objective, "o-", label="once")
axes[0].plot(fresh_objective, "o-", label="fresh")
axes[0].set_xticks(range(4), ["start", *(agents[i] for i in order)], rotation=20)
axes[0].set_ylabel("J after the update of")
axes[0].legend()
occupancies = np.asarray(report.visits / report.visits.sum(-1, keepdims=True))
titles = ["start", *(f"after the {agents[i]}" for i in order)]
for axis, now, title in zip(axes[1:], occupancies, titles, strict=True):
    axis.bar(np.arange(3) - 0.2, now, 0.4, label="where the team is")
    axis.bar(np.arange(3) + 0.2, occupancies[0], 0.4, label="where the rollouts say", color="0.7")
    axis.set_xticks(range(3), names)
    axis.set_ylim(0, 1)
    axis.set_title(f"once, {title}", fontsize=10)
axes[1].legend(fontsize=8, loc="center right")
plt.show()

# %% [markdown]
# ## Two kinds of staleness
#
# The cached surrogate is wrong by three terms: `cached gap = fresh gap + (L_seq − L_stale) + (L_stale − L_cached)`. The first is
# what the update itself moves. The second is the occupancy of the rollouts: the wrong contexts. The third is their advantages:
# the wrong idea of what an action is worth.

# %%
parts = np.stack([report.gap_fresh, report.seq_minus_stale, report.surrogate_stale - report.surrogate_cached])
for name, row in zip(["fresh gap", "occupancy", "advantages"], parts, strict=True):
    print(f"{name:<11}", row)
print(f"{'cached gap':<11}", np.asarray(report.gap_cached))
assert np.allclose(parts.sum(0), report.gap_cached, atol=1e-12)

# %% [markdown]
# Only the advantages can turn a gain into a loss. The reason is one line. `J(π̂ⁱ) − J(π̂ⁱ⁻¹) = Σ_s m^{π̂ⁱ}(s) g_i(s)` with
# `g_i(s) = Σ_a π̂ⁱ(a|s) A_{i−1}(s,a)`, and the step of a table moves every row towards larger advantages. If the advantages are
# those of the current team, `g_i ≥ 0` in every context, and whatever the occupancy, `J` does not fall. So:
#
# * on fresh rollouts an exact table never loses, at any radius;
# * with old occupancy and current advantages (a critic) it never loses either;
# * a turn-taking stage on one batch never ends below its *start*: all rows move towards larger `A_0`, and that is policy
#   improvement. A single update in it can lose, as here. Product teams have no such floor, see below.
#
# None of this survives sampling noise, or rows that are tied: an agent with one row for two contexts, or a network (U2).

# %%
critic_policy, critic_records, critic_objective = watch(stale_occupancy)
start_gain = ((cached_policy - current) * advantages(team, start.values)).sum(-1)
print("g of the whole cached stage, by A_0:", start_gain)
print("g of its last update, by A_2:       ", report.conditional[2])
assert (np.diff(critic_objective) > 0).all()
assert (start_gain >= 0).all()
assert (report.conditional[2] < 0).any()
assert cached_objective[3] >= cached_objective[0]

# %% [markdown]
# With a critic the stage ends higher than the fresh one. The old rollouts visit hall and bench less than the team does now, so
# the same budget of KL *on the rollouts* lets the rows move further; the column `KL now` says by how much. The trust region is
# not kept. Here the direction is right, and further is better. The trust region measured on old rollouts does not hold anybody
# in contexts that the team has only just begun to visit.

# %%
assert all(x.kl < 1.001 * radius for x in critic_records)
assert critic_records[1].exact["kl"] > 1.5 * radius
assert critic_objective[3] > fresh_objective[3]

# %% [markdown]
# ## What a certificate says
#
# Lower bounds on the improvement of each update: believed minus a penalty. For `once` the bound on the cached gap (S7c), for
# `fresh` S7 and S9. The true improvement is never below them. S7 and S7c pay with the range of the return, which is 10 here, and
# promise nothing at this radius: the loss above contradicts no theorem. S9 pays with values, and promises two of the three
# updates on fresh rollouts. At a small radius it promises all of them.

# %%
for name, records in (("once", cached_records), ("fresh", fresh_records)):
    for x in records:
        if name == "once":
            floors = {"S7c": x.surrogate - x.exact["penalty_cached_log_sum"]}
        else:
            floors = {"S7": x.exact["certificate_estimable"], "S9": x.exact["certificate_weighted"]}
        shown = ", ".join(f"{rung} {float(floor):8.4f}" for rung, floor in floors.items())
        print(f"{name:<5} {agents[x.agent]:<11} true {x.exact['improvement']:8.4f}, at least {shown}")
        assert all(v <= x.exact["improvement"] for v in floors.values())
for small in (1e-2, 1e-3, 1e-4, 1e-5):
    _, records = run_stage(exact_backend(team, kl_constrained(small)), team_state(team, current), order)
    certified, true = (np.array([x.exact[name] for x in records]) for name in ("certificate_weighted", "improvement"))
    print(f"δ = {small:.0e}: S9 certifies {certified} of {true}")
assert max(x.surrogate - x.exact["penalty_cached_log_sum"] for x in cached_records) < 0
assert [bool(x.exact["certificate_weighted"] > 0) for x in fresh_records] == [True, True, False]
assert (certified > 0).all()

# %% [markdown]
# ## Importance weights
#
# The same one set of rollouts, reweighted to the current team. With exact tables and no truncation this *is* the fresh stage. A
# truncation at 1 takes the weights away where the team now goes more often: that is the critic on the old occupancy again. By
# samples the weights are those of whole paths, and degenerate as the team moves.

# %%
weighted_policy, _, weighted_objective = watch(importance_weighted(), quiet=True)
_, _, cut_objective = watch(importance_weighted(1.0), quiet=True)
print("fresh           ", fresh_objective)
print("weights         ", weighted_objective)
print("weights cut at 1", cut_objective)
assert np.allclose(weighted_policy, fresh_policy, atol=1e-9)
assert np.allclose(cut_objective, critic_objective, atol=1e-9)

# %% [markdown]
# ## Resample when the certificate asks for it
#
# S3 bounds the occupancy shift since the last rollouts by the KL that the trainer has on its monitor:
# `TV ≤ γ√(K/(2(1−γ)))`, `K` the sum of the KLs of the updates since. `certificate_driven` resamples once this exceeds a
# tolerance.

# %%
for x, moved in zip(cached_records, report.occupancy_tv_stale[1:], strict=False):
    bound = float(path_shift(x.path_kl, discount))
    print(f"after the {agents[x.agent]:<11} shift {float(moved):.4f}, certified {bound:.4f}")
    assert moved <= bound
_, certified_records, certified_objective = watch(certificate_driven(0.4, discount))
assert [x.resampled for x in certified_records] == [True, False, True]
assert (np.diff(certified_objective) > 0).all()

# %% [markdown]
# Two sets of rollouts in place of three, and no update loses. The worker's update went without new rollouts, the dispatcher's did
# not. Was that luck? The schedule looks at how far the team has moved, and not at whether it matters.
#
# ## Whom does a shift concern?
#
# `M[k,i] = Σ_s (m^{⟨k⟩} − m⁰)(s) g_i(s)`: agent k is updated alone, and agent i is judged in the contexts that this brings about
# (R5). To second order in the steps staleness adds `M[k,i] + M[i,k]` to the gap of update i, for every k before i: `M[k,i]` for
# the old occupancy, `M[i,k]` for the old advantages. It is known before anybody is updated, from *proposed* small steps: what
# each agent would do on the first rollouts. (This needs the tables. It is an analysis of a stage, and no schedule for a network.)

# %%
small = 1e-4
proposal, _ = run_stage(exact_backend(team, kl_constrained(small)), team_state(team, current), order, joint)
stage = Stage(team, current, proposal.policy, jnp.asarray(order))
proposed = evaluate_stage(stage)
M = np.asarray(interaction_matrix(stage, proposed))
print("M, in units of 1e-5\n", M / 1e-5)
occupancy, advantage = np.triu(M, 1).sum(0), np.tril(M, -1).sum(1)
print("occupancy    Σ_k<i M[k,i]", occupancy / 1e-5)
print("advantages   Σ_k<i M[i,k]", advantage / 1e-5)
print("sum                      ", (occupancy + advantage) / 1e-5)
print("cached − fresh gap, exact", np.asarray(proposed.gap_cached - proposed.gap_fresh) / 1e-5)
assert np.allclose(occupancy + advantage, proposed.gap_cached - proposed.gap_fresh, rtol=0.02, atol=1e-9)
assert abs(M[1]).max() < 1e-12  # from the bench everything leads back to the desk: the worker shifts nothing
assert occupancy[1] > abs(occupancy + advantage)[2]
assert occupancy[1] > 0 > advantage[2]
still = float(proposed.surrogate_intermediate[2] + proposed.gap_fresh[2])
print(f"true improvement by the dispatcher's cached update at δ = {small:.0e}: {still:.4f}")
assert still > 0

# %% [markdown]
# The worker's update has the largest error, and it is harmless: all of it is occupancy, its advantages are exact. The
# dispatcher's error is mostly one of advantages, and negative. It is of second order and what the trainer believes is of first,
# so at this small radius the dispatcher's update still gains, and at the larger one it loses. New rollouts are needed before
# the dispatcher's update and not before the worker's.
#
# In general: a trainer with old advantages looks below the diagonal. One with a critic looks above it (`skippable(M, …)`), and
# only if the size of the surrogate matters.

# %%
skip = np.asarray(skippable(jnp.asarray(np.tril(M, -1).T), 1e-9))
planned = Schedule("as M says", lambda update, records: not skip[update], lambda n: n)
print("advantages are still right for the update of:", [name for name, x in zip(agents, skip, strict=True) if x])
_, planned_records, planned_objective = watch(planned)
assert [x.resampled for x in planned_records] == [True, False, True]
assert np.array_equal(planned_objective, certified_objective)

# %% [markdown]
# ## A stage that ends below where it began
#
# Handover, a product team: three agents at two stations all act at once. If exactly one takes the item it moves on, and from the
# last station it is delivered; if several take it, it falls back. Each takes with probability 0.3. `joint` computes all updates
# against the first team: everybody takes more at station 0 and leaves station 1 to the others. `once` uses the same rollouts, and
# the tables of the others as they are by now.

# %%
handover = handover_team(3, 2)
half_hearted = jnp.broadcast_to(jnp.array([0.7, 0.3]), (3, 2, 2))


def with_objectives(backend):
    """An audit of one's own: J after each update, and nothing else."""

    def audit(states, records, schedule):
        return {"J": np.stack([backend.rollout(state, None).objective for state in states[1:]])}

    return backend._replace(audit=audit)


crowd = with_objectives(exact_backend(handover, kl_constrained(0.05), audit=False))
before, last = float(crowd.rollout(team_state(handover, half_hearted), None).objective), {}
print(f"J at the start {before:.4f}")
for schedule in (joint, once, fresh):
    state, records = run_stage(crowd, team_state(handover, half_hearted), [0, 1, 2], schedule)
    last[schedule.name] = [float(x.exact["J"]) for x in records]
    believed = np.array([x.surrogate for x in records])
    print(f"{schedule.name:<6} J {np.array(last[schedule.name])}, believes {believed}; takes at station 0, 1:",
          np.round(state.policy[..., 1], 2).tolist())  # fmt: skip
assert last["joint"][-1] < before  # the stage as a whole has lost
assert last["joint"][2] < last["joint"][1] < last["joint"][0]
assert (np.diff([before, *last["fresh"]]) > 0).all()
assert last["once"][-1] > last["fresh"][-1]

# %% [markdown]
# Here `once` ends even a little higher than `fresh`. No bound says that it must. What the agents have to know of each other is
# who takes where, and `once` knows that from the tables.
#
# ## When nothing goes wrong
#
# Random turn-taking teams (Garnet, 24 contexts, three agents) at `δ = 0.01`. One set of rollouts does for the stage: the mean
# difference to the fresh stage is within its interval of zero, and no update loses.

# %%
teams = random_stages(np.random.default_rng(0), 64, states=24, actions=3, agents=3, discount=0.9, branching=3)
garnet = with_objectives(exact_backend(teams.team, kl_constrained(0.01), audit=False))
begin, end = np.asarray(garnet.rollout(team_state(teams.team, teams.current), None).objective), {}
for schedule in (once, fresh):
    _, records = run_stage(garnet, team_state(teams.team, teams.current), [0, 1, 2], schedule)
    path = np.stack([begin, *(x.exact["J"] for x in records)])
    end[schedule.name] = path[-1]
    assert (np.diff(path, axis=0) > 0).all()
    print(f"{schedule.name:<5} mean gain of the stage {(path[-1] - begin).mean():.4f}, "
          f"updates that lose: {(np.diff(path, axis=0) < 0).sum()} of {np.diff(path, axis=0).size}")  # fmt: skip
difference = end["once"] - end["fresh"]
error = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
print(f"once − fresh: {difference.mean():.5f} ± {error:.5f} (95 %)")
assert abs(difference.mean()) < error < 0.01 * (end["fresh"] - begin).mean()

# %% [markdown]
# ## What to change
#
# * `order = [0, 2, 1]`: the dispatcher before the worker. What does it learn now under `fresh`, and why can no schedule help?
#   Which assertions fail?
# * `radius`: below which one does the cached stage lose no update? Try 0.003 and 0.001.
# * `r[1, 0]`, the reward for settling: between which two values does the dispatcher's cached update lose?
# * `ones[0] = 0.9`: the rollouts know the hall well. Compare `KL on rollouts` with `KL now`. How much does the last update lose?
# * Under `once` the worker gains more than the trainer believes. Which line of "two kinds of staleness" says so?
# * Handover from `[0.9, 0.1]`: at which radius does `joint` begin to lose an update, at which one the stage?
# * A schedule of your own: `Schedule(name, resample, draws)`, and `with_objectives` for an audit of your own.
