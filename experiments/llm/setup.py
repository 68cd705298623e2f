"""What a run is made of, and the parameters that it starts from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.llm.plugins import task_identity, task_of
from experiments.llm.settings import TEST_PROMPTS, Train
from experiments.networks import Training, team_for, training_of
from teamtr_jax.checkpoint import Checkpoint, latest, read_manifest, restore, save
from teamtr_jax.llm.description import describe_team
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.llm.model import LanguageTeam, Params, init_team
from teamtr_jax.llm.sizes import require_room
from teamtr_jax.llm.tasks import Problem, Source, draw
from teamtr_jax.llm.warm_start import require_room_to_start, warm_start
from teamtr_jax.records import dump
from teamtr_jax.sharing import Sharing
from teamtr_jax.validation import InputError

__all__ = ["Setup", "set_up", "begins", "describe", "start_of", "kept_start", "held_out_problems"]


@dataclass(frozen=True)
class Setup(Training):
    """Everything that a run is made of, checked, nothing computed yet."""

    test: list[Problem]
    probes: list[Problem]
    rows: int  #: conversations of one call of the sampler where accuracy is measured


def set_up(settings: Train) -> Setup:
    """Check the settings, one against the other.

    Raises:
      InputError: names what does not fit.
    """
    method, task = METHODS[settings.method], task_of(settings.task, settings.difficulty or ())
    sharing = None if settings.sharers is None else Sharing(settings.sharers, settings.updates)
    team = team_for(task, settings.model, method.lone, settings.temperature, sharing)
    chosen = {name: getattr(settings, name) for name in ("delta", "learning_rate", "epochs")}
    update = replace(method.settings, **chosen)
    rows = settings.prompts * settings.group
    training = training_of(task, team, method, update, rows, settings.group, settings.order)
    require_room(team, "prompts, group", training.sampling.rows, update.micro_batch, update.epochs)
    require_room(team, "prompts, group", rows)
    require_room_to_start(team, settings.warm)
    test = held_out_problems(task, np.random.default_rng([settings.seed, 2]), settings.test_prompts)
    probes = draw(task, np.random.default_rng([settings.seed, 3]), settings.probe_prompts, held_out=True)
    return Setup(**{f.name: getattr(training, f.name) for f in fields(training)}, test=test, probes=probes, rows=rows)


def held_out_problems(
    task: Source, rng: np.random.Generator, size: int | None, usual: int = TEST_PROMPTS, name: str = "test_prompts"
) -> list[Problem]:
    """Distinct held-out problems; `usual` of them, or as many as the task has, where no number is given.

    Args:
      name: of the setting that gives the number.

    Raises:
      InputError: fewer than were asked for, or none.
    """
    found = draw(task, rng, usual if size is None else size, held_out=True, distinct=True, fewer=True)
    if size is not None and len(found) < size:
        expected = f"at most {len(found)}: no more distinct held-out prompts of {task.name!r} were found"
        raise InputError(name, size, expected)
    return found


def begins(settings: Train, team: LanguageTeam) -> dict[str, Any]:
    """What decides the parameters that training starts from, as JSON."""
    about = {"task": task_identity(settings.task)}
    about |= {name: getattr(settings, name) for name in ("difficulty", "temperature", "seed")}
    return json.loads(dump({**about, "warm": asdict(settings.warm), "team": describe_team(team)}))


def describe(settings: Train, setup: Setup) -> dict[str, Any]:
    """What decides the records of a run, as JSON."""
    about = {name: getattr(settings, name) for name in ("method", "order", "prompts", "group", "probe_prompts")}
    about |= {
        "schedule": setup.method.schedule.name,
        "update": asdict(setup.update),
        "sampling": asdict(setup.sampling),
    }
    return json.loads(dump({**begins(settings, setup.team), **about}))


def start_of(settings: Train, setup: Setup, folder: Path) -> tuple[Params, dict[str, Any]]:
    """The warm-started parameters, from `folder` if they are there, and how they were found.

    Raises:
      InputError: the folder holds a start made under other settings.
    """
    team = setup.team
    key = jax.random.fold_in(jax.random.key(settings.seed), 0)
    want = begins(settings, team)
    like = jax.eval_shape(lambda: init_team(team, key))
    if (found := kept_start(folder, want, like)) is not None:
        return found.tree, found.metadata["record"]
    began = time.perf_counter()
    params, record = warm_start(team, setup.task, init_team(team, key), settings.seed, settings.warm)
    about = {**record._asdict(), "seconds": time.perf_counter() - began}
    save(folder, record.steps, params, {"settings": want, "team": want["team"], "record": about})
    return params, json.loads(dump(about))


def kept_start(folder: Path, want: Mapping[str, Any], like: Any) -> Checkpoint | None:
    """The start that a folder holds; none where it holds nothing.

    Args:
      want: what decides where training starts, as JSON.
      like: the parameters, or their shapes.

    Raises:
      InputError: a start made under other settings, or no start.
    """
    if (step := latest(folder)) is None:
        return None
    have = read_manifest(folder, step)["metadata"].get("settings")
    if not isinstance(have, Mapping):
        raise InputError(str(folder), "a checkpoint of something else", "the start of a run of `train`")
    for name in [*want, *(name for name in have if name not in want)]:
        if have.get(name) != want.get(name):
            raise InputError(
                f"settings: {name}", want.get(name), f"{have.get(name)}, as in {folder} (or another folder)"
            )
    return restore(folder, like, step)
