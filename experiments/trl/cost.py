"""What watching costs a TRL step besides its scorings: `python -m experiments.trl.cost`, a minute on a core.

Runs with and without `watch` in turn, in one process: a Llama of four layers and 128 units, 32 rollouts of up to 128 tokens.
Timings are of this machine; what others do on it moves them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.trl.two_agents import WORDS, own_language

STEPS = 6


def trainer(folder: Path) -> Any:
    """A random network whose messages hardly ever end early."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    words = own_language().tokenizer
    torch.manual_seed(0)
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
            max_position_embeddings=256, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, bos_token_id=None,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        net.lm_head.weight.mul_(20)
        net.lm_head.weight[words.eos_token_id] = 0
    config = GRPOConfig(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=8,
        gradient_accumulation_steps=4, max_completion_length=128, max_steps=STEPS, learning_rate=1e-5, report_to=[],
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": [f"number {x}" for x in range(len(WORDS))]})
    made = GRPOTrainer(
        net, lambda completion_ids, **_: [float(len(set(x))) / len(x) for x in completion_ids], args=config,
        train_dataset=data, processing_class=words,
    )  # fmt: skip
    made.remove_callback(PrinterCallback)
    return made


def measure(folder: Path, watched: bool) -> tuple[float, float, float]:
    """Seconds of a step (median), of its scorings, and of the watch besides."""
    from transformers import TrainerCallback

    from teamtr_jax.integrations import trl

    spent = {"scoring": 0.0, "watch": 0.0}

    def timed(owner: Any, name: str, key: str) -> Callable[[], None]:
        plain = getattr(owner, name)

        def run(*args: Any, **settings: Any) -> Any:
            begin = time.perf_counter()
            try:
                return plain(*args, **settings)
            finally:
                spent[key] += time.perf_counter() - begin

        setattr(owner, name, run)
        return lambda: setattr(owner, name, plain)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

    made, clock, undo = trainer(folder), Clock(), []
    if watched:
        undo = [timed(trl, "token_log_probs", "scoring"), timed(trl.Watch, "_rollouts", "watch"),
                timed(trl.Watch, "_stepped", "watch")]  # fmt: skip
        trl.watch(made, folder / "log")
    made.add_callback(clock)
    made.train()
    if watched:
        made.teamtr_watch.close()
    for restore in undo:
        restore()
    steps = np.diff(clock.times)
    return float(np.median(steps)), spent["scoring"] / STEPS, (spent["watch"] - spent["scoring"]) / STEPS


def main() -> None:
    """A line for each pair of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    shares = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            plain = measure(Path(folder) / "plain", False)[0]
            step, scoring, besides = measure(Path(folder) / "watched", True)
        shares.append(besides / plain)
        print(f"{number}: step {plain:.2f} s; watched {step:.2f} s, of it scorings {scoring:.2f}, besides {besides:.3f}: "
              f"{besides / plain:.2%} of a step", flush=True)  # fmt: skip
    low, middle, high = np.percentile(shares, (0, 50, 100))
    print(f"besides the scorings {middle:.2%} of a step [{low:.2%}, {high:.2%}], median and range of {rounds} rounds")


if __name__ == "__main__":
    main()
