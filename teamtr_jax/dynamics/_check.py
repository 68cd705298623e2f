"""What the worlds that are known by tables share, and ask of their fields and arguments."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int
from numpy.typing import NDArray

from teamtr_jax.types import World, axes, floats, ints, same
from teamtr_jax.validation import InputError, concrete, finite, probability_rows, whole_number, within

__all__ = [
    "Table",
    "check_rows",
    "check_clock",
    "check_steps",
    "check_policy",
    "check_states",
    "check_actions",
    "check_draw",
]


class Table(World):
    """Base of the worlds that are known by a table of transitions: `Dense`, `Successors`."""

    discount: Any
    clock: Array | None
    horizon: int | None

    def time(self) -> Int[Array, " S"]:
        """Time step of each state, zeros when discounted."""
        return jnp.zeros(self.sizes[0], int) if self.clock is None else self.clock

    def _gamma(self) -> Array:
        if self.discount is None:
            raise InputError("discount", "None", "a discount, unless the world is the kernel of a Layered one")
        return self.discount


def check_rows(world: Table, name: str, values: NDArray[np.float64] | None) -> None:
    """Rows of transitions sum to one; where episodes end, to zero. And the discount is one of the form."""
    ends = world.horizon is not None or world.discount is None
    if values is not None:
        if ends:
            probability_rows(name, values, sums=False)
            values = np.where((values.sum(-1) == 0)[..., None], 1 / values.shape[-1], values)
        probability_rows(name, values)
    if world.discount is None:
        if world.horizon is not None:
            raise InputError("discount", "None", "1.0 in an episodic world")
        return
    axes("discount", world.discount, 0)
    gamma = np.asarray(world.discount) if type(world.discount) in (int, float) else concrete(world.discount)
    if gamma is None or gamma.dtype.kind not in "iuf":
        return
    inside = gamma == 1 if world.horizon is not None else (gamma >= 0) & (gamma < 1)
    if not inside.all():
        expected = "a discount in [0, 1)" if world.horizon is None else "1.0 in an episodic world"
        raise InputError("discount", float(gamma[~inside].flat[0]), expected)


def check_clock(world: Table) -> None:
    """An episodic world has a horizon and the time step of each state; a discounted one has neither."""
    if world.horizon is None:
        if world.clock is not None:
            raise InputError("clock", "an array", "none in a discounted world, or a horizon beside it")
        return
    horizon = whole_number("horizon", world.horizon, 1)
    if world.clock is None:
        raise InputError("clock", "None", "the time step of each state in an episodic world")
    shape = axes("clock", world.clock, 1)
    if shape is not None:
        same("clock", shape[-1:], world.sizes[:1], "the states of the world")
    ints("clock", world.clock, 0, horizon)


def check_steps(there: NDArray[np.bool_], later: NDArray[np.integer], clock: NDArray[np.integer]) -> None:
    """Successors that are `there` have the time step `later`, one after `clock`, that of the state."""
    wrong = there & (later != clock[..., :, None, None] + 1)
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        after = np.broadcast_to(later, wrong.shape)[where]
        found = f"step {after} after step {clock[..., None, None][(*where[:-2], 0, 0)]}"
        raise InputError("clock", f"{found} (state {where[-3]}, action {where[-2]})", "successors one step later")


def check_policy(sizes: tuple[int, int], policy: object, batch: tuple[int, ...] = ()) -> None:
    """A policy over the states of a world, for one world."""
    if batch:
        raise InputError(
            "dynamics", f"arrays with leading axes {list(batch)}", "one world; jax.vmap takes a batch of them"
        )
    shape = axes("policy", policy, 2)
    if shape is not None:
        same("policy", shape, sizes, "states and actions of the world")
        if (values := floats(policy)) is not None:
            probability_rows("policy", values)


def check_states(sizes: tuple[int, int], **tables: object) -> None:
    """Arrays with one number for each state."""
    for name, table in tables.items():
        shape = axes(name, table, 1)
        if shape is not None:
            same(name, shape, sizes[:1], "the states of the world")
            if (values := floats(table)) is not None:
                finite(name, values)


def check_actions(sizes: tuple[int, int], **tables: object) -> None:
    """Arrays with one number for each state and action."""
    for name, table in tables.items():
        shape = axes(name, table, 2)
        if shape is not None:
            same(name, shape, sizes, "states and actions of the world")
            if (values := floats(table)) is not None:
                finite(name, values)


def check_draw(sizes: tuple[int, int], state: object, action: object, uniform: object) -> None:
    """States from −1 (the end) on, actions, and numbers in [0, 1)."""
    at = ints("state", state, -1, sizes[0])
    taken = ints("action", action, 0, sizes[1]) if at is None or (at >= 0).all() else None
    if at is not None and taken is None and (chosen := concrete(action)) is not None:
        ints("action", np.where(at < 0, 0, chosen), 0, sizes[1])
    within("uniform", floats(uniform), 0.0, below=1.0, expected="numbers in [0, 1)")
