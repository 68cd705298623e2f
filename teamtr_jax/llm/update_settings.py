"""How an agent is updated: the settings of `update_agent`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from teamtr_jax.llm.losses import Advantage, Average, Penalty, Ratio, choice
from teamtr_jax.validation import InputError

__all__ = ["UpdateSettings", "Shape", "Numbers", "parts"]

StepRule = Literal["trust_region", "certificate", "none"]
Monitor = Literal["k1", "k3", "exact"]


@dataclass(frozen=True)
class UpdateSettings:
    """How an agent is updated. KLs are `KL(current‖new)` in nats, `mean over messages of Σ_u` where compared with `delta`."""

    learning_rate: float = 3e-4  #: of Adam, whose first step alone decides the KL: less for wider networks
    epochs: int = 4
    minibatch: int = 128  #: rollouts of one optimiser step
    micro_batch: int = 16  #: rollouts of one gradient accumulation
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    moments: tuple[float, float] = (0.9, 0.99)  #: of Adam
    advantage: Advantage = "group_normalised"
    advantage_clip: float = 5.0  #: `A_clip`
    drop_uniform: bool = False  #: leave out prompts whose rollouts all earned the same (DAPO)
    ratio: Ratio = "message"
    average: Average = "rollout"
    clip_low: float = 0.2
    clip_high: float = 0.2  #: ratios are clipped to `[1 − clip_low, 1 + clip_high]`; infinite: not
    penalty: Penalty = "exact"
    beta: float = 1.0  #: first or fixed coefficient of the penalty
    adaptive: bool = True
    """β doubles where two steps or more reach a KL above 1.5 times the target, and halves below the target over 1.5."""
    target: float | None = None  #: KL at which β rests; default half of `delta`
    delta: float = 0.01  #: `δ_i`, radius of the region
    monitor: Monitor = "exact"
    """What is compared with `delta`: the paper's `k1` on the tokens written, `k3`, or the full KL."""
    early_stop: bool = True  #: no further step once the monitor of a minibatch exceeds `delta`
    step_rule: StepRule = "trust_region"
    """Which `θ + c(θ'−θ)` is kept. ``trust_region``: c is halved until the monitor on all rollouts is within `delta`;
    ``certificate``: the c on a grid from 0 to 1 with the greatest `L̂ − ϱK̂` (S7); ``none``: c = 1."""
    backtrack: int = 6  #: most halvings, after which the step is undone; of the certificate: intervals of the grid
    reward_range: float = 1.0  #: `ϱ`, span of the outcome reward
    measured: float = 1.0
    """Share of the rollouts trained on, evenly spaced, that are scored again after the steps: what decides how far to go, and
    what is reported, is over them."""

    def __post_init__(self) -> None:
        for name, kind in (("advantage", Advantage), ("ratio", Ratio), ("average", Average), ("penalty", Penalty),
                           ("monitor", Monitor), ("step_rule", StepRule)):  # fmt: skip
            choice(name, getattr(self, name), kind)
        if min(self.minibatch, self.micro_batch) < 1 or self.minibatch % self.micro_batch:
            found = f"{self.minibatch}, {self.micro_batch}"
            raise InputError("minibatch, micro_batch", found, "positive numbers, the first a multiple of the second")
        for name, least in (("epochs", 1), ("backtrack", 1 if self.step_rule == "certificate" else 0)):
            if getattr(self, name) < least:
                raise InputError(name, getattr(self, name), f"at least {least}")
        for name in ("learning_rate", "max_grad_norm", "delta", "advantage_clip", "reward_range"):
            if not getattr(self, name) > 0:
                raise InputError(name, getattr(self, name), "a positive number")
        for name in ("beta", "weight_decay", "clip_low", "clip_high"):
            if not getattr(self, name) >= 0:
                raise InputError(name, getattr(self, name), "at least 0")
        if not 0 < self.measured <= 1:
            raise InputError("measured", self.measured, "above 0 and at most 1")
        if self.adaptive and not (0 < self.aim < math.inf and self.beta > 0):
            found = f"target {self.aim}, beta {self.beta}"
            raise InputError("target, beta", found, "positive and finite, or adaptive=False")

    @property
    def aim(self) -> float:
        return self.delta / 2 if self.target is None else self.target


class Shape(NamedTuple):
    """The settings that a program is compiled for."""

    minibatch: int
    micro_batch: int
    ratio: str
    average: str
    penalty: str
    monitor: str
    step_rule: str
    backtrack: int
    measured: float


class Numbers(NamedTuple):
    """The settings that a program is given."""

    learning_rate: Any
    max_grad_norm: Any
    weight_decay: Any
    moments: Any
    clip_low: Any
    clip_high: Any
    beta: Any
    adaptive: Any
    aim: Any
    delta: Any
    early_stop: Any
    reward_range: Any


def parts(settings: UpdateSettings) -> tuple[Shape, Numbers]:
    """What a program is compiled for, and what it is given."""

    def pick(kind: Any) -> Any:
        return kind(*(getattr(settings, name) for name in kind._fields))

    return pick(Shape), pick(Numbers)
