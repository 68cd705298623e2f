"""U4 in theory/: the crossing, covariances, contexts that agree, drift teams, the map, tied families of the audit."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.claims import STAGE_CLAIMS
from teamtr_jax.dynamics import Dense
from teamtr_jax.schedules import fresh, importance_weighted, once, stale_occupancy
from teamtr_jax.stage import run_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import kl_constrained, natural_gradient, value_weighted
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError
from theory import audit, exact_audit, families
from theory.constructions import tied
from theory.studies import u4


def transition(team):
    """The first array of a Dense or Layered world."""
    return np.asarray(jax.tree.leaves(team.dynamics)[0])


# --- the crossing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [Fraction(3, 2), Fraction(10), Fraction(1000)])
def test_resampling_wins_by_any_factor(factor):
    """U4: both exact steps at the stated radius move by ε; stale and cached stages gain a factor less than fresh ones."""
    step, tilt = Fraction(1, 8), Fraction(1, 16)
    stated = tied.crossing_gains(step, tilt, tied.factor_of(step, tilt, factor))
    assert stated.stage_fresh == factor * stated.stage_stale > 0
    team, current = tied.crossing_team(float(tilt), float(stated.first / step))
    backend = exact_backend(team, kl_constrained(tied.crossing_radius(0.125)))
    for schedule in (fresh, importance_weighted(), stale_occupancy, once):
        renewed = schedule in (fresh,) or schedule.reuse == "weights"
        after, records = run_stage(backend, team_state(team, current), [0, 1], schedule)
        way = -0.125 if renewed else 0.125
        np.testing.assert_allclose(after.policy[2:, 1], 0.5 + way, rtol=1e-7)
        np.testing.assert_allclose(after.policy[0], [0.375, 0.625], rtol=1e-7)
        improvement = [float((record.exact or {})["improvement"]) for record in records]
        second = stated.fresh if renewed else stated.stale
        assert improvement == pytest.approx([float(stated.first), float(second)], rel=1e-6)
        assert records[1].surrogate == pytest.approx(float(stated.fresh if renewed else stated.promised), rel=1e-6)


def test_a_stale_stage_can_lose_where_a_fresh_one_gains():
    """0 < lead < 2ε − κ(½+ε): by value at ε = 1/8, κ = 1/16, lead = 1/8."""
    found = tied.crossing_gains(Fraction(1, 8), Fraction(1, 16), Fraction(1, 8))
    assert found == (Fraction(1, 64), Fraction(1, 256), Fraction(-27, 1024), Fraction(27, 1024))
    assert (found.stage_fresh, found.stage_stale) == (Fraction(43, 1024), Fraction(-11, 1024))


def test_the_crossing_history_by_history(monkeypatch):
    """Every history of the arrays of the team, in rationals; the study counts what differs."""
    step, tilt, lead = Fraction(1, 4), Fraction(1, 8), Fraction(1, 2)
    team, _ = tied.crossing_team(float(tilt), float(lead))
    kernel, reward = transition(team), np.asarray(team.reward)
    half = Fraction(1, 2)

    def objective(to_x, first):
        total = Fraction(0)
        for lead_to, answer in product(range(2), repeat=2):
            place = int(kernel[0, lead_to].argmax())
            weight = (to_x if lead_to == 0 else 1 - to_x) * (first if answer else 1 - first)
            total += weight * (Fraction(reward[0, lead_to]) + Fraction(reward[2 + place, answer]))
        return total

    start, moved = objective(half, half), objective(half - step, half)
    fresh_end, stale_end = objective(half - step, half - step), objective(half - step, half + step)
    stated = tied.crossing_gains(step, tilt, lead)
    assert stated[0] == moved - start
    assert stated[2:] == (stale_end - moved, fresh_end - moved)
    assert stated.promised == step * (half * 1 - half * (1 - tilt))
    assert u4.crossings() == (0, 192)
    monkeypatch.setattr(u4, "crossing_gains", lambda *x: stated._replace(stale=-stated.fresh / 2))
    assert u4.crossings()[0] > 32


# --- what decides ------------------------------------------------------------------------------------------------------


def moved_team(labels, batch=80, seed=0):
    """Random teams that have moved since their rollouts: (team, policy then, policy now). Agent 0 moved, agent 1 is next."""
    stages = random_stages(np.random.default_rng(seed), batch, 5, 3, 2, discount=0.8, step=0.9, observations=labels)
    own = np.asarray(stages.team.active)[..., None] == 0
    return stages.team, stages.current, jnp.where(own, stages.target, stages.current)


def updated(team, before, now, step):
    """What agent 1's stale update promises and brings ``[N]``, and the data that it was given."""
    backend = exact_backend(team, step, audit=False)
    old, state = backend.rollout(team_state(team, before), None), team_state(team, now)
    agent = jnp.ones(team.initial.shape[0], int)
    after, info = backend.update(state, backend.estimate(state, old, agent, stale_occupancy), agent)
    change = backend.rollout(after, None).objective - backend.rollout(state, None).objective
    return info["surrogate"], np.asarray(change), old


@pytest.mark.parametrize(("name", "losing"), [("random", 0), ("chooser", 10)])
def test_covariances_decide(name, losing):
    """U4 (d): promised and realised, to first order, are quadratic forms of covariances; the signs differ in some teams."""
    team, before, now = moved_team(1) if name == "random" else chooser(False)
    promised, brought, old = updated(team, before, now, kl_constrained(1e-9))
    data = exact_backend(team, kl_constrained(1e-9), audit=False).rollout(team_state(team, now), None)
    P, r, label = (np.asarray(x) for x in (transition(team), team.reward, team.observation))
    active, policy = np.asarray(team.active), np.asarray(now)
    lost, discount = 0, float(team.dynamics.discount[0])
    for b in range(len(brought)):
        q = r[b] + discount * P[b] @ np.asarray(data.values)[b]
        a = q - (policy[b] * q).sum(-1, keepdims=True)
        m0, m1 = (np.asarray(x.weight)[b] for x in (old, data))
        own = active[b] == 1
        forms = {"promised": 0.0, "brought": 0.0}
        for o in range(5):
            seen = [s for s in range(5) if own[s] and label[b, s] == o]
            w = sum(m0[s] for s in seen)
            for s, t in product(seen, repeat=2):
                covariance = (policy[b, s] * a[s] * a[t]).sum()
                forms["promised"] += m0[s] * m0[t] * covariance / w
                forms["brought"] += m1[s] * m0[t] * covariance / w
        if forms["promised"] > 1e-3:
            assert brought[b] / promised[b] == pytest.approx(forms["brought"] / forms["promised"], rel=1e-2, abs=1e-3)
            lost += forms["brought"] < 0 and brought[b] < 0
    assert lost >= losing
    assert (promised >= 0).all()


STEPS = {
    "KL": kl_constrained(0.05), "reverse": kl_constrained(0.05, "new_to_current"), "natural": natural_gradient(0.05),
    "weighted": value_weighted(),
}  # fmt: skip


def chooser(agree, batch=80, seed=0):
    """Agent 0 leads to one of three contexts for which agent 1 has one row of three actions; then the end.

    If they `agree` the rewards of every context rank the actions alike, else they are uniform.
    """
    rng = np.random.default_rng(seed)
    P = np.zeros((5, 3, 5))
    P[0, np.arange(3), 1 + np.arange(3)] = P[1:, :, 4] = 1.0
    reward = np.zeros((batch, 5, 3))
    reward[:, 1:4] = rng.random((batch, 3, 3))
    if agree:
        reward[:, 1:4] = np.take_along_axis(np.sort(reward[:, 1:4]), rng.random((batch, 1, 3)).argsort().argsort(), -1)
    many = [np.tile(x, (batch, 1)) for x in ([1.0, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 2])]
    world = Dense(jnp.tile(jnp.asarray(P), (batch, 1, 1, 1)), jnp.full(batch, 0.5))
    start, active, seen = (jnp.asarray(x) for x in many)
    team = Team(world, jnp.asarray(reward), start, active.astype(int), 2, observation=seen.astype(int))
    rows = rng.dirichlet(np.ones(3), (batch, 3))
    before, now = (np.stack([rows[:, k], *[rows[:, 2]] * 3, np.full((batch, 3), 1 / 3)], 1) for k in (0, 1))
    return team, jnp.asarray(before), jnp.asarray(now)


@pytest.mark.parametrize("name", STEPS)
def test_contexts_that_agree_never_lose(name):
    """U4 (c): on any occupancy. Where they do not agree, some update loses by more than a thousandth."""
    _, brought, _ = updated(*chooser(True), STEPS[name])
    assert brought.min() > -1e-14
    assert (brought > 1e-4).mean() > 0.9
    promised, brought, _ = updated(*chooser(False), STEPS[name])
    assert (promised >= 0).all()
    assert 2 < (brought < -1e-3).sum() < 40


def test_a_wrong_factor_is_counted(monkeypatch):
    """At every step, tilt and factor; the gains themselves have their closed form all the same."""
    right = u4.factor_of
    monkeypatch.setattr(u4, "factor_of", lambda step, tilt, factor: right(step, tilt, factor + 1))
    assert u4.crossings() == (4 * 2 * 4, 192)


# --- drift teams -------------------------------------------------------------------------------------------------------


def test_a_drift_team_by_value():
    """Two agents, five positions: where a push goes, what it earns, what an answer earns, who sees what."""
    sizes, batch = tied.DriftSizes(2, 5), 40
    team, policy = tied.drift_teams(np.random.default_rng(0), batch, 2, forget=0.25, sizes=sizes)
    kernel, reward, initial, active, seen = (
        np.asarray(x) for x in (transition(team), team.reward, team.initial, team.active, team.observation)
    )
    team_state(team, policy)  # rows of one label are equal
    begin = initial.argmax(-1)
    assert set(begin) == {1, 2, 3}
    assert (active == np.repeat([0, 1, 0, 1], 5)).all()
    reward = reward.reshape(batch, 4, 5, 2)
    for b in range(batch):
        back = 0.25 * np.eye(5)[begin[b]]
        for x in range(5):
            np.testing.assert_allclose(kernel[b, 0, x, 0], back + 0.75 * np.eye(5)[max(x - 1, 0)])
            np.testing.assert_allclose(kernel[b, 1, x, 1], back + 0.75 * np.eye(5)[min(x + 1, 4)])
            np.testing.assert_allclose(kernel[b, 2, x], np.tile(back + 0.75 * np.eye(5)[x], (2, 1)))
        assert (reward[b, :2] == [0.0, tied.PUSH]).all()  # coherent
        wrong = reward[b, 2:, [0, 1, 3, 4], [1, 1, 0, 0]]
        right = reward[b, 2:, [0, 1, 3, 4], [0, 0, 1, 1]]
        assert not wrong.any()
        assert ((right >= 0.25) & (right <= 0.75)).all()
        assert (reward[b, 2, 2] > 0).sum() == 1
        labels = seen[b].reshape(4, 5)
        assert (labels[0] == labels[1]).all()
        assert (labels[2] == labels[0] + 5).all()
        assert sorted(np.bincount(labels[0])) == [2, 3]
    rows = np.asarray(policy)[..., 1]
    assert 0.3 <= rows.min() < rows.max() <= 0.7
    incoherent = np.asarray(tied.drift_teams(np.random.default_rng(0), batch, 2, 0.0, sizes=sizes)[0].reward)
    share = (incoherent.reshape(batch, 4, 5, 2)[:, :2, 0, 1] > 0).mean()
    assert 0.3 < share < 0.7


def test_the_same_teams_whatever_is_seen():
    """Rewards, world and start do not depend on the number of labels; with one for each position nothing is tied."""
    (blind, one), (apart, many) = (tied.drift_teams(np.random.default_rng(1), 8, k) for k in (1, 9))
    for a, b in zip(*(jax.tree.leaves(replace(team, observation=None)) for team in (blind, apart)), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = [np.asarray(x).reshape(8, 12, 9, 2) for x in (one, many)]
    assert (rows[0] == rows[0][:, :, :1]).all()
    assert all(len(np.unique(rows[1][b, 0, :, 0])) == 9 for b in range(8))


# --- the map -----------------------------------------------------------------------------------------------------------


def test_a_cell_by_hand():
    """Two stages of two updates, two teams: 3 of 8 updates and 2 of 4 stages lose; 2 gained of 6 is ⅔ lost."""
    j = np.zeros((2, 3, 2))
    j[:, :, 0] = [[0, -1, 2], [2, 3, 1]]
    j[:, :, 1] = [[0, 1, 2], [2, 1, 1 - 1e-13]]
    best = j.copy()
    best[-1, -1] = [4.0, 2.0]
    found = u4.cell(j, best, np.random.default_rng(0))
    assert found.updates[0] == 3 / 8
    assert found.stages[0] == 2 / 4
    assert found.lost[0] == pytest.approx(1 - 2 / 6)
    assert found.updates[1:] == (1 / 4, 2 / 4)  # one team or the other alone
    assert u4._theorems(j) == (3, 8)
    assert u4._theorems(j, stage_only=True) == (2, 4)


@pytest.fixture(scope="module")
def small():
    """Drift teams, three numbers of observations less one, one radius."""
    return u4.run(np.random.default_rng(0), teams=12, stages=2, groups=("drift",), radii=(0.5,))


def test_the_ranking_comes_back_where_rows_are_tied(small, tmp_path):
    """Old rollouts lose more than a tenth of the growth if an agent sees nothing, less than one percent if it sees all."""
    row, found = small
    assert (row.violations, row.id) == (0, "U4")
    blind, all_seen = ({name: found.cells["drift", k, 0.5, name] for name in u4.SCHEDULES} for k in (1, None))
    assert blind["fresh"].lost == (0, 0, 0)
    for name in ("stale", "cached"):
        assert blind[name].lost[0] > 0.1
        assert blind[name].lost[1] > 0
        assert blind[name].updates[0] > 0.05 > 0.01 > blind["fresh"].updates[0]
        assert abs(all_seen[name].lost[0]) < 0.01
        assert all_seen["stale"].updates[0] == 0
    assert len(u4.as_dict(found)["cells"]) == 4 * 3
    assert "at δ = 0.5 by agents that see one label: drift: lost stale" in row.note
    assert (row.instances, row.exact, row.evidence) == (4 * 12, 32, "float")
    u4.tied_figure(found, tmp_path / "tied.png")
    assert (tmp_path / "tied.png").stat().st_size > 20_000


def test_a_quick_run_is_the_crossing_alone():
    row, found = u4.run(np.random.default_rng(0), teams=0)
    assert (found, row.violations, row.checks, row.instances, row.exact, row.evidence) == (None, 0, 192, 32, 0, "exact")
    assert "a fresh stage gains 1.1, 2, 10, 1e+06 times" in row.note


def test_objectives_of_a_run():
    """J before a stage, after each update; the next stage begins where this one ended."""
    team, policy = tied.drift_teams(np.random.default_rng(0), 12, 1)
    j = u4.play(team, policy, kl_constrained(0.5), fresh, 2)
    assert j.shape == (2, 7, 12)
    np.testing.assert_array_equal(j[1, 0], j[0, -1])
    backend = exact_backend(team, kl_constrained(0.5), audit=False)
    np.testing.assert_allclose(j[0, 0], backend.rollout(team_state(team, policy), None).objective, rtol=1e-14)


# --- the audit ---------------------------------------------------------------------------------------------------------

TIED = [f for f in families.FAMILIES if f.name.startswith("tied")]


@pytest.mark.parametrize("family", TIED, ids=lambda f: f.name)
def test_tied_families_are_tied(family):
    """Random Dec-POMDPs of the shapes of the free families: stages whose rows are those of what is seen, from one label on."""
    stages = family.make(np.random.default_rng(0), 200)
    Stage(stages.team, stages.current, stages.target, stages.order)  # refuses rows that are apart
    seen = np.asarray(stages.team.observation).reshape(200, -1)
    assert set(seen.max(-1)) == ({0, 1} if family.name == "tied product" else {0, 1, 2})
    name = {"tied": "small"}.get(family.name, family.name.removeprefix("tied "))
    other = next(f for f in families.FAMILIES if f.name == name).make(np.random.default_rng(0), 200)
    free = replace(stages, team=replace(stages.team, observation=None))
    for a, b in zip(jax.tree.leaves(free), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    with pytest.raises(InputError, match="current: found different rows"):
        Stage(stages.team, jnp.asarray(np.asarray(stages.current)[..., ::-1, :]), stages.target, stages.order)


def test_the_audit_of_a_tied_team_is_that_of_a_free_one_with_its_rows(monkeypatch):
    """One program for both, and a counterexample keeps its labels."""
    asked, heard = [], []

    def kept(function, stages, static, quick):
        asked.append(stages.team.observation)
        return {("S7", ""): {
            "checks": np.array([3, 3]), "violated": np.array([0, 1]), "trivial": np.zeros(2, int), "open": np.zeros((2, 3), bool),
            "identity": np.array([False, False]), "ratio": np.array([0.5, 2.0]), "slack": np.array([0.5, 0.0]),
        }}  # fmt: skip

    monkeypatch.setattr(audit.programs, "run", kept)
    claims = [claim for claim in STAGE_CLAIMS if claim.id == "S7"]
    audit.audit_family(TIED[0], 2, np.random.default_rng(0), claims, chunk=2, broken=heard.append)
    assert asked == [None]
    assert heard[0].stage.team.observation.shape == (6,)


@pytest.mark.parametrize("world", [w for w in exact_audit.WORLDS if w.observations], ids=lambda w: w.name)
def test_exact_worlds_are_tied(world):
    stages = exact_audit.draw(world, np.random.default_rng(0), 30)
    Stage(stages.team, stages.current, stages.target, stages.order)
    rows = np.asarray(stages.current).reshape(30, -1, np.asarray(stages.current).shape[-1])
    most = world.observations * (world.agents + 1)  # chance nodes too
    assert max(len(np.unique(one, axis=0)) for one in rows) <= most * len(world.actions)
