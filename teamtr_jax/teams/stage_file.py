"""Stage files: reading with every check, writing whole or not at all (schema 1, docs/stage-files.md)."""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from teamtr_jax.dynamics import Dense, Layered, Successors
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import (
    InputError,
    discount_factor,
    finite,
    integers,
    permutation,
    probability_rows,
    real_table,
    shaped,
)

__all__ = ["SCHEMA", "read_stage", "write_stage", "stage_from_tables"]

SCHEMA = 1
KEYS = frozenset(
    "schema transition successor_index successor_prob reward initial discount horizon active factors current target "
    "agents order".split()
)


def read_stage(path: str | Path) -> Stage:
    """Read and check a stage file. Object arrays are never unpickled, rows never renormalised.

    Raises:
      InputError: names the key (or the file), what was found and what was expected.
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb"):
                raise InputError("file", "not an npz archive", "an .npz file (docs/stage-files.md)")
        with np.load(path, allow_pickle=False) as archive:
            tables: dict[str, NDArray[np.generic]] = {}
            for key in archive.files:
                if key not in KEYS:
                    warnings.warn(f"{path}: ignored the unknown key {key!r}", stacklevel=2)
                    continue
                try:
                    tables[key] = archive[key]
                except ValueError as error:
                    raise InputError(key, "an object array", "numbers (nothing is unpickled)") from error
    except OSError as error:
        raise InputError("file", error.strerror or str(error), "a readable .npz file") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError("file", f"a damaged archive ({error})", "an .npz file") from error
    return stage_from_tables(tables)


def _one_of(tables: dict[str, NDArray[np.generic]], first: str, second: str) -> str:
    present = [key for key in (first, second) if key in tables]
    if len(present) != 1:
        found = "both" if present else "neither"
        raise InputError(f"{first}, {second}", found, "exactly one of the two")
    return present[0]


def _needed(tables: dict[str, NDArray[np.generic]], *keys: str) -> None:
    for key in keys:
        if key not in tables:
            raise InputError(key, "no such key", "this key in every stage file of this kind")


def _scalar_int(tables: dict[str, NDArray[np.generic]], key: str, low: int) -> int:
    value = tables[key]
    if value.ndim or not np.issubdtype(value.dtype, np.integer) or int(value) < low:
        found = value.tolist() if value.size < 9 else f"shape {list(value.shape)}"
        raise InputError(key, f"{found} ({value.dtype})", f"one integer, at least {low}")
    return int(value)


def stage_from_tables(tables: dict[str, NDArray[np.generic]]) -> Stage:
    """The stage of a stage file's arrays, every one of them checked first.

    Raises:
      InputError: names the key, what was found and what was expected.
    """
    if "schema" in tables and _scalar_int(tables, "schema", 0) != SCHEMA:
        raise InputError("schema", int(tables["schema"]), f"schema {SCHEMA}")
    form = _one_of(tables, "discount", "horizon")
    horizon = _scalar_int(tables, "horizon", 1) if form == "horizon" else None
    discount = discount_factor("discount", tables["discount"]) if form == "discount" else None
    world = _one_of(
        {("successor_index" if k in ("successor_index", "successor_prob") else k): v for k, v in tables.items()},
        "transition",
        "successor_index",
    )
    protocol = _one_of(tables, "active", "factors")
    _needed(tables, "reward", "initial", "current", "target")

    initial = probability_rows("initial", real_table("initial", tables["initial"]))
    states = shaped("initial", initial, ("S",))["S"]
    reward = finite("reward", real_table("reward", tables["reward"]))
    lead: tuple[int, ...] = () if horizon is None else (horizon,)
    _either(reward, "reward", lead, (states, "A"))
    actions = reward.shape[-1]

    if world == "transition":
        transition = real_table("transition", tables["transition"])
        _either(transition, "transition", lead, (states, actions, states))
        probability_rows("transition", transition)
        timed = transition.ndim == 4
        kernel_arrays = (transition,)
    else:
        _needed(tables, "successor_index", "successor_prob")
        prob = real_table("successor_prob", tables["successor_prob"])
        _either(prob, "successor_prob", lead, (states, actions, "K"))
        probability_rows("successor_prob", prob)
        index = tables["successor_index"]
        if index.shape != prob.shape:
            raise InputError(
                "successor_index", f"shape {list(index.shape)}", f"shape {list(prob.shape)}, that of successor_prob"
            )
        index = integers("successor_index", index, 0, states)
        timed = prob.ndim == 4
        kernel_arrays = (index, prob)

    def flat(array: NDArray[np.generic], axes: int) -> NDArray[np.generic]:
        """Time-indexed states: repeat over the horizon if there is no time axis, then merge time and state."""
        if horizon is None:
            return array
        if array.ndim == axes:
            array = np.broadcast_to(array, (horizon, *array.shape))
        return array.reshape(-1, *array.shape[2:])

    arrays = [jnp.asarray(x) for x in kernel_arrays]
    gamma = None if horizon is not None else jnp.asarray(discount)
    kernel = Dense(arrays[0], gamma) if world == "transition" else Successors(arrays[0], arrays[1], gamma)
    if horizon is None:
        dynamics = kernel
        start = initial
    else:
        dynamics = Layered(kernel, horizon, stationary=not timed)
        start = np.concatenate([initial, np.zeros((horizon - 1) * states)])

    if protocol == "active":
        raw = np.asarray(tables["active"])
        _either(raw, "active", lead, (states,))
        limit = _scalar_int(tables, "agents", 1) if "agents" in tables else np.iinfo(np.int64).max
        active = integers("active", raw, 0, limit)
        agents = int(limit) if "agents" in tables else int(active.max()) + 1
        factors = None
        shape: tuple[int | str, ...] = (states, actions)
        active_flat = jnp.asarray(flat(active, 1))
    else:
        factors_array = integers("factors", tables["factors"], 1, np.iinfo(np.int64).max)
        shaped("factors", factors_array, ("n",))
        factors = tuple(factors_array.tolist())
        agents = len(factors)
        if "agents" in tables and _scalar_int(tables, "agents", 1) != agents:
            raise InputError("agents", int(tables["agents"]), f"{agents}, the length of factors")
        product = int(np.prod(factors_array, dtype=object))
        if product != actions:
            raise InputError(
                "factors", f"{list(factors)} with product {product}", f"a product of {actions}, the actions of reward"
            )
        shape = (agents, states, max(factors))
        active_flat = None

    policies = []
    for key in ("current", "target"):
        table = real_table(key, tables[key])
        _either(table, key, lead, shape)
        probability_rows(key, table)
        if factors is not None:
            for k, size in enumerate(factors):
                if np.take(table, k, axis=table.ndim - 3)[..., size:].any():
                    raise InputError(key, f"probability beyond the {size} actions of agent {k}", "zero padding there")
            if table.ndim == 4:
                table = np.moveaxis(table, 0, 1).reshape(agents, -1, table.shape[-1])
            elif horizon is not None:
                table = np.tile(table, (1, horizon, 1))
            policies.append(jnp.asarray(table))
        else:
            policies.append(jnp.asarray(flat(table, 2)))

    order = permutation("order", tables["order"], agents) if "order" in tables else np.arange(agents)
    team = Team(dynamics, jnp.asarray(flat(reward, 2)), jnp.asarray(start), active_flat, agents, factors)
    return Stage(team, policies[0], policies[1], jnp.asarray(order))


def _either(array: NDArray[np.generic], name: str, lead: tuple[int, ...], shape: tuple[int | str, ...]) -> None:
    """Check `shape`, also with a leading time axis when there is a horizon."""
    shapes = [shape, (*lead, *shape)] if lead else [shape]
    shaped(name, array, *shapes)


def write_stage(stage: Stage, path: str | Path) -> None:
    """Write a discounted stage as a stage file, whole or not at all (written beside, then renamed).

    Raises:
      InputError: an episodic stage, or a path that cannot be written.
    """
    team, dynamics = stage.team, stage.team.dynamics
    if not isinstance(dynamics, Dense | Successors) or dynamics.horizon is not None:
        raise InputError("stage", "an episodic team", "a discounted Dense or Successors team")
    world = (
        {"transition": dynamics.transition}
        if isinstance(dynamics, Dense)
        else {"successor_index": dynamics.index, "successor_prob": dynamics.prob}
    )
    protocol = {"active": team.active} if team.factors is None else {"factors": np.asarray(team.factors)}
    tables = {
        "schema": np.asarray(SCHEMA), **world, "reward": team.reward, "initial": team.initial,
        "discount": dynamics.discount, **protocol, "current": stage.current, "target": stage.target,
        "agents": np.asarray(team.agents), "order": stage.order,
    }  # fmt: skip
    path = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            np.savez_compressed(file, **{key: np.asarray(value) for key, value in tables.items()})  # pyright: ignore[reportArgumentType]
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(str(path), error.strerror or str(error), "a place that can be written") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
