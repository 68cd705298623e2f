"""What the simulations and searches of theory/ count and say, by value: S8, S11, S12, S13, U1, U4 on numbers that are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from flint import arb, fmpq
from scipy.stats import beta, binom

from teamtr_jax import finite_sample as fs
from teamtr_jax.schedules import fresh, joint, once, stale_occupancy
from teamtr_jax.trust_region import value_weighted
from theory.studies import s8, s8_anytime, s8_networks, s11, s12, s13, u1, u4


def clopper_pearson(covered, repeats):
    """95 %, by the beta quantiles."""
    low = beta.ppf(0.025, covered, repeats - covered + 1) if covered else 0.0
    high = beta.ppf(0.975, covered + 1, repeats - covered) if covered < repeats else 1.0
    return low, high


def refuted_from(level, repeats):
    """The least number of misses that a level is refuted by."""
    return next(k for k in range(repeats + 1) if clopper_pearson(repeats - k, repeats)[1] < 1 - level)


# ------------------------------------------------------------------------------------------------------------ S8, fixed numbers

SHORT = s8.relay("a team", 2, 0.02, 0.5)


def test_a_row_of_coverage(monkeypatch):
    """A cell is refuted where its whole interval lies below 1 − α; the note has the worst share of misses in units of α."""
    repeats = 200
    counts = {0.2: 150, 0.1: 168, 0.05: 185, 0.01: 198}  # .05 is worst in units of α: 15 of 10
    cells = [s8._Cell(f"limit, α = {a:g}", a, k, *clopper_pearson(k, repeats)) for a, k in counts.items()]
    wrong = [a for a, k in counts.items() if repeats - k >= refuted_from(a, repeats)]
    assert wrong == [0.1]
    plan = s8._Plan(repeats, 100, 3, [SHORT, SHORT], [SHORT])
    found = s8._Counted({"a team": (100, 250)}, {"a team": {}}, {"a team": {m.name: 250 for m in s8.LIMITS}}, {})
    found.needed["a team"]["path, betting"] = None
    same = {"same rollouts": (20, repeats), "other rollouts": (190, repeats)}
    monkeypatch.setattr(s8, "_plan", lambda quick, rng, thorough: plan)
    monkeypatch.setattr(s8, "_coverage", lambda plan, rng: ({}, cells))
    monkeypatch.setattr(s8, "_counted", lambda plan, quick, rng, thorough: found)
    monkeypatch.setattr(s8, "same_data_coverage", lambda rng, repeats, prompts, alpha: same)
    row, data = s8.run(True, np.random.default_rng(0))
    assert (row.id, row.evidence, row.violations, row.checks, row.instances) == ("S8", "simulated", 1, 4, 2 * repeats)
    assert row.tightest == pytest.approx(max((1 - clopper_pearson(k, repeats)[1]) / a for a, k in counts.items()))
    assert row.detects == pytest.approx(min(refuted_from(a, repeats) / (repeats * a) - 1 for a in s8.ALPHAS))
    low, high = ((1 - x) / 0.1 for x in clopper_pearson(168, repeats)[::-1])
    assert f"largest share of misses per α: 1.60 [{low:.2f}, {high:.2f}]" in row.note
    assert "of that one cell (limit, α = 0.1)" in row.note
    assert "200 repetitions of 200 rollouts per team" in row.note
    assert "path, betting more than 250" in row.note
    assert "message, betting 250" in row.note
    assert "10.0% [6.2%, 15.0%] covered at α = 0.1; on others 95.0% [91.0%, 97.6%]" in row.note
    assert data.same_data == same


def test_coverage_is_of_the_true_improvement(monkeypatch):
    """Each limit at each level against the improvement of the team; no bounded ratio where there is none."""
    asked = []

    def exceeds(limit, sample, mean, level):
        asked.append((limit.name, mean, level))
        return np.arange(50) < 50 * level

    opening = s8.opening("opened", 0.3)
    monkeypatch.setattr(s8, "samples", lambda task, rng, *_: {m.name: None for m in s8.LIMITS})
    monkeypatch.setattr(s8, "exceeds", exceeds)
    table, cells = s8._coverage(s8._Plan(50, 10, 1, [SHORT, opening], []), np.random.default_rng(0))
    names = [m.name for m in s8.LIMITS]
    free = [name for name in names if name != "bounded ratio, betting"]
    assert asked == [(name, SHORT.improvement, a) for name in names for a in s8.ALPHAS] + [
        (name, opening.improvement, a) for name in free for a in s8.ALPHAS
    ]
    assert all(of == {0.2: 40, 0.1: 45, 0.05: 47, 0.01: 49} for each in table.values() for of in each.values())
    assert [(x.covered, x.least, x.most) for x in cells[:2]] == [
        (k, *(pytest.approx(x) for x in clopper_pearson(k, 50))) for k in (40, 45)
    ]


def test_harmful_updates_are_among_the_teams():
    """The same update backwards loses what it gains forwards."""
    plan = s8._plan(True, np.random.default_rng(0), False)
    assert plan.covering[1].improvement == pytest.approx(-plan.covering[0].improvement)
    assert plan.covering[0].improvement > 0


def test_a_limit_exceeds_a_mean_where_it_is_larger():
    rng = np.random.default_rng(3)
    sample = fs.Sample(rng.choice([-0.2, 0.3], (60, 40)), -0.2, 0.3)
    for limit, bound in ((s8.LIMITS[0], fs.bernstein_bound), (s8.LIMITS[1], fs.betting_bound)):
        for mean in (-0.1, 0.0, 0.02):
            found = s8.exceeds(limit, sample, mean, 0.2)
            np.testing.assert_array_equal(found, bound(sample, 0.2) > mean)
    assert s8.exceeds(s8.LIMITS[1], sample, 0.02, 0.2).any()
    assert not s8.exceeds(s8.LIMITS[1], sample, -0.2, 0.2).any()


def test_enough_is_where_nine_in_ten_stay_positive(monkeypatch):
    """Not at the first size where they are, if they are not at a later one."""
    shares = {2: 0.95, 4: 0.5, 8: 0.9, 16: 1.0}
    seen = []

    def exceeds(limit, sample, mean, alpha):
        seen.append((sample.values.shape[1], mean, alpha))
        return np.arange(20) < 20 * shares[sample.values.shape[1]]

    monkeypatch.setattr(s8, "samples", lambda *_: {s8.LIMITS[0].name: fs.Sample(np.zeros((20, 16)), -1.0, 1.0)})
    monkeypatch.setattr(s8, "exceeds", exceeds)
    (found,) = s8._positive(SHORT, np.random.default_rng(0), 20, (4, 8, 16, 32), 2, 0.05, s8.LIMITS[:1])
    assert found == (s8.LIMITS[0].name, [0.95, 0.5, 0.9, 1.0], 16)
    assert seen == [(size, 0.0, 0.05) for size in shares]


@pytest.mark.parametrize(("quick", "thorough"), [(True, False), (False, False), (False, True)])
def test_how_long_rollouts_are_counted(monkeypatch, quick, thorough):
    """Up to 50,000 of a team of two messages, 20,000 of up to sixteen, 5,000 of more; the first team at other group sizes."""
    asked = []

    def positive(task, rng, repeats, sizes, group, alpha):
        asked.append((len(task.speaks), repeats, sizes[-1], group, alpha))
        return [("a limit", [0.5], sizes[0])]

    monkeypatch.setattr(s8, "_positive", positive)
    tasks = [SHORT._replace(name=str(k), speaks=tuple(range(k))) for k in (2, 16, 64)]
    found = s8._counted(s8._Plan(1, 1, 33, [], tasks), quick, np.random.default_rng(0), thorough)
    most = 20_000 if quick else 50_000
    groups = [] if quick else [(2, 40 if thorough else 20, 50_000, size, 0.1) for size in (1, 16)]
    assert asked == [(2, 33, most, 4, 0.1), (16, 20, 20_000, 4, 0.1), (64, 20, 5_000, 4, 0.1), *groups]
    assert found.needed == {name: {"a limit": 100} for name in ("2", "16", "64")}
    assert found.groups == {size: {"a limit": 100} for *_, size, _ in groups}
    assert {name: sizes[-1] for name, sizes in found.sizes.items()} == {"2": most, "16": 20_000, "64": 5_000}


# ------------------------------------------------------------------------------------------------------ S8, any number of prompts


def test_a_row_of_optional_stopping(monkeypatch):
    """Refuted: a team on which the anytime limit is kept too seldom, and a coin team on which its error is above α."""
    repeats = 500
    enough = repeats - refuted_from(0.1, repeats)
    kept = iter([enough + 1, enough, 500, 500])
    monkeypatch.setattr(
        s8_anytime, "_kept", lambda *_: {"anytime": next(kept), s8_anytime.RULES[1]: 0, s8_anytime.RULES[2]: 0}
    )
    monkeypatch.setattr(s8_anytime, "_saved", lambda task, *_: s8_anytime.Saved(
        0.125, np.arange(1.0, 11.0), 42, None, (25, 30)
    ))  # fmt: skip
    monkeypatch.setattr(s8_anytime, "thresholds", lambda rule, alpha, prompts: rule)
    monkeypatch.setattr(s8_anytime, "replanned", lambda rng, streams, sizes, alpha: 40)
    error = dict(zip(s8_anytime.RULES, (0.101, 0.9, 0.9), strict=True))
    monkeypatch.setattr(s8_anytime, "ever", lambda rule: np.linspace(0, error[rule], 10_000))
    row, _ = s8_anytime.run(True, np.random.default_rng(0))
    assert (row.violations, row.checks, row.instances) == (1 + 1, 4 + 1, 4 * repeats)
    assert row.tightest == pytest.approx(1.01)
    assert row.detects == pytest.approx(refuted_from(0.1, repeats) / 50 - 1)
    assert "anytime 0.001 at 100, 0.101 at 10,000" in row.note
    low, high = clopper_pearson(160, 800)
    assert f"betting limit planned anew at 7 doublings of B: 0.200 [{low:.3f}, {high:.3f}]" in row.note
    low, high = clopper_pearson(enough, repeats)
    assert f"anytime {enough / repeats:.1%} [{low:.1%}, {high:.1%}]" in row.note
    assert (
        "(improvement 0.1250): anytime 6 [2, 9], nine in ten by 9, fixed B betting 42, Bernstein more than 30"
        in row.note
    )
    kept, error["anytime"] = iter([500] * 4), 0.1
    assert s8_anytime.run(True, np.random.default_rng(0))[0].violations == 0


def test_streams_in_which_a_limit_is_kept(monkeypatch):
    """Fifty at a time; the anytime limit on path weights, Bernstein's on truncated ones, the normal one from 30 prompts on."""
    prompts = 40
    up = np.where(np.arange(50)[:, None] < 10, 0.2, -0.2) * np.ones(prompts)
    path, truncated = fs.Sample(up, -0.2, 0.2), fs.Sample(-np.ones((50, prompts)), -1.0, 1.0)
    monkeypatch.setattr(s8_anytime, "_streams", lambda *_: (path, truncated))
    team = SimpleNamespace(improvement=0.0)
    kept = s8_anytime._kept(team, np.random.default_rng(0), 150, prompts)
    assert kept == dict(zip(s8_anytime.RULES, (3 * 40, 150, 3 * 40), strict=True))
    early = np.where(np.arange(prompts) < 16, up, -0.2)  # up for 16 prompts, at which the normal limit does not look
    monkeypatch.setattr(
        s8_anytime, "_streams", lambda *_: (path._replace(values=early), truncated._replace(values=0 * up + 0.9))
    )
    found = s8_anytime._kept(team, np.random.default_rng(0), 100, prompts)
    assert (found[s8_anytime.RULES[1]], found[s8_anytime.RULES[2]]) == (0, 100)


def test_prompts_until_a_limit_is_positive(monkeypatch):
    """The first prompt is number 1; infinite if never; a fixed number is enough where it and all later ones are."""
    values = np.zeros((60, 40))
    monkeypatch.setattr(
        s8_anytime, "_streams", lambda *_: (fs.Sample(values, -1.0, 1.0), fs.Sample(values + 1, -1.0, 1.0))
    )
    found = np.full((60, 40), -1.0)
    found[0, 0], found[1, 6:8], found[59, 39] = (math.log(1 / s8_anytime.ALPHA),) * 3
    monkeypatch.setattr(
        fs, "anytime_log_capital", lambda sample, mean: found[-10:] if len(sample.values) == 10 else found[:50]
    )
    asked = []

    def exceeds(limit, sample, mean, alpha):
        asked.append((limit.bound, bool(sample.values.any()), sample.values.shape[1], mean, alpha))
        size = sample.values.shape[1]
        return np.arange(10) < (10 if size in (25, 36) and limit.bound == "betting" else 8)

    monkeypatch.setattr(s8, "exceeds", exceeds)
    saved = s8_anytime._saved(SimpleNamespace(improvement=0.5), np.random.default_rng(0), 60, 40)
    assert saved.sizes == (25, 30, 36)
    assert (saved.first[0], saved.first[1], saved.first[59]) == (1, 7, 40)
    assert np.isinf(saved.first[2:59]).all()
    assert (saved.betting, saved.bernstein) == (36, None)
    assert asked == [
        (bound, bound == "bernstein", size, 0.0, 0.1) for bound in ("betting", "bernstein") for size in (25, 30, 36)
    ]


# ------------------------------------------------------------------------------------------------------------------ S8, networks


def test_transcripts_are_drawn_from_the_law_in_groups(monkeypatch):
    """One prompt for a group where chance writes the first symbol; refuted by what had probability 1e-6."""
    leaves, repeats, prompts = 2**s8_networks.networks.HORIZON, 200, 20
    rng = np.random.default_rng(5)
    p, q = rng.dirichlet(np.ones(leaves), (2, 2))
    nodes, last = leaves - 1, slice(leaves // 2 - 1, leaves - 1)
    reward = np.zeros((2, nodes, 2))
    reward[:, last] = np.arange(leaves).reshape(-1, 2) / leaves
    active = np.zeros((2, nodes), int)
    active[1, 0] = -1  # of the second team chance draws the first symbol
    team = SimpleNamespace(active=active, reward=reward)
    stages = SimpleNamespace(
        team=team, order=np.zeros((2, 2), int), current=np.zeros((2, nodes, 2)), target=np.zeros((2, nodes, 2))
    )
    laws, asked = iter([p, q]), []
    monkeypatch.setattr(s8_networks.networks, "make", lambda rng: stages)
    monkeypatch.setattr(s8_networks.jax.tree, "map", lambda f, x: x)
    monkeypatch.setattr(s8_networks.programs, "run", lambda f, x, quick: next(laws))
    monkeypatch.setattr(fs, "log_sample", lambda reward, ratio, high: asked.append((reward, ratio, high)))
    limit = 1 + binom.isf(1e-6, repeats, 0.1)
    above = iter([0, limit - 1, limit, 200])
    said = lambda sample, alpha: np.where(np.arange(repeats) < next(above), 1.0, -1.0)  # noqa: E731
    monkeypatch.setattr(fs, "bernstein_bound", said)
    monkeypatch.setattr(fs, "betting_bound", said)
    row = s8_networks.run(np.random.default_rng(0), 2, repeats, prompts, 2)
    assert (row.violations, row.checks, row.instances) == (2, 4, 2 * repeats)
    assert (row.tightest, row.detects) == (10, pytest.approx(limit / 20 - 1))
    harmful = sum((q[b] - p[b]) @ np.arange(leaves) < 0 for b in range(2))
    assert f"2 neural updates ({harmful} harmful), 200 repetitions of 20·2 transcripts" in row.note
    assert f"200 misses at most (betting), {limit:.0f} would refute" in row.note
    for b, (drawn, ratio, high) in enumerate(asked):
        leaf = np.rint(drawn * leaves).astype(int)
        assert (leaf.shape, high) == ((repeats, prompts, 2), 2.0)
        np.testing.assert_allclose(ratio[..., 0], np.log(q[b] / p[b])[leaf])
        share = np.bincount(leaf.ravel(), minlength=leaves) / leaf.size
        assert abs(share - p[b]).max() < 0.03
        halves = leaf // (leaves // 2)
        assert (halves[..., 0] == halves[..., 1]).all() == (b == 1)


# ------------------------------------------------------------------------------------------------------------------------- S11


def test_what_breaks_s11_is_counted(monkeypatch):
    """Stages that do not keep what is proved, costs above 2/(m+2), trees whose ratio is not 1/D_m."""
    stages = []
    monkeypatch.setattr(s11, "climb", lambda n, rng, *effort, before: stages.append(before) or n)
    monkeypatch.setattr(s11, "in_order_stage", lambda m: -m)
    costs, held = s11.in_order_costs(s11.DEPTH), True
    monkeypatch.setattr(s11, "enclosed_ratio", lambda stage: (arb(1.5) if stage > 0 else 1 / costs[-stage], held))
    row, found = s11.run(True, np.random.default_rng(0))
    assert (row.violations, row.checks, row.instances) == (0, 2 * 4 + s11.DEPTH, 4)
    assert stages == [None, 2]
    assert found.ratios.tolist() == [1.5, 1.5]
    assert "n = 2: 1.500, 3: 1.500" in row.note
    held = False
    assert s11.run(True, np.random.default_rng(0))[0].violations == 4
    held, right = True, list(costs)
    costs = [2 * cost for cost in right]
    assert s11.run(True, np.random.default_rng(0))[0].violations == 2
    costs = right
    monkeypatch.setattr(s11, "in_order_costs", lambda depth: [2 * cost for cost in right])
    above = sum(2 * float(cost) * (m + 2) > 2 for m, cost in enumerate(right) if m)
    assert above > 10
    assert s11.run(True, np.random.default_rng(0))[0].violations == above + 2


@pytest.mark.parametrize(("whole", "holds"), [(fmpq(3, 2), True), (fmpq(8, 5), False)])
def test_the_square_is_at_most_the_product_of_both_orders(monkeypatch, whole, holds):
    """Fresh steps add up to ½ + ½, in the opposite order to 9/4: H² is at most 3/2."""
    fresh = iter([[fmpq(1, 2)] * 2, [fmpq(9, 4)]])
    monkeypatch.setattr(s11, "exact_stage", lambda stage: stage)
    monkeypatch.setattr(s11, "Solved", lambda stage: stage)
    monkeypatch.setattr(s11, "order_distances", lambda stage: (whole, next(fresh)))
    ratio, found = s11.enclosed_ratio(s11.in_order_stage(1))
    assert (float(ratio), found) == (float(whole.p) / float(whole.q), holds)


# ------------------------------------------------------------------------------------------------------------------------- S12


def laws_of(rows):
    """One transcript each, whose "laws" are numbers: (π, π', μ, μ', R, gap, penalty)."""
    x = np.array(rows, float)
    engines = len(s12.ENGINES)
    sampler = np.repeat(np.stack([x[:, 2], x[:, 3]], 1)[:, None, :, None], engines, 1)
    sides = {name: np.repeat(x[:, k, None], engines, 1) for name, k in (("gap", 5), ("penalty", 6))}
    sides |= {"rounding": np.full((len(x), engines), 1e-9), "kl_sampler_to_current": np.full((len(x), engines), 0.25)}
    return s12.Laws(sampler, np.stack([x[:, 0], x[:, 1]], 1)[..., None], x[:, 4:5], SimpleNamespace(**sides))


def test_what_is_above_the_truth_is_counted_and_what_is_accepted():
    """Of numbers that no team has: S12's certificate ln 2 for a gain of 0; S9's 0 for a loss of 1; a gap above its bound."""
    fine = (0.5, 0.5, 0.5, 0.5, 1.0, 0.25, 0.5)
    rows = [
        fine,
        (2, 2, 1, 1, 1, 0, 0),
        (1, 1, 1, 2, -1, 0, 0),
        (1, 1, 1, 1, 1, 1 + 2e-9, 1),
        (1, 1, 1, 1, 1, 1 + 5e-10, 1),
    ]
    engine = s12.judged(laws_of(rows))[0]
    assert engine.above == 3
    assert engine.bound == pytest.approx(1, abs=1e-8)
    assert engine.kl == 0.25
    # deployed: μ' − π' is −c/2 and −5c; and both are worse than μ
    c = s12.TOLERANCES[1]
    assert s12.TOLERANCES == (0.0, 1e-3)
    rows = [(1, 1, 1 + c, 1 - c / 2, 1, 0, 1), (1, 1, 1 + c, 1 - 5 * c, 1, 0, 1), (1, 1 + c, 1, 1 - c / 4, 1, 0, 1)]
    engine = s12.judged(laws_of(rows))[0]
    assert (engine.proxy, engine.proxy_worse) == ([0, 1], [0, 1])
    assert (engine.worse, engine.misled, engine.missed) == (3, 1, 0)
    hidden = s12.judged(laws_of([(0.125, 0.125, 0, 0, 1, 0, 1), (0.25, 0.25, 0.25, 0.25, 1, 0, 1)]))[0]
    assert hidden.missed == 0.125
    small = s12.judged(laws_of([(1, 1 + 1e-6, 1, 1 + 1e-6, 1, 0, 1)]))[0]
    assert (small.certified, small.deployed, small.worse) == (1, 1, 0)


def test_a_line_of_the_page():
    """Every count under its heading; 1.96 standard deviations of half of the updates."""
    engine = s12.Engine("an engine", 0.012345, 0.5, 0.98765, 99, 1, 2, 3, 4, [5, 6], [7, 8], 9, 10)
    head, _, line = (x.strip("| ").split(" | ") for x in s12.as_table([engine], 400).splitlines()[4:])
    assert dict(zip(head, line, strict=True)) == {
        "sampler μ": "an engine", "K(μ,π), mean": "0.012", "π where μ never is": "0.5", "gap / bound of S12": "0.988",
        "S12 > 0": "1", "taken for π: too large": "2", "π gains, μ loses": "3", "μ loses": "4", "gap proxy accepts, c = 0": "5",
        "of these μ loses, c = 0": "7", "gap proxy accepts, c = 0.001": "6", "of these μ loses, c = 0.001": "8",
        "S9 of μ' over μ > 0": "9", "of these μ loses": "10",
    }  # fmt: skip
    assert "400 updates of small" in (page := s12.as_table([engine], 400))
    assert "differs by at most 20 from the mean" in page  # 1.96·√(400/4) = 19.6


# ------------------------------------------------------------------------------------------------------------------------- S13


def constants(monkeypatch, doors, trees, decided, closed=None):
    """A quick run, γ = .01 and .1, with these ratios of stages."""
    ratios = iter([x for pair in zip(doors, trees, strict=True) for x in pair])
    monkeypatch.setattr(s13, "door", lambda gamma: gamma)
    monkeypatch.setattr(s13, "paid_door_stage", lambda step, gamma: gamma)
    monkeypatch.setattr(s13, "sure_ratio", lambda stage: next(ratios))
    by = dict(zip(s13.GAMMAS, closed or doors, strict=False))
    monkeypatch.setattr(s13, "paid_door_ratio", lambda step, gamma: by[gamma])
    monkeypatch.setattr(s13, "climb", lambda gamma, rng, **effort: gamma)
    monkeypatch.setattr(s13, "coins_ratio", lambda sizes, gamma: fmpq(1, 20))
    upper = s13.Upper(fmpq(1, 100), fmpq(decided, 1000), fmpq(1, 10), 7)
    monkeypatch.setattr(s13, "upper_constant", lambda gamma: upper if gamma == s13.rational(0.01) else None)
    return s13.run(True, np.random.default_rng(0))


def test_what_breaks_s13_is_counted(monkeypatch):
    """A stage above what is decided, or above 1; doors that are not above γ; a closed form that is not the ratio of its stage."""
    row, found = constants(monkeypatch, (0.02, 0.11), (0.06, 0.25), 70)
    assert (row.violations, row.checks, row.instances) == (0, 3 * 2 + 1, 3 * 2)
    assert row.tightest == 0.25
    assert found.lower.tolist() == [0.06, 0.25]
    assert row.note == (
        "γ = 0.01: doors 0.0200, coins → 0.0500, tree 0.0600; at most 0.0700; "
        "γ = 0.1: doors 0.1100, coins → 0.0500, tree 0.2500; at most 1 (S7)"
    )
    assert constants(monkeypatch, (0.02, 0.11), (0.06, 0.25), 59)[0].violations == 1
    assert constants(monkeypatch, (0.02, 0.11), (0.06, 1.25), 70)[0].violations == 1
    assert constants(monkeypatch, (0.02, 0.11), (0.01, 0.25), 49)[0].violations == 1  # the coins
    assert constants(monkeypatch, (0.01, 0.1), (0.06, 0.25), 70)[0].violations == 2
    assert constants(monkeypatch, (0.02, 0.11), (0.06, 0.25), 70, (0.02, 0.11 + 2e-9))[0].violations == 1


# -------------------------------------------------------------------------------------------------------------------------- U1


def test_shares_of_the_improvement(monkeypatch):
    """(L − penalty)/improvement, the least penalty's is the largest; above it beyond rounding is counted, within it no share."""
    report = SimpleNamespace(
        surrogate_intermediate=np.array([0.5, 9.0]),
        rounding=SimpleNamespace(fresh=np.array([0.125, 9.0]), relative=2.0**-5),
    )  # a budget of 1/8 + 8·2⁻⁵·½ = 1/4
    for improvement, shares, above in (
        (0.4, {"a": 0.25, "b": 1.0, "c": 1.75, "least": 1.75}, 2), (0.5, {"a": 0.2, "b": 0.8, "c": 1.4, "least": 1.4}, 0),
        (0.25, dict.fromkeys(("a", "b", "c", "least"), math.nan), 2),
    ):  # fmt: skip
        monkeypatch.setattr(
            u1, "certified_step", lambda *_, x=improvement: SimpleNamespace(report=report, improvement=x)
        )
        monkeypatch.setattr(u1, "ladder", lambda report, rungs: {
            "a": np.array([0.4, 0.0]), "b": np.array([0.1, 0.0]), "c": np.array([-0.2, 0.0])
        })  # fmt: skip
        found, exceeding = u1._shares(None, None, 0.1)
        assert {name: float(x) for name, x in found.items()} == pytest.approx(shares, nan_ok=True)
        assert int(exceeding) == above
    names = {rung.name: rung for rung in u1.RUNGS}
    assert names["certificate_weighted"] is u1.WEIGHTED
    monkeypatch.setattr(u1, "certificate_weighted", lambda report: np.array([0.25, 8.0]))
    np.testing.assert_allclose(u1.WEIGHTED.fn(report), [0.25, 1.0])  # L less the certificate


def test_a_row_of_certified_shares(monkeypatch):
    """Teams by γ, radius by radius; certificates above the truth are counted; positive ones of those that have an improvement."""
    instances, radii = 3, len(u1.RADII)
    names = [rung.name for rung in u1.RUNGS] + ["least"]
    share = {name: np.full((radii, 9), 0.5) for name in names}
    share["penalty_log_sum"] = np.tile(np.repeat([0.125, 0.25, 0.75], instances), (radii, 1))
    share["penalty_paper"] = np.full((radii, 9), -1.0)
    share["penalty_paper"][:, :3] = 1.0  # γ = ½, which is not counted
    share["penalty_paper"][0, 3:6] = 0.5, math.nan, -1.0
    exceeding = np.zeros((radii, 9), int)
    exceeding[0, 0], exceeding[3, 8] = 2, 1
    monkeypatch.setattr(u1, "random_stages", lambda *_, **__: SimpleNamespace(team=None, current=None))
    world = {name: np.full(radii, -0.5) for name in names}, np.eye(radii, 1)[:, 0]

    def run(f, team, policy, at, quick=False):
        assert (at == u1.RADII).all()
        if f is u1._shares_of_many:
            return share, exceeding
        assert (np.asarray(policy) == 0.5).all()
        return world

    asked = []
    monkeypatch.setattr(u1.programs, "run", run)
    monkeypatch.setattr(
        u1,
        "gymnasium_team",
        lambda *given, **more: asked.append((given, more)) or SimpleNamespace(reward=np.zeros((4, 2))),
    )
    row, curves = u1.run(instances, np.random.default_rng(0), (("a world", 3),))
    assert asked == [(("a world", 3), {"discount": 0.9, "drop_time_limit": True})]
    assert (row.violations, row.instances, row.checks) == (3 + 1, 10 * radii, len(names) * 10 * radii)
    assert {kind: float(of["penalty_log_sum"].mean()) for kind, of in curves.shares.items()} == {
        "random, γ = 0.5": 0.125, "random, γ = 0.9": 0.25, "random, γ = 0.99": 0.75, "a world × 3, γ = 0.9": -0.5
    }  # fmt: skip
    every = 7 * radii  # three teams of two discounts, and the world
    assert f"paper 1 of {every - 1}, S2 {6 * radii} of {every}, least rung {6 * radii} of {every}" in row.note
    assert "random, γ = 0.9, δ = 0.001: S4 0.50 [0.50, 0.50]" in row.note
    assert "S7 0.25 [0.25, 0.25]" in row.note
    assert curves.information["certificate_weighted"] == "estimable"


# -------------------------------------------------------------------------------------------------------------------------- U4


def test_what_theorems_forbid_is_counted(monkeypatch):
    """One update of three loses and no stage: counted on fresh and stale rollouts where contexts are told apart, or weighted."""
    drawn, weighted = [], value_weighted()
    monkeypatch.setattr(u4, "value_weighted", lambda: weighted)

    def play(team, policy, step, schedule, stages):
        j = np.zeros((stages, 4, 5))
        j[:] = np.array([0.0, -1e-9, 1.0, 2.0])[:, None]
        if step is not weighted and schedule is not fresh and team is None:
            j[-1, -1] = 1.75  # an eighth of the growth
        return j

    def group(rng, teams, labels):
        drawn.append(rng.random())
        return labels, None

    monkeypatch.setattr(u4, "play", play)
    monkeypatch.setattr(u4, "GROUPS", {"mine": group})
    row, found = u4.run(np.random.default_rng(0), None, 5, 1, ("mine",), (0.1, 0.5))
    labels, radii = len(u4.LABELS), 2
    apart = radii * (5 + 5 + 0)  # an update of fresh, one of stale; cached: of stages, none
    anywhere = labels * 5  # value-weighted: an update on fresh rollouts; of stages of all at once none
    assert row.violations == apart + anywhere
    assert row.checks == 192 + radii * (15 + 15 + 5) + labels * (15 + 5)
    assert len(set(drawn)) == 1  # the same teams, whatever they see
    assert found.cells["mine", None, 0.5, "cached"].lost == pytest.approx((0.125,) * 3)
    assert found.cells["mine", 1, 0.5, "cached"].lost == (0, 0, 0)
    assert found.cells["mine", None, 0.1, "fresh"].updates == pytest.approx((1 / 3,) * 3)
    assert (
        "mine: lost stale 0.0 [0.0, 0.0] %, cached 0.0 [0.0, 0.0] %, updates worse fresh 33.3 [33.3, 33.3] %"
        in row.note
    )
    assert "all told apart: lost 12.5 % at most, either way" in row.note
    assert {name: u4.SCHEDULES[name] for name in ("fresh", "stale", "cached")} == dict(
        fresh=fresh, stale=stale_occupancy, cached=once
    )
    assert joint is u4.joint
