"""S8 at every number of prompts: the limit by value, its error by enumeration of every stream, and what fails without it."""

import itertools
import math

import jaxtyping
import numpy as np
import pytest
from scipy.optimize import brentq

from teamtr_jax import finite_sample as fs
from teamtr_jax.finite_sample import certificate
from teamtr_jax.validation import InputError
from theory.studies import s8, s8_anytime

J = 24


def capital(numbers, lower, mean):
    """`Σ_j w_j ∏ (1 + a_j(Z − ℓ))/(1 + a_j(m − ℓ))`, `a_j|ℓ| = 16, 8, …`, `w_j ∝ 1/(j(j+1))`."""
    total = 0.0
    for j in range(1, J + 1):
        a = 2.0 ** (5 - j) / (abs(lower) or 1.0)
        product = 1.0
        for z in numbers:
            product *= (1 + a * (z - lower)) / (1 + a * (mean - lower))
        total += (J + 1) / J / (j * (j + 1)) * product
    return total


NUMBERS = [0.3, -0.2, 0.5, 1.7, -0.4, 0.9, 0.2, 0.4, 0.1, 0.8, 2.0, 0.3]


@pytest.mark.parametrize("lower", [-1.0, -0.5, 0.0])
def test_the_limit_is_the_mean_at_which_the_capital_is_one_over_alpha(lower):
    numbers = [max(z, lower) for z in NUMBERS]
    alpha = 0.3
    state, limit = fs.anytime_update(fs.anytime_start(alpha, lower), fs.Sample(np.array(numbers), lower, math.inf))
    root = brentq(lambda m: capital(numbers, lower, m) - 1 / alpha, lower + 1e-12, max(numbers), xtol=1e-15)
    assert limit == pytest.approx(root, abs=1e-12)
    assert state.prompts == len(numbers)
    assert fs.anytime_start(alpha, lower).limit == lower  # of no number nothing more is known
    assert math.exp(fs.anytime_capital(state, 0.25)) == pytest.approx(capital(numbers, lower, 0.25), rel=1e-12)
    for t in (1, 5, 12):
        found = fs.anytime_log_capital(fs.Sample(np.array(numbers), lower, math.inf), 0.25)
        assert math.exp(found[t - 1]) == pytest.approx(capital(numbers[:t], lower, 0.25), rel=1e-12)


def test_batches_and_streams():
    """How prompts are put into batches changes when one looks, and nothing else; streams do not see each other."""
    rng = np.random.default_rng(0)
    z = rng.choice([-0.3, 0.1, 0.6], (3, 40))

    def through(values, *cuts):
        state, seen = fs.anytime_start(0.2, -0.3, values.shape[:-1]), []
        for part in np.split(values, cuts, -1):
            state, limit = fs.anytime_update(state, fs.Sample(part, -0.3, 1.0))
            seen.append(limit)
        return state, np.array(seen)

    state, every = through(z, *range(1, 40))
    once, last = through(z)
    np.testing.assert_allclose(state.log_products, once.log_products, rtol=1e-12)
    assert (np.diff(every, axis=0) >= 0).all()  # what was certified stays so
    assert (every[-1] >= last[0] - 1e-12).all()
    assert state.prompts == once.prompts == 40
    for row in range(3):
        np.testing.assert_allclose(through(z[row], *range(1, 40))[1], every[:, row], rtol=1e-12)
    np.testing.assert_allclose(through(z[:, ::-1])[1], last, rtol=1e-12)  # within a batch the order is nothing
    # the limit is at least m exactly where the capital against m has reached 1/α
    for m in (-0.1, 0.0, 0.05, 0.1):
        reached = (fs.anytime_log_capital(fs.Sample(z, -0.3, 1.0), m) >= math.log(5)).any(-1)
        np.testing.assert_array_equal(reached, every[-1] >= m)


LAWS = {
    "coin": ([-0.2, 0.2], [0.5, 0.5], -0.2),
    "rare loss": ([-1.0, 0.1], [0.05, 0.95], -1.0),
    "rare gain": ([-0.1, 1.5], [0.9, 0.1], -1.0),
    "three": ([-1.0, 0.0, 0.7], [0.2, 0.4, 0.4], -1.0),
}


@pytest.mark.parametrize("law", LAWS)
def test_the_error_of_the_worst_stopping_rule_by_enumeration(law):
    """Every stream of n numbers: the mean capital is 1 at the true mean, less at a larger one; misses at most α."""
    values, chance, lower = LAWS[law]
    n = 12 if len(values) == 2 else 8
    index = np.array(list(itertools.product(range(len(values)), repeat=n)))
    weight = np.array(chance)[index].prod(-1)
    sample = fs.Sample(np.array(values)[index], lower, 2.0)
    mean = float(np.dot(values, chance))
    found = fs.anytime_log_capital(sample, mean)
    np.testing.assert_allclose(weight @ np.exp(found), 1.0, rtol=1e-12)
    above = weight @ np.exp(fs.anytime_log_capital(sample, mean + 0.05))
    assert (np.diff(above) < 0).all()
    assert above[0] < 1
    for alpha in (0.5, 0.2, 0.1):
        error = float(weight @ (found >= math.log(1 / alpha)).any(-1))
        assert error <= alpha


def test_conditional_means_may_differ():
    """`E[Z_t | past] ≤ 0`, the law chosen by the numbers before: the adversary's mean capital stays at most 1."""
    n, lower = 10, -0.5
    up, total = np.array(list(itertools.product([0, 1], repeat=n))), np.zeros(2**n)
    weight, z = np.ones(2**n), np.empty((2**n, n))
    for t in range(n):
        size = np.where(total > 0, 0.5, 0.1)  # doubles up when it is ahead
        chance = np.where(total > 0, 0.5, 0.4)
        weight *= np.where(up[:, t] == 1, chance, 1 - chance)
        z[:, t] = np.where(up[:, t] == 1, size, -size)
        total = total + z[:, t]
    found = fs.anytime_log_capital(fs.Sample(z, lower, 1.0), 0.0)
    assert (weight @ np.exp(found) <= 1 + 1e-12).all()
    assert weight @ (found >= math.log(5)).any(-1) <= 0.2


@pytest.mark.parametrize("rule", s8_anytime.RULES)
def test_thresholds_are_those_of_the_limits(rule):
    """The least number of ups at which the limit itself is above zero, prompt by prompt."""
    n, alpha = 45, 0.2
    found = s8_anytime.thresholds(rule, alpha, n)
    for t in range(1, n + 1):
        ups = np.arange(t + 1)
        z = np.where(np.arange(t) < ups[:, None], 0.2, -0.2)
        sample = fs.Sample(z, -0.2, 0.2)
        if rule == "anytime":
            limit = fs.anytime_update(fs.anytime_start(alpha, -0.2, (t + 1,)), sample)[1]
        elif rule == "Bernstein at every B":
            limit = fs.bernstein_bound(sample, alpha)
        else:
            deviation = z.std(-1, ddof=1) if t > 1 else np.zeros(t + 1)
            limit = z.mean(-1) - 0.8416212335729143 * deviation / math.sqrt(t) - (t < 30) * 9
        above = np.flatnonzero(limit > 0)
        assert found[t - 1] == (above[0] if len(above) else t + 1), t


def test_ever_is_the_probability_of_a_path_that_meets_a_threshold():
    n, p = 11, 0.3
    rng = np.random.default_rng(2)
    least = np.array([t + 2 - rng.integers(0, 3) - t // 2 for t in range(n)])
    ups = np.array(list(itertools.product([0, 1], repeat=n)))
    weight = (p**ups * (1 - p) ** (1 - ups)).prod(-1)
    met = np.maximum.accumulate(np.cumsum(ups, -1) >= least, -1)
    np.testing.assert_allclose(s8_anytime.ever(least, p), weight @ met, atol=1e-14)
    assert s8_anytime.ever(np.array([0, 5]))[-1] == 1.0  # all stop at once


def test_peeking_breaks_fixed_limits_and_not_this_one():
    """The coin team, improvement 0, one looks after every prompt and stops at the first positive limit. Exact probabilities."""
    prompts = dict(zip(s8_anytime.RULES, (20_000, 290_000, 200), strict=True))
    error = {rule: s8_anytime.ever(s8_anytime.thresholds(rule, 0.1, n)) for rule, n in prompts.items()}
    assert error["Bernstein at every B"][150_000] < 0.1 < error["Bernstein at every B"][-1]
    assert error["normal at every B"][99] > 0.25
    assert 0.08 < error["anytime"][-1] < 0.09
    # the betting limit's bets are planned for B: planned anew at every look, it is not one bettor
    sizes = tuple(2**k for k in range(5, 13))
    hits = s8_anytime.replanned(np.random.default_rng(0), 1_000, sizes, 0.1)
    assert s8.coverage_interval(hits, 1_000)[0] > 0.13
    assert s8_anytime.replanned(np.random.default_rng(0), 1_000, sizes[-1:], 0.1) < 100  # one look


def team(rng, prompts, up=0.6):
    """One message, ½ to `up`; the reward is 1 after "up": improvement `up` − ½."""
    said = rng.random((prompts, 1, 1)) < 0.5
    return np.asarray(said[..., 0], np.float64), np.log(np.where(said, 2 * up, 2 - 2 * up))


def test_certificate_of_path_weights():
    rng = np.random.default_rng(4)
    state, limit, first = fs.anytime_start(0.1), -1.0, None
    before, (r, x) = state, team(rng, 10)
    for _ in range(100):
        before, (r, x) = state, team(rng, 10)
        state, limit = fs.anytime_certificate(state, r, x)
        again, other = fs.anytime_certificate(before, r, x)  # pure
        assert (other, again.prompts) == (limit, state.prompts)
        first = state.prompts if first is None and limit > 0 else first
    assert first is not None
    assert first < 400
    assert 0.06 < limit < 0.1
    np.testing.assert_allclose(fs.anytime_update(before, fs.path_sample(r, x))[1], limit)


def test_weights_that_cannot_be_are_remembered():
    """Rollouts that the new policy makes likelier all the time: −∞, and it stays so whatever comes after."""
    rng, state, limit = np.random.default_rng(5), fs.anytime_start(0.1), -1.0
    for _ in range(3):
        state, limit = fs.anytime_certificate(state, np.ones((20, 1)), np.full((20, 1, 1), 0.3))
    assert limit == -math.inf
    assert state.contradiction
    held = state.weights
    np.testing.assert_allclose(held, certificate.weight_capital(np.full((60, 1), 0.3)), rtol=1e-12)
    state, limit = fs.anytime_certificate(state, *team(rng, 1_000))
    assert limit == -math.inf
    fresh, limit = fs.anytime_certificate(fs.anytime_start(0.1), np.ones((1, 1)), np.full((1, 1, 1), 0.3))
    assert not fresh.contradiction
    assert limit < 0
    _, limit = fs.anytime_update(fs.anytime_start(0.1), fs.path_sample(np.ones((1, 1)), np.full((1, 1, 1), 700.0)))
    assert 0 < limit < 0.1 * math.exp(300)
    assert fs.anytime_certificate(fs.anytime_start(0.5), np.ones((5, 1)), np.full((5, 1, 1), 1.5))[1] == 1.0


def test_a_path_that_was_dropped():
    r, x = np.ones((4, 1)), np.array([0.5, -np.inf, 0.5, 0.5])[:, None, None]
    state, limit = fs.anytime_certificate(fs.anytime_start(0.1), r, x, zeros=True)
    assert -1 < limit < 0
    np.testing.assert_array_equal(np.isfinite(state.weights), [False, True, True, True])
    with pytest.raises(InputError, match=r"^log_ratio: found -inf"):
        fs.anytime_certificate(fs.anytime_start(0.1), r, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fs.anytime_start(0.0), "alpha: found 0.0"),
        (lambda: fs.anytime_start(0.1, -math.inf), "lower: found -inf"),
        (lambda: fs.anytime_update(fs.anytime_start(0.1, -0.5), fs.Sample(np.zeros(2), -1.0, 1.0)), "sample.lower: found -1.0"),
        (lambda: fs.anytime_update(fs.anytime_start(0.1), fs.Sample(np.zeros((2, 2)), -1.0, 1.0)),
         r"sample.values: found streams of shape \[2\], expected \[\], as in state"),
        (lambda: fs.anytime_update(fs.anytime_start(0.1), fs.Sample(np.zeros(0), -1.0, 1.0)), "sample.values: found shape"),
        (lambda: fs.anytime_update(fs.anytime_start(0.1), fs.Sample(np.array([np.nan]), -1.0, 1.0)), "sample.values: found nan"),
        (lambda: fs.anytime_update(fs.anytime_start(0.1), fs.Sample(np.zeros(2), -1.0, 1.0), np.zeros(2)), "log_weight: found"),
        (lambda: fs.anytime_update(fs.anytime_start(0.1), fs.Sample(np.zeros(1), -1.0, 1.0), "x"), "log_weight: found a str"),
        (lambda: fs.anytime_certificate(fs.anytime_start(0.1), np.ones((0, 1)), np.ones((0, 1, 1))),
         r"reward: found shape \[0, 1\], expected at least 1 prompt and 1 rollout"),
        (lambda: fs.anytime_certificate(fs.anytime_start(0.1), [[2.0]], [[[0.0]]]), "reward: found 2.0"),
        (lambda: fs.anytime_capital(fs.anytime_start(0.1), -2.0), "mean: found -2.0"),
        (lambda: fs.anytime_log_capital(fs.Sample(np.zeros(2), -1.0, 1.0), math.nan), "mean: found nan"),
    ],
)  # fmt: skip
def test_what_is_refused(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="^" + message):
        call()


def test_the_study_says_what_it_counts(tmp_path):
    row, data = s8_anytime.run(True, np.random.default_rng(1))
    assert row.violations == 0
    assert row.tightest == data.stopped["anytime"][-1] / 0.1
    for by in data.kept.values():
        assert s8.coverage_interval(by["anytime"], data.repeats)[1] >= 0.9
    worst = min(data.kept.values(), key=lambda by: by["normal at every B"])
    assert s8.coverage_interval(worst["normal at every B"], data.repeats)[1] < 0.9
    for team in data.saved.values():
        assert 3 * np.median(team.first) < (team.bernstein or team.sizes[-1])
    assert s8_anytime.stopping_figure(data, tmp_path / "stopping.png").stat().st_size > 10_000
    assert "optional stopping" in row.note
