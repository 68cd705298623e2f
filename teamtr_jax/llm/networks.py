"""What every backend of networks does: rollouts of a task, advantages, weights, certificates; whatever a network reads.

A `Kind` says how its teams talk and how they are updated: those that write a `Layout` (`backend`), those that talk in text
(`text_backend`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.finite_sample import finite_sample_certificate, mismatch_certificate
from teamtr_jax.llm.checked import flags, real, whole
from teamtr_jax.llm.losses import mixed_groups, rollout_advantage
from teamtr_jax.llm.tasks import Problem, draw
from teamtr_jax.llm.token_log import TokenLogger
from teamtr_jax.llm.update import Lesson, Outcome, TrainState
from teamtr_jax.llm.update_settings import MOST_ROWS, UpdateSettings
from teamtr_jax.rollouts import centred_advantage, weight_diagnostics
from teamtr_jax.sampled import WEIGHTS
from teamtr_jax.schedules import Schedule, fresh
from teamtr_jax.sharing import Sharing
from teamtr_jax.stage import Backend
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError

__all__ = ["Audit", "LanguageSampling", "LanguageEstimate", "Kind", "backend_of", "team_log_probs", "transcript_weight"]

Audit = Callable[[list[TrainState], list[UpdateRecord], Schedule], Mapping[str, Any]]


@dataclass(frozen=True)
class LanguageSampling:
    """How rollouts are collected."""

    prompts: int  #: B, drawn from the task's training prompts for one set of rollouts
    group: int = 8  #: G, rollouts of each prompt
    held_out: int = 0  #: prompts of each set that no update sees and S8 certifies with
    alpha: float = 0.1  #: probability of error of S8
    weight_diagnostics: bool = True  #: importance weights of old rollouts are reported even where no update uses them

    def __post_init__(self) -> None:
        whole(self, 1, "prompts", high=MOST_ROWS)
        whole(self, 2, "group", high=MOST_ROWS)
        if self.rows > MOST_ROWS:
            raise InputError(
                "prompts, group", f"{self.prompts}, {self.group}: {self.rows} rollouts", f"at most {MOST_ROWS}"
            )
        whole(self, 0, "held_out", high=self.prompts - 1)
        if self.held_out == 1:
            raise InputError("held_out", 1, "0, or at least 2 prompts")
        real(self, "alpha", above=0.0, below=1.0)
        flags(self, "weight_diagnostics")

    @property
    def rows(self) -> int:
        """Rollouts in one set."""
        return self.prompts * self.group

    @property
    def training(self) -> int:
        """Those that updates see, the first ones."""
        return (self.prompts - self.held_out) * self.group


class Kind(NamedTuple):
    """How a kind of team talks and is updated.

    Its rollouts are a named tuple with ``reward [B, G]``, ``key`` (``[2]`` words, a seed for the order of the rows in updates)
    and ``source`` (the parameters of the team that wrote them, not copied). Arrays over messages are ``[R, turns, L]``, R = B·G.
    """

    who: Sharing
    collect: Callable[
        [TrainState, list[Problem], Array, Array], Any
    ]  #: (state, problems, key, seed of the order) → rollouts
    speaker: Callable[[Any], NDArray[np.int32]]  #: rollouts → ``[R, turns]``
    written: Callable[[Any], NDArray[np.bool_]]  #: rollouts → where an agent wrote an id
    behaviour: Callable[[Any], NDArray[np.float64]]  #: rollouts → its log-probability as it was written; 0 elsewhere
    score: Callable[[TrainState, Any, int], NDArray[np.float64]]
    """(state, rollouts, agent) → its log-probability now, under the parameters that the agent plays with."""
    data: Callable[[Any, int, Lesson], Any]  #: (rollouts, agent, lesson) → what `advance` is given
    advance: Callable[
        [TrainState, int, Any, Array], tuple[TrainState, Outcome]
    ]  #: (state, agent, data, order of the rows)
    rescored: bool = (
        False  #: whether `score` is another program than what wrote: what an agent wrote is scored before its update
    )
    foreign: bool = (
        False  #: whether somebody else's sampler writes for an agent: the rollouts are of neither policy (S12)
    )
    more: Callable[[TrainState, LanguageEstimate, Outcome, int, Mapping[str, Any]], dict[str, Any]] = lambda *_: {}
    """(state before, estimate, outcome, agent, diagnostics so far) → further ones."""


class LanguageEstimate(NamedTuple):
    """What an update is made from."""

    data: Any  #: `Kind.data`
    rollouts: Any
    current: NDArray[np.float64] | None  #: `log π` now of what was written ``[R, turns, L]``; none: the behaviour's
    weights: Sequence[Any]  #: `WEIGHTS`
    fresh: bool  #: whether the team now is the one that wrote the rollouts


# ------------------------------------------------------------------------------------------------------------ what it teaches


class _Taught(NamedTuple):
    """What rewards teach, of each rollout ``[B, G]``."""

    used: Array  #: the advantage
    centred: Array  #: the unbiased one
    counts: Array  #: 1, or 0 for a rollout that is left out
    uniform: Array  #: share of prompts that teach nothing


@partial(jax.jit, static_argnames=("kind", "drop", "held_out"))
def _prepare(reward: Array, clip: Array, kind: str, drop: bool, held_out: int) -> _Taught:
    """Rewards of held-out prompts, the last ones, have no part in it: S8 asks for an agent that was trained on other data."""
    seen = reward[: reward.shape[0] - held_out]
    mixed = mixed_groups(seen)
    counts = jnp.broadcast_to(mixed[:, None] if drop else jnp.ones_like(mixed)[:, None], seen.shape)
    each = rollout_advantage(seen, kind, clip), centred_advantage(seen), counts.astype(reward.dtype)
    each = (jnp.pad(x, ((0, held_out), (0, 0))) for x in each)
    return _Taught(*each, uniform=1 - mixed.mean(dtype=reward.dtype))


def team_log_probs(kind: Kind, state: TrainState, rollouts: Any, agents: Sequence[int]) -> NDArray[np.float64]:
    """`log π` of what was written, by these agents and their sharers as they are now, by the others as it was written."""
    wrote, speaker = kind.written(rollouts), kind.speaker(rollouts)
    out = kind.behaviour(rollouts)
    for agent in agents:
        own = wrote & np.isin(speaker, kind.who.moved(agent))[:, :, None]
        if own.any():
            out = np.where(own, kind.score(state, rollouts, agent), out)
    return out


def transcript_weight(
    behaviour: NDArray[np.float64], current: NDArray[np.float64], truncation: float = math.inf
) -> NDArray[np.float64]:
    """`min(∏ π_current/π_behaviour, c)` over all agents' tokens of each transcript, ``[R]``; mean 1 if `c = ∞`."""
    log_weight = (current - behaviour).sum((-2, -1))
    return np.minimum(np.exp(np.minimum(log_weight, 700.0)), truncation)


_diagnose = jax.jit(weight_diagnostics)


# ---------------------------------------------------------------------------------------------------------------- the backend


def backend_of(
    kind: Kind,
    task: Any,
    settings: UpdateSettings,
    sampling: LanguageSampling,
    audit: Audit | None = None,
    log: TokenLogger | None = None,
) -> Backend:
    """A backend of this kind of team.

    Raises:
      InputError: a log of updates that are not measured on every rollout.
    """
    if log is not None and settings.measured < 1:
        raise InputError("settings.measured", settings.measured, "1 with a log: it has a row for every token")
    networks = _Networks(kind, task, settings, sampling, log)
    return Backend(
        agents=kind.who.agents,
        rollout=networks.rollout,
        estimate=networks.estimate,
        update=networks.update,
        cost=sampling.rows,
        predict=networks.predict,
        audit=audit,
        sharing=kind.who,
    )


def _key_data(key: Array) -> NDArray[np.uint32]:
    return np.asarray(jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key)


class _Networks(NamedTuple):
    """The functions of the backend."""

    kind: Kind
    task: Any
    settings: UpdateSettings
    sampling: LanguageSampling
    log: TokenLogger | None

    def rollout(self, state: TrainState, key: Array | None) -> Any:
        if key is None:
            raise InputError("key", "None", "a PRNG key: the backend samples")
        rng = np.random.default_rng(_key_data(key).tolist())
        problems = draw(self.task, rng, self.sampling.prompts, held_out=False)
        return self.kind.collect(state, problems, key, jnp.asarray(rng.integers(2**32, size=2, dtype=np.uint32)))

    def estimate(self, state: TrainState, rollouts: Any, agent: int, schedule: Schedule) -> LanguageEstimate:
        if schedule.reuse == "occupancy":
            raise InputError(
                f"schedule {schedule.name}", "the current team's advantages", "a schedule without a critic"
            )
        kind, settings, sampling, logged = self.kind, self.settings, self.sampling, self.log is not None
        is_fresh = rollouts.source is state.params
        reward, current, weights = rollouts.reward, None, (1.0, 1.0, 1.0, 1.0, 0.0)
        weight = np.ones(reward.shape, np.float32)
        weighted = schedule.reuse == "weights"
        compared = not is_fresh and (weighted or sampling.weight_diagnostics or logged)
        if compared or kind.rescored:
            first = kind.who.firsts[kind.who.sharers[agent]]
            # Of fresh rollouts of its own sampler the others' booked log-probabilities are the trainer's, to rounding.
            everybody = compared or (kind.foreign and (logged or sampling.held_out > 0))
            current = team_log_probs(kind, state, rollouts, kind.who.firsts if everybody else (first,))
        if compared:
            assert current is not None
            whole = transcript_weight(kind.behaviour(rollouts), current).reshape(reward.shape)
            trained_on = whole.reshape(-1)[: sampling.training].reshape(-1, sampling.group)
            weights = tuple(_diagnose(jnp.asarray(trained_on, jnp.float32)))
            if weighted:
                weight = np.minimum(whole, schedule.truncation).astype(np.float32)
        taught = _prepare(reward, settings.advantage_clip, settings.advantage, settings.drop_uniform, sampling.held_out)
        each = (taught.used, taught.centred, jnp.asarray(weight), taught.counts)
        data = kind.data(rollouts, agent, Lesson(*(x.reshape(-1) for x in each)))
        return LanguageEstimate(data, rollouts, current, (*weights, taught.uniform), is_fresh)

    def advance(self, state: TrainState, found: LanguageEstimate, agent: int) -> tuple[TrainState, Outcome]:
        rng = np.random.default_rng([*np.asarray(found.rollouts.key).tolist(), agent])
        orders = [rng.permutation(self.sampling.training) for _ in range(self.settings.epochs)]
        order = jnp.asarray(np.stack(orders).astype(np.int32))
        return self.kind.advance(state, agent, found.data, order)

    def update(self, state: TrainState, found: LanguageEstimate, agent: int) -> tuple[TrainState, dict[str, Any]]:
        settings, sampling = self.settings, self.sampling
        reward = np.asarray(found.rollouts.reward)
        if (span := float(np.ptp(reward))) > settings.reward_range * (1 + 1e-6):
            raise InputError("reward_range", settings.reward_range, f"at least {span:g}, the span of rewards earned")
        new, outcome = self.advance(state, found, agent)
        numbers, weights = jax.device_get((outcome.numbers, found.weights))
        info: dict[str, Any] = {name: float(x) for name, x in numbers.items()}
        info |= {name: float(x) for name, x in zip((*WEIGHTS, "uniform_groups"), weights, strict=True)}
        _require_numbers(agent, info)
        info["stopped_early"], info["steps"] = bool(info["stopped_early"]), int(info["steps"])
        info["reward"] = float(reward.reshape(-1)[: sampling.training].mean())
        info["tokens"] = int(self.kind.written(found.rollouts).sum())
        if sampling.held_out:
            info["certificate_finite_sample"] = _lower_limit(self.kind, sampling, found, outcome)
        info |= self.kind.more(state, found, outcome, agent, info)
        if self.log is not None:
            self.log.add(self.kind, (state, new), found, outcome, agent)
        return new, info

    def predict(self, state: TrainState, rollouts: Any) -> NDArray[np.float64]:
        agents = self.kind.who.leaders
        gains = [self.advance(state, self.estimate(state, rollouts, k, fresh), k)[1].numbers["gain"] for k in agents]
        return np.asarray(jax.device_get(gains), np.float64)


def _require_numbers(agent: int, info: Mapping[str, float]) -> None:
    """A gradient that is not a number is no early stop, and a NaN goes into no record."""
    if not math.isfinite(info["grad_norm"]):
        raise ArithmeticError(
            f"update of agent {agent}: the gradient of its loss is not a number ({info['grad_norm']})"
        )
    if bad := [name for name, x in info.items() if math.isnan(x)]:
        raise ArithmeticError(f"update of agent {agent}: {', '.join(bad)} not a number")


def _lower_limit(kind: Kind, sampling: LanguageSampling, found: LanguageEstimate, outcome: Outcome) -> float:
    """S8 on the held-out prompts where they were written by the team before the update; −∞ elsewhere.

    S12 where somebody else's sampler wrote for an agent: the weight of `π'/π` says nothing of what was written by a third.
    """
    if not found.fresh:
        return -math.inf
    moved, reward = np.asarray(outcome.log_ratio, np.float64), np.asarray(found.rollouts.reward, np.float64)
    reward = reward[-sampling.held_out :]

    def messages(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        ratio = log_ratio[sampling.training :].sum(-1)
        # Cutting a ratio from above lowers `R(Λ − 1)`: still a lower limit.
        return np.minimum(ratio, 700.0 / ratio.shape[-1]).reshape(sampling.held_out, sampling.group, -1)

    if not kind.foreign:
        return finite_sample_certificate(reward, messages(moved), alpha=sampling.alpha).lower
    assert found.current is not None
    away = found.current - kind.behaviour(found.rollouts)
    return mismatch_certificate(reward, messages(away), messages(away + moved), alpha=sampling.alpha).lower
