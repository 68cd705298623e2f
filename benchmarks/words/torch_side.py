"""PyTorch's side, for an interpreter that has `torch-requirements.txt`: ``python -m benchmarks.words.torch_side sample smollm2``.

* `hf`, `hf_static`: `LlamaForCausalLM.generate` of transformers with a growing or a pre-allocated cache.
* `trl`: a step of TRL's `GRPOTrainer` with PEFT's LoRA beside every linear map: generation, reward, one update over all tokens.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import tokenizers
import torch
import transformers

from benchmarks.llm.sizes import GROUP, LEARNING_RATE, answer, clock, requests, serve, tell
from benchmarks.llm.torch_side import THREADS, generate, peak
from benchmarks.words.shapes import LINEARS, RANK, Shape, shape_of
from benchmarks.words.torch_hand import model_of


def tokenizer_of(shape: Shape) -> transformers.PreTrainedTokenizerFast:
    """Ids in decimals; the last two end and pad."""
    names = {str(i): i for i in range(shape.vocabulary)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    eos, pad = str(shape.vocabulary - 2), str(shape.vocabulary - 1)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, eos_token=eos, padding_side="left"
    )


class Requests(transformers.TrainerCallback):
    """Before each step it waits for a request, after it it answers."""

    def __init__(self, about: dict, check: Callable[[], None]) -> None:
        self.incoming, self.warm, self.name, self.start = iter(requests()), 1, "", 0.0
        self.about, self.check = about, check

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.warm == 0 and (name := next(self.incoming, None)) is not None:
            self.name = name
        elif self.warm == 0:
            os._exit(0)
        self.start = clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = clock() - self.start
        self.check()
        if self.warm:
            self.warm -= 1
            if self.warm == 0:
                tell(dict(ready=["trl"], first=dict(trl=seconds), **self.about))
            return
        answer(self.name, seconds)


def trl_steps(shape: Shape, about: dict) -> None:
    """`GRPOTrainer.train`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = np.random.default_rng(1).integers(0, shape.vocabulary - 2, (shape.batch // GROUP, shape.prompt)).tolist()
    lengths = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        lengths.append((len(completion_ids), min(map(len, completion_ids))))
        return [sum(i < shape.vocabulary // 2 for i in ids) / len(ids) for ids in completion_ids]

    def check() -> None:
        if lengths[-1] != (shape.batch, shape.new):
            raise SystemExit(f"TRL generated {lengths[-1]}, not {shape.batch} rows of {shape.new}")

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
            per_device_train_batch_size=shape.micro, gradient_accumulation_steps=shape.batch // shape.micro,
            num_generations=GROUP if shape.batch >= GROUP else shape.batch, max_completion_length=shape.new,
            temperature=1.0, top_k=0, beta=0.0, max_steps=10**6, generation_kwargs=dict(min_new_tokens=shape.new),
            dataloader_pin_memory=False,
        )  # fmt: skip
        model = model_of(shape)
        model.config.eos_token_id, model.config.pad_token_id = shape.vocabulary - 2, shape.vocabulary - 1
        adapters = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEARS, task_type="CAUSAL_LM")
        data = Dataset.from_dict(dict(prompt=[" ".join(map(str, row)) for row in rows]))
        GRPOTrainer(
            model, reward, config, data, processing_class=tokenizer_of(shape), peft_config=adapters,
            callbacks=[Requests(about, check)],
        ).train()  # fmt: skip


def main() -> None:
    """What, and of which shape."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    what, shape = sys.argv[1], shape_of(sys.argv[2])
    versions = dict(python=sys.version.split()[0], torch=torch.__version__.split("+")[0], peft=peft.__version__)
    versions |= dict(transformers=transformers.__version__)
    about: dict[str, Any] = dict(versions=versions, threads=torch.get_num_threads())
    if what == "trl":
        import trl

        trl_steps(shape, about | dict(versions=versions | dict(trl=trl.__version__)))
        return
    model = model_of(shape)
    about["parameters"] = sum(p.numel() for p in model.parameters())
    prompts = torch.randint(0, shape.vocabulary, (shape.batch, shape.prompt), generator=torch.manual_seed(1))
    hf = {name: generate(model, prompts, shape.new, 0, static) for name, static in (("hf", False), ("hf_static", True))}
    serve({**hf, "torch_matmul": peak()}, about)


if __name__ == "__main__":
    main()
