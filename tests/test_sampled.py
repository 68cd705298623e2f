"""The sampled backend: budgets, what it is unbiased for, ζ and its parts, what S8 certifies of held-out rollouts."""

import math

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.sampled import Sampling, prompts_per_set, sampled_backend
from teamtr_jax.schedules import every, fresh, greedy, importance_weighted, once, stale_occupancy
from teamtr_jax.stage import run_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.teams import random_stages, relay_stage
from teamtr_jax.trust_region import kl_constrained, ppo_clip
from teamtr_jax.validation import InputError

STEP = kl_constrained(0.02)


@pytest.fixture(scope="module")
def relay():
    return relay_stage(2, 0.5, 0.0, slots=2)


@pytest.fixture(scope="module")
def batch():
    """The relay from four start policies."""
    stages = [relay_stage(2, p, 0.0, slots=2) for p in (0.3, 0.4, 0.5, 0.6)]
    return jax.tree.map(lambda *x: jnp.stack(x), *stages)


def column(records, part, name):
    return np.asarray([getattr(record, part)[name] for record in records])


def test_every_schedule_gets_the_same_budget(relay):
    for schedule in (fresh, once, every(2)):
        prompts = prompts_per_set(64, schedule, agents=2, group=4)
        backend = sampled_backend(relay.team, STEP, Sampling(prompts, 4, "centred"), audit=False)
        _, records = run_stage(
            backend, team_state(relay.team, relay.current), [0, 1], schedule, jax.random.key(0), budget=64
        )
        assert sum(record.rollouts for record in records) == 64
    with pytest.raises(InputError, match="budget: found 7, expected at least 8 rollouts a stage"):
        prompts_per_set(7, fresh, agents=2, group=4)


@pytest.mark.slow  # 131,072 rollouts; that estimates are unbiased is tested in test_rollouts.py
def test_many_rollouts_show_what_the_tables_say(relay):
    """131,072 rollouts: the step is the exact one within 2 %, and ζ's sampling part is small beside the surrogate."""
    start = team_state(relay.team, relay.current)
    target, expected = run_stage(exact_backend(relay.team, STEP), start, [0, 1])
    backend = sampled_backend(relay.team, STEP, Sampling(2**14, 8, "centred"))
    found, records = run_stage(backend, start, [0, 1], fresh, jax.random.key(1))
    visited = np.asarray(target.policy != start.policy)
    np.testing.assert_allclose(found.policy[visited], target.policy[visited], atol=0.02)
    for record, exact in zip(records, expected, strict=True):
        np.testing.assert_allclose(record.surrogate, exact.surrogate, rtol=0.03)
        np.testing.assert_allclose(record.exact["kl"], 0.02, rtol=0.03)
        assert record.exact["zeta_sampling"] == pytest.approx(0.0, abs=0.03 * exact.surrogate)
        for part in ("zeta_ratio", "zeta_normalisation", "zeta_clip"):
            assert record.exact[part] == pytest.approx(0.0, abs=1e-15)


def test_exact_advantages_leave_the_occupancy_to_sampling(relay):
    """`advantage="exact"`: one rollout per group is enough, and Â = A where the rollouts went."""
    backend = sampled_backend(relay.team, STEP, Sampling(4096, 1, "exact"), audit=False)
    start = team_state(relay.team, relay.current)
    data = backend.rollout(start, jax.random.key(0))
    found = backend.estimate(start, data, 0, fresh)
    exact = exact_backend(relay.team, STEP, audit=False)
    tables = exact.estimate(start, exact.rollout(start, None), 0, fresh).tables
    tried = np.asarray(found.used.tables.positive + found.used.tables.negative > 0).all(-1)
    assert tried.any()
    share = np.asarray(start.policy[0])
    centred = [
        np.asarray(x - (x * share).sum(-1, keepdims=True)) for x in (found.used.tables.advantage, tables.advantage)
    ]
    np.testing.assert_allclose(centred[0][tried], centred[1][tried], atol=0.15)
    np.testing.assert_allclose(found.used.tables.weight, tables.weight, atol=0.05)


def test_zeta_is_the_sum_of_its_parts(batch):
    """Stale, group-normalised, clipped: every part is there, and together they are L̂ − L^seq."""
    step = ppo_clip(0.5, clip=0.05, epochs=20, learning_rate=0.2, target=0.1)
    backend = sampled_backend(batch.team, step, Sampling(16, 4))
    _, records = run_stage(backend, team_state(batch.team, batch.current), [0, 1], once, jax.random.key(0))
    exact = {name: column(records, "exact", name) for name in records[0].exact}
    parts = ("zeta_ratio", "zeta_sampling", "zeta_normalisation", "zeta_clip")
    total = sum(exact[name] for name in parts)
    surrogate = np.asarray([record.surrogate for record in records])
    np.testing.assert_allclose(total, surrogate - exact["surrogate_intermediate"], atol=1e-14)
    np.testing.assert_allclose(exact["zeta"], abs(total), atol=1e-14)
    assert (abs(exact["zeta_ratio"][0]) < 1e-15).all()  # the first update's rollouts are fresh
    assert (abs(exact["zeta_ratio"][1]) > 1e-6).any()
    for name in parts[1:]:
        assert (abs(exact[name]) > 1e-6).any(), name
    assert (exact["zeta_clip"] <= 1e-15).all()


def test_exact_backend_has_no_sampling_error(relay):
    """Cached: ζ is its ratio part, |L^cached − L^seq|."""
    _, records = run_stage(exact_backend(relay.team, STEP), team_state(relay.team, relay.current), [0, 1], once)
    exact = records[1].exact
    np.testing.assert_allclose(
        exact["zeta"], abs(exact["surrogate_cached"] - exact["surrogate_intermediate"]), rtol=1e-9
    )
    assert exact["zeta"] > 1e-4
    assert abs(exact["zeta_sampling"]) < 1e-15


def test_exact_clipped_surrogates_differ_by_the_clip_alone():
    """ζ = (1−γ)|L̂ − L^seq| of PPO on exact fresh tables is its clip part."""
    stage = builders.first(random_stages(np.random.default_rng(0), 1, 4, 3, 2, discount=0.8))
    step = ppo_clip(math.inf, clip=0.05, epochs=20, learning_rate=0.2, adaptive=False)
    _, records = run_stage(exact_backend(stage.team, step), team_state(stage.team, stage.current), [0, 1])
    for record in records:
        exact = record.exact
        np.testing.assert_allclose(exact["zeta"], 0.2 * (exact["surrogate_intermediate"] - record.surrogate), rtol=1e-9)
        np.testing.assert_allclose(exact["zeta_clip"], -exact["zeta"], rtol=1e-9)
        assert exact["zeta"] > 1e-4
        assert abs(exact["zeta_sampling"]) < 1e-12


@pytest.mark.slow  # `make quick` checks the coverage of S8 on four teams
def test_held_out_rollouts_certify(batch):
    """S8 at α = .1 on prompts that no update saw: below the exact improvement, positive with enough of them; −∞ when stale."""
    sampling = Sampling(1024, 4, "centred", held_out=768)
    backend = sampled_backend(batch.team, kl_constrained(0.05), sampling)
    start = team_state(batch.team, batch.current)
    _, records = run_stage(backend, start, [0, 1], fresh, jax.random.key(3))
    lower = column(records, "info", "certificate_finite_sample")
    improvement = column(records, "exact", "improvement")
    assert (
        lower <= improvement
    ).sum() >= 7  # of 8; more than one failure has probability < .19 even if α were exhausted
    assert (lower > 0).any()
    _, stale = run_stage(backend, start, [0, 1], once, jax.random.key(3))
    lower = column(stale, "info", "certificate_finite_sample")
    assert np.isfinite(lower[0]).all()
    assert (lower[1] == -math.inf).all()


def test_held_out_rollouts_are_not_trained_on(relay):
    """Changing the returns of held-out prompts changes nothing of the estimate."""
    backend = sampled_backend(relay.team, STEP, Sampling(8, 4, "centred", held_out=4), audit=False)
    start = team_state(relay.team, relay.current)
    data = backend.rollout(start, jax.random.key(0))
    changed = data._replace(rollouts=data.rollouts._replace(returns=data.rollouts.returns.at[4:].add(1.0)))
    trained = data._replace(rollouts=data.rollouts._replace(returns=data.rollouts.returns.at[0, 0].add(1.0)))
    a, b, c = (backend.estimate(start, x, 0, fresh).used.tables for x in (data, changed, trained))
    assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))
    assert not all(bool((x == y).all()) for x, y in zip(a, c, strict=True))


def test_importance_weights_are_reported_and_cut(batch):
    """Fresh rollouts weigh 1; after an update they do not, and a cut at 1 leaves the surrogate smaller."""
    backend = sampled_backend(batch.team, kl_constrained(0.2), Sampling(32, 4, "centred"), audit=False)
    start = team_state(batch.team, batch.current)
    whole, cut = (
        run_stage(backend, start, [0, 1], importance_weighted(c), jax.random.key(0))[1] for c in (math.inf, 1.0)
    )
    ess = column(whole, "info", "weight_ess")
    assert (ess[0] == 1).all()
    assert (ess[1] < 0.99).all()
    assert (column(whole, "info", "weight_max")[1] > 1.1).all()
    assert (np.asarray(cut[0].surrogate) == np.asarray(whole[0].surrogate)).all()
    assert not np.allclose(cut[1].surrogate, whole[1].surrogate, rtol=1e-6)


@pytest.mark.slow
def test_greedy_order_works_on_samples(batch):
    backend = sampled_backend(batch.team, STEP, Sampling(16, 4, "to_go"), audit=False)
    _, records = run_stage(backend, team_state(batch.team, batch.current), greedy, fresh, jax.random.key(0))
    assert (np.sort([record.agent for record in records], 0) == np.arange(2)[:, None]).all()


@pytest.mark.slow
def test_discounted_teams():
    stage = random_stages(np.random.default_rng(0), 3, 5, 3, 2, discount=0.8)
    backend = sampled_backend(stage.team, STEP, Sampling(512, 8, "to_go"))
    _, records = run_stage(backend, team_state(stage.team, stage.current), [0, 1], fresh, jax.random.key(0))
    improvement = column(records, "exact", "improvement")
    assert (improvement > 0).all()
    np.testing.assert_allclose(column(records, "exact", "kl"), 0.02, rtol=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(prompts=0), "prompts, group, held_out: found 0 prompts of 8, 0 held out"),
        (dict(prompts=4, held_out=4), "prompts, group, held_out: found 4 prompts of 8, 4 held out"),
        (dict(prompts=4, group=1), "group: found 1, expected at least 2"),
        (dict(prompts=4, advantage="best"), "advantage: found 'best'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message):
        Sampling(**options)


def test_bad_use(relay):
    backend = sampled_backend(relay.team, STEP, Sampling(4))
    start = team_state(relay.team, relay.current)
    with pytest.raises(InputError, match="key: found None"):
        run_stage(backend, start, [0, 1])
    with pytest.raises(InputError, match="schedule stale_occupancy: found the current team's advantages"):
        run_stage(backend, start, [0, 1], stale_occupancy, jax.random.key(0))
    stage = random_stages(np.random.default_rng(0), 1, 3, 2, 2, discount=0.8)
    with pytest.raises(InputError, match="held_out: found 2, expected 0 in a discounted team"):
        sampled_backend(stage.team, STEP, Sampling(4, held_out=2))
