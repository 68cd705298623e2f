"""Programs of tests/test_mesh.py: what is computed on one device, on eight, and by two processes of two devices each."""

import hashlib
import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax.hosts import gathered, start_hosts
from teamtr_jax.llm.backend import LanguageSampling
from teamtr_jax.llm.language_model import Reading
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.mesh import by_rows, everywhere, mesh_of, placed
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text_backend import TextTalk, init_text_state, text_backend
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.text_update import NOTHING, _Program, _update, learner
from teamtr_jax.llm.update import Lesson
from teamtr_jax.llm.update_settings import UpdateSettings, parts
from teamtr_jax.records import update_lines
from teamtr_jax.schedules import fresh
from teamtr_jax.stage import run_stage
from teamtr_jax.training import train
from tests.text_teams import LLAMA, agent

MODEL = replace(LLAMA, tied=False, remat=True, lora=Lora(2, 4.0))
WIDE = replace(MODEL, vocabulary=104)  #: a size that no other axis has, whole or halved
SETTINGS = UpdateSettings(
    learning_rate=3e-3,
    epochs=2,
    minibatch=8,
    micro_batch=4,
    delta=0.05,
    beta=0.5,
    early_stop=False,
    advantage="centred",
)


def base(model, seed=0):
    """Random parameters with adapters that do something, far from uniform."""
    params = jax.tree.map(lambda x: 3 * x if x.ndim == 3 else x, model.init(jax.random.key(seed)))
    return jax.tree.map(
        lambda x: x + 0.02 * jnp.cos(jnp.arange(x.size)).reshape(x.shape) if x.shape[-1:] == (2,) else x, params
    )


def on_mesh(mesh):
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def example(rows=8, length=24, message=6):
    """A reading and a lesson of made-up ids."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, WIDE.vocabulary, (rows, 1, length)).astype(np.int32)
    begin = rng.integers(4, length - message, (rows, 1, 1))
    at = (begin + np.arange(message) - 1).astype(np.int32)
    own = np.arange(message) < rng.integers(2, message + 1, (rows, 1, 1))
    written = np.take_along_axis(ids, at + 1, 2)
    reading = Reading(ids, np.ones(ids.shape, bool), at, written, own, own)
    each = rng.normal(size=(2, rows)).astype(np.float32)
    return reading, Lesson(*each, np.ones(rows, np.float32), np.ones(rows, np.float32))


def one_update(mesh):
    """The update of an agent, its outcome whole; where its arrays lie, and what devices send each other."""
    from benchmarks.hlo import collectives, dot_flops

    params = placed(base(WIDE), WIDE.partition(), mesh)
    own, frozen = learner(WIDE, params, SETTINGS)
    own = own._replace(moments=placed(own.moments, WIDE.partition(), mesh))
    reading, lesson = by_rows(mesh, example())
    order = np.stack([np.random.default_rng(k).permutation(8) for k in range(2)]).astype(np.int32)
    with on_mesh(mesh):
        compiled, traced = parts(SETTINGS)
        arguments = own, frozen, jnp.asarray(1.0, jnp.float32), reading, lesson
        more = {"traced": traced, "order": order}
        program = _update.lower(_Program(WIDE, NOTHING), compiled, *arguments, **more).compile()
        new, text = program(*arguments, **more), program.as_text()
    kernel, adapter = (x["layers"]["gate"] for x in (frozen, new.trained))
    where = {
        name: (x.shape, x.addressable_shards[0].data.shape)
        for name, x in {"gate": kernel["kernel"], "head": frozen["head"]["kernel"], "lora_b": adapter["lora_b"]}.items()
    }
    sent = [(x.kind, x.shapes, x.times) for x in collectives(text)]
    return jax.device_get(gathered(new)), {"where": where, "sent": sent, "flops": dot_flops(text)}


def eight(out):
    """The update on one device and on eight."""
    found, about = {}, {}
    for name, mesh in (("one", None), ("eight", mesh_of(2, 2, 2))):
        new, about[name] = one_update(mesh)
        found |= {f"{name}{jax.tree_util.keystr(path)}": x for path, x in jax.tree_util.tree_leaves_with_path(new)}
    np.savez(out, **found)
    Path(out).with_suffix(".json").write_text(json.dumps(about))


# ------------------------------------------------------------------------------------------------------------------- a run


class Letters:
    """Both write b and g, and are told how many."""

    name, turns, roles = "letters", 2, (Role("a", cap=4), Role("b", cap=4))

    def sample(self, rng):
        return Problem("".join(rng.choice(list("abcd"), 3)), "")

    def verify(self, problem, messages):
        return min(1.0, sum(text.count("b") + text.count("c") for text in messages) / 8)


def run(folder, stages, mesh, dies=None, said=None):
    """Stages of a team of two agents on one base, each updated once a stage. The state at its end goes to `said`."""
    team = TextTeam(tuple(agent(role.name, MODEL, role.cap, stops=()) for role in Letters.roles), 2)
    params = placed((base(MODEL, 1),) * 2, MODEL.partition(), mesh)
    state, frozen = init_text_state(team, params, SETTINGS)
    state = state._replace(
        optimiser=placed(state.optimiser, MODEL.partition(), mesh), beta=everywhere(mesh, state.beta)
    )
    sampling, talk = LanguageSampling(prompts=4, group=2, held_out=2), TextTalk(length=32)
    backend = text_backend(team, frozen, Letters(), SETTINGS, sampling, talk, mesh=mesh)

    written = []

    def rollout(state, key):
        found = backend.rollout(state, key)
        written.append(hashlib.sha256(found.said.ids.tobytes()).hexdigest())
        return found

    def stage(state, key, k):
        if dies is not None and k == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        written.clear()
        seen = backend._replace(rollout=rollout)
        state, records = run_stage(seen, state, order=[0, 1], schedule=fresh, key=key, stage=k)
        return state, [line | {"ids": ids} for line, ids in zip(update_lines(records), written, strict=True)]

    state, _ = train(stage, state, stages, jax.random.key(7), folder, {"about": "two agents"}, progress=False)
    state = jax.device_get(gathered(state))
    if said:
        np.savez(said, *jax.tree.leaves(state))


def resumed(folder, out):
    """The run to its end on one device, and all of it there."""
    run(folder, 2, None, said=f"{out}/resumed.npz")
    run(f"{out}/alone", 2, None, said=f"{out}/alone.npz")


def pair(process, port, folder, dies):
    """Two processes; the second is killed as stage `dies` begins."""
    start_hosts(f"127.0.0.1:{port}", 2, int(process), heartbeat_timeout_seconds=6, initialization_timeout_seconds=60)
    run(folder, 2, mesh_of(1, 2, 2), dies=int(dies) if process == "1" else None)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", {"eight": 8, "pair": 2, "resumed": 1}[sys.argv[1]])
    globals()[sys.argv[1]](*sys.argv[2:])
