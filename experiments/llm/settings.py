"""What can be asked for on the command line. Everything is checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from experiments.llm.plugins import DIFFICULTY, task_of, task_settings
from experiments.llm.words.hosts import mesh_sizes
from experiments.networks import ORDERS
from teamtr_jax.llm.checked import FLOAT32, SEEDS, flags, made, places, real, texts, whole
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.llm.model import ModelConfig
from teamtr_jax.llm.tasks import TASKS
from teamtr_jax.llm.update_settings import MOST_EPOCHS
from teamtr_jax.llm.warm_start import WarmStart
from teamtr_jax.sharing import Updates, sharers_of
from teamtr_jax.validation import InputError, one_of

__all__ = ["Learn", "Train", "Eval", "Show", "Compare", "task_of", "task_settings", "TEST_PROMPTS",
           "MOST_ROLLOUTS", "MOST_RUNS", "require_methods"]  # fmt: skip

TEST_PROMPTS = 512
"""Held-out prompts that accuracy is measured on, where the task has so many."""

MOST_PROMPTS, MOST_STAGES, MOST_RUNS = 10**6, 10**6, 1000
MOST_ROLLOUTS = 2**31 - 1
MOST_CONVERSATIONS = 10**7
"""Of one measurement: their text is kept."""


def conversations(settings: object, prompts: str, samples: str) -> None:
    """Refuse more conversations than a measurement keeps; no number of prompts stands for `TEST_PROMPTS`."""
    count = (getattr(settings, prompts) or TEST_PROMPTS, getattr(settings, samples))
    if count[0] * count[1] > MOST_CONVERSATIONS:
        found = f"{count[0]}, {count[1]}: {count[0] * count[1]} conversations"
        raise InputError(f"{prompts}, {samples}", found, f"at most {MOST_CONVERSATIONS}")


def require_methods(settings: Any) -> None:
    """Refuse `methods` that are none, or named twice."""
    texts(settings, "methods")
    if not settings.methods or len(set(settings.methods)) < len(settings.methods):
        raise InputError("methods", repr(settings.methods), "each method at most once, and at least one")
    for name in settings.methods:
        one_of("methods", name, list(METHODS))


@dataclass(frozen=True)
class Learn:
    """What every run of training is told, whatever its networks."""

    out: Path
    """Folder of the run. The same call goes on where an interrupted one ended."""
    task: str = ""
    difficulty: tuple[str, ...] | None = None
    method: str = "teamtr"
    """Among `teamtr_jax.llm.methods.METHODS`."""
    order: Literal["fixed", "reverse", "random"] = "fixed"
    """Who is updated first."""
    sharers: tuple[int, ...] | None = None
    """For each role the number of its parameters, 0 first: 0 1 0 gives roles 0 and 2 one network. None: each has its own."""
    updates: Updates = "sequential"
    """Of sharers: one update for each in turn, or a joint one from the messages of all."""
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
    seed: int = 0
    test_prompts: int | None = None
    """Held-out prompts on which the accuracy is measured before and after. None: 512, or as many as the task has."""
    test_samples: int = 4
    """Conversations for each of them."""
    tensorboard: bool = False
    """Also write events for TensorBoard (the extra `tensorboard`)."""
    log: Literal["parquet", "jsonl"] | None = None
    """Also write a token log for `teamtr monitor`."""
    progress: bool = True
    """A bar with the time left."""

    def __post_init__(self):
        places(self, "out")
        made(self, str, "task")
        one_of("method", self.method, list(METHODS))
        one_of("order", self.order, list(ORDERS))
        one_of("updates", self.updates, get_args(Updates))
        if self.sharers is not None:
            object.__setattr__(self, "sharers", sharers_of("sharers", self.sharers))
        whole(self, 1, "stages", high=MOST_STAGES)
        whole(self, 1, "prompts", high=MOST_ROLLOUTS)
        whole(self, 2, "group", high=MOST_ROLLOUTS)
        if self.prompts * self.group > MOST_ROLLOUTS:
            found = f"{self.prompts}, {self.group}: {self.prompts * self.group} rollouts an update"
            raise InputError("prompts, group", found, f"at most {MOST_ROLLOUTS}")
        whole(self, 1, "epochs", high=MOST_EPOCHS)
        real(self, "temperature", "delta", "learning_rate", **FLOAT32)
        whole(self, 0, "seed", high=SEEDS)
        if self.test_prompts is not None:
            whole(self, 1, "test_prompts", high=MOST_PROMPTS)
        whole(self, 1, "test_samples")
        conversations(self, "test_prompts", "test_samples")
        flags(self, "tensorboard", "progress")
        one_of("log", self.log, (None, "parquet", "jsonl"))


@dataclass(frozen=True)
class Train(Learn):
    """What is trained, how, and where it is kept."""

    task: Annotated[str, tyro.conf.arg(help=", ".join(TASKS) + ", or one of your own: FILE.py:NAME")] = "carry"
    difficulty: tuple[str, ...] | None = None
    """Settings of the task, such as digits=4. None: its own, but digits=2 for carry, length=3 for copy, bits=4 for parity."""
    model: ModelConfig = field(default_factory=ModelConfig)
    warm: WarmStart = field(default_factory=lambda: WarmStart(low=0.25, smoothing=0.15, every=50))
    probe_prompts: int = 1024
    """Further held-out prompts, one conversation each after every update: which updates were regressions. 0: none."""

    def __post_init__(self):
        super().__post_init__()
        made(self, ModelConfig, "model")
        made(self, WarmStart, "warm")
        whole(self, 0, "probe_prompts", high=MOST_PROMPTS)
        if self.difficulty is None:
            object.__setattr__(self, "difficulty", DIFFICULTY.get(self.task, ()))
        texts(self, "difficulty")
        task_of(self.task, self.difficulty or ())


def _mesh(settings: Any) -> None:
    if settings.mesh is not None:
        made(settings, str, "mesh")
        mesh_sizes(settings.mesh)


@dataclass(frozen=True)
class Eval:
    """How well a trained team does on held-out prompts."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of `train`, finished or not."""
    prompts: int | None = None
    """Held-out prompts. None: 512, or as many as the task has."""
    samples: int = 8
    """K: conversations for each prompt."""
    difficulty: tuple[str, ...] = ()
    """Further difficulties that fit the team's layout, each as digits=2 (several settings: digits=2,numbers=2)."""
    start: bool = False
    """The team before training."""
    seed: int = 1
    mesh: str | None = None
    """Devices that share a team of checkpoints, as of train --base: rows=2,fsdp=2,tensor=2. None: one."""

    def __post_init__(self):
        places(self, "run")
        _mesh(self)
        texts(self, "difficulty")
        flags(self, "start")
        if self.prompts is not None:
            whole(self, 1, "prompts", high=MOST_PROMPTS)
        whole(self, 1, "samples")
        conversations(self, "prompts", "samples")
        whole(self, 0, "seed", high=SEEDS)


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
    mesh: str | None = None
    """Devices that share a team of checkpoints, as of train --base: rows=2,fsdp=2,tensor=2. None: one."""

    def __post_init__(self):
        places(self, "run")
        _mesh(self)
        flags(self, "start", "failures")
        whole(self, 1, "count", high=MOST_PROMPTS)
        whole(self, 0, "seed", high=SEEDS)


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
        whole(self, 1, "seeds", high=MOST_RUNS)
        whole(self, 0, "seed", high=SEEDS + 1 - self.seeds)
        if self.methods is not None:
            require_methods(self)

    def run(self, method: str, seed: int) -> Train:
        """One of the runs."""
        own = {f.name: getattr(self, f.name) for f in fields(Train)}
        out = self.out / method / f"seed-{self.seed + seed}"
        return Train(**{**own, "method": method, "seed": self.seed + seed, "out": out})
