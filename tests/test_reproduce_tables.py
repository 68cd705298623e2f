"""Tables whose rows are tied by what an agent sees of a transcript: labels, starts, and a stage by hand."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.optimize import brentq

from experiments.reproduce.tables import SCHEDULES, TableRun, _teams, observations, start_table
from experiments.reproduce.training import ground
from teamtr_jax.llm.enumeration import enumerated_policy
from teamtr_jax.llm.model import init_team

TASK = "quota agents=3"
PAIR = TableRun("quota agents=2", 1, "fresh", 0.5, 8, 1, radius=0.3)


def _classes(label, active):
    return {frozenset(np.flatnonzero((label == o) & (active >= 0)).tolist()) for o in set(label[active >= 0].tolist())}


def test_observations_by_hand():
    """Root 0; what was said first: 1 (a), 2 (b); then 3 (aa), 4 (ab), 5 (ba), 6 (bb)."""
    world = ground(TASK, False).world
    active = np.asarray(world.team.active)
    assert active.tolist() == [0, 1, 1, 2, 2, 2, 2]
    alone = [frozenset([s]) for s in range(7)]
    assert _classes(observations(world, 0), active) == {*alone}
    assert _classes(observations(world, 1), active) == {frozenset([0]), frozenset([1, 2]), frozenset([3, 4, 5, 6])}
    last = {frozenset([0]), frozenset([1]), frozenset([2]), frozenset([3, 5]), frozenset([4, 6])}
    assert _classes(observations(world, 2), active) == last
    assert _classes(observations(world, 3), active) == last  # the header of the one before says nothing new
    assert _classes(observations(world, 4), active) == {*alone}


@pytest.mark.parametrize("window", [1, 2])
def test_networks_with_a_window_have_these_rows(window):
    """One layer: equal rows where labels are equal, other rows elsewhere; the whole transcript tells all apart."""
    found = ground(TASK, False, window)
    rows = np.asarray(enumerated_policy(found.world, init_team(found.team, jax.random.key(0))))
    label = observations(found.world, window)
    np.testing.assert_allclose(rows, rows[label], rtol=1e-6)  # float32 logits, rows of one batch
    distinct = sorted(set(label.tolist()))
    assert len({round(float(rows[o, 0]), 5) for o in distinct}) == len(distinct)
    free = ground(TASK, False)
    whole = np.asarray(enumerated_policy(free.world, init_team(free.team, jax.random.key(0))))
    assert len({round(float(p), 5) for p in whole[:, 0]}) == 7


def test_prompts_are_seen():
    """Chain with three switches: 8 prompts less those held out; blind agents still know the prompt and the turn."""
    world = ground("chain switches=3", False).world
    label, active = observations(world, 1), np.asarray(world.team.active)
    nodes = np.flatnonzero(active >= 0)
    assert nodes.size == 504
    assert len(set(label[nodes].tolist())) == 8 * 6
    assert len(set(observations(world, 2)[nodes].tolist())) == 8 * (1 + 5 * 2)


def test_a_start_is_what_demonstrations_teach():
    world = ground("quota agents=8", False).world
    label = observations(world, 2)
    rows = np.stack([start_table(world, label, 1 / 8, seed) for seed in range(200)])
    assert (rows == rows[:, label]).all()
    np.testing.assert_allclose(rows.sum(-1), 1.0, rtol=1e-15)
    odds = np.log(rows[..., 1] / rows[..., 0])[:, sorted(set(label.tolist()))]
    assert odds.mean() == pytest.approx(np.log(1 / 7), abs=4 * 0.5 / np.sqrt(odds.size))
    assert odds.std() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2 * odds.size))


def _moved(p, up, radius):
    """The Bernoulli row at `KL(p‖p′) = δ`, in the direction asked for."""

    def excess(q):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)) - radius

    return brentq(excess, p, 1 - 1e-15) if up else brentq(excess, 1e-300, p)


@pytest.mark.parametrize("schedule", ["fresh", "once", "stale occupancy"])
def test_two_blind_volunteers_by_hand(schedule):
    """J = p(1−q) + q(1−p): each moves by δ; the second by the first as it is, or as it was. Some then want opposite things."""
    found = replace(PAIR, schedule=schedule).work()
    _, rows = _teams(PAIR.task, PAIR.window, PAIR.mean, PAIR.seeds)
    crossed = 0
    for seed in range(PAIR.seeds):
        p, q = float(rows[seed, 0, 1]), float(rows[seed, 1, 1])
        after = _moved(p, q < 0.5, PAIR.radius)
        known = after if schedule == "fresh" else p
        crossed += (after < 0.5) != (p < 0.5)
        then = _moved(q, known < 0.5, PAIR.radius)
        values = [x * (1 - y) + y * (1 - x) for x, y in ((p, q), (after, q), (after, then))]
        assert found["values"][seed] == pytest.approx([values[0], values[2]], rel=1e-9)
        steps = np.diff(values)
        assert found["instability"][seed] == pytest.approx(np.maximum(-steps, 0).mean(), rel=1e-7, abs=1e-12)
        assert found["regressions"][seed] == (steps < -1e-12).mean()
        # g of the second agent, at what the first said: ± (q' − q)
        gap = (then - q) * 2 * (after - p)
        assert found["delta_stale"][seed] == pytest.approx(abs(gap), rel=1e-7)
    assert 0 < crossed < PAIR.seeds


def test_by_rollouts_sets_are_those_of_the_schedule(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "experiments.reproduce.tables.sampled_backend", lambda team, step, sampling: asked.append(sampling)
    )
    team, _ = _teams(PAIR.task, 1, 0.5, 8)
    for name in ("fresh", "once", "once, same sets"):
        replace(PAIR, schedule=name, rollouts=64)._backend(team)
    assert [x.prompts for x in asked] == [8, 16, 8]
    assert {(x.group, x.advantage) for x in asked} == {(8, "group_normalised")}
    assert list(SCHEDULES) == ["fresh", "once", "once, same sets", "stale occupancy"]


def test_places_of_tables_differ():
    others = [replace(PAIR, **x) for x in (dict(task=TASK), dict(window=2), dict(schedule="once"), dict(mean=0.25), dict(seeds=9),
              dict(stages=2), dict(rollouts=64), dict(radius=0.1), dict(schedule="once, same sets"))]  # fmt: skip
    assert len({PAIR.place, *(x.place for x in others)}) == 1 + len(others)
