"""Worlds known by successor lists, solved on the host (`teamtr_jax.dynamics.sparse`), against dense solves and each other."""

from dataclasses import replace
from fractions import Fraction

import builders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from builders import as_stage, discounted_world, turn_taking

from teamtr_jax.dynamics import Dense, SparseResolvent, Successors, sparse
from teamtr_jax.surrogates import evaluation_errors, hybrid_evaluations
from teamtr_jax.validation import InputError

WAYS = {"direct": 10**12, "iterated": -1}
"""By the work limit."""


@pytest.fixture(params=sorted(WAYS))
def way(request, monkeypatch):
    """Both ways of solving, nothing kept from before."""
    monkeypatch.setattr(sparse, "WORK_LIMIT", WAYS[request.param])
    forget()
    yield request.param
    forget()


def forget():
    sparse._POLICIES.clear()
    sparse._ORDERS.clear()


def lists(rng, S, K, gamma, zeros=0.3):
    """Random successors, some repeated, some with probability zero."""
    weight = builders.rows(rng, S, K, zeros=zeros)
    return rng.integers(S, size=(S, K)), weight, gamma


def dense(index, weight, gamma):
    out = np.eye(len(index))
    np.add.at(out, (np.arange(len(index))[:, None], index), -gamma * weight)
    return out


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
def test_solves(way, gamma):
    """One and several right sides, both ways round, against LAPACK; the support against powers of the graph."""
    rng = np.random.default_rng(0)
    for S in (1, 7, 60):
        index, weight, gamma = lists(rng, S, 3, gamma)
        matrix = dense(index, weight, gamma)
        b = rng.normal(size=(2, 3, S))
        start = np.where(rng.random(S) < 0.1, 1.0, 0.0)

        @jax.jit
        def solved(b, start, index=index, weight=weight, gamma=gamma):
            r = sparse.sparse_resolvent(jnp.asarray(index), jnp.asarray(weight), jnp.asarray(gamma))
            twice = [jax.vmap(jax.vmap(f))(b) for f in (r.values, r.visits)]
            return *twice, r.values(b[0, 0]), r.reached(start)

        values, visits, one, reached = map(np.asarray, solved(jnp.asarray(b), jnp.asarray(start)))
        np.testing.assert_allclose(values, np.linalg.solve(matrix, b[..., None])[..., 0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(visits, np.linalg.solve(matrix.T, b[..., None])[..., 0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(one, values[0, 0], rtol=1e-10, atol=1e-10)
        paths = np.linalg.matrix_power(np.eye(S) + (matrix < 0), S) > 0
        paths |= np.eye(S, dtype=bool)
        np.testing.assert_array_equal(reached, start @ paths > 0)
        assert (sparse._POLICIES[next(iter(sparse._POLICIES))].factors is None) == (way == "iterated")


def test_batches_of_matrices_and_of_right_sides(way):
    """`vmap` over matrices, over right sides, over both in either order, and over the discount alone."""
    rng = np.random.default_rng(1)
    worlds = [lists(rng, 9, 3, g) for g in (0.5, 0.9)]
    index, weight, gamma = (jnp.stack([jnp.asarray(w[k]) for w in worlds]) for k in range(3))
    b = jnp.asarray(rng.normal(size=(2, 4, 9)))

    def visits(index, weight, gamma, b):
        return sparse.sparse_resolvent(index, weight, gamma).visits(b)

    truth = np.stack([np.linalg.solve(dense(*w).T, x.T).T for w, x in zip(worlds, np.asarray(b), strict=True)])
    inner = jax.vmap(visits, (None, None, None, 0))
    np.testing.assert_allclose(jax.jit(jax.vmap(inner))(index, weight, gamma, b), truth, rtol=1e-10)
    outer = jax.vmap(jax.vmap(visits), (None, None, None, 1), 1)
    np.testing.assert_allclose(jax.jit(outer)(index, weight, gamma, b), truth, rtol=1e-10)
    alone = jax.vmap(visits, (None, None, 0, None))(index[0], weight[0], gamma, b[0, 0])
    for x, g in zip(alone, np.asarray(gamma), strict=True):
        np.testing.assert_allclose(x, np.linalg.solve(dense(*worlds[0][:2], g).T, b[0, 0]), rtol=1e-10)


def stages(gamma=0.95):
    """A stage of sparse support as successor lists solved on the host, and as a dense one."""
    case = turn_taking(np.random.default_rng(2), discounted_world(np.random.default_rng(3), 20, 2, gamma, 0.8), 3)
    return as_stage(case, builders.successors(case.world, lu_states=0)), as_stage(case)


def test_hybrids_and_their_error_bounds(way):
    """Those of the dense stage, zeros exactly; and within the bounds that the residuals give of a solve in rationals."""
    ours, other = stages()
    m, v = hybrid_evaluations(ours)
    for x, y in zip((m, v), hybrid_evaluations(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
        np.testing.assert_array_equal(np.asarray(x) == 0, np.asarray(y) == 0)
    found = evaluation_errors(ours, m, v)
    for x, y in zip(found, evaluation_errors(other, m, v), strict=True):
        np.testing.assert_allclose(x, y, rtol=0.5)
    assert max(float(x.max()) for x in found) < 1e-9


def rational(matrix, b):
    """Gauss–Jordan in fractions."""
    rows = [[*map(Fraction, row), Fraction(x)] for row, x in zip(matrix.tolist(), b.tolist(), strict=True)]
    for i in range(len(rows)):
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(len(rows)):
            if j != i:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


@pytest.mark.parametrize("wrong", [0.0, 1e-9, 1e-3])
def test_error_bounds_hold_and_are_not_idle(wrong):
    """Answers that are off on purpose: the true error, in fractions, is below the bound, and not far below it.

    All numbers are dyadic, so the matrix is the same in floats and fractions. An error of one sign everywhere at states that
    do not leak is `(1−γ)` of its residual: there the bound on values is attained.
    """
    S, gamma = 6, 0.5
    rng = np.random.default_rng(4)
    index = rng.integers(S, size=(S, 1, 2))
    world = Successors(jnp.asarray(index), jnp.full((S, 1, 2), 0.5), jnp.asarray(gamma), lu_states=0)
    case = turn_taking(rng, discounted_world(rng, S, 1, gamma), 2)
    stage = as_stage(case, world)
    team = replace(stage.team, reward=jnp.asarray(rng.integers(9, size=(S, 1)) / 8), initial=jnp.asarray(np.eye(S)[0]))
    stage = replace(stage, team=team)
    m, v = (np.asarray(x) + wrong for x in hybrid_evaluations(stage))
    bounds = evaluation_errors(stage, jnp.asarray(m), jnp.asarray(v))
    matrix = dense(index[:, 0], np.full((S, 2), 0.5), gamma)
    values = rational(matrix, np.asarray(stage.team.reward)[:, 0])
    visits = rational(matrix.T, np.asarray(stage.team.initial))
    for i in range(m.shape[0]):
        error = sum(abs(Fraction(float(x)) - y) for x, y in zip(m[i], visits, strict=True))
        assert error <= Fraction(float(bounds[0][i]))
        worst = max(abs(Fraction(float(x)) - y) for x, y in zip(v[i], values, strict=True))
        assert worst <= Fraction(float(bounds[1][i]))
        if wrong:
            assert bounds[1][i] <= (1 + 1e-4) * float(worst)


def test_arguments_of_the_bounds():
    stage, _ = stages()
    m, v = hybrid_evaluations(stage)
    with pytest.raises(InputError, match="m: found shape"):
        evaluation_errors(stage, m[:-1], v[:-1])
    with pytest.raises(InputError, match="v: found dtype float32"):
        evaluation_errors(stage, m, v.astype(jnp.float32))


def test_no_answer_without_its_residual(monkeypatch):
    """Steps that lead nowhere, factors that are off, a right side that is no number: the message says what was reached."""
    index, weight, gamma = lists(np.random.default_rng(5), 30, 3, 0.9)
    forget()

    def solve(b):
        return sparse.sparse_resolvent(jnp.asarray(index), jnp.asarray(weight), jnp.asarray(gamma)).values(b)

    with pytest.raises(
        jax.errors.JaxRuntimeError, match=r"ArithmeticError: values of 30 states.*found a residual of nan"
    ):
        jax.block_until_ready(solve(jnp.full(30, jnp.nan)))
    policy = next(iter(sparse._POLICIES.values()))
    policy.matrix.data[policy.matrix.data < 0] *= 1 + 2e-13  # no longer what was factored: 1.8e-12 beside values of 10
    limit = f"{8 * (30 + 2) * 2.0**-53 * 10:.1e}"
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"found a residual of 1\.\de-12, expected at most {limit};"):
        jax.block_until_ready(solve(jnp.ones(30)))
    forget()
    monkeypatch.setattr(sparse, "WORK_LIMIT", -1)
    monkeypatch.setattr(sparse, "STARTS", 1)
    monkeypatch.setattr(sparse, "ITERATIONS", 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="expected at most"):
        jax.block_until_ready(solve(jnp.asarray(np.random.default_rng(6).normal(size=30))))
    forget()


def test_policies_of_one_pattern_share_an_order():
    """Another policy is factored in the order kept, with the same numbers as in its own; and what is kept is bounded."""
    rng = np.random.default_rng(7)
    index, weight, gamma = lists(rng, 50, 3, 0.9, zeros=0.0)
    forget()
    for _ in range(4):
        weight = rng.dirichlet(np.ones(3), 50)
        r = sparse.sparse_resolvent(jnp.asarray(index), jnp.asarray(weight), jnp.asarray(gamma))
        b = rng.normal(size=50)
        np.testing.assert_allclose(
            r.visits(jnp.asarray(b)), np.linalg.solve(dense(index, weight, gamma).T, b), rtol=1e-9
        )
    assert len(sparse._ORDERS) == 1
    assert len(sparse._POLICIES) == 2
    assert all(isinstance(policy.rows, np.ndarray) for policy in sparse._POLICIES.values())
    forget()


def test_large_policies_leave_one_another_no_room(monkeypatch):
    monkeypatch.setattr(sparse, "KEPT_STATES", 15)
    forget()
    for S, kept in ((10, 1), (10, 1), (5, 2), (20, 1)):
        index, weight, gamma = lists(np.random.default_rng(S), S, 2, 0.9)
        weight = np.random.default_rng(len(sparse._POLICIES) + S).dirichlet(np.ones(2), S)
        sparse.sparse_resolvent(jnp.asarray(index), jnp.asarray(weight), jnp.asarray(gamma)).values(jnp.ones(S))
        assert len(sparse._POLICIES) == kept
    forget()


def test_work_of_a_band():
    """A line has half-width 1 in its own order, however its states are called; a clique of S has (S−1)/2."""
    S = 20000
    names = np.random.default_rng(8).permutation(S)
    line = np.full(S - 1, -0.5)
    matrix = scipy.sparse.diags_array([np.ones(S), line], offsets=[0, 1]).tocsr()[names][:, names]
    assert sparse._work(scipy.sparse.csr_array(matrix)) == pytest.approx(S, rel=1e-3)
    small = scipy.sparse.csr_array(np.ones((9, 9)))
    assert sparse._work(small) == 0


def test_gradient(way):
    """In the policy, through both solves, against the dense world."""
    ours, other = stages()

    def objective(policy, world, team):
        r = world.resolvent(policy)
        return (r.values((policy * team.reward).sum(-1)) * r.visits(team.initial)).sum()

    gradients = [jax.jit(jax.grad(objective))(s.current, s.team.dynamics, s.team) for s in (ours, other)]
    assert isinstance(ours.team.dynamics.resolvent(ours.current), SparseResolvent)
    assert isinstance(other.team.dynamics, Dense)
    np.testing.assert_allclose(*gradients, rtol=1e-8, atol=1e-9)
