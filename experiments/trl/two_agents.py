"""Two tiny language models, one after the other trained by TRL's GRPO inside trust regions: `python -m experiments.trl.two_agents`.

A *scout* sees a number and says a word; an *actor* hears only the word and answers with a number. Paid is the number that the scout
saw: neither message is worth anything without the other, and what the words mean is theirs to settle. Both are Llamas of two
layers, taught by a few supervised steps to be right now and then.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

WORDS = "red green blue white black brown pink grey".split()
SCOUT, ACTOR = "scout", "actor"


def heard(agent: str, row: dict[str, Any], said: list[tuple[str, str]]) -> str:
    """What an agent reads at its turn."""
    return f"scout sees {row['number']} says" if agent == SCOUT else f"actor hears {said[0][1]} answers"


def reward(row: dict[str, Any], said: list[tuple[str, str]]) -> float:
    """1 for the number that the scout saw."""
    return float(said[1][1] == str(row["number"]))


def tokenizer():
    """One word, one id."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<end>",
        "<unk>",
        *"scout actor sees says hears answers".split(),
        *WORDS,
        *map(str, range(len(WORDS))),
    ]
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    out = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    out.padding_side = "left"
    return out


def model(words, seed: int):
    """A Llama of two layers, width 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def taught(net, words, agent: str, rng, steps: int = 200, right: float = 0.5):
    """A few supervised steps: the right word or number in a share of the examples, any in the others."""
    import torch

    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        number = rng.integers(len(WORDS), size=64)
        said = np.where(rng.random(64) < right, number, rng.integers(len(WORDS), size=64))
        if agent == SCOUT:
            texts = [f"{heard(SCOUT, {'number': x}, [])} {WORDS[y]} <end>" for x, y in zip(number, said, strict=True)]
        else:
            texts = [f"{heard(ACTOR, {}, [(SCOUT, WORDS[x])])} {y} <end>" for x, y in zip(number, said, strict=True)]
        ids = torch.tensor(words(texts)["input_ids"])
        labels = ids.clone()
        labels[:, :-2] = -100
        loss = net(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def trainer(net, words, data, args):
    """TRL's own, with nothing of ours but the reward that the environment pays."""
    from trl import GRPOConfig, GRPOTrainer

    from teamtr_jax.integrations.trl_team import team_reward

    config = GRPOConfig(
        output_dir=str(args.out / "trl"), per_device_train_batch_size=args.prompts * args.group, num_generations=args.group,
        num_iterations=args.steps, max_completion_length=2, learning_rate=args.rate, lr_scheduler_type="constant",
        beta=0.0, temperature=1.0, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=False, use_cpu=True,
        bf16=False, gradient_checkpointing=False, seed=args.seed,
    )  # fmt: skip
    return GRPOTrainer(model=net, args=config, train_dataset=data, processing_class=words, reward_funcs=team_reward)


def main() -> None:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    parser = argparse.ArgumentParser()
    parser.add_argument("--resample", default="fresh")
    parser.add_argument("--order", default="given")
    parser.add_argument("--stages", type=int, default=10)
    parser.add_argument("--radius", type=float, default=0.05)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/trl/two_agents"))
    args = parser.parse_args()
    import torch
    from datasets import Dataset

    from teamtr_jax.integrations.schedule import TeamTRSchedule
    from teamtr_jax.integrations.trl_team import TrlTeam, TurnTaking

    torch.set_num_threads(1)
    words = tokenizer()
    rng = np.random.default_rng(args.seed)
    data = Dataset.from_list([{"prompt": f"number {x}", "number": x} for x in range(len(WORDS)) for _ in range(2)])
    nets = {name: taught(model(words, args.seed + i), words, name, rng) for i, name in enumerate((SCOUT, ACTOR))}
    trainers = {name: trainer(net, words, data, args) for name, net in nets.items()}
    team = TrlTeam(trainers, TurnTaking((SCOUT, ACTOR), heard, reward), seed=args.seed)
    torch.manual_seed(args.seed)
    start = time.time()
    schedule = TeamTRSchedule(
        team, log=args.out / "log", radius=args.radius, resample=args.resample, order=args.order, seed=args.seed
    )
    schedule.report = lambda x: print(
        f"{x.stage}.{x.update} {team.names[x.agent]} source {x.source} reward {x.reward:.3f} k3 {x.kl:.4f} (reached "
        f"{x.kl_reached:.4f}, kept {x.share:.2f} of step {x.steps}) k1 {x.kl_k1:+.4f} L {x.surrogate:+.4f} shift {x.shift:.3f}"
    )
    schedule.train(args.stages)
    print(round(time.time() - start, 1), "s")


if __name__ == "__main__":
    main()
