"""One run of checkpoints: stages of training, held-out accuracy before and after. Resumable; everything is kept in one folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
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
    START,
    SUMMARY,
    TOKENS,
    Write,
    done_of,
    finished,
    gained,
    joined,
    merge_logs,
    stage_seconds,
    tensorboard,
    try_places,
)
from experiments.llm.measure import RULE, Conversations, Probe, remembering
from experiments.llm.words.hosts import mesh_there, require_same_call, require_same_texts, state_on
from experiments.llm.words.room import room_for
from experiments.llm.words.settings import Adapters, TextTrain
from experiments.llm.words.setup import TextSetup, describe_text, set_up_text
from experiments.llm.words.starting import TextStart, start_of_text
from experiments.saved import read, write_json
from teamtr_jax.checkpoint import latest, read_manifest, restore
from teamtr_jax.files import reason
from teamtr_jax.hosts import as_spread, from_first, is_first, on_first
from teamtr_jax.llm.language_model import Params
from teamtr_jax.llm.mesh import require_parts, within
from teamtr_jax.llm.tasks import Problem, earned, views_of
from teamtr_jax.llm.text.drift import DriftPolicy
from teamtr_jax.llm.text_backend import TextTalk, init_text_state, text_backend, whole_params
from teamtr_jax.llm.text_sampler import converse
from teamtr_jax.llm.text_warm_start import TextWarmStart
from teamtr_jax.llm.token_log import TokenLogger
from teamtr_jax.llm.update import TrainState
from teamtr_jax.monitor import write_token_log
from teamtr_jax.records import dump, update_lines
from teamtr_jax.sampler_settings import Sampler
from teamtr_jax.stage import run_stage
from teamtr_jax.training import CHECKPOINTS, read_records, train
from teamtr_jax.validation import InputError

__all__ = ["train_text", "talk", "TextLoaded", "load_text_run", "is_text_run"]

KIND = "text"
"""In the settings of a run, what tells it from one of toy networks."""


def talk(
    setup: TextSetup, params: Sequence[Params], problems: Sequence[Problem], samples: int, key: Array
) -> Conversations:
    """Converse and verify, `setup.rows` conversations at a time; `measure.converse` of teams that talk in text.

    Equal keys give equal uniforms to every conversation: teams are compared with common random numbers.

    Raises:
      InputError: a verifier that raises, or a reward outside [0, 1].
    """
    wanted = np.repeat(np.arange(len(problems)), samples)
    said: list[list[str]] = []
    for number, first in enumerate(range(0, wanted.size, setup.rows)):
        chosen = wanted[np.minimum(np.arange(first, first + setup.rows), wanted.size - 1)]
        views = [views_of(setup.task, problems[b]) for b in chosen.tolist()]
        with within(setup.mesh):
            found = converse(setup.team, params, views, jax.random.fold_in(key, number))
        said += [list(texts) for texts in found.said][: wanted.size - first]
    reward = [earned(setup.task, problems[b], texts) for b, texts in zip(wanted.tolist(), said, strict=True)]
    grouped = [said[i : i + samples] for i in range(0, len(said), samples)]
    return Conversations(np.reshape(reward, (len(problems), samples)), grouped)


def train_text(settings: TextTrain, start: Path | None = None) -> dict[str, Any]:
    """Train from where the folder is, and write the summary.

    Of several processes all call it alike; the first reads and writes the folder, prints, and has the summary, the others have
    nothing.

    Args:
      start: folder of the supervised start, if it is shared with other runs.

    Raises:
      InputError: before any work.
      FirstFailed: on other processes than the first, what the first one raised while it read or wrote.
    """
    began, compilations, home = time.perf_counter(), COMPILATIONS.count, settings.out
    require_same_call(settings)
    mesh = mesh_there(settings.mesh)
    on_first(lambda: try_places(settings))
    setup = set_up_text(settings, mesh)
    _require_parts(settings, setup)
    about = describe_text(settings, setup)
    require_same_texts("settings", about)
    _tell(room_for(setup))
    write = on_first(lambda: tensorboard(settings, len(setup.team.who.leaders))) or _nowhere
    saved = _saved(home)
    if saved is not None and saved > settings.stages:
        raise InputError("stages", settings.stages, f"at least {saved}, which {home} holds")
    start = home / START if start is None else start
    asked = {**_asked(settings), "start": str(os.path.relpath(start, home))}
    if saved is None:
        on_first(lambda: write_json(home / ABOUT, asked))
    begun = start_of_text(settings, setup, start)
    root = jax.random.key(settings.seed)
    test_key, probe_key, train_key = (jax.random.fold_in(root, i) for i in (1, 2, 3))
    first, frozen = init_text_state(setup.team, begun.params, setup.update)
    first = state_on(setup.team, first, mesh)
    stage = _stages(settings, setup, frozen, probe_key, write)
    state, _ = train(stage, first, settings.stages, train_key, home, about, settings.progress)
    on_first(lambda: write_json(home / ABOUT, asked))
    if saved == settings.stages:
        summary = on_first(lambda: finished(settings, len(setup.test)))
        if from_first(np.bool_(summary is not None)):
            return summary or {}
    measured = _measured(settings, setup, begun, whole_params(state, frozen), test_key)

    def summarise() -> dict[str, Any]:
        if settings.log:
            merge_logs(home, settings.log, settings.stages)
        records = read_records(home)
        earlier = sum(took for k, took in stage_seconds(records).items() if k < (saved or 0))
        summary = {
            "schema": 1,
            **measured,
            "warm_start": begun.record,
            "test_prompts": len(setup.test),
            "test_samples": settings.test_samples,
            "probe_prompts": settings.probe_prompts,
            **({"regression_rule": RULE} if settings.probe_prompts else {}),
            **done_of(records),
            "seconds": time.perf_counter() - began + earlier,
            "compilations": COMPILATIONS.count - compilations,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)) // setup.team.who.sets,
            **{name: about[name] for name in ("task", "difficulty", "bases", "method", "seed")},
            "stages": settings.stages,
        }
        write_json(home / SUMMARY, summary)
        return json.loads(dump(summary))

    return on_first(summarise) or {}


def _require_parts(settings: TextTrain, setup: TextSetup) -> None:
    """Refuse rows that the mesh does not divide."""
    rows = {"micro_batch": settings.micro_batch, "prompts, group": setup.sampling.rows}
    if settings.warm.steps:
        rows["warm.batch"] = settings.warm.batch
    for name, number in rows.items():
        require_parts(setup.mesh, name, number)


def _tell(text: str) -> None:
    if is_first():
        print(text, flush=True)


def _nowhere(line: Mapping[str, Any]) -> None:
    del line


def _saved(home: Path) -> int | None:
    """Stages that the folder holds, as the first process sees it."""
    found = on_first(lambda: latest(home / CHECKPOINTS))
    stages = int(from_first(np.int64(-1 if found is None else found)))
    return None if stages < 0 else stages


def _measured(
    settings: TextTrain, setup: TextSetup, begun: TextStart, trained: Sequence[Params], key: Array
) -> dict[str, Any]:
    """Part of the summary: held-out accuracy before training, after it, and before the supervised start."""

    def accuracy(params: Sequence[Params]) -> Conversations:
        return talk(setup, params, setup.test, settings.test_samples, key)

    before = accuracy(begun.params)
    gain = gained(before, accuracy(trained))
    untrained = accuracy(setup.params) if settings.warm.steps else before
    return {**gain, "accuracy_untrained": float(untrained.reward.mean())}


def _stages(settings: TextTrain, setup: TextSetup, frozen: Sequence[Params], probe_key: Array, write: Write) -> Any:
    """What `train` calls for each stage: updates, probed and logged."""
    parts: list[dict[str, NDArray[Any]]] = []
    log = TokenLogger(parts.append, rescore=True) if settings.log else None
    states: list[TrainState] = []
    backend = remembering(
        text_backend(
            setup.team, frozen, setup.task, setup.update, setup.sampling, TextTalk(DriftPolicy(settings.drift)), log=log,
            mesh=setup.mesh,
        ),
        states,
    )  # fmt: skip

    def rewards(state: TrainState) -> NDArray[np.float64]:
        return talk(setup, whole_params(state, frozen), setup.probes, 1, probe_key).reward

    probe = Probe(rewards if setup.probes else None)

    def write_log(k: int) -> None:
        (settings.out / TOKENS).mkdir(exist_ok=True)
        path = settings.out / TOKENS / f"{k:08d}.{settings.log}"
        write_token_log(path, joined(parts), sampler=Sampler(settings.temperature, precision=settings.dtype))

    def stage(state: Any, key: Array, k: int) -> tuple[Any, list[dict[str, Any]]]:
        begin = time.perf_counter()
        if log is not None:
            parts.clear()
            log.begin(k)
        states[:] = [state]
        final, records = run_stage(backend, state, setup.order, setup.method.schedule, key, k, setup.budget)
        lines = update_lines(records)
        if log is not None:
            on_first(lambda: write_log(k))
        for line, before, after in zip(lines, states[:-1], states[1:], strict=True):
            line |= {"delta": setup.update.delta, "probe": probe.report(before, after)}
        for line in lines:
            line["time_stage"] = time.perf_counter() - begin
            write(line)
        return final, lines

    return stage


class TextLoaded(NamedTuple):
    """A saved run."""

    settings: TextTrain
    setup: TextSetup
    params: tuple[Params, ...]
    stages: int  #: done
    records: list[dict[str, Any]]


def is_text_run(home: Path) -> bool:
    """Whether a folder holds the settings of a run of checkpoints."""
    return (home / ABOUT).is_file() and read(home / ABOUT, "the settings of a run of `train`").get("kind") == KIND


def load_text_run(home: Path, start: bool = False, mesh: str | None = None) -> TextLoaded:
    """The team as it was saved last, or as it was before training, on one device or on a mesh, wherever it was trained.

    Raises:
      InputError: no such run, a damaged one, or a base, a task or a data set that is another one now.
    """
    settings, begun = _read_settings(home)
    setup = set_up_text(settings, mesh_there(mesh))
    done = latest(home / CHECKPOINTS)
    if done is None:
        raise InputError(str(home / CHECKPOINTS), "no checkpoint", "the folder of a run of `train`")
    kept = read_manifest(home / CHECKPOINTS, done)["metadata"]["settings"]
    about = describe_text(settings, setup)
    if changed := [name for name in about if about[name] != kept.get(name)]:
        raise InputError(
            f"settings: {changed[0]}", about[changed[0]], f"{kept.get(changed[0])}, as the run in {home} had"
        )
    if start or not done:
        if settings.warm.steps and latest(begun) is None:
            raise InputError(str(begun), "no checkpoint", f"the team that the run in {home} started from")
        return TextLoaded(settings, setup, start_of_text(settings, setup, begun).params, 0, [])
    first, frozen = init_text_state(setup.team, setup.params, setup.update)
    state = as_spread(restore(home / CHECKPOINTS, jax.eval_shape(lambda: first), done).tree, first)
    return TextLoaded(settings, setup, whole_params(state, frozen), done, read_records(home))


def _asked(settings: TextTrain) -> dict[str, Any]:
    about = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    return {"kind": KIND, **about}


def _read_settings(home: Path) -> tuple[TextTrain, Path]:
    """What a run was asked for, and the folder of its start."""
    path, expected = home / ABOUT, "the settings of a run of `train`, as it wrote them"
    asked = read(path, expected)
    try:
        del asked["kind"]
        begun = home / asked.pop("start")
        warm = TextWarmStart(**asked["warm"])
        lists = {name: tuple(value) for name, value in asked.items() if isinstance(value, list)}
        lora = Adapters(**{**asked["lora"], "targets": tuple(asked["lora"]["targets"])})
        return TextTrain(**{**asked, **lists, "lora": lora, "warm": warm, "out": home}), begun
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(str(path), f"settings of another program ({reason(error)})", expected) from error
