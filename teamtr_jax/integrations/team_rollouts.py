"""Rollouts of a team that takes turns, as a trainer hands them over, and how far an update has moved on them. NumPy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.monitor.estimates import gain, k3, leave_one_out
from teamtr_jax.validation import InputError

__all__ = ["TeamRollouts", "require_rollouts", "require_scores", "Moved", "moved"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TeamRollouts(NamedTuple):
    """N transcripts of at most T message tokens; the rollouts of a prompt follow each other."""

    mask: NDArray[np.bool_]  #: ``[N, T]``, where an agent wrote a token
    agent: Ints  #: ``[N, T]``, who; what stands outside the mask is not looked at, here and below
    turn: Ints  #: ``[N, T]``, in which message
    token: Ints  #: ``[N, T]``, its id
    reward: Floats  #: ``[N]``
    group: int  #: G, rollouts of a prompt
    behaviour: Floats | None = (
        None  #: ``[N, T]``, log-probabilities by which they were drawn; `None`: as the team scores them
    )
    data: Any = None  #: the team's own

    @property
    def prompts(self) -> int:
        """B, the number of prompts."""
        return self.reward.size // self.group

    def of(self, agent: int) -> NDArray[np.bool_]:
        """``[N, T]``: the tokens that `agent` wrote."""
        return self.mask & (self.agent == agent)


def require_rollouts(rollouts: TeamRollouts, agents: int) -> TeamRollouts:
    """Refuse rollouts from which nothing can be learned or booked.

    Raises:
      InputError: names the field: another shape, an agent that is not there, no token of an agent, a reward that is no number, a
        number of rollouts that is no multiple of the group.
    """
    shape = rollouts.mask.shape
    named = ("agent", "turn", "token") + (() if rollouts.behaviour is None else ("behaviour",))
    for name in named:
        if (found := getattr(rollouts, name).shape) != shape:
            raise InputError(f"rollouts: {name}", f"shape {list(found)}", f"{list(shape)}, that of the mask")
    if rollouts.reward.shape != shape[:1] or not np.isfinite(rollouts.reward).all():
        found = rollouts.reward[~np.isfinite(rollouts.reward)][:1].tolist() or f"shape {list(rollouts.reward.shape)}"
        raise InputError("rollouts: reward", found, f"[{shape[0]}] finite numbers")
    if rollouts.group < 1 or not shape[0] or shape[0] % rollouts.group:
        raise InputError("rollouts", f"{shape[0]} in groups of {rollouts.group}", "whole groups, at least one")
    speakers = rollouts.agent[rollouts.mask]
    if (strangers := speakers[(speakers < 0) | (speakers >= agents)]).size:
        raise InputError("rollouts: agent", int(strangers[0]), f"0 … {agents - 1}")
    if silent := sorted(set(range(agents)) - set(speakers.tolist())):
        raise InputError("rollouts", f"no token of agent {silent[0]}", "messages of every agent")
    if rollouts.behaviour is not None:
        require_scores("rollouts: behaviour", rollouts.behaviour, rollouts.mask)
    return rollouts


def require_scores(name: str, scores: Floats, where: NDArray[np.bool_]) -> None:
    """Refuse a log-probability that is missing, above 0 (1e-5 allowed) or −∞: it never becomes 0.

    Raises:
      InputError: names the first.
    """
    if (bad := where & ~((scores <= 1e-5) & np.isfinite(scores))).any():
        row, place = np.argwhere(bad)[0].tolist()
        raise InputError(f"{name} of rollout {row}, token {place}", scores[row, place], "a finite log-probability")


class Moved(NamedTuple):
    """How far an update has moved one agent, on rollouts, and what it promises there."""

    kl: float  #: mean over its messages of `Σ_u (r − 1 − log r)`, r = new/current: P3.2 by k3, never negative
    k1: float  #: the same of `Σ_u −log r`, the paper's monitor
    episode: float  #: `K`, mean over rollouts of `Σ_u (r − 1 − log r)`
    surrogate: float  #: `L`, mean of `A Σ_m (ρ_m − 1)`: message ratios, leave-one-out advantages


def moved(rollouts: TeamRollouts, agent: int, log_ratio: Floats) -> Moved:
    """Compare an agent before and after an update on rollouts.

    Args:
      log_ratio: ``[N, T]``, `log π_new/π_current` of the agent's tokens; elsewhere it is not looked at.

    Example:
      >>> one = np.ones((2, 1), np.int64)
      >>> rollouts = TeamRollouts(one > 0, 0 * one, 0 * one, one, np.array([0.0, 1.0]), group=2)
      >>> print(round(moved(rollouts, 0, np.log([[0.8], [1.25]])).surrogate, 12))
      0.225
    """
    own = rollouts.of(agent)
    row = np.nonzero(own)[0]
    ratio = log_ratio[own]
    message, members = np.unique(row * (1 + rollouts.turn.max()) + rollouts.turn[own], return_inverse=True)
    size = rollouts.reward.size
    advantage = leave_one_out(rollouts.reward, np.arange(size) // rollouts.group, rollouts.prompts)
    by_message: Floats = np.bincount(members, ratio).astype(np.float64)
    writer = row[np.unique(members, return_index=True)[1]]
    promised = advantage[writer] * gain(np.zeros(by_message.size), by_message)
    terms = k3(ratio)
    return Moved(
        kl=float(terms.sum() / message.size),
        k1=float(-ratio.sum() / message.size),
        episode=float(terms.sum() / size),
        surrogate=float(promised.sum() / size),
    )
