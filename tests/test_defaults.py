"""What a call means that leaves its settings out. A default that changes changes everybody's numbers without a word."""

import inspect
import math

import pytest

from teamtr_jax import finite_sample as fs
from teamtr_jax import rollouts, schedules, stage, tabular, training
from teamtr_jax import trust_region as steps
from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.trust_region import adaptive
from theory import noise

TABLE = [
    (steps.kl_constrained, {"direction": "current_to_new", "per_state": False}),
    (steps.kl_constrained_step, {"direction": "current_to_new", "per_state": False, "error": None}),
    (steps.natural_gradient, {"shrink": 0.8, "backtracks": 60}),
    (steps.ppo_clip, {"clip": 0.2, "epochs": 40, "learning_rate": 0.05, "beta": 1.0, "target": None, "adaptive": True,
                      "backtracks": 0, "optimiser": None}),
    (steps.align_to_ball, {"direction": "current_to_new", "per_state": False}),
    (steps.certified_step, {"penalty": penalty_log_sum}),
    (steps.certificate_optimal_radius, {"penalty": penalty_log_sum, "bracket": (1e-10, 10.0)}),
    (steps.joint_scales, {"form": "weighted"}),
    (fs.path_sample, {"baseline": 0.0, "ratio_range": (0.0, math.inf)}),
    (fs.log_sample, {"high": math.inf}),
    (fs.clipped_sample, {"baseline": "others", "path_clip": (0.5, 2.0)}),
    (fs.bridge_sample, {"baseline": 0.5}),
    (fs.betting_bound, {"iterations": 60}),
    (fs.anytime_start, {"lower": -1.0, "streams": ()}),
    (fs.anytime_certificate, {"zeros": False}),
    (fs.finite_sample_certificate, {"kl": None, "estimator": "path", "bound": "betting", "baseline": None,
                                    "ratio_range": (0.0, math.inf), "kl_path_max": None, "clip": 0.2, "path_clip": (0.5, 2.0),
                                    "zeros": False}),
    (fs.two_sample_certificate, {"log_ratio_old": None, "log_ratio_new": None, "bound": "betting", "baseline": 0.5,
                                 "zeros": False}),
    (fs.mismatch_certificate, {"estimator": "path", "zeros": False}),
    (rollouts.default_horizon, {"tolerance": 1e-3}),
    (rollouts.sample_rollouts, {"horizon": None}),
    (rollouts.group_normalised_advantage, {"clip": math.inf, "epsilon": 1e-8, "axis": -1}),
    (rollouts.centred_advantage, {"axis": -1}),
    (rollouts.estimate_tables, {"weights": None, "to_go": None, "floor": None, "shrink": 1.0, "error": None}),
    (rollouts.path_weight, {"truncation": math.inf}),
    (rollouts.prefix_weight, {"truncation": math.inf}),
    (rollouts.surrogate_parts, {"clip": None}),
    (rollouts.message_log_ratios, {"messages": None}),
    (schedules.importance_weighted, {"truncation": math.inf}),
    (stage.run_stage, {"schedule": schedules.fresh, "key": None, "stage": 0, "budget": None}),
    (tabular.team_state, {"memory": 0.0}),
    (tabular.exact_backend, {"audit": True}),
    (training.train, {"folder": None, "settings": None, "progress": True, "every": 1}),
    (noise.enumerated, {"turns": 4, "length": 2, "prompts": 3, "step": 0.15}),
    (noise.sampled, {"kind": "alike", "prompts": 160, "share": 4, "group": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "defaults"), TABLE, ids=[f.__name__ for f, _ in TABLE])
def test_settings_that_are_left_out(function, defaults):
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == defaults


def test_the_target_of_ppo_is_half_of_the_radius():
    """And β of no memory is its first value; the band of `adapted` and its ends are Schulman et al.'s 1.5 and 2²⁰."""
    settings = steps.ppo_clip(0.02).args[0]
    assert (settings.aim, settings.beta, settings.adaptive) == (0.01, 1.0, True)
    assert steps.ppo_clip(0.02, target=0.003).args[0].aim == 0.003
    assert (adaptive.BAND, adaptive.BETA_RANGE) == (1.5, 1048576.0)
    assert steps.ppo_clip(0.02, None).args[0].clip == math.inf
