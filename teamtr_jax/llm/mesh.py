"""Parameters, moments and rows on a mesh ``(rows, fsdp, tensor)``: where arrays lie; what is sent is up to jax.

Axes are of type Auto: programs under `jit` are written for one device, and XLA's partitioner divides them. Rows of a batch are
divided over ``rows × fsdp``; parameters over ``fsdp`` and ``tensor`` as the network's partition rules say, and copied along
``rows``. Of processes of their own: `teamtr_jax.hosts`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from teamtr_jax.hosts import spread
from teamtr_jax.validation import InputError, whole_number

__all__ = [
    "AXES",
    "ROWS",
    "AnyMesh",
    "Rules",
    "mesh_of",
    "row_parts",
    "parameter_parts",
    "within",
    "shardings",
    "placing",
    "placed",
    "by_rows",
    "everywhere",
    "constrain",
]

T = TypeVar("T")

AXES = ("rows", "fsdp", "tensor")
ROWS = ("rows", "fsdp")
"""Axes that rows are divided over: a device that holds a part of the parameters has rows of its own."""

AnyMesh = Mesh | AbstractMesh
"""Of devices, or of sizes alone, on which nothing can be put."""

Rules = Sequence[tuple[str, PartitionSpec]]
"""(regular expression, spec): the first whose expression is found in ``layers/q/kernel`` counts."""


def mesh_of(rows: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """The devices of all hosts as a mesh ``(rows, fsdp, tensor)``, in an order that suits how they are wired.

    Raises:
      InputError: a size below 1, or sizes whose product is not the number of devices.

    Example:
      >>> dict(mesh_of(1, 1, 1, jax.devices()[:1]).shape)
      {'rows': 1, 'fsdp': 1, 'tensor': 1}
    """
    sizes = (rows, fsdp, tensor)
    for name, size in zip(AXES, sizes, strict=True):
        whole_number(name, size, 1)
    found = jax.devices() if devices is None else list(devices)
    if math.prod(sizes) != len(found):
        text = f"{rows} × {fsdp} × {tensor} = {math.prod(sizes)} devices"
        raise InputError("rows, fsdp, tensor", text, f"{len(found)}, as many as there are")
    return jax.make_mesh(sizes, AXES, (AxisType.Auto,) * len(AXES), devices=found)


def row_parts(mesh: AnyMesh | None) -> int:
    """Into how many parts rows are divided."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)


def parameter_parts(mesh: AnyMesh | None) -> int:
    """Into how many parts parameters are divided, norms and biases aside."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ("fsdp", "tensor"))


def within(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Where programs on arrays that lie on the mesh are called, so that `constrain` knows of it."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def _names(entry: Any) -> tuple[str, ...]:
    """Axes of the mesh that an entry of a spec names."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _sharding(name: str, shape: Sequence[int], rules: Rules, mesh: AnyMesh) -> NamedSharding:
    if not shape:
        return NamedSharding(mesh, PartitionSpec())  # a count of steps, a coefficient
    spec = next((spec for pattern, spec in rules if re.search(pattern, name)), None)
    if spec is None:
        raise InputError(f"partition of {name}", "no rule", f"one of {[pattern for pattern, _ in rules]} to match")
    if len(spec) > len(shape):
        raise InputError(f"partition of {name}", f"{spec} for shape {list(shape)}", "at most one entry for each axis")
    for axis, entry in enumerate(spec):
        for missing in set(_names(entry)) - set(mesh.axis_names):
            raise InputError(f"partition of {name}", f"axis {missing!r}", f"one of {list(mesh.axis_names)}")
        parts = math.prod(mesh.shape[one] for one in _names(entry))
        if shape[axis] % parts:
            found = f"axis {axis} of shape {list(shape)} over {parts} devices ({', '.join(_names(entry))})"
            raise InputError(f"partition of {name}", found, "a mesh whose sizes divide it")
    entries = list(spec)
    while entries and entries[-1] is None:  # as XLA writes it: what an update gives back is what the next one takes
        entries.pop()
    return NamedSharding(mesh, PartitionSpec(*entries))


def shardings(tree: Any, rules: Rules, mesh: AnyMesh) -> Any:
    """Where each leaf lies, by the rules; of moments too, whose paths end with those of what they belong to.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s.

    Raises:
      InputError: names a leaf that no rule matches, that has fewer axes than its spec, or an axis that the mesh does not
        divide. Nothing is copied to every device instead: that would be seen as a lack of memory, later.

    Example:
      >>> mesh = mesh_of(1, 1, 1, jax.devices()[:1])
      >>> rules = (("kernel", PartitionSpec("fsdp", "tensor")), (".*", PartitionSpec()))
      >>> tree = {"q": {"kernel": jnp.zeros((4, 6))}, "norm": jnp.ones(4)}
      >>> shardings(tree, rules, mesh)["q"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
      True
    """
    named, structure = jax.tree_util.tree_flatten_with_path(tree)
    found = [
        _sharding(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, rules, mesh)
        for path, leaf in named
    ]
    return jax.tree.unflatten(structure, found)


def placing(rules: Rules, mesh: Mesh) -> Callable[[str, Any], Array]:
    """From the path of a leaf and its array on this host to the array where the rules say (`load_agent`): it is nowhere whole.

    Raises:
      InputError: by what is returned, as `shardings`.
    """
    return lambda path, array: spread(array, _sharding(path, array.shape, rules, mesh))


def placed(tree: T, rules: Rules, mesh: AnyMesh | None) -> T:
    """The arrays where `shardings` says; every host has each of them whole. Without a mesh as they are.

    A base that several agents share stays one: leaves that are the same array are placed once.
    """
    if mesh is None:
        return tree
    done: dict[tuple[int, NamedSharding], tuple[Any, Array]] = {}  # with what it was, so that no id is used twice

    def put(x: Any, sharding: NamedSharding) -> Array:
        if (id(x), sharding) not in done:
            done[id(x), sharding] = x, spread(x, sharding)
        return done[id(x), sharding][1]

    return jax.tree.map(put, tree, shardings(tree, rules, mesh))


def require_parts(mesh: AnyMesh | None, name: str, rows: int) -> None:
    """Refuse a number of rows that do not come in equal parts: XLA would fill them up, or copy them, and say nothing.

    Raises:
      InputError: with that name; give as many more rows as are missing, with weight 0.
    """
    if rows % (parts := row_parts(mesh)):
        found = f"{rows} rows over {parts} devices ({' × '.join(ROWS)})"
        raise InputError(name, found, f"a multiple of {parts}; pad with rows of weight 0")


def by_rows(mesh: AnyMesh | None, tree: T) -> T:
    """The leading axis of every leaf divided; every host has all rows.

    Raises:
      InputError: rows that do not come in equal parts.
    """
    if mesh is None:
        return tree

    def put(x: Any) -> Array:
        require_parts(mesh, "rows", x.shape[0])
        return spread(x, NamedSharding(mesh, PartitionSpec(ROWS)))

    return jax.tree.map(put, tree)


def everywhere(mesh: AnyMesh | None, tree: T) -> T:
    """A copy of every leaf on each device."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: spread(x, NamedSharding(mesh, PartitionSpec())), tree)


def constrain(tree: T, axis: int = 0) -> T:
    """Within a program: the rows, axis `axis` of every leaf, divided over devices as `by_rows` divides them.

    A network says so of what it passes from layer to layer: a device then fetches the parts of a layer's parameters and keeps its
    rows. XLA left alone keeps the parameters and sends the activations, several times as much. Outside `jax.set_mesh`, and of a
    mesh with other axes, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not set(ROWS) <= set(mesh.axis_names) or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return tree
    return jax.tree.map(lambda x: lax.with_sharding_constraint(x, PartitionSpec(*(None,) * axis, ROWS)), tree)
