"""The same network in PyTorch on whatever device, where neither TRL nor PEFT is: `generate`, and a step of adapters by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import transformers

from benchmarks.llm.sizes import GROUP, LEARNING_RATE
from benchmarks.llm.torch_side import generate
from benchmarks.words.shapes import LINEARS, RANK, Shape

__all__ = ["by_torch", "model_of"]


class Adapted(torch.nn.Module):
    """A frozen linear map and `2 x A B`, adapters in float32."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.a = torch.nn.Parameter(torch.randn(linear.in_features, RANK) * linear.in_features**-0.5)
        self.b = torch.nn.Parameter(torch.zeros(RANK, linear.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x) + 2.0 * (x.float() @ self.a @ self.b)).to(x.dtype)


def model_of(shape: Shape) -> transformers.LlamaForCausalLM:
    """The network with random weights, without adapters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="sdpa", dtype=shape.dtype,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(getattr(torch, shape.dtype)).eval()


def adapted(model: transformers.LlamaForCausalLM) -> transformers.LlamaForCausalLM:
    """An adapter beside every linear map of a layer; everything else is frozen."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name in (name for name in LINEARS if hasattr(part, name)):
                setattr(part, name, Adapted(getattr(part, name)))
    return model


def sampler(model: transformers.LlamaForCausalLM, shape: Shape) -> Callable[[], torch.Tensor]:
    """`generate` with a pre-allocated cache: ids ``[B, prompt + new]``."""
    some = torch.randint(0, shape.vocabulary, (shape.batch // GROUP, shape.prompt), generator=torch.manual_seed(1))
    return generate(model, some.repeat_interleave(GROUP, 0).to(model.device), shape.new, 0, True)


def step_of(model: transformers.LlamaForCausalLM, shape: Shape) -> Callable[[], None]:
    """GRPO: sample, reward, advantages within groups, gradients of micro-batches, one step of AdamW."""
    sample = sampler(model, shape)
    adapters = [x for x in model.parameters() if x.requires_grad]
    optimiser = torch.optim.AdamW(adapters, LEARNING_RATE, weight_decay=0.0, fused=model.device.type != "cpu")

    def run() -> None:
        ids = sample().clone()
        written = ids[:, shape.prompt :]
        reward = (written < shape.vocabulary // 2).float().mean(1).view(-1, GROUP)
        advantage = ((reward - reward.mean(1, True)) / (reward.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        for rows, text, gain in zip(*(x.split(shape.micro) for x in (ids, written, advantage)), strict=True):
            logits = model(rows, logits_to_keep=shape.new + 1).logits[:, :-1].float()
            logp = -F.cross_entropy(logits.transpose(1, 2), text, reduction="none")
            ratio = (logp - logp.detach()).exp()
            loss = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            (loss * len(rows) / shape.batch).backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return run


def by_torch(shape: Shape, device: str) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    models = (adapted(model_of(shape)).to(device) for _ in range(2))
    return {"sample": sampler(next(models), shape), "step": step_of(next(models), shape)}
