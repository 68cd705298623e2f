"""S8: estimators by exact enumeration of every sample, bounds by exact error probabilities, the simulation's own numbers."""

import itertools
import math

import numpy as np
import pytest

from teamtr_jax import finite_sample as fs
from teamtr_jax.finite_sample import limits
from teamtr_jax.validation import InputError
from theory.studies import s8


def one_message(p, q, r):
    """Every pair of rollouts (G = 2) of a one-message team with their probability: weight, reward, log ratio, KL."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(q) - np.log(p)
        kl = float(np.where(p > 0, p * np.log(p / q), 0.0).sum())
    pairs = np.array(list(itertools.product(np.flatnonzero(p), repeat=2)))
    weight = p[pairs].prod(-1)
    return weight, r[pairs], log_ratio[pairs][..., None], np.full((*pairs.shape, 1), kl)


def two_messages(p, q, r):
    """The same with two messages, p and q [4, A]: row 0 first, then row 1 + (first message) mod 3; reward r [A, A]."""
    actions = p.shape[1]
    paths = [(a, b) for a in range(actions) for b in range(actions) if p[0, a] * p[1 + a % 3, b] > 0]
    rows = [((0, a), (1 + a % 3, b)) for a, b in paths]
    prob = np.array([p[x] * p[y] for x, y in rows])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.array([[np.log(q[x] / p[x]), np.log(q[y] / p[y])] for x, y in rows])
        table = np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)
    kl = np.array([[table[x[0]], table[y[0]]] for x, y in rows])
    reward = np.array([r[a, b] for a, b in paths])
    new = np.array([[q[0, a] * q[1 + a % 3, b] for b in range(actions)] for a in range(actions)])
    improvement = float((new * r).sum() - (prob * reward).sum())
    pairs = np.array(list(itertools.product(range(len(paths)), repeat=2)))
    return improvement, prob[pairs].prod(-1), reward[pairs], log_ratio[pairs], kl[pairs], float(table.max())


def simplex(rng, shape, zeros):
    p = rng.dirichlet(np.ones(shape[-1]) * 0.7, shape[:-1])
    if zeros:
        p[..., 0] = 0
        p /= p.sum(-1, keepdims=True)
    return p


def worlds(count=60):
    rng = np.random.default_rng(7)
    for k in range(count):
        opens = k % 3 == 0  # message 0 was never sent before
        p = simplex(rng, (4, 3), opens)
        step = 10 ** rng.uniform(-2, 0)
        q = (1 - step) * p + step * simplex(rng, (4, 3), False)
        yield opens, two_messages(p, q, (rng.random((3, 3)) < 0.5) * rng.choice([1.0, 0.6])), q, p


@pytest.mark.parametrize("path_clip", [(0.5, 2.0), (0.0, 1.5), (0.9, 1.1)])
def test_no_estimator_is_above_the_improvement(path_clip):
    """S8: exact means over all samples of two rollouts: E Z ≤ J' − J, with and without messages that were never sent before."""
    for opens, (improvement, weight, r, x, kl, most), q, p in worlds():
        cap = 2 * most
        found = {
            "message": fs.message_sample(r, x, kl, 0.2, cap),
            "log": fs.log_sample(r, x),
            "log, truncated": fs.log_sample(r, x, 2.0),
            "truncated": fs.truncated_sample(r, x, 1.3),
            "path": fs.path_sample(r, x),
            **{f"clipped {b}": fs.clipped_sample(r, x, kl, cap, b, path_clip) for b in (0.0, 0.3, 1.0, "others")},
        }
        for name, sample in found.items():
            mean = float(weight @ sample.values)
            assert mean <= improvement + 1e-12, (name, opens, mean, improvement)
        if not opens:
            ratio = q / p
            edge = (float(ratio.min()), float(ratio.max()))
            for b in (0.0, 0.4, "others"):
                assert weight @ fs.path_sample(r, x, b, edge).values == pytest.approx(improvement, abs=1e-12)


def test_a_truncated_weight_with_a_baseline_is_not_a_lower_bound():
    """Why a baseline needs bounded ratios or the KL: `E(R−b)(min(Λ,c)−1)` exceeds the improvement."""
    p, q, r = np.array([0.9, 0.1]), np.array([0.1, 0.9]), np.array([1.0, 0.0])
    weight, reward, log_ratio, _ = one_message(p, q, r)
    naive = (reward - 1.0) * (np.minimum(np.exp(log_ratio[..., 0]), 2.0) - 1)
    assert weight @ naive.mean(-1) > float(((q - p) * r).sum()) + 0.5


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.8, 1.25), (0.1, 10.0)])
def test_the_tail_constants_are_attained(low, high):
    """One message at the extreme ratio, with the reward on the other side: E Z is the improvement itself."""
    k_low, k_high = fs.tail_constants(low, high)
    above, below = k_high / (k_high - 1), k_low / (1 + k_low)  # from k = x/|x−1|
    for x, reward, b in ((above, np.array([0.0, 1.0]), 1.0), (below, np.array([1.0, 0.0]), 0.0)):
        e = min(0.01, 0.5 / x)
        p = np.array([e, 1 - e])
        q = np.array([e * x, 1 - e * x])
        weight, r, log_ratio, kl = one_message(p, q, reward)
        sample = fs.clipped_sample(r, log_ratio, kl, float(kl.max()), b, (low, high))
        assert weight @ sample.values == pytest.approx(float(((q - p) * reward).sum()), abs=1e-13)


def test_tail_constants_are_the_suprema():
    for low, high in ((0.5, 2.0), (0.9, 1.05), (0.01, 8.0)):
        k_low, k_high = fs.tail_constants(low, high)
        up, down = (
            np.geomspace(high * (1 + 1e-9), 1e4 * high, 400_001),
            np.geomspace(low * 1e-6, low * (1 - 1e-9), 400_001),
        )
        assert k_high == pytest.approx(((up - high) / (up - 1 - np.log(up))).max(), rel=1e-6)
        assert k_low == pytest.approx(((low - down) / (down - 1 - np.log(down))).max(), rel=1e-6)
    assert fs.tail_constants(0.0, 2.0)[0] == 0.0


def test_bridge_and_difference_are_exact_with_openings():
    rng = np.random.default_rng(3)
    for _ in range(20):
        p, q = simplex(rng, (4,), True), simplex(rng, (4,), False)
        q[1] = 0.0  # and a message that is never sent again
        q /= q.sum()
        r = rng.random(4)
        with np.errstate(divide="ignore"):
            x = np.log(q) - np.log(p)
        old, new = np.flatnonzero(p), np.flatnonzero(q)
        a, b = (m.ravel() for m in np.meshgrid(old, new))
        weight, improvement = p[a] * q[b], float(((q - p) * r).sum())
        bridge = fs.bridge_sample(r[a][:, None], x[a][:, None, None], r[b][:, None], x[b][:, None, None], 0.3)
        difference = fs.difference_sample(r[a][:, None], r[b][:, None])
        for sample in (bridge, difference):
            assert weight @ sample.values == pytest.approx(improvement, abs=1e-13)
            assert sample.lower <= sample.values.min() <= sample.values.max() <= sample.upper


def test_samples_stay_in_their_interval_and_reach_it():
    rng = np.random.default_rng(5)
    shape = (4_000, 2)
    x = rng.choice([-30.0, -0.7, 0.0, 0.2, 0.7, 5.0], (*shape, 2))
    r = rng.choice([0.0, 0.5, 1.0], shape)
    kl = rng.choice([0.0, 0.05], x.shape)
    hard = np.clip(x, math.log(0.8), math.log(1.3))
    found = [
        fs.message_sample(r, x, kl, 0.2, 0.1), fs.log_sample(r, x, 2.0), fs.truncated_sample(r, x, 2.0),
        fs.clipped_sample(r, x, kl, 0.1, "others"), fs.clipped_sample(r, x, kl, 0.1, 0.25),
        fs.path_sample(r, hard, "others", (0.8, 1.3)), fs.path_sample(r, hard, 0.2, (0.8, 1.3)), fs.path_sample(r, x),
    ]  # fmt: skip
    for sample in found:
        assert sample.lower - 1e-12 <= sample.values.min()
        assert sample.values.max() <= sample.upper + 1e-12
    assert found[-1].lower == pytest.approx(found[-1].values.min(), abs=1e-9)
    assert found[5].lower == pytest.approx(-(1.3**2 - 1))
    assert found[6].lower == pytest.approx(-0.8 * (1 - 0.8**2))
    assert found[0].upper - found[0].lower == pytest.approx(2 * 2 * 0.2 + 2 * 2 + 0.1)  # b = 2τε + 2τ + τκ_max


def test_message_sample_by_hand():
    r, ratio = np.array([[1.0, 0.0]]), np.array([[[1.5, 0.5], [1.0, 1.1]]])
    kl = np.array([[[0.01, 0.02], [0.03, 0.0]]])
    # rollout 1: (1−0)(0.2−0.2) − {1−1.2+0} − {1−0.5+0.3} − 0.03 = −0.63; rollout 2: (0−1)(0+0.1) − 0 − {1−1.1} − 0.03 = −0.03
    sample = fs.message_sample(r, np.log(ratio), kl, 0.2, 0.1)
    assert sample.values == pytest.approx([(-0.63 - 0.03) / 2])


def test_log_and_truncated_never_exceed_the_path_weight():
    """Pointwise: with the same bets their capital is never the larger one."""
    rng = np.random.default_rng(11)
    r, x = rng.random((300, 2)), rng.normal(0.1, 0.6, (300, 2, 3))
    path = fs.path_sample(r, x)
    for sample in (fs.log_sample(r, x), fs.truncated_sample(r, x, 2.0)):
        assert (sample.values <= path.values + 1e-15).all()
        assert sample.lower == path.lower


def sequences(values, length):
    return np.array(list(itertools.product(values, repeat=length)))


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.02])
@pytest.mark.parametrize(("high", "lower"), [(1.0, -1.0), (9.0, -1.0), (0.1, -1.0), (1.0, -0.05), (40.0, -0.3)])
def test_the_bettor_gains_nothing_at_the_true_mean(alpha, high, lower):
    """Two values with mean m, all sequences of 11: the expected capital is 1 at every time, P(limit > m) ≤ α exactly."""
    mean = 0.25 * lower
    p_high = (mean - lower) / (high - lower)
    z = sequences((lower, high), 11)
    weight = np.where(z == high, p_high, 1 - p_high).prod(-1)
    sample = fs.Sample(z, lower, high)
    capital = np.exp(limits._log_capital(*limits._bets(sample, alpha), sample.lower, mean))
    assert weight @ capital == pytest.approx(np.ones(11), abs=1e-10)
    assert weight @ (fs.betting_bound(sample, alpha) > mean) <= alpha
    assert weight @ (fs.bernstein_bound(sample, alpha) > mean) <= alpha


def test_capital_is_the_game_as_written():
    """Bet by bet in plain Python."""
    rng = np.random.default_rng(2)
    z, lower, mean, alpha = rng.uniform(-0.5, 2, 40), -0.5, 0.1, 0.05
    log, best, squares = 0.0, -math.inf, 0.0
    for t, value in enumerate(z):
        variance = (lower**2 / 4 + squares) / (t + 1)
        bet = min(math.sqrt(2 * math.log(1 / alpha) / (40 * variance)), 0.9 / (mean - lower))
        log += math.log(1 + bet * (value - mean))
        best, squares = max(best, log), squares + value**2
    assert fs.betting_log_capital(fs.Sample(z, lower, 2.0), mean, alpha) == pytest.approx(best)


def test_betting_bound_is_where_the_capital_crosses():
    rng = np.random.default_rng(4)
    sample = fs.Sample(rng.normal(0.05, 0.1, (20, 200)).clip(-1), -1.0, math.inf)
    limit = fs.betting_bound(sample, 0.1)
    assert (fs.betting_log_capital(sample, limit - 1e-9, 0.1) >= math.log(10)).all()
    assert (fs.betting_log_capital(sample, limit + 1e-9, 0.1) < math.log(10)).all()
    assert (fs.betting_bound(sample, 0.01) < limit).all()


def test_bernstein_bound_by_hand():
    z = np.array([0.0, 0.1, 0.3, 0.2])
    # mean .15, V = .05/3, ln 20; √(2·V·ln20/4) + 7·1.2·ln20/9
    expected = 0.15 - math.sqrt(2 * (0.05 / 3) * math.log(20) / 4) - 7 * 1.2 * math.log(20) / 9
    assert fs.bernstein_bound(fs.Sample(z, -0.2, 1.0), 0.1) == pytest.approx(expected)
    assert fs.bernstein_bound(fs.Sample(z, -0.2, math.inf), 0.1) == -math.inf


def team_data(seed=0, prompts=400, group=4):
    return s8.rollouts(s8.relay("team", 2, 0.05, 0.5), np.random.default_rng(seed), prompts, group)


def test_certificate_of_every_estimator():
    task = s8.relay("team", 2, 0.05, 0.5)
    data, cap = team_data(), 2 * float(task.kl().max())
    for estimator in fs.ESTIMATORS:
        needs = estimator in ("message", "clipped")
        for bound in fs.BOUNDS:
            if estimator == "path" and bound == "bernstein":
                continue
            found = fs.finite_sample_certificate(
                data.reward, data.log_ratio, data.kl if needs else None, alpha=0.1, estimator=estimator, bound=bound,
                kl_path_max=cap * (1 + 1e-9) if needs else None,
            )  # fmt: skip
            assert found.lower < found.estimate < task.improvement + 5 * found.deviation / 20
            assert (found.prompts, found.rollouts, found.alpha) == (400, 1600, 0.1)
    low, high = task.ratio_range
    edge = (low * (1 - 1e-9), high * (1 + 1e-9))
    hard = fs.finite_sample_certificate(
        data.reward, data.log_ratio, alpha=0.1, baseline="others", ratio_range=edge, bound="bernstein"
    )
    assert hard.interval[0] == pytest.approx(-(edge[1] ** 2 - 1))
    free = fs.finite_sample_certificate(data.reward, data.log_ratio, alpha=0.1)
    assert 0 < free.lower < task.improvement
    assert free.lower == fs.betting_bound(fs.path_sample(data.reward, data.log_ratio), 0.1)
    new = s8.rollouts(task, np.random.default_rng(9), 400, 4, new=True)
    bridge = fs.two_sample_certificate(data.reward, new.reward, data.log_ratio, new.log_ratio, alpha=0.1)
    plain = fs.two_sample_certificate(data.reward, new.reward, alpha=0.1)
    assert plain.lower < bridge.lower < task.improvement
    assert bridge.rollouts == 3200


def test_log_ratios_are_finite_as_in_the_monitor():
    """One rule for both: a network gives no message the probability zero, so −inf is refused; tables declare that they do."""
    from teamtr_jax.monitor import token_log
    from teamtr_jax.records import TOKEN_LOG_COLUMNS

    columns = {name: np.zeros(4, int) for name in TOKEN_LOG_COLUMNS} | {"t": np.arange(4)}
    columns |= {name: np.full(4, -0.5) for name in ("logp_behaviour", "logp_current", "logp_new")}
    token_log(columns)
    one = np.array([[[-np.inf]], [[0.0]], [[0.5]]])
    for infinity in (-np.inf, np.inf, np.nan):
        with pytest.raises(InputError, match="logp_new"):
            token_log(columns | {"logp_new": np.array([-0.5, infinity, -0.5, -0.5])})
        with pytest.raises(InputError, match=rf"^log_ratio: found {infinity}, expected finite log ratios"):
            fs.finite_sample_certificate(R[:, :1], np.where(np.isinf(one), infinity, one), alpha=0.1)
        for name in ("log_ratio_old", "log_ratio_new"):
            given = {"log_ratio_old": X, "log_ratio_new": X} | {name: X + infinity}
            with pytest.raises(InputError, match=rf"^{name}: found {infinity}, expected finite log ratios"):
                fs.two_sample_certificate(R, R, **given, alpha=0.1)
    both = fs.two_sample_certificate(R, R, X - np.inf, X + np.inf, alpha=0.1, zeros=True)
    assert both.estimate == 0.0  # tanh(∓∞) = ∓1 on rewards of ½, the baseline
    swapped = {"log_ratio_old": X + np.inf, "log_ratio_new": X}
    with pytest.raises(InputError, match=r"^log_ratio_old: found inf, expected log ratios: numbers or -inf$"):
        fs.two_sample_certificate(R, R, **swapped, alpha=0.1, zeros=True)


@pytest.mark.parametrize(
    "bound", [fs.bernstein_bound, fs.betting_bound, lambda *x: fs.betting_log_capital(x[0], 0.0, x[1])]
)
def test_a_sample_keeps_to_its_range(bound):
    """A number outside the interval that was promised makes the limit false: refused, rounding apart."""
    for value in (-1.01, 1.01, np.nan, -np.inf):
        with pytest.raises(InputError, match=rf"^sample\.values: found {value}, expected numbers in \[-1, 1\]$"):
            bound(fs.Sample(np.array([0.5, value, 0.0]), -1.0, 1.0), 0.1)
    for alpha in (0.0, 1.0, np.nan):
        with pytest.raises(InputError, match=r"^alpha: found"):
            bound(fs.Sample(np.zeros(3), -1.0, 1.0), alpha)
    assert np.isfinite(bound(fs.Sample(np.array([-1.0 - 1e-12, 1.0 + 1e-12, 0.0]), -1.0, 1.0), 0.1))


@pytest.mark.parametrize("ends", [(1.0, 2.0), (0.5, 1.0), (-0.1, 2.0), (0.5, np.nan), (0.5, np.inf)])
def test_tail_constants_need_an_interval_around_one(ends):
    with pytest.raises(InputError, match=r"^(low|high)"):
        fs.tail_constants(*ends)


def test_dropped_messages_and_float32_are_read():
    reward, log_ratio = (
        np.array([[1.0], [0.0], [1.0]], np.float32),
        np.array([[[-np.inf]], [[0.0]], [[0.5]]], np.float32),
    )
    found = fs.finite_sample_certificate(reward, log_ratio, alpha=0.1, zeros=True)
    assert found.estimate == pytest.approx((-1 + 0 + math.exp(0.5) - 1) / 3)


R, X = np.full((3, 2), 0.5), np.zeros((3, 2, 2))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"alpha": 0.0}, "alpha"), ({"alpha": 1.0}, "alpha"), ({"alpha": math.nan}, "alpha"),
        ({"reward": R[0]}, "reward"), ({"reward": R[:1], "log_ratio": X[:1]}, "reward"), ({"reward": R + 0.6}, "reward"),
        ({"reward": R * math.nan}, "reward"), ({"reward": R - 1}, "reward"),
        ({"log_ratio": X[..., 0]}, "log_ratio"), ({"log_ratio": X[:2]}, "log_ratio"), ({"log_ratio": X + math.nan}, "log_ratio"),
        ({"log_ratio": X + math.inf}, "log_ratio"), ({"log_ratio": X + 400}, "log_ratio"),
        ({"estimator": "best"}, "estimator"), ({"bound": "normal"}, "bound"), ({"bound": "bernstein"}, "bound"),
        ({"baseline": 0.5}, "ratio_range"), ({"baseline": "mine"}, "baseline"), ({"baseline": 1.5}, "baseline"),
        ({"baseline": np.zeros(2)}, "baseline"), ({"baseline": 0.5, "estimator": "log"}, "baseline"),
        ({"ratio_range": (1.1, 2.0)}, "ratio_range"), ({"ratio_range": (0.5, 0.9)}, "ratio_range"),
        ({"path_clip": (1.25, 2.0)}, "path_clip"), ({"path_clip": (0.5, 1.0)}, "path_clip"),
        ({"log_ratio": X + 1, "ratio_range": (0.5, 2.0)}, "log_ratio"),
        ({"clip": 0.0}, "clip"), ({"path_clip": (0.5, math.inf)}, "path_clip"), ({"path_clip": (1.0, 2.0)}, "path_clip"),
        ({"estimator": "message"}, "kl, kl_path_max"), ({"estimator": "clipped", "kl": X}, "kl, kl_path_max"),
        ({"estimator": "clipped", "kl": X[0], "kl_path_max": 1.0}, "kl"),
        ({"estimator": "clipped", "kl": X - 1, "kl_path_max": 1.0}, "kl"),
        ({"estimator": "clipped", "kl": X + math.nan, "kl_path_max": 1.0}, "kl"),
        ({"estimator": "message", "kl": X + 0.6, "kl_path_max": 1.0}, "kl_path_max"),
        ({"estimator": "message", "kl": X, "kl_path_max": math.inf}, "kl_path_max"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, name):
    with pytest.raises(InputError) as caught:
        fs.finite_sample_certificate(**({"reward": R, "log_ratio": X, "alpha": 0.1} | change))
    assert caught.value.name == name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"alpha": 2.0}, "alpha"), ({"reward_new": R[:2]}, "reward_new"), ({"reward_new": R * 3}, "reward_new"),
        ({"baseline": -0.1}, "baseline"), ({"log_ratio_old": X}, "log_ratio_old, log_ratio_new"), ({"bound": "t"}, "bound"),
        ({"reward_old": R[:2]}, "reward_new"),
        ({"log_ratio_old": X, "log_ratio_new": X - math.inf}, "log_ratio_new"),
        ({"log_ratio_old": X + math.inf, "log_ratio_new": X}, "log_ratio_old"),
    ],
)  # fmt: skip
def test_bad_two_sample_input_is_named(change, name):
    with pytest.raises(InputError) as caught:
        fs.two_sample_certificate(**({"reward_old": R, "reward_new": R, "alpha": 0.1} | change))
    assert caught.value.name == name


# the simulation


def test_the_simulated_improvement_is_the_packages():
    from teamtr_jax.surrogates import evaluate_stage

    stage = s8._relay_stage(2, 0.3, 0.1)
    task, report = s8.problem("relay", stage), evaluate_stage(stage)
    assert task.improvement == pytest.approx(float(report.objective[1] - report.objective[0]), abs=1e-14)
    assert task.speaks == (0, 2)
    named = s8.relay("τ = 2", 2, 0.02, 0.7)
    assert named.objective(named.current) == pytest.approx(0.7)
    assert 2 * named.kl().max() == pytest.approx(0.02)


@pytest.mark.parametrize("make", [lambda rng: s8.garnet("g", rng, 0.3), lambda rng: s8.opening("o", 0.3)])
def test_rollouts_have_the_teams_law(make):
    rng = np.random.default_rng(1)
    task = make(rng)
    old, new = (s8.rollouts(task, rng, 100_000, 1, side) for side in (False, True))
    for data, policy in ((old, task.current), (new, task.new)):
        assert data.reward.mean() == pytest.approx(task.objective(policy), abs=5 * 0.5 / math.sqrt(100_000))
    bridge = fs.bridge_sample(old.reward, old.log_ratio, new.reward, new.log_ratio).values
    assert bridge.mean() == pytest.approx(task.improvement, abs=5 * bridge.std() / math.sqrt(100_000))
    if math.isfinite(task.ratio_range[1]):
        z = fs.path_sample(old.reward, old.log_ratio).values
        assert z.mean() == pytest.approx(task.improvement, abs=5 * z.std() / math.sqrt(100_000))
    # E log Λ = −KL(path), by the chain rule equal to the mean of Σ KL
    gap = (old.log_ratio + old.kl).sum(-1)
    assert gap.mean() == pytest.approx(0, abs=5 * gap.std() / math.sqrt(100_000) + 1e-12)


def test_clopper_pearson():
    low, high = s8.coverage_interval(np.array([0, 45, 50]), 50)
    assert (low[0], high[2]) == (0, 1)
    assert high[0] == pytest.approx(1 - 0.025 ** (1 / 50))  # the closed form at no success
    assert low[2] == pytest.approx(0.025 ** (1 / 50))
    assert (low[1], high[1]) == pytest.approx((0.7818639, 0.9667246), abs=1e-6)


def test_training_on_the_certifying_rollouts_loses_the_coverage():
    found = s8.same_data_coverage(np.random.default_rng(0), 300, 1_000, 0.1)
    assert s8.coverage_interval(*found["same rollouts"])[1] < 0.5
    assert s8.coverage_interval(*found["other rollouts"])[1] >= 0.9


def test_quick_run(tmp_path):
    row, data = s8.run(True, np.random.default_rng(0))
    assert (row.id, row.violations) == ("S8", 0)
    assert row.checks == sum(len(levels) for table in data.coverage.values() for levels in table.values())
    first = data.needed["relay, τ = 2, δ = .005"]
    reference, ours = first["message, Bernstein (S8)"], first["path, betting"]
    assert reference is None or (ours is not None and ours <= reference / 5)
    assert s8.finite_sample_figure(data, tmp_path / "s8.png").stat().st_size > 10_000
