"""Teams from arrays of a decision process as other libraries keep them: pymdptoolbox (A, S, S), quantecon (S, A, S)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teamtr_jax.teams.gymnasium import ROUTERS, Table, team_of_table
from teamtr_jax.types import Team
from teamtr_jax.validation import (
    ROW_TOLERANCE,
    InputError,
    discount_factor,
    finite,
    one_of,
    probability_rows,
    real_number,
    whole_number,
)

__all__ = ["team_from_arrays"]

Order = Literal["ASS", "SAS"]


class Entries(NamedTuple):
    """Numbers by state, action and next state; what is not there is zero."""

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    following: NDArray[np.int64]
    value: NDArray[np.float64]

    def key(self, states: int, actions: int) -> NDArray[np.int64]:
        """One number for each place; entries are sorted by it."""
        return (self.state * actions + self.action) * states + self.following


def team_from_arrays(
    transition: Any,
    reward: Any,
    discount: float,
    order: str | None = None,
    agents: int = 1,
    router: str = "round_robin",
    initial: Any = None,
) -> Team:
    """A discounted turn-taking team in a decision process that is given by arrays; who speaks as in `gymnasium_team`.

    The state is (state of the process, who speaks), index `s·n + speaker`; one agent adds nothing.

    Args:
      transition: `P(s'|s,a)`, an array [A, S, S] (pymdptoolbox) or [S, A, S] (quantecon); or a list of A matrices [S, S], dense
        or of scipy.sparse.
      reward: [S], [S, A], or `r(s,a,s')` in the form of `transition`, of which the expectation is taken. Where
        [S, A] has −∞ the action is not offered, as in quantecon: it has the row of the first one that is.
      discount: `γ` in [0, 1).
      order: "ASS" or "SAS"; needed where the shape leaves both open (as many actions as states).
      agents: `n`.
      router: who speaks next, `round_robin` or `random`.
      initial: law of the first state, [S]; uniform by default.

    Raises:
      InputError: shapes that do not fit or leave two readings open; rows that are no probabilities; numbers that are not
        finite, or not float64; bad `discount`, `agents` or `router`; more memory needed than there is.

    Example:
      >>> wait = [[0.1, 0.9, 0.0], [0.1, 0.0, 0.9], [0.1, 0.0, 0.9]]  # a forest grows unless it burns
      >>> cut = [[1.0, 0.0, 0.0]] * 3
      >>> team = team_from_arrays([wait, cut], [[0, 0], [0, 1], [4, 2]], discount=0.9)
      >>> team.reward.shape
      (3, 2)
    """
    gamma = discount_factor("discount", real_number("discount", discount))
    agents = whole_number("agents", agents, 1)
    one_of("router", router, ROUTERS)
    if order is not None:
        one_of("order", order, ("ASS", "SAS"))
    moves, (states, actions), order = _entries("transition", transition, order)
    table, offered = _rewards(reward, moves, states, actions, order)
    index, prob = _slots(moves, states, actions)
    first = offered.argmax(-1)[:, None]
    instead = np.where(offered, np.arange(actions), first)
    table = np.take_along_axis(table, instead, 1)
    index, prob = np.take_along_axis(index, instead[..., None], 1), np.take_along_axis(prob, instead[..., None], 1)
    start = np.full(states, 1 / states) if initial is None else _real("initial", initial)
    if start.shape != (states,):
        raise InputError("initial", f"shape {list(start.shape)}", f"shape [{states}]")
    probability_rows("initial", start)
    return team_of_table(Table(index, prob, table, offered, start, None), agents, router, gamma)


def _real(name: str, array: Any) -> NDArray[np.float64]:
    """An array of float64 numbers, or of integers, which are taken for them."""
    if isinstance(array, np.ndarray) and array.dtype == object:
        array = list(array)  # pymdptoolbox's array of matrices
    try:
        out = np.asarray(array)
    except ValueError as error:
        raise InputError(name, "arrays of different shapes", "an array of numbers") from error
    if out.dtype.kind in "biu":
        out = out.astype(np.float64)
    if out.dtype != np.float64:
        raise InputError(name, f"dtype {out.dtype}", "dtype float64")
    return out


def _sparse(matrix: Any) -> bool:
    return hasattr(matrix, "tocoo")


def _by_action(array: Any) -> bool:
    """Whether it is a list, or an array of objects, with a sparse matrix in it."""
    listed = isinstance(array, list | tuple) or (isinstance(array, np.ndarray) and array.dtype == object)
    return listed and any(map(_sparse, array))


def _entries(name: str, array: Any, order: str | None) -> tuple[Entries, tuple[int, int], str]:
    """The numbers that are not zero, states and actions, and the order that was read."""
    if _sparse(array):
        raise InputError(name, f"one {type(array).__name__}", "a list of sparse matrices, one for each action")
    if _by_action(array):
        if order == "SAS":
            raise InputError("order", "SAS", "ASS: the list is by action")
        from scipy.sparse import csr_array

        parts = [csr_array(matrix if _sparse(matrix) else _real(name, matrix)) for matrix in array]
        states = int(parts[0].shape[0])  # pyright: ignore[reportOptionalSubscript]
        for a, part in enumerate(parts):
            if (found := part.shape) != (states, states):
                raise InputError(f"{name}, action {a}", f"shape {found}", f"shape {(states, states)}")
        rows = [part.tocoo() for part in parts]
        action = np.repeat(np.arange(len(rows)), [row.nnz for row in rows])
        state, following, value = (
            np.concatenate(x) for x in zip(*((*row.coords, _real(name, row.data)) for row in rows), strict=True)
        )
        sizes, order = (states, len(rows)), "ASS"
    else:
        dense = _real(name, array)
        order = _order(name, dense.shape, order)
        if order == "ASS":
            dense = np.moveaxis(dense, 0, 1)
        state, action, following = np.nonzero(dense)
        value, sizes = dense[state, action, following], dense.shape[:2]
    found = Entries(state.astype(np.int64), action.astype(np.int64), following.astype(np.int64), value)
    by = np.argsort(found.key(*sizes), kind="stable")
    return Entries(found.state[by], found.action[by], found.following[by], found.value[by]), sizes, order


def _order(name: str, shape: tuple[int, ...], order: str | None) -> str:
    """Which axis is the action's."""
    fits = [] if len(shape) != 3 or 0 in shape else [
        way for way, (first, second) in (("ASS", shape[1:]), ("SAS", shape[::2])) if first == second
    ]  # fmt: skip
    if not fits or (order is not None and order not in fits):
        expected = {"ASS": "[A, S, S]", "SAS": "[S, A, S]", None: "[A, S, S] or [S, A, S]"}[order]
        raise InputError(name, f"shape {list(shape)}", f"shape {expected}")
    if order is None and len(fits) > 1:
        raise InputError("order", f"none, for {name} of shape {list(shape)}", "ASS or SAS: the shape leaves both open")
    return order or fits[0]


def _slots(moves: Entries, states: int, actions: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Successors and probabilities [S, A, K], every row checked."""
    row = moves.state * actions + moves.action
    total = np.zeros(states * actions)
    probability_rows("transition", moves.value, sums=False)
    np.add.at(total, row, moves.value)
    if (bad := abs(total - 1) > ROW_TOLERANCE).any():
        s, a = divmod(int(bad.argmax()), actions)
        raise InputError(
            f"transition, state {s}, action {a}", f"a sum of {float(total[bad][0])!r}", f"1 within {ROW_TOLERANCE}"
        )
    slot = np.arange(len(row)) - np.searchsorted(row, row)
    index = np.zeros((states * actions, int(slot.max()) + 1), np.int64)
    prob = np.zeros(index.shape)
    index[row, slot], prob[row, slot] = moves.following, moves.value
    return index.reshape(states, actions, -1), prob.reshape(states, actions, -1)


def _rewards(
    reward: Any, moves: Entries, states: int, actions: int, order: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Expected rewards [S, A] and the actions that are offered."""
    shape = (states, actions)
    plain = None if _sparse(reward) or _by_action(reward) else _real("reward", reward)
    if plain is None or plain.ndim == 3:
        paid, sizes, _ = _entries("reward", reward, order)
        if sizes != shape:
            raise InputError("reward", f"{sizes[0]} states and {sizes[1]} actions", f"{states} and {actions}")
        keys, wanted = paid.key(*shape), moves.key(*shape)
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        found = np.where(keys[place] == wanted, paid.value[place], 0.0) if len(keys) else np.zeros(len(wanted))
        plain = np.zeros(shape)
        np.add.at(plain, (moves.state, moves.action), moves.value * finite("reward", found))
    elif plain.shape == (states,):
        plain = np.repeat(plain[:, None], actions, 1)
    elif plain.shape != shape:
        expected = f"shape [{states}], [{states}, {actions}], or that of transition"
        raise InputError("reward", f"shape {list(plain.shape)}", expected)
    offered = plain != -np.inf
    finite("reward", plain[offered])
    if not offered.any(-1).all():
        raise InputError(
            "reward", f"-inf for every action of state {int(offered.any(-1).argmin())}", "an action that is offered"
        )
    return np.where(offered, plain, 0.0), offered
