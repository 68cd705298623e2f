"""Tiny GRPO runs, and what happened in them as TRL's own public hooks tell it: rewards see the tokens, a callback the weights."""

import copy
import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from oracle import Message, Rollout
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from teamtr_jax.integrations import trl as adapter
from teamtr_jax.integrations.checked_version import installed

if os.environ.get("NEWEST"):  # try a version that the adapter does not know
    adapter.KNOWN = (*adapter.KNOWN, installed("trl"))

WORDS = 24
PAD, EOS = 0, 1


def tokenizer(pad="<pad>"):
    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(3, WORDS))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token=pad, eos_token="<eos>", unk_token="<unk>", padding_side="left")
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def network(seed=0, **settings):
    """A Llama whose policy is far from uniform, and ends after some words."""
    torch.manual_seed(seed)
    config = dict(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, bos_token_id=None,
        eos_token_id=EOS, pad_token_id=PAD, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**config, **settings}))
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
        for parameter in model.model.layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


PROMPTS = [" ".join(f"w{3 + (5 * i + j) % (WORDS - 3)}" for j in range(1 + i % 3)) for i in range(12)]
"""Of one to three words, all different."""


def share_of_even(completion_ids, **_):
    """In [0, 1], and seldom the same within a group."""
    return [float(np.mean([i % 2 == 0 for i in ids])) if ids else 0.0 for ids in completion_ids]


class Seen(TrainerCallback):
    """What a run did: rollouts in the order in which they were sampled, weights before and after every step."""

    def __init__(self, rewards):
        self.rewards = rewards
        self.sampled = []  # by generation: step, prompts, completion ids, rewards of each function
        self.before, self.after, self.step = [], [], 0

    def functions(self):
        def of(position, function):
            def reward(prompts, completions, completion_ids, **kwargs):
                found = function(completions=completions, completion_ids=completion_ids, prompts=prompts, **kwargs)
                if position == 0:
                    self.sampled.append((self.step, list(prompts), copy.deepcopy(completion_ids), []))
                self.sampled[-1][3].append(found)
                return found

            reward.__name__ = f"reward_{position}"
            return reward

        return [of(i, function) for i, function in enumerate(self.rewards)]

    def on_step_begin(self, args, state, control, model=None, **_):
        self.before.append(copy.deepcopy(model.state_dict()))
        self.step = state.global_step

    def on_step_end(self, args, state, control, model=None, **_):
        self.after.append(copy.deepcopy(model.state_dict()))


def settings(folder, **more):
    base = dict(
        output_dir=str(Path(folder) / "out"), use_cpu=True, bf16=False, per_device_train_batch_size=4, num_generations=4,
        gradient_accumulation_steps=2, max_completion_length=6, max_steps=3, learning_rate=3e-3, report_to="none",
        logging_steps=1, save_strategy="no", disable_tqdm=True, temperature=0.8, shuffle_dataset=False,
    )  # fmt: skip
    return GRPOConfig(**{**base, **more})


def trainer(
    folder, model=None, rewards=(share_of_even,), pad="<pad>", peft=None, rollout_func=None, evaluate_on=None, **more
):
    """A trainer, and what will be seen of it."""
    seen = Seen(rewards)
    made = GRPOTrainer(
        network() if model is None else model, seen.functions(), args=settings(folder, **more), callbacks=[seen],
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "role": [i % 2 for i in range(len(PROMPTS))]}),
        processing_class=tokenizer(pad), peft_config=peft, rollout_func=rollout_func,
        eval_dataset=None if evaluate_on is None else Dataset.from_dict({"prompt": list(evaluate_on)}),
    )  # fmt: skip
    return made, seen


def scored(model, weights, prompt, completion, temperature=0.8):
    """log π(token | what was before) of one rollout alone: transformers' forward, float64, no padding, no head of TRL's."""
    model = copy.deepcopy(model).double().eval()
    model.load_state_dict({key: value.double() for key, value in weights.items()})
    ids = torch.tensor([[*tokenizer()(prompt)["input_ids"], *completion]])
    with torch.no_grad():
        logits = model(ids).logits[0] / temperature
    logps = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return logps[len(ids[0]) - len(completion) - 1 :].numpy()


def expected(seen, model, step, source=None, temperature=0.8, weights=(1.0,)):
    """The rollouts of the generation `source` (default: of this step) as an update at `step` should have them."""
    source = step if source is None else source
    out = []
    for at, prompts, completions, rewards in seen.sampled:
        if at == source:
            for i, (prompt, ids) in enumerate(zip(prompts, completions, strict=True)):
                given = [(w, r[i]) for w, r in zip(weights, rewards, strict=True) if r[i] is not None]
                b, c, n = (
                    scored(model, x, prompt, ids, temperature)
                    for x in (seen.before[at], seen.before[step], seen.after[step])
                )
                out.append(Rollout(prompt, sum(w * r for w, r in given), [Message(b, c, n)]))
    return out


def logged(table, step, stage=0):
    """The rollouts of one update of the log, in the order of their ids."""
    here = table[(table["stage"] == stage) & (table["update"] == step)]
    here = here.sort_values(["prompt", "rollout", "turn", "t"], kind="stable")
    out = []
    for (prompt, _), rows in here.groupby(["prompt", "rollout"], sort=True):
        messages = [
            Message(*(part[f"logp_{key}"].to_numpy() for key in ("behaviour", "current", "new")))
            for _, part in rows.groupby("turn", sort=True)
        ]
        out.append(Rollout(prompt, rows["reward"].iloc[0], messages))
    return out


def read(folder):
    """All rows of a log, by pandas: not by the package."""
    import pandas

    parts = sorted(Path(folder).glob("*.parquet"))
    return pandas.concat([pandas.read_parquet(part) for part in parts], ignore_index=True)


def flat(rollouts, key):
    return np.concatenate([getattr(m, key) for r in rollouts for m in r.messages])
