"""TeamTR's schedule for other people's trainers: agents are updated one after the other, on rollouts of the team as it is.

The driver knows no trainer. A `Team` samples, scores, trains and moves weights; the driver decides who is next, which rollouts
are in use, when an agent has left its trust region and how far it goes back, and writes every update to a token log. With TRL's
trainers: `teamtr_jax.integrations.trl_team`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.integrations.log_writer import LogWriter
from teamtr_jax.integrations.reuse import Reuse, ReuseAnswer
from teamtr_jax.integrations.team_rollouts import Moved, TeamRollouts, moved, require_rollouts, require_scores
from teamtr_jax.integrations.twice import SHARE, scored_twice
from teamtr_jax.integrations.update_scalars import update_scalars, update_sums
from teamtr_jax.monitor.writing import token_rows
from teamtr_jax.path_shift import path_shift
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.validation import InputError, one_of, real_number, whole_number

__all__ = ["Team", "TeamUpdate", "Alignment", "TeamTRSchedule", "ORDERS", "RESAMPLE", "ESTIMATORS", "promising"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Alignment(NamedTuple):
    """What Stage-0 alignment did: KL(outgoing‖newcomer), nats a message of the outgoing agent."""

    before: float  #: on the probes that train
    after: float
    held_out_before: float  #: on those that only measure
    held_out_after: float
    steps: int  #: of the optimiser
    inside: bool  #: whether both are at most the radius now


@runtime_checkable
class Team(Protocol):
    """What a schedule needs of the trainers. Agents are numbers, 0 first; weights are whatever the team makes of them."""

    names: Sequence[str]  #: of the agents
    sampler: Sampler  #: how their tokens are drawn

    def prompts(self) -> Any:
        """The prompts of the next stage."""
        ...

    def sample(self, prompts: Any) -> TeamRollouts:
        """Rollouts of the team as it is now."""
        ...

    def score(self, agent: int, rollouts: TeamRollouts, rows: Ints | None = None) -> Floats:
        """``[N, T]``, or those rows of it: log-probabilities of this agent's tokens under its weights now, anything elsewhere."""
        ...

    def train(self, agent: int, rollouts: TeamRollouts, stop: Callable[[], bool]) -> int:
        """Train one agent on these rollouts, until `stop()`, asked after each step of the optimiser; the number of steps."""
        ...

    def weights(self, agent: int) -> Any:
        """A copy of what training moves."""
        ...

    def load(self, agent: int, weights: Any) -> None:
        """Put weights back."""
        ...

    def between(self, inside: Any, outside: Any, share: float) -> Any:
        """`inside + share·(outside − inside)`."""
        ...

    def tell(self, agent: int, step: int, scalars: Mapping[str, float]) -> None:
        """Numbers of an update, for the trainer's own logger; `step` counts the agent's updates."""
        ...

    def align(self, agent: int, newcomer: Any, probes: TeamRollouts, radius: float) -> Alignment:
        """Teach a newcomer to be near the agent on the agent's own messages, and put it in the agent's place."""
        ...


class TeamUpdate(NamedTuple):
    """One update of one agent."""

    stage: int
    update: int
    agent: int
    source: int  #: the update before which the rollouts in use were sampled
    resampled: bool
    radius: float  #: `δ`, nats a message
    kl: float  #: mean over its messages of KL(current‖new) by k3, on the rollouts in use, after going back
    kl_k1: float  #: the same by k1, the paper's monitor
    kl_reached: float  #: by the estimator, where the trainer's steps ended
    kl_episode: float  #: `K`: by k3, summed over a rollout
    steps: int  #: of the optimiser
    share: float  #: 1 where the trainer stayed inside, else how much of its last step is kept
    surrogate: float  #: `L` on the rollouts in use: message ratios, leave-one-out advantages
    reward: float  #: mean of the rollouts in use
    path_kl: float  #: `ΣK` of the updates since the rollouts in use were sampled, with this one, all on these rollouts
    shift: float  #: S3, total variation since then: `√(path_kl/2)`
    answer: ReuseAnswer | None = None  #: what `Reuse` said before this update, where it was asked

    @property
    def went_back(self) -> bool:
        """Whether the trainer left the trust region."""
        return self.share < 1


class _InUse:
    """Rollouts, their ids in the log, and their log-probabilities under the team as it is now."""

    def __init__(self, rollouts: TeamRollouts, source: int, ids: tuple[Ints, Ints], current: Floats) -> None:
        self.rollouts, self.source, (self.prompt, self.rollout), self.current = rollouts, source, ids, current
        self.behaviour = current if rollouts.behaviour is None else rollouts.behaviour
        self.path_kl = 0.0


Order = Callable[[int, Sequence[TeamUpdate], np.random.Generator], Sequence[int]]
"""`(agents, updates so far, rng) → the agents in the order of the next stage`."""


def promising(agents: int, updates: Sequence[TeamUpdate], rng: np.random.Generator) -> list[int]:
    """Greatest `L/√K` of its last update first: what a step of a given size has brought of late. Who never moved goes first.

    It costs nothing, and it is a guess: the next update is another one, of another team.
    """
    del rng
    last = {x.agent: x.surrogate / x.kl_episode**0.5 for x in updates if x.kl_episode > 0}
    return sorted(range(agents), key=lambda k: -last.get(k, np.inf))


ORDERS: dict[str, Order] = {
    "given": lambda agents, updates, rng: range(agents),
    "reversed": lambda agents, updates, rng: range(agents)[::-1],
    "random": lambda agents, updates, rng: rng.permutation(agents).tolist(),
    "promising": promising,
}

RESAMPLE = ("fresh", "once", "certificate")
"""Named answers to the question whether the next update needs new rollouts."""


ESTIMATORS: dict[str, Callable[[Moved], float]] = {
    "k3": lambda step: step.kl,
    "k1": lambda step: step.k1,
    "larger": lambda step: step.k1 if np.isnan(step.k1) else max(step.kl, step.k1),
}
"""Which estimate of the KL is held against `δ`, on the rollouts that trained: k3 is nearer the truth there, the paper has k1."""


@dataclass
class TeamTRSchedule:
    """Sequential fine-tuning: in a stage each agent is updated once, inside its own trust region.

    Args:
      team: the trainers (`Team`).
      radius: `δ`, nats a message: the greatest KL(current‖new), for all agents or by name; ∞ for none.
      order: ``given``, ``reversed``, ``random`` (by `seed`), ``promising``, or a function (`Order`).
      resample: ``fresh``: new rollouts before every update (TeamTR); ``once``: those of the stage's start for all (stale, to
        compare with); ``certificate``: new ones where `Reuse` says that the team may have moved by more than `tolerance`; or a
        function of the updates since the rollouts in use that says whether new ones are needed.
      tolerance, alpha: of ``certificate``: total variation; all answers of a stage hold together at level `1 − alpha`.
      estimator: which estimate of it is held against `δ`: ``k3``, ``k1`` (the paper's) or ``larger``.
      halvings: how often the way from the last weights inside to the first outside is halved; 0: the last inside are kept.
      log: the folder of the token log, or a `LogWriter`; without it none is written.
      twice: share of the rollouts on which the team is scored twice before an update: the floor, below which no KL counts.
      start_again: score the rollouts of the stage's start at every update, for the interaction matrix.
      first_stage: its number; by default the one after the last in the log.
      report: called with every `TeamUpdate`.

    Raises:
      InputError: names the setting.
    """

    team: Team
    radius: float | Mapping[str, float] = 0.01
    order: str | Order = "given"
    resample: str | Callable[[Sequence[TeamUpdate]], bool] = "fresh"
    tolerance: float = 0.1
    alpha: float = 0.1
    estimator: str = "k3"
    halvings: int = 5
    log: LogWriter | Path | str | None = None
    twice: float = SHARE
    start_again: bool = True
    seed: int = 0
    first_stage: int | None = None
    report: Callable[[TeamUpdate], None] | None = None
    updates: list[TeamUpdate] = field(default_factory=list, init=False)  #: all so far

    def __post_init__(self) -> None:
        self.names = list(self.team.names)
        self._radii = _radii(self.radius, self.names)
        self._order = _function("order", self.order, ORDERS)
        if not callable(self.resample):
            one_of("resample", self.resample, RESAMPLE)
        one_of("estimator", self.estimator, list(ESTIMATORS))
        certified = self.resample == "certificate"
        books = Reuse(tolerance=self.tolerance, alpha=self.alpha, updates=len(self.names))
        self._books = books if certified else None
        real_number("twice", self.twice, 0.0, 1.0)
        whole_number("halvings", self.halvings, 0, 50)
        self.writer = _writer(self.log, self.team)
        last = None if self.writer is None else self.writer.last
        first = self.first_stage if self.first_stage is not None else 0 if last is None else last[0] + 1
        self._stage = whole_number("first_stage", first, 0)
        self._rng = np.random.default_rng(whole_number("seed", self.seed, 0))

    def train(self, stages: int) -> list[TeamUpdate]:
        """So many stages; their updates."""
        return [x for _ in range(whole_number("stages", stages, 0)) for x in self.stage()]

    def stage(self) -> list[TeamUpdate]:
        """One stage: every agent once, in order, each on the rollouts in use.

        Raises:
          InputError: the order is no permutation of the agents, rollouts are not what they should be, a score is missing.
        """
        agents = len(self.names)
        order = [int(x) for x in self._order(agents, self.updates, self._rng)]
        if sorted(order) != list(range(agents)):
            raise InputError("order", order, f"a permutation of 0 … {agents - 1}")
        prompts = self.team.prompts()
        start = use = self._sampled(prompts, 0)
        sets, records = 0, list[TeamUpdate]()
        for update, agent in enumerate(order):
            answer = None if self._books is None or not update else self._books.may_reuse(agent)
            if again := update > 0 and self._outdated(records[use.source :], answer):
                sets += 1
                use = self._sampled(prompts, update, (start.prompt, start.rollout + sets * start.rollouts.group))
            record = self._update(agent, update, use, start)._replace(resampled=again or not update, answer=answer)
            records.append(record)
            self.updates.append(record)
            if self.report is not None:
                self.report(record)
        self._stage += 1
        return records

    def close(self) -> None:
        """Let others have the log."""
        if self.writer is not None:
            self.writer.close()

    def replace(self, agent: str, newcomer: Any, radius: float | None = None) -> Alignment:
        """Stage 0: put another checkpoint in an agent's place, taught to be near it where the team goes (U3).

        The probes are rollouts of the team as it is. The replacement stands in the log as a stage of one update.

        Raises:
          InputError: if there is no such agent, or the radius is not positive.
        """
        one_of("agent", agent, self.names)
        who = self.names.index(agent)
        delta = self._radii[who] if radius is None else real_number("radius", radius, above=0.0, infinite=True)
        probes = self._sampled(self.team.prompts(), 0)
        again = self._twice(probes)
        info = self.team.align(who, newcomer, probes.rollouts, delta)
        self._write(who, 0, [probes], [self._scored(who, probes)], again)
        self._stage += 1
        return info

    # ------------------------------------------------------------------------------------------------------ one update

    def _outdated(self, since: Sequence[TeamUpdate], answer: ReuseAnswer | None) -> bool:
        """Whether the next update needs new rollouts."""
        if callable(self.resample):
            return bool(self.resample(since))
        return self.resample == "fresh" if answer is None else not answer

    def _sampled(self, prompts: Any, update: int, ids: tuple[Ints, Ints] | None = None) -> _InUse:
        """New rollouts of the team, scored by every agent. In a stage a prompt keeps its id."""
        rollouts = require_rollouts(self.team.sample(prompts), len(self.names))
        if ids is None and self.writer is not None:
            ids = self.writer.ids(rollouts.prompts, rollouts.group)
        if self._books is not None:
            self._books.resampled()
        return _InUse(
            rollouts, update, ids or np.divmod(np.arange(rollouts.reward.size), rollouts.group), self._all(rollouts)
        )

    def _all(self, rollouts: TeamRollouts, rows: Ints | None = None) -> Floats:
        """``[N, T]`` or some rows of it: every token under the agent that wrote it, NaN where there is none."""
        out = np.full(rollouts.mask.shape, np.nan)[slice(None) if rows is None else rows]
        for agent in range(len(self.names)):
            own = rollouts.of(agent)[slice(None) if rows is None else rows]
            out = np.where(own, self.team.score(agent, rollouts, rows), out)
        require_scores("score", out, rollouts.mask[slice(None) if rows is None else rows])
        return out

    def _scored(self, agent: int, x: _InUse) -> Floats:
        """``[N, T]``: the team with this agent as it is now, the others as they were scored."""
        return np.where(x.rollouts.of(agent), self.team.score(agent, x.rollouts), x.current)

    def _twice(self, x: _InUse) -> Floats:
        """``[N, T]``: the team a second time, in a batch of other size, on a share of the rollouts; NaN elsewhere."""
        out = np.full(x.rollouts.mask.shape, np.nan)
        if self.twice > 0:
            rows = scored_twice(len(out), self.twice)
            out[rows] = self._all(x.rollouts, rows)
        return out

    def _update(self, agent: int, update: int, use: _InUse, start: _InUse) -> TeamUpdate:
        """Train one agent, go back into its region, write the rows, and book what has moved."""
        again = self._twice(use)
        delta = self._radii[agent]

        def measured() -> float:
            return ESTIMATORS[self.estimator](moved(use.rollouts, agent, self._scored(agent, use) - use.current))

        inside, reached = self.team.weights(agent), 0.0

        def stop() -> bool:
            nonlocal inside, reached
            reached = measured()
            if reached <= delta:
                inside = self.team.weights(agent)
            return not reached <= delta  # NaN is outside

        steps = self.team.train(agent, use.rollouts, stop)
        share = 1.0 if reached <= delta else self._back(agent, inside, lambda: measured() <= delta)
        sets = [use] if use is start or not self.start_again else [use, start]
        new = [self._scored(agent, x) for x in sets]
        require_scores("score after the update", new[0], use.rollouts.mask)
        step = moved(use.rollouts, agent, new[0] - use.current)
        rows = self._write(agent, update, sets, new, again)
        if self._books is not None:
            self._books.book(agent, rows)
        count = sum(x.agent == agent for x in self.updates)
        its = {key: column[rows["agent"] == agent] for key, column in rows.items()}
        self.team.tell(agent, count, update_scalars(update_sums(its)) | {"teamtr/share": share, "teamtr/radius": delta})
        for x, after in zip(sets, new, strict=True):
            x.current = after
        use.path_kl += step.episode
        return TeamUpdate(
            stage=self._stage, update=update, agent=agent, source=use.source, resampled=False, radius=delta, kl=step.kl,
            kl_k1=step.k1, kl_reached=reached, kl_episode=step.episode, steps=steps, share=share, surrogate=step.surrogate,
            reward=float(use.rollouts.reward.mean()), path_kl=use.path_kl, shift=float(path_shift(use.path_kl, None)),
        )  # fmt: skip

    def _back(self, agent: int, inside: Any, is_inside: Callable[[], bool]) -> float:
        """Bisection between the last weights inside and those outside; what is left loaded was measured inside."""
        outside = self.team.weights(agent)
        low, high = 0.0, 1.0
        for _ in range(self.halvings):
            share = (low + high) / 2
            self.team.load(agent, self.team.between(inside, outside, share))
            low, high = (share, high) if is_inside() else (low, share)
        self.team.load(agent, self.team.between(inside, outside, low) if low > 0 else inside)
        return low

    def _write(
        self, agent: int, update: int, sets: Sequence[_InUse], new: Sequence[Floats], again: Floats
    ) -> dict[str, NDArray[Any]]:
        """The rows of an update: of the rollouts in use, which are returned, and of those of the stage's start scored again."""
        tables = [
            token_rows(
                x.rollouts.mask, stage=self._stage, update=update, source=x.source, prompt=x.prompt, rollout=x.rollout,
                agent=x.rollouts.agent, turn=x.rollouts.turn, token=x.rollouts.token, reward=x.rollouts.reward, updated=agent,
                logp_behaviour=x.behaviour, logp_current=x.current, logp_new=after,
                logp_again=again if x is sets[0] else np.full(x.rollouts.mask.shape, np.nan),
            )
            for x, after in zip(sets, new, strict=True)
        ]  # fmt: skip
        if self.writer is not None:
            for rows in tables:
                self.writer.add(rows)
            self.writer.flush()
        return tables[0]


def _function(name: str, value: Any, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """A function, or one of those that have names."""
    if callable(value):
        return value
    one_of(name, value, list(known))
    return known[value]


def _writer(log: LogWriter | Path | str | None, team: Team) -> LogWriter | None:
    """A writer for this team.

    Raises:
      InputError: one that was made for tokens drawn in another way.
    """
    if isinstance(log, str | Path):
        return LogWriter(log, sampler=team.sampler, trainer="TeamTRSchedule")
    if log is not None and log.sampler != team.sampler:
        raise InputError("log", f"a writer for {log.sampler}", f"one for {team.sampler}, as the team samples")
    return log


def _radii(radius: float | Mapping[str, float], names: Sequence[str]) -> list[float]:
    """One `δ` for each agent."""
    if not isinstance(radius, Mapping):
        return [real_number("radius", radius, above=0.0, infinite=True)] * len(names)
    if sorted(radius) != sorted(names):
        raise InputError("radius", ", ".join(sorted(radius)), f"one for each of {', '.join(names)}")
    return [real_number(f"radius of {name}", radius[name], above=0.0, infinite=True) for name in names]
