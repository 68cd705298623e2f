"""U1: every update rule by its optimality conditions, against independent solvers, and at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq, minimize

from teamtr_jax.trust_region import (
    certificate_optimal,
    kl_constrained,
    kl_constrained_step,
    natural_gradient,
    ppo_clip,
    value_weighted,
    value_weighted_step,
)
from teamtr_jax.types import Estimate
from teamtr_jax.validation import InputError

DIRECTIONS = ("current_to_new", "new_to_current")
FORMS = [(direction, per_state) for direction in DIRECTIONS for per_state in (False, True)]
RADII = (1e-12, 1e-8, 1e-4, 0.01, 0.3, 2.0, 10.0, 50.0)
SEEDS = 48
R, A = 5, 4
DEEP = 1e-250  # ratios below this are where the step stops looking (600 nats)


@functools.cache
def solver(direction, per_state):
    step = functools.partial(kl_constrained_step, direction=direction, per_state=per_state)
    return jax.jit(jax.vmap(step))


@functools.cache
def one(direction, per_state):
    return jax.jit(functools.partial(kl_constrained_step, direction=direction, per_state=per_state))


step = one("current_to_new", False)


def problem(seed, S=3, A=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(A), S), rng.normal(size=(S, A)), rng.dirichlet(np.ones(S))


def hard(seed):
    """Peaked and flat rows, zeros, rows without weight, ties, a row without a better action, scales that differ."""
    rng = np.random.default_rng(seed)
    pi = rng.dirichlet(np.full(A, 10.0 ** rng.uniform(-1, 1)), R)
    adv = rng.normal(size=(R, A)) * 10.0 ** rng.uniform(-3, 3)
    w = rng.dirichlet(np.ones(R))
    if seed % 2:
        w *= 10.0 ** rng.uniform(-3, 1, R)
        adv *= 10.0 ** rng.uniform(-2, 2, (R, 1))
    if seed % 3 == 0:
        w[0], adv[1, :2], adv[2] = 0.0, adv[1].max(), 0.7
        pi[3, rng.permutation(A)[:2]] = 0.0
        adv[3, pi[3] == 0] = 1e6
    pi[pi < 1e-14] = 0.0
    return pi / pi.sum(-1, keepdims=True), adv, w


HARD = [np.stack(x) for x in zip(*(hard(seed) for seed in range(SEEDS)), strict=True)]


def kl(p, q):
    """Rows of KL(p‖q) with 0·log 0 = 0, summed in extended precision (small steps cancel)."""
    p, q = np.asarray(p, np.longdouble), np.asarray(q, np.longdouble)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(abs(p - q) < 0.5 * q, np.log1p((p - q) / q), np.log(p / q))
        terms = np.where(p > 0, p * ratio, 0) + (q - p)
    return terms.sum(-1).astype(float)


def divergence(direction, pi, new):
    return kl(pi, new) if direction == "current_to_new" else kl(new, pi)


def greedy_rows(pi, adv):
    best = np.where(pi > 0, adv, -np.inf).max(-1, keepdims=True)
    rows = np.where((adv == best) & (pi > 0), pi, 0)
    return rows / rows.sum(-1, keepdims=True)


def useful_rows(pi, adv, w):
    top, bottom = np.where(pi > 0, adv, -np.inf).max(-1), np.where(pi > 0, adv, np.inf).min(-1)
    return (w > 0) & (top > bottom)


def stationarity(direction, pi, adv, new, price):
    """Spread over each row's support of `A + λπ/π'` or `A − λ log(π'/π)`, relative to the largest term and λ: zero."""
    on = (pi > 0) & (new > 0)  # an action may underflow
    ratio = np.where(on, new / np.where(on, pi, 1), 1)
    price = np.asarray(price)[:, None]
    dual = price / ratio if direction == "current_to_new" else -price * np.log(ratio)
    level = adv + dual
    size = np.where(on, abs(adv) + abs(dual), 0).max(-1) + price[:, 0]
    return (np.where(on, level, -np.inf).max(-1) - np.where(on, level, np.inf).min(-1)) / size


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_karush_kuhn_tucker(direction, per_state, radius):
    """U1: feasibility, complementary slackness, stationarity with a nonnegative multiplier; what must stay stays."""
    pis, advs, ws = HARD
    news, infos = jax.tree.map(np.asarray, solver(direction, per_state)(pis, advs, ws, jnp.full(SEEDS, radius)))
    bound = free = 0
    for k in range(SEEDS):
        pi, adv, w, new = pis[k], advs[k], ws[k], news[k]
        useful = useful_rows(pi, adv, w)
        np.testing.assert_array_equal(new[~useful], pi[~useful])
        np.testing.assert_array_equal(new[pi == 0], 0)
        np.testing.assert_allclose(new.sum(-1), 1, atol=3e-15)
        spent = divergence(direction, pi, new)
        measured = spent[useful] if per_state else (w * np.where(useful, spent, 0)).sum()[None]
        assert (measured <= radius * (1 + 1e-9) + 1e-20).all()
        most = kl(greedy_rows(pi, adv), pi)
        if direction == "current_to_new":
            most = np.full(R, np.inf)
        room = most[useful] if per_state else (w * np.where(useful, most, 0)).sum()[None]
        binding = room > radius
        deep = np.where(pi > 0, new / np.where(pi > 0, pi, 1), 1)[useful].min(-1) < DEEP
        deep = deep if per_state else deep.any()[None]
        if direction == "current_to_new":
            binding &= ~deep
        free += (~binding).sum()
        bound += binding.sum()
        # rounding π' to double moves the KL of a step of size u by about π·u·1e-16, so by 1e-16/u relative
        tolerance = 1e-12 + 3e-16 / np.sqrt(radius)
        np.testing.assert_allclose(measured[binding], radius, rtol=tolerance)
        prices = np.full(R, float(infos.multiplier[k]))
        if per_state:
            assert infos.multiplier[k] >= 0
            for s, is_bound in zip(np.flatnonzero(useful), binding, strict=True):
                if is_bound:
                    prices[s] = fitted(direction, pi[s], adv[s], new[s])
        done = np.zeros(R, bool)
        done[useful] = binding
        done &= ~np.isnan(prices)
        wrong = stationarity(direction, pi, adv, np.where(done[:, None], new, pi), prices)
        assert (wrong[done] < 1e-10).all(), (k, wrong)
        if direction == "new_to_current":
            done[useful] = ~binding
            np.testing.assert_allclose(new[done], greedy_rows(pi, adv)[done], rtol=1e-14)
            assert per_state or binding.all() or infos.multiplier[k] == 0
    assert bound > SEEDS // 2 or free > SEEDS // 2


def fitted(direction, pi, adv, new):
    """`λ` of a row from its best and worst action; a NaN if only one has not underflowed."""
    on = np.flatnonzero((pi > 0) & (new > 0))
    i, j = on[adv[on].argmax()], on[adv[on].argmin()]
    if adv[i] == adv[j]:
        return np.nan
    if direction == "current_to_new":
        return (adv[i] - adv[j]) / (pi[j] / new[j] - pi[i] / new[i])
    return (adv[i] - adv[j]) / (np.log(new[i] / pi[i]) - np.log(new[j] / pi[j]))


@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_against_a_general_optimiser(direction, per_state):
    """SLSQP on logits, which knows nothing of the form of the solution."""
    pi, adv, w = problem(5)
    radius = 0.05

    def rows(x):
        z = np.exp(x.reshape(pi.shape))
        return z / z.sum(-1, keepdims=True)

    def slack(x):
        spent = divergence(direction, pi, rows(x))
        return radius - (spent if per_state else (w * spent).sum())

    found = minimize(
        lambda x: -(w[:, None] * (rows(x) - pi) * adv).sum(), np.log(pi).ravel(), method="SLSQP",
        constraints=[{"type": "ineq", "fun": slack}], options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    new, info = one(direction, per_state)(pi, adv, w, jnp.asarray(radius))
    assert abs(-found.fun - float(info.gain)) < 1e-6
    np.testing.assert_allclose(new, rows(found.x), atol=1e-4)


@pytest.mark.parametrize("radius", [1e-6, 0.1, 0.6, 5.0])
def test_two_actions_in_closed_form(radius):
    """`π = (½, ½)`, `A = ±α`: `ε = ½√(1 − e^{−2δ})`, `λ = α(1/(2ε) − 2ε)`; the other KL by a root of the entropy."""
    alpha = 0.7
    tables = jnp.array([[0.5, 0.5]]), jnp.array([[alpha, -alpha]]), jnp.array([1.0]), jnp.asarray(radius)
    new, info = step(*tables)
    eps = 0.5 * np.sqrt(-np.expm1(-2 * radius))
    np.testing.assert_allclose(new, [[0.5 + eps, 0.5 - eps]], rtol=1e-9 if radius == 5.0 else 1e-12)
    np.testing.assert_allclose(info.multiplier, alpha * (1 / (2 * eps) - 2 * eps), rtol=1e-8)
    np.testing.assert_allclose(info.gain, 2 * alpha * eps, rtol=1e-12)
    other, info = one("new_to_current", False)(*tables)
    if radius >= np.log(2):
        np.testing.assert_array_equal(other, [[1.0, 0.0]])
        assert float(info.multiplier) == 0
        assert float(info.kl) == np.inf
        np.testing.assert_allclose(info.kl_new_to_current, np.log(2), rtol=1e-15)
    else:

        def spent(x):
            return (0.5 + x) * np.log1p(2 * x) + (0.5 - x) * np.log1p(-2 * x) - radius

        eps = brentq(spent, 0, 0.5 - 1e-16, xtol=1e-16)
        np.testing.assert_allclose(other[0, 0], 0.5 + eps, rtol=1e-9)
        np.testing.assert_allclose(info.multiplier, 2 * alpha / np.log((0.5 + eps) / (0.5 - eps)), rtol=1e-8)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_multiplier_is_the_slope_of_the_gain(direction):
    """`L'(δ) = λ`, and `Σ w λ_s` for a radius common to all states."""
    pi, adv, w = problem(2)
    for per_state in (False, True):
        run = one(direction, per_state)
        (_, low), (_, here), (_, high) = (run(pi, adv, 3 * w, jnp.asarray(x)) for x in (0.0499, 0.05, 0.0501))
        np.testing.assert_allclose((high.gain - low.gain) / 2e-4, here.multiplier, rtol=1e-5)


def test_a_radius_for_each_state():
    pi, adv, w = problem(4)
    radius = np.array([1e-3, 0.2, 4.0])
    for direction in DIRECTIONS:
        new, _ = one(direction, True)(pi, adv, w, jnp.asarray(radius))
        spent = divergence(direction, pi, np.asarray(new))
        most = np.inf if direction == "current_to_new" else kl(greedy_rows(pi, adv), pi)
        np.testing.assert_allclose(spent, np.minimum(radius, most), rtol=1e-11)


@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_edges(direction, per_state):
    """Rows of weight zero, entries of probability zero, no better action, no radius, an infinite one."""
    pi, adv, w = problem(1)
    w[1] = 0.0
    pi[0, 2] = 0.0
    pi[0] /= pi[0].sum()
    run = one(direction, per_state)
    new, _ = run(pi, adv, w, jnp.asarray(0.1))
    np.testing.assert_array_equal(new[1], pi[1])
    assert float(new[0, 2]) == 0.0
    for tables in (
        (pi, np.ones_like(adv), w, jnp.asarray(0.1)),
        (pi, adv, w, jnp.asarray(0.0)),
        (pi, adv, 0 * w, jnp.asarray(0.1)),
    ):
        flat, info = run(*tables)
        np.testing.assert_array_equal(flat, pi)
        assert (float(info.kl), float(info.gain), float(info.multiplier)) == (0.0, 0.0, 0.0)
    new, info = run(pi, adv, w, jnp.asarray(np.inf))
    expected = np.where((w > 0)[:, None], greedy_rows(pi, adv), pi)
    np.testing.assert_allclose(new, expected, atol=1e-200 if direction == "new_to_current" else 1e-12)
    # what is not on the support is not read
    poisoned = np.where(pi > 0, adv, np.nan)
    poisoned[1] = np.inf
    np.testing.assert_array_equal(run(pi, poisoned, w, jnp.asarray(0.1))[0], run(pi, adv, w, jnp.asarray(0.1))[0])


@pytest.mark.parametrize("tiny", [1e-56, 1e-200, 1e-305])
def test_an_advantage_that_is_almost_nothing(tiny):
    """Its multiplier would be below the least number: as far as can be computed, in the right direction, never NaN."""
    current, advantage, nothing = np.array([[0.99, 0.01]]), np.array([[0.0, -tiny]]), jnp.zeros((1, 2))
    for weight in (1.0, 1e-30):
        new, info = step(current, advantage, np.array([weight]), 0.1, error=nothing)
        assert 0 <= new[0, 1] < 0.01
        np.testing.assert_allclose(new.sum(), 1.0, rtol=1e-15)
        assert 0 < info.kl <= 0.1 * (1 + 1e-12)


def test_unknown_direction():
    with pytest.raises(InputError, match="direction: found forward, expected 'current_to_new'"):
        kl_constrained(0.1, "forward")


# ------------------------------------------------------------------------------------------------- all steps as `Step`s

ALL = {
    "current_to_new": kl_constrained(0.02),
    "new_to_current_per_state": kl_constrained(0.02, "new_to_current", per_state=True),
    "natural_gradient": natural_gradient(0.02),
    "ppo": ppo_clip(0.02, epochs=12),
    "ppo_halving": ppo_clip(0.02, epochs=12, learning_rate=0.5, backtracks=8, clip=None, adaptive=False),
    "certificate": certificate_optimal(10.0),
    "value": value_weighted(),
}


def estimate(pi, adv, w):
    """The exact estimate of these tables."""
    mean = (pi * np.where(pi > 0, adv, 0)).sum(-1, keepdims=True)
    centred = np.where(pi > 0, adv - mean, 0)
    flow = w[:, None] * pi
    value = np.where(pi > 0, adv - np.where(pi > 0, adv, np.inf).min(-1, keepdims=True), 0.0) + 0.1
    return Estimate(*map(jnp.asarray, (w, adv, flow * np.maximum(centred, 0), flow * np.maximum(-centred, 0), value)))


def mild(seed):
    rng = np.random.default_rng(100 + seed)
    pi, w = rng.dirichlet(np.ones(A), R), rng.dirichlet(np.ones(R))
    pi[0, 1], w[2] = 0.0, 0.0
    return pi / pi.sum(-1, keepdims=True), rng.normal(size=(R, A)), w


MILD = [mild(seed) for seed in range(4)]
zero = jnp.asarray(0.0)


@functools.cache
def single(name):
    return jax.jit(ALL[name])


@pytest.mark.parametrize("name", ALL)
def test_what_every_step_keeps(name):
    """Rows of weight zero and entries of probability zero, exactly; the books; invariance to a constant per row."""
    for pi, adv, w in MILD:
        facts = estimate(pi, adv, w)
        new, info = single(name)(jnp.asarray(pi), facts, zero)
        new = np.asarray(new)
        np.testing.assert_array_equal(new[w == 0], pi[w == 0])
        np.testing.assert_array_equal(new[pi == 0], 0)
        np.testing.assert_allclose(new.sum(-1), 1, atol=1e-14)
        assert abs(new - pi).max() > 1e-3
        np.testing.assert_allclose(info.kl, (w * kl(pi, new)).sum(), rtol=1e-9)
        np.testing.assert_allclose(info.kl_new_to_current, (w * kl(new, pi)).sum(), rtol=1e-9)
        np.testing.assert_allclose(info.gain, (w[:, None] * (new - pi) * adv).sum(), rtol=1e-12)
        assert float(info.gain) > 0
        shifted = facts._replace(advantage=facts.advantage + 7.0 * jnp.arange(R)[:, None])
        again, other = single(name)(jnp.asarray(pi), shifted, zero)
        np.testing.assert_allclose(again, new, rtol=1e-9)
        np.testing.assert_allclose(other.gain, info.gain, rtol=1e-9)
        if name != "ppo" and name != "ppo_halving":
            assert float(info.objective) == float(info.gain)
            assert float(single(name)(jnp.asarray(pi), facts, jnp.asarray(0.3))[1].memory) == 0.3


@pytest.mark.parametrize("name", ALL)
def test_batched_like_single(name):
    facts = [estimate(*tables) for tables in MILD]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *facts)
    tables = jnp.stack([jnp.asarray(pi) for pi, _, _ in MILD])
    memory = jnp.arange(4.0)
    new, info = jax.jit(jax.vmap(ALL[name]))(tables, batch, memory)
    for k, own in enumerate(facts):
        alone, books = single(name)(tables[k], own, memory[k])
        np.testing.assert_allclose(new[k], alone, rtol=1e-11, atol=1e-15)
        for ours, theirs in zip(jax.tree.map(lambda x, k=k: x[k], info), books, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_float32_is_refused(name):
    pi, adv, w = MILD[0]
    with pytest.raises(InputError, match="current: found dtype float32"):
        ALL[name](jnp.asarray(pi, jnp.float32), estimate(pi, adv, w), zero)
    low = estimate(pi, adv, w)._replace(positive=jnp.zeros((R, A), jnp.float32))
    with pytest.raises(InputError, match="positive: found dtype float32"):
        ALL[name](jnp.asarray(pi), low, zero)


@functools.cache
def small_steps():
    """All rules with the radius, or the multiplier that belongs to it, as an argument."""

    def run(pi, facts, radius, price):
        rules = {
            "current_to_new": kl_constrained(radius),
            "new_to_current": kl_constrained(radius, "new_to_current"),
            "certificate": certificate_optimal(price),
            "value": value_weighted(),
            "natural": natural_gradient(radius),
        }
        return {name: rule(pi, facts, zero) for name, rule in rules.items()}

    return jax.jit(run)


@pytest.mark.parametrize("seed", range(4))
def test_small_steps_agree(seed):
    """As `δ → 0` both KL directions, the natural gradient and the certificate's step are `π(A − Ā)/λ`, with one `λ`."""
    pi, adv, w = MILD[seed]
    centred = adv - (pi * adv).sum(-1, keepdims=True)
    spread = (w * (pi * centred**2).sum(-1)).sum()
    first = np.where((w > 0)[:, None], pi * centred, 0)
    for radius in (1e-6, 1e-8):
        price = np.sqrt(spread / (2 * radius))
        facts = estimate(pi, adv, w)._replace(value=jnp.asarray(adv + price))  # v = Σπq is about λ
        for name, (new, info) in small_steps()(pi, facts, radius, price).items():
            moved = (np.asarray(new) - pi) * price
            if name == "natural":  # the line search may have shortened it, once
                scale = price / float(info.multiplier)
                assert min(abs(scale - 1), abs(scale - 0.8)) < 1e-9
                moved /= scale
            assert abs(moved - first).max() < 50 * np.sqrt(radius), (name, radius)


# ------------------------------------------------------------------------------------------------------ natural gradient


@functools.cache
def natural_rule(backtracks=60):
    return jax.jit(lambda pi, facts, radius: natural_gradient(radius, backtracks=backtracks)(pi, facts, zero))


@pytest.mark.parametrize("seed", range(3))
def test_natural_gradient_by_the_fisher_matrix(seed):
    """`F⁺g` with the explicit Fisher matrix of all logits is `Â` up to a constant per row; `gᵀF⁺g = Σ w Var Â`."""
    pi, adv, w = problem(seed)
    fisher = np.zeros((pi.size, pi.size))
    gradient = np.zeros(pi.size)
    for s, (row, weight) in enumerate(zip(pi, w, strict=True)):
        block = slice(s * 4, s * 4 + 4)
        score = np.eye(4) - row  # ∇ log π(a) in row a
        fisher[block, block] = weight * sum(p * np.outer(x, x) for p, x in zip(row, score, strict=True))
        gradient[block] = weight * sum(p * q * x for p, q, x in zip(row, adv[s], score, strict=True))
    direction = np.linalg.pinv(fisher, rcond=1e-12) @ gradient
    radius = 1e-3
    size = np.sqrt(2 * radius / (gradient @ direction))
    logits = np.log(pi) + size * direction.reshape(pi.shape)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    if (w * kl(pi, expected)).sum() > radius:
        logits = np.log(pi) + 0.8 * size * direction.reshape(pi.shape)
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    new, info = natural_rule()(pi, estimate(pi, adv, w), radius)
    np.testing.assert_allclose(new, expected, rtol=1e-9)
    assert 0.6 * radius < float(info.kl) <= radius


@pytest.mark.parametrize("radius", [1e-8, 0.1, 3.0, 50.0])
def test_natural_gradient_line_search(radius):
    rule = natural_rule()
    shrunk = 0
    for seed in range(12):
        pi, adv, w = hard(2 * seed)
        useful = useful_rows(pi, adv, w)
        new, info = rule(pi, estimate(pi, adv, w), radius)
        assert 0 < (w * kl(pi, np.asarray(new))).sum() <= radius * (1 + 1e-9)
        assert float(info.gain) > 0
        np.testing.assert_array_equal(new[~useful], pi[~useful])
        mean = (pi * np.where(pi > 0, adv, 0)).sum(-1, keepdims=True)
        spread = (w * (pi * np.where(pi > 0, adv - mean, 0) ** 2).sum(-1)).sum()
        eta = 1 / float(info.multiplier)
        steps = np.log(eta / np.sqrt(2 * radius / spread)) / np.log(0.8)
        assert abs(steps - round(steps)) < 1e-6
        shrunk += round(steps) > 0
    assert shrunk > 0 or radius > 1
    flat, info = rule(pi, estimate(pi, np.ones_like(adv), w), radius)
    np.testing.assert_array_equal(flat, pi)
    assert float(info.multiplier) == 0


def test_natural_gradient_gives_up():
    """The quadratic model underrates the KL of a rare best action; with no backtracks left nothing moves."""
    pi, adv = np.array([[1e-3, 0.999]]), np.array([[1.0, 0.0]])
    facts = estimate(pi, adv, np.ones(1))
    stuck, info = natural_rule(1)(pi, facts, 0.5)
    np.testing.assert_array_equal(stuck, pi)
    assert float(info.multiplier) == 0
    moved, info = natural_rule()(pi, facts, 0.5)
    assert 0.1 < float(info.kl) <= 0.5
    assert float(moved[0, 0]) > 0.1


# -------------------------------------------------------------------------------------------- closed forms: S7, S9


def test_certificate_optimal_is_the_step_at_that_multiplier():
    """The step at `λ = ϱ` spends the radius at which the exact step has this multiplier, and no radius certifies more."""
    pi, adv, w = MILD[1]
    facts = estimate(pi, adv, w)
    price = 3.0
    rule = jax.jit(certificate_optimal(price))
    new, info = rule(jnp.asarray(pi), facts, zero)
    same, at = step(jnp.asarray(pi), facts.advantage, facts.weight, info.kl)
    np.testing.assert_allclose(same, new, rtol=1e-8)
    np.testing.assert_allclose(at.multiplier, price, rtol=1e-7)
    certified = float(info.gain - price * info.kl)
    assert certified > 0
    for radius in np.geomspace(1e-6, 1.0, 25):
        _, other = step(jnp.asarray(pi), facts.advantage, facts.weight, jnp.asarray(radius))
        assert float(other.gain - price * other.kl) <= certified + 1e-14
    # occupancy or visits: the same table
    twice, _ = rule(jnp.asarray(pi), facts._replace(weight=10 * facts.weight), zero)
    np.testing.assert_allclose(twice, new, rtol=1e-14)


def test_value_weighted_uses_the_value():
    pi, adv, w = MILD[2]
    facts = estimate(pi, adv, w)
    new, _ = value_weighted()(jnp.asarray(pi), facts, zero)
    expected = pi * np.asarray(facts.value)
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(new[w > 0], expected[w > 0], rtol=1e-14)
    everywhere = value_weighted_step(jnp.asarray(pi), facts.value)
    assert abs(np.asarray(everywhere)[2] - pi[2]).max() > 1e-3


# ------------------------------------------------------------------------------------------------------------------ PPO


def reference_ppo(pi, facts, radius, clip, epochs, rate, beta):
    """PPO written out: log-probabilities as parameters, gradient by hand, one optimiser state, all iterates kept."""
    weight, positive, negative = (np.asarray(x) for x in (facts.weight, facts.positive, facts.negative))
    on = (pi > 0) & (weight > 0)[:, None]
    logits = np.where(on, np.log(np.where(on, pi, 1)), -np.inf)
    optimiser = optax.adam(rate)
    state = optimiser.init(jnp.zeros(pi.shape))
    kept = pi
    kls = []
    for _ in range(epochs):
        z = np.where(on, np.exp(logits - np.where(on.any(-1, keepdims=True), logits.max(-1, keepdims=True), 0)), 0)
        new = np.where(on, z / np.where(on.any(-1, keepdims=True), z.sum(-1, keepdims=True), 1), pi)
        ratio = np.where(on, new / np.where(on, pi, 1), 1)
        per_ratio = positive * (ratio <= 1 + clip) - negative * (ratio >= 1 - clip)
        at_start = ratio == 1
        per_ratio = np.where(at_start, positive - negative, per_ratio)
        outer = np.where(on, per_ratio * ratio, 0)
        ascent = outer - new * outer.sum(-1, keepdims=True) - beta * weight[:, None] * np.where(on, new - pi, 0)
        change, state = optimiser.update(jnp.asarray(-np.where(on, ascent, 0)), state)
        logits = logits + np.asarray(change)
        z = np.where(on, np.exp(logits - np.where(on.any(-1, keepdims=True), logits.max(-1, keepdims=True), 0)), 0)
        new = np.where(on, z / np.where(on.any(-1, keepdims=True), z.sum(-1, keepdims=True), 1), pi)
        kls.append((weight * kl(pi, new)).sum())
        if kls[-1] > radius:
            break
        kept = new
    return kept, kls


@pytest.mark.parametrize(("radius", "rate"), [(0.02, 0.05), (1e-3, 0.01), (np.inf, 0.05), (1e-9, 0.05)])
def test_ppo_is_the_last_iterate_inside_the_radius(radius, rate):
    for pi, adv, w in MILD[:2]:
        facts = estimate(pi, adv, w)
        rule = ppo_clip(radius, epochs=25, learning_rate=rate, beta=0.5, target=0.01)
        new, info = jax.jit(rule)(jnp.asarray(pi), facts, zero)
        expected, kls = reference_ppo(pi, facts, radius, 0.2, 25, rate, 0.5)
        np.testing.assert_allclose(new, expected, rtol=1e-7)
        assert float(info.kl) <= radius
        assert (kls[-1] > radius) == (radius < 1)
        if radius == 1e-9:
            np.testing.assert_array_equal(new, pi)


def test_ppo_halves_the_step_that_left_the_region():
    halving = jax.jit(ppo_clip(1e-3, learning_rate=0.5, backtracks=10))
    for pi, adv, w in MILD:
        facts = estimate(pi, adv, w)
        assert reference_ppo(pi, facts, 1e-3, 0.2, 1, 0.5, 1.0)[1][0] > 1e-3
        _, info = halving(jnp.asarray(pi), facts, zero)
        assert 1e-4 < float(info.kl) <= 1e-3


def test_ppo_clip_matters():
    """Nothing is gained by a ratio beyond the clip; without it, ratios go on."""
    pi, adv, w = MILD[0]
    facts = estimate(pi, adv, w)
    settings = {"epochs": 150, "adaptive": False, "beta": 0.0}
    sgd = optax.sgd(5.0)
    clipped, info = ppo_clip(np.inf, 0.1, optimiser=sgd, **settings)(jnp.asarray(pi), facts, zero)
    free, other = ppo_clip(np.inf, None, optimiser=sgd, **settings)(jnp.asarray(pi), facts, zero)
    assert 0 < float(info.objective) <= 0.1 * float((facts.positive + facts.negative).sum()) * (1 + 1e-12)
    assert float(info.kl) < 0.1 * float(other.kl)
    np.testing.assert_allclose(other.objective, other.gain, rtol=1e-10)
    ratio = np.where(pi > 0, np.asarray(clipped) / np.where(pi > 0, pi, 1), 1)
    value = np.minimum(ratio, 1.1) * facts.positive - np.maximum(ratio, 0.9) * facts.negative
    np.testing.assert_allclose(info.objective, (value - facts.positive + facts.negative).sum(), rtol=1e-10)
    assert float(info.objective) < float(info.gain)
    assert float(other.gain) > 2 * float(info.gain)
    np.testing.assert_array_equal(free[2], pi[2])


def test_ppo_coefficient_adapts():
    """Doubled above 1.5 targets, halved below 1/1.5, kept between; remembered; zero memory means the first value."""
    pi, adv, w = MILD[0]
    facts = estimate(pi, adv, w)
    start_of = jnp.asarray(pi)
    step = jax.jit(lambda rule, memory: rule(start_of, facts, memory)[1])  # settings are leaves: few programs
    reached = float(step(ppo_clip(np.inf, target=1.0, epochs=8), zero).kl)
    for target, factor in ((reached / 1.6, 2.0), (reached / 1.4, 1.0), (reached * 1.6, 0.5)):
        for memory, start in ((0.0, 1.0), (1.0, 1.0)):
            info = step(ppo_clip(np.inf, target=target, epochs=8), jnp.asarray(memory))
            assert (float(info.multiplier), float(info.memory)) == (start, factor)
    # a penalty that grows brings the KL down
    memory = zero
    for _ in range(12):
        info = step(ppo_clip(np.inf, target=reached / 3, epochs=8), memory)
        memory = info.memory
    assert float(info.kl) < 0.6 * reached
    assert float(info.multiplier) > 1
    # a stop counts with the KL that made it stop, unless the first epoch, which knows no penalty, was one too many
    info = step(ppo_clip(1e-5, epochs=8), zero)
    assert (float(info.kl), float(info.memory)) == (0.0, 1.0)
    info = step(ppo_clip(reached / 3, epochs=8), zero)
    assert 0 < float(info.kl) <= reached / 3
    assert float(info.memory) == 2.0
    info = step(ppo_clip(np.inf, epochs=8, adaptive=False, beta=3.0), jnp.asarray(0.7))
    assert (float(info.multiplier), float(info.memory)) == (3.0, 0.7)
    # the coefficient never leaves 2^±20 of its start
    info = step(ppo_clip(np.inf, target=1e9), jnp.asarray(2.0**-20))
    assert float(info.memory) == 2.0**-20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": np.inf}, "target: found inf, expected a positive number"),
        ({"radius": 0.1, "beta": 0.0}, "beta: found 0.0, expected a positive number"),
        ({"radius": 0.1, "clip": -0.1}, "clip: found -0.1, expected at least 0"),
        ({"radius": 0.1, "epochs": -1}, "epochs: found -1, expected at least 0"),
    ],
)
def test_bad_settings_of_ppo(settings, message):
    with pytest.raises(InputError, match=message):
        ppo_clip(**settings)
