"""Teams of transformers as a backend of the driver: rollouts of a task, advantages, updates, certificates, token log."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from numpy.typing import NDArray

from teamtr_jax.finite_sample import finite_sample_certificate
from teamtr_jax.llm import sampler
from teamtr_jax.llm.checked import flags, real, whole
from teamtr_jax.llm.layout import Layout, Transcripts, by_turn, emitted, messages
from teamtr_jax.llm.losses import mixed_groups, rollout_advantage
from teamtr_jax.llm.model import LanguageTeam, Params
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import require_room
from teamtr_jax.llm.tasks import Problem, Task, draw, earned
from teamtr_jax.llm.update import Outcome, TrainState, UpdateData, programs, score, update_agent
from teamtr_jax.llm.update_settings import MOST_ROWS, UpdateSettings
from teamtr_jax.records import TOKEN_LOG_COLUMNS
from teamtr_jax.rollouts import centred_advantage, weight_diagnostics
from teamtr_jax.sampled import WEIGHTS
from teamtr_jax.schedules import Schedule, fresh
from teamtr_jax.stage import Backend
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError

__all__ = ["LanguageSampling", "LanguageRollouts", "LanguageEstimate", "language_backend", "collect", "rewards_of",
           "transcript_weight", "TokenLogger", "compiled_programs"]  # fmt: skip


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


class LanguageRollouts(NamedTuple):
    """G transcripts on each of B prompts, their rewards, and the team that wrote them."""

    tokens: Int[Array, "B G N"]
    logp: Float[Array, "B G N"]  #: behaviour log-probability of what agents wrote; 0 elsewhere
    speaker: Int[Array, "B G turns"]
    reward: Float[Array, "B G"]
    key: Array  #: ``[2]`` words, a seed for the order of the rows in updates
    source: Params  #: the parameters of the team that wrote them, not copied


class LanguageEstimate(NamedTuple):
    """What an update is made from."""

    data: UpdateData
    rollouts: LanguageRollouts
    current: NDArray[np.float64] | None  #: `log π` now of what was written ``[R, turns, L]``; none: the behaviour's
    weights: Sequence[Any]  #: `WEIGHTS`
    fresh: bool  #: whether the team now is the one that wrote the rollouts


# ------------------------------------------------------------------------------------------------------------------ rollouts


def _key_data(key: Array) -> NDArray[np.uint32]:
    return np.asarray(jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key)


def rewards_of(task: Task, layout: Layout, problems: Sequence[Problem], tokens: Any) -> NDArray[np.float32]:
    """The verifier's rewards of ``[R, N]`` ids, row r about `problems[r // G]`, `G = R / len(problems)`.

    Raises:
      InputError: a verifier that raises, or a reward outside [0, 1].
    """
    said = messages(layout, tokens)
    group = len(said) // max(len(problems), 1)
    return np.array([earned(task, problems[row // group], texts) for row, texts in enumerate(said)], np.float32)


def collect(
    team: LanguageTeam, params: Params, problems: Sequence[Problem], task: Task, group: int, key: Array
) -> tuple[Transcripts, NDArray[np.float32]]:
    """`group` conversations on each problem, ``[B·G]`` rows, and their rewards ``[B, G]``."""
    prompts = team.layout.encode_prompts([problem.prompt for problem in problems])
    transcripts = sample(team, params, jnp.asarray(prompts), key, group)
    reward = rewards_of(task, team.layout, problems, np.asarray(transcripts.tokens))
    return transcripts, reward.reshape(len(problems), group)


def _rows(x: Array) -> Array:
    """``[B, G, …]`` as ``[B·G, …]``."""
    return x.reshape(-1, *x.shape[2:])


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


def _team_log_probs(team: LanguageTeam, settings: UpdateSettings, params: Params, rollouts: LanguageRollouts) -> Any:
    """`log π` of what was written, by the team with these parameters: ``[R, turns, L]``, zero at PAD."""
    tokens, speaker = _rows(rollouts.tokens), np.asarray(_rows(rollouts.speaker))
    wrote = np.asarray(by_turn(team.layout, tokens)) != team.layout.vocabulary.pad
    out = np.zeros(wrote.shape)
    for agent in team.who.firsts:
        own = wrote & np.isin(speaker, team.who.moved(agent))[:, :, None]
        if own.any():
            out = np.where(own, np.asarray(score(team, params, agent, tokens, settings.micro_batch), np.float64), out)
    return out


def transcript_weight(
    team: LanguageTeam, rollouts: LanguageRollouts, current: NDArray[np.float64], truncation: float = math.inf
) -> NDArray[np.float64]:
    """`min(∏ π_current/π_behaviour, c)` over all agents' tokens of each transcript, ``[B, G]``; mean 1 if `c = ∞`."""
    behaviour = np.asarray(by_turn(team.layout, _rows(rollouts.logp)), np.float64)
    log_weight = (current - behaviour).sum((-2, -1)).reshape(rollouts.reward.shape)
    return np.minimum(np.exp(np.minimum(log_weight, 700.0)), truncation)


_diagnose = jax.jit(weight_diagnostics)


def language_backend(
    team: LanguageTeam,
    task: Task,
    settings: UpdateSettings,
    sampling: LanguageSampling,
    *,
    audit: Callable[[list[TrainState], list[UpdateRecord], Schedule], Mapping[str, Any]] | None = None,
    log: TokenLogger | None = None,
) -> Backend:
    """A team of networks on a task: G rollouts of each of B training prompts, updates by `settings` (`update_agent`).

    Between rollouts (`Schedule.reuse`) the old ones are used as they are, or with importance weights of whole transcripts; the
    ratio that is clipped is always to the agent as it was just before its own update. The state is a `TrainState`.

    Diagnostics of an update, all on the training prompts of the rollouts in use and in nats or units of the reward:
    `kl`, `kl_k1`, `kl_k3` summed over the episode (the first over the whole vocabulary); `message_kl…` mean over messages;
    `monitor` as the rule saw it, `monitor_reached` before going back by `step_scale`; `surrogate` as maximised, `gain` the same
    with unclipped message ratios, `surrogate_raw` with unbiased advantages; `certificate_estimable`: S7, `surrogate_raw − ϱ·kl`;
    `certificate_finite_sample`: S8 at level `alpha` on the held-out prompts, −∞ if another team wrote the rollouts.

    Of agents that share parameters (`LanguageTeam.sharing`) an update moves all: every KL, `gain`, `surrogate_raw` and the
    certificates are sums over the messages of all of them, S7's of the joint step; `surrogate` is that of the messages whose
    surrogate was maximised.

    Args:
      audit: the driver's, with `TrainState`s.
      log: gets a row for each token of the rollouts in use, at every update.

    Raises:
      InputError: more than there is memory for; a log of updates that are not measured on every rollout; by a schedule that
        needs the current team's advantages: there is no critic; by an update whose rewards span more than `reward_range`.
      ArithmeticError: by an update whose loss or diagnostics are not numbers: names the agent.
    """
    require_room(team, "prompts, group", rows=sampling.rows, micro_batch=settings.micro_batch, epochs=settings.epochs)
    if log is not None and settings.measured < 1:
        raise InputError("settings.measured", settings.measured, "1 with a log: it has a row for every token")
    networks = _Networks(team, task, settings, sampling, log)
    return Backend(
        agents=team.agents,
        rollout=networks.rollout,
        estimate=networks.estimate,
        update=networks.update,
        cost=sampling.rows,
        predict=networks.predict,
        audit=audit,
        sharing=team.sharing,
    )


class _Networks(NamedTuple):
    """The functions of the backend."""

    team: LanguageTeam
    task: Task
    settings: UpdateSettings
    sampling: LanguageSampling
    log: TokenLogger | None

    def rollout(self, state: TrainState, key: Array | None) -> LanguageRollouts:
        if key is None:
            raise InputError("key", "None", "a PRNG key: the backend samples")
        sampling = self.sampling
        rng = np.random.default_rng(_key_data(key).tolist())
        problems = draw(self.task, rng, sampling.prompts, held_out=False)
        transcripts, reward = collect(self.team, state.params, problems, self.task, sampling.group, key)
        grid = (sampling.prompts, sampling.group)
        tokens, logp, speaker = (x.reshape(*grid, *x.shape[1:]) for x in transcripts)
        order = rng.integers(2**32, size=2, dtype=np.uint32)
        return LanguageRollouts(tokens, logp, speaker, jnp.asarray(reward), jnp.asarray(order), state.params)

    def estimate(
        self, state: TrainState, rollouts: LanguageRollouts, agent: int, schedule: Schedule
    ) -> LanguageEstimate:
        if schedule.reuse == "occupancy":
            raise InputError(
                f"schedule {schedule.name}", "the current team's advantages", "a schedule without a critic"
            )
        settings, sampling = self.settings, self.sampling
        is_fresh = rollouts.source is state.params
        reward, current, weights = rollouts.reward, None, (1.0, 1.0, 1.0, 1.0, 0.0)
        weight = np.ones(reward.shape, np.float32)
        weighted = schedule.reuse == "weights"
        if not is_fresh and (weighted or sampling.weight_diagnostics or self.log is not None):
            current = _team_log_probs(self.team, settings, state.params, rollouts)
            whole = transcript_weight(self.team, rollouts, current)
            trained_on = whole.reshape(-1)[: sampling.training].reshape(-1, sampling.group)
            weights = tuple(_diagnose(jnp.asarray(trained_on, jnp.float32)))
            if weighted:
                weight = np.minimum(whole, schedule.truncation).astype(np.float32)
        taught = _prepare(reward, settings.advantage_clip, settings.advantage, settings.drop_uniform, sampling.held_out)
        rows = (_rows(rollouts.tokens), _rows(rollouts.speaker))
        each = (taught.used, taught.centred, jnp.asarray(weight), taught.counts)
        data = UpdateData(*rows, *(x.reshape(-1) for x in each))
        return LanguageEstimate(data, rollouts, current, (*weights, taught.uniform), is_fresh)

    def advance(self, state: TrainState, found: LanguageEstimate, agent: int) -> tuple[TrainState, Outcome]:
        rng = np.random.default_rng([*np.asarray(found.rollouts.key).tolist(), agent])
        orders = [rng.permutation(self.sampling.training) for _ in range(self.settings.epochs)]
        order = jnp.asarray(np.stack(orders).astype(np.int32))
        return update_agent(self.team, self.settings, state, agent, found.data, order)

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
        info["tokens"] = int(np.asarray(emitted(self.team.layout, found.data.tokens)).sum())
        if sampling.held_out:
            info["certificate_finite_sample"] = _lower_limit(sampling, found, outcome)
        if self.log is not None:
            self.log.add(self.team, settings, (state, new), found, outcome, agent)
        return new, info

    def predict(self, state: TrainState, rollouts: LanguageRollouts) -> NDArray[np.float64]:
        agents = self.team.who.leaders
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


def _lower_limit(sampling: LanguageSampling, found: LanguageEstimate, outcome: Outcome) -> float:
    """S8 on the held-out prompts where they were written by the team before the update; −∞ elsewhere."""
    if not found.fresh:
        return -math.inf
    ratio = np.asarray(outcome.log_ratio, np.float64)[sampling.training :].sum(-1)
    reward = np.asarray(found.rollouts.reward, np.float64)[-sampling.held_out :]
    # Cutting a ratio from above lowers `R(Λ − 1)`: still a lower limit.
    ratio = np.minimum(ratio, 700.0 / ratio.shape[-1]).reshape(sampling.held_out, sampling.group, -1)
    return finite_sample_certificate(reward, ratio, alpha=sampling.alpha).lower


# ----------------------------------------------------------------------------------------------------------------- token log


@dataclass
class TokenLogger:
    """Passes the rows of the token log to `write`, a dict of NumPy arrays for each update.

    Columns: `records.TOKEN_LOG_COLUMNS` and `source`.

    `prompt` and `rollout` number prompts and transcripts within the stage, over all its sets of rollouts. Call `begin` before
    every stage. With `rescore` the stage's first rollouts are scored, and written, at every update.
    """

    write: Callable[[dict[str, NDArray[Any]]], None]
    rescore: bool = False
    stage: int = 0
    _update: int = 0
    _sets: list[LanguageRollouts] = field(default_factory=list)
    _sources: list[int] = field(default_factory=list)
    _first: Any = None

    def begin(self, stage: int) -> None:
        """A stage begins."""
        self.stage, self._update, self._sets, self._sources, self._first = stage, 0, [], [], None

    def add(
        self,
        team: LanguageTeam,
        settings: UpdateSettings,
        states: tuple[TrainState, TrainState],
        found: LanguageEstimate,
        outcome: Outcome,
        agent: int,
    ) -> None:
        """What one update did to the tokens of the rollouts in use; `states` before and after it."""
        rollouts = found.rollouts
        known = [i for i, x in enumerate(self._sets) if x is rollouts]
        number = known[0] if known else len(self._sets)
        if not known:
            self._sets.append(rollouts)
            self._sources.append(self._update)
        behaviour = np.asarray(by_turn(team.layout, _rows(rollouts.logp)), np.float64)
        current = behaviour if found.current is None else found.current
        new = current + np.asarray(outcome.log_ratio, np.float64)
        self._emit(team, rollouts, number, behaviour, current, new)
        if number == 0:
            self._first = new
        elif self.rescore:
            first = self._sets[0]
            tokens, speaker = _rows(first.tokens), np.asarray(_rows(first.speaker))
            old, now = (np.asarray(score(team, state.params, agent, tokens, settings.micro_batch), np.float64)
                        for state in states)  # fmt: skip
            behaviour = np.asarray(by_turn(team.layout, _rows(first.logp)), np.float64)
            theirs = np.isin(speaker, team.who.moved(agent))[:, :, None]
            following = np.where(theirs, self._first + now - old, self._first)
            self._emit(team, first, 0, behaviour, self._first, following)
            self._first = following
        self._update += 1

    def _emit(self, team: LanguageTeam, rollouts: LanguageRollouts, number: int, *logp: NDArray[np.float64]) -> None:
        prompts, group = rollouts.reward.shape
        written = np.asarray(by_turn(team.layout, _rows(rollouts.tokens))) != team.layout.vocabulary.pad
        row, turn, t = np.nonzero(written)
        count = len(row)
        speaker, reward = np.asarray(_rows(rollouts.speaker)), np.asarray(rollouts.reward).reshape(-1)
        columns = (
            number * prompts + row // group, number * prompts * group + row, np.full(count, self.stage),
            np.full(count, self._update), speaker[row, turn], turn, t, *(x[written] for x in logp), reward[row],
            np.full(count, self._sources[number]),
        )  # fmt: skip
        self.write(dict(zip((*TOKEN_LOG_COLUMNS, "source"), columns, strict=True)))


def compiled_programs() -> dict[str, int]:
    """Programs compiled so far in this process, by what they do: bounded by the shapes of a run, whatever its length."""
    own: dict[str, Any] = {"sample": sampler._sample, "prepare": _prepare}
    return {name: program._cache_size() for name, program in own.items()} | programs()
