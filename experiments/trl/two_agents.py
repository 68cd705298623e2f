"""Two language models, trained one after the other by TRL's GRPO inside trust regions: `python -m experiments.trl.two_agents`.

A *scout* sees a number and says a word; an *actor* hears only that and answers with a number. Paid is the number that the scout
saw: neither message is worth anything without the other, and what the words mean is theirs to settle. By default both are Llamas
of two layers and 32 units that know 25 words, made and taught by a few supervised steps in this file: nothing is loaded, one core
will do. `--model HF_ID --device cuda` takes a checkpoint for both, untaught, in float32; written for a GPU and not run.

It needs torch, transformers, trl, datasets (tests/integrations/trl-requirements.txt) and `teamtr-jax[monitor]`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teamtr_jax.monitor.log import optional_import
from teamtr_jax.validation import InputError

WORDS = "red green blue white black brown pink grey".split()
SCOUT, ACTOR = "scout", "actor"
ROW = Mapping[str, Any]
Said = Sequence[tuple[str, str]]


class Language(NamedTuple):
    """What the models read, and their tokenizer."""

    tokenizer: Any
    chat: bool  #: whether it is a checkpoint with a chat template

    def heard(self, agent: str, row: ROW, said: Said) -> str:
        """What an agent reads at its turn."""
        if not self.chat:
            return f"scout sees {row['number']} says" if agent == SCOUT else f"actor hears {said[0][1]} answers"
        game = f"You play with a partner. You share these words: {', '.join(WORDS)}. "
        ask = {
            SCOUT: f"The number is {row['number']}. Answer with one of the words, so that your partner guesses it.",
            ACTOR: f"Your partner saw a number from 0 to 7 and said: {said[-1][1] if said else ''} Answer with that number.",
        }
        talk = [{"role": "user", "content": game + ask[agent]}]
        return self.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)


def reward(row: ROW, said: Said) -> float:
    """1 for the number that the scout saw."""
    return float(said[1][1].strip() == str(row["number"]))


def own_language() -> Language:
    """One word, one id."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<end>", "<unk>"]
    words = [*special, *"scout actor sees says hears answers".split(), *WORDS, *map(str, range(len(WORDS)))]
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )
    return Language(tokenizer, chat=False)


def own_model(language: Language, agent: str, seed: int, steps: int = 200, right: float = 0.5) -> Any:
    """A Llama of two layers, taught to say the right thing in half of the cases and anything in the others."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = language.tokenizer
    torch.manual_seed(2 * seed + (agent == ACTOR))
    rng = np.random.default_rng([seed, agent == ACTOR])
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        number = rng.integers(len(WORDS), size=64)
        said = np.where(rng.random(64) < right, number, rng.integers(len(WORDS), size=64))
        texts = [
            f"{language.heard(agent, {'number': x}, [(SCOUT, WORDS[x])])} {WORDS[y] if agent == SCOUT else y} <end>"
            for x, y in zip(number, said, strict=True)
        ]
        ids = torch.tensor(words(texts)["input_ids"])
        labels = torch.where(torch.arange(ids.shape[1]) < ids.shape[1] - 2, -100, ids)
        loss = net(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def trainer(model: Any, language: Language, args: argparse.Namespace, seed: int) -> Any:
    """TRL's own; of ours is only the reward, which the environment pays."""
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOConfig, GRPOTrainer

    from teamtr_jax.integrations import team_reward

    config = GRPOConfig(
        output_dir=str(args.out / "trl"), per_device_train_batch_size=args.prompts * args.group, num_generations=args.group,
        num_iterations=args.steps, max_completion_length=args.length, learning_rate=args.rate, beta=0.0, temperature=1.0,
        lr_scheduler_type="constant", report_to=[], save_strategy="no", logging_strategy="no", seed=seed, bf16=False,
        use_cpu=args.device == "cpu", gradient_checkpointing=False, disable_dropout=True,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": f"number {x}", "number": x} for x in range(len(WORDS)) for _ in range(2)])
    made = GRPOTrainer(
        model=model, args=config, train_dataset=data, processing_class=language.tokenizer, reward_funcs=team_reward
    )
    for chatter in (PrinterCallback, ProgressCallback):
        made.remove_callback(chatter)
    return made


def made_team(args: argparse.Namespace, seed: int) -> Any:
    """Two trainers in one environment."""
    from teamtr_jax.integrations import TrlTeam, TurnTaking

    if args.model is None:
        language = own_language()
        models = {agent: own_model(language, agent, seed) for agent in (SCOUT, ACTOR)}
    else:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        language = Language(AutoTokenizer.from_pretrained(args.model, padding_side="left"), chat=True)
        models = {
            agent: AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32) for agent in (SCOUT, ACTOR)
        }
    trainers = {agent: trainer(model, language, args, seed) for agent, model in models.items()}
    return TrlTeam(trainers, TurnTaking((SCOUT, ACTOR), language.heard, reward), seed=seed)


def evaluated(team: Any, sets: int = 4) -> float:
    """Mean reward of new rollouts."""
    return float(np.mean([team.sample(team.prompts()).reward.mean() for _ in range(sets)]))


def run(args: argparse.Namespace, resample: str, seed: int) -> dict[str, Any]:
    """Train one team; what came of it."""
    import torch

    from teamtr_jax.integrations import TeamTRSchedule

    start = time.monotonic()
    team = made_team(args, seed)
    torch.manual_seed(seed)
    before = evaluated(team)
    folder = args.out / f"{resample}-{seed}"

    def report(x: Any) -> None:
        print(
            f"{x.stage}.{x.update} {team.names[x.agent]:6} rollouts of {x.source}  reward {x.reward:.2f}  KL {x.kl:.4f} of δ = "
            f"{x.radius:g} after {x.steps} steps" + (f", {x.share:.0%} of the last" if x.went_back else ""),
            flush=True,
        )

    schedule = TeamTRSchedule(
        team, radius=args.radius, order=args.order, resample=resample, tolerance=args.tolerance, log=folder / "log",
        seed=seed, report=report,
    )  # fmt: skip
    updates = schedule.train(args.stages)
    schedule.close()
    return {
        "resample": resample, "seed": seed, "before": before, "after": evaluated(team), "updates": len(updates),
        "inside": sum(x.kl <= x.radius for x in updates), "went_back": sum(x.went_back for x in updates),
        "sets": sum(x.resampled for x in updates), "seconds": round(time.monotonic() - start), "log": str(folder / "log"),
    }  # fmt: skip


def verdict(found: Mapping[str, Any], radius: float) -> None:
    """The last words: what came of it, what the monitor says of each agent, where log and page are."""
    from teamtr_jax.monitor import Settings, monitor, read_stages, verdicts, write_page

    print(
        f"{found['resample']}, seed {found['seed']}: reward {found['before']:.2f} → {found['after']:.2f}; {found['inside']} of "
        f"{found['updates']} updates inside δ, {found['went_back']} went back; {found['sets']} sets of rollouts; "
        f"{found['seconds']} s"
    )
    log = Path(found["log"])
    report = monitor(read_stages(log), Settings(delta=radius))
    for x in verdicts(report):
        print(f"  {x.whose}: {x.headline}")
    page = write_page(report, log.parent / "page.html", str(log))
    print(f"  log {log}, page {page}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint for both agents; default: tiny Llamas made here")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--resample", nargs="+", default=["fresh"], help="fresh, once (stale), certificate; each in turn"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--order", default="given")
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--radius", type=float, default=0.05, help="δ, nats a message")
    parser.add_argument("--tolerance", type=float, default=0.2, help="of certificate")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of the optimiser in an update, at most")
    parser.add_argument("--rate", type=float, default=1e-3, help="1e-6 is more like it for a real checkpoint")
    parser.add_argument("--length", type=int, default=2, help="tokens of a message")
    parser.add_argument("--out", type=Path, default=Path("results/trl/two_agents"))
    args = parser.parse_args()
    try:  # what the last words need, before minutes of training
        for needed in ("scipy.special", "pyarrow.parquet", "matplotlib.figure"):
            optional_import(needed)
    except InputError as error:
        parser.error(str(error))
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if args.device == "cpu":
        import torch

        torch.set_num_threads(1)
    for resample, seed in itertools.product(args.resample, args.seeds):
        found = run(args, resample, seed)
        with (args.out / "summary.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        verdict(found, args.radius)


if __name__ == "__main__":
    main()
