"""What the studies of theory/ count and say, by value: the work replaced by numbers that are known, a row and a note by hand."""

import math
from contextlib import nullcontext
from fractions import Fraction
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flint import fmpq
from scipy.stats import beta, binom

from teamtr_jax import finite_sample as fs
from teamtr_jax.bounds import DEFAULT
from teamtr_jax.teams import random_stages
from theory.constructions.chain import chain_gaps
from theory.constructions.doors import ClosedGaps
from theory.fits import Slope
from theory.studies import bounds, joint, p3_2, r1, r2, r3, r4, r5, r6, s8

EPS = np.finfo(float).eps


def clopper_pearson(covered, repeats):
    """95 %, by the beta quantiles."""
    low = beta.ppf(0.025, covered, repeats - covered + 1) if covered else 0.0
    high = beta.ppf(0.975, covered + 1, repeats - covered) if covered < repeats else 1.0
    return low, high


# -------------------------------------------------------------------------------------------------------------------- bounds


def test_the_cloud_holds_what_float64_can_tell_from_zero(monkeypatch):
    """Gaps above their budget, each with every bound; the others are counted: within the budget, and none at all."""
    gap = np.array([[0.5, 1e-3, 0.0], [0.25, 1e-4, 0.0], [0.125, 0.0, 0.0]])
    made = (gap, np.full_like(gap, 1e-3), *(k * (1 + gap) for k in range(2, 6)))
    monkeypatch.setattr(bounds.programs, "run", lambda f, stages, quick: made)
    monkeypatch.setattr(bounds, "FAMILIES", [SimpleNamespace(make=lambda rng, stages: stages)])
    found = bounds.cloud(np.random.default_rng(0), nullcontext(), 3)
    assert found.gap.tolist() == [0.5, 0.25, 0.125]
    assert (found.below, found.zero) == (2, 4)
    for k, penalty in enumerate(found.penalties.values()):
        np.testing.assert_allclose(penalty, (2 + k) * np.array([1.5, 1.25, 1.125]))
    fresh = {rung.id: rung.fn for rung in DEFAULT if rung.gap == "fresh"}
    assert {name.partition(",")[0] for name in bounds.SHOWN} == {"P3.4", "S0", "S7", "S4R"}
    assert all(fn is fresh[name.partition(",")[0]] for name, (fn, _) in bounds.SHOWN.items())


# ------------------------------------------------------------------------------------------------------------ chosen together


def test_certificates_above_the_truth_are_counted(monkeypatch):
    """Exact ones beyond rounding, S10's, and ways whose limits are above it too often, but for the one without a guarantee."""
    shape, seen = (len(joint.RADII), 10), []
    ways = {name: joint.Outcome(np.full(shape, 0.5), np.ones(shape)) for name in joint.WAYS}
    ways["joint"] = joint.Outcome(np.full(shape, 0.6), np.full(shape, 1.5))
    ways["common"] = joint.Outcome(np.full(shape, 0.3), np.full(shape, 0.5))
    full = np.full(shape, -0.1)
    full[0, :3] = 0.1, 1 + 1e-10, 1 + 1e-12  # the last one within rounding
    ways["full"] = joint.Outcome(full, np.ones(shape))
    monkeypatch.setattr(joint, "_ways", lambda teams, policies, radii: seen.append(radii) or ways)
    monkeypatch.setattr(joint, "_relay_budget", lambda: {"joint": (0.1, 0.2), "full": (0.3, 0.2)})

    def covered(share):
        limit = np.where(np.arange(200) < share, 0.125, 0.75)
        return joint.Sampled(limit, np.full(200, 0.5))

    kept = dict(zip(joint.CHOICES, (200, 175, 170, 180, 190, 0), strict=True))
    monkeypatch.setattr(joint, "_sampled", lambda rng, repeats, prompts: {x: covered(k) for x, k in kept.items()})
    assert [clopper_pearson(k, 200)[1] < 0.9 for k in (175, 170)] == [False, True]
    row, data = joint.run(True, np.random.default_rng(0))
    assert data.violations == row.violations == 1 + 1 + 1
    assert (row.id, row.instances, row.checks) == ("U1", 10, 6 * 9 * 10 + 2 + 5)
    assert "δ = 0.0001: certified 2.00 [2.00, 2.00], gained 3.00 [3.00, 3.00]; full certifies 3 of 10" in row.note
    assert "δ = 0.001: certified 2.00 [2.00, 2.00], gained 3.00 [3.00, 3.00]; full certifies 0 of 10" in row.note
    assert "δ = 0.000316" not in row.note
    beside = "0.83 [0.83, 0.83], 0.67 [0.67, 0.67]"
    assert f"of the joint choice at δ = 1 certify and gain: own radius, S7c {beside}, S9 step {beside}" in row.note
    assert "certified of gained: joint 0.1000 of 0.2000, full 0.3000 of 0.2000." in row.note
    low, high = clopper_pearson(175, 200)
    assert f"halves, common: limit 0.1250 [0.1250, 0.1250] of 0.5000, covered [{low:.1%}, {high:.1%}]" in row.note


def test_halves_and_levels_of_the_sampled_choices(monkeypatch):
    """Who chooses on the first half certifies on the second, at α; the best of eight looks at all prompts at α/8."""
    prompts, asked = 40, []
    reward = (np.arange(prompts) < prompts // 2).astype(float)[:, None]  # nothing is earned in the second half
    moved = np.full((prompts, 1, 8), math.log(1.1))
    monkeypatch.setattr(s8, "rollouts", lambda task, rng, n, group: s8.Rollouts(reward[:n], moved[:n], moved[:n]))

    def limit(sample, alpha, rounds):
        asked.append((len(sample.values), bool(sample.values.any()), alpha))
        return np.asarray(float(len(asked)))

    monkeypatch.setattr(fs, "betting_bound", limit)
    found = joint._sampled(np.random.default_rng(0), 1, prompts)
    assert asked[:8] == [(prompts, True, joint.ALPHA / 8)] * 8
    second = (prompts // 2, False, joint.ALPHA)
    assert asked[8:] == [second, second, second, (prompts, True, joint.ALPHA), (prompts // 2, True, joint.ALPHA)]
    assert [float(found[name].limit[0]) for name in joint.CHOICES] == [9, 10, 11, 12, 8, 13]


# ------------------------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(("off", "violated"), [(0, 0), (47, 0), (-47, 0), (49, 1), (-49, 1), (np.nan, 1)])
def test_an_error_of_the_chain_rule_is_within_its_budget(monkeypatch, off, violated):
    """KL ½ has TV at most ½: `2·T·eps·(8·½ + 2·½ + 1)`, T = 4, is 48 eps. A network that did not move catches nothing."""
    message, tokens = np.full(3, 0.5), 0.5 + np.array([0.0, off, 0.0]) * EPS
    swapped = np.array([0.6, 0.5, 0.5])
    monkeypatch.setattr(p3_2.programs, "run", lambda f, current, new, quick: (message, tokens, swapped))
    monkeypatch.setattr(p3_2.networks, "message_chain_rule", lambda rng, few: (np.zeros(few), np.zeros(few)))
    row = p3_2.run(30, np.random.default_rng(0))
    assert (row.violations, row.instances, row.checks) == (violated, 6, 6)  # a tenth as many networks
    assert "the other direction differs by up to 0.2 relative" in row.note
    if off == 47:
        assert row.detects == pytest.approx(48 * EPS / 0.5)


# ----------------------------------------------------------------------------------------------------- growth with n: R1, R2, R3


def test_a_row_of_the_relay(monkeypatch):
    """Three coefficients for each n; the slope is that of the smallest step; shares of the two bounds."""
    sizes, steps = (2, 3, 4), r1.STEPS

    def sums(function, counts, chances, static, quick):
        assert static == (4,)
        n, power = counts.astype(float), np.array([2.0, 1.0, 0.5])[[steps.index(p) for p in chances]]
        return {"fresh": n, "stale": n**power, "cached": n**2, "signed": 0.75 * n, "S10": n, "S7c": 3 * n}

    def wrong(n):
        right = leading(n)
        return SimpleNamespace(
            fresh=right.fresh + (n == 2), stale=right.stale + (n == 3), squared_share=right.squared_share + (n > 2)
        )

    leading = r1.leading_coefficients
    monkeypatch.setattr(r1.programs, "run", sums)
    row, _ = r1.run(sizes)
    assert (row.violations, row.checks, row.instances) == (0, 9, 3)
    assert row.exponent == pytest.approx(2)
    assert row.detects == 1 / (3 * 16 - 4)  # an integer more or less in the largest of them, twice (3n²−n)/2
    assert "Signed cached sum over S10's bound 0.750 at n = 2, 0.7500 at n = 4" in row.note
    assert "S7c's is 4 to 4 times the sum" in row.note
    assert "at 1e-05 it is 2.00 first, 2.00 at the least (n = 2…3); at 0.001 it is 1.00 first" in row.note
    monkeypatch.setattr(r1, "leading_coefficients", wrong)
    assert r1.run(sizes)[0].violations == 1 + 1 + 2


def test_a_row_of_the_running_count(monkeypatch):
    """`E|X−np|/(2p(1−p))` by enumeration; and where the coefficient is twice that, what is rare and what is above S3."""
    sizes = (1, 2, 4)

    def coefficient(n, p):
        return sum(binom.pmf(k, n, p) * abs(k - n * p) for k in range(n + 1)) / (2 * p * (1 - p))

    table = [[coefficient(n, a / b) for n in sizes] for a, b in r2.PROBABILITIES]
    ratios = [[2 * c / math.sqrt(n / (p * (1 - p))) for c, n in zip(row, sizes, strict=True)]
              for row, p in zip(table, (a / b for a, b in r2.PROBABILITIES), strict=True)]  # fmt: skip
    row, found = r2.run(sizes)
    np.testing.assert_allclose(found.coefficients, table, rtol=1e-12)
    np.testing.assert_allclose(found.ratios, ratios, rtol=1e-12)
    assert row.tightest == pytest.approx(np.max(ratios))
    assert row.detects == pytest.approx(1 - np.max(ratios), abs=1e-12)
    assert row.exponent == pytest.approx(math.log(table[0][2] / table[0][1]) / math.log(2))
    rare = sum(n * a < b for a, b in r2.PROBABILITIES for n in sizes)
    assert (row.violations, row.checks, row.instances) == (0, 2 * 12 + rare, 12)
    shift, mean = r2.shift_coefficient, r2.mean_deviation
    monkeypatch.setattr(r2, "shift_coefficient", lambda n, p: 2 * shift(n, p))
    monkeypatch.setattr(r2, "mean_deviation", lambda n, p: 2 * mean(n, p))
    assert r2.run(sizes)[0].violations == rare + sum(2 * x > 1 for each in ratios for x in each)


def test_random_teams_that_were_quadratic_would_be_counted(monkeypatch):
    """Of stale gaps, for each thing that is held fixed; the exponent of the ledger is that of a fixed KL per message."""
    n = np.repeat([2.0, 4.0, 8.0], 5)
    powers = {
        "agent": {"fresh": 2.75, "stale": 2.25, "cached": 0.5},
        "message": {"fresh": 2.5, "stale": 1.25, "cached": 2.5},
    }
    made = {held: {name: n**power for name, power in of.items()} for held, of in powers.items()}
    monkeypatch.setattr(r3, "random_stages", lambda *_, **__: None)
    monkeypatch.setattr(
        r3.programs, "run", lambda f, stages, per_message, static, quick: made["message" if per_message else "agent"]
    )
    row, found = r3.run(5, np.random.default_rng(0), (2, 4, 8))
    assert (row.violations, row.instances, row.checks) == (1, 15, 30)
    assert row.exponent == pytest.approx(1.25)
    assert row.interval == pytest.approx((1.25, 1.25))
    agent, message = row.note.split("0.0001 = ")[1:]
    assert agent.startswith("δ⁰ of every agent: ")
    assert "fresh 2.75 [2.75, 2.75], stale 2.25 [2.25, 2.25]" in agent
    assert "fresh 2.50 [2.50, 2.50], stale 1.25 [1.25, 1.25]" in message
    assert found.slopes["message"]["fresh"].slope == pytest.approx(2.5)


def test_sums_of_random_teams_are_of_absolute_gaps(monkeypatch):
    """Each kind of gap by itself; every stage with the same KL, of agents or of messages."""
    asked = []
    monkeypatch.setattr(r3, "equal_kl", lambda stage, kl, per_message: asked.append((kl, per_message)) or stage)
    gaps = {"gap_fresh": 1.0, "gap_stale": 2.0, "gap_cached": -3.0}
    monkeypatch.setattr(r3, "stage_report", lambda x: SimpleNamespace(**{name: k * x for name, k in gaps.items()}))
    stages = np.array([[1.0, -2.0], [3.0, 0.5], [-4.0, -4.0], [0.0, 0.0]])
    found = r3._all_sums(2, stages, True)
    for name, k in gaps.items():
        np.testing.assert_allclose(found[name.removeprefix("gap_")], abs(k) * np.array([3.0, 3.5, 8.0, 0.0]))
    assert set(asked) == {(1e-4, True)}


equal_kl = jax.jit(r3.equal_kl)


@pytest.mark.parametrize("per_message", [False, True])
def test_steps_of_one_kl(per_message):
    """δ⁰ of each agent on the current team's occupancy, by NumPy; or the mean over its own visits, so that δ⁰ is that share."""
    stages = random_stages(np.random.default_rng(4), 1, 5, 3, 2, discount=0.8)
    stage = jax.tree.map(lambda x: x[0], stages)
    found = equal_kl(stage, 1e-3, per_message)
    old, new, active = (np.asarray(x) for x in (stage.current, found.target, stage.team.active))
    moves = np.einsum("sa,sat->st", old, np.asarray(stage.team.dynamics.transition))
    d = 0.2 * np.linalg.solve(np.eye(5) - 0.8 * moves.T, np.asarray(stage.team.initial))
    kl = (old * np.log(old / new)).sum(-1)
    for agent in range(2):
        own = d * (active == agent)
        assert (own * kl).sum() == pytest.approx(1e-3 * (own.sum() if per_message else 1), rel=1e-9)


# ----------------------------------------------------------------------------------------------------------- R4, R5: exact series


def test_what_breaks_r4_is_counted(monkeypatch):
    """Coefficients of nine families, zeros in every power, both sums of a random team."""
    right, found = r4.leading_sums, []
    monkeypatch.setattr(r4, "log_slope", lambda n, y: Slope(1.0, 1.0, 1.0))
    monkeypatch.setattr(r4, "leading_sums", lambda *stage: found.append(right(*stage)) or found[-1])
    row, _ = r4.run((2, 3), np.random.default_rng(0), teams=1)
    zeros = 2 * (1 + 2)  # fresh with one turn each; fresh and stale in reverse order
    assert (row.violations, row.checks, row.instances) == (0, 9 * 2 * 3 + zeros + 2, 9 * 2 + 1)

    def counted(**changed):
        again = iter(found)
        monkeypatch.setattr(r4, "leading_sums", lambda *stage: next(again) | changed)
        return r4.run((2, 3), np.random.default_rng(0), teams=1)[0].violations

    assert counted(zero=dict.fromkeys(("fresh", "stale", "cached"), False)) == zeros
    assert counted(**{"signed stale": fmpq(77)}) == 1
    assert counted(**{"signed fresh": fmpq(77)}) == 1
    assert counted(cached=fmpq(1, 2)) == 9 * 2


def test_an_identity_of_gaps_that_fails_is_counted(monkeypatch):
    """The first gap off by one: its own equation, and the one that compares both gaps."""
    stage = jax.tree.map(lambda x: x[0], random_stages(np.random.default_rng(0), 1, 3, 2, 2, discount=0.5))
    right = r5.exact_numbers
    assert r5._exact(stage)[:2] == (2 * 3 + 3 * 2 * 3, 0)

    def off(e):
        numbers = right(e)
        return numbers | {"gap_fresh": [numbers["gap_fresh"][0] + 1, *numbers["gap_fresh"][1:]]}

    monkeypatch.setattr(r5, "exact_numbers", off)
    assert r5._exact(stage)[1] == 2


def test_steps_of_a_fit():
    """Those whose rounding and bend are within a twentieth; of less than three no slope is said."""
    cubes = np.outer(r5.STEPS**3, np.ones(6))
    noise = np.where(np.arange(8) < 5, 0.04, 0.06)[:, None] * cubes
    slope, window = r5._fit(noise, cubes, np.random.default_rng(0))
    assert slope.slope == pytest.approx(3)
    assert window == (r5.STEPS[4], r5.STEPS[0])
    bent = cubes * np.where(np.arange(8) == 0, 1.02, 1.0)[:, None]
    assert r5._fit(noise, bent, np.random.default_rng(0))[1] == (r5.STEPS[4], r5.STEPS[1])
    assert r5._fit(2 * noise, cubes, np.random.default_rng(0)) is None


# ------------------------------------------------------------------------------------------------------------------------- R6


def a_cell(row, column, extra=False, **more):
    values = np.array([0.5, 0.75])
    cell = r6.Cell(
        row, column, "a family", "held", fmpq(1), "1", 1.0, np.array([2, 4]), values, np.ones(2), Slope(1.0, 0.5, 1.5), 1.0,
        np.ones(2), 0, 0, 0, extra,
    )  # fmt: skip
    return cell._replace(**more)


def test_rows_of_the_rates(monkeypatch):
    """Wrong coefficients and broken bounds of every cell, those of the oracle once; the slope of the product column."""
    cells = [a_cell(row, column) for row in r6.ROWS for column in r6.COLUMNS]
    cells[0] = cells[0]._replace(wrong=1, values=np.array([0.5, 0.875]))
    cells[1] = cells[1]._replace(exceeds=2, undecided=4, slope=Slope(0.5, 0.25, 0.625))
    cells += [a_cell("R6.1", r6.PRODUCT, True, slope=Slope(9, 9, 9), exceeds=8, undecided=16)]
    cells += [a_cell("R6.3", r6.PRODUCT, True, limit_value=None, bounds=np.full(2, np.inf))]
    monkeypatch.setattr(r6, "cells", lambda sizes: cells)
    monkeypatch.setattr(r6, "oracle_mismatches", lambda agents: (100, 32))
    (first, *others, last), curves = r6.run(quick=True)
    assert (first.violations, first.inconclusive) == (1 + 2 + 8 + 32, 4 + 16)
    assert (first.exponent, first.interval) == (0.5, (0.25, 0.625))
    assert (first.tightest, first.detects) == (0.875, 0.125)
    assert (first.instances, first.checks) == (4 * 6, 2 * 4 * 6)
    assert [(x.violations, x.inconclusive, x.tightest) for x in others] == [(0, 0, 0.75)] * 4
    assert (curves.oracle_checks, curves.oracle_wrong) == (100, 32)
    assert (last.id, last.violations, last.checks) == ("R6.6", 0, 7 * 6)
    assert (
        "a family (held): exponent 1 predicted, 0.500 [0.250, 0.625] over n = 2…4, 1.000 between the last two"
        in first.note
    )
    assert "ratio to the bound 0.875 at n = 4, limit 1 = 1.000, remaining factor 1.000" in first.note
    assert "no bound in δ⁰" in others[1].note


def test_one_turn_each_is_checked_by_value(monkeypatch):
    """Four sums that vanish, two that do not, two closed forms: each is missed where it is wrong."""
    checks, wrong, total = r6._one_turn_each((2, 3))
    p, e = Fraction(1, 2), Fraction(1, 8)
    assert (checks, wrong) == (14, 0)
    assert Fraction(int(total.p), int(total.q)) == (p + e) ** 3 - p**3 - 3 * e * p**2

    def counted(change):
        monkeypatch.setattr(
            r6, "chain_gaps", lambda n, p, e, reverse=False: change(chain_gaps(n, p, e, reverse), reverse)
        )
        return r6._one_turn_each((2, 3))[1]

    one = [fmpq(1)]
    assert counted(lambda x, reverse: x._replace(fresh=one) if reverse else x) == 2
    assert counted(lambda x, reverse: x if reverse else x._replace(fresh=one)) == 2
    assert counted(lambda x, reverse: x._replace(stale=one) if reverse else x) == 2
    assert counted(lambda x, reverse: x if reverse else x._replace(stale=one)) == 2 * 2  # and unlike the cached one
    assert counted(lambda x, reverse: x._replace(cached=one) if reverse else x) == 2
    zero = ClosedGaps([fmpq(0)], [fmpq(0)], [fmpq(0)])
    assert counted(lambda x, reverse: zero) == 2 * (2 + 1)  # both sums, and the form of the stale one
