"""What every run of training keeps beside its checkpoints: events, token logs, a summary; what its records say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.llm.measure import Conversations, paired_gain
from experiments.llm.plugins import TASK_FILE, task_file
from experiments.llm.settings import Learn
from experiments.saved import places
from teamtr_jax.checkpoint import latest
from teamtr_jax.files import read_json
from teamtr_jax.monitor import read_token_log, write_token_log
from teamtr_jax.training import CHECKPOINTS, JOURNAL
from teamtr_jax.validation import InputError

__all__ = ["ABOUT", "SUMMARY", "START", "TOKENS", "TIMED", "FIGURES", "Compilations", "COMPILATIONS", "read_summary", "finished",
           "try_places", "Write", "tensorboard", "gained", "stage_seconds", "done_of", "label", "joined",
           "merge_logs"]  # fmt: skip

SUMMARY, ABOUT, START, TOKENS = "summary.json", "settings.json", "start", "token_log"
FIGURES = ("accuracy.png", "kl.png", "certificate.png", "control.png")
TIMED = ("time", "time_stage")
"""Keys of the records that differ between two runs of the same seed."""

COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts the programs that this process compiles, from when it is made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **about: Any) -> None:
        del duration_secs, about
        self.count += event == COMPILED


COMPILATIONS = Compilations()


def read_summary(home: Path) -> dict[str, Any] | None:
    """The summary of a finished run; `None` where there is none.

    Raises:
      InputError: a damaged one.
    """
    path = home / SUMMARY
    if not path.exists():
        return None
    return read_json(path, "the summary of a run (without it, the same call of `train` writes it again)", sealed=True)


def finished(settings: Learn, prompts: int) -> dict[str, Any] | None:
    """The summary of these stages, measured on so many held-out prompts; `None` where there is none such.

    A run that was stopped while it was measured still has the summary of the stages before.

    Raises:
      InputError: a damaged one.
    """
    summary = read_summary(settings.out)
    asked = {"stages": settings.stages, "test_prompts": prompts, "test_samples": settings.test_samples}
    return summary if summary is not None and all(summary.get(name) == value for name, value in asked.items()) else None


def try_places(settings: Learn) -> None:
    """Refuse a folder in which something that a run writes cannot be written, or a log of stages that were trained without."""
    log_file = [f"{TOKENS}.{settings.log}"] if settings.log else []
    events = ["tensorboard"] if settings.tensorboard else []
    places(settings.out, (CHECKPOINTS, START, *events), (JOURNAL, ABOUT, SUMMARY, TASK_FILE, *FIGURES, *log_file))
    if settings.log:
        for k in range(latest(settings.out / CHECKPOINTS) or 0):
            if not (settings.out / TOKENS / f"{k:08d}.{settings.log}").exists():
                raise InputError("log", settings.log, f"none: stage {k} in {settings.out} was trained without it")


Write = Callable[[Mapping[str, Any]], None]


def gained(before: Conversations, after: Conversations) -> dict[str, Any]:
    """Part of the summary: held-out accuracy."""
    gain = paired_gain(before.reward, after.reward)
    return {
        "accuracy_start": float(before.reward.mean()),
        "accuracy_end": float(after.reward.mean()),
        "gain": gain.value,
        "gain_low95": gain.low,
        "gain_high95": gain.high,
        "gain_interval": "two-sided 95 % normal interval of the mean over held-out prompts, paired by prompt and random numbers",
    }


def stage_seconds(records: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {line["stage"]: line["time_stage"] for line in records}


def done_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Part of the summary: what the records say of all stages."""
    seconds = sum(stage_seconds(records).values())
    tokens = sum(line["info"]["tokens"] for line in records if line["resampled"])
    probed = [line["probe"] for line in records if line["probe"]]
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "seconds_stages": seconds,
        "updates": len(records),
        "regressions": sum(x["regression"] for x in probed),
        "regressions_tested": len(probed),
        "undone": sum(line["info"]["step_scale"] == 0 for line in records),
        "k1_over_kl": _quartiles(line["info"]["kl_k1"] / line["kl"] for line in records if line["kl"] > 0),
        "k3_over_kl": _quartiles(line["info"]["kl_k3"] / line["kl"] for line in records if line["kl"] > 0),
    }


def label(task: str) -> str:
    """A task as it is written into files: of one's own without the folders."""
    return task if task_file(task) is None else Path(task.rpartition(":")[0]).name + ":" + task.rpartition(":")[2]


def _quartiles(x: Iterable[float]) -> list[float] | None:
    """Over updates; none if there are none."""
    values = list(x)
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])] if values else None


def joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def merge_logs(home: Path, form: str, stages: int) -> Path:
    """One log of all stages, from one file for each; how the tokens were drawn is in it where all of them say the same."""
    logs = [read_token_log(home / TOKENS / f"{k:08d}.{form}") for k in range(stages)]
    said = {log.sampler for log in logs}
    sampler = said.pop() if len(said) == 1 else None
    return write_token_log(
        home / f"{TOKENS}.{form}", joined([log.columns() for log in logs]), check=False, sampler=sampler
    )


def tensorboard(settings: Learn, agents: int) -> Write:
    """What writes a record as events; nothing if it was not asked for."""
    if not settings.tensorboard:
        return lambda line: None
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboardX", "not installed", "pip install 'teamtr-jax[tensorboard]'") from error
    done = latest(settings.out / CHECKPOINTS) or 0
    events: Any = None

    def write(line: Mapping[str, Any]) -> None:
        nonlocal events
        events = events or SummaryWriter(str(settings.out / "tensorboard"), purge_step=done * agents)
        step = line["stage"] * agents + line["update"]
        values = {"surrogate": line["surrogate"], "kl": line["kl"]}
        values |= line["info"] | {f"probe/{name}": value for name, value in line["probe"].items()}
        for name, value in values.items():
            events.add_scalar(name, float(value), step)
        events.flush()

    return write
