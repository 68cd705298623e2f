"""U2: orders and resampling schedules, shared by tables and networks.

A schedule says before which updates new rollouts are collected, how the updates between use the old ones, and for how many
sets of rollouts a stage's budget has to last. An order says who is updated next. Both are plain functions; where a backend
carries a batch of instances they are given, and return, arrays over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from teamtr_jax.path_shift import path_shift
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError, permutation, positive, real_number, whole_number

__all__ = ["Reuse", "Schedule", "fresh", "once", "every", "lag", "stale_occupancy", "joint", "importance_weighted",
           "certificate_driven", "path_shift", "Order", "fixed", "reverse", "random_order", "greedy", "single"]  # fmt: skip

Reuse = Literal["rollouts", "occupancy", "weights", "start"]
"""What an update between two rollouts makes of the old ones:

* ``rollouts``: their occupancy and their advantages (the cached surrogate, `L_i^cached`);
* ``occupancy``: their occupancy and the current team's advantages (the paper's `L_i^stale`; needs a critic);
* ``weights``: importance weights of the current team against the one that wrote them;
* ``start``: as ``rollouts``, computed against the tables of that team too (all agents at once; the reused surrogate).
"""


class Schedule(NamedTuple):
    """When to collect rollouts, and how to use them until then.

    `resample(i, records)` is asked before update `i ≥ 1`, given the records of the stage's updates so far; update 0 always has
    new rollouts. `records[-1].path_kl` is the KL between the team that the rollouts in use came from and the team now.
    """

    name: str
    resample: Callable[[int, Sequence[UpdateRecord]], ArrayLike]
    draws: Callable[[int], int]  #: n ↦ the most sets of rollouts that a stage of n updates can ask for
    reuse: Reuse = "rollouts"
    truncation: float = math.inf  #: importance weights above it are cut
    lag: int = 0  #: how many updates before this one the team stood that writes new rollouts


fresh = Schedule("fresh", lambda update, records: True, lambda n: n)
"""Resample before every update (TeamTR: the intermediate occupancy)."""

once = Schedule("once", lambda update, records: False, lambda n: 1)
"""One set of rollouts for the whole stage: occupancy and advantages are those of its start."""

stale_occupancy = once._replace(name="stale_occupancy", reuse="occupancy")
"""One set of rollouts for the occupancy, advantages of the current team: the paper's stale surrogate."""

joint = once._replace(name="joint", reuse="start")
"""All agents at once: every update is computed from the stage's first team and its rollouts. Turn-taking: the same as `once`."""


def every(k: int) -> Schedule:
    """Resample before every k-th update.

    Raises:
      InputError: if `k` is no positive integer.
    """
    whole_number("k", k, 1, expected="at least 1")
    return Schedule(f"every {k}", lambda update, records: update % k == 0, lambda n: -(-n // k))


def lag(m: int) -> Schedule:
    """Update i uses rollouts of the team as it stood m updates before it: asynchronous rollouts (arXiv:2607.01083, 2607.18722).

    The first `m` updates of a stage share those of its start; what stood before the stage is not kept. `lag(0)` is `fresh`, a
    lag of n−1 or more is `once`. The gap over a lag is that of one pair of policies: S10 with the sum of the χ² of its updates.
    `path_kl` adds up the KL of the updates since, each as it was measured on the rollouts which that update had.

    Raises:
      InputError: if `m` is no integer from 0.
    """
    whole_number("m", m, 0, expected="at least 0")
    return Schedule(f"lag {m}", lambda update, records: update > m, lambda n: max(n - m, 1), lag=m)


def importance_weighted(truncation: float = math.inf) -> Schedule:
    """One set of rollouts, reweighted to the current team; weights above `truncation` are cut to it.

    Raises:
      InputError: if `truncation` is not positive.
    """
    positive("truncation", truncation, infinite=True)
    return once._replace(name="importance weights", reuse="weights", truncation=truncation)


def certificate_driven(tolerance: float, discount: float | None) -> Schedule:
    """Resample once the certified shift since the last rollouts (`path_shift`) exceeds `tolerance`.

    With exact KL every update is scored on rollouts whose occupancy is within `tolerance` of the current team's in total
    variation; with sampled KL that is an estimate. The budget is split as for `fresh`; what is not asked for is saved. A set of
    rollouts from which no agent learns anything (a sparse reward that was not met) leaves the KL at zero, and is kept until the
    stage ends.

    Raises:
      InputError: if `tolerance` is negative, or `discount` is given and not in [0, 1).
    """
    real_number("tolerance", tolerance, 0.0, infinite=True)
    if discount is not None:
        real_number("discount", discount, 0.0, below=1.0)
    return Schedule(
        f"certificate {tolerance:g}",
        lambda update, records: path_shift(records[-1].path_kl, discount) > tolerance,
        lambda n: n,
    )


Order = Callable[[NDArray[np.bool_], Callable[[], ArrayLike], Array | None], ArrayLike]
"""`(waiting [..., n], gains, key) → agent [...]`: who of those waiting is next; `gains()` are predicted gains ``[..., n]``."""


def fixed(order: Sequence[int]) -> Order:
    """The agents in this order, in every stage.

    Raises:
      InputError: if `order` is not a permutation.
    """
    agents = permutation("order", list(order), len(order))

    def following(waiting: NDArray[np.bool_], gains: Callable[[], ArrayLike], key: Array | None) -> ArrayLike:
        del gains, key
        if waiting.shape[-1] != agents.size:
            raise InputError("order", agents.tolist(), f"a permutation of {waiting.shape[-1]} agents")
        return agents[agents.size - waiting.sum(-1)]

    return following


def reverse(agents: int) -> Order:
    """The last agent first.

    Raises:
      InputError: if `agents` is no positive integer.
    """
    whole_number("agents", agents, 1)
    return fixed(range(agents)[::-1])


def random_order(waiting: NDArray[np.bool_], gains: Callable[[], ArrayLike], key: Array | None) -> ArrayLike:
    """Each agent still waiting with equal probability."""
    del gains
    if key is None:
        raise InputError("key", "None", "a PRNG key for a random order")
    drawn = np.asarray(jax.random.uniform(key, waiting.shape))
    return np.where(waiting, drawn, -1.0).argmax(-1)


def greedy(waiting: NDArray[np.bool_], gains: Callable[[], ArrayLike], key: Array | None) -> ArrayLike:
    """The agent whose update promises the greatest surrogate gain on the rollouts in use."""
    del key
    return np.where(waiting, np.asarray(gains()), -np.inf).argmax(-1)


def single(agent: int) -> Order:
    """One agent for the whole budget: every update of the stage is its.

    Raises:
      InputError: if `agent` is no integer from 0; asked, if the team has no such agent.
    """
    whole_number("agent", agent, 0)

    def same(waiting: NDArray[np.bool_], gains: Any, key: Array | None) -> ArrayLike:
        del gains, key
        if not 0 <= agent < waiting.shape[-1]:
            raise InputError("agent", agent, f"0 … {waiting.shape[-1] - 1}")
        return np.full(waiting.shape[:-1], agent)

    return same
