"""Reports, rungs and certificates of whole stages by value, and the functions below a report one by one.

Rewards away from 0, early ends, agents that speak never, move never, drop or open an action, orders that are not 0 … n−1, γ in
{0, ½, 0.9}.
"""

import itertools
import math

import builders
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import truth
from builders import as_stage, evaluated

from teamtr_jax.divergences import exclusive_sum, expected, kl_current_to_new, kl_new_to_current, kl_terms
from teamtr_jax.interaction import interaction_matrix, skippable
from teamtr_jax.surrogates import occupancy_tv
from teamtr_jax.values import optimal_values, return_bounds, return_range
from teamtr_jax.visits import (
    chain_hybrids,
    chain_solo_steps,
    exact_support,
    joint_policy,
    marginal_advantage,
    occupancy,
)

FAMILIES = list(itertools.product(("discounted", "episodic"), ("turn-taking", "product")))
PROPERTIES = ("improvement", "delta_stale", "d_occ")


@pytest.fixture(scope="module", params=FAMILIES, ids="-".join)
def family(request):
    """Twelve teams of one form and protocol, what the package says of them, and what the oracle does."""
    cases = truth.teams(*request.param)
    return cases, evaluated(cases), [oracle.stage(*case.oracle()) for case in cases]


def close(ours, expected, name, scale=1.0):
    """The oracle inverts I − γP (condition ≤ 2/(1−γ) = 20) and subtracts objectives of size |V| ≤ 50: some 1e-13 of a unit."""
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11 * scale, err_msg=name)


def test_every_field(family):
    """Every field and property of a report."""
    _, reports, truths = family
    for report, x in zip(reports, truths, strict=True):
        for name, expected_value in x.items():
            close(getattr(report, name), expected_value, name)
    assert {"improvement", "delta_stale", "d_occ", "even", "simultaneous"} <= set(truths[0])


def test_the_teams_are_what_they_are_meant_to_be(family):
    """Every special thing happens, and to some agent that is not the first one."""
    cases, _, truths = family
    episodic = "T" in cases[0].world
    if episodic:
        assert {x["even"] for x in truths} == {True, False}
    assert any(not np.isfinite(x["kl"]).all() for x in truths)
    assert any((x["kl"] == 0).any() for x in truths)
    assert any((~np.isfinite(x["kl_reverse"]) & np.isfinite(x["kl"])).any() for x in truths)
    assert {tuple(case.order) for case in cases} == set(truth.ORDERS)
    assert {x["discount"] for x in truths} == ({1.0} if episodic else {0.0, 0.5, 0.9})
    assert all(abs(x["return_floor"]) > 0.1 for x in truths[:2])
    if cases[0].active is not None:
        assert any((x["share"] == 0).any() for x in truths)


def test_every_rung_and_certificate(family):
    """Penalties and certificates from the oracle's fields: `∞` where the oracle has it, `0·∞ = 0`."""
    for report, x in zip(*family[1:], strict=True):
        ours = report.ladder | {"drift": report.drift_paper, "constant": report.constant}
        penalties = truth.penalties(x)
        for name, value in penalties.items():
            if name in ours:
                close(ours[name], value, name)
        assert set(ours) - set(penalties) - {"constant", "drift"} == set()
        for name, value in truth.certificates(x).items():
            close(getattr(report, name), value, name)


def test_rounding_budgets(family):
    """Every line of docs/rounding.md."""
    for case, report, x in zip(*family, strict=True):
        for name, value in truth.rounding(case, x).items():
            noise = (
                1e-8 * np.max(value) + 1e-25
            )  # where nothing moved, plain Python has the rounding of a difference of equals
            np.testing.assert_allclose(getattr(report.rounding, name), value, rtol=1e-8, atol=noise, err_msg=name)


# ------------------------------------------------------------------------------------------------------- values and visits


@pytest.mark.parametrize(("form", "protocol"), FAMILIES)
def test_bounds_of_the_return(form, protocol):
    """`Φ`, `Ψ` and `ϱ` with early ends, rewards away from 0 and a start in a part of the first layer."""
    for index in (0, 1):
        case = truth.team(form, protocol, "no share", index)
        built = as_stage(case).team
        low, high = oracle.bounds_to_go(case.world)
        found = return_bounds(built)
        close(found[0], low, "floor")
        close(found[1], high, "ceiling")
        start = case.world["rho"] > 0
        gamma = case.world.get("gamma")
        r = case.world["r"]
        rho = high[start].max() - low[start].min() if gamma is None else (r.max() - r.min()) / (1 - gamma)
        close(return_range(built), rho, "range")


def test_the_range_of_the_return_looks_at_starts_alone():
    """A first-layer state that no episode starts in has the largest and the least reward: neither counts."""
    case = truth.team("episodic", "turn-taking", "plain", 0)
    r = np.zeros_like(case.world["r"])
    r[0] = [2.0, 3.0, 2.5]
    r[1] = [-50.0, 70.0, 0.0]
    rho = np.zeros(6)
    rho[0] = 1.0
    built = as_stage(case._replace(world=case.world | {"r": r, "rho": rho})).team
    assert float(return_range(built)) == 1.0


def test_value_iteration_stops_by_its_rule():
    """One state, one action, r = 1: `v_k = (1−γᵏ)/(1−γ)`; it stops once `γ/(1−γ)·(v_k − v_{k−1}) = γᵏ/(1−γ) ≤ tolerance`."""
    world = {"P": np.ones((1, 1, 1)), "r": np.ones((1, 1)), "rho": np.ones(1), "gamma": 0.5}
    built = as_stage(builders.Case(world, np.ones((1, 1)), np.ones((1, 1)), np.array([0]), np.array([0]))).team
    for tolerance, steps in ((0.3, 3), (0.25, 3), (0.2, 4), (1.5, 1)):
        assert float(optimal_values(built, tolerance)[0]) == 2 * (1 - 0.5**steps), tolerance


def test_exact_support():
    """Zero where nothing leads whatever was solved for, positive where something does."""

    class Resolvent:
        def reached(self, initial, visits=None):
            return jnp.array([True, True, False])

        values = visits = lambda self, b: b

    found = exact_support(Resolvent(), jnp.ones(3), jnp.array([0.5, -1e-17, 1e-17]))
    assert found.tolist() == [0.5, np.finfo(float).tiny, 0.0]


def test_occupancy_and_its_tv_by_hand():
    """Visits of unequal sums: `TV(d', d)` with d = (¼, ¾), d' = (½, ½)."""
    m, m_new = jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])
    assert occupancy(m).tolist() == [[0.25, 0.75]]
    assert float(occupancy_tv(m_new - m, occupancy(m), m_new)[0]) == pytest.approx(0.25, rel=1e-15)


def test_marginal_advantages_by_loops():
    """Factors of 2, 3 and 2 actions, padded."""
    case = truth.team("discounted", "product", "plain", 0)
    stage, factors = as_stage(case), case.factors
    A = np.random.default_rng(0).normal(size=case.world["r"].shape)
    expected_value = np.zeros((3, 3, 3))
    for agent, s in np.ndindex(3, 3):
        for joint, own in enumerate(itertools.product(*map(range, factors))):
            others = math.prod(case.current[k, s, own[k]] for k in range(3) if k != agent)
            expected_value[agent, s, own[agent]] += others * A[s, joint]
    found = jax.jit(lambda k: marginal_advantage(stage.team, stage.current, jnp.asarray(A), k))
    for agent in range(3):
        close(found(jnp.asarray(agent)), expected_value[agent], "marginal")
    close(
        joint_policy([jnp.asarray(case.current[k, :, :f]) for k, f in enumerate(factors)])[1],
        oracle.product([case.current[k, 1, :f] for k, f in enumerate(factors)]),
        "joint",
    )


def test_a_chain_in_which_an_agent_moves_twice():
    """Who moved, how far, and what a trainer on the first tables sees, in a product team."""
    case = truth.team("discounted", "product", "plain", 0)
    stage, n = as_stage(case), 3
    half = (case.current + case.target) / 2
    states = np.stack([case.current] + [case.current] * n)
    states[1][1], states[2][1], states[3][1] = half[1], half[1], case.target[1]
    states[2][2] = states[3][2] = case.target[2]
    agents = [1, 2, 1]
    arguments = stage.team, jnp.asarray(states), jnp.array(agents)
    h, solo = jax.jit(lambda *xs: (chain_hybrids(*xs), chain_solo_steps(*xs, stage.current)))(*arguments)
    for i, k in enumerate(agents):
        for s in range(3):
            old, new = (states[j][k, s, : case.factors[k]] for j in (i, i + 1))
            assert h.kl_current_to_new[i, s] == pytest.approx(oracle.kl(old, new), rel=1e-10)
            assert h.kl_new_to_current[i, s] == pytest.approx(oracle.kl(new, old), rel=1e-10)
            assert h.tv[i, s] == pytest.approx(oracle.tv(old, new), rel=1e-12)
            rows = [[t[j, s, :f] for j, f in enumerate(case.factors)] for t in (states[i], states[i + 1], case.current)]
            before, after, alone = rows[0], rows[1], list(rows[2])
            close(h.steps[i, s], oracle.product(after) - oracle.product(before), "steps")
            alone[k] = new - old
            close(solo[i, s], oracle.product(alone), "solo")
    assert np.asarray(h.acts).all()


# ------------------------------------------------------------------------------------------------------------ divergences


def test_terms_of_the_divergence():
    """`k(a) = p(u − log(1+u))`, on both sides of where the series ends (u = ±0.3), `q` where `p = 0`, `∞` where `q = 0`."""
    p = np.array([0.25, 0.25, 0.25, 0.25, 0.0, 0.5, 0.5])
    u = np.array([0.29, -0.29, 0.31, -0.31, 0.0, -1.0, 3.0])
    q = np.where(p > 0, p * (1 + u), 0.125)
    found = np.asarray(kl_terms(jnp.asarray(p), jnp.asarray(q), jnp.asarray(q - p)))
    expected_value = [0.25 * (x - math.log1p(x)) for x in u[:4]] + [0.125, math.inf, 0.5 * (3 - math.log(4))]
    np.testing.assert_allclose(found, expected_value, rtol=1e-13)


def test_directions_of_the_divergence():
    """`KL((¼,¾)‖(½,½)) = ¼ln½ + ¾ln(3/2)`, first argument current."""
    p, q = jnp.array([0.25, 0.75]), jnp.array([0.5, 0.5])
    assert float(kl_current_to_new(p, q)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-13)
    assert float(kl_new_to_current(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-13)


def test_sums_by_hand():
    """`Σ_{u<t}` along the last axis; `Σ m x` with `0·∞ = 0`."""
    assert exclusive_sum(jnp.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])).tolist() == [[0, 1, 3], [0, 8, 24]]
    assert float(expected(jnp.array([0.0, 2.0]), jnp.array([jnp.inf, 3.0]))) == 6.0
    assert float(expected(jnp.array([0.5, 2.0]), jnp.array([jnp.inf, 3.0]))) == math.inf


# ------------------------------------------------------------------------------------------------------------ interaction


@pytest.mark.parametrize(("form", "protocol"), [("discounted", "turn-taking"), ("episodic", "product")])
def test_interaction_matrix_by_dense_solves(form, protocol):
    """`M[k,i] = Σ (m^{⟨k⟩} − m⁰) g_i` in the order (2, 0, 1), early ends and an offset of the reward."""
    case = truth.team(form, protocol, "opens", 0 if form == "discounted" else 3)
    chain, solo = oracle.stage_policies(*case.oracle()[1:])
    world, gamma = case.world, case.world.get("gamma", 1.0)

    def visits(policy):
        induced = np.einsum("sa,sat->st", policy, world["P"])
        return np.linalg.solve((np.eye(len(induced)) - gamma * induced).T, world["rho"])

    x = oracle.stage(*case.oracle())
    expected_value = [[(visits(policy) - visits(chain[0])) @ g for g in x["conditional"]] for policy in solo]
    close(interaction_matrix(as_stage(case), truth.as_report(x)), expected_value, "M")
    assert not np.allclose(expected_value, np.transpose(expected_value), atol=1e-6)


@pytest.mark.parametrize(
    ("tolerance", "skips"),
    [
        (0.0, [False, False, False, False]),
        (1.0, [False, True, False, True]),  # |1| ≤ 1; |2 − 4| > 1, so rollouts before update 2; then |1| ≤ 1
        (2.0, [False, True, True, True]),  # at equality; |−2| ≤ 2; 3 − 5 + 1 = −1
        (0.5, [False, False, False, False]),
    ],
)
def test_what_may_be_skipped_by_hand(tolerance, skips):
    """`|Σ_{b≤k<i} M[k,i]| ≤ tolerance`, b the update that the rollouts were last collected for."""
    matrix = np.full((4, 4), 99.0)
    matrix[0, 1] = 1.0
    matrix[:2, 2] = 2.0, -4.0
    matrix[:3, 3] = 3.0, -5.0, 1.0
    assert skippable(jnp.asarray(matrix), tolerance).tolist() == skips
