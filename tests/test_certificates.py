"""Certified steps: the radius at which a certificate is greatest, the closed-form step of S9, the study of shares."""

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.bounds import penalty_later_turns, penalty_log_sum, penalty_paper
from teamtr_jax.certificates import certificate_weighted, stage_bound_cached, stage_bound_weighted
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import certificate_optimal_radius, value_weighted_step
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError
from teamtr_jax.values import action_values, return_bounds, return_range, values
from teamtr_jax.visits import marginal_advantage, team_policy
from theory.studies import u1


@pytest.fixture(scope="module")
def turns():
    return builders.first(random_stages(np.random.default_rng(0), 1, 6, 3, 3, discount=0.9))


@pytest.fixture(scope="module")
def product():
    return builders.first(random_stages(np.random.default_rng(1), 1, 4, (2, 3, 2), 3, discount=0.9))


def weighted_floor(report):
    return report.weighted_floor


@jax.jit
def weighted_stage(stage):
    """Every agent at once takes S9's step on one evaluation of the current team."""
    team = stage.team
    joint = team_policy(team, stage.current)
    v = values(team, joint)
    q = action_values(team, v) - return_bounds(team)[0][:, None]
    if team.factors is None:
        return Stage(team, stage.current, value_weighted_step(stage.current, q), stage.order)
    own = [marginal_advantage(team, stage.current, q, jnp.asarray(k)) for k in range(team.agents)]
    target = jnp.stack([value_weighted_step(stage.current[k], own[k]) for k in range(team.agents)])
    return Stage(team, stage.current, target, stage.order)


def test_log_sum_is_greatest_where_the_multiplier_is_the_return_range(turns):
    """U1: `L(δ) − ϱ·K` is concave, its slope is zero at `λ = ϱ`; a smaller or larger radius certifies less."""
    best = certificate_optimal_radius(turns.team, turns.current, 0)
    assert float(best.multiplier) == pytest.approx(float(return_range(turns.team)), rel=1e-4)
    assert 0 < float(best.certificate) <= float(best.improvement)
    for factor in (0.5, 2.0):
        near = float(best.radius) * factor
        other = certificate_optimal_radius(turns.team, turns.current, 0, bracket=(near * 0.999, near))
        assert float(other.certificate) < float(best.certificate)


def test_the_weighted_step_is_the_best_certified_one(turns):
    """S9 d: no radius of the constrained step certifies more, and the certificate is `Σ m v KL(new‖current)`."""
    stage = weighted_stage(turns)
    report = evaluate_stage(Stage(turns.team, turns.current, stage.target, jnp.arange(3)))
    searched = certificate_optimal_radius(turns.team, turns.current, 0, weighted_floor)
    found = float((report.surrogate_intermediate - report.weighted_floor)[0])
    level = float(report.objective[0] - report.return_floor)
    assert float(certificate_weighted(report)[0]) == pytest.approx(level * np.expm1(found / level))
    assert float(searched.certificate) <= found * (1 + 1e-9)
    assert float(searched.certificate) > 0.99 * found
    floor = return_bounds(turns.team)[0]
    own = np.asarray(turns.team.active) == 0
    m, v = np.asarray(report.visits)[0], np.asarray(report.values)[0] - np.asarray(floor)
    new, old = np.asarray(stage.target), np.asarray(turns.current)
    kl = (new * np.log(new / old)).sum(-1)
    assert found == pytest.approx((m * v * kl)[own].sum(), rel=1e-10)


@pytest.mark.parametrize("name", ["turns", "product"])
def test_all_agents_at_once_improve_from_one_batch(name, request):
    """S9 e: with the weighted step of every agent the stage's certificate is positive, without any resampling."""
    report = evaluate_stage(weighted_stage(request.getfixturevalue(name)))
    bound = float(stage_bound_weighted(report))
    assert 0 < bound <= float(report.improvement)
    assert float(stage_bound_cached(report)) < bound


def test_the_best_certificate_of_the_paper_is_never_positive(turns):
    """S5: at γ = 0.9 no radius helps; S4R's best one certifies something."""
    assert float(certificate_optimal_radius(turns.team, turns.current, 0, penalty_paper).certificate) <= 0
    assert float(certificate_optimal_radius(turns.team, turns.current, 0, penalty_later_turns).certificate) > 0


def test_shares_add_up(turns):
    """S1: who speaks is part of the state, so `Σ_k w_k ≤ 1 + D_occ`; the first agent's share is that of the current team."""
    report = evaluate_stage(turns)
    assert float(report.share.sum()) <= 1 + float(report.d_occ) + 1e-12
    first = np.asarray(turns.team.active) == int(turns.order[0])
    assert float(report.share[0]) == pytest.approx(float(report.visits[0][first].sum() / report.visits[0].sum()))


def test_rows_without_value_stay():
    current = jnp.array([[0.25, 0.75], [0.5, 0.5]])
    new = value_weighted_step(current, jnp.array([[0.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(new, [[0.25, 0.75], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"agent": 3}, "agent: found 3"), ({"agent": 0, "bracket": (1.0, 0.5)}, "bracket: found"),
     ({"agent": 0, "bracket": (0.0, 0.5)}, "bracket: found")],
)  # fmt: skip
def test_bad_arguments(turns, arguments, message):
    with pytest.raises(InputError, match=message):
        certificate_optimal_radius(turns.team, turns.current, penalty=penalty_log_sum, **arguments)


@pytest.mark.slow
def test_study_of_shares():
    """No certificate exceeds its improvement; the paper's are never positive at γ ≥ 0.9; S9 is never below S7."""
    row, curves = u1.run(10, np.random.default_rng(3), gym=())
    assert row.violations == 0
    for kind, shares in curves.shares.items():
        if kind != "random, γ = 0.5":
            assert not (shares["penalty_paper"] > 0).any()
        valid = np.isfinite(shares["least"])
        assert (shares["certificate_weighted"] >= shares["penalty_log_sum"] - 1e-9)[valid].all()
        assert (shares["least"] <= 1 + 1e-9)[valid].all()
        assert np.nanmedian(shares["least"][0]) > 0.5


def by_hand(stage, target):
    """`J` of both tables and `L^seq`, `δ` between them, by NumPy: one solve a policy, agents that act by the joint table."""
    team = stage.team
    P, r, rho = (np.asarray(x) for x in (team.dynamics.transition, team.reward, team.initial))
    gamma = float(team.dynamics.discount)

    def joint(tables):
        tables = np.asarray(tables)
        if team.factors is None:
            return tables
        out = np.ones((len(r), 1))
        for own, size in zip(tables, team.factors, strict=True):
            out = (out[:, :, None] * own[:, None, :size]).reshape(len(r), -1)
        return out

    old, new = joint(stage.current), joint(target)
    J = []
    for policy in (old, new):
        M = np.eye(len(r)) - gamma * np.einsum("sa,sat->st", policy, P)
        v = np.linalg.solve(M, (policy * r).sum(-1))
        J.append(rho @ v)
        if policy is old:
            m, q = np.linalg.solve(M.T, rho), r + gamma * P @ v
    divergence = np.where(old > 0, old * np.log(np.where(old > 0, old, 1) / np.where(new > 0, new, 1)), 0).sum(-1)
    return J[1] - J[0], (m * ((new - old) * q).sum(-1)).sum(), (1 - gamma) * (m * divergence).sum()


@pytest.mark.parametrize("agent", [0, 1, 2])
@pytest.mark.parametrize("protocol", ["turns", "product"])
def test_the_certified_step_is_that_of_the_agent(protocol, agent, request):
    """Whoever is asked moves, nobody else; improvement, surrogate, KL and certificate are those of this one update."""
    stage = request.getfixturevalue(protocol)
    team, span, gamma = stage.team, float(np.ptp(np.asarray(stage.team.reward))), 0.9
    step = certificate_optimal_radius(team, stage.current, agent, bracket=(0.99e-3, 1e-3))
    moved = np.asarray(step.target != stage.current)
    if protocol == "turns":
        assert moved.any(-1).any()
        assert not moved[np.asarray(team.active) != agent].any()
    else:
        assert moved.any((1, 2)).tolist() == [k == agent for k in range(team.agents)]
    improvement, surrogate, kl = by_hand(stage, step.target)
    assert kl == pytest.approx(float(step.radius), rel=1e-9)
    assert 0.98e-3 < kl < 1.01e-3
    assert float(step.improvement) == pytest.approx(improvement, rel=1e-9)
    assert float(step.certificate) == pytest.approx(surrogate - span * kl / (1 - gamma) ** 2, rel=1e-9)
    assert 0 < float(step.report.kl[0]) == pytest.approx(kl, rel=1e-9)


def test_certified_figure(tmp_path):
    """A panel for each kind of team; a curve that lies below its panel is named there."""
    rng = np.random.default_rng(0)
    names = {name: rng.uniform(-0.2, 1, (len(u1.RADII), 5)) for name in u1.STYLE} | {
        "penalty_paper": np.full((len(u1.RADII), 5), -12.0)
    }
    curves = u1.CertifiedCurves(
        u1.RADII, dict.fromkeys(("random, γ = 0.5", "random, γ = 0.9", "a world"), names), {}, 0, 0
    )
    assert u1.certified_figure(curves, tmp_path / "x" / "certified.png").stat().st_size > 20_000
