"""The one driver: `run_stage(backend, state, order, schedule)`.

A backend is a handful of functions. It never decides when to sample or who is next; the schedule and the order do. It never
keeps books; the driver does. Exact tables are in `teamtr_jax.tabular`, tables by samples in `teamtr_jax.sampled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from teamtr_jax.path_shift import Since
from teamtr_jax.schedules import Order, Schedule, fixed, fresh
from teamtr_jax.sharing import Sharing, apart
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError, whole_number

__all__ = ["Backend", "run_stage"]

Numbers = Mapping[str, Any]


class Backend(NamedTuple):
    """What a stage is run on. `state` is whatever an update changes: tables, parameters of networks.

    With `batch` ``()`` agents are Python integers and every diagnostic a number. With ``(N,)`` the state carries a leading axis
    of N instances; agents are ``[N]`` integer arrays and so are the diagnostics.
    """

    agents: int  #: without `sharing` a stage has so many updates
    rollout: Callable[[Any, Array | None], Any]  #: (state, key) → rollouts of the team as it stands
    estimate: Callable[[Any, Any, Any, Schedule], Any]  #: (state, rollouts, agent, schedule) → what the update needs
    update: Callable[[Any, Any, Any], tuple[Any, Numbers]]
    """(state, estimate, agent) → new state, diagnostics; `surrogate` and `kl` on the rollouts in use are among them."""
    cost: int = 0  #: rollouts in one set
    batch: tuple[int, ...] = ()
    predict: Callable[[Any, Any], Any] | None = None  #: (state, rollouts) → predicted gain of each update ``[..., n]``
    certify: Callable[[Any, Any, Any, Any], Numbers] | None = None
    """(state before, state after, rollouts, agent) → what a finite sample certifies of the update, or nothing."""
    audit: Callable[[list[Any], list[UpdateRecord], Schedule], Numbers] | None = None
    """(states 0 … n, records, schedule) → what is known exactly of every update, ``[n, ...]``, in the order of the records."""
    sharing: Sharing | None = None
    """Who plays with whose parameters; `None`: everybody with its own. A stage has an update for each of its `leaders`: all
    agents, or where sharers are updated jointly the first of each set of parameters. `agent` is always an agent."""


def run_stage(
    backend: Backend,
    state: Any,
    order: Order | Sequence[int],
    schedule: Schedule = fresh,
    key: Array | None = None,
    stage: int = 0,
    budget: int | None = None,
) -> tuple[Any, list[UpdateRecord]]:
    """One stage: as many updates as there are agents, each on rollouts as recent as `schedule` says.

    Of agents that share parameters an update moves all; updated jointly they have one update (`Backend.sharing`).

    Args:
      order: who is next (`teamtr_jax.schedules`), or a permutation of the agents; with joint updates of the sets of parameters.
      key: a PRNG key, split once for each set of rollouts and each choice of an agent; exact backends need none.
      stage: the number written into the records.
      budget: the most rollouts that the stage may collect; counted and enforced.

    Returns:
      The updated state and one record per update, with the exact numbers of the backend's audit where it has one.

    Raises:
      InputError: if `order` is not a permutation of the agents or names one that is not there, a number is out of range, or
        the schedule may ask for more rollouts than the budget has.
      ArithmeticError: as raised by the backend's update; names the stage and the update.
    """
    batch, sharing = backend.batch, _sharing(backend)
    leaders, moves, credits = np.array(sharing.leaders), sharing.moves, sharing.credits
    n = leaders.size
    whole_number("stage", stage, 0)
    choose = _order(order, n)
    _require_budget(backend, schedule, budget)
    states: list[Any] = [state]
    records: list[UpdateRecord] = []
    waiting = np.ones((*batch, n), bool)
    use = _InUse(None, np.zeros(batch, int), np.zeros((*batch, sharing.agents), bool), np.zeros(batch))
    collected = np.zeros(batch, int)
    for update in range(n):
        again = np.broadcast_to(np.asarray(update == 0 or schedule.resample(update, records), bool), batch)
        key, draw, choice = (None, None, None) if key is None else jax.random.split(key, 3)
        writer = max(update - schedule.lag, 0)
        drawn = backend.rollout(states[writer], draw) if again.any() else None
        use = use.renewed(again, writer, drawn).caught_up(again, records[writer:])
        collected = collected + np.where(again, backend.cost, 0)
        _require_within(budget, collected, schedule)
        asked = choose(waiting, lambda state=state, data=use.data: _predicted(backend, state, data), choice)
        chosen = _agents(np.asarray(asked), n, batch)
        np.put_along_axis(waiting, chosen[..., None], False, -1)
        agent = leaders[chosen]
        who: Any = agent if batch else int(agent)
        estimate = backend.estimate(state, use.data, who, schedule)
        try:
            new, info = backend.update(state, estimate, who)
        except ArithmeticError as error:
            raise ArithmeticError(f"stage {stage}, update {update}: {error}") from error
        info = dict(info) | dict({} if backend.certify is None else backend.certify(state, new, use.data, who))
        kl = info.pop("kl")
        use = use.moved_on(moves[agent], kl)
        records.append(
            UpdateRecord(
                stage=stage,
                update=update,
                agent=who,
                resampled=again if batch else bool(again),
                surrogate=info.pop("surrogate"),
                kl=kl,
                objective_before=info.pop("objective_before", None),
                rollouts=np.where(again, backend.cost, 0) if batch else backend.cost * bool(again),
                source=use.source if batch else int(use.source),
                path_kl=use.path_kl if batch else float(use.path_kl),
                info=info,
                moved=moves[agent],
                credited=credits[agent],
            )
        )
        state = new
        states.append(state)
    return state, _audited(backend, states, records, schedule)


def _audited(
    backend: Backend, states: list[Any], records: list[UpdateRecord], schedule: Schedule
) -> list[UpdateRecord]:
    """The records with what is known exactly of each update, where the backend says it."""
    if backend.audit is None:
        return records
    exact = backend.audit(states, records, schedule)
    return [
        record._replace(exact={name: value[i] for name, value in exact.items()}) for i, record in enumerate(records)
    ]


def _sharing(backend: Backend) -> Sharing:
    """The backend's, or that of agents with parameters of their own."""
    sharing = apart(backend.agents) if backend.sharing is None else backend.sharing
    if sharing.agents != backend.agents:
        raise InputError("sharing", f"{sharing.agents} agents", f"{backend.agents}, those of the backend")
    return sharing


def _order(order: Order | Sequence[int], agents: int) -> Order:
    if callable(order):
        return order
    if len(order) != agents:
        raise InputError("order", list(order), f"a permutation of {agents} agents")
    return fixed(order)


def _require_budget(backend: Backend, schedule: Schedule, budget: int | None) -> None:
    """Refuse a budget that the schedule may exceed."""
    if budget is None:
        return
    sets = schedule.draws(len(_sharing(backend).leaders))
    if whole_number("budget", budget, 0) < (needed := sets * backend.cost):
        raise InputError("budget", budget, f"at least {needed}: {sets} sets of {backend.cost} rollouts")


def _require_within(budget: int | None, collected: Any, schedule: Schedule) -> None:
    """Refuse a schedule that has asked for more than its `draws` said."""
    if budget is not None and (collected > budget).any():
        found = f"{collected.max()} rollouts"
        raise InputError(f"schedule {schedule.name}", found, f"at most the budget, {budget}")


class _InUse(NamedTuple):
    """The rollouts in use and what has happened since they were collected; over a batch one of each for every instance."""

    data: Any
    source: NDArray[np.int64]  #: number of updates before they were collected
    moved: NDArray[np.bool_]  #: [..., n], who was updated since
    path_kl: NDArray[np.float64]  #: sum of the KL of these updates

    def renewed(self, again: NDArray[np.bool_], update: int, drawn: Any) -> _InUse:
        """With the rollouts that were `drawn` before this update, where they were."""
        data = drawn if again.all() else _select(again, drawn, self.data) if again.any() else self.data
        source, path_kl = np.where(again, update, self.source), np.where(again, 0.0, self.path_kl)
        return _InUse(data, source, self.moved & ~again[..., None], path_kl)

    def caught_up(self, again: NDArray[np.bool_], since: Sequence[UpdateRecord]) -> _InUse:
        """With the updates since those rollouts, where they are of an earlier team; without a lag there are none."""
        use = self
        for record in since:
            moved = use.moved_on(np.asarray(record.moved), record.kl)
            path_kl = np.where(again, moved.path_kl, use.path_kl)
            use = use._replace(moved=np.where(again[..., None], moved.moved, use.moved), path_kl=path_kl)
        return use

    def moved_on(self, moves: NDArray[np.bool_], kl: Any) -> _InUse:
        """After an update that moves some agents, ``[..., n]``. The KL adds up over different agents only."""
        since = Since(self.moved, self.path_kl).moved_on(moves, kl)
        return self._replace(moved=since.moved, path_kl=since.path_kl)


def _agents(asked: NDArray[Any], n: int, batch: tuple[int, ...]) -> NDArray[np.int64]:
    if asked.shape != batch or not np.issubdtype(asked.dtype, np.integer) or not ((asked >= 0) & (asked < n)).all():
        found = f"{asked.tolist()} ({asked.dtype})"
        raise InputError(
            "order", found, f"an agent, 0 … {n - 1}" + (f", for each of the {batch[0]} teams" if batch else "")
        )
    return asked.astype(np.int64)


def _select(flags: NDArray[np.bool_], new: Any, old: Any) -> Any:
    """New rollouts where `flags`, old ones elsewhere; every array has the batch as its leading axes."""

    def choose(x: Array, y: Array) -> Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        return jnp.where(flags.reshape(flags.shape + (1,) * (x.ndim - flags.ndim)), x, y)

    return jax.tree.map(choose, new, old)


def _predicted(backend: Backend, state: Any, data: Any) -> Any:
    if backend.predict is None:
        raise InputError("order", "one that asks for predicted gains", "a backend with `predict`")
    return backend.predict(state, data)
