"""Teams that talk in text as a backend of the driver: conversations, a verifier of texts, updates on what each agent read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float
from numpy.typing import NDArray

from teamtr_jax.hosts import from_first, gathered
from teamtr_jax.llm.conversations import Conversations, own_messages, reading_of
from teamtr_jax.llm.external import ExternalSampler
from teamtr_jax.llm.given import NOTHING, Shared
from teamtr_jax.llm.language_model import Params, Reading, joined
from teamtr_jax.llm.losses import k3_float64
from teamtr_jax.llm.mesh import AnyMesh, by_rows, everywhere, parameter_parts, require_parts, row_parts, within
from teamtr_jax.llm.networks import Audit, Kind, LanguageEstimate, LanguageSampling, backend_of
from teamtr_jax.llm.self_kl import self_kl_floor
from teamtr_jax.llm.tasks import Problem, WordTask, earned, views_of
from teamtr_jax.llm.text.drift import DriftPolicy
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.text_sizes import TextSizes, bytes_beside, require_text_room
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.text_update import Learner, learner, score_reading, shared_of, update_reading
from teamtr_jax.llm.token_log import TokenLogger
from teamtr_jax.llm.update import Lesson, Outcome, TrainState
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.stage import Backend
from teamtr_jax.validation import InputError

__all__ = ["TextRollouts", "TextTalk", "init_text_state", "whole_params", "text_backend"]


class TextRollouts(NamedTuple):
    """G conversations on each of B problems, their rewards, and the team that wrote them."""

    said: Conversations  #: R = B·G rows
    reward: Float[Array, "B G"]
    key: Array  #: ``[2]`` words, a seed for the order of the rows in updates
    source: tuple[Params, ...]  #: trained leaves of the team that wrote them, not copied
    scored: dict[int, NDArray[np.float64]]
    """Set of parameters → the trainer's log-probability of what it wrote, with the parameters that wrote it ``[R, turns, L]``.
    Found when it is first asked for."""


class TextTalk(NamedTuple):
    """How a text team talks."""

    drift: DriftPolicy = DriftPolicy()  #: what happens to a message whose text, encoded again, gives other ids
    external: Mapping[int, ExternalSampler] | None = None  #: agent → a sampler that writes in its place
    length: int | None = None  #: slots of a view in updates, in a whole run alike. Default: a bucket of the longest


def init_text_state(
    team: TextTeam, params: Sequence[Params], settings: UpdateSettings
) -> tuple[TrainState, tuple[Params, ...]]:
    """The state at the start of training, of trained leaves only, and the frozen leaves of each set of parameters.

    Args:
      params: one pytree for each set of parameters; frozen leaves that are one array stay one (`text_params`).

    Raises:
      InputError: another number of sets than the team has.
    """
    if len(params) != team.who.sets:
        raise InputError("params", f"{len(params)} pytrees", f"{team.who.sets}, one for each set of parameters")
    each = [learner(model, own, settings) for model, own in zip(team.models, params, strict=True)]
    trained, moments, beta = zip(*(own for own, _ in each), strict=True)
    return TrainState(trained, moments, jnp.stack(beta)), tuple(frozen for _, frozen in each)


def whole_params(state: TrainState, frozen: Sequence[Params]) -> tuple[Params, ...]:
    """Trained and frozen leaves together, one pytree for each set of parameters: what `converse` takes."""
    return tuple(joined(trained, rest) for trained, rest in zip(state.params, frozen, strict=True))


def text_backend(
    team: TextTeam,
    frozen: Sequence[Params],
    task: WordTask,
    settings: UpdateSettings,
    sampling: LanguageSampling,
    talk: TextTalk = TextTalk(),  # noqa: B008 - a tuple
    *,
    audit: Audit | None = None,
    log: TokenLogger | None = None,
    mesh: AnyMesh | None = None,
) -> Backend:
    """A text team on a task in words: G conversations on each of B training problems, updates by `settings`.

    The state is that of `init_text_state`; checkpoints of it hold trained leaves alone. Diagnostics are those of
    `language_backend`, and of the messages of the agents that an update moves, nats a message:

    * `mismatch_mean`, `mismatch_max`, `mismatch_k3`: S12, the trainer's log-probability of a message against the sampler's, both
      of the parameters that wrote it: mean and greatest `|log ratio|`, mean of k3.
    * `certificate_finite_sample`: S12 instead of S8 where a sampler of `talk.external` wrote.
    * `floor`: the KL of a policy with itself, scored by the program that only scores and the one that updates, and on a few rows
      in two other shapes (`self_kl_floor`), the greatest. Less is rounding; `below_floor` says that the KL is less, or S7's
      certificate no further from 0 than the floor costs: nothing is decided.
    * `drift`: share of messages whose text, encoded again, gives other ids; `redrawn`: how often one was drawn again, on average;
      `dropped`: messages of others that the writer was not told for want of room, on average; `truncated`: share that no stop
      ended.

    Args:
      frozen: what `init_text_state` found beside the state.
      audit: the driver's, with `TrainState`s.
      log: gets a row for each token of the rollouts in use, at every update; its three log-probabilities are the sampler's and
        the trainer's before and after the update. Of agents that do not move the trainer's is not computed again where it is the
        sampler's, in fresh rollouts that no external sampler wrote.
      mesh: where rows, parameters and moments lie (`teamtr_jax.llm.mesh`).

    Raises:
      InputError: a team whose agents or turns are not the task's; rows or a micro-batch that the mesh does not divide; a log of
        updates that are not measured on every rollout; by an update whose rewards span more than `reward_range`, or that needs
        more memory than a device has.
      ArithmeticError: by an update whose loss or diagnostics are not numbers: names the agent.
    """
    if len(team.agents) != len(task.roles):
        raise InputError("team", f"{len(team.agents)} agents", f"{len(task.roles)}, the roles of {task.name}")
    if team.turns != task.turns:
        raise InputError("team", f"{team.turns} turns", f"{task.turns}, those of {task.name}")
    require_parts(mesh, "micro_batch", settings.micro_batch)
    require_parts(mesh, "prompts, group", sampling.rows)
    kind = _TextKind(team, tuple(frozen), task, settings, sampling, talk, mesh).kind()
    return backend_of(kind, task, settings, sampling, audit, log)


class _Given(NamedTuple):
    """What one update is made from."""

    reading: Reading
    shared: Shared  #: what is read once for all rows of a prompt
    turn: NDArray[np.int32]  #: of each message, `OwnMessages.turn`
    shape: tuple[int, ...]  #: ``[R, turns, L]``
    lesson: Lesson


class _TextKind(NamedTuple):
    """How a text team talks and is updated."""

    team: TextTeam
    frozen: tuple[Params, ...]
    task: WordTask
    settings: UpdateSettings
    sampling: LanguageSampling
    talk: TextTalk
    mesh: AnyMesh | None

    def kind(self) -> Kind:
        return Kind(
            who=self.team.who,
            collect=self.collect,
            speaker=lambda rollouts: rollouts.said.speaker,
            written=_written,
            behaviour=lambda rollouts: rollouts.said.logp.astype(np.float64),
            score=self.score,
            data=self.data,
            advance=self.advance,
            rescored=True,
            foreign=bool(self.talk.external),
            more=self.more,
        )

    def _devices(self) -> AbstractContextManager[Any]:
        return within(cast(Mesh | None, self.mesh))

    def collect(self, state: TrainState, problems: list[Problem], key: Array, order: Array) -> TextRollouts:
        talk, group = self.talk, self.sampling.group
        texts, params = [views_of(self.task, problem) for problem in problems], whole_params(state, self.frozen)
        with self._devices():
            said = converse(self.team, params, texts, key, group, drift=talk.drift, external=talk.external)
        reward = [earned(self.task, problems[row // group], list(texts)) for row, texts in enumerate(said.said)]
        grid = jnp.asarray(from_first(np.array(reward, np.float32)).reshape(len(problems), group))
        return TextRollouts(said, grid, order, state.params, {})

    def score(self, state: TrainState, rollouts: TextRollouts, agent: int) -> NDArray[np.float64]:
        """With the parameters that wrote, once for each set of rollouts."""
        which = self.team.who.sharers[agent]
        if state.params[which] is rollouts.source[which]:
            return self._scored(rollouts, which)
        return self._score(state.params[which], rollouts.said, which)

    def _scored(self, rollouts: TextRollouts, which: int) -> NDArray[np.float64]:
        if which not in rollouts.scored:
            rollouts.scored[which] = self._score(rollouts.source[which], rollouts.said, which)
        return rollouts.scored[which]

    def _score(self, trained: Params, said: Conversations, which: int) -> NDArray[np.float64]:
        team, micro = self.team, self.settings.micro_batch
        reading = reading_of(team, said, which, length=self.talk.length)
        shared, reading = self._shared(reading, said.group), by_rows(self.mesh, reading)
        with self._devices():
            found = score_reading(
                team.models[which], trained, self.frozen[which], reading, team.temperature, micro, shared
            )
        return _by_turn(own_messages(team, said, which).turn, np.asarray(gathered(found), np.float64), said.ids.shape)

    def _shared(self, reading: Reading, group: int, step: int | None = None) -> Shared:
        """On a mesh rows lie apart: each reads its own."""
        return shared_of(reading, group, step) if self.mesh is None else NOTHING

    def in_update(self, reading: Reading, group: int) -> Shared:
        """What an update reads once."""
        return self._shared(reading, group, self.settings.minibatch)

    def data(self, rollouts: TextRollouts, agent: int, lesson: Lesson) -> _Given:
        said, which = rollouts.said, self.team.who.sharers[agent]
        reading = reading_of(self.team, said, which, agent, self.talk.length)
        shared = self.in_update(reading, said.group)
        self._require_room(which, reading, shared)
        return _Given(reading, shared, own_messages(self.team, said, which).turn, said.ids.shape, lesson)

    def _require_room(self, which: int, reading: Reading, shared: Shared) -> None:
        """Refuse an update that does not fit before it is compiled."""
        (rows, views, length), (_, messages, cap), mesh = reading.ids.shape, reading.written.shape, self.mesh
        sizes = TextSizes(
            rows, length, messages * cap, min(self.settings.micro_batch, rows), views, self.team.who.sets,
            row_parts(mesh), parameter_parts(mesh), bytes_beside(self.frozen, which), *shared,
        )  # fmt: skip
        require_text_room(self.team.models[which], sizes)

    def advance(self, state: TrainState, agent: int, given: _Given, order: Array) -> tuple[TrainState, Outcome]:
        which, team, mesh = self.team.who.sharers[agent], self.team, self.mesh
        own = Learner(state.params[which], state.optimiser[which], state.beta[which])
        rows, order = by_rows(mesh, (given.reading, given.lesson)), everywhere(mesh, order)
        with self._devices():
            new = update_reading(
                team.models[which], self.settings, own, self.frozen[which], *rows, order, temperature=team.temperature,
                shared=given.shared,
            )  # fmt: skip
        found = gathered(new.outcome)
        tokens: dict[str, Any] = {  # on the host: no arrays of jax
            name: _by_turn(given.turn, np.asarray(getattr(found, name)), given.shape)
            for name in ("own", "log_ratio", "kl", "current")
        }
        params, moments = (
            (*each[:which], changed, *each[which + 1 :])
            for each, changed in ((state.params, new.trained), (state.optimiser, new.moments))
        )
        beta = state.beta.at[which].set(gathered(new.beta))
        return TrainState(params, moments, beta), found._replace(**tokens)

    def more(
        self, state: TrainState, found: LanguageEstimate, outcome: Outcome, agent: int, info: Mapping[str, Any]
    ) -> dict[str, float | bool]:
        rollouts, training = found.rollouts, self.sampling.training
        said, own = rollouts.said, np.asarray(outcome.own)[:training]
        assert found.current is not None
        scored = self._scored(rollouts, self.team.who.sharers[agent])[:training]
        differs = _per_message(scored - said.logp[:training], own)
        itself = _per_message(np.asarray(outcome.current)[:training] - found.current[:training], own)
        floor = max(_mean(k3_float64(itself)), abs(float(outcome.start)), self._floor(state, found.data.reading, agent))
        spoke = np.asarray(own.any(-1))
        messages = spoke.sum() / math.ceil(self.settings.measured * training)  # of a rollout that was measured
        costs = self.settings.reward_range * floor * messages
        return {
            "mismatch_mean": _mean(np.abs(differs)),
            "mismatch_max": float(np.abs(differs).max(initial=0)),
            "mismatch_k3": _mean(k3_float64(differs)),
            "floor": floor,
            "below_floor": bool(info["message_kl"] <= floor or abs(info["certificate_estimable"]) <= costs),
            "drift": _mean(said.drifted[:training][spoke]),
            "redrawn": _mean(said.redrawn[:training][spoke]),
            "dropped": _mean(said.dropped[:training][spoke]),
            "truncated": _mean(~said.stopped[:training][spoke]),
        }

    def _floor(self, state: TrainState, reading: Reading, agent: int) -> float:
        """In programs of other shapes, on a few rows."""
        which, team, size = self.team.who.sharers[agent], self.team, 2 * self.settings.micro_batch
        some = jax.tree.map(lambda x: x[:size], reading)
        if not np.asarray(some.own).any():
            return 0.0
        some = by_rows(self.mesh, some)
        with self._devices():
            found = self_kl_floor(
                team.models[which], state.params[which], self.frozen[which], some, team.temperature, size
            )
        return float(found.kl.value)


def _written(rollouts: TextRollouts) -> NDArray[np.bool_]:
    said = rollouts.said
    return np.arange(said.ids.shape[2]) < said.length[:, :, None]


def _by_turn(turn: NDArray[np.int32], x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """``[R, M, L']`` of one set's messages as ``[R, turns, L]``, zero elsewhere; `turn` is −1 where a row has fewer than M."""
    out = np.zeros(shape, x.dtype)
    row, message = np.nonzero(turn >= 0)
    out[row, turn[row, message], : x.shape[2]] = x[row, message]
    return out


def _per_message(x: NDArray[np.float64], own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sums over the tokens of the messages that there are."""
    return np.where(own, x, 0.0).sum(-1)[own.any(-1)]


def _mean(x: Any) -> float:
    return float(np.mean(x)) if len(x) else 0.0
