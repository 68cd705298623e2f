"""The driver: who is updated when, on which rollouts, and what the books say."""

import json

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import as_stage, discounted_world, product_team, stack

from teamtr_jax.bounds import DEFAULT
from teamtr_jax.dynamics import Dense
from teamtr_jax.records import dump, update_lines
from teamtr_jax.schedules import (
    Schedule,
    certificate_driven,
    every,
    fixed,
    fresh,
    greedy,
    importance_weighted,
    joint,
    lag,
    once,
    path_shift,
    random_order,
    reverse,
    single,
    stale_occupancy,
)
from teamtr_jax.sharing import Sharing
from teamtr_jax.stage import Backend, run_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.teams import handover_team, random_stages
from teamtr_jax.trust_region import kl_constrained
from teamtr_jax.trust_region._info import step_info
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError

CLOSE = dict(rtol=1e-10, atol=1e-13)


@pytest.fixture(scope="module")
def batch():
    return random_stages(np.random.default_rng(0), 3, 6, 3, 3, discount=0.9)


@pytest.fixture(scope="module")
def one(batch):
    return builders.first(batch)


STEP = kl_constrained(0.01)


@pytest.fixture(scope="module")
def backend(one):
    return exact_backend(one.team, STEP)


@pytest.fixture(scope="module")
def product():
    rng = np.random.default_rng(3)
    return as_stage(product_team(rng, discounted_world(rng, 3, 12, 0.9)))


def finished(stage, target, order):
    return evaluate_stage(Stage(stage.team, stage.current, target.policy, jnp.asarray(order)))


def column(records, name):
    return np.asarray([getattr(record, name) for record in records])


def exact(records, name):
    return np.asarray([record.exact[name] for record in records])


def test_fresh_stage_improves_every_update_and_books_it(one, backend):
    """The driver's records say what the exact report of the finished stage says."""
    order = [2, 0, 1]
    target, records = run_stage(backend, team_state(one.team, one.current), order)
    report = finished(one, target, order)
    assert [r.agent for r in records] == order
    assert [r.update for r in records] == [0, 1, 2]
    assert all(r.resampled for r in records)
    assert [r.rollouts for r in records] == [1, 1, 1]  # each set is infinitely large, and is counted as one
    np.testing.assert_allclose(column(records, "kl"), report.kl, **CLOSE)
    np.testing.assert_allclose(column(records, "surrogate"), report.surrogate_intermediate, **CLOSE)
    np.testing.assert_allclose(column(records, "objective_before"), report.objective[:-1], **CLOSE)
    for name in ("surrogate_intermediate", "gap_fresh", "gap_cached", "kl", "kl_stale", "tv", "share"):
        np.testing.assert_allclose(exact(records, name), getattr(report, name), err_msg=name, **CLOSE)
    np.testing.assert_allclose(exact(records, "improvement"), np.diff(report.objective), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(exact(records, "surrogate_in_use"), report.surrogate_intermediate, **CLOSE)
    assert (exact(records, "shift_in_use") == 0).all()
    assert (exact(records, "violations") == 0).all()
    assert (exact(records, "improvement") > 0).all()


@pytest.mark.parametrize(
    ("schedule", "surrogate"),
    [(once, "cached"), (stale_occupancy, "stale"), (joint, "reused")],
    ids=lambda x: str(x)[:9],
)
@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
def test_what_a_stale_stage_optimises(one, product, schedule, surrogate, protocol):
    """d⁰ and A⁰: cached; d⁰ and the current advantage: the paper's stale; against the first team: reused. Its KL is δ⁰."""
    stage = one if protocol == "turn-taking" else product
    order = list(range(stage.team.agents))
    backend = exact_backend(stage.team, STEP)
    target, records = run_stage(backend, team_state(stage.team, stage.current), order, schedule)
    report = finished(stage, target, order)
    assert column(records, "resampled").tolist() == [True] + [False] * (len(order) - 1)
    np.testing.assert_allclose(column(records, "surrogate"), getattr(report, f"surrogate_{surrogate}"), **CLOSE)
    np.testing.assert_allclose(exact(records, "surrogate_in_use"), getattr(report, f"surrogate_{surrogate}"), **CLOSE)
    np.testing.assert_allclose(column(records, "kl"), report.kl_stale, **CLOSE)
    np.testing.assert_allclose(exact(records, "shift_in_use"), report.occupancy_tv_stale, **CLOSE)
    np.testing.assert_allclose(column(records, "path_kl"), np.cumsum(report.kl_stale), **CLOSE)


def test_exact_importance_weights_are_fresh_unless_cut(one, backend):
    """Untruncated: the fresh surrogate. Cut at c: visits min(m^{now}, c·m⁰)."""
    start = team_state(one.team, one.current)
    target, records = run_stage(backend, start, [0, 1, 2], importance_weighted())
    again, expected = run_stage(backend, start, [0, 1, 2], fresh)
    np.testing.assert_allclose(target.policy, again.policy, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(column(records, "kl"), column(expected, "kl"), rtol=1e-9)
    assert sum(r.rollouts for r in records) == 1
    _, cut = run_stage(backend, start, [0, 1, 2], importance_weighted(0.5))
    np.testing.assert_allclose(cut[1].kl, 0.01, rtol=1e-8)  # still met, on half the weight
    assert cut[0].surrogate < records[0].surrogate * 0.999


def test_joint_equals_once_when_turn_taking_and_differs_in_product_teams(one, product):
    for stage, same in ((one, True), (product, False)):
        backend = exact_backend(stage.team, kl_constrained(0.05), audit=False)
        order = range(stage.team.agents)
        a, b = (run_stage(backend, team_state(stage.team, stage.current), order, s)[0] for s in (once, joint))
        assert bool((a.policy == b.policy).all()) is same


def test_a_batch_is_its_instances(batch):
    """Instances of a batch take the same updates as alone, orders and resampling differing between them."""
    schedule = certificate_driven(0.06, 0.9)
    start = team_state(batch.team, batch.current)
    target, records = run_stage(exact_backend(batch.team, STEP), start, greedy, schedule)
    orders = column(records, "agent")
    assert orders.shape == (3, 3)
    assert (np.sort(orders, 0) == np.arange(3)[:, None]).all()
    assert len({tuple(order) for order in orders.T}) > 1
    for i in range(3):
        stage = jax.tree.map(lambda x, i=i: jax.device_put(np.asarray(x)[i]), batch)
        alone = exact_backend(stage.team, STEP)
        single_target, single_records = run_stage(alone, team_state(stage.team, stage.current), greedy, schedule)
        np.testing.assert_allclose(target.policy[i], single_target.policy, rtol=1e-9, atol=1e-12)
        for whole, part in zip(records, single_records, strict=True):
            assert (whole.agent[i], whole.resampled[i], whole.source[i]) == (part.agent, part.resampled, part.source)
            np.testing.assert_allclose(whole.exact["improvement"][i], part.exact["improvement"], rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(whole.path_kl[i], part.path_kl, rtol=1e-8)


def test_greedy_takes_the_largest_predicted_gain_first(one, backend):
    """By hand: the gain of each agent's step on the first rollouts."""
    gains = []
    for agent in range(3):
        order = [agent, *(k for k in range(3) if k != agent)]
        gains.append(run_stage(backend, team_state(one.team, one.current), order)[1][0].surrogate)
    _, records = run_stage(backend, team_state(one.team, one.current), greedy)
    assert records[0].agent == int(np.argmax(gains))


def test_single_agent(one, backend):
    """One agent takes every update; the audit follows a chain in which its rows move again and again."""
    target, records = run_stage(backend, team_state(one.team, one.current), single(1))
    assert [r.agent for r in records] == [1, 1, 1]
    still = np.asarray(one.team.active) != 1
    assert (np.asarray(target.policy)[still] == np.asarray(one.current)[still]).all()
    steps = exact(records, "improvement")
    from_start = finished(one, target, [1, 0, 2]).improvement
    np.testing.assert_allclose(steps.sum(), from_start, rtol=1e-9)
    assert (exact(records, "violations") == 0).all()
    found = [rung for rung in DEFAULT if rung.name in records[0].exact]
    assert {rung.gap for rung in found} == {"fresh", "stale", "cached", "reused"}
    for rung in found:  # what follows from the steps of different agents says nothing here
        assert np.isinf(exact(records, rung.name)).all() == (rung.gap != "fresh"), rung.name


def test_certified_shift_holds(batch):
    """U2 (a): the true shift of the rollouts in use is at most `path_shift` of the KL summed since they were collected."""
    backend = exact_backend(batch.team, kl_constrained(0.05))
    _, records = run_stage(backend, team_state(batch.team, batch.current), [0, 1, 2], once)
    shift = exact(records, "shift_in_use")[1:]
    certified = path_shift(column(records, "path_kl")[:-1], 0.9)
    assert (shift <= certified).all()
    assert (shift > 0).all()


def test_current_advantages_never_lose(batch):
    """U2 (b): at any radius, on any occupancy."""
    for radius in (0.1, 3.0):
        for schedule in (fresh, stale_occupancy):
            backend = exact_backend(batch.team, kl_constrained(radius))
            _, records = run_stage(backend, team_state(batch.team, batch.current), [0, 1, 2], schedule)
            assert (exact(records, "improvement") > 0).all()


def test_one_batch_of_a_turn_taking_stage_never_ends_lower(batch):
    """U2 (c): the stage, not its updates. In the second team the dispatcher learns from an idle worker to settle."""
    for radius in (0.1, 3.0):
        backend = exact_backend(batch.team, kl_constrained(radius))
        _, records = run_stage(backend, team_state(batch.team, batch.current), [0, 1, 2], once)
        assert (exact(records, "improvement").sum(0) > 0).all()
    follows = np.zeros((3, 2, 3))  # desk: wait or open; hall: settle or pass; bench: idle or work
    follows[0, 0, 0] = follows[0, 1, 1] = follows[1, 0, 0] = follows[1, 1, 2] = follows[2, 0, 0] = follows[2, 1, 0] = (
        1.0
    )
    team = Team(
        Dense(jnp.asarray(follows), jnp.asarray(0.9)),
        jnp.array([[0.0, 0.0], [0.3, 0.0], [0.0, 1.0]]),
        jnp.array([1.0, 0.0, 0.0]),
        jnp.array([0, 2, 1]),
        3,
    )
    start = jnp.array([[0.9, 0.1], [0.5, 0.5], [0.8, 0.2]])
    backend = exact_backend(team, kl_constrained(0.03))
    _, records = run_stage(backend, team_state(team, start), [0, 1, 2], once)
    assert records[2].surrogate > 0
    assert exact(records, "regression").tolist() == [False, False, True]
    assert exact(records, "improvement").sum() > 0


def test_a_joint_product_stage_can_end_lower():
    """U2 (c) fails where all act at once: everybody learns to take the item."""
    team = handover_team(3, 2, 0.9)
    start = jnp.broadcast_to(jnp.array([0.7, 0.3]), (3, 2, 2))
    backend = exact_backend(team, kl_constrained(0.05))
    ends = {}
    for schedule in (fresh, joint):
        _, records = run_stage(backend, team_state(team, start), [0, 1, 2], schedule)
        ends[schedule.name] = exact(records, "improvement")
        assert min(r.surrogate for r in records) > 0
    assert ends["joint"].sum() < 0
    assert (ends["fresh"] > 0).all()


def test_random_orders_are_drawn_from_the_key(one, backend):
    orders = set()
    for seed in range(6):
        _, records = run_stage(
            backend._replace(audit=None), team_state(one.team, one.current), random_order, key=jax.random.key(seed)
        )
        orders.add(tuple(r.agent for r in records))
        assert sorted(r.agent for r in records) == [0, 1, 2]
    assert len(orders) > 1


def counting_backend(agents=5, **options):
    """Counts its rollouts; the state is the list of agents updated so far."""
    return Backend(
        agents=agents,
        rollout=lambda state, key: len(state),
        estimate=lambda state, data, agent, schedule: data,
        update=lambda state, data, agent: (
            [*state, agent],
            {"surrogate": 0.0, "kl": 0.1, "objective_before": float(data)},
        ),
        cost=8,
        **options,
    )


@pytest.mark.parametrize(
    ("schedule", "seen"),
    [
        (fresh, [0, 1, 2, 3, 4]),
        (once, [0] * 5),
        (every(2), [0, 0, 2, 2, 4]),
        (every(3), [0, 0, 0, 3, 3]),
        (lag(0), [0, 1, 2, 3, 4]),
        (lag(1), [0, 0, 1, 2, 3]),
        (lag(3), [0, 0, 0, 0, 1]),
        (lag(9), [0] * 5),
    ],
    ids=lambda x: x.name if isinstance(x, Schedule) else "",
)
def test_schedules(schedule, seen):
    """Which update sees rollouts of which team, for any backend; the rollouts are counted."""
    state, records = run_stage(counting_backend(), [], [4, 3, 2, 1, 0], schedule, stage=7)
    assert state == [4, 3, 2, 1, 0]
    assert [r.objective_before for r in records] == seen
    assert [r.source for r in records] == seen
    assert {r.stage for r in records} == {7}
    assert sum(r.rollouts for r in records) == 8 * len(set(seen)) == 8 * schedule.draws(5)


def test_certificate_driven_resamples_when_the_shift_exceeds_the_tolerance():
    """KL .1 each: √(K/2) is .22, .32, .39: above .35 from the third on."""
    _, records = run_stage(counting_backend(), [], range(5), certificate_driven(0.35, None))
    assert [r.resampled for r in records] == [True, False, False, True, False]
    np.testing.assert_allclose([r.path_kl for r in records], [0.1, 0.2, 0.3, 0.1, 0.2])
    _, records = run_stage(counting_backend(), [], range(5), certificate_driven(0.0, None))
    assert all(r.resampled for r in records)


def test_a_lag_books_the_updates_since_its_rollouts():
    """KL .1 each: of update i and the one before it; an agent that is in both has no certified shift."""
    _, records = run_stage(counting_backend(), [], range(5), lag(1))
    np.testing.assert_allclose([r.path_kl for r in records], [0.1, 0.2, 0.2, 0.2, 0.2])
    _, records = run_stage(counting_backend(), [], single(0), lag(1))
    assert [r.path_kl for r in records] == [0.1, *[np.inf] * 4]


def test_a_lag_over_a_batch_books_each_instance():
    """Whoever collects has the updates since; whoever does not keeps its own books."""
    one_of = lag(1)._replace(resample=lambda update, records: np.array([update > 1, False]))
    backend = counting_backend(3, batch=(2,))._replace(
        rollout=lambda state, key: jnp.full(2, float(len(state))),
        update=lambda state, data, agent: ([*state, agent], {"surrogate": np.zeros(2), "kl": np.full(2, 0.1)}),
    )
    _, records = run_stage(backend, [], [0, 1, 2], one_of)
    np.testing.assert_allclose([r.path_kl for r in records], [[0.1, 0.1], [0.2, 0.2], [0.2, 0.3]])
    assert [r.source.tolist() for r in records] == [[0, 0], [0, 0], [1, 0]]


def test_a_lag_of_exact_tables_optimises_old_advantages(one, backend):
    """The surrogate in use of update i is on occupancy and advantages of `π̂^{max(i−1−m, 0)}`; a lag of all is `once`."""
    start, order = team_state(one.team, one.current), [2, 0, 1]
    _, late = run_stage(backend, start, order, lag(1))
    np.testing.assert_allclose(column(late, "surrogate"), exact(late, "surrogate_in_use"), **CLOSE)
    assert [r.source for r in late] == [0, 0, 1]
    one_update = exact(late, "occupancy_tv_fresh")  # between rollouts and team there is the update before
    np.testing.assert_allclose(exact(late, "shift_in_use"), [0.0, *one_update[:2]], rtol=1e-9)
    (whole, old), (same, older) = (run_stage(backend, start, order, schedule) for schedule in (once, lag(2)))
    np.testing.assert_array_equal(whole.policy, same.policy)
    np.testing.assert_array_equal(column(old, "path_kl"), column(older, "path_kl"))


def test_an_agent_that_moves_twice_on_the_same_rollouts_has_no_certified_shift():
    """KL(π⁰‖π²) is no sum of KL(π⁰‖π¹) and KL(π¹‖π²)."""
    _, records = run_stage(counting_backend(), [], single(0), certificate_driven(0.9, None))
    assert [r.resampled for r in records] == [True, False, True, False, True]
    assert [r.path_kl for r in records] == [0.1, np.inf, 0.1, np.inf, 0.1]


def test_path_shift():
    np.testing.assert_allclose(path_shift(0.02, 0.9), 0.9 * np.sqrt(0.1), rtol=1e-15)
    np.testing.assert_allclose(path_shift([0.02, 8.0], None), [0.1, 1.0], rtol=1e-15)


def test_a_schedule_may_read_the_records():
    mine = Schedule("mine", lambda i, records: len(records) == 2, lambda n: 2)
    _, records = run_stage(counting_backend(4), [], range(4), mine)
    assert [r.resampled for r in records] == [True, False, True, False]


def test_keys_are_split_for_each_rollout():
    keys = []
    backend = counting_backend(3)._replace(
        rollout=lambda state, key: keys.append(jax.random.key_data(key).tolist()) or 0
    )
    run_stage(backend, [], range(3), fresh, key=jax.random.key(0))
    assert len({tuple(key) for key in keys}) == 3


def test_rollouts_and_choices_have_keys_of_their_own():
    """Who is next does not follow from the numbers that the rollouts are drawn with, nor the next update's from this one's."""
    draws, choices = [], []
    backend = counting_backend(3)._replace(
        rollout=lambda state, key: draws.append(jax.random.key_data(key).tolist()) or 0
    )

    def first(waiting, gains, key):
        choices.append(jax.random.key_data(key).tolist())
        return waiting.argmax(-1)

    run_stage(backend, [], first, fresh, key=jax.random.key(0))
    assert len({tuple(key) for key in [*draws, *choices]}) == 6


def test_what_the_functions_of_a_backend_are_given():
    """Certified: before and after, the rollouts in use, the agent. Predicted: from the state as it stands."""
    seen, asked = [], []
    backend = counting_backend(3)._replace(
        certify=lambda before, after, data, agent: seen.append((before, after, data, agent)) or {"lower": len(after)},
        predict=lambda state, data: asked.append((state, data)) or [1.0, 2.0, 3.0],
    )
    _, records = run_stage(backend, [], greedy, once)
    assert seen == [([], [2], 0, 2), ([2], [2, 1], 0, 1), ([2, 1], [2, 1, 0], 0, 0)]
    assert asked == [([], 0), ([2], 0), ([2, 1], 0)]
    assert [r.info for r in records] == [{"lower": 1}, {"lower": 2}, {"lower": 3}]
    assert [r.info for r in run_stage(backend._replace(certify=None), [], [0, 1, 2])[1]] == [{}] * 3


def test_an_update_that_fails_says_which_and_one_that_does_not_know_the_objective_says_nothing():
    def update(state, data, agent):
        if agent == 4:
            raise ArithmeticError("no step")
        return [*state, agent], {"surrogate": 0.0, "kl": 0.1}

    backend = counting_backend()._replace(update=update)
    with pytest.raises(ArithmeticError, match=r"^stage 7, update 1: no step$"):
        run_stage(backend, [], [2, 4, 0, 1, 3], stage=7)
    assert [r.objective_before for r in run_stage(counting_backend(2)._replace(update=update), [], [0, 1])[1]] == [
        None
    ] * 2


def test_sharers_that_are_updated_jointly():
    """Agents 0 and 2 of four have one set of parameters: three updates, three sets of rollouts; both move, both are credited."""
    backend = counting_backend(4, sharing=Sharing((0, 1, 0, 2), "joint"))
    state, records = run_stage(backend, [], [2, 0, 1], fresh, budget=24)
    assert state == [r.agent for r in records] == [3, 0, 1]
    moved = [[False, False, False, True], [True, False, True, False], [False, True, False, False]]
    assert [r.moved.tolist() for r in records] == [r.credited.tolist() for r in records] == moved
    apart = counting_backend(4, sharing=Sharing((0, 1, 0, 2)))
    record = run_stage(apart, [], [2, 0, 1, 3])[1][0]
    assert (record.moved.tolist(), record.credited.tolist()) == (
        [True, False, True, False],
        [False, False, True, False],
    )
    with pytest.raises(InputError, match="budget: found 23, expected at least 24: 3 sets of 8 rollouts"):
        run_stage(backend, [], [2, 0, 1], fresh, budget=23)
    with pytest.raises(InputError, match="sharing: found 3 agents, expected 4, those of the backend"):
        run_stage(counting_backend(4, sharing=Sharing((0, 1, 0))), [], [0, 1, 2])


def test_every_agent_has_its_own_memory(one):
    """A step is given what it said of this agent the last time, and nothing of the others; predictions change none."""

    def step(current, estimate, memory):
        return current, step_info(current, current, estimate.advantage, estimate.weight, memory=memory + 1.0)._replace(
            gain=memory
        )

    backend = exact_backend(one.team, step, audit=False)
    start = team_state(one.team, one.current, 0.5)
    assert start.memory.tolist() == [0.5] * 3
    state, records = run_stage(backend, start, single(1))
    assert state.memory.tolist() == [0.5, 3.5, 0.5]
    assert [r.info["memory"] for r in records] == [1.5, 2.5, 3.5]
    state, _ = run_stage(backend, state, [2, 0, 1])
    assert state.memory.tolist() == [1.5, 4.5, 1.5]
    assert np.asarray(backend.predict(state, backend.rollout(state, None))).tolist() == [1.5, 4.5, 1.5]


@pytest.mark.parametrize("agent", [0, 2])
def test_what_exact_tables_hand_to_a_step(one, agent):
    """Occupancy, A, its parts weighted by `d·π`, and `Q − Φ` with `Φ = min r/(1−γ)`: NumPy's inverse."""
    team, rows = one.team, np.asarray(one.team.active) == agent
    P, r, pi = (np.asarray(x) for x in (team.dynamics.transition, team.reward, one.current))
    inverse = np.linalg.inv(np.eye(len(P)) - 0.9 * np.einsum("sa,sat->st", pi, P))
    v, d = inverse @ (pi * r).sum(-1), 0.1 * np.asarray(team.initial) @ inverse
    q = r + 0.9 * P @ v
    a = q - v[:, None]
    backend = exact_backend(team, STEP)
    state = team_state(team, one.current)
    found = backend.estimate(state, backend.rollout(state, None), agent, fresh)
    count = rows.sum()
    expected = (d, a, d[:, None] * pi * np.maximum(a, 0), d[:, None] * pi * np.maximum(-a, 0), q - r.min() / (1 - 0.9))
    for name, table in zip(("weight", "advantage", "positive", "negative", "value"), expected, strict=True):
        np.testing.assert_allclose(
            getattr(found.tables, name)[:count], table[rows], err_msg=name, rtol=1e-9, atol=1e-12
        )
    assert not np.asarray(found.tables.weight[count:]).any()
    np.testing.assert_allclose([found.mass, found.objective], [10.0, np.asarray(team.initial) @ v], rtol=1e-10)


def test_the_budget_is_enforced():
    run_stage(counting_backend(), [], range(5), every(2), budget=24)
    with pytest.raises(InputError, match="budget: found 23, expected at least 24: 3 sets of 8 rollouts"):
        run_stage(counting_backend(), [], range(5), every(2), budget=23)
    liar = Schedule("liar", lambda i, records: True, lambda n: 1)
    with pytest.raises(InputError, match="schedule liar: found 32 rollouts, expected at most the budget, 24"):
        run_stage(counting_backend(), [], range(5), liar, budget=24)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_stage(counting_backend(3), [], [0, 0, 1]), r"order: found \[0, 0, 1\], expected a permutation"),
        (
            lambda: run_stage(counting_backend(3), [], [0, 1]),
            r"order: found \[0, 1\], expected a permutation of 3 agents",
        ),
        (lambda: run_stage(counting_backend(3), [], fixed([0, 1])), "expected a permutation of 3 agents"),
        (lambda: run_stage(counting_backend(3), [], reverse(2)), "expected a permutation of 3 agents"),
        (lambda: run_stage(counting_backend(3), [], single(3)), "agent: found 3, expected 0 … 2"),
        (lambda: run_stage(counting_backend(3), [], random_order), "key: found None, expected a PRNG key"),
        (lambda: run_stage(counting_backend(3), [], greedy), "expected a backend with `predict`"),
        (lambda: every(0), "k: found 0, expected at least 1"),
        (lambda: lag(-1), "m: found -1, expected at least 0"),
        (lambda: importance_weighted(0.0), "truncation: found 0.0, expected a positive number"),
        (lambda: certificate_driven(-0.1, None), "tolerance: found -0.1"),
        (lambda: certificate_driven(float("nan"), None), "tolerance: found nan"),
        (lambda: certificate_driven(0.1, 1.0), "discount: found 1.0"),
    ],
)
def test_bad_driver_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_a_step_remembers_at_first(batch, one):
    """One number for each agent, of each team."""
    assert team_state(one.team, one.current).memory.tolist() == [0.0] * 3
    assert team_state(batch.team, batch.current, 0.25).memory.tolist() == [[0.25] * 3] * 3


def test_two_leading_axes_are_refused(batch):
    twice = stack([batch, batch])
    with pytest.raises(InputError, match="team: found arrays with 2 leading axes"):
        exact_backend(twice.team, STEP)


def test_records_as_lines(batch):
    """One strict-JSON line for each update and instance: what the record says of that instance, ∞ as a string."""
    backend = exact_backend(batch.team, STEP)
    _, records = run_stage(backend, team_state(batch.team, batch.current), single(0), once, stage=4)
    lines = [json.loads(dump(line)) for line in update_lines(records, [{"seed": seed} for seed in (5, 6, 7)])]
    assert [(x["update"], x["seed"]) for x in lines] == [(i, seed) for i in range(3) for seed in (5, 6, 7)]
    last = lines[7]
    assert (last["schema"], last["stage"], last["agent"], last["resampled"], last["source"]) == (1, 4, 0, False, 0)
    assert last["path_kl"] == last["exact"]["penalty_cached_log_sum"] == "inf"
    assert last["kl"] == float(records[2].kl[1])
    assert last["exact"]["improvement"] == float(records[2].exact["improvement"][1])
    assert last["exact"]["regression"] is False
    assert last["info"]["gain"] == float(records[2].info["gain"][1])
    with pytest.raises(InputError, match="labels: found 2 labels, expected 3, one for each instance"):
        update_lines(records, [{}, {}])
