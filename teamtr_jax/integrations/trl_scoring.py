"""Log-probabilities of a TRL trainer's policy, scored so that nothing of its training notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["evaluated", "token_log_probs"]


def token_log_probs(trainer: Any, ids: Any, attention: Any, width: int, batch: int) -> Any:
    """`log π(token | what was before)` at the sampling temperature, by TRL's own head: in eval mode, without gradients.

    Afterwards every module is in the mode, and every generator in the state, in which it was.

    Args:
      trainer: a `trl.GRPOTrainer`.
      ids: [N, P+T] tokens of prompts, padded on the left, and of completions, padded on the right.
      attention: [N, P+T] 1 where there is a token; a completion that the loss masks has its tokens all the same.
      width: T.
      batch: rows at once. Two scorings that are compared are made with the same.

    Returns:
      [N, T] nats, float32; 0 where `attention` is 0.
    """
    import torch  # pyright: ignore[reportMissingImports]

    device = trainer.accelerator.device
    other = device.type != "cpu"
    kept = torch.random.fork_rng([device] if other else [], device_type=device.type if other else "cuda")
    with evaluated(trainer.model), kept, torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, attention, width, batch_size=batch)
        return found[0].float()


@contextmanager
def evaluated(model: Any) -> Iterator[None]:
    """The model in eval mode; afterwards every module is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
