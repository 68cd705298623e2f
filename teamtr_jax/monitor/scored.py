"""Some transcripts of one update, summed to messages and to rollouts."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.monitor.estimates import Floats, Ints, growth, k3, leave_one_out
from teamtr_jax.monitor.log import TokenLog
from teamtr_jax.monitor.sources import rows_of

__all__ = ["Scored", "score", "per_prompt"]

INFINITE = 1e290
"""What is larger is the exponential of a cut log ratio: sums take it for infinite, so that two do not cancel."""


class Scored(NamedTuple):
    """N rollouts of B prompts with M messages. Log ratios are sums over the tokens of a message.

    A rollout without token has one message of agent −1, whose log ratios are 0.

    `ρ = new/current` is that of the updated agents alone and 1 on all other messages.
    """

    cluster: Ints  #: [N] the prompt of a rollout, 0 … B−1
    prompts: Ints  #: [B] its id in the log
    reward: Floats  #: [N]
    advantage: Floats  #: [N] `R_g − R̄_{−g}`
    rollout: Ints  #: [M] the rollout of a message
    first: Ints  #: [N] the first message of a rollout
    agent: Ints  #: [M]
    tokens: Ints  #: [M]
    mine: NDArray[np.bool_]  #: [M] whether an updated agent wrote it
    current: Floats  #: [M] `log π_current/π_behaviour`
    new: Floats  #: [M] `log π_new/π_current`
    k1: Floats  #: [M] `Σ_u log π_current/π_new`
    k3: Floats  #: [M] `Σ_u (r − 1 − log r)`, `r = π_new/π_current`
    k3_current: Floats  #: [M] the same of current against behaviour, every agent
    k3_new: Floats  #: [M] the same of new against behaviour, every agent
    steps: Floats  #: [N] `Σ_u (r − 1)` over the updated agents' tokens
    token_k1: Floats  #: `log π_current/π_new` of every token of an updated agent

    def sums(self, values: Floats) -> Floats:
        """[M] → [N], summed over the messages of a rollout."""
        return np.add.reduceat(_infinite(values), self.first)


def _infinite(values: Floats) -> Floats:
    return np.where(abs(values) > INFINITE, np.copysign(np.inf, values), values)


def score(log: TokenLog, chosen: Ints, updated: Ints) -> Scored:
    """Sum up the transcripts `chosen` (one stage, one update) for an update of the agents `updated`."""
    rows = rows_of(log.transcripts, chosen)
    length = np.diff(log.transcripts)[chosen]
    start = np.cumsum(length) - length  # first row of each rollout, here
    present = log.t[rows] >= 0
    agent, turn = np.where(present, log.agent[rows], -1), log.turn[rows]
    new_turn = np.r_[True, turn[1:] != turn[:-1]]
    new_turn[start] = True
    at = np.flatnonzero(new_turn)
    mine = np.isin(agent, updated)
    current = log.logp_current[rows] - log.logp_behaviour[rows]
    new = np.where(mine, log.logp_new[rows] - log.logp_current[rows], 0.0)
    prompts, cluster = np.unique(log.prompt[log.transcripts[chosen]], return_inverse=True)
    reward = log.reward[log.transcripts[chosen]]

    add = partial(np.add.reduceat, indices=at)
    return Scored(
        cluster=cluster,
        prompts=prompts,
        reward=reward,
        advantage=leave_one_out(reward, cluster, prompts.size),
        rollout=np.repeat(np.arange(chosen.size), length)[at],
        first=np.searchsorted(at, start),
        agent=agent[at],
        tokens=add(present.astype(np.int64)),
        mine=mine[at],
        current=add(current),
        new=add(new),
        k1=add(-new),
        k3=add(k3(new)),
        k3_current=add(k3(current)),
        k3_new=add(k3(current + new)),
        steps=np.add.reduceat(growth(new), start),
        token_k1=-new[mine],
    )


def per_prompt(s: Scored, values: Floats) -> Floats:
    """[N] → [B], the mean over the rollouts of a prompt."""
    size = np.bincount(s.cluster, minlength=s.prompts.size)
    return np.bincount(s.cluster, _infinite(values), s.prompts.size) / size
