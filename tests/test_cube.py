"""S11: laws of transcripts of partly updated teams, against a list of all transcripts, and what is known of one order alone."""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teamtr_jax.claims import judge, s11
from teamtr_jax.cube import hellinger_cube
from teamtr_jax.dynamics import Dense
from teamtr_jax.exact import Solved, exact_stage, precisely
from teamtr_jax.exact.checks import exact_checks
from teamtr_jax.exact.cube import order_distances
from teamtr_jax.surrogates import evaluate_stage
from teamtr_jax.types import Stage, Team
from teamtr_jax.validation import InputError
from theory.constructions.forks import product_forks_stage
from theory.constructions.orders import in_order, in_order_costs, in_order_stage, tree_stage
from theory.studies import s11 as study


@pytest.fixture(scope="module")
def tree():
    """Three agents with several turns in 15 contexts, dropped and opened actions, updated in the order 2, 0, 1."""
    rng = np.random.default_rng(3)
    rows = rng.dirichlet([1.0, 1.0], (2, 15))
    rows[0, 3], rows[1, 5] = [1.0, 0.0], [0.0, 1.0]
    stage = tree_stage(rng.integers(0, 3, 15), *rows, 3)
    return Stage(stage.team, stage.current, stage.target, jnp.asarray([2, 0, 1]))


def laws(stage):
    """``{set of agents: probability of each of the 16 transcripts}``, by multiplying along each."""
    owner, old, new = (np.asarray(x) for x in (stage.team.active, stage.current, stage.target))
    out = {}
    for made in product((False, True), repeat=stage.team.agents):
        chances = []
        for turns in product((0, 1), repeat=4):
            node, chance = 0, 1.0
            for turn in turns:
                chance *= (new if made[owner[node]] else old)[node, turn]
                node = 2 * node + 1 + turn
            chances.append(chance)
        out[frozenset(np.flatnonzero(made).tolist())] = np.array(chances)
    return out


def apart(p, q):
    return 1 - np.sqrt(p * q).sum()


def test_against_all_transcripts(tree):
    P, order, everybody = laws(tree), [2, 0, 1], frozenset(range(3))
    found = hellinger_cube(tree, 3)
    assert found.whole == pytest.approx(apart(P[frozenset()], P[everybody]), rel=1e-12)
    edges, forward, backward = [], [], []
    for i, k in enumerate(order):
        others = [S for S in P if k not in S]
        edges.append(np.mean([apart(P[S], P[S | {k}]) for S in others]))
        forward.append(apart(P[frozenset(order[:i])], P[frozenset(order[: i + 1])]))
        backward.append(apart(P[frozenset(order[i + 1 :])], P[frozenset(order[i:])]))
    np.testing.assert_allclose(found.edges, edges, rtol=1e-12)
    np.testing.assert_allclose(found.forward, forward, rtol=1e-12)
    np.testing.assert_allclose(found.backward, backward, rtol=1e-12)
    assert len({round(x, 6) for x in (*edges, *forward, *backward)}) > 6  # no two sums could be taken for each other
    for S, T in product(P, P):
        np.testing.assert_allclose(P[S] * P[T], P[S & T] * P[S | T], atol=1e-15)
    assert not bool(found.alone)
    last = hellinger_cube(tree, 2)  # agent 2 is updated already
    assert last.whole == pytest.approx(apart(P[frozenset({2})], P[everybody]), rel=1e-12)
    np.testing.assert_allclose(last.forward, forward[1:], rtol=1e-12)


def test_discounted_and_product_by_hand():
    """All agents at once at state 0: affinities multiply. One step later they are worth γ."""
    weights, steps = [1 / 3] * 3, [0.1, 0.2, 0.3]
    own = [1 - math.sqrt(0.5 * (0.5 + e)) - math.sqrt(0.5 * (0.5 - e)) for e in steps]
    found = hellinger_cube(product_forks_stage(weights, steps, 0.5), 3)
    np.testing.assert_allclose(found.edges, np.array(own) / 3, rtol=1e-12)  # each has a fork of its own
    assert found.whole == pytest.approx(sum(own) / 3, rel=1e-12)
    transition = np.zeros((2, 2, 2))
    transition[0, :, 1] = transition[1, :, 1] = 1.0
    team = Team(
        Dense(jnp.asarray(transition), jnp.asarray(0.25)), jnp.zeros((2, 2)), jnp.eye(2)[0], jnp.array([-1, 0]), 1
    )
    stage = Stage(team, jnp.full((2, 2), 0.5), jnp.array([[0.5, 0.5], [0.75, 0.25]]), jnp.arange(1))
    affinity = math.sqrt(0.375) + math.sqrt(0.125)
    # F(1) = affinity·(1 − γ + γF(1)), F(0) = 1 − γ + γF(1)
    later = affinity * 0.75 / (1 - 0.25 * affinity)
    alone = hellinger_cube(stage, 1)
    assert alone.whole == pytest.approx(0.25 * (1 - later), rel=1e-12)
    assert bool(alone.alone)


def test_the_claim_by_value(tree):
    """Each check against the numbers it is about, and the same in balls."""
    report, cube = evaluate_stage(tree), hellinger_cube(tree, 3)
    checks = jax.jit(s11.check)(tree, report)
    assert checks["cube"].measured == pytest.approx(float(cube.whole), rel=1e-12)
    assert checks["cube"].bound == pytest.approx(float(cube.edges.sum()), rel=1e-12)
    both = float(cube.forward.sum() * cube.backward.sum())
    assert checks["order"].bound == pytest.approx(math.sqrt(both), rel=1e-12)
    np.testing.assert_allclose(checks["KL"].bound, report.kl / 2, rtol=1e-12)
    P = laws(tree)
    first, last = P[frozenset()], P[frozenset(range(3))]
    prefixes = [abs((last - first).reshape(2**t, -1).sum(-1)).sum() / 2 for t in range(4)]
    np.testing.assert_allclose(checks["TV"].measured, prefixes, atol=1e-14)
    np.testing.assert_allclose(checks["TV"].bound, np.full(4, math.sqrt(2 * apart(first, last))), rtol=1e-12)
    for name, check in checks.items():
        verdicts = judge(check)
        assert not verdicts.violated.any(), name
        assert not verdicts.inconclusive.any(), name
        exact = exact_checks(tree, only="S11")["S11", name]
        np.testing.assert_allclose(np.ravel(check.measured), [float(m) for m, _ in exact], atol=1e-13)
        bound = np.ravel(np.broadcast_to(check.bound, np.shape(check.measured)))
        np.testing.assert_allclose(
            bound, [math.inf if b is None else float(b) for _, b in exact], rtol=1e-10, atol=1e-13
        )
    assert (np.asarray(checks["product"].scale) > 0).all()


def test_where_one_agent_moves_and_where_none_is_looked_at(tree, monkeypatch):
    """Then both sides are one number and say nothing: 0 ≤ 0. Larger teams than `STATES` are left out."""
    target = jnp.where((tree.team.active == 0)[:, None], tree.target, tree.current)
    one = Stage(tree.team, tree.current, target, tree.order)
    report = evaluate_stage(one)
    found = jax.jit(s11.check)(one, report)
    assert (float(found["cube"].measured), float(found["cube"].bound)) == (0, 0)
    assert float(found["KL"].measured[1]) > 0
    two = Stage(
        tree.team, tree.current, jnp.where((tree.team.active != 0)[:, None], tree.target, tree.current), tree.order
    )
    assert [bool(hellinger_cube(stage, 3).alone) for stage in (one, two, tree)] == [True, False, False]
    monkeypatch.setattr(s11, "STATES", 14)
    assert s11.check(one, report) == {}


@pytest.mark.parametrize("updates", [0, 4])
def test_so_many_updates(tree, updates):
    with pytest.raises(InputError, match="updates"):
        hellinger_cube(tree, updates)


def test_no_constant_along_one_order():
    """S11, trees read in order: `H²(P⁰,Pⁿ) = 1`, the fresh steps add up to `D_m ≤ 2/(m+2)`, from 1 and 2−√2 on."""
    assert in_order(3).tolist() == [3, 1, 5, 0, 2, 4, 6]
    costs = in_order_costs(30)
    assert float(costs[1]) == pytest.approx(2 - math.sqrt(2), rel=1e-14)
    assert all(float(cost) <= 2 / (m + 2) * (1 + 1e-12) for m, cost in enumerate(costs))
    for m in (1, 2, 3):
        stage = in_order_stage(m)
        with precisely():
            whole, fresh = order_distances(Solved(exact_stage(stage)))
            assert stage.team.agents == 2 ** (m + 1) - 1 == len(fresh)
            assert float(whole) == pytest.approx(1, rel=1e-14)
            assert float(sum(fresh)) == pytest.approx(float(costs[m]), rel=1e-14)
    cube = hellinger_cube(in_order_stage(2), 7)
    assert float(cube.whole / cube.forward.sum()) == pytest.approx(2.3427719663, rel=1e-9)
    assert cube.whole <= cube.edges.sum()
    assert cube.whole <= jnp.sqrt(cube.forward.sum() * cube.backward.sum())


def test_the_ascent_and_the_row():
    """Two agents beat one turn each, 1.707; what is found is decided in balls and drawn."""
    row, found = study.run(True, np.random.default_rng(0))
    assert (row.id, row.evidence, row.violations) == ("S11", "enclosed", 0)
    assert found.ratios[0] > 1.75
    assert (found.ratios <= found.sizes).all()
    stage = found.stages[0]
    cube = hellinger_cube(stage, 2)
    assert float(cube.whole / cube.forward.sum()) == pytest.approx(found.ratios[0], rel=1e-9)


def test_the_figure(tmp_path):
    found = study.OrderRatios((2, 3), np.array([1.8, 2.2]), [], np.array([1.0, 1.7, 2.3]), 0)
    assert study.order_figure(found, tmp_path / "orders.png").stat().st_size > 10_000
