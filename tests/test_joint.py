"""U1 for the whole team: scales of the agents' steps by value, against a grid, and what they certify of the truth."""

import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from teamtr_jax.certificates import stage_bound_reused, stage_bound_weighted
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import budget_scales, certificate_optimal, joint_scales, scaled
from teamtr_jax.trust_region._info import error_of
from teamtr_jax.types import Estimate, Stage, Team
from teamtr_jax.validation import InputError
from teamtr_jax.values import advantages, evaluate_policy, objective, return_range
from teamtr_jax.visits import team_policy
from theory.studies import joint

FORMS = ("weighted", "log_sum")
CASES = {
    "turns, discounted": {"states": 5, "actions": 3, "agents": 3, "discount": 0.9},
    "product, discounted": {"states": 3, "actions": (2, 3), "agents": 2, "discount": 0.8},
    "turns, episodic": {"states": 3, "actions": 2, "agents": 2, "horizon": 4},
}


def stages(name, count=4, step=0.8):
    return random_stages(np.random.default_rng(3), count, **CASES[name], step=step)


def one(batch, i):
    return jax.tree.map(lambda x: x[i], batch)


SCALED = jax.jit(scaled)


def of_stage(stage, form, scales):
    """The certificate of the stage at these scales, by the stage's own report."""
    target = SCALED(stage.current, stage.target, stage.team, jnp.asarray(scales))
    report = evaluate_stage(Stage(stage.team, stage.current, target, stage.order))
    if form == "log_sum":
        return float(stage_bound_reused(report)), report
    above = report.objective[0] - report.return_floor
    return float(above * jnp.log1p(stage_bound_weighted(report) / above)), report  # b of S9 (e), from its Jensen form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_the_scales_are_best_and_the_certificate_is_that_of_the_stage(name, form):
    batch = stages(name)
    together = jax.jit(jax.vmap(lambda s: joint_scales(s.team, s.current, s.target, form)))(batch)
    for i in range(4):
        stage, found = one(batch, i), jax.tree.map(lambda x, i=i: x[i], together)
        alone = joint_scales(stage.team, stage.current, stage.target, form)
        for x, y in zip(found, alone, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
        value, report = of_stage(stage, form, found.scales)
        assert found.certificate == pytest.approx(value, rel=1e-8, abs=1e-11)
        assert 0 <= found.certificate <= float(report.improvement) + 1e-12
        common = of_stage(stage, form, np.full(len(found.scales), found.common))[0]
        assert found.common_certificate == pytest.approx(common, rel=1e-8, abs=1e-11)
        for moved in (-1e-3, 1e-3):  # no other common scale is better
            near = np.full(len(found.scales), np.clip(float(found.common) + moved, 0, 1))
            assert of_stage(stage, form, near)[0] <= common + 1e-12
        assert found.full_certificate == pytest.approx(of_stage(stage, form, np.ones(len(found.scales)))[0], rel=1e-8)
        assert found.certificate >= max(found.common_certificate, found.full_certificate) - 1e-12
        for k in range(len(found.scales)):  # no other scale of one agent is better
            for moved in (-1e-3, 1e-3):
                t = np.array(found.scales)
                t[k] = np.clip(t[k] + moved, 0, 1)
                assert of_stage(stage, form, t)[0] <= found.certificate + 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_an_agent_chooses_for_itself(form):
    """The certificate is a sum over agents: with the others at home the scale is the same, and the certificates add up."""
    stage = one(stages("product, discounted"), 0)
    every = joint_scales(stage.team, stage.current, stage.target, form)
    total = 0.0
    for k in range(2):
        target = stage.current.at[k].set(stage.target[k])
        alone = joint_scales(stage.team, stage.current, target, form)
        assert alone.scales[k] == pytest.approx(float(every.scales[k]), abs=1e-12)
        total += float(alone.certificate)
    assert total == pytest.approx(float(every.certificate), rel=1e-12)


def lever(target, reward=(1.0, 0.0), current=(0.5, 0.5)):
    """One decision of one agent."""
    team = Team(
        Layered(Dense(jnp.ones((1, 2, 1)), None), 1), jnp.array([reward]), jnp.ones(1), jnp.zeros(1, jnp.int32), 1
    )
    return team, jnp.array([current]), jnp.array([target])


def test_by_hand():
    """L = ½. S7c: `t/2 + ½log(1 − t²)`, best at √2 − 1. S9: `½log(1 + t)`, best at 1. A harmful step: both stay."""
    found = joint_scales(*lever([1.0, 0.0]), "log_sum")
    t = math.sqrt(2) - 1
    assert float(found.scales[0]) == pytest.approx(t, abs=1e-12)
    assert float(found.certificate) == pytest.approx(t / 2 + math.log(1 - t * t) / 2, abs=1e-12)
    assert float(found.full_certificate) == -math.inf
    found = joint_scales(*lever([1.0, 0.0]))
    assert float(found.scales[0]) == 1.0
    assert float(found.certificate) == pytest.approx(math.log(2) / 2, abs=1e-12)
    for form in FORMS:
        found = joint_scales(*lever([0.0, 1.0]), form)
        assert found.scales.tolist() == [0.0]
        assert float(found.certificate) == 0.0
    # a message never sent before costs its new probability times its price: L = ½, and Q − Φ = 1, ϱ = 1
    opened = lever([0.5, 0.5], (0.0, 1.0), (1.0, 0.0))
    assert float(joint_scales(*opened, "weighted").full_certificate) == pytest.approx(0.5 - 0.5)
    found = joint_scales(*opened, "log_sum")
    assert float(found.full_certificate) == pytest.approx(0.5 - 0.5 - (-0.5 - math.log(0.5)))
    assert (found.scales.tolist(), float(found.certificate)) == ([0.0], 0.0)  # `t/2 + log(1 − t/2)` only falls


def test_on_the_path_of_exact_steps_every_agent_stops_at_the_return_range():
    """U1: directions that lead to the certificate-optimal step itself (λ = ϱ) are taken whole."""
    stage = one(stages("turns, discounted"), 1)
    team, policy = stage.team, stage.current
    _, v, m = evaluate_policy(team, team_policy(team, policy))
    target, step = policy, certificate_optimal(return_range(team))
    for agent in range(3):
        own = jnp.where(team.active == agent, m, 0.0)
        a = advantages(team, v)
        empty = jnp.zeros_like(a)
        estimate = Estimate(own, a, empty, empty, empty)
        estimate = estimate._replace(advantage_error=error_of(policy, estimate))
        target, _ = step(target, estimate, jnp.zeros(()))
    found = joint_scales(team, policy, target, "log_sum")
    np.testing.assert_allclose(found.scales, 1.0, atol=1e-6)
    moves = np.array([bool((abs(target - policy).max(-1) > 0)[team.active == k].any()) for k in range(3)])
    assert moves.any()
    longer = joint_scales(team, policy, policy + 1.05 * (target - policy), "log_sum")
    np.testing.assert_allclose(longer.scales[moves], 1 / 1.05, rtol=1e-6)


def penalty(t, x, sd):
    total = (t**2 * x).sum()
    return sd * math.sqrt(max(math.expm1(total) - total, 0.0))


def test_a_shared_budget_against_a_grid():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 401)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for case in range(20):
        gain, x, sd = rng.normal(0.3, 0.3, 2), 10 ** rng.uniform(-2, 0.7, 2), rng.uniform(0.1, 1)
        t = np.array(budget_scales(jnp.asarray(gain), jnp.asarray(x), sd))
        value = gain @ t - penalty(t, x, sd)
        total = (grid**2 * x).sum(-1)
        best = (grid @ gain - sd * np.sqrt(np.expm1(total) - total)).max()
        assert best - 1e-12 <= value, case
        assert value <= best + 0.02
        assert 0 <= t.min() <= t.max() <= 1
        assert (t[gain < 0] == 0).all()


def test_a_shared_budget_by_hand():
    one_ = jnp.ones(1)
    t = float(
        budget_scales(0.5 * one_, 4 * one_, 0.5)[0]
    )  # stationary: L = sd·(e^X − 1)/(2√(e^X − 1 − X))·dX/dt, X = 4t²
    x = 4 * t * t
    assert 0.5 * math.expm1(x) / (2 * math.sqrt(math.expm1(x) - x)) * 8 * t == pytest.approx(0.5, rel=1e-6)
    # two of the same: each alone would go further than both together
    two = budget_scales(0.5 * jnp.ones(2), 4 * jnp.ones(2), 0.5)
    assert float(two[0]) == pytest.approx(float(two[1]))
    assert float(two[0]) < float(budget_scales(0.5 * one_, 4 * one_, 0.5)[0])
    assert budget_scales(jnp.array([0.5, -0.5, 0.5]), jnp.array([0.0, 1.0, jnp.inf]), 0.5).tolist() == [1.0, 0.0, 0.0]
    assert budget_scales(jnp.array([0.5]), jnp.array([9.0]), 0.0).tolist() == [1.0]
    assert 0 < float(budget_scales(0.5 * one_, 1e5 * one_, 0.5)[0]) < 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: joint_scales(*lever([1.0, 0.0]), "S4"), "form: found 'S4'"),  # pyright: ignore[reportArgumentType]
        (lambda: joint_scales(*lever([1.0, 0.1])), "target: "),
        (lambda: joint_scales(*lever([1.0, 0.0])[:2], jnp.ones((2, 2)) / 2), "target: found shape"),
        (lambda: budget_scales(jnp.ones(2), jnp.ones(3), 1.0), "chi_square: found shape"),
        (lambda: budget_scales(jnp.ones(2), -jnp.ones(2), 1.0), "chi_square: found -1.0"),
        (lambda: budget_scales(jnp.ones(2), jnp.ones(2), -1.0), "deviation: found -1.0"),
        (lambda: budget_scales(jnp.ones(2), jnp.ones(2), math.nan), "deviation: found nan"),
        (lambda: budget_scales(jnp.ones(2), jnp.ones(2, jnp.float32), 1.0), "chi_square: found dtype"),
    ],
)
def test_what_is_refused(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=message):
        call()


def test_the_study():
    row, found = joint.run(True, np.random.default_rng(0))
    assert row.violations == 0
    assert row.checks > 100
    for by in found.exact.values():
        assert (by["joint"].certified >= by["common"].certified - 1e-12).all()
    assert "equal information" in row.note
    assert float(objective(*lever([1.0, 0.0])[:2])) == 0.5


def test_the_budget_of_a_relay_by_hand():
    """S10: eight messages, two ups win; steps of 1, 2, 4 and 8 times .04. Gains, certificates, and who chooses better."""
    found = joint._relay_budget()
    lengths = 0.04 * np.array([1.0, 2.0, 4.0, 8.0])

    def wins(rates):
        law = np.array([1.0])
        for rate in np.repeat(rates, 2):
            law = np.convolve(law, [1 - rate, rate])
        return law[2:].sum()

    start = wins(np.full(4, 0.2))
    assert found["full"][1] == pytest.approx(wins(0.2 + lengths) - start, rel=1e-12)
    gain = (2 * lengths * 7 * 0.2 * 0.8**6).sum()  # a message decides where one of the other seven is up
    total = (2 * lengths**2 / (0.2 * 0.8)).sum()
    expected = gain - math.sqrt(start * (1 - start)) * math.sqrt(math.expm1(total) - total)
    assert found["full"][0] == pytest.approx(expected, rel=1e-10)
    lower = {name: x for name, (x, _) in found.items()}
    assert lower["joint"] > max(lower["common"], lower["each as if alone"])
    assert lower["common"] > 0 > lower["full"]
    assert all(x < true for x, true in found.values())
