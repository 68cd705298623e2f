"""PyTorch's side, run by an interpreter that has `torch-requirements.txt`: ``python -m benchmarks.llm.torch_side sample large``.

* `hf`, `hf_static`: `LlamaForCausalLM.generate` of transformers with a growing or a pre-allocated cache.
* `hand`: a loop over tokens with pre-allocated caches ``[B, H, T, d]`` written in place, joint projections, `sdpa` over the
  filled part, and the log-probability of each token.
* `trl`: a step of TRL's `GRPOTrainer`: generation, reward, one update over all tokens.
* `hand_step`: the same with `hand`, the model's own forward pass, autograd and AdamW.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers

from benchmarks.llm.sizes import (
    CHARACTERS,
    GROUP,
    LEARNING_RATE,
    SMALLEST,
    Size,
    answer,
    clock,
    requests,
    serve,
    size_of,
    tell,
)

THREADS = int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))
BASE = 10_000.0


def model_of(size: Size) -> transformers.LlamaForCausalLM:
    """RoPE, RMSNorm, SwiGLU and tied embeddings, as `teamtr_jax.llm.model.Transformer`."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=size.width, intermediate_size=size.inner, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, max_position_embeddings=size.prompt + size.new,
        rms_norm_eps=1e-6, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def prompts_of(size: Size) -> torch.Tensor:
    """Random prompts, each one GROUP times."""
    some = torch.randint(0, len(CHARACTERS), (size.batch // GROUP, size.prompt), generator=torch.manual_seed(1))
    return some.repeat_interleave(GROUP, 0)


def generate(
    model: transformers.LlamaForCausalLM, prompts: torch.Tensor, new: int, pad: int, static: bool
) -> Callable[[], torch.Tensor]:
    """`generate` at temperature 1 without truncation of the distribution and without early stop."""
    settings: dict[str, Any] = dict(cache_implementation="static") if static else {}
    config = transformers.GenerationConfig(
        max_new_tokens=new, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=pad, **settings
    )

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=config)
        assert out.shape == (len(prompts), prompts.shape[1] + new)
        return out

    return run


def by_hand(model: transformers.LlamaForCausalLM, size: Size) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Tokens ``[B, T]`` and log-probabilities of the new ones ``[B, new]``."""
    width, heads, batch, total = size.width, size.heads, size.batch, size.prompt + size.new
    each = width // heads
    prompts = prompts_of(size)
    keys = torch.zeros(size.layers, batch, heads, total, each)
    values = torch.zeros_like(keys)
    angle = torch.arange(total)[:, None] * BASE ** (-torch.arange(each // 2) / (each // 2))
    cos, sin = torch.cos(angle).repeat(1, 2), torch.cat([-torch.sin(angle), torch.sin(angle)], -1)

    def rotate(x: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        turned = torch.cat([x[..., each // 2 :], x[..., : each // 2]], -1)
        return x * cos[begin:end] + turned * sin[begin:end]

    def weights() -> list[tuple[torch.Tensor, ...]]:
        """Joint projections; of the model as it is now."""
        out = []
        for layer in model.model.layers:
            a, m = layer.self_attn, layer.mlp
            qkv = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).t().contiguous()
            gate_up = torch.cat([m.gate_proj.weight, m.up_proj.weight]).t().contiguous()
            out.append((layer.input_layernorm.weight, qkv, a.o_proj.weight.t().contiguous(),
                        layer.post_attention_layernorm.weight, gate_up, m.down_proj.weight.t().contiguous()))  # fmt: skip
        return out

    def forward(maps: list[tuple[torch.Tensor, ...]], tokens: torch.Tensor, begin: int) -> torch.Tensor:
        n = tokens.shape[1]
        end = begin + n
        x = model.model.embed_tokens.weight[tokens]
        for layer, (norm, qkv, out, norm_2, gate_up, down) in enumerate(maps):
            joint = (F.rms_norm(x, (width,), norm, 1e-6) @ qkv).view(batch, n, 3, heads, each).permute(2, 0, 3, 1, 4)
            keys[layer, :, :, begin:end] = rotate(joint[1], begin, end)
            values[layer, :, :, begin:end] = joint[2]
            y = F.scaled_dot_product_attention(
                rotate(joint[0], begin, end), keys[layer, :, :, :end], values[layer, :, :, :end], is_causal=n > 1
            )
            x = x + y.transpose(1, 2).reshape(batch, n, width) @ out
            gate, up = (F.rms_norm(x, (width,), norm_2, 1e-6) @ gate_up).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ down
        return F.rms_norm(x[:, -1], (width,), model.model.norm.weight, 1e-6) @ model.model.embed_tokens.weight.t()

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            maps = weights()
            tokens, logp = torch.empty(batch, total, dtype=torch.long), torch.empty(batch, size.new)
            tokens[:, : size.prompt] = prompts
            uniform = torch.rand(size.new, batch, 1)
            logits = forward(maps, prompts, 0)
            for i in range(size.new):
                log_probs = torch.log_softmax(logits, -1)
                drawn = (log_probs.exp().cumsum(-1) < uniform[i]).sum(-1, keepdim=True).clamp_(max=31)
                tokens[:, size.prompt + i], logp[:, i] = drawn[:, 0], log_probs.gather(1, drawn)[:, 0]
                if i + 1 < size.new:
                    logits = forward(maps, drawn, size.prompt + i)
        return tokens, logp

    return run


def log_probs_of(model: transformers.LlamaForCausalLM, size: Size, tokens: torch.Tensor) -> torch.Tensor:
    """Teacher-forced log-probabilities of the new tokens."""
    logits = model(tokens).logits[:, size.prompt - 1 : -1]
    return torch.log_softmax(logits, -1).gather(2, tokens[:, size.prompt :, None])[..., 0]


def agree(model: transformers.LlamaForCausalLM, size: Size, sampled: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The hand-written loop computes what the model computes."""
    with torch.inference_mode():
        error = (log_probs_of(model, size, sampled[0].clone()) - sampled[1]).abs().max().item()
    if error > 1e-5:
        raise SystemExit(f"the hand-written loop is wrong by {error:.1e}")


def reward_of(text: str) -> float:
    """The share of letters before n."""
    return sum(c < "n" for c in text) / max(len(text), 1)


def step_by_hand(model: transformers.LlamaForCausalLM, size: Size) -> Callable[[], None]:
    """GRPO: sample, reward, advantages within groups, clipped ratio, one step of AdamW."""
    sample = by_hand(model, size)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)

    def run() -> None:
        tokens, old = (x.clone() for x in sample())
        texts = ["".join((CHARACTERS + "  ")[i] for i in row) for row in tokens[:, size.prompt :].tolist()]
        reward = torch.tensor([reward_of(text) for text in texts]).view(-1, GROUP)
        advantage = ((reward - reward.mean(1, True)) / (reward.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        ratio = (log_probs_of(model, size, tokens) - old).exp()
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return run


def trl_steps(size: Size, about: dict) -> None:
    """`GRPOTrainer.train`; before each step it waits for a request, after it it answers."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    vocabulary = {c: i for i, c in enumerate(CHARACTERS)} | {"<eos>": 30, "<pad>": 31}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    prompts = ["".join(CHARACTERS[i] for i in row) for row in prompts_of(size)[::GROUP].tolist()]
    assert len(tokenizer(prompts[0])["input_ids"]) == size.prompt

    lengths = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        lengths.append((len(completion_ids), min(map(len, completion_ids))))
        return [reward_of(text) for text in completions]

    class Requests(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.incoming, self.warm, self.name, self.start = iter(requests()), 2, "", 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.warm == 0 and (name := next(self.incoming, None)) is not None:
                self.name = name
            elif self.warm == 0:
                os._exit(0)
            self.start = clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = clock() - self.start
            if lengths[-1] != (size.batch, size.new):
                raise SystemExit(f"TRL generated {lengths[-1]}, not {size.batch} rows of {size.new}")
            if self.warm:
                self.warm -= 1
                if self.warm == 0:
                    tell(dict(ready=["trl"], first=dict(trl=seconds), **about))
                return
            answer(self.name, seconds)

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
            per_device_train_batch_size=size.batch, gradient_accumulation_steps=1, num_generations=GROUP,
            max_completion_length=size.new, temperature=1.0, top_k=0, beta=0.0, max_steps=10**6,
            generation_kwargs=dict(min_new_tokens=size.new), dataloader_pin_memory=False,
        )  # fmt: skip
        model = model_of(size)
        model.config.eos_token_id, model.config.pad_token_id = 30, 31
        data = Dataset.from_dict(dict(prompt=prompts))
        GRPOTrainer(model, reward, config, data, processing_class=tokenizer, callbacks=[Requests()]).train()


def peak(size: int = 2048) -> Callable[[], torch.Tensor]:
    """One product of square matrices."""
    a = torch.randn(size, size)
    return lambda: a @ a


def main() -> None:
    """What, and at which size."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    what, size = sys.argv[1], SMALLEST if sys.argv[2] == "smallest" else size_of(sys.argv[2])
    versions = dict(python=sys.version.split()[0], numpy=np.__version__, torch=torch.__version__.split("+")[0])
    versions |= dict(transformers=transformers.__version__, tokenizers=tokenizers.__version__)
    about: dict[str, Any] = dict(versions=versions, threads=torch.get_num_threads())
    if what == "trl":
        import trl

        trl_steps(size, about | dict(versions=versions | dict(trl=trl.__version__)))
        return
    model = model_of(size)
    about["parameters"] = sum(p.numel() for p in model.parameters())
    hand = by_hand(model, size)
    agree(model, size, hand())
    if what == "step":
        serve({"hand_step": step_by_hand(model.train(), size), "torch_matmul": peak()}, about)
    else:
        prompts = prompts_of(size)
        hf = {
            name: generate(model, prompts, size.new, 31, static)
            for name, static in (("hf", False), ("hf_static", True))
        }
        serve({**hf, "hand": hand, "torch_matmul": peak()}, about)


if __name__ == "__main__":
    main()
