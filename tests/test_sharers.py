"""S7d on tables: teams of sharers in rationals against the float64 core, their ratios by value, and what a run looks at."""

import itertools
from dataclasses import replace
from functools import partial

import flint
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, fmpq

from teamtr_jax import chain_audit
from teamtr_jax.dynamics import Tree
from teamtr_jax.schedules import fresh
from teamtr_jax.sharing import Sharing
from teamtr_jax.surrogates import hybrids_report
from teamtr_jax.tabular import TeamState
from teamtr_jax.types import Team, UpdateRecord
from teamtr_jax.validation import InputError
from teamtr_jax.visits import chain_hybrids, chain_solo_steps
from theory.constructions.sharers import count_chain, count_curvature, door_chain, even_doors, row_kl
from theory.studies import s7d


def mid(x):
    return float(arb(x).mid())


def two_messages(n, first, after, rewards):
    """A tree of two messages: node 0 by agent 0, nodes 1 and 2 (`after`) by the last of n agents; `rewards` of 00, 01, 10, 11."""
    tree = Tree(2, 2)
    reward = jnp.zeros((3, 2)).at[1:].set(jnp.asarray(rewards, float).reshape(2, 2))
    team = Team(tree, reward, jnp.array([1.0, 0.0, 0.0]), jnp.array([0, n - 1, n - 1]), n)
    ones = np.stack([first, *after], 1)
    return team, jnp.asarray(np.stack([1 - ones, ones], -1))


@partial(jax.jit, compiler_options=chain_audit.OPTIONS)
def _report(team, chain, moves):
    return hybrids_report(team, chain_hybrids(team, chain, moves), chain_solo_steps(team, chain, moves, chain[0]))


def report_of(team, chain, order):
    return _report(team, chain, Sharing((0,) * team.agents).moves[order])


def test_coins_in_the_core():
    """S7d: three sharers of one row, each updated once: every gap and KL of the float64 core is the rational one."""
    rows = [fmpq(2, 5), fmpq(1, 2), fmpq(11, 20), fmpq(3, 4)]
    chain = count_chain(rows, [fmpq(1), fmpq(0), fmpq(1)])
    p = np.array([float(x.p) / float(x.q) for x in rows])
    team, tables = two_messages(3, p, (p, p), [1, 0, 0, 1])
    report = report_of(team, tables, [0, 1, 2])
    np.testing.assert_allclose(report.gap_fresh, [mid(x) for x in chain.fresh], rtol=1e-12)
    np.testing.assert_allclose(report.gap_cached, [mid(x) for x in chain.cached], rtol=1e-12)
    np.testing.assert_allclose(report.kl_stale, [mid(x) for x in chain.increments], rtol=1e-12)
    np.testing.assert_allclose(report.kl, [mid(x) for x in chain.increments], rtol=1e-12)  # one row: no matter where
    assert chain.fresh == [2 * (b - a) ** 2 for a, b in itertools.pairwise(rows)]
    assert sum(chain.cached) == 2 * (rows[-1] - rows[0]) ** 2
    assert mid(chain.joint) == pytest.approx(2 * (0.4 * np.log(0.4 / 0.75) + 0.6 * np.log(0.6 / 0.25)), rel=1e-14)


def test_the_door_in_the_core():
    """S7d: two roles; the gaps of the float64 core are the openings, its KLs are those of the first role."""
    openings = even_doors(3, fmpq(1, 4))
    assert openings == [0, fmpq(1, 16), fmpq(9, 64), fmpq(1, 4)]
    chain = door_chain(openings)
    first = np.array([0, 1 / 16, 9 / 64, 1 / 4])
    team, tables = two_messages(3, first, (np.zeros(4), np.array([0.0, 1, 1, 1])), [0, 0, 0, 1])
    report = report_of(team, tables, [2, 0, 1])
    np.testing.assert_allclose(report.gap_fresh, [mid(x) for x in chain.fresh], atol=1e-15)
    np.testing.assert_allclose(report.gap_cached, [mid(x) for x in chain.cached], rtol=1e-12)
    np.testing.assert_allclose(report.kl_stale, [mid(x) for x in chain.increments], rtol=1e-12)
    assert mid(chain.joint) == pytest.approx(-np.log(0.75), rel=1e-14)


def test_what_adds_up():
    """S7d: −log r of the increments on the first rollouts adds up to K(0→n); the KLs between neighbours do not."""
    rows = [fmpq(1, 2) + k * fmpq(1, 40) for k in range(5)]
    chain = count_chain(rows, [fmpq(1), fmpq(0), fmpq(1)])
    p = [mid(x) for x in rows]
    signed = sum(2 * (p[0] * np.log(a / b) + (1 - p[0]) * np.log((1 - a) / (1 - b))) for a, b in itertools.pairwise(p))
    assert signed == pytest.approx(mid(chain.joint), rel=1e-13)
    assert sum(map(mid, chain.increments)) < 0.3 * mid(chain.joint)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_limits_of_small_steps(n):
    """S7d: n/2 for coins, p(1−p)J'' for counts, by finite steps; the door by its closed form."""
    alike, many = [fmpq(1), fmpq(0), fmpq(1)], [fmpq(int(c >= 2)) for c in range(n + 1)]
    with flint.ctx.workprec(256):
        for p, reward, limit in ((fmpq(1, 2), alike, n / 2), (fmpq(3, 8 * n), many, None)):
            found = n * count_curvature(p, reward)
            chain = count_chain([p + k * fmpq(1, 10**9) for k in range(n + 1)], reward)
            assert mid(arb(sum(chain.cached)) / sum(chain.increments)) == pytest.approx(mid(found), rel=1e-6)
            assert limit is None or found == fmpq(n, 2)
        x = float(3 / (8 * n))
        second = n * (n - 1) * (1 - x) ** max(n - 3, 0) * (1 - x - (n - 2) * x) if n > 2 else 2.0
        assert mid(found) == pytest.approx(x * (1 - x) * second, rel=1e-12)
        door = door_chain(even_doors(n, fmpq(1, 10**9)))
        u = np.arange(1, n + 2) / (n + 1)
        d = u[1:-1] ** 2 * np.log(u[1:-1] ** 2 / u[2:] ** 2) + u[2:] ** 2 - u[1:-1] ** 2
        assert mid(arb(sum(door.cached)) / sum(door.increments)) == pytest.approx(1 / (u[1] ** 2 + d.sum()), rel=1e-6)


def test_the_row_of_a_run(monkeypatch):
    """S7d: nothing violated; a KL of the own messages alone, or of the increments, would be."""
    row, found = s7d.run((2, 4, 8))
    assert (row.id, row.violations, row.instances, row.checks) == ("S7d", 0, 9, found.checks)
    assert row.checks == 3 * (14 + 3) + (2 + 4 + 8) + 6
    assert 0.999 < found.tightest < 1
    assert (row.tightest, row.detects) == (found.tightest, 1 - found.tightest)
    assert found.coins == [1, 2, 4]
    np.testing.assert_allclose(found.doors, [1.562891, 2.648072, 4.746224], rtol=1e-6)
    np.testing.assert_allclose(found.own, [1, 2, 4], rtol=1e-5)
    real = s7d.count_chain
    for wrong in (
        lambda chain: chain._replace(joint=sum(chain.increments)),
        lambda chain: chain._replace(increments=[k / 8 for k in chain.increments]),
    ):
        monkeypatch.setattr(s7d, "count_chain", lambda *xs, wrong=wrong: wrong(real(*xs)))
        assert s7d.run((8,))[0].violations > 0
    monkeypatch.setattr(s7d, "count_chain", real)
    curvature = s7d.count_curvature
    monkeypatch.setattr(s7d, "count_curvature", lambda *xs: curvature(*xs) + 1)
    assert s7d.run((2, 4))[0].violations == 2  # n/2 of the coins, for each n


def test_rows_that_stay():
    assert row_kl(fmpq(1, 3), fmpq(1, 3)) == 0
    assert mid(row_kl(fmpq(0), fmpq(1, 4))) == pytest.approx(-np.log(0.75), rel=1e-14)


def test_nobody_moves_at_a_chance_node():
    """A state of nobody is no sharer's, whoever moves."""
    team, tables = two_messages(2, np.array([0.5, 0.5]), (np.array([0.5, 0.6]),) * 2, [1, 0, 0, 1])
    team = replace(team, active=jnp.array([-1, 0, 1]))
    found = chain_hybrids(team, tables, jnp.array([[True, True]]))
    assert found.acts.tolist() == [[False, True, True]]
    only = chain_hybrids(team, tables, jnp.array([[False, True]]))
    assert only.acts.tolist() == [[False, False, True]]
    assert (only.steps[0, 1] == 0).all()


@pytest.mark.parametrize(("moved", "asked", "once"), [
    ([[1, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 0, 1]], True), ([[1, 1, 0], [1, 1, 0]], [[1, 1, 0], [1, 1, 0]], False),
    ([[1, 0, 0], [0, 0, 1]], [0, 2], True),
])  # fmt: skip
def test_the_audit_of_sharers(monkeypatch, moved, asked, once):
    """Of records that say whom an update moved, the exact numbers are asked for those; alone, an agent is its number."""
    team, tables = two_messages(3, np.full(3, 0.5), (np.full(3, 0.5),) * 2, [1, 0, 0, 1])
    numbers = {"in_use": dict.fromkeys(("rollouts", "start"), jnp.zeros(2)), "surrogate_intermediate": jnp.zeros(2)}
    seen = []
    monkeypatch.setattr(
        chain_audit, "_audit_one", lambda team, chain, *settings, once: seen.append((*settings, once)) or numbers
    )
    records = [
        UpdateRecord(0, i, agent, True, 0.0, 0.0, source=i, info={"gain": 0.0}, moved=np.array(who, bool))
        for i, (agent, who) in enumerate(zip((0, 2), moved, strict=True))
    ]
    chain_audit.audit_records(team, [TeamState(table, jnp.zeros(3)) for table in tables], records, fresh)
    ((agents, sources, found),) = seen
    assert (agents.tolist(), sources.tolist(), found) == (asked, [0, 1], once)


def test_sharers_in_a_product_team_are_refused():
    """There an update of several factors is no single step of the chain."""
    team = Team(Tree(4, 1), jnp.zeros((1, 4)), jnp.ones(1), None, 2, (2, 2))
    states = jnp.full((2, 2, 1, 2), 0.5)
    with pytest.raises(
        InputError, match=r"^agents: found shape \[1, 2\], bool, expected \[n\], or in a turn-taking team"
    ):
        chain_hybrids(team, states, jnp.ones((1, 2), bool))
