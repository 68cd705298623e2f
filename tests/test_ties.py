"""Tied rows (U4): what an agent sees decides which states share a row, and its update pools them."""

from dataclasses import replace

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.dynamics import Dense
from teamtr_jax.sampled import Sampling, sampled_backend
from teamtr_jax.schedules import fresh, importance_weighted, once, stale_occupancy
from teamtr_jax.stage import run_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.teams import random_stages, read_stage, write_stage
from teamtr_jax.ties import pooled, pooled_error, summed, tied_table, with_tied_table
from teamtr_jax.trust_region import (
    certificate_optimal_radius,
    certified_step,
    kl_constrained,
    natural_gradient,
    ppo_clip,
    value_weighted,
)
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError
from teamtr_jax.values import evaluate_policy, rounding_unit, visits_error
from teamtr_jax.visits import team_policy

LEAN = 0.1
STEPS = {
    "KL": kl_constrained(1e-3), "reverse KL": kl_constrained(1e-3, "new_to_current"), "natural": natural_gradient(1e-3),
    "clip": ppo_clip(1e-3), "weighted": value_weighted(),
}  # fmt: skip


def one(kind, seed=0, observations=2):
    """A random team with tied rows: five states or three at each of three steps, three labels."""
    gamma, horizon, states = (0.8, None, 5) if kind != "episodic" else (None, 3, 3)
    actions, agents = ((2, 3), 2) if kind == "product" else (3, 2)
    rng = np.random.default_rng(seed)
    stages = random_stages(rng, 1, states, actions, agents, gamma, horizon, observations=observations)
    return builders.first(stages)


def seen(stage):
    """What agent 1 sees at each of its states."""
    team, label = stage.team, np.asarray(stage.team.observation)
    return label[1] if team.factors else label[np.asarray(team.active) == 1]


KINDS = ("turn-taking", "episodic", "product")
COMBINED = [("turn-taking", name) for name in STEPS] + [("episodic", "KL"), ("product", "KL"), ("product", "clip")]


def door(gamma=0.5):
    """Agent 0 leads to x = 1 or y = 2; agent 1 has one row for both, and its second action pays 1 − 0 at x, 0 − 1 at y."""
    P = np.zeros((4, 2, 4))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 3] = P[2, :, 3] = P[3, :, 3] = 1.0
    reward = np.array([[0.0, 0], [0, 1], [1, 0], [0, 0]])
    start, active = np.array([1.0, 0, 0, 0]), np.array([0, 1, 1, 0])
    reward, start, active = (jnp.asarray(x) for x in (reward, start, active))
    team = Team(
        Dense(jnp.asarray(P), jnp.asarray(gamma)), reward, start, active, 2, observation=jnp.array([0, 1, 1, 2])
    )
    current = np.array([[0.5 + LEAN, 0.5 - LEAN], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    return team, current


@pytest.mark.parametrize("radius", [1e-8, 1e-4, 1e-2])
def test_a_stale_occupancy_promises_a_gain_and_loses_it(radius):
    """U4: agent 0 has moved from ½+η to ½−η; agent 1's exact current advantages under m⁰ have the wrong sign."""
    team, current = door()
    moved = current.copy()
    moved[0] = current[0, ::-1]
    backend = exact_backend(team, kl_constrained(radius))
    start, now = (team_state(team, jnp.asarray(policy)) for policy in (current, moved))
    old, new = backend.rollout(start, None), backend.rollout(now, None)
    stale, _ = backend.update(now, backend.estimate(now, old, 1, stale_occupancy), 1)
    renewed, _ = backend.update(now, backend.estimate(now, new, 1, fresh), 1)

    def objective(state):
        return float(backend.rollout(state, None).objective)

    step = float(stale.policy[1, 1] - 0.5)
    assert step > 0
    assert objective(stale) - objective(now) == pytest.approx(-0.5 * 2 * LEAN * step, rel=1e-7)  # one discount
    assert objective(renewed) - objective(now) == pytest.approx(0.5 * 2 * LEAN * step, rel=1e-7)
    np.testing.assert_array_equal(stale.policy[1], stale.policy[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [fresh, stale_occupancy, once, importance_weighted()], ids=lambda s: s.name)
def test_an_estimate_pools_the_states_of_an_observation(kind, schedule):
    """Weights add up; advantages are their weighted mean; gains and losses keep their signs apart: plain loops over states."""
    stage = one(kind)
    team, now = stage.team, team_state(stage.team, stage.target)
    backend = exact_backend(team, kl_constrained(1e-3))
    data = backend.rollout(team_state(team, stage.current), None)
    found = backend.estimate(now, data if schedule is not fresh else backend.rollout(now, None), 1, schedule).tables
    free = replace(team, observation=None)
    plain = exact_backend(free, kl_constrained(1e-3))
    data = plain.rollout(now if schedule is fresh else team_state(free, stage.current), None)
    alone = jax.tree.map(np.asarray, plain.estimate(now, data, 1, schedule).tables)
    states = team.reward.shape[0]
    label = seen(stage)
    for o in range(states):
        mine = [r for r, seen in enumerate(label) if seen == o]
        w = sum(alone.weight[r] for r in mine)
        assert float(found.weight[o]) == pytest.approx(w, rel=1e-12, abs=0)
        if not w:
            assert not np.asarray(found.positive[o]).any()
            assert not np.asarray(found.advantage[o]).any()
            continue
        for name in ("advantage", "value"):
            mean = sum(alone.weight[r] * getattr(alone, name)[r] for r in mine) / w
            np.testing.assert_allclose(getattr(found, name)[o], mean, rtol=1e-11, atol=1e-14)
        for name in ("positive", "negative"):
            total = sum(getattr(alone, name)[r] for r in mine)
            np.testing.assert_allclose(getattr(found, name)[o], total, rtol=1e-11, atol=1e-14)
        largest = sum(alone.weight[r] * alone.advantage_error[r] for r in mine) / w
        assert (np.asarray(found.advantage_error[o]) > largest).all()
        assert (np.asarray(found.advantage_error[o]) < 1e-12).all()


@pytest.mark.parametrize(("kind", "name"), COMBINED)
def test_labels_that_tell_all_apart_change_nothing(kind, name):
    """A label of its own for each state is no tie: the same stage, whatever the step."""
    stage = one(kind)
    free = replace(stage.team, observation=None)
    states = stage.team.reward.shape[0]
    label = jnp.asarray(np.random.default_rng(1).permutation(states))
    tied = replace(free, observation=label if kind != "product" else jnp.stack([label, label[::-1]]))
    ends = [
        run_stage(exact_backend(t, STEPS[name], audit=False), team_state(t, stage.current), [1, 0])[0]
        for t in (free, tied)
    ]
    np.testing.assert_allclose(ends[0].policy, ends[1].policy, rtol=1e-9, atol=1e-12)
    assert abs(ends[0].policy - stage.current).max() > 1e-4


@pytest.mark.parametrize(("kind", "name"), COMBINED)
def test_a_step_leaves_rows_tied_and_the_records_say_what_happened(kind, name):
    """Every policy of a stage is one of the team, and no bound is violated (S7, S9, … hold with ties as they stand)."""
    stage = one(kind, seed=3)
    start = team_state(stage.team, stage.current)
    after, records = run_stage(exact_backend(stage.team, STEPS[name]), start, [1, 0], stale_occupancy)
    Stage(stage.team, stage.current, after.policy, jnp.array([1, 0]))  # refuses rows that are apart
    assert all((record.exact or {})["violations"] == 0 for record in records)
    if name in ("KL", "reverse KL"):
        kls = [record.kl if name != "reverse KL" else record.info["kl_new_to_current"] for record in records]
        assert max(kls) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weighted_step_pools(kind):
    """U4: `π'(a|o) ∝ Σ_{s∈o} m(s) π(a|o) (Q−Φ)(s,a)`, and all agents at once by it never lose (S9)."""
    stage = one(kind, seed=5)
    backend = exact_backend(stage.team, value_weighted(), audit=False)
    start = team_state(stage.team, stage.current)
    found = backend.estimate(start, backend.rollout(start, None), 0, fresh).tables
    new, _ = backend.update(start, backend.estimate(start, backend.rollout(start, None), 0, fresh), 0)
    table = start.policy if kind != "product" else start.policy[0]
    moved = new.policy if kind != "product" else new.policy[0]
    rows, after = tied_table(stage.team, table, 0), tied_table(stage.team, moved, 0)
    expected = rows * found.value
    some = np.asarray(found.weight) > 0
    np.testing.assert_allclose(after[some], (expected / expected.sum(-1, keepdims=True))[some], rtol=1e-12)
    joint, _ = run_stage(backend, start, [0, 1], once._replace(reuse="start"))
    assert float(backend.rollout(joint, None).objective) > float(backend.rollout(start, None).objective)


def test_contexts_that_cancel_are_not_followed():
    """½ each, +1 and −1: the pooled advantage is rounding, however large its terms; no step spends its radius on it."""
    team, current = door(0.3)
    current[0] = 0.5
    for step in (
        kl_constrained(1e-2),
        kl_constrained(1e-2, "new_to_current"),
        natural_gradient(1e-2),
        value_weighted(),
    ):
        state = team_state(replace(team, reward=1e3 * team.reward / 3), jnp.asarray(current))
        backend = exact_backend(replace(team, reward=1e3 * team.reward / 3), step)
        after, _ = backend.update(state, backend.estimate(state, backend.rollout(state, None), 1, fresh), 1)
        np.testing.assert_array_equal(after.policy, current)


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_tables_pool(kind):
    """Sums over samples by observation: those of the untied estimate, added up."""
    stage = one(kind, seed=2)
    free = replace(stage.team, observation=None)
    sampling = Sampling(16, 4, "centred", horizon=None if kind == "episodic" else 5)
    tied, plain = (sampled_backend(team, kl_constrained(1e-2), sampling) for team in (stage.team, free))
    state = team_state(stage.team, stage.current)
    data = tied.rollout(state, jax.random.key(0))
    found, alone = (backend.estimate(state, data, 1, fresh).used.tables for backend in (tied, plain))
    label = seen(stage)
    for name in ("weight", "positive", "negative"):
        table = np.asarray(getattr(alone, name))[: len(label)]
        total = np.zeros((stage.team.reward.shape[0], *table.shape[1:]))
        np.add.at(total, label, table)
        np.testing.assert_allclose(getattr(found, name), total, rtol=1e-12, atol=1e-15)
    after, records = run_stage(tied, state, [1, 0], fresh, jax.random.key(1))
    Stage(stage.team, stage.current, after.policy, jnp.array([1, 0]))
    assert all(record.kl == pytest.approx(1e-2, rel=1e-3) for record in records)


@pytest.mark.parametrize("kind", KINDS)
def test_a_certified_step_pools(kind):
    """The step of the exact backend, its gap and its certificate; the best radius certifies no less than another one."""
    stage = one(kind, seed=4)
    state = team_state(stage.team, stage.current)
    backend = exact_backend(stage.team, kl_constrained(1e-3), audit=False)
    expected, info = backend.update(state, backend.estimate(state, backend.rollout(state, None), 1, fresh), 1)
    found = certified_step(stage.team, stage.current, jnp.asarray(1), jnp.asarray(1e-3))
    np.testing.assert_allclose(found.target, expected.policy, rtol=1e-9, atol=1e-12)
    gain = float(backend.rollout(expected, None).objective - backend.rollout(state, None).objective)
    assert float(found.improvement) == pytest.approx(gain, rel=1e-6)
    assert float(found.report.surrogate_intermediate[0]) == pytest.approx(info["gain"], rel=1e-8)
    if kind == "turn-taking":
        best = certificate_optimal_radius(stage.team, stage.current, 1)
        assert float(best.certificate) >= float(found.certificate)


def test_tables_by_observation():
    """Three states, two of agent 0 with one label: the sums, the mean, and the way back."""
    team, current = door()
    weight, table = jnp.array([0.5, 1.0, 3.0, 7.0]), jnp.asarray(np.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(summed(team, 1, weight), [0, 4, 0, 0])
    np.testing.assert_array_equal(pooled(team, 1, weight, table)[1], [(2 + 3 * 4) / 4, (3 + 3 * 5) / 4])
    assert not np.asarray(pooled(team, 1, weight, table))[[0, 2, 3]].any()
    rows = tied_table(team, jnp.asarray(current), 0)
    np.testing.assert_array_equal(rows[jnp.array([0, 2])], current[[0, 3]])
    back = with_tied_table(team, jnp.asarray(current), jnp.asarray([[9.0, 0], [8, 0], [7, 0], [6, 0]]), 1)
    np.testing.assert_array_equal(back, [current[0], [8, 0], [8, 0], current[3]])


def test_what_a_pooled_table_is_off():
    """Two states with one label: each error with its weight, each weight's error with the size of the entry, and rounding."""
    team, _ = door()
    weight, off, table, error = (
        jnp.array([9, 1, 3, 9.0]),
        jnp.array([9, 0.1, 0.2, 9]),
        5.0 - jnp.arange(8).reshape(4, 2),
        0.5,
    )
    found = pooled_error(team, 1, weight, off, table, jnp.full((4, 2), error))
    exact = [(4 * error + 0.1 * 3 + 0.2 * 1) / 4, (4 * error + 0.1 * 2 + 0.2 * 0) / 4]
    np.testing.assert_allclose(found[1], exact, rtol=1e-14)
    assert not np.asarray(found)[[0, 2, 3]].any()
    zero = jnp.zeros(4), table, jnp.zeros((4, 2))
    unit = rounding_unit(team) * np.array([(1 * 3 + 3 * 1) / 4, (1 * 2 + 3 * 0) / 4])
    np.testing.assert_allclose(pooled_error(team, 1, weight, *zero)[1], unit, rtol=1e-14)


@pytest.mark.parametrize("lack", [0.0, 1e-10])
def test_what_visits_are_off(lack):
    """docs/rounding.md: each sum by `k·u`, and what rows of transitions and of the policy lack to one, carried on."""
    rng, gamma = np.random.default_rng(0), 0.75
    P, policy, start = builders.rows(rng, 4, 2, 4), builders.rows(rng, 4, 2), builders.rows(rng, 4)
    P, policy = P * (1 - lack * (1 + rng.random((4, 2, 1)))), policy * (1 + lack * (1 + rng.random((4, 1))))
    team = Team(Dense(jnp.asarray(P), jnp.asarray(gamma)), jnp.ones((4, 2)), jnp.asarray(start), jnp.zeros(4, int), 1)
    resolvent, _, m = evaluate_policy(team, jnp.asarray(policy))
    found = visits_error(team, jnp.asarray(policy), resolvent, m)
    onward = np.linalg.inv(np.eye(4) - gamma * np.einsum("sa,sat->st", policy, P))
    visited = start @ onward
    flow, unit = visited[:, None] * policy, (4 + np.sqrt(6)) * 2.0**-53
    off = unit * (start + gamma * np.einsum("sa,sat->t", flow, P) + visited) + abs(policy.sum(-1) - 1) * visited
    off += gamma * np.einsum("sa,sat->t", flow * abs(P.sum(-1) - 1), P)
    np.testing.assert_allclose(found, off @ onward, rtol=1e-5 if lack else 1e-12)  # a lack is itself known to 1e-16


def test_cut_weights_are_off_by_what_was_cut():
    """Weights that are cut know the old occupancy, the others the new one: with them the rounding of the pooled table."""
    team, current = door()
    moved = current.copy()
    moved[0] = current[0, ::-1]
    backend = exact_backend(team, kl_constrained(1e-3))
    old, now = (team_state(team, jnp.asarray(policy)) for policy in (current, moved))
    data = backend.rollout(old, None)
    loud = data._replace(weight_error=jnp.array([0.0, 0.0, 1e-3, 0.0]))  # of y, where the weight is 0.6/0.4
    whole, cut = (backend.estimate(now, loud, 1, importance_weighted(c)).tables for c in (np.inf, 1.25))
    assert float(whole.advantage_error.max()) < 1e-14
    here, unit = backend.rollout(now, None), rounding_unit(team)  # Q − Φ of both states, where Φ = 0 is off by no unit
    w, off, v, error = (np.asarray(x)[1:3] for x in (here.weight, here.weight_error, here.values, here.error))
    after = np.asarray(team.reward + 0.5 * team.dynamics.backward(here.values))[1:3]
    terms = w[:, None] * (error + unit * abs(v)[:, None]) + (off + unit * w)[:, None] * after
    free = backend.estimate(now, data, 1, importance_weighted(np.inf)).tables
    np.testing.assert_allclose(free.value_error[1], terms.sum(0) / w.sum(), rtol=1e-9)
    assert float(cut.advantage_error[1].max()) == pytest.approx(1.25e-3 * 0.5 / float(cut.weight[1]), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_file_holds_what_is_seen(tmp_path, kind):
    """Written and read again."""
    stage = one(kind)
    write_stage(stage, tmp_path / "tied.npz")
    back = read_stage(tmp_path / "tied.npz")
    np.testing.assert_array_equal(back.team.observation, stage.team.observation)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(stage), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "episodic" else kind for kind in KINDS]
)
def test_a_report_does_not_look_at_labels(kind):
    """It is that of the same tables without them."""
    stage = one(kind)
    free = Stage(replace(stage.team, observation=None), stage.current, stage.target, stage.order)
    for x, y in zip(jax.tree.leaves(evaluate_stage(stage)), jax.tree.leaves(evaluate_stage(free)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_one_label_for_every_step(tmp_path):
    """An episodic file without a time axis: the agent does not see the clock."""
    stage = one("episodic")
    with_clock = np.arange(3)
    team = replace(
        stage.team, observation=jnp.asarray(np.tile(with_clock, 3)), active=jnp.asarray(np.tile([0, 1, 1], 3))
    )
    rows = jnp.asarray(np.tile(np.asarray(stage.current)[:3], (3, 1)))
    write_stage(Stage(team, rows, rows, stage.order), tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        assert file["observation"].tolist() == [0, 1, 2]
        assert file["current"].shape == (3, 3)
    assert np.asarray(read_stage(tmp_path / "s.npz").team.observation).tolist() == [0, 1, 2] * 3


def test_rows_of_chance_are_not_tied():
    """Nobody sees anything there, whatever the label."""
    team, _ = door()
    chance = replace(team, active=jnp.array([-1, 1, 1, -1]), observation=jnp.zeros(4, int))
    rows = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    assert Stage(chance, rows, rows, jnp.arange(2)).current is rows
    with pytest.raises(InputError, match="current: found different rows at states 1 and 2, expected one row for both"):
        Stage(chance, rows.at[2].set(rows[0]), rows, jnp.arange(2))


def test_bad_observations_are_refused():
    """Labels of the wrong shape, kind or size, and policies that see more than the agent."""
    team, current = door()
    policy, apart = jnp.asarray(current), current.copy()
    apart[2] = [0.4, 0.6]
    cases = [
        (lambda: replace(team, observation=jnp.array([0, 1, 1])), r"observation: found axes \[3\], expected \[4\]"),
        (lambda: replace(team, observation=jnp.array([0, 1, 4, 0])), "observation: found 4 at .*integers from 0 to 3"),
        (lambda: replace(team, observation=jnp.array([0.0, 1, 1, 0])), "observation: found dtype float64"),
        (lambda: team_state(team, jnp.asarray(apart)), "policy: found different rows at states 1 and 2"),
        (lambda: Stage(team, policy, jnp.asarray(apart), jnp.array([0, 1])), "target: found different rows at states 1 and 2"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(InputError, match=message):
            make()
    stage = one("product")
    with pytest.raises(InputError, match=r"observation: found shape \[5\], expected an array of 2 axes"):
        replace(stage.team, observation=jnp.zeros(5, int))
    own = stage.current.at[1, 0].set(jnp.array([0.2, 0.3, 0.5]))
    with pytest.raises(InputError, match="current: found different rows"):
        Stage(stage.team, own, stage.target, stage.order)
    assert team_policy(stage.team, stage.current).shape == stage.team.reward.shape


def test_random_ties():
    """`observations` labels, rows equal where they are; the states of different agents are not tied."""
    stages = random_stages(np.random.default_rng(0), 20, 6, 2, 3, discount=0.9, observations=2)
    label, active, rows = (np.asarray(x) for x in (stages.team.observation, stages.team.active, stages.current))
    assert set(label.ravel()) == {0, 1}
    together = (label[:, :, None] == label[:, None]) & (active[:, :, None] == active[:, None])
    same = (rows[:, :, None] == rows[:, None]).all(-1)
    np.testing.assert_array_equal(same, together)
    with pytest.raises(InputError, match="observations: found 7"):
        random_stages(np.random.default_rng(0), 2, 6, 2, 3, discount=0.9, observations=7)
