"""Rows of a batch divided among the devices of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["mesh_for", "everywhere", "by_rows", "onto_first", "on_all", "mine_of", "everybodys", "in_chunks", "cut",
           "uncut"]  # fmt: skip

T = TypeVar("T")


def mesh_for(rows: int, *inputs: object) -> Mesh | None:
    """All devices of this process as the axis ``rows``; `None` for one, or a number that does not divide `rows`, or under `jit`.

    On a CPU the small products of one step keep one core busy: ``jax.config.update("jax_num_cpu_devices", cores)`` before
    anything else makes a device of each.
    """
    devices = jax.local_devices()
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves(inputs))
    return None if len(devices) == 1 or rows % len(devices) or traced else Mesh(np.array(devices), ("rows",))


def everywhere(mesh: Mesh | None, tree: T) -> T:
    """A copy of every array on each device; numbers of Python and NumPy are left to `jit`, which is quicker."""
    if mesh is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = iter(jax.device_put([x for x in leaves if isinstance(x, Array)], NamedSharding(mesh, P())))
    return jax.tree.unflatten(structure, [next(arrays) if isinstance(x, Array) else x for x in leaves])


def by_rows(mesh: Mesh | None, tree: T) -> T:
    """The leading axis divided."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, P("rows")))


def onto_first(mesh: Mesh | None, tree: T) -> T:
    """Every array on one device: the first, where everything else is. A copy that is there already is taken as it is."""
    if mesh is None:
        return tree

    def single(x: Array) -> Array:
        return x.addressable_data(0) if x.is_fully_replicated else jax.device_put(x, mesh.devices[0])

    return jax.tree.map(single, tree)


# --------------------------------------------------------------------------------------------------------- within a program


def on_all(mesh: Mesh | None, program: Callable[..., Any], *arguments: Any) -> Any:
    """`program` on every device at once, each with all its arguments; they part at `mine_of` only."""
    if mesh is None:
        return program(*arguments)
    return jax.shard_map(program, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)(*arguments)


def mine_of(mesh: Mesh | None, chunks: Any) -> Any:
    """The rows of every chunk that this device takes; arrays ``[chunks, micro, …]``."""
    if mesh is None:
        return chunks

    def part(x: Array) -> Array:
        size = x.shape[1] // mesh.size
        return lax.dynamic_slice_in_dim(x, lax.axis_index("rows") * size, size, 1)

    return jax.tree.map(part, chunks)


def everybodys(mesh: Mesh | None, chunks: Any) -> Any:
    """What all devices made of their rows, as one device would have."""
    return chunks if mesh is None else lax.all_gather(chunks, "rows", axis=1, tiled=True)


def in_chunks(
    f: Callable[..., Any], micro: int, mesh: Mesh | None, *rows: Any, constrain: Callable[[T], T] = lambda x: x
) -> Any:
    """`f` on `micro` rows at a time, one after the other; results as if on all. Arguments are pytrees of arrays ``[R, …]``.

    Args:
      constrain: says where arrays ``[chunks, micro, …]`` lie on a mesh of automatic axes.
    """
    size = jax.tree.leaves(rows)[0].shape[0]

    def filled(x: Array) -> Array:
        return cut(jnp.concatenate([x, jnp.broadcast_to(x[:1], (-size % micro, *x.shape[1:]))]), micro)

    out = lax.map(lambda chunk: f(*chunk), mine_of(mesh, constrain(jax.tree.map(filled, rows))))
    return jax.tree.map(lambda x: uncut(x)[:size], everybodys(mesh, out))


def cut(x: Array, micro: int) -> Array:
    """``[R, …]`` as ``[R/micro, micro, …]``: a chunk takes rows from everywhere, which lie on all devices of a mesh."""
    return x.reshape(micro, len(x) // micro, *x.shape[1:]).swapaxes(0, 1)


def uncut(x: Array) -> Array:
    """The inverse of `cut`."""
    return x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])
