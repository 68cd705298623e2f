"""The studies of team size, importance weights and replacement: their numbers are those of a direct evaluation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tabular.families import Family, family
from experiments.tabular.rows import backend_of
from experiments.tabular.runs import Records
from experiments.tabular.settings import TabularSettings
from experiments.tabular.studies import budget, importance, replacement, scaling
from teamtr_jax.rollouts import WeightDiagnostics, path_weight, sample_rollouts, weight_diagnostics
from teamtr_jax.schedules import fresh, once
from teamtr_jax.stage import run_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.tabular import exact_backend, team_state
from teamtr_jax.types import Stage

TINY = TabularSettings(instances=2, stages=2, budget=48, progress=False)


def one(teams: Family, i: int):
    return jax.tree.map(lambda x: x[i], teams.team), teams.policy[i]


def files(out):
    """Every record, its time of writing among them."""
    return {path: path.read_bytes() for path in out.rglob("records.jsonl")}


# ------------------------------------------------------------------------------------------------------------------- scaling


@functools.cache
def scaled(tmp):
    settings = dataclasses.replace(TINY, out=tmp)
    setup = scaling.CASES[0]._replace(teams=lambda s, sizes: scaling.garnets(s.instances, s.seed, sizes, states=12))
    return setup, scaling.trained(settings, setup, (1, 2, 3), "scaling")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("growth")


def test_same_worlds_for_every_n():
    teams = scaling.garnets(2, 0, (2, 3), states=12)
    reward, active = np.asarray(teams.team.reward), np.asarray(teams.team.active)
    assert (reward[:2] == reward[2:]).all()
    assert not (reward[0] == reward[1]).all()
    for i, n in enumerate((2, 2, 3, 3)):
        counts = np.bincount(active[i], minlength=n)
        assert len(counts) == n
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("schedule", ["fresh", "once"])
def test_scaling_is_a_direct_evaluation(out, schedule):
    """The first stage of a team of two and one of three by `evaluate_stage`; only the first n updates count."""
    _, runs = scaled(out)
    teams = scaling.garnets(2, 0, (1, 2, 3), states=12)
    backend = exact_backend(teams.team, scaling.limited_step(scaling.RADIUS)(teams), audit=False)
    used = fresh if schedule == "fresh" else once
    state, _ = run_stage(backend, team_state(teams.team, teams.policy), range(3), used)
    for instance, n in ((3, 2), (4, 3)):
        team, policy = one(teams, instance)
        report = evaluate_stage(Stage(team, policy, state.policy[instance], jnp.arange(3)))
        scale = 100 / teams.optimum[instance]
        expected = {
            "delta_stale": scale * abs(report.seq_minus_stale)[:n].sum(),
            "d_occ": report.occupancy_tv_stale[:n].sum(),
            "d_step": report.occupancy_tv_fresh[:n].sum(),
            "gap_fresh": scale * abs(report.gap_fresh)[:n].sum(),
            "gap_stale": scale * abs(report.gap_stale)[:n].sum(),
        }
        cached = scale * abs(report.surrogate_cached - report.surrogate_intermediate)[:n].sum()
        expected["delta_in_use"] = cached if schedule == "once" else 0.0
        expected["d_occ_in_use"] = expected["d_occ"] if schedule == "once" else 0.0
        assert float(expected["d_occ"]) > 1e-3
        for name, value in expected.items():
            found = scaling.QUANTITIES[name](runs[schedule])[0, instance]
            np.testing.assert_allclose(found, float(value), rtol=1e-7, atol=1e-12, err_msg=name)


def test_an_empty_slot_adds_nothing(out):
    """D_occ of a team of two would otherwise count TV(d², d⁰) once more in the third slot."""
    _, runs = scaled(out)
    run = runs["fresh"]
    counted = scaling.QUANTITIES["d_occ"](run)[:, 2:4]
    assert (run["exact.occupancy_tv_stale"].sum(1)[:, 2:4] > counted).all()
    assert (run["exact.kl"][:, 2, 2:4] == 0).all()


def test_resumed_run_trains_nothing(out):
    scaled(out)
    before = files(out / "scaling")
    scaled.__wrapped__(out)
    assert len(before) == 2
    assert files(out / "scaling") == before


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_slope(power):
    n = np.array([2, 3, 4, 5, 6, 8])
    rng = np.random.default_rng(0)
    found = scaling.slope(n, n[:, None] ** power * rng.lognormal(0, 0.1, (1, 20)))
    assert found is not None
    assert found.slope == pytest.approx(power, abs=1e-9)
    noisy = scaling.slope(n, n[:, None] ** power * rng.lognormal(0, 0.3, (6, 20)))
    assert noisy is not None
    assert noisy.low < power < noisy.high
    assert noisy.high - noisy.low > 0.05
    assert scaling.slope(n, np.zeros((6, 20))) is None


def records(**columns):
    about = {"optimum": [2.0, 4.0], "agents": [2]}
    return Records(about, {name.replace("__", "."): np.asarray(x, float) for name, x in columns.items()})


def test_losses_are_seen():
    """Two stages, two agents, two instances of J* = 2 and 4: the second update of the first instance loses .1 once."""
    improvement = np.array([[[0.1, 0.2], [-0.1, 0.2]], [[0.1, 0.2], [0.1, 0.2]]])
    agent = np.broadcast_to(np.array([0, 1])[:, None], (2, 2, 2))
    run = records(agent=agent, exact__improvement=improvement, exact__regression=improvement < 0)
    np.testing.assert_allclose(scaling.QUANTITIES["instability"](run), [[2.5, 0], [0, 0]])
    np.testing.assert_allclose(scaling.QUANTITIES["regressions"](run), [[50, 0], [0, 0]])


def test_relays_have_chance_rows_after_their_end():
    teams = scaling.relays(2, 0, (2, 3))
    policy, active = np.asarray(teams.policy), np.asarray(teams.team.active)
    assert (policy[active < 0] == [1.0, 0.0]).all()
    assert ((policy[active >= 0][:, 1] > 0.005) & (policy[active >= 0][:, 1] < 0.02)).all()
    np.testing.assert_array_equal(policy[0, :12], policy[2, :12])  # the first 4 turns of n = 2 are those of n = 3


# ---------------------------------------------------------------------------------------------------------------- importance


def test_weights_of_the_records():
    """The five columns are `weight_diagnostics`, the largest as a maximum over stages, the others as means."""
    x = np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2)
    run = records(**{f"info__{name}": x + k for k, name in enumerate(importance.INFO)})
    found = importance.weights(run, 1)
    np.testing.assert_allclose([y.value for y in found], [5.5, 6.5, 7.5, 11.5, 950.0])
    assert len(importance.INFO) == len(WeightDiagnostics._fields)


def relay_settings(tmp):
    return dataclasses.replace(TINY, out=tmp)


@functools.cache
def scored(tmp, repeats=30):
    teams = scaling.relays(2, 0, (3,), 0.1, 0.4)
    settings = dataclasses.replace(TINY, budget=192)
    return teams, importance.estimates(teams, 0.1, settings, repeats, tmp / "estimates")


@pytest.mark.slow
def test_estimates_are_unbiased_with_weights_and_fresh(out):
    """Within 5 standard errors of `L^seq`; the cached ones within 5 of `L^cached`, and that is another number."""
    _, run = scored(out)
    target, cached = run["surrogate_intermediate"][0], run["surrogate_cached"][0]
    error = {}
    for name, column in importance.COLUMNS.items():
        x = run[f"info.estimate_{column}"]
        error[name] = x.std(0, ddof=1) / np.sqrt(len(x))
        expected = {"cached": cached, "weights ≤ 5": None}.get(name, target)
        if expected is not None:
            assert (abs(x.mean(0) - expected) < 5 * error[name]).all(), name
    assert (abs(target - cached)[1:] > 5 * error["cached"][1:]).any()
    spread = {name: importance.relative_error(run, name, "deviation") for name in importance.ESTIMATORS}
    np.testing.assert_allclose(spread["cached"][0], spread["weights"][0])  # no agent has moved: every weight is 1
    np.testing.assert_allclose(
        importance.relative_error(run, "cached", "bias"), 100 * (cached - target) / abs(target).mean(0)
    )


@pytest.mark.slow
def test_exact_surrogates_of_the_scored_stage(out):
    teams, run = scored(out)
    team, policy = one(teams, 1)
    backend = exact_backend(team, importance.exact_step(0.1)(teams), audit=False)
    state, _ = run_stage(backend, team_state(team, policy), range(3))
    report = evaluate_stage(Stage(team, policy, state.policy, jnp.arange(3)))
    np.testing.assert_allclose(run["surrogate_intermediate"][0, :, 1], report.surrogate_intermediate, rtol=1e-9)
    np.testing.assert_allclose(run["surrogate_cached"][0, :, 1], report.surrogate_cached, rtol=1e-9)


@pytest.mark.slow
def test_weights_degenerate_with_the_distance():
    """ESS/B of a relay's paths falls as the agents move on: the statistic of the table can tell."""
    teams = scaling.relays(2, 0, (3,), 0.1, 0.4)
    team, policy = one(teams, 0)
    rollouts = sample_rollouts(team, policy, jax.random.key(0), 64, 8)
    other = jnp.where(jnp.asarray(team.active)[:, None] >= 0, policy[:, ::-1], policy)
    ess = [
        float(weight_diagnostics(path_weight(team, rollouts, (1 - t) * policy + t * other)).ess_share)
        for t in (0, 0.3, 1)
    ]
    assert ess[0] == 1
    assert ess[0] > ess[1] > 3 * ess[2]


# --------------------------------------------------------------------------------------------------------------- replacement


@functools.cache
def replaced(tmp):
    settings = dataclasses.replace(TINY, out=tmp, families=("garnet",))
    return replacement.courses(settings, "garnet")


@pytest.fixture(scope="module")
def small():
    """Four states each, so that the whole study compiles in seconds."""
    from experiments.tabular.families import garnet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacement, "family", lambda name, instances, seed: garnet(instances, seed, states=12))
        yield


@pytest.mark.slow
def test_swap_is_a_direct_evaluation(out, small):
    """J before and after, and the KL of the swap, of every team and agent; the newcomer's rows and no others changed."""
    found = replaced(out)
    from experiments.tabular.families import garnet

    base = garnet(2, 0, states=12)
    teams, agent = replacement.repeated(base)
    backend = exact_backend(base.team, replacement.exact_step()(base), audit=False)
    trained = team_state(base.team, base.policy)
    for _ in range(TINY.stages):
        trained, _ = run_stage(backend, trained, range(3))
    swap, other = found["direct"].swap, replacement.newcomers(teams.policy, 0)
    for i in (0, 4):
        team, _ = one(teams, i)
        old = trained.policy[i // 3]
        new = jnp.where(np.asarray(team.active)[:, None] == agent[i], other[i], old)
        report = evaluate_stage(Stage(team, old, new, jnp.asarray(np.roll(np.arange(3), -agent[i]))))
        for name, value in {
            "objective_before": report.objective[0],
            "objective_after": report.objective[1],
            "improvement": report.improvement,
            "kl": report.kl[0],
        }.items():
            np.testing.assert_allclose(swap[f"exact.{name}"][0, 0, i], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_aligned_swaps_are_inside_the_ball_and_certified(out, small):
    found = replaced(out)
    swap = found["aligned, KL(out‖new)"].swap
    assert (swap["exact.kl"] <= replacement.RADIUS * (1 + 1e-9)).all()
    assert (found["direct"].swap["exact.kl"] > 2 * replacement.RADIUS).all()
    reverse = found["aligned, KL(new‖out)"].swap
    assert (reverse["exact.kl_reverse"] <= replacement.RADIUS * (1 + 1e-9)).all()
    probed = found["aligned, 500 probes"].swap["exact.kl"]
    assert (probed > replacement.RADIUS).any()
    assert (probed < 2 * replacement.RADIUS).all()
    for name in ("direct", "aligned, KL(out‖new)", "aligned, KL(new‖out)"):
        run = found[name].swap
        assert (run["exact.improvement"] >= run["exact.certificate_estimable"] - 1e-12).all()
        assert (run["exact.improvement"] >= run["exact.certificate_paper"] - 1e-12).all()
        assert (run["exact.violations"] == 0).all()


@pytest.mark.slow
def test_courses_join(out, small):
    """Training begins where the swap ended; nothing happens to a team whose agent stays."""
    for name, course in replaced(out).items():
        np.testing.assert_allclose(
            course.swap["exact.objective_after"][0, 0],
            course.after["exact.objective_before"][0, 0],
            rtol=1e-9,
            err_msg=name,
        )
    kept = replaced(out)["no replacement"].objective
    np.testing.assert_allclose(kept[0], kept[1], rtol=1e-13)
    assert (np.diff(kept[1:], axis=0) > 0).all()


@pytest.mark.slow
def test_replacement_resumes(out, small):
    replaced(out)
    before = files(out / "replacement")
    replaced.__wrapped__(out)
    assert len(before) == 1 + 2 * len(replacement.CONDITIONS)
    assert files(out / "replacement") == before


@pytest.mark.parametrize("name", ["direct", "aligned, KL(out‖new)", "aligned, 500 probes"])
def test_only_the_rows_of_the_replaced_agent_change(name):
    """Direct: they are the newcomer's. Aligned: a mixture, at the radius under the exact visits (within sampling, probed)."""
    base = scaling.garnets(2, 0, (3,), states=12)
    teams, agent = replacement.repeated(base)
    other = np.asarray(replacement.newcomers(teams.policy, 0))
    (condition,) = (c for c in replacement.CONDITIONS if c.name == name)
    found, old = np.asarray(replacement.swapped(condition, teams, agent, teams.policy, 0)), np.asarray(teams.policy)
    mine = np.asarray(teams.team.active) == agent[:, None]
    np.testing.assert_array_equal(found[~mine], old[~mine])
    if name == "direct":
        np.testing.assert_array_equal(found[mine], other[mine])
        return
    weight = np.asarray(replacement._evaluated(teams.team, teams.policy).weight)
    kl = (weight * np.where(mine, (old * np.log(old / found)).sum(-1), 0)).sum(-1)
    np.testing.assert_allclose(kl, replacement.RADIUS, rtol=0.2 if condition.probes else 1e-10)
    assert condition.probes == (abs(kl / replacement.RADIUS - 1) > 1e-6).all()


def test_stages_back():
    j = np.array([[1.0, 1.0, 3.0], [2.0, 1.0, 3.0], [2.5, 1.0, 3.0]])
    np.testing.assert_array_equal(replacement.stages_back(j, np.array([2.2, 2.0, 2.0])), [2, np.inf, 0])


def test_mean_over_replaced_agents():
    x = np.arange(6.0)
    np.testing.assert_array_equal(replacement.per_team(x, 2), [1.0, 4.0])


# -------------------------------------------------------------------------------------------------------------------- budget


def test_budget_statistics_by_value():
    """What the first stages closed; gap over bound, 0 where a bound is infinite."""
    before, after = np.array([[[0.0, 1.0]], [[0.5, 2.0]]]), np.array([[[0.5, 2.0]], [[0.75, 3.0]]])
    gap, bound = np.array([[[-0.1, 1.0]], [[0.3, 1.0]]]), np.array([[[0.5, np.inf]], [[0.3, 1.0]]])
    columns = {"objective_before": before, "objective_after": after, "gap_fresh": gap, "p": bound}
    columns = {f"exact.{name}": x for name, x in columns.items()}
    found = Records({"optimum": [1.0, 5.0]}, columns)
    np.testing.assert_allclose(budget.early(found, 1), [0.5, 0.25])
    np.testing.assert_allclose(budget.early(found, 9), [0.75, 0.5])
    np.testing.assert_allclose(budget.ratio(found, "p"), [0.5, 0.0])


def test_the_budget_rows_keep_their_budget():
    """S10: no update of a relay spends more than `X` along an episode; the other ways have names and settings of their own."""
    rows = {row.name: row for row in budget.rows()}
    assert len(rows) == 12
    assert all(row.sampling for row in rows.values())
    teams = family("relay", 2, 0)
    the = backend_of(rows["χ² budget 0.04"], teams, 96)
    _, records = run_stage(the, team_state(teams.team, teams.policy), range(4), fresh, jax.random.key(0))
    target = [r.exact["penalty_chi_square"] for r in records]
    sd = 0.5  # at most, of a reward in [0, 1]
    assert (np.array(target) <= sd * np.sqrt(np.exp(0.04) - 1.04) * (1 + 1e-9)).all()
    assert np.max(target) > 0


# -------------------------------------------------------------------------------------------------------------- whole studies


@pytest.mark.slow
@pytest.mark.parametrize("study", [scaling, importance, replacement])
def test_study(study, tmp_path, capsys):
    """The whole study: table and figures; a second call writes the same records again and trains nothing."""
    settings = dataclasses.replace(TINY, out=tmp_path, budget=96)
    figures = study.run(settings)
    assert all(path.stat().st_size > 10_000 for path in figures)
    first, before = capsys.readouterr().out, files(tmp_path)
    study.run(settings)
    assert files(tmp_path) == before
    assert capsys.readouterr().out == first
    assert "paper" in first
