"""What an update of a team on one base of Llama-3-8B's shape takes of each device of a pod: computed, no weights, nothing run.

``python -m benchmarks.scale --mesh 1x32x2 --target v5e:8x8 --out FILE`` lowers and compiles the update's own program
(`teamtr_jax.llm.text_update`) for abstract parameters; ``--target cpu`` on as many host devices, whose compiler counts the
floating-point operations; ``v5e:8x8`` by XLA's compiler for TPUs (package ``libtpu``), which needs no TPU.
``python -m benchmarks.scale --table FILE…`` prints what was found beside formulas.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
}  # fmt: skip


class Plan(NamedTuple):
    """An update of one agent."""

    mesh: tuple[int, int, int]
    rows: int = 256  #: 32 prompts × 8 rollouts
    length: int = 2048  #: ids of a view, T
    message: int = 512  #: ids of the agent's own message, L
    minibatch: int = 128
    micro_batch: int = 64
    epochs: int = 1
    rank: int = 16
    agents: int = 3
    dtype: str = "bfloat16"
    layers: int = 32

    @property
    def devices(self) -> int:
        return math.prod(self.mesh)

    @property
    def steps(self) -> int:
        """Of the optimiser, in one update."""
        return self.epochs * -(-self.rows // self.minibatch)


# ------------------------------------------------------------------------------------------------------------- by hand


def by_hand(plan: Plan) -> dict[str, float]:
    """Bytes of one device and floating-point operations of one device, from the sizes alone."""
    c, (_, fsdp, tensor) = LLAMA_3_8B, plan.mesh
    width, hidden, vocabulary = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    keys = c["num_key_value_heads"] * width // c["num_attention_heads"]
    sides = [
        (width, width),
        (width, keys),
        (width, keys),
        (width, width),
        (width, hidden),
        (width, hidden),
        (hidden, width),
    ]
    layer, adapter = sum(a * b for a, b in sides), sum(a + b for a, b in sides) * plan.rank
    itemsize = 2 if plan.dtype == "bfloat16" else 4
    table = vocabulary * width
    base = itemsize * (plan.layers * layer / (fsdp * tensor) + 2 * table / tensor)
    # Of an adapter one factor lies over fsdp, the other over tensor: (rows of A of inward maps, columns of B of outward ones).
    inward, outward = sides[:3] + sides[4:6], [sides[3], sides[6]]
    split = sum(a / fsdp + b / tensor for a, b in inward) + sum(a / tensor + b / fsdp for a, b in outward)
    adapters = 4 * plan.layers * plan.rank * split
    tokens = plan.length  # of a row
    attention = 4 * tokens**2 * width * plan.layers  # every slot with every slot: no causal saving
    forward = 2 * plan.layers * (layer + adapter) * tokens + attention
    head = 2 * table * plan.message
    share = 1 / plan.devices
    # Backward of a frozen base: the gradient of activations alone; of attention both. Adapters: both.
    backward = 2 * plan.layers * (layer + 2 * adapter) * tokens + 2 * attention
    again = 2 * plan.layers * hidden * width * tokens  # the last map of a layer is not computed again
    return {
        "base_bytes": base,
        "adapter_bytes": adapters,
        "moments_bytes": 2 * adapters,
        "features_bytes": itemsize * plan.rows * plan.message * width / (plan.mesh[0] * fsdp),
        "update_flops": share * (
            plan.rows * forward + plan.steps * plan.minibatch * (2 * forward - again + backward + 5 * head)
            + plan.rows * (forward + 2 * head)
        ),
        # Each chunk of rows fetches every kernel: once to see where it stands and once at the trial, twice in each step.
        "gathered_bytes": (fsdp > 1) * (2 * plan.rows + 2 * plan.steps * plan.minibatch) / plan.micro_batch
        * itemsize * plan.layers * layer / tensor,
        # Over tensor: after o and down; in a step o again, and backward before q, k, v, gate and up.
        "reduced_bytes": (tensor > 1) * (4 * plan.rows + 8 * plan.steps * plan.minibatch)
        * itemsize * plan.layers * plan.length * width / (plan.mesh[0] * fsdp),
        "kept_bytes": itemsize * plan.layers * plan.micro_batch * plan.length * width / (plan.mesh[0] * fsdp),
        "cache_bytes": 2 * itemsize * plan.layers * keys * plan.length * plan.rows / (plan.mesh[0] * fsdp * tensor),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ by the compiler


def _abstract(tree: Any, where: Any) -> Any:
    import jax

    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)


def lowered(plan: Plan, mesh: Any) -> tuple[Any, dict[str, int]]:
    """The update's program for abstract arrays on the mesh, and bytes of its arguments on one device."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from teamtr_jax.llm.given import NOTHING
    from teamtr_jax.llm.language_model import Reading
    from teamtr_jax.llm.llama.config import config_of
    from teamtr_jax.llm.llama.lora import Lora
    from teamtr_jax.llm.mesh import ROWS, shardings
    from teamtr_jax.llm.text_update import _Program, _update, learner
    from teamtr_jax.llm.update import Lesson
    from teamtr_jax.llm.update_settings import UpdateSettings, parts

    model = replace(
        config_of({**LLAMA_3_8B, "num_hidden_layers": plan.layers}),
        lora=Lora(plan.rank, 2.0 * plan.rank), remat=True, dtype=plan.dtype,
    )  # fmt: skip
    settings = UpdateSettings(epochs=plan.epochs, minibatch=plan.minibatch, micro_batch=plan.micro_batch)
    params = jax.eval_shape(model.init, jax.random.key(0))
    own, frozen = jax.eval_shape(lambda p: learner(model, p, settings), params)
    own, frozen = (_abstract(tree, shardings(tree, model.partition(), mesh)) for tree in (own, frozen))

    def rows(dtype: str, *shape: int) -> Any:
        where = NamedSharding(mesh, PartitionSpec(ROWS))
        return jax.ShapeDtypeStruct((plan.rows, *shape), jnp.dtype(dtype), sharding=where)

    text, mine = (1, plan.length), (1, plan.message)
    reading = Reading(rows("int32", *text), rows("bool", *text), rows("int32", *mine), rows("int32", *mine),
                      rows("bool", *mine), rows("bool", *mine))  # fmt: skip
    lesson = Lesson(*(rows("float32") for _ in range(4)))
    order = jax.ShapeDtypeStruct((plan.epochs, plan.rows), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    compiled, traced = parts(settings)
    program = _Program(model, NOTHING)
    with jax.set_mesh(mesh):
        out = _update.lower(
            program, compiled, own, frozen, np.float32(1.0), reading, lesson, traced=traced, order=order
        )

    def size(tree: Any) -> int:
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    found = {"base_bytes": size(frozen), "adapter_bytes": size(own.trained), "moments_bytes": size(own.moments)}
    return out, found


def measure(plan: Plan, target: str, hlo: Path | None = None) -> dict[str, Any]:
    """What the compiler says of the program, for one device."""
    import jax

    if target == "cpu":
        jax.config.update("jax_num_cpu_devices", plan.devices)
        devices = None
    else:
        from jax.experimental import topologies

        devices = topologies.get_topology_desc(target, "tpu").devices
    from benchmarks.hlo import collectives, dot_flops, loops_unknown
    from teamtr_jax.llm.mesh import mesh_of

    mesh = mesh_of(*plan.mesh, devices=devices)
    begin = time.time()
    program, arguments = lowered(plan, mesh)
    middle = time.time()
    compiled = program.compile()
    end = time.time()
    text = compiled.as_text()
    if hlo:
        hlo.write_text(text)
    memory = compiled.memory_analysis()
    sums: dict[str, dict[str, float]] = {}
    for found in collectives(text):
        total = sums.setdefault(found.kind, {"count": 0, "bytes": 0})
        total["count"] += found.times
        total["bytes"] += found.times * found.size
    vocabulary = LLAMA_3_8B["vocab_size"]
    wide = [
        x
        for x in collectives(text)
        if any(d in (vocabulary, vocabulary // plan.mesh[2]) for _, s in x.shapes for d in s)
    ]
    return {
        "plan": plan._asdict(), "target": target, "jax": jax.__version__, "lower_seconds": round(middle - begin, 1),
        "compile_seconds": round(end - middle, 1), "arguments": arguments,
        "memory": {name: getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "temp", "alias")}
        | {"peak": getattr(memory, "peak_memory_in_bytes", None)},
        "collectives": sums, "vocabulary_wide_collectives": len(wide), "unknown_loops": loops_unknown(text),
        "dot_flops": dot_flops(text),
        "largest": [(x.kind, x.shapes[:3], x.times, x.size * x.times, x.where[-80:]) for x in collectives(text)[:12]],
        "cost_analysis_flops": (compiled.cost_analysis() or {}).get("flops"),
        "by_hand": by_hand(plan),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- the table


def table(files: Sequence[Path]) -> str:
    """What files of `measure` hold, beside formulas, in Markdown; of one device, and one update of one agent."""
    found = [json.loads(file.read_text()) for file in files]
    plans = [Plan(**{**each["plan"], "mesh": tuple(each["plan"]["mesh"])}) for each in found]
    hands = [by_hand(plan) for plan in plans]

    def row(name: str, hand: Callable[[dict[str, float]], str], seen: Callable[[dict[str, Any]], str]) -> str:
        return f"| {name} | " + " | ".join(f"{hand(h)} | {seen(f)}" for h, f in zip(hands, found, strict=True)) + " |"

    def gb(value: float | None) -> str:
        return "" if value is None else f"{value / 1e9:.2f} GB"

    def sent(kinds: tuple[str, ...]) -> Callable[[dict[str, Any]], str]:
        # The CPU's partitioner sends bfloat16 as float32, which its products are made in.
        def of(each: dict[str, Any]) -> str:
            half = 0.5 if each["target"] == "cpu" and each["plan"]["dtype"] == "bfloat16" else 1
            return gb(half * sum(each["collectives"].get(kind, {"bytes": 0})["bytes"] for kind in kinds))

        return of

    def flops(value: float) -> str:
        return f"{value / 1e12:.0f} T" if value else ""

    heads = [f"{'×'.join(map(str, plan.mesh))}, {each['target']}" for plan, each in zip(plans, found, strict=True)]
    return "\n".join([
        "| of one device | " + " | ".join(f"{head}: by hand | XLA" for head in heads) + " |",
        "|---|" + "--:|" * 2 * len(heads),
        row("base, once for all agents", lambda h: gb(h["base_bytes"]), lambda f: gb(f["arguments"]["base_bytes"])),
        row("adapters of an agent", lambda h: gb(h["adapter_bytes"]), lambda f: gb(f["arguments"]["adapter_bytes"])),
        row("moments of an agent", lambda h: gb(h["moments_bytes"]), lambda f: gb(f["arguments"]["moments_bytes"])),
        row("caches of an agent", lambda h: gb(h["cache_bytes"]), lambda f: ""),
        row("features of the agent as it was", lambda h: gb(h["features_bytes"]), lambda f: ""),
        row("temporaries of an update; kept inputs of layers", lambda h: gb(h["kept_bytes"]), lambda f: gb(f["memory"]["temp"])),
        row("products of an update (flops)", lambda h: flops(h["update_flops"]), lambda f: flops(f["dot_flops"])),
        row("parameters fetched", lambda h: gb(h["gathered_bytes"]), sent(("all-gather", "collective-permute"))),
        row("activations summed", lambda h: gb(h["reduced_bytes"]), sent(("all-reduce", "reduce-scatter"))),
        row("collectives as wide as the vocabulary", lambda h: "0", lambda f: str(f["vocabulary_wide_collectives"])),
    ])  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", default="1x32x2")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE of the plan")
    parser.add_argument("--hlo", type=Path, help="write the compiled module there")
    parser.add_argument("--table", type=Path, nargs="+", help="print what these files hold")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    changed = {
        name: type(Plan._field_defaults[name])(value) for name, _, value in (x.partition("=") for x in options.set)
    }
    plan = Plan(tuple(int(x) for x in options.mesh.split("x")), **changed)  # pyright: ignore[reportArgumentType]
    if options.target != "cpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"v5litepod-{plan.devices}")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    found = measure(plan, options.target, options.hlo)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
