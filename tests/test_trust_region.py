"""U1: the exact KL-constrained step, against a general-purpose optimiser and by its optimality conditions; the driver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from teamtr_jax.schedules import every, fresh, once
from teamtr_jax.stage import Backend, exact_backend, run_stage
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.teams import random_stages
from teamtr_jax.trust_region import kl_constrained_step
from teamtr_jax.types import Stage
from teamtr_jax.validation import InputError

step = jax.jit(kl_constrained_step)


def problem(seed, S=3, A=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(A), S), rng.normal(size=(S, A)), rng.dirichlet(np.ones(S))


@pytest.mark.parametrize("radius", [1e-4, 0.01, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_constraint_and_optimality(seed, radius):
    """The constraint is met with equality and `π'(ν − A)/π = λ` holds with one λ for all states (stationarity)."""
    pi, A, w = problem(seed)
    new, info = step(pi, A, w, jnp.asarray(radius))
    np.testing.assert_allclose(info.kl, radius, rtol=1e-9)
    np.testing.assert_allclose(new.sum(-1), 1, atol=1e-14)
    # λπ/π' + A = ν_s: fit λ, ν by differences between actions of one state
    ratio = pi / np.asarray(new)
    multipliers = -(A[:, 1:] - A[:, :1]) / (ratio[:, 1:] - ratio[:, :1])
    np.testing.assert_allclose(multipliers, float(info.multiplier), rtol=1e-5)
    np.testing.assert_allclose(info.gain, (w[:, None] * (np.asarray(new) - pi) * A).sum(), rtol=1e-12)


def test_against_a_general_optimiser():
    pi, A, w = problem(5)
    _, info = step(pi, A, w, jnp.asarray(0.05))

    def rows(x):
        z = np.exp(x.reshape(pi.shape))
        return z / z.sum(-1, keepdims=True)

    found = minimize(
        lambda x: -(w[:, None] * (rows(x) - pi) * A).sum(), np.log(pi).ravel(), method="SLSQP",
        constraints=[{"type": "ineq", "fun": lambda x: 0.05 - (w[:, None] * pi * np.log(pi / rows(x))).sum()}],
        options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    assert abs(-found.fun - float(info.gain)) < 1e-6


def test_what_stays():
    """Rows of weight zero, entries of probability zero, and everything when no action is better."""
    pi, A, w = problem(1)
    w[1] = 0.0
    pi[0, 2], pi[0] = 0.0, pi[0] / (1 - pi[0, 2])
    pi[0, 2] = 0.0
    pi[0] /= pi[0].sum()
    new, _ = step(pi, A, w, jnp.asarray(0.1))
    np.testing.assert_array_equal(new[1], pi[1])
    assert float(new[0, 2]) == 0.0
    flat, info = step(pi, np.ones_like(A), w, jnp.asarray(0.1))
    np.testing.assert_array_equal(flat, pi)
    assert (float(info.kl), float(info.gain), float(info.multiplier)) == (0.0, 0.0, 0.0)


def test_float32_is_refused():
    pi, A, w = (jnp.asarray(x, jnp.float32) for x in problem(0))
    with pytest.raises(InputError, match="current: found dtype float32"):
        kl_constrained_step(pi, A, w, jnp.asarray(0.1))


@pytest.fixture(scope="module")
def one():
    stages = random_stages(np.random.default_rng(0), 1, 6, 3, 3, discount=0.9)
    return jax.tree.map(lambda x: x[0], stages)


def test_fresh_stage_improves_every_update_and_books_it(one):
    """The driver's records say what the exact report of the finished stage says."""
    order = [2, 0, 1]
    target, records = run_stage(exact_backend(one.team, 0.01), one.current, order)
    report = evaluate_stage(Stage(one.team, one.current, target, jnp.asarray(order)))
    assert [r.agent for r in records] == order
    assert [r.update for r in records] == [0, 1, 2]
    assert all(r.resampled for r in records)
    np.testing.assert_allclose([r.kl for r in records], report.kl, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose([r.surrogate for r in records], report.surrogate_intermediate, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose([r.objective_before for r in records], report.objective[:-1], rtol=1e-12)


def test_stale_stage_is_the_cached_surrogate(one):
    """`once` optimises what theory.md calls cached: d⁰ and A⁰; its KL is δ⁰."""
    target, records = run_stage(exact_backend(one.team, 0.01), one.current, [0, 1, 2], once)
    report = evaluate_stage(Stage(one.team, one.current, target, jnp.arange(3)))
    assert [r.resampled for r in records] == [True, False, False]
    np.testing.assert_allclose([r.surrogate for r in records], report.surrogate_cached, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose([r.kl for r in records], report.kl_stale, rtol=1e-10, atol=1e-14)


def counting_backend():
    """Counts its rollouts; the policy is the list of agents updated so far."""
    return Backend(
        rollout=lambda policy, key: len(policy),
        estimate=lambda policy, data, agent: data,
        update=lambda policy, data, agent: (
            [*policy, agent],
            {"surrogate": 0.0, "kl": 0.0, "objective_before": float(data)},
        ),
    )


@pytest.mark.parametrize(
    ("schedule", "seen"),
    [(fresh, [0, 1, 2, 3, 4]), (once, [0] * 5), (every(2), [0, 0, 2, 2, 4]), (every(3), [0, 0, 0, 3, 3])],
)
def test_schedules(schedule, seen):
    """Which update sees rollouts of which team, for any backend."""
    policy, records = run_stage(counting_backend(), [], [4, 3, 2, 1, 0], schedule, stage=7)
    assert policy == [4, 3, 2, 1, 0]
    assert [r.objective_before for r in records] == seen
    assert {r.stage for r in records} == {7}


def test_a_schedule_may_read_the_records():
    _, records = run_stage(counting_backend(), [], [0, 1, 2, 3], lambda i, done: len(done) == 2)
    assert [r.resampled for r in records] == [True, False, True, False]


def test_keys_are_split_for_each_rollout():
    keys = []
    backend = counting_backend()._replace(
        rollout=lambda policy, key: keys.append(jax.random.key_data(key).tolist()) or 0
    )
    run_stage(backend, [], [0, 1, 2], fresh, key=jax.random.key(0))
    assert len({tuple(key) for key in keys}) == 3


def test_bad_driver_input(one):
    with pytest.raises(InputError, match=r"order: found \[0, 0, 1\], expected a permutation"):
        run_stage(counting_backend(), [], [0, 0, 1])
    with pytest.raises(InputError, match="k: found 0, expected at least 1"):
        every(0)
