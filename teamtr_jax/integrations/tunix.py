"""tunix's GRPO learner writes a token log (docs/tunix.md): two lines, and training stays what it was.

    from teamtr_jax.integrations.tunix import watch
    watch(learner, "log", agent=0, turn=0)

All that is used of tunix is public. `RLCluster.generate`, `.sync_weights` and `.close` are called through the watch; it is
one of `learner.metric_fns`, where the rewards come by; and it is the actor's training hooks, which call those that were
there. Neither tunix nor jax is imported before `watch` is called.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.integrations.log_writer import UPDATES, LogWriter
from teamtr_jax.integrations.tunix_rollouts import Batch, completed, engine_numbers, twice_in_stream
from teamtr_jax.integrations.tunix_settings import require_supported, rollout_config, sampler_settings, scorable
from teamtr_jax.integrations.twice import SHARE
from teamtr_jax.integrations.update_scalars import UpdateSums, update_scalars, update_sums
from teamtr_jax.monitor.writing import token_rows
from teamtr_jax.validation import InputError, real_number, whole_number

__all__ = ["Watch", "watch"]

Numbers = NDArray[np.float32]
"""Log-probabilities [N, T]."""


def watch(
    learner: Any, path: Path | str, *, agent: int = 0, turn: int = 0, again: float = SHARE, rows: int | None = None
) -> Watch:
    """Let a GRPO learner of tunix write a token log while it trains. Call it before `learner.train`.

    Args:
      learner: `tunix.GRPOLearner` or one of its kind (DAPO, Dr. GRPO).
      path: folder of the log. It is made, or gone on with: what it has of the learner's global step and later is set aside.
      agent, turn: who writes these messages, and which message of the episode they are.
      again: share of the rollouts that is scored twice, for the floor; at least one of each of four groups of an update.
      rows: completions in one forward pass of a scoring; as tunix scores if not given.

    Returns:
      The watch. It closes itself when training ends.

    Raises:
      InputError: for a version of tunix that is not known, another learner, settings that cannot be scored.
    """
    whole_number("agent", agent, 0)
    whole_number("turn", turn, 0)
    real_number("again", again, above=0.0, high=1.0)
    if rows is not None:
        whole_number("rows", rows, 1)
    require_supported(learner)
    return Watch(learner, Path(path), agent, turn, again, rows)


class Scored(NamedTuple):
    """A batch and its log-probabilities before the update."""

    batch: Batch
    behaviour: Numbers
    current: Numbers
    again: Numbers
    """`current` a second time, NaN where a rollout was scored once"""


@dataclass
class _Update:
    """An update of the log while it is made."""

    step: int
    """tunix's global step."""
    number: int
    """Of the update, within the stage, from 0."""
    steps: int
    """The optimiser's steps before it."""
    scored: list[Scored] = field(default_factory=list)
    rollouts: int = 0
    """Those that were scored."""
    start: tuple[Any, Any] | None = None
    """The actor it starts from, kept where rollouts may still come when it has moved."""


class Watch:
    """What `watch` returns: scores, writes, closes. A context manager, for a training that may be interrupted.

    An *update* of the log is a global step where the rollout worker has weights of its own: all rollouts are of the weights
    at its start. Where trainer and rollout worker share the weights it is a mini-batch: the next one samples from what
    this one made of them. Twenty global steps are a stage.
    """

    def __init__(self, learner: Any, path: Path, agent: int, turn: int, again: float, rows: int | None) -> None:
        cluster = learner.rl_cluster
        self._learner, self._cluster, self._trainer = learner, cluster, cluster.actor_trainer
        self._agent, self._turn, self._share, self._rows = agent, turn, again, rows
        self._group = int(learner.algo_config.num_generations)
        self._apart = bool(learner.should_sync_weights)
        self._pad = int(cluster.rollout.pad_id())
        self._own = isinstance(cluster.rollout, import_module("tunix.rl.rollout.vanilla_rollout").VanillaRollout)
        config, eos = rollout_config(cluster), int(cluster.rollout.eos_id())
        self._stops = tuple(map(int, config.eos_tokens or [eos])) if self._own else (eos,)
        self._score = scorer(self._pad, eos, float(config.temperature), self._stops)
        self._sampler = sampler_settings(cluster)
        self._writer = LogWriter(path, sampler=self._sampler, trainer="tunix")
        step, steps = int(cluster.global_steps), self._trainer.train_steps
        each = 1 if self._apart or not step else max(steps // (step * learner.algo_config.num_iterations), 1)
        self._update = _Update(step, step % UPDATES * each - 1, steps)
        self._writer.go_back(step // UPDATES, step % UPDATES * each)
        self._lock = threading.Lock()
        self._last: dict[int, Batch] = {}
        self._made: list[Batch] = []
        self._calls = {name: getattr(cluster, name) for name in ("generate", "sync_weights", "close")}
        for name in self._calls:
            setattr(cluster, name, getattr(self, f"_{name}"))
        learner.metric_fns = [*learner.metric_fns, self._rewarded]
        self._hooks = self._trainer.training_hooks
        self._mine = _Hooks(self._before, self._hooks)
        self._trainer.with_training_hooks(self._mine)
        self._open = True

    def close(self) -> None:
        """Write what is finished, and leave the learner as it was."""
        if not self._open:
            return
        self._open = False
        try:
            self._finish()
        finally:
            for name, call in self._calls.items():
                setattr(self._cluster, name, call)
            self._learner.metric_fns = [one for one in self._learner.metric_fns if one != self._rewarded]
            self._trainer.with_training_hooks(self._hooks)
            self._writer.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------- what tunix calls

    def _close(self) -> Any:
        self.close()
        return self._calls["close"]()

    def _sync_weights(self) -> Any:
        self._finish()
        return self._calls["sync_weights"]()

    def _generate(self, *arguments: Any, **named: Any) -> Any:
        """The engine is asked. Where it has the trainer's weights, the update before is over."""
        given = inspect.signature(type(self._cluster).generate).bind(self._cluster, *arguments, **named)
        given.apply_defaults()
        if self._trainer.training_hooks is not self._mine or self._rewarded not in self._learner.metric_fns:
            raise InputError("training_hooks, metric_fns", "others, set after watch", "theirs set first, then watch")
        train = str(given.arguments["mode"]) == "train"
        if train and not self._apart and self._moved():
            self._finish()
        out = self._calls["generate"](*arguments, **named)
        if train:
            self._last[threading.get_ident()] = self._batch(out)
        else:
            self._last.pop(threading.get_ident(), None)
        return out

    def _rewarded(self, rewards: Any, **_: Any) -> dict[str, Any]:
        """One of the learner's metric functions: the rewards of what this thread sampled last. It adds no metric."""
        batch = self._last.pop(threading.get_ident(), None)
        if batch is not None:
            with self._lock:
                self._made.append(batch._replace(reward=np.asarray(rewards, np.float64).reshape(-1)))
        return {}

    def _before(self, trainer: Any) -> None:
        """Training on rollouts begins: score those that were not, with the weights that the update starts from."""
        with self._lock:
            made, self._made = self._made, []
        if not made:
            return
        now = self._update
        if not now.scored:
            step = int(self._cluster.global_steps)
            number = now.number + 1 if step // UPDATES == now.step // UPDATES else 0
            now = self._update = _Update(step, number, trainer.train_steps)
        graph, state = import_module("flax.nnx").split(trainer.model) if now.start is None else now.start
        if self._apart and self._cluster.cluster_config.training_config.mini_batch_size:
            now.start = (graph, import_module("jax").tree.map(lambda leaf: leaf, state))
        for batch in made:
            now.scored.append(self._scored(batch, graph, state))

    # ------------------------------------------------------------------------------------------- what the log gets

    def _moved(self) -> bool:
        """Whether the optimiser made a step since the update began."""
        return bool(self._update.scored) and self._trainer.train_steps > self._update.steps

    def _batch(self, out: Any) -> Batch:
        """What the engine returned, as arrays."""
        if (now := sampler_settings(self._cluster)) != self._sampler:
            raise InputError("rollout_config", f"{now} while training", f"{self._sampler}, as when training began")
        width = rollout_config(self._cluster).max_tokens_to_generate
        ids, mask, stops = completed(out.tokens, width, self._stops, self._pad, left_out=self._own)
        prompts = np.asarray(out.left_padded_prompt_tokens, np.int32)
        return Batch(prompts, ids, mask, stops, engine_numbers(out.logprobs, mask), np.full(len(ids), np.nan))

    def _scored(self, batch: Batch, graph: Any, state: Any) -> Scored:
        """The scorings that are made before the update."""
        current = self._numbers(batch, graph, state)
        again = np.full_like(current, np.nan)
        twice = twice_in_stream(self._update.rollouts, len(current), self._group, self._share)
        self._update.rollouts += len(current)
        if twice.any():  # among other rows and in the other order, as a trainer's next batch would
            chosen = np.flatnonzero(twice)[::-1]
            again[chosen] = self._numbers(batch, graph, state, chosen)
        return Scored(batch, self._behaviour(batch, current), current, again)

    def _behaviour(self, batch: Batch, current: Numbers) -> Numbers:
        """The engine's own numbers where it gave them, else a scoring of its weights, with places as it counts them."""
        missing = batch.mask & np.isnan(batch.engine)
        if not missing.any():
            return batch.engine
        if not scorable(self._cluster):
            row = int(np.argmax(missing.any(1)))
            found = f"{missing[row].sum()} tokens without one"
            raise InputError(f"logprobs, row {row}", found, "one for each token that the engine wrote")
        score = partial(self._numbers, batch, *import_module("flax.nnx").split(self._cluster.rollout.model()))
        role = import_module("tunix.rl.rl_cluster").Role.ROLLOUT
        scored = score(role=role) if self._apart else current
        ended = np.arange(batch.mask.shape[1]) == batch.stops[:, None]
        pads = (batch.mask & ~ended & (batch.completions == self._pad)).any(1)
        if (pads & missing.any(1)).any():
            scored = np.where(pads[:, None], score(role=role, places_of_sampler=True), scored)
        return np.where(np.isnan(batch.engine), scored, batch.engine)

    def _numbers(
        self,
        batch: Batch,
        graph: Any,
        state: Any,
        chosen: NDArray[np.int64] | None = None,
        role: Any = None,
        places_of_sampler: bool = False,
    ) -> Numbers:
        """The rows `chosen` (all) under the weights `state`, in forward passes of one shape: the last is filled up."""
        jnp = import_module("jax.numpy")
        shard = import_module("tunix.sft.sharding_utils").shard_input
        config = self._cluster.cluster_config
        role = import_module("tunix.rl.rl_cluster").Role.ACTOR if role is None else role
        chosen = np.arange(len(batch.mask)) if chosen is None else chosen
        devices = config.role_to_mesh[role].size
        size = -(-min(self._size(len(batch.mask)), len(chosen)) // devices) * devices
        parts = []
        with _placed(config, role):
            for at in range(0, len(chosen), size):
                rows = chosen[np.minimum(np.arange(at, at + size), len(chosen) - 1)]
                given = (batch.prompts[rows], batch.completions[rows], batch.stops[rows])
                given = [shard(jnp.asarray(one), config.training_config.data_sharding_axis) for one in given]
                parts.append(np.asarray(self._score(graph, state, *given, places_of_sampler=places_of_sampler)))
        found = np.concatenate(parts)[: len(chosen)]
        bad = batch.mask[chosen] & ~np.isfinite(found)
        if bad.any():
            raise InputError(
                "log-probabilities", f"{bad.sum()} that are no finite number", "finite: look at the weights"
            )
        return found

    def _size(self, default: int) -> int:
        """Completions in one forward pass."""
        config = self._cluster.cluster_config.training_config
        prompts = config.compute_logps_micro_batch_size or config.train_micro_batch_size or config.mini_batch_size
        return self._rows or (prompts * self._group if prompts else default)

    def _finish(self) -> None:
        """The update is over: score the weights it ended with, write, and tell the trainer's logger."""
        update, moved = self._update, self._moved()
        self._update = _Update(update.step, update.number if moved or not update.scored else update.number - 1, 0)
        if not moved:  # data ended before the optimiser made a step
            return
        graph, state = import_module("flax.nnx").split(self._trainer.model)
        tables = [self._table(one, self._numbers(one.batch, graph, state), update) for one in update.scored]
        for table in tables:
            self._writer.add(table)
        self._writer.flush()
        sums = UpdateSums(*map(sum, zip(*map(update_sums, tables), strict=True)))
        for name, value in update_scalars(sums).items():
            prefix, _, rest = name.partition("/")
            self._trainer.metrics_logger.log(prefix, rest, value, "train", update.step)

    def _table(self, one: Scored, new: Numbers, update: _Update) -> dict[str, NDArray[Any]]:
        """The rows of the log."""
        prompt, rollout = self._writer.ids(len(new) // self._group, self._group)
        return token_rows(
            one.batch.mask,
            prompt=prompt,
            rollout=rollout,
            stage=update.step // UPDATES,
            update=update.number,
            source=update.number,
            agent=self._agent,
            turn=self._turn,
            logp_behaviour=one.behaviour,
            logp_current=one.current,
            logp_new=new,
            logp_again=one.again,
            reward=one.batch.reward,
            token=one.batch.completions,
        )


def scorer(pad: int, eos: int, temperature: float, stops: tuple[int, ...]) -> Callable[..., Any]:
    """A compiled function: log-probabilities [N, T] of completions at the sampling temperature, by the function of tunix's loss.

    Where several ids stop a completion, the probability of its stop is their sum. tunix's sampler counts the place of a pad that
    the model wrote, its trainer does not: `places_of_sampler` scores with the sampler's places.

    Returns:
      `score(graph, state, prompts [N, P], completions [N, T], stops [N], places_of_sampler)`.
    """
    jax, jnp, nnx = import_module("jax"), import_module("jax.numpy"), import_module("flax.nnx")
    common = import_module("tunix.rl.common")

    @partial(jax.jit, static_argnames="places_of_sampler")
    def score(graph: Any, state: Any, prompts: Any, completions: Any, ends: Any, places_of_sampler: bool) -> Any:
        if places_of_sampler:
            tokens = jnp.concatenate([prompts, completions], axis=1)
            counted = jnp.concatenate([prompts != pad, jnp.ones_like(completions, bool)], axis=1)
            places = common.build_positions_from_mask(counted)
            seen = common.make_causal_attn_mask(tokens != pad)
            logits, _ = nnx.merge(graph, state)(tokens, positions=places, cache=None, attention_mask=seen)
            logits = logits[:, prompts.shape[1] - 1 : -1] / temperature
            found = common.selective_log_softmax(logits, completions)
        else:
            found, logits = common.compute_per_token_logps(
                graph, state, prompts, completions, pad, eos, return_logits=True, temperature=temperature
            )
        if len(stops) == 1:
            return found
        at = jnp.take_along_axis(logits, jnp.maximum(ends, 0)[:, None, None], axis=1)[:, 0].astype(jnp.float32)
        stopped = jax.nn.logsumexp(at[:, jnp.array(stops)], axis=1) - jax.nn.logsumexp(at, axis=1)
        return jnp.where(jnp.arange(completions.shape[1]) == ends[:, None], stopped[:, None], found)

    return score


@contextmanager
def _placed(config: Any, role: Any) -> Iterator[None]:
    """The mesh and the axis rules of a role, as tunix enters them."""
    with ExitStack() as stack:
        stack.enter_context(config.role_to_mesh[role])
        if rules := (config.role_to_logical_axis_rule or {}).get(role):
            stack.enter_context(import_module("flax.linen.partitioning").axis_rules(rules))
        yield


class _Hooks:
    """The actor's training hooks: `before` when training on rollouts begins, then those that were there."""

    def __init__(self, before: Callable[[Any], None], previous: Any) -> None:
        self._before, self._previous = before, previous

    def on_train_start(self, train_ctx: Any) -> None:
        self._before(train_ctx)
        if self._previous is not None:
            self._previous.on_train_start(train_ctx)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _nothing if self._previous is None else getattr(self._previous, name)


def _nothing(*_: Any, **__: Any) -> None:
    """A hook that nobody set."""
