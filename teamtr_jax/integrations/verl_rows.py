"""What a batch of verl's holds, as rows of a token log: NumPy alone, no verl (docs/verl.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.integrations.messages import message_numbers
from teamtr_jax.integrations.twice import scored_twice
from teamtr_jax.monitor.writing import token_rows
from teamtr_jax.validation import InputError

__all__ = ["Agent", "Responses", "places", "rows_scored_twice", "require_behaviour", "written"]

UNEXPLAINED = 1.0
"""Nats: an engine without cuts that is certain of a token, or of a whole response, and a trainer differ by less."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Agent = int | Callable[[Ints], NDArray[Any]]
"""Who writes: one number, or of the number of every token's message, [N, T], an agent for each."""


class Responses(NamedTuple):
    """N responses of at most T tokens, in the order of the batch."""

    uid: list[str]  #: of the prompt
    rollout: Ints  #: [N] number of the rollout within its prompt
    output: Ints  #: [N] number of the response within its rollout: an agent loop may return several
    real: NDArray[np.bool_]  #: [N] no row that fills up a batch
    wrote: NDArray[np.bool_]  #: [N, T] tokens of the policy
    token: Ints  #: [N, T]
    behaviour: Floats  #: [N, T] log-probabilities of the engine
    reward: Floats  #: [N]
    old: Floats | None  #: [N, T] what the trainer scored before the update, if that is of the policy before it


def places(uid: list[str]) -> Ints:
    """The number of each row among those of its prompt.

    Example:
      >>> places(["b", "a", "b", "b", "a"])
      array([0, 0, 1, 2, 1])
    """
    count: dict[str, int] = {}
    out = []
    for key in uid:
        count[key] = count.get(key, -1) + 1
        out.append(count[key])
    return np.array(out, np.int64)


def rows_scored_twice(responses: Responses, multiple: int) -> Ints:
    """Rows that are scored a second time: of some rollouts of as many prompts as can be (`scored_twice`), last ones first.

    Args:
      multiple: workers share the rows equally, so their number is a multiple of this, or all; more rows make up for it.
    """
    of: dict[str, dict[int, list[int]]] = {}
    for i in np.flatnonzero(responses.real):
        of.setdefault(responses.uid[i], {}).setdefault(int(responses.rollout[i]), []).append(int(i))
    rollouts = [rows for group in of.values() for rows in group.values()]
    chosen = [i for k in scored_twice(len(rollouts)) for i in rollouts[k]]
    if not chosen:
        return np.zeros(0, np.int64)
    rest = [i for i in range(len(responses.uid)) if i not in set(chosen)]
    return np.array((chosen + rest[: -len(chosen) % multiple])[::-1], np.int64)


def require_behaviour(responses: Responses, current: Floats, cuts: bool = False) -> None:
    """Refuse a token without a log-probability of the engine: agent loops fill up with 0, which says that it was certain.

    Args:
      current: [N, T] log-probabilities of the trainer.
      cuts: top-k or top-p may leave one token, of which the engine is certain and the trainer is not.

    Raises:
      InputError: names row and token.
    """
    wrote = responses.wrote & responses.real[:, None]
    missing = wrote & ~np.isfinite(responses.behaviour)
    if not cuts:
        zero = wrote & (responses.behaviour == 0)
        row = (zero.sum(1) == wrote.sum(1)) & (np.where(wrote, current, 0.0).sum(1) < -UNEXPLAINED)
        missing |= zero & ((current < -UNEXPLAINED) | row[:, None])
    if missing.any():
        row, t = np.argwhere(missing)[0].tolist()
        found = f"{responses.behaviour[row, t]} in row {row}, token {t}, where the trainer has {current[row, t]:.3g}"
        raise InputError("rollout_log_probs", found, "a log-probability of the engine for every token of the policy")


def written(
    responses: Responses,
    current: Floats,
    new: Floats,
    again: Floats,
    ids: Callable[[int, int], tuple[Ints, Ints]],
    agent: Agent,
) -> dict[str, NDArray[Any]]:
    """The rows of the log, without stage, update and source.

    Args:
      current: [N, T] log-probabilities before the update; `new` after it; `again` a second time before it, NaN where not.
      ids: of `LogWriter`.
    """  # fmt: skip
    keep, turn, reward = _of_rollouts(responses)
    known = {uid: i for i, uid in enumerate(dict.fromkeys(responses.uid[i] for i in keep))}
    group = int(responses.rollout[keep].max()) + 1
    prompt, rollout = (x.reshape(len(known), group) for x in ids(len(known), group))
    at = [known[responses.uid[i]] for i in keep], responses.rollout[keep]
    once = np.asarray(np.isnan(again).any(axis=1))
    for rows in _rollouts(responses):  # a rollout is scored twice as a whole, or not
        once[rows] = once[rows].any()
    return token_rows(
        responses.wrote[keep], prompt=prompt[at], rollout=rollout[at], turn=turn[keep], reward=reward[keep],
        agent=_agents(agent, turn[keep]), updated=-1 if callable(agent) else agent, token=responses.token[keep],
        logp_behaviour=responses.behaviour[keep], logp_current=current[keep], logp_new=new[keep],
        logp_again=np.where(once[:, None], np.nan, again)[keep],
    )  # fmt: skip


def _rollouts(responses: Responses) -> list[list[int]]:
    """The rows of every rollout, in the order of its responses."""
    found: dict[tuple[str, int], list[int]] = {}
    for i in np.argsort(responses.output, kind="stable").tolist():
        if responses.real[i]:
            found.setdefault((responses.uid[i], int(responses.rollout[i])), []).append(i)
    return list(found.values())


def _of_rollouts(responses: Responses) -> tuple[Ints, Ints, Floats]:
    """Rows that stay; [N, T] the number of each token's message in its rollout; [N] the reward of the rollout.

    A rollout of several responses has the reward of its last one, which is what verl's advantages are of. A response without a
    token is left out where the rollout has others.
    """
    turn, reward = message_numbers(responses.wrote), responses.reward.copy()
    keep: list[int] = []
    for rows in _rollouts(responses):
        reward[rows] = responses.reward[rows[-1]]
        spoken = [i for i in rows if responses.wrote[i].any()] or rows[-1:]
        first = 0
        for i in spoken:
            turn[i] += first
            first = int(turn[i].max()) + 1
        keep += spoken
    return np.array(sorted(keep), np.int64), turn, reward


def _agents(agent: Agent, turn: Ints) -> NDArray[Any]:
    """An agent for every token, or one for all."""
    if not callable(agent):
        return np.array(agent)
    found = np.asarray(agent(turn))
    if found.shape != turn.shape or found.dtype.kind not in "iu" or (found < 0).any():
        expected = f"integers ≥ 0, {list(turn.shape)}: one for every token"
        raise InputError("agent", f"dtype {found.dtype}, shape {list(found.shape)}", expected)
    return found.astype(np.int64)
