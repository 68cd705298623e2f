"""Several hosts as one program: `jax.distributed` started, arrays whole on every host, files written by the first.

Every process runs the same program on the same numbers and holds a part of the arrays that are spread over a mesh. With one
process nothing here does anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding
from numpy.typing import NDArray

from teamtr_jax.files import reason
from teamtr_jax.validation import LONGEST, InputError, shown, whole_number

__all__ = ["start_hosts", "is_first", "gathered", "spread", "as_spread", "FirstFailed", "on_first", "from_first",
           "require_same"]  # fmt: skip

T = TypeVar("T")

DETECTED = "processes that Slurm, Open MPI, Kubernetes or a TPU pod started, or an address, a number and a place in it"
UNDER_WAY = "before anything else is asked of jax in this process, and once"


def start_hosts(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout_seconds: int = 100,
    initialization_timeout_seconds: int = 300,
) -> None:
    """Join the other processes of a run: `jax.devices()` are those of all of them from here on.

    A process that is killed ends all others within the heartbeat: the runtime says so on stderr and aborts them (signal 6); those
    that wait in vain for others to come it aborts as well. No `except` sees either. A process that ends with an error stops the
    others after the same time; jax would wait 300 s for them, whatever the heartbeat. The last checkpoint is there, and any
    number of processes goes on from it.

    Without an address, a number and a place in it they are those that jax finds by itself: of Slurm, Open MPI, Kubernetes or a
    TPU pod. Of a process that Slurm or Open MPI started jax then takes one device.

    Args:
      coordinator: ``host:port`` of process 0, which all others reach.
      heartbeat_timeout_seconds: how long a process may be silent; also how long one that has ended waits for the others. All
        processes give the same.
      initialization_timeout_seconds: how long to wait for all to come.

    Raises:
      InputError: an address without a port or one that is taken, numbers that do not fit, nothing that jax finds, or a jax that
        has begun.
    """
    detected = coordinator is None and processes is None and process_id is None
    if not detected:
        host, colon, port = str(coordinator).rpartition(":")
        if not (host and colon and port.isdigit()):
            raise InputError("coordinator", repr(coordinator), "host:port of process 0")
        whole_number("process_id", process_id, 0, whole_number("processes", processes, 1) - 1)
    whole_number("heartbeat_timeout_seconds", heartbeat_timeout_seconds, 1)
    whole_number("initialization_timeout_seconds", initialization_timeout_seconds, 1)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method=None if detected else "deactivate",
            initialization_timeout=initialization_timeout_seconds,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
            shutdown_timeout_seconds=heartbeat_timeout_seconds,
        )
    except ValueError as error:  # of jax, whose detection found nothing, or a part
        raise InputError("hosts", reason(error), DETECTED) from error
    except RuntimeError as error:  # of jax, and of its runtime, whose errors are of a class below this one
        early = "must be called before" in str(error) or "only be called once" in str(error)
        name, expected = "coordinator", "a free address of process 0 that all reach"
        if early or detected:
            name, expected = ("start_hosts", UNDER_WAY) if early else ("hosts", DETECTED)
        raise InputError(name, error, expected) from error


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


# -------------------------------------------------------------------------------------------------- arrays of several hosts


def _is_key(x: Any) -> bool:
    return isinstance(x, Array) and bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def gathered(tree: T) -> T:
    """Every leaf whole on this host: those that lie on several hosts as NumPy arrays, all others as they are.

    All processes call it together. An array of which each device has a copy is not sent.
    """

    def whole(x: Any) -> Any:
        if not isinstance(x, Array) or x.is_fully_addressable:
            return x
        if _is_key(x):
            return jax.random.wrap_key_data(jnp.asarray(whole(jax.random.key_data(x))), impl=jax.random.key_impl(x))
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def spread(x: Any, sharding: Sharding) -> Array:
    """An array that every process has whole, or that lies on several hosts already, divided as `sharding` says.

    `jax.device_put` would first send all of a NumPy array to all processes, to see that it is the same.
    """
    if sharding.is_fully_addressable or (isinstance(x, Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    if _is_key(x):
        words = np.asarray(jax.random.key_data(x))
        return jax.random.wrap_key_data(spread(words, sharding), impl=jax.random.key_impl(x))
    array = np.asarray(x)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def as_spread(tree: T, like: Any) -> T:
    """The leaves of `tree` where those of `like` are, if they lie on several devices; as they are otherwise."""

    def put(x: Any, other: Any) -> Any:
        one = not isinstance(other, Array) or isinstance(other.sharding, SingleDeviceSharding)
        return x if one else spread(x, other.sharding)

    return jax.tree.map(put, tree, like)


# ---------------------------------------------------------------------------------------------------- what process 0 decides


class FirstFailed(RuntimeError):
    """On every process but the first: what the first one raised."""


def on_first(does: Callable[[], T]) -> T | None:
    """`does()` by process 0; `None` on the others, which wait for it.

    Raises:
      FirstFailed: on the others, where it failed; what it raised, on process 0.
    """
    if jax.process_count() == 1:
        return does()
    out, failed, text = None, None, b""
    if is_first():
        try:
            out = does()
        except BaseException as error:
            failed, text = error, f"{type(error).__name__}: {shown(error)}".encode()[: 4 * LONGEST]
    message = np.zeros(4 * LONGEST, np.uint8)
    message[: len(text)] = np.frombuffer(text, np.uint8)
    told = bytes(np.asarray(multihost_utils.broadcast_one_to_all(message))).rstrip(b"\0").decode(errors="replace")
    if failed is not None:
        raise failed
    if told:
        raise FirstFailed(f"process 0 failed: {told}")
    return out


def from_first(tree: T) -> T:
    """The numbers of process 0, bit for bit, as NumPy arrays; all processes give arrays of the same shapes and dtypes."""
    if jax.process_count() == 1:
        return tree

    def sent(x: Any) -> Any:
        if _is_key(x):
            return jax.random.wrap_key_data(jnp.asarray(sent(jax.random.key_data(x))), impl=jax.random.key_impl(x))
        array = np.asarray(x)
        # As bytes: the sum by which jax sends would make −0 a 0.
        flat = np.frombuffer(array.tobytes(), np.uint8)
        back = np.asarray(multihost_utils.broadcast_one_to_all(flat)) if flat.size else flat
        return np.frombuffer(back.tobytes(), array.dtype).reshape(array.shape)

    return jax.tree.map(sent, tree)


def _digest(x: Any) -> NDArray[np.uint8]:
    array = np.asarray(jax.random.key_data(x) if _is_key(x) else x)
    return np.frombuffer(hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest(), np.uint8)


def require_same(name: str, tree: Any) -> None:
    """Refuse a leaf that each process has of its own and that is not the same on all: only one of them would be kept.

    Leaves that lie on several hosts are the same by construction.

    Raises:
      InputError: on every process, names the first such leaf and process.
    """
    if jax.process_count() == 1:
        return
    named, _ = jax.tree_util.tree_flatten_with_path(tree)
    local = [(path, x) for path, x in named if not isinstance(x, Array) or x.is_fully_addressable]
    if not local:
        return
    digests = multihost_utils.process_allgather(np.stack([_digest(x) for _, x in local]))
    differs = np.argwhere((digests != digests[:1]).any(-1).T)
    if len(differs):
        leaf, process = differs[0]
        path = jax.tree_util.keystr(local[leaf][0])
        raise InputError(f"{name}{path}", f"other numbers on process {process}", "the same on every process")
