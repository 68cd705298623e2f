"""Programs of tests/test_mesh.py: what is computed on one device, on eight, and by two processes of two devices each."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from teamtr_jax.hosts import gathered, start_hosts
from teamtr_jax.llm.backend import LanguageSampling
from teamtr_jax.llm.given import NOTHING
from teamtr_jax.llm.language_model import Reading
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.mesh import by_rows, mesh_of, placed, row_parts, within
from teamtr_jax.llm.tasks import Problem
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text_backend import text_backend
from teamtr_jax.llm.text_update import _Program, _update, learner
from teamtr_jax.llm.update import Lesson
from teamtr_jax.llm.update_settings import UpdateSettings, parts
from teamtr_jax.records import update_lines
from teamtr_jax.stage import run_stage
from tests.text_teams import LLAMA

BASE = Path(__file__).resolve().parent / "fixtures" / "checkpoints" / "smollm2"

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
    with within(mesh):
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
    moved = [
        jax.tree_util.keystr(path)
        for (path, x), old in zip(jax.tree_util.tree_leaves_with_path(new[:2]), jax.tree.leaves(own[:2]), strict=True)
        if x.sharding != old.sharding
    ]
    sent = [(x.kind, x.shapes, x.times) for x in collectives(text)]
    return jax.device_get(gathered(new)), {"where": where, "moved": moved, "sent": sent, "flops": dot_flops(text)}


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
    """A task in words: both are paid for small letters."""

    name, turns = "letters", 2
    roles = Role("a", "Write small letters, and nothing else!!", 4), Role("b", cap=4)  # views of one size: one program

    def sample(self, rng):
        return Problem("".join(rng.choice(list("abcd"), 3)), "")

    def verify(self, problem, messages):
        text = "".join(messages)
        return sum("a" <= x <= "z" for x in text) / max(len(text), 1)

    def demonstrate(self, problem, rng):
        return ["ab", "ba"]


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # at once: a process that is killed writes nothing later


def driven(folder, stages, more="", dies=None):
    """`python -m experiments.llm train` of two agents on one base; the records say from which ids an update was made."""
    from experiments.llm import __main__ as program
    from experiments.llm.words import hosts, run, setup

    written = []

    def backend(*arguments, **options):
        made = text_backend(*arguments, **options)
        first, second = (own["layers"]["gate"]["kernel"] for own in arguments[1])
        say("rows over", row_parts(options["mesh"]))
        say("gate", first.addressable_shards[0].data.shape, "of", first.shape, "one base:", first is second)

        def rollout(state, key):
            found = made.rollout(state, key)
            written.append(hashlib.sha256(found.said.ids.tobytes()).hexdigest())
            return found

        return made._replace(rollout=rollout)

    def stage(backend, state, order, schedule, key, k, budget):
        if k == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        written.clear()
        named = jax.tree_util.tree_leaves_with_path((state.params, state.optimiser))
        own = [x for path, x in named if "['gate']['lora_b']" in jax.tree_util.keystr(path)]
        say(len(own), "of lora_b", *{(x.addressable_shards[0].data.shape, x.shape) for x in own})
        return run_stage(backend, state, order, schedule, key, k, budget)

    def lines(records):
        return [line | {"ids": ids} for line, ids in zip(update_lines(records), written, strict=True)]

    run.text_backend, run.run_stage, run.update_lines = backend, stage, lines
    setup.LanguageSampling = partial(LanguageSampling, held_out=2)
    hosts.start_hosts = partial(start_hosts, heartbeat_timeout_seconds=6, initialization_timeout_seconds=60)
    program.draw_run = lambda home: []
    asked = [
        f"--task {Path(__file__).resolve()}:Letters --prompts 4 --group 2 --micro-batch 4 --steps 1 --epochs 2",
        "--delta 0.05 --learning-rate 0.001 --lora.rank 2 --test-prompts 2 --warm.steps 1 --warm.batch 4",
        f"--no-unroll --remat --base {BASE} --out {folder} --stages {stages}",
        more,
    ]
    if code := program.main(["train", *" ".join(asked).split()]):
        sys.exit(code)


def resumed(folder, out):
    """The run to its end on one device, and all of it there; adapters at the end of both."""
    from experiments.llm.words.run import load_text_run

    for name, home in (("resumed", folder), ("alone", f"{out}/alone")):
        driven(home, 2)
        np.savez(f"{out}/{name}.npz", *jax.tree.leaves(load_text_run(Path(home)).params))


def pair(process, port, folder, dies):
    """Two processes; the second is killed as stage `dies` begins."""
    more = f"--mesh fsdp=2,tensor=2 --hosts 127.0.0.1:{port},2,{process}"
    driven(folder, 2, more, dies=int(dies) if process == "1" else None)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", {"eight": 8, "pair": 2, "resumed": 1}[sys.argv[1]])
    globals()[sys.argv[1]](*sys.argv[2:])
