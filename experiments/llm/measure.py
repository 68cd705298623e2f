"""Held-out accuracy by sampling, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.llm.layout import messages
from teamtr_jax.llm.model import LanguageTeam, Params
from teamtr_jax.llm.sampler import sample
from teamtr_jax.llm.tasks import Problem, Task

__all__ = ["Conversations", "converse", "Gain", "paired_gain", "Regression", "regression", "LEVEL", "pass_at"]

Floats = NDArray[np.float64]

LEVEL = 0.01
"""Of the test for a regression, each update by itself."""


class Conversations(NamedTuple):
    """K conversations for each of B problems."""

    reward: Floats  #: [B, K]
    said: list[list[list[str]]]  #: [B][K][turns]


def converse(
    team: LanguageTeam, params: Params, task: Task, problems: Sequence[Problem], samples: int, key: Array, rows: int
) -> Conversations:
    """Sample and verify. The program is that of `rows` conversations, however many are asked for.

    Equal keys give equal uniforms to every conversation: teams are compared with common random numbers.
    """
    prompts = team.layout.encode_prompts([problem.prompt for problem in problems])
    wanted = np.repeat(np.arange(len(problems)), samples)
    said: list[list[str]] = []
    for number, first in enumerate(range(0, wanted.size, rows)):
        chosen = wanted[np.minimum(np.arange(first, first + rows), wanted.size - 1)]
        found = sample(team, params, jnp.asarray(prompts[chosen]), jax.random.fold_in(key, number))
        said += messages(team.layout, found.tokens)[: wanted.size - first]
    reward = [float(task.verify(problems[b], texts)) for b, texts in zip(wanted.tolist(), said, strict=True)]
    grouped = [said[i : i + samples] for i in range(0, len(said), samples)]
    return Conversations(np.reshape(reward, (len(problems), samples)), grouped)


class Gain(NamedTuple):
    """A mean difference over prompts, with the limits of its two-sided 95 % normal interval."""

    value: float
    low: float
    high: float


def paired_gain(before: Floats, after: Floats) -> Gain:
    """`mean_b (r̄_b' − r̄_b) ± 1.96·s/√B`: the same prompts ``[B, K]`` before and after, K conversations averaged first."""
    difference = (after - before).mean(-1)
    error = 1.96 * difference.std(ddof=1) / math.sqrt(difference.size) if difference.size > 1 else math.inf
    value = float(difference.mean())
    return Gain(value, value - error, value + error)


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


def pass_at(solved: NDArray[np.bool_], k: int) -> Floats:
    """``[B]``: `1 − C(K−c, k)/C(K, k)`, c of the K conversations of a prompt solved: unbiased for one of k being right."""
    total = solved.shape[1]
    return np.array([1 - math.comb(total - int(c), k) / math.comb(total, k) for c in solved.sum(1)])
