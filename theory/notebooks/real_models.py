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
# # Real language models: load, talk, train, certify, swap, export
#
# Two checkpoints of different families with different tokenizers. They are tiny and their weights are random, so what they say is
# noise; everything else is as with real ones, of which [this page](../../docs/models.md) says more.

# %%
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import teamtr_jax
from teamtr_jax.intervals import mean
from teamtr_jax.llm.backend import LanguageSampling
from teamtr_jax.llm.checkpoint_team import team_of
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.llama.peft_adapters import load_adapters, save_adapters
from teamtr_jax.llm.tasks import Problem, check_word_task, draw
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text_backend import TextTalk, init_text_state, text_backend, whole_params
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.schedules import fresh
from teamtr_jax.stage import run_stage

tiny = Path(teamtr_jax.__file__).parents[1] / "tests/fixtures/checkpoints"

# %% [markdown]
# ## A task, and what a random network can learn of it
#
# The reward is the share of small letters in what both write. No language is needed for that, only other frequencies of tokens.


# %%
class Letters:
    name, turns = "letters", 2
    roles = Role("writer", "You write a line.", cap=4), Role("editor", "You write it again, better.", cap=4)

    def sample(self, rng):
        return Problem(f"Line {rng.integers(10**6)}", "")

    def verify(self, problem, messages):
        text = "".join(messages)
        return sum("a" <= x <= "z" for x in text) / max(len(text), 1)


task = Letters()
check_word_task(task)
PROMPTS, GROUP = 10, 24  # of every set of conversations: one compiled shape

# %% [markdown]
# ## Load and talk
#
# A Llama with adapters beside a frozen base, and a Qwen 2 all of which is trained. Each agent reads its own encoding of the text,
# and goes on reading the ids that it drew, whatever their text would be encoded as.

# %%
writer, editor = load_agent(tiny / "smollm2", lora=Lora(rank=4, alpha=8.0)), load_agent(tiny / "qwen2")
team, params = team_of([writer, editor], task.roles, task.turns)
unseen = draw(task, np.random.default_rng(5), PROMPTS, held_out=True)
said = converse(team, params, [x.prompt for x in unseen], jax.random.key(0), GROUP)
for agent, view in zip((writer, editor), said.views, strict=True):
    ids = view.ids[0, : view.length[0]].tolist()
    print(f"{agent.name} reads {len(ids)} ids:", ascii(agent.tokenizer.decode(ids)), "\n")
print(f"{said.drift.drifted} of {said.drift.messages} messages drift: their text, encoded again, gives other ids")

# %% [markdown]
# Networks that write random bytes drift nearly always; those that write words seldom do. Who encoded the texts again would score
# other messages than were drawn.
#
# ## Train
#
# Stages of Algorithm 1: new rollouts before each update, one agent after the other.

# %%
settings = UpdateSettings(learning_rate=0.01, epochs=1, minibatch=48, micro_batch=48, delta=0.5, beta=0.05)
sampling = LanguageSampling(PROMPTS, GROUP, held_out=2)
STAGES = 8
start, frozen = init_text_state(team, params, settings)
backend = text_backend(team, frozen, task, settings, sampling, TextTalk(length=128))


def one_stage(state, stage):
    return run_stage(backend, state, [0, 1], fresh, jax.random.fold_in(jax.random.key(1), stage), stage)


state, records = one_stage(start, 0)  # the first one compiles

# %%
for stage in range(1, STAGES):
    state, new = one_stage(state, stage)
    records += new
now = whole_params(state, frozen)


def held_out(who, what):
    """Mean reward on held-out prompts with its 95 % interval over prompts."""
    found = converse(who, what, [x.prompt for x in unseen], jax.random.key(9), GROUP)
    reward = [task.verify(unseen[row // GROUP], texts) for row, texts in enumerate(found.said)]
    return mean(np.reshape(reward, (PROMPTS, GROUP)).mean(1), alpha=0.05)


before, after = held_out(team, params), held_out(team, now)
print("share of small letters, held-out prompts: before", before, "after", after)

# %% [markdown]
# ## Certify
#
# What each update certified, and how far the numbers can be trusted: *mismatch* is how far the trainer's log-probability of a
# message is from that by which it was drawn (S12), *floor* the KL of a policy with itself, scored by other programs and in other
# shapes. In float32 both are rounding; in bfloat16 the floor can exceed the radius.

# %%
print("update  agent   reward  KL a message      S7       S8    mismatch    floor")
for i, x in [*enumerate(records)][:4] + [*enumerate(records)][-2:]:
    info = x.info
    print(
        f"{i:6d}  {team.names[x.agent]:6}  {info['reward']:6.3f}  {info['message_kl']:12.4f}"
        f"  {info['certificate_estimable']:6.3f}  {info['certificate_finite_sample']:7.3f}"
        f"  {info['mismatch_mean']:10.1e}  {info['floor']:.1e}"
    )

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
axes[0].plot([x.info["reward"] for x in records])
axes[0].set(xlabel="update", ylabel="mean reward of the rollouts", title="share of small letters")
for name in ("message_kl", "mismatch_k3", "floor"):
    axes[1].plot([max(x.info[name], 1e-16) for x in records], label=name)
axes[1].axhline(settings.delta, color="grey", linewidth=0.8, label="δ")
axes[1].set(xlabel="update", ylabel="nats a message", yscale="log", title="what a KL has to exceed")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# S7 here is an estimate on the rollouts that trained, optimistic; where it is negative the step was too long to be certified,
# though the reward may rise. S8 is a lower confidence limit from two held-out prompts: so few certify nothing. A run that is to
# be certified takes a smaller radius, more prompts and more stages than a minute allows.
#
# ## Swap
#
# The editor's place goes to a Qwen 3 with a tokenizer of its own that was trained on nothing. The writer keeps what it learned.

# %%
newcomer = load_agent(tiny / "qwen3")
swapped, together = team_of([writer._replace(params=now[0]), newcomer], task.roles, task.turns)
print("with the trained editor", after, "with the newcomer", held_out(swapped, together))

# %% [markdown]
# ## Export
#
# The writer's adapters in PEFT's format, and back: the same network.

# %%
folder = Path(tempfile.mkdtemp()) / "writer"
save_adapters(folder, writer.model, now[0], base="smollm2")
model, again = load_adapters(folder, writer.model, writer.params)
same = jax.tree.map(lambda x, y: bool((x == y).all()), again, now[0])
print(sorted(path.name for path in folder.iterdir()), "the same:", model == writer.model and all(jax.tree.leaves(same)))
