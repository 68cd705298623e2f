"""Teams from Gymnasium's tables: any environment that exposes `P[s][a] = [(prob, next, reward, terminated), …]`."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from numbers import Real
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Successors
from teamtr_jax.files import reason
from teamtr_jax.sizes import fitting
from teamtr_jax.types import Team
from teamtr_jax.validation import ROW_TOLERANCE, InputError, discount_factor, one_of, real_number, shown, whole_number

__all__ = ["gymnasium_team", "offered_actions", "Table", "read_table", "team_of_table", "Router", "ROUTERS"]

Router = Literal["round_robin", "random"]
ROUTERS: tuple[Router, ...] = ("round_robin", "random")

HARMLESS = ("PassiveEnvChecker", "OrderEnforcing", "TimeLimit")
"""Wrappers that leave the table as it is, but for the last one's end of an episode."""

NO_OPTION = ("id", "max_episode_steps", "disable_env_checker", "render_mode")
"""Arguments of `gymnasium.make` that say nothing about the table."""

ENTRY = "(probability, next state, reward, terminated)"
TRIED = 300
"""Steps of the environment itself that are compared with its table."""


class Table(NamedTuple):
    """The table of an environment, checked: `X` states and one more, the end; `A` actions; `K` successors."""

    successors: NDArray[np.int64]  #: [X+1, A, K]: the state that follows; `X` after a terminated transition
    prob: NDArray[np.float64]  #: [X+1, A, K]
    reward: NDArray[np.float64]  #: [X+1, A], expected
    offered: NDArray[np.bool_]  #: [X+1, A]: which actions there are; all of them at the end, where none does anything
    initial: NDArray[np.float64]  #: [X+1]
    time_limit: int | None  #: steps of a `TimeLimit`, which the table knows nothing of


def gymnasium_team(
    environment: str,
    agents: int,
    router: str = "round_robin",
    discount: float = 0.99,
    options: Mapping[str, Any] | None = None,
    drop_time_limit: bool = False,
) -> Team:
    """A turn-taking team in a tabular environment: state = (environment state, who speaks), index `s·n + speaker`.

    After a `terminated` transition the team sits in one more environment state that never pays and never ends, the turn
    still going round; a state without actions is such an end too. `round_robin`: agent 0 starts and the next speaker is
    `j+1 mod n`. `random`: every speaker, the first included, is drawn uniformly. The environment does not see who speaks, so
    the optimal return of the team is the environment's own.

    An action that a state does not offer (`offered_actions`) has the row of the first action that it does offer: whatever
    probability a policy gives it, the team is one of the environment, and no maximum, span or bound is another one.

    Args:
      environment: a name that `gymnasium.make` takes, with or without a version.
      router: who speaks next, `round_robin` or `random`.
      discount: `γ` in [0, 1).
      options: of the environment, such as ``{"is_slippery": False}``.
      drop_time_limit: True where it is known that the environment's `TimeLimit` is not in its table: no warning says so.

    Raises:
      InputError: unknown environment or option, one without a table or with dynamics that are not in it, a table with rows
        that are no probabilities, states or actions that do not exist, rewards that are not finite (named by state, action
        and entry); bad `agents`, `router` or `discount`; more memory needed than there is; gymnasium missing.

    Example:
      >>> team = gymnasium_team("FrozenLake", 2, options={"is_slippery": False}, drop_time_limit=True)
      >>> team.reward.shape
      (34, 4)
    """
    agents = whole_number("agents", agents, 1)
    one_of("router", router, ROUTERS)
    gamma = discount_factor("discount", real_number("discount", discount))
    table = read_table(environment, options)
    team = team_of_table(table, agents, router, gamma)
    if table.time_limit is not None and not drop_time_limit:
        warn_of_time_limit(environment, table.time_limit)
    return team


def offered_actions(environment: str, agents: int, options: Mapping[str, Any] | None = None) -> NDArray[np.bool_]:
    """Which actions each state of `gymnasium_team` offers, ``[S, A]``; every state offers one at least.

    Raises:
      InputError: as `gymnasium_team`.

    Example:
      >>> offered = offered_actions("FrozenLake", 2)
      >>> policy = offered / offered.sum(-1, keepdims=True)
      >>> policy.shape
      (34, 4)
    """
    return np.repeat(read_table(environment, options).offered, whole_number("agents", agents, 1), 0)


def warn_of_time_limit(environment: str, steps: int) -> None:
    """Say that a `TimeLimit` is dropped."""
    warnings.warn(
        f"{shown(environment)}: its TimeLimit of {steps} steps is no part of its table and is dropped", stacklevel=3
    )


def team_of_table(table: Table, agents: int, router: str, discount: float) -> Team:
    """The team of `gymnasium_team` from a table.

    Raises:
      InputError: more memory needed than there is.
    """
    index, prob, reward = table.successors, table.prob, table.reward
    n_states, n_actions, slots = index.shape
    spread = router == "random"

    def needed(n: int) -> int:
        """Indices and probabilities, on the host and on the device; rewards and two policies."""
        return 8 * n_states * n * n_actions * (4 * slots * (n if spread else 1) + 3)

    fitting("agents", agents, needed, "tables of successors")
    speakers = np.arange(agents)
    if spread:
        team_index = (index[..., None] * agents + speakers).reshape(n_states, 1, n_actions, -1)
        team_prob = np.repeat(prob / agents, agents, -1)[:, None]
        team_index, team_prob = (np.repeat(x, agents, 1) for x in (team_index, team_prob))
        first = np.full(agents, 1 / agents)
    else:
        following = ((speakers + 1) % agents)[None, :, None, None]
        team_index = index[:, None] * agents + following
        team_prob = np.broadcast_to(prob[:, None], team_index.shape)
        first = np.where(speakers == 0, 1.0, 0.0)
    states = n_states * agents
    return Team(
        Successors(
            jnp.asarray(team_index.reshape(states, n_actions, -1)),
            jnp.asarray(team_prob.reshape(states, n_actions, -1)),
            jnp.asarray(discount),
        ),
        jnp.asarray(np.repeat(reward, agents, 0)),
        jnp.asarray((table.initial[:, None] * first).ravel()),
        jnp.asarray(np.tile(speakers, n_states)),
        agents,
    )


# ------------------------------------------------------------------------------------------------------------ environments


def read_table(environment: str, options: Mapping[str, Any] | None = None) -> Table:
    """The table of an environment, every entry checked.

    Raises:
      InputError: as `gymnasium_team`.
    """
    if not isinstance(options, Mapping | None):
        raise InputError("options", repr(options), "a mapping from names to values")
    options = dict(options or {})
    wrapped = _make(environment, options)
    limit = _time_limit(environment, wrapped)
    made = wrapped.unwrapped
    if getattr(made, "fickle_passenger", False):
        raise InputError("fickle_passenger", "True: step() moves the destination, the table P does not", "False")
    table = _checked(environment, made, limit)
    again = _checked(environment, _make(environment, options).unwrapped, limit)
    if not all(np.array_equal(x, y) for x, y in zip(table[:-1], again[:-1], strict=True)):
        raise InputError("ENV", f"{environment!r} with another table each time it is made", "one table")
    return table


def _make(environment: str, options: Mapping[str, Any]) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise InputError("gymnasium", "not installed", "pip install 'teamtr-jax[gym]'") from error

    def make(**settings: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name without a version is meant: take the installed one
            return gymnasium.make(environment, disable_env_checker=True, **settings)

    if not isinstance(environment, str):
        raise InputError("ENV", repr(environment), "the name of an installed environment")
    for name in options:
        if not isinstance(name, str) or name in NO_OPTION:
            raise InputError(f"option {name}", "no option of the environment's table", "another name")
    try:
        made = make(**options)
    except (Exception, SystemExit) as error:  # whatever an environment of somebody else's raises
        text = (str(error).splitlines() or [type(error).__name__])[0]
        parameters = _defaults(make) if options else {}
        for name, value in options.items():
            if isinstance(error, TypeError) and f"unexpected keyword argument '{name}'" in text:
                expected = "one of " + ", ".join(parameters) if parameters else "an option that it takes"
                raise InputError(f"option {name}", f"no such option of {environment}", expected) from error
            if name in parameters:
                _same_type(f"option {name}", value, parameters[name].default)
        with_options = f" with {options}" if options else ""
        expected = "the name of an installed environment" + (" and options that it takes" if options else "")
        raise InputError("ENV", f"{environment!r}{with_options} ({text})", expected) from error
    parameters = _parameters(made.unwrapped)
    for name, value in options.items():
        if name in parameters:
            _same_type(f"option {name}", value, parameters[name].default)
    return made


def _parameters(made: Any) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(type(made).__init__).parameters)
    return {name: found[name] for name in list(found)[1:] if name not in NO_OPTION}


def _defaults(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return _parameters(make().unwrapped)
    except Exception:  # it cannot be made without options either
        return {}


def _same_type(name: str, value: object, default: object) -> None:
    """Refuse an option of another type than its default, which Python would take for true, or for a number."""
    if isinstance(default, bool):
        if not isinstance(value, bool | np.bool_):
            raise InputError(name, repr(value), "True or False")
    elif isinstance(default, int):
        whole_number(name, value, -(2**63), 2**63)
    elif isinstance(default, float):
        real_number(name, value)
    elif isinstance(default, str):
        if value is not None and not isinstance(value, str):
            raise InputError(name, repr(value), f"a text such as {default!r}")
    elif isinstance(default, tuple | list) and not isinstance(value, tuple | list):
        raise InputError(name, repr(value), f"a list such as {default!r}")


def _time_limit(environment: str, wrapped: Any) -> int | None:
    """The steps of a `TimeLimit`; any other wrapper is refused, for the table knows nothing of it."""
    import gymnasium

    limit = None
    while isinstance(wrapped, gymnasium.Wrapper):
        kind = type(wrapped)
        if kind.__name__ not in HARMLESS or not kind.__module__.startswith("gymnasium.wrappers"):
            raise InputError(
                "ENV", f"{environment!r} wrapped in {kind.__name__}", "no wrapper but TimeLimit: only the table is read"
            )
        if kind.__name__ == "TimeLimit":
            steps = int(wrapped._max_episode_steps)  # pyright: ignore[reportAttributeAccessIssue]
            limit = steps if limit is None else min(limit, steps)
        wrapped = wrapped.env
    return limit


# ------------------------------------------------------------------------------------------------------------------ tables


def _rows(name: str, table: Any, expected: str) -> dict[Any, Any]:
    """A mapping, or a list whose positions are the keys."""
    if isinstance(table, Mapping):
        return dict(table)
    if isinstance(table, list | tuple):
        return dict(enumerate(table))
    raise InputError(name, repr(table), expected)


def _numbered(keys: list[Any]) -> bool:
    return all(isinstance(key, int | np.integer) and not isinstance(key, bool) for key in keys)


def _positions(name: str, keys: list[Any], space: Any) -> dict[Any, int]:
    """Where each state or action goes: numbers in their order, names in the order of the table.

    Numbers must be those of a `Discrete` space, where there is one.
    """
    numbered = _numbered(keys)
    keys = sorted(keys) if numbered else keys
    if numbered and (size := getattr(space, "n", None)) is not None:
        first = int(getattr(space, "start", 0))
        for key in keys:
            if not first <= key < first + size:
                raise InputError(f"P, {name} {key}", "in the table", f"numbers from {first} to {first + size - 1}")
    return {key: position for position, key in enumerate(keys)}


def _checked(environment: str, made: Any, limit: int | None) -> Table:
    try:
        table, start = getattr(made, "P", None), getattr(made, "initial_state_distrib", None)
    except Exception as error:  # a property of somebody else's
        raise InputError(
            "ENV", f"{environment!r} ({reason(error)})", "a table in P and initial_state_distrib"
        ) from error
    if not isinstance(table, Mapping | list | tuple) or start is None:
        expected = "an environment that exposes its table (attributes P and initial_state_distrib), such as FrozenLake"
        raise InputError("ENV", f"{environment!r} without a table", expected)
    rows = {s: _rows(f"P, state {s}", row, "its actions") for s, row in _rows("P", table, "states").items()}
    if not any(rows.values()):
        raise InputError("P", f"{len(rows)} states without actions", "a state with an action at least")
    space = getattr(made, "observation_space", None)
    states = _positions("state", list(rows), space)
    if (size := getattr(space, "n", None)) is not None and size != len(rows):
        first = int(getattr(space, "start", 0))
        lost = next((s for s in range(first, first + size) if s not in rows), None) if _numbered(list(rows)) else None
        found = f"{len(rows)} states" if lost is None else f"no state {lost}"
        raise InputError("P", found, f"the {size} states of the observation space")
    names = list(dict.fromkeys(a for row in rows.values() for a in row))
    actions = _positions("action", names, getattr(made, "action_space", None))

    numbers = _numbered(list(states))
    entries = {
        (s, a): _entries(f"P, state {s}, action {a}", row, states, numbers)
        for s, row_of in rows.items()
        for a, row in row_of.items()
    }
    slots = max(len(row) for row in entries.values())
    end = len(states)
    fitting("P", slots, lambda k: 16 * (end + 1) * len(actions) * k, "successors of a state and action")
    index = np.full((end + 1, len(actions), slots), end)
    prob = np.zeros((end + 1, len(actions), slots))
    prob[..., 0] = 1.0  # without an entry: the end
    reward = np.zeros((end + 1, len(actions)))
    offered = np.zeros((end + 1, len(actions)), bool)
    for (s, a), row in entries.items():
        at = states[s], actions[a]
        prob[at] = 0.0
        for k, (p, following, pay, terminated) in enumerate(row):
            index[(*at, k)] = end if terminated else following
            prob[(*at, k)] = p
            reward[at] += p * pay
        if not math.isfinite(reward[at]):
            raise InputError(f"P, state {s}, action {a}", f"an expected reward of {reward[at]}", "a finite one")
        offered[at] = True
    over = ~offered.any(-1)
    first = offered.argmax(-1)[:, None]
    for array in (index, prob, reward):
        other = first if array.ndim == 2 else first[..., None]
        missing = offered if array.ndim == 2 else offered[..., None]
        array[:] = np.where(missing, array, np.take_along_axis(array, other, 1))
    offered[over] = True
    initial = _start(start, states, {s for s, row in rows.items() if not row})
    _tried(environment, made, states, {key: rows[key[0]][key[1]] for key in entries}, initial)
    return Table(index, prob, reward, offered, np.append(initial, 0.0), limit)


def _entries(name: str, row: Any, states: Mapping[Any, int], numbers: bool) -> list[tuple[float, int, float, bool]]:
    """The entries of one row that can happen, with the position of the state that follows."""
    if not isinstance(row, list | tuple):
        raise InputError(name, repr(row), f"a list of {ENTRY}")
    out, total = [], []
    for k, entry in enumerate(row):
        at = f"{name}, entry {k}"
        if not isinstance(entry, list | tuple) or len(entry) != 4:
            raise InputError(at, repr(entry), ENTRY)
        p, following, pay, terminated = entry
        total.append(_number(f"{at}, probability", p))
        if not 0 <= total[-1] <= 1 + ROW_TOLERANCE:
            raise InputError(f"{at}, probability", p, "a number from 0 to 1")
        if total[-1] == 0:
            continue
        if not isinstance(terminated, bool | np.bool_):
            raise InputError(f"{at}, terminated", repr(terminated), "True or False")
        known = isinstance(following, Hashable) and following in states and (not numbers or _numbered([following]))
        if not known and not (terminated and following is None):
            raise InputError(f"{at}, next state", repr(following), "a state of P")
        position = len(states) if following is None else states[following]
        out.append((total[-1], position, _number(f"{at}, reward", pay), bool(terminated)))
    if abs(math.fsum(total) - 1) > ROW_TOLERANCE:
        single = any(isinstance(entry[0], np.floating) and entry[0].dtype != np.float64 for entry in row)
        expected = f"a sum of 1 within {ROW_TOLERANCE}" + (", of float64 numbers" if single else "")
        expected += "" if row else " (an action that is not offered is left out)"
        raise InputError(name, f"probabilities that sum to {math.fsum(total)!r}", expected)
    return out


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real | np.number):
        raise InputError(name, repr(value), "a finite number")
    return real_number(name, value)


def _start(start: Any, states: Mapping[Any, int], ends: set[Any]) -> NDArray[np.float64]:
    """The law of the first state, by name, or as an array whose position `i` is state number `i`."""
    name, out = "initial_state_distrib", np.zeros(len(states))
    if not isinstance(start, Mapping):
        try:
            array = np.asarray(start)
            array = array.astype(np.float64, casting="same_kind" if array.dtype.kind in "biufc" else "unsafe")
        except (TypeError, ValueError) as error:
            raise InputError(name, repr(start), "one probability for each state") from error
        if not _numbered(list(states)):
            raise InputError(name, "an array, for states with names", "a mapping from the names to probabilities")
        length = int(max(states)) + 1
        if array.shape != (length,):
            raise InputError(name, f"shape {list(array.shape)}", f"shape [{length}]: position i is state i")
        start = dict(enumerate(array.tolist()))
    for s, value in start.items():
        p = _number(f"{name}, state {s}", value)
        if not 0 <= p <= 1 + ROW_TOLERANCE:
            raise InputError(f"{name}, state {s}", p, "a probability from 0 to 1")
        if p == 0:
            continue
        if s not in states:
            raise InputError(f"{name}, state {s}", f"{p}, for a state that is not in P", "0")
        if s in ends:
            raise InputError(f"{name}, state {s}", f"{p}, for a state without actions", "0")
        out[states[s]] = p
    if abs(math.fsum(out) - 1) > ROW_TOLERANCE:
        raise InputError(name, f"a sum of {math.fsum(out)!r}", f"1 within {ROW_TOLERANCE}")
    return out


def _tried(
    environment: str,
    made: Any,
    states: Mapping[Any, int],
    rows: Mapping[tuple[Any, Any], Any],
    initial: NDArray[np.float64],
) -> None:
    """Refuse an environment that, moved a little at random, does what its table says is impossible.

    One that cannot be moved, or shows something else than the state, is taken by its table alone.
    """
    import gymnasium

    if gymnasium.Env.step in (type(made).step,) or gymnasium.Env.reset in (type(made).reset,):
        return
    rng = np.random.default_rng(0)
    numbers = _numbered(list(states))
    choices: dict[Any, list[Any]] = {s: [] for s in states}
    for s, a in rows:
        choices[s].append(a)
    state: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(TRIED):
            possible, found = True, ""
            try:
                if state is None or not choices[state]:
                    state = made.reset(seed=step)[0]
                    if numbers != _numbered([state]):
                        return
                    found = f"reset() begins in state {state}"
                    possible = state in states and bool(initial[states[state]] > 0)
                else:
                    before, action = state, choices[state][rng.integers(len(choices[state]))]
                    state, pay, terminated = made.step(action)[:3]
                    if numbers != _numbered([state]):
                        return
                    found = f"step() from state {before} by action {action} gives {state}, {pay}, {bool(terminated)}"
                    possible = any(
                        p > 0 and state == t and bool(terminated) == bool(over) and math.isclose(pay, r, abs_tol=1e-9)
                        for p, t, r, over in rows[before, action]
                    )
                    state = None if terminated else state
            except Exception:  # whatever an environment of somebody else's raises: it cannot be compared
                return
            if not possible:
                expected = "what P and initial_state_distrib hold: nothing else is read"
                raise InputError("ENV", f"{environment!r} whose {found}", expected)
