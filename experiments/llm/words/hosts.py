"""Many devices, many hosts: what `--mesh` and `--hosts` say, and where the arrays of a run of checkpoints lie then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jax.sharding import Mesh

from teamtr_jax.hosts import require_same, start_hosts
from teamtr_jax.llm.language_model import Params, joined, split_trained
from teamtr_jax.llm.mesh import AXES, everywhere, mesh_of, placed
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.update import TrainState
from teamtr_jax.records import dump
from teamtr_jax.validation import InputError

__all__ = ["mesh_sizes", "hosts_of", "join", "mesh_there", "require_same_call", "require_same_texts", "params_on",
           "state_on"]  # fmt: skip

SIZES = "rows=N,fsdp=N,tensor=N; what is left out is 1"
HOSTS = "HOST:PORT,COUNT,INDEX, of process 0, how many processes and which of them this is; or auto"
OWN = ("hosts", "out", "progress", "tensorboard")
"""Settings that each process may have of its own."""


def mesh_sizes(text: str) -> dict[str, int]:
    """Axis → size.

    Raises:
      InputError: an axis that there is not, or twice; what is no positive number.

    Example:
      >>> mesh_sizes("rows=2,tensor=4")
      {'rows': 2, 'tensor': 4}
    """
    found = [re.fullmatch(rf"({'|'.join(AXES)})=([1-9][0-9]{{0,8}})", item) for item in text.split(",")]
    sizes = {item[1]: int(item[2]) for item in found if item}
    if len(sizes) < len(found):
        raise InputError("mesh", repr(text), SIZES)
    return sizes


def hosts_of(text: str) -> tuple[str | None, int | None, int | None]:
    """Address of process 0, number of processes, number of this one; nothing where jax is to find them.

    Raises:
      InputError: what is neither.

    Example:
      >>> hosts_of("host0:8476,2,1"), hosts_of("auto")
      (('host0:8476', 2, 1), (None, None, None))
    """
    if text == "auto":
        return None, None, None
    found = re.fullmatch(r"([^,]+:[0-9]+),([0-9]{1,9}),([0-9]{1,9})", text)
    if not found:
        raise InputError("hosts", repr(text), HOSTS)
    return found[1], int(found[2]), int(found[3])


def join(text: str | None) -> None:
    """Join the other processes, if there are some; before anything is asked of jax.

    Raises:
      InputError: as `start_hosts`.
    """
    if text is not None:
        start_hosts(*hosts_of(text))


def mesh_there(text: str | None) -> Mesh | None:
    """The mesh that was asked for, of the devices of all processes.

    Raises:
      InputError: another number of devices than there are.
    """
    if text is None:
        return None
    rows, fsdp, tensor = (mesh_sizes(text).get(axis, 1) for axis in AXES)
    return mesh_of(rows, fsdp, tensor)


def require_same_texts(name: str, values: Mapping[str, Any]) -> None:
    """Refuse what is not the same on every process, written as JSON.

    Raises:
      InputError: names the entry and the process.
    """
    require_same(name, {key: np.frombuffer(dump({key: x}).encode(), np.uint8) for key, x in values.items()})


def require_same_call(settings: Any) -> None:
    """Refuse processes that were asked for different runs: they would wait for each other.

    Args:
      settings: of a run (`TextTrain`).

    Raises:
      InputError: names the setting.
    """
    require_same_texts("settings", {name: x for name, x in asdict(settings).items() if name not in OWN})


def params_on(team: TextTeam, params: Sequence[Params], mesh: Mesh | None) -> tuple[Params, ...]:
    """What is trained of each set of parameters put on the mesh; frozen leaves, which lie there, are the same arrays."""
    out = []
    for model, own in zip(team.models, params, strict=True):
        trained, frozen = split_trained(own, model.trained(own))
        out.append(joined(placed(trained, model.partition(), mesh), frozen))
    return tuple(out)


def state_on(team: TextTeam, state: TrainState, mesh: Mesh | None) -> TrainState:
    """The state at the start of training, of parameters that lie on the mesh: moments and β there too."""
    each = zip(team.models, state.optimiser, strict=True)
    moments = tuple(placed(own, model.partition(), mesh) for model, own in each)
    return state._replace(optimiser=moments, beta=everywhere(mesh, state.beta))
