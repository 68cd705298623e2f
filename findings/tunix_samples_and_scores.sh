#!/usr/bin/env bash
# tunix 0.1.7 (google-tunix), GRPO with its own sampler ("vanilla"), a tiny Qwen3 on a CPU. What a log of it has to know:
# 1. The end of sequence is left out of what the sampler returns: GRPO neither scores nor trains the decision to stop.
# 2. RolloutConfig.seed = None is the key 0 at every call: the same noise in every step and in every micro-batch. Weights that
#    did not move give the same rollouts again; prompts of two micro-batches are not independent. A seed of one's own is as fixed.
# 3. With num_iterations > 1 the old log-probabilities are of temperature 1, those of the loss of the sampling temperature
#    (default .9): before any step the ratio is not 1. Here, at .7, 28 % of the tokens begin outside the clip range.
# 4. Behind a pad that the model wrote, the sampler counts its place and the trainer does not: two policies for one model.
# 5. On one mesh the anchor never moves: RLCluster.get_actor_per_token_logps scores the weights that training began with.
# 6. RolloutConfig.seed is annotated as a jax array. Such a seed is donated to the first call, and the second step of training
#    ends with "Array has been deleted". An int works.
# Guess before: of 3, a quarter of the tokens outside the clip range (28 % of a sharp network; none of one that is nearly
# uniform). The others were met while reading the source, without a guess, and then run.
# For a user: rollout_config.temperature = 1 with num_iterations > 1; a new int as the seed in every step;
# a pad id that the model cannot write.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check google-tunix==0.1.7 jax==0.10.2 jaxlib==0.10.2 \
  flax==0.12.8 optax==0.2.8 orbax-checkpoint==0.12.8 numpy==2.4.6 safetensors==0.7.0
"$folder/env/bin/python" -W ignore - <<'PY'
import logging
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tunix import ClusterConfig, GRPOConfig, GRPOLearner, RLCluster, RLTrainingConfig, Role, RolloutConfig
from tunix.models.qwen3 import model as qwen3
from tunix.rl import common

logging.disable(logging.WARNING)
EOS, PAD, LIMIT = 2, 0, 6


class Words:
    encode = staticmethod(lambda text, **_: [int(word) for word in text.split()])
    decode = staticmethod(lambda ids, **_: " ".join(map(str, ids)))
    bos_id, eos_id, pad_id = staticmethod(lambda: 1), staticmethod(lambda: EOS), staticmethod(lambda: PAD)


def learner():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    config = qwen3.ModelConfig(
        num_layers=2, vocab_size=12, embed_dim=16, hidden_dim=32, num_heads=2, head_dim=8, num_kv_heads=1,
        rope_theta=10_000, norm_eps=1e-6, use_tied_embedding=True,
    )
    model = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
    table = model.embedder.input_embedding
    table.set_value(40 * table.get_value())  # a policy that is not uniform
    cluster = RLCluster(
        actor=model,
        tokenizer=Words(),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
            training_config=RLTrainingConfig(actor_optimizer=optax.sgd(0.1), eval_every_n_steps=100, max_steps=4),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=LIMIT, max_prompt_length=4, kv_cache_size=16, temperature=0.7, return_logprobs=True
            ),
        ),
    )
    reward = lambda prompts, completions, **_: [float(len(c.split()) % 2) for c in completions]
    return GRPOLearner(cluster, GRPOConfig(num_generations=4, num_iterations=2, beta=0.0), reward)


made = learner()
cluster, trainer = made.rl_cluster, made.rl_cluster.actor_trainer
prompts = ["3 4 5"] * 8 + ["6 7"] * 8
first = cluster.generate(prompts, micro_batch_size=8)
lengths = [len(ids) for ids in first.tokens]
ended = sum(n < LIMIT for n in lengths)
print(f"1. {ended} of 16 completions ended before the limit; {sum(EOS in ids for ids in first.tokens)} contain the end of sequence")
again = cluster.generate(prompts, micro_batch_size=8)
same = all(np.array_equal(a, b) for a, b in zip(first.tokens, again.tokens))
halves = cluster.generate(["3 4 5"] * 16, micro_batch_size=8).tokens
shared = all(np.array_equal(a, b) for a, b in zip(halves[:8], halves[8:]))
print(f"2. sampled again: the same tokens: {same}; the two micro-batches of one prompt: the same tokens: {shared}")

ids = np.full((16, LIMIT), PAD)
for row, found in enumerate(first.tokens):
    ids[row, : len(found)] = found
padded, mask = first.left_padded_prompt_tokens, np.arange(LIMIT) < np.array(lengths)[:, None]
old = np.asarray(cluster.get_old_per_token_logps(padded, ids))
now = np.asarray(common.compute_per_token_logps(*nnx.split(trainer.model), padded, ids, PAD, EOS, temperature=0.7))
ratio = np.exp(now - old)[mask]
outside = (abs(ratio - 1) > 0.2).mean()
print(f"3. ratio of the loss to the old log-probabilities, before any step: {ratio.min():.2f} to {ratio.max():.2f}, {outside:.0%} outside 1 ± .2")

engine = np.full((16, LIMIT), np.nan)
for row, found in enumerate(first.logprobs):
    engine[row, : len(found)] = found
behind = np.cumsum((ids == PAD) & mask, 1) - ((ids == PAD) & mask) > 0
gap = abs(engine - now)
print(f"4. sampler and trainer differ by {gap[mask & ~behind].max():.0e}, behind a pad that the model wrote ({(mask & behind).sum()} tokens) by {gap[mask & behind].max():.2f}")

made.train([{"prompts": np.array(["3 4 5", "6 7"])}] * 2)
anchor = np.asarray(cluster.get_actor_per_token_logps(padded, ids, PAD, EOS))
after = np.asarray(common.compute_per_token_logps(*nnx.split(trainer.model), padded, ids, PAD, EOS, temperature=0.7))
stale, moved = abs(anchor - now)[mask].max(), abs(after - now)[mask].max()
print(f"5. after two global steps on one mesh the actor moved by {moved:.2f}, what get_actor_per_token_logps scores by {stale:.0e}")
cluster.cluster_config.rollout_config.seed = jax.random.PRNGKey(7)
cluster.generate(prompts)
try:
    cluster.generate(prompts)
    said = "nothing"
except RuntimeError as error:
    said = str(error)
print(f"6. a jax key as the seed, second call: {said}")
kept = "deleted" in said and ended and not any(EOS in ids for ids in first.tokens) and same and shared and outside > 0.1
kept = kept and gap[mask & ~behind].max() < 1e-4 < 2e-3 < gap[mask & behind].max() and stale < 1e-5 < 1e-2 < moved
print("as described" if kept else "the behaviour has changed")
sys.exit(not kept)
PY
