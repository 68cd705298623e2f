"""Tiny runs of tunix's GRPO learner, what it showed, and its rollouts scored again one by one, without padding, in float64."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from jax.sharding import Mesh
from oracle import Message, Rollout
from tunix import ClusterConfig, GRPOConfig, GRPOLearner, RLCluster, RLTrainingConfig, Role, RolloutConfig
from tunix.models.qwen3 import model as qwen3

WORDS, EOS, GROUP, LIMIT = 12, 2, 4, 6
PROMPTS = np.array(["3 4 5", "6 7", "8 9 10", "11"])


class Words:
    """A tokenizer whose words are numbers."""

    def __init__(self, pad):
        self.pad = pad

    def encode(self, text, **_):
        return [int(word) for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(str(int(i)) for i in ids)

    def bos_id(self):
        return 1

    def eos_id(self):
        return EOS

    def pad_id(self):
        return self.pad


def even(prompts, completions, **_):
    """Share of even words."""
    return [0.5 * float(np.mean([int(w) % 2 == 0 for w in c.split()] or [0])) for c in completions]


def short(prompts, completions, **_):
    """Of completions that did not end it says nothing."""
    return [0.5 if len(c.split()) < LIMIT else float("nan") for c in completions]


def reward(ids):
    """What tunix makes of both: their sum, NaN left out. The end of sequence is in no text."""
    words = [i for i in ids if i != EOS]
    return 0.5 * np.mean([i % 2 == 0 for i in words] or [0]) + (0.5 if len(words) < LIMIT else 0.0)


def network(lora=False, dtype=jnp.float32):
    """A policy far from uniform, on one device."""
    config = qwen3.ModelConfig(
        num_layers=2, vocab_size=WORDS, embed_dim=16, hidden_dim=32, num_heads=2, head_dim=8, num_kv_heads=1,
        rope_theta=10_000, norm_eps=1e-6, use_tied_embedding=True, dtype=dtype, param_dtype=dtype,
    )  # fmt: skip
    model = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
    table = model.embedder.input_embedding
    table.set_value(40 * table.get_value())
    if lora:
        provider = qwix.LoraProvider(module_path=".*q_proj|.*down_proj", rank=2, alpha=8.0)
        model = qwix.apply_lora_to_model(model, provider, **model.get_model_input(), rngs=nnx.Rngs(1))
    return model


class Seen:
    """Weights around every step, and the rollouts, as the learner's own methods are passed them."""

    def __init__(self):
        self.batches = []  # global step, optimiser's steps, prompts [N, P], completions [n], engine's numbers
        self.steps = []  # global step, optimiser's steps and state before, the same after

    def states(self, first, last):
        """Before the optimiser's step number `first`, and after that which made it `last`."""
        before = next(state for at, state, _, _ in self.steps if at == first)
        after = [state for _, _, at, state in self.steps if at == last][-1]
        return before, after


def learner(
    pad=EOS,
    apart=False,
    lora=False,
    dtype=jnp.float32,
    updates=2,
    mini=None,
    micro=None,
    iterations=2,
    record=True,
    **rollout,
):
    """A learner, and what it shows while it trains."""
    devices = np.array(jax.devices())
    mesh, other = (Mesh(devices[i : i + 1].reshape(1, 1), ("fsdp", "tp")) for i in (0, 1))
    with mesh:
        model = network(lora, dtype)
    settings = dict(max_tokens_to_generate=LIMIT, max_prompt_length=4, kv_cache_size=16, temperature=0.7)
    cluster = RLCluster(
        actor=model,
        tokenizer=Words(pad),
        cluster_config=ClusterConfig(
            role_to_mesh={Role.ACTOR: mesh, Role.REFERENCE: mesh, Role.ROLLOUT: other if apart else mesh},
            training_config=RLTrainingConfig(
                actor_optimizer=optax.adam(5e-3), eval_every_n_steps=1000, max_steps=updates * iterations,
                mini_batch_size=mini, train_micro_batch_size=micro,
            ),
            rollout_config=RolloutConfig(**{**settings, **rollout}),
        ),
    )  # fmt: skip
    made = GRPOLearner(cluster, GRPOConfig(num_generations=GROUP, num_iterations=iterations, beta=0.0), [even, short])
    seen = Seen()
    if record:
        _record(cluster, seen)
    return made, seen


def _record(cluster, seen):
    trainer, generate, update = cluster.actor_trainer, cluster.generate, cluster.update_actor

    def state():
        return jax.tree.map(np.asarray, nnx.state(trainer.model))

    def generated(*given, **named):
        out = generate(*given, **named)
        seen.batches.append(
            (cluster.global_steps, trainer.train_steps, out.left_padded_prompt_tokens, out.tokens, out.logprobs)
        )
        return out

    def updated(*given, **named):
        before = trainer.train_steps, state()
        update(*given, **named)
        seen.steps.append((*before, trainer.train_steps, state()))

    cluster.generate, cluster.update_actor = generated, updated


def train(made, steps):
    made.train([{"prompts": PROMPTS}] * steps)
    return jax.tree.map(np.asarray, nnx.state(made.rl_cluster.actor_trainer.model))


def alone(made, state, prompts, completions, temperature=0.7):
    """Log-probabilities of completions, each in its own row with nothing before it: [n] arrays, float64 from the logits on."""
    graph = nnx.graphdef(made.rl_cluster.actor_trainer.model)
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        tokens[row, : len(p) + len(c)] = [*p, *c]

    @jax.jit
    def logits_of(state, tokens):
        places = jnp.broadcast_to(jnp.arange(width), tokens.shape)
        seen = jnp.broadcast_to(jnp.tril(jnp.ones((width, width), bool)), (len(tokens), width, width))
        return nnx.merge(graph, state)(tokens, places, None, seen)[0]

    logits = np.asarray(logits_of(state, tokens), np.float64) / temperature
    logp = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    return [
        np.array([logp[row, len(p) - 1 + t, token] for t, token in enumerate(c)])
        for row, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]


def expected(made, seen, step, last, pad=EOS):
    """Rollouts of the weights that the optimiser's step number `step` started from, scored with these and those of `last`."""
    rollouts = []
    before, after = seen.states(step, last)
    for number, (_, at, padded, tokens, _) in enumerate(seen.batches):
        if not step <= at < last:
            continue
        prompts = [[int(i) for i in row if i != pad] for row in padded]
        completions = [[*map(int, ids), EOS][:LIMIT] for ids in tokens]
        current, new = (alone(made, state, prompts, completions) for state in (before, after))
        for row, ids in enumerate(completions):
            message = Message(current[row], current[row], new[row])
            rollouts.append(Rollout((number, row // GROUP), reward(ids), [message]))
    return rollouts


def logged(log, stage, update):
    """The rollouts of an update as they stand in the log, in order, and their token ids."""
    here = (log.stage == stage) & (log.update == update)
    order = np.flatnonzero(here)[np.lexsort((log.t[here], log.rollout[here], log.prompt[here]))]
    parts = np.split(order, np.flatnonzero(np.diff(log.t[order]) < 1) + 1)
    rollouts = [
        Rollout(
            int(log.prompt[rows[0]]),
            float(log.reward[rows[0]]),
            [Message(log.logp_behaviour[rows], log.logp_current[rows], log.logp_new[rows])],
        )
        for rows in parts
    ]
    return rollouts, [log.token[rows].tolist() for rows in parts], [log.logp_again[rows] for rows in parts]
