"""S8 by value: every estimator, both bounds and every certificate on samples of a few prompts, in plain Python.

Levels and constants by hand, and what happens exactly at the edge of a declared range.
"""

import math

import jaxtyping
import numpy as np
import pytest
from scipy.optimize import brentq

from teamtr_jax import finite_sample as fs
from teamtr_jax.finite_sample import certificate
from teamtr_jax.validation import InputError

R = np.array([[1.0, 0.25, 0.5], [0.0, 0.75, 1.0]])
"""Rewards of two prompts, three rollouts each."""
X = np.log(np.array([[[1.5, 0.75], [0.25, 1.0], [1.0, 1.1]], [[3.0, 1.25], [0.9, 0.8], [2.0, 0.125]]]))
"""Log ratios of two messages: weights 1.125, .25, 1.1; 3.75, .72, .25."""
KL = np.array([[[0.01, 0.02], [0.03, 0.0], [0.0, 0.04]], [[0.05, 0.01], [0.0, 0.02], [0.03, 0.03]]])
WEIGHT = np.exp(X.sum(-1))


def others(row, g):
    rest = [row[h] for h in range(len(row)) if h != g]
    return sum(rest) / len(rest) if rest else 0.0


def mean_of(term):
    """Mean over the rollouts of each prompt of `term(prompt, rollout)`."""
    return [sum(term(b, g) for g in range(3)) / 3 for b in range(2)]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def excess(x):
    return x - 1 - math.log(x)


def tail(edge):
    """`sup |x − edge|/X(x)` beyond the edge on its side of 1, where its derivative is zero: `X(x) = (x − edge)(1 − 1/x)`."""

    def slope(x):
        return excess(x) - (x - edge) * (1 - 1 / x)

    x = (
        brentq(slope, edge * (1 + 1e-12), 1e6, xtol=1e-14)
        if edge > 1
        else brentq(slope, 1e-12, edge * (1 - 1e-12), xtol=1e-16)
    )
    return abs(x - edge) / excess(x)


# ----------------------------------------------------------------------------------------------------------- estimators


def test_a_batch_is_each_of_its_samples():
    """Axes before those of prompts and rollouts: four samples of two prompts, by each estimator."""
    rewards = np.stack([R, 1 - R, R**2, R[::-1]])
    ratios, kl = np.stack([X, -X, X / 2, X[::-1]]), np.stack([KL, 2 * KL, KL / 2, KL[::-1]])
    for sample in (
        lambda r, x, k: fs.message_sample(r, x, k, 0.3, 0.5),
        lambda r, x, k: fs.clipped_sample(r, x, k, 0.5, "others"),
        lambda r, x, k: fs.log_sample(r, x, 1.75),
        lambda r, x, k: fs.truncated_sample(r, x, 1.75),
    ):
        found = sample(rewards, ratios, kl).values
        close(found, np.stack([sample(*one).values for one in zip(rewards, ratios, kl, strict=True)]))


@pytest.mark.parametrize("clip", [0.2, 0.5, 1.0])
def test_message_sample(clip):
    """S8 in the form of S7, message by message; `b = 2τε + 2τ + Σκ`."""

    def term(b, g):
        ratios = np.exp(X[b, g])
        step = sum(min(max(x, 1 - clip), 1 + clip) - 1 for x in ratios)
        lost = sum(1 - min(x, 1 + clip) + max(1 - clip - x, 0) for x in ratios)
        return (R[b, g] - others(R[b], g)) * step - lost - sum(KL[b, g])

    found = fs.message_sample(R, X, KL, clip, 0.125)
    close(found.values, mean_of(term))
    assert found.lower == -(2 * (2 + 0.0)) - 0.125 == -4.125
    assert found.upper == 2 * 2 * clip


@pytest.mark.parametrize("high", [1.05, 2.0, math.inf])
def test_log_and_truncated_samples(high):
    """`R·max(−1, min(log Λ, log high))` and `R(min(Λ, high) − 1)`."""
    found = fs.log_sample(R, X, high)
    close(found.values, mean_of(lambda b, g: R[b, g] * max(-1.0, min(math.log(WEIGHT[b, g]), math.log(high)))))
    assert (found.lower, found.upper) == (-1.0, math.log(high))
    found = fs.truncated_sample(R, X, high)
    close(found.values, mean_of(lambda b, g: R[b, g] * (min(WEIGHT[b, g], high) - 1)))
    assert (found.lower, found.upper) == (-1.0, high - 1)


@pytest.mark.parametrize(
    ("baseline", "least", "most"),
    [(0.0, 0.0, 0.0), (0.25, 0.25, 0.25), (1.0, 1.0, 1.0), ("others", 0.0, 1.0), (np.full((2, 1), 0.3), 0.0, 1.0)],
)
def test_path_sample(baseline, least, most):
    """`(R − b)(Λ − 1)`; the interval by trying the corners of `R`, b and `Λ ∈ [low^τ, high^τ]`."""
    edge = (0.1, 3.25)

    def value(b, g):
        return others(R[b], g) if isinstance(baseline, str) else np.broadcast_to(baseline, R.shape)[b, g]

    found = fs.path_sample(R, X, baseline, edge)
    close(found.values, mean_of(lambda b, g: (R[b, g] - value(b, g)) * (WEIGHT[b, g] - 1)))
    corners = [(r - b) * (x - 1) for r in (0.0, 1.0) for b in (least, most) for x in (0.1**2, 3.25**2)]
    close([found.lower, found.upper], [min(corners), max(corners)])


def test_path_sample_without_a_range():
    """Baseline 0: no value below −1, none above ∞; one side declared: `−(1 − lowᵗ)`."""
    free, half = fs.path_sample(R, X), fs.path_sample(R, X, 0.0, (0.5, math.inf))
    assert (free.lower, free.upper) == (-1.0, math.inf)
    assert (half.lower, half.upper) == (-0.75, math.inf)
    single = fs.path_sample(R[:, :1], X[:, :1], "others", (0.25, 2.0))  # a lone rollout has no others: b = 0
    close(single.values, R[:, 0] * (WEIGHT[:, 0] - 1))


@pytest.mark.parametrize("path_clip", [(0.5, 2.0), (0.0, 1.5), (0.3, 3.0)])
@pytest.mark.parametrize(
    ("baseline", "least", "most"),
    [(0.0, 0.0, 0.0), (0.25, 0.25, 0.25), ("others", 0.0, 1.0), (np.full((2, 3), 0.6), 0.0, 1.0)],
)
def test_clipped_sample(path_clip, baseline, least, most):
    """S8c with the suprema found by root finding, and its interval."""
    low, high = path_clip
    k_low, k_high = (tail(low) if low else 0.0), tail(high)
    close(fs.tail_constants(low, high), [k_low, k_high])

    def term(b, g):
        base = others(R[b], g) if isinstance(baseline, str) else np.broadcast_to(baseline, R.shape)[b, g]
        x = WEIGHT[b, g]
        seen = excess(x) if low <= x <= high else 0.0
        k = max(base * k_high, (1 - base) * k_low)
        return (R[b, g] - base) * (min(max(x, low), high) - 1) - k * (sum(KL[b, g]) - seen)

    found = fs.clipped_sample(R, X, KL, 0.125, baseline, path_clip)
    np.testing.assert_allclose(found.values, mean_of(term), rtol=1e-9)
    k = max(most * k_high, (1 - least) * k_low)
    corners = [(r - b) * (x - 1) for r in (0.0, 1.0) for b in (least, most) for x in (low, high)]
    np.testing.assert_allclose(found.lower, min(corners) - k * 0.125, rtol=1e-9)
    if low:
        np.testing.assert_allclose(found.upper, max(corners) + k * max(excess(low), excess(high)), rtol=1e-9)
    elif k:
        assert found.upper == math.inf


@pytest.mark.parametrize("baseline", [0.5, 0.25, 0.75])
def test_two_sample_estimators(baseline):
    """`(R − b)·tanh(½ log Λ) = (R − b)(Λ − 1)/(Λ + 1)`, old and new mean added; `R̄' − R̄`."""
    new, ratio = R[:, ::-1][:, :2], X[:, :2] * 0.5
    found = fs.bridge_sample(R, X, new, ratio, baseline)
    weight = np.exp(ratio.sum(-1))
    close(
        found.values,
        [
            sum((R[b, g] - baseline) * (WEIGHT[b, g] - 1) / (WEIGHT[b, g] + 1) for g in range(3)) / 3
            + sum((new[b, g] - baseline) * (weight[b, g] - 1) / (weight[b, g] + 1) for g in range(2)) / 2
            for b in range(2)
        ],
    )
    assert (found.lower, found.upper) == (-2 * max(baseline, 1 - baseline), 2 * max(baseline, 1 - baseline))
    difference = fs.difference_sample(R, new)
    close(difference.values, [sum(new[b]) / 2 - sum(R[b]) / 3 for b in range(2)])
    assert (difference.lower, difference.upper) == (-1.0, 1.0)


# --------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("alpha", [0.1, 0.02])
@pytest.mark.parametrize(("lower", "upper"), [(-1.0, 1.0), (-0.25, 3.0)])
def test_empirical_bernstein(alpha, lower, upper):
    """`Z̄ − √(2V ln(2/α)/B) − 7b ln(2/α)/(3(B−1))` on three numbers: mean ⅓, V = 7/48 (divided by B − 1)."""
    z = np.array([0.0, 0.25, 0.75])
    mean, V, b = 1 / 3, ((1 / 3) ** 2 + (1 / 12) ** 2 + (5 / 12) ** 2) / 2, upper - lower
    expected = mean - math.sqrt(2 * V * math.log(2 / alpha) / 3) - 7 * b * math.log(2 / alpha) / (3 * 2)
    close(fs.bernstein_bound(fs.Sample(z, lower, upper), alpha), expected)
    close(fs.bernstein_bound(fs.Sample(np.stack([z, z + 0.1]), lower, upper), alpha), [expected, expected + 0.1])
    assert fs.bernstein_bound(fs.Sample(z[:1], lower, upper), alpha) == -math.inf
    assert fs.bernstein_bound(fs.Sample(z, lower, math.inf), alpha) == -math.inf


def capital(z, lower, mean, alpha):
    """The game of `betting_log_capital`, bet by bet: the largest log capital, and the bets."""
    log, best, squares, bets = 0.0, -math.inf, 0.0, []
    for t, value in enumerate(z, 1):
        variance = (lower**2 / 4 + squares) / t
        bets.append(min(math.sqrt(2 * math.log(1 / alpha) / (len(z) * variance)), 0.9 / (mean - lower)))
        log += math.log(1 + bets[-1] * (value - mean))
        best, squares = max(best, log), squares + value**2
    return best, bets


def test_one_bet_by_hand():
    """Two prompts of 1 with lower end −1, α = e⁻².

    Against a mean of −0.9 the cap is 0.9/0.1 = 9: the bets are √(4/(2·¼)) = √8 and √(4/(2·(¼+1)/2)) = √3.2.
    """
    sample, alpha = fs.Sample(np.array([1.0, 1.0]), -1.0, math.inf), math.exp(-2)
    expected = math.log(1 + math.sqrt(8) * 1.9) + math.log(1 + math.sqrt(3.2) * 1.9)
    close(fs.betting_log_capital(sample, -0.9, alpha), expected)
    # against 0.5 the cap is 0.9/1.5 = 0.6
    close(fs.betting_log_capital(sample, 0.5, alpha), 2 * math.log(1 + 0.6 * 0.5))
    # a loss after a gain: the capital counts at its largest
    down = fs.Sample(np.array([1.0, -1.0]), -1.0, math.inf)
    close(fs.betting_log_capital(down, 0.5, alpha), math.log(1.3))


@pytest.mark.parametrize("alpha", [0.2, 0.05])
def test_the_betting_bound_solves_its_equation(alpha):
    """The mean at which the capital is exactly 1/α, by another root finder."""
    z, lower = np.array([0.5, 0.75, 0.25, 0.5, 1.0, 0.75, 0.5, 0.25, 0.75, 1.0]), -0.125
    found = float(fs.betting_bound(fs.Sample(z, lower, 2.0), alpha))
    root = brentq(lambda mean: capital(z, lower, mean, alpha)[0] - math.log(1 / alpha), lower + 1e-9, 1.0, xtol=1e-14)
    assert found == pytest.approx(root, rel=1e-10)
    assert lower < found < z.mean()
    batch = fs.betting_bound(fs.Sample(np.stack([z, z[::-1]]), lower, 2.0), alpha)
    assert batch[0] == found


def test_nothing_can_be_rejected_on_one_losing_prompt():
    """All numbers at the lower end: the limit is the lower end."""
    assert fs.betting_bound(fs.Sample(np.full(3, -1.0), -1.0, 1.0), 0.1) == -1.0


# ---------------------------------------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("bound", fs.BOUNDS)
def test_the_certificate_names_what_it_is_made_of(bound):
    """Every field of every estimator at settings that are not the defaults; the limit is the bound at alpha, or the lower end."""
    edge, clip, path_clip, cap = (0.1, 3.25), 0.3, (0.25, 1.75), 0.2
    samples = {
        "message": fs.message_sample(R, X, KL, clip, cap), "log": fs.log_sample(R, X, 1.75),
        "truncated": fs.truncated_sample(R, X, 1.75), "path": fs.path_sample(R, X, 0.25, edge),
        "clipped": fs.clipped_sample(R, X, KL, cap, "others", path_clip),
    }  # fmt: skip
    for estimator, sample in samples.items():
        found = fs.finite_sample_certificate(
            R, X, KL, alpha=0.3, estimator=estimator, bound=bound, baseline=0.25 if estimator == "path" else None,
            ratio_range=edge, kl_path_max=cap, clip=clip, path_clip=path_clip,
        )  # fmt: skip
        limit = (fs.bernstein_bound if bound == "bernstein" else fs.betting_bound)(sample, 0.3)
        assert found.lower == max(float(limit), sample.lower)
        close(found.estimate, sum(sample.values) / 2)
        close(found.deviation, abs(sample.values[0] - sample.values[1]) / math.sqrt(2))
        assert found[3:] == (0.3, estimator, bound, 2, 6, (sample.lower, sample.upper), None, False)


def test_defaults():
    """Path weight, a bet, baseline 0 and others; S8d with ½; the difference without ratios."""
    plain = fs.finite_sample_certificate(R, X, alpha=0.2)
    assert (plain.estimator, plain.bound, plain.interval) == ("path", "betting", (-1.0, math.inf))
    close(plain.estimate, fs.path_sample(R, X, 0.0).values.mean())
    clipped = fs.finite_sample_certificate(R, X, KL, alpha=0.2, estimator="clipped", kl_path_max=0.1)
    close(clipped.estimate, fs.clipped_sample(R, X, KL, 0.1, "others", (0.5, 2.0)).values.mean())
    message = fs.finite_sample_certificate(R, X, KL, alpha=0.2, estimator="message", kl_path_max=0.1)
    close(message.estimate, fs.message_sample(R, X, KL, 0.2, 0.1).values.mean())
    for estimator in ("log", "truncated"):
        sample = (fs.log_sample if estimator == "log" else fs.truncated_sample)(R, X, 2.0)
        close(fs.finite_sample_certificate(R, X, alpha=0.2, estimator=estimator).estimate, sample.values.mean())
    new, ratio = R[:, :2], X[:, 1:]
    bridge = fs.two_sample_certificate(R, new, X, ratio, alpha=0.2)
    close(bridge.estimate, fs.bridge_sample(R, X, new, ratio, 0.5).values.mean())
    assert bridge[3:] == (0.2, "bridge", "betting", 2, 10, (-1.0, 1.0), None, False)
    tilted = fs.two_sample_certificate(R, new, X, ratio, alpha=0.2, baseline=0.25, bound="bernstein")
    assert tilted[3:] == (0.2, "bridge", "bernstein", 2, 10, (-1.5, 1.5), None, False)
    difference = fs.two_sample_certificate(R, new, alpha=0.2)
    close(difference.estimate, fs.difference_sample(R, new).values.mean())
    assert difference[3:] == (0.2, "difference", "betting", 2, 10, (-1.0, 1.0), None, False)


def test_a_limit_is_never_below_what_can_be():
    """Bernstein on two prompts: far below −1 by its formula, −1 as a certificate."""
    sample = fs.log_sample(R, X, 2.0)
    assert fs.bernstein_bound(sample, 0.1) < -10
    found = fs.finite_sample_certificate(R, X, alpha=0.1, estimator="log", bound="bernstein")
    assert found.lower == -1.0


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({"ratio_range": (0.1249, 3.01)}, True),
        ({"log_ratio": np.zeros((2, 3, 2)), "ratio_range": (1.0, 1.0), "estimator": "log"}, True),  # the ends are taken
        ({"ratio_range": (0.126, 3.01)}, False),
        ({"ratio_range": (0.1249, 2.99)}, False),
        ({"estimator": "message", "kl": KL, "kl_path_max": 0.0625}, True),  # Σ KL of a rollout is at most .06
        ({"estimator": "message", "kl": KL, "kl_path_max": 0.06 * (1 - 1e-12)}, False),
        ({"estimator": "message", "kl": KL, "kl_path_max": 0.5, "clip": 1.0}, True),
        ({"estimator": "message", "kl": KL, "kl_path_max": 0.5, "clip": 1.01}, False),
        ({"baseline": 1.0, "ratio_range": (0.0, 4.0)}, True),
        ({"baseline": 0.0}, True),
        ({"baseline": 1e-9}, False),
        ({"baseline": "others", "ratio_range": (0.0, 4.0)}, True),
        ({"baseline": "others"}, False),
        ({"baseline": R, "ratio_range": (0.0, 4.0)}, True),
        ({"baseline": R[:, :1], "ratio_range": (0.0, 4.0)}, True),
        ({"baseline": R[:1], "ratio_range": (0.0, 4.0)}, False),
        ({"path_clip": (0.0, 1.01)}, True),
        ({"path_clip": (-0.01, 2.0)}, False),
        ({"path_clip": (0.5, 1.0)}, False),
        ({"ratio_range": (1.0, 1.0)}, False),
        ({"log_ratio": np.full((2, 3, 2), 350.0), "estimator": "log"}, True),  # sums of 700
        ({"log_ratio": np.full((2, 3, 2), 350.1), "estimator": "log"}, False),
        ({"reward": np.array([[0.0, 1.0, 1.0]] * 2)}, True),
        ({"reward": np.array([[0.0, 1.0, 1.0 + 1e-12]] * 2)}, False),
        ({"reward": np.array([[-1e-12, 1.0, 1.0]] * 2)}, False),
    ],
)
def test_declared_ranges_at_their_ends(change, accepted):
    """A limit rests on what is declared: data at the end of a range are taken, beyond it refused."""
    call = {"reward": R, "log_ratio": X.round(15), "alpha": 0.1} | change
    if accepted:
        found = fs.finite_sample_certificate(**call)
        assert math.isfinite(found.lower) == (found.contradiction is None) == (call["log_ratio"].max() < 300)
    else:
        with pytest.raises(InputError):
            fs.finite_sample_certificate(**call)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_baselines_of_two_samples_at_their_ends(edge):
    assert fs.two_sample_certificate(R, R, X, X, alpha=0.1, baseline=edge).interval == (-2.0, 2.0)


# ---------------------------------------------------------------------------------------------------- group normalisation


@pytest.mark.parametrize(("group", "p"), [(2, 0.3), (3, 0.5), (5, 0.1)])
def test_weight_of_group_normalisation(group, p):
    """`w_G(p) = E√(K(G−K)) / (G p(1−p))`, K successes of G; the same for p and 1 − p."""
    total = 0.0
    for k in range(group + 1):
        chance = math.comb(group, k) * p**k * (1 - p) ** (group - k)
        total += chance * math.sqrt(k * (group - k))
    found = fs.group_normalised_weight(np.array([p, 1 - p]), group)
    close(found, [total / (group * p * (1 - p))] * 2)  # symmetric


def test_weight_of_group_normalisation_is_of_a_surrogate():
    """`E[G⁻¹ Σ_g (R_g − R̄)/s · ∂ log p(R_g)]` over all outcomes of a group, `∂ log p(R) = (R − p)/(p(1−p))`."""
    p, group = 0.3, 4
    total = 0.0
    for outcome in np.ndindex(*(2,) * group):
        r = np.array(outcome, float)
        s = r.std()
        if s > 0:
            chance = np.prod(np.where(r == 1, p, 1 - p))
            total += chance * ((r - r.mean()) / s * (r - p) / (p * (1 - p))).mean()
    close(fs.group_normalised_weight(p, group), total)


@pytest.mark.parametrize("call", [(0.0, 2), (1.0, 2), (0.5, 1)])
def test_weight_of_group_normalisation_is_defined_inside(call):
    with pytest.raises(InputError):
        fs.group_normalised_weight(*call)


# --------------------------------------------------------------------------------------------- limits that cannot be


ZERO = np.zeros((2, 3, 2))


@pytest.mark.parametrize("bound", fs.BOUNDS)
def test_a_clip_at_zero_without_a_baseline(bound):
    """`l = 0, b = 0`: `k = max(b·k_high, (1−b)·k_low) = 0`, so `Z = R(min(Λ, h) − 1)` and its range is `[−1, h − 1]`."""
    call = {"kl": 0.01 + ZERO, "alpha": 0.1, "estimator": "clipped", "baseline": 0.0, "path_clip": (0.0, 1.5),
            "kl_path_max": 0.1, "bound": bound}  # fmt: skip
    found = fs.finite_sample_certificate(R, ZERO, **call)
    assert (found.estimate, found.interval) == (0.0, (-1.0, 0.5))
    if bound == "bernstein":  # −7·1.5·ln 20/3 with V = 0 and B = 2, less than −1
        assert found.lower == -1.0
    else:
        root = brentq(lambda mean: capital([0.0, 0.0], -1.0, mean, 0.1)[0] - math.log(10), -1 + 1e-9, 0.0, xtol=1e-14)
        assert found.lower == pytest.approx(root, rel=1e-10)
    dropped = fs.finite_sample_certificate(R, X + np.where(np.arange(3) == 1, -np.inf, 0)[:, None], zeros=True, **call)
    close(dropped.estimate, (1 * 0.125 - 0.25 + 0.5 * 0.1 + 0 * 0.5 - 0.75 + 1 * -0.75) / 6)
    with pytest.raises(
        InputError, match=r"^bound: found 'bernstein', expected 'betting': the numbers of estimator 'clipped'"
    ):
        fs.finite_sample_certificate(R, ZERO, **call | {"baseline": 0.5, "bound": "bernstein"})
    # b = ½: X has no bound as Λ → 0, and a path of weight 0 is not taken for one that was seen
    half = fs.clipped_sample(R, ZERO - 400.0, ZERO, 0.1, 0.5, (0.0, 1.5))
    close(half.values, [0.5 - r.mean() for r in R])
    assert half.upper == math.inf


@pytest.mark.parametrize("estimator", [e for e in fs.ESTIMATORS if e != "message"])
@pytest.mark.parametrize("log_ratio", [100.0, 177.5, 350.0])
def test_weights_that_cannot_be(estimator, log_ratio):
    """Every rollout e²⁰⁰, e³⁵⁵, e⁷⁰⁰ times as likely: `E Λ ≤ 1` is contradicted, and nothing is certified."""
    kl = {"kl": ZERO, "kl_path_max": 0.1} if estimator == "clipped" else {}
    found = fs.finite_sample_certificate(R, ZERO + log_ratio, alpha=0.1, estimator=estimator, **kl)
    assert found.lower == -math.inf
    # prompts have the mean weight e^{2x}: the bettor who stakes all has 2·2x, the three others about as much
    stakes = [4 * log_ratio + 2 * math.log(s) for s in (1.0, 0.3, 0.1, 0.03)]
    evidence = np.logaddexp.reduce(stakes) - math.log(4)
    assert f"log evidence {evidence:.3g})" in (found.contradiction or "")
    close(fs.weight_evidence((ZERO + log_ratio).sum(-1)), evidence)


def test_what_is_no_contradiction():
    """Ten prompts of mean weight w win `10·log w` at full stake: accused from about `log 4·10⁶` on."""
    r, spread = np.full((10, 2), 0.5), np.log(np.array([0.5, 1.5]))[None, :, None] * np.ones((10, 1, 1))
    close(fs.weight_evidence(spread[..., 0]), 0.0)
    assert fs.finite_sample_certificate(r, spread, alpha=0.1).contradiction is None
    for shift, accused in ((1.3, False), (1.6, True)):
        found = fs.finite_sample_certificate(r, spread + shift, alpha=0.1)
        capital = [10 * math.log1p(s * math.expm1(shift)) for s in (1.0, 0.3, 0.1, 0.03)]
        assert (
            (found.contradiction is not None) == accused == (np.logaddexp.reduce(capital) - math.log(4) > math.log(1e6))
        )
    # S8d: rollouts of the new policy are rarer under the old one, never more likely in the mean
    old, new = np.zeros((10, 2, 1)), spread * 0 - 1.6
    assert fs.two_sample_certificate(r, r, old, -new, alpha=0.1).contradiction is None
    assert fs.two_sample_certificate(r, r, old, new, alpha=0.1).lower == -math.inf
    assert fs.two_sample_certificate(r, r, -new, old, alpha=0.1).lower == -math.inf


def test_where_the_accusation_begins():
    """At a capital of 10⁶, shared by the two where the weights of two policies are looked at; each is looked at by itself.

    Ten prompts of one rollout, `Λ = eˣ`: the four bettors have `∏ (1 + s(eˣ − 1))`.
    """
    n, r = 10, np.full((10, 1), 0.5)

    def of_capital(capital):
        def excess(x):
            return sum((1 + s * math.expm1(x)) ** n for s in (1.0, 0.3, 0.1, 0.03)) / 4 - capital

        return np.full((n, 1, 1), brentq(excess, 0.0, 3.0, xtol=1e-15))

    def start(x):
        return fs.anytime_certificate(fs.anytime_start(0.1), r, x)[0].contradiction

    zero = np.zeros((n, 1, 1))
    for factor, accused in ((0.99, False), (1.01, True)):
        one, half = of_capital(factor * 1e6), of_capital(factor * 2e6)
        assert (fs.finite_sample_certificate(r, one, alpha=0.1).contradiction is not None) == accused
        assert start(one) == accused
        for old, new in ((half, zero), (zero, half), (half, half)):
            for found in (
                fs.two_sample_certificate(r, r, old, -new, alpha=0.1),
                fs.mismatch_certificate(r, old, new, alpha=0.1),
                fs.mismatch_certificate(r, old, new, alpha=0.1, estimator="log"),
            ):
                assert (found.contradiction is not None) == accused == (found.lower == -math.inf)


def test_a_limit_is_cut_at_what_can_be_gained():
    """Rewards in [0, 1]: at most 1. 100 prompts, one with a weight of 60, and the limit of a bettor against `Z ≥ −½`."""
    n = 400
    r, x = np.ones((n, 1)), np.full((n, 1, 1), math.log(2.5))
    x[1::2] = -np.inf
    found = fs.finite_sample_certificate(r, x, alpha=0.5, estimator="path", bound="betting", zeros=True)
    assert not found.cut
    assert found.lower < 0.25 == found.estimate
    sample = fs.Sample(np.full(n, 2.0), -1.0, 3.0)
    one = certificate.certificate_of(sample, 0.1, "path", "betting", n, [])
    assert float(fs.betting_bound(sample, 0.1)) > 1.0 == one.lower
    assert one.cut
    assert not certificate.certificate_of(fs.Sample(np.full(n, 1.0), -1.0, 3.0), 0.1, "path", "betting", n, []).cut


def test_nothing_can_move():
    """`ratio_range = (1, 1)`: every number is 0, and so is the limit."""
    for bound in fs.BOUNDS:
        found = fs.finite_sample_certificate(R, ZERO, alpha=0.1, ratio_range=(1.0, 1.0), bound=bound)
        assert (found.lower, found.estimate, found.interval) == (0.0, 0.0, (0.0, 0.0))
    assert fs.betting_log_capital(fs.Sample(np.zeros(3), 0.0, 1.0), 0.0, 0.1) == 0.0


def test_large_numbers_are_cut_for_the_bettor():
    """Bets look at squares: e³⁵⁵ would overflow. Cut at e³⁰⁰ the capital is that of the cut numbers, and the limit lower."""
    big = fs.Sample(np.array([math.exp(355), 0.5, -0.5]), -1.0, math.inf)
    cut = big._replace(values=np.minimum(big.values, math.exp(300)))
    assert fs.betting_log_capital(big, 0.0, 0.1) == fs.betting_log_capital(cut, 0.0, 0.1) > 299
    assert fs.betting_bound(big, 0.1) == fs.betting_bound(cut, 0.1)


SAMPLES = {
    "message": lambda r, x, k: fs.message_sample(r, x, k, 0.2, 0.5),
    "log": lambda r, x, k: fs.log_sample(r, x, 2.0),
    "truncated": lambda r, x, k: fs.truncated_sample(r, x, 2.0),
    "path": lambda r, x, k: fs.path_sample(r, x),
    "clipped": lambda r, x, k: fs.clipped_sample(r, x, k, 0.5),
    "bridge": lambda r, x, k: fs.bridge_sample(r, x, r, x),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_refuse_what_they_cannot_use(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    sample = SAMPLES[name]
    assert np.isfinite(sample(R.tolist(), X.astype(np.float32), KL).values).all()
    for reward in (R + 0.1, R - 0.1, R * math.nan, R[0], "reward", None, R[:, :0]):
        with pytest.raises(InputError, match=r"^reward"):
            sample(reward, X, KL)
    for log_ratio in (X * math.nan, X[0], X[..., 0], "x", None, np.where(np.arange(2) == 0, np.inf, -np.inf) + X):
        with pytest.raises(InputError, match=r"^log_ratio"):
            sample(R, log_ratio, KL)
    if name in ("message", "clipped"):
        for kl, who in ((-KL, "kl"), (KL * math.nan, "kl"), (KL[0], "kl"), ("x", "kl"), (KL + 1, "kl_path_max")):
            with pytest.raises(InputError, match=f"^{who}: "):
                sample(R, X, kl)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fs.path_sample(R, X, 0.5), r"ratio_range: found \(0.0, inf\), expected a finite upper end"),
        (lambda: fs.path_sample(R, X, "others"), "ratio_range: found"),
        (lambda: fs.path_sample(R, X, 2.0, (0.0, 4.0)), "baseline: found 2.0"),
        (lambda: fs.path_sample(R, X, "mine", (0.0, 4.0)), "baseline: found 'mine'"),
        (lambda: fs.path_sample(R, X, 0.0, (2.0, 4.0)), "ratio_range: found"),
        (lambda: fs.path_sample(R, X, 0.0, 2.0), "ratio_range: found"),  # pyright: ignore[reportArgumentType]
        (lambda: fs.log_sample(R, X, 1.0), "high: found 1.0"),
        (lambda: fs.truncated_sample(R, X, math.nan), "high: found nan"),
        (lambda: fs.message_sample(R, X, KL, 1.5, 0.5), "clip: found 1.5"),
        (lambda: fs.message_sample(R, X, KL, 0.2, math.nan), "kl_path_max: found nan"),
        (lambda: fs.clipped_sample(R, X, KL, math.inf), "kl_path_max: found inf"),
        (lambda: fs.bridge_sample(R, X, R, X, 1.5), "baseline: found 1.5"),
        (lambda: fs.bridge_sample(R, X, R[:1], X[:1]), "reward_new: found"),
        (lambda: fs.difference_sample(R, R[:1]), "reward_new: found shape"),
        (lambda: fs.difference_sample(R, R + 1), "reward_new: found 2.0"),
        (lambda: fs.betting_log_capital(fs.Sample(R[0], 0.0, 1.0), -0.1, 0.1), "mean: found -0.1"),
        (lambda: fs.betting_log_capital(fs.Sample(R[0], 0.0, 1.0), math.inf, 0.1), "mean: found inf"),
        (lambda: fs.betting_bound(fs.Sample(R[0], -math.inf, 1.0), 0.1), "sample.lower: found -inf"),
        (lambda: fs.bernstein_bound(fs.Sample(R[0], 0.0, math.nan), 0.1), "sample.upper: found nan"),
        (lambda: fs.bernstein_bound(fs.Sample(R[0].astype(np.float32), 0.0, 1.0), 0.1), "sample.values: found dtype"),
        (lambda: fs.finite_sample_certificate(R, X, alpha=0.1, path_clip=2.0), "path_clip: found 2.0"),  # pyright: ignore[reportArgumentType]
        (lambda: fs.finite_sample_certificate(R, X, alpha=0.1, baseline=0.5, ratio_range=(0.0, 1e200)), "ratio_range: "),
        (lambda: fs.finite_sample_certificate("R", X, alpha=0.1), "reward: found a str"),
    ],
)  # fmt: skip
def test_settings_of_samples(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="^" + message):
        call()


@pytest.mark.parametrize("edge", [0.0, 3.0])
def test_rounding_may_leave_a_range_by_a_billionth_of_its_end(edge):
    """Of the end, or of 1 where the end is smaller: below that a value is refused."""
    allowed = 1e-9 * max(1.0, edge)
    for bound in (fs.bernstein_bound, fs.betting_bound):
        bound(fs.Sample(np.array([edge + 1.0, edge - 0.9 * allowed]), edge, 5.0), 0.1)
        with pytest.raises(InputError, match=r"sample\.values"):
            bound(fs.Sample(np.array([edge + 1.0, edge - 1.1 * allowed]), edge, 5.0), 0.1)
