"""What can be asked for on the command line. Everything is checked before any work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from teamtr_jax.llm.model import ModelConfig
from teamtr_jax.llm.tasks import TASKS, Task, make_task
from teamtr_jax.llm.warm_start import WarmStart
from teamtr_jax.validation import InputError

__all__ = ["Train", "Eval", "Show", "Compare", "task_of", "task_settings"]


def task_settings(difficulty: Iterable[str]) -> dict[str, int]:
    """Settings written as ``digits=4``.

    Raises:
      InputError: names the setting that cannot be read.
    """
    settings: dict[str, int] = {}
    for item in difficulty:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise InputError("difficulty", repr(item), "name=value, such as digits=4")
        if text not in ("True", "False") and not text.lstrip("-").isdigit():
            raise InputError(f"difficulty: {key}", repr(text), "an integer, True or False")
        settings[key] = text == "True" if text in ("True", "False") else int(text)
    return settings


def task_of(name: str, difficulty: tuple[str, ...]) -> Task:
    """A task by name, with settings as `task_settings` reads them.

    Raises:
      InputError: names the task, the setting or the value that is not known.
    """
    return make_task(name, **task_settings(difficulty))


def positive(settings: object, *names: str) -> None:
    for name in names:
        if (value := getattr(settings, name)) is not None and not value > 0:
            raise InputError(name, value, "greater than 0")


def folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError("out", f"{path}, a file", "a folder")


@dataclass(frozen=True)
class Train:
    """What is trained, how, and where it is kept."""

    out: Path
    """Folder of the run. The same call goes on where an interrupted one ended."""
    task: Annotated[str, tyro.conf.arg(help=", ".join(TASKS))] = "carry"
    difficulty: tuple[str, ...] | None = None
    """Settings of the task, such as digits=4. None: its own defaults, but digits=2 for carry."""
    method: str = "teamtr"
    """Among `teamtr_jax.llm.methods.METHODS`."""
    order: Literal["fixed", "reverse", "random"] = "fixed"
    """Who is updated first."""
    model: ModelConfig = field(default_factory=ModelConfig)
    stages: int = 12
    """Stages of training: every agent is updated once in each."""
    prompts: int = 128
    """Prompts an update: a stage has n times as many, divided among the sets of rollouts that the schedule collects."""
    group: int = 8
    """G, rollouts of a prompt."""
    temperature: float = 1.0
    delta: float = 0.02
    """Radius of the trust region, nats a message."""
    learning_rate: float = 2e-4
    """Of Adam."""
    epochs: int = 2
    """Passes over the rollouts of an update, at most."""
    warm: WarmStart = field(default_factory=lambda: WarmStart(low=0.25, smoothing=0.15, every=50))
    seed: int = 0
    test_prompts: int = 512
    """Held-out prompts on which the accuracy is measured before and after."""
    test_samples: int = 4
    """Conversations for each of them."""
    probe_prompts: int = 1024
    """Further held-out prompts, one conversation each after every update: which updates were regressions. 0: none."""
    tensorboard: bool = False
    """Also write events for TensorBoard (the extra `tensorboard`)."""
    log: Literal["parquet", "jsonl"] | None = None
    """Also write a token log for `teamtr monitor`."""
    progress: bool = True
    """A bar with the time left."""

    def __post_init__(self):
        if self.difficulty is None:
            object.__setattr__(self, "difficulty", ("digits=2",) if self.task == "carry" else ())
        task_of(self.task, self.difficulty or ())
        positive(
            self, "stages", "prompts", "temperature", "delta", "learning_rate", "epochs", "test_prompts", "test_samples"
        )
        if self.group < 2:
            raise InputError("group", self.group, "at least 2: an advantage compares rollouts of one prompt")
        if self.probe_prompts < 0 or self.seed < 0:
            raise InputError("probe_prompts, seed", f"{self.probe_prompts}, {self.seed}", "0 or more")
        folder(self.out)


@dataclass(frozen=True)
class Eval:
    """How well a trained team does on held-out prompts."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of `train`, finished or not."""
    prompts: int = 512
    samples: int = 8
    """K: conversations for each prompt."""
    difficulty: tuple[str, ...] = ()
    """Further difficulties that fit the team's layout, each as digits=2 (several settings: digits=2,numbers=2)."""
    start: bool = False
    """The team before training."""
    seed: int = 1

    def __post_init__(self):
        positive(self, "prompts", "samples")


@dataclass(frozen=True)
class Show:
    """Print conversations of a trained team."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of `train`, finished or not."""
    count: int = 8
    """How many."""
    start: bool = False
    """The team before training."""
    failures: bool = False
    """Only those that did not earn everything."""
    seed: int = 2

    def __post_init__(self):
        positive(self, "count")


@dataclass(frozen=True)
class Compare(Train):
    """Methods side by side at the same number of rollouts, prompts, seeds and starts; a run for each is kept under `out`."""

    method: tyro.conf.Suppress[str] = "teamtr"
    stages: int = 10
    methods: tuple[str, ...] | None = None
    """Among `teamtr_jax.llm.methods.METHODS`; None: those of the paper's comparison."""
    seeds: int = 3
    """Runs of each method, from `seed` on."""

    def __post_init__(self):
        super().__post_init__()
        positive(self, "seeds")

    def run(self, method: str, seed: int) -> Train:
        """One of the runs."""
        own = {f.name: getattr(self, f.name) for f in fields(Train)}
        out = self.out / method / f"seed-{self.seed + seed}"
        return Train(**{**own, "method": method, "seed": self.seed + seed, "out": out})
