"""Teams that write a `Layout` as a backend of the driver: rollouts of a task, updates, certificates, token log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from numpy.typing import NDArray

from teamtr_jax.llm import networks, sampler
from teamtr_jax.llm.layout import Layout, Transcripts, by_turn, messages
from teamtr_jax.llm.model import LanguageTeam, Params
from teamtr_jax.llm.networks import Audit, Kind, LanguageEstimate, LanguageSampling, backend_of
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.sizes import require_room
from teamtr_jax.llm.tasks import Problem, Task, earned
from teamtr_jax.llm.token_log import TokenLogger
from teamtr_jax.llm.update import Lesson, Outcome, TrainState, UpdateData, programs, score, update_agent
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.stage import Backend

__all__ = ["LanguageSampling", "LanguageRollouts", "LanguageEstimate", "language_backend", "layout_kind", "collect", "rewards_of",
           "TokenLogger", "compiled_programs"]  # fmt: skip


class LanguageRollouts(NamedTuple):
    """G transcripts on each of B prompts, their rewards, and the team that wrote them."""

    tokens: Int[Array, "B G N"]
    logp: Float[Array, "B G N"]  #: behaviour log-probability of what agents wrote; 0 elsewhere
    speaker: Int[Array, "B G turns"]
    reward: Float[Array, "B G"]
    key: Array  #: ``[2]`` words, a seed for the order of the rows in updates
    source: Params  #: the parameters of the team that wrote them, not copied


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


def layout_kind(team: LanguageTeam, task: Task, settings: UpdateSettings, sampling: LanguageSampling) -> Kind:
    """How a team that writes a `Layout` talks and is updated."""
    layout = team.layout

    def rollouts(state: TrainState, problems: list[Problem], key: Array, order: Array) -> LanguageRollouts:
        transcripts, reward = collect(team, state.params, problems, task, sampling.group, key)
        grid = (sampling.prompts, sampling.group)
        tokens, logp, speaker = (x.reshape(*grid, *x.shape[1:]) for x in transcripts)
        return LanguageRollouts(tokens, logp, speaker, jnp.asarray(reward), order, state.params)

    def behaviour(rollouts: LanguageRollouts) -> NDArray[np.float64]:
        return np.asarray(by_turn(layout, _rows(rollouts.logp)), np.float64)

    def scored(state: TrainState, rollouts: LanguageRollouts, agent: int) -> NDArray[np.float64]:
        return np.asarray(score(team, state.params, agent, _rows(rollouts.tokens), settings.micro_batch), np.float64)

    def data(rollouts: LanguageRollouts, agent: int, lesson: Lesson) -> UpdateData:
        return UpdateData(_rows(rollouts.tokens), _rows(rollouts.speaker), *lesson)

    def advance(state: TrainState, agent: int, data: UpdateData, order: Array) -> tuple[TrainState, Outcome]:
        return update_agent(team, settings, state, agent, data, order)

    return Kind(
        who=team.who,
        collect=rollouts,
        speaker=lambda rollouts: np.asarray(_rows(rollouts.speaker)),
        written=lambda rollouts: np.asarray(by_turn(layout, _rows(rollouts.tokens))) != layout.vocabulary.pad,
        behaviour=behaviour,
        score=scored,
        data=data,
        advance=advance,
    )


def language_backend(
    team: LanguageTeam,
    task: Task,
    settings: UpdateSettings,
    sampling: LanguageSampling,
    *,
    audit: Audit | None = None,
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
    return backend_of(layout_kind(team, task, settings, sampling), task, settings, sampling, audit, log)


def compiled_programs() -> dict[str, int]:
    """Programs compiled so far in this process, by what they do: bounded by the shapes of a run, whatever its length."""
    own: dict[str, Any] = {"sample": sampler._sample, "prepare": networks._prepare}
    return {name: program._cache_size() for name, program in own.items()} | programs()
