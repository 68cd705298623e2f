"""U3: the newcomer projected onto a KL ball around the outgoing agent: optimality, closed forms, zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from teamtr_jax.divergences import kl_current_to_new
from teamtr_jax.trust_region import align_to_ball
from teamtr_jax.validation import InputError

DIRECTIONS = ("current_to_new", "new_to_current")
FORMS = [(direction, per_state) for direction in DIRECTIONS for per_state in (False, True)]
SEEDS, R, A = 40, 4, 5
RADII = (1e-12, 1e-6, 0.01, 0.5, 5.0, 50.0)


@functools.cache
def aligner(direction, per_state):
    def run(outgoing, newcomer, weight, radius):
        return align_to_ball(outgoing, newcomer, weight, radius, direction, per_state)

    return jax.jit(run), jax.jit(jax.vmap(run))


def instance(seed):
    """Peaked rows; every third pair drops and adds actions, every second has a row without visits."""
    rng = np.random.default_rng(seed)
    out, new = rng.dirichlet(np.full(A, 10.0 ** rng.uniform(-0.7, 1)), (2, R))
    if seed % 3 == 0:
        new[0, :2], out[1, 1:3] = 0.0, 0.0
    if seed % 5 == 0:
        new[2] = out[2]
    w = rng.dirichlet(np.ones(R)) * 10.0 ** rng.uniform(-1, 1)
    w[3] *= seed % 2
    out, new = (np.where(x < 1e-12, 0, x) for x in (out, new))
    return out / out.sum(-1, keepdims=True), new / new.sum(-1, keepdims=True), w


CASES = [np.stack(x) for x in zip(*(instance(seed) for seed in range(SEEDS)), strict=True)]


def kl(p, q):
    return np.asarray(kl_current_to_new(jnp.asarray(p), jnp.asarray(q)))


def total(w, x):
    return (w * np.where(w > 0, x, 0)).sum() if not np.isinf(x[w > 0]).any() else np.inf


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_karush_kuhn_tucker(direction, per_state, radius):
    """U3: inside the ball; slack only at `t = 0`; the mixture of the theorem with one `t`, or one for each row."""
    outs, news, ws = CASES
    aligned, infos = jax.tree.map(np.asarray, aligner(direction, per_state)[1](outs, news, ws, jnp.full(SEEDS, radius)))
    bound = 0
    for k in range(SEEDS):
        out, new, w, got, t = outs[k], news[k], ws[k], aligned[k], infos.mixture[k]
        forward = direction == "current_to_new"
        spent = kl(out, got) if forward else kl(got, out)
        measured = spent if per_state else np.array([total(w, spent)])
        feasible = infos.feasible[k]
        shared = (out > 0) & (new > 0)
        with np.errstate(divide="ignore"):
            least = np.zeros(R) if forward else -np.log1p(-np.where(shared, 0, out).sum(-1))
        possible = least <= radius if per_state else np.full(R, total(w, least) <= radius)
        np.testing.assert_array_equal(feasible, possible)
        np.testing.assert_array_equal(got[~feasible], out[~feasible])
        if not feasible.any():
            continue
        tight = feasible & (t > 1e-290)  # the least weight looked at is e^−700
        checked = measured[tight] if per_state else measured
        assert (measured <= radius * (1 + 1e-9)).all() or not feasible.all()
        if tight.any():
            bound += 1
            np.testing.assert_allclose(checked, radius, rtol=1e-11 + 5e-16 / np.sqrt(radius))
        rows = feasible[:, None]
        if forward:
            mixed = (1 - t)[:, None] * new + t[:, None] * out
        else:
            mixed = np.where(
                shared, np.where(shared, new, 1) ** (1 - t)[:, None] * np.where(shared, out, 1) ** t[:, None], 0
            )
            mixed /= np.where(rows, mixed.sum(-1, keepdims=True), 1)
        np.testing.assert_allclose(np.where(rows, got, 0), np.where(rows, mixed, 0), rtol=1e-10, atol=1e-15)
        if not per_state:
            assert np.ptp(t) == 0
    assert bound > 3 or radius == 50


@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_against_a_general_optimiser(direction, per_state):
    rng = np.random.default_rng(3)
    out, new = rng.dirichlet(np.ones(4), (2, 3))
    w, radius = rng.dirichlet(np.ones(3)), 0.05
    forward = direction == "current_to_new"

    def rows(x):
        z = np.exp(x.reshape(out.shape))
        return z / z.sum(-1, keepdims=True)

    def divergence(p, x):
        q = rows(x)
        return (p * np.log(p / q)).sum(-1) if forward else (q * np.log(q / p)).sum(-1)

    def slack(x):
        return radius - (divergence(out, x) if per_state else (w * divergence(out, x)).sum())

    found = minimize(
        lambda x: (w * divergence(new, x)).sum(), np.log(out).ravel(), method="SLSQP",
        constraints=[{"type": "ineq", "fun": slack}], options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    aligned, info = aligner(direction, per_state)[0](out, new, w, jnp.asarray(radius))
    assert abs(found.fun - float(info.distance)) < 1e-6
    np.testing.assert_allclose(aligned, rows(found.x), atol=1e-4)


def test_a_certain_outgoing_agent_in_closed_form():
    """`out = (1, 0)`: the arithmetic mixture keeps `e^{−δ}` of the mass there; the geometric one never leaves it."""
    out, new, w, radius = np.array([[1.0, 0.0]]), np.array([[0.2, 0.8]]), np.ones(1), jnp.asarray(0.3)
    aligned, info = aligner("current_to_new", False)[0](out, new, w, radius)
    np.testing.assert_allclose(aligned, [[np.exp(-0.3), -np.expm1(-0.3)]], rtol=1e-13)
    np.testing.assert_allclose(info.mixture, 1 + np.expm1(-0.3) / 0.8, rtol=1e-12)
    aligned, info = aligner("new_to_current", False)[0](out, new, w, radius)
    np.testing.assert_array_equal(aligned, out)
    np.testing.assert_allclose(info.distance, np.log(5), rtol=1e-14)


def test_a_newcomer_that_drops_an_action():
    """Arithmetic: any newcomer becomes finite, the dropped action keeps `t·out`. Geometric: feasible from `−log out(shared)`."""
    out, new, w = np.array([[0.5, 0.3, 0.2]]), np.array([[0.7, 0.3, 0.0]]), np.ones(1)
    for radius in (1e-3, 0.1, 2.0):
        aligned, info = aligner("current_to_new", False)[0](out, new, w, jnp.asarray(radius))
        np.testing.assert_allclose(info.kl, radius, rtol=1e-12)
        np.testing.assert_allclose(aligned[0, 2], 0.2 * info.mixture[0], rtol=1e-14)
        assert np.isfinite(info.distance)
    least = -np.log(0.8)
    for radius, feasible in ((0.999 * least, False), (1.001 * least, True)):
        aligned, info = aligner("new_to_current", False)[0](out, new, w, jnp.asarray(radius))
        assert bool(info.feasible[0]) == feasible
        assert np.isfinite(info.distance) == feasible
        assert float(aligned[0, 2]) == (0.0 if feasible else 0.2)
    # nothing in common
    aligned, info = aligner("new_to_current", False)[0](
        np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.5, 0.5]]), w, jnp.asarray(9.0)
    )
    np.testing.assert_array_equal(aligned, [[1.0, 0.0, 0.0]])
    assert not info.feasible[0]


@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_ends(direction, per_state):
    """A newcomer inside the ball is kept; a ball of radius zero is the outgoing agent; distances fall with the radius."""
    out, new, w = instance(1)
    run = aligner(direction, per_state)[0]
    kept, info = run(out, new, w, jnp.asarray(1e3))
    np.testing.assert_allclose(kept, new, rtol=1e-13)
    np.testing.assert_array_equal(info.mixture, 0)
    assert float(info.distance) < 1e-15
    stayed, info = run(out, new, w, jnp.asarray(0.0))
    np.testing.assert_allclose(stayed, out, rtol=1e-15)
    np.testing.assert_array_equal(info.mixture, 1)
    same, info = run(out, out, w, jnp.asarray(0.1))
    np.testing.assert_allclose(same, out, rtol=1e-15)
    far = [float(run(out, new, w, jnp.asarray(x))[1].distance) for x in (1e-3, 1e-2, 1e-1)]
    assert far == sorted(far, reverse=True)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_without_weight(direction):
    """Expected form: their content changes nothing elsewhere; they get the common `t`. Per state: the bound holds there too."""
    out, new, w = instance(2)
    w[3] = 0.0
    other = new.copy()
    other[3] = new[3][::-1]
    run = aligner(direction, False)[0]
    (one, info), (two, _) = (run(out, x, w, jnp.asarray(0.05)) for x in (new, other))
    np.testing.assert_array_equal(one[:3], two[:3])
    assert 0 < float(info.mixture[3]) < 1
    aligned, _ = aligner(direction, True)[0](out, new, w, jnp.asarray(0.05))
    spent = kl(out, aligned) if direction == "current_to_new" else kl(aligned, out)
    np.testing.assert_allclose(spent, 0.05, rtol=1e-12)


@pytest.mark.parametrize(("direction", "per_state"), FORMS)
def test_batched_like_single(direction, per_state):
    single, batched = aligner(direction, per_state)
    aligned, _ = batched(*CASES, jnp.full(SEEDS, 0.01))
    for k in range(6):
        np.testing.assert_allclose(
            single(*(x[k] for x in CASES), jnp.asarray(0.01))[0], aligned[k], rtol=1e-10, atol=1e-18
        )


def test_bad_input():
    out, new, w = (jnp.asarray(x) for x in instance(1))
    with pytest.raises(InputError, match="newcomer: found dtype float32"):
        align_to_ball(out, new.astype(jnp.float32), w, jnp.asarray(0.1))
    with pytest.raises(InputError, match="direction: found sideways"):
        align_to_ball(out, new, w, jnp.asarray(0.1), "sideways")
