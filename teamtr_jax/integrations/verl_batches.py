"""verl's two ways to hold a batch, read and scored: a `DataProto`, and keys into the store TransferQueue (docs/verl.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.integrations.verl_rows import Floats, Responses, places
from teamtr_jax.validation import InputError

__all__ = ["Held", "Stored"]

SEPARATE = "PPOTrainerSeparateAsync"
"""The trainer of 0.9 that scores `old` with the weights of the first update after a synchronisation."""


class Held:
    """0.7, 0.8 and, with `trainer.use_v1: false`, 0.9: `RayPPOTrainer` passes a `DataProto`, rows of one length."""

    home = "verl.trainer.ppo.ray_trainer.RayPPOTrainer"

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._before: tuple[list[str], Any] | None = None  # rows, and the mask that they had when `old` was scored

    def scored(self, batch: Any) -> None:
        """`old_log_probs` were made of this batch: keep its mask, of which rejection by rollout correction takes away."""
        self._before = _uids(batch), batch.batch["response_mask"].clone()

    def read(self, batch: Any, old: bool) -> Responses:
        """What the batch holds; `old` if its `old_log_probs` are a scoring of the policy before the update."""
        uid, tensors = _uids(batch), batch.batch
        if "rollout_log_probs" not in tensors:
            raise _no_behaviour()
        before, self._before = self._before, None
        mask, same = tensors["response_mask"], before is not None and before[0] == uid
        if before is not None and same:
            mask = before[1]
        old &= same  # made of these rows, in this order
        return Responses(
            uid=uid, rollout=places(uid), output=np.zeros(len(uid), np.int64), real=np.ones(len(uid), bool),
            wrote=_host(mask) != 0, token=_host(tensors["responses"]).astype(np.int64),
            behaviour=_host(tensors["rollout_log_probs"]), reward=_host(tensors["token_level_scores"]).sum(1),
            old=_host(tensors["old_log_probs"]) if old else None,
        )  # fmt: skip

    def score(self, batch: Any, rows: NDArray[np.int64] | None = None) -> Floats:
        """[rows, T] log-probabilities under the weights as they are, all rows or some; 0 where no token is."""
        batch.meta_info["temperature"] = self.trainer.config.actor_rollout_ref.rollout.temperature
        part = batch if rows is None else batch.select_idxs(rows)
        found = self.trainer.teamtr_watch.original["_compute_old_log_prob"](part)
        return _host((found[0] if isinstance(found, tuple) else found).batch["old_log_probs"])

    def report(self, out: Any, arguments: Sequence[Any], settings: dict[str, Any], scalars: dict[str, float]) -> None:
        """Give the trainer's logger some numbers with those of its update."""
        out.meta_info["metrics"].update(scalars)


class Stored:
    """0.9: `PPOTrainer` passes a `KVBatchMeta`, keys into a store, where every row has its own length."""

    home = "verl.trainer.ppo.v1.trainer_base.PPOTrainer"

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def scored(self, batch: Any) -> None:
        """Nothing to keep: `loss_mask` stays in the store as it was."""

    def read(self, batch: Any, old: bool) -> Responses:
        """What the store holds of the batch; `old` if `old_log_probs` are a scoring of the policy before the update."""
        fields = ["responses", "loss_mask", "rm_scores", "rollout_log_probs", *(["old_log_probs"] if old else [])]
        data = _get(batch, fields)
        if "rollout_log_probs" not in data:
            raise _no_behaviour()
        names = [key.rsplit("_", 2) for key in batch.keys]
        return Responses(
            uid=[name[0] for name in names], rollout=np.array([int(name[1]) for name in names]),
            output=np.array([int(name[2]) for name in names]),
            real=np.array([not tag.get("is_padding", False) for tag in batch.tags]),
            wrote=_rows(data["loss_mask"]) != 0, token=_rows(data["responses"]).astype(np.int64),
            behaviour=_rows(data["rollout_log_probs"]), reward=_rows(data["rm_scores"]).sum(1),
            old=_rows(data["old_log_probs"]) if old else None,
        )  # fmt: skip

    def score(self, batch: Any, rows: NDArray[np.int64] | None = None) -> Floats:
        """[rows, T] log-probabilities under the weights as they are, all rows or some; 0 where no token is."""
        from verl.workers.utils.padding import response_from_nested  # pyright: ignore[reportMissingImports]

        keys = batch.keys if rows is None else [batch.keys[i] for i in rows]
        part = batch.select_keys(keys)
        part.extra_info = {  # nothing of the batch's: `no_lora_adapter` would score the reference
            "calculate_entropy": True, "compute_loss": False,
            "temperature": self.trainer.config.actor_rollout_ref.rollout.temperature,
        }  # fmt: skip
        self.trainer.actor_rollout_wg.compute_log_prob(part)
        data = _get(part, ["log_probs", "loss_mask"])
        return _rows(response_from_nested(data["log_probs"], data["loss_mask"]))

    def report(self, out: Any, arguments: Sequence[Any], settings: dict[str, Any], scalars: dict[str, float]) -> None:
        """Give the trainer's logger some numbers with those of its update."""
        metrics = settings.get("metrics", arguments[0] if arguments else None)
        if metrics is not None:
            metrics.update(scalars)


def _get(batch: Any, fields: list[str]) -> Any:
    import transfer_queue  # pyright: ignore[reportMissingImports]

    return transfer_queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)


def _uids(batch: Any) -> list[str]:
    return [str(uid) for uid in batch.non_tensor_batch["uid"]]


def _no_behaviour() -> InputError:
    return InputError(
        "rollout_log_probs", "none in the batch", "actor_rollout_ref.rollout.calculate_log_probs=True, and an agent loop that "
        "returns response_logprobs"
    )  # fmt: skip


def _host(tensor: Any) -> Floats:
    return tensor.detach().double().cpu().numpy()


def _rows(tensor: Any) -> Floats:
    """Rows of unequal length with 0 behind them."""
    return _host(tensor.to_padded_tensor(0) if tensor.is_nested else tensor)
