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
# # Three networks, every transcript
#
# Three small transformers share one transcript and are trained by reinforcement learning. The team is small enough for every
# transcript to be enumerated, so beside what the trainer sees (sampled, with intervals) stands what is true (exact). Then one
# agent is replaced by a wider network, directly and after alignment. At the end the monitor reads the log that the trainer wrote.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import tempfile
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binomtest

from teamtr_jax.llm.alignment import AlignmentSettings, align
from teamtr_jax.llm.backend import LanguageSampling, TokenLogger, collect, language_backend
from teamtr_jax.llm.enumeration import enumerate_world, enumerated_policy, network_audit, verified
from teamtr_jax.llm.layout import messages
from teamtr_jax.llm.model import LanguageTeam, ModelConfig, init_params, init_team, parameter_count
from teamtr_jax.llm.replacement import replace_agent, swap_report
from teamtr_jax.llm.tasks import Problem, check_task, draw, layout_of
from teamtr_jax.llm.update import init_train_state
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.monitor import Settings, monitor, pool, token_log, write_page
from teamtr_jax.schedules import fresh, once
from teamtr_jax.stage import run_stage

np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## Task and team
#
# A task of our own. The prompt is two symbols. Each of three agents writes the symbol after the last one in the transcript. The
# reward is the share of messages that are right, so what an agent should write depends on what the one before wrote.


# %%
class CountOn:
    name, roles, turns, ends = "count on", ("first", "second", "third"), 3, False
    characters, prompt_only = "abcd", ""
    prompt_length, message_length, caps = 2, 1, None

    def sample(self, rng):
        return Problem("".join("abcd"[i] for i in rng.integers(4, size=2)), "")

    def verify(self, problem, messages):
        text = problem.prompt[-1] + "".join(messages)
        return sum((ord(y) - ord(x)) % 4 == 1 for x, y in pairwise(text)) / 3

    def demonstrate(self, problem, rng):
        start = "abcd".index(problem.prompt[-1])
        return ["abcd"[(start + k) % 4] for k in (1, 2, 3)]


task = CountOn()
check_task(task)
layout = layout_of(task)
team = LanguageTeam(layout, (ModelConfig(width=32, layers=1, heads=2),) * 3)
params = init_team(team, jax.random.key(0))
print(parameter_count(params) // 3, "parameters an agent;", layout.length, "ids a transcript")

# %% [markdown]
# ## The tree of all transcripts
#
# Prompts are chance nodes, tokens are the agents' moves. `policy` holds the probabilities of the three networks at every prefix:
# from here on the same functions as for tables.

# %%
everything = draw(task, np.random.default_rng(0), 500, held_out=False)
problems = list({problem.prompt: problem for problem in everything}.values())
world = enumerate_world(team, [problem.prompt for problem in problems], verified(layout, problems, task.verify))
policy = enumerated_policy(world, params)
print(len(problems), "training prompts,", world.tokens.shape[0], "transcripts,", policy.shape[0], "nodes")

# %% [markdown]
# ## Training, and what is true of it
#
# Algorithm 1: rollouts under the team as it stands, group-normalised advantages, PPO-clip on the message ratio, an adaptive KL
# penalty and a trust region, one agent after the other. The audit evaluates every update exactly. Every token goes into a log.

# %%
settings = UpdateSettings(learning_rate=3e-3, epochs=4, minibatch=128, micro_batch=32, delta=0.05)
sampling = LanguageSampling(prompts=96, group=8, held_out=64)
STAGES = 12


def train(schedule, seed=1):
    """Records of all updates, the last state, and the token log."""
    rows = []
    log = TokenLogger(rows.append, rescore=True)
    backend = language_backend(team, task, settings, sampling, audit=network_audit(world), log=log)
    state, records = init_train_state(team, params, settings), []
    for stage in range(STAGES):
        log.begin(stage)
        key = jax.random.fold_in(jax.random.key(seed), stage)
        state, new = run_stage(backend, state, range(3), schedule, key, stage)
        records += new
    return records, state, {name: np.concatenate([x[name] for x in rows]) for name in rows[0]}


records, state, columns = train(fresh)
print("agent    KL exact  KL sampled  improvement  S7 exact  S7 sampled")
for r in records[:6]:
    print(
        f"{r.agent:5d} {r.exact['kl']:11.5f} {r.kl:11.5f} {r.exact['improvement']:12.5f}"
        f" {r.exact['certificate_estimable']:9.5f} {r.info['certificate_estimable']:11.5f}"
    )

# %% [markdown]
# `KL` is summed over the episode, in nats, current first. `S7` is the certificate `L − ϱ·KL`, exactly and from the rollouts. The
# sampled one is an estimate on the rollouts that the update was trained on: optimistic, and no guarantee.

# %%
cached, _, _ = train(once)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
for name, chosen in {"fresh": records, "once a stage": cached}.items():
    axes[0].plot([r.exact["objective_after"] for r in chosen], label=name)
    axes[1].plot([abs(r.exact["gap_stale" if chosen is cached else "gap_fresh"]) for r in chosen], label=name)
axes[0].set(xlabel="update", ylabel="J, exact", title="objective")
axes[1].set(xlabel="update", ylabel="|gap| of the surrogate in use", yscale="log", title="gap")
true = [r.exact["improvement"] for r in records]
axes[2].plot(true, label="improvement")
axes[2].plot([r.exact["certificate_estimable"] for r in records], label="S7, exact")
axes[2].plot([r.exact["certificate_weighted"] for r in records], label="S9, exact")
axes[2].set(xlabel="update", title="fresh: certificate below improvement")
for axis in axes:
    axis.legend(frameon=False)
plt.show()
violations = sum(int(r.exact["violations"]) for r in [*records, *cached])
print(f"{len(records) + len(cached)} updates of networks, every rung of the ladder: {violations} violations (float)")

# %% [markdown]
# ## What the team says

# %%
seen = draw(task, np.random.default_rng(5), sampling.prompts, held_out=False)
probes, reward = collect(team, state.params, seen, task, sampling.group, jax.random.key(4))
said = messages(layout, probes.tokens)
for k in range(4):
    print(seen[k].prompt, "→", *said[k * sampling.group], f"reward {reward[k, 0]:.2f}")

# %% [markdown]
# ## Another agent
#
# Agent 1 is replaced by a wider network from another seed: directly, and after it was brought into a KL ball around the outgoing
# agent on these conversations (U3). Both swaps are booked as updates (P3.8), exactly.

# %%
wide = ModelConfig(width=48, layers=1, heads=2)
newcomer = init_params(wide, layout, jax.random.key(9))
aligned, how = align(team, state.params, 1, wide, newcomer, probes, AlignmentSettings(radius=0.05))
print(f"KL(outgoing‖·) on held-out probes: {how.before.held_out_kl:.3f} before, {how.after.held_out_kl:.3f} after")
before = enumerated_policy(world, state.params)
for name, own in {"direct": newcomer, "aligned": aligned}.items():
    other, swapped = replace_agent(team, state.params, 1, wide, own)
    there = enumerate_world(other, [p.prompt for p in problems], verified(layout, problems, task.verify))
    report = swap_report(world.team, before, enumerated_policy(there, swapped), 1)
    print(f"{name:8} J {report['objective_before']:.3f} → {report['objective_after']:.3f}, δ {report['kl']:.3f},",
          f"S7 {report['certificate_estimable']:.3f}")  # fmt: skip

# %% [markdown]
# ## The monitor
#
# It knows nothing of networks or tasks: it reads a token log, here the one of the run with fresh rollouts. `teamtr monitor
# LOG.parquet --html PAGE.html` does the same from the command line, for any trainer that writes such a log
# ([how](../../docs/monitor.md)).

# %%
unseen = columns["prompt"] % sampling.prompts >= sampling.prompts - sampling.held_out
logs = {"all rollouts": columns, "held out": {name: x[unseen] for name, x in columns.items()}}
reports = {
    name: monitor(token_log(x), Settings(delta=settings.delta, held_out=name == "held out")) for name, x in logs.items()
}
for name, report in reports.items():
    inside = total = 0
    for matrix in report.interactions:
        for update, drift in zip(matrix.updates, matrix.drift, strict=True):
            if drift is not None and update > 0:
                exact = float(records[3 * matrix.stage + update].exact["seq_minus_stale"])
                inside, total = inside + (drift.low <= exact <= drift.high), total + 1
    low, high = binomtest(inside, total).proportion_ci()
    print(
        f"{name}: {report.rows} rows; L_seq − L_stale: {inside} of {total} intervals (nominal 90 %) hold the exact number,"
    )
    print(
        f"  {100 * inside / total:.0f} % [{100 * low:.0f}, {100 * high:.0f}] (Clopper–Pearson, 95 %, as if independent)"
    )

# %% [markdown]
# An update fits the noise of the rollouts that it was trained on: intervals from those promise nothing. The last 64 prompts of
# every set were held out of training: their intervals are asymptotic, and so few say little about how often they hold.

# %% [markdown]
# Whose update spoiled whose context, means over the stages: row k, column i is what the update of agent k does to the surrogate
# of agent i (R5).

# %%
report = reports["held out"]
pooled = pool(report.interactions, alpha=0.1)
for k, row in zip(pooled.agents, pooled.entries, strict=True):
    print(k, *(" " * 24 if x is None else f"{x.value:8.5f} [{x.low:7.5f}, {x.high:7.5f}]" for x in row))
page = Path(tempfile.mkdtemp()) / "monitor.html"
write_page(report, page, "three networks")
print("a page with figures:", page.stat().st_size > 0)
