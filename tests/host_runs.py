"""A program of tests/test_mesh.py: two processes that share a run, without a network."""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from teamtr_jax.hosts import from_first, gathered, on_first, require_same, spread, start_hosts
from teamtr_jax.llm.mesh import mesh_of
from teamtr_jax.training import train
from teamtr_jax.validation import InputError


def stage(state, key, k):
    return {"parted": state["parted"] + 1, "own": state["own"] * 2, "key": state["key"]}, [{"stage": k}]


def begin(own, parted):
    return {"parted": parted, "own": np.float32(own), "key": jax.random.key(3)}


def run(state, stages, folder):
    return train(stage, state, stages, jax.random.key(0), folder, progress=False)


def careful(process, port, folder, patience=60):
    """Two processes: what `train` and its helpers do with files and arrays, without a network."""
    process, address = int(process), f"127.0.0.1:{port}"
    start_hosts(address, 2, process, heartbeat_timeout_seconds=20, initialization_timeout_seconds=int(patience))
    mesh = mesh_of(1, 4, 1)
    parted = spread(np.arange(8, dtype=np.float32), NamedSharding(mesh, PartitionSpec("fsdp")))
    out = {"parted": gathered(parted).tolist(), "shard": parted.addressable_shards[0].data.shape}
    out["sign"] = np.signbit(from_first(np.array([-0.0, process], np.float32))).tolist()

    def message(f):
        try:
            return f()
        except (InputError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"

    def fails():
        raise InputError("file", "nothing", "something")

    out["failed"] = message(lambda: on_first(fails))
    out["same"] = message(lambda: require_same("state", {"a": np.ones(2), "b": np.array([process])}))

    out["differs"] = message(lambda: run(begin(process, parted), stages=1, folder=f"{folder}/differs"))
    state, _ = run(begin(1, parted), stages=3, folder=f"{folder}/run")
    out["run"] = gathered(state["parted"]).tolist(), float(state["own"]), state["parted"].sharding == parted.sharding
    out["other"] = message(lambda: run(begin(5, parted), stages=4, folder=f"{folder}/run"))
    Path(f"{folder}/{process}.json").write_text(json.dumps(out))


def ends(process, port, how):
    """Two processes that Slurm started: the second ends with an error, or is killed; the first waits for it."""
    slurm = {"JOB_ID": 1, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2, "PROCID": process, "LOCALID": process}
    os.environ |= {f"SLURM_{name}": str(value) for name, value in slurm.items()} | {"JAX_COORDINATOR_PORT": port}
    start_hosts(heartbeat_timeout_seconds=3, initialization_timeout_seconds=60)
    if process == "1":
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("of its own")
    from_first(np.ones(1))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    {"careful": careful, "ends": ends}[sys.argv[1]](*sys.argv[2:])
