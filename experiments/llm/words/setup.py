"""What a run of checkpoints is made of: bases, adapters, roles, a task in words, and how they are trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.llm.plugins import loaded, task_file, task_identity, task_settings, word_task_of
from experiments.llm.setup import held_out_problems
from experiments.llm.words.bases import base_path, digest_beside
from experiments.llm.words.hosts import params_on
from experiments.llm.words.settings import TEXT_PROMPTS, TextTrain
from experiments.networks import ORDERS
from teamtr_jax.llm.backend import LanguageSampling
from teamtr_jax.llm.checkpoint_team import team_of
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.llama.load import Agent, load_agent
from teamtr_jax.llm.llama.network import PARTITION
from teamtr_jax.llm.llama.tensors import on_device
from teamtr_jax.llm.mesh import placing
from teamtr_jax.llm.methods import METHODS, Method
from teamtr_jax.llm.tasks import Demonstrates, JsonLines, Problem, WordTask, jsonl_task
from teamtr_jax.llm.tasks.answers import READERS
from teamtr_jax.llm.text.role import Role
from teamtr_jax.llm.text.view import Scribe
from teamtr_jax.llm.text_team import TextTeam
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.records import dump
from teamtr_jax.sampled import prompts_per_set
from teamtr_jax.schedules import Order
from teamtr_jax.sharing import Sharing
from teamtr_jax.validation import InputError

__all__ = ["TextSetup", "set_up_text", "describe_text", "text_task_of", "roles_of"]


@dataclass(frozen=True)
class TextSetup:
    """Everything that a run is made of, checked, nothing computed yet."""

    task: WordTask
    team: TextTeam
    desks: tuple[Scribe, ...]  #: of the agents, in the order of roles
    params: tuple[Params, ...]  #: as training begins, one for each set of parameters; frozen arrays are there once
    bases: tuple[dict[str, Any], ...]  #: of each set: name and digests
    method: Method
    update: UpdateSettings
    sampling: LanguageSampling
    order: Order
    budget: int  #: rollouts of a stage
    test: list[Problem]
    probes: list[Problem]
    rows: int  #: conversations of one call of the sampler where accuracy is measured
    mesh: Mesh | None = None  #: where parameters lie and rows are divided


def text_task_of(settings: TextTrain) -> WordTask:
    """The task: of the package, of a Python file, or a data set.

    Raises:
      InputError: names the task, the setting, the verifier, or the line of the file.
    """
    difficulty = settings.difficulty or ()
    if not settings.task.endswith(".jsonl"):
        if settings.verifier != "number":
            raise InputError(
                "verifier", settings.verifier, f"none: {settings.task} has its own; it is of a .jsonl file"
            )
        return word_task_of(settings.task, difficulty)
    more: dict[str, Any] = task_settings(difficulty)
    if unknown := sorted(set(more) - {"agents", "cap"}):
        raise InputError("difficulty", unknown[0], "agents, cap: the settings of a data set")
    own = task_file(settings.verifier)
    if own is None:
        return jsonl_task(settings.task, settings.verifier, **more)
    function = loaded(own)
    if not callable(function):
        found = f"{own.name}, which is no function"
        raise InputError("verifier", found, f"problem, messages → reward, or one of {', '.join(READERS)}")
    return jsonl_task(settings.task, task_identity(settings.verifier), own=cast(Any, function), **more)


def roles_of(settings: TextTrain, task: WordTask) -> tuple[Role, ...]:
    """The task's roles with the system prompts and the cap that were asked for.

    Raises:
      InputError: a prompt for a role that is not there.
    """
    prompted = settings.prompted
    names = [role.name for role in task.roles]
    if unknown := [name for name in prompted if name not in names]:
        raise InputError("roles", unknown[0], " or ".join(names))
    cap = {} if settings.cap is None else {"cap": settings.cap}
    return tuple(replace(role, system=prompted.get(role.name, role.system), **cap) for role in task.roles)


def set_up_text(settings: TextTrain, mesh: Mesh | None = None) -> TextSetup:
    """Check the settings, one against the other, and read the checkpoints, each array to where it lies.

    Raises:
      InputError: names what does not fit.
    """
    method, task = METHODS[settings.method], text_task_of(settings)
    roles = roles_of(settings, task)
    n = len(roles)
    if settings.warm.steps and not isinstance(task, Demonstrates):
        raise InputError("warm.steps", settings.warm.steps, f"0: {task.name} has no demonstrations")
    if len(settings.base) not in (1, n):
        raise InputError("base", f"{len(settings.base)} checkpoints", f"one for all, or {n}, one for each role")
    paths = [base_path(base) for base in settings.base] * (n if len(settings.base) == 1 else 1)
    sharing = Sharing(tuple(range(n)) if settings.sharers is None else settings.sharers, settings.updates)
    if sharing.agents != n:
        raise InputError("sharers", settings.sharers, f"{n} numbers, one for each role")
    for k, number in enumerate(sharing.sharers):
        if paths[k] != paths[first := sharing.firsts[number]]:
            raise InputError(
                f"base of {roles[k].name}", paths[k], f"{paths[first]}, that of {roles[first].name}, a sharer"
            )
    rng = np.random.default_rng([settings.seed, 2])
    test = held_out_problems(task, rng, settings.test_prompts, TEXT_PROMPTS)
    probes: list[Problem] = []
    if settings.probe_prompts:
        rng = np.random.default_rng([settings.seed, 3])
        probes = held_out_problems(task, rng, settings.probe_prompts, name="probe_prompts")
    known = {path: _agent(settings, path, mesh) for path in dict.fromkeys(paths)}
    agents = [known[path] for path in paths]
    key = None if settings.full else jax.random.fold_in(jax.random.key(settings.seed), 0)
    team, params = team_of(agents, roles, task.turns, key=key, sharing=sharing, temperature=settings.temperature)
    desks = tuple(cast(Scribe, agent.scribe) for agent in team.agents)
    chosen = {name: getattr(settings, name) for name in ("delta", "learning_rate", "epochs", "micro_batch")}
    rollouts = settings.prompts * settings.group
    update = replace(method.settings, **chosen, minibatch=_minibatch(rollouts, settings))
    budget, updates = rollouts * n, len(sharing.leaders)
    sampling = LanguageSampling(prompts_per_set(budget, method.schedule, updates, settings.group), settings.group)
    bases = tuple(
        {"name": agents[k].name, "sha256": agents[k].digest, "beside_sha256": digest_beside(paths[k])}
        for k in sharing.firsts
    )
    order = method.order or ORDERS[settings.order](updates)
    params = params_on(team, params, mesh)
    return TextSetup(
        task, team, desks, params, bases, method, update, sampling, order, budget, test, probes, rollouts, mesh
    )


def _minibatch(rollouts: int, settings: TextTrain) -> int:
    """Rollouts of a step: so many that a pass has about `settings.steps`, a multiple of the micro-batch."""
    return max(1, rollouts // (settings.steps * settings.micro_batch)) * settings.micro_batch


def _agent(settings: TextTrain, path: Path, mesh: Mesh | None) -> Agent:
    """A checkpoint, with adapters or in full, as it computes in this run."""
    place = on_device if mesh is None else placing(PARTITION, mesh)
    found = load_agent(path, dtype=settings.dtype, lora=None if settings.full else settings.lora.lora, place=place)
    return found._replace(model=replace(found.model, remat=settings.remat, unroll=settings.unroll))


def describe_text(settings: TextTrain, setup: TextSetup) -> dict[str, Any]:
    """What decides the records of a run, as JSON."""
    task, team = setup.task, setup.team
    about: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "difficulty",
            "method",
            "order",
            "prompts",
            "group",
            "temperature",
            "drift",
            "dtype",
            "full",
            "seed",
        )
    }
    about |= {
        "task": _identity(settings, task),
        "bases": setup.bases,
        "lora": None if settings.full else asdict(settings.lora),
        "warm": asdict(settings.warm),
        "roles": [{**asdict(desk.role), "template": getattr(desk.template, "source", None)} for desk in setup.desks],
        "turns": team.turns,
        "context": [desk.context for desk in setup.desks],
        "sharing": asdict(team.who),
        "schedule": setup.method.schedule.name,
        "update": asdict(setup.update),
        "sampling": asdict(setup.sampling),
    }
    if settings.probe_prompts:  # runs of before there were any say nothing of them
        about["probe_prompts"] = settings.probe_prompts
    return json.loads(dump(about))


def _identity(settings: TextTrain, task: WordTask) -> Mapping[str, Any] | str:
    if isinstance(task, JsonLines):
        return {"sha256": task.digest, "verifier": task.verifier}
    return task_identity(settings.task)
