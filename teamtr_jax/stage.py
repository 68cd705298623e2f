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

from teamtr_jax.schedules import Order, Schedule, fixed, fresh
from teamtr_jax.types import UpdateRecord
from teamtr_jax.validation import InputError, whole_number

__all__ = ["Backend", "run_stage"]

Numbers = Mapping[str, Any]


class Backend(NamedTuple):
    """What a stage is run on. `state` is whatever an update changes: tables, parameters of networks.

    With `batch` ``()`` agents are Python integers and every diagnostic a number. With ``(N,)`` the state carries a leading axis
    of N instances; agents are ``[N]`` integer arrays and so are the diagnostics.
    """

    agents: int
    rollout: Callable[[Any, Array | None], Any]  #: (state, key) → rollouts of the team as it stands
    estimate: Callable[[Any, Any, Any, Schedule], Any]  #: (state, rollouts, agent, schedule) → what the update needs
    update: Callable[[Any, Any, Any], tuple[Any, Numbers]]
    """(state, estimate, agent) → new state, diagnostics; `surrogate` and `kl` on the rollouts in use are among them."""
    cost: int = 0  #: rollouts in one set
    batch: tuple[int, ...] = ()
    predict: Callable[[Any, Any], Any] | None = None  #: (state, rollouts) → predicted gain of each agent ``[..., n]``
    certify: Callable[[Any, Any, Any, Any], Numbers] | None = None
    """(state before, state after, rollouts, agent) → what a finite sample certifies of the update, or nothing."""
    audit: Callable[[list[Any], list[UpdateRecord], Schedule], Numbers] | None = None
    """(states 0 … n, records, schedule) → what is known exactly of every update, ``[n, ...]``, in the order of the records."""


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

    Args:
      order: who is next (`teamtr_jax.schedules`), or a permutation of the agents.
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
    n, batch = backend.agents, backend.batch
    whole_number("stage", stage, 0)
    if not callable(order):
        if len(order) != n:
            raise InputError("order", list(order), f"a permutation of {n} agents")
        order = fixed(order)
    if budget is not None:
        whole_number("budget", budget, 0)
    needed = schedule.draws(n) * backend.cost
    if budget is not None and needed > budget:
        raise InputError("budget", budget, f"at least {needed}: {schedule.draws(n)} sets of {backend.cost} rollouts")

    states: list[Any] = [state]
    records: list[UpdateRecord] = []
    waiting = np.ones((*batch, n), bool)
    data: Any = None
    moved = np.zeros((*batch, n), bool)  # since the rollouts in use
    source, collected, path_kl = np.zeros(batch, int), np.zeros(batch, int), np.zeros(batch)
    for update in range(n):
        again = np.broadcast_to(np.asarray(update == 0 or schedule.resample(update, records), bool), batch)
        key, draw, choice = (None, None, None) if key is None else jax.random.split(key, 3)
        if again.any():
            drawn = backend.rollout(state, draw)
            data = drawn if again.all() else _select(again, drawn, data)
        source, path_kl = np.where(again, update, source), np.where(again, 0.0, path_kl)
        moved &= ~again[..., None]
        collected = collected + np.where(again, backend.cost, 0)
        if budget is not None and (collected > budget).any():
            raise InputError(
                f"schedule {schedule.name}", f"{collected.max()} rollouts", f"at most the budget, {budget}"
            )

        asked = order(waiting, lambda state=state, data=data: _predicted(backend, state, data), choice)
        agent = _agents(np.asarray(asked), n, batch)
        np.put_along_axis(waiting, agent[..., None], False, -1)
        who: Any = agent if batch else int(agent)
        before = state
        estimate = backend.estimate(state, data, who, schedule)
        try:
            state, info = backend.update(state, estimate, who)
        except ArithmeticError as error:
            raise ArithmeticError(f"stage {stage}, update {update}: {error}") from error
        info = dict(info)
        if backend.certify is not None:
            info |= backend.certify(before, state, data, who)
        kl = info.pop("kl")
        twice = np.take_along_axis(moved, agent[..., None], -1)[..., 0]  # the KL adds up over different agents only
        path_kl = np.where(twice, np.inf, path_kl + np.asarray(kl))
        np.put_along_axis(moved, agent[..., None], True, -1)
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
                source=source if batch else int(source),
                path_kl=path_kl if batch else float(path_kl),
                info=info,
            )
        )
        states.append(state)
    if backend.audit is not None:
        exact = backend.audit(states, records, schedule)
        records = [
            record._replace(exact={name: value[i] for name, value in exact.items()}) for i, record in enumerate(records)
        ]
    return state, records


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
