"""TRL's GRPOTrainer writes a token log: `watch(trainer, path)` before `trainer.train()` (docs/trl.md).

A TRL callback is given no trainer, and the rewards and the groups are gone when it is called. So three methods of the trainer
and its scoring are used that are not public, which is why the versions are known by name; the callback and `log` are public.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.integrations.checked_version import installed, require_version
from teamtr_jax.integrations.log_writer import UPDATES, LogWriter
from teamtr_jax.integrations.messages import message_numbers
from teamtr_jax.integrations.trl_scoring import token_log_probs
from teamtr_jax.integrations.trl_settings import dropout_of, require_known_law, sampler_of_trainer
from teamtr_jax.integrations.twice import scored_twice
from teamtr_jax.integrations.update_scalars import UpdateSums, update_scalars, update_sums
from teamtr_jax.monitor.writing import token_rows
from teamtr_jax.validation import InputError, whole_number

__all__ = ["KNOWN", "watch", "Watch"]

KNOWN = ("1.14.2", "1.16.0")
"""The versions of TRL that the tests ran with. 1.15.0 has the same names, and does not train on a CPU."""
WIDER = 8
"""Columns of padding that the second scoring has besides."""
WRAPPED = ("_generate", "_calculate_rewards", "_generate_and_score_completions", "log")

Names = int | Callable[[Sequence[dict[str, Any]]], Sequence[int]]
"""One number, or a function of the rows of the dataset that gives one to each of them."""
Floats = NDArray[np.float64]
logger = logging.getLogger(__name__)


def watch(
    trainer: Any,
    path: Path | str | LogWriter,
    *,
    agent: Names = 0,
    turn: Names = 0,
    stage: int | Callable[[int], int] | None = None,
) -> Watch:
    """Let a `trl.GRPOTrainer` write the token log of its own training, an update for every step of its optimiser.

    Nothing of the training changes: weights, gradients, modes and random numbers are those of a run that is not watched.

    Args:
      trainer: before `train()`.
      path: the log's folder; or a `LogWriter`, where several trainers of this process write one log.
      agent: who this network is; a function of the rows of the dataset where it plays several. Then every update is of all.
      turn: the number of its (first) message in the episode. What it writes after the answer of a tool is the next message.
      stage: a number, or a function of the optimiser's step, asked when new rollouts are sampled, that never decreases. Without
        it a stage begins with the first new rollouts after 20 updates.

    Returns:
      The watch; `close()` ends it.

    Raises:
      InputError: a version of TRL that is not known; no GRPOTrainer; settings under which no log-probability is the tokens'; a
        place that cannot be written.
    """
    version = installed("trl")
    require_version("trl", version, KNOWN)
    if not isinstance(trainer, import_module("trl").GRPOTrainer):
        raise InputError("trainer", type(trainer).__name__, "a trl.GRPOTrainer")
    if getattr(trainer, "teamtr_watch", None) is not None:
        raise InputError("trainer", "one that is watched", "one that is not: close() the first watch")
    for name, value in (("agent", agent), ("turn", turn), ("stage", 0 if stage is None else stage)):
        if not callable(value):
            whole_number(name, value, 0)
    require_known_law(trainer)
    sampler = sampler_of_trainer(trainer)
    if not isinstance(path, LogWriter):
        at = trainer.accelerator
        path = LogWriter(
            path,
            sampler=sampler,
            process=at.process_index,
            processes=at.num_processes,
            trainer=f"trl {version}",
        )
    elif path.sampler != sampler:
        raise InputError("path", f"a writer for {path.sampler}", f"one for {sampler}, as this trainer samples")
    return Watch(trainer, path, agent=agent, turn=turn, stage=stage)


@dataclass
class Rollouts:
    """Rollouts that were sampled together on this process, in the order in which they were made: before TRL shuffles them."""

    step: int  #: steps of the optimiser before they were sampled
    source: int  #: the update, within the stage, for which they were
    ids: Any  #: [N, P+T] tokens of prompt and completion
    attention: Any  #: [N, P+T] 1 where there is a token
    wrote: NDArray[np.bool_]  #: [N, T] tokens that the network wrote: not a tool's, whatever the loss masks
    known: NDArray[np.bool_]  #: [N] with a reward, and a log-probability of the sampler for every token
    columns: dict[str, NDArray[Any]]
    current: Any  #: [N, T] log-probabilities under the policy before the next step
    again: Floats  #: [N, T] the same a second time; NaN where it was not scored twice


class Watch:
    """A watched trainer: what it has sampled, and where its log is written. Made by `watch`."""

    def __init__(
        self, trainer: Any, writer: LogWriter, *, agent: Names, turn: Names, stage: int | Callable[[int], int] | None
    ) -> None:
        self.trainer, self.writer = trainer, writer
        self._agent, self._turn, self._stage_of = agent, turn, stage
        self._stage, self._update, self._steps = (
            -1,
            0,
            0,
        )  # a second `train()` begins to count its steps anew, this does not
        self._live: list[Rollouts] = []
        self._sampled: tuple[Any, Any, Any] = (
            (),
            None,
            None,
        )  # completions, mask of tools, the engine's log-probabilities
        self._rewards: Any = None
        self._pending: list[dict[str, float]] = []
        self._told = False
        # TRL scores in train mode, and rows that it masks it does not score: else its numbers are those made here, bit for bit.
        self._theirs = dropout_of(trainer.model) is None and not trainer.mask_truncated_completions
        self._reused = (
            trainer.num_iterations * trainer.args.steps_per_generation > trainer.args.gradient_accumulation_steps
        )
        self._original = {name: getattr(trainer, name) for name in WRAPPED}
        self._own = {name: vars(trainer)[name] for name in WRAPPED if name in vars(trainer)}  # others wrap, too
        for name in WRAPPED:
            setattr(trainer, name, getattr(self, f"_at_{name.strip('_')}"))
        self._callback = _callback(self._begun, self._stepped)
        trainer.add_callback(self._callback)
        trainer.teamtr_watch = self

    def close(self) -> None:
        """End the watch: the trainer is as it was, the log is closed."""
        if getattr(self.trainer, "teamtr_watch", None) is not self:
            return
        for name in (*WRAPPED, "teamtr_watch"):
            vars(self.trainer).pop(name, None)
        vars(self.trainer).update(self._own)
        self.trainer.remove_callback(self._callback)
        self._live = []
        self.writer.close()

    # --------------------------------------------------------------------------------- what the trainer calls of its own

    def _at_generate(self, *args: Any, **settings: Any) -> Any:
        """Keep what was sampled at its own length: a padded batch does not show it where pad is a token that is written."""
        out = self._original["_generate"](*args, **settings)
        self._sampled = out[1], out[2], out[4]
        return out

    def _at_calculate_rewards(self, *args: Any, **settings: Any) -> Any:
        """Keep the rewards: what follows has advantages only."""
        self._rewards = self._original["_calculate_rewards"](*args, **settings)
        return self._rewards

    def _at_generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Keep the rows before they are shuffled and split, and score them: new ones take the place of those of earlier steps."""
        out = self._original["_generate_and_score_completions"](inputs)
        if self.trainer.model.training:
            new = self._rollouts(inputs, out)
            self._live = [old for old in self._live if old.step == new.step] + [new]
        return out

    def _at_log(self, logs: dict[str, float], *args: Any, **settings: Any) -> Any:
        """Add what the updates since the last call were, in the mean, as TRL does with its own numbers."""
        if self._pending and self.trainer.model.training:
            names = {name: None for scalars in self._pending for name in scalars}
            logs |= {name: float(np.mean([x[name] for x in self._pending if name in x])) for name in names}
            self._pending = []
        return self._original["log"](logs, *args, **settings)

    # ------------------------------------------------------------------------------------------------ new rollouts

    def _rollouts(self, inputs: list[dict[str, Any]], out: dict[str, Any]) -> Rollouts:
        """What `_generate_and_score_completions` made, as rows of a log are made of it."""
        import torch  # pyright: ignore[reportMissingImports]

        completions, tools, engine = self._sampled
        if engine is None and (self.trainer.use_vllm or self.trainer.rollout_func is not None):
            raise InputError(
                "logprobs", None, "those of the engine that sampled: without them nothing is known of its law"
            )
        shape = tuple(out["completion_ids"].shape)
        filled = _padded(shape, [np.ones(len(x)) for x in completions]) != 0
        wrote = filled if tools is None else filled & (_padded(shape, tools) != 0)
        prompt, rollout = self._numbered(len(inputs))
        attention = torch.as_tensor(filled, dtype=out["prompt_mask"].dtype, device=out["prompt_mask"].device)
        turn = np.asarray(self._named("turn", self._turn, inputs))[:, None] + message_numbers(wrote)
        columns = {
            "prompt": prompt, "rollout": rollout, "agent": self._named("agent", self._agent, inputs), "turn": turn,
            "token": out["completion_ids"].cpu().numpy(), "reward": self._weighed(len(inputs)),
        }  # fmt: skip
        new = Rollouts(
            step=self._steps, source=self._update,
            ids=torch.cat([out["prompt_ids"], out["completion_ids"]], 1),
            attention=torch.cat([out["prompt_mask"], attention], 1), wrote=wrote, known=np.isfinite(columns["reward"]),
            columns=columns, current=None, again=np.full(shape, np.nan),
        )  # fmt: skip
        old = out.get("old_per_token_logps")
        new.current = self._score(new) if old is None or not self._theirs else old.float()
        columns["logp_behaviour"] = _host(new.current) if engine is None else _padded(shape, engine, np.nan)
        new.known &= np.where(wrote, np.isfinite(columns["logp_behaviour"]), True).all(1)
        self._score_again(new)
        if not new.known.all() and not self._told:
            self._told = True
            logger.warning(
                "teamtr: rollouts without a reward or a log-probability of the engine are left out of the log"
            )
        return new

    def _numbered(self, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of this process's rows, and the stage and the update of new rollouts: the same on all processes.

        Groups are consecutive over all processes, and one may begin on one and end on the next: the first gives all ids.
        """
        import torch  # pyright: ignore[reportMissingImports]
        from accelerate.utils import broadcast, gather  # pyright: ignore[reportMissingImports]

        at = self.trainer.accelerator
        lasts = gather(torch.tensor([self.writer.last or (-1, -1)], device=at.device))
        self._stage, self._update = self._place(max(map(tuple, lasts.tolist())))
        total, group = rows * at.num_processes, self.trainer.num_generations
        ids = np.zeros((2, total), np.int64)
        if at.is_main_process:
            ids = np.stack(self.writer.ids(total // group, group))
        own = slice(at.process_index * rows, (at.process_index + 1) * rows)
        prompt, rollout = broadcast(torch.from_numpy(ids).to(at.device)).cpu().numpy()[:, own]
        return prompt, rollout

    def _place(self, last: tuple[int, int]) -> tuple[int, int]:
        """Stage and update for new rollouts, behind the newest of the log."""
        if self._live and self._live[-1].step == self._steps:  # more rollouts for the same step
            return self._stage, self._update
        if self._stage_of is not None:
            step, stage = self.trainer.state.global_step, self._stage_of
            stage = whole_number("stage", stage(step) if callable(stage) else stage, 0)
            if stage < last[0]:
                expected = f"{last[0]} or more: {self.writer.path} has that stage (its writer's go_back sets it aside)"
                raise InputError("stage", stage, expected)
        elif self._stage < 0 or last[1] + 1 >= UPDATES:
            stage = last[0] + 1
        else:
            stage = last[0]
        return stage, last[1] + 1 if stage == last[0] else 0

    def _named(self, name: str, what: Names, inputs: list[dict[str, Any]]) -> NDArray[np.int64]:
        if not callable(what):
            return np.full(len(inputs), what)
        found = np.asarray(what(inputs))
        if found.shape != (len(inputs),) or found.dtype.kind not in "iu" or (found < 0).any():
            raise InputError(name, repr(found)[:80], f"[{len(inputs)}] integers ≥ 0, one for each row of the dataset")
        return found.astype(np.int64)

    def _weighed(self, rows: int) -> Floats:
        """`Σ_f w_f R_f` over the functions that gave a reward, as TRL weighs it; NaN where none did."""
        import torch  # pyright: ignore[reportMissingImports]

        weighed = (self._rewards * self.trainer.reward_weights.to(self._rewards.device)).nansum(1)
        weighed = weighed.masked_fill(torch.isnan(self._rewards).all(1), torch.nan)
        return _host(weighed)[self.trainer.accelerator.process_index * rows :][:rows]

    # --------------------------------------------------------------------------------------------------- scoring

    def _score(self, rollouts: Rollouts) -> Any:
        """All of them, in the one shape in which every scoring of them is made."""
        width = rollouts.wrote.shape[1]
        return token_log_probs(
            self.trainer, rollouts.ids, rollouts.attention, width, self.trainer.args.per_device_train_batch_size
        )

    def _score_again(self, rollouts: Rollouts) -> None:
        """A share of them, in batches of half the size and of other padding.

        TRL's own forward pass does not tell: in one shape the numbers of a row do not depend on who else is in the batch.
        """
        from torch.nn.functional import pad  # pyright: ignore[reportMissingImports]

        rows = scored_twice(len(rollouts.known))
        ids, attention = (pad(x[rows], (WIDER, 0), value=0) for x in (rollouts.ids, rollouts.attention))
        batch = max(1, self.trainer.args.per_device_train_batch_size // 2)
        rollouts.again[rows] = _host(token_log_probs(self.trainer, ids, attention, rollouts.wrote.shape[1], batch))

    # ------------------------------------------------------------------------------------------- before and after steps

    def _begun(self) -> None:
        """`train()` is called: rollouts of weights that are gone, since a checkpoint was loaded, are not written again.

        What TRL still trains on of them has no rows; with the next rollouts a stage begins.
        """
        import torch  # pyright: ignore[reportMissingImports]

        if not all(torch.equal(self._score(live), live.current) for live in self._live):
            self._live, self._stage = [], -1

    def _stepped(self) -> None:
        """The optimiser has made a step: score the new policy, write the update."""
        sums = UpdateSums(*(8 * [0.0]))
        stage, update = self.writer.last or (-1, -1)
        if stage == self._stage:  # another trainer may have written since
            self._update = max(self._update, update + 1)
        for live in self._live:
            new = self._score(live)
            rows = self._written(live, new)
            if rows["t"].size:
                self.writer.add(rows)
            sums = UpdateSums(*np.add(sums, update_sums(rows)))
            live.current, live.again = new, np.full(live.again.shape, np.nan)
            if self._reused:
                self._score_again(live)
        self.writer.flush()
        if self._live:
            self._pending.append(update_scalars(self._of_all(sums)))
        self._update += 1
        self._steps += 1

    def _written(self, live: Rollouts, new: Any) -> dict[str, NDArray[Any]]:
        """The rows of the log."""
        known = live.known
        columns = {key: column[known] for key, column in live.columns.items()}
        return token_rows(
            live.wrote[known], **columns, stage=self._stage, update=self._update, source=live.source,
            logp_current=_host(live.current)[known], logp_new=_host(new)[known], logp_again=live.again[known],
            updated=-1 if callable(self._agent) else self._agent,
        )  # fmt: skip

    def _of_all(self, sums: UpdateSums) -> UpdateSums:
        """Of all processes."""
        import torch  # pyright: ignore[reportMissingImports]
        from accelerate.utils import reduce  # pyright: ignore[reportMissingImports]

        at = self.trainer.accelerator
        if at.num_processes == 1:
            return sums
        return UpdateSums(*reduce(torch.tensor(sums, dtype=torch.float64, device=at.device), "sum").tolist())


def _callback(begun: Callable[[], None], stepped: Callable[[], None]) -> Any:
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

    class Told(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begun()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stepped()

    return Told()


def _host(tensor: Any) -> Floats:
    return tensor.detach().cpu().double().numpy()


def _padded(shape: tuple[int, ...], rows: Sequence[Any], behind: float = 0.0) -> Floats:
    """Rows of unequal length in an array [N, T], `behind` where there is none; `None` in a row is NaN."""
    out = np.full(shape, behind)
    for i, row in enumerate(rows):
        out[i, : len(row)] = np.asarray(row, float)
    return out
