"""verl writes a token log: `watch(trainer, path)` before `trainer.fit()`, or an environment variable (docs/verl.md).

verl calls nobody back at an update, so two methods of the trainer are wrapped, and they are private: the versions are known by
name. All of it runs in the process of the trainer, which is one; the workers and their engines know nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from teamtr_jax.integrations.checked_version import installed, require_version
from teamtr_jax.integrations.log_writer import UPDATES, LogWriter
from teamtr_jax.integrations.update_scalars import update_scalars, update_sums
from teamtr_jax.integrations.verl_batches import SEPARATE, Held, Stored
from teamtr_jax.integrations.verl_rows import Agent, Floats, Responses, require_behaviour, rows_scored_twice, written
from teamtr_jax.integrations.verl_settings import bypassed, sampler_of_config
from teamtr_jax.validation import InputError, whole_number

__all__ = ["KNOWN", "Watch", "watch"]

KNOWN = ("0.7.1", "0.8.0", "0.9.1")
"""The versions of verl whose sources the adapter was checked with (`make integrations`)."""
WRAPPED = ("_compute_old_log_prob", "_update_actor")


def watch(trainer: Any, path: Path | str, *, agent: Agent = 0, updates: int = UPDATES) -> Watch:
    """Let a trainer of verl's write the token log of its own training, an update for every call of its `_update_actor`.

    Weights, gradients and rollouts are those of a run that is not watched. It costs one scoring of the batch after the update and
    one of an eighth of it before; one of the whole batch more where `old_log_probs` are not of the policy before the update.

    Args:
      trainer: a `PPOTrainer` of 0.9 after `init()`, or a `RayPPOTrainer` after `init_workers()`; before `fit`.
      path: the log's folder.
      agent: who this policy is; or, where it plays several, a function of the number of every token's message, [N, T], in its
        rollout that gives an agent for each token. Then every update is of all.
      updates: of a stage.

    Returns:
      The watch; `close()` ends it.

    Raises:
      InputError: a version of verl that is not known; another trainer; settings under which no log-probability is the tokens'; a
        place that cannot be written.
    """
    version = installed("verl")
    require_version("verl", version, KNOWN)
    homes = {f"{c.__module__}.{c.__qualname__}" for c in type(trainer).__mro__}
    kind = next((kind for kind in (Stored, Held) if kind.home in homes), None)
    if kind is None:
        found = f"{type(trainer).__module__}.{type(trainer).__qualname__}"
        raise InputError("trainer", found, f"a {Held.home} or {Stored.home}")
    if getattr(trainer, "teamtr_watch", None) is not None:
        raise InputError("trainer", "one that is watched", "one that is not: close() the first watch")
    updates = whole_number("updates", updates, 1)
    if not callable(agent):
        whole_number("agent", agent, 0)
    sampler = sampler_of_config(trainer.config)
    writer = LogWriter(path, sampler=sampler, trainer=f"verl {version}")
    return Watch(trainer, kind(trainer), writer, agent, updates)


class Watch:
    """A watched trainer, and where its log is written. Made by `watch`."""

    def __init__(self, trainer: Any, batches: Held | Stored, writer: LogWriter, agent: Agent, updates: int) -> None:
        self.trainer, self.writer = trainer, writer
        self._batches, self._agent, self._updates = batches, agent, updates
        self.original = {name: getattr(trainer, name) for name in WRAPPED}
        self._own = {name: vars(trainer)[name] for name in WRAPPED if name in vars(trainer)}  # others wrap, too
        own = type(trainer)._compute_old_log_prob
        self._plain = f"{own.__module__}.{own.__qualname__}" == f"{batches.home}._compute_old_log_prob"
        self._bypassed = bypassed(trainer.config)
        trainer._compute_old_log_prob = self._at_compute_old_log_prob
        trainer._update_actor = self._at_update_actor
        trainer.teamtr_watch = self

    def close(self) -> None:
        """End the watch: the trainer is as it was, the log is closed."""
        if getattr(self.trainer, "teamtr_watch", None) is not self:
            return
        for name in (*WRAPPED, "teamtr_watch"):
            vars(self.trainer).pop(name, None)
        vars(self.trainer).update(self._own)
        self.writer.close()

    def _at_compute_old_log_prob(self, batch: Any, *args: Any, **settings: Any) -> Any:
        """Keep the mask as it is before anything is rejected."""
        self._batches.scored(batch)
        return self.original["_compute_old_log_prob"](batch, *args, **settings)

    def _at_update_actor(self, batch: Any, *args: Any, **settings: Any) -> Any:
        """Score, let the trainer make its update, score again, write."""
        at = self._place()
        responses = self._batches.read(batch, self._old_is_current())
        current = self._batches.score(batch) if responses.old is None else responses.old
        require_behaviour(responses, current, self.writer.sampler.cuts)
        again = self._again(batch, responses)
        out = self.original["_update_actor"](batch, *args, **settings)
        new = self._batches.score(batch)
        rows = written(responses, current, new, again, self.writer.ids, self._agent)
        self._write(rows, at)
        self._batches.report(out, args, settings, update_scalars(update_sums(rows)))
        return out

    def _old_is_current(self) -> bool:
        """Whether the trainer's `old_log_probs` are a scoring of the policy before this update."""
        if self._bypassed:
            return False
        first = type(self.trainer).__name__ == SEPARATE and self.trainer.local_trigger_step == 0
        return self._plain or first

    def _again(self, batch: Any, responses: Responses) -> Floats:
        """[N, T] a share of the rows scored in a batch of their own, NaN elsewhere."""
        again = np.full(responses.wrote.shape, np.nan)
        rows = rows_scored_twice(responses, self.trainer.actor_rollout_wg.world_size)
        found = self._batches.score(batch, rows)
        again[rows] = 0.0  # behind the longest of these rows is no token
        again[rows, : found.shape[1]] = found
        return again

    def _place(self) -> tuple[int, int]:
        """Stage and update of this step; what the log has of later ones was trained from a checkpoint on and is set aside."""
        step, local = int(self.trainer.global_steps), getattr(self.trainer, "local_trigger_step", 0)
        each = getattr(self.trainer, "parameter_sync_step", 1)
        at = divmod((step - 1) * each + local, self._updates)
        if (last := self.writer.last) is not None and last >= at:
            if step <= 1:
                raise InputError(str(self.writer.path), "the log of another run", "another folder: this run begins")
            self.writer.go_back(*at)
        return at

    def _write(self, rows: dict[str, Any], at: tuple[int, int]) -> None:
        stage, update = (np.full(rows["t"].size, x) for x in at)
        self.writer.add({**rows, "stage": stage, "update": update, "source": update})
        self.writer.flush()
