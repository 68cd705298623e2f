"""Rounding budgets are those that docs/rounding.md derives: not smaller, and not larger."""

import jax.numpy as jnp
import numpy as np
import pytest
from builders import as_stage, random_case

from teamtr_jax.surrogates import evaluate_stage

U = 2.0**-53


@pytest.mark.parametrize("form", ["discounted", "episodic"])
def test_budgets_are_the_derived_ones(form):
    """Every line of the page, in NumPy, from tables whose rows sum to exactly one and from the numbers of the report."""
    case = random_case(np.random.default_rng(5), form, "turn-taking", zeros=0.3, gamma=0.9)
    stage = as_stage(case)
    report = evaluate_stage(stage)
    team = stage.team
    reward, initial, active = (np.asarray(x) for x in (team.reward, team.initial, team.active))
    current, target = np.asarray(stage.current), np.asarray(stage.target)
    n, (states, actions) = team.agents, reward.shape
    hybrids = [current]
    for agent in np.asarray(stage.order):
        hybrids.append(np.where((active == agent)[:, None], target, hybrids[-1]))
    policies = np.array(hybrids)
    gamma = 0.9 if form == "discounted" else 1.0
    length = 10.0 if form == "discounted" else float(team.dynamics.horizon)
    follows = np.asarray(team.dynamics.backward(jnp.ones(states)))
    world = np.where(follows == 0, 0, abs(follows - 1)).max() + abs(initial.sum() - 1)
    lack = abs(1 - policies.sum(-1)) + actions * U
    eta = length * (8 * (states + actions + n) * U + lack.max() + world)
    steps = np.diff(policies, axis=0)
    step = abs(steps).sum(-1)
    loose = np.where(step > 0, lack[:-1] + lack[1:], 0)
    largest = step.max(-1)
    v, m, x, g = (np.asarray(y) for y in (report.values, report.visits, report.shift, report.conditional))
    advantage = [
        reward + gamma * np.asarray(team.dynamics.backward(jnp.asarray(v[i]))) - v[i][:, None] for i in range(n)
    ]
    scale = abs(v).max(-1) + abs(reward).max()
    biggest = np.maximum(scale[1:], scale[:-1])
    g_error = 3 * eta * largest * biggest + loose.max(-1) * np.array([abs(a).max() for a in advantage])
    closure = gamma * (m[:-1] * loose).sum(-1)
    inflow = [
        gamma * np.asarray(team.dynamics.forward(jnp.asarray(m[i][:, None] * abs(steps[i])))).sum() for i in range(n)
    ]
    moved = abs(x).sum(-1)
    shift = eta * moved + length * (
        2 * gamma * eta * length * largest + closure + states * actions * U * np.array(inflow)
    )
    before = np.concatenate([[[0, 0]], np.cumsum([moved, shift], 1).T[:-1]]).T
    g_most = abs(g).max(-1)
    fresh = moved * g_error + g_most * shift
    drift = before[0] * g_error + g_most * before[1]
    reach = length * np.cumsum(g_most)
    cached = fresh + drift + (m[0] * step).sum(-1) * (2 * eta * reach + length * np.cumsum(g_error))
    cached += (eta * length * largest + (m[0] * loose).sum(-1)) * reach
    formed = (
        2 * actions * U * abs(steps) * abs(advantage[0])
    )  # in turn, what is reused is what is cached, rounded once more
    reused = cached + (m[0][:, None] * formed).sum((-2, -1))
    identity = 2 * eta * (scale[1:] + scale[:-1]) + m[1:].sum(-1) * g_error + eta * length * g_most
    surrogate = length * (g_error + eta * g_most)
    derived = {"relative": eta, "surrogate": surrogate,
               "closure": closure, "shift": shift, "fresh": fresh, "drift": drift, "stale": fresh + drift,
               "cached": cached, "reused": reused, "identity": identity}  # fmt: skip
    for name, value in derived.items():
        np.testing.assert_allclose(np.asarray(getattr(report.rounding, name)), value, rtol=1e-9, err_msg=name)
