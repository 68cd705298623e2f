"""tunix's GRPO learner writes a token log: two lines, and training stays what it was.

    from teamtr_jax.integrations.tunix import watch
    watch(learner, "log", agent=0, turn=0)

What is read and set is public in tunix: `RLCluster.generate`, `.sync_weights` and `.close` are called through the watch, it is one of
`learner.metric_fns` (there the rewards come by), and it is the actor's training hooks (those that were there are called too). Nothing
of tunix or jax is imported before `watch` is called.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.integrations.checked_version import require_version
from teamtr_jax.integrations.log_writer import LogWriter
from teamtr_jax.monitor.writing import token_rows
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError

__all__ = ["KNOWN", "Watch", "completed", "scored_twice", "watch"]

KNOWN = ("0.1.7",)
"""Versions of tunix that this module was run with."""


class Batch(NamedTuple):
    """Rollouts of one call of the engine: N completions of at most T tokens, prompts padded on the left to P tokens."""

    prompts: NDArray[np.int32]
    """[N, P]"""
    completions: NDArray[np.int32]
    """[N, T], filled with the pad id behind the end"""
    mask: NDArray[np.bool_]
    """[N, T], the tokens that were written"""
    stops: NDArray[np.int32]
    """[N], place of the token that ended the completion, −1 where the limit did"""
    engine: NDArray[np.float32] | None
    """[N, T], the engine's own log-probabilities, NaN where it gave none; None: it gave none at all"""
    reward: NDArray[np.float64]
    """[N]"""
    group: int
    """completions of one prompt, one behind the other"""


class Scored(NamedTuple):
    """A batch and its log-probabilities before the update, [N, T] each."""

    batch: Batch
    behaviour: NDArray[np.float32]
    current: NDArray[np.float32]
    again: NDArray[np.float32]
    """`current` a second time, NaN where a rollout was scored once"""


def completed(
    tokens: Sequence[ArrayLike], width: int, stops: Sequence[int], pad: int, add_stop: bool
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int32]]:
    """Completions as a padded array, their mask by length, and where each ended.

    A mask of "not the pad id" loses a pad that the model wrote, and the end where pad and end of sequence are one id. tunix's own
    sampler leaves the end of sequence out of what it returns: a completion shorter than the limit ended with it, so it is put back.

    Args:
      tokens: N sequences of ids.
      width: T, the limit of tokens.
      stops: ids that end a completion. Where there are several, the one that was written is not known if it was left out: the
        first stands for all.
      pad: fills the rest.
      add_stop: the engine leaves the stop out.

    Returns:
      ids [N, T]; mask [N, T]; place of the stop [N], −1 where there is none.

    Raises:
      InputError: if a completion is longer than the limit.

    Example:
      >>> ids, mask, ends = completed([[5, 0], [5, 6, 7]], 3, [2], pad=0, add_stop=True)
      >>> print(ids.tolist(), mask.sum(1), ends)
      [[5, 0, 2], [5, 6, 7]] [3 3] [ 2 -1]
    """
    ids = np.full((len(tokens), width), pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    ends = np.full(len(tokens), -1, np.int32)
    for row, written in enumerate(tokens):
        found = np.asarray(written, np.int32).reshape(-1)
        if found.size > width:
            raise InputError(f"tokens, row {row}", f"{found.size} tokens", f"at most max_tokens_to_generate = {width}")
        stopped = found.size > 0 and int(found[-1]) in stops
        if add_stop and not stopped and found.size < width:
            found, stopped = np.append(found, np.int32(stops[0])), True
        ids[row, : found.size] = found
        mask[row, : found.size] = True
        if stopped:
            ends[row] = found.size - 1
    return ids, mask, ends


def scored_twice(first: int, groups: int, share: float) -> NDArray[np.bool_]:
    """Which of `groups` groups are scored a second time: of all groups of an update the first, and one in every 1/share.

    Args:
      first: number of the first of them within the update.

    Example:
      >>> print(scored_twice(0, 5, 0.5), scored_twice(5, 2, 0.5))
      [ True False  True False  True] [False  True]
    """
    return (first + np.arange(groups)) % max(round(1 / share), 1) == 0


def _engine_numbers(logprobs: Sequence[ArrayLike] | None, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The engine's log-probabilities [N, T], NaN where it gave none."""
    if logprobs is None:
        return None
    out = np.full(shape, np.nan, np.float32)
    for row, given in enumerate(logprobs):
        numbers = np.asarray(given, np.float32).reshape(-1)[: shape[1]]
        out[row, : numbers.size] = numbers
    return out


def _scorer(pad: int, eos: int, temperature: float, stops: tuple[int, ...]) -> Callable[..., Any]:
    """The jitted log-probabilities [N, T] of completions at the sampling temperature.

    By tunix's own function, the one of its loss. The sampler counts the place of a pad that the model wrote, the trainer does not:
    `sampled` scores with the sampler's places. Where several ids stop a completion, the probability of the stop is their sum.
    """
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    nnx = importlib.import_module("flax.nnx")
    common = importlib.import_module("tunix.rl.common")

    @functools.partial(jax.jit, static_argnames="sampled")
    def score(graph: Any, state: Any, prompts: Any, completions: Any, ends: Any, sampled: bool) -> Any:
        if sampled:
            tokens = jnp.concatenate([prompts, completions], axis=1)
            counted = jnp.concatenate([prompts != pad, jnp.ones_like(completions, bool)], axis=1)
            logits, _ = nnx.merge(graph, state)(
                tokens,
                positions=common.build_positions_from_mask(counted),
                cache=None,
                attention_mask=common.make_causal_attn_mask(tokens != pad),
            )
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


def _scalars(unit: Sequence[Scored], new: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """What the trainer's own logger gets: KL(current‖new) in nats a message (k1, k3), the relative ESS, the floor (k3)."""

    def sums(term: Callable[[NDArray[Any]], NDArray[Any]], pairs: Any) -> NDArray[np.float64]:
        out = [np.where(mask, term(np.where(mask, there - here, 0.0).astype(np.float64)), 0.0).sum(1) for mask, here, there in pairs]
        return np.concatenate(out)

    moved = [(one.batch.mask, one.current, after) for one, after in zip(unit, new, strict=True)]
    twice = [(one.batch.mask & ~np.isnan(one.again), one.current, one.again) for one in unit]
    both = np.concatenate([~np.isnan(one.again).any(1) for one in unit])
    with np.errstate(over="ignore", invalid="ignore"):
        k3 = sums(lambda d: np.expm1(d) - d, moved)
        weight = np.exp(sums(lambda d: d, moved))
        ess = float(weight.sum() ** 2 / (weight**2).sum() / weight.size)
        floor = sums(lambda d: np.expm1(d) - d, twice)
    return {
        "kl_k1": float(-sums(lambda d: d, moved).mean()),
        "kl_k3": float(k3.mean()),
        "ess": ess,
        "floor_k3": float(floor[both].mean()),
    }


def watch(
    learner: Any, path: Path | str, *, agent: int = 0, turn: int = 0, again: float = 0.125, rows: int | None = None
) -> Watch:
    """Let a GRPO learner of tunix write a token log while it trains. Call it before `learner.train`.

    Args:
      learner: `tunix.GRPOLearner`, or one of its kind (DAPO, Dr. GRPO).
      path: folder of the log; it is made, or gone on with.
      agent, turn: who writes these messages, and which message of the episode they are.
      again: share of the rollouts that is scored twice, for the floor.
      rows: completions per forward pass of a scoring; as tunix scores if not given.

    Returns:
      The watch. It closes itself when training ends.

    Raises:
      InputError: for a version of tunix that is not known, another learner, settings that cannot be scored.
    """
    tunix = importlib.import_module("tunix")
    require_version("tunix", tunix.__version__, KNOWN)
    if not isinstance(learner, tunix.GRPOLearner):
        raise InputError("learner", type(learner).__name__, "tunix.GRPOLearner or a subclass; not PPO, not the agentic learner")
    for name, value in (("agent", agent), ("turn", turn)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(name, repr(value), "an integer ≥ 0")
    if not 0 < again <= 1:
        raise InputError("again", repr(again), "a share in (0, 1]")
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise InputError("rows", repr(rows), "an integer ≥ 1")
    _supported(learner)
    return Watch(learner, Path(path), agent, turn, again, rows)


def _supported(learner: Any) -> None:
    """Refuse what would be scored wrongly, or was never run."""
    cluster = learner.rl_cluster
    jax, nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
    config = _rollout_config(cluster)
    if jax.process_count() > 1:
        raise InputError("jax.process_count()", jax.process_count(), "1: several processes were not tried")
    if cluster.cluster_config.offload_to_cpu:
        raise InputError("cluster_config.offload_to_cpu", True, "False: scoring parameters that lie on the host was not tried")
    if not config.temperature > 0:
        raise InputError("rollout_config.temperature", repr(config.temperature), "above 0: a greedy rollout is no sample")
    if config.top_p is None or not 0 < config.top_p <= 1:
        wanted = "in (0, 1]; with None tunix's sampler is greedy, and vLLM takes the checkpoint's own"
        raise InputError("rollout_config.top_p", repr(config.top_p), wanted)
    model = cluster.rollout.model()
    if not isinstance(model, nnx.Module):
        if not config.return_logprobs:
            wanted = "True: this engine's weights cannot be scored, so its own log-probabilities are needed"
            raise InputError("rollout_config.return_logprobs", config.return_logprobs, wanted)
        if config.top_k is None:
            wanted = "a number, −1 for all tokens: with None the engine takes the checkpoint's own, and no log says it"
            raise InputError("rollout_config.top_k", None, wanted)
    if not learner.should_sync_weights and learner.can_enable_async_rollout:
        raise InputError("role_to_mesh", "rollouts beside training with the same weights", "one mesh, or weights of their own")


def _rollout_config(cluster: Any) -> Any:
    modes = importlib.import_module("tunix.rl.rl_cluster").Mode
    return cluster.get_rollout_config(modes.TRAIN)


def _sampler(cluster: Any) -> Sampler:
    """The settings of the rollouts and the precision of the forward pass that scores."""
    config, model = _rollout_config(cluster), cluster.actor_trainer.model
    nnx, jax = importlib.import_module("flax.nnx"), importlib.import_module("jax")
    kind = getattr(getattr(model, "config", None), "dtype", None)
    if kind is None:
        kind = jax.tree.leaves(nnx.state(model, nnx.Param))[0].dtype
    return Sampler(
        temperature=float(config.temperature),
        top_k=max(config.top_k or 0, 0),
        top_p=float(config.top_p),
        precision=importlib.import_module("jax.numpy").dtype(kind).name,
    )


class Watch:
    """What `watch` returns: scores, writes, closes. A context manager, for a training that may be interrupted.

    An *update* of the log is a global step where the rollout worker has weights of its own: all its rollouts are of the weights
    of its start. Where trainer and rollouts share the weights, it is a mini-batch: the next one samples from the weights this one made.
    """

    def __init__(self, learner: Any, path: Path, agent: int, turn: int, again: float, rows: int | None):
        cluster = learner.rl_cluster
        trainer, rollout = cluster.actor_trainer, cluster.rollout
        config = _rollout_config(cluster)
        self._learner, self._cluster, self._trainer = learner, cluster, trainer
        self._agent, self._turn, self._share, self._rows = agent, turn, again, rows
        self._group = learner.algo_config.num_generations
        self._apart = bool(learner.should_sync_weights)
        self._stops = tuple(config.eos_tokens or [rollout.eos_id()])
        self._score = _scorer(rollout.pad_id(), rollout.eos_id(), float(config.temperature), self._stops)
        self._sampler = _sampler(cluster)
        self._writer = LogWriter(path, sampler=self._sampler, trainer="tunix")
        self._writer.go_back(cluster.global_steps, 0)
        self._lock = threading.Lock()
        self._last: dict[int, Batch | None] = {}
        self._made: list[Batch] = []
        self._unit: list[Scored] = []
        self._start: Any = None
        self._groups = self._steps = 0
        self._step, self._part = -1, 0  # stage and update of the log
        self._calls = {name: getattr(cluster, name) for name in ("generate", "sync_weights", "close")}
        for name in self._calls:
            setattr(cluster, name, getattr(self, f"_{name}"))
        learner.metric_fns = [*learner.metric_fns, self._rewarded]
        self._hooks = trainer.training_hooks
        trainer.with_training_hooks(_Hooks(self._before, self._hooks))
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

    def _close(self) -> Any:
        self.close()
        return self._calls["close"]()

    def _sync_weights(self) -> Any:
        self._finish()
        return self._calls["sync_weights"]()

    def _generate(self, *arguments: Any, **named: Any) -> Any:
        """The engine is asked: where it has the trainer's weights, the update before is over."""
        given = inspect.signature(self._calls["generate"]).bind(*arguments, **named)
        given.apply_defaults()
        train = str(given.arguments["mode"]) == "train"
        if train and not self._apart and self._trainer.train_steps > self._steps:
            self._finish()
        out = self._calls["generate"](*arguments, **named)
        self._last[threading.get_ident()] = self._batch(out) if train else None
        return out

    def _batch(self, out: Any) -> Batch:
        """What the engine returned, as arrays."""
        config, pad = _rollout_config(self._cluster), self._cluster.rollout.pad_id()
        if (now := _sampler(self._cluster)) != self._sampler:
            raise InputError("rollout_config", f"{now} while training", f"{self._sampler}, as it was at the start")
        left_out = isinstance(
            self._cluster.rollout, importlib.import_module("tunix.rl.rollout.vanilla_rollout").VanillaRollout
        )
        ids, mask, stops = completed(out.tokens, config.max_tokens_to_generate, self._stops, pad, left_out)
        engine = _engine_numbers(out.logprobs, ids.shape)
        prompts = np.asarray(out.left_padded_prompt_tokens, np.int32)
        return Batch(prompts, ids, mask, stops, engine, np.full(len(ids), np.nan), self._group)

    def _rewarded(self, rewards: Any, **_: Any) -> dict[str, Any]:
        """One of the learner's metric functions: the rewards of what this thread sampled last. It adds no metric."""
        batch = self._last.pop(threading.get_ident(), None)
        if batch is not None:
            reward = np.asarray(rewards, np.float64).reshape(-1)
            with self._lock:
                self._made.append(batch._replace(reward=reward))
        return {}

    def _before(self, trainer: Any) -> None:
        """Training on rollouts begins: score those that were not, with the weights the update starts from."""
        with self._lock:
            made, self._made = self._made, []
        if not self._unit:
            self._groups, self._steps, step = 0, trainer.train_steps, self._cluster.global_steps
            self._part = self._part + 1 if step == self._step else 0
            self._step = step
            self._start = None
        if not made:
            return
        nnx, jax = importlib.import_module("flax.nnx"), importlib.import_module("jax")
        graph, state = nnx.split(trainer.model) if self._start is None else self._start
        if self._apart and self._cluster.cluster_config.training_config.mini_batch_size:
            self._start = (graph, jax.tree.map(lambda leaf: leaf, state))
        for batch in made:
            self._unit.append(self._scored(batch, graph, state))

    def _scored(self, batch: Batch, graph: Any, state: Any) -> Scored:
        """The scorings that are made before the update."""
        current = self._numbers(batch, graph, state)
        again = np.full_like(current, np.nan)
        groups = len(current) // batch.group
        twice = np.repeat(scored_twice(self._groups, groups, self._share), batch.group)
        self._groups += groups
        if twice.any():  # other rows beside them, in the other order
            chosen = np.flatnonzero(twice)[::-1]
            again[chosen] = self._numbers(batch, graph, state, chosen)
        return Scored(batch, self._behaviour(batch, current), current, again)

    def _behaviour(self, batch: Batch, current: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the engine: its own numbers where it gave them, else a scoring of its weights, places counted as it counts them."""
        engine = np.full_like(current, np.nan) if batch.engine is None else batch.engine
        missing = (batch.mask & np.isnan(engine)).any(1)
        if not missing.any():
            return engine
        nnx = importlib.import_module("flax.nnx")
        model = self._cluster.rollout.model()
        if not isinstance(model, nnx.Module):
            row = int(np.argmax(missing))
            raise InputError(f"logprobs, row {row}", "fewer than tokens", "one for each token: this engine cannot be scored")
        odd = (batch.mask & (batch.completions == self._cluster.rollout.pad_id()))[:, :-1].any(1)
        if not self._apart and not odd.any():
            return np.where(np.isnan(engine), current, engine)
        graph, state = nnx.split(model)
        role = importlib.import_module("tunix.rl.rl_cluster").Role.ROLLOUT
        scored = current if not self._apart else self._numbers(batch, graph, state, role=role)
        if odd.any():
            scored = np.where(odd[:, None], self._numbers(batch, graph, state, role=role, sampled=True), scored)
        return np.where(np.isnan(engine), scored, engine)

    def _numbers(
        self, batch: Batch, graph: Any, state: Any, chosen: Any = None, role: Any = None, sampled: bool = False
    ) -> NDArray[np.float32]:
        """Log-probabilities [N, T] of the rows `chosen`, in forward passes of one shape: the last one is filled up."""
        jnp = importlib.import_module("jax.numpy")
        shard = importlib.import_module("tunix.sft.sharding_utils").shard_input
        config = self._cluster.cluster_config
        role = importlib.import_module("tunix.rl.rl_cluster").Role.ACTOR if role is None else role
        chosen = np.arange(len(batch.mask)) if chosen is None else chosen
        wide = config.role_to_mesh[role].size
        size = math.ceil(min(self._size(batch), len(chosen)) / wide) * wide
        parts = []
        with _placed(config, role):
            for at in range(0, len(chosen), size):
                rows = chosen[np.minimum(np.arange(at, at + size), len(chosen) - 1)]
                given = [batch.prompts[rows], batch.completions[rows], batch.stops[rows]]
                given = [shard(jnp.asarray(one), config.training_config.data_sharding_axis) for one in given]
                parts.append(np.asarray(self._score(graph, state, *given, sampled=sampled))[: len(chosen) - at])
        found = np.concatenate(parts)
        bad = batch.mask[chosen] & ~np.isfinite(found)
        if bad.any():
            raise InputError("log-probabilities", f"{bad.sum()} that are no finite number", "finite numbers: look at the weights")
        return found

    def _size(self, batch: Batch) -> int:
        """Completions per forward pass."""
        config = self._cluster.cluster_config.training_config
        prompts = config.compute_logps_micro_batch_size or config.train_micro_batch_size or config.mini_batch_size
        return self._rows or (prompts * batch.group if prompts else len(batch.mask))

    def _finish(self) -> None:
        """The update is over: score the weights it ended with, write, and tell the trainer's logger."""
        unit, self._unit = self._unit, []
        self._start = None
        if not unit or self._trainer.train_steps == self._steps:  # no optimiser step was made
            return
        graph, state = importlib.import_module("flax.nnx").split(self._trainer.model)
        new = [self._numbers(one.batch, graph, state) for one in unit]
        for one, after in zip(unit, new, strict=True):
            batch = one.batch
            prompt, rollout = self._writer.ids(len(batch.mask) // batch.group, batch.group)
            self._writer.add(
                token_rows(
                    batch.mask,
                    prompt=prompt,
                    rollout=rollout,
                    stage=self._step,
                    update=self._part,
                    source=self._part,
                    agent=self._agent,
                    turn=self._turn,
                    logp_behaviour=one.behaviour,
                    logp_current=one.current,
                    logp_new=after,
                    logp_again=one.again,
                    reward=batch.reward,
                    token=batch.completions,
                )
            )
        self._writer.flush()
        for name, value in _scalars(unit, new).items():
            self._trainer.metrics_logger.log("teamtr", name, value, "train", self._step)


@contextmanager
def _placed(config: Any, role: Any) -> Iterator[None]:
    """The mesh and the axis rules of a role, as tunix enters them."""
    with ExitStack() as stack:
        stack.enter_context(config.role_to_mesh[role])
        if rules := (config.role_to_logical_axis_rule or {}).get(role):
            stack.enter_context(importlib.import_module("flax.linen.partitioning").axis_rules(rules))
        yield


class _Hooks:
    """The actor's training hooks: `before` when training on rollouts begins, and what was there before."""

    def __init__(self, before: Callable[[Any], None], previous: Any):
        self._before, self._previous = before, previous

    def on_train_start(self, train_ctx: Any) -> None:
        self._before(train_ctx)
        if self._previous is not None:
            self._previous.on_train_start(train_ctx)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._previous, name) if self._previous is not None else _nothing


def _nothing(*_: Any, **__: Any) -> None:
    """A hook that nobody set."""
