"""One run: warm start, stages of training, held-out accuracy before and after. Resumable; everything is kept in one folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from experiments.llm.keeping import (
    ABOUT,
    COMPILATIONS,
    FIGURES,
    START,
    SUMMARY,
    TIMED,
    TOKENS,
    Compilations,
    Write,
    done_of,
    finished,
    gained,
    joined,
    label,
    merge_logs,
    read_summary,
    stage_seconds,
    tensorboard,
    try_places,
)
from experiments.llm.measure import RULE, Conversations, Probe, converse, remembering
from experiments.llm.plugins import TASK_FILE, task_file
from experiments.llm.settings import TEST_PROMPTS, Train
from experiments.llm.setup import Setup, describe, set_up, start_of
from experiments.networks import backend_of, train_stage
from experiments.saved import read, write_bytes, write_json
from teamtr_jax.checkpoint import latest, restore
from teamtr_jax.files import reason
from teamtr_jax.llm.backend import TokenLogger
from teamtr_jax.llm.model import ModelConfig, Params, init_team, parameter_count
from teamtr_jax.llm.update import TrainState, init_train_state
from teamtr_jax.llm.warm_start import WarmStart
from teamtr_jax.monitor import write_token_log
from teamtr_jax.records import dump, update_lines
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.training import CHECKPOINTS, read_records, train
from teamtr_jax.validation import InputError, shown

__all__ = ["ABOUT", "SUMMARY", "START", "TOKENS", "TIMED", "FIGURES", "train_run", "read_summary", "Loaded", "load_run",
           "Compilations", "COMPILATIONS"]  # fmt: skip


def train_run(settings: Train, start: Path | None = None) -> dict[str, Any]:
    """Train from where the folder is, and write the summary.

    Args:
      start: folder of the warm start, if it is shared with other runs.

    Raises:
      InputError: before any work.
    """
    began, compilations = time.perf_counter(), COMPILATIONS.count
    try_places(settings)
    setup = set_up(settings)
    if settings.test_prompts is None and len(setup.test) < TEST_PROMPTS:
        print(f"{shown(setup.task.name)}: {len(setup.test)} held-out prompts are all that were found")
    write = tensorboard(settings, setup.team.agents)
    home = settings.out
    about = describe(settings, setup)
    saved = latest(home / CHECKPOINTS)
    if saved is not None and saved > settings.stages:
        raise InputError("stages", settings.stages, f"at least {saved}, which {home} holds")
    start = home / START if start is None else start
    warmed = latest(start) is not None
    params, warm = start_of(settings, setup, start)
    asked = {**_asked(settings), "start": str(os.path.relpath(start, home))}
    own = task_file(settings.task)
    if saved is None:
        write_json(home / ABOUT, asked)
    if own is not None and not (home / TASK_FILE).exists():
        write_bytes(home / TASK_FILE, own.source)
    root = jax.random.key(settings.seed)
    test_key, probe_key, train_key = (jax.random.fold_in(root, i) for i in (1, 2, 3))
    compiled: list[int] = []
    stage = _stages(settings, setup, probe_key, write, compiled)

    def accuracy(params: Params) -> Conversations:
        return converse(setup.team, params, setup.task, setup.test, settings.test_samples, test_key, setup.rows)

    first = init_train_state(setup.team, params, setup.update)
    state, _ = train(stage, first, settings.stages, train_key, home, about, settings.progress)
    write_json(home / ABOUT, asked)
    if saved == settings.stages and (summary := finished(settings, len(setup.test))) is not None:
        return summary
    gain = gained(accuracy(params), accuracy(state.params))
    if settings.log:
        merge_logs(home, settings.log, settings.stages)
    records = read_records(home)
    earlier = sum(took for k, took in stage_seconds(records).items() if k < (saved or 0)) + warmed * warm["seconds"]
    done = done_of(records)
    summary = {
        "schema": 1,
        **gain,
        "test_prompts": len(setup.test),
        "test_samples": settings.test_samples,
        **done,
        "seconds": time.perf_counter() - began + earlier,
        "seconds_warm_start": warm["seconds"],
        "probe_prompts": settings.probe_prompts,
        "regression_rule": RULE,
        "compilations": COMPILATIONS.count - compilations,
        "compilations_after_first_stage": compiled[-1] - compiled[0] if compiled else 0,
        "parameters": parameter_count(state.params) // setup.team.who.sets,
        "warm_start": warm,
        "seed": settings.seed,
        "method": settings.method,
        "task": label(settings.task),
        "difficulty": settings.difficulty,
        "stages": settings.stages,
    }
    write_json(home / SUMMARY, summary)
    return json.loads(dump(summary))


Stage = Callable[[TrainState, Array, int], tuple[TrainState, list[dict[str, Any]]]]


def _stages(settings: Train, setup: Setup, probe_key: Array, write: Write, compiled: list[int]) -> Stage:
    """What `train` calls for each stage: updates, probed and logged; into `compiled` goes how many programs there are by then."""
    parts: list[dict[str, NDArray[Any]]] = []
    log = TokenLogger(parts.append, rescore=True) if settings.log else None
    states: list[TrainState] = []
    backend = remembering(backend_of(setup, log=log), states)

    def rewards(state: TrainState) -> NDArray[np.float64]:
        return converse(setup.team, state.params, setup.task, setup.probes, 1, probe_key, setup.rows).reward

    probe = Probe(rewards if setup.probes else None)

    def stage(state: TrainState, key: Array, k: int) -> tuple[TrainState, list[dict[str, Any]]]:
        begin = time.perf_counter()
        if log is not None:
            parts.clear()
            log.begin(k)
        states[:] = [state]
        final, records = train_stage(setup, backend, state, key, k)
        lines = update_lines(records)
        for line, before, after in zip(lines, states[:-1], states[1:], strict=True):
            line["delta"] = setup.update.delta
            line["probe"] = probe.report(before, after)
        if log is not None:
            (settings.out / TOKENS).mkdir(exist_ok=True)
            path = settings.out / TOKENS / f"{k:08d}.{settings.log}"
            write_token_log(path, joined(parts), sampler=Sampler(settings.temperature, precision=settings.model.dtype))
        for line in lines:
            line["time_stage"] = time.perf_counter() - begin
            write(line)
        compiled.append(COMPILATIONS.count)
        return final, lines

    return stage


class Loaded(NamedTuple):
    """A saved run."""

    settings: Train
    setup: Setup
    params: Params
    stages: int  #: done
    records: list[dict[str, Any]]


def load_run(home: Path, start: bool = False) -> Loaded:
    """The team as it was saved last, or as it was before training.

    Raises:
      InputError: no such run, or a damaged one.
    """
    if not (home / ABOUT).exists():
        found = f"no {ABOUT}" if home.is_dir() else "no such folder" if not home.exists() else "no folder"
        raise InputError(str(home), found, "the folder of a run of `train`")
    settings, begun = _read_settings(home)
    setup = set_up(settings)
    done = latest(home / CHECKPOINTS)
    if start or done is None:
        if latest(begun) is None:
            raise InputError(str(begun), "no checkpoint", f"the team that the run in {home} started from")
        return Loaded(settings, setup, start_of(settings, setup, begun)[0], 0, [])
    shapes = jax.eval_shape(
        lambda: init_train_state(setup.team, init_team(setup.team, jax.random.key(0)), setup.update)
    )
    state: TrainState = restore(home / CHECKPOINTS, shapes, done).tree
    return Loaded(settings, setup, state.params, done, read_records(home) if done else [])


def _asked(settings: Train) -> dict[str, Any]:
    own = task_file(settings.task)
    about = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    return {**about, "task": label(settings.task), "task_sha256": None if own is None else own.digest}


def _read_settings(home: Path) -> tuple[Train, Path]:
    """What a run was asked for, its task taken from its own copy, and the folder of its start."""
    path, expected = home / ABOUT, "the settings of a run of `train`, as it wrote them"
    asked = read(path, expected)
    try:
        begun, digest, task = (asked.pop(name) for name in ("start", "task_sha256", "task"))
        if digest is not None:
            task = f"{home / TASK_FILE}:{task.rpartition(':')[2]}"
            own = task_file(task)
            if own is None or own.digest != digest:
                raise InputError(
                    str(home / TASK_FILE), "another file (its SHA-256 is another one)", "the task of the run"
                )
        asked |= {"out": home, "task": task, "difficulty": tuple(asked["difficulty"]), "model": ModelConfig(**asked["model"]),
                  "warm": WarmStart(**asked["warm"])}  # fmt: skip
        return Train(**asked), home / begun
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(str(path), f"settings of another program ({reason(error)})", expected) from error
