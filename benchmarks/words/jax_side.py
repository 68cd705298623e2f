"""The package's side: ``python -m benchmarks.words.jax_side sample smollm2``.

* `one`: `converse` of a team of one, every row reading a prompt of its own; `one_shared`: the same rows, of which each group of
  eight reads its prompt once, as rollouts do.
* `three`: a team of three on one base, an adapter each, that writes as many tokens in three turns; `alone_t`: one agent that
  reads the same transcript up to turn t and writes that message: what each member would pay for its own.
* `lora`: conversations, rewards, advantages and one update of the adapters over all tokens; the KL is measured on all rollouts
  afterwards, a pass that TRL does without.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.llm.jax_side import TOLERANCE, peak
from benchmarks.llm.sizes import GROUP, LEARNING_RATE, serve
from benchmarks.stage import cores
from benchmarks.words.shapes import AGENTS, RANK, Shape, shape_of
from teamtr_jax.llm.conversations import Conversations, reading_of
from teamtr_jax.llm.language_model import joined, split_trained
from teamtr_jax.llm.llama.config import LlamaConfig
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.losses import rollout_advantage
from teamtr_jax.llm.text.drift import Drift
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Told
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.text_team import TextAgent, TextTeam
from teamtr_jax.llm.text_update import learner, score_reading, shared_of, update_reading
from teamtr_jax.llm.update import Lesson
from teamtr_jax.llm.update_settings import UpdateSettings

TOLERANCES = {"float32": 30 * TOLERANCE, "bfloat16": 1.0}
"""Cached against teacher-forced log-probabilities: of 30 layers in float32; bfloat16 is rounding."""


@dataclass(frozen=True)
class Numbers:
    """A scribe whose texts are ids, written in decimals: what is measured is networks, not tokenizers."""

    stops: tuple[tuple[int, ...], ...] = ()

    def told_first(self, problem: str, heard: Sequence[tuple[str, str]]) -> Told:
        return Told([int(i) for text in (problem, *(said for _, said in heard)) for i in text.split()], 0)

    def told_next(self, own_ids: Sequence[int], heard: Sequence[tuple[str, str]], used: int) -> Told:
        return self.told_first("", heard)

    def read(self, own_ids: Sequence[int]) -> str:
        return " ".join(map(str, own_ids))

    def drift(self, own_ids: Sequence[int]) -> Drift:
        return Drift(len(own_ids), 0, -1, 0.0)


def model_of(shape: Shape, adapters: bool) -> LlamaConfig:
    """The network, as a run on a CPU has it."""
    each = shape.width // shape.heads
    return LlamaConfig(
        shape.vocabulary, shape.width, shape.layers, shape.heads, shape.kv_heads, each, shape.hidden, tied=True,
        longest=1024, dtype=shape.dtype, lora=Lora(RANK, 2.0 * RANK) if adapters else None, unroll=True,
    )  # fmt: skip


def team_of(shape: Shape, agents: int, cap: int, turns: int, adapters: bool) -> TextTeam:
    """Agents on one network that take turns."""
    model = model_of(shape, adapters)
    return TextTeam(tuple(TextAgent(Role(str(k), cap=cap), model, Numbers()) for k in range(agents)), turns)


def params_of(team: TextTeam) -> tuple[Any, ...]:
    """The base once; an adapter for each set of parameters."""
    model = team.models[0]
    first = jax.jit(model.init)(jax.random.key(0))
    if team.who.sets == 1:
        return (first,)
    trained, frozen = split_trained(first, model.trained(first))
    return tuple(joined(jax.tree.map(lambda x, k=k: x + 0.01 * k, trained), frozen) for k in range(team.who.sets))


def problems_of(shape: Shape, length: int, group: int) -> list[str]:
    """Random ids, as texts."""
    rows = np.random.default_rng(1).integers(0, shape.vocabulary, (shape.batch // group, length))
    return [" ".join(map(str, row)) for row in rows.tolist()]


def agree(shape: Shape, team: TextTeam, params: Sequence[Any], said: Conversations) -> None:
    """Booked log-probabilities are the teacher-forced ones."""
    for which in range(team.who.sets):
        reading, model = reading_of(team, said, which), team.models[which]
        trained, frozen = split_trained(params[which], model.trained(params[which]))
        found = np.asarray(score_reading(model, trained, frozen, reading, micro_batch=shape.micro))
        mine = said.logp[said.speaker == which].reshape(found.shape[0], -1, said.logp.shape[2])
        error = float(np.abs(found - mine).max())
        if not error <= TOLERANCES[shape.dtype]:
            raise SystemExit(f"agent {which}: booked and teacher-forced log-probabilities differ by {error:.1e}")


def sampler(shape: Shape, team: TextTeam, length: int, group: int = 1) -> Callable[[], Conversations]:
    """`converse` with a new key at each call, on prompts of so many ids."""
    params, problems, calls = params_of(team), problems_of(shape, length, group), count()

    def run() -> Conversations:
        return converse(team, params, problems, jax.random.key(next(calls)), group)

    agree(shape, team, params, run())
    return run


def reward_of(text: str, shape: Shape) -> float:
    """The share of ids in the lower half."""
    ids = text.split()
    return sum(int(i) < shape.vocabulary // 2 for i in ids) / max(len(ids), 1)


def step_of(shape: Shape) -> Callable[[], None]:
    """A GRPO step of a team of one, from prompts to new adapters."""
    sample, update = parts_of_a_step(shape)
    return lambda: update(sample())


def parts_of_a_step(shape: Shape) -> tuple[Callable[[], Conversations], Callable[[Conversations], None]]:
    """Its conversations, and the update on them."""
    team = team_of(shape, 1, shape.new, 1, True)
    settings = UpdateSettings(
        learning_rate=LEARNING_RATE, epochs=1, minibatch=shape.batch, micro_batch=shape.micro, ratio="token", average="unit",
        penalty="k1", beta=0.0, adaptive=False, monitor="k1", early_stop=False, step_rule="none",
    )  # fmt: skip
    own, frozen = learner(team.models[0], params_of(team)[0], settings)
    problems, calls, ones = problems_of(shape, shape.prompt, GROUP), count(), jnp.ones(shape.batch)
    order = jnp.arange(shape.batch, dtype=jnp.int32)[None]

    def sample() -> Conversations:
        return converse(team, [joined(own.trained, frozen)], problems, jax.random.key(next(calls)), GROUP)

    def update(said: Conversations) -> None:
        nonlocal own
        reward = np.array([reward_of(texts[0], shape) for texts in said.said], np.float32).reshape(-1, GROUP)
        advantage = rollout_advantage(jnp.asarray(reward), "group_normalised", 5.0).reshape(-1)
        lesson = Lesson(advantage, advantage, ones, ones)
        reading = reading_of(team, said, 0, 0)
        shared = shared_of(reading, GROUP)
        found = update_reading(team.models[0], settings, own, frozen, reading, lesson, order, shared=shared)
        own = own._replace(trained=found.trained, moments=found.moments)
        if not np.isfinite(jax.block_until_ready(found.outcome.numbers["message_kl"])):
            raise SystemExit("a KL that is no number")

    return sample, update


def contenders(what: str, shape: Shape) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    if what == "step":
        return {"lora": step_of(shape), "jax_matmul": peak()}
    if what == "sample":
        one = team_of(shape, 1, shape.new, 1, False)
        return {"one": sampler(shape, one, shape.prompt), "one_shared": sampler(shape, one, shape.prompt, GROUP),
                "jax_matmul": peak()}  # fmt: skip
    cap = shape.new // AGENTS
    out: dict[str, Callable[[], object]] = {"jax_matmul": peak()}
    out["three"] = sampler(shape, team_of(shape, AGENTS, cap, AGENTS, True), shape.prompt)
    for turn in range(AGENTS):
        out[f"alone_{turn}"] = sampler(shape, team_of(shape, 1, cap, 1, True), shape.prompt + turn * cap)
    return out


def main() -> None:
    """What, and of which shape."""
    what, shape = sys.argv[1], shape_of(sys.argv[2])
    jax.config.update("jax_num_cpu_devices", 1)
    versions = dict(python=platform.python_version(), jax=jax.__version__, optax=optax.__version__)
    model = model_of(shape, False)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
    about = dict(versions=versions, device=jax.devices()[0].device_kind, cores=len(cores()), parameters=parameters)
    serve(contenders(what, shape), about)


if __name__ == "__main__":
    main()
