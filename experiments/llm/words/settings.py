"""What can be asked for on the command line where the agents are checkpoints (`--base`)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import tyro

from experiments.llm.settings import MOST_PROMPTS, MOST_ROLLOUTS, MOST_RUNS, Learn, require_methods
from experiments.llm.words.hosts import SIZES, hosts_of, mesh_sizes
from teamtr_jax.llm.checked import SEEDS, flags, made, texts, whole
from teamtr_jax.llm.llama.lora import LINEARS, Lora
from teamtr_jax.llm.methods import METHODS
from teamtr_jax.llm.tasks import WORD_TASKS
from teamtr_jax.llm.tasks.word_task import MOST_CAP
from teamtr_jax.llm.text_warm_start import TextWarmStart
from teamtr_jax.validation import InputError, one_of

__all__ = ["Adapters", "TextTrain", "TextCompare", "TEXT_PROMPTS"]

TEXT_PROMPTS = 200
"""Held-out prompts that accuracy is measured on, where the task has so many."""


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters beside the frozen base: `x W + (alpha/rank) · x A B`."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = LINEARS
    """Linear maps that have them: q k v o gate up down."""

    def __post_init__(self) -> None:
        self.lora  # noqa: B018 — checks

    @property
    def lora(self) -> Lora:
        return Lora(self.rank, self.alpha, tuple(self.targets))


@dataclass(frozen=True)
class TextTrain(Learn):
    """What is trained, how, and where it is kept."""

    task: Annotated[
        str, tyro.conf.arg(help=", ".join(WORD_TASKS) + ", FILE.jsonl, or one of your own: FILE.py:NAME")
    ] = "arithmetic"
    difficulty: tuple[str, ...] | None = None
    """Settings of the task, such as largest=9. None: its own."""
    base: tuple[str, ...] = ()
    """Checkpoints: a folder of Hugging Face's form, a .gguf file, or smollm2. One for all, or one for each role."""
    verifier: str = "number"
    """Of a .jsonl file: number, exact, choice, or a function of your own, FILE.py:NAME (problem, messages → reward)."""
    roles: tuple[str, ...] = ()
    """Other system prompts than the task's: NAME=TEXT for a role each."""
    cap: int | None = None
    """Most ids of a message. None: the task's own."""
    lora: Adapters = field(default_factory=Adapters)
    warm: TextWarmStart = field(default_factory=TextWarmStart)
    """A supervised start on `task.demonstrate`, of training problems; the accuracy before it is measured too."""
    full: bool = False
    """Everything is trained, there are no adapters."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation. In bfloat16 log-probabilities have a floor of some hundredths of a nat a token."""
    micro_batch: int = 8
    """Rollouts of one gradient accumulation."""
    remat: bool = False
    """Layers are computed again where they are differentiated, instead of kept: less memory, a third more work."""
    unroll: bool = True
    """Messages are written layer by layer with adapters merged: more to compile, a quarter faster."""
    drift: Literal["keep", "refuse", "resample"] = "keep"
    """A message whose text, encoded again, gives other ids: counted, an error, or drawn again."""
    stages: int = 6
    prompts: int = 16
    """Prompts an update: a stage has n times as many, divided among the sets of rollouts that the schedule collects."""
    learning_rate: float = 3e-4
    """Of Adam."""
    epochs: int = 1
    """Passes over the rollouts of an update, at most."""
    steps: int = 4
    """Of the optimiser in a pass, about: minibatches. A single one needs no pass of its own over the rollouts as they were."""
    test_prompts: int | None = None
    """Held-out prompts on which the accuracy is measured before and after. None: 200, or as many as the task has."""
    test_samples: int = 1
    """Conversations for each of them."""
    probe_prompts: int = 0
    """Held-out prompts, drawn apart, on which every update is measured: did it make the team worse? 0: none is."""
    mesh: str | None = None
    """Divide the run among all devices: rows=2,fsdp=2,tensor=2, whose product is their number. None: one device."""
    hosts: str | None = None
    """Several processes: HOST:PORT,COUNT,INDEX, the address of process 0, how many there are and which one this is. auto: as
    Slurm, Open MPI, Kubernetes or a TPU pod started them."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("base", "roles"):
            texts(self, name)
        if not self.base:
            raise InputError("base", "none", "a checkpoint, or one for each role")
        if self.difficulty is not None:
            texts(self, "difficulty")
        made(self, str, "verifier")
        made(self, Adapters, "lora")
        made(self, TextWarmStart, "warm")
        flags(self, "full", "remat", "unroll")
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        one_of("drift", self.drift, ("keep", "refuse", "resample"))
        whole(self, 1, "micro_batch", "steps", high=MOST_ROLLOUTS)
        whole(self, 0, "probe_prompts", high=MOST_PROMPTS)
        if self.cap is not None:
            whole(self, 1, "cap", high=MOST_CAP)
        if METHODS[self.method].lone:
            raise InputError("method", self.method, "one with a team; a task with agents=1 is for one agent alone")
        self.prompted  # noqa: B018 — checks
        self._check_devices()

    def _check_devices(self) -> None:
        for name, read in (("mesh", mesh_sizes), ("hosts", hosts_of)):
            if getattr(self, name) is not None:
                made(self, str, name)
                read(getattr(self, name))
        if self.hosts is not None and self.mesh is None:
            raise InputError(
                "mesh", "none, but hosts", f"{SIZES}: without one each process would train a team of its own"
            )

    @property
    def prompted(self) -> dict[str, str]:
        """Role → its system prompt, of those that are other ones than the task's.

        Raises:
          InputError: names what is no NAME=TEXT, or named twice.
        """
        out: dict[str, str] = {}
        for item in self.roles:
            name, sign, text = item.partition("=")
            if not sign or not name or name in out:
                raise InputError("roles", repr(item), "NAME=TEXT, each name once")
            out[name] = text
        return out


@dataclass(frozen=True)
class TextCompare(TextTrain):
    """Methods side by side at the same number of rollouts, prompts, seeds and starts; a run for each is kept under `out`."""

    method: tyro.conf.Suppress[str] = "teamtr"
    methods: tuple[str, ...] = ("teamtr", "no_resampling", "importance_weights", "grpo")
    """Among `teamtr_jax.llm.methods.METHODS`."""
    seeds: int = 3
    """Runs of each method, from `seed` on."""

    def __post_init__(self):
        super().__post_init__()
        whole(self, 1, "seeds", high=MOST_RUNS)
        whole(self, 0, "seed", high=SEEDS + 1 - self.seeds)
        require_methods(self)
        if self.hosts is not None:
            raise InputError("hosts", repr(self.hosts), "none: several processes share one run of train")

    def run(self, method: str, seed: int) -> TextTrain:
        """One of the runs."""
        own = {f.name: getattr(self, f.name) for f in fields(TextTrain)}
        out = self.out / method / f"seed-{self.seed + seed}"
        return TextTrain(**{**own, "method": method, "seed": self.seed + seed, "out": out})
