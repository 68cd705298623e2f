"""S10: its path sums, its constants by value, where it is sharp, what is false, and the budgets that are declared or kept."""

import math
from fractions import Fraction

import builders
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from builders import as_stage, random_case
from flint import arb, fmpq

from teamtr_jax.bounds import ladder, stage_chi_square
from teamtr_jax.chi_square import excess, path_chi_square, root_excess, root_increment, within_budget
from teamtr_jax.claims import s10
from teamtr_jax.declared_budget import chi_square_penalty, deviation_limit
from teamtr_jax.dynamics import Dense, Layered, Tree
from teamtr_jax.exact.numbers import precisely
from teamtr_jax.exact.solved import Solved
from teamtr_jax.exact.stage import exact_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import relay_stage
from teamtr_jax.trust_region import chi_square_budget, kl_constrained
from teamtr_jax.types import Estimate, Stage, StepInfo, Team
from teamtr_jax.validation import InputError
from teamtr_jax.values import return_deviation, values
from teamtr_jax.visits import hybrids, visits
from theory.constructions.relay import leading_coefficients
from theory.constructions.spent import spent_stage

EXACT = {"rel": 1e-12, "abs": 1e-14}


def budget(x):
    return math.exp(x) - 1 - x


def test_functions_of_the_budget():
    """`√G`, its increments: at 0, where subtraction cancels, across the ends of the series, at ∞."""
    x = jnp.array([0.0, 1e-12, 1e-3, 0.4999, 0.5, 0.5001, 3.0, 40.0, jnp.inf])
    exact = [0.0, 5e-25, 5.001667083e-07, *(budget(y) for y in (0.4999, 0.5, 0.5001, 3.0, 40.0)), math.inf]
    found, root = (np.asarray(jax.jit(f)(x)) for f in (excess, root_excess))
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    np.testing.assert_allclose(root**2, found, rtol=1e-14)
    a, b = jnp.array([0.0, 0.7, 0.7, 0.0, jnp.inf, 2.0, 800.0]), jnp.array([0.3, 0.3, 0.0, 0.0, 0.0, jnp.inf, 0.0])
    found = [budget(0.3), budget(1.0) - budget(0.7), 0.0, 0.0, math.inf, math.inf, 0.0]
    np.testing.assert_allclose(np.asarray(jax.jit(root_increment)(a, b)) ** 2, found, rtol=1e-12)
    slope = jax.jit(jax.vmap(jax.grad(root_excess)))(jnp.array([0.0, 0.5, 2.0]))
    np.testing.assert_allclose(slope[0], math.sqrt(0.5), rtol=1e-12)
    assert np.isfinite(np.asarray(slope)).all()


@pytest.fixture(scope="module")
def hand():
    """Two turns of one coin each: agent 0 at the root, agent 1 after heads only; the reward is 1 after two heads.

    ½ → ¾ at the root (χ² = ¼), ½ → 1 after heads (χ² = 1), nothing after tails: `X_0 = ¼`, under `π̂⁰` the sum is 5/4.
    """
    current = np.full((3, 2), 0.5)
    target = np.array([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]])
    team = Team(Tree(2, 2), jnp.zeros((3, 2)).at[2, 1].set(1.0), jnp.array([1.0, 0.0, 0.0]), jnp.array([0, 1, 1]), 2)
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.arange(2))


def test_hand_team_by_value(hand):
    """S10: `J` = ¼, ⅜, ¾; sd = √(3/16), √(15/64); the second update drops an action: KL infinite, χ² = 1."""
    report = evaluate_stage(hand)
    steps, penalties = report.layers, ladder(report)
    assert np.asarray(steps.return_deviation) == pytest.approx([math.sqrt(3 / 16), math.sqrt(15 / 64)], **EXACT)
    assert np.asarray(steps.chi_square) == pytest.approx([0.25, 1.0], **EXACT)
    assert np.asarray(steps.chi_square_cached) == pytest.approx([0.25, 1.25], **EXACT)
    assert np.asarray(steps.chi_square_cached_own) == pytest.approx([0.25, 1.0], **EXACT)
    # one turn each: no fresh gap; Σ cached gap = ½ − (¼·½ + ½·½)
    assert np.asarray(report.gap_fresh) == pytest.approx([0.0, 0.0], **EXACT)
    assert float(report.gap_cached.sum()) == pytest.approx(0.125, **EXACT)
    sd = math.sqrt(3 / 16)
    assert np.asarray(penalties["penalty_chi_square"]) == pytest.approx(
        [sd * math.sqrt(budget(0.25)), math.sqrt(15 / 64 * budget(1.0))], **EXACT
    )
    increments = [sd * math.sqrt(budget(0.25)), sd * math.sqrt(budget(1.25) - budget(0.25))]
    assert np.asarray(penalties["penalty_cached_chi_square"]) == pytest.approx(increments, **EXACT)
    assert float(stage_chi_square(report)) == pytest.approx(sd * math.sqrt(budget(1.25)), **EXACT)
    assert np.asarray(penalties["penalty_log_sum"])[1] == math.inf


def test_an_action_that_is_taken_up(hand):
    """S10 is infinite where the sampler never plays what is played now, also where its return is certain; unless nobody comes."""
    opened = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    stage = Stage(hand.team, opened, opened.at[0].set(jnp.array([0.5, 0.5])), jnp.arange(2))
    report = evaluate_stage(stage)
    assert float(report.layers.return_deviation[0]) == 0.0
    assert np.asarray(ladder(report)["penalty_chi_square"]).tolist() == [math.inf, 0.0]
    assert float(stage_chi_square(report)) == math.inf
    closed = opened.at[2].set(jnp.array([1.0, 0.0]))
    unseen = evaluate_stage(Stage(hand.team, closed, closed.at[2].set(jnp.array([0.5, 0.5])), jnp.arange(2)))
    assert float(stage_chi_square(unseen)) == 0.0


@pytest.mark.parametrize("protocol", ["turn-taking", "product"])
def test_bounds_on_random_stages_by_trajectories(protocol):
    """S10 (a)–(d) against the oracle's gaps, and `|Σ cached|` against own χ² with `(X−1)eˣ + 1`. How sharp: below."""
    rng = np.random.default_rng(protocol == "product")
    for _ in range(12):
        case = random_case(rng, "episodic", protocol)
        x = oracle.stage(*case.oracle())
        sd = x["layer_return_deviation"]
        pairs = [(abs(x["gap_fresh"]), sd * np.sqrt(np.vectorize(budget)(x["layer_chi_square"])))]
        for gap in ("cached", "reused"):
            through = np.array([0.0, *x[f"layer_chi_square_{gap}"]])
            own = x[f"layer_chi_square_{gap}_own"]
            grown = np.vectorize(budget)(through[:-1] + own) - np.vectorize(budget)(through[:-1])
            pairs.append((abs(x[f"gap_{gap}"]), sd[0] * np.sqrt(grown)))
        last = x["layer_chi_square_cached"][-1]
        pairs.append((abs(x["gap_cached"].sum()), sd[0] * math.sqrt(budget(last))))
        total = x["layer_chi_square_reused"][-1]
        pairs.append((abs(x["gap_cached"].sum()), sd[0] * math.sqrt((total - 1) * math.exp(total) + 1)))
        for gap, bound in pairs:
            assert (gap <= bound * (1 + 1e-12) + 1e-13).all()


def test_the_relay_attains_it():
    """S10: of R1's signed cached sum the bound is `√(1−1/(2n))` as p → 0, exactly; S7c's is far above."""
    for n in (2, 4, 8, 16, 32):
        assert leading_coefficients(n).squared_share == 1 - Fraction(1, 2 * n)
    report = evaluate_stage(relay_stage(4, 1e-6, 1e-6, slots=4))
    share = float(report.gap_cached.sum() / stage_chi_square(report))
    assert share == pytest.approx(math.sqrt(7 / 8), rel=1e-4)
    assert float(stage_chi_square(report)) < 2e-5 * float(ladder(report)["penalty_cached_log_sum"][-1])


def coins(turns, step):
    """One agent, `turns` coins ½ → ½+step, the return `Z = Λ − 1 − Σu` of the proof; the state is the number of heads."""
    contexts = turns + 1
    move = np.zeros((contexts, 2, contexts))
    heads = np.arange(contexts)
    move[heads, 0, heads] = move[heads, 1, np.minimum(heads + 1, turns)] = 1.0
    reward = np.zeros((turns, contexts, 2))
    for a in (0, 1):
        k = heads + a
        reward[-1, :, a] = (1 + 2 * step) ** k * (1 - 2 * step) ** (turns - k) - 1 - 2 * step * (2 * k - turns)
    start = np.zeros(turns * contexts)
    start[0] = 1.0
    rows = np.tile([0.5 - step, 0.5 + step], (turns * contexts, 1))
    team = Team(Layered(Dense(jnp.asarray(move), None), turns), jnp.asarray(reward.reshape(-1, 2)), jnp.asarray(start),
                jnp.zeros(turns * contexts, int), 1)  # fmt: skip
    return Stage(team, jnp.full_like(jnp.asarray(rows), 0.5), jnp.asarray(rows), jnp.arange(1))


@pytest.mark.parametrize("turns", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_many_small_steps_are_sharp(turns):
    """S10: `X = 1` in `turns` equal steps, `E Z² = (1+1/T)ᵀ − 2`: the ratio is `√(((1+1/T)ᵀ−2)/(e−2))`, → 1."""
    report = evaluate_stage(coins(turns, 0.5 / math.sqrt(turns)))
    ratio = float(report.gap_fresh[0] / ladder(report)["penalty_chi_square"][0])
    assert ratio == pytest.approx(math.sqrt(((1 + 1 / turns) ** turns - 2) / (math.e - 2)), rel=1e-9)
    assert (turns < 64) == (ratio < 0.98)


def test_own_budgets_do_not_bound_the_cached_sum():
    """S10 with `Σ_k χ²_k` for the cached sum of a product team is false: by more than a hundredth, decided without rounding."""
    stage = spent_stage()
    with precisely():
        x = Solved(exact_stage(stage))
        own, joint = x.path_chi_square_reused[-1], x.path_chi_square_cached[-1]
        gap, variance = sum(x.gap_cached), x.return_variance(0)
        assert abs(own - 1) < fmpq(1, 10**12)
        assert joint > fmpq(123, 100)
        assert gap**2 > fmpq(1027, 1000) * variance * (flint_exp(own) - 1 - own)
        assert gap**2 < variance * (flint_exp(joint) - 1 - joint)
        assert sum(x.gap_reused) ** 2 < variance * (flint_exp(own) - 1 - own)
        assert gap**2 < variance * ((own - 1) * flint_exp(own) + 1)
    report = evaluate_stage(stage)
    assert float(report.gap_cached.sum()) == pytest.approx(0.737855, abs=1e-6)
    assert (float(abs(report.gap_cached.sum())) <= float(stage_chi_square(report))) is True


def flint_exp(x):
    return arb(x).exp()


def test_claim_has_room_for_rounding(hand):
    """Its budgets are the gap's and a share of the bound; a bound of infinity adds none."""
    report = evaluate_stage(hand)
    found = s10.CLAIM.check(hand, report)
    assert list(found) == ["fresh", "cached", "reused", "stage, cached", "stage, reused"]
    assert all(np.isfinite(np.asarray(check.budget)).all() for check in found.values())
    assert (np.asarray(found["fresh"].budget) >= np.asarray(report.rounding.fresh)).all()


def test_a_lag_is_one_pair_of_policies():
    """S10 over two updates of a turn-taking team: `X` of the pair is at most the sum, and bounds what is left out."""
    case = random_case(np.random.default_rng(5), "episodic", "turn-taking")
    stage = as_stage(case)
    chain, team = jax.jit(lambda stage: hybrids(stage).policies)(stage), stage.team
    first, last = chain[1], chain[3]
    x = oracle.stage(case.world, np.asarray(first), np.asarray(last), np.arange(1), np.zeros(len(first), int))
    spent = float(path_chi_square(team, first, last))
    each = [float(path_chi_square(team, chain[1], chain[2])), float(path_chi_square(team, chain[2], chain[3]))]
    assert 0 < spent <= sum(each) * (1 + 1e-12)
    assert abs(x["gap_fresh"][0]) <= x["layer_return_deviation"][0] * math.sqrt(budget(spent))


# -------------------------------------------------------------------------------------------------------- kept and declared


def test_within_budget(hand):
    """One scale for all rows multiplies `X` by its square; a step inside stays bit for bit; an action taken up is refused."""
    team, current, target = hand.team, hand.current, hand.target
    shorter, theta = within_budget(team, current, target, 0.05)
    assert float(theta) == pytest.approx(math.sqrt(0.05 / 1.25), rel=1e-12)
    assert float(path_chi_square(team, current, shorter)) == pytest.approx(0.05, rel=1e-12)
    ahead = target.at[0].set(jnp.array([1.0, 0.0]))  # after it nobody comes to heads: the paths are those of `current`
    assert float(path_chi_square(team, current, ahead)) == pytest.approx(1.0 + 1.0, rel=1e-12)
    same, one = within_budget(team, current, target, 2.0)
    assert float(one) == 1.0
    np.testing.assert_array_equal(same, target)
    closed = current.at[0].set(jnp.array([1.0, 0.0]))
    stays, none = within_budget(team, closed, current, 1.0)
    assert float(none) == 0.0
    np.testing.assert_array_equal(stays, closed)


def test_the_step_that_keeps_a_budget():
    """Each row spends at most `X/τ`, in the direction of the step inside; rows that spend less are that step's."""
    rng = np.random.default_rng(0)
    current, advantage = builders.rows(rng, 4, 3), rng.normal(size=(4, 3))
    weight = np.array([1.0, 1.0, 0.01, 0.0])
    share = weight[:, None] * current
    tables = (
        weight,
        advantage,
        share * np.maximum(advantage, 0),
        share * np.maximum(-advantage, 0),
        advantage - advantage.min(),
    )
    estimate = Estimate(*map(jnp.asarray, tables))
    inner, zero = kl_constrained(0.2), jnp.zeros(())
    whole, _ = jax.jit(inner)(jnp.asarray(current), estimate, zero)
    new, info = jax.jit(chi_square_budget(inner, 0.3, 3))(jnp.asarray(current), estimate, zero)
    spent = ((np.asarray(whole) - current) ** 2 / current).sum(-1)
    kept = ((np.asarray(new) - current) ** 2 / current).sum(-1)
    assert (spent > 0.1).any()
    assert (spent < 0.1).any()
    np.testing.assert_allclose(kept, np.minimum(spent, 0.1), rtol=1e-9)
    moved = np.asarray(whole) - current
    theta = np.sqrt(np.where(spent > 0, kept / np.where(spent > 0, spent, 1), 0))
    np.testing.assert_allclose(np.asarray(new) - current, theta[:, None] * moved, rtol=1e-9, atol=1e-15)
    assert float(info.gain) == pytest.approx(
        (weight * ((np.asarray(new) - current) * advantage).sum(-1)).sum(), rel=1e-9
    )


def test_a_step_on_a_budget_keeps_the_books_of_the_step_inside():
    """Its multiplier, and what it remembers for the agent's next step; the gain is that of what is left."""
    half = jnp.full((1, 2), 0.5)

    def whole(current, estimate, memory):
        new = jnp.array([[1.0, 0.0]])
        return new, StepInfo(*map(jnp.asarray, (9.0, 9.0, 9.0, 9.0)), multiplier=jnp.asarray(7.0), memory=3 * memory)

    estimate = Estimate(jnp.ones(1), jnp.array([[1.0, -1.0]]), half, half, half)
    new, info = jax.jit(chi_square_budget(whole, 0.5, 2))(half, estimate, jnp.asarray(2.0))
    np.testing.assert_allclose(new, [[0.75, 0.25]], rtol=1e-15)  # χ² of the whole is 1, of half of it ¼
    assert (float(info.multiplier), float(info.memory), float(info.gain), float(info.objective)) == (7.0, 6.0, 0.5, 0.5)
    assert float(info.kl) == pytest.approx(-math.log(0.75) / 2 - math.log(0.25) / 2 - math.log(2))


def test_a_declared_budget_by_value():
    """S10: `sd·√(e^X−1−X)`, sd at most ϱ/2; the limit of the deviation covers it, and shrinks as 1/√B."""
    assert chi_square_penalty(1.0, span=3.0) == pytest.approx(1.5 * math.sqrt(math.e - 2), rel=1e-14)
    assert chi_square_penalty(1.0, 0.25) == pytest.approx(0.25 * math.sqrt(math.e - 2), rel=1e-14)
    assert chi_square_penalty(1.0, 9.0) == chi_square_penalty(1.0)
    assert chi_square_penalty(1e-9) == pytest.approx(0.5e-9 / math.sqrt(2), rel=1e-8)
    assert chi_square_penalty(1e4) == math.inf
    assert chi_square_penalty(0.0) == 0.0
    assert chi_square_penalty(1e4, 0.0) == 0.0  # a return that never varies has no gap, whatever is spent
    x = np.array([0.0, 0.0, 0.0, 2.0])
    expected = x.std(ddof=1) + 2 * math.sqrt(2 * math.log(10) / 3)
    assert deviation_limit(x, 0.1, 2.0) == min(expected, 1.0)
    many = np.tile(x, 1000)
    assert deviation_limit(many, 0.1, 2.0) == pytest.approx(
        many.std(ddof=1) + 2 * math.sqrt(2 * math.log(10) / 3999), rel=1e-12
    )
    rng = np.random.default_rng(0)
    covered = [deviation_limit(rng.random(200) < 0.02, 0.1) >= math.sqrt(0.02 * 0.98) for _ in range(500)]
    assert np.mean(covered) >= 0.9


def discounted_team():
    return Team(Dense(jnp.ones((1, 2, 1)), jnp.asarray(0.5)), jnp.zeros((1, 2)), jnp.ones(1), jnp.zeros(1, int), 1)


HALF = np.full((1, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: path_chi_square(discounted_team(), jnp.asarray(HALF), jnp.asarray(HALF)), "team: found a discounted team"),
        (
            lambda: return_deviation(discounted_team(), jnp.asarray(HALF), jnp.ones(1), jnp.ones(1)),
            "team: found a discounted team",
        ),
        (lambda: within_budget(discounted_team(), jnp.asarray(HALF), jnp.asarray(HALF), -1.0), "budget: found -1.0"),
        (lambda: chi_square_budget(kl_constrained(0.1), -1.0, 2), "budget: found -1"),
        (lambda: chi_square_budget(kl_constrained(0.1), 1.0, 0), "turns: found 0"),
        (lambda: chi_square_penalty(-0.1), "budget: found -0.1"),
        (lambda: chi_square_penalty(0.1, math.nan), "deviation: found nan"),
        (lambda: chi_square_penalty(0.1, span=0.0), "span: found 0"),
        (lambda: deviation_limit([0.5], 0.1), r"returns: found shape \[1\]"),
        (lambda: deviation_limit([0.0, 2.0], 0.1), "returns: found 0 to 2"),
        (lambda: deviation_limit([0.0, math.nan], 0.1), "returns: found nan"),
        (lambda: deviation_limit([0.0, 1.0], 1.0), "alpha: found 1"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(InputError, match=f"^{message}"):
        call()


def test_the_deviation_by_trajectories():
    """The standard deviation of the return over all trajectories, chance nodes and early ends among them."""
    for k in range(3):
        case = random_case(np.random.default_rng(k), "episodic", "turn-taking", zeros=0.3)
        team, policy = as_stage(case).team, jnp.asarray(case.current)
        found = return_deviation(team, policy, visits(team, policy), values(team, policy))
        assert float(found) == pytest.approx(oracle.return_deviation(case.world, case.current), rel=1e-11)


def test_a_root_that_is_a_number_where_its_square_is_none():
    """S10: `e^x` overflows at 709.8; the root does at twice that, and not a digit is lost where one form follows the other."""
    np.testing.assert_allclose(
        root_excess(jnp.array([599.9, 600.1, 1000.0])), np.exp([299.95, 300.05, 500.0]), rtol=1e-13
    )
    np.testing.assert_allclose(root_increment(jnp.array([500.0]), jnp.array([400.0])), [np.exp(450.0)], rtol=1e-13)
    expected = np.exp(350.0005) * np.sqrt(-np.expm1(-1e-3))
    np.testing.assert_allclose(root_increment(jnp.array([700.0]), jnp.array([1e-3])), [expected], rtol=1e-12)
    assert np.isinf(root_excess(jnp.array([1500.0, np.inf]))).all()
    assert root_increment(jnp.array([700.0]), jnp.array([0.0]))[0] == 0
