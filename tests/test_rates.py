"""R6: closed forms of theory/constructions against the float core and the exact oracle; the cells of section 4; R4."""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, fmpq, fmpq_poly

from teamtr_jax.bounds import penalty_log_sum
from teamtr_jax.dynamics import Dense, Layered
from teamtr_jax.exact import exact_numbers, exact_stage, rational
from teamtr_jax.surrogates import evaluate_stage, stage_report
from teamtr_jax.types import Stage, Team
from teamtr_jax.visits import marginal_advantage
from theory.constructions.chain import chain_gaps, chain_stage
from theory.constructions.counts import (
    count_coefficient,
    count_shifts,
    layer_mean,
    mean_absolute_walk,
    product_count_stage,
    running_count_stage,
)
from theory.constructions.doors import (
    doors_gaps,
    doors_stage,
    opening_kl,
    product_doors_gaps,
    product_doors_stage,
    relay_doors_gaps,
    relay_doors_stage,
    rooms_gaps,
    rooms_stage,
)
from theory.constructions.forks import (
    fork_kl,
    fork_step,
    forks_shift,
    forks_stage,
    product_forks_stage,
    relay_forks_stage,
)
from theory.constructions.parity import parity_gaps, parity_relay_gaps, parity_relay_stage, parity_stage
from theory.studies import r2, r6

E, EPS, GAMMA, G = 1 / 64, fmpq(1, 64), 0.9, rational(0.9)
KAPPA = -math.log1p(-E)
N = 8
"""Agents in the float core: a power of two, so that a uniform first speaker is exact; 256 joint actions."""


def numbers(xs):
    return np.array([float(arb(x).mid()) for x in xs])


def agrees(stage, closed):
    """Every gap within its rounding budget of the rational closed form; the report."""
    report = evaluate_stage(stage)
    for kind, expected in closed._asdict().items():
        values = numbers(expected)
        error = abs(getattr(report, f"gap_{kind}") - values)
        assert (error <= getattr(report.rounding, kind) + 1e-15 * abs(values)).all(), kind
    return report


def test_closed_forms_are_exact():
    """Equal rationals, with no tolerance, for every family at n = 2, 3, 4."""
    checks, wrong = r6.oracle_mismatches((2, 3, 4))
    assert checks > 300
    assert wrong == 0


def test_a_wrong_closed_form_is_found(monkeypatch):
    monkeypatch.setattr(r6, "doors_gaps", lambda n, e, g, router: doors_gaps(n, e, g, "same"))
    assert r6.oracle_mismatches((2,))[1] > 0
    monkeypatch.setattr(r6, "doors_gaps", doors_gaps)
    monkeypatch.setattr(r6, "parity_relay_gaps", lambda n, e, r, b: parity_relay_gaps(n, e, r, 2))
    assert r6.oracle_mismatches((2,))[1] > 0


@pytest.mark.parametrize("router", ["same", "last", "uniform"])
def test_doors_of_the_float_core(router):
    """F4: δ⁰_k = (1−γ)κ/n; S7's ratio is γε/κ when the opener goes on."""
    report = agrees(doors_stage(N, E, GAMMA, router), doors_gaps(N, EPS, G, router))
    np.testing.assert_allclose(report.kl_stale, (1 - GAMMA) * KAPPA / N, rtol=1e-12)
    if router == "same":
        np.testing.assert_allclose(report.kl, report.kl_stale, rtol=1e-12)
        np.testing.assert_allclose(report.gap_fresh / penalty_log_sum(report), GAMMA * E / KAPPA, rtol=1e-12)
    else:
        assert np.isinf(report.kl[-1])


@pytest.mark.slow  # one program for each shape; the exact oracle covers the family in every run
def test_own_doors_of_the_float_core():
    report = agrees(product_doors_stage(N, E, GAMMA), product_doors_gaps(N, EPS, G))
    np.testing.assert_allclose(report.kl, (1 - GAMMA) * KAPPA, rtol=1e-12)
    np.testing.assert_allclose(report.kl_stale, report.kl, rtol=1e-12)
    np.testing.assert_allclose(
        report.gap_fresh / penalty_log_sum(report), GAMMA * E * (1 - E) ** np.arange(N) / KAPPA, rtol=1e-12
    )


@pytest.mark.parametrize("moving", [False, True])
def test_relay_doors_of_the_float_core(moving):
    """Episodic: S7's ratio is ε/κ → 1 for every update; in rooms the fresh KL is infinite and the fresh gaps add up."""
    report = agrees(relay_doors_stage(N, E, 2, moving), relay_doors_gaps(N, EPS, 2, moving))
    assert report.return_range == 1
    np.testing.assert_allclose(report.kl_stale, KAPPA, rtol=1e-12)
    if moving:
        assert np.isinf(report.kl[1:]).all()
        assert abs(report.gap_fresh).sum() > (N + 1) / 2.2 * abs(report.gap_stale).sum()
    else:
        np.testing.assert_allclose(report.kl, KAPPA * (1 - E) ** np.arange(N), rtol=1e-12)
        np.testing.assert_allclose(report.gap_fresh / penalty_log_sum(report), E / KAPPA, rtol=1e-12)


@pytest.mark.slow  # one program for each shape; the exact oracle covers the family in every run
def test_rooms_of_the_float_core():
    report = agrees(rooms_stage(N, E, GAMMA), rooms_gaps(N, EPS, G))
    np.testing.assert_allclose(report.kl_stale, (1 - GAMMA) * KAPPA, rtol=1e-12)
    assert np.isinf(report.kl[1:]).all()


@pytest.mark.parametrize("branches", [1, 2])
def test_parity_of_the_float_core(branches):
    """F5 and F6; with two branches the agent's own span is 1 at every state, with one it is the value of the branch."""
    stage = parity_stage(N, E, GAMMA, branches)
    report = agrees(stage, parity_gaps(N, EPS, G, branches))
    np.testing.assert_allclose(report.kl_stale, (1 - GAMMA) * KAPPA, rtol=1e-12)
    assert np.isinf(report.kl[1:]).all()
    assert own_spans(stage, report).max() == pytest.approx(1 if branches == 2 else GAMMA / (1 - GAMMA), rel=0.15)
    relay = parity_relay_stage(N, E, 3, branches)
    report = agrees(relay, parity_relay_gaps(N, EPS, 3, branches))
    np.testing.assert_allclose(report.kl_stale, KAPPA, rtol=1e-12)
    assert report.return_range == (4 if branches == 2 else 2)
    own = [
        np.ptp(advantage(relay.team, report.values[i])[np.asarray(relay.team.active) == i], axis=-1).max()
        for i in range(N)
    ]
    np.testing.assert_allclose(own, 1 if branches == 2 else [1, 2] * (N // 2), rtol=1e-12)


def advantage(team, v):
    return np.asarray(team.reward + team.dynamics.discount * team.dynamics.backward(jnp.asarray(v))) - v[:, None]


averaged = jax.jit(marginal_advantage)


def own_spans(stage, report):
    """`B_i` of S7b in a product team: span over the agent's own action, the others' averaged under `π̂ⁱ⁻¹`."""
    out = []
    for i in range(stage.team.agents):
        before = jnp.where(jnp.arange(stage.team.agents)[:, None, None] < i, stage.target, stage.current)
        own = averaged(stage.team, before, jnp.asarray(advantage(stage.team, report.values[i])), jnp.asarray(i))
        out.append(np.ptp(np.asarray(own), axis=-1).max())
    return np.array(out)


@pytest.mark.slow  # one program for each shape; the exact oracle covers the family in every run
def test_forks_of_the_float_core():
    """F1 in three protocols; unequal first speakers."""
    weights = np.arange(N, 0, -1) / 36.0
    steps = E * np.arange(1, N + 1) / N
    exact = numbers(forks_shift([rational(w) for w in weights], [rational(e) for e in steps], fmpq(1)))
    for stage in (forks_stage(weights, steps, GAMMA), product_forks_stage(weights, steps, GAMMA)):
        report = evaluate_stage(stage)
        np.testing.assert_allclose(report.occupancy_tv_stale, GAMMA * exact[:N], rtol=1e-10, atol=1e-15)
        kl = [float(fork_kl(e).mid()) for e in steps]
        np.testing.assert_allclose(report.kl_stale, (1 - GAMMA) * weights * kl, rtol=1e-10)
    report = evaluate_stage(relay_forks_stage(weights, steps, 2))
    mean = [layer_mean([exact[min(i, t)] for t in range(N)], exact[i], 2) for i in range(N)]
    np.testing.assert_allclose(report.occupancy_tv_stale, mean, rtol=1e-10, atol=1e-15)
    assert fork_step(float(fork_kl(0.1).mid())) == pytest.approx(0.1, rel=1e-12)


@pytest.mark.slow  # one program for each shape; the exact oracle covers the family in every run
def test_counts_of_the_float_core():
    """F2 (mean over the layers) and F3."""
    table = count_shifts(N, EPS)
    report = evaluate_stage(product_count_stage(N, E, GAMMA))
    np.testing.assert_allclose(report.occupancy_tv_stale, GAMMA * numbers(table[N])[:N], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(report.kl_stale, (1 - GAMMA) * float(fork_kl(EPS).mid()), rtol=1e-12)
    report = evaluate_stage(running_count_stage(N, E, 2))
    mean = [layer_mean([table[t][min(i, t)] for t in range(N)], table[N][i], 2) for i in range(N)]
    np.testing.assert_allclose(report.occupancy_tv_stale, numbers(mean), rtol=1e-12, atol=1e-15)


def test_walk():
    """`E|S_n|` by enumeration; coefficients of the shift from the polynomial law; the limit √(2/π)."""
    for n in range(1, 9):
        walks = [abs(sum(s)) for s in product((-1, 1), repeat=n)]
        assert mean_absolute_walk(n) == fmpq(sum(walks), 2**n)
    x, half = fmpq_poly([0, 1]), fmpq(1, 2)
    for n, i in [(2, 1), (3, 3), (5, 2), (6, 6)]:
        law = [fmpq_poly([1])]
        for k in range(n):
            up = half + (x if k < i else 0 * x)
            law = [(1 - up) * a + up * b for a, b in zip([*law, 0 * x], [0 * x, *law], strict=True)]
        assert count_coefficient(n, i) == sum((abs(p[1]) for p in law), fmpq(0)) / 2
    assert float(mean_absolute_walk(4000)) / math.sqrt(4000) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-3)


SMALL = (2, 3, 4, 8, 16)


@pytest.fixture(scope="module")
def found():
    return r6.cells(SMALL)


def test_cells(found):
    """R6: no coefficient wrong, no bound exceeded; the measured ratio is the first-order one up to O(nδ)."""
    assert {(cell.row, cell.column) for cell in found if not cell.extra} == set(product(r6.ROWS, r6.COLUMNS))
    for cell in found:
        where = (cell.row, cell.column, cell.family)
        assert (cell.wrong, cell.exceeds, cell.undecided) == (0, 0, 0), where
        if cell.limit_value is None:
            assert np.isinf(cell.bounds).all()
            continue
        np.testing.assert_allclose(cell.values / cell.bounds, cell.first_order, rtol=2e-4, err_msg=str(where))
        far = abs(cell.first_order - cell.limit_value)
        assert far[-1] <= far[0] + 1e-12, where
        assert far[-1] < 0.08, where


def test_exponents():
    """Local slopes between n = 48 and 64 within 0.03 of the predicted exponents; over all sizes the interval is printed."""
    for cell in r6.cells((48, 64)):
        assert abs(cell.tail - float(arb(cell.exponent).mid())) < 0.03, (cell.row, cell.column, cell.family, cell.tail)


def test_a_wrong_coefficient_and_a_broken_bound_are_counted():
    family = next(f for f in r6._gap_families() if f.family == "parity")
    wrong = family._replace(coefficients=lambda n: (family.coefficients(n)[0], fmpq(n * n)))
    assert r6._cell(wrong, SMALL).wrong == len(SMALL)

    def halved(n):
        value, bound = family.measured(n)
        assert bound is not None
        return value, bound / 2

    assert r6._cell(family._replace(measured=halved), SMALL).exceeds >= len(SMALL) - 1


@pytest.mark.parametrize("reverse", [False, True])
def test_one_turn_each(reverse):
    """R4: forward fresh = 0 and stale ≠ 0; reverse fresh = stale = 0 and cached ≠ 0. The zeros are exact zeros."""
    report = agrees(chain_stage(N, 0.5, E, reverse), chain_gaps(N, fmpq(1, 2), EPS, reverse))
    assert (report.gap_fresh == 0).all()
    assert (report.gap_stale == 0).all() == reverse
    assert (report.gap_cached[1:] > 0).all()


def exogenous(rng, batch):
    """Random stages with x' ~ P(·|x, a), speakers by their own Markov chain; state = 3x + speaker."""
    contexts, agents = 3, 3

    def rows(*shape):
        return rng.dirichlet(np.full(shape[-1], 0.5), (batch, *shape[:-1]))

    move = rows(contexts, agents, 2, contexts)  # [b, x, j, a, x']
    router = rows(agents, agents)
    transition = (move[..., None] * router[:, None, :, None, None, :]).reshape(batch, 9, 2, 9)
    current = rows(9, 2)
    step = 10.0 ** rng.uniform(-3, 0, (batch, 1, 1))
    target = (1 - step) * current + step * rows(9, 2)
    team = Team(
        Dense(jnp.asarray(transition), jnp.asarray(rng.uniform(0.1, 0.99, batch))),
        jnp.asarray(rng.normal(size=(batch, 9, 2))),
        jnp.asarray((rows(contexts)[:, :, None] * rows(agents)[:, None]).reshape(batch, 9)),
        jnp.asarray(np.tile(np.arange(9) % 3, (batch, 1))),
        agents,
    )
    return Stage(team, jnp.asarray(current), jnp.asarray(target), jnp.asarray(np.tile(np.arange(3), (batch, 1))))


def test_exogenous_router_bound():
    """The cell `max B·(Σδ⁰/(1−γ) − (1−γ)κ_0)/(1−γ)` for stale, twice it for fresh in δ⁰, and 0 without the first step."""

    @jax.jit
    @jax.vmap
    def sides(stage):
        report = stage_report(stage)
        per_state = (stage.current * jnp.log(stage.current / stage.target)).sum(-1)
        rest = 1 - report.discount
        bound = (report.kl_stale.sum() / rest - rest * (stage.team.initial * per_state).sum()) / rest
        return abs(report.gap_stale).sum(), abs(report.gap_fresh).sum(), report.advantage_span.max() * bound

    stale, fresh, bound = (np.asarray(x) for x in sides(exogenous(np.random.default_rng(3), 400)))
    assert (stale <= bound * (1 + 1e-9)).all()
    assert (fresh <= 2 * bound * (1 + 1e-9)).all()
    assert (stale > 0.02 * bound).any()


def test_the_first_step_closes_the_factor():
    """Doors: with κ_0 subtracted the turn-taking bound is attained, ratio ε/κ instead of γε/κ."""
    step = fmpq(1, 10**6)
    kl = opening_kl(step)
    bound = (kl - (1 - G) * kl) / (1 - G)
    ratio = arb(sum(doors_gaps(5, step, G, "last").stale, fmpq(0))) / bound
    assert ratio < 1
    assert ratio > 1 - 1e-6


def test_one_turn_each_in_random_teams():
    """R = 1 in general: fresh = 0 in any order, stale = 0 in reverse order; a second turn breaks both."""
    rng = np.random.default_rng(0)
    shape = chain_stage(N, 0.5, E)  # one compiled program with the chain
    current, target = (jnp.asarray(rng.dirichlet(np.ones(2), 2 * N)) for _ in range(2))
    reward, world = jnp.asarray(rng.normal(size=(2 * N, 2))), jnp.asarray(rng.dirichlet(np.ones(2), (2, 2)))

    def gaps(speakers, order):
        team = Team(Layered(Dense(world, None), N), reward, shape.team.initial, jnp.repeat(jnp.asarray(speakers), 2), N)
        report = evaluate_stage(Stage(team, current, target, jnp.asarray(order)))
        return abs(report.gap_fresh).sum(), abs(report.gap_stale).sum(), abs(report.gap_cached).sum()

    speakers = np.arange(N)
    forward, shuffled, backward = (gaps(speakers, x) for x in (speakers, rng.permutation(N), speakers[::-1].copy()))
    assert forward[0] == shuffled[0] == backward[0] == backward[1] == 0
    assert min(forward[1], shuffled[1], backward[2]) > 1e-3
    assert gaps(speakers // 2, speakers)[0] > 1e-3


def test_ledger_rows_and_figure(tmp_path):
    rows, curves = r6.run(quick=True)
    assert [row.id for row in rows] == ["R6.1", "R6.2", "R6.3", "R6.4", "R6.5", "R6.6"]
    assert all(row.violations == 0 and row.inconclusive == 0 for row in rows)
    assert curves.oracle_wrong == 0
    tightest = {row.id: row.tightest for row in rows}
    for id in ("R6.1", "R6.3", "R6.4", "R6.5"):
        assert tightest[id] is not None
        assert 0.999 < tightest[id] <= 1
    path = r6.rates_figure(curves, tmp_path / "rates.png")
    assert path.stat().st_size > 10_000


def test_fresh_kl_of_parity_is_infinite():
    """δ of F5 under the hybrids is infinite from the second update on: the fresh bound says nothing there."""
    q = exact_numbers(exact_stage(parity_stage(3, 0.125, 0.75)))
    assert q["kl"][0] is not None
    assert q["kl"][1:] == [None, None]
    assert all(kl.overlaps(arb(fmpq(1, 4)) * opening_kl(fmpq(1, 8))) for kl in q["kl_stale"])


def test_running_count_crossover():
    """R2: exact at every n and p; exponent 1 while steps are rare, ½ when mixed; √(2/e) is the best ratio of rare steps."""
    row, found = r2.run((1, 2, 4, 8, 16, 32, 64))
    assert row.violations == 0
    half, rare = found.exponents[0], found.exponents[-1]
    assert abs(half[-1] - 0.5) < 0.02
    assert rare[0] > 0.99
    assert found.ratios.max() <= 1
    assert found.ratios[0, 0] == 1.0  # one fair toss: TV = ε, and S3 says ε
    scaled = [r2.shift_coefficient(n, fmpq(1, 2 * n)) for n in (8, 64)]  # np = ½
    limits = [
        2 * float(c.p) / float(c.q) * (1 / (2 * n) * (1 - 1 / (2 * n)) / n) ** 0.5
        for c, n in zip(scaled, (8, 64), strict=True)
    ]
    assert abs(limits[1] - (2 / np.e) ** 0.5) < abs(limits[0] - (2 / np.e) ** 0.5) < 0.05


def test_a_wrong_coefficient_is_found(monkeypatch):
    monkeypatch.setattr(r2, "shift_coefficient", lambda n, p: n * (1 - p) ** (n - 1))  # true only while np < 1
    assert r2.run((1, 2, 4))[0].violations > 0
