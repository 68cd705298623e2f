"""Held-out accuracy by sampling, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.llm.layout import messages
from teamtr_jax.llm.model import LanguageTeam, Params
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.tasks import Problem, Task, earned
from teamtr_jax.llm.update import TrainState
from teamtr_jax.stage import Backend

__all__ = ["Conversations", "converse", "Mean", "mean_of", "paired_gain", "Regression", "regression", "LEVEL", "Probe",
           "remembering", "RULE", "pass_at"]  # fmt: skip

Floats = NDArray[np.float64]

LEVEL = 0.01
"""Of the test for a regression, each update by itself."""

RULE = f"an update after which the mean reward on the probes is lower: one-sided sign test at level {LEVEL}"


class Conversations(NamedTuple):
    """K conversations for each of B problems."""

    reward: Floats  #: [B, K]
    said: list[list[list[str]]]  #: [B][K][turns]


def converse(
    team: LanguageTeam, params: Params, task: Task, problems: Sequence[Problem], samples: int, key: Array, rows: int
) -> Conversations:
    """Sample and verify. The program is that of `rows` conversations, however many are asked for.

    Equal keys give equal uniforms to every conversation: teams are compared with common random numbers.

    Raises:
      InputError: a verifier that raises, or a reward outside [0, 1].
    """
    prompts = team.layout.encode_prompts([problem.prompt for problem in problems])
    wanted = np.repeat(np.arange(len(problems)), samples)
    said: list[list[str]] = []
    for number, first in enumerate(range(0, wanted.size, rows)):
        chosen = wanted[np.minimum(np.arange(first, first + rows), wanted.size - 1)]
        found = sample(team, params, jnp.asarray(prompts[chosen]), jax.random.fold_in(key, number))
        said += messages(team.layout, found.tokens)[: wanted.size - first]
    reward = [earned(task, problems[b], texts) for b, texts in zip(wanted.tolist(), said, strict=True)]
    grouped = [said[i : i + samples] for i in range(0, len(said), samples)]
    return Conversations(np.reshape(reward, (len(problems), samples)), grouped)


class Mean(NamedTuple):
    """A mean over prompts, with the limits of its two-sided 95 % normal interval."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_of(x: Floats, least: float = 0.0, most: float = 1.0) -> Mean:
    """`x̄ ± 1.96·s/√B` of one number for each prompt, from `least` to `most`; a single one has no limits.

    B equal numbers v say nothing of their spread. That a share q of all prompts has others shows in none of B with probability
    `(1 − q)^B`; at .05 it is `p = 1 − .05^(1/B)`, and the mean lies from `v − p·(v − least)` to `v + p·(most − v)`.

    Example:
      >>> print(mean_of(np.zeros(200)))
      0.000 [0.000, 0.015]
    """
    value, error = float(x.mean()), 1.96 * float(x.std(ddof=1)) / math.sqrt(x.size) if x.size > 1 else math.inf
    if x.size > 1 and np.ptp(x) == 0:
        p = 1 - 0.05 ** (1 / x.size)
        return Mean(value, value - p * (value - least), value + p * (most - value))
    return Mean(value, value - error, value + error)


def paired_gain(before: Floats, after: Floats) -> Mean:
    """`mean_of` the differences: the same prompts ``[B, K]`` before and after, K conversations averaged first."""
    return mean_of((after - before).mean(-1), least=-1.0)


class Regression(NamedTuple):
    """Whether an update made the team worse on the probes."""

    change: float  #: of the mean reward
    p_value: float  #: one-sided
    significant: bool  #: `p_value < LEVEL`


def regression(before: Floats, after: Floats) -> Regression:
    """The exact sign test (McNemar's, for rewards of 0 and 1) of the pairs that differ, against fewer losses than gains."""
    difference = (after - before).ravel()
    lost, gained = int((difference < 0).sum()), int((difference > 0).sum())
    p = float(scipy.stats.binom.cdf(gained, lost + gained, 0.5)) if lost + gained else 1.0
    return Regression(float(difference.mean()), p, p < LEVEL)


class Probe:
    """Accuracy after every update, on the same prompts with the same random numbers.

    Args:
      rewards: ``[B, K]`` of the team in a state; `None`: nothing is measured.
    """

    def __init__(self, rewards: Callable[[TrainState], Floats] | None):
        self.rewards = rewards
        self.params: Any = None
        self.last: Floats | None = None

    def measure(self, state: TrainState) -> Floats:
        """Not again where the parameters are those of the last time."""
        assert self.rewards is not None
        if self.last is None or state.params is not self.params:
            self.params, self.last = state.params, self.rewards(state)
        return self.last

    def report(self, before: TrainState, after: TrainState) -> dict[str, Any]:
        """What an update did, with half the width of 95 % normal intervals."""
        if self.rewards is None:
            return {}
        old, new = self.measure(before), self.measure(after)
        found, reached = regression(old, new), mean_of(new.mean(-1))
        return {
            "before": float(old.mean()), "after": reached.value, "after_error": reached.error, "change": found.change,
            "change_error": paired_gain(old, new).error, "p_value": found.p_value, "regression": found.significant,
        }  # fmt: skip


def remembering(backend: Backend, states: list[Any]) -> Backend:
    """The backend, which also puts the state after every update into a list."""

    def update(state: Any, estimate: Any, agent: Any) -> tuple[Any, Mapping[str, Any]]:
        new, info = backend.update(state, estimate, agent)
        states.append(new)
        return new, info

    return backend._replace(update=update)


def pass_at(solved: NDArray[np.bool_], k: int) -> Floats:
    """``[B]``: `1 − C(K−c, k)/C(K, k)`, c of the K conversations of a prompt solved: unbiased for one of k being right."""
    total = solved.shape[1]
    return np.array([1 - math.comb(total - int(c), k) / math.comb(total, k) for c in solved.sum(1)])
