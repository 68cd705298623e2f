"""Ways to train a team of networks, by name: the paper's, its baselines and its ablations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from teamtr_jax.llm.layout import Layout, Router, Vocabulary, round_robin
from teamtr_jax.llm.update_settings import UpdateSettings
from teamtr_jax.schedules import (
    Order,
    Schedule,
    certificate_driven,
    every,
    fresh,
    importance_weighted,
    joint,
    once,
    single,
)

__all__ = ["Method", "METHODS", "lone_layout"]


class Method(NamedTuple):
    """A way to train: settings of the update, when to resample, who is next."""

    settings: UpdateSettings = UpdateSettings()
    schedule: Schedule = fresh
    order: Order | None = None  #: `None`: the agents in their order
    lone: bool = False  #: a team of one agent that takes every turn (`lone_layout`)
    note: str = ""


_FULL = UpdateSettings()
_FREE = replace(_FULL, early_stop=False, step_rule="none")  # no radius
_NAIVE = replace(_FREE, adaptive=False, beta=0.0, ratio="token")

METHODS: dict[str, Method] = {
    "teamtr": Method(note="fresh rollouts before every update, trust region by adaptive β, early stop, backtracking"),
    "every_2": Method(schedule=every(2)),
    "no_resampling": Method(schedule=once, note="one set of rollouts a stage"),
    "importance_weights": Method(schedule=importance_weighted(), note="of whole transcripts"),
    "importance_weights_5": Method(schedule=importance_weighted(5.0), note="cut at 5"),
    "joint": Method(schedule=joint, note="all agents at once"),
    "certificate_driven": Method(schedule=certificate_driven(0.1, None), note="resample when the certified shift > .1"),
    "certificate_step": Method(replace(_FULL, step_rule="certificate"), note="the step with the greatest L̂ − ϱK̂"),
    "adaptive_kl": Method(_FREE, note="adaptive β only"),
    "fixed_kl": Method(replace(_FREE, adaptive=False), note="fixed β, no radius"),
    "no_trust_region": Method(replace(_FREE, adaptive=False, beta=0.0), note="clip only"),
    "chi_square_budget": Method(
        replace(_FREE, adaptive=False, beta=0.0, clip_low=math.inf, clip_high=math.inf, spending="chi_square"),
        note="no clip, no KL: what comes after a rollout has spent its χ² budget is left out (S10)",
    ),
    "no_clip": Method(replace(_FULL, clip_low=math.inf, clip_high=math.inf)),
    "no_group_norm": Method(replace(_FULL, advantage="centred")),
    "token_ratio": Method(replace(_FULL, ratio="token")),
    "ppo": Method(
        replace(_NAIVE, advantage="batch_normalised", average="unit"),
        once,
        note="sequential PPO without a critic: token ratios, advantages over the batch, no KL",
    ),
    "grpo": Method(
        replace(_NAIVE, average="sequence", penalty="k3_new_to_current", beta=0.04),
        once,
        note="sequential GRPO: mean over each rollout, fixed k3 penalty of KL(new‖current)",
    ),
    "dapo": Method(
        replace(_NAIVE, average="unit", clip_high=0.28, drop_uniform=True),
        once,
        note="sequential DAPO: clip to [.8, 1.28], mean over tokens, uniform groups dropped, no KL",
    ),
    "single": Method(order=single(0), note="agent 0 takes every update"),
    "lone": Method(lone=True, note="one agent takes every turn: a team of one"),
}
"""By name. At matched rollouts B is `sampled.prompts_per_set(budget, schedule, agents, group)`."""


def lone_layout(layout: Layout, router: Router | None = None) -> Layout:
    """The same conversations by one agent: as many turns and as long messages as the team's longest."""
    v = layout.vocabulary
    vocabulary = Vocabulary(v.characters, 1, v.prompt_only, v.ends)
    return replace(layout, vocabulary=vocabulary, router=router or round_robin(1), caps=None)
