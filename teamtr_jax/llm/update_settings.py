"""How an agent is updated: the settings of `update_agent`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from teamtr_jax.llm.checked import FLOAT32, flags, real, whole
from teamtr_jax.llm.losses import (
    ESTIMATORS,
    PENALTIES,
    RATIOS,
    SPENDING,
    Advantage,
    Average,
    Estimator,
    Ratio,
    Spending,
)
from teamtr_jax.llm.step_rules import STEP_RULES, StepRule
from teamtr_jax.validation import InputError, one_of, real_number

__all__ = ["UpdateSettings", "CompiledSettings", "TracedSettings", "parts"]

MOST_ROWS = 2**31 - 1
MOST_EPOCHS = 10_000
MOST_HALVINGS = 64


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
    ratio: str = "message"  #: what is clipped, of `losses.RATIOS`
    average: Average = "rollout"
    clip_low: float = 0.2
    clip_high: float = 0.2  #: ratios are clipped to `[1 − clip_low, 1 + clip_high]`; infinite: not
    spending: str = (
        "none"  #: of `losses.SPENDING`: what counts against the budget; units after it is spent have no gain (S10)
    )
    budget: float = 0.1  #: `X` of one rollout and one update
    penalty: str = "exact"  #: estimator of the KL in the loss, of `losses.PENALTIES`
    beta: float = 1.0  #: first or fixed coefficient of the penalty
    adaptive: bool = True
    """β doubles where two steps or more reach a KL above 1.5 times the target, and halves below the target over 1.5."""
    target: float | None = None  #: KL at which β rests; default half of `delta`
    delta: float = 0.01  #: `δ_i`, radius of the region
    monitor: str = "exact"
    """Of `losses.ESTIMATORS`: what is compared with `delta`: the paper's `k1` on the tokens written, `k3`, or the full KL."""
    early_stop: bool = True  #: no further step once the monitor of a minibatch exceeds `delta`
    step_rule: str = "trust_region"
    """Of `step_rules.STEP_RULES`: which `θ + c(θ'−θ)` is kept. ``trust_region``: c is halved until the monitor on all rollouts is
    within `delta`; ``certificate``: the c on a grid from 0 to 1 with the greatest `L̂ − ϱK̂` (S7); ``none``: c = 1."""
    backtrack: int = 6  #: most halvings, after which the step is undone; of the certificate: intervals of the grid
    reward_range: float = 1.0  #: `ϱ`, span of the outcome reward
    measured: float = 1.0
    """Share of the rollouts trained on, evenly spaced, that are scored again after the steps: what decides how far to go, and
    what is reported, is over them."""

    def __post_init__(self) -> None:
        for name, known in (("advantage", get_args(Advantage)), ("ratio", RATIOS), ("average", get_args(Average)),
                            ("spending", SPENDING), ("penalty", PENALTIES), ("monitor", ESTIMATORS),
                            ("step_rule", STEP_RULES)):  # fmt: skip
            one_of(name, getattr(self, name), tuple(known))
        whole(self, 1, "minibatch", "micro_batch", high=MOST_ROWS)
        if self.minibatch % self.micro_batch:
            found = f"{self.minibatch}, {self.micro_batch}"
            raise InputError("minibatch, micro_batch", found, "the first a multiple of the second")
        whole(self, 1, "epochs", high=MOST_EPOCHS)
        whole(self, 1 if self.step_rule == "certificate" else 0, "backtrack", high=MOST_HALVINGS)
        flags(self, "drop_uniform", "adaptive", "early_stop")
        real(self, "learning_rate", "reward_range", **FLOAT32)
        real(self, "max_grad_norm", "delta", "advantage_clip", low=FLOAT32["low"], infinite=True)
        real(self, "clip_low", "clip_high", "budget", low=0.0, infinite=True)
        real(self, "beta", "weight_decay", low=0.0, high=FLOAT32["high"])
        real(self, "measured", high=1.0, above=0.0)
        if not isinstance(self.moments, tuple | list) or len(self.moments) != 2:
            raise InputError("moments", repr(self.moments), "two numbers, each from 0 to less than 1")
        object.__setattr__(self, "moments", tuple(real_number("moments", x, 0.0, below=1.0) for x in self.moments))
        if self.target is not None:
            real(self, "target", low=FLOAT32["low"], infinite=True)
        if self.adaptive:
            real_number("target" if self.target is not None else "target, delta / 2", self.aim, **FLOAT32)
            real_number("beta", self.beta, **FLOAT32)

    @property
    def aim(self) -> float:
        return self.delta / 2 if self.target is None else self.target


class CompiledSettings(NamedTuple):
    """The settings that a program is compiled for; what settings name, as what it is."""

    minibatch: int
    micro_batch: int
    ratio: Ratio
    spending: Spending | None
    average: str
    penalty: Estimator
    monitor: Estimator
    step_rule: StepRule
    backtrack: int
    measured: float


class TracedSettings(NamedTuple):
    """The settings that a program is given."""

    learning_rate: Any
    max_grad_norm: Any
    weight_decay: Any
    moments: Any
    clip_low: Any
    clip_high: Any
    budget: Any
    beta: Any
    adaptive: Any
    aim: Any
    delta: Any
    early_stop: Any
    reward_range: Any


def parts(settings: UpdateSettings) -> tuple[CompiledSettings, TracedSettings]:
    """What a program is compiled for, and what it is given."""
    tables = {
        "ratio": RATIOS,
        "spending": SPENDING,
        "penalty": PENALTIES,
        "monitor": ESTIMATORS,
        "step_rule": STEP_RULES,
    }

    def of(name: str) -> Any:
        value = getattr(settings, name)
        return tables[name][value] if name in tables else value

    return CompiledSettings(*map(of, CompiledSettings._fields)), TracedSettings(*map(of, TracedSettings._fields))
