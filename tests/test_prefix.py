"""One elimination for all hybrids of a stage (`teamtr_jax.dynamics.prefix`), against a direct solve of each."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import Case, as_stage, discounted_world, episodic_world, flat, rows, turn_taking

from teamtr_jax import surrogates
from teamtr_jax.dynamics import prefix, prefix_resolvent
from teamtr_jax.surrogates import hybrid_evaluations, stage_report
from teamtr_jax.types import Stage

TOLERANCE = 1e-9
"""Relative to `1 + |x|`, against LAPACK."""

DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.999)
STATES, UPDATES = 37, 5


def direct(old, new, position, b, transposed):
    """One LAPACK solve for each matrix."""
    out = []
    for i, right in enumerate(b):
        matrix = np.where((position < i)[:, None], new, old)
        out.append(np.linalg.solve(matrix.T if transposed else matrix, right))
    return np.array(out)


def support(old, new, position, initial, updates):
    """Reached states by breadth-first search on the graph of each matrix."""
    out = []
    for i in range(updates + 1):
        edges = np.where((position < i)[:, None], new, old) < 0
        known, left = set(np.flatnonzero(initial)), list(np.flatnonzero(initial))
        while left:
            found = set(np.flatnonzero(edges[left.pop()])) - known
            known |= found
            left += found
        out.append(np.isin(np.arange(len(initial)), list(known)))
    return np.array(out)


@partial(jax.jit, static_argnums=6)
def everything(old, new, position, rewards, right, initial, updates):
    resolvent = prefix_resolvent(old, new, position, updates)
    visits = resolvent.hybrid_visits(initial)
    return {
        "hybrid_values": resolvent.hybrid_values(*rewards),
        "hybrid_visits": visits,
        "values": resolvent.values(right),
        "visits": resolvent.visits(right),
        "reached": resolvent.reached(initial, visits),
        "reached from the start": resolvent.reached(initial),
    }


def chains(name, rng, S, gamma):
    """A pair of transition matrices (rows sum to one, or to zero at the end of an episode)."""
    if name == "dense":
        return rng.dirichlet(np.ones(S), (2, S))
    if name == "sparse":
        return np.stack([rows(rng, S, S, zeros=0.93) for _ in range(2)])
    if name == "line":  # one step on, or stay; the last state absorbs
        stay, on = np.eye(S), np.eye(S)[np.minimum(np.arange(S) + 1, S - 1)]
        p = rng.random((2, S, 1))
        return p * stay + (1 - p) * on
    if name == "absorbing":  # nearly: one path out in a million
        leave = 1e-6 * rng.random((2, S, 1))
        return (1 - leave) * np.eye(S) + leave * rng.dirichlet(np.ones(S), (2, S))
    assert name == "cycle"
    return np.stack([np.roll(np.eye(S), 1, 0), np.roll(np.eye(S), 1, 1)])


def positions(rng, S, updates):
    """Owners: everyone by lot; one agent with nearly all; some with nothing and states of nobody; all of the last agent."""
    yield rng.integers(updates, size=S)
    yield np.where(rng.random(S) < 0.9, updates - 1, rng.integers(updates, size=S))
    yield rng.choice([0, updates - 1, updates, updates + 3], size=S)
    yield np.full(S, updates - 1)


def compare(P, gamma, position, rng, updates):
    S = len(position)
    old, new = np.eye(S) - gamma * P
    rewards, right = rng.normal(size=(2, S)), rng.normal(size=(updates + 1, S))
    initial = np.where(np.arange(S) == rng.integers(S), 1.0, 0.0) if rng.random() < 0.5 else rng.dirichlet(np.ones(S))
    out = everything(*map(jnp.asarray, (old, new, position, rewards, right, initial)), updates)
    out = {name: np.asarray(x) for name, x in out.items()}
    mixed = np.where(position < np.arange(updates + 1)[:, None], rewards[1], rewards[0])
    truth = {
        "hybrid_values": direct(old, new, position, mixed, False),
        "hybrid_visits": direct(old, new, position, np.tile(initial, (updates + 1, 1)), True),
        "values": direct(old, new, position, right, False),
        "visits": direct(old, new, position, right, True),
    }
    for name, x in truth.items():
        error = (abs(out[name] - x) / (1 + abs(x))).max()
        assert error < TOLERANCE, f"{name}: {error:.1e}"
    found = support(old, new, position, initial, updates)
    for name in ("reached", "reached from the start"):
        np.testing.assert_array_equal(out[name], found, name)
    assert (out["hybrid_visits"][~found] == 0).all()
    assert (out["hybrid_visits"][found] > 0).all()


@pytest.mark.parametrize("kind", ["dense", "sparse", "line", "absorbing", "cycle"])
def test_against_direct_solves(kind):
    rng = np.random.default_rng(0)
    for gamma in DISCOUNTS:
        for position in positions(rng, STATES, UPDATES):
            compare(chains(kind, rng, STATES, gamma), gamma, position, rng, UPDATES)


@pytest.mark.parametrize(("S", "updates"), [(7, 9), (33, 1), (64, 80)])
def test_other_sizes(S, updates):
    """No halving and more agents than states; one agent; a power of two and an agent for each state and more."""
    rng = np.random.default_rng(1)
    for position in (*positions(rng, S, updates), np.arange(S) % updates, np.full(S, updates)):
        for kind in ("dense", "sparse"):
            compare(chains(kind, rng, S, 0.99), 0.99, position, rng, updates)


def test_halving():
    """`states ≤ leaf·2^halvings`, with less than one leaf of padding for each."""
    for S in range(1, 200):
        halvings, leaf = prefix._halvings(S)
        assert leaf <= prefix.LEAF
        assert 0 <= leaf * 2**halvings - S < 2**halvings


def test_inverse_of_an_m_matrix():
    """By halves with several levels of blocks, and the loop alone: positive where a path leads, exactly zero elsewhere."""
    rng = np.random.default_rng(2)
    for size in (1, 5, 68, 136):
        matrix = np.eye(size) - 0.99 * rows(rng, size, size, zeros=0.98 if size > 5 else 0.5)
        inverse = np.asarray(prefix._inverse(jnp.asarray(matrix)))
        truth = np.linalg.inv(matrix)
        assert (abs(inverse - truth) / (1 + abs(truth))).max() < 1e-11
        paths = np.linalg.matrix_power((np.eye(size) - matrix > 0) + np.eye(size), size) > 0
        np.testing.assert_array_equal(inverse > 0, paths)
        assert (inverse[~paths] == 0).all()


def test_episodic():
    """`γ = 1`, rows of zeros at the end of the episode; whatever is after it in the order may come before it in time."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        world = episodic_world(rng, 6, 2, 6, zeros=0.6)
        policies = rows(rng, 2, 36, 2)
        P = np.einsum("psa,sat->pst", policies, world["P"])
        compare(P, 1.0, rng.integers(UPDATES + 1, size=36), rng, UPDATES)


def test_gradient():
    """In both matrices and all right sides, against a differentiable inverse of every matrix."""
    rng = np.random.default_rng(4)
    S, n = 19, 3
    position = jnp.asarray(rng.integers(n + 1, size=S))
    matrices = np.eye(S) - 0.9 * rng.dirichlet(np.ones(S), (2, S))
    arguments = tuple(
        map(jnp.asarray, (*matrices, rng.normal(size=(2, S)), rng.normal(size=(n + 1, S)), rng.random(S)))
    )
    weight = jnp.asarray(rng.normal(size=(4, n + 1, S)))
    updated = position < jnp.arange(n + 1)[:, None]

    def ours(old, new, rewards, right, initial):
        r = prefix_resolvent(old, new, position, n)
        parts = r.hybrid_values(*rewards), r.hybrid_visits(initial), r.values(right), r.visits(right)
        return (weight * jnp.stack(parts)).sum()

    def theirs(old, new, rewards, right, initial):
        inverse = jnp.linalg.inv(jnp.where(updated[..., None], new, old))
        mixed = jnp.where(updated, rewards[1], rewards[0])
        parts = (
            jnp.einsum("ist,it->is", inverse, mixed),
            jnp.einsum("s,ist->it", initial, inverse),
            jnp.einsum("ist,it->is", inverse, right),
            jnp.einsum("is,ist->it", right, inverse),
        )
        return (weight * jnp.stack(parts)).sum()

    found, truth = (jax.jit(jax.grad(f, range(5)))(*arguments) for f in (ours, theirs))
    for x, y in zip(found, truth, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-11)


# ------------------------------------------------------------------------------------------------------------- stages


def stages(rng) -> list[Case]:
    """Discounted teams of one shape: unequal shares, an agent with nothing, states of nobody, sparse support."""
    out = []
    for gamma, zeros in ((0.9, 0.3), (0.999, 0.9), (0.5, 0.0)):
        case = turn_taking(rng, discounted_world(rng, 24, 2, gamma, zeros=zeros), 4, zeros=0.2)
        out.append(case._replace(active=rng.choice([-1, 0, 0, 0, 1, 3], size=24)))
    return out


CASES = stages(np.random.default_rng(5))


@pytest.fixture(scope="module")
def reports():
    """The same stages by one elimination, in a batch, and one by one in a scan; and the text of both programs."""
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(as_stage, CASES))

    def compiled(program):
        program = jax.jit(program).lower(batch).compile()
        return program(batch), program.as_text()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogates, "BATCH_LIMIT", 0)
        ours, text = compiled(jax.vmap(stage_report))
        patch.setattr(surrogates, "PREFIX_UPDATES", 5)
        theirs, other = compiled(lambda batch: jax.lax.map(stage_report, batch))
    return ours, theirs, text, other


def test_reports_are_those_of_the_scan(reports):
    """Every field of a `StageReport`; gaps to well within the rounding budget, zeros of visits exactly."""
    ours, theirs = (flat(report) for report in reports[:2])
    budgets, _ = ours.pop("rounding")._asdict(), theirs.pop("rounding")
    for name, x in ours.items():
        if x is None:
            assert theirs[name] is None
            continue
        x, y = np.asarray(x), np.asarray(theirs[name])
        np.testing.assert_array_equal(np.isfinite(x), np.isfinite(y), name)
        x, y = (np.where(np.isfinite(z), z, 0.0) for z in (x, y))
        assert (abs(x - y) / (1 + abs(y))).max() < 1e-10, name
    np.testing.assert_array_equal(ours["visits"] == 0, theirs["visits"] == 0)
    for gap, budget in (("gap_fresh", "fresh"), ("gap_stale", "stale"), ("gap_cached", "cached")):
        assert (abs(ours[gap] - theirs[gap]) <= budgets[budget]).all()


def test_evaluations(monkeypatch):
    """The public helper in all its ways of working gives the same numbers; states and agents may be renamed."""
    rng = np.random.default_rng(6)
    stage = as_stage(CASES[0])
    plain = hybrid_evaluations(stage)
    for limit, least in ((0, 99), (0, 3)):
        monkeypatch.setattr(surrogates, "BATCH_LIMIT", limit)
        monkeypatch.setattr(surrogates, "PREFIX_UPDATES", least)
        surrogates._evaluations.clear_cache()
        for x, y in zip(hybrid_evaluations(stage), plain, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)
    states, names = rng.permutation(24), rng.permutation(4)
    for x, y in zip(hybrid_evaluations(renamed(stage, states, names)), plain, strict=True):
        np.testing.assert_allclose(x, np.asarray(y)[:, states], rtol=1e-11, atol=1e-12)
    surrogates._evaluations.clear_cache()


def renamed(stage: Stage, states, names) -> Stage:
    """State `i` of the result is `states[i]`, agent `k` is called `names[k]`."""
    team = stage.team
    world = replace(team.dynamics, transition=team.dynamics.transition[states][:, :, states])
    active = jnp.where(team.active >= 0, jnp.asarray(names)[team.active], -1)[states]
    team = replace(team, dynamics=world, reward=team.reward[states], initial=team.initial[states], active=active)
    return Stage(team, stage.current[states], stage.target[states], jnp.asarray(names)[stage.order])


def test_no_lapack_call(reports):
    """What cannot hang: the compiled program of a batch of stages holds no LAPACK call at all (tests/test_hang.py)."""
    _, _, ours, scan = reports
    assert "lapack_d" not in ours
    assert "lapack_d" in scan
