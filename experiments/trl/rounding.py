"""Roundings of bfloat16 scores before and after a step: `python -m experiments.trl.rounding`, seconds on a core.

A random Llama and steps of growing size. `e₀`, `e₂`: scores in bfloat16 less those in float32 of the current and the new policy;
`again`: the current one in batches of other sizes and paddings.
"""

from __future__ import annotations

import copy

STEPS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2)
"""Standard deviation of what is added to a weight, over that of the weights of its array."""
ROWS, LENGTH, VOCABULARY = 16, 96, 400


def main() -> None:
    """The table of docs/monitor.md."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, initializer_range=0.15, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))

    def scores(model, dtype, rows: int = ROWS, pad: int = 0) -> torch.Tensor:
        rounded, out = copy.deepcopy(model).to(dtype), []
        with torch.no_grad():
            for x in ids.split(rows):
                logits = rounded(torch.nn.functional.pad(x, (0, pad))).logits.float()[:, : LENGTH - 1]
                out.append(torch.log_softmax(logits, -1).gather(-1, x[:, 1:, None])[..., 0])
        return torch.cat(out)

    def k3(ratio: torch.Tensor) -> float:
        return float((ratio.exp() - 1 - ratio).mean())

    fine, coarse = scores(model, torch.float32), scores(model, torch.bfloat16)
    others = [scores(model, torch.bfloat16, rows, pad) for rows, pad in ((3, 0), (16, 8), (1, 0), (5, 31))]
    print(f"e₀: sd {float((coarse - fine).std()):.3f} nats a token, n = {fine.numel()} tokens")
    print("again, other batches: share of scores that change", [float((x != coarse).float().mean()) for x in others])
    print(
        "| step, KL a token in float32 | k3 a token in bfloat16 | noise of n − c, nats a token | correlation of e₀ and e₂ |"
    )
    for size in STEPS:
        new, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
        for p in new.parameters():
            p.data += size * p.data.std().nan_to_num(1) * torch.randn(p.shape, generator=generator)
        new_fine, new_coarse = scores(new, torch.float32), scores(new, torch.bfloat16)
        first, second = (coarse - fine).flatten(), (new_coarse - new_fine).flatten()
        correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
        noise = float((second - first).std())
        print(f"| {k3(new_fine - fine):.1e} | {k3(new_coarse - coarse):.1e} | {noise:.3f} | {correlation:.2f} |")


if __name__ == "__main__":
    main()
